"""
What happened in a run, as facts: stages tell them, progress, logs and files listen.

Each fact is one line of `events.ndjson` and of `--json`: an object whose `type` is the name
of the fact in snake_case, whose `time` is RFC 3339 in UTC, and whose other fields are below.
Fields are only ever added.
"""

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, tzinfo
from typing import Any

import msgspec

from pipeline.models import Root

__all__ = [
    "Completed",
    "Emit",
    "Event",
    "Failed",
    "Outage",
    "Parked",
    "RecordingFound",
    "Retrying",
    "RunStarted",
    "Skipped",
    "Standing",
    "Submitted",
    "Summary",
    "Uploaded",
    "Warned",
    "Written",
    "as_dict",
    "encode",
    "moment",
    "printable",
]


_FIRST_S = datetime(1000, 6, 1, tzinfo=UTC).timestamp()
_LAST_S = datetime(9998, 6, 1, tzinfo=UTC).timestamp()

_OBEYED = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]"
)
"""What JSON leaves as it is, of that which `pipeline.lines.visible` shows."""


def printable(path: bytes) -> str:
    """
    A path of the file system as text; bytes that are not UTF-8 show as `\\xNN`.

    It may hold what a terminal obeys: on its way to one it goes through `pipeline.lines`.
    """
    return path.decode("utf-8", "backslashreplace")


def label(roots: Mapping[str, Root], root: str, path: bytes) -> str:
    """How a recording is called in events, for all roots by name."""
    known = roots.get(root)
    return printable((known.prefix if known else root.encode() + b"/") + path)


def moment(at_s: float, zone: tzinfo | None = UTC) -> datetime:
    """
    A time as people write it, by the clocks of a zone, None for this place; never an error.

    `at_s` is Unix time, seconds. What a clock or a file says of other years is the first or last
    that can be written with four digits, with room for what is reckoned from there.
    """
    return datetime.fromtimestamp(min(max(at_s, _FIRST_S), _LAST_S), UTC).astimezone(zone)


class Event(msgspec.Struct, kw_only=True, tag_field="type"):
    """One fact; `time` is when it was told."""

    time: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


class RunStarted(Event, tag="run_started"):
    """The lock is held and the ledger is open."""

    run_id: str
    version: str
    provider: str
    output: str
    to_delete: int = 0
    """Copies of earlier runs that the service is to delete."""


class RecordingFound(Event, tag="recording_found"):
    """A recording that this run has work with; those already written are only counted."""

    recording: str
    size: int
    """Bytes."""
    phase: str | None = None
    """How far earlier runs came with it: `submitting`, `transcribing`, `saving`, or `failed`; None
    where it is to be uploaded."""


class Uploaded(Event, tag="uploaded"):
    """The service has the bytes; nothing is paid yet."""

    recording: str
    size: int
    """Bytes."""
    content: str
    """sha256 of the bytes, hex."""


class Submitted(Event, tag="submitted"):
    """The service accepted the request and will bill it when it completes."""

    recording: str
    transcript_id: str


class Completed(Event, tag="completed"):
    """The service has finished, and its answer is here."""

    recording: str
    transcript_id: str
    audio_duration: float
    """Seconds."""
    speech_model_used: str | None
    cost_usd: float | None
    """Estimated from the price table; None when the model has no price there."""


class Written(Event, tag="written"):
    """The result is durable on disk."""

    recording: str
    transcript_id: str
    result: str
    """Path of the JSON file, relative to the output folder."""
    replaced: bool = False
    """Whether what stood there before was kept in `versions/`."""
    amiss: str | None = None
    """Why somebody has to look at it, `heard in part` or `without text`; None where nobody has."""


class Deleted(Event, tag="deleted"):
    """The service has no copy of a transcript and its audio any more, since that was asked for."""

    transcript_id: str


class Skipped(Event, tag="skipped"):
    """A recording that is not sent."""

    recording: str
    reason: str


class Failed(Event, tag="failed"):
    """A recording that could not be transcribed in this run."""

    recording: str
    reason: str
    transcript_id: str | None = None


class Parked(Event, tag="parked"):
    """A recording that was begun and is left for the next run; those not come to are counted."""

    recording: str
    reason: str
    transcript_id: str | None = None


class Warned(Event, tag="warning"):
    """Something the user should know, that ends nothing."""

    message: str


class Outage(Event, tag="outage"):
    """Some calls get through no more, or do so again; what needs them waits meanwhile."""

    message: str
    calls: list[str]
    """Which are down from now on: `list get upload submit`; none once all get through."""


class Retrying(Event, tag="retrying"):
    """A call failed by itself, and is made again."""

    message: str
    attempt: int
    """The number of the try that comes."""
    of: int | None
    """How many there are at the most, None if only time limits them."""
    in_s: float
    """Seconds until it is made."""


class Standing(msgspec.Struct, kw_only=True):
    """What became of the recordings of one source; its counts add up as those of `Summary` do."""

    name: str
    found: int = 0
    written: int = 0
    already_written: int = 0
    kept: int = 0
    failed: int = 0
    skipped: int = 0
    parked: int = 0
    reason: str | None = None
    """Why nothing was found, where the source is not there."""
    due: int = 0
    """This and those below are as in the summary."""
    due_least: int = 0
    due_hours: float = 0.0
    due_hours_least: float = 0.0
    due_cost_usd: float | None = None
    due_cost_usd_least: float | None = None


