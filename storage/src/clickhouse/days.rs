//! The tables of days: what a day of a meter or account comes to, computed in ClickHouse from the
//! rows of the base tables.
//!
//! Nothing is summed when rows arrive: a late or repeated row would be counted twice. Instead the
//! sink notes which days of which ids (in chunks of [`CHUNK`]) its batches touch, and
//! [`Sink::refresh_days`] computes those again with one `INSERT … SELECT … FINAL` for many. A row's
//! version is the newest log position that it has seen, so the result is a function of the base
//! rows, and computing it again changes nothing. `day_marks` says how far the tables of days are;
//! after a start, and for tables that an older release filled, rows from there on are looked up once.

use std::collections::{BTreeMap, BTreeSet};

use clickhouse::Row;
use meter::{Seq, UnixSeconds};
use serde::Deserialize;

use super::schema::quoted;
use super::{ClickhouseError, Sink, Table};

/// Ids that are computed together.
const CHUNK: u32 = 1024;
/// A statement makes at most about so many rows: its groups are held in memory.
const GROUPS_MAX: u32 = 250_000;
/// And looks at so many days at most: a month.
const DAYS_MAX: u32 = 31;
const DAY_S: u32 = 86_400;
/// Parts may carry rows of a mark's time that were sent while it was written.
const PARTS_BEFORE_MARK_S: u32 = 3600;
/// Says how far the tables of days are.
pub(super) const MARKS: &str = "day_marks";

/// Names of the tables of days.
pub const DAY_TABLE_NAMES: [&str; 3] = ["meter_days", "account_days", "reading_days"];

