"""Whether those whom a run tells could be told: found without a byte to any of them."""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio import to_thread
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.tls import TLSListener

from jobs.reach import Reach, reach_commands, reach_urls
from pipeline.settings import Hooks

pytestmark = pytest.mark.anyio

SECRET = "s3cr3t-0f-th3-h00k"


@dataclass
class Server:
    """Somebody who listens, and notes what comes."""

    port: int
    came: bytearray = field(default_factory=bytearray)
    connections: int = 0


@asynccontextmanager
async def listening(
    name: str | None = None, *, authority: trustme.CA | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Server]:
    """A server that says nothing; with a name it has a certificate of that name."""
    listener: Any = await anyio.create_tcp_listener(local_host=host)
    server = Server(listener.extra(SocketAttribute.local_port))
    if name is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (authority or trustme.CA()).issue_cert(name).configure_cert(context)
        listener = TLSListener(listener, context, standard_compatible=False)

    async def note(stream: SocketStream) -> None:
        server.connections += 1
        with suppress(anyio.BrokenResourceError):
            async with stream:
                async for chunk in stream:
                    server.came += chunk

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, note)
        yield server
        group.cancel_scope.cancel()


@asynccontextmanager
async def proxying(answer: bytes, to: int | None = None) -> AsyncIterator[Server]:
    """A proxy with one answer, which then leads to a port of this machine."""
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
    proxy = Server(listener.extra(SocketAttribute.local_port))

    async def pump(source: SocketStream, target: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            async for chunk in source:
                await target.send(chunk)
            await target.send_eof()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            while b"\r\n\r\n" not in proxy.came:
                proxy.came += await stream.receive()
            await stream.send(answer)
            if to is not None:
                there = await anyio.connect_tcp("127.0.0.1", to)
                async with there, anyio.create_task_group() as group:
                    group.start_soon(pump, stream, there)
                    await pump(there, stream)

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        yield proxy
        group.cancel_scope.cancel()


def trusted(monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, folder: Path) -> None:
    """Has this process trust an authority, as `SSL_CERT_FILE` does."""
    file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


async def reached(**hooks: Any) -> list[Reach]:
    """What is found of these hooks, in which no secret shows."""
    found = await reach_urls(Hooks(**({"timeout": 20} | hooks)))
    assert SECRET not in str(found)
    return found


async def test_a_server_with_tls_is_reached_and_hears_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Name, connection and TLS are had, once for all URLs of a server; it is asked for nothing."""
    authority = trustme.CA()
    trusted(monkeypatch, authority, tmp_path)
    async with listening("localhost", authority=authority) as server:
        url = f"https://localhost:{server.port}/{SECRET}"
        found = await reached(heartbeat=url, on_failure=[url, f"{url}/2"], on_finish=url)

    assert [each.is_amiss for each in found] == [False]
    assert "nothing was asked" in found[0].what
    assert (server.connections, bytes(server.came)) == (1, b"")


async def test_a_server_that_has_ipv6_alone_is_reached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An address of the newer protocol is as good as any."""
    authority = trustme.CA()
    trusted(monkeypatch, authority, tmp_path)
    try:
        async with listening("::1", authority=authority, host="::1") as server:
            found = await reached(heartbeat=f"https://[::1]:{server.port}/{SECRET}")
    except OSError:
        pytest.skip("this machine has no IPv6")

    assert [each.is_amiss for each in found] == [False]


async def test_a_server_without_tls_is_reached_and_hears_nothing() -> None:
    """Of a URL without TLS a connection is all that can be had."""
    async with listening() as server:
        found = await reached(heartbeat=f"http://127.0.0.1:{server.port}/{SECRET}")

    assert [each.is_amiss for each in found] == [False]
    assert bytes(server.came) == b""


@pytest.mark.parametrize(
    ("name", "scheme", "host", "said"),
    [
        ("localhost", "https", "localhost", "a certificate that is not trusted: "),
        ("other.example", "https", "localhost", "a certificate that is not trusted: "),
        (None, "https", "127.0.0.1", "gave no answer in 0.5 s"),
    ],
)
async def test_a_server_that_would_not_be_told(
    name: str | None, scheme: str, host: str, said: str
) -> None:
    """A certificate of nobody known, and a server that never answers, are named."""
    async with listening(name) as server:
        url = f"{scheme}://{host}:{server.port}/{SECRET}"
        (found,) = await reached(heartbeat=url, timeout=0.5 if name is None else 20)

    assert found.is_amiss
    assert said in found.what
    assert b"HTTP" not in server.came


async def test_a_server_that_is_not_there(free_tcp_port: int) -> None:
    """One that takes no connection, and a name that nobody knows, are told apart."""
    refused, unknown = await reached(
        on_start=f"https://127.0.0.1:{free_tcp_port}/{SECRET}",
        on_failure=f"https://u:{SECRET}@nobody.invalid/{SECRET}",
    )

    assert "takes no connection: Connection refused" in refused.what
    assert "a name that is known nowhere" in unknown.what
    assert unknown.name == "hook on_failure at nobody.invalid"


async def test_a_server_that_speaks_something_else() -> None:
    """A port that answers without TLS is told so."""
    listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")

    async def greet(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"SSH-2.0-none\r\n")
            async for _ in stream:
                pass

    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, greet)
        port = listener.extra(SocketAttribute.local_port)
        (found,) = await reached(heartbeat=f"https://127.0.0.1:{port}/{SECRET}")
        group.cancel_scope.cancel()

    assert "speaks no TLS" in found.what


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Nothing is excepted from proxies."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


