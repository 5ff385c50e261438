"""
`overnight run`: point it at folders, and every recording under them gets a transcript.

    roots -> output, state, lock -> service -> ledger -> batch -> derived files -> summary

In: folders and settings. Out: results in the output folder, the run's events, and its summary,
which accounts for every recording found.
"""

import os
import secrets
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
from anyio import BrokenResourceError, to_thread

from pipeline.batch import run_batch
from pipeline.client import Client
from pipeline.errors import BatchError, ExitCode, OutputNotWritable, SettingsError
from pipeline.events import (
    Completed,
    Emit,
    Event,
    Parked,
    RunStarted,
    Submitted,
    Summary,
    Warned,
    encode,
)
from pipeline.intake import Intake
from pipeline.ledger import Ledger, Redo, Run
from pipeline.ledger.lock import lock
from pipeline.limiter import Limiter
from pipeline.logs import hide
from pipeline.options import DEFAULT_SPEECH_MODELS
from pipeline.progress import EventFile
from pipeline.settings import Settings, key_fingerprint, require_key
from pipeline.stages import Context
from pipeline.stages.scan import Listing, Scan, find_roots
from pipeline.stages.write import render_lacking

__all__ = ["run_folder", "sample_folder"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Service:
    """Whom a run talks to."""

    url: str
    name: str
    """What the ledger calls it: the URL, or `local`, whose port is a new one each time."""
    key: str


def sample_folder() -> Path:
    """The recordings that come with the program, what is said in them beside each."""
    return Path(str(files("jobs").joinpath("samples")))


async def run_folder(
    folders: Sequence[Path],
    settings: Settings,
    *,
    sample: bool = False,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
) -> Summary:
    """
    Transcribe the folders, and tell how it went; every fact goes to `emit` as it happens.

    `environ` is where the API key may be.

    SIGINT and SIGTERM stop the intake and leave within `stop_grace`; a second one leaves now.

    Raises:
        SettingsError: a folder cannot be read, or nothing says where results go.
        OutputNotWritable: results could not be saved there.
        KeyRefused: there is no API key, and the provider needs one.
        Locked: another run works in the same state folder.
        LedgerUnusable: the ledger is damaged, or newer than this program.
    """
    began = time.monotonic()
    given = [sample_folder()] if sample else folders
    listed = await to_thread.run_sync(_listed, settings.files_from)
    if not given and listed is None:
        raise SettingsError("which recordings? Name a folder, or `--sample`")
    roots = await to_thread.run_sync(find_roots, [str(folder) for folder in given or [Path()]])
    settings, key = _with_model(settings), ""
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    async with AsyncExitStack() as stack:
        if settings.dry_run:
            state = Path(await stack.enter_async_context(_beside(tempfile.TemporaryDirectory)))
            started_at = 0.0
            await to_thread.run_sync(_copy_ledger, settings, state)
        else:
            if settings.provider != "local":
                key = await to_thread.run_sync(require_key, settings, environ)
            state = settings.state_dir
            started_at = await to_thread.run_sync(_prepare, settings, state)
            await stack.enter_async_context(lock(state / "lock", wait=settings.wait_lock))
            if settings.wait_lock:  # whoever held it may have left something since
                started_at = await to_thread.run_sync(_prepare, settings, state)
            await to_thread.run_sync(_sweep, os.fsencode(state / "versions"), started_at)
        folder = state / "runs" / run_id
        await to_thread.run_sync(lambda: folder.mkdir(parents=True))
        facts = await stack.enter_async_context(_beside(EventFile, folder / "events.ndjson"))
        totals = _Totals(emit, facts)
        service = await stack.enter_async_context(_service(settings, state, key))
        hide(service.key)
        run = Run(
            run_id=run_id,
            provider_kind=settings.provider_kind,
            base_url=service.name,
            key_fingerprint=key_fingerprint(service.key),
        )
        ledger = await stack.enter_async_context(
            Ledger(state / "ledger.sqlite3", run, journal=folder / "attempts.ndjson")
        )
        await ledger.recover()
        emit_all: Emit = totals
        emit_all(
            RunStarted(
                run_id=run_id,
                version=await to_thread.run_sync(version, "overnight"),
                provider=settings.provider,
                output=str(settings.output),
            )
        )
        for address, count in await ledger.elsewhere():
            emit_all(Warned(message=f"{count} transcripts are open at {address}, and stay there"))
        limiter = Limiter(
            int(settings.requests.count * settings.share),
            settings.requests.window_s,
            ramp=settings.ramps,
            earlier=await ledger.earlier_requests(settings.requests.window_s),
        )
        client = await stack.enter_async_context(
            Client(
                service.url,
                service.key,
                limiter,
                connect_s=settings.timeouts.connect,
                stall_s=settings.timeouts.stall,
                answer_s=settings.timeouts.answer,
                max_answer_bytes=settings.max_answer,
            )
        )
        context = Context(
            settings=settings,
            ledger=ledger,
            client=client,
            intake=Intake(settings.in_flight, settings.uploads),
            emit=emit_all,
            roots={root.name: root for root in roots},
        )
        scan = Scan(
            settings,
            roots,
            listing=Listing(os.fsencode(str(settings.output)), started_at),
            leave_out=[os.fsencode(settings.output or ""), os.fsencode(settings.state_dir)],
            listed=listed,
        )
        redo = Redo(
            force=settings.force,
            changed=settings.redo_changed,
            failed=settings.retry_failed,
            checksum=settings.checksum,
        )
        if settings.dry_run:
            await scan.run(ledger, redo, emit_all)
            # In the copy: so what a redo would ask for is counted as such.
            while (due_in_s := await ledger.next_due()) is not None and due_in_s <= 0:
                await ledger.claim(1000)
            rendered = 0
        else:
            await _until_stopped(context, scan, redo)
            rendered = await render_lacking(context) if context.intake.is_open else 0
        with suppress(BatchError):  # said already, if the ledger cannot be written
            await ledger.record_requests(limiter.take_unrecorded(), settings.requests.window_s)
        summary = await _summary(context, scan, totals)
        summary.run_id = run_id
        summary.rendered = rendered
        summary.elapsed_s = round(time.monotonic() - began, 3)
        emit_all(summary)
        with suppress(OSError):  # a full disk is said in the summary, which went to stdout
            await to_thread.run_sync((folder / "summary.json").write_bytes, encode(summary) + b"\n")
    return summary


@asynccontextmanager
async def _beside(
    opened: Callable[P, AbstractContextManager[T]], *args: P.args, **kwargs: P.kwargs
) -> AsyncIterator[T]:
    """What a blocking context manager gives, made, entered and left in a thread."""
    context = await to_thread.run_sync(partial(opened, *args, **kwargs))
    entered = await to_thread.run_sync(context.__enter__)
    try:
        yield entered
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(context.__exit__, None, None, None)


class _Totals:
    """Passes every fact on, and adds up what only facts tell."""

    def __init__(self, *listeners: Emit) -> None:
        self._listeners = listeners
        self.transcripts = 0
        self.audio_s = 0.0
        self.cost_usd: float | None = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Submitted):
            self.transcripts += 1
        elif isinstance(event, Completed):
            self.audio_s += event.audio_duration
            known = self.cost_usd is not None and event.cost_usd is not None
            self.cost_usd = (self.cost_usd or 0.0) + (event.cost_usd or 0.0) if known else None
        for listener in self._listeners:
            listener(event)


