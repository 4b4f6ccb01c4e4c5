//! What is taken back was never there: after a reversal the books are those of an account to which
//! that sale was not made.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use meter::{
    AccountId, Booking, Change, DebtAgreement, Emergency, LedgerKind, Money, Purchase, PurchaseId,
    Sale, SaleLine, SupplyPolicy, SupplyTerms, UnixSeconds,
};
use support::{Node, install, record, terms, version};

/// 2026-11-30T00:00:00Z: December is a day away.
const NOVEMBER: u32 = 1_795_996_800;
const DECEMBER: u32 = NOVEMBER + 86_400;
const ID: AccountId = AccountId(1);
const CENT: i64 = Money::TICKS_PER_CENT;

const fn cents(count: i64) -> Money {
    Money::from_ticks(count * CENT)
}

/// What is done with the account.
#[derive(Clone, Copy, Debug)]
enum Deed {
    /// A sale at the counter, with its part of the debt.
    Sell(u64, i64, i64),
    /// It is reversed.
    Reverse(u64, i64, i64),
    /// Some of it is paid back after an inspection.
    Refund(u64, i64),
    /// A top-up, split by the books.
    TopUp(u64, i64),
    /// The balance is used up but for this, and emergency credit is taken.
    Emergency(i64),
}

use Deed::{Emergency as Take, Refund, Reverse, Sell, TopUp};

/// An account with emergency credit of 70 below zero, and a debt of 100 of which a fifth of a top-up
/// and 30 a month are recovered.
fn node() -> Node {
    let mut node = Node::start(1);
    let at = UnixSeconds(NOVEMBER);
    let agreed = DebtAgreement {
        account: ID,
        amount: cents(100),
        share_bp: 2000,
        cap: cents(30),
        at,
        reason: "arrears".into(),
    };
    node.change(vec![
        Change::SupplyPolicy(SupplyPolicy { is_cutting: true, ..SupplyPolicy::standard() }),
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)])),
        Change::Meter(record(1)),
        Change::Account(terms(1, "UTC")),
        install(1, NOVEMBER, Some(1000)),
        Change::Debt(agreed),
        Change::SupplyTerms(SupplyTerms {
            account: ID,
            is_protected: false,
            emergency_below: Money::ZERO,
            emergency_credit: cents(70),
            reconnect_at: Money::ZERO,
            friendly: meter::FriendlyId::NONE,
        }),
    ]);
    node
}

fn balance(node: &Node) -> Money {
    node.all.ledger.last().unwrap().balance
}

fn tell(node: &mut Node, at: u32, deed: Deed) {
    let at = UnixSeconds(at);
    let sale = |number, lines: &[(LedgerKind, i64)]| {
        let line = |&(kind, count)| SaleLine { kind, amount: cents(count) };
        let lines = lines.iter().map(line).collect();
        Change::Sale(Sale { sale: PurchaseId(number), account: ID, at, lines })
    };
    let change = match deed {
        Sell(number, paid, debt) => {
            sale(number, &[(LedgerKind::Purchase, paid), (LedgerKind::DebtRecovery, -debt)])
        }
        Reverse(number, paid, debt) => {
            sale(number, &[(LedgerKind::Reversal, -paid), (LedgerKind::DebtRecovery, debt)])
        }
        Refund(number, paid) => sale(number, &[(LedgerKind::Refund, -paid)]),
        TopUp(number, paid) => {
            let (purchase, paid) = (PurchaseId(number), cents(paid));
            Change::Purchase(Purchase { purchase, account: ID, paid, at })
        }
        Take(left) => {
            let ticks = left * CENT - balance(node).ticks();
            let (kind, amount, reason) =
                (LedgerKind::Adjustment, Money::from_ticks(ticks), "used".to_owned());
            let corrects = None;
            node.change(vec![Change::Book(Booking {
                account: ID,
                kind,
                amount,
                corrects,
                at,
                reason,
            })]);
            Change::Emergency(Emergency { account: ID, at })
        }
    };
    node.change(vec![change]);
}

