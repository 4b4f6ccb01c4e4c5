//! What people do in a story: they pay at counters and by top-up, have purchases taken back, owe and
//! pay off, take emergency credit, change how they are billed. In the order of time for each
//! account, since what a counter may do depends on what it did.

use meter::{
    AccountId, AccountTerms, Adjustment, Booking, Change, Clearance, Closing, DebtAgreement,
    DebtShare, Emergency, EventCode, FriendlyId, LedgerKind, LocalCalendar, MeterEvent, Mode,
    ModeSwitch, Money, PlanChange, PlanId, Purchase, PurchaseId, Sale, SaleLine, Subject,
    SupplyTerms, UnixSeconds,
};

use super::counter::{Counter, Sold};
use super::options::Dice;
use super::scene::{ROUND_S, ROUNDS_A_DAY, Scene, later};

/// Numbers of sales begin here: top-ups have those below.
const SALES: u64 = 1_000_000;

/// What a counter knows of an account.
#[derive(Debug, Default)]
struct Wallet {
    /// Whether debts are paid off at the counter, which knows what is left, or by top-ups.
    is_counter: bool,
    /// Of the debts agreed here, what the counter did not take yet.
    debt: i64,
    /// The newest sale, until it is taken back.
    newest: Option<Sale>,
    /// What sells energy, where the account is sold in kWh; and what it sold.
    counter: Option<Counter>,
    sold: Vec<Sold>,
    /// Its plan by now.
    plan: PlanId,
    /// How the account is billed, since the last switch, and from when that holds.
    mode: Option<(Mode, UnixSeconds)>,
    sales: u64,
}

const fn money(ticks: i64) -> Money {
    Money::from_ticks(ticks)
}

/// Up to `most` ticks, whole hundredths.
fn cents(dice: &mut Dice, most: u64) -> i64 {
    dice.below(most / 100_000 + 1) as i64 * 100_000
}

impl Scene {
    /// Purchases and corrections of any account.
    pub(super) fn people(&mut self, accounts: u32, dice: &mut Dice) {
        let count = u64::from(accounts) * (1 + u64::from(self.rounds / ROUNDS_A_DAY) / 2);
        for number in 1..=count {
            let round = 5 + dice.below(u64::from(self.rounds)) as u32;
            let account = AccountId(1 + dice.below(accounts.into()) as u32);
            let at = self.at(round).min(self.end());
            let change = if dice.happens(850) {
                let purchase = PurchaseId(number);
                let paid = money(1 + dice.below(900_000_000) as i64);
                Change::Purchase(Purchase { purchase, account, paid, at })
            } else {
                let amount = money(dice.below(200_000_001) as i64 - 100_000_000);
                Change::Adjust(Adjustment { account, amount, at, reason: "prove".to_owned() })
            };
            self.doings.push((round.min(self.rounds - 1), vec![change]));
        }
    }

    /// What else people do with an account, each thing in a row of its own.
    pub(super) fn deeds(&mut self, terms: &AccountTerms, dice: &mut Dice) {
        let account = terms.account;
        let (is_counter, plan) = (dice.happens(500), terms.plan);
        let mut wallet = Wallet { is_counter, plan, ..Wallet::default() };
        if self.flat.versions.iter().any(|version| version.plan == terms.plan) {
            wallet.counter = Some(Counter::new(&self.flat));
        }
        let days = self.rounds / ROUNDS_A_DAY;
        let count = dice.below(u64::from(days) * 2 + 6);
        let mut rounds: Vec<u32> =
            (0..count).map(|_| 5 + dice.below(self.rounds.into()) as u32).collect();
        rounds.sort_unstable();
        let (ends, _) = self.ends(account);
        rounds.retain(|round| *round < ends);
        if dice.happens(600) {
            let terms = supply_terms(account, dice);
            self.doings.push((5, vec![Change::SupplyTerms(terms)]));
        }
        for round in rounds {
            let round = round.min(self.rounds - 1);
            // As the node's clock says it, which may be off.
            let off = *dice.pick(&[0, 0, 0, 3600, 7200]);
            let at = self.at(round).minus(off).max(self.at(0));
            let change = match dice.below(11) {
                0..=2 => Some(wallet.sell(account, at, dice)),
                3 => wallet.take_back(at, dice),
                4 => Some(book(account, at, dice)),
                5 => Some(wallet.agree(account, at, dice)),
                6 | 7 => Some(Change::Emergency(Emergency { account, at })),
                8 => wallet.switch(terms, at, dice),
                9 => Some(Change::SupplyTerms(supply_terms(account, dice))),
                _ => {
                    let luck = loadgen::mix(u64::from(account.0) ^ u64::from(round));
                    let before = wallet.plan;
                    let has_moved = luck.is_multiple_of(2) && wallet.move_on();
                    let mut other = wallet.other_terms(terms, dice);
                    if has_moved && luck.is_multiple_of(4) {
                        other.plan = before;
                        let dated = wallet.change_plan(terms, at, luck);
                        self.doings.push((round, vec![dated]));
                    }
                    Some(Change::Account(other))
                }
            };
            self.doings.extend(change.map(|change| (round, vec![change])));
        }
        self.sold.append(&mut wallet.sold);
        self.trip(account, dice);
        self.end_account(account, dice);
    }

