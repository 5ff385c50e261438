"""Webhooks move looks forward and decide nothing, whoever sends them, whatever they say."""

import gzip
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from anyio import to_thread
from anyio.abc import SocketStream

from pipeline.errors import ExitCode, SettingsError
from pipeline.notices import Notices
from pipeline.settings import Address
from pipeline.webhooks import receive, stored_secret
from tests.support.clock import MovableLoop, advance
from tests.support.runs import Archive, Outcome, opened
from tests.support.service import Fault
from tests.support.service_webhooks import Delivery, Post, delivering

pytestmark = pytest.mark.anyio

SECRET = "a-secret-of-these-tests-that-is-long-enough"
HEADER = {"X-Overnight-Secret": SECRET}
PACKED = {"Content-Encoding": "gzip"}
HERE = "127.0.0.1"
OPTIONS = {"redact_pii": True, "redact_pii_policies": ["person_name"], "redact_pii_audio": True}


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, object]]:
    """A loop whose time the tests can move."""
    return "asyncio", {"loop_factory": MovableLoop}


# --- the receiver ---------------------------------------------------------------------------------


@dataclass
class Line:
    """A receiver, what it has noted, and a client that calls it."""

    port: int
    notices: Notices
    http: aiohttp.ClientSession

    async def post(self, path: str = "/overnight", method: str = "POST", **sent: Any) -> int:
        """What a call is answered with; it has the secret unless it says otherwise."""
        url = f"http://{HERE}:{self.port}{path}"
        async with self.http.request(method, url, **({"headers": HEADER} | sent)) as answer:
            await answer.read()
            return answer.status

    async def connect(self, sent: str = "") -> SocketStream:
        """A bare connection, on which this was sent."""
        stream = await anyio.connect_tcp(HERE, self.port)
        await stream.send(sent.encode())
        return stream


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    notices = Notices()
    async with receive(Address(HERE, 0), SECRET, notices) as port, aiohttp.ClientSession() as http:
        yield Line(port, notices, http)


def body(transcript_id: object = "id-1", status: object = "completed") -> dict[str, Any]:
    return {"json": {"transcript_id": transcript_id, "status": status}}


async def rest(stream: SocketStream) -> bytes:
    """What comes until the connection is closed."""
    came = b""
    with anyio.fail_after(20):
        while True:
            try:
                came += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return came


async def test_the_attempt_in_the_query_is_noted(line: Line) -> None:
    """Who is told of an attempt notes its id, the last of several, whatever else is said."""
    statuses = [
        await line.post("/overnight?attempt=7", **body()),
        await line.post("/overnight?attempt=x&a=%20&attempt=8", **body()),
        await line.post("/overnight?attempt=9", json={"status": "redacted_audio_ready"}),
        await line.post("/overnight?attempt=10", data=b"\xff{"),
    ]

    assert statuses == [200] * 4
    assert line.notices.take() == {7, 8, 9, 10}


async def test_without_one_the_transcript_is_noted(line: Line) -> None:
    """Where a proxy has eaten the query, the id of the transcript will do."""
    statuses = [
        await line.post(**body("id-1")),
        await line.post("/overnight?attempt=", **body("id-2", "error")),
        await line.post(f"/overnight?attempt={'9' * 30}", **body("id-3")),
    ]

    assert statuses == [200] * 3
    assert line.notices.take() == {"id-1", "id-2", "id-3"}


@pytest.mark.parametrize(
    "sent",
    [
        {"data": b""},
        {"data": b"{"},
        {"data": b"\xff\xfe\x00"},
        {"data": b"[" * 60_000},
        {"data": gzip.compress(bytes(30_000_000), mtime=0), "headers": HEADER | PACKED},
        {"data": b"{}", "headers": HEADER | PACKED},
        {"json": ["transcript_id"]},
        {"json": None},
        {"json": {"status": "completed"}},
        body(None),
        body(7),
        body({"id": "x"}),
        body(""),
        body("../../etc"),
        body("x" * 65),
        body("id\n1"),
    ],
    ids=lambda sent: str(sent)[:40],
)
async def test_what_names_nothing_is_taken_and_forgotten(line: Line, sent: dict[str, Any]) -> None:
    """What is no notification is answered like one: nobody has to send it again."""
    assert await line.post(**sent) == 200
    assert line.notices.take() == set()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Overnight-Secret": ""},
        {"X-Overnight-Secret": SECRET[:-1]},
        {"X-Overnight-Secret": SECRET + "x"},
        {"X-Overnight-Secret": "schlüssel"},
        {"Authorization": SECRET},
    ],
    ids=str,
)
async def test_without_the_secret_nothing_is_noted(line: Line, headers: dict[str, str]) -> None:
    """A secret that is missing, wrong or elsewhere is a 403, and no notice."""
    assert await line.post("/overnight?attempt=7", headers=headers, **body()) == 403
    assert line.notices.take() == set()


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_nothing_but_a_post_is_taken(line: Line, method: str) -> None:
    """Every other method is a 405, with the secret or without."""
    assert await line.post("/overnight?attempt=7", method) == 405
    assert line.notices.take() == set()


