"""
A dry run is the budget: what it says holds whatever the run that follows sends, leaves and costs.

Archives are drawn: lengths that recordings tell and that they do not, copies of what is there and
of each other, small and large, results with other options; caps, limits, rations and orders. First
the dry run, then the run, against the scripted service, which bills by what it hears.

`pytest -n0 tests/test_foresight.py --long` draws five hundred; a failure names its seed.
"""

import os
import random
import time
import wave
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread

from jobs.transcribe import Source, transcribe
from pipeline.errors import ExitCode
from pipeline.events import Event, Summary
from pipeline.foresight import COPY, MAY_BE_SENT, TO_BE_SENT
from pipeline.ledger.accounts import UNSAVED
from pipeline.models import Root
from pipeline.progress import render_summary
from tests.support.runs import Archive, Outcome, opened, recording

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1800)]

LONG = 500
FOR_S = 12.0
"""How long archives are drawn where it is not for long."""
HOUR_S = 3600
DAY_S = 86_400.0
WHOLE_S = 8192
"""Sounds below that are read whole by a look at their edges: they take 16 bytes a second."""
AMR_BYTES_PER_S = 600
ONE_PRICE = {"speech_models": ["universal-2"]}
USD = 1e-6
"""What summaries are rounded to."""


def sound(seconds: int, seed: str, channels: int = 1) -> bytes:
    """A WAV that takes as many seconds here as at the service; another one for each seed."""
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(1)
        file.setframerate(16)
        file.writeframes(random.Random(seed).randbytes(16 * channels * seconds))
    return made.getvalue()


def telling(seconds: int, most_s: int, seed: str) -> bytes:
    """An AMR that only the service can tell the length of, and that may be as long as `most_s`."""
    return f"SECONDS:{seconds}\n{seed}\n".encode().ljust(AMR_BYTES_PER_S * most_s, b"-")


async def ran(archive: Archive, *sources: Source, **given: Any) -> Outcome:
    """A run over these sources, with the settings of the first for all that is of the run."""
    events: list[Event] = []
    with anyio.fail_after(120):
        summary = await transcribe(sources[0].settings, sources, emit=events.append, **given)
    return Outcome(summary, events)


def source(archive: Archive, name: str, **own: Any) -> Source:
    """A source in a folder of its name, and its recordings at the root of their own results."""
    folder = archive.root / name
    folder.mkdir(exist_ok=True)
    root = Root(name, os.fsencode(os.path.realpath(folder)), name.encode() + b"/")
    return Source(name, [root], archive.settings(**own))


# --- drawn archives -------------------------------------------------------------------------------


