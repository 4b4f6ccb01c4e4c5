//! `sink`: rows a second from the spool into ClickHouse, beside the same blocks inserted bare, a few
//! blocks one way, then the other; and an outage: how long the drain takes, and whether the log's
//! commits feel it.
//!
//! Sketch: a row is read and decoded 0.1 µs, encoded and hashed 0.3 µs, and costs the engine 0.6 to
//! 1.2 µs; the sink makes the next block while the engine works on the last one.

#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use meter::{Seq, UnixSeconds};
use serde_json::{Value, json};
use server::cursor::Cursor;
use server::sink::{Config, Progress, Pump};
use server::spool::Spool;
use storage::clickhouse::{Batch, ClickhouseConfig, Collector, Sink};
use storage::log::{Directory, Durability, SegmentLog, WritePath};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::engines::Fleet;
use crate::engines::support::{Server, client};
use crate::logs;

/// 2026-05-01T00:00:00Z: all rows of a run lie in one month.
const START: UnixSeconds = UnixSeconds(1_777_593_600);
const METERS: u32 = 2000;
/// A node's default.
const BLOCK: Config = Config { rows_max: 100_000, age_max: Duration::from_millis(1000) };
/// Readings a second during the outage, in groups as a node commits them.
const READINGS_PER_S: u64 = 20_000;
const GROUP: Duration = Duration::from_millis(10);
const GROUP_READINGS: usize = 200;

/// How much work.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pieces for the rates, each sent both ways.
    pub pieces: u32,
    /// Blocks of a piece.
    pub blocks: u32,
    /// Seconds before the outage, and of the outage itself.
    pub outage_s: (u64, u64),
}

/// Runs everything on every engine to be had; rows for the report.
///
/// # Errors
/// What files and sockets say.
pub fn run(size: Size) -> Result<Vec<Value>, Box<dyn Error>> {
    let runtime = Runtime::new()?;
    let mut rows = Vec::new();
    for server in runtime.block_on(Server::all()) {
        rows.push(runtime.block_on(rates(&server, size))?);
        rows.extend(runtime.block_on(outage(&server, size.outage_s))?);
        runtime.block_on(server.stop());
    }
    Ok(rows)
}

fn log(folder: &Path, durability: Durability) -> Result<SegmentLog, Box<dyn Error>> {
    let disk = Directory::open(folder, WritePath::Buffered)?;
    logs::open(Arc::new(disk), durability)
}

/// Sink ÷ bare over pieces of a few whole blocks, each sent both ways, first one way then the other,
/// in turns. Each way begins when the disk has what was written before and no merge runs: else it
/// pays for its neighbour's work, or for that of earlier benches, whose unwritten pages the sink's
/// cursor would have to wait for.
async fn rates(server: &Server, size: Size) -> Result<Value, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let mut feed = Feed {
        spool: Spool::new(log(&folder.path().join("spool"), Durability::Lazy)?),
        fleet: Fleet::new(METERS, START),
        collector: Collector::new(BLOCK.rows_max),
    };
    let bare = server.fresh("bench_bare").await;
    Sink::open(bare.clone()).await?;
    let sink = Sink::open(server.fresh("bench_sink").await).await?;
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for piece in 0..size.pieces {
        let batches = feed.piece(size.blocks)?;
        let rows: u32 = batches.iter().map(|batch| batch.rows).sum();
        let mut times = [0.0, 0.0];
        for turn in 0..2 {
            settle(server).await?;
            let is_sink = (piece + turn) % 2 == 1;
            times[usize::from(is_sink)] = if is_sink {
                insert_by_sink(sink.clone(), &mut feed.spool, folder.path()).await?
            } else {
                insert_bare(&bare, &batches).await?
            };
        }
        rates.push(f64::from(rows) / times[1] / 1e6);
        ratios.push(times[0] / times[1]);
    }
    ratios.sort_by(f64::total_cmp);
    Ok(json!({
        "name": format!("sink {}", server.name()), "value": median(rates), "unit": "M rows/s",
        "limit": "the same blocks inserted bare", "ratio": ratios[ratios.len() / 2],
        "must": 0.6, "aim": 0.9, "runs": size.pieces,
        "least": ratios[0], "greatest": ratios[ratios.len() - 1],
    }))
}

