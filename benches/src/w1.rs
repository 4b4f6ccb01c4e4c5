//! W1: 100,000 meters over a day of quarter hours, with 5 ‰ duplicates and 10 ‰ late readings,
//! through the whole dataflow with the full rules, against a bare loop over the same stream.
//!
//! Sketch: a reading is 32 bytes for the bare loop and 104 as an entry; its effects are
//! one row of 64 bytes. Of a meter it touches a line and a place of its ring, half a line, of an
//! account a line: at 100,000 meters 16 MB a slot, so memory decides when meters come shuffled.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use dataflow::{Config, Engine};
use meter::{
    AccountId, AccountTerms, Block, BlockPeriod, Change, CurrencyCode, Current, CustomerId,
    DayProfile, Effects, Energy, Entry, Fields, GatewayId, Installation, LocalDate, MeterId,
    MeterRecord, Mode, Money, MonthDay, OutboxId, Outcome, PlanId, Power, Price, Purchase,
    PurchaseId, Reading, Role, Season, Seq, Switch, TariffVersion, TransformerId, UnixSeconds,
    Voltage,
};

/// Readings of the whole stream.
pub const READINGS: usize = 9_648_073;

pub(crate) const METERS: u32 = 100_000;
const SLOTS: u32 = 96;
const SLOT_S: u32 = 900;
/// 2026-11-02T00:00:00Z, a Monday: the stream's second 0.
const BASE: u32 = 1_793_577_600;
/// Entries of one batch, and batches on their way.
const BATCH: usize = 4096;
const PENDING_MAX: usize = 4;
/// Each figure is the median of so many runs.
const RUNS: usize = 3;

/// One reading of the stream, 32 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    meter: u32,
    ts: u32,
    energy: u64,
    decivolts: u16,
    centiamps: u16,
    watts: u32,
    #[expect(dead_code, reason = "W1's record has it, so the bare loop reads past it")]
    seq: u64,
}

const _: () = assert!(size_of::<Record>() == 32);

/// What one way through the stream took.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Which way.
    pub name: &'static str,
    /// Readings a second.
    pub rate: f64,
    /// Against the bare loop over the same stream in this run.
    pub ratio: f64,
    /// Processor time a reading of all threads, ns: on a busy machine the steadier figure.
    pub cpu_ns: f64,
}

/// What the bare loop must find.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    duplicates: u64,
    late: u64,
    charged: u64,
    alarms: u64,
    rows: usize,
    transformer_rows: usize,
}

/// Runs the first `readings` of the stream every way, checks the results, and returns the figures:
/// the bare loop, one worker, two workers, and the first two with meters shuffled within a slot.
///
/// # Panics
/// When a total is wrong.
#[must_use]
pub fn run(readings: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (order, names) in [
        (Order::ById, ["w1 bare loop", "w1 one worker", "w1 two workers"]),
        (Order::Shuffled, ["w1 shuffled, bare loop", "w1 shuffled, one worker", ""]),
    ] {
        let records = stream(readings, order);
        let totals = bare(&records);
        check(&totals, records.len(), order);
        let duplicates = totals.duplicates;
        // The ways take turns, so that a disturbance meets all of them.
        let mut taken = [const { Vec::new() }; 3];
        for _ in 0..RUNS {
            taken[0].push(timed(|| assert_eq!(bare(&records), totals)));
            let engine = |workers| engine(workers, register(), &records, duplicates).0;
            taken[1].push(engine(1));
            if !names[2].is_empty() {
                taken[2].push(engine(2));
            }
        }
        let count = records.len() as f64;
        let bare_rate = count / median(taken[0].iter().map(|t| t.wall_s));
        for (name, taken) in names.into_iter().zip(&taken).filter(|(_, taken)| !taken.is_empty()) {
            let rate = count / median(taken.iter().map(|t| t.wall_s));
            let cpu_ns = median(taken.iter().map(|t| t.cpu_s)) / count * 1e9;
            figures.push(Figure { name, rate, ratio: rate / bare_rate, cpu_ns });
        }
    }
    figures
}

/// Order of the meters within a slot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Order {
    /// As W1 has it.
    ById,
    /// Each slot in an order of its own.
    Shuffled,
}