/// A table of days.
#[derive(Debug)]
pub(super) struct DayTable {
    pub(super) name: &'static str,
    /// Where its rows come from, and what leads that table's key.
    base: Table,
    id: &'static str,
    /// The base table's instant, and the one whose local day counts.
    stamp: &'static str,
    instant: &'static str,
    /// What it is grouped by besides day and id.
    kind: Option<(&'static str, &'static str)>,
    version: &'static str,
    /// Its other columns: name, type, and what is computed.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

/// All of them.
pub(super) static DAY_TABLES: [DayTable; 3] = [
    DayTable {
        name: DAY_TABLE_NAMES[0],
        base: Table::Intervals,
        id: "meter_id",
        stamp: "start",
        instant: "start",
        kind: None,
        version: "rev",
        columns: &[
            ("account_id", "UInt32", "argMax(account_id, start)"),
            ("transformer_id", "UInt32", "argMax(transformer_id, start)"),
            ("energy_wh", "UInt64", "sum(energy_wh)"),
            ("cost_ticks", "Int64", "sum(cost_ticks)"),
            ("rate1_wh", "UInt64", "sumIf(energy_wh, rate = 1)"),
            ("rate2_wh", "UInt64", "sumIf(energy_wh, rate = 2)"),
            ("rate3_wh", "UInt64", "sumIf(energy_wh, rate = 3)"),
            ("rate4_wh", "UInt64", "sumIf(energy_wh, rate = 4)"),
            ("rate1_ticks", "Int64", "sumIf(cost_ticks, rate = 1)"),
            ("rate2_ticks", "Int64", "sumIf(cost_ticks, rate = 2)"),
            ("rate3_ticks", "Int64", "sumIf(cost_ticks, rate = 3)"),
            ("rate4_ticks", "Int64", "sumIf(cost_ticks, rate = 4)"),
            ("register_wh", "UInt64", "max(register_wh)"),
            ("voltage_min_mv", "UInt32", "minIf(voltage_min_mv, voltage_min_mv > 0)"),
            ("voltage_max_mv", "UInt32", "max(voltage_max_mv)"),
            ("current_max_ma", "UInt32", "max(current_max_ma)"),
            ("power_max_w", "Int32", "max(power_max_w)"),
            ("intervals", "UInt16", "count()"),
            ("intervals_actual", "UInt16", "countIf(quality = 'actual')"),
        ],
    },
    DayTable {
        name: DAY_TABLE_NAMES[1],
        base: Table::Ledger,
        id: "account_id",
        stamp: "at",
        instant: "at",
        kind: Some(("kind", LEDGER_KIND)),
        version: "seq",
        columns: &[
            ("amount_ticks", "Int64", "sum(amount_ticks)"),
            ("taken_ticks", "Int64", "-sumIf(amount_ticks, amount_ticks < 0)"),
            ("movements", "UInt32", "count()"),
            ("number_first", "UInt64", "min(number)"),
            ("number_last", "UInt64", "max(number)"),
            ("opening_ticks", "Int64", "argMin(balance_ticks - amount_ticks, number)"),
            ("balance_ticks", "Int64", "argMax(balance_ticks, number)"),
        ],
    },
    DayTable {
        name: DAY_TABLE_NAMES[2],
        base: Table::Readings,
        id: "meter_id",
        stamp: "taken_at",
        // A stamp ends its interval: midnight's is the last of the day before.
        instant: "toDateTime(greatest(toUInt32(taken_at), 1) - 1)",
        kind: None,
        version: "rev",
        columns: &[
            ("accepted", "UInt32", "countIf(outcome = 'accepted')"),
            ("quarantined", "UInt32", "countIf(outcome = 'quarantined')"),
            ("within_1m", "UInt32", "countIf(outcome = 'accepted' AND {late} <= 60)"),
            ("within_5m", "UInt32", "countIf(outcome = 'accepted' AND {late} <= 300)"),
            ("within_15m", "UInt32", "countIf(outcome = 'accepted' AND {late} <= 900)"),
            ("within_1h", "UInt32", "countIf(outcome = 'accepted' AND {late} <= 3600)"),
            ("within_1d", "UInt32", "countIf(outcome = 'accepted' AND {late} <= 86400)"),
            ("late_sum_s", "Int64", "sumIf({late}, outcome = 'accepted')"),
            ("late_max_s", "Int64", "maxIf({late}, outcome = 'accepted')"),
        ],
    },
];

/// As the ledger has it.
const LEDGER_KIND: &str = "Enum8('energy' = 1, 'standing_day' = 2, 'standing_month' = 3, 'purchase' = 4, 'fee' = 5, 'tax' = 6, 'adjustment' = 7, 'debt_recovery' = 8, 'emergency_given' = 9, 'emergency_repaid' = 10, 'correction' = 11, 'refund' = 12, 'reversal' = 13, 'transfer' = 14, 'opening_balance' = 15, 'free_issue' = 16, 'debt_agreed' = 17, 'bound' = 18, 'token' = 19)";
/// Arrival less stamp, signed: a meter's clock may be ahead.
const LATE: &str = "(toInt64(toUInt32(received_at)) - toInt64(toUInt32(taken_at)))";

impl DayTable {
    /// Names and types of its columns.
    pub(super) fn columns(&self) -> Vec<(&'static str, &'static str)> {
        let mut columns = vec![("day", "Date"), (self.id, "UInt32")];
        columns.extend(self.kind);
        columns.extend(self.columns.iter().map(|(name, kind, _)| (*name, *kind)));
        columns.push(("rev", "UInt64"));
        columns
    }

    /// Computes the days of a span again.
    fn insert(&self, database: &str, zone: &str, span: &Span) -> String {
        let Self { name, id, stamp, instant, version, .. } = self;
        let names: Vec<&str> = self.columns().into_iter().map(|column| column.0).collect();
        let day = format!("toDate({instant}, '{zone}')");
        let mut group = format!("{day}, {id}");
        if let Some((kind, _)) = self.kind {
            group.push_str(&format!(", {kind}"));
        }
        let values: Vec<&str> = self.columns.iter().map(|column| column.2).collect();
        let values = values.join(", ").replace("{late}", LATE);
        let ids = (span.first_chunk * CHUNK, u64::from(span.last_chunk + 1) * u64::from(CHUNK) - 1);
        // The local days that these days of UTC meet, and a day of UTC more on either side for them
        // to be whole.
        let second = |day: u32| u64::from(day) * u64::from(DAY_S);
        let (first, last) = (second(span.first_day), second(span.last_day + 1) - 1);
        let local = |at: u64| format!("toDate(toDateTime({}), '{zone}')", at.min(u32::MAX.into()));
        let from = first.saturating_sub(u64::from(DAY_S));
        let to = (last + u64::from(DAY_S)).min(u32::MAX.into());
        format!(
            "INSERT INTO {database}.{name} ({}) SELECT {group}, {values}, max({version}) FROM \
             {database}.{} FINAL WHERE {id} >= {} AND {id} <= {} AND \
             {stamp} >= toDateTime({from}) AND {stamp} <= toDateTime({to}) AND \
             {day} >= {} AND {day} <= {} GROUP BY {group}",
            names.join(", "),
            self.base.name(),
            ids.0,
            ids.1,
            local(first),
            local(last)
        )
    }

