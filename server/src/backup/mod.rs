//! `meterd backup` and `meterd restore`.
//!
//! A backup is the whole log and a registry that fits it; everything else of a data folder follows
//! from them. It is taken while the node runs: the registry is copied first, as of one instant, and
//! then the log, up to the first change that this registry does not know. Changes that the registry
//! has and the log has not are in its outbox and reach the log after the restore.
//!
//! Ended segments never change, so a further backup into the same folder copies new ones only.

mod manifest;
mod restore;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use meter::{Entry, OutboxId, Seq};
use storage::log::{Batches, Directory, Layers, WritePath, copy_segment, segment_name, segments};
use storage::registry::Audit;

pub use manifest::{Listed, Manifest};
pub use restore::run as restore;

use crate::archive;
use crate::cli::Backup;
use crate::clock;
use crate::config::Settings;
use manifest::write_durably;

/// The registry within a backup and a data folder.
const REGISTRY: &str = "registry.sqlite";
/// The master key within a backup and a data folder.
const MASTER_KEY: &str = "master.key";
/// The log within a backup and a data folder.
const LOG: &str = "log";

/// Runs `meterd backup`.
///
/// # Errors
/// Something does not read or cannot be written; an earlier backup in the folder stays whole.
#[expect(clippy::print_stdout, reason = "the command line's own voice")]
pub fn run(options: &Backup) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::load(options.config.as_deref())?;
    if let Some(data_dir) = &options.data_dir {
        settings.node.data_dir.clone_from(data_dir);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let made_at_s = clock::unix_ms() / 1000;
    let taken =
        runtime.block_on(take(&settings, &options.to, options.with_master_key, made_at_s))?;
    let Manifest { next, files, .. } = &taken.manifest;
    let bytes: u64 = files.iter().map(|listed| listed.bytes).sum();
    println!(
        "{}: entries 1 to {}, {} files, {bytes} bytes, {} of them copied now",
        options.to.display(),
        next.saturating_sub(1),
        files.len(),
        taken.copied
    );
    if !options.with_master_key {
        println!(
            "the master key is not in it: keep {MASTER_KEY} apart, meters' keys cannot be read without it"
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// A backup that was taken.
#[derive(Debug)]
pub struct Taken {
    /// What is in it.
    pub manifest: Manifest,
    /// Files copied now, the others were there.
    pub copied: usize,
}

/// Takes a backup of a data folder into `to`.
///
/// # Errors
/// As [`run`].
pub async fn take(
    settings: &Settings,
    to: &Path,
    with_master_key: bool,
    made_at_s: u64,
) -> anyhow::Result<Taken> {
    let before = prepare(to)?;
    let log = archive::whole_log(settings)?;
    // Whatever lies below this was in the log before the registry was copied.
    let settled = end_of(&log)?;
    let known = copy_registry(settings, to).await?;
    let cut = cut_at(&log, settled, known)?;

    let mut manifest = Manifest::new(made_at_s);
    manifest.newest_change = known.0;
    let mut copied = 0;
    let firsts = segments(&log)?;
    ensure!(
        firsts.first() == Some(&Seq(1)),
        "the log begins at entry {}: the segments before it are neither in the log's folder nor in \
         the archive; a backup without them could not be verified",
        firsts.first().copied().unwrap_or_default()
    );
    for (index, first) in firsts.iter().enumerate().filter(|(_, first)| **first < cut) {
        let until = firsts.get(index + 1).copied().unwrap_or(cut).min(cut);
        let path = format!("{LOG}/{}", segment_name(*first));
        let is_ended = firsts.get(index + 1).is_some_and(|next| *next <= cut);
        let known = before.as_ref().and_then(|before| before.listed(&path)).filter(|_| is_ended);
        if let Some(known) = known.filter(|known| is_as_listed(to, known)) {
            manifest.files.push(known.clone());
            manifest.next = until.0;
            continue;
        }
        let copy = copy_segment(&log, *first, until)?;
        ensure!(
            copy.next == until || firsts.len() == index + 1,
            "{} ends at entry {}, the next segment begins at {until}; see `meterd log verify`",
            copy.name,
            copy.next
        );
        write_durably(&to.join(&path), &copy.bytes)?;
        manifest.files.push(Listed::of(to, &path)?);
        manifest.next = copy.next.0;
        copied += 1;
    }
    manifest.files.push(Listed::of(to, REGISTRY)?);
    copied += 1;
    if with_master_key {
        copy_key(&settings.node.data_dir.join(MASTER_KEY), &to.join(MASTER_KEY))?;
        manifest.files.push(Listed::of(to, MASTER_KEY)?);
        copied += 1;
    }
    manifest.save(to)?;
    Ok(Taken { manifest, copied })
}

/// Makes the folder, or finds the backup in it. A folder of something else is left alone.
fn prepare(to: &Path) -> anyhow::Result<Option<Manifest>> {
    let before = Manifest::load(to)?;
    if before.is_none() && to.exists() && fs::read_dir(to)?.next().is_some() {
        bail!("{} is not empty and holds no backup; name another folder with --to", to.display());
    }
    fs::create_dir_all(to.join(LOG)).with_context(|| format!("cannot make {}", to.display()))?;
    Ok(before)
}

fn is_as_listed(folder: &Path, listed: &Listed) -> bool {
    let metadata = fs::metadata(folder.join(&listed.path));
    metadata.is_ok_and(|metadata| metadata.len() == listed.bytes)
}

/// The entry after the last one of the log.
fn end_of(log: &Layers) -> anyhow::Result<Seq> {
    let Some(last) = segments(log)?.pop() else { return Ok(Seq(1)) };
    Ok(copy_segment(log, last, Seq(u64::MAX))?.next)
}

/// Copies the registry as of now; returns the newest change that the copy knows.
async fn copy_registry(settings: &Settings, to: &Path) -> anyhow::Result<OutboxId> {
    let fresh = to.join("registry.new");
    if fresh.exists() {
        fs::remove_file(&fresh)?;
    }
    let mut audit = Audit::open(&settings.node.data_dir.join(REGISTRY)).await?;
    audit.copy_to(&fresh).await.with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::File::open(&fresh)?.sync_all()?;
    let path = to.join(REGISTRY);
    fs::rename(&fresh, &path)?;
    Ok(Audit::open(&path).await?.newest_outbox().await?)
}

/// The first entry of the first batch from `settled` on with a change newer than `known`, else the
/// end of time.
fn cut_at(log: &Layers, settled: Seq, known: OutboxId) -> anyhow::Result<Seq> {
    let mut batches = Batches::open_from(log, settled)?;
    while let Some(batch) = batches.next() {
        let header = batch?.header;
        let mut payload = batches.payload();
        for seq in header.first.0..header.next().0 {
            let entry = Entry::decode(&mut payload)
                .with_context(|| format!("entry {seq} of the log does not read"))?;
            if matches!(entry, Entry::Changes { outbox, .. } if outbox > known) {
                return Ok(header.first);
            }
        }
    }
    Ok(Seq(u64::MAX))
}

/// Copies the master key, readable by its owner only.
fn copy_key(from: &Path, to: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let key = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(to).with_context(|| format!("cannot write {}", to.display()))?;
    file.write_all(&key)?;
    file.sync_all()?;
    Ok(())
}

/// A folder's log, for reading.
fn log_of(folder: &Path) -> anyhow::Result<Directory> {
    Ok(Directory::open(&folder.join(LOG), WritePath::Buffered)?)
}
