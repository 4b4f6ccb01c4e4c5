//! `meterd verify`: the books once more from the first entry of the log, held against everything
//! else that tells of them.
//!
//! Compared, each at the position that it stands for: the newest snapshot (the dataflow's state
//! byte by byte, and the balances that the Web API shows), the registry (what people paid and
//! corrected), and the ledger in ClickHouse (count and sum by account and kind). Beside a stopped
//! node the embedded engine is started for the time of the comparison; beside a running one
//! everything is read up to where it durably is. Nothing is changed.

mod compare;
mod explain;
mod replay;
mod tally;

use std::fmt::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use meter::Seq;

pub use compare::{Difference, Side};
pub use replay::{Look, Replayed, Stop, replay};
pub use tally::{AccountTally, Broken, Tally};

use crate::archive;
use crate::cli::Verify;
use crate::clock;
use crate::config::Settings;

/// What a verification found.
#[derive(Debug)]
pub struct Verdict {
    /// The replay.
    pub replayed: Replayed,
    /// How long it took.
    pub took: Duration,
    /// What was compared, in order.
    pub sides: Vec<Side>,
    /// The first account that differs, line by line; empty when none does.
    pub explanation: String,
}

/// Runs `meterd verify`.
///
/// # Errors
/// Something that is needed cannot be read. A difference is no error but exit code 3.
#[expect(clippy::print_stdout, reason = "the command line's own voice")]
pub fn run(options: &Verify) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::load(options.config.as_deref())?;
    if let Some(data_dir) = &options.data_dir {
        settings.node.data_dir.clone_from(data_dir);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let verdict = verify(&settings, options, &runtime);
    runtime.shutdown_timeout(Duration::from_secs(1));
    let verdict = verdict?;
    print!("{verdict}");
    Ok(if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// Verifies a data folder.
///
/// # Errors
/// As [`run`].
pub fn verify(
    settings: &Settings,
    options: &Verify,
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<Verdict> {
    let log = archive::whole_log(settings)?;
    let workers = match options.workers {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => usize::from(count),
    };
    // Read before the replay: what a running node writes meanwhile lies behind these places.
    let shown = compare::Shown::load(settings)?;
    let sunk = compare::sunk(settings)?;
    let mut look = Look { state_at: shown.as_ref().map(|shown| shown.next), ..Look::default() };
    look.stops.extend(look.state_at);
    if !options.without_clickhouse {
        look.stops.insert(sunk);
    }
    let began = clock::instant();
    let replayed = replay(&log, workers, &look)?;
    let took = began.elapsed();

    let mut sides = vec![compare::ledger(&replayed)];
    sides.push(compare::snapshot(&replayed, shown.as_ref()));
    sides.push(runtime.block_on(compare::registry(settings, &replayed))?);
    sides.push(match options.without_clickhouse {
        true => Side::left_out("clickhouse", "not asked for"),
        false => runtime.block_on(compare::clickhouse(settings, &replayed, sunk))?,
    });
    let differs = sides.iter().find_map(|side| side.difference.as_ref());
    let explanation = match differs {
        None => String::new(),
        Some(difference) => explain::account(&log, workers, difference, &replayed)?,
    };
    Ok(Verdict { replayed, took, sides, explanation })
}

impl Verdict {
    /// Whether all that was compared is equal.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.sides.iter().all(|side| side.difference.is_none())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Replayed { first, next, batches, tally, .. } = &self.replayed;
        let entries = next.0 - first.0;
        let rate = entries as f64 / self.took.as_secs_f64().max(1e-9);
        writeln!(
            f,
            "log         {entries} entries in {batches} batches, {first} to {}, replayed in {:.2} s, {:.2} M/s",
            next.0.saturating_sub(1),
            self.took.as_secs_f64(),
            rate / 1e6
        )?;
        let movements: u64 = tally.by_kind().iter().map(|(_, count, _)| count).sum();
        writeln!(f, "accounts    {} checked, {movements} movements", tally.accounts().count())?;
        for (kind, count, ticks) in tally.by_kind() {
            writeln!(f, "  {:<18} {count:>10}  {:>24}", kind.name(), units(ticks))?;
        }
        writeln!(f, "sides       every movement has two: what the accounts gain the others lose")?;
        writeln!(f, "  {:<18} {:>10}  {:>24}", "accounts", "", units(tally.balances()))?;
        for (side, ticks) in tally.by_side() {
            writeln!(f, "  {:<18} {:>10}  {:>24}", side.name(), "", units(ticks))?;
        }
        let others: i128 = tally.by_side().iter().map(|(_, ticks)| ticks).sum();
        writeln!(f, "  {:<18} {:>10}  {:>24}", "zero-sum", "", units(tally.balances() + others))?;
        for side in &self.sides {
            writeln!(f, "{side}")?;
        }
        let hash = tally.hash().iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes any text");
            text
        });
        writeln!(f, "books       sha256 {hash}")?;
        f.write_str(&self.explanation)?;
        writeln!(f, "{}", if self.holds() { "equal" } else { "different" })
    }
}

/// Ticks as currency units.
fn units(ticks: i128) -> String {
    let unit = 10_000_000;
    let sign = if ticks < 0 { "-" } else { "" };
    let ticks = ticks.unsigned_abs();
    format!("{sign}{}.{:07}", ticks / unit, ticks % unit)
}

/// The position before which everything is known to somebody.
const fn below(seq: Seq) -> u64 {
    seq.0.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_reads_well() {
        let check = |ticks, want: &str| assert_eq!(units(ticks), want);
        check(0, "0.0000000");
        check(-1, "-0.0000001");
        check(123_456_789, "12.3456789");
    }
}
