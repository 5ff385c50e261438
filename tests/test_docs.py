"""The pages cannot lie: what they name exists, and what they list is the whole of it."""

import ast
import inspect
import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import date, datetime
from enum import StrEnum
from functools import reduce
from hashlib import sha256
from importlib import import_module
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from anyio import to_thread
from cyclopts import App

import pipeline
from jobs import doctor, readiness, timer
from jobs.checks import SOURCE, Check, Foreseen
from jobs.cli import app
from jobs.folder import sample_folder
from jobs.planning import plan
from jobs.reprocess import reprocess, roll_back
from pipeline import compare
from pipeline.errors import ExitCode
from pipeline.events import Event
from pipeline.ledger.archive import Selection
from pipeline.models import AttemptState, RecordingState, TranscriptState
from pipeline.report import differences, list_lines, status_json, version_lines
from pipeline.report.calendar import Night
from pipeline.report.course import Mention, Moment, Stage
from pipeline.report.looks import Result, Unread
from pipeline.report.morning import Cause, Morning
from pipeline.settings import HOOK_VARIABLES, Hooks, Settings, load_settings
from pipeline.stages.scan import MEDIA_SUFFIXES
from pipeline.wire import DELETED_AUDIO_URL
from tests.support.runs import opened
from tests.support.service import Fault
from tests.support.service_faults import Action, Kind

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / name
    for name in (
        *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
        *("docs/design.md", "docs/output.md", "docs/scheduling.md", "bench/README.md"),
    )
]
README, DESIGN, OUTPUT = ROOT / "README.md", ROOT / "docs/design.md", ROOT / "docs/output.md"


def below(parent: App, path: str = "") -> Iterator[str]:
    """Every command, as it is typed, with those that it has below it."""
    for name in parent:
        if not name.startswith("-"):
            yield path + name
            yield from below(parent[name], f"{path}{name} ")


COMMANDS = list(below(app))
STATES: dict[str, type[StrEnum]] = {
    "recordings": RecordingState,
    "transcripts": TranscriptState,
    "attempts": AttemptState,
}
DIFFERENCES: dict[str, type] = {
    "difference": differences.Difference,
    "uncompared": differences.Uncompared,
    "comparison": compare.Comparison,
    "version": compare.Version,
    "moved": compare.Moved,
    "speakers": compare.Speakers,
    "edit": compare.Edit,
    "differences": differences.Differences,
    "bar": differences.Bar,
    "row": differences.Row,
    "passage": differences.Passage,
}
START = "[*]"
OTHER_KEY = "0123456789abcdef"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# --- reading pages and sources -----------------------------------------------------------------


def fences(page: Path, language: str = r"\w*") -> list[str]:
    """The fenced blocks of a page in one language, or in any."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def spans(page: Path) -> list[str]:
    """What a page sets as code inside its text."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


def section(page: Path, heading: str) -> str:
    """A page from a heading to the next one."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", page.read_text("utf-8"), re.M | re.S
    )
    assert found, f"{page.name} has no heading `{heading}`"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, but for its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def said(scope: type) -> dict[str, str]:
    """What is documented below each attribute of a class, on one line each."""
    source = Path(str(sys.modules[scope.__module__].__file__)).read_text("utf-8")
    body = next(
        node.body
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == scope.__name__
    )
    found = {}
    for node, below in pairwise(body):
        match node, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def command_of(words: str) -> App:
    """What somebody types, as the program has it."""
    return reduce(lambda parent, name: parent[name], words.split(), app)


def taken_flags(command: str) -> dict[str, str]:
    """The flags of a command as it takes them, with their help; those of one setting joined."""
    if command_of(command).default_command is None:  # it is nothing but those below it
        return {}
    arguments = command_of(command).assemble_argument_collection(
        parse_docstring=True, default_parameter=app.default_parameter
    )
    return {
        ", ".join(argument.names): argument.parameter.help or ""
        for argument in arguments
        if not argument.children and argument.names[0].startswith("-")
    }


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words of every `overnight ...` that a page shows, after the name of the program."""
    shown = [line for fence in fences(page, "sh") for line in fence.splitlines()]
    for line in [*shown, *spans(page)]:
        for part in re.split(r" && | \| |;", line.partition(" # ")[0]):
            program, *words = part.replace("…", "").split() or [""]
            if program.rpartition("/")[2] == "overnight":
                yield words


