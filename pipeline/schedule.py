"""
What to ask the service next: in, what is pending and what was seen of it; out, pages and ids.

A page of the list shows 200 statuses for one request, and may begin below any transcript. Ours are
finished in about the order in which they were asked for, so what is due lies close together: a page
that begins just above the newest of it covers it, while those that were asked for a moment ago are
left alone. Where a page would show a single one, as where few old ids lie under thousands of newer
rows of other programs, a GET of its id says more for the same price; so it does where the list
lags, lies or fails.
"""

import math
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pipeline.models import Pending
from pipeline.wire import PAGE_ROWS, Row

__all__ = [
    "FINAL",
    "NOTICED_EVERY_S",
    "Page",
    "Questions",
    "Schedule",
    "Sight",
    "pages_for",
    "questions",
]

FINAL = frozenset({"completed", "error"})
"""Statuses of a row that make a look worth its request."""

NOTICED_EVERY_S = 1.0
"""A transcript that somebody speaks of is looked at so often, at most."""

_OUT_OF_STEP = 16  # rows: submits under way together are not created in the order of their answers
_DIRECT_EVERY_S = 5.0
_DIRECT_EVERY = 5
_DIRECT_AT_ONCE = 20
_REMEMBERED = 5000
_LEAST_SHARE = 1 / PAGE_ROWS
_DRIFT = 1.05
_AGES = 50
_ENOUGH_AGES = 5
_SOONER = 0.8
_LATEST_FIRST_LOOK = 10  # intervals
# Source: https://www.assemblyai.com/docs, FAQ: most transcripts are done within 45 s.
_YOUNG_S = 60.0
_OF_QUICKEST = 8
_LEAST_PACE_S = 0.25
_SLOWER = 10  # where notices come, and sweeps only make up for those that are lost


@dataclass(slots=True)
class Sight:
    """What is remembered of one pending transcript."""

    asked_at: float = -math.inf
    """When a GET of it was last asked for."""
    missed_at: float | None = None
    """When a page that should have shown it did not; None once one does."""
    is_under_way: bool = False
    """Whether a page has shown it unfinished."""
    is_final: bool = False
    """Whether the last page that showed it says that it is finished."""

    def idle_s(self, each: Pending, now: float) -> float:
        """Seconds since it was accepted, asked for or missed; clocks are set back, too."""
        return abs(now - max(self.asked_at, each.accepted_at, self.missed_at or -math.inf))


_UNSEEN = Sight()


@dataclass(frozen=True, slots=True)
class Page:
    """A page to be read."""

    before_id: str | None
    """The row above it; None for the newest page."""
    shows: frozenset[str]
    """The ids that it is read for."""


@dataclass(frozen=True, slots=True)
class Questions:
    """What to ask next."""

    pages: list[Page]
    looks: list[Pending]
    """What to ask for by its id, whatever the pages say; what is surely worth it first."""


def questions(
    waiting: Sequence[Pending],
    sights: Mapping[str, Sight],
    asked_for: Sequence[tuple[float, str]],
    now: float,
    *,
    interval_s: float,
    first_look_s: float = 0.0,
    share: float = 1.0,
) -> Questions:
    """
    What to ask about those that wait. Nothing is done here: one state has one answer.

    Args:
        waiting: what is pending, and in nobody's hand.
        sights: what was seen of them, by transcript id.
        asked_for: when transcripts of ours were accepted, and their ids, oldest first; of those
            that are finished, too, as far back as it is remembered.
        now: Unix time, as in `Pending.accepted_at`.
        interval_s: how often one and the same may be asked for, seconds.
        first_look_s: age, seconds, below which none is finished.
        share: our part of the rows of the list among which ours lie, above 0 up to 1.
    """
    every_s = _every_s(interval_s)
    sure, direct, missed, listed = [], [], [], []
    for each in waiting:
        sight = sights.get(each.transcript_id, _UNSEEN)
        if each.completed:
            if abs(now - sight.asked_at) >= every_s:
                sure.append(each)
        elif sight.missed_at is not None:
            if sight.idle_s(each, now) >= every_s:
                missed.append(each)
        elif abs(now - each.accepted_at) >= first_look_s:
            listed.append(each)

    def last_asked(each: Pending) -> float:
        return sights.get(each.transcript_id, _UNSEEN).asked_at

    # Who has waited longest comes first, or the same would be asked for again and again.
    direct += sorted(missed, key=last_asked)[:_DIRECT_AT_ONCE]
    if len(missed) > _DIRECT_AT_ONCE:  # so many that the list is worth another try
        listed += missed
    pages, alone = pages_for(listed, asked_for, share)
    for each in alone:
        sight = sights.get(each.transcript_id, _UNSEEN)
        # A row said that it is finished, and a GET otherwise: rows can be wrong.
        if abs(now - sight.asked_at) >= (every_s if sight.is_final else interval_s):
            direct.append(each)
    return Questions(pages, sure + sorted(direct, key=last_asked)[: 2 * _DIRECT_AT_ONCE])


def _every_s(interval_s: float) -> float:
    """How often one that the list does not show, or shows wrongly, is asked for, seconds."""
    return max(_DIRECT_EVERY_S, _DIRECT_EVERY * interval_s)


