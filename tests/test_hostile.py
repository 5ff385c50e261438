"""
A service that means us no good: whatever it answers, whichever call, one recording at most suffers.

Nothing is written but results, memory stays bounded, a worker is never held for ever, the key and
what was said stand in no message, nothing is paid twice, and once the service is itself again the
next run has every result.
"""

import json
import os
import re
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import anyio
import pytest
import stamina
from anyio.abc import ByteStream, SocketAttribute

from pipeline.client import Client, Handover
from pipeline.errors import (
    AnswerUnusable,
    ConnectionLost,
    ExitCode,
    PipelineError,
    RecordingError,
    ServiceUnavailable,
    TransientError,
)
from pipeline.limiter import Limiter
from pipeline.wire import Ambiguous, submit_body
from tests.support.hostile import (
    Asked,
    Script,
    bomb,
    bytewise,
    endless,
    head,
    hostile,
    patched,
    raw,
    whole,
)
from tests.support.runs import COMMAND, Archive, opened, recording
from tests.support.service import ScriptedService
from tests.support.service_process import service_process

pytestmark = pytest.mark.anyio

KEY = "scripted-key"
ELSEWHERE = "https://elsewhere.invalid/v2/transcript/x"
BOMB = bomb(64 << 20)
MOST_BYTES = 40 << 20
"""Of memory for a small answer, of which four megabytes are taken; half of it is the server's."""

SHORT: dict[str, float] = {"connect_s": 0.5, "stall_s": 0.5, "answer_s": 0.3}

