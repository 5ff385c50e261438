"""
The error tree: three families, one for each thing that a caller can do about an error.

* PipelineError
  + BatchError            stop intake: every recording would fail alike
    - SettingsError         exit 2   what was asked for cannot be meant
    - OutputNotWritable     exit 2   nothing could be saved
    - LedgerUnusable        exit 2   the state folder cannot be worked with
    - Locked                exit 11  another run holds the state folder
    - KeyRefused            exit 4   no key, a wrong one, or one of another project
    - BalanceNegative       exit 4   the account has to be topped up
    - OptionsRefused        exit 2   the service refuses options that all recordings share
    - RefusedAlike          exit 5   one after the other is refused alike; 4 access, 2 options
    - ServiceUnusable       exit 5   the service is down, or asks us to stay away for long
    - DiskFull              exit 5   no room for another result
    - RoomLow               exit 5   less room than `min_free` asks for
    - CapReached            exit 8   what may be asked for is used up
    - WindowClosed          exit 10  what is asked for now would not finish in the window
  + RecordingError        this recording is lost to this run, the others go on (exit 3)
    - RecordingUnreadable   it vanished, or cannot be opened or read
    - RecordingChanged      it changed while it was being read: still being written
    - RecordingTooCostly    it alone is more than a cap allows
    - PlaceUnwritable       its result could not be saved where it belongs: nothing is asked for
    - RequestRejected       the service refused the request for good
      . TranscriptUnknown     it has no transcript of that id, or none for this key
      . UploadInaccessible    it cannot read the upload, which is good for nothing any more
      . Intercepted           something before the service answered: no verdict on a recording
    - AnswerUnusable        what the service sent for it cannot be saved
    - AttemptsExhausted     the last TransientError is its `__cause__`
  + TransientError        try again; never leaves `pipeline.retry`
    - RateLimited           HTTP 429, carries `retry_after_s`
    - ServiceUnavailable    HTTP 5xx, or an answer that is not whole
      . NotTheService         what answers does not speak the API
    - ConnectionLost        no connection, a reset, a stall
    - AccessDoubted         the key was refused, and taken again a moment later

Nothing else leaves a module of the pipeline, bugs excepted.
"""

from enum import IntEnum

__all__ = [
    "AccessDoubted",
    "AnswerUnusable",
    "AttemptsExhausted",
    "BalanceNegative",
    "BatchError",
    "CapReached",
    "ConnectionLost",
    "DiskFull",
    "ExitCode",
    "Intercepted",
    "KeyRefused",
    "LedgerUnusable",
    "Locked",
    "NotTheService",
    "OptionsRefused",
    "OutputNotWritable",
    "PipelineError",
    "PlaceUnwritable",
    "RateLimited",
    "RecordingChanged",
    "RecordingError",
    "RecordingTooCostly",
    "RecordingUnreadable",
    "RefusedAlike",
    "RequestRejected",
    "RoomLow",
    "ServiceUnavailable",
    "ServiceUnusable",
    "SettingsError",
    "TranscriptUnknown",
    "TransientError",
    "UploadInaccessible",
    "WindowClosed",
    "leaves",
    "trouble",
]


class ExitCode(IntEnum):
    """What the process says to the scheduler that started it; see `worst` for who wins."""

    DONE = 0
    """All written, kept, or nothing to do."""
    UNEXPECTED = 1
    """A bug, with a traceback."""
    USAGE = 2
    """The command line, a setting or an option is wrong, or a folder cannot be used."""
    PARTIAL = 3
    """Something failed, is missing, left or not whole: somebody has to look."""
    REFUSED = 4
    """The service refused the key, the project, or the balance."""
    TRY_LATER = 5
    """Temporary: the service is down or the disk is full."""
    CAP_REACHED = 8
    """A cap on spending ended the intake, and nothing else is amiss."""
    WINDOW_CLOSED = 10
    """The time window ended the intake, and nothing else is amiss."""
    LOCKED = 11
    """Another run holds the lock."""
    HANGUP = 129
    """SIGHUP stopped the run; the next one continues."""
    INTERRUPTED = 130
    """SIGINT stopped the run; the next one continues."""
    TERMINATED = 143
    """SIGTERM stopped the run; the next one continues."""

    @classmethod
    def worst(cls, *codes: "ExitCode") -> "ExitCode":
        """The one to exit with when a run has several reasons, `DONE` when it has none."""
        return min(codes, key=_WORST_FIRST.index, default=cls.DONE)

    @property
    def rank(self) -> int:
        """Its place among those that win over each other, 0 for the worst."""
        return _WORST_FIRST.index(self)


_WORST_FIRST = [
    ExitCode.UNEXPECTED,
    ExitCode.USAGE,
    ExitCode.LOCKED,
    ExitCode.REFUSED,
    ExitCode.TRY_LATER,
    ExitCode.INTERRUPTED,
    ExitCode.TERMINATED,
    ExitCode.HANGUP,
    ExitCode.PARTIAL,
    ExitCode.CAP_REACHED,
    ExitCode.WINDOW_CLOSED,
    ExitCode.DONE,
]


