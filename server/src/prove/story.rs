//! The story told: round by round what the meters say goes through a bad network to a node that is
//! killed, loses power and disks, and to a ClickHouse that is away; what was not acknowledged is
//! said again. At the end everything is given time to settle.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{anyhow, bail};
use meter::{
    Change, Decision, Energy, Entry, EventCode, MeterEvent, MeterId, OrderId, OrderKind, OrderNews,
    OrderReport, OrderRow, OrderState, OutboxId, Outcome, QuarantineReason, Reading, Recall, Relay,
    Resolution, Seq, Subject, UnixSeconds,
};
use storage::log::Urgency;
use storage::log::sim::{Faults, SimDisk};

use super::counter::{Plan, Sold};
use super::machine::{Disks, Machine};
use super::options::{Dice, Fault, Options};
use super::scene::{ROUND_S, ROUNDS_A_DAY, Scene};
use super::store::Store;
use crate::ticks;

/// Starts in a row that may fail before the story is given up.
const STARTS_MAX: u32 = 200;
/// Rounds after the last one until all must be settled.
const SETTLE_ROUNDS_MAX: u32 = 900;
/// Entries of one commit at most.
const GROUP_MAX: u64 = 300;

/// How the story ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) disks: Disks,
    pub(super) store: Store,
    pub(super) acknowledged: BTreeSet<(MeterId, UnixSeconds, Energy)>,
    /// Rows of the outbox that the registry holds.
    pub(super) told: Vec<(OutboxId, Vec<Change>)>,
    pub(super) restarts: u32,
    /// Steps of orders to relays, as the dispatcher heard them.
    pub(super) orders: BTreeMap<StepKey, OrderRow>,
    /// Energy sold at the counter, and its plan.
    pub(super) sold: Vec<Sold>,
    pub(super) flat: Plan,
}

/// A step of an order: the entry that made it, the order, state and attempt. Within an entry steps
/// are taken in this order.
pub(super) type StepKey = (Seq, OrderId, u8, u8);

pub(super) const fn step_key(row: &OrderRow) -> StepKey {
    (row.seq, row.order, row.state.code(), row.attempt)
}

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
struct Packet {
    reading: Reading,
    /// Whether the meter says it again until it is acknowledged.
    is_own: bool,
}

pub(super) struct Story<'a> {
    options: &'a Options,
    scene: Scene,
    dice: Dice,
    disks: Disks,
    machine: Option<Machine>,
    store: Store,
    /// Frames by the round in which they arrive.
    network: BTreeMap<u32, Vec<Packet>>,
    acknowledged: BTreeSet<(MeterId, UnixSeconds, Energy)>,
    counters: BTreeMap<MeterId, u32>,
    outbox: Vec<(OutboxId, Vec<Change>)>,
    /// The registry has marked rows up to here as sent.
    sent: OutboxId,
    questions: Vec<Recall>,
    resolved: BTreeSet<MeterId>,
    orders: BTreeMap<StepKey, OrderRow>,
    /// What devices tell beside readings, by the round from which on they try.
    events: Vec<(u32, MeterEvent)>,
    /// The node's clock is off by so much.
    clock_off_s: i64,
    round: u32,
    down_until: u32,
    outage_until: u32,
    is_settling: bool,
    restarts: u32,
    /// Why the node fell last.
    last_fall: Option<anyhow::Error>,
}

impl<'a> Story<'a> {
    pub(super) fn new(options: &'a Options) -> Self {
        let mut dice = Dice::new(options.seed, 3);
        let disks = Disks::new(&mut dice);
        let mut scene = Scene::new(options);
        let events = std::mem::take(&mut scene.events);
        Self {
            options,
            scene,
            dice,
            disks,
            machine: None,
            store: Store::new(),
            network: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            counters: BTreeMap::new(),
            outbox: Vec::new(),
            sent: OutboxId(0),
            questions: Vec::new(),
            resolved: BTreeSet::new(),
            orders: BTreeMap::new(),
            events,
            clock_off_s: 0,
            round: 0,
            down_until: 0,
            outage_until: 0,
            is_settling: false,
            restarts: 0,
            last_fall: None,
        }
    }