OK = "HTTP/1.1 200 OK\r\n"
GARBLED: dict[str, bytes] = {
    "no HTTP": b"220 mail \x1b[31m" + KEY.encode() + b"\r\n",
    "bare JSON": b'{"id":"x","upload_url":"y"}',
    "no status": f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    "a huge status line": b"HTTP/1.1 200 " + KEY.encode() * 100_000 + b"\r\n\r\n",
    "many headers": head(*[f"X-{n}: {KEY}" for n in range(5000)], "Content-Length: 2") + b"{}",
    "a huge header": head("X-Huge: " + KEY * 100_000, "Content-Length: 2") + b"{}",
    "a NUL in a header": head(f"X-Nul: \x00{KEY}", "Content-Length: 2") + b"{}",
    "half a head": f"{OK}X-Key: {KEY}\r\nX-Ha".encode(),
    "too little": head("Content-Length: 1000") + b'{"id":"x"',
    "too much": head("Content-Length: 1") + b"{} " + KEY.encode(),
    "a negative length": head("Content-Length: -1") + b"{}",
    "two lengths": head("Content-Length: 2", "Content-Length: 3") + b"{} ",
    "length and chunks": head("Content-Length: 2", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "chunks that are none": head("Transfer-Encoding: chunked") + f"{KEY}\r\n{{}}\r\n".encode(),
    "a huge chunk size": head("Transfer-Encoding: chunked") + b"f" * 5000 + b"\r\n{}",
    "many trailers": head("Transfer-Encoding: chunked") + b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    "an encoding nobody has": head("Content-Encoding: br", "Content-Length: 2") + b"{}",
    "gzip that is none": head("Content-Encoding: gzip", "Content-Length: 2") + b"{}",
    "a switch of protocols": head("Upgrade: x", "Connection: upgrade", status="101 Now") + b"{}",
    "a status of its own": head("Content-Length: 2", status="999 Odd") + b"{}",
    "a redirect": head(f"Location: {ELSEWHERE}", "Content-Length: 0", status="307 Away"),
    "half of UTF-16": head("Content-Length: 14") + b'{"id":"\\ud800"}',
    "a BOM": head("Content-Length: 13") + b'\xef\xbb\xbf{"id":"x"}',
    "deep JSON": head("Content-Length: 100000") + b"[" * 100_000,
    "nothing": b"",
}
"""Answers that are none, to whatever call."""

UNENDING: dict[str, Script] = {
    "a body without end": endless(head()),
    "an error without end": endless(head(status="500 Oh")),
    "a head without end": endless(OK.encode()),
    "headers without end": endless(OK.encode(), b"X-More: x\r\n"),
    "hints without end": endless(b"", head(status="103 Early Hints") * 100),
    "a gzip bomb": raw(head("Content-Encoding: gzip", f"Content-Length: {len(BOMB)}") + BOMB),
    "a bomb as error": raw(head("Content-Encoding: gzip", status="400 Bad") + BOMB),
    "a deflate bomb": raw(head("Content-Encoding: deflate") + bomb(64 << 20, 15)),
    "an error of 10 MB": whole(b'{"error":"' + b"\x1b[31m " * 2_000_000 + b'"}', status="400 Bad"),
}
DRIPPING: dict[str, Script] = {
    "a head by bytes": bytewise(OK.encode(), b"X"),
    "hints now and then": bytewise(b"", head(status="103 Early Hints")),
    "a body by bytes": bytewise(head()),
    "an error by bytes": bytewise(head(status="500 Oh")),
}


async def chunks(content: bytes, count: int = 1) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield content


async def drop(_: bytes) -> None:
    return None


async def submit(client: Client) -> None:
    """A submit, whose doubt is raised."""
    outcome = await client.submit("https://x/y", submit_body("https://x/y", {}), Handover())
    assert isinstance(outcome, Ambiguous)
    raise ServiceUnavailable(outcome.reason)


CALLS: dict[str, Callable[[Client], Awaitable[object]]] = {
    "upload": lambda client: client.upload(chunks(b"RIFF"), 4),
    "submit": submit,
    "list": lambda client: client.list(),
    "get": lambda client: client.fetch("x", drop),
    "delete": lambda client: client.delete("x"),
    "export": lambda client: client.redacted_audio("x"),
}


@asynccontextmanager
async def a_client(script: Script, **limits: Any) -> AsyncIterator[Client]:
    """A client of a server that knows one answer."""
    async with hostile("", lambda _: script, reaches=False) as server:
        limiter = Limiter(10_000, 1.0)
        async with Client(server.url, KEY, limiter, max_answer_bytes=1 << 20, **limits) as client:
            yield client


async def said_by(call: str, client: Client) -> PipelineError | None:
    """What a call raises; None if it is content."""
    try:
        with anyio.fail_after(60):
            await CALLS[call](client)
    except (TransientError, RecordingError) as error:
        return error
    return None


# --- single calls ---------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", GARBLED)
async def test_garbled_answers_are_told_in_a_line(answer: str) -> None:
    """What is no answer is an error that can be repeated: one short line, without the key."""
    async with a_client(raw(GARBLED[answer])) as client:
        told = {call: await said_by(call, client) for call in CALLS}

    passed = {call for call, error in told.items() if error is None}
    # A transcript is judged once it is on disk, and of a deletion the status is all that counts.
    assert passed <= {"get", "delete"}
    for call, error in told.items():
        if error is not None:
            line = str(error)
            assert call.replace("export", "redacted") in line or "list" in line
            assert line.isprintable()
            assert KEY not in line
            assert len(line) < 500


@pytest.mark.parametrize("answer", UNENDING)
async def test_unending_answers_are_cut_off(answer: str) -> None:
    """Of an answer without end, packed or not, little is held in memory, and it is told."""
    async with a_client(UNENDING[answer], **SHORT) as client:
        for call in CALLS:
            tracemalloc.start()
            error = await said_by(call, client)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()

            assert error is not None
            assert str(error).isprintable()
            assert len(str(error)) < 500
            assert peak < MOST_BYTES


async def test_dripping_answers_are_given_up() -> None:
    """A server that sends a byte now and then, and is never silent, holds nobody for long."""
    told: dict[tuple[str, str], PipelineError | None] = {}

    async def ask(answer: str, call: str) -> None:
        async with a_client(DRIPPING[answer], **SHORT) as client:
            told[answer, call] = await said_by(call, client)

    async with anyio.create_task_group() as group:
        for answer in DRIPPING:
            for call in CALLS:
                group.start_soon(ask, answer, call)

    assert len(told) == len(DRIPPING) * len(CALLS)
    assert {type(error) for (_, call), error in told.items() if call != "submit"} == {
        ConnectionLost
    }
    assert None not in told.values()


async def test_a_slow_transcript_that_moves_is_taken() -> None:
    """A transcript may take longer than any limit, as long as 64 KiB come in each `stall`."""
    taken = 0

    async def take(chunk: bytes) -> None:
        nonlocal taken
        taken += len(chunk)

    async def slow(stream: Any, _: Asked) -> None:
        await stream.send(head(f"Content-Length: {14 * 40_000}"))
        for _ in range(14):
            await anyio.sleep(0.15)  # the fault itself
            await stream.send(bytes(40_000))

    async with a_client(slow, stall_s=1.5, answer_s=1.0) as client:
        await client.fetch("x", take)

    assert taken == 14 * 40_000


async def test_an_answer_before_all_was_sent_is_no_upload() -> None:
    """An `upload_url` that comes before the bytes were read stands for other bytes than ours."""
    body = b'{"upload_url":"https://x/y"}'
    answer = head(f"Content-Length: {len(body)}") + body

    async def early(stream: ByteStream) -> None:
        async with stream:
            await stream.receive()
            await stream.send(answer)
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, early)
        async with Client(url, KEY, Limiter(10, 1.0)) as client:
            with anyio.fail_after(60), pytest.raises(ServiceUnavailable, match="before all"):
                await client.upload(chunks(bytes(256 << 10), 400), 400 * (256 << 10))
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("upload_url", "expected"),
    [
        ("https://x/\ny", ServiceUnavailable),
        ("https://x/\x00", ServiceUnavailable),
        ("https://x/ y", ServiceUnavailable),
        ("https://x/" + "y" * 5000, ServiceUnavailable),
        ("https://x/" + "y" * 10_000_000, AnswerUnusable),
        (f"https://x/{KEY}", AnswerUnusable),
    ],
)
async def test_an_upload_url_that_is_none(upload_url: str, expected: type[PipelineError]) -> None:
    """What would do harm in the ledger and in requests is no address, and is told in a line."""
    async with a_client(whole(json.dumps({"upload_url": upload_url}).encode())) as client:
        with pytest.raises(expected) as raised:
            await client.upload(chunks(b"RIFF"), 4)

    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("row", [b'{"id":5}', b'{"id":"x"}'])
