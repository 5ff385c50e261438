"""Watching all transcripts with one question: what is looked at, and what a row may not decide."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.models import Pending
from pipeline.stages.poll import due_looks, noted_looks
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

EVERY_S = 5.0


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def pending(number: int, *, completed: bool = False, accepted_at: float = 0.0) -> Pending:
    return Pending(
        attempt_id=number,
        transcript_id=f"id-{number}",
        audio_url=f"upload:{number}",
        completed=completed,
        accepted_at=accepted_at,
        finished_at=None,
        result=b"a.wav.json",
    )


# --- which are looked at -----------------------------------------------------------------------


def test_rows_that_say_the_end_are_looked_at() -> None:
    """`completed` and `error` are worth a look, `queued`, `processing` and new words are not."""
    waiting = [pending(number) for number in range(5)]
    statuses = dict(
        zip(
            [each.transcript_id for each in waiting],
            ["queued", "completed", "processing", "error", "dreaming"],
            strict=True,
        )
    )

    looks = due_looks(waiting, statuses, {}, 100.0, EVERY_S)

    assert [each.attempt_id for each in looks] == [1, 3]


def test_what_the_list_does_not_show_is_asked_for() -> None:
    """Ids that no page showed are looked at directly once they are old enough, some at a time."""
    old = [pending(number) for number in range(100)]
    young = [pending(1000, accepted_at=99.0)]

    looks = due_looks([*old, *young], {}, {}, 100.0, EVERY_S)

    assert 0 < len(looks) <= 20
    assert all(each.attempt_id < 1000 for each in looks)


def test_a_row_that_is_wrong_is_not_looked_at_again_at_once() -> None:
    """Where a look did not show what the row says, the next look has to wait."""
    waiting, statuses = [pending(1)], {"id-1": "error"}

    assert due_looks(waiting, statuses, {"id-1": 98.0}, 100.0, EVERY_S) == []
    assert len(due_looks(waiting, statuses, {"id-1": 94.0}, 100.0, EVERY_S)) == 1


def test_what_is_paid_is_looked_at_first() -> None:
    """Completed in the ledger is looked at whatever the list shows, before what is only unseen."""
    waiting = [pending(1), pending(2, completed=True)]

    looks = due_looks(waiting, {}, {}, 100.0, EVERY_S)

    assert [each.attempt_id for each in looks] == [2, 1]


def test_what_is_spoken_of_is_looked_at() -> None:
    """Either id leads to a transcript, those of others to none; completed or not."""
    waiting = [pending(1), pending(2), pending(3, completed=True)]

    looks = noted_looks(waiting, {1, "id-3", 4, "id-5"}, {}, 100.0)

    assert [each.attempt_id for each in looks] == [1, 3]


def test_what_is_spoken_of_again_and_again_has_to_wait() -> None:
    """However often it is spoken of, one look a second is enough."""
    waiting, noted = [pending(1)], {1, "id-1"}

    assert noted_looks(waiting, noted, {"id-1": 99.5}, 100.0) == []
    assert len(noted_looks(waiting, noted, {"id-1": 98.9}, 100.0)) == 1


# --- in a run ----------------------------------------------------------------------------------


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
    archive.add("a.wav", b"one")
    odd = {"status": "dreaming"}
    archive.service.faults.add(Fault(on="list", action="patch", times=3, skip=1, patch=odd))
    archive.service.faults.add(Fault(on="submit", action="patch", patch=odd))

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert archive.service.requests["submit"] == 1


async def test_a_list_that_fails_for_a_while(archive: Archive) -> None:
    """Some failed sweeps lose nothing and end nothing."""
    archive.add("a.wav", b"one")
    archive.service.faults.add(Fault(on="list", action="list_down", times=5, skip=1))

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert outcome.summary.exit_code == 0


async def test_a_list_that_never_shows_them(archive: Archive) -> None:
    """Transcripts that the list does not show at all are found by asking for them."""
    archive.add("a.wav", b"one")
    archive.service.list_lag_s = 3600.0

    outcome = await archive.run()

    assert outcome.summary.written == 1


async def test_one_question_for_all(archive: Archive) -> None:
    """Two hundred transcripts are watched with one request an interval, and fetched once each."""
    for number in range(60):
        archive.add(f"{number:02}.wav", b"%d" % number)
    archive.service.transcript_seconds = 1.0

    outcome = await archive.run(poll_interval="200ms")

    requests = outcome.summary.requests
    assert requests["get"] == 60
    assert requests["list"] <= 5 * outcome.summary.elapsed_s + 5
    assert sum(requests.values()) < 4 * 60


async def test_leftovers_are_watched_without_a_scan_of_them(archive: Archive) -> None:
    """What an earlier run left at the service is collected also when its recording is gone."""
    archive.add("a.wav", b"one")
    archive.service.transcript_seconds = 3600.0
    archive.service.faults.add(
        Fault(on="list", action="answer", status=401, times=None, skip=2, body='{"error": "no"}')
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
