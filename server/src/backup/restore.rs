//! `meterd restore`: checks a backup in every way that is known before anything is written, and
//! makes a data folder of it in one step.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use meter::{Entry, OutboxId, Seq};
use storage::log::{Batches, verify};
use storage::registry::Audit;

use super::{LOG, MASTER_KEY, Manifest, REGISTRY, copy_key, log_of};
use crate::cli::{Restore, Verify};
use crate::config::Settings;
use crate::verify as books;

/// Runs `meterd restore`.
///
/// # Errors
/// The backup is broken, or the data folder is not empty; nothing was written. Books that differ
/// under `--verify` are exit code 3.
#[expect(clippy::print_stdout, reason = "the command line's own voice")]
pub fn run(options: &Restore) -> anyhow::Result<ExitCode> {
    let Restore { from, data_dir, master_key, verify } = options;
    let manifest = Manifest::load(from)?.with_context(|| {
        format!("{} holds no whole backup: manifest.json is missing", from.display())
    })?;
    if data_dir.exists() && fs::read_dir(data_dir)?.next().is_some() {
        bail!("{} is not empty; restore into a new folder", data_dir.display());
    }
    manifest.check(from)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let newest = check_log(from, &manifest)?;
    runtime.block_on(check_registry(from, &manifest, newest))?;
    let key = key_of(from, master_key.as_deref())?;
    println!("the backup is sound: entries 1 to {}", manifest.next.saturating_sub(1));

    place(from, data_dir, &manifest, key.as_deref())?;
    // An older version's backup, too, is of this version from here on.
    runtime.block_on(storage::registry::migrate(&data_dir.join(REGISTRY)))?;
    println!("restored to {}", data_dir.display());
    if !verify {
        return Ok(ExitCode::SUCCESS);
    }
    let mut settings = Settings::load(None)?;
    settings.node.data_dir.clone_from(data_dir);
    let without = Verify { config: None, data_dir: None, without_clickhouse: true, workers: 0 };
    let verdict = books::verify(&settings, &without, &runtime)?;
    print!("{verdict}");
    Ok(if verdict.holds() { ExitCode::SUCCESS } else { ExitCode::from(3) })
}

/// The whole log is there and sound; returns the newest change in it.
fn check_log(from: &Path, manifest: &Manifest) -> anyhow::Result<OutboxId> {
    let disk = log_of(from)?;
    let report = verify(&disk)?;
    if let Some(damage) = report.damage.into_iter().next() {
        return Err(anyhow::Error::new(damage).context("the backup's log is damaged"));
    }
    let found = (report.first.unwrap_or(Seq(1)), report.next.unwrap_or(Seq(1)));
    ensure!(
        found == (Seq(1), Seq(manifest.next)),
        "the backup's log holds entries {} to {}, its manifest says 1 to {}; take another backup",
        found.0,
        found.1.0.saturating_sub(1),
        manifest.next.saturating_sub(1)
    );
    let mut newest = OutboxId(0);
    let mut batches = Batches::open(&disk)?;
    while let Some(batch) = batches.next() {
        let header = batch?.header;
        let mut payload = batches.payload();
        for seq in header.first.0..header.next().0 {
            let entry = Entry::decode(&mut payload)
                .with_context(|| format!("entry {seq} of the backup's log does not read"))?;
            if let Entry::Changes { outbox, .. } = entry {
                newest = newest.max(outbox);
            }
        }
    }
    Ok(newest)
}

/// The registry is sound and fits the log.
async fn check_registry(
    from: &Path,
    manifest: &Manifest,
    newest_in_log: OutboxId,
) -> anyhow::Result<()> {
    let mut audit = Audit::open(&from.join(REGISTRY)).await?;
    audit.check().await.context("the backup's registry")?;
    let newest = audit.newest_outbox().await?;
    ensure!(
        newest.0 == manifest.newest_change,
        "the backup's registry ends at change {newest}, its manifest says {}; take another backup",
        manifest.newest_change
    );
    ensure!(
        newest_in_log <= newest,
        "the backup's log holds change {newest_in_log}, its registry ends at {newest}: they are \
         not of one backup"
    );
    let first_waiting = audit.oldest_unsent().await?.map_or(newest.0 + 1, |oldest| oldest.0);
    ensure!(
        first_waiting <= newest_in_log.0 + 1,
        "the backup's log ends at change {newest_in_log}, and its registry no longer has change \
         {}: they are not of one backup",
        newest_in_log.0 + 1
    );
    Ok(())
}

/// Where the master key comes from, if it is at hand.
fn key_of(from: &Path, given: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    if let Some(given) = given {
        ensure!(given.is_file(), "{} is not there", given.display());
        return Ok(Some(given.to_owned()));
    }
    let own = from.join(MASTER_KEY);
    Ok(own.is_file().then_some(own))
}

/// Copies everything beside the data folder, then renames it there.
#[expect(clippy::print_stdout, reason = "the command line's own voice")]
fn place(
    from: &Path,
    data_dir: &Path,
    manifest: &Manifest,
    key: Option<&Path>,
) -> anyhow::Result<()> {
    let fresh = data_dir.with_extension("restoring");
    if fresh.exists() {
        bail!("{} is left from a restore that was cut short; remove it", fresh.display());
    }
    fs::create_dir_all(fresh.join(LOG))
        .with_context(|| format!("cannot make {}", fresh.display()))?;
    for listed in manifest.files.iter().filter(|listed| listed.path != MASTER_KEY) {
        let to = fresh.join(&listed.path);
        fs::copy(from.join(&listed.path), &to)
            .and_then(|_| fs::File::open(&to)?.sync_all())
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    match key {
        Some(key) => copy_key(key, &fresh.join(MASTER_KEY))?,
        None => println!(
            "put {MASTER_KEY} into {} before the start: the backup does not hold it",
            data_dir.display()
        ),
    }
    if data_dir.exists() {
        fs::remove_dir(data_dir)?;
    }
    fs::rename(&fresh, data_dir)
        .with_context(|| format!("cannot rename {} to {}", fresh.display(), data_dir.display()))?;
    let parent = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()?;
    Ok(())
}
