"""
Who listens to the facts of a run: in, events; out, lines and files that tell how far it is.

    PlainProgress      a line a minute on stderr, where that is no terminal
    WarningLines       warnings on stderr, as they come
    JsonLines          every event as a line on stdout (`--json`)
    EventFile          every event as a line of runs/<id>/events.ndjson
    render_summary     the last event, for people

A listener is a context manager and is called with each event; it returns at once and never
raises. Enter and leave it outside the event loop, or in a thread. None keeps a row for every
recording: `Tally` holds counts, and the phase of what is under way.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Self, TextIO

from pipeline.events import (
    Completed,
    Deleted,
    Event,
    Failed,
    Outage,
    Parked,
    RecordingFound,
    Retrying,
    RunStarted,
    Skipped,
    Standing,
    Submitted,
    Summary,
    Uploaded,
    Warned,
    Written,
    encode,
)
from pipeline.files import regular
from pipeline.lines import LineWriter, visible

__all__ = [
    "EventFile",
    "JsonLines",
    "PlainProgress",
    "Tally",
    "WarningLines",
    "pace",
    "phases",
    "render_summary",
]

_PHASES = ("submitting", "transcribing", "saving")
_MOST_FOLLOWED = 10_000
"""Recordings whose phase is known from earlier runs: equal ones may share it, in any number."""

_ENOUGH_FOR_RATE = 5
"""Recordings done before their pace says when the rest will be."""


class Tally:
    """How far a run is, counted from its events. Reading from another thread is safe."""

    def __init__(self) -> None:
        self.ended: Counter[str] = Counter()
        """Recordings by how they ended: `written skipped failed parked`."""
        self.audio_s = 0.0
        """Seconds of audio in what has completed."""
        self.cost_usd: float | None = 0.0
        """Estimated, of what has completed; None when a model had no price."""
        self.to_delete = 0
        """Copies of earlier runs that the service still has."""
        self._outage = ""
        self._retry: Retrying | None = None
        self._found = 0
        self._failed_before = 0
        self._started: datetime | None = None
        # Bounded by what settings let be under way at once, not by how much there is.
        self._under_way: dict[str, str] = {}

    @property
    def done(self) -> int:
        """Recordings found that this run has finished with; those skipped are beside them."""
        return self.ended["written"] + self.ended["failed"] + self.ended["parked"]

    @property
    def total(self) -> int:
        """Recordings with work so far; grows while folders are being scanned."""
        return max(self._found, self.done + len(self._under_way))

    def under_way(self) -> Counter[str]:
        """Recordings between upload and result, by phase: `submitting transcribing saving`."""
        return Counter(list(self._under_way.values()))

    def elapsed_s(self, now: datetime) -> float:
        """Seconds since the run started, 0 if it has not."""
        return max((now - self._started).total_seconds(), 0.0) if self._started else 0.0

    def remaining_s(self, now: datetime) -> float | None:
        """Seconds that the rest takes at the pace so far; None while that says little."""
        done = self.done - self._failed_before
        if done < _ENOUGH_FOR_RATE:
            return None
        return (self.total - self.done) * self.elapsed_s(now) / done

    def trouble(self, now: datetime) -> str:
        """What is waited for, in words; empty while all goes on."""
        if self._outage or self._retry is None:
            return self._outage
        left_s = self._retry.in_s - (now - self._retry.time).total_seconds()
        if left_s < 0:
            return ""
        of = f" of {self._retry.of}" if self._retry.of else ""
        return f"trying again, {self._retry.attempt}{of}, in {left_s:.0f} s: {self._retry.message}"

    def __call__(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._started = event.time
                self.to_delete = event.to_delete
            case Deleted():  # the oldest first
                self.to_delete = max(self.to_delete - 1, 0)
            case Outage():
                self._outage = event.message if event.calls else ""
            case Retrying():
                self._retry = event
            case RecordingFound():
                self._found += 1
                self._go_on(event.recording, event.phase)
            case Uploaded():
                self._under_way[event.recording] = "submitting"
            case Submitted():
                self._under_way[event.recording] = "transcribing"
            case Completed():
                self._under_way[event.recording] = "saving"
                self.audio_s += event.audio_duration
                is_known = self.cost_usd is not None and event.cost_usd is not None
                self.cost_usd = (
                    (self.cost_usd or 0.0) + (event.cost_usd or 0.0) if is_known else None
                )
            case Written() | Skipped() | Failed() | Parked():
                self.ended[str(event.__struct_config__.tag)] += 1
                self._under_way.pop(event.recording, None)

    def _go_on(self, recording: str, phase: str | None) -> None:
        """Take up a recording where earlier runs left it."""
        if phase == "failed":
            self.ended["failed"] += 1
            self._failed_before += 1
        elif phase in _PHASES and len(self._under_way) < _MOST_FOLLOWED:
            self._under_way.setdefault(recording, phase)


class PlainProgress:
    """One line at a time, every `interval_s` seconds: for logs of a scheduler."""

    def __init__(self, stream: TextIO, *, interval_s: float = 60.0) -> None:
        self._tally = Tally()
        self._stream = stream
        self._interval_s = interval_s
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._tell, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def __call__(self, event: Event) -> None:
        self._tally(event)

    def _tell(self) -> None:
        while not self._left.wait(self._interval_s):
            now = datetime.now(UTC)
            words = [*pace(self._tally, now), *phases(self._tally)]
            if trouble := self._tally.trouble(now):
                words.append(visible(trouble))
            # A scheduler may have closed our stderr; the run goes on without an audience.
            with suppress(OSError, ValueError):
                self._stream.write(", ".join(words) + "\n")
                self._stream.flush()


def pace(tally: Tally, now: datetime) -> Iterator[str]:
    """How far a run is and how fast, in phrases."""
    yield f"{tally.done:,}/{tally.total:,} done"
    yield f"{tally.audio_s / 3600:,.2f} h of audio"
    elapsed_s = tally.elapsed_s(now)
    if elapsed_s and tally.audio_s:
        yield f"{tally.audio_s / elapsed_s:,.0f}x real time"
    if tally.cost_usd:
        yield f"about ${tally.cost_usd:,.2f}"
    remaining_s = tally.remaining_s(now)
    if remaining_s is not None:
        yield f"{_span(remaining_s)} left"


def phases(tally: Tally) -> Iterator[str]:
    """How many recordings are in which phase, in phrases."""
    under_way = tally.under_way()
    yield f"{tally.total - tally.done - under_way.total():,} to upload"
    for phase in _PHASES:
        yield f"{under_way[phase]:,} {phase}"
    if tally.to_delete:
        yield f"{tally.to_delete:,} to delete"
    for end in ("failed", "skipped", "parked"):
        if count := tally.ended[end]:
            yield f"{count:,} {end}"


def _span(seconds: float) -> str:
    minutes, rest_s = divmod(round(seconds), 60)
    hours, rest_m = divmod(minutes, 60)
    if hours:
        return f"{hours}h{rest_m:02}m"
    return f"{minutes}m{rest_s:02}s" if minutes else f"{rest_s}s"


class WarningLines:
    """Warnings, for people, as they come; `say` takes a line, without its newline."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned | Outage):
            self._say(f"warning: {visible(event.message)}")