async def _until_stopped(context: Context, scan: Scan, redo: Redo) -> None:
    """The batch, to its end, or to the end of the grace that a signal leaves it."""
    stopped = anyio.Event()
    async with anyio.create_task_group() as group:

        async def heed() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for number in signals:
                    if stopped.is_set():
                        break
                    name = signal.Signals(number).name
                    context.emit(Warned(message=f"{name}: finishing what is being submitted"))
                    code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
                    context.intake.stop(code, f"stopped by {name}")
                    stopped.set()
                    batch.deadline = anyio.current_time() + context.settings.stop_grace
                batch.cancel()

        with anyio.CancelScope() as batch:
            group.start_soon(heed)
            try:
                await run_batch(context, scan, redo, stopped)
            except BaseExceptionGroup as failures:
                # What ends a stage itself, a full disk under the ledger say, is summed up as well;
                # its neighbours then found that nobody receives any more.
                ended, neighbours = failures.split(BatchError)
                if ended is None or (neighbours and neighbours.split(BrokenResourceError)[1]):
                    raise
                for error in _each(ended):
                    context.intake.end(error)
        group.cancel_scope.cancel()


def _each(errors: BaseExceptionGroup[BatchError]) -> Iterator[BatchError]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


async def _summary(context: Context, scan: Scan, totals: _Totals) -> Summary:
    """What became of every recording that this run found."""
    intake, settings, ledger = context.intake, context.settings, context.ledger
    counts: Counter[str] = Counter()
    reasons: dict[str, dict[str, int]] = {}
    by_default = "left by `--limit`" if settings.limit is not None else "left for the next run"
    would_be_sent = "to be sent without `--dry-run`"
    not_come_to = would_be_sent if settings.dry_run else intake.reason or by_default
    for (outcome, reason), count in (await ledger.standing()).items():
        counts[outcome] += count
        if outcome in ("failed", "skipped", "parked"):
            named = reasons.setdefault(outcome, {})
            named[reason or not_come_to] = named.get(reason or not_come_to, 0) + count
    for root, path, why, transcript_id in await ledger.parked():
        label = context.label(root, path)
        context.emit(Parked(recording=label, reason=why, transcript_id=transcript_id))
    kept_hours = await ledger.kept_hours()
    code = intake.exit_code
    if counts["failed"] or scan.incomplete or (counts["parked"] and not settings.dry_run):
        code = ExitCode.worst(code, ExitCode.PARTIAL)
    if not counts:
        context.emit(Warned(message="no recordings found"))
    return Summary(
        run_id="",
        exit_code=code,
        reason=intake.reason,
        dry_run=settings.dry_run,
        found=counts.total(),
        written=counts["written"],
        already_written=counts["already_written"],
        kept=counts["kept"],
        failed=counts["failed"],
        skipped=counts["skipped"],
        parked=counts["parked"],
        kept_hours=round(kept_hours, 4),
        kept_cost_usd=_estimate(kept_hours, settings),
        ignored=scan.ignored,
        collected=await ledger.collected(),
        transcripts=totals.transcripts,
        audio_hours=round(totals.audio_s / 3600, 6),
        cost_usd=None if totals.cost_usd is None else round(totals.cost_usd, 6),
        requests=dict(context.client.sent),
        reasons=reasons,
    )


