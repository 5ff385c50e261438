"""
Uploads -> submitted: asking once for a transcript of each.

The only step that costs money, so its order is fixed: a place at the service, the limiter's
permit, `submitting` durable in the ledger, then the request at once. It is never repeated here.
What certainly did not become a transcript is due again, what nobody knows is the reconciler's.
"""

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from pipeline import events
from pipeline.addresses import without_query
from pipeline.client import Handover
from pipeline.errors import (
    BatchError,
    ConnectionLost,
    OptionsRefused,
    PipelineError,
    TransientError,
)
from pipeline.models import Uploaded
from pipeline.options import DEFAULT_SPEECH_MODELS, canonical, request_options
from pipeline.reconcile import Reconciler
from pipeline.stages import Context
from pipeline.wire import Accepted, Ambiguous, NotAccepted, shown, submit_body

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
    """The permit, the ledger's leave, and the request."""
    intake, attempt_id = context.intake, uploaded.attempt_id
    try:
        await context.client.limiter.permit("submit")
    except BatchError as error:
        intake.end(error)
    if not intake.is_open or not _finishes(context, uploaded):
        await _set_aside(context, attempt_id)
        return False
    return await _ask(context, reconciler, uploaded)


async def _ask(context: Context, reconciler: Reconciler, uploaded: Uploaded) -> bool:
    """Whether the service has accepted; the ledger knows in any case."""
    ledger, attempt_id = context.ledger, uploaded.attempt_id
    options = request_options(uploaded.options, DEFAULT_SPEECH_MODELS)
    if context.webhook is not None:
        options |= context.webhook.options(attempt_id)
    body = submit_body(uploaded.upload_url, options)
    handover = Handover()
    try:
        if not await ledger.claim_submit(attempt_id, reconciler.newest_listed):
            context.intake.allowance.release(attempt_id)
            return False
        outcome = await context.client.submit(uploaded.upload_url, body, handover)
    except BaseException:
        if not handover.begun:
            with anyio.CancelScope(shield=True):
                await _set_aside(context, attempt_id)
        raise
    # From here on the answer is known: a stop must not turn it into a lost one.
    with anyio.CancelScope(shield=True):
        match outcome:
            case Accepted(transcript_id, echo):
                context.intake.reached()
                context.intake.took(canonical(uploaded.options))
                if await ledger.record_accepted(attempt_id, transcript_id, echo):
                    _tell_accepted(context, uploaded, transcript_id, echo)
                    return True
                reason = f"the id {transcript_id} is, or may be, that of another upload"
                await _lost(context, uploaded, reason, transcript_id)
            case Ambiguous(reason):
                await _lost(context, uploaded, reason)
            case NotAccepted(error):
                await _refused(context, uploaded, error)
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


async def _lost(
    context: Context, uploaded: Uploaded, reason: str, claimed_id: str | None = None
) -> None:
    await context.ledger.record_ambiguous(uploaded.attempt_id, reason, claimed_id)
    label = context.label(uploaded.root, uploaded.path)
    context.emit(events.Warned(message=f"{label}: the answer was lost, looking for it ({reason})"))


async def _refused(context: Context, uploaded: Uploaded, error: PipelineError) -> None:
    ledger, intake = context.ledger, context.intake
    intake.allowance.release(uploaded.attempt_id)
    if isinstance(error, TransientError):
        await ledger.set_aside(uploaded.attempt_id, _AGAIN_IN_S)
        if isinstance(error, ConnectionLost):
            intake.lost(str(error))
    elif isinstance(error, BatchError) and not _is_of_its_options(context, error):
        await ledger.set_aside(uploaded.attempt_id)
        intake.end(error)
    else:
        options = canonical(uploaded.options)
        await ledger.record_refused(uploaded.attempt_id, str(error))
        label = context.label(uploaded.root, uploaded.path)
        context.emit(events.Failed(recording=label, reason=str(error)))
        is_alike = intake.refused(options, str(error)) and not await ledger.were_taken(options)
        if is_alike or isinstance(error, OptionsRefused):
            _end_options(context, options, str(error))


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


def _is_of_its_options(context: Context, error: BatchError) -> bool:
    """Whether other recordings, which have other options, may have more luck."""
    return isinstance(error, OptionsRefused) and context.has_own_options


def _end_options(context: Context, options: str, said: str) -> None:
    """Send nothing more with options that the service refuses."""
    if context.has_own_options:
        context.intake.refused_options[options] = said
    else:
        context.intake.end(OptionsRefused(f"the service refuses all alike: {said}"))
