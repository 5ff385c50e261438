"""
A dry run: in, scans and a copy of the ledger; out, what a run would ask for, and leave.

    scan ─► ledger ─► claims ─► looked at ─► gates of the run: at the most, at the least, by nights

A gate is the run's own `Intake` with its `Allowance`; what a recording comes to is settled at once,
as the service may do it. Where lengths, prices and copies are certain, both ends settle alike, and
what they let pass is what the run sends. Else the run is somewhere between: whatever the recordings
come to, it sends what has its turn while each counts for the most, and nothing that has none while
each counts for the least.

A head is read of each recording that is due; whole only what is no larger than that.
"""

import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from pipeline.allowance import Amount, amount_of
from pipeline.durations import Duration, duration_of
from pipeline.errors import RecordingChanged, RecordingError, RecordingTooCostly
from pipeline.events import Failed, Parked, Skipped, moment
from pipeline.intake import Intake, usual_s
from pipeline.ledger import BACKLOG
from pipeline.models import Claim, Turn, Uploaded
from pipeline.settings import Settings
from pipeline.stages import Context
from pipeline.stages.scan import Scan
from pipeline.stages.upload import (
    EDGES_BYTES,
    UNKNOWN_RESULT,
    Source,
    amount_uploaded,
    is_left,
)

__all__ = ["Forecast", "Share", "foresee"]

TO_BE_SENT = "to be sent without `--dry-run`"
MAY_BE_SENT = "to be sent if what comes before comes to less than it may"
COPY = "equal to another recording: its result is written at no cost"

_REQUESTS = 3  # upload, submit, and the result
_CUTS = {"audio_start_from", "audio_end_at"}
"""Options with which less may be heard, and billed, than a recording holds."""


@dataclass(slots=True)
class Share:
    """What would be asked for, or a part of it."""

    recordings: int = 0
    duration_s: float = 0.0
    cost_usd: float | None = 0.0
    """None where a model has no price."""
    size: int = 0
    """Bytes."""

    def add(self, amount: Amount, size: int) -> None:
        """One recording more."""
        self += Share(1, amount.duration_s, amount.price_usd, size)

    def __iadd__(self, other: "Share") -> "Share":
        self.recordings += other.recordings
        self.duration_s += other.duration_s
        self.size += other.size
        is_known = self.cost_usd is not None and other.cost_usd is not None
        self.cost_usd = (self.cost_usd or 0.0) + (other.cost_usd or 0.0) if is_known else None
        return self

    def within(self, most: Amount, recordings: int | None) -> "Share":
        """The same, but no more than that."""
        cost_usd, most_usd = self.cost_usd, most.price_usd
        if cost_usd is not None and most_usd is not None:
            cost_usd = min(cost_usd, most_usd)
        count = self.recordings if recordings is None else min(self.recordings, recordings)
        return Share(count, min(self.duration_s, most.duration_s), cost_usd, self.size)


@dataclass(slots=True)
class Forecast:
    """What a run would do, if nothing fails and no window closes."""

    left: Amount
    """The most that caps leave to it."""
    limit: int | None
    least_of: dict[str, Share] = field(default_factory=dict)
    """What it asks for in any case, by root."""
    most_of: dict[str, Share] = field(default_factory=dict)
    """All that it may ask for, by root."""
    later: Share = field(default_factory=Share)
    """What it leaves to the runs after it, at the most."""
    unprobed: int = 0
    """Of the most: recordings whose length is estimated."""
    possible_copies: int = 0
    """Of the most: recordings that may be equal to another one, so that nothing is asked for."""
    nights: int | None = 0
    """Runs like this one until nothing is left; None where these never come to that."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Recordings that it comes to, by what becomes of them."""
    may_be_sent: Counter[str | None] = field(default_factory=Counter)
    """Those that it may come to, by why it leaves them if it does not, as `standing` has it."""
    standing: Counter[tuple[str, str, str | None]] = field(default_factory=Counter)
    """What `Ledger.standing` tells when the intake is over."""
    waiting: int = 0
    """Recordings that wait then for the transcript of an equal one."""
    kept_hours: float = 0.0
    """What `Ledger.kept_hours` tells then."""
    takes_s: float | None = None
    """How long it takes, about; None where nobody knows how fast the line is."""

    def least(self, roots: Iterable[str] | None = None) -> Share:
        """What is asked for in any case, of all roots or of these."""
        return _sum(self.least_of, roots)

    def most(self, roots: Iterable[str] | None = None) -> Share:
        """What is asked for at the most, of all roots or of these."""
        return _sum(self.most_of, roots).within(self.left, self.limit)

    def name(self, parked: Counter[str], not_come_to: str) -> None:
        """Tell apart, among reasons why recordings are parked, what becomes of those."""
        parked.update(self.reasons + Counter({COPY: self.waiting}))
        parked[not_come_to] -= self.reasons.total() + self.waiting
        for reason, count in self.may_be_sent.items():
            parked[MAY_BE_SENT] += count
            parked[reason or not_come_to] -= count
        for reason in [reason for reason, count in parked.items() if not count]:
            del parked[reason]


