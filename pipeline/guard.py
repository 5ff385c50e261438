"""
What ends the intake of a run from outside: in, the clock on the wall and the room on the disks.

`guarded` looks before anything is sent, then now and then, for as long as the work goes on. What
would not finish before the window closes is not asked for; when it closes, nothing is fetched any
more either: what the service has is left to the next run, at no cost.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from pipeline.errors import ExitCode, RoomLow
from pipeline.files import in_thread
from pipeline.settings import Settings
from pipeline.stages import Context

__all__ = ["guarded", "room_low"]

_LOOK_EVERY_S = 10.0


@asynccontextmanager
async def guarded(context: Context) -> AsyncIterator[None]:
    """Watch over a run while the block is in progress; `context.intake` says what came of it."""
    settings = context.settings
    if settings.window is None and settings.min_free is None:
        yield
        return
    await _look(context)
    async with anyio.create_task_group() as group:
        group.start_soon(_watch, context)
        yield
        group.cancel_scope.cancel()


async def _watch(context: Context) -> None:
    while context.intake.collects:
        # In short steps: the clock on the wall may be set meanwhile.
        left_s = context.intake.closes_at - context.ledger.now()
        await anyio.sleep(min(_LOOK_EVERY_S, max(left_s, 0.0)))
        await _look(context)


async def _look(context: Context) -> None:
    """One look at the clock and the disks."""
    settings, intake, now = context.settings, context.intake, context.ledger.now()
    if settings.window is not None:
        closes_at = settings.window.closes_at(now, settings.zone)
        if closes_at is None:
            intake.stop(ExitCode.WINDOW_CLOSED, f"outside of the window {settings.window}")
            if context.outages.reason is not None:  # it was not the window that kept us
                intake.stop(ExitCode.TRY_LATER, context.outages.reason)
        else:
            intake.closes_at = closes_at
    if settings.min_free is not None:
        low = await _room_low(settings, settings.min_free)
        if low is not None:
            intake.end(RoomLow(low))


def room_low(settings: Settings, least: int) -> str | None:
    """Where there is less room than that, and how much; None where there is more. Blocks."""
    for folder in filter(None, (settings.output, settings.state_dir)):
        free = shutil.disk_usage(_there(folder)).free
        if free < least:
            return (
                f"{folder} has {free / 1e9:.2f} GB free, and {least / 1e9:.2f} GB have to be"
                " (`min_free`): nothing more is asked for"
            )
    return None


_room_low = in_thread(room_low)


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.is_dir())
