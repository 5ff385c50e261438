"""A session works with the ledger that knows all that was asked for, whatever clocks say."""

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from jobs.adopt import adopt
from jobs.rebuild import rebuild
from pipeline.errors import ExitCode, LedgerUnusable
from pipeline.settings import key_fingerprint
from tests.support.runs import Archive, opened, watched
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

YEAR_S = 365 * 86_400.0
CLOCKS = {"right": 0.0, "years behind": -20 * YEAR_S, "years ahead": 300 * YEAR_S}

ACCEPTED = "SELECT 1 FROM attempts WHERE state = 'accepted'"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        archive.environ["OVERNIGHT_SETTLE"] = "500ms"
        yield archive


def backup(archive: Archive) -> Path:
    """A copy of the ledger, as it is between two runs."""
    return shutil.copy(archive.state / "ledger.sqlite3", archive.root / "backup")


def restore(archive: Archive, copy: Path) -> None:
    """The copy in the place of the ledger; the journals are those of today."""
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()
    shutil.copy(copy, archive.state / "ledger.sqlite3")


# --- an older ledger ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "is_lost"),
    [(first, second, False) for first in CLOCKS for second in CLOCKS]
    + [("years ahead", second, True) for second in ("right", "years ahead")],
)
async def test_an_older_ledger_is_noticed(
    archive: Archive, first: str, second: str, is_lost: bool
) -> None:
    """
    A ledger from before the last run that asked for something asks for nothing, however clocks
    stood and even if each answer was lost; made anew it goes on, and nothing is paid twice.
    """
    await archive.run(ahead_s=CLOCKS[first])
    copy = backup(archive)
    archive.add("b.wav", b"two")
    if is_lost:
        archive.service.faults.add(Fault(on="submit", action="hold"))
    async with anyio.create_task_group() as group:
        group.start_soon(partial(archive.run, ahead_s=CLOCKS[second]))
        if is_lost:
            await archive.service.held("submit")
            group.cancel_scope.cancel()
    restore(archive, copy)
    archive.service.requests.clear()

    for flags in ({}, {"dry_run": True}):
        with pytest.raises(LedgerUnusable, match="--rebuild"):
            await archive.run(**flags)

    assert archive.service.requests.total() == 0
    made = await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)
    if not made.unclaimed:
        assert (await archive.run()).summary.exit_code == 0
    assert max(archive.service.billable.values()) == 1


async def test_a_ledger_that_was_copied_amid_a_run_is_noticed(archive: Archive) -> None:
    """What its last run was answered after the copy is not known to it: nothing is asked for."""
    archive.add("b.wav", b"two")
    archive.service.faults.add(Fault(on="upload", action="hold_before", match="two"))
    async with anyio.create_task_group() as group:
        group.start_soon(archive.run)
        with anyio.fail_after(30):
            await archive.service.held("upload")
            while not await archive.rows(ACCEPTED):
                await anyio.wait_all_tasks_blocked()
        copies = [shutil.copy(path, archive.root) for path in archive.state.glob("ledger.sqlite3*")]
        archive.service.release()
    restore(archive, archive.root / "ledger.sqlite3")
    for copy in copies:
        shutil.copy(copy, archive.state)

    with pytest.raises(LedgerUnusable, match="--rebuild"):
        await archive.run()

    assert archive.service.requests["submit"] == 2


async def test_only_journals_of_unknown_runs_are_opened(archive: Archive) -> None:
    """Nights by the thousand cost one look at the folder: what is known is not read again."""
    await archive.run()
    (known,) = archive.state.glob("runs/*")
    for number in range(3):
        archive.add(f"{number}.wav", b"%d" % number)
        await archive.run()
    for number in range(2000):
        (archive.state / f"runs/20200101T000000Z-{number:06x}").mkdir()

    with watched(known / "attempts.ndjson") as opens:
        assert (await archive.run()).summary.already_written == 4
        assert opens() == 0


async def test_a_run_that_asks_for_nothing_has_no_journal(archive: Archive) -> None:
    """Neither a night with nothing to do nor one without an upload leaves a line behind."""
    archive.service.faults.add(Fault(on="upload", action="answer", status=500, times=None))
    await archive.run(limit=0)
    archive.service.faults.clear()
    await archive.run()
    await archive.run()

    assert len([*archive.state.glob("runs/*/attempts.ndjson")]) == 1
    assert len(await archive.rows("SELECT run_id FROM runs")) == 1


# --- results that the ledger does not know --------------------------------------------------------


@pytest.mark.parametrize("new", [{}, {"transcript": {"punctuate": False}}], ids=["same", "other"])
async def test_an_unknown_result_is_left_to_be_adopted(
    archive: Archive, new: dict[str, Any]
) -> None:
    """
    Without its state folder a run asks for nothing whose whole transcript lies there: it is parked,
    and `--adopt` is named; the rest goes on, and what is adopted is not paid for again.
    """
    archive.add("b.wav", b"two")
    await archive.run()
    results = archive.results()
    shutil.rmtree(archive.state)
    archive.add("c.wav", b"three")
    archive.output.joinpath("d.wav.json").write_text('{"id": "x", "status": "queued"}')
    archive.add("d.wav", b"four")

    for _ in range(2):
        left = (await archive.run(**new)).summary

        assert (left.parked, left.exit_code) == (2, ExitCode.PARTIAL)
        assert all("--adopt" in reason for reason in left.reasons["parked"])
        assert archive.service.requests["submit"] == 4
    assert {name: archive.results()[name] for name in results} == results
    found = await adopt(
        archive.settings(),
        [archive.recordings],
        archive.output,
        lambda _: None,
        emit=lambda _: None,
    )
    assert found.adopted == 2
    after = (await archive.run()).summary
    assert (after.already_written, after.kept, after.parked) == (
        2 if new else 4,
        2 if new else 0,
        0,
    )
    assert archive.service.requests["submit"] == 4