/// Makes what both ways send.
struct Feed {
    spool: Spool,
    fleet: Fleet,
    collector: Collector,
}

impl Feed {
    /// Appends whole blocks to the spool, cut as the sink will cut them, and gives their batches.
    fn piece(&mut self, blocks: u32) -> Result<Vec<Batch>, Box<dyn Error>> {
        let mut batches = Vec::new();
        for _ in 0..blocks {
            while self.collector.rows() < BLOCK.rows_max {
                let (first, entries, effects) = self.fleet.slot();
                self.spool.append(first, &entries, &effects)?;
                self.collector.effects(&server::spool::rows(first, &entries, &effects));
            }
            batches.extend(self.collector.seal());
        }
        Ok(batches)
    }
}

/// Waits until nothing of what went before is still being worked on.
async fn settle(server: &Server) -> Result<(), Box<dyn Error>> {
    let client = client(&server.config("default"));
    while client.query("SELECT count() FROM system.merges").fetch_one::<u64>().await? > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let synced = tokio::process::Command::new("sync").status().await?;
    if synced.success() { Ok(()) } else { Err("sync failed".into()) }
}

/// The blocks over one connection, one after the other, nothing else.
async fn insert_bare(config: &ClickhouseConfig, batches: &[Batch]) -> Result<f64, Box<dyn Error>> {
    let mut stream = TcpStream::connect(config.url.trim_start_matches("http://")).await?;
    let began = Instant::now();
    for batch in batches {
        let query: String = form_urlencoded::byte_serialize(
            format!("INSERT INTO {}.{} FORMAT Native", config.database, batch.table.name())
                .as_bytes(),
        )
        .collect();
        let head = format!(
            "POST /?query={query} HTTP/1.1\r\nHost: x\r\nX-ClickHouse-User: {}\r\n\
             X-ClickHouse-Key: {}\r\nContent-Length: {}\r\n\r\n",
            config.user,
            config.password,
            batch.bytes.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&batch.bytes).await?;
        answered(&mut stream).await?;
    }
    Ok(began.elapsed().as_secs_f64())
}

/// Reads the head of a good answer and what little body an insert's has.
async fn answered(stream: &mut TcpStream) -> Result<(), Box<dyn Error>> {
    let mut answer = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let count = stream.read(&mut piece).await?;
        answer.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let is_whole = !head.contains("chunked") || body.ends_with("0\r\n\r\n");
            if head.starts_with("http/1.1 200") && is_whole {
                return Ok(());
            }
        }
        if count == 0 || text.starts_with("HTTP/1.1 5") || text.starts_with("HTTP/1.1 4") {
            return Err(format!("a bare insert was refused: {text}").into());
        }
    }
}

