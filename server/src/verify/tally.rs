//! What the ledger comes to, by account: computed from the movements alone, and each movement held
//! against the one before it.

use meter::{AccountId, Contra, LedgerKind, LedgerRow, Money};
use sha2::{Digest, Sha256};

/// Kinds of movements, by code; 0 is none.
const KINDS: usize = 32;

/// One account.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccountTally {
    /// The number of its last movement.
    pub number: u64,
    /// The balance after it.
    pub balance_ticks: i64,
    /// Count and sum of its movements by the code of their kind.
    pub kinds: Vec<(u64, i64)>,
}

/// All accounts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    accounts: Vec<AccountTally>,
}

/// A movement that does not follow from the one before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Broken {
    /// The movement.
    pub row: LedgerRow,
    /// The number it should have.
    pub number: u64,
    /// The balance it should have.
    pub balance: Money,
}

impl Tally {
    /// Enters a movement.
    ///
    /// # Errors
    /// [`Broken`] when its number or balance does not follow; it is entered all the same.
    pub fn enter(&mut self, row: &LedgerRow) -> Result<(), Box<Broken>> {
        let index = row.account.0 as usize;
        if self.accounts.len() <= index {
            self.accounts.resize(index + 1, AccountTally::default());
        }
        let account = &mut self.accounts[index];
        let number = account.number + 1;
        let balance_ticks = account.balance_ticks.wrapping_add(row.amount.ticks());
        account.number = row.number;
        account.balance_ticks = row.balance.ticks();
        if account.kinds.is_empty() {
            account.kinds = vec![(0, 0); KINDS];
        }
        let kind = &mut account.kinds[usize::from(row.kind.code())];
        kind.0 += 1;
        kind.1 = kind.1.wrapping_add(row.amount.ticks());
        if (number, balance_ticks) == (row.number, row.balance.ticks()) {
            return Ok(());
        }
        Err(Box::new(Broken { row: *row, number, balance: Money::from_ticks(balance_ticks) }))
    }

    /// The accounts that have moved.
    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &AccountTally)> {
        let moved = self.accounts.iter().zip(0..).filter(|(account, _)| account.number > 0);
        moved.map(|(account, id)| (AccountId(id), account))
    }

    /// One account, if it has moved.
    #[must_use]
    pub fn account(&self, id: AccountId) -> Option<&AccountTally> {
        self.accounts.get(id.0 as usize).filter(|account| account.number > 0)
    }

    /// Count and sum of all movements by kind, kinds without one left out.
    #[must_use]
    pub fn by_kind(&self) -> Vec<(LedgerKind, u64, i128)> {
        let sum = |kind: &LedgerKind| {
            let of_kind = self.accounts().map(|(_, account)| account.kind(*kind));
            let (count, ticks) =
                of_kind.fold((0, 0), |(count, ticks), (n, t)| (count + n, ticks + i128::from(t)));
            (*kind, count, ticks)
        };
        LedgerKind::ALL.iter().map(sum).filter(|(_, count, _)| *count > 0).collect()
    }

    /// What the other sides hold, those of nothing left out.
    #[must_use]
    pub fn by_side(&self) -> Vec<(Contra, i128)> {
        let kinds = self.by_kind();
        let sum = |side: &Contra| {
            let of_side = kinds.iter().filter(|(kind, _, _)| kind.contra() == *side);
            (*side, -of_side.map(|(_, _, ticks)| ticks).sum::<i128>())
        };
        Contra::ALL.iter().map(sum).filter(|(_, ticks)| *ticks != 0).collect()
    }

    /// Σ of all balances.
    #[must_use]
    pub fn balances(&self) -> i128 {
        self.accounts().map(|(_, account)| i128::from(account.balance_ticks)).sum()
    }

    /// SHA-256 over account, last number, balance and the sums by kind, accounts ascending: equal
    /// books have equal hashes.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (id, account) in self.accounts() {
            hash.update(id.0.to_le_bytes());
            hash.update(account.number.to_le_bytes());
            hash.update(account.balance_ticks.to_le_bytes());
            for kind in LedgerKind::ALL {
                let (count, ticks) = account.kind(*kind);
                if count > 0 {
                    hash.update([kind.code()]);
                    hash.update(count.to_le_bytes());
                    hash.update(ticks.to_le_bytes());
                }
            }
        }
        hash.finalize().into()
    }
}

impl AccountTally {
    /// Count and sum of the movements of a kind.
    #[must_use]
    pub fn kind(&self, kind: LedgerKind) -> (u64, i64) {
        self.kinds.get(usize::from(kind.code())).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use meter::{Cause, Seq, UnixSeconds};

    use super::*;

    fn row(account: u32, number: u64, kind: LedgerKind, amount: i64, balance: i64) -> LedgerRow {
        LedgerRow {
            account: AccountId(account),
            number,
            kind,
            amount: Money::from_ticks(amount),
            balance: Money::from_ticks(balance),
            at: UnixSeconds(1),
            cause: Cause::Person(Seq(1)),
            seq: Seq(1),
        }
    }

    #[test]
    fn codes_fit() {
        assert!(LedgerKind::ALL.iter().all(|kind| usize::from(kind.code()) < KINDS));
    }

    #[test]
    fn movements_must_follow_each_other() {
        let check = |rows: &[LedgerRow], want: Option<usize>| {
            let mut tally = Tally::default();
            let broken = rows.iter().position(|row| tally.enter(row).is_err());
            assert_eq!(broken, want, "{rows:?}");
        };
        let good = [
            row(3, 1, LedgerKind::Purchase, 100, 100),
            row(7, 1, LedgerKind::Energy, -5, -5),
            row(3, 2, LedgerKind::Energy, -30, 70),
        ];
        check(&good, None);
        check(&[good[0], row(3, 3, LedgerKind::Energy, -30, 70)], Some(1));
        check(&[good[0], row(3, 2, LedgerKind::Energy, -30, 71)], Some(1));
    }

    #[test]
    fn the_hash_knows_every_tick_and_no_order() {
        let of = |rows: &[LedgerRow]| {
            let mut tally = Tally::default();
            rows.iter().for_each(|row| tally.enter(row).unwrap_or_default());
            (tally.hash(), tally.balances(), tally.by_kind())
        };
        let (a, b) = (row(3, 1, LedgerKind::Purchase, 9, 9), row(7, 1, LedgerKind::Energy, -5, -5));
        assert_eq!(of(&[a, b]), of(&[b, a]));
        assert_eq!(of(&[a, b]).1, 4);
        assert_eq!(of(&[a, b]).2, [(LedgerKind::Energy, 1, -5), (LedgerKind::Purchase, 1, 9)]);
        let other = row(7, 1, LedgerKind::Energy, -6, -6);
        assert_ne!(of(&[a, b]).0, of(&[a, other]).0);
    }
}
