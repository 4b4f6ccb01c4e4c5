//! The rows of the table: what each bench gave, in one shape.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::simulated::{self, Simulated};
use crate::{connections, memory, restart, tcp};

/// A figure that a busy moment spoils is the median of so many runs.
const RUNS: usize = 5;

type Row = Result<Value, Box<dyn Error>>;

/// How big the benches are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Size {
    /// As the table demands.
    Full,
    /// A tenth or less, to see that the benches run.
    Small,
}

impl Size {
    /// From the environment: `SIZE=small`.
    #[must_use]
    pub fn from_environment() -> Self {
        let is_small = std::env::var("SIZE").is_ok_and(|size| size == "small");
        if is_small { Self::Small } else { Self::Full }
    }

    /// `full`, or `small`.
    #[must_use]
    pub fn of<T>(self, full: T, small: T) -> T {
        match self {
            Self::Full => full,
            Self::Small => small,
        }
    }
}

/// Measures a row.
type Bench = fn(Size) -> Row;

/// The rows of one node end to end.
const OF_A_NODE: [(&str, Bench); 8] = [
    ("tcp_gateway", tcp_gateway),
    ("memory_per_connection", per_connection),
    ("memory_per_virtual_meter", per_virtual_meter),
    ("memory_per_meter", per_meter),
    ("idle_rss", idle),
    ("aligned_100k", aligned),
    ("freshness_p99", freshness),
    ("restart_1m", restart),
];

/// Rows of one node end to end: those that are wanted, with `say` for a line each.
///
/// # Errors
/// A bench could not run, or its result was wrong.
pub fn of_a_node(
    size: Size,
    wants: &dyn Fn(&str) -> bool,
    say: &dyn Fn(&str),
) -> Result<Vec<Value>, Box<dyn Error>> {
    let mut rows = Vec::new();
    for (_, bench) in OF_A_NODE.iter().filter(|(name, _)| wants("node") || wants(name)) {
        let row = bench(size)?;
        let ratio = row["ratio"].as_f64().map_or_else(String::new, |r| format!("  ratio {r:.3}"));
        say(&format!("{}: {} {}{ratio}", row["name"], row["value"], row["unit"]));
        rows.push(row);
    }
    Ok(rows)
}

fn tcp_gateway(size: Size) -> Row {
    let load =
        size.of(tcp::Load { gateways: 3125, frames: 20 }, tcp::Load { gateways: 125, frames: 20 });
    let mut reports = Vec::new();
    for _ in 0..RUNS {
        reports.push(tcp::run(load, &fresh("target/bench-tcp-log")?)?);
    }
    let lost: u64 = reports.iter().map(|report| report.lost).sum();
    reports.sort_by(|one, other| one.ratio().total_cmp(&other.ratio()));
    let report = reports[RUNS / 2];
    Ok(json!({
        "name": "tcp_gateway", "value": report.node_per_s, "unit": "readings/s",
        "limit": format!("bare mio reader of the same bytes, {}/s", report.bare_per_s),
        "ratio": report.ratio(), "must": 0.3, "aim": 0.55, "runs": RUNS, "lost": lost,
        "least": reports[0].ratio(), "greatest": reports[RUNS - 1].ratio(),
    }))
}

/// One stamp of all meters within a second, on a node of its own.
fn aligned(size: Size) -> Row {
    let meters = size.of("100000", "5000");
    let run = Simulated::run(&[
        "--shape",
        "aligned",
        "--meters",
        meters,
        "--period",
        "900",
        "--pace",
        "900",
        "--seconds",
        "1",
    ])?;
    Ok(json!({
        "name": "aligned_100k", "value": run.queryable_s(), "unit": "s until queryable",
        "limit": null, "ratio": null, "must": 10, "aim": 3, "runs": 1,
        "kernel_drops": run.kernel_drops(), "meters": meters,
    }))
}

/// A reading a second of each meter, for some seconds.
fn each_second(meters: &str, size: Size) -> Result<Simulated, Box<dyn Error>> {
    let seconds = size.of("10", "5");
    let pace = ["--period", "1", "--pace", "1", "--seconds", seconds];
    Simulated::run(&[&["--meters", meters][..], &pace].concat())
}

/// Readings a second that this machine's simulator and node reach together over UDP, ClickHouse
/// included.
///
/// # Errors
/// The simulation fails.
pub fn most(size: Size) -> Result<f64, Box<dyn Error>> {
    Ok(each_second(size.of("100000", "2000"), size)?.readings_per_s())
}

/// At half of the most.
fn freshness(size: Size) -> Row {
    let most = most(size)?;
    let half = format!("{:.0}", most / 2.0);
    let run = each_second(&half, size)?;
    Ok(json!({
        "name": "freshness_p99", "value": run.fresh_p99_ms(), "unit": "ms",
        "limit": format!("{most:.0} readings/s at most"), "ratio": null, "must": 250, "aim": 50,
        "runs": 1, "readings_per_s": half,
    }))
}

fn per_meter(size: Size) -> Row {
    let (least, most) = size.of((100_000, 1_000_000), (10_000, 100_000));
    let bytes = memory::per_meter(least, most)?;
    Ok(json!({
        "name": "memory_per_meter", "value": bytes, "unit": "bytes", "limit": null,
        "ratio": null, "must": 1024, "aim": 512, "runs": 1, "meters": most,
    }))
}

/// 10 M virtual meters must fit in 8 GB.
fn per_virtual_meter(size: Size) -> Row {
    let (least, most) = size.of((100_000, 1_000_000), (10_000, 100_000));
    let bytes = memory::per_virtual_meter(least, most)?;
    Ok(json!({
        "name": "memory_per_virtual_meter", "value": bytes, "unit": "bytes", "limit": null,
        "ratio": null, "must": 800, "aim": 400, "runs": 1, "meters": most,
    }))
}

fn per_connection(size: Size) -> Row {
    let count = size.of(19_000, 1_900);
    let bytes = connections::memory(count, &fresh("target/bench-connections")?)?;
    Ok(json!({
        "name": "memory_per_connection", "value": bytes, "unit": "bytes", "limit": null,
        "ratio": null, "must": 4096, "aim": 1024, "runs": 1, "connections": count,
    }))
}

fn idle(_: Size) -> Row {
    let mb = simulated::idle_rss()? as f64 / 1e6;
    Ok(json!({
        "name": "idle_rss", "value": mb, "unit": "MB", "limit": null, "ratio": null,
        "must": 100, "aim": 60, "runs": 1,
    }))
}

/// A start behind a tail of the log.
fn restart(size: Size) -> Row {
    let meters = size.of(1_000_000, 10_000);
    let report = restart::run(meters, &fresh("target/bench-restart")?)?;
    Ok(json!({
        "name": "restart_1m", "value": report.took.as_secs_f64(), "unit": "s until serving",
        "limit": null, "ratio": null, "must": 20, "aim": 5, "runs": 1, "meters": meters,
        "tail": report.tail,
    }))
}

/// A folder that is not there.
fn fresh(folder: &str) -> std::io::Result<PathBuf> {
    let folder = Path::new(folder);
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(folder.to_owned())
}
