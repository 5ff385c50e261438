"""The scripted service as a process of its own, for tests that kill its client, and for benches.

async with service_process(transcript_seconds=2) as service:
    ...                                   # run a program against service.url, service.key
    oracle = await service.oracle()
    assert max(oracle["billable"].values()) == 1
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import anyio
from anyio.streams.text import TextReceiveStream

_ROOT = Path(__file__).resolve().parents[2]


class ServiceProcess:
    """A scripted service in another process: where it is, and its controls."""

    def __init__(self, address: dict[str, Any], http: aiohttp.ClientSession) -> None:
        self.url: str = address["url"]
        self.key: str = address["key"]
        self.foreign_key: str = address["foreign_key"]
        self.pid: int = address["pid"]
        self._http = http

    async def oracle(self) -> dict[str, Any]:
        """What `tests.support.service` tells at `/_control/oracle`."""
        return dict(await self._ask("GET", "oracle"))

    async def log(self) -> list[dict[str, Any]]:
        """All calls, in the order they came."""
        return list(await self._ask("GET", "log"))

    async def add_fault(self, **fault: Any) -> None:
        """Sets a fault: the fields of `Fault`, `match` as text."""
        await self._ask("POST", "faults", fault)

    async def clear_faults(self) -> None:
        """Takes all faults away."""
        await self._ask("DELETE", "faults")

    async def held(self, on: str = "*", count: int = 1) -> list[dict[str, Any]]:
        """Waits until this many requests of a kind are held; the calls."""
        return list(await self._ask("GET", f"held?on={on}&count={count}"))

    async def control(self, verb: str, **sent: Any) -> Any:
        """Does any other thing of `/_control/`: `release`, `settings`, `complete`, ..."""
        return await self._ask("POST", verb, sent)

    async def _ask(self, method: str, verb: str, sent: object = None) -> Any:
        async with self._http.request(method, f"{self.url}/_control/{verb}", json=sent) as answer:
            told = await answer.json()
        if answer.status != 200:
            raise ValueError(told["error"])
        return told


@asynccontextmanager
async def service_process(**settings: object) -> AsyncIterator[ServiceProcess]:
    """Starts a service with these settings of its command line, and ends it."""
    command = [sys.executable, "-m", "tests.support.service"]
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        command += [option] if value is True else [option, str(value)]
    process = await anyio.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None, cwd=_ROOT
    )
    async with process, aiohttp.ClientSession() as http:
        assert process.stdout is not None
        assert process.stdin is not None
        line = ""
        async for text in TextReceiveStream(process.stdout):
            line += text
            if "\n" in line:
                break
        try:
            yield ServiceProcess(json.loads(line), http)
        finally:
            with anyio.CancelScope(shield=True):
                await process.stdin.aclose()
                await process.wait()
        assert process.returncode == 0, "the scripted service failed: see stderr"
