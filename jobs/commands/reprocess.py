"""
`overnight reprocess`: in, an archive of results, ours or of other tools; out, more made of it.
"""

from pathlib import Path

from jobs.commands.archive import adopt_archive, render_again
from jobs.flags import FLAGS, Flags
from pipeline.errors import SettingsError

__all__ = ["reprocess"]


def reprocess(
    *folders: Path,
    render: list[str] | None = None,
    adopt: Path | None = None,
    flags: Flags = FLAGS,
) -> int:
    """
    Make more of what was transcribed before. Asks no service, and costs nothing.

    Parameters
    ----------
    folders
        Folders of recordings, for `--adopt`.
    render
        Make these derived files of all results anew: txt, srt, vtt, md, tsv, a comma list, or all.
    adopt
        Folder of JSON results that other tools left, to be taken for results of these recordings.
    """
    if (render is None) == (adopt is None):
        raise SettingsError("either `--render FORMATS` or `--adopt ARCHIVE FOLDER`")
    if adopt is not None:
        return adopt_archive(adopt, folders, flags.settings())
    return render_again(flags.settings(formats=render))
