-- From schema 4 to 5: what may be asked of ids and addresses that are in doubt, results that never were
-- current, and what an older ledger does not know.

ALTER TABLE attempts ADD COLUMN upload_path TEXT;
ALTER TABLE attempts ADD COLUMN claimed_id TEXT;
ALTER TABLE attempts ADD COLUMN counted INTEGER NOT NULL DEFAULT 1;
ALTER TABLE attempts ADD COLUMN odd TEXT;
ALTER TABLE attempts ADD COLUMN unknown_since REAL;
ALTER TABLE attempts ADD COLUMN unknown_at REAL;

-- What was missing after two looks of whatever distance is looked for again.
UPDATE attempts SET unknown_since = finished_at, unknown_at = finished_at
WHERE outcome = 'missing' AND reason LIKE 'the service no longer has it%';

CREATE INDEX attempts_by_upload_path ON attempts (upload_path) WHERE upload_path IS NOT NULL;
CREATE INDEX attempts_unknown ON attempts (unknown_at) WHERE unknown_at IS NOT NULL;

ALTER TABLE versions RENAME TO versions_4;
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
  replaced_by       TEXT,
  promote           TEXT CHECK (promote IN ('better', 'never')),
  rollback_run      TEXT
) STRICT;
INSERT INTO versions SELECT * FROM versions_4;
DROP TABLE versions_4;
CREATE INDEX versions_by_run ON versions (run_id, recording_id);
CREATE INDEX versions_by_recording ON versions (recording_id);
CREATE INDEX versions_by_result ON versions (result_key, result_generation);
CREATE INDEX versions_unsettled ON versions (version_id) WHERE promote IS NOT NULL;

CREATE TABLE runs (
  run_id   TEXT NOT NULL PRIMARY KEY,
  began_at REAL NOT NULL
) STRICT;
INSERT INTO runs SELECT owner, min(started_at) FROM attempts GROUP BY owner ORDER BY max(attempt_id);

CREATE TABLE trusted_keys (
  key_fingerprint TEXT NOT NULL PRIMARY KEY,
  trusted_at      REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Addresses have one spelling from here on, and the vendor is the vendor however its host was spelled:
-- else what was paid for under another spelling would be asked for again. A place that another spelling
-- has, and that nothing was paid for, is free; behind one that was paid for comes the next generation.
UPDATE attempts SET upload_path = address_path(upload_url) WHERE upload_url IS NOT NULL;

CREATE TEMP TABLE respelled AS
SELECT DISTINCT t.request_key AS former, request_key(t.content, t.options, 'assemblyai') AS request_key, 0 AS behind
FROM transcripts t JOIN attempts a USING (request_key)
WHERE t.provider = 'custom' AND provider_kind(a.base_url) = 'assemblyai';
UPDATE respelled SET behind = coalesce((
  SELECT max(t.generation) FROM transcripts t
  WHERE t.request_key = respelled.request_key AND t.state NOT IN ('wanted', 'failed')), 0);
CREATE INDEX temp.respelled_by_former ON respelled (former);
DELETE FROM transcripts WHERE EXISTS (
  SELECT 1 FROM respelled s WHERE s.request_key = transcripts.request_key AND transcripts.generation > s.behind);
UPDATE transcripts SET provider = 'assemblyai', request_key = s.request_key, generation = generation + s.behind
FROM respelled s WHERE transcripts.request_key = s.former;
UPDATE attempts SET request_key = s.request_key, generation = generation + s.behind
FROM respelled s WHERE attempts.request_key = s.former;
UPDATE recordings SET request_key = s.request_key, generation = generation + s.behind
FROM respelled s WHERE recordings.request_key = s.former;
UPDATE recordings SET result_key = s.request_key, result_generation = result_generation + s.behind
FROM respelled s WHERE recordings.result_key = s.former;
UPDATE versions SET result_key = s.request_key, result_generation = result_generation + s.behind
FROM respelled s WHERE versions.result_key = s.former;
DROP TABLE respelled;

UPDATE attempts SET base_url = canonical_base_url(base_url);
CREATE TEMP TABLE requests_4 AS
SELECT canonical_base_url(base_url) AS base_url, second, sum(count) AS count FROM requests GROUP BY 1, 2;
DELETE FROM requests;
INSERT INTO requests SELECT base_url, second, count FROM requests_4;
DROP TABLE requests_4;
