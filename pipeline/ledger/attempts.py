"""
Attempts: in, what became of uploads and submits; out, leave to go on, given to one of each kind.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from pipeline.addresses import address_path
from pipeline.errors import ServiceUnavailable, SettingsError
from pipeline.ledger.books import INTERRUPTED, Books, Reading
from pipeline.ledger.store import reading, transition
from pipeline.ledger.uploads import knows_id, named_by, names_another
from pipeline.models import (
    Claim,
    Turn,
    Unresolved,
    Uploaded,
    request_key,
)

__all__ = ["Attempts"]

_NOT_LISTED = "not listed by the service"


class Attempts(Books):
    """Transitions of an attempt, from its upload until the service has accepted it or not."""

    @reading
    def seen_before(self, size: int, edges: str) -> bool:
        """Whether a recording of this size with these first and last 64 KiB was read before."""
        query = "SELECT 1 FROM recordings WHERE size = ? AND edges = ?"
        return self.ro.execute(query, (size, edges)).fetchone() is not None

    @reading
    def likeness(self, claim: Claim, size: int, edges: str) -> tuple[bool, bool]:
        """Whether one like a claimed recording was read before, and `record_edges` noted one."""
        row = self.ro.execute(
            "SELECT max(NOT is_noted), max(is_noted AND r.options = r.own) FROM ("
            " SELECT r.options, own.options AS own, r.content IS NULL AND r.claim IS :run"
            "  AND r.recording_id <> own.recording_id AS is_noted FROM recordings r, recordings own"
            " WHERE r.size = :size AND r.edges = :edges AND own.recording_id = :id) r",
            {"run": self.run.run_id, "size": size, "edges": edges, "id": claim.recording_id},
        ).fetchone()
        return bool(row[0]), bool(row[1])

    @transition
    def record_edges(self, claim: Claim, size: int, edges: str) -> None:
        """Note the first and last 64 KiB of a recording of which nothing else is read."""
        self.db.execute(
            "UPDATE recordings SET size = ?, edges = ? WHERE recording_id = ?",
            (size, edges, claim.recording_id),
        )

    @transition
    def recognise(self, claim: Claim, read: Reading) -> bool:
        """Note what a recording holds; whether it has to be uploaded, or is under way or done."""
        redo = self.run.redo
        row = self.db.execute(
            "SELECT r.* FROM recordings r JOIN transcripts t"
            " ON t.request_key = r.result_key AND t.generation = r.result_generation"
            " WHERE r.recording_id = ? AND t.content = ? AND r.result_size IS NOT NULL",
            (claim.recording_id, read.content),
        ).fetchone()
        if row is not None:
            # Only its times are new. They are no consent to pay for what else is new.
            key = request_key(read.content, row["options"], self.run.provider_kind)
            changed = self._is_other(self.db, key, row["result_key"], row["result_generation"])
            self._drop(claim.attempt_id, "it was transcribed before")
            self._note(claim, read, row["result_key"], row["result_generation"])
            self.db.execute(
                "UPDATE recordings SET state = 'written', kept = ?, redo = ? "
                "WHERE recording_id = ?",
                (changed, redo.force or (redo.changed and changed), claim.recording_id),
            )
            self._lies_here(row["result_key"], row["result_generation"])
            return False
        key, generation, state = self._attach(claim, read)
        if state == "wanted" and self._waiting_upload(key, generation) is None:
            self._set_transcript(key, generation, "open")
            return True
        self._drop(claim.attempt_id, "the same content is uploaded, under way or done")
        return False

    @transition
    def record_uploaded(
        self,
        claim: Claim,
        read: Reading,
        upload_url: str,
        expected_s: float | None = None,
        expected_usd: float | None = None,
    ) -> Uploaded | None:
        """
        Note an upload, and what it comes to at the most; None when nobody needs it any more.

        Raises:
            ServiceUnavailable: the service has handed out this `upload_url` before.
        """
        try:
            key, generation, state = self._attach(claim, read, upload_url)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CONSTRAINT_UNIQUE:
                raise
            raise ServiceUnavailable("the service gave the same upload_url twice") from error
        if state not in ("wanted", "open"):
            self._drop(claim.attempt_id, "the same content is under way or done")
            return None
        self._set_transcript(key, generation, "open")
        self._expect(claim.attempt_id, expected_s, expected_usd)
        return Uploaded(
            claim.attempt_id,
            claim.recording_id,
            upload_url,
            claim.root,
            claim.path,
            claim.options,
            expected_s,
            read.content,
            claim.turn,
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
    def fail_upload(
        self,
        claim: Claim,
        reason: str,
        again_in_s: float | None,
        tries: int,
        read: Reading | None = None,
    ) -> bool:
        """
        Note that a recording could not be uploaded; whether this run tries it again.

        `again_in_s` is None when trying again cannot help; `tries` is how often a run tries. With
        `read`, what was read of it, the failure says nothing of the recording: it does not count.
        """
        if read is not None:
            self._attach(claim, read)
        self._drop(claim.attempt_id, reason)
        if read is not None:
            self._take_back(claim.attempt_id)
        (tried,) = self.db.execute(
            "UPDATE recordings SET tries = tries + 1, turn = tries + 4 WHERE recording_id = ?"
            " RETURNING tries",
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

    @reading
    def knows_id(self, transcript_id: str) -> bool:
        """Whether a transcript is one of ours, as far as is known here."""
        return knows_id(self.ro, transcript_id)

    @transition
    def park_claim(self, claim: Claim, read: Reading | None, reason: str) -> None:
        """Leave a recording to the next run, with what was read of it if it was not known."""
        if read is not None:
            self._attach(claim, read)
        self._drop(claim.attempt_id, INTERRUPTED)
        self.db.execute(
            "UPDATE transcripts SET parked = ? WHERE state = 'wanted' AND (request_key, generation)"
            " = (SELECT request_key, generation FROM attempts WHERE attempt_id = ?)",
            (reason, claim.attempt_id),
        )

    @transition
    def put_back(self, claim: Claim) -> None:
        """Give up a claim as if it had never been made."""
        self._drop(claim.attempt_id, INTERRUPTED)
        if claim.turn == Turn.BACKLOG:  # not taken: what is left of it waits for other nights
            self.db.execute(
                "UPDATE recordings SET turn = ? WHERE recording_id = ?",
                (claim.turn, claim.recording_id),
            )

    @transition
    def expect(self, attempt_id: int, duration_s: float, price_usd: float | None) -> None:
        """Note what an attempt comes to at the most: prices may be others than at its upload."""
        self._expect(attempt_id, duration_s, price_usd)

    def _expect(self, attempt_id: int, duration_s: float | None, price_usd: float | None) -> None:
        self.db.execute(
            "UPDATE attempts SET expected_s = ?, expected_usd = ? WHERE attempt_id = ?",
            (duration_s, price_usd, attempt_id),
        )

    def _attach(
        self, claim: Claim, read: Reading, upload_url: str | None = None
    ) -> tuple[str, int, str]:
        """Tie a recording and its attempt, with its upload, to what is wanted for its content."""
        row = self.db.execute(
            "SELECT r.options, r.request_key, r.generation,"
            " a.request_key AS former_key, a.generation AS former_generation"
            " FROM recordings r, attempts a WHERE r.recording_id = ? AND a.attempt_id = ?",
            (claim.recording_id, claim.attempt_id),
        ).fetchone()
        key = request_key(read.content, row["options"], self.run.provider_kind)
        generation = row["generation"] if key == row["request_key"] else self._latest(key)
        self._note(claim, read, key, generation)
        self.db.execute(
            "UPDATE attempts SET content = :content, request_key = :key, generation = :generation,"
            " state = iif(:url IS NULL, state, 'uploaded'), upload_url = :url,"
            " upload_path = :path,"
            " uploaded_at = iif(:url IS NULL, NULL, :now) WHERE attempt_id = :id",
            {
                "content": read.content,
                "key": key,
                "generation": generation,
                "url": upload_url,
                "path": upload_url and address_path(upload_url),
                "now": self.now(),
                "id": claim.attempt_id,
            },
        )
        if row["former_key"] not in (None, key):  # it holds other bytes than it was claimed for
            self._want_again(row["former_key"], row["former_generation"])
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

    @transition
    def claim_submit(self, attempt_id: int, anchor: str | None) -> bool:
        """
        Enter `submitting`; False when another attempt at the same content is alive.

        Durable before the request leaves, so that a crash can never forget that it may have left;
        so is the first line of the journal of this run.
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
            return False
        self._note_begun()
        return True

    @transition
    def record_accepted(self, attempt_id: int, transcript_id: str, echo: str | None = None) -> bool:
        """
        Note the id of a transcript; False when it is, or may be, that of another attempt.

        `echo` is what the service calls the upload, where it does not spell it as it gave it.
        """
        if echo is not None and names_another(self.db, attempt_id, echo):
            return False
        return self._accept(attempt_id, transcript_id)

    def _accept(self, attempt_id: int, transcript_id: str, claimed_id: str | None = None) -> bool:
        try:
            row = self.db.execute(
                "UPDATE attempts SET state = 'accepted', transcript_id = ?, accepted_at = ?,"
                " reason = NULL, claimed_id = ?"
                " WHERE attempt_id = ? AND state IN ('submitting', 'ambiguous') RETURNING *",
                (transcript_id, self.now(), claimed_id, attempt_id),
            ).fetchone()
        except sqlite3.IntegrityError:
            return False
        if row is None:
            return False
        self._set_transcript(row["request_key"], row["generation"], "submitted")
        self._note_line(self._journal_line(row))
        return True

    @transition
    def accept_claimed(self, transcript_id: str, content: str) -> bool:
        """
        Note that an id that came with doubt is of this content; False where none such is in doubt.

        Raises:
            SettingsError: it came for other bytes, or is known to be another's.
        """
        rows = self._in_doubt(transcript_id)
        for row in rows:
            if row["content"] == content:
                if self._accept(row["attempt_id"], transcript_id, transcript_id):
                    return True
                raise SettingsError(
                    f"`{transcript_id}` is the transcript of another recording here:"
                    " it can only be disclaimed"
                )
        if rows:
            raise SettingsError(f"`{transcript_id}` came as the answer for other bytes than these")
        return False

    @transition
    def disclaim_claimed(self, transcript_id: str) -> int:
        """Note that an id that came with doubt is another's: what it came for is wanted again."""
        rows = self._in_doubt(transcript_id)
        for row in rows:
            self.db.execute(
                "UPDATE attempts SET state = 'not_accepted', reason = 'disclaimed'"
                " WHERE attempt_id = ?",
                (row["attempt_id"],),
            )
            self._want_again(row["request_key"], row["generation"])
        return len(rows)

    def _in_doubt(self, claimed_id: str) -> list[sqlite3.Row]:
        query = "SELECT * FROM attempts WHERE state = 'ambiguous' AND claimed_id = ?"
        return self.db.execute(query, (claimed_id,)).fetchall()

    def _journal_line(self, row: sqlite3.Row, claimed_id: str | None = None) -> bytes:
        """The line of an attempt that was given an id; its recording is let go of."""
        where = self.db.execute(
            "UPDATE recordings SET claim = NULL WHERE recording_id = ? RETURNING root, path,"
            " options, result, (SELECT folder FROM roots WHERE name = recordings.root) AS folder",
            (row["recording_id"],),
        ).fetchone()
        facts = {
            "transcript_id": claimed_id or row["transcript_id"],
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
            "accepted_at": row["accepted_at"] or self.now(),
            "folder_hex": (where["folder"] or b"").hex(),
            "result_hex": where["result"].hex(),
            "expected_s": row["expected_s"],
            "expected_usd": row["expected_usd"],
        }
        if claimed_id is not None:
            facts["claimed"] = True
        return msgspec.json.encode(facts)

    @transition
    def record_refused(self, attempt_id: int, reason: str) -> None:
        """Note that the service said no to this recording for good: nothing was paid."""
        row = self._leave_submitting(attempt_id, "refused", reason)
        if row is not None:
            self._release(row["recording_id"])
            self._fail(row["request_key"], row["generation"], reason)

    @transition
    def upload_anew(self, attempt_id: int, reason: str, again_in_s: float = 0.0) -> None:
        """Note that an upload is of no use, by no fault of the recording: it is wanted anew."""
        row = self._leave_submitting(attempt_id, "refused", reason)
        if row is not None:
            self._release(row["recording_id"])
            self._want_again(row["request_key"], row["generation"])
            self._take_back(attempt_id)
            self.db.execute(
                "UPDATE transcripts SET due_at = ? WHERE request_key = ? AND generation = ?",
                (self.now() + again_in_s, row["request_key"], row["generation"]),
            )

    @transition
    def take_back(self, attempt_ids: Sequence[int], reason: str | None = None) -> None:
        """
        Note that what these attempts came to says nothing of their recordings.

        What was failed for it is wanted again, behind what did not fail. With a `reason` this run
        leaves the recordings to the next one for that.
        """
        for attempt_id in attempt_ids:
            if self._take_back(attempt_id):
                self.db.execute(
                    "UPDATE recordings SET reason = ? WHERE recording_id = (SELECT recording_id"
                    " FROM attempts WHERE attempt_id = ?) OR (request_key, generation) = "
                    "(SELECT request_key, generation FROM attempts WHERE attempt_id = ?)",
                    (reason, attempt_id, attempt_id),
                )

    def _take_back(self, attempt_id: int) -> bool:
        row = self.db.execute(
            "UPDATE attempts SET counted = 0 WHERE attempt_id = ?"
            " AND state IN ('refused', 'not_accepted', 'ambiguous') "
            "RETURNING request_key, generation, reason",
            (attempt_id,),
        ).fetchone()
        if row is not None:
            self.db.execute(
                "UPDATE transcripts SET state = 'wanted', reason = coalesce(reason, ?)"
                " WHERE request_key = ? AND generation = ? AND state IN ('failed', 'wanted')",
                (row["reason"], row["request_key"], row["generation"]),
            )
        return row is not None

    @transition
    def leave_refused(self, attempt_id: int, reason: str) -> None:
        """Leave a recording whose options are refused to the next run; nothing is asked for."""
        self._drop(attempt_id, reason)
        self._take_back(attempt_id)
        self.db.execute(
            "UPDATE recordings SET reason = ? WHERE recording_id = "
            "(SELECT recording_id FROM attempts WHERE attempt_id = ?)",
            (reason, attempt_id),
        )

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
    def record_ambiguous(self, attempt_id: int, reason: str, claimed_id: str | None = None) -> None:
        """
        Note that the answer was lost; holds nothing but the right to be the only attempt.

        `claimed_id` is an id that came with it and may be another's: nothing but a row of the list,
        or the user, says then what became of the attempt.
        """
        row = self._leave_submitting(attempt_id, "ambiguous", reason)
        if row is None:
            return
        self._release(row["recording_id"])
        if claimed_id is not None:
            self.db.execute(
                "UPDATE attempts SET claimed_id = ? WHERE attempt_id = ?", (claimed_id, attempt_id)
            )
            # A ledger that is made anew has to know, too, that nothing may be asked for again.
            self._note_line(self._journal_line(row, claimed_id))

    def _leave_submitting(
        self, attempt_id: int, state: str, reason: str | None
    ) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.db.execute(
            "UPDATE attempts SET state = ?, reason = ? "
            "WHERE attempt_id = ? AND state = 'submitting' RETURNING *",
            (state, reason, attempt_id),
        ).fetchone()
        return row

    @reading
    def unresolved(self) -> list[Unresolved]:
        """The ambiguous attempts at this address that are not parked, oldest first."""
        rows = self.ro.execute(
            "SELECT a.attempt_id, a.upload_url, a.anchor, a.key_fingerprint,"
            " a.key_fingerprint IN (SELECT value FROM json_each(?)), a.claimed_id, r.root, r.path"
            " FROM attempts a JOIN transcripts t USING (request_key, generation)"
            " JOIN recordings r USING (recording_id) "
            "WHERE a.state = 'ambiguous' AND a.base_url = ? AND t.parked IS NULL "
            "ORDER BY a.attempt_id",
            (self.own_keys, self.run.base_url),
        )
        return [Unresolved(*row) for row in rows]

    @reading
    def newest_id(self) -> str | None:
        """The last transcript that our keys asked for at this address, None without any."""
        row = self.ro.execute(
            "SELECT transcript_id FROM attempts WHERE transcript_id IS NOT NULL AND base_url = ?"
            " AND key_fingerprint IN (SELECT value FROM json_each(?))"
            " ORDER BY attempt_id DESC LIMIT 1",
            (self.run.base_url, self.own_keys),
        ).fetchone()
        return row[0] if row else None

    @reading
    def named_by(self, audio_url: str, transcript_id: str = "") -> list[int]:
        """
        The attempts whose upload an address may be that of: one where it is certain.

        None where it is not, and some attempt has that transcript.
        """
        named = named_by(self.ro, audio_url)
        query = "SELECT 1 FROM attempts WHERE transcript_id = ?"
        is_known = len(named) > 1 and self.ro.execute(query, (transcript_id,)).fetchone()
        return [] if is_known else named

    @reading
    def is_of_another(self, attempt_id: int, audio_url: str) -> bool:
        """Whether an answer speaks of another upload, and the user has not said that it is ours."""
        (is_said,) = self.ro.execute(
            "SELECT coalesce(claimed_id = transcript_id, 0) FROM attempts WHERE attempt_id = ?",
            (attempt_id,),
        ).fetchone()
        return not is_said and names_another(self.ro, attempt_id, audio_url)

    @transition
    def record_not_accepted(self, attempt_id: int, tries: int | None) -> None:
        """
        Note that a lost answer never became a transcript: what it was for is wanted again.

        After so many `tries` of this run it is left to the next one; with None it is no try, since
        all that is asked for is lost.
        """
        reason = _NOT_LISTED if tries else f"{_NOT_LISTED}, as no other"
        row = self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = ?,"
            " counted = 0 WHERE attempt_id = ? AND state = 'ambiguous' AND claimed_id IS NULL"
            " RETURNING *",
            (reason, attempt_id),
        ).fetchone()
        if row is None:
            return
        key, generation = row["request_key"], row["generation"]
        self._want_again(key, generation)
        if tries is None:
            return
        (tried,) = self.db.execute(
            "SELECT count(*) FROM attempts WHERE request_key = ? AND generation = ? AND owner = ? "
            "AND reason = ?",
            (key, generation, self.run.run_id, _NOT_LISTED),
        ).fetchone()
        if tried >= tries:
            self._park(attempt_id, "the service's answers were lost again and again")

    @transition
    def park(self, attempt_ids: Sequence[int], reason: str) -> None:
        """Leave the transcripts of these attempts to the next run."""
        for attempt_id in attempt_ids:
            self._park(attempt_id, reason)
