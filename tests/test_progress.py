"""Progress: what is counted, what is shown of it, and what the summary accounts for."""

import io
import json
import os
import pty
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.events import (
    Completed,
    Deleted,
    Event,
    Failed,
    Outage,
    Parked,
    RecordingFound,
    Retrying,
    RunStarted,
    Skipped,
    Submitted,
    Summary,
    Uploaded,
    Warned,
    Written,
)
from pipeline.progress import (
    EventFile,
    JsonLines,
    PlainProgress,
    Tally,
    WarningLines,
    phases,
    render_summary,
)
from pipeline.terminal import TerminalProgress, say_above

START = datetime(2026, 11, 22, 1, tzinfo=UTC)


def started() -> RunStarted:
    return RunStarted(run_id="r", version="1", provider="local", output="out", time=START)


def life_of(name: str, *, audio_s: float = 36.0, cost_usd: float | None = 0.5) -> list[Event]:
    """Everything told of a recording that becomes a transcript."""
    return [
        RecordingFound(recording=name, size=1),
        Uploaded(recording=name, size=1, content="c"),
        Submitted(recording=name, transcript_id=name),
        Completed(
            recording=name,
            transcript_id=name,
            audio_duration=audio_s,
            speech_model_used=None,
            cost_usd=cost_usd,
        ),
        Written(recording=name, transcript_id=name, result=f"{name}.json"),
    ]


def tally_of(*events: Event) -> Tally:
    tally = Tally()
    for event in events:
        tally(event)
    return tally


def test_a_recording_is_in_one_phase_at_a_time() -> None:
    """Each fact moves a recording on: to upload, submitting, transcribing, saving, done."""
    phases = []
    tally = tally_of(started())
    for event in life_of("a"):
        tally(event)
        phases.append((dict(tally.under_way()), tally.done, tally.total))

    assert phases == [
        ({}, 0, 1),
        ({"submitting": 1}, 0, 1),
        ({"transcribing": 1}, 0, 1),
        ({"saving": 1}, 0, 1),
        ({}, 1, 1),
    ]
    assert (tally.audio_s, tally.cost_usd) == (36.0, 0.5)


@pytest.mark.parametrize("phase", ["submitting", "transcribing", "saving"])
def test_what_earlier_runs_came_to_is_not_to_be_uploaded(phase: str) -> None:
    """After a restart a recording counts where it was left, until it goes on."""
    tally = tally_of(
        started(),
        RecordingFound(recording="a", size=1, phase=phase),
        RecordingFound(recording="b", size=1),
    )

    words = list(phases(tally))
    assert "1 to upload" in words
    assert f"1 {phase}" in words
    for event in [*life_of("a")[3:], *life_of("b")[1:]]:
        tally(event)
    assert (tally.done, tally.total, tally.under_way()) == (2, 2, {})


def test_what_went_on_before_it_was_found_is_as_far_as_it_is() -> None:
    """Leftovers are worked on beside the scan: what it tells of them later takes nothing back."""
    found, *_, completed, _ = life_of("a")
    found.phase = "transcribing"

    assert tally_of(completed, found).under_way() == {"saving": 1}


def test_what_failed_before_is_done_and_no_pace() -> None:
    """What failed in earlier runs, and is not tried again, is not to be uploaded for ever."""
    failed = [RecordingFound(recording=f"f{n}", size=1, phase="failed") for n in range(20)]
    tally = tally_of(started(), *failed, *life_of("a"), RecordingFound(recording="b", size=1))

    words = list(phases(tally))
    assert (tally.done, tally.total) == (21, 22)
    assert words[0] == "1 to upload"
    assert "20 failed" in words
    assert tally.remaining_s(START + timedelta(seconds=10)) is None


def test_copies_that_are_due_to_be_deleted_are_told() -> None:
    """What earlier runs left to be deleted at the service counts from the start, and down."""
    first = started()
    first.to_delete = 2
    tally = tally_of(first)

    told = []
    for _ in range(3):
        told.append([each for each in phases(tally) if "delete" in each])
        tally(Deleted(transcript_id="t"))

    assert told == [["2 to delete"], ["1 to delete"], []]


def test_equal_recordings_of_a_phase_are_bounded() -> None:
    """However many recordings wait for one transcript, no row is kept for each of them."""
    tally = tally_of(
        *(RecordingFound(recording=f"{n}", size=1, phase="transcribing") for n in range(10_100))
    )

    assert tally.under_way() == {"transcribing": 10_000}
    assert tally.total == 10_100


def test_a_retry_is_not_counted_twice() -> None:
    """A recording that is uploaded again is one recording under way."""
    found, uploaded, *_ = life_of("a")

    assert tally_of(found, uploaded, uploaded).under_way() == {"submitting": 1}


def test_one_transcript_for_two_recordings_is_two_done() -> None:
    """A content that two recordings share is transcribed once and written twice."""
    twin = [
        RecordingFound(recording="b", size=1),
        Written(recording="b", transcript_id="a", result="b.json"),
    ]
    tally = tally_of(*life_of("a"), *twin)

    assert (tally.done, tally.total, tally.audio_s) == (2, 2, 36.0)


