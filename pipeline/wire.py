"""
What is in the messages: out, request bodies; in, statuses and bodies, turned into facts or errors.

No I/O. Every rule about the service's answers is here, so that each can be tested on bytes.
Answers are read leniently: unknown fields, statuses and content types do no harm, and any 2xx
counts whose body is whole.

Source: https://github.com/AssemblyAI/assemblyai-api-spec, openapi.yml, and
https://www.assemblyai.com/docs for what the specification leaves out.
"""

import codecs
import re
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from pipeline.errors import (
    AnswerUnusable,
    BalanceNegative,
    Intercepted,
    KeyRefused,
    NotTheService,
    OptionsRefused,
    PipelineError,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    TranscriptUnknown,
    UploadInaccessible,
)
from pipeline.parsing import UNREADABLE, decoded

__all__ = [
    "CERTAIN_REFUSALS",
    "DELETED_AUDIO_URL",
    "PAGE_ROWS",
    "SECRET_HEADER",
    "WEBHOOK_PATH",
    "Accepted",
    "Ambiguous",
    "Head",
    "NotAccepted",
    "Row",
    "Submission",
    "Webhook",
    "check_id",
    "error_from",
    "first_id",
    "is_deleted",
    "is_in_progress",
    "is_of_key",
    "is_server_fault",
    "last_id",
    "parse_head",
    "parse_list",
    "parse_notification",
    "parse_redacted_audio",
    "parse_upload",
    "redacted_suffix",
    "retry_after_s",
    "shown",
    "submission",
    "submit_body",
]

PAGE_ROWS = 200
"""Most rows of one page of the list. Source: openapi.yml, listTranscripts, `limit`."""

DELETED_AUDIO_URL = "http://deleted_by_user"
"""What `audio_url` says of a deleted transcript, whose `status` stays `completed`.

Source: openapi.yml, deleteTranscript, example DeleteTranscriptResponse.
"""

SECRET_HEADER = "X-Overnight-Secret"
"""The header in which the service sends back what it was given as a secret."""

