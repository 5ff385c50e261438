"""A night with nobody there: sources, the report of the morning, and who hears of it."""

import html
import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jobs.nightly import run_nightly
from pipeline.errors import ExitCode
from pipeline.events import Event, RunStarted, Warned, encode
from pipeline.ledger.lock import lock
from tests.support.clock import MovableLoop
from tests.support.nights import Nights, at, nights, sound
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

BEGAN = at("2026-03-03", "22:30")
CHANGED = at("2026-03-03", "18:00")


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Nights]:
    """Two sources with a recording each."""
    folders = [tmp_path / "recordings" / name for name in ("calls", "phone")]
    sources = [{"folder": str(folder)} for folder in folders]
    async with nights(tmp_path, source=sources) as archive:
        archive.put("calls/a.wav", sound(60, "a"), CHANGED)
        archive.put("phone/b.wav", sound(60, "b"), CHANGED)
        yield archive


def paths(archive: Nights) -> set[str]:
    """The results."""
    return {name for name in archive.results() if name.endswith(".json")}


async def test_each_source_has_its_outcome(archive: Nights) -> None:
    """What became of a source stands beside what became of the others, and adds up to the whole."""
    archive.put("phone/short.wav", b"ERROR:Audio duration is too short.\n", CHANGED)

    night = await archive.night(BEGAN)

    assert night.code == ExitCode.PARTIAL
    assert night.summary is not None
    of = {
        source.name: (source.found, source.written, source.failed)
        for source in night.summary.sources
    }
    assert of == {"calls": (1, 1, 0), "phone": (2, 1, 1)}
    assert paths(archive) == {"calls/a.wav.json", "phone/b.wav.json"}


async def test_a_source_that_is_not_there_takes_no_other_along(archive: Nights) -> None:
    """The others are transcribed, the missing one is named, and the exit code says so."""
    folder = archive.recordings / "calls"
    folder.rename(folder.with_name("elsewhere"))

    night = await archive.night(BEGAN)

    assert night.code == ExitCode.PARTIAL
    assert night.summary is not None
    assert str(folder) in (night.summary.sources[0].reason or "")
    assert paths(archive) == {"phone/b.wav.json"}
    assert night.moments == ["start", "failure"]


CAP = {"max_cost": 0.009}
"""What one of the two recordings comes to, and half of the other."""
TOO_SHORT = b"ERROR:Audio duration is too short.\n"


@pytest.mark.parametrize(
    ("planned", "given", "began"),
    [
        (ExitCode.CAP_REACHED, CAP, BEGAN),
        (ExitCode.WINDOW_CLOSED, {"retry_failed": False}, at("2026-03-04", "05:59:30")),
    ],
)
@pytest.mark.parametrize("trouble", ["none", "failed", "absent"])
async def test_a_planned_end_is_a_success_only_by_itself(
    archive: Nights, planned: ExitCode, given: dict[str, float], began: datetime, trouble: str
) -> None:
    """A cap or a window that ends a night hides nothing that somebody has to look at."""
    if trouble == "failed":
        archive.put("calls/0.wav", TOO_SHORT, CHANGED)
        await archive.night(BEGAN, folders=[archive.recordings / "calls"])
        archive.put(
            "calls/1.wav", TOO_SHORT + b"too", CHANGED
        )  # has its turn before the cap ends it
        archive.put("calls/c.wav", sound(60, "c"), CHANGED)
    if trouble == "absent":
        folder = archive.recordings / "calls"
        archive.put("phone/c.wav", sound(60, "c"), CHANGED)
        folder.rename(folder.with_name("elsewhere"))

    night = await archive.night(began, **given)

    assert night.summary is not None
    assert night.summary.parked
    assert night.code == (planned if trouble == "none" else ExitCode.PARTIAL)
    assert night.moments == ["start", "success" if trouble == "none" else "failure"]
    beat = "beat" if trouble == "none" else "beat/fail"
    assert [told.moment for told in night.told if told.moment.startswith("beat")][1:] == [beat]


def _key_is_another(archive: Nights) -> None:
    (archive.root / "key").write_text("nobody")


def _balance_is_negative(archive: Nights) -> None:
    archive.service.faults.add(Fault(on="submit", action="negative_balance", times=None))


def _source_is_gone(archive: Nights) -> None:
    folder = archive.recordings / "calls"
    folder.rename(folder.with_name("elsewhere"))


def _one_is_too_short(archive: Nights) -> None:
    archive.put("calls/0.wav", TOO_SHORT, CHANGED)


