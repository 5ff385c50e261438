"""
Whether a night that begins now could work: in, settings; out, what was looked at, one by one.

    output, state, room -> window -> prices -> lock -> ledger -> sources

Nothing is written and nobody asked. Of the ledger a copy is looked at, as a dry run does, so that
what keeps a run from beginning is found by what would keep it. A disk that does not answer is given
up after a while.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from jobs.checks import SOURCE, Check
from jobs.leaving import answered, run_stoppable
from jobs.session import session
from jobs.transcribe import Source, missed_window, require_prices
from pipeline.errors import (
    BatchError,
    DiskFull,
    ExitCode,
    LedgerUnusable,
    Locked,
    OutputNotWritable,
    RoomLow,
    SettingsError,
)
from pipeline.events import moment
from pipeline.guard import room_low
from pipeline.ledger.lock import holder
from pipeline.ledger.mounts import mount_table, remote_file_system
from pipeline.losses import filters_of
from pipeline.models import Root
from pipeline.settings import Settings
from pipeline.stages.scan import Listing, Scan, find_roots

__all__ = ["readiness"]

_DISK_S = 10.0
"""A disk that has to wake needs less."""


def readiness(settings: Settings, environ: Mapping[str, str], now_s: float) -> Iterator[Check]:
    """What a night needs of this machine; `now_s` is the time, Unix seconds."""
    if settings.output is None:
        yield Check("output", "not chosen: name it with `--output`", ExitCode.USAGE)
    folders = {"output": settings.output, "state": settings.state}
    given = {name: folder for name, folder in folders.items() if folder is not None}
    looks = [partial(_place, name, folder) for name, folder in given.items()]
    found = _answered(looks, "output", *given.values())
    yield from found
    is_there = bool(given) and all(check.exit_code is ExitCode.DONE for check in found)
    if is_there:
        yield from _answered([partial(_room, settings)], "room", *given.values())
        yield from _rights(settings)
    yield from _window(settings, now_s, is_there=is_there)
    yield from _prices(settings)
    sources = _looked_at(settings)
    if is_there:
        yield from _answered([partial(_lock, settings)], "lock", settings.state_dir)
        yield _ledger(settings, environ, sources)
    yield from _sources(sources)


def _answered(looks: Sequence[Callable[[], Check]], subject: str, *places: Path) -> list[Check]:
    """What is seen there; a disk that does not answer is one that cannot be worked with."""
    found = []
    for check, place in zip(answered(looks, _DISK_S), places, strict=False):
        silent = f"{place} gave no answer in {_DISK_S:g} s: see whether its disk is there"
        found.append(check or Check(subject, silent, OutputNotWritable.exit_code))
    return found


# --- places ---------------------------------------------------------------------------------------


def _place(name: str, folder: Path) -> Check:
    """Whether a run could write in a folder, which it makes where there is none."""
    there = next(each for each in (folder, *folder.absolute().parents) if os.path.lexists(each))
    cannot = f"{folder} cannot be written: "
    if not there.is_dir():
        return Check(name, f"{cannot}{there} is no folder", OutputNotWritable.exit_code)
    disk = os.statvfs(there)
    if disk.f_flag & os.ST_RDONLY:
        why = f"{cannot}its disk is mounted for reading only"
        return Check(name, why, OutputNotWritable.exit_code)
    if not os.access(there, os.W_OK | os.X_OK):
        why = f"{cannot}this user has no right to, in {there}"
        return Check(name, why, OutputNotWritable.exit_code)
    if disk.f_bavail == 0 or (disk.f_files and disk.f_favail == 0):
        return Check(name, f"{cannot}its disk is full", DiskFull.exit_code)
    if name == "state" and (kind := remote_file_system(folder, mount_table())):
        return Check(name, _remote(folder, kind), LedgerUnusable.exit_code)
    free = shutil.disk_usage(there).free
    made = "" if there == folder else "; a run makes it"
    return Check(name, f"{folder} can be written, {free / 1e9:,.1f} GB are free{made}")


def _remote(folder: Path, kind: str) -> str:
    return (
        f"{folder} is on a network file system ({kind}): keep the ledger on a local disk with"
        " `--state`"
    )


def _room(settings: Settings) -> Check:
    if settings.min_free is None:
        return Check("room", "no more has to be free than results need (`min_free`)")
    if low := room_low(settings, settings.min_free):
        return Check("room", low, RoomLow.exit_code)
    return Check("room", f"{settings.min_free / 1e9:,.2f} GB are free, as `min_free` asks for")


def _rights(settings: Settings) -> list[Check]:
    """Where others than the owner can read who was recorded, and what was asked for."""
    state, found = settings.state_dir, list[Check]()
    private = (stat.S_IMODE(os.stat(state).st_mode) & 0o077) == 0 if state.is_dir() else True
    if private:  # then nobody else reaches what is in it
        return []
    for place in (state, state / "ledger.sqlite3"):
        with suppress(OSError):
            mode = stat.S_IMODE(place.stat().st_mode)
            if mode & 0o077:
                text = f"{place} has the mode {mode:04o}: others can read it; `chmod go=` helps"
                found.append(Check("rights", text, is_warning=True))
    return found


# --- the clock ------------------------------------------------------------------------------------


def _window(settings: Settings, now_s: float, *, is_there: bool) -> Iterator[Check]:
    window, zone = settings.window, settings.zone
    clock = f"{moment(now_s, zone):%H:%M} in {settings.time_zone or 'the zone of this machine'}"
    if window is None:
        yield Check("window", f"none: a run works whenever it starts; it is {clock}")
        return
    closes_at = window.closes_at(now_s, zone)
    if closes_at is not None:
        yield Check("window", f"{window} is open: it is {clock}")
        return
    opens = f"{moment(window.opens_next(now_s, zone), zone):%Y-%m-%d %H:%M}"
    what = f"{window} is closed until {opens}, and a run asks for nothing: it is {clock}"
    yield Check("window", what, ExitCode.WINDOW_CLOSED)
    runs = settings.state_dir / "runs" if is_there else None
    if runs and answered([partial(_missed, settings, runs, now_s)], _DISK_S) == [True]:
        what = "no run worked in the last one: see `overnight nightly status`"
        yield Check("window", what, is_warning=True)


def _missed(settings: Settings, runs: Path, now_s: float) -> bool:
    return runs.is_dir() and missed_window(settings, runs, now_s)


def _prices(settings: Settings) -> Iterator[Check]:
    own = [settings.of_source(each) for each in settings.source] or [settings]
    try:
        require_prices(settings, [Source("", (), each) for each in own])
    except SettingsError as error:
        yield Check("prices", str(error), error.exit_code)


# --- lock and ledger ------------------------------------------------------------------------------


def _lock(settings: Settings) -> Check:
    path = settings.state_dir / "lock"
    if os.path.lexists(path):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            what = f"{path} is no regular file: remove it, or name another folder with `--state`"
            return Check("lock", what, LedgerUnusable.exit_code)
        if not os.access(path, os.R_OK | os.W_OK):
            what = f"{path} is another user's: run as that user, or name another folder"
            return Check("lock", f"{what} with `--state`", LedgerUnusable.exit_code)
    found = holder(path)
    if found is None:
        return Check("lock", "no other run holds it")
    since = moment(found.since, settings.zone)
    what = f"a run holds it since {since:%Y-%m-%d %H:%M}: let it finish"
    if settings.wait_lock:
        return Check("lock", f"{what}; `wait_lock` waits for it", is_warning=True)
    return Check("lock", f"{what}, or wait with `--wait-lock`", Locked.exit_code)


def _ledger(settings: Settings, environ: Mapping[str, str], sources: "list[_Looked]") -> Check:
    """
    What a run would find in its ledger.

    Of the sources that are empty it is noted whether the ledger knows recordings of them.
    """
    path = settings.state_dir / "ledger.sqlite3"
    if kind := remote_file_system(path.parent, mount_table()):
        return Check("ledger", _remote(path.parent, kind), LedgerUnusable.exit_code)
    try:
        tempfile.gettempdir()
        run_stoppable(partial(_opened, settings, environ, sources))
    except (FileNotFoundError, DiskFull) as error:
        what = f"not looked at, since a copy of it has no place: {error}; see `TMPDIR`"
        return Check("ledger", what, is_warning=True)
    except BatchError as error:
        return Check("ledger", "; ".join(map(str, error.args)), error.exit_code)
    if not path.exists():
        return Check("ledger", f"{path} is made by the first run")
    return Check("ledger", f"{path} is sound, as far as a quick look tells")


async def _opened(settings: Settings, environ: Mapping[str, str], sources: "list[_Looked]") -> None:
    """
    Begin as a dry run does, on a copy of the ledger, and ask that.

    Raises:
        BatchError: as a run would.
    """
    dry = settings.model_copy(update={"dry_run": True})
    async with session(dry, emit=lambda _: None, environ=environ) as run:
        ledger = run.context.ledger
        await ledger.require_claimed()
        if damage := await ledger.damage():
            raise LedgerUnusable(f"the ledger of {settings.state_dir} is damaged: {damage}")
        for source in sources:
            before = [await ledger.held(root.name, filters) for root, filters in source.heeded]
            source.is_known = source.is_empty and any(before)


# --- sources --------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Looked:
    """A source, and what was seen of it."""

    name: str
    folder: Path
    problem: str | None = None
    """Why a run would leave it out."""
    roots: list[Root] = field(default_factory=list)
    is_empty: bool = False
    """Whether nothing in it would be taken."""
    unread: str = ""
    """What could not be looked at meanwhile."""
    heeded: list[tuple[Root, str]] = field(default_factory=list)
    """Its roots whose losses are told, with their filters."""
    is_known: bool = False
    """Whether one that is empty held recordings at the last scan."""


def _looked_at(settings: Settings) -> list[_Looked]:
    """All sources, side by side; each until its first recording."""
    sources = settings.source
    looks = answered([partial(_look, settings, place) for place in range(len(sources))], _DISK_S)
    silent = f"no answer in {_DISK_S:g} s"
    return [
        look or _Looked(source.name or source.folder.name, source.folder, problem=silent)
        for source, look in zip(sources, looks, strict=True)
    ]


def _look(settings: Settings, place: int) -> _Looked:
    source = settings.source[place]
    looked = _Looked(source.root_name, source.folder)
    try:
        looked.roots = find_roots([str(source.folder)])
    except SettingsError as error:
        looked.problem = str(error)
        return looked
    its_own = settings.of_source(source)
    others = (os.fsencode(each.folder) for each in settings.source if each is not source)
    ours = (settings.output, settings.state_dir) if settings.output else ()
    apart = [*others, *map(os.fsencode, ours)]
    if its_own.shrink:
        looked.heeded = [(root, filters_of(its_own, root, apart)) for root in looked.roots]
    scan = Scan(its_own, looked.roots, listing=Listing(b"", 0.0), leave_out=apart)
    looked.is_empty, looked.unread = not scan.holds_any(), "; ".join(scan.warnings)
    return looked


def _sources(sources: list[_Looked]) -> Iterator[Check]:
    if not sources:
        what = "none in the settings: `overnight run` is given folders, `nightly` needs a"
        yield Check("sources", f"{what} `[[source]]`")
    for each in sources:
        if each.problem is not None:
            what = f"{each.name} is missing: {each.problem}; see whether its disk is there"
            yield Check(SOURCE, what, ExitCode.PARTIAL)
        elif each.is_empty:
            filters = f"; {each.unread}" if each.unread else ""
            what = f"{each.name} has no recordings: see {each.folder}, and filters{filters}"
            if each.is_known:
                what = f"{each.name} had recordings and is empty: see whether its disk is there"
            code = ExitCode.PARTIAL if each.is_known or each.unread else ExitCode.DONE
            yield Check(SOURCE, what, code, is_warning=True)
        else:
            yield Check(SOURCE, f"{each.name} has recordings, in {each.folder}")
    if sources and all(each.problem is not None for each in sources):
        yield Check("sources", "no source is there", ExitCode.USAGE)
