"""
What schedulers are given: in, a plan; out, the text of units, a crontab line, a plist, a task.

Nothing is written here, and no secret passes through: what is started reads them from the file of
variables. Each scheduler has its own way to quote; what it cannot carry is refused.
"""

import math
import plistlib
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import time
from pathlib import Path
from subprocess import list2cmdline
from xml.etree import ElementTree

from pipeline.errors import SettingsError

__all__ = [
    "MARK",
    "Plan",
    "crontab_lines",
    "launch_agent",
    "service_unit",
    "timer_unit",
    "variables_file",
    "windows_task",
]

MARK = "Made by `overnight nightly install`, which overwrites it"
"""Stands in each file that is ours to overwrite and to remove."""

_LEAVES_S = 20
"""Seconds beyond `stops_in_s` until a run that was told to stop is killed."""

_TEMPORARY = (Path("/tmp"), Path("/var/tmp"))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    What is started, when, and what it works with.

    Raises:
        SettingsError: a path has a control character, or is not UTF-8: no scheduler takes it.
    """

    name: str
    command: tuple[str, ...]
    """An absolute path, and what it is given."""
    folder: Path
    """Where it starts: relative paths in settings start from there."""
    at: time
    """Time of the day."""
    time_zone: str | None
    """Whose day, as IANA calls it; None is the machine's own."""
    variables: Path | None
    """File of variables; None if there are none."""
    reads: tuple[Path, ...]
    """Folders of recordings."""
    writes: tuple[Path, ...]
    """Folders that it writes to."""
    has_namespaces: bool
    """Whether its user may make user namespaces, which a sandbox of files needs."""
    stops_in_s: float
    """Seconds that it takes to stop, at most."""
    log: Path
    """What it says is appended to this file, where the scheduler keeps no log."""

    def __post_init__(self) -> None:
        for part in (*self.command, self.folder, self.variables, *self.writes, self.log):
            text = str(part)
            if any(char < " " or char == "\x7f" or "\ud800" <= char <= "\udfff" for char in text):
                raise SettingsError(f"no scheduler can be given the path {text!r}: rename it")


# --- systemd -------------------------------------------------------------------------------------


def service_unit(plan: Plan) -> str:
    """
    The systemd user service: one run, with little of the machine to write to.

    Files are only kept from a run in a user namespace: without PrivateUsers systemd 252 ignores
    all that is below it, and with it a service does not start where there are no namespaces. Left
    out is what a user manager cannot do (PrivateDevices, ProtectKernelModules and others that drop
    capabilities) and what breaks compiled code (MemoryDenyWriteExecute).

    Source: systemd.service(5), systemd.exec(5), systemd.kill(5).

    Raises:
        SettingsError: the program, the folder or the file of variables has a name that no unit
            can hold.
    """
    if set("\\'\"") & set(plan.command[0]):
        raise SettingsError(
            f"systemd starts no program whose path has a quote or a backslash: {plan.command[0]}"
        )
    places = [*map(Path, plan.command), plan.folder, *plan.reads, *plan.writes]
    is_temporary = any(place.is_relative_to(top) for place in places for top in _TEMPORARY)
    return f"""# {MARK}
[Unit]
Description=Transcribe new recordings ({plan.name})
# What is temporary, and a process that was killed, gets five more tries a night
StartLimitIntervalSec=12h
StartLimitBurst=6

[Service]
Type=oneshot
# The colon has $ stand for itself
ExecStart={" ".join(map(_quoted, (":" + plan.command[0], *plan.command[1:])))}
WorkingDirectory={_line(plan.folder)}
{f"EnvironmentFile=-{_line(plan.variables)}" if plan.variables else "# No variables are needed"}
# The exit codes stand in the README; a cap, the end of the window and a stop are no failure
SuccessExitStatus=8 10 143 SIGTERM
Restart=on-failure
RestartSec=15min
RestartPreventExitStatus=1 2 3 4 11 130
TimeoutStartSec=infinity
TimeoutStopSec={math.ceil(plan.stops_in_s) + _LEAVES_S}
KillSignal=SIGTERM
KillMode=mixed
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7

NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
PrivateUsers={"yes" if plan.has_namespaces else "no"}
PrivateTmp={"no" if is_temporary else "yes"}
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={" ".join(_quoted(f"-{place}") for place in plan.writes)}
"""


def timer_unit(plan: Plan) -> str:
    """
    The systemd timer: every day, also for a night that the machine slept through.

    Source: systemd.timer(5), systemd.time(7).
    """
    zone = f" {plan.time_zone}" if plan.time_zone else ""
    return f"""# {MARK}
[Unit]
Description=Transcribe new recordings every night ({plan.name})

[Timer]
OnCalendar=*-*-* {plan.at:%H:%M:%S}{zone}
Persistent=true
RandomizedDelaySec=2min
AccuracySec=1min

[Install]
WantedBy=timers.target
"""


