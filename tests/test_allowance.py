"""Allowance: what is asked for never comes to more than a cap, also while answers are out."""

import os
import wave
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.allowance import MOST_CHANNELS, Allowance, Amount, amount_of
from pipeline.durations import Duration, by_size, duration_of
from pipeline.errors import CapReached, RecordingTooCostly, SettingsError
from pipeline.settings import Settings
from tests.support.clock import JumpingLoop, run_jumping

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop that raises when everybody waits for somebody else."""
    return "asyncio", {"loop_factory": JumpingLoop}


def hours(number: float, usd: float | None = None) -> Amount:
    return Amount(number * HOUR_S, number if usd is None else usd)


async def test_without_caps_everything_fits() -> None:
    """A run without caps asks for as much as there is."""
    allowance = Allowance(Settings())

    for attempt_id in range(100):
        assert await allowance.reserve(attempt_id, Amount(1e9, None))


async def test_the_first_that_does_not_fit_ends_the_intake() -> None:
    """A recording that is more than what is left of a cap is not asked for, and says of which."""
    allowance = Allowance(Settings(max_hours=2))
    await allowance.reserve(1, hours(1.5))
    allowance.settle(1, 1.5 * HOUR_S, 1.5)

    with pytest.raises(CapReached, match=r"`max_hours` of 2\.00 h is reached: 1\.50 h"):
        await allowance.reserve(2, hours(0.6))
    assert await allowance.reserve(3, hours(0.5))


async def test_one_that_alone_is_too_much_is_left_out() -> None:
    """A recording that is more than a whole cap is no reason to ask for no other."""
    allowance = Allowance(Settings(max_cost=2))

    with pytest.raises(RecordingTooCostly, match=r"alone comes to \$3\.00, more than `max_cost`"):
        await allowance.reserve(1, hours(1, 3))
    assert await allowance.reserve(2, hours(1, 2))


async def test_the_month_counts_what_was_spent_before() -> None:
    """What earlier runs of the month asked for counts against its caps, and not against a run's."""
    allowance = Allowance(Settings(max_cost=3, max_cost_month=4), hours(3))

    assert await allowance.reserve(1, hours(1))
    allowance.settle(1, None, None)
    with pytest.raises(CapReached, match="max_cost_month"):
        await allowance.reserve(2, hours(0.01))


@pytest.mark.parametrize("comes_to", [HOUR_S, None])
async def test_one_that_may_fit_waits_for_those_before(comes_to: float | None) -> None:
    """A reservation that fits only if others come to less, or to nothing, waits for them."""
    allowance, granted = Allowance(Settings(max_hours=2)), []
    await allowance.reserve(1, hours(1.5))

    async def later() -> None:
        granted.append(await allowance.reserve(2, hours(1)))

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        await anyio.wait_all_tasks_blocked()
        assert granted == []
        if comes_to is None:
            allowance.release(1)
        else:
            allowance.settle(1, comes_to, 1)
    assert granted == [True]


async def test_a_cap_is_reached_when_all_before_are_settled() -> None:
    """What is under way is not cut short by one that does not fit, and may come to less."""
    allowance, ended = Allowance(Settings(max_hours=2)), []
    await allowance.reserve(1, hours(1))
    allowance.settle(1, HOUR_S, 1)
    await allowance.reserve(2, hours(0.5))

    async def later() -> None:
        with pytest.raises(CapReached):
            await allowance.reserve(3, hours(1.5))
        ended.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(later)
        await anyio.wait_all_tasks_blocked()
        assert ended == []
        allowance.settle(2, None, None)
    assert ended == [True]


async def test_what_was_not_asked_for_is_given_back() -> None:
    """An attempt that came to nothing leaves its room to the others."""
    allowance = Allowance(Settings(max_hours=1))
    await allowance.reserve(1, hours(1))

    allowance.release(1)

    assert await allowance.reserve(2, hours(1))
    assert allowance.duration_s(1) == 0
    assert allowance.duration_s(2) == HOUR_S


@pytest.mark.parametrize("by_month", [False, True])
@pytest.mark.parametrize(
    ("model", "duration_s", "counted_usd"),
    [
        (None, HOUR_S, 0.15),
        ("universal-2", None, 0.3),
        ("unheard-of", HOUR_S, 0.5),
        ("unheard-of", None, 1.0),
    ],
)
async def test_a_model_without_a_price_counts_as_the_dearest(
    model: str | None, duration_s: float | None, counted_usd: float, by_month: bool
) -> None:
    """What a named model comes to is at its own price or the dearest one; else as expected."""
    cap = {"max_cost_month" if by_month else "max_cost": counted_usd + 1}
    allowance = Allowance(Settings(prices={"dear": 0.5}, **cap))
    await allowance.reserve(1, hours(2, 0.15))
    allowance.settle(1, duration_s, None, model)

    with pytest.raises(CapReached):
        await allowance.reserve(2, hours(1, 1.001))
    assert await allowance.reserve(3, hours(1, 0.999))


