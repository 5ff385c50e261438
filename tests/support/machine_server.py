"""
The server of `tests.support.machine`: in, orders on a socket; out, a process for each, and its end.

    python -m tests.support.machine_server FOLDER

First the standard library learns to tell, then the program is imported, then it forks for each
order. It never starts a thread, since a fork would lose it. It ends, and takes everything that it
has forked with it, when its stdin is closed.
"""

from __future__ import annotations

import builtins
import fcntl
import gc
import importlib
import io
import json
import os
import pkgutil
import select
import selectors
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

_LONGEST_S = 60
_JOURNAL = "attempts.ndjson"


# --- orders ---------------------------------------------------------------------------------------


class _Order(NamedTuple):
    """What a forked process is to do."""

    arguments: list[str]
    environ: dict[str, str]
    cwd: str
    desk: str
    """Folder for what it says and does."""
    die: list[Any] | None
    speed: float
    skew_s: float


def _serve(folder: Path) -> _Order:
    """Fork for each order until stdin is closed; returns in a forked process, with its order."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who keep an order
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select([0, listener], [], [])
        if 0 in ready:
            os.killpg(0, signal.SIGKILL)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> _Order:
    """Fork for one order and tell how that process ended; returns in it."""
    with connection, connection.makefile("rb") as lines:
        order = _Order(**json.loads(lines.readline()))
        pid = os.fork()
        if pid:
            _, status = os.waitpid(pid, 0)
            connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            os._exit(0)
    return order


def _obey(order: _Order) -> int:
    """Become the command."""
    from jobs.cli import main

    signal.alarm(_LONGEST_S)
    os.mkdir(order.desk)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    said = [os.open(f"{order.desk}/{name}", flags) for name in ("stdout", "stderr", "trace")]
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *said[:2]]):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.environ)
    sys.argv[:] = ["overnight", *order.arguments]
    _clock.speed, _clock.skew_s = order.speed, order.skew_s
    _steps.tell(said[2], order.die)
    return main()


# --- steps ----------------------------------------------------------------------------------------


class _Steps:
    """What this process does, told as it goes; and where it dies."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._write = os.write
        self.tell(-1, None)

    def tell(self, trace: int, die: list[Any] | None) -> None:
        """Count from here, and tell it to a file."""
        self._trace, self._die = trace, die
        self._begun: Counter[str] = Counter()
        self._done: Counter[str] = Counter()

    def begin(self, name: str) -> None:
        """It is about to be done."""
        with self._lock:
            self._begun[name] += 1
            self._die_at([name, self._begun[name], "before"])

    def fail(self, name: str) -> None:
        """It was not done."""
        with self._lock:
            self._begun[name] -= 1

    def end(self, name: str, what: object) -> None:
        """It is done."""
        with self._lock:
            self._done[name] += 1
            if self._trace >= 0:
                self._write(self._trace, f"{name}\t{what!r}\n".encode())
            self._die_at([name, self._done[name], "after"])

    @contextmanager
    def step(self, name: str, what: object) -> Iterator[None]:
        """It is done in this block."""
        self.begin(name)
        try:
            yield
        except BaseException:
            self.fail(name)
            raise
        self.end(name, what)

    def _die_at(self, point: list[Any]) -> None:
        if point == self._die:
            os.kill(os.getpid(), signal.SIGKILL)


_steps = _Steps()


# --- files ----------------------------------------------------------------------------------------


def _tell_of_files() -> None:
    for name, functions in {
        "rename": ("rename", "replace"),
        "unlink": ("unlink", "remove"),
        "link": ("link",),
        "mkdir": ("mkdir",),
        "write": ("pwrite",),
    }.items():
        for function in functions:
            setattr(os, function, _told(name, getattr(os, function)))
    os.fsync = partial(_fsync, os.fsync)
    io.open = builtins.open = partial(_open, io.open)


