"""
Folders -> ledger: what recordings there are, and which of them there is work with.

A recording is a regular file with a media suffix (or one that `include` names), not hidden and in
no hidden folder. The walk runs in a worker thread, a bounded chunk at a time, in the order of the
names; beside each input folder it lists the output folder that mirrors it, so that a result that
is gone or cut is noticed without a question for each.
"""

import math
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby, islice

from anyio import CancelScope

from pipeline.errors import SettingsError
from pipeline.events import Emit, RecordingFound, Skipped, Warned, printable
from pipeline.exclusions import Exclusions, PassedOver
from pipeline.files import in_thread
from pipeline.ledger import Ledger
from pipeline.losses import Held, Loss, filters_of, loss_of
from pipeline.models import (
    MAX_UPLOAD_BYTES,
    UNREADABLE,
    Entry,
    Root,
    Turn,
    age_s,
    is_settled,
    signed,
)
from pipeline.names import derived, is_temporary, result_name
from pipeline.options import canonical
from pipeline.settings import Settings, address_in, glob_pattern

__all__ = ["MEDIA_SUFFIXES", "Listing", "Root", "Scan", "find_roots"]

_FIRST_SUFFIXES = frozenset(
    (
        # What the service lists. Source: https://www.assemblyai.com/docs, FAQ on file types.
        b"3ga 8svx aac ac3 aif aiff alac amr ape au dss flac flv m4a m4b m4p m4r mp3 mpga ogg oga"
        b" mogg opus qcp tta voc wav wma wv webm mts m2ts ts mov mp2 mp4 m4v mxf"
        # Usual relatives; the service goes by content, not by name.
        b" 3gp 3g2 aifc asf avi caf gsm m2t mka mkv mpe mpeg mpg ogv ra rm snd spx vob w64 wmv"
    ).split()
)
_LATER_SUFFIXES = frozenset(b"qta wave bwf rf64 awb ogx mp4a".split())
"""What the first versions of this program did not take."""

MEDIA_SUFFIXES = _FIRST_SUFFIXES | _LATER_SUFFIXES
"""Suffixes, in lower case, of what is taken for a recording."""

_CHUNK = 1000
"""Recordings looked up at a time."""

_PART = 200
"""Of them noted in one transition: others wait for it, so it takes no longer than a sync."""

_ENDED = 5000
"""The same of those that there is nothing to be noted of but that they are there."""

_MOST_SORTED = 10_000
"""Entries of one folder that are held and sorted at a time."""

_FURTHEST = 2**63 - 1
"""Place of what is older or newer than a ledger can tell."""
_YEAR_S = 366 * 86_400.0

_Found = tuple[bytes, os.stat_result]
_OURS = (b".redacted.mp3", b".redacted.wav")  # written beside the results, perhaps among the input


def find_roots(folders: Sequence[str]) -> list[Root]:
    """
    The roots that folders or files on the command line stand for: one for each folder, and one for
    all files of a folder.

    Raises:
        SettingsError: one does not exist or cannot be read, or two have one name.
    """
    found: dict[tuple[str, bool], str] = {}
    files: dict[str, set[bytes]] = {}
    for given in folders:
        path = os.path.realpath(given)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                os.scandir(path).close()
                found[path, False] = os.path.basename(path) or "root"
            elif stat.S_ISREG(mode):
                folder, name = os.path.split(path)
                found[folder, True] = os.path.basename(folder) or "root"
                files.setdefault(folder, set()).add(os.fsencode(name))
            else:
                raise SettingsError(f"`{given}` is neither a folder nor a regular file")
        except OSError as error:
            if address := address_in(given):
                raise SettingsError(
                    f"`{address}`: addresses are not supported yet; name a folder of this machine"
                ) from None
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
            only=tuple(sorted(files[folder])) if is_of_files else None,
        )
        for (folder, is_of_files), name in found.items()
    ]


