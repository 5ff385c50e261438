"""
Transcripts that the service does not finish: in, all that are pending; out, those to be left.

Most transcripts are finished in minutes. One that is not holds up neither others nor the end of a
run: it is paid, and looked at again by each run that follows. Pure: no I/O.
"""

import math
from collections.abc import Sequence

from pipeline.models import NIGHTS, Pending

__all__ = ["STUCK", "Overdue", "since"]

STUCK = "stuck at the service"
"""The beginning of a reason that is no news any more: it has been so for some nights."""

_WAITING = "not finished by the service"
_NIGHT_S = 86_400.0


def since(each: Pending, now: float, patience_s: float, day: str) -> str:
    """The reason why a transcript of a day is left: for some nights as news, then not."""
    is_old = now - each.accepted_at > patience_s + NIGHTS * _NIGHT_S
    return f"{STUCK if is_old else _WAITING} since {day}: looked at again by the next run"


class Overdue:
    """
    The transcripts of a run that take longer than `patience_s` and twice their length.

    `left` are those of earlier runs.
    """

    def __init__(self, patience_s: float, left: Sequence[Pending] = ()) -> None:
        self._patience_s = patience_s
        self._pending: dict[int, float] = {}
        self._seen_at = {each.attempt_id: -math.inf for each in left}
        self._finished_accepted_at = -math.inf

    def among(self, pending: Sequence[Pending], now: float, here: float) -> list[Pending]:
        """
        Those that are overdue; takes note of what is pending no more, since it is finished.

        `now` is Unix time. `here` is of a clock that nobody sets, which what was asked for in this
        run has to be overdue by as well.
        """
        before = self._pending
        self._pending = {each.attempt_id: each.accepted_at for each in pending}
        gone = [at for attempt_id, at in before.items() if attempt_id not in self._pending]
        self._finished_accepted_at = max([self._finished_accepted_at, *gone])
        seen_at = self._seen_at
        self._seen_at = {each.attempt_id: seen_at.get(each.attempt_id, here) for each in pending}
        return [each for each in pending if not each.completed and self._is_late(each, now, here)]

    def _is_late(self, each: Pending, now: float, here: float) -> bool:
        most_s = self._patience_s + 2 * (each.expected_s or 0.0)
        return min(now - each.accepted_at, here - self._seen_at[each.attempt_id]) > most_s

    def is_passed(self, each: Pending) -> bool:
        """True if one that was asked for later has finished."""
        return each.accepted_at < self._finished_accepted_at
