"""
The course of a run: in, its events.ndjson; out, how long what took, how far it was when, and why
recordings came to nothing.

The file is read once, line by line. Memory does not grow with it: recordings are followed while
they are under way, times are counted by their size, and moments are thinned out as they come.
"""

import math
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec

from pipeline.events import moment
from pipeline.files import regular
from pipeline.report.words import cut

__all__ = [
    "ENDS",
    "Causes",
    "Course",
    "Mention",
    "Moment",
    "Stage",
    "called",
    "cause",
    "course",
]

ENDS = ("failed", "given_up", "parked", "skipped")
"""How recordings end that have no result; those given up have failed, too."""

_MOST_MOMENTS = 200
_MOST_FOLLOWED = 20_000
"""Recordings that wait for their turn and are timed. Ours: more wait alike, and fill memory."""
_MOST_WARNINGS = 50
_MOST_CAUSES = 1_000
_MOST_NAMED = 200
_REASON_LENGTH = 400
_NAME_LENGTH = 1_000

_STEPS = {"recording_found": 0, "uploaded": 1, "submitted": 2, "completed": 3, "written": 4}
_KNOWN = {"submitting": 1, "transcribing": 2, "saving": 3}
"""Steps that earlier runs left a recording at."""
_STAGES = (
    ("upload", "waiting for a turn and uploading"),
    ("submit", "asking for the transcript"),
    ("service", "waiting for the service"),
    ("save", "saving"),
)


class Stage(msgspec.Struct, frozen=True):
    """How long recordings took from one step to the next."""

    name: str
    """`upload`, `submit`, `service` or `save`."""
    doing: str
    """The same in words."""
    recordings: int
    """How many were timed."""
    median_s: float
    """Half of them took longer; within 2 %."""
    longest_s: float


class Moment(msgspec.Struct, frozen=True):
    """How many recordings were how far at one time."""

    time: datetime
    written: int
    """By this run, until then."""
    failed: int
    """The same."""
    saving: int
    at_service: int
    uploaded: int
    """Not asked for yet."""


class Mention(msgspec.Struct, frozen=True):
    """A recording that came to nothing."""

    recording: str
    transcript_id: str | None = None


class _Line(msgspec.Struct):
    """What counts of an event, whichever it is."""

    type: str
    time: Annotated[datetime, msgspec.Meta(tz=True)]
    recording: str = ""
    reason: str = ""
    message: str = ""
    phase: str | None = None
    transcript_id: str | None = None
    audio_duration: float = 0.0
    cost_usd: float | None = None


_DECODER = msgspec.json.Decoder(_Line)