class Listing:
    """
    The sizes of what lies in the output folder, asked for once where a result is expected.

    Temporary files of a run that ended are removed on the way: those older than `started_at`,
    the time of the file system when this run began.
    """

    def __init__(self, output: bytes, started_at: float) -> None:
        self._inside = os.path.join(output, b"")
        self._started_at = started_at
        self._sizes: dict[bytes, int | None] = {}

    def sweep(self, folder: bytes) -> bool:
        """Remove what is left unfinished in a folder; whether there is such a folder."""
        try:
            with os.scandir(os.path.join(self._inside, folder)) as entries:
                for entry in entries:
                    if entry.name.startswith(b".") and is_temporary(entry.name):
                        self._remove(entry)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            pass  # what is expected in it is asked for by its name
        return True

    def _remove(self, entry: "os.DirEntry[bytes]") -> None:
        with suppress(FileNotFoundError):  # renamed meanwhile by whoever writes
            found = entry.stat(follow_symlinks=False)
            # Nothing that is under way is of next year: that is of a clock that was ahead.
            is_old = not self._started_at <= found.st_mtime < self._started_at + _YEAR_S
            if stat.S_ISREG(found.st_mode) and is_old:
                os.unlink(entry.path)

    def expect(self, path: bytes) -> None:
        """Look at a file, so that `size_of` need not."""
        self._sizes[path] = self._look(path)

    def forget(self) -> None:
        """Forget what was looked at."""
        self._sizes.clear()

    def size_of(self, path: bytes) -> int | None:
        """
        Bytes of a file, by its path relative to the output folder.

        None when it is not there, `UNREADABLE` when its folder cannot be read.
        """
        return self._sizes[path] if path in self._sizes else self._look(path)

    def _look(self, path: bytes) -> int | None:
        try:
            found = os.lstat(self._inside + path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:
            return UNREADABLE
        return found.st_size if stat.S_ISREG(found.st_mode) else None


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
        now: float | None = None,
        by_age: bool = False,
    ) -> None:
        """
        `leave_out` are absolute folders that are never entered, unless they are a root;
        `listed` are the absolute paths to take, instead of all that the roots hold; `now` is the
        time, Unix seconds, by which ages count; with `by_age` what has been lying there for long
        has its turn after all else.
        """
        self._settings = settings
        self._roots = roots
        self._listing = listing
        self._leave_out = list(leave_out)
        self._listed = None if listed is None else list(listed)
        self._include = [glob_pattern(glob) for glob in settings.include]
        self.exclusions = Exclusions(settings.exclude)
        self._common = None if settings.rules else canonical(settings.transcript)
        self._now = time.time() if now is None else now
        self._fresh_since = self._now - settings.backlog.older_than if by_age else -math.inf
        self.passed = PassedOver()
        """What lies there and is not taken."""
        self.warnings: list[str] = []
        """What could not be looked at; cleared as it is told."""
        self.incomplete = False
        """Whether there was anything that could not be looked at."""
        self.is_through = False
        """Whether it came to its end."""
        self.held: list[Held] = []
        """Of each folder that was seen whole, what it holds."""
        self.losses: list[Loss] = []
        """Those of them that hold much less than before."""

    async def run(
        self, ledger: Ledger, emit: Emit, changed: Callable[[], None] = lambda: None
    ) -> None:
        """Record every recording under the roots in the ledger; `changed` is told of each part."""
        self._warn_of_outsiders()
        formats, size_of = self._settings.formats[1:], self._listing.size_of
        for root in self._roots:
            ended, walk, held = list[tuple[int, str]](), self._chunks(root), 0
            later = None
            if root.only is None and self._listed is None and await ledger.has_found(root.name):
                later = _Later(root.name)
            try:
                while entries := await _next(walk):
                    held += len(entries)
                    known = await ledger.look_up(root.name, entries, size_of, formats)
                    ended += known.ended
                    if later is not None:
                        await later.note(ledger, known.others)
                    for others in _parts(known.others):
                        found = await ledger.record_found(root.name, others, size_of, formats)
                        for path, size in found.work:
                            label = printable(root.prefix + path)
                            phase = found.phases.get(path)
                            emit(RecordingFound(recording=label, size=size, phase=phase))
                        for path, reason in found.skipped:
                            emit(Skipped(recording=printable(root.prefix + path), reason=reason))
                        changed()
                    if len(ended) >= _ENDED:
                        await ledger.record_ended(ended)
                        ended = []
            finally:  # a stop must not keep what was seen from being accounted for
                with CancelScope(shield=True):
                    await ledger.record_ended(ended)
            if later is not None and later.taken:
                emit(Warned(message=later.message))
            if root.only is None and self._listed is None and not self.warnings:
                await self._compare(ledger, root, held, emit)
            while self.warnings:
                emit(Warned(message=self.warnings.pop(0)))
        self.is_through = True

    def holds_any(self) -> bool:
        """Whether there is any recording to take. Blocks until the first; `warnings` are kept."""
        for root in self._roots:
            folders = self._folders(root) if root.only is None else self._only(root, root.only)
            if any(True for _, found in folders for _ in found):
                return True
        return False

    async def _compare(self, ledger: Ledger, root: Root, recordings: int, emit: Emit) -> None:
        """Hold a folder that was seen whole against the last time that it was."""
        filters = filters_of(self._settings, root, self._leave_out)
        held = Held(root.name, filters, recordings, self._now)
        loss = loss_of(held, await ledger.held(root.name, filters), self._settings.zone)
        self.held.append(held)  # not before: a stop would have it noted, and not told
        if loss is not None and self._settings.shrink:
            self.losses.append(loss)
            emit(Warned(message=loss.message))

    def _chunks(self, root: Root) -> Iterator[list[Entry]]:
        entries: list[Entry] = []
        if root.only is not None:
            folders = self._only(root, root.only)
        elif self._listed is not None:
            folders = self._listed_folders(root)
        else:
            folders = self._folders(root)
        formats, listing = self._settings.formats[1:], self._listing
        for folder, found_in_it in folders:
            has_results = listing.sweep(root.prefix + folder)
            for name, found in found_in_it:
                entry = self._entry(root, folder + name, found)
                entries.append(entry)
                if has_results:
                    listing.expect(entry.result)
                    for suffix in formats:
                        listing.expect(derived(entry.result, suffix))
                if len(entries) >= _CHUNK:
                    yield entries
                    entries = []
                    listing.forget()
        if entries:
            yield entries
            listing.forget()

    def _only(self, root: Root, names: Iterable[bytes]) -> Iterator[tuple[bytes, Iterator[_Found]]]:
        """The same of a root that is some files of its folder."""
        yield b"", self._named(root, b"", names)

    def _folders(self, root: Root) -> Iterator[tuple[bytes, Iterator[_Found]]]:
        """Each folder below a root, relative with a final `/`, and the recordings in it."""
        not_again = [root.folder, *self._leave_out]
        entered = {_identity(os.stat(folder)) for folder in not_again if os.path.isdir(folder)}
        waiting = [b""]
        while waiting:
            folder = waiting.pop()
            below: list[bytes] = []
            yield folder, self._in_folder(root, folder, entered, below)
            waiting.extend(reversed(below))

    def _in_folder(
        self, root: Root, folder: bytes, entered: set[tuple[int, int]], below: list[bytes]
    ) -> Iterator[_Found]:
        """The recordings right in a folder; the folders in it are added to `below`."""
        follow = self._settings.follow_links
        for entry in self._entries(root, folder):
            name = entry.name
            try:
                if name.startswith(b"."):
                    self._hide(root, folder, entry, entered)
                elif entry.is_dir(follow_symlinks=follow):
                    # Without links no folder is met twice: only those from before count.
                    identity = _identity(entry.stat(follow_symlinks=follow))
                    if identity in entered:
                        if entry.is_symlink():
                            self.passed.leave_link(_called(root, folder + name))
                        continue
                    if self._is_excluded(folder + name, is_folder=True):
                        self._pass_over(root, folder + name + b"/", entered)
                        continue
                    below.append(folder + name + b"/")
                    if follow:
                        entered.add(identity)
                elif entry.is_file(follow_symlinks=follow):
                    if self._is_taken(root, folder, name):
                        yield name, entry.stat(follow_symlinks=follow)
                elif entry.is_symlink():
                    self.passed.leave_link(_called(root, folder + name))
                else:
                    self.passed.ignore(_called(root, folder + name), None)
            except OSError as error:
                self._warn(f"cannot look at {printable(folder + name)}", error)

    def _hide(
        self, root: Root, folder: bytes, entry: "os.DirEntry[bytes]", entered: set[tuple[int, int]]
    ) -> None:
        """Count what is hidden, but for what is ours."""
        if entry.is_dir(follow_symlinks=False):
            is_ours = _identity(entry.stat(follow_symlinks=False)) in entered
        else:
            is_ours = is_temporary(entry.name)
        if not is_ours:
            self.passed.hide(_called(root, folder + entry.name))

    def _pass_over(self, root: Root, excluded: bytes, entered: set[tuple[int, int]]) -> None:
        """Count the recordings in an excluded folder, as far as it can be read."""
        count, waiting = 0, [excluded]
        while waiting:
            folder = waiting.pop()
            with suppress(OSError), os.scandir(os.path.join(root.folder, folder)) as entries:
                for entry in entries:
                    path = folder + entry.name
                    if entry.name.startswith(b"."):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        self._is_excluded(path, is_folder=True)
                        if _identity(entry.stat(follow_symlinks=False)) not in entered:
                            waiting.append(path + b"/")
                    elif entry.is_file(follow_symlinks=False):
                        self._is_excluded(path)
                        if self._is_recording(folder, entry.name):
                            self.passed.exclude(_called(root, path))
                            count += 1
        self.passed.exclude_in(_called(root, excluded), count)

    def _entries(self, root: Root, folder: bytes) -> Iterator["os.DirEntry[bytes]"]:
        """What is in a folder, by name: all of it, or part by part where it is very much."""
        try:
            with os.scandir(os.path.join(root.folder, folder)) as entries:
                while part := list(islice(entries, _MOST_SORTED)):
                    part.sort(key=_name, reverse=True)
                    while part:  # let go of one by one: each keeps what it was asked
                        yield part.pop()
        except OSError as error:
            self._warn(f"cannot read the folder {printable(folder or root.folder)}", error)

    def _listed_folders(self, root: Root) -> Iterator[tuple[bytes, Iterator[_Found]]]:
        """The listed paths under a root, by the folder they are in."""
        inside = os.path.join(root.folder, b"")
        below = sorted({p.removeprefix(inside) for p in self._listed or () if p.startswith(inside)})
        for folder, paths in groupby(below, key=lambda path: path[: path.rfind(b"/") + 1]):
            yield folder, self._named(root, folder, [path[len(folder) :] for path in paths])

    def _named(self, root: Root, folder: bytes, names: Iterable[bytes]) -> Iterator[_Found]:
        """Those of the named files that are there, whatever they are called."""
        for name in names:
            where = os.path.join(root.folder, folder, name)
            try:
                found = os.stat(where, follow_symlinks=self._settings.follow_links)
            except OSError as error:
                self._warn(f"cannot look at {printable(folder + name)}", error)
                continue
            if stat.S_ISREG(found.st_mode):
                yield name, found
            elif stat.S_ISLNK(found.st_mode):
                self.passed.leave_link(_called(root, folder + name))
            else:
                self.passed.ignore(_called(root, folder + name), None)

    def _warn_of_outsiders(self) -> None:
        inside = tuple(os.path.join(root.folder, b"") for root in self._roots)
        for path in self._listed or ():
            if not path.startswith(inside):
                self.incomplete = True
                self.warnings.append(f"{printable(path)} is listed, and in none of the folders")

    def _is_taken(self, root: Root, folder: bytes, name: bytes) -> bool:
        """Whether a file is a recording that is not left out; what is passed over is counted."""
        is_recording = self._is_recording(folder, name)
        is_excluded = self._is_excluded(folder + name)
        if not is_recording:
            self.passed.ignore(_called(root, folder + name), printable(_suffix(name)))
        elif is_excluded:
            self.passed.exclude(_called(root, folder + name))
        return is_recording and not is_excluded

    def _is_excluded(self, path: bytes, *, is_folder: bool = False) -> bool:
        return bool(self.exclusions) and self.exclusions.match(
            os.fsdecode(path), is_folder=is_folder
        )

    def _is_recording(self, folder: bytes, name: bytes) -> bool:
        is_media = _suffix(name) in MEDIA_SUFFIXES
        if not (is_media or self._include) or (name.endswith(_OURS) and _is_redacted(name)):
            return False
        if is_media:
            return True
        text = os.fsdecode(folder + name)
        return any(pattern.fullmatch(text) for pattern in self._include)

    def _entry(self, root: Root, path: bytes, found: os.stat_result) -> Entry:
        options = self._common or canonical(self._settings.options_for(os.fsdecode(path)))
        return Entry(
            path=path,
            size=found.st_size,
            mtime_ns=signed(found.st_mtime_ns),
            ctime_ns=signed(found.st_ctime_ns),
            inode=signed(found.st_ino),
            settled=is_settled(found, self._now),
            options=options,
            result=result_name(path, root.prefix),
            skip=self._reason_to_skip(found),
            turn=Turn.NEW if found.st_mtime >= self._fresh_since else Turn.BACKLOG,
            place=self._place(found),
        )

    def _place(self, found: os.stat_result) -> int:
        """Where a recording stands in the order that the user named."""
        match self._settings.order:
            case "largest":
                return -found.st_size
            case "smallest":
                return found.st_size
            case "newest":
                return min(max(-found.st_mtime_ns, -_FURTHEST), _FURTHEST)
            case "oldest":
                return min(max(found.st_mtime_ns, -_FURTHEST), _FURTHEST)
        return 0

    def _reason_to_skip(self, found: os.stat_result) -> str | None:
        size, age, settings = found.st_size, age_s(found, self._now), self._settings
        if size == 0:
            return "it is empty"
        if size > MAX_UPLOAD_BYTES:
            return f"it is larger than the {MAX_UPLOAD_BYTES:,} bytes that the service takes"
        if age is not None and settings.min_age is not None and age < settings.min_age:
            return "it changed a moment ago and may still be written (`--min-age`)"
        if age is not None and settings.max_age is not None and age > settings.max_age:
            return "it is older than `--max-age`"
        if settings.min_size is not None and size < settings.min_size:
            return "it is smaller than `--min-size`"
        if settings.max_size is not None and size > settings.max_size:
            return "it is larger than `--max-size`"
        return None

    def _warn(self, what: str, error: OSError) -> None:
        self.incomplete = True
        self.warnings.append(f"{what}: {error.strerror}")


