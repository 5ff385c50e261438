"""
What a run costs that has nothing to do: an archive in which every recording is transcribed.

    python bench/nothing.py [--recordings 100000] [--folders 1000] [--runs 3]

Recordings, results and the ledger are made directly, as runs would have left them. Then the real
command looks at them, as a process; there is nobody at the address it is given. Prints a Markdown
table for bench/README.md.
"""

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from pathlib import Path

from pipeline.ledger.store import SCHEMA_VERSION
from pipeline.models import request_key
from pipeline.names import fold, result_name

REPOSITORY = Path(__file__).resolve().parent.parent
NOWHERE = "http://127.0.0.1:9"
"""The port of *discard*: nothing of the bench listens there."""


def make_archive(folder: Path, count: int, folders: int) -> None:
    """Recordings, one result each, and the ledger that knows of both."""
    recordings, results = folder / "recordings", folder / "transcripts"
    (results / ".overnight").mkdir(parents=True)
    with closing(sqlite3.connect(results / ".overnight" / "ledger.sqlite3")) as ledger:
        ledger.executescript(files("pipeline.ledger").joinpath("schema.sql").read_text("utf-8"))
        ledger.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        rows = written(recordings, results, count, folders)
        while part := [*islice(rows, 1000)]:
            add(ledger, part)
        ledger.commit()


def add(ledger: sqlite3.Connection, rows: list[dict[str, object]]) -> None:
    """Rows in all three tables."""
    ledger.executemany(
        "INSERT INTO recordings (recording_id, root, path, size, mtime_ns, ctime_ns, inode,"
        " settled, edges, content, options, request_key, state, duration_s, result,"
        " result_fold, result_size, result_sha256, result_key, result_generation, written_run,"
        " run_id) VALUES (:id, 'recordings', :path, :size, :mtime_ns, :ctime_ns, :inode, 1,"
        " :content, :content, '{}', :key, 'written', 1.0, :result, :fold, :result_size,"
        " :sha256, :key, 1, 'earlier', 'earlier')",
        rows,
    )
    ledger.executemany(
        "INSERT INTO transcripts (request_key, generation, content, options, provider, state)"
        " VALUES (:key, 1, :content, '{}', 'custom', 'written')",
        rows,
    )
    ledger.executemany(
        "INSERT INTO attempts (recording_id, request_key, generation, content, state, outcome,"
        " owner, base_url, key_fingerprint, upload_url, transcript_id, started_at) VALUES (:id,"
        f" :key, 1, :content, 'accepted', 'completed', 'earlier', '{NOWHERE}', 'fingerprint',"
        " 'upload:' || :content, :content, 0)",
        rows,
    )


def written(
    recordings: Path, results: Path, count: int, folders: int
) -> Iterator[dict[str, object]]:
    """The files of each recording, and what its rows hold."""
    for number in range(count):
        inside = f"{number % folders:04d}"
        path = os.fsencode(f"{inside}/call-{number:07d}.wav")
        if number < folders:
            (recordings / inside).mkdir(parents=True)
            (results / inside).mkdir(parents=True)
        result = result_name(path)
        content = sha256(path).hexdigest()
        where = os.path.join(os.fsencode(recordings), path)
        Path(os.fsdecode(where)).write_bytes(path)
        os.utime(where, (1_700_000_000, 1_700_000_000))
        answer = b'{"id":"%s"}' % content.encode()
        Path(os.fsdecode(os.path.join(os.fsencode(results), result))).write_bytes(answer)
        found = os.stat(where)
        yield {
            "id": number + 1,
            "path": path,
            "size": found.st_size,
            "mtime_ns": found.st_mtime_ns,
            "ctime_ns": found.st_ctime_ns,
            "inode": found.st_ino,
            "content": content,
            "key": request_key(content, "{}", "custom"),
            "result": result,
            "fold": fold(result),
            "result_size": len(answer),
            "sha256": sha256(answer).hexdigest(),
        }


def measure(folder: Path) -> tuple[float, float, float]:
    """One run of the real command: seconds, CPU seconds and MB of the process."""
    command = [
        *(sys.executable, "-m", "jobs.cli", "run", str(folder / "recordings")),
        *("-o", str(folder / "transcripts"), "--provider", NOWHERE, "--quiet"),
    ]
    environ = {**os.environ, "ASSEMBLYAI_API_KEY": "bench", "PYTHONPATH": str(REPOSITORY)}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environ)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run ended with exit code {process.returncode}")
    elapsed_s = time.monotonic() - began
    return elapsed_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=100_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where an archive is, or is made and left")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name) / "archive"
        if not folder.exists():
            make_archive(folder, arguments.recordings, arguments.folders)
        print("| recordings | folders | elapsed s | CPU s | peak MB |")
        print("|---|---|---|---|---|")
        for _ in range(arguments.runs):
            elapsed_s, cpu_s, peak_mb = measure(folder)
            print(
                f"| {arguments.recordings:,} | {arguments.folders:,} | {elapsed_s:.1f} "
                f"| {cpu_s:.1f} | {peak_mb:.0f} |"
            )


if __name__ == "__main__":
    main()
