"""`overnight nightly install`, `uninstall` and `status`, as somebody types them."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.support.typed import overnight

KEY = "a-key-of-this-test"

SETTINGS = """output = "transcripts"
time_zone = "Asia/Tokyo"

[[source]]
folder = "recordings"
"""


@pytest.fixture
def settings(folder: Path) -> Path:
    """A folder with settings."""
    (folder / "overnight.toml").write_text(SETTINGS)
    return folder


def files(folder: Path) -> list[str]:
    """All files below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def test_print_shows_and_writes_nothing(settings: Path) -> None:
    """`--print` shows each file under its path, the value of no variable, and writes nothing."""
    home = settings.parent
    before = files(home)
    done = overnight(
        settings, "nightly", "install", "--print", "--kind", "systemd", ASSEMBLYAI_API_KEY=KEY
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^# (/.*)$", done.stdout, re.MULTILINE) == [
        f"{home}/.config/overnight/overnight.env",
        f"{home}/.config/systemd/user/overnight.service",
        f"{home}/.config/systemd/user/overnight.timer",
    ]
    assert 'ASSEMBLYAI_API_KEY="<hidden>"' in done.stdout
    assert KEY not in done.stdout
    assert f'"nightly" "--config" "{settings}/overnight.toml"' in done.stdout
    assert files(home) == before


def test_what_is_installed_starts_this_program(settings: Path) -> None:
    """The line for cron starts the interpreter that printed it, and the program takes its words."""
    done = overnight(
        settings, "nightly", "install", "--kind", "cron", "--at", "6:05", ASSEMBLYAI_API_KEY=KEY
    )
    line = done.stdout.splitlines()[-1]
    words = shlex.split(line.partition(" exec ")[2].partition(" >>")[0])

    assert line.startswith(f"5 6 * * * cd {settings} && ")
    assert "printed, not installed" in done.stderr
    assert words[:4] == [sys.executable, "-P", "-m", "jobs.start"]
    assert words[4:] == ["nightly", "--config", f"{settings}/overnight.toml"]


def test_installed_and_taken_back(settings: Path) -> None:
    """What `install` writes `status` knows and `uninstall` removes, also where no manager runs."""
    home = settings.parent
    before = files(home)
    here = {"ASSEMBLYAI_API_KEY": KEY, "PATH": "/nowhere"}
    installed = overnight(
        settings, "nightly", "install", "--kind", "systemd", "--name", "calls", **here
    )
    told = overnight(
        settings,
        *("nightly", "status", "--name", "calls", "--at", "22:00", "--json"),
        **here,
    )
    taken_back = overnight(settings, "nightly", "uninstall", "--name", "calls", **here)

    assert (installed.returncode, installed.stdout) == (5, "")
    assert KEY not in installed.stderr
    facts = json.loads(told.stdout)
    assert [Path(path).name for path in facts["installed"]] == [
        *("calls.timer", "calls.service", "calls.env"),
    ]
    assert facts["next_start"].endswith("T22:00:00+09:00")
    assert (facts["next_from"], facts["last_run"]) == ("--at", None)
    assert taken_back.returncode == 0
    assert files(home) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "none.toml"], "none.toml cannot be read"),
        (["--at", "24:00"], "`24:00` is no time of a day: write `22:00`"),
        (["--at", "10pm"], "no time of a day"),
        (["--name", "../x"], "no name: write letters"),
        (["--kind", "at"], "--kind"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings: Path, arguments: list[str], words: str) -> None:
    """A wrong time, zone, name, kind or file is one error, exit code 2, and nothing is written."""
    before = files(settings.parent)
    done = overnight(settings, "nightly", "install", *arguments, ASSEMBLYAI_API_KEY=KEY)

    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert files(settings.parent) == before


@pytest.mark.parametrize(("here", "warning"), [("UTC", "warning: launchd"), ("Asia/Tokyo", "")])
def test_a_clock_that_is_not_followed_is_told(settings: Path, here: str, warning: str) -> None:
    """launchd and Windows know only the clock of the machine: one that differs is warned of."""
    done = overnight(
        settings,
        *("nightly", "install", "--kind", "launchd", "--print"),
        ASSEMBLYAI_API_KEY=KEY,
        TZ=here,
    )

    assert done.returncode == 0
    assert done.stderr.partition(" goes by the clock of the machine")[0] == warning


@pytest.mark.parametrize(
    ("arguments", "window", "expected"),
    [
        ([], "", "0 22 "),
        ([], 'window = "21:30-06:00"\n', "30 21 "),
        (["--at", "6:05"], 'window = "21:30-06:00"\n', "5 6 "),
    ],
)
def test_it_starts_when_the_window_opens(
    settings: Path, arguments: list[str], window: str, expected: str
) -> None:
    """The time is that of `--at`, else when the window opens, else 22:00, in the zone of both."""
    (settings / "overnight.toml").write_text(window + SETTINGS)
    done = overnight(
        settings, "nightly", "install", "--kind", "cron", *arguments, ASSEMBLYAI_API_KEY=KEY
    )
    *_, zone, line = done.stdout.splitlines()

    assert zone == "CRON_TZ=Asia/Tokyo"
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ('output = "transcripts"', "Set `output` in overnight.toml"),
        ('[[source]]\nfolder = "recordings"', "Give overnight.toml a `[[source]]`"),
    ],
)
def test_settings_that_a_night_could_not_use_are_refused(
    settings: Path, missing: str, words: str
) -> None:
    """A run that does not know what to take, or where to, would end at night: refused now."""
    (settings / "overnight.toml").write_text(SETTINGS.replace(missing, ""))
    done = overnight(settings, "nightly", "install", "--print", ASSEMBLYAI_API_KEY=KEY)

    assert done.returncode == 2
    assert words in done.stderr
