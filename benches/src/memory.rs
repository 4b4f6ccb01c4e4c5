//! `memory_per_meter`: what a meter costs the directory of ingest and the books, as the slope of
//! resident memory while a fleet grows; and `idle_rss`: a node that has nothing to do.
//!
//! Sketch: a device's keys, window and place take 96 bytes of the directory and its index; the
//! books keep two cache lines and a ring's place for the meter, two lines for the account, and its
//! terms.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use dataflow::{Config, Engine};
use ingest::Directory;
use loadgen::driver::{Clocks, DriverConfig, UdpFleet};
use loadgen::faults::FaultPlan;
use loadgen::fleet::{Fleet, Plan, Shape, Span, Spec, tariff_versions};
use loadgen::{Retry, Seed, VirtualMeter, World};
use meter::{
    AccountId, AccountTerms, Change, Current, CustomerId, Effects, Energy, Entry, GatewayId,
    Installation, MeterId, MeterRecord, Mode, Money, OutboxId, PlanId, Reading, Role, Seq,
    TransformerId, UnixSeconds, Voltage,
};

use crate::udp::{registration, template};

/// 2026-11-02T00:00:00Z.
const START: UnixSeconds = UnixSeconds(1_793_577_600);
/// Meters of an entry of changes, and readings of a batch.
const BATCH: u32 = 10_000;
/// Readings of each meter: an interval is open and one is whole.
const ROUNDS: u32 = 3;

/// Bytes a meter from `least` to `most` meters, account and key included.
///
/// # Errors
/// The system does not tell how much memory there is.
///
/// # Panics
/// When the books do not run.
pub fn per_meter(least: u32, most: u32) -> io::Result<f64> {
    let directory = Directory::new(most);
    let engine = Engine::start(&Config { workers: 1 }, None).expect("threads can be started");
    let mut books = Books { engine, next: 1, effects: Effects::default() };
    let mut tariff = tariff_versions(Plan::TimeOfUse, START).remove(0);
    tariff.plan = PlanId(1);
    books.change(vec![Change::Tariff(tariff)]);
    let mut resident = Vec::new();
    let (mut known, template) = (0, template());
    for count in [least, most] {
        for first in (known + 1..=count).step_by(BATCH as usize) {
            let numbers = first..=(first + BATCH - 1).min(count);
            for number in numbers.clone() {
                directory.register(&registration(number, template)).expect("there is room");
            }
            books.change(numbers.clone().flat_map(changes).collect());
            for round in 0..ROUNDS {
                books.take(numbers.clone().map(|number| reading(number, round)).collect());
            }
        }
        known = count;
        resident.push(resident_bytes()?);
    }
    assert_eq!(directory.len(), usize::try_from(most).expect("a count fits"));
    let grown = resident[1].saturating_sub(resident[0]);
    Ok(grown as f64 / f64::from(most - least))
}

/// Bytes that a virtual meter takes in the simulator while it waits for its next reading, as the
/// slope from `least` to `most` of them; 10 M must fit in 8 GB.
///
/// # Errors
/// What sockets say.
pub fn per_virtual_meter(least: u32, most: u32) -> io::Result<f64> {
    let mut resident = Vec::new();
    for meters in [least, most] {
        let spec = Spec { meters, ..Spec::default() };
        let span = Span { first: START, seconds: 900, backfill_days: 0 };
        let fleet = Fleet::new(Seed(1), spec, span, Shape::Even, (0, 1));
        let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(1) };
        let world = World { seed: Seed(1), retry, window: 4, pace: 1 };
        let devices: Vec<VirtualMeter> = fleet.direct_meters(&world).collect();
        let sink = UdpSocket::bind("127.0.0.1:0")?;
        let config = DriverConfig {
            node: sink.local_addr()?,
            sockets: 1,
            receive_buffer_bytes: 1 << 16,
            faults_up: FaultPlan::default(),
            faults_down: FaultPlan::default(),
            smear_ms: 1000,
            reconnect: Duration::from_secs(1),
        };
        // An hour before the first reading: every meter is polled once and then waits.
        let before_ms = u64::from(START.0 - 3600) * 1000;
        let clocks =
            Clocks { time_ms: Arc::new(move || before_ms), wall: Arc::new(|| Duration::ZERO) };
        let polls = devices.len();
        let mut driver = UdpFleet::new(&config, world, devices, clocks)?;
        (0..polls).step_by(64).try_for_each(|_| driver.step(Duration::ZERO))?;
        assert_eq!(driver.stats().frames_sent, 0);
        resident.push(resident_bytes()?);
    }
    // The first fleet's memory is used again by the second.
    Ok(resident[1].saturating_sub(resident[0]) as f64 / f64::from(most - least))
}

/// Resident memory of this process.
///
/// # Errors
/// The system does not tell.
pub fn resident_bytes() -> io::Result<u64> {
    resident_of("self")
}

/// Resident memory of a process.
///
/// # Errors
/// The system does not tell.
pub fn resident_of(pid: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("no VmRSS"))
}

struct Books {
    engine: Engine,
    next: u64,
    effects: Effects,
}

impl Books {
    fn change(&mut self, changes: Vec<Change>) {
        let outbox = OutboxId(self.next);
        self.take(vec![Entry::Changes { outbox, changes: changes.into_boxed_slice() }]);
    }

    fn take(&mut self, entries: Vec<Entry>) {
        let count = u64::try_from(entries.len()).expect("a count fits");
        let entries = Arc::new(entries);
        self.engine.process(Seq(self.next), &entries, &mut self.effects).expect("the engine runs");
        self.effects = Effects::default();
        self.next += count;
    }
}

fn changes(number: u32) -> [Change; 3] {
    let (meter, account) = (MeterId(number), AccountId(number));
    [
        Change::Meter(MeterRecord {
            meter,
            role: Role::Consumer,
            transformer: TransformerId((number - 1) / 64 + 1),
            gateway: GatewayId::NONE,
            current_max: Current::from_ma(60_000),
            voltage_nominal: Voltage::from_mv(230_000),
            phases: 1,
            register_digits: 6,
            period_s: 900,
        }),
        Change::Account(AccountTerms {
            account,
            customer: CustomerId(number),
            plan: PlanId(1),
            zone: "Asia/Shanghai".to_owned(),
            mode: Mode::Prepaid,
            overdraft: Money::ZERO,
            low_levels: [Money::from_ticks(500_000), Money::ZERO],
        }),
        Change::Install(Installation { meter, account, at: START, start: None }),
    ]
}

fn reading(number: u32, round: u32) -> Entry {
    Entry::Reading(Reading {
        meter: MeterId(number),
        taken_at: START.plus(round * 900),
        received_at: START.plus(round * 900),
        counter: round + 1,
        register: Energy::from_wh(u64::from(number) * 1000 + u64::from(round) * 100),
        ..Reading::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(resident_of("none").is_err());
    }
}