# --- what can be typed ---------------------------------------------------------------------------


def test_nobody_is_sent_to_a_package_of_our_name() -> None:
    """What is said to be installed comes from a checkout: on an index the name may be anybody's."""
    said = [*PAGES, *(ROOT / "jobs").rglob("*.py"), *(ROOT / "pipeline").rglob("*.py")]
    by_name = re.compile(r"(?:install|pipx run|uvx|uv add)\s+(?:-\S+\s+)*['\"]?overnight\b")

    assert [path.name for path in said if by_name.search(path.read_text())] == []


def test_exit_codes_are_those_of_the_code() -> None:
    """The table of exit codes has each code once, with what the code itself says of it."""
    meanings = said(ExitCode)
    table = {int(code): meaning for code, meaning, _ in rows(section(README, "Exit codes"))}

    assert table == {int(code): meanings[code.name] for code in ExitCode}


def test_flags_are_those_of_the_command() -> None:
    """The table of flags has every flag of `overnight run`, with the help of the command."""
    table = {
        flag.replace("`", ""): meaning.replace("`", "")
        for flag, meaning in rows(section(README, "Flags of `overnight run`"))
    }

    assert table == taken_flags("run")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_explained(command: str) -> None:
    """Each command has help, so has each of its flags, and the README shows it."""
    names = command.split()

    assert command_of(command).help
    assert all(taken_flags(command).values())
    assert any(words[: len(names)] == names for words in command_lines(README))


@every_page
def test_command_lines_can_be_typed(page: Path) -> None:
    """Each `overnight ...` on a page is a command that exists, with flags that it takes."""
    for words in filter(None, command_lines(page)):
        if words[0].startswith("-"):
            assert words[0] in ("--version", "--help"), words
            continue
        names = (" ".join(words[:count]) for count in (2, 1))
        command = next((name for name in names if name in COMMANDS), None)
        assert command, words
        known = [*", ".join(taken_flags(command)).split(", "), "--help"]
        for flag in re.findall(r"(?<!\S)-{1,2}[a-zA-Z][\w-]*", " ".join(words)):
            assert flag in known, f"overnight {command} {flag}"


@every_page
def test_flags_that_are_named_exist(page: Path) -> None:
    """A flag that a page names by itself is one of some command."""
    known = {"--help", "--version"}
    known.update(
        flag for command in COMMANDS for flag in ", ".join(taken_flags(command)).split(", ")
    )
    named = {span.split()[0].split("=")[0] for span in spans(page) if span.startswith("--")}

    assert named <= known


@every_page
def test_variables_that_are_named_exist(page: Path) -> None:
    """A variable of ours that a page names is that of a setting, or one that hooks are given."""
    for name in re.findall(r"\bOVERNIGHT_\w+", page.read_text("utf-8")):
        key = name.removeprefix("OVERNIGHT_").partition("__")[0].lower()
        assert key in Settings.model_fields or name in HOOK_VARIABLES, name


def test_variables_of_hooks_are_those_of_the_code() -> None:
    """The table of what the command of a hook is given is whole, and in the order of the code."""
    assert [row[0].strip("`") for row in rows(section(OUTPUT, "Hooks"))] == [*HOOK_VARIABLES]


def test_hooks_are_those_of_the_settings() -> None:
    """The README tells of each key of `[hooks]` but the timeout in a row of its own."""
    table = [row[0].strip("`") for row in rows(section(README, "Tell someone"))]

    assert [*table, "timeout"] == list(Hooks.model_fields)


def test_two_commands_set_everything_up() -> None:
    """
    The README begins with two commands of one line each: the first transcribes the samples with
    the engine installed, the second runs the tests. The gate runs both, as they stand there.
    """
    first, second = [shlex.split(fence) for fence in fences(README, "sh")[:2]]
    gate = (ROOT / ".ci/run").read_text("utf-8")
    program = re.search(r"awk '(.*?)'", gate, re.S)
    assert program is not None
    run = subprocess.run(["awk", program[1], README], capture_output=True, text=True, check=True)

    assert all(fence.count("\n") == 1 for fence in fences(README, "sh")[:2])
    assert first[first.index("install") + 1] == ".[engine]"
    assert first[-3:] == [".venv/bin/overnight", "run", "--sample"]
    assert second[second.index("install") + 1] == ".[engine,test]"
    assert second[-2:] == [".venv/bin/pytest", "-q"]
    assert run.stdout.splitlines(keepends=True)[:2] == fences(README, "sh")[:2]
    assert [int(number) for number in re.findall(r'bash -euc "\$\{commands\[(\d)', gate)] == [0, 1]


