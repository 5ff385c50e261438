"""
What is in place and what is not: in, settings; out, what was looked at, each with what it means.

Nothing is sent to the service but one request for the newest transcript, which costs nothing, and
to those whom hooks name not a byte; nothing is written but a copy of the ledger in the folder for
temporary files. The key is named by its fingerprint only.
"""

import platform
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from itertools import chain
from urllib.parse import urlsplit

from jobs.budget import Budgets
from jobs.checks import Check
from jobs.leaving import run_stoppable
from jobs.reach import reach_commands, reach_urls
from jobs.readiness import readiness
from jobs.timer import installations
from pipeline.client import system_proxy
from pipeline.engine import DEFAULT_MODEL, INSTALL, EngineUnavailable
from pipeline.engine.weights import packaged
from pipeline.errors import BatchError, ExitCode, PipelineError, SettingsError, trouble
from pipeline.settings import (
    Settings,
    exposed,
    key_fingerprint,
    odd_variables,
    require_key,
    spelled,
    spelled_key,
)
from pipeline.speech_models import AS_OF, SOURCE, outdated, remarks

__all__ = ["examine"]

_PACKAGES = ("aiohttp", "anyio", "cyclopts", "msgspec", "pydantic", "rich", "structlog")

_REPAIRED_WAL = ((3, 44, 6), (3, 50, 7))
"""Versions in which the fault of 3.51.3 was repaired in an older line."""


def examine(
    settings: Settings,
    origins: Mapping[str, str],
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> Iterator[Check]:
    """
    What was looked at, quick things first; the last asks the service, and waits as a run would.

    `clock` tells the time, Unix seconds.
    """
    yield from _versions()
    yield from _settings(settings, origins)
    yield from _models(settings, clock())
    for oddity in odd_variables(environ):
        yield Check("variable", oddity, is_warning=True)
    yield from readiness(settings, environ, clock())
    yield _engine(settings)
    yield _media(settings)
    yield from _timers(settings, environ)
    yield from _hooks(settings, environ)
    yield from _network(settings)
    yield from _service(settings, environ)


def _versions() -> Iterator[Check]:
    yield Check("python", f"{platform.python_version()} on {platform.platform()}")
    yield Check("packages", ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES))
    version = sqlite3.sqlite_version_info
    # Source: https://sqlite.org/wal.html, "The WAL-Reset Bug".
    repaired = version >= (3, 51, 3) or any(
        version[:2] == fix[:2] and version >= fix for fix in _REPAIRED_WAL
    )
    fault = "" if repaired else ", whose WAL fault needs two writers; a ledger here has only one"
    yield Check("sqlite", sqlite3.sqlite_version + fault)


def _settings(settings: Settings, origins: Mapping[str, str]) -> Iterator[Check]:
    chosen = {name: origin for name, origin in origins.items() if origin != "default"}
    for name, origin in sorted(chosen.items()):
        key, _, entry = name.partition(".")
        value, field = getattr(settings, key), Settings.model_fields[key]
        if isinstance(value, Mapping) and entry:
            value = value.get(entry)
        elif entry:
            value, field = getattr(value, entry), type(value).model_fields[entry]
        # A command line, or a URL, can hold a secret of its own.
        if not field.repr:
            yield Check("setting", f"# {name} is set, and not shown  # {origin}")
            continue
        key = ".".join(map(spelled_key, filter(None, (key, entry))))
        # What is text in a file, and None here, is `never`.
        shown = spelled("never" if value is None else value)
        yield Check("setting", f"{key} = {shown}  # {origin}")
    yield Check("setting", "all others have their defaults, which `overnight init` writes down")


def _models(settings: Settings, now: float) -> Iterator[Check]:
    """How old the names and prices are that a run goes by, and what it asks for that has aged."""
    if settings.provider == "local":
        return
    if said := outdated(now):
        yield Check("models", said, is_warning=True)
    else:
        yield Check("models", f"names and prices are of {AS_OF} ({SOURCE})")
    sources = [settings.of_source(each) for each in settings.source] or [settings]
    for said in remarks(chain.from_iterable(each.asked_models for each in sources)):
        yield Check("models", said, is_warning=True)