def pages_for(
    listed: Sequence[Pending], asked_for: Sequence[tuple[float, str]], share: float
) -> tuple[list[Page], list[Pending]]:
    """The fewest pages that should show these, and those that would be the only one on theirs."""
    pages, alone = [], []
    reach = max(1, int(PAGE_ROWS * share))
    out_of_step = min(_OUT_OF_STEP, reach // 4)
    left = sorted(listed, key=lambda each: each.accepted_at, reverse=True)
    while left:
        above = bisect_right(asked_for, (left[0].accepted_at, "\U0010ffff")) + out_of_step
        before_id = asked_for[above][1] if above < len(asked_for) else None
        last = min(above, len(asked_for)) - reach
        oldest_at = asked_for[last][0] if last > 0 else -math.inf
        covered = sum(each.accepted_at >= oldest_at for each in left)
        if covered > 1:
            pages.append(Page(before_id, frozenset(e.transcript_id for e in left[:covered])))
        else:
            alone.append(left[0])
        left = left[max(1, covered) :]
    return pages, alone


class Schedule:
    """What was seen so far, and when to look again."""

    def __init__(self, interval_s: float, *, is_noticed: bool = False) -> None:
        """`interval_s` is the longest time between two sweeps; ten times that `is_noticed`."""
        self._interval_s = interval_s * (_SLOWER if is_noticed else 1)
        self._young_s = 0.0 if is_noticed else _YOUNG_S
        self._sights: dict[str, Sight] = {}
        self._asked_for: list[tuple[float, str]] = []
        self._share = 1.0
        self._ages_s: deque[float] = deque(maxlen=_AGES)

    def remember(self, pending: Sequence[Pending]) -> None:
        """What is pending now: what is new among it counts from here, what is gone is forgotten."""
        for each in pending:
            if each.transcript_id not in self._sights:
                insort(self._asked_for, (each.accepted_at, each.transcript_id))
        sights = self._sights
        self._sights = {e.transcript_id: sights.get(e.transcript_id) or Sight() for e in pending}
        del self._asked_for[:-_REMEMBERED]

    def questions(self, waiting: Sequence[Pending], now: float) -> Questions:
        """What a sweep at `now` has to ask about those that wait."""
        asked = questions(
            waiting,
            self._sights,
            self._asked_for,
            now,
            interval_s=self.pace_s(waiting, now),
            first_look_s=self._first_look_s,
            share=self._share,
        )
        if not asked.pages:  # the next page shows how many of ours it holds by now
            self._share = min(1.0, self._share * _DRIFT)
        return asked

    def noted(
        self, waiting: Sequence[Pending], ids: Collection[int | str], now: float
    ) -> list[Pending]:
        """
        Which of those that wait were spoken of, by attempt or transcript id.

        None is looked at more than once a second, however often it is spoken of.
        """
        return [
            each
            for each in waiting
            if (each.attempt_id in ids or each.transcript_id in ids)
            and abs(now - self._sights[each.transcript_id].asked_at) >= NOTICED_EVERY_S
        ]

    def saw(
        self, page: Page, rows: Sequence[Row], waiting: Sequence[Pending], now: float
    ) -> list[Pending]:
        """Take in what was read for a page; which of those that wait are worth a look now."""
        statuses = {row.id: row.status for row in rows}
        every_s, finished = _every_s(self._interval_s), []
        for each in waiting:
            sight = self._sights[each.transcript_id]
            status = statuses.get(each.transcript_id)
            if status is None:
                if each.transcript_id in page.shows:
                    sight.missed_at = now
                continue
            age_s, is_final = abs(now - each.accepted_at), status in FINAL
            # Said again after a look, it was not so then: that is for later.
            if is_final and (not sight.is_final or abs(now - sight.asked_at) >= every_s):
                finished.append(each)
            if is_final and (sight.is_under_way or age_s <= 2 * self._first_look_s):
                self._ages_s.append(age_s)
            sight.missed_at, sight.is_final, sight.is_under_way = None, is_final, not is_final
        if rows:  # what cannot be read says nothing of what it would have shown
            self._share = max(_LEAST_SHARE, (self._share + self._share_of(rows)) / 2)
        return finished

    def _share_of(self, rows: Sequence[Row]) -> float:
        """Our part of these rows, from the first of ours to the last."""
        own = {transcript_id for _, transcript_id in self._asked_for}
        places = [place for place, row in enumerate(rows) if row.id in own]
        return len(places) / (places[-1] - places[0] + 1) if places else 0.0

    def asked(self, pending: Pending, now: float) -> None:
        """Note that a GET of this one is on its way."""
        self._sights[pending.transcript_id].asked_at = now

    def was_asked(self, pending: Pending) -> bool:
        """Whether a GET of this one was asked for in this run."""
        return self._sights[pending.transcript_id].asked_at > -math.inf

    def is_newer(self, transcript_id: str, than: str | None) -> bool:
        """Whether one transcript of ours is known to be newer than another one, or than nothing."""
        at = {each: at for at, each in self._asked_for}
        return transcript_id in at and (than is None or at[transcript_id] > at.get(than, math.inf))

    def pace_s(self, waiting: Sequence[Pending], now: float) -> float:
        """
        Seconds until the next sweep: half the interval while any that waits is young, or less.

        The service has most of them finished in a minute; what takes longer takes much longer.
        Where lately they were finished within seconds, waiting for half the interval would cost
        more time than they do: then it is an eighth of what the quickest took, 0.25 s at the least.
        """
        if not any(abs(now - each.accepted_at) < self._young_s for each in waiting):
            return self._interval_s
        soon_s = min(self._ages_s) / _OF_QUICKEST if self._knows_ages else math.inf
        return min(self._interval_s / 2, max(_LEAST_PACE_S, soon_s))

    @property
    def _knows_ages(self) -> bool:
        return len(self._ages_s) >= _ENOUGH_AGES

    @property
    def _first_look_s(self) -> float:
        """Age, seconds, before which none was finished lately: no look is worth its request."""
        if not self._knows_ages:
            return 0.0
        return min(_SOONER * min(self._ages_s), _LATEST_FIRST_LOOK * self._interval_s)
