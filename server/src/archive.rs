//! The archive's thread: copies segments that the log has ended into a folder or a bucket, and lets
//! the log give them up once a snapshot covers them too. And the log as it was from its first entry
//! on, for whoever reads all of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use meter::Seq;
use storage::archive::{Archive, ArchiveError, Bucket};
use storage::log::{Directory, Disk, Layers, Progress, WritePath};
use tracing::{info, warn};

use crate::config::Settings;

/// How often the thread looks for a segment that has ended.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the archive refused.
const RETRY: Duration = Duration::from_secs(30);

/// Decides how far the log may be given up: below the older snapshot, and below the archive.
#[derive(Debug)]
pub struct Retire {
    log: Arc<Progress>,
    covered: AtomicU64,
    archived: AtomicU64,
}

impl Retire {
    /// For a log that is archived as far as `archived`; [`Seq`] of the highest number without an
    /// archive.
    #[must_use]
    pub fn new(log: Arc<Progress>, archived: Seq) -> Arc<Self> {
        let (covered, archived) = (AtomicU64::new(0), AtomicU64::new(archived.0));
        Arc::new(Self { log, covered, archived })
    }

    /// A start needs no entry below this.
    pub fn covered(&self, below: Seq) {
        self.covered.store(below.0, Ordering::Release);
        self.request();
    }

    /// The archive has everything below this.
    pub(crate) fn archived(&self, below: Seq) {
        self.archived.store(below.0, Ordering::Release);
        self.request();
    }

    fn request(&self) {
        // Acquire: the copies that a position stands for are seen with it.
        let covered = self.covered.load(Ordering::Acquire);
        let archived = self.archived.load(Ordering::Acquire);
        self.log.request_retire(Seq(covered.min(archived)));
    }
}

/// What the archive's thread works with.
#[derive(Debug)]
pub struct Keeper {
    archive: Archive,
    log: Arc<dyn Disk>,
    /// Copies kept in the archive, 0 for all.
    segments_max: usize,
    retire: Arc<Retire>,
    /// Where the last look ended.
    next: Seq,
}

/// Whether the settings want an archive.
#[must_use]
pub fn is_wanted(settings: &Settings) -> bool {
    !settings.archive.store.is_empty()
}

/// The archive that the settings name, if they want one. A folder is made where it is missing.
///
/// # Errors
/// The folder cannot be opened, or the bucket's settings are refused.
pub fn open(settings: &Settings) -> anyhow::Result<Option<Archive>> {
    if !is_wanted(settings) {
        return Ok(None);
    }
    let store = &settings.archive.store;
    if let Some(location) = settings.archive.location()? {
        let bucket = Bucket::open(&location);
        return Ok(Some(Archive::in_bucket(bucket.with_context(|| store.clone())?)));
    }
    let path = settings.node.data_dir.join(store);
    let folder = Directory::open(&path, WritePath::Buffered)
        .with_context(|| format!("cannot open the archive {}", path.display()))?;
    Ok(Some(Archive::new(Arc::new(folder))))
}

/// The log of a data folder with its archive before it, for reading.
///
/// # Errors
/// The log or its archive cannot be opened.
pub fn whole_log(settings: &Settings) -> anyhow::Result<Layers> {
    let path = settings.node.data_dir.join("log");
    anyhow::ensure!(
        path.is_dir(),
        "{} is not there; name the node's data folder with --data-dir",
        path.display()
    );
    let log: Arc<dyn Disk> = Arc::new(Directory::open(&path, WritePath::Buffered)?);
    let bucket = settings.archive.location()?;
    let folder = settings.node.data_dir.join(&settings.archive.store);
    // Who only reads makes no folder.
    let archive = if bucket.is_some() || folder.is_dir() { open(settings)? } else { None };
    Ok(match archive {
        None => Layers(vec![log]),
        Some(archive) => archive.before(log),
    })
}

impl Keeper {
    /// The keeper of an archive.
    #[must_use]
    pub fn new(
        archive: Archive,
        settings: &Settings,
        log: Arc<dyn Disk>,
        retire: &Arc<Retire>,
    ) -> Self {
        let (retire, segments_max) = (Arc::clone(retire), settings.archive.segments_max as usize);
        Self { archive, log, segments_max, retire, next: Seq(0) }
    }

    /// Works until `stop` is dropped. A failure is told and tried again: meanwhile the log keeps
    /// its segments.
    pub fn run(mut self, stop: &Receiver<()>) {
        let mut pause = Duration::ZERO;
        while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = match self.look() {
                Ok(()) => LOOK,
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    warn!(error, "the log keeps its old segments until they can be archived");
                    RETRY
                }
            };
        }
    }

    fn look(&mut self) -> Result<(), ArchiveError> {
        let next = self.archive.take(self.log.as_ref())?;
        if next == self.next {
            return Ok(());
        }
        self.next = next;
        self.retire.archived(next);
        if self.segments_max > 0 {
            let copies = self.archive.copies()?;
            if let Some(index) = copies.len().checked_sub(self.segments_max).filter(|n| *n > 0) {
                let removed = self.archive.forget(copies[index])?;
                info!(removed, "old segments left the archive");
            }
        }
        Ok(())
    }
}
