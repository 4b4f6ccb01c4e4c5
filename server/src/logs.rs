//! `meterd log`: looking into a node's log without changing it.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use meter::Entry;
use storage::log::{Batches, Directory, WritePath, verify};

use crate::cli::LogCommand;

/// Runs `meterd log dump` or `meterd log verify`.
///
/// # Errors
/// The log cannot be read. Damage that `verify` finds is no error but exit code 3.
pub fn run(command: &LogCommand) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match command {
        LogCommand::Dump { data_dir, from, limit } => dump(data_dir, *from, *limit, &mut out),
        LogCommand::Verify { data_dir } => check(data_dir, &mut out),
    };
    out.flush()?;
    result
}

fn open(data_dir: &Path) -> anyhow::Result<Directory> {
    let path = data_dir.join("log");
    anyhow::ensure!(
        path.is_dir(),
        "{} is not there; name the node's data folder with --data-dir",
        path.display()
    );
    Directory::open(&path, WritePath::Buffered).context("cannot open the log's folder")
}

/// Prints entries, one JSON line each: `{"seq":…,"entry":…}`.
fn dump(data_dir: &Path, from: u64, limit: u64, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let disk = open(data_dir)?;
    let mut batches = Batches::open(&disk)?;
    let mut left = limit;
    while let Some(batch) = batches.next() {
        let header = batch?.header;
        if header.next().0 <= from {
            continue;
        }
        let mut payload = batches.payload();
        for seq in header.first.0..header.next().0 {
            let entry = Entry::decode(&mut payload)
                .with_context(|| format!("entry {seq} does not read"))?;
            if seq < from {
                continue;
            }
            if left == 0 {
                return Ok(ExitCode::SUCCESS);
            }
            serde_json::to_writer(&mut *out, &serde_json::json!({ "seq": seq, "entry": entry }))?;
            writeln!(out)?;
            left -= 1;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Checks every batch and prints what was found.
fn check(data_dir: &Path, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let report = verify(&open(data_dir)?)?;
    writeln!(
        out,
        "{} segments, {} batches, {} entries, {} bytes",
        report.segments, report.batches, report.entries, report.payload_bytes
    )?;
    if let (Some(first), Some(next)) = (report.first, report.next) {
        writeln!(out, "entries {first} to {}", next.0 - 1)?;
    }
    if let Some(torn) = &report.torn {
        writeln!(out, "torn end in {} at byte {}: never acknowledged", torn.file, torn.offset)?;
    }
    for damage in &report.damage {
        writeln!(out, "damage: {damage}")?;
    }
    let is_sound = report.damage.is_empty();
    writeln!(out, "{}", if is_sound { "sound" } else { "damaged" })?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(3) })
}
