//! The way out: the product's questions about the past. Portable SQL only: aliased subqueries,
//! one JOIN per level, no CTE, no window functions; values are bound and escaped by the client.
//!
//! Every question asks for a complete answer before the first byte (`wait_end_of_query`), since
//! an old server would otherwise append a late error to rows already sent.

use clickhouse::query::Query;
use clickhouse::{Client, Row, RowOwned, RowRead};
use meter::{
    AccountId, Current, Energy, Fields, Frequency, MeterId, Neighbours, Power, PowerFactor,
    ReactivePower, Reading, Recall, Subject, TransformerId, UnixSeconds, Voltage,
};
use serde::Deserialize;

use super::schema::quoted;
use super::{ClickhouseError, Table};

/// Reads history; cheap to clone.
#[derive(Clone)]
pub struct History {
    client: Client,
    url: String,
    database: String,
    /// The database as it stands in a statement.
    name: String,
}

impl std::fmt::Debug for History {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("History").field("database", &self.database).finish_non_exhaustive()
    }
}

/// A stored quarter hour of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct IntervalPoint {
    /// Start, seconds since 1970.
    pub start: u32,
    /// Account served, 0 for none.
    pub account_id: u32,
    /// Energy, Wh.
    pub energy_wh: u64,
    /// Register at the end, Wh.
    pub register_wh: u64,
    /// Cost without block adders, ticks.
    pub cost_ticks: i64,
    /// Rate 1 to 4, 0 without account.
    pub rate: u8,
    /// 1 actual, 2 estimated (`IntervalQuality::from_code`).
    pub quality: u8,
    /// Readings in it.
    pub samples: u16,
    /// Average, least, greatest voltage, mV.
    pub voltage_mv: (u32, u32, u32),
    /// Average, least, greatest current, mA.
    pub current_ma: (u32, u32, u32),
    /// Average, least, greatest active power, W.
    pub power_w: (i32, i32, i32),
    /// Average, least, greatest power factor, 1/1000.
    pub power_factor_milli: (i16, i16, i16),
}

/// A day or month of a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct PeriodPoint {
    /// First local day of the period, as days since 1970-01-01.
    pub first_day: u16,
    /// Energy, Wh.
    pub energy_wh: u64,
    /// Cost without block adders, ticks.
    pub cost_ticks: i64,
    /// Register at its end, Wh.
    pub register_wh: u64,
    /// Greatest active power, W.
    pub power_max_w: i32,
    /// Intervals known.
    pub intervals: u64,
    /// Of these, actual ones.
    pub intervals_actual: u64,
}

/// A stored reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct ReadingPoint {
    /// Meter.
    pub meter_id: u32,
    /// Stamp of the meter.
    pub taken_at: u32,
    /// Log position of the entry that carried it.
    pub seq: u64,
    /// Arrival.
    pub received_at: u32,
    /// Invocation counter.
    pub counter: u32,
    /// Register, Wh.
    pub register_wh: u64,
    /// Tariff registers, Wh.
    pub rates_wh: (u64, u64, u64, u64),
    /// Voltages, mV.
    pub voltage_mv: (u32, u32, u32),
    /// Currents, mA.
    pub current_ma: (u32, u32, u32),
    /// Active power, W.
    pub power_w: i32,
    /// Reactive power, var.
    pub reactive_var: i32,
    /// Frequency, 1/1000 Hz.
    pub frequency_mhz: u32,
    /// Power factor, 1/1000.
    pub power_factor_milli: i16,
    /// What the meter sent.
    pub fields: u16,
    /// 1 accepted, 2 duplicate, 3 quarantined, 4 parked.
    pub outcome: u8,
    /// Why in quarantine (`QuarantineReason::from_code`), else 0.
    pub reason: u8,
}

impl From<ReadingPoint> for Reading {
    fn from(point: ReadingPoint) -> Self {
        let (v1, v2, v3) = point.voltage_mv;
        let (i1, i2, i3) = point.current_ma;
        let (r1, r2, r3, r4) = point.rates_wh;
        Self {
            meter: MeterId(point.meter_id),
            taken_at: UnixSeconds(point.taken_at),
            received_at: UnixSeconds(point.received_at),
            counter: point.counter,
            register: Energy::from_wh(point.register_wh),
            rates: [r1, r2, r3, r4].map(Energy::from_wh),
            voltage: [v1, v2, v3].map(Voltage::from_mv),
            current: [i1, i2, i3].map(Current::from_ma),
            power: Power::from_w(point.power_w),
            reactive: ReactivePower::from_var(point.reactive_var),
            frequency: Frequency::from_mhz(point.frequency_mhz),
            power_factor: PowerFactor::from_milli(point.power_factor_milli),
            fields: Fields(point.fields),
        }
    }
}

