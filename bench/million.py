"""
Whether memory depends on how many recordings there are: scan and ledger, without a service.

    python bench/million.py [--recordings 1000000] [--folders 1000]

Scans an archive of tiny files while recordings are claimed 500 at a time and brought through each
of their transitions, to the end: all that a run does with the ledger, and as many at once. What
uploads and answers would say is made up. Prints, as a Markdown table for bench/README.md, how far
it was, how large the process was just then, and how large the log of the ledger.
"""

import argparse
import os
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import anyio
from anyio import to_thread

from pipeline.events import Event, RecordingFound
from pipeline.ledger import Ledger, Reading, Run
from pipeline.models import Claim, Completion
from pipeline.settings import Settings
from pipeline.stages.scan import Listing, Scan, find_roots

AT_ONCE = 500
EVERY = 50_000
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Batch:
    """A run without a service."""

    def __init__(self, folder: Path, order: str, most: int) -> None:
        self.folder = folder
        self.ledger_path = folder / "state" / "ledger.sqlite3"
        self.most = most
        self.settings = Settings(output=folder / "out", order=order)
        self.began = time.monotonic()
        self.found = self.done = 0
        self.slowest_s = 0.0
        self.scanned = anyio.Event()

    async def run(self) -> None:
        """Scan, and finish what is found."""
        self.ledger_path.parent.mkdir()
        run = Run("bench", "custom", "http://nowhere", "fingerprint")
        async with Ledger(self.ledger_path, run, journal=self.folder / "journal") as ledger:
            await ledger.recover()
            async with anyio.create_task_group() as group:
                group.start_soon(self._scan, ledger)
                while not self.scanned.is_set() or (
                    self.done < self.most and await ledger.next_due() is not None
                ):
                    if self.done >= self.most:
                        await self.scanned.wait()
                        break
                    claims = await ledger.claim(AT_ONCE)
                    async with anyio.create_task_group() as each:
                        for claim in claims:
                            each.start_soon(self._finish, ledger, claim)
                    if not claims:
                        await anyio.lowlevel.checkpoint()
            standing = await ledger.standing()
            assert (
                sum(n for (_, ended, _), n in standing.items() if ended == "written") == self.done
            ), standing
            assert standing.total() == self.found, standing
        self._tell("counted")

    async def _scan(self, ledger: Ledger) -> None:
        roots = await to_thread.run_sync(find_roots, [str(self.folder / "in")])
        listing = Listing(os.fsencode(self.folder / "out"), time.time())
        await Scan(self.settings, roots, listing=listing).run(ledger, self._hear)
        self._tell("scan is over")
        self.scanned.set()

    def _hear(self, event: Event) -> None:
        self.found += isinstance(event, RecordingFound)
        if self.found % (4 * EVERY) == 0:
            self._tell("scan goes on")

    async def _finish(self, ledger: Ledger, claim: Claim) -> None:
        content = sha256(claim.path).hexdigest()
        read = Reading(content, content, 1, 1, 1, 1, True)
        uploaded = await ledger.record_uploaded(claim, read, f"upload:{content}")
        assert uploaded is not None
        attempt_id = uploaded.attempt_id
        asked = time.monotonic()
        assert await ledger.claim_submit(attempt_id, None)
        self.slowest_s = max(self.slowest_s, time.monotonic() - asked)
        await ledger.record_accepted(attempt_id, content)
        delivery = await ledger.record_completed(attempt_id, Completion("model", 1.0, 0.0))
        ids = [recipient.recording_id for recipient in delivery.recipients]
        await ledger.record_written(attempt_id, ids, 1, content)
        self.done += 1
        if self.done % EVERY == 0:
            self._tell("")

    def _tell(self, what: str) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES
        log = self.ledger_path.with_name("ledger.sqlite3-wal")
        log_bytes = log.stat().st_size if log.exists() else 0
        print(
            f"| {self.found:,} | {self.done:,} | {time.monotonic() - self.began:.0f} "
            f"| {resident / 1e6:.0f} | {log_bytes / 1e6:.1f} | {self.slowest_s * 1000:.0f} "
            f"| {what} |",
            flush=True,
        )
        self.slowest_s = 0.0


def make_recordings(folder: Path, count: int, folders: int) -> None:
    """Files of one byte."""
    for number in range(count):
        inside = folder / f"{number % folders:04d}"
        if number < folders:
            inside.mkdir(parents=True)
        (inside / f"call-{number:07d}.wav").write_bytes(b"x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=1_000_000)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--order", default="path")
    parser.add_argument("--written", type=int, help="of so many at least, not of all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, most = Path(name), arguments.written or arguments.recordings
        make_recordings(folder / "in", arguments.recordings, arguments.folders)
        print("| found | written | after s | MB | log MB | slowest submit ms | |")
        print("|---|---|---|---|---|---|---|")
        anyio.run(Batch(folder, arguments.order, most).run)


if __name__ == "__main__":
    main()
