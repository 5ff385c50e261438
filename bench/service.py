"""
The service that the benches run against: the pre-recorded API, as quick as asyncio can answer.

    python bench/service.py --seconds 2 --concurrency 200
    {"url": "http://127.0.0.1:40801", "ca": null, "pid": 4711}

In: HTTP on loopback. Out: what the API answers, and at `/_control/oracle` what a bench wants to
know: what was paid, by kind what was asked, when each transcript was completed and fetched, and
what CPU time all of it took here, so that it shows whether the service was what held others up.
It runs in a process of its own, on the core of `--core`, and ends when its stdin is closed.

`tests.support.service` is another one, for tests: it has faults, checks every option and hashes
what it gets, and takes some ten times the CPU time. This one reads off the first eight bytes of an
upload, which have to be the number of the recording, and throws the rest away.

Source: AssemblyAI openapi.yml; https://www.assemblyai.com/docs/api-reference/overview.
"""

import argparse
import asyncio
import gc
import heapq
import json
import math
import os
import random
import re
import socket
import ssl
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

NUMBER_BYTES = 8
"""How many bytes at the beginning of a recording are its number, big endian."""

KINDS = ("upload", "submit", "list", "get", "delete")
"""What requests are counted by."""

_BUFFER = bytearray(1 << 20)
"""What every connection reads into: a read is dealt with before the next one begins."""
_VIEW = memoryview(_BUFFER)
_LONGEST_HEAD_BYTES = 64 << 10
_LONGEST_BODY_BYTES = 1 << 20
_DELETED_URL = "http://deleted_by_user"
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"} | {
    413: "Content Too Large",
    422: "Unprocessable Content",
    429: "Too Many Requests",
}
_TEXT = re.compile(r"recording (\d+)")
_WORD_MS = 360


class Transcript:
    """One accepted submit. Times are Unix seconds, 0.0 for what has not come yet."""

    __slots__ = (
        *("audio_url", "completed", "created", "fetched", "id", "is_deleted"),
        *("number", "position", "row", "started"),
    )

    def __init__(self, position: int, number: int, audio_url: str, created: float) -> None:
        self.id = str(uuid.UUID(int=random.getrandbits(128), version=4))
        self.position = position
        self.number = number
        """Of the recording, -1 for an audio_url that is no upload."""
        self.audio_url = audio_url
        self.created = created
        self.started = self.completed = self.fetched = 0.0
        self.is_deleted = False
        self.row = b""
        """Its row of the list, once that will not change any more."""

    @property
    def status(self) -> str:
        return "completed" if self.completed else "processing" if self.started else "queued"