def ended(end: str, name: str) -> Event:
    """What is told of a recording that ends so."""
    match end:
        case "written":
            return Written(recording=name, transcript_id="t", result="r")
        case "skipped":
            return Skipped(recording=name, reason="r")
        case "failed":
            return Failed(recording=name, reason="r")
    return Parked(recording=name, reason="r")


ENDS = ["written", "skipped", "failed", "parked"]


@given(st.lists(st.tuples(st.sampled_from(ENDS), st.integers(0, 4))))
def test_counts_never_contradict_each_other(recordings: list[tuple[str, int]]) -> None:
    """However far recordings came before they ended, nothing is under way after, or negative."""
    tally = Tally()
    for number, (end, steps) in enumerate(recordings):
        for event in [*life_of(str(number))[:steps], ended(end, str(number))]:
            tally(event)
            assert tally.total - tally.done - tally.under_way().total() >= 0

    assert tally.under_way() == {}
    assert tally.ended.total() == len(recordings)


def test_the_rest_is_estimated_once_there_is_a_pace() -> None:
    """Nothing is foretold from one recording; ten in 100 s leave ten others 100 s."""
    lives = [life_of(str(number)) for number in range(20)]
    tally = tally_of(started(), *(life[0] for life in lives))
    now = START + timedelta(seconds=100)

    tally(lives[0][-1])
    assert tally.remaining_s(now) is None
    for life in lives[1:10]:
        tally(life[-1])
    assert tally.remaining_s(now) == 100


def test_what_is_waited_for_is_told() -> None:
    """The block says that a call is made again, and of an outage until it is over."""
    tally, now = Tally(), datetime.now(UTC)
    assert tally.trouble(now) == ""

    tally(Retrying(time=now, message="get: reset", attempt=2, of=5, in_s=4.0))
    assert tally.trouble(now) == "trying again, 2 of 5, in 4 s: get: reset"
    assert tally.trouble(now + timedelta(seconds=5)) == ""

    away = "the service is unreachable since 02:14, trying again (refused)"
    tally(Outage(time=now, message=away, calls=["get", "list", "upload"]))
    assert tally.trouble(now + timedelta(hours=3)) == away

    tally(Outage(time=now, message="the service is reached again, after 9 s", calls=[]))
    assert tally.trouble(now + timedelta(hours=3)) == ""


def test_the_block_shows_what_is_waited_for() -> None:
    """An outage has a line of its own in the block, and scrolls above it as a warning."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=200)
    progress, said = TerminalProgress(console), list[str]()
    event = Outage(message="the service is unreachable since 02:14", calls=["list"])
    progress(event)
    WarningLines(said.append)(event)
    console.print(progress.block())

    assert "unreachable since 02:14" in stream.getvalue()
    assert said == ["warning: the service is unreachable since 02:14"]


def test_terminal_shows_one_block_and_leaves_nothing() -> None:
    """While it lives the block tells counts, and other lines stand above it; then it is gone."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    with TerminalProgress(console) as listen:
        for event in [started(), *life_of("a"), *life_of("b")[:3]]:
            listen(event)
        console.print("a line of a log")
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()

    assert "1/2 done" in text
    assert "1 transcribing" in text
    assert "about $0.50" in text
    assert "a line of a log" in text
    assert text.rstrip().endswith("\x1b[2K")  # the last thing done is to wipe its lines


def test_terminal_keeps_no_row_for_each_recording() -> None:
    """Five thousand recordings take no more lines than one."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120, legacy_windows=False)
    listen = TerminalProgress(console)
    for number in range(5000):
        for event in life_of(f"name-{number}")[:3]:
            listen(event)
    console.print(listen.block())
    assert isinstance(console.file, io.StringIO)

    assert len(console.file.getvalue().splitlines()) == 2
    assert "5,000 transcribing" in console.file.getvalue()


class Lines(io.StringIO):
    """A stream that signals when it has been written to."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()

    def flush(self) -> None:
        self.told.set()


def test_a_line_a_while_where_there_is_no_terminal() -> None:
    """Each line is plain and whole: how much is done, and where the rest is."""
    stream = Lines()
    with PlainProgress(stream, interval_s=0.01) as listen:
        for event in [*life_of("a"), *life_of("b")[:2], ended("failed", "c")]:
            listen(event)
        stream.told.clear()
        assert stream.told.wait(10)

    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("2/3 done, 0.01 h of audio")
    assert last.endswith("0 to upload, 1 submitting, 0 transcribing, 0 saving, 1 failed")


def test_a_closed_stream_ends_nothing() -> None:
    """A scheduler that closes our stderr does not stop the run's progress, or the run."""
    stream = Lines()
    stream.close()
    with PlainProgress(stream, interval_s=0.001) as listen:
        listen(started())


