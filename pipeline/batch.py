"""
One run over folders: the stages wired top to bottom, in one task group.

In: a context (service, ledger, settings, roots) and a scan. Out: when it returns, every recording
that was found stands in the ledger with what became of it. Streams are bounded and run only
downwards; a stage ends when its input does, so the end of the scan travels down the pipeline.
"""

import math
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
from anyio import create_memory_object_stream
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.errors import (
    AttemptsExhausted,
    BatchError,
    KeyRefused,
    RecordingError,
    ServiceUnusable,
    TranscriptUnknown,
    TransientError,
    trouble,
)
from pipeline.events import Warned
from pipeline.guard import guarded
from pipeline.ledger.books import other_key
from pipeline.ledger.results import MOST_LOST
from pipeline.models import Claim, OtherKey, Pending, Uploaded
from pipeline.reconcile import UNKNOWN_ANCHOR, Reconciler
from pipeline.retry import retry
from pipeline.stages import Context
from pipeline.stages.delete import delete, fetch_unheld
from pipeline.stages.feed import feed
from pipeline.stages.poll import poll, seek
from pipeline.stages.scan import Scan
from pipeline.stages.submit import submit
from pipeline.stages.upload import upload
from pipeline.stages.write import write
from pipeline.wire import Row

__all__ = ["run_batch"]

_OTHER_PROJECT = (
    "this API key is of another project than the one that transcripts of earlier runs are open"
    " with; run with that key until they are collected, or name another state folder with"
    " `--state`"
)
_SUBMITS = 8
_WRITES = 8


def start(
    group: TaskGroup,
    copies: int,
    stage: Callable[..., Coroutine[Any, Any, None]],
    *ends: MemoryObjectReceiveStream[Any] | MemoryObjectSendStream[Any],
) -> None:
    """
    Start copies of a stage, each on clones of its own of the stream ends it works on.

    The ends passed in are closed here, so that a stream ends when the last copy that sends into
    it has returned.

    Source: https://anyio.readthedocs.io/en/stable/streams.html#memory-object-streams
    """
    for _ in range(copies):
        group.start_soon(stage, *(end.clone() for end in ends))
    for end in ends:
        end.close()


async def run_batch(
    context: Context,
    scans: Sequence[Scan],
    stopped: anyio.Event,
    *,
    lost: int | None = MOST_LOST,
) -> None:
    """
    Transcribe what the scans find and what earlier runs left, until nothing is open.

    Returns early when the intake ended; `context.intake` says why. `stopped` ends the scans:
    what they have not come to is left to the next run. `lost` is as `Ledger.lost` takes it.
    """
    settings, intake = context.settings, context.intake
    reconciler = Reconciler(
        *(context.ledger, context.client, intake, context.outages, context.emit, settings.settle),
        label=context.label,
    )
    scanned = anyio.Event()
    looking: set[str] = set()

    async with guarded(context), context.outages.watched(), anyio.create_task_group() as group:
        group.start_soon(_scan, context, scans, scanned, stopped)
        if not await _has_work(context, scanned, lost) or not await _may_begin(context, reconciler):
            return
        await fetch_unheld(context)
        to_upload, claims = create_memory_object_stream[Claim](settings.uploads.max)
        to_submit, uploads = create_memory_object_stream[Uploaded](settings.uploads.max)
        to_poll, submitted = create_memory_object_stream[int](math.inf)
        to_write, looks = create_memory_object_stream[Pending](settings.in_flight)
        to_delete, saved = create_memory_object_stream[None](1)

        start(group, 1, partial(_feed, context, scanned, reconciler), to_upload)
        start(group, settings.uploads.max, partial(upload, context), claims, to_submit)
        start(group, _SUBMITS, partial(submit, context, reconciler), uploads, to_poll)
        start(group, 1, partial(seek, context, looking, most=lost), to_write.clone())
        start(group, 1, partial(poll, context, reconciler, looking), submitted, to_write)
        start(group, _WRITES, partial(write, context, looking), looks, to_delete)
        start(group, 1, partial(delete, context), saved)
        group.start_soon(reconciler.run)
    is_cut_short = not intake.is_open
    for cause, attempt_ids in intake.breaker.conclude(is_cut_short=is_cut_short).items():
        if is_cut_short:
            await context.ledger.take_back(attempt_ids)
        else:
            await context.end_alike(cause, attempt_ids)


