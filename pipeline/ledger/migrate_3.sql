-- From schema 3 to 4: what an attempt is expected to come to, what its answer is like, and what a result replaced.

ALTER TABLE attempts ADD COLUMN confidence REAL;
ALTER TABLE attempts ADD COLUMN language_code TEXT;
ALTER TABLE attempts ADD COLUMN expected_s REAL;
ALTER TABLE attempts ADD COLUMN expected_usd REAL;
ALTER TABLE recordings ADD COLUMN promote TEXT CHECK (promote IN ('better', 'never'));

CREATE TABLE versions (
  version_id        INTEGER PRIMARY KEY,
  recording_id      INTEGER NOT NULL REFERENCES recordings,
  run_id            TEXT    NOT NULL,
  replaced_at       REAL    NOT NULL,
  result_key        TEXT    NOT NULL,
  result_generation INTEGER NOT NULL,
  result_size       INTEGER NOT NULL,
  result_sha256     TEXT    NOT NULL,
  duration_s        REAL,
  written_run       TEXT,
  replaced_by       TEXT    NOT NULL,
  promote           TEXT CHECK (promote IN ('better', 'never')),
  rollback_run      TEXT
) STRICT;

CREATE INDEX versions_by_run ON versions (run_id, recording_id);
CREATE INDEX versions_by_recording ON versions (recording_id);
CREATE INDEX versions_by_result ON versions (result_key, result_generation);
CREATE INDEX versions_unsettled ON versions (version_id) WHERE promote IS NOT NULL;
