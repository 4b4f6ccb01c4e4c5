//! The invariants of docs/safety.md, after a story: what the log, ClickHouse and the plain model of
//! the rules say must be one and the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use loadgen::truth::{AccountEnd, Book, Move};
use meter::{
    AccountId, AlarmState, Cause, Change, Entry, INTERVAL_S, LedgerKind, MeterId, Outcome, Reading,
    Seq, UnixSeconds,
};
use storage::log::Batches;

use super::counter;
use super::story::Ended;
use super::watch::follow;
use crate::verify::{Look, Tally, replay};

/// Holds the end of a story against the rules.
///
/// # Errors
/// The first invariant that does not hold, in words.
pub(super) fn check(ended: &Ended) -> anyhow::Result<()> {
    let log = entries(ended)?;
    let contradiction = ended.store.contradictions.first();
    ensure!(contradiction.is_none(), "I2: a row came twice and differs: {contradiction:?}");
    acknowledged(ended)?;
    let book = follow(&ended.store, &ended.orders, &log, |_, _| {})?;
    outcomes(ended, &log, &book)?;
    let tally = books(ended, &book)?;
    replayed(ended, &tally)?;
    intervals(ended, &book)?;
    counter::check(&ended.sold, &ended.flat, &ended.told)?;
    alarms(ended)
}

/// All entries, from the first.
pub(super) fn entries(ended: &Ended) -> anyhow::Result<Vec<Entry>> {
    let disk = ended.disks.whole_log();
    let mut batches = Batches::open(&disk)?;
    let mut entries = Vec::new();
    while let Some(batch) = batches.next() {
        let header = batch?.header;
        let next = Seq(entries.len() as u64 + 1);
        ensure!(header.first == next, "the log has a hole from entry {next} to {}", header.first);
        let mut payload = batches.payload();
        for _ in 0..header.count {
            entries.push(Entry::decode(&mut payload)?);
        }
    }
    Ok(entries)
}

/// I2: what a meter was told is safe is stored, under its key and with its register.
fn acknowledged(ended: &Ended) -> anyhow::Result<()> {
    for (meter, at, register) in &ended.acknowledged {
        let rows = ended.store.readings.range((*meter, *at, Seq(0))..=(*meter, *at, Seq(u64::MAX)));
        let stored = rows.filter(|(_, (_, reading, _))| reading.register == *register).count();
        ensure!(stored > 0, "I2: the acknowledged reading of meter {meter} at {at} is not stored");
    }
    Ok(())
}

/// I6: each reading of the log has the outcome that the rules give it, once.
fn outcomes(ended: &Ended, log: &[Entry], book: &Book) -> anyhow::Result<()> {
    let stored: BTreeMap<Seq, Outcome> =
        ended.store.readings.iter().map(|((_, _, seq), row)| (*seq, row.2)).collect();
    ensure!(stored.len() == ended.store.readings.len(), "I6: an entry has two rows");
    for (entry, seq) in log.iter().zip(1..) {
        let (Entry::Reading(reading), seq) = (entry, Seq(seq)) else { continue };
        let want = book.outcomes().get(&seq).copied();
        // Duplicates are counted, not stored.
        let want = want.filter(|outcome| *outcome != Outcome::Duplicate);
        let found = stored.get(&seq).copied().filter(|outcome| *outcome != Outcome::Duplicate);
        let Reading { meter, taken_at, register, .. } = reading;
        ensure!(
            want == found,
            "I6: entry {seq}, meter {meter} at {taken_at} ({}), register {}: the rules say {want:?}, the node {found:?}",
            taken_at.0,
            register.wh()
        );
    }
    Ok(())
}

/// I1 and I7: what the ledger says is what the rules give.
pub(super) fn books(ended: &Ended, book: &Book) -> anyhow::Result<Tally> {
    let tally = ledger(ended)?;
    purchases(ended)?;
    let ends = book.accounts();
    money(&tally, &ends)?;
    moves(ended, book, ends.keys())?;
    Ok(tally)
}

/// I1: movements of each account follow each other without a hole.
fn ledger(ended: &Ended) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for row in ended.store.ledger.values() {
        if let Err(broken) = tally.enter(row) {
            anyhow::bail!("I1: ClickHouse's ledger breaks at {broken:?}");
        }
    }
    Ok(tally)
}

/// I7: each purchase that the registry holds is in the ledger once.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other changes are no purchases")]
fn purchases(ended: &Ended) -> anyhow::Result<()> {
    let mut found: BTreeMap<u64, (u32, i64)> = BTreeMap::new();
    for row in ended.store.ledger.values().filter(|row| row.kind == LedgerKind::Purchase) {
        let Cause::Purchase(id) = row.cause else { continue };
        let entry = found.entry(id).or_default();
        *entry = (entry.0 + 1, entry.1 + row.amount.ticks());
    }
    let mut told = 0;
    for change in ended.told.iter().flat_map(|(_, changes)| changes) {
        let (purchase, paid) = match change {
            Change::Purchase(purchase) => (purchase.purchase, purchase.paid),
            Change::Sale(sale) => match sale.lines.first() {
                Some(line) if line.kind == LedgerKind::Purchase => (sale.sale, line.amount),
                _ => continue,
            },
            _ => continue,
        };
        told += 1;
        let (id, want) = (purchase.0, (1, paid.ticks()));
        ensure!(
            found.get(&id) == Some(&want),
            "I7: purchase {id}: {:?} in the ledger, {want:?} made",
            found.get(&id)
        );
    }
    ensure!(found.len() == told, "I7: {} purchases in the ledger, {told} made", found.len());
    Ok(())
}

