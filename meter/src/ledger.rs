//! The ledger: movements of customers' accounts, in double entry. A row names its kind, and the
//! kind names the other side ([`LedgerKind::contra`]): what the account gains the other side loses,
//! so that all accounts of all kinds sum to zero at every instant.

use serde::{Deserialize, Serialize};

use crate::stored::{stored_codes, stored_struct};
use crate::{AccountId, MeterId, Money, Seq, Stored, UnixSeconds};

/// What a movement is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerKind {
    /// Energy of one block period, charged as readings arrive.
    Energy,
    /// Standing charge of a local day.
    StandingDay,
    /// Standing charge of a local month.
    StandingMonth,
    /// What a customer paid.
    Purchase,
    /// Fee on a purchase; positive when a reversal gives it back.
    Fee,
    /// Tax on a purchase; positive when a reversal gives it back.
    Tax,
    /// A person's signed entry; it may name the movement it corrects.
    Adjustment,
    /// Taken from a purchase to pay off the account's debt; positive when a reversal gives it back.
    DebtRecovery,
    /// Emergency credit that the customer accepted.
    EmergencyGiven,
    /// Emergency credit taken back from a purchase; positive when a reversal gives it back.
    EmergencyRepaid,
    /// Energy rated again: the difference to what the readings named by the cause were charged.
    Correction,
    /// Money given back after inspection.
    Refund,
    /// A purchase cancelled before delivery.
    Reversal,
    /// What a replaced meter hands to the next one; both lines of a replacement sum to zero.
    Transfer,
    /// Where the books of the account begin.
    OpeningBalance,
    /// Credit that nobody pays for.
    FreeIssue,
    /// Arrears moved out of the balance, to be recovered from purchases.
    DebtAgreed,
    /// What a movement would have carried past the bounds of a balance.
    Bound,
    /// Value handed to a meter by a token; positive when an inspection gives it back.
    Token,
}

/// The other side of a movement. Its balance is −Σ of the movements that name it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contra {
    /// What was earned with energy and standing charges.
    Revenue,
    /// Money taken in at the counter and not yet at the bank.
    CashInTransit,
    /// Fees earned.
    Fees,
    /// Tax owed to the state.
    Taxes,
    /// What customers owe from before, account by account.
    Debt,
    /// Emergency credit that is out, account by account.
    EmergencyCredit,
    /// Signed entries of persons.
    Adjustments,
    /// Between a replaced meter and the next one; always zero after a replacement.
    Transfers,
    /// Balances from before these books.
    Opening,
    /// Credit given away.
    Grants,
    /// What passed the bounds of a balance and waits for a person.
    Suspense,
    /// Credit that stands in the meters themselves.
    MeterCredit,
}

stored_codes!(LedgerKind {
    Energy = 1,
    StandingDay = 2,
    StandingMonth = 3,
    Purchase = 4,
    Fee = 5,
    Tax = 6,
    Adjustment = 7,
    DebtRecovery = 8,
    EmergencyGiven = 9,
    EmergencyRepaid = 10,
    Correction = 11,
    Refund = 12,
    Reversal = 13,
    Transfer = 14,
    OpeningBalance = 15,
    FreeIssue = 16,
    DebtAgreed = 17,
    Bound = 18,
    Token = 19,
});
stored_codes!(Contra {
    Revenue = 1,
    CashInTransit = 2,
    Fees = 3,
    Taxes = 4,
    Debt = 5,
    EmergencyCredit = 6,
    Adjustments = 7,
    Transfers = 8,
    Opening = 9,
    Grants = 10,
    Suspense = 11,
    MeterCredit = 12,
});

impl LedgerKind {
    /// The other side of every movement of this kind.
    #[must_use]
    pub const fn contra(self) -> Contra {
        match self {
            Self::Energy | Self::StandingDay | Self::StandingMonth | Self::Correction => {
                Contra::Revenue
            }
            Self::Purchase | Self::Refund | Self::Reversal => Contra::CashInTransit,
            Self::Fee => Contra::Fees,
            Self::Tax => Contra::Taxes,
            Self::Adjustment => Contra::Adjustments,
            Self::DebtRecovery | Self::DebtAgreed => Contra::Debt,
            Self::EmergencyGiven | Self::EmergencyRepaid => Contra::EmergencyCredit,
            Self::Transfer => Contra::Transfers,
            Self::OpeningBalance => Contra::Opening,
            Self::FreeIssue => Contra::Grants,
            Self::Bound => Contra::Suspense,
            Self::Token => Contra::MeterCredit,
        }
    }

    /// The name, as the API, the statement and ClickHouse have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Energy => "energy",
            Self::StandingDay => "standing_day",
            Self::StandingMonth => "standing_month",
            Self::Purchase => "purchase",
            Self::Fee => "fee",
            Self::Tax => "tax",
            Self::Adjustment => "adjustment",
            Self::DebtRecovery => "debt_recovery",
            Self::EmergencyGiven => "emergency_given",
            Self::EmergencyRepaid => "emergency_repaid",
            Self::Correction => "correction",
            Self::Refund => "refund",
            Self::Reversal => "reversal",
            Self::Transfer => "transfer",
            Self::OpeningBalance => "opening_balance",
            Self::FreeIssue => "free_issue",
            Self::DebtAgreed => "debt_agreed",
            Self::Bound => "bound",
            Self::Token => "token",
        }
    }
}

