"""
Where values come from, and which one wins:

    flags  >  OVERNIGHT_<KEY>  >  --config FILE or ./overnight.toml  >  user config  >  default

In go flags, variables and TOML files; out comes one `Settings`, or one `SettingsError` that names
everything wrong with them, each with its place. A table's keys follow two underscores in a
variable (`OVERNIGHT_TIMEOUTS__STALL=90s`).
"""

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel, ValidationError

from pipeline.errors import SettingsError
from pipeline.options import OptionError, Problem, check_options, merge, parse_assignment
from pipeline.settings.grammar import nearest, parse_names, plain_text
from pipeline.settings.hooks import HOOK_VARIABLES, Hooks
from pipeline.settings.model import Backlog, Settings, Source, Timeouts, Uploads
from pipeline.settings.surroundings import is_injected

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["load_settings", "load_told", "origins"]

_PREFIX = "OVERNIGHT_"

_FLAGS = {"formats": "--format", "json_lines": "--json", "verbose": "-v"}
"""Flags that are not called as their key is."""

_TABLES = ("transcript", "timeouts", "uploads", "prices", "backlog", "hooks", "speaker_names")
"""Merged key by key; every other value of a stronger source replaces the weaker one."""

_MODELS: Mapping[str, type[BaseModel]] = {
    "timeouts": Timeouts,
    "uploads": Uploads,
    "backlog": Backlog,
    "hooks": Hooks,
}
"""Tables whose keys are known."""

_FLAGS_ONLY = ("force", "redo_changed")
"""Consent to pay once more, which is given each time."""

_SHORT_FOR = {"uploads": "max", "hooks": "on_failure"}
"""The key that is meant where a table is given one value."""

_RIVALS = {"api_key_file": "api_key_command", "api_key_command": "api_key_file"}
"""Two ways to say one thing: the stronger source silences the weaker one's other way too."""


