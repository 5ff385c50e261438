"""
What all parts of the ledger share: who works on it, and how rows of the three tables hang together.

In: a recording's content and options. Out: the transcript that it waits for, and its state. Each
step here is a part of a transition, never one by itself.
"""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from io import FileIO
from math import inf
from pathlib import Path
from typing import Literal

import msgspec

from pipeline.files import regular, sync, write_all
from pipeline.ledger.journal import Began
from pipeline.ledger.store import Store
from pipeline.models import Entry

__all__ = [
    "INTERRUPTED",
    "KEEP_RESULT",
    "Books",
    "Found",
    "Known",
    "Patience",
    "Promote",
    "Reading",
    "Redo",
    "Run",
    "nights",
    "other_key",
]

INTERRUPTED = "interrupted"
KEEP_RESULT = """
INSERT INTO versions (recording_id, run_id, replaced_at, result_key, result_generation, result_size,
  result_sha256, duration_s, written_run, replaced_by, promote)
SELECT recording_id, ?, ?, result_key, result_generation, result_size,
  result_sha256, duration_s, written_run, ?, promote
FROM recordings WHERE recording_id = ?
"""
"""Note a result among the versions: of a run, at a time, replaced by a sha256, of a recording."""
"""Why an attempt came to nothing that was given up as if it had never been made."""

Promote = Literal["always", "better", "never"]
"""Which new results stay in the place of older ones; the others are put among the versions."""

_APART_S = 12 * 3600.0


def other_key(fingerprint: str, *, are_many: bool = False) -> str:
    """Why what was asked for with a key is left alone that may be of another project."""
    return (
        f"{'they were' if are_many else 'it was'} asked for with another API key, whose project may"
        " be another: run once with that key, or say that it is of the same project with"
        f" `--trust-key {fingerprint}`"
    )


@dataclass(frozen=True, slots=True)
class Redo:
    """Which finished recordings are looked at again."""

    force: bool = False
    """All of them: a new generation."""
    changed: bool = False
    """Those written with other options or by another provider."""
    adopted: bool = False
    """Of those also what was adopted and made with no option: it was taken as it was."""
    failed: int = False
    """Those that failed for good: all, or those that failed in fewer nights than this number."""
    checksum: bool = False
    """None is taken for unchanged by its size and times."""
    promote: Promote | None = None
    """Whether a new result stays in the place of the older one, None where nothing new is said."""

    def promoted(self, before: str | None) -> str | None:
        """What the ledger notes of a recording whose redo was under way with `before`."""
        if self.promote is None:
            return before
        return None if self.promote == "always" else self.promote


@dataclass(frozen=True, slots=True)
class Run:
    """Who works on the ledger, and against which service."""

    run_id: str
    provider_kind: str
    """`assemblyai`, `local` or `custom`: part of the request key."""
    base_url: str
    """Which service the attempts of this run are known to."""
    key_fingerprint: str
    """Empty where nothing can be asked for, and so of what was asked for nobody knows how."""
    redo: Redo = Redo()
    deletes: bool = False
    """Whether the service's copies are deleted once results are saved."""
    zone: tzinfo | None = None
    """Where the clock hangs that tells one night from the next; None for this machine's own."""


@dataclass(slots=True)
class Known:
    """What is known of a part of a scan, before anything of it is noted."""

    ended: list[tuple[int, str]]
    """Recordings by id that are as they are to be, each `already_written` or `kept`."""
    others: list[Entry]
    """New, changed, or with something left to do."""


@dataclass(slots=True)
class Found:
    """What a part of a scan came to."""

    work: list[tuple[bytes, int]]
    """Path and size of recordings that this run has work with."""
    skipped: list[tuple[bytes, str]]
    """Path and reason."""
    phases: dict[bytes, str] = field(default_factory=dict)
    """Of those with work by path: how far earlier runs came, as `RecordingFound` tells it."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The bytes of a recording, as they were read."""

    content: str
    """sha256, hex."""
    edges: str
    """sha256 of the first and last 64 KiB, hex."""
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    settled: bool


