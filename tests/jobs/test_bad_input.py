"""Bad input gets a clear error, the right exit code, and nothing is lost or sent."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from pipeline.errors import ExitCode
from pipeline.models import MAX_UPLOAD_BYTES
from tests.support.runs import COMMAND, Archive, Ended, opened, recording
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

AS_ROOT = os.geteuid() == 0


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    (tmp_path / "recordings").mkdir()
    async with opened(tmp_path) as archive:
        yield archive


# --- folders -----------------------------------------------------------------------------------


async def test_no_folder_named(archive: Archive) -> None:
    """`run` without a folder is a usage error that shows how it is written."""
    ended = await archive.command("run", "-o", archive.output)

    assert ended.exit_code == ExitCode.USAGE
    assert "overnight run FOLDER -o OUTPUT" in ended.stderr


async def test_no_output_named(archive: Archive) -> None:
    """Where results go has to be said: they cost money."""
    ended = await archive.command("run", archive.recordings)

    assert ended.exit_code == ExitCode.USAGE
    assert "--output" in ended.stderr


async def test_a_folder_that_is_not_there(archive: Archive) -> None:
    """A folder that does not exist is named, and nothing is made."""
    line = archive.run_line()
    line[1] = archive.root / "nowhere"

    ended = await archive.command(*line)

    assert ended.exit_code == ExitCode.USAGE
    assert str(archive.root / "nowhere") in ended.stderr
    assert not archive.output.exists()
    assert archive.service.requests == {}


async def test_an_empty_folder(archive: Archive) -> None:
    """An empty folder is no error: exit 0, with a warning."""
    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.DONE
    assert "no recordings found" in ended.stderr
    assert archive.service.requests == {}


async def test_two_folders_of_one_name(archive: Archive) -> None:
    """Folders whose results would mix are refused before anything is sent."""
    for place in ("a", "b"):
        recording(archive.root / place / "calls/x.wav", place.encode())
    line = archive.run_line()
    line[1:2] = [archive.root / "a/calls", archive.root / "b/calls"]

    ended = await archive.command(*line)

    assert ended.exit_code == ExitCode.USAGE
    assert "calls" in ended.stderr
    assert archive.service.requests == {}


async def test_what_cannot_be_sent_is_skipped(archive: Archive) -> None:
    """A file over 2.2 GB and one of zero bytes are skipped with the reason; the rest is sent."""
    archive.add("empty.wav", b"")
    archive.add("huge.wav", b"x")
    os.truncate(archive.recordings / "huge.wav", MAX_UPLOAD_BYTES + 1)
    archive.add("good.wav", b"good")

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.DONE
    assert (ended.summary["written"], ended.summary["skipped"]) == (1, 2)
    assert archive.service.requests["upload"] == 1
    reasons = " ".join(ended.summary["reasons"]["skipped"])
    assert "empty" in reasons
    assert "2,200,000,000" in reasons


# --- rights ------------------------------------------------------------------------------------


def without_privileges(archive: Archive, *arguments: str | Path) -> Ended:
    """The command for a user whom the rights of files bind, as they do not bind root."""
    environ = {"PATH": os.environ["PATH"], "ASSEMBLYAI_API_KEY": archive.service.key}
    ended = subprocess.run(
        [*UNPRIVILEGED, COMMAND, *map(os.fsdecode, arguments)],
        capture_output=True,
        cwd=archive.root,
        env=environ,
        timeout=60,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr.decode())


UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if AS_ROOT else []

rights_bind = pytest.mark.skipif(
    AS_ROOT and not shutil.which("setpriv"), reason="no way to give up the rights of root"
)


@rights_bind
async def test_what_cannot_be_read(archive: Archive) -> None:
    """An unreadable recording fails and an unreadable folder is told; the rest is transcribed."""
    for name in ("good.wav", "locked.wav", "closed/inner.wav"):
        archive.add(name, name.encode())
    (archive.recordings / "locked.wav").chmod(0)
    (archive.recordings / "closed").chmod(0)

    ended = await to_thread.run_sync(without_privileges, archive, *archive.run_line())
    (archive.recordings / "closed").chmod(0o755)

    assert ended.exit_code == ExitCode.PARTIAL, ended.stderr
    assert sorted(archive.results()) == ["good.wav.json"]
    assert "closed" in ended.stderr
    assert "Permission denied" in ended.stderr
    assert b"1 failed" in ended.stdout


@rights_bind
async def test_a_folder_that_cannot_be_read(archive: Archive) -> None:
    """A folder that cannot be read at all is an error before anything is done."""
    archive.add("a.wav", b"a")
    archive.recordings.chmod(0)

    ended = await to_thread.run_sync(without_privileges, archive, *archive.run_line())
    archive.recordings.chmod(0o755)

    assert ended.exit_code == ExitCode.USAGE
    assert str(archive.recordings) in ended.stderr
    assert archive.service.requests == {}


@rights_bind
async def test_an_output_that_cannot_be_written(archive: Archive) -> None:
    """Where results could not be saved nothing is sent: refused before the first request."""
    archive.add("a.wav", b"a")
    archive.output.mkdir(mode=0o555)

    ended = await to_thread.run_sync(without_privileges, archive, *archive.run_line())

    assert ended.exit_code == ExitCode.USAGE
    assert "cannot write" in ended.stderr
    assert archive.service.requests == {}


async def test_an_output_that_is_a_file(archive: Archive) -> None:
    """An output that is a file is refused before anything is sent."""
    archive.add("a.wav", b"a")
    archive.output.write_text("mine")

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.USAGE
    assert "cannot write" in ended.stderr
    assert archive.service.requests == {}
    assert archive.output.read_text() == "mine"


# --- settings ----------------------------------------------------------------------------------


async def test_a_typo_in_the_settings(archive: Archive) -> None:
    """An unknown key is an error that names the nearest known one, before anything is sent."""
    archive.add("a.wav", b"a")
    (archive.root / "overnight.toml").write_text('pol_interval = "5s"\n')

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.USAGE
    assert "poll_interval" in ended.stderr
    assert archive.service.requests == {}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--provider", "asemblyai"], "assemblyai"),
        (["--set", "speaker_label=true"], "speaker_labels"),
        (["--set", "audio_start_from=yes"], "audio_start_from"),
        (["--format", "str"], "srt"),
        (["--poll-interval", "soon"], "duration"),
        (["--concurrency", "0"], "concurrency"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
async def test_a_wrong_flag(archive: Archive, more: list[str], told: str) -> None:
    """A flag that cannot be meant is an error that helps, before anything is sent."""
    archive.add("a.wav", b"a")
    line = archive.run_line()
    if more[0] in line:
        at = line.index(more[0])
        del line[at : at + 2]

    ended = await archive.command(*line, *more)

    assert ended.exit_code == ExitCode.USAGE
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert archive.service.requests == {}


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + b"x" * 8192])
async def test_a_damaged_ledger(archive: Archive, damage: bytes) -> None:
    """A ledger that is none is told as damage; it is left as it is, and nothing is sent."""
    archive.add("a.wav", b"a")
    archive.state.mkdir(parents=True)
    (archive.state / "ledger.sqlite3").write_bytes(damage)

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.USAGE
    assert "ledger" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert (archive.state / "ledger.sqlite3").read_bytes() == damage
    assert archive.service.requests == {}


# --- a full disk -------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if not AS_ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


async def test_a_full_disk(archive: Archive, small_disk: Path) -> None:
    """No room for results: exit 5, nothing unfinished is left, and with room it is fetched free."""
    for number in range(4):
        archive.add(f"{number}.wav", b"%d" % number)
    archive.service.faults.add(Fault(on="get", action="big", times=None, size_bytes=400 << 10))
    line = archive.run_line("--json", "--state", archive.root / "state")
    line[line.index(archive.output)] = small_disk

    full = await archive.command(*line)

    assert full.exit_code == ExitCode.TRY_LATER, full.stderr
    assert "Traceback" not in full.stderr
    assert full.summary["failed"] == 0
    assert full.summary["written"] + full.summary["parked"] == 4
    assert full.summary["parked"] >= 2
    names = await to_thread.run_sync(_sizes, small_disk)
    assert len(names) == full.summary["written"]
    assert all(name.endswith(".json") and size > 400 << 10 for name, size in names.items())

    archive.service.faults.clear()
    await to_thread.run_sync(subprocess.run, ["mount", "-o", "remount,size=8m", str(small_disk)])
    again = await archive.command(*line)

    assert again.exit_code == ExitCode.DONE
    assert again.summary["written"] == full.summary["parked"]
    assert archive.service.requests["submit"] <= 4
    assert set(archive.service.billable.values()) == {1}


async def test_no_room_for_the_ledger(archive: Archive, small_disk: Path) -> None:
    """No room for the state: exit 5 without a traceback; with room the next run has it all."""
    for number in range(30):
        archive.add(f"{number:02}.wav", b"%d" % number)
    state = small_disk / "state"
    line = archive.run_line("--json", "--state", state)
    archive.service.faults.add(Fault(on="submit", action="hold", times=None, skip=3))
    async with archive.started(*line) as process:
        with anyio.fail_after(30):
            await archive.service.held("submit")
        await to_thread.run_sync(_fill_up, small_disk)
        archive.service.faults.clear()
        archive.service.release()
        full = await archive.ended(process)

    assert "Traceback" not in full.stderr
    assert full.exit_code == ExitCode.TRY_LATER, full.stderr

    (small_disk / "ballast").unlink()
    await to_thread.run_sync(subprocess.run, ["mount", "-o", "remount,size=16m", str(small_disk)])
    again = await archive.command(*line)

    assert again.exit_code == ExitCode.DONE, again.stderr
    assert len(archive.results()) == 30
    assert set(archive.service.billable.values()) == {1}


async def test_a_disk_that_is_full_at_the_start(archive: Archive, small_disk: Path) -> None:
    """However little room there is to begin with, it is a cause that passes: exit 5."""
    archive.add("a.wav", b"a")
    state = small_disk / "state"
    for room_bytes in (0, 4096, 8192, 16384, 32768, 65536, 131072):
        await to_thread.run_sync(_fill_up, small_disk, room_bytes)

        full = await archive.command(*archive.run_line("--state", state))

        assert full.exit_code == ExitCode.TRY_LATER, (room_bytes, full.stderr)
        assert "Traceback" not in full.stderr
        await to_thread.run_sync(shutil.rmtree, state, True)
        (small_disk / "ballast").unlink()
    assert archive.service.requests["submit"] <= 1


async def test_no_room_for_a_dry_run(archive: Archive, small_disk: Path) -> None:
    """A dry run that finds no room for its copy of the ledger says so, with exit 5."""
    archive.add("a.wav", b"a")
    await archive.command(*archive.run_line())
    archive.environ["TMPDIR"] = str(small_disk)
    for room_bytes in (4096, 8192, 32768):
        await to_thread.run_sync(_fill_up, small_disk, room_bytes)

        full = await archive.command(*archive.run_line("--dry-run"))

        assert full.exit_code == ExitCode.TRY_LATER, (room_bytes, full.stderr)
        assert "Traceback" not in full.stderr
        (small_disk / "ballast").unlink()


def _sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _fill_up(disk: Path, room_bytes: int = 0) -> None:
    with (disk / "ballast").open("wb", buffering=0) as file:
        with suppress(OSError):
            while file.write(b"x" * 4096):
                pass
        os.truncate(file.fileno(), file.tell() - room_bytes)
