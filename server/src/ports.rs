//! The border between a shard of ingest and the log: their channels, and nothing in between.

use crossbeam_channel::{Receiver, Sender, TrySendError};
use ingest::{Answer, Batch, NotTaken, Verdict};
use meter::Entry;
use storage::log::{Outcome, Submission};

/// A shard's way to the log.
#[derive(Debug)]
pub struct ShardLog {
    /// Submissions of all shards.
    pub submissions: Sender<Submission<Entry>>,
    /// The log's answers to this shard.
    pub outcomes: Receiver<Outcome>,
    /// Emptied buffers.
    pub buffers: Receiver<Vec<Entry>>,
}

impl ingest::Log for ShardLog {
    fn submit(&mut self, batch: Batch) -> Result<(), NotTaken> {
        let Batch { shard, ticket, entries } = batch;
        let give_back = |submission: Submission<Entry>| Batch {
            shard: submission.origin,
            ticket: submission.ticket,
            entries: submission.entries,
        };
        match self.submissions.try_send(Submission { origin: shard, ticket, entries }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(submission)) => Err(NotTaken::Full(give_back(submission))),
            Err(TrySendError::Disconnected(_)) => Err(NotTaken::Closed),
        }
    }

    fn answer(&mut self) -> Option<Answer> {
        self.outcomes.try_recv().ok().map(|outcome| match outcome {
            Outcome::Durable(durable) => {
                Answer { ticket: durable.ticket, verdict: Verdict::Durable }
            }
            Outcome::Refused { ticket, .. } => Answer { ticket, verdict: Verdict::Refused },
        })
    }

    fn recycled(&mut self) -> Option<Vec<Entry>> {
        self.buffers.try_recv().ok()
    }
}
