"""
Accepted attempts as files: in, the `runs` folder of a state folder; out, what its journals say.

Each run that asks for anything has a journal of its own, `attempts.ndjson`. Its first line says
that the run may ask, and is there before it does; another one is added before anybody hears that a
transcript was accepted. So the ledger knows every run that has a journal, and the upload of every
line, unless it was lost or is an older one.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG

import msgspec
from msgspec import structs

from pipeline.addresses import canonical_base_url, provider_kind
from pipeline.files import regular
from pipeline.models import request_key
from pipeline.names import result_name

__all__ = ["Began", "Line", "has_begun", "journals", "last_line", "lines", "parse_line"]

_NAME = "attempts.ndjson"
_HEAD_BYTES = 1 << 12
_TAIL_BYTES = 1 << 20


class Began(msgspec.Struct, frozen=True):
    """The first line: that a run may ask for something from here on."""

    run_id: str
    began_at: float
    """Unix time."""


class Line(msgspec.Struct, frozen=True):
    """A transcript that the service has given an id of, as docs/output.md tells its fields."""

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
    expected_s: float | None = None
    expected_usd: float | None = None
    claimed: bool = False
    """Whether the id may be that of another upload: what became of this one is not known."""

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


def journals(runs: Path) -> dict[str, int]:
    """Every run that has a journal, and how many bytes of it there are by now."""
    sizes: dict[str, int] = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(runs) as entries:
        for entry in entries:
            with suppress(FileNotFoundError, NotADirectoryError):
                found = os.lstat(os.path.join(entry.path, _NAME))
                sizes[entry.name] = found.st_size if S_ISREG(found.st_mode) else 0
    return {run_id: size for run_id, size in sizes.items() if size}


def has_begun(runs: Path, run_id: str, size: int) -> bool:
    """Whether a journal of so many bytes says that its run may have asked for something."""
    with open(runs / run_id / _NAME, "rb", opener=regular) as file:
        return any(map(_is_beginning, file.read(min(_HEAD_BYTES, size)).splitlines()))


def _is_beginning(text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=Began)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def last_line(runs: Path, run_id: str, size: int) -> Line | None:
    """The last transcript that a journal of so many bytes tells of, None where there is none."""
    with open(runs / run_id / _NAME, "rb", opener=regular) as file:
        file.seek(max(0, size - _TAIL_BYTES))
        told = file.read(min(_TAIL_BYTES, size)).splitlines()
    return next(filter(None, map(parse_line, reversed(told))), None)


def _journals(runs: Path) -> list[Path]:
    # A run's folder is called by the second in which it began, and by chance.
    return sorted(
        (path for path in runs.glob(f"*/{_NAME}") if S_ISREG(path.lstat().st_mode)),
        key=lambda path: (path.parent.name.split("-")[0], path.stat().st_mtime_ns),
    )


def parse_line(text: bytes) -> Line | None:
    """What a line says, None if it is no whole one; its provider is spelled as today."""
    try:
        line = msgspec.json.decode(text, type=Line)
        bytes.fromhex(line.path_hex + line.folder_hex + line.result_hex)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not 0 < line.generation < 1 << 31:
        return None
    base_url, kind, key = canonical_base_url(line.base_url), line.provider, line.request_key
    if kind == "custom" and provider_kind(base_url) == "assemblyai":
        kind = "assemblyai"
        key = request_key(line.content, bytes(line.options).decode(), kind)
    return structs.replace(line, base_url=base_url, provider=kind, request_key=key)