WEBHOOK_PATH = "/overnight"
"""Where notifications are taken."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERVER_FAULT = re.compile(r"server error", re.IGNORECASE)
_LOST_UPLOAD = re.compile(r"download error", re.IGNORECASE)
_SPEECH_MODEL = re.compile(r"speech[\s_-]?model")
_UPLOAD_URL = re.compile(r"[^\x00-\x20\x7f]{1,4096}")
_ATTEMPT = re.compile(r"[0-9]{1,18}")
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_LONGEST_EXCERPT = 300
_LONGEST_HEAD = 2048  # of a page, as far as its title is looked for
_LONGEST_TITLE = 80
_MARKUP = re.compile(r"(?is)<!--.*?-->|<(script|style)\b.*?</\1>|<[^>]*>")
_LONGEST_STATUS = 40
_LONGEST_AUDIO_S = 1e6
_BLANK = re.compile(rb'"(?:\s|\\[bfnrt]|\\u(?:00(?:0[9a-dA-D]|20|a0|A0)|3000))*"')
_DELETED = re.compile(
    r"\s*(?:[a-z][a-z0-9+.-]*:)?(?://)?(?:[^/?#]*@)?deleted_by_user\.?(?::\d*)?(?:[/?#\s]|$)",
    re.IGNORECASE,
)
"""`DELETED_AUDIO_URL` in any spelling: what an address is to a server or proxy in between."""


class _Upload(msgspec.Struct):
    upload_url: str


class _RedactedAudio(msgspec.Struct):
    redacted_audio_url: str


class _Notification(msgspec.Struct):
    transcript_id: str


class _Error(msgspec.Struct):
    error: str


class Row(msgspec.Struct):
    """A row of the list: says what to look at, never what became of it."""

    id: str = ""
    """Empty where it cannot be read."""
    status: str = ""
    """Empty where it cannot be read: not finished yet, as any other that is not known."""
    audio_url: str | None = None
    """None where it cannot be read."""
    created: str | None = None
    """When it was asked for, as the service writes it."""


class _Rows(msgspec.Struct):
    transcripts: list[Row]


class _UnreadRows(msgspec.Struct):
    transcripts: list[msgspec.Raw]


class Head(msgspec.Struct):
    """The fields of a transcript that the pipeline acts on."""

    id: str
    status: str
    """Empty where it cannot be read: not finished yet, as any other that is not known."""
    audio_url: str | None = None
    error: str | None = None
    """One short line."""
    text: str | None = None
    """Empty, whatever was said: all that counts is whether there is one, and it may be long."""
    has_words: bool = False
    """Whether there is more to it than blanks."""
    audio_duration: float | None = None
    """Seconds."""
    audio_channels: int | None = None
    """Where they were transcribed one by one."""
    multichannel: bool | None = None
    """Whether that was asked for."""
    speech_model_used: str | None = None
    confidence: float | None = None
    """Of the whole, 0 to 1."""
    language_code: str | None = None
    is_deleted: bool = False
    """Whether this is what remains of a deleted transcript."""
    odd: str | None = None
    """What is suspicious about it, in a sentence; it is worth having all the same."""

    @property
    def is_result(self) -> bool:
        """Whether it is a transcript that is finished, and there."""
        return self.status == "completed" and not self.is_deleted


class _Transcript(msgspec.Struct):
    """The same as it is sent."""

    id: str
    status: str = ""
    audio_url: str | None = None
    error: str | None = None
    text: msgspec.Raw = msgspec.Raw(b"null")  # not read: it may be most of the answer
    audio_duration: float | None = None
    audio_channels: int | None = None
    multichannel: bool | None = None
    speech_model_used: str | None = None
    confidence: float | None = None
    language_code: str | None = None
    is_deleted: bool | None = None


class Accepted(msgspec.Struct, frozen=True):
    """The service has taken the request, and will bill it when it completes."""

    transcript_id: str
    echo: str | None = None
    """What it calls the upload, where that is not what it called it before."""


class NotAccepted(msgspec.Struct, frozen=True):
    """The request certainly did not become a transcript."""

    error: PipelineError


class Ambiguous(msgspec.Struct, frozen=True):
    """Nobody knows: only the list can tell."""

    reason: str
    interception: Intercepted | None = None
    """The answer, where it is not the service's: what came of the request it does not tell."""


Submission = Accepted | NotAccepted | Ambiguous
"""What a submit came to."""

CERTAIN_REFUSALS = frozenset({400, 401, 402, 403, 404, 405, 413, 415, 422, 429})
"""Statuses of a whole answer that say that no transcript was made. All others leave doubt."""


def submit_body(upload_url: str, options: Mapping[str, Any]) -> bytes:
    """The JSON of `POST /v2/transcript`."""
    return msgspec.json.encode({"audio_url": upload_url, **options})


class Webhook(msgspec.Struct, frozen=True):
    """Where the service is asked to say that a transcript has finished, and with what secret."""

    url: str
    secret: str

    def options(self, attempt_id: int) -> dict[str, str]:
        """
        The keys of a submit that ask for notifications of one attempt.

        The attempt is in the query, which the service keeps: its notification of redacted audio
        names no transcript. Source: openapi.yml, RedactedAudioNotification.
        """
        parts = urlsplit(self.url)
        query = f"{parts.query}&attempt={attempt_id}" if parts.query else f"attempt={attempt_id}"
        return {
            "webhook_url": urlunsplit(parts._replace(query=query)),
            "webhook_auth_header_name": SECRET_HEADER,
            "webhook_auth_header_value": self.secret,
        }

    def __repr__(self) -> str:
        return f"Webhook(url={self.url!r})"


def parse_notification(attempt: str, body: bytes) -> int | str | None:
    """
    What a notification is about: an attempt (its id), else a transcript (its id), else None.

    `attempt` is what its query says. Nothing else is read: that it came is all it can tell, since
    what it says of the transcript is a claim, and an address in it leads to nobody knows where.
    """
    if _ATTEMPT.fullmatch(attempt):
        return int(attempt)
    try:
        named = decoded(body, _Notification)[0].transcript_id
    except UNREADABLE:
        return None
    return named if _ID.fullmatch(named) else None


