"""
The nights that other tools fail, each told by the service's own books.

The command runs as a user runs it, against a scripted account that counts what it accepted, what
it would bill and what it was asked. Each scenario is one test:

    p01  killed with fifty transcripts under way, run again     no other transcript
    p02  killed before the answer to a submit is read           found in the list, not asked again
    p03  every 20th poll fails                                  nobody notices
    p04  an upload is told to wait                              everything waits, then goes on
    p05  results cannot be saved                                refused before a byte leaves
    p06  stopped at four of thirty                              four submitted, collected later
    p07  another option a month later                           told and priced, done when asked for
    p08  one call exported twice                                one transcript, two results
    p09  the API gains a field                                  saved byte for byte
    p10  the account runs dry at the third recording            stops at once, pays nothing twice
    p11  an account in the EU                                   asks the EU host only
    p12  the log of cron                                        a line a minute and a summary
    p13  two timers overlap                                     the second is locked out, or waits
    p14  two hundred under way beside other programs            polling takes under 1 % of the limit
"""

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from pipeline.errors import ExitCode
from pipeline.settings import Settings
from tests.support import service_shapes
from tests.support.runs import COMMAND, Archive, opened
from tests.support.service import Call, Fault

pytestmark = pytest.mark.anyio

FOREVER_S = 1e9
READ_ONLY = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"'


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def fill(archive: Archive, number: int) -> None:
    """So many recordings, all different."""
    for each in range(number):
        archive.add(f"{each // 100}/{each:03}.wav", b"call %d" % each)


def all_is_well(archive: Archive, number: int) -> None:
    """Each of so many recordings has the result of its own transcript, and each was paid once."""
    billable, results = archive.service.billable, archive.results()
    assert len(archive.service.transcripts) == number
    assert (len(billable), set(billable.values())) == (number, {1})
    ids = {json.loads(result)["id"] for result in results.values()}
    assert ids == archive.service.transcripts.keys()
    assert len(results) == number


async def killed(archive: Archive, *line: str | Path, once: Callable[[], bool]) -> None:
    """The command, ended by `kill -9` as soon as the service has seen this."""
    async with archive.started(*line) as process:
        with anyio.fail_after(30):
            await archive.service.until(once)
            process.kill()
            await process.wait()


def finish(archive: Archive) -> None:
    """Whatever is at the service completes, and what comes is quick again."""
    archive.service.transcript_seconds = 0.05
    for transcript in list(archive.service):
        archive.service.complete(transcript.id)


async def test_p01_kill_with_fifty_in_flight(archive: Archive) -> None:
    """Killed with 50 transcripts under way, the next run collects these 50 and asks for none."""
    fill(archive, 50)
    archive.service.transcript_seconds = FOREVER_S
    line = archive.run_line("--concurrency", "50")
    await killed(archive, *line, once=lambda: len(archive.service.transcripts) == 50)
    finish(archive)

    ended = await archive.command(*line)

    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert archive.service.requests["submit"] == 50
    all_is_well(archive, 50)


async def test_p02_kill_before_the_answer_is_read(archive: Archive) -> None:
    """Killed with a submit accepted and its answer unread, the next run finds it in the list."""
    fill(archive, 1)
    archive.service.faults.add(Fault(on="submit", action="hold"))
    await killed(archive, *archive.run_line(), once=lambda: len(archive.service.transcripts) == 1)
    archive.service.release()

    ended = await archive.command(*archive.run_line())

    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert archive.service.requests["submit"] == 1
    all_is_well(archive, 1)


async def test_p03_every_twentieth_poll_fails(archive: Archive) -> None:
    """A gateway that loses every 20th look at list and transcripts is nobody's business."""
    fill(archive, 100)
    looks = count(1)

    def is_twentieth(call: Call) -> bool:
        return call.kind in ("list", "get") and next(looks) % 20 == 0

    bad_gateway = Fault(on="*", action="answer", status=502, match=is_twentieth, times=None)
    archive.service.faults.add(bad_gateway)

    ended = await archive.command(*archive.run_line())

    assert bad_gateway.met >= 5
    assert ended.exit_code == ExitCode.DONE
    assert ended.stderr == ""
    assert ended.stdout.startswith(b"100 recordings: 100 written\n")
    all_is_well(archive, 100)


async def test_p04_an_upload_is_told_to_wait(archive: Archive) -> None:
    """After a 429 nothing at all is sent for as long as `Retry-After` says, then all goes on."""
    fill(archive, 10)
    wait = {"Retry-After": "2"}
    archive.service.faults.add(Fault(on="upload", action="answer", status=429, headers=wait))

    ended = await archive.command(*archive.run_line("--uploads", "1"))

    told = [call.status for call in archive.service.log].index(429)
    refused, following = archive.service.log[told : told + 2]
    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert following.at - refused.at >= 2.0
    all_is_well(archive, 10)


