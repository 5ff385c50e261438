"""`transcribe`: sources in one batch, in turns, under caps that hold whatever the service bills."""

import os
import time
import wave
from collections.abc import AsyncIterator, Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pytest

from jobs.transcribe import Source, transcribe
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Event, Skipped, Submitted
from pipeline.models import Root
from pipeline.settings import Settings
from tests.support.runs import Archive, Outcome, opened, recording

pytestmark = pytest.mark.anyio

HOUR_S = 3600
DAY_S = 86400.0

ZoneInfo("Europe/Berlin")  # is read from disk once, before there is a loop that it could block


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def sound(seconds: float, *, tone: int = 128) -> bytes:
    """A WAV file of so many seconds, 16 bytes each, that the service bills by its header."""
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(16)
        file.writeframes(bytes([tone]) * round(16 * seconds))
    return made.getvalue()


def source(archive: Archive, name: str = "calls", **own: Any) -> Source:
    """A source in a folder of its name, and its recordings at the root of their own results."""
    folder = archive.root / name
    folder.mkdir(exist_ok=True)
    root = Root(name, os.fsencode(os.path.realpath(folder)), name.encode() + b"/")
    return Source(name, [root], archive.settings(**own))


async def ran(archive: Archive, *sources: Source, **given: Any) -> Outcome:
    """A run over these sources, with the settings of the first for all that is of the run."""
    events: list[Event] = []
    run = given.pop("settings", None) or sources[0].settings
    with anyio.fail_after(60):
        summary = await transcribe(run, sources, emit=events.append, **given)
    return Outcome(summary, events)


def add(archive: Archive, name: str, content: bytes, *, age_s: float = 3600.0) -> None:
    recording(archive.root / name, content, age_s=age_s)


def billed_hours(archive: Archive) -> float:
    """What the service has billed."""
    service = archive.service
    rows = [row for content in service.billable for row in service.accepted(content)]
    return sum(row.audio_duration for row in rows) / HOUR_S


def moved_to(now: float) -> Callable[[], float]:
    """A clock that goes on from a moment, Unix seconds."""
    ahead_s = now - time.time()
    return lambda: time.time() + ahead_s


# --- sources ---------------------------------------------------------------------------------


async def test_each_source_has_its_options_and_formats(archive: Archive) -> None:
    """Every source is asked for with its own options, and its results have its own formats."""
    one = source(archive, "calls", transcript={"speaker_labels": True})
    other = source(archive, "talks", transcript={"language_code": "de"}, formats=["srt"])
    add(archive, "calls/a.wav", sound(60))
    add(archive, "talks/b.wav", sound(90))

    outcome = await ran(archive, one, other)

    assert sorted(archive.results()) == ["calls/a.wav.json", "talks/b.wav.json", "talks/b.wav.srt"]
    (first,) = archive.service.accepted(sound(60))
    (second,) = archive.service.accepted(sound(90))
    assert first.options["speaker_labels"] is True
    assert "language_code" not in first.options
    assert second.options["language_code"] == "de"
    standing = {each.name: (each.found, each.written) for each in outcome.summary.sources}
    assert standing == {"calls": (1, 1), "talks": (1, 1)}
    assert outcome.summary.exit_code == ExitCode.DONE


async def test_equal_recordings_of_two_sources_are_paid_once(archive: Archive) -> None:
    """One content in two sources with the same options is one transcript, and two results."""
    add(archive, "calls/a.wav", sound(60))
    add(archive, "talks/b.wav", sound(60))

    await ran(archive, source(archive, "calls"), source(archive, "talks"))

    assert len(archive.service.accepted(sound(60))) == 1
    assert sorted(archive.results()) == ["calls/a.wav.json", "talks/b.wav.json"]


async def test_a_source_within_another_is_its_own(archive: Archive) -> None:
    """A folder that is a source by itself is not taken by the source that it lies in."""
    add(archive, "calls/a.wav", sound(60))
    add(archive, "calls/board/b.wav", sound(90))
    outer = source(archive, "calls")
    inner = source(archive, "calls/board")

    outcome = await ran(archive, outer, inner)

    assert sorted(archive.results()) == ["calls/a.wav.json", "calls/board/b.wav.json"]
    assert [each.found for each in outcome.summary.sources] == [1, 1]
    assert outcome.summary.found == 2


async def test_options_that_are_refused_end_their_source_only(archive: Archive) -> None:
    """What the service refuses of one source's options is no reason to send none of another's."""
    for number in range(6):
        add(archive, f"calls/{number}.wav", sound(60 + number))
    add(archive, "talks/b.wav", sound(90))
    bad = source(archive, "calls", transcript={"speech_models": ["nobody's"]})

    outcome = await ran(archive, bad, source(archive, "talks"))

    assert sorted(archive.results()) == ["talks/b.wav.json"]
    assert [each.failed for each in outcome.summary.sources] == [6, 0]
    assert outcome.summary.exit_code == ExitCode.PARTIAL


