"""
Recordings: in, what a scan sees; out, which of it there is work with, and what is due next.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from pipeline.ledger.books import Books, Found
from pipeline.ledger.store import reading, transition
from pipeline.models import (
    UNREADABLE,
    Claim,
    Entry,
    Uploaded,
    request_key,
)
from pipeline.names import derived, distinct, fold

__all__ = ["Recordings"]


class Recordings(Books):
    """Transitions of what was found, until an upload begins."""

    @transition
    def record_found(
        self,
        root: str,
        entries: Sequence[Entry],
        size_of: Callable[[bytes], int | None],
        formats: Iterable[str],
    ) -> Found:
        """
        Note what a scan sees, and say which of it there is work with.

        `size_of` gives the bytes of a file by its path relative to the output folder, None when
        it is not there; `formats` are the derived files that are wanted.
        """
        found = Found([], [])
        unchanged: list[tuple[Any, ...]] = []
        for entry in entries:
            row = self.db.execute(
                "SELECT * FROM recordings WHERE root = ? AND path = ?", (root, entry.path)
            ).fetchone()
            if row is None:
                self._insert(root, entry)
            elif self.run.redo.checksum or _differs(row, entry):
                self._reset(row, entry, size_of, formats)
            else:
                done = self._look_again(row, entry, size_of, formats)
                if done is not None:
                    unchanged.append(done)
                    continue
            if entry.skip:
                found.skipped.append((entry.path, entry.skip))
            else:
                found.work.append((entry.path, entry.size))
        self.db.executemany(
            "UPDATE recordings SET run_id = ?, kept = ?, redo = ?, lacking = ? "
            "WHERE recording_id = ?",
            unchanged,
        )
        return found

    def _insert(self, root: str, entry: Entry) -> None:
        name = entry.result
        taken = "SELECT 1 FROM recordings WHERE result_fold = ?"
        if self.db.execute(taken, (fold(name),)).fetchone():
            name = distinct(name.removesuffix(b".json"), root.encode() + b"/" + entry.path)
        self.db.execute(
            "INSERT INTO recordings (root, path, size, mtime_ns, ctime_ns, inode, settled, options,"
            " result, result_fold, state, reason, run_id) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(root, entry.path, entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode),
                *(entry.settled, entry.options, name, fold(name)),
                *("skipped" if entry.skip else "found", entry.skip, self.run.run_id),
            ),
        )

    def _reset(
        self,
        row: sqlite3.Row,
        entry: Entry,
        size_of: Callable[[bytes], int | None],
        formats: Iterable[str],
    ) -> None:
        """The bytes may be others: what it was attached to is no longer its own."""
        has_result = _has_result(row, size_of)
        self.db.execute(
            "UPDATE recordings SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, settled = ?,"
            " options = ?, content = NULL, request_key = NULL, generation = 1, state = ?,"
            " reason = ?, result_size = ?, lacking = ?, kept = 0, redo = 0, tries = 0, due_at = 0,"
            " run_id = ? WHERE recording_id = ?",
            (
                *(entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode, entry.settled),
                *(entry.options, "skipped" if entry.skip else "found", entry.skip),
                row["result_size"] if has_result else None,
                _lacking(row, size_of, formats) if has_result else None,
                *(self.run.run_id, row["recording_id"]),
            ),
        )

    def _look_again(
        self,
        row: sqlite3.Row,
        entry: Entry,
        size_of: Callable[[bytes], int | None],
        formats: Iterable[str],
    ) -> tuple[Any, ...] | None:
        """The new marks of an unchanged recording whose result is there, None if there is work."""
        recording_id, content, redo = row["recording_id"], row["content"], self.run.redo
        key = content and request_key(content, entry.options, self.run.provider_kind)
        if row["state"] == "written":
            if _has_result(row, size_of):
                lacking = _lacking(row, size_of, formats)
                changed = key != row["result_key"]
                again = entry.skip is None and (redo.force or (redo.changed and changed))
                if again:
                    self.db.execute(
                        "UPDATE recordings SET options = ? WHERE recording_id = ?",
                        (entry.options, recording_id),
                    )
                marks = (changed, again, lacking, recording_id)
                done = (self.run.run_id, *marks)
                if not again:
                    return done
                self.db.execute(
                    "UPDATE recordings SET run_id = ?, kept = ?, redo = ?, lacking = ?, tries = 0,"
                    " due_at = 0, reason = NULL WHERE recording_id = ?",
                    done,
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
        self.db.execute(
            "UPDATE recordings SET run_id = ?, options = ?, request_key = ?, generation = ?,"
            " state = ?, reason = ?, kept = 0, redo = 0, tries = 0, due_at = 0 "
            "WHERE recording_id = ?",
            (
                *(self.run.run_id, entry.options, key, generation),
                *("skipped" if entry.skip else "found", entry.skip, recording_id),
            ),
        )
        if key and not entry.skip:
            self._wait_for(key, generation, content, entry.options)
        return None

    @transition
    def claim(self, limit: int, *, anew: bool = True) -> list[Claim]:
        """
        Take the next recordings to be uploaded, in the order of their paths; at most `limit`.

        Each has an attempt of its own, `uploading`, or brings an upload that is still good.
        Without `anew` only those are taken that this run has taken before.
        """
        due = self._due(anew) | {"limit": limit}
        for tried in ("r.tries = 0", "r.tries > 0"):  # a second pass begins when the first is over
            query = f"{_DUE} AND {tried} ORDER BY r.root, r.path LIMIT :limit"
            rows = self.db.execute(query, due).fetchall()
            if rows:
                break
        claims = [self._claim(row) for row in rows]
        return [claim for claim in claims if claim is not None]

    def _due(self, anew: bool) -> dict[str, Any]:
        return {"run": self.run.run_id, "now": self.now(), "anew": anew}

    def _claim(self, row: sqlite3.Row) -> Claim | None:
        recording_id, content, key = row["recording_id"], row["content"], row["request_key"]
        generation, waiting = row["generation"], None
        if row["redo"]:
            # From here on the new result is asked for, whatever the next run's flags are.
            key = request_key(content, row["options"], self.run.provider_kind)
            is_same = key == row["result_key"]
            generation = row["result_generation"] + 1 if is_same else 1
            self.db.execute(
                "UPDATE recordings SET state = 'found', redo = 0, kept = 0, request_key = ?,"
                " generation = ? WHERE recording_id = ?",
                (key, generation, recording_id),
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
            "UPDATE recordings SET claim = ? WHERE recording_id = ?",
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
            uploaded=None
            if waiting is None
            else Uploaded(
                attempt_id,
                recording_id,
                waiting["upload_url"],
                row["root"],
                row["path"],
                options,
            ),
        )

    @reading
    def next_due(self, *, anew: bool = True) -> float | None:
        """
        Seconds until a recording is due, 0 or less for now, None when none ever will be.

        Without `anew` only those count that this run has taken before.
        """
        query = f"SELECT min(max(due_at, t_due_at)) FROM ({_DUE})"
        soon = self.ro.execute(query, self._due(anew) | {"now": float("inf")}).fetchone()[0]
        return None if soon is None else soon - self.now()

    @reading
    def unfinished(self) -> int:
        """How many recordings are claimed and transcripts open, submitted or completed, here."""
        (claimed,) = self.ro.execute(
            "SELECT count(*) FROM recordings WHERE claim = ?", (self.run.run_id,)
        ).fetchone()
        (waiting,) = self.ro.execute(
            "SELECT count(*) FROM attempts a JOIN transcripts t USING (request_key, generation) "
            "WHERE t.parked IS NULL AND a.base_url = ? AND ("
            "a.state IN ('uploaded', 'submitting', 'ambiguous') AND t.state = 'open' OR "
            "a.state = 'accepted' AND t.state IN ('submitted', 'completed') "
            "AND a.outcome IS NOT 'error')",
            (self.run.base_url,),
        ).fetchone()
        return int(claimed) + int(waiting)


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
    row: sqlite3.Row, size_of: Callable[[bytes], int | None], formats: Iterable[str]
) -> str | None:
    """The derived files that a result lacks, None when it lacks none."""
    return ",".join(f for f in formats if size_of(derived(row["result"], f)) is None) or None


_DUE = """
SELECT r.*, coalesce(t.due_at, 0) AS t_due_at
FROM recordings r LEFT JOIN transcripts t USING (request_key, generation)
WHERE r.run_id = :run AND r.claim IS NULL AND r.reason IS NULL
  AND r.due_at NOT BETWEEN :now AND :now + 120  -- further off: the clock was set back
  AND coalesce(t.due_at, 0) NOT BETWEEN :now AND :now + 120
  AND (r.state = 'found' OR r.redo) AND (r.redo OR coalesce(t.state, 'wanted') = 'wanted')
  AND t.parked IS NULL
  AND (:anew OR r.recording_id IN (SELECT recording_id FROM attempts WHERE owner = :run))
"""