def _told(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(real)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _steps.step(name, args[:2]):
            return real(*args, **kwargs)

    return call


class _File(io.FileIO):
    """A file that tells of what is written to it."""

    def write(self, chunk: Any, /) -> int:
        path = _path_of(self.fileno())
        if path.endswith(_JOURNAL):
            _steps.begin("journal")  # ends with the fsync
            return super().write(chunk)
        with _steps.step("write", path):
            return super().write(chunk)


def _fsync(real: Callable[[int], None], descriptor: int) -> None:
    path = _path_of(descriptor)
    if path.endswith(_JOURNAL):
        real(descriptor)
        _steps.end("journal", path)
        return
    with _steps.step("fsync", path):
        real(descriptor)


def _path_of(descriptor: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{descriptor}")
    path = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
    return os.fsdecode(path.rstrip(b"\0"))


def _open(
    real: Callable[..., Any],
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """`open`, with a `_File` below what is written to."""
    if not set(mode) & set("wax+"):
        return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _File(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if buffering == 0:
        return raw
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    binary = io.BufferedRandom(raw, size) if "+" in mode else io.BufferedWriter(raw, size)
    if "b" in mode:
        return binary
    text = io.TextIOWrapper(binary, encoding, errors, newline, line_buffering=buffering == 1)
    text.mode = mode
    return text


# --- the ledger -----------------------------------------------------------------------------------


class _Connection(sqlite3.Connection):
    """A connection that tells of its commits."""

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql != "COMMIT":
            return super().execute(sql, *args)
        with _steps.step("commit", self.total_changes):
            return super().execute(sql)

    def executescript(self, script: str) -> sqlite3.Cursor:
        if "COMMIT" not in script:
            return super().executescript(script)
        with _steps.step("commit", "script"):
            return super().executescript(script)


# --- requests -------------------------------------------------------------------------------------

_KINDS = {
    ("POST", "upload", 2): "upload",
    ("POST", "transcript", 2): "submit",
    ("GET", "transcript", 2): "list",
    ("GET", "transcript", 3): "get",
    ("DELETE", "transcript", 3): "delete",
    ("GET", "transcript", 4): "export",
}


def _kind(sent: Any) -> str:
    """Of a request, or of the response to it."""
    parts = sent.url.path.strip("/").split("/")
    if parts[0] != "v2" or len(parts) < 2:
        return "other"
    return _KINDS.get((sent.method, parts[1], len(parts)), "other")


def _tell_of_requests(aiohttp: ModuleType) -> None:
    request, response = aiohttp.ClientRequest, aiohttp.ClientResponse
    send, write_bytes, start = request.send, request.write_bytes, response.start

    @wraps(send)
    async def told_send(self: Any, connection: Any) -> Any:
        name = f"request {_kind(self)}"
        _steps.begin(name)
        try:
            answer = await send(self, connection)
        except BaseException:
            _steps.fail(name)
            raise
        if not self.body:  # else `write_bytes` is under way, and tells when it is through
            _steps.end(name, self.url)
        return answer

    @wraps(write_bytes)
    async def told_write_bytes(self: Any, *args: Any) -> None:
        await write_bytes(self, *args)
        _steps.end(f"request {_kind(self)}", self.url)

    @wraps(start)
    async def told_start(self: Any, connection: Any) -> Any:
        await start(self, connection)
        name = f"answer {_kind(self)}"
        _steps.begin(name)
        self.content.on_eof(lambda: _steps.end(name, self.status))
        return self

    request.send, request.write_bytes, response.start = told_send, told_write_bytes, told_start


# --- time -----------------------------------------------------------------------------------------


class _Clock:
    """The time of this process, which began with the real one when the server did."""

    speed = 1.0
    skew_s = 0.0

    def __init__(self) -> None:
        self._real = time.monotonic
        self._began, self._wall = time.monotonic(), time.time()

    def monotonic(self) -> float:
        return self._began + self._passed()

    def time(self) -> float:
        return self._wall + self._passed() + self.skew_s

    def _passed(self) -> float:
        return (self._real() - self._began) * self.speed


_clock = _Clock()


class _Selector(selectors.DefaultSelector):
    """Waits by that time. The modules of threads have the real one already."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout and timeout / _clock.speed)


# --- start ----------------------------------------------------------------------------------------


def _import_program() -> None:
    """Everything that a run imports, also in the middle."""
    import jobs
    import pipeline

    for package in (pipeline, jobs):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith("pipeline.engine"):
                importlib.import_module(module.name)
    for name in ("anyio._backends._asyncio", "concurrent.futures.thread"):
        importlib.import_module(name)


if __name__ == "__main__":
    _tell_of_files()
    sqlite3.connect = partial(sqlite3.connect, factory=_Connection)
    time.time, time.monotonic = _clock.time, _clock.monotonic
    selectors.DefaultSelector = _Selector
    _tell_of_requests(importlib.import_module("aiohttp"))
    _import_program()
    assert threading.active_count() == 1
    gc.freeze()  # what is here for good needs no look, and no copy, in what is forked
    exit_code = _obey(_serve(Path(sys.argv[1])))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)  # to tidy up the interpreter would take as long as a run
