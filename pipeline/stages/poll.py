"""
Submitted, ledger -> looks: what the service may have finished.

One task watches every pending transcript with one question: a page of the list tells the status
of 200 of them. What a row says is only a reason to look; what became of a transcript is what a
GET of its id says, and that is the next stage's. Ids that the list does not show are looked at
directly, now and then. What is pending is read from the ledger each time, so that leftovers and
adopted transcripts are among it.

Where notices come, what they name is looked at without waiting for the list, which is then read
ten times less often: notices get lost.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.errors import BatchError, RecordingError, ServiceUnusable
from pipeline.models import Pending
from pipeline.reconcile import Reconciler
from pipeline.retry import retry
from pipeline.stages import Context
from pipeline.wire import PAGE_ROWS

__all__ = ["due_looks", "noted_looks", "poll"]

_MORE_PAGES = 2
_FINAL = frozenset({"completed", "error"})
_UNSEEN_FOR_S = 5.0
_DIRECT_EVERY = 5
_DIRECT_AT_ONCE = 20
_SILENCE_S = 600.0
_SLOWER = 10
_NOTICED_EVERY_S = 1.0
_NOTICED_FOR_S = 60.0
_MOST_NOTICED = 10_000
_TOGETHER_S = 0.1


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
    interval_s = context.settings.poll_interval * (_SLOWER if context.notices.expected else 1)
    asked: dict[str, float] = {}
    noted: dict[int | str, float] = {}
    sweep_at = -math.inf
    more_comes = True
    async with submitted, looks:
        for leftover in await context.ledger.pending():
            context.intake.entered(leftover.attempt_id)
        while context.intake.collects:
            await _record_requests(context)
            notice, now = context.notices.next_change, context.ledger.now()
            if len(noted) < _MOST_NOTICED:
                noted |= dict.fromkeys(context.notices.take(), now)
            pending = await context.ledger.pending()
            if not pending and not more_comes:
                return
            waiting = [each for each in pending if each.transcript_id not in looking]
            is_sweep = anyio.current_time() >= sweep_at
            if waiting and (is_sweep or noted):
                due, statuses = noted_looks(waiting, noted, asked, now), dict[str, str]()
                if is_sweep:
                    statuses = await _statuses(context, reconciler, waiting)
                    now = context.ledger.now()
                    every_s = max(_UNSEEN_FOR_S, _DIRECT_EVERY * interval_s)
                    due += due_looks(waiting, statuses, asked, now, every_s)
                for look in due:
                    if look.transcript_id in looking:
                        continue
                    try:
                        looks.send_nowait(look)
                    except anyio.WouldBlock:
                        break  # the next sweep sends the rest: this task never waits for a writer
                    looking.add(look.transcript_id)
                    if statuses.get(look.transcript_id) in _FINAL:
                        context.intake.finished(look.attempt_id)
                    asked[look.transcript_id] = now
                    noted.pop(look.attempt_id, None)
                    noted.pop(look.transcript_id, None)
            if is_sweep:
                sweep_at = anyio.current_time() + interval_s if pending else -math.inf
            # What is spoken of and cannot be looked at yet: not known to be accepted, in hand, or
            # looked at just now.
            noted = {which: since for which, since in noted.items() if now - since < _NOTICED_FOR_S}
            rest_s = max(0.0, sweep_at - anyio.current_time()) if pending else interval_s
            if noted:
                rest_s = min(rest_s, _NOTICED_EVERY_S)
            asked = {each.transcript_id: asked.get(each.transcript_id, 0.0) for each in pending}
            more_comes = await _rest(context, submitted, notice, rest_s, is_idle=not pending)
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


def noted_looks(
    waiting: Sequence[Pending],
    noted: Collection[int | str],
    asked: Mapping[str, float],
    now: float,
) -> list[Pending]:
    """
    Which of the waiting transcripts are among those that were spoken of, by either id.

    None is looked at more than once a second, however often it is spoken of.
    """
    return [
        each
        for each in waiting
        if (each.attempt_id in noted or each.transcript_id in noted)
        and abs(now - asked.get(each.transcript_id, 0.0)) >= _NOTICED_EVERY_S
    ]


async def _rest(
    context: Context,
    submitted: MemoryObjectReceiveStream[int],
    notice: anyio.Event,
    rest_s: float,
    *,
    is_idle: bool,
) -> bool:
    """
    Wait for the next sweep or notice; with nothing pending, for anything to change.

    False once nothing more comes: then what is pending is all there will be.
    """
    async with anyio.create_task_group() as group:
        group.cancel_scope.deadline = anyio.current_time() + rest_s

        async def heed() -> None:
            await notice.wait()
            group.cancel_scope.cancel()

        group.start_soon(heed)
        while context.intake.collects and _more_comes(submitted):
            await context.intake.next_change.wait()
            if is_idle:
                break
        group.cancel_scope.cancel()
    if notice.is_set():  # more come with it
        await anyio.sleep(_TOGETHER_S)
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
