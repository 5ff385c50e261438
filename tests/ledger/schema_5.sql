-- The ledger: what has been found, what is wanted once, what was tried.
-- States are those of pipeline.models; times are Unix seconds; paths are as the file system spells them.

-- A path. Its result stays named here while a new one is on its way.
CREATE TABLE recordings (
  recording_id  INTEGER PRIMARY KEY,
  root          TEXT    NOT NULL,
  path          BLOB    NOT NULL,
  size          INTEGER NOT NULL,
  mtime_ns      INTEGER NOT NULL,
  ctime_ns      INTEGER NOT NULL,
  inode         INTEGER NOT NULL,
  settled       INTEGER NOT NULL,
  edges         TEXT,                        -- sha256 of the first and last 64 KiB
  content       TEXT,                        -- sha256 of the bytes, NULL until read
  options       TEXT    NOT NULL,            -- canonical JSON of what the user set
  request_key   TEXT,                        -- with generation: the transcript it waits for or has
  generation    INTEGER NOT NULL DEFAULT 1,
  state         TEXT    NOT NULL DEFAULT 'found' CHECK (state IN ('found', 'skipped', 'written')),
  reason        TEXT,                        -- why it was skipped, or failed in run_id
  duration_s    REAL,
  result        BLOB    NOT NULL,            -- its JSON file, relative to the output folder
  result_fold   TEXT    NOT NULL UNIQUE,     -- the same as file systems that fold case and form see it
  result_size   INTEGER,                     -- of what is on disk, NULL when nothing is
  result_sha256 TEXT,
  result_key    TEXT,                        -- what the result on disk was made with
  result_generation INTEGER,
  written_run   TEXT,
  lacking       TEXT,                        -- formats to be rendered from the result
  run_id        TEXT    NOT NULL,            -- the last run that saw it and had work with it
  claim         TEXT,                        -- the run that works on it
  kept          INTEGER NOT NULL DEFAULT 0,  -- written with other options than the last run asks for
  redo          INTEGER NOT NULL DEFAULT 0,  -- run_id may ask again; consent is given at the claim
  tries         INTEGER NOT NULL DEFAULT 0,
  due_at        REAL    NOT NULL DEFAULT 0,
  turn          INTEGER NOT NULL DEFAULT 1,  -- in run_id, see pipeline.models.Turn
  place         INTEGER NOT NULL DEFAULT 0,  -- within its turn, by the order that run_id was told
  waits         INTEGER NOT NULL DEFAULT 0,  -- until its transcript is wanted: set when it was not
  promote       TEXT CHECK (promote IN ('better', 'never')), -- of a redo under way, NULL: always
  UNIQUE (root, path),
  CHECK (state <> 'written' OR (result_sha256 IS NOT NULL AND content IS NOT NULL)),
  CHECK (state <> 'skipped' OR reason IS NOT NULL)
) STRICT;

CREATE INDEX recordings_by_key ON recordings (request_key, generation);
CREATE INDEX recordings_by_edges ON recordings (size, edges);
CREATE INDEX recordings_by_result ON recordings (result_key, result_generation) WHERE result_key IS NOT NULL;
CREATE INDEX recordings_by_run ON recordings (written_run) WHERE written_run IS NOT NULL;
CREATE INDEX recordings_due ON recordings (run_id, turn, place, root, path)
  WHERE claim IS NULL AND reason IS NULL AND NOT waits AND (state = 'found' OR redo);
CREATE INDEX recordings_claimed ON recordings (claim) WHERE claim IS NOT NULL;
CREATE INDEX recordings_redo ON recordings (redo) WHERE redo;
CREATE INDEX recordings_lacking ON recordings (recording_id) WHERE lacking IS NOT NULL;

-- What the last run found. A table of its own, so that a night with nothing to do leaves each row
-- above as it is: ended says how a recording stands that there is no work with.
CREATE TABLE seen (
  recording_id INTEGER PRIMARY KEY,
  ended        TEXT CHECK (ended IN ('already_written', 'kept'))
) STRICT;

