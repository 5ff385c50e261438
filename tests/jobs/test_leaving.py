"""The `overnight` command beside what never answers: readers that stall, disks that hang."""

import fcntl
import json
import os
import pty
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import anyio
import pytest
from anyio.abc import Process

from pipeline.errors import ExitCode
from tests.support.dead_disk import hangs
from tests.support.runs import Archive, opened, until

pytestmark = pytest.mark.anyio

LONGEST_S = 30.0
CODES = {
    SIGINT: ExitCode.INTERRUPTED,
    SIGTERM: ExitCode.TERMINATED,
    SIGHUP: ExitCode.HANGUP,
}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for number in range(3):
            archive.add(f"{number}.wav", b"content %d" % number)
        yield archive


def exit_code(code: int) -> int:
    """As a shell tells it."""
    return code if code >= 0 else 128 - code


# --- readers that stall -------------------------------------------------------------------------


@contextmanager
def stalled(make: Callable[[], tuple[int, int]]) -> Iterator[int]:
    """An end to write to that takes nothing more, and whose reader does nothing."""
    reading, writing = make()
    flags = fcntl.fcntl(writing, fcntl.F_GETFL)
    fcntl.fcntl(writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while os.write(writing, b"." * 512):
            pass
    fcntl.fcntl(writing, fcntl.F_SETFL, flags)
    try:
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


each_end = pytest.mark.parametrize("make", [os.pipe, pty.openpty], ids=["pipe", "terminal"])


@each_end
@pytest.mark.parametrize("more", [(), ("-vv",), ("--json",)], ids=str)
async def test_a_stderr_that_nobody_reads_holds_up_nothing(
    archive: Archive, make: Callable[[], tuple[int, int]], more: Sequence[str]
) -> None:
    """However much there is to say, the run does its work, and leaves with its own exit code."""
    archive.environ["TERM"] = "xterm"
    with stalled(make) as stderr:
        async with archive.started(*archive.run_line(*more), stderr=stderr) as process:
            ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.DONE
    assert len(archive.results()) == 3
    assert b"written" in ended.stdout


@each_end
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
async def test_a_run_is_stopped_though_nobody_reads_what_it_says(
    archive: Archive, number: signal.Signals, make: Callable[[], tuple[int, int]]
) -> None:
    """One signal ends a run whose events and warnings nobody takes, and what it has is noted."""
    archive.service.transcript_seconds = 3600.0
    archive.environ["OVERNIGHT_STOP_GRACE"] = "1s"
    with stalled(make) as end:
        line = archive.run_line("--json", "-vv")
        async with archive.started(*line, stdout=end, stderr=end) as process:
            with anyio.fail_after(LONGEST_S):
                await archive.service.until(lambda: archive.service.requests["submit"] == 3)
            process.send_signal(number)
            ended = await archive.ended(process)

    assert exit_code(ended.exit_code) == CODES[number]
    query = "SELECT count(transcript_id) FROM attempts WHERE state = 'accepted'"
    assert await archive.rows(query) == [(3,)]


async def test_a_repair_is_stopped_though_nobody_reads_its_findings(archive: Archive) -> None:
    """What is told while the service is asked waits for no reader either."""
    await archive.command(*archive.run_line())
    for result in archive.output.rglob("*.wav.json"):
        result.unlink()
    line = ["verify", "--repair", "-o", archive.output, "--provider", archive.service.url]
    with stalled(os.pipe) as stdout:
        async with archive.started(*line, stdout=stdout) as process:
            await until(lambda: len(archive.results()) == 3)
            process.send_signal(SIGINT)
            ended = await archive.ended(process)

    assert exit_code(ended.exit_code) == ExitCode.INTERRUPTED


# --- descriptors that are closed, and disks that are full -----------------------------------------

NOBODY = [
    *("0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"),
    *("1>/dev/full", "2>/dev/full", "1>/dev/full 2>/dev/full", "1</dev/null"),
]


def started_with(redirected: str) -> Sequence[str]:
    """A shell that starts the command so."""
    return "sh", "-c", f'exec "$@" {redirected}', "sh"


@pytest.mark.parametrize(
    ("redirected", "more"),
    [
        *((each, ()) for each in NOBODY),
        *((each, ("--json", "-vv")) for each in ("1>&-", "2>&-", "1>/dev/full 2>/dev/full")),
    ],
    ids=str,
)
async def test_a_run_that_nobody_hears_does_its_work(
    archive: Archive, redirected: str, more: Sequence[str]
) -> None:
    """With stdin, stdout or stderr closed or full all is done, and the exit code is the run's."""
    archive.add("empty.wav", b"")
    archive.add("bad.wav", b"ERROR:Transcoding failed.\n")
    through = started_with(redirected)
    async with archive.started(*archive.run_line(*more), through=through) as process:
        ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.PARTIAL
    assert "Traceback" not in ended.stderr
    assert len(archive.results()) == 3
    (run,) = (archive.state / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["failed"] == 1
    events = (run / "events.ndjson").read_text().splitlines()
    kinds = [json.loads(event)["type"] for event in events]
    assert kinds.count("written") == 3


@pytest.mark.parametrize("redirected", ["1>&- 2>&-", "1>/dev/full"])
async def test_every_command_keeps_its_exit_code(archive: Archive, redirected: str) -> None:
    """Whatever is asked, though it is told to nobody, the code says what came of it."""
    await archive.command(*archive.run_line())
    where = ("-o", archive.output)
    there = (*where, "--provider", archive.service.url)
    lines: dict[Sequence[str | Path], int] = {
        ("--help",): 0,
        ("--version",): 0,
        ("rum",): 2,
        ("status", *where): 0,
        ("list", *where, "--json"): 0,
        ("list", "-o", "nothing"): 2,
        ("verify", *where): 0,
        ("report", *where, "--format", "line"): 0,
        ("audit", *there, "--remote"): 0,
        ("nightly", archive.recordings, *there): 0,
    }
    for line, code in lines.items():
        async with archive.started(*line, through=started_with(redirected)) as process:
            ended = await archive.ended(process)

        assert (line, ended.exit_code) == (line, code)
        assert "Traceback" not in ended.stderr
        is_told = "stdout did not take everything: No space left" in ended.stderr
        assert is_told == (redirected == "1>/dev/full" and code == 0)


# --- disks that hang ----------------------------------------------------------------------------


async def left_in_time(archive: Archive, process: Process) -> int:
    """Its exit code, which comes soon."""
    with anyio.fail_after(10):  # 2 s are what it may take; the rest is a slow machine's
        return (await archive.ended(process)).exit_code


HANGING = [
    ("/dead", "scandir"),  # a folder among the recordings
    ("1.wav", "open"),  # a recording
    ("1.wav", "pread"),
    ("1.wav.json", "lstat"),  # a result, perhaps from before
    ("transcripts", "open"),  # the output folder, whose names are flushed
    ("transcripts", "fsync"),
]


@pytest.mark.parametrize(("ends", "call"), HANGING)
@pytest.mark.parametrize("is_hurried", [False, True], ids=["grace", "second signal"])
async def test_a_disk_that_hangs_keeps_no_night_from_its_end(
    archive: Archive, ends: str, call: str, is_hurried: bool
) -> None:
    """When the grace is over, or with the second signal, all is told, and the process leaves."""
    archive.add("dead/a.wav", b"nobody will ever know")
    mark, told = hangs(archive, ends, call), archive.root / "told"
    archive.environ["OVERNIGHT_STOP_GRACE"] = "1h" if is_hurried else "100ms"
    archive.environ["OVERNIGHT_HOOKS__ON_FAILURE"] = json.dumps([f"sh -c 'cat > {told}'"])
    line = archive.run_line("--json")[1:]
    async with archive.started("nightly", *line, "--min-age", "0s") as process:
        await until(mark.exists)
        process.send_signal(SIGTERM)
        if is_hurried:
            await until(lambda: _is_warned(archive))
            process.send_signal(SIGTERM)
        code = await left_in_time(archive, process)

    assert code == ExitCode.TERMINATED
    (run,) = (archive.state / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["exit_code"], summary["reason"]) == (code, "stopped by SIGTERM")
    assert json.loads(told.read_text())["run_id"] == run.name


def _is_warned(archive: Archive) -> bool:
    return any(
        b"SIGTERM" in path.read_bytes() for path in archive.state.glob("runs/*/events.ndjson")
    )


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
async def test_a_root_that_hangs_keeps_nobody(archive: Archive, number: signal.Signals) -> None:
    """Where not even the folder itself is to be seen, one signal is enough."""
    mark = hangs(archive, "/recordings", "stat")
    async with archive.started(*archive.run_line()) as process:
        await until(mark.exists)
        process.send_signal(number)
        code = await left_in_time(archive, process)

    assert exit_code(code) == CODES[number]
    assert archive.service.requests.total() == 0


async def test_a_hook_that_hangs_is_ended_with_the_run(archive: Archive) -> None:
    """What does not end in the time that is left is told to, and nobody waits for it."""
    mark, its = hangs(archive, "/dead", "scandir"), archive.root / "its"
    archive.add("dead/a.wav", b"nobody will ever know")
    archive.environ["OVERNIGHT_STOP_GRACE"] = "100ms"
    hook = f"sh -c 'echo $$ > {its}~; mv {its}~ {its}; exec sleep 1000'"
    archive.environ["OVERNIGHT_HOOKS__ON_FAILURE"] = json.dumps([hook])
    async with archive.started("nightly", *archive.run_line()[1:]) as process:
        await until(mark.exists)
        process.send_signal(SIGTERM)
        code = await left_in_time(archive, process)

    assert code == ExitCode.TERMINATED

    def is_gone() -> bool:
        with suppress(ProcessLookupError):
            os.kill(int(its.read_text()), 0)
            state = Path(f"/proc/{its.read_text().strip()}/stat")
            return state.exists() and state.read_text().split(") ")[1][0] == "Z"
        return True

    await until(is_gone)
