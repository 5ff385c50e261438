"""
Accepted attempts as files: in, the `runs` folder of a state folder; out, what its journals say.

Each run has a journal of its own, `attempts.ndjson`, to which a line is added before anybody hears
that a transcript was accepted. So the ledger knows the upload of every line, unless it was lost.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

import msgspec

from pipeline.files import regular
from pipeline.names import result_name

__all__ = ["Line", "lines", "newest", "parse_line"]

_TAIL_BYTES = 1 << 20


class Line(msgspec.Struct, frozen=True):
    """A transcript that the service has accepted, as docs/output.md tells its fields."""

    transcript_id: str
    upload_url: str
    request_key: str
    generation: int
    content: str
    options: msgspec.Raw
    provider: str
    base_url: str
    key_fingerprint: str
    root: str
    path: str
    path_hex: str
    accepted_at: float
    folder_hex: str = ""
    result_hex: str = ""

    @property
    def name(self) -> bytes:
        """Path of the recording, relative to its root."""
        return bytes.fromhex(self.path_hex)

    @property
    def folder(self) -> bytes:
        """Absolute path of the root."""
        return bytes.fromhex(self.folder_hex)

    @property
    def result(self) -> bytes:
        """The JSON file, relative to the output folder."""
        return bytes.fromhex(self.result_hex) or result_name(self.name)


def lines(runs: Path) -> Iterator[Line]:
    """Every line of every journal, oldest run first. What a crash tore off is left out."""
    for journal in _journals(runs):
        with open(journal, "rb", opener=regular) as file:
            for text in file:
                if line := parse_line(text):
                    yield line


def newest(runs: Path) -> Line | None:
    """The line that was added last, None where there is none."""
    for journal in reversed(_journals(runs)):
        with open(journal, "rb", opener=regular) as file:
            file.seek(-min(_TAIL_BYTES, os.fstat(file.fileno()).st_size), os.SEEK_END)
            for text in reversed(file.readlines()):
                if line := parse_line(text):
                    return line
    return None


def _journals(runs: Path) -> list[Path]:
    # A run's folder is called by the second in which it began, and by chance.
    return sorted(
        (path for path in runs.glob("*/attempts.ndjson") if S_ISREG(path.lstat().st_mode)),
        key=lambda path: (path.parent.name.split("-")[0], path.stat().st_mtime_ns),
    )


def parse_line(text: bytes) -> Line | None:
    """What a line says, None if it is no whole one."""
    try:
        line = msgspec.json.decode(text, type=Line)
        bytes.fromhex(line.path_hex + line.folder_hex + line.result_hex)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return line if 0 < line.generation < 1 << 31 else None
