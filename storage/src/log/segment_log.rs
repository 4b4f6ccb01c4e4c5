//! The log itself: append, commit, rotate, retire.
//!
//! One commit is one write and one sync, whatever the count of batches in it. Only one commit is
//! under way at a time; it lies in one segment. A segment is full when the next batch does not fit:
//! a spare gets its header (synced), then its name (folder synced), and only then batches. Where a
//! lazy log meets a batch that no segment holds, it makes a segment as large as that batch.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use meter::Seq;

use super::buffer::BlockBuffer;
use super::disk::{Disk, DiskFile};
use super::format::{BATCH_HEADER, BLOCK, BatchHeader, SegmentHeader, stride};
use super::recover::{Recovery, Tail, find_tail, mend, segment_id_next};
use super::scan::{Scan, list_segments, segment_name};
use super::stock::Stock;
use super::{Config, Durability, Error, Urgency};

const LOCK: &str = "LOCK";
/// Memory kept for the next commit, in bytes.
const PENDING_KEPT: usize = 8 << 20;
/// The largest payload of a batch with a segment of its own, in bytes.
const PAYLOAD_MAX: usize = (1 << 31) - BLOCK - BATCH_HEADER;

/// A batch to append.
#[derive(Clone, Copy, Debug)]
pub struct NewBatch<'a> {
    /// Count of entries in it, at least 1.
    pub count: u32,
    /// The encoded entries.
    pub payload: &'a [u8],
    /// Kind of payload, chosen by the caller.
    pub kind: u8,
    /// Group of meter slots that the entries belong to.
    pub slot_group: u16,
    /// Whether it may use the reserve.
    pub urgency: Urgency,
}

/// Positions of the log that other threads read: each only ever rises.
#[derive(Debug)]
pub struct Progress {
    first: AtomicU64,
    readable: AtomicU64,
    durable: AtomicU64,
    retire_below: AtomicU64,
}

impl Progress {
    /// The first entry held.
    pub fn first(&self) -> Seq {
        Seq(self.first.load(Ordering::Acquire))
    }

    /// All entries below this can be read.
    pub fn readable(&self) -> Seq {
        // Acquire: what was written before the position was published is seen by its reader.
        Seq(self.readable.load(Ordering::Acquire))
    }

    /// All entries below this have been synced.
    pub fn durable(&self) -> Seq {
        Seq(self.durable.load(Ordering::Acquire))
    }

    /// Asks the owner of the log to give up entries below this; it does so when it next has time.
    pub fn request_retire(&self, below: Seq) {
        // Relaxed: the number carries no other memory with it.
        self.retire_below.fetch_max(below.0, Ordering::Relaxed);
    }

    /// What was asked for.
    pub fn retire_requested(&self) -> Seq {
        Seq(self.retire_below.load(Ordering::Relaxed))
    }
}

/// The log of one folder, with its only writer.
pub struct SegmentLog {
    disk: Arc<dyn Disk>,
    config: Config,
    opened_at_s: u64,
    /// All segments, the last one is written.
    segments: Vec<Segment>,
    active: Active,
    segment_id_next: u64,
    stock: Stock,
    pending: BlockBuffer,
    next: Seq,
    durable: Seq,
    progress: Arc<Progress>,
    poisoned: bool,
    _lock: Box<dyn DiskFile>,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    first: Seq,
    size: u64,
}

/// Where the last segment ends.
struct End {
    scan: Scan,
    tail: Tail,
}

#[derive(Debug)]
struct Active {
    name: String,
    file: Box<dyn DiskFile>,
    seed: u32,
    size: u64,
    /// Where the next commit is written.
    end: u64,
}

