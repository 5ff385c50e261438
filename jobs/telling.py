"""
A run that others hear of: in, a run and whom the settings name; out, its summary.

    hooks: start -> the run -> [its report] -> hooks: success or failure -> the summary
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import anyio

from jobs.leaving import LAST_S, leaving_at_a_signal, left_s
from jobs.notify import Moment, moment_of, notify
from pipeline.errors import BatchError, ExitCode, Locked, leaves
from pipeline.events import Emit, Event, RunStarted, Summary, encode
from pipeline.settings import Hooks, Settings

__all__ = ["Began", "tell_refusal", "telling"]

Began = Callable[[RunStarted], Awaitable[None]]


async def telling(
    run: Callable[[Began, Emit], Awaitable[Summary]],
    settings: Settings,
    *,
    report: Callable[[Summary, Path], Awaitable[None]] | None = None,
    emit: Emit,
    environ: Mapping[str, str],
) -> Summary:
    """
    What a run comes to, once all whom `[hooks]` names know how it began and ended.

    The summary is the last that goes to `emit`, since hooks and the report may have something to
    say. `report` is given it, and the folder of the run, before its end is told. Nobody is told of
    a run that another one keeps from starting: the other one does that.

    Raises:
        Exception: as `run` does; that has been told as well.
    """
    tell, ends = partial(notify, settings.hooks, environ=environ, emit=emit), list[Summary]()

    def hear(event: Event) -> None:
        if isinstance(event, Summary):
            ends.append(event)
        else:
            emit(event)

    async def began(started: RunStarted) -> None:
        await tell(Moment.START, encode(started))

    try:
        try:
            summary = await run(began, hear)
        except Exception as error:  # a bug as well: nobody is there to see it
            await tell_refusal(error, settings.hooks, emit=emit, environ=environ)
            raise
        folder = settings.state_dir / "runs" / summary.run_id
        async with leaving_at_a_signal():
            if report is not None:
                # The last seconds of a process that was stopped are for those who want to know.
                with anyio.move_on_after(left_s() - LAST_S):
                    await report(summary, folder)
            # A stop leaves time for no more than what is bounded: hooks are, and whoever waits
            # hears of it.
            with anyio.CancelScope(shield=True):
                await tell(moment_of(summary), encode(summary), report=folder / "report.html")
        return summary
    finally:
        for summary in ends:
            emit(summary)


async def tell_refusal(
    error: Exception, hooks: Hooks, *, emit: Emit, environ: Mapping[str, str]
) -> None:
    """Tell that a run could not begin, or broke off; but not that another one holds the lock."""
    several = leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    if any(isinstance(each, Locked) for each in several):
        return
    known = [each if isinstance(each, BatchError) else BatchError() for each in several]
    known.sort(key=lambda each: ExitCode(each.exit_code).rank)
    summary = Summary(
        run_id="",
        exit_code=known[0].exit_code,
        reason="\n".join(map(str, several)),
        why=list(dict.fromkeys(each.cause for each in known)),
    )
    async with leaving_at_a_signal():
        await notify(hooks, Moment.FAILURE, encode(summary), environ=environ, emit=emit)
