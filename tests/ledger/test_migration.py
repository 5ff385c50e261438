"""A ledger of before, whose provider was spelled otherwise: nothing in it is paid for again."""

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from pipeline.ledger import Ledger, Redo, Run
from pipeline.ledger.journal import parse_line
from pipeline.models import request_key
from pipeline.names import result_name
from tests.ledger.ledgers import Clock, entry, ledger_at

pytestmark = pytest.mark.anyio

VENDOR = "https://api.assemblyai.com"
NOW = Run("run-2", "assemblyai", VENDOR, "fingerprint")
SPELLED = ["https://API.assemblyai.com:443/", "https://API.assemblyai.com", f"{VENDOR}:443"]
CDN = "https://cdn.assemblyai.com/upload"


@dataclass(frozen=True)
class Left:
    """A recording as an earlier run left it: the state of its transcript and of its attempt."""

    name: str
    transcript: str
    attempt: str
    outcome: str | None = None

    @property
    def content(self) -> str:
        return sha256(self.name.encode()).hexdigest()

    def key(self, kind: str) -> str:
        return request_key(self.content, "{}", kind)


WRITTEN = Left("written.wav", "written", "accepted", "completed")
OPEN = Left("open.wav", "submitted", "accepted")
LOST = Left("lost.wav", "open", "ambiguous")
PAID = Left("paid.wav", "completed", "accepted", "completed")
GONE = Left("gone.wav", "missing", "accepted", "missing")
LEFT = (WRITTEN, OPEN, LOST, PAID, GONE)
SIZE = 3


def former(path: Path, base_url: str, *, rival: str | None = None) -> None:
    """A ledger of version 4 whose provider was spelled so; `rival` is the state of transcripts of
    the same contents under the vendor's own name."""
    schema = Path(__file__).with_name("schema_4.sql").read_text()
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(f"{schema} PRAGMA user_version = 4;")
        for number, left in enumerate(LEFT, 1):
            _put(db, number, left, base_url)
            if rival is not None:
                db.execute(
                    "INSERT INTO transcripts (request_key, generation, content, options, provider,"
                    " state, reason) VALUES (?,1,?,'{}','assemblyai',?,'no')",
                    (left.key("assemblyai"), left.content, rival),
                )
        db.executemany(
            "INSERT INTO requests VALUES (?,?,?)", [(base_url, 100, 2), (VENDOR, 100, 3)]
        )


def _put(db: sqlite3.Connection, number: int, left: Left, base_url: str) -> None:
    path, key = left.name.encode(), left.key("custom")
    has_result = left is WRITTEN
    db.execute(
        "INSERT INTO recordings (recording_id, root, path, size, mtime_ns, ctime_ns, inode,"
        " settled, content, options, request_key, state, result, result_fold, result_size,"
        " result_sha256, result_key, result_generation, run_id)"
        " VALUES (?,?,?,?,1,1,1,1,?,'{}',?,?,?,?,?,?,?,?,?)",
        (
            *(number, "root", path, SIZE, left.content, key),
            *("written" if has_result else "found", result_name(path), left.name),
            *((9, "ab", key, 1) if has_result else (None, None, None, None)),
            "run-1",
        ),
    )
    db.execute(
        "INSERT INTO transcripts (request_key, generation, content, options, provider, state,"
        " reason) VALUES (?,1,?,'{}','custom',?,'gone')",
        (key, left.content, left.transcript),
    )
    db.execute(
        "INSERT INTO attempts (recording_id, request_key, generation, content, state, outcome,"
        " owner, base_url, key_fingerprint, upload_url, transcript_id, started_at, submitted_at,"
        " accepted_at) VALUES (?,?,1,?,?,?,'run-1',?,'fingerprint',?,?,1,1,1)",
        (
            *(number, key, left.content, left.attempt, left.outcome, base_url.rstrip("/")),
            f"{CDN}/{number}",
            f"id-{left.name}" if left.attempt == "accepted" else None,
        ),
    )
    db.execute(
        "INSERT INTO versions (recording_id, run_id, replaced_at, result_key, result_generation,"
        " result_size, result_sha256, replaced_by) VALUES (?,'run-1',1,?,1,9,'cd','ab')",
        (number, key),
    )


async def seen_again(ledger: Ledger) -> None:
    """The scan of the next run sees every recording as it was, and the result that there is."""
    entries = [entry(left.name.encode(), size=SIZE) for left in LEFT]
    await ledger.record_found("root", entries, {result_name(b"written.wav"): 9}.get, ())


