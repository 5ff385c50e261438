"""
One run at a time for each state folder: in, the folder; out, a lock held until the block ends.

The kernel lets go of the lock when the process ends, however it ends. The text of the file tells
who holds it.
"""

import fcntl
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import anyio

from pipeline.errors import Locked

__all__ = ["lock"]

_LOOK_EVERY_S = 1.0


@asynccontextmanager
async def lock(path: Path, *, wait: bool) -> AsyncIterator[None]:
    """
    Hold the lock file at `path`, having waited for it if asked to.

    Raises:
        Locked: another process holds it, and `wait` is False.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while not _try(descriptor):
            if not wait:
                holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
                raise Locked(
                    f"another run holds {path} ({holder or 'no name given'});"
                    " let it finish, or wait for it with `--wait-lock`"
                )
            await anyio.sleep(_LOOK_EVERY_S)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{socket.gethostname()} {os.getpid()} {since}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
