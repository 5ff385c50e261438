"""A client of the engine for tests: plain HTTP, and nothing of the program's own client."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
from anyio.abc import SocketStream

from pipeline.engine import serve
from pipeline.engine.speech import Recognizer

KEY = "a key of the tests"


class Client:
    """Calls by name; every answer is its status and its body."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session = session
        self.url = url

    async def call(
        self, method: str, path: str, *, key: str | None = KEY, **request: Any
    ) -> tuple[int, Any]:
        """Status and body of any call; JSON is parsed."""
        headers = {} if key is None else {"Authorization": key}
        async with self.session.request(
            method, self.url + path, headers=headers, **request
        ) as response:
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, await response.text()

    async def connect(self) -> SocketStream:
        """A bare connection, for requests that no client would make."""
        address = urlsplit(self.url)
        return await anyio.connect_tcp(address.hostname or "", address.port or 0)

    async def upload(self, path: Path) -> str:
        """The upload_url of a file."""
        content = await anyio.Path(path).read_bytes()
        status, body = await self.call("POST", "/v2/upload", data=BytesIO(content))
        assert status == 200, body
        return str(body["upload_url"])

    async def submit(self, audio_url: str, **options: Any) -> str:
        """The id of a new transcript."""
        request = {"audio_url": audio_url, **options}
        status, body = await self.call("POST", "/v2/transcript", json=request)
        assert status == 200, body
        return str(body["id"])

    async def get(self, transcript_id: str) -> dict[str, Any]:
        """A transcript as it is now."""
        status, body = await self.call("GET", f"/v2/transcript/{transcript_id}")
        assert status == 200, body
        found: dict[str, Any] = body
        return found

    async def finished(self, transcript_id: str) -> dict[str, Any]:
        """A transcript once it is completed or failed."""
        with anyio.fail_after(60):
            while True:
                transcript = await self.get(transcript_id)
                if transcript["status"] in ("completed", "error"):
                    return transcript
                await anyio.sleep(0.05)  # leaves the cores to the model

    async def transcribed(self, path: Path, **options: Any) -> dict[str, Any]:
        """A file uploaded, submitted and waited for."""
        return await self.finished(await self.submit(await self.upload(path), **options))

    async def list(self, **query: Any) -> dict[str, Any]:
        """A page of the list."""
        status, body = await self.call("GET", "/v2/transcript", params=query)
        assert status == 200, body
        page: dict[str, Any] = body
        return page


@asynccontextmanager
async def engine(state: Path, recognizer: Recognizer, **settings: Any) -> AsyncIterator[Client]:
    """A client of a new engine on that state."""
    settings = {"keys": [KEY], "workers": 2, **settings}
    async with (
        serve(state, recognizer=recognizer, **settings) as running,
        aiohttp.ClientSession() as session,
    ):
        yield Client(session, running.url)


def error(body: Mapping[str, Any]) -> str:
    """The sentence of a refusal, which is all that it holds."""
    assert list(body) == ["error"]
    return str(body["error"])