-- What is wanted once. A generation above 1 is one the user asked for with a flag.
CREATE TABLE transcripts (
  request_key TEXT    NOT NULL,
  generation  INTEGER NOT NULL,
  content     TEXT    NOT NULL,
  options     TEXT    NOT NULL,
  provider    TEXT    NOT NULL CHECK (provider IN ('assemblyai', 'local', 'custom')),
  state       TEXT    NOT NULL DEFAULT 'wanted'
              CHECK (state IN ('wanted', 'open', 'submitted', 'completed', 'written', 'failed', 'missing')),
  reason      TEXT,                          -- why it failed or is missing, or failed before
  parked      TEXT,                          -- why this run leaves it to the next one
  tries       INTEGER NOT NULL DEFAULT 0,    -- times the service failed at it, by its own fault
  due_at      REAL    NOT NULL DEFAULT 0,
  PRIMARY KEY (request_key, generation),
  CHECK (state NOT IN ('failed', 'missing') OR reason IS NOT NULL)
) STRICT, WITHOUT ROWID;

CREATE INDEX transcripts_unfinished ON transcripts (state) WHERE state IN ('open', 'submitted', 'completed');
CREATE INDEX transcripts_left ON transcripts (state) WHERE parked IS NOT NULL OR due_at;

-- Whoever waits for a transcript is passed over until it is wanted, whichever way it came to that.
CREATE TRIGGER transcripts_wanted AFTER UPDATE OF state ON transcripts WHEN NEW.state = 'wanted'
BEGIN
  UPDATE recordings SET waits = 0
  WHERE request_key = NEW.request_key AND generation = NEW.generation AND waits;
END;

-- One upload and at most one submit. Rows are only added, and only move forward.
CREATE TABLE attempts (
  attempt_id      INTEGER PRIMARY KEY,
  recording_id    INTEGER NOT NULL REFERENCES recordings,
  request_key     TEXT,
  generation      INTEGER,
  content         TEXT,
  state           TEXT NOT NULL DEFAULT 'uploading'
                  CHECK (state IN ('uploading', 'uploaded', 'submitting', 'accepted', 'refused', 'ambiguous', 'not_accepted')),
  outcome         TEXT CHECK (outcome IN ('completed', 'error', 'missing')),
  reason          TEXT,
  owner           TEXT NOT NULL,             -- the run that made it
  base_url        TEXT NOT NULL,
  key_fingerprint TEXT NOT NULL,
  upload_url      TEXT UNIQUE,
  anchor          TEXT,                      -- newest transcript listed before the submit
  transcript_id   TEXT UNIQUE,
  started_at      REAL NOT NULL,
  uploaded_at     REAL,
  submitted_at    REAL,
  accepted_at     REAL,
  finished_at     REAL,
  model_used      TEXT,
  duration_s      REAL,
  price_usd       REAL,
  confidence      REAL,                      -- of the whole transcript, 0 to 1, as the service says
  language_code   TEXT,                      -- of what was said, as the service says
  expected_s      REAL,                      -- audio, as estimated before it was asked for
  expected_usd    REAL,
  deletion        TEXT CHECK (deletion IN ('due', 'done')), -- of the service's copy, once it is saved here
  upload_path     TEXT,                      -- of upload_url, percent-decoded: other spellings share it
  claimed_id      TEXT,                      -- an id that came with doubt, kept while it is ambiguous
  counted         INTEGER NOT NULL DEFAULT 1, -- whether a failure says something of its recording
  odd             TEXT,                      -- what is suspicious about its answer, which is saved all the same
  unknown_since   REAL,                      -- the first look at which the service did not know its id
  unknown_at      REAL,                      -- the last one
  CHECK (state IN ('uploading', 'not_accepted') OR (upload_url IS NOT NULL AND request_key IS NOT NULL)),
  CHECK ((state = 'accepted') = (transcript_id IS NOT NULL)),
  CHECK (outcome IS NULL OR state = 'accepted')
) STRICT;

