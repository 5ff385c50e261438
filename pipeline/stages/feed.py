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
    ledger, intake, limit = context.ledger, context.intake, context.settings.limit
    begun: set[int] = set()  # what `--limit` counts: recordings, not tries
    async with claims:
        while True:
            change, scan_is_done = intake.next_change, scanned.is_set()
            most, anew = intake.room, limit is None or len(begun) < limit
            if limit is not None and anew:
                most = min(most, limit - len(begun))
            if most and (taken := await ledger.claim(most, anew=anew)):
                for claim in taken:
                    intake.claim(claim.recording_id)
                for claim in taken:
                    await claims.send(claim)
                if limit is not None:
                    begun.update(claim.recording_id for claim in taken)
                continue
            due_in_s = await ledger.next_due(anew=anew) if most else None
            no_more = scan_is_done or not intake.is_open
            if no_more and due_in_s is None and not (intake.collects and await ledger.unfinished()):
                # Asked once more: what was under way a moment ago may be due again.
                if not intake.is_open or await ledger.next_due(anew=anew) is None:
                    return
                continue
            # Not left to signals alone: the clock makes rows due, too.
            with anyio.move_on_after(min(due_in_s or _LONGEST_WAIT_S, _LONGEST_WAIT_S)):
                await change.wait()
