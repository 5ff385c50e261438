"""
Outages, and the wait for their end: in, requests that failed; out, leave to repeat them.

    two of a kind fail, the second sent after the first, and none got through since
      ─► a free probe of the kind ─► gets through ─► both failed by themselves
                                  └► fails ─► the kind is down, and all of it waits
                                               ─► a probe gets through ─► all are sent again

What waits for an outage uses up no try and no time. A kind is down by itself, or, where nothing
can be connected to, all are. Probes are calls that cost nothing, one at a time, 0.5 s apart,
doubling to 30 s; never a submit: those are sent one by one while their answers get lost, each once
it is known what became of the one before.
"""

import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import tzinfo
from functools import partial
from typing import TypeVar

import anyio

from pipeline import events
from pipeline.client import Client
from pipeline.errors import (
    AttemptsExhausted,
    ConnectionLost,
    PipelineError,
    RecordingError,
    ServiceUnavailable,
    ServiceUnusable,
    TranscriptUnknown,
    TransientError,
)
from pipeline.events import Emit
from pipeline.intake import Intake
from pipeline.retry import retry
from pipeline.wire import parse_head

__all__ = ["OUTAGE_PATIENCE_S", "Outages"]

OUTAGE_PATIENCE_S = 1800.0
"""Seconds for which an outage is waited for where nobody says otherwise."""

R = TypeVar("R")
Probe = Callable[[], Awaitable[object]]

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 30.0
_NOBODY = "00000000-0000-0000-0000-000000000000"  # an id: that it is unknown is an answer
_SOUND = b"\0" * 16  # an upload that is never submitted costs nothing

_WORDS = {
    "list": "the service's list cannot be read",
    "get": "results cannot be fetched",
    "upload": "uploads do not get through",
    "submit": "submits come to nothing",
}


