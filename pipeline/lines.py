"""
Lines on their way out: in, text as it comes; out, the same in a stream, and without secrets.

A secret that was named to `hide` leaves `masked` as `***`, wherever in a line it stands. What a
terminal would obey, or take for the end of a line, leaves `visible` as text. Who tells a fact
neither fails nor waits for who listens: an `Outlet` takes what its descriptor does not, and what is
told `Aside` leaves from another thread.
"""

import json
import re
import select
import threading
from io import FileIO, TextIOBase
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, Self, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["Aside", "LineWriter", "Outlet", "hide", "masked", "plain", "visible"]

_MOST_LINES = 100_000
"""That wait for a reader: some 20 MB of events."""

_PIPE_BYTES = 64 * 1024
"""Written at once: a slow reader of a pipe is seen to take something."""

_SHORTEST_SECRET = 6
"""Characters. No service gives out a shorter key, and masking one would eat ordinary words."""

_OBEYED = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_OBEYED_ANYWHERE = re.compile(f"[{_OBEYED}]")
_OBEYED_IN_A_LINE = re.compile(rf"(?!\n)[{_OBEYED}]")
_LETTERS = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_secrets: set[str] = set()


def hide(secret: str) -> None:
    """From here on `***` stands for this text in every log line of the process."""
    if len(secret) >= _SHORTEST_SECRET:
        _secrets.update((secret, json.dumps(secret)[1:-1]))


def masked(line: str) -> str:
    """A line without what is to stay secret."""
    for secret in _secrets:
        line = line.replace(secret, "***")
    return line


def visible(text: str) -> str:
    r"""
    A text on one line, of which a terminal obeys nothing: control characters show as `\u001b`.

    So do ends of lines, marks that turn the direction of a text, and halves of characters. What is
    JSON stays it, and says the same.

    Source: Unicode general categories Cc, Cs, Zl, Zp, and the property Bidi_Control.
    """
    return _OBEYED_ANYWHERE.sub(_shown, text)


def plain(text: str) -> str:
    """The same of text that has several lines, which it keeps."""
    return _OBEYED_IN_A_LINE.sub(_shown, text)


def _shown(found: re.Match[str]) -> str:
    return _LETTERS.get(found[0]) or f"\\u{ord(found[0]):04x}"


class Outlet(FileIO):
    """
    A descriptor to write to that fails nobody: what it does not take is dropped.

    Whoever reads a pipe may have enough, or the disk is full: what a command comes to is not for
    that to say. `trouble` is the first that there was.
    """

    trouble: OSError | None = None

    def __init__(self, descriptor: int) -> None:
        """
        Raises:
            OSError: it is not open.
        """
        super().__init__(descriptor, "wb", closefd=False)

    def write(self, body: "ReadableBuffer", /) -> int:
        try:
            # Who started this process may have made the pipe non-blocking, for itself.
            while (written := super().write(body)) is None:
                select.select([], [self], [])
        except OSError as error:
            self.trouble = self.trouble or error
            return memoryview(body).nbytes
        return written


class LineWriter:
    """
    Appends lines to a stream from a thread of its own, each flushed, so that no caller waits.

    What cannot be written, to a closed pipe or a full disk, is dropped and counted in `lost`, and
    so is what 100,000 lines wait before: who tells a fact is not to fail for who listens. When
    left, all lines are written, unless nothing is taken of them for `patience_s` seconds.
    """

    def __init__(self, stream: BinaryIO | FileIO, *, patience_s: float = 60.0) -> None:
        self.lost = 0
        self._stream = stream
        self._patience_s = patience_s
        self._taken = 0
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="line-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until all lines are written, or dropped, for as long as any are taken."""
        self._lines.put(None)
        taken = -1
        while self._thread.is_alive() and taken < self._taken:
            taken = self._taken
            self._thread.join(self._patience_s)
        if self._thread.is_alive():
            self.lost += self._lines.qsize()

    def __call__(self, line: bytes) -> None:
        """Takes one line, without its newline, and returns at once."""
        self.write(line + b"\n")

    def write(self, text: bytes) -> None:
        """Takes what may be a part of a line, or several, and returns at once."""
        if self._lines.qsize() < _MOST_LINES:
            self._lines.put(text)
        else:
            self.lost += 1

    def _write(self) -> None:
        lines: list[bytes | None] = []
        while None not in lines:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get())
            self._write_all([line for line in lines if line is not None])

    def _write_all(self, lines: list[bytes]) -> None:
        left = memoryview(b"".join(lines))
        try:
            while left:
                left = left[self._stream.write(left[:_PIPE_BYTES]) :]
                self._taken += 1
            self._stream.flush()
        except (OSError, ValueError):  # the latter of one that was closed meanwhile
            self.lost += len(lines)


class Aside(TextIOBase):
    """A text stream in the place of another one whose writers never wait for its reader."""

    encoding = "utf-8"
    """Of that one."""

    def __init__(self, stream: TextIO, lines: LineWriter) -> None:
        self.encoding = stream.encoding
        self._stream = stream
        self._lines = lines

    def write(self, text: str) -> int:
        self._lines.write(text.encode(self.encoding, "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
