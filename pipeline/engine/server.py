"""The engine over HTTP.

In: requests as the AssemblyAI pre-recorded API has them. Out: its answers: status codes,
JSON, error sentences.

Source of routes, statuses and sentences: AssemblyAI openapi.yml, and its cookbook on
common errors, unless said otherwise. Where the service's behaviour is not documented:

* an `audio_url` that is none of our uploads is accepted, as there, and the transcript
  fails with the service's download error: the engine connects to nothing;
* so does one of ours whose transcripts are all final: its upload went with the last of them;
* a transcript that is not final cannot be deleted (400): no result can get lost by it;
* exports of a deleted transcript are refused (400).
"""

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import anyio
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from anyio import create_task_group, to_thread

from pipeline.engine import DEFAULT_MODEL, Engine, EngineUnavailable, answers, exports
from pipeline.engine.groups import first_failure
from pipeline.engine.options import Refused, checked
from pipeline.engine.runner import Runner, dumped
from pipeline.engine.speech import Recognizer, Whisper
from pipeline.engine.store import (
    STATUSES,
    UPLOAD_MAX_BYTES,
    Status,
    Store,
    Transcript,
    UploadEmpty,
    UploadsFull,
    UploadTooLarge,
)

__all__ = ["running"]

MOST_WORKERS = 4
"""More gain nothing with a small model: memory bandwidth is what they share."""

_PAGE, _LONGEST_PAGE = 10, 200
_QUERY = ("limit", "status", "created_on", "throttled_only", "before_id", "after_id")
_PHRASE_WORDS = 5
_GRACE_S = 1.0

_MOST_CONNECTIONS = 256
_IDLE_S = 75.0  # between requests, and for the head of one; longer than clients keep connections
_LINGERING_S = 2.0  # for a client to see why it is refused, before its body is cut off
_STALL_S = 60.0
_LEAST_BYTES = 1 << 20  # of a body, either way, in `_STALL_S`: slower is no transfer


@asynccontextmanager
async def running(
    state: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    keys: Sequence[str],
    model: str = DEFAULT_MODEL,
    workers: int | None = None,
    recognizer: Recognizer | None = None,
    uploads_kept: int,
    uploads_kept_bytes: int,
) -> AsyncIterator[Engine]:
    """
    See `pipeline.engine.serve`.

    Raises:
        EngineUnavailable: The model or the state folder cannot be used, or the address.
    """
    if workers is None:
        workers = min(_cores(), MOST_WORKERS)
    store = await to_thread.run_sync(
        partial(Store, state, uploads_kept=uploads_kept, uploads_kept_bytes=uploads_kept_bytes)
    )
    try:
        if recognizer is None:
            # A model may be on its way from a hub: leaving does not wait for that.
            recognizer = await to_thread.run_sync(Whisper, model, workers, abandon_on_cancel=True)
        runner = Runner(store, recognizer, workers)
        with first_failure():
            async with (
                create_task_group() as group,
                _listening(_app(store, runner, recognizer, model, keys), host, port) as url,
            ):
                group.start_soon(runner.run)
                try:
                    yield Engine(url, recognizer.name)
                finally:
                    runner.stop()
                    group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await store.close()


def _cores() -> int:
    """Cores that this process may use; a container often gets fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@asynccontextmanager
async def _listening(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    runner = web.AppRunner(
        app,
        access_log=None,
        shutdown_timeout=_GRACE_S,
        keepalive_timeout=_IDLE_S,
        lingering_time=_LINGERING_S,
    )
    await runner.setup()
    server = runner.server
    assert server is not None

    def accept() -> asyncio.Protocol:
        return server() if len(server.connections) < _MOST_CONNECTIONS else _HangUp()

    try:
        try:
            listening = await asyncio.get_running_loop().create_server(accept, host, port)
        except OSError as error:
            raise EngineUnavailable(
                f"the engine cannot listen on {host}:{port} ({error.strerror}): "
                "another program may be there; choose another port"
            ) from error
        bound_port = listening.sockets[0].getsockname()[1]
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{bound_port}"
        finally:
            listening.close()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


class _HangUp(asyncio.Protocol):
    """What one connection too many meets: those there are keep their memory and their turn."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


def _app(
    store: Store, runner: Runner, recognizer: Recognizer, model: str, keys: Sequence[str]
) -> web.Application:
    service = _Service(store, runner, recognizer, model)
    app = web.Application(middlewares=[_read_or_cut_off, _errors_as_json, _key_required(keys)])
    app.add_routes(
        [
            web.post("/v2/upload", service.upload),
            web.post("/v2/transcript", service.submit),
            web.get("/v2/transcript", service.list),
            web.get("/v2/transcript/{id}", service.get),
            web.delete("/v2/transcript/{id}", service.delete),
            web.get("/v2/transcript/{id}/sentences", service.sentences),
            web.get("/v2/transcript/{id}/paragraphs", service.paragraphs),
            web.get("/v2/transcript/{id}/word-search", service.word_search),
            web.get("/v2/transcript/{id}/redacted-audio", service.redacted_audio),
            web.get("/v2/transcript/{id}/{format}", service.captions),
        ]
    )
    return app


