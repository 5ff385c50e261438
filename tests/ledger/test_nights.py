"""What the ledger tells of nights, and of what a run wrote and did not."""

from collections.abc import Callable
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import TypeVar

import pytest
from anyio import to_thread

from pipeline.ledger import Ledger, Run, nights, read_only
from pipeline.ledger.accounts import Reader
from pipeline.ledger.books import Patience
from pipeline.models import AttemptState, Completion, Entry
from tests.ledger.ledgers import HERE, Clock, Steps, ledger_at

pytestmark = pytest.mark.anyio

T = TypeVar("T")

PATIENCE = Patience(nights=3, now=2e9, zone=UTC)


async def read(folder: Path, call: Callable[[Reader], T]) -> T:
    """What a connection that only reads is told."""

    def reading() -> T:
        with closing(read_only(folder / "ledger.sqlite3")) as db:
            return call(db)

    return await to_thread.run_sync(reading)


async def completed(
    ledger: Ledger, name: bytes, duration_s: float | None, price_usd: float | None
) -> int:
    """An attempt that was paid for."""
    attempt_id = await Steps(ledger, name, name).reach(AttemptState.ACCEPTED)
    await ledger.record_completed(attempt_id, Completion("model", duration_s, price_usd))
    return attempt_id


async def written(ledger: Ledger, name: bytes) -> None:
    """A recording whose result is on disk, as far as the ledger knows."""
    attempt_id = await Steps(ledger, name, name).reach(AttemptState.ACCEPTED)
    delivery = await ledger.record_completed(attempt_id, Completion("model", 60.0, 0.1))
    ids = [each.recording_id for each in delivery.recipients]
    await ledger.record_written(attempt_id, ids, 1, "digest")


async def test_what_is_accepted_is_summed_by_the_quarter(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    """Attempts of one quarter of an hour are one row; what failed at the service is in none."""
    began = clock.now
    assert began % 900 == 0
    await completed(ledger, b"a.wav", 3600.0, 0.5)
    clock.now += 899
    await completed(ledger, b"b.wav", 1800.0, None)
    clock.now += 1
    await completed(ledger, b"c.wav", None, 0.25)
    await Steps(ledger, b"open.wav", b"open").reach(AttemptState.ACCEPTED)
    failed = await Steps(ledger, b"failed.wav", b"failed").reach(AttemptState.ACCEPTED)
    await ledger.record_error(failed, "no", again=False, tries=1)

    rows = await read(tmp_path, lambda db: list(nights.billed(db, began, began + 901)))

    assert rows == [
        nights.Billed(int(began), 2, 2, 1, 5400.0, 0.5),
        nights.Billed(int(began) + 900, 2, 1, 1, 0.0, 0.25),
    ]


async def test_a_lost_answer_counts_when_it_was_asked_for(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    """What is found to be accepted nights later is billed to the night that asked, as caps do."""
    asked = clock.now
    attempt_id = await Steps(ledger, b"a.wav").reach(AttemptState.SUBMITTING)
    clock.now += 86_400
    assert await ledger.record_accepted(attempt_id, "found")
    await ledger.record_completed(attempt_id, Completion("model", 60.0, 0.1))

    rows = await read(tmp_path, lambda db: list(nights.billed(db, asked, clock.now + 900)))

    assert [row.at for row in rows] == [asked]


async def test_a_time_before_or_after_is_left_out(
    tmp_path: Path, ledger: Ledger, clock: Clock
) -> None:
    """Of the bounds the first belongs to what is summed, the second does not."""
    at = clock.now
    await completed(ledger, b"a.wav", 60.0, 0.1)

    assert await read(tmp_path, lambda db: list(nights.billed(db, at + 0.5, at + 900))) == []
    assert await read(tmp_path, lambda db: list(nights.billed(db, at - 900, at))) == []
    assert len(await read(tmp_path, lambda db: list(nights.billed(db, at, at + 1)))) == 1


async def test_recordings_are_told_by_how_they_end(tmp_path: Path, ledger: Ledger) -> None:
    """Each recording of the last run has its end, its reason and the id that support asks for."""
    await written(ledger, b"w.wav")
    refused = await Steps(ledger, b"f.wav", b"f").reach(AttemptState.ACCEPTED)
    await ledger.record_error(refused, "too short", again=False, tries=1)
    await Steps(ledger, b"s.wav", b"s").reach(AttemptState.ACCEPTED)
    await Steps(ledger, b"not/come/to.wav").find()

    rows = await read(tmp_path, lambda db: list(nights.ended(db, HERE.run_id, PATIENCE)))

    assert [(row.name, row.outcome, row.transcript_id is not None) for row in rows] == [
        (b"w.wav", "written", False),
        (b"f.wav", "failed", True),
        (b"s.wav", "parked", True),
        (b"not/come/to.wav", "parked", False),
    ]
    assert [row.reason for row in rows][1::2] == ["too short", None]


async def test_what_was_there_is_counted(tmp_path: Path) -> None:
    """Recordings without work are counted by how they stand, and are no rows."""
    async with ledger_at(tmp_path) as ledger:
        await written(ledger, b"w.wav")
    async with ledger_at(tmp_path, Run("run-2", "custom", "http://here", "fingerprint")) as ledger:
        await ledger.record_ended([(1, "already_written")])

        assert await read(tmp_path, nights.already) == {"already_written": 1}
        assert await read(tmp_path, lambda db: list(nights.ended(db, "run-2", PATIENCE))) == []


async def test_results_of_a_run_come_in_pages(tmp_path: Path, ledger: Ledger) -> None:
    """Each result that a run wrote is told once, by its bytes, with what was asked for."""
    names = [b"%03d\xff.wav" % number for number in range(7)]
    for name in names:
        await written(ledger, name)

    pages = await read(tmp_path, lambda db: list(nights.saved(db, HERE.run_id, page=3)))

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [each.name for page in pages for each in page] == names
    assert pages[0][0].result == b"000\xff.wav.json"
    assert pages[0][0].options == "{}"
    assert await read(tmp_path, lambda db: list(nights.saved(db, "another"))) == []


@pytest.mark.parametrize(
    ("root", "path", "result", "name"),
    [
        ("calls", b"a.wav", b"a.wav.json", b"a.wav"),
        ("calls", b"a.wav", b"calls/a.wav.json", b"calls/a.wav"),
        ("calls", b"x/a.wav", b"calls/x/a~12345678.json", b"calls/x/a.wav"),
        ("calls", b"calls/a.wav", b"calls/a.wav.json", b"calls/a.wav"),
    ],
)
async def test_a_root_leads_a_name_where_it_leads_the_result(
    tmp_path: Path, ledger: Ledger, root: str, path: bytes, result: bytes, name: bytes
) -> None:
    """A recording is called as in the events of a run: with its root where there were several."""
    found = Entry(path, 1, 1, 1, 1, True, "{}", result)
    await ledger.record_found(root, [found], lambda _: None, ())

    (row,) = await read(tmp_path, lambda db: list(nights.ended(db, HERE.run_id, PATIENCE)))

    assert row.name == name
