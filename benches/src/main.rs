//! `make bench`: prints the table and writes `target/bench.json`.
//!
//! Each ratio is taken within one run, load generator included, frames sealed beforehand.
//! `SIZE=small` takes a tenth of the work, to see that the benches run.
//! Names (`dataflow`, `decisions`, `udp`, `verify`, `node` or a row of it, `clickhouse`, `questions`,
//! `tokens`, `vend`) take some of the benches only. `capacity` is run only by name: what a buyer asks,
//! three quarters of an hour, or `CAPACITY_SHARE` thousandths of it.

use std::error::Error;
use std::fs;
use std::path::Path;

use benches::rows::{self, Size};
use benches::{
    capacity, connections, cutoff, decide, questions, sink, tokens, udp, vend, verify, w1,
};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // Engine and nodes of the benches are child processes of this program.
    if args.first().is_some_and(|arg| arg == "engine") {
        let Err(error) = storage::engine::run_child();
        return Err(error.into());
    }
    if let Some(child) = vend::child(&args).or_else(|| connections::child(&args)) {
        return child;
    }
    let size = Size::from_environment();
    let wants = |name: &str| args.is_empty() || args.iter().any(|arg| arg == name);
    let mut rows = Vec::new();
    if wants("dataflow") {
        rows.extend(dataflow(size.of(w1::READINGS, w1::READINGS / 10)));
    }
    if wants("decisions") {
        rows.extend(decisions(size)?);
    }
    if wants("udp") {
        rows.push(durable(size.of(6, 1))?);
    }
    if wants("verify") {
        rows.push(replayed(size.of(w1::READINGS / 2, w1::READINGS / 10))?);
    }
    rows.extend(rows::of_a_node(size, &wants, &say)?);
    if wants("clickhouse") {
        rows.extend(clickhouse(size)?);
    }
    if wants("questions") {
        rows.extend(questions(size)?);
    }
    if wants("tokens") {
        rows.extend(token_rows(size.of(300_000, 20_000)));
    }
    if wants("vend") {
        rows.extend(purchases(size.of(5, 1))?);
    }
    if args.iter().any(|arg| arg == "capacity") {
        let share = std::env::var("CAPACITY_SHARE").map_or(Ok(1000), |share| share.parse())?;
        say(&machine());
        return capacity::run(size, share, &say);
    }
    let report = json!({ "machine": machine(), "rows": rows });
    fs::create_dir_all("target")?;
    fs::write("target/bench.json", format!("{report:#}\n"))?;
    say(&format!("\n{}; also in target/bench.json", machine()));
    Ok(())
}

/// W1 through the whole dataflow ÷ the bare loop.
fn dataflow(readings: usize) -> Vec<Value> {
    say(&format!("dataflow, {readings} readings of W1, totals verified"));
    let figures = w1::run(readings);
    let mut rows = Vec::new();
    for figure in &figures {
        let w1::Figure { name, rate, ratio, cpu_ns } = figure;
        let rate = rate / 1e6;
        say(&format!("  {name:24} {rate:6.2} M/s  ratio {ratio:.3}  {cpu_ns:.0} ns CPU/reading"));
        let is_gate = *name == "w1 one worker";
        rows.push(json!({
            "name": name, "value": rate, "unit": "M readings/s", "limit": "bare loop",
            "ratio": ratio,
            "must": if is_gate { json!(0.25) } else { Value::Null },
            "aim": if is_gate { json!(0.45) } else { Value::Null },
            "runs": 3,
        }));
    }
    rows
}

/// What decisions cost.
fn decisions(size: Size) -> Result<Vec<Value>, Box<dyn Error>> {
    let readings = size.of(w1::READINGS, w1::READINGS / 2);
    say(&format!("decisions, {readings} readings of W1, with all of them on and with none"));
    let figure = decide::ingest(readings);
    let decide::Figure { rate, ratio, cpu_ratio, orders, alarms } = figure;
    let rate = rate / 1e6;
    say(&format!(
        "  {:24} {rate:6.2} M/s  ratio {ratio:.3}, by processor {cpu_ratio:.3}  {orders} orders, \
         {alarms} alarms",
        "decisions_ingest"
    ));
    let ingest = json!({
        "name": "decisions_ingest", "value": rate, "unit": "M readings/s",
        "limit": "the same stream with nothing to decide", "ratio": ratio, "must": 0.9, "aim": 1.0,
        "runs": 3, "cpu_ratio": cpu_ratio, "orders": orders, "alarms": alarms,
    });
    Ok(vec![ingest, disconnections(size)?])
}

/// A few hundred accounts overdrawn, one after another, on a node at half of its most.
fn disconnections(size: Size) -> Result<Value, Box<dyn Error>> {
    let (most, probes) = (rows::most(size)?, size.of(300, 20));
    let folder = Path::new("target/bench-cutoff");
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let report = cutoff::run((most / 2.0) as u32, probes, folder)?;
    let (p50, p99) = report.latency;
    let rate = report.readings_per_s;
    say(&format!(
        "  {:24} p50 {p50:?}  p99 {p99:?}  {probes} orders at {rate:.0} readings/s",
        "disconnect_p99"
    ));
    let p99_ms = p99.as_secs_f64() * 1e3;
    Ok(json!({
        "name": "disconnect_p99", "value": p99_ms, "unit": "ms from the reading to the order",
        "limit": format!("{most:.0} readings/s at most"), "ratio": Value::Null, "must": 1000,
        "aim": 250, "runs": 1, "p50_ms": p50.as_secs_f64() * 1e3, "orders": probes,
        "readings_per_s": rate,
    }))
}

