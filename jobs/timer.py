"""
What starts a run every night: in, a plan and a user's folders; out, files that a scheduler reads.

    systemd    ~/.config/systemd/user/NAME.service and .timer, enabled
    launchd    ~/Library/LaunchAgents/overnight.NAME.plist, loaded
    cron       a line to put into a crontab
    windows    a task to import into the Task Scheduler

Variables, the API key among them, are in ~/.config/overnight/NAME.env, for its owner to read. Only
files that carry our mark are overwritten or removed.
"""

import json
import os
import plistlib
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from shutil import which
from typing import Any, Literal
from zoneinfo import ZoneInfo

from jobs.units import (
    MARK,
    Plan,
    crontab_lines,
    launch_agent,
    service_unit,
    timer_unit,
    variables_file,
    windows_task,
)
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import moment
from pipeline.settings import Settings, home_of, read_api_key, require_key

__all__ = [
    "Kind",
    "Places",
    "Status",
    "carried",
    "install",
    "installations",
    "may_have_namespaces",
    "next_at",
    "shown",
    "status",
    "uninstall",
]

Kind = Literal["systemd", "cron", "launchd", "windows"]

Say = Callable[[str], object]

_KEY = "ASSEMBLYAI_API_KEY"
_CARRIED = ("ASSEMBLYAI_BASE_URL", "SSL_CERT_FILE", "SSL_CERT_DIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
_SCHEDULER_TIMEOUT_S = 60.0

_OUTCOMES = {
    ExitCode.DONE: "done",
    ExitCode.UNEXPECTED: "a bug",
    ExitCode.USAGE: "a setting or a folder was wrong",
    ExitCode.PARTIAL: "something failed, is missing, left or not whole",
    ExitCode.REFUSED: "the service refused the key, the project, or the balance",
    ExitCode.TRY_LATER: "the service was down, or the disk full",
    ExitCode.CAP_REACHED: "a cap on spending ended the intake",
    ExitCode.WINDOW_CLOSED: "the time window ended the intake",
    ExitCode.LOCKED: "another run held the lock",
    ExitCode.INTERRUPTED: "stopped; the next run continues",
    ExitCode.TERMINATED: "stopped; the next run continues",
    ExitCode.HANGUP: "stopped; the next run continues",
}


@dataclass(frozen=True)
class Places:
    """Where the files of one installation lie."""

    service: Path
    timer: Path
    agent: Path
    variables: Path
    log: Path

    @classmethod
    def of(cls, name: str, environ: Mapping[str, str]) -> "Places":
        """Those of the user that the variables are of. Source: XDG Base Directory Specification."""
        home = home_of(environ)
        config = _base(environ, "XDG_CONFIG_HOME", home / ".config")
        state = _base(environ, "XDG_STATE_HOME", home / ".local" / "state")
        units = config / "systemd" / "user"
        return cls(
            service=units / f"{name}.service",
            timer=units / f"{name}.timer",
            agent=home / "Library" / "LaunchAgents" / f"overnight.{name}.plist",
            variables=config / "overnight" / f"{name}.env",
            log=state / "overnight" / f"{name}.log",
        )


def _base(environ: Mapping[str, str], variable: str, default: Path) -> Path:
    given = Path(environ.get(variable, ""))
    return given if given.is_absolute() else default


def carried(settings: Settings, environ: Mapping[str, str], file: Path) -> dict[str, str]:
    """
    The variables that a run is started with: those that count here, without the rest.

    The key is among them if it comes from a variable; if there is none now, it is that of `file`,
    where an earlier installation left it.

    Raises:
        KeyRefused: a key is needed, and there is none.
        SettingsError: what is given cannot be a key.
    """
    found = {
        name: text
        for name, text in sorted(environ.items())
        if text
        and (name in _CARRIED or name.lower() in _PROXIES or name.upper().startswith("OVERNIGHT_"))
    }
    if settings.provider == "local" or settings.api_key_file or settings.api_key_command:
        return found
    key = read_api_key(settings, environ) or _kept_key(file)
    return found | {_KEY: key or require_key(settings, environ)}


def _kept_key(file: Path) -> str | None:
    """The key in a file of ours."""
    if not _is_ours(file):
        return None
    lines = file.read_text("utf-8").splitlines()
    line = next((line for line in lines if line.startswith(f'{_KEY}="')), "")
    return re.sub(r"\\(.)", r"\1", line.removeprefix(f'{_KEY}="').removesuffix('"')) or None


def may_have_namespaces(environ: Mapping[str, str]) -> bool:
    """Whether this user may make user namespaces, and mount in them. Tried, since rules differ."""
    return _asked(["unshare", "--user", "--mount", "true"], environ).returncode == 0


# --- install -------------------------------------------------------------------------------------


def shown(plan: Plan, kind: Kind, variables: Mapping[str, str], environ: Mapping[str, str]) -> str:
    """What `install` would write, each file under its path, without the values of variables."""
    files = _files(plan, kind, dict.fromkeys(variables, "<hidden>"), environ)
    parts = [f"# {path}\n{text}" for path, text in files.items()]
    if line := _to_put_in(plan, kind, environ):
        parts.append(line)
    return "\n".join(parts).rstrip("\n")


def install(
    plan: Plan,
    kind: Kind,
    variables: Mapping[str, str],
    environ: Mapping[str, str],
    *,
    say: Say,
    tell: Say,
) -> ExitCode:
    """
    Write the files of a plan, and have the scheduler take them; once more changes nothing.

    What a scheduler of this kind has to be given by hand goes to `say`, the rest to `tell`.

    Returns:
        `TRY_LATER` if the files are there and no scheduler answered that could take them.

    Raises:
        SettingsError: a file is not ours to overwrite, or cannot be written.
    """
    files = _files(plan, kind, variables, environ)
    line = _to_put_in(plan, kind, environ)
    for path in files:
        if path.exists() and not _is_ours(path):
            raise SettingsError(
                f"{path} is not from `overnight nightly install`, and is left as it is",
                "hint: `--name` installs under another name",
            )
    for folder in plan.writes if kind == "systemd" else (*plan.writes, plan.log.parent):
        _make(folder)
    for path, text in files.items():
        _write(path, text)
        tell(f"wrote {path}")
    stale = Places.of(plan.name, environ).variables
    if not variables and _is_ours(stale):
        _remove(stale)
        tell(f"removed {stale}, which is not needed any more")
    if kind in ("systemd", "launchd"):
        return _enable(plan, kind, environ, tell)
    say(line.rstrip("\n"))
    tell(
        "printed, not installed: put it in with `crontab -e`; cron does not make up for a night "
        "when the machine was off"
        if kind == "cron"
        else "printed, not installed: save it, and import it with `schtasks /Create /XML`"
    )
    return ExitCode.DONE


def _files(
    plan: Plan, kind: Kind, variables: Mapping[str, str], environ: Mapping[str, str]
) -> dict[Path, str]:
    places = Places.of(plan.name, environ)
    files = {places.variables: variables_file(variables)} if variables else {}
    if kind == "systemd":
        files |= {places.service: service_unit(plan), places.timer: timer_unit(plan)}
    elif kind == "launchd":
        files[places.agent] = launch_agent(plan)
    return files


def _to_put_in(plan: Plan, kind: Kind, environ: Mapping[str, str]) -> str:
    """What only the user can give to the scheduler."""
    if kind == "cron":
        return crontab_lines(plan)
    return windows_task(plan, environ.get("WSL_DISTRO_NAME")) if kind == "windows" else ""


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be made: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    """A file as a whole, for its owner only from the first byte on if it holds variables."""
    _make(path.parent)
    fresh = path.with_name(f".{path.name}~overnight")
    mode = 0o600 if path.suffix == ".env" else 0o644
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise SettingsError(f"{path} cannot be written: {error.strerror}") from error


def _is_ours(path: Path) -> bool:
    try:
        return MARK in path.read_text("utf-8", errors="replace")
    except OSError:
        return False


# --- schedulers ----------------------------------------------------------------------------------


def _enable(plan: Plan, kind: Kind, environ: Mapping[str, str], tell: Say) -> ExitCode:
    commands = [
        ["systemctl", "--user", "daemon-reload"],
        ["systemctl", "--user", "enable", "--now", f"{plan.name}.timer"],
    ]
    if kind == "launchd":
        agent = Places.of(plan.name, environ).agent
        commands = [["launchctl", "bootstrap", f"gui/{os.getuid()}", str(agent)]]
        _asked(_bootout(plan.name), environ)  # what is loaded is not loaded once more
    for command in commands:
        answer = _asked(command, environ)
        if answer.returncode:
            tell(f"not enabled: {_why(answer)}")
            tell("hint: the files are in place; where your user has a scheduler, do this")
            for each in commands:
                tell("  " + shlex.join(each))
            return ExitCode.TRY_LATER
    tell(f"enabled: every day at {plan.at:%H:%M}{f' {plan.time_zone}' if plan.time_zone else ''}")
    if kind == "systemd":
        tell("hint: `loginctl enable-linger` has it run while you are not logged in, too")
    return ExitCode.DONE


def _bootout(name: str) -> list[str]:
    return ["launchctl", "bootout", f"gui/{os.getuid()}/overnight.{name}"]


def _asked(command: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """What a scheduler answers, in words that can be read and times in UTC; 127 if it is none."""
    without_key = {name: text for name, text in environ.items() if name != _KEY}
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=without_key | {"LC_ALL": "C", "TZ": "UTC"},
            timeout=_SCHEDULER_TIMEOUT_S,
            check=False,
            text=True,
            errors="replace",
        )
    except OSError as error:
        why = f"{command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        why = f"{command[0]} gave no answer in {_SCHEDULER_TIMEOUT_S:g} s"
    return subprocess.CompletedProcess(command, 127, "", why)


def _why(answer: subprocess.CompletedProcess[str]) -> str:
    return answer.stderr.strip().partition("\n")[0] or f"exit code {answer.returncode}"


# --- uninstall -----------------------------------------------------------------------------------


def uninstall(name: str, environ: Mapping[str, str], *, tell: Say) -> None:
    """
    Take back what `install` did under a name; a run that is under way goes on.

    Raises:
        SettingsError: a file of ours cannot be removed.
    """
    places = Places.of(name, environ)
    files = (places.timer, places.service, places.agent, places.variables)
    ours = [path for path in files if _is_ours(path)]
    if places.timer in ours:
        _asked(["systemctl", "--user", "disable", "--now", places.timer.name], environ)
        # Where no user manager answers its link is still there.
        _remove(places.timer.parent / "timers.target.wants" / places.timer.name)
    if places.agent in ours:
        _asked(_bootout(name), environ)
    for path in ours:
        _remove(path)
        tell(f"removed {path}")
    if places.timer in ours:
        _asked(["systemctl", "--user", "daemon-reload"], environ)
    for path in files:
        if path.exists():
            tell(f"left {path}, which is not from `overnight nightly install`")
    if not ours:
        tell(f"nothing was installed as {name}")
    tell("left: settings, results and their ledger, the log, and your crontab")


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"{path} cannot be removed: {error.strerror}") from error