@pytest.mark.parametrize("place", ["a file/results", "/proc/results"])
async def test_p05_results_cannot_be_saved(archive: Archive, place: str) -> None:
    """Where no result can be saved, the run says so before anything is sent."""
    fill(archive, 8)
    (archive.root / "a file").write_text("no folder")

    ended = await archive.command("run", archive.recordings, "--output", archive.root / place)

    assert ended.exit_code == ExitCode.USAGE
    assert f"{place}: " in ended.stderr
    assert "nothing was sent" in ended.stderr
    assert archive.service.requests.total() == 0


async def test_p05_recordings_are_read_only(archive: Archive) -> None:
    """Recordings on a read-only mount are refused as the place of results, and transcribed."""
    fill(archive, 8)
    mounted = ["unshare", "-rm", "sh", "-c", READ_ONLY, "sh", str(archive.recordings)]
    if (await anyio.run_process([*mounted, "true"], check=False)).returncode:
        pytest.skip("needs leave to mount")
    environ = {"PATH": os.environ["PATH"], "ASSEMBLYAI_API_KEY": archive.service.key}

    async def run(output: Path) -> subprocess.CompletedProcess[bytes]:
        line = [COMMAND, "run", archive.recordings, "-o", output, "--provider", archive.service.url]
        return await anyio.run_process([*mounted, *map(str, line)], check=False, env=environ)

    beside = await run(archive.recordings)
    sent = archive.service.requests.total()
    elsewhere = await run(archive.output)

    assert (beside.returncode, sent) == (ExitCode.USAGE, 0)
    assert b"nothing was sent: cannot write to" in beside.stderr
    assert elsewhere.returncode == ExitCode.DONE
    all_is_well(archive, 8)


async def test_p06_stopped_at_four_of_thirty(archive: Archive) -> None:
    """Stopped with 4 of 30 submitted, no fifth is, and the next run collects the four."""
    fill(archive, 30)
    archive.service.transcript_seconds = FOREVER_S
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=None, skip=4))
    async with archive.started(*archive.run_line("--json")) as process:
        with anyio.fail_after(30):
            await archive.service.held("upload", 8)
            await archive.service.until(lambda: len(archive.service.transcripts) == 4)
        process.send_signal(signal.SIGTERM)
        stopped = await archive.ended(process)
    at_the_stop = len(archive.service.transcripts)
    archive.service.faults.clear()
    archive.service.release()
    finish(archive)

    again = await archive.command(*archive.run_line("--json"))

    assert (stopped.exit_code, stopped.summary["parked"]) == (ExitCode.TERMINATED, 30)
    assert at_the_stop == 4
    assert (again.exit_code, again.summary["written"]) == (ExitCode.DONE, 30)
    assert again.summary["transcripts"] == 26
    all_is_well(archive, 30)


async def test_p07_another_option_a_month_later(archive: Archive) -> None:
    """Other options pay for nothing by themselves: a run says what a redo would come to."""
    fill(archive, 3)
    speakers = archive.run_line("--set", "speaker_labels=true")
    await archive.command(*archive.run_line())

    asked = await archive.command(*speakers)
    paid_unasked = len(archive.service.transcripts) - 3
    redone = await archive.command(*speakers, "--redo-changed", "--json")

    assert (asked.exit_code, paid_unasked) == (ExitCode.DONE, 0)
    assert b"3 kept as they are" in asked.stdout
    assert b"`--redo-changed` asks anew for the 3 " in asked.stdout
    assert b"h of audio, about $" in asked.stdout
    assert redone.summary["written"] == 3
    labelled = [t.options.get("speaker_labels", False) for t in archive.service]
    assert labelled == [False] * 3 + [True] * 3
    assert len(archive.versions()) == 3


async def test_p08_one_call_exported_twice(archive: Archive) -> None:
    """Two files of the same bytes are one transcript, and each has its result."""
    archive.add("monday/call.wav", b"one call")
    archive.add("monday/call (1).wav", b"one call")

    ended = await archive.command(*archive.run_line("--json"))

    results = archive.results()
    assert (ended.exit_code, ended.summary["written"]) == (ExitCode.DONE, 2)
    assert results.keys() == {"monday/call.wav.json", "monday/call (1).wav.json"}
    assert len(set(results.values())) == 1
    assert archive.service.billable.total() == len(archive.service.transcripts) == 1


