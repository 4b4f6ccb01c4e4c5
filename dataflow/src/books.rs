//! The books of one worker: every entry that concerns its meters and accounts, in the order of the
//! log. The rules stand in the files beside this one; here they are put in a row:
//! de-duplicate, register doctor, interval energy, charge, balance, alarms.

use std::collections::BTreeMap;

use meter::{
    AccountId, AlarmCode, Entry, MeterEvent, MeterId, MeterRecord, Neighbours, OutboxId, Outcome,
    QuarantineReason, Reading, Recall, Seq, Settled, Subject, UnixSeconds, Verdict,
};

use crate::account::Account;
use crate::class::Classes;
use crate::desk::{Desk, Out};
use crate::doctor::Suspect;
use crate::installed::{Meter, NO_ACCOUNT};
use crate::late::Late;
use crate::loss::{News, Usage};
use crate::parking::{Parked, Window};
use crate::reference::{NO_RATES, Reference};
use crate::ring::Rings;
use crate::router::{LOTS, owner};
use crate::sample::Sample;
use crate::silence::{self, Gateway};
use crate::supply::Supply;

/// Readings that may wait in each of the [`LOTS`] of accounts.
const LOT_MAX: usize = 2048;

/// No installation of a meter is kept here.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// The state of one worker.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) worker: u32,
    pub(crate) workers: u32,
    pub(crate) reference: Reference,
    pub(crate) outbox: OutboxId,
    /// By meter; one with a period of 0 is not known.
    pub(crate) records: Vec<MeterRecord>,
    pub(crate) classes: Classes,
    /// By meter: where its newest installation stands in `meters`.
    pub(crate) by_meter: Vec<u32>,
    /// Installations before the newest, by meter and start.
    pub(crate) earlier: BTreeMap<(MeterId, UnixSeconds), u32>,
    pub(crate) meters: Vec<Meter>,
    pub(crate) rings: Rings,
    /// By account: where it stands in `accounts`.
    pub(crate) by_account: Vec<u32>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) gateways: BTreeMap<u32, Gateway>,
    pub(crate) supply: BTreeMap<AccountId, Supply>,
    /// Rows of alarms before the entry that is under way.
    pub(crate) told: usize,
    /// Readings that wait, by lot.
    pub(crate) parked: [u16; LOTS as usize],
    /// Meters with rows that wait for a tick.
    pub(crate) dirty: Vec<u32>,
    /// The earliest local midnight at which a standing charge falls due.
    pub(crate) standing_due: UnixSeconds,
    /// The minute of the last look at all meters.
    pub(crate) swept: u32,
    pub(crate) samples: Vec<Sample>,
    pub(crate) out: Out,
}

/// A split borrow of the books for one meter.
macro_rules! desk {
    ($books:expr, $slot:expr, $seq:expr) => {{
        let meter = &mut $books.meters[$slot as usize];
        let ring = $books.rings.of($slot);
        let class = $books.classes.get(meter.class);
        let account = $books.accounts.get_mut(meter.account_slot as usize);
        let rates = account.as_ref().map_or(NO_RATES, |account| account.rates);
        Desk {
            meter,
            ring,
            class,
            account,
            rates: &mut $books.reference.rates[usize::from(rates)],
            policy: &$books.reference.policy,
            seq: $seq,
            out: &mut $books.out,
        }
    }};
}
pub(crate) use desk;

impl Books {
    pub(crate) fn new(worker: u32, workers: u32) -> Self {
        Self {
            worker,
            workers,
            reference: Reference::new(),
            outbox: OutboxId(0),
            records: Vec::new(),
            classes: Classes::default(),
            by_meter: Vec::new(),
            earlier: BTreeMap::new(),
            meters: Vec::new(),
            rings: Rings::default(),
            by_account: Vec::new(),
            accounts: Vec::new(),
            gateways: BTreeMap::new(),
            supply: BTreeMap::new(),
            told: 0,
            parked: [0; LOTS as usize],
            dirty: Vec::new(),
            standing_due: UnixSeconds(u32::MAX),
            swept: 0,
            samples: Vec::new(),
            out: Out::default(),
        }
    }

