-- Tables of days, version 5: what a day of a meter or account comes to, one small row for the 96 or
-- more of a table, computed from that table's rows (never summed at insert time) and computed again
-- when rows of the day come late or are replaced. The version is the newest log position among the
-- rows that were seen, so a row of a day computed twice is one row under FINAL, and the later one wins.
-- Days are those of the deployment's time zone, which `day_marks` names; `daily` and `monthly` stand
-- on them. `day` leads the key: a week of all meters is read without the rest of the month.

CREATE TABLE IF NOT EXISTS {db}.meter_days
(
    day Date COMMENT 'Local day' {codec:Delta, ZSTD(1)},
    meter_id UInt32 COMMENT 'Meter' {codec:Delta, ZSTD(1)},
    account_id UInt32 COMMENT 'Account that the meter served in the day''s last interval, 0 for none' {codec:Delta, ZSTD(1)},
    transformer_id UInt32 COMMENT 'Transformer that it hung on in the day''s last interval, 0 for none' {codec:Delta, ZSTD(1)},
    energy_wh UInt64 COMMENT 'Energy of the day, the sum of its intervals, Wh' {codec:T64, ZSTD(1)},
    cost_ticks Int64 COMMENT 'Energy times the prices of its rates, without block adders, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    rate1_wh UInt64 COMMENT 'Energy at rate 1, Wh' {codec:T64, ZSTD(1)},
    rate2_wh UInt64 COMMENT 'Energy at rate 2, Wh' {codec:T64, ZSTD(1)},
    rate3_wh UInt64 COMMENT 'Energy at rate 3, Wh' {codec:T64, ZSTD(1)},
    rate4_wh UInt64 COMMENT 'Energy at rate 4, Wh' {codec:T64, ZSTD(1)},
    rate1_ticks Int64 COMMENT 'Its cost, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    rate2_ticks Int64 COMMENT 'Its cost, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    rate3_ticks Int64 COMMENT 'Its cost, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    rate4_ticks Int64 COMMENT 'Its cost, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    register_wh UInt64 COMMENT 'Greatest register at an interval''s end, Wh' {codec:Delta, ZSTD(1)},
    voltage_min_mv UInt32 COMMENT 'Least voltage, mV, 0 when none was sent' {codec:T64, ZSTD(1)},
    voltage_max_mv UInt32 COMMENT 'Greatest voltage, mV' {codec:T64, ZSTD(1)},
    current_max_ma UInt32 COMMENT 'Greatest current, mA' {codec:T64, ZSTD(1)},
    power_max_w Int32 COMMENT 'Greatest active power, W' {codec:T64, ZSTD(1)},
    intervals UInt16 COMMENT 'Intervals known, 96 in a day of 24 hours' {codec:T64, ZSTD(1)},
    intervals_actual UInt16 COMMENT 'Of these, how many are actual' {codec:T64, ZSTD(1)},
    rev UInt64 COMMENT 'Newest log position among its intervals: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(day)
ORDER BY (day, meter_id)
SETTINGS index_granularity = 1024
;

CREATE TABLE IF NOT EXISTS {db}.account_days
(
    day Date COMMENT 'Local day that the movements are due' {codec:Delta, ZSTD(1)},
    account_id UInt32 COMMENT 'Account' {codec:Delta, ZSTD(1)},
    kind Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7, 'debt_recovery' = 8, 'emergency_given' = 9, 'emergency_repaid' = 10, 'correction' = 11, 'refund' = 12, 'reversal' = 13, 'transfer' = 14, 'opening_balance' = 15, 'free_issue' = 16, 'debt_agreed' = 17, 'bound' = 18, 'token' = 19) COMMENT 'What they are' {codec:ZSTD(1)},
    amount_ticks Int64 COMMENT 'Their sum, negative takes from the balance, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    taken_ticks Int64 COMMENT 'Sum of those that take from the balance, as a positive number, 1e-7 currency unit' {codec:T64, ZSTD(1)},
    movements UInt32 COMMENT 'How many' {codec:T64, ZSTD(1)},
    number_first UInt64 COMMENT 'Least number among them' {codec:Delta, ZSTD(1)},
    number_last UInt64 COMMENT 'Greatest number among them' {codec:Delta, ZSTD(1)},
    opening_ticks Int64 COMMENT 'Balance before the first, 1e-7 currency unit' {codec:Delta, ZSTD(1)},
    balance_ticks Int64 COMMENT 'Balance after the last, 1e-7 currency unit' {codec:Delta, ZSTD(1)},
    rev UInt64 COMMENT 'Newest log position among them: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(day)
ORDER BY (day, account_id, kind)
SETTINGS index_granularity = 1024
;

CREATE TABLE IF NOT EXISTS {db}.reading_days
(
    day Date COMMENT 'Local day, a reading stamped at midnight belongs to the day that ends' {codec:Delta, ZSTD(1)},
    meter_id UInt32 COMMENT 'Meter' {codec:Delta, ZSTD(1)},
    accepted UInt32 COMMENT 'Readings accepted' {codec:T64, ZSTD(1)},
    quarantined UInt32 COMMENT 'Readings in quarantine' {codec:T64, ZSTD(1)},
    within_1m UInt32 COMMENT 'Accepted that came within 1 minute of their stamp' {codec:T64, ZSTD(1)},
    within_5m UInt32 COMMENT 'Within 5 minutes' {codec:T64, ZSTD(1)},
    within_15m UInt32 COMMENT 'Within 15 minutes' {codec:T64, ZSTD(1)},
    within_1h UInt32 COMMENT 'Within 1 hour' {codec:T64, ZSTD(1)},
    within_1d UInt32 COMMENT 'Within 24 hours' {codec:T64, ZSTD(1)},
    late_sum_s Int64 COMMENT 'Sum of arrival less stamp over the accepted, s' {codec:T64, ZSTD(1)},
    late_max_s Int64 COMMENT 'Greatest arrival less stamp of an accepted one, s' {codec:T64, ZSTD(1)},
    rev UInt64 COMMENT 'Newest log position that decided one of them: the version' {codec:DoubleDelta, ZSTD(1)}
)
ENGINE = ReplacingMergeTree(rev)
PARTITION BY toYYYYMM(day)
ORDER BY (day, meter_id)
SETTINGS index_granularity = 1024
;

CREATE TABLE IF NOT EXISTS {db}.day_marks
(
    zone String COMMENT 'IANA time zone of the days',
    below UInt64 COMMENT 'Rows of all entries below this log position are in the tables of days',
    at DateTime('UTC') COMMENT 'Since when, by the server''s clock: the version'
)
ENGINE = ReplacingMergeTree(at)
ORDER BY zone
;

DROP TABLE IF EXISTS {db}.daily
;

CREATE VIEW IF NOT EXISTS {db}.daily AS
SELECT
    meter_id,
    day,
    energy_wh,
    cost_ticks,
    register_wh,
    voltage_min_mv,
    voltage_max_mv,
    current_max_ma,
    power_max_w,
    toUInt64(d.intervals) AS intervals,
    toUInt64(d.intervals_actual) AS intervals_actual
FROM {db}.meter_days AS d FINAL
;

DROP TABLE IF EXISTS {db}.monthly
;

CREATE VIEW IF NOT EXISTS {db}.monthly AS
SELECT
    d.meter_id AS meter_id,
    toStartOfMonth(d.day) AS month,
    sum(d.energy_wh) AS energy_wh,
    sum(d.cost_ticks) AS cost_ticks,
    max(d.register_wh) AS register_wh,
    max(d.power_max_w) AS power_max_w,
    sum(d.intervals) AS intervals,
    sum(d.intervals_actual) AS intervals_actual
FROM {db}.meter_days AS d FINAL
GROUP BY meter_id, month
;
