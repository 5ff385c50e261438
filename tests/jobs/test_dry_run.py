"""A dry run says what a run would send, the paying flags included, and leaves no trace."""

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.events import Failed, Parked, Summary
from pipeline.foresight import COPY, TO_BE_SENT
from pipeline.progress import render_summary
from tests.support.nights import sound
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        archive.add("b.wav", b"two")
        yield archive


def to_be_sent(summary: Summary) -> int:
    return summary.reasons.get("parked", {}).get("to be sent without `--dry-run`", 0)


async def test_new_recordings_are_told(archive: Archive) -> None:
    """What was never sent would be; nothing is, and no folder is made."""
    outcome = await archive.run(dry_run=True)

    assert to_be_sent(outcome.summary) == 2
    assert outcome.summary.exit_code == 0
    assert "goes on with" not in render_summary(outcome.summary)
    assert archive.service.requests.total() == 0
    assert not archive.output.exists()


@pytest.mark.parametrize(
    "asked",
    [{"force": True}, {"redo_changed": True, "transcript": {"punctuate": False}}],
    ids=["force", "redo_changed"],
)
async def test_what_a_redo_would_pay_for_is_told(
    archive: Archive, asked: dict[str, object]
) -> None:
    """The flags that pay again show what they would pay for, and then it is still not paid."""
    await archive.run()
    paid = archive.service.billable.total()

    outcome = await archive.run(dry_run=True, **asked)
    again = await archive.run()

    assert to_be_sent(outcome.summary) == 2
    assert archive.service.billable.total() == paid
    assert again.summary.already_written == 2


async def test_what_a_run_would_leave_is_told_as_left(archive: Archive) -> None:
    """Where an unknown transcript lies nothing would be sent: a dry run says what the run says."""
    await archive.run()
    shutil.rmtree(archive.state)
    for _ in range(2):  # of recordings that nobody has read yet, then of those that were
        foreseen = await archive.run(dry_run=True)
        forced = await archive.run(dry_run=True, force=True)
        left = await archive.run()

        assert foreseen.summary.reasons == left.summary.reasons
        assert (foreseen.summary.due_hours, foreseen.summary.due_cost_usd) == (0, 0)
        assert [told.recording for told in foreseen.of(Parked)] == [
            told.recording for told in left.of(Parked)
        ]
        assert to_be_sent(forced.summary) == 2
    archive.add("c.wav", b"three")
    assert to_be_sent((await archive.run(dry_run=True)).summary) == 1


async def test_without_a_folder_of_results_all_would_be_sent(archive: Archive) -> None:
    """Where nobody says where results go, none lies there."""
    outcome = await archive.run(dry_run=True, output=None, state=archive.root / "state")

    assert to_be_sent(outcome.summary) == 2


# --- what it comes to -----------------------------------------------------------------------------

HOUR_S = 3600
ONE_PRICE = {"transcript": {"speech_models": ["universal-2"]}}


def lengths(archive: Archive, hours: float = 1.0, count: int = 5) -> None:
    """As many recordings of that length instead of those that are there."""
    shutil.rmtree(archive.recordings)
    for number in range(count):
        archive.add(f"{number}.wav", sound(int(hours * HOUR_S), f"{number}"))


def parked(summary: Summary) -> dict[str, int]:
    return summary.reasons.get("parked", {})


@pytest.mark.parametrize(
    ("asked", "sent", "nights"),
    [
        ({}, 5, 1),
        ({"limit": 2}, 2, 3),
        ({"limit": 0}, 0, None),
        ({"max_hours": 2.5}, 2, 3),
        ({"max_cost": 0.15 * 4}, 4, 2),
        ({"max_hours_month": 3}, 3, None),
        ({"max_cost_month": 0.15 * 3.5}, 3, None),
        ({"max_hours": 2, "max_hours_month": 4.5, "limit": 3}, 2, None),
    ],
    ids=str,
)
async def test_limits_and_caps_are_foreseen(
    archive: Archive, asked: dict[str, float], sent: int, nights: int | None
) -> None:
    """What a run sends and leaves, in how many runs like it, and why; then it does just that."""
    lengths(archive)

    foreseen = (await archive.run(dry_run=True, **asked, **ONE_PRICE)).summary
    done = (await archive.run(**asked, **ONE_PRICE)).summary

    assert (foreseen.due_least, foreseen.due, done.transcripts) == (sent, sent, sent)
    assert foreseen.due_hours_least == foreseen.due_hours == done.audio_hours == sent
    assert foreseen.due_cost_usd_least == foreseen.due_cost_usd == done.cost_usd
    assert (foreseen.due_nights, foreseen.due_later) == (nights, 5 - sent)
    assert foreseen.due_later_hours == 5 - sent
    assert (foreseen.exit_code, foreseen.why) == (0, [])
    left = {why: n for why, n in parked(foreseen).items() if "--dry-run" not in why}
    assert left == parked(done)


async def test_the_text_is_a_budget(archive: Archive) -> None:
    """Transcripts, hours, dollars, how long, and what is left, in words that people read."""
    lengths(archive)
    said = render_summary((await archive.run(dry_run=True, max_hours=2, **ONE_PRICE)).summary)

    assert said.splitlines()[0] == "5 recordings: 0 written, 5 not sent"
    assert "  2 not sent: to be sent without `--dry-run`" in said
    assert "  3 not sent: `max_hours` of 2.00 h is reached" in said
    assert "to be asked for: 2 transcripts, 2.00 h of audio, about $0.30\n" in said
    assert "how long this takes nobody knows" in said
    assert "3 recordings left to later runs, at most 3.00 h of audio, about $0.45: 3 runs" in said
    assert "ended early" not in said


