//! `meterd sts keypad`: a virtual token meter that lives in a file.
//!
//! The file is the meter's history: its making on the first line, then a line for each token that
//! was typed and when. Its state follows from that, so a token is refused the second time in
//! whatever process it is typed. The file holds the meter's first key and is readable by its owner
//! only.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use sts::meter::{Config, LockoutRule, ResultCode, VirtualMeter};
use sts::{
    DecoderKey, KeyExpiryNumber, KeyRevisionNumber, KeyType, MeterConfig, Service, Sta,
    SupplyGroupCode, TariffIndex, Tid, TokenNumber, VendingKeyId,
};

use super::keys::{KeyArgs, NO_KEY};
use super::{StsError, failed};
use crate::clock::Clock;

/// Identifiers that the meter keeps.
const TIDS_KEPT: usize = 50;
/// Credit above which it answers overflow: 1 million kWh.
const UNITS_MAX: u64 = 10_000_000;

/// `meterd sts keypad`.
#[derive(Args, Debug)]
pub struct Keypad {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a meter in a new file.
    New {
        /// The file.
        file: PathBuf,
        /// Identifiers up to this one are past.
        #[arg(long, value_name = "MINUTES", default_value_t = 0)]
        start_tid: u32,
        /// Key and settings.
        #[command(flatten)]
        keys: Box<KeyArgs>,
    },
    /// Type a token; exit code 3 when the meter refuses it.
    Enter {
        /// The meter's file.
        file: PathBuf,
        /// The 20 digits.
        #[arg(num_args = 1.., required = true)]
        token: Vec<String>,
    },
    /// Show the meter's credit and settings.
    Show {
        /// The meter's file.
        file: PathBuf,
    },
}

/// The first line of the file.
#[derive(Deserialize, Serialize)]
struct Making {
    pan: String,
    sgc: u32,
    kt: u8,
    krn: u8,
    ti: u8,
    ken: u8,
    start_tid: u32,
    sample_tables: bool,
    key: String,
}

/// A further line.
#[derive(Deserialize, Serialize)]
struct Entered {
    at_s: u64,
    token: String,
}

impl Keypad {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        match &self.what {
            What::New { file, start_tid, keys } => {
                make(file, *start_tid, keys)?;
                writeln!(out, "{}: made", file.display())?;
                Ok(ExitCode::SUCCESS)
            }
            What::Enter { file, token } => {
                let number: TokenNumber = token.join(" ").parse()?;
                let mut meter = open(file)?;
                let at_s = Clock::System.now().0.into();
                let result = meter.enter(number, at_s);
                let entered = Entered { at_s, token: format!("{number:#}") };
                append(file, &serde_json::to_string(&entered).expect("its keys are strings"))?;
                writeln!(out, "{}", told(result))?;
                writeln!(out, "{}", credit(&meter))?;
                Ok(if result.is_accepted() { ExitCode::SUCCESS } else { failed() })
            }
            What::Show { file } => {
                let meter = open(file)?;
                let settings = meter.settings();
                writeln!(out, "meter {}", meter.pan())?;
                let (kt, ken) = (settings.kt.code(), settings.ken.0);
                writeln!(out, "KT {kt}, KRN {}, TI {}, KEN {ken}", settings.krn, settings.ti)?;
                writeln!(out, "{}", credit(&meter))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// What the display shows: the number, where one is public, and its name.
fn told(result: ResultCode) -> String {
    let number = result.number().map_or_else(|| "-".to_owned(), |number| number.to_string());
    format!("{number} {result:?}")
}

fn credit(meter: &VirtualMeter) -> String {
    let units = meter.registers().units;
    format!("credit {}.{}", units / 10, units % 10)
}

fn make(file: &Path, start_tid: u32, keys: &KeyArgs) -> Result<(), StsError> {
    Tid::new(start_tid)?;
    let key = keys.decoder_key()?.ok_or(NO_KEY)?;
    let config = keys.meter.config()?;
    let making = Making {
        pan: config.pan.to_string(),
        sgc: config.key.sgc.value(),
        kt: config.key.kt.code(),
        krn: config.key.krn.value(),
        ti: config.ti.value(),
        ken: keys.meter.ken,
        start_tid,
        sample_tables: keys.sample_tables,
        key: key.expose().iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let line = serde_json::to_string(&making).expect("its keys are strings");
    let fail = |source| StsError::Write { path: file.to_owned(), source };
    let mut options = OpenOptions::new();
    let mut made = options.write(true).create_new(true).mode(0o600).open(file).map_err(fail)?;
    writeln!(made, "{line}").and_then(|()| made.sync_all()).map_err(fail)
}

fn append(file: &Path, line: &str) -> Result<(), StsError> {
    let fail = |source| StsError::Write { path: file.to_owned(), source };
    let mut opened = OpenOptions::new().append(true).open(file).map_err(fail)?;
    writeln!(opened, "{line}").and_then(|()| opened.sync_all()).map_err(fail)
}

/// The meter as its history has left it.
fn open(file: &Path) -> Result<VirtualMeter, StsError> {
    let text = fs::read_to_string(file)
        .map_err(|source| StsError::Read { path: file.to_owned(), source })?;
    let damaged = |index: usize, reason: &str| StsError::Keypad {
        path: file.to_owned(),
        line: index + 1,
        reason: reason.to_owned(),
    };
    let mut lines = text.lines().enumerate();
    let first = lines.next().and_then(|(_, line)| serde_json::from_str::<Making>(line).ok());
    let meter = first.and_then(|making| making.meter());
    let mut meter =
        meter.ok_or_else(|| damaged(0, "not the making of a meter; make a new file"))?;
    for (index, line) in lines {
        let entered: Option<Entered> = serde_json::from_str(line).ok();
        let number = entered.and_then(|e| Some((e.at_s, e.token.parse::<TokenNumber>().ok()?)));
        let (at_s, number) = number.ok_or_else(|| damaged(index, "not a token that was typed"))?;
        meter.enter(number, at_s);
    }
    Ok(meter)
}

impl Making {
    fn meter(&self) -> Option<VirtualMeter> {
        let key = DecoderKey::from_hex(&self.key).ok()?;
        let meter = MeterConfig {
            pan: self.pan.parse().ok()?,
            ea: key.algorithm(),
            key: VendingKeyId {
                sgc: SupplyGroupCode::new(self.sgc).ok()?,
                kt: KeyType::from_code(self.kt).ok()?,
                krn: KeyRevisionNumber::new(self.krn).ok()?,
            },
            ti: TariffIndex::new(self.ti).ok()?,
        };
        let config = Config {
            meter,
            ken: KeyExpiryNumber(self.ken),
            service: Service::Electricity,
            sta: if self.sample_tables { Sta::sample() } else { Sta::production() },
            tid_count: TIDS_KEPT,
            start: Tid::new(self.start_tid).ok()?,
            units_max: UNITS_MAX,
            currency_steps_max: i128::from(u64::MAX),
            key_change_timeout_s: 600,
            lockout: Some(LockoutRule::CLOU),
        };
        Some(VirtualMeter::new(config, key))
    }
}
