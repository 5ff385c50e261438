"""
Whether, when and how often: in, a call that can be repeated; out, its result or a final error.

The only place where a `TransientError` is caught. A submit never comes through here: it costs.
"""

import sys
from collections.abc import Awaitable, Callable
from logging import INFO
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import anyio
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

    Waits 0.5 s, doubling up to 30 s, with up to 1 s of jitter. After a 429 it does not wait by
    itself: the limiter holds every request back until the pause is over.

    Args:
        call: made anew for each attempt; must be safe to repeat.
        attempts: how often it is made at the most; None for no such limit.
        timeout_s: a failure after so many seconds is the last; None for no such limit.

    Raises:
        AttemptsExhausted: the last attempt failed too; its `TransientError` is the cause.
    """
    began = anyio.current_time()
    try:
        return await call()
    except TransientError as error:
        failure = error
    # Only now: nearly every call succeeds, and the machinery of the others costs as much as it.
    if timeout_s is not None:
        timeout_s -= anyio.current_time() - began
    return await _again(call, failure, attempts, timeout_s)


async def _again(
    call: Callable[[], Awaitable[R]],
    failure: TransientError,
    attempts: int | None,
    timeout_s: float | None,
) -> R:
    """The same for a call whose first attempt came to this failure."""
    if "stamina" not in sys.modules:
        await to_thread.run_sync(machinery)
    tried = 0
    try:
        async for attempt in machinery().retry_context(
            on=_wait_before_next,
            attempts=attempts,
            timeout=timeout_s,
            wait_initial=0.5,
            wait_max=30.0,
        ):
            tried = attempt.num
            with attempt:
                if tried == 1:
                    raise failure
                return await call()
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


def _wait_before_next(error: Exception) -> bool | float:
    if isinstance(error, RateLimited):
        return 0.0
    return isinstance(error, TransientError)
