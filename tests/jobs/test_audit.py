"""`overnight audit`: what was asked for adds up, and what does not is told."""

import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from anyio import to_thread

from jobs.audit import Audit, audit, audit_remote
from jobs.finding import Finding
from pipeline.errors import ExitCode, ServiceUnusable, SettingsError
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

HOUR, ONE, TWO = b"SECONDS:3600\n", b"SECONDS:3600\none", b"SECONDS:1800\ntwo"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b.wav", TWO)
        archive.add("twin.wav", ONE)
        yield archive


async def audited(archive: Archive) -> tuple[Audit, list[Finding]]:
    """What the ledger alone says."""
    told: list[Finding] = []
    return await to_thread.run_sync(audit, archive.settings(), told.append), told


async def compared(archive: Archive) -> tuple[Audit, list[Finding]]:
    """What the account's list says of it."""
    told: list[Finding] = []
    return await audit_remote(archive.settings(), told.append), told


def kinds(told: list[Finding]) -> list[tuple[str, str | None]]:
    return sorted((each.kind, each.transcript_id) for each in told)


async def change(archive: Archive, query: str) -> None:
    """Put something into the ledger that the program would not."""

    def write() -> None:
        with closing(sqlite3.connect(archive.state / "ledger.sqlite3")) as db, db:
            db.execute(query)

    await to_thread.run_sync(write)


async def forget(archive: Archive, transcript_id: str, state: str) -> None:
    """Let the ledger know of an attempt, and not of the transcript that came of it."""
    await change(
        archive,
        f"UPDATE attempts SET state = '{state}', outcome = NULL, transcript_id = NULL "
        f"WHERE transcript_id = '{transcript_id}'",
    )


def told_instead(page: str, skip: int = 0) -> Fault:
    """Whatever is asked for of the list, this is the answer."""
    answer = {"status": 200, "body": page}
    return Fault(on="list", action="effect_then_answer", skip=skip, times=None, **answer)


# --- the ledger ----------------------------------------------------------------------------------


async def test_a_finished_archive_adds_up(archive: Archive) -> None:
    """Equal recordings are one content, and each content is one transcript that is used."""
    await archive.run()

    found, told = await audited(archive)

    assert told == []
    assert found.sentence == "2 contents, 2 transcripts, 0 orphans"
    assert found.recordings == {"written": 3}
    assert found.spent["outcomes"] == {"completed": 2}
    assert found.spent["billed_hours"] == 1.5
    assert found.exit_code == ExitCode.DONE


async def test_what_is_in_doubt_is_told_as_spent(archive: Archive) -> None:
    """Lost answers count as caps count them, beside what is billed."""
    await archive.run()
    await archive.leave_in_doubt()

    found, _ = await audited(archive)

    assert (found.spent["billed_hours"], found.spent["open_hours"]) == (1.5, 0.5)
    assert "0.50 h of audio at the most" in str(found)


async def test_what_the_user_asked_for_again_is_no_duplicate(archive: Archive) -> None:
    """A new generation and other options are told apart from what was paid for by mistake."""
    await archive.run()
    await archive.run(force=True)
    await archive.run(transcript={"punctuate": False}, redo_changed=True)

    found, told = await audited(archive)

    assert told == []
    assert found.sentence == (
        "2 contents, 6 transcripts, 0 orphans, 2 with other options, 2 asked for again"
    )
    assert found.spent["duplicates"] == 0
    assert found.exit_code == ExitCode.DONE


async def test_what_failed_is_not_paid(archive: Archive) -> None:
    """A transcript that ended with an error is an outcome, and none of the transcripts paid for."""
    archive.add("bad.wav", b"ERROR:Audio duration is too short.\nbad")
    await archive.run()

    found, _ = await audited(archive)

    assert found.spent["outcomes"] == {"completed": 2, "error": 1}
    assert found.recordings == {"failed": 1, "written": 3}
    assert found.sentence == "2 contents, 2 transcripts, 0 orphans"
    assert found.exit_code == ExitCode.DONE


async def test_an_orphan_is_told(archive: Archive) -> None:
    """What was paid for and lies neither with a recording nor among the versions is told."""
    await archive.run()
    archive.add("b.wav", b"another")
    await archive.run()
    _, kept = await audited(archive)
    (older,) = (archive.state / "versions").iterdir()
    older.unlink()

    found, told = await audited(archive)

    assert kept == []
    assert kinds(told) == [("orphan", archive.service.accepted(TWO)[0].id)]
    assert found.sentence == "3 contents, 3 transcripts, 1 orphans"
    assert found.exit_code == ExitCode.PARTIAL


async def test_a_lost_answer_is_unknown(archive: Archive) -> None:
    """As long as nobody knows whether something was paid for, it does not add up."""
    await archive.run()
    (mine,) = archive.service.accepted(TWO)
    await forget(archive, mine.id, "ambiguous")

    found, _ = await audited(archive)
    _, told = await compared(archive)

    assert found.spent["unknown"] == 1
    assert found.sentence == "1 contents, 1 transcripts, 0 orphans, 1 unknown"
    assert found.exit_code == ExitCode.PARTIAL
    assert kinds(told) == [("unknown", mine.id)]


async def test_deletions_are_counted(archive: Archive) -> None:
    """What the service has deleted, and what it is still to delete."""
    archive.service.faults.add(Fault(on="delete", action="answer", status=400, times=1))
    await archive.run(delete_remote=True)

    found, _ = await audited(archive)

    assert found.spent["deletions"] == {"due": 1, "done": 1}