class Account:
    """
    What is uploaded, submitted and worked on, on the clock of the machine.

    Nothing runs by itself: each call first moves every transcript to where the clock says it is,
    first in, first out, `concurrency` at once, each for `seconds`, or up to `spread` of that more
    or less: by the number of the recording, the same for everybody.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.seconds: float = given.seconds
        self.spread: float = given.spread
        self.concurrency: int = given.concurrency
        self.limit, self.window_s = _rate(given.requests)
        self.transcripts: list[Transcript] = []
        self.by_id: dict[str, Transcript] = {}
        self.uploads: dict[str, int] = {}
        self.requests: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.bytes_read = 0
        self.peak_processing = self.fetched = 0
        self.began_at = self.cpu_before_s = 0.0
        self._waiting: deque[Transcript] = deque()
        self._running: list[tuple[float, int]] = []
        """When each ends, and its position; the next one first."""
        self._answered: deque[float] = deque()
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        """Unix seconds, never going back."""
        return self._offset + time.monotonic()

    def admit(self, kind: str) -> int | None:
        """Counts a request; the whole seconds to wait if there were too many of them."""
        now = self.now()
        if not self.began_at:
            self.began_at, self.cpu_before_s = now, time.process_time()
        self.requests[kind] += 1
        if not self.limit:
            return None
        answered = self._answered
        while answered and answered[0] <= now - self.window_s:
            answered.popleft()
        if len(answered) < self.limit:
            answered.append(now)
            return None
        self.refused[kind] += 1
        return math.ceil(answered[0] + self.window_s - now)

    def upload(self, number: int) -> str:
        """A new upload_url for this recording."""
        url = f"https://cdn.bench.invalid/upload/{uuid.UUID(int=random.getrandbits(128))}"
        self.uploads[url] = number
        return url

    def submit(self, audio_url: str) -> Transcript:
        """A new transcript, whatever was submitted before."""
        now = self.settle()
        number = self.uploads.get(audio_url, -1)
        transcript = Transcript(len(self.transcripts), number, audio_url, now)
        self.transcripts.append(transcript)
        self.by_id[transcript.id] = transcript
        self._waiting.append(transcript)
        self._start(now)
        return transcript

    def settle(self) -> float:
        """Moves every transcript to where the clock says it is; what that says."""
        now = self.now()
        while self._running and self._running[0][0] <= now:
            ended_at, position = heapq.heappop(self._running)
            self.transcripts[position].completed = ended_at
            self._start(ended_at)
        return now

    def _start(self, at: float) -> None:
        while self._waiting and len(self._running) < self.concurrency:
            transcript = self._waiting.popleft()
            transcript.started = max(at, transcript.created)
            heapq.heappush(self._running, (self._end_of(transcript), transcript.position))
        self.peak_processing = max(self.peak_processing, len(self._running))

    def _end_of(self, transcript: Transcript) -> float:
        part = random.Random(transcript.number).uniform(-1, 1) if self.spread else 0.0
        return transcript.started + self.seconds * (1 + self.spread * part)

    def idle_slot_s(self) -> float:
        """Slot-seconds that nobody used between the first submit and the last one."""
        if not self.transcripts:
            return 0.0
        first, last = self.transcripts[0].created, self.transcripts[-1].created
        used = sum(
            max(0.0, min(each.completed or last, last) - each.started)
            for each in self.transcripts
            if each.started
        )
        return max(0.0, self.concurrency * (last - first) - used)

    def oracle(self, *, is_brief: bool) -> dict[str, Any]:
        """All that a bench asks for; brief, without a line for each transcript."""
        now = self.settle()
        paid = Counter(each.number for each in self.transcripts if each.completed)
        brief: dict[str, Any] = {
            "paid": dict(Counter(paid.values())),
            "requests": dict(self.requests),
            "refused": dict(self.refused),
            "bytes": self.bytes_read,
            "fetched": self.fetched,
            "peak_processing": self.peak_processing,
            "idle_slot_s": self.idle_slot_s(),
            "cpu_s": time.process_time() - self.cpu_before_s,
            "elapsed_s": now - self.began_at,
        }
        return (
            brief
            if is_brief
            else brief
            | {
                "transcripts": [
                    (each.number, each.created, each.started, each.completed, each.fetched)
                    for each in self.transcripts
                ]
            }
        )


class Api:
    """The API over an account: a request in, the status, headers and body of the answer out."""

    def __init__(self, account: Account, url: str, key: str, words: int) -> None:
        self._account = account
        self._url = url
        self._key = key.encode()
        self._pending = _Template(_shape(0))
        self._completed = _Template(_shape(words))
        self._deleted = _Template(_shape(0) | _DELETED)
        self._routes: dict[tuple[str, str], Callable[[str, str, bytes], tuple[int, bytes]]] = {
            ("POST", "upload"): self._upload,
            ("POST", "transcript"): self._submit,
            ("GET", "transcript"): self._list,
            ("GET", "transcript/"): self._get,
            ("DELETE", "transcript/"): self._delete,
        }
        self._kinds = dict(zip(self._routes, KINDS, strict=True))

    def answer(self, method: str, target: str, key: bytes, body: bytes) -> bytes:
        """The whole answer to a whole request; of an upload `body` is its beginning."""
        path, _, query = target.partition("?")
        if path.startswith("/_control/"):
            return self._control(path, query)
        if not path.startswith("/v2/"):
            return _answer(404, _error("not found"))
        name, slash, rest = path.removeprefix("/v2/").partition("/")
        route = (method, name + slash)
        kind = self._kinds.get(route)
        if kind is None:
            return _answer(404, _error("not found"))
        if key != self._key:
            return _answer(401, _error("Authentication error, API token missing/invalid"))
        wait_s = self._account.admit(kind)
        if wait_s is not None:
            return _answer(429, _error("Too many requests"), f"Retry-After: {wait_s}\r\n")
        return _answer(*self._routes[route](rest, query, body))

    def _control(self, path: str, query: str) -> bytes:
        if path == "/_control/done":
            return _answer(200, b"%d" % self._account.fetched)
        return _answer(200, json.dumps(self._account.oracle(is_brief=query == "brief")).encode())

    def _upload(self, _rest: str, _query: str, body: bytes) -> tuple[int, bytes]:
        if not body:
            return 422, _error("Upload failed, please try again.")
        url = self._account.upload(int.from_bytes(body[:NUMBER_BYTES], "big"))
        return 200, b'{"upload_url":"%s"}' % url.encode()

    def _submit(self, _rest: str, _query: str, body: bytes) -> tuple[int, bytes]:
        try:
            audio_url = json.loads(body)["audio_url"]
        except (ValueError, KeyError, TypeError):
            return 400, _error("Transcript creation error, audio_url not found")
        if not isinstance(audio_url, str) or not audio_url.startswith("http"):
            return 400, _error("Transcript creation error, audio_url should start with http")
        return 200, self._pending.of(self._account.submit(audio_url))

    def _list(self, _rest: str, query: str, _body: bytes) -> tuple[int, bytes]:
        account, wanted = self._account, dict(parse_qsl(query))
        account.settle()
        limit = int(wanted.get("limit", "10"))
        if not 1 <= limit <= 200:
            return 400, _error("limit must be between 1 and 200")
        rows, status = account.transcripts, wanted.get("status")
        places = range(len(rows) - 1, -1, -1)
        try:
            if "after_id" in wanted:
                places = range(account.by_id[wanted["after_id"]].position + 1, len(rows))
            elif "before_id" in wanted:
                places = range(account.by_id[wanted["before_id"]].position - 1, -1, -1)
        except KeyError:
            return 400, _error("Transcript lookup error, transcript id not found")
        found: list[Transcript] = []
        for place in places:
            if status is None or rows[place].status == status:
                found.append(rows[place])
                if len(found) == limit:
                    break
        found.sort(key=lambda row: -row.position)
        url = f"{self._url}/v2/transcript"
        kept = {k: v for k, v in wanted.items() if k not in ("before_id", "after_id")}
        details = {
            "limit": limit,
            "result_count": len(found),
            "current_url": f"{url}?{query}",
            "prev_url": None,
            "next_url": None,
        }
        if found and found[-1].position > 0:
            details["prev_url"] = f"{url}?{urlencode(kept | {'before_id': found[-1].id})}"
        if found and found[0].position < len(rows) - 1:
            details["next_url"] = f"{url}?{urlencode(kept | {'after_id': found[0].id})}"
        page = b",".join(map(self._row, found))
        return 200, b'{"page_details":%s,"transcripts":[%s]}' % (json.dumps(details).encode(), page)

    def _row(self, transcript: Transcript) -> bytes:
        if transcript.row:
            return transcript.row
        completed = transcript.completed
        row = json.dumps(
            {
                "id": transcript.id,
                "resource_url": f"{self._url}/v2/transcript/{transcript.id}",
                "status": transcript.status,
                "created": _moment(transcript.created),
                "completed": _moment(completed) if completed else None,
                "audio_url": transcript.audio_url,
                "error": None,
            }
        ).encode()
        if completed:
            transcript.row = row
        return row

    def _get(self, rest: str, _query: str, _body: bytes) -> tuple[int, bytes]:
        account = self._account
        transcript = account.by_id.get(rest)
        if transcript is None:
            return 400, _error("Transcript lookup error, transcript id not found")
        now = account.settle()
        if transcript.is_deleted:
            return 200, self._deleted.of(transcript)
        if not transcript.completed:
            return 200, self._pending.of(transcript)
        if not transcript.fetched:
            transcript.fetched = now
            account.fetched += 1
        return 200, self._completed.of(transcript)

    def _delete(self, rest: str, _query: str, _body: bytes) -> tuple[int, bytes]:
        account = self._account
        transcript = account.by_id.get(rest)
        if transcript is None:
            return 400, _error("Transcript lookup error, transcript id not found")
        account.settle()
        transcript.is_deleted, transcript.row = True, b""
        transcript.audio_url = _DELETED_URL
        return 200, self._deleted.of(transcript)


class Connection(asyncio.BufferedProtocol):
    """One connection: requests one after the other, bodies sized or in chunks."""

    _transport: asyncio.Transport

    def __init__(self, account: Account, api: Api) -> None:
        self._account = account
        self._api = api
        self._early = bytearray()
        """Of a head, or of the line before a chunk, what came before its end."""
        self._is_head = True
        self._method = self._target = ""
        self._key = b""
        self._left = 0
        """Bytes to come of the body, or of a chunk of it."""
        self._is_chunked = self._is_last_chunk = False
        self._body = bytearray()
        self._keep_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return _VIEW

    def buffer_updated(self, nbytes: int) -> None:
        at = 0
        while at < nbytes:
            if self._is_head:
                at = self._read_head(at, nbytes)
            elif self._left:
                at = self._read_body(at, nbytes)
            else:
                at = self._read_chunk_line(at, nbytes)

    def _line(self, end: bytes, at: int, nbytes: int) -> tuple[bytes | None, int]:
        """What came before `end` that has not been read, None if that is yet to come."""
        found = _BUFFER.find(end, at, nbytes)
        if not self._early and found >= 0:
            return bytes(_VIEW[at:found]), found + len(end)
        before = len(self._early)
        self._early += _VIEW[at:nbytes]
        found = self._early.find(end)
        if found < 0:
            if len(self._early) > _LONGEST_HEAD_BYTES:
                self._transport.abort()
            return None, nbytes
        line = bytes(self._early[:found])
        self._early.clear()
        return line, at + found + len(end) - before

    def _read_head(self, at: int, nbytes: int) -> int:
        head, at = self._line(b"\r\n\r\n", at, nbytes)
        if head is None:
            return at
        first, *lines = head.split(b"\r\n")
        method, target, *_ = first.decode("latin-1").split(" ")
        self._method, self._target, self._key = method, target, b""
        self._left, self._is_chunked, self._is_last_chunk = 0, False, False
        for line in lines:
            name, _, value = line.partition(b":")
            match name.lower():
                case b"content-length":
                    self._left = int(value)
                case b"transfer-encoding":
                    self._is_chunked = b"chunked" in value.lower()
                case b"authorization":
                    self._key = value.strip()
                case b"expect":
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        is_upload = target == "/v2/upload"
        self._keep_bytes = NUMBER_BYTES if is_upload else _LONGEST_BODY_BYTES
        self._body.clear()
        self._is_head = False
        if not self._left and not self._is_chunked:
            self._finish()
        return at

    def _read_body(self, at: int, nbytes: int) -> int:
        taken = min(self._left, nbytes - at)
        wanted = self._keep_bytes - len(self._body)
        if wanted > 0:
            self._body += _VIEW[at : at + min(taken, wanted)]
        self._left -= taken
        self._account.bytes_read += taken
        if not self._left and not self._is_chunked:
            self._finish()
        return at + taken

    def _read_chunk_line(self, at: int, nbytes: int) -> int:
        """The size of a chunk, or the empty line after one, or the one after the last."""
        line, at = self._line(b"\r\n", at, nbytes)
        if line:
            self._left = int(line.partition(b";")[0], 16)
            self._is_last_chunk = not self._left
        elif line is not None and self._is_last_chunk:
            self._finish()
        return at

    def _finish(self) -> None:
        self._is_head = True
        body = bytes(self._body)
        self._transport.write(self._api.answer(self._method, self._target, self._key, body))


class _Template:
    """A transcript as JSON, but for what is different in each."""

    def __init__(self, shape: Mapping[str, Any]) -> None:
        said = json.dumps(shape, separators=(",", ":")).replace("%", "%%").replace("@number", "%d")
        self._format = re.sub(r"@(id|status|audio_url)", "%s", said)

    def of(self, transcript: Transcript) -> bytes:
        """The JSON of this transcript."""
        values = (transcript.id, transcript.status, transcript.audio_url)
        if "%d" in self._format:
            return (self._format % (*values, transcript.number)).encode()
        return (self._format % values).encode()


_DELETED = {"text": "Deleted by user.", "is_deleted": True}


def _shape(words: int) -> dict[str, Any]:
    """Every key of a transcript, with so many words if it has any: then it is completed."""
    spoken = [
        {
            "text": "harbour" if place else "recording",
            "start": place * _WORD_MS,
            "end": place * _WORD_MS + _WORD_MS - 40,
            "confidence": 0.97,
            "speaker": None,
        }
        for place in range(words)
    ]
    off = "summarization auto_highlights redact_pii redact_pii_audio content_safety"
    off += " iab_categories entity_detection sentiment_analysis speaker_labels disfluencies"
    off += " filter_profanity auto_chapters webhook_auth"
    empty = "utterances auto_highlights_result redact_pii_sub summary entities chapters"
    empty += " sentiment_analysis_results multichannel webhook_url webhook_auth_header_name"
    empty += " webhook_status_code audio_start_from audio_end_at speech_threshold is_deleted"
    empty += " speech_model language_detection_options language_confidence_threshold"
    empty += " speakers_expected prompt keyterms_prompt translated_texts"
    return {
        "id": "@id",
        "status": "@status",
        "audio_url": "@audio_url",
        "language_model": "assemblyai_default",
        "acoustic_model": "assemblyai_default",
        "language_code": "en" if words else None,
        "text": " ".join(["recording @number", *["harbour"] * (words - 2)]) if words else None,
        "words": spoken or None,
        "confidence": 0.97 if words else None,
        "audio_duration": math.ceil(words * _WORD_MS / 1000) or None,
        "punctuate": True,
        "format_text": True,
        "speech_models": ["assemblyai-stt-3-7", "universal-2"],
        "speech_model_used": "assemblyai-stt-3-7" if words else None,
        "language_detection": True,
        "language_confidence": 0.99 if words else None,
        "throttled": False,
        "content_safety_labels": {},
        "iab_categories_result": {},
        "project_id": 1,
        "token_id": 1,
        **dict.fromkeys(off.split(), False),
        **dict.fromkeys(empty.split()),
    }


def number_said(text: str | None) -> int | None:
    """The number of the recording that a transcript is of, by its text."""
    found = _TEXT.match(text or "")
    return int(found[1]) if found else None


def _answer(status: int, body: bytes, headers: str = "") -> bytes:
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\n{headers}"
    return b"%sContent-Length: %d\r\n\r\n%s" % (head.encode(), len(body), body)


def _error(sentence: str) -> bytes:
    return json.dumps({"error": sentence}).encode()


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def _rate(text: str) -> tuple[int, float]:
    """`2000/30s` as requests and seconds; an empty text is no limit."""
    count, _, window = text.partition("/")
    return (int(count), float(window.removesuffix("s"))) if text else (0, 0.0)


def _certificate(folder: Path) -> ssl.SSLContext:
    """A context with a new certificate for loopback; its CA is left in the folder as `ca.pem`."""
    import trustme  # only where it is asked for: of the extra `test`

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def serve(given: argparse.Namespace) -> None:
    """Answers until stdin is closed; says on stdout where."""
    account = Account(given)
    context = _certificate(given.tls) if given.tls else None
    listening = socket.create_server(("127.0.0.1", given.port), backlog=1024)
    url = f"{'https' if context else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
    api = Api(account, url, given.key, given.words)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(account, api), sock=listening, backlog=1024, ssl=context
    )
    ca = str(given.tls / "ca.pem") if given.tls else None
    print(json.dumps({"url": url, "ca": ca, "pid": os.getpid()}), flush=True)
    gc.freeze()
    gc.disable()  # a million transcripts are no garbage: to look at them takes seconds
    closed = asyncio.Event()
    loop.add_reader(sys.stdin, closed.set)
    await closed.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--key", default="bench-key")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each transcript")
    parser.add_argument("--spread", type=float, default=0.0, help="of the seconds, 0 to 1")
    parser.add_argument("--concurrency", type=int, default=200)
    parser.add_argument("--words", type=int, default=30, help="in each transcript")
    parser.add_argument("--requests", default="", metavar="N/Ts", help="limit, as 2000/30s")
    parser.add_argument("--core", type=int, help="to stay on")
    parser.add_argument("--tls", type=Path, metavar="FOLDER", help="over TLS; FOLDER gets ca.pem")
    given = parser.parse_args()
    if given.core is not None:
        os.sched_setaffinity(0, [given.core])
    asyncio.run(serve(given))


if __name__ == "__main__":
    main()