async def test_p09_the_api_gains_a_field(archive: Archive) -> None:
    """What nobody knew of when this was written lies in the result as the service sent it."""
    fill(archive, 1)
    new = {"from_the_future": {"größe": 12345678901234567890, "ratio": 2.50, "none": None}}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=new))

    ended = await archive.command(*archive.run_line())

    (transcript,) = archive.service
    sent = json.dumps(service_shapes.transcript_json(transcript) | new, ensure_ascii=False)
    assert ended.exit_code == ExitCode.DONE, ended.stderr
    assert list(archive.results().values()) == [sent.encode()]


async def test_p10_the_account_runs_dry(archive: Archive) -> None:
    """Out of money at the third of 300, the run stops, says why, and is taken up after a top-up."""
    fill(archive, 300)
    archive.service.faults.add(Fault(on="submit", action="negative_balance", times=None, skip=2))

    dry = await archive.command(*archive.run_line("--json"))
    uploads = archive.service.requests["upload"]
    archive.service.faults.clear()
    topped_up = await archive.command(*archive.run_line("--json"))

    assert dry.exit_code == ExitCode.REFUSED
    assert "balance is negative" in dry.summary["reason"]
    assert (dry.summary["written"], dry.summary["parked"]) == (2, 298)
    assert uploads < 30
    assert (topped_up.exit_code, topped_up.summary["written"]) == (ExitCode.DONE, 298)
    all_is_well(archive, 300)


async def test_p11_an_account_in_the_eu(archive: Archive) -> None:
    """`--provider assemblyai-eu` connects to the EU host and to no other; it is the same vendor."""
    fill(archive, 1)
    asked, asked_once = [], anyio.Event()

    async def refuse(stream: SocketStream) -> None:
        async with stream:
            asked.append((await stream.receive()).splitlines()[0])
            asked_once.set()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        _, port = listener.extra_attributes[anyio.abc.SocketAttribute.local_address]()
        archive.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{port}"
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, refuse)
            places = ("run", archive.recordings, "--output", archive.output)
            async with archive.started(*places, "--provider", "assemblyai-eu"):
                with anyio.fail_after(30):
                    await asked_once.wait()
            group.cancel_scope.cancel()

    kinds = {Settings(provider=name).provider_kind for name in ("assemblyai", "assemblyai-eu")}
    assert set(asked) == {b"CONNECT api.eu.assemblyai.com:443 HTTP/1.1"}
    assert kinds == {"assemblyai"}


async def test_p12_the_log_of_cron(archive: Archive) -> None:
    """500 recordings leave a line a minute and a summary of some lines, not one for each."""
    fill(archive, 500)

    ended = await archive.command(*archive.run_line())

    (summary,) = [
        json.loads(each.read_text()) for each in archive.state.glob("runs/*/summary.json")
    ]
    summed_up = ended.stdout.decode().splitlines()
    assert ended.exit_code == ExitCode.DONE
    assert len(ended.stderr.splitlines()) <= summary["elapsed_s"] / 60
    assert summed_up[0] == "500 recordings: 500 written"
    assert len(summed_up) == 3
    all_is_well(archive, 500)


async def test_p13_two_timers_overlap(archive: Archive) -> None:
    """The second run names the first and leaves with 11; with `--wait-lock` it finds all done."""
    fill(archive, 20)
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=None))
    async with archive.started(*archive.run_line()) as first:
        with anyio.fail_after(30):
            await archive.service.held("upload")
        second = await archive.command(*archive.run_line())
        async with archive.started(*archive.run_line("--wait-lock", "--json")) as waiting:
            archive.service.faults.clear()
            archive.service.release()
            done = await archive.ended(first)
            waited = await archive.ended(waiting)

    assert (second.exit_code, second.stdout) == (ExitCode.LOCKED, b"")
    assert str(first.pid) in second.stderr
    assert (done.exit_code, waited.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert waited.summary["already_written"] == 20
    assert waited.summary["requests"] == {}
    all_is_well(archive, 20)


async def test_p14_two_hundred_beside_other_programs(archive: Archive) -> None:
    """One request asks for 200 transcripts: at the usual pace, under 1 % of the account's limit."""
    fill(archive, 200)
    archive.service.transcript_seconds = FOREVER_S
    archive.service.add_foreign(100)
    service = archive.service

    async with archive.started(*archive.run_line("--concurrency", "200")) as process:
        with anyio.fail_after(50):
            await service.until(lambda: len(service.transcripts) == 300)
            service.requests.clear()
            await service.until(lambda: service.requests["list"] >= 22)
            asked = dict(service.requests)
            finish(archive)
            ended = await archive.ended(process)

    usual = Settings()
    sweeps = usual.requests.window_s / usual.poll_interval
    pages = 2  # 200 rows each, and others' transcripts are among them
    assert asked.keys() == {"list"}
    assert sweeps * pages <= usual.requests.count / 100
    assert ended.exit_code == ExitCode.DONE
    assert service.billable.total() == len(archive.results()) == 200
