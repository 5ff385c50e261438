"""
What the order is worth: a batch whose recordings take the longer, the larger they are.

    python bench/order.py [--recordings 60] [--concurrency 8] [--archives 3]

Archives of recordings whose lengths are spread as those of calls and meetings often are: many short
ones, few that are thirty times as long. Names say nothing of lengths. Each is transcribed by the
real command, once in each order, against the scripted service in a process of its own. The ideal
is the larger of the sum of service times over the concurrency, and the longest of them. Prints a
Markdown table for bench/README.md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
ORDERS = ("path", "largest", "smallest")
SHORTEST_S, LONGEST_S = 0.4, 12.0
BYTES_PER_S = 20_000


def make_recordings(folder: Path, count: int, seed: int) -> list[float]:
    """Recordings by chance, each with its service time in its first line; all times, seconds."""
    chance = random.Random(seed)
    folder.mkdir()
    times_s = [SHORTEST_S * (LONGEST_S / SHORTEST_S) ** chance.random() for _ in range(count)]
    for number, seconds in enumerate(times_s):
        head = f"TAKES:{seconds:.3f}\n{number}\n".encode()
        (folder / f"call-{number:03d}.wav").write_bytes(head.ljust(int(seconds * BYTES_PER_S)))
    return times_s


def measure(folder: Path, order: str, concurrency: int) -> float:
    """Seconds that the batch takes in this order, on an account that knows nothing of it yet."""
    environ = {**os.environ, "ASSEMBLYAI_API_KEY": "bench", "PYTHONPATH": str(REPOSITORY)}
    service = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.support.service", "--port", "0", "--key", "bench"),
            *("--concurrency", str(concurrency)),
        ],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert service.stdout is not None
    try:
        url = json.loads(service.stdout.readline())["url"]
        command = [
            *(sys.executable, "-m", "jobs.cli", "run", str(folder / "recordings"), "--quiet"),
            *("-o", str(folder / order), "--provider", url, "--order", order, "--no-ramp"),
            *("--poll-interval", "0.2s", "--concurrency", str(concurrency)),
        ]
        began = time.monotonic()
        subprocess.run(command, env=environ, check=True)
        return time.monotonic() - began
    finally:
        service.terminate()
        service.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=60)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--archives", type=int, default=3)
    arguments = parser.parse_args()
    print(f"| archive | ideal s | {' | '.join(f'`{order}` s' for order in ORDERS)} |")
    print("|---" * (2 + len(ORDERS)) + "|")
    for seed in range(arguments.archives):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            times_s = make_recordings(folder / "recordings", arguments.recordings, seed)
            ideal_s = max(sum(times_s) / arguments.concurrency, *times_s)
            taken = [measure(folder, order, arguments.concurrency) for order in ORDERS]
        told = " | ".join(f"{each:.1f} ({each / ideal_s:.2f} ×)" for each in taken)
        print(f"| {seed + 1} | {ideal_s:.1f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
