"""
Whether those whom a run tells could be told: in, hooks; out, what is amiss. Nobody is told.

    URL      its name, a connection, TLS, by way of the proxy; not a byte of a request, since that
             would be an alarm, or a sign of life
    command  whether there is such a program, what its first line asks for, what its shell knows

What is said of a URL is no more than the host, of a command no more than which of the hooks it is:
both hold secrets.
"""

import os
import re
import shlex
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import which
from socket import gaierror
from urllib.parse import SplitResult, unquote, urlsplit

import aiohttp
import anyio
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from jobs.leaving import answered
from jobs.notify import Hook, Moment, named
from pipeline.client import system_proxy
from pipeline.errors import SettingsError
from pipeline.settings import HOOK_VARIABLES, Hooks, is_url

__all__ = ["Reach", "reach_commands", "reach_urls"]

_PORTS = {"http": 80, "https": 443}
_HEAD_BYTES = 64 * 1024
_FIRST_LINE_BYTES = 256
_SHELLS = ("sh", "ash", "bash", "dash", "ksh", "zsh")
_OF_A_SHELL = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "&>"})


@dataclass(frozen=True, slots=True)
class Reach:
    """One of those that a run tells."""

    name: str
    what: str
    """How it stands with it."""
    is_amiss: bool


class _NotReached(Exception):
    """Why not, in words."""


# --- URLs -----------------------------------------------------------------------------------------


async def reach_urls(hooks: Hooks) -> list[Reach]:
    """Each server that is told, side by side, within `hooks.timeout`; never raises."""
    servers = {
        (url.scheme, url.hostname, url.port): (hook, url)
        for hook in _each(hooks)
        if is_url(hook.told)
        for url in [urlsplit(hook.told)]
    }
    found: dict[str, Reach] = {}

    async def look(hook: Hook, url: SplitResult) -> None:
        how = "its name, a connection and TLS" if url.scheme == "https" else "a connection"
        what = f"{how} can be had; nothing was asked"
        try:
            with anyio.fail_after(hooks.timeout):
                await _connect(url)
        except _NotReached as error:
            found[hook.name] = Reach(hook.name, str(error), is_amiss=True)
        except TimeoutError:
            what = f"gave no answer in {hooks.timeout:g} s; see whether it is up"
            found[hook.name] = Reach(hook.name, what, is_amiss=True)
        else:
            found[hook.name] = Reach(hook.name, what, is_amiss=False)

    async with anyio.create_task_group() as group:
        for hook, url in servers.values():
            group.start_soon(look, hook, url)
    return [found[hook.name] for hook, _ in servers.values()]


def _each(hooks: Hooks) -> Iterator[Hook]:
    """All of them, each once."""
    known = set[str]()
    for moment in Moment:
        for hook in named(hooks, moment):
            if hook.told not in known:
                known.add(hook.told)
                yield hook


async def _connect(url: SplitResult) -> None:
    """
    Go as far as a request would, and hang up.

    Raises:
        _NotReached: that is not possible.
    """
    try:
        proxy = system_proxy(url.geturl())
    except SettingsError as error:
        raise _NotReached(str(error)) from None
    first, who = (urlsplit(proxy), "the proxy") if proxy else (url, "it")
    async with await _opened(first, who) as plain:
        stream: ByteStream = plain
        if first.scheme == "https":
            stream = await _secured(stream, first, who)
        if proxy and url.scheme == "https":
            await _tunnel(stream, url, first)
            await _secured(stream, url, "it")


async def _opened(url: SplitResult, who: str) -> ByteStream:
    try:
        return await anyio.connect_tcp(url.hostname or "", _port(url))
    except gaierror:
        raise _NotReached(f"{who} has a name that is known nowhere; see its URL") from None
    except OSError as error:
        what = f"{who} takes no connection: {_why(error)}; see whether it is up"
        raise _NotReached(what) from error


async def _secured(stream: ByteStream, url: SplitResult, who: str) -> ByteStream:
    trust = ssl.create_default_context()
    try:
        return await TLSStream.wrap(
            stream, hostname=url.hostname, ssl_context=trust, standard_compatible=False
        )
    except ssl.SSLCertVerificationError as error:
        why = error.verify_message or "it is not of this name"
        raise _NotReached(
            f"{who} has a certificate that is not trusted: {why}; `SSL_CERT_FILE` names other CAs"
        ) from None
    except (OSError, anyio.BrokenResourceError, anyio.EndOfStream):
        raise _NotReached(f"{who} speaks no TLS; see its URL") from None


