"""
How quick an upload is: in, recordings of one size and a sink; out, a table.

    python bench/uploads.py                              50 x 100 MB, plain and TLS
    python bench/uploads.py --recordings 2000 --size 100000

The sink is a process of its own: threads that receive into a buffer, and nothing else. `raw` is
the fastest sender that was found for this machine: threads that read, hash and send, each with a
buffer and a connection of its own. `overnight` is the program's own reading and sending
(`pipeline.stages.upload.Source` and `pipeline.client.Client`), without ledger and stages. Rows of
one table are of one run, one after the other in turn, and the median of the rounds counts.
"""

import argparse
import os
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

import anyio
import trustme

from pipeline.client import Client
from pipeline.limiter import Limiter
from pipeline.stages.upload import Source

KIB = 1024
SENDERS = ["raw-2-256", "raw-4-256", "overnight-8-256", "overnight-8-1024", "overnight-16-1024"]
DISTINCT = 5
"""So many contents there are; the other recordings are second names of them, to spare the disk."""


# --- the sink -----------------------------------------------------------------------------------


def serve(tls: bool, folder: Path) -> None:
    """Receive uploads until stdin ends; the port is the first line of stdout."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    context = None
    if tls:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
    numbers = count()
    print(listener.getsockname()[1], flush=True)

    def accept() -> None:
        while True:
            stream, _ = listener.accept()
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=receive, args=(stream, context, numbers), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


def receive(stream: socket.socket, context: ssl.SSLContext | None, numbers: Iterator[int]) -> None:
    """All requests of one connection: the bodies are counted and dropped."""
    if context is not None:
        stream = context.wrap_socket(stream, server_side=True)
    buffer = memoryview(bytearray(1 << 20))
    filled = 0
    while True:
        got = stream.recv_into(buffer[filled:])
        if not got:
            return
        filled += got
        head, end, _ = bytes(buffer[: min(filled, 4096)]).partition(b"\r\n\r\n")
        if not end:
            continue
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        left = int(length) - (filled - len(head) - 4)
        while left > 0:
            left -= stream.recv_into(buffer[: min(left, len(buffer))])
        body = b'{"upload_url": "https://sink/%d"}' % next(numbers)
        stream.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (len(body), body)
        )
        filled = 0


@contextmanager
def sink(tls: bool, folder: Path) -> Iterator[int]:
    """The port of a sink in a process of its own."""
    command = [sys.executable, __file__, "--sink", "tls" if tls else "plain", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


# --- the senders ---------------------------------------------------------------------------------

Sender = Callable[[Sequence[Path], int, ssl.SSLContext | None], None]


def raw(threads: int, chunk_bytes: int) -> Sender:
    """Threads that read, hash and send."""

    def send(paths: Sequence[Path], port: int, context: ssl.SSLContext | None) -> None:
        left = iter(paths)
        turn = threading.Lock()

        def work() -> None:
            stream = socket.create_connection(("127.0.0.1", port))
            if context is not None:
                stream = context.wrap_socket(stream, server_hostname="127.0.0.1")
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            buffer = memoryview(bytearray(chunk_bytes))
            while True:
                with turn:
                    path = next(left, None)
                if path is None:
                    return
                with path.open("rb", buffering=0) as file:
                    digest = sha256()
                    size = os.fstat(file.fileno()).st_size
                    stream.sendall(
                        b"POST /v2/upload HTTP/1.1\r\nHost: sink\r\nContent-Length: %d\r\n\r\n"
                        % size
                    )
                    while got := file.readinto(buffer):
                        digest.update(buffer[:got])
                        stream.sendall(buffer[:got])
                assert b"200 OK" in stream.recv(4096)

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return send


def ours(at_once: int, chunk_bytes: int) -> Sender:
    """The program's own reading and sending."""

    def send(paths: Sequence[Path], port: int, context: ssl.SSLContext | None) -> None:
        anyio.run(_upload_all, paths, port, context is not None, at_once, chunk_bytes)

    return send


