"""No file, clock or setting ends a batch or a look at it, whatever it holds."""

import json
import math
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st

from jobs.transcribe import Source, transcribe
from pipeline.errors import ExitCode
from pipeline.events import moment
from pipeline.ledger.journal import Line, journals, lines, parse_line
from pipeline.report import list_lines, status_json, status_text, version_lines
from pipeline.report.morning import morning
from pipeline.report.page import as_html, as_json, as_line
from pipeline.settings import Settings
from pipeline.stages.scan import find_roots
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio

CLOCKS_S = {
    1601: -11_644_473_600.0,
    1970: 60.0,
    2038: 2_147_483_648.0,
    2262: 9_223_372_037.0,
    2400: 13_569_465_600.0,
    9999: 253_402_300_799.0,
    30000: 884_541_600_000.0,
}

RUBBISH = [
    b"",
    b"\0" * 100,
    b"\xff\xfe",
    b"null",
    b"[]",
    b"{}",
    b"3",
    b'{"run_id": 1}',
    b'{"type": "summary", "time": "never", "run_id": "x", "found": "many"}',
    b'{"time":"0001-01-01T00:00:00Z","run_id":"x","found":1,"written":1,"failed":0,"parked":0,'
    b'"exit_code":99999999999}',
    b'{"time":"9999-12-31T23:59:59Z","type":"written","recording":"x","size":1}',
    b'{"time":"2026-01-01T00:00:00","type":"written","recording":"x"}',
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"exit_code": 1e400, "found": ' + b"9" * 5000 + b"}",
]


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"SECONDS:90\none")
        archive.add("b.wav", b"ERROR:Too short.\n")
        yield archive


def look(settings: Settings, zone: ZoneInfo | None) -> str:
    """Every way to look at what a run came to, together."""
    state = settings.state_dir
    facts = morning(settings, zone=zone)
    said = [as_json(facts).decode(), as_html(facts), as_line(facts), status_text(state)]
    said += [json.dumps(status_json(state)), *version_lines(state, as_json=True)]
    said += list_lines(state, state_filter=None, as_json=False)
    return "\n".join(said)


# --- clocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("year", CLOCKS_S)
async def test_a_clock_of_any_year_transcribes(archive: Archive, year: int) -> None:
    """Whatever the clock of a machine says, the run is through, and can be looked at."""
    settings = archive.settings(max_hours_month=5, time_zone="Pacific/Kiritimati")
    roots = await to_thread.run_sync(find_roots, [str(archive.recordings)])

    summary = await transcribe(
        settings,
        [Source("in", roots, settings)],
        emit=lambda _: None,
        clock=lambda: CLOCKS_S[year],
    )

    assert (summary.written, summary.failed) == (1, 1)
    assert summary.exit_code == ExitCode.PARTIAL
    for zone in (None, ZoneInfo("Pacific/Kiritimati"), ZoneInfo("Etc/GMT+12")):
        assert "a.wav" in await to_thread.run_sync(look, settings, zone)


@given(st.floats(allow_nan=False), st.sampled_from([UTC, None, ZoneInfo("Pacific/Kiritimati")]))
def test_every_time_can_be_written(at_s: float, zone: Any) -> None:
    """A time that somebody or something noted is a date of four digits, never an error."""
    found = moment(at_s, zone)

    assert f"{found:%Y-%m-%d}" == found.date().isoformat()
    if datetime(1001, 1, 1, tzinfo=UTC).timestamp() < at_s < 2e11:
        assert math.isclose(found.timestamp(), at_s, abs_tol=1e-3)


# --- files of the state folder --------------------------------------------------------------------


