"""The `overnight` command and real signals: stopped at any moment, it pays nothing twice."""

import fcntl
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from struct import unpack
from termios import FIONREAD

import anyio
import pytest
from anyio.abc import Process

from pipeline.errors import ExitCode
from tests.support.runs import Archive, Ended, opened, recording, until, watched
from tests.support.service import Fault
from tests.support.service_faults import Action, Kind

pytestmark = pytest.mark.anyio

LONGEST_S = 30.0
CODES = {
    SIGINT: ExitCode.INTERRUPTED,
    SIGTERM: ExitCode.TERMINATED,
    SIGHUP: ExitCode.HANGUP,
}
each_signal = pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def fill(archive: Archive, count: int) -> None:
    """So many recordings of as many contents."""
    for number in range(count):
        archive.add(f"{number:02}.wav", b"content %d" % number)


async def heeded(process: Process, number: signal.Signals) -> bytes:
    """Sends a signal, and waits until the program says that it has come, or ends; what it said."""
    process.send_signal(number)
    assert process.stdout is not None
    said = b""
    with suppress(anyio.EndOfStream), anyio.fail_after(LONGEST_S):
        while number.name.encode() not in said:
            said += await process.stdout.receive()
    return said


def finish(archive: Archive) -> None:
    """The service has no trouble any more, and completes all that it has: there is room again."""
    archive.service.faults.clear()
    archive.service.release()
    archive.service.transcript_seconds = 0.05
    for transcript in archive.service:
        archive.service.complete(transcript.id)


async def ends_well(archive: Archive) -> None:
    """The next run has one result of each recording, and each content was paid once."""
    finish(archive)

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.DONE, ended.stderr
    names = {path.name for path in archive.recordings.rglob("*.wav") if path.stat().st_size}
    results = {Path(name).name: body for name, body in archive.results().items()}
    assert results.keys() == {f"{name}.json" for name in names}
    paid = {transcript.id for transcript in archive.service if transcript.is_billed}
    assert {json.loads(body)["id"] for body in results.values()} == paid
    assert set(archive.service.billable.values()) == {1}
    assert not list(archive.output.rglob("*~overnight"))


# --- the first signal ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "kind"),
    [(SIGINT, "submit"), (SIGTERM, "submit"), (SIGTERM, "get"), (SIGINT, None), (SIGHUP, None)],
)
async def test_stopped_at_four_of_thirty(
    archive: Archive, number: signal.Signals, kind: Kind | None
) -> None:
    """Stopped when the service has four of thirty, the other 26 are asked for by the next run."""
    fill(archive, 30)
    if kind is None:
        archive.service.transcript_seconds = 3600.0
    else:
        archive.service.faults.add(Fault(on=kind, action="hold", times=None))
    line = archive.run_line("--json", "--concurrency", "3")  # a quarter more are asked for
    async with archive.started(*line) as process:
        with anyio.fail_after(LONGEST_S):
            if kind is None:
                await archive.service.until(lambda: archive.service.requests["submit"] == 4)
            else:
                await archive.service.held(kind, 4)
        said = await heeded(process, number)
        finish(archive)
        ended = await archive.ended(process)

    summary = json.loads((said + ended.stdout).splitlines()[-1])
    assert ended.exit_code == summary["exit_code"] == CODES[number]
    assert summary["parked"] + summary["written"] == 30
    sent = archive.service.requests["submit"]
    # While finished ones are saved, as many again may be on their way.
    assert sent in (range(4, 9) if kind == "get" else [4])
    assert len(list(archive.service)) == sent
    query = "SELECT count(transcript_id) FROM attempts WHERE state = 'accepted'"
    assert await archive.rows(query) == [(sent,)]

    await ends_well(archive)

    assert archive.service.requests["submit"] == 30


async def test_nohup_goes_on_when_its_terminal_ends(archive: Archive) -> None:
    """A SIGHUP that is ignored at the start stays so: the run comes to its own end."""
    fill(archive, 3)
    archive.service.faults.add(Fault(on="submit", action="hold", times=None))
    ignoring = ("sh", "-c", 'trap "" HUP; exec "$@"', "sh")
    async with archive.started(*archive.run_line("--json"), through=ignoring) as process:
        with anyio.fail_after(LONGEST_S):
            await archive.service.held("submit")
        process.send_signal(SIGHUP)
        finish(archive)
        ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.DONE
    assert ended.summary["written"] == 3


# --- the second ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["upload", "submit", "get", "list"])
async def test_another_signal_leaves_now(archive: Archive, kind: Kind) -> None:
    """Whatever is waited for, the second signal ends it; the exit code is that of the first."""
    fill(archive, 3)
    skip = 1 if kind == "list" else 0
    archive.service.faults.add(Fault(on=kind, action="hold", times=None, skip=skip))
    archive.environ["OVERNIGHT_STOP_GRACE"] = "1h"
    async with archive.started(*archive.run_line("--json")) as process:
        with anyio.fail_after(LONGEST_S):
            await archive.service.held(kind)
        await heeded(process, SIGINT)
        with suppress(ProcessLookupError):  # it may have had nothing more to wait for
            process.send_signal(SIGTERM)
        ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.INTERRUPTED
    assert "Traceback" not in ended.stderr

    await ends_well(archive)


