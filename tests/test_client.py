"""The client against a real server on loopback: what it sends, and what it makes of the answers."""

import errno
import gzip
import json
import socket
import ssl
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest
import trustme
from anyio.abc import ByteStream, Listener, SocketAttribute
from anyio.streams.tls import TLSListener

from pipeline.client import Client, Handover
from pipeline.destinations import is_public, leads
from pipeline.errors import (
    AccessDoubted,
    AnswerUnusable,
    BalanceNegative,
    ConnectionLost,
    Intercepted,
    KeyRefused,
    PipelineError,
    RateLimited,
    RecordingChanged,
    RequestRejected,
    ServiceUnavailable,
    ServiceUnusable,
    SettingsError,
    TranscriptUnknown,
)
from pipeline.limiter import Limiter
from pipeline.retry import retry
from pipeline.settings import Timetable
from pipeline.uplink import Uplink
from pipeline.wire import Accepted, Ambiguous, NotAccepted, Submission, submit_body
from tests.support.clock import MovableLoop, advance
from tests.support.service import Fault, ScriptedService
from tests.support.service_faults import Kind

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[1]
CHUNK_BYTES = 256 << 10
OPTIONS = {"speech_models": ["universal-2"], "redact_pii": True, "redact_pii_audio": True}
CERTAIN = [400, 401, 402, 403, 404, 405, 413, 415, 422, 429]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
async def service() -> AsyncIterator[ScriptedService]:
    async with ScriptedService() as service:
        yield service


@pytest.fixture
async def client(service: ScriptedService) -> AsyncIterator[Client]:
    async with a_client(service.url) as client:
        yield client


def a_client(url: str, **limits: Any) -> Client:
    """A client with a budget that no test uses up, on the clock of the loop."""
    limiter = Limiter(10_000, 1.0, clock=anyio.current_time)
    return Client(url, "scripted-key", limiter, **limits)


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    """The content in chunks, ending by its count."""
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


async def upload(client: Client, content: bytes = b"RIFF....WAVE") -> str:
    return await client.upload(chunks(content), len(content))


async def submit(client: Client, upload_url: str, handover: Handover | None = None) -> Submission:
    body = submit_body(upload_url, OPTIONS)
    return await client.submit(upload_url, body, handover or Handover())


async def accepted_id(client: Client, content: bytes = b"RIFF....WAVE") -> str:
    """The id of a transcript that the service has."""
    outcome = await submit(client, await upload(client, content))
    assert isinstance(outcome, Accepted)
    return outcome.transcript_id


async def fetched(client: Client, transcript_id: str) -> bytes:
    body = bytearray()
    await client.fetch(transcript_id, taking(body))
    return bytes(body)


def taking(body: bytearray) -> Callable[[bytes], Any]:
    async def take(chunk: bytes) -> None:
        body.extend(chunk)

    return take


CALLS: dict[str, Callable[[Client, str], Any]] = {
    "upload": lambda client, _: upload(client),
    "get": lambda client, transcript_id: fetched(client, transcript_id),
    "list": lambda client, _: client.list(),
    "delete": lambda client, transcript_id: client.delete(transcript_id),
    "export": lambda client, transcript_id: client.redacted_audio(transcript_id),
}
"""Every call that can be repeated, by the service's word for it."""

calls = pytest.mark.parametrize("call", CALLS)


@dataclass
class Answering:
    """A server that gives the same bytes to all, and remembers what it was sent."""

    port: int
    requests: list[bytes] = field(default_factory=list)
    """Their heads."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@asynccontextmanager
async def answering(
    answer: bytes, context: ssl.SSLContext | None = None
) -> AsyncIterator[Answering]:
    """Such a server on loopback; with a context, by TLS."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server = Answering(listener.extra(SocketAttribute.local_port))

    async def handle(stream: ByteStream) -> None:
        async with stream:
            request = b""
            while not is_whole(request):
                request += await stream.receive()
            server.requests.append(request.partition(b"\r\n\r\n")[0])
            await stream.send(answer)

    async with listener, anyio.create_task_group() as group:
        serving: Listener[Any] = listener if context is None else TLSListener(listener, context)
        group.start_soon(serving.serve, handle)
        yield server
        group.cancel_scope.cancel()


def is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = next(
        (line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"Content-Length")),
        b"0",
    )
    return bool(end) and len(body) >= int(length)


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + body


