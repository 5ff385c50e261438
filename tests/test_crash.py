"""
The crash matrix: a run that is killed anywhere, and run once more, ends as if nothing had been.

One undisturbed run is recorded as the sequence of its commits, requests, answers and file
operations, k = 1 … N. Then the command is run from scratch for each k, killed by SIGKILL just
before k or just after it, and run once more. `pytest -n0 tests/test_crash.py --long` does so
before and after every k, and adds a thousand random nights with two to five kills.
"""

import os
import random
import signal
from ast import literal_eval
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest
from anyio import to_thread

from pipeline.errors import ExitCode, LedgerUnusable
from pipeline.ledger import read_only
from tests.support.machine import Ended, Machine, Point, machine
from tests.support.runs import recording
from tests.support.service_process import ServiceProcess, service_process

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(3600)]

When = Literal["before", "after"]
Say = Callable[[str], None]


def digest(content: bytes) -> str:
    """As the oracle names a content."""
    return sha256(content).hexdigest()


RECORDINGS = {
    "a.wav": b"equal",
    "calls/b.wav": b"larger than one chunk of an upload" * 10_000,
    "calls/late/c.wav": b"another",
    "z.wav": b"equal",
}
CONTENTS = {digest(content) for content in RECORDINGS.values()}

# Later than this there is an effect outside of the process, or a durable one.
LASTING = ("commit", "journal", "rename", "unlink", "mkdir", "request submit", "answer submit")

OF_FILES = ("write", "fsync", "rename", "unlink", "mkdir")

# On the fast clock of the machine, no time limit of the program may be shorter than real work.
PATIENT = '[timeouts]\nconnect = "10h"\nstall = "10h"\nanswer = "10h"\n'

# What is in doubt is parked once it is a minute old.
NEVER: dict[str, Any] = {"settle": "never", "speed": 400}

# The rest are sweeps of the poller and commits that shared another one this time: on a busy machine
# there are more or fewer of them.
REACHED = 0.75


@dataclass
class Night:
    """Fresh results of the same recordings, and an account that holds nothing yet."""

    machine: Machine
    service: ServiceProcess
    root: Path
    output: Path
    told: list[str] = field(default_factory=list)
    """What was done so far, for whoever has to find out why it went wrong."""

    async def run(
        self,
        die: Point | None = None,
        *more: str,
        settle: str = "10s",
        poll_interval: str = "500ms",
        speed: float = 50,
    ) -> Ended:
        """The command, to its end or its death."""
        ended = await self.machine.run(
            *("run", self.root / "recordings", "--output", self.output),
            *("--provider", self.service.url, "--config", self.root / "patient.toml"),
            *("--settle", settle, "--poll-interval", poll_interval, "--uploads", "1", "--json"),
            *more,
            environ={"ASSEMBLYAI_API_KEY": self.service.key},
            cwd=self.root,
            die=die,
            speed=speed,
        )
        self.told.append(f"{die or 'to its end'}: exit code {ended.exit_code}")
        # Two answers later it has worked off what the dead process had sent.
        for _ in range(2 if die else 0):
            await self.service.oracle()
        return ended

    async def standing(self, last: Ended) -> dict[str, Any]:
        """What is to be the same, however one got there."""
        oracle = await self.service.oracle()
        return {
            "exit code": last.exit_code,
            "billed": oracle["billable"],
            "accepted": oracle["accepted"],
            "results": dict(_results(self.output, oracle["transcripts"])),
            "temporary": [str(path) for path in self.output.rglob("*~overnight")],
        }

    async def doubtful(self) -> set[str]:
        """The recordings whose request may have left, says the ledger, and did not get there."""
        submitting = await to_thread.run_sync(self._submitting)
        for row in (await self.service.oracle())["transcripts"]:
            submitting.pop(row["audio_url"], None)
        wanted = set(submitting.values())
        return {name for name, content in RECORDINGS.items() if digest(content) in wanted}

    def _submitting(self) -> dict[str, str]:
        query = "SELECT upload_url, content FROM attempts WHERE state = 'submitting'"
        try:
            with closing(read_only(self.output / ".overnight" / "ledger.sqlite3")) as db:
                return dict(map(tuple, db.execute(query)))
        except LedgerUnusable:  # there is none yet
            return {}


def _results(output: Path, transcripts: Iterable[dict[str, Any]]) -> Iterable[tuple[str, str]]:
    """Each result by its name: the sha256 of its bytes, with names for what the service drew."""
    for path in sorted(output.rglob("*")):
        if path.is_file() and path.relative_to(output).parts[0] != ".overnight":
            body = path.read_bytes()
            for row in transcripts:
                body = body.replace(row["id"].encode(), b"ID of " + row["content"].encode())
                body = body.replace(row["audio_url"].encode(), b"URL of " + row["content"].encode())
            yield str(path.relative_to(output)), digest(body)


