"""
How a process ends that was asked to: in, a signal; out, an exit code in time, whatever threads do.

    SIGINT, SIGTERM, SIGHUP ──► the work is asked to end ──► `leave_within` ──► its own end, or ours

A thread that reads from a file system which does not answer cannot be ended, and Python waits for
it. So whoever hears a signal says by when the process is gone, and goes on as if there were time.
"""

import math
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from types import FrameType
from typing import TypeVar

from pipeline.errors import ExitCode

__all__ = [
    "LAST_S",
    "SIGNALS",
    "answered",
    "at_last",
    "begin",
    "is_leaving",
    "leave",
    "leave_within",
    "leaving_at_a_signal",
    "left_s",
    "run_stoppable",
    "signals_heeded",
]

LAST_S = 2.0
"""For a summary, for whoever is told, and for children, once nothing else is waited for."""

SIGNALS = {
    signal.SIGINT: ExitCode.INTERRUPTED,
    signal.SIGTERM: ExitCode.TERMINATED,
    signal.SIGHUP: ExitCode.HANGUP,
}
"""Those that end a run, with its exit code."""

T = TypeVar("T")


class _Process:
    """This process, and how it ends."""

    is_ours = False
    """Whether it is a command of ours, and not a program that calls one."""
    code: ExitCode | None = None
    """That of the first signal; None while there was none."""
    until_s = math.inf
    """When it ends at the latest, by the clock of `time.monotonic`."""
    last: tuple[Callable[[], object], ...] = ()
    """What is to be called in the end."""


def begin() -> None:
    """From here on this process is a command, whose end is its own business."""
    _Process.is_ours = True


def signals_heeded() -> list[signal.Signals]:
    """The signals that end a run: not SIGHUP where `nohup` has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [number for number in SIGNALS if not (number == signal.SIGHUP and is_ignored)]


def leave_within(seconds: float, code: ExitCode) -> None:
    """End this process by then unless it has ended itself; of its code what is said first holds."""
    if not _Process.is_ours:
        return
    _Process.code = _Process.code or code
    _Process.until_s = min(_Process.until_s, time.monotonic() + seconds)
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), leave, [_Process.code])
    timer.daemon = True
    timer.start()


def is_leaving() -> bool:
    """Whether this process ends soon, whatever its threads do."""
    return _Process.code is not None


def left_s() -> float:
    """Seconds until then; infinite while nobody has said so."""
    return _Process.until_s - time.monotonic()


def leave(code: int) -> None:
    """End this process now, and wait for no thread."""
    for call in _Process.last:
        with suppress(OSError):
            call()
    os._exit(code)


def answered(calls: Sequence[Callable[[], T]], within_s: float) -> list[T | None]:
    """
    What each of these calls returns, made side by side; None where that takes longer.

    What hangs is left to itself in a thread that the process does not wait for at its end.

    Raises:
        Exception: as the first call that does.
    """
    until_s = time.monotonic() + within_s
    answers = [Future[T]() for _ in calls]

    def make(call: Callable[[], T], answer: Future[T]) -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    for pair in zip(calls, answers, strict=True):
        threading.Thread(target=make, args=pair, daemon=True).start()
    found: list[T | None] = []
    for answer in answers:
        try:
            found.append(answer.result(max(0.0, until_s - time.monotonic())))
        except TimeoutError:
            found.append(None)
    return found


@contextmanager
def at_last(call: Callable[[], object]) -> Iterator[None]:
    """While the block lasts this is called, in any thread, should the process leave."""
    _Process.last += (call,)
    try:
        yield
    finally:
        _Process.last = tuple(each for each in _Process.last if each is not call)


@asynccontextmanager
async def leaving_at_a_signal() -> AsyncIterator[None]:
    """While the block lasts a signal says that the process has `LAST_S` left."""
    import anyio

    async with anyio.create_task_group() as group:

        async def heed() -> None:
            with anyio.open_signal_receiver(*signals_heeded()) as signals:
                async for number in signals:
                    leave_within(LAST_S, SIGNALS[number])

        group.start_soon(heed)
        yield
        group.cancel_scope.cancel()


def run_stoppable(main: Callable[[], Awaitable[T]]) -> T:
    """
    What a coroutine returns that runs in a loop of its own, as the work of this process.

    A SIGINT that nobody else heeds cancels it, and the process is gone `LAST_S` later.
    """
    import anyio

    async def heeding() -> T:
        cancel = signal.getsignal(signal.SIGINT)  # as asyncio does it
        if callable(cancel):
            signal.signal(signal.SIGINT, partial(_interrupt, cancel))
        return await main()

    return anyio.run(heeding)


def _interrupt(
    cancel: Callable[[int, FrameType | None], object], number: int, frame: FrameType | None
) -> None:
    leave_within(LAST_S, ExitCode.INTERRUPTED)
    cancel(number, frame)
