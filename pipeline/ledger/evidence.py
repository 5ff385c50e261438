"""
What stands in a ledger, to be held against the disk and the account: in, a connection that only
reads, and what was found elsewhere; out, rows.

Rows come a page at a time, so that a run beside is not kept from tidying its log, and what was
found elsewhere lies in temporary tables of this connection: memory does not grow with either.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any

from pipeline.addresses import address_path, same_upload
from pipeline.errors import SettingsError
from pipeline.ledger.accounts import STANDING, billed
from pipeline.ledger.store import read_only, unusable
from pipeline.names import derived

__all__ = [
    "Saved",
    "compare",
    "damage",
    "listed_anew",
    "look_again",
    "mark_listed",
    "opened",
    "orphans",
    "outcomes",
    "results",
    "said",
    "spending",
    "state_of",
    "strays",
    "suspects",
    "why",
]

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Saved:
    """A result as the ledger knows it, and the recording that it is of."""

    recording_id: int
    folder: bytes | None
    """Absolute path of its root; None where no run has noted it."""
    path: bytes
    content: str | None
    """sha256 of the bytes that were read last, hex."""
    state: str
    result: bytes
    """Its JSON file, relative to the output folder."""
    digest: str
    """sha256 of the file, hex."""
    transcript_id: str | None
    key: str
    """Of the transcript; with `generation`."""
    generation: int

    @property
    def source(self) -> bytes | None:
        """Where the recording is, None if that is not known or it is to be looked at anyhow."""
        is_known = self.folder is not None and self.content and self.state == "written"
        return os.path.join(self.folder or b"", self.path) if is_known else None


@contextmanager
def opened(state: Path) -> Iterator[sqlite3.Connection]:
    """
    A connection to the ledger of a state folder that only reads.

    Raises:
        SettingsError: there is none.
        LedgerUnusable: it is damaged, or cannot be opened.
    """
    path = state / "ledger.sqlite3"
    if not path.is_file():
        raise SettingsError(f"there is no ledger in {state}: has anything been run there?")
    db = read_only(path)
    db.isolation_level = None  # or the temporary tables would hold on to one state of the ledger
    try:
        yield db
    except sqlite3.DatabaseError as error:
        raise unusable(error, path) from error
    finally:
        db.close()


def said(db: sqlite3.Connection) -> tuple[list[tuple[str, float]], list[str]]:
    """
    What the user has said that stands nowhere but in a ledger.

    Keys that are trusted, with the time, and ids of transcripts that are due to be deleted.
    """
    keys = db.execute("SELECT key_fingerprint, trusted_at FROM trusted_keys").fetchall()
    due = db.execute("SELECT transcript_id FROM attempts WHERE deletion = 'due'").fetchall()
    return [tuple(row) for row in keys], [row[0] for row in due]


def damage(db: sqlite3.Connection) -> Iterator[str]:
    """What SQLite finds wrong with the ledger itself."""
    for (said,) in db.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield said


# --- results --------------------------------------------------------------------------------------

# Not those that are on their way: a new one of other options or bytes may be put there any moment.
_SAVED = """
SELECT r.recording_id, f.folder, r.path, r.content, r.state, r.result, r.result_sha256,
  a.transcript_id, r.result_key, r.result_generation
FROM recordings r
LEFT JOIN roots f ON f.name = r.root
LEFT JOIN transcripts t USING (request_key, generation)
LEFT JOIN attempts a ON a.request_key = r.result_key AND a.generation = r.result_generation
  AND a.state = 'accepted' AND a.outcome IS NOT 'error'
WHERE r.result_sha256 IS NOT NULL AND CASE
  WHEN r.state = 'found' AND r.request_key = r.result_key
    AND r.generation = r.result_generation THEN 1
  WHEN r.state = 'found' AND t.state = 'completed' THEN 0
  ELSE r.result_size IS NOT NULL