async def rows(ledger: Ledger, query: str) -> list[tuple[object, ...]]:
    """What stands in the ledger."""
    return await anyio.to_thread.run_sync(lambda: [tuple(row) for row in ledger.ro.execute(query)])


@pytest.mark.parametrize("rival", [None, "wanted", "failed"])
@pytest.mark.parametrize("base_url", SPELLED)
async def test_what_was_paid_under_another_spelling_is_the_vendors(
    tmp_path: Path, base_url: str, rival: str | None
) -> None:
    """Open attempts are worked on, results are written, and nothing is due to be asked for."""
    former(tmp_path / "ledger.sqlite3", base_url, rival=rival)

    async with ledger_at(tmp_path, NOW, Clock()) as ledger:
        await seen_again(ledger)

        assert await ledger.claim(10) == []
        assert {each.transcript_id for each in await ledger.pending()} == {
            "id-open.wav",
            "id-paid.wav",
            "id-gone.wav",  # a result of it lies among the versions
        }
        assert [each.upload_url for each in await ledger.unresolved()] == [f"{CDN}/3"]
        assert await ledger.named_by("http://proxy/upload/3?x=1") == [3]
        assert await ledger.elsewhere() == []
        standing = await ledger.standing()
        assert {key[1] for key in standing} == {"already_written", "parked"}
        assert await rows(ledger, "SELECT DISTINCT base_url FROM attempts") == [(VENDOR,)]
        assert await rows(ledger, "SELECT * FROM requests") == [(VENDOR, 100, 5)]
        keys = {(left.key("assemblyai"), 1) for left in LEFT}
        for query in (
            "SELECT request_key, generation FROM transcripts",
            "SELECT request_key, generation FROM attempts",
            "SELECT request_key, generation FROM recordings",
            "SELECT result_key, result_generation FROM versions",
        ):
            assert set(await rows(ledger, query)) == keys


async def test_what_was_paid_under_both_is_kept_of_both(tmp_path: Path) -> None:
    """A place that was paid for under the vendor's name is kept, the other comes behind it."""
    former(tmp_path / "ledger.sqlite3", SPELLED[0], rival="written")

    async with ledger_at(tmp_path, NOW, Clock()) as ledger:
        await seen_again(ledger)

        assert await ledger.claim(10) == []
        assert len(await rows(ledger, "SELECT 1 FROM transcripts")) == 2 * len(LEFT)
        assert len(await ledger.pending()) == 3
        assert len(await ledger.unresolved()) == 1


async def test_another_provider_keeps_its_keys(tmp_path: Path) -> None:
    """What a server of another host did stays its own, in one spelling of its address."""
    path = tmp_path / "ledger.sqlite3"
    former(path, "http://LOCALHOST:80/v2/")
    here = replace(NOW, provider_kind="custom", base_url="http://localhost", redo=Redo())

    async with ledger_at(tmp_path, here, Clock()) as ledger:
        await seen_again(ledger)

        assert await ledger.claim(10) == []
        assert len(await ledger.pending()) == 3
        assert {(left.key("custom"),) for left in LEFT} == set(
            await rows(ledger, "SELECT request_key FROM transcripts")
        )


@pytest.mark.parametrize("base_url", SPELLED)
def test_a_journal_of_before_is_read_as_of_today(base_url: str) -> None:
    """A line that spells the vendor otherwise is the vendor's, as the ledger has it by now."""
    facts = {
        "transcript_id": "id-1",
        "upload_url": f"{CDN}/1",
        "request_key": OPEN.key("custom"),
        "generation": 1,
        "content": OPEN.content,
        "options": {},
        "provider": "custom",
        "base_url": base_url,
        "key_fingerprint": "fingerprint",
        "root": "root",
        "path": OPEN.name,
        "path_hex": OPEN.name.encode().hex(),
        "accepted_at": 1.0,
    }

    line = parse_line(json.dumps(facts).encode())
    elsewhere = parse_line(json.dumps(facts | {"base_url": "http://HERE:80"}).encode())

    assert line is not None
    assert elsewhere is not None
    of_today = (VENDOR, "assemblyai", OPEN.key("assemblyai"))
    assert (line.base_url, line.provider, line.request_key) == of_today
    assert (elsewhere.base_url, elsewhere.request_key) == ("http://here", OPEN.key("custom"))