async def a_closed_port() -> int:
    """A port on loopback where nobody listens."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        return int(listener.extra(SocketAttribute.local_port))


# --- every call -----------------------------------------------------------------------------------


async def test_a_recording_goes_the_whole_way(service: ScriptedService, client: Client) -> None:
    """Uploaded, submitted, listed, fetched and deleted, each by one request."""
    upload_url = await upload(client, b"SECONDS:7\n")
    outcome = await submit(client, upload_url)
    assert isinstance(outcome, Accepted)
    rows = await client.list()
    document = json.loads(await fetched(client, outcome.transcript_id))
    await client.delete(outcome.transcript_id)

    assert [(row.id, row.audio_url) for row in rows] == [(outcome.transcript_id, upload_url)]
    assert (document["status"], document["audio_duration"]) == ("completed", 7)
    assert service.transcripts[outcome.transcript_id].is_deleted
    kinds = ["upload", "submit", "list", "get", "delete"]
    assert [call.kind for call in service.log] == kinds
    assert client.sent == dict.fromkeys(kinds, 1)


async def test_what_is_asked_for_is_what_was_said(service: ScriptedService, client: Client) -> None:
    """A submit holds the options and the `audio_url`, and no others."""
    upload_url = await upload(client)
    await submit(client, upload_url)

    assert service.log[-1].sent == OPTIONS | {"audio_url": upload_url}


async def test_the_key_is_in_one_header_only(service: ScriptedService, client: Client) -> None:
    """Each request carries the bare key as `Authorization`, and nowhere else."""
    transcript_id = await accepted_id(client)
    for call in CALLS.values():
        await call(client, transcript_id)

    assert {call.key for call in service.log} == {"scripted-key"}
    assert all("scripted-key" not in call.path + call.query for call in service.log)


@pytest.mark.parametrize("call", [*CALLS, "submit"])
async def test_no_redirect_is_followed(service: ScriptedService, client: Client, call: str) -> None:
    """Wherever an answer points, the other host hears nothing, least of all the key."""
    async with ScriptedService() as elsewhere:
        transcript_id = await accepted_id(client)
        location = f"{elsewhere.url}/v2/transcript"
        service.faults.add(Fault(on="*", action="redirect", location=location))
        if call == "submit":
            assert isinstance(await submit(client, "https://cdn.invalid/1"), Ambiguous)
        else:
            with pytest.raises(ServiceUnavailable):
                await CALLS[call](client, transcript_id)

        assert elsewhere.log == []


@calls
async def test_every_call_but_submit_takes_its_permit(
    service: ScriptedService, client: Client, call: str
) -> None:
    """Each request counts in the budget, one each; the permit of a submit is its caller's."""
    transcript_id = await accepted_id(client)
    client.limiter.take_unrecorded()

    await CALLS[call](client, transcript_id)
    await submit(client, "https://cdn.invalid/1")

    assert len(client.limiter.take_unrecorded()) == 1


@calls
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"action": "negative_balance"}, BalanceNegative),
        ({"action": "unknown_id"}, TranscriptUnknown),
        ({"action": "answer", "status": 401, "body": "<html>"}, (Intercepted, ServiceUnavailable)),
        ({"action": "answer", "status": 407, "body": "<html>"}, (Intercepted, ServiceUnavailable)),
        ({"action": "answer", "status": 413}, RequestRejected),
        ({"action": "answer", "status": 429}, RateLimited),
        ({"action": "answer", "status": 500, "body": ""}, ServiceUnavailable),
        ({"action": "list_down"}, ServiceUnavailable),
        ({"action": "drop_before"}, ConnectionLost),
        ({"action": "drop_after"}, ConnectionLost),
        ({"action": "truncate"}, ServiceUnavailable),
    ],
    ids=str,
)
async def test_what_goes_wrong_is_told_by_what_to_do(
    service: ScriptedService,
    client: Client,
    call: str,
    fault: dict[str, Any],
    expected: type[PipelineError],
) -> None:
    """Each failure of each call is the right error, after one request, and without the key."""
    transcript_id = await accepted_id(client)
    sent = len(service.log)
    service.faults.add(Fault(on="*", times=None, **fault))

    with pytest.raises(expected) as raised:
        await CALLS[call](client, transcript_id)

    assert len(service.log) == sent + 1
    assert "scripted-key" not in str(raised.value)


@calls
async def test_a_key_that_was_never_taken_is_refused_at_once(
    service: ScriptedService, client: Client, call: str
) -> None:
    """A 401 before any success says what it says, after one request."""
    service.faults.add(Fault(on="*", action="answer", status=401, body='{"error": "API token"}'))

    with pytest.raises(KeyRefused):
        await CALLS[call](client, "an-id")

    assert len(service.log) == 1


async def until_listed(service: ScriptedService, count: int) -> None:
    """Moves the time until the list was asked for so often."""
    while service.requests["list"] < count:
        await anyio.wait_all_tasks_blocked()
        await advance(0.25)


@calls
@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("looks", [1, 2])
async def test_a_refusal_in_passing_is_doubted(
    service: ScriptedService, client: Client, call: str, status: int, looks: int
) -> None:
    """Where the newest row is given 5 or 15 s later, the refused call may be made again."""
    transcript_id = await accepted_id(client)
    before = service.requests["list"] + (call == "list")
    service.faults.add(Fault(on="*", action="answer", times=looks, status=status))

    async with anyio.create_task_group() as group:
        group.start_soon(until_listed, service, before + looks)
        with pytest.raises(AccessDoubted):
            await CALLS[call](client, transcript_id)

    refused, first = service.log[-looks - 1], service.log[-looks]
    assert (first.kind, first.query, service.log[-1].kind) == ("list", "limit=1", "list")
    assert refused.status == status


@pytest.mark.parametrize("call", ["get", "delete", "export"])
async def test_the_same_is_doubted_once(
    service: ScriptedService, client: Client, call: Kind
) -> None:
    """A second refusal of what was asked for before is one, until it has been given since."""
    transcript_id = await accepted_id(client)
    service.faults.add(Fault(on=call, action="answer", times=2, status=401))

    async with anyio.create_task_group() as group:
        group.start_soon(until_listed, service, 1)
        with pytest.raises(AccessDoubted):
            await CALLS[call](client, transcript_id)
    with pytest.raises(KeyRefused):
        await CALLS[call](client, transcript_id)

    assert service.requests["list"] == 1


@calls
async def test_a_key_that_is_refused_again_is_refused(
    service: ScriptedService, client: Client, call: str
) -> None:
    """Where the newest row is refused as well, twice, nothing can be asked for any more."""
    transcript_id = await accepted_id(client)
    before = service.requests["list"] + (call == "list")
    service.faults.add(Fault(on="*", action="answer", times=None, status=401))

    async with anyio.create_task_group() as group:
        group.start_soon(until_listed, service, before + 2)
        with pytest.raises(KeyRefused):
            await CALLS[call](client, transcript_id)

    assert service.requests["list"] == before + 2


