"""
What lies on the shelf: in, the folder of the results; out, its files, and the transcripts in them.

Everything here blocks and only reads.
"""

import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.errors import AnswerUnusable, ServiceUnavailable, SettingsError
from pipeline.events import printable
from pipeline.files import regular
from pipeline.wire import Head, parse_head

__all__ = ["Whole", "files_below", "replaced_ids", "transcripts_below", "whole"]


@dataclass(frozen=True, slots=True)
class Whole:
    """A file as it lies there."""

    head: Head | None
    """What the transcript in it says, None when it is none, or not a whole one."""
    size: int
    """Bytes."""
    digest: str
    """sha256, hex."""


def whole(place: bytes) -> Whole:
    """
    What a file is and holds, without a copy of it in memory.

    Raises:
        OSError: it is not there, or cannot be read.
    """
    with open(place, "rb", opener=regular) as file:
        if not os.fstat(file.fileno()).st_size:
            return Whole(None, 0, sha256().hexdigest())
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body,
            memoryview(body) as view,
        ):
            try:
                head = parse_head(view)
            except (AnswerUnusable, ServiceUnavailable):
                head = None
            return Whole(head, len(view), sha256(view).hexdigest())


def files_below(folder: bytes, leave_out: bytes = b"") -> Iterator[bytes]:
    """
    The regular files below a folder, relative to it; `leave_out` is a folder not entered.

    Raises:
        SettingsError: a folder cannot be read: what is in it might be what is looked for.
    """
    waiting = [b""]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(os.path.join(folder, inside)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if not leave_out or os.path.realpath(entry.path) != leave_out:
                            waiting.append(inside + entry.name + b"/")
                    elif entry.is_file(follow_symlinks=False):
                        yield inside + entry.name
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            where = printable(os.path.join(folder, inside))
            raise SettingsError(f"cannot read the folder {where}: {error.strerror}") from error


def transcripts_below(folder: bytes, leave_out: bytes = b"") -> Iterator[tuple[bytes, Whole, Head]]:
    """Each completed transcript below a folder that is whole: its name, and what it is."""
    for name in files_below(folder, leave_out):
        if name.endswith(b".json"):
            with suppress(OSError):  # gone meanwhile, or not to be read: not whole for us
                found = whole(os.path.join(folder, name))
                head = found.head
                if head is not None and head.is_result:
                    yield name, found, head


def replaced_ids(state: Path) -> Iterator[str]:
    """The transcripts whose results were replaced, and are kept in the state folder."""
    for _, _, head in transcripts_below(os.fsencode(state / "versions")):
        yield head.id
