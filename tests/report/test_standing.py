"""What stands in a ledger, for people and for programs."""

import json
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest
from anyio import to_thread

from jobs.transcribe import named_sources, transcribe
from pipeline.errors import LedgerUnusable, SettingsError
from pipeline.ledger import BACKLOG
from pipeline.models import NIGHTS
from pipeline.report.standing import list_lines, status_json, status_text
from pipeline.stages.scan import find_roots
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

ZoneInfo("UTC")  # is read from disk once, before there is a loop that it could block

BALANCE = '{"error": "Your current account balance is negative."}'


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """After a run in which recordings ended in four ways."""
    async with opened(tmp_path) as archive:
        archive.add("a/written.wav", b"SECONDS:3600\none")
        archive.add("failed.wav", b"ERROR:Audio duration is too short.\n")
        archive.add("skipped.wav", b"")
        await archive.run()
        archive.add("z\nparked.wav", b"three")
        archive.service.faults.add(Fault(on="submit", action="answer", status=400, body=BALANCE))
        await archive.run()
        yield archive


async def listed(
    archive: Archive, only: str | None = None, nights: int = NIGHTS
) -> list[dict[str, Any]]:
    """The lines of `list --json`."""

    def read() -> list[dict[str, Any]]:
        lines = list_lines(archive.state, state_filter=only, as_json=True, nights=nights)
        return [json.loads(line) for line in lines]

    return await to_thread.run_sync(read)


async def told(archive: Archive) -> list[str]:
    """The lines of `list` for people."""
    return await to_thread.run_sync(
        lambda: [*list_lines(archive.state, state_filter=None, as_json=False)]
    )


async def test_status_counts(archive: Archive) -> None:
    """`status` counts what is in which state, hours and dollars, and tells of the last run."""
    status = await to_thread.run_sync(status_json, archive.state)

    assert status["type"] == "status"
    assert status["recordings"] == {"found": 2, "skipped": 1, "written": 1}
    assert status["transcripts"] == {"failed": 1, "wanted": 1, "written": 1}
    assert status["billed_hours"] == pytest.approx(1.0)
    assert status["cost_usd"] > 0
    assert status["last_run"]["parked"] == 1
    assert status["last_run"]["type"] == "summary"


async def test_status_as_text(archive: Archive) -> None:
    """The same for people: a few lines that name every count."""
    text = await to_thread.run_sync(status_text, archive.state)

    assert "1 written" in text
    assert "1.00 h" in text
    assert "exit code 4" in text


async def test_status_tells_what_is_in_doubt(archive: Archive) -> None:
    """What is under way or in doubt is told as caps count it, beside what is settled."""
    await archive.leave_in_doubt(min_size="1k")

    prices = archive.settings().prices
    status = await to_thread.run_sync(status_json, archive.state, prices)
    text = await to_thread.run_sync(status_text, archive.state, prices)

    assert (status["billed_hours"], status["open_hours"]) == (1.0, 0.5)
    assert status["open_cost_usd"] == pytest.approx(max(prices.values()) / 2)
    assert "1.00 h" in text
    assert "0.50 h of audio at the most" in text


async def test_list_tells_how_each_ended(archive: Archive) -> None:
    """`list` has a line for each recording: its state, and its result or why there is none."""
    found = {line["path"]: line for line in await listed(archive)}

    assert {path: line["state"] for path, line in found.items()} == {
        "a/written.wav": "written",
        "failed.wav": "failed",
        "skipped.wav": "skipped",
        "z\nparked.wav": "parked",
    }
    assert found["a/written.wav"]["result"] == "a/written.wav.json"
    assert found["a/written.wav"]["audio_duration"] == 3600
    assert found["a/written.wav"]["transcript_id"]
    assert found["failed.wav"]["reason"] == "Audio duration is too short."
    assert found["failed.wav"]["result"] is None
    assert "empty" in found["skipped.wav"]["reason"]


