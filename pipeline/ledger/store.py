"""
One SQLite file, one writer thread, group commit.

In: plain functions that change the database. Out: their results, once what they did is on disk.

All that is queued when the writer wakes becomes one transaction, so that one `fdatasync` serves
many waiters. Where a function raises, all of them are made once more with a savepoint for each, so
that it undoes only itself: what they do besides is to be undone by `Store.rolled_back`. A waiter
that was cancelled has its change made all the same: whoever reads the ledger later has to take
"committed, never acknowledged" as normal.
"""

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, suppress
from functools import partial, wraps
from importlib.resources import files
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from anyio import CancelScope, to_thread

from pipeline.addresses import address_path, canonical_base_url, provider_kind
from pipeline.errors import DiskFull, LedgerUnusable, Locked
from pipeline.files import copy_file, no_room, probe, regular
from pipeline.ledger.mounts import mount_table, remote_file_system
from pipeline.models import request_key
from pipeline.threads import Threads

__all__ = [
    "SCHEMA_VERSION",
    "Store",
    "copy_of",
    "private",
    "read_only",
    "reading",
    "transition",
    "unusable",
]

SCHEMA_VERSION = 6

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NOT_WORKING = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)  # what a full disk may be, too
_BESIDE = ("", "-wal", "-shm", "-journal")

_FUNCTIONS: dict[Callable[..., str], int] = {
    address_path: 1,
    canonical_base_url: 1,
    provider_kind: 1,
    request_key: 3,
}
"""What migrations may call by its name, and how many arguments each takes."""

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound="Store")

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]
_Result = tuple["asyncio.Future[Any]", Any, Exception | None]


class Store:
    """The database and its two connections: `db` for the writer thread, `ro` for readers."""

    db: sqlite3.Connection
    ro: sqlite3.Connection

    def __init__(self, path: Path, still_held: Callable[[], None] | None = None) -> None:
        self.path = path
        self._still_held = still_held
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._reader = Threads(1, "ledger-reader")
        self._thread = threading.Thread(target=self._write, name="ledger", daemon=True)
        self._opened: SimpleQueue[BaseException | None] = SimpleQueue()

    async def __aenter__(self) -> Self:
        """Open the ledger, making it when there is none.

        Raises:
            LedgerUnusable: it is damaged, newer than this program, or SQLite cannot work there.
        """
        await to_thread.run_sync(self._start)
        return self

    async def __aexit__(self, *_: object) -> None:
        with CancelScope(shield=True):  # until the thread ends: after at most one more commit
            await to_thread.run_sync(self._stop)

    def _start(self) -> None:
        self._thread.start()
        if error := self._opened.get():
            self._thread.join()
            raise error
        try:
            self.ro = read_only(self.path)
        except BaseException:
            self._jobs.put(None)
            self._thread.join()
            raise

    def _stop(self) -> None:
        self.ro.close()  # before the writer, who as the last one puts the log into the file
        self._jobs.put(None)
        self._thread.join()

    def _write(self) -> None:
        try:
            self.db = _open(self.path)
        except BaseException as error:
            self._opened.put(error)
            return
        self._opened.put(None)
        with_more = True
        while with_more:
            jobs = [self._jobs.get()]
            while not self._jobs.empty():
                jobs.append(self._jobs.get())
            with_more = None not in jobs
            self._commit([job for job in jobs if job is not None])
        self.db.close()
        self.closed()

    def closed(self) -> None:
        """Called in the writer thread when the database is closed."""

    def _commit(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            if self._still_held is not None:
                self._still_held()  # before anything: who took the folder over must not be met
            try:
                done = self._made(jobs)
            except Exception:
                # Rare, and not worth two more statements for each transition at all other times.
                self._roll_back()
                done = self._made_each_by_itself(jobs)
            self.db.execute("COMMIT")
            self.committed()
        except (sqlite3.Error, OSError, Locked) as error:
            self._roll_back()
            done = [(future, None, _meaning(error, self.path)) for _, future, _ in jobs]
        with suppress(RuntimeError):  # the loop is gone: nobody waits any more
            jobs[0][2].call_soon_threadsafe(_resolve, done)

    def _made(self, jobs: list[_Job]) -> list[_Result]:
        self.db.execute("BEGIN IMMEDIATE")
        return [(future, call(), None) for call, future, _ in jobs]

    def _made_each_by_itself(self, jobs: list[_Job]) -> list[_Result]:
        """The same with a savepoint for each: one that raises undoes only itself."""
        done: list[_Result] = []
        self.db.execute("BEGIN IMMEDIATE")
        for call, future, _ in jobs:
            self.db.execute("SAVEPOINT transition")
            try:
                done.append((future, call(), None))
            except sqlite3.Error as error:
                self.db.execute("ROLLBACK TO transition")
                done.append((future, None, _meaning(error, self.path)))
            except Exception as error:
                self.db.execute("ROLLBACK TO transition")
                done.append((future, None, error))
            self.db.execute("RELEASE transition")
        return done

    def _roll_back(self) -> None:
        if self.db.in_transaction:  # a full disk, say, has ended it already
            with suppress(sqlite3.Error):
                self.db.execute("ROLLBACK")
        self.rolled_back()

    def rolled_back(self) -> None:
        """Called in the writer thread when what was done since the last commit is undone."""

    def committed(self) -> None:
        """Called in the writer thread after each commit, before anybody hears of it."""

    async def _submit(self, call: Callable[[], R]) -> R:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._jobs.put((call, future, loop))
        return await future


def _resolve(done: list[_Result]) -> None:
    for future, result, error in done:
        if future.cancelled():
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)