@dataclass
class World:
    """A machine, the service that it reaches, and the recordings on its disk."""

    machine: Machine
    service: ServiceProcess
    root: Path
    nights: Iterator[int] = field(default_factory=count)

    async def night(self) -> Night:
        """A new beginning."""
        await self.service.control("reset")
        output = self.root / f"night-{next(self.nights)}"
        return Night(self.machine, self.service, self.root, output)

    async def sequence(self, *kills: Point) -> tuple[list[str], dict[str, Any]]:
        """
        The steps of a run that nothing happens to, after these kills, and what it leaves.

        The shortest of some: how many transitions share a commit is a matter of timing, and the
        longer ones come to its steps as well.
        """
        runs = []
        for _ in range(5):
            night, last, _ = await after_kills(self, kills)
            runs.append((last.trace, await night.standing(last)))
        trace, standing = min(runs, key=lambda run: len(run[0]))

        assert standing["exit code"] == ExitCode.DONE
        assert standing["accepted"] == standing["billed"] == dict.fromkeys(CONTENTS, 1)
        assert sorted(standing["results"]) == [f"{name}.json" for name in RECORDINGS]
        return trace, standing


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    for name, content in RECORDINGS.items():
        recording(tmp_path / "recordings" / name, content)
    (tmp_path / "patient.toml").write_text(PATIENT)
    async with service_process(transcript_seconds=0) as service, machine() as its:
        yield World(its, service, tmp_path)


@pytest.fixture
def is_long(pytestconfig: pytest.Config) -> bool:
    return bool(pytestconfig.getoption("--long"))


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Say:
    """Shows a line, whoever captures."""

    def shown(line: str) -> None:
        with capfd.disabled():
            os.write(2, f"\n{line}\n".encode())

    return shown


def points(trace: Sequence[str], when: When) -> list[Point]:
    """Every step of a run, as an instant in any other one."""
    nth: Counter[str] = Counter()
    found = []
    for name in trace:
        nth[name] += 1
        found.append(Point(name, nth[name], when))
    return found


async def after_kills(world: World, kills: Sequence[Point]) -> tuple[Night, Ended, int]:
    """A night with some kills, its last run, and how many of the kills were come to."""
    night = await world.night()
    killed = [await night.run(point) for point in kills]
    for ended in killed:
        assert ended.exit_code in (-signal.SIGKILL, ExitCode.DONE), ended.stderr
    reached = sum(ended.exit_code < 0 for ended in killed)
    return night, await night.run(), reached


def violation(night: Night, undisturbed: dict[str, Any], standing: dict[str, Any]) -> list[str]:
    """What was done, and all that is not as it should be."""
    is_not = [f"{what}: {was}" for what, was in standing.items() if was != undisturbed[what]]
    return [*night.told, *is_not] if is_not else []


@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_once(world: World, when: When, is_long: bool, say: Say) -> None:
    """Killed at any step and run once more, everything is written, paid once, and tidy."""
    trace, undisturbed = await world.sequence()
    chosen = [p for p in points(trace, when) if is_long or when == "before" or p.name in LASTING]

    wrong, reached = [], 0
    for point in chosen:
        night, last, killed = await after_kills(world, [point])
        wrong += violation(night, undisturbed, await night.standing(last))
        reached += killed

    say(f"crash matrix: N = {len(trace)}, {reached} of {len(chosen)} killed {when} a step")
    assert not wrong, "\n".join(wrong)
    assert reached >= REACHED * len(chosen)


async def test_killed_while_it_recovers(world: World, is_long: bool, say: Say) -> None:
    """A run that puts in order what another has left may be killed at any step as well."""
    lost = Point("answer submit", 2, "before")
    _, undisturbed = await world.sequence()
    trace, _ = await world.sequence(lost)
    chosen = points(trace, "before")[:: 1 if is_long else 5]

    wrong, reached = [], 0
    for point in chosen:
        night, last, killed = await after_kills(world, [lost, point])
        wrong += violation(night, undisturbed, await night.standing(last))
        reached += killed == 2

    say(f"recovery: N = {len(trace)}, {reached} of {len(chosen)} killed before a step")
    assert not wrong, "\n".join(wrong)
    assert reached >= REACHED * len(chosen)


async def test_killed_again_and_again(world: World, is_long: bool, say: Say) -> None:
    """However often a night is killed, and wherever, its last run ends it well."""
    trace, undisturbed = await world.sequence()
    everywhere = [*points(trace, "before"), *points(trace, "after")]
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    nights = 1000 if is_long else 12

    wrong, reached = [], 0
    for _ in range(nights):
        kills = draw.sample(everywhere, draw.randint(2, 5))
        night, last, killed = await after_kills(world, kills)
        wrong += violation(night, undisturbed, await night.standing(last))
        reached += killed

    say(f"{nights} random nights, {reached} kills, seed {seed}")
    assert not wrong, "\n".join([f"seed {seed}", *wrong])
    assert reached >= nights