async def test_a_page_of_a_million_rows(row: bytes) -> None:
    """What is longer than any page is none, whatever its rows are."""
    rows = b",".join([row] * 1_000_000)
    async with a_client(whole(b'{"transcripts":[{"id":"good"},' + rows + b"]}")) as client:
        tracemalloc.start()
        error = await said_by("list", client)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert error is not None
    assert len(str(error)) < 500
    assert peak < MOST_BYTES


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture
def impatient() -> Iterator[None]:
    """Two tries of everything, without a wait between them."""
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


@pytest.fixture
async def archive(tmp_path: Path) -> AsyncIterator[Archive]:
    root = tmp_path / "some" / "folders" / "further" / "down"
    root.mkdir(parents=True)
    async with opened(root) as archive:
        yield archive


LIMITS: dict[str, Any] = {
    "timeouts": {"connect": "1s", "stall": "1s", "answer": "2s"},
    "max_answer": "1MB",
}


def outside(archive: Archive) -> set[Path]:
    """Every file around the archive that is no recording, result, state or key."""
    top = archive.root.parents[3]
    own = (archive.output, archive.recordings)
    return {
        path
        for path in top.rglob("*")
        if path.is_file() and not any(mine in path.parents for mine in own)
    } - {archive.root / "key"}


def leaks(archive: Archive) -> list[Path]:
    """Files of the state that hold the key."""
    return [
        path
        for path in archive.state.rglob("*")
        if path.is_file() and KEY.encode() in path.read_bytes()
    ]


def paid(service: ScriptedService) -> set[int]:
    """How often contents were paid for."""
    return set(service.billable.values())


def can_be_shown(reason: str) -> bool:
    return reason.isprintable() and len(reason) < 500


def content_of(name: str) -> bytes:
    return f"content of {name}".encode()


class Trap:
    """Answers what is asked about a recording by its script, so many times."""

    def __init__(
        self, service: ScriptedService, kind: str, scripts: dict[str, Script], times: float = 1
    ) -> None:
        self.left = dict.fromkeys(scripts, times)
        """How many more times each script answers, by recording."""
        self._service = service
        self._kind = kind
        self._scripts = scripts

    def __call__(self, asked: Asked) -> Script | None:
        if asked.kind != self._kind:
            return None
        for name, script in self._scripts.items():
            if self.left[name] > 0 and self._is_about(content_of(name), asked):
                self.left[name] -= 1
                return script
        return None

    def _is_about(self, content: bytes, asked: Asked) -> bool:
        if self._kind == "upload":
            return asked.body == content
        if self._kind == "submit":
            upload = self._service.uploads[json.loads(asked.body)["audio_url"]]
            return upload.content == sha256(content).hexdigest()
        return any(row.id in asked.path for row in self._service.accepted(content))