def _one_is_too_short_and_a_source_is_gone(archive: Nights) -> None:
    archive.put("phone/0.wav", TOO_SHORT, CHANGED)
    _source_is_gone(archive)


def _all_is_well(_: Nights) -> None:
    return


@pytest.mark.parametrize(
    ("trouble", "given", "said"),
    [
        (_all_is_well, {}, "exit code 0"),
        (_key_is_another, {}, "exit code 4: key refused"),
        (_balance_is_negative, {}, "exit code 4: balance used up"),
        (_all_is_well, {"max_cost": 0.01}, "exit code 8: cap of $0.01 reached"),
        (_all_is_well, {"max_hours": 0.02}, "exit code 8: cap of 0.02 h reached"),
        (_all_is_well, {"max_cost_month": 0.01}, "exit code 8: cap of $0.01 for March reached"),
        (_all_is_well, {"max_hours_month": 0.02}, "exit code 8: cap of 0.02 h for March reached"),
        (
            _all_is_well,
            {"window": "01:00-02:00"},
            "exit code 10: outside of the window 01:00-02:00; no run worked in the last window",
        ),
        (_all_is_well, {"min_free": "1000000TB"}, "exit code 5: disk nearly full"),
        (_all_is_well, {"limit": 1}, "exit code 3: 1 recording left"),
        (_source_is_gone, {}, "exit code 3: source calls is missing"),
        (_one_is_too_short, {}, "exit code 3: 1 recording failed"),
        (
            _one_is_too_short_and_a_source_is_gone,
            {},
            "exit code 3: source calls is missing; 1 recording failed",
        ),
    ],
)
async def test_the_line_names_the_causes_in_words(
    archive: Nights, trouble: Callable[[Nights], None], given: dict[str, Any], said: str
) -> None:
    """An exit code is followed by its causes, each once; hooks, JSON and page have the same."""
    trouble(archive)

    night = await archive.night(BEGAN, **given)

    assert night.line.endswith(said)
    assert night.summary is not None
    causes = said.partition(": ")[2]
    assert "; ".join(night.summary.why) == causes
    (told,) = (
        json.loads(told.body) for told in night.told if told.moment in ("success", "failure")
    )
    assert told["why"] == night.summary.why
    folder = archive.state / "runs" / night.summary.run_id
    assert json.loads((folder / "report.json").read_bytes())["why"] == night.summary.why
    page = html.unescape((folder / "report.html").read_text())
    assert all(page.count(cause) == 1 for cause in night.summary.why), page
    assert page.count(night.summary.reason or night.summary.run_id) <= 1


async def test_what_is_given_up_is_told_once(archive: Nights) -> None:
    """What failed on three nights is no alarm on a fourth; it is listed until somebody asks."""
    archive.put("phone/short.wav", TOO_SHORT, CHANGED)

    nights = [await archive.night(at(f"2026-03-0{day}", "22:30")) for day in range(3, 8)]

    alarms = [ExitCode.PARTIAL] * 3 + [ExitCode.DONE] * 2
    assert [night.code for night in nights] == alarms
    assert [night.moments[-1] for night in nights] == ["failure"] * 3 + ["success"] * 2
    summaries = [night.summary for night in nights if night.summary is not None]
    assert [(each.failed, each.given_up) for each in summaries] == [(1, 0)] * 3 + [(1, 1)] * 2
    assert [each.why for each in summaries] == [["1 recording failed"]] * 3 + [[], []]
    assert "1 failed (1 given up before)" in nights[-1].line
    for summary, ended in zip(summaries, ["failed"] * 3 + ["given_up"] * 2, strict=True):
        report = json.loads((archive.state / "runs" / summary.run_id / "report.json").read_bytes())
        (cause,) = report["causes"]
        assert cause["ended"] == ended
        if summary is summaries[-1]:
            assert [each["recording"] for each in cause["named"]] == ["phone/short.wav"]
    assert len(archive.service.accepted(TOO_SHORT)) == 3

    async def listed(only: str) -> list[dict[str, Any]]:
        line = ("list", "--config", archive.root / "nightly.toml", "--only", only, "--json")
        return (await archive.command(*line)).lines

    assert [each["path"] for each in await listed("given-up")] == ["short.wav"]
    assert await listed("failed") == await listed("given-up")

    line = ("reprocess", "--config", archive.root / "nightly.toml", "--only", "given-up")
    archive.put("phone/never.wav", b"ERROR:of another kind.\n", CHANGED)
    await archive.night(at("2026-03-07", "23:30"))
    (plan,) = (await archive.command(*line, "--dry-run", "--json")).lines
    assert plan["recordings"] == 1
    assert len(await listed("failed")) == 2
    (archive.recordings / "phone/never.wav").unlink()

    again = await archive.night(at("2026-03-08", "22:30"), retry_failed=True)
    after = await archive.night(at("2026-03-09", "22:30"))

    assert (again.code, after.code) == (ExitCode.PARTIAL, ExitCode.DONE)
    assert len(archive.service.accepted(TOO_SHORT)) == 4