@pytest.mark.parametrize(
    "page",
    [README, ROOT / "CONTRIBUTING.md", ROOT / "docs/scheduling.md"],
    ids=lambda page: page.name,
)
def test_shell_lines_are_shell(page: Path) -> None:
    """What is shown as shell can be pasted into `sh`."""
    for fence in fences(page, "sh"):
        checked = subprocess.run(["sh", "-n"], input=fence, text=True, capture_output=True)

        assert checked.returncode == 0, checked.stderr


def test_settings_that_are_shown_are_settings(tmp_path: Path) -> None:
    """Each part of a settings file that the README shows is taken as it stands."""
    shown = []
    for text in fences(README, "toml"):
        (tmp_path / "overnight.toml").write_text(text)
        shown.append(load_settings({}, environ={}, cwd=tmp_path))

    assert any(settings.transcript and settings.rules for settings in shown)
    assert any(settings.source and settings.window for settings in shown)
    assert any(settings.hooks.on_failure for settings in shown)


def test_the_output_tree_is_that_of_the_samples() -> None:
    """The tree in the README holds a result for each sample, and nothing else but the summary."""
    tree = next(fence for fence in fences(README) if fence.startswith("transcripts/"))
    samples = sample_folder()
    results = {
        f"{path.relative_to(samples)}.json"
        for path in samples.rglob("*")
        if path.suffix[1:].lower().encode() in MEDIA_SUFFIXES
    }

    named = {name for name in tree.split() if name.endswith(".json")}

    assert named == {*results, "summary.json"}


# --- what programs read --------------------------------------------------------------------------


def json_type(annotation: Any) -> str:
    """The words of the page for a type of the code."""
    names = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
    names |= {datetime: "string", date: "string", Literal: "string", tuple: "array"}
    annotation = get_origin(annotation) if get_origin(annotation) in names else annotation
    if annotation in names:
        return names[annotation]
    if get_origin(annotation) is list:
        return "array"
    kinds = get_args(annotation)
    is_union = not hasattr(annotation, "__origin__")
    return " or ".join(map(json_type, kinds)) if kinds and is_union else "object"


@pytest.mark.parametrize("event", Event.__subclasses__(), ids=lambda event: event.__name__)
def test_events_are_those_of_the_code(event: type[Event]) -> None:
    """Each event has its section, which says what the code says, field by field."""
    tag = str(event.__struct_config__.tag)
    text, meanings = section(OUTPUT, f"`{tag}`"), said(event)
    table = {field.strip("`"): (kind, meaning) for field, kind, meaning in rows(text)}

    assert " ".join((event.__doc__ or "").split()) in " ".join(text.split())
    assert list(table) == list(event.__annotations__)
    for field, (kind, meaning) in table.items():
        assert kind == json_type(event.__annotations__[field])
        assert meaning == meanings.get(field, meaning).replace("None", "null") != ""


@pytest.mark.parametrize(("heading", "struct"), DIFFERENCES.items(), ids=DIFFERENCES)
def test_differences_are_those_of_the_code(heading: str, struct: type) -> None:
    """What is in files of differences is documented with the words and types of the code."""
    text, meanings = section(OUTPUT, f"`{heading}`"), said(struct)
    table = {field.strip("`"): (kind, meaning) for field, kind, meaning in rows(text)}

    assert " ".join((struct.__doc__ or "").split()) in " ".join(text.split())
    assert list(table) == list(struct.__annotations__)
    for field, (kind, meaning) in table.items():
        assert kind == json_type(struct.__annotations__[field])
        assert meaning == meanings.get(field, meaning).replace("None", "null") != ""


REPORT: dict[str, type] = {
    "report.json": Morning,
    "stages": Stage,
    "causes": Cause,
    "named": Mention,
    "results": Result,
    "unread": Unread,
    "moments": Moment,
    "nights": Night,
}
"""Headings of the page, and what each is of a report."""