GARBLED_SCRIPTS = {name: raw(answer) for name, answer in GARBLED.items()}
EVERY = GARBLED_SCRIPTS | UNENDING | DRIPPING


async def test_uploads_answered_with_anything(archive: Archive, impatient: None) -> None:
    """Whatever an upload is answered with, it is sent again, now or in the next run: paid once."""
    for name in ("good", *EVERY):
        archive.add(f"{name}.wav", content_of(name))
    async with hostile(archive.service.url, Trap(archive.service, "upload", EVERY)) as server:
        first = await archive.run(provider=server.url, **LIMITS)
        second = await archive.run(provider=server.url, retry_failed=True, **LIMITS)

    assert len(server.asked) == len(EVERY)
    assert first.summary.written + second.summary.written == len(EVERY) + 1
    assert paid(archive.service) == {1}
    assert not outside(archive)
    assert not leaks(archive)


@pytest.mark.parametrize("reaches", [True, False])
async def test_submits_answered_with_anything(archive: Archive, reaches: bool) -> None:
    """A submit whose answer is none is looked for, never repeated in doubt: each is paid once."""
    for name in ("good", *EVERY):
        archive.add(f"{name}.wav", content_of(name))
    trap = Trap(archive.service, "submit", EVERY)
    async with hostile(archive.service.url, trap, reaches=reaches) as server:
        first = await archive.run(provider=server.url, **LIMITS)
        second = await archive.run(provider=server.url, **LIMITS)

    assert len(server.asked) == len(EVERY)
    assert first.summary.written + second.summary.written == len(EVERY) + 1
    assert paid(archive.service) == {1}
    assert {len(archive.service.accepted(content_of(name))) for name in EVERY} == {1}
    assert not leaks(archive)


def with_id(transcript_id: str) -> Callable[[bytes], bytes]:
    return patched({"id": transcript_id})


def ending(more: bytes) -> Callable[[bytes], bytes]:
    """The service's own JSON, and more at its end, where keys may be there already."""
    return lambda body: body.rstrip()[:-1] + b"," + more + b"}"


@pytest.mark.parametrize(
    "transcript_id", ["../../../x", "/etc/passwd", "", ".", "x" * 65, "x" * 100_000, "a\0b", "a\nb"]
)
async def test_submits_answered_with_a_path(archive: Archive, transcript_id: str) -> None:
    """An id that cannot be one is no acceptance and no refusal: the list has the true one."""
    archive.add("bad.wav", content_of("bad"))
    trap = Trap(archive.service, "submit", {"bad": whole(with_id(transcript_id))})
    async with hostile(archive.service.url, trap) as server:
        outcome = await archive.run(provider=server.url)

    assert outcome.summary.written == 1
    assert paid(archive.service) == {1}
    assert not outside(archive)


async def test_a_submit_that_names_two_transcripts(archive: Archive) -> None:
    """Of two ids in one answer the last counts; one that is another's is not believed."""

    def two(body: bytes) -> bytes:
        (other,) = archive.service.accepted(content_of("a"))
        return ending(b'"id":"%s"' % other.id.encode())(body)

    archive.add("a.wav", content_of("a"))
    archive.add("b.wav", content_of("b"))
    trap = Trap(archive.service, "submit", {"b": whole(two)})
    async with hostile(archive.service.url, trap) as server:
        outcome = await archive.run(provider=server.url, uploads=1)

    saved = {name: json.loads(body)["audio_url"] for name, body in archive.results().items()}
    assert outcome.summary.written == 2
    assert len(set(saved.values())) == 2
    assert paid(archive.service) == {1}


