"""
Answers on their way to disk: in, bytes as they come; out, a whole file, durable under its name.

What the service sends is kept as it came. A small answer stays in memory until it is whole, a
large one goes through a temporary file, and both are read through before they count.
"""

import mmap
from collections.abc import Callable
from hashlib import sha256
from io import FileIO
from typing import Self

import anyio

from pipeline.errors import PipelineError
from pipeline.files import (
    copy_whole,
    in_thread,
    keep_standing,
    made,
    put_in_place,
    put_whole,
    regular,
    remove,
    write_all,
)
from pipeline.names import temporary, version
from pipeline.wire import Head, parse_head

__all__ = ["Spool", "head_of", "standing_head"]

_HELD_BYTES = 1 << 20
_QUICK_BYTES = 64 << 10  # checked in 0.1 ms: the way to a thread and back takes as long


async def head_of(path: bytes) -> Head:
    """
    What a saved answer says.

    Raises:
        ServiceUnavailable: it is no whole transcript.
        OSError: it cannot be read.
    """
    head, _, _ = await _check(path)
    return head


async def standing_head(path: bytes) -> Head | None:
    """The whole answer that lies at a path; None where there is none."""
    try:
        return await head_of(path)
    except (PipelineError, OSError, ValueError):  # the last is what an empty file is
        return None


class Spool:
    """
    An answer on its way to `place`: small ones in memory, larger ones in a temporary file there.

    The file's name has `tag` in it, since an older answer may be on its way to the same place.
    Whatever happens, nothing temporary is left behind on leaving.
    """

    def __init__(self, place: bytes, tag: str) -> None:
        self.place = place
        self.digest = ""
        """sha256 of the answer, hex."""
        self.size = 0
        """Bytes of the answer."""
        self._tag = tag
        self._fresh = temporary(version(place, tag))
        self._held = bytearray()
        self._file: FileIO | None = None
        self._is_on_disk = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._is_on_disk:
            with anyio.CancelScope(shield=True):
                await self.rewind()

    async def rewind(self) -> None:
        """Begin anew."""
        self._held.clear()
        self._close()
        if self._is_on_disk:
            await remove(self._fresh)
            self._is_on_disk = False

    async def write(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        self._held += chunk
        if len(self._held) > _HELD_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        if self._file is None:
            self._is_on_disk = True
            self._file = await _open(self._fresh)
        await _write(self._file, bytes(self._held))
        self._held.clear()

    async def close(self) -> None:
        """Write out what is still in memory."""
        await self._flush()
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()  # never blocks: nothing is buffered
            self._file = None

    async def finish(self) -> Head:
        """
        What the answer says, the whole of it having been read.

        Raises:
            ServiceUnavailable: it is not whole.
        """
        if self._file is None:
            body = bytes(self._held)
            is_quick = len(body) <= _QUICK_BYTES
            checked = _checked(body) if is_quick else await _checked_beside(body)
            head, self.digest, self.size = checked
        else:
            await self.close()
            head, self.digest, self.size = await _check(self._fresh)
        return head

    async def head(self) -> Head:
        """What a copied answer says."""
        return await head_of(self._fresh)

    async def copy_from(self, source: bytes) -> str:
        """
        Take a file for the answer; the sha256 of what was copied, hex.

        Raises:
            OSError: it cannot be read, or there is no room for the copy.
        """
        self._is_on_disk = True
        self.digest, self.size = await copy_whole(source, self._fresh)
        return self.digest

    async def put(self, place: bytes, kept_as: Callable[[str], bytes] | None = None) -> bool:
        """
        Make the answer durable at `place`; its own place must be the last.

        With `kept_as`, which is given the sha256 of another file that stands there, that file gets
        such a name first; whether there was one.

        Raises:
            OSError: the disk is full, or something is in the way.
        """
        if not self._is_on_disk:
            fresh = temporary(version(place, self._tag))
            return await put_whole(bytes(self._held), fresh, place, self.digest, kept_as)
        replaced = kept_as is not None and await keep_standing(place, self.digest, kept_as)
        if place == self.place:
            await put_in_place(self._fresh, place)
            self._is_on_disk = False
            return replaced
        copy = temporary(version(place, self._tag))
        try:
            await copy_whole(self._fresh, copy)
            await put_in_place(copy, place)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await remove(copy)
            raise
        return replaced


_open = in_thread(made)
_write = in_thread(write_all)


@in_thread
def _check(path: bytes) -> tuple[Head, str, int]:
    """What a whole answer in a file says, its sha256 and its size, without a copy in memory."""
    with (
        open(path, "rb", opener=regular) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body,
        memoryview(body) as view,  # let go of by name: an error would keep it, and the map, open
    ):
        return parse_head(view), sha256(view).hexdigest(), len(view)


def _checked(body: bytes) -> tuple[Head, str, int]:
    """The same of an answer in memory."""
    return parse_head(body), sha256(body).hexdigest(), len(body)


_checked_beside = in_thread(_checked)
