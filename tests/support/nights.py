"""
Nights on a clock that tests move: in, recordings of several sources; out, what each night came to.

    async with nights(tmp_path) as archive:
        archive.put("calls/a.wav", sound(600, "a"), at("2026-03-03", "18:00"))
        night = await archive.night(at("2026-03-03", "22:30"), max_cost=1.5)
        assert night.code == ExitCode.DONE

A night is a run in the test's own loop, a `MovableLoop`, or the real command in a process of its
own. Both read the same settings file, tell the same listener, and take for theirs the clock that
they are given.
"""

import json
import os
import random
import socket
import time
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as time_of_day
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
from aiohttp import web
from aiohttp.test_utils import TestServer
from anyio import to_thread

from jobs.nightly import NIGHTLY, run_nightly
from pipeline.errors import BatchError
from pipeline.events import Event, Summary
from pipeline.settings import Settings, load_settings
from tests.support.clock import MovableLoop
from tests.support.machine import Ended, Machine, Point
from tests.support.runs import Archive
from tests.support.service import ScriptedService
from tests.support.service_account import Transcript

__all__ = ["PRICES", "ZONE", "Night", "Nights", "Told", "at", "micro_usd", "nights", "sound"]

ZONE = ZoneInfo("Europe/Berlin")

PRICES = {"assemblyai-stt-3-7": 0.36, "universal-3-5-pro": 0.36, "universal-2": 0.18}
"""USD per hour: whole micro-dollars a second, so that sums of them are exact."""

_FLAGS = ("force", "redo_changed")  # what pays again stands in no file
_LONGEST_S = 12 * 3600.0
"""Of the time that tests move; that of the wall is bounded by pytest."""


def at(day: date | str, clock: str) -> datetime:
    """A moment by the clocks of the zone."""
    when = date.fromisoformat(day) if isinstance(day, str) else day
    return datetime.combine(when, time_of_day.fromisoformat(clock), ZONE)


def sound(seconds: int, seed: str, *, rate_hz: int = 16) -> bytes:
    """A WAV that takes as many seconds here as at the service; another one for each seed."""
    written = BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(rate_hz)
        file.writeframes(random.Random(seed).randbytes(rate_hz * seconds))
    return written.getvalue()


def micro_usd(transcript: Transcript, prices: dict[str, float]) -> int:
    """What a transcript costs, in millionths of a dollar, exactly."""
    a_second = prices[transcript.options["speech_models"][0]] * 1e6 / 3600
    assert abs(a_second - round(a_second)) < 1e-9, "no whole number of micro-dollars a second"
    return round(a_second) * transcript.audio_duration


@dataclass(frozen=True)
class Told:
    """What whoever listens to the nights was told."""

    moment: str
    """`start`, `success` or `failure`; of the monitor `beat/start`, `beat` or `beat/fail`."""
    body: bytes


@dataclass
class Night:
    """What one night came to."""

    began: datetime
    prices: dict[str, float]
    code: int | None = None
    """None where it was the real command."""
    summary: Summary | None = None
    """None also where it ended with an error."""
    line: str = ""
    events: list[Event] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    """Of its hooks, in their order."""
    asked: list[Transcript] = field(default_factory=list)
    """What the service accepted meanwhile, in its order."""
    sent: list[str] = field(default_factory=list)
    """The contents that were uploaded meanwhile, in their order."""

    @property
    def moments(self) -> list[str]:
        """What its hooks were told of, without the monitor."""
        return [told.moment for told in self.told if not told.moment.startswith("beat")]


