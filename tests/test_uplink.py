"""The line of all uploads: as many at once as help, never above a limit, on lines that are none."""

import random
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

import anyio
import pytest

from pipeline.errors import ConnectionLost, PipelineError, RateLimited, RecordingChanged
from pipeline.settings import Timetable
from pipeline.uplink import Climber, Uplink
from tests.support.clock import run_jumping

Line = Callable[[int], float]


def limited(at_once: int) -> float:
    """A line that three uploads fill."""
    return min(at_once * 4.0, 12.0)


def far(at_once: int) -> float:
    """A service that is far away: each upload mostly waits for its answer."""
    return 10.0 * at_once


def weak(at_once: int) -> float:
    """A line, or a machine, that is worse with each upload above four."""
    return 5.0 * at_once if at_once <= 4 else 80.0 / at_once


def climbed(line: Line, windows: int, noise: float = 0.0, seed: int = 0) -> list[int]:
    """How many uploads there were in each window."""
    climber, luck, history = Climber(1, 16), random.Random(seed), []
    for _ in range(windows):
        history.append(climber.at_once)
        climber.measured(line(climber.at_once) * luck.uniform(1 - noise, 1 + noise))
    return history


# --- how many at once ----------------------------------------------------------------------------


def test_more_while_they_help() -> None:
    """Where each upload brings as much as the first, all that are allowed are there at once."""
    history = climbed(far, 100)

    assert history[:4] == [8, 12, 16, 16]
    assert sum(each == 16 for each in history) >= 85


def test_no_more_than_fill_the_line() -> None:
    """Of a line that three fill, three are kept."""
    history = climbed(limited, 100)

    assert max(history) == 12
    assert sum(each == 3 for each in history[30:]) >= 55
    assert set(history[30:]) <= {2, 3, 4}


def test_fewer_where_more_are_worse() -> None:
    """A line that gives way under many is left with about as many as it bears."""
    history = climbed(weak, 100)

    assert set(history[40:]) <= {2, 3, 4, 5, 6, 7}
    assert sum(map(weak, history[40:])) >= 0.85 * 60 * weak(4)


@pytest.mark.parametrize("line", [limited, far, weak])
@pytest.mark.parametrize("seed", range(5))
def test_noise_costs_little(line: Line, seed: int) -> None:
    """With measurements a tenth off either way, most of what the line can do is still done."""
    history = climbed(line, 400, noise=0.1, seed=seed)
    best = max(line(at_once) for at_once in range(1, 17))

    assert sum(map(line, history)) >= 0.8 * best * len(history)


def test_pushed_back_means_half() -> None:
    """A refusal halves them at once, to the least at the most; later more are tried again."""
    climber = Climber(3, 16)
    climber.measured(far(8))
    assert climber.at_once == 12

    climber.pushed_back()
    assert climber.at_once == 6
    climber.pushed_back()
    climber.pushed_back()
    assert climber.at_once == 3

    for _ in range(20):
        climber.measured(far(climber.at_once))
    assert climber.at_once > 6


@pytest.mark.parametrize(("least", "most"), [(1, 1), (3, 3), (16, 16), (2, 5)])
def test_within_what_is_allowed(least: int, most: int) -> None:
    """Whatever is measured, there are never fewer than the least or more than the most."""
    climber, luck = Climber(least, most), random.Random(1)
    for _ in range(500):
        assert least <= climber.at_once <= most
        if luck.random() < 0.1:
            climber.pushed_back()
        else:
            climber.measured(luck.uniform(0.0, 100.0))


# --- the line ------------------------------------------------------------------------------------


async def upload_on(uplink: Uplink, line: Line, stop_s: float, left: list[int]) -> None:
    """Uploads of 100 KB on such a line, each as long as it takes with as many beside it."""
    while anyio.current_time() < stop_s and left[0] > 0:
        async with uplink.places:
            left[0] -= 1
            with uplink.attempt():
                await uplink.turn(100_000)
                at_once = uplink.places.borrowed_tokens
                await anyio.sleep(at_once / line(int(at_once)))


