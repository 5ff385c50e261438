"""
Whom a run tells of its start and its end: the table `[hooks]`.

In go texts, as files and variables spell them; out comes one frozen `Hooks`, of commands and URLs
that are well formed. They hold secrets, so neither a repr nor what is said about a wrong one shows
any.
"""

import json
import re
import shlex
from typing import Annotated
from urllib.parse import urlunsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from pipeline.settings.grammar import nearest, parse_duration, parse_texts, parse_url

__all__ = ["HOOK_VARIABLES", "Heartbeat", "Hooks", "is_url"]

HOOK_VARIABLES = ("OVERNIGHT_RUN_ID", "OVERNIGHT_EXIT_CODE", "OVERNIGHT_REPORT")
"""What the command of a hook finds in its environment. They are no settings, though they begin like
those: a hook may well call this program."""


def is_url(told: str) -> bool:
    """Whether a hook is a URL; any other is a command."""
    return re.match(r"[a-z][a-z0-9+.-]*://", told, re.IGNORECASE) is not None


def _told(value: str) -> str:
    text = value.strip()
    if is_url(text):
        parse_url(text)
        return text
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError("not a command: a quote or a `\\` has no end") from None
    if not words:
        raise ValueError("neither a command nor a URL, but empty")
    return text


def _told_all(value: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(_told, value))


def _url(value: str) -> str:
    parse_url(value)
    return value.strip()


def _by_convention(value: object) -> object:
    """One URL is that of a success; what is added to its path makes the other two."""
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError("not JSON") from None
    if isinstance(value, dict):
        for name in value.keys() - Heartbeat.model_fields:
            raise ValueError(f"it has no `{name}`{nearest(name, Heartbeat.model_fields)}")
    if not isinstance(value, str):
        return value
    url = parse_url(value)
    start, fail = (
        urlunsplit(url._replace(path=url.path.rstrip("/") + end)) for end in ("/start", "/fail")
    )
    return {"start": start, "ok": value, "fail": fail}


_Told = Annotated[
    tuple[str, ...], AfterValidator(_told_all), BeforeValidator(parse_texts), Field(repr=False)
]
_Url = Annotated[str, AfterValidator(_url)]


class Heartbeat(BaseModel):
    """What a monitor is asked for, which gives alarm when nobody does."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    start: Annotated[_Url | None, Field(repr=False)] = None
    """URL for when a run begins."""
    ok: Annotated[_Url | None, Field(repr=False)] = None
    """URL for when it has ended as it should."""
    fail: Annotated[_Url | None, Field(repr=False)] = None
    """URL for when it has not."""


class Hooks(BaseModel):
    """Commands that are run and URLs that are posted to, as a run begins and ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    on_start: _Told = ()
    """When a run begins."""
    on_success: _Told = ()
    """When it has ended as it should: with exit code 0, or with 8 or 10, which were planned."""
    on_failure: _Told = ()
    """When it has ended otherwise. `hooks = "…"` is short for this one: who hears of every night
    soon listens to none."""
    on_finish: _Told = ()
    """When it has ended, either way."""
    heartbeat: Annotated[Heartbeat, BeforeValidator(_by_convention), Field(repr=False)] = (
        Heartbeat()
    )
    """URL of a monitor that gives alarm when no run reports: asked for with `/start` added to its
    path, as it is, and with `/fail`. A table of `start`, `ok` and `fail` is for monitors with other
    ways. Source: https://healthchecks.io/docs/http_api/ and
    https://healthchecks.io/docs/signaling_failures/"""
    run: bool | None = None
    """Whether `overnight run` tells them as well. If not set: where stderr is no terminal, so that
    nobody watches it; never of `--dry-run` and `--sample`."""
    timeout: Annotated[float, BeforeValidator(parse_duration), Field(gt=0)] = 30.0
    """Seconds that each of them may take."""
