"""
`overnight run`: in, folders of recordings; out, their transcripts, and a summary.
"""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from jobs.console import agreed, is_attended, refusal_told, run_listeners, say, tell
from jobs.flags import FLAGS, Flags, Switch
from jobs.leaving import run_stoppable
from pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from pipeline.events import Emit, Summary
    from pipeline.settings import Settings

__all__ = ["run"]


def run(
    *folders: Path,
    sample: Annotated[bool, Switch] = False,
    yes: Annotated[bool, Switch, Parameter(name=("--yes", "-y"))] = False,
    flags: Flags = FLAGS,
) -> int:
    """
    Transcribe every recording under the folders, each once.

    Parameters
    ----------
    folders
        Folders of recordings, or single recordings.
    sample
        Transcribe the recordings that come with the program, on this machine.
    yes
        Do not ask before --force pays again.
    """
    if sample and folders:
        raise SettingsError("`--sample` takes no folder: its recordings are in the program")
    provider = flags.provider or ("local" if sample else None)
    is_told = partial(_is_told, is_watched=sys.stderr.isatty(), sample=sample)
    with refusal_told(flags.told, is_told):
        settings = flags.settings(provider=provider)
    if sample and settings.output is None:
        settings = settings.model_copy(update={"output": Path("transcripts")})
    asks = settings.force and not (settings.dry_run or yes) and is_attended()
    if asks and not _agreed(folders, settings, sample=sample):
        tell("nothing was sent\nhint: `--yes` agrees to it, `--dry-run` only says what it would be")
        return ExitCode.USAGE
    with ExitStack() as stack:
        with refusal_told(flags.told, is_told):
            emit = stack.enter_context(run_listeners(settings))
        summary = _run(folders, settings, sample=sample, tells=is_told(settings), emit=emit)
    if not (settings.json_lines or settings.quiet):
        from pipeline.progress import render_summary

        say(render_summary(summary))
    return summary.exit_code


def _is_told(settings: "Settings", *, is_watched: bool, sample: bool) -> bool:
    """Whether hooks hear of a run: where nobody watches it, unless the settings say otherwise."""
    from pipeline.settings import HOOK_VARIABLES

    # The hook of a run may well start another one, which would start another one.
    is_of_a_hook = any(name in os.environ for name in HOOK_VARIABLES)
    said = settings.hooks.run
    tells = not is_watched if said is None else said
    return tells and not (sample or settings.dry_run or is_of_a_hook)


def _agreed(folders: Sequence[Path], settings: "Settings", *, sample: bool) -> bool:
    """Whether somebody at the terminal agrees to what `--force` comes to, if to anything."""
    from jobs.folder import run_folder
    from pipeline.report.words import count, hours, usd

    dry = settings.model_copy(update={"dry_run": True})
    would = run_stoppable(partial(run_folder, folders, dry, sample=sample, emit=lambda _: None))
    cost = (
        "at an unknown cost" if would.due_cost_usd is None else f"about {usd(would.due_cost_usd)}"
    )
    anew = f"Transcribe {count(would.due, 'recording')} anew, {hours(would.due_hours)}, {cost}?"
    return not would.due or agreed(anew)


def _run(
    folders: Sequence[Path], settings: "Settings", *, sample: bool, tells: bool, emit: "Emit"
) -> "Summary":
    from jobs.folder import run_folder

    environ = dict(os.environ)
    os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
    given = partial(
        run_folder,
        folders,
        settings,
        sample=sample,
        tells=tells,
        is_attended=sys.stderr.isatty(),
    )
    return run_stoppable(partial(given, emit=emit, environ=environ))
