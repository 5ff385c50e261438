"""
`overnight run`: in, folders of recordings; out, their transcripts, and a summary.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from jobs.console import run_listeners, say
from jobs.flags import FLAGS, Flags, Switch
from jobs.leaving import run_stoppable
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["run"]


def run(*folders: Path, sample: Annotated[bool, Switch] = False, flags: Flags = FLAGS) -> int:
    """
    Transcribe every recording under the folders, each once.

    Parameters
    ----------
    folders
        Folders of recordings, or single recordings.
    sample
        Transcribe the recordings that come with the program, on this machine.
    """
    if sample and folders:
        raise SettingsError("`--sample` takes no folder: its recordings are in the program")
    provider = flags.provider or ("local" if sample else None)
    settings = flags.settings(provider=provider)
    if not folders and not sample and settings.files_from is None:
        raise SettingsError(
            "which recordings? Name their folder\n"
            "hint: `overnight run FOLDER -o OUTPUT`, or try `overnight run --sample`"
        )
    if settings.output is None:
        if not sample:
            raise SettingsError("where should results go? Name a folder with `--output`")
        settings = settings.model_copy(update={"output": Path("transcripts")})
    return _run(folders, settings, sample=sample)


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
