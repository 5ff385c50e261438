"""Webhooks of the scripted service: transcripts that end in, notifications over HTTP out.

    async with ScriptedService() as service, delivering(service) as post:
        post.alter = lambda delivery: []          # what is lost, doubled, late or untrue
        ...
        await service.until(lambda: post.is_done)
        assert [delivery.statuses for delivery in post.deliveries] == [[200]]

A notification is sent until it is answered with 2xx, 10 times at the most, `webhook_every_s` apart;
a 4xx is final. A transcript with redacted audio is followed by a second one, which has no id.

Source: https://github.com/AssemblyAI/assemblyai-api-spec, guides/webhooks.mdx, and openapi.yml,
TranscriptReadyNotification and RedactedAudioNotification.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import aiohttp
import anyio

from tests.support.service_account import Transcript

_ATTEMPTS = 10


class _Service(Protocol):
    """What of the service is told from."""

    webhook_every_s: float
    to_notify: Any
    changed: anyio.Event

    @property
    def next_end_in_s(self) -> float: ...
    def settle(self) -> None: ...
    def wake(self) -> None: ...


@dataclass(slots=True)
class Delivery:
    """One notification, and what became of it."""

    transcript_id: str
    url: str
    headers: dict[str, str]
    body: dict[str, str]
    after_s: float = 0.0
    """How late it is sent."""
    statuses: list[int] = field(default_factory=list)
    """What it was answered with, 0 for no answer; one for each time it was sent."""
    is_over: bool = False
    """Whether it is not sent again."""

    def again(self, **changes: Any) -> Delivery:
        """Another one like it, but for these fields."""
        return replace(self, **changes, statuses=[])


class Post:
    """Sends notifications, and remembers them."""

    def __init__(self, service: _Service, http: aiohttp.ClientSession) -> None:
        self.deliveries: list[Delivery] = []
        """All that were sent, in the order in which they began."""
        self.alter: Callable[[Delivery], Iterable[Delivery]] = lambda delivery: [delivery]
        """What is sent in the place of what should be."""
        self._service = service
        self._http = http

    @property
    def is_done(self) -> bool:
        """Whether something was sent, and all that was is over."""
        return bool(self.deliveries) and all(each.is_over for each in self.deliveries)

    async def run(self) -> None:
        """Tells of each transcript that ends, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                changed = self._service.changed
                self._service.settle()
                while self._service.to_notify:
                    group.start_soon(self._tell, self._service.to_notify.popleft())
                with anyio.move_on_after(self._service.next_end_in_s):
                    await changed.wait()

    async def _tell(self, transcript: Transcript) -> None:
        body = {"transcript_id": transcript.id, "status": transcript.status}
        await self._send(transcript, body)
        if transcript.options.get("redact_pii_audio") and transcript.status == "completed":
            url = f"https://redacted.scripted.invalid/{transcript.id}.mp3"
            ready = {"status": "redacted_audio_ready", "redacted_audio_url": url}
            await self._send(transcript, ready)

    async def _send(self, transcript: Transcript, body: dict[str, str]) -> None:
        options = transcript.options
        name, value = (options.get(f"webhook_auth_header_{part}") for part in ("name", "value"))
        headers = {name: value} if name and value else {}
        for delivery in self.alter(
            Delivery(transcript.id, options["webhook_url"], headers, dict(body))
        ):
            self.deliveries.append(delivery)
            self._service.wake()
            await anyio.sleep(delivery.after_s)
            await self._deliver(delivery)
            transcript.webhook_status_code = delivery.statuses[-1] or None
            delivery.is_over = True
            self._service.wake()

    async def _deliver(self, delivery: Delivery) -> None:
        for attempt in range(_ATTEMPTS):
            if attempt:
                await anyio.sleep(self._service.webhook_every_s)
            delivery.statuses.append(await self._sent(delivery))
            if 200 <= delivery.statuses[-1] < 300 or 400 <= delivery.statuses[-1] < 500:
                return

    async def _sent(self, delivery: Delivery) -> int:
        try:
            with anyio.fail_after(max(1.0, self._service.webhook_every_s)):
                async with self._http.post(
                    delivery.url,
                    json=delivery.body,
                    headers=delivery.headers,
                    allow_redirects=False,
                ) as answer:
                    return answer.status
        except (aiohttp.ClientError, OSError):  # a timeout is one of the latter
            return 0


@asynccontextmanager
async def delivering(service: _Service) -> AsyncIterator[Post]:
    """Notifications are delivered until this is left."""
    async with aiohttp.ClientSession() as http, anyio.create_task_group() as group:
        post = Post(service, http)
        group.start_soon(post.run)
        yield post
        group.cancel_scope.cancel()
