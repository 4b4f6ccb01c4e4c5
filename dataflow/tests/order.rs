//! Order does not matter: any permutation, duplication and delay of a set of readings gives the
//! same intervals, charges, balances and completeness, and the same as a plain fold over the set.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use meter::{
    AccountId, BlockPeriod, Change, Effects, Entry, LedgerKind, MeterRecord, Money, OutboxId,
    Outcome, Power, Purchase, PurchaseId, Reading, TariffVersion, UnixSeconds,
};
use proptest::prelude::*;
use support::fold::Story;
use support::{Dice, End, Node, install, reading, record, terms, version};

const ZONE: &str = "Europe/Berlin";
/// 2026-10-24T18:00Z: a few hours on the clocks go back, and a version begins.
const START: u32 = 1_792_864_800;

/// A fleet of three meters and what they say.
#[derive(Debug)]
struct Scene {
    records: Vec<MeterRecord>,
    starts: Vec<Option<(u32, u64)>>,
    versions: Vec<TariffVersion>,
    readings: Vec<Reading>,
}

fn versions() -> Vec<TariffVersion> {
    let day = [(0, 4), (24, 3), (32, 2), (40, 1), (88, 4)];
    let first =
        version("2026-01-01", &[9000, 7000, 5283, 3000], &day, &[(0, 0), (3, 500), (6, 3000)]);
    let mut second = version(
        "2026-10-25",
        &[9500, 7100, 5300, 2900],
        &day[..3],
        &[(0, 10), (4, 450), (8, 2500)],
    );
    second.fee = Money::from_ticks(1_000_000);
    second.tax_bp = 600;
    let mut third = version("2026-10-27", &[100], &[(0, 1)], &[(0, 0), (1, 7)]);
    third.block_period = BlockPeriod::Year;
    vec![first, second, third]
}

/// Readings of `count` stamps a meter, with stamps on the grid or off, gaps, and a rollover.
fn scene(seed: u64, count: usize) -> Scene {
    let mut dice = Dice(seed);
    let mut scene =
        Scene { records: vec![], starts: vec![], versions: versions(), readings: vec![] };
    for id in 1..=3 {
        let period_s = [60, 300, 900, 900, 1800][dice.roll(5)];
        let is_off_grid = dice.roll(3) == 0;
        scene.records.push(MeterRecord { period_s, ..record(id) });
        // Now and then close to the end of a register of six digits.
        let mut wh = if dice.roll(3) == 0 { 999_999_000 } else { dice.roll(1_000_000) as u64 };
        let mut at = START + dice.roll(3) as u32 * 450;
        let is_anchored = dice.roll(2) == 0;
        scene.starts.push(is_anchored.then_some((at, wh)));
        for _ in 0..count {
            let wh_now = wh % 1_000_000_000;
            let stamp = if is_off_grid { at + dice.roll(period_s as usize / 2) as u32 } else { at };
            let power = Power::from_w(dice.roll(2000) as i32 - 500);
            if stamp >= START {
                scene.readings.push(Reading { power, ..reading(id, stamp, wh_now) });
            }
            let steps = if dice.roll(6) == 0 { 1 + dice.roll(40) as u32 } else { 1 };
            at = (at / period_s + steps) * period_s;
            // Up to 10 kW, less than a meter of 69 kW may carry in half a period.
            wh += (0..steps)
                .map(|_| dice.roll(period_s as usize * 10 / 3600 + 2) as u64)
                .sum::<u64>();
        }
        let mut stamps: Vec<_> = scene.readings.iter().filter(|r| r.meter.0 == id).collect();
        stamps.sort_by_key(|r| r.taken_at);
        assert!(stamps.windows(2).all(|w| w[0].taken_at < w[1].taken_at));
    }
    // A meter's base that a reading contradicts would be a conflict.
    for (start, id) in scene.starts.iter_mut().zip(1..) {
        let first = scene.readings.iter().filter(|r| r.meter.0 == id).min_by_key(|r| r.taken_at);
        *start = start.zip(first).map(|(_, r)| (r.taken_at.0, r.register.wh()));
        if seed.is_multiple_of(2) {
            // The installation comes before the first reading.
            *start = start.map(|(at, wh)| (at - 1000, wh));
        }
    }
    scene
}

fn set_up(node: &mut Node, scene: &Scene) {
    node.change(scene.versions.iter().cloned().map(Change::Tariff).collect());
    for (record, start) in scene.records.iter().zip(&scene.starts) {
        let id = record.meter.0;
        let at = start.map_or(START - 4000, |(at, _)| at);
        node.change(vec![
            Change::Meter(*record),
            Change::Account(terms(id, ZONE)),
            install(id, at, start.map(|(_, wh)| wh)),
        ]);
    }
}

