"""
Cancellation at every await: in, a coroutine; out, the same, cancelled at its n-th suspension.

    for tick in ticks():                    # n = 1, 2, 3 ... until a run comes to its end uncancelled
        ...                                 # everything anew
        await tick.run(stage(...))
        ...                                 # what has to be so, wherever it was

Suspensions are those of the coroutine and of every task that is started in it, in the order in
which they come. The cancellation is that of a scope around it all, as a run is cancelled: what is
shielded goes on, and whatever is awaited after it without a shield is cancelled, too.

Source: the tick tests of https://github.com/encode/httpcore, tests/test_cancellations.py.
"""

import ast
import asyncio
import itertools
from collections.abc import Coroutine, Generator, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import anyio

__all__ = ["Tick", "awaits", "ticks"]

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_S = 20.0

_running: ContextVar["Tick | None"] = ContextVar("running", default=None)

Line = tuple[str, int]
"""A module, as a path from the root of the project, and a line in it."""


def ticks() -> Iterator["Tick"]:
    """One tick after another, until one was run to its end."""
    for at in itertools.count(1):
        tick = Tick(at)
        yield tick
        if not tick.is_cancelled:
            return


class Tick:
    """One run, cancelled at its `at`-th suspension."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.lines: set[Line] = set()
        """Where the program was when it was cancelled: the awaits from the outermost inwards."""
        self._seen = 0
        self._scope = anyio.CancelScope()

    @property
    def is_cancelled(self) -> bool:
        """Whether the run had so many suspensions."""
        return self._scope.cancel_called

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it, and cancel it in time; fails when it does not end soon."""
        loop = asyncio.get_running_loop()
        former, token = loop.get_task_factory(), _running.set(self)
        loop.set_task_factory(_counted)
        try:
            with anyio.fail_after(_LONGEST_S), self._scope:
                await _Steps(work, self)
        finally:
            loop.set_task_factory(former)
            _running.reset(token)

    def suspended(self, work: Any) -> None:
        """One suspension more, of this coroutine."""
        self._seen += 1
        if self._seen == self.at:
            self.lines = set(_lines(work))
            self._scope.cancel()


class _Steps:
    """Awaits a coroutine, and tells its tick of each suspension."""

    def __init__(self, work: Coroutine[Any, Any, Any], tick: Tick) -> None:
        self._work = work
        self._tick = tick

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self._work.send, None)
        while True:
            try:
                waiting_for = step()
            except StopIteration as end:
                return end.value
            self._tick.suspended(self._work)
            try:
                step = partial(self._work.send, (yield waiting_for))
            except BaseException as error:  # raised on, into the coroutine
                step = partial(self._work.throw, error)


def _counted(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **context: Any
) -> "asyncio.Task[Any]":
    """A task factory: what is started in a tick counts for it."""
    tick = _running.get()

    async def counted() -> Any:
        assert tick is not None
        return await _Steps(work, tick)

    return asyncio.Task(work if tick is None else counted(), loop=loop, **context)


def _lines(work: Any) -> Iterator[Line]:
    """The lines of the program at which a coroutine waits for another, outermost first."""
    while work is not None:
        frame = getattr(work, "cr_frame", None) or getattr(work, "gi_frame", None)
        if frame is not None and (path := Path(frame.f_code.co_filename)).is_relative_to(_ROOT):
            yield path.relative_to(_ROOT).as_posix(), frame.f_lineno
        work = getattr(work, "cr_await", None) or getattr(work, "gi_yieldfrom", None)


def awaits(module: str) -> dict[Line, str]:
    """Every await of a module, by the line that it begins at, and how it reads."""
    source = (_ROOT / module).read_text()
    return {
        (module, node.lineno): ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Await)
    }
