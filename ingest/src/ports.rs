//! What ingest asks of the world: a log to hand batches to, and two clocks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meter::{Entry, UnixSeconds};

/// Entries for the log, all or none of which become durable. A frame is never cut in two batches.
#[derive(Debug)]
pub struct Batch {
    /// The shard that waits for the answer.
    pub shard: u16,
    /// Number of the batch, ascending within the shard.
    pub ticket: u64,
    /// At least one entry.
    pub entries: Vec<Entry>,
}

/// The log's answer to a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The batch.
    pub ticket: u64,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// Written and synced: its frames may be acknowledged.
    Durable,
    /// Not taken (the disk is full, the log is closing): nothing of it is acknowledged.
    Refused,
}

/// Why the log did not take a batch.
#[derive(Debug)]
pub enum NotTaken {
    /// It is behind; offer it again.
    Full(Batch),
    /// It is gone; nothing becomes durable any more.
    Closed,
}

/// A shard's way to the log and back: bounded channels, of the log's own types. None of its methods
/// waits. After answers were put where [`Self::answer`] finds them, the shard's [`crate::Waker`] is
/// called.
pub trait Log: Send {
    /// Hands a batch over. While the log is full, the shard does not read its sockets.
    ///
    /// # Errors
    /// [`NotTaken`].
    fn submit(&mut self, batch: Batch) -> Result<(), NotTaken>;

    /// The next answer, one for each batch taken, in any order.
    fn answer(&mut self) -> Option<Answer>;

    /// A buffer to use again.
    fn recycled(&mut self) -> Option<Vec<Entry>>;
}

/// The two clocks, as closures, so that a node can run on virtual time.
#[derive(Clone)]
pub struct Clock {
    /// The time of day, for `received_at`.
    pub wall: Arc<dyn Fn() -> UnixSeconds + Send + Sync>,
    /// Time since some start, never going back, for ages and deadlines.
    pub monotonic: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