async def test_one_asks_for_all_whether_the_key_is_taken(
    service: ScriptedService, client: Client
) -> None:
    """However many are refused at once, the newest row is asked for once, and that counts."""
    transcript_id = await accepted_id(client)
    service.faults.add(Fault(on="get", action="answer", times=8, status=401))
    told = list[type[Exception]]()

    async def ask() -> None:
        try:
            await CALLS["get"](client, transcript_id)
        except AccessDoubted as error:
            told.append(type(error))

    async with anyio.create_task_group() as group:
        group.start_soon(until_listed, service, 1)
        for _ in range(8):
            group.start_soon(ask)

    assert told == [AccessDoubted] * 8
    assert service.requests["list"] <= 2  # who came in the midst of a look has another


@calls
async def test_a_refused_connection_is_told_apart(call: str) -> None:
    """Where nobody listens, the error says that nothing can have arrived."""
    async with a_client(f"http://127.0.0.1:{await a_closed_port()}") as client:
        with pytest.raises(ConnectionLost) as raised:
            await CALLS[call](client, "an-id")

    assert not raised.value.connected


@calls
async def test_a_lost_connection_is_told_apart(
    service: ScriptedService, client: Client, call: str
) -> None:
    """Where a connection broke, the error says that the request may have arrived."""
    service.faults.add(Fault(on="*", action="drop_before"))

    with pytest.raises(ConnectionLost) as raised:
        await CALLS[call](client, "an-id")

    assert raised.value.connected


@calls
async def test_an_idle_connection_that_broke_is_no_second_request(
    service: ScriptedService, client: Client, call: str
) -> None:
    """Also on a connection that was used before, a request that got lost is not sent again."""
    transcript_id = await accepted_id(client)
    await client.list()
    service.faults.add(Fault(on="*", action="drop_before"))
    before = len(service.log)

    with pytest.raises(ConnectionLost):
        await CALLS[call](client, transcript_id)

    assert len(service.log) == before + 1


@pytest.mark.parametrize("call", ["get", "list", "delete"])
async def test_an_answer_that_does_not_come_is_given_up(
    service: ScriptedService, client: Client, call: str
) -> None:
    """When nothing has come for `stall_s`, the request has failed."""
    service.faults.add(Fault(on="*", action="hold_before"))

    async with anyio.create_task_group() as group:
        group.start_soon(waited_out, service, call, 61.0)
        with pytest.raises(ConnectionLost):
            await CALLS[call](client, "an-id")


async def waited_out(service: ScriptedService, kind: str, seconds: float) -> None:
    """Lets so much time go by once a request of this kind is held."""
    await service.held(kind)
    await advance(seconds)


@pytest.mark.parametrize("url", ["http://", "http://a..b", "http://a.invalid:x"])
async def test_a_base_url_that_is_none_is_a_matter_of_settings(url: str) -> None:
    """An address that cannot be one is told as what it is, before anything is sent."""
    async with a_client(url) as client:
        with pytest.raises(SettingsError):
            await client.list()


# --- upload ---------------------------------------------------------------------------------------


async def test_an_upload_says_its_length(service: ScriptedService) -> None:
    """The body is bare bytes behind a Content-Length, neither chunked nor a form."""
    async with answering(http(b'{"upload_url": "u"}')) as server, a_client(server.url) as client:
        assert await upload(client, b"x" * 1000) == "u"

    head = server.requests[0].lower()
    assert b"\r\ncontent-length: 1000" in head
    assert b"\r\ncontent-type: application/octet-stream" in head
    assert b"transfer-encoding" not in head


async def test_uploads_share_a_connection(service: ScriptedService, client: Client) -> None:
    """One upload after the other goes over the same connection: no handshake for each."""
    for size in (1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * CHUNK_BYTES, 5):
        await upload(client, bytes(size))

    assert service.requests["upload"] == 5
    assert service.connections == 1


async def test_every_byte_arrives(service: ScriptedService, client: Client) -> None:
    """The service has the very bytes that were given, and gives each upload its own URL."""
    content = bytes(range(256)) * 5000
    urls = {await upload(client, content) for _ in range(2)}

    assert len(urls) == 2
    assert {service.uploads[url].size_bytes for url in urls} == {len(content)}


async def test_an_upload_is_never_held_in_memory(client: Client) -> None:
    """The peak of memory does not grow with the size of what is sent."""
    count = 192
    chunk = bytes(CHUNK_BYTES)

    async def repeated() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield chunk

    tracemalloc.start()
    try:
        await client.upload(repeated(), count * CHUNK_BYTES)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 8 << 20


async def test_an_upload_that_stalls_is_given_up(service: ScriptedService, client: Client) -> None:
    """When the service stops reading, the upload fails once nothing has moved for `stall_s`."""
    service.faults.add(Fault(on="upload", action="stall"))
    lost: list[ConnectionLost] = []
    at_once = client.uplink.places.total_tokens

    async def try_upload() -> None:
        with pytest.raises(ConnectionLost, match="nothing moved for 60 s") as raised:
            await upload(client, bytes(32 << 20))
        lost.append(raised.value)

    began = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(try_upload)
        await service.held("upload")
        while not lost:
            await advance(1.0)

    assert anyio.current_time() - began >= 60
    assert client.uplink.places.total_tokens == at_once // 2  # the line is pushed too hard


async def test_a_slow_upload_that_moves_goes_through(
    service: ScriptedService, client: Client
) -> None:
    """However long a whole upload takes, it is let go on as long as each chunk moves in time."""

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(20):
            await advance(55.0)
            yield bytes(CHUNK_BYTES)

    upload_url = await client.upload(slow(), 20 * CHUNK_BYTES)

    assert service.uploads[upload_url].size_bytes == 20 * CHUNK_BYTES