END
"""


def results(db: sqlite3.Connection) -> Iterator[Saved]:
    """Every result that should be on disk."""
    for row in _paged(db, _SAVED + " AND r.recording_id > ?"):
        yield Saved(*row)


def look_again(db: sqlite3.Connection, recording_id: int) -> Saved | None:
    """The same result as the ledger knows it now, None when it is on its way."""
    row = db.execute(f"{_SAVED} AND r.recording_id = ?", (recording_id,)).fetchone()
    return row and Saved(*row)


def why(db: sqlite3.Connection, recording_id: int) -> str | None:
    """What keeps a recording from having its result."""
    query = f"SELECT why FROM ({STANDING} WHERE r.recording_id = :recording)"
    row = db.execute(query, {"run": "", "recording": recording_id}).fetchone()
    return None if row is None else row["why"]


def state_of(db: sqlite3.Connection, key: str, generation: int) -> str:
    """The state of a transcript."""
    query = "SELECT state FROM transcripts WHERE request_key = ? AND generation = ?"
    (state,) = db.execute(query, (key, generation)).fetchone()
    return str(state)


def strays(
    db: sqlite3.Connection, lying: Iterable[bytes], suffixes: Iterable[str], output: bytes
) -> Iterator[bytes]:
    """
    Which of the files that lie in the output folder belong to no recording.

    A recording's own are its result, what `suffixes` are made from it, and itself: the output
    folder may hold the input.
    """
    db.execute("CREATE TEMP TABLE lying (path BLOB NOT NULL PRIMARY KEY) WITHOUT ROWID")
    _change(db, "INSERT OR IGNORE INTO lying VALUES (?)", ((path,) for path in lying))
    known = _names(db, list(suffixes), os.path.join(output, b""))
    _change(db, "DELETE FROM lying WHERE path = ?", ((path,) for path in known))
    for (path,) in db.execute("SELECT path FROM lying"):
        yield path


def _names(db: sqlite3.Connection, suffixes: list[str], output: bytes) -> Iterator[bytes]:
    """What each recording and what belongs to it is called below the output folder."""
    query = (
        "SELECT r.recording_id, r.result, f.folder, r.path FROM recordings r"
        " LEFT JOIN roots f ON f.name = r.root WHERE r.recording_id > ?"
    )
    for _, result, folder, path in _paged(db, query):
        yield result
        yield from (derived(result, suffix) for suffix in suffixes)
        where = os.path.join(folder or b"", path)
        if where.startswith(output):
            yield where.removeprefix(output)


def _paged(db: sqlite3.Connection, query: str) -> Iterator[sqlite3.Row]:
    """What a query gives whose first column is the id of a recording, and is above a parameter."""
    last = 0
    while page := db.execute(f"{query} ORDER BY 1 LIMIT {_PAGE}", (last,)).fetchall():
        yield from page
        last = page[-1][0]


def _change(db: sqlite3.Connection, query: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """A temporary table, row by row; `rows` are not read within a transaction."""
    each = iter(rows)
    while page := list(islice(each, _PAGE)):
        db.execute("BEGIN")
        db.executemany(query, page)
        db.execute("COMMIT")


# --- transcripts ----------------------------------------------------------------------------------

_UNUSED = """
SELECT a.transcript_id, r.root, r.path, a.request_key, a.generation
FROM attempts a
JOIN transcripts t USING (request_key, generation)
JOIN recordings r USING (recording_id)
WHERE a.outcome = 'completed' AND t.state = 'written'
  AND (a.request_key, a.generation) NOT IN (
    SELECT result_key, result_generation FROM recordings WHERE result_size IS NOT NULL)
"""
"""What was paid and saved, and no recording has; none waits for it, or it were not `written`."""


def orphans(
    db: sqlite3.Connection, versions: Iterable[str]
) -> Iterator[tuple[str, str, bytes, str, int]]:
    """
    What was paid for and lies nowhere: transcript id, root, path, request key and generation.

    `versions` are the ids of replaced results, which are looked through only if need be.
    """
    db.execute("CREATE TEMP TABLE unused AS " + _UNUSED)
    if db.execute("SELECT 1 FROM unused").fetchone():
        _change(db, "DELETE FROM unused WHERE transcript_id = ?", ((each,) for each in versions))
    for row in db.execute("SELECT * FROM unused"):
        yield tuple(row)


def suspects(db: sqlite3.Connection) -> Iterator[tuple[str, str, bytes, str]]:
    """Saved transcripts of which something is odd: transcript id, root, path, and what it is."""
    yield from db.execute(
        "SELECT a.transcript_id, r.root, r.path, a.odd"
        " FROM attempts a JOIN recordings r USING (recording_id)"
        " WHERE a.odd IS NOT NULL AND a.outcome = 'completed' ORDER BY a.attempt_id"
    )


def outcomes(db: sqlite3.Connection) -> dict[str, int]:
    """How many recordings stand how, as the last run left them."""
    query = f"SELECT replace(outcome, 'already_', ''), count(*) FROM ({STANDING}) GROUP BY 1"
    return dict(db.execute(query, {"run": ""}).fetchall())


def spending(db: sqlite3.Connection, prices: Mapping[str, float]) -> dict[str, Any]:
    """What was asked for and what it came to, counted."""
    row = db.execute(
        """
        SELECT count(*) AS transcripts,
          count(DISTINCT content) AS contents,
          count(DISTINCT request_key) AS wishes,
          count(DISTINCT request_key || generation) AS generations
        FROM attempts WHERE state = 'accepted' AND outcome IS NOT 'error'
        """
    ).fetchone()
    outcomes = db.execute(
        "SELECT coalesce(outcome, 'open'), count(*) FROM attempts "
        "WHERE state = 'accepted' GROUP BY 1 ORDER BY 1"
    )
    count = "SELECT count(*) FROM "
    (unknown,) = db.execute(
        count + "attempts WHERE state IN ('submitting', 'ambiguous')"
    ).fetchone()
    (unclaimed,) = db.execute(count + "unclaimed").fetchone()
    deletions = db.execute(
        "SELECT deletion, count(*) FROM attempts WHERE deletion IS NOT NULL GROUP BY 1"
    )
    return {
        "contents": row["contents"],
        "transcripts": row["transcripts"],
        "other_options": row["wishes"] - row["contents"],
        "asked_again": row["generations"] - row["wishes"],
        "duplicates": row["transcripts"] - row["generations"],
        "outcomes": dict(outcomes.fetchall()),
        "unknown": unknown,
        "unclaimed": unclaimed,
        "deletions": {"due": 0, "done": 0} | dict(deletions.fetchall()),
    } | billed(db, prices)


# --- the account's list ---------------------------------------------------------------------------


def listed_anew(db: sqlite3.Connection) -> None:
    """Make room for the rows of the account's list."""
    db.execute(
        "CREATE TEMP TABLE listed (transcript_id TEXT NOT NULL PRIMARY KEY, status TEXT NOT NULL,"
        " audio_url TEXT, path TEXT) WITHOUT ROWID"
    )
    db.execute("CREATE INDEX temp.listed_by_audio ON listed (audio_url)")


