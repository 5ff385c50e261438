"""
Whom a run tells how it goes: in, what the settings name and a summary; out, commands and requests.

    start      on_start                  heartbeat/start
    success    on_success, on_finish     heartbeat
    failure    on_failure, on_finish     heartbeat/fail

A run does not fail for who listens: whatever goes wrong here is a warning. Of a URL that says no
more than the host, of a command only which of the hooks it is, since both hold secrets.
"""

import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from io import FileIO
from pathlib import Path
from shlex import split
from urllib.parse import unquote, urlsplit

import aiohttp
import anyio
import msgspec
from anyio import to_thread
from anyio.abc import Process

from jobs.leaving import at_last
from pipeline.client import once, system_proxy
from pipeline.errors import ExitCode, SettingsError
from pipeline.events import Emit, Summary, Warned
from pipeline.lines import masked
from pipeline.settings import HOOK_VARIABLES, Hooks, is_url
from pipeline.wire import shown

__all__ = ["Hook", "Moment", "moment_of", "named", "notify"]

_PAUSE_S = 1.0  # before a URL is tried again
_GRACE_S = 2.0  # for a command to end once it is told to
_PIPE_BYTES = 64 * 1024
_MOST_OUTPUT_BYTES = 64 * 1024

_SECRET_VARIABLES = re.compile(r"ASSEMBLYAI_API_KEY|OVERNIGHT_API_KEY\w*", re.IGNORECASE)
_IN_A_URL = re.compile(r"://([^\s/?#'\"]*@)?[^\s/?#'\"@]*([^\s'\"]*)")
_SHORTEST_SECRET = 4  # characters; of the parts of a URL, shorter ones are words


class Moment(StrEnum):
    """When others are told."""

    START = "start"
    SUCCESS = "success"
    FAILURE = "failure"


def moment_of(summary: Summary) -> Moment:
    """
    What an end is told as; to have reached a cap or the end of a window was planned.

    But not where no run has worked in a window: then nobody would hear that nothing is done.
    """
    planned = (ExitCode.DONE, ExitCode.CAP_REACHED, ExitCode.WINDOW_CLOSED)
    is_good = summary.exit_code in planned and not summary.missed_window
    return Moment.SUCCESS if is_good else Moment.FAILURE


async def notify(
    hooks: Hooks,
    moment: Moment,
    summary: bytes,
    *,
    report: Path | None = None,
    environ: Mapping[str, str],
    emit: Emit,
) -> None:
    """
    Tell all that the settings name for this moment, side by side; never raises.

    It takes `hooks.timeout` at most, and 4 s more to end a command that goes on, which is done when
    it is cancelled as well. What goes wrong is a `Warned`, without what is secret in URLs. A URL is
    asked once more after a 429, a 5xx or no answer: it may hear of a moment twice.

    Args:
        summary: a JSON object, with `run_id` and, but at the start, `exit_code`: what commands
            read on stdin and what is posted, as it is.
        report: the page of this run, which commands learn of if it is there.
        environ: what commands inherit, but for the API key and where to find it.
    """
    told = list(named(hooks, moment))
    environment: dict[str, str] = {}
    if not all(is_url(hook.told) for hook in told):
        has_report = report is not None and await to_thread.run_sync(report.is_file)
        environment = _environment(environ, summary, report if has_report else None)

    async def tell(hook: Hook) -> None:
        try:
            with anyio.fail_after(hooks.timeout):
                if is_url(hook.told):
                    trouble = await _ask(hook, summary)
                else:
                    trouble = await _run(hook.told, summary, environment)
        except TimeoutError:
            trouble = f"was ended after {hooks.timeout:g} s; allow it more with `hooks.timeout`"
        if trouble is not None:
            emit(Warned(message=masked(f"{hook.name} {trouble}")))

    async with anyio.create_task_group() as group:
        for hook in told:
            group.start_soon(tell, hook)


@dataclass(frozen=True, slots=True)
class Hook:
    """One of those that are told."""

    name: str
    """What it is called in a warning."""
    told: str
    """A command or a URL."""
    is_heartbeat: bool = False


def named(hooks: Hooks, moment: Moment) -> Iterator[Hook]:
    """Those that are told of a moment."""
    keys = [f"on_{moment}"] if moment is Moment.START else [f"on_{moment}", "on_finish"]
    for key in keys:
        several: Sequence[str] = getattr(hooks, key)
        for number, told in enumerate(several, start=1):
            which = f", {number} of {len(several)}," if len(several) > 1 else ""
            yield Hook(f"hook {key}{which}{_at(told)}", told)
    beats = {Moment.START: "start", Moment.SUCCESS: "ok", Moment.FAILURE: "fail"}
    if url := getattr(hooks.heartbeat, beats[moment]):
        yield Hook(f"heartbeat{_at(url)}", url, is_heartbeat=True)


def _at(told: str) -> str:
    return f" at {urlsplit(told).hostname}" if is_url(told) else ""


# --- URLs -----------------------------------------------------------------------------------------


async def _ask(hook: Hook, summary: bytes) -> str | None:
    """What is wrong with a URL, after the second try where that may help; None if nothing is."""
    trouble = None
    for pause_s in (0.0, _PAUSE_S):
        await anyio.sleep(pause_s)
        try:
            status = await _status(hook, summary)
        except (aiohttp.ClientError, OSError, SettingsError, ValueError) as error:
            trouble = _unanswered(error)
        else:
            trouble = _unwelcome(status)
            if status != 429 and status < 500:
                break
    return trouble


