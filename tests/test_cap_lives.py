"""
Random lives of an archive: once a cap is in force, the service's books never come to more than it.

A life is some nights over two months, with caps and without. Recordings come, are copied, grow
between the scan and their upload, fail, or do not tell their length. Answers are lost, refused or
odd, prices are missing for a while, runs are given up or killed at any instant, and what they left
is found by others. After each night the books of the service, which knows how long everything is,
have to agree: what the month asked for is no more than its cap, or than it was before the night,
and what the night asked for is no more than the cap of a run.

`pytest -n0 tests/test_cap_lives.py --long` lives two thousand lives; a failure names its seed.
"""

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from pipeline.durations import duration_of
from tests.support.clock import MovableLoop, advance
from tests.support.machine import Machine, Point, machine
from tests.support.nights import PRICES, ZONE, Nights, nights, sound
from tests.support.service import Fault
from tests.support.service_account import Transcript

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(7200)]

LONG_LIVES = 2000
SPEED = 8.0
"""Seconds of the program in one, where nothing of it is killed."""
FOR_S = 10.0
"""How long lives are lived where it is not for long."""
LONGEST_S = 1800
AMR_BYTES_PER_S = 600
TOO_SHORT = "ERROR:Audio duration is too short.\n"
MODELS = ({}, {"speech_models": ["universal-2"]}, {"punctuate": False}, {"multichannel": True})

_LONGEST_NIGHT_S = 80.0
"""Of the time that `hurry` moves."""

