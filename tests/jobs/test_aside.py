"""What comes for nobody goes into `versions/`, with a row, before it counts as saved."""

import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from jobs.planning import plan
from jobs.rebuild import rebuild
from jobs.reprocess import reprocess, roll_back
from pipeline.errors import ExitCode
from pipeline.events import Warned
from pipeline.ledger.archive import Selection
from pipeline.names import version
from pipeline.report.standing import version_lines
from tests.jobs.test_standing import ONE, OTHER, TWO, stopped
from tests.stages.test_redacted_audio import OPTIONS as REDACTED
from tests.stages.test_redacted_audio import ready, storage
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ROWS = "SELECT result_sha256, replaced_by, promote FROM versions ORDER BY version_id"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b/b.wav", TWO)
        yield archive


async def put_aside(archive: Archive, **given: Any) -> None:
    """Results that came when nobody asked for them any more, deleted at the service."""
    await stopped(archive)
    outcome = await archive.run(**OTHER, **given)
    assert outcome.summary.exit_code == ExitCode.DONE


async def asked_for(archive: Archive) -> int:
    """How often the first options are run, until all is there; nothing is asked for."""
    before = archive.service.requests["submit"]
    outcome = await archive.run(redo_changed=True)
    assert outcome.summary.exit_code == ExitCode.DONE
    assert archive.service.requests["submit"] == before
    return outcome.summary.written


def older_names(archive: Archive) -> None:
    """What is among the versions is called as earlier releases did, and no row names it."""
    kept = archive.state / "versions"
    for path in sorted(kept.rglob("*.json")):
        which = json.loads(path.read_bytes())["id"]
        stem = path.name.rpartition("~")[0]
        for each in path.parent.glob(f"{path.stem}*"):
            each.rename(each.with_name(each.name.replace(path.stem, f"{stem}~{which}")))


async def forget_rows(archive: Archive) -> None:
    """The ledger knows nothing of the versions, as that of an earlier release."""

    def delete() -> None:

        with closing(sqlite3.connect(archive.state / "ledger.sqlite3")) as db, db:
            db.execute("DELETE FROM versions")

    await to_thread.run_sync(delete)


async def test_each_file_there_has_a_row(archive: Archive) -> None:
    """The row names the file, by one rule, and says that it never was current."""
    await put_aside(archive)

    rows = await archive.rows(
        "SELECT r.result, v.result_sha256, v.result_size, v.replaced_by, v.promote,"
        " v.written_run = v.run_id FROM versions v JOIN recordings r USING (recording_id)"
    )
    named = {os.fsdecode(version(row[0], row[1][:12])): row[2] for row in rows}
    assert named == {name: len(body) for name, body in archive.versions().items()}
    assert [row[3:] for row in rows] == [(None, None, 1)] * 2


@pytest.mark.parametrize("deletes", [True, False])
async def test_what_was_put_aside_is_found_again(archive: Archive, deletes: bool) -> None:
    """Asked for by its options it is written from there, though the service has no copy."""
    await put_aside(archive, delete_remote=deletes)
    aside = sorted(archive.versions().values())
    assert {t.is_deleted for t in archive.service} == {deletes}

    assert await asked_for(archive) == 2
    assert sorted(archive.results().values()) == aside
    assert (await archive.run()).summary.requests == {}


async def test_an_older_name_is_found(archive: Archive) -> None:
    """So it is where an earlier release has named it by its id, and no row names it."""
    await put_aside(archive, delete_remote=True)
    aside = sorted(archive.versions().values())
    await forget_rows(archive)
    older_names(archive)

    assert await asked_for(archive) == 2
    assert sorted(archive.results().values()) == aside


async def test_one_file_is_one_row(archive: Archive) -> None:
    """What lies there already is not noted twice, however often it comes."""
    await put_aside(archive)
    before = await archive.rows(ROWS)
    for path in (archive.state / "versions").rglob("*.json"):
        path.unlink()

    await archive.command(
        "verify", "--repair", "-o", archive.output, "--provider", archive.service.url
    )

    assert await archive.rows(ROWS) == before
    assert len(archive.versions()) == 2


