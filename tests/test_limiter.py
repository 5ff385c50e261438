"""The budget holds for every window, for all alike, over pauses and restarts; on a jumping clock.

Times are whole seconds from the beginning of a test, so that they can be compared exactly.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from hypothesis import given, settings
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
    made = Limiter(count, window_s, ramp=ramp, clock=anyio.current_time)
    made.remember(earlier)
    return made


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


def test_a_permit_that_is_free_costs_next_to_nothing() -> None:
    """With room in the window a permit is an addition to the log: no lock, no turn of the loop."""

    async def main() -> float:
        real = Limiter(18_000, 300.0)
        best_s = math.inf
        for _ in range(8):  # the best of several: what others do on this machine is not ours
            began_s = time.process_time()
            for _ in range(2000):
                await real.permit("get")
            best_s = min(best_s, time.process_time() - began_s)
        return best_s / 2000

    assert anyio.run(main) <= 5e-6


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


# --- any schedule ---------------------------------------------------------------------------------

KINDS = ("upload", "submit", "get", "list", "delete", "redacted_audio")

quarters_s = st.integers(0, 240).map(lambda quarters: quarters / 4)


@dataclass(frozen=True, eq=False)
class Wish:
    """Somebody who asks for a permit, and goes away if there is none in time."""

    at: float
    kind: str
    patience_s: float | None

    @property
    def queue(self) -> str:
        """Whom it waits in line with."""
        return self.kind if self.kind in ("upload", "submit") else "look"


wishes = st.lists(
    st.builds(Wish, quarters_s, st.sampled_from(KINDS), st.none() | quarters_s),
    min_size=1,
    max_size=40,
)
# An eighth beside: what happens in the very instant in which something else does has no order.
pauses = st.lists(
    st.tuples(quarters_s.map(lambda at: at + 1 / 8), st.none() | st.integers(0, 40)), max_size=4
)


@dataclass
class Seen:
    """What happened in one or several runs, in order."""

    events: list[tuple[float, str, Wish]] = field(default_factory=list)
    """When; `asks`, `given` or `leaves`; who."""
    paused: list[tuple[float, float]] = field(default_factory=list)
    """From when to when at the least."""

    def note(self, what: str, wish: Wish) -> None:
        self.events.append((anyio.current_time(), what, wish))

    @property
    def given_at(self) -> list[float]:
        return [at for at, what, _ in self.events if what == "given"]


async def wished(one: Limiter, wish: Wish, seen: Seen) -> None:
    """Asks when it is time, and notes what came of it."""
    await anyio.sleep_until(wish.at)
    seen.note("asks", wish)
    patience_s = math.inf if wish.patience_s is None else wish.patience_s
    what = "leaves"  # also when the run ends
    try:
        with anyio.move_on_after(patience_s):
            await one.permit(wish.kind)
            what = "given"
    finally:
        seen.note(what, wish)


async def paused(one: Limiter, at: float, seconds: float | None, seen: Seen) -> None:
    """Pauses when it is time."""
    await anyio.sleep_until(at)
    one.pause(seconds)
    seen.paused.append((at, at + (seconds or 0)))


class Log:
    """Keeps requests by the second, as the ledger does, whose clock began at some fraction."""

    def __init__(self, offset_s: float) -> None:
        self.offset_s = offset_s
        self.seconds = Counter[int]()

    def record(self, ages_s: Iterable[float]) -> None:
        now = anyio.current_time() + self.offset_s
        self.seconds.update(int(now - age_s) for age_s in ages_s)

    def earlier(self, window_s: float) -> list[float]:
        now = anyio.current_time() + self.offset_s
        oldest = int(now - window_s)
        kept = [second for second in self.seconds.elements() if second >= oldest]
        return [max(0.0, now - second - 1) for second in kept]


@settings(max_examples=300)
@given(
    wishes,
    pauses,
    st.lists(quarters_s.map(lambda at: at + 1 / 16), max_size=3).map(sorted),
    counts,
    windows_s,
    st.integers(0, 7).map(lambda eighths: 1000 + eighths / 8),
    st.booleans(),
)
def test_no_schedule_breaks_the_budget(
    asking: list[Wish],
    pausing: list[tuple[float, float | None]],
    restarts: list[float],
    count: int,
    window_s: int,
    offset_s: float,
    ramp: bool,
) -> None:
    """
    Over arrivals of all kinds, pauses, people who go away and restarts: no window over the limit.

    Nor is a permit given in a pause, and who is patient gets one. What waits when a run ends asks
    the next one again, which knows of earlier requests what the ledger does.
    """

    async def main() -> Seen:
        seen, log, begins = Seen(), Log(offset_s), 0.0
        for ends in [*restarts, math.inf]:
            await anyio.sleep_until(begins)
            one = limiter(count, window_s, ramp=ramp, earlier=log.earlier(window_s))
            last = {wish: what for _, what, wish in seen.events}
            again = [wish for wish in last if last[wish] == "leaves" and wish.patience_s is None]
            with anyio.move_on_after(ends - begins):
                async with anyio.create_task_group() as group:
                    for wish in again:
                        group.start_soon(wished, one, wish, seen)
                    for wish in asking:
                        if begins <= wish.at < ends:
                            group.start_soon(wished, one, wish, seen)
                    for at, seconds in pausing:
                        if begins <= at < ends:
                            group.start_soon(paused, one, at, seconds, seen)
                    if ends < math.inf:
                        await anyio.sleep_forever()
            seen.paused = [(begin, min(end, ends)) for begin, end in seen.paused]
            log.record(one.take_unrecorded())
            begins = ends
        return seen

    seen = run_jumping(main)

    if seen.given_at:
        assert most_in_a_window(seen.given_at, window_s) <= count
    assert not [
        (at, begin, end) for at in seen.given_at for begin, end in seen.paused if begin < at < end
    ]
    served = {wish for _, what, wish in seen.events if what == "given"}
    assert served >= {wish for wish in asking if wish.patience_s is None}


def watched(
    asking: Sequence[Wish], pausing: Iterable[tuple[float, float | None]], count: int, window_s: int
) -> Seen:
    """What comes of a schedule in a single run."""

    async def main() -> Seen:
        seen, one = Seen(), limiter(count, window_s)
        async with anyio.create_task_group() as group:
            for wish in asking:
                group.start_soon(wished, one, wish, seen)
            for at, seconds in pausing:
                group.start_soon(paused, one, at, seconds, seen)
        return seen

    return run_jumping(main)


@settings(max_examples=300)
@given(wishes, pauses, counts, windows_s)
def test_kinds_take_turns(
    asking: list[Wish], pausing: list[tuple[float, float | None]], count: int, window_s: int
) -> None:
    """No kind waits for more than two permits of the others; in a kind the first is the first."""
    lines: dict[str, list[Wish]] = {"upload": [], "submit": [], "look": []}
    others = Counter[str]()
    for _, what, wish in watched(asking, pausing, count, window_s).events:
        mine = lines[wish.queue]
        if what == "asks":
            mine.append(wish)
            continue
        if what == "given":
            assert mine[0] is wish
            others[wish.queue] = 0
            others.update(queue for queue, line in lines.items() if line and queue != wish.queue)
        mine.remove(wish)
        if not mine:
            others[wish.queue] = 0
        assert max(others.values(), default=0) <= 2


@settings(max_examples=300)
@given(wishes, pauses, counts, windows_s)
def test_nobody_waits_while_there_is_room(
    asking: list[Wish], pausing: list[tuple[float, float | None]], count: int, window_s: int
) -> None:
    """A permit is lost neither to who goes away nor to whose turn it is: room is used at once."""
    told = [(at, seconds or 1) for at, seconds in pausing]
    seen = watched(asking, told, count, window_s)
    asked = {wish: at for at, what, wish in seen.events if what == "asks"}
    instants = {at for at, _, _ in seen.events} | {end for _, end in seen.paused}
    instants |= {at + window_s for at in seen.given_at}
    for ends, _, wish in seen.events:
        for at in instants:
            if asked[wish] <= at < ends:  # it waits still, when all of this instant is done
                is_full = sum(at - window_s < each <= at for each in seen.given_at) >= count
                assert is_full or any(begin <= at < end for begin, end in seen.paused)


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


@pytest.mark.parametrize("seconds", [None, 0.0, 0.99, -5.0, -math.inf, math.nan])
def test_a_pause_of_unknown_length_is_1_s(seconds: float | None) -> None:
    """A 429 that says nothing, or less than a second, holds everything back for a second."""

    async def main() -> float:
        one = limiter(5, 10)
        one.pause(seconds)
        await one.permit("get")
        return anyio.current_time()

    assert run_jumping(main) == 1


def answered(answers: str, *, count: int = 1000) -> list[float]:
    """
    When requests are sent that wait for each other, and when the next one would be.

    Each letter is one that is refused (`r`) or taken (`t`) at once, each space a minute.
    """

    async def main() -> list[float]:
        one, times = limiter(count, 10), []
        for answer in answers:
            if answer == " ":
                await anyio.sleep(60)
                continue
            times.append(await one.permit("get"))
            if answer == "r":
                one.pause(0.0, "get", times[-1])
            else:
                one.took("get", times[-1])
        return [*times, await one.permit("get")]

    return run_jumping(main)


@pytest.mark.parametrize(
    ("answers", "times"),
    [
        ("rrrrrrrrrr", [0, 1, 3, 7, 15, 31, 63, 127, 255, 495, 735]),  # and no more than 240
        ("rrrtr", [0, 1, 3, 7, 7, 9]),  # half as long as the last, since one was taken after that
        ("rtrtrt", [0, 1, 1, 2, 2, 3, 3]),
        ("rrrt r", [0, 1, 3, 7, 67, 68]),
        ("rrr r", [0, 1, 3, 63, 71]),  # no minute since the pause was over
    ],
)
def test_pauses_of_unknown_length_double(answers: str, times: list[float]) -> None:
    """1, 2, 4 ... 240 s as long as nothing is taken after them; a minute of peace ends that."""
    assert answered(answers) == times


def test_refusals_from_before_a_pause_double_nothing() -> None:
    """What was sent before it adds nothing in the pause, and repeats it when that is over."""

    async def main() -> list[float]:
        one, times = limiter(50, 10), []
        sent = [await one.permit("get") for _ in range(12)]
        for at in sent[:10]:
            one.pause(None, "get", at)
            await anyio.sleep(0.05)
        times.append(await one.permit("get"))
        await anyio.sleep(4)
        for at in sent[10:]:
            one.pause(None, "get", at)
        times.append(await one.permit("get"))
        return times

    assert run_jumping(main) == [1, 6]


@given(st.integers(0, 2**32), st.integers(1, 16))
@settings(max_examples=30)
def test_stray_refusals_stop_nothing_for_long(seed: int, at_once: int) -> None:
    """One answer in twenty is a 429 without a reason: no pause is long, and work goes on."""
    chance = random.Random(seed)

    async def main() -> tuple[float, float]:
        one, left, longest = limiter(10_000, 10), 2000, 0.0

        async def work() -> None:
            nonlocal left, longest
            while left > 0:
                left -= 1
                asked_at = anyio.current_time()
                at = await one.permit("get")
                longest = max(longest, at - asked_at)
                await anyio.sleep(0.2)
                if chance.random() < 0.05:
                    one.pause(0.0, "get", at)
                else:
                    one.took("get", at)

        async with anyio.create_task_group() as group:
            for _ in range(at_once):
                group.start_soon(work)
        return anyio.current_time(), longest

    took_s, longest_s = run_jumping(main)

    assert longest_s <= 16
    assert took_s <= 2000 / at_once * 0.2 + 2000 * 0.05 * 1.5 + 20


@pytest.mark.parametrize("seconds", [None, 1.0, 60.0])
@pytest.mark.parametrize("others", [[], ["get", "list"]])
def test_a_service_that_takes_nothing_of_a_kind_ends_the_run(
    seconds: float | None, others: list[str]
) -> None:
    """After ten minutes in which every upload got a 429 the run ends, though looks are taken."""

    async def main() -> float:
        one = limiter(1000, 10)

        async def go_on() -> None:
            while True:
                one.pause(seconds, "upload", await one.permit("upload"))
                for other in others:
                    one.took(other, await one.permit(other))

        with pytest.raises(ServiceUnusable, match="refused every upload"):
            await go_on()
        return anyio.current_time()

    assert LONGEST_PAUSE_S < run_jumping(main) <= LONGEST_PAUSE_S + 241


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
    """Who was waiting already gets the same answer, and no permit, at once."""

    async def main() -> float:
        one = limiter(50, 300, ramp=True)
        for _ in range(50):
            await one.permit("submit")
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(ServiceUnusable):
                    await one.permit(kind)

            for _ in range(3):
                group.start_soon(wait)
            await anyio.sleep(1)
            one.pause(601)
        return anyio.current_time()

    assert run_jumping(main) == 1


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


@given(arrivals, st.integers(1, 50), st.integers(1, 30))
def test_a_submit_counts_for_the_ramp_when_it_leaves(
    asking: list[int], count: int, window_s: int
) -> None:
    """Whatever the budget holds back, no 15 s of the ramp have more submits than they may."""

    async def main() -> Asked:
        asked = Asked(limiter(count, window_s, ramp=True))
        async with anyio.create_task_group() as group:
            for number, at in enumerate(asking * 4):
                group.start_soon(asked.ask, number, at, "submit")
        return asked

    asked = run_jumping(main)
    began = asked.times[0]

    assert len(asked.times) == 4 * len(asking)
    for window, left in Counter(int((at - began) // 15) for at in asked.times).items():
        assert left <= int(50 * 1.08**window)


@pytest.mark.parametrize("restart_at", [1.0, 14.0, 16.0, 44.0, 46.0, 200.0])
def test_the_ramp_goes_on_over_a_restart(restart_at: float) -> None:
    """A run that is told of the submits of the last minutes goes on from where they came to."""

    async def main() -> list[float]:
        first = Asked(limiter(10_000, 300, ramp=True))
        with anyio.move_on_after(restart_at):
            async with anyio.create_task_group() as group:
                for number in range(250):
                    group.start_soon(first.ask, number, 0.0, "submit")
                await anyio.sleep_forever()
        ages = [anyio.current_time() - at for at in first.times]
        again = Limiter(10_000, 300, ramp=True, clock=anyio.current_time)
        again.remember((), ages)
        second = Asked(again)
        async with anyio.create_task_group() as group:
            for number in range(250 - len(ages)):
                group.start_soon(second.ask, number, 0.0, "submit")
        return first.times + second.times

    assert Counter(run_jumping(main)) == {0: 50, 15: 54, 30: 58, 45: 62, 60: 26}


def test_what_others_sent_is_counted_when_it_is_told() -> None:
    """A budget that has begun takes in what another job knows of the last window."""

    async def main() -> list[float]:
        asked = Asked(limiter(3, 10))
        await asked.ask(0, 4.0)
        asked.limiter.remember([3.0, 9.0, 20.0])
        await asked.ask(1)
        await asked.ask(2)
        return asked.times

    assert run_jumping(main) == [4.0, 5.0, 11.0]


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
