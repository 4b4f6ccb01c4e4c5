//! What goes into each table: the row types of `meter`, column by column, in the units of the
//! column's name. The DDL in `deploy/clickhouse/` has the same columns with their comments;
//! `Sink::open` refuses a server where the two differ.
//!
//! Keys are deterministic (they come from the log), so a row sent twice is one row.

use meter::{
    AccountTerms, AlarmRow, Cause, GapRow, IntervalRow, LedgerRow, LossRow, MeterRecord, Mode,
    Outcome, QuarantineReason, Reading, Role, Seq, Subject, UnixSeconds,
};

use super::native::{Column, Value};

/// A table that the sink fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// What meters sent, each with its verdict; duplicates are not kept twice.
    Readings,
    /// 15-minute rows.
    Intervals,
    /// Movements of accounts.
    Ledger,
    /// Alarms begun and ended.
    Alarms,
    /// Absent readings.
    Gaps,
    /// Supply against delivery per transformer and interval.
    LineLoss,
    /// What meters are; a dimension.
    Meters,
    /// What accounts are; a dimension.
    Accounts,
}

impl Table {
    /// All of them, in the order in which batches are sent.
    pub const ALL: [Self; 8] = [
        Self::Readings,
        Self::Intervals,
        Self::Ledger,
        Self::Alarms,
        Self::Gaps,
        Self::LineLoss,
        Self::Meters,
        Self::Accounts,
    ];

    /// The table's name, without database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Intervals => "intervals",
            Self::Ledger => "ledger",
            Self::Alarms => "alarms",
            Self::Gaps => "gaps",
            Self::LineLoss => "line_loss",
            Self::Meters => "meters",
            Self::Accounts => "accounts",
        }
    }

    /// Names and types of its columns.
    pub(super) fn columns(self) -> Vec<(&'static str, &'static str)> {
        fn of<R: Row>() -> Vec<(&'static str, &'static str)> {
            R::COLUMNS.iter().map(|column| (column.name, column.kind)).collect()
        }
        match self {
            Self::Readings => of::<ReadingRow>(),
            Self::Intervals => of::<IntervalRow>(),
            Self::Ledger => of::<LedgerRow>(),
            Self::Alarms => of::<AlarmRow>(),
            Self::Gaps => of::<GapRow>(),
            Self::LineLoss => of::<LossRow>(),
            Self::Meters => of::<MeterRow>(),
            Self::Accounts => of::<AccountRow>(),
        }
    }
}

/// A calendar month in UTC as the partitions have it: `year * 100 + month`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Month(pub u32);

impl Month {
    /// Partition of tables without months.
    pub const NONE: Self = Self(0);

    /// The month that an instant lies in.
    pub fn of(at: UnixSeconds) -> Self {
        // Days to civil date, with years that begin in March (so that the leap day comes last).
        let days = at.0 / 86_400 + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + u32::from(month <= 2);
        Self(year * 100 + month)
    }
}

/// A row type, its table and its columns.
pub(super) trait Row: Sized + 'static {
    const TABLE: Table;
    const COLUMNS: &'static [Column<Self>];

    /// The partition it belongs to.
    fn month(&self) -> Month;

    /// The id and the instant whose day it belongs to, where a table of days counts it.
    fn day(&self) -> Option<(u32, UnixSeconds)> {
        None
    }
}

/// A reading as it came, with its verdict. A later verdict on the same `seq` replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadingRow {
    /// What the meter sent.
    pub reading: Reading,
    /// The entry that carried it; with meter and stamp the key.
    pub seq: Seq,
    /// The entry that decided it (`seq` itself, or a later one for a parked reading).
    pub rev: Seq,
    /// The verdict.
    pub outcome: Outcome,
}

/// What a meter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeterRow {
    /// Its record.
    pub record: MeterRecord,
    /// The number on its plate.
    pub serial: String,
    /// The model, as in the push templates.
    pub model: String,
    /// The version: grows with each change.
    pub rev: u64,
}

