//! A log written as a node would have, without its syncs.

use std::error::Error;
use std::sync::Arc;

use meter::{Entry, Seq};
use storage::log::{Config, Disk, Durability, NewBatch, SegmentLog, Urgency};

/// Entries of a batch, as the writer groups them under load.
pub(crate) const BATCH: usize = 4096;

/// Opens the log of a node's disk.
///
/// # Errors
/// What the file system says.
pub(crate) fn open(
    disk: Arc<dyn Disk>,
    durability: Durability,
) -> Result<SegmentLog, Box<dyn Error>> {
    let config = Config {
        segment_size_bytes: 64 << 20,
        reserve_segments: 0,
        spares_max: 2,
        durability,
        node: 1,
        epoch: 1,
    };
    Ok(SegmentLog::open(disk, config, 1)?.0)
}

/// Commits entries as one batch; returns the last one's position.
///
/// # Errors
/// What the file system says.
pub(crate) fn append(log: &mut SegmentLog, entries: &[Entry]) -> Result<Seq, Box<dyn Error>> {
    let mut payload = Vec::new();
    entries.iter().for_each(|entry| entry.encode(&mut payload));
    let (count, urgency) = (u32::try_from(entries.len())?, Urgency::Routine);
    log.append(NewBatch { count, payload: &payload, kind: 1, slot_group: 0, urgency })?;
    Ok(Seq(log.commit()?.0 - 1))
}