async def test_force_pays_for_another_in_place_of_an_unknown_one(archive: Archive) -> None:
    """Who insists gets a new result, and the one that was there is kept among the versions."""
    await archive.run()
    shutil.rmtree(archive.state)

    assert (await archive.run(force=True)).summary.written == 1
    assert len(archive.versions()) == 1
    assert archive.service.requests["submit"] == 2


# --- clocks that were wrong -----------------------------------------------------------------------


@pytest.mark.parametrize("at", [1.0, 1e11], ids=["long past", "far ahead"])
async def test_times_of_a_wrong_clock_stop_nothing(archive: Archive, at: float) -> None:
    """Whatever times an earlier run has noted, the next one ends, with all that was paid."""
    archive.add("b.wav", b"two")
    archive.service.transcript_seconds = 3600.0
    async with anyio.create_task_group() as group:
        group.start_soon(archive.run)
        with anyio.fail_after(30):
            await archive.service.until(lambda: archive.service.requests["submit"] == 2)
            while len(await archive.rows(ACCEPTED)) < 2:
                await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    for transcript in archive.service:
        archive.service.complete(transcript.id)
    await anyio.to_thread.run_sync(set_times, archive, at)
    archive.add("c.wav", b"three")
    archive.service.transcript_seconds = 0.05

    outcome = await archive.run(ramp=True, max_hours_month=1000)

    assert (outcome.summary.written, outcome.summary.exit_code) == (3, ExitCode.DONE)
    assert archive.service.requests["submit"] == 3


def set_times(archive: Archive, at: float) -> None:
    """Every time that the ledger holds."""
    with closing(sqlite3.connect(archive.state / "ledger.sqlite3")) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")]
        for table in tables:
            for _, column, kind, *_ in db.execute(f"PRAGMA table_info({table})").fetchall():
                if column.endswith("_at") and kind == "REAL":
                    db.execute(f"UPDATE {table} SET {column} = ? WHERE {column} IS NOT NULL", (at,))
        db.execute("UPDATE OR REPLACE requests SET second = ?", (int(at),))
        db.commit()


@pytest.mark.parametrize("changed_at", [0.0, 4e9], ids=["1970", "2096"])
async def test_a_recording_of_a_wrong_clock_is_taken(archive: Archive, changed_at: float) -> None:
    """Whether its last change lies ahead or long ago, no age that is asked for leaves it out."""
    os.utime(archive.recordings / "a.wav", (changed_at, changed_at))

    outcome = await archive.run(min_age="1s", max_age="36500d", ahead_s=3600)

    assert outcome.summary.written == 1


# --- another key ----------------------------------------------------------------------------------


async def test_a_rotated_key_where_the_account_deletes_by_itself(archive: Archive) -> None:
    """
    Where no id is young enough to be known, a new key works on what is new and leaves the rest as
    it is, until `--trust-key`, said once and kept, says that what the old one asked for is gone.
    """
    archive.add("b.wav", b"two")
    archive.service.transcript_seconds = 3600.0
    async with anyio.create_task_group() as group:
        group.start_soon(archive.run)
        with anyio.fail_after(30):
            await archive.service.until(lambda: archive.service.requests["submit"] == 2)
            while len(await archive.rows(ACCEPTED)) < 2:
                await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    archive.service.transcript_seconds = 0.05
    query = "SELECT transcript_id, outcome, unknown_at FROM attempts ORDER BY attempt_id LIMIT 2"
    before = await archive.rows(query)
    for transcript_id, _, _ in before:
        archive.service.complete(transcript_id)
        gone = Fault(on="get", action="unknown_id", match=transcript_id, times=None)
        archive.service.faults.add(gone)
    new = archive.root / "new"
    new.write_text("second-key")
    rotated = partial(archive.run, api_key_file=new)
    archive.add("c.wav", b"three")

    assert (await rotated()).summary.exit_code == ExitCode.REFUSED
    assert archive.service.requests["submit"] == 2
    fingerprint = key_fingerprint(archive.service.key)
    for hours in (1.1, 1.2):
        left = (await rotated(ahead_s=hours * 3600)).summary

        assert (left.exit_code, left.parked) == (ExitCode.PARTIAL, 2)
        assert all(f"--trust-key {fingerprint}" in reason for reason in left.reasons["parked"])
    assert archive.service.requests["submit"] == 3
    assert await archive.rows(query) == before

    for trust_key in (fingerprint, None):
        looked_for = (await rotated(ahead_s=4500, trust_key=trust_key)).summary
        assert all("no longer has it" in reason for reason in looked_for.reasons["parked"])
    gone_for_good = (await rotated(ahead_s=9000)).summary
    assert (gone_for_good.failed, gone_for_good.parked) == (2, 0)
    assert archive.service.requests["submit"] == 3
