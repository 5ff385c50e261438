"""The `overnight` command as a process: killed, stopped, locked out, piped, and run again."""

import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from subprocess import PIPE

import anyio
import pytest
from anyio import to_thread
from anyio.abc import Process

from pipeline.errors import ExitCode
from tests.support.runs import Archive, Ended, opened, recording
from tests.support.service import Fault
from tests.support.service_faults import Action, Kind

pytestmark = pytest.mark.anyio

CONTENTS = {f"{number}.wav": b"content %d" % number for number in range(6)}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def fill(archive: Archive) -> None:
    """Six recordings of six contents, and a twin of one of them."""
    for name, content in CONTENTS.items():
        archive.add(name, content)
    archive.add("sub/twin.wav", CONTENTS["0.wav"])


def accounted(summary: dict[str, int]) -> bool:
    """Whether every recording that was found ended as exactly one thing."""
    ends = ("written", "already_written", "kept", "failed", "skipped", "parked")
    return summary["found"] == sum(summary[end] for end in ends)


def all_is_well(archive: Archive) -> None:
    """Each recording has its own result, each content was paid once, nothing else lies about."""
    results = archive.results()
    assert sorted(results) == sorted([*(f"{name}.json" for name in CONTENTS), "sub/twin.wav.json"])
    for name, content in [*CONTENTS.items(), ("sub/twin.wav", CONTENTS["0.wav"])]:
        transcripts = archive.service.accepted(content)
        assert [t.is_billed for t in transcripts] == [True]
        assert json.loads(results[f"{name}.json"])["id"] == transcripts[0].id
    assert not list(archive.output.rglob("*~overnight"))


# --- said and done -----------------------------------------------------------------------------


