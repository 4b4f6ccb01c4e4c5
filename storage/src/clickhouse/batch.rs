//! Rows on their way to ClickHouse: collected by table and month, then sealed into immutable
//! encoded batches. A batch is sent byte-identical until the server has it.

use std::collections::BTreeMap;

use bytes::Bytes;
use meter::{
    AlarmRow, Effects, GapRow, IntervalRow, LedgerRow, LossRow, Outcome, Reading, Seq, Settled,
};
use sha2::{Digest, Sha256};

use super::days::Places;
use super::native;
use super::rows::{AccountRow, MeterRow, Month, ReadingRow, Row, Table};

/// No request has more rows: beyond some 1,048,000 the server commits in parts, and a request cut
/// in the middle would leave some of them.
pub const BATCH_ROWS_MAX: usize = 1_000_000;

/// Encoded rows of one table and month, ready to be sent any number of times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Where they go.
    pub table: Table,
    /// Their partition.
    pub month: Month,
    /// How many.
    pub rows: u32,
    /// One `FORMAT Native` block.
    pub bytes: Bytes,
    /// Names the content; equal content has an equal token.
    pub token: String,
    /// The days whose rows in the tables of days it changes.
    pub places: Places,
}

/// Collects rows until they are sealed.
#[derive(Debug)]
pub struct Collector {
    batch_rows_max: usize,
    rows: usize,
    readings: Pile<ReadingRow>,
    intervals: Pile<IntervalRow>,
    ledger: Pile<LedgerRow>,
    alarms: Pile<AlarmRow>,
    gaps: Pile<GapRow>,
    losses: Pile<LossRow>,
    meters: Pile<MeterRow>,
    accounts: Pile<AccountRow>,
}

/// Rows of one table, by month, each month in the order of arrival.
type Pile<R> = BTreeMap<Month, Vec<R>>;

impl Collector {
    /// Batches will have at most `batch_rows_max` rows (100,000 is a good size), never more than
    /// [`BATCH_ROWS_MAX`].
    pub fn new(batch_rows_max: usize) -> Self {
        Self {
            batch_rows_max: batch_rows_max.clamp(1, BATCH_ROWS_MAX),
            rows: 0,
            readings: Pile::new(),
            intervals: Pile::new(),
            ledger: Pile::new(),
            alarms: Pile::new(),
            gaps: Pile::new(),
            losses: Pile::new(),
            meters: Pile::new(),
            accounts: Pile::new(),
        }
    }

    /// Rows collected and not yet sealed.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// A reading of entry `seq` with its verdict. Duplicates are not stored: the first copy is.
    pub fn reading(&mut self, seq: Seq, reading: &Reading, outcome: Outcome) {
        if outcome != Outcome::Duplicate {
            let row = ReadingRow { reading: *reading, seq, rev: seq, outcome };
            Self::push(&mut self.rows, &mut self.readings, row);
        }
    }

    /// Everything else that follows from entries: late verdicts, intervals, movements, alarms,
    /// gaps, losses. The verdicts in `effects` are not looked at; they go with
    /// [`Collector::reading`].
    pub fn effects(&mut self, effects: &Effects) {
        for settled in &effects.settled {
            self.settled(settled);
        }
        let rows = &mut self.rows;
        effects.intervals.iter().for_each(|row| Self::push(rows, &mut self.intervals, *row));
        effects.ledger.iter().for_each(|row| Self::push(rows, &mut self.ledger, *row));
        effects.alarms.iter().for_each(|row| Self::push(rows, &mut self.alarms, *row));
        effects.gaps.iter().for_each(|row| Self::push(rows, &mut self.gaps, *row));
        effects.losses.iter().for_each(|row| Self::push(rows, &mut self.losses, *row));
    }

    /// A meter of the registry, new or changed.
    pub fn meter(&mut self, row: MeterRow) {
        Self::push(&mut self.rows, &mut self.meters, row);
    }

    /// An account of the registry, new or changed.
    pub fn account(&mut self, row: AccountRow) {
        Self::push(&mut self.rows, &mut self.accounts, row);
    }

    /// Seals all rows into batches, tables in the order of [`Table::ALL`], months ascending.
    /// The same rows in the same order give the same batches.
    pub fn seal(&mut self) -> Vec<Batch> {
        self.rows = 0;
        let rows_max = self.batch_rows_max;
        let mut batches = Vec::new();
        seal_pile(&mut self.readings, rows_max, &mut batches);
        seal_pile(&mut self.intervals, rows_max, &mut batches);
        seal_pile(&mut self.ledger, rows_max, &mut batches);
        seal_pile(&mut self.alarms, rows_max, &mut batches);
        seal_pile(&mut self.gaps, rows_max, &mut batches);
        seal_pile(&mut self.losses, rows_max, &mut batches);
        seal_pile(&mut self.meters, rows_max, &mut batches);
        seal_pile(&mut self.accounts, rows_max, &mut batches);
        batches
    }

    /// A parked reading whose verdict has come replaces its own row, also as a duplicate.
    fn settled(&mut self, settled: &Settled) {
        let Settled { seq, reading, outcome, settled_by } = *settled;
        let row = ReadingRow { reading, seq, rev: settled_by, outcome };
        Self::push(&mut self.rows, &mut self.readings, row);
    }

    fn push<R: Row>(rows: &mut usize, pile: &mut Pile<R>, row: R) {
        pile.entry(row.month()).or_default().push(row);
        *rows += 1;
    }
}

fn seal_pile<R: Row>(pile: &mut Pile<R>, rows_max: usize, batches: &mut Vec<Batch>) {
    for (month, rows) in std::mem::take(pile) {
        for rows in rows.chunks(rows_max) {
            let bytes = Bytes::from(native::encode(R::COLUMNS, rows));
            let digest = Sha256::digest(&bytes);
            let token = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            let count = u32::try_from(rows.len()).expect("at most BATCH_ROWS_MAX");
            let places = rows.iter().filter_map(Row::day).collect();
            batches.push(Batch { table: R::TABLE, month, rows: count, bytes, token, places });
        }
    }
}