@dataclass
class Nights(Archive):
    """An archive whose folders are sources, and a listener that is told of its nights."""

    usual: dict[str, Any] = field(default_factory=dict)
    """Settings of all nights, as a file spells them."""
    told: list[Told] = field(default_factory=list)

    def put(self, name: str, content: bytes, changed: datetime) -> None:
        """One more recording, or other bytes for one, last changed at that moment."""
        where = self.recordings / name
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_bytes(content)
        os.utime(where, (changed.timestamp(), changed.timestamp()))

    def config(self, **given: Any) -> Path:
        """The settings file, with what is said of one night."""
        path = self.root / "nightly.toml"
        settings = {key: value for key, value in (self.usual | given).items() if key not in _FLAGS}
        path.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in settings.items()))
        return path

    async def told_in(self, **given: Any) -> Settings:
        """The settings of a night, as the command reads them from their file."""
        flags = {key: value for key, value in given.items() if key in _FLAGS}
        load = partial(load_settings, flags, config=self.config(**given), environ={})
        return await to_thread.run_sync(partial(load, defaults=NIGHTLY))

    async def night(
        self,
        began: datetime,
        *,
        meanwhile: Callable[[Night], Awaitable[None]] | None = None,
        folders: Sequence[Path] = (),
        **given: Any,
    ) -> Night:
        """A night in this loop that begins at that moment; `meanwhile` goes on beside it."""
        settings, clock = await self.told_in(**given), _clock(began)
        with self.noted(began, **given) as night, anyio.fail_after(_LONGEST_S):
            async with anyio.create_task_group() as group:
                if meanwhile is not None:
                    group.start_soon(meanwhile, night)
                try:
                    night.summary, night.line = await run_nightly(
                        folders, settings, emit=night.events.append, environ={}, clock=clock
                    )
                    night.code = night.summary.exit_code
                except BatchError as error:
                    night.code, night.line = error.exit_code, str(error)
        return night

    @contextmanager
    def noted(self, began: datetime, **given: Any) -> Iterator[Night]:
        """What happens in the block, as a night."""
        night = Night(began, (self.usual | given)["prices"])
        told, asked, sent = len(self.told), len(list(self.service)), len(self.service.log)
        yield night
        night.told = self.told[told:]
        night.asked = list(self.service)[asked:]
        night.sent = [call.content for call in self.service.log[sent:] if call.kind == "upload"]

    async def process(
        self, machine: Machine, began: datetime, *, die: Point | None = None, **given: Any
    ) -> Ended:
        """The real command, in a process whose clock stands at that moment."""
        config = self.config(**given)
        flags = [f"--{key.replace('_', '-')}" for key in _FLAGS if given.get(key)]
        skew_s = began.timestamp() - time.time()
        return await machine.run(
            *("nightly", "--config", config, *flags),
            environ={},
            cwd=self.root,
            die=die,
            skew_s=skew_s,
        )

    @asynccontextmanager
    async def unreachable(self) -> AsyncIterator[None]:
        """Nothing listens at the service's address."""
        await self.service.__aexit__(None, None, None)
        with socket.socket() as held:  # so that nobody else gets that port
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((self.service.host, self.service.port))
            yield
        await self.service.__aenter__()


@asynccontextmanager
async def nights(root: Path, **settings: Any) -> AsyncIterator[Nights]:
    """An archive without recordings, its account and its listener; settings are those of nights."""
    async with ScriptedService() as service:
        archive = Nights(root, service)

        async def listen(request: web.Request) -> web.Response:
            archive.told.append(Told(request.path.strip("/"), await request.read()))
            return web.Response()

        app = web.Application()
        app.router.add_route("*", "/{moment:.*}", listen)
        async with TestServer(app) as server:
            url = str(server.make_url("")).rstrip("/")
            key = root / "key"
            key.touch(mode=0o600)
            key.write_text(service.key)
            key.chmod(0o600)
            archive.usual = {
                "output": archive.output,
                "provider": service.url,
                "api_key_file": key,
                "poll_interval": "20ms",
                "settle": "500ms",
                "transcript_patience": "12h",  # of nights that end before the service does
                "time_zone": ZONE.key,
                "window": "22:00-06:00",
                "min_free": 0,
                "prices": PRICES,
                "hooks": {
                    **{f"on_{moment}": f"{url}/{moment}" for moment in _MOMENTS},
                    "heartbeat": f"{url}/beat",
                },
            } | settings
            yield archive


_MOMENTS = ("start", "success", "failure")


def _clock(began: datetime) -> Callable[[], float]:
    """What is that moment now, and goes on with the loop that the test moves."""
    loop = MovableLoop.running()
    ahead_s = began.timestamp() - loop.time()
    return lambda: loop.time() + ahead_s


def _toml(value: object) -> str:
    """A value of TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, default=str)