async def test_a_run_and_another(archive: Archive) -> None:
    """The first run writes everything, the second does nothing, says so, and asks for nothing."""
    fill(archive)

    first = await archive.command(*archive.run_line())
    archive.service.requests.clear()
    second = await archive.command(*archive.run_line())

    assert (first.exit_code, second.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert archive.service.requests == {}
    all_is_well(archive)
    assert b"7" in first.stdout
    assert b"7" in second.stdout
    assert b"already" in second.stdout


async def test_json_is_one_object_a_line(archive: Archive) -> None:
    """With `--json` stdout is NDJSON, the same as the run's events; the last is the summary."""
    fill(archive)
    archive.add("empty.wav", b"")

    ended = await archive.command(*archive.run_line("--json"))

    kinds = {line["type"] for line in ended.lines}
    assert {
        "run_started",
        "recording_found",
        "uploaded",
        "submitted",
        "completed",
        "written",
    } <= kinds
    assert {"skipped", "summary"} <= kinds
    for line in ended.lines:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", line["time"])
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", key) for key in line)
    assert ended.lines[0]["type"] == "run_started"
    assert ended.summary["type"] == "summary"
    (run,) = (archive.state / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text()) == ended.summary
    stored = [json.loads(line) for line in (run / "events.ndjson").read_text().splitlines()]
    assert stored == ended.lines
    assert accounted(ended.summary)


async def test_stdout_is_for_the_summary(archive: Archive) -> None:
    """Without `--json` stdout holds the summary alone; with `-q` nothing. The rest is on stderr."""
    fill(archive)

    loud = await archive.command(*archive.run_line())
    quiet = await archive.command(*archive.run_line("-q"))

    assert loud.stdout.decode().splitlines()[0].startswith("7 ")
    assert quiet.stdout == b""
    assert quiet.stderr == ""


async def test_every_end_is_accounted_for(archive: Archive) -> None:
    """Written, already written, failed, skipped and parked add up to what was found."""
    archive.add("old.wav", b"old")
    await archive.command(*archive.run_line())
    archive.add("new.wav", b"new")
    archive.add("bad.wav", b"ERROR:Transcoding failed.\n")
    archive.add("empty.wav", b"")
    archive.add("notes.txt", b"ignored")
    foreign, new = {"id": "x" * 36}, sha256(b"new").hexdigest()
    fault = Fault(on="get", action="patch", times=None, match=new, patch=foreign)
    archive.service.faults.add(fault)

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.PARTIAL
    assert accounted(ended.summary)
    counts = {key: ended.summary[key] for key in ("found", "already_written", "failed", "skipped")}
    assert counts == {"found": 4, "already_written": 1, "failed": 1, "skipped": 1}
    assert (ended.summary["parked"], ended.summary["ignored"]) == (1, 1)


async def test_a_broken_pipe_is_no_error(archive: Archive) -> None:
    """Whoever reads the output may leave: the run goes on and ends well."""
    fill(archive)

    async with archive.started(*archive.run_line("--json")) as process:
        assert process.stdout is not None
        await process.stdout.receive()
        await process.stdout.aclose()
        assert process.stderr is not None
        said = b"".join([chunk async for chunk in process.stderr])
        with anyio.fail_after(30):
            await process.wait()

    assert process.returncode == ExitCode.DONE
    assert b"Traceback" not in said
    all_is_well(archive)


async def test_a_list_on_stdin(archive: Archive) -> None:
    """`--files-from -` takes the list from stdin, relative to the working directory."""
    fill(archive)

    line = archive.run_line("--files-from", "-", "--json")
    async with archive.started(*line, stdin=PIPE) as process:
        assert process.stdin is not None
        await process.stdin.send(b"recordings/1.wav\0recordings/sub/twin.wav\0")
        await process.stdin.aclose()
        ended = await archive.ended(process)

    assert ended.summary["written"] == 2
    assert sorted(archive.results()) == ["1.wav.json", "sub/twin.wav.json"]


async def test_a_name_that_looks_like_a_flag(archive: Archive) -> None:
    """A recording called like a flag, with newlines and bytes that are no text, is just a name."""
    names = [b"--force.wav", b"two\nlines.wav", b"\xff.wav"]
    for name in names:
        archive.add(name, b"content of " + name)

    ended = await archive.command(*archive.run_line("--json"))
    listed = await archive.command("list", "-o", archive.output)

    assert ended.summary["written"] == 3
    assert len(listed.stdout.splitlines()) == 3
    assert listed.exit_code == ExitCode.DONE


# --- kill --------------------------------------------------------------------------------------

KILLS = [
    ("upload", "hold_before"),
    ("upload", "hold"),
    ("submit", "hold_before"),
    ("submit", "hold"),
    ("get", "hold_before"),
    ("get", "hold"),
    ("list", "hold"),
]


@pytest.mark.parametrize(("kind", "action"), KILLS)
async def test_killed_and_run_again(archive: Archive, kind: Kind, action: Action) -> None:
    """`kill -9` while a request of any kind is under way: the next run has it all, paid once."""
    fill(archive)
    skip = 2 if kind != "list" else 1
    archive.service.faults.add(Fault(on=kind, action=action, times=None, skip=skip))
    async with archive.started(*archive.run_line("--uploads", "2")) as process:
        with anyio.fail_after(30):
            await archive.service.held(kind)
            process.kill()
            await process.wait()
    archive.service.faults.clear()
    archive.service.release()

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert accounted(ended.summary)
    all_is_well(archive)


async def test_killed_again_and_again(archive: Archive) -> None:
    """Killed at every single submit in turn, the archive is done in the end, paid once."""
    fill(archive)
    for _ in range(4):
        archive.service.faults.add(Fault(on="submit", action="hold", times=1))
        async with archive.started(*archive.run_line("--uploads", "1")) as process:
            with anyio.fail_after(30):
                await archive.service.held("submit")
                process.kill()
                await process.wait()
        archive.service.release()

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.DONE
    all_is_well(archive)


async def test_a_killed_run_holds_no_lock_and_no_upload(archive: Archive) -> None:
    """After `kill -9` with an upload at the service, the next run uses that upload."""
    archive.add("0.wav", CONTENTS["0.wav"])
    archive.service.faults.add(Fault(on="submit", action="answer", status=429, times=None))
    async with archive.started(*archive.run_line()) as process:
        with anyio.fail_after(30):
            await archive.service.until(lambda: archive.service.requests["submit"] > 0)
            await archive.service.until(lambda: archive.service.log[-1].status == 429)
            while await archive.rows("SELECT state FROM attempts") != [("uploaded",)]:
                await anyio.wait_all_tasks_blocked()
        process.kill()
        await process.wait()
    archive.service.faults.clear()

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.summary["written"] == 1
    assert archive.service.requests["upload"] == 1


# --- stop --------------------------------------------------------------------------------------


async def stopped(archive: Archive, process: Process, number: signal.Signals) -> Ended:
    """How it ends after one signal, within its grace."""
    process.send_signal(number)
    with anyio.fail_after(15):
        return await archive.ended(process)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
)
async def test_a_signal_lets_submits_finish(
    archive: Archive, number: signal.Signals, code: ExitCode
) -> None:
    """One signal: nothing new is sent, the id of a submit under way is noted, and 130 or 143."""
    fill(archive)
    archive.service.transcript_seconds = 3600.0
    archive.service.faults.add(Fault(on="submit", action="hold", times=1))
    async with archive.started(*archive.run_line("--json", "--uploads", "1")) as process:
        with anyio.fail_after(30):
            (held,) = await archive.service.held("submit")
            process.send_signal(number)
            # The signal has been heeded when it says so.
            assert process.stdout is not None
            said = b""
            while signal.Signals(number).name.encode() not in said:
                said += await process.stdout.receive()
            sent = archive.service.requests["upload"]
            archive.service.release()
            ended = await archive.ended(process)

    lines = [json.loads(line) for line in (said + ended.stdout).splitlines()]
    summary = lines[-1]
    assert ended.exit_code == code
    assert summary["exit_code"] == code
    assert accounted(summary)
    assert summary["parked"] == 7
    # Of uploads there is one at a time; that one may have been on its way.
    assert archive.service.requests["upload"] <= min(sent + 1, 6)
    known = await archive.rows("SELECT transcript_id FROM attempts WHERE state = 'accepted'")
    (transcript,) = archive.service.accepted(held.content)
    assert (transcript.id,) in known
    assert await archive.rows("SELECT * FROM attempts WHERE state = 'submitting'") == []

    for each in archive.service:
        archive.service.complete(each.id)
    archive.service.transcript_seconds = 0.05
    again = await archive.command(*archive.run_line())
    assert again.exit_code == ExitCode.DONE
    all_is_well(archive)


