"""Guard: a window that closes and a disk that fills end the intake, and nothing paid is lost."""

import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from zoneinfo import ZoneInfo

import anyio
import pytest

from jobs.transcribe import Source, transcribe
from pipeline.errors import ExitCode
from pipeline.events import Event, Parked, Submitted
from pipeline.settings import Settings
from pipeline.stages.scan import find_roots
from tests.support.clock import MovableLoop, advance
from tests.support.runs import Archive, Outcome, opened

pytestmark = pytest.mark.anyio

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = {"window": "22:00-06:00", "time_zone": "Europe/Berlin"}
OPENED_AT = 1773262800.0
"""22:00 in Berlin, on 11 March 2026."""
LENGTH_S = 8 * 3600.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time a test moves."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


class Wall:
    """A clock on a wall, which goes on by itself and can be set."""

    def __init__(self, now: float) -> None:
        self.set(now)

    def set(self, now: float) -> None:
        self._ahead_s = now - time.time()

    def __call__(self) -> float:
        return time.time() + self._ahead_s


async def ran(archive: Archive, settings: Settings, clock: Wall) -> Outcome:
    events: list[Event] = []
    roots = await anyio.to_thread.run_sync(find_roots, [str(archive.recordings)])
    sources = [Source("calls", roots, settings)]
    summary = await transcribe(settings, sources, emit=events.append, clock=clock)
    return Outcome(summary, events)


async def test_outside_of_its_window_a_run_sends_nothing(archive: Archive) -> None:
    """Before a window opens nothing is asked, and the exit code says why."""
    archive.add("a.wav", b"one")

    outcome = await ran(archive, archive.settings(**NIGHT), Wall(OPENED_AT - 60))

    assert archive.service.requests == {}
    assert outcome.summary.exit_code == ExitCode.WINDOW_CLOSED
    assert outcome.summary.reasons["parked"] == {"outside of the window 22:00-06:00": 1}


async def test_with_nothing_to_do_a_window_is_of_no_account(archive: Archive) -> None:
    """A run that has nothing left is done, whatever time it is."""
    archive.add("a.wav", b"one")
    await ran(archive, archive.settings(**NIGHT), Wall(OPENED_AT))

    outcome = await ran(archive, archive.settings(**NIGHT), Wall(OPENED_AT - 60))

    assert outcome.summary.already_written == 1
    assert outcome.summary.exit_code == ExitCode.DONE


async def test_what_could_not_finish_is_not_asked_for(archive: Archive) -> None:
    """Close to the end of a window nothing is begun: the service would need longer than is left."""
    archive.add("a.wav", b"one")

    outcome = await ran(archive, archive.settings(**NIGHT), Wall(OPENED_AT + LENGTH_S - 40))

    assert archive.service.accepted(b"one") == []
    assert outcome.summary.exit_code == ExitCode.WINDOW_CLOSED
    assert outcome.summary.parked == 1


async def test_what_is_pending_when_it_closes_is_collected_the_next_night(
    archive: Archive,
) -> None:
    """At the end of its window a run leaves what the service has, and the next one fetches it."""
    archive.add("a.wav", b"TAKES:1000\none")
    archive.service.is_clock_manual = True
    service, wall, outcomes = archive.service, Wall(OPENED_AT + 60), list[Outcome]()

    async def go() -> None:
        outcomes.append(await ran(archive, archive.settings(**NIGHT), wall))

    def looks() -> int:
        return service.requests["list"] + service.requests["get"]

    async with anyio.create_task_group() as group:
        group.start_soon(go)
        await service.until(lambda: bool(service.accepted(b"TAKES:1000\none")))
        before = looks()
        await service.until(lambda: looks() > before)  # at what the run knows to be accepted
        wall.set(OPENED_AT + LENGTH_S)
        await advance(60)
    (night,) = outcomes
    assert night.of(Submitted)
    assert [event.recording for event in night.of(Parked)] == ["a.wav"]
    assert night.summary.exit_code == ExitCode.WINDOW_CLOSED
    archive.service.advance(86400.0)

    next_night = await ran(archive, archive.settings(**NIGHT), Wall(OPENED_AT + 86400))

    assert next_night.summary.written == 1
    assert len(archive.service.accepted(b"TAKES:1000\none")) == 1
    assert next_night.summary.exit_code == ExitCode.DONE


async def test_a_disk_that_is_full_ends_the_intake(archive: Archive) -> None:
    """With less room than `min_free` nothing is asked for, and the summary says so."""
    archive.add("a.wav", b"one")
    free = (await anyio.to_thread.run_sync(shutil.disk_usage, archive.root)).free

    outcome = await ran(archive, archive.settings(min_free=2 * free), Wall(OPENED_AT))

    assert archive.service.accepted(b"one") == []
    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert outcome.summary.reason is not None
    assert "GB free" in outcome.summary.reason


async def test_a_disk_with_room_is_of_no_account(archive: Archive) -> None:
    """With as much room as is asked for a run goes on as ever."""
    archive.add("a.wav", b"one")

    outcome = await ran(archive, archive.settings(min_free="1k"), Wall(OPENED_AT))

    assert outcome.summary.written == 1
