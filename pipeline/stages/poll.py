"""
Submitted, ledger -> looks: what the service may have finished.

One task watches every pending transcript: a page of the list tells the status of 200 of them. What
a row or a notice says is only a reason to look; what became of a transcript is what a GET of its id
says, and that is the next stage's. What to ask next is decided by `pipeline.schedule`; here it is
asked. What is pending is read from the ledger each time, so that leftovers and adopted transcripts
are among it.
"""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline.errors import BatchError, RecordingError, ServiceUnusable
from pipeline.events import Warned, moment
from pipeline.models import Pending
from pipeline.overdue import Overdue, since
from pipeline.reconcile import Reconciler
from pipeline.schedule import FINAL, NOTICED_EVERY_S, Page, Schedule
from pipeline.stages import Context
from pipeline.wire import PAGE_ROWS, Row, first_id, last_id

__all__ = ["poll", "seek"]

_MORE_PAGES = 2  # that a walk may take for rows of other programs
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
    ledger, notices = context.ledger, context.notices
    interval_s = context.settings.poll_interval
    schedule = Schedule(interval_s, is_noticed=notices.expected)
    noted: dict[int | str, float] = {}
    sweep_at = -math.inf
    more_comes, was_idle = True, False
    async with submitted, looks:
        left = await ledger.pending()
        for leftover in left:
            context.intake.entered(leftover.attempt_id)
        overdue = Overdue(context.settings.transcript_patience, left)
        while context.intake.collects:
            await _record_requests(context)
            notice, now = notices.next_change, ledger.now()
            if len(noted) < _MOST_NOTICED:
                noted |= dict.fromkeys(notices.take(), now)
            pending = await ledger.pending()
            if not pending and not more_comes:
                return
            schedule.remember(pending)
            waiting = [each for each in pending if each.transcript_id not in looking]
            due = schedule.noted(waiting, noted, now)
            late = overdue.among(pending, now, anyio.current_time())
            for each in late:
                if overdue.is_passed(each):
                    context.intake.overtaken(each.attempt_id)
            due += (unasked := [each for each in late if not schedule.was_asked(each)])
            if pending and len(late) == len(pending) and not (unasked or looking):
                await _leave_overdue(context, late, now)
            if was_idle:  # what was asked for just now is not finished yet
                sweep_at = anyio.current_time() + schedule.pace_s(waiting, now)
            was_idle = not pending
            if waiting and anyio.current_time() >= sweep_at:
                due += await _sweep(context, reconciler, schedule, waiting)
                sweep_at = anyio.current_time() + schedule.pace_s(waiting, now)
            for look in due:
                if look.transcript_id in looking:
                    continue
                try:
                    looks.send_nowait(look)
                except (anyio.WouldBlock, anyio.BrokenResourceError):
                    # The next sweep sends the rest, since this task never waits for a writer; or
                    # there is none any more, and we are about to be cancelled, too.
                    break
                looking.add(look.transcript_id)
                schedule.asked(look, now)
                noted.pop(look.attempt_id, None)
                noted.pop(look.transcript_id, None)
            # What is spoken of and cannot be looked at yet: not known to be accepted, in hand, or
            # looked at just now.
            noted = {which: since for which, since in noted.items() if now - since < _NOTICED_FOR_S}
            # With all that is pending in the writers' hands there is nothing to ask for, either.
            rest_s = schedule.pace_s(pending, now) if pending else interval_s
            rest_until = sweep_at if waiting else anyio.current_time() + rest_s
            if noted:
                rest_until = min(rest_until, anyio.current_time() + NOTICED_EVERY_S)
            more_comes = await _rest(
                context, submitted if more_comes else None, notice, rest_until, is_idle=was_idle
            )
        # Nothing is fetched any more; what is accepted meanwhile is in the ledger.
        async for _ in submitted:
            pass


async def seek(
    context: Context, looking: set[str], looks: MemoryObjectSendStream[Pending], *, most: int | None
) -> None:
    """Send on what the service has lost, to be asked for again: `most` of what is due, or all."""
    async with looks:
        for look in await context.ledger.lost(most):
            looking.add(look.transcript_id)
            try:
                await looks.send(look)
            except anyio.BrokenResourceError:  # we are about to be cancelled
                return


