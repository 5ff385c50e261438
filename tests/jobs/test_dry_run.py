"""A dry run says what a run would send, the paying flags included, and leaves no trace."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.events import Parked, Summary
from pipeline.progress import render_summary
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
