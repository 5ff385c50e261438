"""
Caps over many runs: once one is in force, the service's own books never come to more than it, or
than what had been asked for before it.
"""

import math
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from jobs.rebuild import rebuild
from pipeline.errors import ExitCode
from tests.support.audio import silence, tone, wav_bytes
from tests.support.nights import sound
from tests.support.runs import Archive, opened
from tests.support.service import Fault
from tests.support.service_account import Transcript

pytestmark = pytest.mark.anyio

HOUR_S = 3600
PRICE_USD = 0.21
"""An hour at the dearest of the models that do the work where nothing is said."""

MONTHLY = [{"max_hours_month": 2}, {"max_cost_month": 2 * PRICE_USD}]
CAPS = [*MONTHLY, {"max_hours": 2}, {"max_cost": 2 * PRICE_USD}]


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        yield archive


def hours(archive: Archive) -> float:
    """What the service was asked for, and may bill."""
    return sum(map(_seconds, archive.service)) / HOUR_S


def _seconds(transcript: Transcript) -> int:
    return 0 if transcript.status == "error" else transcript.audio_duration


async def left(archive: Archive, once: Callable[[], bool], **given: Any) -> None:
    """A run that is over as soon as the service has seen this, whatever is under way."""
    async with anyio.create_task_group() as group:
        group.start_soon(partial(archive.run, **given))
        await archive.service.until(once)
        group.cancel_scope.cancel()


def telling(seconds: int, seed: str) -> bytes:
    """A recording as AMR that only the service can tell the length of."""
    return f"SECONDS:{seconds}\n{seed}\n".encode().ljust(600 * seconds, b"-")


async def left_six_hours(archive: Archive, suffix: str = "wav", sweeps: int = 0) -> None:
    """
    Six of eight recordings of an hour, which a run without a cap asked for, and left there.

    Some answers were not read, unless it has looked for results so often since.
    """
    looks: list[int] = []

    def is_over() -> bool:
        if len(archive.service.transcripts) == 6:
            looks.append(archive.service.requests["list"])
        return bool(looks) and looks[-1] - looks[0] >= sweeps

    content = sound if suffix == "wav" else telling
    for number in range(8):
        archive.add(f"{number}.{suffix}", content(HOUR_S, f"{number}"))
    archive.service.transcript_seconds = math.inf
    await left(archive, is_over, limit=6)
    archive.service.transcript_seconds = 0.0
    for transcript in list(archive.service):
        archive.service.complete(transcript.id)


# --- what runs without a cap leave ----------------------------------------------------------------


@pytest.mark.parametrize("cap", MONTHLY)
async def test_the_month_counts_what_a_run_without_a_cap_left(
    archive: Archive, cap: dict[str, float]
) -> None:
    """What is still at the service counts against the cap of a month, whoever asked for it."""
    await left_six_hours(archive)

    await archive.run(**cap)

    assert hours(archive) == 6


@pytest.mark.parametrize("cap", MONTHLY)
async def test_what_nobody_noted_counts_by_size(archive: Archive, cap: dict[str, float]) -> None:
    """What a version asked for that noted no expectation is taken for as long as it may be."""
    await left_six_hours(archive, "amr")
    await changed(archive, "UPDATE attempts SET expected_s = NULL, expected_usd = NULL")

    await archive.run(**cap)

    assert hours(archive) == 6


@pytest.mark.parametrize("is_settled", [False, True])
async def test_channels_that_nobody_noted_count_as_many(archive: Archive, is_settled: bool) -> None:
    """What was asked for by channel, and has no cost noted, counts for as many as there may be."""
    archive.add("a.amr", telling(600, "a"))
    archive.service.transcript_seconds = math.inf
    await left(archive, lambda: bool(archive.service.transcripts), **MULTICHANNEL)
    archive.service.transcript_seconds = 0.0
    archive.service.complete(next(iter(archive.service)).id)
    if is_settled:
        await archive.run(**MULTICHANNEL)
    await changed(archive, "UPDATE attempts SET expected_s = NULL, expected_usd = NULL")
    await changed(archive, "UPDATE attempts SET price_usd = NULL")
    once_usd = PRICE_USD * 600 / HOUR_S
    archive.add("b.wav", sound(600, "b"))

    over = await archive.run(max_cost_month=8.5 * once_usd)
    within = await archive.run(max_cost_month=9 * once_usd)

    assert over.summary.exit_code == ExitCode.CAP_REACHED
    assert within.summary.exit_code == ExitCode.DONE


@pytest.mark.parametrize("cap", [{"max_hours_month": 7.5}, {"max_cost_month": 7.5 * PRICE_USD}])
async def test_a_ledger_made_anew_counts_what_was_noted(
    archive: Archive, cap: dict[str, float]
) -> None:
    """What lost ledgers expected of transcripts that are still to be fetched is in the journals."""
    await left_six_hours(archive, sweeps=5)
    for path in archive.state.glob("ledger.sqlite3*"):
        path.unlink()
    await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)

    await archive.run(**cap)

    assert hours(archive) == 7