async def _scan(
    context: Context, scans: Sequence[Scan], scanned: anyio.Event, stopped: anyio.Event
) -> None:
    """Scan the roots; what is stopped or ended in the middle is left to the next run."""
    async with anyio.create_task_group() as group:

        async def end_early() -> None:
            await stopped.wait()
            group.cancel_scope.cancel()

        group.start_soon(end_early)
        for scan in scans:
            await scan.run(context.ledger, context.emit, context.intake.changed)
        group.cancel_scope.cancel()
    scanned.set()
    context.intake.changed()


async def _feed(
    context: Context,
    scanned: anyio.Event,
    reconciler: Reconciler,
    to_upload: MemoryObjectSendStream[Claim],
) -> None:
    await feed(context, scanned, to_upload)
    reconciler.finish()


async def _has_work(context: Context, scanned: anyio.Event, lost: int | None) -> bool:
    """Whether there is anything to ask the service for."""
    ledger = context.ledger
    while True:
        change, is_last = context.intake.next_change, scanned.is_set()
        if await ledger.next_due() is not None or await ledger.unfinished():
            return context.intake.is_open
        if is_last:
            left = await ledger.deletions(1) or await ledger.other_keys() or await ledger.lost(lost)
            return bool(left) and context.intake.is_open
        await change.wait()


async def _may_begin(context: Context, reconciler: Reconciler) -> bool:
    """
    Ask the service for little before anything is sent: does it know the key, and our transcripts?

    The newest row of the list is also the first anchor of the reconciler. Where the list alone does
    not answer, that is the newest transcript that the ledger knows.
    """
    ledger = context.ledger
    try:
        with context.intake.fetching():
            rows = await _reached(context)
            if rows is None:
                reconciler.newest_listed = await ledger.newest_id() or UNKNOWN_ANCHOR
            else:
                reconciler.seen(rows, is_newest=True)
            for other in await ledger.other_keys():
                if await _knows_one(context, other.newest):
                    ledger.trust_key(other.fingerprint)
                elif other.is_open and other.is_young:
                    raise KeyRefused(_OTHER_PROJECT, cause="key of another project")
                else:  # where an account deletes by itself, nobody can tell whose they were
                    await _leave(context, other)
    except RecordingError as error:
        context.intake.end(ServiceUnusable(f"the service {trouble(error)}: {error}"))
    except BatchError as error:
        context.intake.end(error)
    return context.intake.is_open


async def _leave(context: Context, other: OtherKey) -> None:
    """Leave what is open and due with another key to a run that may ask for it."""
    if other.is_open:
        await context.ledger.park_key(other.fingerprint, other_key(other.fingerprint))
    if other.to_delete:
        why = other_key(other.fingerprint, are_many=True)
        message = f"{other.to_delete} transcripts are not deleted at the service: {why}"
        context.emit(Warned(message=message))


async def _reached(context: Context) -> list[Row] | None:
    """
    The newest row of the list, None where all but the list answers.

    Waited for where the network may not be there yet.

    Raises:
        RecordingError: the service cannot be reached.
        BatchError: as `Client.list` does.
    """
    wait_s, first = context.settings.wait_network, partial(context.client.list, limit=1)

    async def first_or_without() -> list[Row] | None:
        try:
            return await first()
        except TransientError as error:
            if await context.outages.begin_without_list(error):
                return None
            raise

    try:
        return await retry(first)
    except AttemptsExhausted as error:
        if await context.outages.begin_without_list(error.__cause__):
            return None
        if wait_s is None:
            raise
    return await retry(first_or_without, attempts=None, timeout_s=wait_s)


async def _knows_one(context: Context, ids: Sequence[str]) -> bool:
    """Whether the service knows a transcript that another key asked for: one project, two keys."""
    for transcript_id in ids:
        with suppress(TranscriptUnknown):  # one by itself may have been deleted meanwhile
            call = partial(context.client.fetch, transcript_id, _forget)
            await context.outages.retry("get", call)
            return True
    return False


async def _forget(_: bytes) -> None:
    return None
