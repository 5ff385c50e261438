"""The service's copies are deleted when that was asked for, and never before all is saved."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import pytest
import stamina

from jobs.adopt import adopt
from pipeline.errors import ExitCode
from pipeline.events import Deleted, Warned
from pipeline.settings import key_fingerprint
from tests.stages.test_redacted_audio import OPTIONS, ready, storage
from tests.support.runs import Archive, opened
from tests.support.service import Fault, ScriptedService

pytestmark = pytest.mark.anyio

ONE = b"one"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        yield archive


@pytest.fixture
def impatient() -> Iterator[None]:
    """Two tries of everything, without a wait between them."""
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


async def put_off(archive: Archive) -> None:
    """A run whose result is saved, and whose deletion is due."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=403, times=None))
    await archive.run(delete_remote=True)
    archive.service.faults.clear()


def deleted(archive: Archive) -> list[bool]:
    """Of each transcript whether the service has deleted it."""
    return [transcript.is_deleted for transcript in archive.service]


async def test_copies_are_deleted_once_saved(archive: Archive) -> None:
    """With `--delete-remote` each transcript is deleted at the service, and its result is here."""
    archive.add("b.wav", ONE)
    archive.add("c.wav", b"three")

    outcome = await archive.run(delete_remote=True)

    assert (outcome.summary.written, outcome.summary.deleted) == (3, 2)
    assert outcome.summary.exit_code == ExitCode.DONE
    assert deleted(archive) == [True, True]
    assert {event.transcript_id for event in outcome.of(Deleted)} == set(
        archive.service.transcripts
    )
    assert all(b'"completed"' in result for result in archive.results().values())


async def test_nothing_is_deleted_unasked(archive: Archive) -> None:
    """Without the flag the service keeps its copies, those of earlier runs as well."""
    await archive.run()
    archive.add("b.wav", b"two")

    outcome = await archive.run(delete_remote=True)
    await archive.run()

    assert outcome.summary.deleted == 1
    assert deleted(archive) == [False, True]


async def test_a_deletion_that_failed_is_made_up_for(archive: Archive) -> None:
    """What the service would not delete is told, makes exit code 3, and is due in the next run."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=400, times=None))
    first = await archive.run(delete_remote=True)
    archive.service.faults.clear()

    second = await archive.run()
    third = await archive.run()

    assert (first.summary.exit_code, first.summary.written) == (ExitCode.PARTIAL, 1)
    assert any("is not deleted" in warned.message for warned in first.of(Warned))
    assert (second.summary.exit_code, second.summary.deleted) == (ExitCode.DONE, 1)
    assert third.summary.requests == {}
    assert deleted(archive) == [True]


@pytest.mark.parametrize("odd", [{"audio_duration": "2"}, {"error": {}}, {"text": None}], ids=str)
async def test_what_is_odd_is_kept_there(archive: Archive, odd: dict[str, object]) -> None:
    """The service's copy of what was saved as odd is never deleted, in no later run either."""
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=odd))
    first = await archive.run(delete_remote=True)
    archive.service.faults.clear()
    archive.add("twin.wav", ONE)
    second = await archive.run(delete_remote=True)
    (archive.output / "a.wav.json").unlink()
    (archive.output / "twin.wav.json").unlink()
    third = await archive.run(delete_remote=True)

    assert [each.summary.written for each in (first, second, third)] == [1, 1, 2]
    assert [each.summary.deleted for each in (first, second, third)] == [0, 0, 0]
    look = ExitCode.PARTIAL if "text" in odd else ExitCode.DONE
    assert [each.summary.exit_code for each in (first, second, third)] == [look, 0, 0]
    assert await archive.rows("SELECT deletion FROM attempts WHERE odd IS NOT NULL") == [(None,)]
    assert deleted(archive) == [False]


async def test_what_turns_out_to_be_odd_is_kept_there(archive: Archive) -> None:
    """Where a deletion is due and the result has to be fetched again, it depends on what comes."""
    await put_off(archive)
    (archive.output / "a.wav.json").unlink()
    patch = {"audio_duration": [2]}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.deleted) == (1, 0)
    assert deleted(archive) == [False]


async def test_a_lost_answer_to_a_deletion_does_no_harm(archive: Archive) -> None:
    """A deletion is repeated until it is known: the service says yes to it twice."""
    archive.service.faults.add(Fault(on="delete", action="drop_after", times=1))

    outcome = await archive.run(delete_remote=True)

    assert outcome.summary.deleted == 1
    assert archive.service.requests["delete"] == 2


