//! `meterd sts explain`: every step from 20 digits to their meaning.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use sts::{TokenNumber, explain};

use super::StsError;
use super::keys::KeyArgs;

/// `meterd sts explain`.
#[derive(Args, Debug)]
pub struct Explain {
    /// The 20 digits, with spaces or dashes or without.
    #[arg(value_name = "TOKEN", num_args = 1.., required = true)]
    token: Vec<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

impl Explain {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        let number: TokenNumber = self.token.join(" ").parse()?;
        let base = self.keys.meter.base_year;
        if let Some(vending) = self.keys.vending_key()? {
            let meter = self.keys.meter.config()?;
            for step in explain::explain_derivation(vending.derivation(), base, &meter) {
                writeln!(out, "{step}")?;
            }
        }
        let cipher = self.keys.cipher()?;
        for step in explain::explain(number, cipher.as_ref(), Some(base)) {
            writeln!(out, "{step}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
