"""
Every setting with its unit, default and reason, and where its value comes from.

    flags  >  OVERNIGHT_<KEY>  >  --config FILE or ./overnight.toml  >  user config  >  default

In go flags, variables and TOML files; out comes one frozen `Settings`, or one `SettingsError`
that names everything wrong with them. Attribute names are the keys of the TOML file; a table's
keys follow two underscores in a variable (`OVERNIGHT_TIMEOUTS__STALL=90s`). Constructing
`Settings(...)` directly reads neither environment nor files.

    load_settings(flags, config=, environ=)  ->  Settings
    origins(flags, config=, environ=)        ->  {"poll_interval": "./overnight.toml", …}
    require_key(settings, environ)           ->  the API key, or KeyRefused
"""

import difflib
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from pipeline.errors import KeyRefused, SettingsError
from pipeline.options import OptionError, Problem, check_options, merge, parse_assignment

__all__ = [
    "FORMATS",
    "PRICES",
    "PROVIDERS",
    "Rate",
    "Rule",
    "Settings",
    "Timeouts",
    "glob_pattern",
    "key_fingerprint",
    "load_settings",
    "nearest",
    "origins",
    "parse_duration",
    "parse_size",
    "read_api_key",
    "require_key",
]

FORMATS = ("json", "txt", "srt", "vtt", "md", "tsv")
"""What a result can be saved as; `json` always is."""

PROVIDERS = {
    "assemblyai": "https://api.assemblyai.com",
    "assemblyai-eu": "https://api.eu.assemblyai.com",
}
"""The vendor's own hosts by name. Source: AssemblyAI docs, "Select the region"."""

PRICES = {"universal-3-5-pro": 0.21, "universal-3-pro": 0.21, "universal-2": 0.15}
"""USD per hour of audio by `speech_model_used`. Source: AssemblyAI docs, "Models"."""

API_KEY_COMMAND_TIMEOUT_S = 60.0
"""A password manager may ask its user first."""

_PREFIX = "OVERNIGHT_"
_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS_BYTES = {
    "": 1,
    **{
        letter + ending: base**power
        for power, letter in enumerate("kmgt", start=1)
        for ending, base in (("", 1000), ("b", 1000), ("ib", 1024))
    },
    "b": 1,
}


def parse_duration(value: str | float) -> float:
    """
    Seconds, 0 or more, from `500ms`, `3s`, `5m`, `1h30m`, `2d` or a number of seconds.

    Raises:
        ValueError: it is none of these, negative, or not finite.
    """
    wrong = "not a duration; write `90s`, `1h30m` or a number of seconds"
    if isinstance(value, str):
        text = value.strip()
        parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
        if parts and "".join(number + unit for number, unit in parts) == text:
            seconds = math.fsum(float(number) * _UNITS_S[unit] for number, unit in parts)
        elif re.fullmatch(r"\d+(\.\d+)?", text):
            seconds = float(text)
        else:
            raise ValueError(wrong)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(wrong)
    else:
        seconds = float(value)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError("a duration is 0 s or more, and finite")
    return seconds


def parse_size(value: str | float) -> int:
    """
    Bytes, 0 or more, from `500k`, `10MB` (1000), `1GiB` (1024) or a number of bytes.

    Raises:
        ValueError: it is none of these, negative, or not finite.
    """
    wrong = "not a size; write `10MB`, `256KiB` or a number of bytes"
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+)(\.\d+)?\s*([a-z]*)", value.strip().lower())
        if not found or found[3] not in _UNITS_BYTES:
            raise ValueError(wrong)
        # Whole numbers stay exact where a float would round, above 2**53.
        number = float(found[1] + found[2]) if found[2] else int(found[1])
        size = number * _UNITS_BYTES[found[3]]
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(wrong)
    else:
        size = value
    if not (math.isfinite(size) and size >= 0):
        raise ValueError("a size is 0 bytes or more, and finite")
    return int(size)


