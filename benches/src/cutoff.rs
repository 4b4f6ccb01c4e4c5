//! `disconnect_p99`: from the sending of a reading that overdraws an account until the order to
//! disconnect has reached the meter, while a fleet keeps the node busy.
//!
//! `meterd serve` runs as its users run it, with the embedded ClickHouse; the fleet sends a reading
//! a second for each meter. Beside it a few hundred meters with empty accounts tell one kWh each, one
//! after another. Sketch: the log's sync twice (the reading, then the report that its turn came), the
//! registry's twice, and the dispatcher's look of 100 ms.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::error::Error;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use loadgen::driver::{Clocks, DriverConfig};
use loadgen::faults::FaultPlan;
use loadgen::fleet::{Fleet, FleetRun, Shape, Span, Spec, Ways};
use loadgen::profile::Load;
use loadgen::{Identity, MeterClock, MeterPlan, Retry, Seed, VirtualMeter, World, free_address};
use meter::{Energy, UnixSeconds};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::restart;
use crate::simulated::Serving;

type Failure = Box<dyn Error + Send + Sync>;

/// First stamp of all, 2026-11-02T00:00:00Z.
const FIRST: UnixSeconds = UnixSeconds(1_793_577_600);
/// The node's clock begins so long before, for the registration.
const LEAD_S: u32 = 45;
/// The fleet alone before the first account is overdrawn, seconds.
const WARM_S: u32 = 3;
/// Between two accounts.
const PAUSE: Duration = Duration::from_millis(50);
/// An order that has not come by then does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Numbers of the meters that are cut off, behind those of any fleet.
const PROBES: u32 = 50_000_000;
const START_MAX: Duration = Duration::from_secs(60);

/// What the bench found.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The 50th and 99th percentile of all orders.
    pub latency: (Duration, Duration),
    /// Readings of the fleet acknowledged a second, meanwhile.
    pub readings_per_s: f64,
}

/// Overdraws `probes` accounts, one after another, on a node in `folder` that takes a reading a second
/// from each of `meters` meters.
///
/// # Errors
/// The node does not start or refuses the meters; an order does not come.
pub fn run(meters: u32, probes: u32, folder: &Path) -> Result<Report, Box<dyn Error>> {
    let folder = std::env::current_dir()?.join(folder);
    fs::create_dir_all(&folder)?;
    let api = free_address()?;
    let udp = free_address()?;
    let clocks = clocks();
    let config = settings(&folder, api, udp)?;
    let node = Serving::start(&config, api, START_MAX)?;
    let fleet = fleet(meters, probes);
    let registered = Runtime::new()?.block_on(register(&fleet, probes, &config, api));
    registered.map_err(|error| error.to_string())?;
    let report = measure(&fleet, probes, udp, &clocks)?;
    node.stop()?;
    fs::remove_dir_all(&folder)?;
    Ok(report)
}

/// The meters' time of day, as the node has it.
fn clocks() -> Clocks {
    let began = Instant::now();
    let start_ms = u64::from(FIRST.0 - LEAD_S) * 1000;
    let elapsed_ms = move || u64::try_from(began.elapsed().as_millis()).expect("a short run");
    Clocks {
        time_ms: Arc::new(move || start_ms + elapsed_ms()),
        wall: Arc::new(move || began.elapsed()),
    }
}

fn settings(folder: &Path, api: SocketAddr, udp: SocketAddr) -> io::Result<PathBuf> {
    let path = folder.join("meterd.toml");
    let clickhouse = free_address()?;
    let text = format!(
        "[node]\ndata_dir = {:?}\n[ingest]\nudp_listen = \"{udp}\"\ntcp_listen = \"127.0.0.1:0\"\n\
         [clickhouse]\nengine = \"embedded\"\nlisten = \"{clickhouse}\"\n[api]\nlisten = \"{api}\"\n\
         [clock]\nsource = \"virtual\"\nstart = {}\nanchor_ms = {}\npace = 1\nend = {}\n",
        folder.join("data"),
        FIRST.0 - LEAD_S,
        server::clock::unix_ms(),
        FIRST.plus(86_400).0,
    );
    fs::write(&path, text)?;
    Ok(path)
}

const fn world() -> World {
    let retry = Retry { first: Duration::from_secs(2), max: Duration::from_secs(8) };
    World { seed: Seed(1), retry, window: 4, pace: 1 }
}

/// Meters that read each second, until the last account is cut off and a while after.
fn fleet(meters: u32, probes: u32) -> Fleet {
    let mut spec = Spec { meters, ..Spec::default() };
    spec.group.iter_mut().for_each(|group| (group.period_s, group.purchases) = (1, 0));
    let seconds = 2 * WARM_S + probes * PAUSE.as_millis() as u32 / 1000 + 5;
    Fleet::new(Seed(1), spec, Span { first: FIRST, seconds, backfill_days: 0 }, Shape::Even, (0, 1))
}

/// The meter of an empty account: its first reading is a kWh above the register at installation, a
/// period before. Nobody is cut off on an estimate, so none may be missing between.
fn probe(number: u32) -> VirtualMeter {
    let plan = MeterPlan {
        ordinal: PROBES + number,
        load: Load { site: 31, days_ahead: 0, scale_milli: 1000 },
        phases: 1,
        first: FIRST,
        last: FIRST,
        period_s: 900,
        send_delay_s: 0,
        start: Energy::from_wh(1000),
        register_digits: 6,
        clock: MeterClock::default(),
    };
    VirtualMeter::new(&world(), plan)
}