# --- status --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Status:
    """What is installed under a name, when it starts, and what became of it."""

    name: str
    installed: list[str]
    """Files of ours."""
    next_start: datetime | None
    next_from: str | None
    """Who says so: `systemd`, `launchd`, or `--at`."""
    last_end: datetime | None
    """When the service that systemd started last has ended."""
    last_result: str | None
    """What systemd makes of it: `success`, or why not."""
    last_exit_code: int | None
    last_run: dict[str, Any] | None
    """The summary of the last run that came to its end, whoever started it."""

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "nightly",
            "name": self.name,
            "installed": self.installed,
            "next_start": self.next_start and self.next_start.isoformat(),
            "next_from": self.next_from,
            "last_end": self.last_end and self.last_end.isoformat(),
            "last_result": self.last_result,
            "last_exit_code": self.last_exit_code,
            "last_run": self.last_run,
        }

    def __str__(self) -> str:
        lines = ["installed   " + (", ".join(self.installed) or "nothing that writes files")]
        when = self.next_start and f"{_local(self.next_start)}, says {self.next_from}"
        lines.append(f"next start  {when or 'not known; `--at` says when'}")
        if self.last_end:
            outcome = self.last_result
            if self.last_exit_code is not None:
                outcome = f"exit code {self.last_exit_code}, {_outcome(self.last_exit_code)}"
            lines.append(f"last start  ended {_local(self.last_end)}: {outcome}")
        if run := self.last_run:
            ended = _local(moment(datetime.fromisoformat(run["time"]).timestamp()))
            why = "; ".join(run.get("why", [])) or _outcome(run["exit_code"])
            lines.append(
                f"last run    ended {ended}: {why}; {run['found']} found,"
                f" {run['written']} written, {run['failed']} failed, {run['parked']} parked"
            )
        else:
            lines.append("last run    none where `--output` and `--state` are")
        return "\n".join(lines)


