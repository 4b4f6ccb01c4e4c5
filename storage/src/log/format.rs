//! The bytes of a segment, format version 1. Little endian throughout.
//!
//! A segment is a sequence of 4096-byte blocks. Block 0 holds the segment header; every batch begins
//! at a block and is padded with zeros to the next, so that a commit never touches a block that holds
//! committed bytes.
//!
//! Segment header (the rest of block 0 is zero):
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `MTRDSEG\0` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 2 | zero |
//! | 12 | 4 | epoch of the writer |
//! | 16 | 8 | segment id: rises by one with each segment, never used twice |
//! | 24 | 8 | Seq of the first entry |
//! | 32 | 8 | time at which the writer opened the log, seconds since 1970 |
//! | 40 | 8 | node id |
//! | 48 | 8 | size of the segment in bytes |
//! | 56 | 4 | CRC32C of bytes 0..56: the *seed* of this segment |
//!
//! Batch:
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 4 | magic `MBAT` |
//! | 4 | 4 | CRC32C of bytes 8..48, begun with the seed |
//! | 8 | 4 | payload size in bytes |
//! | 12 | 4 | CRC32C of the payload |
//! | 16 | 8 | Seq of the first entry |
//! | 24 | 8 | *durable below*: every Seq below this was synced when the batch was written |
//! | 32 | 4 | count of entries, at least 1 |
//! | 36 | 4 | epoch |
//! | 40 | 2 | slot group |
//! | 42 | 1 | kind of payload |
//! | 43 | 5 | zero |
//! | 48 | … | payload |
//!
//! The seed makes what an earlier life of a recycled file left behind unreadable: the checksum of an
//! old batch was begun with another segment's seed. *Durable below* tells a torn tail from damage: if
//! the batch at Seq `n` cannot be read and any later header says durable below `m > n`, then `n` had
//! been committed, and its loss is damage.

use meter::Seq;

/// Size and alignment of a block, in bytes.
pub(crate) const BLOCK: usize = 4096;
/// The newest format version, the one that is written.
pub(crate) const VERSION: u16 = 1;
/// Size of a batch header in bytes.
pub(crate) const BATCH_HEADER: usize = 48;

const SEGMENT_MAGIC: [u8; 8] = *b"MTRDSEG\0";
const SEGMENT_HEADER: usize = 60;
const BATCH_MAGIC: [u8; 4] = *b"MBAT";

/// The head of a segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentHeader {
    /// Rises by one with each segment, never used twice.
    pub id: u64,
    /// The first entry.
    pub first: Seq,
    /// When the writer opened the log, seconds since 1970.
    pub opened_at_s: u64,
    /// The node that wrote it.
    pub node: u64,
    /// The epoch of that node.
    pub epoch: u32,
    /// Size of the segment in bytes.
    pub size: u64,
}

/// Why a segment header cannot be read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HeaderFault {
    Damaged,
    Future(u16),
}

impl SegmentHeader {
    /// The header's block and the seed.
    pub(crate) fn encode(&self) -> (Block, u32) {
        let mut block = Block([0; BLOCK]);
        let bytes = &mut block.0;
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.id.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.opened_at_s.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.node.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.size.to_le_bytes());
        let seed = crc32c::crc32c(&bytes[0..56]);
        bytes[56..60].copy_from_slice(&seed.to_le_bytes());
        (block, seed)
    }

    /// The header and the seed.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, u32), HeaderFault> {
        let bytes: &[u8; SEGMENT_HEADER] = bytes.first_chunk().ok_or(HeaderFault::Damaged)?;
        let seed = u32_at(bytes, 56);
        if bytes[0..8] != SEGMENT_MAGIC || crc32c::crc32c(&bytes[0..56]) != seed {
            return Err(HeaderFault::Damaged);
        }
        let version = u16_at(bytes, 8);
        if version != VERSION {
            return Err(HeaderFault::Future(version));
        }
        let header = Self {
            epoch: u32_at(bytes, 12),
            id: u64_at(bytes, 16),
            first: Seq(u64_at(bytes, 24)),
            opened_at_s: u64_at(bytes, 32),
            node: u64_at(bytes, 40),
            size: u64_at(bytes, 48),
        };
        Ok((header, seed))
    }
}

