"""The error tree is the one that is drawn, and the worst exit code wins."""

import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import errors
from pipeline.errors import (
    BatchError,
    ConnectionLost,
    ExitCode,
    PipelineError,
    RateLimited,
    RecordingError,
    RequestRejected,
    TranscriptUnknown,
    TransientError,
    leaves,
)

WORST_FIRST = [1, 2, 11, 4, 5, 130, 143, 129, 3, 8, 10, 0]

_LINE = re.compile(r"^( *)[*+.-] (\w+)(?: +exit (\d+))?", re.MULTILINE)


def drawn() -> Iterator[tuple[str, str, int | None]]:
    """Name, parent and exit code of each line of the drawing."""
    above: list[tuple[int, str]] = [(-1, "Exception")]
    for indent, name, exit_code in _LINE.findall(errors.__doc__ or ""):
        while above[-1][0] >= len(indent):
            above.pop()
        yield name, above[-1][1], int(exit_code) if exit_code else None
        above.append((len(indent), name))


def classes() -> dict[str, type[PipelineError]]:
    """The error classes of the module by name."""
    found = vars(errors).values()
    return {c.__name__: c for c in found if isinstance(c, type) and issubclass(c, PipelineError)}


def test_the_drawn_tree_is_the_classes() -> None:
    """Every error stands in the drawing, below the class that it is made from."""
    made = {(name, c.__base__.__name__) for name, c in classes().items() if c.__base__}

    assert {(name, parent) for name, parent, _ in drawn()} == made


def test_the_drawn_exit_codes_are_those_of_the_classes() -> None:
    """Every error that ends a batch exits as drawn, and no other error has an exit code."""
    made = {
        name: int(c.exit_code)
        for name, c in classes().items()
        if issubclass(c, BatchError) and c is not BatchError
    }

    assert {name: code for name, _, code in drawn() if code is not None} == made


def test_every_error_is_of_one_family() -> None:
    """What to do about an error is never in doubt: each belongs to exactly one family."""
    families = (BatchError, RecordingError, TransientError)
    for error in classes().values():
        if error is not PipelineError:
            assert sum(issubclass(error, family) for family in families) == 1, error


def test_every_error_is_public_and_says_when_it_is_raised() -> None:
    """Each class is exported, and its docstring is its own."""
    for name, error in classes().items():
        assert name in errors.__all__
        assert error.__doc__


def test_exit_codes_are_the_documented_ones() -> None:
    """The numbers that a scheduler sees are these and no others."""
    assert sorted(ExitCode) == sorted(WORST_FIRST)


@pytest.mark.parametrize(("worse", "better"), list(pairwise(WORST_FIRST)))
def test_the_worse_of_two_exit_codes_wins(worse: int, better: int) -> None:
    """Each cause wins over the next one in the documented order, whichever was told first."""
    assert ExitCode.worst(ExitCode(worse), ExitCode(better)) == worse
    assert ExitCode.worst(ExitCode(better), ExitCode(worse)) == worse


@given(st.lists(st.sampled_from(ExitCode)))
def test_the_worst_exit_code_wins(codes: list[ExitCode]) -> None:
    """Of any number of causes the first in the documented order wins; none is a success."""
    expected = next((code for code in WORST_FIRST if code in codes), 0)

    assert ExitCode.worst(*codes) == expected


def test_errors_carry_what_is_needed_to_act() -> None:
    """Pause, status and whether a byte can have left are attributes, not only words."""
    assert RateLimited("slow down", 30.0).retry_after_s == 30.0
    assert RequestRejected("no", 413).status_code == 413
    assert TranscriptUnknown("gone", 404).status_code == 404
    assert ConnectionLost("reset").connected
    assert not ConnectionLost("refused", connected=False).connected


def test_what_is_paid_is_fetched_unless_nothing_can_be() -> None:
    """Only a refused key, a dead service and no place for results end the fetching as well."""
    stopping = {
        name for name, c in classes().items() if issubclass(c, BatchError) and not c.collect
    }

    assert stopping == {"KeyRefused", "ServiceUnusable", "DiskFull", "OutputNotWritable"}


def test_a_group_of_errors_says_each_message_once() -> None:
    """Of errors that came together each is told once, however deep it lies."""
    twice = [BatchError("no room"), BatchError("no room")]
    group = BaseExceptionGroup("", [ExceptionGroup("", twice), BatchError("no room"), ValueError()])

    assert [str(error) for error in leaves(group)] == ["no room", ""]
