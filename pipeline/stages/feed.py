"""
Ledger -> claims: what is due, in the order of paths, as much as there is room for.

Ends when the scan is done and no row is open: then nothing can become due any more. What fails
and may be tried again, and what turned out not to be accepted, comes back this way.
"""

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from pipeline.models import Claim
from pipeline.stages import Context

__all__ = ["feed"]

_LONGEST_WAIT_S = 1.0


async def feed(
    context: Context, scanned: anyio.Event, claims: MemoryObjectSendStream[Claim]
) -> None:
    """Send every recording that is due, and return when none ever will be again."""
    ledger, intake = context.ledger, context.intake
    left = context.settings.limit
    async with claims:
        while True:
            change, scan_is_done = intake.next_change, scanned.is_set()
            most = intake.room if left is None else min(left, intake.room)
            due_in_s = await ledger.next_due() if most else None
            if due_in_s is not None and due_in_s <= 0:
                taken = await ledger.claim(most)
                for claim in taken:
                    intake.claim(claim.recording_id)
                for claim in taken:
                    await claims.send(claim)
                if left is not None:
                    left -= len(taken)
                continue
            no_more = due_in_s is None and (scan_is_done or not intake.is_open)
            if no_more and not (intake.collects and await ledger.unfinished()):
                return
            # Not left to signals alone: the clock makes rows due, too.
            with anyio.move_on_after(min(due_in_s or _LONGEST_WAIT_S, _LONGEST_WAIT_S)):
                await change.wait()
