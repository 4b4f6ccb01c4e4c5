//! `restart_1m`: how long a node with a million meters and a tail of ten million entries behind its
//! snapshot takes from its start until it serves.
//!
//! The meters are imported over the API, with a snapshot at the node's end; the tail is written
//! into the log as the node would have, readings with the fleet's own registers. ClickHouse is
//! absent. Sketch: the log replays at 2.6 M entries/s, and 1 KiB of a meter is read and indexed.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use loadgen::fleet::{Fleet, Shape, Span, Spec, plan_code};
use loadgen::{Retry, Seed, World, free_address};
use meter::{Entry, Fields, MeterId, Reading, UnixSeconds};
use serde_json::json;
use storage::log::{Directory, Durability, WritePath};
use tokio::runtime::Runtime;

use crate::logs::{self, BATCH};
use crate::simulated::Serving;
use crate::vend::{self, Shop};

/// 2026-11-02T00:00:00Z.
const START: UnixSeconds = UnixSeconds(1_793_577_600);
const PERIOD_S: u32 = 900;
/// Readings of each meter in the tail.
const ROUNDS: u32 = 10;
/// A node that has not come up by then is at fault.
const SERVING_MAX: Duration = Duration::from_secs(600);

/// What a restart took.
#[derive(Clone, Copy, Debug)]
pub struct Restart {
    /// From the start of the process until it serves.
    pub took: Duration,
    /// Entries behind the snapshot.
    pub tail: u64,
}

/// Makes a node of `meters` meters in `folder` and starts it anew behind a tail.
///
/// # Errors
/// A node does not start, refuses the fleet, or a file cannot be written.
pub fn run(meters: u32, folder: &Path) -> Result<Restart, Box<dyn Error>> {
    let spec = Spec { meters, ..Spec::default() };
    let span = Span { first: START, seconds: PERIOD_S * ROUNDS, backfill_days: 0 };
    let fleet = Fleet::new(Seed(1), spec, span, Shape::Even, (0, 1));
    let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(1) };
    let world = World { seed: Seed(1), retry, window: 4, pace: 1 };
    let folder = std::env::current_dir()?.join(folder);
    fs::create_dir_all(&folder)?;
    let api = free_address()?;
    let config = settings(&folder, api)?;
    let node = Serving::start(&config, api, SERVING_MAX)?;
    Runtime::new()?
        .block_on(register(&fleet, &world, &config, api))
        .map_err(|error| error.to_string())?;
    node.stop()?;
    let tail = append(&fleet, &world, &folder.join("data/log"))?;
    let began = Instant::now();
    let node = Serving::start(&config, api, SERVING_MAX)?;
    let took = began.elapsed();
    drop(node);
    fs::remove_dir_all(&folder)?;
    Ok(Restart { took, tail })
}

/// Snapshots are written at the node's end alone.
fn settings(folder: &Path, api: SocketAddr) -> std::io::Result<PathBuf> {
    let path = folder.join("meterd.toml");
    let text = format!(
        "[node]\ndata_dir = {:?}\nsnapshot_s = 3600\n[ingest]\nudp_listen = \"127.0.0.1:0\"\n\
         tcp_listen = \"127.0.0.1:0\"\n[clickhouse]\nengine = \"server\"\n\
         url = \"http://127.0.0.1:9\"\n[api]\nlisten = \"{api}\"\n",
        folder.join("data")
    );
    fs::write(&path, text)?;
    Ok(path)
}

/// Registers a fleet with its plans over the API; where, for whoever has more to tell.
pub(crate) async fn register(
    fleet: &Fleet,
    world: &World,
    config: &Path,
    address: SocketAddr,
) -> Result<Shop, Box<dyn Error + Send + Sync>> {
    let token = fs::read_to_string(config.with_extension("token"))?.trim().to_owned();
    let shop = Shop { address, token };
    for plan in fleet.plans() {
        let code = plan_code(plan);
        let body = json!({ "code": code, "name": code, "currency": "CNY" });
        let made = shop.tell("POST", "/v1/plans", &body).await?;
        shop.tell("POST", &format!("/v1/plans/{}/versions", made["id"]), &vend::version()).await?;
    }
    for csv in fleet.import_files(world) {
        let call = ("POST", "/v1/imports/meters", "import");
        shop.send(call, ("text/csv", csv.into())).await?;
    }
    Ok(shop)
}

/// Writes the consumers' readings behind what the node has written; returns how many.
fn append(fleet: &Fleet, world: &World, log: &Path) -> Result<u64, Box<dyn Error>> {
    let disk = Directory::open(log, WritePath::Buffered)?;
    let mut log = logs::open(Arc::new(disk), Durability::Lazy)?;
    let mut tail = 0;
    for round in 1..=ROUNDS {
        let at = START.plus(round * PERIOD_S);
        for entries in readings(fleet, world, at).chunks(BATCH) {
            logs::append(&mut log, entries)?;
            tail += u64::try_from(entries.len())?;
        }
    }
    log.sync()?;
    Ok(tail)
}

/// The readings of all consumers at a stamp. The import numbers the transformer's meter of each
/// unit first, then its consumers.
fn readings(fleet: &Fleet, world: &World, at: UnixSeconds) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut id = 0;
    for unit in fleet.units() {
        id += 1;
        for ordinal in fleet.consumers(unit) {
            id += 1;
            entries.push(Entry::Reading(Reading {
                meter: MeterId(id),
                taken_at: at,
                received_at: at.plus(1),
                counter: at.since(START) / PERIOD_S,
                register: fleet.consumer(world, ordinal).register(at),
                fields: Fields::default(),
                ..Reading::default()
            }));
        }
    }
    entries
}
