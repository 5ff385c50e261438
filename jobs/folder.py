"""
`overnight run`: point it at folders, and every recording under them gets a transcript.

In: folders and settings. Out: results in the output folder, the run's events, and its summary,
which accounts for every recording found.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import anyio
from anyio import to_thread

from jobs.telling import Began, telling
from jobs.transcribe import named_sources, transcribe
from pipeline.errors import SettingsError
from pipeline.events import Emit, Summary
from pipeline.files import read_whole
from pipeline.settings import Settings, plain_text
from pipeline.stages.scan import find_roots

__all__ = ["run_folder", "sample_folder"]

_PIPE_BYTES = 64 * 1024


def sample_folder() -> Path:
    """The recordings that come with the program, what is said in them beside each."""
    return Path(str(files("jobs").joinpath("samples")))


async def run_folder(
    folders: Sequence[Path],
    settings: Settings,
    *,
    sample: bool = False,
    tells: bool = False,
    is_attended: bool = False,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
    clock: Callable[[], float] = time.time,
) -> Summary:
    """
    Transcribe the folders, and tell how it went, as `transcribe` does, also `is_attended`; `tells`
    hooks as well.

    Raises:
        SettingsError: a folder or the list cannot be read, there is neither, or no output.
        BatchError: as `transcribe` does.
    """
    given = [sample_folder()] if sample else folders

    async def run(began: Began | None, emit: Emit) -> Summary:
        listed = await _listed(settings.files_from)
        if not given and listed is None:
            raise SettingsError(
                "which recordings? Name their folder",
                "hint: `overnight run FOLDER -o OUTPUT`, or try `overnight run --sample`",
            )
        if settings.output is None and not settings.dry_run:
            raise SettingsError("where should results go? Name a folder with `--output`")
        roots = await to_thread.run_sync(find_roots, [str(folder) for folder in given or [Path()]])
        return await transcribe(
            settings,
            named_sources(roots, settings),
            listed=listed,
            is_attended=is_attended,
            began=began,
            emit=emit,
            environ=environ,
            clock=clock,
        )

    if not tells:
        return await run(None, emit)
    return await telling(run, settings, emit=emit, environ=environ)


async def _listed(files_from: str | None) -> list[bytes] | None:
    """
    The absolute paths that a list names, which are separated by NUL or newline.

    Raises:
        SettingsError: the list cannot be read, or is UTF-16.
    """
    if files_from is None:
        return None
    try:
        text = await (_stdin() if files_from == "-" else read_whole(os.fsencode(files_from)))
    except OSError as error:
        raise SettingsError(f"cannot read the list {files_from}: {error.strerror}") from error
    try:
        return await to_thread.run_sync(_absolute, text)
    except ValueError as error:
        raise SettingsError(f"cannot read the list {files_from}: {error}") from None


async def _stdin() -> bytes:
    """All that comes on stdin. Waited for in the loop: a thread that reads cannot be stopped."""
    parts: list[bytes] = []
    while not parts or parts[-1]:
        with suppress(PermissionError):  # a regular file, which is always ready
            await anyio.wait_readable(0)
        parts.append(await to_thread.run_sync(os.read, 0, _PIPE_BYTES))
    return b"".join(parts)


def _absolute(text: bytes) -> list[bytes]:
    lines = plain_text(text)
    names = text.split(b"\0") if b"\0" in text else map(_of_line, lines.split(b"\n"))
    parts = [os.path.split(name) for name in names if name]
    # As the roots are: whatever links lead there. The last part may be a link that is not followed.
    return [os.path.join(os.path.realpath(folder or b"."), name) for folder, name in parts]


def _of_line(line: bytes) -> bytes:
    """The name that a line is, perhaps one of Windows; none of a blank one or a comment."""
    if not line.strip() or line.startswith(b"#"):
        return b""
    return line if os.path.lexists(line) else line.removesuffix(b"\r")