async def test_an_upload_waits_for_its_answer(service: ScriptedService, client: Client) -> None:
    """Once all is sent, the service may take `answer_s` longer before the upload is given up."""
    service.faults.add(Fault(on="upload", action="hold"))

    async def answer_late() -> None:
        await waited_out(service, "upload", 119.0)
        service.release()

    async with anyio.create_task_group() as group:
        group.start_soon(answer_late)
        upload_url = await upload(client)

    assert upload_url in service.uploads


async def test_what_fits_a_chunk_goes_as_it_is(service: ScriptedService, client: Client) -> None:
    """Bytes that are there at once arrive like those that come in chunks, on one connection."""
    contents = [b"x", bytes(range(256)) * 400, bytes(4 * CHUNK_BYTES)]
    urls = [await client.upload(content, len(content)) for content in contents]
    await upload(client, contents[-1])

    assert [service.uploads[url].content for url in urls] == [
        sha256(each).hexdigest() for each in contents
    ]
    assert service.connections == 1


async def test_what_fits_a_chunk_may_stall_as_well(
    service: ScriptedService, client: Client
) -> None:
    """Bytes that the service does not take are given up once nothing has moved for `stall_s`."""
    service.faults.add(Fault(on="upload", action="stall"))
    content = bytes(32 << 20)
    lost: list[ConnectionLost] = []

    async def try_upload() -> None:
        with pytest.raises(ConnectionLost, match="nothing moved for 60 s") as raised:
            await client.upload(content, len(content))
        lost.append(raised.value)

    async with anyio.create_task_group() as group:
        group.start_soon(try_upload)
        await service.held("upload")
        while not lost:
            await advance(10.0)


async def test_uploads_keep_to_the_limit(service: ScriptedService) -> None:
    """Under `bwlimit` uploads take as long as their bytes do; to wait for a turn is no stall."""
    uplink = Uplink(timetable=Timetable.parse("10k"))
    content = bytes(5_000)
    urls: list[str] = []

    async def upload_slowly(client: Client) -> None:
        urls.append(await client.upload(content, len(content)))

    began = anyio.current_time()
    async with (
        a_client(service.url, uplink=uplink, connect_s=1e6, stall_s=1.0, answer_s=1e6) as client,
        anyio.create_task_group() as group,
    ):
        for _ in range(8):  # each has a turn every 2 s
            group.start_soon(upload_slowly, client)
        while len(urls) < 8:
            await advance(0.2)

    assert anyio.current_time() - began >= 4.0 - 0.6
    assert [service.uploads[url].size_bytes for url in urls] == [len(content)] * 8


async def test_a_recording_that_changes_ends_its_upload(
    service: ScriptedService, client: Client
) -> None:
    """An error of ours in the midst of reading comes out as itself, and nothing is uploaded."""
    error = RecordingChanged("it shrank")

    async def shrinking() -> AsyncIterator[bytes]:
        yield bytes(CHUNK_BYTES)
        raise error

    with pytest.raises(RecordingChanged) as raised:
        await client.upload(shrinking(), 10 * CHUNK_BYTES)

    assert raised.value is error
    assert service.uploads == {}


async def test_an_early_refusal_of_a_large_upload_is_seen(
    service: ScriptedService, client: Client
) -> None:
    """A 413 in the midst of the body comes out as such, not as a broken connection."""
    service.upload_limit_bytes = 1000

    with pytest.raises(RequestRejected) as raised:
        await upload(client, bytes(16 << 20))

    assert raised.value.status_code == 413


async def test_a_key_refused_during_an_upload_is_seen(service: ScriptedService) -> None:
    """A 401 in the midst of the body comes out as such, not as a broken connection."""
    async with Client(service.url, "wrong", Limiter(10, 1.0)) as client:
        with pytest.raises(KeyRefused) as raised:
            await upload(client, bytes(16 << 20))

    assert "wrong" not in str(raised.value)


async def test_an_upload_without_its_url_is_no_success(
    service: ScriptedService, client: Client
) -> None:
    """A 200 that is HTML, as a proxy may send it, is worth another try."""
    service.faults.add(Fault(on="upload", action="garbage"))

    with pytest.raises(ServiceUnavailable):
        await upload(client)


# --- submit ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", CERTAIN)
async def test_a_whole_refusal_is_certain(
    service: ScriptedService, client: Client, status: int
) -> None:
    """Each status of the closed list means not accepted, and nothing was."""
    upload_url = await upload(client, b"content")
    service.faults.add(Fault(on="submit", action="answer", status=status))

    outcome = await submit(client, upload_url)

    assert isinstance(outcome, NotAccepted)
    assert service.accepted(b"content") == []
    assert service.requests["submit"] == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"action": "drop_after"},
        {"action": "truncate"},
        {"action": "garbage"},
        {"action": "big", "size_bytes": 9 << 20},
        *(
            {"action": "effect_then_answer", "status": status}
            for status in (307, 408, 409, 425, 500, 502, 503, 504)
        ),
    ],
    ids=str,
)
async def test_an_answer_that_got_lost_is_ambiguous(
    service: ScriptedService, client: Client, fault: dict[str, Any]
) -> None:
    """Where a transcript was made and the answer does not say so, it is never called refused."""
    upload_url = await upload(client, b"content")
    service.faults.add(Fault(on="submit", **fault))
    handover = Handover()

    outcome = await submit(client, upload_url, handover)

    assert isinstance(outcome, Ambiguous)
    assert handover.begun
    assert len(service.accepted(b"content")) == 1
    assert service.requests["submit"] == 1


@pytest.mark.parametrize(
    "fault", [{"action": "drop_before"}, {"action": "answer", "status": 500}], ids=str
)
async def test_a_lost_request_is_ambiguous_too(
    service: ScriptedService, client: Client, fault: dict[str, Any]
) -> None:
    """Nobody can tell from here that nothing was made: it is in doubt, and not asked twice."""
    upload_url = await upload(client, b"content")
    service.faults.add(Fault(on="submit", **fault))

    outcome = await submit(client, upload_url)

    assert isinstance(outcome, Ambiguous)
    assert service.accepted(b"content") == []
    assert service.requests["submit"] == 1


