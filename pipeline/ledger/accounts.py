"""
What stands in a ledger, counted: in, a connection that only reads; out, rows and sums.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.ledger.sums import spent_between

__all__ = [
    "AT_SERVICE",
    "GIVEN_UP",
    "OUTCOMES",
    "STANDING",
    "STANDING_OF_SEEN",
    "UNSAVED",
    "Reader",
    "billed",
    "recordings",
    "states",
]

GIVEN_UP = "given-up"
OUTCOMES = ("written", "kept", "failed", "skipped", "parked", GIVEN_UP)
"""
How a recording stands, for people: one that was written before is written, too, and one that was
given up has failed, too.
"""

AT_SERVICE = "at the service: its result is fetched by the next run"
UNSAVED = "paid, not saved yet: it is fetched by the next run"
"""Why a recording is parked whose transcript the run did not wait for, or did not come to save."""

Reader = sqlite3.Connection
"""What `read_only` opens."""

_OUTCOME = f"""
SELECT r.*,
  CASE
    WHEN r.state = 'skipped' THEN 'skipped'
    WHEN r.state = 'written' AND r.written_run = :run THEN 'written'
    WHEN r.state = 'written' AND r.kept THEN 'kept'
    WHEN r.state = 'written' THEN 'already_written'
    WHEN r.reason IS NOT NULL OR t.state IN ('failed', 'missing') THEN 'failed'
    ELSE 'parked'
  END AS outcome,
  CASE
    WHEN r.state = 'written' THEN NULL
    WHEN r.reason IS NOT NULL THEN r.reason
    WHEN t.state IN ('failed', 'missing') THEN t.reason
    WHEN t.parked IS NOT NULL THEN t.parked
    WHEN t.state = 'submitted' THEN '{AT_SERVICE}'
    WHEN t.state = 'completed' THEN '{UNSAVED}'
    WHEN t.state = 'open' AND EXISTS (
      SELECT 1 FROM attempts a WHERE a.request_key = r.request_key
      AND a.generation = r.generation AND a.state = 'ambiguous')
      THEN 'the answer of the service was lost: the next run finds out what became of it'
  END AS why,
  r.state = 'found' AND r.reason IS NULL AND t.state IS 'failed' AS is_failed
"""

STANDING = (
    _OUTCOME
    + """
FROM recordings r LEFT JOIN transcripts t USING (request_key, generation)
"""
)
"""How each recording ends for the run `:run`: its outcome, and why where there is a reason."""

STANDING_OF_SEEN = (
    _OUTCOME
    + """
FROM seen s CROSS JOIN recordings r USING (recording_id)
LEFT JOIN transcripts t USING (request_key, generation) WHERE s.ended IS NULL
"""
)
"""The same of those that this run found, and had or has work with."""


def states(db: Reader, prices: Mapping[str, float]) -> dict[str, Any]:
    """Recordings and transcripts by state, and `billed`."""
    return {
        "recordings": _counts(db, "SELECT state, count(*) FROM recordings GROUP BY 1 ORDER BY 1"),
        "transcripts": _counts(db, "SELECT state, count(*) FROM transcripts GROUP BY 1 ORDER BY 1"),
    } | billed(db, prices)


def billed(db: Reader, prices: Mapping[str, float]) -> dict[str, float | None]:
    """Hours of audio that were asked for, and their cost, USD: settled, and open at the most."""
    spent = spent_between(db, prices=prices)
    return {
        "billed_hours": spent.settled_s / 3600,
        "cost_usd": spent.settled_usd,
        "open_hours": spent.open_s / 3600,
        "open_cost_usd": spent.open_usd,
    }


def _counts(db: Reader, query: str) -> dict[str, int]:
    return dict(db.execute(query))


def recordings(db: Reader) -> Iterator[sqlite3.Row]:
    """
    Every recording by root and path, with the id of the transcript that it has or waits for, and
    what is odd about that which it has.

    And with the folder of its root, and whether the last run found it, if it found any.
    """
    query = f"""
        SELECT s.*, (SELECT f.folder FROM roots f WHERE f.name = s.root) AS folder,
        NOT EXISTS (SELECT 1 FROM seen)
        OR EXISTS (SELECT 1 FROM seen e WHERE e.recording_id = s.recording_id) AS is_seen, (
          SELECT a.transcript_id FROM attempts a
          WHERE a.request_key = s.request_key AND a.generation = s.generation
          AND a.state = 'accepted' ORDER BY a.attempt_id DESC LIMIT 1
        ) AS transcript_id, (
          SELECT max(a.odd) FROM attempts a
          WHERE a.request_key = s.result_key AND a.generation = s.result_generation
        ) AS odd
        FROM ({STANDING}) s ORDER BY s.root, s.path"""
    yield from db.execute(query, {"run": ""})