def mark_listed(db: sqlite3.Connection, rows: Iterable[tuple[str, str, str | None]]) -> None:
    """Note a page of the list: id, status and `audio_url`."""
    spelled = ((*row, row[2] and address_path(row[2])) for row in rows)
    _change(db, "INSERT OR IGNORE INTO listed VALUES (?,?,?,?)", spelled)


def compare(
    db: sqlite3.Connection, base_url: str, deleted: str, since: float
) -> tuple[dict[str, int], Iterator[tuple[str, str, str]]]:
    """
    The account's list against the ledger: counts, and what does not add up.

    `deleted` is the `audio_url` of what was deleted; what was accepted before `since` (Unix
    seconds) need not be listed any more. Findings are kind, id and what.
    """
    counts = db.execute(
        """
        SELECT count(*) AS listed, count(a.attempt_id) AS ours,
          count(*) - count(a.attempt_id) AS others,
          coalesce(sum(a.attempt_id IS NOT NULL AND l.audio_url = :deleted), 0) AS deleted,
          (SELECT count(*) FROM attempts WHERE state = 'accepted' AND base_url = :here
           AND key_fingerprint <> '' AND transcript_id NOT IN (SELECT transcript_id FROM listed))
           AS unlisted
        FROM listed l LEFT JOIN attempts a USING (transcript_id)
        """,
        {"deleted": deleted, "here": base_url},
    ).fetchone()
    return dict(counts), _contradictions(db, base_url, since)


def _contradictions(
    db: sqlite3.Connection, base_url: str, since: float
) -> Iterator[tuple[str, str, str]]:
    exact = db.execute(
        "SELECT l.transcript_id, l.status, a.state, a.transcript_id FROM listed l"
        " JOIN attempts a ON a.upload_url = l.audio_url"
        " WHERE a.transcript_id IS NOT l.transcript_id AND l.status <> 'error'"
        " AND a.state <> 'submitting'"
    )
    twice = chain(exact, _in_another_spelling(db))
    for transcript_id, status, state, known in twice:
        if known is not None:
            yield "twice", transcript_id, f"{status}; the same upload is {known} here"
        elif state == "ambiguous":
            yield "unknown", transcript_id, f"{status}; its answer was lost, a run will fetch it"
        else:
            yield "orphan", transcript_id, f"{status}; asked for here, and taken as {state}"
    unlisted = db.execute(
        "SELECT transcript_id FROM attempts WHERE state = 'accepted' AND base_url = ?"
        " AND deletion IS NOT 'done' AND outcome IS NOT 'missing' AND accepted_at > ?"
        " AND key_fingerprint <> ''"  # adopted, from who knows which account
        " AND transcript_id NOT IN (SELECT transcript_id FROM listed)",
        (base_url, since),
    )
    for (transcript_id,) in unlisted:
        yield "unlisted", transcript_id, "not in the list (it goes back 90 days)"


def _in_another_spelling(db: sqlite3.Connection) -> Iterator[tuple[str, str, str, str | None]]:
    """The same of transcripts that nobody here knows, and whose address one upload may have."""
    rows = db.execute(
        "SELECT l.transcript_id, l.status, l.audio_url, a.upload_url, a.state, a.transcript_id"
        " FROM listed l JOIN attempts a ON a.upload_path = l.path"
        " WHERE l.status <> 'error' AND l.transcript_id NOT IN"
        " (SELECT transcript_id FROM attempts WHERE transcript_id IS NOT NULL)"
        " AND NOT EXISTS (SELECT 1 FROM attempts e WHERE e.upload_url = l.audio_url)"
        " ORDER BY l.transcript_id"
    )
    for (transcript_id, status, audio_url), group in groupby(rows, key=lambda row: tuple(row[:3])):
        alike = [row for row in group if same_upload(row["upload_url"], audio_url)]
        if len(alike) == 1 and alike[0]["state"] != "submitting":
            yield transcript_id, status, alike[0]["state"], alike[0][5]
