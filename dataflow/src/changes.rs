//! Changes of what exists: limits, plans, meters, accounts, installations; and of money.

use meter::{
    AccountId, AccountTerms, Adjustment, AlarmCode, Booking, Change, Clearance, Closing,
    DebtAgreement, Decision, Emergency, Energy, Installation, MeterId, MeterRecord, ModeSwitch,
    OrderReport, Outcome, PlanChange, Policy, Purchase, QuarantineReason, Reading, Removal,
    Resolution, Role, Sale, Seq, Settled, SupplyTerms, TransformerId, UnixSeconds,
};

use crate::account::Account;
use crate::alarm;
use crate::books::{Books, NO_SLOT, desk};
use crate::desk::Desk;
use crate::installed::{Meter, NO_ACCOUNT, OPEN_END};
use crate::late::Late;
use crate::loss::{News, Usage};
use crate::rates::PlanFrom;
use crate::reference::NO_RATES;
use crate::router::owner;
use crate::sample::Sample;
use crate::supply::Supply;

impl Books {
    pub(crate) fn change(&mut self, seq: Seq, change: &Change) {
        match change {
            Change::Policy(policy) => self.set_policy(seq, policy),
            Change::Holidays(holidays) => self.reference.set_holidays(holidays),
            Change::Tariff(version) => self.reference.add_version(version),
            Change::Meter(record) => self.set_record(seq, record),
            Change::Account(terms) => self.set_terms(seq, terms),
            Change::Install(installation) => self.install(seq, installation),
            Change::Remove(removal) => self.remove(seq, removal),
            Change::Resolve(resolution) => self.resolve(seq, resolution),
            Change::SupplyPolicy(policy) => self.set_supply_policy(seq, policy),
            Change::Friendly(calendar) => self.reference.set_friendly(calendar),
            Change::Replace(replacement) => self.replace(seq, replacement),
            Change::Purchase(Purchase { account, .. })
            | Change::Sale(Sale { account, .. })
            | Change::Adjust(Adjustment { account, .. })
            | Change::Book(Booking { account, .. })
            | Change::SupplyTerms(SupplyTerms { account, .. })
            | Change::Emergency(Emergency { account, .. })
            | Change::Debt(DebtAgreement { account, .. })
            | Change::Switch(ModeSwitch { account, .. })
            | Change::Plan(PlanChange { account, .. })
            | Change::Close(Closing { account, .. })
            | Change::Clear(Clearance { account, .. })
            | Change::Order(OrderReport { account, .. }) => {
                if self.keeps(*account) {
                    self.account_change(seq, change);
                }
            }
        }
    }

    /// A change of one account, at the worker that keeps it.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told apart before")]
    fn account_change(&mut self, seq: Seq, change: &Change) {
        match change {
            Change::Purchase(purchase) => self.purchase(seq, purchase),
            Change::Sale(sale) => self.sale(seq, sale),
            Change::Adjust(adjust) => self.adjust(seq, adjust),
            Change::Book(booking) => self.book(seq, booking),
            Change::SupplyTerms(terms) => self.set_supply_terms(seq, terms),
            Change::Emergency(emergency) => self.accept_emergency(seq, emergency),
            Change::Debt(debt) => self.agree_debt(seq, debt),
            Change::Switch(switch) => self.switch_mode(seq, switch),
            Change::Plan(change) => self.change_plan(change),
            Change::Close(closing) => self.close(seq, closing),
            Change::Clear(clearance) => self.clear_trip(seq, clearance),
            Change::Order(report) => self.order_news(seq, report),
            _ => {}
        }
    }

    fn set_policy(&mut self, seq: Seq, policy: &Policy) {
        self.reference.policy = *policy;
        self.classes.apply(&policy.alarms);
        let news = News::Thresholds {
            raise_milli: policy.alarms.loss_raise,
            clear_milli: policy.alarms.loss_clear,
            horizon_s: policy.horizon_s,
        };
        self.out.usage.push(Usage { seq, key: self.worker, news });
    }