async def test_it_is_none_to_come_back(archive: Archive) -> None:
    """What never was current is neither rolled back nor promoted, whatever is said."""
    await put_aside(archive)
    before = archive.results()
    (run_id,) = {row[0] for row in await archive.rows("SELECT run_id FROM versions")}

    back = await roll_back(archive.settings(), run_id, emit=lambda _: None)

    assert (back.settled.back, back.others, back.exit_code) == (0, 0, ExitCode.DONE)
    assert archive.results() == before


async def test_a_reprocess_takes_it(archive: Archive) -> None:
    """It is no result that was compared and put aside: a reprocess compares it, for nothing."""
    await put_aside(archive, delete_remote=True)
    settings = archive.settings()
    submits = archive.service.requests["submit"]

    made = await to_thread.run_sync(lambda: plan(settings, Selection(), promote="better"))
    done = await reprocess(settings, made, promote="better", emit=lambda _: None)

    assert (made.fetched, made.left_out, done.summary.written) == (2, {}, 2)
    assert archive.service.requests["submit"] == submits


async def test_it_is_listed(archive: Archive) -> None:
    """`list --versions` has it, with where it is and what it was made with."""
    await put_aside(archive)

    lines = await to_thread.run_sync(lambda: list(version_lines(archive.state, as_json=True)))

    said = [json.loads(line) for line in lines]
    assert {each["file"].removeprefix("versions/") for each in said} == set(archive.versions())
    assert [each["options"] for each in said] == [{}, {}]


@pytest.mark.parametrize("is_older", [True, False])
async def test_a_ledger_made_anew_knows_it(archive: Archive, is_older: bool) -> None:
    """By either name: what lies there is found by its options, and named by the one rule."""
    await put_aside(archive, delete_remote=True)
    aside = sorted(archive.versions().values())
    if is_older:
        older_names(archive)
    (archive.state / "ledger.sqlite3").unlink()

    await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)
    rows = await archive.rows(
        "SELECT r.result, v.result_sha256 FROM versions v JOIN recordings r USING (recording_id)"
    )

    assert {os.fsdecode(version(row[0], row[1][:12])) for row in rows} <= set(archive.versions())
    assert len(rows) == 2
    assert await asked_for(archive) == 2
    assert sorted(archive.results().values()) == aside


