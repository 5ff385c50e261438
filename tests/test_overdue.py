"""What takes too long: it is known by its age and length, and by what was finished after it."""

import pytest

from pipeline.models import Pending
from pipeline.overdue import STUCK, Overdue, since

NOW = 1_000_000.0
PATIENCE_S = 7200.0


def pending(number: int, age_s: float, *, expected_s: float | None = None) -> Pending:
    """A transcript that was accepted so long ago."""
    return Pending(
        *(number, f"id-{number}", "", False, NOW - age_s, None, b"a.wav.json"),
        expected_s=expected_s,
    )


@pytest.mark.parametrize(
    ("age_s", "expected_s", "is_late"),
    [
        (PATIENCE_S - 1, None, False),
        (PATIENCE_S + 1, None, True),
        (PATIENCE_S + 1, 3600.0, False),
        (PATIENCE_S + 7201, 3600.0, True),
        (-5.0, None, False),
    ],
)
def test_the_length_counts_twice(age_s: float, expected_s: float | None, is_late: bool) -> None:
    """A recording of an hour may take two hours more; a clock that was ahead hurries nothing."""
    each = pending(1, age_s, expected_s=expected_s)

    assert bool(Overdue(PATIENCE_S, [each]).among([each], NOW, 0.0)) == is_late


def test_a_clock_that_is_put_forward_hurries_nothing_of_this_run() -> None:
    """What a run asked for itself is overdue once that much time has passed for the run, too."""
    overdue = Overdue(PATIENCE_S)
    overdue.among([], NOW, 0.0)
    each = pending(1, 0.0)
    assert overdue.among([each], NOW, 10.0) == []

    assert overdue.among([each], NOW + 86_400.0, 20.0) == []
    assert overdue.among([each], NOW + 86_400.0, PATIENCE_S + 20.0) == [each]


def test_what_is_finished_already_is_never_late() -> None:
    """Redacted audio that is still to come is waited for elsewhere."""
    each = pending(1, 10 * PATIENCE_S)
    each = Pending(each.attempt_id, each.transcript_id, "", True, each.accepted_at, NOW, b"")

    assert Overdue(PATIENCE_S, [each]).among([each], NOW, 0.0) == []


def test_only_what_came_later_passes() -> None:
    """One that was asked for before, and is finished, says nothing of those behind it."""
    overdue = Overdue(PATIENCE_S)
    old, middle, young = pending(1, 9000.0), pending(2, 8000.0), pending(3, 10.0)
    overdue.among([old, middle, young], NOW, 0.0)
    overdue.among([middle, young], NOW, 0.0)
    assert not overdue.is_passed(middle)

    overdue.among([middle], NOW, 0.0)

    assert overdue.is_passed(middle)


@pytest.mark.parametrize(("age_s", "is_stuck"), [(2 * 86_400.0, False), (4 * 86_400.0, True)])
def test_after_three_nights_it_is_no_news(age_s: float, is_stuck: bool) -> None:
    """The reason says since when, and from the fourth day on that it is stuck."""
    reason = since(pending(1, age_s), NOW, PATIENCE_S, "2026-11-30 02:14")

    assert reason.startswith(STUCK) == is_stuck
    assert "2026-11-30 02:14" in reason