    /// The round in which the account's last meter is gone, and when it went.
    fn ends(&self, account: AccountId) -> (u32, UnixSeconds) {
        let devices = self.devices.iter().filter(|device| device.account == account);
        let last = devices.map(|device| device.to).max().unwrap_or_default();
        (last.since(self.start) / ROUND_S + 1, last)
    }

    /// An account without a meter is closed.
    fn end_account(&mut self, account: AccountId, dice: &mut Dice) {
        let (round, last) = self.ends(account);
        if round < self.rounds && dice.happens(700) {
            let round = (round + dice.below(3) as u32).min(self.rounds - 1);
            let at = self.at(round).max(last);
            self.doings.push((round, vec![Change::Close(Closing { account, at })]));
        }
    }

    /// A relay that opens by itself, with the cover open or too much current or for no reason that is
    /// known, until a person has looked at it.
    fn trip(&mut self, account: AccountId, dice: &mut Dice) {
        if dice.happens(500) {
            return;
        }
        let round = 10 + dice.below(u64::from(self.rounds)) as u32;
        let at = self.at(round);
        let devices = self.devices.iter().filter(|device| device.account == account);
        let meter = devices.filter(|device| device.from <= at).map(|device| device.id).max();
        let Some(meter) = meter else { return };
        if dice.happens(400) {
            let device = self.devices.iter_mut().find(|device| device.id == meter);
            let device = device.expect("found above");
            device.overload = Some((at.minus(7200), at.plus(7200)));
        }
        let mut tell = |code, after: u32| {
            let (taken_at, received_at) = (at.plus(after * 60), at);
            let subject = Subject::Meter(meter);
            let event = MeterEvent { subject, code, taken_at, received_at, counter: 0 };
            self.events.push((round + after / 15, event));
        };
        let is_tampered = dice.happens(400);
        if is_tampered {
            tell(EventCode::Tamper, 1);
        }
        tell(EventCode::RelayOpened, 2);
        let rests = 20 + dice.below(600) as u32;
        if is_tampered {
            tell(EventCode::TamperEnd, rests);
        }
        if dice.happens(200) {
            tell(EventCode::RelayClosed, rests + 1);
        }
        let round = round + rests / 15 + dice.below(8) as u32;
        if round < self.rounds && dice.happens(800) {
            let (at, reason) = (self.at(round), "prove".to_owned());
            let clear = Change::Clear(Clearance { account, at, reason });
            self.doings.push((round, vec![clear]));
        }
    }
}

/// Under what terms the account is helped over.
fn supply_terms(account: AccountId, dice: &mut Dice) -> SupplyTerms {
    SupplyTerms {
        account,
        is_protected: dice.happens(100),
        emergency_below: money(cents(dice, 100_000_000)),
        emergency_credit: money(cents(dice, 300_000_000)),
        reconnect_at: money(*dice.pick(&[0, 0, 30_000_000])),
        friendly: FriendlyId(dice.below(3) as u32),
    }
}

/// A movement that a person books.
fn book(account: AccountId, at: UnixSeconds, dice: &mut Dice) -> Change {
    use LedgerKind::{Adjustment, FreeIssue, OpeningBalance, Refund};
    let kind = *dice.pick(&[Adjustment, FreeIssue, OpeningBalance, Refund]);
    let amount = money(dice.below(200_000_001) as i64 - 100_000_000);
    let corrects = dice.happens(300).then(|| 1 + dice.below(50) as u32);
    Change::Book(Booking { account, kind, amount, corrects, at, reason: "prove".to_owned() })
}

impl Wallet {
    /// A sale at the counter: its lines, or a free issue; now and then by token.
    fn sell(&mut self, account: AccountId, at: UnixSeconds, dice: &mut Dice) -> Change {
        self.sales += 1;
        let sale = PurchaseId(SALES + u64::from(account.0) * 1000 + self.sales);
        if let Some(counter) = &mut self.counter {
            let debt = DebtShare { most: money(self.debt), share_bp: 2500 };
            let debt = (self.debt > 0).then_some(debt);
            let sold = counter.sell((sale, account, at), debt, dice);
            self.debt -= sold.split.debt.ticks();
            let sale = Sale { sale, account, at, lines: sold.lines() };
            self.sold.push(sold);
            self.newest = Some(sale.clone());
            return Change::Sale(sale);
        }
        let paid = 1_000_000 + cents(dice, 500_000_000);
        let mut lines = Vec::new();
        let mut credit = paid;
        if dice.happens(850) {
            let debt = self.debt.min(paid / 4 / 100_000 * 100_000);
            let (fee, tax) = (cents(dice, 200_000), cents(dice, 200_000));
            self.debt -= debt;
            credit -= debt + fee + tax;
            let (recovered, taken) = (LedgerKind::DebtRecovery, LedgerKind::Tax);
            let kinds = [LedgerKind::Purchase, recovered, LedgerKind::Fee, taken];
            let line = |(kind, ticks)| SaleLine { kind, amount: money(ticks) };
            lines.extend(kinds.into_iter().zip([paid, -debt, -fee, -tax]).map(line));
        } else {
            lines.push(SaleLine { kind: LedgerKind::FreeIssue, amount: money(paid) });
        }
        if dice.happens(300) {
            lines.push(SaleLine { kind: LedgerKind::Token, amount: money(-credit) });
        }
        lines.retain(|line| line.amount != Money::ZERO);
        let sale = Sale { sale, account, at, lines };
        self.newest = Some(sale.clone());
        Change::Sale(sale)
    }