@dataclass(frozen=True, slots=True)
class Rate:
    """So many requests in any window of so many seconds."""

    count: int
    """Requests, 1 or more."""
    window_s: float
    """Seconds, more than 0."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        The rate written as `N/DURATION`, for example `20000/300s` or `20000/5m`.

        Raises:
            ValueError: it is not written so, or a part of it is 0.
        """
        count, slash, window = text.partition("/")
        if not (slash and count.strip().isdecimal()):
            raise ValueError("not a rate; write requests/duration, for example `20000/300s`")
        made = cls(int(count), parse_duration(window))
        if made.count < 1 or made.window_s <= 0:
            raise ValueError("a rate is at least one request in more than 0 s")
        return made

    def __str__(self) -> str:
        return f"{self.count}/{self.window_s:g}s"


def glob_pattern(glob: str) -> re.Pattern[str]:
    """
    What matches, whole, a path relative to its root with `/` between its parts.

    `*`, `?`, `[abc]` and `[!abc]` stay within one part, `**` is any number of parts. A glob
    without `/` is for the name alone, in whatever folder it lies.

    Raises:
        ValueError: a range in brackets runs backwards.
    """
    made = ""
    *folders, name = glob.split("/") if "/" in glob else ("**", glob)
    for folder in folders:
        made += "(?:[^/]+/)*" if folder == "**" else _part_pattern(folder) + "/"
    made += ".+" if name == "**" else _part_pattern(name)
    try:
        return re.compile(made, re.DOTALL)
    except re.error as error:
        raise ValueError(f"`{glob}` is no glob: {error.msg}") from None


def _part_pattern(part: str) -> str:
    made = ""
    for token in re.findall(r"\[(?:!.|[^!])[^\]]*\]|\*+|.", part, re.DOTALL):
        if token[0] == "*":
            made += "[^/]*"
        elif token == "?":
            made += "[^/]"
        elif len(token) == 1:
            made += re.escape(token)
        else:
            negated = token[1] == "!"
            members = token[1 + negated : -1]
            made += f"[{'^/' if negated else ''}{re.escape(members)}]".replace(r"\-", "-")
    return made


def nearest(name: str, known: Iterable[str]) -> str:
    """Words for the end of an error: the known name that is most like `name`, or nothing."""
    names = list(known)
    begun = [whole for whole in names if name and whole.startswith(name)]
    alike = begun or difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return f"; did you mean `{alike[0]}`?" if alike else ""


def _json_text(value: object) -> object:
    """A list or table that came as the text of one variable."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("not JSON") from None


def _texts(value: object) -> object:
    """One or many; a variable holds one, or a JSON list."""
    if isinstance(value, str) and value.startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return (value,)
    return (value,) if isinstance(value, str) else value


def _formats(value: Sequence[str]) -> tuple[str, ...]:
    """Known formats, each once, `json` first: from names and comma lists of names."""
    names = {name.strip().lower() for text in value for name in text.split(",") if name.strip()}
    for name in sorted(names - {*FORMATS, "all"}):
        raise ValueError(
            f"`{name}` is no format{nearest(name, FORMATS)} They are {', '.join(FORMATS)}"
        )
    return FORMATS if "all" in names else tuple(f for f in FORMATS if f in {"json", *names})


def _provider(value: str) -> str:
    """A name of ours, or a base URL without its trailing `/` and `/v2`."""
    text = value.strip()
    if text in PROVIDERS or text == "local":
        return text
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname:
        names = [*PROVIDERS, "local"]
        raise ValueError(
            f"unknown provider{nearest(text, names)} "
            f"It is one of {', '.join(names)}, or a URL that begins with http:// or https://"
        )
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("a base URL has no user, password, `?` or `#`")
    base = f"{url.scheme}://{url.netloc}{url.path}".rstrip("/").removesuffix("/v2").rstrip("/")
    # The vendor's own address is the vendor, so that naming it does not pay for an archive anew.
    return next((name for name, known in PROVIDERS.items() if base == known), base)


def _rate(value: object) -> object:
    return Rate.parse(value) if isinstance(value, str) else value


def _settle(value: object) -> object:
    return None if value is None or value == "never" else value


def _globs(value: tuple[str, ...]) -> tuple[str, ...]:
    for glob in value:
        glob_pattern(glob)
    return value


Seconds = Annotated[float, BeforeValidator(parse_duration)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
HomePath = Annotated[Path, AfterValidator(Path.expanduser)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]
Globs = Annotated[Texts, AfterValidator(_globs)]


@dataclass(frozen=True)
class Rule:
    """Options for the recordings whose path matches: one `[[rules]]` table."""

    match: str
    """A glob, as `glob_pattern` takes it."""
    options: Mapping[str, Any]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The glob, compiled."""
        return glob_pattern(self.match)


