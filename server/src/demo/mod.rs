//! `meterd demo`: a real feeder's week through a real node, and whether every result is right.
//!
//! The node is a `meterd serve` in a process of its own, on a virtual clock that plays the week in
//! about a minute. This process registers everything by the Web API, lets the simulated meters and
//! gateways speak to the node's sockets, buys credit, and at the end compares the node and
//! ClickHouse with what the simulator knows.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod place;
pub(crate) mod process;
pub(crate) mod setup;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use loadgen::Seed;
use loadgen::driver::Clocks;
use loadgen::feeder::{Endpoints, Feeder, FeederRun, TopUp, latest_week};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::signal::unix::{self, SignalKind};

use crate::cli::Demo;
use crate::clock::{self, Clock, Virtual};
use check::Checks;
use client::{Api, Sql};
use place::Addresses;
use process::NodeProcess;
use verdict::Sent;

/// Time for start and registration before the week begins.
const SETUP: Duration = Duration::from_secs(8);
/// Virtual time after the week's end for the last readings.
const AFTER_S: u32 = 1800;
/// How long the last readings may take after the week, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the last rows may take: late readings wait for their neighbours from ClickHouse.
const SETTLE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(500);
/// Between lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// The password file of the embedded engine's reader, in the node's data folder.
const ANALYST: (&str, &str) = ("analyst", "clickhouse-analyst.password");

/// A tariff version as the Web API takes it.
#[must_use]
pub fn version_json(version: &meter::TariffVersion) -> serde_json::Value {
    setup::version(version)
}

/// Runs the demonstration.
///
/// # Errors
/// Something could not be started, or did not finish. A check that does not hold is no error but
/// exit code 3.
pub fn run(options: &Demo) -> anyhow::Result<ExitCode> {
    on_runtime(play(options))
}