def test_plain_progress_waits_for_its_interval() -> None:
    """A run that is shorter than the interval says nothing."""
    stream = Lines()
    with PlainProgress(stream, interval_s=60) as listen:
        listen(started())

    assert stream.getvalue() == ""


def test_warnings_are_told_as_they_are() -> None:
    """A warning is one line, whatever is in it."""
    console = Console(file=io.StringIO(), width=20)
    listen = WarningLines(partial(say_above, console))
    listen(started())
    listen(Warned(message="cannot read [bold]folder[/bold] with a long name"))
    assert isinstance(console.file, io.StringIO)

    assert console.file.getvalue() == "warning: cannot read [bold]folder[/bold] with a long name\n"


def test_json_lines_are_the_events_in_order() -> None:
    """Every event is one line with its type and time, as it was told."""
    events = [started(), *life_of("zwölf\n")]
    stream = io.BytesIO()
    with JsonLines(stream) as listen:
        for event in events:
            listen(event)

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines == [msgspec.to_builtins(event) for event in events]
    assert lines[0]["time"] == "2026-11-22T01:00:00Z"
    assert [line["type"] for line in lines[:3]] == ["run_started", "recording_found", "uploaded"]


def test_json_lines_reach_a_reader_while_the_run_goes_on() -> None:
    """A line can be read as soon as it was told, and not when a buffer is full."""
    ours, theirs = os.pipe()
    with (
        os.fdopen(ours, "rb") as reader,
        os.fdopen(theirs, "wb") as stream,
        JsonLines(stream) as listen,
    ):
        listen(started())
        line = reader.readline()

    assert json.loads(line)["type"] == "run_started"


def test_event_file_is_appended_to(tmp_path: Path) -> None:
    """The file has every line when it is left, and keeps those that were there."""
    path = tmp_path / "events.ndjson"
    for _ in range(2):
        with EventFile(path) as listen:
            for event in life_of("a"):
                listen(event)

    assert len(path.read_bytes().splitlines()) == 10


def summary(**counts: object) -> Summary:
    return msgspec.convert({"type": "summary", "run_id": "r1", "exit_code": 0, **counts}, Summary)


def test_summary_accounts_for_every_recording() -> None:
    """The counts of the first line add up to what was found, and reasons follow with theirs."""
    text = render_summary(
        summary(
            found=1015,
            written=1000,
            already_written=5,
            kept=4,
            kept_hours=2.5,
            kept_cost_usd=0.525,
            failed=3,
            skipped=2,
            parked=1,
            ignored=7,
            collected=1,
            rendered=12,
            transcripts=998,
            audio_hours=41.25,
            cost_usd=8.6625,
            elapsed_s=845.2,
            requests={"upload": 998, "submit": 998},
            reasons={
                "failed": {"not audio": 2, "too short": 1},
                "skipped": {"empty": 2},
                "parked": {"its answer was lost": 1},
            },
        )
    )

    assert text.splitlines() == [
        "1,015 recordings: 1,000 written, 5 already written, 4 kept as they are, 3 failed, "
        "2 skipped, 1 left for the next run",
        "  2 failed: not audio",
        "  1 failed: too short",
        "  2 skipped: empty",
        "  1 left for the next run: its answer was lost",
        "998 transcripts, 41.25 h of audio, about $8.66",
        "1 result collected for recordings that were not asked for this time",
        "12 files rendered from results that were there",
        "7 files ignored: no recording by its name",
        "1,996 requests in 14m05s, run r1",
        "hint: `--redo-changed` asks anew for the 4 that were written with other options or by "
        "another provider: 2.50 h of audio, about $0.53",
        "hint: `--retry-failed` tries again what failed and has cost nothing",
        "hint: the same command again goes on with what is left",
    ]


def test_summary_of_nothing_is_short() -> None:
    """A second run of the same command has little to say."""
    text = render_summary(summary(found=2, already_written=2, elapsed_s=0.2))

    assert text.splitlines() == [
        "2 recordings: 0 written, 2 already written",
        "0 requests in 0s, run r1",
    ]


def test_summary_says_why_a_run_ended_early() -> None:
    """A run that was not through says why."""
    assert "ended early: the disk is full" in render_summary(
        summary(reason="the disk is full", exit_code=5)
    )


def test_summary_says_a_reason_once() -> None:
    """Why a run ended is not said again where it stands with the recordings that it left."""
    said = render_summary(
        summary(reason="the disk is full", exit_code=5, reasons={"parked": {"the disk is full": 7}})
    )

    assert said.count("the disk is full") == 1
    assert "7 left for the next run: the disk is full" in said


def test_live_block_goes_to_a_real_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a pseudo-terminal the block is drawn, and without colours when `NO_COLOR` is set."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        console = Console(file=stream, width=100)
        with TerminalProgress(console) as listen:
            for event in life_of("a"):
                listen(event)
        text = ""
        while "done" not in text:
            text += os.read(ours, 65536).decode()
    os.close(ours)

    assert "1/1 done" in text
    assert "\x1b[3" not in text  # SGR colours 30 to 37
