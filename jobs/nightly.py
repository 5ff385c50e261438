"""
`overnight nightly`: the same every night, with nobody there.

    sources -> hooks: start -> transcribe -> morning report -> hooks: success or failure

In: settings with their sources, or folders. Out: results, a summary for schedulers, a page for
people, and word to whoever the hooks name.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from anyio import to_thread

from jobs.telling import Began, telling
from jobs.transcribe import Source, named_sources, transcribe
from pipeline.errors import BatchError, SettingsError
from pipeline.events import Emit, Summary, Warned
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

_OUTAGE_PATIENCE_S = 6 * 3600.0


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
    line = ""
    if settings.outage_patience is None:  # a window ends it soon enough
        patience_s = math.inf if settings.window else _OUTAGE_PATIENCE_S
        settings = settings.model_copy(update={"outage_patience": patience_s})

    async def run(began: Began | None, emit: Emit) -> Summary:
        if settings.output is None:
            raise SettingsError("where should results go? Name a folder with `--output`")
        return await transcribe(
            settings,
            await to_thread.run_sync(_sources, folders, settings),
            by_age=True,
            began=began,
            emit=emit,
            environ=environ,
            clock=clock,
        )

    async def report(summary: Summary, folder: Path) -> None:
        nonlocal line
        line = f"run {summary.run_id} ended with {words.exit_code(summary.exit_code, summary.why)}"
        try:
            line = await to_thread.run_sync(
                _report, settings, summary.run_id, folder, abandon_on_cancel=True
            )
        except (BatchError, OSError) as error:
            emit(Warned(message=f"there is no report of this run: {error}"))

    if settings.dry_run:
        summary = await run(None, emit)
        return summary, render_summary(summary)
    summary = await telling(run, settings, report=report, emit=emit, environ=environ)
    return summary, line


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
