"""
How many transcripts to have at the service: in, what sweeps of its list show; out, a number.

No I/O and no clock. The account may work on fewer at once than it was said to: it is a free one,
others use it, too, or its balance is negative. What is sent beyond that only queues there.
"""

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import fmean

__all__ = ["Places"]

_LEAD = 0.25  # as `Settings.in_flight` has it
_FEW = 8  # queued, they are no sign of anything: as many are submitted at once
_SWEEPS = 6
_MOST_SWEEPS = 192  # some ten minutes


class Places:
    """
    How many places at the service to take, by what each sweep of its list shows; at most `most`.

    A quarter more than it works on, once more is queued than worked on in several sweeps and what
    is worked on does not grow, though there is more to do, or all places are taken: the few of a
    slow start are no sign. The count grows with what is worked on, by a quarter where nothing is
    queued though all places are taken, and by a quarter now and then to see if that helps.

    What is queued may also be on a long way to the work. So each change but the sure ones is a
    trial: where fewer places lead to less work, or more to no more, it is taken back, and the next
    one has to wait for longer.
    """

    def __init__(self, most: int) -> None:
        self.count = self._most = most
        self.was_enough = True
        """Whether the account could always work on what `most` was meant for."""
        self.worked_on = 0
        """How many it worked on at once when `count` last became smaller."""
        self._processing = deque[int](maxlen=_SWEEPS)
        self._under_way = deque[int](maxlen=_SWEEPS)
        self._piled_up_for = self._bound_for = 0
        self._until_fewer = self._until_more = _SWEEPS
        self._trial: _Trial | None = None

    def observed(self, processing: int, queued: int, *, is_full: bool) -> int:
        """
        The new count, after a sweep that saw so many of our transcripts in these two states.

        Args:
            is_full: whether every place was taken at some time since the sweep before.
        """
        self._processing.append(processing)
        self._under_way.append(processing + queued)
        piles_up = queued > processing + _FEW
        self._piled_up_for = self._piled_up_for + 1 if piles_up else 0
        # Not while there are still more than these.
        is_bound = is_full and processing + queued <= self.count
        self._bound_for = self._bound_for + 1 if is_bound else 0
        if self._trial is not None:
            if is_bound:
                self._judge(self._trial, processing)
        elif self._piled_up_for >= self._until_fewer and self._has_too_many(is_full=is_full):
            self._try_fewer()
        elif self._bound_for >= self._until_more and self.count < self._most:
            # Half way between as many as now and as many more as there are places.
            self._trial = _Trial(self.count, fmean(self._processing) * (1 + _LEAD / 2), more=True)
            self._grow_to(self._a_quarter_more)
        if is_full and not queued:
            self._grow_to(self._a_quarter_more)
        self._grow_to(_with_lead(processing))
        return self.count

    def _has_too_many(self, *, is_full: bool) -> bool:
        seen, half = list(self._processing), _SWEEPS // 2
        is_level = 0 < max(seen[half:]) <= max(seen[:half])
        has_more = self._under_way[-1] >= self._under_way[0] * (1 + _LEAD)
        return is_level and (is_full or has_more)

    def _try_fewer(self) -> None:
        works_on = max(self._processing)
        count = _with_lead(works_on)
        if count < self.count:
            # Half way between all of it and what is left if work goes with the number of places.
            enough = fmean(self._processing) * (1 + count / self._under_way[-1]) / 2
            self._trial = _Trial(self.count, enough, more=False)
            self.count, self.worked_on, self.was_enough = count, works_on, False

    def _judge(self, trial: "_Trial", processing: int) -> None:
        trial.seen.append(processing)
        if len(trial.seen) < 2 * _SWEEPS:
            return
        self._trial, self._piled_up_for, self._bound_for = None, 0, 0
        # The first half is what was there before.
        is_right = fmean(trial.seen[_SWEEPS:]) >= trial.enough
        if not is_right:
            self.count = trial.before
        if trial.more:
            self._until_more = _SWEEPS if is_right else min(2 * self._until_more, _MOST_SWEEPS)
        elif not is_right:
            self._until_fewer = min(4 * self._until_fewer, _MOST_SWEEPS)

    @property
    def _a_quarter_more(self) -> int:
        return self.count + max(1, self.count // 4)

    def _grow_to(self, count: int) -> None:
        self.count = max(self.count, min(count, self._most))


@dataclass
class _Trial:
    """Other places than there were: are they better?"""

    before: int
    """How many there were."""
    enough: float
    """How many have to be worked on, in the mean, if they are."""
    more: bool
    seen: list[int] = field(default_factory=list)
    """How many were, in each sweep since no more than these places are taken."""


def _with_lead(count: int) -> int:
    return math.ceil(count * (1 + _LEAD))
