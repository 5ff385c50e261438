"""
Folders -> ledger: what recordings there are, and which of them there is work with.

A recording is a regular file with a media suffix (or one that `include` names), not hidden and in
no hidden folder. The walk runs in a worker thread, a bounded chunk at a time, in the order of the
names; beside each input folder it lists the output folder that mirrors it, so that a result that
is gone or cut is noticed without a question for each.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby

from anyio import CapacityLimiter, to_thread

from pipeline.errors import SettingsError
from pipeline.events import Emit, RecordingFound, Skipped, Warned, printable
from pipeline.ledger import Ledger
from pipeline.models import MAX_UPLOAD_BYTES, SETTLED_S, UNREADABLE, Entry, Root
from pipeline.names import is_temporary, result_name
from pipeline.options import canonical
from pipeline.settings import Settings, glob_pattern

__all__ = ["MEDIA_SUFFIXES", "SETTLED_S", "Listing", "Root", "Scan", "find_roots"]

MEDIA_SUFFIXES = frozenset(
    (
        # What the service lists. Source: https://www.assemblyai.com/docs, FAQ on file types.
        b"3ga 8svx aac ac3 aif aiff alac amr ape au dss flac flv m4a m4b m4p m4r mp3 mpga ogg oga"
        b" mogg opus qcp tta voc wav wma wv webm mts m2ts ts mov mp2 mp4 m4v mxf"
        # Usual relatives; the service goes by content, not by name.
        b" 3gp 3g2 aifc asf avi caf gsm m2t mka mkv mpe mpeg mpg ogv ra rm snd spx vob w64 wmv"
    ).split()
)
"""Suffixes, in lower case, of what is taken for a recording."""

_CHUNK = 1000
_OURS = (b".redacted.mp3", b".redacted.wav")  # written beside the results, perhaps among the input


def find_roots(folders: Sequence[str]) -> list[Root]:
    """
    The roots that folders or files on the command line stand for.

    Raises:
        SettingsError: one does not exist or cannot be read, or two have one name.
    """
    found: dict[tuple[str, bytes | None], str] = {}
    for given in folders:
        path = os.path.realpath(given)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                os.scandir(path).close()
                found[path, None] = os.path.basename(path) or "root"
            elif stat.S_ISREG(mode):
                folder, name = os.path.split(path)
                found[folder, os.fsencode(name)] = os.path.basename(folder) or "root"
            else:
                raise SettingsError(f"`{given}` is neither a folder nor a regular file")
        except OSError as error:
            raise SettingsError(f"cannot read `{given}`: {error.strerror}") from error
    folder_of: dict[str, str] = {}
    for (folder, _), name in found.items():
        if folder_of.setdefault(name, folder) != folder:
            raise SettingsError(
                f"two folders are called `{name}`: their results would mix;"
                " run them one by one, with an output folder each"
            )
    return [
        Root(
            name=printable(os.fsencode(name)),
            folder=os.fsencode(folder),
            prefix=os.fsencode(name) + b"/" if len(folder_of) > 1 else b"",
            only=only,
        )
        for (folder, only), name in found.items()
    ]


class Listing:
    """
    The sizes of the files in the output folder, a folder of it at a time.

    Temporary files of a run that ended are removed on the way: those older than `started_at`,
    the time of the file system when this run began.
    """

    def __init__(self, output: bytes, started_at: float) -> None:
        self._output = output
        self._started_at = started_at
        self._folders: dict[bytes, dict[bytes, int] | None] = {}

    def load(self, folder: bytes) -> dict[bytes, int] | None:
        """
        Names and sizes, bytes, of what is in a folder; empty when there is no such folder.

        None when it cannot be read, which is not the same: nothing in it is known to be gone.
        """
        if len(self._folders) > _CHUNK:
            self._folders.clear()
        sizes: dict[bytes, int] = {}
        try:
            with os.scandir(os.path.join(self._output, folder)) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # renamed meanwhile by whoever writes
                        found = entry.stat(follow_symlinks=False)
                        if not stat.S_ISREG(found.st_mode):
                            continue
                        if not is_temporary(entry.name):
                            sizes[entry.name] = found.st_size
                        elif found.st_mtime < self._started_at:
                            os.unlink(entry.path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            self._folders[folder] = None
            return None
        self._folders[folder] = sizes
        return sizes

    def size_of(self, path: bytes) -> int | None:
        """
        Bytes of a file, by its path relative to the output folder.

        None when it is not there, `UNREADABLE` when its folder cannot be read.
        """
        folder, slash, name = path.rpartition(b"/")
        known = folder + slash in self._folders
        sizes = self._folders[folder + slash] if known else self.load(folder + slash)
        return UNREADABLE if sizes is None else sizes.get(name)


class Scan:
    """One look at all the folders of a run."""

    def __init__(
        self,
        settings: Settings,
        roots: Sequence[Root],
        *,
        listing: Listing,
        leave_out: Iterable[bytes] = (),
        listed: Iterable[bytes] | None = None,
    ) -> None:
        """
        `leave_out` are absolute folders that are never entered, unless they are a root;
        `listed` are the absolute paths to take, instead of all that the roots hold.
        """
        self._settings = settings
        self._roots = roots
        self._listing = listing
        self._leave_out = list(leave_out)
        self._listed = None if listed is None else list(listed)
        self._include = [glob_pattern(glob) for glob in settings.include]
        self._exclude = [glob_pattern(glob) for glob in settings.exclude]
        self._common = None if settings.rules else canonical(settings.transcript)
        self._now = time.time()
        self.ignored = 0
        """Files and links that are no recordings."""
        self.warnings: list[str] = []
        """What could not be looked at; cleared as it is told."""
        self.incomplete = False
        """Whether there was anything that could not be looked at."""

    async def run(
        self, ledger: Ledger, emit: Emit, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Record every recording under the roots in the ledger; `changed` is told of each part."""
        thread = CapacityLimiter(1)
        self._warn_of_outsiders()
        for root in self._roots:
            walk = self._chunks(root)
            while entries := await to_thread.run_sync(next, walk, None, limiter=thread):
                found = await ledger.record_found(
                    root.name, entries, self._listing.size_of, self._settings.formats[1:]
                )
                for path, size in found.work:
                    emit(RecordingFound(recording=printable(root.prefix + path), size=size))
                for path, reason in found.skipped:
                    emit(Skipped(recording=printable(root.prefix + path), reason=reason))
                changed()
            while self.warnings:
                emit(Warned(message=self.warnings.pop(0)))

    def _chunks(self, root: Root) -> Iterator[list[Entry]]:
        entries: list[Entry] = []
        folders = self._folders(root) if self._listed is None else self._listed_folders(root)
        for folder, names in folders:
            self._listing.load(root.prefix + folder)
            for name in names:
                entry = self._entry(root, folder + name)
                if entry is not None:
                    entries.append(entry)
                if len(entries) >= _CHUNK:
                    yield entries
                    entries = []
        if entries:
            yield entries

    def _folders(self, root: Root) -> Iterator[tuple[bytes, list[bytes]]]:
        """Each folder below a root, relative with a final `/`, and the recordings' names in it."""
        if root.only is not None:
            yield b"", [root.only]
            return
        not_again = [root.folder, *self._leave_out]
        entered = {_identity(folder) for folder in not_again if os.path.isdir(folder)}
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            below, names = [], []
            for entry in sorted(self._entries(root, folder), key=lambda entry: entry.name):
                if entry.name.startswith(b"."):
                    continue
                follow, path = self._settings.follow_links, folder + entry.name
                try:
                    if entry.is_dir(follow_symlinks=follow):
                        identity = _identity(entry.path)
                        if identity not in entered:
                            entered.add(identity)
                            below.append(path + b"/")
                    elif entry.is_file(follow_symlinks=follow) and self._is_recording(path):
                        names.append(entry.name)
                    else:
                        self.ignored += 1
                except OSError as error:
                    self._warn(f"cannot look at {printable(path)}", error)
            yield folder, names
            waiting.extend(reversed(below))

    def _entries(self, root: Root, folder: bytes) -> list["os.DirEntry[bytes]"]:
        try:
            with os.scandir(os.path.join(root.folder, folder)) as entries:
                return list(entries)
        except OSError as error:
            self._warn(f"cannot read the folder {printable(folder or root.folder)}", error)
            return []

    def _listed_folders(self, root: Root) -> Iterator[tuple[bytes, list[bytes]]]:
        """The listed paths under a root, by the folder they are in."""
        inside = os.path.join(root.folder, b"")
        below = sorted({p.removeprefix(inside) for p in self._listed or () if p.startswith(inside)})
        for folder, paths in groupby(below, key=lambda path: path[: path.rfind(b"/") + 1]):
            yield folder, [path[len(folder) :] for path in paths]

    def _warn_of_outsiders(self) -> None:
        inside = tuple(os.path.join(root.folder, b"") for root in self._roots)
        for path in self._listed or ():
            if not path.startswith(inside):
                self.incomplete = True
                self.warnings.append(f"{printable(path)} is listed, and in none of the folders")

    def _is_recording(self, path: bytes) -> bool:
        text = os.fsdecode(path)
        if _is_redacted(path) or any(pattern.fullmatch(text) for pattern in self._exclude):
            return False
        suffix = os.path.splitext(path)[1][1:].lower()
        return suffix in MEDIA_SUFFIXES or any(pattern.fullmatch(text) for pattern in self._include)

    def _entry(self, root: Root, path: bytes) -> Entry | None:
        where = os.path.join(root.folder, path)
        try:
            found = os.stat(where, follow_symlinks=self._settings.follow_links)
        except OSError as error:
            self._warn(f"cannot look at {printable(path)}", error)
            return None
        if not stat.S_ISREG(found.st_mode):
            self.ignored += 1
            return None
        options = self._common or canonical(self._settings.options_for(os.fsdecode(path)))
        return Entry(
            path=path,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=found.st_ctime_ns,
            inode=found.st_ino,
            settled=self._now - found.st_mtime >= SETTLED_S,
            options=options,
            result=result_name(path, root.prefix),
            skip=self._reason_to_skip(found),
        )

    def _reason_to_skip(self, found: os.stat_result) -> str | None:
        size, age_s, settings = found.st_size, self._now - found.st_mtime, self._settings
        if size == 0:
            return "it is empty"
        if size > MAX_UPLOAD_BYTES:
            return f"it is larger than the {MAX_UPLOAD_BYTES:,} bytes that the service takes"
        if settings.min_age is not None and age_s < settings.min_age:
            return "it changed a moment ago and may still be written (`--min-age`)"
        if settings.max_age is not None and age_s > settings.max_age:
            return "it is older than `--max-age`"
        if settings.min_size is not None and size < settings.min_size:
            return "it is smaller than `--min-size`"
        if settings.max_size is not None and size > settings.max_size:
            return "it is larger than `--max-size`"
        return None

    def _warn(self, what: str, error: OSError) -> None:
        self.incomplete = True
        self.warnings.append(f"{what}: {error.strerror}")


def _is_redacted(path: bytes) -> bool:
    """Whether this is audio saved beside a result: `a.wav.redacted.mp3`, not `a.redacted.mp3`."""
    for suffix in _OURS:
        if path.endswith(suffix):
            return os.path.splitext(path.removesuffix(suffix))[1][1:].lower() in MEDIA_SUFFIXES
    return False


def _identity(folder: bytes) -> tuple[int, int]:
    """What two names of one folder have in common."""
    found = os.stat(folder)
    return found.st_dev, found.st_ino