/// I1: every account has, by kind and to the tick, what the rules give it.
fn money(tally: &Tally, want: &BTreeMap<AccountId, AccountEnd>) -> anyhow::Result<()> {
    for (account, end) in want {
        let found = tally.account(*account).cloned().unwrap_or_default();
        for kind in LedgerKind::ALL.iter().filter(|kind| **kind != LedgerKind::Correction) {
            let want = end.sums.get(kind).copied().unwrap_or(0);
            // Energy rated again stands in a kind of its own; the model sums all at the end.
            let again = if *kind == LedgerKind::Energy { LedgerKind::Correction } else { *kind };
            let again = if again == *kind { 0 } else { found.kind(again).1 };
            let found = found.kind(*kind).1 + again;
            ensure!(
                want == found,
                "I1: account {account}, {kind:?}: the rules give {want} ticks, the node {found}"
            );
        }
        ensure!(end.balance == found.balance_ticks, "I1: account {account}: balance");
    }
    let known: BTreeSet<AccountId> = want.keys().copied().collect();
    let stranger = tally.accounts().find(|(id, _)| !known.contains(id));
    ensure!(stranger.is_none(), "I1: money of an account that nobody made: {stranger:?}");
    Ok(())
}

/// I1: every movement that no energy made is in the ledger, after the entry that calls for it.
fn moves<'a>(
    ended: &Ended,
    book: &Book,
    accounts: impl Iterator<Item = &'a AccountId>,
) -> anyhow::Result<()> {
    let is_energy = |kind| matches!(kind, LedgerKind::Energy | LedgerKind::Correction);
    let mut found: BTreeMap<AccountId, Vec<Move>> = BTreeMap::new();
    for row in ended.store.ledger.values().filter(|row| !is_energy(row.kind)) {
        let moved = Move { seq: row.seq, kind: row.kind, ticks: row.amount.ticks(), at: row.at };
        found.entry(row.account).or_default().push(moved);
    }
    for account in accounts {
        let (want, found) = (book.moves(*account), found.remove(account).unwrap_or_default());
        let first = (0..want.len().max(found.len())).find(|i| want.get(*i) != found.get(*i));
        ensure!(
            first.is_none(),
            "I1: account {account}: the rules make {:?}, the node {:?}",
            first.and_then(|index| want.get(index)),
            first.and_then(|index| found.get(index))
        );
    }
    Ok(())
}

/// I1, three ways: the log replayed without any stop gives what came through all the faults.
fn replayed(ended: &Ended, tally: &Tally) -> anyhow::Result<()> {
    let replayed = replay(&ended.disks.whole_log(), 1, &Look::default()).context("replay")?;
    ensure!(replayed.broken.is_none(), "I1: the replay's ledger breaks at {:?}", replayed.broken);
    ensure!(replayed.tally.hash() == tally.hash(), "I1: the log and ClickHouse differ");
    Ok(())
}

/// Every quarter hour is what the rules make of the accepted readings.
fn intervals(ended: &Ended, book: &Book) -> anyhow::Result<()> {
    let want = book.intervals();
    for ((meter, start), row) in &ended.store.intervals {
        let Some(end) = want.get(&(*meter, *start)) else {
            anyhow::bail!("meter {meter}: a row for {start}, where the rules give none");
        };
        let found = (row.energy.wh(), row.cost.ticks(), row.quality);
        let want = (end.energy.wh(), end.cost, end.quality);
        ensure!(
            found == want,
            "meter {meter}, {start} ({}): the rules give {want:?}, the node {found:?} at entry {}; {}",
            start.0,
            row.rev,
            around(ended, *meter, *start)
        );
    }
    for ((meter, start), end) in &want {
        let is_there = ended.store.intervals.contains_key(&(*meter, *start));
        ensure!(is_there || end.may_be_absent, "meter {meter}: no row for {start} ({})", start.0);
    }
    Ok(())
}

/// The readings on which a quarter hour hangs, as ClickHouse has them: stamp, register, the entries
/// that brought and settled it, outcome.
fn around(ended: &Ended, meter: MeterId, start: UnixSeconds) -> String {
    let of_meter = |from: UnixSeconds, to: UnixSeconds| {
        let range = (meter, from, Seq(0))..=(meter, to, Seq(u64::MAX));
        ended.store.readings.range(range).map(|((_, at, seq), (settled_by, reading, outcome))| {
            let wh = reading.register.wh();
            (*outcome, format!("({} {wh} by {seq}/{settled_by} {outcome:?})", at.0))
        })
    };
    let end = start.plus(INTERVAL_S);
    let is_accepted = |row: &(Outcome, String)| row.0 == Outcome::Accepted;
    let before = of_meter(UnixSeconds(0), start).rfind(is_accepted);
    let within = of_meter(start.plus(1), end.minus(1));
    let after = of_meter(end, UnixSeconds(u32::MAX)).find(is_accepted);
    let rows: Vec<String> =
        before.into_iter().chain(within).chain(after).map(|(_, text)| text).collect();
    format!("readings {}", rows.join(" "))
}

/// An alarm is raised, then cleared, then raised.
fn alarms(ended: &Ended) -> anyhow::Result<()> {
    let mut on: BTreeMap<_, i32> = BTreeMap::new();
    let rows: BTreeSet<_> = ended
        .store
        .alarms
        .iter()
        .map(|row| (row.subject, row.code, row.seq, row.state == AlarmState::Raised))
        .collect();
    for (subject, code, _, is_raised) in rows {
        *on.entry((subject, code)).or_default() += if is_raised { 1 } else { -1 };
    }
    let odd = on.iter().find(|(_, count)| !(0..=1).contains(*count));
    ensure!(odd.is_none(), "an alarm was raised or cleared twice: {odd:?}");
    Ok(())
}
