"""
Durable state: what was found, what is wanted once, what was tried, and what came of it.

In: what stages saw. Out: what is to be done next, and what a run came to. The ledger is the queue
between the stages: a stage goes on only when its transition is on disk, and whatever has to be
done again is a row that is due again. States are drawn in docs/design.md.

    store       one file, one writer thread     schema.sql   tables, and what they forbid
    books       what the next three share       lock         one run at a time
    recordings  found, claimed                  accounts     counted, for people
    mounts      is this disk a local one
    attempts    uploaded, submitted, accepted or not
    results     completed, written              evidence     held against disk and account
    repairs     fetched again                   journal      accepted attempts, as files
    remains     a lost ledger, made anew        promotions   which of two results is the current one
    archive     chosen by what is known of them adoptions    results of other programs
    uploads     which of ours is named          sums         asked for: settled, and open

What is awaited is one transition, durable when it returns, or one reading. Each transition keeps
the promise that counts most by itself: of all attempts at one request key and generation, the
unique index `attempts_alive` lets one live.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from pipeline.ledger.accounts import STANDING_OF_SEEN
from pipeline.ledger.adoptions import Adoptions
from pipeline.ledger.attempts import Attempts
from pipeline.ledger.books import Found, Patience, Reading, Redo, Run
from pipeline.ledger.promotions import Promotions
from pipeline.ledger.recordings import Recordings
from pipeline.ledger.remains import Remains
from pipeline.ledger.repairs import Repairs
from pipeline.ledger.results import Results
from pipeline.ledger.store import copy_of, read_only, reading, transition
from pipeline.ledger.sums import spent_since
from pipeline.losses import Held
from pipeline.models import NIGHTS, OtherKey, Root, Turn

__all__ = [
    "BACKLOG",
    "UPLOAD_LIFETIME_S",
    "Found",
    "Ledger",
    "Reading",
    "Redo",
    "Run",
    "copy_of",
    "read_only",
]

UPLOAD_LIFETIME_S = 20 * 3600
"""How long an `upload_url` is used, seconds.

