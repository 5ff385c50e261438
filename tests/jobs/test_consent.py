"""Consent: what pays again asks whoever is there, and what names nothing is no consent."""

import os
import pty
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio

CONTENTS = {"a.wav": b"SECONDS:3600\none", "b/b.wav": b"SECONDS:1800\ntwo"}


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """Two recordings with their results."""
    async with opened(tmp_path) as archive:
        for name, content in CONTENTS.items():
            archive.add(name, content)
        await archive.run()
        yield archive


def paid(archive: Archive) -> int:
    return sum(archive.service.billable.values())


async def said_on_a_terminal(archive: Archive, answers: bytes, *more: str) -> tuple[int, str]:
    """Exit code and stderr of a run whose terminal says these lines."""
    ours, theirs = pty.openpty()
    archive.environ["TERM"] = "dumb"
    try:
        os.write(ours, answers)
        line = archive.run_line(*more)
        async with archive.started(*line, stdin=theirs, stderr=theirs) as process:
            ended = await archive.ended(process)
        os.write(theirs, b"end")  # there may be nothing to read else
        return ended.exit_code, os.read(ours, 1 << 16).decode()
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.parametrize("answer", [b"\n", b"n\n", b"\x04"], ids=["nothing", "no", "end"])
async def test_force_that_is_not_agreed_to(archive: Archive, answer: bytes) -> None:
    """On a terminal `run --force` says what it comes to; without a yes nothing is sent, exit 2."""
    requests = archive.service.requests.total()

    code, said = await said_on_a_terminal(archive, answer, "--force")

    assert code == ExitCode.USAGE
    assert "Transcribe 2 recordings anew, " in said
    assert "nothing was sent" in said
    assert archive.service.requests.total() == requests


@pytest.mark.parametrize(
    ("answer", "more"), [(b"y\n", ()), (b"", ("--yes",))], ids=["answered", "before"]
)
async def test_force_that_is_agreed_to(
    archive: Archive, answer: bytes, more: tuple[str, ...]
) -> None:
    """With a yes, by the terminal or by `--yes`, all of it is paid once more."""
    code, said = await said_on_a_terminal(archive, answer, "--force", *more)

    assert code == ExitCode.DONE, said
    assert ("[y/N]" in said) is not bool(more)
    assert paid(archive) == 4


async def test_what_pays_nothing_again_does_not_ask(archive: Archive) -> None:
    """Neither a run without `--force` nor one with `--dry-run` asks anybody anything."""
    for more in ((), ("--force", "--dry-run")):
        code, said = await said_on_a_terminal(archive, b"", *more)

        assert code == ExitCode.DONE
        assert "[y/N]" not in said
    assert paid(archive) == 2


async def test_force_without_a_terminal_goes_on(archive: Archive) -> None:
    """Where nobody can be asked, the flag is the consent."""
    ended = await archive.command(*archive.run_line("--force"))

    assert ended.exit_code == ExitCode.DONE
    assert paid(archive) == 4


# --- what names nothing ---------------------------------------------------------------------------


def again(archive: Archive, *more: str) -> list[str | Path]:
    options = ("--set", "punctuate=false", "--yes", "--poll-interval", "50ms")
    return [
        *("reprocess", "--output", archive.output, "--provider", archive.service.url),
        *options,
        *more,
    ]


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--json",), ("--sample", "1")], ids=str)
@pytest.mark.parametrize("also", [(), ("a.wav",), ("b",)], ids=str)
async def test_a_pattern_that_matches_nothing(
    archive: Archive, also: tuple[str, ...], more: tuple[str, ...]
) -> None:
    """A path that names no known recording is named; nothing is sent, exit code 2."""
    ended = await archive.command(*again(archive, "cals/**", *also, *more))

    assert ended.exit_code == ExitCode.USAGE
    assert "`cals/**` matches no recording" in ended.stderr
    assert paid(archive) == 2


@pytest.mark.parametrize("said", ["*.wav", "b", "b/", "recordings/b", "recordings/**"])
async def test_a_pattern_that_matches_what_is_ruled_out(archive: Archive, said: str) -> None:
    """A path that names known ones of which something else does not hold is no error."""
    ended = await archive.command(*again(archive, said, "--longer-than", "9h"))

    assert ended.exit_code == ExitCode.DONE
    assert paid(archive) == 2