def _rules(value: object) -> object:
    made = []
    for table in value if isinstance(value, list | tuple) else [value]:
        if isinstance(table, Rule):
            made.append(table)
        elif isinstance(table, dict) and isinstance(table.get("match"), str):
            options = {key: value for key, value in table.items() if key != "match"}
            glob_pattern(table["match"])
            made.append(Rule(table["match"], options))
        else:
            raise ValueError('a rule is a table with `match = "glob"` and options')
    return tuple(made)


class Timeouts(BaseModel):
    """How long each wait may take: seconds. A whole upload has no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    connect: Annotated[Seconds, Field(gt=0)] = 30.0
    """Seconds until a connection stands, TLS included; slow proxies need most of it."""
    stall: Annotated[Seconds, Field(gt=0)] = 60.0
    """Seconds without a byte moving before a transfer is given up and tried again."""
    answer: Annotated[Seconds, Field(gt=0)] = 120.0
    """Seconds from the end of a request to its answer. Short, and a slow answer to a submit
    becomes an ambiguous one."""


class Settings(BaseSettings):
    """What a run is told; every attribute is a key of the TOML file."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    output: HomePath | None = None
    """Folder for the results. Has no default: results cost money, their place is chosen."""
    state: HomePath | None = None
    """Folder for ledger, lock and runs; `.overnight` in the output folder if not set. On a local
    disk, since the ledger needs shared memory."""
    provider: Annotated[str, AfterValidator(_provider)] = "assemblyai"
    """`assemblyai`, `assemblyai-eu`, `local` (the embedded engine), or the base URL of a server
    that speaks the same protocol. `ASSEMBLYAI_BASE_URL` counts when nothing else says."""
    api_key_file: HomePath | None = None
    """File that holds the API key, before `ASSEMBLYAI_API_KEY`."""
    api_key_command: Annotated[str | None, Field(repr=False)] = None
    """Command that prints the API key, run without a shell, before `ASSEMBLYAI_API_KEY`."""
    formats: Annotated[Texts, AfterValidator(_formats)] = ("json",)
    """What to save: names, comma lists, or `all`. `json` always is, the others are made from it
    on this machine and can be added later at no cost."""
    transcript: Annotated[dict[str, Any], BeforeValidator(_json_text)] = {}
    """Options of the transcription request, by the service's own names."""
    rules: Annotated[tuple[Rule, ...], BeforeValidator(_rules), BeforeValidator(_json_text)] = ()
    """Options by path: `match` is a glob, every other key an option. Later rules win."""

    include: Globs = ()
    """Globs of files to take besides those with a media suffix."""
    exclude: Globs = ()
    """Globs of files to leave out; wins over `include`."""
    files_from: str | None = None
    """File that lists the recordings to take, `-` for stdin; separated by newline or NUL."""
    follow_links: bool = False
    """Whether symbolic links are followed. Off, since a link can lead anywhere."""
    min_age: Seconds | None = None
    """Seconds since the last change of a file, at least: younger ones may still be written."""
    max_age: Seconds | None = None
    """Seconds since the last change of a file, at most."""
    min_size: Bytes | None = None
    """Bytes, at least."""
    max_size: Bytes | None = None
    """Bytes, at most."""
    limit: Annotated[int, Field(ge=0)] | None = None
    """New recordings taken in by one run, at most; 0 only collects what is under way."""

    concurrency: Annotated[int, Field(ge=1)] = 200
    """Transcripts that the account works on at once. Source: AssemblyAI docs, "Concurrency": 200
    for paid accounts, 5 for free ones."""
    uploads: Annotated[int, Field(ge=1, le=64)] = 8
    """Uploads at once. More fill no line, and each costs memory and event loop time."""
    upload_chunk: Annotated[Bytes, Field(ge=64 * 1024, le=4 * 1024 * 1024)] = 256 * 1024
    """Bytes read and sent at a time. Larger chunks are no faster under TLS and stall the loop."""
    requests: Annotated[Rate, BeforeValidator(_rate)] = Rate(20_000, 300.0)
    """Requests that the account may send. Source: AssemblyAI docs, "Concurrency": 20,000 in any
    5 minutes."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Our part of `requests`, more than 0 up to 1; the rest is for others on the account."""
    ramp: bool | None = None
    """Whether submissions start slowly. If not set: at the vendor's own hosts only."""
    poll_interval: Annotated[Seconds, Field(gt=0)] = 3.0
    """Seconds between two looks at what the service has finished."""
    settle: Annotated[Seconds | None, BeforeValidator(_settle)] = 120.0
    """Seconds after which a transcript whose answer was lost shows in the service's list, if it
    was accepted; `never` leaves it for the user to decide."""
    timeouts: Timeouts = Timeouts()
    """How long each wait may take."""
    stop_grace: Seconds = 10.0
    """Seconds that a stopped run takes to note what is under way, at most."""
    max_answer: Annotated[Bytes, Field(ge=1024)] = 256_000_000
    """Bytes of one answer, at most. Ten hours of speech come to about 20 MB."""

    dry_run: bool = False
    """Say what would be done, send nothing."""
    force: bool = False
    """Ask for every recording anew, also for those written: pays again."""
    redo_changed: bool = False
    """Ask anew for what was written with other options or by another provider: pays again."""
    retry_failed: bool = False
    """Try again what failed in earlier runs; nothing of it was paid."""
    checksum: bool = False
    """Read every recording to see if it changed, instead of going by size and times."""
    wait_lock: bool = False
    """Wait for the run that holds the state folder, instead of leaving at once."""

    engine_model: str = "base"
    """Speech model of the embedded engine: a name or folder that faster-whisper knows."""
    prices: Annotated[
        dict[str, Annotated[float, Field(ge=0)]],
        AfterValidator(lambda given: PRICES | given),
        BeforeValidator(_json_text),
    ] = PRICES
    """USD per hour of audio by model, for estimates; what is named here adds to the defaults."""

    json_lines: bool = False
    """Write one JSON object a line to stdout (`--json`) instead of the summary."""
    quiet: bool = False
    """No progress and no summary, only what went wrong."""
    verbose: Annotated[int, Field(ge=0, le=2)] = 0
    """How much the log tells: 0 warnings, 1 what happens, 2 everything."""
    log_file: HomePath | None = None
    """File to append the log to, as JSON lines."""

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: Any, *_: Any, **__: Any
    ) -> tuple[Any, ...]:
        """Only what is passed in: `load_settings` asks the other sources, and says which won."""
        return (init_settings,)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for unit in ("age", "size"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise ValueError(f"`min_{unit}` is above `max_{unit}`: nothing would be taken")
        if self.api_key_file and self.api_key_command:
            raise ValueError("`api_key_file` and `api_key_command` exclude each other")
        return self

    @property
    def state_dir(self) -> Path:
        """
        Where ledger, lock and runs are.

        Raises:
            SettingsError: neither `state` nor `output` is set.
        """
        if self.state is not None:
            return self.state
        if self.output is not None:
            return self.output / ".overnight"
        raise SettingsError("where are the results? Name their folder with `--output`")

    @property
    def provider_kind(self) -> str:
        """What of the provider is part of a request's identity: `assemblyai local custom`."""
        if self.provider in PROVIDERS:
            return "assemblyai"
        return "local" if self.provider == "local" else "custom"

    @property
    def base_url(self) -> str | None:
        """Where requests go, without a trailing `/`; None for `local`, whose port is free yet."""
        return None if self.provider == "local" else PROVIDERS.get(self.provider, self.provider)

    @property
    def in_flight(self) -> int:
        """
        Transcripts at the service at once, those it has queued included.

        A quarter more than it works on: a client that holds exactly that many leaves slots idle
        for as long as it takes to notice that one is free.
        """
        return math.ceil(1.25 * self.concurrency)

    @property
    def ramps(self) -> bool:
        """Whether submissions start slowly in this run."""
        return self.provider_kind == "assemblyai" if self.ramp is None else self.ramp

    def options_for(self, path: str) -> dict[str, Any]:
        """The options that the user set for the recording at `path`, relative to its root."""
        options = dict(self.transcript)
        for rule in self.rules:
            if rule.pattern.fullmatch(path):
                options = merge(options, rule.options)
        return options


class _Environment(EnvSettingsSource):
    """The `OVERNIGHT_` variables of a given environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(Settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): text for name, text in self._environ.items() if text}


class _Layer(NamedTuple):
    """What one source says."""

    values: dict[str, Any]
    spelled: Callable[[str], str]
    """How the user writes a key there, or which file says it."""


def load_settings(
    flags: Mapping[str, object],
    *,
    config: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    cwd: Path | None = None,
) -> Settings:
    """
    The settings of a run.

    Args:
        flags: keys and values from the command line, None for what was not given; `set` holds
            the texts of `--set KEY=VALUE`, later ones win.
        config: a settings file instead of ./overnight.toml; it has to exist.
        environ: the variables to look at.
        cwd: where ./overnight.toml is looked for.

    Raises:
        SettingsError: anything is unknown or out of range, or `config` cannot be read; its
            message names all of it, each with the place it came from.
    """
    values, origin_of, problems = _gather(flags, config, environ, cwd or Path())
    settings = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        for found in error.errors(include_url=False, include_input=False, include_context=False):
            key = ".".join(str(part) for part in found["loc"][:2])
            origin = origin_of.get(key) or origin_of.get(key.partition(".")[0])
            where = f"`{key}` from {origin}: " if origin else f"`{key}`: " if key else ""
            problems.append(where + found["msg"].removeprefix("Value error, "))
    if settings is not None:
        problems += _unfit_options(settings, origin_of)
    if settings is None or problems:
        raise SettingsError(
            problems[0]
            if len(problems) == 1
            else "\n  ".join([f"{len(problems)} settings are wrong", *problems])
        )
    return settings


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


_FLAGS = {"formats": "--format", "json_lines": "--json", "verbose": "-v"}
"""Flags that are not called as their key is."""

_TABLES = ("transcript", "timeouts", "prices")
"""Merged key by key; every other value of a stronger source replaces the weaker one."""

_RIVALS = {"api_key_file": "api_key_command", "api_key_command": "api_key_file"}
"""Two ways to say one thing: the stronger source silences the weaker one's other way too."""


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
            if key in _TABLES and isinstance(value, dict):
                weaker = values.get(key)
                values[key] = merge(weaker if isinstance(weaker, dict) else {}, value)
                origin_of |= {f"{key}.{name}": layer.spelled(f"{key}.{name}") for name in value}
            else:
                values[key] = value
                origin_of[key] = layer.spelled(key)
            if _RIVALS.get(key) in values.keys() - layer.values.keys():
                del values[_RIVALS[key]], origin_of[_RIVALS[key]]
    timeouts = values.get("timeouts")
    for name in (
        sorted(timeouts.keys() - Timeouts.model_fields) if isinstance(timeouts, dict) else ()
    ):
        del values["timeouts"][name]
        origin = origin_of.pop(f"timeouts.{name}")
        known = [f"timeouts.{field}" for field in Timeouts.model_fields]
        problems.append(_unknown(f"timeouts.{name}", origin, known))
    return values, origin_of, problems


def _unknown(key: str, origin: str, known: Iterable[str]) -> str:
    return f"`{key}` from {origin} is not a setting{nearest(key, known)}"


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
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except ValueError as error:  # not TOML, or not UTF-8
            problems.append(f"{path} is not TOML: {error}")
        else:
            layers.append(_Layer(values, partial(_in_file, path)))

    layers.append(_Layer(_variables(environ), _as_variable))
    for name in sorted(environ):
        key = name.upper().removeprefix(_PREFIX).partition("__")[0].lower()
        if name.upper().startswith(_PREFIX) and key not in Settings.model_fields:
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
    return _FLAGS.get(key, "--" + key.replace("_", "-"))


def _variables(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the `OVERNIGHT_` variables say: text, but for options what `--set` makes of it."""
    values = _Environment(environ)()
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


def read_api_key(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """
    The API key: from `api_key_file` or `api_key_command`, else `ASSEMBLYAI_API_KEY`, else None.

    Blocks for as long as the command asks its user, a minute at most: call it in a thread.

    Raises:
        SettingsError: the file or command gives none, or what was given cannot be a key. The
            message never holds what was given.
    """
    if settings.api_key_file is not None:
        source = f"`api_key_file` {settings.api_key_file}"
        try:
            text = settings.api_key_file.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"{source} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError:
            raise SettingsError(f"{source} is not text") from None
    elif settings.api_key_command is not None:
        source = "`api_key_command`"
        text = _output_of(settings.api_key_command, environ)
    else:
        source = "`ASSEMBLYAI_API_KEY`"
        text = environ.get("ASSEMBLYAI_API_KEY", "")
        if not text.strip():
            return None
    key = text.strip()
    # What a header cannot carry would fail much later, with the key in the message.
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{source} gives {'no key' if not key else 'more than one key'}")
    return key


def _output_of(command: str, environ: Mapping[str, str]) -> str:
    # Not shown in any message: a command line can hold a secret of its own.
    try:
        argv = shlex.split(command)
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={name: text for name, text in environ.items() if name != "ASSEMBLYAI_API_KEY"},
            timeout=API_KEY_COMMAND_TIMEOUT_S,
            check=False,
        )
        text = done.stdout.decode("ascii")
    except subprocess.TimeoutExpired:
        raise SettingsError(
            f"`api_key_command` said nothing for {API_KEY_COMMAND_TIMEOUT_S:g} s"
        ) from None
    except (OSError, IndexError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no command, or not text"
        raise SettingsError(f"`api_key_command` cannot be run: {reason}") from None
    if done.returncode:
        raise SettingsError(f"`api_key_command` ended with exit code {done.returncode}")
    return text


def require_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """
    The API key, without which a service cannot be asked. Blocks as `read_api_key` does.

    Raises:
        KeyRefused: there is none; the message says how to give one, or do without.
        SettingsError: as `read_api_key`.
    """
    key = read_api_key(settings, environ)
    if key is None:
        raise KeyRefused(
            "no API key: set `ASSEMBLYAI_API_KEY`, or name a file with `--api-key-file`\n"
            "hint: `--provider local` needs none and transcribes on this machine"
        )
    return key


def key_fingerprint(key: str) -> str:
    """What tells keys apart in ledger and reports and leads back to none: 12 hex digits."""
    return sha256(key.encode()).hexdigest()[:12]


def _unfit_options(settings: Settings, origin_of: Mapping[str, str]) -> list[str]:
    """What the service would refuse: in the options for all, and in those of each rule."""
    problems = []
    for problem in _option_problems(settings.transcript):
        origin = origin_of.get(f"transcript.{problem.key.partition('.')[0]}", "")
        problems.append(f"{problem.message}{origin and f' (from {origin})'}")
    for rule in settings.rules:
        for problem in _option_problems(merge(settings.transcript, rule.options)):
            if problem not in _option_problems(settings.transcript):
                problems.append(f"{problem.message} (in the rule for `{rule.match}`)")
    return problems


def _option_problems(options: Mapping[str, object]) -> Sequence[Problem]:
    try:
        check_options(options)
    except OptionError as error:
        return error.problems
    return ()