async def test_a_broken_idle_connection_does_not_submit_twice(
    service: ScriptedService, client: Client
) -> None:
    """A submit on a connection that was used before, and breaks, is one request all the same."""
    await accepted_id(client)
    upload_url = await upload(client, b"content")
    service.faults.add(Fault(on="submit", action="drop_after"))

    outcome = await submit(client, upload_url)

    assert isinstance(outcome, Ambiguous)
    assert service.requests["submit"] == 2
    assert len(service.accepted(b"content")) == 1


async def test_an_answer_beyond_the_limit_is_ambiguous(
    service: ScriptedService, client: Client
) -> None:
    """After `answer_s` an answer counts as lost, with the transcript perhaps made."""
    upload_url = await upload(client, b"content")
    service.faults.add(Fault(on="submit", action="hold"))

    async with anyio.create_task_group() as group:
        group.start_soon(waited_out, service, "submit", 121.0)
        outcome = await submit(client, upload_url)

    assert isinstance(outcome, Ambiguous)
    assert len(service.accepted(b"content")) == 1


async def test_an_answer_within_the_limit_is_waited_for(
    service: ScriptedService, client: Client
) -> None:
    """An answer that takes 119 s is an answer: giving up earlier makes doubt out of nothing."""
    upload_url = await upload(client)
    service.faults.add(Fault(on="submit", action="hold"))

    async def answer_late() -> None:
        await waited_out(service, "submit", 119.0)
        service.release()

    async with anyio.create_task_group() as group:
        group.start_soon(answer_late)
        outcome = await submit(client, upload_url)

    assert isinstance(outcome, Accepted)


async def test_answers_that_were_crossed_tell_their_uploads(
    service: ScriptedService, client: Client
) -> None:
    """Two submits that get each other's answers are told of whose upload each id is."""
    urls = [await upload(client, content) for content in (b"one", b"other")]
    service.faults.add(Fault(on="submit", action="cross_answers", times=2))
    outcomes: dict[str, Submission] = {}

    async def ask(upload_url: str) -> None:
        outcomes[upload_url] = await submit(client, upload_url)

    async with anyio.create_task_group() as group:
        for upload_url in urls:
            group.start_soon(ask, upload_url)

    ids = {each.audio_url: each.id for each in service}
    one, other = urls
    assert outcomes == {one: Accepted(ids[other], other), other: Accepted(ids[one], one)}


async def test_an_echo_in_another_spelling_is_told(
    service: ScriptedService, client: Client
) -> None:
    """An id comes with what the service calls the upload, where that is not what it was called."""
    upload_url = await upload(client, b"content")
    service.faults.add(Fault(on="submit", action="foreign_audio_url"))

    outcome = await submit(client, upload_url)

    (transcript,) = service.accepted(b"content")
    assert outcome == Accepted(transcript.id, "https://elsewhere.invalid/foreign.mp3")


async def test_a_201_is_an_acceptance(service: ScriptedService, client: Client) -> None:
    """A service that still answers 201, as it once did, has accepted."""
    body = json.dumps({"id": "an-id", "audio_url": "https://cdn.invalid/1"})
    service.faults.add(Fault(on="submit", action="answer", status=201, body=body))

    assert await submit(client, "https://cdn.invalid/1") == Accepted("an-id")


async def test_a_refused_connection_is_certain() -> None:
    """Where nobody listens, nothing was accepted, and nothing was handed over."""
    handover = Handover()
    async with a_client(f"http://127.0.0.1:{await a_closed_port()}") as client:
        outcome = await submit(client, "https://cdn.invalid/1", handover)

    assert isinstance(outcome, NotAccepted)
    assert isinstance(outcome.error, ConnectionLost)
    assert not outcome.error.connected
    assert not handover.begun


async def test_a_submit_cancelled_before_it_left_was_not_handed_over(
    service: ScriptedService, client: Client
) -> None:
    """When the stop comes before the connection has it, the request can be put back."""
    handover = Handover()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await submit(client, "https://cdn.invalid/1", handover)

    assert scope.cancelled_caught
    assert not handover.begun
    assert service.log == []


async def test_a_submit_cancelled_after_it_left_was_handed_over(
    service: ScriptedService, client: Client
) -> None:
    """When the stop comes while the answer is awaited, the request may have had its effect."""
    upload_url = await upload(client)
    service.faults.add(Fault(on="submit", action="hold"))
    handover = Handover()

    async with anyio.create_task_group() as group:
        group.start_soon(submit, client, upload_url, handover)
        await service.held("submit")
        group.cancel_scope.cancel()

    assert handover.begun


# --- fetch, list, delete --------------------------------------------------------------------------


async def test_a_transcript_is_passed_on_as_it_comes(
    service: ScriptedService, client: Client
) -> None:
    """A large answer goes through in small pieces, and comes out verbatim, unknown fields too."""
    transcript_id = await accepted_id(client)
    service.faults.add(Fault(on="get", action="big", size_bytes=4 << 20))
    pieces: list[bytes] = []

    async def take(chunk: bytes) -> None:
        pieces.append(chunk)

    await client.fetch(transcript_id, take)

    assert len(json.loads(b"".join(pieces))["x_padding"]) == 4 << 20
    assert max(map(len, pieces)) <= 1 << 20


