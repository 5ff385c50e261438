"""
`overnight nightly`: the same every night, with nobody there.

    sources -> hooks: start -> transcribe -> morning report -> hooks: success or failure

In: settings with their sources, or folders. Out: results, a summary for schedulers, a page for
people, and word to whoever the hooks name.
"""

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from jobs.leaving import LAST_S, leaving_at_a_signal, left_s
from jobs.notify import Moment, moment_of, notify
from jobs.transcribe import Source, named_sources, transcribe
from pipeline.errors import BatchError, Locked, SettingsError
from pipeline.events import Emit, Event, RunStarted, Summary, Warned, encode
from pipeline.models import NIGHTS
from pipeline.progress import render_summary
from pipeline.report import words
from pipeline.report.morning import morning
from pipeline.report.page import as_line, save
from pipeline.settings import Settings
from pipeline.stages.scan import find_roots

__all__ = ["NIGHTLY", "run_nightly"]

NIGHTLY: Mapping[str, object] = {
    "min_age": 60.0,
    "min_free": 1_000_000_000,
    "wait_network": 600.0,
    "retry_failed": NIGHTS,
}
"""What counts at night where nobody says otherwise; what failed is tried on `NIGHTS`, by date."""


async def run_nightly(
    folders: Sequence[Path],
    settings: Settings,
    *,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> tuple[Summary, str]:
    """
    One night: its summary, and the same as one line.

    `folders` are taken instead of the sources of the settings. `environ` is where the API key may
    be and what hooks inherit, `clock` tells the time, Unix seconds. A run that another one keeps
    from starting tells no hook of it: the other one does.

    Raises:
        BatchError: as `transcribe` does, and where no source is there; hooks have been told.
    """
    ends = list[Summary]()

    def hear(event: Event) -> None:
        # The summary is the last that is told: hooks and the report may have something to say.
        if isinstance(event, Summary):
            ends.append(event)
        else:
            emit(event)

    try:
        return await _night(folders, settings, hear, environ, clock)
    finally:
        for summary in ends:
            emit(summary)


async def _night(
    folders: Sequence[Path],
    settings: Settings,
    emit: Emit,
    environ: Mapping[str, str],
    clock: Callable[[], float],
) -> tuple[Summary, str]:
    tell = partial(notify, settings.hooks, environ=environ, emit=emit)

    async def began(started: RunStarted) -> None:
        await tell(Moment.START, encode(started))

    try:
        summary = await transcribe(
            settings,
            await to_thread.run_sync(_sources, folders, settings),
            by_age=True,
            began=None if settings.dry_run else began,
            emit=emit,
            environ=environ,
            clock=clock,
        )
    except Exception as error:  # a bug as well: nobody is there to see it
        if not (settings.dry_run or isinstance(error, Locked)):
            known = error if isinstance(error, BatchError) else BatchError()
            summary = Summary(
                run_id="", exit_code=known.exit_code, reason=str(error), why=[known.cause]
            )
            async with leaving_at_a_signal():
                await tell(Moment.FAILURE, encode(summary))
        raise
    if settings.dry_run:
        return summary, render_summary(summary)
    folder = settings.state_dir / "runs" / summary.run_id
    async with leaving_at_a_signal():
        return summary, await _told(summary, settings, folder, tell, emit)


async def _told(
    summary: Summary,
    settings: Settings,
    folder: Path,
    tell: Callable[..., Awaitable[None]],
    emit: Emit,
) -> str:
    """Report how a run went, and tell those who want to know; the report as one line."""
    line = f"run {summary.run_id} ended with {words.exit_code(summary.exit_code, summary.why)}"
    # The last seconds of a process that was stopped are for those who want to know.
    with anyio.move_on_after(left_s() - LAST_S):
        try:
            line = await to_thread.run_sync(
                _report, settings, summary.run_id, folder, abandon_on_cancel=True
            )
        except (BatchError, OSError) as error:
            emit(Warned(message=f"there is no report of this run: {error}"))
    # A stop leaves time for no more than what is bounded: hooks are, and whoever waits hears of it.
    with anyio.CancelScope(shield=True):
        await tell(moment_of(summary), encode(summary), report=folder / "report.html")
    return line


def _sources(folders: Sequence[Path], settings: Settings) -> list[Source]:
    """
    What is to be transcribed; a source that is not there takes no other along.

    Raises:
        SettingsError: there is none, or none that is there.
    """
    if folders or not settings.source:
        if not folders:
            raise SettingsError(
                "which recordings? Name their folder, or give the settings a `[[source]]`"
            )
        return named_sources(find_roots([str(folder) for folder in folders]), settings)
    found, problems = [], []
    for source in settings.source:
        own = settings.of_source(source)
        try:
            roots = [
                replace(root, name=source.root_name, prefix=source.prefix)
                for root in find_roots([str(source.folder)])
            ]
        except SettingsError as error:
            problems.append(str(error))
            found.append(Source(source.root_name, [], own, problem=str(error)))
        else:
            found.append(Source(source.root_name, roots, own))
    if len(problems) == len(found):
        lines = (f"  {each}" for each in problems)
        raise SettingsError("no source is there", *lines, cause="no source is there")
    return found


def _report(settings: Settings, run_id: str, folder: Path) -> str:
    """Write the report of a run, as a page and for programs; the line of it."""
    facts = morning(settings, run_id, zone=settings.zone)
    save(facts, folder)
    return as_line(facts)
