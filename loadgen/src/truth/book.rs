//! The books of a whole log, kept a second time: every entry in the order of the log, by the rules
//! of `docs/rules.md` read plainly. All readings of an installation are kept for ever and every
//! sum is made from all of them when it is asked for, so nothing is kept up to date and nothing is
//! given back.

use std::collections::{BTreeMap, BTreeSet};

use meter::{
    AccountId, AccountTerms, Adjustment, Booking, Change, DebtAgreement, Energy, Entry, INTERVAL_S,
    IntervalQuality, LedgerKind, LocalCalendar, LocalDate, MeterId, MeterRecord, Outcome,
    PlanChange, PlanId, Policy, Purchase, QuarantineReason, Sale, Seq, SupplyTerms, TariffVersion,
    UnixSeconds,
};

use super::money::{Move, Owing};
use super::service::Service;
use super::supply::{Line, Rules};
use super::{Charge, Tariff, pieces};

/// Readings that had to wait for the store, by their entries: the entry that settled each, or none
/// when there was no place to wait. It is the one thing that does not follow from the log by these
/// rules.
pub type Waits = BTreeMap<Seq, Option<Seq>>;

/// Everything that stands in a log, by the plainest reading of the rules.
#[derive(Debug)]
pub struct Book {
    pub(super) policy: Policy,
    outbox: u64,
    /// The entry that was taken in last.
    pub(super) seq: Seq,
    pub(super) now: UnixSeconds,
    /// The minute of the last look at all accounts.
    swept: u32,
    pub(super) records: BTreeMap<MeterId, MeterRecord>,
    versions: BTreeMap<PlanId, Vec<TariffVersion>>,
    pub(super) holidays: BTreeSet<LocalDate>,
    pub(super) accounts: BTreeMap<AccountId, Holder>,
    pub(super) services: Vec<Service>,
    pub(super) rules: Rules,
    /// Accounts that the rules look at in the entry taken in last.
    pub(super) looks: BTreeSet<AccountId>,
    /// What became of each reading, by its entry.
    pub(super) outcomes: BTreeMap<Seq, Outcome>,
}

/// An account.
#[derive(Debug, Default)]
pub(super) struct Holder {
    pub(super) terms: Option<AccountTerms>,
    /// Its plans, each from its first instant on.
    plans: Vec<(UnixSeconds, PlanId)>,
    /// Its movements but those of energy, in their order.
    pub(super) moves: Vec<Move>,
    pub(super) owing: Owing,
    pub(super) line: Line,
    /// Local midnights whose standing charge is entered.
    charged: BTreeSet<UnixSeconds>,
}

impl Holder {
    /// A plan from an instant on, whatever was to hold then.
    fn hold(&mut self, at: UnixSeconds, plan: PlanId) {
        self.plans.retain(|(from, _)| *from < at);
        if self.plans.last().is_none_or(|(_, before)| *before != plan) {
            self.plans.push((at, plan));
        }
    }
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
            seq: Seq(0),
            now: UnixSeconds(0),
            swept: 0,
            records: BTreeMap::new(),
            versions: BTreeMap::new(),
            holidays: BTreeSet::new(),
            accounts: BTreeMap::new(),
            services: Vec::new(),
            rules: Rules::default(),
            looks: BTreeSet::new(),
            outcomes: BTreeMap::new(),
        }
    }
}

impl Book {
    /// Takes in the entry at `seq`.
    pub fn enter(&mut self, seq: Seq, entry: &Entry, waits: &Waits) {
        self.seq = seq;
        self.looks.clear();
        match entry {
            Entry::Reading(reading) => {
                let outcome = match waits.get(&seq) {
                    Some(None) => Outcome::Quarantined(QuarantineReason::ParkingFull),
                    Some(Some(by)) => self.reading(reading, *by),
                    None => self.reading(reading, seq),
                };
                self.outcomes.insert(seq, outcome);
            }
            Entry::Tick(now) if *now > self.now => {
                self.now = *now;
                self.standing();
                if now.0 / 60 != self.swept {
                    self.swept = now.0 / 60;
                    self.switch_all();
                    self.looks.extend(self.accounts.keys());
                }
            }
            Entry::Changes { outbox, changes } if outbox.0 > self.outbox => {
                self.outbox = outbox.0;
                changes.iter().for_each(|change| self.change(change));
            }
            Entry::Event(event) => self.hear(event),
            // A tick that comes late, a change that came before, and what changes nothing here.
            Entry::Tick(_) | Entry::Changes { .. } | Entry::Frame { .. } | Entry::Neighbours(_) => {
            }
        }
    }

    /// Whether the entry taken in last began a minute, and all accounts were looked at.
    #[must_use]
    pub fn is_minute(&self, entry: &Entry) -> bool {
        matches!(entry, Entry::Tick(now) if *now == self.now) && !self.looks.is_empty()
    }

