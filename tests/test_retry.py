"""What is tried again, how often, and how long it waits; on a clock that jumps."""

from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import pytest

from pipeline.errors import (
    AttemptsExhausted,
    ConnectionLost,
    KeyRefused,
    PipelineError,
    RateLimited,
    RecordingChanged,
    ServiceUnavailable,
    TransientError,
)
from pipeline.retry import retry
from tests.support.clock import run_jumping

TRANSIENT = [
    ConnectionLost("reset"),
    ConnectionLost("refused", connected=False),
    ServiceUnavailable("HTTP 503"),
    RateLimited("HTTP 429", 30.0),
]


class Failing:
    """A call that fails with these errors, one after the other, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []
        """When it was made."""

    async def __call__(self) -> str:
        self.times.append(anyio.current_time())
        if len(self.times) <= len(self.errors):
            raise self.errors[len(self.times) - 1]
        return "done"

    @property
    def waits_s(self) -> list[float]:
        """The seconds between one attempt and the next."""
        return [after - before for before, after in pairwise(self.times)]


def tried(call: Callable[[], Awaitable[str]], *, attempts: int = 5) -> str:
    """The result of trying, on a clock that jumps."""

    async def main() -> str:
        return await retry(call, attempts=attempts, timeout_s=None)

    return run_jumping(main)


@pytest.mark.parametrize("error", TRANSIENT, ids=repr)
def test_what_may_succeed_later_is_tried_again(error: TransientError) -> None:
    """Every `TransientError` leads to another attempt, and its success is the result."""
    call = Failing(error, error)

    assert tried(call) == "done"
    assert len(call.times) == 3


@pytest.mark.parametrize(
    "error", [RecordingChanged("it grew"), KeyRefused("no"), OSError(28, "full"), ValueError("bug")]
)
def test_what_is_final_is_not_tried_again(error: Exception) -> None:
    """Any other error comes through as it is, at once."""
    call = Failing(error)

    with pytest.raises(type(error)) as raised:
        tried(call)

    assert raised.value is error
    assert len(call.times) == 1


def test_a_final_error_ends_the_trying() -> None:
    """After attempts that may be repeated, one that may not ends it."""
    call = Failing(ServiceUnavailable("HTTP 503"), RecordingChanged("it grew"))

    with pytest.raises(RecordingChanged):
        tried(call)

    assert len(call.times) == 2


@pytest.mark.parametrize(("attempts", "words"), [(1, "tried once"), (4, "tried 4 times")])
def test_trying_comes_to_an_end(attempts: int, words: str) -> None:
    """After so many attempts the error is final, says how many, and has the last as its cause."""
    errors = [ServiceUnavailable(f"HTTP 503, number {number}") for number in range(10)]
    call = Failing(*errors)

    with pytest.raises(AttemptsExhausted, match=words) as raised:
        tried(call, attempts=attempts)

    assert raised.value.__cause__ is errors[attempts - 1]
    assert str(errors[attempts - 1]) in str(raised.value)
    assert len(call.times) == attempts


def test_no_transient_error_leaves() -> None:
    """What gives up is an error of a recording, so that nobody else need know the others."""
    with pytest.raises(PipelineError) as raised:
        tried(Failing(*TRANSIENT, *TRANSIENT))

    assert not isinstance(raised.value, TransientError)


def test_waits_double_up_to_a_limit() -> None:
    """Half a second, one, two, up to thirty, each with up to a second of jitter on top."""
    call = Failing(*[ServiceUnavailable("HTTP 503")] * 9)

    tried(call, attempts=10)

    assert len(call.waits_s) == 9
    for number, wait_s in enumerate(call.waits_s):
        least_s = min(30.0, 0.5 * 2**number)
        assert least_s - 1e-6 <= wait_s <= min(30.0, least_s + 1.0) + 1e-6


def test_waits_differ() -> None:
    """Two that failed together do not come back together."""
    calls = [Failing(ServiceUnavailable("HTTP 503")) for _ in range(5)]
    for call in calls:
        tried(call)

    assert len({call.waits_s[0] for call in calls}) > 1


def test_after_a_429_only_the_limiter_waits() -> None:
    """A pause that the limiter keeps for all is not kept here a second time."""
    call = Failing(*[RateLimited("HTTP 429", 300.0)] * 4)

    tried(call)

    assert call.waits_s == [0.0] * 4


@pytest.mark.parametrize("failures", [0, 1, 4])
def test_a_429_uses_up_no_try(failures: int) -> None:
    """However many come before and between other failures, those alone are counted."""
    busy, down = [RateLimited("HTTP 429", None)] * 20, ServiceUnavailable("HTTP 503")
    errors = [error for _ in range(failures) for error in (*busy, down)]
    call = Failing(*errors, *busy)

    assert tried(call) == "done"


def test_a_429_uses_up_no_time() -> None:
    """What a pause takes is not a part of the time in which a call has to succeed."""
    call = Failing(*[RateLimited("HTTP 429", 300.0)] * 3, ServiceUnavailable("HTTP 503"))

    async def paused() -> str:
        await anyio.sleep(100)
        return await call()

    async def main() -> str:
        return await retry(paused, attempts=5, timeout_s=101)

    assert run_jumping(main) == "done"


def test_no_attempt_begins_after_the_time_is_over() -> None:
    """With the time used up there is no further attempt, and the error counts those made."""
    call = Failing(*TRANSIENT)

    async def slowly() -> str:
        await anyio.sleep(1)
        return await call()

    async def main() -> str:
        return await retry(slowly, attempts=5, timeout_s=1)

    with pytest.raises(AttemptsExhausted, match="tried once"):
        run_jumping(main)

    assert len(call.times) == 1


def test_a_wait_can_be_cancelled() -> None:
    """A stop in the midst of waiting ends the trying, without another attempt."""
    call = Failing(*[ServiceUnavailable("HTTP 503")] * 9)

    async def main() -> bool:
        with anyio.move_on_after(2.0) as scope:
            await retry(call, attempts=10, timeout_s=None)
        return scope.cancelled_caught

    assert run_jumping(main)
    assert max(call.times) <= 2.0
