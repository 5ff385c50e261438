"""
The things that flow: what a scan finds, what the ledger hands out, what stages pass on.

Words are the service's where it has them (`transcript_id`, `upload_url`, `audio_url`, `status`);
*state* is always the ledger's word, *status* always the service's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from hashlib import sha256
from os import stat_result
from typing import Any

import msgspec

__all__ = [
    "MAX_UPLOAD_BYTES",
    "NIGHTS",
    "SETTLED_S",
    "UNREADABLE",
    "AttemptState",
    "Claim",
    "Completion",
    "Copy",
    "Delivery",
    "Entry",
    "Pending",
    "Recipient",
    "RecordingState",
    "Root",
    "Stored",
    "TranscriptState",
    "Turn",
    "Unresolved",
    "Uploaded",
    "age_s",
    "is_settled",
    "request_key",
    "signed",
]

MAX_UPLOAD_BYTES = 2_200_000_000
"""Largest recording the service takes as an upload.

Source: https://www.assemblyai.com/docs, FAQ on file size: 2.2 GB for `/v2/upload`.
"""

NIGHTS = 3
"""On how many something fails until it is given up, where nobody says otherwise."""

UNREADABLE = -1
"""In place of a size: the folder that the file is or is not in cannot be read."""

_HALF = 1 << 63

SETTLED_S = 2.0
"""Age of a file's last change, seconds, from which on another one would show in its times."""


_DAY_S = 86_400.0


def age_s(found: stat_result, now: float) -> float | None:
    """
    Seconds since the last change of a file, by what can be believed; None where nothing can.

    An `mtime` that lies ahead was set, or noted by a clock that was wrong: then its `ctime` counts,
    which nobody sets. What lies ahead by that, too, changed just now, or if it is more than a day,
    nobody knows when: it will never come of age, so no age may be asked of it.
    """
    for changed in (found.st_mtime, found.st_ctime):
        if changed <= now:
            return now - changed
    return None if min(found.st_mtime, found.st_ctime) > now + _DAY_S else 0.0


def is_settled(found: stat_result, now: float) -> bool:
    """Whether another change of a file would show in its times."""
    age = age_s(found, now)
    return age is None or age >= SETTLED_S


class RecordingState(StrEnum):
    """What the ledger knows of a path."""

    FOUND = "found"
    """Its result is not on disk yet. Moved on by upload (content) and write (result)."""
    SKIPPED = "skipped"
    """Not to be sent, with a reason. Looked at again by the next scan."""
    WRITTEN = "written"
    """Its result is durable. Back to `found` when its bytes change or the result is gone."""


class TranscriptState(StrEnum):
    """What the ledger knows of a request key and generation: a transcript wanted once."""

    WANTED = "wanted"
    """Nothing is under way. Moved on by upload."""
    OPEN = "open"
    """An attempt is uploaded, being submitted, or its answer was lost."""
    SUBMITTED = "submitted"
    """The service has accepted it: there is an id. Left only by what a GET of the id says."""
    COMPLETED = "completed"
    """Paid. Fetched, at no cost, until every recording of the content has its result."""
    WRITTEN = "written"
    """Paid, and saved for every recording of the content."""
    FAILED = "failed"
    """Nothing was paid, and asking again would end alike."""
    MISSING = "missing"
    """Accepted once, and gone at the service before it could be saved. Asked for now and then."""


class AttemptState(StrEnum):
    """What the ledger knows of one upload and its at most one submit."""

    UPLOADING = "uploading"
    """Bytes are on their way; worth nothing after a crash."""
    UPLOADED = "uploaded"
    """There is an `upload_url`, good for one submit."""
    SUBMITTING = "submitting"
    """The request may leave at any moment. After a crash: ambiguous."""
    ACCEPTED = "accepted"
    """The service gave an id."""
    REFUSED = "refused"
    """The service said no, whole and clear."""
    AMBIGUOUS = "ambiguous"
    """The answer was lost. Moved on by the reconciler, or parked."""
    NOT_ACCEPTED = "not_accepted"
    """It never became a transcript: not listed, or its upload was not needed."""


class Turn(IntEnum):
    """When a recording has its turn in a run: the lower one first."""

    TAKEN = 0
    """This run has taken it before."""
    NEW = 1
    """This run has not come to it yet."""
    FAILED_BEFORE = 2
    """Nor to this one, which failed in an earlier run."""
    BACKLOG = 3
    """Nor to this one, which has been lying there for long."""
    FAILED = 4
    """It failed in this run, once; one more for each time."""


def request_key(content: str, options: str, provider_kind: str) -> str:
    """
    The identity of what is paid for once, 64 hex digits.

    `content` is the sha256 of the bytes, `options` the canonical JSON of what the user set,
    `provider_kind` one of `assemblyai`, `local`, `custom`. No key, host or default of ours is
    in it: none of them may pay for an archive again.
    """
    return sha256(f"{content}\n{options}\n{provider_kind}".encode()).hexdigest()


def signed(number: int) -> int:
    """
    A number of a file system as SQLite takes it: 64 bits with a sign. What differed still differs.

    Source: https://www.sqlite.org/datatype3.html. Inodes have 64 bits without a sign, and times in
    nanoseconds have more for years before 1677 and after 2262.
    """
    return (number + _HALF) % (2 * _HALF) - _HALF


@dataclass(frozen=True, slots=True)
class Root:
    """A folder that the user named, or files in it."""

    name: str
    folder: bytes
    """Absolute."""
    prefix: bytes
    """What its results' paths begin with: nothing, or the name and `/`."""
    only: tuple[bytes, ...] | None = None
    """The files to take, if files were named."""