async def test_an_answer_without_end_is_cut_off(service: ScriptedService) -> None:
    """Beyond the cap nothing more is taken, and the recording gets an error that names it."""
    body = bytearray()
    async with a_client(service.url, max_answer_bytes=100_000) as client:
        transcript_id = await accepted_id(client)
        service.faults.add(Fault(on="get", action="big", size_bytes=4 << 20))
        with pytest.raises(AnswerUnusable, match="max_answer"):
            await client.fetch(transcript_id, taking(body))

    assert len(body) <= 100_000


@pytest.mark.parametrize("call", ["list", "delete", "upload", "export"])
async def test_a_page_without_end_is_cut_off(
    service: ScriptedService, client: Client, call: str
) -> None:
    """What has to be held in memory is held only up to a limit."""
    transcript_id = await accepted_id(client)
    service.faults.add(Fault(on="*", action="big", size_bytes=9 << 20))

    with pytest.raises(AnswerUnusable):
        await CALLS[call](client, transcript_id)


async def test_compressed_answers_are_decompressed() -> None:
    """What a proxy compressed on the way is passed on as it was."""
    document = json.dumps({"id": "a", "status": "completed", "text": "x" * 100_000}).encode()
    answer = http(gzip.compress(document), "Content-Encoding: gzip")
    async with answering(answer) as server, a_client(server.url) as client:
        assert await fetched(client, "a") == document


async def test_the_cap_counts_what_a_small_answer_unpacks_to() -> None:
    """A few compressed bytes that unpack to many are cut off like any other long answer."""
    body = bytearray()
    answer = http(gzip.compress(bytes(16 << 20)), "Content-Encoding: gzip")
    async with (
        answering(answer) as server,
        a_client(server.url, max_answer_bytes=1 << 20) as client,
    ):
        with pytest.raises(AnswerUnusable):
            await client.fetch("a", taking(body))

    assert len(body) <= 1 << 20


async def test_a_full_disk_is_no_lost_connection(service: ScriptedService, client: Client) -> None:
    """What goes wrong where the bytes go to comes out as it is, and not as a fault of the line."""
    transcript_id = await accepted_id(client)
    error = OSError(errno.ENOSPC, "No space left on device")

    async def full(_: bytes) -> None:
        raise error

    with pytest.raises(OSError) as raised:
        await client.fetch(transcript_id, full)

    assert raised.value is error


async def test_nothing_of_an_error_is_taken_for_a_transcript(
    service: ScriptedService, client: Client
) -> None:
    """The body of an answer that is no success is not passed on."""
    body = bytearray()
    service.faults.add(Fault(on="get", action="unknown_id"))

    with pytest.raises(TranscriptUnknown):
        await client.fetch("an-id", taking(body))

    assert body == b""


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a?b", "a%2fb", "x" * 65])
async def test_an_id_that_is_none_is_never_sent(
    service: ScriptedService, client: Client, bad: str
) -> None:
    """An id that could lead a request elsewhere is refused before anything is sent."""
    for call in (
        lambda: fetched(client, bad),
        lambda: client.delete(bad),
        lambda: client.redacted_audio(bad),
    ):
        with pytest.raises(AnswerUnusable):
            await call()

    assert service.log == []


@pytest.mark.parametrize("other", ["", "..", "a/b", "a?b&limit=1#x", "rt:\u00e9"])
async def test_a_cursor_stays_in_its_place(
    service: ScriptedService, client: Client, other: str
) -> None:
    """Whatever the id of another program's row is, as a cursor it is one value of the query."""
    with suppress(PipelineError):
        await client.list(before_id=other)

    (call,) = service.log
    assert call.path == "/v2/transcript"
    assert parse_qs(call.query, keep_blank_values=True) == {"limit": ["200"], "before_id": [other]}


async def test_the_list_is_walked_from_newest_to_oldest(
    service: ScriptedService, client: Client
) -> None:
    """Pages come newest first, and `before_id` goes on where the last one ended."""
    ids = service.add_foreign(5)[::-1]

    first = await client.list(limit=3)
    second = await client.list(limit=3, before_id=first[-1].id)

    assert [row.id for row in first + second] == ids
    assert {row.status for row in first} == {"completed"}


async def test_a_page_of_the_list_is_as_large_as_can_be(
    service: ScriptedService, client: Client
) -> None:
    """One request tells of 200 transcripts, without a filter that could hide one."""
    service.add_foreign(201)

    assert len(await client.list()) == 200
    assert service.log[-1].query == "limit=200"


async def test_a_list_of_nonsense_is_no_empty_list(
    service: ScriptedService, client: Client
) -> None:
    """A page that cannot be read is an error: it proves nothing about what is missing."""
    service.faults.add(Fault(on="list", action="garbage"))

    with pytest.raises(ServiceUnavailable):
        await client.list()


# --- redacted audio -------------------------------------------------------------------------------


async def test_redacted_audio_has_an_address(service: ScriptedService, client: Client) -> None:
    """Once it is made, the service says where it is."""
    transcript_id = await accepted_id(client)

    url = await client.redacted_audio(transcript_id)

    assert url is not None
    assert url.startswith("https://")


async def test_redacted_audio_may_take_a_while(service: ScriptedService, client: Client) -> None:
    """A 202 says that it is still being made, which is no error."""
    service.faults.add(Fault(on="export", action="answer", status=202, body="{}"))

    assert await client.redacted_audio("an-id") is None


async def test_a_download_is_sent_no_key() -> None:
    """The file is fetched from whatever host has it, which learns nothing of the key."""
    body = bytearray()
    async with answering(http(b"redacted")) as elsewhere, a_client("http://localhost:9") as one:
        await one.download(f"{elsewhere.url}/signed?x=1", taking(body))

    assert body == b"redacted"
    assert b"scripted-key" not in elsewhere.requests[0]
    assert b"authorization" not in elsewhere.requests[0].lower()


