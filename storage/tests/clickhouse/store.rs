//! Writing and reading history, against each engine to be had: the embedded one, Debian's 18.16,
//! and the server of `METERD_TEST_CLICKHOUSE`. The same code and the same answers on all. Long,
//! since every column of every table is made up and compared here.

use meter::{
    AccountId, AccountTerms, AlarmCode, AlarmRow, AlarmState, Cause, Current, CustomerId, Effects,
    Energy, Fields, Frequency, GapRow, GapState, GatewayId, IntervalQuality, IntervalRow,
    LedgerKind, LedgerRow, LossRow, MeterId, MeterRecord, Mode, Money, Outcome, PlanId, Power,
    PowerFactor, QuarantineReason, ReactivePower, Reading, Recall, Role, Seq, Settled, Severity,
    Spread, Subject, TransformerId, UnixSeconds, Voltage,
};
use storage::clickhouse::{AccountRow, Batch, ClickhouseError, Collector, MeterRow, Sink, Table};
use tokio::sync::watch;

use crate::support::{Server, client};

/// 2026-03-31T12:00:00Z: four days of quarter hours from here cross a month's end.
const START: u32 = 1_774_958_400;
const DAYS: u32 = 4;
const QUARTER: u32 = 900;

pub(crate) fn at(quarter: u32) -> UnixSeconds {
    UnixSeconds(START + quarter * QUARTER)
}

/// A reading whose every field differs, with extremes in some.
fn reading(meter: u32, quarter: u32) -> Reading {
    let n = meter * 1000 + quarter;
    let wide = u64::from(n) << (quarter % 32);
    Reading {
        meter: MeterId(meter),
        taken_at: at(quarter),
        received_at: at(quarter).plus(n % 60),
        counter: u32::MAX - n,
        register: Energy::from_wh(u64::from(n) * 17),
        rates: [wide, wide + 1, u64::MAX - wide, 0].map(Energy::from_wh),
        voltage: [230_000 + n, 0, u32::MAX].map(Voltage::from_mv),
        current: [n, 2 * n, 3 * n].map(Current::from_ma),
        power: Power::from_w(if quarter == 3 { i32::MIN } else { n as i32 - 1500 }),
        reactive: ReactivePower::from_var(-(n as i32)),
        frequency: Frequency::from_mhz(49_000 + n % 2000),
        power_factor: PowerFactor::from_milli((n % 2001) as i16 - 1000),
        fields: Fields(n as u16),
    }
}

pub(crate) fn interval(meter: u32, quarter: u32, energy: u64, rev: u64) -> IntervalRow {
    let spread = |base: u32| (base + 2, base + 1, base + 3);
    let (average, min, max) = spread(meter * 1000 + quarter);
    let signed = |value: u32| value as i32 - 5000;
    IntervalRow {
        meter: MeterId(meter),
        start: at(quarter),
        account: AccountId(meter + 100),
        transformer: TransformerId(7),
        energy: Energy::from_wh(energy),
        register: Energy::from_wh(u64::from(quarter) * 1000 + energy),
        cost: Money::from_ticks(energy as i64 * 5283 - 1),
        rate: (quarter % 5) as u8,
        quality: IntervalQuality::ALL[usize::from(quarter.is_multiple_of(10))],
        samples: (quarter % 16) as u16,
        voltage: Spread {
            average: Voltage::from_mv(average),
            min: Voltage::from_mv(min),
            max: Voltage::from_mv(max),
        },
        current: Spread {
            average: Current::from_ma(average),
            min: Current::from_ma(min),
            max: Current::from_ma(max),
        },
        power: Spread {
            average: Power::from_w(signed(average)),
            min: Power::from_w(signed(min)),
            max: Power::from_w(signed(max)),
        },
        power_factor: Spread {
            average: PowerFactor::from_milli(-1),
            min: PowerFactor::from_milli(i16::MIN),
            max: PowerFactor::from_milli(i16::MAX),
        },
        rev: Seq(rev),
    }
}

