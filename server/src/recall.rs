//! Recalls: the dataflow's questions for accepted readings around a parked one, answered from
//! ClickHouse by an entry in the log.
//!
//! A question is answered only when ClickHouse has everything up to the entry that asked, so that
//! the answer knows every acceptance before it.

use std::sync::Arc;
use std::time::Duration;

use meter::{Entry, Recall};
use storage::clickhouse::History;
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::warn;

use crate::journal::{Journal, JournalError};
use crate::sink::Progress;

/// How often the sink's progress, or a ClickHouse that failed, is asked again.
const POLL: Duration = Duration::from_millis(50);
const RETRY: Duration = Duration::from_secs(1);

/// Answers recalls until the books or the log stop. The dataflow asks once a meter, which bounds
/// the queue.
pub async fn run(
    mut questions: UnboundedReceiver<Recall>,
    history: History,
    journal: Arc<Journal>,
    sunk: Arc<Progress>,
) {
    while let Some(question) = questions.recv().await {
        while sunk.next() <= question.seq {
            tokio::time::sleep(POLL).await;
        }
        let neighbours = loop {
            match history.recall(&question).await {
                Ok(neighbours) => break neighbours,
                Err(error) => {
                    warn!(meter = %question.meter, %error, "a parked reading waits for ClickHouse");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        loop {
            match journal.append(vec![Entry::Neighbours(Box::new(neighbours.clone()))]).await {
                Ok(_) => break,
                Err(JournalError::Stopped) => return,
                Err(JournalError::Refused(_)) => tokio::time::sleep(RETRY).await,
            }
        }
    }
}
