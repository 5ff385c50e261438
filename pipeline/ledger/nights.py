"""
What runs came to, for a page: in, a connection that only reads; out, rows and sums.

Sums come by quarters of an hour, since every day, night and month of every zone begins with one;
rows come a page at a time, so that a run beside is not kept from tidying its log.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.ledger import BACKLOG
from pipeline.ledger.accounts import STANDING_OF_SEEN, Reader
from pipeline.ledger.books import Patience
from pipeline.models import Turn

__all__ = ["Billed", "Ended", "Saved", "already", "billed", "ended", "saved"]

_QUARTER_S = 900
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Billed:
    """What the service accepted in a quarter of an hour, and did not end with an error."""

    at: int
    """Unix time of its beginning."""
    transcripts: int
    completed: int
    """Those of them that are finished."""
    unpriced: int
    """Those of them whose price is not known: unfinished, or of a model without one."""
    duration_s: float
    """Seconds of audio in what is finished."""
    price_usd: float
    """Of what has a price."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a recording stands that the last run had work with."""

    outcome: str
    """`written`, `failed`, `given_up`, `skipped`, `parked`, or one of those that need no work."""
    reason: str | None
    """Why there is no result; None also for those that the run did not come to."""
    name: bytes
    """Its path, led by the name of its root where its result's is."""
    transcript_id: str | None
    """Where one is known and the recording has no result."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A result that a run wrote."""

    name: bytes
    """Path of its recording, led by the name of its root where its own is."""
    result: bytes
    """Its JSON file, relative to the output folder."""
    options: str
    """Canonical JSON of what was asked for."""
    odd: str | None
    """What was suspicious about it when it was saved, in a sentence."""
    folder: bytes | None
    """Where its root was found last, absolute; None where no run has noted it."""
    path: bytes
    """Of its recording, below that."""


def billed(db: Reader, since: float, until: float) -> Iterator[Billed]:
    """What was asked for from one Unix time to before another, by quarters of an hour."""
    # As caps count it: what a lost answer was to is accepted when the next run finds it, and what
    # was adopted was never asked for here.
    rows = db.execute(
        "SELECT CAST(submitted_at / :quarter AS INTEGER) * :quarter, count(*),"
        " sum(outcome IS 'completed'), sum(price_usd IS NULL), total(duration_s), total(price_usd)"
        " FROM attempts WHERE state = 'accepted' AND outcome IS NOT 'error'"
        " AND submitted_at >= :since AND submitted_at < :until GROUP BY 1 ORDER BY 1",
        {"quarter": _QUARTER_S, "since": since, "until": until},
    )
    return (Billed(*row) for row in rows)


def already(db: Reader) -> dict[str, int]:
    """How many recordings the last run found that were `already_written` or `kept`."""
    return dict(
        db.execute("SELECT ended, count(*) FROM seen WHERE ended IS NOT NULL GROUP BY 1").fetchall()
    )


def ended(db: Reader, run_id: str, patience: Patience) -> Iterator[Ended]:
    """How each recording stands that the last run, which has this id, had work with."""
    rows = db.execute(
        "SELECT s.outcome, s.request_key, s.generation, s.is_failed, s.root, s.path, s.result,"
        " coalesce(s.why, iif(s.outcome = 'parked' AND s.turn = :backlog, :left, NULL)) AS told,"
        " iif(s.outcome IN ('failed', 'parked'), (SELECT max(a.transcript_id) FROM attempts a"
        " WHERE a.request_key = s.request_key AND a.generation = s.generation), NULL) AS id "
        f"FROM ({STANDING_OF_SEEN} ORDER BY s.recording_id) s",
        {"run": run_id, "backlog": Turn.BACKLOG, "left": BACKLOG},
    )
    return (
        Ended(
            "given_up" if patience.is_over(db, row, run_id) else row["outcome"],
            row["told"],
            _name(row["root"], row["path"], row["result"]),
            row["id"],
        )
        for row in rows
    )


def saved(db: Reader, run_id: str, page: int = _PAGE) -> Iterator[list[Saved]]:
    """The results that a run wrote and no later one replaced, some hundreds at a time."""
    last = 0
    while rows := db.execute(
        "SELECT r.recording_id, r.root, r.path, r.result, coalesce(t.options, '{}'),"
        " (SELECT max(a.odd) FROM attempts a"
        " WHERE a.request_key = r.result_key AND a.generation = r.result_generation),"
        " (SELECT f.folder FROM roots f WHERE f.name = r.root) "
        "FROM recordings r LEFT JOIN transcripts t"
        " ON t.request_key = r.result_key AND t.generation = r.result_generation "
        "WHERE r.written_run = ? AND r.recording_id > ? ORDER BY r.recording_id LIMIT ?",
        (run_id, last, page),
    ).fetchall():
        yield [
            Saved(_name(root, path, result), result, options, odd, folder, path)
            for _, root, path, result, options, odd, folder in rows
        ]
        last = rows[-1][0]


def _name(root: str, path: bytes, result: bytes) -> bytes:
    """What a recording is called; the folder of its result tells whether its root leads it."""
    led = os.path.join(root.encode(), path)
    return led if os.path.dirname(led) == os.path.dirname(result) else path
