"""
A lost ledger, made anew: in, what is left of it elsewhere; out, rows that a run goes on with.

    journals        what was accepted, for which recording    recordings, transcripts, attempts
    output folder   whole transcripts, by their id            what is written
    recordings      their bytes, where they are still there   what is unchanged
    account's list  what nobody knows                         unclaimed, until the user says whose

Whatever is not certain becomes a transcript that the next run looks at, by its id. So the worst
that can come of it is a GET too many.
"""

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.addresses import address_path
from pipeline.errors import SettingsError
from pipeline.ledger.books import Reading
from pipeline.ledger.journal import Line
from pipeline.ledger.recordings import Recordings
from pipeline.ledger.store import private, reading, transition
from pipeline.ledger.uploads import named_by, names_another
from pipeline.models import Entry, Root, request_key
from pipeline.names import fold, result_name, version
from pipeline.wire import is_deleted

__all__ = ["Copy", "Remains", "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """A whole transcript on disk."""

    transcript_id: str
    audio_url: str | None
    place: bytes | None
    """Relative to the output folder; None among the versions."""
    size: int
    """Bytes."""
    digest: str
    """sha256, hex."""
    model_used: str | None
    duration_s: float | None
    price_usd: float | None
    kept: bytes | None = None
    """Relative to the folder of the versions, if it is among them."""
    odd: str | None = None
    """What is suspicious about it, in a sentence."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A result of a transcript that was asked for for another recording."""

    result: Result
    root: str
    folder: bytes
    path: bytes
    """Of the recording that it may be of, below the folder."""


class Remains(Recordings):
    """Transitions of a ledger that is made anew, and of what it cannot account for."""

    @transition
    def adopt_listed(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """Note rows of the account's list, nobody's so far: id, status and `audio_url`."""
        self.db.executemany("INSERT OR IGNORE INTO unclaimed VALUES (?,?,?)", rows)

    @transition
    def adopt_lines(self, lines: Sequence[Line]) -> None:
        """Note what was accepted, in the order in which it was; each is looked at once more."""
        for line in lines:
            # What was in doubt, and is known by now: the user said so, if it is the id that was.
            doubtful = (
                "DELETE FROM attempts WHERE upload_url = ? AND state = 'ambiguous'"
                " RETURNING claimed_id"
            )
            (claimed_id,) = self.db.execute(doubtful, (line.upload_url,)).fetchone() or (None,)
            known = "SELECT 1 FROM attempts WHERE transcript_id = ? OR upload_url = ?"
            transcript_id = None if line.claimed else line.transcript_id
            if self.db.execute(known, (transcript_id, line.upload_url)).fetchone() is None:
                self._adopt(line)
            self.db.execute(
                "UPDATE attempts SET claimed_id = transcript_id"
                " WHERE upload_url = ? AND transcript_id = ?",
                (line.upload_url, claimed_id),
            )

    def _adopt(self, line: Line) -> None:
        options = bytes(line.options).decode()
        key, generation = line.request_key, line.generation
        if line.folder:
            self.db.execute(
                "INSERT INTO roots (name, folder) VALUES (?,?) "
                "ON CONFLICT DO UPDATE SET folder = excluded.folder",
                (line.root, line.folder),
            )
        recording_id = self._known(line.root, line.name, options, line.result)
        self.db.execute(
            "UPDATE recordings SET content = ?, options = ?, request_key = ?, generation = ?"
            " WHERE recording_id = ?",
            (line.content, options, key, generation, recording_id),
        )
        self.db.execute(
            "INSERT INTO transcripts (request_key, generation, content, options, provider, state)"
            " VALUES (?,?,?,?,?,'submitted') ON CONFLICT DO NOTHING",
            (key, generation, line.content, options, line.provider),
        )
        # Of several one lives: not one that the account lists as failed, else the last. Names and
        # times of runs come from clocks, which can be set.
        is_dead = self.db.execute(
            "SELECT 1 FROM unclaimed WHERE transcript_id = ? AND status = 'error'"
            " AND EXISTS (SELECT 1 FROM attempts WHERE request_key = ? AND generation = ?)",
            (line.transcript_id, key, generation),
        ).fetchone()
        if line.claimed or not is_dead:
            self._supersede(key, generation)
            self._set_transcript(key, generation, "open" if line.claimed else "submitted")
        self._add_attempt(line, recording_id, "error" if is_dead else None)

    def _add_attempt(self, line: Line, recording_id: int, outcome: str | None) -> None:
        at = line.accepted_at
        state: tuple[str | None, ...] = ("accepted", line.transcript_id, None, outcome)
        if line.claimed:
            state = ("ambiguous", None, line.transcript_id, None)
        self.db.execute(
            "INSERT INTO attempts (recording_id, request_key, generation, content, owner, base_url,"
            " key_fingerprint, upload_url, upload_path, started_at, uploaded_at, submitted_at,"
            " accepted_at, expected_s, expected_usd, state, transcript_id, claimed_id, outcome)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(recording_id, line.request_key, line.generation, line.content, self.run.run_id),
                *(line.base_url, line.key_fingerprint, line.upload_url),
                *(address_path(line.upload_url), at, at, at, None if line.claimed else at),
                *(line.expected_s, line.expected_usd, *state),
            ),
        )

    def _supersede(self, key: str, generation: int) -> None:
        self.db.execute(
            "UPDATE attempts SET reason = 'asked for once more',"
            " state = iif(state = 'ambiguous', 'not_accepted', state),"
            " outcome = iif(state = 'ambiguous', NULL, 'error')"
            " WHERE request_key = ? AND generation = ? AND outcome IS NULL"
            " AND state IN ('accepted', 'ambiguous')",
            (key, generation),
        )

    def _known(self, root: str, path: bytes, options: str, result: bytes) -> int:
        """The id of a recording, noted if it was not; nothing is said of its bytes."""
        query = "SELECT recording_id FROM recordings WHERE root = ? AND path = ?"
        row = self.db.execute(query, (root, path)).fetchone()
        if row is None:
            self._insert(root, Entry(path, 0, 0, 0, 0, False, options, result))
            row = self.db.execute(query, (root, path)).fetchone()
        return int(row[0])

    @transition
    def adopt_results(
        self, results: Sequence[Result]
    ) -> tuple[list[Copy], list[Result], list[tuple[bytes, bytes]]]:
        """
        Note what lies on disk.

        What comes back are copies that may be another recording's, results that no journal knows,
        which are nobody's so far, and the names among the versions that an earlier release gave,
        each with what the ledger takes it to be called.
        """
        copies: list[Copy] = []
        nobodys: list[Result] = []
        renamed: list[tuple[bytes, bytes]] = []
        for result in results:
            attempt = self.db.execute(
                "SELECT a.*, r.root, r.path, r.result, f.folder FROM attempts a"
                " JOIN recordings r USING (recording_id) LEFT JOIN roots f ON f.name = r.root"
                " WHERE a.transcript_id = ?",
                (result.transcript_id,),
            ).fetchone()
            if attempt is None:
                self.db.execute(
                    "INSERT OR IGNORE INTO unclaimed VALUES (?, 'completed', ?)",
                    (result.transcript_id, result.audio_url),
                )
                nobodys.append(result)
                continue
            echo = result.audio_url
            is_said = attempt["claimed_id"] == attempt["transcript_id"]
            if echo and not is_said and names_another(self.db, attempt["attempt_id"], echo):
                continue
            if attempt["outcome"] == "error":  # it is whole and here: another one is the dead one
                self._supersede(attempt["request_key"], attempt["generation"])
            self.db.execute(
                "UPDATE attempts SET outcome = 'completed', finished_at = accepted_at,"
                " model_used = ?, duration_s = ?, price_usd = ?, odd = ? WHERE attempt_id = ?",
                (
                    *(result.model_used, result.duration_s, result.price_usd, result.odd),
                    attempt["attempt_id"],
                ),
            )
            self._set_transcript(attempt["request_key"], attempt["generation"], "written")
            if result.place is None:
                self._keep(result, attempt)
                name = version(attempt["result"], result.digest[:12])
                if result.kept not in (None, name):
                    renamed.append((result.kept or b"", name))
            elif not self._put(result, attempt, result.place):
                copies += _copy(result, attempt, result.place)
        return copies, nobodys, renamed

    def _keep(self, result: Result, attempt: sqlite3.Row) -> None:
        """Note a result among the versions: which run replaced it is not known any more."""
        self.db.execute(
            "INSERT INTO versions (recording_id, run_id, replaced_at, result_key,"
            " result_generation, result_size, result_sha256, duration_s, replaced_by)"
            " SELECT recording_id, '', :now, :key, :generation, :size, :digest, :duration_s,"
            "  result_sha256"
            " FROM recordings WHERE recording_id = :id AND result_sha256 IS NOT :digest"
            " AND NOT EXISTS (SELECT 1 FROM versions WHERE recording_id = :id AND"
            "  (result_key, result_generation, result_sha256) = (:key, :generation, :digest))",
            {
                "now": self.now(),
                "key": attempt["request_key"],
                "generation": attempt["generation"],
                "size": result.size,
                "digest": result.digest,
                "duration_s": result.duration_s,
                "id": attempt["recording_id"],
            },
        )

    def _put(self, result: Result, attempt: sqlite3.Row, place: bytes) -> bool:
        """Note a result of a recording; False if there is no recording whose result lies there."""
        return bool(
            self.db.execute(
                "UPDATE recordings SET result_size = ?, result_sha256 = ?, result_key = ?,"
                " result_generation = ?, duration_s = ? WHERE result_fold = ?",
                (
                    *(result.size, result.digest, attempt["request_key"], attempt["generation"]),
                    *(result.duration_s, fold(place)),
                ),
            ).rowcount
        )

    @transition
    def adopt_copies(self, copies: Sequence[tuple[Copy, Reading]]) -> None:
        """Note recordings that hold the same bytes as the one that a transcript was asked for."""
        for copy, read in copies:
            attempt = self.db.execute(
                "SELECT a.*, t.options FROM attempts a JOIN transcripts t"
                " USING (request_key, generation) WHERE transcript_id = ?",
                (copy.result.transcript_id,),
            ).fetchone()
            if attempt["content"] == read.content and copy.result.place is not None:
                place = copy.result.place
                recording_id = self._known(copy.root, copy.path, attempt["options"], place)
                self._put(copy.result, attempt, place)
                self._note_reading(recording_id, attempt, read)

    @reading
    def found_after(self, recording_id: int, limit: int) -> list[tuple[int, bytes | None, bytes]]:
        """The next recordings by id: id, folder of the root and path."""
        rows = self.ro.execute(
            "SELECT r.recording_id, f.folder, r.path FROM recordings r"
            " LEFT JOIN roots f ON f.name = r.root WHERE r.recording_id > ? ORDER BY 1 LIMIT ?",
            (recording_id, limit),
        )
        return [tuple(row) for row in rows]

    @transition
    def adopt_readings(self, readings: Sequence[tuple[int, Reading]]) -> None:
        """
        Note what recordings hold.

        One that holds what was transcribed for it is known again, and not read by the next run.
        """
        for recording_id, read in readings:
            row = self.db.execute(
                "SELECT t.* FROM attempts a JOIN transcripts t USING (request_key, generation)"
                " WHERE a.owner = :run AND a.recording_id = :id AND a.content = :content"
                " AND a.outcome IS NOT 'error' ORDER BY a.attempt_id DESC LIMIT 1",
                {"run": self.run.run_id, "id": recording_id, "content": read.content},
            ).fetchone()
            if row is not None:
                self._note_reading(recording_id, row, read)

    def _note_reading(
        self, recording_id: int, row: sqlite3.Row | dict[str, Any], read: Reading
    ) -> None:
        self.db.execute(
            "UPDATE recordings SET content = ?, edges = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
            " inode = ?, settled = ?, options = ?, request_key = ?, generation = ?"
            " WHERE recording_id = ?",
            (
                *(read.content, read.edges, read.size, read.mtime_ns, read.ctime_ns, read.inode),
                *(read.settled, row["options"], row["request_key"], row["generation"]),
                recording_id,
            ),
        )

    @transition
    def adopt_said(self, keys: Sequence[tuple[str, float]], due: Sequence[str]) -> None:
        """Note what the user had said in a ledger of before, as `evidence.said` gives it."""
        self.db.executemany("INSERT OR IGNORE INTO trusted_keys VALUES (?,?)", keys)
        self._own_keys.update(fingerprint for fingerprint, _ in keys)
        self.db.executemany(
            "UPDATE attempts SET deletion = 'due'"
            " WHERE transcript_id = ? AND outcome = 'completed'",
            [(transcript_id,) for transcript_id in due],
        )

    @transition
    def conclude(self) -> dict[str, int]:
        """Say what is written, and what is to be fetched; how many of each, and unclaimed."""
        self.db.execute(
            "UPDATE recordings SET state = 'written' WHERE result_size IS NOT NULL"
            " AND request_key = result_key AND generation = result_generation"
        )
        self.db.execute(
            "UPDATE transcripts SET state = 'completed' WHERE state = 'written'"
            " AND (request_key, generation) IN"
            " (SELECT request_key, generation FROM recordings WHERE state = 'found')"
        )
        self.db.execute(
            "DELETE FROM unclaimed WHERE transcript_id IN"
            " (SELECT coalesce(transcript_id, claimed_id) FROM attempts"
            " WHERE state IN ('accepted', 'ambiguous'))"
        )
        row = self.db.execute(
            "SELECT (SELECT count(*) FROM recordings) AS recordings,"
            " (SELECT count(*) FROM recordings WHERE state = 'written') AS written,"
            " (SELECT count(*) FROM transcripts WHERE state <> 'written') AS to_fetch,"
            " (SELECT count(*) FROM unclaimed) AS unclaimed"
        ).fetchone()
        return dict(row)

    @reading
    def copy_to(self, path: Path) -> None:
        """A copy of the whole ledger, durable when this returns."""
        private(path)
        with closing(sqlite3.connect(path)) as copy:
            self.ro.backup(copy)
        with open(path, "rb") as file:
            os.fsync(file.fileno())

    # --- what it cannot account for ---------------------------------------------------------------

    @reading
    def knows(self, line: Line) -> bool:
        """Whether what was accepted was asked for here, even if the answer could not be noted."""
        query = "SELECT 1 FROM attempts WHERE transcript_id = ? OR upload_url = ?"
        known = self.ro.execute(query, (line.transcript_id, line.upload_url)).fetchone()
        return known is not None

    @reading
    def unknown_runs(self, run_ids: Sequence[str]) -> list[str]:
        """Which of these runs this ledger does not know, in order."""
        rows = self.ro.execute(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT run_id FROM runs)"
            " ORDER BY value",
            (json.dumps(run_ids),),
        )
        return [row[0] for row in rows]

    @reading
    def last_run(self) -> str | None:
        """The run that was the last one to ask for something, as far as is known here."""
        row = self.ro.execute("SELECT run_id FROM runs ORDER BY rowid DESC LIMIT 1").fetchone()
        return row and str(row[0])

    @transition
    def record_runs(self, run_ids: Sequence[str]) -> None:
        """Note that what these runs have asked for is known here."""
        self.db.executemany(
            "INSERT OR IGNORE INTO runs (run_id, began_at) VALUES (?,?)",
            [(run_id, self.now()) for run_id in run_ids],
        )

    @reading
    def next_unclaimed(self, after: str, limit: int) -> list[tuple[str, str]]:
        """The next transcripts by id that wait for a word of the user: id and status."""
        rows = self.ro.execute(
            "SELECT transcript_id, status FROM unclaimed WHERE transcript_id > ?"
            " ORDER BY 1 LIMIT ?",
            (after, limit),
        )
        return [tuple(row) for row in rows]

    @reading
    def require_claimed(self) -> None:
        """
        Let nothing be asked for while the ledger cannot account for a transcript.

        Raises:
            SettingsError: there is one, and what the user can say of it.
        """
        (count,) = self.ro.execute("SELECT count(*) FROM unclaimed").fetchone()
        if count:
            raise SettingsError(
                f"the ledger was made anew, and {count} transcripts of the account may be yours:"
                " nothing is asked for until you say so",
                "hint: `overnight verify --claim ID=PATH` for one of a recording,"
                " `overnight verify --disclaim ID` or `--disclaim all` for those of other programs",
            )

    @reading
    def roots(self) -> list[tuple[str, bytes]]:
        """Every root that was ever run, and its folder."""
        rows = self.ro.execute("SELECT name, folder FROM roots")
        return [tuple(row) for row in rows]

    @transition
    def disclaim(self, transcript_id: str | None) -> int:
        """Note that a transcript, or each there is, is another program's; how many they were."""
        return self.db.execute(
            "DELETE FROM unclaimed WHERE :id IS NULL OR transcript_id = :id", {"id": transcript_id}
        ).rowcount

    @transition
    def claim_transcript(
        self,
        transcript_id: str,
        root: Root,
        path: bytes,
        options: str,
        read: Reading,
    ) -> None:
        """
        Note that an unclaimed transcript is of this recording; the next run fetches it.

        Raises:
            SettingsError: it is not unclaimed, cannot be fetched, or the recording has one.
        """
        row = self.db.execute(
            "SELECT * FROM unclaimed WHERE transcript_id = ?", (transcript_id,)
        ).fetchone()
        if row is None:
            raise SettingsError(f"`{transcript_id}` is no transcript that waits to be claimed")
        if is_deleted(row["audio_url"]):
            raise SettingsError(f"`{transcript_id}` was deleted at the service")
        key = request_key(read.content, options, self.run.provider_kind)
        other = self.db.execute(
            "SELECT coalesce(transcript_id, claimed_id) FROM attempts WHERE request_key = ?"
            " AND state IN ('accepted', 'ambiguous') AND outcome IS NOT 'error'",
            (key,),
        ).fetchone()
        if other is not None:
            raise SettingsError(
                f"`{os.fsdecode(path)}` has the transcript {other[0]} already;"
                f" `{transcript_id}` can only be disclaimed"
            )
        line = Line(
            transcript_id=transcript_id,
            upload_url=row["audio_url"] or f"unknown:{transcript_id}",
            request_key=key,
            generation=1,
            content=read.content,
            options=msgspec.Raw(options.encode()),
            provider=self.run.provider_kind,
            base_url=self.run.base_url,
            key_fingerprint=self.run.key_fingerprint,
            root=root.name,
            path=path.decode("utf-8", "backslashreplace"),
            path_hex=path.hex(),
            folder_hex=root.folder.hex(),
            result_hex=self._name(root.name, path).hex(),
            accepted_at=self.now(),
        )
        if len(named_by(self.db, line.upload_url)) == 1:
            raise SettingsError(f"`{transcript_id}` is of an upload that is known here")
        self._adopt(line)
        (recording_id,) = self.db.execute(
            "UPDATE recordings SET state = 'found', reason = NULL"
            " WHERE root = ? AND path = ? RETURNING recording_id",
            (root.name, path),
        ).fetchone()
        self._set_transcript(key, 1, "submitted")
        wanted = {"options": options, "request_key": key, "generation": 1}
        self._note_reading(recording_id, wanted, read)
        self.db.execute("DELETE FROM unclaimed WHERE transcript_id = ?", (transcript_id,))
        self._note_line(msgspec.json.encode(line))

    def _name(self, root: str, path: bytes) -> bytes:
        """Where a result goes: where the ledger says, else like those of its neighbours."""
        row = self.db.execute(
            "SELECT path, result FROM recordings WHERE root = ?"
            " ORDER BY path = ? DESC, recording_id LIMIT 1",
            (root, path),
        ).fetchone()
        if row is not None and row["path"] == path:
            return bytes(row["result"])
        prefix = _prefix(root, row["path"], row["result"]) if row is not None else b""
        return result_name(path, prefix or b"")


def _prefix(root: str, path: bytes, result: bytes) -> bytes | None:
    """What the results of a root begin with, None if that does not show in this one."""
    for prefix in (b"", root.encode() + b"/"):
        if result == result_name(path, prefix):
            return prefix
    return None


def _copy(result: Result, attempt: sqlite3.Row, place: bytes) -> list[Copy]:
    """The recording that a result is of which lies beside another's, if its name tells."""
    prefix = _prefix(attempt["root"], attempt["path"], attempt["result"])
    path = place.removeprefix(prefix or b"").removesuffix(b".json")
    if prefix is None or attempt["folder"] is None or result_name(path, prefix) != place:
        return []
    return [Copy(result, attempt["root"], attempt["folder"], path)]
