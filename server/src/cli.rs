//! The command line of `meterd`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::prove::Fault;
use crate::simulate::{FaultProxy, Simulate};
use crate::sts::StsCommand;
use crate::vend::Vend;

/// Smart prepaid electricity on one node.
#[derive(Debug, Parser)]
#[command(name = "meterd", version, about, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node.
    Serve(Serve),
    /// Run a real feeder's week through a node on this machine and check every result.
    Demo(Demo),
    /// Load-test a node with any fleet and fault, and check every result against the truth.
    Simulate(Box<Simulate>),
    /// Stand between devices and a node, and lose, double, delay and reorder what passes.
    FaultProxy(FaultProxy),
    /// Decode frames, one JSON line each.
    Decode(Decode),
    /// Look into a node's log.
    #[command(subcommand)]
    Log(LogCommand),
    /// Make, read, explain and check tokens of IEC 62055-41 (STS).
    #[command(subcommand)]
    Sts(Box<StsCommand>),
    /// Sell credit over a node's API: quote, buy, status, receipt, reverse, refund, bulk.
    Vend(Vend),
    /// Look after ClickHouse.
    #[command(subcommand)]
    Storage(StorageCommand),
    /// Derive the balance of an account line by line, from a running node.
    Explain(Explain),
    /// Replay the whole log and hold the books against the registry, the API's view and ClickHouse;
    /// exit code 3 on any difference.
    Verify(Verify),
    /// Copy log and registry of a node, also while it runs; again into the same folder copies what is
    /// new.
    Backup(Backup),
    /// Make a data folder of a backup, after checking all of it.
    Restore(Restore),
    /// Tell stories of meters, people and faults to a node on simulated disks, on virtual time, and
    /// check the books after each; exit code 3 on any that does not hold.
    Prove(Prove),
    /// Read a settings file and say what is wrong with it.
    CheckConfig {
        /// The file.
        file: PathBuf,
    },
    /// Run the embedded ClickHouse (started by the node, settings on standard input).
    #[command(hide = true)]
    Engine,
}

/// `meterd serve`.
#[derive(Args, Debug)]
pub struct Serve {
    /// Settings that differ from the defaults; see deploy/meterd.toml.
    #[arg(long, value_name = "FILE", env = "METERD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the first start writes the administrator's token, readable by its owner only; without
    /// it the token is printed.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// `meterd explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The account's id.
    pub account: u32,
    /// Where the node's API listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub api: SocketAddr,
    /// The file with a token that may see accounts; else METERD_TOKEN.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The lines as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `meterd verify`.
#[derive(Args, Debug)]
pub struct Verify {
    /// The node's settings.
    #[arg(long, value_name = "FILE", env = "METERD_CONFIG")]
    pub config: Option<PathBuf>,
    /// The node's data folder, where it is not that of the settings.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Do not compare with ClickHouse.
    #[arg(long)]
    pub without_clickhouse: bool,
    /// Worker threads of the dataflow, 0 for one a core. Results do not depend on it.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub workers: u16,
}

/// `meterd backup`.
#[derive(Args, Debug)]
pub struct Backup {
    /// The node's settings.
    #[arg(long, value_name = "FILE", env = "METERD_CONFIG")]
    pub config: Option<PathBuf>,
    /// The node's data folder, where it is not that of the settings.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The backup's folder: new, or an earlier backup of the same node.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    /// Put the master key into the backup; whoever has both can read the meters' keys.
    #[arg(long)]
    pub with_master_key: bool,
}

/// `meterd restore`.
#[derive(Args, Debug)]
pub struct Restore {
    /// The backup's folder.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
    /// The data folder to make; it must not hold anything.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The master key, where the backup does not hold it.
    #[arg(long, value_name = "FILE")]
    pub master_key: Option<PathBuf>,
    /// Replay the log afterwards and hold the books against the registry.
    #[arg(long)]
    pub verify: bool,
}

/// `meterd prove`.
#[derive(Args, Debug)]
pub struct Prove {
    /// How many stories.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    pub seeds: u64,
    /// How long at most.
    #[arg(long, value_name = "SECONDS")]
    pub seconds: Option<u32>,
    /// The first seed.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    pub first_seed: u64,
    /// One story only; what follows changes it.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Homes.
    #[arg(long, requires = "seed", value_parser = clap::value_parser!(u32).range(1..=900))]
    pub meters: Option<u32>,
    /// Days.
    #[arg(long, requires = "seed", value_parser = clap::value_parser!(u32).range(1..=400))]
    pub days: Option<u32>,
    /// Worker threads of the dataflow.
    #[arg(long, requires = "seed", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// Kinds of faults, or `none`.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    pub faults: Option<Vec<FaultArg>>,
}

/// A kind of fault, or none.
#[derive(Clone, Copy, Debug)]
pub struct FaultArg(pub Option<Fault>);

impl std::str::FromStr for FaultArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            Ok(Self(None))
        } else {
            Fault::from_str(text, true).map(|fault| Self(Some(fault)))
        }
    }
}

/// `meterd demo`.
#[derive(Args, Debug)]
pub struct Demo {
    /// End after the week; exit code 0 only if all checks hold.
    #[arg(long)]
    pub once: bool,
    /// Where to write the addresses and the checks as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The demo's folder; what an earlier demo left there is removed.
    #[arg(long, value_name = "DIR", default_value = ".meterd/demo")]
    pub data_dir: PathBuf,
    /// How long the week lasts.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub seconds: u32,
    /// Kill the node (SIGKILL) this often at random moments of the week.
    #[arg(long, value_name = "TIMES", default_value_t = 0)]
    pub kill: u32,
    /// Seed of everything random.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// A protocol that can be decoded.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Protocol {
    /// DLMS/COSEM: wrapper, HDLC, M-Bus or bare APDUs.
    Dlms,
}

/// `meterd decode`.
#[derive(Args, Debug)]
pub struct Decode {
    /// The protocol.
    #[arg(long)]
    pub protocol: Protocol,
    /// Global unicast encryption key, 32 hex digits.
    #[arg(long, value_name = "EK")]
    pub key: Option<String>,
    /// Authentication key, 32 hex digits.
    #[arg(long, value_name = "AK")]
    pub auth_key: Option<String>,
    /// Lines of JSON with a member "hex"; `-` for standard input.
    pub file: PathBuf,
}

/// `meterd log`.
#[derive(Debug, Subcommand)]
pub enum LogCommand {
    /// Print the entries, one JSON line each.
    Dump {
        /// The node's data folder.
        #[arg(long, value_name = "DIR", default_value = ".meterd/data")]
        data_dir: PathBuf,
        /// The first entry.
        #[arg(long, value_name = "SEQ", default_value_t = 1)]
        from: u64,
        /// How many entries at most.
        #[arg(long, value_name = "COUNT", default_value_t = u64::MAX)]
        limit: u64,
    },
    /// Check every batch; exit code 3 when one is damaged.
    Verify {
        /// The node's data folder.
        #[arg(long, value_name = "DIR", default_value = ".meterd/data")]
        data_dir: PathBuf,
    },
}

/// `meterd storage`.
#[derive(Debug, Subcommand)]
pub enum StorageCommand {
    /// Print which ClickHouse it is, how far it is behind, and what its tables hold; exit code 1
    /// when it cannot be reached.
    Status {
        /// The node's settings.
        #[arg(long, value_name = "FILE", env = "METERD_CONFIG")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make every table again from the log; the node may run meanwhile.
    Rebuild {
        /// The node's settings.
        #[arg(long, value_name = "FILE", env = "METERD_CONFIG")]
        config: Option<PathBuf>,
    },
}