def check_id(transcript_id: str) -> str:
    """
    The same id, fit to stand in a path.

    Raises:
        AnswerUnusable: it is not 1 to 64 letters, digits, `-` and `_`.
    """
    if not _ID.fullmatch(transcript_id):
        raise AnswerUnusable("the service gave an id that cannot be one")
    return transcript_id


def parse_upload(body: bytes) -> str:
    """
    The `upload_url` of an answer to an upload.

    Raises:
        NotTheService: there is none.
    """
    try:
        upload_url = decoded(body, _Upload)[0].upload_url
    except UNREADABLE as error:
        raise NotTheService(f"upload answered with no upload_url: {_excerpt(body)}") from error
    if not _UPLOAD_URL.fullmatch(upload_url):
        raise ServiceUnavailable(f"upload answered with no upload_url: {upload_url[:80]!r}")
    return upload_url


def parse_list(body: bytes) -> list[Row]:
    """
    The rows of a page, newest first, each in its place; what cannot be read of one is left out.

    Raises:
        NotTheService: it is not a page.
    """
    try:
        rows = _rows(body)
    except UNREADABLE as error:
        raise NotTheService(f"list answered with no list: {_excerpt(body)}") from error
    for row in rows:
        row.status = _status(row.status)
        if is_deleted(row.audio_url):
            row.audio_url = DELETED_AUDIO_URL  # in one spelling, as others compare it
    return rows


def _rows(body: bytes) -> list[Row]:
    try:
        return msgspec.json.decode(body, type=_Rows).transcripts
    except (msgspec.DecodeError, UnicodeDecodeError):
        page, _ = decoded(body, _UnreadRows)
        return [_row(each) for each in page.transcripts]


def _row(row: msgspec.Raw) -> Row:
    try:
        found, _ = decoded(row, Row)
    except UNREADABLE:
        return Row()
    if "\ufffd" in found.id:
        found.id = ""
    if "\ufffd" in (found.audio_url or ""):
        found.audio_url = None
    return found


def first_id(rows: Sequence[Row]) -> str | None:
    """The id of the newest of these rows that has one."""
    return next((row.id for row in rows if row.id), None)


def last_id(rows: Sequence[Row]) -> str | None:
    """The id of the oldest of these rows that has one: the list goes on below it."""
    return first_id(rows[::-1])


def parse_redacted_audio(body: bytes) -> str:
    """
    The address of a redacted audio file, which is not the service's own: never send it the key.

    Raises:
        NotTheService: there is none.
        AnswerUnusable: it is not an address of the web.
    """
    try:
        url = decoded(body, _RedactedAudio)[0].redacted_audio_url
    except UNREADABLE as error:
        raise NotTheService(f"redacted-audio answered with no address: {_excerpt(body)}") from error
    if not url.startswith(("https://", "http://")):
        raise AnswerUnusable(f"the service gave an address that cannot be one: {url[:80]!r}")
    return url


