"""The engine as a server of its own."""

import re
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.typed import environment


def test_engine_serves_until_it_is_stopped(folder: Path) -> None:
    """
    `engine` makes a key, shows it once and how to use it, serves, and ends at SIGTERM with 0;
    a second start shows where the key is instead.
    """
    if find_spec("faster_whisper") is None:
        pytest.skip("the engine is not installed")
    command = [sys.executable, "-m", "jobs.cli", "engine", "--port", "0", "--state", "engine"]
    said = []
    for _ in range(2):
        with subprocess.Popen(
            command, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(4)]
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
        assert (process.returncode, rest) == (0, ""), lines
        said.append("".join(lines))

    key = (folder / "engine" / "key").read_text().strip()
    assert f"key: {key}\n" in said[0]
    assert key not in said[1]
    assert "key: in engine/key\n" in said[1]
    assert re.search(r"--provider http://127\.0\.0\.1:[1-9]\d*$", said[0], re.MULTILINE)
    assert (folder / "engine" / "key").stat().st_mode & 0o777 == 0o600
