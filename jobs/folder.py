"""
`overnight run`: point it at folders, and every recording under them gets a transcript.

    roots -> output, state, lock -> service -> ledger -> batch -> derived files -> summary

In: folders and settings. Out: results in the output folder, the run's events, and its summary,
which accounts for every recording found.
"""

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import anyio
from anyio import BrokenResourceError, to_thread

from jobs.session import Totals, session
from pipeline.batch import run_batch
from pipeline.errors import BatchError, ExitCode, SettingsError
from pipeline.events import Emit, Parked, Summary, Warned, encode
from pipeline.files import read_whole
from pipeline.ledger import Redo
from pipeline.lines import hide
from pipeline.notices import Notices
from pipeline.options import DEFAULT_SPEECH_MODELS
from pipeline.settings import Settings
from pipeline.stages import Context
from pipeline.stages.scan import Listing, Scan, find_roots
from pipeline.stages.write import render_lacking
from pipeline.wire import Webhook

__all__ = ["run_folder", "sample_folder"]

_PIPE_BYTES = 64 * 1024
_PAGE = 1000


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
    listed = await _listed(settings.files_from)
    if not given and listed is None:
        raise SettingsError("which recordings? Name a folder, or `--sample`")
    roots = await to_thread.run_sync(find_roots, [str(folder) for folder in given or [Path()]])
    settings = _with_model(settings)
    redo = Redo(
        force=settings.force,
        changed=settings.redo_changed,
        failed=settings.retry_failed,
        checksum=settings.checksum,
    )
    async with session(settings, roots=roots, redo=redo, emit=emit, environ=environ) as run:
        ledger = run.context.ledger
        await ledger.require_claimed()
        scan = Scan(
            settings,
            roots,
            listing=Listing(os.fsencode(str(settings.output)), run.started_at),
            leave_out=[os.fsencode(settings.output or ""), os.fsencode(settings.state_dir)],
            listed=listed,
        )
        rendered = 0
        async with _notified(run.context) as context, _heeding_signals(context) as (stopped, work):
            with work:
                if settings.dry_run:
                    await scan.run(ledger, run.totals)
                    # In the copy: so what a redo would ask for is counted as such.
                    while (due_in_s := await ledger.next_due()) is not None and due_in_s <= 0:
                        await ledger.claim(1000)
                else:
                    await _batch(context, scan, stopped)
                    rendered = await _render_lacking(context)
            summary = await _summary(context, scan, run.totals)
            summary.run_id = run.run_id
            summary.rendered = rendered
            summary.elapsed_s = round(time.monotonic() - began, 3)
            run.totals(summary)
            line = encode(summary) + b"\n"
            with suppress(OSError):  # a full disk is said in the summary, which went to stdout
                await to_thread.run_sync((run.folder / "summary.json").write_bytes, line)
    return summary


@asynccontextmanager
async def _heeding_signals(
    context: Context,
) -> AsyncIterator[tuple[anyio.Event, anyio.CancelScope]]:
    """
    Whether a signal has come, and a scope for the work, which ends a grace later or at the second.

    Signals do no more until the block is left: what the work came to is told all the same.
    """
    stopped, work = anyio.Event(), anyio.CancelScope()
    async with anyio.create_task_group() as group:

        async def heed() -> None:
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for number in signals:
                    if stopped.is_set() or context.settings.dry_run:
                        work.cancel()
                    if stopped.is_set():
                        continue
                    name = signal.Signals(number).name
                    context.emit(Warned(message=f"{name}: finishing what is being submitted"))
                    code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED
                    context.intake.stop(code, f"stopped by {name}")
                    stopped.set()
                    work.deadline = anyio.current_time() + context.settings.stop_grace

        group.start_soon(heed)
        yield stopped, work
        group.cancel_scope.cancel()


@asynccontextmanager
async def _notified(context: Context) -> AsyncIterator[Context]:
    """The same, and notices in it where the service is to send notifications."""
    settings = context.settings
    if settings.webhook_listen is None or settings.webhook_url is None or settings.dry_run:
        yield context
        return
    from pipeline.webhooks import receive, stored_secret

    secret = await to_thread.run_sync(stored_secret, settings.state_dir)
    hide(secret)
    context.client.hide(secret)
    notices = Notices(expected=True)
    async with receive(settings.webhook_listen, secret, notices):
        yield replace(context, webhook=Webhook(settings.webhook_url, secret), notices=notices)


async def _batch(context: Context, scan: Scan, stopped: anyio.Event) -> None:
    """The batch; what ends it as a whole is a reason of its intake."""
    try:
        await run_batch(context, scan, stopped)
    except BaseExceptionGroup as failures:
        # What ends a stage itself, a full disk under the ledger say, is summed up as well; its
        # neighbours then found that nobody receives any more.
        ended, neighbours = failures.split(BatchError)
        if ended is None or (neighbours and neighbours.split(BrokenResourceError)[1]):
            raise
        for error in _each(ended):
            context.intake.end(error)


async def _render_lacking(context: Context) -> int:
    """How many derived files were made for results that were there."""
    try:
        return await render_lacking(context)
    except BatchError as error:
        context.intake.end(error)
        return 0


def _each(errors: BaseExceptionGroup[BatchError]) -> Iterator[BatchError]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _each(error)
        else:
            yield error


async def _summary(context: Context, scan: Scan, totals: Totals) -> Summary:
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
    last = 0
    while parked := await ledger.parked(last, _PAGE):
        for _, root, path, why, transcript_id in parked:
            label = context.label(root, path)
            context.emit(Parked(recording=label, reason=why, transcript_id=transcript_id))
        last = parked[-1][0]
    kept_hours = await ledger.kept_hours()
    code = intake.exit_code
    is_left = not settings.dry_run and (counts["parked"] or await ledger.deletions(1))
    if counts["failed"] or scan.incomplete or is_left:
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
        deleted=totals.deleted,
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


def _with_model(settings: Settings) -> Settings:
    """With a chosen engine model among the options: other words come out, other identity."""
    chosen = {"speech_models": [settings.engine_model], **settings.transcript}
    is_default = settings.engine_model == Settings.model_fields["engine_model"].default
    if settings.provider != "local" or is_default:
        return settings
    return settings.model_copy(update={"transcript": chosen})


async def _listed(files_from: str | None) -> list[bytes] | None:
    """
    The absolute paths that a list names, which are separated by NUL or newline.

    Raises:
        SettingsError: the list cannot be read.
    """
    if files_from is None:
        return None
    try:
        text = await (_stdin() if files_from == "-" else read_whole(os.fsencode(files_from)))
    except OSError as error:
        raise SettingsError(f"cannot read the list {files_from}: {error.strerror}") from error
    return await to_thread.run_sync(_absolute, text)


async def _stdin() -> bytes:
    """All that comes on stdin. Waited for in the loop: a thread that reads cannot be stopped."""
    parts: list[bytes] = []
    while not parts or parts[-1]:
        with suppress(PermissionError):  # a regular file, which is always ready
            await anyio.wait_readable(0)
        parts.append(await to_thread.run_sync(os.read, 0, _PIPE_BYTES))
    return b"".join(parts)


def _absolute(text: bytes) -> list[bytes]:
    names = text.split(b"\0" if b"\0" in text else b"\n")
    parts = [os.path.split(name) for name in names if name]
    # As the roots are: whatever links lead there. The last part may be a link that is not followed.
    return [os.path.join(os.path.realpath(folder or b"."), name) for folder, name in parts]