    /// Tells it.
    pub(super) fn tell(mut self) -> anyhow::Result<Ended> {
        while self.round < self.scene.rounds {
            self.step()?;
        }
        self.is_settling = true;
        self.clock_off_s = 0;
        self.down_until = 0;
        let last = self.round + SETTLE_ROUNDS_MAX;
        let mut quiet = 0;
        // Long enough that a clock which was ahead is met again: rows wait for its next minute.
        while quiet < 10 {
            if self.round > last {
                bail!(
                    "the story does not settle: {} frames, {} questions left",
                    self.network.len(),
                    self.questions.len()
                );
            }
            self.step()?;
            let is_quiet = self.network.is_empty() && self.questions.is_empty() && self.is_told();
            quiet = if is_quiet { quiet + 1 } else { 0 };
        }
        self.snapshot();
        if self.machine.is_none() {
            return Err(self.last_fall.unwrap_or_else(|| anyhow!("the node fell in the end")));
        }
        let Self { disks, store, acknowledged, outbox, counters, restarts, orders, .. } = self;
        let Scene { sold, flat, .. } = self.scene;
        let machine = self.machine;
        let known = machine.as_ref().map(Machine::counters).unwrap_or_default();
        for (meter, counter) in &counters {
            if known.get(meter).is_none_or(|highest| highest < counter) {
                bail!(
                    "meter {meter}: frame {counter} is acknowledged, the replay window stands at {:?}",
                    known.get(meter)
                );
            }
        }
        Ok(Ended { disks, store, acknowledged, told: outbox, restarts, orders, sold, flat })
    }

    fn has(&self, fault: Fault) -> bool {
        !self.is_settling && self.options.has(fault)
    }

    fn chance(&mut self, fault: Fault, milli: u32) -> bool {
        self.has(fault) && self.dice.happens(milli)
    }

    /// The node's clock.
    fn now(&self) -> UnixSeconds {
        let now = i64::from(self.scene.at(self.round + 1).0) + self.clock_off_s;
        UnixSeconds(u32::try_from(now).unwrap_or_default())
    }

    /// Whether ClickHouse and the log have everything that was on its way to them.
    fn is_told(&self) -> bool {
        let is_relayed = self.outbox.last().is_none_or(|(id, _)| *id == self.sent);
        let is_sunk = self.store.place.intent == self.store.place.next;
        self.scene.doings.is_empty() && self.events.is_empty() && is_relayed && is_sunk
    }

    /// One round.
    fn step(&mut self) -> anyhow::Result<()> {
        self.emit();
        self.do_doings();
        self.disturb();
        if self.machine.is_none() && self.round >= self.down_until {
            self.start()?;
        }
        let arrived = self.arrive();
        if self.machine.is_some() {
            let is_off = |story: &Self| story.disks.all().into_iter().any(SimDisk::is_off);
            let served = self.serve(arrived);
            if served.is_err() || is_off(self) {
                self.last_fall = served.err().map(|error| error.context("the last fall"));
                self.fall();
            }
        } else {
            // Nobody hears: the meters say it again.
            for packet in arrived.into_iter().filter(|packet| packet.is_own) {
                self.again(packet.reading);
            }
        }
        self.round += 1;
        Ok(())
    }

    /// What the meters say in this round.
    fn emit(&mut self) {
        let (from, to) = (self.scene.at(self.round), self.scene.at(self.round + 1));
        let mut said = Vec::new();
        for device in &self.scene.devices {
            let mut at =
                UnixSeconds(from.0.next_multiple_of(device.period_s)).plus(device.offset_s);
            while at < to {
                if at >= device.from && at < device.to && !self.is_settling {
                    said.push(device.reading(at));
                }
                at = at.plus(device.period_s);
            }
        }
        for reading in said {
            let late = self.delay();
            self.send(Packet { reading, is_own: true }, late);
        }
        if self.chance(Fault::Nonsense, 60) {
            self.nonsense();
        }
    }

