"""
Saved, ledger -> the service: its copies are deleted, once all that was asked for lies on disk.

What is due stands in the ledger, that of earlier runs too. A deletion that does not succeed is due
again in the next run; it takes nothing from the results.
"""

from contextlib import suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from pipeline import events
from pipeline.errors import BatchError, RecordingError, TranscriptUnknown
from pipeline.retry import retry
from pipeline.stages import Context

__all__ = ["delete"]

_AT_ONCE = 8


async def delete(context: Context, saved: MemoryObjectReceiveStream[None]) -> None:
    """Delete what is due, now and whenever `saved` says that there may be more."""
    put_off: set[int] = set()
    async with saved:
        await _delete_due(context, put_off)
        async for _ in saved:
            await _delete_due(context, put_off)


async def _delete_due(context: Context, put_off: set[int]) -> None:
    while context.intake.collects and (
        due := await context.ledger.deletions(_AT_ONCE, but=put_off)
    ):
        async with anyio.create_task_group() as group:
            for attempt_id, transcript_id in due:
                group.start_soon(_delete, context, put_off, attempt_id, transcript_id)


async def _delete(context: Context, put_off: set[int], attempt_id: int, transcript_id: str) -> None:
    try:
        with suppress(TranscriptUnknown):  # gone already: an answer was lost
            await retry(lambda: context.client.delete(transcript_id))
        await context.ledger.record_deleted(attempt_id)
    except RecordingError as error:
        put_off.add(attempt_id)
        message = f"transcript {transcript_id} is not deleted at the service yet: {error}"
        context.emit(events.Warned(message=message))
    except BatchError as error:
        put_off.add(attempt_id)
        context.intake.end(error)
    else:
        context.emit(events.Deleted(transcript_id=transcript_id))
