"""
Blocking calls beside the event loop: in, a call; out, its result, once a thread has made it.

A few threads take calls from one queue, and what they finish while the loop is busy wakes it once
for all. Waking costs more than most of these calls: with anyio's own threads, each of which wakes
the loop by itself, a call took 51 us of CPU with sixteen under way, here it takes 4.
"""

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled

__all__ = ["Threads"]

R = TypeVar("R")

_Call = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Threads:
    """At most `count` threads, started when they are needed, and ended when nobody holds this."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._started = 0
        self._under_way = 0
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._done = _Done()
        weakref.finalize(self, _end, self._calls)

    async def run(self, call: Callable[[], R]) -> R:
        """What the call returns or raises; once handed over it is finished, also when cancelled."""
        await checkpoint_if_cancelled()
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        if self._under_way >= self._started < self._count:
            self._started += 1
            arguments = (self._calls, self._done)
            threading.Thread(target=_work, args=arguments, name=self._name, daemon=True).start()
        self._under_way += 1
        self._calls.put((call, future))
        with CancelScope(shield=True):
            try:
                return await future
            finally:
                self._under_way -= 1
        raise AssertionError("a shield lets nothing but the result through")


class _Done:
    """What was finished and is not told yet. Appending, and taking from, a deque is atomic."""

    def __init__(self) -> None:
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_told = False

    def add(self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        """Called in a thread: the loop is woken unless that has been done already."""
        self._results.append((future, result, error))
        if not self._is_told:
            self._is_told = True
            future.get_loop().call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._is_told = False  # before the first is taken: whoever adds from here on wakes again
        while self._results:
            future, result, error = self._results.popleft()
            if future.cancelled():  # by a loop that is being closed
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _work(calls: "SimpleQueue[_Call | None]", done: _Done) -> None:
    while (each := calls.get()) is not None:
        call, future = each
        try:
            result, error = call(), None
        except BaseException as raised:
            result, error = None, raised
        done.add(future, result, error)
        # Nothing is kept until the next call comes: it may be long.
        del each, call, future, result, error
    calls.put(None)  # for the next thread


def _end(calls: "SimpleQueue[_Call | None]") -> None:
    calls.put(None)