impl SegmentLog {
    /// Opens the log, recovers its end, and begins one if the folder has none. `opened_at_s` is the
    /// time, noted in new segments.
    ///
    /// # Errors
    /// [`Error::Damaged`] or [`Error::FutureVersion`] and nothing is changed;
    /// [`Error::Locked`]; [`Error::Full`] if there is no log and no space for one; [`Error::Io`].
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
        opened_at_s: u64,
    ) -> Result<(Self, Recovery), Error> {
        config.check()?;
        let lock = disk.lock(LOCK).map_err(|error| {
            if error.kind() == io::ErrorKind::WouldBlock {
                Error::Locked { file: LOCK.to_owned() }
            } else {
                Error::io("lock", LOCK)(error)
            }
        })?;
        let (mut segments, end) = survey(disk.as_ref())?;
        let mut stock =
            Stock::open(Arc::clone(&disk), config.segment_size_bytes, config.reserve_segments)?;
        let segment_id = segment_id_next(disk.as_ref(), &stock)?;
        let (active, next, torn) = if let Some(End { scan, tail }) = end {
            mend(&disk, &scan, &tail)?;
            (Active::reopen(disk.as_ref(), &scan)?, scan.next, tail.torn)
        } else {
            let (spare, first) = (stock.take(Urgency::Urgent)?, Seq(1));
            let size = config.segment_size_bytes;
            let header = config.header(segment_id, first, opened_at_s, size);
            let active = Active::begin(disk.as_ref(), &spare, header)?;
            segments.push(Segment { first, size: active.size });
            (active, first, None)
        };
        match stock.replenish() {
            // A log that is there can be read and served without spares.
            Ok(()) | Err(Error::Full) => {}
            Err(error) => return Err(error),
        }
        let first = segments.first().map_or(next, |segment| segment.first);
        let recovery = Recovery { first, next, segments: segments.len(), torn };
        let progress = Arc::new(Progress {
            first: AtomicU64::new(first.0),
            readable: AtomicU64::new(next.0),
            durable: AtomicU64::new(next.0),
            retire_below: AtomicU64::new(0),
        });
        let log = Self {
            disk,
            config,
            opened_at_s,
            segments,
            active,
            segment_id_next: segment_id + 1,
            stock,
            pending: BlockBuffer::with_capacity(1 << 20),
            next,
            durable: next,
            progress,
            poisoned: false,
            _lock: lock,
        };
        Ok((log, recovery))
    }

    /// Collects a batch and gives it its place; [`SegmentLog::commit`] writes it. A batch that needs
    /// a new segment commits what was collected before.
    ///
    /// # Errors
    /// [`Error::Full`] or [`Error::TooLarge`] and the batch was not taken; [`Error::Io`] or
    /// [`Error::Poisoned`] and the process must stop.
    pub fn append(&mut self, batch: NewBatch<'_>) -> Result<Seq, Error> {
        self.check_healthy()?;
        let bytes_max = match self.config.durability {
            Durability::Synced => self.config.payload_size_max(),
            Durability::Lazy => PAYLOAD_MAX,
        };
        if batch.count == 0 || batch.payload.len() > bytes_max {
            return Err(Error::TooLarge { bytes: batch.payload.len(), bytes_max });
        }
        if batch.urgency == Urgency::Routine && !self.stock.has_reserve() {
            return Err(Error::Full);
        }
        let stride = stride(batch.payload.len());
        if self.active.end + (self.pending.len() + stride) as u64 > self.active.size {
            self.rotate(batch.urgency, (BLOCK + stride) as u64)?;
        }
        let first = self.next;
        let header = BatchHeader {
            first,
            count: batch.count,
            epoch: self.config.epoch,
            slot_group: batch.slot_group,
            kind: batch.kind,
            payload_size: u32::try_from(batch.payload.len()).expect("fits a segment"),
            payload_crc: crc32c::crc32c(batch.payload),
            durable_below: self.durable,
        };
        self.pending.extend(&header.encode(self.active.seed));
        self.pending.extend(batch.payload);
        self.pending.pad_to_block();
        self.next = header.next();
        Ok(first)
    }

    /// Writes what was collected and, if the log is [`Durability::Synced`], makes it durable.
    /// Returns the entry after the last one.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Poisoned`]: whether the batches are durable is unknown. The process
    /// must stop without acknowledging them.
    pub fn commit(&mut self) -> Result<Seq, Error> {
        self.write_pending()?;
        match self.config.durability {
            Durability::Synced => self.sync()?,
            // Release: pairs with the acquire of readers.
            Durability::Lazy => self.progress.readable.store(self.next.0, Ordering::Release),
        }
        Ok(self.next)
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// As [`SegmentLog::commit`].
    pub fn sync(&mut self) -> Result<(), Error> {
        self.write_pending()?;
        if self.durable < self.next {
            let synced = self.active.file.sync();
            self.poison_on("sync", synced)?;
            self.durable = self.next;
        }
        // Release: whoever reads the position may read the bytes below it.
        self.progress.durable.store(self.durable.0, Ordering::Release);
        self.progress.readable.store(self.next.0, Ordering::Release);
        Ok(())
    }

    /// Gives up whole segments that hold only entries below `below`. Readers must have passed them.
    /// Returns the first entry that is still held.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Poisoned`]: the process must stop.
    pub fn retire(&mut self, below: Seq) -> Result<Seq, Error> {
        self.check_healthy()?;
        let passed = self.segments.windows(2).take_while(|pair| pair[1].first <= below).count();
        if passed > 0 {
            // Oldest first, so that a crash leaves no hole.
            for segment in self.segments.drain(..passed) {
                self.stock.recycle(&segment_name(segment.first), self.config.spares_max)?;
            }
            // Before a spare is used again, its old name must be gone for good.
            let synced = self.disk.sync_dir();
            self.poison_on("sync the folder of", synced)?;
            self.progress.first.store(self.first().0, Ordering::Release);
        }
        Ok(self.first())
    }

    /// Works on a spare segment, about twice `committed` bytes, so that a new segment is ready when
    /// the active one is full. Call it after commits, when nobody waits.
    ///
    /// # Errors
    /// [`Error::Io`]; a full disk is none.
    pub fn prepare_ahead(&mut self, committed: u64) -> Result<(), Error> {
        self.check_healthy()?;
        self.stock.prepare_ahead(committed.saturating_mul(2).next_multiple_of(BLOCK as u64))
    }

    /// After [`Error::Full`], tries whether there is space again.
    ///
    /// # Errors
    /// [`Error::Full`] if not; [`Error::Io`].
    pub fn replenish(&mut self) -> Result<(), Error> {
        self.check_healthy()?;
        self.stock.replenish()
    }

    /// Whether the last attempt to get space failed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.stock.is_full()
    }

    /// The first entry held.
    #[must_use]
    pub fn first(&self) -> Seq {
        self.segments.first().map_or(self.next, |segment| segment.first)
    }

    /// The entry that will be appended next.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.next
    }

    /// Bytes of all segments, preallocated ones and spares not counted.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let full = self.segments.split_last().map_or(&[][..], |(_, full)| full);
        full.iter().map(|segment| segment.size).sum::<u64>() + self.active.end
    }

    /// The positions that other threads may watch.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// The folder.
    #[must_use]
    pub fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk)
    }

    /// Settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Ends the active segment and begins the next, of at least `size_min` bytes.
    fn rotate(&mut self, urgency: Urgency, size_min: u64) -> Result<(), Error> {
        let size = self.config.segment_size_bytes.max(size_min);
        let spare = if size > self.config.segment_size_bytes {
            self.stock.make(size)?
        } else {
            self.stock.take(urgency)?
        };
        // The old segment is complete before the new one exists, in a lazy log too.
        self.sync()?;
        let header = self.config.header(self.segment_id_next, self.next, self.opened_at_s, size);
        self.segment_id_next += 1;
        let begun = Active::begin(self.disk.as_ref(), &spare, header);
        self.active = match begun {
            Ok(active) => active,
            Err(error) => {
                self.poisoned = true;
                return Err(error);
            }
        };
        // An empty segment was replaced by name.
        self.segments.retain(|segment| segment.first != self.next);
        self.segments.push(Segment { first: self.next, size: self.active.size });
        Ok(())
    }

    fn write_pending(&mut self) -> Result<(), Error> {
        self.check_healthy()?;
        if !self.pending.is_empty() {
            let written = self.active.file.write_at(self.pending.as_slice(), self.active.end);
            self.poison_on("write", written)?;
            self.active.end += self.pending.len() as u64;
            self.pending.clear();
            self.pending.shrink_to(PENDING_KEPT);
        }
        Ok(())
    }

    fn check_healthy(&self) -> Result<(), Error> {
        if self.poisoned { Err(Error::Poisoned) } else { Ok(()) }
    }

    fn poison_on<T>(&mut self, operation: &'static str, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|error| {
            self.poisoned = true;
            Error::io(operation, &self.active.name)(error)
        })
    }
}

