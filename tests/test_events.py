"""Facts are lines of JSON whose shape scripts may rely on."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import events
from pipeline.events import Event

EXAMPLES: list[Event] = [
    events.RunStarted(run_id="r", version="1", provider="local", output="out"),
    events.RecordingFound(recording="a.wav", size=1),
    events.Uploaded(recording="a.wav", size=1, content="00"),
    events.Submitted(recording="a.wav", transcript_id="t"),
    events.Completed(
        recording="a.wav",
        transcript_id="t",
        audio_duration=2.5,
        speech_model_used=None,
        cost_usd=None,
    ),
    events.Written(recording="a.wav", transcript_id="t", result="a.wav.json"),
    events.Deleted(transcript_id="t"),
    events.Skipped(recording="a.wav", reason="empty"),
    events.Failed(recording="a.wav", reason="no"),
    events.Parked(recording="a.wav", reason="later"),
    events.Warned(message="careful"),
    events.Outage(message="the service is unreachable", calls=["get", "list", "upload"]),
    events.Retrying(message="get: reset", attempt=2, of=5, in_s=0.5),
    events.Summary(run_id="r", exit_code=0),
]


def test_the_types_are_the_documented_ones() -> None:
    """`type` is one of the words that scripts were promised, and there is one class for each."""
    types = [events.as_dict(event)["type"] for event in EXAMPLES]

    assert types == [
        *("run_started", "recording_found", "uploaded", "submitted", "completed", "written"),
        *("deleted", "skipped", "failed", "parked", "warning", "outage", "retrying", "summary"),
    ]
    assert {type(event) for event in EXAMPLES} == set(Event.__subclasses__())


@pytest.mark.parametrize("event", EXAMPLES, ids=lambda event: type(event).__name__)
def test_a_fact_has_type_time_and_snake_case_fields(event: Event) -> None:
    """Every line has a `type`, a `time` in RFC 3339 UTC, and fields in snake_case."""
    line = json.loads(events.encode(event))

    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["time"])
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in line)
    assert line == events.as_dict(event)


def test_the_time_is_when_it_was_told() -> None:
    """`time` lies between the moments before and after, on the clock of UTC."""
    before = datetime.now(UTC)
    event = events.Warned(message="careful")

    assert before <= event.time <= datetime.now(UTC)


@given(st.text())
def test_a_fact_is_one_line(text: str) -> None:
    """Whatever a name holds, newlines included, a fact stays one line and comes back as it was."""
    line = events.encode(events.Skipped(recording=text, reason="x"))

    assert b"\n" not in line
    assert json.loads(line)["recording"] == text


def test_the_parts_of_the_summary_have_fields() -> None:
    """The six ends of a recording, and the number they add up to, stand in the summary."""
    fields: dict[str, Any] = events.as_dict(events.Summary(run_id="r", exit_code=0))
    ends = ("written", "already_written", "kept", "failed", "skipped", "parked")

    assert [fields[name] for name in (*ends, "found")] == [0] * 7


@given(st.binary(min_size=1))
def test_any_path_can_be_shown(path: bytes) -> None:
    """A path of any bytes becomes text that can be printed and put into JSON."""
    shown = events.printable(path)

    assert json.loads(events.encode(events.Skipped(recording=shown, reason="x")))


@given(st.text())
def test_a_path_in_utf8_is_shown_as_it_is(text: str) -> None:
    """Names that are text are shown as that text."""
    assert events.printable(text.encode()) == text


def test_other_bytes_are_shown_as_escapes() -> None:
    """A byte that is not UTF-8 shows as `\\xNN`, beside the text around it."""
    assert events.printable(b"caf\xe9.wav") == "caf\\xe9.wav"
