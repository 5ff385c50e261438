"""
The stages, in the order in which data flows:

    scan    folders            -> ledger                what recordings there are
    feed    ledger             -> claims                what is due, as much as there is room for
    upload  claims             -> uploads               the bytes to the service, hashed on the way
    submit  uploads            -> submitted             asking once for a transcript
    poll    submitted, ledger  -> looks                 what the service may have finished
    write   looks              -> files, ledger         fetched, checked, durable
    delete  saved, ledger      -> the service           its copies, where that was asked for

A stage is a plain coroutine that returns when its input ends. It knows its streams and what all
stages share, a `Context`; never another stage. What has to be done again is a row of the ledger
that is due again: nothing is ever sent upstream.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pipeline.breaker import Cause, shape
from pipeline.client import Client
from pipeline.errors import (
    AttemptsExhausted,
    ExitCode,
    Intercepted,
    RefusedAlike,
    RequestRejected,
)
from pipeline.events import Emit, Warned, label
from pipeline.intake import Intake
from pipeline.ledger import Ledger
from pipeline.models import Claim, Copy, Root, Turn, Uploaded
from pipeline.names import version
from pipeline.notices import Notices
from pipeline.options import asked_models, canonical
from pipeline.outages import Outages
from pipeline.settings import Settings
from pipeline.wire import Webhook

__all__ = ["Context", "canonical_models", "held_at", "kept_as"]


@dataclass(frozen=True, slots=True)
class Context:
    """What the stages of a run share."""

    settings: Settings
    ledger: Ledger
    client: Client
    intake: Intake
    outages: Outages
    emit: Emit
    roots: Mapping[str, Root]
    sources: Mapping[str, Settings] = field(default_factory=dict)
    """Settings of roots, by name, where they are others than those of the run."""
    webhook: Webhook | None = None
    """Where the service is to say what has finished, if it is to."""
    by_age: bool = False
    """Whether what has been lying there for long comes after all else."""
    notices: Notices = field(default_factory=Notices)
    """What somebody says has finished."""
    told: set[str] = field(default_factory=set)
    """Kinds of what is told once a run."""

    def settings_of(self, root: str) -> Settings:
        """What counts for the recordings of a root."""
        return self.sources.get(root, self.settings)

    @property
    def has_own_options(self) -> bool:
        """Whether recordings may differ in their options."""
        return len(self.sources) > 1 or any(
            each.rules for each in (self.settings, *self.sources.values())
        )

    @property
    def in_order(self) -> bool:
        """Whether the first recording to be taken is known only when all are."""
        return self.settings.order != "path" or self.by_age

    def warn_once(self, kind: str, message: str) -> None:
        """Tell something that is so for all alike, the first time that it shows."""
        if kind not in self.told:
            self.told.add(kind)
            self.emit(Warned(message=message))

    @property
    def is_rationed(self) -> bool:
        """Whether the backlog has a ration."""
        return self.by_age and self.settings.backlog.hours_per_night is not None

    async def is_refused_alike(
        self,
        number: int,
        call: str,
        error: RequestRejected | AttemptsExhausted,
        what: Claim | Uploaded,
        content: str,
    ) -> bool:
        """
        Whether all requests of this kind are refused as this one was; then no more are sent.

        `number` is what `Breaker.began` gave. The ledger knows the refusal; what it has failed for
        it is wanted again.
        """
        cause = _cause(call, error, what.options if self.has_own_options else {})
        is_verdict = not isinstance(error, Intercepted)
        before = is_verdict and what.turn == Turn.FAILED_BEFORE
        alike = self.intake.breaker.refused(number, cause, content, what.attempt_id, before=before)
        if alike:
            await self.end_alike(cause, alike)
        return bool(alike)

    def refused(self, options: Mapping[str, Any]) -> str | None:
        """What the service says against these options, or their models; None as far as is known."""
        known = self.intake.refused_options
        if not known:  # as ever: it is asked of each recording
            return None
        return known.get(canonical(options)) or known.get(canonical_models(asked_models(options)))

    def asks_for_others(self, models: Sequence[str]) -> bool:
        """Whether recordings may ask for other models than these, and than those refused before."""
        lists = (each.asked_models for each in self.sources.values() or [self.settings])
        gone = {canonical_models(models), *self.intake.refused_options}
        return any(canonical_models(each) not in gone for each in chain.from_iterable(lists))

    async def end_alike(self, cause: Cause, attempt_ids: Sequence[int]) -> None:
        """Send nothing more of what is refused alike; these attempts' failures do not count."""
        if cause.options:
            self.intake.refused_options[cause.options] = cause.said
            await self.ledger.take_back(attempt_ids, cause.said)
        else:
            await self.ledger.take_back(attempt_ids)
            self.intake.end(RefusedAlike(cause.said, cause.exit_code))

    def label(self, root: str, path: bytes) -> str:
        """How a recording is called in events."""
        return label(self.roots, root, path)

    def place(self, result: bytes) -> bytes:
        """The absolute path of a result."""
        assert self.settings.output is not None
        return os.path.join(os.fsencode(self.settings.output), result)

    @property
    def versions(self) -> bytes:
        """The folder of results that are not current."""
        return os.path.join(os.fsencode(self.settings.state_dir), b"versions")

    def where(self, root: str, path: bytes) -> bytes:
        """The absolute path of a recording; its root is one of this run."""
        return os.path.join(self.roots[root].folder, path)


def canonical_models(models: Sequence[str]) -> str:
    """One text for a list of models, which none of options is."""
    return json.dumps(models)


def kept_as(context: Context, place: bytes) -> Callable[[str], bytes]:
    """Where what stands at a place is kept when it is replaced, by its sha256."""
    name = place.removeprefix(context.place(b""))
    return lambda standing: os.path.join(context.versions, version(name, standing[:12]))


def held_at(context: Context, copy: Copy) -> bytes:
    """Where a result lies."""
    place = context.place(copy.result)
    return kept_as(context, place)(copy.digest) if copy.is_version else place


def _cause(
    call: str, error: RequestRejected | AttemptsExhausted, options: Mapping[str, Any]
) -> Cause:
    """What may be the matter with all; with options, and nothing else to it, in these alone."""
    said, its_options = str(error), ""
    if isinstance(error, AttemptsExhausted):
        return Cause(call, 0, shape(said), "", said)
    if isinstance(error, Intercepted):
        code = ExitCode.TRY_LATER
    elif error.status_code in (401, 402, 403):
        code = ExitCode.REFUSED
    elif call == "submit":
        code, its_options = ExitCode.USAGE, canonical(options) if options else ""
    else:
        code = ExitCode.TRY_LATER
    return Cause(call, error.status_code, shape(said), its_options, said, code)
