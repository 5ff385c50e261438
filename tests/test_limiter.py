"""The budget holds for every window, for all alike, over pauses and restarts; on a jumping clock.

Times are whole seconds from the beginning of a test, so that they can be compared exactly.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ServiceUnusable
from pipeline.limiter import LONGEST_PAUSE_S, Limiter
from tests.support.clock import run_jumping

DAY_S = 86_400

arrivals = st.lists(st.integers(0, 60), min_size=1, max_size=40).map(sorted)
counts = st.integers(1, 6)
windows_s = st.integers(1, 30)
ages = st.lists(st.integers(0, 40), max_size=10)


class Asked:
    """Who asked a limiter for a permit, and when each was given one."""

    def __init__(self, limiter: Limiter) -> None:
        self.limiter = limiter
        self.asking: list[int] = []
        """Numbers of who asked, in the order of asking."""
        self.order: list[int] = []
        """The same numbers, in the order of giving."""
        self.times: list[float] = []
        """When each permit was given."""

    async def ask(self, number: int, at: float = 0.0, kind: str = "get") -> None:
        """Asks at that time, and notes the answer."""
        await anyio.sleep_until(at)
        self.asking.append(number)
        await self.limiter.permit(kind)
        self.order.append(number)
        self.times.append(anyio.current_time())


def limiter(
    count: int, window_s: float, *, ramp: bool = False, earlier: Iterable[float] = ()
) -> Limiter:
    """One on the clock of the loop."""
    return Limiter(count, window_s, ramp=ramp, earlier=earlier, clock=anyio.current_time)


def asked_at(
    asking: Sequence[float],
    count: int,
    window_s: float,
    *,
    earlier: Iterable[float] = (),
    pauses: Iterable[tuple[float, float]] = (),
) -> Asked:
    """What came of asking at these times, with pauses (at, seconds)."""

    async def main() -> Asked:
        asked = Asked(limiter(count, window_s, earlier=earlier))

        async def pause(at: float, seconds: float) -> None:
            await anyio.sleep_until(at)
            asked.limiter.pause(seconds)

        async with anyio.create_task_group() as group:
            for number, at in enumerate(asking):
                group.start_soon(asked.ask, number, at)
            for at, seconds in pauses:
                group.start_soon(pause, at, seconds)
        return asked

    return run_jumping(main)


def most_in_a_window(times: Iterable[float], window_s: float) -> int:
    """The most of these within any window of this length, wherever it begins."""
    ordered = sorted(times)
    return max(sum(start <= at < start + window_s for at in ordered) for start in ordered)


# --- the window -----------------------------------------------------------------------------------


@given(arrivals, counts, windows_s, ages)
def test_no_window_holds_more_than_the_share(
    asking: list[int], count: int, window_s: int, earlier: list[int]
) -> None:
    """However requests arrive, and whatever an earlier run sent, no window is over the limit."""
    given_at = asked_at(asking, count, window_s, earlier=earlier).times
    kept = [-age for age in sorted(earlier)[:count]]  # more than that was over the limit already

    assert most_in_a_window([*kept, *given_at], window_s) <= count


@given(arrivals, counts, windows_s)
def test_permits_are_given_in_order_and_at_once(
    asking: list[int], count: int, window_s: int
) -> None:
    """First come, first served, and each the moment when the window has room: none is wasted."""
    expected: list[float] = []
    for number, at in enumerate(asking):
        room_at = expected[number - count] + window_s if number >= count else 0
        expected.append(max(at, room_at))

    asked = asked_at(asking, count, window_s)

    assert asked.times == expected
    assert asked.order == asked.asking


@given(arrivals, counts, windows_s, st.integers(0, 59))
def test_a_restart_changes_nothing(
    asking: list[int], count: int, window_s: int, restart_at: int
) -> None:
    """A run that takes over the last window gives permits as the old one would have done."""

    async def until_restart() -> list[float]:
        old = Asked(limiter(count, window_s))
        with anyio.move_on_after(restart_at + 0.5):
            async with anyio.create_task_group() as group:
                for number, at in enumerate(asking):
                    group.start_soon(old.ask, number, at)
        return old.times

    before = run_jumping(until_restart)

    async def after_restart() -> list[float]:
        await anyio.sleep_until(restart_at + 0.5)
        earlier = [anyio.current_time() - at for at in before]
        new = Asked(limiter(count, window_s, earlier=earlier))
        async with anyio.create_task_group() as group:
            for number, at in enumerate(asking[len(before) :]):
                group.start_soon(new.ask, number, at)
        return new.times

    assert before + run_jumping(after_restart) == asked_at(asking, count, window_s).times


@given(arrivals, counts, windows_s, st.integers(1, 20))
def test_every_request_is_told_once(
    asking: list[int], count: int, window_s: int, every_s: int
) -> None:
    """Whoever writes requests down hears of each of them once, by how long ago it was sent."""

    async def main() -> tuple[list[float], list[float]]:
        asked = Asked(limiter(count, window_s))
        told: list[float] = []

        async def write_down() -> None:
            while True:
                await anyio.sleep(every_s)
                now = anyio.current_time()
                told.extend(now - age_s for age_s in asked.limiter.take_unrecorded())

        async with anyio.create_task_group() as group:
            group.start_soon(write_down)
            async with anyio.create_task_group() as asking_group:
                for number, at in enumerate(asking):
                    asking_group.start_soon(asked.ask, number, at)
            group.cancel_scope.cancel()
        now = anyio.current_time()
        told.extend(now - age_s for age_s in asked.limiter.take_unrecorded())
        return told, asked.times

    told, times = run_jumping(main)

    assert told == times


def test_who_gives_up_does_not_count() -> None:
    """A request that is cancelled while it waits leaves its place to the next one."""

    async def main() -> Asked:
        asked = Asked(limiter(1, 10))
        async with anyio.create_task_group() as group:
            group.start_soon(asked.ask, 0)
            await anyio.sleep(1)
            with anyio.move_on_after(3):
                await asked.ask(1)
            group.start_soon(asked.ask, 2)
        return asked

    asked = run_jumping(main)

    assert (asked.order, asked.times) == ([0, 2], [0, 10])


def test_it_works_by_the_real_clock_unless_told_otherwise() -> None:
    """Without a clock of a test, permits within the limit are given at once, and are counted."""

    async def main() -> list[float]:
        real = Limiter(3, 60.0)
        for _ in range(3):
            await real.permit("get")
        return real.take_unrecorded()

    ages_s = anyio.run(main)

    assert len(ages_s) == 3
    assert all(0 <= age_s < 60 for age_s in ages_s)


# --- the pause for all ----------------------------------------------------------------------------


@given(
    arrivals,
    st.lists(st.tuples(st.integers(0, 60).map(lambda at: at + 0.5), st.integers(0, 600))),
    counts,
)
def test_nobody_is_let_through_in_a_pause(
    asking: list[int], pauses: list[tuple[float, float]], count: int
) -> None:
    """In no pause is a permit given, however pauses overlap and whoever sleeps already."""
    for at in asked_at(asking, count, 10, pauses=pauses).times:
        # Strictly: what happens in the very instant in which a pause begins has no order.
        assert not any(begin < at < begin + seconds for begin, seconds in pauses)


def test_a_longer_pause_holds_those_who_sleep() -> None:
    """Who wakes from one pause looks again, and finds the longer one that came meanwhile."""
    assert asked_at([1], 5, 10, pauses=[(0.5, 10), (5.5, 60)]).times == [65.5]


def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    """The end of a pause is never brought forward."""
    assert asked_at([1], 5, 10, pauses=[(0.5, 60), (5.5, 1)]).times == [60.5]


def test_those_who_wait_for_the_window_heed_a_pause() -> None:
    """A pause that comes while one waits for room holds that one back, too."""
    assert asked_at([0, 0], 1, 10, pauses=[(5.5, 60)]).times == [0, 65.5]


def test_a_pause_of_unknown_length_is_15_s() -> None:
    """A 429 that does not say for how long holds everything back for a while."""

    async def main() -> float:
        one = limiter(5, 10)
        one.pause(None)
        await one.permit("get")
        return anyio.current_time()

    assert run_jumping(main) == 15


def test_the_longest_pause_is_waited_for() -> None:
    """Ten minutes are waited for."""
    assert asked_at([1], 5, 10, pauses=[(0.5, LONGEST_PAUSE_S)]).times == [600.5]


@pytest.mark.parametrize("seconds", [601.0, 3600.0, 1e300, math.inf])
@pytest.mark.parametrize("kind", ["get", "submit"])
def test_a_longer_pause_ends_the_run(kind: str, seconds: float) -> None:
    """Beyond ten minutes nobody waits, for room either: who asks is told to run again later."""

    async def main() -> float:
        one = limiter(1, 10, ramp=True)
        await one.permit("get")
        one.pause(seconds)
        for _ in range(2):
            with pytest.raises(ServiceUnusable, match="run again later"):
                await one.permit(kind)
        return anyio.current_time()

    assert run_jumping(main) == 0


@pytest.mark.parametrize("kind", ["get", "submit"])
def test_those_who_wait_are_told_that_the_run_ends(kind: str) -> None:
    """Who was waiting already gets the same answer, and no permit, when waking."""

    async def main() -> None:
        one = limiter(50, 300, ramp=True)
        for _ in range(50):
            await one.permit("submit")
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(ServiceUnusable):
                    await one.permit(kind)

            group.start_soon(wait)
            await anyio.sleep(1)
            one.pause(601)

    run_jumping(main)


# --- the ramp -------------------------------------------------------------------------------------


def submits_by_window(asked: Asked) -> Counter[int]:
    """How many permits fell into each 15 s."""
    return Counter(int(at // 15) for at in asked.times)


def test_submits_begin_slowly() -> None:
    """At most 50 in the first 15 s, then 8 % more in each that follows, in their order."""

    async def main() -> Asked:
        asked = Asked(limiter(10_000, 300, ramp=True))
        async with anyio.create_task_group() as group:
            for number in range(300):
                group.start_soon(asked.ask, number, 0.0, "submit")
        return asked

    asked = run_jumping(main)

    assert submits_by_window(asked) == {0: 50, 1: 54, 2: 58, 3: 62, 4: 68, 5: 8}
    assert asked.order == asked.asking


def test_the_ramp_begins_with_the_first_submit() -> None:
    """The time of scanning and uploading before the first submit does not count."""

    async def main() -> list[float]:
        asked = Asked(limiter(10_000, 300, ramp=True))
        async with anyio.create_task_group() as group:
            for number in range(51):
                group.start_soon(asked.ask, number, 100.0, "submit")
        return asked.times

    assert run_jumping(main) == [100.0] * 50 + [115.0]


def test_the_ramp_holds_up_nobody_else() -> None:
    """While submits wait for the ramp, looks and uploads pass."""

    async def main() -> dict[int, float]:
        asked = Asked(limiter(10_000, 300, ramp=True))
        async with anyio.create_task_group() as group:
            for number in range(60):
                group.start_soon(asked.ask, number, 0.0, "submit")
            for number, kind in enumerate(("upload", "get", "list", "delete"), start=60):
                group.start_soon(asked.ask, number, 1.0, kind)
        return dict(zip(asked.order, asked.times, strict=True))

    times = run_jumping(main)

    assert [times[number] for number in range(60, 64)] == [1.0] * 4
    assert sorted(times[number] for number in range(60)) == [0.0] * 50 + [15.0] * 10


def test_without_a_ramp_submits_are_like_all_others() -> None:
    """`--no-ramp`: only the window counts."""

    async def main() -> list[float]:
        asked = Asked(limiter(10_000, 300))
        async with anyio.create_task_group() as group:
            for number in range(300):
                group.start_soon(asked.ask, number, 0.0, "submit")
        return asked.times

    assert run_jumping(main) == [0.0] * 300


@pytest.mark.parametrize("days", [1, 2, 30])
def test_the_ramp_lasts_for_days(days: int) -> None:
    """An archive that takes days still gets its permits, long after the ramp has any say."""

    async def main() -> float:
        one = limiter(10_000, 300, ramp=True)
        await one.permit("submit")
        await anyio.sleep(days * DAY_S)
        async with anyio.create_task_group() as group:
            for _ in range(5000):
                group.start_soon(one.permit, "submit")
        return anyio.current_time()

    assert run_jumping(main) == days * DAY_S