fn purchase(n: u64, account: u32) -> Change {
    Change::Purchase(Purchase {
        purchase: PurchaseId(n),
        account: AccountId(account),
        paid: Money::from_ticks(123_450_000),
        at: UnixSeconds(START + 90_000),
    })
}

/// Everything that is fed: shuffled readings with some twice, purchases and ticks between.
fn script(scene: &Scene, order: u64) -> Vec<Entry> {
    let mut dice = Dice(order);
    let mut readings = scene.readings.clone();
    let twice: Vec<_> = readings.iter().filter(|_| dice.roll(5) == 0).copied().collect();
    readings.extend(twice);
    match order % 3 {
        0 => readings.sort_by_key(|r| (r.taken_at, r.meter)),
        1 => dice.shuffle(&mut readings),
        // Nearly in order: each swapped with one not far away.
        _ => {
            readings.sort_by_key(|r| (r.taken_at, r.meter));
            for i in 0..readings.len() {
                let other = (i + dice.roll(12)).min(readings.len() - 1);
                readings.swap(i, other);
            }
        }
    }
    let mut entries: Vec<Entry> = readings.into_iter().map(Entry::Reading).collect();
    for n in 1..=3 {
        let changes = Box::new([purchase(n, n as u32)]);
        let at = dice.roll(entries.len() + 1);
        entries.insert(at, Entry::Changes { outbox: OutboxId(0), changes });
    }
    let mut tick = START;
    for at in 0..entries.len() {
        if dice.roll(20) == 0 {
            tick += dice.roll(20_000) as u32;
            entries.insert(at, Entry::Tick(UnixSeconds(tick)));
        }
    }
    // Outbox ids ascend in the log.
    let mut outbox = 100;
    for entry in &mut entries {
        if let Entry::Changes { outbox: id, .. } = entry {
            outbox += 1;
            *id = OutboxId(outbox);
        }
    }
    entries.push(Entry::Tick(UnixSeconds(START + 90 * 86_400)));
    entries
}

/// Feeds a script in batches of random size; answers recalls early or late.
fn play(node: &mut Node, entries: &[Entry], order: u64) {
    let mut dice = Dice(order ^ 77);
    let mut left = entries;
    while !left.is_empty() {
        let (batch, rest) = left.split_at((1 + dice.roll(60)).min(left.len()));
        left = rest;
        node.answers = dice.roll(2) == 0;
        node.feed(batch.to_vec());
    }
    node.answers = true;
    node.feed(vec![]);
    let Some(Entry::Tick(last)) = entries.last() else { panic!("a script ends with a tick") };
    node.tick(last.0 + 60);
}

fn run(scene: &Scene, order: u64, workers: usize) -> Node {
    let mut node = Node::start(workers);
    set_up(&mut node, scene);
    play(&mut node, &script(scene, order), order);
    node
}

fn check_against_fold(scene: &Scene, node: &Node, case: &str) {
    let end = node.end();
    for (record, start) in scene.records.iter().zip(&scene.starts) {
        let id = record.meter;
        let readings: Vec<Reading> =
            scene.readings.iter().filter(|r| r.meter == id).copied().collect();
        let story = Story {
            readings: &readings,
            start: *start,
            period_s: record.period_s,
            modulus: 1_000_000_000,
            zone: ZONE,
            versions: &scene.versions,
        };
        let want = story.fold();
        let rows = end.intervals.range((id, UnixSeconds(0))..=(id, UnixSeconds(u32::MAX)));
        let got: BTreeMap<u32, _> = rows.map(|((_, start), row)| (start.0, row)).collect();
        let keys: Vec<_> = got.keys().collect();
        assert_eq!(keys, want.intervals.keys().collect::<Vec<_>>(), "{case}, meter {id}");
        for (start, want) in &want.intervals {
            let row = got[start];
            let seen = support::fold::Interval {
                energy: row.energy.wh(),
                register: row.register.wh(),
                quality: row.quality,
                samples: row.samples,
                rate: row.rate,
                cost: row.cost.ticks(),
                power: (row.power.average.w(), row.power.min.w(), row.power.max.w()),
            };
            assert_eq!(&seen, want, "{case}, meter {id}, interval {start}");
        }
        let account = AccountId(id.0);
        let energy = end.sums.get(&(account, LedgerKind::Energy)).copied().unwrap_or(0);
        assert_eq!(-energy, want.charge_ticks, "{case}, meter {id}");
        let total: i64 =
            end.sums.iter().filter(|((a, _), _)| *a == account).map(|(_, ticks)| ticks).sum();
        let (balance, newest, complete_through) = end.stands[&(account, id)];
        assert_eq!(balance.ticks(), total, "{case}, meter {id}");
        assert_eq!(newest.0, want.newest, "{case}, meter {id}");
        assert_eq!(complete_through.0, want.complete_through, "{case}, meter {id}");
        let gaps = end.gaps.range((id, UnixSeconds(0))..=(id, UnixSeconds(u32::MAX)));
        let gaps: Vec<_> = gaps.map(|((_, from), (to, n))| (from.0, to.0, *n)).collect();
        assert_eq!(gaps, want.gaps, "{case}, meter {id}");
    }
}

