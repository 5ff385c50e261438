"""
Cancellation at every await: in, a coroutine; out, the same, cancelled where it waits.

    for tick in ticks():            # one for each place where it was seen to wait
        ...                         # everything anew
        await tick.run(stage(...))
        ...                         # what has to be so, wherever it was

A place is the chain of our lines at which a coroutine waits for another, `deep` also down into the
libraries; it is cancelled when it is first there. With `every` it is cancelled at its n-th
suspension instead, for n = 1, 2, 3 ... until it comes to its end. Tasks that are started in it
count as it does. The cancellation is that of a scope around it all, as a run is cancelled: what is
shielded goes on, and whatever is awaited after it without a shield is cancelled, too.

Source: the tick tests of https://github.com/encode/httpcore, tests/test_cancellations.py.
"""

import ast
import asyncio
import gc
import itertools
from collections.abc import Coroutine, Generator, Iterator
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import anyio

__all__ = ["Line", "Tick", "awaits", "ticks"]

_ROOT = Path(__file__).resolve().parents[2]
_OURS = str(_ROOT / "pipeline")
_LONGEST_S = 20.0
_TRIES = 3

Line = tuple[str, int]
"""A file, by its path, and a line in it."""

Place = tuple[Line, ...]
"""Where a coroutine waits: its own line first, what it waits for after it."""

_running: ContextVar["Tick | None"] = ContextVar("running", default=None)


def ticks(*, every: bool = False, deep: bool = False) -> Iterator["Tick"]:
    """One tick after another; each has to be run before the next."""
    if every:
        for at in itertools.count(1):
            tick = Tick(at, deep)
            yield tick
            if not tick.is_cancelled:
                return
    tries: dict[Place, int] = {}
    tick = Tick(None, deep)
    while True:
        yield tick
        for place in tick.places:
            tries.setdefault(place, 0)
        if tick.is_cancelled:
            tries[tick.at] = _TRIES
        # No two runs are quite alike: one that did not come there is made again.
        place = next((place for place, tried in tries.items() if tried < _TRIES), None)
        if place is None:
            return
        tries[place] += 1
        tick = Tick(place, deep)


class Tick:
    """One run, cancelled at its n-th suspension, or at the first one at a place, or never."""

    def __init__(self, at: int | Place | None, deep: bool) -> None:
        self.at: Any = at
        self.places: dict[Place, None] = {}
        """Where it has waited, in order; where it was cancelled comes last."""
        self._deep = deep
        self._seen = 0
        self._scope = anyio.CancelScope()

    @property
    def is_cancelled(self) -> bool:
        """Whether it was, before it came to its end."""
        return self._scope.cancel_called

    async def run(self, work: Coroutine[Any, Any, object]) -> None:
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
        if self.is_cancelled:
            return
        self._seen += 1
        lines = _lines(work)
        place = tuple(line for line in lines if self._deep or line[0].startswith(_OURS))
        self.places[place] = None
        if self.at in (self._seen, place):
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
    """The lines at which a coroutine waits for another, and that for the next."""
    while work is not None:
        kind = next((k for k in ("cr", "ag", "gi") if hasattr(work, f"{k}_frame")), None)
        if kind is None:
            # A step of an asynchronous generator does not tell in public whose it is.
            known = gc.get_referents(work)
            work = next((each for each in known if hasattr(each, "ag_frame")), None)
            continue
        frame = getattr(work, f"{kind}_frame")
        if frame is not None:
            yield frame.f_code.co_filename, frame.f_lineno
        work = getattr(work, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")


def awaits(module: str) -> dict[Line, str]:
    """Every await of a module, by the line that it begins at, and how it reads."""
    path = _ROOT / module
    return {
        (str(path), node.lineno): ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Await)
    }