# --- SIGTERM, a grace, SIGKILL ------------------------------------------------------------------

MOMENTS: list[tuple[Kind, Action]] = [
    ("upload", "hold"),
    ("upload", "stall"),
    ("submit", "hold_before"),
    ("submit", "hold"),
    ("get", "hold"),
    ("list", "hold"),
]


@pytest.mark.parametrize(("kind", "action"), MOMENTS)
async def test_terminated_and_killed_after_a_grace(
    archive: Archive, kind: Kind, action: Action
) -> None:
    """Killed in the middle of leaving, as systemd does, it has lost nothing and pays once."""
    fill(archive, 5)
    archive.add("large.wav", b"large" + bytes(16 << 20))  # more than any socket buffers
    archive.service.faults.add(Fault(on=kind, action=action, times=None, skip=1))
    archive.environ["OVERNIGHT_STOP_GRACE"] = "1h"
    async with archive.started(*archive.run_line("--json", "--uploads", "2")) as process:
        with anyio.fail_after(LONGEST_S):
            await archive.service.held(kind)
        await heeded(process, SIGTERM)
        with suppress(ProcessLookupError):
            process.kill()
        ended = await archive.ended(process)

    assert ended.exit_code in (-signal.SIGKILL, ExitCode.TERMINATED)
    assert "Traceback" not in ended.stderr

    await ends_well(archive)


async def test_terminated_and_killed_in_a_scan(archive: Archive) -> None:
    """A scan that is stopped in the middle is made again by the next run."""
    for folder in range(4):
        for number in range(1000):
            recording(archive.recordings / f"{folder}" / f"{number}.wav", b"")
    recording(archive.recordings / "last" / "a.wav", b"found last")
    async with archive.started(*archive.run_line("--json")) as process:
        assert process.stdout is not None
        said = b""
        with anyio.fail_after(LONGEST_S):
            while b'"skipped"' not in said:
                said += await process.stdout.receive()
        await heeded(process, SIGTERM)
        with suppress(ProcessLookupError):
            process.kill()
        await archive.ended(process)

    await ends_well(archive)


# --- before anything is open --------------------------------------------------------------------


def left(ended: Ended, number: signal.Signals) -> None:
    """It left for this signal, as a shell sees it, and without a word too many."""
    assert ended.exit_code in (CODES[number], -number)
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


@each_signal
async def test_stopped_while_it_waits_for_the_lock(
    archive: Archive, number: signal.Signals
) -> None:
    """Whoever waits for another run can be stopped: nothing was sent, the other has its lock."""
    fill(archive, 1)
    archive.state.mkdir(parents=True)
    lock = archive.state / "lock"
    lock.touch()
    descriptor = os.open(lock, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with watched(lock) as opens:
            async with archive.started(*archive.run_line("--wait-lock")) as process:
                await until(lambda: opens() > 0)
                process.send_signal(number)
                ended = await archive.ended(process)
    finally:
        os.close(descriptor)

    left(ended, number)
    assert archive.service.requests.total() == 0

    await ends_well(archive)


@each_signal
async def test_stopped_while_it_reads_a_list(archive: Archive, number: signal.Signals) -> None:
    """A list on stdin that does not end keeps nobody who wants to leave."""
    fill(archive, 1)
    reading, writing = os.pipe()
    try:
        os.write(writing, b"recordings/00.wav\0")
        line = archive.run_line("--files-from", "-")
        async with archive.started(*line, stdin=reading) as process:
            await until(lambda: unpack("i", fcntl.ioctl(reading, FIONREAD, bytes(4))) == (0,))
            process.send_signal(number)
            ended = await archive.ended(process)
    finally:
        os.close(reading)
        os.close(writing)

    left(ended, number)
    assert archive.service.requests.total() == 0


@each_signal
@pytest.mark.parametrize("module", ["jobs.cli", "jobs.folder", "pipeline.batch"])
async def test_stopped_while_it_starts(
    archive: Archive, number: signal.Signals, module: str
) -> None:
    """Stopped while the program itself is still being read, it leaves without a traceback."""
    fill(archive, 1)
    # Of the copy that is installed, wherever that is.
    source = f"/{module.replace('.', '/')}.py".encode()
    archive.environ["PYTHONVERBOSE"] = "1"  # tells on stderr what is imported
    async with archive.started(*archive.run_line()) as process:
        assert process.stderr is not None
        said = b""
        with anyio.fail_after(LONGEST_S):
            while source not in said:
                said += await process.stderr.receive()
        process.send_signal(number)
        ended = await archive.ended(process)

    left(ended, number)
    assert archive.service.requests["submit"] == 0
