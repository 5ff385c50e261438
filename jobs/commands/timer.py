"""
`overnight nightly install`, `uninstall`, `status`: in, a time and a file of settings; out, what has
a scheduler start `overnight nightly`, and what became of it.
"""

import os
import re
import sys
from datetime import datetime, time
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from jobs.console import say, tell, teller
from jobs.flags import WHERE, Switch, Where
from pipeline.errors import ExitCode, SettingsError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from jobs.timer import Kind

__all__ = ["install", "status", "uninstall"]

_PROGRAM = (sys.executable, "-P", "-m", "jobs.start")  # -P: modules are not those of the folder
_USUAL = time(22)


def install(
    *,
    config: Path = Path("overnight.toml"),
    at: str | None = None,
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
        When it starts, HH:MM, by the clock of `time_zone` (when `window` opens, or 22:00).
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
    if not settings.source:
        raise SettingsError(f"which recordings? Give {config} a `[[source]]`")
    places = timer.Places.of(name, os.environ)
    variables = timer.carried(settings, os.environ, places.variables)
    log_folder = settings.log_file and settings.log_file.parent
    writes = [folder for folder in (settings.output, settings.state, log_folder) if folder]
    plan = Plan(
        name=name,
        command=(*_PROGRAM, "nightly", "--config", str(config.absolute())),
        folder=Path.cwd(),
        at=_time(at) if at else settings.window.opens if settings.window else _USUAL,
        time_zone=settings.time_zone,
        variables=places.variables if variables else None,
        reads=tuple(source.folder.absolute() for source in settings.source),
        writes=tuple(folder.absolute() for folder in writes),
        has_namespaces=timer.may_have_namespaces(os.environ),
        stops_in_s=settings.stop_grace + settings.hooks.timeout,
        log=places.log,
    )
    chosen = kind or _usual_kind()
    if chosen in ("launchd", "windows") and _is_elsewhere(settings.zone):
        tell(f"warning: {chosen} goes by the clock of the machine, not by that of {plan.time_zone}")
    if show:
        say(timer.shown(plan, chosen, variables, os.environ))
        return ExitCode.DONE
    return timer.install(plan, chosen, variables, os.environ, say=say, tell=tell)


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


def status(
    *,
    where: Where = WHERE,
    at: str | None = None,
    name: str = "overnight",
    json: Annotated[bool, Switch] = False,
) -> int:
    """
    When the next run starts, and what became of the last one.

    Parameters
    ----------
    at
        When it starts, HH:MM, for schedulers that cannot be asked, such as cron.
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
        time_zone=settings.time_zone,
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


def _is_elsewhere(zone: "ZoneInfo | None") -> bool:
    """Whether clocks of a zone show another time than those of this machine."""
    here = datetime.now().astimezone()
    return here.astimezone(zone).utcoffset() != here.utcoffset()
