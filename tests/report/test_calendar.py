"""Nights and months, by the clocks of a zone."""

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from zoneinfo import ZoneInfo

import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import read_only
from pipeline.ledger.accounts import Reader
from pipeline.models import AttemptState, Completion
from pipeline.report.calendar import Month, last_nights, month_of, night_of
from tests.ledger.ledgers import Clock, Steps, ledger_at

pytestmark = pytest.mark.anyio

T = TypeVar("T")

BERLIN = ZoneInfo("Europe/Berlin")
"""Its clocks went back at 3 in the morning of 25 October 2026."""
KIRITIMATI = ZoneInfo("Pacific/Kiritimati")
"""Fourteen hours ahead of UTC."""


async def accepted(
    folder: Path, at: Sequence[datetime], read: Callable[[Reader], T], price_usd: float | None = 0.5
) -> T:
    """What is read of a ledger in which an hour of audio was accepted at each of these times."""
    clock = Clock()
    async with ledger_at(folder, clock=clock) as ledger:
        for number, when in enumerate(at):
            clock.now = when.timestamp()
            content = b"%d" % number
            attempt_id = await Steps(ledger, content, content).reach(AttemptState.ACCEPTED)
            await ledger.record_completed(attempt_id, Completion("model", 3600.0, price_usd))

    def reading() -> T:
        with closing(read_only(folder / "ledger.sqlite3")) as db:
            return read(db)

    return await to_thread.run_sync(reading)


async def test_before_and_after_midnight_is_one_night(tmp_path: Path) -> None:
    """What is done at 23:00 and at 02:00 is of the night of the evening; at noon a new one is."""
    evening = datetime(2026, 11, 25, 23, tzinfo=BERLIN)
    times = [evening, evening + timedelta(hours=3), evening + timedelta(hours=13)]

    nights = await accepted(tmp_path, times, lambda db: last_nights(db, times[-1], BERLIN))

    assert len(nights) == 30
    assert [(each.night, each.transcripts, each.audio_hours) for each in nights[-2:]] == [
        (date(2026, 11, 25), 2, 2.0),
        (date(2026, 11, 26), 1, 1.0),
    ]
    assert nights[-2].cost_usd == 1.0
    assert not any(each.transcripts for each in nights[:-2])


async def test_the_night_is_that_of_the_zone(tmp_path: Path) -> None:
    """One moment is of another night where the clocks stand otherwise."""
    when = datetime(2026, 11, 25, 23, tzinfo=BERLIN)

    here = await accepted(tmp_path, [when], lambda db: last_nights(db, when, BERLIN, 1))
    (tmp_path / "x").mkdir()
    there = await accepted(tmp_path / "x", [when], lambda db: last_nights(db, when, KIRITIMATI, 1))

    assert (here[0].night, here[0].transcripts) == (date(2026, 11, 25), 1)
    assert (there[0].night, there[0].transcripts) == (date(2026, 11, 26), 1)


async def test_a_night_of_thirteen_hours_loses_nothing(tmp_path: Path) -> None:
    """When clocks go back in a night, all that is done until noon is of it."""
    noon = datetime(2026, 10, 24, 12, tzinfo=BERLIN).timestamp()
    times = [datetime.fromtimestamp(noon + hour * 3600, UTC) for hour in range(26)]

    nights = await accepted(tmp_path, times, lambda db: last_nights(db, times[-1], BERLIN, 3))

    assert [(each.night.day, each.transcripts) for each in nights] == [(23, 0), (24, 25), (25, 1)]


async def test_a_month_begins_at_its_first_midnight(tmp_path: Path) -> None:
    """What counts is this calendar month, of the zone; what has no price is told beside."""
    first = datetime(2026, 11, 1, tzinfo=BERLIN)
    times = [first - timedelta(seconds=1), first, datetime(2026, 11, 30, 23, 59, tzinfo=BERLIN)]

    def read(db: Reader) -> Month:
        return month_of(db, datetime(2026, 11, 5, tzinfo=BERLIN), BERLIN, {"any": 3.5})

    assert await accepted(tmp_path, times, read) == Month("2026-11", 2.0, 1.0, 0, 0.0, 0.0)
    (tmp_path / "x").mkdir()
    unpriced = await accepted(tmp_path / "x", times, read, None)
    assert unpriced == Month("2026-11", 2.0, 0.0, 2, 0.0, 7.0)


async def test_december_is_followed_by_january(tmp_path: Path) -> None:
    """The last month of a year ends with it."""
    times = [datetime(2026, 12, 31, 23, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)]

    month = await accepted(tmp_path, times, lambda db: month_of(db, times[0], UTC, {}))

    assert (month.month, month.audio_hours) == ("2026-12", 1.0)


async def test_local_time_is_that_of_the_machine(tmp_path: Path) -> None:
    """Without a zone the machine's own clocks count: a night of now has what was done now."""
    now = datetime.now(UTC)

    nights = await accepted(tmp_path, [now], lambda db: last_nights(db, now, None))

    assert nights[-1].night == night_of(now.astimezone())
    assert nights[-1].transcripts == 1


@given(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1)))
def test_every_moment_is_of_one_night(when: datetime) -> None:
    """A night begins at noon of its evening and is over a day later."""
    noon = datetime.combine(night_of(when), datetime.min.time()) + timedelta(hours=12)

    assert noon <= when < noon + timedelta(days=1)