@pytest.mark.parametrize("heading", REPORT)
def test_reports_are_those_of_the_code(heading: str) -> None:
    """The report and each list in it have their section, which says what the code says."""
    kind = REPORT[heading]
    meanings = said(kind)
    table = {
        field.strip("`"): (of, means) for field, of, means in rows(section(OUTPUT, f"`{heading}`"))
    }

    assert table.pop("type", ("string", "`report`")) == ("string", "`report`")
    assert list(table) == list(kind.__annotations__)
    for field, (of, meaning) in table.items():
        assert of == json_type(kind.__annotations__[field])
        assert meaning == meanings.get(field, meaning).replace("None", "null") != ""


def test_every_event_has_its_section() -> None:
    """The page tells of all events, in the order of the source, and of no other."""
    text = OUTPUT.read_text("utf-8")
    listed = text[text.index("\n## Events\n") : text.index("\n## Files of a run\n")]

    assert re.findall(r"^### `(\w+)`$", listed, re.M) == [
        event.__struct_config__.tag for event in Event.__subclasses__()
    ]


@pytest.mark.anyio
async def test_files_and_commands_say_what_is_documented(tmp_path: Path) -> None:
    """`summary.json`, `attempts.ndjson`, `status` and `list` have the fields of the page."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"a")
        await archive.run()
        (run,) = (archive.state / "runs").iterdir()
        summary = json.loads((run / "summary.json").read_bytes())
        began, journal = map(json.loads, (run / "attempts.ndjson").read_text().splitlines())
        last = json.loads((run / "events.ndjson").read_text().splitlines()[-1])
        state = archive.state

        def told() -> tuple[dict[str, Any], dict[str, Any]]:
            (line,) = list_lines(state, state_filter=None, as_json=True)
            return status_json(state), json.loads(line)

        status, listed = await to_thread.run_sync(told)

    assert summary == last
    said = section(OUTPUT, "`attempts.ndjson`")
    assert re.findall(r"`(\w+)`", said.partition("Each other line")[0]) == list(began)
    for heading, facts in {
        "`attempts.ndjson`": journal,
        "`overnight status --json`": status,
        "`overnight list --json`": listed,
    }.items():
        assert [row[0].strip("`") for row in rows(section(OUTPUT, heading))] == list(facts), heading


def test_the_status_of_an_installation_says_what_is_documented(tmp_path: Path) -> None:
    """`nightly status` has the fields of the page."""
    home = {"HOME": str(tmp_path)}
    facts = timer.status("overnight", home, state=None, at=None, time_zone=None).facts()
    table = rows(section(OUTPUT, "`overnight nightly status --json`"))

    assert [row[0].strip("`") for row in table] == list(facts)


def test_the_doctor_says_what_is_documented() -> None:
    """What is looked at, and what it comes to, have the fields and the subjects of the page."""
    for facts in (Check("key", "…").facts(), Foreseen.of([]).facts()):
        table = rows(section(OUTPUT, f"`{facts['type']}`"))
        assert [row[0].strip("`") for row in table] == list(facts)
    told = {
        subject
        for module in (doctor, readiness)
        for subject in re.findall(
            r"""(?:Check\(|_answered\([^"]*)\s*"(\w+)\"""", inspect.getsource(module)
        )
    }
    told |= {"output", "state", SOURCE}
    table = rows(section(OUTPUT, "Subjects"))
    assert {name for row in table for name in re.findall(r"`(\w+)`", row[0])} == told


@pytest.mark.anyio
async def test_a_reprocess_says_what_is_documented(tmp_path: Path) -> None:
    """Plan, what a reprocess came to, what was replaced, and a rollback have the page's fields."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"a")
        await archive.run()
        settings = archive.settings(transcript={"punctuate": False})
        made = await to_thread.run_sync(plan, settings, Selection())
        done = await reprocess(settings, made, emit=lambda _: None)
        listed = await to_thread.run_sync(
            lambda: [json.loads(line) for line in version_lines(archive.state, as_json=True)]
        )
        back = await roll_back(settings, done.summary.run_id, emit=lambda _: None)

    told = [made.facts(), done.facts(), back.facts()]
    for facts in told:
        table = rows(section(OUTPUT, f"`{facts['type']}`"))
        assert [row[0].strip("`") for row in table] == list(facts)
    (listed_fields,) = [list(each) for each in listed]
    table = rows(section(OUTPUT, "`overnight list --versions --json`"))
    assert [row[0].strip("`") for row in table] == listed_fields
    assert " ".join(made.facts()["left_out"]) in section(OUTPUT, "`plan`")
    assert all(f"`{field}`" in section(OUTPUT, "`plan`") for field in made.facts()["changes"][0])


@pytest.mark.anyio
async def test_findings_say_what_is_documented(tmp_path: Path) -> None:
    """`verify` and `audit` have the fields of the page, and their findings its kinds."""
    async with opened(tmp_path) as archive:
        archive.add("a.wav", b"a")
        await archive.run()
        archive.service.add_foreign(1)
        archive.environ["OVERNIGHT_SETTLE"] = "500ms"
        (archive.output / "a.wav.json").unlink()
        where = ["-o", archive.output, "--json", "--provider", archive.service.url]
        ended = [
            await archive.command(*words, *where)
            for words in (["verify"], ["audit", "--remote"], ["verify", "--rebuild"])
        ]
    said = [line for each in ended for line in each.lines]
    kinds = {row[0].strip("`") for row in rows(section(OUTPUT, "Kinds of findings"))}

    assert {line["type"] for line in said} == {"finding", "verified", "audit", "rebuilt"}
    for line in said:
        fields = [row[0].strip("`") for row in rows(section(OUTPUT, f"`{line['type']}`"))]
        assert fields == list(line), line["type"]
        assert line.get("kind", "missing") in kinds


# --- states --------------------------------------------------------------------------------------


def drawn(table: str) -> list[tuple[str, str, str]]:
    """The edges of a drawing: from, to and cause."""
    (drawing,) = re.findall(r"^```mermaid\n(.*?)^```$", section(DESIGN, f"`{table}`"), re.M | re.S)
    head, *lines = drawing.splitlines()
    assert head == "stateDiagram-v2"
    edges = [re.fullmatch(r"    (\S+) --> (\S+): (.+)", line) for line in lines]
    assert all(edges)
    return [(edge[1], edge[2], edge[3]) for edge in edges if edge]


@pytest.mark.parametrize("table", STATES)
def test_the_drawing_is_the_enum_is_the_schema(table: str) -> None:
    """The states that are drawn are those of the enum and those that the database lets in."""
    schema = files("pipeline.ledger").joinpath("schema.sql").read_text("utf-8")
    body = schema[schema.index(f"CREATE TABLE {table} ") :]
    check = re.search(r"CHECK \(state IN \(([^)]*)\)\)", body)
    ends = {end for edge in drawn(table) for end in edge[:2]} - {START}

    assert check
    assert ends == set(STATES[table]) == set(re.findall(r"'(\w+)'", check[1]))


@pytest.mark.parametrize("table", STATES)
def test_every_state_is_reached(table: str) -> None:
    """From the beginning, the edges lead to every state; no edge is drawn twice."""
    edges = [(start, end) for start, end, _ in drawn(table)]
    reached = {START}
    while more := {end for start, end in edges if start in reached} - reached:
        reached |= more

    assert reached == {START, *STATES[table]}
    assert len(edges) == len(set(edges))


def digest(content: str) -> str:
    """What the service knows a content by."""
    return sha256(content.encode()).hexdigest()


def watch_states(ledger: Path) -> None:
    """Let the database note each change of state from here on."""
    with closing(sqlite3.connect(ledger)) as db:
        db.execute("CREATE TABLE moved (rows TEXT, old TEXT, new TEXT)")
        for table in STATES:
            db.executescript(f"""
                CREATE TRIGGER {table}_made AFTER INSERT ON {table} BEGIN
                  INSERT INTO moved VALUES ('{table}', '{START}', NEW.state); END;
                CREATE TRIGGER {table}_moved AFTER UPDATE OF state ON {table}
                WHEN OLD.state <> NEW.state BEGIN
                  INSERT INTO moved VALUES ('{table}', OLD.state, NEW.state); END;
            """)


@pytest.mark.anyio
async def test_what_moves_is_drawn(tmp_path: Path) -> None:
    """Over runs with every kind of trouble, rows take each edge that is drawn, and no other."""
    async with opened(tmp_path) as archive:
        service, output = archive.service, archive.output
        archive.recordings.mkdir()
        await archive.run()
        await to_thread.run_sync(watch_states, archive.state / "ledger.sqlite3")

        def trouble(name: str, on: Kind, action: Action, **more: Any) -> None:
            match = name if on == "upload" else digest(name)
            service.faults.add(Fault(on=on, action=action, match=match, **more))

        for name in ("good", "again", "lost", "found", "refused", "heavy", "gone"):
            archive.add(f"{name}.wav", name.encode())
        archive.add("twin.wav", b"good")
        archive.add("empty.wav", b"")
        archive.add("bad.wav", b"ERROR:Audio duration is too short.\nbad")
        service.fail_content(digest("again"), "Server error, developers have been alerted.")
        trouble("lost", "submit", "drop_before")
        trouble("found", "submit", "drop_after")
        trouble("refused", "submit", "answer", status=400)
        trouble("heavy", "upload", "answer", status=413)
        trouble("gone", "get", "patch", patch={"audio_url": DELETED_AUDIO_URL})
        archive.add("names.wav", b"names")
        beeped = {"redact_pii": True, "redact_pii_audio": True}
        trouble("names", "export", "answer", status=400, body='{"error": "there is none"}')
        await archive.run(rules=[{"match": "names.wav", **beeped}])

        archive.add("empty.wav", b"not any more")
        (output / "good.wav.json").unlink()
        (output / "twin.wav.json").unlink()
        await archive.run(retry_failed=True)

        archive.add("copy.wav", b"good")
        archive.add("again.wav", b"")
        archive.add("bad.wav", b"")
        await archive.run(transcript={"punctuate": False}, redo_changed=True)
        trouble("found", "submit", "answer", status=400)
        other = {"transcript": {"format_text": False}}
        await archive.run(**other, redo_changed=True)
        await archive.run(**other, min_size="1MB")
        await archive.run()
        before = (output / "found.wav.json").read_bytes()

        ids = "SELECT transcript_id FROM attempts WHERE transcript_id IS NOT NULL"
        for (lost,) in await archive.rows(ids):
            service.faults.add(Fault(on="get", action="unknown_id", match=lost, times=None))
        (output / "found.wav.json").unlink()
        await archive.run()
        await archive.run(ahead_s=3601)
        service.faults.clear()
        await archive.run(ahead_s=2 * 3602)

        archive.add("poor.wav", b"poor")
        trouble("poor", "submit", "negative_balance")
        await archive.run()
        service.keys = {OTHER_KEY: service.keys[service.key]}
        await archive.run()
        (output / "found.wav.json").write_bytes(before)
        await archive.run()
        moved = {tuple(row) for row in await archive.rows("SELECT * FROM moved")}

    assert moved == {(table, start, end) for table in STATES for start, end, _ in drawn(table)}


# --- what pages point at -------------------------------------------------------------------------


@every_page
def test_paths_exist(page: Path) -> None:
    """A path of the repository that a page names is there, and so is what it links to."""
    tops = {path.name for path in ROOT.iterdir()} - {"transcripts", ".overnight"}
    for span in spans(page):
        if re.fullmatch(r"[\w./-]+", span) and span.split("/")[0] in tops:
            assert (ROOT / span).exists(), span
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / link).exists(), link


@every_page
def test_links_within_a_page_lead_somewhere(page: Path) -> None:
    """An anchor that a page links to in itself is one of its headings."""
    text = page.read_text("utf-8")
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}

    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= anchors


@every_page
def test_names_of_the_code_exist(page: Path) -> None:
    """A dotted name of ours that a page shows as code is a module, or something in one."""
    for span in spans(page):
        if not re.fullmatch(r"(pipeline|jobs|tests)(\.\w+)+", span):
            continue
        module, _, name = span.rpartition(".")
        found = import_module(module)
        assert hasattr(found, name) or import_module(span), span


def test_the_map_goes_downwards() -> None:
    """In the map of the pipeline each module imports only from those below it."""
    order = re.findall(r"^    (\w+) +(?=\w)", pipeline.__doc__ or "", re.M)
    for place, name in enumerate(order):
        source = ROOT / "pipeline" / name
        for module in [source.with_suffix(".py")] if not source.is_dir() else source.rglob("*.py"):
            named = re.findall(r"^ *from pipeline\.(\w+)", module.read_text("utf-8"), re.M)

            assert {*named} <= {*order[place:]}, module
