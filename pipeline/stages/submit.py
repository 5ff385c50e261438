"""
Uploads -> submitted: asking once for a transcript of each.

The only step that costs money, so its order is fixed: a place at the service, the limiter's
permit, `submitting` durable in the ledger, then the request at once. It is never repeated here.
What certainly did not become a transcript is due again, what nobody knows is the reconciler's.
"""

from collections.abc import Mapping
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline import events
from pipeline.addresses import without_query
from pipeline.breaker import Cause
from pipeline.client import Handover
from pipeline.errors import (
    BatchError,
    ConnectionLost,
    Intercepted,
    KeyRefused,
    OptionsRefused,
    PipelineError,
    RequestRejected,
    TransientError,
    UploadInaccessible,
)
from pipeline.models import Uploaded
from pipeline.options import asked_models, canonical, request_options
from pipeline.reconcile import Reconciler
from pipeline.stages import Context, canonical_models
from pipeline.wire import Accepted, Ambiguous, NotAccepted, is_of_key, shown, submit_body

__all__ = ["submit"]

_AGAIN_IN_S = 5.0


async def submit(
    context: Context,
    reconciler: Reconciler,
    uploads: MemoryObjectReceiveStream[Uploaded],
    submitted: MemoryObjectSendStream[int],
) -> None:
    """Submit each upload; leave lost answers to the reconciler."""
    intake = context.intake
    try:
        async with uploads, submitted:
            async for uploaded in uploads:
                if await _submit(context, reconciler, uploaded):
                    await submitted.send(uploaded.attempt_id)
                intake.release(uploaded.recording_id)
    finally:
        intake.changed()  # the next stage may have nothing more to wait for


async def _submit(context: Context, reconciler: Reconciler, uploaded: Uploaded) -> bool:
    """Whether the service has one more transcript of ours."""
    intake, attempt_id = context.intake, uploaded.attempt_id
    if not await intake.until_slot():
        await _set_aside(context, attempt_id)
        return False
    # Before anything else is awaited, so that nobody takes the same place; and kept until the
    # answer is there: a lost one may well be at the service, too.
    intake.entered(attempt_id)
    if await _ask_if_open(context, reconciler, uploaded):
        return True
    intake.left(attempt_id)
    reconciler.wake()
    return False


async def _ask_if_open(context: Context, reconciler: Reconciler, uploaded: Uploaded) -> bool:
    """Its turn, the permit, the ledger's leave, and the request."""
    intake, attempt_id, options = context.intake, uploaded.attempt_id, canonical(uploaded.options)
    async with context.outages.submitting(), intake.asking("submit", options):
        if refused := context.refused(uploaded.options):
            intake.allowance.release(attempt_id)
            await context.ledger.leave_refused(attempt_id, refused)
            label = context.label(uploaded.root, uploaded.path)
            context.emit(events.Failed(recording=label, reason=refused))
            return False
        given_at = 0.0
        try:
            given_at = await context.client.limiter.permit("submit")
        except BatchError as error:
            intake.end(error)
        if not intake.is_open or not _finishes(context, uploaded):
            await _set_aside(context, attempt_id)
            return False
        return await _ask(context, reconciler, uploaded, Handover(given_at))


async def _ask(
    context: Context, reconciler: Reconciler, uploaded: Uploaded, handover: Handover
) -> bool:
    """Whether the service has accepted; the ledger knows in any case."""
    ledger, attempt_id = context.ledger, uploaded.attempt_id
    options = request_options(uploaded.options)
    if context.webhook is not None:
        options |= context.webhook.options(attempt_id)
    body = submit_body(uploaded.upload_url, options)
    try:
        if not await ledger.claim_submit(attempt_id, reconciler.newest_listed):
            context.intake.allowance.release(attempt_id)
            return False
        number, sent_at = context.intake.breaker.began(), anyio.current_time()
        outcome = await context.client.submit(uploaded.upload_url, body, handover)
    except BaseException:
        if not handover.begun:
            with anyio.CancelScope(shield=True):
                await _set_aside(context, attempt_id)
        raise
    doubt: PipelineError | None = None
    # From here on the answer is known: a stop must not turn it into a lost one.
    with anyio.CancelScope(shield=True):
        match outcome:
            case Accepted(transcript_id, echo):
                context.outages.submit_taken()
                context.intake.breaker.took(number, "submit", canonical(uploaded.options))
                if await ledger.record_accepted(attempt_id, transcript_id, echo):
                    _tell_accepted(context, uploaded, transcript_id, echo)
                    return True
                reason = f"the id {transcript_id} is, or may be, that of another upload"
                await _lost(context, uploaded, reason, transcript_id)
            case Ambiguous(reason, interception):
                await _lost(context, uploaded, reason)
                context.outages.submit_lost(sent_at, reason, attempt_id)
                if interception is not None:
                    await _is_alike(context, uploaded, interception, number)
            case NotAccepted(error) if is_of_key(error) and context.intake.is_first(
                "key", uploaded.recording_id
            ):
                doubt = error
            case NotAccepted(error):
                await _refused(context, uploaded, error, number, sent_at)
    if doubt is not None:
        await _check_key(context, uploaded, doubt)
    return False