def nights(times: Iterable[float], now: float, zone: tzinfo | None) -> int:
    """
    In how many nights these Unix times are: dates of that zone, 12 h from one to the next.

    A time that a clock ahead has left counts as now, so it makes no more nights than one.
    """
    count, last_at, last_date = 0, -inf, date.min
    for at in sorted(min(max(0.0, at), now) for at in times):
        on = datetime.fromtimestamp(at, zone).date()
        if at >= last_at + _APART_S and on > last_date:
            count, last_at, last_date = count + 1, at, on
    return count


@dataclass(frozen=True, slots=True)
class Patience:
    """In how many nights something fails until it is given up."""

    nights: int
    now: float
    """Unix seconds."""
    zone: tzinfo | None
    """Whose dates make the nights."""

    def is_over(self, db: sqlite3.Connection, standing: sqlite3.Row, run_id: str = "") -> bool:
        """
        Whether a recording, as `STANDING` has it, was given up before this run.

        So the run in which it failed last has told of it, and only the user has it tried again.
        What fails for one run alone, since it cannot be read say, is never given up.
        """
        if not standing["is_failed"]:
            return False
        failed = _failures(db, standing["request_key"], standing["generation"])
        times = [row["started_at"] for row in failed if row["counted"]]
        is_own = any(row["owner"] == run_id for row in failed)
        return not is_own and nights(times, self.now, self.zone) >= self.nights


def _failures(db: sqlite3.Connection, key: str, generation: int) -> list[sqlite3.Row]:
    """The attempts at a transcript that came to nothing, but for those that were cut short."""
    return db.execute(
        "SELECT owner, started_at, counted FROM attempts WHERE request_key = ?"
        " AND generation = ? AND (state IN ('refused', 'not_accepted') OR outcome = 'error')"
        " AND reason IS NOT ?",
        (key, generation, INTERRUPTED),
    ).fetchall()