/// The finaliser of splitmix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The first `readings` of the stream.
#[must_use]
pub fn stream(readings: usize, order: Order) -> Vec<Record> {
    let mut registers: Vec<u64> = (0..METERS).map(|m| mix(m.into()) % 10_000_000).collect();
    let mut meters: Vec<u32> = (0..METERS).collect();
    let mut records: Vec<Record> = Vec::with_capacity(readings + 1000);
    let mut again: VecDeque<(usize, Record)> = [].into();
    let mut held: Vec<Vec<Record>> = vec![Vec::new(); SLOTS as usize + 1];
    let emit = |records: &mut Vec<Record>, again: &mut VecDeque<_>, record| {
        records.push(record);
        while again.front().is_some_and(|(due, _)| *due <= records.len()) {
            let (_, duplicate): (usize, Record) = again.pop_front().expect("it has a front");
            records.push(duplicate);
        }
    };
    for slot in 0..SLOTS {
        for record in std::mem::take(&mut held[slot as usize]) {
            emit(&mut records, &mut again, record);
        }
        if order == Order::Shuffled {
            for i in (1..meters.len()).rev() {
                meters.swap(i, (mix((u64::from(slot) << 32) | i as u64) % (i as u64 + 1)) as usize);
            }
        }
        for &meter in &meters {
            let h = mix((u64::from(meter) << 16) | u64::from(slot));
            let used = h % 500;
            registers[meter as usize] += used;
            let watts = 4 * used as u32;
            let decivolts = 2200 + ((h >> 20) % 200) as u16;
            let record = Record {
                meter,
                ts: slot * SLOT_S,
                energy: registers[meter as usize],
                decivolts,
                centiamps: (watts * 1000 / u32::from(decivolts)) as u16,
                watts,
                seq: records.len() as u64,
            };
            match (h >> 40) % 1000 {
                0..5 => {
                    emit(&mut records, &mut again, record);
                    again.push_back((records.len() + 1000, record));
                }
                5..15 => held[(slot + 4).min(SLOTS) as usize].push(record),
                _ => emit(&mut records, &mut again, record),
            }
        }
        if records.len() >= readings {
            records.truncate(readings);
            return records;
        }
    }
    for record in std::mem::take(&mut held[SLOTS as usize]) {
        emit(&mut records, &mut again, record);
    }
    records.extend(again.into_iter().map(|(_, record)| record));
    records.truncate(readings);
    records
}

/// Rate of the hour that holds a stamp.
const fn rate_of(hour: u32) -> u64 {
    match hour {
        0..=5 => 30,
        6..=7 | 22..=23 => 55,
        8..=9 | 12..=17 | 21 => 80,
        _ => 120,
    }
}

/// Duplicates among records.
pub(crate) fn duplicates(records: &[Record]) -> u64 {
    bare(records).duplicates
}

/// The job as a plain loop: what any system at all has to do.
fn bare(records: &[Record]) -> Totals {
    #[derive(Clone, Copy)]
    struct State {
        energy: u64,
        balance: i64,
        seen: u128,
        ts: u32,
        alarms: u32,
    }
    struct Row {
        meter: u32,
        ts: u32,
        energy: u64,
        watts: u32,
        decivolts: u16,
        centiamps: u16,
    }
    let rates: [u64; 24] = std::array::from_fn(|hour| rate_of(hour as u32));
    let fresh = State { energy: 0, balance: 2_000_000, seen: 0, ts: 0, alarms: 0 };
    let mut states = vec![fresh; METERS as usize];
    let mut rows: Vec<Row> = Vec::with_capacity(records.len());
    let mut transformers = vec![0_u64; (METERS / 100 * SLOTS) as usize];
    let mut totals = Totals::default();
    for record in records {
        let state = &mut states[record.meter as usize];
        let slot = record.ts / SLOT_S;
        if state.seen >> slot & 1 == 1 {
            totals.duplicates += 1;
            continue;
        }
        let is_first = state.seen == 0;
        state.seen |= 1 << slot;
        if !is_first && record.ts < state.ts {
            totals.late += 1;
        } else {
            let used = if is_first { 0 } else { record.energy - state.energy };
            let charge = used * rates[(record.ts / 3600 % 24) as usize];
            totals.charged += charge;
            state.balance -= charge as i64;
            state.energy = record.energy;
            state.ts = record.ts;
            for (bit, level) in [(1, 500_000), (2, 0)] {
                if state.balance < level && state.alarms & bit == 0 {
                    state.alarms |= bit;
                    totals.alarms += 1;
                }
            }
        }
        let Record { meter, ts, energy, watts, decivolts, centiamps, .. } = *record;
        rows.push(Row { meter, ts, energy, watts, decivolts, centiamps });
        transformers[(record.meter / 100 * SLOTS + slot) as usize] += u64::from(record.watts);
    }
    totals.rows = rows.len();
    totals.transformer_rows = transformers.iter().filter(|watts| **watts > 0).count();
    let sum = |row: &Row| {
        u64::from(row.meter ^ row.ts ^ row.watts)
            ^ row.energy
            ^ u64::from(row.decivolts ^ row.centiamps)
    };
    std::hint::black_box(rows.iter().rev().take(1).map(sum).sum::<u64>());
    totals
}