# --- turns -----------------------------------------------------------------------------------


async def submitted(outcome: Outcome) -> list[str]:
    return [event.recording for event in outcome.of(Submitted)]


async def test_new_ones_come_first_then_failures_then_the_backlog(archive: Archive) -> None:
    """What is new in any source comes before what failed before, and that before the backlog."""
    add(archive, "calls/c-failed.wav", b"ERROR:Server error. Try again.\n")
    calls, talks = source(archive, "calls", uploads=1), source(archive, "talks")
    await ran(archive, calls, talks, by_age=True)
    add(archive, "calls/a-old.wav", sound(60), age_s=30 * DAY_S)
    add(archive, "talks/z-new.wav", sound(90))
    again = source(archive, "calls", uploads=1, retry_failed=3)

    outcome = await ran(archive, again, talks, by_age=True)

    order = await submitted(outcome)
    assert order[0] == "talks/z-new.wav"
    assert order.index("calls/c-failed.wav") < order.index("calls/a-old.wav")


async def test_the_backlog_is_rationed(archive: Archive) -> None:
    """A night takes on as much of the backlog as its ration says, and that is no failure."""
    for number in range(8):
        add(archive, f"calls/{number}.wav", sound(HOUR_S / 2, tone=number), age_s=30 * DAY_S)
    add(archive, "calls/new.wav", sound(2 * HOUR_S))
    calls = source(archive, backlog={"hours_per_night": 1})

    nights = [await ran(archive, calls, by_age=True) for _ in range(4)]

    assert [night.summary.written for night in nights] == [3, 2, 2, 2]
    assert [night.summary.parked for night in nights] == [6, 4, 2, 0]
    assert {night.summary.exit_code for night in nights} == {ExitCode.DONE}
    assert nights[0].summary.reasons["parked"] == {"backlog: left for the coming nights": 6}


async def test_a_ration_is_of_the_first_of_the_backlog(archive: Archive) -> None:
    """However many go on at once, the ration goes to the first of the order."""
    for number in range(12):
        add(archive, f"calls/{number:02}.wav", sound(600, tone=number), age_s=30 * DAY_S)
    calls = source(archive, backlog={"hours_per_night": 1})

    await ran(archive, calls, by_age=True)

    assert sorted(archive.results()) == [f"calls/{number:02}.wav.json" for number in range(6)]


async def test_what_fails_is_tried_on_so_many_nights(archive: Archive) -> None:
    """With a number a failure is tried again until it failed on that many dates, 12 h apart."""
    bad = b"ERROR:Audio duration is too short.\n"
    add(archive, "calls/a.wav", bad)
    calls = source(archive, retry_failed=3)
    began = time.time()

    for night in range(5):
        for minute in range(2):  # started again and again, as a timer does that sees it fail
            at = began + night * 24 * 3600 + minute * 60
            outcome = await ran(archive, calls, clock=moved_to(at))

    assert len(archive.service.accepted(bad)) == 5
    assert outcome.summary.failed == 1


# --- caps ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cap",
    [
        {"max_hours": 2},
        {"max_cost": 0.42},
        {"max_hours_month": 2},
        {"max_cost_month": 0.42},
    ],
)
async def test_caps_hold(archive: Archive, cap: dict[str, float]) -> None:
    """The service never bills more than a cap; the rest is left, and the exit code says so."""
    for number in range(8):
        add(archive, f"calls/{number}.wav", sound(HOUR_S / 2, tone=number))

    outcome = await ran(archive, source(archive, **cap))

    assert billed_hours(archive) == 2
    assert (outcome.summary.written, outcome.summary.parked) == (4, 4)
    assert outcome.summary.exit_code == ExitCode.CAP_REACHED
    assert outcome.summary.reason is not None
    assert next(iter(cap)) in outcome.summary.reason


async def test_the_cap_of_a_month_holds_over_runs_and_ends_with_it(archive: Archive) -> None:
    """Runs of one month share its cap, by the calendar of the zone; the next month has its own."""
    for number in range(8):
        add(archive, f"calls/{number}.wav", sound(HOUR_S / 2, tone=number), age_s=400 * DAY_S)
    calls = source(archive, max_hours=1, max_hours_month=1.5, time_zone="Europe/Berlin")
    last_of_march, first_of_april = 1774994340.0, 1774994460.0  # 23:59 and 00:01 in Berlin

    written = []
    for now in (last_of_march - 3600, last_of_march, last_of_march, first_of_april):
        outcome = await ran(archive, calls, clock=moved_to(now))
        written.append(outcome.summary.written)

    assert written == [2, 1, 0, 2]


