"""
What was asked for, and what it came to: in, a connection that only reads; out, seconds and USD.

Caps, `status`, `audit` and reports sum it up alike: what the service has said, and beside that all
that it has not, as it was expected, so that doubt counts as spent until it is resolved. What the
service failed at counts nothing, nor does what other programs asked for.
"""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from pipeline.allowance import MOST_CHANNELS
from pipeline.durations import LONGEST_S, by_size

__all__ = ["Spent", "spent_between", "spent_since"]

_BY_CHANNEL = """(SELECT json_extract(t.options, '$.multichannel') FROM transcripts t
      WHERE (t.request_key, t.generation) = (attempts.request_key, attempts.generation))"""

_ASKED_FOR = f"""
SELECT recording_id, content, duration_s, expected_s, price_usd,
  coalesce(duration_s, expected_s) AS long_s,
  coalesce(price_usd, iif(base_url = 'local', 0.0, NULL),
    iif(model_used IS NULL OR {_BY_CHANNEL}, expected_usd, NULL)) AS usd,
  iif({_BY_CHANNEL}, {MOST_CHANNELS}, 1) AS channels,
  coalesce((SELECT value FROM json_each(:prices) WHERE key = model_used), :dearest) AS rate_usd
FROM attempts
WHERE submitted_at IS NOT NULL AND state IN ('submitting', 'ambiguous', 'accepted')
  AND outcome IS NOT 'error'
"""
"""
What is paid, or may be.

A model that was not asked for may have done the work; by the hour it comes to what is known of it.
Of channels that the answer does not count what was expected holds, which has them in it.
"""

_SINCE = """
AND (submitted_at BETWEEN :since AND :now
  OR attempt_id > coalesce((SELECT max(attempt_id) FROM (
    -- In order is what no earlier one is ahead of, but for those from the future.
    SELECT attempt_id, started_at, max(iif(started_at <= :now, started_at, NULL))
      OVER (ORDER BY attempt_id) AS latest FROM attempts)
    WHERE started_at = latest AND started_at < :since), 0))
"""
_BETWEEN = "AND submitted_at >= :since AND submitted_at < :until"


@dataclass(frozen=True, slots=True)
class Spent:
    """What was asked for, in two parts that add up."""

    settled_s: float
    """Seconds of audio, as the service said."""
    settled_usd: float | None
    """USD at the prices of the models that it named; None where none of them has one."""
    open_s: float
    """Seconds of what it has not said yet, or will never say: at the most."""
    open_usd: float
    """USD of what has no price for that reason, or none at all: at the most."""

    @property
    def seconds(self) -> float:
        """What caps on hours count."""
        return self.settled_s + self.open_s

    @property
    def usd(self) -> float:
        """What caps on cost count."""
        return (self.settled_usd or 0.0) + self.open_usd


def spent_since(
    db: sqlite3.Connection, since: float, now: float, prices: Mapping[str, float]
) -> Spent:
    """
    What was asked for since a moment, Unix seconds.

    What has no price noted counts at that of its model in `prices`, USD an hour, or at the dearest.

    Clocks may have been wrong, but attempts are numbered in their order: what came after the last
    one that is known to be from before counts as well.
    """
    return _spent(db, _SINCE, {"since": since, "now": now}, prices)


def spent_between(
    db: sqlite3.Connection, since: float = -inf, until: float = inf, *, prices: Mapping[str, float]
) -> Spent:
    """What was asked for from one Unix time to before another, by the clock of then."""
    return _spent(db, _BETWEEN, {"since": since, "until": until}, prices)


def _spent(
    db: sqlite3.Connection, when: str, times: Mapping[str, float], prices: Mapping[str, float]
) -> Spent:
    known = {"prices": json.dumps(dict(prices)), "dearest": max(prices.values(), default=0.0)}
    settled_s, settled_usd, open_s, open_usd = db.execute(
        "SELECT total(duration_s), sum(price_usd), total(iif(duration_s IS NULL, long_s, 0)),"
        " total(iif(price_usd IS NULL, coalesce(usd,"
        "  coalesce(duration_s * channels, expected_s) * rate_usd / 3600), 0)) "
        f"FROM ({_ASKED_FOR} {when})",
        {**times, **known},
    ).fetchone()
    # What nobody noted the length of is counted by size.
    for path, size, rate_usd, channels in db.execute(
        "SELECT r.path, iif(r.content IS a.content, r.size, 0), iif(usd IS NULL, rate_usd, 0),"
        " a.channels "
        f"FROM ({_ASKED_FOR} {when}) a JOIN recordings r USING (recording_id)"
        " WHERE long_s IS NULL",
        {**times, **known},
    ):
        bound_s = channels * (by_size(path, size).seconds if size else LONGEST_S)
        open_s += bound_s
        open_usd += bound_s * rate_usd / 3600
    return Spent(settled_s, settled_usd, open_s, open_usd)
