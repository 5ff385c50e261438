"""A recording never gets the transcript of other bytes, whoever puts an older result back."""

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from jobs.planning import plan
from jobs.reprocess import RolledBack, finish, reprocess, roll_back
from jobs.session import session
from pipeline.errors import ExitCode
from pipeline.events import Event, Warned
from pipeline.ledger.archive import Selection
from tests.jobs.test_standing import ONE, OTHER, TWO
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

UNSETTLED = "SELECT 1 FROM versions WHERE promote IS NOT NULL"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b/b.wav", TWO)
        yield archive


async def taken_back(archive: Archive, run_id: str) -> tuple[RolledBack, list[str]]:
    """A run rolled back, and what was told."""
    told: list[Event] = []
    done = await roll_back(archive.settings(), run_id, emit=told.append)
    return done, named(told)


def named(told: list[Event]) -> list[str]:
    """The recordings that are warned of."""
    said = [each.message for each in told if isinstance(each, Warned)]
    return [each.partition(":")[0].removeprefix("recordings/") for each in said]


def other(path: Path) -> None:
    path.write_bytes(b"something else")


def as_long(path: Path) -> None:
    path.write_bytes(bytes(reversed(path.read_bytes())))


def in_place(path: Path) -> None:
    """Other bytes, and the times put back."""
    times = path.stat()
    as_long(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replaced(path: Path) -> None:
    """Another file of the same size under the name."""
    fresh = path.with_name("fresh")
    fresh.write_bytes(bytes(reversed(path.read_bytes())))
    fresh.rename(path)


def gone_root(path: Path) -> None:
    path.unlink()
    (path.parent / "b/b.wav").unlink()
    (path.parent / "b").rmdir()
    path.parent.rmdir()


async def test_transcribed_with_other_bytes(archive: Archive) -> None:
    """What a run replaced because the bytes are others is not rolled back: counted, and named."""
    await archive.run()
    archive.add("a.wav", b"something else", age_s=1800.0)
    changed = await archive.run()
    before = archive.results()

    done, told = await taken_back(archive, changed.summary.run_id)

    assert (done.settled.foreign, done.settled.back) == (1, 0)
    assert done.exit_code == ExitCode.PARTIAL
    assert "1 older result of other bytes" in str(done)
    assert told == ["a.wav"]
    assert archive.results() == before
    assert await archive.rows(UNSETTLED) == []
    assert len(archive.versions()) == 1
    assert (await archive.run()).summary.requests == {}


@pytest.mark.parametrize("change", [other, as_long, in_place, replaced])
async def test_changed_since_anybody_looked(
    archive: Archive, change: Callable[[Path], None]
) -> None:
    """Bytes that no run has seen yet count as well, whatever the times say."""
    await archive.run()
    redone = await archive.run(**OTHER, redo_changed=True)
    before = archive.results()
    await to_thread.run_sync(change, archive.recordings / "a.wav")

    done, told = await taken_back(archive, redone.summary.run_id)

    assert (done.settled.foreign, done.settled.back) == (1, 1)
    assert done.exit_code == ExitCode.PARTIAL
    assert told == ["a.wav"]
    assert archive.results()["a.wav.json"] == before["a.wav.json"]
    assert archive.results()["b/b.wav.json"] != before["b/b.wav.json"]


@pytest.mark.parametrize("change", [Path.touch, Path.unlink, gone_root])
async def test_what_is_no_change_of_bytes(archive: Archive, change: Callable[[Path], None]) -> None:
    """New times around the same bytes, and a recording that is gone, are no other bytes."""
    await archive.run()
    before = archive.results()
    redone = await archive.run(**OTHER, redo_changed=True)
    await to_thread.run_sync(change, archive.recordings / "a.wav")

    done, _ = await taken_back(archive, redone.summary.run_id)

    assert (done.settled.foreign, done.settled.back) == (0, 2)
    assert done.exit_code == ExitCode.DONE
    assert archive.results() == before


@pytest.mark.parametrize("promote", ["never", "better"])
async def test_a_reprocess_of_other_bytes(archive: Archive, promote: Any) -> None:
    """The first result of new bytes stays, whatever was said of results of older ones."""
    await archive.run()
    archive.add("a.wav", b"something else", age_s=1800.0)
    archive.service.faults.add(Fault(on="submit", action="answer", status=402, times=None))
    await archive.run()
    archive.service.faults.clear()
    settings = archive.settings(**OTHER)
    made = await to_thread.run_sync(lambda: plan(settings, Selection(), promote=promote))
    told: list[Event] = []

    done = await reprocess(settings, made, promote=promote, emit=told.append)

    (transcript,) = archive.service.accepted(b"something else")
    assert transcript.id.encode() in archive.results()["a.wav.json"]
    assert done.settled.foreign == 1
    assert done.exit_code == ExitCode.PARTIAL
    assert named(told) == ["a.wav"]


async def left_between(archive: Archive) -> None:
    """Results that are to come back, and a run that died before it did that."""
    await archive.run()
    redone = await archive.run(**OTHER, redo_changed=True)
    async with session(archive.settings(), is_offline=True, emit=lambda _: None) as run:
        assert await run.context.ledger.roll_back(redone.summary.run_id) == (2, 0)
    assert len(await archive.rows(UNSETTLED)) == 2


async def test_what_an_earlier_run_has_left(archive: Archive) -> None:
    """A run that finds a trade to be made of other bytes does not make it, and says so once."""
    await left_between(archive)
    other(archive.recordings / "a.wav")

    outcome = await archive.run()
    again = await archive.run()

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert named(outcome.events) == ["a.wav"]
    assert (again.summary.exit_code, named(again.events)) == (ExitCode.DONE, [])
    (transcript,) = archive.service.accepted(b"something else")
    assert transcript.id.encode() in archive.results()["a.wav.json"]


async def test_settled_with_nothing_else_to_do(archive: Archive) -> None:
    """So it is where a reprocess has nothing to do but that."""
    await left_between(archive)
    other(archive.recordings / "a.wav")
    told: list[Event] = []

    code = await finish(archive.settings(), emit=told.append)

    assert code == ExitCode.PARTIAL
    assert named(told) == ["a.wav"]
    assert await archive.rows(UNSETTLED) == []


async def test_bytes_that_are_put_back(archive: Archive) -> None:
    """What was not brought back is, once the recording holds again what it is of."""
    await archive.run()
    before = archive.results()
    redone = await archive.run(**OTHER, redo_changed=True)
    other(archive.recordings / "a.wav")
    await taken_back(archive, redone.summary.run_id)
    archive.add("a.wav", ONE)

    done, _ = await taken_back(archive, redone.summary.run_id)

    assert (done.settled.foreign, done.settled.back) == (0, 1)
    assert archive.results() == before