class Outages:
    """
    The outages of a run, by kind of call: `list`, `get` with all that is free, `upload`, `submit`.

    They are waited for within `watched`, once anything got through, and for `patience_s` each:
    then what needs the calls is given up, and but for the list the intake ends. `clock` tells the
    time, Unix seconds, and `zone` where it is shown.
    """

    def __init__(
        self,
        client: Client,
        intake: Intake,
        emit: Emit,
        *,
        patience_s: float = OUTAGE_PATIENCE_S,
        zone: tzinfo | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._intake = intake
        self._emit = emit
        self._patience_s = patience_s
        self._zone = zone
        self._clock = clock
        self._probes: Mapping[str, Probe] = {
            "list": lambda: client.list(limit=1),
            "get": lambda: _look(client),
            "upload": lambda: client.upload(_SOUND, len(_SOUND)),
        }
        self._is_watching = False
        self._said = ""
        self._down: dict[str, float] = {}
        """The kinds that are down, and since when."""
        self._failed_at: dict[str, float] = {}
        """The first failure of each kind since one of it got through."""
        self._given_up = set[str]()
        self.over = Counter[str]()
        """The number of outages that are over, by kind."""
        self._any_down = anyio.Event()
        self._turn = anyio.Lock()
        self._submit_turn = anyio.Lock()
        self._lost_at: float | None = None
        """The time of the first lost submit since one was answered."""
        self._is_alone = False
        self._undecided: int | None = None
        """The attempt of the last submit that was sent alone, and lost."""

    # --- what is known ------------------------------------------------------------------------

    def is_down(self, kind: str) -> bool:
        """True while nothing of a kind gets through, as far as is known."""
        return kind in self._down

    @property
    def is_total(self) -> bool:
        """True while nothing at all gets through."""
        return self._down.keys() >= self._probes.keys()

    @property
    def reason(self) -> str | None:
        """The outage that is waited for, in words; None where work goes on, if without the list."""
        return self._said if self._down.keys() - {"list"} else None

    async def begin_without_list(self, failure: BaseException | None) -> bool:
        """
        True if the service answers, though its list does not; the list counts as down then.

        Raises:
            BatchError: as `Client.fetch` does.
        """
        try:
            await self._probes["get"]()
        except (TransientError, RecordingError) as error:
            if not isinstance(error, TranscriptUnknown):
                return False
        self._went_down(["list"], ServiceUnavailable(str(failure)))
        return True

    # --- what can be repeated -----------------------------------------------------------------

    async def retry(self, kind: str, call: Callable[[], Awaitable[R]], *, attempts: int = 5) -> R:
        """
        The result of the first of so many calls that succeeds, outages not counted.

        Raises:
            AttemptsExhausted: it failed again and again while others of its kind got through; or
                an outage lasted for longer than is waited for.
        """
        passes = partial(self._passed, kind)
        return await retry(call, attempts=attempts, passes=passes, emit=self._emit)

    async def noticed(self, kind: str, error: TransientError, sent_at: float) -> bool:
        """True if a request that was sent then failed since its kind is down; waits for no end."""
        is_of_outage = isinstance(error, ConnectionLost | ServiceUnavailable)
        if not (is_of_outage and self._is_watching and self._client.answered_at):
            return False
        async with self._turn:  # one asks for all that fail at one moment
            if kind in self._down:
                return True
            answered_at = self._client.answered_at.get(kind, -math.inf)
            if answered_at >= sent_at:
                return False
            failed_at = self._failed_at.get(kind, -math.inf)
            if failed_at <= answered_at:
                failed_at = self._failed_at[kind] = anyio.current_time()
            if _is_connected(error) and sent_at < failed_at:  # once may be chance
                return False
            failure = await self._probed(kind)
            if failure is not None:
                await self._find_extent(kind, failure, failed_at)
            return failure is not None

    async def _find_extent(self, kind: str, failure: TransientError, since: float) -> None:
        """Note that a kind is down, and which others are of which none got through since then."""
        lost = [kind]
        for other in self._probes.keys() - {kind, *self._down}:
            if not _is_connected(failure) or (
                self._client.answered_at.get(other, -math.inf) < since
                and await self._probed(other) is not None
            ):
                lost.append(other)
        self._went_down(lost, failure)

    async def _passed(self, kind: str, error: TransientError, sent_at: float) -> bool:
        """True if a request failed by an outage, once that is over."""
        if not await self.noticed(kind, error, sent_at):
            return False
        while kind in self._down:
            if kind not in self._awaited or not self._intake.collects:
                raise AttemptsExhausted(f"{error} (waited for in vain)") from error
            await self._intake.next_change.wait()
        return True

    # --- submits ------------------------------------------------------------------------------

    @asynccontextmanager
    async def submitting(self) -> AsyncIterator[None]:
        """A submit's turn: where they get lost, alone, and once it is known of the one before."""
        while self.is_total and self._intake.is_open:
            await self._intake.next_change.wait()
        if self._lost_at is None or not self._is_watching:
            yield
            return
        async with self._submit_turn:
            while self._undecided is not None and self._intake.is_open:
                await self._intake.next_change.wait()
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    def submit_lost(self, sent_at: float, reason: str, attempt_id: int | None = None) -> None:
        """A submit, sent then, came to nothing; with an attempt, of which nobody knows yet."""
        if self._client.answered_at.get("submit", -math.inf) > sent_at:
            return  # others get through
        if self._lost_at is None:
            self._lost_at = anyio.current_time()
        if self._is_alone:  # those lost at one moment are one sign of trouble
            self._undecided = attempt_id
            if "submit" not in self._down and not self.is_total:
                self._went_down(["submit"], ServiceUnavailable(reason))

    def submit_taken(self) -> None:
        """The service has answered a submit."""
        if self._lost_at is not None:
            self._lost_at, self._undecided = None, None
            self._came_up("submit")
            self._intake.changed()

    def decided(self, attempt_id: int) -> None:
        """It is known what became of a submit, or left to another run."""
        if self._undecided == attempt_id:
            self._undecided = None
            self._intake.changed()

    # --- probes -------------------------------------------------------------------------------

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Wait for outages while the block is in progress."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch)
            self._is_watching = True
            try:
                yield
            finally:
                self._is_watching = False
            group.cancel_scope.cancel()

    async def _watch(self) -> None:
        """Probe what is down until it is up again."""
        while True:
            wait_s = _FIRST_WAIT_S
            while self._down:
                await anyio.sleep(min(wait_s, max(0.0, self._patience_left_s)))
                self._give_up()
                async with self._turn:
                    is_better = await self._probe_all()
                wait_s = _FIRST_WAIT_S if is_better else min(2 * wait_s, _LONGEST_WAIT_S)
            self._any_down = anyio.Event()
            await self._any_down.wait()

    @property
    def _patience_left_s(self) -> float:
        since = min((self._down[kind] for kind in self._awaited), default=math.inf)
        return since + self._patience_s - anyio.current_time()

    async def _probe_all(self) -> bool:
        """Probe every kind that is down, as long as there is a connection; whether any is up."""
        was_down = len(self._down)
        for kind in [each for each in self._probes if each in self._down]:
            failure = await self._probed(kind)
            if failure is None:
                self._came_up(kind)
            elif not _is_connected(failure):
                break
        return len(self._down) < was_down

    async def _probed(self, kind: str) -> TransientError | None:
        """The failure of a probe of this kind; None if it got through, whatever it was told."""
        try:
            await self._probes[kind]()
        except (ConnectionLost, ServiceUnavailable) as error:
            return error
        except PipelineError:
            pass
        return None

    def _went_down(self, kinds: Sequence[str], failure: TransientError) -> None:
        for each in kinds:
            self._down.setdefault(each, anyio.current_time())
        self._any_down.set()
        what = ", ".join(_WORDS[each] for each in kinds)
        if self.is_total:
            what = "the service is unreachable"
        self._said = f"{what} since {events.moment(self._clock(), self._zone):%H:%M}"
        self._tell(f"{self._said}, trying again ({failure})")
        self._intake.changed()

    def _came_up(self, kind: str) -> None:
        if kind not in self._down:
            return
        took_s = anyio.current_time() - self._down.pop(kind)
        self._given_up.discard(kind)
        self.over[kind] += 1
        if not self._down:
            self._tell(f"the service is reached again, after {took_s:.0f} s")
        self._intake.changed()

    def _give_up(self) -> None:
        """End what has waited for too long."""
        for kind in self._awaited:
            if anyio.current_time() - self._down[kind] >= self._patience_s:
                self._given_up.add(kind)
                # What is fetched does not depend on what is sent.
                collects = kind in ("upload", "submit") and not self.is_total
                reason = f"{self._said}; run again later"
                self._intake.end(ServiceUnusable(reason, cause=self._said, collect=collects))

    @property
    def _awaited(self) -> list[str]:
        """The kinds that something waits for: there are other ways than the list alone."""
        awaited = self._down.keys() - self._given_up
        return sorted(awaited if self.is_total else awaited - {"list"})

    def _tell(self, message: str) -> None:
        self._emit(events.Outage(message=message, calls=sorted(self._down)))


def _is_connected(failure: TransientError) -> bool:
    """True if a request that failed may have reached the service."""
    return not isinstance(failure, ConnectionLost) or failure.connected


async def _look(client: Client) -> None:
    """
    Ask for a transcript that there is not.

    Raises:
        TranscriptUnknown: it is answered as such.
        ServiceUnavailable: it is answered otherwise, so by another server.
    """
    parse_head(await client.answer(_NOBODY))