/// A stored movement of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct LedgerPoint {
    /// Its number.
    pub number: u64,
    /// When it was due.
    pub at: u32,
    /// `LedgerKind::from_code`.
    pub kind: u8,
    /// Ticks, signed.
    pub amount_ticks: i64,
    /// Balance after it, ticks.
    pub balance_ticks: i64,
    /// 1 readings, 2 period, 3 purchase, 4 person, 5 meter, 6 movement.
    pub cause: u8,
    /// Readings, meter: the meter.
    pub cause_meter_id: u32,
    /// Readings: from this stamp; period: its start; meter: when.
    pub cause_from: u32,
    /// Readings: to this stamp.
    pub cause_to: u32,
    /// Purchase: its id; person: the entry; movement: its number.
    pub cause_id: u64,
    /// The entry that made it.
    pub seq: u64,
}

/// A stored alarm event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct AlarmPoint {
    /// 1 meter, 2 gateway, 3 account, 4 transformer.
    pub subject: u8,
    /// Its id.
    pub subject_id: u32,
    /// When.
    pub at: u32,
    /// `AlarmCode::from_code`.
    pub code: u8,
    /// `Severity::from_code`.
    pub severity: u8,
    /// `AlarmState::from_code`.
    pub state: u8,
    /// The value that showed it.
    pub value: i64,
    /// Log position of the entry that showed it.
    pub seq: u64,
}

/// A stored interval of a transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct LossPoint {
    /// Start.
    pub start: u32,
    /// Supplied, Wh.
    pub supply_wh: u64,
    /// Delivered, Wh.
    pub delivered_wh: u64,
    /// Meters expected.
    pub expected: u32,
    /// Meters with an actual interval.
    pub actual: u32,
}

/// A stored gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Row, Deserialize)]
pub struct GapPoint {
    /// The last accepted stamp before it.
    pub from: u32,
    /// The first accepted stamp after it, 0 while none is known.
    pub to: u32,
    /// Readings absent.
    pub missing: u32,
    /// `GapState::from_code`.
    pub state: u8,
}

/// How large a table is.
#[derive(Debug, Clone, PartialEq, Eq, Row, Deserialize)]
pub struct TableSize {
    /// Its name.
    pub table: String,
    /// Rows, copies not yet merged away included.
    pub rows: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

const INTERVAL_COLUMNS: &str = "toUInt32(start), account_id, energy_wh, register_wh, cost_ticks, \
     rate, toUInt8(quality), samples, (voltage_avg_mv, voltage_min_mv, voltage_max_mv), \
     (current_avg_ma, current_min_ma, current_max_ma), (power_avg_w, power_min_w, power_max_w), \
     (power_factor_avg_milli, power_factor_min_milli, power_factor_max_milli)";

const READING_COLUMNS: &str = "meter_id, toUInt32(taken_at), seq, toUInt32(received_at), counter, \
     register_wh, (rate1_wh, rate2_wh, rate3_wh, rate4_wh), \
     (voltage1_mv, voltage2_mv, voltage3_mv), (current1_ma, current2_ma, current3_ma), power_w, \
     reactive_var, frequency_mhz, power_factor_milli, fields, toUInt8(outcome), toUInt8(reason)";

/// What is asked of one meter or transformer over a time.
struct Series {
    columns: &'static str,
    table: Table,
    key: &'static str,
    at: &'static str,
    order: &'static str,
}

impl History {
    pub(super) fn new(client: Client, url: &str, database: &str) -> Self {
        let client = client.with_setting("wait_end_of_query", "1");
        let name = quoted(database);
        Self { client, url: url.to_owned(), database: database.to_owned(), name }
    }

