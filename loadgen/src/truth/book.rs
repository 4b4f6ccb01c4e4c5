//! The books of a whole log, kept a second time: every entry in the order of the log, by the rules
//! of `docs/rules.md` read plainly. All readings of an installation are kept for ever and every
//! sum is made from all of them at the end, so nothing waits and nothing is given back.

use std::collections::{BTreeMap, BTreeSet};

use meter::{
    AccountId, AccountTerms, Change, Decision, Energy, Entry, INTERVAL_S, Installation,
    IntervalQuality, LedgerKind, LocalDate, MeterId, MeterRecord, Money, Outcome, PlanId, Policy,
    QuarantineReason, Reading, Removal, Seq, TariffVersion, UnixSeconds,
};

use super::{Charge, Tariff, pieces};

/// Everything that stands in a log, by the plainest reading of the rules.
#[derive(Debug)]
pub struct Book {
    policy: Policy,
    outbox: u64,
    now: UnixSeconds,
    records: BTreeMap<MeterId, MeterRecord>,
    versions: BTreeMap<PlanId, Vec<TariffVersion>>,
    holidays: BTreeSet<LocalDate>,
    accounts: BTreeMap<AccountId, Holder>,
    services: Vec<Service>,
    /// What became of each reading, by its entry.
    outcomes: BTreeMap<Seq, Outcome>,
}

/// An account.
#[derive(Debug, Default)]
struct Holder {
    terms: Option<AccountTerms>,
    /// Ticks by kind, energy aside.
    sums: BTreeMap<LedgerKind, i64>,
    /// Local midnights whose standing charge is entered.
    charged: BTreeSet<UnixSeconds>,
}

/// A meter while it serves.
#[derive(Debug)]
struct Service {
    meter: MeterId,
    account: AccountId,
    from: UnixSeconds,
    to: UnixSeconds,
    /// What is known of the register, by stamp.
    known: BTreeMap<UnixSeconds, Known>,
    /// The newest reading that the doctor turned away, until one in order or a person's word.
    suspect: Option<(UnixSeconds, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    register: u64,
    /// A person read it; no reading has come for it yet.
    is_anchor: bool,
    /// A new register begins here.
    is_epoch: bool,
}

/// What an account comes to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccountEnd {
    /// Ticks by kind; kinds that come to nothing are left out.
    pub sums: BTreeMap<LedgerKind, i64>,
    /// Their sum.
    pub balance: i64,
}

/// What a quarter hour of a meter comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IntervalEnd {
    /// Energy.
    pub energy: Energy,
    /// Energy × price, ticks, without block adders.
    pub cost: i64,
    /// How sure.
    pub quality: IntervalQuality,
    /// Whether the stretch between the two readings around it is longer than the horizon, so that
    /// its row may be absent.
    pub may_be_absent: bool,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            policy: Policy::standard(),
            outbox: 0,
            now: UnixSeconds(0),
            records: BTreeMap::new(),
            versions: BTreeMap::new(),
            holidays: BTreeSet::new(),
            accounts: BTreeMap::new(),
            services: Vec::new(),
            outcomes: BTreeMap::new(),
        }
    }
}

impl Book {
    /// Takes in the entry at `seq`. `turned_away` are readings for which the node had no place to
    /// wait: the one thing that does not follow from the log by these rules.
    pub fn enter(&mut self, seq: Seq, entry: &Entry, turned_away: &BTreeSet<Seq>) {
        match entry {
            Entry::Reading(reading) => {
                let full = Outcome::Quarantined(QuarantineReason::ParkingFull);
                let outcome = if turned_away.contains(&seq) { full } else { self.reading(reading) };
                self.outcomes.insert(seq, outcome);
            }
            Entry::Tick(now) if *now > self.now => {
                self.now = *now;
                self.standing();
            }
            Entry::Changes { outbox, changes } if outbox.0 > self.outbox => {
                self.outbox = outbox.0;
                changes.iter().for_each(|change| self.change(change));
            }
            // A tick that comes late, a change that came before, and what moves no energy or money.
            Entry::Tick(_)
            | Entry::Changes { .. }
            | Entry::Event(_)
            | Entry::Frame { .. }
            | Entry::Neighbours(_) => {}
        }
    }

