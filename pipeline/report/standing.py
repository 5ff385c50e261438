"""
Ledger -> what stands in it, for people and for programs. Reads only, also beside a running run.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import SettingsError
from pipeline.events import moment, printable
from pipeline.files import regular
from pipeline.ledger.accounts import GIVEN_UP, OUTCOMES, recordings, states
from pipeline.ledger.archive import versions
from pipeline.ledger.books import Patience
from pipeline.ledger.evidence import opened
from pipeline.lines import visible
from pipeline.models import NIGHTS
from pipeline.names import version
from pipeline.report.words import billed_lines, exit_code

__all__ = ["list_lines", "status_json", "status_text", "version_lines"]


def status_json(state: Path, prices: Mapping[str, float] = {}) -> dict[str, Any]:
    """
    How many recordings and transcripts are in each state, and how the last run ended.

    What has no price noted counts by `prices`, USD an hour.

    Raises:
        SettingsError: there is no ledger in that folder.
        LedgerUnusable: there is one that cannot be read.
    """
    with opened(state) as db:
        counts = states(db, prices)
    return {"type": "status", **counts, "last_run": _last_run(state / "runs")}


def _last_run(runs: Path) -> dict[str, Any] | None:
    """What the newest run came to that says so. A file that is no summary says nothing."""
    told: list[tuple[int, Path]] = []
    for path in runs.glob("*/summary.json"):
        with suppress(OSError):
            told.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(told, reverse=True):
        with suppress(OSError, ValueError, RecursionError):
            with open(path, "rb", opener=regular) as file:
                body = file.read()
            summary = msgspec.convert(found := json.loads(body), _LastRun)
            moment(summary.time.timestamp())
            return dict(found)
    return None


class _LastRun(msgspec.Struct):
    """What is told of a run, and has to be there."""

    run_id: str
    time: datetime
    found: int
    written: int
    failed: int
    parked: int
    exit_code: int
    why: list[str] = []


def status_text(state: Path, prices: Mapping[str, float] = {}) -> str:
    """The same as a few lines."""
    status = status_json(state, prices)
    lines = [
        "recordings   " + _counted(status["recordings"]),
        "transcripts  " + _counted(status["transcripts"]),
        *billed_lines("transcribed", status),
    ]
    if last := status["last_run"]:
        lines.append(
            f"last run     {last['run_id']}: {last['found']} found, {last['written']} written,"
            f" {last['failed']} failed, {last['parked']} parked,"
            f" {exit_code(last['exit_code'], last.get('why', []))}"
        )
    return "\n".join(map(visible, lines))


def list_lines(
    state: Path,
    *,
    state_filter: str | None,
    as_json: bool,
    nights: int = NIGHTS,
    zone: tzinfo | None = None,
) -> Iterator[str]:
    """
    A line for each recording: its state, its path, and its result or the reason there is none.

    What failed on so many `nights`, dates of that zone, is given up; it has failed as well.

    Raises:
        SettingsError: there is no ledger in that folder, or no such state.
        LedgerUnusable: there is one that cannot be read.
    """
    if state_filter not in (None, *OUTCOMES):
        raise SettingsError(f"`{state_filter}` is no state: they are {', '.join(OUTCOMES)}")
    patience = Patience(nights, time.time(), zone)
    with opened(state) as db:
        for row in recordings(db):
            is_given_up = patience.is_over(db, row)
            facts = {
                "type": "recording",
                "state": row["outcome"].removeprefix("already_"),
                "root": row["root"],
                "path": printable(row["path"]),
                "result": printable(row["result"]) if row["result_sha256"] else None,
                "reason": row["why"],
                "audio_duration": row["duration_s"],
                "transcript_id": row["transcript_id"],
                "given_up": is_given_up,
                "odd": row["odd"] if row["result_sha256"] else None,
            }
            shown = GIVEN_UP if is_given_up else facts["state"]
            if state_filter not in (None, facts["state"], shown):
                continue
            if as_json:
                yield json.dumps(facts, ensure_ascii=False)
            else:
                what = facts["result"] or facts["reason"] or ""
                odd = f"  suspicious: {facts['odd']}" if facts["odd"] else ""
                line = f"{shown:9}  {facts['path']}  {what}{odd}"
                yield visible(line)


def version_lines(state: Path, *, as_json: bool) -> Iterator[str]:
    """
    A line for each result that another one took the place of: where it is, and how it was made.

    Raises:
        SettingsError: there is no ledger in that folder.
        LedgerUnusable: there is one that cannot be read.
    """
    with opened(state) as db:
        for row in versions(db):
            replaced_at = moment(row["replaced_at"])
            file = b"versions/" + version(row["result"], row["result_sha256"][:12])
            facts = {
                "type": "version",
                "root": row["root"],
                "path": printable(row["path"]),
                "file": printable(file),
                "options": row["options"] and json.loads(row["options"]),
                "speech_model_used": row["model_used"],
                "transcript_id": row["transcript_id"],
                "confidence": row["confidence"],
                "audio_duration": row["duration_s"],
                "written_run": row["written_run"],
                "replaced_at": f"{replaced_at:%Y-%m-%dT%H:%M:%SZ}",
                "run_id": row["run_id"],
            }
            if as_json:
                yield json.dumps(facts, ensure_ascii=False)
            else:
                made_with = f"{facts['speech_model_used'] or '?'} {row['options'] or ''}"
                line = f"{facts['replaced_at']}  {facts['path']}  {facts['file']}  {made_with}"
                yield visible(line)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "none"
