"""The engine among clients that mean it no good: refused, cut off, and nobody else is harmed."""

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from tests.engine.client import KEY, Client, engine, error
from tests.engine.scripted import ScriptedRecognizer
from tests.support.clock import MovableLoop, advance

pytestmark = pytest.mark.anyio

HEAD = f"HTTP/1.1\r\nHost: x\r\nAuthorization: {KEY}\r\n"
GOOD = b"RIFF....WAVE"


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


@pytest.fixture
def recognizer() -> ScriptedRecognizer:
    return ScriptedRecognizer()


@pytest.fixture
async def client(tmp_path: Path, recognizer: ScriptedRecognizer) -> AsyncIterator[Client]:
    async with engine(tmp_path / "state", recognizer) as client:
        yield client


async def sent(client: Client, request: str | bytes) -> SocketStream:
    """A connection that this was sent on."""
    stream = await client.connect()
    await stream.send(request.encode() if isinstance(request, str) else request)
    return stream


async def rest(stream: SocketStream, within_s: float = 20.0) -> bytes:
    """What comes on a connection until the engine closes it."""
    answer = b""
    with anyio.fail_after(within_s):
        while True:
            try:
                answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer


async def rest_in(step_s: float, stream: SocketStream, client: Client, drip: bytes = b"") -> bytes:
    """The same while time goes by in steps, each with a request of somebody else and some bytes."""
    answer = b""
    async with anyio.create_task_group() as group:

        async def listen() -> None:
            nonlocal answer
            answer = await rest(stream, math.inf)
            group.cancel_scope.cancel()

        group.start_soon(listen)
        for _ in range(100):
            if drip:
                with suppress(anyio.BrokenResourceError):
                    await stream.send(drip)
            await client.list()
            await advance(step_s)
        pytest.fail("the connection was never closed")
    return answer


async def until(is_so: Callable[[], bool], client: Client) -> None:
    """Waits for something that the engine does, asking it for little meanwhile."""
    with anyio.fail_after(20):
        while not is_so():
            await client.list()


def files(tmp_path: Path) -> dict[str, int]:
    """What lies in the folder of the test, by path and size; the database apart."""
    return {
        str(path.relative_to(tmp_path)): path.stat().st_size
        for path in tmp_path.rglob("*")
        if path.is_file() and "engine.sqlite3" not in path.name
    }


# --- keys and ids ---------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["schlüssel", "鍵", "a key of the tests\u200b"])
async def test_a_key_of_any_alphabet_is_compared(tmp_path: Path, key: str) -> None:
    """A key that is not ASCII opens the engine, and one that only resembles it does not."""
    async with engine(tmp_path, ScriptedRecognizer(), keys=[key]) as client:
        for given, status in ((key, b" 200 "), (key[:-1], b" 401 "), (key + "\xff", b" 401 ")):
            request = f"GET /v2/transcript HTTP/1.1\r\nHost: x\r\nAuthorization: {given}\r\n"
            stream = await sent(client, request + "Connection: close\r\n\r\n")
            async with stream:
                answer = await rest(stream)

            assert status in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "name",
    [
        *("..", "../../key", "..%2f..%2fkey", "%2e%2e%2fkey", "%2fetc%2fpasswd", "/etc/passwd"),
        *("a%00b", "%00", "a%0d%0ab", "uploads%2fx", "x" * 4000, "%ff", "é", "a;b", "a%5c..%5cb"),
    ],
)
async def test_ids_are_no_paths(client: Client, tmp_path: Path, name: str) -> None:
    """Whatever an id holds, it is refused, and nothing is read, written or removed."""
    before = files(tmp_path)
    request = "{} /v2/transcript/{} {}Connection: close\r\n\r\n"
    for method in ("GET", "DELETE"):
        async with await sent(client, request.format(method, name, HEAD)) as stream:
            status = (await rest(stream)).split()[1]

        assert status in (b"400", b"404", b"405")
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "url",
    [
        *("https://engine.invalid/upload/../key", "file:///etc/passwd", "/etc/passwd", "\x00"),
        "https://engine.invalid/upload/" + "../" * 20 + "etc/passwd",
        "https://engine.invalid/upload/" + "x" * 100_000,
    ],
)
async def test_an_audio_url_is_no_path(client: Client, url: str) -> None:
    """An `audio_url` leads to an upload or to nothing: the transcript fails as a download."""
    status, body = await client.call("POST", "/v2/transcript", json={"audio_url": url})
    if status == 200:
        body = await client.finished(body["id"])

    assert status in (200, 400)
    assert status == 400 or body["error"].startswith("Download error")


