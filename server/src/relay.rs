//! The relay: outbox rows of the registry → entries of the log, in the order of their ids.
//!
//! A row is marked as sent after the log has it: not at once, as the mark is a sync of its own
//! under the registry's one writer, but a while later for all rows since. When the node dies
//! between the two, the rows are appended again, and the dataflow drops them by their ids.

use std::sync::Arc;
use std::time::Duration;

use meter::{Entry, OutboxId, Seq};
use storage::log::Progress;
use storage::registry::{Registry, RegistryError};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, timeout};
use tracing::warn;

use crate::journal::{Journal, JournalError};

/// Rows taken at once.
const ROWS_MAX: u32 = 256;
/// Between two marks.
const MARK_EACH: Duration = Duration::from_secs(1);
/// Pause after the log or the registry refused.
const RETRY: Duration = Duration::from_millis(500);

/// How far the relay is: every row up to `outbox` stands in the log at or before `seq`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Relayed {
    /// The newest row in the log.
    pub outbox: OutboxId,
    /// Its entry.
    pub seq: Seq,
}

impl Relayed {
    /// How far a former run came: what it sent stands somewhere in the log that it left. Whoever
    /// asks again for the answer to such a change waits for no other one.
    ///
    /// # Errors
    /// The registry does not answer.
    pub async fn before(registry: &Registry, left: &Progress) -> Result<Self, RegistryError> {
        let outbox = registry.sent_through().await?;
        Ok(Self { outbox, seq: Seq(left.durable().0.saturating_sub(1)) })
    }
}

/// Relays until the log stops.
pub async fn run(registry: Arc<Registry>, journal: Arc<Journal>, relayed: watch::Sender<Relayed>) {
    let mut changed = registry.watch_outbox();
    let mut marked = relayed.borrow().outbox;
    let mut mark = tokio::time::interval(MARK_EACH);
    mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Seen before the read: a row written during it wakes the loop again.
        changed.borrow_and_update();
        let done = match relay_once(&registry, &journal, &relayed).await {
            Ok(0) => tokio::select! {
                changed = changed.changed() => changed.map_err(|_| RelayError::Stopped),
                _ = mark.tick(), if marked < relayed.borrow().outbox => {
                    mark_sent(&registry, &relayed, &mut marked).await
                }
            },
            Ok(_) => match timeout(Duration::ZERO, mark.tick()).await {
                Ok(_) => mark_sent(&registry, &relayed, &mut marked).await,
                Err(_) => Ok(()),
            },
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {}
            Err(RelayError::Stopped) => break,
            Err(RelayError::Again(reason)) => {
                warn!(%reason, "changes of the registry wait for the log");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    // What cannot be marked any more is sent again by the next run.
    drop(mark_sent(&registry, &relayed, &mut marked).await);
}

enum RelayError {
    Stopped,
    Again(String),
}

/// Relays the rows that wait; returns how many there were.
async fn relay_once(
    registry: &Registry,
    journal: &Journal,
    relayed: &watch::Sender<Relayed>,
) -> Result<usize, RelayError> {
    let again = |error: &dyn std::error::Error| RelayError::Again(error.to_string());
    let after = relayed.borrow().outbox;
    let rows = registry.next_outbox(after, ROWS_MAX).await.map_err(|error| again(&error))?;
    let (Some(last), count) = (rows.last().map(|row| row.id), rows.len()) else {
        return Ok(0);
    };
    let entries = rows
        .into_iter()
        .map(|row| Entry::Changes { outbox: row.id, changes: row.changes })
        .collect();
    let first = journal.append(entries).await.map_err(|error| match error {
        JournalError::Stopped => RelayError::Stopped,
        JournalError::Refused(_) => again(&error),
    })?;
    let seq = Seq(first.0 + count as u64 - 1);
    relayed.send_replace(Relayed { outbox: last, seq });
    Ok(count)
}

/// Marks what was sent since the last mark.
async fn mark_sent(
    registry: &Registry,
    relayed: &watch::Sender<Relayed>,
    marked: &mut OutboxId,
) -> Result<(), RelayError> {
    let sent = relayed.borrow().outbox;
    if *marked < sent {
        let marking = registry.mark_sent(sent).await;
        marking.map_err(|error| RelayError::Again(error.to_string()))?;
        *marked = sent;
    }
    Ok(())
}
