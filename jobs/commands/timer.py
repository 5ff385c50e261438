"""
`overnight nightly install`, `uninstall`, `status`: in, a time and a file of settings; out, what has
a scheduler start `overnight nightly`, and what became of it.
"""

import os
import re
import sys
from datetime import time
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from jobs.console import say, tell, teller
from jobs.flags import WHERE, Switch, Where
from pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from jobs.timer import Kind

__all__ = ["nightly"]

nightly = App(name="nightly", help="Transcribe what is new, every night.")


@nightly.command
def install(
    *,
    config: Path = Path("overnight.toml"),
    at: str = "22:00",
    time_zone: str | None = None,
    kind: Literal["systemd", "cron", "launchd", "windows"] | None = None,
    name: str = "overnight",
    show: Annotated[bool, Parameter(name="--print", negative="")] = False,
) -> int:
    """
    Have a scheduler start `overnight nightly` every day, with the settings of this folder.

    Parameters
    ----------
    config
        Settings file; it has to exist (./overnight.toml).
    at
        When it starts, HH:MM (22:00).
    time_zone
        Whose clock that is, for example Europe/Berlin; the machine's own if not given.
    kind
        systemd, cron, launchd or windows (WSL); what this system has if not given.
    name
        Name of the installation, if there is more than one (overnight).
    show
        Say what would be written, and write nothing.
    """
    from jobs import timer
    from jobs.units import Plan
    from pipeline.settings import load_settings

    _check(name)
    settings = load_settings({}, config=config)
    if settings.output is None:
        raise SettingsError(f"where should results go? Set `output` in {config}")
    places = timer.Places.of(name, os.environ)
    variables = timer.carried(settings, os.environ, places.variables)
    log_folder = settings.log_file and settings.log_file.parent
    writes = [folder for folder in (settings.output, settings.state, log_folder) if folder]
    plan = Plan(
        name=name,
        # -P: a folder of recordings is no place to import from.
        command=(
            sys.executable,
            "-P",
            "-m",
            "jobs.start",
            "nightly",
            "--config",
            str(config.absolute()),
        ),
        folder=Path.cwd(),
        at=_time(at),
        time_zone=_zone(time_zone),
        variables=places.variables if variables else None,
        writes=tuple(folder.absolute() for folder in writes),
        has_namespaces=timer.may_have_namespaces(os.environ),
        stop_grace_s=settings.stop_grace,
        log=places.log,
    )
    chosen = kind or _usual_kind()
    if plan.time_zone and chosen in ("launchd", "windows"):
        tell(f"warning: {chosen} goes by the clock of the machine, not by that of {plan.time_zone}")
    if show:
        say(timer.shown(plan, chosen, variables, os.environ))
        return ExitCode.DONE
    return timer.install(plan, chosen, variables, os.environ, say=say, tell=tell)


@nightly.command
def uninstall(*, name: str = "overnight") -> int:
    """
    Take back what `overnight nightly install` did; results and settings stay.

    Parameters
    ----------
    name
        Name of the installation (overnight).
    """
    from jobs import timer

    _check(name)
    timer.uninstall(name, os.environ, tell=tell)
    return ExitCode.DONE


@nightly.command
def status(
    *,
    where: Where = WHERE,
    at: str | None = None,
    time_zone: str | None = None,
    name: str = "overnight",
    json: Annotated[bool, Switch] = False,
) -> int:
    """
    When the next run starts, and what became of the last one.

    Parameters
    ----------
    at
        When it starts, HH:MM, for schedulers that cannot be asked, such as cron.
    time_zone
        Whose clock that is; the machine's own if not given.
    name
        Name of the installation (overnight).
    json
        As one JSON object.
    """
    from jobs import timer

    _check(name)
    settings = where.settings()
    found = timer.status(
        name,
        os.environ,
        state=settings.state_dir if settings.output or settings.state else None,
        at=_time(at) if at else None,
        time_zone=_zone(time_zone),
    )
    teller(json)(found)
    return ExitCode.DONE


def _usual_kind() -> "Kind":
    """What starts things at their time here."""
    if sys.platform == "darwin":
        return "launchd"
    return "systemd" if which("systemctl") else "cron"


def _check(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise SettingsError(f"`{name}` is no name: write letters, digits, `-`, `_` and `.`")


def _time(text: str) -> time:
    if not re.fullmatch(r"([01]?\d|2[0-3]):[0-5]\d", text):
        raise SettingsError(f"`{text}` is no time of a day: write `22:00`")
    hour, minute = map(int, text.split(":"))
    return time(hour, minute)


def _zone(text: str | None) -> str | None:
    """A time zone that there is."""
    from zoneinfo import ZoneInfo

    try:
        return text and ZoneInfo(text).key
    except (KeyError, OSError, ValueError):
        raise SettingsError(f"`{text}` is no time zone: write `Europe/Berlin`") from None