    /// A reading that no sound meter sends.
    fn nonsense(&mut self) {
        let index = self.dice.below(self.scene.devices.len() as u64) as usize;
        let device = &self.scene.devices[index];
        let period = device.period_s;
        let at = UnixSeconds(self.scene.at(self.round).0 / period * period + device.offset_s);
        let good = device.reading(at);
        let wh = good.register.wh();
        let reading = match self.dice.below(6) {
            // A spike no meter can reach in a year, and one that falls to almost nothing.
            0 => Reading { register: Energy::from_wh(wh + 900_000_000_000), ..good },
            1 => Reading { taken_at: at.plus(1), register: Energy::from_wh(3), ..good },
            // Another register under the same key.
            2 => Reading { register: Energy::from_wh(wh + 1), ..good },
            3 => Reading { meter: MeterId(777), ..good },
            4 => Reading { taken_at: at.plus(5000 + period), ..good },
            _ => Reading { taken_at: device.from.minus(900), ..good },
        };
        // A stamp of the future that comes late would be none.
        let late = if reading.taken_at > at.plus(900) { 0 } else { self.delay() };
        self.send(Packet { reading, is_own: false }, late);
    }

    /// Rounds that a frame is on its way.
    fn delay(&mut self) -> u32 {
        if !self.has(Fault::Delay) || !self.dice.happens(250) {
            return 0;
        }
        let longest = *self.dice.pick(&[3, 3, 20, ROUNDS_A_DAY, 5 * ROUNDS_A_DAY]);
        self.dice.below(longest.into()) as u32
    }

    /// Puts a frame on its way; it may be lost, and come twice.
    fn send(&mut self, packet: Packet, late: u32) {
        if self.chance(Fault::Loss, 80) {
            if packet.is_own {
                self.again(packet.reading);
            }
            return;
        }
        self.network.entry(self.round + late).or_default().push(packet);
        if self.chance(Fault::Twice, 80) {
            let twin = Packet { is_own: false, ..packet };
            let late = late + self.delay();
            self.network.entry(self.round + late).or_default().push(twin);
        }
    }

    /// A meter says again what was not acknowledged.
    fn again(&mut self, reading: Reading) {
        let wait = if self.is_settling { 1 } else { 1 + self.dice.below(12) as u32 };
        let packet = Packet { reading, is_own: true };
        self.network.entry(self.round + wait).or_default().push(packet);
    }

    /// What people do in this round.
    fn do_doings(&mut self) {
        while self.scene.doings.first().is_some_and(|(round, _)| *round <= self.round) {
            // The API answers only while the node runs: people try again.
            if self.machine.is_none() && self.round > 0 {
                return;
            }
            let (_, changes) = self.scene.doings.remove(0);
            self.outbox.push((OutboxId(self.outbox.len() as u64 + 1), changes));
        }
    }

    /// Clock, outage, power and process.
    fn disturb(&mut self) {
        if self.chance(Fault::Clock, 20) {
            self.clock_off_s = *self.dice.pick(&[0, 0, -3600, 3600, 250, -7200]);
        }
        if self.chance(Fault::Outage, 15) {
            self.outage_until = self.round + self.dice.below(ROUNDS_A_DAY.into()) as u32;
        }
        if self.chance(Fault::Kill, 15) {
            self.fall();
        }
        if self.chance(Fault::Power, 15) {
            self.machine = None;
            self.disks.all().into_iter().for_each(SimDisk::restart_after_power_failure);
            self.rest();
        }
        let index = self.dice.below(4) as usize;
        let soon = 1 + self.dice.below(40);
        if self.chance(Fault::Power, 15) {
            let disk = self.disks.all()[index];
            disk.set_faults(Faults {
                power_fails_at: Some(disk.operations() + soon),
                ..Faults::default()
            });
        } else if self.chance(Fault::Disk, 20) {
            let disk = self.disks.all()[index];
            disk.set_faults(Faults {
                io_error_at: Some(disk.operations() + soon),
                ..Faults::default()
            });
        } else if self.chance(Fault::Full, 20) {
            let bytes = Some(self.dice.below(700_000));
            self.disks.log.set_faults(Faults { capacity_bytes: bytes, ..Faults::default() });
        } else if self.is_settling || self.dice.happens(100) {
            self.disks.all().into_iter().for_each(|disk| disk.set_faults(Faults::default()));
        }
    }