    fn set_record(&mut self, seq: Seq, record: &MeterRecord) {
        self.note_record(record);
        let slot = self.newest_slot(record.meter);
        let Some(meter) = self.meters.get_mut(slot as usize) else { return };
        // From the newest reading on it hangs where the record says now.
        let (before, from) = (meter.transformer, meter.newest.max(meter.rest.from));
        if before != record.transformer {
            tell_hung(meter, (meter.rest.from, from), seq, &mut self.out.usage);
            meter.transformer = record.transformer;
            tell_hung(meter, (from, meter.to), seq, &mut self.out.usage);
        }
        meter.class = self.classes.of(record, &self.reference.policy.alarms);
        meter.set(Meter::SUPPLY, record.role == Role::Supply);
    }

    pub(crate) fn note_record(&mut self, record: &MeterRecord) {
        let index = record.meter.0 as usize;
        if self.records.len() <= index {
            self.records.resize(index + 1, UNKNOWN);
        }
        self.records[index] = *record;
    }

    fn set_terms(&mut self, seq: Seq, terms: &AccountTerms) {
        // Every worker numbers zones alike.
        let zone = self.reference.zone(&terms.zone);
        if owner(terms.account.0, self.workers) != self.worker {
            return;
        }
        let slot = self.account_slot(terms.account);
        let plans = self.plans_under(slot, terms, zone);
        let rates = self.reference.rates_of(&plans, zone);
        let account = &mut self.accounts[slot as usize];
        account.set_terms(terms, zone, rates);
        if let Some(mode) = self.supply.get(&terms.account).and_then(Supply::switched) {
            account.set_mode(mode);
        }
        alarm::balance(account, self.reference.now, seq, &mut self.out.effects.alarms);
    }

    /// The plans of an account under new terms. Another plan than the last one agreed holds from the
    /// first local midnight after the newest tick and all that was metered, so that nothing is ever
    /// rated by two.
    fn plans_under(&self, slot: u32, terms: &AccountTerms, zone: u32) -> Vec<PlanFrom> {
        let account = &self.accounts[slot as usize];
        let plans = self.reference.plans(account.rates);
        let plan = terms.plan.0;
        if plans.is_empty() || zone != account.rest.zone {
            return vec![PlanFrom { from: UnixSeconds(0), plan }];
        }
        if plans.last().is_some_and(|held| held.plan == plan) {
            return plans.to_vec();
        }
        let from = self.midnight_after(slot, self.reference.now.max(self.metered(slot)));
        replaced(plans, PlanFrom { from, plan })
    }

    /// Another plan from a midnight on; from the first one after all that was metered, if that is later.
    fn change_plan(&mut self, change: &PlanChange) {
        let slot = self.account_slot(change.account);
        let account = &self.accounts[slot as usize];
        let (metered, zone) = (self.metered(slot), account.rest.zone);
        let plans = self.reference.plans(account.rates);
        if plans.is_empty() {
            // The registry opens an account first.
            return;
        }
        let is_past = metered > change.at;
        let from = if is_past { self.midnight_after(slot, metered) } else { change.at };
        let plans = replaced(plans, PlanFrom { from, plan: change.plan.0 });
        self.accounts[slot as usize].rates = self.reference.rates_of(&plans, zone);
    }

    /// Up to where anything was metered of an account.
    fn metered(&self, slot: u32) -> UnixSeconds {
        let account = &self.accounts[slot as usize];
        let metered = self.meters.get(self.newest_slot(account.rest.meter) as usize);
        metered.map_or(UnixSeconds(0), |meter| {
            let end = if meter.to == OPEN_END { meter.rest.from } else { meter.to };
            meter.newest.max(meter.rest.from).max(end)
        })
    }

    /// The first midnight of an account after an instant.
    fn midnight_after(&self, slot: u32, at: UnixSeconds) -> UnixSeconds {
        let rates = self.accounts[slot as usize].rates;
        let calendar = self.reference.rates[usize::from(rates)].calendar();
        calendar.day_start(calendar.local(at).date.next())
    }