/// Every kind, cause, code and state at least once.
fn effects() -> Effects {
    let mut effects = Effects::default();
    for meter in 1..=2 {
        for quarter in 0..DAYS * 96 {
            let energy = u64::from(quarter * meter % 97);
            effects.intervals.push(interval(meter, quarter, energy, u64::from(quarter) + 1));
        }
    }
    let causes = [
        Cause::Readings { meter: MeterId(1), from: at(0), to: at(1) },
        Cause::Period(at(2)),
        Cause::Purchase(u64::MAX),
        Cause::Person(Seq(77)),
    ];
    for (index, &kind) in LedgerKind::ALL.iter().enumerate() {
        effects.ledger.push(LedgerRow {
            account: AccountId(101),
            number: index as u64 + 1,
            kind,
            amount: Money::from_ticks(if index == 0 { i64::MIN } else { index as i64 }),
            balance: Money::from_ticks(i64::MAX - index as i64),
            at: at(index as u32 * 60),
            cause: causes[index % causes.len()],
            seq: Seq(index as u64 + 500),
        });
    }
    let subjects = [
        Subject::Meter(MeterId(1)),
        Subject::Gateway(GatewayId(2)),
        Subject::Account(AccountId(3)),
        Subject::Transformer(TransformerId(4)),
    ];
    for (index, &code) in AlarmCode::ALL.iter().enumerate() {
        effects.alarms.push(AlarmRow {
            subject: subjects[index % subjects.len()],
            code,
            severity: Severity::ALL[index % Severity::ALL.len()],
            state: AlarmState::ALL[index % 2],
            at: at(index as u32),
            value: -(index as i64),
            seq: Seq(index as u64 + 900),
        });
    }
    for (index, &state) in GapState::ALL.iter().enumerate() {
        effects.gaps.push(GapRow {
            meter: MeterId(1),
            from: at(index as u32),
            to: UnixSeconds(0),
            missing: 3,
            state,
            rev: Seq(1),
        });
    }
    for quarter in 0..96 {
        effects.losses.push(LossRow {
            transformer: TransformerId(7),
            start: at(quarter),
            supply: Energy::from_wh(u64::from(quarter) + 100),
            delivered: Energy::from_wh(u64::from(quarter) + 90),
            expected: 12,
            actual: 12 - quarter % 2,
            rev: Seq(1),
        });
    }
    effects
}

/// Readings with every verdict; the one at `parked` is settled later by `effects`.
fn outcome(quarter: u32) -> Outcome {
    match quarter {
        0..10 => Outcome::Quarantined(QuarantineReason::ALL[quarter as usize]),
        10 => Outcome::Parked,
        11 => Outcome::Duplicate,
        _ => Outcome::Accepted,
    }
}

pub(crate) fn collect(rows_max: usize) -> Vec<Batch> {
    let mut collector = Collector::new(rows_max);
    for quarter in 0..DAYS * 96 {
        for meter in 1..=2 {
            let seq = Seq(u64::from(quarter * 2 + meter));
            collector.reading(seq, &reading(meter, quarter), outcome(quarter));
        }
    }
    let mut effects = effects();
    effects.settled.push(Settled {
        seq: Seq(21),
        reading: reading(1, 10),
        outcome: Outcome::Accepted,
        settled_by: Seq(5000),
    });
    collector.effects(&effects);
    collector.meter(MeterRow {
        record: MeterRecord {
            meter: MeterId(1),
            role: Role::Supply,
            transformer: TransformerId(7),
            gateway: GatewayId::NONE,
            current_max: Current::from_ma(60_000),
            voltage_nominal: Voltage::from_mv(230_000),
            phases: 3,
            register_digits: 6,
            period_s: 900,
        },
        serial: "表-1'\\".into(),
        model: "gurux".into(),
        rev: 1,
    });
    collector.account(AccountRow {
        terms: AccountTerms {
            account: AccountId(101),
            customer: CustomerId(1),
            plan: PlanId(2),
            zone: "Asia/Shanghai".into(),
            mode: Mode::Postpaid,
            overdraft: Money::from_ticks(1),
            low_levels: [Money::from_ticks(2), Money::from_ticks(-3)],
        },
        rev: 1,
    });
    assert!(collector.rows() > 0);
    let batches = collector.seal();
    assert_eq!(collector.rows(), 0);
    batches
}

/// Keys of [`collect`]; the duplicate readings of quarter 11 are not stored.
const COUNTS: [(Table, u64); 8] = [
    (Table::Readings, (DAYS as u64 * 96 - 1) * 2),
    (Table::Intervals, DAYS as u64 * 96 * 2),
    (Table::Ledger, LedgerKind::ALL.len() as u64),
    (Table::Alarms, AlarmCode::ALL.len() as u64),
    (Table::Gaps, 2),
    (Table::LineLoss, 96),
    (Table::Meters, 1),
    (Table::Accounts, 1),
];

pub(crate) async fn send(sink: &Sink, batches: &[Batch]) {
    let (_keep, mut stop) = watch::channel(false);
    for batch in batches {
        sink.send(batch, &mut stop).await.unwrap();
    }
}