fn check_outcomes(scene: &Scene, node: &Node, case: &str) {
    let accepted = node.count(|o| *o == Outcome::Accepted);
    let duplicates = node.count(|o| *o == Outcome::Duplicate);
    assert_eq!(accepted, scene.readings.len(), "{case}: {:?}", strange(node));
    assert_eq!(accepted + duplicates, node.outcomes.len(), "{case}: {:?}", strange(node));
}

fn strange(node: &Node) -> Vec<&Outcome> {
    node.outcomes
        .values()
        .filter(|o| !matches!(o, Outcome::Accepted | Outcome::Duplicate))
        .collect()
}

fn check_ledger(effects: &Effects, case: &str) {
    let mut stands: BTreeMap<AccountId, (u64, i64)> = BTreeMap::new();
    for row in &effects.ledger {
        let (number, balance) = stands.entry(row.account).or_default();
        *number += 1;
        *balance += row.amount.ticks();
        assert_eq!((row.number, row.balance.ticks()), (*number, *balance), "{case}: {row:?}");
        assert_ne!(row.amount, Money::ZERO, "{case}: {row:?}");
    }
}

/// The same set in two orders: the same end, and what the fold says.
fn check(seed: u64, count: usize, orders: [u64; 2]) {
    let scene = scene(seed, count);
    let ends: Vec<End> = orders
        .into_iter()
        .map(|order| {
            let node = run(&scene, order, 1);
            let case = format!("seed {seed} count {count} order {order}");
            check_outcomes(&scene, &node, &case);
            check_ledger(&node.all, &case);
            check_against_fold(&scene, &node, &case);
            node.end()
        })
        .collect();
    assert_eq!(ends[0], ends[1], "seed {seed} count {count} orders {orders:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn any_order_gives_the_same_books(seed in 0_u64..1 << 40, count in 2_usize..70, order in 0_u64..1 << 40) {
        check(seed, count, [order * 3, order * 3 + 1 + order % 2]);
    }

    #[test]
    fn workers_and_snapshots_change_nothing(seed in 0_u64..1 << 40, count in 2_usize..40, order: u32, cut in 0_usize..40) {
        let (scene, order) = (scene(seed, count), u64::from(order));
        let alone = run(&scene, order, 1);
        let mut pair = run(&scene, order, 2);
        prop_assert_eq!(&alone.all, &pair.all);
        let mut alone = alone;
        let bytes = alone.engine.snapshot().unwrap();
        prop_assert!(bytes == pair.engine.snapshot().unwrap(), "equal states have equal bytes");

        // The same log again, with a stop after any of its batches.
        let mut cut_node = Node::start(2);
        set_up(&mut cut_node, &scene);
        let entries = script(&scene, order);
        let cut = cut.min(entries.len());
        cut_node.feed(entries[..cut].to_vec());
        let saved = cut_node.engine.snapshot().unwrap();
        let mut resumed = Node::resume(1, Some(&saved));
        prop_assert_eq!(resumed.engine.position(), cut_node.engine.position());
        prop_assert!(resumed.engine.snapshot().unwrap() == saved, "restored state has the same bytes");
        resumed.store = cut_node.store.clone();
        let rest = &entries[cut..];
        let (mut a, mut b) = (Effects::default(), Effects::default());
        std::mem::swap(&mut cut_node.all, &mut a);
        drop(a);
        cut_node.feed(rest.to_vec());
        resumed.feed(rest.to_vec());
        std::mem::swap(&mut resumed.all, &mut b);
        prop_assert_eq!(&b, &cut_node.all);
        prop_assert!(resumed.engine.snapshot().unwrap() == cut_node.engine.snapshot().unwrap());
    }
}

#[test]
fn a_few_fixed_scenes() {
    for seed in 0..12 {
        check(seed, 40, [seed * 3, seed * 3 + 1]);
    }
}