async def test_stopping_ends_uploads(archive: Archive) -> None:
    """An upload under way is given up at once: it costs nothing to make it again."""
    fill(archive)
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=None))
    async with archive.started(*archive.run_line("--json")) as process:
        with anyio.fail_after(30):
            await archive.service.held("upload")
        began = anyio.current_time()
        ended = await stopped(archive, process, signal.SIGTERM)
        took_s = anyio.current_time() - began

    assert ended.exit_code == ExitCode.TERMINATED
    assert took_s < 5
    assert ended.summary["parked"] == 7
    assert all("SIGTERM" in reason for reason in ended.summary["reasons"]["parked"])


async def test_the_grace_is_an_end(archive: Archive) -> None:
    """A submit that is never answered does not keep the program: it is left as a lost answer."""
    archive.add("0.wav", CONTENTS["0.wav"])
    archive.environ["OVERNIGHT_STOP_GRACE"] = "500ms"
    archive.service.faults.add(Fault(on="submit", action="hold", times=1))
    async with archive.started(*archive.run_line("--json")) as process:
        with anyio.fail_after(30):
            await archive.service.held("submit")
        ended = await stopped(archive, process, signal.SIGINT)

    assert ended.exit_code == ExitCode.INTERRUPTED
    assert ended.summary["parked"] == 1
    archive.service.release()
    again = await archive.command(*archive.run_line("--json"))
    assert again.summary["written"] == 1
    assert archive.service.requests["submit"] == 1


