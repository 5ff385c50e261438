"""`overnight report`: the morning after a run, as a page, as JSON, or as a line."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from tests.support.runs import Archive, opened

pytestmark = pytest.mark.anyio


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    """After a run with a result and a failure."""
    async with opened(tmp_path) as archive:
        archive.add("good.wav", b"SECONDS:3600\none")
        archive.add("short.wav", b"ERROR:Audio duration is too short.\n")
        await archive.run()
        yield archive


async def test_the_page_lies_beside_the_run(archive: Archive) -> None:
    """Without a word more, the page of the newest run is written, and its path is what is said."""
    ended = await archive.command("report", "-o", archive.output)
    (run,) = (archive.state / "runs").iterdir()

    assert (ended.exit_code, ended.stderr) == (ExitCode.DONE, "")
    assert ended.stdout.decode() == f"{run / 'report.html'}\n"
    assert "1 of 2 recordings done" in (run / "report.html").read_text("utf-8")
    assert json.loads((run / "report.json").read_bytes())["run_id"] == run.name


async def test_json_and_line_go_to_stdout(archive: Archive) -> None:
    """For a program the same is one object, for a message one line; nothing is written then."""
    (run,) = (archive.state / "runs").iterdir()
    where = ("-o", archive.output, "--run", run.name, "--time-zone", "Asia/Tokyo")

    by_name = await archive.command("report", *where, "--format", "json")
    by_switch = await archive.command("report", *where, "--json")
    line = await archive.command("report", *where, "--format", "line")

    assert by_name.stdout == by_switch.stdout
    assert by_name.summary["type"] == "report"
    assert by_name.summary["zone"] == "Asia/Tokyo"
    assert line.stdout.decode().startswith(f"{run.name}: 1 done, 1 failed, 0 skipped, 0 parked; ")
    assert line.stdout.count(b"\n") == 1
    assert not list(run.glob("report.*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--run", "nothing"), "no run `nothing`"),
        (("--time-zone", "Mars"), "not a time zone"),
        (("--time-zone", "../../etc/passwd"), "not a time zone"),
        (("--time-zone", "Europe"), "not a time zone"),
        (("--state", "elsewhere"), "no ledger"),
    ],
)
async def test_what_cannot_be_meant_is_told(
    archive: Archive, words: tuple[str, ...], said: str
) -> None:
    """A run, a zone or a folder that is none is an error of usage, on stderr."""
    ended = await archive.command("report", "-o", archive.output, *words)

    assert ended.exit_code == ExitCode.USAGE
    assert ended.stdout == b""
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr
