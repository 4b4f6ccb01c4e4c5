-- Meterd's tables on a cluster; see docs/clickhouse.md. Made from the tables of a single
-- server by storage/tests/clickhouse/cluster.rs (METERD_WRITE_SCHEMA=1 writes it again).
-- {cluster}, {shard} and {replica} are macros of each server's configuration.

CREATE DATABASE IF NOT EXISTS meterd ON CLUSTER '{cluster}';

CREATE TABLE IF NOT EXISTS meterd.readings_local ON CLUSTER '{cluster}'
(
    `meter_id` UInt32 COMMENT 'Meter' CODEC(Delta(4), ZSTD(1)),
    `taken_at` DateTime('UTC') COMMENT 'Stamp of the meter' CODEC(DoubleDelta, ZSTD(1)),
    `seq` UInt64 COMMENT 'Log position of the entry that carried it' CODEC(DoubleDelta, ZSTD(1)),
    `received_at` DateTime('UTC') COMMENT 'Arrival at the node' CODEC(DoubleDelta, ZSTD(1)),
    `counter` UInt32 COMMENT 'Invocation counter of the meter\'s own frame, 0 behind a gateway' CODEC(Delta(4), ZSTD(1)),
    `register_wh` UInt64 COMMENT 'Cumulative active import, Wh' CODEC(Delta(8), ZSTD(1)),
    `rate1_wh` UInt64 COMMENT 'Tariff register 1, Wh' CODEC(Delta(8), ZSTD(1)),
    `rate2_wh` UInt64 COMMENT 'Tariff register 2, Wh' CODEC(Delta(8), ZSTD(1)),
    `rate3_wh` UInt64 COMMENT 'Tariff register 3, Wh' CODEC(Delta(8), ZSTD(1)),
    `rate4_wh` UInt64 COMMENT 'Tariff register 4, Wh' CODEC(Delta(8), ZSTD(1)),
    `voltage1_mv` UInt32 COMMENT 'Voltage of phase 1, mV' CODEC(T64, ZSTD(1)),
    `voltage2_mv` UInt32 COMMENT 'Voltage of phase 2, mV' CODEC(T64, ZSTD(1)),
    `voltage3_mv` UInt32 COMMENT 'Voltage of phase 3, mV' CODEC(T64, ZSTD(1)),
    `current1_ma` UInt32 COMMENT 'Current of phase 1, mA' CODEC(T64, ZSTD(1)),
    `current2_ma` UInt32 COMMENT 'Current of phase 2, mA' CODEC(T64, ZSTD(1)),
    `current3_ma` UInt32 COMMENT 'Current of phase 3, mA' CODEC(T64, ZSTD(1)),
    `power_w` Int32 COMMENT 'Active power, W, import positive' CODEC(T64, ZSTD(1)),
    `reactive_var` Int32 COMMENT 'Reactive power, var' CODEC(T64, ZSTD(1)),
    `frequency_mhz` UInt32 COMMENT 'Mains frequency, 1/1000 Hz' CODEC(T64, ZSTD(1)),
    `power_factor_milli` Int16 COMMENT 'Power factor, 1/1000' CODEC(T64, ZSTD(1)),
    `fields` UInt16 COMMENT 'Bits of what the meter sent: voltages 0-2, currents 3-5, rates 6-9, power 10, reactive 11, power factor 12, frequency 13, relay known 14, relay open 15, what it did not send is 0' CODEC(ZSTD(1)),
    `outcome` Enum8('accepted' = 1, 'duplicate' = 2, 'quarantined' = 3, 'parked' = 4) COMMENT 'Verdict, at most one reading of a meter and stamp is accepted' CODEC(ZSTD(1)),
    `reason` Enum8('none' = 0, 'not_installed' = 1, 'before_installation' = 2, 'after_removal' = 3, 'future' = 4, 'too_old' = 5, 'conflict' = 6, 'backwards' = 7, 'spike' = 8, 'rejected' = 9, 'parking_full' = 10) COMMENT 'Why it is in quarantine' CODEC(ZSTD(1)),
    `rev` UInt64 COMMENT 'Log position of the entry that decided it: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/readings', '{replica}', rev)
