"""What schedulers are given, read back as they read it: by systemd, by `sh`, by their rules."""

import plistlib
import re
import shutil
import subprocess
from datetime import time
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
from pipeline.errors import SettingsError
from tests.support.plans import plan

SYSTEMD = shutil.which("systemd-analyze")
by_systemd = pytest.mark.skipif(SYSTEMD is None, reason="there is no systemd-analyze here")

ODD = 'it\'s 100% "odd"; $HOME ${x} `y` #1 & Ünïcode 録音'
"""A name with all that somebody gives a meaning to, but for the backslash."""

names = st.text(
    st.characters(exclude_characters="/", exclude_categories=("Cs", "Cc", "Cn")), min_size=1
).filter(lambda name: name not in (".", ".."))
"""Names of files."""


def value(unit: str, key: str) -> str:
    """The one value of a key in a unit, as systemd has it before it takes it apart."""
    (found,) = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return str(found).strip(" \t")


def words(text: str) -> list[str]:
    """A list as systemd takes it apart: quotes, backslashes, then specifiers."""
    found, rest = [], text
    while rest:
        word = re.match(r'"((?:[^"\\]|\\["\\])*)"(?: |$)', rest)
        assert word, rest
        found.append(re.sub(r"\\(.)", r"\1", word[1]))
        rest = rest[word.end() :]
    return [specified(word) for word in found]


def specified(text: str) -> str:
    """A value without specifiers of which none may be left."""
    assert not re.search(r"(?<!%)(?:%%)*%(?!%)", text), text
    return text.replace("%%", "%")


# --- systemd -------------------------------------------------------------------------------------


@given(
    program=names.filter(lambda name: not set("\\'\"") & set(name)), argument=names, folder=names
)
@example("a $b; 100%", ODD + "\\", ODD)
@example("a", "\\", "%%n")
def test_names_survive_systemd(program: str, argument: str, folder: str) -> None:
    """Whatever a path holds, systemd starts that program, with that argument, in that folder."""
    top = Path("/srv", folder + "x")
    made = plan(
        top, command=(f"/{program}", argument), variables=top / "env", writes=(top / argument,)
    )

    unit = service_unit(made)

    assert words(value(unit, "ExecStart")) == [f":/{program}", argument]
    assert words(value(unit, "ReadWritePaths")) == [f"-{top / argument}"]
    assert specified(value(unit, "WorkingDirectory")) == str(top)
    assert specified(value(unit, "EnvironmentFile")) == f"-{top / 'env'}"


