"""An installation: its files, what schedulers are told, and what becomes of it in the end."""

import json
import os
import plistlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest

from jobs.timer import (
    Kind,
    Places,
    Status,
    carried,
    install,
    installations,
    may_have_namespaces,
    next_at,
    shown,
    status,
    uninstall,
)
from jobs.units import MARK, Plan
from pipeline.errors import ExitCode, KeyRefused, SettingsError
from pipeline.settings import Settings
from tests.support.plans import plan

KEY = "a-key-of-this-test"

SCHEDULER = """#!/bin/sh
echo "${0##*/} $*" >>"$RECORD"
env >>"$RECORD.env"
[ "$2" = show ] && cat "$RECORD.$3"
if [ -e "$RECORD.fails" ]; then cat "$RECORD.fails" >&2; exit 1; fi
"""
"""Stands for a scheduler: notes what it is told, says what the test has it say."""


@dataclass
class User:
    """Somebody with a home, and a scheduler that notes what it is told."""

    home: Path
    environ: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        programs = self.home / "bin"
        programs.mkdir(parents=True)
        for name in ("systemctl", "launchctl"):
            (programs / name).write_text(SCHEDULER)
            (programs / name).chmod(0o755)
        self.environ |= {
            "HOME": str(self.home),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "RECORD": str(self.home / "record"),
        }

    @property
    def places(self) -> Places:
        return Places.of("archive", self.environ)

    @property
    def asked(self) -> list[str]:
        """What schedulers were told, in order."""
        record = self.home / "record"
        return record.read_text().splitlines() if record.exists() else []

    def scheduler_says(self, unit: str, text: str) -> None:
        """The answer to `systemctl show`."""
        (self.home / f"record.{unit}").write_text(text)

    def scheduler_fails(self, words: str) -> None:
        """No request is taken any more."""
        (self.home / "record.fails").write_text(words)

    def files(self) -> dict[str, bytes]:
        """All that lies in the home, but for what the scheduler is."""
        return {
            str(path.relative_to(self.home)): path.read_bytes()
            for path in sorted(self.home.rglob("*"))
            if path.is_file() and path.parent.name != "bin" and path.name[:6] != "record"
        }

    def plan(self, **changes: Any) -> Plan:
        """A plan with variables."""
        usual = {"variables": self.places.variables, "log": self.places.log}
        return plan(self.home, **(usual | changes))

    def install(self, made: Plan, kind: Kind = "systemd", **variables: str) -> ExitCode:
        """One installation."""
        return install(
            made,
            kind,
            variables or {"ASSEMBLYAI_API_KEY": KEY},
            self.environ,
            say=self.said.append,
            tell=self.told.append,
        )

    def status(self, **given: Any) -> Status:
        """What is told of the installation."""
        nothing: dict[str, Any] = {"state": None, "at": None, "time_zone": None}
        return status("archive", self.environ, **(nothing | given))


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path / "home")


