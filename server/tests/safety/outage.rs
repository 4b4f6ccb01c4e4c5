//! F6: ClickHouse is killed in the middle of inserts, hangs, and comes back, while the week goes
//! on. Readings are acknowledged all the same, the rows wait on disk, and the end is right.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::place::{Demo, api, pause, verify, weeks};

/// The embedded engine: the child of the node's process.
fn engine_of(node: u64) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{node}/task/{node}/children")).ok();
    let by_any_thread = || {
        let tasks = fs::read_dir(format!("/proc/{node}/task")).ok()?;
        let lists = tasks.flatten().filter_map(|task| {
            fs::read_to_string(task.path().join("children")).ok().filter(|list| !list.is_empty())
        });
        lists.into_iter().next()
    };
    let list = children.filter(|list| !list.is_empty()).or_else(by_any_thread)?;
    Pid::from_raw(list.split_whitespace().next()?.parse().ok()?)
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the outage has a length")]
fn clickhouse_dies_and_hangs_and_readings_go_on() {
    let Some(rounds) = weeks() else { return };
    let folder = tempfile::tempdir().unwrap();
    let demo_folder = folder.path().join("demo");
    let seconds = (rounds * 30).clamp(180, 86_400).to_string();
    let mut demo = Demo::start(&demo_folder, &["--seconds", &seconds, "--seed", "41"]);
    let report = demo.wait_ready();
    let node = report["node"]["pid"].as_u64().unwrap();
    let (address, bearer) = api(&report);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let metrics = || -> Option<(u64, u64)> {
        let headers = [("authorization", bearer.as_str())];
        let call =
            server::http::Call { method: "GET", path: "/metrics", headers: &headers, body: vec![] };
        let text = runtime.block_on(server::http::send(address, call)).ok()?;
        let text = String::from_utf8(text.to_vec()).ok()?;
        let value = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            line.parse().ok()
        };
        Some((value("meterd_ingest_acks_total")?, value("meterd_sink_lag_entries")?))
    };
    while metrics().is_none_or(|(acks, _)| acks < 1000) {
        assert!(!demo.has_ended(), "the demonstration ended early");
        pause();
    }
    for round in 0..rounds {
        let before = metrics().unwrap();
        let engine = engine_of(node).expect("the engine runs");
        // It hangs with a request under way, then dies without a word, and is started again.
        kill_process(engine, Signal::STOP).unwrap();
        let stopped = Instant::now();
        let mut held = before;
        while stopped.elapsed() < Duration::from_secs(4) {
            held = metrics().unwrap();
            pause();
        }
        println!(
            "F6 round {round}: ClickHouse hung for 4 s: {} acknowledgements meanwhile, {} entries \
             behind at the end",
            held.0 - before.0,
            held.1
        );
        assert!(held.0 > before.0, "readings are acknowledged while ClickHouse hangs");
        if round % 2 == 0 {
            kill_process(engine, Signal::KILL).unwrap();
        } else {
            kill_process(engine, Signal::CONT).unwrap();
        }
        let mended = Instant::now();
        while metrics().is_some_and(|(_, lag)| lag > 2000) && !demo.has_ended() {
            pause();
        }
        println!("F6 round {round}: caught up after {:.1} s", mended.elapsed().as_secs_f64());
    }
    demo.finish();
    println!("{}", verify(&demo_folder, &[]));
}
