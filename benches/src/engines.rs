//! ClickHouse for the benches: the embedded engine, and Debian's 18.16 where it is installed, each
//! with a fleet's data. A reading brings an interval and a movement, as most do.

use std::sync::Arc;
use std::time::Duration;

use loadgen::profile::Load;
use loadgen::{MeterClock, MeterPlan, Retry, Seed, VirtualMeter, World};
use meter::{
    AccountId, Cause, Current, Effects, Energy, Entry, GatewayId, IntervalQuality, IntervalRow,
    LedgerKind, LedgerRow, MeterId, MeterRecord, Money, Outcome, Reading, Role, Seq, Spread,
    TransformerId, UnixSeconds, Verdict, Voltage,
};

#[path = "../../storage/tests/clickhouse/support.rs"]
#[expect(clippy::unwrap_used, clippy::panic, reason = "shared with the tests")]
pub(crate) mod support;

/// Seconds of a quarter hour.
pub(crate) const SLOT_S: u32 = 900;
/// Ticks of a watt-hour, so that costs vary as energies do.
const TICKS_PER_WH: i64 = 5283;

/// A fleet whose data are made slot by slot, and which remembers what the next slot needs.
#[derive(Debug)]
pub(crate) struct Fleet {
    world: World,
    meters: Vec<(VirtualMeter, Reading, Money)>,
    first: UnixSeconds,
    slot: u32,
    /// The next meter of the slot under way.
    index: usize,
    next: Seq,
}

impl Fleet {
    /// `meters` meters whose first readings are of `first`.
    pub(crate) fn new(meters: u32, first: UnixSeconds) -> Self {
        let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(1) };
        let world = World { seed: Seed(1), retry, window: 1, pace: 1 };
        let meters = (1..=meters)
            .map(|number| {
                let meter = VirtualMeter::new(&world, plan(number, first));
                let reading = read(&world, &meter, number, first);
                (meter, reading, Money::ZERO)
            })
            .collect();
        Self { world, meters, first, slot: 1, index: 0, next: Seq(1) }
    }

    /// What the meters are.
    pub(crate) fn records(&self) -> Vec<MeterRecord> {
        let record = |(_, reading, _): &(VirtualMeter, Reading, Money)| MeterRecord {
            meter: reading.meter,
            role: Role::Consumer,
            transformer: TransformerId(reading.meter.0 / 100 + 1),
            gateway: GatewayId(reading.meter.0 % 3),
            current_max: Current::from_ma(60_000),
            voltage_nominal: Voltage::from_mv(230_000),
            phases: 1,
            register_digits: 6,
            period_s: SLOT_S,
        };
        self.meters.iter().map(record).collect()
    }

    /// The next quarter hour of all meters.
    pub(crate) fn slot(&mut self) -> (Seq, Arc<Vec<Entry>>, Effects) {
        self.group(self.meters.len())
    }

    /// The next `count` readings, meter after meter, quarter hour after quarter hour: entries from
    /// the returned position on, and effects.
    pub(crate) fn group(&mut self, count: usize) -> (Seq, Arc<Vec<Entry>>, Effects) {
        let first = self.next;
        let mut entries = Vec::with_capacity(count);
        let mut effects = Effects::default();
        for _ in 0..count {
            let at = self.first.plus(self.slot * SLOT_S);
            let (meter, before, balance) = &mut self.meters[self.index];
            let (seq, number) = (self.next, before.meter.0);
            let reading = read(&self.world, meter, number, at);
            self.next = Seq(seq.0 + 1);
            effects.verdicts.push(Verdict { seq, outcome: Outcome::Accepted });
            let interval = interval(seq, before, &reading);
            let amount = Money::from_ticks(-interval.cost.ticks());
            *balance = Money::from_ticks(balance.ticks() + amount.ticks());
            effects.ledger.push(LedgerRow {
                account: interval.account,
                number: self.slot.into(),
                kind: LedgerKind::Energy,
                amount,
                balance: *balance,
                at,
                cause: Cause::Readings { meter: reading.meter, from: before.taken_at, to: at },
                seq,
            });
            effects.intervals.push(interval);
            entries.push(Entry::Reading(reading));
            *before = reading;
            self.index += 1;
            if self.index == self.meters.len() {
                (self.index, self.slot) = (0, self.slot + 1);
            }
        }
        (first, Arc::new(entries), effects)
    }
}

/// A meter of a household, each with a profile, a size and a register of its own.
fn plan(number: u32, first: UnixSeconds) -> MeterPlan {
    let mixed = number.wrapping_mul(0x9E37_79B1);
    let [site, day, scale, _] = mixed.to_be_bytes();
    MeterPlan {
        ordinal: number,
        load: Load {
            site: site % 111,
            days_ahead: day % 7,
            scale_milli: 300 + u16::from(scale) * 10,
        },
        phases: 1,
        first,
        last: first.plus(u32::from(u16::MAX) * SLOT_S),
        period_s: SLOT_S,
        send_delay_s: 0,
        start: Energy::from_wh(u64::from(mixed % 50_000_000)),
        register_digits: 6,
        clock: MeterClock::default(),
    }
}

fn read(world: &World, meter: &VirtualMeter, number: u32, at: UnixSeconds) -> Reading {
    let arrived = at.plus(number % 600 + 1);
    meter.measure(world, at).reading(MeterId(number), at.0 / SLOT_S, arrived)
}

fn interval(seq: Seq, before: &Reading, reading: &Reading) -> IntervalRow {
    let energy = reading.register.wh().saturating_sub(before.register.wh());
    IntervalRow {
        meter: reading.meter,
        start: before.taken_at,
        account: AccountId(reading.meter.0),
        transformer: TransformerId(reading.meter.0 / 100 + 1),
        energy: Energy::from_wh(energy),
        register: reading.register,
        cost: Money::from_ticks(i64::try_from(energy).unwrap_or_default() * TICKS_PER_WH),
        rate: (before.taken_at.0 / 21_600 % 4 + 1) as u8,
        quality: IntervalQuality::Actual,
        samples: 1,
        voltage: of_one(reading.voltage[0]),
        current: of_one(reading.current[0]),
        power: of_one(reading.power),
        power_factor: of_one(reading.power_factor),
        rev: seq,
    }
}

const fn of_one<T: Copy>(value: T) -> Spread<T> {
    Spread { average: value, min: value, max: value }
}