def _estimate(hours: float, settings: Settings) -> float | None:
    """USD that so much audio would come to, at the dearest of the models that may do the work."""
    if settings.provider == "local":
        return 0.0
    models = settings.transcript.get("speech_models", DEFAULT_SPEECH_MODELS)
    prices = [settings.prices.get(str(model)) for model in models]
    known = [price for price in prices if price is not None]
    return round(hours * max(known), 2) if len(known) == len(prices) else None


# --- before anything is sent ---------------------------------------------------------------


def _prepare(settings: Settings, state: Path) -> float:
    """
    Make the folders, prove that results can be saved, and give the file system's time.

    Raises:
        SettingsError: there is no output folder named.
        OutputNotWritable: they cannot.
    """
    if settings.output is None:
        raise SettingsError("where shall the results go? Name a folder with `--output`")
    started_at = 0.0
    for folder in (settings.output, state):
        probe = folder / f".{secrets.token_hex(4)}~overnight"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b"overnight")
            started_at = started_at or probe.stat().st_mtime
        except OSError as error:
            raise OutputNotWritable(
                f"cannot write to {folder}: {error.strerror}; nothing was sent"
            ) from error
        finally:
            with suppress(OSError):
                probe.unlink(missing_ok=True)
    return started_at


def _sweep(versions: bytes, started_at: float) -> None:
    """Remove what a run that was killed left unfinished among the replaced results."""
    listing = Listing(versions, started_at)
    for folder, _, _ in os.walk(versions):
        listing.load(folder)


def _with_model(settings: Settings) -> Settings:
    """With a chosen engine model among the options: other words come out, other identity."""
    chosen = {"speech_models": [settings.engine_model], **settings.transcript}
    is_default = settings.engine_model == Settings.model_fields["engine_model"].default
    if settings.provider != "local" or is_default:
        return settings
    return settings.model_copy(update={"transcript": chosen})


def _copy_ledger(settings: Settings, state: Path) -> None:
    """A dry run works on a copy, and leaves no trace."""
    for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
        with suppress(FileNotFoundError):
            shutil.copyfile(settings.state_dir / name, state / name)


def _listed(files_from: str | None) -> list[bytes] | None:
    """
    The absolute paths that a list names, which are separated by NUL or newline.

    Raises:
        SettingsError: the list cannot be read.
    """
    if files_from is None:
        return None
    try:
        with open(0 if files_from == "-" else files_from, "rb") as file:
            text = file.read()
    except OSError as error:
        raise SettingsError(f"cannot read the list {files_from}: {error.strerror}") from error
    names = text.split(b"\0" if b"\0" in text else b"\n")
    parts = [os.path.split(name) for name in names if name]
    # As the roots are: whatever links lead there. The last part may be a link that is not followed.
    return [os.path.join(os.path.realpath(folder or b"."), name) for folder, name in parts]


@asynccontextmanager
async def _service(settings: Settings, state: Path, key: str) -> AsyncIterator[_Service]:
    """The provider, started for this run if it is the embedded engine."""
    if settings.dry_run:
        yield _Service("http://127.0.0.1", settings.base_url or "local", "none")
    elif settings.base_url is not None:
        yield _Service(settings.base_url, settings.base_url, key)
    else:
        from pipeline.engine import EngineUnavailable, serve, stored_key

        folder = state / "engine"
        key = await to_thread.run_sync(stored_key, folder)
        async with AsyncExitStack() as stack:
            try:
                engine = await stack.enter_async_context(
                    serve(folder, keys=[key], model=settings.engine_model)
                )
            except EngineUnavailable as error:
                raise SettingsError(str(error)) from error
            yield _Service(engine.url, "local", key)