async def test_killed_while_it_replaces(world: World, is_long: bool, say: Say) -> None:
    """Killed while other options replace results, the first ones are what they were, for free."""
    night = await world.night()
    first = ("--delete-remote", "--redo-changed")
    replacing = (*first, "--set", "punctuate=false")
    results = await night.standing(await night.run(None, *first))
    replaced = await night.run(None, *replacing)
    begun = replaced.trace.index("answer submit")
    chosen = [
        p for p in points(replaced.trace, "before")[begun:] if p.name in (*OF_FILES, "commit")
    ]

    wrong, reached = [], 0
    for point in chosen[:: 1 if is_long else 3]:
        night = await world.night()
        await night.run(None, *first)
        dead = await night.run(point, *replacing)
        asked = len((await world.service.oracle())["transcripts"])
        last = await night.run(None, *first)
        standing = await night.standing(last)
        again = len((await world.service.oracle())["transcripts"]) - asked
        if standing["results"] != results["results"] or last.exit_code or again:
            wrong += [*night.told, f"{again} more, {standing}"]
        reached += dead.exit_code == -signal.SIGKILL

    say(f"replacing: N = {len(chosen)}, {reached} killed")
    assert not wrong, "\n".join(wrong)
    assert reached >= REACHED * len(chosen[:: 1 if is_long else 3])


async def test_never_settled(world: World, is_long: bool, say: Say) -> None:
    """
    With `--settle never` exactly what may have been asked for, and is not listed, is parked.

    That is what was killed between the commit that says so and the service's acceptance. A later
    run that may conclude from the list finishes it, and nothing is paid for twice.
    """
    trace, undisturbed = await world.sequence()
    chosen = [p for p in points(trace, "before") if is_long or p.name not in OF_FILES]

    wrong, reached, in_doubt = [], 0, 0
    for point in chosen:
        night = await world.night()
        dead = await night.run(point, **NEVER)
        doubtful = await night.doubtful()
        careful = await night.run(**NEVER)
        last = await night.run() if doubtful else careful
        parked = {line["recording"] for line in careful.lines if line["type"] == "parked"}
        if parked != doubtful:
            wrong += [*night.told, f"in doubt: {doubtful}, parked: {parked}"]
        wrong += violation(night, undisturbed, await night.standing(last))
        reached += dead.exit_code == -signal.SIGKILL
        in_doubt += bool(doubtful)

    say(f"never settled: N = {len(trace)}, {reached} of {len(chosen)} killed, {in_doubt} in doubt")
    assert not wrong, "\n".join(wrong)
    assert reached >= REACHED * len(chosen)
    assert in_doubt >= len(CONTENTS)


@pytest.mark.parametrize(
    ("point", "has_come"),
    [
        (Point("commit", 1, "before"), False),
        (Point("request submit", 1, "before"), False),
        (Point("request submit", 1, "after"), True),
        (Point("answer submit", 1, "before"), True),
    ],
)
async def test_the_instant_is_the_one_named(world: World, point: Point, has_come: bool) -> None:
    """A process that dies before a request has sent none; after it, the service has it."""
    night = await world.night()

    dead = await night.run(point)

    oracle = await world.service.oracle()
    assert dead.exit_code == -signal.SIGKILL
    assert (point.name in dead.trace) == (point.when == "after")
    assert ("submit" in oracle["requests"], bool(oracle["accepted"])) == (has_come, has_come)


async def test_an_hour_is_over_in_a_moment(world: World) -> None:
    """On a fast clock the program waits as long as it is told to, and nobody else does."""
    night = await world.night()

    ended = await night.run(speed=36_000, poll_interval="1h")

    assert ended.exit_code == ExitCode.DONE
    assert ended.summary["elapsed_s"] > 3600


async def test_what_gets_a_name_is_on_disk_first(world: World) -> None:
    """Every result is synced between its last write and its rename, and its folder right after."""
    night = await world.night()

    ended = await night.run()

    of_files = [step.partition("\t") for step in ended.steps]
    steps = [
        (name, literal_eval(what))
        for name, _, what in of_files
        if name in ("write", "fsync", "rename")
    ]
    renames = [number for number, (name, _) in enumerate(steps) if name == "rename"]
    for number in renames:
        fresh, place = map(os.fsdecode, steps[number][1])
        assert [name for name, what in steps[:number] if what == fresh] == ["write", "fsync"]
        assert ("fsync", os.path.dirname(place)) in steps[number:]
    assert len(renames) == len(RECORDINGS)