    /// A meter's intervals that start in `[from, to)`, ascending, at most `rows_max`.
    ///
    /// # Errors
    /// What the server or the connection said (likewise below).
    pub async fn intervals(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Result<Vec<IntervalPoint>, ClickhouseError> {
        let series = Series {
            columns: INTERVAL_COLUMNS,
            table: Table::Intervals,
            key: "meter_id",
            at: "start",
            order: "start",
        };
        self.series(series, meter.0, from, to, rows_max).await
    }

    /// A meter's local days that intersect `[from, to)`, ascending; `zone` is an IANA name.
    ///
    /// # Errors
    /// Also a zone that the server does not know.
    pub async fn days(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        zone: &str,
    ) -> Result<Vec<PeriodPoint>, ClickhouseError> {
        self.periods("toDate(start, ?)", meter, from, to, zone).await
    }

    /// A meter's local months that intersect `[from, to)`, ascending; `zone` is an IANA name.
    ///
    /// # Errors
    /// Also a zone that the server does not know.
    pub async fn months(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        zone: &str,
    ) -> Result<Vec<PeriodPoint>, ClickhouseError> {
        self.periods("toStartOfMonth(toDate(start, ?))", meter, from, to, zone).await
    }

    async fn periods(
        &self,
        period: &str,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        zone: &str,
    ) -> Result<Vec<PeriodPoint>, ClickhouseError> {
        let query = self
            .query(&format!(
                "SELECT toUInt16({period}) AS first_day, sum(energy_wh), sum(cost_ticks), \
                 max(register_wh), max(power_max_w), count(), countIf(quality = 'actual') \
                 FROM {}.intervals FINAL WHERE meter_id = ? AND start >= toDateTime(?) AND \
                 start < toDateTime(?) GROUP BY first_day ORDER BY first_day",
                self.name
            ))
            .bind(zone)
            .bind(meter.0)
            .bind(from.0)
            .bind(to.0);
        self.rows(query).await
    }

    /// A meter's readings stamped in `[from, to)` with every verdict, ascending.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn readings(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Result<Vec<ReadingPoint>, ClickhouseError> {
        let series = Series {
            columns: READING_COLUMNS,
            table: Table::Readings,
            key: "meter_id",
            at: "taken_at",
            order: "taken_at, seq",
        };
        self.series(series, meter.0, from, to, rows_max).await
    }

    /// The answer to a recall: all accepted readings in the window, and the nearest accepted one
    /// on each side. Ask only when the sink has passed `recall.seq`.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn recall(&self, recall: &Recall) -> Result<Neighbours, ClickhouseError> {
        let select = |condition: &str| {
            format!(
                "SELECT {READING_COLUMNS} FROM {}.readings FINAL WHERE meter_id = ? AND \
                 outcome = 'accepted' AND {condition}",
                self.name
            )
        };
        let before = select("taken_at < toDateTime(?) ORDER BY taken_at DESC LIMIT 1");
        let window =
            select("taken_at >= toDateTime(?) AND taken_at <= toDateTime(?) ORDER BY taken_at");
        let after = select("taken_at > toDateTime(?) ORDER BY taken_at LIMIT 1");
        let meter = recall.meter.0;
        let (from, to) = (recall.from.0, recall.to.0);
        let mut points: Vec<ReadingPoint> =
            self.rows(self.query(&before).bind(meter).bind(from)).await?;
        points.extend(
            self.rows::<ReadingPoint>(self.query(&window).bind(meter).bind(from).bind(to)).await?,
        );
        points.extend(self.rows::<ReadingPoint>(self.query(&after).bind(meter).bind(to)).await?);
        Ok(Neighbours {
            meter: recall.meter,
            from: recall.from,
            to: recall.to,
            readings: points.into_iter().map(Reading::from).collect(),
        })
    }

