"""The facts of a run, from what it left behind."""

import json
import os
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from anyio import to_thread

from pipeline.errors import ExitCode, LedgerUnusable, SettingsError
from pipeline.events import Standing
from pipeline.report.course import Mention
from pipeline.report.morning import Morning, morning
from pipeline.report.page import as_html, as_line
from pipeline.settings import Settings
from pipeline.speech_models import AS_OF, LASTS_DAYS
from tests.report.mornings import facts_of
from tests.support.runs import Archive, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

BALANCE = '{"error": "Your current account balance is negative."}'
SHORT = "Audio duration is too short."
HOUR = b"SECONDS:3600\n"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        archive.recordings.mkdir()
        yield archive


def run_folder(archive: Archive) -> Path:
    """The folder of the only run."""
    (folder,) = (archive.state / "runs").iterdir()
    return folder


def adds_up(facts: Morning) -> bool:
    """Whether every recording found ended in one way, and each without a result has its cause."""
    ends = {"failed": facts.failed, "skipped": facts.skipped, "parked": facts.parked}
    return (
        facts.done == facts.written + facts.already_written + facts.kept
        and facts.found == facts.done + sum(ends.values())
        and all(
            number == sum(each.recordings for each in facts.causes if each.ended == ended)
            for ended, number in ends.items()
        )
        and all(each.recordings == len(each.named) + each.more for each in facts.causes)
    )


async def mixed(archive: Archive) -> tuple[Path, Path]:
    """The folders of two runs in which recordings end in every way."""
    archive.add("a/good.wav", HOUR + b"one")
    archive.add("short.wav", f"ERROR:{SHORT}\n".encode())
    archive.add("empty.wav", b"")
    first = await archive.run()
    archive.add("later.wav", HOUR + b"two")
    archive.service.faults.add(Fault(on="submit", action="answer", status=400, body=BALANCE))
    second = await archive.run()
    runs = archive.state / "runs"
    return runs / first.summary.run_id, runs / second.summary.run_id


async def test_every_recording_is_accounted_for(archive: Archive) -> None:
    """The facts of a run are those of its summary, and every recording without a result is named
    under its cause, also one that failed in an earlier night."""
    _, second = await mixed(archive)
    summary = json.loads((second / "summary.json").read_bytes())

    facts = await facts_of(archive)

    assert adds_up(facts)
    for field in ("found", "already_written", "failed", "skipped", "parked", "exit_code"):
        assert getattr(facts, field) == summary[field], field
    assert facts.exit_code == ExitCode.REFUSED
    assert "balance" in facts.verdict
    assert facts.reason is not None
    causes = {each.reason: each for each in facts.causes}
    assert [each.recording for each in causes[SHORT].named] == ["short.wav"]
    assert causes[SHORT].named[0].transcript_id is not None
    assert causes["it is empty"].named == [Mention("empty.wav")]
    assert [each.ended for each in facts.causes] == ["failed", "parked", "skipped"]
    assert facts.causes[1].named == [Mention("later.wav")]


async def test_an_earlier_run_is_told_by_its_events(archive: Archive) -> None:
    """A run that is not the last has its own numbers, and the names that its events told."""
    first, _ = await mixed(archive)

    facts = await facts_of(archive, first.name)

    assert facts.run_id == first.name
    assert adds_up(facts)
    assert (facts.written, facts.failed, facts.skipped, facts.parked) == (1, 1, 1, 0)
    assert {each.reason: [m.recording for m in each.named] for each in facts.causes} == {
        SHORT: ["short.wav"],
        "it is empty": ["empty.wav"],
    }
    assert [each.recording for each in facts.results] == ["a/good.wav"]


async def test_a_run_that_was_killed_is_told_by_the_ledger(archive: Archive) -> None:
    """Without a summary the report says so, and tells what the ledger knows."""
    _, second = await mixed(archive)
    (second / "summary.json").unlink()

    facts = await facts_of(archive)

    assert not facts.finished
    assert facts.exit_code is None
    assert "did not come to its end" in facts.verdict
    assert adds_up(facts)
    assert (facts.already_written, facts.failed, facts.skipped, facts.parked) == (1, 1, 1, 1)


async def test_an_earlier_run_that_was_killed_is_told_by_its_events(archive: Archive) -> None:
    """Also where the ledger tells of a later run, nothing that was found is lost."""
    first, _ = await mixed(archive)
    (first / "summary.json").unlink()
    lines = (first / "events.ndjson").read_bytes().splitlines(keepends=True)
    found = b'{"type":"recording_found","time":"2026-11-25T22:00:00Z","recording":"x","size":1}\n'
    (first / "events.ndjson").write_bytes(b"".join([found, *lines[:-1]]))
    os.utime(first / "events.ndjson", (0, 1))

    facts = await facts_of(archive, first.name)

    assert adds_up(facts)
    assert (facts.written, facts.failed, facts.skipped, facts.parked) == (1, 1, 1, 1)
    assert facts.causes[1].reason == "not come to before the run ended"
    assert facts.audio_hours == pytest.approx(1.0)


