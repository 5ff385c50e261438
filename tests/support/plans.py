"""
Plans for schedulers: in, a folder of a test; out, a plan whose paths are all below it.
"""

from dataclasses import replace
from datetime import time
from pathlib import Path
from typing import Any

from jobs.units import Plan

__all__ = ["plan"]


def plan(folder: Path, **changes: Any) -> Plan:
    """A run at 22:00 that starts `true`; `changes` are fields of the plan."""
    usual = Plan(
        name="archive",
        command=("/bin/true", "nightly"),
        folder=folder,
        at=time(22),
        time_zone=None,
        variables=None,
        reads=(folder / "recordings",),
        writes=(folder / "transcripts",),
        has_namespaces=True,
        stops_in_s=10,
        log=folder / "archive.log",
    )
    return replace(usual, **changes)
