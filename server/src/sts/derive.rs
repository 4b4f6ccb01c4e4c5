//! `meterd sts derive`: a meter's key from a vending key.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use sts::{Deriver, TokenCipher, explain};

use super::StsError;
use super::keys::KeyArgs;

/// `meterd sts derive`.
#[derive(Args, Debug)]
pub struct Derive {
    /// Print the derived key itself, and mind where it goes.
    #[arg(long)]
    show_key: bool,
    #[command(flatten)]
    keys: KeyArgs,
}

impl Derive {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        let vending = self.keys.vending_key()?.ok_or(StsError::Missing {
            what: "a vending key",
            why: "give --vending-key-file, or METERD_STS_VENDING_KEY in the environment",
        })?;
        let (base, meter) = (self.keys.meter.base_year, self.keys.meter.config()?);
        let key = Deriver::new(&vending).derive(base, &meter)?;
        writeln!(out, "vending key check value: {}", vending.check_value())?;
        for step in explain::explain_derivation(vending.derivation(), base, &meter) {
            writeln!(out, "{step}")?;
        }
        let check_value = TokenCipher::new(&key, self.keys.tables()).check_value();
        writeln!(out, "decoder key check value: {check_value}")?;
        if self.show_key {
            write!(out, "decoder key: ")?;
            key.expose().iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
            writeln!(out)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
