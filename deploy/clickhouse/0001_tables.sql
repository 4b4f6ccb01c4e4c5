-- Tables of Meterd, version 1. Statements end with a line that holds only `;`.
-- Holes, filled by the server's version: {db}, {codec:…}; the TTL is the policy's and altered apart.
-- Every key comes from the log, so a row sent twice is one row under FINAL: read with FINAL.
-- No non_replicated_deduplication_window: ClickHouse notes a block there before its part is
-- committed, so a block cut by a crash in between would be dropped when it is sent again.
-- Units stand in the names: Wh, mV, mA, W, var, milli = 1/1000, mhz = 1/1000 Hz,
-- ticks = 1/10,000,000 of the currency unit. Instants are UTC.

CREATE TABLE IF NOT EXISTS {db}.readings
(
    meter_id UInt32 COMMENT 'Meter' {codec:Delta, ZSTD(1)},
    taken_at DateTime('UTC') COMMENT 'Stamp of the meter' {codec:DoubleDelta, ZSTD(1)},
    seq UInt64 COMMENT 'Log position of the entry that carried it' {codec:DoubleDelta, ZSTD(1)},
    received_at DateTime('UTC') COMMENT 'Arrival at the node' {codec:DoubleDelta, ZSTD(1)},
    counter UInt32 COMMENT 'Invocation counter of the meter''s own frame, 0 behind a gateway' {codec:Delta, ZSTD(1)},
    register_wh UInt64 COMMENT 'Cumulative active import, Wh' {codec:Delta, ZSTD(1)},
    rate1_wh UInt64 COMMENT 'Tariff register 1, Wh' {codec:Delta, ZSTD(1)},
    rate2_wh UInt64 COMMENT 'Tariff register 2, Wh' {codec:Delta, ZSTD(1)},
    rate3_wh UInt64 COMMENT 'Tariff register 3, Wh' {codec:Delta, ZSTD(1)},
    rate4_wh UInt64 COMMENT 'Tariff register 4, Wh' {codec:Delta, ZSTD(1)},
    voltage1_mv UInt32 COMMENT 'Voltage of phase 1, mV' {codec:T64, ZSTD(1)},
    voltage2_mv UInt32 COMMENT 'Voltage of phase 2, mV' {codec:T64, ZSTD(1)},
    voltage3_mv UInt32 COMMENT 'Voltage of phase 3, mV' {codec:T64, ZSTD(1)},
    current1_ma UInt32 COMMENT 'Current of phase 1, mA' {codec:T64, ZSTD(1)},
    current2_ma UInt32 COMMENT 'Current of phase 2, mA' {codec:T64, ZSTD(1)},
    current3_ma UInt32 COMMENT 'Current of phase 3, mA' {codec:T64, ZSTD(1)},
    power_w Int32 COMMENT 'Active power, W, import positive' {codec:T64, ZSTD(1)},
    reactive_var Int32 COMMENT 'Reactive power, var' {codec:T64, ZSTD(1)},
    frequency_mhz UInt32 COMMENT 'Mains frequency, 1/1000 Hz' {codec:T64, ZSTD(1)},
    power_factor_milli Int16 COMMENT 'Power factor, 1/1000' {codec:T64, ZSTD(1)},
    fields UInt16 COMMENT 'Bits of what the meter sent: voltages 0-2, currents 3-5, rates 6-9, power 10, reactive 11, power factor 12, frequency 13, relay known 14, relay open 15, what it did not send is 0' {codec:ZSTD(1)},
    outcome Enum8('accepted' = 1, 'duplicate' = 2, 'quarantined' = 3, 'parked' = 4) COMMENT 'Verdict, at most one reading of a meter and stamp is accepted' {codec:ZSTD(1)},
    reason Enum8('none' = 0, 'not_installed' = 1, 'before_installation' = 2, 'after_removal' = 3, 'future' = 4, 'too_old' = 5, 'conflict' = 6, 'backwards' = 7, 'spike' = 8, 'rejected' = 9, 'parking_full' = 10) COMMENT 'Why it is in quarantine' {codec:ZSTD(1)},
    rev UInt64 COMMENT 'Log position of the entry that decided it: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(taken_at)
ORDER BY (meter_id, taken_at, seq)
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.intervals
(
    meter_id UInt32 COMMENT 'Meter' {codec:Delta, ZSTD(1)},
    start DateTime('UTC') COMMENT 'Start of the quarter hour' {codec:DoubleDelta, ZSTD(1)},
    account_id UInt32 COMMENT 'Account that the meter served, 0 for none' {codec:Delta, ZSTD(1)},
    transformer_id UInt32 COMMENT 'Transformer that it hangs on, 0 for none' {codec:Delta, ZSTD(1)},
    energy_wh UInt64 COMMENT 'Energy of the interval, Wh' {codec:T64, ZSTD(1)},
    register_wh UInt64 COMMENT 'Register at its end, Wh' {codec:Delta, ZSTD(1)},
    cost_ticks Int64 COMMENT 'Energy times the price of its rate, without block adders, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    rate UInt8 COMMENT 'Rate 1 to 4, 0 without account' {codec:ZSTD(1)},
    quality Enum8('actual' = 1, 'estimated' = 2) COMMENT 'actual: readings stand at both ends' {codec:ZSTD(1)},
    samples UInt16 COMMENT 'Readings stamped in (start, end]' {codec:T64, ZSTD(1)},
    voltage_avg_mv UInt32 COMMENT 'Average voltage over phases and samples, mV' {codec:T64, ZSTD(1)},
    voltage_min_mv UInt32 COMMENT 'Least voltage, mV' {codec:T64, ZSTD(1)},
    voltage_max_mv UInt32 COMMENT 'Greatest voltage, mV' {codec:T64, ZSTD(1)},
    current_avg_ma UInt32 COMMENT 'Average current, mA' {codec:T64, ZSTD(1)},
    current_min_ma UInt32 COMMENT 'Least current, mA' {codec:T64, ZSTD(1)},
    current_max_ma UInt32 COMMENT 'Greatest current, mA' {codec:T64, ZSTD(1)},
    power_avg_w Int32 COMMENT 'Average active power, W' {codec:T64, ZSTD(1)},
    power_min_w Int32 COMMENT 'Least active power, W' {codec:T64, ZSTD(1)},
    power_max_w Int32 COMMENT 'Greatest active power, W' {codec:T64, ZSTD(1)},
    power_factor_avg_milli Int16 COMMENT 'Average power factor, 1/1000' {codec:T64, ZSTD(1)},
    power_factor_min_milli Int16 COMMENT 'Least power factor, 1/1000' {codec:T64, ZSTD(1)},
    power_factor_max_milli Int16 COMMENT 'Greatest power factor, 1/1000' {codec:T64, ZSTD(1)},
    rev UInt64 COMMENT 'Log position of the entry that made this row: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(start)
ORDER BY (meter_id, start)
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.ledger
(
    account_id UInt32 COMMENT 'Account' {codec:Delta, ZSTD(1)},
    number UInt64 COMMENT 'Movements of an account are numbered from 1 without holes' {codec:Delta, ZSTD(1)},
    at DateTime('UTC') COMMENT 'When it is due' {codec:DoubleDelta, ZSTD(1)},
    kind Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7) COMMENT 'What it is' {codec:ZSTD(1)},
    amount_ticks Int64 COMMENT 'Signed, negative takes from the balance, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    balance_ticks Int64 COMMENT 'Balance after it, 1e-7 currency unit' {codec:Delta, ZSTD(1)},
    cause Enum8('readings' = 1, 'period' = 2, 'purchase' = 3, 'person' = 4) COMMENT 'What it comes from' {codec:ZSTD(1)},
    cause_meter_id UInt32 COMMENT 'readings: the meter' {codec:Delta, ZSTD(1)},
    cause_from DateTime('UTC') COMMENT 'readings: from this stamp, period: its start' {codec:DoubleDelta, ZSTD(1)},
    cause_to DateTime('UTC') COMMENT 'readings: to this stamp' {codec:DoubleDelta, ZSTD(1)},
    cause_id UInt64 COMMENT 'purchase: its id, person: log position of the entry' {codec:ZSTD(1)},
    seq UInt64 COMMENT 'Log position of the entry that made it' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(seq)
PARTITION BY toYYYYMM(at)
ORDER BY (account_id, number)
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.alarms
(
    subject Enum8('meter' = 1, 'gateway' = 2, 'account' = 3, 'transformer' = 4) COMMENT 'Kind of what it is about' {codec:ZSTD(1)},
    subject_id UInt32 COMMENT 'Its id' {codec:ZSTD(1)},
    at DateTime('UTC') COMMENT 'When, by the stamps of what showed it' {codec:DoubleDelta, ZSTD(1)},
    code Enum8('over_voltage' = 1, 'under_voltage' = 2, 'overload' = 3, 'reverse_energy' = 4, 'power_down' = 5, 'relay' = 6, 'tamper' = 7, 'clock' = 8, 'register' = 9, 'register_proposal' = 10, 'low_balance' = 11, 'very_low_balance' = 12, 'overdrawn' = 13, 'meter_silent' = 14, 'gateway_silent' = 15, 'line_loss' = 16, 'negative_loss' = 17, 'unusual_use' = 18) COMMENT 'What is wrong' {codec:ZSTD(1)},
    severity Enum8('notice' = 1, 'warning' = 2, 'critical' = 3) COMMENT 'How urgent' {codec:ZSTD(1)},
    state Enum8('raised' = 1, 'cleared' = 2) COMMENT 'Began or ended' {codec:ZSTD(1)},
    value Int64 COMMENT 'The value that showed it, in the unit of its kind: mV, mA, Wh, ticks, s, 1/1000' {codec:ZSTD(1)},
    seq UInt64 COMMENT 'Log position of the entry that showed it' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(seq)
PARTITION BY toYYYYMM(at)
ORDER BY (subject, subject_id, at, code, state, seq)
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.gaps
(
    meter_id UInt32 COMMENT 'Meter' {codec:Delta, ZSTD(1)},
    gap_from DateTime('UTC') COMMENT 'Last accepted stamp before the gap' {codec:DoubleDelta, ZSTD(1)},
    gap_to DateTime('UTC') COMMENT 'First accepted stamp after it, 1970-01-01 while none is known' {codec:DoubleDelta, ZSTD(1)},
    missing UInt32 COMMENT 'Readings absent' {codec:T64, ZSTD(1)},
    state Enum8('open' = 1, 'closed' = 2) COMMENT 'closed: all came, or late ones split it into further gaps' {codec:ZSTD(1)},
    rev UInt64 COMMENT 'Log position of the entry that made this row: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(gap_from)
ORDER BY (meter_id, gap_from)
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.line_loss
(
    transformer_id UInt32 COMMENT 'Transformer' {codec:Delta, ZSTD(1)},
    start DateTime('UTC') COMMENT 'Start of the quarter hour' {codec:DoubleDelta, ZSTD(1)},
    supply_wh UInt64 COMMENT 'Energy of the supply meter, Wh' {codec:T64, ZSTD(1)},
    delivered_wh UInt64 COMMENT 'Sum of the consumer meters, Wh' {codec:T64, ZSTD(1)},
    expected UInt32 COMMENT 'Meters, supply and consumers, installed over the interval' {codec:T64, ZSTD(1)},
    actual UInt32 COMMENT 'Of these, how many have an actual interval, a verdict needs all' {codec:T64, ZSTD(1)},
    rev UInt64 COMMENT 'Log position of the entry that made this row: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(start)
ORDER BY (transformer_id, start)
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.meters
(
    meter_id UInt32 COMMENT 'Meter',
    serial String COMMENT 'Number on its plate',
    model {low:String} COMMENT 'Model, as in the push templates',
    role Enum8('consumer' = 1, 'supply' = 2) COMMENT 'supply: measures all that a transformer supplies',
    transformer_id UInt32 COMMENT 'Transformer that it hangs on, 0 for none',
    gateway_id UInt32 COMMENT 'Gateway that it hangs behind, 0 when direct',
    current_max_ma UInt32 COMMENT 'Rated maximum current of a phase, mA',
    voltage_nominal_mv UInt32 COMMENT 'Rated voltage, phase to neutral, mV',
    phases UInt8 COMMENT '1 or 3',
    period_s UInt32 COMMENT 'Seconds between expected readings',
    rev UInt64 COMMENT 'Version'
)
ENGINE = ReplacingMergeTree(rev)
ORDER BY meter_id
SETTINGS index_granularity = 8192
;

CREATE TABLE IF NOT EXISTS {db}.accounts
(
    account_id UInt32 COMMENT 'Account',
    customer_id UInt32 COMMENT 'Whose it is, names stay in the registry',
    plan_id UInt32 COMMENT 'Tariff plan',
    zone {low:String} COMMENT 'IANA time zone of its local days',
    mode Enum8('prepaid' = 1, 'postpaid' = 2) COMMENT 'Credit first, or bill later',
    overdraft_ticks Int64 COMMENT 'How far the balance may go below zero, 1e-7 currency unit',
    low_level1_ticks Int64 COMMENT 'First low-balance level, 1e-7 currency unit',
    low_level2_ticks Int64 COMMENT 'Second low-balance level, 1e-7 currency unit',
    rev UInt64 COMMENT 'Version'
)
ENGINE = ReplacingMergeTree(rev)
ORDER BY account_id
SETTINGS index_granularity = 8192
;
