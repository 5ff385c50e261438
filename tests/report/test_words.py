"""Numbers, times and names as people read them."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.words import (
    clock,
    count,
    cut,
    day,
    hours,
    short_day,
    shown,
    span,
    usd,
)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.99, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
        (-3, "0.0 s"),
    ],
)
def test_a_span_names_two_units_at_most(seconds: float, words: str) -> None:
    """What took long is told in hours, what took no time in tenths of a second."""
    assert words == span(seconds)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        *((0, "0 h"), (0.001, "under 0.01 h"), (0.25, "0.25 h"), (3.44, "3.4 h")),
        *((99.94, "99.9 h"), (1240.2, "1,240 h")),
    ],
)
def test_hours_have_the_digits_that_count(number: float, words: str) -> None:
    """Few hours are told to a hundredth, many to a whole one; little is not nothing."""
    assert words == hours(number)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "$0.00"),
        (0.004, "under $0.01"),
        (0.006, "$0.01"),
        (1234.5, "$1,234.50"),
        (None, "unknown"),
    ],
)
def test_a_cost_is_never_rounded_to_nothing(number: float | None, words: str) -> None:
    """What costs a fraction of a cent costs something; what has no price is unknown."""
    assert words == usd(number)


def test_one_is_not_many() -> None:
    """A noun has its plural, the usual one or its own."""
    assert count(1, "recording") == "1 recording"
    assert count(1234, "recording") == "1,234 recordings"
    assert count(2, "is", "are") == "2 are"


def test_a_day_is_english() -> None:
    """A day reads alike whatever the locale of the machine is."""
    when = datetime(2026, 11, 26, 5, 7)

    assert day(when) == "Thu 26 Nov 2026"
    assert short_day(when) == "26 Nov"
    assert clock(when) == "05:07"


def test_an_escape_sequence_is_seen() -> None:
    """What would move a cursor, or end a line, is a picture of itself."""
    assert shown("a\x1b[31mb\nc\x00\x7f\x9b") == "a␛[31mb␊c␀␡\ufffd"


@given(st.text(), st.integers(1, 50))
def test_what_is_shown_is_one_short_line(text: str, length: int) -> None:
    """Whatever a text holds, it can be written as UTF-8, on one line, in the room there is."""
    line = shown(cut(text, length))

    assert len(line) <= length
    assert len(line.encode().splitlines()) <= 1
    assert line == shown(line)
