//! What the API is given by the node: handles, no crates. It neither knows the dataflow nor the
//! ingest tier.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use meter::{OutboxId, UnixSeconds};
use storage::registry::Registry;
use thiserror::Error;

use crate::alarms::ActiveAlarms;
use crate::board::{Board, Latest, Standing};
use crate::history::History;

/// A future that another task may poll.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The time, from the node's clock.
pub type Clock = Arc<dyn Fn() -> UnixSeconds + Send + Sync>;

/// Everything the API reads and writes.
#[derive(Clone)]
pub struct Node {
    /// What exists.
    pub registry: Arc<Registry>,
    /// What each meter said last.
    pub meters: Arc<Board<Latest>>,
    /// Where each account stands.
    pub accounts: Arc<Board<Standing>>,
    /// Alarms that are active.
    pub alarms: Arc<ActiveAlarms>,
    /// When a change is in the books.
    pub applied: Arc<dyn Applied>,
    /// What was.
    pub history: Arc<dyn History>,
    /// The parts of the node and how they are.
    pub parts: Arc<dyn Fn() -> Vec<Part> + Send + Sync>,
    /// Appends the node's metrics as Prometheus text.
    pub metrics: Arc<dyn Fn(&mut String) + Send + Sync>,
    /// The time.
    pub clock: Clock,
    /// What runs.
    pub version: Version,
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Waits until the books hold a change.
pub trait Applied: Send + Sync {
    /// Returns when the row of the outbox is durable in the log, the dataflow has taken it, and
    /// what follows is published on the boards. May be asked of a row long applied.
    fn wait(&self, outbox: OutboxId) -> BoxFuture<'_, Result<(), NotApplied>>;
}

/// The node stops before a change was applied; it is durable and will be applied after the start.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("the node stops before the change was applied")]
pub struct NotApplied;

/// A part of the node and how it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Part {
    /// Its name, such as `log` or `clickhouse`.
    pub name: &'static str,
    /// How it is.
    pub state: PartState,
    /// In words: what is the matter, or a figure of interest.
    pub detail: String,
}

/// How a part is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PartState {
    /// Works.
    Ready,
    /// Works with limits: the node goes on, a person should look.
    Degraded,
    /// Does not work: the node is not ready.
    Down,
}

/// What runs.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    /// Version of the product.
    pub product: &'static str,
    /// Commit it was built from, empty when unknown.
    pub commit: &'static str,
}
