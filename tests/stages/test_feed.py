"""The feed: what is sent first, in whichever order was asked for."""

import json
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ExitCode
from pipeline.events import Uploaded
from tests.support.nights import sound
from tests.support.runs import Archive, Outcome, opened
from tests.support.service import Fault

pytestmark = pytest.mark.anyio

SIZES = {"b/large.wav": 500, "a.wav": 100, "c.wav": 100, "d/small.wav": 20, "b/middle.wav": 300}
AGES_S = {
    "b/large.wav": 9000,
    "a.wav": 4000,
    "c.wav": 4000,
    "d/small.wav": 6000,
    "b/middle.wav": 10,
}
EXPECTED = {
    "path": "a large middle c small",
    "largest": "large middle a c small",
    "smallest": "small a c middle large",
    "newest": "middle a c small large",
    "oldest": "large small a c middle",
}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    now = time.time()
    async with opened(tmp_path) as archive:
        for name, size in SIZES.items():
            archive.add(name, name.encode().ljust(size))
            # By one clock, so that two of them are of one age to the nanosecond.
            changed = now - AGES_S[name]
            os.utime(archive.recordings / name, (changed, changed))
        yield archive


async def one_by_one(archive: Archive, **settings: Any) -> Outcome:
    """A run with one upload at a time."""
    return await archive.run(uploads=1, **settings)


def sent(outcome: Outcome) -> str:
    """What was uploaded, one after the other."""
    return " ".join(Path(event.recording).stem for event in outcome.of(Uploaded))


@pytest.mark.parametrize("order", EXPECTED)
async def test_recordings_are_sent_in_order(archive: Archive, order: str) -> None:
    """Each order sends what comes first in it first, and equals by their path."""
    outcome = await one_by_one(archive, order=order)

    assert sent(outcome) == EXPECTED[order]
    assert outcome.summary.written == len(SIZES)


async def test_a_limit_takes_the_first_of_the_order(archive: Archive) -> None:
    """`--limit 2` night after night takes two at a time, the largest ones first."""
    nights = [sent(await one_by_one(archive, order="largest", limit=2)) for _ in range(4)]

    assert nights == ["large middle", "a c", "small", ""]


async def test_another_order_takes_what_is_left(archive: Archive) -> None:
    """A run that was stopped in the middle is gone on with in any order."""
    await one_by_one(archive, order="smallest", limit=1)

    assert sent(await one_by_one(archive, order="largest", limit=1)) == "large"
    assert sent(await one_by_one(archive)) == "a middle c"


# --- what counts for a limit ----------------------------------------------------------------------


def unknown_result(archive: Archive, name: str) -> None:
    """A whole transcript where the result goes, which the ledger does not know."""
    place = archive.output / f"{name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"id": f"other-{name[0]}", "status": "completed", "text": ""}))


def no_place(archive: Archive, name: str) -> None:
    """A folder where the result goes."""
    (archive.output / f"{name}.json").mkdir(parents=True)


def too_long(archive: Archive, name: str) -> None:
    """A recording that alone comes to more than the cap."""
    archive.add(name, name.encode().ljust(100_000))


def equal(archive: Archive, name: str) -> None:
    """A recording whose result is there under another name."""
    archive.add(name, b"done before".ljust(100))


@pytest.mark.parametrize("kind", [unknown_result, no_place, too_long, equal])
async def test_what_is_not_sent_does_not_count_for_a_limit(
    archive: Archive, kind: Callable[[Archive, str], None]
) -> None:
    """What is left alone, cannot be sent, or need not be, keeps nothing else from its turn."""
    settings = {"limit": 2, "max_hours": 0.001}
    equal(archive, "0.wav")
    await one_by_one(archive, limit=1)
    for name in ("a.wav", "c.wav", "b/large.wav"):
        kind(archive, name)

    nights = [sent(await one_by_one(archive, **settings)) for _ in range(2)]

    assert nights == ["middle small", ""]


async def test_all_at_once_send_no_more_than_a_limit(archive: Archive) -> None:
    """However many uploads there may be at once, as many are sent as the limit says."""
    for name in ("a.wav", "c.wav"):
        unknown_result(archive, name)

    nights = [len(sent(await archive.run(limit=1)).split()) for _ in range(4)]

    assert nights == [1, 1, 1, 0]


async def test_what_was_sent_in_vain_counts_for_a_limit(archive: Archive) -> None:
    """A recording whose bytes the service does not take has had its turn."""
    archive.service.faults.add(Fault(on="upload", action="answer", status=400))

    outcome = await one_by_one(archive, limit=1)

    assert sent(outcome) == ""
    assert outcome.summary.reasons["parked"] == {"left by `--limit`": 4}


# --- under a cap ----------------------------------------------------------------------------------


@pytest.mark.parametrize("cap", ["max_hours", "max_cost", "max_hours_month", "max_cost_month"])
async def test_under_a_cap_what_is_sent_is_the_first_of_the_order(
    archive: Archive, cap: str
) -> None:
    """However many go on at once: the first that does not fit ends it, no later one slips in."""
    for name in SIZES:
        (archive.recordings / name).unlink()
    lengths_s = {"a": 1200, "b": 600, "c": 1200, "d": 300, "e": 60}
    for name, seconds in lengths_s.items():
        archive.add(f"{name}.wav", sound(seconds, name))
    archive.service.transcript_seconds = 0.2
    most_s = lengths_s["a"] + lengths_s["b"] + lengths_s["d"] + lengths_s["e"]
    limit = most_s / 3600 * (0.21 if "cost" in cap else 1)

    outcome = await archive.run(**{cap: limit})

    assert sorted(sent(outcome).split()) == ["a", "b"]
    assert outcome.summary.written == 2
    assert outcome.summary.exit_code == ExitCode.CAP_REACHED
