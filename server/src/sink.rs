//! The sink: spool → blocks → ClickHouse, at ClickHouse's pace. Ingest never waits for it.
//!
//! A block covers a range of the spool. The range is written down before the block is sent, so
//! that after a crash the very same block is sent again; keys and versions of the rows, and the
//! block's token where the server knows tokens, make that harmless.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meter::Seq;
use storage::clickhouse::{Batch, ClickhouseError, Collector, Sink};
use storage::log::{self, Reader};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinSet;

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

    pub(crate) fn advance(&self, next: Seq) {
        self.0.store(next.0, Ordering::Release);
    }
}

/// The sink's state: what it gathers, and what it has written down.
pub struct Pump {
    gatherer: Gatherer,
    mark: Mark,
}

impl std::fmt::Debug for Pump {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pump").field("place", &self.mark.place).finish_non_exhaustive()
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
        Self {
            gatherer: Gatherer { config, reader, collector },
            mark: Mark { cursor, place, progress },
        }
    }

    /// How far ClickHouse is.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.mark.progress)
    }

    /// Pumps until `stop`; gathers the next block while ClickHouse works on the last one.
    ///
    /// # Errors
    /// [`SinkError`]; ClickHouse's own errors are retried for ever.
    pub async fn run(self, sink: Sink, mut stop: watch::Receiver<bool>) -> Result<(), SinkError> {
        let Self { mut gatherer, mut mark } = self;
        let Place { next, intent } = mark.place;
        let written_down = (intent > next).then_some(intent);
        let mut block = gatherer.gather(next, written_down, &mut stop).await?;
        while !*stop.borrow() {
            mark.begin(&block)?;
            let Block { end, batches } = block;
            // A task of its own: to compress and to gather are work for a processor each. It ends
            // with this one.
            let mut sending = JoinSet::new();
            sending.spawn(send(sink.clone(), batches, stop.clone()));
            let mut gathering = pin!(gatherer.gather(end, None, &mut stop));
            let ahead = tokio::select! {
                next = &mut gathering => Some(next?),
                true = sent(&mut sending) => None,
            };
            // It ends without the block only when the node stops; the range stays written down.
            if ahead.is_some() && !sent(&mut sending).await {
                return Ok(());
            }
            mark.end(end)?;
            block = match ahead {
                Some(next) => next,
                None => gathering.await?,
            };
        }
        Ok(())
    }
}

/// Whether the block is in ClickHouse.
async fn sent(sending: &mut JoinSet<Result<(), ClickhouseError>>) -> bool {
    matches!(sending.join_next().await, Some(Ok(Ok(()))))
}

/// Sends all batches, two at a time: the engine parses one while it writes the other.
async fn send(
    sink: Sink,
    batches: Vec<Batch>,
    stop: watch::Receiver<bool>,
) -> Result<(), ClickhouseError> {
    for pair in batches.chunks(2) {
        let (mut first, mut second) = (stop.clone(), stop.clone());
        let one = sink.send(&pair[0], &mut first);
        match pair.get(1) {
            None => one.await?,
            Some(other) => {
                let (one, other) = tokio::join!(one, sink.send(other, &mut second));
                one.and(other)?;
            }
        }
    }
    Ok(())
}

/// A range of the spool as batches.
struct Block {
    /// The entry after the range.
    end: Seq,
    batches: Vec<Batch>,
}

/// Where the sink is, in memory and on disk.
struct Mark {
    cursor: Cursor,
    place: Place,
    progress: Arc<Progress>,
}

impl Mark {
    /// The block is about to be sent.
    fn begin(&mut self, block: &Block) -> io::Result<()> {
        if block.batches.is_empty() {
            return Ok(());
        }
        self.keep(Place { intent: block.end, ..self.place })
    }

    /// ClickHouse has everything below.
    fn end(&mut self, next: Seq) -> io::Result<()> {
        self.keep(Place { next, intent: next })?;
        self.progress.advance(next);
        Ok(())
    }

    fn keep(&mut self, place: Place) -> io::Result<()> {
        if place != self.place {
            self.cursor.save(place)?;
            self.place = place;
        }
        Ok(())
    }
}

/// Reads the spool and makes blocks.
struct Gatherer {
    config: Config,
    reader: Reader,
    collector: Collector,
}

impl Gatherer {
    /// Gathers a block that begins at `from`: exactly to `written_down`, the range of a block that a
    /// crash cut off, else as much as comes within the block's size and age, or until `stop`.
    async fn gather(
        &mut self,
        from: Seq,
        written_down: Option<Seq>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Block, SinkError> {
        let mut end = from;
        let mut deadline = None;
        loop {
            let is_full = |rows| match written_down {
                Some(to) => end >= to,
                None => rows >= self.config.rows_max,
            };
            if is_full(self.collector.rows()) {
                return Ok(self.seal(end));
            }
            if let Some(next) = self.collect_batch()? {
                end = next;
                // There may be many in a row; others want this thread too.
                tokio::task::yield_now().await;
                continue;
            }
            let now = tokio::time::Instant::now();
            if deadline.is_some_and(|deadline| now >= deadline) {
                return Ok(self.seal(end));
            }
            if end > from && deadline.is_none() && written_down.is_none() {
                deadline = Some(now + self.config.age_max);
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(self.seal(end)),
            }
        }
    }

    fn seal(&mut self, end: Seq) -> Block {
        Block { end, batches: self.collector.seal() }
    }

    /// Takes one batch of the spool into the block; returns the entry after it.
    fn collect_batch(&mut self) -> Result<Option<Seq>, SinkError> {
        let Some(batch) = self.reader.next_batch()? else { return Ok(None) };
        let rows = spool::decode(batch.payload).filter(|_| batch.header.kind == spool::KIND);
        self.collector.effects(&rows.ok_or(SinkError::Batch(batch.header.first))?);
        Ok(Some(batch.header.next()))
    }
}