async def test_a_second_signal_leaves_now(archive: Archive) -> None:
    """The second signal does not wait for anything, and the next run continues all the same."""
    fill(archive)
    archive.service.faults.add(Fault(on="submit", action="hold", times=None))
    async with archive.started(*archive.run_line("--json")) as process:
        with anyio.fail_after(30):
            await archive.service.held("submit")
            process.send_signal(signal.SIGTERM)
            assert process.stdout is not None
            said = b""
            while b"SIGTERM" not in said:
                said += await process.stdout.receive()
            process.send_signal(signal.SIGTERM)
        with anyio.fail_after(5):
            ended = await archive.ended(process)

    assert ended.exit_code == ExitCode.TERMINATED
    archive.service.faults.clear()
    archive.service.release()
    assert (await archive.command(*archive.run_line())).exit_code == ExitCode.DONE
    all_is_well(archive)


# --- lock --------------------------------------------------------------------------------------


async def test_two_runs_at_once(archive: Archive) -> None:
    """A second run beside the first leaves at once with 11, names the holder, and sends nothing."""
    fill(archive)
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=None))
    async with archive.started(*archive.run_line()) as first:
        with anyio.fail_after(30):
            await archive.service.held("upload", 7)
        seen = archive.service.requests.total()

        second = await archive.command(*archive.run_line())

        assert second.exit_code == ExitCode.LOCKED
        assert str(first.pid) in second.stderr
        assert "--wait-lock" in second.stderr
        assert archive.service.requests.total() == seen
        archive.service.faults.clear()
        archive.service.release()
        assert (await archive.ended(first)).exit_code == ExitCode.DONE