PARTITION BY toYYYYMM(taken_at)
ORDER BY (meter_id, taken_at, seq)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.readings ON CLUSTER '{cluster}' AS meterd.readings_local
ENGINE = Distributed('{cluster}', meterd, readings_local, bitShiftRight(toUInt32(meter_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.intervals_local ON CLUSTER '{cluster}'
(
    `meter_id` UInt32 COMMENT 'Meter' CODEC(Delta(4), ZSTD(1)),
    `start` DateTime('UTC') COMMENT 'Start of the quarter hour' CODEC(DoubleDelta, ZSTD(1)),
    `account_id` UInt32 COMMENT 'Account that the meter served, 0 for none' CODEC(Delta(4), ZSTD(1)),
    `transformer_id` UInt32 COMMENT 'Transformer that it hangs on, 0 for none' CODEC(Delta(4), ZSTD(1)),
    `energy_wh` UInt64 COMMENT 'Energy of the interval, Wh' CODEC(T64, ZSTD(1)),
    `register_wh` UInt64 COMMENT 'Register at its end, Wh' CODEC(Delta(8), ZSTD(1)),
    `cost_ticks` Int64 COMMENT 'Energy times the price of its rate, without block adders, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `rate` UInt8 COMMENT 'Rate 1 to 4, 0 without account' CODEC(ZSTD(1)),
    `quality` Enum8('actual' = 1, 'estimated' = 2) COMMENT 'actual: readings stand at both ends' CODEC(ZSTD(1)),
    `samples` UInt16 COMMENT 'Readings stamped in (start, end]' CODEC(T64, ZSTD(1)),
    `voltage_avg_mv` UInt32 COMMENT 'Average voltage over phases and samples, mV' CODEC(T64, ZSTD(1)),
    `voltage_min_mv` UInt32 COMMENT 'Least voltage, mV' CODEC(T64, ZSTD(1)),
    `voltage_max_mv` UInt32 COMMENT 'Greatest voltage, mV' CODEC(T64, ZSTD(1)),
    `current_avg_ma` UInt32 COMMENT 'Average current, mA' CODEC(T64, ZSTD(1)),
    `current_min_ma` UInt32 COMMENT 'Least current, mA' CODEC(T64, ZSTD(1)),
    `current_max_ma` UInt32 COMMENT 'Greatest current, mA' CODEC(T64, ZSTD(1)),
    `power_avg_w` Int32 COMMENT 'Average active power, W' CODEC(T64, ZSTD(1)),
    `power_min_w` Int32 COMMENT 'Least active power, W' CODEC(T64, ZSTD(1)),
    `power_max_w` Int32 COMMENT 'Greatest active power, W' CODEC(T64, ZSTD(1)),
    `power_factor_avg_milli` Int16 COMMENT 'Average power factor, 1/1000' CODEC(T64, ZSTD(1)),
    `power_factor_min_milli` Int16 COMMENT 'Least power factor, 1/1000' CODEC(T64, ZSTD(1)),
    `power_factor_max_milli` Int16 COMMENT 'Greatest power factor, 1/1000' CODEC(T64, ZSTD(1)),
    `rev` UInt64 COMMENT 'Log position of the entry that made this row: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/intervals', '{replica}', rev)
PARTITION BY toYYYYMM(start)
ORDER BY (meter_id, start)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.intervals ON CLUSTER '{cluster}' AS meterd.intervals_local
ENGINE = Distributed('{cluster}', meterd, intervals_local, bitShiftRight(toUInt32(meter_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.ledger_local ON CLUSTER '{cluster}'
(
    `account_id` UInt32 COMMENT 'Account' CODEC(Delta(4), ZSTD(1)),
    `number` UInt64 COMMENT 'Movements of an account are numbered from 1 without holes' CODEC(Delta(8), ZSTD(1)),
    `at` DateTime('UTC') COMMENT 'When it is due' CODEC(DoubleDelta, ZSTD(1)),
    `kind` Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7, 'debt_recovery' = 8, 'emergency_given' = 9, 'emergency_repaid' = 10, 'correction' = 11, 'refund' = 12, 'reversal' = 13, 'transfer' = 14, 'opening_balance' = 15, 'free_issue' = 16, 'debt_agreed' = 17, 'bound' = 18, 'token' = 19) COMMENT 'What it is' CODEC(ZSTD(1)),
    `contra` Enum8('revenue' = 1, 'cash_in_transit' = 2, 'fees' = 3, 'taxes' = 4, 'debt' = 5, 'emergency_credit' = 6, 'adjustments' = 7, 'transfers' = 8, 'opening' = 9, 'grants' = 10, 'suspense' = 11, 'meter_credit' = 12) DEFAULT CAST(multiIf(kind = 'purchase', 'cash_in_transit', kind = 'fee', 'fees', kind = 'tax', 'taxes', kind = 'adjustment', 'adjustments', 'revenue'), 'Enum8(\'revenue\' = 1, \'cash_in_transit\' = 2, \'fees\' = 3, \'taxes\' = 4, \'debt\' = 5, \'emergency_credit\' = 6, \'adjustments\' = 7, \'transfers\' = 8, \'opening\' = 9, \'grants\' = 10, \'suspense\' = 11, \'meter_credit\' = 12)') COMMENT 'The other side: it loses what the account gains',
    `amount_ticks` Int64 COMMENT 'Signed, negative takes from the balance, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `balance_ticks` Int64 COMMENT 'Balance after it, 1e-7 currency unit' CODEC(Delta(8), ZSTD(1)),
    `cause` Enum8('readings' = 1, 'period' = 2, 'purchase' = 3, 'person' = 4, 'meter' = 5, 'movement' = 6) COMMENT 'What it comes from' CODEC(ZSTD(1)),
    `cause_meter_id` UInt32 COMMENT 'readings: the meter' CODEC(Delta(4), ZSTD(1)),
    `cause_from` DateTime('UTC') COMMENT 'readings: from this stamp, period: its start' CODEC(DoubleDelta, ZSTD(1)),
    `cause_to` DateTime('UTC') COMMENT 'readings: to this stamp' CODEC(DoubleDelta, ZSTD(1)),
    `cause_id` UInt64 COMMENT 'purchase: its id, person: log position of the entry' CODEC(ZSTD(1)),
    `seq` UInt64 COMMENT 'Log position of the entry that made it' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/ledger', '{replica}', seq)
PARTITION BY toYYYYMM(at)
ORDER BY (account_id, number)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.ledger ON CLUSTER '{cluster}' AS meterd.ledger_local
ENGINE = Distributed('{cluster}', meterd, ledger_local, bitShiftRight(toUInt32(account_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.alarms_local ON CLUSTER '{cluster}'
(
    `subject` Enum8('meter' = 1, 'gateway' = 2, 'account' = 3, 'transformer' = 4) COMMENT 'Kind of what it is about' CODEC(ZSTD(1)),
    `subject_id` UInt32 COMMENT 'Its id' CODEC(ZSTD(1)),
    `at` DateTime('UTC') COMMENT 'When, by the stamps of what showed it' CODEC(DoubleDelta, ZSTD(1)),
    `code` Enum8('over_voltage' = 1, 'under_voltage' = 2, 'overload' = 3, 'reverse_energy' = 4, 'power_down' = 5, 'relay' = 6, 'tamper' = 7, 'clock' = 8, 'register' = 9, 'register_proposal' = 10, 'low_balance' = 11, 'very_low_balance' = 12, 'overdrawn' = 13, 'meter_silent' = 14, 'gateway_silent' = 15, 'line_loss' = 16, 'negative_loss' = 17, 'unusual_use' = 18, 'emergency_offered' = 24, 'balance_bound' = 25, 'supply_trip' = 26) COMMENT 'What is wrong' CODEC(ZSTD(1)),
    `severity` Enum8('notice' = 1, 'warning' = 2, 'critical' = 3) COMMENT 'How urgent' CODEC(ZSTD(1)),
    `state` Enum8('raised' = 1, 'cleared' = 2) COMMENT 'Began or ended' CODEC(ZSTD(1)),
    `value` Int64 COMMENT 'The value that showed it, in the unit of its kind: mV, mA, Wh, ticks, s, 1/1000' CODEC(ZSTD(1)),
    `seq` UInt64 COMMENT 'Log position of the entry that showed it' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/alarms', '{replica}', seq)
PARTITION BY toYYYYMM(at)
ORDER BY (subject, subject_id, at, code, state, seq)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.alarms ON CLUSTER '{cluster}' AS meterd.alarms_local
ENGINE = Distributed('{cluster}', meterd, alarms_local, bitShiftRight(toUInt32(subject_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.gaps_local ON CLUSTER '{cluster}'
(
    `meter_id` UInt32 COMMENT 'Meter' CODEC(Delta(4), ZSTD(1)),
    `gap_from` DateTime('UTC') COMMENT 'Last accepted stamp before the gap' CODEC(DoubleDelta, ZSTD(1)),
    `gap_to` DateTime('UTC') COMMENT 'First accepted stamp after it, 1970-01-01 while none is known' CODEC(DoubleDelta, ZSTD(1)),
    `missing` UInt32 COMMENT 'Readings absent' CODEC(T64, ZSTD(1)),
    `state` Enum8('open' = 1, 'closed' = 2) COMMENT 'closed: all came, or late ones split it into further gaps' CODEC(ZSTD(1)),
    `rev` UInt64 COMMENT 'Log position of the entry that made this row: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/gaps', '{replica}', rev)
PARTITION BY toYYYYMM(gap_from)
ORDER BY (meter_id, gap_from)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.gaps ON CLUSTER '{cluster}' AS meterd.gaps_local
ENGINE = Distributed('{cluster}', meterd, gaps_local, bitShiftRight(toUInt32(meter_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.line_loss_local ON CLUSTER '{cluster}'
(
    `transformer_id` UInt32 COMMENT 'Transformer' CODEC(Delta(4), ZSTD(1)),
    `start` DateTime('UTC') COMMENT 'Start of the quarter hour' CODEC(DoubleDelta, ZSTD(1)),
    `supply_wh` UInt64 COMMENT 'Energy of the supply meter, Wh' CODEC(T64, ZSTD(1)),
    `delivered_wh` UInt64 COMMENT 'Sum of the consumer meters, Wh' CODEC(T64, ZSTD(1)),
    `expected` UInt32 COMMENT 'Meters, supply and consumers, installed over the interval' CODEC(T64, ZSTD(1)),
    `actual` UInt32 COMMENT 'Of these, how many have an actual interval, a verdict needs all' CODEC(T64, ZSTD(1)),
    `rev` UInt64 COMMENT 'Log position of the entry that made this row: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/line_loss', '{replica}', rev)
PARTITION BY toYYYYMM(start)
ORDER BY (transformer_id, start)
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.line_loss ON CLUSTER '{cluster}' AS meterd.line_loss_local
ENGINE = Distributed('{cluster}', meterd, line_loss_local, bitShiftRight(toUInt32(transformer_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.meters_local ON CLUSTER '{cluster}'
(
    `meter_id` UInt32 COMMENT 'Meter',
    `serial` String COMMENT 'Number on its plate',
    `model` LowCardinality(String) COMMENT 'Model, as in the push templates',
    `role` Enum8('consumer' = 1, 'supply' = 2) COMMENT 'supply: measures all that a transformer supplies',
    `transformer_id` UInt32 COMMENT 'Transformer that it hangs on, 0 for none',
    `gateway_id` UInt32 COMMENT 'Gateway that it hangs behind, 0 when direct',
    `current_max_ma` UInt32 COMMENT 'Rated maximum current of a phase, mA',
    `voltage_nominal_mv` UInt32 COMMENT 'Rated voltage, phase to neutral, mV',
    `phases` UInt8 COMMENT '1 or 3',
    `period_s` UInt32 COMMENT 'Seconds between expected readings',
    `rev` UInt64 COMMENT 'Version'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/meters', '{replica}', rev)
ORDER BY meter_id
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.meters ON CLUSTER '{cluster}' AS meterd.meters_local
ENGINE = Distributed('{cluster}', meterd, meters_local, bitShiftRight(toUInt32(meter_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.accounts_local ON CLUSTER '{cluster}'
(
    `account_id` UInt32 COMMENT 'Account',
    `customer_id` UInt32 COMMENT 'Whose it is, names stay in the registry',
    `plan_id` UInt32 COMMENT 'Tariff plan',
    `zone` LowCardinality(String) COMMENT 'IANA time zone of its local days',
    `mode` Enum8('prepaid' = 1, 'postpaid' = 2) COMMENT 'Credit first, or bill later',
    `overdraft_ticks` Int64 COMMENT 'How far the balance may go below zero, 1e-7 currency unit',
    `low_level1_ticks` Int64 COMMENT 'First low-balance level, 1e-7 currency unit',
    `low_level2_ticks` Int64 COMMENT 'Second low-balance level, 1e-7 currency unit',
    `rev` UInt64 COMMENT 'Version'
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/accounts', '{replica}', rev)
ORDER BY account_id
SETTINGS index_granularity = 8192;

CREATE TABLE IF NOT EXISTS meterd.accounts ON CLUSTER '{cluster}' AS meterd.accounts_local
ENGINE = Distributed('{cluster}', meterd, accounts_local, bitShiftRight(toUInt32(account_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.meter_days_local ON CLUSTER '{cluster}'
(
    `day` Date COMMENT 'Local day' CODEC(Delta(2), ZSTD(1)),
    `meter_id` UInt32 COMMENT 'Meter' CODEC(Delta(4), ZSTD(1)),
    `account_id` UInt32 COMMENT 'Account that the meter served in the day\'s last interval, 0 for none' CODEC(Delta(4), ZSTD(1)),
    `transformer_id` UInt32 COMMENT 'Transformer that it hung on in the day\'s last interval, 0 for none' CODEC(Delta(4), ZSTD(1)),
    `energy_wh` UInt64 COMMENT 'Energy of the day, the sum of its intervals, Wh' CODEC(T64, ZSTD(1)),
    `cost_ticks` Int64 COMMENT 'Energy times the prices of its rates, without block adders, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `rate1_wh` UInt64 COMMENT 'Energy at rate 1, Wh' CODEC(T64, ZSTD(1)),
    `rate2_wh` UInt64 COMMENT 'Energy at rate 2, Wh' CODEC(T64, ZSTD(1)),
    `rate3_wh` UInt64 COMMENT 'Energy at rate 3, Wh' CODEC(T64, ZSTD(1)),
    `rate4_wh` UInt64 COMMENT 'Energy at rate 4, Wh' CODEC(T64, ZSTD(1)),
    `rate1_ticks` Int64 COMMENT 'Its cost, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `rate2_ticks` Int64 COMMENT 'Its cost, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `rate3_ticks` Int64 COMMENT 'Its cost, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `rate4_ticks` Int64 COMMENT 'Its cost, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `register_wh` UInt64 COMMENT 'Greatest register at an interval\'s end, Wh' CODEC(Delta(8), ZSTD(1)),
    `voltage_min_mv` UInt32 COMMENT 'Least voltage, mV, 0 when none was sent' CODEC(T64, ZSTD(1)),
    `voltage_max_mv` UInt32 COMMENT 'Greatest voltage, mV' CODEC(T64, ZSTD(1)),
    `current_max_ma` UInt32 COMMENT 'Greatest current, mA' CODEC(T64, ZSTD(1)),
    `power_max_w` Int32 COMMENT 'Greatest active power, W' CODEC(T64, ZSTD(1)),
    `intervals` UInt16 COMMENT 'Intervals known, 96 in a day of 24 hours' CODEC(T64, ZSTD(1)),
    `intervals_actual` UInt16 COMMENT 'Of these, how many are actual' CODEC(T64, ZSTD(1)),
    `rev` UInt64 COMMENT 'Newest log position among its intervals: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/meter_days', '{replica}', rev)
PARTITION BY toYYYYMM(day)
ORDER BY (day, meter_id)
SETTINGS index_granularity = 1024;

CREATE TABLE IF NOT EXISTS meterd.meter_days ON CLUSTER '{cluster}' AS meterd.meter_days_local
ENGINE = Distributed('{cluster}', meterd, meter_days_local, bitShiftRight(toUInt32(meter_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.account_days_local ON CLUSTER '{cluster}'
(
    `day` Date COMMENT 'Local day that the movements are due' CODEC(Delta(2), ZSTD(1)),
    `account_id` UInt32 COMMENT 'Account' CODEC(Delta(4), ZSTD(1)),
    `kind` Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7, 'debt_recovery' = 8, 'emergency_given' = 9, 'emergency_repaid' = 10, 'correction' = 11, 'refund' = 12, 'reversal' = 13, 'transfer' = 14, 'opening_balance' = 15, 'free_issue' = 16, 'debt_agreed' = 17, 'bound' = 18, 'token' = 19) COMMENT 'What they are' CODEC(ZSTD(1)),
    `amount_ticks` Int64 COMMENT 'Their sum, negative takes from the balance, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `taken_ticks` Int64 COMMENT 'Sum of those that take from the balance, as a positive number, 1e-7 currency unit' CODEC(T64, ZSTD(1)),
    `movements` UInt32 COMMENT 'How many' CODEC(T64, ZSTD(1)),
    `number_first` UInt64 COMMENT 'Least number among them' CODEC(Delta(8), ZSTD(1)),
    `number_last` UInt64 COMMENT 'Greatest number among them' CODEC(Delta(8), ZSTD(1)),
    `opening_ticks` Int64 COMMENT 'Balance before the first, 1e-7 currency unit' CODEC(Delta(8), ZSTD(1)),
    `balance_ticks` Int64 COMMENT 'Balance after the last, 1e-7 currency unit' CODEC(Delta(8), ZSTD(1)),
    `rev` UInt64 COMMENT 'Newest log position among them: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/account_days', '{replica}', rev)
PARTITION BY toYYYYMM(day)
ORDER BY (day, account_id, kind)
SETTINGS index_granularity = 1024;

CREATE TABLE IF NOT EXISTS meterd.account_days ON CLUSTER '{cluster}' AS meterd.account_days_local
ENGINE = Distributed('{cluster}', meterd, account_days_local, bitShiftRight(toUInt32(account_id * 2654435761), 20));

CREATE TABLE IF NOT EXISTS meterd.reading_days_local ON CLUSTER '{cluster}'
(
    `day` Date COMMENT 'Local day, a reading stamped at midnight belongs to the day that ends' CODEC(Delta(2), ZSTD(1)),
    `meter_id` UInt32 COMMENT 'Meter' CODEC(Delta(4), ZSTD(1)),
    `accepted` UInt32 COMMENT 'Readings accepted' CODEC(T64, ZSTD(1)),
    `quarantined` UInt32 COMMENT 'Readings in quarantine' CODEC(T64, ZSTD(1)),
    `within_1m` UInt32 COMMENT 'Accepted that came within 1 minute of their stamp' CODEC(T64, ZSTD(1)),
    `within_5m` UInt32 COMMENT 'Within 5 minutes' CODEC(T64, ZSTD(1)),
    `within_15m` UInt32 COMMENT 'Within 15 minutes' CODEC(T64, ZSTD(1)),
    `within_1h` UInt32 COMMENT 'Within 1 hour' CODEC(T64, ZSTD(1)),
    `within_1d` UInt32 COMMENT 'Within 24 hours' CODEC(T64, ZSTD(1)),
    `late_sum_s` Int64 COMMENT 'Sum of arrival less stamp over the accepted, s' CODEC(T64, ZSTD(1)),
    `late_max_s` Int64 COMMENT 'Greatest arrival less stamp of an accepted one, s' CODEC(T64, ZSTD(1)),
    `rev` UInt64 COMMENT 'Newest log position that decided one of them: the version' CODEC(DoubleDelta, ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/meterd/reading_days', '{replica}', rev)
PARTITION BY toYYYYMM(day)
ORDER BY (day, meter_id)
SETTINGS index_granularity = 1024;

CREATE TABLE IF NOT EXISTS meterd.reading_days ON CLUSTER '{cluster}' AS meterd.reading_days_local
ENGINE = Distributed('{cluster}', meterd, reading_days_local, bitShiftRight(toUInt32(meter_id * 2654435761), 20));

CREATE VIEW IF NOT EXISTS meterd.daily ON CLUSTER '{cluster}'
(
    `meter_id` UInt32,
    `day` Date,
    `energy_wh` UInt64,
    `cost_ticks` Int64,
    `register_wh` UInt64,
    `voltage_min_mv` UInt32,
    `voltage_max_mv` UInt32,
    `current_max_ma` UInt32,
    `power_max_w` Int32,
    `intervals` UInt64,
    `intervals_actual` UInt64
)
AS SELECT
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
FROM meterd.meter_days AS d
FINAL;

CREATE VIEW IF NOT EXISTS meterd.monthly ON CLUSTER '{cluster}'
(
    `meter_id` UInt32,
    `month` Date,
    `energy_wh` UInt64,
    `cost_ticks` Int64,
    `register_wh` UInt64,
    `power_max_w` Int32,
    `intervals` UInt64,
    `intervals_actual` UInt64
)
AS SELECT
    d.meter_id AS meter_id,
    toStartOfMonth(d.day) AS month,
    sum(d.energy_wh) AS energy_wh,
    sum(d.cost_ticks) AS cost_ticks,
    max(d.register_wh) AS register_wh,
    max(d.power_max_w) AS power_max_w,
    sum(d.intervals) AS intervals,
    sum(d.intervals_actual) AS intervals_actual
FROM meterd.meter_days AS d
FINAL
GROUP BY
    meter_id,
    month;
