"""
`overnight nightly`: in, sources of the settings; out, their transcripts, a report, and one line.
"""

import os
from contextlib import ExitStack
from pathlib import Path

from cyclopts import App

from jobs.commands.timer import install, status, uninstall
from jobs.console import refusal_told, run_listeners, say
from jobs.flags import FLAGS, Flags
from jobs.leaving import run_stoppable

__all__ = ["nightly"]


nightly = App(name="nightly")
nightly.command(install)
nightly.command(status)
nightly.command(uninstall)


@nightly.default
def transcribe_new(*folders: Path, flags: Flags = FLAGS) -> int:
    """
    Transcribe what is new in every source, unattended, and report in the morning.

    Parameters
    ----------
    folders
        Folders of recordings, instead of the sources of the settings.
    """
    from functools import partial

    from jobs.nightly import NIGHTLY, run_nightly

    with refusal_told(flags.told, lambda settings: not settings.dry_run):
        settings = flags.settings(defaults=NIGHTLY)
    environ = dict(os.environ)
    with ExitStack() as stack:
        with refusal_told(flags.told, lambda settings: not settings.dry_run):
            emit = stack.enter_context(run_listeners(settings))
        os.environ.pop("ASSEMBLYAI_API_KEY", None)  # no child of ours needs it
        summary, line = run_stoppable(
            partial(run_nightly, folders, settings, emit=emit, environ=environ)
        )
    if not (settings.json_lines or settings.quiet):
        say(line)
    return summary.exit_code
