"""
Blocking calls beside the event loop: in, a call; out, its result, once a thread has made it.

A few threads take calls from one queue, and what they finish while the loop is busy wakes it once
for all. Waking costs more than most of these calls: with anyio's own threads, each of which wakes
the loop by itself, a call took 51 us of CPU with sixteen under way, here it takes 4.
"""

import asyncio
import errno
import math
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from anyio import CancelScope, current_effective_deadline
from anyio.lowlevel import checkpoint_if_cancelled

__all__ = ["Threads"]

R = TypeVar("R")


@dataclass(slots=True, eq=False)
class _Call:
    """A call on its way through a thread."""

    make: Callable[[], Any]
    waiter: "asyncio.Future[None]"
    """Who waits for it; another one after a cancellation."""
    is_done: bool = False
    is_left: bool = False
    """Whether nobody waits for it any more."""
    result: Any = None
    error: BaseException | None = None


class Threads:
    """At most `count` threads, started when they are needed, and ended when nobody holds this."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._started = 0
        self._under_way: set[_Call] = set()
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._done = _Done()
        weakref.finalize(self, _end, self._calls)

    async def run(self, make: Callable[[], R]) -> R:
        """
        What the call returns or raises; once handed over it is finished, also when cancelled.

        Raises:
            OSError: `abandon` was called meanwhile.
        """
        await checkpoint_if_cancelled()
        call = _Call(make, asyncio.get_running_loop().create_future())
        if len(self._under_way) >= self._started < self._count:
            self._started += 1
            arguments = (self._calls, self._done)
            threading.Thread(target=_work, args=arguments, name=self._name, daemon=True).start()
        self._under_way.add(call)
        self._calls.put(call)
        try:
            await call.waiter
        except asyncio.CancelledError:
            # Not shielded from the beginning: that costs more than many of these calls.
            with CancelScope(shield=True):
                while not (call.is_done or call.is_left):
                    call.waiter = asyncio.get_running_loop().create_future()
                    await call.waiter
            # A scope that was cancelled says so again at the next await; who has been handed what
            # the call gave can let go of it there. Everybody else says so once.
            if call.is_left or current_effective_deadline() > -math.inf:
                raise
        finally:
            self._under_way.discard(call)
        if call.is_left and not call.is_done:
            raise OSError(errno.ETIMEDOUT, "it does not come to an end")
        if call.error is not None:
            raise call.error
        result: R = call.result
        return result

    def abandon(self) -> None:
        """
        Leave what is under way to itself: nobody waits any more for a thread that may never return.

        For a process that is about to end. Call it in the loop of those who wait, and ask these
        threads for nothing more.
        """
        for call in self._under_way:
            call.is_left = True
            if not call.waiter.done():
                call.waiter.set_result(None)


class _Done:
    """What was finished and is not told yet. Appending, and taking from, a deque is atomic."""

    def __init__(self) -> None:
        self._calls: deque[_Call] = deque()
        self._is_told = False

    def add(self, call: _Call) -> None:
        """Called in a thread: the loop is woken unless that has been done already."""
        self._calls.append(call)
        if not self._is_told:
            self._is_told = True
            # The loop of an abandoned call may be closed by the time the call ends.
            with suppress(RuntimeError):
                call.waiter.get_loop().call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._is_told = False  # before the first is taken: whoever adds from here on wakes again
        while self._calls:
            call = self._calls.popleft()
            call.is_done = True
            if not call.waiter.done():  # cancelled, and about to find out
                call.waiter.set_result(None)


def _work(calls: "SimpleQueue[_Call | None]", done: _Done) -> None:
    while (call := calls.get()) is not None:
        try:
            call.result = call.make()
        except BaseException as error:
            call.error = error
        done.add(call)
        del call  # nothing is kept until the next call comes: it may be long
    calls.put(None)  # for the next thread


def _end(calls: "SimpleQueue[_Call | None]") -> None:
    calls.put(None)
