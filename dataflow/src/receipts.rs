//! What came in lately, sale by sale: what a reversal or a refund needs to know of the sale that it
//! takes back, so that the books become those of an account to which that sale was never made.

use meter::{Money, PurchaseId, UnixSeconds};

use crate::snapshot::layout;

/// Receipts kept of an account. Reversed is the newest sale, within a day: so many top-ups would have
/// to lie between.
const RECEIPTS_MAX: usize = 16;

/// The newest receipts of an account, and the emergency credit that is out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Receipts {
    /// Emergency credit that was out before the oldest of them.
    out_before: Money,
    /// Oldest first.
    kept: Vec<Receipt>,
}

layout!(Receipts { out_before, kept });

/// A sum that came in and paid emergency credit back, or emergency credit that was given.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Receipt {
    /// Of a purchase its number; 0 of emergency credit.
    sale: u64,
    /// What was left of the purchase for emergency credit and balance; what was given, negative.
    left: Money,
    /// The local month of its stamp.
    month: UnixSeconds,
}

layout!(Receipt { sale, left, month });

impl Receipts {
    /// The emergency credit that is out.
    pub(crate) fn emergency_out(&self) -> Money {
        self.kept.iter().fold(self.out_before, Receipt::apply)
    }

    /// Whether nothing needs to be remembered for the sake of what is here.
    fn is_idle(&self) -> bool {
        self.kept.is_empty() && self.out_before == Money::ZERO
    }

    /// Emergency credit is given.
    pub(crate) fn give(&mut self, credit: Money) {
        let left = Money::from_ticks(credit.ticks().saturating_neg());
        self.keep(Receipt { left, ..Receipt::default() });
    }

    /// A sale came in, of which so much is left, or (below zero) so much of it is taken back. Returns
    /// what it pays back of emergency credit; below zero what is out again, as far as nothing that
    /// came in later would have paid it back. `has_debt`: a debt had its part of it.
    pub(crate) fn enter(
        &mut self,
        (sale, month): (PurchaseId, UnixSeconds),
        left: Money,
        has_debt: bool,
    ) -> Money {
        let before = self.emergency_out();
        if left < Money::ZERO {
            if let Some(receipt) = self.kept.iter_mut().rfind(|receipt| receipt.sale == sale.0) {
                let rest = receipt.left.ticks().saturating_add(left.ticks());
                receipt.left = Money::from_ticks(rest.max(0));
            }
        } else if has_debt || (left > Money::ZERO && !self.is_idle()) {
            self.keep(Receipt { sale: sale.0, left, month });
        }
        Money::from_ticks(before.ticks().saturating_sub(self.emergency_out().ticks()))
    }

    /// The local month of the stamp of a sale.
    pub(crate) fn month_of(&self, sale: PurchaseId) -> Option<UnixSeconds> {
        self.kept.iter().rfind(|receipt| receipt.sale == sale.0).map(|receipt| receipt.month)
    }

    fn keep(&mut self, receipt: Receipt) {
        if self.kept.len() == RECEIPTS_MAX {
            self.out_before = Receipt::apply(self.out_before, &self.kept.remove(0));
        }
        self.kept.push(receipt);
    }
}

impl Receipt {
    /// The emergency credit that is out after it.
    fn apply(out: Money, receipt: &Self) -> Money {
        let out = out.ticks().saturating_sub(receipt.left.ticks());
        Money::from_ticks(out.max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAY: UnixSeconds = UnixSeconds(1);

    const fn money(ticks: i64) -> Money {
        Money::from_ticks(ticks)
    }

    #[track_caller]
    fn enter(receipts: &mut Receipts, sale: u64, left: i64, want: i64) {
        let repaid = receipts.enter((PurchaseId(sale), MAY), money(left), false);
        assert_eq!(repaid, money(want), "sale {sale}: {receipts:?}");
    }

    #[test]
    fn what_is_taken_back_was_never_there() {
        let mut receipts = Receipts::default();
        enter(&mut receipts, 1, 50, 0);
        assert_eq!(receipts, Receipts::default(), "nothing is kept where nothing can be out");
        receipts.give(money(70));
        enter(&mut receipts, 2, 50, 50);
        enter(&mut receipts, 3, 30, 20);
        enter(&mut receipts, 3, -30, -20);
        enter(&mut receipts, 4, 15, 15);
        // Of the fifty that come back fifteen and five are paid back by what came after.
        enter(&mut receipts, 5, 10, 5);
        enter(&mut receipts, 2, -50, -45);
        assert_eq!(receipts.emergency_out(), money(45));
        // Twice is once, and what is not known changes nothing.
        enter(&mut receipts, 2, -50, 0);
        enter(&mut receipts, 9, -50, 0);
    }

    #[test]
    fn few_are_kept_and_the_oldest_counts_on() {
        let mut receipts = Receipts::default();
        receipts.give(money(1000));
        for sale in 1..=40 {
            enter(&mut receipts, sale, 1, 1);
            assert!(receipts.kept.len() <= RECEIPTS_MAX);
        }
        assert_eq!(receipts.emergency_out(), money(960));
        enter(&mut receipts, 40, -1, -1);
        assert_eq!(receipts.month_of(PurchaseId(1)), None);
    }
}
