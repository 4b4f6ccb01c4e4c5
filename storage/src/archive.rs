//! The archive: copies of segments that the log has ended, so that the log can be read from its
//! first entry after its own segments were used again.
//!
//! A copy is written beside its place, synced and renamed: it is there as a whole or not at all.
//! Segments never change once ended, so a copy that is there is never written again.

use std::io;
use std::sync::Arc;

use meter::Seq;

use crate::log::{self, Disk, Layers, copy_segment, segments};

const UNFINISHED: &str = "archive.tmp";

/// An error of the archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The log's segment does not read.
    #[error("archive: a segment of the log cannot be copied")]
    Log(#[from] log::Error),
    /// The archive's folder refused.
    #[error("archive: cannot {operation} {file}; check the folder's rights and space")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A segment of the log ends before the next one begins.
    #[error(
        "archive: {file} ends before entry {next}, which begins the next segment; see `meterd log verify`"
    )]
    Short {
        /// The segment.
        file: String,
        /// The entry that it should reach.
        next: Seq,
    },
}

/// A folder of copies.
#[derive(Clone, Debug)]
pub struct Archive {
    disk: Arc<dyn Disk>,
}

impl Archive {
    /// The archive in this folder.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// All entries below this are in the archive, if it holds the first entry; else the first
    /// entry that is missing.
    ///
    /// # Errors
    /// [`ArchiveError::Log`] if the folder cannot be listed or its last copy does not read.
    pub fn next(&self) -> Result<Seq, ArchiveError> {
        let Some(last) = segments(self.disk.as_ref())?.pop() else { return Ok(Seq(1)) };
        Ok(copy_segment(self.disk.as_ref(), last, Seq(u64::MAX))?.next)
    }

    /// Copies every ended segment of `log` that is not here yet; returns the entry below which the
    /// log may be given up: that of the segment still written.
    ///
    /// # Errors
    /// [`ArchiveError`]; what was copied before it stays.
    pub fn take(&self, log: &dyn Disk) -> Result<Seq, ArchiveError> {
        let (here, there) = (segments(self.disk.as_ref())?, segments(log)?);
        let mut next = there.first().copied().unwrap_or(Seq(1));
        for pair in there.windows(2) {
            let [first, until] = [pair[0], pair[1]];
            if !here.contains(&first) {
                self.put(log, first, until)?;
            }
            next = until;
        }
        Ok(next)
    }

    /// Removes the oldest copies that only hold entries below `below`; returns how many.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn forget(&self, below: Seq) -> Result<usize, ArchiveError> {
        let here = segments(self.disk.as_ref())?;
        let old = here.windows(2).take_while(|pair| pair[1] <= below).map(|pair| pair[0]);
        let mut removed = 0;
        for first in old {
            let name = log::segment_name(first);
            self.disk.remove(&name).map_err(io_error("remove", &name))?;
            removed += 1;
        }
        if removed > 0 {
            self.disk.sync_dir().map_err(io_error("sync", "the archive's folder"))?;
        }
        Ok(removed)
    }

    /// Log and archive seen as one log, from the first entry that either holds.
    #[must_use]
    pub fn before(&self, log: Arc<dyn Disk>) -> Layers {
        Layers(vec![Arc::clone(&self.disk), log])
    }

    fn put(&self, log: &dyn Disk, first: Seq, until: Seq) -> Result<(), ArchiveError> {
        let copy = copy_segment(log, first, until)?;
        if copy.next != until {
            return Err(ArchiveError::Short { file: copy.name, next: until });
        }
        if self
            .disk
            .list()
            .map_err(io_error("list", "the archive's folder"))?
            .iter()
            .any(|name| name == UNFINISHED)
        {
            self.disk.remove(UNFINISHED).map_err(io_error("remove", UNFINISHED))?;
        }
        let mut file = self.disk.create(UNFINISHED).map_err(io_error("create", UNFINISHED))?;
        let written = file.write_at(&copy.bytes, 0).and_then(|()| file.sync());
        if let Err(error) = written {
            // It only takes up space; the next copy removes it as well.
            self.disk.remove(UNFINISHED).unwrap_or_default();
            return Err(io_error("write", UNFINISHED)(error));
        }
        self.disk.rename(UNFINISHED, &copy.name).map_err(io_error("rename", UNFINISHED))?;
        self.disk.sync_dir().map_err(io_error("sync", "the archive's folder"))
    }
}

fn io_error(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::Io { operation, file: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sim::{Faults, SimDisk};
    use crate::log::{Config, Durability, NewBatch, SegmentLog, Urgency, verify};

    const CONFIG: Config = Config {
        segment_size_bytes: 16 << 10,
        reserve_segments: 0,
        spares_max: 1,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    };

    fn append(log: &mut SegmentLog, batches: usize) {
        for _ in 0..batches {
            let payload = [9; 3000];
            let (kind, slot_group, urgency) = (1, 0, Urgency::Routine);
            log.append(NewBatch { count: 1, payload: &payload, kind, slot_group, urgency })
                .unwrap();
            log.commit().unwrap();
        }
    }

    #[test]
    fn a_log_that_was_given_up_reads_from_its_first_entry() {
        let (disk, kept) = (SimDisk::new(1), SimDisk::new(2));
        let archive = Archive::new(Arc::new(kept.clone()));
        assert_eq!(archive.next().unwrap(), Seq(1));
        let (mut log, _) = SegmentLog::open(Arc::new(disk.clone()), CONFIG, 1).unwrap();
        for _ in 0..3 {
            append(&mut log, 10);
            let next = archive.take(&disk).unwrap();
            assert_eq!(archive.next().unwrap(), next);
            log.retire(next).unwrap();
            kept.restart_after_power_failure();
        }
        assert!(log.first() > Seq(20));
        let whole = archive.before(Arc::new(disk));
        let report = verify(&whole).unwrap();
        assert_eq!((report.first, report.next), (Some(Seq(1)), Some(log.next())));
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        let removed = archive.forget(Seq(10)).unwrap();
        assert!(removed > 0);
        assert!(verify(&whole).unwrap().first <= Some(Seq(10)));
    }

    #[test]
    fn a_full_archive_keeps_the_log_and_goes_on_later() {
        let (disk, kept) = (SimDisk::new(1), SimDisk::new(2));
        let archive = Archive::new(Arc::new(kept.clone()));
        let (mut log, _) = SegmentLog::open(Arc::new(disk.clone()), CONFIG, 1).unwrap();
        append(&mut log, 10);
        kept.set_faults(Faults { capacity_bytes: Some(20_000), ..Faults::default() });
        assert!(matches!(archive.take(&disk), Err(ArchiveError::Io { .. })));
        kept.set_faults(Faults::default());
        assert_eq!(archive.take(&disk).unwrap(), *segments(&disk).unwrap().last().unwrap());
    }
}