async def test_what_is_gone_already_counts_as_deleted(archive: Archive) -> None:
    """An id that the service does not know any more has no copy there to delete."""
    archive.service.faults.add(Fault(on="delete", action="unknown_id", times=None))

    outcome = await archive.run(delete_remote=True)
    again = await archive.run(delete_remote=True)

    assert (outcome.summary.deleted, outcome.summary.exit_code) == (1, ExitCode.DONE)
    assert again.summary.requests == {}


async def test_not_before_redacted_audio_is_here(tmp_path: Path) -> None:
    """A transcript whose redacted audio could not be had is saved, and kept at the service."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        no = '{"error":"not today"}'
        archive.service.faults.add(
            Fault(on="export", action="answer", status=400, body=no, times=None)
        )

        outcome = await archive.run(transcript=OPTIONS, delete_remote=True)

        assert (outcome.summary.written, outcome.summary.deleted) == (1, 0)
        assert deleted(archive) == [False]


async def test_with_redacted_audio_at_every_path(tmp_path: Path) -> None:
    """Equal recordings get the audio too, also one that comes after the service deleted it."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", ONE)
        archive.add("b.wav", ONE)
        archive.service.faults.add(ready(url))
        await archive.run(transcript=OPTIONS, delete_remote=True)
        assert deleted(archive) == [True]
        archive.add("later/c.wav", ONE)

        outcome = await archive.run(transcript=OPTIONS, delete_remote=True)

        results = archive.results()
        assert outcome.summary.written == 1
        assert len({results[f"{name}.wav.json"] for name in ("a", "b", "later/c")}) == 1
        assert len({results[f"{name}.wav.redacted.mp3"] for name in ("a", "b", "later/c")}) == 1
        assert archive.service.requests["submit"] == 1


@pytest.mark.parametrize("action", ["hold_before", "hold"])
async def test_killed_while_deleting(archive: Archive, action: str) -> None:
    """A run that dies with a deletion under way leaves it to the next, which needs no flag."""
    fault = Fault(on="delete", action="hold", times=1)
    archive.service.faults.add(replace(fault, action=action))
    async with archive.started(*archive.run_line("--delete-remote")) as process:
        with anyio.fail_after(60):
            await archive.service.held("delete")
            process.kill()
            await process.wait()
    archive.service.release()

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert ended.summary["deleted"] == 1
    assert deleted(archive) == [True]
    assert len(archive.results()) == 1


