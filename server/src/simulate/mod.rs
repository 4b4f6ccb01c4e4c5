//! `meterd simulate`: any fleet against a node, and whether a single watt-hour or tick is wrong.
//!
//! Without arguments it starts a node of its own on a virtual clock, registers 100,000 meters by
//! the import, lets them send for 30 seconds, and compares the node and ClickHouse with the
//! simulator's truth. The machinery is `loadgen::fleet`; here are the node, the watch and the
//! checks. Read `play` first.

mod drive;
mod freshness;
mod options;
mod plots;
mod report;
mod swaps;
mod target;
mod verdict;
mod watch;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use loadgen::driver::Clocks;
use loadgen::fleet::{Fleet, Group, Link, Shape, Span, Spec};
use loadgen::proxy;
use loadgen::report::Percentiles;
use loadgen::{Retry, Seed, World};
use meter::UnixSeconds;

pub use options::{FaultOptions, FaultProxy, OtherNode, Part, ShapeName, Simulate, Thresholds};

use crate::clock::{self, Clock};
use crate::demo::check::Checks;
use crate::demo::on_runtime;
use drive::Drive;
use freshness::Freshness;
use report::Outcome;
use target::Target;
use watch::Watch;

/// Runs the simulation.
///
/// # Errors
/// Something could not be started, or was refused. A check that does not hold is no error but exit
/// code 3.
pub fn run(options: &Simulate) -> anyhow::Result<ExitCode> {
    let spec = spec(options)?;
    if let Some(folder) = &options.other.import_files {
        return write_import_files(options, spec, folder);
    }
    on_runtime(play(options, spec))
}

/// Stands between devices and a node until it is stopped.
///
/// # Errors
/// An address that cannot be had, or polling failed.
pub fn run_proxy(options: &FaultProxy) -> anyhow::Result<ExitCode> {
    let began = clock::instant();
    let clocks =
        Clocks { time_ms: Arc::new(clock::unix_ms), wall: Arc::new(move || began.elapsed()) };
    let (plan, seed) = (options.faults.plan(), Seed(options.seed));
    let mut proxy = proxy::FaultProxy::bind(options.listen, options.to, plan, seed, clocks)
        .with_context(|| format!("cannot listen at {}", options.listen))?;
    say(&format!("seed {}: {} passes on to {}", options.seed, proxy.address()?, options.to));
    loop {
        proxy.step(Duration::from_millis(100)).context("polling failed")?;
    }
}

async fn play(options: &Simulate, spec: Spec) -> anyhow::Result<ExitCode> {
    say(&format!(
        "seed {}: {} meters, {:?}, part {}",
        options.seed, spec.meters, options.shape, options.part
    ));
    let fleet = fleet(options, spec, first(options))?;
    let mut target = Target::open(options).await?;
    let world = world(options);
    if !options.other.registered {
        let took = target.register(&fleet, &world).await.context("the node refused the fleet")?;
        say(&format!("registered in {:.1} s", took.as_secs_f64()));
    }
    target.begin(&fleet, options).await?;
    let drive = Drive::start(&fleet, world, &target, options).await?;
    let timing = (target.clock, drive::smear_ms(options));
    let fresh = Freshness::start(&fleet, &world, &target.api, timing).await?;
    let mut watch = Watch::new(options, &fleet, target.lead(fleet.span().first));
    watch.run(&mut target, &drive).await?;
    watch.fresh = Percentiles::of(&fresh.finish());
    let sent = drive.finish().await?;
    watch.wait_queryable(&target, &fleet, &sent).await;

    say("comparing with the truth");
    let mut checks = verdict::settle(&target, &fleet, world, &sent).await?;
    // The last second of the view was before the last readings.
    watch.count(&target).await;
    watch.thresholds(&mut checks, &sent, &options.limits);
    let outcome = Outcome { options, fleet: &fleet, sent: &sent, watch: &watch, checks: &checks };
    say(&format!("\n{outcome}\n{checks}"));
    outcome.write(options)?;
    target.stop().await?;
    Ok(verdict_code(&checks))
}

