"""
What `run`, `nightly` and `reprocess` have in common: in, sources; out, their transcripts.

    sources -> state folder, lock -> service -> ledger -> batch -> derived files -> summary

A source is roots and the settings that count for what is below them. All of a run goes through one
batch, so that what is new in any of them comes before the backlog of all, under one set of caps.
"""

import os
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import anyio
from anyio import BrokenResourceError, to_thread

from jobs.budget import Budgets
from jobs.leaving import LAST_S, SIGNALS, leave_within, signals_heeded
from jobs.session import Totals, session
from jobs.verdict import MISSED, Ending, causes, exit_code_of
from pipeline.batch import run_batch
from pipeline.errors import BatchError, ExitCode, SettingsError
from pipeline.events import Emit, Parked, RunStarted, Standing, Summary, Warned, encode, moment
from pipeline.exclusions import passed_over
from pipeline.files import abandon, regular
from pipeline.foresight import Forecast, Share, foresee
from pipeline.ledger import Redo
from pipeline.lines import hide
from pipeline.models import Root
from pipeline.notices import Notices
from pipeline.promote import settle
from pipeline.report.morning import is_run
from pipeline.settings import Settings
from pipeline.speech_models import remarks
from pipeline.stages import Context
from pipeline.stages.scan import Listing, Scan
from pipeline.stages.write import render_lacking
from pipeline.wire import Webhook

__all__ = [
    "Source",
    "missed_window",
    "named_sources",
    "require_prices",
    "transcribe",
    "with_model",
]

_PAGE = 1000
_PATIENCE_S = 0.2  # of what was cancelled, until a thread that does not return is left to itself


@dataclass(frozen=True, slots=True)
class Source:
    """Folders, and the settings that count for what is in them."""

    name: str
    roots: Sequence[Root]
    settings: Settings
    problem: str | None = None
    """Why there are no roots, where it is not there."""


def named_sources(roots: Sequence[Root], settings: Settings) -> list[Source]:
    """A source for each name of these roots: a folder, and files in it, may be named beside it."""
    names = dict.fromkeys(root.name for root in roots)
    return [Source(name, [r for r in roots if r.name == name], settings) for name in names]