@by_systemd
@pytest.mark.parametrize("time_zone", [None, "Europe/Berlin"])
def test_systemd_takes_the_units(tmp_path: Path, time_zone: str | None) -> None:
    """
    `systemd-analyze verify` has nothing to say of service and timer, also where the program lies
    under a name that is as odd as can be: it looks for the program as it would to start it.
    """
    odd = tmp_path / (ODD + "\\n\\x41")
    program = tmp_path / re.sub("['\"]", "", ODD)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    made = plan(odd, command=(str(program), ODD), time_zone=time_zone, variables=odd / "env")
    units = [tmp_path / "archive.service", tmp_path / "archive.timer"]
    for path, text in zip(units, (service_unit(made), timer_unit(made)), strict=True):
        path.write_text(text)

    done = subprocess.run(
        ["systemd-analyze", "verify", "--user", *units],
        env={"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_run_is_given_the_time_that_it_takes_to_stop(tmp_path: Path) -> None:
    """A run that is told to stop is killed well after that time, by systemd and launchd."""
    made = plan(tmp_path, stops_in_s=90.5)

    assert int(value(service_unit(made), "TimeoutStopSec")) > 91
    assert plistlib.loads(launch_agent(made).encode())["ExitTimeOut"] > 91


def test_a_run_starts_where_there_are_no_namespaces(tmp_path: Path) -> None:
    """A user namespace is asked for only where the user may have one."""
    for may, expected in ((True, "yes"), (False, "no")):
        assert value(service_unit(plan(tmp_path, has_namespaces=may)), "PrivateUsers") == expected


def test_a_run_that_works_in_tmp_sees_it(tmp_path: Path) -> None:
    """/tmp is a private one, unless what the run works with lies there."""
    away = plan(Path("/srv/archive"))
    inside = plan(Path("/srv/archive"), reads=(Path("/tmp/recordings"),))

    assert value(service_unit(away), "PrivateTmp") == "yes"
    assert value(service_unit(inside), "PrivateTmp") == "no"


@pytest.mark.parametrize("name", ["a\nExecStart=/bin/false", "a\0", "\udcff"])
def test_what_no_scheduler_takes_is_refused(tmp_path: Path, name: str) -> None:
    """A line break, which would begin a new line of a unit, is refused; so is what is no text."""
    with pytest.raises(SettingsError, match="rename it"):
        plan(tmp_path / name)


@pytest.mark.parametrize("name", ["ends\\", "ends "])
def test_a_folder_that_no_unit_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    """A value that is a whole line cannot end in a backslash or a space."""
    with pytest.raises(SettingsError, match="rename it"):
        service_unit(plan(tmp_path / name))


def test_a_program_that_systemd_would_not_start_is_refused(tmp_path: Path) -> None:
    """Quotes and backslashes in the path of the program are refused before anything is written."""
    with pytest.raises(SettingsError, match="quote or a backslash"):
        service_unit(plan(tmp_path, command=("/srv/it's/python",)))


# --- cron, launchd, Windows ----------------------------------------------------------------------


def started(line: str, made: Plan) -> str:
    """What the program of a plan was given, once `sh` has run a line."""
    subprocess.run(["/bin/sh", "-c", line], env={}, timeout=60, check=True)
    return made.log.read_text()


@settings(max_examples=25)
@given(name=names.filter(lambda name: "\\" not in name and len(name.encode()) < 200))
@example(ODD)
def test_a_crontab_line_starts_the_run(name: str) -> None:
    """
    After cron has put back its `%`, `sh` starts the program where it belongs, with its variables
    and its arguments, whatever the paths hold; what it says is in the log.
    """
    with TemporaryDirectory() as top:
        folder = Path(top, name + "x")
        folder.mkdir()
        variables = folder / "env"
        variables.write_text(variables_file({"WORD": name}))
        # printenv says the variable, pwd the folder, $1 the argument
        program = ("/bin/sh", "-c", 'printenv WORD; pwd; echo "$1"', "sh", name)
        made = plan(folder, command=program, variables=variables, log=folder / "log")

        head, *_, line = crontab_lines(made).splitlines()
        minute, hour, *days, command = line.split(" ", 5)
        said = started(command.replace("\\%", "%"), made)

        assert MARK in head
        assert (minute, hour, days) == ("0", "22", ["*", "*", "*"])
        assert "%" not in command.replace("\\%", "")
        assert said == f"{name}\n{folder.resolve()}\n{name}\n"


def test_cron_is_told_the_time_zone(tmp_path: Path) -> None:
    """A time zone stands before the line, which has the time of that zone."""
    lines = crontab_lines(plan(tmp_path, at=time(7, 5), time_zone="Asia/Tokyo")).splitlines()

    assert lines[1] == "CRON_TZ=Asia/Tokyo"
    assert lines[2].startswith("5 7 * * * ")


def test_crons_do_not_agree_on_backslashes(tmp_path: Path) -> None:
    """A path with a backslash is refused rather than read differently by some crons."""
    with pytest.raises(SettingsError, match="backslash"):
        crontab_lines(plan(tmp_path / "a\\b"))


def test_launchd_starts_the_run(tmp_path: Path) -> None:
    """The plist carries our mark, the time, and a line that starts the program with its words."""
    made = plan(tmp_path, command=("/bin/echo", ODD, "<&>"), at=time(7, 5))
    text = launch_agent(made)
    agent = plistlib.loads(text.encode())

    assert MARK in text
    assert agent["StartCalendarInterval"] == {"Hour": 7, "Minute": 5}
    assert agent["ProgramArguments"][:2] == ["/bin/sh", "-c"]
    assert started(agent["ProgramArguments"][2], made) == f"{ODD} <&>\n"


def test_windows_starts_wsl(tmp_path: Path) -> None:
    """The task starts WSL with a line for `sh`, at its time, or as soon as it can after that."""
    task = ElementTree.fromstring(windows_task(plan(tmp_path, at=time(7, 5)), "Debian"))
    space = {"": "http://schemas.microsoft.com/windows/2004/02/mit/task"}

    assert str(task.findtext(".//StartBoundary", namespaces=space)).endswith("T07:05:00")
    assert task.findtext(".//StartWhenAvailable", namespaces=space) == "true"
    assert task.findtext(".//Command", namespaces=space) == "wsl.exe"
    assert str(task.findtext(".//Arguments", namespaces=space)).startswith(
        f'--distribution Debian --exec /bin/sh -c "cd {tmp_path} && exec /bin/true nightly >>'
    )


# --- variables -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc"))))
@example(ODD + "\\")
@example("a\\\\b\\$")
def test_variables_survive_sh_and_systemd(text: str) -> None:
    """A value is the same to `sh` and to systemd, whose rule for `\\` in quotes is that of `sh`."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "env")
        file.write_text(variables_file({"WORD": text}))
        by_sh = subprocess.run(
            ["/bin/sh", "-c", f'set -a && . {file} && printf %s "$WORD"'],
            env={},
            capture_output=True,
            timeout=60,
            check=True,
        )
    (line,) = re.findall(r'^WORD="(.*)"$', variables_file({"WORD": text}), re.MULTILINE)

    assert by_sh.stdout.decode() == text
    assert re.sub(r'\\(["\\`$])', r"\1", line) == text