async def test_waiting_for_the_lock(archive: Archive) -> None:
    """With `--wait-lock` the second run begins when the first has ended, and finds all done."""
    fill(archive)
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=1))
    async with archive.started(*archive.run_line()) as first:
        with anyio.fail_after(30):
            await archive.service.held("upload")
        async with archive.started(*archive.run_line("--wait-lock", "--json")) as second:
            archive.service.release()
            done = await archive.ended(first)
            waited = await archive.ended(second)

    assert (done.exit_code, waited.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert waited.summary["already_written"] == 7
    all_is_well(archive)


async def test_who_lost_the_folder_asks_for_nothing_more(archive: Archive) -> None:
    """A run whose state folder was taken over submits nothing more and leaves with 11."""
    fill(archive)
    archive.service.faults.add(Fault(on="upload", action="hold", times=None))
    async with archive.started(*archive.run_line()) as process:
        with anyio.fail_after(30):
            await archive.service.held("upload")
        other = archive.state / "other"
        other.write_text("another-machine 4711 2026-11-20T22:00:00+00:00 5eb1f00d\n")
        other.replace(archive.state / "lock")
        archive.service.faults.clear()
        archive.service.release()
        lost = await archive.ended(process)
    refused = await archive.command(*archive.run_line())

    assert (lost.exit_code, refused.exit_code) == (ExitCode.LOCKED, ExitCode.LOCKED)
    assert "another-machine 4711" in lost.stderr + lost.stdout.decode()
    assert archive.service.requests["submit"] == 0
    taken = await archive.command(*archive.run_line("--break-lock"))
    assert taken.exit_code == ExitCode.DONE
    all_is_well(archive)


async def test_status_beside_a_run(archive: Archive) -> None:
    """`status` and `list` work while a run is under way, and do not disturb it."""
    fill(archive)
    archive.service.faults.add(Fault(on="submit", action="hold", times=None))
    async with archive.started(*archive.run_line()) as process:
        with anyio.fail_after(30):
            await archive.service.held("submit")
        status = await archive.command("status", "-o", archive.output, "--json")
        listed = await archive.command("list", "-o", archive.output)
        archive.service.faults.clear()
        archive.service.release()
        ended = await archive.ended(process)

    assert status.exit_code == listed.exit_code == ended.exit_code == ExitCode.DONE
    assert json.loads(status.stdout)["recordings"] == {"found": 7}
    assert len(listed.stdout.splitlines()) == 7


# --- exit codes --------------------------------------------------------------------------------


async def test_no_key_is_told_first(archive: Archive) -> None:
    """Without a key the vendor's service is not asked: exit 4, with the way to do without one."""
    fill(archive)
    archive.environ["ASSEMBLYAI_API_KEY"] = ""

    ended = await archive.command("run", archive.recordings, "-o", archive.output)

    assert ended.exit_code == ExitCode.REFUSED
    assert "ASSEMBLYAI_API_KEY" in ended.stderr
    assert "--provider local" in ended.stderr
    assert not archive.output.exists()


async def test_a_refused_key(archive: Archive) -> None:
    """A key that the service refuses ends the run at once with 4; nothing counts as failed."""
    fill(archive)
    archive.environ["ASSEMBLYAI_API_KEY"] = "another-key"

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.REFUSED
    assert ended.summary["parked"] == 7
    assert archive.service.requests.total() == 1


async def test_the_key_of_another_project(archive: Archive) -> None:
    """With a key that does not know our open transcripts the run is refused, nothing is lost."""
    archive.add("0.wav", CONTENTS["0.wav"])
    archive.service.transcript_seconds = 3600.0
    async with archive.started(*archive.run_line()) as process:
        await accepted(archive)
        await stopped(archive, process, signal.SIGTERM)
    archive.add("1.wav", CONTENTS["1.wav"])
    archive.environ["ASSEMBLYAI_API_KEY"] = archive.service.foreign_key

    refused = await archive.command(*archive.run_line("--json"))

    assert refused.exit_code == ExitCode.REFUSED
    assert archive.service.requests["upload"] == 1
    assert await archive.rows("SELECT state FROM transcripts") == [("submitted",)]
    assert refused.summary["failed"] == 0


async def accepted(archive: Archive) -> None:
    """Waits until the ledger knows that the service has accepted something."""
    query = "SELECT 1 FROM attempts WHERE state = 'accepted'"
    with anyio.fail_after(30):
        await archive.service.until(lambda: archive.service.requests["submit"] > 0)
        while not await archive.rows(query):
            await anyio.wait_all_tasks_blocked()


async def test_another_key_of_the_same_project(archive: Archive) -> None:
    """A rotated key of the same project collects what the old one asked for."""
    archive.add("0.wav", CONTENTS["0.wav"])
    archive.service.transcript_seconds = 3600.0
    async with archive.started(*archive.run_line()) as process:
        await accepted(archive)
        await stopped(archive, process, signal.SIGTERM)
    for transcript in archive.service:
        archive.service.complete(transcript.id)
    archive.environ["ASSEMBLYAI_API_KEY"] = "second-key"

    ended = await archive.command(*archive.run_line("--json"))

    assert ended.exit_code == ExitCode.DONE
    assert ended.summary["written"] == 1
    assert archive.service.requests["submit"] == 1


async def test_a_service_that_is_down(archive: Archive, free_tcp_port: int) -> None:
    """Where nothing answers the exit code says: try later. Everything found is parked."""
    fill(archive)
    line = archive.run_line("--json")
    line[line.index(archive.service.url)] = f"http://127.0.0.1:{free_tcp_port}"

    ended = await archive.command(*line)

    assert ended.exit_code == ExitCode.TRY_LATER
    assert ended.summary["parked"] == 7
    assert "reached" in ended.summary["reason"]


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["busy", "bad key scripted-key"])
async def test_the_key_is_written_nowhere(archive: Archive, said: str) -> None:
    """Neither ledger nor logs, events, summary, results or streams hold the key."""
    fill(archive)
    key = archive.service.key
    archive.service.faults.add(Fault(on="submit", action="answer", status=500, body=said))
    archive.service.faults.add(Fault(on="get", action="garbage"))
    log = archive.root / "log.ndjson"

    ended = await archive.command(*archive.run_line("--json", "-vv", "--log-file", log))

    assert ended.exit_code == ExitCode.DONE
    files = [log, *(path for path in archive.output.rglob("*") if path.is_file())]
    assert len(files) > 10
    needle = key.encode()
    assert [str(path) for path in files if needle in path.read_bytes()] == []
    assert needle not in ended.stdout
    assert key not in ended.stderr


