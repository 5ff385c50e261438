"""
What every job works with: in, settings; out, a locked state folder with its ledger and service.

    output and state folder -> lock -> service -> ledger, recovered -> client -> `Context`

A session is one run in the ledger's sense: it has an id, a folder of its own in `runs/`, and leaves
there what happened.
"""

import os
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import anyio
from anyio import to_thread

from jobs.budget import Budgets
from pipeline import __version__
from pipeline.allowance import NOTHING, Allowance, Amount
from pipeline.errors import BatchError, DiskFull, LedgerUnusable, SettingsError
from pipeline.events import (
    Completed,
    Deleted,
    Emit,
    Event,
    RunStarted,
    Submitted,
    Warned,
    Written,
    moment,
    printable,
)
from pipeline.files import no_room, probe, unwritable
from pipeline.intake import Intake
from pipeline.ledger import Ledger, Redo, Run, copy_of
from pipeline.ledger.journal import has_begun, journals, last_line
from pipeline.ledger.lock import lock
from pipeline.lines import hide
from pipeline.models import Root
from pipeline.outages import OUTAGE_PATIENCE_S, Outages
from pipeline.progress import EventFile
from pipeline.promote import Settled, settle
from pipeline.settings import (
    Settings,
    exposed,
    key_fingerprint,
    odd_variables,
    require_key,
)
from pipeline.stages import Context
from pipeline.stages.scan import Listing

