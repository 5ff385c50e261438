"""
Claims -> uploads: the bytes of a recording to the service, hashed on the way.

A recording is read once, in chunks, and nothing of it is kept. What was hashed is what was sent:
a recording that is not the same file at the end as at the beginning is not submitted. Where one
of the same size with the same first and last 64 KiB was read before, the hash comes first and
may save the upload.
"""

import os
import stat
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from io import FileIO
from typing import TYPE_CHECKING, Self

from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline import events
from pipeline.errors import (
    AttemptsExhausted,
    BatchError,
    PlaceUnwritable,
    RecordingChanged,
    RecordingError,
    RecordingUnreadable,
    RequestRejected,
)
from pipeline.files import in_thread, obstacle
from pipeline.ledger import Reading
from pipeline.models import SETTLED_S, Claim, Uploaded
from pipeline.options import canonical
from pipeline.retry import retry
from pipeline.stages import Context

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["Source", "upload"]

_EDGE_BYTES = 64 * 1024
_PASSES = 2
_SECOND_PASS_IN_S = 30.0


async def upload(
    context: Context,
    claims: MemoryObjectReceiveStream[Claim],
    uploads: MemoryObjectSendStream[Uploaded],
) -> None:
    """Upload what is claimed; send on what is to be submitted."""
    ledger, intake = context.ledger, context.intake
    async with claims, uploads:
        async for claim in claims:
            uploaded = claim.uploaded
            with intake.uploading() as scope:
                if uploaded is None:
                    uploaded = await _upload(context, claim)
            if scope.cancelled_caught:
                await ledger.put_back(claim)
                uploaded = None
            if uploaded is None:
                intake.release(claim.recording_id)
            else:
                await uploads.send(uploaded)


async def _upload(context: Context, claim: Claim) -> Uploaded | None:
    """One recording, and what became of it where that was not an upload."""
    ledger, emit = context.ledger, context.emit
    label = context.label(claim.root, claim.path)
    refused = context.intake.refused_options.get(canonical(claim.options))
    if refused is not None:
        await ledger.fail_upload(claim, refused, None, _PASSES)
        emit(events.Failed(recording=label, reason=refused))
        return None
    try:
        return await _send(context, claim, label)
    except BatchError as error:
        context.intake.end(error)
        await ledger.put_back(claim)
    except RecordingChanged as error:
        await ledger.skip(claim, str(error))
        emit(events.Skipped(recording=label, reason=str(error)))
    except RecordingError as error:
        again_in_s = None
        if isinstance(error, AttemptsExhausted):
            again_in_s = _SECOND_PASS_IN_S
            context.intake.lost(str(error))
        if not context.intake.is_open:
            await ledger.put_back(claim)  # not its own fault
        elif not await ledger.fail_upload(claim, str(error), again_in_s, _PASSES):
            emit(events.Failed(recording=label, reason=str(error)))
    return None


async def _send(context: Context, claim: Claim, label: str) -> Uploaded | None:
    ledger, client, settings = context.ledger, context.client, context.settings
    where = context.where(claim.root, claim.path)
    if why_not := await obstacle(context.place(claim.result)):
        raise PlaceUnwritable(f"its result could not be saved: {why_not}; nothing was sent")
    async with await Source.open(where, follow_links=settings.follow_links) as source:
        if claim.content is None and await ledger.seen_before(source.size, source.edges):
            async for _ in source.chunks(settings.upload_chunk):
                pass
            if not await ledger.recognise(claim, await source.reading()):
                return None

        async def attempt() -> tuple[Uploaded | None, Reading]:
            upload_url = await client.upload(source.chunks(settings.upload_chunk), source.size)
            read = await source.reading()
            # Inside the attempt: an upload_url that is not new is no success.
            return await ledger.record_uploaded(claim, read, upload_url), read

        try:
            uploaded, read = await retry(attempt)
        except RequestRejected as error:
            async for _ in source.chunks(settings.upload_chunk):
                pass
            await ledger.refuse_upload(claim, await source.reading(), str(error))
            context.emit(events.Failed(recording=label, reason=str(error)))
            return None
    context.intake.reached()
    context.emit(events.Uploaded(recording=label, size=read.size, content=read.content))
    return uploaded


class Source:
    """A recording that is open for reading; what was read of it last is hashed."""

    def __init__(self, where: bytes, file: FileIO, found: os.stat_result, edges: str) -> None:
        self.size = found.st_size
        """Bytes, when it was opened."""
        self.edges = edges
        """sha256 of the first and last 64 KiB, hex."""
        self._where = where
        self._file = file
        self._found = found
        self._digest = sha256()

    @classmethod
    async def open(cls, where: bytes, *, follow_links: bool = False) -> Self:
        """
        Open a recording.

        Raises:
            RecordingUnreadable: it is gone, not readable, or not a regular file any more.
            RecordingChanged: it is empty by now.
        """
        try:
            file, found, edges = await _open(where, follow_links)
        except OSError as error:
            raise RecordingUnreadable(f"cannot be read: {error.strerror}") from error
        return cls(where, file, found, edges)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._file.close()  # never blocks: nothing was written

    async def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """
        Its bytes from the beginning, exactly `size` of them, hashed as they are read.

        Raises:
            RecordingChanged: it ends early.
            RecordingUnreadable: a part of it cannot be read.
        """
        self._digest = sha256()
        left, position = self.size, 0
        while left:
            try:
                chunk = await _read(self._file, min(chunk_bytes, left), position, self._digest)
            except OSError as error:
                raise RecordingUnreadable(f"cannot be read: {error.strerror}") from error
            if not chunk:
                raise RecordingChanged("it became shorter while it was being read")
            left -= len(chunk)
            position += len(chunk)
            yield chunk

    async def reading(self) -> Reading:
        """
        What was read, once `chunks` has come to its end.

        Raises:
            RecordingChanged: the file is not what it was when it was opened.
        """
        try:
            now = await _stat(self._where)
        except OSError:
            now = None
        found = self._found
        if now is None or _shape(now) != _shape(found):
            raise RecordingChanged("it changed while it was being read; the next run looks again")
        return Reading(
            content=self._digest.hexdigest(),
            edges=self.edges,
            size=found.st_size,
            mtime_ns=found.st_mtime_ns,
            ctime_ns=now.st_ctime_ns,
            inode=found.st_ino,
            settled=time.time() - found.st_mtime >= SETTLED_S,
        )


def _shape(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@in_thread
def _open(where: bytes, follow_links: bool) -> tuple[FileIO, os.stat_result, str]:
    # Not blocking: what was a file at the scan may be a FIFO by now.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    file = FileIO(os.open(where, flags))
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a regular file")
        if not found.st_size:
            raise RecordingChanged("it is empty")
        edges = sha256(os.pread(file.fileno(), _EDGE_BYTES, 0))
        edges.update(os.pread(file.fileno(), _EDGE_BYTES, max(0, found.st_size - _EDGE_BYTES)))
    except BaseException:
        file.close()
        raise
    return file, found, edges.hexdigest()


@in_thread
def _read(file: FileIO, size: int, position: int, digest: "_Hash") -> bytes:
    # Hashed in the same hop to the thread: it costs less than the hop.
    chunk = os.pread(file.fileno(), size, position)
    digest.update(chunk)
    return chunk


@in_thread
def _stat(where: bytes) -> os.stat_result:
    return os.stat(where)