/// Plays to the end. Asked to stop (SIGTERM) it ends at once, and the node it started with it.
pub(crate) fn on_runtime(
    play: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let mut terminate = unix::signal(SignalKind::terminate())?;
        tokio::select! {
            code = play => code,
            _ = terminate.recv() => bail!("asked to stop (SIGTERM)"),
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn play(options: &Demo) -> anyhow::Result<ExitCode> {
    let folder = std::path::absolute(&options.data_dir)?;
    place::prepare(&folder)?;
    let addresses = Addresses::choose()?;
    let feeder = Feeder::new(Seed(options.seed), latest_week(Clock::System.now()));
    let week = week(&feeder, options.seconds);
    let settings = place::write_settings(&folder, addresses, week)?;
    say(&format!("a node starts in {}", folder.display()));
    let mut node = NodeProcess::start(&settings, addresses.api).await?;
    let api = Api { address: addresses.api, token: node.token()? };
    let sql = analyst(&folder, addresses)?;
    let report = JsonFile { path: options.json.clone(), api: api.clone(), sql: sql.clone() };
    report.write(node.pid(), None)?;
    setup::register(&api, &feeder).await.context("the node refused the registration")?;
    say("111 meters and a transformer are registered; the week begins");

    let simulation = Simulation::start(&feeder, addresses, week, api.clone()).await?;
    let mut kills = Kills::plan(options, week);
    let stats = watch_week(&mut node, simulation, &mut kills, &report, week).await?;

    let expected = feeder.expected(week.end);
    let checks = settle(&api, &sql, &expected, stats).await?;
    say(&format!("\nthe week is over{}\n{checks}", kills.told()));
    report.write(node.pid(), Some(&checks))?;
    let code = if checks.hold() { ExitCode::SUCCESS } else { ExitCode::from(3) };
    if options.once {
        node.stop().await?;
        return Ok(code);
    }
    invite(&api, &sql);
    serve_on(node).await?;
    Ok(code)
}

/// The clock on which the week takes `seconds`.
fn week(feeder: &Feeder, seconds: u32) -> Virtual {
    let length_s = feeder.end().since(feeder.start());
    let setup_ms = u64::try_from(SETUP.as_millis()).unwrap_or_default();
    Virtual {
        start: feeder.start(),
        anchor_ms: clock::unix_ms() + setup_ms,
        pace: length_s.div_ceil(seconds),
        end: feeder.end().plus(AFTER_S),
    }
}

fn analyst(folder: &Path, addresses: Addresses) -> anyhow::Result<Sql> {
    let (user, file) = ANALYST;
    let password = fs::read_to_string(folder.join("data").join(file))
        .context("the node made no analyst's password")?;
    Ok(Sql {
        address: addresses.clickhouse,
        user: user.to_owned(),
        password: password.trim().to_owned(),
        database: "meterd".to_owned(),
    })
}

/// The simulator, on a thread of its own.
struct Simulation {
    thread: std::thread::JoinHandle<anyhow::Result<Sent>>,
    acknowledged: Arc<AtomicU64>,
}

impl Simulation {
    async fn start(
        feeder: &Feeder,
        addresses: Addresses,
        week: Virtual,
        api: Api,
    ) -> anyhow::Result<Self> {
        let began = clock::instant();
        let clocks = Clocks {
            time_ms: Arc::new(move || Clock::Virtual(week).now_ms()),
            wall: Arc::new(move || began.elapsed()),
        };
        let endpoints = Endpoints { udp: addresses.meters, tcp: addresses.meters };
        let run = FeederRun::new(feeder, endpoints, clocks)?;
        let accounts = api.ids("/v1/accounts", "code").await?;
        let handle = Handle::current();
        let buy = move |top_up: &TopUp| {
            let Some(account) = accounts.get(&top_up.account) else { return false };
            let (key, paid) = (&top_up.idempotency_key, top_up.paid.to_decimal());
            // While the node is down the purchase is asked for again, under the same key.
            handle.block_on(api.top_up(*account, key, &paid)).is_ok()
        };
        let acknowledged = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&acknowledged);
        let limit = SETUP + week.fast_part() + PATIENCE;
        let thread = std::thread::Builder::new()
            .name("simulator".to_owned())
            .spawn(move || simulate(run, buy, &count, limit))?;
        Ok(Self { thread, acknowledged })
    }
}

/// Steps the simulator until all is acknowledged, or for `limit` at most.
fn simulate(
    mut run: FeederRun,
    mut buy: impl FnMut(&TopUp) -> bool,
    acknowledged: &AtomicU64,
    limit: Duration,
) -> anyhow::Result<Sent> {
    let began = clock::instant();
    while !run.is_done() && began.elapsed() < limit {
        run.step(&mut buy)?;
        // Relaxed: shown to people only.
        acknowledged.store(Sent::of(run.stats()).acknowledged, Ordering::Relaxed);
    }
    Ok(Sent::of(run.stats()))
}

/// Random moments of the week at which the node is killed.
struct Kills {
    left: Vec<Duration>,
    done: u32,
}

impl Kills {
    fn plan(options: &Demo, week: Virtual) -> Self {
        let span_ms = u64::try_from(week.fast_part().as_millis()).unwrap_or(u64::MAX).max(1);
        let mut state = options.seed;
        let mut left: Vec<Duration> = (0..options.kill)
            .map(|_| {
                // A Weyl sequence, mixed: any spread will do, as long as the seed fixes it.
                state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                SETUP + Duration::from_millis((mixed >> 20) % span_ms)
            })
            .collect();
        left.sort_unstable_by(|a, b| b.cmp(a));
        Self { left, done: 0 }
    }

    /// Whether one is due after this long.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = self.left.last().is_some_and(|at| *at <= elapsed);
        if is_due {
            self.left.pop();
            self.done += 1;
        }
        is_due
    }

    fn told(&self) -> String {
        match self.done {
            0 => String::new(),
            done => format!("; the node was killed {done} times"),
        }
    }
}

/// Lets the week go by: starts the node again whenever it ends, kills it where planned.
async fn watch_week(
    node: &mut NodeProcess,
    simulation: Simulation,
    kills: &mut Kills,
    report: &JsonFile,
    week: Virtual,
) -> anyhow::Result<Sent> {
    let began = clock::instant();
    let mut told = began.elapsed();
    while !simulation.thread.is_finished() {
        tokio::select! {
            status = node.ended() => {
                say(&format!("  the node ended ({}); it starts again", status?));
                node.restart().await?;
                report.write(node.pid(), None)?;
            }
            () = tokio::time::sleep(POLL) => {}
        }
        if kills.is_due(began.elapsed()) {
            say("  the node is killed (SIGKILL)");
            node.kill().await?;
        }
        if began.elapsed() >= told + PROGRESS {
            told = began.elapsed();
            let acknowledged = simulation.acknowledged.load(Ordering::Relaxed);
            let now = Clock::Virtual(week).now();
            say(&format!("  {now}: {acknowledged} readings acknowledged"));
        }
    }
    simulation.thread.join().map_err(|_| anyhow!("the simulator broke"))?
}