/// What an account is. No names of persons: those stay in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Its terms.
    pub terms: AccountTerms,
    /// The version: grows with each change.
    pub rev: u64,
}

/// Lists columns: name, type, and the value of one row.
macro_rules! columns {
    ($($name:literal $kind:literal = |$row:ident| $value:expr;)*) => {
        &[$(Column {
            name: $name,
            kind: $kind,
            fill: |rows, out| rows.iter().for_each(|$row| Value::put($value, out)),
        }),*]
    };
}

impl Row for ReadingRow {
    const TABLE: Table = Table::Readings;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "meter_id" "UInt32" = |r| r.reading.meter.0;
        "taken_at" "DateTime('UTC')" = |r| r.reading.taken_at.0;
        "seq" "UInt64" = |r| r.seq.0;
        "received_at" "DateTime('UTC')" = |r| r.reading.received_at.0;
        "counter" "UInt32" = |r| r.reading.counter;
        "register_wh" "UInt64" = |r| r.reading.register.wh();
        "rate1_wh" "UInt64" = |r| r.reading.rates[0].wh();
        "rate2_wh" "UInt64" = |r| r.reading.rates[1].wh();
        "rate3_wh" "UInt64" = |r| r.reading.rates[2].wh();
        "rate4_wh" "UInt64" = |r| r.reading.rates[3].wh();
        "voltage1_mv" "UInt32" = |r| r.reading.voltage[0].mv();
        "voltage2_mv" "UInt32" = |r| r.reading.voltage[1].mv();
        "voltage3_mv" "UInt32" = |r| r.reading.voltage[2].mv();
        "current1_ma" "UInt32" = |r| r.reading.current[0].ma();
        "current2_ma" "UInt32" = |r| r.reading.current[1].ma();
        "current3_ma" "UInt32" = |r| r.reading.current[2].ma();
        "power_w" "Int32" = |r| r.reading.power.w();
        "reactive_var" "Int32" = |r| r.reading.reactive.var();
        "frequency_mhz" "UInt32" = |r| r.reading.frequency.mhz();
        "power_factor_milli" "Int16" = |r| r.reading.power_factor.milli();
        "fields" "UInt16" = |r| r.reading.fields.0;
        "outcome" "Enum8('accepted' = 1, 'duplicate' = 2, 'quarantined' = 3, 'parked' = 4)" =
            |r| outcome_code(r.outcome);
        "reason" "Enum8('none' = 0, 'not_installed' = 1, 'before_installation' = 2, 'after_removal' = 3, 'future' = 4, 'too_old' = 5, 'conflict' = 6, 'backwards' = 7, 'spike' = 8, 'rejected' = 9, 'parking_full' = 10)" =
            |r| reason_code(r.outcome);
        "rev" "UInt64" = |r| r.rev.0;
    };

    fn month(&self) -> Month {
        Month::of(self.reading.taken_at)
    }

    fn day(&self) -> Option<(u32, UnixSeconds)> {
        // A stamp ends its interval.
        Some((self.reading.meter.0, UnixSeconds(self.reading.taken_at.0.saturating_sub(1))))
    }
}

