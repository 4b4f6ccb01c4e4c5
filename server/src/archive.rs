//! The archive's thread: copies segments that the log has ended, and lets the log give them up
//! once a snapshot covers them too.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use meter::Seq;
use storage::archive::Archive;
use storage::log::{Directory, Disk, Layers, Progress, WritePath, segments};
use tracing::{info, warn};

use crate::config::Settings;

/// How often the thread looks for a segment that has ended.
const LOOK: Duration = Duration::from_secs(1);
/// Pause after the archive's folder refused.
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
    folder: Arc<dyn Disk>,
    log: Arc<dyn Disk>,
    /// Segments kept in the archive, 0 for all.
    segments_max: usize,
    retire: Arc<Retire>,
}

/// Where the settings put the archive, if they want one.
#[must_use]
pub fn folder(settings: &Settings) -> Option<PathBuf> {
    let folder = &settings.archive.folder;
    (!folder.as_os_str().is_empty()).then(|| settings.node.data_dir.join(folder))
}

/// The log of a data folder with its archive before it, for reading.
///
/// # Errors
/// A folder cannot be opened.
pub fn whole_log(settings: &Settings) -> anyhow::Result<Layers> {
    let path = settings.node.data_dir.join("log");
    anyhow::ensure!(
        path.is_dir(),
        "{} is not there; name the node's data folder with --data-dir",
        path.display()
    );
    let log: Arc<dyn Disk> = Arc::new(Directory::open(&path, WritePath::Buffered)?);
    match folder(settings).filter(|folder| folder.is_dir()) {
        None => Ok(Layers(vec![log])),
        Some(folder) => {
            let archive = Directory::open(&folder, WritePath::Buffered)?;
            Ok(Archive::new(Arc::new(archive)).before(log))
        }
    }
}

impl Keeper {
    /// The keeper that the settings want, if any.
    ///
    /// # Errors
    /// The archive's folder cannot be opened.
    pub fn open(
        settings: &Settings,
        log: Arc<dyn Disk>,
        retire: &Arc<Retire>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(path) = folder(settings) else { return Ok(None) };
        let folder = Directory::open(&path, WritePath::Buffered)
            .with_context(|| format!("cannot open the archive {}", path.display()))?;
        let folder: Arc<dyn Disk> = Arc::new(folder);
        let (archive, retire) = (Archive::new(Arc::clone(&folder)), Arc::clone(retire));
        let segments_max = settings.archive.segments_max as usize;
        Ok(Some(Self { archive, folder, log, segments_max, retire }))
    }

    /// Works until `stop` is dropped. A failure is told and tried again: meanwhile the log keeps
    /// its segments.
    pub fn run(&self, stop: &Receiver<()>) {
        let mut pause = Duration::ZERO;
        while stop.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            pause = match self.look() {
                Ok(()) => LOOK,
                Err(error) => {
                    warn!(%error, "the log keeps its old segments until they can be archived");
                    RETRY
                }
            };
        }
    }

    fn look(&self) -> Result<(), storage::archive::ArchiveError> {
        let next = self.archive.take(self.log.as_ref())?;
        self.retire.archived(next);
        if self.segments_max > 0 {
            let here = segments(self.folder.as_ref())?;
            if let Some(index) = here.len().checked_sub(self.segments_max).filter(|n| *n > 0) {
                let removed = self.archive.forget(here[index])?;
                info!(removed, "old segments left the archive");
            }
        }
        Ok(())
    }
}