@pytest.fixture
def _open_umask() -> Iterator[None]:
    """A umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


# --- install -------------------------------------------------------------------------------------


def test_systemd_is_given_files_and_told(user: User) -> None:
    """Service, timer and variables are written, the timer enabled, and folders made to write to."""
    code = user.install(user.plan())

    assert code is ExitCode.DONE
    assert list(user.files()) == [
        ".config/overnight/archive.env",
        ".config/systemd/user/archive.service",
        ".config/systemd/user/archive.timer",
    ]
    assert user.asked == [
        "systemctl --user daemon-reload",
        "systemctl --user enable --now archive.timer",
    ]
    assert (user.home / "transcripts").is_dir()
    assert "enabled: every day at 22:00" in user.told


@pytest.mark.usefixtures("_open_umask")
def test_variables_are_for_their_owner_only(user: User) -> None:
    """The file with the key has mode 600 however open the umask is; units can be read by all."""
    user.install(user.plan())

    assert stat.S_IMODE(user.places.variables.stat().st_mode) == 0o600
    assert stat.S_IMODE(user.places.service.stat().st_mode) == 0o644


def test_the_key_is_in_one_file(user: User) -> None:
    """No unit, no line that is said, no argument and no variable of a scheduler has the key."""
    user.environ["ASSEMBLYAI_API_KEY"] = KEY
    for kind in ("systemd", "launchd", "cron", "windows"):
        user.install(user.plan(), kind)
        user.said.append(shown(user.plan(), kind, {"ASSEMBLYAI_API_KEY": KEY}, user.environ))

    with_key = [name for name, text in user.files().items() if KEY.encode() in text]
    assert with_key == [".config/overnight/archive.env"]
    assert KEY not in "".join([*user.said, *user.told, *user.asked])
    assert KEY not in (user.home / "record.env").read_text()


def test_xdg_folders_are_kept(user: User, tmp_path: Path) -> None:
    """Files go where `XDG_CONFIG_HOME` and `XDG_STATE_HOME` say, if these are absolute."""
    user.environ |= {"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_STATE_HOME": "relative"}
    user.install(user.plan())

    assert (tmp_path / "c/systemd/user/archive.timer").is_file()
    assert user.places.log == user.home / ".local/state/overnight/archive.log"


def test_installing_once_more_changes_nothing(user: User) -> None:
    """The same plan leaves the same files; another one replaces them."""
    user.install(user.plan())
    before = user.files()
    user.install(user.plan())
    assert user.files() == before

    user.install(user.plan(at=time(6, 30)))
    assert "OnCalendar=*-*-* 06:30:00\n" in user.places.timer.read_text()


def test_variables_that_are_not_needed_any_more_go(user: User) -> None:
    """Once the settings name a file for the key, the one with our copy of it is removed."""
    user.install(user.plan())
    install(
        plan(user.home), "systemd", {}, user.environ, say=user.said.append, tell=user.told.append
    )

    assert not user.places.variables.exists()
    assert "EnvironmentFile" not in user.places.service.read_text()


@pytest.mark.parametrize("kind", ["systemd", "launchd", "cron"])
def test_files_of_others_are_left_as_they_are(user: User, kind: Kind) -> None:
    """A file without our mark is not overwritten; nothing else is written either."""
    place = {
        "systemd": user.places.timer,
        "launchd": user.places.agent,
        "cron": user.places.variables,
    }[kind]
    place.parent.mkdir(parents=True)
    place.write_text("mine\n")
    with pytest.raises(SettingsError, match="left as it is"):
        user.install(user.plan(), kind)

    assert list(user.files().values()) == [b"mine\n"]
    assert user.asked == []


def test_no_user_manager_is_told_with_what_to_do(user: User) -> None:
    """Without a user manager the files are there, and what is left to do is told: exit code 5."""
    user.scheduler_fails("Failed to connect to bus: No medium found\nmore\n")
    code = user.install(user.plan())

    assert code is ExitCode.TRY_LATER
    assert user.places.timer.is_file()
    assert "not enabled: Failed to connect to bus: No medium found" in user.told
    assert user.told[-1] == "  systemctl --user enable --now archive.timer"


def test_a_machine_without_systemd_is_told_so(user: User) -> None:
    """Where there is no `systemctl` at all, it is the same."""
    user.environ["PATH"] = str(user.home)

    assert user.install(user.plan()) is ExitCode.TRY_LATER
    assert "not enabled: systemctl: No such file or directory" in user.told


def test_launchd_is_given_a_plist_and_told(user: User) -> None:
    """The agent is written, and loaded in place of one that is there."""
    code = user.install(user.plan(), "launchd")
    domain = f"gui/{os.getuid()}"

    assert code is ExitCode.DONE
    assert plistlib.loads(user.places.agent.read_bytes())["Label"] == "overnight.archive"
    assert user.asked == [
        f"launchctl bootout {domain}/overnight.archive",
        f"launchctl bootstrap {domain} {user.places.agent}",
    ]


@pytest.mark.parametrize(("kind", "word"), [("cron", "0 22 * * * cd "), ("windows", "<Task ")])
def test_what_cannot_be_installed_is_printed(user: User, kind: Kind, word: str) -> None:
    """Of cron and Windows only the variables are written, and the folder of the log."""
    code = user.install(user.plan(), kind)

    assert code is ExitCode.DONE
    assert word in user.said[0]
    assert any(line.startswith("printed, not installed") for line in user.told)
    assert list(user.files()) == [".config/overnight/archive.env"]
    assert user.places.log.parent.is_dir()
    assert user.asked == []


def test_namespaces_are_tried(user: User) -> None:
    """Whether a sandbox can be had is what `unshare` says; where there is none, it cannot."""
    unshare = user.home / "bin/unshare"
    unshare.write_text('#!/bin/sh\necho "unshare $*" >>"$RECORD"\n')
    unshare.chmod(0o755)
    assert may_have_namespaces(user.environ)
    assert user.asked == ["unshare --user --mount true"]

    unshare.write_text("#!/bin/sh\nexit 1\n")
    assert not may_have_namespaces(user.environ)
    unshare.unlink()
    assert not may_have_namespaces(user.environ | {"PATH": str(user.home)})


# --- variables -----------------------------------------------------------------------------------


def test_variables_that_count_are_carried(user: User) -> None:
    """A run that is started later is given key, proxies and our own variables, no others."""
    here = {"HTTPS_PROXY": "http://p", "no_proxy": "x", "OVERNIGHT_ORDER": "newest"}
    environ = user.environ | here | {"ASSEMBLYAI_API_KEY": f" {KEY}\n", "OVERNIGHT_LIMIT": ""}

    found = carried(Settings(), environ, user.places.variables)

    assert found == here | {"ASSEMBLYAI_API_KEY": KEY}


@pytest.mark.parametrize(
    "settings", [{"provider": "local"}, {"api_key_file": "key"}, {"api_key_command": "pass show"}]
)
def test_a_key_that_is_elsewhere_is_not_copied(user: User, settings: Mapping[str, Any]) -> None:
    """With the engine, a key file or a key command no key is written anywhere."""
    environ = user.environ | {"ASSEMBLYAI_API_KEY": KEY}

    assert carried(Settings(**settings), environ, user.places.variables) == {}


def test_no_key_is_an_error_before_anything_is_written(user: User) -> None:
    """A run without a key would fail at night: it is refused now."""
    with pytest.raises(KeyRefused):
        carried(Settings(), user.environ, user.places.variables)


def test_a_key_that_was_installed_is_kept(user: User) -> None:
    """Who installs once more, without the variable, keeps the key, with all its characters."""
    odd = 'a\\"b`c$d\\'
    user.install(user.plan(), ASSEMBLYAI_API_KEY=odd)

    found = carried(Settings(), user.environ, user.places.variables)

    assert found == {"ASSEMBLYAI_API_KEY": odd}


# --- uninstall -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["systemd", "launchd", "cron"])
def test_uninstalling_leaves_nothing_of_ours(user: User, kind: Kind) -> None:
    """What was installed is gone, from the scheduler first; a second time changes nothing."""
    user.install(user.plan(), kind)
    before = len(user.asked)
    for _ in range(2):
        uninstall("archive", user.environ, tell=user.told.append)

    assert user.files() == {}
    assert (
        user.asked[before:]
        == {
            "systemd": [
                "systemctl --user disable --now archive.timer",
                "systemctl --user daemon-reload",
            ],
            "launchd": [f"launchctl bootout gui/{os.getuid()}/overnight.archive"],
            "cron": [],
        }[kind]
    )


def test_uninstalling_without_a_user_manager_disables(user: User) -> None:
    """Where no manager answers, the link that enables the timer is removed all the same."""
    user.install(user.plan())
    link = user.places.timer.parent / "timers.target.wants/archive.timer"
    link.parent.mkdir()
    link.symlink_to(user.places.timer)
    user.scheduler_fails("Failed to connect to bus")
    uninstall("archive", user.environ, tell=user.told.append)

    assert not link.is_symlink()


def test_uninstalling_leaves_what_is_not_ours(user: User) -> None:
    """Files without our mark, and other installations, stay."""
    user.install(user.plan())
    user.install(replace(user.plan(), name="other"))
    user.places.service.write_text("mine\n")
    uninstall("archive", user.environ, tell=user.told.append)

    assert user.places.service.read_text() == "mine\n"
    assert Places.of("other", user.environ).timer.is_file()
    assert any(line.startswith(f"left {user.places.service}, which is not") for line in user.told)


# --- status --------------------------------------------------------------------------------------


TIMER = "ActiveState=active\nNextElapseUSecRealtime=Thu 2026-11-26 21:00:00 UTC\n"
SERVICE = """Result=exit-code
ExecMainExitTimestamp=Thu 2026-11-26 02:10:00 UTC
ExecMainCode=1
ExecMainStatus=4
"""


def test_systemd_tells_when_it_starts_and_how_it_ended(user: User) -> None:
    """Next start and last outcome are those that systemd has, the latter in words as well."""
    user.install(user.plan())
    user.scheduler_says("archive.timer", TIMER)
    user.scheduler_says("archive.service", SERVICE)
    found = user.status(at=time(1))
    facts = found.facts()

    assert facts["next_start"] == "2026-11-26T21:00:00+00:00"
    assert facts["next_from"] == "systemd"
    assert facts["last_end"] == "2026-11-26T02:10:00+00:00"
    assert (facts["last_result"], facts["last_exit_code"]) == ("exit-code", 4)
    assert "exit code 4, the service refused the key" in str(found)
    assert facts["installed"] == [
        str(path) for path in (user.places.timer, user.places.service, user.places.variables)
    ]


def test_a_run_that_was_killed_has_no_exit_code(user: User) -> None:
    """What ended by a signal is told as systemd calls it."""
    user.install(user.plan())
    killed = SERVICE.replace("exit-code", "signal").replace("Code=1", "Code=2")
    user.scheduler_says("archive.service", killed)
    found = user.status()

    assert (found.last_result, found.last_exit_code) == ("signal", None)
    assert str(found).splitlines()[2].endswith(": signal")


def test_a_service_that_never_ran_has_no_outcome(user: User) -> None:
    """A `success` before the first start is none."""
    user.install(user.plan())
    user.scheduler_says("archive.service", "Result=success\nExecMainExitTimestamp=\n")

    assert user.status().last_result is None


def test_status_works_without_any_scheduler(user: User) -> None:
    """Where nobody can be asked, the next start is computed from the time that is given."""
    user.scheduler_fails("no bus")
    user.install(user.plan())

    assert user.status().next_start is None
    assert "not known; `--at` says when" in str(user.status())
    assert user.status(at=time(22), time_zone="Asia/Tokyo").facts()["next_start"].endswith("+09:00")


def stands(user: User) -> list[tuple[str, bool]]:
    """How it stands with each installation, and whether that is amiss."""
    return [(what, is_amiss) for _, what, is_amiss in installations(user.environ, time_zone=None)]


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
def test_each_installation_is_found_with_its_next_start(user: User, kind: Kind) -> None:
    """Those of ours are found by their files, whatever they are called, and others let be."""
    assert installations(user.environ, time_zone=None) == []
    user.install(user.plan(), kind)
    user.scheduler_says("archive.timer", TIMER)
    other = user.places.timer if kind == "systemd" else user.places.agent
    other.with_name(other.name.replace("archive", "other")).write_text("of somebody else")

    ((name, what, is_amiss),) = installations(user.environ, time_zone=None)

    assert (name, is_amiss) == ("archive", False)
    assert what.startswith("it starts next at ")
    assert what.endswith(f", says {kind}")


@pytest.mark.parametrize("kind", ["systemd", "launchd"])
def test_an_installation_of_a_program_that_is_gone_is_amiss(user: User, kind: Kind) -> None:
    """A Python that was updated away starts nothing, night after night; nothing else tells that."""
    python = user.home / "a 100% exec 'venv'".replace("'", "") / "python"
    user.install(user.plan(command=(str(python), "nightly")), kind)
    user.scheduler_says("archive.timer", TIMER)

    ((what, is_amiss),) = stands(user)
    python.parent.mkdir()
    python.touch(mode=0o755)

    assert is_amiss
    assert f"it starts {python}, which is not there any more" in what
    assert [is_amiss for _, is_amiss in stands(user)] == [False]


def test_a_timer_that_nobody_starts_is_amiss(user: User) -> None:
    """Files that are in place, and a scheduler that knows nothing of them, make no night."""
    user.scheduler_fails("no bus")
    user.install(user.plan())

    ((what, is_amiss),) = stands(user)

    assert is_amiss
    assert "nobody says when it starts: `overnight nightly install --name archive`" in what


def test_launchd_starts_at_the_time_of_the_plist(user: User) -> None:
    """Of launchd, which does not tell, the time is that of the plist."""
    user.install(user.plan(at=time(6, 30)), "launchd")
    found = user.status()

    assert found.next_from == "launchd"
    assert found.next_start
    assert found.next_start.timetz().replace(tzinfo=None) == time(6, 30)


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ({}, "something failed, is missing, left or not whole; 5 found"),
        ({"why": ["source nas is missing"]}, "source nas is missing; 5 found"),
    ],
)
def test_the_last_run_is_the_newest_that_came_to_its_end(
    user: User, why: dict[str, list[str]], said: str
) -> None:
    """Runs that were cut off have no summary, and are passed over; its causes are told."""
    for name, facts in {
        "20261124T220000Z-ffffff": {"exit_code": 0, "written": 1},
        "20261125T220000Z-000000": {"exit_code": 3, "written": 2} | why,
        "20261126T220000Z-000000": None,
    }.items():
        (user.home / "runs" / name).mkdir(parents=True)
        if facts:
            counts = {"found": 5, "failed": 0, "parked": 3, "time": "2026-11-25T23:00:00Z"}
            summary = json.dumps(facts | counts)
            (user.home / "runs" / name / "summary.json").write_text(summary)
    found = user.status(state=user.home)

    assert found.last_run
    assert found.last_run["written"] == 2
    assert f"{said}, 2 written" in str(found)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ("2026-11-26T20:59:59", "2026-11-26T21:00:00"),  # winter: an hour ahead of UTC
        ("2026-11-26T21:00:00", "2026-11-27T21:00:00"),
        ("2026-07-01T12:00:00", "2026-07-01T20:00:00"),  # summer: two
        ("2026-10-24T20:00:00", "2026-10-25T21:00:00"),  # 25 hours later
        ("2027-03-27T21:00:00", "2027-03-28T20:00:00"),  # 23 hours later
        ("2026-12-31T23:30:00", "2027-01-01T21:00:00"),  # it is tomorrow there
    ],
)
def test_the_next_start_is_by_the_clocks_of_the_zone(now: str, expected: str) -> None:
    """22:00 in Berlin is 22:00 there, before and after the clocks change."""
    found = next_at(time(22), "Europe/Berlin", datetime.fromisoformat(now).replace(tzinfo=UTC))

    assert found.astimezone(UTC).isoformat() == f"{expected}+00:00"


def test_an_hour_that_is_skipped_comes_an_hour_later() -> None:
    """In the night in which 02:30 does not come, the start is at 03:30."""
    now = datetime(2027, 3, 28, 0, 0, tzinfo=UTC)

    assert next_at(time(2, 30), "Europe/Berlin", now).isoformat() == "2027-03-28T03:30:00+02:00"


def test_files_carry_our_mark(user: User) -> None:
    """Each file that is written says who wrote it, and that it will be overwritten."""
    user.install(user.plan())
    user.install(user.plan(), "launchd")

    assert all(MARK.encode() in text for text in user.files().values())
