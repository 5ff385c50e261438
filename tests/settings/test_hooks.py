"""The table `[hooks]`: what it takes, what its short forms stand for, and what it never shows."""

import ast
import inspect
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import SettingsError
from pipeline.settings import HOOK_VARIABLES, Heartbeat, Hooks, Settings, hooks, is_url
from pipeline.settings import load_settings as load

SECRET = "T0P-SECRET"


def made(**values: Any) -> Hooks:
    """Hooks as a file would spell them."""
    return Hooks(**values)


def loaded(folder: Path, toml: str = "", **environ: str) -> Hooks:
    """The hooks of a file and of variables."""
    (folder / "overnight.toml").write_text(toml)
    return load({}, environ=environ, cwd=folder).hooks


def test_every_key_says_what_it_is() -> None:
    """Below each field of both tables stands what it is."""
    source = ast.parse(inspect.getsource(hooks))
    for table in (Hooks, Heartbeat):
        (body,) = (
            node.body
            for node in source.body
            if isinstance(node, ast.ClassDef) and node.name == table.__name__
        )
        described = {
            field.target.id
            for field, text in pairwise(body)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
        }
        assert described >= table.model_fields.keys()


def test_nobody_is_told_by_default() -> None:
    """Without a word of the user nothing is run, and nothing asked for."""
    found = Settings().hooks

    assert (found.on_start, found.on_success, found.on_failure, found.on_finish) == ((),) * 4
    assert found.heartbeat == Heartbeat(start=None, ok=None, fail=None)
    assert found.timeout == 30


@pytest.mark.parametrize(
    ("toml", "environ"),
    [
        ("hooks = 'mail root'", {}),
        ("hooks = ['mail root']", {}),
        ("[hooks]\non_failure = 'mail root'", {}),
        ("[hooks]\non_failure = ['mail root']", {}),
        ("", {"OVERNIGHT_HOOKS": "mail root"}),
        ("", {"OVERNIGHT_HOOKS": '["mail root"]'}),
        ("", {"OVERNIGHT_HOOKS": '{"on_failure": "mail root"}'}),
        ("", {"OVERNIGHT_HOOKS__ON_FAILURE": "mail root"}),
        ("", {"OVERNIGHT_HOOKS__ON_FAILURE": '["mail root"]'}),
        ("hooks = 'else'", {"OVERNIGHT_HOOKS": "mail root"}),
    ],
    ids=str,
)
def test_who_is_only_named_is_told_of_failures(
    tmp_path: Path, toml: str, environ: dict[str, str]
) -> None:
    """One command, or a list, is `on_failure`, in a file and in a variable."""
    assert loaded(tmp_path, toml, **environ) == made(on_failure=("mail root",))


def test_a_short_form_goes_together_with_other_keys(tmp_path: Path) -> None:
    """A stronger source adds to a short form, and so do variables that stand beside one."""
    found = loaded(tmp_path, "hooks = 'mail root'", OVERNIGHT_HOOKS__TIMEOUT="5s")
    beside = loaded(tmp_path, OVERNIGHT_HOOKS="mail root", OVERNIGHT_HOOKS__TIMEOUT="5s")

    assert found == beside == made(on_failure="mail root", timeout=5)


