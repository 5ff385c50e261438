"""The whole pipeline at once: everything ends, each content is paid once, nothing is left over."""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
import stamina
from anyio import create_memory_object_stream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.batch import start
from pipeline.errors import ExitCode
from pipeline.events import Failed, Skipped, Written
from tests.support.runs import Archive, opened
from tests.support.service import Fault
from tests.support.service_faults import Action, Kind

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


# --- wiring ------------------------------------------------------------------------------------


async def test_the_end_travels_down() -> None:
    """A stage's output ends when the last of its copies has returned, and not before."""
    to_work, numbers = create_memory_object_stream[int](10)
    to_end, results = create_memory_object_stream[int](10)
    seen: list[int] = []

    async def double(
        source: MemoryObjectReceiveStream[int], target: MemoryObjectSendStream[int]
    ) -> None:
        async with source, target:
            async for number in source:
                await target.send(2 * number)

    async def collect(source: MemoryObjectReceiveStream[int]) -> None:
        async with source:
            seen.extend([number async for number in source])

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            start(group, 3, double, numbers, to_end)
            start(group, 1, collect, results)
            async with to_work:
                for number in range(20):
                    await to_work.send(number)

    assert sorted(seen) == [2 * number for number in range(20)]


# --- no service -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, "<title>Welcome</title>", "the service is reached, but does not speak the API"),
        (403, "<title>Welcome</title>", "the service is reached, but does not speak the API"),
        (503, '{"error": "busy"}', "the service is reached, but does not work"),
    ],
)
async def test_a_service_that_is_none_is_told_apart(
    archive: Archive, status: int, body: str, expected: str
) -> None:
    """A run that cannot begin says whether what answers there is the service at all."""
    archive.add("a.wav", b"one")
    archive.service.faults.add(Fault(on="*", action="answer", status=status, body=body, times=None))

    with stamina.set_testing(True, attempts=3):
        summary = (await archive.run()).summary

    assert summary.exit_code == ExitCode.TRY_LATER
    assert str(summary.reason).startswith(expected)


# --- one bad one -------------------------------------------------------------------------------


async def test_one_bad_recording_ends_nothing(archive: Archive) -> None:
    """Recordings that fail in every way that one can leave all the others unharmed."""
    for number in range(12):
        archive.add(f"good/{number:02}.wav", b"%d" % number)
    archive.add("bad/empty.wav", b"")
    archive.add("bad/noise.wav", b"ERROR:Audio duration is too short.\n")
    archive.add("bad/refused.wav", b"refused")
    archive.add("bad/foreign.wav", b"foreign")
    add = archive.service.faults.add
    add(Fault(on="upload", action="answer", status=400, times=None, match="refused"))
    archive.service.fail_content(b"foreign", "File type not supported")

    outcome = await archive.run()

    assert outcome.summary.exit_code == ExitCode.PARTIAL
    assert {event.recording for event in outcome.of(Failed)} == {
        "bad/noise.wav",
        "bad/refused.wav",
        "bad/foreign.wav",
    }
    assert [event.recording for event in outcome.of(Skipped)] == ["bad/empty.wav"]
    assert len(outcome.of(Written)) == 12
    assert sorted(archive.results()) == [f"good/{number:02}.wav.json" for number in range(12)]


# --- everything at once ------------------------------------------------------------------------

HARMLESS: dict[Kind, list[Action]] = {
    "upload": ["answer", "drop_before", "drop_after", "truncate", "garbage"],
    "submit": ["drop_before", "drop_after", "truncate", "garbage", "answer", "effect_then_answer"],
    "get": ["answer", "drop_before", "drop_after", "truncate", "garbage", "redirect"],
    "list": ["answer", "drop_before", "truncate", "list_says_error", "garbage"],
}
"""What each kind of request may meet, of which no recording is lost."""


@pytest.mark.parametrize("seed", range(3))
async def test_a_night_of_trouble(archive: Archive, seed: int) -> None:
    """Trouble of every kind, at random: in the end all is written, and each content paid once."""
    dice = random.Random(seed)
    contents = [b"content %d" % dice.randrange(24) for _ in range(32)]
    for number, content in enumerate(contents):
        archive.add(f"{number:02}.wav", content)
    for _ in range(16):
        kind = dice.choice(list(HARMLESS))
        action = dice.choice(HARMLESS[kind])
        archive.service.faults.add(Fault(on=kind, action=action, skip=dice.randrange(12)))
    archive.service.fail_content(contents[0], "Server error, developers have been alerted.")

    runs = 0
    while True:
        outcome = await archive.run(uploads=3, concurrency=6)
        runs += 1
        if not outcome.summary.parked or runs == 3:
            break

    assert outcome.summary.written + outcome.summary.already_written == 32
    assert outcome.summary.exit_code == ExitCode.DONE
    assert archive.service.billable == Counter(
        dict.fromkeys((t.content for t in archive.service), 1)
    )
    assert len(archive.service.billable) == len(set(contents))
    results = archive.results()
    for number, content in enumerate(contents):
        paid = [t.id for t in archive.service.accepted(content) if t.is_billed]
        assert [json.loads(results[f"{number:02}.wav.json"])["id"]] == paid
    urls = [call.audio_url for call in archive.service.log if call.kind == "submit"]
    assert max(Counter(urls).values()) == 1


# --- nothing to do -----------------------------------------------------------------------------


async def test_nothing_to_do_asks_nothing(archive: Archive) -> None:
    """With no recordings the service hears nothing, not even the question for the key."""
    archive.recordings.mkdir()

    outcome = await archive.run()

    assert outcome.summary.found == 0
    assert archive.service.requests == {}


async def test_only_skipped_ones_ask_nothing(archive: Archive) -> None:
    """Where everything is skipped there is nothing to ask for."""
    archive.add("empty.wav", b"")

    outcome = await archive.run()

    assert outcome.summary.skipped == 1
    assert archive.service.requests == {}


# --- leftovers ---------------------------------------------------------------------------------


async def test_leftovers_of_another_folder_are_collected(archive: Archive) -> None:
    """What an earlier run asked for is collected by a run over another folder, too."""
    archive.add("a.wav", b"one")
    archive.service.transcript_seconds = 3600.0
    archive.service.faults.add(
        Fault(on="get", action="answer", status=401, times=None, body='{"error": "no"}')
    )
    await archive.run()
    archive.service.faults.clear()
    for transcript in archive.service:
        archive.service.complete(transcript.id)
    other = archive.root / "recordings-too"
    other.mkdir()

    outcome = await archive.run(other)

    assert outcome.summary.collected == 1
    assert sorted(archive.results()) == ["a.wav.json"]


async def test_more_leftovers_than_places(archive: Archive) -> None:
    """Leftovers may exceed the places at the service: they are collected, then the rest follows."""
    for number in range(20):
        archive.add(f"{number:02}.wav", b"%d" % number)
    archive.service.transcript_seconds = 3600.0
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: archive.run(limit=15))
        with anyio.fail_after(30):
            await archive.service.until(lambda: archive.service.requests["submit"] == 15)
            seen = archive.service.requests["list"]
            await archive.service.until(lambda: archive.service.requests["list"] > seen + 2)
        group.cancel_scope.cancel()
    archive.service.transcript_seconds = 0.05
    for transcript in archive.service:
        archive.service.complete(transcript.id)

    outcome = await archive.run(concurrency=2, uploads=1)

    assert outcome.summary.written == 20
    assert set(archive.service.billable.values()) == {1}
    assert archive.service.requests["submit"] == 20
