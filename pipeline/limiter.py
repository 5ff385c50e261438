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
from collections.abc import Callable, Collection, Iterable

import anyio

from pipeline.errors import ServiceUnusable

__all__ = ["LONGEST_PAUSE_S", "Limiter"]

LONGEST_PAUSE_S = 600.0
"""The longest pause that a run waits for, seconds; a longer one ends it with exit code 5."""

# What a 429 means that does not say for how long; doubled while nothing gets through after it.
# Source for doubling: https://www.assemblyai.com/docs, contact center best practices.
_UNTOLD_PAUSE_S = 1.0
_LONGEST_UNTOLD_PAUSE_S = 240.0
_PEACE_S = 60.0  # without a 429, after which the next one is the first again

# The vendor asks bulk users to begin with 25 requests in 15 s and to add 8 % every 15 s; a
# submit is two requests with its upload. Source: https://www.assemblyai.com/docs, bulk loads.
_RAMP_WINDOW_S = 15.0
_RAMP_FIRST = 50
_RAMP_GROWTH = 1.08
_RAMP_LAST = 100  # the window from which on nothing more is added: 100,000 submits in 15 s


class Limiter:
    """
    One budget for all requests to an account, whoever sends them.

    Requests that have to wait do so in three queues, of uploads, of submits and of looks (all
    other kinds), which have their turns one after the other: none waits for more than two permits
    of the others. Within a queue the first come is the first served. `earlier` and `submits` are
    as in `remember`.
    """

    def __init__(
        self,
        count: int,
        window_s: float,
        *,
        ramp: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = max(1, count)
        self.window_s = window_s
        """Seconds in which no more than `count` are sent."""
        self._clock = clock
        self._log = deque[float](maxlen=self._count)
        self._unrecorded: list[float] = []
        self._paused_until = -math.inf
        self._untold_pause_s = 0.0  # the last one; 0 before the first
        self._got_through = True
        """Whether a request that was sent after the last pause has been answered with no 429."""
        self._refused_since: dict[str, float] = {}
        """When the service began to refuse each request of a kind with a 429, by kind."""
        # The kind that has its turn next stands first.
        self._queues = {kind: deque[anyio.Event]() for kind in ("upload", "submit", "look")}
        self._at_turn: anyio.Event | None = None
        """Of all who wait the one that watches the clock; None only if nobody waits."""
        self._ramp = _Ramp(clock) if ramp else None
        self._ended = anyio.Event()
        self.stopped: ServiceUnusable | None = None

    def remember(self, earlier: Iterable[float], submits: Collection[float] = ()) -> None:
        """
        Count what other runs have sent to the account, too.

        Args:
            earlier: how long ago each of their requests was sent, seconds.
            submits: the same of those that were submits; the ramp goes on from there.
        """
        now = self._clock()
        sent = sorted([*self._log, *(now - age_s for age_s in earlier)])
        self._log = deque(sent, self._count)  # the newest
        if self._ramp is not None:
            self._ramp.remember(submits)

    async def permit(self, kind: str) -> float:
        """
        Return when one request of this kind may be sent; it counts from the time that is given.

        Raises:
            ServiceUnusable: the service asked for a longer pause than a run waits for.
        """
        ramp = self._ramp if kind == "submit" else None
        if self._at_turn is None and self._wait_s() <= 0 and (ramp is None or ramp.is_free):
            return self._give(ramp)
        if ramp is None:
            return await self._wait(kind, ramp)
        # A queue before the queue: what waits for the ramp must not hold up the others.
        async with ramp.turn:
            await self._sleep_while(ramp.wait_s)
            return await self._wait(kind, ramp)

    async def _wait(self, kind: str, ramp: "_Ramp | None") -> float:
        kind = kind if kind in self._queues else "look"
        mine, queue = anyio.Event(), self._queues[kind]
        queue.append(mine)
        if self._at_turn is None:
            self._next_turn()
        try:
            await mine.wait()
            await self._sleep_while(self._wait_s)
            given_at = self._give(ramp)
            self._queues[kind] = self._queues.pop(kind)  # to the end, now that it had its turn
            return given_at
        finally:
            # Cancelled or not: who has the turn passes it on. A permit is never held, only taken.
            if self._at_turn is mine:
                self._next_turn()
            else:
                queue.remove(mine)

    def _next_turn(self) -> None:
        waiting = next(filter(None, self._queues.values()), None)
        self._at_turn = waiting.popleft() if waiting else None
        if self._at_turn is not None:
            self._at_turn.set()

    def _give(self, ramp: "_Ramp | None") -> float:
        now = self._clock()
        self._log.append(now)
        while self._log[0] <= now - self.window_s:  # as long as the window, however high the limit
            self._log.popleft()
        self._unrecorded.append(now)
        if ramp is not None:
            ramp.count(now)
        return now

    async def _sleep_while(self, wait_s: Callable[[], float]) -> None:
        # Looked at again after each sleep: a 429 may have come in meanwhile.
        while self.stopped is None and (left_s := wait_s()) > 0:
            with anyio.move_on_after(left_s):
                await self._ended.wait()
        if self.stopped is not None:
            raise self.stopped

    def took(self, kind: str, given_at: float) -> None:
        """A request of this kind, which had its permit then, was answered with no 429."""
        self._refused_since.pop(kind, None)
        self._got_through = self._got_through or given_at >= self._paused_until

    def pause(
        self, seconds: float | None, kind: str = "request", given_at: float | None = None
    ) -> None:
        """
        Hold everything back for so many seconds, since a request of this kind got a 429.

        `given_at` is when it had its permit, if not just now. No seconds, or less than one, are of
        a service that did not say: 1 s. Of the requests that had their permit after the last pause
        the first to be answered decides: if it is refused, too, the next one is twice as long, up
        to 4 min; if not, half as long. After a minute without a 429 it is 1 s again. Refusals of
        requests from before the last pause add nothing in it, and repeat it when it is over. Where
        nothing of a kind gets through for 10 min, the run ends.
        """
        now = self._clock()
        given_at = now if given_at is None else given_at
        since = self._refused_since.setdefault(kind, now)
        if given_at - since > LONGEST_PAUSE_S:
            self._stop(f"the service has refused every {kind} for {given_at - since:.0f} s")
        if seconds is None or not seconds >= _UNTOLD_PAUSE_S:
            if now < self._paused_until:
                return
            seconds = self._untold_pause_s = self._next_untold_s(now, given_at)
        elif seconds > LONGEST_PAUSE_S:
            self._stop(f"the service asks to be left alone for {seconds:.0f} s")
        self._got_through = False
        self._paused_until = max(self._paused_until, now + seconds)

    def _next_untold_s(self, now: float, given_at: float) -> float:
        if now >= self._paused_until + _PEACE_S:
            return _UNTOLD_PAUSE_S
        factor = 1.0 if given_at < self._paused_until else 0.5 if self._got_through else 2.0
        return min(max(_UNTOLD_PAUSE_S, factor * self._untold_pause_s), _LONGEST_UNTOLD_PAUSE_S)

    def _stop(self, why: str) -> None:
        self.stopped = ServiceUnusable(f"{why}; run again later")
        self._ended.set()

    def take_unrecorded(self) -> list[float]:
        """
        How long ago each request was sent since this was last called, seconds.

        Each is told once, whoever asks: of two jobs that share a budget each writes down some.
        """
        now, sent = self._clock(), self._unrecorded
        self._unrecorded = []
        return [now - at for at in sent]

    def _wait_s(self) -> float:
        until = self._paused_until
        if len(self._log) == self._count:
            until = max(until, self._log[0] + self.window_s)
        return until - self._clock()


class _Ramp:
    """Lets submits begin slowly: so many in the first 15 s, 8 % more in each that follows."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.turn = anyio.Lock()
        self._began: float | None = None
        self._window = 0
        self._given = 0
        self._most = _RAMP_FIRST

    def remember(self, ages_s: Collection[float]) -> None:
        """Go on from where submits of so many seconds ago have come to, unless it has begun."""
        if self._began is None and ages_s:
            now = self._clock()
            for age_s in sorted(ages_s, reverse=True):
                self._look(now - age_s)
                self.count(now - age_s)

    @property
    def is_free(self) -> bool:
        """Whether a submit may leave now, and nobody waits."""
        return self.wait_s() <= 0 and not self.turn.locked()

    def wait_s(self) -> float:
        """Seconds until the next submit may leave."""
        now = self._clock()
        ends_s = self._look(now)
        return 0.0 if self._given < self._most else max(ends_s - now, 1e-6)

    def count(self, now: float) -> None:
        """One more has left."""
        if self._began is None:
            self._began = now
        self._given += 1

    def _look(self, now: float) -> float:
        """Enter the window that this time is in; when it ends."""
        if self._began is None:
            return now
        window = int((now - self._began) / _RAMP_WINDOW_S)
        if window > self._window:
            self._window, self._given = window, 0
            self._most = int(_RAMP_FIRST * _RAMP_GROWTH ** min(window, _RAMP_LAST))
        return self._began + (window + 1) * _RAMP_WINDOW_S
