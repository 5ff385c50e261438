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
from pipeline.ledger import BACKLOG
from pipeline.ledger.accounts import GIVEN_UP, OUTCOMES, recordings, states
from pipeline.ledger.archive import versions
from pipeline.ledger.books import Patience
from pipeline.ledger.evidence import opened
from pipeline.ledger.lock import holder
from pipeline.lines import visible
from pipeline.models import NIGHTS, Turn
from pipeline.names import version
from pipeline.report.words import billed_lines, exit_code

__all__ = ["list_lines", "status_json", "status_text", "version_lines"]

_CLOCKS_APART_S = 2.0  # of the file system and of the lock, whose time is in whole seconds


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
    under_way = _under_way(state)
    return {
        "type": "status",
        **counts,
        "under_way": None if under_way is None else msgspec.to_builtins(under_way),
        "last_run": _last_run(state / "runs"),
    }


class _UnderWay(msgspec.Struct):
    """A run, or a repair, that holds the state folder now."""

    run_id: str | None
    """None where it has not begun, or has summed up."""
    host: str
    pid: int
    since: datetime
    is_here: bool


def _under_way(state: Path) -> _UnderWay | None:
    """What holds the lock of a state folder."""
    found = holder(state / "lock")
    if found is None:
        return None
    made = dict[float, str]()
    for folder in (state / "runs").glob("*-*"):
        with suppress(OSError):
            if not (folder / "summary.json").exists():
                made[folder.stat().st_mtime] = folder.name
    # Its folder is made once it has the lock, however long before that it was given its name.
    at_s = max(made, default=0.0)
    run_id = made[at_s] if made and at_s >= found.since - _CLOCKS_APART_S else None
    return _UnderWay(run_id, found.host, found.pid, moment(found.since), found.is_here)


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
        f"under way    {_told(status['under_way'])}",
    ]
    if last := status["last_run"]:
        lines.append(
            f"last run     {last['run_id']}: {last['found']} found, {last['written']} written,"
            f" {last['failed']} failed, {last['parked']} parked,"
            f" {exit_code(last['exit_code'], last.get('why', []))}"
        )
    return "\n".join(map(visible, lines))


def _told(under_way: dict[str, Any] | None) -> str:
    """What is under way, in words."""
    if under_way is None:
        return "nothing"
    found = msgspec.convert(under_way, _UnderWay)
    where = "" if found.is_here else f" on {found.host}, if it has not ended there"
    what = f"{found.run_id or 'a run or a repair'}: process {found.pid}{where}"
    return f"{what}, since {found.since.astimezone():%Y-%m-%d %H:%M:%S}"


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
    patience, left = Patience(nights, time.time(), zone), _Left(state)
    with opened(state) as db:
        for row in recordings(db):
            is_given_up = patience.is_over(db, row)
            facts = {
                "type": "recording",
                "state": row["outcome"].removeprefix("already_"),
                "root": row["root"],
                "path": printable(row["path"]),
                "result": printable(row["result"]) if row["result_sha256"] else None,
                "reason": row["why"] or left.why(row),
                "audio_duration": row["duration_s"],
                "transcript_id": row["transcript_id"],
                "given_up": is_given_up,
                "folder": row["folder"] and printable(row["folder"]),
                "odd": row["odd"] if row["result_sha256"] else None,
            }
            shown = GIVEN_UP if is_given_up else facts["state"]
            if state_filter not in (None, facts["state"], shown):
                continue
            if as_json:
                yield json.dumps(facts, ensure_ascii=False)
            else:
                source = f"in {row['root']}: {facts['reason']}"
                what = source if facts["reason"] else facts["result"]
                odd = f"  suspicious: {facts['odd']}" if facts["odd"] else ""
                yield visible(f"{shown:9}  {facts['path']}  {what}{odd}")


class _Left:
    """Why recordings were left of which the ledger notes no reason."""

    def __init__(self, state: Path) -> None:
        self._runs = state / "runs"
        under_way = _under_way(state)
        self._under_way = under_way.run_id if under_way else None
        self._whys: dict[str, str] = {}

    def why(self, row: Any) -> str | None:
        """The reason of a parked recording, a row of `recordings`; None of any other."""
        if row["outcome"] != "parked":
            return None
        if self._under_way is not None:
            return "the run that is under way has not come to it yet"
        run_id = row["run_id"]
        if not row["is_seen"]:
            return f"the last run did not find it; {run_id} did, and did not come to it"
        if row["turn"] == Turn.BACKLOG:
            return BACKLOG
        if run_id not in self._whys:
            self._whys[run_id] = self._of(run_id)
        return self._whys[run_id]

    def _of(self, run_id: str) -> str:
        """Why a run left what it did not come to."""
        try:
            body = (self._runs / run_id / "summary.json").read_bytes()
            summary = msgspec.json.decode(body, type=_Parked)
        except (OSError, ValueError, RecursionError):
            return "its run was cut off before it came to it"
        limit = "left by `--limit`"
        is_limited = limit in summary.reasons.get("parked", {})
        return summary.reason or (limit if is_limited else "left for the next run")


class _Parked(msgspec.Struct):
    """What a summary tells of what was not come to."""

    reason: str | None = None
    reasons: dict[str, dict[str, int]] = {}


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