    /// Takes in a batch: all of it, or the entries at the places of `mine`.
    pub(crate) fn accept(&mut self, first: Seq, entries: &[Entry], mine: Option<&[u32]>) {
        self.told = self.out.effects.alarms.len();
        let count = mine.map_or(entries.len(), <[u32]>::len);
        let place = |nth: usize| mine.map_or(nth, |mine| mine[nth] as usize);
        for nth in 0..count {
            self.look_ahead(nth, |nth| (nth < count).then(|| &entries[place(nth)]));
            let place = place(nth);
            let (seq, entry) = (Seq(first.0 + place as u64), &entries[place]);
            let is_regular = matches!(entry, Entry::Reading(reading) if self.regular(seq, reading));
            if !is_regular {
                self.entry(seq, entry);
            }
            self.look_at_crossings(seq);
        }
        self.out.close();
        let (key, seq) = (self.worker, Seq(u64::MAX));
        self.out.usage.push(Usage { seq, key, news: News::End });
    }

    /// Takes in any entry but a regular reading; apart from those, so that they stay together.
    #[inline(never)]
    fn entry(&mut self, seq: Seq, entry: &Entry) {
        match entry {
            Entry::Reading(reading) => self.general(seq, reading),
            Entry::Event(event) => self.event(seq, event),
            Entry::Tick(now) => self.tick(seq, *now),
            // Frames matter to the router's replay windows only.
            Entry::Frame { .. } => {}
            Entry::Neighbours(neighbours) => self.neighbours(seq, neighbours),
            Entry::Changes { outbox, changes } => {
                if *outbox > self.outbox {
                    self.outbox = *outbox;
                    changes.iter().for_each(|change| self.change(seq, change));
                    self.out.close();
                }
            }
        }
    }

    /// What began or ended with the entry may call for a decision.
    #[inline]
    pub(crate) fn look_at_crossings(&mut self, seq: Seq) {
        if self.out.effects.alarms.len() != self.told {
            self.crossed(seq);
        }
    }

    /// Where the newest installation of a meter stands, [`NO_SLOT`] where there is none.
    #[inline]
    pub(crate) fn newest_slot(&self, meter: MeterId) -> u32 {
        self.by_meter.get(meter.0 as usize).copied().unwrap_or(NO_SLOT)
    }

    /// Where the installation stands that a meter's stamp falls into.
    fn slot_at(&self, meter: MeterId, at: UnixSeconds) -> Result<u32, QuarantineReason> {
        let newest = self.newest_slot(meter);
        let installed = self.meters.get(newest as usize);
        let installed = installed.ok_or(QuarantineReason::NotInstalled)?;
        if installed.serves_at(at) {
            return Ok(newest);
        }
        if at >= installed.to {
            return Err(QuarantineReason::AfterRemoval);
        }
        let mut before = self.earlier.range((meter, UnixSeconds(0))..=(meter, at));
        let (_, slot) = before.next_back().ok_or(QuarantineReason::BeforeInstallation)?;
        match self.meters[*slot as usize].serves_at(at) {
            true => Ok(*slot),
            false => Err(QuarantineReason::AfterRemoval),
        }
    }

    /// Takes any reading in, the general way.
    pub(crate) fn general(&mut self, seq: Seq, reading: &Reading) {
        let outcome = self.reading(seq, reading);
        self.out.effects.verdicts.push(Verdict { seq, outcome });
    }

