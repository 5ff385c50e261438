"""
Which of two results of a recording is the current one: in, results that were replaced; out, the
ones that have to come back, and what stood in their place among the replaced.

A row of `versions` is a result that another one took the place of. One that comes back trades
places with it: its row goes, and the other one gets a row of its own, so that it can come back too.
What a run has written itself, and put aside again, is none of what it replaced, whichever run does
that. A result comes back only in the place of what it gave way to, and only while its recording
holds the bytes that it is of: whoever asks is told of both.
"""

from dataclasses import dataclass

from pipeline.ledger.books import KEEP_RESULT, Books, Promote
from pipeline.ledger.store import reading, transition

__all__ = ["MAY_COME_BACK", "Promotions", "Replaced"]


@dataclass(frozen=True, slots=True)
class Replaced:
    """A result that another one took the place of, and the one that is current now."""

    version_id: int
    recording_id: int
    root: str
    path: bytes
    result: bytes
    """Where the current one lies, relative to the output folder."""
    digest: str
    """sha256 of the replaced one, hex."""
    current_digest: str
    """sha256 of the current one, hex."""
    promote: Promote
    """`always` where nothing is left to be done: the current one stays."""
    made_of: str | None
    """sha256 of the bytes that the replaced one is of, None where that is not known."""
    holds: str | None
    """sha256 of the bytes of the recording as they were read last."""
    folder: bytes | None
    """Of the root, absolute; None where no run has noted it."""
    looked: str | None
    """Size, mtime_ns, ctime_ns and inode when the recording was read, None if it was in flux."""
    price_usd: float | None = None
    """Of the current one, None where another recording was the one that it was asked for."""


_REPLACED = """
SELECT v.version_id, v.recording_id, r.root, r.path, r.result, v.result_sha256, r.result_sha256,
  coalesce(v.promote, 'always'), o.content, r.content, f.folder,
  iif(r.settled, r.size || ' ' || r.mtime_ns || ' ' || r.ctime_ns || ' ' || r.inode, NULL),
  (SELECT a.price_usd FROM attempts a WHERE a.request_key = r.result_key
   AND a.generation = r.result_generation AND a.outcome = 'completed'
   AND a.recording_id = r.recording_id)
FROM versions v JOIN recordings r USING (recording_id)
LEFT JOIN transcripts o ON (o.request_key, o.generation) = (v.result_key, v.result_generation)
LEFT JOIN roots f ON f.name = r.root
"""

_REPLACED_BY = "v.run_id = ? AND v.written_run IS NOT v.run_id AND v.replaced_by IS NOT NULL"
"""What a run put others in the place of, but for what it had written itself."""

MAY_COME_BACK = """
EXISTS (SELECT 1 FROM recordings r WHERE r.recording_id = v.recording_id
  AND r.state = 'written' AND r.result_sha256 = v.replaced_by)
"""
"""Not while another result is on its way, nor once that has come."""


class Promotions(Books):
    """Transitions of results that were replaced."""

    @reading
    def replaced(self, run_id: str, after: int, limit: int) -> list[Replaced]:
        """The next results by version that this run put others in the place of, still there."""
        rows = self.ro.execute(
            f"{_REPLACED} WHERE {_REPLACED_BY} AND v.version_id > ? AND {MAY_COME_BACK}"
            " ORDER BY 1 LIMIT ?",
            (run_id, after, limit),
        )
        return [Replaced(*row) for row in rows]

    @reading
    def unsettled(self, after: int, limit: int) -> list[Replaced]:
        """The next results by version that may have to come back, and can by now."""
        rows = self.ro.execute(
            f"{_REPLACED} WHERE v.promote IS NOT NULL AND v.version_id > ?"
            f" AND {MAY_COME_BACK} ORDER BY 1 LIMIT ?",
            (after, limit),
        )
        return [Replaced(*row) for row in rows]

    @reading
    def made_with(self, run_id: str) -> tuple[list[str], str | None, str | None]:
        """
        The runs that wrote what this run replaced, and the options of those and of the new ones.

        Options are canonical JSON, None where they differ from recording to recording.
        """
        pairs = (
            "FROM versions v JOIN recordings r USING (recording_id)"
            " JOIN transcripts o ON (o.request_key, o.generation) = (v.result_key,"
            "  v.result_generation)"
            " JOIN transcripts n ON (n.request_key, n.generation) = (r.result_key,"
            f"  r.result_generation) WHERE {_REPLACED_BY}"
        )
        runs = f"SELECT DISTINCT v.written_run {pairs} AND v.written_run IS NOT NULL ORDER BY 1"
        options = (
            "SELECT iif(min(o.options) = max(o.options), min(o.options), NULL),"
            f" iif(min(n.options) = max(n.options), min(n.options), NULL) {pairs}"
        )
        old, new = self.ro.execute(options, (run_id,)).fetchone()
        return [run for (run,) in self.ro.execute(runs, (run_id,))], old, new

    @transition
    def roll_back(self, run_id: str) -> tuple[int, int]:
        """
        Note that what a run replaced has to come back.

        How many results do, and how many do not: another result of the recording is on its way,
        or took the place of the run's own since.
        """
        (replaced,) = self.db.execute(
            f"SELECT count(*) FROM versions v WHERE {_REPLACED_BY}", (run_id,)
        ).fetchone()
        coming = self.db.execute(
            "UPDATE versions AS v SET promote = 'never', rollback_run = ?"
            f" WHERE {_REPLACED_BY} AND {MAY_COME_BACK}",
            (self.run.run_id, run_id),
        ).rowcount
        return coming, replaced - coming

    @transition
    def settle(self, version_id: int, *, comes_back: bool) -> None:
        """Note whether a replaced result comes back; durable before any file is touched."""
        self.db.execute(
            "UPDATE versions SET promote = iif(:back, 'never', NULL),"
            " rollback_run = iif(:back, rollback_run, NULL) WHERE version_id = :id",
            {"back": comes_back, "id": version_id},
        )

    @transition
    def record_back(self, version_id: int) -> None:
        """
        Note that a replaced result is durable in its place again, and the other one kept.

        The recording has, and waits for, what that was made with: so nothing is asked for anew.
        """
        row = self.db.execute(
            "SELECT v.*, t.options FROM versions v LEFT JOIN transcripts t"
            " ON t.request_key = v.result_key AND t.generation = v.result_generation"
            " WHERE v.version_id = ?",
            (version_id,),
        ).fetchone()
        self.db.execute(
            KEEP_RESULT,
            (
                *(row["rollback_run"] or row["run_id"], self.now()),
                *(row["result_sha256"], row["recording_id"]),
            ),
        )
        self.db.execute(
            "UPDATE recordings SET kept = request_key <> :key, request_key = :key,"
            " generation = :generation, options = coalesce(:options, options), reason = NULL,"
            " result_key = :key, result_generation = :generation, result_size = :size,"
            " result_sha256 = :digest, duration_s = :duration_s, written_run = :run"
            " WHERE recording_id = :id",
            {
                "key": row["result_key"],
                "generation": row["result_generation"],
                "options": row["options"],
                "size": row["result_size"],
                "digest": row["result_sha256"],
                "duration_s": row["duration_s"],
                "run": row["written_run"],
                "id": row["recording_id"],
            },
        )
        self.db.execute("DELETE FROM versions WHERE version_id = ?", (version_id,))