async def test_the_backlog_has_a_ration() -> None:
    """The backlog goes on until its ration is reached; what is new does not count against it."""
    allowance = Allowance(Settings(backlog={"hours_per_night": 2}))

    assert await allowance.reserve(1, hours(5))
    assert allowance.takes_backlog
    assert await allowance.reserve(2, hours(1.5), is_backlog=True)
    assert await allowance.reserve(3, hours(1.5), is_backlog=True)
    assert not allowance.takes_backlog
    assert not await allowance.reserve(4, hours(0.1), is_backlog=True)
    assert await allowance.reserve(5, hours(5))


async def test_what_the_service_says_of_a_price_counts() -> None:
    """A transcript that cost less than was expected leaves the rest of its money to others."""
    allowance = Allowance(Settings(max_cost=1))
    await allowance.reserve(1, hours(1, 1.0))
    allowance.settle(1, None, 0.25)

    assert await allowance.reserve(2, hours(1, 0.75))


async def test_a_ration_that_is_just_used_up_is_used_up() -> None:
    """Nothing more of the backlog is taken once it came to its hours exactly."""
    allowance = Allowance(Settings(backlog={"hours_per_night": 2}))

    assert await allowance.reserve(1, hours(2), is_backlog=True)
    assert not allowance.takes_backlog


async def test_what_is_not_enough_is_waited_on() -> None:
    """Who waits for room, and is woken for too little of it, waits for the next change in peace."""
    allowance, granted = Allowance(Settings(max_hours=2)), []
    await allowance.reserve(1, hours(1.5))
    await allowance.reserve(2, hours(0.1))

    async def later() -> None:
        granted.append(await allowance.reserve(3, hours(1)))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(later)
            await anyio.wait_all_tasks_blocked()
            allowance.release(2)
            await anyio.wait_all_tasks_blocked()
            assert granted == []
            allowance.release(1)
    assert granted == [True]


async def test_a_cap_on_cost_needs_a_price() -> None:
    """A recording whose price is not known is not asked for under a cap on cost."""
    with pytest.raises(SettingsError, match="prices"):
        await Allowance(Settings(max_cost=1)).reserve(1, Amount(1, None))


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30)), max_size=30))
def test_no_order_of_answers_goes_over(asked: list[tuple[int, int]]) -> None:
    """Whatever recordings come to, what the service may still bill is never above the cap."""

    async def go() -> None:
        allowance, held = Allowance(Settings(max_cost=1)), dict[int, float]()
        for attempt_id, (cents, less) in enumerate(asked):
            amount = Amount(1.0, cents / 100)
            try:
                with anyio.move_on_after(0.1) as scope:
                    await allowance.reserve(attempt_id, amount)
                if not scope.cancelled_caught:
                    held[attempt_id] = cents / 100
            except CapReached:
                pass
            if less % 2 and attempt_id in held:
                held[attempt_id] = max(0.0, cents - less) / 100
                allowance.settle(attempt_id, 1.0, held[attempt_id])
            assert sum(held.values()) <= 1 + 1e-9

    run_jumping(go)


# --- what a recording is expected to come to -----------------------------------------------------


@pytest.fixture
def stereo(tmp_path: Path) -> bytes:
    """2.5 s on two channels."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as made:
        made.setnchannels(2)
        made.setsampwidth(2)
        made.setframerate(8000)
        made.writeframes(bytes(4 * 8000 * 5 // 2))
    return os.fsencode(tmp_path / "a.wav")


class TestExpected:
    """With files in threads and a process: on a loop with a clock."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.mark.parametrize(
        ("options", "seconds", "price"),
        [
            ({}, 3, 0.21),
            ({"multichannel": True}, 6, 0.21),
            ({"speech_models": ["universal-2"]}, 3, 0.15),
            ({"speech_models": ["universal-2", "universal-3-pro"]}, 3, 0.21),
            ({"speech_models": ["somebody's"]}, 3, None),
            ({"+speech_models": ["universal-2"]}, 3, 0.15),
            ({"+speech_models": "somebody's"}, 3, None),
        ],
    )
    async def test_seconds_are_whole_and_the_dearest_model_counts(
        self, stereo: bytes, options: dict[str, Any], seconds: int, price: float | None
    ) -> None:
        """What is expected is at least what the service bills: up to the second, each channel."""
        duration = await duration_of(stereo, os.stat(stereo).st_size)
        amount = amount_of(duration, options, Settings())

        assert amount.duration_s == seconds
        assert amount.price_usd == (price and pytest.approx(price * seconds / 3600))
        assert amount.is_probed

    async def test_the_engine_costs_nothing(self, stereo: bytes) -> None:
        """On this machine hours count and dollars do not."""
        local = Settings(provider="local")

        assert amount_of(await duration_of(stereo, 0), {}, local).price_usd == 0

    @pytest.mark.parametrize(
        "duration", [by_size(b"a.wma", 80_000), Duration(40, None, is_probed=True)], ids=str
    )
    def test_channels_that_nobody_knows_of_are_many(self, duration: Duration) -> None:
        """Where channels are charged one by one, and nobody knows them, the most that is usual."""
        once, by_channel = (
            amount_of(duration, {"multichannel": each}, Settings()) for each in (False, True)
        )

        assert by_channel.duration_s == MOST_CHANNELS * once.duration_s
        assert (by_channel.is_probed, once.is_probed) == (False, duration.is_probed)
