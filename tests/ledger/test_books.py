"""In how many nights something failed, whatever clocks and runs did; and what counts as failing."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import Redo
from pipeline.ledger.books import nights
from pipeline.models import AttemptState
from tests.ledger.ledgers import HERE, Clock, Steps, ledger_at, reading

HOUR_S = 3600.0
NOW = 1_800_000_000.0
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str, zone: tzinfo = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], 0),
        (["2026-03-01 02:00"], 1),
        (["2026-03-01 02:00", "2026-03-01 02:05", "2026-03-01 03:00"], 1),
        (["2026-03-01 00:30", "2026-03-01 23:30"], 1),  # far apart, one date
        (["2026-03-01 23:59", "2026-03-02 00:01"], 1),  # two dates, a moment apart
        (["2026-03-01 23:59", "2026-03-02 00:01", "2026-03-02 22:00"], 2),
        (["2026-03-28 22:00", "2026-03-29 22:00", "2026-03-30 22:00"], 3),  # a day of 23 h
        (["2026-03-01 22:00", "2026-03-02 02:00", "2026-03-02 22:00", "2026-03-03 02:00"], 2),
    ],
)
def test_nights_are_dates_apart(times: list[str], expected: int) -> None:
    """A night is a date, and 12 h from the one before, in whatever order its times stand."""
    assert nights([at(each) for each in reversed(times)], NOW, BERLIN) == expected


def test_dates_are_those_of_the_zone() -> None:
    """Two evenings of one place may be one date of another."""
    times = [at("2026-03-01 01:30", UTC), at("2026-03-01 22:30", UTC)]

    assert nights(times, NOW, UTC) == 1
    assert nights(times, NOW, ZoneInfo("Asia/Tokyo")) == 2


@given(st.lists(st.floats(allow_nan=False), max_size=20), st.sampled_from([None, UTC, BERLIN]))
def test_no_clock_makes_nights(times: list[float], zone: tzinfo | None) -> None:
    """What a clock ahead or far behind has left is one night at the most, and raises nothing."""
    ahead = [each for each in times if each > NOW]
    behind = [each for each in times if each < 0]

    assert nights(times, NOW, zone) <= len(times)
    assert nights(ahead, NOW, zone) == bool(ahead)
    assert nights(behind, NOW, zone) == bool(behind)


pytestmark = pytest.mark.anyio


async def failed_on(folder: Path, clock: Clock, run_id: str, *, is_counted: bool = True) -> bool:
    """Whether a night that tries what failed on fewer than three others takes it; it fails then."""
    run = replace(HERE, run_id=run_id, redo=Redo(failed=3), zone=UTC)
    async with ledger_at(folder, run, clock) as ledger:
        steps = Steps(ledger)
        await steps.find()
        claims = await ledger.claim(1)
        for claim in claims:
            await ledger.refuse_upload(claim, reading(), "no")
            if not is_counted:
                await ledger.take_back([claim.attempt_id])
        return bool(claims)


async def test_a_failure_is_tried_on_three_nights(tmp_path: Path) -> None:
    """However often a night begins anew; after three it is given up."""
    clock, taken = Clock(), list[bool]()
    for number in range(12):
        taken.append(await failed_on(tmp_path, clock, f"run-{number}"))
        clock.now += HOUR_S if number % 3 < 2 else 22 * HOUR_S

    assert taken == [True] * 7 + [False] * 5


async def test_what_was_taken_back_is_wanted_and_uses_up_no_night(tmp_path: Path) -> None:
    """What all were refused alike is due again, however many nights it took."""
    clock = Clock()
    for number in range(5):
        assert await failed_on(tmp_path, clock, f"run-{number}", is_counted=False)
        clock.now += 24 * HOUR_S

    assert await failed_on(tmp_path, clock, "run-6")
    assert await failed_on(tmp_path, clock, "run-7")


async def test_a_night_that_was_cut_short_uses_up_none(tmp_path: Path) -> None:
    """A kill in the midst of an upload, and an answer that was lost, say nothing of a recording."""
    clock = Clock()
    assert await failed_on(tmp_path, clock, "run-1")
    for run_id in ("killed-1", "lost-1", "killed-2", "lost-2"):
        clock.now += 24 * HOUR_S
        run = replace(HERE, run_id=run_id, redo=Redo(failed=3), zone=UTC)
        async with ledger_at(tmp_path, run, clock) as ledger:
            steps = Steps(ledger)
            if run_id.startswith("killed"):
                await steps.claim()
            else:
                await ledger.record_not_accepted(await steps.reach(AttemptState.AMBIGUOUS), 3)
    for run_id in ("run-2", "run-3"):
        clock.now += 24 * HOUR_S
        assert await failed_on(tmp_path, clock, run_id)
    clock.now += 24 * HOUR_S

    assert not await failed_on(tmp_path, clock, "run-4")


@pytest.mark.parametrize("is_its_own", [True, False])
async def test_an_upload_that_fails_uses_up_a_night(tmp_path: Path, is_its_own: bool) -> None:
    """A recording that cannot be sent has failed that night, unless that says nothing of it."""
    clock = Clock()
    assert await failed_on(tmp_path, clock, "run-1")
    for run_id in ("unsent-1", "unsent-2"):
        clock.now += 24 * HOUR_S
        run = replace(HERE, run_id=run_id, redo=Redo(failed=3), zone=UTC)
        async with ledger_at(tmp_path, run, clock) as ledger:
            claim = await Steps(ledger).claim()
            await ledger.fail_upload(claim, "no", None, 1, None if is_its_own else reading())
    clock.now += 24 * HOUR_S
    assert await failed_on(tmp_path, clock, "run-2")
    clock.now += 24 * HOUR_S

    assert await failed_on(tmp_path, clock, "run-3") is not is_its_own


async def test_what_was_paid_is_never_taken_back(tmp_path: Path) -> None:
    """A late word on an attempt that was accepted, or asked for again since, changes nothing."""
    async with ledger_at(tmp_path) as ledger:
        attempt_id = await Steps(ledger).reach(AttemptState.ACCEPTED)
        await ledger.take_back([attempt_id], "no")

        (pending,) = await ledger.pending()
        assert pending.attempt_id == attempt_id
    db = sqlite3.connect(tmp_path / "ledger.sqlite3")
    with closing(db):
        assert db.execute("SELECT reason FROM recordings").fetchall() == [(None,)]
