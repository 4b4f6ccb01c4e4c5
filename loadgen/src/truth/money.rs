//! Money of the model that is not energy: purchases and receipts, bookings of persons, debts,
//! emergency credit, the switch of mode, the replacement of a meter. What an account owes is kept
//! nowhere: it is the sum of the movements against it.

use meter::{
    AccountId, Change, Installation, LedgerKind, LocalCalendar, LocalDate, Mode, ModeSwitch, Money,
    Purchase, PurchaseId, Removal, Replacement, Sale, Seq, SupplyTerms, UnixSeconds,
};

use super::book::Book;
use super::charge::half_even;

/// A movement of an account that no energy made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Move {
    /// The entry that made it.
    pub seq: Seq,
    /// What it is.
    pub kind: LedgerKind,
    /// Signed.
    pub ticks: i64,
    /// When it is due.
    pub at: UnixSeconds,
}

/// Under what terms an account owes.
#[derive(Debug, Default)]
pub(super) struct Owing {
    /// Of each purchase in 1/10,000, and at most so much in a month (0: no cap).
    debt: Option<(u32, i64)>,
    pub(super) terms: Option<SupplyTerms>,
    /// A switch of mode that waits for its day.
    switch: Option<ModeSwitch>,
    /// The mode since a switch.
    switched: Option<Mode>,
    /// What came in, less what was taken back of it, and emergency credit as it was given, less than
    /// nothing: all since the first entry.
    came: Vec<(Option<PurchaseId>, i64)>,
    /// What each purchase paid off of the debt, with its stamp; less than nothing when taken back.
    recoveries: Vec<(PurchaseId, UnixSeconds, i64)>,
}

impl Owing {
    /// The emergency credit that is out: whatever was given and did not come in since. That is the
    /// most that any last stretch of the account's story leaves out.
    fn emergency_out(&self) -> i64 {
        let mut out = 0;
        for from in 0..self.came.len() {
            let of_stretch: i64 = self.came[from..].iter().map(|(_, ticks)| -ticks).sum();
            out = out.max(of_stretch);
        }
        out
    }
}

impl Book {
    /// Where an account stands now: all that was ever read and booked, summed.
    #[must_use]
    pub fn balance(&self, id: AccountId) -> i64 {
        let moves = self.moves(id).iter().map(|moved| moved.ticks);
        moves.sum::<i64>() - self.energy_charge(id)
    }

    /// The movements of an account but those of energy, in their order.
    #[must_use]
    pub fn moves(&self, id: AccountId) -> &[Move] {
        self.accounts.get(&id).map_or(&[], |holder| &holder.moves)
    }

    /// How an account is billed.
    pub(super) fn mode(&self, id: AccountId) -> Mode {
        let holder = self.accounts.get(&id);
        let told = holder.and_then(|holder| Some(holder.terms.as_ref()?.mode));
        holder.and_then(|holder| holder.owing.switched).or(told).unwrap_or(Mode::Postpaid)
    }

    /// Whether emergency credit is there to be taken at this balance.
    #[must_use]
    pub fn is_emergency_offered(&self, id: AccountId, balance: i64) -> bool {
        let terms = self.accounts.get(&id).and_then(|holder| holder.owing.terms);
        let is_below = |terms: SupplyTerms| {
            terms.emergency_credit > Money::ZERO && balance < terms.emergency_below.ticks()
        };
        self.mode(id) == Mode::Prepaid
            && terms.is_some_and(is_below)
            && self.sum(id, [LedgerKind::EmergencyGiven, LedgerKind::EmergencyRepaid]) == 0
    }