    /// The newest sale is reversed, or what it credited paid back.
    fn take_back(&mut self, at: UnixSeconds, dice: &mut Dice) -> Option<Change> {
        let mut sale = self.newest.take()?;
        sale.at = at;
        let of = |kind| sale.lines.iter().find(|line| line.kind == kind);
        let is_paid = of(LedgerKind::Purchase).is_some();
        if is_paid && (dice.happens(300) || self.counter.is_some()) {
            let token = of(LedgerKind::Token).map(|line| line.amount.ticks());
            let credit: i64 = sale.lines.iter().map(|line| line.amount.ticks()).sum();
            let amount = money(-token.unwrap_or(-credit));
            sale.lines.retain(|line| line.kind == LedgerKind::Token);
            sale.lines.iter_mut().for_each(|line| line.amount = amount);
            let amount = money(-amount.ticks());
            sale.lines.push(SaleLine { kind: LedgerKind::Refund, amount });
        } else {
            let debt = of(LedgerKind::DebtRecovery).map_or(0, |line| line.amount.ticks());
            self.debt -= debt;
            for line in &mut sale.lines {
                let is_payment = line.kind == LedgerKind::Purchase;
                line.kind = if is_payment { LedgerKind::Reversal } else { line.kind };
                line.amount = money(-line.amount.ticks());
            }
        }
        Some(Change::Sale(sale))
    }

    /// Other limits under the plan of now; told again the terms undo no switch of mode.
    fn other_terms(&self, terms: &AccountTerms, dice: &mut Dice) -> AccountTerms {
        let low = cents(dice, 100_000_000);
        AccountTerms {
            plan: self.plan,
            overdraft: money(cents(dice, 50_000_000)),
            low_levels: [money(low), money(low / 2)],
            ..terms.clone()
        }
    }

    /// Takes another plan, if there is one. An account sold in kWh keeps its own.
    fn move_on(&mut self) -> bool {
        let next = Scene::next_plan(self.plan).filter(|_| self.counter.is_none());
        self.plan = next.unwrap_or(self.plan);
        next.is_some()
    }

    /// The plan of now from a midnight ahead on.
    fn change_plan(&self, terms: &AccountTerms, at: UnixSeconds, luck: u64) -> Change {
        let calendar = LocalCalendar::new(&terms.zone).expect("the zones are compiled in");
        let day = later(calendar.local(at).date, 1 + luck / 4 % 4);
        let (account, at) = (terms.account, calendar.day_start(day));
        Change::Plan(PlanChange { account, plan: self.plan, at })
    }

    /// Arrears become a debt.
    fn agree(&mut self, account: AccountId, at: UnixSeconds, dice: &mut Dice) -> Change {
        let amount = 1_000_000 + cents(dice, 200_000_000);
        let (share_bp, cap) = self.share_and_cap(dice);
        self.debt += if self.is_counter { amount } else { 0 };
        let reason = "prove".to_owned();
        let amount = money(amount);
        Change::Debt(DebtAgreement { account, amount, share_bp, cap, at, reason })
    }

    /// From a midnight ahead on the account is billed the other way.
    fn switch(&mut self, terms: &AccountTerms, at: UnixSeconds, dice: &mut Dice) -> Option<Change> {
        let (mode, since) = self.mode.unwrap_or((terms.mode, UnixSeconds(0)));
        if at <= since {
            return None;
        }
        let calendar = LocalCalendar::new(&terms.zone).expect("the zones are compiled in");
        let day = later(calendar.local(at).date, 1 + dice.below(2));
        let at = calendar.day_start(day);
        let mode = if mode == Mode::Prepaid { Mode::Postpaid } else { Mode::Prepaid };
        self.mode = Some((mode, at));
        let (share_bp, cap) = self.share_and_cap(dice);
        Some(Change::Switch(ModeSwitch { account: terms.account, mode, at, share_bp, cap }))
    }

    /// What top-ups pay off: a share of each, mostly with a cap.
    fn share_and_cap(&self, dice: &mut Dice) -> (u32, Money) {
        let share_bp = if self.is_counter { 0 } else { 1 + dice.below(6000) as u32 };
        (share_bp, money(if dice.happens(600) { cents(dice, 60_000_000) } else { 0 }))
    }
}
