"""`overnight verify`: what it finds, what it leaves alone, and what it brings back for nothing."""

import math
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from anyio import to_thread
from anyio.abc import Process

from jobs.finding import Finding
from jobs.verify import Verified, repair, verify
from pipeline.errors import ExitCode, LedgerUnusable, SettingsError
from pipeline.names import temporary
from tests.support.runs import Archive, opened, recording
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ONE, TWO, THREE = b"one", b"two", b"three"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", ONE)
        archive.add("b/b.wav", TWO)
        archive.add("c.wav", THREE)
        yield archive


async def look(archive: Archive) -> tuple[Verified, list[Finding]]:
    """What `verify` finds."""
    told: list[Finding] = []
    return await to_thread.run_sync(verify, archive.settings(), told.append), told


async def mended(archive: Archive, **given: object) -> tuple[Verified, list[Finding]]:
    """What `verify --repair` finds, having sent nothing but questions."""
    before = dict(archive.service.requests)
    told: list[Finding] = []
    verified = await repair(archive.settings(**given), told.append, emit=lambda _: None)
    for paid in ("upload", "submit"):
        assert archive.service.requests[paid] == before.get(paid, 0)
    return verified, told


def kinds(findings: list[Finding]) -> list[tuple[str, str | None]]:
    return sorted((finding.kind, finding.path) for finding in findings)


async def said(process: Process, what: bytes, times: int) -> None:
    """Wait until a command has said something so often."""
    assert process.stdout is not None
    text = b""
    while text.count(what) < times:
        text += await process.stdout.receive()


