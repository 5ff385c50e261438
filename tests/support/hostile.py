"""
A service that answers with anything at all: in, requests; out, bytes that no HTTP library sends.

`hostile` stands before a real service on loopback. What it picks out is answered by a `Script`,
which has the bare connection; everything else is passed on as it is. A script is told what the
service itself has answered, unless the request is kept from it.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, repeat
from typing import Any
from urllib.parse import urlsplit
from zlib import DEFLATED, compressobj

import anyio
from anyio.abc import ByteStream, SocketAttribute

__all__ = [
    "Asked",
    "Hostile",
    "Script",
    "bomb",
    "bytewise",
    "endless",
    "head",
    "hostile",
    "patched",
    "raw",
    "whole",
]

_PIECE = b"x" * (64 << 10)


@dataclass
class Asked:
    """One request, whole."""

    kind: str
    """`upload submit list get delete export`, as the scripted service has them."""
    path: str
    head: bytes
    body: bytes
    answer: bytes = b""
    """The body that the service answered with; empty if it was not asked."""


Script = Callable[[ByteStream, Asked], Awaitable[None]]
"""Answers a request. The connection is closed when it returns, or fails."""


@dataclass
class Hostile:
    """Such a server, while it runs."""

    url: str
    picks: Callable[[Asked], Script | None]
    """Who is answered by a script."""
    reaches: bool
    """Whether what a script answers has its effect at the service before."""
    asked: list[Asked] = field(default_factory=list)
    """What scripts have answered."""


@asynccontextmanager
async def hostile(
    service_url: str, picks: Callable[[Asked], Script | None], *, reaches: bool = True
) -> AsyncIterator[Hostile]:
    """A server on loopback before the service at `service_url`."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(SocketAttribute.local_port)
    server = Hostile(f"http://127.0.0.1:{port}", picks, reaches)

    async def handle(stream: ByteStream) -> None:
        # Whoever is treated so may well hang up.
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with stream:
                asked = await _asked(stream)
                script = server.picks(asked)
                if script is None:
                    await stream.send(await _passed_on(service_url, asked))
                    return
                if server.reaches:
                    answer = await _passed_on(service_url, asked)
                    asked.answer = answer.partition(b"\r\n\r\n")[2]
                server.asked.append(asked)
                await script(stream, asked)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, handle)
        yield server
        group.cancel_scope.cancel()


async def _asked(stream: ByteStream) -> Asked:
    request = b""
    while b"\r\n\r\n" not in request:
        request += await stream.receive()
    top, _, body = request.partition(b"\r\n\r\n")
    lines = top.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    while len(body) < int(headers.get("content-length", 0)):
        body += await stream.receive()
    method, path, _ = lines[0].split()
    parts = urlsplit(path).path.strip("/").split("/")
    return Asked(_kind(method, parts), path, top, body)


def _kind(method: str, parts: list[str]) -> str:
    match method, *parts[1:]:
        case "POST", "upload":
            return "upload"
        case "POST", "transcript":
            return "submit"
        case "GET", "transcript":
            return "list"
        case "GET", "transcript", _:
            return "get"
        case "DELETE", "transcript", _:
            return "delete"
    return "export"


async def _passed_on(service_url: str, asked: Asked) -> bytes:
    """The service's whole answer, on a connection of its own."""
    address = urlsplit(service_url)
    stream = await anyio.connect_tcp(address.hostname or "", address.port or 0)
    async with stream:
        await stream.send(asked.head + b"\r\nConnection: close\r\n\r\n" + asked.body)
        return b"".join([piece async for piece in stream])


# --- scripts --------------------------------------------------------------------------------------


def head(*headers: str, status: str = "200 OK") -> bytes:
    """The head of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode("latin-1")


def raw(answer: bytes) -> Script:
    """Just these bytes."""

    async def script(stream: ByteStream, _: Asked) -> None:
        await stream.send(answer)

    return script


def whole(body: bytes | Callable[[bytes], bytes], *headers: str, status: str = "200 OK") -> Script:
    """A well-formed answer with this body, or one made of the service's own."""

    async def script(stream: ByteStream, asked: Asked) -> None:
        made = body(asked.answer) if callable(body) else body
        # The last on its connection, which is said: whoever reuses it would find nobody there.
        said = ("Connection: close", f"Content-Length: {len(made)}", *headers)
        await stream.send(head(*said, status=status) + made)

    return script


def endless(start: bytes, piece: bytes = _PIECE) -> Script:
    """A beginning, and then the same piece again and again until the client hangs up."""

    async def script(stream: ByteStream, _: Asked) -> None:
        for each in chain([start], repeat(piece)):
            await stream.send(each)

    return script


def bytewise(start: bytes, piece: bytes = b" ", every_s: float = 0.05) -> Script:
    """A beginning, and then a byte now and then, so that something always moves."""

    async def script(stream: ByteStream, _: Asked) -> None:
        await stream.send(start)
        while True:
            await anyio.sleep(every_s)  # the fault itself: slow, and never at rest
            await stream.send(piece)

    return script


def bomb(size: int, wbits: int = 31) -> bytes:
    """A compressed body that unpacks to `size` zero bytes; `wbits` 31 is gzip, 15 is deflate."""
    packer = compressobj(9, DEFLATED, wbits)
    packed = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join([*packed, packer.flush()])


def patched(changes: dict[str, Any]) -> Callable[[bytes], bytes]:
    """The service's own JSON with other values in it."""
    return lambda body: json.dumps(json.loads(body) | changes).encode()