def parse_head(body: bytes | memoryview) -> Head:
    """
    What a transcript says, the whole document having been read.

    What would harm where it goes is left out or cut short: names and reasons are the service's,
    and end up in file names, the ledger and on terminals. Of doubled keys the last counts. What is
    not what it should be is left out, too, and told in `odd`: what was paid for is worth having as
    it came, whatever it holds besides an id and a status.

    Raises:
        ServiceUnavailable: it is not whole, or not a transcript.
        AnswerUnusable: its id cannot be one.
    """
    try:
        found, odd = decoded(body, _Transcript)
    except UNREADABLE as error:
        # Nothing of the answer itself: it holds what was said.
        raise ServiceUnavailable(f"the answer is no whole transcript ({error})") from error
    has_text = bytes(memoryview(found.text)[:1]) == b'"'
    has_words = has_text and not _BLANK.fullmatch(memoryview(found.text))
    found.text = msgspec.Raw()  # lets go of the body, which may be a map that is about to close
    duration_s = found.audio_duration
    if duration_s is not None and not 0 <= duration_s <= _LONGEST_AUDIO_S:
        duration_s = None
    if found.status == "completed":
        lacks = {"text": not has_text, "audio_duration": duration_s is None}
        told = "; ".join(odd)
        odd += [f"it has no `{name}`" for name in lacks if lacks[name] and f"`{name}`" not in told]
    return Head(
        id=check_id(found.id),
        status=_status(found.status),
        audio_url=found.audio_url,
        error=found.error and shown(found.error),
        text="" if has_text else None,
        has_words=has_words,
        audio_duration=duration_s,
        audio_channels=found.audio_channels if 0 < (found.audio_channels or 0) <= 255 else None,
        multichannel=found.multichannel,
        speech_model_used=found.speech_model_used and shown(found.speech_model_used),
        confidence=_confidence(found.confidence),
        language_code=found.language_code and shown(found.language_code),
        is_deleted=is_deleted(found.audio_url, found.is_deleted),
        odd="; ".join(odd) if found.status == "completed" and odd else None,
    )


def is_deleted(audio_url: str | None, flag: bool | None = None) -> bool:
    """
    Whether an answer is what remains of a deleted transcript, whose `status` stays `completed`.

    `flag` is what it says of itself in `is_deleted`, which is not always there. An `audio_url` is
    known in any spelling, as whatever stands between changes it.
    """
    return bool(flag) or (audio_url is not None and bool(_DELETED.match(unquote(audio_url))))


def redacted_suffix(options: Mapping[str, Any]) -> str | None:
    """
    What the redacted audio beside a result is called, None where these options ask for none.

    They are those of the request: an answer need not say of itself that there is such audio.
    """
    quality = options.get("redact_pii_audio_quality")
    return f"redacted.{quality or 'mp3'}" if options.get("redact_pii_audio") else None


def _status(said: str) -> str:
    """A status that can be shown; any other is none that is known."""
    return said if len(said) <= _LONGEST_STATUS and said.isprintable() else ""


def _confidence(said: float | None) -> float | None:
    return said if said is not None and 0 <= said <= 1 else None


def submission(status: int, headers: Mapping[str, str], body: bytes, upload_url: str) -> Submission:
    """
    What a whole answer to a submit of `upload_url` says.

    An id in it is ours, whatever it calls the upload: servers behind proxies spell addresses in
    their own way. Only who knows all uploads can tell whether it speaks of another one.
    """
    if 400 <= status < 500:
        error = error_from("submit", status, headers, body)
        if status in CERTAIN_REFUSALS:
            return NotAccepted(error)
        return Ambiguous(str(error), error if isinstance(error, Intercepted) else None)
    if not 200 <= status < 300:
        return Ambiguous(f"submit answered with HTTP {status}: {_excerpt(body)}")
    try:
        head = msgspec.json.decode(body, type=_Echo)
        is_other = isinstance(head.audio_url, str) and head.audio_url != upload_url
        return Accepted(check_id(head.id), head.audio_url if is_other else None)
    except UNREADABLE:
        return Ambiguous(f"submit answered with HTTP {status} and no id: {_excerpt(body)}")
    except AnswerUnusable as error:
        return Ambiguous(str(error))


class _Echo(msgspec.Struct):
    id: str
    audio_url: Any = None  # of any kind: the id is what counts


def is_server_fault(reason: str) -> bool:
    """
    Whether a transcript failed by the service's own fault, so that asking again may help.

    Source: https://www.assemblyai.com/docs, common errors: `Server error, developers have been
    alerted` and its newer wordings; `Download error` on an upload is an upload that expired.
    """
    return bool(_SERVER_FAULT.search(reason) or _LOST_UPLOAD.search(reason))


def is_in_progress(error: PipelineError) -> bool:
    """
    Whether redacted audio is only not there yet.

    Source: what the service answers with HTTP 400 while it redacts: `Transcription is still in
    progress. Redacted audio will be available when the transcription is complete.`
    """
    return isinstance(error, RequestRejected) and "still in progress" in str(error)


