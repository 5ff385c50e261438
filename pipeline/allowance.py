"""
What a run may still ask for: in, what a recording is expected to come to; out, leave to ask.

An amount is reserved before anything is sent, settled by what the service says it was, and given
back where nothing was asked for after all. So a cap holds at any instant, also while answers are
out. Reservations are made in the order in which recordings come; one that fits no more waits until
all before it are settled, since they may come to less than was expected of them. So what a run asks
for depends on its recordings, and not on which answer comes first: a dry run can tell it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio

from pipeline.durations import Duration
from pipeline.errors import CapReached, RecordingTooCostly, SettingsError
from pipeline.settings import Settings

__all__ = [
    "MOST_CHANNELS",
    "NOTHING",
    "Allowance",
    "Amount",
    "amount_of",
    "priced",
    "unpriced",
]

_TOLERANCE = 1e-9
"""What sums of floats may be off by: far below a cent, and a second."""

MOST_CHANNELS = 8
"""Channels that a recording counts as which does not tell them.

The vendor names no limit. FLAC and AAC have no more, Opus and Vorbis none more that are told apart.
Source: RFC 9639, 9.1.3; RFC 7845, 5.1.1.
"""


@dataclass(frozen=True, slots=True)
class Amount:
    """What is asked for."""

    duration_s: float
    """Seconds of audio."""
    price_usd: float | None
    """None where no price is known."""
    is_probed: bool = True
    """Whether the recording itself told its length, and its channels where these count; else they
    are estimated."""


NOTHING = Amount(0.0, 0.0)


def amount_of(duration: Duration, options: Mapping[str, Any], settings: Settings) -> Amount:
    """
    What so much sound will come to at the most, with these options.

    Source: AssemblyAI docs: charged to the second, by the model used. Whether channels are charged
    one by one is not said: they are taken to be.
    """
    seconds, is_probed = math.ceil(duration.seconds), duration.is_probed
    if options.get("multichannel"):
        seconds *= duration.channels or MOST_CHANNELS
        is_probed = is_probed and duration.channels is not None
    return priced(seconds, options, settings, is_probed=is_probed)


def priced(
    seconds: float, options: Mapping[str, Any], settings: Settings, *, is_probed: bool = True
) -> Amount:
    """So many seconds as they are charged, at the dearest model of these options."""
    price = settings.highest_price(options)
    return Amount(seconds, None if price is None else price * seconds / 3600, is_probed)


def unpriced(model: str | None, settings: Settings) -> str | None:
    """What to say of a model that did the work and has no price; None where it has one."""
    if model is None or settings.cost_usd(model, 0.0) is not None:
        return None
    return (
        f"`{model}` did the work, and has no price here: what it costs is not known, and caps count"
        f" it at ${settings.counted_usd(model, 3600):.2f} an hour, the dearest price; add it to"
        " `[prices]`"
    )


@dataclass(slots=True)
class _Cap:
    """One limit, and what counts against it."""

    setting: str
    limit: float
    unit: str
    of: Callable[[Amount], float]
    settled: float
    period: str = ""
    """What it is for, if that is not the run."""

    @property
    def cause(self) -> str:
        """That it ended a run, in a few words."""
        return f"cap of {self.shown(self.limit)}{self.period and f' for {self.period}'} reached"

    def __str__(self) -> str:
        return f"`{self.setting}` of {self.shown(self.limit)}"

    def shown(self, amount: float) -> str:
        """An amount as people write it."""
        return f"${amount:.2f}" if self.unit == "USD" else f"{amount:.2f} h"


class Allowance:
    """The caps of one run, and the ration of its backlog."""

    def __init__(
        self, settings: Settings, spent: Amount = NOTHING, month: str = "this month"
    ) -> None:
        """`spent` is what was asked for in the month before this run, `month` what it is called."""
        self._caps = [
            _Cap(setting, limit, unit, of, of(so_far), period)
            for setting, limit, unit, of, so_far, period in (
                ("max_hours", settings.max_hours, "h", _hours, NOTHING, ""),
                ("max_cost", settings.max_cost, "USD", _usd, NOTHING, ""),
                ("max_hours_month", settings.max_hours_month, "h", _hours, spent, month),
                ("max_cost_month", settings.max_cost_month, "USD", _usd, spent, month),
            )
            if limit is not None
        ]
        self._settings = settings
        self._ration_h = settings.backlog.hours_per_night
        self._backlog_h = 0.0
        self._reserved: dict[int, Amount] = {}
        self._changed = anyio.Event()

    def next_run(self) -> "Allowance":
        """The same as the next run of this month finds it."""
        allowance = Allowance(self._settings)
        allowance._caps = [
            replace(cap, settled=cap.settled if cap.period else 0.0) for cap in self._caps
        ]
        return allowance

    @property
    def left(self) -> Amount:
        """The most that may still be asked for, without end where there is no cap."""
        left = dict.fromkeys(("h", "USD"), math.inf)
        for cap in self._caps:
            left[cap.unit] = min(left[cap.unit], max(0.0, cap.limit - cap.settled))
        return Amount(left["h"] * 3600, left["USD"])

    @property
    def takes_backlog(self) -> bool:
        """Whether the ration of the backlog is not used up."""
        return self._ration_h is None or self._backlog_h < self._ration_h - _TOLERANCE

    async def reserve(self, attempt_id: int, amount: Amount, *, is_backlog: bool = False) -> bool:
        """
        Set an amount aside for an attempt, when it certainly fits; False if its ration is used up.

        One that does not fit waits until nothing else is set aside.

        Raises:
            RecordingTooCostly: it alone is more than a cap.
            CapReached: it is more than what is left of one, once all before it are settled.
            SettingsError: there is a cap on cost, and no price for what is asked for.
        """
        for cap in self._caps:
            if cap.of(amount) > cap.limit + _TOLERANCE:
                raise RecordingTooCostly(
                    f"it alone comes to {cap.shown(cap.of(amount))}, more than {cap}"
                )
        while True:
            changed = self._changed
            if is_backlog and not self.takes_backlog:
                return False
            over = next(
                (
                    cap
                    for cap in self._caps
                    if self._held(cap) + cap.of(amount) > cap.limit + _TOLERANCE
                ),
                None,
            )
            if over is None:
                break
            if not self._reserved:
                raise CapReached(
                    f"{over} is reached: {over.shown(over.settled)} are asked for, and the next"
                    f" recording comes to {over.shown(over.of(amount))}",
                    cause=over.cause,
                )
            await changed.wait()
        self._reserved[attempt_id] = amount
        if is_backlog:
            self._backlog_h += _hours(amount)
        return True

    def duration_s(self, attempt_id: int) -> float:
        """Seconds of audio that are reserved for an attempt, 0 if none are."""
        return self._reserved.get(attempt_id, NOTHING).duration_s

    def settle(
        self,
        attempt_id: int,
        duration_s: float | None,
        price_usd: float | None,
        model_used: str | None = None,
    ) -> None:
        """
        What an attempt came to; what the service does not say is as it was expected.

        A model that it names need not be one of those that were asked for, nor have a price.
        """
        expected = self._reserved.pop(attempt_id, None)
        if expected is not None:
            seconds = expected.duration_s if duration_s is None else duration_s
            if price_usd is None:
                price_usd = (
                    expected.price_usd
                    if model_used is None
                    else self._settings.counted_usd(model_used, seconds)
                )
            amount = Amount(seconds, price_usd)
            for cap in self._caps:
                cap.settled += cap.of(amount)
            self._change()

    def release(self, attempt_id: int) -> None:
        """An attempt asked for nothing, or came to nothing."""
        if self._reserved.pop(attempt_id, None) is not None:
            self._change()

    def _held(self, cap: _Cap) -> float:
        return cap.settled + sum(cap.of(amount) for amount in self._reserved.values())

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


def _hours(amount: Amount) -> float:
    return amount.duration_s / 3600


def _usd(amount: Amount) -> float:
    if amount.price_usd is None:
        raise SettingsError(
            "a cap on cost needs prices, and one of the models asked for has none:"
            " add it to `[prices]`"
        )
    return amount.price_usd