    /// What became of each reading, by its entry.
    #[must_use]
    pub fn outcomes(&self) -> &BTreeMap<Seq, Outcome> {
        &self.outcomes
    }

    /// What the accounts come to.
    #[must_use]
    pub fn accounts(&self) -> BTreeMap<AccountId, AccountEnd> {
        let mut ends = BTreeMap::new();
        for (id, holder) in &self.accounts {
            let mut sums = holder.sums.clone();
            if let Some(tariff) = self.tariff(holder) {
                let mut charge = Charge::default();
                for service in self.services.iter().filter(|service| service.account == *id) {
                    self.each_pair(service, |a, b| {
                        for piece in pieces(a, b) {
                            charge.add(&tariff, piece.interval, piece.energy);
                        }
                    });
                }
                sums.insert(LedgerKind::Energy, -charge.total(&tariff).ticks());
            }
            sums.retain(|_, ticks| *ticks != 0);
            let balance = sums.values().sum();
            ends.insert(*id, AccountEnd { sums, balance });
        }
        ends
    }

    /// What the whole quarter hours of all meters come to.
    #[must_use]
    pub fn intervals(&self) -> BTreeMap<(MeterId, UnixSeconds), IntervalEnd> {
        let mut rows = BTreeMap::new();
        for service in &self.services {
            let tariff = self.accounts.get(&service.account).and_then(|a| self.tariff(a));
            let Some((&newest, _)) = service.known.last_key_value() else { continue };
            let stamps: Vec<UnixSeconds> = service.known.keys().copied().collect();
            let mut energy: BTreeMap<UnixSeconds, u64> = BTreeMap::new();
            let mut broken = BTreeSet::new();
            let mut wide = BTreeSet::new();
            for pair in stamps.windows(2) {
                let is_wide = pair[1].since(pair[0]) > self.policy.horizon_s;
                let is_broken = service.known[&pair[1]].is_epoch;
                let mut start = pair[0].interval_start();
                while start < pair[1] {
                    energy.entry(start).or_default();
                    if is_wide {
                        wide.insert(start);
                    }
                    if is_broken {
                        broken.insert(start);
                    }
                    start = start.plus(INTERVAL_S);
                }
            }
            self.each_pair(service, |a, b| {
                for piece in pieces(a, b) {
                    *energy.entry(piece.interval).or_default() += piece.energy.wh();
                }
            });
            for (start, wh) in energy {
                let end = start.plus(INTERVAL_S);
                if end > newest {
                    continue;
                }
                let is_exact = service.known.contains_key(&start)
                    && service.known.contains_key(&end)
                    && !broken.contains(&start);
                let quality =
                    if is_exact { IntervalQuality::Actual } else { IntervalQuality::Estimated };
                let cost = tariff.as_ref().map_or(0, |tariff| tariff.plain_cost(start, wh));
                let may_be_absent = wide.contains(&start);
                let energy = Energy::from_wh(wh);
                let row = IntervalEnd { energy, cost, quality, may_be_absent };
                rows.insert((service.meter, start), row);
            }
        }
        rows
    }

    fn tariff(&self, holder: &Holder) -> Option<Tariff> {
        let terms = holder.terms.as_ref()?;
        let versions = self.versions.get(&terms.plan)?;
        Tariff::new(&terms.zone, self.holidays.clone(), versions).ok()
    }

    /// Neighbouring samples with the register's rise between them, where that is billed.
    fn each_pair(
        &self,
        service: &Service,
        mut give: impl FnMut((UnixSeconds, Energy), (UnixSeconds, Energy)),
    ) {
        let modulus = self.modulus(service.meter);
        let mut before: Option<(UnixSeconds, u64)> = None;
        for (&at, known) in &service.known {
            if let Some((from, register)) = before.filter(|_| !known.is_epoch) {
                let rolled = if known.register < register { modulus } else { 0 };
                let to = Energy::from_wh(known.register + rolled);
                give((from, Energy::from_wh(register)), (at, to));
            }
            before = Some((at, known.register));
        }
    }

    fn modulus(&self, meter: MeterId) -> u64 {
        let digits = self.records.get(&meter).map_or(0, |record| record.register_digits);
        1000 * 10_u64.pow(digits.into())
    }