def _tell_accepted(
    context: Context, uploaded: Uploaded, transcript_id: str, echo: str | None
) -> None:
    label = context.label(uploaded.root, uploaded.path)
    context.emit(events.Submitted(recording=label, transcript_id=transcript_id))
    if echo is not None:
        given, spelled = (shown(without_query(url)) for url in (uploaded.upload_url, echo))
        message = f"{label}: the service calls the upload {given} now {spelled}: taken for the same"
        context.warn_once("echo", message)


async def _check_key(context: Context, uploaded: Uploaded, error: PipelineError) -> None:
    """Set an upload aside that was refused for the key; the intake ends if that is refused."""
    holds = True
    try:
        holds = await context.client.takes_key()
    finally:
        with anyio.CancelScope(shield=True):
            await _set_aside(context, uploaded.attempt_id)
    if not holds:
        context.intake.end(KeyRefused(str(error)))
    else:
        label = context.label(uploaded.root, uploaded.path)
        context.emit(events.Warned(message=f"{label}: {error}; it is tried once more"))


async def _lost(
    context: Context, uploaded: Uploaded, reason: str, claimed_id: str | None = None
) -> None:
    await context.ledger.record_ambiguous(uploaded.attempt_id, reason, claimed_id)
    label = context.label(uploaded.root, uploaded.path)
    context.emit(events.Warned(message=f"{label}: the answer was lost, looking for it ({reason})"))


async def _refused(
    context: Context, uploaded: Uploaded, error: PipelineError, number: int, sent_at: float
) -> None:
    """What a refusal means for the recording, and for all."""
    ledger, intake, attempt_id = context.ledger, context.intake, uploaded.attempt_id
    label = context.label(uploaded.root, uploaded.path)
    intake.allowance.release(attempt_id)
    part = ""
    if isinstance(error, OptionsRefused):
        error, part = _of_models(context, uploaded.options, error)
    if isinstance(error, TransientError):
        is_out = await context.outages.noticed("list", error, sent_at)
        await ledger.set_aside(attempt_id, 0.0 if is_out else _AGAIN_IN_S)
        if isinstance(error, ConnectionLost) and not is_out:
            context.outages.submit_lost(sent_at, str(error))
    elif isinstance(error, UploadInaccessible) and intake.is_first("upload", uploaded.recording_id):
        await ledger.upload_anew(attempt_id, str(error))
        context.emit(events.Warned(message=f"{label}: {error}; it is uploaded anew"))
    elif isinstance(error, Intercepted):
        await ledger.upload_anew(attempt_id, str(error), _AGAIN_IN_S)
        is_alike = await _is_alike(context, uploaded, error, number)
        if not (is_alike or intake.is_first("filter", uploaded.recording_id)):
            await ledger.take_back([attempt_id], str(error))
            context.emit(events.Failed(recording=label, reason=str(error)))
    elif part:
        await ledger.record_refused(attempt_id, str(error))
        await context.end_alike(Cause("submit", 400, "", part, str(error)), [attempt_id])
        context.emit(events.Failed(recording=label, reason=str(error)))
    elif isinstance(error, BatchError) and not is_of_key(error):
        await ledger.set_aside(attempt_id)
        intake.end(error)
    else:
        refusal = error if isinstance(error, RequestRejected) else RequestRejected(str(error), 401)
        await ledger.record_refused(attempt_id, str(error))
        if not await _is_alike(context, uploaded, refusal, number):
            context.emit(events.Failed(recording=label, reason=str(error)))


def _of_models(
    context: Context, options: Mapping[str, Any], error: OptionsRefused
) -> tuple[OptionsRefused, str]:
    """What to say of a refusal of models, and what it ends: nothing named is all."""
    models = asked_models(options)
    if _speaks_of_another(str(error), options):
        part = canonical(options) if context.has_own_options else ""
    else:
        part = canonical_models(models) if context.asks_for_others(models) else ""
    others = ", the `[[rules]]` or the `[[source]]` that set it" if context.has_own_options else ""
    said = (
        f"{error} Asked for were {', '.join(models)}: change `speech_models` in"
        f" `[transcript]`{others}, or with `--set`"
    )
    return OptionsRefused(said), part


def _speaks_of_another(said: str, options: Mapping[str, Any]) -> bool:
    """Whether a refusal of models may lie in one of the other options, a language say."""
    words = {key.lstrip("+").partition("_")[0] for key in options} - {"speech"}
    return any(word in said.lower() for word in words)


async def _is_alike(
    context: Context, uploaded: Uploaded, error: RequestRejected, number: int
) -> bool:
    """Whether all are refused as this one was."""
    return await context.is_refused_alike(number, "submit", error, uploaded, uploaded.content)


async def _set_aside(context: Context, attempt_id: int) -> None:
    """Keep an upload for later: nothing was asked for."""
    context.intake.allowance.release(attempt_id)
    await context.ledger.set_aside(attempt_id)


def _finishes(context: Context, uploaded: Uploaded) -> bool:
    """Whether a transcript asked for now can finish in the window; if not, the intake ends."""
    try:
        context.intake.require_time(uploaded.attempt_id, context.ledger.now())
    except BatchError as error:
        context.intake.end(error)
        return False
    return True