async def _upload_all(
    paths: Sequence[Path], port: int, tls: bool, at_once: int, chunk_bytes: int
) -> None:
    limiter = Limiter(1 << 20, 300.0)
    left = iter(paths)

    async def work(client: Client) -> None:
        for path in left:
            async with await Source.open(os.fsencode(path), chunk_bytes=chunk_bytes) as source:
                await client.upload(await source.body(), source.size)
                await source.reading()

    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    async with Client(url, "key", limiter) as client, anyio.create_task_group() as group:
        for _ in range(at_once):
            group.start_soon(work, client)


# --- the table -----------------------------------------------------------------------------------


def measured(name: str, folder: Path, port: int, authority: Path | None) -> list[float]:
    """Seconds, CPU seconds and peak MB of a sender, in a process of its own."""
    # In the environment: aiohttp reads it when it is imported.
    environ = os.environ | {"SSL_CERT_FILE": str(authority or "")}
    command = [sys.executable, __file__, "--send", name, str(folder), str(port)]
    done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return [float(each) for each in done.stdout.split()]


def send(name: str, folder: Path, port: int) -> None:
    """What `measured` has done in its process."""
    paths = sorted(folder.iterdir())
    authority = os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=authority) if authority else None
    kind, at_once, chunk = name.split("-")
    sender = (raw if kind == "raw" else ours)(int(at_once), int(chunk) * KIB)
    began, cpu_s = time.monotonic(), time.process_time()
    sender(paths, port, context)
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_s
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(took_s, cpu_s, usage.ru_maxrss / 1000)


def recordings(folder: Path, number: int, size: int) -> None:
    """So many recordings; small ones have contents of their own."""
    paths = [folder / f"{each:05}.wav" for each in range(number)]
    for position, path in enumerate(paths):
        if position < DISTINCT or size < 1 << 20:
            with path.open("wb") as file:  # bit by bit: our peak would be that of our children
                for start in range(0, size, 1 << 20):
                    file.write(os.urandom(min(1 << 20, size - start)))
        else:
            path.hardlink_to(paths[position % DISTINCT])


def compare(
    lines: Sequence[str], names: Sequence[str], recordings: Path, size: int, rounds: int
) -> None:
    """Print a table."""
    print(
        "| line | sender | at once | chunk KiB | MB/s | of raw | CPU s/GB | CPU ms each | peak MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    number = len(list(recordings.iterdir()))
    total = size * number
    for line in lines:
        tls = line == "TLS"
        with tempfile.TemporaryDirectory() as folder, sink(tls, Path(folder)) as port:
            authority = Path(folder, "ca.pem") if tls else None
            figures: dict[str, list[list[float]]] = {name: [] for name in names}
            for _ in range(rounds):
                for name in names:
                    figures[name].append(measured(name, recordings, port, authority))
        middle = {
            name: [statistics.median(column) for column in zip(*rows, strict=True)]
            for name, rows in figures.items()
        }
        fastest_s = min(row[0] for name, row in middle.items() if name.startswith("raw"))
        for name, (took_s, cpu_s, peak) in middle.items():
            print(
                f"| {line} | {' | '.join(name.split('-'))}"
                f" | {total / took_s / 1e6:.0f} | {fastest_s / took_s:.2f}"
                f" | {cpu_s / total * 1e9:.2f} | {cpu_s / number * 1e3:.2f} | {peak:.0f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=50)
    parser.add_argument("--size", type=int, default=100_000_000, help="bytes of each")
    parser.add_argument("--lines", nargs="+", default=["plain", "TLS"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--senders", nargs="+", default=SENDERS, help="KIND-AT_ONCE-CHUNK_KIB")
    parser.add_argument("--sink", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--send", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sink:
        serve(given.sink[0] == "tls", Path(given.sink[1]))
    elif given.send:
        send(given.send[0], Path(given.send[1]), int(given.send[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            recordings(Path(folder), given.recordings, given.size)
            compare(given.lines, given.senders, Path(folder), given.size, given.rounds)


if __name__ == "__main__":
    main()