UNUSABLE: dict[str, Script] = {
    "another id": whole(with_id("another")),
    "a path as id": whole(with_id("../../../../x")),
    "a huge id": whole(with_id("x" * 500_000)),
    "two ids": whole(ending(b'"id":"another"')),
    "depth": whole(ending(b'"x":' + b"[" * 100_000 + b"]" * 100_000)),
    "beyond the limit": whole(patched({"x": "x" * 2_000_000})),
    "a raw NUL": whole(ending(b'"x":"\x00"')),
    "HTML": whole(b"<html>It works!</html>"),
}
VERBATIM: dict[str, Callable[[bytes], bytes]] = {
    "doubled": ending(b'"status":"processing","status":"completed"'),
    "no UTF-8": ending(b'"x":"\xff\xfe"'),
    "half characters": ending(b'"text":"\\ud83d"'),
    "no numbers": ending(b'"x":[NaN,-Infinity,1e999]'),
    "odd facts": patched({"audio_duration": -1e300, "speech_model_used": "x" * 100_000}),
    "no text": patched({"text": None}),
    "other kinds": patched({"audio_duration": "2", "error": {}, "speech_model_used": [1]}),
    "a mark and blanks": lambda body: b"\xef\xbb\xbf" + body + b" \r\n\0",
    "an upload of nobody's": patched({"audio_url": "https://elsewhere.invalid/x"}),
    "two uploads": ending(b'"audio_url":"https://elsewhere.invalid/x"'),
    "elsewhere": patched({"resource_url": ELSEWHERE, "webhook_url": ELSEWHERE}),
}


async def test_transcripts_answered_with_anything(archive: Archive, impatient: None) -> None:
    """What no HTTP library would send is parked with a reason, and saved once it is an answer."""
    for name in EVERY:
        archive.add(f"{name}.wav", content_of(name))
    trap = Trap(archive.service, "get", EVERY, times=1000)
    async with hostile(archive.service.url, trap) as server:
        first = await archive.run(provider=server.url, **LIMITS)
        reasons = await archive.rows("SELECT parked FROM transcripts WHERE parked IS NOT NULL")
        trap.left = dict.fromkeys(EVERY, 0)
        second = await archive.run(provider=server.url)

    assert (first.summary.written, first.summary.parked) == (0, len(EVERY))
    assert len(reasons) == len(EVERY)
    assert all(can_be_shown(reason) for (reason,) in reasons)
    assert (second.summary.written, second.summary.parked) == (len(EVERY), 0)
    assert paid(archive.service) == {1}
    assert not outside(archive)
    assert not leaks(archive)


async def test_transcripts_that_are_none_of_ours(archive: Archive, impatient: None) -> None:
    """What says it is another transcript, or none, is parked; what is odd is saved to the byte."""
    scripts = UNUSABLE | {name: whole(change) for name, change in VERBATIM.items()}
    for name in ("good", *scripts):
        archive.add(f"{name}.wav", content_of(name))
    trap = Trap(archive.service, "get", scripts, times=1000)
    async with hostile(archive.service.url, trap) as server:
        first = await archive.run(provider=server.url, max_answer=LIMITS["max_answer"])
        verbatim = {name: archive.results()[f"{name}.wav.json"] for name in VERBATIM}
        reasons = await archive.rows("SELECT parked FROM transcripts WHERE parked IS NOT NULL")
        trap.left = dict.fromkeys(scripts, 0)
        second = await archive.run(provider=server.url)

    answers = {asked.path.rpartition("/")[2]: asked.answer for asked in server.asked}
    assert (first.summary.written, first.summary.parked) == (len(VERBATIM) + 1, len(UNUSABLE))
    assert len(reasons) == len(UNUSABLE)
    assert all(can_be_shown(reason) for (reason,) in reasons)
    for name, change in VERBATIM.items():
        (row,) = archive.service.accepted(content_of(name))
        assert verbatim[name] == change(answers[row.id])
    assert (second.summary.written, second.summary.parked) == (len(UNUSABLE), 0)
    assert paid(archive.service) == {1}
    assert not outside(archive)
    assert not leaks(archive)


async def test_a_failure_of_10_mb_is_told_in_a_line(archive: Archive) -> None:
    """A reason that is long, of many lines, or meant for a terminal is cut to one that is safe."""
    reason = "No \x1b[31m speech\n" * 500_000
    archive.add("bad.wav", content_of("bad"))
    answer = whole(patched({"status": "error", "error": reason}))
    async with hostile(
        archive.service.url, Trap(archive.service, "get", {"bad": answer}, times=10)
    ) as server:
        outcome = await archive.run(provider=server.url)

    (told,) = outcome.summary.reasons["failed"]
    assert told.startswith("No \ufffd[31m speech No")
    assert told.isprintable()
    assert len(told) <= 300