async fn register(
    fleet: &Fleet,
    probes: u32,
    config: &Path,
    address: SocketAddr,
) -> Result<(), Failure> {
    let shop = restart::register(fleet, &world(), config, address).await?;
    let policy = json!({
        "cutting": true, "order_s_max": 14_400, "attempts_max": 5, "retry_s": 60, "stagger_s": 0,
        "friendly": null,
    });
    shop.tell("PUT", "/v1/supply-policy", &policy).await?;
    let customer = shop.tell("POST", "/v1/customers", &json!({"code": "P", "name": "P"})).await?;
    for number in 0..probes {
        let account = json!({
            "code": format!("P{number}"), "customer": customer["id"], "plan": 1, "zone": "UTC",
        });
        let account = shop.tell("POST", "/v1/accounts", &account).await?;
        let meter = shop.tell("POST", "/v1/meters", &plate(number)).await?;
        let installation = json!({
            "meter": meter["id"], "account": account["id"], "at": "2026-11-01T23:45:00Z",
            "start_wh": 0,
        });
        shop.tell("POST", "/v1/installations", &installation).await?;
    }
    Ok(())
}

fn plate(number: u32) -> serde_json::Value {
    let identity = Identity::of_meter(world().seed, PROBES + number);
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    json!({
        "serial": format!("P-{number}"), "system_title": identity.title().to_string(),
        "model": "MTD-1", "template": "meterd-single",
        "encryption_key": hex(identity.keys().encryption),
        "authentication_key": hex(identity.keys().authentication), "current_max_ma": 60_000,
        "voltage_nominal_mv": 230_000, "phases": 1, "register_digits": 6, "period_s": 900,
    })
}

/// The fleet on a thread of its own, the accounts beside it.
fn measure(
    fleet: &Fleet,
    probes: u32,
    node: SocketAddr,
    clocks: &Clocks,
) -> Result<Report, Box<dyn Error>> {
    let config = DriverConfig {
        node,
        sockets: 64,
        receive_buffer_bytes: 4 << 20,
        faults_up: FaultPlan::default(),
        faults_down: FaultPlan::default(),
        smear_ms: 1000,
        reconnect: Duration::from_millis(50),
    };
    let ways = Ways { udp: node, tcp: node };
    let mut run = FleetRun::new(fleet, world(), ways, config, clocks.clone())?;
    if clocks.now().clock > FIRST {
        return Err("the registration took longer than its lead".into());
    }
    let warm = FIRST.plus(WARM_S);
    // Relaxed throughout: the order against other memory does not matter.
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                run.step(Duration::from_millis(1))?;
                let count = run.stats().iter().map(|stats| stats.acknowledged).sum();
                acknowledged.store(count, Ordering::Relaxed);
            }
            Ok::<(), io::Error>(())
        });
        while clocks.now().clock < warm {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (began, before) = (Instant::now(), acknowledged.load(Ordering::Relaxed));
        let taken = overdraw(probes, node, clocks);
        let count = acknowledged.load(Ordering::Relaxed) - before;
        let readings_per_s = count as f64 / began.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        sending.join().map_err(|_| "the simulator broke")??;
        let mut taken = taken?;
        taken.sort_unstable();
        let at = |per_cent: usize| taken[(taken.len() * per_cent / 100).min(taken.len() - 1)];
        Ok(Report { latency: (at(50), at(99)), readings_per_s })
    })
}

/// A meter that has told its reading and waits for the order.
struct Waiting {
    meter: VirtualMeter,
    socket: UdpSocket,
    sent: Instant,
}

/// Overdraws one account after another; gives the time that each order took.
fn overdraw(
    probes: u32,
    node: SocketAddr,
    clocks: &Clocks,
) -> Result<Vec<Duration>, Box<dyn Error>> {
    let (began, world) = (Instant::now(), world());
    let (mut next, mut waiting, mut taken) = (0, Vec::<Waiting>::new(), Vec::new());
    while next < probes || !waiting.is_empty() {
        if next < probes && began.elapsed() >= PAUSE * next {
            let socket = UdpSocket::bind("127.0.0.1:0")?;
            socket.connect(node)?;
            socket.set_nonblocking(true)?;
            waiting.push(Waiting { meter: probe(next), socket, sent: Instant::now() });
            next += 1;
        }
        for one in &mut waiting {
            let Waiting { meter, socket, .. } = one;
            // The reading, its repetition, an answer: whatever is due. What is lost is sent again.
            meter.poll(&world, clocks.now(), &mut |sent| drop(socket.send(sent.frame)));
            let mut datagram = [0; 2048];
            while let Ok(size) = socket.recv(&mut datagram) {
                meter.receive(&mut datagram[..size], clocks.now());
            }
        }
        waiting.retain(|one| {
            let is_cut = one.meter.changes() > 0;
            if is_cut {
                taken.push(one.sent.elapsed());
            }
            !is_cut
        });
        if let Some(late) = waiting.iter().find(|one| one.sent.elapsed() > PATIENCE) {
            let number = late.meter.plan().ordinal - PROBES;
            return Err(format!("account P{number} was not cut off in {PATIENCE:?}").into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(taken)
}
