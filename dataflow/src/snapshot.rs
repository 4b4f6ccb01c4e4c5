//! The bytes of a snapshot. Little endian, field by field; what stands for one key (a meter's
//! installation, an account, a transformer) is one record, and records are sorted by key, so that
//! equal states have equal bytes, whatever the number of workers.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `MTRDBOOK` |
//! | 4 | version of the format, [`VERSION`] |
//! | 8 | position: the log position of the last entry in it |
//! | … | four sections: router, reference, and the records of books and of loss |
//!
//! A section is its length (8) and bytes; in a section of records each record is its kind (1),
//! its key (8), its length (4) and bytes.

use meter::{Seq, Stored};
use thiserror::Error;

/// The version of the format this crate writes and reads.
pub const VERSION: u32 = 3;

const MAGIC: [u8; 8] = *b"MTRDBOOK";
/// Bytes before the first section.
const HEAD: usize = 20;

/// Why bytes are not a snapshot.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The bytes do not begin as a snapshot does.
    #[error("not a snapshot of the books")]
    Foreign,
    /// Another version of the format.
    #[error(
        "snapshot has format version {found}, this program reads {VERSION}; use the program that \
         wrote it, or move snapshots/ away to compute the books again"
    )]
    Version {
        /// The version found.
        found: u32,
    },
    /// A section is cut short or holds what it must not.
    #[error("section {section} of the snapshot does not read; replay the log")]
    Damaged {
        /// Which one.
        section: &'static str,
    },
}

/// A snapshot in parts.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parts {
    pub(crate) position: Seq,
    pub(crate) router: Vec<u8>,
    pub(crate) reference: Vec<u8>,
    pub(crate) books: Vec<Record>,
    pub(crate) loss: Vec<Record>,
}

/// The state that stands for one key.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    pub(crate) key: u64,
    pub(crate) bytes: Vec<u8>,
}

layout!(Record { kind, key, bytes });

impl Record {
    /// Bytes it takes in a snapshot.
    fn size(&self) -> usize {
        size_of_val(&self.kind) + size_of_val(&self.key) + size_of::<u32>() + self.bytes.len()
    }
}

impl Parts {
    pub(crate) fn encode(mut self) -> Vec<u8> {
        self.books.sort();
        self.loss.sort();
        let records = [&self.books, &self.loss];
        let sizes = records.map(|records| records.iter().map(Record::size).sum::<usize>());
        let bytes = self.router.len() + self.reference.len() + sizes[0] + sizes[1];
        let mut out = Vec::with_capacity(HEAD + 4 * size_of::<u64>() + bytes);
        out.extend_from_slice(&MAGIC);
        VERSION.put(&mut out);
        self.position.put(&mut out);
        for section in [&self.router, &self.reference] {
            (section.len() as u64).put(&mut out);
            out.extend_from_slice(section);
        }
        for (records, size) in records.into_iter().zip(sizes) {
            (size as u64).put(&mut out);
            records.iter().for_each(|record| record.put(&mut out));
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let mut left = bytes.strip_prefix(&MAGIC).ok_or(SnapshotError::Foreign)?;
        let found = u32::take(&mut left).ok_or(SnapshotError::Foreign)?;
        if found != VERSION {
            return Err(SnapshotError::Version { found });
        }
        let damaged = |section| SnapshotError::Damaged { section };
        let position = Seq::take(&mut left).ok_or_else(|| damaged("head"))?;
        let router = section(&mut left).ok_or_else(|| damaged("router"))?.to_vec();
        let reference = section(&mut left).ok_or_else(|| damaged("reference"))?.to_vec();
        let books = section(&mut left).and_then(records).ok_or_else(|| damaged("books"))?;
        let loss = section(&mut left).and_then(records).ok_or_else(|| damaged("loss"))?;
        if !left.is_empty() {
            return Err(damaged("tail"));
        }
        Ok(Self { position, router, reference, books, loss })
    }
}

fn section<'a>(left: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u64::take(left)?).ok()?;
    let (head, rest) = left.split_at_checked(length)?;
    *left = rest;
    Some(head)
}

fn records(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        records.push(Record::take(&mut bytes)?);
    }
    Some(records)
}

/// Gives a struct its layout in a snapshot: its fields, in this order. What follows from them
/// alone is not laid down and found again when it is needed.
macro_rules! layout {
    ($name:ident { $($field:ident),* $(,)? } $(and follows { $($derived:ident),* })?) => {
        impl meter::Stored for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(meter::Stored::put(&self.$field, out);)*
            }

            fn take(bytes: &mut &[u8]) -> Option<Self> {
                Some(Self {
                    $($field: meter::Stored::take(bytes)?,)*
                    $($($derived: Default::default(),)*)?
                })
            }
        }
    };
}

pub(crate) use layout;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_damage() {
        let record = |key| Record { kind: 0, key, bytes: vec![1, 2, 3] };
        let parts = Parts {
            position: Seq(9),
            router: vec![4],
            reference: vec![],
            books: vec![record(2), record(1)],
            loss: vec![record(7)],
        };
        let bytes = parts.encode();
        let back = Parts::decode(&bytes).unwrap();
        assert_eq!(back.books, [record(1), record(2)], "sorted by key");
        assert_eq!(back.encode(), bytes);
        for cut in 0..bytes.len() {
            assert!(Parts::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut later = bytes;
        later[8] = 9;
        assert_eq!(Parts::decode(&later), Err(SnapshotError::Version { found: 9 }));
        assert_eq!(Parts::decode(b"else"), Err(SnapshotError::Foreign));
    }
}