class _Later:
    """What this run takes of an archive that older versions of this program passed over."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._is_new = dict[bytes, bool]()
        self.taken = Counter[bytes]()
        """How many recordings, by suffix."""

    async def note(self, ledger: Ledger, entries: Iterable[Entry]) -> None:
        """Look at entries of which the ledger has not been told yet."""
        for entry in entries:
            suffix = _suffix(entry.path[entry.path.rfind(b"/") + 1 :])
            if suffix not in _LATER_SUFFIXES or entry.skip:
                continue
            if suffix not in self._is_new:
                self._is_new[suffix] = not await ledger.has_found(self._root, b"." + suffix)
            if self._is_new[suffix]:
                self.taken[suffix] += 1

    @property
    def message(self) -> str:
        taken = {suffix.decode(): count for suffix, count in self.taken.most_common()}
        named = ", ".join(f".{suffix} {count:,}" for suffix, count in taken.items())
        return (
            f"{self._root}: taken by their names for the first time, and paid for: {named};"
            f" `--exclude '*.{next(iter(taken))}'` leaves them out"
        )


def _is_redacted(name: bytes) -> bool:
    """Whether this is audio saved beside a result: `a.wav.redacted.mp3`, not `a.redacted.mp3`."""
    for suffix in _OURS:
        if name.endswith(suffix):
            return _suffix(name.removesuffix(suffix)) in MEDIA_SUFFIXES
    return False


def _suffix(name: bytes) -> bytes:
    """What follows the last dot of a name that is not hidden, in lower case."""
    return name[name.rfind(b".") + 1 :].lower() if b"." in name else b""


def _called(root: Root, path: bytes) -> str:
    """How what lies in a root is called in events."""
    return printable(root.prefix + path)


def _parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    return (entries[at : at + _PART] for at in range(0, len(entries), _PART))


def _name(entry: "os.DirEntry[bytes]") -> bytes:
    return entry.name


def _identity(found: os.stat_result) -> tuple[int, int]:
    """What two names of one folder have in common."""
    return found.st_dev, found.st_ino


@in_thread
def _next(walk: Iterator[list[Entry]]) -> list[Entry] | None:
    return next(walk, None)
