//! The archive: copies of segments that the log has ended, so that the log can be read from its
//! first entry after its own segments were used again. It is a folder, or a [`Bucket`].
//!
//! Segments never change once ended, so a copy is written once and never again. A segment is given
//! up by the log only when its copy is *confirmed*: written by this process and durable, or found
//! there and equal byte by byte. So a copy whose writer died is looked at again, and another log's
//! segment under the same name is refused, not overwritten.

mod bucket;

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use meter::Seq;

use crate::log::{self, Disk, Layers, SegmentCopy, copy_segment, segment_name, segments};

pub use bucket::{Bucket, BucketError, Location};

const UNFINISHED: &str = "archive.tmp";

/// An error of the archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveError {
    /// The log's segment does not read.
    #[error("archive: a segment of the log cannot be copied")]
    Log(#[from] log::Error),
    /// The folder or the store refused.
    #[error("archive: cannot {operation} {file}; check its rights, its space and the way to it")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
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
    /// What the archive has under the segment's name is something else.
    #[error(
        "archive: {file} is there and differs from the log's: of another log, or damaged; give each \
         node an archive of its own, or move that file away"
    )]
    Differs {
        /// The segment.
        file: String,
    },
}

/// Copies of a log's segments in one place.
#[derive(Clone, Debug)]
pub struct Archive {
    /// The copies, to read.
    disk: Arc<dyn Disk>,
    /// The same, where it is a bucket.
    bucket: Option<Arc<Bucket>>,
    /// Copies known to be whole and ours.
    confirmed: BTreeSet<Seq>,
}

impl Archive {
    /// The archive in this folder.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, bucket: None, confirmed: BTreeSet::new() }
    }

    /// The archive in this bucket.
    #[must_use]
    pub fn in_bucket(bucket: Bucket) -> Self {
        let bucket = Arc::new(bucket);
        let disk: Arc<dyn Disk> = Arc::clone(&bucket) as Arc<dyn Disk>;
        Self { disk, bucket: Some(bucket), confirmed: BTreeSet::new() }
    }

    /// The first entries of the copies, ascending.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn copies(&self) -> Result<Vec<Seq>, ArchiveError> {
        match segments(self.disk.as_ref()) {
            Err(log::Error::Io { source, .. }) => Err(io_error("list", "the copies")(source)),
            listed => Ok(listed?),
        }
    }

    /// All entries below this are in the archive, if it holds the first entry; else the first
    /// entry that is missing.
    ///
    /// # Errors
    /// [`ArchiveError`] if the copies cannot be listed or the last one does not read.
    pub fn next(&self) -> Result<Seq, ArchiveError> {
        let Some(last) = self.copies()?.pop() else { return Ok(Seq(1)) };
        Ok(copy_segment(self.disk.as_ref(), last, Seq(u64::MAX))?.next)
    }

    /// Copies every ended segment of `log` that is not here yet, and confirms those that are;
    /// returns the entry below which the log may be given up: that of the segment still written.
    /// Asks the archive nothing while no segment has ended.
    ///
    /// # Errors
    /// [`ArchiveError`]; what was confirmed before it stays so.
    pub fn take(&mut self, log: &dyn Disk) -> Result<Seq, ArchiveError> {
        let there = segments(log)?;
        let mut next = there.first().copied().unwrap_or(Seq(1));
        for pair in there.windows(2) {
            let [first, until] = [pair[0], pair[1]];
            if !self.confirmed.contains(&first) {
                self.keep(log, first, until)?;
                self.confirmed.insert(first);
            }
            next = until;
        }
        // What the log has given up is asked for no more.
        self.confirmed.retain(|first| there.contains(first));
        Ok(next)
    }

    /// Removes the oldest copies that only hold entries below `below`; returns how many.
    ///
    /// # Errors
    /// [`ArchiveError::Io`].
    pub fn forget(&self, below: Seq) -> Result<usize, ArchiveError> {
        let here = self.copies()?;
        let old = here.windows(2).take_while(|pair| pair[1] <= below).map(|pair| pair[0]);
        let mut removed = 0;
        for first in old {
            let name = segment_name(first);
            self.disk.remove(&name).map_err(io_error("remove", &name))?;
            removed += 1;
        }
        if removed > 0 {
            self.disk.sync_dir().map_err(io_error("sync", "the folder"))?;
        }
        Ok(removed)
    }

    /// Log and archive seen as one log, from the first entry that either holds. A copy goes before
    /// the log's own segment, which may be used again while it is read.
    #[must_use]
    pub fn before(&self, log: Arc<dyn Disk>) -> Layers {
        Layers(vec![Arc::clone(&self.disk), log])
    }

    /// Has the segment's copy here for certain.
    fn keep(&self, log: &dyn Disk, first: Seq, until: Seq) -> Result<(), ArchiveError> {
        let copy = copy_segment(log, first, until)?;
        if copy.next != until {
            return Err(ArchiveError::Short { file: copy.name, next: until });
        }
        match self.found(&copy.name)? {
            Some(found) if found == copy.bytes => Ok(()),
            Some(_) => Err(ArchiveError::Differs { file: copy.name }),
            None => self.put(copy),
        }
    }

    /// What is here under a name.
    fn found(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let found = match &self.bucket {
            Some(bucket) => bucket.fetch(name).map(Vec::from),
            None => self.disk.open_read(name).and_then(|file| {
                let size = usize::try_from(file.size()?).unwrap_or(usize::MAX);
                let mut bytes = vec![0; size];
                let count = file.read_at(&mut bytes, 0)?;
                bytes.truncate(count);
                Ok(bytes)
            }),
        };
        match found {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error("read", name)(error)),
        }
    }

    fn put(&self, copy: SegmentCopy) -> Result<(), ArchiveError> {
        let SegmentCopy { name, bytes, .. } = copy;
        let Some(bucket) = &self.bucket else { return self.write(&name, &bytes) };
        bucket.put(&name, bytes.clone().into()).map_err(io_error("write", &name))?;
        // Read back: the log gives the only other copy up.
        let is_whole = self.found(&name)?.is_some_and(|found| found == bytes);
        if is_whole { Ok(()) } else { Err(ArchiveError::Differs { file: name }) }
    }

    /// Writes a file of the folder: it is there as a whole, durably, or not at all.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ArchiveError> {
        let names = self.disk.list().map_err(io_error("list", "the folder"))?;
        if names.iter().any(|name| name == UNFINISHED) {
            self.disk.remove(UNFINISHED).map_err(io_error("remove", UNFINISHED))?;
        }
        let mut file = self.disk.create(UNFINISHED).map_err(io_error("create", UNFINISHED))?;
        let written = file.write_at(bytes, 0).and_then(|()| file.sync());
        if let Err(error) = written {
            // It only takes up space; the next copy removes it as well.
            self.disk.remove(UNFINISHED).unwrap_or_default();
            return Err(io_error("write", UNFINISHED)(error));
        }
        self.disk.rename(UNFINISHED, name).map_err(io_error("rename", UNFINISHED))?;
        self.disk.sync_dir().map_err(io_error("sync", "the folder"))
    }
}

