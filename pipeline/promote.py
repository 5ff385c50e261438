"""
Which of two results stays: in, results that were replaced and may have to come back; out, files in
their places, and a ledger that says so.

    versions/call.wav~OLD.json  -- compared with ->  call.wav.json       better: the new one stays
    call.wav.json               -- kept as       ->  versions/call.wav~NEW.json
    versions/call.wav~OLD.json  -- copied to     ->  call.wav.json       and srt, txt, ... made anew
    the ledger                  -- in one step   ->  the old one is current, the new one replaced

Each step may be the last one: whatever was done is found done, and what is left is done by the next
run, before it looks at anything else. Both results lie on disk all the time. What is of other bytes
than its recording holds by now, be it that the ledger has not seen that yet, stays where it is.
"""

import os
from dataclasses import dataclass
from typing import Literal

from anyio import BrokenWorkerProcess, to_process

from pipeline.errors import AnswerUnusable
from pipeline.events import Warned
from pipeline.files import in_thread, regular, sha256_of
from pipeline.ledger.promotions import Replaced
from pipeline.models import signed
from pipeline.names import derived
from pipeline.quality import Appraisal, appraise, is_better
from pipeline.redaction import bring_audio_back, put_audio_aside
from pipeline.settings import FORMATS
from pipeline.spool import Spool
from pipeline.stages import Context, kept_as
from pipeline.stages.write import render

__all__ = ["Settled", "Verdict", "settle", "settle_one"]

_PAGE = 100

Verdict = Literal["back", "stayed", "left", "foreign"]
"""What became of a replaced result: as the fields of `Settled`."""


@dataclass(slots=True)
class Settled:
    """What became of results that might have had to come back."""

    back: int = 0
    """Replaced results that are current again."""
    stayed: int = 0
    """New results that are the better ones, or whose older one is gone."""
    left: int = 0
    """Not settled: a file could not be written. The next run tries it again."""
    foreign: int = 0
    """Older results of other bytes than their recordings hold: they stay where they are."""

    def count(self, verdict: Verdict) -> None:
        """One more of them."""
        setattr(self, verdict, getattr(self, verdict) + 1)


async def settle(context: Context, settled: Settled | None = None) -> Settled:
    """
    Decide for each result that was replaced and may have to come back, and bring it back.

    It costs nothing. What cannot be done is told, and left to the next run. What becomes of them is
    added to `settled`.
    """
    settled, last = settled or Settled(), 0
    while page := await context.ledger.unsettled(last, _PAGE):
        for each in page:
            settled.count(await settle_one(context, each))
        last = page[-1].version_id
    return settled


async def settle_one(context: Context, each: Replaced) -> Verdict:
    """The same for one of them."""
    try:
        if each.promote != "always" and not await _is_of_its_bytes(each):
            _warn(context, each, "its older result is of other bytes than it holds: this one stays")
            await context.ledger.settle(each.version_id, comes_back=False)
            return "foreign"
        if await _comes_back(context, each) and await _bring_back(context, each):
            return "back"
    except (OSError, BrokenWorkerProcess, KeyboardInterrupt, MemoryError) as error:
        # The last three are the worker's end, not ours: a Ctrl-C reaches it too.
        why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        _warn(context, each, f"its older result is not back yet: {why}")
        return "left"
    await context.ledger.settle(each.version_id, comes_back=False)
    return "stayed"


async def _is_of_its_bytes(each: Replaced) -> bool:
    """Whether a replaced result is of what its recording holds, or held when it was there last."""
    if each.made_of is None or each.made_of != each.holds:
        return False
    if each.folder is None:
        return True
    source = os.path.join(each.folder, each.path)
    try:
        found = await _shape(source)
    except (FileNotFoundError, NotADirectoryError):
        return True
    # Its times are others, or were in flux: only its bytes can tell.
    return found == each.looked or await sha256_of(source) == each.holds


@in_thread
def _shape(source: bytes) -> str:
    """Size, mtime_ns, ctime_ns and inode of a file."""
    found = os.stat(source)
    times = f"{signed(found.st_mtime_ns)} {signed(found.st_ctime_ns)}"
    return f"{found.st_size} {times} {signed(found.st_ino)}"


async def _comes_back(context: Context, each: Replaced) -> bool:
    """Whether the replaced result is to be the current one; noted before anything is moved."""
    if each.promote != "better":
        return each.promote == "never"
    place = context.place(each.result)
    comes_back = await to_process.run_sync(_is_worse, place, kept_as(context, place)(each.digest))
    if comes_back:
        await context.ledger.settle(each.version_id, comes_back=True)
    return comes_back


def _is_worse(new: bytes, old: bytes) -> bool:
    """Whether a new answer is not better than the old one, if that is one."""
    was = _appraised(old)
    if was is None:
        return False
    now = _appraised(new)
    return now is None or not is_better(now, was)


def _appraised(place: bytes) -> Appraisal | None:
    try:
        with open(place, "rb", opener=regular) as file:
            return appraise(file.read())
    except (FileNotFoundError, AnswerUnusable):
        return None


async def _bring_back(context: Context, each: Replaced) -> bool:
    """Put a replaced result into its place; False when it is not among the versions any more."""
    place = context.place(each.result)
    kept = kept_as(context, place)
    if await sha256_of(place) != each.digest:
        async with Spool(place, each.digest[:12]) as spool:
            try:
                found = await spool.copy_from(kept(each.digest))
            except FileNotFoundError:
                found = ""
            if found != each.digest:
                _warn(context, each, "its older result is not in `versions/` any more: this stays")
                return False
            await put_audio_aside(place, kept, each.digest)
            await bring_audio_back(kept(each.digest), place)
            await spool.put(place, kept)
    await render(context, place, await _derived_formats(context, each, place))
    await context.ledger.record_back(each.version_id)
    return True


async def _derived_formats(context: Context, each: Replaced, place: bytes) -> list[str]:
    """What is to be made from a result: what is asked for, and what was made from the other one."""
    wanted = context.settings_of(each.root).formats
    there = await _existing([derived(place, suffix) for suffix in FORMATS[1:]])
    return [s for s in FORMATS[1:] if s in wanted or derived(place, s) in there]


@in_thread
def _existing(places: list[bytes]) -> set[bytes]:
    return {place for place in places if os.path.lexists(place)}


def _warn(context: Context, each: Replaced, what: str) -> None:
    context.emit(Warned(message=f"{context.label(each.root, each.path)}: {what}"))
