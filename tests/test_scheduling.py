"""The examples of docs/scheduling.md: what `install` writes, and commands that run as shown."""

import ast
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.units import Plan, crontab_lines, service_unit, timer_unit
from pipeline.errors import ExitCode
from tests.test_docs import ROOT, fences

PAGE = ROOT / "docs/scheduling.md"

PLAN = Plan(
    name="overnight",
    command=(
        *("/opt/overnight/bin/python", "-P", "-m", "jobs.start"),
        *("nightly", "--config", "/srv/archive/overnight.toml"),
    ),
    folder=Path("/srv/archive"),
    at=time(22),
    time_zone="Europe/Berlin",
    variables=Path("/home/ada/.config/overnight/overnight.env"),
    reads=(Path("/srv/archive/recordings"),),
    writes=(Path("/srv/archive/transcripts"),),
    has_namespaces=True,
    stops_in_s=40,
    log=Path("/home/ada/.local/state/overnight/overnight.log"),
)
"""What the page has as an example."""

STOPPED = {ExitCode.INTERRUPTED, ExitCode.TERMINATED, ExitCode.HANGUP}
AGAIN_LATER = {ExitCode.TRY_LATER, ExitCode.LOCKED} | STOPPED
AS_PLANNED = {ExitCode.CAP_REACHED, ExitCode.WINDOW_CLOSED}


def test_units_are_those_that_are_installed() -> None:
    """Service and timer on the page are what `install` writes for such a plan."""
    assert fences(PAGE, "ini") == [service_unit(PLAN), timer_unit(PLAN)]


def test_the_crontab_line_is_that_which_is_printed() -> None:
    """The line on the page is what `install --kind cron` prints for such a plan."""
    assert fences(PAGE, "crontab") == [crontab_lines(PLAN)]


# --- Kubernetes ----------------------------------------------------------------------------------


@pytest.fixture
def job() -> dict[str, Any]:
    """What the manifest says of each night."""
    (manifest,) = fences(PAGE, "yaml")
    cron_job = yaml.safe_load(manifest)

    assert (cron_job["apiVersion"], cron_job["kind"]) == ("batch/v1", "CronJob")
    assert cron_job["spec"]["concurrencyPolicy"] == "Forbid"
    return dict(cron_job["spec"]["jobTemplate"]["spec"])


def test_kubernetes_decides_on_every_exit_code(job: dict[str, Any]) -> None:
    """Each exit code but 0 is either tried again or final, and those that pass are tried again."""
    decided = {
        rule["action"]: set(rule["onExitCodes"]["values"])
        for rule in job["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }

    assert decided == {
        "Count": AGAIN_LATER,
        "FailJob": set(ExitCode) - AGAIN_LATER - {ExitCode.DONE},
    }
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # the policy needs it


def test_kubernetes_mounts_what_the_command_works_with(job: dict[str, Any]) -> None:
    """Folders of the command are mounted, mounts have volumes, recordings are read only."""
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}

    assert {word for word in container["command"] if word.startswith("/")} < set(mounts)
    assert {mount["name"] for mount in mounts.values()} == {v["name"] for v in pod["volumes"]}
    assert mounts["/recordings"]["readOnly"]
    assert pod["terminationGracePeriodSeconds"] > PLAN.stops_in_s


def test_the_command_of_kubernetes_runs(job: dict[str, Any], tmp_path: Path) -> None:
    """The command, with the variable that it is given, does what it says over an empty folder."""
    (container,) = job["template"]["spec"]["containers"]
    (variable,) = container["env"]

    ended = run(tmp_path, shlex.join(container["command"]), {variable["name"]: "a-key"})

    assert ended["type"] == "summary"


# --- Airflow -------------------------------------------------------------------------------------


@pytest.fixture
def operator() -> dict[str, Any]:
    """What the operator is called with, where that is plain values."""
    (source,) = fences(PAGE, "python")
    (call,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Overnight"
    )
    return {
        str(word.arg): ast.literal_eval(word.value)
        for word in call.keywords
        if not isinstance(word.value, ast.Call)
    }


class _Fails(Exception):
    """What Airflow takes for the end of a step; anything else that is raised is tried again."""


class _Skips(Exception):
    """What Airflow takes for a step that was skipped."""


class _Ends:
    """As much of Airflow's operator as the page uses: its command has ended with a code."""

    bash_command = "a command"

    def __init__(self, exit_code: int) -> None:
        self.exit_code, self.output = exit_code, "the last line"
        self.subprocess_hook = self

    def get_env(self, context: object) -> dict[str, str]:
        return {"context": repr(context)}

    def run_command(self, command: list[str], *, env: dict[str, str]) -> "_Ends":
        assert (command, env) == (["bash", "-c", "a command"], {"context": "None"})
        return self


@pytest.mark.parametrize("code", ExitCode)
def test_airflow_decides_on_every_exit_code(operator: dict[str, Any], code: ExitCode) -> None:
    """A planned end is skipped, 5 and 11 are tried again, and nothing else is."""
    (source,) = fences(PAGE, "python")
    (defined,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    known = {
        "BashOperator": _Ends,
        "AirflowFailException": _Fails,
        "AirflowSkipException": _Skips,
    }
    exec(compile(ast.Module([defined], []), PAGE.name, "exec"), known)
    step: Any = known["Overnight"]
    again = {ExitCode.TRY_LATER, ExitCode.LOCKED}

    if code is ExitCode.DONE:
        assert step(code).execute(None) == "the last line"
    else:
        expected = _Skips if code in AS_PLANNED else RuntimeError if code in again else _Fails
        with pytest.raises(expected, match=str(int(code))):
            step(code).execute(None)
    assert operator["retries"] > 1


def test_the_command_of_airflow_runs(operator: dict[str, Any], tmp_path: Path) -> None:
    """The command runs in a shell, and its last line is what the operator hands on: the summary."""
    (name,) = operator["env"]

    ended = run(tmp_path, operator["bash_command"], {name: "a-key"})

    assert ended["type"] == "summary"
    assert ended["exit_code"] == 0


def run(folder: Path, command: str, variables: Mapping[str, str]) -> dict[str, Any]:
    """A command of the page, its folders below another one; the last line of what it says."""
    (folder / "recordings").mkdir()
    for name in ("recordings", "transcripts"):
        command = command.replace(f"/{name}", shlex.quote(f"{folder}/{name}"))
    done = subprocess.run(
        ["sh", "-c", command],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "ASSEMBLYAI_BASE_URL": "http://127.0.0.1:9",  # where nobody listens
            **variables,
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))