fn verdict_code(checks: &Checks) -> ExitCode {
    if checks.hold() { ExitCode::SUCCESS } else { ExitCode::from(3) }
}

/// The fleet's file, the shape's needs, the flags; in this order.
fn spec(options: &Simulate) -> anyhow::Result<Spec> {
    let mut spec = match &options.fleet {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Spec::parse(&text).with_context(|| path.display().to_string())?
        }
        None => default_spec(options.shape),
    };
    spec.meters = options.meters.unwrap_or(spec.meters);
    for group in &mut spec.group {
        group.period_s = options.period.unwrap_or(group.period_s);
    }
    spec.check()?;
    Ok(spec)
}

/// Storms and backfills need gateways.
fn default_spec(shape: ShapeName) -> Spec {
    let spec = Spec::default();
    let behind: Vec<Group> =
        spec.group.iter().map(|group| Group { link: Link::Gateway, ..group.clone() }).collect();
    let group = match shape {
        ShapeName::Steady | ShapeName::Aligned => return spec,
        ShapeName::Storm => behind,
        ShapeName::Backfill => behind.into_iter().chain(spec.group).collect(),
    };
    Spec { group, ..spec }
}

/// The first stamp: on a node of its own a Monday morning of the latest week; else soon.
fn first(options: &Simulate) -> UnixSeconds {
    const MORNING_S: u32 = 3600;
    const QUARTER_S: u32 = 900;
    let now = Clock::System.now();
    match (options.other.first, options.other.node) {
        (Some(first), _) => UnixSeconds(first),
        (None, None) => loadgen::feeder::latest_week(now).plus(MORNING_S),
        (None, Some(_)) => UnixSeconds(now.0.div_ceil(QUARTER_S) * QUARTER_S),
    }
}

fn fleet(options: &Simulate, spec: Spec, first: UnixSeconds) -> anyhow::Result<Fleet> {
    let pace = pace(options);
    let seconds =
        options.seconds.checked_mul(pace).context("--seconds times --pace is too long")?;
    let longest = spec.group.iter().map(|group| group.period_s).max().unwrap_or_default();
    if seconds < longest {
        return Err(anyhow!(
            "no reading of {longest} s falls into {} s at pace {pace}: give --period {} or less, \
             more --seconds, or on an own node more --pace",
            options.seconds,
            seconds
        ));
    }
    let shape = match options.shape {
        ShapeName::Aligned => Shape::Aligned,
        ShapeName::Steady | ShapeName::Storm | ShapeName::Backfill => Shape::Even,
    };
    let backfill_days = if options.shape == ShapeName::Backfill { options.days } else { 0 };
    let span = Span { first, seconds, backfill_days };
    let part = (options.part.number - 1, options.part.of);
    Ok(Fleet::new(Seed(options.seed), spec, span, shape, part))
}

fn world(options: &Simulate) -> World {
    let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(8) };
    World { seed: Seed(options.seed), retry, window: 4, pace: pace(options) }
}

/// Another node's clock is real.
const fn pace(options: &Simulate) -> u32 {
    match options.other.node {
        Some(_) => 1,
        None => options.pace,
    }
}

/// Writes what `POST /v1/imports/meters` takes.
fn write_import_files(options: &Simulate, spec: Spec, folder: &Path) -> anyhow::Result<ExitCode> {
    let (fleet, world) = (fleet(options, spec, first(options))?, world(options));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut files = 0;
    for (number, csv) in fleet.import_files(&world).enumerate() {
        let path = folder.join(format!("meters-{number:04}.csv"));
        fs::write(&path, csv).with_context(|| format!("cannot write {}", path.display()))?;
        files += 1;
    }
    let first = fleet.span().first.0;
    say(&format!("{files} files; simulate the fleet with --registered --first {first}"));
    Ok(ExitCode::SUCCESS)
}

/// A pause of the watch.
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Seconds since `began`.
fn since(began: std::time::Instant) -> f64 {
    clock::instant().duration_since(began).as_secs_f64()
}

#[expect(clippy::print_stdout, reason = "the simulation speaks to a person")]
fn say(text: &str) {
    println!("{text}");
}
