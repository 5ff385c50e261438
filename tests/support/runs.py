"""
Runs of the program over a small archive: in, recordings and settings; out, what it came to.

An `Archive` is a folder of recordings, the folder of their results, and the scripted account that
they are sent to. `run` is a run in the test's own loop, `command` the real command in a process of
its own, `started` the same while it is under way. All of them are bounded in time.
"""

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from ctypes import CDLL
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, TypeVar

import anyio
import pytest
from anyio import to_thread
from anyio.abc import Process

from jobs.folder import run_folder
from pipeline.events import Event, Summary
from pipeline.ledger import read_only
from pipeline.settings import Settings
from tests.support.clock import advance
from tests.support.service import Fault, ScriptedService

__all__ = [
    "COMMAND",
    "Archive",
    "Ended",
    "Outcome",
    "files",
    "opened",
    "quickly",
    "recording",
    "until",
    "watched",
]

COMMAND = str(Path(sys.executable).with_name("overnight"))
"""The installed command."""

_LONGEST_S = 60.0
_HANDED_ON = ("PATH", "HOME", "LANG", "SSL_CERT_FILE")
_OLD_S = 3600.0
_LOOK_S = 0.01
_IN_OPEN, _EVENT_BYTES = 0x20, 16

E = TypeVar("E", bound=Event)


def recording(path: Path | bytes, content: bytes, *, age_s: float = _OLD_S) -> None:
    """A file that was last changed `age_s` seconds ago, in folders made as needed."""
    where = os.fsencode(path)
    os.makedirs(os.path.dirname(where), exist_ok=True)
    with open(where, "wb") as file:
        file.write(content)
    changed = time.time() - age_s
    os.utime(where, (changed, changed))


def files(folder: Path, *, but: str | None = None) -> dict[str, bytes]:
    """Every file in a folder, by its path there, but what is in folders of that name."""
    # In a thread: where blocking calls are watched each costs many times as much as it takes.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_read, folder, but).result()


def _read(folder: Path, but: str | None) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for where, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if each != but]
        for name in names:
            path = os.path.join(where, name)
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, folder)] = file.read()
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class Outcome:
    """What a run in the test's own loop told."""

    summary: Summary
    events: list[Event]

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind, in their order."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    exit_code: int
    stdout: bytes
    stderr: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What `--json` wrote."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def summary(self) -> dict[str, Any]:
        """The last line of `--json`."""
        return self.lines[-1]


