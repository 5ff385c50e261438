"""The walkthrough of the README, typed as it stands: real recordings, the real model."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import COMMAND

ROOT = Path(__file__).parents[1]
RUN = r"\d{8}T\d{6}Z-[0-9a-f]{6}"
TOOK = r"(\d+ ?m(in)? ?)?[\d.]+ ?s\b"
QUESTION = "[y/N] y"


def walkthrough() -> str:
    """The section of the README."""
    text = (ROOT / "README.md").read_text("utf-8")
    return text[text.index("\n## Two nights and a second look\n") :].partition("\n## Exit codes\n")[
        0
    ]


def fences(language: str) -> list[str]:
    """What the section shows in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", walkthrough(), re.M | re.S)


def typed() -> Iterator[tuple[str, str]]:
    """Each command, and what it answers."""
    for fence in fences(""):
        for part in re.split(r"^\$ ", fence, flags=re.M)[1:]:
            command, _, answer = part.partition("\n")
            yield command, answer


def shape(text: str) -> str:
    """What is said, whatever the numbers are."""
    return re.sub(r"[\d.,]*\d", "#", re.sub(TOOK, "TOOK", re.sub(RUN, "RUN", text)))


def run(command: str, folder: Path) -> str:
    """What a shell says to a command, if that ends well."""
    path = f"{Path(COMMAND).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
        encoding="utf-8",
    )
    assert ended.returncode == 0, ended.stdout
    return ended.stdout


@pytest.mark.timeout(900)
def test_what_the_readme_shows_happens(tmp_path: Path) -> None:
    """Two nights with a new recording in between, and a reprocess that finds out the languages."""
    (tmp_path / "jobs").symlink_to(ROOT / "jobs")
    (setup,), (settings,) = fences("sh"), fences("toml")
    run(setup, tmp_path)
    nights = tmp_path / "nights"
    (nights / "overnight.toml").write_text(settings, "utf-8")
    said = []

    for command, answer in typed():
        agrees = QUESTION in answer
        expected = [line for line in answer.splitlines() if QUESTION not in line]
        said.append(run(f"{command} --yes" if agrees else command, nights))
        assert shape(said[-1]).splitlines() == [shape(line) for line in expected]

    results = nights / "transcripts"
    runs = sorted((results / ".overnight/runs").iterdir())
    first, second = (json.loads((run / "report.json").read_bytes()) for run in runs[:2])
    found = json.loads((runs[2] / "differences.json").read_bytes())
    foreign = ["interviews/fisherman.ogg", "interviews/island.webm"]
    assert [night["written"] for night in (first, second)] == [5, 1]
    assert second["already_written"] == 5
    assert sorted(suspect["recording"] for suspect in first["suspects"]) == foreign
    assert sorted(row["recording"] for row in found["worst"]) == foreign
    assert sorted(row["new"]["language_code"] for row in found["worst"]) == ["de", "es"]
    assert found["new_confidence"] > found["old_confidence"]
    assert "Mein Vater" in (results / "interviews/fisherman.ogg.srt").read_text("utf-8")
    assert len(list((results / ".overnight/versions/interviews").glob("*.json"))) == 2
