"""The shape of the project is the one that it says it has."""

import ast
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "jobs")

TESTED_ELSEWHERE = {
    # Wiring, which nothing but a whole run can show to be right.
    "jobs/start.py": "tests/jobs/test_signals.py",
    # Read a command line and hand it on, which nothing but a whole command can show to be right.
    "jobs/commands/archive.py": "tests/jobs/test_archive_command.py",
    "jobs/commands/check.py": "tests/jobs/test_verify.py",
    "jobs/commands/look.py": "tests/jobs/test_run_command.py",
    "jobs/commands/reprocess.py": "tests/jobs/test_reprocess_command.py",
    "jobs/commands/run.py": "tests/jobs/test_run_command.py",
    "jobs/console.py": "tests/jobs/test_cli.py",
    # What a ledger made anew cannot account for.
    "jobs/unclaimed.py": "tests/jobs/test_rebuild.py",
    # What a reprocess is made of, which has to hold together.
    "jobs/planning.py": "tests/jobs/test_reprocess.py",
    "pipeline/promote.py": "tests/jobs/test_reprocess.py",
    # Listens to the same tally.
    "pipeline/terminal.py": "tests/test_progress.py",
    # What jobs that look have in common.
    "jobs/account.py": "tests/jobs/test_audit.py",
    "jobs/finding.py": "tests/jobs/test_verify.py",
    "jobs/shelf.py": "tests/jobs/test_verify.py",
    # Parts of one class, which is only ever used as a whole.
    "pipeline/ledger/accounts.py": "tests/ledger/test_ledger.py",
    "pipeline/ledger/adoptions.py": "tests/jobs/test_adopt.py",
    "pipeline/ledger/attempts.py": "tests/ledger/test_ledger.py",
    "pipeline/ledger/evidence.py": "tests/jobs/test_verify.py",
    "pipeline/ledger/journal.py": "tests/jobs/test_rebuild.py",
    "pipeline/ledger/remains.py": "tests/jobs/test_rebuild.py",
    "pipeline/ledger/repairs.py": "tests/jobs/test_verify.py",
    "pipeline/ledger/recordings.py": "tests/ledger/test_ledger.py",
    "pipeline/ledger/results.py": "tests/ledger/test_ledger.py",
    # The bodies of the server's answers, which have to be right on the wire.
    "pipeline/engine/answers.py": "tests/engine/test_server.py",
    # No part of the program: it made the recordings that are transcribed there.
    "jobs/samples/make.py": "tests/engine/test_accuracy.py",
}
"""Modules without a test file of their own, and where their promises are kept instead."""

VAGUE = {
    *("util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"),
    *("data", "info", "task", "tasks", "base", "core"),
}
"""Words that say nothing about what a module does, or that mean something else here."""


def modules(*folders: str) -> list[str]:
    """Every module below these folders, as a path from the root of the project."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    )


MODULES = modules(*PACKAGES)
IMPORTABLE = [path for path in MODULES if path != "jobs/samples/make.py"]

each_module = pytest.mark.parametrize("module", MODULES)


@cache
def parsed(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_bytes())


def exported(module: str) -> list[str] | None:
    """The names in `__all__`, None where there is none."""
    for statement in parsed(module).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    return None


# --- imports --------------------------------------------------------------------------------------


def test_the_import_contracts_hold() -> None:
    """Layers, independence and the places of certain libraries are as pyproject.toml says."""
    ran = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", ran.stdout)


def test_no_contract_has_an_exception() -> None:
    """No import is ignored: a rule that does not fit is changed, not bent."""
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text()


# --- modules --------------------------------------------------------------------------------------


@each_module
def test_every_module_says_what_flows_in_and_out(module: str) -> None:
    """Each module begins with a docstring that tells a newcomer what it is for."""
    docstring = ast.get_docstring(parsed(module))

    assert docstring
    assert len(docstring.split()) >= 8


@pytest.mark.parametrize("package", [*PACKAGES, "jobs/commands"])
def test_the_list_of_modules_is_whole(package: str) -> None:
    """What a package says that it is made of is what lies in its folder."""
    listed = re.findall(
        r"^    (\w+)  +\S", ast.get_docstring(parsed(f"{package}/__init__.py")) or "", re.MULTILINE
    )
    there = {
        path.stem
        for path in (ROOT / package).iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }

    assert set(listed) == there
    assert len(listed) == len(there)


@pytest.mark.parametrize("module", modules(*PACKAGES, "tests/support"))
def test_no_module_has_a_vague_name(module: str) -> None:
    """The name of each file says what it does."""
    assert not VAGUE & set(re.split(r"\W|_", module))


@each_module
def test_every_module_has_its_tests(module: str) -> None:
    """Tests mirror the sources: whoever changes a module knows where its promises are."""
    path = Path(module)
    folder = Path("tests", *path.parts[1 if path.parts[0] == "pipeline" else 0 : -1])
    if path.name == "__init__.py":
        assert path.parent.name in PACKAGES or any((ROOT / folder).glob("test_*.py"))
        return
    its_own = folder / f"test_{path.name}"
    tests = TESTED_ELSEWHERE.get(module, its_own.as_posix())

    assert (ROOT / tests).is_file()
    assert module not in TESTED_ELSEWHERE or not (ROOT / its_own).exists(), "no exception any more"


def test_no_exception_outlives_its_module() -> None:
    """The list of modules that are tested elsewhere names modules that exist."""
    assert set(TESTED_ELSEWHERE) <= set(MODULES)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", IMPORTABLE)
def test_every_module_says_what_is_public(module: str) -> None:
    """Each module but a list of modules has an `__all__`, of names without an underscore."""
    names = exported(module)
    if names is None:
        assert module in [f"{package}/__init__.py" for package in (*PACKAGES, "jobs/commands")]
        return

    assert names
    assert not [name for name in names if name.startswith("_")]


@pytest.mark.parametrize("module", IMPORTABLE)
def test_what_is_exported_is_there(module: str) -> None:
    """Each name in `__all__` can be imported, and they stand in order."""
    names = exported(module) or []
    imported = import_module(
        module.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
    )

    assert all(hasattr(imported, name) for name in names)
    constants = [name for name in names if name.isupper()]
    classes = [name for name in names if name[0].isupper() and not name.isupper()]
    functions = [name for name in names if name[0].islower()]
    assert names == [*sorted(constants), *sorted(classes), *sorted(functions)]


# --- tests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [m for m in modules("tests") if "/test_" in m])
def test_every_test_says_its_promise(module: str) -> None:
    """Each test begins with a sentence that would be broken if it failed."""
    tests = [
        node
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[:5] == "test_"
    ]

    assert tests
    for test in tests:
        docstring = ast.get_docstring(test) or ""
        assert docstring.endswith("."), test.name
        assert len(docstring.split()) >= 4, test.name


@pytest.mark.parametrize("module", modules("tests"))
def test_no_test_sleeps(module: str) -> None:
    """Tests wait for what they need or move the clock: no wall clock decides what passes."""
    calls = {ast.unparse(n.func) for n in ast.walk(parsed(module)) if isinstance(n, ast.Call)}

    assert not calls & {"time.sleep", "asyncio.sleep"}