@dataclass
class Archive:
    """Recordings, their results, and the account that they are sent to."""

    root: Path
    service: ScriptedService
    environ: dict[str, str] = field(default_factory=dict)
    """Variables of commands, beside the usual ones."""

    @property
    def recordings(self) -> Path:
        """The folder that is transcribed."""
        return self.root / "recordings"

    @property
    def output(self) -> Path:
        """The folder of the results."""
        return self.root / "transcripts"

    @property
    def state(self) -> Path:
        """The folder of the ledger."""
        return self.output / ".overnight"

    def add(self, name: str | bytes, content: bytes, *, age_s: float = _OLD_S) -> None:
        """One more recording."""
        where = os.fsencode(self.recordings) + b"/" + os.fsencode(name)
        recording(where, content, age_s=age_s)

    def settings(self, **given: Any) -> Settings:
        """Settings that are quick about it, as a file would spell them."""
        key = self.root / "key"
        key.touch(mode=0o600)
        key.write_text(self.service.key)
        quick: dict[str, Any] = {
            "output": self.output,
            "provider": self.service.url,
            "api_key_file": key,
            "poll_interval": "20ms",
            "settle": "500ms",
        }
        return Settings(**(quick | given))

    async def run(self, *folders: Path, ahead_s: float = 0.0, **given: Any) -> Outcome:
        """A whole run in this loop, by a clock that is so many seconds ahead of the true one."""
        events: list[Event] = []
        with anyio.fail_after(_LONGEST_S):
            summary = await run_folder(
                folders or (self.recordings,),
                self.settings(**given),
                emit=events.append,
                clock=lambda: time.time() + ahead_s,
            )
        return Outcome(summary, events)

    @asynccontextmanager
    async def started(
        self,
        *arguments: str | Path,
        stdin: int = DEVNULL,
        stdout: int = PIPE,
        stderr: int = PIPE,
        through: Sequence[str] = (),
    ) -> AsyncIterator[Process]:
        """The command while it runs, started by another; killed when the block ends before it."""
        usual = {name: os.environ[name] for name in _HANDED_ON if name in os.environ}
        environ = usual | {"ASSEMBLYAI_API_KEY": self.service.key} | self.environ
        process = await anyio.open_process(
            [*through, COMMAND, *map(os.fsdecode, arguments)],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=self.root,
            env=environ,
        )
        async with process:
            try:
                yield process
            finally:
                if process.returncode is None:
                    process.kill()

    async def ended(self, process: Process) -> Ended:
        """What it says until its end, and how it ends."""
        said: dict[str, bytes] = {}

        async def listen(name: str, stream: Any) -> None:
            said[name] = b"".join([chunk async for chunk in stream or _nothing()])

        with anyio.fail_after(_LONGEST_S):
            async with anyio.create_task_group() as group:
                group.start_soon(listen, "stdout", process.stdout)
                group.start_soon(listen, "stderr", process.stderr)
            code = await process.wait()
        return Ended(code, said["stdout"], said["stderr"].decode())

    async def command(self, *arguments: str | Path) -> Ended:
        """Any command line, to its end."""
        async with self.started(*arguments) as process:
            return await self.ended(process)

    async def leave_in_doubt(self, **given: Any) -> None:
        """A run over half an hour more, of which nobody learns whether it was asked for."""
        self.add("lost.wav", bytes(8000 * 1800))
        self.service.faults.add(Fault(on="submit", action="drop_before", times=None))
        unlisted = Fault(on="list", action="answer", status=200, body="[]", skip=1, times=None)
        self.service.faults.add(unlisted)
        await self.run(settle="100ms", **given)

    def run_line(self, *more: str | Path) -> list[str | Path]:
        """The command line of a run over the recordings, quick about it."""
        return [
            "run",
            self.recordings,
            *("--output", self.output),
            *("--provider", self.service.url),
            *("--poll-interval", "50ms"),
            *("--settle", "1s"),
            *more,
        ]

    def results(self) -> dict[str, bytes]:
        """Every file in the output folder but the state, by its path."""
        return files(self.output, but=self.state.name)

    def versions(self) -> dict[str, bytes]:
        """The replaced results, by their path in `versions/`."""
        return files(self.state / "versions")

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What stands in the ledger."""

        def read() -> list[tuple[Any, ...]]:
            with closing(read_only(self.state / "ledger.sqlite3")) as db:
                return [tuple(row) for row in db.execute(query)]

        return await to_thread.run_sync(read)


@asynccontextmanager
async def opened(root: Path, **settings: Any) -> AsyncIterator[Archive]:
    """An archive without recordings, and its account; settings are those of the service."""
    quick = {"transcript_seconds": 0.05}
    async with ScriptedService(**(quick | settings)) as service:
        yield Archive(root, service)


async def quickly(archive: Archive, **given: Any) -> Outcome:
    """A run on a `MovableLoop` in which no check of the key has to be waited for."""
    outcomes, events = list[Outcome](), list[Event]()
    settings = archive.settings(**given)
    async with anyio.create_task_group() as group:

        async def run() -> None:
            summary = await run_folder([archive.recordings], settings, emit=events.append)
            outcomes.append(Outcome(summary, events))
            group.cancel_scope.cancel()

        group.start_soon(run)
        seen = 0
        while True:  # after each 401 and 403 the time goes on in short steps
            refused = sum(call.status in (401, 403) for call in archive.service.log)
            if refused == seen:
                await archive.service.changed.wait()
                continue
            seen = refused
            for _ in range(40):
                await anyio.wait_all_tasks_blocked()
                await advance(0.5)
    return outcomes[0]


async def until(is_so: Callable[[], bool]) -> None:
    """Waits for what another process does, and leaves it the machine meanwhile."""
    with anyio.fail_after(_LONGEST_S):
        while not is_so():  # noqa: ASYNC110, no event of this loop is set by another process
            await anyio.sleep(_LOOK_S)


@contextmanager
def watched(*paths: Path) -> Iterator[Callable[[], int]]:
    """How often any of these files has been opened by now. Linux only; source: inotify(7)."""
    if sys.platform != "linux":
        pytest.skip("needs inotify")
    libc = CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    for path in paths:
        assert libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_OPEN) > 0
    opens = 0

    def count() -> int:
        nonlocal opens
        with suppress(BlockingIOError):
            opens += len(os.read(descriptor, 1 << 16)) // _EVENT_BYTES
        return opens

    try:
        yield count
    finally:
        os.close(descriptor)


async def _nothing() -> AsyncIterator[bytes]:
    """A stream that somebody else reads."""
    return
    yield b""
