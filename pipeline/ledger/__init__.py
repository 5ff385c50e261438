"""
Durable state: what was found, what is wanted once, what was tried, and what came of it.

In: what stages saw. Out: what is to be done next, and what a run came to. The ledger is the queue
between the stages: a stage goes on only when its transition is on disk, and whatever has to be
done again is a row that is due again. States are drawn in docs/design.md.

Every method here is one transition (durable when awaited) or one reading. Each transition keeps
the promise that counts most by itself: of all attempts at one request key and generation, the
unique index `attempts_alive` lets one live.
"""

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import ServiceUnavailable
from pipeline.ledger.accounts import STANDING
from pipeline.ledger.store import Store, read_only, reading, transition
from pipeline.models import (
    Claim,
    Delivery,
    Entry,
    Pending,
    Recipient,
    Unresolved,
    Uploaded,
    request_key,
)
from pipeline.names import derived, distinct, fold

__all__ = ["UPLOAD_LIFETIME_S", "Found", "Ledger", "Reading", "Redo", "Run", "read_only"]

UPLOAD_LIFETIME_S = 20 * 3600
"""How long an `upload_url` is used, seconds.

Source: https://www.assemblyai.com/docs, FAQ: an upload that is not transcribed is deleted after
24 h; the rest is margin for a queue and for clocks.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Who works on the ledger, and against which service."""

    run_id: str
    provider_kind: str
    """`assemblyai`, `local` or `custom`: part of the request key."""
    base_url: str
    """Which service the attempts of this run are known to."""
    key_fingerprint: str


@dataclass(frozen=True, slots=True)
class Redo:
    """Which finished recordings are looked at again."""

    force: bool = False
    """All of them: a new generation."""
    changed: bool = False
    """Those written with other options or by another provider."""
    failed: bool = False
    """Those that failed for good."""
    checksum: bool = False
    """None is taken for unchanged by its size and times."""


@dataclass(slots=True)
class Found:
    """What a part of a scan came to."""

    work: list[tuple[bytes, int]]
    """Path and size of recordings that this run has work with."""
    skipped: list[tuple[bytes, str]]
    """Path and reason."""


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


