//! What is held of a meter's samples, where more would be needed: rows that wait for a tick keep
//! theirs, and the store is asked no more than it must be.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use meter::{Change, MeterRecord, Outcome, QuarantineReason, Reading};
use support::{Node, install, reading, record, terms, version};

/// 2026-11-02T00:00:00Z.
const START: u32 = 1_793_577_600;
/// Seconds between readings, and how far their stamps are off the quarter hour.
const PERIOD_S: u32 = 300;
const OFF_S: u32 = 125;

fn node() -> Node {
    let mut node = Node::start(1);
    node.change(vec![
        Change::Tariff(version("2026-01-01", &[5000], &[(0, 1)], &[(0, 0)])),
        Change::Meter(MeterRecord { period_s: PERIOD_S, ..record(1) }),
        Change::Account(terms(1, "UTC")),
        install(1, START, Some(0)),
    ]);
    node
}

/// A load that no two stretches share.
fn nth(n: u32) -> Reading {
    reading(1, START + OFF_S + n * PERIOD_S, u64::from(n * (n + 7)) / 3)
}

/// A late reading parts a long stretch, whose rows wait for a tick, while more is held than should
/// be: the first of those rows begins before the reading, and needs the one before it as well.
#[test]
fn rows_that_wait_keep_all_that_they_follow_from() {
    let late = nth(6);
    // A gap in front of each reading from the long stretch on.
    let others: Vec<Reading> =
        [0, 1, 2].into_iter().chain((0..300).map(|n| 36 + 2 * n)).map(nth).collect();
    let end = START + 100 * 86_400;
    let mut in_order = node();
    let mut sorted = others.clone();
    sorted.push(late);
    sorted.sort_by_key(|reading| reading.taken_at);
    in_order.read(&sorted);
    in_order.tick(end);
    let mut out_of_order = node();
    out_of_order.read(&others);
    out_of_order.read(&[late]);
    assert!(!out_of_order.all.recalls.is_empty(), "the late reading has to ask the store");
    out_of_order.tick(end);
    let (want, found) = (in_order.end(), out_of_order.end());
    let key = (late.meter, late.taken_at.interval_start());
    assert_eq!(found.intervals.get(&key).unwrap(), want.intervals.get(&key).unwrap());
    assert_eq!(found, want);
}

/// A reading far from all that is held asks about itself, not about all since the oldest open gap:
/// the answer is an entry of the log, and must stay small.
#[test]
fn a_question_reaches_no_further_than_the_reading_needs() {
    let mut node = node();
    // A gap at the start is held for good; two weeks without one follow.
    let all: Vec<Reading> = [0, 1, 2].into_iter().chain(20..4000).map(nth).collect();
    node.read(&all);
    let known = nth(3000);
    let conflict = Reading { register: nth(3001).register, ..known };
    node.read(&[conflict]);
    let [recall] = node.all.recalls[..] else { panic!("one question") };
    assert!(recall.from <= known.taken_at && known.taken_at <= recall.to);
    assert!(recall.to.since(recall.from) <= 4 * 900, "{recall:?}");
    let conflicting = Outcome::Quarantined(QuarantineReason::Conflict);
    assert_eq!(node.count(|outcome| *outcome == conflicting), 1);
}
