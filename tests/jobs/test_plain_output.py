"""Whatever recordings, folders and answers are called, a terminal is told nothing to obey."""

import json
import os
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from pipeline.errors import ExitCode
from pipeline.events import printable
from tests.support.runs import Archive, Ended, opened

pytestmark = pytest.mark.anyio

FORGED = b"\x1b[2J\x1b]0;t\x07\nerror: forged\r\t\xc2\x9b31m\xe2\x80\xae\xe2\x80\xa8\x7f\xff"
"""Escape sequences, ends of lines, marks that turn a text around, and no UTF-8."""

NAME = b"a" + FORGED + b".wav"


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    inside = Path(os.fsdecode(os.fsencode(tmp_path) + b"/in" + FORGED))
    await anyio.Path(inside).mkdir()
    async with opened(inside) as archive:
        archive.add(NAME, b"SECONDS:3600\none")
        archive.add(b"refused" + NAME, b"ERROR:" + FORGED.replace(b"\n", b"") + b"\n")
        archive.add(b"empty" + NAME, b"")
        yield archive


def obeyed(text: str) -> set[str]:
    """The characters of a text that a terminal may obey."""
    return {
        each
        for each in text
        if each != "\n"
        and (
            unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")
            or unicodedata.bidirectional(each)
            in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        )
    }


def is_plain(ended: Ended) -> bool:
    """Whether what was said can be shown, and holds no line of somebody else's."""
    said = ended.stdout.decode() + ended.stderr
    assert obeyed(said) == set(), said
    assert "Traceback" not in said
    return not any(line.startswith("error: forged") for line in said.splitlines())


async def test_every_command_is_plain(archive: Archive) -> None:
    """Lines and tables of every command show control characters of names and answers as text."""
    assert is_plain(await archive.command(*archive.run_line("-v", "-f", "all")))
    where = ("-o", archive.output)
    for line in (
        ("list", *where),
        ("list", *where, "--json"),
        ("status", *where),
        ("status", *where, "--json"),
        ("audit", *where),
        ("report", *where),
        ("report", *where, "--format", "line"),
        ("report", *where, "--json"),
        ("doctor", *where, "--provider", "local"),
        ("reprocess", *where, "--dry-run", "--provider", archive.service.url),
        ("reprocess", "--adopt", archive.output, *where),
    ):
        ended = await archive.command(*line)

        assert is_plain(ended), line
        assert ended.exit_code in (ExitCode.DONE, ExitCode.PARTIAL, ExitCode.USAGE), line

    (result,) = [name for name in archive.results() if name.endswith(".wav.json")]
    await anyio.Path(archive.output / result).write_bytes(b"no transcript")
    recording = archive.recordings / os.fsdecode(NAME)
    await anyio.Path(recording).write_bytes(b"other")
    for more in ((), ("--json",)):
        ended = await archive.command("verify", *where, *more)

        assert is_plain(ended)
        assert b"damaged" in ended.stdout


async def test_what_programs_read_is_exact(archive: Archive) -> None:
    """In JSON a name says the same as ever, whatever it holds: there are escapes for it."""
    ended = await archive.command(*archive.run_line("--json"))
    listed = await archive.command("list", "-o", archive.output, "--json")

    assert is_plain(ended)
    written = [line for line in ended.lines if line["type"] == "written"]
    assert [line["recording"] for line in written] == [printable(NAME)]
    assert printable(NAME) in [json.loads(line)["path"] for line in listed.stdout.splitlines()]
    (events,) = archive.state.glob("runs/*/events.ndjson")
    text = await anyio.Path(events).read_bytes()
    assert [line for line in map(json.loads, text.splitlines()) if line["type"] == "written"]


async def test_errors_are_plain(archive: Archive) -> None:
    """An error that names a folder, a file or a value is told on lines of its own making."""
    forged = os.fsdecode(b"f" + FORGED)
    (archive.root / forged).write_bytes(b"")
    for line in (
        ("run", archive.root / "nowhere" / forged, "-o", archive.output),
        ("run", archive.recordings, "-o", archive.root / forged, "--provider", "local"),
        ("run", archive.recordings, "-o", archive.output, "--api-key-file", forged + "2"),
        ("run", archive.recordings, "-o", archive.output, "--files-from", forged + "2"),
        ("run", archive.recordings, "-o", archive.output, "--set", forged),
        ("list", "-o", archive.root / forged),
        ("report", "-o", archive.output, "--run", forged),
        ("reprocess", "--adopt", forged, "-o", archive.output, archive.recordings),
    ):
        ended = await archive.command(*line)

        assert is_plain(ended), line
        assert ended.exit_code != ExitCode.DONE
        assert "error: " in ended.stderr