Source: https://www.assemblyai.com/docs, FAQ: an upload that is not transcribed is deleted after
24 h; the rest is margin for a queue and for clocks.
"""

BACKLOG = "backlog: left for the coming nights"
"""Why a recording is parked that has been lying there for long, and had no turn."""

_TELLING_S = 10.0  # what took less says little of a line

_YOUNG_S = 3600.0  # an account that deletes by itself has its ids for longer than that

_ATTEMPTS_OF_A_WINDOW = 20_000  # each has two requests, of which the account has so many

# As `attempts_by_state` has it: SQLite uses it only where the query repeats its terms.
_UNDER_WAY = "state IN ('uploading', 'uploaded', 'submitting', 'ambiguous')"


class Ledger(Adoptions, Remains, Recordings, Attempts, Results, Promotions, Repairs):
    """The ledger of one state folder, for one run at a time."""

    @transition
    def recover(self) -> None:
        """Turn what an earlier run left in the middle into what this run can go on with."""
        now = self.now()
        self._own_keys.update(
            row[0] for row in self.db.execute("SELECT key_fingerprint FROM trusted_keys")
        )
        self.db.execute("DELETE FROM seen")
        self.db.execute("UPDATE recordings SET claim = NULL WHERE claim IS NOT NULL")
        self.db.execute("UPDATE recordings SET redo = 0 WHERE redo")
        self.db.execute(
            "UPDATE transcripts SET parked = NULL, due_at = 0 WHERE parked IS NOT NULL OR due_at"
        )
        # What was cut short says nothing of its recording.
        self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = 'the run ended', counted = 0 "
            f"WHERE state = 'uploading' AND {_UNDER_WAY}"
        )
        # The request may have left before the process died.
        self.db.execute(
            "UPDATE attempts SET state = 'ambiguous', reason = 'the run ended while asking' "
            f"WHERE state = 'submitting' AND {_UNDER_WAY}"
        )
        # Uploads are free, and belong to one project at one address for less than a day.
        self.db.execute(
            "UPDATE attempts SET state = 'not_accepted', reason = 'the upload is too old',"
            f" counted = 0 WHERE state = 'uploaded' AND {_UNDER_WAY} "
            # One of the future was noted by a clock that was ahead: nobody knows its age.
            "AND (uploaded_at NOT BETWEEN ? AND ? OR base_url <> ?"
            " OR ? NOT IN ('', key_fingerprint))",
            (now - UPLOAD_LIFETIME_S, now, self.run.base_url, self.run.key_fingerprint),
        )
        self.db.execute(
            "UPDATE transcripts SET state = 'wanted' WHERE state = 'open' "
            "AND state IN ('open', 'submitted', 'completed') AND NOT EXISTS ("
            "SELECT 1 FROM attempts a WHERE a.request_key = transcripts.request_key "
            "AND a.generation = transcripts.generation AND a.state = 'ambiguous')"
        )

    @transition
    def record_roots(self, roots: Sequence[Root]) -> None:
        """Note where this run looks for recordings; what another one found is not its own."""
        if roots:
            self.db.execute("DELETE FROM seen")
        self.db.executemany(
            "INSERT INTO roots (name, folder) VALUES (?,?) "
            "ON CONFLICT DO UPDATE SET folder = excluded.folder",
            [(root.name, root.folder) for root in roots],
        )

    @reading
    def held(self, root: str, filters: str) -> Held | None:
        """What the last scan saw that saw all of a root, with these filters, and was not empty."""
        row = self.ro.execute(
            "SELECT root, filters, recordings, scanned_at FROM scans"
            " WHERE root = ? AND filters = ?",
            (root, filters),
        ).fetchone()
        return None if row is None else Held(*row)

    @transition
    def record_held(self, scans: Sequence[Held]) -> None:
        """Note what scans saw, but for those that saw nothing, for the next ones to compare."""
        self.db.executemany(
            "INSERT INTO scans (root, filters, recordings, scanned_at) VALUES (?,?,?,?) "
            "ON CONFLICT DO UPDATE SET recordings = excluded.recordings,"
            " scanned_at = excluded.scanned_at",
            [
                (each.root, each.filters, each.recordings, each.scanned_at)
                for each in scans
                if each.recordings
            ],
        )

    @reading
    def unclaimed(self) -> int:
        """How many transcripts of the account wait for a word of the user, after a rebuild."""
        (count,) = self.ro.execute("SELECT count(*) FROM unclaimed").fetchone()
        return int(count)

    @reading
    def other_keys(self) -> list[OtherKey]:
        """The keys that anything at this address is left with, but for those that are trusted."""
        keys = self.ro.execute(
            "SELECT key_fingerprint, max(is_open), sum(is_due) FROM ("
            "SELECT key_fingerprint, base_url, 0 AS is_open, 0 AS is_due FROM attempts"
            " WHERE state = 'ambiguous'"
            " UNION ALL "
            "SELECT key_fingerprint, base_url, 0, 1 FROM attempts"
            " WHERE deletion = 'due' AND odd IS NULL"
            " UNION ALL "
            "SELECT a.key_fingerprint, a.base_url, 1, 0 FROM transcripts t "
            "CROSS JOIN attempts a USING (request_key, generation) "
            "WHERE t.state IN ('open', 'submitted', 'completed') AND t.state <> 'open' "
            "AND a.state = 'accepted') "
            "WHERE base_url = ?"
            " AND key_fingerprint NOT IN (SELECT value FROM json_each(?)) GROUP BY 1",
            (self.run.base_url, self.own_keys),
        ).fetchall()
        query = (
            "SELECT transcript_id, ? - accepted_at FROM attempts"
            " WHERE base_url = ? AND key_fingerprint = ?"
            " AND state = 'accepted' ORDER BY attempt_id DESC LIMIT 5"
        )
        others = []
        for fingerprint, is_open, to_delete in keys:
            newest = self.ro.execute(query, (self.now(), self.run.base_url, fingerprint)).fetchall()
            ids = [row[0] for row in newest]
            is_young = any(0 <= age_s < _YOUNG_S for _, age_s in newest)
            others.append(OtherKey(fingerprint, ids, bool(is_open), is_young, to_delete))
        return others

    @transition
    def record_trusted(self, fingerprint: str) -> None:
        """Note that a key is of the same project as this run's: what it asked for is ours."""
        self.db.execute(
            "INSERT OR IGNORE INTO trusted_keys VALUES (?,?)", (fingerprint, self.now())
        )
        self.trust_key(fingerprint)

    @transition
    def park_key(self, fingerprint: str, reason: str) -> None:
        """Leave what was accepted for a key to a run that may ask for it."""
        self.db.execute(
            "UPDATE transcripts SET parked = ? WHERE state IN ('open', 'submitted', 'completed')"
            " AND state <> 'open' AND EXISTS (SELECT 1 FROM attempts a"
            " WHERE a.request_key = transcripts.request_key"
            " AND a.generation = transcripts.generation AND a.state = 'accepted'"
            " AND a.outcome IS NOT 'error' AND a.base_url = ? AND a.key_fingerprint = ?)",
            (reason, self.run.base_url, fingerprint),
        )

    @transition
    def record_requests(self, ages_s: Sequence[float], window_s: float) -> None:
        """Note requests by how long ago they were sent; forget those before the last window."""
        now, here = self.now(), self.run.base_url
        seconds = Counter(int(now - age_s) for age_s in ages_s)
        self.db.execute(
            "DELETE FROM requests WHERE base_url = ? AND second NOT BETWEEN ? AND ?",
            (here, int(now - window_s), int(now + window_s)),
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
            # A clock that was set back a little hides nothing; what lies further ahead never was.
            "SELECT second, count FROM requests WHERE base_url = ? AND second BETWEEN ? AND ?",
            (self.run.base_url, int(now - window_s), int(now + window_s)),
        )
        # The end of the second: never taken for older than it is.
        return [max(0.0, now - second - 1) for second, count in rows for _ in range(count)]

    @reading
    def earlier_submits(self, window_s: float) -> list[float]:
        """How long ago each submit of earlier runs in the last window was made, about."""
        now = self.now()
        rows = self.ro.execute(
            # No index: what was submitted lately is among the newest attempts.
            "SELECT submitted_at FROM attempts WHERE base_url = ? AND submitted_at BETWEEN ? AND ?"
            " AND attempt_id > (SELECT max(attempt_id) - ? FROM attempts)",
            (self.run.base_url, now - window_s, now + window_s, _ATTEMPTS_OF_A_WINDOW),
        )
        return [max(0.0, now - submitted_at) for (submitted_at,) in rows]

    @reading
    def standing(self, nights: int = NIGHTS) -> Counter[tuple[str, str, str | None]]:
        """
        How every recording that this run found ends: how many of each root, outcome and reason.

        Outcomes are `written`, `already_written`, `kept`, `failed`, `given_up`, `skipped` and
        `parked`; a parked one without a reason of its own is one that the run did not come to.
        `nights` is in how many something fails until it is given up.
        """
        patience = Patience(nights, self.now(), self.run.zone)
        counts = Counter[tuple[str, str, str | None]]()
        # Counted here, one by one: grouped by SQLite, all of them would be sorted first.
        for root, ended in self.ro.execute(
            "SELECT r.root, s.ended FROM seen s CROSS JOIN recordings r USING (recording_id)"
            " WHERE s.ended IS NOT NULL"
        ):
            counts[root, ended, None] += 1
        columns = "root, outcome, why, turn, is_failed, request_key, generation"
        for row in self.ro.execute(
            f"SELECT {columns} FROM ({STANDING_OF_SEEN})", {"run": self.run.run_id}
        ):
            root, outcome, why = row["root"], row["outcome"], row["why"]
            is_backlog = outcome == "parked" and row["turn"] == Turn.BACKLOG
            if patience.is_over(self.ro, row, self.run.run_id):
                outcome = "given_up"
            counts[root, outcome, why or (BACKLOG if is_backlog else None)] += 1
        return counts

    @reading
    def spent(self, since: float, prices: Mapping[str, float]) -> tuple[float, float]:
        """
        Seconds of audio and USD that were asked for since a moment, Unix seconds, at the most.

        Settled or not, at the prices of models, USD an hour: see `pipeline.ledger.sums`.
        """
        spent = spent_since(self.ro, since, self.now(), prices)
        return spent.seconds, spent.usd

    @reading
    def waiting(self) -> int:
        """How many of what this run found wait for the transcript of an equal one it has taken."""
        query = (
            f"SELECT count(*) FROM ({STANDING_OF_SEEN}) s JOIN transcripts t"
            " USING (request_key, generation) WHERE s.outcome = 'parked' AND s.why IS NULL"
            " AND s.claim IS NULL AND t.state = 'open'"
        )
        (count,) = self.ro.execute(query, {"run": self.run.run_id}).fetchone()
        return int(count)

    @reading
    def upload_rate(self) -> float | None:
        """Bytes per second that the last run with uploads has sent; None where nobody knows."""
        size, took_s = self.ro.execute(
            "SELECT sum(r.size), max(a.uploaded_at) - min(a.started_at) FROM attempts a"
            " JOIN recordings r USING (recording_id) WHERE a.uploaded_at IS NOT NULL"
            " AND r.content IS a.content AND a.owner = (SELECT owner FROM attempts"
            "  WHERE uploaded_at IS NOT NULL ORDER BY attempt_id DESC LIMIT 1)"
        ).fetchone()
        return size / took_s if size and took_s >= _TELLING_S else None

    @reading
    def parked(self, after: int, limit: int) -> list[tuple[int, str, bytes, str, str | None]]:
        """
        The next recordings by id that are left half way, at most `limit`.

        Of each id, root, path, reason and transcript id.
        """
        rows = self.ro.execute(
            "SELECT s.recording_id, s.root, s.path, s.why, (SELECT max(a.transcript_id)"
            " FROM attempts a WHERE a.request_key = s.request_key"
            " AND a.generation = s.generation AND a.outcome IS NOT 'error') "
            f"FROM ({STANDING_OF_SEEN} AND s.recording_id > :after ORDER BY s.recording_id) s "
            "WHERE s.outcome = 'parked' AND s.why IS NOT NULL LIMIT :limit",
            {"run": self.run.run_id, "after": after, "limit": limit},
        )
        return [tuple(row) for row in rows]

    @reading
    def kept_hours(self) -> float:
        """Hours of audio that a redo of the kept recordings would ask for."""
        row = self.ro.execute(
            "SELECT coalesce(sum(r.duration_s), 0) / 3600.0 FROM seen s "
            "CROSS JOIN recordings r USING (recording_id) "
            "WHERE s.ended IS NOT 'already_written' AND r.kept"
        ).fetchone()
        return float(row[0])

    @reading
    def collected(self) -> int:
        """How many results this run wrote for recordings that it did not find itself."""
        (count,) = self.ro.execute(
            "SELECT count(*) FROM recordings WHERE written_run = ? "
            "AND recording_id NOT IN (SELECT recording_id FROM seen)",
            (self.run.run_id,),
        ).fetchone()
        return int(count)

    @reading
    def elsewhere(self) -> list[tuple[str, int]]:
        """Transcripts that only another address can do something about: address and how many."""
        rows = self.ro.execute(
            "SELECT base_url, count(*) FROM ("
            "SELECT base_url FROM attempts"
            " WHERE state = 'ambiguous' OR (state = 'accepted' AND outcome IS NULL)"
            " UNION ALL "
            "SELECT base_url FROM attempts WHERE deletion = 'due' AND odd IS NULL"
            ") WHERE base_url <> ? GROUP BY 1",
            (self.run.base_url,),
        )
        return [(row[0], row[1]) for row in rows]