/// Σ of the movements by the other side, but for cash and what was used up: what the account owes.
fn owed(node: &Node) -> BTreeMap<meter::Contra, i64> {
    let mut owed = BTreeMap::new();
    for row in &node.all.ledger {
        if !matches!(row.kind, LedgerKind::Adjustment) {
            *owed.entry(row.kind.contra()).or_default() += row.amount.ticks();
        }
    }
    owed.retain(|_, ticks| *ticks != 0);
    owed
}

/// The deeds, each with its day; those of sale 1 are left out in the other telling.
#[track_caller]
fn check(deeds: &[(u32, Deed)]) {
    let (mut with, mut without) = (node(), node());
    for (at, deed) in deeds {
        tell(&mut with, *at, *deed);
        if !matches!(deed, Sell(1, ..) | Reverse(1, ..) | Refund(1, _)) {
            tell(&mut without, *at, *deed);
        }
    }
    assert_eq!(owed(&with), owed(&without), "{deeds:?}");
    assert_eq!(balance(&with), balance(&without), "{deeds:?}");
    // And what is taken of the next purchases is the same.
    for at in [DECEMBER + 7200, DECEMBER + 40 * 86_400] {
        tell(&mut with, at, TopUp(90, 500));
        tell(&mut without, at, TopUp(90, 500));
        assert_eq!(owed(&with), owed(&without), "{deeds:?}, and then a top-up");
    }
}

#[test]
fn emergency_credit_that_was_paid_back_is_out_again() {
    let day = NOVEMBER;
    check(&[(day, Take(-5)), (day, Sell(1, 100, 0)), (day, Reverse(1, 100, 0))]);
    check(&[(day, Take(-5)), (day, Sell(1, 40, 0)), (day, Reverse(1, 40, 0))]);
    // Another purchase paid some of it back, before or after.
    check(&[
        (day, Take(-5)),
        (day, Sell(2, 30, 0)),
        (day, Sell(1, 50, 0)),
        (day, Reverse(1, 50, 0)),
    ]);
    for (paid, more) in [(70, 40), (100, 200), (30, 50)] {
        check(&[
            (day, Take(-5)),
            (day, Sell(1, paid, 0)),
            (day, Sell(2, more, 0)),
            (day, Reverse(1, paid, 0)),
        ]);
    }
    // One after another, the later first.
    check(&[
        (day, Take(-5)),
        (day, Sell(1, 60, 0)),
        (day, Sell(2, 60, 0)),
        (day, Reverse(2, 60, 0)),
        (day, Reverse(1, 60, 0)),
        (day, Sell(3, 20, 0)),
    ]);
    // Paid back after an inspection, in two parts.
    check(&[(day, Take(-5)), (day, Sell(1, 90, 0)), (day, Refund(1, 50)), (day, Refund(1, 40))]);
}

#[test]
fn below_its_level_nothing_new_is_offered_after_a_reversal() {
    let mut node = node();
    for deed in [Take(-5), Sell(1, 100, 0), Reverse(1, 100, 0)] {
        tell(&mut node, NOVEMBER, deed);
    }
    tell(&mut node, NOVEMBER, Take(-80));
    let given = node.all.ledger.iter().filter(|row| row.kind == LedgerKind::EmergencyGiven);
    assert_eq!(given.count(), 1, "the credit is out already");
}

#[test]
fn what_was_recovered_goes_back_to_its_month() {
    let (first, second) = (NOVEMBER, DECEMBER + 3600);
    // In the month itself: it may recover again.
    check(&[(first, Sell(1, 100, 20)), (first, Reverse(1, 100, 20)), (first, TopUp(3, 500))]);
    // In the next one, which may recover no more than its cap, whatever came back.
    check(&[(first, Sell(1, 100, 20)), (second, Reverse(1, 100, 20)), (second, TopUp(3, 500))]);
    check(&[
        (first, Sell(1, 100, 20)),
        (second, TopUp(3, 50)),
        (second, Reverse(1, 100, 20)),
        (second, TopUp(4, 500)),
    ]);
    check(&[
        (first, Take(-5)),
        (first, Sell(2, 100, 10)),
        (first, Sell(1, 100, 20)),
        (second, Reverse(1, 100, 20)),
        (second, Sell(4, 100, 30)),
    ]);
}