async fn check_counts(server: &Server, sink: &Sink, when: &str) {
    for (table, want) in COUNTS {
        let got = sink.history().count(table).await.unwrap();
        assert_eq!(got, want, "{} {table:?} {when}", server.name());
    }
}

#[test]
fn equal_rows_make_equal_batches() {
    let batches = collect(100_000);
    assert_eq!(batches, collect(100_000));
    for batch in &batches {
        assert_eq!(batch.token.len(), 32);
        assert!(batch.rows > 0);
    }
    let tokens: std::collections::BTreeSet<_> = batches.iter().map(|b| &b.token).collect();
    assert_eq!(tokens.len(), batches.len(), "tokens name the content");
    let small = collect(100);
    assert!(small.iter().all(|batch| batch.rows <= 100));
    let rows = |batches: &[Batch]| batches.iter().map(|batch| batch.rows).sum::<u32>();
    assert_eq!(rows(&small), rows(&batches));
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_again_changes_nothing() {
    for server in Server::all().await {
        let sink = Sink::open(server.fresh("again").await).await.unwrap();
        let batches = collect(100_000);
        let months: std::collections::BTreeSet<_> = batches.iter().map(|b| b.month).collect();
        assert_eq!(months.len(), 3, "two months and none");
        send(&sink, &batches).await;
        check_counts(&server, &sink, "after one sending").await;
        send(&sink, &batches).await;
        check_counts(&server, &sink, "after sending the same again").await;
        // Cut otherwise, as after a restart: other tokens, the same keys.
        send(&sink, &collect(50)).await;
        check_counts(&server, &sink, "after sending in other batches").await;
        let status = sink.status().borrow().clone();
        assert_eq!((status.retries, status.error), (0, None));
        // A reopened sink finds its tables.
        let again = Sink::open(server.config("again")).await.unwrap();
        check_counts(&server, &again, "after opening again").await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_gives_back_what_was_stored() {
    for server in Server::all().await {
        let name = server.name();
        let sink = Sink::open(server.fresh("history").await).await.unwrap();
        send(&sink, &collect(100_000)).await;
        let history = sink.history();
        let all = (at(0), at(DAYS * 96));

        let readings = history.readings(MeterId(1), all.0, all.1, 10_000).await.unwrap();
        assert_eq!(readings.len(), DAYS as usize * 96 - 1, "{name}");
        for point in &readings {
            let quarter = (point.taken_at - START) / QUARTER;
            assert_eq!(Reading::from(*point), reading(1, quarter), "{name} {quarter}");
            let (code, reason) = match outcome(quarter) {
                Outcome::Quarantined(reason) => (3, reason.code()),
                // The parked one was settled.
                Outcome::Accepted | Outcome::Duplicate | Outcome::Parked => (1, 0),
            };
            assert_eq!((point.outcome, point.reason), (code, reason), "{name} {quarter}");
        }

        let want = effects();
        let points = history.intervals(MeterId(2), at(5), at(300), 10_000).await.unwrap();
        let rows: Vec<&IntervalRow> = want
            .intervals
            .iter()
            .filter(|row| row.meter == MeterId(2) && (at(5)..at(300)).contains(&row.start))
            .collect();
        assert_eq!(points.len(), rows.len(), "{name}");
        for (point, row) in points.iter().zip(rows) {
            assert_eq!(point.start, row.start.0, "{name}");
            assert_eq!(point.account_id, row.account.0);
            assert_eq!(point.energy_wh, row.energy.wh());
            assert_eq!(point.register_wh, row.register.wh());
            assert_eq!(point.cost_ticks, row.cost.ticks());
            assert_eq!((point.rate, point.quality), (row.rate, row.quality.code()));
            assert_eq!(point.samples, row.samples);
            let voltage = row.voltage;
            let want = (voltage.average.mv(), voltage.min.mv(), voltage.max.mv());
            assert_eq!(point.voltage_mv, want, "{name}");
            let power = row.power;
            assert_eq!(point.power_w, (power.average.w(), power.min.w(), power.max.w()));
            assert_eq!(point.power_factor_milli, (-1, i16::MIN, i16::MAX));
        }
        let some = history.intervals(MeterId(2), all.0, all.1, 7).await.unwrap();
        assert_eq!(some.len(), 7, "{name}");

        let ledger = history.ledger(AccountId(101), 2, 100).await.unwrap();
        assert_eq!(ledger.len(), LedgerKind::ALL.len() - 2, "{name}");
        assert_eq!((ledger[0].number, ledger[0].cause, ledger[0].cause_id), (3, 3, u64::MAX));
        assert_eq!(ledger[0].balance_ticks, i64::MAX - 2);
        assert_eq!((ledger[2].cause_from, ledger[2].cause_to), (at(0).0, at(1).0));
        assert_eq!(history.ledger(AccountId(101), 0, 1).await.unwrap()[0].amount_ticks, i64::MIN);

        let alarms = history.alarms(None, all.0, all.1, 100).await.unwrap();
        assert_eq!(alarms.len(), AlarmCode::ALL.len(), "{name}");
        assert!(alarms.is_sorted_by_key(|alarm| std::cmp::Reverse(alarm.at)));
        let last = AlarmCode::ALL[AlarmCode::ALL.len() - 1].code();
        assert_eq!((alarms[0].code, alarms[0].value), (last, 1 - alarms.len() as i64));
        let subject = Some(Subject::Gateway(GatewayId(2)));
        let alarms = history.alarms(subject, all.0, all.1, 100).await.unwrap();
        assert_eq!(alarms.len(), (AlarmCode::ALL.len() + 2) / 4, "{name}");
        assert!(alarms.iter().all(|alarm| (alarm.subject, alarm.subject_id) == (2, 2)));

        let loss = history.line_loss(TransformerId(7), at(10), at(20), 100).await.unwrap();
        assert_eq!(loss.len(), 10, "{name}");
        assert_eq!((loss[1].supply_wh, loss[1].delivered_wh, loss[1].actual), (111, 101, 11));

        assert!(history.intervals(MeterId(99), all.0, all.1, 10).await.unwrap().is_empty());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn days_and_months_are_local_and_replaced_rows_count_once() {
    for server in Server::all().await {
        let name = server.name();
        let sink = Sink::open(server.fresh("periods").await).await.unwrap();
        send(&sink, &collect(100_000)).await;
        sink.refresh_days(Seq(9999)).await.unwrap();
        // A late reading replaces three intervals.
        let mut collector = Collector::new(1000);
        let mut effects = Effects::default();
        let replaced = [20, 21, 120].map(|quarter| interval(1, quarter, 1_000_000, 9999));
        effects.intervals.extend(replaced);
        collector.effects(&effects);
        send(&sink, &collector.seal()).await;
        sink.refresh_days(Seq(10_000)).await.unwrap();

        // Asia/Shanghai is eight hours ahead: its days begin at 16:00 UTC.
        let mut days = std::collections::BTreeMap::<u32, (u64, i64, u64)>::new();
        for quarter in 0..DAYS * 96 {
            let row = replaced.iter().find(|row| row.start == at(quarter)).copied();
            let row = row.unwrap_or_else(|| interval(1, quarter, u64::from(quarter % 97), 1));
            let day = days.entry((row.start.0 + 8 * 3600) / 86_400).or_default();
            day.0 += row.energy.wh();
            day.1 += row.cost.ticks();
            day.2 += 1;
        }
        let history = sink.history();
        let zone = "Asia/Shanghai";
        let got = history.days(MeterId(1), at(0), at(DAYS * 96), zone).await.unwrap();
        let got: Vec<_> = got
            .iter()
            .map(|p| (u32::from(p.first_day), (p.energy_wh, p.cost_ticks, p.intervals)))
            .collect();
        assert_eq!(got, days.clone().into_iter().collect::<Vec<_>>(), "{name}");

        let got = history.months(MeterId(1), at(0), at(DAYS * 96), zone).await.unwrap();
        // 2026-03-01 is day 20513, 2026-04-01 day 20544.
        let want: Vec<(u16, u64)> = [(20_513, 0..20_544), (20_544, 20_544..30_000)]
            .map(|(first, span)| (first, days.range(span).map(|day| day.1.0).sum()))
            .to_vec();
        let got: Vec<_> = got.iter().map(|p| (p.first_day, p.energy_wh)).collect();
        assert_eq!(got, want, "{name}");

        // The views say the same.
        let client = client(&server.config("periods"));
        let sql = "SELECT toUInt16(day), energy_wh, cost_ticks, intervals FROM periods.daily \
                   WHERE meter_id = 1 ORDER BY day";
        let view: Vec<(u16, u64, i64, u64)> = client.query(sql).fetch_all().await.unwrap();
        let view: Vec<_> = view.iter().map(|r| (u32::from(r.0), (r.1, r.2, r.3))).collect();
        assert_eq!(view, days.into_iter().collect::<Vec<_>>(), "{name}");
        let sql = "SELECT toUInt16(month), energy_wh FROM periods.monthly WHERE meter_id = 1 \
                   ORDER BY month";
        let view: Vec<(u16, u64)> = client.query(sql).fetch_all().await.unwrap();
        assert_eq!(view, want, "{name}");
        let bad = history.days(MeterId(1), at(0), at(9), "Nowhere'); DROP TABLE x --").await;
        assert!(matches!(bad, Err(ClickhouseError::Server { .. })), "{name} {bad:?}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recall_finds_the_window_and_its_neighbours() {
    for server in Server::all().await {
        let sink = Sink::open(server.fresh("recall").await).await.unwrap();
        send(&sink, &collect(100_000)).await;
        let history = sink.history();
        let check = async |from: u32, to: u32, want: Vec<u32>| {
            let (from, to) = (at(from), at(to));
            let recall = Recall { meter: MeterId(1), from, to, seq: Seq(1) };
            let got = history.recall(&recall).await.unwrap();
            assert_eq!((got.meter, got.from, got.to), (MeterId(1), from, to));
            let want: Vec<Reading> = want.into_iter().map(|quarter| reading(1, quarter)).collect();
            assert_eq!(got.readings, want, "{} {from:?} {to:?}", server.name());
        };
        // 0 to 9 are in quarantine, 11 was a duplicate without its first copy here.
        check(12, 13, vec![10, 12, 13, 14]).await;
        check(0, 9, vec![10]).await;
        check(11, 11, vec![10, 12]).await;
        check(DAYS * 96 - 1, DAYS * 96 + 5, vec![DAYS * 96 - 2, DAYS * 96 - 1]).await;
        // Over the month's end, which lies between quarters 47 and 48.
        check(47, 48, vec![46, 47, 48, 49]).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_or_changed_schema_is_refused() {
    for server in Server::all().await {
        let config = server.fresh("schema").await;
        drop(Sink::open(config.clone()).await.unwrap());
        let client = client(&config);
        let run = async |sql: &str| client.query(sql).execute().await.unwrap();
        run("ALTER TABLE schema.gaps MODIFY COLUMN missing UInt64").await;
        let error = Sink::open(config.clone()).await.unwrap_err();
        let said = error.to_string();
        assert!(matches!(error, ClickhouseError::SchemaDiffers { table: "gaps", .. }), "{said}");
        assert!(said.contains("missing is UInt64, not UInt32"), "{said}");
        run("ALTER TABLE schema.gaps MODIFY COLUMN missing UInt32").await;
        drop(Sink::open(config.clone()).await.unwrap());
        run("INSERT INTO schema.schema_version VALUES (99, now())").await;
        let error = Sink::open(config).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::SchemaNewer { found: 99, .. }), "{error}");
        let mut zone = server.config("zone");
        zone.zone = "x'); DROP TABLE y --".into();
        let error = Sink::open(zone).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::BadZone(_)), "{error}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_server_is_said() {
    for server in Server::all().await {
        let mut config = server.fresh("wrong").await;
        config.password = "not the password".into();
        let error = Sink::open(config).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::Refused { .. }), "{} {error}", server.name());
        assert!(!error.is_transient());
        let sink = Sink::open(server.config("wrong")).await.unwrap();
        let (stop, mut stopped) = watch::channel(false);
        client(&server.config("wrong")).query("DROP TABLE wrong.gaps").execute().await.unwrap();
        let gaps = collect(1000).into_iter().find(|batch| batch.table == Table::Gaps).unwrap();
        // The batch is not skipped, however often it fails; the failure shows in the status.
        let mut status = sink.status();
        let sending = async { sink.send(&gaps, &mut stopped).await };
        let watching = async {
            let seen = status.wait_for(|status| status.retries >= 3).await.unwrap().clone();
            stop.send_replace(true);
            seen
        };
        let (sent, seen) = tokio::join!(sending, watching);
        assert!(matches!(sent, Err(ClickhouseError::Stopped)));
        assert!(seen.error.unwrap().contains("60"), "unknown table");
        server.stop().await;
    }
    let free = loadgen::free_address().unwrap();
    let mut config = Server::Given(format!("http://{free}")).config("x");
    let error = Sink::open(config.clone()).await.unwrap_err();
    assert!(matches!(error, ClickhouseError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
    config.url = "no url".into();
    let error = Sink::open(config).await.unwrap_err();
    assert!(!error.is_transient(), "{error}");
}
