"""
What somebody says has finished: in, hints from outside; out, the ids to look at before their time.

A hint is never a fact. Whoever gives one may be mistaken, late, or lying, so it only moves a look
forward; what became of a transcript is what a GET of its id says. Hints that get lost are made up
for by the sweeps, hence they are few, in memory, and dropped without a word when there are too
many.
"""

import anyio

__all__ = ["Notices"]

_MOST = 10_000


class Notices:
    """Hints of one run. Everything here is done between two awaits, so nothing is half done."""

    def __init__(self, *, expected: bool = False) -> None:
        self.expected = expected
        """Whether notices come at all, so that sweeps may be slower."""
        self._noted: set[int | str] = set()
        self._next_change = anyio.Event()

    @property
    def next_change(self) -> anyio.Event:
        """
        Set as soon as there is a new notice.

        Take it before taking the notices, or one that comes between the two is missed.
        """
        return self._next_change

    def add(self, which: int | str) -> None:
        """
        Note an attempt (its id) or a transcript (its id) that is worth a look.

        What is noted already changes nothing. Above 10,000 that nobody has taken, more are dropped.
        """
        if which in self._noted or len(self._noted) >= _MOST:
            return
        self._noted.add(which)
        self._next_change.set()
        self._next_change = anyio.Event()

    def take(self) -> set[int | str]:
        """What was noted since it was last taken; it is forgotten here."""
        noted, self._noted = self._noted, set()
        return noted
