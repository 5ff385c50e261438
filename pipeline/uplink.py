"""
The line to the service that all uploads share: how many at once, and how fast.

In: what was sent, and what came back. Out: a place for an upload, and a turn for each part of it.
More uploads at once fill a line only up to a point, which nobody knows beforehand: `Climber` finds
it by trying. `Uplink` measures for it, and keeps all uploads together within a limit by the hour.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import anyio

from pipeline.errors import TransientError

if TYPE_CHECKING:
    from pipeline.settings import Timetable

__all__ = ["Climber", "Uplink"]

_BEGIN = 8  # fills most lines at once; the first windows say whether it should be more or fewer
_STEP = 1.5  # larger than what a measurement errs by
_HELPS = 1.1  # for half as many uploads again
_SAME = 0.92  # a window ends between two uploads of many, and errs by some of them
_REST = 8  # windows between two tries: the ones that fail cost little then

_WINDOW_S = 1.0
_TURNS = 4  # of each upload in a window, at least: a large part of a slow line's second is one turn
_REQUEST_BYTES = 128 * 1024  # what a request costs besides its bytes, so that small ones count too
_BUSY = 0.8

_PIECE_S = 0.25
"""What is sent at a time under a limit, in seconds of it: so soon another limit takes effect."""


class Climber:
    """
    How many uploads at once bring the most, found by trying a few more or fewer.

    Half as many again are kept only where they bring a tenth more, a third fewer wherever they
    bring about the same. Pure: it knows no time, only one measurement after another.
    """

    def __init__(self, least: int, most: int) -> None:
        self.at_once = min(most, max(least, _BEGIN))
        """Uploads at once, from `least` to `most`."""
        self._least = least
        self._most = most
        self._up = True
        self._rest = 1
        self._before: tuple[int, float] | None = None

    def measured(self, work_per_s: float) -> None:
        """Take in what was moved with `at_once` uploads, all of them busy, in any unit."""
        if self._before is None:
            self._rest -= 1
            if self._rest <= 0:
                self._try(work_per_s)
            return
        before, work_before_per_s = self._before
        if work_per_s >= work_before_per_s * (_HELPS if self._up else _SAME):
            self._try(work_per_s)
        else:
            self.at_once = before
            self._turn_round()

    def pushed_back(self) -> None:
        """Halve them, since the service refuses or drops some."""
        self.at_once = max(self._least, self.at_once // 2)
        self._turn_round()
        self._up = True

    def _try(self, work_per_s: float) -> None:
        if self._up:
            next_ = min(self._most, max(self.at_once + 1, int(self.at_once * _STEP)))
        else:
            next_ = max(self._least, min(self.at_once - 1, int(self.at_once / _STEP)))
        if next_ == self.at_once:
            self._turn_round()
        else:
            self._before = (self.at_once, work_per_s)
            self.at_once = next_

    def _turn_round(self) -> None:
        self._before = None
        self._up = not self._up
        self._rest = _REST


class Uplink:
    """One line, shared by all uploads of a run."""

    def __init__(
        self,
        least: int = 1,
        most: int = 16,
        timetable: "Timetable | None" = None,
        *,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._climber = Climber(least, most)
        self.places = anyio.CapacityLimiter(self._climber.at_once)
        """One for each upload that may go on at once."""
        self._timetable = timetable
        self._now = now
        self._turn = anyio.Lock()
        self._free_at = -math.inf
        self._was_pushed = False
        self._begin_window()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """One request: a refusal that a later one may not meet says that these are too many."""
        try:
            yield
        except BaseException as error:
            # Once in a window: all that are under way are refused alike.
            if isinstance(error, TransientError) and not self._was_pushed:
                self._climber.pushed_back()
                self._begin_window()
                self._was_pushed = True
            raise
        self._work += _REQUEST_BYTES

    async def turn(self, size: int) -> int:
        """How many of the next `size` bytes of an upload to send now; waits until they may."""
        if self._timetable is not None:
            size = await self._within(self._timetable, size)
        self._measure(size)
        return size

    async def _within(self, timetable: "Timetable", size: int) -> int:
        async with self._turn:
            # Bounded both ways: a clock that jumps neither stops the line nor opens it.
            now = anyio.current_time()
            self._free_at = min(max(self._free_at, now - _PIECE_S), now + _PIECE_S)
            await anyio.sleep(max(0.0, self._free_at - now))
            limit = timetable.limit_at(self._now())
            if limit is None:
                return size
            piece = min(size, int(limit * _PIECE_S))
            self._free_at += piece / limit
            return piece

    def _measure(self, size: int) -> None:
        places = self.places
        if places.borrowed_tokens > places.total_tokens:  # some from before there were fewer
            self._begin_window()
            return
        self._work += size
        self._turns += 1
        self._busy += places.borrowed_tokens
        took_s = anyio.current_time() - self._began_at
        if took_s < _WINDOW_S or self._turns < _TURNS * places.total_tokens:
            return
        # Uploads that wait for something else than the line say nothing about it.
        if self._busy >= _BUSY * self._turns * places.total_tokens:
            self._climber.measured(self._work / took_s)
        self._begin_window()
        self._was_pushed = False

    def _begin_window(self) -> None:
        self.places.total_tokens = self._climber.at_once
        self._began_at = anyio.current_time()
        self._work = self._turns = self._busy = 0
