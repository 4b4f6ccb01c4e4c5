//! Reading batches from any entry on, across segments, up to what can be read while the writer goes
//! on.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use meter::Seq;

use super::disk::Disk;
use super::format::BatchHeader;
use super::scan::{Payload, Scan, list_segments};
use super::{Error, Progress, SegmentLog};

/// A batch as it stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What it is.
    pub header: BatchHeader,
    /// The encoded entries.
    pub payload: &'a [u8],
}

/// A position in the log that moves forward. Give it to another thread if you like.
pub struct Reader {
    disk: Arc<dyn Disk>,
    progress: Arc<Progress>,
    scan: Option<Scan>,
    next: Seq,
}

impl SegmentLog {
    /// A reader from this entry on. It begins with the batch that holds the entry: the caller drops
    /// the entries before it.
    #[must_use]
    pub fn read_from(&self, from: Seq) -> Reader {
        self.read_through(self.disk(), from)
    }

    /// As [`SegmentLog::read_from`], on a disk that also holds what this log has given up.
    #[must_use]
    pub fn read_through(&self, disk: Arc<dyn Disk>, from: Seq) -> Reader {
        Reader { disk, progress: self.progress(), scan: None, next: from }
    }
}

impl Reader {
    /// The first entry of the next batch, or the entry asked for before the first one.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// The next batch; `None` at the end of what can be read now, ask again later.
    ///
    /// # Errors
    /// [`Error::Retired`] if the entry is no longer held, [`Error::Damaged`], [`Error::Io`].
    pub fn next_batch(&mut self) -> Result<Option<Batch<'_>>, Error> {
        if self.next >= self.progress.readable() {
            return Ok(None);
        }
        let (header, payload) = self.step()?;
        self.next = header.next();
        let scan = self.scan.as_ref().expect("a step leaves the scan in place");
        Ok(Some(Batch { header, payload: scan.bytes(payload) }))
    }

    /// Finds the batch that holds `self.next`, which is readable, and goes past it.
    fn step(&mut self) -> Result<(BatchHeader, Range<usize>), Error> {
        let mut scan = match self.scan.take() {
            Some(scan) => scan,
            None => self.locate(self.next)?,
        };
        loop {
            // On the way to the first batch only headers are looked at.
            let ahead = match scan.batch(Payload::Skip)? {
                Ok(header) if header.next() <= self.next => Some(header),
                Ok(_) | Err(_) => None,
            };
            if let Some(header) = ahead {
                scan.advance(&header);
                continue;
            }
            match scan.batch(Payload::Check)? {
                Ok(header) => {
                    let payload = scan.advance(&header);
                    self.scan = Some(scan);
                    return Ok((header, payload));
                }
                Err(fault) => scan = self.follow(&scan, fault)?,
            }
        }
    }

    /// The segment that holds the entry.
    fn locate(&self, seq: Seq) -> Result<Scan, Error> {
        let segments = list_segments(self.disk.as_ref())?;
        let first = segments.iter().rev().find(|first| **first <= seq);
        let oldest = segments.first().copied().unwrap_or(seq);
        let retired = Error::Retired { wanted: seq, first: oldest };
        match first {
            Some(first) => Scan::open(self.disk.as_ref(), *first),
            None => Err(retired),
        }
    }

    /// The segment after this one, which ends here unless its last batch is damaged.
    fn follow(&self, ended: &Scan, fault: &'static str) -> Result<Scan, Error> {
        let segments = list_segments(self.disk.as_ref())?;
        match segments.first() {
            Some(first) if *first > ended.next => {
                Err(Error::Retired { wanted: ended.next, first: *first })
            }
            _ if ended.header.first < ended.next && segments.contains(&ended.next) => {
                Scan::open(self.disk.as_ref(), ended.next)
            }
            _ => Err(ended.damaged(fault)),
        }
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("next", &self.next).finish_non_exhaustive()
    }
}
