"""
`overnight report`: in, a run; out, what it came to, as a page, as JSON, or as a line.
"""

from typing import Annotated, Literal

from jobs.console import say
from jobs.flags import WHERE, Switch, Where
from pipeline.errors import ExitCode
from pipeline.lines import visible

__all__ = ["report"]


def report(
    *,
    where: Where = WHERE,
    run: str | None = None,
    format: Literal["html", "json", "line"] = "html",  # noqa: A002 - what the flag is called
    json: Annotated[bool, Switch] = False,
    time_zone: str | None = None,
) -> int:
    """
    The morning after a run: what became of its recordings, what it cost, what is worth a look.

    Parameters
    ----------
    run
        Id of the run, the name of its folder; the newest if not given.
    format
        html writes a page beside the run and prints its path; json and line print.
    json
        As one JSON object: the same as `--format json`.
    time_zone
        Where the clock hangs: Europe/Berlin.
    """
    from pipeline.report.morning import morning
    from pipeline.report.page import as_json, as_line, save

    settings = where.settings(time_zone=time_zone)
    facts = morning(settings, run, zone=settings.zone)
    match "json" if json else format:
        case "json":
            say(as_json(facts).decode())
        case "line":
            say(as_line(facts))
        case _:
            say(visible(str(save(facts, settings.state_dir / "runs" / facts.run_id))))
    return ExitCode.DONE