@pytest.mark.parametrize("quality", ["/../../../evil", "x/\x00", "x" * 300])
async def test_redacted_audio_goes_beside_its_result(archive: Archive, quality: str) -> None:
    """A quality that would lead elsewhere does not become a part of a name."""
    archive.add("call.wav", content_of("call"))
    options = {"redact_pii": True, "redact_pii_policies": ["person_name"], "redact_pii_audio": True}
    changes = {"redact_pii_audio": True, "redact_pii_audio_quality": quality}

    def script(asked: Asked) -> Script | None:
        if asked.path.endswith("/audio"):
            return whole(b"beep")
        if asked.path.endswith("/redacted-audio"):
            return whole(json.dumps({"redacted_audio_url": f"{server.url}/audio"}).encode())
        return whole(patched(changes)) if asked.kind == "get" else None

    async with hostile(archive.service.url, script) as server:
        outcome = await archive.run(provider=server.url, transcript=options)

    assert outcome.summary.written == 1
    assert archive.results()["call.wav.redacted.mp3"] == b"beep"
    assert not outside(archive)


async def test_pages_of_anything_lose_nothing(archive: Archive) -> None:
    """A list that is answered with anything is asked again; what it says is only where to look."""
    rows: list[dict[str, Any]] = [
        {"id": "../../x", "status": "completed"},
        {"id": "x" * 100_000, "status": "completed"},
        {"id": 5},
        {"status": "completed"},
        {"id": "x", "status": ["completed"], "resource_url": ELSEWHERE},
    ]
    pages = [whole(json.dumps({"transcripts": [row]}).encode()) for row in rows]
    elsewhere = patched({"page_details": {"prev_url": ELSEWHERE, "next_url": ELSEWHERE}})
    scripts = [*GARBLED_SCRIPTS.values(), *UNENDING.values(), *pages, whole(elsewhere)]
    archive.service.transcript_seconds = 1.0
    for name in ("a", "b", "c"):
        archive.add(f"{name}.wav", content_of(name))
    async with hostile(
        archive.service.url,
        lambda asked: scripts.pop() if asked.kind == "list" and scripts else None,
    ) as server:
        outcome = await archive.run(provider=server.url, **LIMITS)

    assert outcome.summary.written == 3
    assert paid(archive.service) == {1}
    assert not leaks(archive)


# --- a large transcript ---------------------------------------------------------------------------

MB = 1_000_000

# The wrapper's only child is the command, so the peak of its children is the command's.
WRAPPER = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
sys.stdout.write(f"exit={code} peak={peak * (1 if sys.platform == 'darwin' else 1024)}")
"""


async def run_with_answer_of(folder: Path, size: int, **environ: str) -> tuple[int, str, int]:
    """Exit code, output and peak of memory, bytes, of the command, for a transcript this large."""
    recording(folder / "in" / "a.wav", b"content")
    async with service_process(transcript_seconds=0.1) as service:
        await service.add_fault(on="get", action="big", size_bytes=size, times=None)
        command = [
            *(sys.executable, "-c", WRAPPER, COMMAND, "run", str(folder / "in")),
            *("-o", str(folder / "out"), "--provider", service.url, "--poll-interval", "100ms"),
        ]
        usual = {"PATH": os.environ["PATH"], "ASSEMBLYAI_API_KEY": service.key}
        with anyio.fail_after(100):
            ended = await anyio.run_process(command, env=usual | environ)
        oracle = await service.oracle()
    assert list(oracle["billable"].values()) == [1]
    told = re.search(rb"exit=(\d+) peak=(\d+)$", ended.stdout)
    assert told, ended.stdout
    return int(told[1]), ended.stderr.decode(), int(told[2])


async def test_a_transcript_of_100_mb_is_saved(tmp_path: Path) -> None:
    """It is saved, and takes no memory but that of the map it is read through, which is no copy."""
    _, _, small = await run_with_answer_of(tmp_path / "small", 2 * MB)
    code, _, large = await run_with_answer_of(tmp_path / "large", 100 * MB)
    saved = (tmp_path / "large" / "out" / "a.wav.json").stat().st_size

    assert code == 0
    assert saved > 100 * MB
    assert large - small < saved + 10 * MB


async def test_a_transcript_of_100_mb_may_be_too_large(tmp_path: Path) -> None:
    """Above `max_answer` it is parked, the reason says what to raise, and little of it is taken."""
    _, _, small = await run_with_answer_of(tmp_path / "small", 2 * MB)
    environ = {"OVERNIGHT_MAX_ANSWER": "20MB"}
    code, said, large = await run_with_answer_of(tmp_path / "large", 100 * MB, **environ)

    assert code == ExitCode.PARTIAL
    assert "max_answer" in said
    assert large - small < 10 * MB