    fn reading(&mut self, seq: Seq, reading: &Reading) -> Outcome {
        let slot = match self.slot_at(reading.meter, reading.taken_at) {
            Ok(slot) => slot,
            Err(reason) => return Outcome::Quarantined(reason),
        };
        let mut desk = desk!(self, slot, seq);
        if reading.taken_at.since(reading.received_at) > desk.policy.future_s_max {
            let ahead = i64::from(reading.taken_at.since(reading.received_at));
            desk.panel().raise(AlarmCode::Clock, reading.received_at, ahead);
            return Outcome::Quarantined(QuarantineReason::Future);
        }
        if desk.meter.is_empty() {
            let sample = Sample::of(reading);
            desk.begin(sample);
            desk.watch_sample(&sample);
            desk.stand();
            return Outcome::Accepted;
        }
        if reading.taken_at > desk.meter.newest {
            return desk.in_order(reading);
        }
        if reading.taken_at == desk.meter.newest {
            return desk.same_stamp(reading);
        }
        self.late(seq, slot, reading)
    }

    /// A reading older than the newest.
    #[cold]
    fn late(&mut self, seq: Seq, slot: u32, reading: &Reading) -> Outcome {
        let mut samples = std::mem::take(&mut self.samples);
        let mut desk = desk!(self, slot, seq);
        if desk.meter.newest.since(reading.taken_at) > desk.policy.horizon_s {
            self.samples = samples;
            return Outcome::Quarantined(QuarantineReason::TooOld);
        }
        desk.meter.samples(&desk.ring, &mut samples);
        let is_waiting =
            desk.meter.rest.cold.as_ref().is_some_and(|cold| cold.parking.is_waiting());
        let late = if is_waiting {
            desk.while_waiting(&samples, reading)
        } else {
            desk.insert(&mut samples, Sample::of(reading))
        };
        let outcome = match late {
            Late::Final(outcome) => {
                desk.settle_late(&samples, outcome, reading.taken_at);
                self.note_dirty(slot);
                outcome
            }
            Late::Unknown(window) => {
                let parked = Parked { seq, reading: *reading, window, tries: 0 };
                self.park(slot, parked, seq)
            }
        };
        self.samples = samples;
        outcome
    }

    /// Puts a reading aside and asks the store, where there is room.
    fn park(&mut self, slot: u32, parked: Parked, seq: Seq) -> Outcome {
        let meter = &mut self.meters[slot as usize];
        let lot = &mut self.parked[meter.lot() as usize];
        let parking = &mut meter.cold().parking;
        if parking.is_full() || usize::from(*lot) >= LOT_MAX {
            return Outcome::Quarantined(QuarantineReason::ParkingFull);
        }
        *lot += 1;
        parking.park(parked);
        self.ask(slot, seq);
        Outcome::Parked
    }

    fn ask(&mut self, slot: u32, seq: Seq) {
        let meter = &mut self.meters[slot as usize];
        let id = meter.rest.id;
        if let Some(Window { from, to }) = meter.cold().parking.ask() {
            self.out.effects.recalls.push(Recall { meter: id, from, to, seq });
        }
    }

    /// The store's answer: what waited for it goes on.
    fn neighbours(&mut self, seq: Seq, answer: &Neighbours) {
        let Ok(slot) = self.slot_at(answer.meter, answer.from) else { return };
        let window = Window { from: answer.from, to: answer.to };
        let meter = &mut self.meters[slot as usize];
        let lot = meter.lot();
        let settled = meter.cold().parking.answered(window);
        self.parked[lot as usize] -= settled.len() as u16;
        let mut samples = meter.merge(&self.rings.of(slot), answer);
        let mut undecided = Vec::new();
        for mut parked in settled {
            let mut desk = desk!(self, slot, seq);
            let late = desk.insert(&mut samples, Sample::of(&parked.reading));
            let outcome = match late {
                Late::Final(outcome) => outcome,
                Late::Unknown(window) if parked.tries < Parked::TRIES_MAX => {
                    parked.tries += 1;
                    parked.window = window;
                    undecided.push(parked);
                    continue;
                }
                Late::Unknown(_) => Outcome::Quarantined(QuarantineReason::ParkingFull),
            };
            desk.settle_late(&samples, outcome, parked.reading.taken_at);
            let Parked { seq: asked_by, reading, .. } = parked;
            self.out.effects.settled.push(Settled {
                seq: asked_by,
                reading,
                outcome,
                settled_by: seq,
            });
        }
        self.note_dirty(slot);
        for parked in undecided {
            self.parked[lot as usize] += 1;
            self.meters[slot as usize].cold().parking.park(parked);
        }
        self.ask(slot, seq);
    }

