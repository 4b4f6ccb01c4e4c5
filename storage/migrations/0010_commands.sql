-- Commands to meters: asked for once by key, tried until they end. `command` and `outcome` are JSON.
-- `command_counter` counts the head-end's invocation counters of commands: leased in blocks, so that
-- none is used twice, whatever crashes.
INSERT INTO counter (name, last) VALUES ('command', 0), ('command_counter', 0);

CREATE TABLE command (
    id INTEGER NOT NULL PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    meter INTEGER NOT NULL REFERENCES meter (id),
    command TEXT NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    withdrawn INTEGER NOT NULL DEFAULT 0,
    outcome TEXT,
    ended_at INTEGER
) STRICT;
CREATE INDEX command_meter ON command (meter, id);
CREATE INDEX command_open ON command (id) WHERE outcome IS NULL;
CREATE INDEX command_withdrawn ON command (id) WHERE withdrawn = 1 AND outcome IS NULL;