@pytest.mark.parametrize("is_settled", [False, True])
async def test_what_has_no_price_counts_at_the_dearest(archive: Archive, is_settled: bool) -> None:
    """Where nobody knows what was asked for costs, the dearest model that has a price does."""
    await left_six_hours(archive)
    if is_settled:
        await archive.run(limit=0)
    await changed(archive, "UPDATE attempts SET price_usd = NULL, expected_usd = NULL")

    await archive.run(max_cost_month=6.5 * PRICE_USD)

    assert hours(archive) == 6


async def changed(archive: Archive, statement: str) -> None:
    """The ledger as it may be."""
    import sqlite3

    def change() -> None:
        with sqlite3.connect(archive.state / "ledger.sqlite3") as db:
            db.execute(statement)
        db.close()

    await to_thread.run_sync(change)


async def test_each_attempt_notes_what_it_comes_to(archive: Archive) -> None:
    """Without a cap, too: by the header of a recording, else by its size, at the dearest model."""
    archive.add("a.wav", sound(90, "a"))
    archive.add("b.mp3", bytes(2000 * 60))
    archive.add("c.wav", b"not sound" * 8000)

    await archive.run()

    expected = await archive.rows(
        "SELECT CAST(path AS TEXT), expected_s, round(expected_usd, 9) FROM attempts"
        " JOIN recordings USING (recording_id) ORDER BY 1"
    )
    assert expected == [
        (name, seconds, round(PRICE_USD * seconds / 3600, 9))
        for name, seconds in (("a.wav", 90), ("b.mp3", 60), ("c.wav", 9))
    ]


# --- what is sent is what was reserved ------------------------------------------------------------


@pytest.mark.parametrize(("cap", "suffix"), [*((cap, "amr") for cap in CAPS), (CAPS[0], "wav")])
async def test_what_grew_since_the_scan_counts_as_it_is_sent(
    archive: Archive, cap: dict[str, float], suffix: str
) -> None:
    """A recording that is longer by the time that it is opened is no more than what is left."""

    content = sound if suffix == "wav" else telling
    archive.add("a.wav", sound(HOUR_S, "a"))
    archive.add(f"b.{suffix}", content(60, "b"))
    archive.service.faults.add(Fault(on="upload", action="hold_before"))

    async with anyio.create_task_group() as group:
        group.start_soon(partial(archive.run, uploads=1, **cap))
        await archive.service.held("upload")
        await to_thread.run_sync(archive.add, f"b.{suffix}", content(HOUR_S + 60, "b"))
        archive.service.release()

    assert hours(archive) == 1


MULTICHANNEL = {"transcript": {"multichannel": True}}


@pytest.mark.parametrize("channels", [2, None, "2", 0], ids=str)
async def test_each_channel_counts(archive: Archive, channels: object) -> None:
    """Where channels are transcribed one by one, each is settled as it was set aside."""
    archive.add("a.wav", wav_bytes(silence(80.0), channels=2))
    patch = {"audio_channels": channels}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))
    first = await archive.run(**MULTICHANNEL)
    once_usd = PRICE_USD * 40 / HOUR_S
    archive.add("b.wav", wav_bytes(tone(80.0), channels=2))

    second = await archive.run(**MULTICHANNEL, max_cost_month=3.5 * once_usd)
    third = await archive.run(**MULTICHANNEL, max_cost_month=4 * once_usd)

    known = None if channels != 2 else pytest.approx(2 * once_usd, abs=1e-6)
    assert first.summary.cost_usd == known
    assert second.summary.exit_code == ExitCode.CAP_REACHED
    assert third.summary.written == 1


async def test_a_ledger_made_anew_counts_each_channel(archive: Archive) -> None:
    """What a rebuild reads from the results comes to what it had come to."""
    archive.add("a.wav", wav_bytes(silence(80.0), channels=2))
    await archive.run(**MULTICHANNEL)
    price = "SELECT price_usd FROM attempts"
    before = await archive.rows(price)

    await rebuild(archive.settings(), lambda _: None, emit=lambda _: None)

    assert await archive.rows(price) == before


async def test_one_channel_for_all_counts_once(archive: Archive) -> None:
    """Of a recording that is mixed the number of channels does not matter."""
    archive.add("a.wav", wav_bytes(silence(80.0), channels=2))
    patch = {"audio_channels": 2}
    archive.service.faults.add(Fault(on="get", action="patch", times=None, patch=patch))

    outcome = await archive.run()

    assert outcome.summary.cost_usd == pytest.approx(PRICE_USD * 40 / HOUR_S, abs=1e-6)
