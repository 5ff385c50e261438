"""
What is in place and what is not: in, settings; out, findings, one a line, worst told by exit code.

Nothing is sent but one request for the newest transcript, which costs nothing; nothing is written
but an empty file in the output folder, which is removed again. The key is named by its
fingerprint only.
"""

import os
import platform
import sqlite3
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from itertools import chain
from urllib.parse import urlsplit

from jobs.budget import Budgets
from jobs.leaving import run_stoppable
from pipeline.client import system_proxy
from pipeline.engine import DEFAULT_MODEL, INSTALL, EngineUnavailable
from pipeline.engine.weights import packaged
from pipeline.errors import (
    BatchError,
    ExitCode,
    LedgerUnusable,
    OutputNotWritable,
    PipelineError,
    SettingsError,
    trouble,
)
from pipeline.ledger.mounts import mount_table, remote_file_system
from pipeline.lines import visible
from pipeline.settings import (
    Settings,
    exposed,
    key_fingerprint,
    odd_variables,
    require_key,
)
from pipeline.speech_models import AS_OF, SOURCE, outdated, remarks

__all__ = ["Finding", "examine"]

_PACKAGES = ("aiohttp", "anyio", "cyclopts", "msgspec", "pydantic", "rich", "structlog")

_REPAIRED_WAL = ((3, 44, 6), (3, 50, 7))
"""Versions in which the fault of 3.51.3 was repaired in an older line."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    subject: str
    text: str
    exit_code: ExitCode = ExitCode.DONE
    """What a run would end with because of it; `DONE` for what it can work with."""
    is_warning: bool = False
    """Whether it is not in order all the same."""

    def __str__(self) -> str:
        is_fine = self.exit_code is ExitCode.DONE and not self.is_warning
        mark = "ok" if is_fine else "!!"
        return visible(f"{mark}  {self.subject:<9} {self.text}")


def examine(
    settings: Settings,
    origins: Mapping[str, str],
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """
    Findings, quick ones first; the last asks the service, and waits as long as a run would.

    `clock` tells the time, Unix seconds.
    """
    yield from _versions()
    yield from _settings(settings, origins)
    yield from _models(settings, clock())
    for oddity in odd_variables(environ):
        yield Finding("variable", oddity, is_warning=True)
    yield from _places(settings)
    yield _engine(settings)
    yield from _network(settings)
    yield from _service(settings, environ)


def _versions() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    yield Finding("packages", ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES))
    version = sqlite3.sqlite_version_info
    # Source: https://sqlite.org/wal.html, "The WAL-Reset Bug".
    repaired = version >= (3, 51, 3) or any(
        version[:2] == fix[:2] and version >= fix for fix in _REPAIRED_WAL
    )
    fault = "" if repaired else ", whose WAL fault needs two writers; a ledger here has only one"
    yield Finding("sqlite", sqlite3.sqlite_version + fault)


def _settings(settings: Settings, origins: Mapping[str, str]) -> Iterator[Finding]:
    chosen = {name: origin for name, origin in origins.items() if origin != "default"}
    for name, origin in sorted(chosen.items()):
        key, _, entry = name.partition(".")
        value, field = getattr(settings, key), Settings.model_fields[key]
        if isinstance(value, Mapping) and entry:
            value = value.get(entry)
        elif entry:
            value, field = getattr(value, entry), type(value).model_fields[entry]
        # A command line, or a URL, can hold a secret of its own.
        shown = str(value) if field.repr else "(not shown)"
        yield Finding("setting", f"{name} = {shown}, from {origin}")
    yield Finding("setting", "all others have their defaults, which `overnight init` writes down")


def _models(settings: Settings, now: float) -> Iterator[Finding]:
    """How old the names and prices are that a run goes by, and what it asks for that has aged."""
    if settings.provider == "local":
        return
    if said := outdated(now):
        yield Finding("models", said, is_warning=True)
    else:
        yield Finding("models", f"names and prices are of {AS_OF} ({SOURCE})")
    sources = [settings.of_source(each) for each in settings.source] or [settings]
    for said in remarks(chain.from_iterable(each.asked_models for each in sources)):
        yield Finding("models", said, is_warning=True)


def _places(settings: Settings) -> Iterator[Finding]:
    if settings.output is None:
        yield Finding("output", "not chosen; a run needs `--output`")
    for name, folder in (("output", settings.output), ("state", settings.state)):
        if folder is None:
            continue
        # A run makes what is missing, so what counts is the folder that is there.
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                yield Finding(name, f"{folder} can be written")
        except OSError as error:
            text = f"{folder} cannot be written: {error.strerror}"
            yield Finding(name, text, OutputNotWritable.exit_code)
    yield from _rights(settings)
    ledger = settings.state or settings.output
    if ledger and (kind := remote_file_system(ledger, mount_table())):
        text = f"{ledger} is on a network file system ({kind}): keep the ledger on a local disk"
        yield Finding("state", f"{text} with `--state`", LedgerUnusable.exit_code)


def _rights(settings: Settings) -> Iterator[Finding]:
    """Where others than the owner can read who was recorded, and what was asked for."""
    if settings.output is None and settings.state is None:
        return
    state = settings.state_dir
    private = (stat.S_IMODE(os.stat(state).st_mode) & 0o077) == 0 if state.is_dir() else True
    if private:  # then nobody else reaches what is in it
        return
    for place in (state, state / "ledger.sqlite3"):
        with suppress(OSError):
            mode = stat.S_IMODE(place.stat().st_mode)
            if mode & 0o077:
                text = f"{place} has the mode {mode:04o}: others can read it; `chmod go=` helps"
                yield Finding("rights", text, is_warning=True)


def _engine(settings: Settings) -> Finding:
    missing = [name for name in ("faster_whisper", "ctranslate2", "av") if not find_spec(name)]
    try:
        if missing:
            raise EngineUnavailable(f"{', '.join(missing)} not installed: {INSTALL} brings it")
        if settings.engine_model != DEFAULT_MODEL:
            return Finding("engine", f"{settings.engine_model}, looked for when the engine starts")
        return Finding("engine", f"weights of whisper-{packaged()[0]} are here, and intact")
    except EngineUnavailable as error:
        if settings.provider == "local":
            return Finding("engine", str(error), ExitCode.USAGE)
        return Finding("engine", f"not usable, and not needed for {settings.provider}: {error}")


def _network(settings: Settings) -> Iterator[Finding]:
    if settings.base_url is None:
        return
    base_url = urlsplit(settings.base_url)
    try:
        proxy = urlsplit(system_proxy(settings.base_url) or "")
    except SettingsError as error:
        yield Finding("proxy", str(error), error.exit_code)
        return
    if proxy.hostname:
        # Without the user and password that the variable may hold.
        yield Finding("proxy", f"{proxy.scheme}://{proxy.hostname}:{proxy.port or ''}".rstrip(":"))
    if base_url.scheme == "https":
        paths = ssl.get_default_verify_paths()
        source = paths.cafile or paths.capath or "none found: set SSL_CERT_FILE"
        yield Finding("trust", f"certificates of {source}")


def _service(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    if settings.base_url is None:
        yield Finding("service", "the embedded engine, started by each run")
        return
    try:
        key = require_key(settings, environ)
    except BatchError as error:
        yield Finding("key", str(error).partition("\n")[0], error.exit_code)
        return
    yield Finding("key", f"fingerprint {key_fingerprint(key)}")
    if warning := exposed(settings):
        yield Finding("key", warning, is_warning=True)
    try:
        run_stoppable(partial(_newest, settings, settings.base_url, key))
    except BatchError as error:
        yield Finding("service", f"{settings.base_url}: {error}", error.exit_code)
    except PipelineError as error:
        yield Finding(
            "service", f"{settings.base_url} {trouble(error)}: {error}", ExitCode.TRY_LATER
        )
    else:
        yield Finding("service", f"{settings.base_url} answers and takes the key")


async def _newest(settings: Settings, base_url: str, key: str) -> None:
    async with Budgets().client(settings, base_url, key) as client:
        await client.list(limit=1)