@pytest.mark.parametrize("body", [b"", b"{", b'{"type":"summary"}', b"\xff"])
async def test_a_summary_that_is_not_whole_is_none(archive: Archive, body: bytes) -> None:
    """What a full disk left of a summary is not believed."""
    archive.add("a.wav", HOUR)
    await archive.run()
    (run_folder(archive) / "summary.json").write_bytes(body)

    facts = await facts_of(archive)

    assert not facts.finished
    assert facts.written == 1


async def test_a_run_without_recordings_has_a_morning(archive: Archive) -> None:
    """An empty folder is nothing to worry about."""
    await archive.run()

    facts = await facts_of(archive)

    assert (facts.found, facts.exit_code, facts.causes, facts.results) == (0, 0, [], [])
    assert facts.slowest is None
    assert facts.warnings == ["no recordings found"]


async def test_the_newest_run_is_meant(archive: Archive) -> None:
    """What a repair leaves behind is no run, and is not taken for one."""
    archive.add("a.wav", HOUR)
    ended = await archive.run()
    mended = archive.state / "runs" / "29991231T000000Z-abcdef"
    mended.mkdir()
    (mended / "events.ndjson").write_bytes(
        b'{"type":"run_started","time":"2999-12-31T00:00:00Z","run_id":"x"}\n'
    )

    facts = await facts_of(archive)

    assert facts.run_id == ended.summary.run_id
    assert adds_up(facts)


async def test_what_this_night_and_month_cost(archive: Archive) -> None:
    """Hours, cost and the bar of the night are those of what was accepted; what failed is free."""
    archive.add("one.wav", HOUR + b"1")
    archive.add("two.wav", b"SECONDS:1800\n2")
    archive.add("short.wav", f"ERROR:{SHORT}\n".encode())
    ended = await archive.run()

    facts = await facts_of(archive)

    assert facts.audio_hours == facts.month_audio_hours == pytest.approx(1.5)
    assert facts.cost_usd == ended.summary.cost_usd
    assert facts.month_cost_usd == pytest.approx(ended.summary.cost_usd)
    assert facts.month_unpriced == 0
    assert len(facts.nights) == 30
    assert facts.nights[-1].audio_hours == pytest.approx(1.5)
    assert facts.nights[-1].transcripts == 2


async def test_what_of_a_month_is_in_doubt(archive: Archive) -> None:
    """What may be paid is told beside what is, in every form, until it is known."""
    archive.add("one.wav", HOUR + b"1")
    await archive.run()
    await archive.leave_in_doubt()

    facts = await facts_of(archive)

    assert (facts.month_audio_hours, facts.month_open_hours) == (1.0, 0.5)
    dearest_usd = max(archive.settings().prices.values())
    assert facts.month_open_cost_usd == pytest.approx(dearest_usd / 2)
    assert f"at the most ${dearest_usd / 2:.2f} not settled" in as_line(facts)
    assert "0.50 h" in await to_thread.run_sync(as_html, facts)


@pytest.mark.parametrize(
    ("days", "provider", "is_told"),
    [(0, None, False), (LASTS_DAYS, None, False), (181, None, True), (181, "local", False)],
)
async def test_old_prices_are_told(
    archive: Archive, days: int, provider: str | None, is_told: bool
) -> None:
    """A run that ended half a year after the prices were noted has that in its report."""
    archive.add("a.wav", HOUR)
    ended_at = datetime.combine(AS_OF, time(12), UTC).timestamp() + days * 86400
    await archive.run(ahead_s=ended_at - datetime.now(UTC).timestamp())

    facts = await facts_of(archive, **({"provider": provider} if provider else {}))

    page = await to_thread.run_sync(as_html, facts)
    assert (facts.outdated is not None) is is_told
    assert (f"{AS_OF}, {days} days old" in page) is is_told


async def test_stages_and_moments_are_those_of_the_run(archive: Archive) -> None:
    """How the run went is told in words, and over time."""
    for number in range(5):
        archive.add(f"{number}.wav", HOUR + b"%d" % number)
    await archive.run()

    facts = await facts_of(archive)

    assert [stage.recordings for stage in facts.stages] == [5, 5, 5, 5]
    assert facts.slowest is not None
    assert "in the median" in facts.slowest
    assert facts.moments[-1].written == 5
    assert facts.moments[0].time == facts.began_time