async def _leave_overdue(context: Context, late: Sequence[Pending], now: float) -> None:
    """Leave what the service does not finish to the next run, once there is nothing else."""
    intake, settings = context.intake, context.settings
    if intake.is_full and intake.is_open:  # places would have been given up if any finished
        why = f"the service has finished none of {len(late)} transcripts in good time"
        intake.end(ServiceUnusable(f"{why}; run again later", cause=why, collect=True))
    if intake.is_open and (intake.is_busy or await context.ledger.next_due() is not None):
        return
    for each in late:
        day = f"{moment(each.accepted_at, settings.zone):%Y-%m-%d %H:%M}"
        reason = since(each, now, settings.transcript_patience, day)
        await context.ledger.park([each.attempt_id], reason)
        intake.allowance.settle(each.attempt_id, None, None)
        intake.left(each.attempt_id)


async def _record_requests(context: Context) -> None:
    """Keep the budget beyond this run: what a crash forgets is one interval's requests."""
    if sent := context.client.limiter.take_unrecorded():
        await context.ledger.record_requests(sent, context.client.limiter.window_s)


async def _sweep(
    context: Context, reconciler: Reconciler, schedule: Schedule, waiting: Sequence[Pending]
) -> list[Pending]:
    """Read the pages that the schedule asks for; what is to be looked at, surest first."""
    asked = schedule.questions(waiting, context.ledger.now())
    finished, statuses, is_whole = list[Pending](), dict[str, str](), True
    for page in asked.pages:
        rows = await _rows(context, reconciler, schedule, page)
        is_whole = is_whole and rows is not None
        finished += schedule.saw(page, rows or [], waiting, context.ledger.now())
        statuses |= {row.id: row.status for row in rows or []}
    if statuses and is_whole:
        _adapt(context, Counter(statuses.get(each.transcript_id) for each in waiting))
    for each in waiting:
        if statuses.get(each.transcript_id) in FINAL:
            context.intake.finished(each.attempt_id)
    return finished + [look for look in asked.looks if look not in finished]


async def _rows(
    context: Context, reconciler: Reconciler, schedule: Schedule, page: Page
) -> list[Row] | None:
    """The rows of a page and of those below it, while more should come; None if one fails."""
    intake, rows = context.intake, list[Row]()
    unseen, before_id = set(page.shows), page.before_id
    if context.outages.is_down("list"):  # what it would show is asked for by its id
        return None
    try:
        with intake.fetching():
            for _ in range(1 + _MORE_PAGES):
                call = partial(context.client.list, before_id=before_id)
                read = await context.outages.retry("list", call, attempts=1)
                first = first_id(read) or ""
                is_newest = before_id is None or schedule.is_newer(first, reconciler.newest_listed)
                reconciler.seen(read, is_newest=is_newest)
                rows += read
                unseen -= {row.id for row in read}
                below, before_id = before_id, last_id(read)
                if not unseen or len(read) < PAGE_ROWS or before_id in (None, below):
                    break
    except RecordingError:
        return None
    except BatchError as error:
        intake.end(error)
        return None
    return rows


def _adapt(context: Context, statuses: Counter[str | None]) -> None:
    """Let fewer transcripts be at the service where they queue up there."""
    worked_on = context.intake.observed(
        processing=statuses["processing"], queued=statuses["queued"]
    )
    if worked_on is not None:
        context.emit(
            Warned(
                message=f"the account works on about {worked_on} transcripts at once, not on"
                f" {context.settings.concurrency}: no more are sent ahead than it needs; say so"
                f" with `--concurrency {worked_on}`"
            )
        )


async def _rest(
    context: Context,
    submitted: MemoryObjectReceiveStream[int] | None,
    notice: anyio.Event,
    until: float,
    *,
    is_idle: bool,
) -> bool:
    """
    Wait for the next sweep, a notice, the end, or if idle for anything that is submitted.

    False once nothing more comes, and `submitted` is to be None from then on. What it brings is
    known to the ledger.
    """
    more_comes = submitted is not None
    async with anyio.create_task_group() as group:
        group.cancel_scope.deadline = until

        async def heed(event: anyio.Event) -> None:
            await event.wait()
            group.cancel_scope.cancel()

        group.start_soon(heed, notice)
        group.start_soon(heed, context.intake.ended)
        if submitted is None:
            await anyio.sleep_forever()
        else:
            more_comes = await _until_end(submitted, is_idle)
            group.cancel_scope.cancel()
    if notice.is_set():  # more come with it
        await anyio.sleep(_TOGETHER_S)
    return more_comes


async def _until_end(submitted: MemoryObjectReceiveStream[int], is_idle: bool) -> bool:
    """Empty the stream as it fills; True at once if it was idle, False when it has ended."""
    async for _ in submitted:
        if is_idle:
            return True
    return False
