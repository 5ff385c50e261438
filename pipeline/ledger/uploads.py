"""
Which upload of ours an address or an id is that of: in, a connection, and that; out, attempts.

The service echoes the address of an upload, and may spell it otherwise than it gave it. The exact
one counts first; only where there is none do other spellings.
"""

import sqlite3

from pipeline.addresses import address_path, same_upload

__all__ = ["knows_id", "named_by", "names_another"]


def knows_id(db: sqlite3.Connection, transcript_id: str) -> bool:
    """Whether a transcript is that of an upload of ours, as far as is known here."""
    query = "SELECT 1 FROM attempts WHERE transcript_id = ?"
    return db.execute(query, (transcript_id,)).fetchone() is not None


def named_by(db: sqlite3.Connection, audio_url: str) -> list[int]:
    """The attempts whose upload an address may be that of: one where it is certain."""
    exact = db.execute("SELECT attempt_id FROM attempts WHERE upload_url = ?", (audio_url,))
    if row := exact.fetchone():
        return [row[0]]
    alike = db.execute(
        "SELECT attempt_id, upload_url FROM attempts WHERE upload_path = ?",
        (address_path(audio_url),),
    )
    return [attempt_id for attempt_id, ours in alike if same_upload(ours, audio_url)]


def names_another(db: sqlite3.Connection, attempt_id: int, audio_url: str) -> bool:
    """Whether an address is that of another upload than an attempt's."""
    named = named_by(db, audio_url)
    return bool(named) and attempt_id not in named
