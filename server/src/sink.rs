//! The sink: spool → blocks → ClickHouse, at ClickHouse's pace. Ingest never waits for it.
//!
//! A block covers a range of the spool. The range is written down before the block is sent, so
//! that after a crash the very same block is sent again; keys and versions of the rows, and the
//! block's token where the server knows tokens, make that harmless.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meter::Seq;
use storage::clickhouse::{Collector, Sink};
use storage::log::{self, Reader};
use thiserror::Error;
use tokio::sync::watch;

use crate::cursor::{Cursor, Place};
use crate::spool;

/// How often the end of the spool is looked at.
const POLL: Duration = Duration::from_millis(20);

/// How the sink cuts blocks.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Rows of a block.
    pub rows_max: usize,
    /// How long a block waits to fill.
    pub age_max: Duration,
}

/// Why the sink ended; what it had not sent stays in the spool.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The spool does not read.
    #[error("the spool cannot be read")]
    Spool(#[from] log::Error),
    /// A batch of the spool is of another version.
    #[error("spool batch at entry {0} is not of this version; run the version that wrote it once")]
    Batch(Seq),
    /// The cursor cannot be kept.
    #[error("the sink's cursor cannot be kept")]
    Cursor(#[from] io::Error),
}

/// How far ClickHouse is; shared with the books (which retire the spool), recalls and metrics.
#[derive(Debug)]
pub struct Progress(AtomicU64);

impl Progress {
    /// A progress that starts at a place.
    #[must_use]
    pub fn new(next: Seq) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(next.0)))
    }

    /// ClickHouse has the effects of all entries below this.
    #[must_use]
    pub fn next(&self) -> Seq {
        // Acquire: who sees the position also sees that the rows were taken.
        Seq(self.0.load(Ordering::Acquire))
    }

    fn advance(&self, next: Seq) {
        self.0.store(next.0, Ordering::Release);
    }
}

/// The sink's state: where it reads, what it has collected.
pub struct Pump {
    config: Config,
    cursor: Cursor,
    place: Place,
    reader: Reader,
    collector: Collector,
    progress: Arc<Progress>,
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Pump {
    /// A pump that goes on at `place`; `reader` must begin there.
    #[must_use]
    pub fn new(
        config: Config,
        cursor: Cursor,
        place: Place,
        reader: Reader,
        progress: Arc<Progress>,
    ) -> Self {
        let collector = Collector::new(config.rows_max);
        Self { config, cursor, place, reader, collector, progress }
    }

    /// Pumps until `stop`.
    ///
    /// # Errors
    /// [`SinkError`]; ClickHouse's own errors are retried for ever.
    pub async fn run(
        mut self,
        sink: Sink,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), SinkError> {
        while !*stop.borrow() {
            let end = self.gather(&mut stop).await?;
            if *stop.borrow() {
                break;
            }
            let batches = self.collector.seal();
            if !batches.is_empty() {
                self.keep(Place { intent: end, ..self.place })?;
            }
            for batch in &batches {
                // It ends without the batch only when the node stops; the range stays written down.
                if sink.send(batch, &mut stop).await.is_err() {
                    return Ok(());
                }
            }
            self.keep(Place { next: end, intent: end })?;
            self.progress.advance(end);
        }
        Ok(())
    }

    /// Collects one block and returns the entry after its range: exactly the range written down
    /// before a crash, else as much as comes within the block's size and age.
    async fn gather(&mut self, stop: &mut watch::Receiver<bool>) -> Result<Seq, SinkError> {
        let resumed = self.place.intent > self.place.next;
        let mut end = self.place.next;
        let mut deadline = None;
        loop {
            while self.collector.rows() < self.config.rows_max || resumed {
                if resumed && end >= self.place.intent {
                    return Ok(end);
                }
                let Some(next) = self.collect_batch()? else { break };
                end = next;
            }
            let now = tokio::time::Instant::now();
            let is_full = self.collector.rows() >= self.config.rows_max;
            let is_due = deadline.is_some_and(|deadline| now >= deadline);
            if is_full || is_due {
                return Ok(end);
            }
            if end > self.place.next && deadline.is_none() {
                deadline = Some(now + self.config.age_max);
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = stop.changed() => return Ok(end),
            }
        }
    }

    /// Takes one batch of the spool into the block; returns the entry after it.
    fn collect_batch(&mut self) -> Result<Option<Seq>, SinkError> {
        let Some(batch) = self.reader.next_batch()? else { return Ok(None) };
        let rows = spool::decode(batch.payload).filter(|_| batch.header.kind == spool::KIND);
        self.collector.effects(&rows.ok_or(SinkError::Batch(batch.header.first))?);
        Ok(Some(batch.header.next()))
    }

    fn keep(&mut self, place: Place) -> Result<(), SinkError> {
        if place != self.place {
            self.cursor.save(place)?;
            self.place = place;
        }
        Ok(())
    }
}
