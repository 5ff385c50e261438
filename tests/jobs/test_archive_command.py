"""`overnight reprocess` as it is typed: what it says, and how it ends."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import ExitCode
from tests.support.runs import opened
from tests.test_docs import OUTPUT, rows, section

pytestmark = pytest.mark.anyio


async def test_adopting_and_rendering_need_no_service_and_no_key(tmp_path: Path) -> None:
    """With neither, an archive is adopted and rendered; findings and counts are as documented."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")
        await archive.run()
        shutil.move(archive.output, tmp_path / "left")
        shutil.rmtree(tmp_path / "left/.overnight")
        (tmp_path / "left/b.json").write_bytes(b"{}")
        requests = archive.service.requests.total()
        archive.environ["ASSEMBLYAI_API_KEY"] = ""
        where = ["-o", archive.output, "--json"]
        adopting = ["reprocess", archive.recordings, "--adopt", tmp_path / "left", *where]

        adopted = await archive.command(*adopting, "--provider", archive.service.url)
        rendered = await archive.command("reprocess", "--render", "srt,vtt", *where)

    assert (adopted.exit_code, rendered.exit_code) == (ExitCode.PARTIAL, ExitCode.DONE)
    assert sorted(archive.results()) == ["a.wav.json", "a.wav.srt", "a.wav.vtt"]
    assert archive.service.requests.total() == requests
    kinds = {row[0].strip("`") for row in rows(section(OUTPUT, "Kinds of findings"))}
    told = {line["kind"] for line in adopted.lines[:-1]}
    assert told == {"adopted", "unusable"} <= kinds
    for ended, heading in ((adopted, "`adopted`"), (rendered, "`rendered`")):
        documented = [row[0].strip("`") for row in rows(section(OUTPUT, heading))]
        assert list(ended.summary) == documented
        assert f"`{ended.summary['type']}`" == heading


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--render", "srt", "--adopt", "."], "--render"),
        (["--render", "sub"], "`sub` is no format"),
        (["--render", "json"], "which formats?"),
        (["--adopt", "."], "which recordings?"),
        (["recordings", "--adopt", "nowhere"], "is no folder"),
    ],
)
async def test_what_cannot_be_meant_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    """A command line that says too little, or too much, ends with exit code 2 and a sentence."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"one")

        ended = await archive.command("reprocess", *words, "-o", archive.output)

    assert ended.exit_code == ExitCode.USAGE
    assert said in ended.stderr
