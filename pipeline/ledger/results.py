"""
Results: in, what a GET of a transcript said; out, what is still pending, and who waits for it.
"""

import json
import sqlite3
from collections.abc import Collection, Sequence
from operator import itemgetter
from typing import Any

import msgspec

from pipeline.ledger.books import KEEP_RESULT, Books, other_key
from pipeline.ledger.store import reading, transition
from pipeline.models import (
    Completion,
    Copy,
    Delivery,
    Pending,
    Recipient,
    Sent,
    Stored,
)

__all__ = ["MOST_LOST", "Results"]

MOST_LOST = 100
"""How many of the ids that the service does not know any more a run asks for."""

_MISSING_AFTER_S = 3600.0
_SELDOM_S = 7 * 86_400.0
_SOUGHT_FOR_S = 90 * 86_400.0  # a list goes back no further either

_PendingRow = tuple[int, str, str, bool, float, float | None, str, float | None]
_COPIES = 32


class Results(Books):
    """Transitions of an accepted transcript, until its result is durable wherever it is wanted."""

    @reading
    def pending(self) -> list[Pending]:
        """Every transcript at this address that is accepted and not saved, oldest first."""
        # One row: SQLite lets go of the interpreter, and waits for it, at each.
        (rows,) = self.ro.execute(
            "SELECT json_group_array(json_array(a.attempt_id, a.transcript_id, a.upload_url,"
            " json(iif(t.state = 'completed', 'true', 'false')), a.accepted_at, a.finished_at,"
            " hex(r.result), a.expected_s)) "
            "FROM transcripts t CROSS JOIN attempts a USING (request_key, generation) "
            "JOIN recordings r USING (recording_id) "
            # As `transcripts_unfinished` has it, or each transcript ever made is read.
            "WHERE t.state IN ('open', 'submitted', 'completed') AND t.state <> 'open' "
            "AND t.parked IS NULL AND a.state = 'accepted' AND a.outcome IS NOT 'error' "
            "AND a.base_url = ?",
            (self.run.base_url,),
        ).fetchone()
        # By the attempt alone: what follows need not be comparable.
        oldest_first = sorted(msgspec.json.decode(rows, type=list[_PendingRow]), key=itemgetter(0))
        return [Pending(*row[:6], bytes.fromhex(row[6]), expected_s=row[7]) for row in oldest_first]

    @reading
    def lost(self, limit: int | None) -> list[Pending]:
        """
        What is missing at this address since the service did not know its id, oldest look first.

        At most `limit`, and those only that are due: after an hour, then after as long as they have
        been looked for, a week at the most, for 90 days. All if it is None.
        """
        rows = self.ro.execute(
            "SELECT a.attempt_id, a.transcript_id, a.upload_url, a.duration_s IS NOT NULL,"
            " a.accepted_at, a.finished_at, r.result, TRUE"
            " FROM attempts a JOIN recordings r USING (recording_id)"
            " WHERE a.unknown_at IS NOT NULL AND a.outcome = 'missing' AND a.base_url = :here"
            " AND a.key_fingerprint IN (SELECT value FROM json_each(:keys))"
            " AND (:limit IS NULL OR a.unknown_at - a.unknown_since < :longest"
            # Clocks are set back, too.
            "  AND abs(:now - a.unknown_at)"
            "   >= min(:seldom, max(:soon, a.unknown_at - a.unknown_since)))"
            " ORDER BY a.unknown_at LIMIT coalesce(:limit, -1)",
            {
                "here": self.run.base_url,
                "keys": self.own_keys,
                "limit": limit,
                "now": self.now(),
                "soon": _MISSING_AFTER_S,
                "seldom": _SELDOM_S,
                "longest": _SOUGHT_FOR_S,
            },
        )
        return [Pending(*row) for row in rows]

    @transition
    def record_completed(self, attempt_id: int, completion: Completion) -> Delivery:
        """Note that a transcript is paid, and from here on only ever fetched; who waits for it."""
        if row := self._complete(attempt_id, completion):
            self._set_transcript(row["request_key"], row["generation"], "completed")
        return _delivery(self.db, attempt_id)

    def _complete(self, attempt_id: int, completion: Completion) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.db.execute(
            "UPDATE attempts SET outcome = 'completed', finished_at = ?, model_used = ?,"
            " duration_s = ?, price_usd = ?, confidence = ?, language_code = ?, odd = ?"
            " WHERE attempt_id = ? AND outcome IS NULL "
            "RETURNING request_key, generation, duration_s",
            (
                *(self.now(), completion.model_used, completion.duration_s),
                *(completion.price_usd, completion.confidence, completion.language_code),
                *(completion.odd, attempt_id),
            ),
        ).fetchone()
        return row

    @reading
    def asked_for(self, attempt_id: int) -> dict[str, Any]:
        """The options that a transcript was asked for with, as the user set them."""
        (options,) = self.ro.execute(
            "SELECT t.options FROM attempts a JOIN transcripts t USING (request_key, generation)"
            " WHERE a.attempt_id = ?",
            (attempt_id,),
        ).fetchone()
        return msgspec.json.decode(options, type=dict[str, Any])

    @reading
    def sent(self, attempt_id: int) -> Sent | None:
        """What was sent, None if its recording holds other bytes by now."""
        row = self.ro.execute(
            "SELECT t.options, r.root, r.path, r.size, r.mtime_ns, r.ctime_ns, r.inode"
            " FROM attempts a JOIN transcripts t USING (request_key, generation)"
            " JOIN recordings r ON r.recording_id = a.recording_id AND r.content = a.content"
            " WHERE a.attempt_id = ?",
            (attempt_id,),
        ).fetchone()
        if row is None:
            return None
        return Sent(msgspec.json.decode(row[0], type=dict[str, Any]), *row[1:])

    @reading
    def delivery(self, attempt_id: int) -> Delivery:
        """Who waits for a transcript, and where results of it lie already."""
        return _delivery(self.ro, attempt_id)

    @transition
    def record_written(
        self,
        attempt_id: int,
        recording_ids: Sequence[int],
        size: int,
        sha256: str,
        completion: Completion | None = None,
        *,
        kept_for: Sequence[int] = (),
        is_all: bool = True,
    ) -> None:
        """
        Note that a result is durable at these recordings, and that it is paid if it was not known.

        For the recordings in `kept_for`, which do not wait for it, it lies among the versions.
        Unless meanwhile one more recording came to wait for it, the transcript is done with, and
        the service's copy may be deleted if `is_all` that was asked for, and nothing is odd about
        what was saved: the copy may be the better one.
        """
        attempt = None if completion is None else self._complete(attempt_id, completion)
        if completion is not None and completion.odd is not None:  # if only since it is known
            self.db.execute(
                "UPDATE attempts SET odd = ? WHERE attempt_id = ?", (completion.odd, attempt_id)
            )
        if attempt is None:
            attempt = self.db.execute(
                "SELECT request_key, generation, duration_s FROM attempts WHERE attempt_id = ?",
                (attempt_id,),
            ).fetchone()
        key, generation, duration_s = attempt
        for recording_id in kept_for:
            self._keep_aside(recording_id, key, generation, size, sha256, duration_s)
        to_write = [(each, key, generation, key, generation) for each in recording_ids]
        self.db.executemany(
            f"{KEEP_RESULT} AND {_TAKES} AND result_size IS NOT NULL AND result_sha256 <> ?",
            [(self.run.run_id, self.now(), sha256, *each, sha256) for each in to_write],
        )
        self.db.executemany(
            "UPDATE recordings SET state = 'written', reason = NULL, kept = request_key <> ?,"
            " request_key = ?, generation = ?, duration_s = ?,"
            " result_size = ?, result_sha256 = ?, result_key = ?, result_generation = ?,"
            " written_run = ?, lacking = NULL, promote = NULL"
            f" WHERE recording_id = ? AND {_TAKES}",
            [
                (
                    *(key, key, generation, duration_s),
                    *(size, sha256, key, generation, self.run.run_id, *each),
                )
                for each in to_write
            ],
        )
        (state,) = self.db.execute(
            "UPDATE transcripts SET state = iif(EXISTS ("
            "SELECT 1 FROM recordings WHERE request_key = :key AND generation = :generation"
            " AND state = 'found'), 'completed', 'written') "
            "WHERE request_key = :key AND generation = :generation RETURNING state",
            {"key": key, "generation": generation},
        ).fetchone()
        self.db.execute(
            "UPDATE attempts SET unknown_since = NULL, unknown_at = NULL"
            " WHERE attempt_id = ? AND unknown_at IS NOT NULL",
            (attempt_id,),
        )
        if state == "written" and self.run.deletes and is_all:
            self.db.execute(
                "UPDATE attempts SET deletion = 'due' WHERE attempt_id = ? AND deletion IS NULL"
                " AND odd IS NULL",
                (attempt_id,),
            )

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
    def record_unknown(self, attempt_id: int, reason: str) -> bool:
        """
        Note that the service does not know an id; whether its transcript counts as `missing` now.

        An answer can be wrong, and what it is about is paid: so it takes a second one, an hour
        after the first at the soonest. Until then it is left to the next run.
        """
        now = self.now()
        since, at, outcome, key = self.db.execute(
            "SELECT unknown_since, unknown_at, outcome, key_fingerprint FROM attempts"
            " WHERE attempt_id = ?",
            (attempt_id,),
        ).fetchone()
        if key not in self._own_keys:  # that says more of the key than of the transcript
            self._park(attempt_id, other_key(key))
            return False
        # A look of a clock that was wrong is none, nor is one of so long ago.
        if since is None or not 0 <= now - at < _SOUGHT_FOR_S:
            since = now
        self.db.execute(
            "UPDATE attempts SET unknown_since = ?, unknown_at = ?, reason = ?"
            " WHERE attempt_id = ?",
            (since, now, reason, attempt_id),
        )
        if outcome == "missing":
            return False
        if now - since < _MISSING_AFTER_S:
            self._park(attempt_id, reason)
            return False
        return True

    @transition
    def record_missing(self, attempt_id: int, reason: str, *, is_unknown: bool = False) -> None:
        """
        Note that an accepted transcript was deleted at the service, says the service.

        With `is_unknown` it does not say so, but `record_unknown` did: it is looked for again.
        """
        self._miss(attempt_id, f"{reason}; see `--force`" if is_unknown else reason)
        if not is_unknown:
            self.db.execute(
                "UPDATE attempts SET unknown_since = NULL, unknown_at = NULL WHERE attempt_id = ?",
                (attempt_id,),
            )

    @transition
    def record_found_again(self, attempt_id: int) -> None:
        """Note that the service has completed a transcript that was missing: it is paid."""
        row = self.db.execute(
            "UPDATE attempts SET outcome = NULL, reason = NULL"
            " WHERE attempt_id = ? AND outcome = 'missing' RETURNING request_key, generation",
            (attempt_id,),
        ).fetchone()
        if row is not None:
            self.db.execute(
                "UPDATE transcripts SET state = 'completed', reason = NULL"
                " WHERE request_key = ? AND generation = ?",
                tuple(row),
            )

    def _miss(self, attempt_id: int, reason: str) -> None:
        row = self.db.execute(
            "UPDATE attempts SET outcome = 'missing', finished_at = ?, reason = ?,"
            " deletion = nullif(deletion, 'due') WHERE attempt_id = ? RETURNING *",
            (self.now(), reason, attempt_id),
        ).fetchone()
        self.db.execute(
            "UPDATE transcripts SET state = 'missing', reason = ? "
            "WHERE request_key = ? AND generation = ?",
            (reason, row["request_key"], row["generation"]),
        )

    @reading
    def deletions(self, limit: int, *, but: Collection[int] = ()) -> list[tuple[int, str]]:
        """
        Attempt and transcript id of copies that the service is to delete; at most `limit`.

        Also of earlier runs: it was asked for then. Not while a recording still waits for one, nor
        of an odd answer. `but` are attempts to leave out.
        """
        rows = self.ro.execute(
            f"SELECT a.attempt_id, a.transcript_id {_DUE} AND {_OWN} AND t.state = 'written' "
            "AND a.attempt_id NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY a.attempt_id LIMIT ?",
            (self.run.base_url, self.own_keys, json.dumps(sorted(but)), limit),
        )
        return [(row[0], row[1]) for row in rows]

    @reading
    def deletions_due(self) -> int:
        """How many copies the service is to delete by now."""
        (count,) = self.ro.execute(
            f"SELECT count(*) {_DUE} AND {_OWN} AND t.state = 'written'",
            (self.run.base_url, self.own_keys),
        ).fetchone()
        return int(count)

    @reading
    def is_deletion_left(self) -> bool:
        """
        Whether a copy here is still to be deleted.

        Be it that its result has to be fetched first, or that another key asked for it.
        """
        (is_any,) = self.ro.execute(
            f"SELECT EXISTS (SELECT 1 {_DUE} AND t.state IN ('written', 'completed'))",
            (self.run.base_url,),
        ).fetchone()
        return bool(is_any)

    @reading
    def is_deletion_barred(self) -> bool:
        """Whether a copy here is to be deleted that a key asked for which nobody has trusted."""
        (is_any,) = self.ro.execute(
            f"SELECT EXISTS (SELECT 1 {_DUE} AND t.state IN ('written', 'completed')"
            f" AND NOT {_OWN})",
            (self.run.base_url, self.own_keys),
        ).fetchone()
        return bool(is_any)

    @reading
    def deletions_unheld(self, after: int, limit: int) -> list[int]:
        """The next attempts that are due to be deleted, and whose result no recording has."""
        rows = self.ro.execute(
            f"SELECT a.attempt_id {_DUE} AND {_OWN} AND t.state = 'written' AND a.attempt_id > ? "
            "AND NOT EXISTS (SELECT 1 FROM recordings r WHERE r.result_key = a.request_key"
            " AND r.result_generation = a.generation AND r.result_size IS NOT NULL) "
            "ORDER BY a.attempt_id LIMIT ?",
            (self.run.base_url, self.own_keys, after, limit),
        )
        return [row[0] for row in rows]

    @reading
    def saved(self, attempt_id: int) -> list[Copy]:
        """Every result of a transcript: those that recordings have, then those of the versions."""
        return [copy for copy in _copies(self.ro, attempt_id) if copy.is_noted]

    @transition
    def fetch_unheld(self, attempt_id: int) -> None:
        """Note that the result of a transcript lies nowhere: it is due to be fetched."""
        self.db.execute(
            "UPDATE transcripts SET state = 'completed' WHERE state = 'written' AND"
            " (request_key, generation) ="
            " (SELECT request_key, generation FROM attempts WHERE attempt_id = ?)",
            (attempt_id,),
        )

    @transition
    def record_deleted(self, attempt_id: int) -> None:
        """Note that the service has no copy any more."""
        self.db.execute("UPDATE attempts SET deletion = 'done' WHERE attempt_id = ?", (attempt_id,))

    @reading
    def stored_after(self, recording_id: int, limit: int) -> list[Stored]:
        """The next results on disk by the id of their recording, at most `limit`."""
        rows = self.ro.execute(
            "SELECT recording_id, result, result_size, result_sha256 FROM recordings"
            " WHERE recording_id > ? AND result_size IS NOT NULL ORDER BY recording_id LIMIT ?",
            (recording_id, limit),
        )
        return [Stored(*row) for row in rows]

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


