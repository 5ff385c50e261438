"""
The receiver of webhooks: in, notifications of the service over HTTP; out, notices: hints to look.

    POST /overnight?attempt=17  {"transcript_id": ID, "status": "completed"}   ->  200, a notice

It is reached from the internet, by way of a proxy that has the certificate, so it takes nothing on
trust: who does not know the secret is refused before the body is read, a body is small and comes
soon, connections are few, and what a notification says is a hint to look, never a fact. Nothing of
it is logged. It answers at once: the service waits 10 s, and does not send again after a 4xx.

Source: https://github.com/AssemblyAI/assemblyai-api-spec, guides/webhooks.mdx
"""

import asyncio
import hmac
import logging
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from aiohttp import web

from pipeline.errors import DiskFull, SettingsError
from pipeline.files import no_room, regular
from pipeline.notices import Notices
from pipeline.settings import Address
from pipeline.wire import SECRET_HEADER, WEBHOOK_PATH, parse_notification

__all__ = ["receive", "stored_secret"]

_MOST_CONNECTIONS = 256
_MOST_BODY_BYTES = 64 * 1024  # a notification has about 100
_HEAD_S = 10.0  # for a head, and between two requests
_BODY_S = 5.0  # well below the 10 s that the service waits for an answer
_LINGERING_S = 1.0  # for a sender to see why it is refused, before its body is cut off
_GRACE_S = 1.0

_SECRET = re.compile(r"[A-Za-z0-9_-]{32,1000}")  # 1,000 is the most that the service takes

# What aiohttp has to say of requests that are none quotes them, and anybody can send them.
_unheard = logging.Logger("webhooks", logging.CRITICAL + 1)


def stored_secret(state: Path) -> str:
    """
    The secret of a state folder, made on first use and the same ever after.

    So notifications of what an earlier run has asked for are still taken. It is random, and the
    file `webhook-secret`, which its owner alone can read, holds it. Blocks: call it in a thread.

    Raises:
        SettingsError: the file cannot be read or written.
    """
    path = state / "webhook-secret"
    try:
        descriptor = regular(path, os.O_RDWR | os.O_CREAT)
        with open(descriptor, "r+", encoding="ascii", errors="replace") as file:
            secret = file.read(2000).strip()
            # A crash leaves an empty file, and what fits no header would fail every submit.
            if not _SECRET.fullmatch(secret):
                secret = secrets.token_urlsafe(32)
                file.seek(0)
                file.truncate()
                file.write(secret + "\n")
    except OSError as error:
        if no_room(error):
            raise DiskFull(f"no room for {path}") from error
        raise SettingsError(f"cannot keep a secret in {path}: {error.strerror}") from error
    return secret


@asynccontextmanager
async def receive(address: Address, secret: str, notices: Notices) -> AsyncIterator[int]:
    """
    Take notifications at an address until this is left, each with the secret in its header.

    Gives the port, which the system chooses where the address has port 0.

    Raises:
        SettingsError: nobody can listen there.
    """
    runner = web.ServerRunner(
        web.Server(
            _Receiver(secret, notices).answer,
            access_log=None,
            logger=_unheard,
            auto_decompress=False,  # nobody packs a hundred bytes, but a bomb
            keepalive_timeout=_HEAD_S,
            lingering_time=_LINGERING_S,
        ),
        shutdown_timeout=_GRACE_S,
    )
    await runner.setup()
    server = runner.server
    assert server is not None

    def accept() -> asyncio.Protocol:
        return server() if len(server.connections) < _MOST_CONNECTIONS else _HangUp()

    try:
        try:
            listening = await asyncio.get_running_loop().create_server(
                accept, address.host, address.port
            )
        except (OSError, UnicodeError) as error:  # the latter of a name that is none
            reason = error.strerror if isinstance(error, OSError) else "no such host"
            raise SettingsError(
                f"cannot listen for webhooks on {address} ({reason}); name another HOST:PORT with"
                " `--webhook-listen`; nothing was sent"
            ) from error
        try:
            yield listening.sockets[0].getsockname()[1]
        finally:
            listening.close()
    finally:
        with anyio.CancelScope(shield=True):
            await runner.cleanup()


class _HangUp(asyncio.Protocol):
    """What one connection too many meets: a notification among them is sent again in 10 s."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class _Receiver:
    """What is answered, in the order in which it is cheap to find out."""

    def __init__(self, secret: str, notices: Notices) -> None:
        self._secret = secret.encode()
        self._notices = notices

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != WEBHOOK_PATH:
            return web.Response(status=404)
        if request.method != "POST":
            return web.Response(status=405, headers={"Allow": "POST"})
        given = request.headers.get(SECRET_HEADER, "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, self._secret):
            return web.Response(status=403)
        body = b""
        with anyio.move_on_after(_BODY_S) as scope:
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > _MOST_BODY_BYTES:
                    return _closing(413)
        if scope.cancelled_caught:
            return _closing(408)
        attempts = request.query.getall("attempt", [""])
        # Ours is the last: the user's own query may have one, too.
        if (which := parse_notification(attempts[-1], body)) is not None:
            self._notices.add(which)
        return web.Response()


def _closing(status: int) -> web.Response:
    response = web.Response(status=status)
    response.force_close()
    return response
