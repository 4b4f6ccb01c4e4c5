-- The registry: what exists. Balances are not here: they follow from the log.
-- Ids come from `counter`, taken under the one writer, so they are dense and never reused.
-- Instants are Unix seconds, money is ticks of 1e-7, prices and terms live in JSON bodies.
-- Device keys are sealed (AES-256-GCM under the master key); API tokens are kept as SHA-256 only.

CREATE TABLE counter (
    name TEXT NOT NULL PRIMARY KEY,
    last INTEGER NOT NULL
) STRICT;
INSERT INTO counter (name, last) VALUES
    ('transformer', 0), ('gateway', 0), ('meter', 0), ('customer', 0), ('account', 0),
    ('plan', 0), ('calendar', 0), ('purchase', 0), ('adjustment', 0), ('api_token', 0),
    ('outbox', 0), ('device_rev', 0);

-- A known text under the master key: tells a wrong key from damaged rows.
CREATE TABLE seal_check (
    id INTEGER NOT NULL PRIMARY KEY,
    sealed BLOB NOT NULL
) STRICT;

CREATE TABLE transformer (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL
) STRICT;

CREATE TABLE gateway (
    id INTEGER NOT NULL PRIMARY KEY,
    system_title BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    template TEXT NOT NULL,
    sealed_keys BLOB NOT NULL,
    device_rev INTEGER NOT NULL
) STRICT;
CREATE INDEX gateway_device_rev ON gateway (device_rev, id);

CREATE TABLE meter (
    id INTEGER NOT NULL PRIMARY KEY,
    serial TEXT NOT NULL UNIQUE,
    system_title BLOB NOT NULL UNIQUE,
    model TEXT NOT NULL,
    template TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('consumer', 'supply')),
    transformer INTEGER REFERENCES transformer (id),
    gateway INTEGER REFERENCES gateway (id),
    current_max_ma INTEGER NOT NULL,
    voltage_nominal_mv INTEGER NOT NULL,
    phases INTEGER NOT NULL,
    register_digits INTEGER NOT NULL,
    period_s INTEGER NOT NULL,
    sealed_keys BLOB NOT NULL,
    device_rev INTEGER NOT NULL
) STRICT;
CREATE INDEX meter_device_rev ON meter (device_rev, id);
CREATE INDEX meter_gateway ON meter (gateway);
CREATE INDEX meter_transformer ON meter (transformer);

CREATE TABLE customer (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    contact TEXT NOT NULL
) STRICT;

CREATE TABLE calendar (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    days TEXT NOT NULL
) STRICT;

CREATE TABLE plan (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    currency TEXT NOT NULL
) STRICT;

-- Versions are only added; `valid_from` is a local date, so it sorts as text.
CREATE TABLE plan_version (
    plan INTEGER NOT NULL REFERENCES plan (id),
    valid_from TEXT NOT NULL,
    calendar INTEGER REFERENCES calendar (id),
    body TEXT NOT NULL,
    PRIMARY KEY (plan, valid_from)
) STRICT;

CREATE TABLE account (
    id INTEGER NOT NULL PRIMARY KEY,
    code TEXT NOT NULL UNIQUE,
    customer INTEGER NOT NULL REFERENCES customer (id),
    plan INTEGER NOT NULL REFERENCES plan (id),
    zone TEXT NOT NULL,
    mode TEXT NOT NULL CHECK (mode IN ('prepaid', 'postpaid')),
    overdraft INTEGER NOT NULL CHECK (overdraft >= 0),
    low_level_1 INTEGER NOT NULL,
    low_level_2 INTEGER NOT NULL
) STRICT;
CREATE INDEX account_customer ON account (customer);
CREATE INDEX account_plan_zone ON account (plan, zone);

-- One open installation a meter, and one a consumer account.
CREATE TABLE installation (
    meter INTEGER NOT NULL REFERENCES meter (id),
    installed_at INTEGER NOT NULL,
    account INTEGER REFERENCES account (id),
    start_wh INTEGER,
    removed_at INTEGER,
    end_wh INTEGER,
    PRIMARY KEY (meter, installed_at)
) STRICT;
CREATE UNIQUE INDEX installation_open_meter ON installation (meter) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX installation_open_account ON installation (account) WHERE removed_at IS NULL;
CREATE INDEX installation_account ON installation (account);

-- The key names the purchase for ever; `answer` is what the first caller was told.
CREATE TABLE purchase (
    id INTEGER NOT NULL PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    body_hash BLOB NOT NULL,
    account INTEGER NOT NULL REFERENCES account (id),
    paid INTEGER NOT NULL CHECK (paid > 0),
    at INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    outbox INTEGER NOT NULL,
    answer TEXT
) STRICT;
CREATE INDEX purchase_account ON purchase (account, id);

CREATE TABLE adjustment (
    id INTEGER NOT NULL PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account (id),
    amount INTEGER NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    actor INTEGER NOT NULL,
    outbox INTEGER NOT NULL
) STRICT;
CREATE INDEX adjustment_account ON adjustment (account, id);

-- A quarantined reading (by its log position) is settled once.
CREATE TABLE resolution (
    seq INTEGER NOT NULL PRIMARY KEY,
    meter INTEGER NOT NULL REFERENCES meter (id),
    taken_at INTEGER NOT NULL,
    decision TEXT NOT NULL CHECK (decision IN ('reject', 'new_epoch')),
    at INTEGER NOT NULL,
    actor INTEGER NOT NULL,
    outbox INTEGER NOT NULL
) STRICT;

-- Who has taken charge of an alarm; an alarm is its subject, code and the entry that raised it.
CREATE TABLE acknowledgement (
    subject_kind INTEGER NOT NULL,
    subject_id INTEGER NOT NULL,
    code INTEGER NOT NULL,
    raised_seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    responsible TEXT NOT NULL,
    actor INTEGER NOT NULL,
    PRIMARY KEY (subject_kind, subject_id, code, raised_seq)
) STRICT;

CREATE TABLE api_token (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('admin', 'operator', 'vendor', 'reader')),
    hash BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE TABLE policy (
    id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    body TEXT NOT NULL
) STRICT;

-- Changes on their way to the log, written with what they tell of. `payload` is a JSON array of
-- changes and is emptied once the log holds it.
CREATE TABLE outbox (
    id INTEGER NOT NULL PRIMARY KEY,
    payload TEXT NOT NULL,
    sent INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX outbox_unsent ON outbox (id) WHERE sent = 0;
