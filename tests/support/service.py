r"""A scripted AssemblyAI: the pre-recorded API over HTTP, with faults on demand and an oracle.

It stands in for the service in tests and benches, transcribes nothing and shares no code with
the program or its engine. In a test's own event loop:

    async with ScriptedService(transcript_seconds=2, concurrency=5) as service:
        client = Client(service.url, service.key)
        service.faults.add(Fault(on="submit", action="drop_after", times=1, skip=3))
        ...
        assert max(service.billable.values()) == 1

Settings are the fields of `Account` (`tests.support.service_account`): `keys`,
`transcript_seconds`, `concurrency`, `first_status`, `list_lag_s`, `upload_limit_bytes`,
`upload_life_s`, `requests_limit`, `requests_window_s`, `default_models`, `language`,
`retry_after`, `webhook_every_s`, `is_clock_manual`; all but the last may be changed while it runs.
`service.key` is accepted, `service.foreign_key` is a key of another project.

**Time.** Transcripts are processed for `transcript_seconds`, first in, first out, at most
`concurrency` at once. With `is_clock_manual=True` only `service.advance(seconds)` moves the clock;
with `transcript_seconds=math.inf` only `service.complete(id)` and `service.fail(id, sentence)` end
a transcript.

**Outcome.** A content may begin with lines that script it:
`b"ERROR:Audio duration is too short.\n"`, `b"SECONDS:5400\n"` (audio_duration), `b"WORDS:0\n"`
(silence), `b"TAKES:30\n"` (processing), `b"LANGUAGE:uk\n"` (what is spoken). Also
`service.fail_content(content, sentence, times=1)`. What is said depends only on the content's
sha256. `service.add_foreign(n)` puts transcripts of another program into the list.

**Faults**: `service.faults.add(Fault(on=KIND, action=ACTION, times=1, skip=0, match=None, ...))`.
KIND is `upload submit list get delete export` or `*`; `times=None` is for ever; `match` is a text
in the path, query, audio_url, sha256 or first bytes of the upload, or a function of the `Call`.

    without the effect    answer (status, body, content_type, headers)   list_down (503, HTML)
                          negative_balance   unknown_id   redirect (location)
                          drop_before (an upload: amid its body)   close_before (without a reset)
                          unknown_while_young (seconds)
    waiting, then effect  hold_before   stall (the same: an upload's body is left unread)
                          late (seconds)
    after the effect      effect_then_answer (as answer)   drop_after   garbage (200, HTML)
                          truncate (half the body)   hold   slow (seconds)   big (size_bytes)
    a false answer        reuse_upload_url   foreign_audio_url   list_says_error   patch (patch)
                          reuse_spent_upload_url (one that was submitted)
                          cross_answers (two submits get each other's answers, a GET the body of
                          another transcript)

`await service.held("submit", count=1)` waits until that many are held and gives their `Call`s,
`service.release()` lets them go; `await service.until(lambda: ...)` waits for anything that a
request can bring about.

**Webhooks** are delivered while `tests.support.service_webhooks.delivering(service)` is entered;
as a process it always is.

**Oracle**: `service.billable` (content sha256 → completed transcripts),
`service.accepted(content)` (its transcripts), `service.statuses`, `service.requests` (kind →
count), `service.log` (of `Call`), `service.connections`, `service.peak_uploads`,
`service.peak_processing`, `service.peak_open`, `service.peak_requests(window_s)`.

As a process, for tests that kill the client: `tests.support.service_process`, or

    python -m tests.support.service --port 0 --key KEY --state FILE --transcript-seconds 2 ...

Its first line on stdout is `{"url": ..., "key": ..., "foreign_key": ..., "pid": ...}`; it ends when
its stdin is closed or on SIGTERM. FILE is read at the start, if it exists, and written at the end:
`--state` carries uploads and transcripts over a restart. It is controlled over HTTP, with JSON:

    GET  /_control/oracle    billable, accepted, statuses, requests, transcripts, connections, peaks
    GET  /_control/log       a list of calls
    GET  /_control/held?on=submit&count=1    answers when that many are held
    POST /_control/release   {"on": KIND}, or {} for all
    POST /_control/faults    the fields of a Fault, `match` a text;   DELETE takes all away
    POST /_control/settings  {"concurrency": 5, ...}
    POST /_control/advance   {"seconds": s}
    POST /_control/complete  {"transcript_id": id}
    POST /_control/fail      {"transcript_id": id, "sentence": s}
    POST /_control/fail_content  {"content": sha256, "sentence": s, "times": n}
    POST /_control/foreign   {"count": n}
    POST /_control/expire    {}: no upload so far is good any more
    POST /_control/reset     {}: a fresh account with the same settings

Source: AssemblyAI openapi.yml; https://www.assemblyai.com/docs/api-reference/overview.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import hashlib
import json
import math
import os
import signal
import socket
import struct
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote

import anyio
from aiohttp import web

from tests.support import service_faults, service_shapes
from tests.support.service_account import UPLOAD_FAILED, Account, Refused, Transcript
from tests.support.service_faults import Call, Fault, Faults, Reply
from tests.support.service_webhooks import delivering

__all__ = ["Call", "Fault", "ScriptedService"]

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close sends a reset
_KINDS = {
    ("POST", "upload", 2): "upload",
    ("POST", "transcript", 2): "submit",
    ("GET", "transcript", 2): "list",
    ("GET", "transcript", 3): "get",
    ("DELETE", "transcript", 3): "delete",
    ("GET", "transcript", 4): "export",
}


@dataclass(kw_only=True)
class ScriptedService(Account):
    """An account that is served on loopback while the `async with` block runs."""

    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.faults = Faults()
        self.log: list[Call] = []
        self.requests: Counter[str] = Counter()
        self.peak_uploads = 0
        self._uploads = 0
        self._last_upload_url = ""
        self._holding: list[tuple[Call, anyio.Event]] = []
        self._crossing: list[_Crossing] = []
        self.changed = anyio.Event()
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> ScriptedService:
        server = web.Server(self._answer, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._runner is not None
        self.release()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://{self.host}:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections were opened by clients."""
        return len({call.peer for call in self.log})

    def peak_requests(self, window_s: float) -> int:
        """The most requests within any window of this length, wherever it begins."""
        window: deque[float] = deque()
        peak = 0
        for call in self.log:
            window.append(call.at)
            while window[0] <= call.at - window_s:
                window.popleft()
            peak = max(peak, len(window))
        return peak

    async def held(self, on: str = "*", count: int = 1) -> list[Call]:
        """Waits until this many requests of a kind are held; the calls."""
        await self.until(lambda: len(self._held(on)) >= count)
        return self._held(on)

    def release(self, on: str = "*") -> None:
        """Lets everything of a kind go that is held now."""
        kept = [(c, e) for c, e in self._holding if on not in ("*", c.kind)]
        for call, event in self._holding:
            if on in ("*", call.kind):
                event.set()
        self._holding = kept

    def reset(self) -> None:
        """Forgets everything but its settings: faults, log and whatever the account holds."""
        self.release()
        runner = self._runner
        self.uploads, self.transcripts = {}, {}
        self.peak_processing = self.peak_open = 0
        self.__post_init__()
        self._runner = runner

    def advance(self, seconds: float) -> None:
        """Moves the clock, if it is manual."""
        super().advance(seconds)
        self.wake()

    def _end(self, transcript: Transcript, at: float) -> None:
        super()._end(transcript, at)
        self.wake()

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Waits until this holds; looks again whenever a request has come, is held or answered."""
        while not is_so():
            await self.changed.wait()

    def _held(self, on: str) -> list[Call]:
        return [call for call, _ in self._holding if on in ("*", call.kind)]

    def wake(self) -> None:
        """Lets everybody look again who waits in `until`."""
        self.changed.set()
        self.changed = anyio.Event()

    # One request.

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.startswith("/_control/"):
            return await _deliver(request, await _control(self, request))
        visit = _Visit(self, request)
        await visit.arrive()
        fault = self.faults.take(visit.call)
        self.wake()
        try:
            if fault is None:
                reply = await visit.effect()
            else:
                visit.fault = fault
                reply = await service_faults.play(visit)
        except ConnectionResetError:  # the client died amid its body: nobody is left to answer
            return web.Response()
        visit.call.status = reply.status
        self.wake()
        return await _deliver(request, reply)


class _Visit:
    """One request on its way through the service, and the scene of its fault."""

    fault: Fault

    def __init__(self, service: ScriptedService, request: web.BaseRequest) -> None:
        self.service = service
        self.request = request
        # Split as it was sent: an encoded slash belongs to its part.
        parts = [unquote(part) for part in request.rel_url.raw_path.strip("/").split("/")]
        kind = "other"
        if parts[0] == "v2" and len(parts) > 1:
            kind = _KINDS.get((request.method, parts[1], len(parts)), "other")
        peer = request.transport.get_extra_info("peername") if request.transport else None
        self.call = Call(
            kind=kind,
            method=request.method,
            path=request.path,
            query=request.query_string,
            key=request.headers.get("Authorization"),
            at=service.now(),
            peer=f"{peer[0]}:{peer[1]}" if peer else "",
            transcript_id=parts[2] if len(parts) > 2 else "",
        )
        self._beginning = b""

    async def arrive(self) -> None:
        """Reads as much as a fault may want to know, and writes the call down."""
        call, service = self.call, self.service
        service.log.append(call)
        service.requests[call.kind] += 1
        if call.kind == "upload":
            self._beginning = await self.request.content.readany()
            call.beginning = self._beginning[:256].decode("latin-1")
        elif call.kind == "submit":
            try:
                call.sent = json.loads(await self.request.read())
            except ValueError:
                return
            if isinstance(call.sent, dict):
                call.audio_url = str(call.sent.get("audio_url", ""))
                upload = service.uploads.get(call.audio_url)
                call.content = upload.content if upload else ""
        elif call.transcript_id in service.transcripts:
            transcript = service.transcripts[call.transcript_id]
            call.audio_url, call.content = transcript.audio_url, transcript.content

    async def effect(self, *, upload_url: str = "") -> Reply:
        try:
            project = self.service.project_of(self.call.key)
            wait_s = self.service.admit()
            if wait_s is not None:
                return self._too_many(wait_s)
            if self.call.kind == "upload":
                return await self._upload(project, upload_url)
            return self._reply(project)
        except Refused as refused:
            if refused.is_text:
                return Reply(refused.status, refused.sentence.encode(), "text/plain")
            return Reply.of({"error": refused.sentence}, refused.status)

    async def hold(self) -> None:
        released = anyio.Event()
        self.service._holding.append((self.call, released))
        self.service.wake()
        await released.wait()

    async def swap(self, reply: Reply) -> Reply:
        crossing = self.service._crossing
        if crossing:
            partner = crossing.pop()
            partner.theirs = reply
            partner.met.set()
            return partner.ours
        mine = _Crossing(reply, anyio.Event())
        crossing.append(mine)
        self.service._holding.append((self.call, mine.met))
        self.service.wake()
        await mine.met.wait()
        self.service._holding = [h for h in self.service._holding if h[1] is not mine.met]
        return mine.theirs or reply

    def other_transcript(self) -> Reply | None:
        project = self.service.project_of(self.call.key)
        others = [
            row
            for row in self.service
            if row.project == project and row.id != self.call.transcript_id
        ]
        return Reply.of(service_shapes.transcript_json(others[-1])) if others else None

    def last_upload_url(self) -> str:
        return self.service._last_upload_url

    def spent_upload_url(self) -> str:
        submitted = [row.audio_url for row in self.service if row.audio_url in self.service.uploads]
        return submitted[-1] if submitted else ""

    def age_s(self) -> float:
        transcript = self.service.transcripts.get(self.call.transcript_id)
        return self.service.now() - transcript.created if transcript else math.inf

    def _too_many(self, wait_s: float) -> Reply:
        headers = {}
        if self.service.retry_after == "seconds":
            headers["Retry-After"] = str(math.ceil(wait_s))
        elif self.service.retry_after == "date":
            again = datetime.now(UTC) + timedelta(seconds=math.ceil(wait_s))
            headers["Retry-After"] = format_datetime(again, usegmt=True)
        return dataclasses.replace(Reply.of({"error": "Too Many Requests"}, 429), headers=headers)

    async def _upload(self, project: str, upload_url: str) -> Reply:
        service, limit = self.service, self.service.upload_limit_bytes
        service._uploads += 1
        service.peak_uploads = max(service.peak_uploads, service._uploads)
        try:
            if (self.request.content_length or 0) > limit:
                raise Refused(413, "Request body is too large")
            digest, size_bytes, chunk = hashlib.sha256(), 0, self._beginning
            while chunk:
                digest.update(chunk)
                size_bytes += len(chunk)
                if size_bytes > limit:
                    raise Refused(413, "Request body is too large")
                chunk = await self.request.content.readany()
        finally:
            service._uploads -= 1
        if not size_bytes:
            raise Refused(422, UPLOAD_FAILED, is_text=True)
        self.call.content = digest.hexdigest()
        upload = service.add_upload(
            project, self.call.content, size_bytes, self._beginning[:256], upload_url
        )
        self.call.audio_url = service._last_upload_url = upload.upload_url
        return Reply.of({"upload_url": upload.upload_url})

    def _reply(self, project: str) -> Reply:
        service, call = self.service, self.call
        match call.kind:
            case "submit":
                if call.sent is None:
                    raise Refused(400, "Request body must be a JSON object")
                transcript = service.submit(project, call.sent)
                call.transcript_id = transcript.id
                return Reply.of(service_shapes.transcript_json(transcript, service.first_status))
            case "list":
                query = dict(self.request.query)
                details, rows = service.page(project, query, f"{service.url}/v2/transcript")
                listed = [service_shapes.list_row(row, service.url) for row in rows]
                return Reply.of({"page_details": details, "transcripts": listed})
            case "get":
                transcript = service.get(project, call.transcript_id)
                return Reply.of(service_shapes.transcript_json(transcript))
            case "delete":
                transcript = service.delete(project, call.transcript_id)
                return Reply.of(service_shapes.transcript_json(transcript))
            case "export":
                return self._export(project)
            case _:
                raise Refused(404, "Not found")

    def _export(self, project: str) -> Reply:
        what = self.call.path.rpartition("/")[2]
        shapes: dict[str, Callable[..., Any]] = {
            "sentences": service_shapes.sentences,
            "paragraphs": service_shapes.paragraphs,
            "redacted-audio": service_shapes.redacted_audio,
        }
        if what not in ("srt", "vtt", "word-search", *shapes):
            return Reply(404, b"<html><body>404: Not Found</body></html>", "text/html")
        transcript = self.service.get(project, self.call.transcript_id)
        query = self.request.query
        if what == "word-search":
            wanted = [phrase for phrase in query.get("words", "").split(",") if phrase]
            if not wanted:
                raise Refused(400, "words must be a comma-separated list")
            return Reply.of(service_shapes.word_search(transcript, wanted))
        if what in shapes:
            return Reply.of(shapes[what](transcript))
        limit = query.get("chars_per_caption")
        if limit is not None and not (limit.isascii() and limit.isdigit() and int(limit) > 0):
            raise Refused(400, "chars_per_caption must be a positive Integer")
        text = service_shapes.captions(transcript, what, None if limit is None else int(limit))
        return Reply(200, text.encode(), "text/plain")


@dataclass(slots=True)
class _Crossing:
    ours: Reply
    met: anyio.Event
    theirs: Reply | None = None


async def _deliver(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    headers = reply.headers | {"Content-Type": f"{reply.content_type}; charset=utf-8"}
    if reply.delivery == "dropped":
        if request.transport is not None:
            raw = request.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            request.transport.abort()
        return web.Response()
    if reply.delivery == "closed":
        if request.transport is not None:
            request.transport.close()
        return web.Response()
    if reply.delivery == "whole":
        return web.Response(status=reply.status, body=reply.body, headers=headers)
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(reply.body)
    response.force_close()
    await response.prepare(request)
    if reply.delivery == "half":
        await response.write(reply.body[: len(reply.body) // 2])
    else:
        pause_s = reply.slow_s / len(reply.body)
        for byte in reply.body:
            await response.write(bytes((byte,)))
            await anyio.sleep(pause_s)
    return response


# Control over HTTP, for a service in a process of its own.


async def _control(service: ScriptedService, request: web.BaseRequest) -> Reply:
    verb = request.path.removeprefix("/_control/")
    try:
        if request.method == "GET":
            return Reply.of(await _told(service, verb, dict(request.query)))
        if request.method == "DELETE" and verb == "faults":
            service.faults.clear()
            return Reply.of({})
        return Reply.of(_done(service, verb, json.loads(await request.read() or b"{}")))
    except (KeyError, TypeError, ValueError) as error:
        return Reply.of({"error": f"{type(error).__name__}: {error}"}, 400)


async def _told(service: ScriptedService, verb: str, query: dict[str, str]) -> object:
    match verb:
        case "oracle":
            rows = list(service)
            return {
                "billable": service.billable,
                "accepted": Counter(row.content for row in rows),
                "statuses": service.statuses,
                "requests": service.requests,
                "connections": service.connections,
                "peak_uploads": service.peak_uploads,
                "peak_processing": service.peak_processing,
                "peak_open": service.peak_open,
                "peak_requests": service.peak_requests(service.requests_window_s),
                "transcripts": [dataclasses.asdict(row) for row in rows],
            }
        case "log":
            return [dataclasses.asdict(call) for call in service.log]
        case "held":
            held = await service.held(query.get("on", "*"), int(query.get("count", "1")))
            return [dataclasses.asdict(call) for call in held]
    raise ValueError(f"nothing is told at {verb}")


def _done(service: ScriptedService, verb: str, sent: dict[str, Any]) -> object:
    match verb:
        case "release":
            service.release(sent.get("on", "*"))
        case "faults":
            service.faults.add(Fault(**sent))
        case "settings":
            known = {field.name for field in dataclasses.fields(Account) if field.init}
            for name, value in sent.items():
                if name not in known:
                    raise ValueError(f"there is no setting {name}")
                setattr(service, name, value)
        case "advance":
            service.advance(sent["seconds"])
        case "complete":
            service.complete(sent["transcript_id"])
        case "fail":
            service.fail(sent["transcript_id"], sent["sentence"])
        case "fail_content":
            service.fail_content(sent["content"], sent["sentence"], sent.get("times", 1))
        case "foreign":
            return service.add_foreign(sent["count"])
        case "expire":
            service.expire_uploads()
        case "reset":
            service.reset()
        case _:
            raise ValueError(f"nothing is done at {verb}")
    return {}


async def _serve(service: ScriptedService) -> None:
    ended, loop = anyio.Event(), asyncio.get_running_loop()

    def end_with_stdin() -> None:
        while os.read(0, 4096):
            pass
        loop.call_soon_threadsafe(ended.set)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, ended.set)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    async with service, delivering(service):
        address = {"url": service.url, "key": service.key, "pid": os.getpid()}
        sys.stdout.write(json.dumps(address | {"foreign_key": service.foreign_key}) + "\n")
        sys.stdout.flush()
        await ended.wait()


def main() -> None:
    """Serves until stdin is closed or a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.service")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="scripted-key")
    parser.add_argument("--state", type=Path)
    settings = ("transcript_seconds", "list_lag_s", "upload_life_s", "requests_window_s")
    for name in (*settings, "webhook_every_s"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float)
    for name in ("concurrency", "requests_limit", "upload_limit_bytes"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int)
    parser.add_argument("--is-clock-manual", action="store_true", default=None)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    key, state = given.pop("key"), given.pop("state", None)
    keys = {key: "project-1", "second-key": "project-1", "foreign-key": "project-2"}
    service = ScriptedService(keys=keys, **given)
    if state is not None and state.exists():
        service.restore(json.loads(state.read_bytes()))
    asyncio.run(_serve(service))
    if state is not None:
        written = state.with_name(f".{state.name}~")
        written.write_text(json.dumps(service.snapshot()))
        written.replace(state)


if __name__ == "__main__":
    main()
