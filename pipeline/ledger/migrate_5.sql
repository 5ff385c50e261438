-- From schema 5 to 6: how many recordings a root held, so that it is told when they are gone.

CREATE TABLE scans (
  root       TEXT    NOT NULL,
  filters    TEXT    NOT NULL,
  recordings INTEGER NOT NULL CHECK (recordings > 0),
  scanned_at REAL    NOT NULL,
  PRIMARY KEY (root, filters)
) STRICT, WITHOUT ROWID;
