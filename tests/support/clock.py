"""Event loops whose time a test moves, so that minutes of waiting are tested without any.

    @pytest.fixture
    def anyio_backend() -> tuple[str, dict[str, object]]:
        return "asyncio", {"loop_factory": MovableLoop}

`MovableLoop` runs by the real clock until `advance` moves it ahead: deadlines fall due, while
sockets and threads work as ever. `JumpingLoop` has no clock but its timers: whenever nothing is
ready it goes to the next of them. It must not be used with sockets or threads, which it would
not wait for.
"""

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from pipeline.retry import machinery

__all__ = ["JumpingLoop", "MovableLoop", "advance", "run_jumping"]

R = TypeVar("R")

machinery()  # a jumping loop would not wait for the thread that imports it


class MovableLoop(asyncio.SelectorEventLoop):
    """A loop whose time is the real one and what it was moved ahead by."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        super().__init__()

    def time(self) -> float:
        return super().time() + self.ahead_s

    @staticmethod
    def running() -> "MovableLoop":
        """The one that the caller runs on."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MovableLoop)
        return loop


async def advance(seconds: float) -> None:
    """Moves the time of the running `MovableLoop`, and lets what fell due have its turn."""
    MovableLoop.running().ahead_s += seconds
    for _ in range(5):  # timer, cancelled await, its clean-up, who waits for that
        await anyio.lowlevel.checkpoint()


class JumpingLoop(asyncio.SelectorEventLoop):
    """A loop that never waits: when all are asleep it is already the time of the first to wake."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


class _JumpingSelector(selectors.DefaultSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("everybody waits, and nobody for a time")
        if not ready and timeout is not None:
            self.now_s += timeout
        return ready


def run_jumping(main: Callable[[], Awaitable[R]]) -> R:
    """What `main` returns, run on a `JumpingLoop` of its own that begins at 0 s."""
    return anyio.run(main, backend_options={"loop_factory": JumpingLoop})