class Ledger(Store):
    """
    The ledger of one state folder, for one run at a time.

    `journal` is where accepted attempts are also appended, a line each, before anybody hears of
    them: a lost ledger can be rebuilt from it.
    """

    def __init__(
        self, path: Path, run: Run, *, journal: Path, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(path)
        self.run = run
        self.now = clock
        self._journal = journal
        self._lines: list[bytes] = []

    def committed(self) -> None:
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        with open(self._journal, "ab") as journal:
            journal.write(b"".join(lines))
            journal.flush()
            os.fsync(journal.fileno())

    # --- the start of a run -------------------------------------------------------------------

    @transition
    def recover(self) -> None:
        """Turn what an earlier run left in the middle into what this run can go on with."""
        now = self.now()
        self.db.execute("UPDATE recordings SET claim = NULL WHERE claim IS NOT NULL")
        self.db.execute("UPDATE recordings SET redo = 0 WHERE redo")
        self.db.execute("UPDATE transcripts SET parked = NULL WHERE parked IS NOT NULL")
        self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = 'the run ended' "
            "WHERE state = 'uploading'"
        )
        # The request may have left before the process died.
        self.db.execute(
            "UPDATE attempts SET state = 'ambiguous', reason = 'the run ended while asking' "
            "WHERE state = 'submitting'"
        )
        # Uploads are free, and belong to one project at one address for less than a day.
        self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = 'the upload is too old' "
            "WHERE state = 'uploaded' "
            "AND (uploaded_at < ? OR base_url <> ? OR key_fingerprint <> ?)",
            (now - UPLOAD_LIFETIME_S, self.run.base_url, self.run.key_fingerprint),
        )
        self.db.execute(
            "UPDATE transcripts SET state = 'wanted' WHERE state = 'open' AND NOT EXISTS ("
            "SELECT 1 FROM attempts a WHERE a.request_key = transcripts.request_key "
            "AND a.generation = transcripts.generation AND a.state = 'ambiguous')"
        )

    @reading
    def foreign_ids(self) -> list[str]:
        """One id of an open transcript for each other key that this address was used with."""
        rows = self.ro.execute(
            "SELECT max(a.transcript_id) FROM attempts a JOIN transcripts t "
            "USING (request_key, generation) WHERE a.state = 'accepted' AND a.base_url = ? "
            "AND a.key_fingerprint <> ? AND t.state IN ('submitted', 'completed') "
            "GROUP BY a.key_fingerprint",
            (self.run.base_url, self.run.key_fingerprint),
        )
        return [row[0] for row in rows]

    # --- scan ---------------------------------------------------------------------------------

    @transition
    def record_found(
        self,
        root: str,
        entries: Sequence[Entry],
        size_of: Callable[[bytes], int | None],
        formats: Iterable[str],
        redo: Redo,
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
            elif redo.checksum or _differs(row, entry):
                self._reset(row, entry, size_of, formats)
            else:
                done = self._look_again(row, entry, size_of, formats, redo)
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
        redo: Redo,
    ) -> tuple[Any, ...] | None:
        """The new marks of an unchanged recording whose result is there, None if there is work."""
        recording_id, content = row["recording_id"], row["content"]
        key = content and request_key(content, entry.options, self.run.provider_kind)
        if row["state"] == "written":
            if _has_result(row, size_of):
                lacking = _lacking(row, size_of, formats)
                changed = key != row["result_key"]
                again = redo.force or (redo.changed and changed)
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
        else:
            same = key == row["request_key"] and not redo.force
            generation = row["generation"] if same else self._latest(key, redo.force)
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
            self._wait_for(key, generation, content, entry.options, redo)
        return None

    def _latest(self, key: str | None, force: bool) -> int:
        """The generation that a recording of this key waits for."""
        row = self.db.execute(
            "SELECT generation, state FROM transcripts WHERE request_key = ? "
            "ORDER BY generation DESC LIMIT 1",
            (key,),
        ).fetchone()
        if row is None:
            return 1
        return int(row["generation"]) + (force and row["state"] == "missing")

    def _wait_for(
        self, key: str, generation: int, content: str, options: str, redo: Redo | None = None
    ) -> str:
        """The state of the transcript that a recording now waits for, made if there is none."""
        self.db.execute(
            "INSERT INTO transcripts (request_key, generation, content, options, provider) "
            "VALUES (?,?,?,?,?) ON CONFLICT DO NOTHING",
            (key, generation, content, options, self.run.provider_kind),
        )
        at = (key, generation)
        (state,) = self.db.execute(
            "SELECT state FROM transcripts WHERE request_key = ? AND generation = ?", at
        ).fetchone()
        if state == "written":
            # Paid, and there is one more to write it to.
            self._set_transcript(key, generation, "completed")
            return "completed"
        if state == "failed" and redo is not None and (redo.failed or redo.force):
            self.db.execute(
                "UPDATE transcripts SET state = 'wanted', reason = NULL, tries = 0, due_at = 0 "
                "WHERE request_key = ? AND generation = ?",
                at,
            )
            return "wanted"
        return str(state)

    # --- feed ---------------------------------------------------------------------------------

    @transition
    def claim(self, limit: int, *, anew: bool = True) -> list[Claim]:
        """
        Take the next recordings to be uploaded, in the order of their paths; at most `limit`.

        Each has an attempt of its own, `uploading`, or brings an upload that is still good.
        Without `anew` only those are taken that this run has taken before.
        """
        due = self._due(anew) | {"limit": limit}
        rows = self.db.execute(_DUE + " ORDER BY r.root, r.path LIMIT :limit", due)
        claims = [self._claim(row) for row in rows.fetchall()]
        return [claim for claim in claims if claim is not None]

    def _due(self, anew: bool) -> dict[str, Any]:
        return {"run": self.run.run_id, "now": self.now(), "anew": anew}

    def _claim(self, row: sqlite3.Row) -> Claim | None:
        recording_id, content, key = row["recording_id"], row["content"], row["request_key"]
        generation, uploaded = row["generation"], None
        if row["redo"]:
            # From here on the new result is asked for, whatever the next run's flags are.
            key = request_key(content, row["options"], self.run.provider_kind)
            again = key == row["result_key"]
            generation = row["result_generation"] + 1 if again else 1
            self.db.execute(
                "UPDATE recordings SET state = 'found', redo = 0, kept = 0, request_key = ?,"
                " generation = ? WHERE recording_id = ?",
                (key, generation, recording_id),
            )
            redo = Redo(failed=True)
            if self._wait_for(key, generation, content, row["options"], redo) != "wanted":
                return None
        if key:
            state = self._wait_for(key, generation, content, row["options"])
            if state != "wanted":  # claimed a moment ago for an equal recording
                return None
            self._set_transcript(key, generation, "open")
            uploaded = self.db.execute(
                "SELECT attempt_id, upload_url FROM attempts "
                "WHERE request_key = ? AND generation = ? AND state = 'uploaded' LIMIT 1",
                (key, generation),
            ).fetchone()
        if uploaded is None:
            attempt_id = self.db.execute(
                "INSERT INTO attempts (recording_id, request_key, generation, content, owner,"
                " base_url, key_fingerprint, started_at) VALUES (?,?,?,?,?,?,?,?)",
                (
                    *(recording_id, key, generation, content, self.run.run_id),
                    *(self.run.base_url, self.run.key_fingerprint, self.now()),
                ),
            ).lastrowid
        else:
            attempt_id = uploaded["attempt_id"]
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
            uploaded=uploaded
            and Uploaded(
                attempt_id,
                recording_id,
                uploaded["upload_url"],
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

    # --- upload -------------------------------------------------------------------------------

    @reading
    def seen_before(self, size: int, edges: str) -> bool:
        """Whether a recording of this size with these first and last 64 KiB was read before."""
        query = "SELECT 1 FROM recordings WHERE size = ? AND edges = ?"
        return self.ro.execute(query, (size, edges)).fetchone() is not None

    @transition
    def recognise(self, claim: Claim, read: Reading, redo: Redo) -> bool:
        """Note what a recording holds; whether it has to be uploaded, or is under way or done."""
        row = self.db.execute(
            "SELECT r.* FROM recordings r JOIN transcripts t"
            " ON t.request_key = r.result_key AND t.generation = r.result_generation"
            " WHERE r.recording_id = ? AND t.content = ? AND r.result_size IS NOT NULL",
            (claim.recording_id, read.content),
        ).fetchone()
        if row is not None:
            # Only its times are new. They are no consent to pay for what else is new.
            key = request_key(read.content, row["options"], self.run.provider_kind)
            changed = key != row["result_key"]
            self._drop(claim.attempt_id, "it was transcribed before")
            self._note(claim, read, row["result_key"], row["result_generation"])
            self.db.execute(
                "UPDATE recordings SET state = 'written', kept = ?, redo = ? "
                "WHERE recording_id = ?",
                (changed, redo.force or (redo.changed and changed), claim.recording_id),
            )
            return False
        key, generation, state = self._attach(claim, read)
        if state == "wanted":
            self._set_transcript(key, generation, "open")
            return True
        self._drop(claim.attempt_id, "the same content is under way or done")
        return False

    @transition
    def record_uploaded(self, claim: Claim, read: Reading, upload_url: str) -> Uploaded | None:
        """
        Note an upload; None when nobody needs it any more.

        Raises:
            ServiceUnavailable: the service has handed out this `upload_url` before.
        """
        key, generation, state = self._attach(claim, read)
        if state not in ("wanted", "open"):
            self._drop(claim.attempt_id, "the same content is under way or done")
            return None
        try:
            self.db.execute(
                "UPDATE attempts SET state = 'uploaded', upload_url = ?, uploaded_at = ? "
                "WHERE attempt_id = ?",
                (upload_url, self.now(), claim.attempt_id),
            )
        except sqlite3.IntegrityError as error:
            raise ServiceUnavailable("the service gave the same upload_url twice") from error
        self._set_transcript(key, generation, "open")
        return Uploaded(
            claim.attempt_id,
            claim.recording_id,
            upload_url,
            claim.root,
            claim.path,
            claim.options,
        )

    @transition
    def refuse_upload(self, claim: Claim, read: Reading, reason: str) -> None:
        """Note that the service will never take these bytes."""
        key, generation, state = self._attach(claim, read)
        self._drop(claim.attempt_id, reason)
        if state in ("wanted", "open"):
            self._fail(key, generation, reason)

    @transition
    def skip(self, claim: Claim, reason: str) -> None:
        """Note that a recording is not to be sent in this run."""
        self._drop(claim.attempt_id, reason)
        self.db.execute(
            "UPDATE recordings SET state = 'skipped', reason = ?, content = NULL,"
            " request_key = NULL, generation = 1 WHERE recording_id = ?",
            (reason, claim.recording_id),
        )

    @transition
    def fail_upload(self, claim: Claim, reason: str, again_in_s: float | None, tries: int) -> bool:
        """
        Note that a recording could not be uploaded; whether this run tries it again.

        `again_in_s` is None when trying again cannot help; `tries` is how often a run tries.
        """
        self._drop(claim.attempt_id, reason)
        (tried,) = self.db.execute(
            "UPDATE recordings SET tries = tries + 1 WHERE recording_id = ? RETURNING tries",
            (claim.recording_id,),
        ).fetchone()
        if again_in_s is not None and tried < tries:
            self.db.execute(
                "UPDATE recordings SET due_at = ? WHERE recording_id = ?",
                (self.now() + again_in_s, claim.recording_id),
            )
            return True
        self.db.execute(
            "UPDATE recordings SET reason = ? WHERE recording_id = ?", (reason, claim.recording_id)
        )
        return False

    @transition
    def put_back(self, claim: Claim) -> None:
        """Give up a claim as if it had never been made."""
        self._drop(claim.attempt_id, "interrupted")

    def _attach(self, claim: Claim, read: Reading) -> tuple[str, int, str]:
        """Tie a recording and its attempt to what is wanted for its content."""
        row = self.db.execute(
            "SELECT options, request_key, generation, result_key, result_generation"
            " FROM recordings WHERE recording_id = ?",
            (claim.recording_id,),
        ).fetchone()
        key = request_key(read.content, row["options"], self.run.provider_kind)
        generation = row["generation"] if key == row["request_key"] else self._latest(key, False)
        self._note(claim, read, key, generation)
        self.db.execute(
            "UPDATE attempts SET content = ?, request_key = ?, generation = ? WHERE attempt_id = ?",
            (read.content, key, generation, claim.attempt_id),
        )
        state = self._wait_for(key, generation, read.content, row["options"])
        return key, generation, state

    def _note(self, claim: Claim, read: Reading, key: str, generation: int) -> None:
        self.db.execute(
            "UPDATE recordings SET content = ?, edges = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
            " inode = ?, settled = ?, request_key = ?, generation = ? WHERE recording_id = ?",
            (
                *(read.content, read.edges, read.size, read.mtime_ns, read.ctime_ns, read.inode),
                *(read.settled, key, generation, claim.recording_id),
            ),
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

    def _release(self, recording_id: int) -> None:
        self.db.execute(
            "UPDATE recordings SET claim = NULL WHERE recording_id = ?", (recording_id,)
        )

    def _want_again(self, key: str | None, generation: int | None) -> None:
        """An open transcript that nothing is under way for any more is wanted again."""
        self.db.execute(
            "UPDATE transcripts SET state = 'wanted' "
            "WHERE request_key = ? AND generation = ? AND state = 'open' AND NOT EXISTS ("
            "SELECT 1 FROM attempts a WHERE a.request_key = transcripts.request_key "
            "AND a.generation = transcripts.generation AND a.owner = ? AND a.state = 'uploading' "
            "OR a.request_key = transcripts.request_key AND a.generation = transcripts.generation "
            "AND a.state IN ('uploaded', 'submitting', 'ambiguous'))",
            (key, generation, self.run.run_id),
        )

    # --- submit -------------------------------------------------------------------------------

    @transition
    def claim_submit(self, attempt_id: int, anchor: str | None) -> bool:
        """
        Enter `submitting`; False when another attempt at the same content is alive.

        Durable before the request leaves, so that a crash can never forget that it may have left.
        `anchor` is the newest transcript that was listed before.
        """
        try:
            entered = self.db.execute(
                "UPDATE attempts SET state = 'submitting', anchor = ?, submitted_at = ? "
                "WHERE attempt_id = ? AND state = 'uploaded' AND EXISTS ("
                "SELECT 1 FROM transcripts t WHERE t.request_key = attempts.request_key "
                "AND t.generation = attempts.generation AND t.state = 'open')",
                (anchor, self.now(), attempt_id),
            ).rowcount
        except sqlite3.IntegrityError:
            entered = 0
        if not entered:
            self._drop(attempt_id, "an equal recording was first")
        return bool(entered)

    @transition
    def record_accepted(self, attempt_id: int, transcript_id: str) -> bool:
        """Note the id of a transcript; False when another attempt has that id already."""
        return self._accept(attempt_id, transcript_id)

    def _accept(self, attempt_id: int, transcript_id: str) -> bool:
        try:
            row = self.db.execute(
                "UPDATE attempts SET state = 'accepted', transcript_id = ?, accepted_at = ?,"
                " reason = NULL WHERE attempt_id = ? AND state IN ('submitting', 'ambiguous') "
                "RETURNING *",
                (transcript_id, self.now(), attempt_id),
            ).fetchone()
        except sqlite3.IntegrityError:
            return False
        if row is None:
            return False
        self._release(row["recording_id"])
        self._set_transcript(row["request_key"], row["generation"], "submitted")
        self._lines.append(self._journal_line(row))
        return True

    def _journal_line(self, row: sqlite3.Row) -> bytes:
        where = self.db.execute(
            "SELECT root, path, options FROM recordings WHERE recording_id = ?",
            (row["recording_id"],),
        ).fetchone()
        facts = {
            "transcript_id": row["transcript_id"],
            "upload_url": row["upload_url"],
            "request_key": row["request_key"],
            "generation": row["generation"],
            "content": row["content"],
            "options": msgspec.Raw(where["options"].encode()),
            "provider": self.run.provider_kind,
            "base_url": row["base_url"],
            "key_fingerprint": row["key_fingerprint"],
            "root": where["root"],
            "path": where["path"].decode("utf-8", "backslashreplace"),
            "path_hex": where["path"].hex(),
            "accepted_at": row["accepted_at"],
        }
        return msgspec.json.encode(facts) + b"\n"

    @transition
    def record_refused(self, attempt_id: int, reason: str) -> None:
        """Note that the service said no to this recording for good: nothing was paid."""
        row = self._leave_submitting(attempt_id, "refused", reason)
        if row is not None:
            self._release(row["recording_id"])
            self._fail(row["request_key"], row["generation"], reason)

    @transition
    def set_aside(self, attempt_id: int, again_in_s: float = 0.0) -> None:
        """
        Note that no transcript was asked for: the upload is still good, and due again.

        For an attempt that was not submitted yet, or whose request certainly came to nothing.
        """
        row = self.db.execute(
            "UPDATE attempts SET state = 'uploaded' "
            "WHERE attempt_id = ? AND state IN ('uploaded', 'submitting') RETURNING *",
            (attempt_id,),
        ).fetchone()
        if row is None:
            return
        self._release(row["recording_id"])
        self.db.execute(
            "UPDATE transcripts SET state = 'wanted', due_at = ? "
            "WHERE request_key = ? AND generation = ? AND state = 'open'",
            (self.now() + again_in_s, row["request_key"], row["generation"]),
        )

    @transition
    def record_ambiguous(self, attempt_id: int, reason: str) -> None:
        """Note that the answer was lost; holds nothing but the right to be the only attempt."""
        row = self._leave_submitting(attempt_id, "ambiguous", reason)
        if row is not None:
            self._release(row["recording_id"])

    def _leave_submitting(
        self, attempt_id: int, state: str, reason: str | None
    ) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.db.execute(
            "UPDATE attempts SET state = ?, reason = ? "
            "WHERE attempt_id = ? AND state = 'submitting' RETURNING *",
            (state, reason, attempt_id),
        ).fetchone()
        return row

    # --- reconcile ----------------------------------------------------------------------------

    @reading
    def unresolved(self) -> list[Unresolved]:
        """The ambiguous attempts at this address that are not parked, oldest first."""
        rows = self.ro.execute(
            "SELECT a.attempt_id, a.upload_url, a.anchor, a.submitted_at FROM attempts a "
            "JOIN transcripts t USING (request_key, generation) "
            "WHERE a.state = 'ambiguous' AND a.base_url = ? AND t.parked IS NULL "
            "ORDER BY a.attempt_id",
            (self.run.base_url,),
        )
        return [Unresolved(*row) for row in rows]

    @transition
    def adopt(self, attempt_id: int, transcript_id: str) -> bool:
        """Note that a lost answer was found in the list; False when it is another attempt's."""
        return self._accept(attempt_id, transcript_id)

    @transition
    def record_not_accepted(self, attempt_id: int) -> None:
        """Note that a lost answer never became a transcript: what it was for is wanted again."""
        row = self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = 'not listed by the service' "
            "WHERE attempt_id = ? AND state = 'ambiguous' RETURNING *",
            (attempt_id,),
        ).fetchone()
        if row is not None:
            self._want_again(row["request_key"], row["generation"])

    @transition
    def park(self, attempt_ids: Sequence[int], reason: str) -> None:
        """Leave the transcripts of these attempts to the next run."""
        self.db.executemany(
            "UPDATE transcripts SET parked = ? WHERE (request_key, generation) = "
            "(SELECT request_key, generation FROM attempts WHERE attempt_id = ?)",
            [(reason, attempt_id) for attempt_id in attempt_ids],
        )

    # --- poll and write -----------------------------------------------------------------------

    @reading
    def pending(self) -> list[Pending]:
        """Every transcript at this address that is accepted and not saved, oldest first."""
        rows = self.ro.execute(
            "SELECT a.attempt_id, a.transcript_id, a.upload_url, t.state = 'completed',"
            " a.accepted_at, r.result "
            "FROM transcripts t CROSS JOIN attempts a USING (request_key, generation) "
            "JOIN recordings r USING (recording_id) "
            "WHERE t.state IN ('submitted', 'completed') AND t.parked IS NULL "
            "AND a.state = 'accepted' AND a.outcome IS NOT 'error' AND a.base_url = ? "
            "ORDER BY a.attempt_id",
            (self.run.base_url,),
        )
        return [Pending(*row) for row in rows]

    @transition
    def record_completed(
        self, attempt_id: int, model_used: str | None, duration_s: float | None, price: float | None
    ) -> Delivery:
        """Note that a transcript is paid, and from here on only ever fetched; who waits for it."""
        row = self.db.execute(
            "UPDATE attempts SET outcome = 'completed', finished_at = ?, model_used = ?,"
            " duration_s = ?, price_usd = ? WHERE attempt_id = ? AND outcome IS NULL RETURNING *",
            (self.now(), model_used, duration_s, price, attempt_id),
        ).fetchone()
        if row is not None:
            self._set_transcript(row["request_key"], row["generation"], "completed")
        return _delivery(self.db, attempt_id)

    @reading
    def delivery(self, attempt_id: int) -> Delivery:
        """Who waits for a transcript, and a result of it that is already on disk, if any."""
        return _delivery(self.ro, attempt_id)

    @transition
    def record_written(
        self, attempt_id: int, recording_ids: Sequence[int], size: int, sha256: str
    ) -> bool:
        """
        Note that a result is durable at these recordings.

        False when meanwhile one more recording came to wait for it: write again.
        """
        attempt = self.db.execute(
            "SELECT request_key, generation, duration_s FROM attempts WHERE attempt_id = ?",
            (attempt_id,),
        ).fetchone()
        key, generation, duration_s = attempt
        self.db.executemany(
            "UPDATE recordings SET state = 'written', reason = NULL, kept = 0, duration_s = ?,"
            " result_size = ?, result_sha256 = ?, result_key = ?, result_generation = ?,"
            " written_run = ?, lacking = NULL WHERE recording_id = ?",
            [
                (duration_s, size, sha256, key, generation, self.run.run_id, recording_id)
                for recording_id in recording_ids
            ],
        )
        waiting = self.db.execute(
            "SELECT 1 FROM recordings WHERE request_key = ? AND generation = ? AND state = 'found'",
            (key, generation),
        ).fetchone()
        if waiting is None:
            self._set_transcript(key, generation, "written")
        return waiting is None

    @transition
    def record_error(self, attempt_id: int, reason: str, *, again: bool, tries: int) -> bool:
        """
        Note that the service failed at a transcript, which costs nothing; whether it is due again.

        `again` says that the fault was the service's own; `tries` is how often one is asked for.
        """
        row = self.db.execute(
            "UPDATE attempts SET outcome = 'error', finished_at = ?, reason = ? "
            "WHERE attempt_id = ? AND outcome IS NULL RETURNING *",
            (self.now(), reason, attempt_id),
        ).fetchone()
        if row is None:
            return False
        key, generation = row["request_key"], row["generation"]
        (tried,) = self.db.execute(
            "UPDATE transcripts SET tries = tries + 1 WHERE request_key = ? AND generation = ? "
            "RETURNING tries",
            (key, generation),
        ).fetchone()
        if again and tried < tries:
            self._set_transcript(key, generation, "wanted")
            return True
        self._fail(key, generation, reason)
        return False

    @transition
    def record_missing(self, attempt_id: int, reason: str) -> None:
        """Note that an accepted transcript is gone at the service; only `--force` asks again."""
        row = self.db.execute(
            "UPDATE attempts SET outcome = 'missing', finished_at = ?, reason = ? "
            "WHERE attempt_id = ? RETURNING *",
            (self.now(), reason, attempt_id),
        ).fetchone()
        self.db.execute(
            "UPDATE transcripts SET state = 'missing', reason = ? "
            "WHERE request_key = ? AND generation = ?",
            (reason, row["request_key"], row["generation"]),
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

    # --- render -------------------------------------------------------------------------------

    @reading
    def lacking(self, limit: int) -> list[tuple[int, bytes, list[str]]]:
        """Recordings whose result lacks derived files: id, result, formats; at most `limit`."""
        rows = self.ro.execute(
            "SELECT recording_id, result, lacking FROM recordings "
            "WHERE lacking IS NOT NULL AND run_id = ? ORDER BY recording_id LIMIT ?",
            (self.run.run_id, limit),
        )
        return [(row[0], row[1], row[2].split(",")) for row in rows]

    @transition
    def record_rendered(self, recording_ids: Sequence[int]) -> None:
        """Note that derived files are there, or cannot be made."""
        self.db.executemany(
            "UPDATE recordings SET lacking = NULL WHERE recording_id = ?",
            [(recording_id,) for recording_id in recording_ids],
        )

    # --- the budget ---------------------------------------------------------------------------

    @transition
    def record_requests(self, ages_s: Sequence[float], window_s: float) -> None:
        """Note requests by how long ago they were sent; forget those before the last window."""
        now, here = self.now(), self.run.base_url
        seconds = Counter(int(now - age_s) for age_s in ages_s)
        self.db.execute(
            "DELETE FROM requests WHERE base_url = ? AND second < ?", (here, int(now - window_s))
        )
        self.db.executemany(
            "INSERT INTO requests (base_url, second, count) VALUES (?,?,?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            [(here, second, count) for second, count in seconds.items()],
        )

    @reading
    def earlier_requests(self, window_s: float) -> list[float]:
        """How long ago each request of earlier runs in the last window was sent, at the most."""
        now = self.now()
        rows = self.ro.execute(
            "SELECT second, count FROM requests WHERE base_url = ? AND second >= ?",
            (self.run.base_url, int(now - window_s)),
        )
        # The end of the second: never taken for older than it is.
        return [max(0.0, now - second - 1) for second, count in rows for _ in range(count)]

    # --- the end of a run ---------------------------------------------------------------------

    @reading
    def standing(self) -> Counter[tuple[str, str | None]]:
        """
        How every recording that this run found ends: how many of each outcome and reason.

        Outcomes are `written`, `already_written`, `kept`, `failed`, `skipped` and `parked`; a
        parked one without a reason of its own is one that the run did not come to.
        """
        rows = self.ro.execute(
            f"SELECT outcome, why, count(*) FROM ({STANDING} WHERE r.run_id = :run) GROUP BY 1, 2",
            {"run": self.run.run_id},
        )
        return Counter({(row[0], row[1]): row[2] for row in rows})

    @reading
    def kept_hours(self) -> float:
        """Hours of audio that a redo of the kept recordings would ask for."""
        row = self.ro.execute(
            "SELECT coalesce(sum(duration_s), 0) / 3600.0 FROM recordings "
            "WHERE run_id = ? AND kept",
            (self.run.run_id,),
        ).fetchone()
        return float(row[0])

    @reading
    def collected(self) -> int:
        """How many results this run wrote for recordings that it did not find itself."""
        (count,) = self.ro.execute(
            "SELECT count(*) FROM recordings WHERE written_run = ? AND run_id <> ?",
            (self.run.run_id, self.run.run_id),
        ).fetchone()
        return int(count)

    @reading
    def elsewhere(self) -> list[tuple[str, int]]:
        """Open transcripts that only another address knows: address and how many."""
        rows = self.ro.execute(
            "SELECT a.base_url, count(*) FROM attempts a JOIN transcripts t "
            "USING (request_key, generation) WHERE a.base_url <> ? AND ("
            "a.state = 'ambiguous' OR a.state = 'accepted' AND a.outcome IS NULL) GROUP BY 1",
            (self.run.base_url,),
        )
        return [(row[0], row[1]) for row in rows]


def _delivery(db: sqlite3.Connection, attempt_id: int) -> Delivery:
    key, generation, by = db.execute(
        "SELECT request_key, generation, recording_id FROM attempts WHERE attempt_id = ?",
        (attempt_id,),
    ).fetchone()
    rows = db.execute(
        "SELECT recording_id, root, path, result, result_sha256, 1 FROM recordings "
        "WHERE request_key = ? AND generation = ? AND state = 'found' ORDER BY recording_id",
        (key, generation),
    ).fetchall()
    recipients = [Recipient(*row) for row in rows]
    written = db.execute(
        "SELECT result, result_sha256 FROM recordings "
        "WHERE result_key = ? AND result_generation = ? AND state = 'written' LIMIT 1",
        (key, generation),
    ).fetchone()
    if not recipients and written is None:
        # Whoever asked holds other bytes by now: what was paid is kept all the same.
        row = db.execute(
            "SELECT recording_id, root, path, result, result_sha256, 0 FROM recordings "
            "WHERE recording_id = ?",
            (by,),
        ).fetchone()
        recipients = [Recipient(*row)]
    return Delivery(recipients, copy=written and (written[0], written[1]))


def _differs(row: sqlite3.Row, entry: Entry) -> bool:
    """Whether a recording may hold other bytes than when it was last read."""
    return not row["settled"] or (
        (row["size"], row["mtime_ns"], row["ctime_ns"], row["inode"])
        != (entry.size, entry.mtime_ns, entry.ctime_ns, entry.inode)
    )


def _has_result(row: sqlite3.Row, size_of: Callable[[bytes], int | None]) -> bool:
    """Whether a result of the size that was written is on disk."""
    return row["result_size"] is not None and size_of(row["result"]) == row["result_size"]


def _lacking(
    row: sqlite3.Row, size_of: Callable[[bytes], int | None], formats: Iterable[str]
) -> str | None:
    """The derived files that a result lacks, None when it lacks none."""
    return ",".join(f for f in formats if size_of(derived(row["result"], f)) is None) or None


_DUE = """
SELECT r.*, coalesce(t.due_at, 0) AS t_due_at
FROM recordings r LEFT JOIN transcripts t USING (request_key, generation)
WHERE r.run_id = :run AND r.claim IS NULL AND r.reason IS NULL
  AND r.due_at <= :now AND coalesce(t.due_at, 0) <= :now
  AND (r.state = 'found' OR r.redo) AND (r.redo OR coalesce(t.state, 'wanted') = 'wanted')
  AND t.parked IS NULL
  AND (:anew OR r.recording_id IN (SELECT recording_id FROM attempts WHERE owner = :run))
"""