/// The sink against bare inserts, and an outage.
fn clickhouse(size: Size) -> Result<Vec<Value>, Box<dyn Error>> {
    say("the sink, on each ClickHouse that is here");
    let size = sink::Size {
        pieces: size.of(11, 3),
        blocks: size.of(4, 1),
        outage_s: size.of((30, 60), (5, 5)),
    };
    Ok(told(sink::run(size)?))
}

/// The analysts' questions.
fn questions(size: Size) -> Result<Vec<Value>, Box<dyn Error>> {
    say("the analysts' questions, on each ClickHouse that is here");
    let given = std::env::var("QUESTIONS_METERS").ok();
    let meters = given.map_or_else(|| Ok(size.of(1000, 120)), |meters| meters.parse())?;
    Ok(told(questions::run(meters)?))
}

fn told(rows: Vec<Value>) -> Vec<Value> {
    for row in &rows {
        let (value, ratio) = (row["value"].as_f64().unwrap_or(f64::NAN), &row["ratio"]);
        let (name, unit, limit) = (&row["name"], &row["unit"], &row["limit"]);
        say(&format!("  {name} {value:.3} {unit} ({limit}) ratio {ratio}"));
    }
    rows
}

/// Sealed datagrams acknowledged after fsync ÷ raw echo.
fn durable(rounds: u32) -> Result<Value, Box<dyn Error>> {
    say("udp_durable, one sealed reading a datagram, acknowledged after fsync, 100,032 meters");
    let folder = Path::new("target/bench-log");
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let load = udp::Load { meters: 100_032, rounds, window: 64 };
    let report = udp::run(load, folder)?;
    say(&format!("  {}", udp::line(&report)));
    Ok(json!({
        "name": "udp_durable", "value": report.node.per_s, "unit": "readings/s",
        "limit": "raw recvmmsg + sendmmsg echo, same generator",
        "ratio": report.ratio_milli() as f64 / 1000.0, "must": 0.55, "aim": 0.8, "runs": 1,
        "ack_p50_us": report.node.p50.as_micros(), "ack_p99_us": report.node.p99.as_micros(),
        "lost": report.node.lost,
    }))
}

/// Tokens issued and decoded on one core, keys derived each time.
fn token_rows(count: usize) -> Vec<Value> {
    say(&format!("tokens, {count} meters, each key derived anew, one core"));
    let row = |figure: &tokens::Figure| {
        let tokens::Figure { name, rate, must } = *figure;
        let ratio = rate / must;
        say(&format!("  {name:24} {:6.2} M/s  {ratio:.2} of what it must be", rate / 1e6));
        json!({
            "name": name, "value": rate, "unit": "tokens/s", "limit": must, "ratio": ratio,
            "must": 1.0, "aim": Value::Null, "runs": 5,
        })
    };
    tokens::run(count).iter().map(row).collect()
}

/// Durable purchases over HTTP ÷ a handler that only answers; with tokens ÷ without.
fn purchases(seconds: u64) -> Result<Vec<Value>, Box<dyn Error>> {
    say("vend, durable idempotent purchases over HTTP, 64 connections");
    let report = vend::run(Path::new("target/bench-vend"), seconds);
    let vend::Report { answers, purchases, with_token, ratios, latency: (p50, p99) } =
        report.map_err(|error| error.to_string())?;
    let (ratio, token_ratio) = ratios;
    let line = |name: &str, way: vend::Way, ratio: f64| {
        let vend::Way { rate, server_us, client_us } = way;
        say(&format!(
            "  {name:24} {rate:8.0} /s  ratio {ratio:.3}  processor {server_us:.0} + {client_us:.0} µs"
        ));
    };
    line("answers only", answers, 1.0);
    line("purchases", purchases, ratio);
    line("purchases with token", with_token, token_ratio);
    say(&format!("  at half the rate         p50 {p50:?}  p99 {p99:?}"));
    let p99_ms = p99.as_secs_f64() * 1e3;
    Ok(vec![
        json!({
            "name": "purchases", "value": purchases.rate, "unit": "purchases/s",
            "limit": "the same requests to a handler that only answers", "ratio": ratio,
            "must": 0.25, "aim": 0.5, "runs": 5,
        }),
        json!({
            "name": "purchase_latency_p99", "value": p99_ms, "unit": "ms", "limit": "50 ms",
            "ratio": 50.0 / p99_ms, "must": 1.0, "aim": 50.0 / 15.0, "runs": 1,
        }),
        json!({
            "name": "purchases_with_token", "value": with_token.rate, "unit": "purchases/s",
            "limit": "the same purchases without a token", "ratio": token_ratio,
            "must": 0.8, "aim": Value::Null, "runs": 5,
        }),
    ])
}

/// The whole log through `meterd verify`'s replay, two workers.
fn replayed(readings: usize) -> Result<Value, Box<dyn Error>> {
    say(&format!("verify, a log of {readings} readings of W1 replayed with two workers"));
    let folder = Path::new("target/bench-verify");
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    let figure = verify::run(readings, folder)?;
    fs::remove_dir_all(folder)?;
    let rate = figure.rate / 1e6;
    say(&format!("  {:24} {rate:6.2} M entries/s, books equal in every run", "verify"));
    Ok(json!({
        "name": "verify", "value": rate, "unit": "M entries/s", "entries": figure.entries,
        "must": 1.5, "aim": 5.0, "runs": 3,
    }))
}

/// Processor and cores.
fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.unwrap_or("unknown processor"))
}

#[expect(clippy::print_stdout, reason = "the bench speaks to a person")]
fn say(text: &str) {
    println!("{text}");
}
