"""The `overnight reprocess` command: what it says, what it asks, and what killing it leaves."""

import os
import pty
import shutil
import signal
from collections import Counter
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from subprocess import DEVNULL

import anyio
import pytest
from anyio import to_thread

from pipeline.errors import ExitCode
from tests.support.machine import Ended as Death
from tests.support.machine import Machine, Point, machine
from tests.support.runs import COMMAND, Archive, opened

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]

CONTENTS = {"a.wav": b"SECONDS:3600\none", "b/b.wav": b"SECONDS:1800\ntwo"}
OTHER = ("--set", "punctuate=false")


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        await archive.run()
        yield archive


def line(archive: Archive, *more: str) -> list[str | Path]:
    """The command line of a reprocess, quick about it."""
    return [
        "reprocess",
        *("--output", archive.output),
        *("--provider", archive.service.url),
        *("--poll-interval", "50ms"),
        *("--settle", "1s"),
        *more,
    ]


def paid(archive: Archive) -> list[int]:
    """How many transcripts of each recording were paid for."""
    return [len(archive.service.accepted(content)) for content in CONTENTS.values()]


async def said_on_a_terminal(archive: Archive, answers: bytes, *more: str) -> tuple[int, str]:
    """Exit code and stderr of a reprocess whose terminal says these lines."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answers)
        process = await anyio.open_process(
            [COMMAND, *map(os.fsdecode, line(archive, *more))],
            stdin=theirs,
            stdout=DEVNULL,
            stderr=theirs,
            cwd=archive.root,
            env={"ASSEMBLYAI_API_KEY": archive.service.key, "TERM": "dumb"},
        )
        async with process:
            with anyio.fail_after(60):
                code = await process.wait()
        return code, os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


# --- said and agreed to ---------------------------------------------------------------------------


async def test_nothing_runs_unless_it_is_agreed_to(archive: Archive) -> None:
    """Without a terminal and without `--yes` the plan is told, nothing sent, and exit code 2."""
    requests = Counter(archive.service.requests)

    ended = await archive.command(*line(archive, *OTHER))

    assert ended.exit_code == ExitCode.USAGE
    assert "2 recordings to be transcribed, 1.5 h, about $" in ended.stderr
    assert "`--yes` agrees to it" in ended.stderr
    assert archive.service.requests == requests


async def test_a_dry_run_is_the_plan(archive: Archive) -> None:
    """`--dry-run` has the plan on stdout, as lines or as one JSON object, and changes nothing."""
    before = {path: path.stat().st_mtime_ns for path in archive.output.rglob("*.json")}

    lines = await archive.command(*line(archive, *OTHER, "--dry-run"))
    facts = await archive.command(*line(archive, *OTHER, "--dry-run", "--json", "a.wav"))

    assert (lines.exit_code, facts.exit_code) == (ExitCode.DONE, ExitCode.DONE)
    assert lines.stdout.decode().startswith("2 recordings to be transcribed, 1.5 h, about $")
    assert facts.summary["type"] == "plan"
    assert (facts.summary["recordings"], facts.summary["hours"]) == (1, 1.0)
    assert {p: p.stat().st_mtime_ns for p in archive.output.rglob("*.json")} == before
    assert paid(archive) == [1, 1]


async def test_yes_does_it(archive: Archive) -> None:
    """`--yes` transcribes; stdout has the summary, what differs, the page, and the way back."""
    ended = await archive.command(*line(archive, *OTHER, "--yes", "b"))

    said = ended.stdout.decode().splitlines()
    run_id = said[-1].partition("--rollback ")[2].partition("`")[0]
    assert ended.exit_code == ExitCode.DONE
    assert paid(archive) == [1, 2]
    assert said[0].startswith("1 recording")
    assert any(text.startswith("In 1 recording (0.50 h)") for text in said)
    assert (archive.state / "runs" / run_id / "differences.html").is_file()
    assert f"  {archive.state / 'runs' / run_id / 'differences.html'}" in said

    back = await archive.command(*line(archive, "--rollback", run_id, "--json"))

    assert (back.exit_code, back.summary["type"], back.summary["back"]) == (0, "rolled_back", 1)


async def test_a_terminal_is_asked(archive: Archive) -> None:
    """On a terminal the question says how much and what it costs; only a yes is one."""
    no = await said_on_a_terminal(archive, b"\n", *OTHER)
    unpaid = paid(archive)
    yes = await said_on_a_terminal(archive, b"y\n", *OTHER)

    assert "Transcribe 2 recordings again, 1.5 h, about $" in no[1]
    assert "? [y/N]" in no[1]
    assert (no[0], unpaid) == (ExitCode.USAGE, [1, 1])
    assert (yes[0], paid(archive)) == (ExitCode.DONE, [2, 2])


async def test_a_sample_comes_before_the_rest(archive: Archive) -> None:
    """One `--yes` pays for the sample and says what the rest comes to, a second one for that."""
    once = await archive.command(*line(archive, *OTHER, "--sample", "1", "--yes"))
    after_one = sum(paid(archive))
    twice = await archive.command(*line(archive, *OTHER, "--force", "--sample", "1", "-y", "-y"))

    assert (once.exit_code, after_one) == (ExitCode.DONE, 3)
    assert "In 1 recording (" in once.stdout.decode()
    assert "the rest: 1 recording" in once.stderr
    assert (twice.exit_code, sum(paid(archive))) == (ExitCode.DONE, 5)
    assert twice.stdout.decode().count("differences.html") == 2


async def test_the_rest_is_what_was_planned(archive: Archive) -> None:
    """With `--limit` a sample is a part of so many, and the rest is told before it is done."""
    for number in range(4):
        archive.add(f"{number}.wav", b"%d" % number)
    await archive.run()
    before = len(list(archive.service))

    flags = ("--limit", "3", "--sample", "1", "-yy", "--json")
    ended = await archive.command(*line(archive, *OTHER, *flags))

    plans = [each for each in ended.lines if each["type"] == "plan"]
    assert ended.exit_code == ExitCode.DONE
    assert [each["recordings"] for each in plans] == [3, 2]
    assert {*plans[0]["sample"], *plans[1]["listed"]} == {*plans[0]["listed"]}
    assert plans[0]["left_out"]["limit"] == 3
    assert len(list(archive.service)) == before + 3


@pytest.mark.parametrize(
    "flags", [("--rollback", "x", "--promote", "never"), ("--seed", "3"), ("--until", "2026")]
)
async def test_what_would_do_nothing_is_refused(archive: Archive, flags: tuple[str, ...]) -> None:
    """An option that changes nothing, or may mean two things, is an error before anything else."""
    ended = await archive.command(*line(archive, *OTHER, *flags))

    assert ended.exit_code == ExitCode.USAGE
    assert paid(archive) == [1, 1]


async def test_what_was_replaced_can_be_listed(archive: Archive) -> None:
    """`list --versions` says of each replaced result where it is and what it was made with."""
    before = archive.results()
    await archive.command(*line(archive, *OTHER, "--yes"))
    list_versions = ("list", "--output", archive.output, "--versions")

    listed = await archive.command(*list_versions, "--json")
    told = await archive.command(*list_versions)

    assert [each["options"] for each in listed.lines] == [{}, {}]
    files = [archive.state / each["file"] for each in listed.lines]
    assert [file.read_bytes() for file in files] == [*before.values()]
    assert [text.split()[2] for text in told.stdout.decode().splitlines()] == [
        each["file"] for each in listed.lines
    ]
    assert (await archive.command(*list_versions, "--only", "failed")).exit_code == ExitCode.USAGE


async def test_programs_get_lines(archive: Archive) -> None:
    """With `--json` stdout has the plan, the events of the run, and what it came to."""
    ended = await archive.command(*line(archive, *OTHER, "--yes", "--promote", "never", "--json"))

    kinds = [each["type"] for each in ended.lines]
    assert (kinds[0], kinds[1], kinds[-1]) == ("plan", "run_started", "reprocessed")
    assert kinds.count("written") == 2
    assert (ended.summary["back"], ended.summary["stayed"], ended.summary["left"]) == (2, 0, 0)
    assert (archive.state / "runs" / ended.summary["run_id"] / "differences.html").is_file()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("--only", "writen"), "no state"),
        (("--since", "yesterday"), "no date"),
        (("--option", "punctuate"), "KEY=VALUE"),
        (("--longer-than", "long"), "not a duration"),
        (("--rollback", "x", "--model", "y"), "say it alone"),
        (("--rollback", "x", "--render", "srt"), "say it alone"),
        (("calls", "--render", "srt"), "name no recordings"),
        (("--rollback", "x", "--dry-run"), "no dry run"),
    ],
)
async def test_what_cannot_be_meant(archive: Archive, wrong: tuple[str, ...], words: str) -> None:
    """A selection that says nothing is refused in a sentence, before anything is sent."""
    ended = await archive.command(*line(archive, *wrong))

    assert ended.exit_code == ExitCode.USAGE
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


# --- killed ---------------------------------------------------------------------------------------


class Shelf:
    """An archive whose output folder can be put back to how it was."""

    def __init__(self, archive: Archive, machine: Machine) -> None:
        self.archive = archive
        self._machine = machine
        self._numbers = count()
        self._kept = archive.root / "kept"
        shutil.copytree(archive.output, self._kept)

    async def reset(self) -> None:
        """As it was when this was made."""
        await to_thread.run_sync(shutil.rmtree, self.archive.output)
        await to_thread.run_sync(shutil.copytree, self._kept, self.archive.output)

    async def command(self, *words: str | Path, die: Point | None = None) -> Death:
        """A command, to its end or its death."""
        return await self._machine.run(
            *words,
            environ={"ASSEMBLYAI_API_KEY": self.archive.service.key},
            cwd=self.archive.root,
            die=die,
        )


def results(archive: Archive) -> dict[str, bytes]:
    """The results, without what is left unfinished where the next run sweeps."""
    return {n: body for n, body in archive.results().items() if not n.endswith("~overnight")}


def points(trace: list[str], *names: str) -> list[Point]:
    """Just before each of these steps, and just after the last of each kind."""
    seen: Counter[str] = Counter()
    found = []
    for name in trace:
        seen[name] += 1
        if name in names:
            found.append(Point(name, seen[name], "before"))
    return [*found, *(Point(name, seen[name], "after") for name in names if seen[name])]


async def test_a_killed_reprocess_pays_once(archive: Archive) -> None:
    """
    Killed anywhere and said once more, a reprocess finishes just the rest.

    Each recording is paid for once more in all, and the older results are as they were, whichever
    of the two stays.
    """
    before = archive.results()
    async with machine() as m:
        shelf = Shelf(archive, m)
        words = line(archive, *OTHER, "--yes", "--promote", "never", "--uploads", "1")
        clean = await shelf.command(*words)
        assert clean.exit_code == ExitCode.DONE
        chosen = points(clean.trace, "answer submit", "request submit", "rename", "link")[::2]
        wrong = []
        for point in chosen:
            await shelf.reset()
            paid_before = archive.service.billable.total()
            dead = await shelf.command(*words, die=point)
            last = await shelf.command(*words)
            spent = archive.service.billable.total() - paid_before
            is_well = spent == len(CONTENTS) and results(archive) == before
            if dead.exit_code != -signal.SIGKILL or last.exit_code or not is_well:
                wrong.append((point, dead.exit_code, last.exit_code, spent, last.stderr))

    assert not wrong
    assert len(chosen) >= 6


async def test_a_killed_rollback_is_finished(archive: Archive) -> None:
    """
    Killed anywhere, a rollback is finished by the same command, and by any run.

    At each instant both results are on disk, and neither asks the service for anything.
    """
    before = archive.results()
    done = await archive.command(*line(archive, *OTHER, "--yes", "--json"))
    back = line(archive, "--rollback", done.summary["run_id"])
    all_of_it = {*before.values(), *archive.results().values()}
    async with machine() as m:
        shelf = Shelf(archive, m)
        requests = Counter(archive.service.requests)
        clean = await shelf.command(*back)
        assert clean.exit_code == ExitCode.DONE
        wrong = []
        chosen = points(clean.trace, "commit", "rename", "link", "unlink")
        for number, point in enumerate(chosen):
            await shelf.reset()
            dead = await shelf.command(*back, die=point)
            lying = {*archive.results().values(), *archive.versions().values()}
            is_noted = await archive.rows("SELECT 1 FROM versions WHERE promote IS NOT NULL")
            again = archive.run_line() if is_noted and number % 2 else back
            last = await shelf.command(*again)
            is_well = all_of_it <= lying and results(archive) == before
            if dead.exit_code != -signal.SIGKILL or last.exit_code or not is_well:
                wrong.append((point, again[0], dead.exit_code, last.exit_code, last.stderr))

        assert archive.service.requests == requests
    assert not wrong
    assert len(chosen) >= 10


async def test_a_selection_of_nothing_says_so(archive: Archive) -> None:
    """Where no recording is meant, that is said, with what shows those that there are."""
    ended = await archive.command(*line(archive, "b/**", "--longer-than", "9h", *OTHER, "--yes"))

    assert ended.exit_code == ExitCode.DONE
    assert "no recording is meant" in ended.stderr
    assert "overnight list" in ended.stderr
    assert paid(archive) == [1, 1]
