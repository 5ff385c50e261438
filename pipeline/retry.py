"""
Whether, when and how often: in, a call that can be repeated; out, its result or a final error.

The only place where a `TransientError` is caught. A submit never comes through here: it costs.
"""

import sys
from collections.abc import Awaitable, Callable
from logging import INFO
from math import inf
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
from anyio import to_thread

from pipeline.errors import AttemptsExhausted, RateLimited, TransientError
from pipeline.logs import log

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

__all__ = ["machinery", "retry"]

R = TypeVar("R")


async def retry(
    call: Callable[[], Awaitable[R]], *, attempts: int | None = 5, timeout_s: float | None = 120.0
) -> R:
    """
    The result of the first call that succeeds.

    Waits 0.5 s, doubling up to 30 s, with up to 1 s of jitter. A 429 uses up neither an attempt nor
    time: the call is made again, and the limiter holds it back until the pause is over. How long
    the service may go on so, the limiter says.

    Args:
        call: made anew for each attempt; must be safe to repeat.
        attempts: how often it is made at the most; None for no such limit.
        timeout_s: a failure after so many seconds is the last; None for no such limit.

    Raises:
        AttemptsExhausted: the last attempt failed too; its `TransientError` is the cause.
    """
    patience = _Patience(timeout_s)
    try:
        return await patience.taken(call)
    except TransientError as error:
        failure = error
    # Only now: nearly every call succeeds, and the machinery of the others costs as much as it.
    return await _again(call, failure, attempts, patience)


class _Patience:
    """How long a call may go on failing, not counting what a 429 takes."""

    def __init__(self, timeout_s: float | None) -> None:
        self._ends_at = inf if timeout_s is None else anyio.current_time() + timeout_s

    async def taken(self, call: Callable[[], Awaitable[R]]) -> R:
        """The result of the first call that gets no 429."""
        while True:
            began = anyio.current_time()
            try:
                return await call()
            except RateLimited:
                await anyio.lowlevel.checkpoint()
                self._ends_at += anyio.current_time() - began

    def wants_more(self, error: Exception) -> bool:
        """Whether the call is made again after this error."""
        return isinstance(error, TransientError) and anyio.current_time() < self._ends_at


async def _again(
    call: Callable[[], Awaitable[R]],
    failure: TransientError,
    attempts: int | None,
    patience: _Patience,
) -> R:
    """The same for a call whose first attempt came to this failure."""
    if "stamina" not in sys.modules:
        await to_thread.run_sync(machinery)
    tried = 0
    try:
        async for attempt in machinery().retry_context(
            on=patience.wants_more,
            attempts=attempts,
            timeout=None,
            wait_initial=0.5,
            wait_max=30.0,
        ):
            tried = attempt.num
            with attempt:
                if tried == 1:
                    raise failure
                return await patience.taken(call)
    except TransientError as error:
        times = "once" if tried == 1 else f"{tried} times"
        raise AttemptsExhausted(f"{error} (tried {times})") from error
    raise AssertionError("stamina either returns or raises")


def machinery() -> ModuleType:
    """Stamina, imported when it is needed first: most runs are spared its 10 MB and 0.1 s."""
    import stamina

    def tell(details: "RetryDetails") -> None:
        # A retry is no warning: that it was the last one is an error of its own.
        log(INFO, "retry", error=str(details.caused_by), wait_s=round(details.wait_for, 3))

    # Else stamina would import hooks of its own at the first retry, on the event loop.
    stamina.instrumentation.set_on_retry_hooks([tell])
    return stamina