def at_the_end(line: Line, stop_s: float = 120.0, workers: int = 16) -> float:
    """How many uploads a line is given after some time of work."""

    async def run() -> float:
        uplink = Uplink(1, 16)
        left = [10**9]
        async with anyio.create_task_group() as group:
            for _ in range(workers):
                group.start_soon(upload_on, uplink, line, stop_s, left)
        return uplink.places.total_tokens

    return run_jumping(run)


def test_a_line_finds_its_uploads() -> None:
    """Measured by itself, a far service gets all uploads, a narrow line as few as fill it."""
    assert at_the_end(far) >= 10
    assert at_the_end(limited) <= 6


def test_idle_uploads_prove_nothing() -> None:
    """While there is not enough to upload, nothing is learned from how little moves."""
    assert at_the_end(limited, workers=2) == 8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RateLimited("upload: 429", retry_after_s=None), 4),
        (ConnectionLost("upload: reset"), 4),
        (RecordingChanged("it became shorter"), 8),
    ],
)
def test_a_refusal_that_passes_halves_them_once(error: PipelineError, expected: int) -> None:
    """All that are refused together count once; a recording that is bad by itself does not."""

    async def run() -> float:
        uplink = Uplink(1, 16)
        for _ in range(8):
            with suppress(PipelineError), uplink.attempt():
                raise error
        return uplink.places.total_tokens

    assert expected == run_jumping(run)


# --- a limit -------------------------------------------------------------------------------------


def sent_s(size: int, timetable: str, hour: datetime, uploads: int = 3) -> float:
    """How long some uploads of this size take together when only the limit holds them."""

    async def run() -> float:
        def now() -> datetime:
            return hour + timedelta(seconds=anyio.current_time())

        uplink = Uplink(timetable=Timetable.parse(timetable), now=now)

        async def upload() -> None:
            left = size
            while left:
                left -= await uplink.turn(min(left, 512 * 1024))

        async with anyio.create_task_group() as group:
            for _ in range(uploads):
                group.start_soon(upload)
        return anyio.current_time()

    return run_jumping(run)


NOON = datetime(2026, 11, 26, 12)


def test_a_limit_is_for_all_uploads_together() -> None:
    """Three uploads take as long as one of their size would, whatever their chunks are."""
    assert sent_s(1_000_000, "100k", NOON) == pytest.approx(30.0, abs=0.6)
    assert sent_s(1_000_000, "50M", NOON) == pytest.approx(0.06, abs=0.6)
    assert sent_s(10_000, "1k", NOON) == pytest.approx(30.0, abs=0.6)
    assert sent_s(1_000_000, "off", NOON) == 0.0


def test_a_limit_that_changes_counts_at_once() -> None:
    """In the midst of an upload another limit is kept from the minute on in which it begins."""
    a_minute_before = NOON - timedelta(minutes=1)

    opened = sent_s(5_000_000, "00:00,50k 12:00,off", a_minute_before, uploads=1)
    assert opened == pytest.approx(60.0, abs=0.6)
    narrowed = sent_s(7_000_000, "00:00,100k 12:00,10k", a_minute_before, uploads=1)
    assert narrowed == pytest.approx(60.0 + 100.0, abs=5.0)  # half a second of the first


def test_a_clock_that_jumps_neither_stops_nor_opens_the_line() -> None:
    """After the clock went an hour ahead the limit holds as before: there is no credit for it."""

    async def run() -> list[float]:
        uplink = Uplink(timetable=Timetable.parse("10k"))
        took_s = []
        for _ in range(2):
            began = anyio.current_time()
            sent = 0
            while sent < 100_000:
                sent += await uplink.turn(100_000)
            took_s.append(anyio.current_time() - began)
            await anyio.sleep(3600.0)
        return took_s

    assert run_jumping(run) == pytest.approx([10.0, 10.0], abs=0.6)