async def test_what_is_said_is_in_the_results_alone(archive: Archive) -> None:
    """The text of a transcript is in no log, event, ledger or stream."""
    archive.add("0.wav", b"WORDS:200\nspoken")
    log = archive.root / "log.ndjson"
    archive.service.faults.add(Fault(on="get", action="truncate", times=2, skip=0))

    ended = await archive.command(*archive.run_line("--json", "-vv", "--log-file", log))

    text = json.loads(archive.results()["0.wav.json"])["text"]
    words = " ".join(text.split()[:4])
    assert len(words) > 10
    told = [log, *(path for path in archive.state.rglob("*") if path.is_file())]
    assert [str(path) for path in told if words.encode() in path.read_bytes()] == []
    assert words.encode() not in ended.stdout
    assert words not in ended.stderr


async def test_the_key_goes_to_its_host_only(archive: Archive, tmp_path: Path) -> None:
    """A redirect is not followed: no other server ever sees the key."""
    archive.add("0.wav", CONTENTS["0.wav"])
    async with opened(tmp_path / "other") as other:
        kinds: tuple[Kind, ...] = ("upload", "submit", "get")
        for kind in kinds:
            archive.service.faults.add(
                Fault(on=kind, action="redirect", location=f"{other.service.url}/v2/{kind}")
            )
        ended = await archive.command(*archive.run_line("--json"))

        assert other.service.log == []
    assert ended.summary["written"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_the_command_line_holds_no_key(archive: Archive) -> None:
    """The key is not on the command line that other users of the machine can read."""
    archive.add("0.wav", CONTENTS["0.wav"])
    archive.service.faults.add(Fault(on="upload", action="hold_before"))
    async with archive.started(*archive.run_line()) as process:
        with anyio.fail_after(30):
            await archive.service.held("upload")
        line = await to_thread.run_sync(Path(f"/proc/{process.pid}/cmdline").read_bytes)
        archive.service.release()
        await archive.ended(process)

    assert archive.service.key.encode() not in line


# --- where -------------------------------------------------------------------------------------


async def test_nothing_is_written_elsewhere(archive: Archive) -> None:
    """Input is only read, and nothing is made outside of output and state."""
    fill(archive)
    recording(archive.root / "work/keep.txt", b"mine")
    before = _names(archive.root)
    times = {path: os.stat(path).st_mtime_ns for path in archive.recordings.rglob("*")}

    await archive.command(*archive.run_line("--format", "all", "--state", archive.root / "state"))

    made = _names(archive.root) - before
    assert {name.split("/")[0] for name in made} == {"transcripts", "state"}
    assert {p: os.stat(p).st_mtime_ns for p in archive.recordings.rglob("*")} == times
    assert not archive.state.exists()


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


async def test_the_base_url_of_the_environment(archive: Archive) -> None:
    """`ASSEMBLYAI_BASE_URL` names the server when nothing else does."""
    fill(archive)
    archive.environ["ASSEMBLYAI_BASE_URL"] = archive.service.url
    line = archive.run_line("--json")
    at = line.index("--provider")

    ended = await archive.command(*line[:at], *line[at + 2 :])

    assert ended.exit_code == ExitCode.DONE
    all_is_well(archive)