def _engine(settings: Settings) -> Check:
    missing = [name for name in ("faster_whisper", "ctranslate2", "av") if not find_spec(name)]
    try:
        if missing:
            raise EngineUnavailable(f"{', '.join(missing)} not installed: {INSTALL} brings it")
        if settings.engine_model != DEFAULT_MODEL:
            return Check("engine", f"{settings.engine_model}, looked for when the engine starts")
        return Check("engine", f"weights of whisper-{packaged()[0]} are here, and intact")
    except EngineUnavailable as error:
        if settings.provider == "local":
            return Check("engine", str(error), ExitCode.USAGE)
        return Check("engine", f"not usable, and not needed for {settings.provider}: {error}")


def _media(settings: Settings) -> Check:
    """Whether the lengths of most recordings can be read, by which caps count."""
    if find_spec("av"):
        return Check("media", "lengths of recordings are read by PyAV")
    what = "PyAV is not installed: recordings whose length is not known count by their size"
    if not settings.is_capped:
        return Check("media", what)
    helps = "`pip install '.[media]'` in a checkout of overnight brings it"
    return Check("media", f"{what}, to the caps as well; {helps}", is_warning=True)


def _timers(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    try:
        found = installations(environ, time_zone=settings.time_zone)
    except SettingsError as error:
        yield Check("timer", str(error), is_warning=True)
        return
    if not found:
        what = "none of systemd or launchd: `overnight nightly install` makes one"
        yield Check("timer", f"{what}; cron and others are not asked")
    for name, what, is_amiss in found:
        yield Check("timer", f"{name}: {what}", is_warning=is_amiss)


def _hooks(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    """Whether all can be told; what is amiss with them is no end of a run."""
    hooks = settings.hooks
    found = [*reach_commands(hooks, environ), *run_stoppable(partial(reach_urls, hooks))]
    if not found:
        yield Check("hooks", "none: nobody is told how a night went; see `[hooks]`")
    for each in found:
        yield Check("hooks", f"{each.name.rstrip(',')}: {each.what}", is_warning=each.is_amiss)


def _network(settings: Settings) -> Iterator[Check]:
    if settings.base_url is None:
        return
    base_url = urlsplit(settings.base_url)
    try:
        proxy = urlsplit(system_proxy(settings.base_url) or "")
    except SettingsError as error:
        yield Check("proxy", str(error), error.exit_code)
        return
    if proxy.hostname:
        # Without the user and password that the variable may hold.
        yield Check("proxy", f"{proxy.scheme}://{proxy.hostname}:{proxy.port or ''}".rstrip(":"))
    if base_url.scheme == "https":
        paths = ssl.get_default_verify_paths()
        source = paths.cafile or paths.capath or "none found: set SSL_CERT_FILE"
        yield Check("trust", f"certificates of {source}")


def _service(settings: Settings, environ: Mapping[str, str]) -> Iterator[Check]:
    if settings.base_url is None:
        yield Check("service", "the embedded engine, started by each run")
        return
    try:
        key = require_key(settings, environ)
    except BatchError as error:
        yield Check("key", str(error).partition("\n")[0], error.exit_code)
        return
    yield Check("key", f"fingerprint {key_fingerprint(key)}")
    if warning := exposed(settings):
        yield Check("key", warning, is_warning=True)
    try:
        run_stoppable(partial(_newest, settings, settings.base_url, key))
    except BatchError as error:
        yield Check("service", f"{settings.base_url}: {error}", error.exit_code)
    except PipelineError as error:
        yield Check("service", f"{settings.base_url} {trouble(error)}: {error}", ExitCode.TRY_LATER)
    else:
        yield Check("service", f"{settings.base_url} answers and takes the key")


async def _newest(settings: Settings, base_url: str, key: str) -> None:
    async with Budgets().client(settings, base_url, key) as client:
        await client.list(limit=1)
