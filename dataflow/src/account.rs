//! An account: its ledger, its balance, purchases and standing charges.

use meter::{
    AccountId, AccountTerms, AlarmCode, Cause, Effects, LedgerKind, LedgerRow, MeterId, Mode,
    Money, Purchase, Seq, Subject, UnixSeconds,
};

use crate::alarm::{Panel, Quiet};
use crate::charge::{Others, Sum};
use crate::rates::{Cell, Rates, Stretch};
use crate::reference::NO_RATES;
use crate::snapshot::layout;

/// Names a pair of plan and time zone among those the worker keeps rates of.
pub(crate) type RatesIndex = u16;

/// What the books keep of an account: one cache line, which is all that a charge touches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(align(64))]
pub(crate) struct Account {
    /// The newest period and version: nearly all energy goes here.
    newest: Sum,
    /// Where it stands among the blocks.
    stretch: Stretch,
    balance: Money,
    /// While the balance is in it, the alarms of the account stay as they are.
    pub(crate) quiet: Quiet,
    /// The number of its last movement.
    number: u32,
    /// Those that are on, a bit each.
    pub(crate) alarms: u16,
    /// The rates of plan and zone at this worker.
    pub(crate) rates: RatesIndex,
    pub(crate) rest: Box<Rest>,
}

/// What a charge does not touch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Rest {
    others: Others,
    pub(crate) id: AccountId,
    /// Its meter, or the last one.
    pub(crate) meter: MeterId,
    /// Its zone as the number of its name.
    pub(crate) zone: u32,
    pub(crate) overdraft: Money,
    pub(crate) low_levels: [Money; 2],
    /// From when and until when it has a meter; until is the end of time while it has one.
    pub(crate) active_from: UnixSeconds,
    pub(crate) active_to: UnixSeconds,
    /// The next local midnight that no tick has passed yet.
    pub(crate) standing_due: UnixSeconds,
    pub(crate) is_prepaid: u8,
}

layout!(Account { newest, balance, number, alarms, rest } and follows { stretch, quiet, rates });

layout!(Rest {
    others,
    id,
    meter,
    zone,
    overdraft,
    low_levels,
    active_from,
    active_to,
    standing_due,
    is_prepaid,
});

// The hot path reads and writes one for each reading: keep it within a cache line.
const _: () = assert!(size_of::<Account>() == 64);

impl Account {
    pub(crate) fn new(id: AccountId) -> Self {
        let never = UnixSeconds(u32::MAX);
        let rest = Box::new(Rest { id, standing_due: never, ..Rest::default() });
        Self { rest, ..Self::default() }
    }

    /// Takes over the terms. In another zone the periods are others: what each holds goes on counting
    /// for the blocks, and what is charged stays charged.
    pub(crate) fn set_terms(&mut self, terms: &AccountTerms, zone: u32, rates: RatesIndex) {
        if self.has_terms() && zone != self.rest.zone {
            self.rest.others.carry(&mut self.newest);
            self.stretch = Stretch::default();
        }
        self.rest.zone = zone;
        self.rates = rates;
        self.rest.overdraft = terms.overdraft;
        self.rest.low_levels = terms.low_levels;
        self.set_mode(terms.mode);
    }

    /// From now on it is billed so.
    pub(crate) fn set_mode(&mut self, mode: Mode) {
        self.rest.is_prepaid = u8::from(mode == Mode::Prepaid);
        self.quiet = Quiet::default();
    }

    /// Whether the registry told its terms; money may come first.
    pub(crate) const fn has_terms(&self) -> bool {
        self.rates != NO_RATES
    }

    /// Whether it has any movement.
    pub(crate) const fn has_moved(&self) -> bool {
        self.number > 0
    }

    pub(crate) const fn balance(&self) -> Money {
        self.balance
    }

    /// The number of its last movement; 0 before the first.
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    /// Adds energy to the sums, or takes some back, and returns by how much the charge rises.
    #[inline]
    pub(crate) fn charge(&mut self, cell: Cell, wh: i64, rates: &Rates) -> Money {
        if cell.rate == 0 {
            return Money::ZERO;
        }
        let usual = self.newest.add(&mut self.stretch, cell, wh);
        usual.unwrap_or_else(|| {
            let charge = self.rest.others.add(&mut self.newest, cell, wh, rates);
            self.stretch = self.rest.others.stretch(&self.newest, rates);
            charge
        })
    }