/// Compares, until all holds or ClickHouse has had time enough.
async fn settle(
    api: &Api,
    sql: &Sql,
    expected: &loadgen::feeder::Expected,
    sent: Sent,
) -> anyhow::Result<Checks> {
    let began = clock::instant();
    loop {
        let checks = verdict::checks(api, sql, expected, sent).await;
        if checks.as_ref().is_ok_and(Checks::hold) || began.elapsed() > SETTLE {
            return checks;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The report for programs.
struct JsonFile {
    path: Option<PathBuf>,
    api: Api,
    sql: Sql,
}

impl JsonFile {
    fn write(&self, pid: Option<u32>, checks: Option<&Checks>) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let Sql { address, user, password, database } = &self.sql;
        let mut value = json!({
            "api": { "url": format!("http://{}", self.api.address), "token": self.api.token },
            "clickhouse": {
                "url": format!("http://{address}"),
                "user": user,
                "password": password,
                "database": database,
            },
            "node": { "pid": pid },
        });
        if let Some(checks) = checks {
            value["checks"] = json!(checks);
        }
        let fresh = path.with_extension("new");
        fs::write(&fresh, format!("{value:#}\n"))
            .and_then(|()| fs::rename(&fresh, path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Prints where the node is and three things to try.
fn invite(api: &Api, sql: &Sql) {
    let (url, token) = (format!("http://{}", api.address), &api.token);
    let Sql { address, user, password, database } = sql;
    say(&format!(
        "the node keeps serving; Ctrl-C stops it\n\n\
         \x20 Web API     {url}   (all routes: {url}/docs)\n\
         \x20 token       {token}\n\
         \x20 ClickHouse  http://{address}   user {user}, password {password}\n\n\
         three things to try\n\n\
         \x20 curl -s -H 'Authorization: Bearer {token}' {url}/v1/accounts/1/balance\n\n\
         \x20 curl -s -H 'Authorization: Bearer {token}' -H 'Idempotency-Key: try-1' \\\n\
         \x20      -H 'Content-Type: application/json' -d '{{\"amount\":\"50.00\"}}' \\\n\
         \x20      {url}/v1/accounts/1/top-ups\n\n\
         \x20 curl -s -u {user}:{password} 'http://{address}/?database={database}' \\\n\
         \x20      -d 'SELECT start, energy_wh FROM intervals FINAL WHERE meter_id = 1 \
         ORDER BY start DESC LIMIT 4'\n"
    ));
}

/// Keeps the node running until Ctrl-C.
async fn serve_on(mut node: NodeProcess) -> anyhow::Result<()> {
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        status = node.ended() => bail!("the node ended ({})", status?),
    }
    // The terminal's Ctrl-C reached the node as well; this waits for its clean stop.
    node.stop().await
}

#[expect(clippy::print_stdout, reason = "the demonstration speaks to a person")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_fixed_by_the_seed_and_within_the_week() {
        let feeder = Feeder::new(Seed(1), latest_week(meter::UnixSeconds(1_764_547_200)));
        let options = Demo {
            once: true,
            json: None,
            data_dir: PathBuf::new(),
            seconds: 60,
            kill: 10,
            seed: 7,
        };
        let week = week(&feeder, 60);
        let mut kills = Kills::plan(&options, week);
        assert_eq!(kills.left.len(), 10);
        assert!(kills.left.iter().all(|at| *at >= SETUP && *at <= SETUP + week.fast_part()));
        assert_eq!(kills.left, Kills::plan(&options, week).left);
        assert!(!kills.is_due(Duration::ZERO));
        assert!(kills.is_due(SETUP + week.fast_part()));
    }
}
