"""A dry run says what a run would send, the paying flags included, and leaves no trace."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.events import Summary
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
