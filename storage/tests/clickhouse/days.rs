//! The tables of days are what the rows of the base tables come to, whatever happened to those:
//! rows sent twice, late, corrected, sent by a sink that ended before it looked at the days, made by
//! a release without such tables, made anew, or counted in another zone. On each engine to be had,
//! against sums made here.

use std::collections::BTreeMap;

use meter::{
    AccountId, Cause, Effects, Energy, IntervalRow, LedgerKind, LedgerRow, MeterId, Money, Outcome,
    QuarantineReason, Reading, Seq, UnixSeconds,
};
use storage::clickhouse::{Batch, ClickhouseConfig, Collector, ReadingRow, Rebuild, Sink};

use crate::store::{at, interval, send};
use crate::support::{Server, client};

const HOUR_S: i64 = 3600;
/// Ids on both sides of a chunk's end.
const METERS: [u32; 4] = [7, 1023, 1024, 5000];

/// The rows that are known, newest versions only, and all batches that carried them.
#[derive(Default)]
struct Known {
    intervals: BTreeMap<(u32, u32), IntervalRow>,
    ledger: BTreeMap<(u32, u64), LedgerRow>,
    readings: BTreeMap<(u32, u32, u64), ReadingRow>,
    seq: u64,
    sent: Vec<Batch>,
}

/// Sums of a day: energy, cost, intervals, actual ones, version.
type MeterDay = (u64, i64, u16, u16, u64);
/// Sums of a day and kind: amount, taken, movements, first and last number, opening, balance, version.
type AccountDay = (i64, i64, u32, u64, u64, i64, i64, u64);
/// Of a day: accepted, in quarantine, within five minutes, seconds late in all and at most, version.
type ReadingDay = (u32, u32, u32, i64, i64, u64);

#[derive(clickhouse::Row, serde::Deserialize)]
struct MeterDays {
    key: (u16, u32),
    sums: MeterDay,
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct AccountDays {
    key: (u16, u32, u8),
    sums: AccountDay,
}

#[derive(clickhouse::Row, serde::Deserialize)]
struct ReadingDays {
    key: (u16, u32),
    sums: ReadingDay,
}

impl Known {
    /// A quarter hour of a meter: an interval of this energy, a movement and a reading that was
    /// `late_s` late. Anew it has a later version.
    fn quarter(&mut self, meter: u32, quarter: u32, energy: u64, late_s: u32) {
        self.seq += 1;
        let seq = self.seq;
        let row = interval(meter, quarter, energy, seq);
        self.intervals.insert((meter, row.start.0), row);
        let last = self.ledger.range((meter, 0)..=(meter, u64::MAX)).next_back();
        let (number, balance) = last.map_or((0, 0), |(key, row)| (key.1, row.balance.ticks()));
        // A purchase now and then, and a night's standing charge.
        let (kind, amount) = match quarter % 96 {
            0 => (LedgerKind::StandingDay, -39),
            50 => (LedgerKind::Purchase, 5000),
            _ => (LedgerKind::Energy, -(energy as i64)),
        };
        let row = LedgerRow {
            account: AccountId(meter),
            number: number + 1,
            kind,
            amount: Money::from_ticks(amount),
            balance: Money::from_ticks(balance + amount),
            at: at(quarter),
            cause: Cause::Period(at(quarter)),
            seq: Seq(seq),
        };
        self.ledger.insert((meter, number + 1), row);
        let reading = Reading {
            meter: MeterId(meter),
            taken_at: at(quarter + 1),
            received_at: at(quarter + 1).plus(late_s),
            register: Energy::from_wh(energy),
            ..Reading::default()
        };
        let spike = Outcome::Quarantined(QuarantineReason::Spike);
        let outcome = if quarter.is_multiple_of(7) { spike } else { Outcome::Accepted };
        let row = ReadingRow { reading, seq: Seq(seq), rev: Seq(seq), outcome };
        self.readings.insert((meter, reading.taken_at.0, seq), row);
    }