async def test_another_key_of_the_project_deletes_too(archive: Archive) -> None:
    """What is due to be deleted is not forgotten when the key is rotated."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=400, times=None))
    await archive.run(delete_remote=True)
    archive.service.faults.clear()
    rotated = archive.root / "rotated"
    archive.service.keys["rotated"] = archive.service.keys[archive.service.key]
    rotated.write_text("rotated")

    outcome = await archive.run(api_key_file=rotated)

    assert outcome.summary.deleted == 1


async def test_what_is_due_under_another_key_is_told(archive: Archive) -> None:
    """
    Where nobody knows whether an older key is of this project, what is due with it is left, told
    with the way out, and makes exit code 3 in each run, until `--trust-key` says so.
    """
    archive.add("b.wav", b"two")
    await put_off(archive)
    ids = [transcript.id for transcript in archive.service]
    for transcript_id in ids:  # which keeps them for an hour, say
        gone = Fault(on="get", action="unknown_id", match=transcript_id, times=None)
        archive.service.faults.add(gone)
    new = archive.root / "new"
    new.write_text("second-key")
    rotated = partial(archive.run, api_key_file=new)
    fingerprint, asked = key_fingerprint(archive.service.key), archive.service.requests["delete"]

    for _ in range(2):
        left = await rotated()

        assert (left.summary.exit_code, left.summary.parked) == (ExitCode.PARTIAL, 0)
        (said,) = [e.message for e in left.of(Warned) if "not deleted" in e.message]
        assert said.startswith("2 transcripts are not deleted at the service")
        assert f"--trust-key {fingerprint}" in said
    assert archive.service.requests["delete"] == asked
    trusted = await rotated(trust_key=fingerprint)
    assert (trusted.summary.exit_code, trusted.summary.deleted) == (ExitCode.DONE, 2)


async def test_what_is_due_at_another_address_is_told(archive: Archive) -> None:
    """What is due where this run has nothing to do is counted, and stays due."""
    await put_off(archive)
    async with ScriptedService(transcript_seconds=0.05) as other:
        outcome = await archive.run(provider=other.url)

    messages = [each.message for each in outcome.of(Warned)]
    assert (
        f"1 transcripts are open or to be deleted at {archive.service.url}, and stay there"
    ) in messages
    assert await archive.rows("SELECT deletion FROM attempts") == [("due",)]


async def test_what_was_adopted_and_fetched_again_is_deleted(archive: Archive) -> None:
    """Of a transcript whose key nobody knows a copy that is due to be deleted is, once saved."""
    await archive.run()
    left = archive.root / "left"
    shutil.copytree(archive.output, left, ignore=shutil.ignore_patterns(".overnight"))
    shutil.rmtree(archive.output)
    tell: list[object] = []
    await adopt(archive.settings(), [archive.recordings], left, tell.append, emit=tell.append)
    (archive.output / "a.wav.json").unlink()

    outcome = await archive.run(delete_remote=True)

    assert (outcome.summary.written, outcome.summary.deleted) == (1, 1)
    assert outcome.summary.exit_code == ExitCode.DONE
    assert deleted(archive) == [True]


async def test_a_deleted_transcript_is_never_saved(archive: Archive) -> None:
    """What remains of a transcript that was deleted is no result: it is told as missing."""
    await archive.run(delete_remote=True)
    os.unlink(archive.output / "a.wav.json")

    outcome = await archive.run()

    assert outcome.summary.reasons["failed"] == {"it was deleted at the service": 1}
    assert archive.results() == {}
    assert archive.service.requests["submit"] == 1


async def test_not_while_the_result_is_gone(archive: Archive) -> None:
    """What is due is not deleted while its result is lost here: it is fetched, then deleted."""
    await put_off(archive)
    os.unlink(archive.output / "a.wav.json")
    archive.add("../other/b.wav", b"two")

    elsewhere = await archive.run(archive.root / "other")
    before = deleted(archive)
    fetched = await archive.run()

    assert elsewhere.summary.exit_code == ExitCode.PARTIAL
    assert any("not on disk as it was saved" in warned.message for warned in elsewhere.of(Warned))
    assert before == [False, False]
    assert (fetched.summary.written, fetched.summary.deleted) == (1, 1)
    assert fetched.summary.exit_code == ExitCode.DONE
    assert archive.results().keys() == {"a.wav.json", "b.wav.json"}
    assert deleted(archive) == [True, False]


async def test_not_while_the_result_is_rotten(archive: Archive) -> None:
    """A result of the right size and other bytes is none: the copy is kept, and that is told."""
    await put_off(archive)
    result = archive.output / "a.wav.json"
    result.write_bytes(bytes(result.stat().st_size))

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert any("not on disk as it was saved" in warned.message for warned in outcome.of(Warned))
    assert deleted(archive) == [False]


async def test_not_before_redacted_audio_is_at_every_path(tmp_path: Path) -> None:
    """Audio that came for an equal recording only does not yet allow to delete the transcript."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", ONE)
        no = '{"error":"not today"}'
        archive.service.faults.add(Fault(on="export", action="answer", status=400, body=no))
        archive.service.faults.add(ready(url))
        await archive.run(transcript=OPTIONS, delete_remote=True)
        archive.add("b.wav", ONE)

        outcome = await archive.run(transcript=OPTIONS, delete_remote=True)

        assert outcome.summary.written == 1
        assert archive.results().keys() == {"a.wav.json", "b.wav.json", "b.wav.redacted.mp3"}
        assert deleted(archive) == [False]


@pytest.mark.usefixtures("impatient")
async def test_a_service_that_never_deletes_is_left_alone(archive: Archive) -> None:
    """When deletions fail one after the other, most are not even tried in this run."""
    for number in range(23):
        archive.add(f"{number}.wav", b"more %d" % number)
    archive.service.faults.add(Fault(on="delete", action="answer", status=503, times=None))

    outcome = await archive.run(delete_remote=True)

    tried = {call.transcript_id for call in archive.service.log if call.kind == "delete"}
    assert (outcome.summary.written, outcome.summary.exit_code) == (24, ExitCode.PARTIAL)
    assert 8 <= len(tried) <= 16
