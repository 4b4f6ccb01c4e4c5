//! Looking at a log that may be in use or damaged, without changing it: `meterd log dump|verify`,
//! `meterd verify`.

use std::ops::Range;

use meter::Seq;

use super::Error;
use super::disk::Disk;
use super::format::BatchHeader;
use super::recover::{TornTail, find_tail};
use super::scan::{Payload, Scan, list_segments};

/// A batch and where it stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BatchInfo {
    /// The segment.
    pub file: String,
    /// Byte in it where the batch begins.
    pub offset: u64,
    /// What it is.
    pub header: BatchHeader,
}

/// All batches of a log in order. After damage it goes on with the next segment.
#[derive(Debug)]
pub struct Batches<'a> {
    disk: &'a dyn Disk,
    firsts: Vec<Seq>,
    segment_index: usize,
    scan: Option<Scan>,
    payload: Range<usize>,
    torn: Option<TornTail>,
}

impl<'a> Batches<'a> {
    /// Begins with the first segment.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be listed.
    pub fn open(disk: &'a dyn Disk) -> Result<Self, Error> {
        Self::open_from(disk, Seq(0))
    }

    /// Begins with the segment that holds an entry, or with the first one.
    ///
    /// # Errors
    /// As [`Batches::open`].
    pub fn open_from(disk: &'a dyn Disk, from: Seq) -> Result<Self, Error> {
        let mut firsts = list_segments(disk)?;
        let begun = firsts.partition_point(|first| *first <= from);
        firsts.drain(..begun.saturating_sub(1));
        Ok(Self { disk, firsts, segment_index: 0, scan: None, payload: 0..0, torn: None })
    }

    /// The torn end of the log, known when the iterator has ended.
    #[must_use]
    pub fn torn(&self) -> Option<&TornTail> {
        self.torn.as_ref()
    }

    /// The payload of the batch that was returned last; empty before the first and after the end.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.scan.as_ref().map_or(&[], |scan| scan.bytes(self.payload.clone()))
    }

    fn step(&mut self) -> Result<Option<BatchInfo>, Error> {
        loop {
            let Some(first) = self.firsts.get(self.segment_index).copied() else {
                return Ok(None);
            };
            let following = self.firsts.get(self.segment_index + 1).copied();
            let scan = match &mut self.scan {
                Some(scan) => scan,
                None => self.scan.insert(Scan::open(self.disk, first)?),
            };
            let ended = following == Some(scan.next);
            let fault = match scan.batch(Payload::Check)? {
                Ok(header) if !ended => {
                    let (file, offset) = (scan.name.clone(), scan.offset);
                    self.payload = scan.advance(&header);
                    return Ok(Some(BatchInfo { file, offset, header }));
                }
                Ok(_) => "a batch of the next segment",
                Err(fault) => fault,
            };
            match following {
                Some(_) if ended => {}
                Some(_) => return Err(scan.damaged(fault)),
                None => match find_tail(scan) {
                    Ok(tail) => self.torn = tail.torn,
                    // A writer may have gone on meanwhile: then the batch is there now.
                    Err(damage) => match scan.batch(Payload::Check)? {
                        Ok(_) => continue,
                        Err(_) => return Err(damage),
                    },
                },
            }
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        self.scan = None;
        self.segment_index += 1;
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<BatchInfo, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if let Some(Err(_)) = &step {
            self.go_on();
        }
        step
    }
}

/// What a look at the whole log found.
#[derive(Debug, Default)]
pub struct Report {
    /// Count of segments.
    pub segments: usize,
    /// Count of batches that can be read.
    pub batches: u64,
    /// Count of entries in them.
    pub entries: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// The first entry, `None` in an empty log.
    pub first: Option<Seq>,
    /// The entry after the last one.
    pub next: Option<Seq>,
    /// The end of a commit that was never acknowledged; opening the log cuts it off.
    pub torn: Option<TornTail>,
    /// Everything that is wrong, in order; empty in a sound log.
    pub damage: Vec<Error>,
}

/// Reads the whole log and checks every batch.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be listed; what is wrong with the files is in the report.
pub fn verify(disk: &dyn Disk) -> Result<Report, Error> {
    let mut batches = Batches::open(disk)?;
    let mut report = Report { segments: batches.firsts.len(), ..Report::default() };
    for step in &mut batches {
        match step {
            Ok(BatchInfo { header, .. }) => {
                report.batches += 1;
                report.entries += u64::from(header.count);
                report.payload_bytes += u64::from(header.payload_size);
                report.first = report.first.or(Some(header.first));
                report.next = Some(header.next());
            }
            Err(error) => report.damage.push(error),
        }
    }
    report.torn = batches.torn.take();
    Ok(report)
}