@pytest.mark.parametrize("state", ["written", "failed", "skipped", "parked", "kept"])
async def test_list_of_one_state(archive: Archive, state: str) -> None:
    """`list --only` shows the recordings in one state, and no others."""
    lines = await listed(archive, state)

    assert len(lines) == (0 if state == "kept" else 1)
    assert all(line["state"] == state for line in lines)


async def test_list_for_people_is_a_line_each(archive: Archive) -> None:
    """Whatever a name holds, a recording is one line."""

    def read() -> list[str]:
        return list(list_lines(archive.state, state_filter=None, as_json=False))

    lines = await to_thread.run_sync(read)

    assert len(lines) == 4
    assert not any("\n" in line for line in lines)


# --- why, and in which source ---------------------------------------------------------------------


async def test_everything_without_a_result_has_a_reason_and_a_source(archive: Archive) -> None:
    """Failed, skipped, parked: each line says why, and in which source, as text and as JSON."""
    for line in await listed(archive):
        has_none = line["state"] != "written"
        assert bool(line["reason"]) == has_none
        assert (line["root"], line["folder"]) == ("recordings", str(archive.recordings))

    for text in await told(archive):
        assert ("in recordings: " in text) == (not text.startswith("written"))


@pytest.mark.parametrize(
    ("given", "because"),
    [
        ({"limit": 1}, "left by `--limit`"),
        ({"max_hours": 1.0}, "1.00 h"),
        ({"min_free": "1000000TB"}, "GB free"),
        ({"window": "NEVER"}, "outside of the window"),
    ],
    ids=["limit", "cap", "disk", "window"],
)
async def test_what_was_not_come_to_has_the_reason_of_its_run(
    tmp_path: Path, given: dict[str, Any], because: str
) -> None:
    """What a run did not come to is parked for what ended it, which its summary tells."""
    if "window" in given:
        begins = datetime.now(UTC) + timedelta(hours=6)
        given = {
            "window": f"{begins:%H:%M}-{begins + timedelta(hours=1):%H:%M}",
            "time_zone": "UTC",
        }
    async with opened(tmp_path) as archive:
        for number in range(3):
            archive.add(f"{number}.wav", b"SECONDS:3600\n%d" % number + bytes(16_000_000))
        await archive.run(**given)
        parked = await listed(archive, "parked")

    assert parked
    assert [each["reason"] for each in parked if because not in each["reason"]] == []


async def test_what_the_backlog_holds_says_so(tmp_path: Path) -> None:
    """What has been lying there for long waits for its nights."""
    async with opened(tmp_path) as archive:
        for number in range(3):
            content = b"SECONDS:3600\n%d" % number
            archive.add(f"{number}.wav", content, age_s=90 * 86400.0)
        recordings = await to_thread.run_sync(find_roots, [str(archive.recordings)])
        settings = archive.settings(backlog={"hours_per_night": 1e-9}, uploads=1)
        sources = named_sources(recordings, settings)
        await transcribe(settings, sources, by_age=True, emit=lambda _: None)
        parked = await listed(archive, "parked")

    assert {line["reason"] for line in parked} == {BACKLOG}


async def test_what_a_killed_run_did_not_come_to_says_so(archive: Archive) -> None:
    """Where a run left no summary, it was cut off; what is gone since is told to be."""
    archive.add("other.wav", b"other")
    await archive.run(limit=0)
    (run_id,) = {line["run_id"] for line in await rows_of(archive)}
    await to_thread.run_sync((archive.state / "runs" / run_id / "summary.json").unlink)
    (other,) = [each for each in await listed(archive, "parked") if each["path"] == "other.wav"]
    (archive.recordings / "other.wav").unlink()
    await archive.run(limit=0)
    (gone,) = [each for each in await listed(archive, "parked") if each["path"] == "other.wav"]

    assert other["reason"] == "its run was cut off before it came to it"
    assert gone["reason"] == f"the last run did not find it; {run_id} did, and did not come to it"


