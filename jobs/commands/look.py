"""
`overnight status` and `overnight list`: in, a ledger; out, what stands in it.
"""

from typing import Annotated

from jobs.console import say
from jobs.flags import WHERE, Switch, Where
from pipeline.errors import ExitCode, SettingsError

__all__ = ["list_recordings", "status"]


def status(*, where: Where = WHERE, json: Annotated[bool, Switch] = False) -> int:
    """
    How many recordings are in which state, what is under way, what the last run came to.

    Parameters
    ----------
    json
        As one JSON object.
    """
    from json import dumps

    from pipeline.report import status_json, status_text

    settings = where.settings()
    asked = settings.state_dir, settings.prices
    say(dumps(status_json(*asked), ensure_ascii=False) if json else status_text(*asked))
    return ExitCode.DONE


def list_recordings(
    *,
    where: Where = WHERE,
    only: str | None = None,
    versions: Annotated[bool, Switch] = False,
    json: Annotated[bool, Switch] = False,
) -> int:
    """
    Every recording and what has become of it, one a line.

    Parameters
    ----------
    only
        Only those in this state, for example failed, or given-up.
    versions
        The results that were replaced instead: their files, and what they were made with.
    json
        As one JSON object a line.
    """
    from pipeline.report import list_lines, version_lines

    settings = where.settings()
    folder = settings.state_dir
    if versions:
        if only is not None:
            raise SettingsError("`--versions` lists those of all recordings: leave out `--only`")
        lines = version_lines(folder, as_json=json)
    else:
        lines = list_lines(
            folder,
            state_filter=only,
            as_json=json,
            nights=settings.gives_up_after,
            zone=settings.zone,
        )
    for line in lines:
        say(line)
    return ExitCode.DONE
