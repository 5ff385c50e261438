"""
`overnight verify --rebuild`: a ledger that is lost or damaged, from all that is left of it.

    account's list, journals, output folder, recordings -> a new ledger beside -> in its place

In: settings. Out: a ledger that the next run goes on with; the old one lies aside, as it was. Until
the new one is whole nothing is touched. What the account has and nobody here knows is for the user
to say: `claim` takes what they say.
"""

import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from jobs.account import whole_list
from jobs.finding import Tell
from jobs.session import session
from jobs.shelf import transcripts_below
from jobs.unclaimed import LISTING, all_unclaimed, save, sums
from pipeline.errors import ExitCode, LedgerUnusable, RecordingError, SettingsError
from pipeline.events import Emit, Warned, moment
from pipeline.files import copy_file, keep_standing, sync
from pipeline.ledger import Ledger, Reading, evidence
from pipeline.ledger.journal import journals, lines
from pipeline.ledger.remains import Result
from pipeline.models import Root
from pipeline.options import canonical
from pipeline.redaction import bring_audio_back
from pipeline.settings import Settings
from pipeline.stages.scan import find_roots
from pipeline.stages.upload import Source

__all__ = ["Claimed", "Rebuilt", "claim", "rebuild"]

T = TypeVar("T")

_BATCH = 500
_CHUNK_BYTES = 1 << 20
_NAME = "ledger.sqlite3"
_SETTLE_S = 120.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What it came to."""

    recordings: int
    """Recordings that the new ledger knows."""
    written: int
    """Those whose result is on disk."""
    to_fetch: int
    """Transcripts that the next run looks at, by their id."""
    unclaimed: int
    """Transcripts of the account that nobody here knows."""
    aside: str | None
    """Where the old ledger is, None if there was none."""
    listing: str | None = None
    """The file that names all of the unclaimed, None if there are none."""
    since: float | None = None
    until: float | None = None
    """When the first and the last of them were asked for, Unix seconds."""
    unclaimed_hours: float = 0.0
    """Hours of audio in those whose length is known."""
    measured: int = 0
    """How many that are."""

    @property
    def exit_code(self) -> ExitCode:
        """Whether the user has something to say before the next run."""
        return ExitCode.PARTIAL if self.unclaimed else ExitCode.DONE

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "rebuilt",
            "exit_code": int(self.exit_code),
            "recordings": self.recordings,
            "written": self.written,
            "to_fetch": self.to_fetch,
            "unclaimed": self.unclaimed,
            "aside": self.aside,
            "listing": self.listing,
            "since": self.since,
            "until": self.until,
            "unclaimed_hours": round(self.unclaimed_hours, 4),
            "measured": self.measured,
        }

    def __str__(self) -> str:
        said = [
            f"the ledger knows {self.recordings} recordings again: {self.written} are written,"
            f" {self.to_fetch} transcripts are looked at by the next run"
        ]
        if self.aside:
            said.append(f"the old one is {self.aside}")
        if self.unclaimed:
            said.append(
                f"{self.unclaimed} transcripts are nobody's{self._amount}, and nothing is asked for"
                " until you say whose: `overnight verify --claim ID=PATH`, `--disclaim ID`,"
                " `--disclaim all`"
            )
        if self.listing:
            said.append(f"all of them stand in {self.listing}")
        if self.unclaimed > self.measured:
            said.append("hint: `--details` asks for their lengths as well, at no cost")
        return "\n".join(said)

    @property
    def _amount(self) -> str:
        """What is known of all that is unclaimed, in words."""
        parts = []
        if self.since is not None and self.until is not None:
            first, last = (f"{moment(at):%Y-%m-%d}" for at in (self.since, self.until))
            parts.append(f"asked for on {first}" if first == last else f"of {first} to {last}")
        if self.measured:
            some = "" if self.measured == self.unclaimed else f" in {self.measured} of them"
            parts.append(f"{self.unclaimed_hours:,.2f} h of audio{some}")
        return f" ({', '.join(parts)})" if parts else ""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What is left to be said."""

    unclaimed: int

    @property
    def exit_code(self) -> ExitCode:
        """Whether a run may ask for something new."""
        return ExitCode.PARTIAL if self.unclaimed else ExitCode.DONE

    def facts(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "type": "claimed",
            "exit_code": int(self.exit_code),
            "unclaimed": self.unclaimed,
        }

    def __str__(self) -> str:
        return f"{self.unclaimed} transcripts are left unclaimed"