def load_settings(
    flags: Mapping[str, object],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """
    The settings of a run.

    Args:
        flags: keys and values from the command line, None for what was not given; `set` holds
            the texts of `--set KEY=VALUE`, later ones win.
        config: a settings file instead of ./overnight.toml; it has to exist.
        environ: the variables to look at.
        cwd: where ./overnight.toml is looked for.
        defaults: what a command takes where nobody says anything.

    Raises:
        SettingsError: anything is unknown or out of range, or `config` cannot be read; its
            message names all of it, each with the place it came from.
    """
    values, origin_of, problems = _gather(flags, config, environ, cwd or Path())
    settings = None
    try:
        settings = Settings(**{**(defaults or {}), **values})
    except ValidationError as error:
        for found in error.errors(include_url=False, include_input=False, include_context=False):
            problems.append(_said(found, values, origin_of))
    if settings is not None:
        problems += _unfit_options(settings, origin_of)
    if settings is None or problems:
        below = [f"  {each}" for each in problems]
        several = (f"{len(problems)} settings are wrong", *below)
        raise SettingsError(*(problems if len(problems) == 1 else several))
    return settings


def load_told(
    flags: Mapping[str, object],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> Settings:
    """
    Whom a run tells whose settings are wrong: `hooks` and `dry_run` alone, as far as they are not.

    Where they cannot be read either nobody is told, which is what the defaults say.
    """
    values, _, _ = _gather(flags, config, environ, cwd or Path())
    with suppress(ValidationError):
        return Settings(**{key: values[key] for key in ("hooks", "dry_run") if key in values})
    return Settings()


def _said(found: "ErrorDetails", values: Mapping[str, Any], origin_of: Mapping[str, str]) -> str:
    """What is wrong with a value, with its key and the place that it came from."""
    table, *within = found["loc"] or ("",)
    words = found["msg"].removeprefix("Value error, ")
    if table == "source" and within:
        at, *own = within
        several = values["source"]  # or the text of a variable
        given = several[int(at)] if isinstance(several, list | tuple) else None
        name = isinstance(given, dict) and (given.get("name") or given.get("folder"))
        of = f"{origin_of['source']}, source {f'`{name}`' if name else int(at) + 1}"
        if found["type"] == "extra_forbidden":
            hint = _belongs(f"source.{own[0]}") or nearest(str(own[0]), Source.model_fields)
            return f"`{own[0]}` from {of}, is not a setting{hint}"
        return f"`{own[0]}` from {of}: {words}" if own else f"{of}: {words}"
    key = ".".join(str(part) for part in (table, *within[:1]))
    origin = origin_of.get(key) or origin_of.get(str(table))
    where = f"`{key}` from {origin}: " if origin else f"`{key}`: " if key else ""
    return where + words + _belongs(key)


def origins(
    flags: Mapping[str, object],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> dict[str, str]:
    """Where each setting has its value from: a flag, a variable, a file, or `default`."""
    origin_of = _gather(flags, config, environ, cwd or Path())[1]
    return {key: origin_of.get(key, "default") for key in Settings.model_fields} | origin_of


def _unfit_options(settings: Settings, origin_of: Mapping[str, str]) -> list[str]:
    """What the service would refuse: in the options for all, and in those of each rule."""
    problems = []
    for problem in _option_problems(settings.transcript):
        origin = origin_of.get(f"transcript.{problem.key.partition('.')[0]}", "")
        belongs = _belongs(f"transcript.{problem.key}")
        problems.append(f"{problem.message}{origin and f' (from {origin})'}{belongs}")
    known = _option_problems(settings.transcript)
    problems += _unfit_rules(settings, known, "in the rule for `{}`")
    for source in settings.source:
        own = settings.of_source(source)
        where = f"in the source `{source.root_name}`"
        unfit = _option_problems(own.transcript)
        problems += [
            f"{each.message} ({where}){_belongs(f'source.transcript.{each.key}')}"
            for each in unfit
            if each not in known
        ]
        problems += _unfit_rules(own, [*known, *unfit], f"{where}, rule for `{{}}`")
    return problems


def _unfit_rules(settings: Settings, known: Sequence[Problem], where: str) -> list[str]:
    return [
        f"{problem.message} ({where.format(rule.match)}){_belongs(f'rules.{problem.key}')}"
        for rule in settings.rules
        for problem in _option_problems(merge(settings.transcript, rule.options))
        if problem not in known
    ]


def _option_problems(options: Mapping[str, object]) -> Sequence[Problem]:
    try:
        check_options(options)
    except OptionError as error:
        return error.problems
    return ()


class _Layer(NamedTuple):
    """What one source says."""

    values: dict[str, Any]
    spelled: Callable[[str], str]
    """How the user writes a key there, or which file says it."""


def _gather(
    flags: Mapping[str, object], config: Path | None, environ: Mapping[str, str], cwd: Path
) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Merged values, where each is from, and what cannot be a setting at all."""
    layers, problems = _layers(flags, config, environ, cwd)
    values: dict[str, Any] = {}
    origin_of: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key not in Settings.model_fields:
                problems.append(_unknown(key, layer.spelled(key), Settings.model_fields))
                continue
            if key in _FLAGS_ONLY and layer.spelled(key) != _as_flag(key):
                problems.append(
                    f"`{key}` from {layer.spelled(key)} would pay again in every run:"
                    f" say `{_as_flag(key)}` on the command line instead"
                )
                continue
            if key == "speaker_names":
                with suppress(ValueError):  # which the model then says
                    value = parse_names(value)
            if key in _TABLES and isinstance(value, dict):
                weaker = values.get(key)
                values[key] = merge(weaker if isinstance(weaker, dict) else {}, value)
                origin_of |= {f"{key}.{name}": layer.spelled(f"{key}.{name}") for name in value}
            else:
                # As a table, so that a stronger source may add another key to it.
                is_short = key in _SHORT_FOR and isinstance(value, int | str | list)
                values[key] = {_SHORT_FOR[key]: value} if is_short else value
                origin_of[key] = layer.spelled(key)
            if _RIVALS.get(key) in values.keys() - layer.values.keys():
                del values[_RIVALS[key]], origin_of[_RIVALS[key]]
    for key, model in _MODELS.items():
        table = values.get(key)
        if not isinstance(table, dict):
            continue
        for name in sorted(table.keys() - model.model_fields):
            del table[name]
            origin = origin_of.pop(f"{key}.{name}")
            known = [f"{key}.{field}" for field in model.model_fields]
            problems.append(_unknown(f"{key}.{name}", origin, known))
    return values, origin_of, problems


def _unknown(key: str, origin: str, known: Iterable[str]) -> str:
    homes = [f"{table}.{key}" for table, model in _MODELS.items() if key in model.model_fields]
    hint = f"; did you mean `{homes[0]}`?" if homes else _belongs(key) or nearest(key, known)
    return f"`{key}` from {origin} is not a setting{hint}"


def _belongs(key: str) -> str:
    """Where a key belongs that stands in a table, and is a setting by itself."""
    table, _, name = key.rpartition(".")
    if not table or name not in Settings.model_fields:
        return ""
    return f"; it stands in the table `[{table}]`: the setting `{name}` belongs above all tables"


def _layers(
    flags: Mapping[str, object], config: Path | None, environ: Mapping[str, str], cwd: Path
) -> tuple[list[_Layer], list[str]]:
    """The sources, weakest first, and what is wrong with them."""
    layers = []
    problems = []
    if base_url := environ.get("ASSEMBLYAI_BASE_URL"):
        layers.append(_Layer({"provider": base_url}, lambda _: "ASSEMBLYAI_BASE_URL"))

    local = config or cwd / "overnight.toml"
    for path, must_exist in ((_user_config(environ), False), (local, config is not None)):
        if path is None or not (must_exist or path.is_file()):
            continue
        try:
            values = tomllib.loads(plain_text(path.read_bytes()).decode())
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except ValueError as error:  # not TOML, or not UTF-8
            problems.append(f"{path} is not TOML: {error}")
        else:
            layers.append(_Layer(values, partial(_in_file, path)))

    environ = {name: text for name, text in environ.items() if not is_injected(name)}
    layers.append(_Layer(_variables(environ), _as_variable))
    for name in sorted(environ):
        key = name.upper().removeprefix(_PREFIX).partition("__")[0].lower()
        is_known = key in Settings.model_fields or name in HOOK_VARIABLES
        if name.upper().startswith(_PREFIX) and not is_known:
            alike = nearest(key, Settings.model_fields)
            problems.append(f"`{name}` in the environment is not a setting{alike}")

    given = {key: value for key, value in flags.items() if value is not None}
    assignments: Any = given.pop("set", ())
    layers.append(_Layer(given, _as_flag))
    for text in assignments:
        try:
            layers.append(_Layer({"transcript": dict([parse_assignment(text)])}, lambda _: "--set"))
        except OptionError as error:
            problems.append(f"`--set`: {error}")
    return layers, problems


def _in_file(path: Path, _key: str) -> str:
    return str(path)


def _as_variable(key: str) -> str:
    return _PREFIX + key.upper().replace(".", "__")


def _as_flag(key: str) -> str:
    return _FLAGS.get(key, "--" + key.partition(".")[0].replace("_", "-"))


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the `OVERNIGHT_` variables say: text, but for options what `--set` makes of it."""
    said = {name.lower(): text for name, text in environ.items() if text}
    if not any(name.startswith(_PREFIX.lower()) for name in said):
        return {}
    # Only now: it takes a while to import, and most runs have no such variable.
    from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

    class Named(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            env_prefix=_PREFIX,
            env_nested_delimiter="__",
            env_ignore_empty=True,
            enable_decoding=False,
        )

    class Environment(EnvSettingsSource):
        def _load_env_vars(self) -> Mapping[str, str | None]:
            return said

    for table, key in _SHORT_FOR.items():
        # Beside it, the variables of the table's keys would not count.
        short, within = f"{_PREFIX}{table}".lower(), f"{_PREFIX}{table}__".lower()
        if not said.get(short, "{").startswith("{") and any(n.startswith(within) for n in said):
            said.setdefault(within + key, said.pop(short))
    values = Environment(Named)()
    for table in _TABLES:
        value = values.get(table)
        if isinstance(value, str):
            with suppress(ValueError):  # which the model then says, with the rest
                values[table] = json.loads(value)
        elif table == "transcript" and isinstance(value, dict):
            values[table] = {
                name: parse_assignment(f"{name}={text}")[1] if isinstance(text, str) else text
                for name, text in value.items()
            }
    return values


def _user_config(environ: Mapping[str, str]) -> Path | None:
    """
    The settings file of the user, for all folders.

    Source: XDG Base Directory Specification; Apple's File System Programming Guide.
    """
    home = environ.get("HOME") or environ.get("USERPROFILE")
    if sys.platform == "darwin":
        base = home and f"{home}/Library/Application Support"
    else:
        base = environ.get("XDG_CONFIG_HOME") or (home and f"{home}/.config")
    return Path(base, "overnight", "config.toml") if base else None
