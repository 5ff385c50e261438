"""The course of a run, read off its events."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.events import (
    Completed,
    Event,
    Failed,
    Parked,
    RecordingFound,
    RunStarted,
    Skipped,
    Submitted,
    Uploaded,
    Warned,
    Written,
    encode,
)
from pipeline.report.course import Course, Mention, course

BEGAN = datetime(2026, 11, 25, 22, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=seconds)


def found(name: str, seconds: float) -> Event:
    return RecordingFound(time=at(seconds), recording=name, size=1)


def uploaded(name: str, seconds: float) -> Event:
    return Uploaded(time=at(seconds), recording=name, size=1, content="c")


def submitted(name: str, seconds: float) -> Event:
    return Submitted(time=at(seconds), recording=name, transcript_id="t")


def completed(name: str, seconds: float, cost_usd: float | None = 0.1) -> Event:
    return Completed(
        time=at(seconds),
        recording=name,
        transcript_id="t",
        audio_duration=1800,
        speech_model_used="m",
        cost_usd=cost_usd,
    )


def written(name: str, seconds: float) -> Event:
    return Written(time=at(seconds), recording=name, transcript_id="t", result=f"{name}.json")


def failed(name: str, seconds: float, reason: str = "too short") -> Event:
    return Failed(time=at(seconds), recording=name, reason=reason, transcript_id="t")


def whole(name: str, found_s: float, *steps_s: float) -> list[Event]:
    """All that is told of a recording, each step so many seconds after the one before."""
    events, seconds = [found(name, found_s)], found_s
    for make, step_s in zip((uploaded, submitted, completed, written), steps_s, strict=False):
        seconds += step_s
        events.append(make(name, seconds))
    return events


def read(folder: Path, events: Iterable[Event], torn: bytes = b"") -> Course:
    """What is read of a file of these events, in the order of their times."""
    path = folder / "events.ndjson"
    lines = [encode(event) for event in sorted(events, key=lambda event: event.time)]
    path.write_bytes(b"\n".join(lines) + b"\n" + torn)
    return course(path)


def test_a_run_without_events_is_empty(tmp_path: Path) -> None:
    """Where there is no file, nothing is known, and nothing is wrong."""
    went = course(tmp_path / "events.ndjson")

    assert (went.started_at, went.ended_at, went.moments(), went.stages()) == (None, None, [], [])


def test_each_stage_has_its_time(tmp_path: Path) -> None:
    """What a recording took from step to step is told in the median and at the most."""
    went = read(
        tmp_path,
        [
            *whole("a", 0, 10, 1, 100, 2),
            *whole("b", 0, 20, 1, 300, 2),
            *whole("c", 0, 30, 1, 200, 7),
        ],
    )

    stages = {stage.name: stage for stage in went.stages()}
    assert list(stages) == ["upload", "submit", "service", "save"]
    assert [stage.recordings for stage in stages.values()] == [3, 3, 3, 3]
    assert [stage.median_s for stage in stages.values()] == pytest.approx([20, 1, 200, 2], rel=0.02)
    assert [stage.longest_s for stage in stages.values()] == [30, 1, 300, 7]


def test_what_was_not_seen_is_not_timed(tmp_path: Path) -> None:
    """A transcript of an earlier run is told when it completes; how long it took is not known."""
    went = read(tmp_path, [completed("a", 5), written("a", 8), uploaded("b", 1), completed("b", 9)])

    assert [(stage.name, stage.longest_s) for stage in went.stages()] == [("save", 3)]


def test_moments_tell_how_far_recordings_were(tmp_path: Path) -> None:
    """At each moment every recording under way is in one state, in the end in its last."""
    went = read(
        tmp_path,
        [
            RunStarted(time=at(0), run_id="r", version="1", provider="p", output="o"),
            *whole("a", 1, 1, 1, 1, 1),
            *whole("b", 1, 1, 1),
            *whole("c", 1, 1),
            *whole("d", 1, 1, 1),
            failed("d", 4),
        ],
    )

    states = [(m.written, m.failed, m.saving, m.at_service, m.uploaded) for m in went.moments()]
    assert states[0] == (0, 0, 0, 0, 0)
    assert (0, 0, 0, 0, 4) in states
    assert (0, 0, 0, 3, 1) in states
    assert states[-1] == (1, 1, 0, 1, 1)
    assert went.started_at == at(0)
    assert went.ended_at == at(5)


def test_causes_name_recordings(tmp_path: Path) -> None:
    """Recordings stand under the reason that they have in common."""
    went = read(
        tmp_path,
        [
            failed("a", 1),
            failed("b", 2),
            failed("c", 3, "no audio"),
            Parked(time=at(4), recording="d", reason="lost"),
            Skipped(time=at(0), recording="e", reason="it is empty"),
        ],
    )

    assert went.causes.counts == {
        ("failed", "too short"): 2,
        ("failed", "no audio"): 1,
        ("parked", "lost"): 1,
        ("skipped", "it is empty"): 1,
    }
    assert went.causes.named("failed", "too short") == [Mention("a", "t"), Mention("b", "t")]
    assert went.causes.named("parked", "lost") == [Mention("d")]
    assert went.causes.named("parked", "unheard of") == []


def test_hours_and_cost_are_summed(tmp_path: Path) -> None:
    """Hours are those that completed; a cost that is not known makes the sum unknown."""
    known = read(tmp_path, [completed("a", 1), completed("b", 2)])
    unknown = read(tmp_path, [completed("a", 1, None), completed("b", 2)])

    assert known.audio_s == 3600
    assert known.cost_usd == pytest.approx(0.2)
    assert unknown.cost_usd is None


@pytest.mark.parametrize(
    "torn",
    [
        b'{"type":"written","recording":"b","time":"2026-11-2',
        b"\x00" * 4096,
        b'{"type":"written","time":"2026-11-25T22:00:00"}\n',
        b'{"type":"failed","time":"2026-11-25T22:00:00Z","recording":"\xff"}\n',
        b"[]\n\n\n",
    ],
    ids=["cut off", "zeros", "no zone", "no text", "no event"],
)
def test_what_a_crash_tore_off_is_left_out(tmp_path: Path, torn: bytes) -> None:
    """A line that is none takes no other with it."""
    went = read(tmp_path, whole("a", 0, 1, 1, 1, 1), torn)

    assert went.ends == {"written": 1}
    assert went.ended_at == at(4)


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    """Of very many recordings, each with a reason of its own, a bounded part is kept."""
    events: list[Event] = [found(f"waits-{number}", 0) for number in range(25_000)]
    events += [failed(f"f{number}", 1 + number, f"{number} times") for number in range(3_000)]
    events += [failed(f"s{number}", 4000 + number) for number in range(3_000)]
    events += [Warned(time=at(8000), message="x" * 10_000) for _ in range(100)]
    events += [uploaded("waits-0", 9000), uploaded("waits-24999", 9000)]
    went = read(tmp_path, events)

    assert went.found == 25_000
    assert went.ends["failed"] == went.causes.counts.total() == 6_000
    assert len(went.causes.counts) <= 1_001
    assert len(went.causes.named("failed", "other reasons")) == 200
    assert went.warned == 100
    assert [len(message) for message in went.warnings] == [400] * 50
    assert 100 <= len(went.moments()) <= 201
    assert [stage.recordings for stage in went.stages()] == [1], "one too many is not followed"


steps = st.sampled_from([found, uploaded, submitted, completed, written, failed])


@given(st.lists(st.tuples(steps, st.sampled_from("abcdef"), st.floats(0, 1e5)), max_size=60))
def test_whatever_is_told_adds_up(
    told: list[tuple[Callable[[str, float], Event], str, float]],
) -> None:
    """In any order of events no count is below 0, and ends are as many as were told."""
    went = Course()
    events = sorted((make(name, s) for make, name, s in told), key=lambda e: e.time)
    for event in events:
        went.tell(encode(event))
    moments = went.moments()

    for name in ("written", "failed"):
        number = sum(event.__struct_config__.tag == name for event in events)
        assert went.ends[name] == number
        assert not moments or getattr(moments[-1], name) == number
    for moment in moments:
        assert min(moment.saving, moment.at_service, moment.uploaded) >= 0
        assert moment.saving + moment.at_service + moment.uploaded <= 6
    assert [moment.time for moment in moments] == sorted(moment.time for moment in moments)


def test_what_earlier_runs_left_is_where_they_left_it(tmp_path: Path) -> None:
    """What the service has since an earlier run shows as that, and its wait there is not timed."""
    left = RecordingFound(time=at(0), recording="a", size=1, phase="transcribing")
    went = read(tmp_path, [left, found("b", 1), completed("a", 50), written("a", 52)])

    assert [(each.at_service, each.saving) for each in went.moments()] == [
        *[(0, 0), (1, 0), (1, 0)],
        *[(0, 1), (0, 0)],
    ]
    assert [(stage.name, stage.longest_s) for stage in went.stages()] == [("save", 2)]
