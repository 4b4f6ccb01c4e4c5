//! What `meterd simulate` can be asked for.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use loadgen::faults::FaultPlan;

/// How the readings come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum ShapeName {
    /// Evenly over each period, in an open loop.
    Steady,
    /// All meters at once, at each stamp.
    Aligned,
    /// Gateways only; every connection breaks in the middle of the run.
    Storm,
    /// Gateways send days of old readings while the others go on.
    Backfill,
}

/// One of several processes that share a fleet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// How many there are.
    pub of: u32,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(number, of)| {
            Some(Self { number: number.parse().ok()?, of: of.parse().ok()? })
        });
        parsed
            .filter(|part| (1..=part.of).contains(&part.number) && part.of <= 1000)
            .ok_or_else(|| "write the part as NUMBER/PARTS, such as 1/4".to_owned())
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

/// `meterd simulate`.
#[derive(Args, Clone, Debug)]
pub struct Simulate {
    /// How the readings come.
    #[arg(long, value_enum, default_value = "steady")]
    pub shape: ShapeName,
    /// The fleet; what the file leaves out is as in docs/simulator.md.
    #[arg(long, value_name = "FILE")]
    pub fleet: Option<PathBuf>,
    /// Consumers, instead of what the fleet says.
    #[arg(long)]
    pub meters: Option<u32>,
    /// Seconds between readings of every group, instead of what the fleet says.
    #[arg(long, value_name = "SECONDS")]
    pub period: Option<u32>,
    /// How long readings are sent.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Seconds of the meters' day in a second, on a node of its own; another node's clock is real.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub pace: u32,
    /// Days that gateways send late (shape backfill).
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..=60))]
    pub days: u16,
    /// Seed of everything random: the same seed, the same bytes.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    #[expect(missing_docs, reason = "would become the help's heading")]
    pub faults: FaultOptions,
    /// Kill the simulation's own node (SIGKILL) this often.
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    pub kill: u32,
    #[command(flatten)]
    #[expect(missing_docs, reason = "would become the help's heading")]
    pub other: OtherNode,
    /// Simulate one of several parts of the fleet, such as 1/4.
    #[arg(long, default_value = "1/1")]
    pub part: Part,
    /// The folder of the simulation's own node; what an earlier run left there is removed.
    #[arg(long, value_name = "DIR", default_value = ".meterd/simulate")]
    pub data_dir: PathBuf,
    /// Where to write figures and checks as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to write them as a page with plots.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// A line a second, also on a terminal.
    #[arg(long)]
    pub plain: bool,
    #[command(flatten)]
    #[expect(missing_docs, reason = "would become the help's heading")]
    pub limits: Thresholds,
}

/// Faults on the way to the node, in thousandths of the frames.
#[derive(Args, Clone, Copy, Debug)]
pub struct FaultOptions {
    /// Frames lost, thousandths, both ways.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub loss: u16,
    /// Frames doubled, thousandths.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub duplicate: u16,
    /// Frames overtaken by those of the next 20 ms, thousandths.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub reorder: u16,
    /// Frames late by up to 2 s, thousandths.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub delay: u16,
    /// Frames with a wrong key beside honest ones, thousandths.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub wrong_key: u16,
    /// Older frames sent again beside honest ones, thousandths.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub replay: u16,
    /// Random bytes beside honest frames, thousandths.
    #[arg(long, default_value_t = 0, value_name = "PER MILLE", value_parser = per_mille())]
    pub garbage: u16,
}

fn per_mille() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(0..=1000)
}

/// A node that runs already.
#[derive(Args, Clone, Debug)]
pub struct OtherNode {
    /// Meters' address of a node that runs already; without it a node is started.
    #[arg(long, value_name = "ADDRESS", requires_all = ["api", "token_file"])]
    pub node: Option<SocketAddr>,
    /// Its Web API.
    #[arg(long, value_name = "ADDRESS")]
    pub api: Option<SocketAddr>,
    /// File with an administrator's token.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Its ClickHouse, for the checks; without it acknowledgements and balances are checked.
    #[arg(long, value_name = "ADDRESS")]
    pub clickhouse: Option<SocketAddr>,
    /// Who asks ClickHouse.
    #[arg(long, default_value = "analyst")]
    pub clickhouse_user: String,
    /// File with his password.
    #[arg(long, value_name = "FILE")]
    pub clickhouse_password_file: Option<PathBuf>,
    /// The fleet is registered already: by --import-files, or by an earlier run.
    #[arg(long)]
    pub registered: bool,
    /// Write the fleet's rows for POST /v1/imports/meters into this folder, and end.
    #[arg(long, value_name = "DIR")]
    pub import_files: Option<PathBuf>,
    /// First stamp in seconds since 1970, on a quarter hour: for parts and import files that must
    /// agree.
    #[arg(long, value_name = "SECONDS")]
    pub first: Option<u32>,
}

/// `meterd fault-proxy`.
#[derive(Args, Clone, Copy, Debug)]
pub struct FaultProxy {
    /// Where devices reach it, by UDP and TCP.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// The node.
    #[arg(long, value_name = "ADDRESS")]
    pub to: SocketAddr,
    /// Seed of the faults.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[command(flatten)]
    #[expect(missing_docs, reason = "would become the help's heading")]
    pub faults: FaultOptions,
}

impl FaultOptions {
    /// The plan of these faults.
    #[must_use]
    pub fn plan(self) -> FaultPlan {
        FaultPlan {
            loss: self.loss,
            duplication: self.duplicate,
            reordering: self.reorder,
            delay: self.delay,
            wrong_key: self.wrong_key,
            replay: self.replay,
            garbage: self.garbage,
            reorder_span: Duration::from_millis(20),
            delay_span: Duration::from_secs(2),
        }
    }
}

/// What must hold; a miss is exit code 3.
#[derive(Args, Clone, Copy, Debug)]
pub struct Thresholds {
    /// Slowest acknowledgement that 99 of 100 readings may see, ms.
    #[arg(long, value_name = "MS")]
    pub max_ack_p99_ms: Option<u64>,
    /// Longest time that 99 of 100 probed readings may take until the API tells them, ms.
    #[arg(long, value_name = "MS")]
    pub max_fresh_p99_ms: Option<u64>,
    /// Sends of the generator that may be late by more than 20 ms, thousandths.
    #[arg(long, value_name = "PER MILLE")]
    pub max_late: Option<u64>,
    /// Entries that ClickHouse may be behind at most.
    #[arg(long, value_name = "ENTRIES")]
    pub max_lag: Option<u64>,
    /// Readings acknowledged a second at least, over the run.
    #[arg(long, value_name = "READINGS")]
    pub min_rate: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_from_one() {
        let check = |text: &str, want: Option<(u32, u32)>| {
            let got = text.parse::<Part>().ok().map(|part| (part.number, part.of));
            assert_eq!(got, want, "{text}");
        };
        check("1/1", Some((1, 1)));
        check("4/4", Some((4, 4)));
        check("0/4", None);
        check("5/4", None);
        check("1", None);
        check("a/b", None);
    }
}
