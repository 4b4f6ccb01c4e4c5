//! How long rows are kept, table by table. A server that knows TTL is told; from an older one
//! whole months are dropped. Either way the server's own clock decides what is old.

use super::Table;
use super::days::DAY_TABLES;
use super::schema::quoted;

/// Months that rows are kept; 0 keeps them for ever. The log is not concerned: what ClickHouse gave
/// up can be computed again while the log holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Readings as the meters sent them.
    pub readings: u32,
    /// 15-minute rows.
    pub intervals: u32,
    /// Movements of accounts.
    pub ledger: u32,
    /// Alarms begun and ended.
    pub alarms: u32,
    /// Absent readings.
    pub gaps: u32,
    /// Supply against delivery.
    pub line_loss: u32,
    /// The tables of days, and with them the views `daily` and `monthly`.
    pub days: u32,
}

impl Retention {
    /// Nothing is given up.
    pub const FOREVER: Self =
        Self { readings: 0, intervals: 0, ledger: 0, alarms: 0, gaps: 0, line_loss: 0, days: 0 };

    /// The tables that have one.
    pub(super) fn tables(&self) -> impl Iterator<Item = Kept> {
        let of = |table: Table, column, months| Kept { table: table.name(), column, months };
        let months = self.days;
        let days =
            DAY_TABLES.iter().map(move |table| Kept { table: table.name, column: "day", months });
        [
            of(Table::Readings, "taken_at", self.readings),
            of(Table::Intervals, "start", self.intervals),
            of(Table::Ledger, "at", self.ledger),
            of(Table::Alarms, "at", self.alarms),
            of(Table::Gaps, "gap_from", self.gaps),
            of(Table::LineLoss, "start", self.line_loss),
        ]
        .into_iter()
        .chain(days)
    }
}

/// How long a table's rows are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) table: &'static str,
    /// What they are counted by.
    column: &'static str,
    /// 0 for ever.
    pub(super) months: u32,
}

/// The statement that brings a table's TTL from what its engine says to what is wanted, if they
/// differ.
pub(super) fn alter_ttl(
    database: &str,
    Kept { table, column, months }: Kept,
    engine_full: &str,
) -> Option<String> {
    let want = (months > 0).then(|| format!("{column} + toIntervalMonth({months})"));
    let have = engine_full.split_once(" TTL ").map(|(_, rest)| rest);
    let have = have.map(|rest| rest.split_once(" SETTINGS ").map_or(rest, |(ttl, _)| ttl));
    if have == want.as_deref() {
        return None;
    }
    let name = format!("{}.{table}", quoted(database));
    Some(match want {
        Some(ttl) => format!("ALTER TABLE {name} MODIFY TTL {ttl}"),
        None => format!("ALTER TABLE {name} REMOVE TTL"),
    })
}

/// The question for the months of a table that are wholly past their time.
pub(super) fn select_old_months(database: &str, Kept { table, months, .. }: Kept) -> String {
    let database = database.replace('\\', "\\\\").replace('\'', "\\'");
    format!(
        "SELECT DISTINCT toUInt32(partition) AS month FROM system.parts WHERE active AND \
         database = '{database}' AND table = '{table}' AND \
         month < toYYYYMM(addMonths(now(), -{months})) ORDER BY month"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ttl_is_altered_only_where_it_differs() {
        let engine = |ttl: &str| {
            format!(
                "ReplacingMergeTree(rev) ORDER BY (meter_id){ttl} SETTINGS index_granularity = 1"
            )
        };
        let check = |months: u32, ttl: &str, want: Option<&str>| {
            let retention = Retention { gaps: months, ..Retention::FOREVER };
            let gaps = retention.tables().find(|kept| kept.table == "gaps").unwrap();
            let got = alter_ttl("m", gaps, &engine(ttl));
            assert_eq!(got.as_deref(), want, "{months} {ttl}");
        };
        let two = " TTL gap_from + toIntervalMonth(2)";
        check(0, "", None);
        check(2, two, None);
        check(2, "", Some("ALTER TABLE `m`.gaps MODIFY TTL gap_from + toIntervalMonth(2)"));
        check(3, two, Some("ALTER TABLE `m`.gaps MODIFY TTL gap_from + toIntervalMonth(3)"));
        check(20, two, Some("ALTER TABLE `m`.gaps MODIFY TTL gap_from + toIntervalMonth(20)"));
        check(0, two, Some("ALTER TABLE `m`.gaps REMOVE TTL"));
    }
}