@pytest.mark.parametrize("path", ["/", "/overnight/", "/overnight/7", "/v2/transcript", "//x"])
async def test_there_is_one_path(line: Line, path: str) -> None:
    """Every other path is a 404."""
    assert await line.post(path, **body()) == 404
    assert line.notices.take() == set()


async def test_a_huge_body_is_refused(line: Line) -> None:
    """Above 64 KiB it is a 413 and the end of the line, announced or not; the next one is heard."""

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1000):
            yield b"x" * 65_536

    big = json.dumps({"transcript_id": "id-1", "x": "x" * 65_536})
    statuses = [await line.post("/overnight?attempt=7", data=big)]
    with suppress(aiohttp.ClientError):  # it may be cut off before its answer is read
        statuses.append(await line.post("/overnight?attempt=7", data=endless()))
    assert set(statuses) == {413}

    assert await line.post("/overnight?attempt=8", data=big[:60_000]) == 200
    assert line.notices.take() == {8}


HEAD = f"POST /overnight?attempt=7 HTTP/1.1\r\nHost: x\r\nX-Overnight-Secret: {SECRET}\r\n"


@pytest.mark.parametrize(
    ("start", "answer"),
    [
        ("", b""),
        ("POST /over", b""),
        (HEAD + "X-Slow: ", b""),
        (HEAD + "Content-Length: 1000\r\n\r\n{", b"408"),
        (HEAD + "Transfer-Encoding: chunked\r\n\r\n", b"408"),
    ],
    ids=["nothing", "a line", "a head", "a body", "chunks"],
)
async def test_who_is_slow_is_cut_off(line: Line, start: str, answer: bytes) -> None:
    """A head or a body that does not come to its end is given up, while others are heard."""
    stream = await line.connect(start)
    async with stream:
        for attempt in range(20):
            assert await line.post(f"/overnight?attempt={100 + attempt}") == 200
            await advance(1.0)
        came = await rest(stream)

    assert came.split()[1:2] == ([answer] if answer else [])
    assert line.notices.take() == {100 + attempt for attempt in range(20)}


