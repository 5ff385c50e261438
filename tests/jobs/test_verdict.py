"""The exit code of a run, for every combination of what can be the matter with it."""

from collections.abc import Iterator
from itertools import combinations
from typing import TypeVar

import pytest

from jobs.verdict import Ending, causes, exit_code_of
from pipeline.errors import ExitCode
from pipeline.ledger import BACKLOG
from pipeline.ledger.accounts import AT_SERVICE, UNSAVED
from pipeline.losses import Loss

T = TypeVar("T")

LOST = "the answer of the service was lost: the next run finds out what became of it"
PARKED = {"not come to": None, "at service": AT_SERVICE, "unsaved": UNSAVED, "backlog": BACKLOG}
PARKED |= {"lost": LOST}

BAD = {"failed", "absent", "shrunk", "amiss", "unread", "foreign", "lost", "barred"}
"""What somebody has to look at, whatever else has happened."""
LATE = {"at service", "unsaved", "undeleted"}
"""What a window cuts short."""
TRAITS = BAD | LATE | {"not come to", "backlog", "missed"}

WORST_FIRST = [1, 2, 11, 4, 5, 130, 143, 129]
"""Those before which nothing else counts."""
ENDS = [1, 2, 4, 5, 143, 8, 10]


def subsets(of: list[T]) -> Iterator[frozenset[T]]:
    """All of them, the empty one first."""
    for size in range(len(of) + 1):
        yield from map(frozenset, combinations(of, size))


def expected(ends: frozenset[int], traits: frozenset[str]) -> int:
    """The exit code by the words of the pages."""
    worse = [code for code in WORST_FIRST if code in ends]
    if worse:
        return worse[0]
    alarms = traits & BAD
    if 10 not in ends:
        alarms |= traits & LATE
    if not ends:
        alarms |= traits & {"not come to"}
    if alarms:
        return 3
    if 8 in ends:
        return 8
    waits = traits & (LATE | {"not come to"}) or {"missed", "backlog"} <= traits
    return 10 if 10 in ends and waits else 0


def ending(ends: frozenset[int], traits: frozenset[str]) -> Ending:
    return Ending(
        ends={ExitCode(code): f"ended with {code}" for code in ends},
        failed="failed" in traits,
        parked={reason: 1 for name, reason in PARKED.items() if name in traits},
        absent=["nas"] if "absent" in traits else [],
        losses=[Loss("phone", 5, 0, "2026-03-02")] if "shrunk" in traits else [],
        amiss={"without text": 2} if "amiss" in traits else {},
        is_unread="unread" in traits,
        is_undeleted="undeleted" in traits,
        is_barred="barred" in traits,
        is_missed="missed" in traits,
        foreign="foreign" in traits,
    )


# What goes before 3 goes before it alike: one of them stands for all, and their order is tested
# beside them.
@pytest.mark.parametrize(
    "ends",
    [*subsets([5, 8, 10]), *map(frozenset, combinations(ENDS, 2))],
    ids=lambda ends: "+".join(map(str, sorted(ends))),
)
def test_the_exit_code_is_that_of_the_worst_cause(ends: frozenset[int]) -> None:
    """Whatever ended a run and whatever came of it, one order decides, and 8 and 10 come last."""
    for traits in subsets(sorted(TRAITS)):
        made = ending(ends, traits)

        assert exit_code_of(made) == expected(ends, traits), sorted(traits)


def test_a_cause_is_told_once_and_the_worst_first() -> None:
    """Causes come in the order of their exit codes, each in words of its own."""
    told = causes(ending(frozenset(ENDS), frozenset(TRAITS)))

    assert [cause.exit_code for cause in told] == sorted(
        (cause.exit_code for cause in told), key=lambda code: code.rank
    )
    assert len({cause.said for cause in told}) == len(told)
    assert [cause.said for cause in told if cause.exit_code == ExitCode.PARTIAL] == [
        "source nas is missing",
        "source phone is empty: it held 5",
        "1 recording failed",
        f"1 recording left: {LOST}",
        "2 recordings without text",
        "not everything could be looked at",
        "copies at the service are not deleted, since another key asked for them",
        "1 of the older results: their recordings hold other bytes",
    ]
