//! The invariants of docs/safety.md, after a story: what the log, ClickHouse and the plain model of
//! the rules say must be one and the same.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use loadgen::truth::Book;
use meter::{
    AccountId, AlarmState, Cause, Change, Entry, INTERVAL_S, LedgerKind, MeterId, Mode, Money,
    OrderKind, OrderState, Outcome, QuarantineReason, Reading, Seq, UnixSeconds,
};
use storage::log::Batches;

use super::story::{Ended, OrderStep};
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
    let book = model(ended, &log);
    outcomes(ended, &log, &book)?;
    let tally = ledger(ended)?;
    purchases(ended)?;
    money(&tally, &book)?;
    replayed(ended, &tally)?;
    intervals(ended, &book)?;
    orders(ended)?;
    alarms(ended)
}

/// All entries, from the first.
fn entries(ended: &Ended) -> anyhow::Result<Vec<Entry>> {
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

/// The same log by the plain rules.
fn model(ended: &Ended, log: &[Entry]) -> Book {
    let full = Outcome::Quarantined(QuarantineReason::ParkingFull);
    let rows = ended.store.readings.iter().filter(|(_, (_, _, outcome))| *outcome == full);
    let turned_away: BTreeSet<Seq> = rows.map(|((_, _, seq), _)| *seq).collect();
    let mut book = Book::default();
    for (entry, seq) in log.iter().zip(1..) {
        book.enter(Seq(seq), entry, &turned_away);
    }
    book
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
fn purchases(ended: &Ended) -> anyhow::Result<()> {
    let mut found: BTreeMap<u64, (u32, i64)> = BTreeMap::new();
    for row in ended.store.ledger.values().filter(|row| row.kind == LedgerKind::Purchase) {
        let Cause::Purchase(id) = row.cause else { continue };
        let entry = found.entry(id).or_default();
        *entry = (entry.0 + 1, entry.1 + row.amount.ticks());
    }
    let mut told = 0;
    for change in ended.told.iter().flat_map(|(_, changes)| changes) {
        let Change::Purchase(purchase) = change else { continue };
        told += 1;
        let (id, want) = (purchase.purchase.0, (1, purchase.paid.ticks()));
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
fn money(tally: &Tally, book: &Book) -> anyhow::Result<()> {
    let want = book.accounts();
    for (account, end) in &want {
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

/// I8: nobody is cut off whose balance and overdraft hold, a decision is sent once, and whoever has
/// paid up in the end is not left without supply.
fn orders(ended: &Ended) -> anyhow::Result<()> {
    let mut stood: BTreeMap<AccountId, Vec<(Seq, Money)>> = BTreeMap::new();
    for row in ended.store.ledger.values() {
        stood.entry(row.account).or_default().push((row.seq, row.balance));
    }
    let (mut terms, mut ended_meters) = (BTreeMap::new(), BTreeSet::new());
    for change in ended.told.iter().flat_map(|(_, changes)| changes) {
        if let Change::Account(new) = change {
            terms.insert(new.account, (new.mode, new.overdraft.ticks()));
        } else if let Change::Remove(removal) = change {
            ended_meters.insert(AccountId(removal.meter.0 % 1000));
        }
    }
    let (mut told, mut relays) = (BTreeSet::new(), BTreeMap::new());
    for step in &ended.orders {
        let OrderStep { seq, order, state, attempt, account, kind, balance } = *step;
        ensure!(
            told.insert((order, state, attempt)),
            "I8: order {order} took a step twice: {step:?}"
        );
        let rows = stood.get(&account).map_or(&[][..], Vec::as_slice);
        // An entry may move the balance more than once, and decide in between.
        let before = rows.partition_point(|(at, _)| *at < seq);
        let through = rows.partition_point(|(at, _)| *at <= seq);
        let stands = rows[before.saturating_sub(1)..through].iter().any(|row| row.1 == balance);
        ensure!(stands || through == 0, "I8: {step:?} on another balance than the ledger's");
        let (mode, overdraft) = terms.get(&account).copied().unwrap_or((Mode::Postpaid, 0));
        let is_cut = kind == OrderKind::Disconnect.code()
            && (state == OrderState::Sent.code()
                || state == OrderState::Decided.code() && attempt == 0);
        let is_overdrawn = balance.ticks() + overdraft < 0;
        ensure!(
            !is_cut || mode == Mode::Prepaid && is_overdrawn,
            "I8: {step:?} cuts a customer who paid"
        );
        if state == OrderState::Done.code() {
            relays.insert(account, kind);
        }
    }
    let is_cut = |kind: &u8| *kind == OrderKind::Disconnect.code();
    for (account, _) in relays.into_iter().filter(|(_, kind)| is_cut(kind)) {
        let balance =
            stood.get(&account).and_then(|rows| rows.last()).map_or(0, |row| row.1.ticks());
        let is_owing = balance < 0 || ended_meters.contains(&account);
        ensure!(
            is_owing,
            "I8: account {account} has paid up to {balance} ticks and is left cut off"
        );
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use meter::Energy;

    use super::super::options::Options;
    use super::super::story::Story;
    use super::*;

    fn told() -> Ended {
        let options = Options { meters: 2, days: 3, workers: 1, ..Options::derive(5) };
        Story::new(&options).tell().unwrap()
    }

    /// The campaign can fail: one wrong effect of any kind is seen.
    #[test]
    fn every_wrong_effect_is_seen() {
        check(&told()).unwrap();
        type Spoil = fn(&mut Ended);
        let spoils: [(&str, Spoil); 9] = [
            ("a tick too much", |ended| {
                let row = ended.store.ledger.values_mut().next_back().unwrap();
                row.amount = row.amount.plus(Money::from_ticks(1)).unwrap();
                row.balance = row.balance.plus(Money::from_ticks(1)).unwrap();
            }),
            ("a movement lost", |ended| {
                let key = *ended.store.ledger.keys().next().unwrap();
                ended.store.ledger.remove(&key);
            }),
            ("a purchase twice", |ended| {
                let mut rows = ended.store.ledger.values();
                let row = *rows.clone().find(|row| row.kind == LedgerKind::Purchase).unwrap();
                let last = *rows.rfind(|other| other.account == row.account).unwrap();
                let number = last.number + 1;
                let balance = last.balance.plus(row.amount).unwrap();
                let again = meter::LedgerRow { number, balance, ..row };
                ended.store.ledger.insert((row.account, number), again);
            }),
            ("a reading lost", |ended| {
                let key = *ended.store.readings.keys().next_back().unwrap();
                ended.store.readings.remove(&key);
            }),
            ("a reading turned away", |ended| {
                let row = ended.store.readings.values_mut().next_back().unwrap();
                row.2 = Outcome::Quarantined(QuarantineReason::Spike);
            }),
            ("a watt-hour moved", |ended| {
                let row = ended.store.intervals.values_mut().next().unwrap();
                row.energy = Energy::from_wh(row.energy.wh() + 1);
            }),
            ("an interval lost", |ended| {
                let key = *ended.store.intervals.keys().next().unwrap();
                ended.store.intervals.remove(&key);
            }),
            ("a customer cut off who paid", |ended| {
                let last = ended.store.ledger.values().next_back().unwrap();
                let (seq, account) = (Seq(u64::MAX - 1), last.account);
                let order = meter::OrderId::new(account, 9999);
                let balance = last.balance.plus(Money::from_ticks(1)).unwrap();
                let (state, kind) = (OrderState::Sent.code(), OrderKind::Disconnect.code());
                let step = OrderStep { seq, order, state, attempt: 1, account, kind, balance };
                ended.orders.insert(step);
            }),
            ("rows that contradict", |ended| ended.store.contradictions.push("x".to_owned())),
        ];
        for (name, spoil) in spoils {
            let mut ended = told();
            spoil(&mut ended);
            assert!(check(&ended).is_err(), "{name} is not seen");
        }
    }
}