class Causes:
    """Why recordings came to nothing: how many of each end and reason, and the first of them."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self._named: dict[tuple[str, str], list[Mention]] = {}

    def add(self, ended: str, reason: str, name: str, transcript_id: str | None) -> None:
        """One more; `name` is what it is called."""
        key = ended, cause(reason)
        if key not in self.counts and len(self.counts) >= _MOST_CAUSES:
            key = ended, "other reasons"
        self.counts[key] += 1
        named = self._named.setdefault(key, [])
        if len(named) < _MOST_NAMED:
            named.append(Mention(called(name), transcript_id))

    def named(self, ended: str, reason: str) -> list[Mention]:
        """The first recordings of an end and reason, 200 at most."""
        return self._named.get((ended, reason), [])


def cause(reason: str) -> str:
    """A reason as far as it is told: 400 characters of it."""
    return cut(reason, _REASON_LENGTH)


def called(name: str) -> str:
    """A name as far as it is told: 1,000 characters of it."""
    return cut(name, _NAME_LENGTH)


class Course:
    """How a run went, from the lines of its events in their order."""

    def __init__(self) -> None:
        self.started_at: datetime | None = None
        """Of its first event."""
        self.ended_at: datetime | None = None
        """Of its last one."""
        self.ends: Counter[str] = Counter()
        """Recordings by how they ended: `written failed parked skipped`."""
        self.found = 0
        """Recordings that there was work with."""
        self.audio_s = 0.0
        """Seconds of audio in what completed."""
        self.cost_usd: float | None = 0.0
        """Estimated cost of it; None when a model had no price."""
        self.causes = Causes()
        self.warnings: list[str] = []
        """The first 50."""
        self.warned = 0
        """How many there were."""
        self._spreads = [_Spread() for _ in _STAGES]
        self._under_way: dict[str, tuple[int, float | None]] = {}
        self._phases: Counter[int] = Counter()
        self._moments: list[Moment] = []
        self._apart_s = 0.05

    def moments(self) -> list[Moment]:
        """At most some 200, in their order, from the first event to the last."""
        return [*self._moments, self._now(self.ended_at)] if self.ended_at else []

    def stages(self) -> list[Stage]:
        """Those that any recording went through, in their order."""
        return [
            Stage(name, doing, spread.number, round(spread.median, 3), round(spread.longest, 3))
            for (name, doing), spread in zip(_STAGES, self._spreads, strict=True)
            if spread.number
        ]

    def tell(self, text: bytes) -> None:
        """The next line; one that is none is left out."""
        try:
            self._add(_DECODER.decode(text))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return

    def _add(self, line: _Line) -> None:
        at = moment(line.time.timestamp())
        self._sample(at)
        self.started_at = self.started_at or at
        self.ended_at = max(at, self.ended_at or at)
        if line.phase in _KNOWN and self._may_follow(line.recording):
            self._follow(line.recording, _KNOWN[line.phase], None)
        elif (step := _STEPS.get(line.type)) is not None:
            self._move(line.recording, step, at.timestamp())
        match line.type:
            case "recording_found":
                self.found += 1
            case "completed":
                self.audio_s += line.audio_duration
                known = self.cost_usd is not None and line.cost_usd is not None
                self.cost_usd = (self.cost_usd or 0.0) + (line.cost_usd or 0.0) if known else None
            case "written":
                self.ends["written"] += 1
            case "failed" | "parked" | "skipped":
                self.ends[line.type] += 1
                self._leave(line.recording)
                self.causes.add(line.type, line.reason, line.recording, line.transcript_id)
            case "warning":
                self.warned += 1
                if len(self.warnings) < _MOST_WARNINGS:
                    self.warnings.append(cause(line.message))

    def _move(self, recording: str, step: int, at_s: float) -> None:
        before = self._leave(recording)
        if before is not None and before[0] == step - 1 and before[1] is not None:
            self._spreads[step - 1].add(at_s - before[1])
        is_last = step == len(_STAGES)
        if not is_last and (step > 0 or len(self._under_way) < _MOST_FOLLOWED):
            self._follow(recording, step, at_s)

    def _may_follow(self, recording: str) -> bool:
        return recording not in self._under_way and len(self._under_way) < _MOST_FOLLOWED

    def _follow(self, recording: str, step: int, at_s: float | None) -> None:
        """A recording has come so far at a time, None for an earlier run."""
        self._under_way[recording] = step, at_s
        self._phases[step] += 1

    def _leave(self, recording: str) -> tuple[int, float | None] | None:
        before = self._under_way.pop(recording, None)
        if before is not None:
            self._phases[before[0]] -= 1
        return before

    def _sample(self, at: datetime) -> None:
        """Note how things stood just before `at`, if that was not noted a moment ago."""
        if self.ended_at is None:
            self._moments.append(self._now(at))
        elif (at - self._moments[-1].time).total_seconds() >= self._apart_s:
            self._moments.append(self._now(at))
            if len(self._moments) >= _MOST_MOMENTS:
                self._moments = self._moments[::2]
                self._apart_s *= 2

    def _now(self, at: datetime) -> Moment:
        return Moment(
            time=at,
            written=self.ends["written"],
            failed=self.ends["failed"],
            saving=self._phases[3],
            at_service=self._phases[2],
            uploaded=self._phases[1],
        )


class _Spread:
    """Times, counted by their size in steps of 2 %: enough for a median, in bounded memory."""

    def __init__(self) -> None:
        self.number = 0
        self.longest = 0.0
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float) -> None:
        self.number += 1
        self.longest = max(self.longest, seconds)
        self._counts[round(math.log(max(seconds, 1e-4), 1.02))] += 1

    @property
    def median(self) -> float:
        left = (self.number + 1) // 2
        for size, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return min(1.02**size, self.longest)
        return 0.0


def course(events: Path) -> Course:
    """
    The course of the run that told these events; nothing at all where there are none.

    What a crash tore off, or somebody else wrote, is left out.

    Raises:
        OSError: the file is there and cannot be read.
    """
    found = Course()
    try:
        file = open(events, "rb", opener=regular)  # noqa: SIM115
    except FileNotFoundError:
        return found
    with file:
        for text in file:
            found.tell(text)
    return found