async def _status(hook: Hook, summary: bytes) -> int:
    """What a URL answers. No key is sent, and of the answer no more is read."""
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),  # `notify` has a limit for all of it
        headers={"User-Agent": "overnight"},
        proxy=system_proxy(hook.told),
        middlewares=[once],
    ) as http:
        # A monitor needs no more than to be asked, and not every one takes a POST.
        if hook.is_heartbeat:
            asked = http.get(hook.told, allow_redirects=False)
        else:
            kind = {"Content-Type": "application/json"}
            asked = http.post(hook.told, data=summary, headers=kind, allow_redirects=False)
        async with asked as response:
            return response.status


def _unwelcome(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"answered {status}, a redirect; name the URL that it leads to"
    if status == 429 or status >= 500:
        return f"answered {status}, twice; see what ails that server"
    return f"answered {status}; see whether its URL in the settings is right"


def _unanswered(error: Exception) -> str:
    """What kept an answer from coming. The errors' own words may repeat the URL."""
    if isinstance(error, SettingsError):
        return f"was not asked: {error}"
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"was not reached: the proxy answered {error.status}; see `HTTPS_PROXY`"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return "was not reached, nor was the proxy; see `HTTPS_PROXY`"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "was not reached: no such host; see whether its URL in the settings is right"
    if isinstance(error, aiohttp.ClientSSLError):
        return "cannot be spoken to by TLS; see whether its certificate is of a CA that is known"
    if isinstance(error, OSError) and error.errno:
        return f"was not reached: {os.strerror(error.errno)}, twice; see whether it is up"
    return "gave no answer, twice; see whether it is up, and speaks HTTP"


# --- commands -------------------------------------------------------------------------------------


def _environment(environ: Mapping[str, str], summary: bytes, report: Path | None) -> dict[str, str]:
    told = msgspec.json.decode(summary, type=_Told)
    facts = (told.run_id, told.exit_code, report)
    return {
        name: text
        for name, text in environ.items()
        if not _SECRET_VARIABLES.fullmatch(name) and name not in HOOK_VARIABLES
    } | {
        name: str(fact)
        for name, fact in zip(HOOK_VARIABLES, facts, strict=True)
        if fact not in (None, "")
    }


class _Told(msgspec.Struct):
    run_id: str | None = None
    exit_code: int | None = None


async def _run(command: str, summary: bytes, environment: Mapping[str, str]) -> str | None:
    """
    What is wrong with a command, None if nothing is.

    It is over when its own process is; what that has left in the background goes on. If the time
    is over before, all of its process group is ended.
    """
    output = bytearray()
    with ExitStack() as stack:
        # Pipes of our own: with those of asyncio a command is not over as long as a process that it
        # has left holds one. Source: https://github.com/python/cpython/issues/119710
        stdin, to_child = map(stack.enter_context, _pipe())
        from_child, stdout = map(stack.enter_context, _pipe())
        os.set_blocking(to_child.fileno(), False)
        os.set_blocking(from_child.fileno(), False)
        try:
            process = await anyio.open_process(
                split(command),
                stdin=stdin,
                stdout=stdout,
                stderr=stdout,
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no command has such a name"
            return f"cannot be run: {reason}; it needs a program with its path, or `sh -c '…'`"
        stdin.close()
        stdout.close()
        stack.enter_context(at_last(partial(os.killpg, process.pid, signal.SIGTERM)))
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_feed, to_child, summary)
                group.start_soon(_collect, from_child, output)
                await process.wait()
                group.cancel_scope.cancel()
        finally:
            if process.returncode is None:
                await _end(process)
        _take(from_child, output)
    return _ended(process.returncode, _first_line(output, command))


def _pipe() -> tuple[FileIO, FileIO]:
    """The ends to read from and to write to."""
    reader, writer = os.pipe()
    return FileIO(reader, "rb"), FileIO(writer, "wb")


async def _feed(pipe: FileIO, body: bytes) -> None:
    """Write all of it, or as much as the other end reads, and close."""
    left = memoryview(body)
    with pipe, suppress(BrokenPipeError):
        while left:
            await anyio.wait_writable(pipe)
            left = left[pipe.write(left) or 0 :]


async def _collect(pipe: FileIO, output: bytearray) -> None:
    """Read to the end, which lets a command write what it likes; keep the beginning."""
    is_over = False
    while not is_over:
        await anyio.wait_readable(pipe)
        is_over = _take(pipe, output)


def _take(pipe: FileIO, output: bytearray) -> bool:
    """Keep the beginning of what a pipe holds; whether it is at its end."""
    came = pipe.read(_PIPE_BYTES)
    output += (came or b"")[: _MOST_OUTPUT_BYTES - len(output)]
    return came == b""


async def _end(process: Process) -> None:
    """End all of a process group: by asking, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):  # the latter of macOS, for zombies
            os.killpg(process.pid, number)
        with anyio.move_on_after(_GRACE_S, shield=True):
            await process.wait()


def _ended(code: int | None, line: str) -> str | None:
    if not code:
        return None
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    said = f" (`{line}`)" if line else ""
    return f"{how}{said}; try it by hand, with the summary.json of a run on its stdin"


def _first_line(output: bytearray, command: str) -> str:
    """The first thing that a command said, without what is secret in the URLs that it is given."""
    lines = output.decode("utf-8", "replace").splitlines()
    line = next((line for line in lines if line.strip()), "")
    for secret in sorted(_secrets(command), key=len, reverse=True):
        line = line.replace(secret, "***")
    return shown(masked(line))


def _secrets(command: str) -> set[str]:
    """Users, passwords, and what stands in the paths and queries of URLs, as it is and decoded."""
    found = set()
    for user, rest in _IN_A_URL.findall(command):
        for text in (user + rest, unquote(user + rest)):
            found.update(re.split(r"[/?#&=:;@]", text))
    return {secret for secret in found if len(secret) >= _SHORTEST_SECRET}
