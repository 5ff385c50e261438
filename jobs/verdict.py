"""
Why a run ends with the exit code that it does: in, what it came to; out, causes, the worst first.

    what ended the intake                         its own code
    failed, missing, unreadable, lost, absent     3
    a source that is empty, or half of one gone   3
    heard in part, without text                   3
    left since the intake ended, or as backlog    none of its own

So 8 and 10 say that a cap or the window is the only cause: nobody has to look. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import ExitCode
from pipeline.ledger import BACKLOG
from pipeline.ledger.accounts import AT_SERVICE, UNSAVED
from pipeline.losses import Loss
from pipeline.overdue import STUCK
from pipeline.report.words import count

__all__ = ["MISSED", "Cause", "Ending", "causes", "exit_code_of"]

MISSED = "no run worked in the last window"
"""What makes a planned end none: nobody would hear that nothing is done."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What a run came to, as far as its exit code goes."""

    ends: Mapping[ExitCode, str] = field(default_factory=dict)
    """What ended the intake, as `Intake.ends` has it."""
    failed: int = 0
    """Recordings, the missing ones among them, but not what was given up before."""
    parked: Mapping[str | None, int] = field(default_factory=dict)
    """Recordings by the reason why they are left; None for those that were not come to."""
    absent: Sequence[str] = ()
    """Sources that are not there."""
    losses: Sequence[Loss] = ()
    """Sources that hold much less than before, where nobody is there who sees it."""
    amiss: Mapping[str, int] = field(default_factory=dict)
    """How many results of this run are not what they should be, by what they are."""
    is_unread: bool = False
    """Whether something in the folders could not be looked at."""
    is_undeleted: bool = False
    """Whether copies at the service are still to be deleted."""
    is_barred: bool = False
    """Whether some of them were asked for with a key that nobody has trusted."""
    is_missed: bool = False
    """Whether it began outside of the window, and none worked in the latest one."""
    foreign: int = 0
    """Older results that could not come back, since they are of other bytes."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for an exit code."""

    exit_code: ExitCode
    said: str
    """The same in words."""


def exit_code_of(ending: Ending) -> ExitCode:
    """What a run exits with."""
    return ExitCode.worst(*(cause.exit_code for cause in causes(ending)))


def causes(ending: Ending) -> list[Cause]:
    """All that a run did not come to its end for, the worst first; none is a success."""
    ends = dict(ending.ends)
    waits = ending.is_undeleted or any(
        number and (reason != BACKLOG or ending.is_missed)
        for reason, number in ending.parked.items()
    )
    if not waits:
        ends.pop(ExitCode.WINDOW_CLOSED, None)
    found = [Cause(exit_code, said) for exit_code, said in ends.items()]
    if ending.is_missed and ExitCode.WINDOW_CLOSED in ends:
        found.append(Cause(ExitCode.WINDOW_CLOSED, MISSED))
    found += [Cause(ExitCode.PARTIAL, said) for said in _amiss(ending)]
    return sorted(found, key=lambda cause: cause.exit_code.rank)


def _amiss(ending: Ending) -> Iterator[str]:
    """What somebody has to look at."""
    for name in ending.absent:
        yield f"source {name} is missing"
    for loss in ending.losses:
        yield loss.cause
    if ending.failed:
        yield f"{count(ending.failed, 'recording')} failed"
    for reason, number in ending.parked.items():
        if _is_amiss(reason, ending.ends):
            yield f"{count(number, 'recording')} left" + (f": {reason}" if reason else "")
    for what, number in ending.amiss.items():
        yield f"{count(number, 'recording')} {what}"
    if ending.is_unread:
        yield "not everything could be looked at"
    if ending.is_barred:
        yield "copies at the service are not deleted, since another key asked for them"
    elif ending.is_undeleted and ExitCode.WINDOW_CLOSED not in ending.ends:
        yield "copies at the service are not deleted yet"
    if ending.foreign:
        yield f"{ending.foreign:,} of the older results: their recordings hold other bytes"


def _is_amiss(reason: str | None, ends: Mapping[ExitCode, str]) -> bool:
    """Whether what is parked for a reason is left for that alone, not since the intake ended."""
    if reason is None:
        return not ends
    if reason in (AT_SERVICE, UNSAVED):  # a cap leaves time to fetch what was asked for
        return not ends.keys() - {ExitCode.CAP_REACHED}
    return reason != BACKLOG and not reason.startswith(STUCK)
