"""
`overnight run`: in, folders of recordings; out, their transcripts, and a summary.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from jobs.console import agreed, is_attended, run_listeners, say, tell
from jobs.flags import FLAGS, Flags, Switch
from jobs.leaving import run_stoppable
from pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
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
    settings = flags.settings(provider=provider)
    if not folders and not sample and settings.files_from is None:
        raise SettingsError(
            "which recordings? Name their folder",
            "hint: `overnight run FOLDER -o OUTPUT`, or try `overnight run --sample`",
        )
    if settings.output is None:
        if not sample:
            raise SettingsError("where should results go? Name a folder with `--output`")
        settings = settings.model_copy(update={"output": Path("transcripts")})
    asks = settings.force and not (settings.dry_run or yes) and is_attended()
    if asks and not _agreed(folders, settings, sample=sample):
        tell("nothing was sent\nhint: `--yes` agrees to it, `--dry-run` only says what it would be")
        return ExitCode.USAGE
    return _run(folders, settings, sample=sample)


def _agreed(folders: Sequence[Path], settings: "Settings", *, sample: bool) -> bool:
    """Whether somebody at the terminal agrees to what `--force` comes to, if to anything."""
    from functools import partial

    from jobs.folder import run_folder
    from pipeline.report.words import count, hours, usd

    dry = settings.model_copy(update={"dry_run": True})
    would = run_stoppable(partial(run_folder, folders, dry, sample=sample, emit=lambda _: None))
    cost = (
        "at an unknown cost" if would.due_cost_usd is None else f"about {usd(would.due_cost_usd)}"
    )
    anew = f"Transcribe {count(would.due, 'recording')} anew, {hours(would.due_hours)}, {cost}?"
    return not would.due or agreed(anew)


def _run(folders: Sequence[Path], settings: "Settings", *, sample: bool) -> int:
    from functools import partial

    from jobs.folder import run_folder
    from pipeline.progress import render_summary

    environ = dict(os.environ)
    with run_listeners(settings) as emit:
        os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
        summary = run_stoppable(
            partial(run_folder, folders, settings, sample=sample, emit=emit, environ=environ)
        )
    if not (settings.json_lines or settings.quiet):
        say(render_summary(summary))
    return summary.exit_code
