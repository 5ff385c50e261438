"""
Ledger -> claims: what is due, as much as there is room for.

First what this run has taken before, then uploads of earlier runs that are still good, then the
rest by turns and in the order of the settings, and what failed once all others had theirs. In any
order but that of paths the first recording is known when the scan is over, and nothing new begins
before. Where a cap or a ration may end it, one recording has its turn after the other, each once it
is decided whether the last one is sent: so these are the first of the order, whatever comes sooner.

Ends when the scan is done and no row is open: then nothing can become due any more. What fails
and may be tried again, and what turned out not to be accepted, comes back this way.
"""

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from pipeline.models import Claim
from pipeline.stages import Context

__all__ = ["feed"]

_LONGEST_WAIT_S = 1.0
_TOGETHER_S = 0.02


async def feed(
    context: Context, scanned: anyio.Event, claims: MemoryObjectSendStream[Claim]
) -> None:
    """Send every recording that is due, and return when none ever will be again."""
    ledger, intake, limit = context.ledger, context.intake, context.settings.limit
    one_by_one = context.settings.is_capped or context.is_rationed
    async with claims:
        while True:
            change, scan_is_done = intake.next_change, scanned.is_set()
            may_begin = scan_is_done or not context.in_order
            begun, is_undecided = intake.taken_in, intake.is_undecided
            most, anew = intake.room, may_begin and (limit is None or begun < limit)
            if limit is not None and anew:
                most = min(most, limit - begun)
            if one_by_one:
                most = 0 if is_undecided else min(most, 1)
            backlog = intake.allowance.takes_backlog
            if most and (taken := await ledger.claim(most, anew=anew, backlog=backlog)):
                for claim in taken:
                    intake.claim(claim.recording_id, is_new=claim.is_new)
                for claim in taken:
                    await claims.send(claim)
                continue
            due_in_s = await ledger.next_due(anew=anew, backlog=backlog) if most else None
            no_more = scan_is_done or not intake.is_open
            if (
                no_more
                and due_in_s is None
                and not (is_undecided or (intake.collects and await ledger.unfinished()))
            ):
                # Asked once more: what was under way a moment ago may be due again.
                if not intake.is_open or await _is_all(context, anew):
                    return
                continue
            # Not left to signals alone: the clock makes rows due, too.
            wait_s = _LONGEST_WAIT_S if due_in_s is None else min(due_in_s, _LONGEST_WAIT_S)
            with anyio.move_on_after(wait_s):
                await change.wait()
                if not one_by_one:
                    await anyio.sleep(_TOGETHER_S)  # places that become free together are taken so


async def _is_all(context: Context, anew: bool) -> bool:
    """Whether nothing will ever be due again."""
    backlog = context.intake.allowance.takes_backlog
    return await context.ledger.next_due(anew=anew, backlog=backlog) is None
