-- Vending: sales, debts, vending points, token meters, issued tokens, vending keys, campaigns.
-- Sales and purchases share one series of ids and one space of idempotency keys.

INSERT INTO counter (name, last) VALUES
    ('debt', 0), ('agent', 0), ('settlement', 0), ('issued_token', 0), ('token_order', 0),
    ('campaign', 0);

-- `detail` is the split as JSON; the answer to a sale is made of its row, so it never changes.
CREATE TABLE sale (
    id INTEGER NOT NULL PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    body_hash BLOB NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('purchase', 'free_issue')),
    account INTEGER NOT NULL REFERENCES account (id),
    meter INTEGER,
    agent INTEGER,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL,
    paid INTEGER NOT NULL,
    detail TEXT NOT NULL,
    tokens TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('sold', 'reversed', 'refunded')),
    refunded INTEGER NOT NULL DEFAULT 0,
    copies INTEGER NOT NULL DEFAULT 0,
    outbox INTEGER NOT NULL
) STRICT;
CREATE INDEX sale_account ON sale (account, id);
CREATE INDEX sale_agent ON sale (agent, at);

-- What was done to a sale after it: reversals, refunds, copies of the receipt.
CREATE TABLE sale_deed (
    sale INTEGER NOT NULL REFERENCES sale (id),
    number INTEGER NOT NULL,
    deed TEXT NOT NULL,
    amount INTEGER NOT NULL,
    reason TEXT NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (sale, number)
) STRICT;

CREATE TABLE debt (
    id INTEGER NOT NULL PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    amount INTEGER NOT NULL CHECK (amount > 0),
    left_over INTEGER NOT NULL CHECK (left_over >= 0),
    share_bp INTEGER NOT NULL,
    cap INTEGER NOT NULL,
    month TEXT NOT NULL,
    recovered INTEGER NOT NULL,
    reason TEXT NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX debt_account ON debt (account, id);

-- Energy sold in a block period, named by its first local day.
CREATE TABLE energy_bought (
    account INTEGER NOT NULL REFERENCES account (id),
    period TEXT NOT NULL,
    wh INTEGER NOT NULL,
    PRIMARY KEY (account, period)
) STRICT;

CREATE TABLE agent (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    zone TEXT NOT NULL,
    credit_limit INTEGER NOT NULL CHECK (credit_limit >= 0),
    owed INTEGER NOT NULL
) STRICT;
CREATE TABLE agent_token (
    token INTEGER NOT NULL PRIMARY KEY REFERENCES api_token (id),
    agent INTEGER NOT NULL REFERENCES agent (id)
) STRICT;
CREATE TABLE agent_day (
    agent INTEGER NOT NULL REFERENCES agent (id),
    day TEXT NOT NULL,
    sales INTEGER NOT NULL,
    paid INTEGER NOT NULL,
    taken_back INTEGER NOT NULL,
    PRIMARY KEY (agent, day)
) STRICT;
CREATE TABLE settlement (
    id INTEGER NOT NULL PRIMARY KEY,
    agent INTEGER NOT NULL REFERENCES agent (id),
    amount INTEGER NOT NULL,
    reference TEXT NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;

-- What is known of a meter's token settings, what they are to become, and its last identifier.
CREATE TABLE token_meter (
    meter INTEGER NOT NULL PRIMARY KEY REFERENCES meter (id),
    pan TEXT NOT NULL UNIQUE,
    scheme TEXT NOT NULL,
    ea INTEGER NOT NULL,
    sgc INTEGER NOT NULL,
    kt INTEGER NOT NULL,
    krn INTEGER NOT NULL,
    ti INTEGER NOT NULL,
    ken INTEGER NOT NULL,
    base_year INTEGER NOT NULL,
    to_sgc INTEGER NOT NULL,
    to_kt INTEGER NOT NULL,
    to_krn INTEGER NOT NULL,
    to_ti INTEGER NOT NULL,
    last_tid INTEGER
) STRICT;
CREATE INDEX token_meter_key ON token_meter (sgc, krn);

CREATE TABLE issued_token (
    id INTEGER NOT NULL PRIMARY KEY,
    meter INTEGER NOT NULL REFERENCES token_meter (meter),
    sale INTEGER,
    kind TEXT NOT NULL,
    base_year INTEGER NOT NULL,
    tid INTEGER,
    digits TEXT NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX issued_token_tid ON issued_token (meter, base_year, tid) WHERE tid IS NOT NULL;
CREATE INDEX issued_token_sale ON issued_token (sale);

-- Engineering tokens: ordered by one person, approved by another.
CREATE TABLE token_order (
    id INTEGER NOT NULL PRIMARY KEY,
    meter INTEGER NOT NULL REFERENCES token_meter (meter),
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    work_order TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'approved', 'refused')),
    ordered_by INTEGER NOT NULL,
    ordered_at INTEGER NOT NULL,
    decided_by INTEGER,
    decided_at INTEGER,
    digits TEXT
) STRICT;

CREATE TABLE vending_key (
    sgc INTEGER NOT NULL,
    kt INTEGER NOT NULL,
    krn INTEGER NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (sgc, kt, krn)
) STRICT;
CREATE TABLE vault_audit (
    line INTEGER NOT NULL PRIMARY KEY,
    entry TEXT NOT NULL
) STRICT;

CREATE TABLE campaign (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    from_sgc INTEGER NOT NULL,
    from_krn INTEGER,
    to_sgc INTEGER NOT NULL,
    to_kt INTEGER NOT NULL,
    to_krn INTEGER NOT NULL,
    to_ti INTEGER,
    state TEXT NOT NULL CHECK (state IN ('running', 'paused', 'done')),
    total INTEGER NOT NULL,
    done INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    cursor INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    at INTEGER NOT NULL
) STRICT;
