"""What a night needs is looked at before it: what `doctor` foretells is what the night comes to."""

import os
import re
import shutil
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from jobs.nightly import NIGHTLY, run_nightly
from jobs.readiness import readiness
from pipeline.errors import BatchError, ExitCode
from pipeline.ledger.lock import lock
from pipeline.settings import Settings, load_settings
from tests.support.dead_disk import hangs
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

LEDGERS = Path(__file__).parents[1] / "ledger"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """Two sources with a recording each, in a settings file."""
    async with opened(tmp_path) as archive:
        archive.add("calls/a.wav", b"SECONDS:60\none")
        archive.add("phone/b.wav", b"SECONDS:60\ntwo")
        settle(archive)
        yield archive


def settle(archive: Archive, text: str = "", sources: str | None = None) -> None:
    """The settings file, with what is said of one test."""
    if sources is None:
        sources = source(archive, "calls") + source(archive, "phone")
    (archive.root / "overnight.toml").write_text(
        f'output = "{archive.output}"\nprovider = "{archive.service.url}"\npoll_interval = "50ms"\n'
        f'settle = "1s"\nretry_failed = false\nwait_network = 0\n{text}{sources}'
    )


def source(archive: Archive, folder: str, more: str = "") -> str:
    """A source of a settings file."""
    return f"[[source]]\nfolder = '{archive.recordings / folder}'\n{more}"


def window(said: str) -> str:
    """A window that is open now, or closed for hours, as a settings file has it."""
    hour = datetime.now(UTC).hour + (6 if said == "closed" else 0)
    text = f'window = "{hour % 24:02}:00-{(hour + 3) % 24:02}:00"\ntime_zone = "UTC"\n'
    return text if said else ""


