//! Recalls: the dataflow's questions for accepted readings around a parked one, answered from
//! ClickHouse by an entry in the log.
//!
//! A question is answered only when ClickHouse has everything up to the entry that asked, so that
//! the answer knows every acceptance before it. The dataflow asks once a meter at a time, which
//! bounds the queue; a few questions are on their way together.

use std::sync::Arc;
use std::time::Duration;

use meter::{Entry, Recall};
use storage::clickhouse::History;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tracing::{error, warn};

use crate::journal::{Journal, JournalError};
use crate::sink::Progress;

/// Questions on their way together.
const IN_FLIGHT_MAX: usize = 8;
/// How often the sink's progress is looked at, and a ClickHouse or a log that refused asked again.
const POLL: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);

/// Answers recalls, as soon as ClickHouse is reached, until the books or the log stop.
pub async fn run(
    mut questions: UnboundedReceiver<Recall>,
    history: impl Future<Output = Option<History>>,
    journal: Arc<Journal>,
    sunk: Arc<Progress>,
) {
    let Some(history) = history.await else { return };
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.recv(), if answers.len() < IN_FLIGHT_MAX => {
                let Some(question) = question else { return };
                let (history, journal) = (history.clone(), Arc::clone(&journal));
                answers.spawn(answer(question, history, journal, Arc::clone(&sunk)));
            }
            Some(answered) = answers.join_next() => match answered {
                Ok(Ok(())) => {}
                Ok(Err(JournalError::Stopped)) => return,
                Ok(Err(refused)) => error!(error = %refused, "a recall was given up"),
                Err(broken) => error!(error = %broken, "a recall broke"),
            },
        }
    }
}

/// Answers one question, however long ClickHouse or the log's disk take.
async fn answer(
    question: Recall,
    history: History,
    journal: Arc<Journal>,
    sunk: Arc<Progress>,
) -> Result<(), JournalError> {
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
            Ok(_) => return Ok(()),
            Err(JournalError::Stopped) => return Err(JournalError::Stopped),
            Err(JournalError::Refused(_)) => tokio::time::sleep(RETRY).await,
        }
    }
}
