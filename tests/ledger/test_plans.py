"""What a run asks the ledger again and again is found by an index, however much stands in it."""

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest

from pipeline.ledger import Ledger
from pipeline.ledger.store import transition
from pipeline.models import AttemptState, Completion
from tests.ledger.ledgers import HERE, Clock, Steps, entry, reading

pytestmark = pytest.mark.anyio

LARGE = re.compile(r"SCAN (recordings|transcripts|attempts|versions|r|t|a|v)\b(?! USING)")
"""A step of a plan that reads all rows of a table that grows with the archive."""


class Overheard(Ledger):
    """A ledger that notes every statement it runs."""

    @transition
    def listen(self, said: list[str]) -> None:
        self.db.set_trace_callback(said.append)
        self.ro.set_trace_callback(said.append)


@asynccontextmanager
async def overheard(folder: Path) -> AsyncIterator[tuple[Ledger, list[str]]]:
    said: list[str] = []
    path, journal = folder / "ledger.sqlite3", folder / "journal"
    async with Overheard(path, HERE, journal=journal, clock=Clock()) as ledger:
        await ledger.listen(said)
        yield ledger, said


async def go_through(ledger: Ledger) -> None:
    """One recording in each state that asks for another way, and all that runs ask on the way."""
    await ledger.recover()
    await ledger.fail_upload(await Steps(ledger, b"f.wav").claim(), "lost", 1.0, 3)
    for step, state in enumerate((AttemptState.ACCEPTED, AttemptState.AMBIGUOUS)):
        await Steps(ledger, b"s%d.wav" % step, b"s%d" % step).reach(state)
    twin = await Steps(ledger, b"twin.wav", b"s0").claim()
    await ledger.recognise(twin, reading(b"s0"))
    attempt_id = (await ledger.pending())[0].attempt_id
    delivery = await ledger.record_completed(attempt_id, Completion("model", 1.0, 0.0))
    await ledger.delivery(attempt_id)
    ids = [recipient.recording_id for recipient in delivery.recipients]
    await ledger.record_written(attempt_id, ids, 1, "digest", kept_for=[1])
    await ledger.saved(attempt_id)
    found = [entry(path) for path in (b"new.wav", b"s0.wav", b"s1.wav", b"twin.wav")]
    await ledger.look_up("root", found, lambda _: 1, ("srt",))
    await ledger.record_found("root", found, lambda _: None, ("srt",))
    await ledger.record_ended([(1, "kept")])
    for anew in (False, True):  # then also the backlog
        await ledger.claim(100, anew=anew)
        await ledger.next_due(anew=anew)
    await ledger.unfinished()
    await ledger.unresolved()
    await ledger.seen_before(3, "edges")
    await ledger.lacking(10)
    await ledger.deletions(1)
    await ledger.deletions_unheld(0, 10)
    await ledger.is_deletion_left()
    await ledger.fetch_unheld(attempt_id)
    await ledger.record_missing(attempt_id, "gone")
    await ledger.record_found("root", found, lambda _: 1, ())
    await ledger.replaced("run", 0, 10)
    await ledger.unsettled(0, 10)
    await ledger.other_keys()
    await ledger.elsewhere()
    await ledger.standing()
    await ledger.parked(0, 10)
    await ledger.kept_hours()
    await ledger.collected()


async def test_no_question_reads_the_whole_ledger(tmp_path: Path) -> None:
    """No statement of a run reads through recordings, transcripts or attempts without an index."""
    async with overheard(tmp_path) as (ledger, said):
        await go_through(ledger)

    plans = await anyio.to_thread.run_sync(explained, tmp_path / "ledger.sqlite3", said)

    assert len(plans) > 60
    assert {
        sql: steps for sql, steps in plans.items() if any(LARGE.match(step) for step in steps)
    } == {}


async def test_what_is_due_stands_in_its_order(tmp_path: Path) -> None:
    """The next recordings are read off an index: they are never sorted."""
    async with overheard(tmp_path) as (ledger, said):
        await go_through(ledger)

    plans = await anyio.to_thread.run_sync(explained, tmp_path / "ledger.sqlite3", said)
    claims = {sql: steps for sql, steps in plans.items() if "ORDER BY r.turn" in sql}

    assert sorted(steps[0] for steps in claims.values()) == [
        f"SEARCH r USING INDEX recordings_due (run_id=? AND {terms})"
        for terms in ("turn=?", "turn>? AND turn<?", "turn>?")
    ]
    assert not any("TEMP B-TREE" in step for steps in claims.values() for step in steps)


def explained(path: Path, said: list[str]) -> dict[str, list[str]]:
    """The steps of each statement, by its first words and its shape."""
    plans = {}
    with closing(sqlite3.connect(path)) as db:
        for sql in said:
            if sql.lstrip().startswith(("SELECT", "UPDATE", "INSERT", "DELETE")):
                plain = re.sub(r"\bInf\b", "9e999", sql)
                steps = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {plain}")]
                plans[re.sub(r"-?\d+|'[^']*'", "?", plain)] = steps
    return plans
