//! ClickHouse as the node needs it: tables with keys and versions, and a sink that fills them from
//! the spool by the very rules of [`crate::sink`]: a range is written down before it is sent.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use meter::{
    AccountId, AlarmRow, Effects, IntervalRow, LedgerRow, MeterId, Neighbours, Outcome, Reading,
    Recall, Seq, UnixSeconds,
};
use storage::log::Reader;

use crate::cursor::Place;
use crate::spool;

/// The tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    /// By meter, stamp and entry: the version, the reading, and what became of it.
    pub(super) readings: BTreeMap<(MeterId, UnixSeconds, Seq), (Seq, Reading, Outcome)>,
    pub(super) intervals: BTreeMap<(MeterId, UnixSeconds), IntervalRow>,
    pub(super) ledger: BTreeMap<(AccountId, u64), LedgerRow>,
    pub(super) alarms: Vec<AlarmRow>,
    /// Rows that came again and were not the same.
    pub(super) contradictions: Vec<String>,
    /// The sink's place, durable.
    pub(super) place: Place,
}

impl Store {
    pub(super) fn new() -> Self {
        let place = Place { next: Seq(1), intent: Seq(1) };
        Self { place, ..Self::default() }
    }

    /// Takes rows in; ones that are there already must be the same.
    pub(super) fn insert(&mut self, rows: &Effects) {
        for row in &rows.settled {
            let key = (row.reading.meter, row.reading.taken_at, row.seq);
            let new = (row.settled_by, row.reading, row.outcome);
            match self.readings.get(&key) {
                Some(old) if old.0 == new.0 && *old != new => {
                    self.contradictions.push(format!("reading {old:?} and {new:?}"));
                }
                Some(old) if old.0 > new.0 => {}
                _ => {
                    self.readings.insert(key, new);
                }
            }
        }
        for row in &rows.intervals {
            let key = (row.meter, row.start);
            if self.intervals.get(&key).is_none_or(|old| old.rev <= row.rev) {
                self.intervals.insert(key, *row);
            }
        }
        for row in &rows.ledger {
            if let Some(old) = self.ledger.insert((row.account, row.number), *row)
                && old != *row
            {
                self.contradictions.push(format!("movement {old:?} and {row:?}"));
            }
        }
        self.alarms.extend_from_slice(&rows.alarms);
    }

    /// The answer to a question.
    pub(super) fn recall(&self, recall: &Recall) -> Neighbours {
        let accepted = |from: UnixSeconds, to: UnixSeconds| {
            let rows = self
                .readings
                .range((recall.meter, from, Seq(0))..=(recall.meter, to, Seq(u64::MAX)));
            rows.map(|(_, row)| row).filter(|row| row.2 == Outcome::Accepted).map(|row| row.1)
        };
        let mut readings = Vec::new();
        if recall.from.0 > 0 {
            readings.extend(accepted(UnixSeconds(0), recall.from.minus(1)).next_back());
        }
        readings.extend(accepted(recall.from, recall.to));
        readings.extend(accepted(recall.to.plus(1), UnixSeconds(u32::MAX)).next());
        Neighbours { meter: recall.meter, from: recall.from, to: recall.to, readings }
    }

    /// Gathers the next block from the spool, at most `batches_max` batches unless a range was
    /// written down before; `None` when there is none.
    pub(super) fn gather(
        &self,
        reader: &mut Reader,
        batches_max: u64,
    ) -> anyhow::Result<Option<(Vec<Effects>, Seq)>> {
        let (mut rows, mut end) = (Vec::new(), self.place.next);
        let resumed = self.place.intent > self.place.next;
        while if resumed { end < self.place.intent } else { (rows.len() as u64) < batches_max } {
            let Some(batch) = reader.next_batch()? else { break };
            if batch.header.first > end {
                bail!("the spool has a hole from entry {end} to {}", batch.header.first);
            }
            end = batch.header.next();
            rows.push(spool::decode(batch.payload).context("a spool batch does not read")?);
        }
        Ok((!rows.is_empty()).then_some((rows, end)))
    }
}