# The second: a scan took an older result for its own while this one was put in its place.
_TAKES = """
(state = 'found' AND request_key = ? AND generation = ? OR state = 'written' AND content =
  (SELECT content FROM transcripts WHERE request_key = ? AND generation = ?))
"""

_DUE = """
FROM attempts a JOIN transcripts t USING (request_key, generation)
WHERE a.deletion = 'due' AND a.odd IS NULL AND a.base_url = ?
"""
_OWN = "a.key_fingerprint IN (SELECT value FROM json_each(?))"


def _delivery(db: sqlite3.Connection, attempt_id: int) -> Delivery:
    rows = db.execute(
        "SELECT r.recording_id, r.root, r.path, r.result, 1, r.result_size IS NOT NULL"
        " FROM recordings r JOIN attempts a USING (request_key, generation)"
        " WHERE a.attempt_id = ? AND r.state = 'found' ORDER BY r.recording_id",
        (attempt_id,),
    ).fetchall()
    if not rows:
        # Whoever asked holds other bytes by now, or has other options: what was paid is kept. Not
        # twice: what is written was saved since somebody set out to look at it.
        rows = db.execute(
            "SELECT recording_id, root, path, result, 0, 0 FROM recordings WHERE recording_id ="
            " (SELECT a.recording_id FROM attempts a JOIN transcripts t"
            "  USING (request_key, generation) WHERE a.attempt_id = ? AND t.state <> 'written')",
            (attempt_id,),
        ).fetchall()
    copies = _copies(db, attempt_id, _COPIES)
    return Delivery([Recipient(*row) for row in rows], copies)