    /// Whether the balance can be moved so and stay within 63 bits of ticks.
    #[inline]
    pub(crate) fn has_room(&self, amount: Money) -> bool {
        self.balance.plus(amount).is_ok()
    }

    /// Moves the balance. An amount of nothing makes no movement.
    #[inline]
    pub(crate) fn move_by(&mut self, amount: Money) {
        self.number += u32::from(amount != Money::ZERO);
        self.balance = self.balance.plus(amount).expect("room was made for it");
    }

    /// Enters a movement. An amount of nothing makes no row.
    #[inline]
    pub(crate) fn enter(&mut self, movement: Movement, seq: Seq, effects: &mut Effects) {
        let Movement { account, kind, amount, at, cause } = movement;
        debug_assert_eq!(account, self.rest.id, "a movement is entered to its own account");
        if amount == Money::ZERO {
            return;
        }
        if !self.has_room(amount) {
            self.make_room(&movement, seq, effects);
        }
        self.move_by(amount);
        effects.ledger.push(LedgerRow {
            account,
            number: self.number.into(),
            kind,
            amount,
            balance: self.balance,
            at,
            cause,
            seq,
        });
    }

    /// Puts what a movement would carry past 63 bits of ticks into suspense, before it is entered:
    /// the movement is booked in full, and nobody's balance leaves its range.
    #[cold]
    pub(crate) fn make_room(&mut self, movement: &Movement, seq: Seq, effects: &mut Effects) {
        let Movement { account, amount, at, cause, .. } = *movement;
        let reached = i128::from(self.balance.ticks()) + i128::from(amount.ticks());
        let bound = if reached < 0 { -i128::from(i64::MAX) } else { i128::from(i64::MAX) };
        // An amount has at most 63 bits, so that what passes the bound has, too.
        let over = i64::try_from(bound - reached).unwrap_or(0);
        let (kind, subject) = (LedgerKind::Bound, Subject::Account(account));
        let mut on = 0;
        let mut panel = Panel { subject, on: &mut on, seq, rows: &mut effects.alarms };
        panel.raise(AlarmCode::BalanceBound, at, over);
        let movement = Movement { account, kind, amount: Money::from_ticks(over), at, cause };
        self.enter(movement, seq, effects);
    }

    /// Enters a purchase: what it recovers of a debt, then fee and tax by the version in force
    /// then. What is left over goes to the balance.
    pub(crate) fn purchase(
        &mut self,
        purchase: &Purchase,
        recovered: Money,
        rates: &Rates,
        seq: Seq,
        effects: &mut Effects,
    ) -> Money {
        let Purchase { paid, at, .. } = *purchase;
        let date = rates.calendar().local(at).date;
        let version = rates.version_on(date);
        let fee = version.map_or(Money::ZERO, |v| v.fee.round_to_cents());
        let tax = version.map_or(Money::ZERO, |v| share_of(paid, v.tax_bp));
        let lines = [
            (LedgerKind::Purchase, paid.ticks()),
            (LedgerKind::DebtRecovery, recovered.ticks().saturating_neg()),
            (LedgerKind::Fee, fee.ticks().saturating_neg()),
            (LedgerKind::Tax, tax.ticks().saturating_neg()),
        ];
        let (account, cause) = (self.rest.id, Cause::Purchase(purchase.purchase.0));
        for (kind, ticks) in lines {
            let amount = Money::from_ticks(ticks);
            self.enter(Movement { account, kind, amount, at, cause }, seq, effects);
        }
        let left = lines.into_iter().fold(0_i64, |left, (_, ticks)| left.saturating_add(ticks));
        Money::from_ticks(left)
    }

    /// Enters the standing charges of every local midnight up to `now` at which it was active.
    pub(crate) fn standing(
        &mut self,
        now: UnixSeconds,
        (rates, horizon_s): (&Rates, u32),
        seq: Seq,
        effects: &mut Effects,
    ) {
        while self.rest.standing_due <= now {
            let at = self.rest.standing_due;
            let date = rates.calendar().local(at).date;
            self.rest.standing_due = rates.calendar().day_start(date.next()).max(at.plus(1));
            if date == date.first_of_month() {
                // A late reading lies within the horizon of a newest one in the newest period.
                let oldest = UnixSeconds(self.newest.period).minus(horizon_s);
                self.rest.others.forget_before(oldest);
            }
            let is_active = self.rest.active_from <= at && at < self.rest.active_to;
            let Some(version) = rates.version_on(date).filter(|_| is_active) else { continue };
            let per_month = if date == date.first_of_month() {
                version.standing_per_month
            } else {
                Money::ZERO
            };
            let lines = [
                (LedgerKind::StandingDay, version.standing_per_day),
                (LedgerKind::StandingMonth, per_month),
            ];
            for (kind, due) in lines {
                let amount = Money::from_ticks(due.ticks().saturating_neg());
                let (account, cause) = (self.rest.id, Cause::Period(at));
                self.enter(Movement { account, kind, amount, at, cause }, seq, effects);
            }
        }
    }

