"""
Claims -> uploads: the bytes of a recording to the service, hashed on the way.

A recording is read once, in chunks, and nothing of it is kept; one that fits into a chunk is
opened, read and hashed in a single hop to a thread, since a hop costs more than that. What was
hashed is what was sent: a recording that is not the same file at the end as at the beginning is
not submitted. Where one of the same size with the same first and last 64 KiB was read before, the
hash comes first and may save the upload.
"""

import os
import stat
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from hashlib import sha256
from io import FileIO
from typing import TYPE_CHECKING, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline import events
from pipeline.allowance import Amount, amount_of, priced
from pipeline.durations import Duration, by_header, by_size, duration_of, identity_of
from pipeline.errors import (
    AccessDoubted,
    AttemptsExhausted,
    BatchError,
    Intercepted,
    PlaceUnwritable,
    RecordingChanged,
    RecordingError,
    RecordingTooCostly,
    RecordingUnreadable,
    RequestRejected,
)
from pipeline.files import in_thread, why_not
from pipeline.ledger import Reading
from pipeline.models import Claim, Turn, Uploaded, is_settled, signed
from pipeline.settings import Settings
from pipeline.spool import standing_head
from pipeline.stages import Context
from pipeline.wire import is_of_key

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["EDGES_BYTES", "UNKNOWN_RESULT", "Source", "amount_uploaded", "is_left", "upload"]

_EDGE_BYTES = 64 * 1024
EDGES_BYTES = 2 * _EDGE_BYTES
"""What is read of a recording to know if one like it was read before."""
_SHORTER = "it became shorter while it was being read"
UNKNOWN_RESULT = (
    "where its result goes lies a transcript that this ledger does not know: take it over with"
    " `overnight reprocess --adopt`, or move it away; `--force` pays for another"
)
"""Why a recording is left alone whose result may be paid for already."""

_PASSES = 2
_SECOND_PASS_IN_S = 30.0


async def upload(
    context: Context,
    claims: MemoryObjectReceiveStream[Claim],
    uploads: MemoryObjectSendStream[Uploaded],
) -> None:
    """Upload what is claimed; send on what is to be submitted."""
    ledger, intake, uplink = context.ledger, context.intake, context.client.uplink
    async with claims, uploads:
        async for claim in claims:
            uploaded = claim.uploaded
            with intake.uploading() as scope:
                if refused := context.refused(claim.options):
                    await ledger.leave_refused(claim.attempt_id, refused)
                    label = context.label(claim.root, claim.path)
                    context.emit(events.Failed(recording=label, reason=refused))
                    uploaded = None
                elif uploaded is None:
                    async with uplink.places:
                        uploaded = await _upload(context, claim)
                elif await _leave(context, claim) or not await _is_still_granted(
                    context, claim, uploaded
                ):
                    uploaded = None
            if scope.cancelled_caught:
                await ledger.put_back(claim)
                uploaded = None
            if uploaded is None:
                intake.allowance.release(claim.attempt_id)
                intake.release(claim.recording_id)
            else:
                intake.sending(claim.recording_id)
                await uploads.send(uploaded)


async def _is_granted(context: Context, claim: Claim, amount: Amount) -> bool:
    """Whether a recording may be asked for, what it comes to being set aside for it."""
    intake, ledger = context.intake, context.ledger
    is_backlog = context.is_rationed and claim.turn == Turn.BACKLOG
    try:
        if await intake.grant(claim.attempt_id, amount, ledger.now(), is_backlog=is_backlog):
            return True
        await ledger.put_back(claim)
    except RecordingTooCostly as error:
        await ledger.skip(claim, str(error))
        label = context.label(claim.root, claim.path)
        context.emit(events.Skipped(recording=label, reason=str(error)))
    return False


async def _is_still_granted(context: Context, claim: Claim, uploaded: Uploaded) -> bool:
    """The same of an upload of before, which may not be what lies at its path any more."""
    amount = amount_uploaded(claim, uploaded, context.settings)
    if not await _is_granted(context, claim, amount):
        return False
    await context.ledger.expect(claim.attempt_id, amount.duration_s, amount.price_usd)
    return True


def amount_uploaded(claim: Claim, uploaded: Uploaded, settings: Settings) -> Amount:
    """What an upload of before comes to at the most."""
    if uploaded.expected_s is None:  # the size is that of the content, as it was read last
        return amount_of(by_size(claim.path, claim.size), claim.options, settings)
    return priced(uploaded.expected_s, claim.options, settings)


async def _amount(context: Context, claim: Claim, source: "Source") -> Amount:
    """What the bytes that are sent come to at the most."""
    settings = context.settings
    is_known = settings.is_capped or settings.window or context.is_rationed
    duration = await source.probed() if is_known else source.duration
    return amount_of(duration, claim.options, settings)