def transition(
    method: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """A method that runs in the writer thread; awaiting it returns when its change is durable."""

    @wraps(method)
    async def durable(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._submit(partial(method, self, *args, **kwargs))

    return durable


def reading(
    method: Callable[Concatenate[S, P], R],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """A method that only reads, through `ro`, beside the writer."""

    @wraps(method)
    async def beside(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        call = partial(method, self, *args, **kwargs)
        try:
            return await self._reader.run(call)
        except sqlite3.Error as error:
            raise _meaning(error, self.path) from error

    return beside


def _meaning(error: sqlite3.Error | OSError | Locked, path: Path) -> Exception:
    """What an error in the middle of a run means for it: no room, damage, or what it says."""
    if isinstance(error, Locked):
        return error
    if _is_full(error, path.parent):
        return DiskFull(f"no room for the ledger {path}")
    # Its subclasses say that a rule of the schema was broken, or that SQLite was used wrongly.
    if (
        isinstance(error, OSError | sqlite3.OperationalError)
        or type(error) is sqlite3.DatabaseError
    ):
        return unusable(error, path)
    return error


def _not_opened(error: sqlite3.Error | OSError, path: Path) -> DiskFull | LedgerUnusable:
    """What an error means before a run has begun."""
    if _is_full(error, path.parent):
        return DiskFull(f"no room for the ledger {path}")
    return unusable(error, path)


def _is_full(error: sqlite3.Error | OSError, folder: Path) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _NOT_WORKING:
        try:
            probe(os.fsencode(folder))
        except OSError as why:
            return no_room(why)
    return code == sqlite3.SQLITE_FULL or no_room(error)


def private(path: Path) -> None:
    """
    Make the file of a database, for its owner alone, unless there is one.

    What SQLite makes beside it has the same rights.

    Raises:
        OSError: it cannot be made.
    """
    with suppress(FileExistsError):
        os.close(regular(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def _require_plain(path: Path) -> None:
    """
    Let SQLite open no link: it would work with whatever that leads to.

    Raises:
        LedgerUnusable: a file of the ledger is none.
    """
    for place in (f"{path}{suffix}" for suffix in _BESIDE):
        if os.path.lexists(place) and (os.path.islink(place) or not os.path.isfile(place)):
            raise LedgerUnusable(
                f"{place} is a link, or no regular file; name another folder with `--state`"
            )


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that cannot change anything, for use from any one thread at a time.

    Raises:
        LedgerUnusable: there is no ledger, or it cannot be opened.
        DiskFull: there is no room for what has to lie beside it.
    """
    _require_plain(path)
    try:
        db = sqlite3.connect(
            f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False
        )
        db.row_factory = sqlite3.Row
        (version,) = db.execute("PRAGMA user_version").fetchone()
    except sqlite3.Error as error:
        raise _not_opened(error, path) from error
    if version != SCHEMA_VERSION:
        raise LedgerUnusable(
            f"the ledger {path} is of {'a newer' if version > SCHEMA_VERSION else 'an older'}"
            " overnight; update overnight, or let a run bring the ledger up to date"
        )
    return db


def copy_of(path: Path, target: Path) -> None:
    """
    Copy a ledger as it stands, also while a run works on it; nothing where there is none.

    Raises:
        LedgerUnusable: it cannot be read.
        DiskFull: there is no room for the copy.
    """
    _require_plain(path)
    if not path.is_file():
        return
    try:
        log, shared = (Path(f"{path}{suffix}") for suffix in ("-wal", "-shm"))
        if not (log.exists() and shared.exists()):  # nobody has it open; opened, it shows traces
            copy_file(os.fsencode(path), os.fsencode(target))
            if log.exists():
                copy_file(os.fsencode(log), os.fsencode(f"{target}-wal"))
            return
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db,
            closing(sqlite3.connect(target)) as copy,
        ):
            db.backup(copy)
    except (sqlite3.Error, OSError) as error:
        raise _not_opened(error, path) from error


def _open(path: Path) -> sqlite3.Connection:
    """The writer's connection, with the schema as this program knows it.

    WAL with FULL: a transition is on disk when its commit returns; see
    https://www.sqlite.org/pragma.html#pragma_synchronous. One writer connection for each file,
    since SQLite 3.7.0 to 3.51.2 can lose pages when two connections checkpoint at once; see
    https://www.sqlite.org/wal.html#walresetbug.
    """
    if kind := remote_file_system(path.parent, mount_table()):
        raise _unfit(path, kind)
    _require_plain(path)
    try:
        private(path)
        db = sqlite3.connect(path, isolation_level=None)
        db.row_factory = sqlite3.Row
        (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise _unfit(path, f"journal mode {mode}")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        if sys.platform == "darwin":
            db.execute("PRAGMA fullfsync = ON")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise LedgerUnusable(
                f"the ledger {path} was written by a newer overnight"
                f" (schema {version}, this one knows {SCHEMA_VERSION}); update overnight"
            )
        if version < SCHEMA_VERSION:
            for call, arguments in _FUNCTIONS.items():
                db.create_function(call.__name__, arguments, call, deterministic=True)
            changes = "".join(_changes(version))
            end = f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            db.executescript(f"BEGIN IMMEDIATE; {changes} {end}")
    except (sqlite3.DatabaseError, OSError) as error:
        raise _not_opened(error, path) from error
    return db


def _unfit(path: Path, why: str) -> LedgerUnusable:
    return LedgerUnusable(
        f"the file system of {path.parent} cannot hold the ledger ({why});"
        " name a folder on a local disk with `--state`, the results may stay where they are"
    )


def _changes(version: int) -> Iterator[str]:
    """What makes a database of that version one of today's: all of it is one transaction."""
    sql = files("pipeline.ledger")
    if version == 0:
        yield sql.joinpath("schema.sql").read_text("utf-8")
        return
    for step in range(version, SCHEMA_VERSION):
        yield sql.joinpath(f"migrate_{step}.sql").read_text("utf-8")


def unusable(error: sqlite3.Error | OSError, path: Path) -> LedgerUnusable:
    """What an error says about a ledger, and the way out."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
        return LedgerUnusable(
            f"the ledger {path} is damaged ({error}); `overnight verify --rebuild` puts it aside"
            " and makes it anew from what is on disk and at the service"
        )
    return LedgerUnusable(f"cannot work with the ledger {path}: {error}")
