"""How values are spelled: TOML that gives them back."""

import json
import tomllib
from datetime import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import Rate, Settings, Timetable, Window, spelled, spelled_key

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.booleans() | st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
)


@given(key=TEXTS, value=VALUES)
def test_what_is_spelled_is_read_again(key: str, value: Any) -> None:
    """Whatever JSON can hold comes back from TOML as it was, on one line, under any key."""
    line = f"{spelled_key(key)} = {spelled(value)}"

    assert tomllib.loads(line) == {key: value}
    assert len(line.split("\n")) == 1


times = st.builds(
    lambda hour, minute: f"{hour:02}:{minute:02}", st.integers(0, 23), st.integers(0, 59)
)
limits = st.sampled_from(["off", "1k", "512k", "10M"])
entries = st.lists(
    st.tuples(st.sampled_from(["", "Mon-", "Tue-", "Sun-"]), times, limits),
    min_size=1,
    max_size=5,
    unique_by=lambda entry: entry[1],
)


@given(entries | limits)
def test_a_timetable_is_spelled_as_it_is_read(given: list[tuple[str, str, str]] | str) -> None:
    """A limit, one for each time of the day, or one for a time of the week comes back."""
    is_one = isinstance(given, str)
    text = given if is_one else " ".join(f"{day}{at},{limit}" for day, at, limit in given)
    made = Timetable.parse(text)

    assert Timetable.parse(str(made)) == made


@given(st.integers(1, 10**17), st.integers(1, 10**9).map(lambda ms: ms / 1000))
def test_a_rate_is_spelled_as_it_is_read(count: int, window_s: float) -> None:
    """So many requests in so many seconds come back, however many."""
    assert Rate.parse(str(Rate(count, window_s))) == Rate(count, window_s)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", "22:00-06:00"),
        ("bwlimit", "08:00,512k 19:00,off"),
        ("bwlimit", "10M"),
        ("requests", "1000/5m"),
        ("uploads", {"min": 2, "max": 8}),
        ("backlog", {"hours_per_night": 2, "older_than": "3d"}),
        ("formats", ["srt", "txt"]),
        ("min_free", "2GB"),
        ("retry_failed", 3),
        ("retry_failed", True),
        ("speaker_names", "A=Ann,B=Ben"),
        ("prices", {"a model": 0.5}),
        ("rules", [{"match": "a/**", "language_code": "de", "keyterms_prompt": ["x"]}]),
        ("output", '/srv/a "b" \\ ü'),
        (
            "source",
            [{"folder": "/a", "rules": [{"match": "b", "punctuate": False}], "min_age": "1m"}],
        ),
    ],
)
def test_settings_are_spelled_as_a_file_has_them(key: str, value: Any) -> None:
    """What a setting has become is spelled in a way that makes the same setting."""
    made = Settings(**{key: value})

    again = Settings(**tomllib.loads(f"{key} = {spelled(getattr(made, key))}"))

    assert again == made


def test_python_shows_nowhere() -> None:
    """True, None, tuples and paths are no words of a settings file."""
    assert spelled(True) == "true"
    assert spelled((1, "a")) == '[1, "a"]'
    assert spelled(Path("/a")) == '"/a"'
    assert spelled(Window(time(22), time(6))) == '"22:00-06:00"'
    assert spelled({"a": None, "b": json.loads("1.0")}) == "{ b = 1.0 }"