LOST = ("drop_before", "drop_after", "close_before", "truncate", "garbage")
STEPS = (
    *("request submit", "answer submit", "commit", "journal", "answer upload", "answer get"),
    *("request list", "rename"),
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


def recording(number: Callable[[int, int], int], seed: str) -> tuple[str, bytes]:
    """A suffix, and bytes that take some minutes; of AMR only the service knows how many."""
    seconds = number(1, LONGEST_S)
    match number(0, 5):
        case 0:
            return "wav", TOO_SHORT.encode() + seed.encode()
        case 1 | 2:
            told = f"SECONDS:{seconds}\n{seed}\n".encode()
            return "amr", told.ljust(AMR_BYTES_PER_S * seconds, b"-")
        case _:
            return "wav", sound(seconds, seed)


@dataclass
class Life:
    """One archive, from its first night on."""

    archive: Nights
    machine: Machine
    drawn: random.Random
    told: list[str] = field(default_factory=list)
    """What was done, for whoever has to find out why it went wrong."""
    months: list[int] = field(default_factory=list)
    """Of each transcript that the service has accepted, in its order: the month that asked."""
    asking: int = 0
    """The month of the last night; what a dead process has sent arrives a moment after it."""

    def number(self, least: int, most: int) -> int:
        return self.drawn.randint(least, most)

    def chance(self, of: int) -> bool:
        """Once in so many times."""
        return self.number(1, of) == 1

    async def live(self) -> None:
        """Some nights, and the books after each."""
        turn = _turn_of_the_month()
        await to_thread.run_sync(self._arrive, 6)
        for path in sorted(self.archive.recordings.rglob("*.*")):  # the other process is at hand
            await duration_of(os.fsencode(path), 0)
        begins = turn - timedelta(hours=8)
        for night in range(self.number(3, 5)):
            if begins < turn and self.chance(4):
                begins = turn
            begins += timedelta(minutes=20)
            given = self._settings()
            month = int(begins >= turn)
            before = self._books(month)
            self.asking = month
            await self._night(night, begins, given)
            self._require(month, before, given)
            self._finish()
            self.archive.service.faults.clear()
            await to_thread.run_sync(self._arrive, self.number(2, 4))

    # --- what comes ------------------------------------------------------------------------------

    def _arrive(self, count: int) -> None:
        """New recordings, copies, and other bytes for what is there."""
        for _ in range(count):
            suffix, content = recording(self.number, f"{self.drawn.random()}")
            there = sorted(self.archive.recordings.rglob(f"*.{suffix}"))
            if there and self.chance(5):
                content = self.drawn.choice(there).read_bytes()
            name = f"{self.number(0, 30):02}.{suffix}"
            self.archive.put(name, content, datetime.now(ZONE) - timedelta(hours=1))

    async def _grow(self) -> None:
        """Once an upload is on its way: what was scanned before is longer when it is opened."""
        service = self.archive.service
        service.faults.add(Fault(on="upload", action="hold_before"))
        await service.held("upload")
        await to_thread.run_sync(self._lengthen)
        service.release()

    def _lengthen(self) -> None:
        for path in self.archive.recordings.rglob("*.*"):
            if self.chance(2):
                seed, seconds = f"{self.drawn.random()}", self.number(LONGEST_S // 2, LONGEST_S)
                told = f"SECONDS:{seconds}\n{seed}\n".encode()
                content = (
                    sound(seconds, seed)
                    if path.suffix == ".wav"
                    else told.ljust(AMR_BYTES_PER_S * seconds, b"-")
                )
                path.write_bytes(content)
                os.utime(path, (time.time() - 3600, time.time() - 3600))

    # --- what happens ----------------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """What is said of one night."""
        given: dict[str, Any] = {
            "uploads": self.number(1, 4),
            "concurrency": self.number(1, 8),
            "transcript": self.drawn.choice(MODELS),
            "settle": self.drawn.choice((*["1s"] * 7, "never")),
            "force": self.chance(6),
            "redo_changed": self.chance(3),
        }
        hours = {name: self.number(1, 40) / 20 for name in ("max_hours", "max_hours_month")}
        costs = {name: self.number(1, 40) / 100 for name in ("max_cost", "max_cost_month")}
        if self.chance(2):
            given |= {name: cap for name, cap in (hours | costs).items() if self.chance(2)}
        return given

    def _trouble(self, *, is_real: bool) -> None:
        """What goes wrong with some requests of a night, a real one of which takes its time."""
        faults = self.archive.service.faults
        for _ in range(self.number(0, 3)):
            skip, times = self.number(0, 4), self.number(1, 3)
            match self.number(0, 5):
                case 0 | 1 | 2:
                    action = self.drawn.choice(LOST)
                    faults.add(Fault(on="submit", action=action, skip=skip, times=times))
                case 3:
                    status = self.drawn.choice((400, 408, 429, 500, 503))
                    faults.add(Fault(on="submit", action="answer", status=status, skip=skip))
                case 4:
                    faults.add(
                        Fault(
                            on="list", action="list_down", skip=skip, times=2 if is_real else None
                        )
                    )
                case 5:
                    odd = self.drawn.choice((None, -1, 1e12))
                    patch = {"audio_duration": odd}
                    faults.add(Fault(on="get", action="patch", patch=patch, times=times))

    async def _night(self, night: int, begins: datetime, given: dict[str, Any]) -> None:
        """A night in this loop or in a process of its own, to its end or to any instant."""
        how = self.number(0, 3)  # only what is given up need not wait for all
        self._trouble(is_real=how == 0)
        self.archive.service.transcript_seconds = 1e9 if how == 1 else 0.0
        point = Point(
            self.drawn.choice(STEPS), self.number(1, 6), self.drawn.choice(("before", "after"))
        )
        requests = self.archive.service.requests.total() + self.number(1, 60)
        grows = self.chance(2)
        self.told.append(f"night {night}, {begins}: {given}, {how=} {point=} {grows=}")
        beside = [*([self._grow] if grows else ()), *([hurry] if how else ())]
        with anyio.move_on_after(_LONGEST_NIGHT_S):  # what takes longer is given up
            async with _beside(*beside):
                await self._run(how, begins, point, requests, given)
        self.archive.service.release()

    async def _run(
        self, how: int, begins: datetime, point: Point, requests: int, given: dict[str, Any]
    ) -> None:
        match how:
            case 0:
                given |= {"settle": "1s"}
                ended = await self.archive.process(self.machine, begins, die=point, **given)
                self.told.append(f"exit code {ended.exit_code}: {ended.stderr[-300:]}")
            case 1:
                service = self.archive.service
                async with _beside(partial(self.archive.night, begins, **given)):
                    with anyio.move_on_after(20):
                        await service.until(lambda: service.requests.total() >= requests)
            case _:
                ran = await self.archive.night(begins, **given)
                self.told.append(f"exit code {ran.code}: {ran.line}")

    def _finish(self) -> None:
        """What is at the service completes, or fails."""
        for transcript in self._asked():
            self.archive.service.complete(transcript.id)

    # --- the books -------------------------------------------------------------------------------

    def _asked(self) -> list[Transcript]:
        return list(self.archive.service)

    def _books(self, month: int, since: int = 0) -> tuple[float, float]:
        """Hours and USD of a month that the service bills or may bill, from one transcript on."""
        asked = self._asked()
        self.months += [self.asking] * (len(asked) - len(self.months))
        both = list(zip(asked, self.months, strict=True))[since:]
        billed = [t for t, asked_in in both if asked_in == month and t.status != "error"]
        return sum(t.audio_duration for t in billed) / 3600, sum(map(_usd, billed))

    def _require(self, month: int, before: tuple[float, float], given: dict[str, Any]) -> None:
        of_month = self._books(month)
        self.told.append(
            f"{len(self.months)} transcripts, the month comes to {of_month}, {before=}"
        )
        caps = given.get("max_hours_month"), given.get("max_cost_month")
        for is_now, was, cap in zip(of_month, before, caps, strict=True):
            assert cap is None or is_now <= max(cap, was) + 1e-9, "\n".join(self.told)
        of_run = [now - was for now, was in zip(of_month, before, strict=True)]
        for is_now, cap in zip(
            of_run, (given.get("max_hours"), given.get("max_cost")), strict=True
        ):
            assert cap is None or is_now <= cap + 1e-9, "\n".join(self.told)


def _turn_of_the_month() -> datetime:
    """When the next month begins, by the clock of the nights."""
    now = datetime.now(ZONE)
    return datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=ZONE)


def _usd(transcript: Transcript) -> float:
    model = transcript.options["speech_models"][0]
    return PRICES[model] * transcript.audio_duration / 3600


async def hurry() -> None:
    """What the program waits for takes less time."""
    while True:
        await anyio.sleep(0.05)
        await advance(0.05 * (SPEED - 1))


@asynccontextmanager
async def _beside(*calls: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Calls that go on beside a block, and are given up when it is over."""
    async with anyio.create_task_group() as group:
        for call in calls:
            group.start_soon(call)
        yield
        group.cancel_scope.cancel()


async def lived(folder: Path, machine: Machine, seed: int) -> Life:
    """A whole life."""
    recordings = folder / "recordings"
    recordings.mkdir(parents=True)
    source = {"folder": str(recordings)}
    async with nights(folder, source=[source], window="", hooks={}) as archive:
        archive.usual.pop("window")
        life = Life(archive, machine, random.Random(seed))
        await life.live()
        return life


@pytest.mark.parametrize("half", [0, 1])  # a worker lives one while another lives the other
async def test_no_life_goes_over_a_cap(
    tmp_path: Path, pytestconfig: pytest.Config, half: int
) -> None:
    """Whatever happens in whatever order: the books stay within the caps, or where they were."""
    is_long = bool(pytestconfig.getoption("--long"))
    first = 0 if is_long else random.randrange(1_000_000)
    until = time.monotonic() + FOR_S
    async with machine() as started:
        for number in range(LONG_LIVES // 2):
            seed = first + 2 * number + half
            try:
                await lived(tmp_path / f"{seed}", started, seed)
            except BaseException as error:
                error.add_note(f"the life of seed {seed}")
                raise
            if not is_long and time.monotonic() > until:
                break