    /// The process ends as it stands.
    fn fall(&mut self) {
        if self.machine.take().is_none() {
            return;
        }
        let is_power = self.disks.all().into_iter().any(|disk| disk.is_off());
        for disk in self.disks.all() {
            if is_power { disk.restart_after_power_failure() } else { disk.restart_process() }
        }
        self.rest();
    }

    /// The node is away for a while.
    fn rest(&mut self) {
        self.questions.clear();
        let long = *self.dice.pick(&[1, 1, 2, 8, 30, 100]);
        self.down_until =
            self.round + if self.is_settling { 0 } else { self.dice.below(long) as u32 };
    }

    /// Starts the node, as often as it takes.
    fn start(&mut self) -> anyhow::Result<()> {
        for _ in 0..STARTS_MAX {
            self.restarts += 1;
            match Machine::start(&self.disks, self.store.place, self.options.workers, self.now()) {
                Ok(machine) => {
                    self.machine = Some(machine);
                    // What the replay told again.
                    self.dispatch();
                    return Ok(());
                }
                Err(error) if self.is_excused() => {
                    drop(error);
                    let is_power = self.disks.all().into_iter().any(|disk| disk.is_off());
                    for disk in self.disks.all() {
                        if is_power {
                            disk.restart_after_power_failure()
                        } else {
                            disk.restart_process()
                        }
                    }
                }
                Err(error) => return Err(error.context("the node does not start")),
            }
        }
        bail!("the node does not start")
    }

    /// Whether a planned fault may be why a start failed.
    fn is_excused(&self) -> bool {
        self.disks.all().into_iter().any(SimDisk::has_failed)
    }

    /// The frames of this round, in any order.
    fn arrive(&mut self) -> Vec<Packet> {
        let later = self.network.split_off(&(self.round + 1));
        let due = std::mem::replace(&mut self.network, later);
        let mut due: Vec<Packet> = due.into_values().flatten().collect();
        if self.options.has(Fault::Delay) || self.options.has(Fault::Twice) {
            self.dice.shuffle(&mut due);
        }
        due
    }

    /// What the node does in a round. An error is its end.
    fn serve(&mut self, arrived: Vec<Packet>) -> anyhow::Result<()> {
        self.relay()?;
        let mut waiting = arrived.into_iter();
        let mut is_ticked = false;
        loop {
            let count = 1 + self.dice.below(GROUP_MAX) as usize;
            let group: Vec<Packet> = waiting.by_ref().take(count).collect();
            if !is_ticked && (group.is_empty() || self.dice.happens(500)) {
                is_ticked = true;
                self.tick()?;
            }
            if group.is_empty() {
                break;
            }
            if let Err(error) = self.take_in(&group) {
                // Whoever has no answer says it again.
                let left: Vec<Packet> = waiting.collect();
                for packet in left.into_iter().filter(|packet| packet.is_own) {
                    self.again(packet.reading);
                }
                return Err(error);
            }
        }
        self.report()?;
        self.answer()?;
        self.sink()?;
        if self.dice.happens(30) {
            self.machine()?.snapshot()?;
        }
        self.machine()?.keep_house()
    }