-- Paying once: of all attempts at one request key and generation, one may be alive.
CREATE UNIQUE INDEX attempts_alive ON attempts (request_key, generation)
  WHERE state IN ('submitting', 'ambiguous') OR (state = 'accepted' AND outcome IS NOT 'error');

-- A result that another one took the place of, or that never had one: its recording held other bytes,
-- or had other options, when it came. Its file is in versions/, named by result and sha256.
-- With a promote it is not settled yet whether it comes back: unless the other one is better, or anyhow.
CREATE TABLE versions (
  version_id        INTEGER PRIMARY KEY,
  recording_id      INTEGER NOT NULL REFERENCES recordings,
  run_id            TEXT    NOT NULL,        -- that put another one in its place
  replaced_at       REAL    NOT NULL,
  result_key        TEXT    NOT NULL,        -- what it was made with
  result_generation INTEGER NOT NULL,
  result_size       INTEGER NOT NULL,
  result_sha256     TEXT    NOT NULL,
  duration_s        REAL,
  written_run       TEXT,
  replaced_by       TEXT,                    -- sha256 of what took its place, NULL if it never was current
  promote           TEXT CHECK (promote IN ('better', 'never')),
  rollback_run      TEXT                     -- that takes it back; NULL if `promote` was said before
) STRICT;

-- Where the recordings of a root were found last.
CREATE TABLE roots (
  name   TEXT NOT NULL PRIMARY KEY,
  folder BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Transcripts of the account that a ledger made anew cannot account for: nothing is asked for until
-- the user has said whose they are.
CREATE TABLE unclaimed (
  transcript_id TEXT NOT NULL PRIMARY KEY,
  status        TEXT NOT NULL,
  audio_url     TEXT
) STRICT, WITHOUT ROWID;

-- Runs that may have asked for something, in the order in which they did: a journal of a run that is
-- not here shows an older ledger.
CREATE TABLE runs (
  run_id   TEXT NOT NULL PRIMARY KEY,
  began_at REAL NOT NULL
) STRICT;

-- Keys that the user says are of one project with those of later runs.
CREATE TABLE trusted_keys (
  key_fingerprint TEXT NOT NULL PRIMARY KEY,
  trusted_at      REAL NOT NULL
) STRICT, WITHOUT ROWID;

-- Requests by the second in which they were sent, as far back as the account's limit looks.
CREATE TABLE requests (
  base_url TEXT    NOT NULL,
  second   INTEGER NOT NULL,
  count    INTEGER NOT NULL,
  PRIMARY KEY (base_url, second)
) STRICT, WITHOUT ROWID;

CREATE INDEX attempts_by_state ON attempts (state) WHERE state IN ('uploading', 'uploaded', 'submitting', 'ambiguous');
CREATE INDEX attempts_by_upload_path ON attempts (upload_path) WHERE upload_path IS NOT NULL;
CREATE INDEX attempts_unknown ON attempts (unknown_at) WHERE unknown_at IS NOT NULL;
CREATE INDEX attempts_to_delete ON attempts (attempt_id) WHERE deletion = 'due';
CREATE INDEX attempts_by_owner ON attempts (owner, recording_id);
CREATE INDEX attempts_open ON attempts (base_url) WHERE state = 'ambiguous' OR (state = 'accepted' AND outcome IS NULL);
CREATE INDEX versions_by_run ON versions (run_id, recording_id);
CREATE INDEX versions_by_recording ON versions (recording_id);
CREATE INDEX versions_by_result ON versions (result_key, result_generation);
CREATE INDEX versions_unsettled ON versions (version_id) WHERE promote IS NOT NULL;
CREATE INDEX attempts_by_key ON attempts (request_key, generation);