fn io_error(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> ArchiveError {
    move |source| ArchiveError::Io { operation, file: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStore;
    use object_store::memory::InMemory;
    use object_store::path::Path;

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
        let mut archive = Archive::new(Arc::new(kept.clone()));
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
        let mut archive = Archive::new(Arc::new(kept.clone()));
        let (mut log, _) = SegmentLog::open(Arc::new(disk.clone()), CONFIG, 1).unwrap();
        append(&mut log, 10);
        kept.set_faults(Faults { capacity_bytes: Some(20_000), ..Faults::default() });
        assert!(matches!(archive.take(&disk), Err(ArchiveError::Io { .. })));
        kept.set_faults(Faults::default());
        assert_eq!(archive.take(&disk).unwrap(), *segments(&disk).unwrap().last().unwrap());
    }

    /// The bucket behind an archive, to look into and to spoil.
    fn bucket() -> (Arc<InMemory>, Archive) {
        let store = Arc::new(InMemory::new());
        let shared: Arc<dyn ObjectStore> = Arc::clone(&store) as Arc<dyn ObjectStore>;
        (store, Archive::in_bucket(Bucket::new(shared, Path::from("node-1")).unwrap()))
    }

    #[test]
    fn a_bucket_carries_a_log_from_its_first_entry() {
        let disk = SimDisk::new(1);
        let (store, mut archive) = bucket();
        assert_eq!(archive.next().unwrap(), Seq(1));
        let (mut log, _) = SegmentLog::open(Arc::new(disk.clone()), CONFIG, 1).unwrap();
        for _ in 0..3 {
            append(&mut log, 10);
            let next = archive.take(&disk).unwrap();
            assert_eq!(archive.next().unwrap(), next);
            log.retire(next).unwrap();
        }
        assert!(log.first() > Seq(20));
        let whole = archive.before(Arc::new(disk.clone()));
        let report = verify(&whole).unwrap();
        assert_eq!((report.first, report.next), (Some(Seq(1)), Some(log.next())));
        assert!(report.damage.is_empty(), "{:?}", report.damage);
        let mut again = Archive::in_bucket(Bucket::new(store, Path::from("node-1")).unwrap());
        assert_eq!(again.take(&disk).unwrap(), archive.take(&disk).unwrap(), "found, not doubled");
        let before = archive.copies().unwrap().len();
        let removed = again.forget(Seq(10)).unwrap();
        assert!(removed > 0);
        assert_eq!(archive.copies().unwrap().len(), before - removed);
    }

    #[test]
    fn what_another_log_wrote_is_neither_overwritten_nor_taken_for_ours() {
        let (disk, other) = (SimDisk::new(1), SimDisk::new(2));
        let (mut log, _) = SegmentLog::open(Arc::new(disk.clone()), CONFIG, 1).unwrap();
        append(&mut log, 10);
        let config = Config { node: 2, ..CONFIG };
        let (mut log, _) = SegmentLog::open(Arc::new(other.clone()), config, 1).unwrap();
        append(&mut log, 10);
        let folder: Arc<dyn Disk> = Arc::new(SimDisk::new(3));
        let (store, in_bucket) = bucket();
        let second = Archive::in_bucket(Bucket::new(store, Path::from("node-1")).unwrap());
        let pairs =
            [(Archive::new(Arc::clone(&folder)), Archive::new(folder)), (in_bucket, second)];
        for (mut archive, mut taken_for_its_own) in pairs {
            archive.take(&disk).unwrap();
            let refused = taken_for_its_own.take(&other);
            assert!(matches!(refused, Err(ArchiveError::Differs { .. })), "{refused:?}");
            archive.take(&disk).unwrap();
            assert!(verify(archive.disk.as_ref()).unwrap().damage.is_empty());
        }
    }
}