    /// Sends the rows that entries after `after` made.
    async fn send(&mut self, sink: &Sink, after: u64) {
        let mut collector = Collector::new(100);
        let is_new = |seq: Seq| seq.0 > after;
        for row in self.readings.values().filter(|row| is_new(row.seq)) {
            collector.reading(row.seq, &row.reading, row.outcome);
        }
        collector.effects(&Effects {
            intervals: self.intervals.values().filter(|row| is_new(row.rev)).copied().collect(),
            ledger: self.ledger.values().filter(|row| is_new(row.seq)).copied().collect(),
            ..Effects::default()
        });
        let batches = collector.seal();
        send(sink, &batches).await;
        self.sent.extend(batches);
    }

    /// Compares with what the server has, for a zone so many hours east.
    async fn check(&self, config: &ClickhouseConfig, east: i64, when: &str) {
        let day = |at: u32| u16::try_from((i64::from(at) + east * HOUR_S) / 86_400).unwrap();
        let client = client(config);
        let sql = "SELECT (toUInt16(day), meter_id), (energy_wh, cost_ticks, intervals, \
                   intervals_actual, rev) FROM days.meter_days FINAL";
        let got: Vec<MeterDays> = client.query(sql).fetch_all().await.unwrap();
        let mut want = BTreeMap::<(u16, u32), MeterDay>::new();
        for row in self.intervals.values() {
            let of = want.entry((day(row.start.0), row.meter.0)).or_default();
            of.0 += row.energy.wh();
            of.1 += row.cost.ticks();
            of.2 += 1;
            of.3 += u16::from(row.quality == meter::IntervalQuality::Actual);
            of.4 = of.4.max(row.rev.0);
        }
        assert_eq!(
            got.into_iter().map(|row| (row.key, row.sums)).collect::<BTreeMap<_, _>>(),
            want,
            "{when}: meter_days"
        );

        let sql = "SELECT (toUInt16(day), account_id, toUInt8(kind)), (amount_ticks, taken_ticks, \
                   movements, number_first, number_last, opening_ticks, balance_ticks, rev) \
                   FROM days.account_days FINAL";
        let got: Vec<AccountDays> = client.query(sql).fetch_all().await.unwrap();
        let mut want = BTreeMap::<(u16, u32, u8), AccountDay>::new();
        for row in self.ledger.values() {
            let key = (day(row.at.0), row.account.0, row.kind.code());
            let (amount, balance) = (row.amount.ticks(), row.balance.ticks());
            let first = (0, 0, 0, row.number, 0, balance - amount, 0, 0);
            let of = want.entry(key).or_insert(first);
            of.0 += amount;
            of.1 -= amount.min(0);
            of.2 += 1;
            // The rows come in the order of their numbers.
            (of.4, of.6) = (row.number, balance);
            of.7 = of.7.max(row.seq.0);
        }
        assert_eq!(
            got.into_iter().map(|row| (row.key, row.sums)).collect::<BTreeMap<_, _>>(),
            want,
            "{when}: account_days"
        );

        let sql = "SELECT (toUInt16(day), meter_id), (accepted, quarantined, within_5m, late_sum_s, \
                   late_max_s, rev) FROM days.reading_days FINAL";
        let got: Vec<ReadingDays> = client.query(sql).fetch_all().await.unwrap();
        let mut want = BTreeMap::<(u16, u32), ReadingDay>::new();
        for row in self.readings.values() {
            let Reading { meter, taken_at, received_at, .. } = row.reading;
            let of = want.entry((day(taken_at.0 - 1), meter.0)).or_default();
            of.5 = of.5.max(row.rev.0);
            if row.outcome == Outcome::Accepted {
                let late = i64::from(received_at.0) - i64::from(taken_at.0);
                of.0 += 1;
                of.2 += u32::from(late <= 300);
                of.3 += late;
                of.4 = of.4.max(late);
            } else {
                of.1 += 1;
            }
        }
        assert_eq!(
            got.into_iter().map(|row| (row.key, row.sums)).collect::<BTreeMap<_, _>>(),
            want,
            "{when}: reading_days"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_the_sums_of_their_rows_whatever_happens_to_those() {
    for server in Server::all().await {
        let name = server.name();
        let config = server.fresh("days").await;
        let told = |what: &str| format!("{name}, {what}");
        let mut known = Known::default();
        let sink = Sink::open(config.clone()).await.unwrap();
        // Three days over a month's end, with a hole in the second.
        for meter in METERS {
            for quarter in (0..288).filter(|quarter| !(120..140).contains(quarter)) {
                known.quarter(meter, quarter, u64::from(meter + quarter) % 97, quarter % 700);
            }
        }
        known.send(&sink, 0).await;
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("at first")).await;

        // All of it again, as after a crash; then late rows, and corrections of older ones.
        send(&sink, &known.sent).await;
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("sent twice")).await;
        let before = known.seq;
        (120..140).for_each(|quarter| known.quarter(1023, quarter, 11, 40_000));
        [3, 4, 95, 96, 200].into_iter().for_each(|quarter| known.quarter(7, quarter, 1000, 9));
        known.send(&sink, before).await;
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("late and corrected")).await;
        // Rows of one entry that come in two blocks, the days looked at in between: versions are equal.
        known.quarter(7, 300, 5, 9);
        known.send(&sink, known.seq - 1).await;
        sink.refresh_days(Seq(known.seq)).await.unwrap();
        let second = interval(7, 301, 6, known.seq);
        known.intervals.insert((7, second.start.0), second);
        known.send(&sink, known.seq - 1).await;
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("of one entry")).await;
        // What is older than the correction comes once more.
        send(&sink, &known.sent[..known.sent.len() / 2]).await;
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("sent again in disorder")).await;