async def transcribe(
    settings: Settings,
    sources: Sequence[Source],
    *,
    redo: Redo | None = None,
    listed: Sequence[bytes] | None = None,
    by_age: bool = False,
    is_attended: bool = False,
    began: Callable[[RunStarted], Awaitable[None]] | None = None,
    ended: Callable[[Context, Path], Awaitable[None]] | None = None,
    budgets: Budgets | None = None,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> Summary:
    """
    Transcribe the recordings of these sources, and tell how it went.

    Every fact goes to `emit` as it happens. `listed` are the absolute paths to take instead of all;
    with `by_age` the backlog of the settings comes last, and its ration is kept to. Where the run
    `is_attended`, somebody reads what it warns of: folders that are empty by now, say. `began` is
    awaited once the run holds its lock, before anything is sent, `ended` once all is written, with
    the folder of the run. `environ` is where the API key may be, `clock` tells the time, Unix
    seconds.

    SIGINT, SIGTERM and SIGHUP stop the intake and leave within `stop_grace`; a second one leaves
    now. What does not answer holds that up for `LAST_S` at most.

    Raises:
        SettingsError: nothing says where results go, or a cap on cost knows no price.
        OutputNotWritable: results could not be saved there.
        KeyRefused: there is no API key, and the provider needs one.
        Locked: another run works in the same state folder.
        LedgerUnusable: the ledger is damaged, or newer than this program.
    """
    began_at = time.monotonic()
    require_prices(settings, sources)
    sources = [replace(each, settings=with_model(each.settings)) for each in sources]
    redo = redo or Redo(
        force=settings.force,
        changed=settings.redo_changed,
        failed=settings.retry_failed,
        checksum=settings.checksum,
    )
    roots = [root for source in sources for root in source.roots]
    async with session(
        settings, roots=roots, redo=redo, budgets=budgets, emit=emit, environ=environ, clock=clock
    ) as run:
        ledger = run.context.ledger
        await ledger.require_claimed()
        is_missed = await to_thread.run_sync(missed_window, settings, run.folder.parent, clock())
        for source in sources:
            if source.problem is not None:
                run.totals(Warned(message=f"source {source.name}: {source.problem}"))
        is_local = settings.provider == "local"  # whose model has a name of its own
        lists = [] if is_local else [each.settings.asked_models for each in sources]
        for said in remarks(chain.from_iterable(lists)):
            run.totals(Warned(message=said))
        scans = [
            Scan(
                source.settings,
                source.roots,
                listing=Listing(os.fsencode(str(settings.output)), run.started_at),
                leave_out=[
                    *(os.fsencode(settings.output or ""), os.fsencode(settings.state_dir)),
                    # A folder within another source's is that one's own.
                    *(r.folder for r in roots if r.only is None and r not in source.roots),
                ],
                listed=listed,
                now=clock(),
                by_age=by_age,
            )
            for source in sources
        ]
        settings_of = {root.name: each.settings for each in sources for root in each.roots}
        shared = replace(run.context, sources=settings_of, by_age=by_age)
        rendered, forecast, summary, ending = 0, None, None, Ending()
        async with _notified(shared) as context, _heeding_signals(context) as (stopped, work):
            with work:
                if began is not None:
                    await began(run.started)
                if settings.dry_run:
                    forecast = await foresee(context, scans)
                else:
                    await _batch(context, scans, stopped)
                    rendered = await _render_lacking(context)
                    # Which of two results stays is not what the run came to.
                    summary, ending = await _summary(context, sources, scans, run.totals)
                    later = ended and ended(context, run.folder)
                    await (later or settle(context, run.settled))
            if summary is None:
                summary, ending = await _summary(context, sources, scans, run.totals, forecast)
            seen_by = is_attended or settings.dry_run
            losses = [] if seen_by else [loss for scan in scans for loss in scan.losses]
            ending = replace(
                ending, losses=losses, foreign=run.settled.foreign, is_missed=is_missed
            )
            summary.exit_code = exit_code_of(ending)
            summary.why = [cause.said for cause in causes(ending)]
            summary.missed_window = MISSED in summary.why
            summary.run_id = run.run_id
            summary.rendered = rendered
            summary.elapsed_s = round(time.monotonic() - began_at, 3)
            run.totals(summary)
            line = encode(summary) + b"\n"
            with suppress(OSError):  # a full disk is said in the summary, which went to stdout
                await to_thread.run_sync(_leave, run.folder / "summary.json", line)
            with suppress(BatchError):  # said already, if the ledger cannot be written
                # Only now: what is lost is told once, and rather twice than never.
                await ledger.record_held([held for scan in scans for held in scan.held])
    return summary


def missed_window(settings: Settings, runs: Path, now_s: float) -> bool:
    """Whether no window is open, and in the latest one no run began that found recordings."""
    if settings.window is None or settings.window.closes_at(now_s, settings.zone) is not None:
        return False
    # A run's folder is called by the second in which it began, in UTC.
    opened, closed = (
        f"{moment(at_s):%Y%m%dT%H%M%SZ}" for at_s in settings.window.latest(now_s, settings.zone)
    )
    return not any(opened <= each.name < closed and is_run(each) for each in runs.iterdir())


def _leave(path: Path, line: bytes) -> None:
    with open(path, "wb", opener=regular) as file:
        file.write(line)


def require_prices(settings: Settings, sources: Sequence[Source]) -> None:
    """
    What a cap on cost needs to be held.

    Raises:
        SettingsError: there is one, and a model that may be asked for has no price.
    """
    if settings.max_cost is None and settings.max_cost_month is None:
        return
    for source in sources:
        for model in chain.from_iterable(source.settings.asked_models):
            if source.settings.cost_usd(model, 0.0) is None:
                raise SettingsError(
                    f"a cap on cost needs prices, and `{model}`, which is asked for, has none:"
                    " add it to `[prices]`"
                )


@asynccontextmanager
async def _heeding_signals(
    context: Context,
) -> AsyncIterator[tuple[anyio.Event, AbstractContextManager[None]]]:
    """
    Whether a signal has come, and a scope for the work, which ends a grace later or at the second.

    Signals do no more until the block is left: what the work came to is told all the same, also
    when a thread of it never returns.
    """
    stopped, ended, scope = anyio.Event(), anyio.Event(), anyio.CancelScope()
    is_dry, grace_s = context.settings.dry_run, context.settings.stop_grace

    @contextmanager
    def work() -> Iterator[None]:
        try:
            with scope:
                yield
        finally:
            ended.set()

    async def end(after_s: float) -> None:
        await anyio.sleep(after_s)
        scope.cancel()
        while not ended.is_set():
            with anyio.move_on_after(_PATIENCE_S):
                await ended.wait()
            abandon()

    async with anyio.create_task_group() as group:

        async def heed() -> None:
            with anyio.open_signal_receiver(*signals_heeded()) as signals:
                async for number in signals:
                    after_s = 0.0 if stopped.is_set() or is_dry else grace_s
                    group.start_soon(end, after_s)
                    leave_within(after_s + LAST_S, SIGNALS[number])
                    if not stopped.is_set():
                        say = f"{number.name}: finishing what is being submitted"
                        context.emit(Warned(message=say))
                        context.intake.stop(SIGNALS[number], f"stopped by {number.name}")
                        stopped.set()

        group.start_soon(heed)
        yield stopped, work()
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


async def _batch(context: Context, scans: Sequence[Scan], stopped: anyio.Event) -> None:
    """The batch; what ends it as a whole is a reason of its intake."""
    try:
        await run_batch(context, scans, stopped)
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


async def _summary(
    context: Context,
    sources: Sequence[Source],
    scans: Sequence[Scan],
    totals: Totals,
    forecast: Forecast | None = None,
) -> tuple[Summary, Ending]:
    """
    What became of every recording that this run found, and what that means for its end.

    Of a dry run the forecast says what would become of them.
    """
    intake, settings, ledger = context.intake, context.settings, context.ledger
    counts: Counter[str] = Counter()
    by_root: dict[str, Counter[str]] = {}
    reasons: defaultdict[str, Counter[str]] = defaultdict(Counter)
    parked: Counter[str | None] = Counter()
    by_default = "left by `--limit`" if settings.limit is not None else "left for the next run"
    not_come_to = intake.reason or by_default
    nights = settings.gives_up_after
    standing = await ledger.standing(nights) if forecast is None else forecast.standing
    for (root, outcome, reason), count in standing.items():
        if outcome == "given_up":
            reasons[outcome][reason or outcome] += count
            outcome = "failed"
        counts[outcome] += count
        by_root.setdefault(root, Counter())[outcome] += count
        if outcome == "parked" and not settings.dry_run:
            parked[reason] += count
        if outcome in ("failed", "skipped", "parked"):
            reasons[outcome][reason or not_come_to] += count
    if forecast is not None:
        forecast.name(reasons["parked"], not_come_to)
    last = 0
    while page := await ledger.parked(last, _PAGE):
        for _, root, path, why, transcript_id in page:
            label = context.label(root, path)
            context.emit(Parked(recording=label, reason=why, transcript_id=transcript_id))
        last = page[-1][0]
    given_up = reasons["given_up"].total()
    kept_hours = await ledger.kept_hours() if forecast is None else forecast.kept_hours
    price = settings.highest_price(settings.transcript)
    ending = Ending(
        ends=dict(intake.ends),
        failed=counts["failed"] - given_up,
        parked=parked,
        absent=[each.name for each in sources if each.problem is not None],
        amiss=totals.amiss,
        is_unread=any(scan.incomplete for scan in scans),
        is_undeleted=not settings.dry_run and await ledger.is_deletion_left(),
        is_barred=not settings.dry_run and await ledger.is_deletion_barred(),
    )
    if settings.dry_run:  # nothing was begun: only that it could not, or was stopped, is amiss
        stopped = dict(intake.ends)
        stopped.pop(ExitCode.CAP_REACHED, None)
        ending = Ending(ends=stopped)
    is_scanned = all(scan.is_through for scan in scans)
    is_told = any(source.problem for source in sources) or any(
        scan.incomplete or scan.losses for scan in scans
    )
    if is_scanned and not (counts or is_told):
        context.emit(Warned(message="no recordings found"))
    summary = Summary(
        run_id="",
        exit_code=exit_code_of(ending),
        reason=intake.reason,
        dry_run=settings.dry_run,
        scanned=is_scanned,
        found=counts.total(),
        **_outcomes(counts),
        given_up=given_up,
        kept_hours=round(kept_hours, 4),
        kept_cost_usd=None if price is None else round(kept_hours * price, 2),
        **passed_over((scan.passed, scan.exclusions) for scan in scans),
        collected=await ledger.collected(),
        transcripts=totals.transcripts,
        deleted=totals.deleted,
        audio_hours=round(totals.audio_s / 3600, 6),
        cost_usd=None if totals.cost_usd is None else round(totals.cost_usd, 6),
        requests=dict(context.client.sent),
        reasons={end: dict(named) for end, named in reasons.items() if named},
        sources=[_standing(each, by_root, forecast) for each in sources]
        if len(sources) > 1
        else [],
        **_due(forecast),
    )
    return summary, ending


def _standing(
    source: Source, by_root: Mapping[str, Counter[str]], forecast: Forecast | None
) -> Standing:
    """What became of the recordings of one source, or would."""
    counts: Counter[str] = Counter()
    names = {root.name for root in source.roots}
    for name in names:
        counts += by_root.get(name, Counter())
    return Standing(
        name=source.name,
        found=counts.total(),
        reason=source.problem,
        **_outcomes(counts),
        **({} if forecast is None else _range(forecast.most(names), forecast.least(names))),
    )


def _due(forecast: Forecast | None) -> dict[str, Any]:
    """What a dry run says of the run."""
    if forecast is None:
        return {}
    most, later = forecast.most(), forecast.later
    return {
        **_range(most, forecast.least()),
        "due_bytes": most.size,
        "due_elapsed_s": forecast.takes_s,
        "due_nights": forecast.nights,
        "due_later": later.recordings,
        "due_later_hours": _hours(later),
        "due_later_cost_usd": _usd(later),
        "unprobed": forecast.unprobed,
        "possible_copies": forecast.possible_copies,
    }


def _range(most: Share, least: Share) -> dict[str, Any]:
    return {
        "due": most.recordings,
        "due_least": least.recordings,
        "due_hours": _hours(most),
        "due_hours_least": _hours(least),
        "due_cost_usd": _usd(most),
        "due_cost_usd_least": _usd(least),
    }


def _hours(share: Share) -> float:
    return round(share.duration_s / 3600, 6)


def _usd(share: Share) -> float | None:
    return None if share.cost_usd is None else round(share.cost_usd, 6)


def _outcomes(counts: Counter[str]) -> dict[str, Any]:
    ends = ("written", "already_written", "kept", "failed", "skipped", "parked")
    return {outcome: counts[outcome] for outcome in ends}


def with_model(settings: Settings) -> Settings:
    """With a chosen engine model among the options: other words come out, other identity."""
    chosen = {"speech_models": [settings.engine_model], **settings.transcript}
    is_default = settings.engine_model == Settings.model_fields["engine_model"].default
    if settings.provider != "local" or is_default:
        return settings
    return settings.model_copy(update={"transcript": chosen})