async def test_a_download_does_not_count_in_the_budget(client: Client) -> None:
    """What is asked of another host is no request to the account."""
    async with answering(http(b"redacted")) as elsewhere:
        await client.download(elsewhere.url, taking(bytearray()))

    assert client.limiter.take_unrecorded() == []


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("401 Unauthorized", RequestRejected),
        ("402 Payment Required", RequestRejected),
        ("403 Forbidden", RequestRejected),
        ("404 Not Found", RequestRejected),
        ("429 Too Many Requests", ServiceUnavailable),
        ("302 Found", ServiceUnavailable),
        ("503 Slow Down", ServiceUnavailable),
    ],
)
async def test_another_hosts_refusal_concerns_one_recording(
    client: Client, status: str, expected: type[PipelineError]
) -> None:
    """What another host says of keys, money and rates ends no batch and pauses no request."""
    async with answering(http(b"<Error/>", "Retry-After: 3600", status=status)) as elsewhere:
        with pytest.raises(expected) as raised:
            await client.download(elsewhere.url, taking(bytearray()))

    assert type(raised.value) is expected
    assert client.limiter.stopped is None


@pytest.mark.parametrize("url", ["http://", "http://[", "https://a..b/", "http://a.invalid:x/"])
async def test_an_address_that_is_none_concerns_one_recording(client: Client, url: str) -> None:
    """An address that cannot be one is an unusable answer, not a matter of settings."""
    with pytest.raises(AnswerUnusable):
        await client.download(url, taking(bytearray()))


async def test_an_untrusted_host_of_a_download_concerns_one_recording(client: Client) -> None:
    """A certificate that is not trusted ends no batch where it is not the service's own."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with answering(http(b"redacted"), context) as elsewhere:
        with pytest.raises(AnswerUnusable):
            await client.download(f"https://127.0.0.1:{elsewhere.port}", taking(bytearray()))


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST.", "some.localhost", "127.1", "2130706433"),
        *("0x7f000001", "0x7f.1", "0177.0.0.1", "127.0.0.1.", "１２7.0.0.1", "[::1]", "0"),
        *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "169.254.169.254"),
        *("10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "198.18.0.1", "224.0.0.1"),
        *("255.255.255.255", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[64:ff9b::a9fe:a9fe]"),
        *("[2002:7f00:1::]", "[::127.0.0.1]", "user:pass@127.0.0.1"),
    ],
)
async def test_a_download_does_not_lead_inside(host: str) -> None:
    """However its host is spelt, a link of a service on the internet never leads to our network."""
    async with answering(http(b"secret")) as inside, a_client("http://203.0.114.1") as one:
        with anyio.fail_after(20), pytest.raises(AnswerUnusable):
            await one.download(f"http://{host}:{inside.port}/x", taking(bytearray()))

    assert inside.requests == []


async def test_a_name_that_leads_inside_is_refused_where_it_is_connected_to() -> None:
    """What a name resolves to is looked at as it is connected to: no other look-up counts."""
    here = socket.gethostname()
    try:
        addresses = {each[4][0] for each in socket.getaddrinfo(here, None)}
    except OSError:
        pytest.skip("this machine has no name that it knows itself by")
    if leads(here) or any(is_public(str(each)) for each in addresses):
        pytest.skip("this machine is on the internet")
    async with answering(http(b"secret")) as inside, a_client("http://203.0.114.1") as one:
        with anyio.fail_after(20), pytest.raises(AnswerUnusable, match="this machine"):
            await one.download(f"http://{here}:{inside.port}/x", taking(bytearray()))

    assert inside.requests == []


async def test_behind_a_proxy_what_is_spelt_out_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy resolves names on its own network; what is an address by itself is refused."""
    async with answering(http(b"through the proxy")) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        async with a_client("http://203.0.114.1") as one:
            with pytest.raises(AnswerUnusable):
                await one.download("http://169.254.169.254/x", taking(bytearray()))
            body = bytearray()
            await one.download("http://files.invalid/x", taking(body))

    assert body == b"through the proxy"
    assert len(proxy.requests) == 1


async def test_a_download_is_as_verbatim_as_a_transcript(client: Client) -> None:
    """What goes wrong where the bytes of a download go to comes out as it is, too."""
    error = OSError(errno.ENOSPC, "No space left on device")

    async def full(_: bytes) -> None:
        raise error

    async with answering(http(b"redacted")) as elsewhere:
        with pytest.raises(OSError) as raised:
            await client.download(elsewhere.url, full)

    assert raised.value is error


