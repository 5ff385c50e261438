"""
Whose fault refusals are: in, what was refused and what was taken; out, whether all are refused.

    3 refused alike ─► one with other bytes is tried alone ─► taken: the 3 failed by themselves
                                                           └► refused alike: the cause of all

Pure. Alike are refusals of the same call, with the same status, in the same words but for numbers,
ids and quotations. There is no clock but the order of events: what was taken shows something only
of refusals from before it was sent, since a cause may come in the midst of a long upload.
"""

import re
from dataclasses import dataclass, field

from pipeline.errors import ExitCode

__all__ = ["ALIKE", "Breaker", "Cause", "shape"]

ALIKE = 3
"""Recordings that are refused alike before one more is tried alone."""

_LONGEST_SHAPE = 100
_QUOTED = re.compile(r"`[^`]*`|\"[^\"]*\"|(?<!\w)'[^']*'(?!\w)|<[^>]*>")
_OWN = re.compile(r"\S*(?:\d|://)\S*|\b[a-f]{8,}\b")
_WORD = re.compile(r"[^\W\d_]+")


def shape(said: str) -> str:
    """What a sentence says of all, without what it quotes, and words with digits in them."""
    plain = _OWN.sub(" ", _QUOTED.sub(" ", said.lower()))
    return " ".join(_WORD.findall(plain))[:_LONGEST_SHAPE]


@dataclass(frozen=True, slots=True)
class Cause:
    """What may be the matter with all."""

    call: str
    """`upload` or `submit`."""
    status: int
    shape: str
    options: str = ""
    """Canonical options that it may lie in; empty where all have the same, or it cannot."""
    said: str = field(default="", compare=False)
    """The sentence, the first time."""
    exit_code: ExitCode = field(default=ExitCode.TRY_LATER, compare=False)
    """What the run is to end with if it is the cause of all."""

    def concerns(self, call: str, options: str) -> bool:
        """Whether it may be the cause of what becomes of such a request."""
        return call == self.call and self.options in ("", options)


@dataclass(slots=True)
class _Refusal:
    at: int
    content: str
    attempt_id: int


@dataclass(slots=True)
class _Suspicion:
    refusals: list[_Refusal] = field(default_factory=list)
    since: int | None = None
    """When it became one: with the last of the first three."""

    @property
    def contents(self) -> set[str]:
        return {refusal.content for refusal in self.refusals}


class Breaker:
    """What a run knows of refusals; everything here is done between two awaits."""

    def __init__(self) -> None:
        self._now = 0
        self._suspicions: dict[Cause, _Suspicion] = {}
        self._certain: set[Cause] = set()
        self._taken: set[tuple[str, str]] = set()

    def began(self) -> int:
        """The number of a request that is about to be sent."""
        self._now += 1
        return self._now

    def is_suspected(self, call: str, options: str = "") -> bool:
        """Whether such requests have to be sent one by one, until it is known whose fault it is."""
        return any(
            suspicion.since is not None and cause.concerns(call, options)
            for cause, suspicion in self._suspicions.items()
        )

    def took(self, number: int, call: str, options: str = "") -> None:
        """The service took such a request: what was refused before it was sent is to blame."""
        self._taken |= {(call, ""), (call, options)}
        for cause, suspicion in list(self._suspicions.items()):
            if cause.concerns(call, options):
                suspicion.refusals = [each for each in suspicion.refusals if each.at > number]
                if len(suspicion.contents) < ALIKE:
                    suspicion.since = None
                if not suspicion.refusals:
                    del self._suspicions[cause]

    def refused(
        self, number: int, cause: Cause, content: str, attempt_id: int, *, before: bool = False
    ) -> list[int]:
        """
        The attempts that came to nothing by this cause, once it is known to be that of all.

        `before` says that this recording failed in an earlier run: where others are taken, it is to
        blame.
        """
        self._now += 1
        if cause in self._certain:
            return [attempt_id]
        if before and (cause.call, cause.options) in self._taken:
            return []
        suspicion = self._suspicions.setdefault(cause, _Suspicion())
        contents, since = suspicion.contents, suspicion.since
        suspicion.refusals.append(_Refusal(self._now, content, attempt_id))
        if since is None and len(contents | {content}) >= ALIKE:
            suspicion.since = self._now
        if since is not None and number > since and content not in contents:
            return self._conclude(cause)
        return []

    def conclude(self, *, is_cut_short: bool) -> dict[Cause, list[int]]:
        """
        What is suspected still at the end of a run, and the attempts of each.

        With nothing else left to try it counts as the cause of all where the run had no such
        request taken: nothing speaks against it. Of a run that is cut short nothing is known.
        """
        suspected = [
            cause
            for cause, each in self._suspicions.items()
            if each.since is not None
            and (is_cut_short or (cause.call, cause.options) not in self._taken)
        ]
        return {cause: self._conclude(cause) for cause in suspected}

    def _conclude(self, cause: Cause) -> list[int]:
        self._certain.add(cause)
        return [each.attempt_id for each in self._suspicions.pop(cause).refusals]