/// Everything that the spool holds from the cursor in `folder` on.
async fn insert_by_sink(
    sink: Sink,
    spool: &mut Spool,
    folder: &Path,
) -> Result<f64, Box<dyn Error>> {
    let (cursor, end) = (Cursor::new(folder), spool.next());
    let place = cursor.load()?;
    let reader = spool.log_mut().read_from(place.next);
    let progress = Progress::new(place.next);
    let pump = Pump::new(BLOCK, cursor, place, reader, Arc::clone(&progress));
    let (stop, stopped) = watch::channel(false);
    let began = Instant::now();
    let pumping = tokio::spawn(pump.run(sink, stopped));
    while progress.next() < end {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let taken = began.elapsed().as_secs_f64();
    stop.send_replace(true);
    pumping.await??;
    Ok(taken)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Commits 20,000 readings a second to a synced log and their rows to the spool, before, during
/// and after an outage of ClickHouse.
async fn outage(server: &Server, seconds: (u64, u64)) -> Result<Vec<Value>, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let direct = server.fresh("bench_outage").await;
    let (away, told) = watch::channel(false);
    let url = proxy(direct.url.trim_start_matches("http://").to_owned(), told).await?;
    let sink = Sink::open(ClickhouseConfig { url, ..direct }).await?;
    let spool = Spool::new(log(&folder.path().join("spool"), Durability::Lazy)?);
    let mut load = Committing {
        log: log(&folder.path().join("log"), Durability::Synced)?,
        fleet: Fleet::new(u32::try_from(READINGS_PER_S)?, START),
        spool,
    };
    let cursor = Cursor::new(folder.path());
    let place = cursor.load()?;
    let progress = Progress::new(place.next);
    let reader = load.spool.log_mut().read_from(Seq(1));
    let pump = Pump::new(BLOCK, cursor, place, reader, Arc::clone(&progress));
    let (stop, stopped) = watch::channel(false);
    let pumping = tokio::spawn(pump.run(sink, stopped));

    let (mut load, before) = load.commit(Until::Seconds(seconds.0)).await?;
    away.send_replace(true);
    let during;
    (load, during) = load.commit(Until::Seconds(seconds.1)).await?;
    away.send_replace(false);
    let (began, backlog) = (Instant::now(), load.spool.next().0 - progress.next().0);
    // The drain is over when the sink is a block's age behind.
    let drained = Arc::new(AtomicBool::new(false));
    let (watched, end) = (Arc::clone(&drained), load.spool.next());
    let watching = tokio::spawn(async move {
        while progress.next() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        watched.store(true, Ordering::Relaxed);
        began.elapsed()
    });
    let after;
    (_, after) = load.commit(Until::Set(drained)).await?;
    let drain = watching.await?;
    stop.send_replace(true);
    pumping.await??;
    let name = server.name();
    let p99 = |times: &Histogram<u64>| times.value_at_quantile(0.99) as f64;
    let ratio = p99(&during).max(p99(&after)) / p99(&before);
    Ok(vec![
        json!({
            "name": format!("drain {name}"), "value": drain.as_secs_f64(), "unit": "s",
            "limit": format!("{backlog} readings behind after {} s at {READINGS_PER_S}/s", seconds.1),
            "ratio": Value::Null, "must": Value::Null, "aim": Value::Null, "runs": 1,
        }),
        json!({
            "name": format!("commit p99 in outage and drain {name}"), "value": p99(&after),
            "unit": "us", "limit": format!("before {} us, outage {} us", p99(&before), p99(&during)),
            "ratio": ratio, "must": Value::Null, "aim": Value::Null, "ratio_max": 1.5, "runs": 1,
        }),
    ])
}

/// A log, a spool and who fills them.
struct Committing {
    log: SegmentLog,
    spool: Spool,
    fleet: Fleet,
}

enum Until {
    Seconds(u64),
    Set(Arc<AtomicBool>),
}

impl Committing {
    /// Commits a group every 10 ms; the time from its due moment to the end of its sync, in µs.
    async fn commit(mut self, until: Until) -> Result<(Self, Histogram<u64>), Box<dyn Error>> {
        let worked = tokio::task::spawn_blocking(move || {
            let mut times = Histogram::new(3).map_err(|error| error.to_string())?;
            let began = Instant::now();
            let is_over = |due: Instant| match &until {
                Until::Seconds(seconds) => due - began >= Duration::from_secs(*seconds),
                Until::Set(flag) => flag.load(Ordering::Relaxed),
            };
            let mut due = began;
            while !is_over(due) {
                let (first, entries, effects) = self.fleet.group(GROUP_READINGS);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                logs::append(&mut self.log, &entries).map_err(|error| error.to_string())?;
                times.saturating_record(due.elapsed().as_micros() as u64);
                self.spool.append(first, &entries, &effects).map_err(|error| error.to_string())?;
                due += GROUP;
            }
            Ok::<_, String>((self, times))
        });
        Ok(worked.await??)
    }
}

/// Passes everything on, or breaks off while it is told that the server is away.
async fn proxy(server: String, away: watch::Receiver<bool>) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, mut away) = (server.clone(), away.clone());
            tokio::spawn(async move {
                if *away.borrow() {
                    return;
                }
                let Ok(mut server) = TcpStream::connect(server).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = away.wait_for(|away| *away) => {}
                }
            });
        }
    });
    Ok(url)
}
