//! How long rows are kept, table by table. A server that knows TTL is told; from an older one
//! whole months are dropped. Either way the server's own clock decides what is old.

use super::Table;
use super::schema::quoted;

/// Months that rows are kept; 0 keeps them for ever. The log is not concerned: what ClickHouse gave
/// up can be computed again while the log holds it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Readings as the meters sent them.
    pub readings: u32,
    /// 15-minute rows, and with them the daily and monthly views.
    pub intervals: u32,
    /// Movements of accounts.
    pub ledger: u32,
    /// Alarms begun and ended.
    pub alarms: u32,
    /// Absent readings.
    pub gaps: u32,
    /// Supply against delivery.
    pub line_loss: u32,
}

impl Retention {
    /// Nothing is given up.
    pub const FOREVER: Self =
        Self { readings: 0, intervals: 0, ledger: 0, alarms: 0, gaps: 0, line_loss: 0 };

    /// The months of a table and the column that they are counted by; `None` for dimensions.
    pub(super) fn of(&self, table: Table) -> Option<(&'static str, u32)> {
        match table {
            Table::Readings => Some(("taken_at", self.readings)),
            Table::Intervals => Some(("start", self.intervals)),
            Table::Ledger => Some(("at", self.ledger)),
            Table::Alarms => Some(("at", self.alarms)),
            Table::Gaps => Some(("gap_from", self.gaps)),
            Table::LineLoss => Some(("start", self.line_loss)),
            Table::Meters | Table::Accounts => None,
        }
    }
}

/// The statement that brings a table's TTL from what its engine says to what is wanted, if they
/// differ.
pub(super) fn alter_ttl(
    database: &str,
    table: Table,
    retention: &Retention,
    engine_full: &str,
) -> Option<String> {
    let (column, months) = retention.of(table)?;
    let want = (months > 0).then(|| format!("{column} + toIntervalMonth({months})"));
    let have = engine_full.split_once(" TTL ").map(|(_, rest)| rest);
    let have = have.map(|rest| rest.split_once(" SETTINGS ").map_or(rest, |(ttl, _)| ttl));
    if have == want.as_deref() {
        return None;
    }
    let name = format!("{}.{}", quoted(database), table.name());
    Some(match want {
        Some(ttl) => format!("ALTER TABLE {name} MODIFY TTL {ttl}"),
        None => format!("ALTER TABLE {name} REMOVE TTL"),
    })
}

/// The question for the months of a table that are wholly past their time.
pub(super) fn select_old_months(database: &str, table: Table, months: u32) -> String {
    let name = table.name();
    let database = database.replace('\\', "\\\\").replace('\'', "\\'");
    format!(
        "SELECT DISTINCT toUInt32(partition) AS month FROM system.parts WHERE active AND \
         database = '{database}' AND table = '{name}' AND \
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
            let got = alter_ttl("m", Table::Gaps, &retention, &engine(ttl));
            assert_eq!(got.as_deref(), want, "{months} {ttl}");
        };
        let two = " TTL gap_from + toIntervalMonth(2)";
        check(0, "", None);
        check(2, two, None);
        check(2, "", Some("ALTER TABLE `m`.gaps MODIFY TTL gap_from + toIntervalMonth(2)"));
        check(3, two, Some("ALTER TABLE `m`.gaps MODIFY TTL gap_from + toIntervalMonth(3)"));
        check(20, two, Some("ALTER TABLE `m`.gaps MODIFY TTL gap_from + toIntervalMonth(20)"));
        check(0, two, Some("ALTER TABLE `m`.gaps REMOVE TTL"));
        assert_eq!(alter_ttl("m", Table::Meters, &Retention::FOREVER, &engine(two)), None);
    }
}
