"""The line to a service, which can be cut: connections are lost, and refused until it is mended."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio

_CHUNK_BYTES = 1 << 16


class Line:
    """An address on this machine behind which lies that of a service, while it is whole."""

    def __init__(self, target: str) -> None:
        self._target = target.removeprefix("http://").partition(":")
        with socket.socket() as probe:  # an address of its own, the same after each mending
            probe.bind(("127.0.0.1", 0))
            self._port: int = probe.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._writers = set[asyncio.StreamWriter]()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self._port}"

    def cut(self) -> None:
        """Lose every connection, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._writers:
            writer.transport.abort()

    async def mend(self) -> None:
        """Let all through, from now on."""
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def cut_for(self, seconds: float) -> None:
        """Cut it, and mend it after so long."""
        self.cut()
        await anyio.sleep(seconds)
        await self.mend()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self._target
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        with suppress(OSError, anyio.get_cancelled_exc_class()):
            async with anyio.create_task_group() as group:
                group.start_soon(self._copy, reader, far_writer)
                group.start_soon(self._copy, far_reader, writer)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass  # the other end is told by the closing
        finally:
            self._writers.discard(writer)
            writer.close()


@asynccontextmanager
async def line_to(target: str) -> AsyncIterator[Line]:
    """A whole line to a service, while the block is in progress."""
    line = Line(target)
    await line.mend()
    try:
        yield line
    finally:
        line.cut()
