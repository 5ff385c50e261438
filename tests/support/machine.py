"""
A machine whose processes die at a named point: in, command lines; out, how each of them ended.

    async with machine() as m:
        clean = await m.run("run", recordings, "-o", output, environ=key, cwd=folder)
        assert "request submit" in clean.trace
        point = Point("request submit", 1, "after")
        dead = await m.run("run", recordings, "-o", output, environ=key, cwd=folder, die=point)
        assert dead.exit_code == -signal.SIGKILL

A run is the real command in a process of its own. It is forked from a server that has imported
the program already (`tests.support.machine_server`), so it takes a tenth of the time of a fresh
interpreter. Nothing of the program is patched: before it is imported, the standard library and
aiohttp learn to tell what they do, and to die by SIGKILL just before it or just after.

What is told, in the order in which it was done (what failed was not done):

    commit                       a COMMIT of SQLite
    journal                      an append to attempts.ndjson, from its write to its fsync
    write   fsync   rename       of any other file, each `write(2)` for itself
    unlink  link    mkdir
    request KIND                 all bytes of a request are the kernel's; before: none of them is
    answer KIND                  all bytes of an answer have come; before: its head has, so that
                                 the service has done its part, and the program knows nothing

KIND is `upload submit list get delete export` as `tests.support.service` has it, or `other`.

A process may have a clock of its own, `speed` times as fast, and all waits of the event loop with
it. Waits of threads, the times of files and `datetime.now` stay real. Runs with one state folder
should be given one speed: between runs of different speeds the clock may go back.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import anyio

__all__ = ["Ended", "Machine", "Point", "machine"]

_ROOT = Path(__file__).resolve().parents[2]
_USUAL = ("PATH", "HOME", "LANG")
_READY_S = 60.0


@dataclass(frozen=True)
class Point:
    """An instant in the life of a process."""

    name: str
    nth: int
    """The nth time, from 1 on, that this thing is done."""
    when: Literal["before", "after"]


@dataclass(frozen=True)
class Ended:
    """What a process left behind."""

    exit_code: int
    """Negative: the number of the signal that killed it."""
    stdout: bytes
    stderr: str
    trace: list[str]
    """The names of what it did."""
    steps: list[str]
    """The same, each with what it was done to."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What `--json` wrote."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of `--json`."""
        return self.lines[-1]


class Machine:
    """Runs commands, also several at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = count()

    async def run(
        self,
        *arguments: str | Path,
        environ: Mapping[str, str],
        cwd: Path,
        die: Point | None = None,
        speed: float = 1.0,
        skew_s: float = 0.0,
    ) -> Ended:
        """
        A command line of `overnight`, to its end, or until it dies.

        Args:
            environ: its variables, beside PATH, HOME and LANG.
            speed: how many seconds pass for it in one.
            skew_s: how far ahead its wall clock is, seconds.

        Raises:
            TimeoutError: it did not end within a minute, and was killed.
        """
        desk = self._folder / str(next(self._numbers))
        order = {
            "arguments": [os.fsdecode(argument) for argument in arguments],
            "environ": {n: os.environ[n] for n in _USUAL if n in os.environ} | dict(environ),
            "cwd": str(cwd),
            "desk": str(desk),
            "die": die and [die.name, die.nth, die.when],
            "speed": speed,
            "skew_s": skew_s,
        }
        answer = b""
        async with await anyio.connect_unix(self._folder / "socket") as stream:
            await stream.send(json.dumps(order).encode() + b"\n")
            while not answer.endswith(b"\n"):
                answer += await stream.receive()
        return _ended(int(answer), desk)


def _ended(exit_code: int, desk: Path) -> Ended:
    stderr = (desk / "stderr").read_text(errors="replace")
    steps = (desk / "trace").read_text(errors="replace").splitlines()
    if exit_code == -signal.SIGALRM:
        raise TimeoutError("\n".join(["it did not end; its last steps:", *steps[-20:], stderr]))
    trace = [step.partition("\t")[0] for step in steps]
    ended = Ended(exit_code, (desk / "stdout").read_bytes(), stderr, trace, steps)
    shutil.rmtree(desk)
    return ended


@asynccontextmanager
async def machine() -> AsyncIterator[Machine]:
    """A machine; whatever still runs on it when the block ends is killed."""
    # Not a folder of pytest: the address of a socket has 107 bytes at most.
    folder = Path(tempfile.mkdtemp(prefix="machine-"))
    try:
        async with await anyio.open_process(
            [sys.executable, "-m", "tests.support.machine_server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            cwd=_ROOT,
            start_new_session=True,
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            with anyio.fail_after(_READY_S):
                await server.stdout.receive()
            try:
                yield Machine(folder)
            finally:
                with anyio.CancelScope(shield=True):
                    await server.stdin.aclose()
                    await server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
