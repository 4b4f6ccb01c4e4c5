//! `meterd prove`: a campaign on virtual time. Each seed is a story of meters, people and faults,
//! told to a node that is real from the log to the spool, on simulated disks; afterwards the
//! invariants of docs/safety.md are checked against a model of the rules that shares no code with
//! the dataflow. A story that fails is made smaller until nothing can be left out.

mod check;
mod counter;
mod machine;
mod options;
mod people;
mod scene;
#[cfg(test)]
mod spoils;
mod store;
mod story;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::anyhow;

pub use options::Fault;
use options::Options;
use story::Story;

use crate::cli::Prove;
use crate::clock;

/// Stories told while a failure is made smaller.
const SHRINKS_MAX: u32 = 100;
/// How long that may take.
const SHRINK: Duration = Duration::from_secs(60);

/// What a campaign came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Campaign {
    /// Stories that held.
    pub seeds: u64,
    /// Days × meters of them.
    pub meter_days: u64,
    /// Starts of the node.
    pub restarts: u64,
    /// Entries acknowledged.
    pub acknowledged: u64,
    /// How long it took.
    pub took: Duration,
}

/// A story that did not hold.
#[derive(Debug)]
pub struct Failure {
    /// What does not hold.
    pub reason: anyhow::Error,
    /// The whole story.
    pub told: String,
    /// The smallest one that fails, and why.
    pub smallest: (String, anyhow::Error),
}

/// Runs `meterd prove`.
///
/// # Errors
/// None that are not failures of a story: those are exit code 3.
#[expect(clippy::print_stdout, reason = "the command line's own voice")]
pub fn run(options: &Prove) -> anyhow::Result<ExitCode> {
    say_story_on_panic();
    if let Some(seed) = options.seed {
        let story = options.story(seed);
        println!("{story}");
        return Ok(match tell(&story) {
            Ok(_) => {
                println!("holds");
                ExitCode::SUCCESS
            }
            Err(error) => {
                println!("FAILS: {error:#}");
                ExitCode::from(3)
            }
        });
    }
    let time_max = options.seconds.map(|seconds| Duration::from_secs(seconds.into()));
    match campaign(options.first_seed, options.seeds, time_max) {
        Ok(done) => {
            println!("{done}");
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => {
            println!("FAILS: {:#}\n  story   meterd prove {}", failure.reason, failure.told);
            println!(
                "  replay  meterd prove {}\n  where   {:#}",
                failure.smallest.0, failure.smallest.1
            );
            Ok(ExitCode::from(3))
        }
    }
}

/// Tells `seeds` stories from `first` on, or as many as fit into `time_max`.
///
/// # Errors
/// The first story that does not hold.
pub fn campaign(
    first: u64,
    seeds: u64,
    time_max: Option<Duration>,
) -> Result<Campaign, Box<Failure>> {
    let began = clock::instant();
    let mut done = Campaign::default();
    for seed in first..first.saturating_add(seeds) {
        if time_max.is_some_and(|time_max| began.elapsed() >= time_max) {
            break;
        }
        let options = Options::derive(seed);
        match tell(&options) {
            Ok((restarts, acknowledged)) => {
                done.seeds += 1;
                done.meter_days += u64::from(options.meters) * u64::from(options.days);
                done.restarts += restarts;
                done.acknowledged += acknowledged;
            }
            Err(reason) => return Err(Box::new(shrink(options, reason))),
        }
    }
    done.took = began.elapsed();
    Ok(done)
}

/// The story that is told now, for whoever panics: a release build ends there.
static NOW: Mutex<String> = Mutex::new(String::new());

/// Says the command that replays the story when something panics.
#[expect(clippy::print_stderr, reason = "the command line's own voice")]
fn say_story_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let story = NOW.lock().unwrap_or_else(PoisonError::into_inner);
        eprintln!("{info}\n  story   meterd prove {story}");
    }));
}

/// Tells one story and checks its end; returns the starts of the node and what was acknowledged.
fn tell(options: &Options) -> anyhow::Result<(u64, u64)> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&options.to_string());
    let told = catch_unwind(AssertUnwindSafe(|| {
        let ended = Story::new(options).tell()?;
        check::check(&ended)?;
        Ok((u64::from(ended.restarts), ended.acknowledged.len() as u64))
    }));
    told.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(anyhow!("panicked: {}", text.unwrap_or_default()))
    })
}

/// Leaves out of the story whatever can be left out while it still fails.
fn shrink(told: Options, reason: anyhow::Error) -> Failure {
    let mut smallest = (told.clone(), None);
    let (mut left, began) = (SHRINKS_MAX, clock::instant());
    'smaller: loop {
        for candidate in smallest.0.smaller() {
            if left == 0 || began.elapsed() > SHRINK {
                break 'smaller;
            }
            left -= 1;
            if let Err(error) = tell(&candidate) {
                smallest = (candidate, Some(error));
                continue 'smaller;
            }
        }
        break;
    }
    let (options, error) = smallest;
    let error = error.unwrap_or_else(|| anyhow!("{reason:#}"));
    Failure { reason, told: told.to_string(), smallest: (options.to_string(), error) }
}

impl Prove {
    /// The story of a seed, with what was given by hand.
    fn story(&self, seed: u64) -> Options {
        let mut story = Options::derive(seed);
        story.meters = self.meters.unwrap_or(story.meters);
        story.days = self.days.unwrap_or(story.days);
        story.workers = self.workers.map_or(story.workers, usize::from);
        if let Some(faults) = &self.faults {
            story.faults = faults.iter().filter_map(|fault| fault.0).collect();
        }
        story
    }
}

impl std::fmt::Display for Campaign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seeds, meter_days, restarts, acknowledged, took } = self;
        let seconds = took.as_secs_f64();
        write!(
            f,
            "{seeds} seeds hold: {meter_days} meter-days, {restarts} starts, {acknowledged} readings \
             acknowledged, in {seconds:.1} s: {:.0} meter-days/s",
            *meter_days as f64 / seconds.max(1e-9)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One story with every fault off, told twice: it holds, and is the same.
    #[test]
    fn a_story_is_the_same_each_time() {
        let faults = std::collections::BTreeSet::new();
        let story = Options { meters: 2, days: 3, workers: 1, faults, ..Options::derive(5) };
        let first = tell(&story).unwrap();
        assert!(first.1 > 0);
        assert_eq!(first, tell(&story).unwrap());
    }
}
