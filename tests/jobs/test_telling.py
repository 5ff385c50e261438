"""Who hears of `overnight run`, of what end, and of settings with which nothing begins."""

import json
import os
import pty
import shlex
import signal
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM
from typing import Any

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.ledger.lock import lock
from tests.support.nights import sound
from tests.support.runs import COMMAND, Archive, Ended, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

TOO_SHORT = b"ERROR:Audio duration is too short.\n"
MOMENTS = ("start", "success", "failure")


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """A recording, and hooks that note what they are told."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"SECONDS:3600\none")
        for moment in MOMENTS:
            noted = f"sh -c 'cat >>{tmp_path}/{moment}; echo {moment} >>{tmp_path}/told'"
            archive.environ[f"OVERNIGHT_HOOKS__ON_{moment.upper()}"] = noted
        yield archive


def told(archive: Archive) -> list[str]:
    """The moments of which hooks were told, in their order."""
    noted = archive.root / "told"
    return noted.read_text().split() if noted.exists() else []


def heard(archive: Archive, moment: str) -> dict[str, Any]:
    """What they were told of one."""
    return dict(json.loads((archive.root / moment).read_bytes()))


async def watched(archive: Archive, *line: str | Path) -> Ended:
    """The same command where somebody looks at its stderr."""
    ours, theirs = pty.openpty()
    archive.environ["TERM"] = "dumb"
    try:
        async with archive.started(*line, stderr=theirs) as process:
            return await archive.ended(process)
    finally:
        os.close(ours)
        os.close(theirs)


UNWATCHED, WATCHED = False, True


@pytest.mark.parametrize(
    ("is_watched", "said", "more", "tells"),
    [
        (UNWATCHED, None, [], True),
        (UNWATCHED, "true", [], True),
        (UNWATCHED, "false", [], False),
        (WATCHED, None, [], False),
        (WATCHED, "true", [], True),
        (WATCHED, "false", [], False),
        (UNWATCHED, None, ["--dry-run"], False),
        (WATCHED, "true", ["--dry-run"], False),
        (UNWATCHED, None, ["--sample"], False),
        (WATCHED, "true", ["--sample"], False),
    ],
)
async def test_who_hears_of_a_run(
    archive: Archive, is_watched: bool, said: str | None, more: list[str], tells: bool
) -> None:
    """Hooks hear of what nobody watches, or as `hooks.run` says; never of a trial or a sample."""
    if said is not None:
        archive.environ["OVERNIGHT_HOOKS__RUN"] = said
    line = archive.run_line(*more)
    if more == ["--sample"]:
        line.remove(archive.recordings)

    ended = await (watched(archive, *line) if is_watched else archive.command(*line))

    # What a scripted service hears of real speech is not all that was said.
    is_heard = more != ["--sample"]
    assert ended.exit_code == (ExitCode.DONE if is_heard else ExitCode.PARTIAL)
    assert told(archive) == (["start", "success"] if tells else [])


async def test_the_heartbeat_is_that_of_a_run_as_well(archive: Archive) -> None:
    """A monitor hears of the beginning and the end, and the summary is still the last line."""
    beats: list[str] = []

    async def answer(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            beats.append((await stream.receive()).split()[1].decode())
            await stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        archive.environ["OVERNIGHT_HOOKS__HEARTBEAT"] = f"http://127.0.0.1:{port}/beat"
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, answer)
            ended = await archive.command(*archive.run_line("--json"))
            group.cancel_scope.cancel()

    assert beats == ["/beat/start", "/beat"]
    assert heard(archive, "start")["run_id"] == ended.summary["run_id"]
    assert heard(archive, "success") == ended.summary


def _nothing(_: Archive) -> None:
    return


def _too_short(archive: Archive) -> None:
    archive.add("short.wav", TOO_SHORT)


def _two_minutes(archive: Archive) -> None:
    archive.add("a.wav", sound(60, "a"))
    archive.add("b.wav", sound(60, "b"))


def _another_key(archive: Archive) -> None:
    archive.environ["ASSEMBLYAI_API_KEY"] = "nobody"


def _down(archive: Archive) -> None:
    archive.service.faults.add(Fault(on="*", action="answer", status=404, body="<p>", times=None))


def _no_place(archive: Archive) -> None:
    archive.environ["OVERNIGHT_STATE"] = "/dev/null/x"


def _no_recordings(archive: Archive) -> None:
    (archive.recordings / "a.wav").unlink()
    archive.recordings.rmdir()


@pytest.mark.parametrize(
    ("trouble", "more", "code", "moments"),
    [
        (_too_short, [], ExitCode.PARTIAL, ["start", "failure"]),
        (_another_key, [], ExitCode.REFUSED, ["start", "failure"]),
        (_down, [], ExitCode.TRY_LATER, ["start", "failure"]),
        (_two_minutes, ["--max-hours", "0.02"], ExitCode.CAP_REACHED, ["start", "success"]),
        (_nothing, ["--max-hours", "-1"], ExitCode.USAGE, ["failure"]),
        (_no_place, [], ExitCode.USAGE, ["failure"]),
        (_nothing, ["--files-from", "none"], ExitCode.USAGE, ["failure"]),
        (_nothing, ["--log-file", "."], ExitCode.USAGE, ["failure"]),
        (_nothing, ["--config", "none.toml"], ExitCode.USAGE, ["failure"]),
        (_no_recordings, [], ExitCode.USAGE, ["failure"]),
    ],
)
async def test_each_end_of_a_run_is_told(
    archive: Archive,
    trouble: Callable[[Archive], None],
    more: Sequence[str],
    code: ExitCode,
    moments: list[str],
) -> None:
    """Hooks hear of the end with the exit code of the process, also where nothing could begin."""
    trouble(archive)

    ended = await archive.command(*archive.run_line(*more))

    assert ended.exit_code == code, ended.stderr
    assert told(archive) == moments
    summary = heard(archive, moments[-1])
    assert summary["exit_code"] == code
    assert summary["why"]


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_planned_end_is_a_success_of_a_run(archive: Archive, is_open: bool) -> None:
    """The end of a window is one where a run worked in it, and else nothing to be glad about."""
    hour = datetime.now(UTC).hour
    window = (
        f"{hour}:00-{(hour + 2) % 24}:00"
        if is_open
        else f"{(hour + 12) % 24}:00-{(hour + 14) % 24}:00"
    )
    archive.environ |= {"OVERNIGHT_WINDOW": window, "OVERNIGHT_TIME_ZONE": "UTC"}

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == (ExitCode.DONE if is_open else ExitCode.WINDOW_CLOSED)
    assert told(archive) == ["start", "success" if is_open else "failure"]


async def test_whoever_holds_the_lock_tells(archive: Archive) -> None:
    """A run that another one keeps from beginning ends with exit code 11, and in silence."""
    archive.state.mkdir(parents=True)
    async with lock(archive.state / "lock"):
        ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.LOCKED
    assert told(archive) == []


@pytest.mark.parametrize("number", [SIGINT, SIGTERM, SIGHUP], ids=lambda number: number.name)
async def test_a_run_that_is_stopped_is_told(archive: Archive, number: signal.Signals) -> None:
    """A signal ends the run, and hooks hear of it before the process is gone."""
    archive.service.faults.add(Fault(on="upload", action="stall", times=None))
    async with archive.started(*archive.run_line()) as process:
        await archive.service.held("upload")
        process.send_signal(number)
        ended = await archive.ended(process)

    assert ended.exit_code == 128 + number
    assert told(archive) == ["start", "failure"]
    assert heard(archive, "failure")["exit_code"] == ended.exit_code


async def test_a_hook_that_hangs_does_not_keep_a_stopped_run(archive: Archive) -> None:
    """When the grace is over the process leaves, and takes the command of its hook along."""
    fifo = archive.root / "fifo"
    os.mkfifo(fifo)
    archive.environ["OVERNIGHT_HOOKS__ON_FAILURE"] = f"sh -c 'exec cat {fifo}'"
    archive.environ["OVERNIGHT_STOP_GRACE"] = "0.5"
    archive.service.faults.add(Fault(on="upload", action="stall", times=None))
    async with archive.started(*archive.run_line()) as process:
        await archive.service.held("upload")
        process.send_signal(SIGTERM)
        ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.TERMINATED


@pytest.mark.parametrize("said", [None, "true"])
async def test_a_run_of_a_hook_tells_nobody(archive: Archive, said: str | None) -> None:
    """A hook that starts a run is not told of that one: it would start another, and so on."""
    archive.add("again/b.wav", b"two")
    if said is not None:
        archive.environ["OVERNIGHT_HOOKS__RUN"] = said
    again = [COMMAND, "run", str(archive.recordings / "again"), "-o", str(archive.root / "again")]
    archive.environ["ASSEMBLYAI_BASE_URL"] = archive.service.url
    (archive.root / "key").write_text(archive.service.key)
    archive.environ["OVERNIGHT_HOOKS__ON_START"] = f"sh -c 'echo start >>{archive.root}/told'"
    archive.environ["OVERNIGHT_HOOKS__ON_FINISH"] = shlex.join(
        ["env", f"OVERNIGHT_API_KEY_FILE={archive.root / 'key'}", *again]
    )

    ended = await archive.command(*archive.run_line())

    assert (ended.exit_code, ended.stderr.count("hook")) == (ExitCode.DONE, 0), ended.stderr
    assert (archive.root / "again/b.wav.json").exists()
    assert told(archive) == ["start", "success"]


async def test_a_hook_that_fails_is_no_end_of_a_run(archive: Archive) -> None:
    """One that hangs and one that fails are warnings; the exit code is that of the work."""
    archive.environ["OVERNIGHT_HOOKS__ON_START"] = "false"
    archive.environ["OVERNIGHT_HOOKS__ON_SUCCESS"] = "sh -c 'exec tail -f /dev/null'"
    archive.environ["OVERNIGHT_HOOKS__TIMEOUT"] = "300ms"

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.DONE
    assert "hook on_start ended with exit code 1" in ended.stderr
    assert "hook on_success was ended after 0.3 s" in ended.stderr


@pytest.mark.parametrize("command", ["nightly", "run"])
@pytest.mark.parametrize(
    ("text", "moments"),
    [
        ("concurency = 3\n", ["failure"]),
        ("hooks.on_fail = 'true'\n", ["failure"]),
        ("concurrency = 0\n", ["failure"]),
        ("no toml\n", ["failure"]),
        ("concurrency = 0\ndry_run = true\n", []),
        ("hooks.timeout = 'for ever'\n", []),  # nobody knows what else of it is meant
    ],
)
async def test_settings_that_are_wrong_are_told(
    archive: Archive, command: str, text: str, moments: list[str]
) -> None:
    """Whom the settings name hears of them as long as what they say of hooks can be read."""
    (archive.root / "overnight.toml").write_text(text)

    ended = await archive.command(command, archive.recordings, "--output", archive.output)

    assert ended.exit_code == ExitCode.USAGE
    assert told(archive) == moments
    if moments:
        summary = heard(archive, "failure")
        assert summary["exit_code"] == ExitCode.USAGE
        assert summary["reason"] in ended.stderr
    assert not archive.output.exists()


async def test_a_night_without_a_place_for_results_is_told(archive: Archive) -> None:
    """A night that has no output is a failure to whoever listens, as other settings are."""
    ended = await archive.command("nightly", archive.recordings)

    assert ended.exit_code == ExitCode.USAGE
    assert told(archive) == ["failure"]


async def test_several_refusals_are_told_as_they_end(archive: Archive) -> None:
    """What breaks off in the middle of its tasks is told with the exit code of the process."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        archive.environ["OVERNIGHT_WEBHOOK_LISTEN"] = f"127.0.0.1:{port}"
        archive.environ["OVERNIGHT_WEBHOOK_URL"] = "https://calls.example.org"
        ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.USAGE
    assert told(archive)[-1] == "failure"
    assert heard(archive, "failure")["exit_code"] == ended.exit_code


async def test_a_reprocess_tells_nobody(archive: Archive) -> None:
    """Somebody has started it, and was asked: no hook hears of it, watched or not."""
    await archive.command(*archive.run_line())
    before = told(archive)
    line = ("--output", archive.output, "--provider", archive.service.url, "--settle", "1s")

    ended = await archive.command("reprocess", *line, "--set", "punctuate=false", "--yes")

    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert told(archive) == before == ["start", "success"]