    pub(crate) fn note_dirty(&mut self, slot: u32) {
        if self.meters[slot as usize].has(Meter::DIRTY) && !self.dirty.contains(&slot) {
            self.dirty.push(slot);
        }
    }

    fn event(&mut self, seq: Seq, event: &MeterEvent) {
        match event.subject {
            Subject::Meter(id) => {
                let newest = self.newest_slot(id);
                let slot = self.slot_at(id, event.taken_at).unwrap_or(newest);
                if let Some(meter) = self.meters.get_mut(slot as usize) {
                    silence::hear_meter(meter, event, seq, &mut self.out.effects);
                    self.hear_relay(seq, slot, event.code, event.taken_at);
                }
            }
            Subject::Gateway(id) if owner(id.0, self.workers) == self.worker => {
                let gateway = self.gateways.entry(id.0).or_insert_with(|| Gateway::new(id));
                gateway.hear(event, seq, &mut self.out.effects);
            }
            Subject::Gateway(_) | Subject::Account(_) | Subject::Transformer(_) => {}
        }
    }

    fn tick(&mut self, seq: Seq, now: UnixSeconds) {
        if now <= self.reference.now {
            return;
        }
        self.reference.now = now;
        if now >= self.standing_due {
            self.standing(seq, now);
        }
        if now.0 / 60 != self.swept {
            self.swept = now.0 / 60;
            self.sweep(seq, now);
            self.sweep_supply(seq, now);
        }
        self.out.usage.push(Usage { seq, key: self.worker, news: News::Tick(now) });
        self.out.close();
    }

    /// Looks at all meters and gateways, and writes the rows that waited.
    fn sweep(&mut self, seq: Seq, now: UnixSeconds) {
        let (policy, effects) = (&self.reference.policy, &mut self.out.effects);
        for meter in &mut self.meters {
            let period_s = self.classes.get(meter.class).period_s;
            silence::watch_meter(meter, now, (policy, period_s), seq, effects);
        }
        for gateway in self.gateways.values_mut() {
            gateway.tick(now, policy, seq, effects);
        }
        let mut samples = std::mem::take(&mut self.samples);
        for slot in std::mem::take(&mut self.dirty) {
            let mut desk = desk!(self, slot, seq);
            desk.meter.samples(&desk.ring, &mut samples);
            desk.write_dirty(&mut samples);
            desk.meter.restore(&mut desk.ring, &samples);
        }
        self.samples = samples;
    }

    fn standing(&mut self, seq: Seq, now: UnixSeconds) {
        let mut next = UnixSeconds(u32::MAX);
        for slot in 0..self.accounts.len() {
            let account = &mut self.accounts[slot];
            if account.rest.standing_due <= now {
                let rates = &self.reference.rates[usize::from(account.rates)];
                let before = self.out.effects.ledger.len();
                let horizon_s = self.reference.policy.horizon_s;
                account.standing(now, (rates, horizon_s), seq, &mut self.out.effects);
                let id = account.rest.id;
                if self.out.effects.ledger.len() > before {
                    self.stand_account(id, now, seq);
                }
            }
            next = next.min(self.accounts[slot].rest.standing_due);
        }
        self.standing_due = next;
    }
}