        // A sink that ends before it looks at the days: the next one finds what is left.
        let before = known.seq;
        (120..140).for_each(|quarter| known.quarter(5000, quarter, 12, 90));
        known.send(&sink, before).await;
        drop(sink);
        let sink = Sink::open(config.clone()).await.unwrap();
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("after a restart")).await;

        before_days(&config).await;
        let sink = Sink::open(config.clone()).await.unwrap();
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 8, &told("filled by a release without days")).await;

        let utc = ClickhouseConfig { zone: "UTC".to_owned(), ..config.clone() };
        let sink = Sink::open(utc.clone()).await.unwrap();
        sink.refresh_days(Seq(known.seq + 1)).await.unwrap();
        known.check(&config, 0, &told("in another zone")).await;

        let rebuild = Rebuild::begin(config.clone()).await.unwrap();
        send(rebuild.sink(), &known.sent).await;
        rebuild.sink().refresh_days(Seq(known.seq + 1)).await.unwrap();
        rebuild.finish().await.unwrap();
        known.check(&config, 8, &told("made anew")).await;
        server.stop().await;
    }
}

/// Leaves the schema as the release before the tables of days made it.
async fn before_days(config: &ClickhouseConfig) {
    let run = async |sql: &str| client(config).query(sql).execute().await.unwrap();
    for table in ["daily", "monthly", "meter_days", "account_days", "reading_days", "day_marks"] {
        run(&format!("DROP TABLE days.{table}")).await;
    }
    run("CREATE VIEW days.daily AS SELECT meter_id, toDate(start) AS day FROM days.intervals")
        .await;
    run("DROP TABLE days.schema_version").await;
    run(
        "CREATE TABLE days.schema_version (version UInt32, applied_at DateTime) ENGINE = MergeTree \
         ORDER BY version",
    )
    .await;
    run("INSERT INTO days.schema_version SELECT 4, now()").await;
}

/// Stamps far from all others are days as well.
#[tokio::test(flavor = "multi_thread")]
async fn the_ends_of_time_are_days_too() {
    for server in Server::all().await {
        let config = server.fresh("ends").await;
        let sink = Sink::open(config.clone()).await.unwrap();
        let mut collector = Collector::new(10);
        for (meter, stamp) in [(1, 0), (2, u32::MAX)] {
            let (meter, taken_at) = (MeterId(meter), UnixSeconds(stamp));
            let reading = Reading { meter, taken_at, ..Reading::default() };
            let outcome = Outcome::Quarantined(QuarantineReason::TooOld);
            collector.reading(Seq(1), &reading, outcome);
        }
        send(&sink, &collector.seal()).await;
        sink.refresh_days(Seq(2)).await.unwrap();
        let sql = "SELECT sum(quarantined) FROM ends.reading_days FINAL";
        let got: u64 = client(&config).query(sql).fetch_one().await.unwrap();
        assert_eq!(got, 2, "{}", server.name());
        server.stop().await;
    }
}