def status(
    name: str,
    environ: Mapping[str, str],
    *,
    state: Path | None,
    at: time | None,
    time_zone: str | None,
) -> Status:
    """
    What is installed under a name, and what became of it. Reads only.

    Args:
        state: folder of the runs; None if it is not known.
        at: when it starts, for schedulers that cannot be asked.
        time_zone: whose day that is; None is the machine's own.
    """
    places = Places.of(name, environ)
    files = (places.timer, places.service, places.agent, places.variables)
    ours = [path for path in files if _is_ours(path)]
    timer = _properties(places.timer.name, environ) if places.timer in ours else {}
    service = _properties(places.service.name, environ) if places.service in ours else {}
    now = datetime.now(UTC)
    next_start, source = _moment(timer.get("NextElapseUSecRealtime", "")), "systemd"
    if next_start is None and places.agent in ours:
        start = plistlib.loads(places.agent.read_bytes())["StartCalendarInterval"]
        next_start, source = next_at(time(start["Hour"], start["Minute"]), None, now), "launchd"
    if next_start is None and at is not None:
        next_start, source = next_at(at, time_zone, now), "--at"
    last_end = _moment(service.get("ExecMainExitTimestamp", ""))
    has_exited = service.get("ExecMainCode") == "1"  # CLD_EXITED of waitid(2), not a signal
    return Status(
        name,
        [str(path) for path in ours],
        next_start,
        source if next_start else None,
        last_end,
        service["Result"] if last_end else None,
        int(service["ExecMainStatus"]) if last_end and has_exited else None,
        _last_summary(state) if state else None,
    )