def traces(archive: Archive) -> dict[str, tuple[int, int, bytes]]:
    """All that lies there: when it was last changed, its mode, and its bytes."""
    return {
        str(path.relative_to(archive.root)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(archive.root.rglob("*"))
        if not path.name.endswith("-shm")  # which readers share; that there is one shows above it
    }


async def foretold(archive: Archive) -> tuple[int, list[dict[str, Any]]]:
    """The exit code of `doctor`, and what it says, which changes nothing and asks for nothing."""
    before, requests = await to_thread.run_sync(traces, archive), len(archive.service.log)

    ended = await archive.command("doctor", "--json")

    assert await to_thread.run_sync(traces, archive) == before
    asked = [(call.kind, call.query) for call in archive.service.log[requests:]]
    assert asked in ([], [("list", "limit=1")])
    assert ended.lines[-1]["exit_code"] == ended.exit_code, ended.stderr
    return ended.exit_code, ended.lines[:-1]


async def night(archive: Archive) -> int:
    """The exit code of a night in this loop, with the same settings."""
    environ = {"ASSEMBLYAI_API_KEY": archive.service.key} | archive.environ
    given: dict[str, Any] = {"config": archive.root / "overnight.toml", "environ": environ}
    try:
        settings = await to_thread.run_sync(partial(load_settings, {}, **given, defaults=NIGHTLY))
        summary, _ = await run_nightly((), settings, emit=lambda _: None, environ=environ)
    except BatchError as error:
        return error.exit_code
    return summary.exit_code


# --- troubles -------------------------------------------------------------------------------------


def no_key(archive: Archive) -> None:
    archive.environ["ASSEMBLYAI_API_KEY"] = ""


def another_key(archive: Archive) -> None:
    archive.environ["ASSEMBLYAI_API_KEY"] = "nobody"


def gone(archive: Archive) -> None:
    shutil.rmtree(archive.recordings / "phone")


def all_gone(archive: Archive) -> None:
    shutil.rmtree(archive.recordings)


def empty(archive: Archive) -> None:
    (archive.recordings / "phone/b.wav").unlink()


def down(archive: Archive) -> None:
    page = Fault(on="*", action="answer", status=404, body="<p>", times=None)
    archive.service.faults.add(page)


def no_output(archive: Archive) -> None:
    settings = archive.root / "overnight.toml"
    settings.write_text(re.sub("output = .*\n", "", settings.read_text()))


def output_in_the_way(archive: Archive) -> None:
    archive.output.write_text("a file")


def output_leads_nowhere(archive: Archive) -> None:
    archive.output.symlink_to(archive.root / "nowhere")


def state_below_a_file(archive: Archive) -> None:
    (archive.root / "file").touch()
    archive.environ["OVERNIGHT_STATE"] = str(archive.root / "file/a")


def no_room(archive: Archive) -> None:
    archive.environ["OVERNIGHT_MIN_FREE"] = "1000000TB"


def no_price(archive: Archive) -> None:
    archive.environ["OVERNIGHT_MAX_COST"] = "1"
    archive.environ["OVERNIGHT_TRANSCRIPT__SPEECH_MODELS"] = '["slam-1"]'


def held(archive: Archive) -> None:
    """Marks that the test holds the lock meanwhile."""
    archive.state.mkdir(parents=True)
    (archive.state / "hold").touch()


def a_link_for_a_lock(archive: Archive) -> None:
    archive.state.mkdir(parents=True)
    (archive.state / "lock").symlink_to(archive.root / "elsewhere")


def left_by_a_killed_run(archive: Archive) -> None:
    """Another process has its number by now, as in each new container."""
    archive.state.mkdir(parents=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = f"{socket.gethostname()} {os.getppid()} {now} 5eb1f00d\n"
    (archive.state / "lock").write_text(text)


def ledger(archive: Archive, version: int) -> Path:
    archive.state.mkdir(parents=True)
    path = archive.state / "ledger.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        known = LEDGERS / f"schema_{version}.sql"
        db.executescript(known.read_text() if known.exists() else "CREATE TABLE a (b);")
        db.execute(f"PRAGMA user_version = {version}")
    return path


def a_newer_ledger(archive: Archive) -> None:
    ledger(archive, 99)


def an_older_ledger(archive: Archive) -> None:
    ledger(archive, 4)


def no_database(archive: Archive) -> None:
    archive.state.mkdir(parents=True)
    (archive.state / "ledger.sqlite3").write_bytes(b"rubbish " * 1000)


def an_empty_ledger(archive: Archive) -> None:
    archive.state.mkdir(parents=True)
    (archive.state / "ledger.sqlite3").touch()


def a_lost_ledger(archive: Archive) -> None:
    run = archive.state / "runs/20260101T000000Z-aaaaaa"
    run.mkdir(parents=True)
    (run / "attempts.ndjson").write_text('{"type":"began","run_id":"20260101T000000Z-aaaaaa"}\n')


def well(_: Archive) -> None:
    return


Trouble = Callable[[Archive], None]


@pytest.mark.parametrize(
    ("clock", "troubles", "code"),
    [
        ("", [well], 0),
        ("open", [well], 0),
        ("closed", [well], 10),
        ("", [no_key], 4),
        ("", [another_key], 4),
        ("", [gone], 3),
        ("", [all_gone], 2),
        ("", [empty], 0),
        ("", [down], 5),
        ("", [no_output], 2),
        ("", [output_in_the_way], 2),
        ("", [output_leads_nowhere], 2),
        ("", [state_below_a_file], 2),
        ("", [no_room], 5),
        ("", [no_price], 2),
        ("", [held], 11),
        ("", [a_link_for_a_lock], 2),
        ("", [left_by_a_killed_run], 0),
        ("", [a_newer_ledger], 2),
        ("", [an_older_ledger], 0),
        ("", [no_database], 2),
        ("", [an_empty_ledger], 0),
        ("", [a_lost_ledger], 2),
        # several at once: what is met first, and what is not met any more
        ("", [no_key, held], 4),
        ("", [all_gone, no_key], 2),
        ("", [held, another_key], 11),
        ("", [gone, another_key], 4),
        ("", [gone, no_room], 5),
        ("", [no_room, another_key], 5),
        ("closed", [another_key], 10),
        ("closed", [down], 10),
        ("closed", [gone], 3),
    ],
    ids=lambda value: (
        "+".join(each.__name__ for each in value) if isinstance(value, list) else None
    ),
)
async def test_what_is_foretold_comes_true(
    archive: Archive, clock: str, troubles: list[Trouble], code: int
) -> None:
    """The exit code of `doctor` is that of the night which follows; and it leaves no trace."""
    settle(archive, window(clock))
    for trouble in troubles:
        trouble(archive)
    async with AsyncExitStack() as stack:
        if held in troubles:
            await stack.enter_async_context(lock(archive.state / "lock"))
        said, checks = await foretold(archive)
        came_to = await night(archive)

    assert (said, came_to) == (code, code), checks
    if code:
        assert any(check["exit_code"] == code for check in checks)


async def test_an_archive_at_rest_and_after_a_kill_is_left_as_it_is(archive: Archive) -> None:
    """Between two nights, and after one that was killed, what lies there is only read."""
    await archive.command("nightly")
    assert (await foretold(archive))[0] == ExitCode.DONE

    archive.add("calls/more.wav", b"SECONDS:60\nthree")
    archive.service.faults.add(Fault(on="submit", action="hold", times=None))
    async with archive.started("nightly") as process:
        await archive.service.held("submit")
        process.kill()
        await process.wait()
    archive.service.release()
    assert (await foretold(archive))[0] == ExitCode.DONE

    (archive.state / "ledger.sqlite3-shm").unlink()  # as a backup has it
    assert (await foretold(archive))[0] == ExitCode.DONE
    assert not (archive.state / "ledger.sqlite3-shm").exists()


async def test_a_damaged_ledger_is_found(archive: Archive) -> None:
    """Damage that no run meets at its beginning is found by a quick look all the same."""
    for number in range(300):
        archive.add(f"calls/{number:03}-{'x' * 100}.wav", b"SECONDS:60\n%d" % number)
    await archive.command("nightly", "--max-hours", "0")
    path = archive.state / "ledger.sqlite3"
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 20_000)

    code, checks = await foretold(archive)

    assert code == ExitCode.USAGE
    (check,) = (check for check in checks if check["subject"] == "ledger")
    assert "damaged" in check["what"]


async def test_a_source_that_held_recordings_and_is_empty_is_a_failure(archive: Archive) -> None:
    """A disk that is not mounted is an empty folder: it is told apart from a new one."""
    await archive.command("nightly")
    empty(archive)
    (archive.recordings / "new").mkdir()
    settle(archive, sources="".join(source(archive, name) for name in ("calls", "phone", "new")))

    code, checks = await foretold(archive)

    states = [check["state"] for check in checks if check["subject"] == "source"]
    assert states == ["ok", "failure", "warning"]
    assert code == ExitCode.PARTIAL


async def test_a_source_may_be_a_file_and_has_filters(archive: Archive) -> None:
    """What would be taken counts: one file, and what globs let in or leave out."""
    (archive.recordings / "calls/a.txt").touch()
    settle(
        archive,
        sources=source(archive, "calls/a.wav", "name = 'one'\n")
        + source(archive, "phone", "name = 'none'\nexclude = ['*.wav']\n")
        + source(archive, "calls", "name = 'more'\ninclude = ['*.txt']\nexclude = ['*.wav']\n"),
    )

    _, checks = await foretold(archive)

    states = [check["state"] for check in checks if check["subject"] == "source"]
    assert states == ["ok", "warning", "ok"]


@pytest.mark.parametrize("ends", ["phone", "transcripts"])
async def test_a_disk_that_hangs_is_given_up(archive: Archive, ends: str) -> None:
    """A source or an output that does not answer is told within bounds, and the rest as well."""
    archive.output.mkdir()
    hangs(archive, ends, "scandir" if ends == "phone" else "access")
    with anyio.fail_after(50):
        ended = await archive.command("doctor", "--json")

    (silent,) = (check for check in ended.lines if "no answer in 10 s" in check.get("what", ""))
    assert ends in silent["what"]
    assert ended.exit_code == (ExitCode.PARTIAL if ends == "phone" else ExitCode.USAGE)
    assert any(check["subject"] == "service" for check in ended.lines[:-1])


async def test_a_disk_that_hangs_is_given_up_by_the_settings(archive: Archive) -> None:
    """A source that has its name from a folder which does not answer is told within bounds."""
    hangs(archive, "phone", "lstat")
    with anyio.fail_after(50):
        ended = await archive.command("doctor")

    assert ended.exit_code == ExitCode.USAGE
    assert "no answer in 10 s from a folder that the settings name" in ended.stderr


def checked(settings: Settings, now: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    """What is said of each subject at a moment; of several the last."""
    now_s = datetime.fromisoformat(now).timestamp()
    return {check.subject: str(check) for check in readiness(settings, environ or {}, now_s)}


@pytest.mark.parametrize(
    ("window", "now", "said"),
    [
        (None, "2026-03-03T12:00+00:00", "none: a run works whenever it starts; it is 13:00"),
        ("22:00-06:00", "2026-03-03T22:30+00:00", "22:00-06:00 is open: it is 23:30"),
        ("22:00-06:00", "2026-03-03T12:00+00:00", "closed until 2026-03-03 22:00"),
        ("22:00-06:00", "2026-03-03T05:00+00:00", "closed until 2026-03-03 22:00"),
        ("01:00-02:00", "2026-03-03T12:00+00:00", "closed until 2026-03-04 01:00"),
        # The clocks go from 02:00 to 03:00 on the 29th.
        ("02:00-03:00", "2026-03-28T22:00+00:00", "closed until 2026-03-29 03:00"),
    ],
)
def test_the_window_is_told_by_its_clock(window: str | None, now: str, said: str) -> None:
    """Whether it is open, when it opens next, and what time it is there."""
    settings = Settings(window=window, time_zone="Europe/Berlin")

    assert said in checked(settings, now)["window"]
    assert "Europe/Berlin" in checked(settings, now)["window"]


@pytest.mark.parametrize("is_missed", [True, False])
def test_a_window_in_which_no_run_worked_is_told(tmp_path: Path, is_missed: bool) -> None:
    """A machine that is off at night is found at noon, once there has been any run."""
    run = tmp_path / "runs" / ("20260301T220000Z-a" if is_missed else "20260302T230000Z-a")
    run.mkdir(parents=True)
    (run / "summary.json").touch()
    settings = Settings(state=tmp_path, window="22:00-06:00", time_zone="UTC")

    told = checked(settings, "2026-03-03T12:00+00:00")["window"]

    assert told.startswith("warning" if is_missed else "failure")


def test_another_users_lock_is_told(tmp_path: Path) -> None:
    """A lock that cannot be opened is found without opening it."""
    if os.geteuid() == 0:
        pytest.skip("root may open everything")
    (tmp_path / "lock").touch(mode=0o400)

    assert "failure" in checked(Settings(state=tmp_path), "2026-03-03T12:00+00:00")["lock"]


async def test_a_run_that_waits_for_the_lock_is_told_so(archive: Archive) -> None:
    """With `wait_lock` a lock that is held is no end."""
    settle(archive, "wait_lock = true\n")
    held(archive)
    async with lock(archive.state / "lock"):
        code, checks = await foretold(archive)

    assert code == ExitCode.DONE
    assert [each["state"] for each in checks if each["subject"] == "lock"] == ["warning"]
