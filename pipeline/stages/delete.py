"""
Saved, ledger -> the service: its copies are deleted, once all that was asked for lies on disk.

What is due stands in the ledger, that of earlier runs too. A deletion that does not succeed is due
again in the next run; it takes nothing from the results. No copy is deleted unless a file of the
transcript was just read whole: what lies nowhere is fetched first, among the versions.
"""

from contextlib import suppress
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from pipeline import events
from pipeline.errors import (
    AttemptsExhausted,
    BatchError,
    RecordingError,
    TranscriptUnknown,
    TransientError,
)
from pipeline.files import sha256_of
from pipeline.models import Copy
from pipeline.names import derived
from pipeline.stages import Context, held_at
from pipeline.wire import redacted_suffix

__all__ = ["delete", "fetch_unheld"]

_AT_ONCE = 8
_FAILED_IN_A_ROW = 8
_PAGE = 100


async def fetch_unheld(context: Context) -> None:
    """Let be fetched whatever is due to be deleted and lies nowhere, before anything else is."""
    last = 0
    while page := await context.ledger.deletions_unheld(last, _PAGE):
        for attempt_id in page:
            if not await _is_saved(context, attempt_id):
                await context.ledger.fetch_unheld(attempt_id)
        last = page[-1]


async def delete(context: Context, saved: MemoryObjectReceiveStream[None]) -> None:
    """Delete what is due, now and whenever `saved` says that there may be more."""
    put_off = _PutOff()
    async with saved:
        await _delete_due(context, put_off)
        async for _ in saved:
            await _delete_due(context, put_off)
        put_off.unsaved.clear()  # this run may have fetched them
        await _delete_due(context, put_off)
    for transcript_id in put_off.unsaved.values():
        message = "is not deleted: its result is not on disk as it was saved"
        context.emit(events.Warned(message=f"transcript {transcript_id} {message}"))


@dataclass(slots=True)
class _PutOff:
    """What this run leaves to the next."""

    attempts: set[int] = field(default_factory=set)
    unsaved: dict[int, str] = field(default_factory=dict)
    """Attempts whose results are not on disk as they were saved, and their transcripts."""
    in_a_row: int = 0
    """How often the service has failed at it since it last did not."""


async def _delete_due(context: Context, put_off: _PutOff) -> None:
    while context.intake.collects and put_off.in_a_row < _FAILED_IN_A_ROW:
        due = await context.ledger.deletions(
            _AT_ONCE, but=put_off.attempts | put_off.unsaved.keys()
        )
        if not due:
            return
        async with anyio.create_task_group() as group:
            for attempt_id, transcript_id in due:
                group.start_soon(_delete, context, put_off, attempt_id, transcript_id)


async def _delete(context: Context, put_off: _PutOff, attempt_id: int, transcript_id: str) -> None:
    try:
        # Once more: since it was saved, somebody may have lost it.
        if not await _is_saved(context, attempt_id):
            put_off.unsaved[attempt_id] = transcript_id
            return
        with suppress(TranscriptUnknown):  # gone already: an answer was lost
            await context.outages.retry("get", lambda: context.client.delete(transcript_id))
        await context.ledger.record_deleted(attempt_id)
    except (RecordingError, TransientError, OSError) as error:
        put_off.attempts.add(attempt_id)
        put_off.in_a_row += isinstance(error, AttemptsExhausted)
        message = f"transcript {transcript_id} is not deleted at the service yet: {error}"
        context.emit(events.Warned(message=message))
    except BatchError as error:
        put_off.attempts.add(attempt_id)
        context.intake.end(error)
    else:
        put_off.in_a_row = 0
        context.emit(events.Deleted(transcript_id=transcript_id))


async def _is_saved(context: Context, attempt_id: int) -> bool:
    """Whether the result was just read whole wherever it is wanted, else anywhere."""
    saved = await context.ledger.saved(attempt_id)
    suffix = redacted_suffix(await context.ledger.asked_for(attempt_id))
    wanted = [copy for copy in saved if not copy.is_version]
    if wanted:
        return all([await _is_whole(context, each, suffix) for each in wanted])
    for copy in saved:
        with suppress(OSError):
            if await _is_whole(context, copy, suffix):
                return True
    return False


async def _is_whole(context: Context, copy: Copy, suffix: str | None) -> bool:
    """Whether a result, and redacted audio that was asked for, is on disk as it was saved."""
    place = held_at(context, copy)
    if await sha256_of(place) != copy.digest:
        return False
    return suffix is None or await sha256_of(derived(place, suffix)) is not None
