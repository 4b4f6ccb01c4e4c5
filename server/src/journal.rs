//! How the asynchronous parts (relay, ticks, recalls) append entries to the log and learn that
//! they are durable, and that the books have them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use meter::{Entry, Seq};
use storage::log::{Outcome, Refusal, Submission};
use thiserror::Error;
use tokio::sync::{Notify, oneshot, watch};

/// How long to wait before a full log queue is tried again.
const QUEUE_RETRY: Duration = Duration::from_millis(1);

/// Why entries were not appended.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum JournalError {
    /// The log refused them; nothing of them is in it.
    #[error("the log refused the entries ({0:?}); free disk space and try again")]
    Refused(Refusal),
    /// The log has stopped.
    #[error("the log has stopped; the node is shutting down")]
    Stopped,
}

type Waiting = Mutex<BTreeMap<u64, oneshot::Sender<Outcome>>>;

/// An origin of the log for asynchronous callers.
#[derive(Debug)]
pub struct Journal {
    origin: u16,
    submissions: Sender<Submission<Entry>>,
    tickets: AtomicU64,
    waiting: Waiting,
    applied: watch::Receiver<Seq>,
}

impl Journal {
    /// A journal that submits as `origin`; `applied` says up to where the books have come.
    #[must_use]
    pub fn new(
        origin: u16,
        submissions: Sender<Submission<Entry>>,
        applied: watch::Receiver<Seq>,
    ) -> Arc<Self> {
        let (tickets, waiting) = (AtomicU64::new(1), Mutex::default());
        Arc::new(Self { origin, submissions, tickets, waiting, applied })
    }

    /// Appends entries and waits until they are durable. Returns the first one's position.
    ///
    /// # Errors
    /// [`JournalError`]; the entries are then not in the log, unless the log stopped meanwhile.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<Seq, JournalError> {
        // Relaxed: tickets need only differ.
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(ticket, answer);
        let mut submission = Submission { origin: self.origin, ticket, entries };
        loop {
            match self.submissions.try_send(submission) {
                Ok(()) => break,
                Err(TrySendError::Full(returned)) => submission = returned,
                Err(TrySendError::Disconnected(_)) => return Err(JournalError::Stopped),
            }
            tokio::time::sleep(QUEUE_RETRY).await;
        }
        match answered.await {
            Ok(Outcome::Durable(durable)) => Ok(durable.first),
            Ok(Outcome::Refused { reason, .. }) => Err(JournalError::Refused(reason)),
            Err(_) => Err(JournalError::Stopped),
        }
    }

    /// The newest entry that the books have.
    #[must_use]
    pub fn applied_through(&self) -> Seq {
        *self.applied.borrow()
    }

    /// Waits until the books have the entry at `seq`.
    ///
    /// # Errors
    /// [`JournalError::Stopped`] when they end before.
    pub async fn applied(&self, seq: Seq) -> Result<(), JournalError> {
        let mut applied = self.applied.clone();
        applied.wait_for(|at| *at >= seq).await.map(|_| ()).map_err(|_| JournalError::Stopped)
    }

    /// Hands the log's answers to those who wait, until the log is gone.
    pub async fn deliver(self: Arc<Self>, outcomes: Receiver<Outcome>, wake: Arc<Notify>) {
        loop {
            let notified = wake.notified();
            loop {
                match outcomes.try_recv() {
                    Ok(outcome) => self.answer(outcome),
                    Err(crossbeam_channel::TryRecvError::Empty) => break,
                    Err(crossbeam_channel::TryRecvError::Disconnected) => {
                        // Whoever still waits learns that the log has stopped.
                        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        return;
                    }
                }
            }
            notified.await;
        }
    }

    fn answer(&self, outcome: Outcome) {
        let ticket = match outcome {
            Outcome::Durable(durable) => durable.ticket,
            Outcome::Refused { ticket, .. } => ticket,
        };
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&ticket);
        if let Some(waiting) = waiting {
            // The caller may have given up; the entries stand all the same.
            waiting.send(outcome).ok();
        }
    }
}