impl Row for IntervalRow {
    const TABLE: Table = Table::Intervals;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "meter_id" "UInt32" = |r| r.meter.0;
        "start" "DateTime('UTC')" = |r| r.start.0;
        "account_id" "UInt32" = |r| r.account.0;
        "transformer_id" "UInt32" = |r| r.transformer.0;
        "energy_wh" "UInt64" = |r| r.energy.wh();
        "register_wh" "UInt64" = |r| r.register.wh();
        "cost_ticks" "Int64" = |r| r.cost.ticks();
        "rate" "UInt8" = |r| r.rate;
        "quality" "Enum8('actual' = 1, 'estimated' = 2)" = |r| r.quality.code();
        "samples" "UInt16" = |r| r.samples;
        "voltage_avg_mv" "UInt32" = |r| r.voltage.average.mv();
        "voltage_min_mv" "UInt32" = |r| r.voltage.min.mv();
        "voltage_max_mv" "UInt32" = |r| r.voltage.max.mv();
        "current_avg_ma" "UInt32" = |r| r.current.average.ma();
        "current_min_ma" "UInt32" = |r| r.current.min.ma();
        "current_max_ma" "UInt32" = |r| r.current.max.ma();
        "power_avg_w" "Int32" = |r| r.power.average.w();
        "power_min_w" "Int32" = |r| r.power.min.w();
        "power_max_w" "Int32" = |r| r.power.max.w();
        "power_factor_avg_milli" "Int16" = |r| r.power_factor.average.milli();
        "power_factor_min_milli" "Int16" = |r| r.power_factor.min.milli();
        "power_factor_max_milli" "Int16" = |r| r.power_factor.max.milli();
        "rev" "UInt64" = |r| r.rev.0;
    };

    fn month(&self) -> Month {
        Month::of(self.start)
    }

    fn day(&self) -> Option<(u32, UnixSeconds)> {
        Some((self.meter.0, self.start))
    }
}

impl Row for LedgerRow {
    const TABLE: Table = Table::Ledger;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "account_id" "UInt32" = |r| r.account.0;
        "number" "UInt64" = |r| r.number;
        "at" "DateTime('UTC')" = |r| r.at.0;
        "kind" "Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7, 'debt_recovery' = 8, 'emergency_given' = 9, 'emergency_repaid' = 10, 'correction' = 11, 'refund' = 12, 'reversal' = 13, 'transfer' = 14, 'opening_balance' = 15, 'free_issue' = 16, 'debt_agreed' = 17, 'bound' = 18, 'token' = 19)" =
            |r| r.kind.code();
        "contra" "Enum8('revenue' = 1, 'cash_in_transit' = 2, 'fees' = 3, 'taxes' = 4, 'debt' = 5, 'emergency_credit' = 6, 'adjustments' = 7, 'transfers' = 8, 'opening' = 9, 'grants' = 10, 'suspense' = 11, 'meter_credit' = 12)" =
            |r| r.kind.contra().code();
        "amount_ticks" "Int64" = |r| r.amount.ticks();
        "balance_ticks" "Int64" = |r| r.balance.ticks();
        "cause" "Enum8('readings' = 1, 'period' = 2, 'purchase' = 3, 'person' = 4, 'meter' = 5, 'movement' = 6)" =
            |r| CauseParts::of(r.cause).kind;
        "cause_meter_id" "UInt32" = |r| CauseParts::of(r.cause).meter;
        "cause_from" "DateTime('UTC')" = |r| CauseParts::of(r.cause).from;
        "cause_to" "DateTime('UTC')" = |r| CauseParts::of(r.cause).to;
        "cause_id" "UInt64" = |r| CauseParts::of(r.cause).id;
        "seq" "UInt64" = |r| r.seq.0;
    };

    fn month(&self) -> Month {
        Month::of(self.at)
    }

    fn day(&self) -> Option<(u32, UnixSeconds)> {
        Some((self.account.0, self.at))
    }
}