@pytest.mark.parametrize("rubbish", RUBBISH, ids=lambda text: repr(text[:20]))
@pytest.mark.parametrize("name", ["summary.json", "events.ndjson", "attempts.ndjson"])
async def test_rubbish_in_the_files_of_a_run(archive: Archive, name: str, rubbish: bytes) -> None:
    """What is no summary, event or journal says nothing, and is in nobody's way."""
    settings = archive.settings()
    await archive.run()
    older = archive.state / "runs/20000101T000000Z-abcdef"
    newer = archive.state / "runs/99990101T000000Z-abcdef"
    for folder in (older, newer):
        await to_thread.run_sync(lay, folder / name, rubbish)
    archive.add("c.wav", b"SECONDS:5\nthree")

    outcome = await archive.run()

    assert outcome.summary.written == 1
    status = await to_thread.run_sync(status_json, archive.state)
    assert status["last_run"] is None or status["last_run"]["run_id"] in (
        outcome.summary.run_id,
        "x",
    )
    assert "c.wav" in await to_thread.run_sync(look, settings, None)


def lay(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
async def test_what_is_no_file_is_no_file_of_a_run(archive: Archive, make: Any) -> None:
    """A pipe or folder where a file of a run would be is passed over, and never waited for."""
    settings = archive.settings()
    await archive.run()
    folder = archive.state / "runs/99990101T000000Z-abcdef"
    folder.mkdir()
    for name in ("summary.json", "attempts.ndjson"):
        make(folder / name)
    archive.add("c.wav", b"SECONDS:5\nthree")

    outcome = await archive.run()

    assert outcome.summary.written == 1
    assert "c.wav" in await to_thread.run_sync(look, settings, None)


@given(st.binary() | st.sampled_from(RUBBISH))
def test_a_line_of_a_journal_is_one_or_none(text: bytes) -> None:
    """No bytes of a journal raise anything."""
    assert parse_line(text) is None


@given(st.integers(), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_of_a_journal_fit_into_a_ledger(generation: int, accepted_at: float) -> None:
    """A line whose numbers no run of ours has noted is none."""
    line = dict.fromkeys(Line.__struct_fields__, "") | {
        "generation": generation,
        "accepted_at": accepted_at,
        "options": {},
    }

    found = parse_line(json.dumps(line).encode())

    assert found is None or 0 < found.generation < 2**31


def test_a_state_folder_without_runs_has_no_lines(tmp_path: Path) -> None:
    """Where nothing was ever run there is nothing to be read."""
    assert list(lines(tmp_path)) == []
    assert journals(tmp_path / "runs") == {}


# --- settings -------------------------------------------------------------------------------------


HUGE = 10**30


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("limit", HUGE), ("max_size", HUGE), ("min_free", 0), ("max_answer", HUGE)),
        *(("retry_failed", HUGE), ("max_hours", 1e308), ("max_cost", 1e308)),
        *(("max_hours_month", 1e308), ("max_age", 1e300), ("stop_grace", 1e300)),
        *(("settle", 1e300), ("settle", 1e-300), ("backlog", {"older_than": 1e300})),
        *(("bwlimit", "9" * 30), ("wait_network", 1e300), ("concurrency", 1_000_000)),
        *(("requests", "999999999/1s"), ("timeouts", dict.fromkeys(("stall", "answer"), 1e300))),
    ],
)
async def test_no_setting_is_too_large(archive: Archive, name: str, value: Any) -> None:
    """What a setting may be, a run can work with."""
    outcome = await archive.run(**{name: value})

    assert outcome.summary.written == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("concurrency", HUGE), ("requests", f"{HUGE}/1s"), ("poll_interval", 1e-300)),
        *(("limit", -1), ("max_hours", math.nan), ("max_hours", -math.inf), ("settle", math.inf)),
        *(("bwlimit", "1e5"), ("max_size", math.inf), ("uploads", {"max": HUGE})),
        *(("prices", {"a": math.inf}), ("prices", {"a": math.nan}), ("prices", {"a": -1})),
    ],
)
def test_what_no_run_could_work_with_is_refused(name: str, value: Any) -> None:
    """A setting that would stop a run in its middle is an error before it begins."""
    with pytest.raises(ValueError, match=name):
        Settings(**{name: value})
