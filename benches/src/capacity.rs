//! What a buyer asks: how many meters one node carries. The rows of `docs/performance.md`, one after
//! another, each a `meterd simulate` with its checks.

use std::error::Error;

use serde_json::Value;

use crate::rows::Size;
use crate::simulated::Simulated;

/// A row: its name, the arguments of `meterd simulate` but meters and duration, the meters in full and in
/// small, and the seconds in full and at least: each meter must read once.
struct Plan {
    name: &'static str,
    arguments: &'static str,
    meters: (u32, u32),
    seconds: (u32, u32),
}

const PLANS: [Plan; 8] = [
    plan("15 min, 120 times as fast", "", (100_000, 2000), (30, 8)),
    plan("15 min, real time", "--pace 1 --period 900", (1_000_000, 10_000), (1800, 900)),
    plan("1 min", "--pace 1 --period 60", (100_000, 2000), (300, 60)),
    plan("5 s", "--pace 1 --period 5", (100_000, 2000), (120, 5)),
    plan("1 s", "--pace 1 --period 1", (50_000, 2000), (60, 5)),
    plan("all at the quarter hour", "--shape aligned --pace 900", (100_000, 2000), (1, 1)),
    plan("gateways cut and back", "--shape storm", (100_000, 2000), (30, 8)),
    plan(OLD_DAYS, "--shape backfill", (64_000, 640), (300, 8)),
];

/// The row that takes longest, with 184 million old readings: days have their share too.
const OLD_DAYS: &str = "gateways with old days";
const OLD_DAYS_MAX: u32 = 60;

const fn plan(
    name: &'static str,
    arguments: &'static str,
    meters: (u32, u32),
    seconds: (u32, u32),
) -> Plan {
    Plan { name, arguments, meters, seconds }
}

/// The table's head.
pub const HEAD: &str = "| row | meters | readings/s | ack p50 / p99 | API p50 / p99 | ClickHouse behind \
     | processor | memory | disk | checks |\n|---|---|---|---|---|---|---|---|---|---|";

/// Runs all rows, in `share` thousandths of their time where that suffices, and gives each as a line to
/// `say`. A row whose checks do not hold, or that cannot run, is told and does not stop the others.
///
/// # Errors
/// Rows whose checks did not hold.
pub fn run(size: Size, share: u32, say: &dyn Fn(&str)) -> Result<(), Box<dyn Error>> {
    say(HEAD);
    let mut failed = Vec::new();
    for Plan { name, arguments, meters, seconds } in PLANS {
        let meters = size.of(meters.0, meters.1);
        let seconds = (size.of(seconds.0, 0) * share / 1000).max(seconds.1);
        let days = (OLD_DAYS_MAX * share / 1000).max(1).to_string();
        let (meters, seconds) = (meters.to_string(), seconds.to_string());
        let mut all: Vec<&str> = arguments.split_whitespace().collect();
        all.extend(["--meters", &meters, "--seconds", &seconds]);
        if name == OLD_DAYS {
            all.extend(["--days", &days]);
        }
        match Simulated::run(&all) {
            Ok(run) => say(&line(name, &meters, &run)),
            Err(error) => {
                say(&format!("| {name} | {meters} | {error} ||||||| ✗ |"));
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

/// A line of the table; a run that came so far holds its checks.
fn line(name: &str, meters: &str, run: &Simulated) -> String {
    let json = run.json();
    let ms = |of: &Value, which: &str| of[which].as_f64().map_or(f64::NAN, |us| us / 1000.0);
    let pair = |of: &Value| format!("{:.1} / {:.1} ms", ms(of, "p50_us"), ms(of, "p99_us"));
    let lags = json["series"].as_array().into_iter().flatten();
    let lag = lags.filter_map(|second| second["lag"].as_u64()).max().unwrap_or_default();
    // A burst is over before the node is looked at.
    let of_node = |what: &str| match json["node"][what].as_f64() {
        Some(value) if value > 0.0 => format!("{value:.0}"),
        _ => "?".to_owned(),
    };
    format!(
        "| {name} | {meters} | {:.0} | {} | {} | {lag} entries | {} s | {} MiB | {} MiB | ✓ |",
        run.readings_per_s(),
        pair(&json["sent"]["latency"]),
        pair(&json["fresh"]),
        of_node("cpu_s"),
        of_node("rss_peak_mib"),
        of_node("disk_mib"),
    )
}