impl Row for AlarmRow {
    const TABLE: Table = Table::Alarms;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "subject" "Enum8('meter' = 1, 'gateway' = 2, 'account' = 3, 'transformer' = 4)" =
            |r| subject_parts(r.subject).0;
        "subject_id" "UInt32" = |r| subject_parts(r.subject).1;
        "at" "DateTime('UTC')" = |r| r.at.0;
        "code" "Enum8('over_voltage' = 1, 'under_voltage' = 2, 'overload' = 3, 'reverse_energy' = 4, 'power_down' = 5, 'relay' = 6, 'tamper' = 7, 'clock' = 8, 'register' = 9, 'register_proposal' = 10, 'low_balance' = 11, 'very_low_balance' = 12, 'overdrawn' = 13, 'meter_silent' = 14, 'gateway_silent' = 15, 'line_loss' = 16, 'negative_loss' = 17, 'unusual_use' = 18, 'emergency_offered' = 24, 'balance_bound' = 25, 'supply_trip' = 26)" =
            |r| r.code.code();
        "severity" "Enum8('notice' = 1, 'warning' = 2, 'critical' = 3)" = |r| r.severity.code();
        "state" "Enum8('raised' = 1, 'cleared' = 2)" = |r| r.state.code();
        "value" "Int64" = |r| r.value;
        "seq" "UInt64" = |r| r.seq.0;
    };

    fn month(&self) -> Month {
        Month::of(self.at)
    }
}

impl Row for GapRow {
    const TABLE: Table = Table::Gaps;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "meter_id" "UInt32" = |r| r.meter.0;
        "gap_from" "DateTime('UTC')" = |r| r.from.0;
        "gap_to" "DateTime('UTC')" = |r| r.to.0;
        "missing" "UInt32" = |r| r.missing;
        "state" "Enum8('open' = 1, 'closed' = 2)" = |r| r.state.code();
        "rev" "UInt64" = |r| r.rev.0;
    };

    fn month(&self) -> Month {
        Month::of(self.from)
    }
}

impl Row for LossRow {
    const TABLE: Table = Table::LineLoss;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "transformer_id" "UInt32" = |r| r.transformer.0;
        "start" "DateTime('UTC')" = |r| r.start.0;
        "supply_wh" "UInt64" = |r| r.supply.wh();
        "delivered_wh" "UInt64" = |r| r.delivered.wh();
        "expected" "UInt32" = |r| r.expected;
        "actual" "UInt32" = |r| r.actual;
        "rev" "UInt64" = |r| r.rev.0;
    };

    fn month(&self) -> Month {
        Month::of(self.start)
    }
}

impl Row for MeterRow {
    const TABLE: Table = Table::Meters;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "meter_id" "UInt32" = |r| r.record.meter.0;
        "serial" "String" = |r| r.serial.as_str();
        "model" "String" = |r| r.model.as_str();
        "role" "Enum8('consumer' = 1, 'supply' = 2)" = |r| match r.record.role {
            Role::Consumer => 1_u8,
            Role::Supply => 2,
        };
        "transformer_id" "UInt32" = |r| r.record.transformer.0;
        "gateway_id" "UInt32" = |r| r.record.gateway.0;
        "current_max_ma" "UInt32" = |r| r.record.current_max.ma();
        "voltage_nominal_mv" "UInt32" = |r| r.record.voltage_nominal.mv();
        "phases" "UInt8" = |r| r.record.phases;
        "period_s" "UInt32" = |r| r.record.period_s;
        "rev" "UInt64" = |r| r.rev;
    };

    fn month(&self) -> Month {
        Month::NONE
    }
}

impl Row for AccountRow {
    const TABLE: Table = Table::Accounts;
    const COLUMNS: &'static [Column<Self>] = columns! {
        "account_id" "UInt32" = |r| r.terms.account.0;
        "customer_id" "UInt32" = |r| r.terms.customer.0;
        "plan_id" "UInt32" = |r| r.terms.plan.0;
        "zone" "String" = |r| r.terms.zone.as_str();
        "mode" "Enum8('prepaid' = 1, 'postpaid' = 2)" = |r| match r.terms.mode {
            Mode::Prepaid => 1_u8,
            Mode::Postpaid => 2,
        };
        "overdraft_ticks" "Int64" = |r| r.terms.overdraft.ticks();
        "low_level1_ticks" "Int64" = |r| r.terms.low_levels[0].ticks();
        "low_level2_ticks" "Int64" = |r| r.terms.low_levels[1].ticks();
        "rev" "UInt64" = |r| r.rev;
    };

    fn month(&self) -> Month {
        Month::NONE
    }
}

