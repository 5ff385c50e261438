"""Hints of what has finished: taken once, few, and never missed by whoever waits for one."""

import pytest

from pipeline.notices import Notices


def test_what_was_noted_is_taken_once() -> None:
    """Ids of both kinds are taken as they were noted, then they are forgotten; twice is once."""
    notices = Notices()
    for which in (7, "id-7", 7, 8, "id-7"):
        notices.add(which)

    assert [notices.take(), notices.take()] == [{7, 8, "id-7"}, set()]


def test_a_new_one_wakes_who_waits() -> None:
    """The change that was taken before looking is set by the next new notice, and by no other."""
    notices = Notices()
    notices.add(7)
    change = notices.next_change
    notices.add(7)
    repeated = change.is_set()
    notices.add(8)

    assert (repeated, change.is_set(), notices.next_change.is_set()) == (False, True, False)


def test_there_are_never_too_many() -> None:
    """Above ten thousand that nobody has taken, more are dropped; once taken there is room."""
    notices = Notices()
    for number in range(20_000):
        notices.add(number)
    first = notices.take()
    notices.add(20_000)

    assert first == set(range(10_000))
    assert notices.take() == {20_000}


@pytest.mark.parametrize("expected", [True, False])
def test_it_says_if_notices_come(expected: bool) -> None:
    """Whoever sweeps may ask if notices come at all."""
    assert Notices(expected=expected).expected is expected
    assert not Notices().expected