    /// The newest tick.
    #[must_use]
    pub const fn now(&self) -> UnixSeconds {
        self.now
    }

    /// Accounts that the rules look at in the entry taken in last.
    #[must_use]
    pub const fn looks(&self) -> &BTreeSet<AccountId> {
        &self.looks
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
            let mut sums = BTreeMap::from([(LedgerKind::Energy, -self.energy_charge(*id))]);
            for moved in &holder.moves {
                *sums.entry(moved.kind).or_default() += moved.ticks;
            }
            sums.retain(|_, ticks| *ticks != 0);
            let balance = sums.values().sum();
            ends.insert(*id, AccountEnd { sums, balance });
        }
        ends
    }

    /// What the energy of an account costs, ticks.
    pub(super) fn energy_charge(&self, id: AccountId) -> i64 {
        let holder = self.accounts.get(&id);
        let Some(tariff) = holder.and_then(|holder| self.tariff(holder)) else { return 0 };
        let mut charge = Charge::default();
        for service in self.services.iter().filter(|service| service.account == id) {
            self.each_pair(service, |a, b| {
                for piece in pieces(a, b) {
                    charge.add(&tariff, piece.interval, piece.energy);
                }
            });
        }
        charge.total(&tariff).ticks()
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

    pub(super) fn tariff(&self, holder: &Holder) -> Option<Tariff> {
        let zone = &holder.terms.as_ref()?.zone;
        let mut plans = Vec::new();
        for (from, plan) in &holder.plans {
            plans.push((*from, self.versions.get(plan)?.as_slice()));
        }
        Tariff::of_plans(zone, self.holidays.clone(), &plans).ok()
    }

    /// An account's terms. Another plan than the last one agreed holds from the next local midnight on,
    /// after now and after all that is metered by now.
    fn terms(&mut self, terms: &AccountTerms) {
        let calendar = LocalCalendar::new(&terms.zone).expect("the story's zones are known");
        let last = self.metered(terms.account).max(self.now);
        let midnight = calendar.day_start(calendar.local(last).date.next());
        let holder = self.accounts.entry(terms.account).or_default();
        match holder.plans.last() {
            None => holder.plans.push((UnixSeconds(0), terms.plan)),
            Some((_, plan)) if *plan != terms.plan => holder.hold(midnight, terms.plan),
            Some(_) => {}
        }
        holder.terms = Some(terms.clone());
    }

    /// Another plan from a midnight on, or from the first after all that is metered by now.
    fn change_plan(&mut self, change: &PlanChange) {
        let last = self.metered(change.account);
        let holder = self.accounts.entry(change.account).or_default();
        let Some(terms) = &holder.terms else { return };
        let calendar = LocalCalendar::new(&terms.zone).expect("the story's zones are known");
        let midnight = calendar.day_start(calendar.local(last).date.next());
        holder.hold(if last > change.at { midnight } else { change.at }, change.plan);
    }

    /// Up to where anything is metered of an account by now.
    fn metered(&self, id: AccountId) -> UnixSeconds {
        let mut last = UnixSeconds(0);
        for service in self.services.iter().filter(|service| service.account == id) {
            let ends = Some(service.to).filter(|to| *to != UnixSeconds(u32::MAX));
            let known = service.known.iter().filter(|(_, known)| known.by <= self.seq);
            last = known.map(|(at, _)| *at).chain(ends).chain([service.from]).fold(last, Ord::max);
        }
        last
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
            Change::Account(terms) => self.terms(terms),
            Change::Plan(change) => self.change_plan(change),
            Change::Install(installation) => self.install(installation),
            Change::Remove(removal) => self.remove(removal),
            Change::Resolve(resolution) => self.resolve(resolution),
            Change::Replace(_) | Change::Switch(_) | Change::Emergency(_) => self.money(change),
            Change::Purchase(Purchase { account, .. })
            | Change::Sale(Sale { account, .. })
            | Change::Adjust(Adjustment { account, .. })
            | Change::Book(Booking { account, .. })
            | Change::Debt(DebtAgreement { account, .. })
            | Change::SupplyTerms(SupplyTerms { account, .. }) => {
                self.looks.insert(*account);
                self.money(change);
            }
            Change::SupplyPolicy(_)
            | Change::Friendly(_)
            | Change::Close(_)
            | Change::Clear(_)
            | Change::Order(_) => self.supply(change),
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
                let is_closed = holder.line.closed_at.is_some_and(|closed| closed <= at);
                let has_meter = services().any(|s| s.from <= at && at < s.to) && !is_closed;
                if has_meter && !holder.charged.contains(&at) {
                    due.push((*id, at, day, month));
                }
            }
        }
        for (id, at, day, month) in due {
            self.accounts.entry(id).or_default().charged.insert(at);
            self.add(id, LedgerKind::StandingDay, -day.ticks(), at);
            self.add(id, LedgerKind::StandingMonth, -month.ticks(), at);
        }
    }
}