def installations(
    environ: Mapping[str, str], *, time_zone: str | None
) -> list[tuple[str, str, bool]]:
    """
    Each that systemd or launchd has: its name, how it stands with it, and whether that is amiss.

    Raises:
        SettingsError: nobody says where the user's home is.
    """
    any_of = Places.of("*", environ)
    files = [*any_of.timer.parent.glob("*.timer"), *any_of.agent.parent.glob("overnight.*.plist")]
    names = {
        path.stem.removeprefix("overnight." if path.suffix == ".plist" else ""): None
        for path in sorted(files)
        if _is_ours(path)
    }
    return [(name, *_stands(name, environ, time_zone)) for name in names]


def _stands(name: str, environ: Mapping[str, str], time_zone: str | None) -> tuple[str, bool]:
    """How it stands with an installation, and whether that is amiss."""
    again = f"`overnight nightly install --name {name}` makes it anew"
    program = _program(Places.of(name, environ))
    if program is not None and which(program) is None:
        return f"it starts {program}, which is not there any more: {again}", True
    found = status(name, environ, state=None, at=None, time_zone=time_zone)
    if found.next_start is None:
        return f"it is installed, and nobody says when it starts: {again}", True
    return f"it starts next at {_local(found.next_start)}, says {found.next_from}", False


def _program(places: Places) -> str | None:
    """What an installation starts, None where its files do not tell."""
    with suppress(OSError, KeyError, ValueError, IndexError):
        if places.agent.exists():
            line = plistlib.loads(places.agent.read_bytes())["ProgramArguments"][-1]
            words = shlex.split(line)
            return words[words.index("exec") + 1]
        text = places.service.read_text("utf-8")
        line = next(line for line in text.splitlines() if line.startswith("ExecStart="))
        return shlex.split(line.removeprefix("ExecStart=").replace("%%", "%"))[0].lstrip(":")
    return None


def next_at(at: time, time_zone: str | None, now: datetime) -> datetime:
    """
    The next time that clocks of a zone, the machine's own if None, show `at`.

    An hour that the clocks skip that day is taken for the one after it, as systemd does.
    """
    zone = ZoneInfo(time_zone) if time_zone else None
    today = now.astimezone(zone).date()
    for day in (today, today + timedelta(days=1)):
        # Through UTC, which makes a time that no clock shows one that they do.
        start = datetime.combine(day, at, zone).astimezone(UTC).astimezone(zone)
        if start > now:
            break
    return start


def _properties(unit: str, environ: Mapping[str, str]) -> dict[str, str]:
    """What systemd knows of a unit; nothing where it cannot be asked."""
    answer = _asked(["systemctl", "--user", "show", unit], environ)
    if answer.returncode:
        return {}
    return dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)


def _moment(text: str) -> datetime | None:
    """A time as `systemctl show` writes it in UTC. Source: systemd.time(7)."""
    try:
        return datetime.strptime(text, "%a %Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
    except ValueError:
        return None


def _last_summary(state: Path) -> dict[str, Any] | None:
    # Folders are named by their start.
    newest = max((state / "runs").glob("*/summary.json"), default=None)
    return dict(json.loads(newest.read_text("utf-8"))) if newest else None


def _outcome(code: int) -> str:
    return _OUTCOMES[ExitCode(code)] if code in set(ExitCode) else "no exit code of ours"


def _local(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M %Z}"