    /// An account's movements with numbers above `after`, ascending, at most `rows_max`.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn ledger(
        &self,
        account: AccountId,
        after: u64,
        rows_max: u32,
    ) -> Result<Vec<LedgerPoint>, ClickhouseError> {
        let query = self
            .query(&format!(
                "SELECT number, toUInt32(at), toUInt8(kind), amount_ticks, balance_ticks, \
                 toUInt8(cause), cause_meter_id, toUInt32(cause_from), toUInt32(cause_to), \
                 cause_id, seq FROM {}.ledger FINAL WHERE account_id = ? AND number > ? \
                 ORDER BY number LIMIT ?",
                self.name
            ))
            .bind(account.0)
            .bind(after)
            .bind(rows_max);
        self.rows(query).await
    }

    /// Alarm events in `[from, to)`, newest first, of one subject or all, at most `rows_max`.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn alarms(
        &self,
        subject: Option<Subject>,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Result<Vec<AlarmPoint>, ClickhouseError> {
        let (kind, id) = subject.map_or((0, 0), super::rows::subject_parts);
        let query = self
            .query(&format!(
                "SELECT toUInt8(subject), subject_id, toUInt32(at), toUInt8(code), \
                 toUInt8(severity), toUInt8(state), value, seq FROM {}.alarms FINAL WHERE \
                 at >= toDateTime(?) AND at < toDateTime(?) AND \
                 (? = 0 OR (toUInt8(subject) = ? AND subject_id = ?)) \
                 ORDER BY at DESC, seq DESC, code LIMIT ?",
                self.name
            ))
            .bind(from.0)
            .bind(to.0)
            .bind(kind)
            .bind(kind)
            .bind(id)
            .bind(rows_max);
        self.rows(query).await
    }

    /// A transformer's intervals that start in `[from, to)`, ascending, at most `rows_max`.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn line_loss(
        &self,
        transformer: TransformerId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Result<Vec<LossPoint>, ClickhouseError> {
        let series = Series {
            columns: "toUInt32(start), supply_wh, delivered_wh, expected, actual",
            table: Table::LineLoss,
            key: "transformer_id",
            at: "start",
            order: "start",
        };
        self.series(series, transformer.0, from, to, rows_max).await
    }

    /// A meter's gaps that begin after `after`, ascending, at most `rows_max`.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn gaps(
        &self,
        meter: MeterId,
        after: UnixSeconds,
        rows_max: u32,
    ) -> Result<Vec<GapPoint>, ClickhouseError> {
        let query = self
            .query(&format!(
                "SELECT toUInt32(gap_from), toUInt32(gap_to), missing, toUInt8(state) \
                 FROM {}.gaps FINAL WHERE meter_id = ? AND gap_from > toDateTime(?) \
                 ORDER BY gap_from LIMIT ?",
                self.name
            ))
            .bind(meter.0)
            .bind(after.0)
            .bind(rows_max);
        self.rows(query).await
    }

    /// Rows of a table, each key once.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn count(&self, table: Table) -> Result<u64, ClickhouseError> {
        let query =
            self.query(&format!("SELECT count() FROM {}.{} FINAL", self.name, table.name()));
        let rows: Vec<u64> = self.rows(query).await?;
        Ok(rows.first().copied().unwrap_or_default())
    }

    /// Rows and bytes of every table that holds any.
    ///
    /// # Errors
    /// See [`History::intervals`].
    pub async fn sizes(&self) -> Result<Vec<TableSize>, ClickhouseError> {
        let query = self
            .query(
                "SELECT table, sum(rows), sum(bytes_on_disk) FROM system.parts WHERE \
                 database = ? AND active GROUP BY table ORDER BY table",
            )
            .bind(&self.database);
        self.rows(query).await
    }

    async fn series<T: RowOwned + RowRead>(
        &self,
        series: Series,
        id: u32,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Result<Vec<T>, ClickhouseError> {
        let Series { columns, table, key, at, order } = series;
        let query = self
            .query(&format!(
                "SELECT {columns} FROM {}.{} FINAL WHERE {key} = ? AND {at} >= toDateTime(?) AND \
                 {at} < toDateTime(?) ORDER BY {order} LIMIT ?",
                self.name,
                table.name()
            ))
            .bind(id)
            .bind(from.0)
            .bind(to.0)
            .bind(rows_max);
        self.rows(query).await
    }

    pub(super) fn query(&self, sql: &str) -> Query {
        self.client.query(sql)
    }

    /// The database as it stands in a statement.
    pub(super) fn database_name(&self) -> &str {
        &self.name
    }

    pub(super) async fn rows<T: RowOwned + RowRead>(
        &self,
        query: Query,
    ) -> Result<Vec<T>, ClickhouseError> {
        query.fetch_all().await.map_err(|error| ClickhouseError::from_client(&self.url, error))
    }
}