@pytest.mark.parametrize(
    ("before", "began", "is_missed"),
    [
        ([], at("2026-03-04", "08:00"), True),  # the machine was off all night
        ([at("2026-03-03", "22:30")], at("2026-03-04", "08:00"), False),
        ([at("2026-03-03", "22:00")], at("2026-03-04", "21:59"), False),
        (
            [at("2026-03-03", "22:30")],
            at("2026-03-05", "08:00"),
            True,
        ),  # it was off the night after
        (
            [at("2026-03-04", "07:00")],
            at("2026-03-04", "08:00"),
            True,
        ),  # the other one was late too
        ([at("2026-03-04", "05:59:59")], at("2026-03-04", "08:00"), False),
    ],
)
async def test_a_window_in_which_no_run_worked_is_no_good_night(
    archive: Nights, before: list[datetime], began: datetime, is_missed: bool
) -> None:
    """A start outside of the window is told as a failure, unless a run was there in the window."""
    for each in before:
        await archive.night(each)
    archive.put("calls/late.wav", sound(60, "late"), CHANGED)

    night = await archive.night(began)

    assert night.code == ExitCode.WINDOW_CLOSED
    assert night.summary is not None
    assert night.summary.missed_window is is_missed
    assert night.moments == ["start", "failure" if is_missed else "success"]
    missed = "; no run worked in the last window" if is_missed else ""
    assert night.line.endswith(f"exit code 10: outside of the window 22:00-06:00{missed}")


@pytest.mark.parametrize("is_off", [True, False])
async def test_a_backlog_waits_for_a_window_in_which_a_run_works(
    archive: Nights, is_off: bool
) -> None:
    """What a ration leaves is no alarm, but nothing done of it for a whole night is one."""
    given = {"backlog": {"older_than": "1h", "hours_per_night": 0.01}}
    if not is_off:
        await archive.night(BEGAN, **given)

    night = await archive.night(at("2026-03-04", "08:00"), **given)

    assert night.code == (ExitCode.WINDOW_CLOSED if is_off else ExitCode.DONE)
    assert night.moments == ["start", "failure" if is_off else "success"]


async def test_a_killed_run_has_worked_in_its_window(archive: Nights) -> None:
    """What was cut off in the midst has left its traces; what only mended something is no run."""
    runs = archive.state / "runs"
    told = {"20260303T220000Z-aaaaaa": "run_started", "20260303T230000Z-bbbbbb": "warning"}
    for name, kind in told.items():
        (runs / name).mkdir(parents=True)
        (runs / name / "events.ndjson").write_text(f'{{"type":"{kind}"}}\n')
    (runs / "20260303T233000Z-cccccc").mkdir()

    without = await archive.night(at("2026-03-04", "08:00"))
    killed = runs / "20260303T230000Z-bbbbbb/events.ndjson"
    killed.write_text('{"type":"recording_found"}\n')
    beside = await archive.night(at("2026-03-04", "09:00"))

    assert [night.moments[-1] for night in (without, beside)] == ["failure", "success"]


async def test_without_any_source_nothing_is_sent(archive: Nights) -> None:
    """Where no source is there each is named, and whoever listens hears of it."""
    archive.recordings.rename(archive.recordings.with_name("elsewhere"))

    night = await archive.night(BEGAN)

    assert night.code == ExitCode.USAGE
    for name in ("calls", "phone"):
        assert str(archive.recordings / name) in night.line
    (told,) = (json.loads(told.body) for told in night.told if told.moment == "failure")
    assert (told["exit_code"], told["reason"]) == (ExitCode.USAGE, night.line)
    assert told["why"] == ["no source is there"]
    assert archive.service.log == []


async def test_what_was_changed_just_now_is_left_to_another_night(archive: Nights) -> None:
    """A recording that somebody may still write is not sent until it has been quiet a minute."""
    archive.put("calls/growing.wav", sound(60, "growing"), at("2026-03-03", "22:29:30"))

    first = await archive.night(BEGAN)
    second = await archive.night(at("2026-03-04", "22:30"))

    assert first.summary is not None
    assert second.summary is not None
    assert (first.summary.written, first.summary.skipped) == (2, 1)
    assert (second.summary.written, second.summary.skipped) == (1, 0)