# --- the pause for all ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", [*CALLS, "submit"])
async def test_a_429_holds_every_request_back(
    service: ScriptedService, client: Client, call: str
) -> None:
    """After a 429 on any call no request of any kind leaves before the pause is over."""
    transcript_id = await accepted_id(client)
    headers = {"Retry-After": "30"}
    service.faults.add(Fault(on="*", action="answer", status=429, headers=headers))
    if call == "submit":
        outcome = await submit(client, "https://cdn.invalid/1")
        assert isinstance(outcome, NotAccepted)
        assert isinstance(outcome.error, RateLimited)
    else:
        with pytest.raises(RateLimited):
            await CALLS[call](client, transcript_id)
    before = len(service.log)

    async with anyio.create_task_group() as group:
        for other in CALLS.values():
            group.start_soon(other, client, transcript_id)
        await advance(29.0)
        assert len(service.log) == before
        await advance(1.1)

    assert len(service.log) == before + len(CALLS)


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "601"},
        {"Retry-After": "9" * 400},
        {
            "Retry-After": "Fri, 20 Nov 2026 12:10:01 GMT",
            "Date": "Fri, 20 Nov 2026 12:00:00 GMT",
        },
        {
            "Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT",
            "Date": "Fri, 20 Nov 2026 12:00:00 GMT",
        },
    ],
    ids=lambda headers: headers["Retry-After"][:16],
)
async def test_a_429_for_a_long_time_ends_the_requests(
    service: ScriptedService, client: Client, headers: dict[str, str]
) -> None:
    """A pause of more than 10 min, in either form, is not waited for: run again later."""
    service.faults.add(Fault(on="*", action="answer", status=429, headers=headers))
    with pytest.raises(RateLimited):
        await client.list()

    with pytest.raises(ServiceUnusable):
        await client.list()

    assert len(service.log) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry-After": "0"},
        {"Retry-After": "-1"},
        {"Retry-After": "soon"},
        {"Retry-After": "Fri, 20 Nov 2020 12:00:00 GMT", "Date": "Fri, 20 Nov 2026 12:00:00 GMT"},
    ],
    ids=str,
)
async def test_a_429_that_says_nothing_is_no_leave_to_storm(
    service: ScriptedService, client: Client, headers: dict[str, str]
) -> None:
    """A call that is refused for half a minute is made a few times in it, and then succeeds."""
    service.faults.add(Fault(on="list", action="answer", times=5, status=429, headers=headers))
    began, rows = anyio.current_time(), list[object]()

    async def ask() -> None:
        rows.append(await retry(client.list, attempts=1))

    async with anyio.create_task_group() as group:
        group.start_soon(ask)
        while not rows:
            await anyio.wait_all_tasks_blocked()
            await advance(0.25)

    assert service.requests["list"] == 6
    assert anyio.current_time() - began >= 1 + 2 + 4 + 8 + 16


# --- proxies and certificates ---------------------------------------------------------------------

EMPTY_PAGE = b'{"transcripts": []}'


@pytest.fixture
def proxy_variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("scheme", ["http://", ""])
async def test_the_systems_proxy_is_used(proxy_variables: pytest.MonkeyPatch, scheme: str) -> None:
    """Requests to the service go through the proxy of the environment, with or without scheme."""
    async with answering(http(EMPTY_PAGE)) as proxy:
        proxy_variables.setenv("HTTP_PROXY", f"{scheme}127.0.0.1:{proxy.port}")
        async with a_client("http://service.invalid") as client:
            assert await client.list() == []

    assert proxy.requests[0].startswith(b"GET http://service.invalid/v2/transcript?limit=200 ")


async def test_the_proxy_for_all_is_used(proxy_variables: pytest.MonkeyPatch) -> None:
    """`ALL_PROXY` counts where the scheme has no proxy of its own, as curl has it."""
    async with answering(http(EMPTY_PAGE)) as proxy:
        proxy_variables.setenv("ALL_PROXY", proxy.url)
        async with a_client("http://service.invalid") as client:
            assert await client.list() == []

    assert len(proxy.requests) == 1


@pytest.mark.parametrize("scheme", ["socks", "socks4", "socks4a", "socks5", "SOCKS5h", "ftp"])
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "ALL_PROXY"])
async def test_a_proxy_that_speaks_no_http_is_refused(
    proxy_variables: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    """A SOCKS proxy is an error of the settings with a word, and its password is not said."""
    proxy_variables.setenv(variable, f"{scheme}://me:hunter22@127.0.0.1:9")
    with pytest.raises(SettingsError, match=f"{scheme.upper()}, which is not supported") as raised:
        async with a_client("http://service.invalid"):
            pass
    assert "hunter22" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_proxy_is_used_for_this_machine(
    proxy_variables: pytest.MonkeyPatch, service: ScriptedService, host: str
) -> None:
    """A service on loopback is asked directly: no proxy could reach it."""
    proxy_variables.setenv("HTTP_PROXY", f"http://127.0.0.1:{await a_closed_port()}")
    async with a_client(f"http://{host}:{service.port}") as client:
        assert await client.list() == []


async def test_the_exceptions_of_the_environment_hold(proxy_variables: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY names is asked directly."""
    async with answering(http(EMPTY_PAGE)) as proxy:
        proxy_variables.setenv("HTTP_PROXY", proxy.url)
        proxy_variables.setenv("NO_PROXY", "service.invalid")
        async with a_client("http://service.invalid") as client:
            with pytest.raises(ConnectionLost):
                await client.list()

    assert proxy.requests == []


LIST_ONCE = """
import sys
import anyio
from pipeline.client import Client
from pipeline.errors import PipelineError
from pipeline.limiter import Limiter

async def main() -> None:
    try:
        async with Client(sys.argv[1], "scripted-key", Limiter(10, 1.0)) as client:
            print(await client.list())
    except PipelineError as error:
        print(type(error).__name__, error)

anyio.run(main)
"""


async def list_in_a_process(url: str, **environment: str) -> str:
    """What a program of its own prints: certificates are read once, when it starts."""
    ran = await anyio.run_process(
        [sys.executable, "-c", LIST_ONCE, url], cwd=ROOT, env={"PATH": "", **environment}
    )
    return ran.stdout.decode()


async def test_an_own_ca_file_is_honoured(tmp_path: Path) -> None:
    """A service whose certificate is of an own CA is trusted with SSL_CERT_FILE, and only so."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    async with answering(http(EMPTY_PAGE), context) as server:
        url = f"https://localhost:{server.port}"
        trusted = await list_in_a_process(url, SSL_CERT_FILE=str(tmp_path / "ca.pem"))

    assert trusted == "[]\n"
    assert b"Authorization: scripted-key" in server.requests[0]


async def test_an_untrusted_certificate_is_a_matter_of_settings() -> None:
    """The error for a certificate that is not trusted names SSL_CERT_FILE, and sends no key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    async with answering(http(EMPTY_PAGE), context) as server:
        printed = await list_in_a_process(f"https://localhost:{server.port}")

    assert printed.startswith("SettingsError ")
    assert "SSL_CERT_FILE" in printed
    assert server.requests == []
