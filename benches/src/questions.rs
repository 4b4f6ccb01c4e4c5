//! The questions of `docs/analysts.md` on a larger fleet: 30 days that end with the page's week, how
//! long they take to load with their tables of days, and what a reading costs on disk.
//! `QUESTIONS_METERS` sets the number of meters (1,000 without it).

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::error::Error;
use std::time::{Duration, Instant};

use meter::{MeterId, Seq, UnixSeconds};
use serde_json::{Value, json};
use server::days;
use server::sink::Progress;
use storage::clickhouse::{Collector, MeterRow, Sink};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::engines::support::{Server, ask, client};
use crate::engines::{Fleet, SLOT_S};

const PAGE: &str = include_str!("../../docs/analysts.md");
/// 2026-05-09T00:00:00Z, 30 days before the end of the page's week.
const START: UnixSeconds = UnixSeconds(1_778_284_800);
const DAYS: u32 = 30;
/// Each question is asked so often; the median counts.
const RUNS: usize = 3;
const BLOCK_ROWS: usize = 400_000;
/// What loading may take.
const LOAD_S_MAX: f64 = 600.0;
/// As a node's settings have it.
const REFRESH_DAYS: Duration = Duration::from_secs(60);

/// Loads `meters` meters into each engine and asks.
///
/// # Errors
/// What the engines say.
pub fn run(meters: u32) -> Result<Vec<Value>, Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let mut rows = Vec::new();
    for server in runtime.block_on(Server::all()) {
        rows.extend(runtime.block_on(ask_all(&server, meters))?);
        runtime.block_on(server.stop());
    }
    Ok(rows)
}

async fn ask_all(server: &Server, meters: u32) -> Result<Vec<Value>, Box<dyn Error>> {
    let sink = Sink::open(server.fresh("week").await).await?;
    let load = load(&sink, meters).await?;
    let config = server.config("week");
    for table in ["readings", "intervals", "ledger"] {
        client(&config).query(&format!("OPTIMIZE TABLE week.{table} FINAL")).execute().await?;
    }
    let name = server.name();
    let limit = format!("{meters} meters, {DAYS} days, loaded in {:.0} s", load.all.as_secs_f64());
    let sizes = sink.history().sizes().await?;
    let readings = sizes.iter().find(|size| size.table == "readings");
    let readings = readings.ok_or("no readings were stored")?;
    let mut rows = vec![
        json!({
            "name": format!("load {name}"), "value": load.all.as_secs_f64(), "unit": "s",
            "limit": format!("{meters} meters, {DAYS} days; {:.1} s of it the rest of the days", load.days.as_secs_f64()),
            "ratio": Value::Null, "must": Value::Null, "value_max": LOAD_S_MAX, "runs": 1,
        }),
        json!({
            "name": format!("bytes a reading {name}"),
            "value": readings.bytes as f64 / readings.rows as f64, "unit": "bytes",
            "limit": limit, "ratio": Value::Null, "must": Value::Null, "aim": 10, "runs": 1,
        }),
    ];
    let row = |title: &str, seconds: f64, must: f64| {
        json!({
            "name": format!("{title} {name}"), "value": seconds * 1e3, "unit": "ms",
            "limit": limit, "ratio": Value::Null, "must": Value::Null, "value_max": must * 1e3,
            "runs": RUNS,
        })
    };
    rows.push(row("history of a meter", history(&sink).await?, 0.1));
    let mut slowest = (0.0, "");
    for section in PAGE.split("\n### ").skip(1) {
        let title = section.lines().next().unwrap_or_default();
        let sql = section.split_once("```sql\n").and_then(|(_, rest)| rest.split_once("```"));
        let sql = sql.ok_or("a question without SQL")?.0;
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            let answer = ask(server, "week", sql);
            times.push(began.elapsed().as_secs_f64());
            if answer.status != 200 {
                return Err(format!("{title}: {}", answer.body).into());
            }
        }
        let seconds = median(times);
        if seconds > slowest.0 {
            slowest = (seconds, title);
        }
        rows.push(row(title, seconds, 1.0));
    }
    rows.push(row(&format!("slowest: {}", slowest.1), slowest.0, 1.0));
    Ok(rows)
}

/// Seconds for a meter's 30 days of quarter hours.
async fn history(sink: &Sink) -> Result<f64, Box<dyn Error>> {
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let began = Instant::now();
        let to = START.plus(DAYS * 86_400);
        let points = sink.history().intervals(MeterId(17), START, to, 10_000).await?;
        times.push(began.elapsed().as_secs_f64());
        assert!(points.len() as u32 >= (DAYS - 1) * 96, "a meter's history is whole");
    }
    Ok(median(times))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// How long loading took: all of it, and what of that came after the last row.
struct Load {
    all: Duration,
    days: Duration,
}

/// Sends 30 days, newest last, while the tables of days follow at a node's pace.
async fn load(sink: &Sink, meters: u32) -> Result<Load, Box<dyn Error>> {
    let (going, mut stop) = watch::channel(false);
    let mut fleet = Fleet::new(meters, START);
    let mut collector = Collector::new(BLOCK_ROWS);
    for record in fleet.records() {
        let (serial, model) = (format!("F-{}", record.meter.0), "MTD-3".to_owned());
        collector.meter(MeterRow { record, serial, model, rev: 1 });
    }
    let began = Instant::now();
    let (of_days, stopped) = (sink.clone(), stop.clone());
    let following = tokio::spawn(async move {
        days::keep(&of_days, &Progress::new(Seq(1)), REFRESH_DAYS, stopped).await;
    });
    let mut end = Seq(1);
    for _ in 0..DAYS * 86_400 / SLOT_S {
        let (first, entries, effects) = fleet.slot();
        end = Seq(first.0 + entries.len() as u64);
        collector.effects(&server::spool::rows(first, &entries, &effects));
        if collector.rows() >= BLOCK_ROWS {
            for batch in collector.seal() {
                sink.send(&batch, &mut stop).await?;
            }
        }
    }
    for batch in collector.seal() {
        sink.send(&batch, &mut stop).await?;
    }
    let sent = Instant::now();
    going.send_replace(true);
    following.await?;
    sink.refresh_days(end).await?;
    Ok(Load { all: began.elapsed(), days: sent.elapsed() })
}
