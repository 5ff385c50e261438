"""
What it costs to know how long a recording is, in ms of CPU for each.

    python bench/durations.py [--times 1000]

Every sample recording is looked at again and again, by eight callers at once. Prints a Markdown
table for bench/README.md; the process that looks has its own column.
"""

import argparse
import time
from itertools import repeat
from pathlib import Path

import anyio
from anyio import to_process

from jobs.folder import sample_folder
from pipeline.durations import Duration, duration_of
from pipeline.stages.scan import MEDIA_SUFFIXES


async def look(path: bytes, size: int, times: int) -> None:
    """Look at one recording so often."""
    turns = repeat(None, times)

    async def look_on() -> None:
        for _ in turns:
            await duration_of(path, size)

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(look_on)


async def measure(sample: Path, times: int) -> tuple[Duration, list[float]]:
    """What is said of a sample; CPU here, CPU there, and time, in ms for each look."""
    path, size = bytes(sample), (await anyio.Path(sample).stat()).st_size
    found = await duration_of(path, size)
    before = await used_s()
    await look(path, size, times)
    after = await used_s()
    return found, [1000 * (b - a) / times for a, b in zip(before, after, strict=True)]


async def used_s() -> tuple[float, float, float]:
    """CPU of this process so far and of the one that looks, and the clock."""
    return time.process_time(), await to_process.run_sync(time.process_time), time.perf_counter()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=1000)
    times = parser.parse_args().times
    samples = [p for p in sample_folder().rglob("*") if p.suffix[1:].encode() in MEDIA_SUFFIXES]

    print("| | seconds | CPU ms here | CPU ms there | elapsed ms |")
    print("|---|---|---|---|---|")
    for sample in sorted(samples, key=lambda sample: sample.suffix):
        found, figures = await measure(sample, times)
        counted = "" if found.is_probed else ", by size"
        cells = " | ".join(f"{ms:.2f}" for ms in figures)
        print(f"| {sample.suffix[1:]} | {found.seconds:.2f}{counted} | {cells} |")


if __name__ == "__main__":
    anyio.run(main)