    /// Enters a movement; nothing is none.
    pub(super) fn add(&mut self, id: AccountId, kind: LedgerKind, ticks: i64, at: UnixSeconds) {
        let seq = self.seq;
        let moves = &mut self.accounts.entry(id).or_default().moves;
        if ticks != 0 {
            moves.push(Move { seq, kind, ticks, at });
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are told apart before")]
    pub(super) fn money(&mut self, change: &Change) {
        match change {
            Change::Purchase(purchase) => self.purchase(purchase),
            Change::Sale(sale) => self.sale(sale),
            Change::Adjust(it) => {
                self.add(it.account, LedgerKind::Adjustment, it.amount.ticks(), it.at);
            }
            Change::Book(it) => self.add(it.account, it.kind, it.amount.ticks(), it.at),
            Change::Debt(it) => {
                self.add(it.account, LedgerKind::DebtAgreed, it.amount.ticks(), it.at);
                self.owing(it.account).debt = Some((it.share_bp, it.cap.ticks()));
            }
            Change::SupplyTerms(terms) => self.owing(terms.account).terms = Some(*terms),
            Change::Emergency(taken) => {
                let id = taken.account;
                let terms = self.owing(id).terms;
                if self.is_emergency_offered(id, self.balance(id)) {
                    let given = terms.map_or(0, |terms| terms.emergency_credit.ticks());
                    self.add(id, LedgerKind::EmergencyGiven, given, taken.at);
                    self.owing(id).came.push((None, -given));
                    self.looks.insert(id);
                }
            }
            Change::Switch(switch) => {
                self.owing(switch.account).switch = Some(*switch);
                self.switch(switch.account);
            }
            Change::Replace(replacement) => self.replace(replacement),
            _ => {}
        }
    }

    /// Every switch of mode whose day has begun.
    pub(super) fn switch_all(&mut self) {
        let ids: Vec<AccountId> = self.accounts.keys().copied().collect();
        ids.into_iter().for_each(|id| self.switch(id));
    }

    /// Since the switch is due: what is owed then becomes a debt where credit now comes first.
    fn switch(&mut self, id: AccountId) {
        let now = self.now;
        let owing = self.owing(id);
        let Some(switch) = owing.switch.take_if(|switch| switch.at <= now) else { return };
        owing.switched = Some(switch.mode);
        let balance = self.balance(id);
        if switch.mode == Mode::Prepaid && balance < 0 {
            self.add(id, LedgerKind::DebtAgreed, -balance, switch.at);
            self.owing(id).debt = Some((switch.share_bp, switch.cap.ticks()));
        }
    }

    fn owing(&mut self, id: AccountId) -> &mut Owing {
        &mut self.accounts.entry(id).or_default().owing
    }

    /// Σ of the movements of two kinds.
    fn sum(&self, id: AccountId, kinds: [LedgerKind; 2]) -> i64 {
        let moves = self.moves(id).iter().filter(|moved| kinds.contains(&moved.kind));
        moves.map(|moved| moved.ticks).sum()
    }

    /// A share of the debt first, then fee and tax.
    fn purchase(&mut self, purchase: &Purchase) {
        let Purchase { account: id, paid, at, .. } = *purchase;
        let tariff = self.accounts.get(&id).and_then(|holder| self.tariff(holder));
        let lines = [paid, Money::ZERO, Money::ZERO];
        let [paid, fee, tax] = tariff.map_or(lines, |tariff| tariff.lines(paid, at));
        let recovered = self.debt_share(id, paid.ticks(), at);
        let lines = [
            (LedgerKind::Purchase, paid.ticks()),
            (LedgerKind::DebtRecovery, -recovered),
            (LedgerKind::Fee, fee.ticks()),
            (LedgerKind::Tax, tax.ticks()),
        ];
        self.come_in(id, (purchase.purchase, at), &lines);
    }

    fn sale(&mut self, sale: &Sale) {
        let lines: Vec<_> =
            sale.lines.iter().map(|line| (line.kind, line.amount.ticks())).collect();
        self.come_in(sale.account, (sale.sale, sale.at), &lines);
    }

    /// What is left of the lines pays emergency credit back before it is balance. What is taken back
    /// of a purchase never came in.
    fn come_in(
        &mut self,
        id: AccountId,
        (purchase, at): (PurchaseId, UnixSeconds),
        lines: &[(LedgerKind, i64)],
    ) {
        for (kind, ticks) in lines {
            self.add(id, *kind, *ticks, at);
        }
        let left: i64 = lines.iter().map(|(_, ticks)| ticks).sum();
        let of_debt = lines.iter().filter(|(kind, _)| *kind == LedgerKind::DebtRecovery);
        let recovered: i64 = of_debt.map(|(_, ticks)| -ticks).sum();
        let owing = self.owing(id);
        owing.recoveries.push((purchase, at, recovered));
        let out = owing.emergency_out();
        if left > 0 {
            owing.came.push((Some(purchase), left));
        } else if let Some(came) = owing.came.iter_mut().find(|came| came.0 == Some(purchase)) {
            came.1 = (came.1 + left).max(0);
        }
        let repaid = out - owing.emergency_out();
        self.add(id, LedgerKind::EmergencyRepaid, -repaid, at);
    }

    /// What a purchase pays off: its share, of what is left, up to the cap of the local month. One
    /// that is stamped before the newest month of recovery counts in that month.
    fn debt_share(&self, id: AccountId, paid: i64, at: UnixSeconds) -> i64 {
        let Some(holder) = self.accounts.get(&id) else { return 0 };
        let Some((share_bp, cap)) = holder.owing.debt else { return 0 };
        let zone = holder.terms.as_ref().map_or("UTC", |terms| terms.zone.as_str());
        let calendar = LocalCalendar::new(zone).expect("the story's zones are known");
        let month_of = |at| calendar.local(at).date.first_of_month();
        let (mut month, mut recovered): (Option<LocalDate>, i64) = (None, 0);
        for (purchase, stamp, ticks) in &holder.owing.recoveries {
            if *ticks > 0 && Some(month_of(*stamp)) > month {
                (month, recovered) = (Some(month_of(*stamp)), 0);
            }
            // What is taken back goes to the month of the purchase, whatever month it is by now.
            let first = holder.owing.recoveries.iter().find(|of| of.0 == *purchase);
            let of = first.map_or(*stamp, |(_, stamp, _)| *stamp);
            if *ticks > 0 || Some(month_of(of)) == month {
                recovered += ticks;
            }
        }
        if Some(month_of(at)) > month {
            recovered = 0;
        }
        let open = if cap == 0 { i64::MAX } else { (cap - recovered).max(0) };
        let share = half_even(i128::from(paid) * i128::from(share_bp), 10_000 * 100_000) * 100_000;
        let left = self.sum(id, [LedgerKind::DebtAgreed, LedgerKind::DebtRecovery]);
        i64::try_from(share).expect("a share of a purchase fits").min(left).min(open)
    }

    /// The old meter's last register, then the balance out of the old and into the new one.
    fn replace(&mut self, replacement: &Replacement) {
        let Replacement { account, old, end, new, start, at } = *replacement;
        self.remove(&Removal { meter: old, at, end });
        let balance = self.balance(account);
        self.add(account, LedgerKind::Transfer, -balance, at);
        self.add(account, LedgerKind::Transfer, balance, at);
        self.install(&Installation { meter: new, account, at, start: Some(start) });
    }
}
