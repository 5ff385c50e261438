"""
The command as somebody types it: in, its words; out, a process that ended. Bounded in time.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

__all__ = ["environment", "overnight"]

ROOT = Path(__file__).parent.parent.parent


def environment(folder: Path, **variables: str) -> Mapping[str, str]:
    """What a fresh user has: no key, no settings, no proxy."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder.parent),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "COLUMNS": "100",
    } | variables


def overnight(
    folder: Path, *arguments: str | Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """One run of the command in a working directory."""
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *map(str, arguments)],
        cwd=folder,
        env=environment(folder, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
