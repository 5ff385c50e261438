"""A scan that did not come to its end: what a run that was cut short says of what it found."""

import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from jobs.transcribe import named_sources, transcribe
from pipeline.errors import ExitCode
from pipeline.events import Event, RunStarted, Summary, Warned
from pipeline.progress import render_summary
from pipeline.report.morning import morning
from pipeline.report.page import as_html, as_line
from pipeline.stages.scan import find_roots
from tests.support.dead_disk import hangs
from tests.support.runs import Archive, Outcome, opened

pytestmark = pytest.mark.anyio

NOTHING_THERE = "no recordings found"
Cut = Callable[[Archive], Awaitable[None]]


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """Six recordings that were transcribed, and one more since."""
    async with opened(tmp_path) as archive:
        for number in range(6):
            archive.add(f"{number}.wav", b"%d" % number)
        await archive.run()
        archive.add("new.wav", b"new")
        yield archive


async def run_until(archive: Archive, cut: Cut, **given: object) -> Outcome:
    """A run that is cut short right before it looks at the folders."""
    events: list[Event] = []

    async def began(_: RunStarted) -> None:
        await cut(archive)

    roots = await to_thread.run_sync(find_roots, [str(archive.recordings)])
    settings = archive.settings(**given)
    with anyio.fail_after(60):
        summary = await transcribe(
            settings, named_sources(roots, settings), emit=events.append, began=began
        )
    return Outcome(summary, events)


async def another_takes_the_lock(archive: Archive) -> None:
    lock = archive.state / "lock"
    await to_thread.run_sync(os.replace, lock, archive.state / "another's")


def said(outcome: Outcome) -> list[str]:
    return [event.message for event in outcome.of(Warned)]


async def test_a_scan_cut_short_says_so(archive: Archive) -> None:
    """A run that another one ends before it has looked through the folders calls none empty."""
    outcome = await run_until(archive, another_takes_the_lock)

    assert outcome.summary.exit_code == ExitCode.LOCKED
    assert not outcome.summary.scanned
    assert NOTHING_THERE not in said(outcome)
    assert "the scan was cut short" in render_summary(outcome.summary)


@pytest.mark.parametrize("found", [[], ["aa.wav", "ab.wav"]], ids=["nothing", "some"])
@pytest.mark.parametrize("how", [[], ["--dry-run"]], ids=["run", "dry-run"])
async def test_a_stopped_scan_says_so(archive: Archive, how: list[str], found: list[str]) -> None:
    """A signal in the middle of the scan: the summary says so, whatever it had come to by then."""
    await to_thread.run_sync(shutil.rmtree, archive.recordings)
    for name in found:
        archive.add(name, name.encode())
    archive.add("dead/a.wav", b"a")
    mark = hangs(archive, "/dead", "scandir")
    line = archive.run_line("--json", *how)
    archive.environ["OVERNIGHT_STOP_GRACE"] = "100ms"
    async with archive.started(*line) as process:
        with anyio.fail_after(20):
            while not mark.exists():
                await anyio.wait_all_tasks_blocked()
        process.send_signal(signal.SIGTERM)
        ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.TERMINATED
    assert ended.summary["scanned"] is False
    assert NOTHING_THERE not in ended.stderr


async def test_the_page_of_the_morning_says_so(archive: Archive) -> None:
    """The page of a run that was cut short has no headline of an empty folder, or of all done."""
    await run_until(archive, another_takes_the_lock)

    facts = await to_thread.run_sync(morning, archive.settings())
    page = await to_thread.run_sync(as_html, facts)

    assert facts.scanned is False
    assert "No recordings found" not in page
    assert "Cut short" in page
    assert "the scan was cut short" in as_line(facts)


async def test_a_full_disk_says_that_it_is_full(archive: Archive, tmp_path: Path) -> None:
    """No room for the ledger in the second run: exit 5, and the folders are not called empty."""
    state = tmp_path / "disk"
    with suppress(FileNotFoundError):
        state.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(state)]
    if os.geteuid() or await _fails(mount):
        pytest.skip("needs the right to mount a file system")
    try:
        await archive.run(state=state)
        archive.add("newest.wav", b"newest")
        outcome = await run_until(archive, lambda _: to_thread.run_sync(_fill, state), state=state)
    finally:
        await _fails(["umount", "-l", str(state)])

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert not outcome.summary.scanned
    assert NOTHING_THERE not in said(outcome)
    assert "no room" in (outcome.summary.reason or "")


async def test_what_could_not_be_read_is_not_called_empty(archive: Archive) -> None:
    """A folder that cannot be looked at is said by itself: whether it is empty nobody knows."""
    gone = archive.root / "list"
    gone.write_text("recordings/nowhere.wav\n")

    ended = await archive.command(*archive.run_line("--files-from", gone))

    assert ended.exit_code == ExitCode.PARTIAL
    assert "cannot look at" in ended.stderr
    assert NOTHING_THERE not in ended.stderr


async def test_an_empty_folder_is_called_empty(archive: Archive) -> None:
    """A scan that came to its end and found nothing says so."""
    empty = archive.root / "empty"
    empty.mkdir()

    outcome = await archive.run(empty)

    assert outcome.summary.scanned
    assert said(outcome) == [NOTHING_THERE]
    assert "cut short" not in render_summary(outcome.summary)


def test_a_summary_of_before_was_of_a_whole_scan() -> None:
    """What an older version left in `summary.json` is read as it was meant."""
    assert Summary(run_id="r", exit_code=0).scanned


async def _fails(command: list[str]) -> bool:
    ended = await anyio.run_process(command, check=False, stderr=subprocess.DEVNULL)
    return bool(ended.returncode)


def _fill(disk: Path) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass
