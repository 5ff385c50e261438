-- From schema 1 to 2: where recordings lie, what is deleted at the service, what nobody claims.

ALTER TABLE attempts ADD COLUMN deletion TEXT CHECK (deletion IN ('due', 'done'));

CREATE INDEX attempts_to_delete ON attempts (attempt_id) WHERE deletion = 'due';

CREATE TABLE roots (
  name   TEXT NOT NULL PRIMARY KEY,
  folder BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE unclaimed (
  transcript_id TEXT NOT NULL PRIMARY KEY,
  status        TEXT NOT NULL,
  audio_url     TEXT
) STRICT, WITHOUT ROWID;