impl Desk<'_> {
    /// A reading newer than the newest.
    fn in_order(&mut self, reading: &Reading) -> Outcome {
        let (from, to) = (self.meter.newest, reading.taken_at);
        let before = self.meter.newest_register;
        let judged = self.class.limits.judge(before, reading.register, to.since(from));
        if let Err(reason) = judged {
            return self.suspect(reading, reason);
        }
        let sample = Sample::of(reading);
        let newest = Sample::anchor(from, self.meter.newest_register);
        self.gap_before(from, to);
        self.advance(newest, sample);
        if self.meter.alarms != 0 {
            self.trust(to);
        }
        self.watch_sample(&sample);
        self.stand();
        Outcome::Accepted
    }

    /// A reading under the newest stamp.
    fn same_stamp(&mut self, reading: &Reading) -> Outcome {
        if reading.register != self.meter.newest_register {
            return Outcome::Quarantined(QuarantineReason::Conflict);
        }
        if !self.meter.has(Meter::ANCHORED) {
            return Outcome::Duplicate;
        }
        let sample = Sample::of(reading);
        self.meter.replace_newest(&mut self.ring, sample);
        if !sample.at.is_boundary() {
            self.meter.rest.open_stats.get_or_insert_default().add(&sample);
        }
        self.watch_sample(&sample);
        self.stand();
        Outcome::Accepted
    }

    /// While the store is asked, no late reading comes in: the answer would not know it.
    fn while_waiting(&self, samples: &[Sample], reading: &Reading) -> Late {
        let at = samples.partition_point(|s| s.at < reading.taken_at);
        match samples.get(at).filter(|s| s.at == reading.taken_at) {
            Some(known) if known.register != reading.register => {
                Late::Final(Outcome::Quarantined(QuarantineReason::Conflict))
            }
            Some(known) if !known.has(Sample::ANCHOR) => Late::Final(Outcome::Duplicate),
            _ => self.unknown(reading.taken_at, None, None),
        }
    }

    /// After the final word on a late reading.
    pub(crate) fn settle_late(&mut self, samples: &[Sample], outcome: Outcome, at: UnixSeconds) {
        match outcome {
            Outcome::Accepted => {
                self.meter.restore(&mut self.ring, samples);
                self.stand();
            }
            Outcome::Quarantined(QuarantineReason::Backwards | QuarantineReason::Spike) => {
                self.panel().raise(AlarmCode::Register, at, 0);
            }
            Outcome::Quarantined(_) | Outcome::Duplicate | Outcome::Parked => {}
        }
    }

    /// The doctor turned a newer reading away. Sent again it is a duplicate like any other.
    #[cold]
    fn suspect(&mut self, reading: &Reading, reason: QuarantineReason) -> Outcome {
        let (at, register) = (reading.taken_at, reading.register);
        let value = i64::try_from(register.wh()).unwrap_or(i64::MAX);
        let (seq, limits) = (self.seq, self.class.limits);
        let before = self.meter.cold().suspect.last().copied();
        if before.is_some_and(|known| (known.at, known.register) == (at, register)) {
            return Outcome::Duplicate;
        }
        self.meter.cold().suspect.clear();
        let suspect = Suspect::follow(before, &limits, seq, at, register);
        self.meter.cold().suspect.push(suspect);
        self.panel().raise(AlarmCode::Register, at, value);
        if suspect.agreeing >= Suspect::AGREEING {
            self.panel().raise(AlarmCode::RegisterProposal, at, value);
        }
        Outcome::Quarantined(reason)
    }

    /// The register is good again: no suspect stays.
    #[cold]
    pub(crate) fn trust(&mut self, at: UnixSeconds) {
        if let Some(cold) = &mut self.meter.rest.cold {
            cold.suspect.clear();
        }
        self.panel().clear(AlarmCode::Register, at, 0);
        self.panel().clear(AlarmCode::RegisterProposal, at, 0);
    }
}

const _: () = assert!(NO_ACCOUNT == u32::MAX);
