"""Plain calls to any server of the API, for tests that may not trust the program's own client."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import anyio

Json = dict[str, Any]


class Caller:
    """The API without a client: what is sent is what the test says, what comes back is as it is."""

    def __init__(self, url: str, key: str, http: aiohttp.ClientSession) -> None:
        self.url, self.key, self.http = url, key, http

    async def call(
        self, method: str, path: str, *, key: str | None = None, **sent: Any
    ) -> tuple[int, Any]:
        """Status and body, the body parsed if it says it is JSON."""
        answer, body = await self.answer(method, path, key=key, **sent)
        return answer.status, body

    async def answer(
        self, method: str, path: str, *, key: str | None = None, **sent: Any
    ) -> tuple[aiohttp.ClientResponse, Any]:
        """The answer itself, and its body as `call` gives it."""
        headers = {"Authorization": self.key if key is None else key} | sent.pop("headers", {})
        async with self.http.request(
            method, f"{self.url}/v2/{path}", headers=headers, allow_redirects=False, **sent
        ) as answer:
            text = await answer.text()
        return answer, json.loads(text) if answer.content_type == "application/json" else text

    async def upload(self, content: bytes) -> str:
        """The upload_url of this content."""
        status, body = await self.call("POST", "upload", data=content)
        assert status == 200, body
        return str(body["upload_url"])

    async def submit(self, content: bytes = b"RIFF", **options: Any) -> str:
        """The id of a new transcript of this content."""
        body = {"audio_url": await self.upload(content)} | options
        status, transcript = await self.call("POST", "transcript", json=body)
        assert status == 200, transcript
        return str(transcript["id"])

    async def get(self, transcript_id: str) -> Json:
        """The transcript as it is now."""
        status, body = await self.call("GET", f"transcript/{transcript_id}")
        assert status == 200, body
        return dict(body)

    async def ended(self, transcript_id: str) -> Json:
        """The transcript when it is completed or failed."""
        with anyio.fail_after(30):
            while True:
                body = await self.get(transcript_id)
                if body["status"] not in ("queued", "processing"):
                    return body
                # The protocol has no signal for the end of a transcript: it is asked for.
                await anyio.sleep(0.01)

    async def transcribed(self, content: bytes, **options: Any) -> Json:
        """A new transcript of this content, when it is completed or failed."""
        return await self.ended(await self.submit(content, **options))

    async def listed(self, **query: str | int) -> tuple[Json, list[Json]]:
        """One page of the list: its details and its rows."""
        status, body = await self.call("GET", "transcript", params=query)
        assert status == 200, body
        return body["page_details"], body["transcripts"]

    async def listed_ids(self, **query: str | int) -> list[str]:
        """The ids of one page, newest first."""
        return [row["id"] for row in (await self.listed(**query))[1]]