class Books(Store):
    """
    The database of one state folder, for one run at a time.

    `journal` is where accepted attempts are also appended, a line each, before anybody hears of
    them: a lost ledger can be rebuilt from it. `still_held` is called before each change, and
    raises `Locked` when the state folder is another run's by now.
    """

    def __init__(
        self,
        path: Path,
        run: Run,
        *,
        journal: Path,
        still_held: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(path, still_held)
        self.run = run
        self.now = clock
        self._journal_path = journal
        self._journal: FileIO | None = None
        self._is_named = False  # durably, in its folder
        self._lines: list[bytes] = []
        self._fresh_lines: list[bytes] = []
        self._own_keys = {run.key_fingerprint, ""}  # the latter of what was adopted: not known

    @property
    def own_keys(self) -> str:
        """The fingerprints of keys that are known to be of this run's project, as JSON."""
        return json.dumps(sorted(self._own_keys))

    def trust_key(self, fingerprint: str) -> None:
        """What was asked for with that key is this project's too."""
        self._own_keys.add(fingerprint)

    def _note_begun(self) -> None:
        """
        Note that this run may ask for something, once: in the ledger, then first in its journal.

        Both are durable before it does: a ledger that does not know the run is an older one.
        """
        if self._is_named:  # with its first line in the journal, and its row in the ledger
            return
        began = Began(self.run.run_id, self.now())
        row = "INSERT OR IGNORE INTO runs (run_id, began_at) VALUES (?,?)"
        if self.db.execute(row, (began.run_id, began.began_at)).rowcount:
            self._fresh_lines.append(msgspec.json.encode(began) + b"\n")

    def _note_line(self, line: bytes) -> None:
        """A line for the journal of this run, which is there before anybody hears of it."""
        self._note_begun()
        self._fresh_lines.append(line + b"\n")

    def closed(self) -> None:
        if self._journal is not None:
            self._journal.close()

    def rolled_back(self) -> None:
        self._fresh_lines.clear()

    def committed(self) -> None:
        self._lines += self._fresh_lines
        self._fresh_lines.clear()
        if not self._lines:
            return
        try:
            if self._journal is None:
                # Open until `closed`: it is written to once for every few transcripts.
                self._journal = open(  # noqa: SIM115
                    self._journal_path, "ab", buffering=0, opener=regular
                )
            if not self._is_named:
                sync(os.fsencode(self._journal_path.parent))
                self._is_named = True
            write_all(self._journal, b"".join(self._lines))
            os.fsync(self._journal.fileno())
        except OSError:
            self._lines.insert(0, b"\n")  # written the next time, below what may be torn
            raise
        self._lines.clear()

    def _latest(self, key: str | None) -> int:
        """The generation that a recording of this key waits for."""
        row = self.db.execute(
            "SELECT generation, state, (SELECT max(generation) FROM transcripts"
            " WHERE request_key = :key) AS newest FROM transcripts WHERE request_key = :key "
            "ORDER BY state IN ('failed', 'missing'), generation DESC LIMIT 1",
            {"key": key},
        ).fetchone()
        if row is None:
            return 1
        if self.run.redo.force and row["state"] == "missing":
            return int(row["newest"]) + 1
        return int(row["generation"])

    def _wait_for(
        self, key: str, generation: int, content: str, options: str, *, again: bool = False
    ) -> str:
        """
        The state of the transcript that a recording now waits for, made if there is none.

        One that failed is wanted `again` if the user said so, once in a run.
        """
        made = self.db.execute(
            "INSERT INTO transcripts (request_key, generation, content, options, provider) "
            "VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING RETURNING state",
            (key, generation, content, options, self.run.provider_kind),
        ).fetchone()
        if made is not None:
            return str(made["state"])
        at = (key, generation)
        (state,) = self.db.execute(
            "SELECT state FROM transcripts WHERE request_key = ? AND generation = ?", at
        ).fetchone()
        if state == "written":
            # Paid, and there is one more to write it to.
            self._set_transcript(key, generation, "completed")
            return "completed"
        if state == "missing" and self._has_copy(key, generation):
            self._lies_here(key, generation)
            self._set_transcript(key, generation, "completed")
            return "completed"
        if state == "failed" and (again or self._may_retry(key, generation)):
            self.db.execute(
                "UPDATE transcripts SET state = 'wanted', tries = 0, due_at = 0 "
                "WHERE request_key = ? AND generation = ?",
                at,
            )
            return "wanted"
        return str(state)

    def _has_copy(self, key: str, generation: int) -> bool:
        """Whether the ledger has a result of a transcript lying anywhere."""
        row = self.db.execute(
            "SELECT 1 FROM recordings WHERE result_key = :key AND result_generation = :generation"
            " AND result_size IS NOT NULL UNION ALL SELECT 1 FROM versions"
            " WHERE result_key = :key AND result_generation = :generation LIMIT 1",
            {"key": key, "generation": generation},
        ).fetchone()
        return row is not None

    def _may_retry(self, key: str, generation: int) -> bool:
        """Whether the user wants what failed before tried again, and this run has not done so."""
        redo = self.run.redo
        if not (redo.failed or redo.force):
            return False
        failed = _failures(self.db, key, generation)
        if any(row["owner"] == self.run.run_id for row in failed):
            return False
        if redo.force or redo.failed is True:
            return True
        times = [row["started_at"] for row in failed if row["counted"]]
        return nights(times, self.now(), self.run.zone) < redo.failed

    def _failed_before(self, key: str, generation: int) -> bool:
        """Whether a transcript came to nothing, and has not been had since."""
        # One that is wanted again keeps its reason: the run that was to try it may not have.
        row = self.db.execute(
            "SELECT 1 FROM transcripts WHERE request_key = ? AND generation = ?"
            " AND state IN ('failed', 'wanted') AND reason IS NOT NULL",
            (key, generation),
        ).fetchone()
        return row is not None

    def _keep_aside(
        self,
        recording_id: int,
        key: str,
        generation: int,
        size: int,
        digest: str,
        duration_s: float | None,
    ) -> None:
        """Note a result among the versions that its recording never had; one file is one row."""
        self.db.execute(
            "INSERT INTO versions (recording_id, run_id, replaced_at, result_key,"
            " result_generation, result_size, result_sha256, duration_s, written_run)"
            " SELECT :id, :run, :now, :key, :generation, :size, :digest, :duration_s, :run"
            " WHERE NOT EXISTS (SELECT 1 FROM versions WHERE recording_id = :id AND"
            "  (result_key, result_generation, result_sha256) = (:key, :generation, :digest))",
            {
                "id": recording_id,
                "run": self.run.run_id,
                "now": self.now(),
                "key": key,
                "generation": generation,
                "size": size,
                "digest": digest,
                "duration_s": duration_s,
            },
        )

    def _lies_here(self, key: str, generation: int) -> None:
        """Note that a result is on disk, whatever the service has: for all who wait for it."""
        self.db.execute(
            "UPDATE transcripts SET state = iif(state = 'completed' AND NOT EXISTS ("
            "SELECT 1 FROM recordings WHERE request_key = :key AND generation = :generation"
            " AND state = 'found'), 'written', 'completed') "
            "WHERE request_key = :key AND generation = :generation"
            " AND state IN ('completed', 'missing')",
            {"key": key, "generation": generation},
        )
        self.db.execute(
            "UPDATE attempts SET outcome = 'completed'"
            " WHERE request_key = ? AND generation = ? AND outcome = 'missing'",
            (key, generation),
        )

    def _set_transcript(self, key: str, generation: int, state: str) -> None:
        self.db.execute(
            "UPDATE transcripts SET state = ? WHERE request_key = ? AND generation = ?",
            (state, key, generation),
        )

    def _fail(self, key: str, generation: int, reason: str) -> None:
        self.db.execute(
            "UPDATE transcripts SET state = 'failed', reason = ? "
            "WHERE request_key = ? AND generation = ?",
            (reason, key, generation),
        )

    def _waiting_upload(self, key: str, generation: int) -> sqlite3.Row | None:
        """An upload that is still good, and in nobody's hand."""
        row: sqlite3.Row | None = self.db.execute(
            "SELECT a.attempt_id, a.upload_url, a.expected_s FROM attempts a "
            "JOIN recordings r USING (recording_id) WHERE a.request_key = ? "
            "AND a.generation = ? AND a.state = 'uploaded' AND r.claim IS NULL LIMIT 1",
            (key, generation),
        ).fetchone()
        return row

    def _is_other(
        self, db: sqlite3.Connection, asked_for: str | None, key: str, generation: int
    ) -> bool:
        """
        Whether a result was made with other options than are asked for, or by another provider.

        What another tool made with no option was adopted to count as it is, whatever a run asks
        for. Of adopted ones alone it is not known who asked for them.
        """
        if asked_for == key:
            return False
        plain = (
            "SELECT 1 FROM attempts a JOIN transcripts t USING (request_key, generation)"
            " WHERE a.request_key = ? AND a.generation = ? AND a.key_fingerprint = ''"
            " AND a.outcome = 'completed' AND t.options = '{}' AND t.provider = ?"
        )
        made = db.execute(plain, (key, generation, self.run.provider_kind)).fetchone()
        return made is None or self.run.redo.adopted

    def _want_again(self, key: str | None, generation: int | None) -> None:
        """An open transcript that nothing is under way for any more is wanted again."""
        # Before a submit it takes somebody who works on it: an upload that was set aside waits.
        self.db.execute(
            "UPDATE transcripts SET state = 'wanted' "
            "WHERE request_key = :key AND generation = :generation AND state = 'open' "
            "AND NOT EXISTS (SELECT 1 FROM attempts a JOIN recordings r USING (recording_id) "
            "WHERE a.request_key = :key AND a.generation = :generation "
            "AND (a.state IN ('submitting', 'ambiguous') "
            "OR a.state IN ('uploading', 'uploaded') AND a.owner = :run AND r.claim = :run))",
            {"key": key, "generation": generation, "run": self.run.run_id},
        )

    def _drop(self, attempt_id: int, reason: str) -> None:
        """End an attempt that was never submitted, and let go of its recording."""
        row = self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = ? "
            "WHERE attempt_id = ? AND state IN ('uploading', 'uploaded') "
            "RETURNING recording_id, request_key, generation",
            (reason, attempt_id),
        ).fetchone()
        if row is None:
            return
        self._release(row["recording_id"])
        self._want_again(row["request_key"], row["generation"])

    def _park(self, attempt_id: int, reason: str) -> None:
        """Leave the transcript of an attempt to the next run."""
        self.db.execute(
            "UPDATE transcripts SET parked = ? WHERE (request_key, generation) = "
            "(SELECT request_key, generation FROM attempts WHERE attempt_id = ?)",
            (reason, attempt_id),
        )

    def _release(self, recording_id: int) -> None:
        self.db.execute(
            "UPDATE recordings SET claim = NULL WHERE recording_id = ?", (recording_id,)
        )