# --- the account ---------------------------------------------------------------------------------


async def test_the_account_agrees(archive: Archive) -> None:
    """Ours are in the list, however many rows of others are; those are counted and no fault."""
    await archive.run()
    archive.service.add_foreign(450)

    found, told = await compared(archive)

    assert told == []
    assert found.account == {
        "listed": 452,
        "ours": 2,
        "others": 450,
        "deleted": 0,
        "unlisted": 0,
    }
    assert found.exit_code == ExitCode.DONE


async def test_what_was_deleted_is_recognised(archive: Archive) -> None:
    """Rows that are marked as deleted are counted; that we deleted them is no fault."""
    await archive.run(delete_remote=True)

    found, told = await compared(archive)
    archive.service.faults.add(told_instead('{"transcripts": []}'))
    later, still = await compared(archive)

    assert told == still == []
    assert found.account is not None
    assert later.account is not None
    assert (found.account["deleted"], found.account["unlisted"]) == (2, 0)
    assert (later.account["deleted"], later.account["unlisted"]) == (0, 2)


async def test_rows_that_cannot_be_read_are_passed_over(archive: Archive) -> None:
    """What was deleted is known in any spelling, and a row that is none is no transcript."""
    await archive.run()
    rows = [
        {"id": each.id, "status": "completed", "audio_url": "HTTPS://deleted_by_user:443/x"}
        for each in archive.service
    ]
    page = json.dumps({"transcripts": [None, {"id": 5}, {"audio_url": "x"}, *rows]})
    first = {"status": 200, "body": page}
    archive.service.faults.add(Fault(on="list", action="effect_then_answer", **first))
    archive.service.faults.add(told_instead('{"transcripts": []}'))

    found, told = await compared(archive)

    assert told == []
    assert found.account is not None
    assert (found.account["listed"], found.account["deleted"]) == (2, 2)


async def test_what_is_paid_twice_is_told(archive: Archive) -> None:
    """A second transcript of one of our uploads is told by its id."""
    await archive.run()
    (first,) = archive.service.accepted(TWO)
    second = archive.service.submit(first.project, {"audio_url": first.audio_url})
    archive.service.complete(second.id)

    found, told = await compared(archive)

    assert kinds(told) == [("twice", second.id)]
    assert first.id in told[0].what
    assert found.sentence == "2 contents, 2 transcripts, 0 orphans, 1 paid twice"
    assert found.exit_code == ExitCode.PARTIAL


async def test_what_failed_costs_nothing_twice(archive: Archive) -> None:
    """A second transcript of one of our uploads that ended with an error was never billed."""
    await archive.run()
    (first,) = archive.service.accepted(TWO)
    second = archive.service.submit(first.project, {"audio_url": first.audio_url})
    archive.service.fail(second.id, "Server error, developers have been alerted.")

    found, told = await compared(archive)

    assert told == []
    assert found.exit_code == ExitCode.DONE


async def test_what_was_given_up_and_paid_is_an_orphan(archive: Archive) -> None:
    """A transcript that was taken as not accepted, and is in the list after all, is told."""
    await archive.run()
    (mine,) = archive.service.accepted(TWO)
    await forget(archive, mine.id, "not_accepted")

    _, told = await compared(archive)

    assert kinds(told) == [("orphan", mine.id)]


async def test_what_is_not_listed_is_told_if_it_should_be(archive: Archive) -> None:
    """A transcript that is not listed is a contradiction only as far as the list goes back."""
    await archive.run()
    archive.service.faults.add(told_instead('{"transcripts": []}'))
    _, told = await compared(archive)
    await change(archive, "UPDATE attempts SET accepted_at = accepted_at - 90 * 86400")

    found, later = await compared(archive)

    assert [each.kind for each in told] == ["unlisted"] * 2
    assert "90 days" in told[0].what
    assert later == []
    assert found.account is not None
    assert found.account["unlisted"] == 2
    assert found.exit_code == ExitCode.DONE


@pytest.mark.parametrize("fault", ["down", "endless"])
async def test_a_list_that_cannot_be_walked_proves_nothing(archive: Archive, fault: str) -> None:
    """Half a list, or one that does not go on, is an error and no answer."""
    await archive.run()
    archive.service.add_foreign(300)
    if fault == "down":
        down = Fault(on="list", action="answer", status=404, skip=1, times=None)
    else:
        down = told_instead('{"transcripts": [{"id": "same", "status": "completed"}]}', skip=1)
    archive.service.faults.add(down)

    with pytest.raises(ServiceUnusable, match="cannot be read"):
        await compared(archive)


async def test_the_engine_has_no_account(archive: Archive) -> None:
    """Nothing can be compared with the embedded engine, which costs nothing."""
    with pytest.raises(SettingsError, match="no account"):
        await audit_remote(archive.settings(provider="local"), lambda _: None)


# --- the command ---------------------------------------------------------------------------------


async def test_the_command_says_it(archive: Archive) -> None:
    """The last line for people is the sentence, for programs an object with all counts."""
    await archive.run()
    as_text = await archive.command("audit", "-o", archive.output)
    remote = ["--remote", "--provider", archive.service.url]
    as_json = await archive.command("audit", "-o", archive.output, "--json", *remote)

    assert (as_text.exit_code, as_json.exit_code) == (0, 0)
    assert as_text.stdout.decode().splitlines()[-1] == "2 contents, 2 transcripts, 0 orphans"
    assert as_json.summary["type"] == "audit"
    assert (as_json.summary["orphans"], as_json.summary["account"]["ours"]) == (0, 2)
