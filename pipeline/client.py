"""
The service over HTTP: one method a call, one request a method, never two.

In: bytes and ids. Out: what `pipeline.wire` reads in the answers, or an error by what to do about
it; what aiohttp raises is translated here and nowhere else. The key goes to the base URL only:
no redirect is followed, and no address from a body is ever sent the key.
"""

import math
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
from aiohttp.abc import AbstractResolver, AbstractStreamWriter

from pipeline import wire
from pipeline.destinations import Outside
from pipeline.errors import (
    AccessDoubted,
    AnswerUnusable,
    ConnectionLost,
    KeyRefused,
    PipelineError,
    RateLimited,
    RequestRejected,
    ServiceUnavailable,
    SettingsError,
)
from pipeline.limiter import Limiter
from pipeline.uplink import Uplink
from pipeline.wire import Accepted, Ambiguous, NotAccepted, Row, Submission

__all__ = ["Client", "Handover", "Write", "once", "system_proxy"]

Write = Callable[[bytes], Awaitable[object]]
"""Takes the next bytes of a body; what it raises comes through as it is."""

_DOUBT_S = 5.0, 10.0  # between a refusal of the key and the looks whether it is still taken
_IDLE_SUBMIT_S = 2.0  # a server closes idle connections: a POST on a stale one is in doubt
_MAX_AUDIO_BYTES = 4 << 30  # ten hours of 16 bit sound at 48 kHz
_MAX_SMALL_ANSWER_BYTES = 4 << 20  # pages, errors, submits: all but transcripts
_TOO_LONG = f"the answer is longer than {_MAX_SMALL_ANSWER_BYTES} bytes"
_LEAST_BYTES = 64 << 10  # of a large answer, in `stall_s`: a byte now and then is no transfer


@dataclass
class Handover:
    """Whether a request was given to a connection."""

    given_at: float = -math.inf
    """When it had its permit, by the limiter's clock."""
    begun: bool = False