impl Config {
    fn header(&self, id: u64, first: Seq, opened_at_s: u64, size: u64) -> SegmentHeader {
        SegmentHeader { id, first, opened_at_s, node: self.node, epoch: self.epoch, size }
    }
}

/// All segments, and the end of the last one. Changes nothing.
fn survey(disk: &dyn Disk) -> Result<(Vec<Segment>, Option<End>), Error> {
    let mut segments = Vec::new();
    let mut last = None;
    for first in list_segments(disk)? {
        let scan = Scan::open(disk, first)?;
        segments.push(Segment { first, size: scan.size });
        last = Some(scan);
    }
    let Some(mut scan) = last else {
        return Ok((segments, None));
    };
    let tail = find_tail(&mut scan)?;
    Ok((segments, Some(End { scan, tail })))
}

impl Active {
    /// Turns a spare into the segment that this header names.
    fn begin(disk: &dyn Disk, spare: &str, header: SegmentHeader) -> Result<Self, Error> {
        let mut file = disk.open(spare).map_err(Error::io("open", spare))?;
        let (block, seed) = header.encode();
        file.write_at(&block.0, 0).map_err(Error::io("write", spare))?;
        file.sync().map_err(Error::io("sync", spare))?;
        let name = segment_name(header.first);
        disk.rename(spare, &name).map_err(Error::io("rename", spare))?;
        disk.sync_dir().map_err(Error::io("sync", "the log's folder"))?;
        let size = file.size().map_err(Error::io("read", &name))?;
        Ok(Self { name, file, seed, size, end: BLOCK as u64 })
    }

    /// Continues where the scan stands.
    fn reopen(disk: &dyn Disk, scan: &Scan) -> Result<Self, Error> {
        let file = disk.open(&scan.name).map_err(Error::io("open", &scan.name))?;
        let (name, seed) = (scan.name.clone(), scan.seed);
        Ok(Self { name, file, seed, size: scan.size, end: scan.offset })
    }
}

impl fmt::Debug for SegmentLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SegmentLog")
            .field("active", &self.active.name)
            .field("next", &self.next)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}