async def test_a_range_is_told_as_one(archive: Archive) -> None:
    """Several prices, lengths by size, and copies that nobody has read make a range."""
    lengths(archive, hours=3, count=1)
    shutil.copy(archive.recordings / "0.wav", archive.recordings / "copy.wav")
    archive.add("a.amr", b"SECONDS:60\n".ljust(600 * HOUR_S))

    foreseen = (await archive.run(dry_run=True)).summary
    said = render_summary(foreseen)
    done = (await archive.run()).summary

    assert (foreseen.due_least, foreseen.due) == (2, 3)
    assert (foreseen.due_hours_least, foreseen.due_hours) == (3, 7)
    assert (foreseen.due_cost_usd_least, foreseen.due_cost_usd) == (0.45, 1.47)
    assert "2 to 3 transcripts, 3.00 to 7.00 h of audio, about $0.45 to $1.47" in said
    assert "1 by their size alone and 1 perhaps equal to others" in said
    assert (done.transcripts, done.written) == (2, 3)


@pytest.mark.parametrize("is_known", [False, True])
async def test_copies_cost_nothing(archive: Archive, is_known: bool) -> None:
    """A recording that is small enough to be read by its edges is known for a copy."""
    lengths(archive, hours=0.5, count=1)
    if is_known:
        await archive.run(**ONE_PRICE)
    shutil.copy(archive.recordings / "0.wav", archive.recordings / "copy.wav")

    foreseen = (await archive.run(dry_run=True, **ONE_PRICE)).summary
    done = (await archive.run(**ONE_PRICE)).summary

    new = 0 if is_known else 1
    assert (foreseen.due_least, foreseen.due, foreseen.possible_copies) == (new, new, 0)
    assert (done.transcripts, done.written) == (new, new + 1)
    assert foreseen.parked == done.written


async def test_copies_of_what_is_redone_cost_nothing(archive: Archive) -> None:
    """A new recording that is equal to one which is asked for anew gets the same new result."""
    lengths(archive, hours=0.5, count=1)
    await archive.run(**ONE_PRICE)
    shutil.copy(archive.recordings / "0.wav", archive.recordings / "copy.wav")
    other = {"transcript": {**ONE_PRICE["transcript"], "punctuate": False}, "redo_changed": True}

    foreseen = (await archive.run(dry_run=True, **other)).summary
    done = (await archive.run(**other)).summary

    assert (foreseen.due, done.transcripts, done.written) == (1, 1, 2)
    assert parked(foreseen) == {TO_BE_SENT: 1, COPY: 1}


async def test_a_copy_may_be_larger_than_a_cap(archive: Archive) -> None:
    """What alone is more than a cap is skipped, unless the run finds it equal to another one."""
    lengths(archive, hours=3, count=1)
    await archive.run(**ONE_PRICE)
    shutil.copy(archive.recordings / "0.wav", archive.recordings / "copy.wav")
    archive.add("new.wav", sound(3 * HOUR_S, "new"))

    foreseen = (await archive.run(dry_run=True, max_hours=1, **ONE_PRICE)).summary
    done = (await archive.run(max_hours=1, **ONE_PRICE)).summary

    assert (foreseen.due, foreseen.skipped, foreseen.parked) == (0, 1, 1)
    (reason,) = parked(foreseen)
    assert reason.endswith("unless it is equal to another recording")
    assert (done.transcripts, done.skipped, done.written) == (0, 1, 1)


async def test_no_recording_is_read_whole(archive: Archive) -> None:
    """Of a large recording only head and edges are read, though one like it is known."""
    shutil.rmtree(archive.recordings)
    for name in ("a.wav", "b.wav"):
        archive.add(name, sound(60, "one", rate_hz=8000))
        os.truncate(archive.recordings / name, 8_000_000)
        os.utime(archive.recordings / name, (1e9, 1e9))
        if name == "a.wav":
            await archive.run()

    before = _read_bytes()
    summary = (await archive.run(dry_run=True)).summary

    assert (summary.due_least, summary.due, summary.possible_copies) == (0, 1, 1)
    assert _read_bytes() - before < 4_000_000


def _read_bytes() -> int:
    """What this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


async def test_how_long_it_takes_is_known_by_the_line(archive: Archive) -> None:
    """`bwlimit` tells how long uploads take; without it and before any nobody knows."""
    lengths(archive)
    size = sum(path.stat().st_size for path in archive.recordings.iterdir())

    unknown = (await archive.run(dry_run=True)).summary
    known = (await archive.run(dry_run=True, bwlimit="1k")).summary

    assert (unknown.due_elapsed_s, unknown.due_bytes) == (None, size)
    assert known.due_elapsed_s is not None
    assert size / 1000 < known.due_elapsed_s < size / 1000 + 200
    assert f"{_minutes(known.due_elapsed_s)}" in render_summary(known)


def _minutes(seconds: float) -> str:
    return f"about {int(seconds) // 60}m"


async def test_what_cannot_be_read_would_fail(archive: Archive) -> None:
    """A recording whose result has no place is told as a run tells it, and the exit code is 0."""
    (archive.output / "a.wav.json").mkdir(parents=True)

    foreseen = await archive.run(dry_run=True)
    done = await archive.run()

    assert foreseen.summary.reasons["failed"] == done.summary.reasons["failed"]
    assert len(foreseen.of(Failed)) == len(done.of(Failed)) == 1
    assert (foreseen.summary.due, foreseen.summary.exit_code) == (1, 0)