    /// The doctor's word on two neighbours.
    fn judge(
        &self,
        meter: MeterId,
        a: (UnixSeconds, u64),
        b: (UnixSeconds, u64),
    ) -> Result<(), QuarantineReason> {
        let record = &self.records[&meter];
        let microwatts = u128::from(record.current_max.ma())
            * u128::from(record.voltage_nominal.mv())
            * u128::from(record.phases);
        let seconds = u128::from(b.0.0 - a.0.0);
        // Wh ≤ W · s / 3600 · 1.1
        let can_rise = |rise: u128| rise * 3600 * 10 * 1_000_000 <= microwatts * seconds * 11;
        if b.1 >= a.1 {
            let rise = u128::from(b.1 - a.1);
            return if can_rise(rise) { Ok(()) } else { Err(QuarantineReason::Spike) };
        }
        let modulus = self.modulus(meter);
        let left = modulus.checked_sub(a.1).map(u128::from);
        let near = left.filter(|left| left * 3600 * 1_000_000 <= microwatts * 86_400);
        match near {
            Some(left) if can_rise(left + u128::from(b.1)) => Ok(()),
            _ => Err(QuarantineReason::Backwards),
        }
    }

    fn reading(&mut self, reading: &Reading) -> Outcome {
        let (meter, at) = (reading.meter, reading.taken_at);
        let quarantined = Outcome::Quarantined;
        let of_meter = || self.services.iter().filter(|service| service.meter == meter);
        if of_meter().next().is_none() {
            return quarantined(QuarantineReason::NotInstalled);
        }
        if of_meter().all(|service| at < service.from) {
            return quarantined(QuarantineReason::BeforeInstallation);
        }
        let place = self
            .services
            .iter()
            .position(|service| service.meter == meter && service.from <= at && at < service.to);
        let Some(place) = place else { return quarantined(QuarantineReason::AfterRemoval) };
        if at.since(reading.received_at) > self.policy.future_s_max {
            return quarantined(QuarantineReason::Future);
        }
        let register = reading.register.wh();
        let outcome = self.judge_in(place, at, register);
        let service = &mut self.services[place];
        let is_in_order = service.known.last_key_value().is_none_or(|(newest, _)| at > *newest);
        match outcome {
            Outcome::Accepted => {
                let known = Known { register, is_anchor: false, is_epoch: false };
                service.known.insert(at, known);
                service.suspect = service.suspect.filter(|_| !is_in_order);
            }
            Outcome::Quarantined(_) if is_in_order => {
                if service.suspect == Some((at, register)) {
                    return Outcome::Duplicate;
                }
                // Of several the newest by its stamp is remembered.
                if service.suspect.is_none_or(|(newest, _)| at > newest) {
                    service.suspect = Some((at, register));
                }
            }
            Outcome::Quarantined(_) | Outcome::Duplicate | Outcome::Parked => {}
        }
        outcome
    }

    /// A reading in time, of a meter that serves then.
    fn judge_in(&self, place: usize, at: UnixSeconds, register: u64) -> Outcome {
        let service = &self.services[place];
        let Some((&newest, _)) = service.known.last_key_value() else { return Outcome::Accepted };
        if newest.since(at) > self.policy.horizon_s {
            return Outcome::Quarantined(QuarantineReason::TooOld);
        }
        if let Some(known) = service.known.get(&at) {
            return match known.register == register {
                false => Outcome::Quarantined(QuarantineReason::Conflict),
                true if known.is_anchor => Outcome::Accepted,
                true => Outcome::Duplicate,
            };
        }
        let before = service.known.range(..at).next_back();
        let after = service.known.range(at..).next();
        if let Some((from, known)) = before
            && let Err(reason) = self.judge(service.meter, (*from, known.register), (at, register))
        {
            return Outcome::Quarantined(reason);
        }
        if let Some((to, known)) = after.filter(|(_, known)| !known.is_epoch)
            && self.judge(service.meter, (at, register), (*to, known.register)).is_err()
        {
            return Outcome::Quarantined(QuarantineReason::Spike);
        }
        Outcome::Accepted
    }