def _copies(db: sqlite3.Connection, attempt_id: int, limit: int = -1) -> list[Copy]:
    """
    Where the ledger has results of a transcript lying, whatever their recordings wait for.

    What a recording has may lie among the versions by now: a run that was about to replace it keeps
    it there first, and notes it last.
    """
    rows = db.execute(
        "SELECT r.result, r.result_sha256, 0 AS is_version, r.result_size IS NOT NULL AS is_noted"
        " FROM attempts a JOIN recordings r"
        " ON r.result_key = a.request_key AND r.result_generation = a.generation"
        " WHERE a.attempt_id = :id AND r.result_sha256 IS NOT NULL "
        "UNION SELECT r.result, r.result_sha256, 1, 0 FROM attempts a JOIN recordings r"
        " ON r.result_key = a.request_key AND r.result_generation = a.generation"
        " WHERE a.attempt_id = :id AND r.result_sha256 IS NOT NULL "
        "UNION SELECT r.result, v.result_sha256, 1, 1 FROM attempts a JOIN versions v"
        " ON v.result_key = a.request_key AND v.result_generation = a.generation"
        " JOIN recordings r ON r.recording_id = v.recording_id WHERE a.attempt_id = :id "
        "ORDER BY is_noted DESC, is_version LIMIT :limit",
        {"id": attempt_id, "limit": limit},
    )
    return [Copy(row[0], row[1], bool(row[2]), bool(row[3])) for row in rows]
