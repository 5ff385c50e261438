"""
Repairs: in, what is wrong on disk; out, rows that say so, so that the stages set it right.

None of them asks for a transcript. What was paid is due to be fetched again, by its id.
"""

from collections.abc import Sequence

from pipeline.ledger.books import Books
from pipeline.ledger.store import reading, transition

__all__ = ["Repairs"]


class Repairs(Books):
    """Transitions of what was saved once and is not there as it was."""

    @reading
    def damage(self) -> str | None:
        """What SQLite finds wrong with the ledger itself at a quick look; None if nothing is."""
        (said,) = self.ro.execute("PRAGMA quick_check(1)").fetchone()
        return None if said == "ok" else str(said)

    @transition
    def fetch_again(
        self, recording_ids: Sequence[int], transcripts: Sequence[tuple[str, int]] = ()
    ) -> None:
        """
        Note that the results of these recordings are gone, and that these transcripts lie nowhere.

        A recording that waits for another one by now keeps waiting for that: its older result
        goes to the versions. The run that found a recording stays the one that saw it last, so
        nothing here can be claimed by this one.
        """
        for recording_id in recording_ids:
            row = self.db.execute(
                "UPDATE recordings SET result_size = NULL, lacking = NULL WHERE recording_id = ?"
                " RETURNING result_key, result_generation",
                (recording_id,),
            ).fetchone()
            self.db.execute(
                "UPDATE recordings SET state = 'found', reason = NULL, kept = 0,"
                " request_key = result_key, generation = result_generation"
                " WHERE recording_id = ? AND state = 'written'",
                (recording_id,),
            )
            self._fetch(row["result_key"], row["result_generation"])
        for key, generation in transcripts:
            self._fetch(key, generation)

    def _fetch(self, key: str, generation: int) -> None:
        self.db.execute(
            "UPDATE transcripts SET state = 'completed' "
            "WHERE request_key = ? AND generation = ? AND state = 'written'",
            (key, generation),
        )
