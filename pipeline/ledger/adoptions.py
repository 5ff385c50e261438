"""
Results that other programs paid for: in, what they are and of which recording; out, rows as if a
run of ours had written them.

An adopted transcript is known to be complete and on disk, and nothing else: nobody asks for it, and
with which key it was asked for is not known.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from pipeline.addresses import address_path
from pipeline.ledger.books import Reading
from pipeline.ledger.journal import Line
from pipeline.ledger.recordings import Recordings
from pipeline.ledger.store import reading, transition
from pipeline.ledger.uploads import named_by
from pipeline.models import Completion, request_key

__all__ = ["Adoption", "Adoptions", "Adoptive"]


@dataclass(frozen=True, slots=True)
class Adoptive:
    """A recording that this run has found, and whether it can take a result."""

    recording_id: int
    root: str
    path: bytes
    """Relative to its root."""
    result: bytes
    """Where its JSON goes, relative to the output folder."""
    options: str
    """Canonical JSON of what the user sets for it now."""
    transcript_id: str | None
    """Of the result that it has or waits for."""
    why_not: str | None
    """Why it takes none, None if it does."""
    is_lost: bool
    """The result of its transcript, which was paid for, is not on disk: that one it takes."""

    def takes(self, transcript_id: str) -> bool:
        """Whether it can take a result of this transcript."""
        return self.why_not is None or (self.is_lost and self.transcript_id == transcript_id)


@dataclass(frozen=True, slots=True)
class Adoption:
    """A result that lies on disk, and the recording that it is of."""

    recording_id: int
    read: Reading
    """What the recording holds."""
    transcript_id: str
    audio_url: str | None
    options: str
    """Canonical JSON of what it was made with, as far as that is known."""
    provider: str
    """`assemblyai`, `local` or `custom`."""
    base_url: str
    key_fingerprint: str
    """Empty where it is not known."""
    made_at: float
    """Unix time at which it was there at the latest."""
    completion: Completion
    size: int
    """Bytes."""
    digest: str
    """sha256, hex."""

    @property
    def is_plain(self) -> bool:
        """Whether another tool made it with no option."""
        return not self.key_fingerprint and self.options == "{}"


class Adoptions(Recordings):
    """Transitions of results that were not asked for here."""

    @reading
    def adoptive_after(self, recording_id: int, limit: int) -> list[Adoptive]:
        """The next recordings by id that this run has found, at most `limit`."""
        rows = self.ro.execute(
            "SELECT r.recording_id, r.root, r.path, r.result, r.options,"
            " (SELECT max(a.transcript_id) FROM attempts a WHERE a.outcome IS NOT 'error'"
            "  AND a.request_key = coalesce(r.result_key, r.request_key)"
            "  AND a.generation = coalesce(r.result_generation, r.generation)),"
            " CASE WHEN r.result_size IS NOT NULL THEN 'it has a result'"
            "  WHEN r.state = 'skipped' THEN r.reason"
            "  WHEN t.state IN ('open', 'submitted', 'completed')"
            "   THEN 'its transcript is under way' END,"
            " r.result_size IS NULL AND t.state IS 'completed'"
            " FROM seen s CROSS JOIN recordings r USING (recording_id)"
            " LEFT JOIN transcripts t USING (request_key, generation)"
            " WHERE s.recording_id > ? ORDER BY s.recording_id LIMIT ?",
            (recording_id, limit),
        )
        return [Adoptive(*row) for row in rows]

    @reading
    def why_not_adopted(self, adoption: Adoption) -> str | None:
        """Why the ledger does not take a transcript for one of such a content, None if it does."""
        return _why_not(self.ro, adoption)

    @transition
    def record_adopted(self, adoptions: Sequence[Adoption]) -> list[str | None]:
        """
        Note results that are durable where those of their recordings go; of each why not, if not.

        A transcript that is known already is of one more recording then, if that holds the same.
        """
        return [self._adopt_one(adoption) for adoption in adoptions]

    def _adopt_one(self, adoption: Adoption) -> str | None:
        row = self.db.execute(
            "SELECT r.*, f.folder FROM recordings r LEFT JOIN roots f ON f.name = r.root"
            " WHERE recording_id = ?",
            (adoption.recording_id,),
        ).fetchone()
        if why_not := _why_not(self.db, adoption):
            return why_not
        known = _known(self.db, adoption.transcript_id)
        if known is None:
            key, generation = self._add_adopted(row, adoption)
        else:
            key, generation = known["request_key"], known["generation"]
            self.db.execute(
                "UPDATE attempts SET outcome = 'completed', reason = 'adopted'"
                " WHERE attempt_id = ? AND outcome = 'missing'",
                (known["attempt_id"],),
            )
        self._give(row, adoption, key, generation)
        return None

    def _add_adopted(self, row: sqlite3.Row, adoption: Adoption) -> tuple[str, int]:
        """Note the transcript itself; its request key and generation."""
        content, at = adoption.read.content, adoption.made_at
        key = request_key(content, adoption.options, adoption.provider)
        newest = self.db.execute(
            "SELECT generation, state FROM transcripts WHERE request_key = ?"
            " ORDER BY generation DESC LIMIT 1",
            (key,),
        ).fetchone()
        generation = 1
        if newest is not None:  # the place of one that nothing was paid for is free
            generation = newest["generation"] + (newest["state"] not in ("wanted", "failed"))
        self.db.execute(
            "INSERT OR REPLACE INTO transcripts (request_key, generation, content, options,"
            " provider, state) VALUES (?,?,?,?,?,'written')",
            (key, generation, content, adoption.options, adoption.provider),
        )
        done = adoption.completion
        self.db.execute(
            "INSERT INTO attempts (recording_id, request_key, generation, content, state, outcome,"
            " reason, owner, base_url, key_fingerprint, upload_url, upload_path, transcript_id,"
            " started_at, accepted_at, finished_at, model_used, duration_s, price_usd, confidence,"
            " language_code, odd)"
            " VALUES (?,?,?,?,'accepted','completed','adopted',?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                *(adoption.recording_id, key, generation, content, self.run.run_id),
                *(adoption.base_url, adoption.key_fingerprint, _upload_url(adoption)),
                address_path(_upload_url(adoption)),
                *(adoption.transcript_id, at, at, at, done.model_used, done.duration_s),
                *(done.price_usd, done.confidence, done.language_code, done.odd),
            ),
        )
        self.db.execute("DELETE FROM unclaimed WHERE transcript_id = ?", (adoption.transcript_id,))
        line = Line(
            transcript_id=adoption.transcript_id,
            upload_url=_upload_url(adoption),
            request_key=key,
            generation=generation,
            content=content,
            options=msgspec.Raw(adoption.options.encode()),
            provider=adoption.provider,
            base_url=adoption.base_url,
            key_fingerprint=adoption.key_fingerprint,
            root=row["root"],
            path=row["path"].decode("utf-8", "backslashreplace"),
            path_hex=row["path"].hex(),
            accepted_at=at,
            folder_hex=(row["folder"] or b"").hex(),
            result_hex=row["result"].hex(),
        )
        self._note_line(msgspec.json.encode(line))
        return key, generation

    def _give(self, row: sqlite3.Row, adoption: Adoption, key: str, generation: int) -> None:
        """Note that a recording has a result; others that wait for the same get a copy of it."""
        read = adoption.read
        asked_for = request_key(read.content, row["options"], self.run.provider_kind)
        self.db.execute(
            "UPDATE recordings SET state = 'written', reason = NULL, content = ?, edges = ?,"
            " size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, settled = ?, request_key = ?,"
            " generation = ?, duration_s = ?, result_size = ?, result_sha256 = ?, result_key = ?,"
            " result_generation = ?, written_run = ?, lacking = NULL, kept = ?, waits = 0"
            " WHERE recording_id = ?",
            (
                *(read.content, read.edges, read.size, read.mtime_ns, read.ctime_ns, read.inode),
                *(read.settled, key, generation, adoption.completion.duration_s, adoption.size),
                *(adoption.digest, key, generation, self.run.run_id),
                *(self._is_other(self.db, asked_for, key, generation),),
                adoption.recording_id,
            ),
        )
        self.db.execute(
            "UPDATE transcripts SET reason = NULL, state = iif(EXISTS (SELECT 1 FROM recordings"
            " WHERE request_key = :key AND generation = :generation AND state = 'found'),"
            " 'completed', 'written') WHERE request_key = :key AND generation = :generation",
            {"key": key, "generation": generation},
        )


def _known(db: sqlite3.Connection, transcript_id: str) -> sqlite3.Row | None:
    row: sqlite3.Row | None = db.execute(
        "SELECT * FROM attempts WHERE transcript_id = ?", (transcript_id,)
    ).fetchone()
    return row


def _why_not(db: sqlite3.Connection, adoption: Adoption) -> str | None:
    known = _known(db, adoption.transcript_id)
    if known is None:
        named = named_by(db, _upload_url(adoption))
        if len(named) != 1:
            return None
        other, state = db.execute(
            "SELECT coalesce(transcript_id, claimed_id), state FROM attempts WHERE attempt_id = ?",
            named,
        ).fetchone()
        if other is not None:
            return f"of its `audio_url` the ledger knows the transcript {other}"
        if state in ("submitting", "ambiguous"):
            return "its `audio_url` is of an upload whose answer was lost: a run looks for it"
        return "its `audio_url` is of an upload here, of which no transcript is known"
    if known["content"] != adoption.read.content:
        return "the ledger knows this transcript as that of other bytes"
    if known["outcome"] not in ("completed", "missing"):
        return "the ledger waits for this transcript: the next run looks at it"
    return None


def _upload_url(adoption: Adoption) -> str:
    """What the service knows the bytes by; of answers that do not tell, a name of ours."""
    return adoption.audio_url or f"unknown:{adoption.transcript_id}"