@pytest.mark.parametrize(
    ("url", "start", "fail"),
    [
        (
            "https://hc.example/uuid",
            "https://hc.example/uuid/start",
            "https://hc.example/uuid/fail",
        ),
        (" https://h.example/u/ ", "https://h.example/u/start", "https://h.example/u/fail"),
        ("http://h.example", "http://h.example/start", "http://h.example/fail"),
        (
            "https://u:p@h.example:8443/key/slug?create=1",
            "https://u:p@h.example:8443/key/slug/start?create=1",
            "https://u:p@h.example:8443/key/slug/fail?create=1",
        ),
    ],
)
def test_a_heartbeat_is_one_url_or_three(tmp_path: Path, url: str, start: str, fail: str) -> None:
    """One URL gives the others, before its query; a table names them; so do variables."""
    three = Heartbeat(start=start, ok=url.strip(), fail=fail)

    assert made(heartbeat=url).heartbeat == three
    assert made(heartbeat=three.model_dump()).heartbeat == three
    assert loaded(tmp_path, OVERNIGHT_HOOKS__HEARTBEAT=url).heartbeat == three
    assert loaded(tmp_path, OVERNIGHT_HOOKS__HEARTBEAT=three.model_dump_json()).heartbeat == three
    assert loaded(tmp_path, OVERNIGHT_HOOKS__HEARTBEAT__OK=url).heartbeat.ok == url.strip()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("hooks = ''", "`hooks.on_failure` from FILE: neither a command nor a URL, but empty"),
        ("hooks = ['true', ' ']", "`hooks.on_failure` from FILE: neither"),
        (f'hooks = "mail \'{SECRET}"', "`hooks.on_failure` from FILE: not a command: a quote"),
        ("[hooks]\non_start = 5", "`hooks.on_start` from FILE: "),
        (f"hooks = 'https:///{SECRET}'", "`hooks.on_failure` from FILE: not a URL"),
        (f"hooks = 'ftp://x.example/{SECRET}'", "`hooks.on_failure` from FILE: not a URL"),
        (f"[hooks]\non_start = 'http://x.example/a {SECRET}'", "`hooks.on_start` from FILE: not a"),
        (f"[hooks]\nheartbeat = 'hc.example/{SECRET}'", "`hooks.heartbeat` from FILE: not a URL"),
        (f"[hooks]\nheartbeat = '{{{SECRET}'", "`hooks.heartbeat` from FILE: not JSON"),
        (f"[hooks]\nheartbeat = {{ok = 'x:{SECRET}'}}", "`hooks.heartbeat` from FILE: not a URL"),
        ("[hooks]\nheartbeat = {okay = 'x'}", "it has no `okay`; did you mean `ok`?"),
        ("[hooks]\ntimeout = 0", "`hooks.timeout` from FILE: "),
        ("[hooks]\nfailure = 'x'", "`hooks.failure` from FILE is not a setting; did you mean"),
    ],
)
def test_what_is_wrong_is_said_without_its_secret(tmp_path: Path, toml: str, words: str) -> None:
    """Each mistake is named with its key and file, and nothing that it holds is repeated."""
    with pytest.raises(SettingsError) as raised:
        loaded(tmp_path, toml)
    said = str(raised.value).replace(str(tmp_path / "overnight.toml"), "FILE")

    assert words in said
    assert SECRET not in said


def test_no_repr_shows_a_hook() -> None:
    """Whoever prints settings, or a mistake in them, prints neither commands nor URLs."""
    url = f"https://h.example/{SECRET}"
    keys = ("on_start", "on_success", "on_failure", "on_finish")
    told = Settings(hooks=made(**{key: [f"mail {SECRET}", url] for key in keys}, heartbeat=url))
    with pytest.raises(ValidationError) as raised:
        made(on_start=f"'{SECRET}", heartbeat=SECRET)

    for shown in (repr(told), str(told.hooks), repr(told.hooks.heartbeat), str(raised.value)):
        assert SECRET not in shown


def test_a_command_of_a_hook_may_call_this_program(tmp_path: Path) -> None:
    """The variables that hooks are told by are no unknown settings."""
    assert loaded(tmp_path, **dict.fromkeys(HOOK_VARIABLES, "x")) == Hooks()


def test_urls_are_told_from_commands() -> None:
    """What begins with a scheme is a URL, in any case; a command may have one further on."""
    assert [*map(is_url, ("http://x", "HTTPS://x", "curl http://x", "/bin/a", "a:b"))] == [
        *(True, True, False, False, False)
    ]
