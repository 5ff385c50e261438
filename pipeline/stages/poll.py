"""
Submitted, ledger -> looks: what the service may have finished.

One task watches every pending transcript with one question: a page of the list tells the status
of 200 of them. What a row says is only a reason to look; what became of a transcript is what a
GET of its id says, and that is the next stage's. Ids that the list does not show are looked at
directly, now and then. What is pending is read from the ledger each time, so that leftovers and
adopted transcripts are among it.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.errors import BatchError, RecordingError, ServiceUnusable
from pipeline.models import Pending
from pipeline.reconcile import Reconciler
from pipeline.retry import retry
from pipeline.stages import Context
from pipeline.wire import PAGE_ROWS

__all__ = ["due_looks", "poll"]

_MORE_PAGES = 2
_FINAL = frozenset({"completed", "error"})
_UNSEEN_FOR_S = 5.0
_DIRECT_EVERY = 5
_DIRECT_AT_ONCE = 20
_SILENCE_S = 600.0


async def poll(
    context: Context,
    reconciler: Reconciler,
    looking: set[str],
    submitted: MemoryObjectReceiveStream[int],
    looks: MemoryObjectSendStream[Pending],
) -> None:
    """
    Send on what is to be looked at; return when nothing is pending and nothing more comes.

    The reconciler is told every page that was read; `looking` are the ids that the next stage has
    in hand.
    """
    interval_s = context.settings.poll_interval
    asked: dict[str, float] = {}
    more_comes = True
    async with submitted, looks:
        for leftover in await context.ledger.pending():
            context.intake.entered(leftover.attempt_id)
        while context.intake.collects:
            await _record_requests(context)
            pending = await context.ledger.pending()
            if not pending and not more_comes:
                return
            waiting = [each for each in pending if each.transcript_id not in looking]
            if waiting:
                statuses = await _statuses(context, reconciler, waiting)
                now = context.ledger.now()
                every_s = max(_UNSEEN_FOR_S, _DIRECT_EVERY * interval_s)
                for look in due_looks(waiting, statuses, asked, now, every_s):
                    try:
                        looks.send_nowait(look)
                    except anyio.WouldBlock:
                        break  # the next sweep sends the rest: this task never waits for a writer
                    looking.add(look.transcript_id)
                    if statuses.get(look.transcript_id) in _FINAL:
                        context.intake.finished(look.attempt_id)
                    asked[look.transcript_id] = now
            asked = {each.transcript_id: asked.get(each.transcript_id, 0.0) for each in pending}
            more_comes = await _rest(context, submitted, is_idle=not pending)
        # Nothing is fetched any more; what is accepted meanwhile is in the ledger.
        async for _ in submitted:
            pass


async def _record_requests(context: Context) -> None:
    """Keep the budget beyond this run: what a crash forgets is one interval's requests."""
    if sent := context.client.limiter.take_unrecorded():
        await context.ledger.record_requests(sent, context.settings.requests.window_s)


async def _statuses(
    context: Context, reconciler: Reconciler, waiting: Sequence[Pending]
) -> dict[str, str]:
    """What the list says; nothing when it cannot be read, which ids can still be asked for."""
    intake, statuses = context.intake, dict[str, str]()
    try:
        with intake.fetching() as scope:
            statuses = await _sweep(context, reconciler, waiting)
    except RecordingError as error:
        if intake.silence_s > _SILENCE_S:
            intake.end(ServiceUnusable(f"the service does not answer: {error}"))
        return {}
    except BatchError as error:
        intake.end(error)
        return {}
    if not scope.cancelled_caught:
        intake.reached()
    return statuses


async def _sweep(
    context: Context, reconciler: Reconciler, waiting: Sequence[Pending]
) -> dict[str, str]:
    """The status of every transcript on the newest pages, as many as should cover `waiting`."""
    statuses: dict[str, str] = {}
    unseen = {each.transcript_id for each in waiting if not each.completed}
    before_id = None
    for _ in range(len(unseen) // PAGE_ROWS + 1 + _MORE_PAGES):
        if not unseen:
            break
        rows = await retry(partial(context.client.list, before_id=before_id), attempts=1)
        reconciler.seen(rows, is_newest=before_id is None)
        statuses.update((row.id, row.status) for row in rows)
        unseen -= statuses.keys()
        if len(rows) < PAGE_ROWS or rows[-1].id == before_id:
            break
        before_id = rows[-1].id
    return statuses


def due_looks(
    waiting: Sequence[Pending],
    statuses: Mapping[str, str],
    asked: Mapping[str, float],
    now: float,
    every_s: float,
) -> list[Pending]:
    """
    Which of the waiting transcripts to look at, those that are surely worth it first.

    A row that says `completed` or `error` is worth a look, though not again at once: rows can
    be wrong. What no page shows is looked at every `every_s`, a few at a time, unless it is so
    young that the list may lag.
    """
    sure, direct = [], []
    for each in waiting:
        last = asked.get(each.transcript_id, 0.0)
        status = statuses.get(each.transcript_id)
        if each.completed or status in _FINAL:
            if last == 0.0 or abs(now - last) >= every_s:
                sure.append(each)
        elif status is None and abs(now - max(last, each.accepted_at)) >= every_s:
            direct.append(each)
    return sure + direct[:_DIRECT_AT_ONCE]


async def _rest(
    context: Context, submitted: MemoryObjectReceiveStream[int], *, is_idle: bool
) -> bool:
    """
    Wait for the next sweep; with nothing pending, for anything to change.

    False once nothing more comes: then what is pending is all there will be.
    """
    with anyio.move_on_after(context.settings.poll_interval):
        while context.intake.collects and _more_comes(submitted):
            await context.intake.next_change.wait()
            if is_idle:
                break
    return _more_comes(submitted)


def _more_comes(submitted: MemoryObjectReceiveStream[int]) -> bool:
    """Empty the stream, whose content the ledger knows; False once it has ended."""
    try:
        while True:
            submitted.receive_nowait()
    except anyio.WouldBlock:
        return True
    except anyio.EndOfStream:
        return False
