"""What the engine keeps: uploads as files, transcripts in SQLite, both in one folder.

In: the bytes of uploads, accepted requests, results. Out: the same, also after the
process was killed: an upload is whole or absent, a transcript that was acknowledged is
there, and one that was being worked on is queued again. An upload stays until the last
transcript of it that was asked for is completed or failed.

    STATE/engine.sqlite3     one table, one row a transcript
    STATE/uploads/HEX        the bytes of one upload; HEX.part while they come in
    STATE/key                see `pipeline.engine.stored_key`

Only one engine can have a folder: SQLite's exclusive lock sees to it, and is gone with
the process that held it.
"""

import json
import os
import re
import sqlite3
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from errno import EINVAL
from functools import partial, wraps
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, Literal, ParamSpec, TypeVar
from uuid import uuid4

import anyio
from anyio import CapacityLimiter, to_thread

from pipeline.engine import EngineUnavailable

__all__ = [
    "DELETED_URL",
    "STATUSES",
    "UPLOAD_MAX_BYTES",
    "Page",
    "Row",
    "Status",
    "Store",
    "Transcript",
    "UploadEmpty",
    "UploadTooLarge",
    "UploadsFull",
]

UPLOAD_MAX_BYTES = 2_200_000_000
"""Source: AssemblyAI FAQ, limits on file size (2.2 GB)."""

DELETED_URL = "http://deleted_by_user"
"""Source: AssemblyAI openapi.yml, examples/DeleteTranscriptResponse."""

KEPT = timedelta(hours=24)
"""How long an upload is kept that nobody asks a transcript of.
Source: AssemblyAI concepts/faq, uploads that are not transcribed are deleted after 24 hours."""

LISTED = timedelta(days=90)
"""Source: AssemblyAI openapi.yml, listTranscripts."""

# No host and no port that could change: what was uploaded to one engine is known to the
# next one on the same folder. Names under .invalid never resolve (RFC 6761).
_UPLOAD_URL = "https://engine.invalid/upload/"
_UPLOAD_ID = re.compile(re.escape(_UPLOAD_URL) + r"([0-9a-f]{32})", re.ASCII)
_TRANSCRIPT_ID = re.compile(r"[0-9A-Za-z-]{1,64}", re.ASCII)

_WRITE_BYTES = 1 << 20
_RESERVED_BYTES = 64 << 20  # at a time, for a body that does not say its length

Status = Literal["queued", "processing", "completed", "error"]
STATUSES: tuple[Status, ...] = ("queued", "processing", "completed", "error")

_VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS transcripts (
    sequence  INTEGER PRIMARY KEY AUTOINCREMENT,  -- order of creation; clocks have ties
    id        TEXT NOT NULL UNIQUE,
    status    TEXT NOT NULL CHECK (status IN ('queued', 'processing', 'completed', 'error')),
    audio_url TEXT NOT NULL,
    options   TEXT NOT NULL,                      -- JSON object, as requested
    created   TEXT NOT NULL,                      -- UTC, to the microsecond
    finished  TEXT,                               -- when it became completed or error
    error     TEXT,
    document  TEXT,                               -- JSON, the answer once it is final
    deleted   INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX IF NOT EXISTS unfinished ON transcripts (status, sequence)
    WHERE status IN ('queued', 'processing');
CREATE INDEX IF NOT EXISTS by_upload ON transcripts (audio_url);
"""


_ROW = "sequence, id, status, audio_url, created, finished, error"


class UploadEmpty(Exception):
    """The body of an upload held nothing."""


class UploadTooLarge(Exception):
    """The body of an upload is over `UPLOAD_MAX_BYTES`."""


class UploadsFull(Exception):
    """There is no room for one more upload; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """A transcript as the list needs it: an hour's words are a megabyte, a page has 200."""

    sequence: int
    id: str
    status: Status
    audio_url: str
    created: str
    """UTC, `YYYY-MM-DDTHH:MM:SS.ffffff`."""
    finished: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Transcript(Row):
    """A transcript with all that is kept of it."""

    options: Mapping[str, Any]
    """As requested, without `audio_url` and without nulls."""
    document: str | None
    """JSON text of the answer once the transcript is final; null before."""
    deleted: bool

    @property
    def is_final(self) -> bool:
        """Completed or failed: it will not change but for being deleted."""
        return self.status in ("completed", "error")


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the list, and whether there is more of it at either end."""

    rows: list[Row]
    """Newest first."""
    has_older: bool
    has_newer: bool


_P = ParamSpec("_P")
_T = TypeVar("_T")


def _in_thread(
    method: "Callable[Concatenate[Store, _P], _T]",
) -> "Callable[Concatenate[Store, _P], Awaitable[_T]]":
    """Off the event loop, and one at a time: SQLite sees one thread."""

    @wraps(method)
    async def call(self: "Store", /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await to_thread.run_sync(partial(method, self, *args, **kwargs), limiter=self._turn)

    return call


class Store:
    """The uploads and transcripts of one state folder."""

    def __init__(
        self, state: Path, *, uploads_kept: int = 10_000, uploads_kept_bytes: int = 10**12
    ) -> None:
        """
        Open a folder, made if absent; what an earlier engine left half done is put right.

        Blocks; `close` in the end.

        Args:
            uploads_kept: Most uploads there at once.
            uploads_kept_bytes: Most bytes of them.

        Raises:
            EngineUnavailable: Another engine has the folder, a newer one made it, or it
                cannot be written.
        """
        self._turn = CapacityLimiter(1)
        self._disk = CapacityLimiter(16)
        self._uploads_kept = uploads_kept
        self._uploads_kept_bytes = uploads_kept_bytes
        self._uploads = state / "uploads"
        try:
            # Transcripts are nobody's business but the owner's.
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._uploads.mkdir(mode=0o700, exist_ok=True)
            _require_plain(state / "engine.sqlite3")
            self._db = sqlite3.connect(
                state / "engine.sqlite3", timeout=1, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise _unusable(state, error) from error
        try:
            self._take()
        except (OSError, sqlite3.Error) as error:
            self._db.close()
            raise _unusable(state, error) from error

    def _take(self) -> None:
        self._db.row_factory = sqlite3.Row
        # Exclusive before WAL: no shared memory then, so any file system will do.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        # What a client deleted is overwritten, not only forgotten.
        self._db.execute("PRAGMA secure_delete = ON")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise sqlite3.DatabaseError(f"made by a newer program, version {version}")
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version = {_VERSION}")
        # Only now is the folder ours: another engine's half uploads are not to be touched.
        self._db.execute("UPDATE transcripts SET status = 'queued' WHERE status = 'processing'")
        for part in self._uploads.glob("*.part"):
            part.unlink()

    @_in_thread
    def close(self) -> None:
        """Let go of the folder."""
        self._db.close()

    # --- transcripts -----------------------------------------------------------------

    @_in_thread
    def create(self, audio_url: str, options: Mapping[str, Any]) -> Transcript:
        """A new transcript, queued and on disk. Equal requests make different ones."""
        return self._one(
            "INSERT INTO transcripts (id, status, audio_url, options, created)"
            " VALUES (?, 'queued', ?, ?, ?) RETURNING *",
            (str(uuid4()), audio_url, json.dumps(options), _now()),
        )

    @_in_thread
    def find(self, transcript_id: str) -> Transcript | None:
        """The transcript of that id; None for what is no id, too."""
        return self._find(transcript_id)

    @_in_thread
    def claim(self) -> Transcript | None:
        """The transcript queued longest, now `processing`; None if none is queued."""
        return self._maybe_one(
            "UPDATE transcripts SET status = 'processing' WHERE sequence ="
            " (SELECT min(sequence) FROM transcripts WHERE status = 'queued') RETURNING *",
            (),
        )

    @_in_thread
    def finish(
        self, transcript_id: str, status: Status, document: str, error: str | None = None
    ) -> None:
        """
        Make a transcript final, with the answer that it has from now on, and remove its upload.

        The upload stays as long as another transcript that is not final needs it.
        """
        finished = self._db.execute(
            "UPDATE transcripts SET status = ?, document = ?, error = ?, finished = ? WHERE id = ?"
            " RETURNING audio_url",
            (status, document, error, _now(), transcript_id),
        ).fetchall()  # to the end, which commits it: only then may the upload go
        with suppress(OSError):  # `sweep` tries again
            self._drop(finished[0]["audio_url"])

    @_in_thread
    def scrub(self, transcript_id: str, document: str) -> Transcript | None:
        """
        Put `document` in place of all that a final transcript holds, and remove its upload.

        The upload stays as long as another transcript that is not final needs it.
        Harmless when repeated, and for what is not final or not there.
        """
        before = self._find(transcript_id)
        if before is None or not before.is_final:
            return before
        after = self._one(
            "UPDATE transcripts SET audio_url = ?, options = '{}', error = NULL, document = ?,"
            " deleted = 1 WHERE id = ? RETURNING *",
            (DELETED_URL, document, transcript_id),
        )
        # The log of the database holds the words as well, until it is worked in.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._drop(before.audio_url)
        return after

    @_in_thread
    def page(
        self,
        limit: int,
        *,
        status: Status | None = None,
        created_on: str | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> Page:
        """
        At most `limit` transcripts of the last 90 days, newest first.

        Args:
            created_on: `YYYY-MM-DD`, UTC.
            before: Only what was created before the transcript of this sequence, the
                newest of it.
            after: Only what was created after it, the oldest of it, so that pages join.
        """
        wanted = ["created > ?"]
        values: list[object] = [_text(datetime.now(UTC) - LISTED)]
        if status is not None:
            wanted.append("status = ?")
            values.append(status)
        if created_on is not None:
            wanted.append("substr(created, 1, 10) = ?")
            values.append(created_on)

        def rows(*more: tuple[str, int | None], order: str, limit: int) -> list[Row]:
            asked = [(clause, value) for clause, value in more if value is not None]
            where = " AND ".join([*wanted, *(clause for clause, _ in asked)])
            sql = f"SELECT {_ROW} FROM transcripts WHERE {where} ORDER BY sequence {order} LIMIT ?"
            found = self._db.execute(sql, [*values, *(value for _, value in asked), limit])
            return [Row(**row) for row in found]

        bounds = ("sequence < ?", before), ("sequence > ?", after)
        if after is not None and before is None:
            found = rows(*bounds, order="ASC", limit=limit)[::-1]
        else:
            found = rows(*bounds, order="DESC", limit=limit)
        if not found:
            return Page([], has_older=False, has_newer=False)
        return Page(
            found,
            has_older=bool(rows(("sequence < ?", found[-1].sequence), order="DESC", limit=1)),
            has_newer=bool(rows(("sequence > ?", found[0].sequence), order="ASC", limit=1)),
        )

    # --- uploads ---------------------------------------------------------------------

    async def receive(self, chunks: AsyncIterable[bytes], expected_bytes: int = 0) -> str:
        """
        Keep the bytes of an upload, and get the `upload_url` that stands for them.

        It is unique, also for equal bytes. Memory is bounded whatever the size, and
        nothing stays of an upload that was broken off.

        Raises:
            UploadEmpty: No bytes came.
            UploadTooLarge: More than `UPLOAD_MAX_BYTES` came.
            UploadsFull: It is one more, or more bytes, than may be kept.
            OSError: The disk refused them.
        """
        name = uuid4().hex
        part = self._uploads / f"{name}.part"
        size_bytes = reserved_bytes = 0
        held = bytearray()
        file = await to_thread.run_sync(_create, part, limiter=self._disk)
        try:
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > UPLOAD_MAX_BYTES:
                    raise UploadTooLarge
                if size_bytes > reserved_bytes:
                    reserved_bytes = max(expected_bytes, size_bytes)
                    if reserved_bytes > expected_bytes:
                        reserved_bytes += _RESERVED_BYTES
                    await self._reserve(file, part, reserved_bytes)
                held += chunk
                if len(held) >= _WRITE_BYTES:
                    await to_thread.run_sync(file.write, bytes(held), limiter=self._disk)
                    held.clear()
            if not size_bytes:
                raise UploadEmpty
            await to_thread.run_sync(self._keep, file, bytes(held), name, limiter=self._disk)
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(_discard, file, part, limiter=self._disk)
        return _UPLOAD_URL + name

    def upload_path(self, audio_url: str) -> Path | None:
        """Where the bytes of an `upload_url` are, or were; None if it is none of ours."""
        match = _UPLOAD_ID.fullmatch(audio_url)
        return self._uploads / match[1] if match else None

    @_in_thread
    def sweep(self) -> None:
        """Remove uploads that nothing needs any more, or that nobody wanted for 24 hours."""
        oldest_s = (datetime.now(UTC) - KEPT).timestamp()
        for path in self._uploads.iterdir():
            with suppress(OSError):
                needed = self._is_needed(_UPLOAD_URL + path.name)
                if needed is False or (needed is None and path.stat().st_mtime < oldest_s):
                    path.unlink()

    @_in_thread
    def _reserve(self, file: BinaryIO, part: Path, size: int) -> None:
        count, size_bytes = 1, size
        for path in self._uploads.iterdir():
            with suppress(FileNotFoundError):  # broken off meanwhile
                if path != part:
                    size_bytes += path.stat().st_size
                    count += 1
        if count > self._uploads_kept or size_bytes > self._uploads_kept_bytes:
            raise UploadsFull(
                f"There is no room for this upload: at most {self._uploads_kept} uploads of"
                f" {self._uploads_kept_bytes} bytes in all are kept for transcripts that are not"
                " finished. Try again once some are, or submit what was uploaded"
            )
        # The length of the file is the reservation: those who come meanwhile see it.
        file.truncate(size)

    def _keep(self, file: BinaryIO, rest: bytes, name: str) -> None:
        file.write(rest)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())
        (self._uploads / f"{name}.part").rename(self._uploads / name)
        _fsync_folder(self._uploads)

    def _drop(self, audio_url: str) -> None:
        path = self.upload_path(audio_url)
        if path is not None and not self._is_needed(audio_url):
            path.unlink(missing_ok=True)

    def _is_needed(self, audio_url: str) -> bool | None:
        """Whether a transcript of it is not final; None if there is no transcript of it."""
        found = self._db.execute(
            "SELECT max(status IN ('queued', 'processing')) FROM transcripts WHERE audio_url = ?",
            (audio_url,),
        ).fetchone()[0]
        return None if found is None else bool(found)

    # --- rows ------------------------------------------------------------------------

    def _find(self, transcript_id: str) -> Transcript | None:
        if not _TRANSCRIPT_ID.fullmatch(transcript_id):
            return None
        return self._maybe_one("SELECT * FROM transcripts WHERE id = ?", (transcript_id,))

    def _maybe_one(self, sql: str, values: Sequence[object]) -> Transcript | None:
        row = self._db.execute(sql, values).fetchone()
        return None if row is None else _transcript(row)

    def _one(self, sql: str, values: Sequence[object]) -> Transcript:
        return _transcript(self._db.execute(sql, values).fetchone())


def _transcript(row: sqlite3.Row) -> Transcript:
    return Transcript(
        **{**row, "options": json.loads(row["options"]), "deleted": bool(row["deleted"])}
    )


def _unusable(state: Path, error: Exception) -> EngineUnavailable:
    in_use = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    return EngineUnavailable(
        f"the engine's state in `{state}` cannot be used ({error}): "
        + ("another engine is running on it; stop that one, or " if in_use else "")
        + "name another folder"
    )


def _require_plain(path: Path) -> None:
    """
    A database that is for its owner alone if it is new, and let SQLite follow no link.

    Raises:
        OSError: one of its files is a link, or no regular file, or cannot be made.
    """
    for place in (f"{path}{suffix}" for suffix in ("", "-wal", "-shm", "-journal")):
        if os.path.lexists(place) and (os.path.islink(place) or not os.path.isfile(place)):
            raise OSError(EINVAL, "it is a link, or no regular file", place)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(moment: datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def _create(path: Path) -> BinaryIO:
    return path.open("xb")


def _discard(file: BinaryIO, path: Path) -> None:
    file.close()
    path.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    # Windows can neither open a folder nor needs to.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
