//! Walking the batches of one segment: what recovery, the reader and the inspection share.

use std::io;
use std::ops::Range;

use meter::Seq;

use super::Error;
use super::disk::{Disk, DiskFile};
use super::format::{BATCH_HEADER, BLOCK, BatchHeader, HeaderFault, SegmentHeader, VERSION};

/// How much is read at once while payloads are read too.
const READ_AHEAD: usize = 1 << 20;
/// Memory kept after a large batch, in bytes.
const WINDOW_KEPT: usize = 8 << 20;

/// The name of the segment that begins with this entry.
#[must_use]
pub fn segment_name(first: Seq) -> String {
    format!("seg-{:020}.log", first.0)
}

fn parse_segment_name(name: &str) -> Option<Seq> {
    let first = name.strip_prefix("seg-")?.strip_suffix(".log")?.parse().ok().map(Seq)?;
    (segment_name(first) == name).then_some(first)
}

/// The first entries of all segments, ascending.
pub(crate) fn list_segments(disk: &dyn Disk) -> Result<Vec<Seq>, Error> {
    let names = disk.list().map_err(Error::io("list", "the log's folder"))?;
    let mut firsts: Vec<Seq> = names.iter().filter_map(|name| parse_segment_name(name)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Whether the payload is read and checked too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Payload {
    Check,
    Skip,
}

/// A position in a segment.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) name: String,
    pub(crate) header: SegmentHeader,
    pub(crate) seed: u32,
    pub(crate) size: u64,
    /// Where the next batch begins.
    pub(crate) offset: u64,
    /// The first entry of the next batch.
    pub(crate) next: Seq,
    file: Box<dyn DiskFile>,
    window: Vec<u8>,
    /// Where the window stands in the file, `None` if it is stale.
    window_at: Option<u64>,
}

impl Scan {
    /// Opens the segment and checks its header.
    pub(crate) fn open(disk: &dyn Disk, first: Seq) -> Result<Self, Error> {
        let name = segment_name(first);
        let file = disk.open_read(&name).map_err(Error::io("open", &name))?;
        let size = file.size().map_err(Error::io("read", &name))?;
        let mut block = [0; BLOCK];
        let count = file.read_at(&mut block, 0).map_err(Error::io("read", &name))?;
        let damaged =
            |what| Error::Damaged { file: name.clone(), offset: 0, expected: first, what };
        let (header, seed) =
            SegmentHeader::decode(&block[..count]).map_err(|fault| match fault {
                HeaderFault::Damaged => damaged("no valid segment header"),
                HeaderFault::Future(version) => {
                    Error::FutureVersion { file: name.clone(), version, version_max: VERSION }
                }
            })?;
        if header.first != first {
            return Err(damaged("the segment header belongs to another segment"));
        }
        let (window, window_at) = (Vec::new(), None);
        let offset = BLOCK as u64;
        Ok(Self { name, header, seed, size, offset, next: first, file, window, window_at })
    }

    /// The batch here; the inner error says why there is none.
    pub(crate) fn batch(
        &mut self,
        payload: Payload,
    ) -> Result<Result<BatchHeader, &'static str>, Error> {
        let found = self.look(payload);
        let found = match found {
            // The window may have been read before the batch was written.
            Ok(Err(_)) => {
                self.window_at = None;
                self.look(payload)
            }
            Ok(Ok(_)) | Err(_) => found,
        };
        found.map_err(Error::io("read", &self.name))
    }

    fn look(&mut self, payload: Payload) -> io::Result<Result<BatchHeader, &'static str>> {
        let ahead = if payload == Payload::Check { READ_AHEAD } else { BLOCK };
        if !self.load(BATCH_HEADER, ahead)? {
            return Ok(Err("the segment ends"));
        }
        let Some(header) = BatchHeader::decode(&self.window[self.window_range(0)], self.seed)
        else {
            return Ok(Err("no valid batch header"));
        };
        if header.first != self.next || header.count == 0 {
            return Ok(Err("the batch header belongs to another place"));
        }
        if header.stride() > self.size - self.offset {
            return Ok(Err("the batch reaches beyond the segment"));
        }
        if payload == Payload::Check {
            let size = header.payload_size as usize;
            if !self.load(BATCH_HEADER + size, ahead)? {
                return Ok(Err("the segment ends within the batch"));
            }
            if crc32c::crc32c(&self.window[self.payload(&header)]) != header.payload_crc {
                return Ok(Err("the payload's checksum is wrong"));
            }
        }
        Ok(Ok(header))
    }

    /// Where the payload of the batch here stands in [`Scan::window`], after [`Payload::Check`].
    fn payload(&self, header: &BatchHeader) -> Range<usize> {
        let start = self.window_range(BATCH_HEADER).start;
        start..start + header.payload_size as usize
    }

    /// Goes past the batch here and returns where its payload stands, for [`Scan::bytes`].
    pub(crate) fn advance(&mut self, header: &BatchHeader) -> Range<usize> {
        let payload = self.payload(header);
        self.offset += header.stride();
        self.next = header.next();
        payload
    }

    /// The bytes of a payload just passed.
    pub(crate) fn bytes(&self, payload: Range<usize>) -> &[u8] {
        &self.window[payload]
    }

    /// The headers of this segment's batches at or behind the position, where no valid batch
    /// stands, with their offsets: what a torn write or damage left.
    pub(crate) fn remnants(&mut self) -> Result<Vec<(u64, BatchHeader)>, Error> {
        let mut found = Vec::new();
        let position = self.offset;
        while self.load(BLOCK, READ_AHEAD).map_err(Error::io("read", &self.name))? {
            let block = &self.window[self.window_range(0)];
            let header = BatchHeader::decode(block, self.seed);
            found.extend(header.map(|header| (self.offset, header)));
            self.offset += BLOCK as u64;
        }
        self.offset = position;
        Ok(found)
    }

    /// The error for a batch that must be here and is not.
    pub(crate) fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged { file: self.name.clone(), offset: self.offset, expected: self.next, what }
    }

    /// The window from `skip` bytes behind the position on.
    fn window_range(&self, skip: usize) -> Range<usize> {
        let window_at = self.window_at.expect("loaded before");
        let behind = usize::try_from(self.offset - window_at).expect("within the window");
        behind + skip..self.window.len()
    }

    /// Has at least `len` bytes from the position on in the window, `false` at the end of the file.
    fn load(&mut self, len: usize, ahead: usize) -> io::Result<bool> {
        let left = self.size.saturating_sub(self.offset);
        let covers = |at: u64| {
            at <= self.offset && self.offset + len as u64 <= at + self.window.len() as u64
        };
        if self.window_at.is_some_and(covers) {
            return Ok(true);
        }
        if left < len as u64 {
            return Ok(false);
        }
        let size = ahead.max(len).min(usize::try_from(left).unwrap_or(usize::MAX));
        if self.window.capacity() > WINDOW_KEPT && size <= READ_AHEAD {
            self.window = Vec::new();
        }
        self.window.resize(size, 0);
        self.window_at = Some(self.offset);
        let count = self.file.read_at(&mut self.window, self.offset)?;
        self.window.truncate(count);
        Ok(count >= len)
    }
}