# --- too much -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[" * 1_000_000, 400),
        (b'{"audio_url":' * 70_000, 400),
        (b'{"audio_url": "x", "speech_threshold": 1' + b"0" * 900_000 + b"}", 400),
        (b'{"audio_url": "' + b"x" * 2_000_000 + b'"}', 413),
    ],
)
async def test_json_bombs_are_refused(client: Client, body: bytes, expected: int) -> None:
    """A body too deep, too large or too long a number is refused with a sentence."""
    status, answer = await client.call("POST", "/v2/transcript", data=BytesIO(body))

    assert status == expected
    assert error(answer)


async def test_a_submit_of_any_length_is_cut_off(client: Client) -> None:
    """Of a submit of 100 MB little more than a megabyte is taken before it is refused."""
    length = 100_000_000
    stream = await sent(client, f"POST /v2/transcript {HEAD}Content-Length: {length}\r\n\r\n")
    taken = 0
    async with stream, anyio.create_task_group() as group:

        async def feed() -> None:
            nonlocal taken
            with_room = b" " * 65_536
            try:
                while taken < length:
                    await stream.send(with_room)
                    taken += len(with_room)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

        group.start_soon(feed)
        answer = await stream.receive()
        await advance(5)
        group.cancel_scope.cancel()

    assert b" 413 " in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "request_head",
    [
        "GET /" + "x" * 20_000 + " HTTP/1.1\r\n\r\n",
        f"GET /v2/transcript {HEAD}X-Long: " + "x" * 20_000 + "\r\n\r\n",
        f"GET /v2/transcript {HEAD}" + "X-Many: x\r\n" * 1000 + "\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_heads_have_a_limit(client: Client, request_head: str) -> None:
    """A flood of headers, a line without end and TLS on a plain port are a 400, and the end."""
    async with await sent(client, request_head) as stream:
        answer = await rest(stream)

    assert answer.split()[1] == b"400"


async def test_uploads_make_room_for_each_other(
    tmp_path: Path, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """Where no more may be kept, one that was transcribed leaves its place to another."""
    async with engine(tmp_path / "state", recognizer, uploads_kept=2) as client:
        waiting = await client.upload(upload)
        await client.transcribed(upload)
        third = await client.upload(upload)
        left = set(files(tmp_path / "state" / "uploads"))

    assert left == {url.rpartition("/")[2] for url in (waiting, third)}


@pytest.mark.parametrize("limits", [{"uploads_kept": 1}, {"uploads_kept_bytes": 20}])
@pytest.mark.parametrize("is_sized", [True, False])
async def test_one_upload_too_many_is_refused(
    tmp_path: Path, recognizer: ScriptedRecognizer, limits: dict[str, int], is_sized: bool
) -> None:
    """Without room a further upload is a 507 that says what to do, and leaves nothing."""

    async def pieces() -> AsyncIterator[bytes]:
        yield GOOD

    async with engine(tmp_path / "state", recognizer, **limits) as client:
        first, _ = await client.call("POST", "/v2/upload", data=GOOD)
        before = files(tmp_path)
        status, body = await client.call("POST", "/v2/upload", data=GOOD if is_sized else pieces())

        assert (first, status) == (200, 507)
        assert "Try again" in error(body)
        assert files(tmp_path) == before


async def test_uploads_under_way_count(tmp_path: Path, recognizer: ScriptedRecognizer) -> None:
    """What an upload says that it will hold is taken from the room before it has come."""
    async with engine(tmp_path / "state", recognizer, uploads_kept_bytes=1000) as client:
        stream = await sent(client, f"POST /v2/upload {HEAD}Content-Length: 990\r\n\r\nx")
        async with stream:
            uploads = tmp_path / "state" / "uploads"
            await until(lambda: any(p.stat().st_size for p in uploads.iterdir()), client)
            refused, _ = await client.call("POST", "/v2/upload", data=GOOD)
        await until(lambda: not [*uploads.iterdir()], client)
        taken, _ = await client.call("POST", "/v2/upload", data=GOOD)

        assert (refused, taken) == (507, 200)


# --- too slow -------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "GET /v2/tra", f"GET /v2/transcript {HEAD}X-Slow: "])
async def test_heads_that_never_end_are_cut_off(client: Client, start: str) -> None:
    """A connection on which no request becomes whole is closed after a while, whatever drips in."""
    async with await client.connect() as stream:
        if start:
            await stream.send(start.encode())
        answer = await rest_in(20, stream, client, drip=b"x" if start else b"")

    assert answer == b""


@pytest.mark.parametrize("path", ["upload", "transcript"])
async def test_bodies_that_stall_are_cut_off(client: Client, tmp_path: Path, path: str) -> None:
    """A body that stops coming is a 408, its connection is closed, and no part of it stays."""
    stream = await sent(client, f"POST /v2/{path} {HEAD}Content-Length: 1000\r\n\r\n" + "x" * 10)
    async with stream:
        answer = await rest_in(30, stream, client)

    assert answer.split()[1] == b"408"
    assert not [name for name in files(tmp_path) if "uploads" in name]


@pytest.mark.parametrize("path", ["upload", "transcript"])
async def test_bodies_that_drip_are_cut_off(client: Client, tmp_path: Path, path: str) -> None:
    """Some bytes now and then are no transfer: the body is given up as if nothing came."""
    stream = await sent(client, f"POST /v2/{path} {HEAD}Content-Length: 1000000\r\n\r\n")
    async with stream:
        answer = await rest_in(16, stream, client, drip=b"x" * 100)

    assert answer.split()[1] == b"408"
    assert not [name for name in files(tmp_path) if "uploads" in name]


async def test_a_slow_upload_that_moves_goes_through(client: Client) -> None:
    """An upload that takes minutes is no stalled one as long as a megabyte a minute comes."""
    piece, count = b"x" * (1 << 20), 4
    stream = await sent(client, f"POST /v2/upload {HEAD}Content-Length: {count << 20}\r\n\r\n")
    async with stream:
        for _ in range(count):
            await stream.send(piece)
            await client.list()
            await advance(25)
        answer = await stream.receive()

    assert answer.split()[1] == b"200"


async def test_an_answer_that_nobody_reads_is_dropped(
    client: Client, recognizer: ScriptedRecognizer, upload: Path
) -> None:
    """A client that asks and never reads is cut off, and its connection is free again."""
    recognizer.texts = ["x" * 8_000_000]
    transcript = await client.transcribed(upload)
    stream = await client.connect()
    async with stream:
        await stream.send(f"GET /v2/transcript/{transcript['id']} {HEAD}\r\n".encode())
        await stream.receive(1)
        for _ in range(100):
            await client.list()
            await advance(60)
        came = await rest(stream)

    assert len(came) < len(json.dumps(transcript))


async def test_connections_have_a_limit(client: Client) -> None:
    """One connection too many is hung up on; those there are are served, and others after them."""
    await client.list()
    streams = [await sent(client, "GET /v2/tra") for _ in range(300)]
    served = await client.list()
    refused = [await rest(stream) for stream in streams[255:]]
    for stream in streams:
        await stream.aclose()
    answer = b""
    with anyio.fail_after(20):
        while not answer:
            async with await sent(client, f"GET / {HEAD}Connection: close\r\n\r\n") as stream:
                answer = await rest(stream)

    assert served["transcripts"] == []
    assert refused == [b""] * 45
    assert answer.split()[1] == b"404"
