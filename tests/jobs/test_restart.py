"""A run after one that was killed: what it tells of how far that one came."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from pipeline.events import RecordingFound, RunStarted, Uploaded
from pipeline.progress import Tally, phases
from tests.support.runs import Archive, Outcome, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

MANY = 7


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path, transcript_seconds=4.0) as archive:
        for number in range(MANY):
            archive.add(f"{number}.wav", b"%d" % number)
        yield archive


async def killed_once_noted(archive: Archive) -> None:
    """A run that is killed once it has noted that all its transcripts are at the service."""
    async with archive.started(*archive.run_line()) as process:
        with anyio.fail_after(30):
            while len(archive.service.billable) < MANY:
                await archive.service.changed.wait()
            accepted = "SELECT count(*) FROM attempts WHERE state = 'accepted'"
            while await archive.rows(accepted) != [(MANY,)]:
                await anyio.wait_all_tasks_blocked()
        process.kill()


def to_upload(outcome: Outcome) -> list[str]:
    """What the block says of what is still to be uploaded, event by event."""
    tally, said = Tally(), list[str]()
    for event in outcome.events:
        tally(event)
        said.append(next(phases(tally)))
    return said


async def test_what_is_at_the_service_is_not_to_be_uploaded(archive: Archive) -> None:
    """After a kill the block says of what the service has that it is being transcribed."""
    await killed_once_noted(archive)

    outcome = await archive.run()

    assert outcome.of(Uploaded) == []
    told = Counter(event.phase for event in outcome.of(RecordingFound))
    assert told.keys() <= {"submitting", "transcribing", "saving"}
    assert told.total()
    assert set(to_upload(outcome)) == {"0 to upload"}
    assert outcome.summary.written + outcome.summary.already_written == MANY


async def test_what_failed_before_is_told_as_failed(archive: Archive) -> None:
    """A recording that failed for good, and is not tried again, is not to be uploaded for ever."""
    archive.add("bad.wav", b"ERROR:Audio duration is too short.\n")
    await archive.run()

    again = await archive.run()
    retried = await archive.run(retry_failed=True)

    assert [event.phase for event in again.of(RecordingFound)] == ["failed"]
    assert set(to_upload(again)) == {"0 to upload"}
    assert [event.phase for event in retried.of(RecordingFound)] == [None]


async def test_what_is_to_be_deleted_is_told_at_the_start(archive: Archive) -> None:
    """Copies that a run could not delete are told by the next one before it begins."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=400, times=None))
    await archive.run(delete_remote=True)
    archive.service.faults.clear()

    (started,) = (await archive.run(delete_remote=True)).of(RunStarted)

    assert started.to_delete == MANY
    (started,) = (await archive.run(delete_remote=True)).of(RunStarted)
    assert started.to_delete == 0