    /// Says the time, as the node's own ticks do; a full disk leaves it to the next round.
    fn tick(&mut self) -> anyhow::Result<()> {
        let now = self.now();
        while let Some(at) = ticks::step(self.machine()?.ticked(), now) {
            if self.append(vec![Entry::Tick(at)], Urgency::Routine)?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn machine(&mut self) -> anyhow::Result<&mut Machine> {
        self.machine.as_mut().ok_or_else(|| anyhow::anyhow!("the node is down"))
    }

    /// Appends, and applies unless the process ends between the two.
    fn append(&mut self, entries: Vec<Entry>, urgency: Urgency) -> anyhow::Result<Option<Seq>> {
        let is_cut = self.chance(Fault::Kill, 3);
        let machine = self.machine()?;
        let Some(first) = machine.commit(&entries, urgency)? else { return Ok(None) };
        if is_cut {
            bail!("killed between the log and the books");
        }
        let effects = machine.apply(first, entries.clone())?;
        let suspects: Vec<(Seq, QuarantineReason)> = effects
            .verdicts
            .iter()
            .filter_map(|verdict| match verdict.outcome {
                Outcome::Quarantined(reason) => Some((verdict.seq, reason)),
                Outcome::Accepted | Outcome::Duplicate | Outcome::Parked => None,
            })
            .collect();
        let asked = machine.questions();
        self.questions.extend(asked);
        self.dispatch();
        for (seq, reason) in suspects {
            if let Some(Entry::Reading(reading)) = entries.get((seq.0 - first.0) as usize) {
                self.look_at(seq, reading, reason);
            }
        }
        Ok(Some(first))
    }

    /// What the dispatcher does with the steps of orders: it asks for each to be decided again, and
    /// carries what is sent to its meter, which answers now and then. A word may be said twice.
    fn dispatch(&mut self) {
        let rows = self.machine.as_mut().map(Machine::orders).unwrap_or_default();
        for row in rows {
            let OrderRow { order, account, meter, .. } = row;
            if let Some(old) = self.orders.insert(step_key(&row), row)
                && old != row
            {
                self.store.contradictions.push(format!("step {old:?} and {row:?}"));
            }
            let wanted = match row.kind {
                OrderKind::Disconnect => Relay::Open,
                OrderKind::Reconnect => Relay::Closed,
            };
            let news = match row.state {
                OrderState::Decided => OrderNews::Due,
                OrderState::Sent if self.is_settling || self.dice.happens(700) => {
                    OrderNews::Read(wanted)
                }
                OrderState::Sent => *self.dice.pick(&[OrderNews::Refused, OrderNews::Silent]),
                OrderState::Done | OrderState::Void | OrderState::Expired | OrderState::Failed => {
                    continue;
                }
            };
            if matches!(news, OrderNews::Read(_)) && self.dice.happens(500) {
                self.tell_relay(meter, wanted);
            }
            let report = OrderReport { account, order, news, at: self.now() };
            let id = OutboxId(self.outbox.len() as u64 + 1);
            self.outbox.push((id, vec![Change::Order(report)]));
        }
    }

    /// The meter says by itself, sooner or later, that its relay moved.
    fn tell_relay(&mut self, meter: MeterId, relay: Relay) {
        let code = match relay {
            Relay::Open => EventCode::RelayOpened,
            Relay::Closed => EventCode::RelayClosed,
        };
        // By the meter's own clock, and now and then long after the next order.
        let (subject, at) = (Subject::Meter(meter), self.scene.at(self.round + 1));
        let event = MeterEvent { subject, code, taken_at: at, received_at: at, counter: 0 };
        let latest = *self.dice.pick(&[3, 3, ROUNDS_A_DAY]);
        self.events.push((self.round + self.dice.below(latest.into()) as u32, event));
    }

    /// A person looks at a quarantined reading: a register that began anew is a new epoch, and
    /// some of the others are turned away.
    fn look_at(&mut self, seq: Seq, reading: &Reading, reason: QuarantineReason) {
        let Reading { meter, taken_at, register, .. } = *reading;
        let is_new_register = self.scene.devices.iter().any(|device| {
            device.id == meter
                && device.reset_at.is_some_and(|reset| reset <= taken_at)
                && device.register(taken_at) == register
        });
        let is_fallen = reason == QuarantineReason::Backwards;
        let is_spike = reason == QuarantineReason::Spike;
        let decision = if is_fallen && is_new_register && self.resolved.insert(meter) {
            Decision::NewEpoch
        } else if is_spike && !is_new_register && self.dice.happens(300) {
            Decision::Reject
        } else {
            return;
        };
        let resolution = Resolution { meter, taken_at, seq, register, decision };
        let row = OutboxId(self.outbox.len() as u64 + 1);
        self.outbox.push((row, vec![Change::Resolve(resolution)]));
    }

    /// Frames of one commit, and their acknowledgements.
    fn take_in(&mut self, group: &[Packet]) -> anyhow::Result<()> {
        let now = self.now();
        let mut readings = Vec::with_capacity(group.len());
        for packet in group {
            let counter = self.counters.get(&packet.reading.meter).copied().unwrap_or_default();
            let counter = counter + 1 + readings.len() as u32;
            readings.push(Reading { received_at: now, counter, ..packet.reading });
        }
        let entries: Vec<Entry> = readings.iter().copied().map(Entry::Reading).collect();
        let appended = self.append(entries, Urgency::Routine);
        let is_taken = matches!(appended, Ok(Some(_)));
        for (packet, reading) in group.iter().zip(&readings) {
            let is_known = self.scene.devices.iter().any(|device| device.id == reading.meter);
            if is_taken && is_known {
                let Reading { meter, taken_at, register, counter, .. } = *reading;
                self.acknowledged.insert((meter, taken_at, register));
                self.counters.insert(meter, counter);
            }
            let is_heard = is_taken && !self.chance(Fault::Loss, 40);
            if packet.is_own && !is_heard {
                self.again(packet.reading);
            }
        }
        appended.map(|_| ())
    }

    /// What devices tell beside readings, again and again until it is acknowledged.
    fn report(&mut self) -> anyhow::Result<()> {
        let (round, now) = (self.round, self.now());
        let due = self.events.iter().filter(|(from, _)| *from <= round);
        let mut told = Vec::new();
        let mut counters = self.counters.clone();
        for (_, event) in due {
            let mut event = MeterEvent { received_at: now, ..*event };
            if let Subject::Meter(meter) = event.subject {
                let counter = counters.entry(meter).or_default();
                *counter += 1;
                event.counter = *counter;
            }
            told.push(Entry::Event(event));
        }
        if !told.is_empty() && self.append(told, Urgency::Routine)?.is_some() {
            self.counters = counters;
            // An acknowledgement that is lost: told once more.
            if !self.chance(Fault::Loss, 40) {
                self.events.retain(|(from, _)| *from > round);
            }
        }
        Ok(())
    }

    /// The relay: rows of the outbox that are not marked as sent, again and again.
    fn relay(&mut self) -> anyhow::Result<()> {
        let rows: Vec<Entry> = self
            .outbox
            .iter()
            .filter(|(id, _)| *id > self.sent)
            .map(|(id, changes)| Entry::Changes { outbox: *id, changes: changes.clone().into() })
            .collect();
        let last = self.outbox.last().map(|(id, _)| *id);
        if !rows.is_empty() && self.append(rows, Urgency::Urgent)?.is_some() {
            // The mark may be lost with the process: the rows are then sent again.
            if !self.chance(Fault::Kill, 100) {
                self.sent = last.unwrap_or(self.sent);
            }
        }
        Ok(())
    }

    /// Answers the questions that ClickHouse can answer by now.
    fn answer(&mut self) -> anyhow::Result<()> {
        let next = self.store.place.next;
        let (ready, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.questions).into_iter().partition(|recall| recall.seq < next);
        self.questions = left;
        for recall in ready {
            if self.has(Fault::Outage) && self.dice.happens(300) {
                self.questions.push(recall);
                continue;
            }
            let answer = Entry::Neighbours(Box::new(self.store.recall(&recall)));
            if self.append(vec![answer], Urgency::Routine)?.is_none() {
                self.questions.push(recall);
            }
        }
        Ok(())
    }

    /// Sends rows to ClickHouse, where it is there.
    fn sink(&mut self) -> anyhow::Result<()> {
        if self.has(Fault::Outage) && self.round < self.outage_until {
            return Ok(());
        }
        loop {
            let batches_max = 1 + self.dice.below(20);
            let is_cut = self.chance(Fault::Kill, 10);
            let is_lost = self.chance(Fault::Outage, 50);
            let Some(machine) = self.machine.as_mut() else { return Ok(()) };
            let Some((rows, end)) = self.store.gather(&mut machine.spool, batches_max)? else {
                return Ok(());
            };
            self.store.place.intent = end;
            rows.iter().for_each(|rows| self.store.insert(rows));
            if is_cut {
                bail!("killed between ClickHouse and the cursor");
            }
            if is_lost {
                // The answer was lost: the very same rows once more.
                rows.iter().for_each(|rows| self.store.insert(rows));
            }
            self.store.place.next = end;
            machine.sunk(end);
        }
    }

    fn snapshot(&mut self) {
        if let Some(machine) = &mut self.machine
            && let Err(error) = machine.snapshot()
        {
            self.last_fall = Some(error.context("the last snapshot"));
            self.fall();
        }
    }
}

const _: () = assert!(ROUND_S * ROUNDS_A_DAY == 86_400);
