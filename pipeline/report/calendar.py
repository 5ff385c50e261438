"""
What was accepted when: in, a ledger and a moment; out, the nights and the month up to it.

A night goes from noon to noon, so that 23:00 and 02:00 are of the same one. Nights and months are
those of a zone, whatever its clocks did in them; None is local time, as the machine has it.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, tzinfo

import msgspec

from pipeline.events import moment
from pipeline.ledger.accounts import Reader
from pipeline.ledger.nights import Billed, billed
from pipeline.ledger.sums import spent_between

__all__ = ["Month", "Night", "last_nights", "local", "month_of", "night_of"]

_NOON = time(12)
_HALF_A_DAY = timedelta(hours=12)


class Night(msgspec.Struct, frozen=True):
    """What the service accepted from one noon to the next."""

    night: date
    """Of its evening."""
    transcripts: int
    audio_hours: float
    """Of those that completed."""
    cost_usd: float
    """Estimated, of those whose price is known."""


class Month(msgspec.Struct, frozen=True):
    """What was asked for in a calendar month, but for what the service ended with an error."""

    month: str
    """`YYYY-MM`."""
    audio_hours: float
    """Of those that completed."""
    cost_usd: float
    """Estimated, of those whose price is known."""
    unpriced: int
    """Those whose price is not known: unfinished, or of a model without one."""
    open_hours: float
    """Of all others, those in doubt as well: at the most."""
    open_cost_usd: float
    """Of all whose price is not known: at the most."""


def local(at: datetime, zone: tzinfo | None) -> datetime:
    """The same moment by the clocks of the zone."""
    return moment(at.timestamp(), zone)


def night_of(at: datetime) -> date:
    """The evening of the night that a moment belongs to, by its own clock."""
    return (at.replace(tzinfo=None) - _HALF_A_DAY).date()


def last_nights(db: Reader, at: datetime, zone: tzinfo | None, number: int = 30) -> list[Night]:
    """So many nights up to that of a moment, oldest first, also those in which nothing was done."""
    last = night_of(local(at, zone))
    nights = [last - timedelta(days=before) for before in reversed(range(number))]
    sums: defaultdict[date, list[Billed]] = defaultdict(list)
    since = datetime.combine(nights[0], _NOON, zone)
    until = datetime.combine(last + timedelta(days=1), _NOON, zone)
    for quarter in billed(db, since.timestamp(), until.timestamp()):
        sums[night_of(moment(quarter.at, zone))].append(quarter)
    return [
        Night(
            night,
            sum(quarter.transcripts for quarter in sums[night]),
            round(sum(quarter.duration_s for quarter in sums[night]) / 3600, 6),
            round(sum(quarter.price_usd for quarter in sums[night]), 6),
        )
        for night in nights
    ]


def month_of(db: Reader, at: datetime, zone: tzinfo | None, prices: Mapping[str, float]) -> Month:
    """The calendar month of a moment; what has no price counts by `prices`, USD an hour."""
    first = local(at, zone).date().replace(day=1)
    next_first = (first + timedelta(days=31)).replace(day=1)
    since, until = (datetime.combine(each, time(), zone) for each in (first, next_first))
    times = since.timestamp(), until.timestamp()
    spent = spent_between(db, *times, prices=prices)
    return Month(
        f"{first:%Y-%m}",
        round(spent.settled_s / 3600, 6),
        round(spent.settled_usd or 0.0, 6),
        sum(quarter.unpriced for quarter in billed(db, *times)),
        round(spent.open_s / 3600, 6),
        round(spent.open_usd, 6),
    )