async def rebuild(
    settings: Settings,
    tell: Tell,
    *,
    details: bool = False,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
) -> Rebuilt:
    """
    Make a new ledger, and put the old one aside; each unclaimed transcript goes to `tell`.

    The newest first, and all of them into a file. With `details` the newest thousand are asked for
    their lengths, by their ids, at no cost.

    Raises:
        ServiceUnusable: the account's list cannot be read to its end; nothing was moved.
        BatchError: as `session` does; nothing was moved.
    """
    state, output = settings.state_dir, os.fsencode(settings.output or "")
    async with _folder_in(state) as beside:
        path = beside / _NAME
        async with session(settings, ledger_path=path, emit=emit, environ=environ) as run:
            await to_thread.run_sync(_clear, state, beside)
            await _until_settled(settings, run.totals)
            ledger = run.context.ledger
            nameless, created = 0, dict[str, str | None]()
            async for page in whole_list(run.context.client):
                known = [(row.id, row.status, row.audio_url) for row in page if row.id]
                await ledger.adopt_listed(known)
                nameless += len(page) - len(known)
                created |= {row.id: row.created for row in page if row.id}
            if nameless:
                message = f"{nameless} rows of the account's list have no id, and are nobody's"
                run.totals(Warned(message=message))
            async for noted in _batches(lines(state / "runs")):
                await ledger.adopt_lines(noted)
            await ledger.record_runs([*await to_thread.run_sync(journals, state / "runs")])
            nobodys = await _adopt_results(settings, ledger, output)
            await _adopt_sources(ledger)
            await _adopt_said(ledger, state, beside, run.totals)
            counts = await ledger.conclude()
            each = await all_unclaimed(run, created, nobodys, details=details)
            for one in each:
                tell(one)
            await to_thread.run_sync(save, beside / LISTING, each)
            await ledger.copy_to(beside / "whole")
            aside = await to_thread.run_sync(_put, state, beside)
    listing = str(state / LISTING) if each else None
    return Rebuilt(aside=aside, listing=listing, **counts, **sums(each))


async def claim(
    settings: Settings,
    claims: Sequence[str],
    disclaims: Sequence[str],
    *,
    emit: Emit,
    environ: Mapping[str, str] = os.environ,
) -> Claimed:
    """
    Take what the user says of unclaimed transcripts, and of ids that came with doubt.

    `claims` are `ID=PATH`, `disclaims` ids, or `all`: of the unclaimed, since who disclaims an id
    that came with doubt has what it came for asked for again.

    Raises:
        SettingsError: one of them cannot be meant; those before it hold.
    """
    async with session(settings, emit=emit, environ=environ) as run:
        ledger = run.context.ledger
        for text in claims:
            transcript_id, _, path = text.partition("=")
            if not path:
                raise SettingsError(f"`{text}` is not ID=PATH")
            root, below = await _place(ledger, path)
            options = canonical(settings.options_for(os.fsdecode(below)))
            read = await _read(os.path.join(root.folder, below))
            if read is None:
                raise SettingsError(f"cannot read `{path}`")
            if not await ledger.accept_claimed(transcript_id, read.content):
                await ledger.claim_transcript(transcript_id, root, below, options, read)
        for transcript_id in disclaims:
            is_all = transcript_id == "all"
            if await ledger.disclaim_claimed(transcript_id):
                continue
            if not await ledger.disclaim(None if is_all else transcript_id) and not is_all:
                raise SettingsError(f"`{transcript_id}` is no transcript that waits to be claimed")
        return Claimed(await ledger.unclaimed())


async def _place(ledger: Ledger, path: str) -> tuple[Root, bytes]:
    """The root that a recording was or will be found in, and its path below that."""
    (alone,) = await to_thread.run_sync(find_roots, [path])
    if alone.only is None:
        raise SettingsError(f"`{path}` is a folder: name a recording")
    (name,) = alone.only
    where = os.path.join(alone.folder, name)
    for root, folder in await ledger.roots():
        if where.startswith(os.path.join(folder, b"")):
            return Root(root, folder, b""), where.removeprefix(os.path.join(folder, b""))
    return alone, name


async def _until_settled(settings: Settings, emit: Emit) -> None:
    """Wait until what the last run asked for is sure to be listed, if its answer was lost."""
    settle_s = settings.settle or _SETTLE_S
    last = await to_thread.run_sync(_last_change, settings.state_dir / "runs")
    wait_s = min(settle_s, last + settle_s - time.time())
    if wait_s > 0:
        message = f"waiting {wait_s:.0f} s, until what was asked for last is sure to be listed"
        emit(Warned(message=message))
        await anyio.sleep(wait_s)


def _last_change(runs: Path) -> float:
    """When an earlier run last told anything, Unix seconds; 0 if none did."""
    told = sorted(runs.glob("*/events.ndjson"), key=lambda path: path.stat().st_mtime)
    return told[-2].stat().st_mtime if len(told) > 1 else 0.0  # the last one is of this run


# --- what is left ---------------------------------------------------------------------------------