    fn change(&mut self, change: &Change) {
        match change {
            Change::Policy(policy) => self.policy = *policy,
            Change::Holidays(holidays) => self.holidays = holidays.days.iter().copied().collect(),
            Change::Tariff(version) => {
                self.versions.entry(version.plan).or_default().push(version.clone());
            }
            Change::Meter(record) => {
                self.records.insert(record.meter, *record);
            }
            Change::Account(terms) => {
                self.accounts.entry(terms.account).or_default().terms = Some(terms.clone());
            }
            Change::Install(installation) => self.install(installation),
            Change::Remove(removal) => self.remove(removal),
            Change::Purchase(purchase) => {
                let holder = self.accounts.get(&purchase.account);
                let tariff = holder.and_then(|holder| self.tariff(holder));
                let lines = tariff.map_or([purchase.paid, Money::ZERO, Money::ZERO], |tariff| {
                    tariff.lines(purchase.paid, purchase.at)
                });
                let kinds = [LedgerKind::Purchase, LedgerKind::Fee, LedgerKind::Tax];
                for (kind, line) in kinds.into_iter().zip(lines) {
                    self.add(purchase.account, kind, line.ticks());
                }
            }
            Change::Adjust(adjustment) => {
                self.add(adjustment.account, LedgerKind::Adjustment, adjustment.amount.ticks());
            }
            Change::Resolve(resolution) => {
                let place = self.services.iter().rposition(|s| s.meter == resolution.meter);
                let Some(place) = place else { return };
                let (at, register) = (resolution.taken_at, resolution.register.wh());
                let service = &mut self.services[place];
                if at < service.from || at >= service.to {
                    return;
                }
                service.suspect = None;
                let outcome = match resolution.decision {
                    Decision::Reject => Outcome::Quarantined(QuarantineReason::Rejected),
                    Decision::NewEpoch => {
                        let known = Known { register, is_anchor: false, is_epoch: true };
                        service.known.insert(at, known);
                        Outcome::Accepted
                    }
                };
                self.outcomes.insert(resolution.seq, outcome);
            }
            // Not in the model: the story has none of them.
            Change::Sale(_)
            | Change::Book(_)
            | Change::SupplyPolicy(_)
            | Change::SupplyTerms(_)
            | Change::Friendly(_)
            | Change::Emergency(_)
            | Change::Debt(_)
            | Change::Switch(_)
            | Change::Replace(_)
            | Change::Close(_)
            | Change::Clear(_)
            | Change::Order(_) => {}
        }
    }

    fn add(&mut self, account: AccountId, kind: LedgerKind, ticks: i64) {
        *self.accounts.entry(account).or_default().sums.entry(kind).or_default() += ticks;
    }

    fn install(&mut self, installation: &Installation) {
        let Installation { meter, account, at, start } = *installation;
        let known = start
            .map(|start| (at, Known { register: start.wh(), is_anchor: true, is_epoch: false }));
        let to = UnixSeconds(u32::MAX);
        let known = known.into_iter().collect();
        self.services.push(Service { meter, account, from: at, to, known, suspect: None });
    }

    fn remove(&mut self, removal: &Removal) {
        let Removal { meter, at, end } = *removal;
        let Some(place) = self.services.iter().rposition(|service| service.meter == meter) else {
            return;
        };
        self.services[place].to = at;
        let newest = self.services[place].known.last_key_value();
        let newest = newest.map(|(at, known)| (*at, known.register));
        let is_good =
            newest.is_some_and(|newest| self.judge(meter, newest, (at, end.wh())).is_ok());
        if is_good {
            let known = Known { register: end.wh(), is_anchor: true, is_epoch: false };
            self.services[place].known.insert(at, known);
        }
    }

    /// Standing charges of the midnights that the newest tick has passed.
    fn standing(&mut self) {
        let mut due = Vec::new();
        for (id, holder) in &self.accounts {
            let Some(tariff) = self.tariff(holder) else { continue };
            let services = || self.services.iter().filter(|service| service.account == *id);
            let Some(first) = services().map(|service| service.from).min() else { continue };
            let last = holder.charged.last().copied().unwrap_or(first);
            for (at, [day, month]) in tariff.standing_lines(last, self.now) {
                let has_meter = services().any(|s| s.from <= at && at < s.to);
                if has_meter && !holder.charged.contains(&at) {
                    due.push((*id, at, day, month));
                }
            }
        }
        for (id, at, day, month) in due {
            self.accounts.entry(id).or_default().charged.insert(at);
            self.add(id, LedgerKind::StandingDay, -day.ticks());
            self.add(id, LedgerKind::StandingMonth, -month.ticks());
        }
    }
}