def _sum(shares: Mapping[str, Share], roots: Iterable[str] | None) -> Share:
    total = Share()
    for root in shares if roots is None else set(roots) & shares.keys():
        total += shares[root]
    return total


class _Likeness(IntEnum):
    """Whether a recording is a copy of one that is asked for, or paid."""

    NONE = 0
    POSSIBLE = 1
    CERTAIN = 2


@dataclass(frozen=True, slots=True)
class _Look:
    """A recording that is due, and what it comes to."""

    claim: Claim
    reserved: Amount
    """What the gate sets aside for it."""
    most: Amount
    """What the service may bill: hours are of the recording, dollars of each channel."""
    least: Amount
    likeness: _Likeness = _Likeness.NONE
    edges: tuple[int, str] | None = None
    """Size and edges of one that nobody has read, for equal ones to come."""


async def foresee(context: Context, scans: Sequence[Scan]) -> Forecast:
    """What a run would do; all that is due is claimed, in a copy of the ledger."""
    for scan in scans:
        await scan.run(context.ledger, context.emit)
    foresight, ledger = _Foresight(context), context.ledger
    forecast = foresight.forecast
    async for claim in foresight.claims():
        await foresight.take(claim)
    forecast.standing = await ledger.standing(context.settings.gives_up_after)
    forecast.waiting = await ledger.waiting()
    forecast.kept_hours = await ledger.kept_hours()
    async for claim in foresight.claims(is_over=True):
        await foresight.look_beyond(claim)
    forecast.takes_s = _takes_s(forecast.most(), context.settings, await _bytes_per_s(context))
    return forecast


class _Gate:
    """The gate of one run, at one end of what recordings may come to."""

    def __init__(self, context: Context, intake: Intake, *, is_least: bool = False) -> None:
        self.intake = intake
        self._context = context
        self._is_least = is_least

    def next_run(self, *, is_least: bool = False) -> "_Gate":
        """That of the run after it."""
        settings = self._context.settings
        allowance = self.intake.allowance.next_run()
        intake = Intake(settings.in_flight, settings.uploads.max, allowance)
        return _Gate(self._context, intake, is_least=is_least)

    async def lets_pass(self, look: _Look) -> bool:
        """
        Whether the run comes to a recording.

        Raises:
            RecordingTooCostly: as `Intake.grant` does.
        """
        context, intake, claim = self._context, self.intake, look.claim
        limit = context.settings.limit
        if not intake.is_open or (limit is not None and intake.taken_in >= limit):
            return False
        if self._is_least and look.likeness:
            return True  # a copy takes nothing from the others
        is_backlog = context.is_rationed and claim.turn == Turn.BACKLOG
        attempt_id, now = claim.attempt_id, context.ledger.now()
        if not await intake.grant(attempt_id, look.reserved, now, is_backlog=is_backlog):
            return False
        intake.claim(claim.recording_id)
        intake.sending(claim.recording_id)
        intake.release(claim.recording_id)
        if look.likeness == _Likeness.CERTAIN:  # uploaded perhaps, but not asked for
            intake.allowance.release(attempt_id)
        else:
            billed = look.least if self._is_least else look.most
            intake.allowance.settle(attempt_id, billed.duration_s, billed.price_usd)
        return True