async def _tunnel(stream: ByteStream, url: SplitResult, proxy: SplitResult) -> None:
    """Have a proxy lead to the server of a URL. Source: RFC 9110, 9.3.6."""
    there = f"{url.hostname if ':' not in (url.hostname or '') else f'[{url.hostname}]'}"
    lines = [f"CONNECT {there}:{_port(url)} HTTP/1.1", f"Host: {there}:{_port(url)}"]
    if proxy.username is not None:
        who = aiohttp.encode_basic_auth(unquote(proxy.username), unquote(proxy.password or ""))
        lines.append(f"Proxy-Authorization: {who}")
    head = b""
    try:
        await stream.send("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES:
            head += await stream.receive(1)  # what comes after it is the server's
    except (anyio.BrokenResourceError, anyio.EndOfStream):
        raise _NotReached("the proxy hung up; see `HTTPS_PROXY`") from None
    answer = re.match(rb"HTTP/1\.[01] (\d{3})", head)
    if answer is None or not answer[1].startswith(b"2"):
        said = answer[1].decode() if answer else "no HTTP"
        raise _NotReached(f"the proxy answered {said}; see `HTTPS_PROXY`")


def _port(url: SplitResult) -> int:
    return url.port or _PORTS[url.scheme.lower()]


def _why(error: BaseException | None) -> str:
    """The system's word for it, which is that of a cause where several addresses were tried."""
    while error is not None:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[-1]
        elif isinstance(error, OSError) and error.errno:
            return os.strerror(error.errno)
        else:
            error = error.__cause__
    return "no answer"


# --- commands -------------------------------------------------------------------------------------


def reach_commands(hooks: Hooks, environ: Mapping[str, str]) -> list[Reach]:
    """Each command that is told, none of them run, within `hooks.timeout`."""
    commands = [hook for hook in _each(hooks) if not is_url(hook.told)]
    troubles = answered([partial(_trouble, hook.told, environ) for hook in commands], hooks.timeout)
    silent = f"could not be looked at in {hooks.timeout:g} s; see whether its disk is there"
    found = []
    for hook, trouble in zip(commands, troubles, strict=True):
        what = silent if trouble is None else trouble or "can be run; it was not"
        found.append(Reach(hook.name, what, is_amiss=trouble != ""))
    return found


def _trouble(command: str, environ: Mapping[str, str]) -> str:
    """What keeps a command from being run, empty where nothing does."""
    words = shlex.split(command)
    path = environ.get("PATH", os.defpath)
    has_variable = any(f"${name}" in command for name in HOOK_VARIABLES)
    if not _OF_A_SHELL.isdisjoint(words) or (has_variable and not _is_shell(words[0])):
        return "has what only a shell understands, and is run without one: write `sh -c '…'`"
    program = which(words[0], path=path)
    if program is None:
        if "/" not in words[0]:
            return "there is no such program in `PATH`; name it with its path, or `sh -c '…'`"
        if not Path(words[0]).exists():
            relative = "" if words[0].startswith("/") else f" seen from {Path.cwd()}"
            return f"there is no such program{relative}; see its path"
        return "it is no program that may be run; `chmod +x` helps"
    if missing := _without_interpreter(program, path):
        return f"its first line asks for {missing}, which is not there"
    if _is_shell(program) and "-c" in words[1:-1]:
        return _trouble_of_a_line(program, words[words.index("-c") + 1], environ)
    return ""


def _is_shell(program: str) -> bool:
    return Path(program).name in _SHELLS


def _without_interpreter(program: str, path: str) -> str | None:
    """What a script is to be run by, and is not there. Source: execve(2), env(1)."""
    try:
        with open(program, "rb") as file:
            first = file.read(_FIRST_LINE_BYTES).partition(b"\n")[0].decode("utf-8", "replace")
    except OSError:  # it may be run, not read
        return None
    interpreter, *words = first.removeprefix("#!").split() or [""]
    if not first.startswith("#!") or not interpreter:
        return None
    if which(interpreter, path="") is None:
        return interpreter
    wanted = [word for word in words if not word.startswith("-") and "=" not in word]
    if Path(interpreter).name == "env" and wanted and which(wanted[0], path=path) is None:
        return wanted[0]
    return None


def _trouble_of_a_line(shell: str, line: str, environ: Mapping[str, str]) -> str:
    """The same of what a shell is given; it is read, and only its first word is looked up."""
    run = partial(
        subprocess.run,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(environ),
        check=False,
    )
    if run([shell, "-n", "-c", line]).returncode:
        return "its shell cannot read the line; see its quotes"
    first = re.match(r"\s*([A-Za-z0-9_./][A-Za-z0-9_./+-]*)(?=[\s;|&]|$)", line)
    if first and run([shell, "-c", 'command -v "$1"', shell, first[1]]).returncode:
        return "its shell knows no such program as the line begins with"
    return ""
