"""
The facts of one run, as they are read in the morning.

    runs/ID/summary.json    what it came to        ledger            costs, nights, names
    runs/ID/events.ndjson   how it went            results           which of them are odd

In: settings and the id of a run. Out: a `Morning`, in which everything stands that the page shows,
under the same names. Reads only, and works as well for a run that was killed, while another one
is under way, or long after: what is not known is None, or said in words.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, tzinfo
from pathlib import Path

import msgspec

from pipeline import __version__
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Standing, printable
from pipeline.ledger import nights
from pipeline.ledger.accounts import Reader
from pipeline.ledger.books import Patience
from pipeline.ledger.evidence import opened
from pipeline.report import words
from pipeline.report.calendar import Night, last_nights, local, month_of
from pipeline.report.course import ENDS, Causes, Course, Mention, Moment, Stage, cause, course
from pipeline.report.looks import Result, Unread, look
from pipeline.settings import Settings
from pipeline.speech_models import outdated

__all__ = ["Cause", "Morning", "is_run", "morning"]

_MOST_CAUSES = 20
"""Causes of an end that are told apart. Ours: a reason for each recording is no cause."""
_MOST_NAMED = 200
_MOST_NAMED_IN_ALL = 1_000
"""Ours: a page of that many is read on a phone in a second."""

_VERDICTS = {
    ExitCode.DONE: "It came to its end, and nothing went wrong.",
    ExitCode.UNEXPECTED: "It broke off: this is a bug, and the log has its traceback.",
    ExitCode.USAGE: "It could not work so: a setting, an option or a folder is wrong.",
    ExitCode.PARTIAL: "Something failed, is missing, left or not whole: see below.",
    ExitCode.REFUSED: "It ended early: the service refused the key, the project or the balance.",
    ExitCode.TRY_LATER: "It ended early: the service was down, or the disk is full.",
    ExitCode.CAP_REACHED: "It ended early: a cap on spending was reached.",
    ExitCode.WINDOW_CLOSED: "It ended with its time window; the next run goes on.",
    ExitCode.LOCKED: "It did not begin: another run held the lock.",
    ExitCode.INTERRUPTED: "It was interrupted; the next run goes on.",
    ExitCode.TERMINATED: "It was told to end; the next run goes on.",
    ExitCode.HANGUP: "Its terminal was closed; the next run goes on.",
}
_UNFINISHED = "It did not come to its end: it was cut off, or is still under way."


class Cause(msgspec.Struct, frozen=True):
    """Why recordings have no result."""

    ended: str
    """`failed`, `given_up`, `parked` or `skipped`."""
    reason: str
    """One sentence."""
    recordings: int
    """How many."""
    named: list[Mention]
    """The first of them: 200 at most, fewer where there are many causes."""
    more: int
    """How many are not named."""


class Morning(msgspec.Struct, kw_only=True, tag_field="type", tag="report"):
    """One run, its results, and the nights before it; times of day are of the zone."""

    run_id: str
    version: str = __version__
    """Of the program that made the report."""
    output: str
    """The output folder."""
    zone: str
    """Name of the time zone."""
    began_time: datetime
    ended_time: datetime
    """When the last was told of it."""
    elapsed_s: float
    finished: bool
    """Whether the run came to its end and summed up; else its numbers are those of its traces."""
    exit_code: int | None
    verdict: str
    """How it ended, one sentence."""
    reason: str | None
    """Why it ended before it was through, if it did."""
    why: list[str] = []
    """The causes of an exit code that is not 0, in a few words each, the worst first."""

    scanned: bool | None = None
    """Whether the folders were looked through to the end; None for a run that did not say."""
    found: int
    """Recordings: the sum of `done`, `failed`, `skipped` and `parked`."""
    done: int
    """Those with a result: the sum of `written`, `already_written` and `kept`."""
    written: int
    """Results written by this run."""
    already_written: int
    kept: int
    """Written with other options than were asked for this time."""
    failed: int
    given_up: int = 0
    """Of `failed`: those that failed on as many nights as they are tried, and were told before."""
    skipped: int
    parked: int
    """Left for the next run."""
    audio_hours: float
    """Hours of audio in the transcripts that completed in this run."""
    cost_usd: float | None
    """Estimated cost of them; None when a model has no price."""

    month: str
    """The calendar month, `YYYY-MM`."""
    month_audio_hours: float
    """In transcripts that were asked for in this month and completed."""
    month_cost_usd: float
    """Estimated, of those whose price is known."""
    month_unpriced: int
    """Those whose price is not known: unfinished, or of a model without one."""
    month_open_hours: float
    """Asked for in this month and not settled, under way or in doubt: at the most. With
    `month_audio_hours` what caps count."""
    month_open_cost_usd: float
    """The same of what has no known price; with `month_cost_usd` what caps count."""
    outdated: str | None
    """What to know of the prices, where they were more than 180 days old when the run ended."""

    slowest: str | None
    """What took longest, one sentence."""
    stages: list[Stage]
    causes: list[Cause]
    """Most frequent first, by end: failed, given up, parked, skipped."""

    looked_at: int
    """Results of this run that were read for what is odd about them."""
    suspicious: int
    """How many of them are."""
    suspects: list[Result]
    """The first 200 of those; as `results`."""
    unreadable: int
    """Results that could not be read."""
    unread: list[Unread]
    """The first 200 of those, each with the reason."""
    results: list[Result]
    """The first 200 results of this run."""
    usual_language: str | None
    """The language of at least nine in ten results whose language was detected."""

    sources: list[Standing]
    """The same counts for each source, if there are several."""
    warnings: list[str]
    """The first 50 warnings of the run."""
    warned: int
    """How many warnings there were."""
    moments: list[Moment]
    """How far recordings were over time, some 200 moments."""
    nights: list[Night]
    """The last 30 nights, oldest first, with those in which there was nothing."""


class _Summary(msgspec.Struct):
    """What counts of summary.json."""

    exit_code: int
    time: datetime
    reason: str | None = None
    why: list[str] = []
    scanned: bool = True
    found: int = 0
    written: int = 0
    already_written: int = 0
    kept: int = 0
    failed: int = 0
    given_up: int = 0
    skipped: int = 0
    parked: int = 0
    audio_hours: float = 0.0
    cost_usd: float | None = None
    elapsed_s: float = 0.0
    reasons: dict[str, dict[str, int]] = {}
    sources: list[Standing] = []


_Counts = Mapping[tuple[str, str], int]
"""How many recordings ended how and why."""


def morning(
    settings: Settings, run_id: str | None = None, *, zone: tzinfo | None = None
) -> Morning:
    """
    The facts of a run, by default the newest. Blocks, for as long as its results take to be read.

    `zone` is whose clocks, nights and months are meant; None is local time.

    Raises:
        SettingsError: nothing was ever run there, or not under that id, or it cannot be read.
        LedgerUnusable: the ledger cannot be read.
    """
    state, output = settings.state_dir, settings.output
    if output is None:
        raise SettingsError("where are the results? Name their folder with `--output`")
    with opened(state) as db:
        try:
            run_id, is_last = _run(state / "runs", run_id)
            folder = state / "runs" / run_id
            summary, went = _summary(folder), course(folder / "events.ndjson")
        except OSError as error:
            raise SettingsError(f"cannot read {error.filename}: {error.strerror}") from error
        ended_at = local(went.ended_at or _begun(run_id), zone)
        if is_last:
            patience = Patience(settings.gives_up_after, ended_at.timestamp(), settings.zone)
            ends, counts, causes = _of_ledger(db, run_id, summary, patience)
        else:
            ends, counts, causes = _of_events(went)
        if summary is not None:
            ends, counts = _of_summary(summary)
        month = month_of(db, ended_at, zone, settings.prices)
        lately = last_nights(db, ended_at, zone)
        looks = look(db, run_id, output, folder)
    started_at = local(went.started_at or _begun(run_id), zone)
    done = ends["written"] + ends["already_written"] + ends["kept"]
    stages = went.stages()
    return Morning(
        run_id=run_id,
        output=printable(os.fsencode(output)),
        zone=str(getattr(zone, "key", None) or ended_at.tzname() or "local time"),
        began_time=started_at,
        ended_time=ended_at,
        elapsed_s=summary.elapsed_s if summary else (ended_at - started_at).total_seconds(),
        finished=summary is not None,
        exit_code=None if summary is None else summary.exit_code,
        verdict=_UNFINISHED if summary is None else _verdict(summary.exit_code),
        reason=None if summary is None or summary.reason is None else cause(summary.reason),
        why=[cause(each) for each in summary.why] if summary else [],
        scanned=None if summary is None else summary.scanned,
        found=done + ends["failed"] + ends["skipped"] + ends["parked"],
        done=done,
        written=ends["written"],
        already_written=ends["already_written"],
        kept=ends["kept"],
        failed=ends["failed"],
        given_up=ends["given_up"],
        skipped=ends["skipped"],
        parked=ends["parked"],
        audio_hours=summary.audio_hours if summary else round(went.audio_s / 3600, 6),
        cost_usd=summary.cost_usd if summary else went.cost_usd,
        month=month.month,
        month_audio_hours=month.audio_hours,
        month_cost_usd=month.cost_usd,
        month_unpriced=month.unpriced,
        month_open_hours=month.open_hours,
        month_open_cost_usd=month.open_cost_usd,
        outdated=None if settings.provider == "local" else outdated(ended_at.timestamp()),
        slowest=_slowest(stages),
        stages=stages,
        causes=list(_causes(counts, causes)),
        looked_at=looks.looked_at,
        suspicious=looks.suspicious,
        suspects=looks.suspects,
        unreadable=looks.unreadable,
        unread=looks.unread,
        results=looks.results,
        usual_language=looks.usual_language,
        sources=summary.sources if summary else [],
        warnings=went.warnings,
        warned=went.warned,
        moments=[
            msgspec.structs.replace(each, time=local(each.time, zone)) for each in went.moments()
        ],
        nights=lately,
    )


# --- which run ------------------------------------------------------------------------------------


def _run(runs: Path, run_id: str | None) -> tuple[str, bool]:
    """
    The id of a run, and whether nothing has worked with the ledger since it began.

    Raises:
        SettingsError: there is none, or not this one.
    """
    begun = [path for path in runs.iterdir() if path.name.isascii()] if runs.is_dir() else []
    # A run's folder is called by the second in which it began, and by chance.
    begun.sort(key=lambda path: (path.name.partition("-")[0], _last_told(path)))
    told = [path.name for path in begun if _last_told(path)]
    if run_id is None:
        # What mends a ledger leaves events as well, but neither a summary nor a recording found.
        run_id = next((each for each in reversed(told) if is_run(runs / each)), None)
        if run_id is None:
            raise SettingsError(f"there is no run in {runs}: has anything been run there?")
    if run_id not in told:
        raise SettingsError(f"there is no run `{words.shown(words.cut(run_id, 80))}` in {runs}")
    return run_id, run_id == begun[-1].name


def _last_told(folder: Path) -> int:
    """When its last event was written, ns; 0 where there are none."""
    events = folder / "events.ndjson"
    return events.stat().st_mtime_ns if events.is_file() else 0


def is_run(folder: Path) -> bool:
    """Whether what left its traces in a folder of `runs` was a run that found recordings."""
    if (folder / "summary.json").is_file():
        return True
    with suppress(FileNotFoundError), (folder / "events.ndjson").open("rb") as events:
        return any(b'"type":"recording_found"' in line for line in events)
    return False


def _begun(run_id: str) -> datetime:
    """When a run began by its own name, or now if that does not tell."""
    try:
        return datetime.strptime(run_id.partition("-")[0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return datetime.now(UTC)


def _summary(folder: Path) -> _Summary | None:
    """What it came to, None where that was not written, or not whole."""
    try:
        return msgspec.json.decode((folder / "summary.json").read_bytes(), type=_Summary)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _verdict(exit_code: int) -> str:
    try:
        return _VERDICTS[ExitCode(exit_code)]
    except ValueError:
        return f"It ended with exit code {exit_code}, of which nothing is known."


# --- what became of recordings --------------------------------------------------------------------


def _of_summary(summary: _Summary) -> tuple[Counter[str], _Counts]:
    """How many ended how, and why, as the run itself summed it up."""
    counts = Counter[tuple[str, str]]()
    for ended, reasons in summary.reasons.items():
        for reason, number in reasons.items():
            counts[ended, cause(reason)] += number
            if ended == "given_up":
                counts["failed", cause(reason)] -= number
    ends = ("written", "already_written", "kept", *ENDS)
    return Counter({ended: getattr(summary, ended) for ended in ends}), +counts


def _of_ledger(
    db: Reader, run_id: str, summary: _Summary | None, patience: Patience
) -> tuple[Counter[str], _Counts, Causes]:
    """The same of the last run, as the ledger has it, and what the recordings are called."""
    ends, causes = Counter(nights.already(db)), Causes()
    not_come_to = _not_come_to(nights.ended(db, run_id, patience), summary)
    for each in nights.ended(db, run_id, patience):
        ends[each.outcome] += 1
        ends["failed"] += each.outcome == "given_up"
        if each.outcome in ENDS:
            name = printable(each.name)
            causes.add(each.outcome, each.reason or not_come_to, name, each.transcript_id)
    return ends, causes.counts, causes


def _not_come_to(ended: Iterable[nights.Ended], summary: _Summary | None) -> str:
    """What a summary says of recordings for which the ledger has no reason."""
    if summary is None:
        return "not come to before the run ended"
    reasons = dict(summary.reasons.get("parked", {}))
    for each in ended:
        if each.outcome == "parked" and each.reason is not None:
            reasons.pop(each.reason, None)
    return next(iter(reasons), summary.reason or "left for the next run")


def _of_events(went: Course) -> tuple[Counter[str], _Counts, Causes]:
    """The same of an earlier run, as far as its events tell."""
    ends, counts = went.ends.copy(), went.causes.counts.copy()
    left = went.found - ends["written"] - ends["failed"] - ends["parked"]
    if left > 0:
        ends["parked"] += left
        counts["parked", "not come to before the run ended"] += left
    return ends, counts, went.causes


def _causes(counts: _Counts, causes: Causes) -> Iterator[Cause]:
    """Each end and reason with its first recordings, as many as a page can hold."""
    room = _MOST_NAMED_IN_ALL
    for ended in ENDS:
        by_number = sorted(
            ((number, reason) for (end, reason), number in counts.items() if end == ended),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for number, reason in by_number[:_MOST_CAUSES]:
            named = causes.named(ended, reason)[: min(_MOST_NAMED, room, number)]
            room -= len(named)
            yield Cause(ended, reason, number, named, number - len(named))
        if rest := by_number[_MOST_CAUSES:]:
            number = sum(number for number, _ in rest)
            yield Cause(ended, words.count(len(rest), "other reason"), number, [], number)


def _slowest(stages: list[Stage]) -> str | None:
    """
    What took recordings longest, in the median and at the most.

    Until its upload a recording also waits for those before it, for as long as the archive is
    large: so that is told beside, and is no answer as long as there is another.
    """
    first = [stage for stage in stages if stage.name == "upload"]
    later = [stage for stage in stages if stage.name != "upload"]
    if not stages:
        return None
    usual = max(later or first, key=lambda stage: stage.median_s)
    once = max(later or first, key=lambda stage: stage.longest_s)
    at_most = "" if once is usual else f" ({once.doing})"
    before = "".join(
        f"; before that {stage.doing}, {words.span(stage.median_s)} in the median"
        for stage in first
        if later and stage.median_s > usual.median_s
    )
    return (
        f"{usual.doing}, {words.span(usual.median_s)} in the median,"
        f" {words.span(once.longest_s)} at the most{at_most}{before}"
    )
