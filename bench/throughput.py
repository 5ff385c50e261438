"""
How close a run comes to the ideal: many small recordings against the scripted service.

    python bench/throughput.py [--recordings 1000] [--seconds 2] [--concurrency 200]

The service runs in a process of its own. Prints a Markdown table for bench/README.md. The ideal
is the sum of the service times divided by its concurrency: nothing can be faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


def make_recordings(folder: Path, count: int, size_bytes: int) -> None:
    """Files of distinct content, a hundred in a folder."""
    body = os.urandom(size_bytes)
    for number in range(count):
        inside = folder / f"{number // 100:03d}"
        inside.mkdir(parents=True, exist_ok=True)
        (inside / f"call-{number:05d}.wav").write_bytes(number.to_bytes(8, "big") + body[8:])


def measure(arguments: argparse.Namespace, service_url: str, folder: Path) -> dict[str, float]:
    """One run of the real command: seconds, CPU seconds and MB of the process."""
    command = [
        *(sys.executable, "-m", "jobs.cli", "run", str(folder / "recordings")),
        *("-o", str(folder / "transcripts"), "--provider", service_url, "--no-ramp"),
        *("--requests", "1000000/300s", "--poll-interval", "0.5s"),
        *("--concurrency", str(arguments.concurrency), "--quiet"),
    ]
    environ = {**os.environ, "ASSEMBLYAI_API_KEY": "bench", "PYTHONPATH": str(REPOSITORY)}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environ)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    return {
        "elapsed_s": time.monotonic() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1000)
    parser.add_argument("--size", type=int, default=100_000, help="bytes of each")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each transcript")
    parser.add_argument("--concurrency", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_recordings(folder / "recordings", arguments.recordings, arguments.size)
        service = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.support.service", "--port", "0", "--key", "bench"),
                *("--transcript-seconds", str(arguments.seconds)),
                *("--concurrency", str(arguments.concurrency)),
            ],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert service.stdout is not None
        try:
            url = json.loads(service.stdout.readline())["url"]
            figures = measure(arguments, url, folder)
            with urllib.request.urlopen(f"{url}/_control/oracle") as answer:
                oracle = json.load(answer)
        finally:
            service.terminate()
            service.wait()
    count = arguments.recordings
    ideal_s = count * arguments.seconds / arguments.concurrency
    paid = list(oracle["billable"].values())
    assert paid == [1] * count, "every content is paid once"
    requests = sum(oracle["requests"].values())
    print("| recordings | ideal s | elapsed s | × ideal | requests each | CPU ms each | peak MB |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {count} | {ideal_s:.1f} | {figures['elapsed_s']:.1f} "
        f"| {figures['elapsed_s'] / ideal_s:.2f} | {requests / count:.2f} "
        f"| {1000 * figures['cpu_s'] / count:.1f} | {figures['peak_mb']:.0f} |"
    )


if __name__ == "__main__":
    main()