class PipelineError(Exception):
    """
    Everything that the pipeline raises on purpose: a sentence, and lines to go below it.

    So a line that ends within one of them, in the name of a folder say, is known for what it is.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class BatchError(PipelineError):
    """Raised when every recording would fail alike, so that no more are taken in."""

    exit_code = ExitCode.UNEXPECTED

    cause = "it broke off"
    """The same in a few words, for a line."""

    collect = True
    """Whether what the service has already accepted can still be fetched."""

    def __init__(self, *lines: str, cause: str | None = None) -> None:
        super().__init__(*lines)
        self.cause = cause or self.cause


class SettingsError(BatchError):
    """Raised when a setting, a flag or a folder is not what it has to be."""

    exit_code = ExitCode.USAGE
    cause = "a setting or a folder is wrong"


class OutputNotWritable(BatchError):
    """Raised when no result can be saved: nothing more is sent, and nothing can be collected."""

    exit_code = ExitCode.USAGE
    cause = "results cannot be saved"
    collect = False


class LedgerUnusable(BatchError):
    """Raised when the ledger is damaged, newer than this program, or in an unfit place."""

    exit_code = ExitCode.USAGE
    cause = "the ledger cannot be used"


class Locked(BatchError):
    """Raised when another run works with the same state folder."""

    exit_code = ExitCode.LOCKED
    cause = "another run is under way"


class KeyRefused(BatchError):
    """Raised when there is no key, or the service refuses it: nothing can be asked any more."""

    exit_code = ExitCode.REFUSED
    cause = "key refused"
    collect = False


class BalanceNegative(BatchError):
    """Raised when the account has run out of money; finished transcripts are still fetched."""

    exit_code = ExitCode.REFUSED
    cause = "balance used up"


class OptionsRefused(BatchError):
    """Raised when the service refuses options that every recording would be sent with."""

    exit_code = ExitCode.USAGE
    cause = "options refused"


class RefusedAlike(BatchError):
    """Raised when recordings are refused alike, one after the other; what is paid is fetched."""

    exit_code = ExitCode.TRY_LATER
    cause = "all refused alike"

    def __init__(self, said: str, exit_code: ExitCode) -> None:
        super().__init__(f"all are refused alike, and nothing is failed for it: {said}")
        self.exit_code = exit_code


class ServiceUnusable(BatchError):
    """Raised when the service cannot be reached, or asks for a longer pause than a run waits."""

    exit_code = ExitCode.TRY_LATER
    cause = "service unreachable"
    collect = False

    def __init__(self, *lines: str, cause: str | None = None, collect: bool = False) -> None:
        super().__init__(*lines, cause=cause)
        self.collect = collect


class DiskFull(BatchError):
    """Raised when a result cannot be saved for want of room; it stays paid and is fetched later."""

    exit_code = ExitCode.TRY_LATER
    cause = "disk full"
    collect = False


class RoomLow(BatchError):
    """Raised when less is free than `min_free`, which is enough for what is already asked for."""

    exit_code = ExitCode.TRY_LATER
    cause = "disk nearly full"


class CapReached(BatchError):
    """Raised when a recording is more than what a cap on spending has left."""

    exit_code = ExitCode.CAP_REACHED
    cause = "cap reached"


class WindowClosed(BatchError):
    """Raised when what is asked for could not finish before the time window closes."""

    exit_code = ExitCode.WINDOW_CLOSED
    cause = "window closed"


class RecordingError(PipelineError):
    """Raised when one recording cannot be transcribed; the others go on."""


class RecordingUnreadable(RecordingError):
    """Raised when a recording vanished, or cannot be opened or read."""


class RecordingChanged(RecordingError):
    """Raised when a recording is not what it was when it was opened."""


class RecordingTooCostly(RecordingError):
    """Raised when a recording alone is more than a cap allows: it is left out, others go on."""


class PlaceUnwritable(RecordingError):
    """Raised before anything is sent when a result could not be saved where it belongs."""


class RequestRejected(RecordingError):
    """Raised when the service refuses a request for good."""

    def __init__(self, message: str, status_code: int) -> None:
        super().__init__(message)
        self.status_code = status_code


class TranscriptUnknown(RequestRejected):
    """Raised when the service has no transcript of an id: gone, or of another project."""


class UploadInaccessible(RequestRejected):
    """Raised when the service cannot read an upload: a new one may do."""


class Intercepted(RequestRejected):
    """Raised when a web filter or a proxy answers, or the law does: the service never said so."""


class AnswerUnusable(RecordingError):
    """Raised when an answer is too large, not a transcript, or not the one asked for."""


class AttemptsExhausted(RecordingError):
    """Raised when trying again did not help; the last `TransientError` is the cause."""


class TransientError(PipelineError):
    """Raised when the same request may well succeed a little later."""


class RateLimited(TransientError):
    """Raised on HTTP 429; `retry_after_s` is what the service asked for, seconds, or None."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServiceUnavailable(TransientError):
    """Raised on HTTP 5xx, and when an answer ends early or is not what was asked for."""


class NotTheService(ServiceUnavailable):
    """Raised when what answers does not speak the API: another server, or something between."""


class ConnectionLost(TransientError):
    """Raised when there is no connection, or it was reset, or nothing moved on it for too long."""

    def __init__(self, message: str, *, connected: bool = True) -> None:
        super().__init__(message)
        self.connected = connected
        """False when no byte can have reached the service."""


class AccessDoubted(TransientError):
    """Raised when a request was refused for its key, which other requests are taken with."""

    def __init__(self, refusal: KeyRefused | RequestRejected) -> None:
        super().__init__(f"{refusal}, though the key is taken")
        self.status_code = refusal.status_code if isinstance(refusal, RequestRejected) else 401


def trouble(error: PipelineError) -> str:
    """What a service does, by the error of a call that any service answers: a verb and the rest."""
    match error.__cause__ if isinstance(error, AttemptsExhausted) else error:
        case ConnectionLost():
            return "cannot be reached"
        case NotTheService():
            return "is reached, but does not speak the API"
    return "is reached, but does not work"


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The errors of a group and of those within, each message once."""
    found: dict[str, BaseException] = {}
    for error in group.exceptions:
        inner = leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
        found |= {repr(leaf): leaf for leaf in inner}
    return list(found.values())