class JsonLines:
    """Every event as one JSON object a line, written at once, in order."""

    def __init__(self, stream: BinaryIO) -> None:
        self._lines = LineWriter(stream)

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()

    def __call__(self, event: Event) -> None:
        self._lines(encode(event))


class EventFile(JsonLines):
    """The same, appended to a file."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            OSError: the file cannot be opened for appending.
        """
        # Without a buffer: what a full disk does not take is dropped, not left for the closing.
        self._file = open(path, "ab", buffering=0, opener=regular)  # noqa: SIM115
        super().__init__(self._file)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._file.close()


def render_summary(summary: Summary) -> str:
    """
    What a run came to, as text that ends without a newline.

    The first line accounts for every recording found; reasons follow, then what it took, then
    what else the user could ask for.
    """
    return "\n".join(map(visible, _summary_lines(summary)))


_NAMED = 8

_ENDS = (
    ("written", "written"),
    ("already_written", "already written"),
    ("kept", "kept as they are"),
    ("failed", "failed"),
    ("skipped", "skipped"),
    ("parked", "left for the next run"),
)
_DRY_ENDS = (*_ENDS[:-1], ("parked", "not sent"))


def _summary_lines(summary: Summary) -> Iterator[str]:
    ends = _DRY_ENDS if summary.dry_run else _ENDS
    yield f"{_count(summary.found, 'recording')}: {', '.join(_ends(summary, ends))}"
    if not summary.scanned:
        yield "the scan was cut short: there may be more recordings than those"
    said = set[str]()
    given_up = Counter(summary.reasons.get("given_up", {}))
    for end, words in (*ends, ("given_up", "given up before")):
        reasons = Counter(summary.reasons.get(end, {}))
        if end == "failed":
            reasons -= given_up
        said |= reasons.keys()
        for reason, count in reasons.most_common():
            yield f"  {count:,} {words}: {reason}"

    for source in summary.sources if len(summary.sources) > 1 else ():
        due = [_due(source)] if summary.dry_run and source.due else []
        yield f"  {source.name}: {source.reason or ', '.join([*_ends(source, ends), *due])}"
    if summary.dry_run:
        yield from _budget(summary)
    if summary.transcripts or summary.audio_hours:
        yield (
            f"{_count(summary.transcripts, 'transcript')}, {summary.audio_hours:,.2f} h of audio"
            + _about(summary.cost_usd)
        )
    for count, noun, words in (
        (summary.collected, "result", "collected for recordings that were not asked for this time"),
        (summary.rendered, "file", "rendered from results that were there"),
        (summary.ignored, "file", f"ignored: {_named(summary.ignored_suffixes, '.')}"),
        (summary.excluded, "recording", f"excluded{_in_folders(summary.excluded_folders)}"),
        (summary.hidden, "hidden name", "not looked at"),
        (summary.links, "link", "not followed"),
    ):
        if count:
            yield f"{_count(count, noun)} {words}"
    for glob in summary.unmatched:
        yield f"`--exclude {glob}` matched nothing"
    requests = sum(summary.requests.values())
    yield f"{_count(requests, 'request')} in {_span(summary.elapsed_s)}, run {summary.run_id}"
    if summary.reason and summary.reason not in said:
        yield f"ended early: {summary.reason}"

    if summary.kept:
        yield (
            f"hint: `--redo-changed` asks anew for the {summary.kept:,} that were written with "
            f"other options or by another provider: {summary.kept_hours:,.2f} h of audio"
            + _about(summary.kept_cost_usd)
        )
    if summary.failed:
        yield "hint: `--retry-failed` tries again what failed and has cost nothing"
    if summary.parked and not summary.dry_run:
        yield "hint: the same command again goes on with what is left"