    /// Asks for the places of rows that entries from `below` on made, in months with parts that are
    /// newer than the mark.
    fn select_places(&self, database: &str, mark: &Mark) -> String {
        let Self { id, stamp, instant, version, .. } = self;
        let text = database.replace('\\', "\\\\").replace('\'', "\\'");
        format!(
            "SELECT DISTINCT toUInt32(intDiv({id}, {CHUNK})), \
             toUInt32(intDiv(toUInt32({instant}), {DAY_S})) FROM {}.{} WHERE {version} >= {} AND \
             toYYYYMM({stamp}) IN (SELECT toUInt32(partition) FROM system.parts WHERE active AND \
             database = '{text}' AND table = '{}' AND modification_time >= toDateTime({}))",
            quoted(database),
            self.base.name(),
            mark.below,
            self.base.name(),
            mark.at.saturating_sub(PARTS_BEFORE_MARK_S),
        )
    }
}

/// A chunk of ids and a day of UTC.
type Place = (u32, u32);

/// The days that batches touched, by base table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Touched(BTreeMap<Table, BTreeSet<Place>>);

impl Touched {
    fn is_empty(&self) -> bool {
        self.0.values().all(BTreeSet::is_empty)
    }

    fn add(&mut self, table: Table, places: impl IntoIterator<Item = Place>) {
        self.0.entry(table).or_default().extend(places);
    }

    /// Takes in the places of a batch.
    pub(super) fn note(&mut self, table: Table, places: &Places) {
        if !places.0.is_empty() {
            self.add(table, places.0.iter().copied());
        }
    }
}

/// The days that one batch touches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(BTreeSet<Place>);

impl FromIterator<(u32, UnixSeconds)> for Places {
    /// From ids and instants. Rows that follow one another mostly lie in one place.
    fn from_iter<I: IntoIterator<Item = (u32, UnixSeconds)>>(rows: I) -> Self {
        let (mut places, mut last) = (BTreeSet::new(), None);
        for (id, at) in rows {
            let place = (id / CHUNK, at.0 / DAY_S);
            if last != Some(place) {
                places.insert(place);
                last = Some(place);
            }
        }
        Self(places)
    }
}

/// What one statement computes: ids of these chunks, days of UTC, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    first_chunk: u32,
    last_chunk: u32,
    first_day: u32,
    last_day: u32,
}

/// Covers the places with as few spans as the bounds allow, old days first.
fn spans(places: &BTreeSet<Place>) -> Vec<Span> {
    let mut runs = BTreeMap::<(u32, u32), Vec<u32>>::new();
    let mut run: Option<(Place, u32)> = None;
    let mut end = |run: Option<(Place, u32)>| {
        if let Some(((chunk, first), last)) = run {
            runs.entry((first, last)).or_default().push(chunk);
        }
    };
    for &(chunk, day) in places {
        run = match run {
            Some(((of, first), last))
                if of == chunk && day <= last + 1 && day - first < DAYS_MAX =>
            {
                Some(((of, first), day))
            }
            other => {
                end(other);
                Some(((chunk, day), day))
            }
        };
    }
    end(run);
    let mut spans = Vec::<Span>::new();
    for ((first_day, last_day), chunks) in runs {
        // A day of UTC meets two local days.
        let chunks_max = (GROUPS_MAX / CHUNK / (last_day - first_day + 2)).max(1);
        for chunk in chunks {
            match spans.last_mut() {
                Some(span)
                    if (span.first_day, span.last_day) == (first_day, last_day)
                        && span.last_chunk + 1 == chunk
                        && chunk - span.first_chunk < chunks_max =>
                {
                    span.last_chunk = chunk;
                }
                _ => {
                    spans.push(Span { first_chunk: chunk, last_chunk: chunk, first_day, last_day })
                }
            }
        }
    }
    spans
}

/// How far the tables of days are.
#[derive(Clone, Debug, Default, Row, Deserialize)]
struct Mark {
    zone: String,
    below: u64,
    at: u32,
}

/// What is still to be computed.
#[derive(Debug, Default)]
pub(super) struct Pending {
    touched: Touched,
    /// Whether what an earlier run left was looked up.
    is_known: bool,
}