/// The head of a batch: everything about it but its payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchHeader {
    /// The first entry.
    pub first: Seq,
    /// Count of entries.
    pub count: u32,
    /// Epoch of the writer.
    pub epoch: u32,
    /// Group of meter slots that the entries belong to.
    pub slot_group: u16,
    /// Kind of payload, chosen by the caller.
    pub kind: u8,
    /// Payload size in bytes.
    pub payload_size: u32,
    pub(crate) payload_crc: u32,
    pub(crate) durable_below: Seq,
}

impl BatchHeader {
    /// The entry after the last one.
    #[must_use]
    pub fn next(&self) -> Seq {
        Seq(self.first.0.saturating_add(u64::from(self.count)))
    }

    /// Bytes on disk, padding included.
    pub(crate) fn stride(&self) -> u64 {
        stride(self.payload_size as usize) as u64
    }

    pub(crate) fn encode(&self, seed: u32) -> [u8; BATCH_HEADER] {
        let mut bytes = [0; BATCH_HEADER];
        bytes[0..4].copy_from_slice(&BATCH_MAGIC);
        bytes[8..12].copy_from_slice(&self.payload_size.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.durable_below.0.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.count.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[40..42].copy_from_slice(&self.slot_group.to_le_bytes());
        bytes[42] = self.kind;
        let crc = crc32c::crc32c_append(seed, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header, `None` unless these bytes were written as one in the segment with this seed.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Self> {
        let bytes: &[u8; BATCH_HEADER] = bytes.first_chunk()?;
        if bytes[0..4] != BATCH_MAGIC {
            return None;
        }
        if crc32c::crc32c_append(seed, &bytes[8..]) != u32_at(bytes, 4) {
            return None;
        }
        Some(Self {
            payload_size: u32_at(bytes, 8),
            payload_crc: u32_at(bytes, 12),
            first: Seq(u64_at(bytes, 16)),
            durable_below: Seq(u64_at(bytes, 24)),
            count: u32_at(bytes, 32),
            epoch: u32_at(bytes, 36),
            slot_group: u16_at(bytes, 40),
            kind: bytes[42],
        })
    }
}

/// Bytes on disk of a batch with a payload of this size.
pub(crate) const fn stride(payload_size: usize) -> usize {
    (BATCH_HEADER + payload_size).next_multiple_of(BLOCK)
}

/// One block, aligned as direct writes want it.
#[repr(align(4096))]
pub(crate) struct Block(pub(crate) [u8; BLOCK]);

/// Zeros to prepare segments with, aligned as direct writes want them.
#[repr(align(4096))]
pub(crate) struct Zeros(pub(crate) [u8; 1 << 20]);
pub(crate) static ZEROS: Zeros = Zeros([0; 1 << 20]);

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("field within the header"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("field within the header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> BatchHeader {
        BatchHeader {
            first: Seq(7),
            count: 3,
            epoch: 2,
            slot_group: 9,
            kind: 1,
            payload_size: 100,
            payload_crc: 0x1234_5678,
            durable_below: Seq(5),
        }
    }

    fn segment() -> SegmentHeader {
        SegmentHeader { id: 3, first: Seq(42), opened_at_s: 1, node: 5, epoch: 6, size: 8192 }
    }

    #[test]
    fn headers_come_back() {
        let (block, seed) = segment().encode();
        assert_eq!(SegmentHeader::decode(&block.0), Ok((segment(), seed)));
        assert_eq!(BatchHeader::decode(&batch().encode(seed), seed), Some(batch()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_seen() {
        let bytes = batch().encode(77);
        for bit in 0..BATCH_HEADER * 8 {
            let mut broken = bytes;
            broken[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&broken, 77), None, "bit {bit}");
        }
    }

    #[test]
    fn another_seed_or_a_newer_version_is_not_read() {
        assert_eq!(BatchHeader::decode(&batch().encode(77), 78), None);
        let (mut block, _) = segment().encode();
        block.0[8] = 2;
        let seed = crc32c::crc32c(&block.0[0..56]);
        block.0[56..60].copy_from_slice(&seed.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block.0), Err(HeaderFault::Future(2)));
    }
}
