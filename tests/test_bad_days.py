"""What once went wrong on a bad day: each of these paid twice, lost a result, or never ended."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from pipeline.errors import ExitCode
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ONE = b"one"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


async def cut_short(archive: Archive, on: str, **given: object) -> None:
    """A run that is ended by force once the service holds an answer."""
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: archive.run(**given))
            await archive.service.held(on)
            group.cancel_scope.cancel()
    archive.service.faults.clear()
    archive.service.release()


async def test_a_list_of_another_project_proves_nothing(archive: Archive) -> None:
    """A lost answer is not looked for with a key that cannot see it, nor asked for again."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="hold", times=1))
    await cut_short(archive, "submit")
    foreign = archive.root / "foreign"
    foreign.write_text(archive.service.foreign_key)

    outcome = await archive.run(api_key_file=foreign)
    found = await archive.run()

    assert (outcome.summary.parked, outcome.summary.transcripts) == (1, 0)
    assert found.summary.written == 1
    assert len(archive.service.accepted(ONE)) == 1


async def test_a_list_that_does_not_go_on_proves_nothing(archive: Archive) -> None:
    """A server that answers each page with the first leaves a lost answer undecided."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=1))
    page = '{"transcripts":[{"id":"stuck","status":"completed","audio_url":"x"}]}'
    archive.service.faults.add(
        Fault(on="list", action="answer", status=200, body=page, times=None, skip=1)
    )

    outcome = await archive.run()

    assert outcome.summary.parked == 1
    assert len(archive.service.accepted(ONE)) == 1


async def test_filters_hold_for_what_is_forced(archive: Archive) -> None:
    """`--force` asks anew only for recordings that the filters let through."""
    archive.add("old.wav", ONE, age_s=100 * 3600)
    archive.add("new.wav", b"two")
    await archive.run()

    outcome = await archive.run(force=True, max_age=10 * 3600)

    assert (outcome.summary.written, outcome.summary.already_written) == (1, 1)
    assert len(archive.service.accepted(ONE)) == 1


async def test_damage_is_no_consent_to_other_options(archive: Archive) -> None:
    """A result that is gone is fetched, not paid for with the options of the day."""
    archive.add("a.wav", ONE)
    await archive.run()
    os.unlink(archive.output / "a.wav.json")
    other = {"punctuate": False}
    archive.service.faults.add(Fault(on="get", action="hold", times=None))
    await cut_short(archive, "get", transcript=other)

    await archive.run(transcript=other)

    assert archive.results().keys() == {"a.wav.json"}
    assert len(archive.service.accepted(ONE)) == 1


async def test_an_upload_can_be_taken_over(archive: Archive) -> None:
    """An equal recording that submits a left-over upload, and is told to wait, still ends."""
    archive.add("b.wav", ONE)
    wait = {"Retry-After": "700"}
    archive.service.faults.add(Fault(on="submit", action="answer", status=429, headers=wait))
    assert (await archive.run()).summary.exit_code == ExitCode.TRY_LATER
    archive.add("a.wav", ONE)
    soon = {"Retry-After": "0"}
    archive.service.faults.add(Fault(on="submit", action="answer", status=429, headers=soon))

    outcome = await archive.run()

    assert outcome.summary.written == 2
    assert archive.service.requests["upload"] == 1


@pytest.mark.parametrize("status", [402, 403, 404, 500])
async def test_a_list_that_is_refused_ends_nothing(archive: Archive, status: int) -> None:
    """Transcripts are fetched by their ids when the list cannot be read, whatever it says."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(
        Fault(on="list", action="answer", status=status, body="no", times=None, skip=1)
    )

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.transcripts) == (1, 1)
    assert archive.service.requests["list"] < 1000


async def test_submits_that_come_to_nothing_come_to_an_end(archive: Archive) -> None:
    """A service that answers no submit is left after three, and nothing was paid."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="answer", status=503, times=None))

    outcome = await archive.run(settle="100ms")

    assert outcome.summary.parked == 1
    assert archive.service.requests["submit"] == 3


async def test_one_loop_of_links_ends_no_scan(archive: Archive) -> None:
    """With links followed, one that leads nowhere is told, and the others are transcribed."""
    archive.add("a.wav", ONE)
    os.symlink("loop.wav", archive.recordings / "loop.wav")

    outcome = await archive.run(follow_links=True)

    assert outcome.summary.written == 1


async def test_an_id_unknown_once_is_asked_for_again(archive: Archive) -> None:
    """One wrong answer about a paid transcript does not lose it: the next run fetches it."""
    archive.add("a.wav", ONE)
    await archive.run()
    os.unlink(archive.output / "a.wav.json")
    archive.service.faults.add(Fault(on="get", action="unknown_id", times=1))

    first = await archive.run()
    second = await archive.run()

    assert (first.summary.parked, second.summary.written) == (1, 1)
    assert len(archive.service.accepted(ONE)) == 1