impl Contra {
    /// The name, as the API, the statement and ClickHouse have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Revenue => "revenue",
            Self::CashInTransit => "cash_in_transit",
            Self::Fees => "fees",
            Self::Taxes => "taxes",
            Self::Debt => "debt",
            Self::EmergencyCredit => "emergency_credit",
            Self::Adjustments => "adjustments",
            Self::Transfers => "transfers",
            Self::Opening => "opening",
            Self::Grants => "grants",
            Self::Suspense => "suspense",
            Self::MeterCredit => "meter_credit",
        }
    }
}

/// What a movement comes from.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Cause {
    /// Energy between two stamps of a meter.
    Readings {
        /// The meter.
        meter: MeterId,
        /// From this stamp.
        from: UnixSeconds,
        /// To this stamp.
        to: UnixSeconds,
    },
    /// A local day or month that began at this instant.
    Period(UnixSeconds),
    /// A purchase.
    Purchase(u64),
    /// A person, by the log position of the entry.
    Person(Seq),
    /// A meter that began or ended to serve at this instant.
    Meter {
        /// The meter.
        meter: MeterId,
        /// When.
        at: UnixSeconds,
    },
    /// A person, who names the movement of the account that is put right.
    Movement {
        /// Its number.
        number: u32,
        /// The log position of the person's entry.
        seq: Seq,
    },
}

/// A movement of an account. Entries are only added; Σ amounts = balance at every instant.
/// Account and number together are its id.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct LedgerRow {
    /// The account.
    pub account: AccountId,
    /// Its movements are numbered from 1, without holes.
    pub number: u64,
    /// What it is, and with it the other side.
    pub kind: LedgerKind,
    /// Signed; negative takes from the balance and gives to the other side.
    pub amount: Money,
    /// The balance after it.
    pub balance: Money,
    /// When it is due: the reading's stamp, the period's start, the purchase's instant.
    pub at: UnixSeconds,
    /// What it comes from.
    pub cause: Cause,
    /// The entry that made it.
    pub seq: Seq,
}

stored_struct!(LedgerRow { account, number, kind, amount, balance, at, cause, seq });

/// A kind byte and three numbers of 4, 4 and 8 bytes.
impl Stored for Cause {
    fn put(&self, out: &mut Vec<u8>) {
        let (kind, first, second, long) = match *self {
            Self::Readings { meter, from, to } => (1_u8, meter.0, from.0, u64::from(to.0)),
            Self::Period(start) => (2, start.0, 0, 0),
            Self::Purchase(purchase) => (3, 0, 0, purchase),
            Self::Person(seq) => (4, 0, 0, seq.0),
            Self::Meter { meter, at } => (5, meter.0, at.0, 0),
            Self::Movement { number, seq } => (6, number, 0, seq.0),
        };
        kind.put(out);
        first.put(out);
        second.put(out);
        long.put(out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let kind = u8::take(bytes)?;
        let (first, second, long) = (u32::take(bytes)?, u32::take(bytes)?, u64::take(bytes)?);
        match kind {
            1 => Some(Self::Readings {
                meter: MeterId(first),
                from: UnixSeconds(second),
                to: UnixSeconds(u32::try_from(long).ok()?),
            }),
            2 => Some(Self::Period(UnixSeconds(first))),
            3 => Some(Self::Purchase(long)),
            4 => Some(Self::Person(Seq(long))),
            5 => Some(Self::Meter { meter: MeterId(first), at: UnixSeconds(second) }),
            6 => Some(Self::Movement { number: first, seq: Seq(long) }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_round_trip() {
        for cause in [
            Cause::Readings { meter: MeterId(1), from: UnixSeconds(2), to: UnixSeconds(3) },
            Cause::Period(UnixSeconds(4)),
            Cause::Purchase(u64::MAX),
            Cause::Person(Seq(6)),
            Cause::Meter { meter: MeterId(7), at: UnixSeconds(8) },
            Cause::Movement { number: 9, seq: Seq(10) },
        ] {
            let mut bytes = Vec::new();
            cause.put(&mut bytes);
            assert_eq!(bytes.len(), 17);
            assert_eq!(Cause::take(&mut &bytes[..]), Some(cause));
            assert_eq!(Cause::take(&mut &bytes[..16]), None, "{cause:?} cut short");
        }
    }

    #[test]
    fn every_side_is_the_other_side_of_some_kind() {
        for contra in Contra::ALL {
            assert!(LedgerKind::ALL.iter().any(|kind| kind.contra() == *contra), "{contra:?}");
        }
    }

    #[test]
    fn names_are_those_that_json_has() {
        for kind in LedgerKind::ALL {
            assert_eq!(serde_json::json!(kind), kind.name());
        }
        for contra in Contra::ALL {
            assert_eq!(serde_json::json!(contra), contra.name());
        }
    }
}
