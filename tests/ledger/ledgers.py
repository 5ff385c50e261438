"""A ledger on disk, and the shortest ways to bring an attempt into any of its states."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from pipeline.ledger import Ledger, Reading, Run
from pipeline.models import AttemptState, Claim, Entry
from pipeline.names import result_name

__all__ = ["HERE", "Clock", "Steps", "entry", "ledger_at", "reading"]

HERE = Run("run-1", "custom", "http://here", "fingerprint")


@dataclass
class Clock:
    """A clock that only a test moves; Unix time."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def ledger_at(
    folder: Path, run: Run = HERE, clock: Callable[[], float] | None = None
) -> AsyncIterator[Ledger]:
    """The ledger of a state folder, opened as a run opens it."""
    journal = folder / f"{run.run_id}.ndjson"
    path = folder / "ledger.sqlite3"
    async with Ledger(path, run, journal=journal, clock=clock or Clock()) as ledger:
        await ledger.recover()
        yield ledger


def entry(path: bytes = b"a.wav", *, size: int = 3, options: str = "{}") -> Entry:
    """What a scan sees of a recording."""
    return Entry(
        path=path,
        size=size,
        mtime_ns=1,
        ctime_ns=1,
        inode=1,
        settled=True,
        options=options,
        result=result_name(path),
    )


def reading(content: bytes = b"one") -> Reading:
    """What was read of a recording that holds this."""
    digest = sha256(content).hexdigest()
    return Reading(digest, digest, len(content), 1, 1, 1, True)


@dataclass
class Steps:
    """One recording, brought on step by step."""

    ledger: Ledger
    path: bytes = b"a.wav"
    content: bytes = b"one"
    _claims: list[Claim] = field(default_factory=list)

    async def find(self, options: str = "{}") -> None:
        """A scan sees it, and no result of it."""
        found = entry(self.path, size=len(self.content), options=options)
        await self.ledger.record_found("root", [found], lambda _: None, ())

    async def claim(self) -> Claim:
        """It is taken."""
        await self.find()
        self._claims += await self.ledger.claim(1)
        assert self._claims[-1].path == self.path
        return self._claims[-1]

    async def reach(self, state: AttemptState) -> int:
        """Its attempt in this state; the attempt's id."""
        claim = await self.claim()
        attempt_id, ledger = claim.attempt_id, self.ledger
        if state is AttemptState.UPLOADING:
            return attempt_id
        url = f"upload:{attempt_id}"
        assert await ledger.record_uploaded(claim, reading(self.content), url)
        if state is AttemptState.UPLOADED:
            return attempt_id
        if state is AttemptState.NOT_ACCEPTED:
            await ledger.put_back(claim)
            return attempt_id
        assert await ledger.claim_submit(attempt_id, None)
        match state:
            case AttemptState.ACCEPTED:
                assert await ledger.record_accepted(attempt_id, f"id-{attempt_id}")
            case AttemptState.REFUSED:
                await ledger.record_refused(attempt_id, "no")
            case AttemptState.AMBIGUOUS:
                await ledger.record_ambiguous(attempt_id, "lost")
        return attempt_id
