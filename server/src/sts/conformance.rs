//! `meterd sts conformance`: a file of vectors, row by row.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sts::conformance::{check_rows, read_csv};

use super::{StsError, failed};

/// `meterd sts conformance`.
#[derive(Args, Debug)]
pub struct Conformance {
    /// Vectors as CSV; docs/sts.md has the columns.
    file: PathBuf,
}

impl Conformance {
    pub(super) fn run(&self, out: &mut impl Write) -> Result<ExitCode, StsError> {
        let path = || self.file.clone();
        let text = fs::read_to_string(&self.file)
            .map_err(|source| StsError::Read { path: path(), source })?;
        let rows = read_csv(text.trim_start_matches('\u{feff}'))
            .map_err(|source| StsError::Vectors { path: path(), source })?;
        let summary = check_rows(&rows);
        for failure in &summary.failures {
            writeln!(out, "{failure}")?;
        }
        writeln!(out, "{summary}")?;
        Ok(if summary.failures.is_empty() { ExitCode::SUCCESS } else { failed() })
    }
}