    /// A meter begins to serve it: standing charges fall due from the next local midnight on.
    pub(crate) fn begin(&mut self, meter: MeterId, at: UnixSeconds, rates: &Rates) {
        let rest = &mut self.rest;
        rest.meter = meter;
        let is_first = rest.standing_due == UnixSeconds(u32::MAX);
        // One meter right after another: a midnight before, which no tick has passed yet, counts.
        let goes_on = !is_first && rest.active_from <= at && at <= rest.active_to;
        rest.active_to = UnixSeconds(u32::MAX);
        if goes_on {
            return;
        }
        rest.active_from = at;
        let date = rates.calendar().local(at).date;
        let today = rates.calendar().day_start(date);
        let due = if today >= at { today } else { rates.calendar().day_start(date.next()) };
        rest.standing_due = if is_first { due } else { rest.standing_due.max(due) };
    }
}

/// A movement to enter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Movement {
    /// The account it is entered to; given, so that the hot path need not look it up.
    pub(crate) account: AccountId,
    pub(crate) kind: LedgerKind,
    pub(crate) amount: Money,
    pub(crate) at: UnixSeconds,
    pub(crate) cause: Cause,
}

/// `paid · bp / 10,000`, rounded once, half-even, to whole hundredths.
pub(crate) fn share_of(paid: Money, bp: u32) -> Money {
    let numerator = i128::from(paid.ticks()) * i128::from(bp);
    let unit = 10_000 * i128::from(Money::TICKS_PER_CENT);
    let (cents, rest) = (numerator.div_euclid(unit), numerator.rem_euclid(unit));
    let is_up = rest * 2 > unit || (rest * 2 == unit && cents.rem_euclid(2) == 1);
    let ticks = (cents + i128::from(is_up)) * i128::from(Money::TICKS_PER_CENT);
    Money::from_ticks(i64::try_from(ticks).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tax_rounds_half_even_once() {
        let check = |paid, bp, want| {
            assert_eq!(share_of(Money::from_ticks(paid), bp).ticks(), want, "paid={paid} bp={bp}");
        };
        check(1_000_000_000, 600, 60_000_000);
        check(1_000_000, 500, 0); // 0.005 is half a hundredth: to even, 0.
        check(3_000_000, 500, 200_000); // 0.015: to even, 0.02.
        check(1_000_001, 500, 100_000);
        check(i64::MAX, 10_000, i64::MAX);
    }

    fn entered(amounts: &[i64]) -> (Vec<(LedgerKind, i64, i64)>, usize) {
        let (mut account, mut effects) = (Account::new(AccountId(1)), Effects::default());
        for ticks in amounts {
            let movement = Movement {
                account: AccountId(1),
                kind: LedgerKind::Adjustment,
                amount: Money::from_ticks(*ticks),
                at: UnixSeconds(1),
                cause: Cause::Person(Seq(1)),
            };
            account.enter(movement, Seq(1), &mut effects);
        }
        let rows = effects.ledger.iter().zip(1..).map(|(row, number)| {
            assert_eq!(row.number, number);
            (row.kind, row.amount.ticks(), row.balance.ticks())
        });
        (rows.collect(), effects.alarms.len())
    }

    #[test]
    fn movements_add_up_and_nothing_makes_no_row() {
        let kind = LedgerKind::Adjustment;
        assert_eq!(entered(&[5, 0, -7]), (vec![(kind, 5, 5), (kind, -7, -2)], 0));
    }

    #[test]
    fn what_passes_the_bound_goes_to_suspense_first() {
        let (kind, bound, max) = (LedgerKind::Adjustment, LedgerKind::Bound, i64::MAX);
        let up = vec![(kind, max, max), (bound, -9, max - 9), (kind, 9, max)];
        assert_eq!(entered(&[max, 9]), (up, 1));
        let full = vec![(kind, -max, -max), (bound, max, 0), (kind, -max, -max)];
        assert_eq!(entered(&[-max, -max]), (full, 1));
    }
}