def _quoted(text: str) -> str:
    """One word of a list. Source: systemd.syntax(7), Quoting; systemd.unit(5), Specifiers."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def _line(path: Path) -> str:
    """A path that is all of a value: quotes would be part of it there."""
    text = str(path)
    if text.endswith(("\\", " ")):
        raise SettingsError(f"systemd cannot be given the path {text!r}: rename it")
    return text.replace("%", "%%")


def variables_file(variables: Mapping[str, str]) -> str:
    """
    Variables as both systemd and a shell read them.

    Source: systemd.exec(5), EnvironmentFile; POSIX Shell Command Language, 2.2.3.
    """
    lines = [f"# {MARK}"]
    for name, text in variables.items():
        escaped = "".join(f"\\{char}" if char in '"\\`$' else char for char in text)
        lines.append(f'{name}="{escaped}"')
    return "\n".join(lines) + "\n"


# --- all others, which start a shell -------------------------------------------------------------


def crontab_lines(plan: Plan) -> str:
    """
    What goes into a crontab. Cron does not make up for a night when the machine was off.

    `CRON_TZ` is known to cronie; other crons take the machine's own time.

    Raises:
        SettingsError: a path has a backslash, which crons do not agree on.

    Source: crontab(5).
    """
    line = _shell_line(plan)
    if "\\" in line:
        raise SettingsError("a crontab cannot be given a path with a backslash: rename it")
    zone = f"CRON_TZ={plan.time_zone}\n" if plan.time_zone else ""
    escaped = line.replace("%", r"\%")  # else it ends the command
    return f"# {MARK}\n{zone}{plan.at.minute} {plan.at.hour} * * * {escaped}\n"


def launch_agent(plan: Plan) -> str:
    """
    The launchd agent, as a plist. A start that the machine slept through comes when it wakes.

    Source: launchd.plist(5).
    """
    agent = {
        "Label": f"overnight.{plan.name}",
        "ProgramArguments": ["/bin/sh", "-c", _shell_line(plan)],
        "StartCalendarInterval": {"Hour": plan.at.hour, "Minute": plan.at.minute},
        "ProcessType": "Background",
        "LowPriorityIO": True,
        "Nice": 10,
        "ExitTimeOut": math.ceil(plan.stops_in_s) + _LEAVES_S,
    }
    text = plistlib.dumps(agent, sort_keys=False).decode()
    return text.replace("<plist ", f"<!-- {MARK} -->\n<plist ", 1)


_TASK = "http://schemas.microsoft.com/windows/2004/02/mit/task"


def windows_task(plan: Plan, distribution: str | None = None) -> str:
    """
    A task of the Windows Task Scheduler that starts WSL, since the program needs Linux.

    Args:
        distribution: of WSL; None is the one that Windows takes by default.

    Source: https://learn.microsoft.com/windows/win32/taskschd/task-scheduler-schema
    """
    words = ["--exec", "/bin/sh", "-c", _shell_line(plan)]
    if distribution:
        words = ["--distribution", distribution, *words]
    task = ElementTree.Element("Task", {"version": "1.2", "xmlns": _TASK})
    about = ElementTree.SubElement(task, "RegistrationInfo")
    ElementTree.SubElement(about, "Description").text = MARK
    trigger = ElementTree.SubElement(ElementTree.SubElement(task, "Triggers"), "CalendarTrigger")
    # The day is any that is over: what counts is the time.
    ElementTree.SubElement(trigger, "StartBoundary").text = f"2026-01-01T{plan.at:%H:%M:%S}"
    days = ElementTree.SubElement(trigger, "ScheduleByDay")
    ElementTree.SubElement(days, "DaysInterval").text = "1"
    rules = ElementTree.SubElement(task, "Settings")
    for rule, value in {
        "MultipleInstancesPolicy": "IgnoreNew",
        "DisallowStartIfOnBatteries": "false",
        "StopIfGoingOnBatteries": "false",
        "StartWhenAvailable": "true",
        "ExecutionTimeLimit": "PT0S",
    }.items():
        ElementTree.SubElement(rules, rule).text = value
    start = ElementTree.SubElement(ElementTree.SubElement(task, "Actions"), "Exec")
    ElementTree.SubElement(start, "Command").text = "wsl.exe"
    ElementTree.SubElement(start, "Arguments").text = list2cmdline(words)
    ElementTree.indent(task)
    return ElementTree.tostring(task, encoding="unicode") + "\n"


def _shell_line(plan: Plan) -> str:
    """The run as one line of `sh`, with its variables and its log."""
    variables = f"set -a && . {shlex.quote(str(plan.variables))} && " if plan.variables else ""
    return (
        f"cd {shlex.quote(str(plan.folder))} && {variables}exec {shlex.join(plan.command)}"
        f" >>{shlex.quote(str(plan.log))} 2>&1"
    )
