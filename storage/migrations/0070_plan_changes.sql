-- The plans of an account by local midnight, as JSON [[second, plan], …], once it changed; '' before.
-- `plan` is the newest one agreed.
ALTER TABLE account ADD COLUMN plans TEXT NOT NULL DEFAULT '';
CREATE INDEX account_plans ON account (plans, zone) WHERE plans <> '';

-- Acts of one more kind.
CREATE TABLE act_with_plan (
    id INTEGER NOT NULL PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    kind TEXT NOT NULL CHECK (kind IN ('booking', 'terms', 'emergency', 'debt', 'switch', 'plan',
        'replacement', 'closing', 'clearance')),
    body TEXT NOT NULL,
    at INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    outbox INTEGER NOT NULL
) STRICT;
INSERT INTO act_with_plan SELECT id, account, kind, body, at, actor, outbox FROM act;
DROP TABLE act;
ALTER TABLE act_with_plan RENAME TO act;
CREATE INDEX act_account ON act (account, kind, id);