async def test_the_morning_after_lies_beside_the_run(archive: Nights) -> None:
    """Page and JSON are there when whoever listens is told, and the line is what JSON says."""
    told = archive.root / "told"
    command = f'sh -c \'ls "$(dirname "$OVERNIGHT_REPORT")" >{told}\''

    night = await archive.night(BEGAN, hooks={"on_finish": command})

    assert night.summary is not None
    folder = archive.state / "runs" / night.summary.run_id
    assert {"report.html", "report.json"} <= set(told.read_text().split())
    report = json.loads((folder / "report.json").read_bytes())
    assert (report["done"], report["exit_code"]) == (2, ExitCode.DONE)
    assert night.line.startswith(f"{night.summary.run_id}: 2 done, 0 failed")


async def test_whoever_listens_is_told_what_the_summary_says(archive: Nights) -> None:
    """The beginning, then the end with the bytes of the summary, which is the last event."""
    night = await archive.night(BEGAN)

    assert night.summary is not None
    assert night.moments == ["start", "success"]
    start, end = (told.body for told in night.told if not told.moment.startswith("beat"))
    assert json.loads(start)["run_id"] == night.summary.run_id
    assert end == encode(night.summary)
    assert night.events[-1] == night.summary
    assert [told.moment for told in night.told if told.moment.startswith("beat")] == [
        "beat/start",
        "beat",
    ]


async def test_a_hook_that_fails_is_a_warning(archive: Nights) -> None:
    """It changes neither the run nor its exit code, and the summary still comes last."""
    night = await archive.night(BEGAN, hooks={"on_start": "false", "on_finish": "false"})

    assert night.code == ExitCode.DONE
    warnings = [event.message for event in night.events if isinstance(event, Warned)]
    assert [words.split()[1] for words in warnings] == ["on_start", "on_finish"]
    assert night.events[-1] == night.summary
    assert paths(archive) == {"calls/a.wav.json", "phone/b.wav.json"}


async def test_a_report_that_cannot_be_written_fails_no_run(archive: Nights) -> None:
    """The results are there, the exit code is that of the run, and a warning says what is amiss."""
    in_its_place = f"sh -c 'mkdir \"{archive.state}/runs/$OVERNIGHT_RUN_ID/report.html\"'"

    night = await archive.night(BEGAN, hooks={"on_start": in_its_place})

    (warning,) = (event.message for event in night.events if isinstance(event, Warned))
    assert "no report of this run" in warning
    assert night.summary is not None
    assert night.summary.run_id in night.line
    assert night.code == ExitCode.DONE
    assert paths(archive) == {"calls/a.wav.json", "phone/b.wav.json"}


async def test_a_bug_is_told_as_well(archive: Nights) -> None:
    """What nobody has foreseen ends the run, and is a failure to whoever listens."""
    settings = await archive.told_in()

    def hear(event: Event) -> None:
        if isinstance(event, RunStarted):
            raise RuntimeError("nobody has foreseen this")

    with pytest.raises(Exception, match="foreseen"):
        await run_nightly([], settings, emit=hear, environ={}, clock=BEGAN.timestamp)

    (told,) = (json.loads(told.body) for told in archive.told if told.moment == "failure")
    assert (told["exit_code"], told["why"]) == (ExitCode.UNEXPECTED, ["it broke off"])


async def test_a_dry_run_tells_nobody(archive: Nights) -> None:
    """It says what the night would come to; nothing is sent, written or told."""
    night = await archive.night(BEGAN, dry_run=True)

    assert night.code == ExitCode.DONE
    assert night.line.splitlines()[0] == "2 recordings: 0 written, 2 not sent"
    assert "to be asked for: 2 transcripts, 0.03 h of audio, about $0.01" in night.line
    assert (night.told, archive.service.log) == ([], [])
    assert not archive.output.exists()


async def test_a_second_one_at_once_tells_nobody(archive: Nights) -> None:
    """A run that another one keeps from starting ends with its own exit code, and in silence."""
    archive.state.mkdir(parents=True)
    async with lock(archive.state / "lock"):
        night = await archive.night(BEGAN)

    assert night.code == ExitCode.LOCKED
    assert (night.told, archive.service.log) == ([], [])


async def test_folders_stand_in_for_the_sources(archive: Nights) -> None:
    """Folders that are named are what is transcribed, whatever sources the settings have."""
    night = await archive.night(BEGAN, folders=[archive.recordings / "phone"])

    assert night.summary is not None
    assert (night.summary.found, night.summary.written) == (1, 1)
    assert paths(archive) == {"b.wav.json"}