class Client:
    """
    The calls that the program needs, for one account at one address.

    Every call but `submit` waits for its permit of the limiter by itself. All of them raise
    `KeyRefused`, `BalanceNegative`, `RateLimited` (after pausing the limiter), `RequestRejected`,
    `ServiceUnavailable` and `ConnectionLost` as `pipeline.wire` and this module tell them apart,
    and `AnswerUnusable` for what is too long to be an answer.

    No answer takes for ever, however it comes: its head has `connect_s` and `answer_s`, a small
    body `answer_s`, and of a large one 64 KiB have to come in each `stall_s`.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        limiter: Limiter,
        *,
        connect_s: float = 30.0,
        stall_s: float = 60.0,
        answer_s: float = 120.0,
        max_answer_bytes: int = 256 << 20,
        uplink: Uplink | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"Authorization": key, "User-Agent": "overnight"}
        self._secrets = [key]
        self._upload_url = f"{self._base_url}/v2/upload"
        self._upload_headers = {**self._headers, "Content-Type": "application/octet-stream"}
        self._upload_timeout = aiohttp.ClientTimeout(total=None, connect=connect_s)
        self.limiter = limiter
        self.uplink = uplink or Uplink()
        """The line that all uploads share."""
        self.sent: Counter[str] = Counter()
        """Requests by kind."""
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._answer_s = answer_s
        self._max_answer_bytes = max_answer_bytes
        self.answered_at: dict[str, float] = {}
        """When a request of each kind was last answered, by the clock of the event loop."""
        self._was_taken = False  # the key, in this run
        self._doubted = set[str]()  # paths that were refused, and not taken since
        self._checking = anyio.Lock()
        self._checked_at = -math.inf
        self._holds = True

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._http = await stack.enter_async_context(self._session(keepalive_s=15.0))
            # Connections of their own: the only request whose loss costs money.
            trace = aiohttp.TraceConfig()
            trace.on_request_headers_sent.append(_note_handover)
            self._submits = await stack.enter_async_context(
                self._session(trace, keepalive_s=_IDLE_SUBMIT_S)
            )
            self._outside = Outside(self._base_url)
            stack.push_async_callback(self._outside.close)
            # Where a proxy resolves names, there is nothing to be seen of what they lead to.
            resolver = None if system_proxy(self._base_url) else self._outside
            self._downloads = await stack.enter_async_context(
                self._session(keepalive_s=15.0, resolver=resolver)
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def _session(
        self,
        *traces: aiohttp.TraceConfig,
        keepalive_s: float,
        resolver: AbstractResolver | None = None,
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, keepalive_timeout=keepalive_s, resolver=resolver
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=None, connect=self._connect_s, sock_read=self._stall_s
            ),
            trace_configs=[*traces],
            middlewares=[once],
            proxy=system_proxy(self._base_url),
        )

    async def upload(self, content: bytes | AsyncIterator[bytes], size: int) -> str:
        """
        The `upload_url` of `size` bytes.

        `content` is what fits into a chunk, or chunks of which none is kept in memory. These must
        be exactly `size` bytes, and end by that count: an iterator that still looks for more costs
        the connection. An error of the pipeline that it raises comes through as it is.

        Raises:
            ConnectionLost: nothing moved for `stall_s`, besides what the class says.
            ServiceUnavailable: the answer came before all was sent, besides what the class says.
            AnswerUnusable: the `upload_url` holds the key.
        """
        given_at = await self._permit("upload")
        async with self._heeded("upload", given_at):
            return await self._uploaded(content, size)

    async def _uploaded(self, content: bytes | AsyncIterator[bytes], size: int) -> str:
        with self.uplink.attempt():
            with anyio.CancelScope() as scope:
                # aiohttp has no limit on the sending of a body: see the docs of ClientTimeout.
                scope.deadline = anyio.current_time() + self._connect_s + self._stall_s
                body = _Body(content, size, self.uplink, scope, self._stall_s, self._answer_s)
                with self._translated("upload"):
                    async with self._http.post(
                        self._upload_url,
                        data=body,
                        headers={**self._upload_headers, "Content-Length": str(size)},
                        allow_redirects=False,
                        timeout=self._upload_timeout,
                    ) as response:
                        upload_url = wire.parse_upload(await self._whole("upload", response))
                        if body.left:
                            raise ServiceUnavailable("upload: answered before all was sent")
                        if "***" in upload_url:
                            raise AnswerUnusable("upload: the upload_url holds the API key")
                        return upload_url
            raise ConnectionLost(f"upload: nothing moved for {self._stall_s:g} s")

    async def submit(self, upload_url: str, body: bytes, handover: Handover) -> Submission:
        """
        What became of asking, once, for a transcript of `upload_url`.

        The caller has the limiter's permit, and has written down that it asks. Never raises:
        what is not certain is `Ambiguous`. When it is cancelled, `handover` tells whether
        anything can have left.
        """
        self.sent["submit"] += 1
        try:
            with anyio.fail_after(self._answer_s):
                async with self._submits.post(
                    f"{self._base_url}/v2/transcript",
                    data=body,
                    headers={**self._headers, "Content-Type": "application/json"},
                    allow_redirects=False,
                    # `fail_after` is the only limit: giving up earlier makes doubt of nothing.
                    timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_s),
                    trace_request_ctx=handover,
                ) as response:
                    payload = await _beginning(response)
                    if len(payload) > _MAX_SMALL_ANSWER_BYTES:
                        raise AnswerUnusable(_TOO_LONG)
                    answer = wire.submission(
                        response.status, response.headers, self._hidden(payload), upload_url
                    )
        except (aiohttp.ClientError, TimeoutError, OSError, AnswerUnusable) as error:
            reason = f"submit: {_describe(error)}"
            if handover.begun:
                return Ambiguous(reason)
            return NotAccepted(ConnectionLost(reason, connected=False))
        refusal = answer.error if isinstance(answer, NotAccepted) else None
        if isinstance(answer, Accepted) or isinstance(refusal, RateLimited | RequestRejected):
            self._answered("submit")
        if isinstance(refusal, RateLimited):
            self.limiter.pause(refusal.retry_after_s, "submit", handover.given_at)
        else:
            self.limiter.took("submit", handover.given_at)
        return answer

    async def fetch(self, transcript_id: str, write: Write) -> None:
        """
        Pass the bytes of a transcript on, as they came, decompressed.

        Raises:
            TranscriptUnknown: there is none of that id.
            AnswerUnusable: it is longer than `max_answer_bytes`, or the id is none.
        """
        path = f"/v2/transcript/{wire.check_id(transcript_id)}"
        async with self._asked("get", "GET", path) as response:
            await self._pour("get", response, write, self._max_answer_bytes)

    async def answer(self, transcript_id: str) -> bytes:
        """
        The bytes of a transcript in memory, for who looks at it and does not save it.

        Raises:
            TranscriptUnknown: as `fetch` does.
            AnswerUnusable: as `fetch` does.
        """
        body = bytearray()

        async def take(chunk: bytes) -> None:
            body.extend(chunk)

        await self.fetch(transcript_id, take)
        return bytes(body)

    async def redacted_audio(self, transcript_id: str) -> str | None:
        """
        The address of the audio without what was redacted; None while it is being made.

        Raises:
            RequestRejected: there is none, or not any more.
        """
        path = f"/v2/transcript/{wire.check_id(transcript_id)}/redacted-audio"
        async with self._asked("redacted_audio", "GET", path) as response:
            body = await self._whole("redacted_audio", response)
            return None if response.status == 202 else wire.parse_redacted_audio(body)

    async def download(self, url: str, write: Write) -> None:
        """
        Pass on the bytes of a file at an address that the service gave, without the key.

        An address of this machine or its network is refused, unless the service is there itself.

        Raises:
            RequestRejected: it is not there, or not any more.
            AnswerUnusable: it is no address, not a trusted one, or the file has no end.
        """
        try:
            with self._translated("download", self._connect_s + self._answer_s):
                await self._outside.require(url)
                response = await self._downloads.get(url, allow_redirects=False)
        except SettingsError as error:
            # Another host: what is wrong with it concerns this recording alone.
            raise AnswerUnusable(f"download: {_describe(error.__cause__ or error)}") from error
        async with response:
            await self._pour("download", response, write, _MAX_AUDIO_BYTES)

    async def list(
        self,
        *,
        limit: int = wire.PAGE_ROWS,
        before_id: str | None = None,
        may_doubt: bool = True,
    ) -> list[Row]:
        """
        The newest rows of the list, or the newest before a transcript; newest first.

        Without `may_doubt` a refusal of the key counts as it is, as a second one of a path does.
        """
        query = {"limit": str(limit)}
        if before_id is not None:
            query["before_id"] = before_id  # quoted: whatever it holds stays in its place
        path = "/v2/transcript"
        async with self._asked("list", "GET", path, query, may_doubt=may_doubt) as response:
            return wire.parse_list(await self._whole("list", response))

    async def takes_key(self) -> bool:
        """
        Whether the service still takes the key, of which a refusal in passing says little.

        The newest row of the list is asked for after 5 s, and where that does not help 10 s later.
        One asks at a time: who waited takes the answer of a check that began meanwhile. Only what
        is refused for the key again is no; an answer that is lost says nothing, and is a yes.
        """
        if not self._was_taken:
            return False
        came_at = anyio.current_time()
        async with self._checking:
            if self._checked_at < came_at:
                self._holds = await self._check()
                self._checked_at = anyio.current_time()
            return self._holds

    async def _check(self) -> bool:
        """Whether one of two looks gets an answer."""
        for wait_s in _DOUBT_S:
            await anyio.sleep(wait_s)
            try:
                await self.list(limit=1, may_doubt=False)
            except (KeyRefused, RequestRejected) as error:
                is_refused = wire.is_of_key(error)
            except (PipelineError, OSError):
                is_refused = False
            else:
                return True
        return not is_refused

    async def delete(self, transcript_id: str) -> None:
        """
        Remove the service's copy of a transcript and of its upload.

        Raises:
            TranscriptUnknown: it is gone already.
        """
        path = f"/v2/transcript/{wire.check_id(transcript_id)}"
        async with self._asked("delete", "DELETE", path) as response:
            await self._whole("delete", response)

    @asynccontextmanager
    async def _asked(
        self,
        call: str,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        *,
        may_doubt: bool = True,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        given_at = await self._permit(call)
        may_doubt = may_doubt and path not in self._doubted
        async with self._heeded(call, given_at, may_doubt=may_doubt):
            with self._translated(call, self._connect_s + self._answer_s):
                response = await self._http.request(
                    method,
                    self._base_url + path,
                    params=query,
                    headers=self._headers,
                    allow_redirects=False,
                )
            async with response:
                try:
                    yield response
                except (KeyRefused, RequestRejected) as error:
                    if wire.is_of_key(error):
                        self._doubted.add(path)
                    raise
                self._doubted.discard(path)

    async def _whole(self, call: str, response: aiohttp.ClientResponse) -> bytes:
        """The body of a success; any other answer is raised as what it stands for."""
        with self._translated(call, self._answer_s):
            body = await _beginning(response)
        if 200 <= response.status < 300:
            if len(body) > _MAX_SMALL_ANSWER_BYTES:
                raise AnswerUnusable(f"{call}: {_TOO_LONG}")
            return self._hidden(body)
        # Of an error the beginning is enough: its status says what it is.
        raise wire.error_from(call, response.status, response.headers, self._hidden(body))

    async def _pour(
        self, call: str, response: aiohttp.ClientResponse, write: Write, most: int
    ) -> None:
        if not 200 <= response.status < 300:
            await self._whole(call, response)
        taken, least, left_s = 0, _LEAST_BYTES, self._stall_s
        while not response.content.at_eof():
            began = anyio.current_time()
            # Only the reading: neither an error nor the time of `write` is the connection's.
            with self._translated(call, left_s):
                chunk = await response.content.readany()
            taken += len(chunk)
            left_s -= anyio.current_time() - began
            if taken >= least:
                least, left_s = taken + _LEAST_BYTES, self._stall_s
            if taken > most:
                raise AnswerUnusable(
                    f"{call}: the answer is longer than {most} bytes;"
                    " raise `max_answer` if it is meant to be"
                )
            await write(chunk)

    async def _permit(self, kind: str) -> float:
        given_at = await self.limiter.permit(kind)
        self.sent[kind] += 1
        return given_at

    def _answered(self, call: str) -> None:
        self.answered_at[call] = anyio.current_time()

    def hide(self, secret: str) -> None:
        """From here on this text, too, is shown of no answer."""
        self._secrets.append(secret)

    def shown(self, text: str) -> str:
        """What a service said, without the key."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _hidden(self, body: bytes) -> bytes:
        """An answer that can be shown: a service may repeat the key that it was sent."""
        for secret in self._secrets:
            body = body.replace(secret.encode(), b"***")
        return body

    @asynccontextmanager
    async def _heeded(
        self, call: str, given_at: float, *, may_doubt: bool = True
    ) -> AsyncIterator[None]:
        """What comes of a request with that permit, for the limiter, and for who has the key."""
        try:
            yield
        except RateLimited as error:
            self._answered(call)
            self.limiter.pause(error.retry_after_s, call, given_at)
            raise
        except (KeyRefused, RequestRejected) as error:
            self._answered(call)
            self.limiter.took(call, given_at)
            if may_doubt and wire.is_of_key(error) and self._was_taken:
                if await self.takes_key():
                    raise AccessDoubted(error) from error
                raise KeyRefused(str(error)) from error
            raise
        self._answered(call)
        self.limiter.took(call, given_at)
        self._was_taken = True

    @contextmanager
    def _translated(self, call: str, within_s: float = math.inf) -> Iterator[None]:
        """Errors of aiohttp as ours, `from` the original; too slow is `ConnectionLost`."""
        try:
            if within_s == math.inf:
                yield
                return
            with anyio.move_on_after(within_s) as scope:
                yield
            if scope.cancelled_caught:
                raise ConnectionLost(f"{call}: the answer came too slowly")
        except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
            if self.answered_at:  # TLS has worked in this run: it is not the settings
                raise ConnectionLost(f"{call}: {_describe(error)}", connected=False) from error
            raise SettingsError(
                f"the certificate of {self._base_url} is not trusted ({error});"
                " name your own CA file with the variable SSL_CERT_FILE"
            ) from error
        except (aiohttp.InvalidURL, UnicodeError) as error:  # the latter of a host name
            raise SettingsError(f"{self._base_url} is not an address") from error
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            raise ServiceUnavailable(f"{call}: {_describe(error)}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            cause: BaseException | None = error
            while cause is not None:
                if isinstance(cause, PipelineError):
                    raise cause from None
                cause = cause.__cause__
            connected = not isinstance(
                error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError
            )
            raise ConnectionLost(f"{call}: {_describe(error)}", connected=connected) from error


async def once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keeps aiohttp from sending a request that may be repeated a second time, uncounted."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # never repeated
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise aiohttp.ClientConnectionError(_describe(error)) from error


async def _note_handover(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
    """From here on bytes may be on their way; aiohttp says so before it writes the first."""
    if isinstance(context.trace_request_ctx, Handover):
        context.trace_request_ctx.begun = True


class _Body(aiohttp.Payload):
    """The bytes of an upload, each chunk with `stall_s` to go out, and the answer `answer_s`."""

    _autoclose = True  # there is nothing to close: who opened a file closes it

    def __init__(
        self,
        content: bytes | AsyncIterator[bytes],
        size: int,
        uplink: Uplink,
        scope: anyio.CancelScope,
        stall_s: float,
        answer_s: float,
    ) -> None:
        super().__init__(content, content_type="application/octet-stream")
        self.left = size
        """Bytes that were not handed to the connection yet."""
        self._content = content
        self._uplink = uplink
        self._scope = scope
        self._stall_s = stall_s
        self._answer_s = answer_s

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send all of it: what aiohttp calls, once."""
        if isinstance(self._content, bytes):
            await self._send(writer, self._content)
        else:
            async for chunk in self._content:
                await self._send(writer, chunk)

    async def _send(self, writer: AbstractStreamWriter, chunk: bytes) -> None:
        while chunk:
            self._scope.deadline = math.inf  # to wait for one's turn is no stall
            most = await self._uplink.turn(len(chunk))
            self.left -= most
            self._scope.deadline = anyio.current_time() + self._stall_s
            if not self.left:
                self._scope.deadline += self._answer_s
            await writer.write(chunk[:most])
            chunk = chunk[most:]

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Never asked for: these are bytes."""
        raise TypeError("a recording is no text")


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """A small body whole; of a larger one the first bytes, more than a small one has."""
    parts = bytearray()
    async for chunk in response.content.iter_any():
        parts += chunk
        if len(parts) > _MAX_SMALL_ANSWER_BYTES:
            break
    return bytes(parts)


def _describe(error: BaseException) -> str:
    """What went wrong, without what aiohttp quotes of the answer: it may repeat the key."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "Server disconnected"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the answer cannot be read ({error.message.partition(':')[0]})"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the answer ended early"
    return wire.shown(str(error)) or type(error).__name__


def system_proxy(base_url: str) -> str | None:
    """
    The proxy that the environment names for an address, as curl and requests read it.

    Looked up once: aiohttp's own `trust_env` reads the environment and ~/.netrc for each request,
    and lets the latter replace the key.

    Raises:
        SettingsError: it speaks no HTTP.
    """
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if _is_this_machine(host) or proxy_bypass(host):
        return None
    proxies = getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or "://" not in proxy:
        return proxy and f"http://{proxy}"
    if (scheme := urlsplit(proxy).scheme) not in ("http", "https"):
        raise SettingsError(
            f"the variable of a proxy names one that speaks {scheme.upper()}, which is not"
            f" supported: name an HTTP proxy in `{parts.scheme.upper()}_PROXY`, or {host} in"
            " `NO_PROXY`"
        )
    return proxy


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
