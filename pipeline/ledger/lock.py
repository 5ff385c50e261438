"""
One run at a time for each state folder: in, the folder; out, a lock held until the block ends.

The kernel lets go of the lock when the process ends, however it ends, but only among the processes
of one machine: a shared folder may be in use by another. So the text of the file counts as well:
it names the holder, is empty when nobody holds it, and a holder elsewhere is never presumed dead.
"""

import errno
import fcntl
import os
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import anyio
from anyio import to_thread

from pipeline.errors import LedgerUnusable, Locked

__all__ = ["Lock", "lock"]

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


def _try(mine: Lock, break_: bool) -> int | None:
    """The descriptor that holds the lock, None when somebody else does."""
    held = _open(mine.path)
    text = _text(mine.path) if held is None else os.pread(held, _TEXT_BYTES, 0).decode()
    elsewhere = _is_elsewhere(text)
    if break_ and elsewhere:
        # A file of its own: who holds the old one finds by its name that it is not theirs.
        fresh = mine.path.with_name(f".{mine.path.name}-{mine.word}~overnight")
        if held is not None:
            os.close(held)
        held = _open(fresh)
        os.replace(fresh, mine.path)
    elif held is not None and elsewhere:
        os.close(held)
        return None
    if held is not None:
        os.ftruncate(held, 0)
        os.pwrite(held, mine.text.encode(), 0)
        os.fsync(held)
    return held


def _open(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise LedgerUnusable(f"cannot open {path}: {error.strerror}") from error
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
        return path.read_text("utf-8", "replace")[:_TEXT_BYTES]
    return ""


def _holder(text: str) -> str:
    """Host, process and since when."""
    return " ".join(text.split()[:3]) or "no name given"


def _is_elsewhere(text: str) -> bool:
    return bool(text.strip()) and text.split()[0] != socket.gethostname()


def _way_out(text: str) -> str:
    if not _is_elsewhere(text):
        return ""
    return (
        "; it runs on another machine: if you know that it has ended there, take the folder over"
        " with `--break-lock`"
    )