async def test_what_costs_less_than_expected_leaves_room(archive: Archive) -> None:
    """A cap counts what the service says it used, not what was expected, once that is known."""
    prices = {"universal-3-5-pro": 1.0, "universal-2": 0.5}
    for number in range(4):
        add(archive, f"calls/{number}.wav", sound(HOUR_S, tone=number))
    models = {"speech_models": ["universal-2", "universal-3-5-pro"]}
    archive.service.language = "uk"
    calls = source(archive, max_cost=2, prices=prices, transcript=models)

    outcome = await ran(archive, calls)

    assert outcome.summary.cost_usd is not None
    assert outcome.summary.cost_usd <= 2
    assert outcome.summary.written >= 2


async def test_one_that_is_more_than_a_cap_is_skipped(archive: Archive) -> None:
    """A recording that alone is more than a cap is named, and the others go on."""
    add(archive, "calls/a-long.wav", sound(3 * HOUR_S))
    add(archive, "calls/b.wav", sound(HOUR_S))

    outcome = await ran(archive, source(archive, max_hours=2))

    (skipped,) = outcome.of(Skipped)
    assert skipped.recording == "calls/a-long.wav"
    assert "more than `max_hours` of 2.00 h" in skipped.reason
    assert outcome.summary.written == 1
    assert outcome.summary.exit_code == ExitCode.DONE


async def test_equal_recordings_count_once(archive: Archive) -> None:
    """What is not asked for, since an equal recording is, takes no room under a cap."""
    for name in ("a", "b", "c", "d"):
        add(archive, f"calls/{name}.wav", sound(HOUR_S))

    outcome = await ran(archive, source(archive, max_hours=1, uploads=1))

    assert billed_hours(archive) == 1
    assert outcome.summary.written == 4


async def test_errors_of_the_service_take_no_room(archive: Archive) -> None:
    """What the service failed at was not paid, and leaves its room to the others."""
    add(archive, "calls/a.wav", b"ERROR:Audio duration is too short.\n" + bytes(HOUR_S * 2000 - 35))
    add(archive, "calls/b.wav", sound(HOUR_S))

    outcome = await ran(archive, source(archive, max_hours=1, uploads=1))

    assert (outcome.summary.written, outcome.summary.failed) == (1, 1)


async def test_a_cap_on_cost_without_a_price_is_an_error(archive: Archive) -> None:
    """A cap that could not be held is refused before anything is sent."""
    add(archive, "calls/a.wav", sound(60))
    calls = source(archive, max_cost=1, transcript={"speech_models": ["somebody's"]})

    with pytest.raises(SettingsError, match="prices"):
        await ran(archive, calls)
    assert archive.service.requests == {}


# --- the start -------------------------------------------------------------------------------


async def test_a_dry_run_says_what_it_would_come_to(archive: Archive) -> None:
    """Hours and dollars of what would be asked for; what could not be probed is counted as such."""
    add(archive, "calls/a.wav", sound(HOUR_S))
    add(archive, "calls/b.mp3", b"not sound" * 100)

    outcome = await ran(archive, source(archive, dry_run=True))

    assert outcome.summary.due_hours == pytest.approx(1, abs=0.002)
    assert outcome.summary.due_cost_usd == pytest.approx(0.21, abs=0.001)
    assert outcome.summary.unprobed == 1
    assert archive.service.requests == {}


async def test_a_run_waits_for_the_network(archive: Archive) -> None:
    """With `wait_network` a run that finds no service waits until there is one."""
    add(archive, "calls/a.wav", sound(60))
    calls = source(archive, wait_network="30s")
    url, outcomes = archive.service.url, list[Outcome]()
    service = archive.service
    await service.__aexit__(None, None, None)
    async with anyio.create_task_group() as group:

        async def go() -> None:
            outcomes.append(await ran(archive, calls))

        group.start_soon(go)
        with anyio.fail_after(30):
            await anyio.wait_all_tasks_blocked()
            await service.__aenter__()

    assert url == service.url
    assert outcomes[0].summary.written == 1


async def test_a_run_gives_up_on_the_network_in_time(archive: Archive) -> None:
    """A service that is not reached in `wait_network` ends the run, to be tried later."""
    add(archive, "calls/a.wav", sound(60))
    calls = source(archive, provider="http://127.0.0.1:9", wait_network="1s")
    began = time.monotonic()

    outcome = await ran(archive, calls)

    assert outcome.summary.exit_code == ExitCode.TRY_LATER
    assert time.monotonic() - began < 30


def test_settings_of_a_source_stand_in_place_of_those_of_all() -> None:
    """A source's filters replace, its options and rules add to what counts for all."""
    settings = Settings(
        transcript={"punctuate": False},
        exclude=["*.mp3"],
        rules=[{"match": "a/**", "language_code": "de"}],
        source=[
            {
                "folder": "/calls",
                "transcript": {"speaker_labels": True},
                "exclude": ["*.wav"],
                "rules": [{"match": "b/**", "language_code": "fr"}],
            }
        ],
    )

    own = settings.of_source(settings.source[0])

    assert own.exclude == ("*.wav",)
    assert own.options_for("b/x") == {
        "punctuate": False,
        "speaker_labels": True,
        "language_code": "fr",
    }
