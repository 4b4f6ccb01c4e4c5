//! The spool: rows on their way to ClickHouse, on disk. A batch of the spool carries what followed
//! from a range of entries, under the same numbers as in the log. It is derived data: a lost tail
//! is computed again, and what is there already is not appended twice.

use meter::{Effects, Entry, Outcome, Seq, Settled, Stored, Verdict};
use storage::log::{Error, NewBatch, SegmentLog, Urgency};

/// Kind of a spool batch, version 1: readings with their final outcome (duplicates left out),
/// intervals, ledger, alarms, gaps, losses, each a count and rows.
pub const KIND: u8 = 1;

/// Reads the payload of a batch: the rows, readings among them as [`Effects::settled`]. `None`
/// when it is not one of this version.
#[must_use]
pub fn decode(mut bytes: &[u8]) -> Option<Effects> {
    let bytes = &mut bytes;
    let rows = Effects {
        settled: Stored::take(bytes)?,
        intervals: Stored::take(bytes)?,
        ledger: Stored::take(bytes)?,
        alarms: Stored::take(bytes)?,
        gaps: Stored::take(bytes)?,
        losses: Stored::take(bytes)?,
        ..Effects::default()
    };
    bytes.is_empty().then_some(rows)
}

/// What [`decode`] gives for a batch made of `entries` and `effects`: the rows that ClickHouse gets.
#[must_use]
pub fn rows(first: Seq, entries: &[Entry], effects: &Effects) -> Effects {
    let mut bytes = Vec::new();
    encode(first, entries, effects, &mut bytes);
    decode(&bytes).expect("what was encoded here is of this version")
}

/// The writing end of the spool.
#[derive(Debug)]
pub struct Spool {
    log: SegmentLog,
    buffer: Vec<u8>,
}

impl Spool {
    /// A spool over an open log.
    #[must_use]
    pub const fn new(log: SegmentLog) -> Self {
        Self { log, buffer: Vec::new() }
    }

    /// The entry whose effects come next.
    #[must_use]
    pub fn next(&self) -> Seq {
        self.log.next()
    }

    /// Appends what followed from `entries`, the first of which stands at `first`.
    ///
    /// # Errors
    /// Of the log; [`Error::Full`] leaves everything as it was.
    pub fn append(
        &mut self,
        first: Seq,
        entries: &[Entry],
        effects: &Effects,
    ) -> Result<(), Error> {
        assert_eq!(first, self.log.next(), "effects come in the order of their entries");
        let count = u32::try_from(entries.len()).expect("a batch has fewer than 2^32 entries");
        self.buffer.clear();
        encode(first, entries, effects, &mut self.buffer);
        self.log.append(NewBatch {
            count,
            payload: &self.buffer,
            kind: KIND,
            slot_group: 0,
            urgency: Urgency::Urgent,
        })?;
        self.log.commit().map(|_| ())
    }

    /// Makes all of it durable.
    ///
    /// # Errors
    /// Of the log.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.log.sync()
    }

    /// The log below.
    pub const fn log_mut(&mut self) -> &mut SegmentLog {
        &mut self.log
    }
}

/// Lays down rows as [`decode`] reads them, without copying the effects first.
fn encode(first: Seq, entries: &[Entry], effects: &Effects, out: &mut Vec<u8>) {
    let rows = effects.rows(first, entries);
    let readings = rows.verdicts().map(|(Verdict { seq, outcome }, reading)| Settled {
        seq,
        reading: *reading,
        outcome,
        settled_by: seq,
    });
    let readings = readings.chain(effects.settled.iter().copied());
    put_all(readings.filter(|settled| is_final_row(settled.outcome)), out);
    put_all(rows.intervals(), out);
    put_all(rows.ledger(), out);
    effects.alarms.put(out);
    effects.gaps.put(out);
    effects.losses.put(out);
}

/// Lays down rows as a vector of them.
fn put_all<T: Stored>(rows: impl Iterator<Item = T>, out: &mut Vec<u8>) {
    let (count_at, mut count) = (out.len(), 0_u32);
    count.put(out);
    for row in rows {
        row.put(out);
        count += 1;
    }
    out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
}

/// Whether a reading with this outcome stands in a table: the accepted and the quarantined.
const fn is_final_row(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Accepted | Outcome::Quarantined(_) => true,
        Outcome::Duplicate | Outcome::Parked => false,
    }
}

#[cfg(test)]
mod tests {
    use meter::{MeterId, QuarantineReason, Reading};

    use super::*;

    #[test]
    fn readings_are_joined_with_their_verdicts() {
        let reading = |meter| Reading { meter: MeterId(meter), ..Reading::default() };
        let entries = [
            Entry::Reading(reading(1)),
            Entry::Tick(meter::UnixSeconds(1)),
            Entry::Reading(reading(2)),
            Entry::Reading(reading(3)),
        ];
        let spike = Outcome::Quarantined(QuarantineReason::Spike);
        let verdict = |seq, outcome| Verdict { seq: Seq(seq), outcome };
        let effects = Effects {
            verdicts: vec![
                verdict(10, Outcome::Accepted),
                verdict(12, Outcome::Duplicate),
                verdict(13, spike),
            ],
            ..Effects::default()
        };
        let mut bytes = Vec::new();
        encode(Seq(10), &entries, &effects, &mut bytes);
        let rows = decode(&bytes).unwrap();
        let found: Vec<_> =
            rows.settled.iter().map(|row| (row.seq.0, row.reading.meter.0, row.outcome)).collect();
        assert_eq!(found, [(10, 1, Outcome::Accepted), (13, 3, spike)]);
        assert_eq!(decode(&bytes[1..]), None);
    }
}