impl Sink {
    /// Brings the tables of days up to date with the batches that were accepted; entries below
    /// `below` are all among them. One call at a time works, others wait for it.
    ///
    /// # Errors
    /// What the server or the connection said; what was not computed is so by the next call.
    pub async fn refresh_days(&self, below: Seq) -> Result<(), ClickhouseError> {
        let mut pending = self.pending_days().lock().await;
        // First what is noted: what comes from now on is the next call's.
        let noted = self.take_touched();
        for (table, places) in noted.0 {
            pending.touched.add(table, places);
        }
        if !pending.is_known {
            self.look_up(&mut pending.touched).await?;
            pending.is_known = true;
        }
        if pending.touched.is_empty() {
            return Ok(());
        }
        let (database, zone) = (quoted(self.database()), self.zone());
        for table in &DAY_TABLES {
            let Some(places) = pending.touched.0.get(&table.base) else { continue };
            for span in spans(places) {
                self.execute_calmly(&table.insert(&database, zone, &span)).await?;
            }
        }
        let mark = format!(
            "INSERT INTO {database}.{MARKS} (zone, below, at) SELECT '{zone}', toUInt64({}), now()",
            below.0
        );
        self.execute(&mark).await?;
        pending.touched = Touched::default();
        Ok(())
    }

    /// Notes the places of all rows that came after the mark. Without a mark that is every row, and
    /// so it is when the days were those of another zone.
    async fn look_up(&self, touched: &mut Touched) -> Result<(), ClickhouseError> {
        let database = quoted(self.database());
        let marks: Vec<Mark> = self
            .fetch(&format!("SELECT zone, below, toUInt32(at) FROM {database}.{MARKS} FINAL"))
            .await?;
        let mut mark = Mark::default();
        if marks.iter().any(|mark| mark.zone != self.zone()) {
            tracing::info!(zone = self.zone(), "the zone of the days changed: they are made anew");
            for table in DAY_TABLES.iter().map(|table| table.name).chain([MARKS]) {
                self.execute(&format!("TRUNCATE TABLE {database}.{table}")).await?;
            }
        } else if let Some(last) = marks.into_iter().next() {
            mark = last;
        }
        for table in &DAY_TABLES {
            let sql = table.select_places(self.database(), &mark);
            touched.add(table.base, self.fetch::<Place>(&sql).await?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_covered_once_within_the_bounds() {
        let span = |chunks: (u32, u32), days: (u32, u32)| Span {
            first_chunk: chunks.0,
            last_chunk: chunks.1,
            first_day: days.0,
            last_day: days.1,
        };
        let check = |places: &[Place], want: &[Span]| {
            assert_eq!(spans(&places.iter().copied().collect()), want, "{places:?}");
        };
        check(&[], &[]);
        check(&[(0, 5)], &[span((0, 0), (5, 5))]);
        check(&[(0, 5), (1, 5), (2, 5), (4, 5)], &[span((0, 2), (5, 5)), span((4, 4), (5, 5))]);
        check(&[(0, 5), (0, 6), (0, 8)], &[span((0, 0), (5, 6)), span((0, 0), (8, 8))]);
        // A late backfill of one chunk beside the running day of all.
        check(
            &[(0, 5), (0, 6), (0, 7), (1, 7), (2, 7)],
            &[span((0, 0), (5, 7)), span((1, 2), (7, 7))],
        );
        // Forty days of ten chunks: at most 31 days and GROUPS_MAX rows a statement.
        let many: BTreeSet<Place> =
            (0..10).flat_map(|chunk| (0..40).map(move |day| (chunk, day))).collect();
        let covered = spans(&many);
        let mut found = BTreeSet::new();
        for Span { first_chunk, last_chunk, first_day, last_day } in covered {
            let groups = (last_chunk - first_chunk + 1) * CHUNK * (last_day - first_day + 2);
            assert!(groups <= GROUPS_MAX && last_day - first_day < DAYS_MAX);
            for chunk in first_chunk..=last_chunk {
                for day in first_day..=last_day {
                    assert!(found.insert((chunk, day)), "{chunk} {day} twice");
                }
            }
        }
        assert_eq!(found, many);
    }

    #[test]
    fn the_kinds_of_movements_are_those_of_the_ledger() {
        let ledger = Table::Ledger.columns();
        assert!(ledger.contains(&("kind", LEDGER_KIND)), "an enum of two tables differs");
    }
}