class Summary(Event, tag="summary"):
    """What a run came to: the last line, and the whole of `summary.json`.

    `found` is the sum of `written`, `already_written`, `kept`, `failed`, `skipped` and `parked`.
    """

    run_id: str
    exit_code: int
    reason: str | None = None
    """Why the run ended before it was through, if it did."""
    why: list[str] = []
    """The causes of an exit code that is not 0, in a few words each, the worst first."""
    missed_window: bool = False
    """Whether it waits for a window, and no run worked in the latest one: no good night."""
    dry_run: bool = False
    """Whether nothing was sent: what is parked is what would be sent, and what would be left, by
    reason."""
    scanned: bool = True
    """Whether all folders were looked through; if not, they may hold more than `found`."""
    found: int = 0
    written: int = 0
    already_written: int = 0
    kept: int = 0
    """Written with other options, or by another provider; `--redo-changed` asks for them anew."""
    kept_hours: float = 0.0
    """Hours of audio that a redo of `kept` would ask for."""
    kept_cost_usd: float | None = None
    failed: int = 0
    given_up: int = 0
    """Of `failed`: those that failed on as many nights as they are tried, and were told before."""
    skipped: int = 0
    parked: int = 0
    ignored: int = 0
    """Files that are no recordings: never listed, never sent."""
    ignored_suffixes: dict[str, int] = msgspec.field(default_factory=dict)
    """How many ignored files have which suffix, in lower case without its dot; the first hundred of
    them."""
    excluded: int = 0
    """Recordings that `exclude` leaves out."""
    excluded_folders: dict[str, int] = msgspec.field(default_factory=dict)
    """How many of them lie in which folder that is excluded as a whole; the first hundred of
    them."""
    hidden: int = 0
    """Files and folders whose names begin with a dot; what is in such a folder is not counted."""
    links: int = 0
    """Symbolic links that are not followed, or lead nowhere."""
    unmatched: list[str] = []
    """Globs of `exclude` that matched nothing in any source."""
    collected: int = 0
    """Results of earlier runs, written for recordings that were not asked for this time."""
    deleted: int = 0
    """Copies that the service deleted in this run, as asked for."""
    rendered: int = 0
    """Derived files (txt, srt, …) made for results that were already there."""
    transcripts: int = 0
    """
    `submitted` events: transcripts that the service accepted, and lost answers that this run found.
    """
    audio_hours: float = 0.0
    """Hours of audio in the transcripts that completed in this run."""
    cost_usd: float | None = None
    """Estimated cost of `audio_hours`; None when a model has no price."""
    due: int = 0
    """For a dry run, as what begins with it: transcripts that would be asked for, at the most."""
    due_least: int = 0
    """The same at the least; both are one where lengths, prices and copies are certain."""
    due_hours: float = 0.0
    """Hours of audio that would be asked for, at the most: those of `audio_hours`."""
    due_hours_least: float = 0.0
    """The same at the least."""
    due_cost_usd: float | None = None
    """Estimated cost, at the most; None when a model has no price."""
    due_cost_usd_least: float | None = None
    """The same at the least."""
    due_bytes: int = 0
    """What these recordings take, at the most."""
    due_elapsed_s: float | None = None
    """Seconds that this takes, about, at the pace of the last uploads or of `bwlimit`; None where
    that is not known."""
    due_nights: int | None = None
    """Runs like this one until nothing is left, at the most; None where a cap of the month ends
    that."""
    due_later: int = 0
    """Recordings that this run would leave to those after it, at the most."""
    due_later_hours: float = 0.0
    """Hours of audio of these."""
    due_later_cost_usd: float | None = None
    """Estimated cost of these."""
    unprobed: int = 0
    """Of `due`: recordings whose length is estimated by their size."""
    possible_copies: int = 0
    """Of `due`: recordings that may be equal to another one, so that nothing is asked for."""
    elapsed_s: float = 0.0
    requests: dict[str, int] = msgspec.field(default_factory=dict)
    """Requests sent, by kind."""
    reasons: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    """For `failed`, `given_up`, `skipped` and `parked`: how many recordings by reason."""
    sources: list[Standing] = []
    """The same counts for each source, if there are several."""


Emit = Callable[[Event], None]
"""Tells a fact; never blocks, never raises."""


def encode(event: Event) -> bytes:
    """One line of NDJSON, without the newline, in which a terminal finds nothing to obey."""
    try:
        line = msgspec.json.encode(event)
    except UnicodeEncodeError:  # a path of the system as Python reads it
        line = json.dumps(msgspec.to_builtins(event), ensure_ascii=False).encode(
            "utf-8", "backslashreplace"
        )
    return _OBEYED.sub(_escaped, line)


def _escaped(found: re.Match[bytes]) -> bytes:
    return f"\\u{ord(found[0].decode()):04x}".encode()


def as_dict(event: Event) -> dict[str, Any]:
    """The same as plain values."""
    made: dict[str, Any] = msgspec.to_builtins(event)
    return made
