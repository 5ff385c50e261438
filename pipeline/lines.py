"""
Lines on their way out: in, text as it comes; out, the same in a stream, and without secrets.

A secret that was named to `hide` leaves `masked` as `***`, wherever in a line it stands. What a
terminal would obey, or take for the end of a line, leaves `visible` as text.
"""

import json
import re
import threading
from queue import SimpleQueue
from typing import BinaryIO, Self

__all__ = ["LineWriter", "hide", "masked", "plain", "visible"]

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


class LineWriter:
    """
    Appends lines to a stream from a thread of its own, each flushed, so that no caller waits.

    What cannot be written, to a closed pipe or a full disk, is dropped and counted in `lost`:
    who tells a fact is not to fail for who listens. When left, all lines are written.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.lost = 0
        self._stream = stream
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="line-writer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits until all lines are written, or dropped."""
        self._lines.put(None)
        self._thread.join()

    def __call__(self, line: bytes) -> None:
        """Takes one line, without its newline, and returns at once."""
        self._lines.put(line + b"\n")

    def _write(self) -> None:
        lines: list[bytes | None] = []
        while None not in lines:
            lines = [self._lines.get()]
            while not self._lines.empty():
                lines.append(self._lines.get())
            self._write_all([line for line in lines if line is not None])

    def _write_all(self, lines: list[bytes]) -> None:
        try:
            self._stream.write(b"".join(lines))
            self._stream.flush()
        except OSError:
            self.lost += len(lines)