async def test_redacted_audio_goes_along(tmp_path: Path) -> None:
    """Redacted audio lies beside it by the same name, and comes back with it."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", ONE)
        archive.add("b.wav", TWO)
        archive.service.faults.add(ready(url))
        await stopped(archive, transcript=REDACTED)
        await archive.run(**OTHER, delete_remote=True)
        kept = archive.versions()

        outcome = await archive.run(transcript=REDACTED, redo_changed=True)

        assert outcome.summary.exit_code == ExitCode.DONE
        assert len(kept) == 4
        assert {name.partition("~")[2].partition(".")[0] for name in kept} == {
            name.partition("~")[2].partition(".")[0] for name in kept if name.endswith(".json")
        }
        assert sum(name.endswith(".mp3") for name in archive.results()) == 2


async def test_a_version_that_is_brought_back(archive: Archive) -> None:
    """One that was gone here and at the service counts as soon as it lies there again."""
    await put_aside(archive, delete_remote=True)
    aside, kept = sorted(archive.versions().values()), archive.state / "versions"
    kept.rename(archive.root / "backup")
    gone = [await archive.run(redo_changed=True) for _ in range(2)]
    (archive.root / "backup").rename(kept)

    assert [outcome.summary.failed for outcome in gone] == [2, 2]
    assert await asked_for(archive) == 2
    assert sorted(archive.results().values()) == aside


async def test_a_text_is_worth_more_than_its_audio(tmp_path: Path) -> None:
    """A twin has the JSON that lies here, though the audio is lost and the service has neither."""
    async with opened(tmp_path) as archive, storage() as (url, _):
        archive.add("a.wav", ONE)
        archive.service.faults.add(ready(url))
        await archive.run(transcript=REDACTED, delete_remote=True)
        (archive.output / "a.wav.redacted.mp3").unlink()
        archive.add("twin.wav", ONE)

        outcome = await archive.run(transcript=REDACTED)

        assert (outcome.summary.written, outcome.summary.failed) == (1, 0)
        assert any("without its redacted audio" in each.message for each in outcome.of(Warned))
        results = archive.results()
        assert results["twin.wav.json"] == results["a.wav.json"]


# --- deleted last ---------------------------------------------------------------------------------


async def due(archive: Archive) -> None:
    """Results that lie among the versions only, and whose copies are due to be deleted."""
    fault = archive.service.faults.add(Fault(on="delete", action="answer", status=403, times=None))
    await stopped(archive)
    await archive.run(**OTHER, delete_remote=True)
    archive.service.faults.clear()
    assert fault.met


def deleted(archive: Archive) -> int:
    return sum(transcript.is_deleted for transcript in archive.service)


@pytest.mark.parametrize("loss", ["gone", "rotten", "forgotten"])
async def test_nothing_is_deleted_that_lies_nowhere(archive: Archive, loss: str) -> None:
    """What was lost here is fetched again before its copy is deleted, into the versions."""
    await due(archive)
    before = archive.versions()
    for path in (archive.state / "versions").rglob("*.json"):
        path.write_bytes(bytes(path.stat().st_size)) if loss == "rotten" else path.unlink()
    if loss == "forgotten":
        await forget_rows(archive)
    submits = archive.service.requests["submit"]

    outcome = await archive.run(**OTHER)

    assert (outcome.summary.deleted, outcome.summary.exit_code) == (4, ExitCode.DONE)
    assert archive.versions() == before
    assert archive.service.requests["submit"] == submits
    assert await asked_for(archive) == 2


@pytest.mark.parametrize("answer", ["deleted", "unknown"])
async def test_what_cannot_be_fetched_is_told_once(archive: Archive, answer: str) -> None:
    """What lies nowhere and cannot be had is told, and no deletion of it is due any more."""
    await due(archive)
    for path in (archive.state / "versions").rglob("*.json"):
        path.unlink()
    ids = {
        row[0]
        for row in await archive.rows(
            "SELECT transcript_id FROM attempts ORDER BY attempt_id LIMIT 2"
        )
    }
    patch = {"audio_url": "http://deleted_by_user"}
    action = "patch" if answer == "deleted" else "unknown_id"
    for each in ids:
        archive.service.faults.add(
            Fault(on="get", action=action, match=each, patch=patch, times=None)
        )

    told = [await archive.run(**OTHER, ahead_s=7200.0 * number) for number in range(3)]

    said = [
        {each for each in ids for event in outcome.of(Warned) if each in event.message}
        for outcome in told
    ]
    assert sum(map(len, said)) == 2
    assert told[-1].summary.exit_code == ExitCode.DONE
    assert await archive.rows("SELECT 1 FROM attempts WHERE deletion = 'due'") == []
    calls = [call for call in archive.service.log if call.kind == "delete" and not call.fault]
    assert not ids & {call.transcript_id for call in calls}


async def test_an_odd_answer_is_never_deleted(archive: Archive) -> None:
    """What is suspicious about an answer may be seen later: the service keeps its copy."""
    await put_aside(archive)

    def note() -> None:

        with closing(sqlite3.connect(archive.state / "ledger.sqlite3")) as db, db:
            db.execute("UPDATE attempts SET odd = 'no text', deletion = 'due'")

    await to_thread.run_sync(note)

    outcome = await archive.run(**OTHER, delete_remote=True)

    assert (outcome.summary.deleted, outcome.summary.exit_code) == (0, ExitCode.DONE)
    assert deleted(archive) == 0


async def test_a_result_that_waits_for_others_is_missed(archive: Archive) -> None:
    """A lost result of a recording that waits for other options is fetched before the deletion."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=403, times=None))
    await archive.run(delete_remote=True)
    archive.service.faults.add(Fault(on="upload", action="answer", status=413, times=None))
    await archive.run(**OTHER, redo_changed=True)
    archive.service.faults.clear()
    before = archive.results()
    for name in before:
        (archive.output / name).unlink()

    outcome = await archive.run(**OTHER)

    assert outcome.summary.deleted == 2
    assert sorted(archive.versions().values()) == sorted(before.values())
