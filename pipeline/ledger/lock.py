"""
One run at a time for each state folder: in, the folder; out, a lock held until the block ends.

The kernel lets go of the lock when the process ends, however it ends, but only among the processes
of one machine: a shared folder may be in use by another. So the text of the file counts as well:
it names the holder, is empty when nobody holds it, and a holder elsewhere is never presumed dead.
"""

import errno
import fcntl
import os
import re
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio import to_thread

from pipeline.errors import DiskFull, LedgerUnusable, Locked
from pipeline.files import no_room, regular

__all__ = ["Holder", "Lock", "holder", "lock"]

_LOOK_EVERY_S = 1.0
_TEXT_BYTES = 400
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that is held, as long as the file at `path` says so."""

    path: Path
    text: str
    """Host, process, since when, and a random word that makes it one of its kind."""
    descriptor: int = -1
    """Of the file that is locked, once it is."""

    @property
    def word(self) -> str:
        """What makes it one of its kind."""
        return self.text.split()[-1]

    def check(self) -> None:
        """
        Look again, in a thread. Opens nothing: there may be no descriptor left.

        Raises:
            Locked: somebody else took it, with `--break-lock`, or removed it.
            OSError: the folder cannot be looked at.
        """
        with suppress(FileNotFoundError):
            is_ours = os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
            if is_ours and os.pread(self.descriptor, _TEXT_BYTES, 0) == self.text.encode():
                return
        raise Locked(
            f"another run took {self.path} ({_holder(_text(self.path))}); this one writes nothing"
            " more"
        )


@asynccontextmanager
async def lock(path: Path, *, wait: bool = False, break_: bool = False) -> AsyncIterator[Lock]:
    """
    Hold the lock file at `path`, having waited for it if asked to.

    `break_` takes it from a holder on another machine, who notices before it writes again.

    Raises:
        Locked: another process holds it, and `wait` is False.
        LedgerUnusable: the file system knows no locks, or the file cannot be opened.
        DiskFull: there is no room for its text.
    """
    since = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Lock(path, f"{socket.gethostname()} {os.getpid()} {since} {secrets.token_hex(4)}\n")
    while (descriptor := await to_thread.run_sync(_try, mine, break_)) is None:
        if not wait:
            text = await to_thread.run_sync(_text, path)
            raise Locked(
                f"another run holds {path} ({_holder(text)}); let it finish, or wait for it with"
                f" `--wait-lock`{_way_out(text)}"
            )
        await anyio.sleep(_LOOK_EVERY_S)
    held = replace(mine, descriptor=descriptor)
    try:
        yield held
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(_let_go, held)


class Holder(NamedTuple):
    """Who holds a lock, as its text tells."""

    host: str
    pid: int
    since: float
    """Unix seconds."""

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == socket.gethostname()


def holder(path: Path) -> Holder | None:
    """
    Who holds a lock; None where nobody does, as far as its text tells.

    Of a holder on another machine nobody knows whether it still runs: it counts as if it did.
    """
    found = _named(_text(path))
    if found is None:
        return None
    if found.is_here:
        try:
            os.kill(found.pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass  # it is there, and somebody else's
        if _locks_nothing(found.pid):
            return None
    return found


def _locks_nothing(pid: int) -> bool:
    """
    Whether the kernel knows of no file that a process of this machine locks.

    So it is not the holder that is named, but another one with its number: in containers all of
    them begin with 1. Where the kernel does not tell, the number counts.

    Source: proc_locks(5).
    """
    try:
        locks = Path("/proc/locks").read_text("ascii")
    except (OSError, ValueError):
        return False
    return re.search(rf"FLOCK +ADVISORY +WRITE +{pid} ", locks) is None


def _try(mine: Lock, break_: bool) -> int | None:
    """The descriptor that holds the lock, None when somebody else does."""
    held = _open(mine.path)
    text = _text(mine.path) if held is None else _read(held)
    elsewhere = _is_elsewhere(text)
    if break_ and elsewhere:
        # A file of its own: who holds the old one finds by its name that it is not theirs.
        fresh = mine.path.with_name(f".{mine.path.name}-{mine.word}~overnight")
        if held is not None:
            os.close(held)
        held = _open(fresh, os.O_EXCL)
        os.replace(fresh, mine.path)
    elif held is not None and elsewhere:
        os.close(held)
        return None
    if held is not None:
        _sign(held, mine)
    return held


def _sign(descriptor: int, mine: Lock) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, mine.text.encode(), 0)
        os.fsync(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise _unusable(mine.path, error) from error


def _unusable(path: Path, error: OSError) -> DiskFull | LedgerUnusable:
    if no_room(error):
        return DiskFull(f"no room for {path}")
    return LedgerUnusable(f"cannot open {path}: {error.strerror}")


def _open(path: Path, exclusively: int = 0) -> int | None:
    try:
        descriptor = regular(path, os.O_RDWR | os.O_CREAT | exclusively)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever broke the lock meanwhile put another file there.
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(descriptor)
        if error.errno in _UNSUPPORTED:
            raise LedgerUnusable(
                f"the file system of {path.parent} knows no locks; name a folder on a local disk"
                " with `--state`"
            ) from error
        raise
    os.close(descriptor)
    return None


def _let_go(held: Lock) -> None:
    with suppress(OSError, Locked):  # taken by others, or out of sight: theirs to write
        held.check()
        os.ftruncate(held.descriptor, 0)
    os.close(held.descriptor)


def _text(path: Path) -> str:
    with suppress(OSError):
        descriptor = regular(path, os.O_RDONLY)
        try:
            return _read(descriptor)
        finally:
            os.close(descriptor)
    return ""


def _read(descriptor: int) -> str:
    return os.pread(descriptor, _TEXT_BYTES, 0).decode("utf-8", "replace")


def _named(text: str) -> Holder | None:
    """Whom a text names, None for rubbish: what a crash of the machine left was no holder's."""
    try:
        host, pid, since = text.split()[:3]
        found = Holder(host, int(pid), datetime.fromisoformat(since).timestamp())
    except (ValueError, OverflowError):
        return None
    return found if 0 < found.pid < 1 << 31 and host.isprintable() else None


def _holder(text: str) -> str:
    """Host, process and since when."""
    return "no name given" if _named(text) is None else " ".join(text.split()[:3])


def _is_elsewhere(text: str) -> bool:
    found = _named(text)
    return found is not None and not found.is_here


def _way_out(text: str) -> str:
    if not _is_elsewhere(text):
        return ""
    return (
        "; it runs on another machine: if you know that it has ended there, take the folder over"
        " with `--break-lock`"
    )