async def test_times_are_those_of_the_zone(archive: Archive) -> None:
    """Times of day are told as clocks show them where the reader is."""
    archive.add("a.wav", HOUR)
    await archive.run()

    there = await facts_of(archive, zone=ZoneInfo("Asia/Kathmandu"))
    here = await facts_of(archive, zone=None)

    assert there.zone == "Asia/Kathmandu"
    assert there.began_time.isoformat().endswith("+05:45")
    assert there.began_time == here.began_time
    assert here.zone == datetime.now().astimezone().tzname()


async def test_sources_are_told_where_a_summary_has_them(archive: Archive) -> None:
    """What a summary says of each source is passed on; one without says nothing."""
    archive.add("a.wav", HOUR)
    await archive.run()
    path = run_folder(archive) / "summary.json"
    summary = json.loads(path.read_bytes())
    summary.pop("sources", None)
    path.write_text(json.dumps(summary))
    assert (await facts_of(archive)).sources == []

    sources: list[dict[str, Any]] = [
        {"name": "calls", "found": 3, "written": 1, "kept": 1, "failed": 1, "new": True},
        {"name": "feed"},
    ]
    path.write_text(json.dumps(summary | {"sources": sources}))
    facts = await facts_of(archive)

    assert facts.sources == [
        Standing(name="calls", found=3, written=1, kept=1, failed=1),
        Standing(name="feed"),
    ]


async def test_many_failures_stay_a_short_list(archive: Archive) -> None:
    """Of a reason that very many have, some are named and the rest counted; of very many reasons
    the most frequent are told apart. The sum is the same."""
    archive.add("a.wav", HOUR)
    await archive.run()
    folder = run_folder(archive)
    summary = json.loads((folder / "summary.json").read_bytes())
    rare = {f"reason {number}" + "x" * 10_000: 1 for number in range(500)}
    summary["reasons"] = {"failed": {"too short": 99_500} | rare}
    summary |= {"failed": 100_000, "found": 100_001}
    (folder / "summary.json").write_text(json.dumps(summary))
    line = (
        '{{"type":"failed","time":"2026-11-25T22:00:00Z","recording":"{}","reason":"too short"}}\n'
    )
    with (folder / "events.ndjson").open("a") as events:
        events.writelines(line.format(number) for number in range(1000))
    shutil.copytree(folder, folder.parent / "29991231T000000Z-abcdef")

    facts = await facts_of(archive, folder.name)

    assert adds_up(facts)
    assert len(facts.causes) == 21
    assert (len(facts.causes[0].named), facts.causes[0].more) == (200, 99_300)
    assert facts.causes[-1].reason == "481 other reasons"
    assert facts.causes[-1].recordings == 481
    assert max(len(each.reason) for each in facts.causes) == 400


async def test_a_run_that_is_not_there_is_told(archive: Archive) -> None:
    """An id that is none, or leads elsewhere, is an error of whoever typed it."""
    await archive.run()

    for run_id in ("nothing", "../..", "\x1b[31m", ""):
        with pytest.raises(SettingsError, match="no run"):
            await facts_of(archive, run_id)


def test_a_folder_without_a_ledger_is_told(tmp_path: Path) -> None:
    """Where nothing was run there is no morning, and nothing is made."""
    with pytest.raises(SettingsError, match="no ledger"):
        morning(Settings(output=tmp_path / "x"), zone=UTC)
    with pytest.raises(SettingsError, match="--output"):
        morning(Settings(state=tmp_path), zone=UTC)

    assert not any(tmp_path.iterdir())


def test_a_damaged_ledger_is_told(tmp_path: Path) -> None:
    """A ledger that cannot be read is damage, not an empty night."""
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database")

    with pytest.raises(LedgerUnusable):
        morning(Settings(output=tmp_path, state=tmp_path), zone=UTC)


async def test_a_ledger_without_runs_has_no_morning(archive: Archive) -> None:
    """Where the traces of all runs were deleted, that is what is said."""
    await archive.run()
    shutil.rmtree(archive.state / "runs")

    with pytest.raises(SettingsError, match="no run in"):
        await facts_of(archive)


@pytest.mark.parametrize("code", list(ExitCode))
async def test_every_exit_code_has_its_words(archive: Archive, code: ExitCode) -> None:
    """However a run ends, a sentence says what that means."""
    await archive.run()
    path = run_folder(archive) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"exit_code": int(code)}))

    facts = await facts_of(archive)

    assert facts.exit_code == code
    assert facts.verdict.endswith(".")
    assert "exit code" not in facts.verdict


async def test_an_exit_code_of_a_later_version_is_told(archive: Archive) -> None:
    """A code that this program does not know is passed on as it is."""
    await archive.run()
    path = run_folder(archive) / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"exit_code": 77}))

    assert "exit code 77" in (await facts_of(archive)).verdict