/// Holds the bare loop against the published totals, where there are some for this length.
fn check(totals: &Totals, readings: usize, order: Order) {
    if order == Order::Shuffled {
        return;
    }
    let found = (totals.duplicates, totals.late, totals.charged);
    match readings {
        500_000 => assert_eq!(found, (2472, 2042, 2_982_470_340)),
        1_000_000 => assert_eq!(found, (4914, 6031, 6_716_374_020)),
        READINGS => {
            assert_eq!(found, (48_073, 94_945, 170_924_687_255));
            assert_eq!((totals.alarms, totals.rows), (97_529, 9_600_000));
            assert_eq!(totals.transformer_rows, 96_000);
        }
        _ => {}
    }
}

pub(crate) fn reading(record: &Record) -> Reading {
    let taken_at = UnixSeconds(BASE + record.ts);
    Reading {
        meter: MeterId(record.meter + 1),
        taken_at,
        received_at: taken_at.plus(SLOT_S * 4),
        counter: record.ts / SLOT_S + 1,
        register: Energy::from_wh(record.energy),
        voltage: [
            Voltage::from_mv(u32::from(record.decivolts) * 100),
            Voltage::default(),
            Voltage::default(),
        ],
        current: [
            Current::from_ma(u32::from(record.centiamps) * 10),
            Current::default(),
            Current::default(),
        ],
        power: Power::from_w(record.watts as i32),
        fields: Fields::VOLTAGE[0].with(Fields::CURRENT[0]).with(Fields::POWER),
        ..Reading::default()
    }
}

/// Time for the whole dataflow with the full rules over `records`, and what it found. Making entries
/// of records is in it, in memory used again, as the log hands its entries on.
pub(crate) fn engine(
    workers: usize,
    registered: Vec<Entry>,
    records: &[Record],
    duplicates: u64,
) -> (Taken, Counts) {
    let mut engine = Engine::start(&Config { workers }, None).expect("threads can be started");
    let mut effects = Effects::default();
    engine.process(Seq(1), &Arc::new(registered), &mut effects).expect("the engine runs");
    let mut next = engine.position().0 + 1;
    let mut counts = Counts::default();
    let mut on_their_way: VecDeque<Arc<Vec<Entry>>> = VecDeque::new();
    let mut spare: Vec<Entry> = Vec::new();
    let taken = timed(|| {
        for chunk in records.chunks(BATCH) {
            spare.clear();
            spare.extend(chunk.iter().map(|record| Entry::Reading(reading(record))));
            let batch = Arc::new(std::mem::take(&mut spare));
            engine.submit(Seq(next), &batch).expect("the engine runs");
            next += batch.len() as u64;
            on_their_way.push_back(batch);
            if engine.pending() >= PENDING_MAX {
                counts.take(&mut engine, &mut effects);
                let done = on_their_way.pop_front().and_then(Arc::into_inner);
                spare = done.unwrap_or_default();
            }
        }
        while engine.pending() > 0 {
            counts.take(&mut engine, &mut effects);
        }
    });
    assert_eq!(counts.duplicates, duplicates, "duplicates of {workers} workers");
    assert_eq!(counts.accepted + counts.duplicates, records.len() as u64);
    (taken, counts)
}

