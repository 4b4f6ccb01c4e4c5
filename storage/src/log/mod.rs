//! The durable log: segments of batches of entries, group commit, replay.
//!
//! **Invariants**
//! - An entry is acknowledged only after the sync of its commit returned.
//! - Entries are numbered densely from 1; what is read back is exactly what was committed, in order,
//!   and at most a beginning of the one commit that was under way.
//! - Nothing that was committed is skipped, overwritten or cut off in silence: damage is refused
//!   with the file and the offset.
//! - After a failed write or sync nothing is acknowledged any more ([`Error::Poisoned`]).
//! - A full disk is met only while a spare segment is prepared, never in the middle of a commit.
//!
//! The same code carries the *spool* (effects on their way to ClickHouse) as [`Durability::Lazy`]:
//! what it loses is derived again from the log. What follows from one entry cannot be made smaller,
//! so there a batch larger than a segment gets a segment of its own size. Payloads are opaque here. `format` has the bytes on
//! disk, `recover` the rule that tells a torn end from damage. Read [`SegmentLog`] and [`Writer`]
//! first.

mod buffer;
mod copy;
mod disk;
mod error;
mod format;
mod inspect;
mod layers;
mod reader;
mod recover;
mod scan;
mod segment_log;
pub mod sim;
mod stock;
mod writer;

pub use copy::{SegmentCopy, copy_segment, segments};
pub use disk::{Directory, Disk, DiskFile, WritePath};
pub use error::Error;
pub use format::{BatchHeader, SegmentHeader};
pub use inspect::{BatchInfo, Batches, Report, verify};
pub use layers::Layers;
pub use meter::Seq;
pub use reader::{Batch, Reader};
pub use recover::{Recovery, TornTail};
pub use scan::segment_name;
pub use segment_log::{NewBatch, Progress, SegmentLog};
pub use writer::{
    Committed, Durable, Origin, Outcome, Payload, Refusal, Submission, Writer, WriterConfig,
};

/// When a commit is durable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// When it returns: the log.
    Synced,
    /// When [`SegmentLog::sync`] is called, and when a segment is full: the spool.
    Lazy,
}

/// What a batch may do when the disk is full.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Urgency {
    /// It is refused, so that the reserve stays for what is urgent: readings, which meters repeat.
    Routine,
    /// It uses the reserve: what a person waits for, such as a purchase.
    Urgent,
}

/// Settings of a log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Config {
    /// Size of a segment (see [`Config::payload_size_max`]); a multiple of 4096, at least 8192.
    pub segment_size_bytes: u64,
    /// Count of spare segments kept for urgent entries when the disk is full.
    pub reserve_segments: usize,
    /// Count of retired segments kept for use again; more are removed.
    pub spares_max: usize,
    /// When a commit is durable.
    pub durability: Durability,
    /// This node.
    pub node: u64,
    /// The epoch in which this node owns its slots.
    pub epoch: u32,
}

impl Config {
    /// The largest payload of a batch, in bytes. In a [`Durability::Lazy`] log a larger one gets a
    /// segment of its own.
    #[must_use]
    pub fn payload_size_max(&self) -> usize {
        let segment = usize::try_from(self.segment_size_bytes).unwrap_or(usize::MAX);
        segment.min(u32::MAX as usize) - format::BLOCK - format::BATCH_HEADER
    }

    fn check(&self) -> Result<(), Error> {
        let block = format::BLOCK as u64;
        if self.segment_size_bytes < 2 * block || !self.segment_size_bytes.is_multiple_of(block) {
            return Err(Error::Config(
                "segment_size_bytes must be a multiple of 4096, at least 8192",
            ));
        }
        if self.segment_size_bytes > 1 << 31 {
            return Err(Error::Config("segment_size_bytes must be at most 2 GiB"));
        }
        Ok(())
    }
}
