"""
The request budget: in, whoever wants to send a request; out, the moment when it may.

A sliding log: the time of every request of the last window is kept, so that no window of the
account's length, at whatever position, holds more requests than our share of its limit. A bucket
would let twice the limit through at its edge, or waste half of it.

Source of the limit: https://www.assemblyai.com/docs, concurrency: 20,000 requests in 5 minutes
for each account; whether the window slides is not said, so the stricter reading is taken.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable

import anyio

from pipeline.errors import ServiceUnusable

__all__ = ["LONGEST_PAUSE_S", "Limiter"]

LONGEST_PAUSE_S = 600.0
"""The longest pause that a run waits for, seconds; a longer one ends it with exit code 5."""

_DEFAULT_PAUSE_S = 15.0

# The vendor asks bulk users to begin with 25 requests in 15 s and to add 8 % every 15 s; a
# submit is two requests with its upload. Source: https://www.assemblyai.com/docs, bulk loads.
_RAMP_WINDOW_S = 15.0
_RAMP_FIRST = 50
_RAMP_GROWTH = 1.08
_RAMP_LAST = 100  # the window from which on nothing more is added: 100,000 submits in 15 s


class Limiter:
    """
    One budget for all requests to an account, whoever sends them.

    Permits are given in the order in which they were asked for. `earlier` are requests that a
    former run made, by how many seconds ago.
    """

    def __init__(
        self,
        count: int,
        window_s: float,
        *,
        ramp: bool = False,
        earlier: Iterable[float] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = max(1, count)
        self._window_s = window_s
        self._clock = clock
        now = clock()
        self._log = deque((now - age_s for age_s in sorted(earlier, reverse=True)), self._count)
        self._paused_until = -math.inf
        self._turn = anyio.Lock()
        self._unrecorded: list[float] = []
        self._ramp = _Ramp(clock) if ramp else None
        self.stopped: ServiceUnusable | None = None

    async def permit(self, kind: str) -> None:
        """
        Return when one request of this kind may be sent; it counts from then on.

        Raises:
            ServiceUnusable: the service asked for a longer pause than a run waits for.
        """
        if kind == "submit" and self._ramp is not None:
            # A queue of its own: what waits for the ramp must not hold up the others.
            async with self._ramp.turn:
                await self._sleep_while(self._ramp.wait_s)
        async with self._turn:
            await self._sleep_while(self._wait_s)
            if self.stopped is not None:
                raise self.stopped
            self._log.append(self._clock())
            self._unrecorded.append(self._log[-1])

    async def _sleep_while(self, wait_s: Callable[[], float]) -> None:
        # Looked at again after each sleep: a 429 may have come in meanwhile.
        while True:
            left_s = wait_s()
            if left_s <= 0 or self.stopped is not None:
                return
            await anyio.sleep(left_s)

    def pause(self, seconds: float | None) -> None:
        """Hold everything back for so many seconds, or for 15 when the service did not say."""
        seconds = _DEFAULT_PAUSE_S if seconds is None else seconds
        if seconds > LONGEST_PAUSE_S:
            self.stopped = ServiceUnusable(
                f"the service asks to be left alone for {seconds:.0f} s; run again later"
            )
            seconds = 0.0
        self._paused_until = max(self._paused_until, self._clock() + seconds)

    def take_unrecorded(self) -> list[float]:
        """How long ago each request was sent since this was last called, seconds."""
        now, sent = self._clock(), self._unrecorded
        self._unrecorded = []
        return [now - at for at in sent]

    def _wait_s(self) -> float:
        until = self._paused_until
        if len(self._log) == self._count:
            until = max(until, self._log[0] + self._window_s)
        return until - self._clock()


class _Ramp:
    """Lets submits begin slowly: so many in the first 15 s, 8 % more in each that follows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.turn = anyio.Lock()
        self._window = 0
        self._began: float | None = None
        self._given = 0

    def wait_s(self) -> float:
        """Seconds until the next submit may leave; once that is 0 it counts as sent."""
        now = self._clock()
        if self._began is None:
            self._began = now
        window = int((now - self._began) / _RAMP_WINDOW_S)
        if window > self._window:
            self._window, self._given = window, 0
        if self._given < int(_RAMP_FIRST * _RAMP_GROWTH ** min(window, _RAMP_LAST)):
            self._given += 1
            return 0.0
        return self._began + (window + 1) * _RAMP_WINDOW_S - now
