"""What once went wrong on a bad day: each of these paid twice, lost a result, or never ended."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest
import stamina

from pipeline.errors import ExitCode
from tests.stages.test_redacted_audio import AUDIO, OPTIONS, ready, storage
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ONE = b"one"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


@pytest.fixture
def impatient() -> Iterator[None]:
    """Two tries of everything, without a wait between them."""
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


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
    """A service that answers no submit is waited for, then left, and nothing was paid."""
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="answer", status=503, times=None))

    outcome = await archive.run(settle="100ms", outage_patience="1s")

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert outcome.summary.parked == 1
    assert not archive.service.billable


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


@pytest.mark.parametrize("status", ["error", "processing"])
async def test_what_was_completed_cannot_be_undone(archive: Archive, status: str) -> None:
    """A service that goes back on a completed transcript is not believed, nor waited for."""
    archive.add("a.wav", ONE)
    await archive.run()
    os.unlink(archive.output / "a.wav.json")
    said = {"status": status, "error": "Server error, developers have been alerted."}
    archive.service.faults.add(Fault(on="get", action="patch", times=1, patch=said))

    first = await archive.run()
    second = await archive.run()

    assert (first.summary.parked, second.summary.written) == (1, 1)
    assert len(archive.service.accepted(ONE)) == 1


async def test_one_blocked_folder_whose_name_is_no_text(archive: Archive) -> None:
    """A file in the way of a folder that is not UTF-8 costs one recording, and no upload."""
    archive.add(b"caf\xe9/a.wav", ONE)
    archive.add("b.wav", b"two")
    archive.add("c.wav", b"three")
    archive.output.mkdir()
    (archive.output / os.fsdecode(b"caf\xe9")).touch()

    outcome = await archive.run()

    assert (outcome.summary.failed, outcome.summary.written) == (1, 2)
    assert archive.service.accepted(ONE) == []


async def test_a_folder_in_the_place_of_a_result(archive: Archive) -> None:
    """What could not be saved, since a folder has the result's name, is never sent."""
    archive.add("a.wav", ONE)
    (archive.output / "a.wav.json").mkdir(parents=True)

    first = await archive.run()
    second = await archive.run()

    assert (first.summary.failed, second.summary.failed) == (1, 1)
    assert archive.service.requests["upload"] == archive.service.requests["submit"] == 0


async def test_a_list_that_names_no_recordings_proves_nothing(archive: Archive) -> None:
    """Rows that do not say what they are of are asked by their ids; what stays untold is parked."""
    archive.add("a.wav", ONE)
    archive.service.add_foreign(2)
    archive.service.faults.add(Fault(on="submit", action="drop_after", times=1))
    nameless = {"audio_url": None}
    for call in ("list", "get"):
        archive.service.faults.add(Fault(on=call, action="patch", times=None, patch=nameless))

    outcome = await archive.run()

    assert outcome.summary.parked == 1
    archive.service.faults.clear()
    archive.service.faults.add(Fault(on="list", action="patch", times=None, patch=nameless))
    assert (await archive.run()).summary.written == 1
    assert len(archive.service.accepted(ONE)) == 1


async def test_ids_of_other_programs_harm_nothing(archive: Archive) -> None:
    """A lost answer is found between rows whose ids are of a form that none of ours has."""

    def add_foreign(count: int) -> None:
        rows = archive.service.transcripts
        for known in archive.service.add_foreign(count):
            row = rows.pop(known)
            row.id = f"rt:{known}"
            rows[row.id] = row

    add_foreign(2)
    archive.add("a.wav", ONE)
    archive.service.faults.add(Fault(on="submit", action="hold", times=1))
    await cut_short(archive, "submit")
    add_foreign(300)  # more than a page

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert len(archive.service.accepted(ONE)) == 1