class Entry(msgspec.Struct, frozen=True):
    """A recording as a scan sees it."""

    path: bytes
    """Relative to its root, as the file system spells it."""
    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    inode: int
    settled: bool
    """Whether the last change was at least 2 s old: a later one would show in `mtime_ns`."""
    options: str
    """Canonical JSON of the options that the user set for this path."""
    result: bytes
    """Where its JSON goes, relative to the output folder, unless the ledger says otherwise."""
    skip: str | None = None
    """Why it is not to be sent."""
    turn: int = 1
    """A `Turn`: `NEW` or `BACKLOG`."""
    place: int = 0
    """Before or behind others in the order that the user named; by its path among equals."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An attempt whose bytes the service has."""

    attempt_id: int
    recording_id: int
    upload_url: str
    root: str
    path: bytes
    options: Mapping[str, Any]
    expected_s: float | None = None
    """Seconds of audio that it comes to at the most; None where that was not noted."""
    content: str = ""
    """sha256 of the bytes, hex."""
    turn: int = 1
    """The `Turn` in which it was taken."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A recording that this run works on."""

    recording_id: int
    root: str
    path: bytes
    size: int
    content: str | None
    """sha256 of the bytes as last read, hex; None before the first reading."""
    attempt_id: int
    options: Mapping[str, Any]
    """What the user set for it."""
    result: bytes
    """Where its JSON goes, relative to the output folder."""
    turn: int = 1
    """The `Turn` in which it was taken."""
    uploaded: Uploaded | None = None
    """An upload of an earlier run that is still good."""
    is_redo: bool = False
    """Whether it has a result, and a new one of it was agreed to by this claim."""

    @property
    def is_new(self) -> bool:
        """Whether this run takes it for the first time."""
        return Turn.NEW <= self.turn <= Turn.BACKLOG


@dataclass(frozen=True, slots=True)
class OtherKey:
    """An API key that transcripts were asked for with, and that may be of another project."""

    fingerprint: str
    newest: Sequence[str]
    """Ids of the last few of them."""
    is_open: bool
    """Whether any of them is still to be fetched."""
    is_young: bool
    """Whether any of the newest was accepted less than an hour ago."""
    to_delete: int
    """Of how many the service's copy is due to be deleted."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """An attempt of which nobody knows yet if the service accepted it."""

    attempt_id: int
    upload_url: str
    anchor: str | None
    """Id of the newest transcript listed before the attempt; None when the list was empty."""
    key_fingerprint: str
    """Of the key that it was asked for with."""
    is_ours: bool = True
    """Whether that key is known to be of this project: only then does its absence say anything."""
    claimed_id: str | None = None
    """An id that its answer gave and that may be another's: its absence says nothing then."""
    root: str = ""
    """Of the recording that it was asked for, as its path."""
    path: bytes = b""


@dataclass(frozen=True, slots=True)
class Pending:
    """A transcript that the service has accepted and whose result is not saved yet."""

    attempt_id: int
    transcript_id: str
    audio_url: str
    completed: bool
    """Whether a GET has said so already."""
    accepted_at: float
    """Unix time."""
    finished_at: float | None
    """Unix time at which a GET first said `completed`."""
    result: bytes
    """Where the result of the recording that it was asked for goes, below the output folder."""
    is_lost: bool = False
    """Whether the service did not know its id when it was asked last, long enough ago."""
    expected_s: float | None = None
    """Seconds of audio, as expected when it was asked for."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What a finished transcript says of its cost, and of itself."""

    model_used: str | None
    """The service's `speech_model_used`."""
    duration_s: float | None
    """Seconds of audio."""
    price_usd: float | None
    """Estimated, None where the model has no price."""
    confidence: float | None = None
    """Of the whole, 0 to 1."""
    language_code: str | None = None
    """Of what was said."""
    odd: str | None = None
    """What is suspicious about the answer, in a sentence."""
    amiss: str | None = None
    """Why somebody has to look at it, in a few words."""


@dataclass(frozen=True, slots=True)
class Sent:
    """The recording that a transcript was asked for, as it was when it was sent."""

    options: Mapping[str, Any]
    """What the user set for the request."""
    root: str
    path: bytes
    size: int
    """Bytes; what follows is as a scan notes it."""
    mtime_ns: int
    ctime_ns: int
    inode: int

    @property
    def is_whole(self) -> bool:
        """Whether all of it was to be heard."""
        part = ("audio_start_from", "audio_end_at")
        return not any(self.options.get(f"{sign}{key}") for sign in ("", "+") for key in part)


@dataclass(frozen=True, slots=True)
class Recipient:
    """A recording that waits for a result."""

    recording_id: int
    root: str
    path: bytes
    result: bytes
    """Path of its JSON file, relative to the output folder."""
    current: bool
    """Whether it still has the content that was transcribed."""
    replaces: bool
    """Whether a result that was saved before stands in that place."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A result of a transcript, as the ledger has it lying on disk."""

    result: bytes
    """Path of the JSON file of the recording that it is of, relative to the output folder."""
    digest: str
    """sha256 of the file, hex."""
    is_version: bool
    """Whether it lies among the versions, and not there."""
    is_noted: bool = True
    """Whether it was there when the ledger last looked."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A finished transcript and who waits for it; whoever asked for it where nobody does."""

    recipients: list[Recipient] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    """Where it lies already, some of the places."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A result that is on disk."""

    recording_id: int
    result: bytes
    """Path of its JSON file, relative to the output folder."""
    size: int
    """Bytes."""
    digest: str
    """sha256 of the file, hex."""
