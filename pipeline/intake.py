"""
How much may be under way, and whether more is taken in: one object that all stages of a run ask.

In: what was claimed, what the service has, what is saved, what went wrong for all. Out: leave to
go on. Three counts hold the back-pressure: claimed recordings stay within `uploads` of the free
places at the service, transcripts there within `in_flight`, and so do finished ones that are not
saved yet. Leftovers of an earlier run may exceed a count; nothing new starts until they are below.
`in_flight` is what was set, or less where the account turns out to work on fewer.
"""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio

from pipeline.allowance import Allowance, Amount
from pipeline.breaker import Breaker
from pipeline.errors import BatchError, ExitCode, WindowClosed
from pipeline.places import Places
from pipeline.settings import Settings

__all__ = ["Intake", "usual_s"]

_LEAST_APART_S = 2.0
_USUAL_S = 45.0
_USUAL_RTF = 0.012
"""How long the service works. Source: AssemblyAI FAQ: most take less than 45 s, 195 minutes 133 s,
and 501 minutes 300 s."""


def usual_s(duration_s: float) -> float:
    """Seconds that the service usually works on so many seconds of audio."""
    return _USUAL_S + duration_s * _USUAL_RTF


class Intake:
    """The gate of one run. Everything here is done between two awaits, so nothing is half done."""

    def __init__(self, in_flight: int, uploads: int, allowance: Allowance | None = None) -> None:
        self.in_flight = in_flight
        self.allowance = allowance or Allowance(Settings())
        """What may still be asked for."""
        self._places = Places(in_flight)
        self._observed_at = -math.inf
        self._was_full = False
        self._uploads = uploads
        self._claimed: set[int] = set()
        self._unsent: set[int] = set()
        self._undecided: set[int] = set()
        self._sent = 0
        self._at_service: set[int] = set()
        self._unsaved: set[int] = set()
        self._overtaken: set[int] = set()
        self._changed = anyio.Event()
        self._slot_turn = anyio.Lock(fast_acquire=True)
        self._slot_free = anyio.Event()
        self._uploading: set[anyio.CancelScope] = set()
        self._fetching: set[anyio.CancelScope] = set()
        self.refused_options: dict[str, str] = {}
        """Canonical options, or lists of models, that the service refuses, and what it said."""
        self.breaker = Breaker()
        """Whose fault refusals are."""
        self._alone: set[str] = set()
        self._troubled: set[tuple[str, int]] = set()
        self.ends: dict[ExitCode, str] = {}
        """What ended the intake, each with its cause in a few words, as it was given first."""
        self._reasons: dict[ExitCode, str] = {}
        self.is_open = True
        self.collects = True
        """Whether what the service has accepted is still fetched."""
        self.ended = anyio.Event()
        """Set once it is not fetched any more."""
        self.closes_at = math.inf
        """When the window of the run closes, Unix seconds."""

    # --- room ---------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more recordings may be claimed now."""
        under_way = len(self._claimed) + len(self._at_service)
        return max(0, self.in_flight + self._uploads - under_way) if self.is_open else 0

    @property
    def is_busy(self) -> bool:
        """True while anything is under way to the service."""
        return bool(self._claimed)

    @property
    def is_full(self) -> bool:
        """True while there is no place at the service."""
        return max(len(self._at_service), len(self._unsaved)) >= self.in_flight

    async def until_slot(self) -> bool:
        """Wait for a place at the service; False when the intake ended meanwhile."""
        async with self._slot_turn:  # one waits for the next place, the others for their turn
            while self.is_open and self.is_full:
                self._was_full = True
                await self._slot_free.wait()
        return self.is_open

    def observed(self, *, processing: int, queued: int) -> int | None:
        """
        Take in what a whole sweep of the list says of our transcripts; adapts `in_flight`.

        How many the account works on at once, the first time that these are too few for what was
        set; None otherwise. Of sweeps less than 2 s apart some are left out.
        """
        now = anyio.current_time()
        if now < self._observed_at + _LEAST_APART_S:
            return None
        self._observed_at = now
        is_full, self._was_full = self._was_full, self.is_full
        before, was_enough = self.in_flight, self._places.was_enough
        self.in_flight = self._places.observed(processing, queued, is_full=is_full)
        if self.in_flight > before:
            self.changed()
        return self._places.worked_on if was_enough and not self._places.was_enough else None

    @property
    def next_change(self) -> anyio.Event:
        """
        Set as soon as anything here or in the ledger may be different.

        Take it before looking at what is awaited, or a change between the two is missed.
        """
        return self._changed

    def changed(self) -> None:
        """Wake whoever waits."""
        self._changed.set()
        self._changed = anyio.Event()
        if not (self.is_open and self.is_full):
            self._slot_free.set()
            self._slot_free = anyio.Event()

    def claim(self, recording_id: int, *, is_new: bool = True) -> None:
        """One more recording is under way to the service; `is_new` if for the first time."""
        self._claimed.add(recording_id)
        self._undecided.add(recording_id)
        if is_new:
            self._unsent.add(recording_id)

    def sending(self, recording_id: int) -> None:
        """Its bytes are sent from now on, or were before."""
        if recording_id in self._unsent:
            self._unsent.discard(recording_id)
            self._sent += 1
        if recording_id in self._undecided:
            self._undecided.discard(recording_id)
            self.changed()

    def release(self, recording_id: int) -> None:
        """It is not under way any more."""
        self._claimed.discard(recording_id)
        self._unsent.discard(recording_id)
        self._undecided.discard(recording_id)
        self.changed()

    @property
    def taken_in(self) -> int:
        """What a limit counts: new recordings that were sent, or may be of those under way."""
        return self._sent + len(self._unsent)

    @property
    def is_undecided(self) -> bool:
        """Whether any of those under way may turn out not to be sent."""
        return bool(self._undecided)

    def entered(self, attempt_id: int) -> None:
        """The service has one more transcript of ours."""
        if attempt_id not in self._overtaken:
            self._at_service.add(attempt_id)
        self._unsaved.discard(attempt_id)
        self.changed()

    def overtaken(self, attempt_id: int) -> None:
        """A transcript takes no place any more, though the service has not finished it."""
        if attempt_id not in self._overtaken:
            self._overtaken.add(attempt_id)
            self.left(attempt_id)

    def finished(self, attempt_id: int) -> None:
        """The service says that it has finished a transcript, which is still to be saved."""
        self._at_service.discard(attempt_id)
        self._unsaved.add(attempt_id)
        self.changed()

    def left(self, attempt_id: int) -> None:
        """A transcript is saved, or came to nothing."""
        self._at_service.discard(attempt_id)
        self._unsaved.discard(attempt_id)
        self.changed()

    # --- the end ------------------------------------------------------------------------------

    @contextmanager
    def uploading(self) -> Iterator[anyio.CancelScope]:
        """A scope that is cancelled when the intake ends: an upload costs nothing to repeat."""
        with _within(self._uploading, is_over=not self.is_open) as scope:
            yield scope

    @contextmanager
    def fetching(self) -> Iterator[anyio.CancelScope]:
        """A scope that is cancelled when nothing is fetched any more."""
        with _within(self._fetching, is_over=not self.collects) as scope:
            yield scope

    @property
    def exit_code(self) -> ExitCode:
        """The worst of what ended the intake; `DONE` while it is open or when it ran to its end."""
        return ExitCode.worst(*self.ends)

    @property
    def reason(self) -> str | None:
        """Why the intake ended; None while it is open or when it ran to its end."""
        return self._reasons.get(self.exit_code)

    def end(self, error: BatchError) -> None:
        """Take nothing more in, since every recording would fail alike."""
        self._end(error.exit_code, str(error), error.cause, collects=error.collect)

    def stop(self, exit_code: ExitCode, reason: str) -> None:
        """Take nothing more in, and fetch nothing more, since the user said so."""
        self._end(exit_code, reason, reason, collects=False)

    def _end(self, exit_code: ExitCode, reason: str, cause: str, *, collects: bool) -> None:
        self.ends.setdefault(exit_code, cause)
        self._reasons.setdefault(exit_code, reason)
        self.is_open = False
        self.collects = self.collects and collects
        if not self.collects:
            self.ended.set()
        for scope in self._uploading if self.collects else self._uploading | self._fetching:
            scope.cancel()
        self.changed()

    async def grant(
        self, attempt_id: int, amount: Amount, now: float, *, is_backlog: bool = False
    ) -> bool:
        """
        Whether a recording may be asked for, what it comes to being set aside for it.

        Where a cap or the window stands against it, the intake ends.

        Raises:
            RecordingTooCostly: it alone is more than a cap.
        """
        try:
            if not await self.allowance.reserve(attempt_id, amount, is_backlog=is_backlog):
                return False
            self.require_time(attempt_id, now)
        except BatchError as error:
            self.end(error)
            return False
        return True

    def require_time(self, attempt_id: int, now: float) -> None:
        """
        Leave to ask for a transcript that will take so long as is usual for its audio.

        Raises:
            WindowClosed: it would not be finished before the window closes.
        """
        if now + usual_s(self.allowance.duration_s(attempt_id)) > self.closes_at:
            raise WindowClosed("the window closes before what is asked for now would be finished")

    @asynccontextmanager
    async def asking(self, call: str, options: str = "") -> AsyncIterator[None]:
        """A request's turn: where all may be refused alike, they are sent one by one."""
        while self.is_open and self.breaker.is_suspected(call, options):
            if call not in self._alone:
                self._alone.add(call)
                try:
                    yield
                finally:
                    self._alone.discard(call)
                    self.changed()
                return
            await self._changed.wait()
        yield

    def is_first(self, trouble: str, recording_id: int) -> bool:
        """Whether a recording is in this kind of trouble for the first time in this run."""
        is_first = (trouble, recording_id) not in self._troubled
        self._troubled.add((trouble, recording_id))
        return is_first


@contextmanager
def _within(scopes: set[anyio.CancelScope], *, is_over: bool) -> Iterator[anyio.CancelScope]:
    with anyio.CancelScope() as scope:
        scopes.add(scope)
        if is_over:
            scope.cancel()
        try:
            yield scope
        finally:
            scopes.discard(scope)