fn outcome_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Accepted => 1,
        Outcome::Duplicate => 2,
        Outcome::Quarantined(_) => 3,
        Outcome::Parked => 4,
    }
}

fn reason_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Quarantined(reason) => QuarantineReason::code(reason),
        Outcome::Accepted | Outcome::Duplicate | Outcome::Parked => 0,
    }
}

pub(super) fn subject_parts(subject: Subject) -> (u8, u32) {
    match subject {
        Subject::Meter(id) => (1, id.0),
        Subject::Gateway(id) => (2, id.0),
        Subject::Account(id) => (3, id.0),
        Subject::Transformer(id) => (4, id.0),
    }
}

/// A cause in columns; what a kind does not have is zero.
#[derive(Default)]
struct CauseParts {
    kind: u8,
    meter: u32,
    from: u32,
    to: u32,
    id: u64,
}

impl CauseParts {
    fn of(cause: Cause) -> Self {
        match cause {
            Cause::Readings { meter, from, to } => {
                Self { kind: 1, meter: meter.0, from: from.0, to: to.0, ..Self::default() }
            }
            Cause::Period(from) => Self { kind: 2, from: from.0, ..Self::default() },
            Cause::Purchase(id) => Self { kind: 3, id, ..Self::default() },
            Cause::Person(Seq(id)) => Self { kind: 4, id, ..Self::default() },
            Cause::Meter { meter, at } => {
                Self { kind: 5, meter: meter.0, from: at.0, ..Self::default() }
            }
            // The number stands where a purchase's id does; `seq` has the entry.
            Cause::Movement { number, .. } => {
                Self { kind: 6, id: number.into(), ..Self::default() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_are_those_of_the_calendar() {
        for (at, want) in [
            (0, 197_001),
            (951_782_399, 200_002),   // 2000-02-28T23:59:59Z
            (951_868_800, 200_003),   // 2000-03-01T00:00:00Z
            (1_709_164_800, 202_402), // 2024-02-29
            (1_735_689_599, 202_412), // 2024-12-31T23:59:59Z
            (1_735_689_600, 202_501),
            (u32::MAX, 210_602),
        ] {
            assert_eq!(Month::of(UnixSeconds(at)), Month(want), "{at}");
        }
    }

    #[test]
    fn the_codes_in_the_columns_are_those_of_the_vocabulary() {
        let kind = |columns: &[(&str, &'static str)], name: &str| {
            columns.iter().find(|column| column.0 == name).map(|column| column.1).unwrap()
        };
        let check = |table: Table, column: &str, codes: &[u8]| {
            let columns = table.columns();
            let kind = kind(&columns, column);
            let listed: Vec<u8> = kind
                .trim_start_matches("Enum8(")
                .trim_end_matches(')')
                .split(", ")
                .map(|item| item.split_once(" = ").unwrap().1.parse().unwrap())
                .filter(|&code| code != 0)
                .collect();
            assert_eq!(listed, codes, "{table:?} {column}");
        };
        let codes = |list: &[meter::AlarmCode]| list.iter().map(|c| c.code()).collect::<Vec<_>>();
        check(Table::Alarms, "code", &codes(meter::AlarmCode::ALL));
        check(
            Table::Readings,
            "reason",
            &QuarantineReason::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(),
        );
        check(
            Table::Ledger,
            "kind",
            &meter::LedgerKind::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(),
        );
        check(
            Table::Ledger,
            "contra",
            &meter::Contra::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(),
        );
        check(
            Table::Intervals,
            "quality",
            &meter::IntervalQuality::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(),
        );
        check(
            Table::Gaps,
            "state",
            &meter::GapState::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(),
        );
        check(
            Table::Alarms,
            "severity",
            &meter::Severity::ALL.iter().map(|c| c.code()).collect::<Vec<_>>(),
        );
    }
}