    /// The account, made on first mention.
    pub(crate) fn account_slot(&mut self, id: AccountId) -> u32 {
        let index = id.0 as usize;
        if self.by_account.len() <= index {
            self.by_account.resize(index + 1, NO_ACCOUNT);
        }
        if self.by_account[index] == NO_ACCOUNT {
            self.by_account[index] = self.accounts.len() as u32;
            self.accounts.push(Account::new(id));
        }
        self.by_account[index]
    }

    pub(crate) fn install(&mut self, seq: Seq, installation: &Installation) {
        let Installation { meter: id, account, at, start } = *installation;
        let index = id.0 as usize;
        let newest = self.by_meter.get(index).and_then(|slot| self.meters.get(*slot as usize));
        if newest.is_some_and(|meter| at <= meter.rest.from) {
            // Installations follow each other; the registry lets no other pass.
            return;
        }
        self.end_before(seq, id, at);
        let key = if account.is_some() { account.0 } else { id.0 };
        let is_known = self.records.get(index).is_some_and(|record| record.period_s != 0);
        if owner(key, self.workers) != self.worker || !is_known {
            return;
        }
        if self.by_meter.len() <= index {
            self.by_meter.resize(index + 1, NO_SLOT);
        }
        let before = self.by_meter[index];
        if let Some(meter) = self.meters.get(before as usize) {
            self.earlier.insert((id, meter.rest.from), before);
        }
        if account.is_some() {
            self.settle_standing(seq, account, at);
        }
        let mut meter = Meter::new(id, account, at);
        meter.account_slot =
            if account.is_some() { self.account_slot(account) } else { NO_ACCOUNT };
        meter.transformer = self.records[index].transformer;
        let record = &self.records[index];
        meter.class = self.classes.of(record, &self.reference.policy.alarms);
        meter.set(Meter::SUPPLY, record.role == Role::Supply);
        tell_hung(&meter, (at, OPEN_END), seq, &mut self.out.usage);
        let slot = self.meters.len() as u32;
        self.by_meter[index] = slot;
        self.meters.push(meter);
        self.rings.add(Default::default());
        let mut desk = desk!(self, slot, seq);
        if let Some(start) = start {
            desk.meter.rest.start = start;
            desk.meter.set(Meter::STARTED, true);
            desk.begin(Sample::anchor(at, start));
        }
        let Desk { account, rates, .. } = desk;
        if let Some(account) = account {
            account.begin(id, at, rates);
            self.standing_due = self.standing_due.min(account.rest.standing_due);
            self.supply_new_meter(seq, installation.account);
        }
    }

    /// Midnights of the meter before that no tick has passed yet fall due when the next meter begins
    /// after a time without any: a later tick could not tell them from those of that time.
    fn settle_standing(&mut self, seq: Seq, id: AccountId, at: UnixSeconds) {
        let slot = self.account_slot(id);
        let account = &mut self.accounts[slot as usize];
        let ended = account.rest.active_to;
        if at <= ended || account.rest.standing_due >= ended {
            return;
        }
        let rates = &self.reference.rates[usize::from(account.rates)];
        let rules = (rates, self.reference.policy.horizon_s);
        account.standing(ended.minus(1), rules, seq, &mut self.out.effects);
        self.stand_account(id, at, seq);
    }

    /// A meter that is installed anew no longer serves where it did.
    fn end_before(&mut self, seq: Seq, id: MeterId, at: UnixSeconds) {
        let slot = self.newest_slot(id);
        let Some(meter) = self.meters.get_mut(slot as usize) else { return };
        if meter.to == OPEN_END {
            meter.to = at.max(meter.newest.plus(1));
            tell_hung(meter, (meter.rest.from, meter.to), seq, &mut self.out.usage);
            if let Some(account) = self.accounts.get_mut(meter.account_slot as usize) {
                account.rest.active_to = at;
            }
        }
    }

