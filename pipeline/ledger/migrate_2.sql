-- From schema 2 to 3: what a run found stands beside the recordings, and what is due stands in order.

ALTER TABLE recordings ADD COLUMN turn INTEGER NOT NULL DEFAULT 1;
ALTER TABLE recordings ADD COLUMN place INTEGER NOT NULL DEFAULT 0;
ALTER TABLE recordings ADD COLUMN waits INTEGER NOT NULL DEFAULT 0;

DROP INDEX recordings_due;
CREATE INDEX recordings_by_result ON recordings (result_key, result_generation) WHERE result_key IS NOT NULL;
CREATE INDEX recordings_by_run ON recordings (written_run) WHERE written_run IS NOT NULL;
CREATE INDEX recordings_due ON recordings (run_id, turn, place, root, path)
  WHERE claim IS NULL AND reason IS NULL AND NOT waits AND (state = 'found' OR redo);
CREATE INDEX recordings_claimed ON recordings (claim) WHERE claim IS NOT NULL;
CREATE INDEX recordings_redo ON recordings (redo) WHERE redo;

CREATE TABLE seen (
  recording_id INTEGER PRIMARY KEY,
  ended        TEXT CHECK (ended IN ('already_written', 'kept'))
) STRICT;

CREATE INDEX transcripts_left ON transcripts (state) WHERE parked IS NOT NULL OR due_at;
CREATE TRIGGER transcripts_wanted AFTER UPDATE OF state ON transcripts WHEN NEW.state = 'wanted'
BEGIN
  UPDATE recordings SET waits = 0
  WHERE request_key = NEW.request_key AND generation = NEW.generation AND waits;
END;

CREATE INDEX attempts_open ON attempts (base_url) WHERE state = 'ambiguous' OR (state = 'accepted' AND outcome IS NULL);