def files(archive: Archive) -> dict[Path, tuple[int, int]]:
    """Every file of results and state, but for what SQLite keeps while a ledger is open."""
    return {
        path: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in archive.output.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


# --- looking -------------------------------------------------------------------------------------


async def test_all_is_well_after_a_run(archive: Archive) -> None:
    """A finished archive has no finding; derived files and the input in the output are known."""
    await archive.run(formats=["srt", "txt"])
    inside = archive.output / "more"
    recording(inside / "d.wav", b"four")
    await archive.run(inside)

    verified, told = await look(archive)

    assert told == []
    assert (verified.results, verified.unchanged, verified.gone) == (4, 4, 0)
    assert verified.exit_code == ExitCode.DONE


async def test_what_is_wrong_is_told(archive: Archive) -> None:
    """A result that is gone, cut, another's, or altered is told, each with its transcript."""
    archive.add("d.wav", b"four")
    await archive.run()
    output, (mine,) = archive.output, archive.service.accepted(ONE)
    (output / "a.wav.json").unlink()
    cut = output / "b/b.wav.json"
    cut.write_bytes(cut.read_bytes()[:-1])
    altered = output / "c.wav.json"
    whole = altered.read_bytes()
    altered.write_bytes(whole + b"\n")
    (output / "d.wav.json").write_bytes(whole)

    verified, told = await look(archive)

    assert kinds(told) == [
        ("damaged", "b/b.wav.json"),
        ("damaged", "c.wav.json"),
        ("damaged", "d.wav.json"),
        ("missing", "a.wav.json"),
    ]
    said = {finding.path: finding for finding in told}
    assert said["a.wav.json"].transcript_id == mine.id
    assert "no whole transcript" in said["b/b.wav.json"].what
    assert "not what was saved" in said["c.wav.json"].what
    assert "holds the transcript" in said["d.wav.json"].what
    assert verified.exit_code == ExitCode.PARTIAL


async def test_recordings_are_read(archive: Archive) -> None:
    """One that changed is told, even where no time shows it; one gone is counted; both no fault."""
    await archive.run()
    changed = archive.recordings / "a.wav"
    times = changed.stat()
    changed.write_bytes(b"uno")
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    (archive.recordings / "c.wav").unlink()

    verified, told = await look(archive)

    assert kinds(told) == [("changed", str(changed))]
    assert (verified.unchanged, verified.gone) == (1, 1)
    assert verified.exit_code == ExitCode.DONE


async def test_strays_are_told_and_left(archive: Archive) -> None:
    """A file that belongs to no recording is told, is no fault, and stays where it is."""
    await archive.run(formats=["srt"])
    for name in ("notes.txt", "b/b.wav.doc", "a.wav.json.bak"):
        (archive.output / name).write_bytes(b"mine")
    before = archive.results()

    verified, told = await look(archive)
    _, after_repair = await mended(archive)

    assert kinds(told) == [
        ("stray", "a.wav.json.bak"),
        ("stray", "b/b.wav.doc"),
        ("stray", "notes.txt"),
    ]
    assert kinds(after_repair) == kinds(told)
    assert verified.exit_code == ExitCode.DONE
    assert archive.results() == before


async def test_a_replaced_result_is_no_orphan(archive: Archive) -> None:
    """What was transcribed before a recording changed is looked for among the versions."""
    await archive.run()
    archive.add("a.wav", b"another")
    await archive.run()
    _, told = await look(archive)
    (kept,) = archive.versions()
    (archive.state / "versions" / kept).unlink()

    verified, without = await look(archive)

    assert told == []
    assert kinds(without) == [("orphan", "recordings/a.wav")]
    assert without[0].transcript_id == archive.service.accepted(ONE)[0].id
    assert verified.exit_code == ExitCode.PARTIAL


async def test_what_is_under_way_is_no_finding(archive: Archive) -> None:
    """Beside a run that is in the middle, only what is done counts, and nothing waits for it."""
    await archive.run()
    archive.add("d.wav", b"four")
    archive.add("a.wav", b"another")
    archive.service.transcript_seconds = math.inf
    async with archive.started(*archive.run_line()) as process:
        await archive.service.until(lambda: archive.service.requests["submit"] == 5)
        (archive.output / ".x.json~overnight").write_bytes(b"being written")
        ended = await archive.command("verify", "-o", archive.output, "--json")
        assert process.returncode is None

    findings = [line for line in ended.lines if line["type"] == "finding"]
    assert findings == []
    assert (ended.exit_code, ended.summary["results"]) == (0, 3)


async def test_what_a_run_leaves_that_was_killed_a_moment_ago_is_told(archive: Archive) -> None:
    """Once the process that holds the state folder is no more, nothing of it is being written."""
    archive.service.faults.add(Fault(on="upload", action="hold_before", times=None))
    async with archive.started(*archive.run_line()) as process:
        await archive.service.held("upload")
        process.kill()
        await process.wait()
    (archive.output / ".a.wav.json~overnight").write_bytes(b"half")

    _, told = await look(archive)

    assert kinds(told) == [("leftover", ".a.wav.json~overnight")]


async def test_what_a_killed_run_left_is_told(archive: Archive) -> None:
    """A temporary file of a run that is no more is told, and removed on demand."""
    await archive.run()
    left = archive.output / "b" / os.fsdecode(temporary(b"b.wav.json"))
    left.write_bytes(b"half")
    os.utime(left, (1, 1))

    verified, told = await look(archive)
    _, after_repair = await mended(archive)

    assert kinds(told) == [("leftover", "b/.b.wav.json~overnight")]
    assert verified.exit_code == ExitCode.PARTIAL
    assert kinds(after_repair) == [("repaired", "b/.b.wav.json~overnight")]
    assert not left.exists()


async def test_a_damaged_ledger_is_told(archive: Archive) -> None:
    """A ledger with a broken page is told as such, with the way out."""
    await archive.run()
    ledger = archive.state / "ledger.sqlite3"
    pages = ledger.read_bytes()
    ledger.write_bytes(pages[: 5 * 4096] + b"\xff" * 4096 + pages[6 * 4096 :])

    try:
        verified, told = await look(archive)
    except LedgerUnusable as error:
        said = str(error)
    else:
        said = told[0].what
        assert verified.exit_code == ExitCode.PARTIAL

    assert "verify --rebuild" in said


async def test_looking_changes_nothing(archive: Archive) -> None:
    """No file is made, changed or removed, whatever is found, and no request is sent."""
    await archive.run()
    (archive.output / "a.wav.json").write_bytes(b"{")
    requests, before = archive.service.requests.total(), files(archive)

    await look(archive)

    assert files(archive) == before
    assert archive.service.requests.total() == requests


async def test_without_a_ledger_nothing_can_be_said(archive: Archive) -> None:
    """Where nothing was ever run, or no folder is named, the user is told so."""
    with pytest.raises(SettingsError, match="no ledger"):
        await look(archive)
    with pytest.raises(SettingsError, match="--output"):
        await to_thread.run_sync(
            verify, archive.settings(output=None, state=archive.state), lambda _: None
        )


# --- repairing -----------------------------------------------------------------------------------


async def test_results_are_brought_back(archive: Archive) -> None:
    """What is gone or damaged is fetched by its id, what lay in its place is kept."""
    await archive.run()
    before = archive.results()
    (archive.output / "a.wav.json").unlink()
    (archive.output / "c.wav.json").write_bytes(b"{half")

    verified, told = await mended(archive)
    again, nothing = await look(archive)

    assert kinds(told) == [("repaired", "a.wav.json"), ("repaired", "c.wav.json")]
    assert verified.exit_code == again.exit_code == ExitCode.DONE
    assert nothing == []
    assert archive.results() == before
    assert list(archive.versions().values()) == [b"{half"]


async def test_an_equal_result_is_copied(archive: Archive) -> None:
    """Where the result of an equal recording is whole, the service is not asked for this one."""
    archive.add("twin.wav", ONE)
    await archive.run()
    before = archive.results()
    gets = archive.service.requests["get"]
    (archive.output / "twin.wav.json").write_bytes(b"")

    verified, _ = await mended(archive)

    assert verified.exit_code == ExitCode.DONE
    assert archive.results() == before
    assert archive.service.requests["get"] == gets


async def test_a_damaged_twin_is_no_source(archive: Archive) -> None:
    """Of two equal results that are both damaged none is copied: both are fetched."""
    archive.add("twin.wav", ONE)
    await archive.run()
    before = archive.results()
    for name in ("a.wav.json", "twin.wav.json"):
        (archive.output / name).write_bytes(before["c.wav.json"])

    verified, told = await mended(archive)

    assert kinds(told) == [("repaired", "a.wav.json"), ("repaired", "twin.wav.json")]
    assert verified.exit_code == ExitCode.DONE
    assert archive.results() == before


async def test_a_repair_never_asks_for_anything_new(archive: Archive) -> None:
    """Recordings that wait to be sent, or whose upload is ready, are left to the next run."""
    await archive.run()
    for number in range(3):
        archive.add(f"new{number}.wav", b"new %d" % number)
    archive.service.faults.add(Fault(on="submit", action="negative_balance", times=None))
    await archive.run()
    archive.service.faults.clear()
    waiting = await archive.rows("SELECT state FROM attempts WHERE state = 'uploaded'")
    (archive.output / "a.wav.json").unlink()

    verified, told = await mended(archive)

    assert waiting
    assert kinds(told) == [("repaired", "a.wav.json")]
    assert verified.exit_code == ExitCode.DONE
    assert archive.service.billable.total() == 3


async def test_what_an_earlier_run_left_is_collected_and_not_asked_for_again(
    archive: Archive,
) -> None:
    """A repair fetches what is under way too; what the service failed at is left to a run."""
    await archive.run()
    archive.service.transcript_seconds = math.inf
    archive.add("d.wav", b"four")
    archive.add("e.wav", b"five")
    async with archive.started(*archive.run_line("--json")) as process:
        await said(process, b'"type":"submitted"', 2)
        process.kill()
        await process.wait()
    (good,), (bad,) = archive.service.accepted(b"four"), archive.service.accepted(b"five")
    archive.service.complete(good.id)
    archive.service.fail(bad.id, "Server error, developers have been alerted.")
    (archive.output / "a.wav.json").unlink()

    _, told = await mended(archive)

    assert kinds(told) == [("repaired", "a.wav.json")]
    assert sorted(archive.results()) == [
        f"{name}.json" for name in ("a.wav", "b/b.wav", "c.wav", "d.wav")
    ]


async def test_what_the_service_does_not_have_is_missing(archive: Archive) -> None:
    """A result that cannot be fetched any more stays a finding, and the others are repaired."""
    await archive.run()
    for name in ("a.wav.json", "c.wav.json"):
        (archive.output / name).unlink()
    (mine,) = archive.service.accepted(ONE)
    archive.service.faults.add(Fault(on="get", action="unknown_id", match=mine.id, times=None))

    verified, told = await mended(archive)

    assert kinds(told) == [("missing", "a.wav.json"), ("repaired", "c.wav.json")]
    assert "no longer has it" in next(f.what for f in told if f.kind == "missing")
    assert verified.exit_code == ExitCode.PARTIAL
    assert archive.service.requests["submit"] == 3


async def test_repair_asks_for_all_that_is_missing(archive: Archive) -> None:
    """What the service did not know is asked for whether it is due or not, however much it is."""
    await archive.run()
    for result in archive.output.glob("**/*.json"):
        result.unlink()
    archive.service.faults.add(Fault(on="get", action="unknown_id", times=None))
    await archive.run()
    await archive.run(ahead_s=3601)
    assert await archive.rows("SELECT DISTINCT state FROM transcripts") == [("missing",)]
    archive.service.faults.clear()

    await mended(archive)

    assert len(archive.results()) == 3


async def test_a_service_that_is_down_is_no_loss(archive: Archive) -> None:
    """While the service cannot be asked the finding stays, with exit code 5; later it is mended."""
    await archive.run()
    (archive.output / "a.wav.json").unlink()
    archive.service.faults.add(Fault(on="*", action="answer", status=403, times=None))
    line = ["verify", "-o", archive.output, "--repair", "--provider", archive.service.url]
    down = await archive.command(*line)
    archive.service.faults.clear()
    up = await archive.command(*line)

    assert (down.exit_code, up.exit_code) == (ExitCode.TRY_LATER, ExitCode.DONE)
    assert "the service is reached, but does not work" in down.stderr
    assert down.stdout.split()[:2] == [b"missing", b"a.wav.json"]
    assert up.stdout.split()[:2] == [b"repaired", b"a.wav.json"]


async def test_an_orphan_is_fetched_into_the_versions(archive: Archive) -> None:
    """What was paid for and lies nowhere is brought back to where replaced results are."""
    await archive.run()
    first = archive.results()["a.wav.json"]
    archive.add("a.wav", b"another")
    await archive.run()
    (kept,) = (archive.state / "versions").iterdir()
    kept.unlink()

    verified, told = await mended(archive)
    _, nothing = await look(archive)

    assert kinds(told) == [("repaired", "recordings/a.wav")]
    assert verified.exit_code == ExitCode.DONE
    assert list(archive.versions().values()) == [first]
    assert nothing == []


async def test_an_older_result_that_still_lies_there_is_verified_too(archive: Archive) -> None:
    """While a changed recording waits for its transcript, the result of its former bytes counts."""
    await archive.run()
    first = archive.results()["a.wav.json"]
    archive.add("a.wav", b"another")
    archive.service.faults.add(Fault(on="submit", action="negative_balance", times=None))
    await archive.run()
    (archive.output / "a.wav.json").write_bytes(b"{")

    _, found = await look(archive)
    verified, told = await mended(archive)
    _, nothing = await look(archive)

    assert kinds(found) == [("damaged", "a.wav.json")]
    assert kinds(told) == [("repaired", "a.wav.json")]
    assert verified.exit_code == ExitCode.DONE
    assert first in archive.versions().values()
    assert [finding for finding in nothing if finding.kind != "stray"] == []


# --- the command ---------------------------------------------------------------------------------


async def test_the_command_says_a_line_for_each(archive: Archive) -> None:
    """Findings are lines on stdout, the last one counts; the exit code says if all is well."""
    await archive.run()
    well = await archive.command("verify", "-o", archive.output)
    (archive.output / "a.wav.json").unlink()
    found = await archive.command("verify", "-o", archive.output)
    as_json = await archive.command("verify", "-o", archive.output, "--json")
    line = ["verify", "-o", archive.output, "--repair", "--provider", archive.service.url]
    repaired = await archive.command(*line)
    after = await archive.command("verify", "-o", archive.output)

    assert [each.exit_code for each in (well, found, as_json, repaired, after)] == [0, 3, 3, 0, 0]
    first, last = found.stdout.decode().splitlines()
    assert first.split()[:2] == ["missing", "a.wav.json"]
    assert last.startswith("3 results;")
    assert [each["type"] for each in as_json.lines] == ["finding", "verified"]
    assert as_json.summary["findings"] == {"missing": 1}
    assert repaired.stdout.decode().startswith("repaired   a.wav.json")


async def test_a_repair_waits_for_nobody(archive: Archive) -> None:
    """While a run holds the state folder, a repair is refused with exit code 11."""
    archive.service.transcript_seconds = math.inf
    async with archive.started(*archive.run_line()):
        await archive.service.until(lambda: archive.service.requests["submit"] == 3)
        line = ["verify", "-o", archive.output, "--repair", "--provider", archive.service.url]
        ended = await archive.command(*line)

    assert ended.exit_code == ExitCode.LOCKED
