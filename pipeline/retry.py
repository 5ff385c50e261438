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
from pipeline.events import Emit, Retrying
from pipeline.logs import log

if TYPE_CHECKING:
    from stamina.instrumentation import RetryDetails

__all__ = ["machinery", "retry"]

R = TypeVar("R")
Passes = Callable[[TransientError, float], Awaitable[bool]]


async def retry(
    call: Callable[[], Awaitable[R]],
    *,
    attempts: int | None = 5,
    timeout_s: float | None = 120.0,
    passes: Passes | None = None,
    emit: Emit | None = None,
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
        passes: whether a failure, of a request that was sent then, has passed for all: it uses up
            neither an attempt nor time, as a 429.
        emit: is told of each repetition that is waited for.

    Raises:
        AttemptsExhausted: the last attempt failed too; its `TransientError` is the cause.
    """
    patience = _Patience(attempts, timeout_s, passes)
    try:
        return await patience.taken(call)
    except TransientError as error:
        failure = error
    # Only now: nearly every call succeeds, and the machinery of the others costs as much as it.
    return await _again(call, failure, patience, emit)


class _Patience:
    """How long a call may go on failing, not counting what passes for all alike."""

    def __init__(
        self, attempts: int | None, timeout_s: float | None, passes: Passes | None
    ) -> None:
        self._attempts = self._left = inf if attempts is None else attempts
        self._ends_at = inf if timeout_s is None else anyio.current_time() + timeout_s
        self._passes = passes

    async def taken(self, call: Callable[[], Awaitable[R]]) -> R:
        """The result of the first call that meets neither a 429 nor an outage."""
        while True:
            began = anyio.current_time()
            try:
                return await call()
            except RateLimited:
                await anyio.lowlevel.checkpoint()
            except TransientError as error:
                if self._passes is None or not await self._passes(error, began):
                    self._left -= 1
                    raise
                self._left = self._attempts
            self._ends_at += anyio.current_time() - began

    def wants_more(self, error: Exception) -> bool:
        """Whether the call is made again after this error."""
        is_left = self._left > 0 and anyio.current_time() < self._ends_at
        return isinstance(error, TransientError) and is_left

    def retrying(self, error: TransientError, in_s: float) -> Retrying:
        """What is told of the next try."""
        of = None if self._attempts == inf else int(self._attempts)
        tried = 0 if self._attempts == inf else int(self._attempts - self._left)
        return Retrying(message=str(error), attempt=tried + 1, of=of, in_s=round(in_s, 1))


async def _again(
    call: Callable[[], Awaitable[R]],
    failure: TransientError,
    patience: _Patience,
    emit: Emit | None,
) -> R:
    """The same for a call whose first attempt came to this failure."""
    if "stamina" not in sys.modules:
        await to_thread.run_sync(machinery)
    tried = 0
    try:
        async for attempt in machinery().retry_context(
            on=patience.wants_more,
            attempts=None,
            timeout=None,
            wait_initial=0.5,
            wait_max=30.0,
        ):
            tried = attempt.num
            with attempt:
                try:
                    if tried == 1:
                        raise failure
                    return await patience.taken(call)
                except TransientError as error:
                    if emit is not None and patience.wants_more(error):
                        emit(patience.retrying(error, attempt.next_wait))
                    raise
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
