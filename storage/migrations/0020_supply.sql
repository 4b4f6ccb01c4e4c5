-- What people decide of an account, one row an act, never changed: `body` is the change as the log has
-- it. What is in force is the newest act of its kind.
INSERT INTO counter (name, last) VALUES ('act', 0), ('friendly', 0);

CREATE TABLE act (
    id INTEGER NOT NULL PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    kind TEXT NOT NULL CHECK (kind IN ('booking', 'terms', 'emergency', 'debt', 'switch',
        'replacement', 'closing', 'clearance')),
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    outbox INTEGER NOT NULL
) STRICT;
CREATE INDEX act_account ON act (account, kind, id);

CREATE TABLE supply_policy (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    body TEXT NOT NULL
) STRICT;

CREATE TABLE friendly (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
) STRICT;

-- Orders to relays as the books told them: where each stands, and every step. Derived from the log;
-- a step told twice is one row.
CREATE TABLE supply_order (
    id INTEGER NOT NULL PRIMARY KEY,
    account INTEGER NOT NULL,
    is_open INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX supply_order_account ON supply_order (account, id);
CREATE INDEX supply_order_open ON supply_order (id) WHERE is_open = 1;

CREATE TABLE supply_order_step (
    id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    state INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (id, seq, state)
) STRICT;
