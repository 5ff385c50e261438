"""
Files that are whole or absent: in, blocking calls on paths; out, the same as one hop to a thread.

What is written goes to a temporary name, is flushed to the disk, renamed, and the name flushed
too: after a crash at any instant the old file, the new one, or none is there, never a part.
Source: https://www.kernel.org/doc/html/latest/filesystems/ext4/ and rename(2), fsync(2).
"""

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial, wraps
from hashlib import file_digest
from io import FileIO
from secrets import token_hex
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from pipeline.names import temporary
from pipeline.threads import Threads

__all__ = [
    "abandon",
    "cannot_write",
    "copy_whole",
    "in_thread",
    "keep_standing",
    "made",
    "obstacle",
    "probe",
    "put",
    "put_in_place",
    "put_whole",
    "read_whole",
    "remove",
    "sha256_of",
    "sync",
    "why_not",
    "write_all",
]

_THREADS = 16
_COPY_BYTES = 1 << 20
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK)

_threads: WeakKeyDictionary[asyncio.AbstractEventLoop, Threads] = WeakKeyDictionary()

P = ParamSpec("P")
R = TypeVar("R")


def in_thread(blocking: Callable[P, R]) -> Callable[P, Coroutine[Any, Any, R]]:
    """A function on files as a coroutine: once begun it is finished, also when cancelled."""

    @wraps(blocking)
    async def hop(*args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        if (threads := _threads.get(loop)) is None:
            threads = _threads[loop] = Threads(_THREADS, "files")
        return await threads.run(partial(blocking, *args, **kwargs))

    return hop


def abandon() -> None:
    """
    Leave every call that is under way in this loop to itself; who waits for it gets an `OSError`.

    For a process that is about to end, and may wait for a disk that does not answer any more. What
    is called from here on has threads of its own.
    """
    threads = _threads.pop(asyncio.get_running_loop(), None)
    if threads is not None:
        threads.abandon()


def probe(folder: bytes) -> os.stat_result:
    """
    Prove that a file can be made in a folder, by making one; it is gone again.

    Raises:
        OSError: it cannot.
    """
    place = os.path.join(folder, b".%s~overnight" % token_hex(4).encode())
    try:
        with open(place, "xb") as file:
            file.write(b"overnight")
        return os.stat(place)
    finally:
        with suppress(OSError):
            os.unlink(place)


@in_thread
def cannot_write(folder: bytes) -> bool:
    """Whether no file can be made in a folder."""
    try:
        probe(folder)
    except OSError:
        return True
    return False


def why_not(place: bytes) -> str | None:
    """Why no file could be put at a place, in a folder that may have to be made; None: it could."""
    try:
        if stat.S_ISDIR(os.lstat(place).st_mode):
            return f"{_shown(place)} is a folder"
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # its name is too long for the disk, say
        return str(error.strerror)
    folder = os.path.dirname(os.path.abspath(place))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        return f"{_shown(folder)} is no folder"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{_shown(folder)} is not writable"
    return None


obstacle = in_thread(why_not)
"""The same, for those who are in no thread yet."""


@in_thread
def copy_whole(source: bytes, target: bytes) -> tuple[str, int]:
    """Copy a file, in a folder made as needed; the sha256 (hex) and size (bytes) of the copy."""
    with open(source, "rb") as file, made(target) as copy:
        shutil.copyfileobj(file, copy, _COPY_BYTES)
    with open(target, "rb") as copy:
        return file_digest(copy, "sha256").hexdigest(), os.path.getsize(target)


@in_thread
def put_in_place(fresh: bytes, place: bytes) -> None:
    """Make a whole file durable, then visible under its name, then its name durable."""
    _put(fresh, place)


def put(
    body: bytes,
    fresh: bytes,
    place: bytes,
    digest: str,
    kept_as: Callable[[str], bytes] | None = None,
) -> bool:
    """
    Put a file of these bytes, whose sha256 is `digest`, at a place, whole or not at all.

    It is called `fresh` until then. With `kept_as` the same as `keep_standing` comes first.

    Raises:
        OSError: the disk is full, or something is in the way; nothing of it is left.
    """
    replaced = kept_as is not None and _keep_standing(place, digest, kept_as)
    try:
        with made(fresh) as file:
            write_all(file, body)
            os.fsync(file.fileno())
        os.replace(fresh, place)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise
    sync(os.path.dirname(place))
    return replaced


put_whole = in_thread(put)
"""The same, for those who are in no thread yet."""


def write_all(file: FileIO, body: bytes) -> None:
    """
    Write all of it: a raw file may take less than it is given.

    Raises:
        OSError: there is no room for all of it; some may be written.
    """
    left = memoryview(body)
    while left:
        left = left[file.write(left) :]


def made(path: bytes) -> FileIO:
    """A file to be written anew, in a folder that is made if it is not there."""
    try:
        return open(path, "wb", buffering=0)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "wb", buffering=0)


@in_thread
def keep_standing(place: bytes, digest: str, kept_as: Callable[[str], bytes]) -> bool:
    """
    Keep what lies at a place, whoever wrote it, before its name is taken over.

    `kept_as` gives its new name for its sha256. False when there is nothing, or just what is to be
    put there, which has the sha256 `digest`.

    Raises:
        OSError: it cannot be kept.
    """
    return _keep_standing(place, digest, kept_as)


def _keep_standing(place: bytes, digest: str, kept_as: Callable[[str], bytes]) -> bool:
    standing = _sha256_of(place)
    if standing in (None, digest):
        return False
    _keep_version(place, kept_as(str(standing)))
    return True


@in_thread
def read_whole(path: bytes) -> bytes:
    """The bytes of a file."""
    with open(path, "rb") as file:
        return file.read()


@in_thread
def sha256_of(path: bytes) -> str | None:
    """The sha256 of a file, hex; None when it is not there."""
    return _sha256_of(path)


def _sha256_of(path: bytes) -> str | None:
    try:
        with open(path, "rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _keep_version(place: bytes, kept: bytes) -> None:
    """Give a file a second name, durably, before its first is taken over."""
    os.makedirs(os.path.dirname(kept), exist_ok=True)
    with suppress(FileNotFoundError, FileExistsError):
        try:
            os.link(place, kept)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            fresh = temporary(kept)
            shutil.copyfile(place, fresh)
            sync(fresh)
            os.replace(fresh, kept)
    sync(os.path.dirname(kept))


@in_thread
def remove(path: bytes) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _put(fresh: bytes, place: bytes) -> None:
    sync(fresh)
    os.replace(fresh, place)
    sync(os.path.dirname(place))


def sync(path: bytes) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")
