"""Watching all transcripts with one question: what is looked at, and what a row may not decide."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from pipeline.events import Warned
from tests.support.hostile import hostile, whole
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


async def test_a_row_that_lies_fails_nothing(archive: Archive) -> None:
    """Rows that say `error` are only a reason to look: the GET says what is so."""
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="list", action="list_says_error", times=None))
    archive.service.transcript_seconds = 0.0

    outcome = await archive.run()

    assert outcome.summary.written == 3
    assert outcome.summary.failed == 0


async def test_a_status_that_nobody_knows_is_waited_out(archive: Archive) -> None:
    """An unknown status in list and GET is neither an end nor an error."""
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)
    odd = {"status": "dreaming"}
    archive.service.faults.add(Fault(on="list", action="patch", times=3, skip=1, patch=odd))
    archive.service.faults.add(Fault(on="submit", action="patch", times=3, patch=odd))

    outcome = await archive.run()

    assert outcome.summary.written == 3
    assert archive.service.requests["submit"] == 3


@pytest.mark.parametrize("row", [None, 5, [], {}, {"id": 5}, {"id": None, "status": ["completed"]}])
async def test_a_row_that_cannot_be_read_is_passed_over(archive: Archive, row: object) -> None:
    """A row that is none hides no other: pages are read on, and their statuses count."""
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)

    def odd(body: bytes) -> bytes:
        page = json.loads(body)
        page["transcripts"] = [row, *page["transcripts"], row]
        return json.dumps(page).encode()

    async with hostile(
        archive.service.url, lambda asked: whole(odd) if asked.kind == "list" else None
    ) as server:
        outcome = await archive.run(provider=server.url)

    assert (outcome.summary.written, outcome.summary.exit_code) == (3, 0)
    assert all("cannot be" not in each.message for each in outcome.of(Warned))


async def test_a_list_that_fails_for_a_while(archive: Archive) -> None:
    """Some failed sweeps lose nothing and end nothing."""
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="list", action="list_down", times=5, skip=1))

    outcome = await archive.run()

    assert outcome.summary.written == 3
    assert outcome.summary.exit_code == 0


async def test_a_list_that_never_shows_them(archive: Archive) -> None:
    """Transcripts that the list does not show at all are found by asking for them."""
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.list_lag_s = 3600.0

    outcome = await archive.run()

    assert outcome.summary.written == 3


async def test_one_question_for_all(archive: Archive) -> None:
    """All transcripts are watched with two requests an interval, and fetched once each."""
    for number in range(60):
        archive.add(f"{number:02}.wav", b"%d" % number)
    archive.service.transcript_seconds = 1.0

    outcome = await archive.run(poll_interval="200ms")

    requests = outcome.summary.requests
    assert requests["get"] == 60
    assert requests["list"] <= 10 * outcome.summary.elapsed_s + 5
    assert sum(requests.values()) < 4 * 60


async def test_leftovers_are_watched_without_a_scan_of_them(archive: Archive) -> None:
    """What an earlier run left at the service is collected also when its recording is gone."""
    archive.add("a.wav", b"one")
    archive.service.transcript_seconds = 3600.0
    archive.service.faults.add(
        Fault(on="get", action="answer", status=401, times=None, skip=2, body='{"error": "no"}')
    )
    await archive.run()
    archive.service.faults.clear()
    (transcript,) = archive.service.accepted(b"one")
    archive.service.complete(transcript.id)
    (archive.recordings / "a.wav").unlink()

    outcome = await archive.run()

    assert outcome.summary.found == 0
    assert outcome.summary.collected == 1
    assert json.loads(archive.results()["a.wav.json"])["id"] == transcript.id


async def test_while_the_writers_have_all_of_them_it_rests(archive: Archive) -> None:
    """A slow answer, the only one that is left, costs no more than its wait."""
    archive.add("a.wav", b"one")
    archive.service.faults.add(Fault(on="get", action="hold"))
    ended = anyio.Event()
    async with anyio.create_task_group() as group:

        async def run() -> None:
            await archive.run(poll_interval="100ms")
            ended.set()

        group.start_soon(run)
        await archive.service.held("get")
        before_s = time.process_time()
        with anyio.move_on_after(1.0):  # long enough for thousands of looks at the ledger
            await ended.wait()
        spent_s = time.process_time() - before_s
        archive.service.release()

    assert spent_s < 0.3
