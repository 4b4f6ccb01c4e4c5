//! The log told to the model, entry by entry, and what the node did at each held against it: steps
//! of orders, notices, and what ought to have been done. Balances are the ledger's, which are held
//! against the model's own where an order hangs on them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{anyhow, ensure};
use loadgen::truth::{Book, Waits};
use meter::{
    AccountId, AlarmCode, AlarmState, Entry, LedgerRow, OrderRow, OrderState, Outcome,
    QuarantineReason, Seq, Subject, UnixSeconds,
};

use super::store::Store;
use super::story::StepKey;

/// Orders of an account whose balance is summed anew from all its readings: that is slow.
const SUMMED_MAX: u32 = 4;

/// An account that the rules look at: after which entry, when, and where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) seq: Seq,
    pub(super) at: UnixSeconds,
    pub(super) account: AccountId,
    pub(super) balance: i64,
}

/// What the node had told up to an entry.
#[derive(Debug, Default)]
struct Told {
    /// Where each account with a movement stands.
    balances: BTreeMap<AccountId, i64>,
    /// Where accounts stood within the entry, first as they were before.
    passed: BTreeMap<AccountId, Vec<i64>>,
    /// Notices that are given.
    on: BTreeSet<(AccountId, AlarmCode)>,
    /// Orders whose balance was summed anew.
    summed: BTreeMap<AccountId, u32>,
}

/// Tells the model the log and holds the node's steps against it. `look` is told whenever the rules
/// look at an account.
///
/// # Errors
/// The first thing that the rules do not allow, or that they call for and that is not there.
pub(super) fn follow(
    store: &Store,
    orders: &BTreeMap<StepKey, OrderRow>,
    log: &[Entry],
    mut look: impl FnMut(&Book, &Moment),
) -> anyhow::Result<Book> {
    let waits = waits(store);
    let mut rows: Vec<&LedgerRow> = store.ledger.values().collect();
    rows.sort_by_key(|row| row.seq);
    let mut rows = rows.into_iter().peekable();
    let mut notices = notices(store).into_iter().peekable();
    let mut steps = orders.values().peekable();
    let (mut book, mut told) = (Book::default(), Told::default());
    for (entry, seq) in log.iter().zip(1..) {
        let seq = Seq(seq);
        book.enter(seq, entry, &waits);
        told.passed.clear();
        while let Some(row) = rows.next_if(|row| row.seq <= seq) {
            told.stand(row);
        }
        while let Some((_, key)) = notices.next_if(|(at, _)| *at <= seq) {
            if !told.on.remove(&key) {
                told.on.insert(key);
            }
        }
        while let Some(row) = steps.next_if(|row| row.seq <= seq) {
            told.step(&mut book, row)?;
        }
        for account in book.looks().iter().copied() {
            let (at, balance) = (book.now(), told.balance(account));
            let moment = Moment { seq, at, account, balance };
            look(&book, &moment);
            told.look(&book, &moment, book.is_minute(entry))?;
        }
    }
    ensure!(steps.next().is_none(), "I8: a step of an order that no entry made");
    trips(store, &book)?;
    Ok(book)
}

/// Readings that waited, and until which entry.
fn waits(store: &Store) -> Waits {
    let full = Outcome::Quarantined(QuarantineReason::ParkingFull);
    let waited = |seq: Seq, (settled_by, _, outcome): &(Seq, _, Outcome)| {
        (*settled_by != seq || *outcome == full)
            .then_some((*outcome != full).then_some(*settled_by))
    };
    let rows = store.readings.iter();
    rows.filter_map(|((_, _, seq), row)| Some((*seq, waited(*seq, row)?))).collect()
}

/// Notices of accounts by the entries at which they changed.
fn notices(store: &Store) -> Vec<(Seq, (AccountId, AlarmCode))> {
    let mut known = BTreeSet::new();
    let mut notices = Vec::new();
    for row in &store.alarms {
        let Subject::Account(account) = row.subject else { continue };
        let is_raised = row.state == AlarmState::Raised;
        // A row may come twice from the spool.
        if known.insert((row.seq, row.subject, row.code, is_raised, row.at, row.value)) {
            notices.push((row.seq, (account, row.code)));
        }
    }
    notices.sort_unstable();
    notices
}

/// A meter that opened its relay by itself is told apart from one that was ordered to.
fn trips(store: &Store, book: &Book) -> anyhow::Result<()> {
    let mut found = BTreeSet::new();
    for row in store.alarms.iter().filter(|row| row.code == AlarmCode::SupplyTrip) {
        let Subject::Meter(meter) = row.subject else { continue };
        let is_raised = row.state == AlarmState::Raised;
        found.insert((row.seq, meter, is_raised.then_some(row.value)));
    }
    let want = book.trips().iter();
    let want: BTreeSet<_> = want
        .map(|(seq, meter, trip)| (*seq, *meter, trip.map(|trip| i64::from(trip.code()))))
        .collect();
    let odd = found.symmetric_difference(&want).next();
    ensure!(odd.is_none(), "I8: trips: {odd:?} is not in both the rules' and the node's");
    Ok(())
}

impl Told {
    fn balance(&self, account: AccountId) -> i64 {
        self.balances.get(&account).copied().unwrap_or(0)
    }

    fn stand(&mut self, row: &LedgerRow) {
        let ticks = row.balance.ticks();
        let before = self.balances.insert(row.account, ticks).unwrap_or(0);
        self.passed.entry(row.account).or_insert_with(|| vec![before]).push(ticks);
    }

    /// I8: a step of an order is one that the rules allow, at the balance of then.
    fn step(&mut self, book: &mut Book, row: &OrderRow) -> anyhow::Result<()> {
        let (account, ticks) = (row.account, row.balance.ticks());
        let now = self.balance(account);
        let stood = self.passed.get(&account).map_or(now == ticks, |all| all.contains(&ticks));
        ensure!(stood, "I8: {row:?} on another balance than the ledger's {now}");
        book.ordered(row).map_err(|why| anyhow!("I8: {why}: {row:?}"))?;
        let summed = self.summed.entry(account).or_default();
        if row.state == OrderState::Decided && row.attempt == 0 && *summed < SUMMED_MAX {
            *summed += 1;
            let want = book.balance(account);
            ensure!(want == now, "I8: {row:?}: all that was read and paid comes to {want}");
        }
        Ok(())
    }

    /// What the rules call for at an account that was looked at is there.
    fn look(&self, book: &Book, moment: &Moment, is_minute: bool) -> anyhow::Result<()> {
        let Moment { seq, at, account, balance } = *moment;
        let place = || format!("entry {seq} ({at}), account {account} at {balance} ticks");
        let overdue = book.overdue(account, balance);
        ensure!(overdue.is_none(), "I8: {}: {}", place(), overdue.unwrap_or_default());
        let has_moved = self.balances.contains_key(&account);
        for (code, is_on) in book.levels(account, balance) {
            let found = self.on.contains(&(account, code));
            let want = is_on && has_moved;
            ensure!(want == found, "{}: {code:?} is {found}, and must be {want}", place());
        }
        let offered = (account, AlarmCode::EmergencyOffered);
        let (found, want) =
            (self.on.contains(&offered), book.is_emergency_offered(account, balance));
        ensure!(
            !is_minute || want == found,
            "{}: emergency credit is offered: {found}, and must be: {want}",
            place()
        );
        Ok(())
    }
}