__all__ = ["Session", "Totals", "session"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Service:
    """Whom a run talks to."""

    url: str
    name: str
    """What the ledger calls it: the URL, or `local`, whose port is a new one each time."""
    key: str


class Totals:
    """Passes every fact on, at the time of the run's clock, and adds up what only facts tell."""

    def __init__(self, *listeners: Emit, clock: Callable[[], float]) -> None:
        self._listeners = listeners
        self._clock = clock
        self.transcripts = 0
        """How many the service has accepted."""
        self.deleted = 0
        """How many the service has deleted its copy of."""
        self.amiss = Counter[str]()
        """How many results somebody has to look at, by the reason."""
        self.audio_s = 0.0
        self.cost_usd: float | None = 0.0

    def __call__(self, event: Event) -> None:
        event.time = moment(self._clock())
        if isinstance(event, Submitted):
            self.transcripts += 1
        elif isinstance(event, Deleted):
            self.deleted += 1
        elif isinstance(event, Written):
            self.amiss.update(filter(None, [event.amiss]))
        elif isinstance(event, Completed):
            self.audio_s += event.audio_duration
            known = self.cost_usd is not None and event.cost_usd is not None
            self.cost_usd = (self.cost_usd or 0.0) + (event.cost_usd or 0.0) if known else None
        for listener in self._listeners:
            listener(event)


@dataclass(frozen=True, slots=True)
class Session:
    """One run: what its stages share, and where it leaves its traces."""

    run_id: str
    context: Context
    totals: Totals
    folder: Path
    """`runs/ID` of the state folder."""
    started: RunStarted
    """What was told of it first."""
    started_at: float
    """The file system's own time before anything was written, Unix seconds."""
    settled: Settled
    """What became of results that an earlier run left between two places."""


@asynccontextmanager
async def session(
    settings: Settings,
    *,
    roots: Sequence[Root] = (),
    redo: Redo | None = None,
    ledger_path: Path | None = None,
    budgets: Budgets | None = None,
    is_offline: bool = False,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Session]:
    """
    Hold the state folder of these settings, with its ledger open and its service at hand.

    A dry run works on a copy of the ledger, and leaves no trace. `ledger_path` is another ledger to
    work with than that of the state folder. `budgets` are shared with sessions beside this one;
    `clock` tells the time, Unix seconds. With `is_offline` there is no service, nor need of a key,
    though the ledger is the real one.

    What an earlier run left between two results of a recording is settled first.

    Raises:
        SettingsError: nothing says where results go.
        OutputNotWritable: results could not be saved there.
        DiskFull: there is no room to begin.
        KeyRefused: there is no API key, and the provider needs one.
        Locked: another run works in the same state folder.
        LedgerUnusable: the ledger is damaged, newer than this program, or lost.
    """
    began_at = moment(clock())
    run_id = f"{began_at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    key, held, journaled = "", None, dict[str, int]()
    if ledger_path is None:  # before a copy is made: a run beside may add to both
        journaled = await to_thread.run_sync(journals, settings.state_dir / "runs")
    async with AsyncExitStack() as stack:
        if settings.dry_run:
            state = Path(await stack.enter_async_context(_beside(_temporary)))
            started_at = 0.0
            await to_thread.run_sync(
                copy_of, settings.state_dir / "ledger.sqlite3", state / "ledger.sqlite3"
            )
        else:
            if settings.provider != "local" and not is_offline:
                key = await to_thread.run_sync(require_key, settings, environ)
            state = settings.state_dir
            started_at = await to_thread.run_sync(_prepare, settings, state)
            held = await stack.enter_async_context(
                lock(state / "lock", wait=settings.wait_lock, break_=settings.break_lock)
            )
            if settings.wait_lock:  # whoever held it may have left something since
                started_at = await to_thread.run_sync(_prepare, settings, state)
            await to_thread.run_sync(_sweep, os.fsencode(state), started_at)
        folder = state / "runs" / run_id
        await to_thread.run_sync(_make, folder)
        facts = await stack.enter_async_context(_beside(_event_file, folder / "events.ndjson"))
        totals = Totals(emit, facts, clock=clock)
        has_service = not (settings.dry_run or is_offline)
        service = await stack.enter_async_context(
            _service(settings, state, key) if has_service else _nobody(settings)
        )
        hide(service.key)
        run = Run(
            run_id=run_id,
            provider_kind=settings.provider_kind,
            base_url=service.name,
            key_fingerprint="" if is_offline else key_fingerprint(service.key),
            redo=redo or Redo(),
            deletes=settings.delete_remote,
            zone=settings.zone,
        )
        path = ledger_path or state / "ledger.sqlite3"
        if journaled and not await to_thread.run_sync(_has_content, path):
            raise _lost(path)
        ledger = await stack.enter_async_context(
            Ledger(
                path,
                run,
                journal=folder / "attempts.ndjson",
                still_held=held.check if held else None,
                clock=clock,
            )
        )
        await _require_latest(ledger, settings.state_dir / "runs", journaled)
        if not is_offline:  # else the uploads that another key can go on with would be dropped
            await ledger.recover()
            if settings.trust_key is not None:
                await ledger.record_trusted(settings.trust_key)
        await ledger.record_roots(roots)
        started = RunStarted(
            run_id=run_id,
            version=__version__,
            provider=settings.provider,
            output=printable(os.fsencode(settings.output or "")),
            to_delete=await ledger.deletions_due() if has_service else 0,
        )
        totals(started)
        if key and (warning := await to_thread.run_sync(exposed, settings)):
            totals(Warned(message=warning))
        for oddity in await to_thread.run_sync(list, odd_variables(environ)):
            totals(Warned(message=oddity))
        for address, count in () if is_offline else await ledger.elsewhere():
            what = f"{count} transcripts are open or to be deleted at {address}, and stay there"
            totals(Warned(message=what))
        client = await stack.enter_async_context(
            (budgets or Budgets()).client(settings, service.url, service.key)
        )
        window_s = client.limiter.window_s
        client.limiter.remember(
            await ledger.earlier_requests(window_s), await ledger.earlier_submits(window_s)
        )
        spent = NOTHING
        if settings.max_hours_month is not None or settings.max_cost_month is not None:
            month_began = _month_began(clock(), settings)
            spent = Amount(*await ledger.spent(month_began, settings.prices))
        intake = Intake(
            settings.in_flight,
            settings.uploads.max,
            Allowance(settings, spent, f"{moment(clock(), settings.zone):%B}"),
        )
        context = Context(
            settings=settings,
            ledger=ledger,
            client=client,
            intake=intake,
            outages=Outages(
                *(client, intake, totals),
                patience_s=settings.outage_patience or OUTAGE_PATIENCE_S,
                zone=settings.zone,
                clock=clock,
            ),
            emit=totals,
            roots={root.name: root for root in roots},
        )
        settled = Settled() if settings.dry_run else await settle(context)
        yield Session(run_id, context, totals, folder, started, started_at, settled)
        with suppress(BatchError):  # said already, if the ledger cannot be written
            await ledger.record_requests(client.limiter.take_unrecorded(), window_s)


def _month_began(now_s: float, settings: Settings) -> float:
    """When the calendar month began that it is now, Unix seconds."""
    now = moment(now_s, settings.zone)
    first = datetime(now.year, now.month, 1, tzinfo=settings.zone)
    return first.timestamp()


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


def _prepare(settings: Settings, state: Path) -> float:
    """
    Make the folders, prove that results can be saved, and give the file system's time.

    A state folder that is made is for its owner alone; one that is there keeps its rights.

    Raises:
        SettingsError: there is no output folder named.
        OutputNotWritable: they cannot.
        DiskFull: there is no room.
    """
    if settings.output is None:
        raise SettingsError("where shall the results go? Name a folder with `--output`")
    started_at = 0.0
    for folder, mode in ((settings.output, 0o777), (state, 0o700)):
        try:
            folder.mkdir(mode, parents=True, exist_ok=True)
            started_at = probe(os.fsencode(folder)).st_mtime
        except OSError as error:
            what = f"nothing was sent: cannot write to {_named(folder)}"
            raise unwritable(error, what) from error
    return started_at


def _make(folder: Path) -> None:
    try:
        folder.parent.mkdir(0o700, exist_ok=True)
        folder.mkdir(0o700)
    except OSError as error:
        raise unwritable(error, f"cannot make {_named(folder)}") from error


def _event_file(path: Path) -> EventFile:
    try:
        return EventFile(path)
    except OSError as error:
        raise unwritable(error, f"cannot make {_named(path)}") from error


def _temporary() -> "tempfile.TemporaryDirectory[str]":
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        raise unwritable(error, "cannot make a folder for temporary files") from error


def _named(folder: Path) -> str:
    return printable(os.fsencode(folder))


def _sweep(state: bytes, started_at: float) -> None:
    """Remove what a run that was killed left unfinished here and among the replaced results."""
    listing = Listing(state, started_at)
    listing.sweep(state)
    for folder, _, _ in os.walk(os.path.join(state, b"versions")):
        listing.sweep(folder)


async def _require_latest(ledger: Ledger, runs: Path, journaled: Mapping[str, int]) -> None:
    """
    Go on only with a ledger that knows every run which may have asked for something.

    No clock is asked, and of thousands of journals only those of unknown runs are opened: of older
    versions, or of a ledger made anew; and that of the last known run, in the middle of which the
    ledger may have been copied.

    Raises:
        LedgerUnusable: it is an older one.
    """
    unknown, last = await ledger.unknown_runs([*journaled]), await ledger.last_run()
    for run_id in unknown:
        if await to_thread.run_sync(has_begun, runs, run_id, journaled[run_id]):
            raise _lost(ledger.path)
    for run_id in (*unknown, *filter(journaled.get, [last or ""])):
        line = await to_thread.run_sync(last_line, runs, run_id, journaled[run_id])
        if line is not None and not await ledger.knows(line):
            raise _lost(ledger.path)
    if unknown:
        await ledger.record_runs(unknown)


def _has_content(ledger: Path) -> bool:
    return ledger.is_file() and ledger.stat().st_size > 0


def _lost(ledger: Path) -> LedgerUnusable:
    return LedgerUnusable(
        f"the ledger {ledger} is lost, or an older one: it does not know what was asked for last."
        " Nothing is asked for, since all might be paid for again;"
        " `overnight verify --rebuild` makes it anew from what is on disk and at the service"
    )


@asynccontextmanager
async def _nobody(settings: Settings) -> AsyncIterator[_Service]:
    """Nobody to talk to, by the name of whom the settings name."""
    yield _Service("http://127.0.0.1", settings.base_url or "local", "none")


@asynccontextmanager
async def _service(settings: Settings, state: Path, key: str) -> AsyncIterator[_Service]:
    """The provider, started for this run if it is the embedded engine."""
    if settings.base_url is not None:
        yield _Service(settings.base_url, settings.base_url, key)
    else:
        from pipeline.engine import EngineUnavailable, serve, stored_key

        folder = state / "engine"
        async with AsyncExitStack() as stack:
            try:
                key = await to_thread.run_sync(stored_key, folder)
                engine = await stack.enter_async_context(
                    serve(folder, keys=[key], model=settings.engine_model)
                )
            except OSError as error:
                raise unwritable(error, f"cannot use {_named(folder)}") from error
            except EngineUnavailable as error:
                if no_room(error.__cause__):
                    raise DiskFull(str(error)) from error
                raise SettingsError(str(error)) from error
            yield _Service(engine.url, "local", key)
