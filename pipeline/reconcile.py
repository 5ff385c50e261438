"""
What became of attempts whose answer was lost: in, pages of the service's list; out, who is adopted.

The service takes no idempotency key, but each upload has an address of its own, and the list
echoes it. So one walk of the list answers for all lost answers: newest first, without a filter,
down past the oldest row that was known before any of them was sent. Position is what counts, not
clocks. What no complete walk shows once `settle` has passed was not accepted, and is due again.
A list that cannot be walked proves nothing.

Source: https://github.com/AssemblyAI/assemblyai-api-spec, openapi.yml, listTranscripts: order by
creation, `before_id` for older rows, `audio_url` required in each.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial

import anyio

from pipeline.client import Client
from pipeline.errors import AnswerUnusable, BatchError, RecordingError
from pipeline.events import Emit, Warned
from pipeline.intake import Intake
from pipeline.ledger import Ledger
from pipeline.models import Unresolved
from pipeline.retry import retry
from pipeline.wire import Row

__all__ = ["Reconciler", "next_look_s"]

_LOOKS_S = (0.0, 5.0, 15.0, 60.0)
_LOOK_EVERY_S = 60.0
_TRIES = 3
_RANK = {"completed": 0, "processing": 1, "queued": 1}  # of several, the likeliest to be paid


def next_look_s(age_s: float, settle_s: float | None) -> float:
    """
    The age, seconds, at which an attempt is looked for next.

    Looks come at 0, 5, 15 and 60 s, then every minute, and one at `settle_s`, after which a
    complete look is the last; None never settles.
    """
    looks = [at for at in _LOOKS_S if at > age_s]
    following = looks[0] if looks else (age_s // _LOOK_EVERY_S + 1) * _LOOK_EVERY_S
    return following if settle_s is None or age_s >= settle_s else min(following, settle_s)


class Reconciler:
    """Resolves the ambiguous attempts of a ledger; holds no worker and no place meanwhile."""

    def __init__(
        self,
        ledger: Ledger,
        client: Client,
        intake: Intake,
        emit: Emit,
        settle_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._client = client
        self._intake = intake
        self._emit = emit
        self._settle_s = settle_s
        self._clock = clock
        self._wanted: dict[str, int] = {}
        self._looked_at: dict[int, float] = {}
        # By a clock that nobody sets: one that jumps ahead must not prove that a row is not there.
        # So what an earlier run left settles anew, beside the work of this one.
        self._since: dict[int, float] = {}
        self._woken = anyio.Event()
        self._is_finished = False
        self.newest_listed: str | None = None
        """Id of the newest transcript that is known to be listed."""

    def seen(self, rows: Sequence[Row], *, is_newest: bool) -> None:
        """Take note of a page that somebody else has read; `is_newest` if the list begins so."""
        if is_newest and rows:
            self.newest_listed = rows[0].id
        for row in rows:
            if row.audio_url in self._wanted:
                self._looked_at.pop(self._wanted.pop(row.audio_url), None)
                self.wake()

    def wake(self) -> None:
        """There may be an answer to look for."""
        self._woken.set()

    def finish(self) -> None:
        """Nothing can become ambiguous any more."""
        self._is_finished = True
        self.wake()

    async def run(self) -> None:
        """Look for lost answers until `finish`; park what cannot be decided in this run."""
        while not self._is_finished and self._intake.collects:
            self._woken = anyio.Event()
            unresolved = await self._ledger.unresolved()
            self._wanted = {each.upload_url: each.attempt_id for each in unresolved}
            now = self._clock()
            for each in unresolved:
                self._since.setdefault(each.attempt_id, now)
            due_s = [self._due_s(each, now) for each in unresolved]
            if due_s and min(due_s) <= 0:
                self._looked_at = {each.attempt_id: now for each in unresolved}
                try:
                    await self._look(unresolved)
                except RecordingError as error:
                    await self._park(unresolved, f"the service's list cannot be read: {error}")
                except BatchError as error:
                    self._intake.end(error)
                self._intake.changed()
                continue
            with anyio.move_on_after(min([*due_s, _LOOK_EVERY_S])):
                await self._woken.wait()

    def _due_s(self, attempt: Unresolved, now: float) -> float:
        """Seconds until an attempt is to be looked for."""
        last = self._looked_at.get(attempt.attempt_id)
        if last is None:
            return 0.0
        since = self._since[attempt.attempt_id]
        return since + next_look_s(last - since, self._settle_s) - now

    async def _look(self, unresolved: Sequence[Unresolved]) -> None:
        """One walk for all: adopt what it shows, conclude on what it does not."""
        began = self._clock()
        matches = await self._walk(unresolved)
        undecided, absent = [], 0
        for attempt in unresolved:
            rows = matches.get(attempt.upload_url, [])
            if rows:
                await self._adopt(attempt, rows)
            elif self._settle_s is None:
                undecided.append(attempt)
            elif began - self._since[attempt.attempt_id] >= self._settle_s:
                await self._ledger.record_not_accepted(attempt.attempt_id, _TRIES)
                absent += 1
        if absent:  # once for all: what was lost in one moment is one sign of trouble
            self._intake.lost("submits come to nothing")
        stale = [a for a in undecided if began - self._since[a.attempt_id] >= _LOOKS_S[-1]]
        if stale:
            await self._park(
                stale, "nobody knows whether the service accepted it (`--settle never`)"
            )

    async def _walk(self, unresolved: Sequence[Unresolved]) -> dict[str, list[Row]]:
        """
        The rows of every lost attempt, by `audio_url`; returns only when the walk was complete.

        Raises:
            RecordingError: a page could not be read, or is the one before it again.
        """
        wanted = {each.upload_url for each in unresolved}
        anchors = {each.anchor for each in unresolved}
        found: dict[str, list[Row]] = {}
        before_id = None
        while True:
            rows = await retry(partial(self._client.list, before_id=before_id))
            if before_id is None and rows:
                self.newest_listed = rows[0].id
            for row in rows:
                if row.audio_url in wanted:
                    found.setdefault(row.audio_url, []).append(row)
                anchors.discard(row.id)
            # Every anchor passed: whatever is further down was there before the first of them.
            if not anchors or not rows:
                return found
            if rows[-1].id == before_id:
                raise AnswerUnusable("the list does not go on")
            before_id = rows[-1].id

    async def _adopt(self, attempt: Unresolved, rows: list[Row]) -> None:
        oldest_first = rows[::-1]
        best, *others = sorted(oldest_first, key=lambda row: _RANK.get(row.status, len(_RANK)))
        if await self._ledger.record_accepted(attempt.attempt_id, best.id):
            self._intake.entered(attempt.attempt_id)
        else:
            await self._park([attempt], f"the service lists {best.id} for two uploads")
        for other in others:
            self._emit(
                Warned(
                    message=f"the service lists one upload twice: transcript {other.id}"
                    f" is not used, {best.id} is"
                )
            )

    async def _park(self, attempts: Sequence[Unresolved], reason: str) -> None:
        await self._ledger.park([each.attempt_id for each in attempts], reason)
