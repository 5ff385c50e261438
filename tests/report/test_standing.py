"""What stands in a ledger, for people and for programs."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from pipeline.errors import LedgerUnusable, SettingsError
from pipeline.report.standing import list_lines, status_json, status_text
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

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


async def listed(archive: Archive, only: str | None = None) -> list[dict[str, Any]]:
    """The lines of `list --json`."""

    def read() -> list[dict[str, Any]]:
        lines = list_lines(archive.state, state_filter=only, as_json=True)
        return [json.loads(line) for line in lines]

    return await to_thread.run_sync(read)


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