def _named(counts: Mapping[str, int], before: str = "") -> str:
    """The first names with their counts: `.vox 3, .qta 2, and others`."""
    first = [f"{before + name if name else 'no suffix'} {counts[name]:,}" for name in counts]
    others = ["and others"] if len(first) > _NAMED else []
    return ", ".join([*first[:_NAMED], *others]) or "no recording by its name"


def _in_folders(counts: Mapping[str, int]) -> str:
    return f": {_named(counts)}" if counts else ""


def _budget(summary: Summary) -> Iterator[str]:
    """What the run would come to, how long it takes, and what it leaves."""
    doubts = [
        f"{count:,} {words}"
        for count, words in (
            (summary.unprobed, "by their size alone"),
            (summary.possible_copies, "perhaps equal to others, and free then"),
        )
        if count
    ]
    of_these = f"; of these {' and '.join(doubts)}" if doubts else ""
    yield f"to be asked for: {_due(summary)}{of_these}"
    if summary.due and summary.due_elapsed_s is not None:
        yield f"this takes about {_span(summary.due_elapsed_s)}, at the pace of the last uploads"
    elif summary.due:
        yield "how long this takes nobody knows before the first uploads, without `--bwlimit`"
    if summary.due_later:
        nights = (
            "runs like this one do not come to all of it"
            if summary.due_nights is None
            else f"{_count(summary.due_nights, 'run')} like this one in all"
        )
        yield (
            f"{_count(summary.due_later, 'recording')} left to later runs, at most"
            f" {summary.due_later_hours:,.2f} h of audio{_about(summary.due_later_cost_usd)}:"
            f" {nights}"
        )


def _due(due: Summary | Standing) -> str:
    """What would be asked for, from the least to the most."""
    transcripts = _between(f"{due.due_least:,}", _count(due.due, "transcript"))
    hours = _between(f"{due.due_hours_least:,.2f}", f"{due.due_hours:,.2f} h of audio")
    if due.due_cost_usd is None or due.due_cost_usd_least is None:
        return f"{transcripts}, {hours}, at an unknown cost"
    usd = _between(f"${due.due_cost_usd_least:,.2f}", f"${due.due_cost_usd:,.2f}")
    return f"{transcripts}, {hours}, about {usd}"


def _between(least: str, most: str) -> str:
    return most if most.split(" ")[0] == least else f"{least} to {most}"


def _ends(counts: Summary | Standing, ends: Sequence[tuple[str, str]]) -> list[str]:
    return [
        f"{count:,} {words}"
        for field, words in ends
        if (count := getattr(counts, field)) or field == "written"
    ]


def _about(cost_usd: float | None) -> str:
    return ", at an unknown cost" if cost_usd is None else f", about ${cost_usd:,.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