async def _adopt_results(settings: Settings, ledger: Ledger, output: bytes) -> dict[str, Result]:
    """Note every whole transcript on disk; those among them that no journal knows, by their ids."""
    nobodys: dict[str, Result] = {}
    versions = os.path.join(os.fsencode(settings.state_dir), b"versions")
    async for found in _batches(_results(settings, output)):
        copies, unknown, renamed = await ledger.adopt_results(found)
        for kept, name in renamed:
            await _name(os.path.join(versions, kept), os.path.join(versions, name))
        nobodys |= {each.transcript_id: each for each in unknown if each.place}
        readings = [(copy, await _read(os.path.join(copy.folder, copy.path))) for copy in copies]
        await ledger.adopt_copies([(copy, read) for copy, read in readings if read])
    return nobodys


async def _name(kept: bytes, name: bytes) -> None:
    """Give a version, and redacted audio of its own, a second name."""
    with suppress(OSError):  # by its first name it is found as well, if need be fetched again
        await keep_standing(kept, "", lambda _: name)
        await bring_audio_back(kept, name)


def _results(settings: Settings, output: bytes) -> Iterator[Result]:
    state = os.path.realpath(os.fsencode(settings.state_dir))
    versions = os.path.join(state, b"versions")
    for folder, leave_out in ((output, state), (versions, b"")):
        for name, found, head in transcripts_below(folder, leave_out):
            yield Result(
                transcript_id=head.id,
                audio_url=head.audio_url,
                place=name if folder == output else None,
                kept=name if folder == versions else None,
                size=found.size,
                digest=found.digest,
                model_used=head.speech_model_used,
                duration_s=head.audio_duration,
                price_usd=settings.cost_usd(
                    head.speech_model_used,
                    head.audio_duration,
                    head.audio_channels if head.multichannel else 1,
                ),
                odd=head.odd,
            )


async def _adopt_sources(ledger: Ledger) -> None:
    """Note what recordings hold, so that the next run need not send them to find out."""
    last = 0
    while page := await ledger.found_after(last, _BATCH):
        readings = [
            (recording_id, await _read(os.path.join(folder, path)))
            for recording_id, folder, path in page
            if folder is not None
        ]
        await ledger.adopt_readings([(which, read) for which, read in readings if read])
        last = page[-1][0]


async def _read(where: bytes) -> Reading | None:
    """What a recording holds, None if it is gone or cannot be read."""
    with suppress(RecordingError):
        async with await Source.open(where, follow_links=True) as source:
            async for _ in source.chunks(_CHUNK_BYTES):
                pass
            return await source.reading()
    return None


async def _adopt_said(ledger: Ledger, state: Path, beside: Path, emit: Emit) -> None:
    """Note what the user had said that stood in the ledger alone, where it can be read."""
    if (said := await to_thread.run_sync(_said, state, beside / "former")) is not None:
        await ledger.adopt_said(*said)
    elif await ledger.other_keys():
        message = (
            "transcripts are open with other API keys, and of which of them `--trust-key` was said"
            " is not known any more: the next run names them"
        )
        emit(Warned(message=message))


def _said(state: Path, former: Path) -> tuple[list[tuple[str, float]], list[str]] | None:
    # From a copy: SQLite changes what lies beside a ledger that it only reads.
    with suppress(OSError, SettingsError, LedgerUnusable):
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                name = f"{_NAME}{suffix}"
                copy_file(os.fsencode(state / name), os.fsencode(former / name))
        with evidence.opened(former) as db:
            return evidence.said(db)
    return None


async def _batches(each: Iterator[T]) -> AsyncIterator[list[T]]:
    """What blocking code gives, some at a time."""
    while batch := await to_thread.run_sync(list, islice(each, _BATCH)):
        yield batch


# --- in its place ---------------------------------------------------------------------------------


@asynccontextmanager
async def _folder_in(state: Path) -> AsyncIterator[Path]:
    """A folder in the state folder, gone with what is in it when the block ends."""

    def make() -> Path:
        state.mkdir(0o700, parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="rebuild-", dir=state))

    folder = await to_thread.run_sync(make)
    try:
        yield folder
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(shutil.rmtree, folder)


def _clear(state: Path, but: Path) -> None:
    """Remove what a rebuild that was killed left behind."""
    for folder in state.glob("rebuild-*"):
        if folder != but:
            shutil.rmtree(folder)


def _put(state: Path, beside: Path) -> str | None:
    """
    Put the old ledger aside as it is, its log included, and the new one in its place.

    So is the list of what is nobody's.

    Cut off in the middle, there is no ledger: no run begins, and a rebuild can be made again. A
    ledger is never there with the log of another one.
    """
    aside = state / f"{_NAME}.aside-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    moved = None
    for suffix in ("", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.rename(state / f"{_NAME}{suffix}", f"{aside}{suffix}")
            moved = str(aside)
    sync(os.fsencode(state))
    os.rename(beside / "whole", state / _NAME)
    os.rename(beside / LISTING, state / LISTING)
    sync(os.fsencode(state))
    return moved