async def rows_of(archive: Archive) -> list[dict[str, Any]]:
    """Which run saw the parked recording last."""
    query = "SELECT run_id FROM recordings WHERE path = CAST('other.wav' AS BLOB)"
    return [{"run_id": run_id} for (run_id,) in await archive.rows(query)]


async def test_what_is_missing_has_a_reason(archive: Archive) -> None:
    """What was paid for and is gone at the service is told with why and where, as a failure."""
    archive.add("gone.wav", b"gone")
    deleted = {"audio_url": "http://deleted_by_user", "text": "Deleted by user."}
    fault = Fault(on="get", action="patch", times=None, patch=deleted)
    archive.service.faults.add(fault)
    await archive.run()

    (line,) = [each for each in await listed(archive, "failed") if each["path"] == "gone.wav"]

    assert "deleted at the service" in line["reason"]
    assert line["folder"] == str(archive.recordings)


async def test_what_is_given_up_has_a_reason(archive: Archive) -> None:
    """What nobody tries any more is told with why it failed."""
    await archive.run(retry_failed=True)
    lines = await listed(archive, "given-up", nights=1)

    assert [line["path"] for line in lines] == ["failed.wav"]
    assert lines[0]["reason"] == "Audio duration is too short."


# --- what is under way ----------------------------------------------------------------------------


async def test_nothing_is_under_way(archive: Archive) -> None:
    """After a run nothing holds the state folder, and `status` says so."""
    status = await to_thread.run_sync(status_json, archive.state)

    assert status["under_way"] is None
    assert "under way    nothing" in await to_thread.run_sync(status_text, archive.state)


async def test_a_run_under_way_is_told(archive: Archive) -> None:
    """`status` and `list` say beside a run that it is under way: which, its process, since when."""
    archive.service.faults.add(Fault(on="list", action="hold_before", times=None))
    async with archive.started(*archive.run_line()) as process:
        with anyio.fail_after(30):
            await archive.service.held("list")
        status = await to_thread.run_sync(status_json, archive.state)
        text = await to_thread.run_sync(status_text, archive.state)
        parked = await listed(archive, "parked")

    under_way = status["under_way"]
    assert (under_way["pid"], under_way["is_here"]) == (process.pid, True)
    runs = (archive.state / "runs").iterdir()
    assert [under_way["run_id"]] == [r.name for r in runs if not (r / "summary.json").exists()]
    assert under_way["run_id"] != status["last_run"]["run_id"]
    assert f"{under_way['run_id']}: process {process.pid}, since " in text
    assert [line["reason"] for line in parked] == [
        "the run that is under way has not come to it yet"
    ]


@pytest.mark.parametrize(
    ("host", "pid", "is_told"),
    [("elsewhere", 4711, True), (socket.gethostname(), 2**22 + 1, False)],
    ids=["another machine", "gone"],
)
async def test_whoever_holds_the_lock(archive: Archive, host: str, pid: int, is_told: bool) -> None:
    """A holder on another machine is named as such; one that is gone from here is none."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    (archive.state / "lock").write_text(f"{host} {pid} {now} 5eb1f00d\n")

    status = await to_thread.run_sync(status_json, archive.state)
    text = await to_thread.run_sync(status_text, archive.state)

    assert (status["under_way"] is not None) == is_told
    assert (f"process {pid} on {host}, if it has not ended there" in text) == is_told


def test_no_ledger_is_told(tmp_path: Path) -> None:
    """Where nothing has been run, that is what is said, and nothing is made."""
    with pytest.raises(SettingsError, match="no ledger"):
        status_json(tmp_path / "state")

    assert not (tmp_path / "state").exists()


def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    """A ledger that cannot be read is damage, not an empty answer."""
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database")

    with pytest.raises(LedgerUnusable):
        status_text(tmp_path)
