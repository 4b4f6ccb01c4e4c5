//! Copies of segments, for the archive and for backups: the header and every complete batch, so
//! that a copy is read like the segment itself. What a torn or unfinished commit left is not in it.

use meter::Seq;

use super::Error;
use super::disk::Disk;
use super::scan::{Payload, Scan, list_segments, segment_name};

/// The complete part of a segment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SegmentCopy {
    /// The file's name.
    pub name: String,
    /// The first entry.
    pub first: Seq,
    /// The entry after the last one copied.
    pub next: Seq,
    /// The bytes; shorter than the segment was made.
    pub bytes: Vec<u8>,
}

/// The first entries of the segments of a log, ascending.
///
/// # Errors
/// [`Error::Io`] if the folder cannot be listed.
pub fn segments(disk: &dyn Disk) -> Result<Vec<Seq>, Error> {
    list_segments(disk)
}

/// Copies the batches of the segment at `first` that begin below `until`; each is checked. For a
/// segment that has ended, `until` is the first entry of the one after it, and the copy must reach
/// it.
///
/// # Errors
/// [`Error::Damaged`], [`Error::FutureVersion`], [`Error::Io`].
pub fn copy_segment(disk: &dyn Disk, first: Seq, until: Seq) -> Result<SegmentCopy, Error> {
    let mut scan = Scan::open(disk, first)?;
    while scan.next < until {
        match scan.batch(Payload::Check)? {
            Ok(header) => {
                scan.advance(&header);
            }
            Err(_) => break,
        }
    }
    let name = segment_name(first);
    let size = usize::try_from(scan.offset).expect("a segment fits in memory");
    let mut bytes = vec![0; size];
    let file = disk.open_read(&name).map_err(Error::io("open", &name))?;
    let count = file.read_at(&mut bytes, 0).map_err(Error::io("read", &name))?;
    if count < size {
        return Err(scan.damaged("the segment ends within a batch"));
    }
    Ok(SegmentCopy { name, first, next: scan.next, bytes })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::sim::SimDisk;
    use super::super::{Config, Durability, NewBatch, SegmentLog, Urgency, verify};
    use super::*;

    const CONFIG: Config = Config {
        segment_size_bytes: 16 << 10,
        reserve_segments: 0,
        spares_max: 0,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    };

    #[test]
    fn copies_of_all_segments_are_the_log() {
        let disk = SimDisk::new(1);
        let (mut log, _) = SegmentLog::open(Arc::new(disk.clone()), CONFIG, 1).unwrap();
        for count in 1..9 {
            let payload = vec![7; 700 * count as usize];
            let (kind, slot_group, urgency) = (1, 0, Urgency::Routine);
            let batch = NewBatch { count, payload: &payload, kind, slot_group, urgency };
            log.append(batch).unwrap();
            log.commit().unwrap();
        }
        let copies = SimDisk::new(2);
        let firsts = segments(&disk).unwrap();
        assert!(firsts.len() > 2);
        for (index, first) in firsts.iter().enumerate() {
            let until = firsts.get(index + 1).copied().unwrap_or(Seq(u64::MAX));
            let copy = copy_segment(&disk, *first, until).unwrap();
            assert!(copy.next == until || until == Seq(u64::MAX));
            copies.create(&copy.name).unwrap().write_at(&copy.bytes, 0).unwrap();
        }
        let (want, got) = (verify(&disk).unwrap(), verify(&copies).unwrap());
        assert_eq!((got.entries, got.payload_bytes), (want.entries, want.payload_bytes));
        assert!(got.damage.is_empty());
        let cut = copy_segment(&disk, firsts[0], Seq(2)).unwrap();
        assert_eq!((cut.first, cut.next), (Seq(1), Seq(2)));
    }
}
