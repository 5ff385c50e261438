"""The comparison of the benches cannot rot: its script runs, with all that it compares."""

import sys
from pathlib import Path
from xml.etree import ElementTree

import anyio
import pytest

pytestmark = pytest.mark.anyio

SCRIPT = Path(__file__).parent.parent / "bench" / "compare.py"
SMALL = ("--only", "small", "million", "--repeat", "1", "--count", "20", "--seconds", "0.2")
CONTENDERS = {
    "overnight",
    "plain aiohttp, 20 lines",
    "SDK `transcribe_group`",
    "SDK, a pool of threads",
    "SDK `AsyncTranscriber`",
}


async def test_comparison(tmp_path: Path) -> None:
    """Everyone gets twenty recordings right and pays each once; the figures are drawn."""
    command = [sys.executable, str(SCRIPT), *SMALL, "--plots", str(tmp_path)]
    with anyio.fail_after(100):
        ended = await anyio.run_process(command, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    said = ended.stdout.decode()
    head, _, ideal, *rows = _tables(said)[0]
    found = {row[0]: dict(zip(head, row, strict=True)) for row in rows}

    assert ideal[:3] == ["*ideal*", "0.0", "1.00"]
    assert found.keys() == CONTENDERS
    assert {(row["right"], row["paid"], row["paid twice"]) for row in found.values()} == {
        ("20", "20", "0")
    }
    assert "\n20 done in " in said
    for name in ("throughput.svg", "memory.svg"):
        assert ElementTree.parse(tmp_path / name).getroot().tag.endswith("svg")


def _tables(page: str) -> list[list[list[str]]]:
    """The tables of a page: lines of cells."""
    blocks = [block for block in page.split("\n\n") if block.startswith("|")]
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in blocks
    ]
