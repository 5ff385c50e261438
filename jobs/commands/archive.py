"""
What `overnight reprocess` does for nothing: in, folders and formats; out, results and their files.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.console import repair_listeners, teller
from jobs.leaving import run_stoppable
from pipeline.errors import SettingsError

if TYPE_CHECKING:
    from pipeline.settings import Settings

__all__ = ["adopt_archive", "render_again"]


def render_again(settings: "Settings") -> int:
    """The formats of the settings, made anew of all results; the exit code."""
    from functools import partial

    from jobs.render import render_archive

    tell = teller(settings.json_lines)
    with repair_listeners(settings) as emit:
        done = run_stoppable(partial(render_archive, settings, settings.formats, tell, emit=emit))
    tell(done)
    return done.exit_code


def adopt_archive(archive: Path, folders: Sequence[Path], settings: "Settings") -> int:
    """What other tools left, taken for results of ours; the exit code."""
    from functools import partial

    from jobs.adopt import adopt

    if not folders:
        raise SettingsError(
            "of which recordings? Name their folder\n"
            f"hint: `overnight reprocess FOLDER --adopt {archive} -o OUTPUT`"
        )
    tell, environ = teller(settings.json_lines), dict(os.environ)
    with repair_listeners(settings) as emit:
        work = partial(adopt, settings, folders, archive, tell, emit=emit, environ=environ)
        done = run_stoppable(work)
    tell(done)
    return done.exit_code