async def test_a_proxy_leads_to_the_server(proxied: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behind a proxy TLS is made with the server itself, whose name only the proxy knows."""
    authority = trustme.CA()
    trusted(proxied, authority, tmp_path)
    leads = b"HTTP/1.1 200 OK\r\n\r\n"
    async with (
        listening("hooks.example", authority=authority) as server,
        proxying(leads, server.port) as proxy,
    ):
        proxied.setenv("https_proxy", f"http://me:{SECRET}@127.0.0.1:{proxy.port}")
        (found,) = await reached(heartbeat=f"https://hooks.example/{SECRET}")

    assert not found.is_amiss, found
    head = bytes(proxy.came).split(b"\r\n")
    assert head[0] == b"CONNECT hooks.example:443 HTTP/1.1"
    assert head[2].startswith(b"Proxy-Authorization: Basic ")
    assert SECRET.encode() not in proxy.came
    assert bytes(server.came) == b""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy answered 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "the proxy answered 502"),
        (b"<html>\r\n\r\n", "the proxy answered no HTTP"),
        (b"HTTP/1.1 200", "the proxy hung up"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "it speaks no TLS"),
    ],
)
async def test_a_proxy_that_leads_nowhere(
    proxied: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    """What the proxy answers instead is told, and told from what ails the server."""
    async with proxying(answer) as proxy:
        proxied.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        (found,) = await reached(heartbeat=f"https://hooks.example/{SECRET}")

    assert found.is_amiss
    assert said in found.what


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:{port}", "the proxy takes no connection"),
        ("http://nobody.invalid:1", "the proxy has a name that is known nowhere"),
        ("socks5://127.0.0.1:{port}", "SOCKS5, which is not supported"),
    ],
)
async def test_a_proxy_that_is_not_there(
    proxied: pytest.MonkeyPatch, free_tcp_port: int, proxy: str, said: str
) -> None:
    """Trouble with the proxy is told from that of the server."""
    proxied.setenv("https_proxy", proxy.format(port=free_tcp_port))
    (found,) = await reached(heartbeat=f"https://hooks.example/{SECRET}")

    assert said in found.what


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("true", ""),
        ("/bin/sh", ""),
        ("true | tee", "only a shell understands"),
        ("true && true", "only a shell understands"),
        ("true > file", "only a shell understands"),
        ("echo $OVERNIGHT_EXIT_CODE", "only a shell understands"),
        ("sh -c 'true | cat >/dev/null; echo $OVERNIGHT_EXIT_CODE'", ""),
        ("sh -c 'cd / && true'", ""),
        ("sh -c 'A=1 true'", ""),
        ("sh -c '$HOME/none'", ""),  # what the shell makes of it is not known
        ("sh -c 'nonesuch-{secret} x'", "its shell knows no such program"),
        ("sh -c 'if true'", "its shell cannot read the line"),
        ("nonesuch-{secret} x", "no such program in `PATH`"),
        ("/none/{secret}", "there is no such program; see its path"),
        ("./good", ""),
        ("./gone", "there is no such program seen from {here}"),
        ("./plain", "`chmod +x` helps"),
        ("./", "`chmod +x` helps"),
        ("./lost", "its first line asks for /none/python, which is not there"),
        ("./env", ""),
        ("./env-lost", "its first line asks for nonesuch, which is not there"),
        ("./env-split", "its first line asks for nonesuch, which is not there"),
        ("./binary", ""),
    ],
)
def test_a_command_that_could_not_be_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    """There has to be such a program, what its first line asks for, and what its shell is given."""
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "good": b"#!/bin/sh\ntouch ran\n",
        "plain": b"#!/bin/sh\n",
        "lost": b"#!/none/python\n",
        "env": b"#!/usr/bin/env sh\n",
        "env-lost": b"#!/usr/bin/env nonesuch\n",
        "env-split": b"#!/usr/bin/env -S A=1 nonesuch -u\n",
        "binary": b"\x7fELF\xff\xfe",
    }.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o644 if name == "plain" else 0o755)
    hooks = Hooks(on_failure=command.replace("{secret}", SECRET))

    (found,) = reach_commands(hooks, {"PATH": os.environ["PATH"], "HOME": "/"})

    assert found.is_amiss is bool(said), found
    assert said.format(here=tmp_path) in found.what
    assert SECRET not in found.what
    assert not (tmp_path / "ran").exists()


async def test_all_of_them_are_named_each_once() -> None:
    """Commands of every key are looked at, one that is named twice a single time."""
    hooks = Hooks(on_start="true", on_success=["true", "false"], on_failure="none-1", timeout=9)

    found = await to_thread.run_sync(reach_commands, hooks, {"PATH": os.environ["PATH"]})

    assert [each.is_amiss for each in found] == [False, False, True]
    assert await reach_urls(hooks) == []