ECHOES: dict[str, Callable[[str], Fault]] = {
    "upload": lambda key: Fault(on="upload", action="answer", status=200, body=key, times=None),
    "upload_url": lambda key: Fault(on="upload", action="patch", patch={"upload_url": f"x/{key}"}),
    "submit": lambda key: Fault(on="submit", action="patch", patch={"id": f"key {key}"}),
    "list": lambda key: Fault(on="list", action="answer", status=200, body=key, times=None),
    "reason": lambda key: Fault(
        on="get", action="patch", patch={"status": "error", "error": f"bad key {key}"}
    ),
    "id": lambda key: Fault(on="get", action="patch", patch={"id": f"bad key {key}"}, times=None),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ECHOES)
async def test_a_key_that_is_echoed_is_kept_nowhere(archive: Archive, where: str) -> None:
    """A service that repeats the key brings it into no event, and no file of the output folder."""
    for number in range(16):  # enough to end a run that gets nowhere
        archive.add(f"{number}.wav", b"%d" % number)
    key = archive.service.key
    fault = archive.service.faults.add(ECHOES[where](key))

    outcome = await archive.run(outage_patience="1s")

    assert fault.met
    assert key not in repr(outcome)
    assert [
        path
        for path in archive.output.rglob("*")
        if path.is_file() and key.encode() in path.read_bytes()
    ] == []


@pytest.mark.parametrize(("good", "blocked"), [("a.wav", "sub/b.wav"), ("z.wav", "sub/b.wav")])
async def test_one_bad_place_holds_up_no_other(archive: Archive, good: str, blocked: str) -> None:
    """Of equal recordings the one that can be saved is, whichever of them asked for it."""
    for name in sorted((good, blocked)):
        archive.add(name, ONE)
        await archive.run()
    for name in (good, blocked):
        os.unlink(archive.output / f"{name}.json")
    (archive.output / "sub").rmdir()
    (archive.output / "sub").touch()

    outcome = await archive.run()

    assert (outcome.summary.written, outcome.summary.parked) == (1, 1)
    assert archive.results().keys() == {f"{good}.json", "sub"}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("status", "said", "times"),
    [
        (503, "down for a moment", 2),
        (400, "Transcription is still in progress. Redacted audio will be available later.", 1),
    ],
)
async def test_redacted_audio_outlasts_an_outage(
    archive: Archive, status: int, said: str, times: int
) -> None:
    """Audio that cannot be had yet is waited for, whichever way the service says so."""
    archive.add("a.wav", ONE)
    body = f'{{"error":"{said}"}}'
    archive.service.faults.add(
        Fault(on="export", action="answer", status=status, body=body, times=times)
    )
    async with storage() as (url, _):
        archive.service.faults.add(ready(url))

        outcome = await archive.run(transcript=OPTIONS)

    assert outcome.summary.written == 1
    assert archive.results()["a.wav.redacted.mp3"] == AUDIO


async def test_options_that_others_are_taken_with_are_not_to_blame(archive: Archive) -> None:
    """What refuses three recordings alike stops no run in which one with other bytes is taken."""
    archive.add("a.wav", ONE)
    await archive.run()
    for number in range(6):
        archive.add(f"{number}.wav", b"more %d" % number)
    no = '{"error":"Transcript creation error, audio_url not found"}'
    archive.service.faults.add(Fault(on="submit", action="answer", status=400, body=no, times=3))

    outcome = await archive.run(uploads=1)

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert (outcome.summary.failed, outcome.summary.written) == (3, 3)


async def test_a_copy_gets_the_result_that_there_is(archive: Archive) -> None:
    """Where a forced new transcript failed, an equal recording gets the one from before."""
    archive.add("a.wav", ONE)
    await archive.run()
    failed = {"status": "error", "error": "Audio is bad"}
    archive.service.faults.add(Fault(on="get", action="patch", times=1, patch=failed))
    await archive.run(force=True)
    archive.add("b.wav", ONE)

    outcome = await archive.run()

    results = archive.results()
    assert outcome.summary.written == 1
    assert results["b.wav.json"] == results["a.wav.json"]
    assert len(archive.service.accepted(ONE)) == 2