async def is_left(context: Context, claim: Claim) -> bool:
    """Whether a recording is left alone: where its result goes lies one that nobody knows here."""
    if context.settings.output is None or context.ledger.run.redo.force:
        return False
    head = await standing_head(context.place(claim.result))
    return head is not None and head.is_result and not await context.ledger.knows_id(head.id)


async def _leave(context: Context, claim: Claim, source: "Source | None" = None) -> bool:
    """Whether a recording is left alone, which is noted then."""
    if not await is_left(context, claim):
        return False
    read = await source.read() if source is not None and claim.content is None else None
    await context.ledger.park_claim(claim, read, UNKNOWN_RESULT)
    return True


async def _upload(context: Context, claim: Claim) -> Uploaded | None:
    """One recording, and what became of it where that was not an upload."""
    ledger, emit = context.ledger, context.emit
    label = context.label(claim.root, claim.path)
    try:
        async with context.intake.asking("upload"):
            return await _send(context, claim, label)
    except BatchError as error:
        context.intake.end(error)
        await ledger.put_back(claim)
    except RecordingChanged as error:
        await ledger.skip(claim, str(error))
        emit(events.Skipped(recording=label, reason=str(error)))
    except RecordingError as error:
        await ledger.fail_upload(claim, str(error), None, _PASSES)
        emit(events.Failed(recording=label, reason=str(error)))
    return None


async def _send(context: Context, claim: Claim, label: str) -> Uploaded | None:
    ledger, client, settings = context.ledger, context.client, context.settings
    number = 0
    async with await Source.open(
        context.where(claim.root, claim.path),
        follow_links=context.settings_of(claim.root).follow_links,
        chunk_bytes=settings.upload_chunk,
        place=context.place(claim.result),
    ) as source:
        is_known = claim.content is None and await ledger.seen_before(source.size, source.edges)
        if is_known and not await ledger.recognise(claim, await source.read()):
            return None
        if await _leave(context, claim, source):
            return None
        amount = await _amount(context, claim, source)
        if not await _is_granted(context, claim, amount):
            return None
        expected = amount.duration_s, amount.price_usd

        async def attempt() -> tuple[Uploaded | None, Reading]:
            nonlocal number
            context.intake.sending(claim.recording_id)
            number = context.intake.breaker.began()
            try:
                upload_url = await client.upload(await source.body(), source.size)
            except AccessDoubted as error:  # not sent again at once: it may be large
                raise RequestRejected(str(error), error.status_code) from error
            read = await source.reading()
            # Inside the attempt: an upload_url that is not new is no success.
            return await ledger.record_uploaded(claim, read, upload_url, *expected), read

        try:
            uploaded, read = await context.outages.retry("upload", attempt)
        except (AttemptsExhausted, RequestRejected) as error:
            read = await source.read()
            with anyio.CancelScope(shield=True):  # the intake may end by it
                await _refused(context, claim, read, error, number)
            return None
    context.intake.breaker.took(number, "upload")
    context.emit(events.Uploaded(recording=label, size=read.size, content=read.content))
    return uploaded


async def _refused(
    context: Context,
    claim: Claim,
    read: Reading,
    error: RequestRejected | AttemptsExhausted,
    number: int,
) -> None:
    """What a refusal means for the recording, and for all."""
    ledger, intake = context.ledger, context.intake
    label = context.label(claim.root, claim.path)
    is_verdict = not isinstance(error, AttemptsExhausted | Intercepted)
    if is_of_key(error) and intake.is_first("key", claim.recording_id):
        await ledger.put_back(claim)
        context.emit(events.Warned(message=f"{label}: {error}; it is tried once more"))
        return
    if is_verdict:
        await ledger.refuse_upload(claim, read, str(error))
        is_due = False
    else:
        unless_alike = None if isinstance(error, AttemptsExhausted) else read
        is_due = await ledger.fail_upload(
            claim, str(error), _SECOND_PASS_IN_S, _PASSES, unless_alike
        )
    of_all = await context.is_refused_alike(number, "upload", error, claim, read.content)
    if not (of_all or is_due):
        context.emit(events.Failed(recording=label, reason=str(error)))


