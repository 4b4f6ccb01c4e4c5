//! F24: a worker of the dataflow that panics, and one that hangs. The process ends with a code that is
//! not zero and says why; started again it replays, and the books are as they were.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use meter::{BlockPeriod, Change, Current, Entry, MeterRecord, OutboxId, Voltage};
use storage::log::{Config, Directory, Durability, NewBatch, SegmentLog, Urgency, WritePath};

use crate::backup::copy;
use crate::books::{install, reading, record, terms, version};
use crate::place::{Serve, meterd, said};

/// 2026-11-02T00:00:00Z.
const START: u32 = 1_793_577_600;
/// A year's beginning, and 83 days.
const NEW_YEAR: u32 = START + 60 * 86_400;
const STEP: u32 = 7_200_000;

/// Entries that no registry and no meter gives: energy that leaves 63 bits within one block period.
fn poison() -> Vec<Entry> {
    let mut yearly = version("2026-01-01", &[1], &[(0, 1)], &[(0, 0)]);
    (yearly.plan, yearly.block_period) = (meter::PlanId(9), BlockPeriod::Year);
    let (current_max, voltage_nominal) = (Current::from_ma(u32::MAX), Voltage::from_mv(u32::MAX));
    let giant = MeterRecord { current_max, voltage_nominal, phases: 255, ..record(9) };
    let mut account = terms(9, "UTC");
    account.plan = yearly.plan;
    let changes = [
        Change::Tariff(yearly),
        Change::Meter(giant),
        Change::Account(account),
        install(9, NEW_YEAR, Some(0)),
    ];
    let outbox = OutboxId(1_000_000);
    vec![
        Entry::Changes { outbox, changes: Box::new(changes) },
        Entry::Reading(reading(9, NEW_YEAR + STEP, u64::MAX / 2)),
        Entry::Reading(reading(9, NEW_YEAR + 2 * STEP, u64::MAX - 1)),
    ]
}

/// Appends entries to a stopped node's log.
fn append(data: &Path, entries: &[Entry]) {
    let disk = Directory::open(&data.join("log"), WritePath::Buffered).unwrap();
    let config = Config {
        segment_size_bytes: 1 << 20,
        reserve_segments: 2,
        spares_max: 4,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    };
    let (mut log, _) = SegmentLog::open(Arc::new(disk), config, 0).unwrap();
    let mut payload = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut payload));
    let count = u32::try_from(entries.len()).unwrap();
    let (kind, slot_group, urgency) = (1, 0, Urgency::Routine);
    log.append(NewBatch { count, payload: &payload, kind, slot_group, urgency }).unwrap();
    log.commit().unwrap();
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the figures are times")]
fn a_worker_that_panics_ends_the_process_and_spoils_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut node = Serve::start(folder.path(), "");
    node.register();
    node.top_up("before", "7.00").unwrap();
    node.kill();
    let kept = folder.path().join("kept");
    copy(&data, &kept);
    append(&data, &poison());
    for start in 1..=2 {
        let mut serve = meterd();
        serve.args(["serve".as_ref(), "--config".as_ref(), node.settings().as_os_str()]);
        let began = Instant::now();
        let output = serve.output().unwrap();
        assert!(output.status.code().is_some_and(|code| code != 0), "{:?}", output.status);
        let said = said(&output);
        assert!(said.contains("of the dataflow stopped") && said.contains("overflow"), "{said}");
        println!("F24: start {start} ended with {} after {:?}", output.status, began.elapsed());
    }
    // The segment from the backup, as the operations page says.
    fs::remove_dir_all(data.join("log")).unwrap();
    copy(&kept.join("log"), &data.join("log"));
    let began = Instant::now();
    node.restart();
    println!("F24: with the good log ready after {:?}", began.elapsed());
    assert_eq!(node.balance(), "7.0000000");
    println!("{}", node.stop_and_verify());
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the figures are times")]
fn a_worker_that_hangs_is_ended_by_the_watchdog() {
    let folder = tempfile::tempdir().unwrap();
    let mut node = Serve::start(folder.path(), "[books]\nworkers = 1\nstuck_s_max = 2\n");
    node.register();
    node.top_up("before", "7.00").unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/safety/stop_thread.py");
    let mut tracer = Command::new("python3");
    let tracer = tracer.arg(script).args([&node.pid().to_string(), "timely:work-0"]);
    let Ok(mut tracer) = tracer.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn() else {
        println!("skipped: no python3 to stop a thread with");
        return;
    };
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.trim() != "stopped" {
        println!("skipped: a thread of another process may not be stopped here");
        drop(tracer.wait());
        return;
    }
    let began = Instant::now();
    let ended = node.wait();
    let took = began.elapsed();
    assert!(!ended.success() && took.as_secs() >= 1, "{ended} after {took:?}");
    drop(tracer.wait());
    let began = Instant::now();
    node.restart();
    println!(
        "F24: a worker hangs: {ended} after {took:?}, ready again {:?} later",
        began.elapsed()
    );
    assert_eq!(node.balance(), "7.0000000");
    println!("{}", node.stop_and_verify());
}