@pytest.mark.parametrize(
    "sent",
    [
        "\x16\x03\x01 TLS on a plain port",
        "GET / HTTP/1.1\r\n" + "X: y\r\n" * 10_000 + "\r\n",
        "POST /overnight HTTP/1.1\r\nContent-Length: minus one\r\n\r\n",
        HEAD + "X-Bad: \x01\r\n\r\n",
    ],
    ids=["TLS", "headers", "length", "control"],
)
async def test_what_is_no_request_is_logged_nowhere(
    line: Line, sent: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Garbage is a 400 and the end of its connection, without a word in any log."""
    async with await line.connect(sent) as stream:
        came = await rest(stream)

    assert came.split()[1] == b"400"
    assert await line.post("/overnight?attempt=7") == 200
    assert (caplog.records, capfd.readouterr()) == ([], ("", ""))


async def test_connections_are_few(line: Line) -> None:
    """One connection too many is closed at once; there is room again when others are done."""
    streams = [await line.connect() for _ in range(256)]
    async with await line.connect(HEAD + "Content-Length: 0\r\n\r\n") as one_more:
        refused = await rest(one_more)
    for stream in streams:
        await stream.aclose()
    with anyio.fail_after(20):
        while True:
            try:
                taken = await line.post("/overnight?attempt=7")
                break
            except aiohttp.ClientError:  # the end of the others is not noticed yet
                await anyio.lowlevel.checkpoint()

    assert (refused, taken) == (b"", 200)


async def test_a_flood_is_answered(line: Line) -> None:
    """Two thousand calls at once are all answered; of those that repeat one another, one counts."""
    statuses: list[int] = []

    async def call(number: int) -> None:
        statuses.append(await line.post(f"/overnight?attempt={number % 100}", **body()))

    async with anyio.create_task_group() as group:
        for number in range(2000):
            group.start_soon(call, number)

    assert statuses == [200] * 2000
    assert line.notices.take() == set(range(100))


async def test_an_address_that_is_taken_is_said() -> None:
    """Nobody listens twice at one address: it is named, and what to do."""
    async with receive(Address(HERE, 0), SECRET, Notices()) as port:
        with pytest.raises(SettingsError, match=f"{HERE}:{port} .*--webhook-listen"):
            async with receive(Address(HERE, port), SECRET, Notices()):
                pass
    async with receive(Address(HERE, port), SECRET, Notices()) as again:
        assert again == port


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70])
async def test_a_host_that_is_none_is_said(host: str) -> None:
    """A name that leads nowhere is an error of the settings."""
    with pytest.raises(SettingsError, match="--webhook-listen"):
        async with receive(Address(host, 8787), SECRET, Notices()):
            pass


# --- the secret -----------------------------------------------------------------------------------


def test_the_secret_is_kept(tmp_path: Path) -> None:
    """Each state folder has its own, the same in each run, which only its owner can read."""
    other = tmp_path / "other"
    other.mkdir()

    secret = stored_secret(tmp_path)

    assert stored_secret(tmp_path) == secret != stored_secret(other)
    assert len(secret) >= 40
    assert (tmp_path / "webhook-secret").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("left", [b"", b"\n", b"short", b"2\nlines " * 20, b"\xff" * 50])
def test_a_secret_that_is_none_is_made_anew(tmp_path: Path, left: bytes) -> None:
    """What a crash leaves, or nobody can send in a header, is replaced, for good."""
    (tmp_path / "webhook-secret").write_bytes(left)

    assert stored_secret(tmp_path) == (tmp_path / "webhook-secret").read_text().strip()
    assert stored_secret(tmp_path) == stored_secret(tmp_path)


def test_a_secret_without_a_place_is_said(tmp_path: Path) -> None:
    """Where it cannot be kept the settings are wrong, and the message has no secret."""
    (tmp_path / "webhook-secret").mkdir()

    with pytest.raises(SettingsError, match="webhook-secret"):
        stored_secret(tmp_path)


# --- in a run -------------------------------------------------------------------------------------


@dataclass
class Told:
    """An archive whose account sends notifications, and where its runs take them."""

    archive: Archive
    post: Post
    port: int

    @property
    def url(self) -> str:
        """As the settings have it, with a query of the user's own."""
        return f"http://{HERE}:{self.port}?tenant=a%2Fb&attempt=x"

    async def run(self, **given: Any) -> Outcome:
        """A run that sweeps once in ten hours, unless it says otherwise."""
        hooks = {"webhook_listen": f"{HERE}:{self.port}", "webhook_url": self.url}
        return await self.archive.run(**({"poll_interval": "1h"} | hooks | given))

    def line(self, *more: str | Path) -> list[str | Path]:
        """The same as a command line."""
        archive = self.archive
        return [
            *("run", archive.recordings, "--output", archive.output),
            *("--provider", archive.service.url, "--poll-interval", "1h"),
            *("--webhook-listen", f"{HERE}:{self.port}", "--webhook-url", self.url, *more),
        ]

    def add(self, count: int) -> None:
        """So many recordings, each with a content of its own."""
        for number in range(count):
            self.archive.add(f"{number}.wav", b"%d" % number)

    @property
    def secret(self) -> str:
        """What the run has given to the service."""
        sent = next(call.sent for call in self.archive.service.log if call.kind == "submit")
        return str(sent["webhook_auth_header_value"])


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    with closing(socket.create_server((HERE, 0))) as free:
        port = free.getsockname()[1]
    async with opened(tmp_path, transcript_seconds=0.3) as archive:
        archive.service.webhook_every_s = 0.1
        async with delivering(archive.service) as post:
            yield Told(archive, post, port)


async def test_a_notice_comes_long_before_the_sweep(told: Told) -> None:
    """With a sweep in ten hours a run ends in a moment, since each end is told; one GET each."""
    told.add(5)

    outcome = await told.run()

    service = told.archive.service
    assert (outcome.summary.written, outcome.summary.exit_code) == (5, ExitCode.DONE)
    assert set(service.billable.values()) == {1}
    assert service.requests["get"] == 5
    assert service.requests["list"] <= 3
    assert [each.statuses for each in told.post.deliveries] == [[200]] * 5
    queries = [parse_qs(urlsplit(each.url).query) for each in told.post.deliveries]
    assert all(each["tenant"] == ["a/b"] and each["attempt"][0] == "x" for each in queries)
    assert {each["attempt"][1] for each in queries} == {
        str(row) for (row,) in await told.archive.rows("SELECT attempt_id FROM attempts")
    }


async def test_notices_that_all_get_lost(told: Told) -> None:
    """Sweeps go on, ten times as far apart, and find what nobody told."""
    told.add(3)
    told.post.alter = lambda delivery: []
    service, ended = told.archive.service, anyio.Event()
    early: list[bool] = []

    async with anyio.create_task_group() as group:

        async def move_on() -> None:
            await service.until(lambda: len(service.billable) == 3)
            await advance(40.0)
            with anyio.move_on_after(1.0):  # time enough for a sweep
                await ended.wait()
            early.append(ended.is_set())
            await advance(10.0)

        group.start_soon(move_on)
        outcome = await told.run(poll_interval="5s")
        ended.set()

    assert outcome.summary.written == 3
    assert early == [False]
    assert set(service.billable.values()) == {1}


async def test_notices_that_come_first(told: Told) -> None:
    """What is told before the submit was answered is looked at as soon as its id is known."""
    told.add(1)
    service = told.archive.service
    service.transcript_seconds = 0.0
    service.faults.add(Fault(on="submit", action="hold"))

    async with anyio.create_task_group() as group:

        async def let_go() -> None:
            await service.until(lambda: told.post.is_done)
            service.release("submit")

        group.start_soon(let_go)
        outcome = await told.run()

    assert outcome.summary.written == 1
    assert service.requests["submit"] == 1


async def test_nothing_that_is_told_decides(told: Told) -> None:
    """Doubles, lies, strangers and noise change nothing: each content is paid once and is right."""
    told.add(4)
    service = told.archive.service

    def altered(told_of: Delivery) -> list[Delivery]:
        bare = told_of.url.partition("?")[0]
        untrue = {"transcript_id": told_of.transcript_id, "status": "error"}
        return [
            told_of.again(headers={}),
            told_of.again(url=f"{bare}?attempt=999999", body={"transcript_id": "id-unknown"}),
            told_of.again(url=bare, body={"transcript_id": "id-unknown", "status": "completed"}),
            told_of.again(body={"x": "x" * 100_000}),
            told_of.again(url=f"{bare}/elsewhere"),
            told_of.again(body=untrue),
            told_of,
            told_of.again(after_s=0.1),
        ]

    told.post.alter = altered
    outcome = await told.run()

    assert (outcome.summary.written, outcome.summary.exit_code) == (4, ExitCode.DONE)
    assert list(service.billable.values()) == [1] * 4
    assert service.requests["submit"] == 4
    assert service.requests["get"] <= 4 * 3


async def test_a_lie_is_only_looked_at(told: Told) -> None:
    """Told two thousand times that what is processed has finished: looked at now and then."""
    told.add(1)
    service = told.archive.service
    service.transcript_seconds = 3600.0

    async with anyio.create_task_group() as group, aiohttp.ClientSession() as http:

        async def lie() -> None:
            await service.until(lambda: bool(service.transcripts))
            (transcript,) = service.transcripts.values()
            url = transcript.options["webhook_url"]
            said = {"transcript_id": transcript.id, "status": "completed"}
            header = {"X-Overnight-Secret": told.secret}
            for _ in range(2000):
                async with http.post(url, json=said, headers=header) as answer:
                    assert answer.status == 200
            await service.until(lambda: service.requests["get"] > 0)
            assert service.billable == {}
            service.complete(transcript.id)

        group.start_soon(lie)
        outcome = await told.run()

    assert outcome.summary.written == 1
    assert list(service.billable.values()) == [1]
    assert service.requests["get"] <= 20


async def test_redacted_audio_is_told_without_an_id(told: Told) -> None:
    """The notification of redacted audio leads to its transcript, and not to where it points."""
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(body=b"sound")

    app = web.Application()
    app.router.add_get("/{name}", give)
    told.add(1)
    async with TestServer(app) as storage:
        service, ready = told.archive.service, {"status": "redacted_audio_ready"}
        true = ready | {"redacted_audio_url": str(storage.make_url("/audio"))}
        false = ready | {"redacted_audio_url": str(storage.make_url("/false"))}
        service.faults.add(Fault(on="export", action="answer", status=202, body="{}"))
        service.faults.add(Fault(on="export", action="answer", status=200, body=json.dumps(true)))
        kept: list[Delivery] = []

        def altered(sound: Delivery) -> list[Delivery]:
            if "transcript_id" in sound.body:
                return [sound]
            kept.append(sound)
            return []

        told.post.alter = altered
        async with anyio.create_task_group() as group, aiohttp.ClientSession() as http:

            async def tell() -> None:
                await service.until(lambda: service.requests["export"] == 1 and bool(kept))
                async with http.post(kept[0].url, json=false, headers=kept[0].headers) as answer:
                    assert answer.status == 200

            group.start_soon(tell)
            outcome = await told.run(transcript=OPTIONS)

    assert outcome.summary.written == 1
    assert told.archive.results()["0.wav.redacted.mp3"] == b"sound"
    assert asked == ["/audio"]
    assert sorted(kept[0].body) == ["redacted_audio_url", "status"]


async def test_they_are_no_part_of_what_is_asked_for(told: Told) -> None:
    """Switched on and off again they pay for nothing, and the request key is the same."""
    told.add(1)
    keys: list[str] = []
    for hooks in ({}, {"webhook_listen": None, "webhook_url": None, "poll_interval": "20ms"}) * 2:
        outcome = await told.run(force=bool(keys), **hooks)
        assert outcome.summary.written + outcome.summary.already_written == 1
        again = await told.run(**hooks)
        assert again.summary.already_written == 1
        rows = await told.archive.rows("SELECT DISTINCT request_key FROM transcripts")
        keys += [row[0] for row in rows]

    assert len(keys) == 4
    assert len(set(keys)) == 1
    submits = [call.sent for call in told.archive.service.log if call.kind == "submit"]
    assert ["webhook_url" in sent for sent in submits] == [True, False, True, False]


async def test_what_an_earlier_run_asked_for_is_still_told(told: Told) -> None:
    """The next run has the same secret, so it hears of what the one before had submitted."""
    told.add(1)
    service = told.archive.service
    service.transcript_seconds = 3600.0
    async with told.archive.started(*told.line()) as process:
        await service.until(lambda: bool(service.transcripts))
        with anyio.fail_after(30):
            while not await told.archive.rows("SELECT 1 FROM attempts WHERE state = 'accepted'"):
                await anyio.lowlevel.checkpoint()
        process.kill()
    (transcript,) = service.transcripts.values()

    async with anyio.create_task_group() as group:

        async def finish() -> None:  # once the next run has looked, and rests
            await service.until(lambda: service.requests["get"] >= 1)
            service.complete(transcript.id)

        group.start_soon(finish)
        outcome = await told.run()

    assert outcome.summary.written == 1
    assert service.requests["submit"] == 1
    assert [each.statuses for each in told.post.deliveries] == [[200]]


async def test_an_address_in_use_ends_the_run_first(told: Told) -> None:
    """Exit code 2 before anything is sent; a dry run does not listen."""
    told.add(1)
    with closing(socket.create_server((HERE, told.port))):
        ended = await told.archive.command(*told.line())
        dry = await told.archive.command(*told.line("--dry-run"))

    assert (ended.exit_code, dry.exit_code) == (ExitCode.USAGE, ExitCode.DONE)
    assert "--webhook-listen" in ended.stderr
    assert told.archive.service.log == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("status", [400, 500])
async def test_the_secret_is_written_nowhere(told: Told, status: int) -> None:
    """It is in its file and in no log, event, ledger, result, stream or command line."""
    told.add(4)
    archive, service = told.archive, told.archive.service
    archive.state.mkdir(parents=True)
    secret = await to_thread.run_sync(stored_secret, archive.state)
    said = f'{{"error": "webhook_auth_header_value {secret} is odd"}}'
    service.faults.add(Fault(on="submit", action="answer", status=status, body=said))
    service.faults.add(Fault(on="submit", action="hold_before"))
    log = archive.root / "log.ndjson"
    line = told.line("--json", "-vv", "--log-file", log, "--settle", "300ms")

    async with archive.started(*line) as process:
        await service.held("submit")
        argv = await to_thread.run_sync(Path(f"/proc/{process.pid}/cmdline").read_bytes)
        service.release()
        ended = await archive.ended(process)

    needle = secret.encode()
    files = [log, *(path for path in archive.output.rglob("*") if path.is_file())]
    assert told.secret == secret
    assert b"is odd" in ended.stdout
    assert [path.name for path in files if needle in path.read_bytes()] == ["webhook-secret"]
    assert [needle in each for each in (argv, ended.stdout, ended.stderr.encode())] == [False] * 3