class Source:
    """A recording that is open for reading; what was read of it last is hashed."""

    def __init__(self, where: bytes, file: FileIO, found: os.stat_result, chunk_bytes: int) -> None:
        """Blocks for as long as it takes to read a chunk."""
        self.size = found.st_size
        """Bytes, when it was opened."""
        self._where = where
        self._file = file
        self._found = found
        self._chunk_bytes = chunk_bytes
        self._digest = sha256()
        self._reading: Reading | None = None
        self._whole = self._all() if self.size <= chunk_bytes else None
        first = self._whole or os.pread(file.fileno(), _EDGE_BYTES, 0)
        last = self._whole or os.pread(file.fileno(), _EDGE_BYTES, max(0, self.size - _EDGE_BYTES))
        edges = sha256(first[:_EDGE_BYTES])
        edges.update(last[-_EDGE_BYTES:])
        self.edges = edges.hexdigest()
        """sha256 of the first and last 64 KiB, hex."""
        self.duration = by_header(where, first[:_EDGE_BYTES], self.size)
        """How long it is, as far as its beginning tells."""
        self.identity = identity_of(found)
        """What is another one if another file lies there, or this one has changed."""
        if self._whole is not None:
            self._reading = self.take_reading()

    @staticmethod
    async def open(
        where: bytes,
        *,
        follow_links: bool = False,
        chunk_bytes: int = 0,
        place: bytes | None = None,
    ) -> "Source":
        """
        Open a recording, and read it if it is no larger than a chunk.

        Raises:
            PlaceUnwritable: nothing could be saved at `place`.
            RecordingUnreadable: it is gone, not readable, or not a regular file any more.
            RecordingChanged: it is empty by now, or changed while it was read.
        """
        try:
            return await _open(where, follow_links, chunk_bytes, place)
        except OSError as error:
            raise RecordingUnreadable(f"cannot be read: {error.strerror}") from error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._file.close()  # never blocks: nothing was written

    async def probed(self) -> Duration:
        """How long it is, as far as all of it tells."""
        with suppress(OSError):  # of what lies there now: what is sent is open already
            found = await duration_of(self._where, self.size, identity=self.identity)
            if found.is_probed:
                return found
        return self.duration

    @property
    def is_whole(self) -> bool:
        """Whether all of it has been read, since it is no larger than a chunk."""
        return self.size <= self._chunk_bytes

    async def body(self) -> bytes | AsyncIterator[bytes]:
        """
        Its bytes from the beginning: whole if they are no more than a chunk, else in chunks.

        Raises:
            RecordingChanged: it ends early, or changed while it was read.
            RecordingUnreadable: it cannot be read.
        """
        if self.size > self._chunk_bytes:
            return self.chunks(self._chunk_bytes)
        whole, self._whole = self._whole, None
        if whole is None:  # sent before, and what was sent is not kept
            try:
                whole = await _read_whole(self)
            except OSError as error:
                raise RecordingUnreadable(f"cannot be read: {error.strerror}") from error
        return whole

    async def read(self) -> Reading:
        """
        What it holds, without keeping it.

        Raises:
            RecordingChanged: it changed since it was opened.
            RecordingUnreadable: it cannot be read.
        """
        if self._reading is None:
            async for _ in self.chunks(self._chunk_bytes):
                pass
        return await self.reading()

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
                raise RecordingChanged(_SHORTER)
            left -= len(chunk)
            position += len(chunk)
            yield chunk

    async def reading(self) -> Reading:
        """
        What was read, once all of it was.

        Raises:
            RecordingChanged: the file is not what it was when it was opened.
        """
        # One that was read in one go some time after its last change is not being written.
        if self._reading is not None and self._reading.settled:
            return self._reading
        return await _reading(self)

    def take_whole(self) -> bytes:
        """
        All bytes, read and hashed at once. Blocks.

        Raises:
            RecordingChanged: it is not the file any more that was opened.
            OSError: it cannot be read.
        """
        whole = self._all()
        self._reading = self.take_reading()
        return whole

    def take_reading(self) -> Reading:
        """What `reading` gives. Blocks."""
        found = self._found
        try:
            now = os.stat(self._where)
        except OSError:
            now = None
        if now is None or _shape(now) != _shape(found):
            raise RecordingChanged("it changed while it was being read; the next run looks again")
        return Reading(
            content=self._digest.hexdigest(),
            edges=self.edges,
            size=found.st_size,
            mtime_ns=signed(found.st_mtime_ns),
            ctime_ns=signed(now.st_ctime_ns),
            inode=signed(found.st_ino),
            settled=is_settled(found, time.time()),
        )

    def _all(self) -> bytes:
        whole = os.pread(self._file.fileno(), self.size, 0)
        if len(whole) < self.size:
            raise RecordingChanged(_SHORTER)
        self._digest = sha256(whole)
        return whole


def _shape(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@in_thread
def _open(where: bytes, follow_links: bool, chunk_bytes: int, place: bytes | None) -> Source:
    if place is not None and (obstacle := why_not(place)):
        raise PlaceUnwritable(f"its result could not be saved: {obstacle}; nothing was sent")
    # Not blocking: what was a file at the scan may be a FIFO by now.
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_links else os.O_NOFOLLOW)
    file = FileIO(os.open(where, flags))
    try:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a regular file")
        if not found.st_size:
            raise RecordingChanged("it is empty")
        return Source(where, file, found, chunk_bytes)
    except BaseException:
        file.close()
        raise


@in_thread
def _read(file: FileIO, size: int, position: int, digest: "_Hash") -> bytes:
    # Hashed in the same hop to the thread: it costs less than the hop.
    chunk = os.pread(file.fileno(), size, position)
    digest.update(chunk)
    return chunk


_read_whole = in_thread(Source.take_whole)
_reading = in_thread(Source.take_reading)