def is_of_key(error: PipelineError) -> bool:
    """Whether a request was refused by the service for whose it is, not for what it asks."""
    return isinstance(error, KeyRefused) or (
        isinstance(error, RequestRejected)
        and error.status_code in (401, 403)
        and not isinstance(error, Intercepted | UploadInaccessible)
    )


def error_from(call: str, status: int, headers: Mapping[str, str], body: bytes) -> PipelineError:
    """The error that a whole answer without success stands for, by what to do about it."""
    said = _sentence(body)
    text = f"{call} answered with HTTP {status}: {said}"
    lower = said.lower()
    if call == "download" and 400 <= status < 500 and status not in (408, 425, 429):
        # Another host: what it says of keys and money is nothing that the service said.
        return RequestRejected(text, status)
    if status == 429 and call != "download":
        return RateLimited(text, retry_after_s(headers))
    if status == 422 and call == "upload":
        # Also what the service says when it has a hiccup; empty files never get this far.
        return ServiceUnavailable(text)
    is_refusal = 400 <= status < 500 and status not in (408, 409, 425, 429)
    if status in (407, 451) or (is_refusal and _is_page(headers, body)):
        # What is asked for again at no cost may be had once whatever stands there lets it through.
        is_free = call not in ("upload", "submit")
        return NotTheService(text) if is_free else Intercepted(text, status)
    if status == 401:
        return KeyRefused(f"the service refuses the API key ({said})")
    if status == 402 or (status == 400 and "balance is negative" in lower):
        return BalanceNegative(f"the service asks for money: {said}")
    if status == 403 and "cannot access uploaded file" in lower:
        return UploadInaccessible(text, status)
    if status in (400, 404) and "transcript id not found" in lower:
        return TranscriptUnknown(text, status)
    if status in (400, 422) and call == "submit" and _SPEECH_MODEL.search(lower):
        return OptionsRefused(f"the service refuses `speech_models`: {said}")
    if status in (408, 409, 425, 429) or status < 400 or status >= 500:
        return ServiceUnavailable(text)
    return RequestRejected(text, status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """
    Seconds that the service asks to be left alone, None when it does not say.

    A date is read against the answer's own `Date`, so that our clock does not matter.
    Source: https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        until = parsedate_to_datetime(value)
        return max(0.0, (until - parsedate_to_datetime(headers["Date"])).total_seconds())
    except (ValueError, TypeError, KeyError, OverflowError):
        return None


def shown(text: str) -> str:
    """A text of the service's on one short line, without what a terminal would obey."""
    line = " ".join(text[:_LONGEST_EXCERPT].split())
    return "".join(each if each.isprintable() else "\ufffd" for each in line)


def _is_page(headers: Mapping[str, str], body: bytes) -> bool:
    """Whether an answer is for people: the service's own are JSON, or plain text."""
    is_html = "html" in headers.get("Content-Type", "").lower()
    return _is_markup(body) or (is_html and _begins(body) != b"{")


def _is_markup(body: bytes) -> bool:
    return _begins(body) == b"<"


def _begins(body: bytes) -> bytes:
    return body.removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def _sentence(body: bytes) -> str:
    """What an error body says, whatever its type."""
    try:
        return shown(decoded(body, _Error)[0].error)
    except UNREADABLE:
        return _excerpt(body)


def _excerpt(body: bytes) -> str:
    """What a body says that nobody can read, on one short line: of a page its first words."""
    if _is_markup(body):
        head = body[:_LONGEST_HEAD].decode("utf-8-sig", "replace")
        lines = _MARKUP.sub("\n", head).splitlines()
        words = next((line for line in map(shown, map(unescape, lines)) if line), "nothing")
        return f"a page that says {words[:_LONGEST_TITLE]!r}"
    return shown(body[:_LONGEST_EXCERPT].decode("utf-8", "replace")) or "an empty body"
