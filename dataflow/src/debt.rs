//! What an account owes apart from its balance: arrears that purchases pay off in part, and
//! emergency credit that the next purchases pay back in full.

use meter::{Money, UnixSeconds};

use crate::account::share_of;
use crate::snapshot::layout;

/// Arrears that were moved out of the balance.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Debt {
    /// What is left of them.
    pub(crate) left: Money,
    /// Of each purchase, in 1/10,000.
    share_bp: u32,
    /// At most this much in a local month; zero for no cap.
    cap: Money,
    /// What was recovered in the month that began at `month`.
    recovered: Money,
    month: UnixSeconds,
}

layout!(Debt { left, share_bp, cap, recovered, month });

impl Debt {
    /// Adds arrears, under new terms for all of them.
    pub(crate) fn agree(&mut self, amount: Money, share_bp: u32, cap: Money) {
        self.left = Money::from_ticks(self.left.ticks().saturating_add(amount.ticks()));
        (self.share_bp, self.cap) = (share_bp, cap);
    }

    /// What a purchase in the local month that began at `month` pays off. One of a month before the
    /// newest, by a clock that was behind, counts in the newest: no month's cap is open twice.
    pub(crate) fn due(&self, paid: Money, month: UnixSeconds) -> Money {
        let share = share_of(paid, self.share_bp).min(self.left);
        if self.cap == Money::ZERO {
            return share;
        }
        let recovered = if month <= self.month { self.recovered.ticks() } else { 0 };
        let open = self.cap.ticks().saturating_sub(recovered).max(0);
        share.min(Money::from_ticks(open))
    }

    /// So much is paid off by a purchase of the local month that began at `month`; less than nothing
    /// where such a purchase is taken back: its own month may recover it again, and no other.
    pub(crate) fn recover(&mut self, amount: Money, month: UnixSeconds) {
        if amount == Money::ZERO {
            return;
        }
        self.left = Money::from_ticks(self.left.ticks().saturating_sub(amount.ticks()));
        if month > self.month && amount > Money::ZERO {
            (self.month, self.recovered) = (month, Money::ZERO);
        }
        if month == self.month || amount > Money::ZERO {
            let recovered = self.recovered.ticks().saturating_add(amount.ticks());
            self.recovered = Money::from_ticks(recovered);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn money(ticks: i64) -> Money {
        Money::from_ticks(ticks)
    }

    #[test]
    fn a_purchase_pays_its_share_up_to_the_cap_of_the_month() {
        let cent = Money::TICKS_PER_CENT;
        let mut debt = Debt::default();
        debt.agree(money(100 * cent), 2500, money(40 * cent));
        let (may, june) = (UnixSeconds(1), UnixSeconds(2));
        let pay = |debt: &mut Debt, paid, month, want| {
            let due = debt.due(money(paid * cent), month);
            assert_eq!(due, money(want * cent), "paid={paid} {debt:?}");
            debt.recover(due, month);
        };
        pay(&mut debt, 100, may, 25);
        pay(&mut debt, 100, may, 15);
        pay(&mut debt, 100, may, 0);
        pay(&mut debt, 400, june, 40);
        // A reversal gives back, and its month may recover it again; no other month may take more.
        debt.recover(money(-10 * cent), may);
        pay(&mut debt, 400, june, 0);
        debt.left = money(20 * cent);
        debt.recover(money(-10 * cent), june);
        pay(&mut debt, 400, june, 10);
        pay(&mut debt, 400, UnixSeconds(3), 20);
        assert_eq!(debt.left, Money::ZERO);
    }

    #[test]
    fn a_clock_that_is_behind_opens_no_cap_twice() {
        let cap = money(40);
        let mut debt = Debt::default();
        debt.agree(money(1000), 10_000, cap);
        let (may, june) = (UnixSeconds(1), UnixSeconds(2));
        debt.recover(money(40), june);
        assert_eq!(debt.due(money(Money::TICKS_PER_CENT), may), Money::ZERO);
        debt.recover(Money::ZERO, may);
        assert_eq!(debt.due(money(Money::TICKS_PER_CENT), june), Money::ZERO);
        assert_eq!(debt.due(money(Money::TICKS_PER_CENT), UnixSeconds(3)), cap);
    }
}