/// What the dataflow found.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    accepted: u64,
    duplicates: u64,
    /// Orders decided.
    pub(crate) orders: u64,
    /// Alarms raised or cleared.
    pub(crate) alarms: u64,
}

impl Counts {
    fn take(&mut self, engine: &mut Engine, effects: &mut Effects) {
        effects.clear();
        engine.receive(effects).expect("the engine runs");
        self.accepted += effects.regular.len() as u64;
        self.orders += effects.orders.len() as u64;
        self.alarms += effects.alarms.len() as u64;
        for verdict in &effects.verdicts {
            match verdict.outcome {
                Outcome::Accepted => self.accepted += 1,
                Outcome::Duplicate => self.duplicates += 1,
                Outcome::Quarantined(_) | Outcome::Parked => {
                    unreachable!("W1 has only good readings: {verdict:?}")
                }
            }
        }
    }
}

/// The changes that make 100,000 meters with accounts, a transformer to each hundred.
pub(crate) fn register() -> Vec<Entry> {
    let at = UnixSeconds(BASE - 86_400);
    let mut changes = vec![Change::Tariff(tariff())];
    for n in 1..=METERS {
        let (meter, account) = (MeterId(n), AccountId(n));
        changes.push(Change::Meter(MeterRecord {
            meter,
            role: Role::Consumer,
            transformer: TransformerId((n - 1) / 100 + 1),
            gateway: GatewayId::NONE,
            current_max: Current::from_ma(60_000),
            voltage_nominal: Voltage::from_mv(230_000),
            phases: 1,
            register_digits: 6,
            period_s: SLOT_S,
        }));
        changes.push(Change::Account(AccountTerms {
            account,
            customer: CustomerId(n),
            plan: PlanId(1),
            zone: "UTC".to_owned(),
            mode: Mode::Prepaid,
            overdraft: Money::ZERO,
            low_levels: [Money::from_ticks(500_000), Money::ZERO],
        }));
        changes.push(Change::Install(Installation { meter, account, at, start: None }));
        let (purchase, paid) = (PurchaseId(n.into()), Money::from_ticks(2_000_000));
        changes.push(Change::Purchase(Purchase { purchase, account, paid, at }));
    }
    vec![Entry::Changes { outbox: OutboxId(1), changes: changes.into_boxed_slice() }]
}

/// Four rates as W1 has them, and blocks that a day's use crosses.
fn tariff() -> TariffVersion {
    let mut switches: Vec<Switch> = Vec::new();
    for hour in 0..24_u8 {
        let rate = match rate_of(hour.into()) {
            30 => 1,
            55 => 2,
            80 => 3,
            _ => 4,
        };
        if switches.last().is_none_or(|last| last.rate != rate) {
            switches.push(Switch { quarter: hour * 4, rate });
        }
    }
    let profile = DayProfile(switches);
    let block = |from_kwh, adder| Block { from_kwh, adder: Price::from_e4(adder) };
    TariffVersion {
        plan: PlanId(1),
        valid_from: LocalDate::new(2026, 1, 1).expect("a day"),
        currency: CurrencyCode::parse("CNY").expect("a code"),
        prices: [30, 55, 80, 120].map(Price::from_e4).to_vec(),
        seasons: vec![Season {
            from: MonthDay { month: 1, day: 1 },
            to: MonthDay { month: 12, day: 31 },
            workday: profile.clone(),
            weekend: profile.clone(),
            holiday: profile,
        }],
        calendar: None,
        blocks: vec![block(0, 0), block(10, 5), block(20, 15)],
        block_period: BlockPeriod::Month,
        standing_per_day: Money::ZERO,
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
    }
}

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
}

fn timed(run: impl FnOnce()) -> Taken {
    let (start, cpu_s) = (Instant::now(), cpu_s("self"));
    run();
    Taken { wall_s: start.elapsed().as_secs_f64(), cpu_s: self::cpu_s("self") - cpu_s }
}

/// Processor time of a process so far, by its number or `self`; 0 where the system does not tell.
pub(crate) fn cpu_s(process: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    // User and system time in hundredths: the 14th and 15th field, 12th and 13th after the name.
    let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<f64>().ok());
    ticks.sum::<f64>() / 100.0
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