    pub(crate) fn remove(&mut self, seq: Seq, removal: &Removal) {
        let Removal { meter: id, at, end } = *removal;
        let slot = self.newest_slot(id);
        if self.meters.get(slot as usize).is_none_or(|meter| meter.to != OPEN_END) {
            return;
        }
        self.end_before(seq, id, at);
        // What is on its way to the meter must not reach it at whom it serves next.
        let account = self.meters[slot as usize].account;
        self.decide(seq, account);
        let mut desk = desk!(self, slot, seq);
        let Some(newest) = desk.meter.newest_register().filter(|s| s.at < at) else {
            return;
        };
        let judged = desk.class.limits.judge(newest.register, end, at.since(newest.at));
        if judged.is_err() {
            // A final register that cannot be true is not billed; a person must look at it.
            let value = i64::try_from(end.wh()).unwrap_or(i64::MAX);
            desk.panel().raise(AlarmCode::Register, at, value);
            return;
        }
        desk.gap_before(newest.at, at);
        desk.advance(newest, Sample::anchor(at, end));
        desk.stand();
    }

    fn resolve(&mut self, seq: Seq, resolution: &Resolution) {
        let Resolution { meter, taken_at, seq: asked_by, register, decision } = *resolution;
        let slot = self.newest_slot(meter);
        if self.meters.get(slot as usize).is_none_or(|meter| !meter.serves_at(taken_at)) {
            return;
        }
        let outcome = match decision {
            Decision::Reject => Outcome::Quarantined(QuarantineReason::Rejected),
            Decision::NewEpoch => self.new_epoch(slot, taken_at, register, seq),
        };
        let mut desk = desk!(self, slot, seq);
        desk.trust(taken_at);
        self.note_dirty(slot);
        let reading = Reading { meter, taken_at, register, ..Reading::default() };
        self.out.effects.settled.push(Settled { seq: asked_by, reading, outcome, settled_by: seq });
    }

    /// A new register begins at a reading that was in quarantine.
    fn new_epoch(&mut self, slot: u32, at: UnixSeconds, register: Energy, seq: Seq) -> Outcome {
        let mut desk = desk!(self, slot, seq);
        let sample = Sample { at, register, flags: Sample::EPOCH, ..Sample::default() };
        let Some(newest) = desk.meter.newest_register() else {
            desk.begin(sample);
            desk.stand();
            return Outcome::Accepted;
        };
        if at > newest.at {
            desk.meter.cold().epochs.push(at);
            desk.gap_before(newest.at, at);
            desk.advance(newest, sample);
            desk.stand();
            return Outcome::Accepted;
        }
        let mut samples = Vec::new();
        desk.meter.samples(&desk.ring, &mut samples);
        match desk.insert(&mut samples, sample) {
            Late::Final(outcome) => {
                if outcome == Outcome::Accepted {
                    desk.meter.cold().epochs.push(at);
                }
                desk.settle_late(&samples, outcome, at);
                outcome
            }
            // Too far back to be looked at again.
            Late::Unknown(_) => Outcome::Quarantined(QuarantineReason::Rejected),
        }
    }
}

/// Plans with another one in place of what was to hold from its midnight on.
fn replaced(plans: &[PlanFrom], new: PlanFrom) -> Vec<PlanFrom> {
    let mut plans: Vec<PlanFrom> =
        plans.iter().copied().filter(|held| held.from < new.from).collect();
    if plans.last().is_none_or(|held| held.plan != new.plan) {
        plans.push(new);
    }
    plans
}

/// Tells the line loss from when until when a meter hangs on its transformer.
fn tell_hung(
    meter: &Meter,
    (from, to): (UnixSeconds, UnixSeconds),
    seq: Seq,
    usage: &mut Vec<Usage>,
) {
    if meter.transformer != TransformerId::NONE {
        let is_supply = meter.has(Meter::SUPPLY);
        let news = News::Installed { meter: meter.rest.id, from, to, is_supply };
        usage.push(Usage { seq, key: meter.transformer.0, news });
    }
}

/// The record of a meter that nobody told of.
const UNKNOWN: MeterRecord = MeterRecord {
    meter: MeterId::NONE,
    role: Role::Consumer,
    transformer: TransformerId::NONE,
    gateway: meter::GatewayId::NONE,
    current_max: meter::Current::from_ma(0),
    voltage_nominal: meter::Voltage::from_mv(0),
    phases: 0,
    register_digits: 0,
    period_s: 0,
};
