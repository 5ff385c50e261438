"""
Recordings: in, what a scan sees; out, which of it there is work with, and what is due next.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from pipeline.ledger.books import Books, Found, Known
from pipeline.ledger.store import reading, transition
from pipeline.models import (
    UNREADABLE,
    Claim,
    Entry,
    Turn,
    Uploaded,
    request_key,
)
from pipeline.names import derived, distinct, fold
from pipeline.wire import redacted_suffix

__all__ = ["Recordings"]


class Recordings(Books):
    """Transitions of what was found, until an upload begins."""

    @reading
    def look_up(
        self,
        root: str,
        entries: Sequence[Entry],
        size_of: Callable[[bytes], int | None],
        formats: Collection[str],
    ) -> Known:
        """
        Which of what a scan sees is as it is to be: nothing of it has to be written down.

        `size_of` gives the bytes of a file by its path relative to the output folder, None when
        it is not there; `formats` are the derived files that are wanted.
        """
        known, redo = Known([], []), self.run.redo
        if redo.force or redo.checksum:
            known.others.extend(entries)
            return known
        rows = self.ro.execute(
            "SELECT path, settled, size, mtime_ns, ctime_ns, inode, result, result_size, content,"
            " result_key, result_generation, kept, recording_id FROM recordings WHERE root = ?"
            f" AND path IN ({_marks(entries)})"
            " AND state = 'written' AND lacking IS NULL AND NOT redo",
            (root, *(entry.path for entry in entries)),
        )
        written = {row["path"]: row for row in rows}
        for entry in entries:
            row = written.get(entry.path)
            if (
                row is not None
                and not _differs(row, entry)
                and _has_result(row, size_of)
                and not (formats and _lacking(row, size_of, formats))
                and row["kept"] == self._is_changed(self.ro, row, entry)
                and not (row["kept"] and redo.changed and entry.skip is None)
            ):
                ended = "kept" if row["kept"] else "already_written"
                known.ended.append((row["recording_id"], ended))
            else:
                known.others.append(entry)
        return known

    def _is_changed(self, db: sqlite3.Connection, row: sqlite3.Row, entry: Entry) -> bool:
        """Whether a result was made with other options, or by another kind of provider."""
        key = request_key(row["content"], entry.options, self.run.provider_kind)
        return self._is_other(db, key, row["result_key"], row["result_generation"])

    @transition
    def record_ended(self, ended: Sequence[tuple[int, str]]) -> None:
        """Note by id what a scan sees that is as it is to be, and how each stands."""
        self._see(ended)

    def _see(self, seen: Iterable[tuple[int, str | None]]) -> None:
        self.db.executemany(
            "INSERT INTO seen VALUES (?,?) ON CONFLICT DO UPDATE SET ended = excluded.ended", seen
        )

    @reading
    def has_found(self, root: str, suffix: bytes = b"") -> bool:
        """Whether any recording of a root is known whose name ends so, in any case."""
        row = self.ro.execute(
            "SELECT 1 FROM recordings WHERE root = ?"
            " AND lower(CAST(substr(path, -max(?, 1)) AS TEXT)) LIKE ? LIMIT 1",
            (root, len(suffix), f"%{suffix.decode()}"),
        ).fetchone()
        return row is not None

    @transition
    def record_found(
        self,
        root: str,
        entries: Sequence[Entry],
        size_of: Callable[[bytes], int | None],
        formats: Collection[str],
    ) -> Found:
        """
        Note what a scan sees, and say which of it there is work with.

        `size_of` and `formats` are as `look_up` takes them.
        """
        found = Found([], [])
        rows = self.db.execute(
            f"SELECT * FROM recordings WHERE root = ? AND path IN ({_marks(entries)})",
            (root, *(entry.path for entry in entries)),
        )
        known = {row["path"]: row for row in rows}
        seen: list[tuple[int, str | None]] = []
        for entry in entries:
            row, ended = known.get(entry.path), None
            if row is None:
                recording_id = self._insert(root, entry)
            elif self.run.redo.checksum or _differs(row, entry):
                recording_id = self._reset(row, entry, size_of, formats)
            else:
                recording_id = row["recording_id"]
                ended = self._look_again(row, entry, size_of, formats)
            seen.append((recording_id, ended))
            if ended:
                continue
            if entry.skip:
                found.skipped.append((entry.path, entry.skip))
            else:
                found.work.append((entry.path, entry.size))
        self._see(seen)
        if known:
            found.phases = self._phases([row["recording_id"] for row in known.values()])
        return found

    def _phases(self, recording_ids: Sequence[int]) -> dict[bytes, str]:
        """How far earlier runs came with recordings that wait for a result, by path."""
        rows = self.db.execute(
            "SELECT r.path, CASE t.state WHEN 'submitted' THEN 'transcribing'"
            "  WHEN 'completed' THEN 'saving' WHEN 'failed' THEN 'failed'"
            "  WHEN 'missing' THEN 'failed' ELSE 'submitting' END"
            " FROM recordings r CROSS JOIN transcripts t USING (request_key, generation)"
            f" WHERE r.recording_id IN ({_marks(recording_ids)}) AND r.state = 'found'"
            " AND (t.state IN ('submitted', 'completed', 'failed', 'missing') OR EXISTS ("
            "  SELECT 1 FROM attempts a WHERE a.request_key = r.request_key"
            "  AND a.generation = r.generation"
            "  AND a.state IN ('uploaded', 'submitting', 'ambiguous')))",
            recording_ids,
        )
        return dict(rows.fetchall())

    def _insert(self, root: str, entry: Entry) -> int:
        name, folded = self._free_name(root, entry)
        recording_id = self.db.execute(
            "INSERT INTO recordings (root, path, size, mtime_ns, ctime_ns, inode, settled, options,"
            " result, result_fold, state, reason, run_id, turn, place)"
            " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(root, entry.path, entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode),
                *(entry.settled, entry.options, name, folded),
                *(
                    "skipped" if entry.skip else "found",
                    entry.skip,
                    self.run.run_id,
                    entry.turn,
                    entry.place,
                ),
            ),
        ).lastrowid
        assert recording_id is not None
        return recording_id

    def _free_name(self, root: str, entry: Entry) -> tuple[bytes, str]:
        """What the result of a new recording is called, and what file systems take that for."""
        name, folded = entry.result, fold(entry.result)
        identity = root.encode() + b"/" + entry.path
        taken = "SELECT 1 FROM recordings WHERE result_fold = ?"
        while self.db.execute(taken, (folded,)).fetchone():
            name = distinct(entry.result.removesuffix(b".json"), identity)
            folded = fold(name)
            identity += b"\0"  # what no path holds: another recording may spell this name, too
        return name, folded

    def _reset(
        self,
        row: sqlite3.Row,
        entry: Entry,
        size_of: Callable[[bytes], int | None],
        formats: Collection[str],
    ) -> int:
        """The bytes may be others: what it was attached to is no longer its own."""
        has_result = _has_result(row, size_of)
        self.db.execute(
            "UPDATE recordings SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, settled = ?,"
            " options = ?, content = NULL, request_key = NULL, generation = 1, state = ?,"
            " reason = ?, result_size = ?, lacking = ?, promote = NULL, kept = 0, redo = 0,"
            " tries = 0, due_at = 0, turn = ?, place = ?, waits = 0, run_id = ?"
            " WHERE recording_id = ?",
            (
                *(entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode, entry.settled),
                *(entry.options, "skipped" if entry.skip else "found", entry.skip),
                row["result_size"] if has_result else None,
                _lacking(row, size_of, formats) if has_result else None,
                *(entry.turn, entry.place, self.run.run_id, row["recording_id"]),
            ),
        )
        return int(row["recording_id"])

    def _look_again(
        self,
        row: sqlite3.Row,
        entry: Entry,
        size_of: Callable[[bytes], int | None],
        formats: Collection[str],
    ) -> str | None:
        """How an unchanged recording stands whose result is there, None if there is work."""
        recording_id, content, redo = row["recording_id"], row["content"], self.run.redo
        size = row["result_size"] if _has_result(row, size_of) else None
        key = content and request_key(content, entry.options, self.run.provider_kind)
        if row["state"] == "written" or self._stands(row, key, size_of):
            if _has_result(row, size_of):
                self._stand(row)
                kept = self._is_changed(self.db, row, entry)
                again = entry.skip is None and (redo.force or (redo.changed and kept))
                marks = (self.run.run_id, kept, again, _lacking(row, size_of, formats))
                if not again:
                    self.db.execute(
                        "UPDATE recordings SET run_id = ?, kept = ?, redo = ?, lacking = ?"
                        " WHERE recording_id = ?",
                        (*marks, recording_id),
                    )
                    return "kept" if kept else "already_written"
                self.db.execute(
                    "UPDATE recordings SET run_id = ?, kept = ?, redo = ?, lacking = ?,"
                    " options = ?, tries = 0, due_at = 0, reason = NULL, turn = ?, place = ?,"
                    " waits = 0 WHERE recording_id = ?",
                    (*marks, entry.options, entry.turn, entry.place, recording_id),
                )
                return None
            # The result is gone or cut: what was paid is fetched again.
            key, generation = row["result_key"], row["result_generation"]
        elif row["result_key"] == row["request_key"] and not (redo.force or redo.changed):
            # What it waits for was paid before; new options are no reason to pay again.
            key, generation = row["request_key"], row["generation"]
        else:
            same = key == row["request_key"] and not redo.force
            generation = row["generation"] if same else self._latest(key)
        turn, place, waits = entry.turn, entry.place, False
        if key and not entry.skip:
            is_there = size_of(row["result"]) not in (None, UNREADABLE)
            if is_there and (key, generation) == (row["result_key"], row["result_generation"]):
                self._lies_here(key, generation)  # brought back by somebody: its bytes will tell
            if self._failed_before(key, generation):
                turn = max(turn, Turn.FAILED_BEFORE)
            waits = self._wait_for(key, generation, content, entry.options) != "wanted"
            if self._waiting_upload(key, generation):
                place = _FIRST
        self.db.execute(
            "UPDATE recordings SET run_id = ?, options = ?, request_key = ?, generation = ?,"
            " state = ?, reason = ?, kept = 0, redo = 0, tries = 0, due_at = 0, turn = ?,"
            " place = ?, waits = ?, result_size = ?, promote = ? WHERE recording_id = ?",
            (
                *(self.run.run_id, entry.options, key, generation),
                *("skipped" if entry.skip else "found", entry.skip, turn, place, waits),
                *(size, redo.promoted(row["promote"]), recording_id),
            ),
        )
        return None

    def _stands(
        self, row: sqlite3.Row, key: str | None, size_of: Callable[[bytes], int | None]
    ) -> bool:
        """
        Whether the result of a recording that waits for another one is to be its own again.

        `key` is what is asked for now. A redo that was agreed to goes on; one of other options than
        these does not, nor one with these that came to nothing where the result is as asked for.
        """
        if key is None or not _has_result(row, size_of):
            return False
        made_of = self.db.execute(
            "SELECT content, options FROM transcripts WHERE request_key = ? AND generation = ?",
            (row["result_key"], row["result_generation"]),
        ).fetchone()
        if made_of is None or made_of["content"] != row["content"]:
            return False  # what lies there is of other bytes
        suffix = redacted_suffix(msgspec.json.decode(made_of["options"]))
        if suffix and size_of(derived(row["result"], suffix)) is None:
            return False  # its audio may have been moved aside for the result that did not come
        at = (row["request_key"], row["generation"])
        if key != at[0] or at == (row["result_key"], row["result_generation"]):
            return True
        (state,) = self.db.execute(
            "SELECT state FROM transcripts WHERE request_key = ? AND generation = ?", at
        ).fetchone() or ("wanted",)
        is_over = state == "failed" and (self.run.redo.force or not self._may_retry(*at))
        return key == row["result_key"] and (is_over or state == "missing")

    def _stand(self, row: sqlite3.Row) -> None:
        """Note that the result of a recording is what it waits for, and lies there."""
        if row["state"] == "written":
            return
        self.db.execute(
            "UPDATE recordings SET state = 'written', reason = NULL, request_key = result_key,"
            " generation = result_generation, promote = NULL, waits = 0, options ="
            " (SELECT t.options FROM transcripts t WHERE (t.request_key, t.generation) ="
            "  (result_key, result_generation)) WHERE recording_id = ?",
            (row["recording_id"],),
        )
        self._lies_here(row["result_key"], row["result_generation"])

    @transition
    def claim(self, limit: int, *, anew: bool = True, backlog: bool = True) -> list[Claim]:
        """
        Take the next recordings to be uploaded; at most `limit`.

        First what this run has taken before, then uploads of earlier runs that are still good,
        then all else in the order of its turns and places, and what failed once those are through.
        Each has an attempt of its own, `uploading`, or brings an upload that is still good.
        Without `anew` only those are taken that this run has taken before, without `backlog` none
        of that.
        """
        for turn in _turns(anew, backlog):
            if claims := self._claim_of(turn, limit):
                return claims
        return []

    def _claim_of(self, turn: str, limit: int) -> list[Claim]:
        query = f"{_DUE} AND {turn} ORDER BY r.turn, r.place, r.root, r.path LIMIT :limit"
        for _ in range(_MOST_PASSED_OVER):
            rows = self.db.execute(query, self._due() | {"limit": limit}).fetchall()
            # Their transcript is under way for an equal recording, or came to nothing.
            passed_over = [(row["recording_id"],) for row in rows if not row["is_wanted"]]
            self.db.executemany(
                "UPDATE recordings SET waits = 1 WHERE recording_id = ?", passed_over
            )
            claims = [self._claim(row) for row in rows if row["is_wanted"]]
            if claims or not passed_over:
                return [claim for claim in claims if claim is not None]
        return []

    def _due(self) -> dict[str, Any]:
        return {"run": self.run.run_id, "now": self.now()}

    def _claim(self, row: sqlite3.Row) -> Claim | None:
        recording_id, content, key = row["recording_id"], row["content"], row["request_key"]
        generation, waiting = row["generation"], None
        if row["redo"]:
            # From here on the new result is asked for, whatever the next run's flags are.
            key = request_key(content, row["options"], self.run.provider_kind)
            is_same = key == row["result_key"]
            generation = self._next(key, row["result_generation"]) if is_same else self._latest(key)
            self.db.execute(
                "UPDATE recordings SET state = 'found', redo = 0, kept = 0, request_key = ?,"
                " generation = ?, promote = ? WHERE recording_id = ?",
                (key, generation, self.run.redo.promoted(None), recording_id),
            )
            state = self._wait_for(key, generation, content, row["options"], again=True)
            if state != "wanted":
                return None
        if key:
            state = self._wait_for(key, generation, content, row["options"])
            if state != "wanted":  # claimed a moment ago for an equal recording
                return None
            self._set_transcript(key, generation, "open")
            waiting = self._waiting_upload(key, generation)
        if waiting is None:
            attempt_id = self.db.execute(
                "INSERT INTO attempts (recording_id, request_key, generation, content, owner,"
                " base_url, key_fingerprint, started_at) VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(recording_id, key, generation, content, self.run.run_id),
                    *(self.run.base_url, self.run.key_fingerprint, self.now()),
                ),
            ).lastrowid
        else:
            attempt_id = waiting["attempt_id"]
            self.db.execute(
                "UPDATE attempts SET recording_id = ?, owner = ? WHERE attempt_id = ?",
                (recording_id, self.run.run_id, attempt_id),
            )
        self.db.execute(
            "UPDATE recordings SET claim = ?, turn = iif(turn > 3, turn, 0) WHERE recording_id = ?",
            (self.run.run_id, recording_id),
        )
        options = msgspec.json.decode(row["options"])
        assert attempt_id is not None
        return Claim(
            recording_id=recording_id,
            root=row["root"],
            path=row["path"],
            size=row["size"],
            content=content,
            attempt_id=attempt_id,
            options=options,
            result=row["result"],
            turn=row["turn"],
            is_redo=bool(row["redo"]),
            uploaded=None
            if waiting is None
            else Uploaded(
                attempt_id,
                recording_id,
                waiting["upload_url"],
                row["root"],
                row["path"],
                options,
                waiting["expected_s"],
                content,
                row["turn"],
            ),
        )

    def _next(self, key: str, generation: int) -> int:
        """The generation to be asked for after this one, for equal recordings of a run the same."""
        (had,) = self.db.execute(
            "SELECT max(generation) FROM transcripts t WHERE request_key = ?"
            " AND state IN ('written', 'missing')"
            " AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.request_key = t.request_key"
            "  AND a.generation = t.generation AND a.owner = ?)",
            (key, self.run.run_id),
        ).fetchone()
        return max(generation, had or 0) + 1  # one that was taken back is not what is meant

    @reading
    def next_due(self, *, anew: bool = True, backlog: bool = True) -> float | None:
        """
        Seconds until a recording is due, 0 or less for now, None when none ever will be.

        Without `anew` only those count that this run has taken before, without `backlog` none of
        that.
        """
        soonest = None
        for turn in _turns(anew, backlog):
            query = f"{_DUE} AND {turn} AND {_IS_WANTED} LIMIT 1"
            if self.ro.execute(query, self._due()).fetchone():
                return 0.0
            query = f"SELECT min(max(due_at, t_due_at)) FROM ({_DUE} AND {turn} AND {_IS_WANTED})"
            (due_at,) = self.ro.execute(query, self._due() | {"now": float("inf")}).fetchone()
            if due_at is not None:
                soonest = min(due_at, soonest or due_at)
        return None if soonest is None else soonest - self.now()

    @reading
    def unfinished(self) -> bool:
        """Whether any recording is claimed, or transcript open, submitted or completed, here."""
        (is_any,) = self.ro.execute(
            "SELECT EXISTS (SELECT 1 FROM recordings WHERE claim = ?) OR EXISTS ("
            "SELECT 1 FROM transcripts t CROSS JOIN attempts a USING (request_key, generation) "
            "WHERE t.state IN ('open', 'submitted', 'completed') AND t.parked IS NULL "
            "AND a.base_url = ? AND ("
            "a.state IN ('uploaded', 'submitting', 'ambiguous') AND t.state = 'open' OR "
            "a.state = 'accepted' AND t.state <> 'open' AND a.outcome IS NOT 'error'))",
            (self.run.run_id, self.run.base_url),
        ).fetchone()
        return bool(is_any)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))


def _differs(row: sqlite3.Row, entry: Entry) -> bool:
    """Whether a recording may hold other bytes than when it was last read."""
    return not row["settled"] or (
        (row["size"], row["mtime_ns"], row["ctime_ns"], row["inode"])
        != (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
    )


def _has_result(row: sqlite3.Row, size_of: Callable[[bytes], int | None]) -> bool:
    """Whether a result of the size that was written is on disk."""
    size = row["result_size"]
    return size is not None and size_of(row["result"]) in (size, UNREADABLE)


def _lacking(
    row: sqlite3.Row, size_of: Callable[[bytes], int | None], formats: Collection[str]
) -> str | None:
    """The derived files that a result lacks, None when it lacks none."""
    return ",".join(f for f in formats if size_of(derived(row["result"], f)) is None) or None


def _turns(anew: bool, backlog: bool) -> Iterator[str]:
    """Which recordings have their turn, one after the other, as terms of a query."""
    yield f"r.turn = {Turn.TAKEN}"
    if anew:
        yield f"r.turn BETWEEN {Turn.NEW} AND {Turn.BACKLOG if backlog else Turn.FAILED_BEFORE}"
    yield f"r.turn >= {Turn.FAILED}"


_FIRST = -(2**63)
"""The place before all others."""

_MOST_PASSED_OVER = 10
"""Times that one claim looks for others, instead of those it cannot take."""

_IS_WANTED = "(r.redo OR coalesce(t.state, 'wanted') = 'wanted') AND t.parked IS NULL"

# The first line of its terms is that of the index `recordings_due`.
_DUE = f"""
SELECT r.*, coalesce(t.due_at, 0) AS t_due_at, {_IS_WANTED} AS is_wanted
FROM recordings r LEFT JOIN transcripts t USING (request_key, generation)
WHERE r.claim IS NULL AND r.reason IS NULL AND NOT r.waits AND (r.state = 'found' OR r.redo)
  AND r.run_id = :run
  AND r.due_at NOT BETWEEN :now AND :now + 120  -- further off: the clock was set back
  AND coalesce(t.due_at, 0) NOT BETWEEN :now AND :now + 120
"""
