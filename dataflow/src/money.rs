//! Money that is not energy: purchases, bookings of persons, debts, emergency credit, and what a
//! replaced meter hands on. Energy and standing charges stand where they arise.

use meter::{
    AccountId, Adjustment, BalanceRow, Booking, Cause, DebtAgreement, Emergency, LedgerKind, Money,
    Purchase, PurchaseId, Replacement, Sale, SaleLine, Seq, UnixSeconds,
};

use crate::account::Movement;
use crate::alarm;
use crate::books::Books;
use crate::installed::Meter;
use crate::router::owner;

impl Books {
    /// Whether this worker keeps an account.
    pub(crate) const fn keeps(&self, id: AccountId) -> bool {
        owner(id.0, self.workers) == self.worker
    }

    /// Debt first, then fee and tax, then emergency credit; the rest is balance.
    pub(crate) fn purchase(&mut self, seq: Seq, purchase: &Purchase) {
        let Purchase { account: id, at, paid, .. } = *purchase;
        let month = self.month(id, at);
        let recovered = self.supply.get(&id).map_or(Money::ZERO, |s| s.debt.due(paid, month));
        let slot = self.account_slot(id);
        let account = &mut self.accounts[slot as usize];
        let rates = &self.reference.rates[usize::from(account.rates)];
        let left = account.purchase(purchase, recovered, rates, seq, &mut self.out.effects);
        if let Some(supply) = self.supply.get_mut(&id) {
            supply.debt.recover(recovered, month);
        }
        let has_debt = recovered != Money::ZERO;
        self.came_in(seq, (id, at, month), (purchase.purchase, left, has_debt));
    }

    /// The lines of a receipt, as they are; what is left of them came in, or is taken back.
    pub(crate) fn sale(&mut self, seq: Seq, sale: &Sale) {
        let (account, at, cause) = (sale.account, sale.at, Cause::Purchase(sale.sale.0));
        let month = self.month(account, at);
        let mut left = 0_i64;
        for SaleLine { kind, amount } in sale.lines.iter().copied() {
            self.enter(Movement { account, kind, amount, at, cause }, seq);
            left = left.saturating_add(amount.ticks());
        }
        let recovered = sale.lines.iter().find(|line| line.kind == LedgerKind::DebtRecovery);
        let recovered = recovered.map_or(0, |line| line.amount.ticks().saturating_neg());
        if let Some(supply) = self.supply.get_mut(&account) {
            let taken_in = supply.receipts.month_of(sale.sale).unwrap_or(month);
            supply.debt.recover(Money::from_ticks(recovered), taken_in);
        }
        let left = Money::from_ticks(left);
        self.came_in(seq, (account, at, month), (sale.sale, left, recovered > 0));
    }

    /// A sum came in: emergency credit is paid back first. A sum that is taken back is out again.
    fn came_in(
        &mut self,
        seq: Seq,
        (id, at, month): (AccountId, UnixSeconds, UnixSeconds),
        (sale, left, has_debt): (PurchaseId, Money, bool),
    ) {
        let repaid = self
            .supply
            .get_mut(&id)
            .map_or(Money::ZERO, |supply| supply.receipts.enter((sale, month), left, has_debt));
        let amount = Money::from_ticks(repaid.ticks().saturating_neg());
        let (kind, cause) = (LedgerKind::EmergencyRepaid, Cause::Purchase(sale.0));
        self.enter(Movement { account: id, kind, amount, at, cause }, seq);
        self.stand_account(id, at, seq);
        self.after_money(seq, id);
    }

    pub(crate) fn adjust(&mut self, seq: Seq, adjust: &Adjustment) {
        let Adjustment { account, amount, at, .. } = *adjust;
        let (kind, cause) = (LedgerKind::Adjustment, Cause::Person(seq));
        self.book_movement(Movement { account, kind, amount, at, cause }, seq);
    }

    pub(crate) fn book(&mut self, seq: Seq, booking: &Booking) {
        let Booking { account, kind, amount, corrects, at, .. } = *booking;
        let cause = match corrects {
            Some(number) => Cause::Movement { number, seq },
            None => Cause::Person(seq),
        };
        self.book_movement(Movement { account, kind, amount, at, cause }, seq);
    }

    pub(crate) fn agree_debt(&mut self, seq: Seq, debt: &DebtAgreement) {
        let DebtAgreement { account, amount, share_bp, cap, at, .. } = *debt;
        self.supply(account).debt.agree(amount, share_bp, cap);
        let (kind, cause) = (LedgerKind::DebtAgreed, Cause::Person(seq));
        self.book_movement(Movement { account, kind, amount, at, cause }, seq);
    }

    pub(crate) fn accept_emergency(&mut self, seq: Seq, emergency: &Emergency) {
        let Some(movement) = self.take_emergency(seq, emergency.account) else { return };
        self.book_movement(Movement { at: emergency.at, ..movement }, seq);
    }

    /// The old meter's last register is billed, the balance goes over, the new meter begins.
    pub(crate) fn replace(&mut self, seq: Seq, replacement: &Replacement) {
        let Replacement { account, old, end, new, start, at } = *replacement;
        self.remove(seq, &meter::Removal { meter: old, at, end });
        if self.keeps(account) {
            let slot = self.account_slot(account);
            let balance = self.accounts[slot as usize].balance().ticks();
            let lines = [(old, balance.saturating_neg()), (new, balance)];
            for (meter, ticks) in lines {
                let (kind, cause) = (LedgerKind::Transfer, Cause::Meter { meter, at });
                let amount = Money::from_ticks(ticks);
                self.enter(Movement { account, kind, amount, at, cause }, seq);
            }
        }
        let start = Some(start);
        self.install(seq, &meter::Installation { meter: new, account, at, start });
        if self.keeps(account) {
            self.stand_account(account, at, seq);
        }
    }

    fn book_movement(&mut self, movement: Movement, seq: Seq) {
        let (id, at) = (movement.account, movement.at);
        self.enter(movement, seq);
        self.stand_account(id, at, seq);
        self.after_money(seq, id);
    }

    fn enter(&mut self, movement: Movement, seq: Seq) {
        let slot = self.account_slot(movement.account);
        self.accounts[slot as usize].enter(movement, seq, &mut self.out.effects);
    }

    /// Tells where an account stands after a movement that no reading made.
    pub(crate) fn stand_account(&mut self, id: AccountId, at: UnixSeconds, seq: Seq) {
        let slot = self.account_slot(id);
        let newest = self.newest_slot(self.accounts[slot as usize].rest.meter);
        let (account, meter) =
            (&mut self.accounts[slot as usize], self.meters.get(newest as usize));
        alarm::balance(account, at, seq, &mut self.out.effects.alarms);
        self.out.effects.balances.push(BalanceRow {
            account: id,
            meter: account.rest.meter,
            balance: account.balance(),
            as_of: meter.map_or(UnixSeconds(0), |meter| meter.newest),
            complete_through: meter.map_or(UnixSeconds(0), Meter::complete_through),
            seq,
        });
    }

    /// The start of the account's local month.
    fn month(&mut self, id: AccountId, at: UnixSeconds) -> UnixSeconds {
        let slot = self.account_slot(id);
        let rates = &self.reference.rates[usize::from(self.accounts[slot as usize].rates)];
        let calendar = rates.calendar();
        calendar.day_start(calendar.local(at).date.first_of_month())
    }
}