@web.middleware
async def _read_or_cut_off(request: web.Request, handler: Handler) -> web.StreamResponse:
    """An answer goes out as fast as the slowest client may be, or not at all."""
    answer = await handler(request)
    assert isinstance(answer, web.Response)
    transport = request.transport
    if transport is None:
        return answer
    transport.set_write_buffer_limits(0)  # so that `write_eof` waits until all is out
    limit_s = _STALL_S * (1 + (answer.content_length or 0) // _LEAST_BYTES)
    with anyio.move_on_after(limit_s) as scope, suppress(ConnectionError):
        await answer.prepare(request)
        await answer.write_eof()
    if scope.cancelled_caught:
        transport.abort()
    return answer


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as `{"error": sentence}`, also those that the framework makes."""
    try:
        return await handler(request)
    except Refused as refused:
        return _refusal(400, str(refused))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        sentence = "Not found" if error.status == 404 else error.reason
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return _refusal(error.status, sentence, headers)


def _key_required(keys: Sequence[str]) -> Middleware:
    encoded = [key.encode() for key in keys]

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        # All of them, and each in constant time: how long it takes tells nothing.
        if not sum(hmac.compare_digest(given, key) for key in encoded):
            return _refusal(401, "Authentication error, API token missing/invalid")
        return await handler(request)

    return check


class _Service:
    """The operations, one method each."""

    def __init__(self, store: Store, runner: Runner, recognizer: Recognizer, model: str) -> None:
        self._store = store
        self._runner = runner
        self._recognizer = recognizer
        self._models = (model, recognizer.name)

    async def upload(self, request: web.Request) -> web.Response:
        if (request.content_length or 0) > UPLOAD_MAX_BYTES:
            return _refusal(413, _TOO_LARGE)
        try:
            upload_url = await self._store.receive(
                _moving(request), expected_bytes=request.content_length or 0
            )
        except UploadEmpty:
            # Plain text, as the service has it.
            return web.Response(
                status=422,
                text="Upload failed, please try again. If you continue to have issues "
                "please reach out to support@assemblyai.com",
            )
        except UploadTooLarge:
            return _refusal(413, _TOO_LARGE)
        except UploadsFull as full:
            return _refusal(507, str(full))
        except TimeoutError:
            return _refusal(408, _TOO_SLOW)
        except ConnectionError:
            # Nobody reads this answer: the client is gone.
            return _refusal(400, "The upload was broken off")
        except OSError as error:
            return _refusal(500, f"The upload cannot be stored: {error.strerror}")
        return _json({"upload_url": upload_url})

    async def submit(self, request: web.Request) -> web.Response:
        try:
            with anyio.fail_after(_STALL_S):
                content = await request.read()
            body = json.loads(content)
        except TimeoutError:
            return _refusal(408, _TOO_SLOW)
        # Nesting beyond the interpreter's depth is no ValueError.
        except (ValueError, RecursionError) as error:
            raise Refused("The request body must be JSON") from error
        audio_url, options = checked(body, self._recognizer.languages, self._models)
        transcript = await self._store.create(audio_url, options)
        self._runner.wake()
        return _json(answers.unfinished(transcript))

    async def get(self, request: web.Request) -> web.Response:
        transcript = await self._found(request.match_info["id"])
        if transcript.document is not None:
            return web.Response(text=transcript.document, content_type="application/json")
        return _json(answers.unfinished(transcript))

    async def list(self, request: web.Request) -> web.Response:
        query = request.query
        limit = _integer(query.get("limit", str(_PAGE)), "limit", 1, _LONGEST_PAGE)
        status = _status(query.get("status"))
        created_on = _day(query.get("created_on"))
        before = await self._cursor(query.get("before_id"))
        after = await self._cursor(query.get("after_id"))
        if before is not None and after is not None and after <= before:
            raise Refused("'after_id' must be a newer transcript than 'before_id'")
        throttled_only = _boolean(query.get("throttled_only", "false"), "throttled_only")
        base_url = f"{request.scheme}://{quote(request.host, safe=':[]', errors='replace')}"
        asked = {name: query[name] for name in _QUERY if name in query}

        def url(**cursor: str) -> str:
            kept = {name: value for name, value in asked.items() if not name.endswith("_id")}
            return f"{base_url}/v2/transcript?{urlencode({'limit': limit, **kept, **cursor})}"

        # Nothing is ever throttled here.
        page = await self._store.page(
            0 if throttled_only else limit,
            status=status,
            created_on=created_on,
            before=before,
            after=after,
        )
        rows = page.rows
        return _json(
            {
                "page_details": {
                    "limit": limit,
                    "result_count": len(rows),
                    "current_url": f"{base_url}/v2/transcript?{urlencode(asked)}".rstrip("?"),
                    # To the older page, and to the newer one: not the other way round.
                    "prev_url": url(before_id=rows[-1].id) if page.has_older else None,
                    "next_url": url(after_id=rows[0].id) if page.has_newer else None,
                },
                "transcripts": [answers.list_item(row, base_url) for row in rows],
            }
        )

    async def delete(self, request: web.Request) -> web.Response:
        transcript = await self._found(request.match_info["id"])
        if transcript.document is None:
            raise Refused(
                f"This transcript has a status of '{transcript.status}'. "
                "Transcripts can be deleted once they are 'completed' or 'error'."
            )
        document = dumped(answers.deleted(json.loads(transcript.document)))
        await self._store.scrub(transcript.id, document)
        return web.Response(text=document, content_type="application/json")

    async def captions(self, request: web.Request) -> web.Response:
        render = {"srt": exports.srt, "vtt": exports.vtt}.get(request.match_info["format"])
        if render is None:
            return web.Response(
                status=404,
                text="<html><body>404: Not Found</body></html>",
                content_type="text/html",
            )
        given = request.query.get("chars_per_caption", str(exports.CHARS_PER_CAPTION))
        chars_per_caption = _integer(given, "chars_per_caption", 1, None)
        document = await self._results(request, "captions")
        return web.Response(
            text=await to_thread.run_sync(render, document, chars_per_caption),
            content_type="text/plain",
        )

    async def sentences(self, request: web.Request) -> web.Response:
        document = await self._results(request, "sentences")
        return _json(await to_thread.run_sync(exports.sentences, document))

    async def paragraphs(self, request: web.Request) -> web.Response:
        document = await self._results(request, "paragraphs")
        return _json(await to_thread.run_sync(exports.paragraphs, document))

    async def word_search(self, request: web.Request) -> web.Response:
        # Joined by commas in one parameter, or one parameter each.
        given = ",".join(request.query.getall("words", [])).split(",")
        phrases = [phrase.strip() for phrase in given if phrase.strip()]
        if not phrases:
            raise Refused("words must be given: a comma separated list of words or phrases")
        if any(len(phrase.split()) > _PHRASE_WORDS for phrase in phrases):
            raise Refused(f"each phrase of words must have at most {_PHRASE_WORDS} words")
        document = await self._results(request, "words")
        return _json(await to_thread.run_sync(exports.word_search, document, phrases))

    async def redacted_audio(self, request: web.Request) -> web.Response:
        transcript = await self._found(request.match_info["id"])
        if not transcript.is_final:
            raise Refused(
                "Transcription is still in progress. "
                "Redacted audio will be available after it has completed."
            )
        raise Refused(
            "A redacted audio file for this transcript ID doesn't exist. "
            "Try submitting the transcript again with `redact_pii_audio` set to `true`."
        )

    async def _found(self, transcript_id: str) -> Transcript:
        transcript = await self._store.find(transcript_id)
        if transcript is None:
            raise Refused("Transcript lookup error, transcript id not found")
        return transcript

    async def _results(self, request: web.Request, what: str) -> Mapping[str, Any]:
        transcript = await self._found(request.match_info["id"])
        if transcript.deleted:
            raise Refused("This transcript was deleted by user.")
        if transcript.status != "completed" or transcript.document is None:
            raise Refused(
                f"This transcript has a status of '{transcript.status}'. Transcripts must "
                f"have a status of 'completed' before requesting {what}."
            )
        document: dict[str, Any] = await to_thread.run_sync(json.loads, transcript.document)
        return document

    async def _cursor(self, transcript_id: str | None) -> int | None:
        return None if transcript_id is None else (await self._found(transcript_id)).sequence


async def _moving(request: web.Request) -> AsyncIterator[bytes]:
    """The chunks of a body; `TimeoutError` if it moves too slowly, its reader's time apart."""
    came, left_s = 0, _STALL_S
    while not request.content.at_eof():
        began = anyio.current_time()
        with anyio.fail_after(left_s):
            chunk = await request.content.readany()
        left_s -= anyio.current_time() - began
        came += len(chunk)
        if came >= _LEAST_BYTES:
            came, left_s = 0, _STALL_S
        if chunk:
            yield chunk


_TOO_SLOW = f"Less than {_LEAST_BYTES} bytes of the body came in {_STALL_S:g} s"
_TOO_LARGE = f"The file is larger than {UPLOAD_MAX_BYTES} bytes"


def _json(body: Mapping[str, Any]) -> web.Response:
    return web.Response(text=dumped(body), content_type="application/json")


def _refusal(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response({"error": sentence}, status=status, headers=headers)


def _integer(text: str, name: str, low: int, high: int | None) -> int:
    upper = "" if high is None else f" and at most {high}"
    if text.isascii() and text.isdecimal() and len(text) <= 9:
        value = int(text)
        if value >= low and (high is None or value <= high):
            return value
    raise Refused(f"{name} must be an integer of at least {low}{upper}")


def _boolean(text: str, name: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise Refused(f"{name} must be a Boolean")
    return text.lower() == "true"


def _status(text: str | None) -> Status | None:
    for status in STATUSES:
        if status == text:
            return status
    if text is None:
        return None
    raise Refused(f"status must be one of {', '.join(STATUSES)}")


def _day(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise Refused("created_on must be a date, YYYY-MM-DD") from error
