"""
Looks -> files, ledger: a transcript fetched by its id, checked, and durable on disk.

The bytes of the answer go as they came through a `Spool`; they are checked whole, and renamed into
place; then its facts go into the ledger. What was paid stays `submitted` or `completed` there until
every recording of the content has its result, so nothing that goes wrong here can lose it or pay
for it again.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any

import anyio
from anyio import BrokenWorkerProcess, to_process
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline import events
from pipeline.allowance import unpriced
from pipeline.errors import (
    AnswerUnusable,
    AttemptsExhausted,
    BatchError,
    DiskFull,
    OutputNotWritable,
    PipelineError,
    RecordingError,
    TranscriptUnknown,
)
from pipeline.events import printable
from pipeline.files import cannot_write, no_room, obstacle, put_whole
from pipeline.heard import certain_length_s
from pipeline.models import Completion, Delivery, Pending, Recipient
from pipeline.names import derived, temporary, version
from pipeline.quality import amiss, odd_length
from pipeline.redaction import put_audio_aside
from pipeline.render import RenderError, render_file
from pipeline.retry import retry
from pipeline.spool import Spool
from pipeline.stages import Context, held_at, kept_as
from pipeline.wire import Head, is_in_progress, is_server_fault, redacted_suffix

__all__ = ["render", "render_lacking", "write"]

_TRIES = 2
_YOUNG_S = 60.0
_REDACTION_S = 600.0
_TEXTLESS_S = 0.5
_RENDER_BATCH = 100


async def write(
    context: Context,
    looking: set[str],
    looks: MemoryObjectReceiveStream[Pending],
    saved: MemoryObjectSendStream[None],
) -> None:
    """
    Look at each transcript, and save it if it is finished; then it is out of `looking`.

    `saved` is told that the service's copy may not be needed any more; what is, the ledger knows.
    """
    async with looks, saved:
        async for pending in looks:
            try:
                if context.intake.collects:
                    await _settle(context, pending)
            finally:
                looking.discard(pending.transcript_id)
            if context.settings.delete_remote:
                with suppress(anyio.WouldBlock):  # told already
                    saved.send_nowait(None)


async def _settle(context: Context, pending: Pending) -> None:
    """One look, and what it means for the others where it went wrong."""
    try:
        if await _look(context, pending):
            context.intake.allowance.settle(pending.attempt_id, None, None)
            context.intake.left(pending.attempt_id)
        else:
            context.intake.entered(pending.attempt_id)
    except BatchError as error:
        context.intake.end(error)
        if error.collect:  # the others may have more luck
            await _put_off(context, pending, error)
    except (PipelineError, OSError) as error:
        await _put_off(context, pending, error)


async def _look(context: Context, pending: Pending) -> bool:
    """Whether the transcript is done with."""
    if pending.completed and not pending.is_lost and await _copy_written(context, pending):
        return True
    async with _spool(context, pending) as spool:
        head = None
        try:
            with context.intake.fetching():
                head = await _fetched(context, pending, spool)
        except TranscriptUnknown as error:
            return await _unknown(context, pending, error)
        if head is None:
            return False
        if head.is_deleted:
            await _missing(context, pending, "it was deleted at the service")
            return True
        if pending.is_lost:
            if head.status != "completed":
                return True  # asked for again, as long as nothing comes of it
            await context.ledger.record_found_again(pending.attempt_id)
        if pending.completed and head.status != "completed":
            raise AnswerUnusable(f"the service says `{head.status}` of what it had completed")
        match head.status:
            case "error":
                context.intake.allowance.release(pending.attempt_id)
                await _failed(context, pending, head.error or "no reason given")
                return True
            case "completed":
                return await _save(context, pending, spool, head)
        return False  # queued or processing, or a status that nobody knows yet


async def _fetched(context: Context, pending: Pending, spool: Spool) -> Head:
    """What a transcript says; one that is finished and has no text is asked once more for it."""
    call = partial(_fetch, context, pending, spool)
    head = await context.outages.retry("get", call)
    if head.status == "completed" and head.text is None and not head.is_deleted:
        await anyio.sleep(_TEXTLESS_S)  # it may have finished just now
        head = await context.outages.retry("get", call)
    return head


async def _fetch(context: Context, pending: Pending, spool: Spool) -> Head:
    """What a transcript says, its bytes in the spool."""
    await spool.rewind()
    await context.client.fetch(pending.transcript_id, spool.write)
    head = await spool.finish()
    head.error = head.error and context.client.shown(head.error)
    head.speech_model_used = head.speech_model_used and context.client.shown(head.speech_model_used)
    head.language_code = head.language_code and context.client.shown(head.language_code)
    if head.id != pending.transcript_id:
        raise AnswerUnusable(f"the service answered with the transcript {head.id}")
    echo = None if head.is_deleted or head.audio_url == pending.audio_url else head.audio_url
    if echo is not None and await context.ledger.is_of_another(pending.attempt_id, echo):
        raise AnswerUnusable("the service answered with the transcript of another upload")
    return head


async def _unknown(context: Context, pending: Pending, error: TranscriptUnknown) -> bool:
    """An id that the service does not know, which it may do for a while after giving it."""
    age_s = context.ledger.now() - pending.accepted_at
    if not (pending.completed or pending.is_lost) and 0 <= age_s < _YOUNG_S:
        return False
    reason = f"the service no longer has it ({error})"
    if await context.ledger.record_unknown(pending.attempt_id, reason):
        await _missing(context, pending, reason, is_unknown=True)
    return True


async def _missing(
    context: Context, pending: Pending, reason: str, *, is_unknown: bool = False
) -> None:
    """What the service has no more: its result is missing, unless it lies here without audio."""
    if pending.completed and await _copy_written(context, pending, with_audio=False):
        message = (
            f"transcript {pending.transcript_id} is saved without its redacted audio: {reason}"
        )
        context.emit(events.Warned(message=message))
        return
    await context.ledger.record_missing(pending.attempt_id, reason, is_unknown=is_unknown)
    await _tell_failed(context, pending, reason)


async def _failed(context: Context, pending: Pending, reason: str) -> None:
    again = await context.ledger.record_error(
        pending.attempt_id, reason, again=is_server_fault(reason), tries=_TRIES
    )
    if again:
        context.emit(events.Warned(message=f"{reason} Asking once more: it cost nothing"))
    else:
        await _tell_failed(context, pending, reason)


async def _tell_failed(context: Context, pending: Pending, reason: str) -> None:
    delivery = await context.ledger.delivery(pending.attempt_id)
    for each in delivery.recipients:
        label = context.label(each.root, each.path)
        if each.current:
            context.emit(
                events.Failed(recording=label, reason=reason, transcript_id=pending.transcript_id)
            )
        else:
            message = (
                f"transcript {pending.transcript_id} of {label}, which waits for none: {reason}"
            )
            context.emit(events.Warned(message=message))


def _completion(
    context: Context, head: Head, channels: int | None, held_s: float | None
) -> Completion:
    duration_s = head.audio_duration
    cost = context.settings.cost_usd(head.speech_model_used, duration_s, channels)
    odd = head.odd, odd_length(duration_s, held_s)
    return Completion(
        *(head.speech_model_used, duration_s, cost, head.confidence, head.language_code),
        odd="; ".join(filter(None, odd)) or None,
        amiss=amiss(head, held_s),
    )


async def _held_s(context: Context, pending: Pending, heard_s: float | None) -> float | None:
    """Seconds that what was sent certainly holds, None unless all of it was to be heard."""
    sent = await context.ledger.sent(pending.attempt_id)
    if heard_s is None or sent is None or not sent.is_whole or sent.root not in context.roots:
        return None
    return await certain_length_s(context.where(sent.root, sent.path), sent, heard_s)


def _channels(head: Head, options: Mapping[str, Any]) -> int | None:
    """How many channels were transcribed one by one; None where the answer does not say."""
    return head.audio_channels if options.get("multichannel") else 1


def _tell_completed(
    context: Context, pending: Pending, delivery: Delivery, completion: Completion
) -> None:
    if not pending.completed and delivery.recipients:
        asked_for = delivery.recipients[0]
        context.emit(
            events.Completed(
                recording=context.label(asked_for.root, asked_for.path),
                transcript_id=pending.transcript_id,
                audio_duration=completion.duration_s or 0.0,
                speech_model_used=completion.model_used,
                cost_usd=completion.price_usd,
            )
        )


async def _put_off(context: Context, pending: Pending, error: Exception) -> None:
    """What cannot be fetched or saved now: never failed, fetched again later."""
    if isinstance(error, OSError) and no_room(error):
        context.intake.end(DiskFull(f"no room for results: {error.strerror}"))
        return
    if isinstance(error, OSError) and await cannot_write(context.place(b"")):
        message = f"cannot write to {context.settings.output} any more: {error.strerror}"
        context.intake.end(OutputNotWritable(f"{message}; what is paid is fetched by the next run"))
        return
    reason = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    context.intake.allowance.settle(pending.attempt_id, None, None)
    await context.ledger.park([pending.attempt_id], f"cannot be fetched or saved: {reason}")
    context.intake.left(pending.attempt_id)
    context.emit(events.Warned(message=f"transcript {pending.transcript_id}: {reason}"))


# --- delivery -------------------------------------------------------------------------------------


def _place(context: Context, recipient: Recipient, digest: str) -> bytes:
    """Where a result of this sha256 goes: to its recording, or among the versions."""
    place = context.place(recipient.result)
    return place if recipient.current else kept_as(context, place)(digest)


@asynccontextmanager
async def _spool(
    context: Context, pending: Pending, suffix: str | None = None
) -> AsyncIterator[Spool]:
    """For the JSON of a transcript, or for a file that belongs to it."""
    place = context.place(pending.result)
    if pending.completed and await obstacle(place):  # others may wait for it, elsewhere
        place = _older_name(context, pending)
    async with Spool(derived(place, suffix) if suffix else place, pending.transcript_id) as spool:
        yield spool


def _older_name(context: Context, pending: Pending) -> bytes:
    """Where earlier releases have put among the versions what no row of those names."""
    return os.path.join(context.versions, version(pending.result, pending.transcript_id))


async def _save(context: Context, pending: Pending, spool: Spool, head: Head) -> bool:
    """Save a finished transcript, whatever is odd about it; False while its audio is being made."""
    attempt_id = pending.attempt_id
    options = await context.ledger.asked_for(attempt_id)
    channels = _channels(head, options)
    held_s = await _held_s(context, pending, head.audio_duration)
    completion = _completion(context, head, channels, held_s)
    context.intake.allowance.settle(
        attempt_id,
        completion.duration_s,
        completion.price_usd,
        # Of channels that it does not count what was expected holds, whatever its model costs.
        None if channels is None else completion.model_used,
    )
    if said := unpriced(completion.model_used, context.settings):
        context.warn_once(said, said)
    if suffix := redacted_suffix(options):
        if not await _save_with_audio(context, pending, spool, suffix, completion):
            return False
    else:
        delivery = await context.ledger.delivery(attempt_id)
        _tell_completed(context, pending, delivery, completion)
        await _deliver(context, pending, delivery, spool, completion)
    if said := completion.odd or completion.amiss:
        what = f"transcript {pending.transcript_id} is saved as it came, and suspicious"
        context.warn_once(what, f"{what}: {said}")  # a look may come twice, and changes nothing
    return True


async def _copy_written(context: Context, pending: Pending, *, with_audio: bool = True) -> bool:
    """
    Write from a result that is already here; False when there is none that is intact.

    One whose redacted audio is gone is none `with_audio`.
    """
    delivery = await context.ledger.delivery(pending.attempt_id)
    # Where nobody waits, it is enough that it lies somewhere and a row says where.
    waiting = replace(delivery, recipients=[each for each in delivery.recipients if each.current])
    for copy in delivery.copies:
        source, whose = held_at(context, copy), waiting if copy.is_noted else delivery
        if await _copy_from(context, pending, whose, source, copy.digest, with_audio):
            return True
    older = _older_name(context, pending)
    return await _copy_from(context, pending, delivery, older, None, with_audio)


async def _copy_from(
    context: Context,
    pending: Pending,
    delivery: Delivery,
    source: bytes,
    digest: str | None,
    with_audio: bool,
) -> bool:
    """Write from a file of this sha256, or where that is not known of this transcript."""
    async with _spool(context, pending) as spool:
        try:
            found = await spool.copy_from(source)
            head = None if digest else await spool.head()
        except OSError as error:
            if no_room(error) or await cannot_write(context.place(b"")):
                raise  # of the copy, not of what is copied: no reason to call that missing
            return False
        except (PipelineError, ValueError):  # no transcript: it can be fetched
            return False
        if digest not in (None, found):
            return False
        if head is not None and (head.id != pending.transcript_id or head.is_deleted):
            return False
        has_audio = False
        if suffix := redacted_suffix(await context.ledger.asked_for(pending.attempt_id)):
            async with _spool(context, pending, suffix) as audio:
                with suppress(FileNotFoundError):
                    await audio.copy_from(derived(source, suffix))
                    has_audio = True
                if has_audio:
                    await _put_beside(context, delivery, audio, suffix, found)
                elif with_audio:
                    return False
        is_all = has_audio or suffix is None
        await _deliver(context, pending, delivery, spool, is_all=is_all, has_audio=has_audio)
    return True


async def _save_with_audio(
    context: Context, pending: Pending, spool: Spool, suffix: str, completion: Completion
) -> bool:
    """Save a result and the redacted audio that belongs to it; False while that is being made."""
    # Waiting for it may outlast this run: from here on the ledger knows that it is paid.
    delivery = await context.ledger.record_completed(pending.attempt_id, completion)
    _tell_completed(context, pending, delivery, completion)
    url = await _redacted_url(context, pending)
    if url is None and not _is_late(context, pending):
        return False  # looked at again, with the transcript
    has_audio = await _save_redacted(context, pending, delivery, suffix, url, spool.digest)
    # Once more what is known already: this answer may be odd where the one before was not.
    await _deliver(
        *(context, pending, delivery, spool, completion), is_all=has_audio, has_audio=has_audio
    )
    return True


async def _redacted_url(context: Context, pending: Pending) -> str | None:
    """Where the redacted audio is, None while it is being made, "" when there will be none."""
    try:
        call = partial(context.client.redacted_audio, pending.transcript_id)
        return await context.outages.retry("get", call)
    except AttemptsExhausted:
        return None  # an outage: as good as still being made
    except RecordingError as error:
        if is_in_progress(error):
            return None
        message = f"no redacted audio for transcript {pending.transcript_id}: {error}"
        context.emit(events.Warned(message=message))
        return ""


def _is_late(context: Context, pending: Pending) -> bool:
    if pending.finished_at is None:
        return False
    # What lies ahead was noted by a clock that was wrong: its time would never be over.
    return abs(context.ledger.now() - pending.finished_at) > _REDACTION_S


async def _save_redacted(
    context: Context,
    pending: Pending,
    delivery: Delivery,
    suffix: str,
    url: str | None,
    digest: str,
) -> bool:
    """Save the redacted audio beside the results, before they are; whether there was any."""
    if url is None:
        message = f"no redacted audio for transcript {pending.transcript_id} after so long"
        context.emit(events.Warned(message=message))
    if not url:
        return False
    async with _spool(context, pending, suffix) as spool:

        async def attempt() -> None:
            await spool.rewind()
            await context.client.download(url, spool.write)
            await spool.close()

        try:
            await retry(attempt)  # of another host: no outage of the service
        except AnswerUnusable as error:  # no other try makes it another one
            message = f"no redacted audio for transcript {pending.transcript_id}: {error}"
            context.emit(events.Warned(message=message))
            return False
        await _put_beside(context, delivery, spool, suffix, digest)
    return True


async def _put_beside(
    context: Context, delivery: Delivery, spool: Spool, suffix: str, digest: str
) -> None:
    """Put the audio of a result of this sha256 beside it, wherever the result is waited for."""
    results = {_place(context, each, digest): each for each in delivery.recipients}
    free = [each for each in results if not await obstacle(each)]
    for result in sorted(free, key=lambda each: derived(each, suffix) == spool.place):
        if results[result].replaces:
            await put_audio_aside(result, kept_as(context, result), digest)
        place = derived(result, suffix)
        await spool.put(place, kept_as(context, place))


async def _deliver(
    context: Context,
    pending: Pending,
    delivery: Delivery,
    spool: Spool,
    completion: Completion | None = None,
    *,
    is_all: bool = True,
    has_audio: bool = False,
) -> None:
    """
    Put a whole answer wherever it is waited for, then say so in the ledger.

    `completion` is what it says of its cost, if the ledger has not been told yet. Audio of its own,
    which it may have, lies there already.
    """
    written, failure = dict[Recipient, bool](), None
    places = [(_place(context, each, spool.digest), each) for each in delivery.recipients]
    # The one that the file lies beside comes last: it is renamed, the others get copies.
    places.sort(key=lambda pair: pair[0] == spool.place)
    for place, recipient in places:
        kept = kept_as(context, place) if recipient.current else None
        try:
            if kept is not None and recipient.replaces and not has_audio:
                await put_audio_aside(place, kept, spool.digest)
            replaced = await spool.put(place, kept)
            if recipient.current:
                formats = context.settings_of(recipient.root).formats[1:]
                await render(context, place, formats)
        except OSError as error:
            failure = error
            continue
        written[recipient] = replaced
    if failure is not None and not written:
        if completion is not None:
            await context.ledger.record_completed(pending.attempt_id, completion)
        raise failure
    await context.ledger.record_written(
        pending.attempt_id,
        [each.recording_id for each in written if each.current],
        spool.size,
        spool.digest,
        completion,
        kept_for=[each.recording_id for each in written if not each.current],
        is_all=is_all and failure is None,
    )
    for recipient, replaced in written.items():
        if recipient.current:
            context.emit(
                events.Written(
                    recording=context.label(recipient.root, recipient.path),
                    transcript_id=pending.transcript_id,
                    result=printable(recipient.result),
                    replaced=replaced,
                    amiss=None if completion is None else completion.amiss,
                )
            )
    if failure is not None:
        raise failure  # the others have theirs


async def render_lacking(context: Context) -> int:
    """Make the derived files that results of earlier runs lack; how many were made."""
    made = 0
    while context.intake.is_open and (batch := await context.ledger.lacking(_RENDER_BATCH)):
        for _, result, formats in batch:
            try:
                made += await render(context, context.place(result), formats)
            except OSError as error:
                name = printable(result)
                context.emit(events.Warned(message=f"cannot render {name}: {error.strerror}"))
        await context.ledger.record_rendered([recording_id for recording_id, _, _ in batch])
    return made


async def render(context: Context, result: bytes, formats: Sequence[str]) -> int:
    """
    Make derived files from the JSON result at this place, and keep what they replace; how many.

    In another process: parsing holds the interpreter.

    Raises:
        OSError: the disk is full, or something is in the way.
    """
    if not formats:
        return 0
    title = printable(os.path.basename(result).removesuffix(b".json"))
    names = context.settings.speaker_names
    for suffix in formats:
        try:
            made = await to_process.run_sync(
                render_file, result, suffix, title, names, cancellable=True
            )
        except RenderError as error:
            context.emit(events.Warned(message=f"cannot render {title} as {suffix}: {error}"))
        except (BrokenWorkerProcess, KeyboardInterrupt, MemoryError) as error:
            # The worker's end, not ours: a Ctrl-C reaches it too. The next run renders.
            message = f"{title} is not rendered as {suffix}: {type(error).__name__}"
            context.emit(events.Warned(message=message))
        else:
            place = derived(result, suffix)
            await put_whole(
                made,
                temporary(place),
                place,
                sha256(made).hexdigest(),
                kept_as(context, place),
            )
    return len(formats)