@dataclass
class Drawn:
    """An archive that grows, and what is asked of it."""

    archive: Archive
    draw: random.Random
    is_certain: bool
    """Whether all lengths and prices are certain, and no copies are unread."""
    told: list[str] = field(default_factory=list)

    def arrive(self, count: int) -> None:
        """So many new recordings, and copies of those that are there."""
        for _ in range(count):
            name = f"{self.draw.choice(('calls', 'talks'))}/{self.draw.randrange(10_000):04}"
            suffix, content = self._content()
            age_s = self.draw.choice((2 * HOUR_S, 30 * DAY_S)) + self.draw.randrange(1000)
            recording(self.archive.root / f"{name}.{suffix}", content, age_s=age_s)
            self.told.append(f"{name}.{suffix}: {len(content)} bytes")

    def _content(self) -> tuple[str, bytes]:
        draw, seed = self.draw, f"{self.draw.random()}"
        there = [] if self.is_certain else sorted(self.archive.root.glob("[ct]a*/*.*"))
        match draw.randrange(6):
            case 0 if there:
                copied = draw.choice(there)
                return copied.suffix[1:], copied.read_bytes()
            case 1 if not self.is_certain:
                most_s = draw.randrange(60, HOUR_S)
                return "amr", telling(draw.randrange(1, most_s), most_s, seed)
            case 2:
                return "wav", sound(draw.randrange(WHOLE_S, 2 * WHOLE_S), seed, channels=2)
            case _:
                return "wav", sound(draw.randrange(1, WHOLE_S // 2), seed, channels=2)

    def settings(self) -> dict[str, Any]:
        """What is asked of one run."""
        draw = self.draw
        some = {
            "max_hours": draw.randrange(1, 80) / 8,
            "max_cost": draw.randrange(1, 200) / 100,
            "max_hours_month": draw.randrange(1, 200) / 8,
            "max_cost_month": draw.randrange(1, 500) / 100,
            "limit": draw.randrange(0, 12),
        }
        given = {name: value for name, value in some.items() if draw.random() < 0.3}
        prices = ONE_PRICE if self.is_certain or draw.random() < 0.5 else {}
        options = draw.choice(({}, {"punctuate": False}, {"multichannel": True}))
        if draw.random() < 0.3:
            given["backlog"] = {"hours_per_night": draw.randrange(1, 40) / 8}
        return given | {
            "order": draw.choice(("path", "largest", "smallest", "newest", "oldest")),
            "uploads": draw.randrange(1, 8),
            "concurrency": draw.randrange(1, 8),
            "transcript": {**prices, **options},
            "redo_changed": draw.random() < 0.4,
            "force": draw.random() < 0.2,
        }

    def sources(self, **given: Any) -> list[Source]:
        """Both folders."""
        return [source(self.archive, name, **given) for name in ("calls", "talks")]


async def drawn(folder: Path, seed: int) -> None:
    """An archive over some nights, each foreseen and then done."""
    async with opened(folder) as archive:
        draw = random.Random(seed)
        life = Drawn(archive, draw, is_certain=draw.random() < 0.4)
        try:
            for _ in range(draw.randrange(1, 4)):
                await to_thread.run_sync(life.arrive, draw.randrange(1, 12))
                given, by_age = life.settings(), draw.random() < 0.5
                life.told.append(f"{given} {by_age=}")
                dry = life.sources(**given, dry_run=True)
                asked = len(list(archive.service))
                foreseen = (await ran(archive, *dry, by_age=by_age)).summary
                assert len(list(archive.service)) == asked
                done = (await ran(archive, *life.sources(**given), by_age=by_age)).summary
                require(foreseen, done)
                if life.is_certain:
                    require_exact(foreseen, done)
        except AssertionError as error:
            error.add_note("\n".join(life.told))
            raise


def require(foreseen: Summary, done: Summary) -> None:
    """Whatever was uncertain, the run lies between what was said."""
    assert foreseen.exit_code == ExitCode.DONE
    assert foreseen.found == done.found
    assert foreseen.due_least <= done.transcripts <= foreseen.due
    assert foreseen.due_hours_least - USD <= done.audio_hours <= foreseen.due_hours + USD
    assert done.cost_usd is not None
    assert foreseen.due_cost_usd is not None
    assert foreseen.due_cost_usd_least is not None
    assert foreseen.due_cost_usd_least - USD <= done.cost_usd <= foreseen.due_cost_usd + USD
    said = foreseen.reasons.get("parked", {})
    sent = said.get(TO_BE_SENT, 0)
    others = sum(said.get(reason, 0) for reason in (MAY_BE_SENT, COPY, UNSAVED))
    others += sum(count for reason, count in said.items() if "unless it is equal" in reason)
    if foreseen.due_least < foreseen.due:  # more may have their turn, of which results are there
        others += foreseen.kept + foreseen.already_written
        others += said.get("left by `--limit`", 0)
    assert done.written <= sent + others
    assert foreseen.failed == done.failed
    assert sum(each.due for each in foreseen.sources) >= foreseen.due_least
    assert render_summary(foreseen)


def require_exact(foreseen: Summary, done: Summary) -> None:
    """Where nothing is uncertain, what was said is what the run sends, leaves and costs."""
    assert (foreseen.due_least, foreseen.unprobed, foreseen.possible_copies) == (
        foreseen.due,
        0,
        0,
    )
    assert foreseen.due == done.transcripts
    assert (
        foreseen.due_hours == foreseen.due_hours_least == pytest.approx(done.audio_hours, abs=USD)
    )
    assert foreseen.due_cost_usd == foreseen.due_cost_usd_least
    assert foreseen.due_cost_usd == pytest.approx(done.cost_usd, abs=USD)
    assert foreseen.skipped == done.skipped
    assert foreseen.kept == done.kept
    said = dict(foreseen.reasons.get("parked", {}))
    assert done.written == sum(said.pop(reason, 0) for reason in (TO_BE_SENT, COPY, UNSAVED))
    assert said == done.reasons.get("parked", {})


async def test_what_a_dry_run_says_holds(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Over drawn archives, nights and settings: in between in any case, exact where it can be."""
    is_long = bool(pytestconfig.getoption("--long"))
    first = 0 if is_long else random.randrange(1_000_000)
    until = time.monotonic() + FOR_S
    for seed in range(first, first + LONG):
        try:
            await drawn(tmp_path / f"{seed}", seed)
        except BaseException as error:
            error.add_note(f"the archive of seed {seed}")
            raise
        if not is_long and time.monotonic() > until:
            break
