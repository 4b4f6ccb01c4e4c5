//! Where the log ends: the last complete batch of the last segment.
//!
//! A batch that cannot be read is the torn end of the last commit, unless a later batch of the
//! segment proves that it had been committed (*durable below*, see [`super::format`]): then it is
//! damage, and nothing may be cut. What a torn commit left behind the end is blotted out, so that it
//! can never be taken for a continuation of what is written next.

use std::sync::Arc;

use meter::Seq;

use super::Error;
use super::buffer::BlockBuffer;
use super::disk::Disk;
use super::format::{BLOCK, BatchHeader, Block, SegmentHeader};
use super::scan::{Payload, Scan, list_segments, segment_name};
use super::stock::Stock;

/// What opening the log found and did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recovery {
    /// The first entry held.
    pub first: Seq,
    /// The entry that will be appended next.
    pub next: Seq,
    /// Count of segments.
    pub segments: usize,
    /// The torn end that was cut off, if there was one.
    pub torn: Option<TornTail>,
}

/// What stood behind the end of the log: a commit that was never acknowledged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TornTail {
    /// The segment.
    pub file: String,
    /// Where the log ends in it.
    pub offset: u64,
    /// Count of batches whose header stood there.
    pub batches: usize,
    /// Bytes that the file is shorter than it was made; not the work of a torn write.
    pub missing_bytes: u64,
}

/// The end of a segment, read but not yet mended.
#[derive(Debug)]
pub(crate) struct Tail {
    pub(crate) torn: Option<TornTail>,
    remnants: Vec<u64>,
    /// From here on nothing proves that the device holds it.
    unproven: u64,
}

/// Walks to the end of the last segment; `scan` stands there afterwards.
pub(crate) fn find_tail(scan: &mut Scan) -> Result<Tail, Error> {
    let mut starts: Vec<(Seq, u64)> = Vec::new();
    let mut durable_below = scan.next;
    let fault = loop {
        let header = match scan.batch(Payload::Check)? {
            Ok(header) => header,
            Err(fault) => break fault,
        };
        durable_below = header.durable_below;
        starts.push((header.first, scan.offset));
        scan.advance(&header);
    };
    let remnants = scan.remnants()?;
    let proves = |(_, header): &&(u64, BatchHeader)| header.durable_below > scan.next;
    if remnants.iter().any(|remnant| proves(&remnant)) {
        return Err(scan.damaged(fault));
    }
    let unproven = starts.iter().find(|(first, _)| *first >= durable_below);
    let remnants: Vec<u64> = remnants.iter().map(|(offset, _)| *offset).collect();
    let missing_bytes = scan.header.size.saturating_sub(scan.size);
    let torn = (!remnants.is_empty() || missing_bytes > 0).then(|| TornTail {
        file: scan.name.clone(),
        offset: scan.offset,
        batches: remnants.len(),
        missing_bytes,
    });
    Ok(Tail { torn, remnants, unproven: unproven.map_or(scan.offset, |(_, offset)| *offset) })
}

/// Makes the end what the log says it is, on the device too.
///
/// What is unproven is written again: after a failed sync and a new start of the process the page
/// cache may show bytes that the device never got, and a sync alone would report success.
pub(crate) fn mend(disk: &Arc<dyn Disk>, scan: &Scan, tail: &Tail) -> Result<(), Error> {
    let mut file = disk.open(&scan.name).map_err(Error::io("open", &scan.name))?;
    let size = usize::try_from(scan.offset - tail.unproven).expect("a segment fits in memory");
    let mut bytes = BlockBuffer::with_capacity(size);
    bytes.grow_to(size);
    let count =
        file.read_at(bytes.as_mut_slice(), tail.unproven).map_err(Error::io("read", &scan.name))?;
    if count < size {
        return Err(scan.damaged("the segment ends within a batch"));
    }
    if size > 0 {
        file.write_at(bytes.as_slice(), tail.unproven).map_err(Error::io("write", &scan.name))?;
    }
    let blank = Block([0; BLOCK]);
    for offset in &tail.remnants {
        file.write_at(&blank.0, *offset).map_err(Error::io("write", &scan.name))?;
    }
    file.sync().map_err(Error::io("sync", &scan.name))?;
    disk.sync_dir().map_err(Error::io("sync", "the log's folder"))
}

/// The id that the next segment may have: above all that a file here was ever written with.
pub(crate) fn segment_id_next(disk: &dyn Disk, stock: &Stock) -> Result<u64, Error> {
    let segments = list_segments(disk)?.into_iter().map(segment_name);
    let mut next = 1;
    for name in segments.chain(stock.names()) {
        let mut block = [0; BLOCK];
        let file = disk.open_read(&name).map_err(Error::io("open", &name))?;
        let count = file.read_at(&mut block, 0).map_err(Error::io("read", &name))?;
        if let Ok((header, _)) = SegmentHeader::decode(&block[..count]) {
            next = next.max(header.id + 1);
        }
    }
    Ok(next)
}