class _Foresight:
    """A forecast while it is made."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._most = _Gate(context, context.intake)
        self._least = self._most.next_run(is_least=True)
        self._night = self._most.next_run()
        self._is_over = False
        self.forecast = Forecast(context.intake.allowance.left, context.settings.limit)

    async def claims(self, *, is_over: bool = False) -> AsyncIterator[Claim]:
        """
        What the run takes in, as `feed` does; then, with `is_over`, all that it leaves.

        One by one: what is claimed holds back equal ones, which may come before it.
        """
        intake, ledger, limit = self._most.intake, self._context.ledger, self.forecast.limit
        self._is_over = is_over
        while is_over or intake.is_open:
            anew = is_over or limit is None or intake.taken_in < limit
            backlog = is_over or intake.allowance.takes_backlog
            due_in_s = await ledger.next_due(anew=anew, backlog=backlog)
            if due_in_s is None or due_in_s > 0:
                break
            for claim in await ledger.claim(1, anew=anew, backlog=backlog):
                yield claim

    async def take(self, claim: Claim) -> None:
        """One more recording that the run takes in."""
        look = await self._look(claim)
        if look is None:
            return
        try:
            passes = await self._most.lets_pass(look)
        except RecordingTooCostly as error:
            if look.likeness:  # read whole by the run before it asks what that comes to
                self.forecast.reasons[f"{error}, unless it is equal to another recording"] += 1
            else:
                await self._skip(claim, error)
            return
        if not passes:
            await self._context.ledger.put_back(claim)
            return
        await self._least.lets_pass(look)
        await self._count_nights(look)
        await self._keep_in_mind(look)
        is_copy = look.likeness == _Likeness.CERTAIN
        self.forecast.reasons[COPY if is_copy else TO_BE_SENT] += 1
        if look.likeness == _Likeness.NONE:
            share = self.forecast.least_of.setdefault(claim.root, Share())
            share.add(look.least, claim.size)
        self._add_most(look)

    async def look_beyond(self, claim: Claim) -> None:
        """One more recording that it leaves, unless others come to less than they may."""
        look, may_pass = await self._look(claim), False
        if look is None:
            return
        with suppress(RecordingTooCostly):
            may_pass = await self._least.lets_pass(look)
            await self._count_nights(look)
        await self._keep_in_mind(look)
        if look.likeness != _Likeness.CERTAIN:
            self.forecast.later.add(look.most, claim.size)
        if may_pass:
            self._add_most(look)
            if not claim.is_redo:  # else it is kept until it is claimed
                reason = BACKLOG if claim.turn == Turn.BACKLOG else None
                self.forecast.may_be_sent[reason] += 1

    async def _keep_in_mind(self, look: _Look) -> None:
        if look.edges is not None:
            await self._context.ledger.record_edges(look.claim, *look.edges)

    def _add_most(self, look: _Look) -> None:
        if look.likeness != _Likeness.CERTAIN:
            forecast, claim = self.forecast, look.claim
            forecast.most_of.setdefault(claim.root, Share()).add(look.most, claim.size)
            forecast.unprobed += not look.reserved.is_probed
            forecast.possible_copies += look.likeness == _Likeness.POSSIBLE

    async def _count_nights(self, look: _Look) -> None:
        forecast = self.forecast
        if forecast.nights is None:
            return
        forecast.nights = forecast.nights or 1
        if await self._night.lets_pass(look):
            return
        self._night = self._night.next_run()
        forecast.nights += 1
        if not await self._night.lets_pass(look):
            forecast.nights = None

    # --- a recording --------------------------------------------------------------------------

    async def _look(self, claim: Claim) -> _Look | None:
        """What a recording comes to; None where it comes to nothing, which is noted."""
        context, ledger = self._context, self._context.ledger
        try:
            if claim.uploaded is not None:
                return await self._look_at_upload(claim, claim.uploaded)
            async with await Source.open(
                context.where(claim.root, claim.path),
                follow_links=context.settings_of(claim.root).follow_links,
                chunk_bytes=EDGES_BYTES,
                place=context.place(claim.result) if context.settings.output else None,
            ) as source:
                return await self._look_into(claim, source)
        except RecordingChanged as error:
            await self._skip(claim, error)
        except RecordingError as error:
            await ledger.fail_upload(claim, str(error), None, 1)
            self._tell(Failed, claim, str(error))
        return None

    async def _look_into(self, claim: Claim, source: Source) -> _Look | None:
        context, ledger, likeness = self._context, self._context.ledger, _Likeness.NONE
        if claim.content is None:
            is_known, is_here = await ledger.likeness(claim, source.size, source.edges)
            if is_known and source.is_whole:
                if not await ledger.recognise(claim, await source.read()):
                    return None
            elif is_known or is_here:
                likeness = _Likeness.CERTAIN if source.is_whole else _Likeness.POSSIBLE
        if await self._leaves(claim):
            return None
        edges = (source.size, source.edges) if claim.content is None else None
        settings, duration = context.settings, await source.probed()
        most, least = _billed(duration, claim.options, settings)
        reserved = amount_of(duration, claim.options, settings)
        return _Look(claim, reserved, most, least, likeness, edges)

    async def _look_at_upload(self, claim: Claim, uploaded: Uploaded) -> _Look | None:
        """An upload of an earlier run, of which the file that is there may tell more."""
        context, settings = self._context, self._context.settings
        if await self._leaves(claim):
            return None
        reserved = amount_uploaded(claim, uploaded, settings)
        with suppress(OSError):
            duration = await duration_of(context.where(claim.root, claim.path), claim.size)
            if amount_of(duration, claim.options, settings) == reserved:
                return _Look(claim, reserved, *_billed(duration, claim.options, settings))
        nothing = Amount(0.0, 0.0 if reserved.price_usd is not None else None)
        return _Look(claim, reserved, reserved, nothing)

    async def _leaves(self, claim: Claim) -> bool:
        """Whether the run leaves a recording alone, which is noted."""
        if not await is_left(self._context, claim):
            return False
        self._tell(Parked, claim, UNKNOWN_RESULT)
        if not self._is_over:
            self.forecast.reasons[UNKNOWN_RESULT] += 1
        return True

    async def _skip(self, claim: Claim, error: RecordingError) -> None:
        await self._context.ledger.skip(claim, str(error))
        self._tell(Skipped, claim, str(error))

    def _tell(self, kind: type[Failed | Parked | Skipped], claim: Claim, reason: str) -> None:
        if not self._is_over:  # nothing is said of what the run does not come to
            label = self._context.label(claim.root, claim.path)
            self._context.emit(kind(recording=label, reason=reason))


def _billed(
    duration: Duration, options: Mapping[str, Any], settings: Settings
) -> tuple[Amount, Amount]:
    """What the service may bill for so much sound, at the most and at the least."""
    seconds = math.ceil(duration.seconds)
    most = Amount(seconds, amount_of(duration, options, settings).price_usd)
    if not duration.is_probed or options.keys() & _CUTS:
        seconds = 0
    channels = (duration.channels or 1) if options.get("multichannel") else 1
    price = settings.lowest_price(options)
    return most, Amount(seconds, None if price is None else price * seconds * channels / 3600)


# --- how long it takes ----------------------------------------------------------------------------


async def _bytes_per_s(context: Context) -> float | None:
    """How fast uploads go, by what the last ones did and by `bwlimit`; None where neither says."""
    rates = [await context.ledger.upload_rate()]
    if context.settings.bwlimit is not None:
        rates.append(context.settings.bwlimit.limit_at(moment(context.ledger.now(), None)))
    return min((rate for rate in rates if rate is not None), default=None)


def _takes_s(due: Share, settings: Settings, bytes_per_s: float | None) -> float | None:
    """How long so much takes: uploads, places and requests go on side by side."""
    if not due.recordings:
        return 0.0
    if bytes_per_s is None or settings.provider == "local":
        return None
    worked_s = due.recordings * usual_s(due.duration_s / due.recordings)
    requests_per_s = settings.requests.count * settings.share / settings.requests.window_s
    return max(
        due.size / bytes_per_s,
        worked_s / settings.concurrency,
        due.recordings * _REQUESTS / requests_per_s,
    ) + usual_s(due.duration_s / due.recordings)
