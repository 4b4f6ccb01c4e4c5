//! The writer: one thread that turns waiting submissions into one commit (group commit).
//!
//! It takes what waits in its inputs, gives each entry its [`Seq`], writes and syncs once, answers
//! every origin, and hands the entries on. While a sync is under way the next submissions gather,
//! so that the group grows with the load. While the consumer of committed entries is behind and its
//! bounded channel full, groups are joined, so that a pause of the consumer is no pause of those who
//! wait for an answer. When the joined group is full too, the writer stops taking, the inputs fill,
//! and the sockets are no longer read: nothing is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError, TrySendError, tick};
use meter::Seq;

use super::{Error, NewBatch, SegmentLog, Urgency};

/// Entries of joined groups from which on the writer waits for the consumer.
const JOINED_MAX: usize = 16_384;

/// An entry that the writer carries.
pub trait Payload: Send + 'static {
    /// Appends the bytes that stand in the log.
    fn encode(&self, out: &mut Vec<u8>);

    /// Whether it may use the reserve when the disk is full.
    fn urgency(&self) -> Urgency;
}

impl Payload for meter::Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        Self::encode(self, out);
    }

    fn urgency(&self) -> Urgency {
        match self {
            Self::Reading(_)
            | Self::Event(_)
            | Self::Tick(_)
            | Self::Frame { .. }
            | Self::Neighbours(_) => Urgency::Routine,
            // Purchases and what else a person waits for.
            Self::Changes { .. } => Urgency::Urgent,
        }
    }
}

/// Entries that become durable together.
#[derive(Debug)]
pub struct Submission<E> {
    /// Index of the origin to be answered.
    pub origin: u16,
    /// Chosen by the origin, comes back in the answer.
    pub ticket: u64,
    /// The entries; the emptied buffer goes back to the origin.
    pub entries: Vec<E>,
}

/// A submission stands in the log and on the device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Durable {
    /// Of the submission.
    pub ticket: u64,
    /// Its first entry.
    pub first: Seq,
    /// Count of its entries.
    pub count: u32,
}

/// Why a submission was not taken; nothing of it is in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// The disk is full; offer it again later.
    Full,
    /// It exceeds the bytes of one commit.
    TooLarge,
    /// It has no entries.
    Empty,
}

/// The answer to a submission, exactly one each.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It is durable.
    Durable(Durable),
    /// It was not taken.
    Refused {
        /// Of the submission.
        ticket: u64,
        /// Why.
        reason: Refusal,
    },
}

/// A committed group on its way to the dataflow, in order of `first`, without holes.
#[derive(Debug)]
pub struct Committed<E> {
    /// The first entry.
    pub first: Seq,
    /// The entries.
    pub entries: Vec<E>,
}

/// Where the answers to an origin go.
pub struct Origin<E> {
    /// Answers. Its capacity must be at least the count of submissions that the origin leaves
    /// unanswered at a time: the writer waits when it is full.
    pub outcomes: Sender<Outcome>,
    /// Emptied buffers; when it is full they are dropped.
    pub buffers: Sender<Vec<E>>,
    /// Called after answers were sent, once a group.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

impl<E> fmt::Debug for Origin<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origin").field("waiting", &self.outcomes.len()).finish_non_exhaustive()
    }
}

/// Settings of the writer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WriterConfig {
    /// Entries after which a commit takes no further submission.
    pub group_entries_max: usize,
    /// Encoded bytes of one commit, and so of one submission.
    pub group_bytes_max: usize,
    /// Kind of payload noted in the batches.
    pub kind: u8,
    /// Group of meter slots noted in the batches.
    pub slot_group: u16,
    /// How often an idle writer prepares spares, retires segments, and looks for space after the
    /// disk was full.
    pub housekeeping_interval: Duration,
}

/// The group commit over a log. Spawn a thread for [`Writer::run`].
#[derive(Debug)]
pub struct Writer<E: Payload> {
    log: SegmentLog,
    config: WriterConfig,
    inputs: Vec<Receiver<Submission<E>>>,
    origins: Vec<Origin<E>>,
    committed: Sender<Committed<E>>,
    groups: Receiver<Vec<E>>,
    /// Durable, but not yet with the consumer.
    behind: Option<Committed<E>>,
    /// Submissions of the group, in order.
    group: Vec<Submission<E>>,
    /// Taken from an input, but too large for the group at hand.
    carried: Option<Submission<E>>,
    encoded: Vec<u8>,
}

enum Waited {
    Submissions,
    Consumer,
    Tick,
    AllGone,
}

impl<E: Payload> Writer<E> {
    /// A writer over an open log.
    ///
    /// `inputs` are emptied in their order: the first one has precedence. `origins` are answered by
    /// index. Committed groups go to `committed`, whose consumer returns the emptied buffers by
    /// `groups`.
    ///
    /// # Errors
    /// [`Error::Config`] if a commit could not fit into a segment.
    pub fn new(
        log: SegmentLog,
        config: WriterConfig,
        inputs: Vec<Receiver<Submission<E>>>,
        origins: Vec<Origin<E>>,
        committed: Sender<Committed<E>>,
        groups: Receiver<Vec<E>>,
    ) -> Result<Self, Error> {
        if config.group_bytes_max > log.config().payload_size_max() {
            return Err(Error::Config("group_bytes_max must be less than segment_size_bytes"));
        }
        if config.group_entries_max == 0 || config.group_bytes_max == 0 {
            return Err(Error::Config("group_entries_max and group_bytes_max must be at least 1"));
        }
        let (behind, group, carried, encoded) = (None, Vec::new(), None, Vec::new());
        Ok(Self {
            log,
            config,
            inputs,
            origins,
            committed,
            groups,
            behind,
            group,
            carried,
            encoded,
        })
    }

    /// Works until all inputs are closed and empty, then returns the log, all of it durable.
    ///
    /// # Errors
    /// The first error but a full disk: submissions without an answer may or may not be durable.
    /// The process must stop, and recovers when it starts again.
    pub fn run(mut self) -> Result<SegmentLog, Error> {
        let ticks = tick(self.config.housekeeping_interval);
        loop {
            self.gather();
            if !self.group.is_empty() {
                self.commit_group()?;
                if self.log.is_full() && ticks.try_recv().is_ok() {
                    self.keep_house()?;
                }
                continue;
            }
            match self.wait(&ticks) {
                Waited::Submissions => {}
                Waited::Consumer => self.hand_on()?,
                Waited::Tick => self.keep_house()?,
                Waited::AllGone => break,
            }
        }
        self.log.sync()?;
        if let Some(group) = self.behind.take() {
            self.committed.send(group).map_err(|_| Error::Disconnected)?;
        }
        Ok(self.log)
    }

    /// Takes what waits, up to the limits of a commit, and encodes it.
    fn gather(&mut self) {
        self.encoded.clear();
        let mut entry_count = 0;
        while entry_count < self.config.group_entries_max {
            let Some(submission) = self.carried.take().or_else(|| self.take()) else {
                break;
            };
            if submission.entries.is_empty() {
                self.refuse(submission, Refusal::Empty);
                continue;
            }
            let encoded_before = self.encoded.len();
            submission.entries.iter().for_each(|entry| entry.encode(&mut self.encoded));
            if self.encoded.len() <= self.config.group_bytes_max {
                entry_count += submission.entries.len();
                self.group.push(submission);
                continue;
            }
            let alone = self.encoded.len() - encoded_before > self.config.group_bytes_max;
            self.encoded.truncate(encoded_before);
            if alone {
                self.refuse(submission, Refusal::TooLarge);
            } else {
                self.carried = Some(submission);
                break;
            }
        }
    }

    /// A submission that waits, from the first input that has one.
    fn take(&self) -> Option<Submission<E>> {
        self.inputs.iter().find_map(|input| input.try_recv().ok())
    }

    /// Blocks until a submission waits, a tick is due, the consumer has room for what it is behind
    /// with, or all inputs are closed and empty.
    fn wait(&mut self, ticks: &Receiver<std::time::Instant>) -> Waited {
        let mut select = Select::new();
        for input in &self.inputs {
            select.recv(input);
        }
        let tick_index = select.recv(ticks);
        let consumer_index = self.behind.is_some().then(|| select.send(&self.committed));
        let ready = select.ready();
        if Some(ready) == consumer_index {
            return Waited::Consumer;
        }
        if ready == tick_index {
            return if ticks.try_recv().is_ok() { Waited::Tick } else { Waited::Submissions };
        }
        match self.inputs[ready].try_recv() {
            Ok(submission) => self.carried = Some(submission),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => {
                // Its entries are all taken; order of precedence among the others stays.
                self.inputs.remove(ready);
                if self.inputs.is_empty() {
                    return Waited::AllGone;
                }
            }
        }
        Waited::Submissions
    }

    /// Commits the group, or of it what still fits on a full disk, and answers.
    fn commit_group(&mut self) -> Result<(), Error> {
        let first = match self.append() {
            Err(Error::Full) => {
                self.refuse_routine();
                self.append()
            }
            appended => appended,
        };
        let first = match first {
            Ok(Some(first)) => first,
            Ok(None) => return Ok(()),
            Err(Error::Full) => {
                for submission in std::mem::take(&mut self.group) {
                    self.refuse(submission, Refusal::Full);
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        self.log.commit()?;
        self.complete(first)?;
        self.log.prepare_ahead(self.encoded.len() as u64)
    }

    /// Appends the group as one batch; `None` if it is empty.
    fn append(&mut self) -> Result<Option<Seq>, Error> {
        if self.group.is_empty() {
            return Ok(None);
        }
        let entry_count: usize = self.group.iter().map(|submission| submission.entries.len()).sum();
        let urgent = self.group.iter().all(|submission| urgency(submission) == Urgency::Urgent);
        let batch = NewBatch {
            count: u32::try_from(entry_count).expect("bounded by the bytes of a segment"),
            payload: &self.encoded,
            kind: self.config.kind,
            slot_group: self.config.slot_group,
            urgency: if urgent { Urgency::Urgent } else { Urgency::Routine },
        };
        self.log.append(batch).map(Some)
    }

    /// Leaves only urgent submissions in the group, and their bytes.
    fn refuse_routine(&mut self) {
        self.encoded.clear();
        for submission in std::mem::take(&mut self.group) {
            if urgency(&submission) == Urgency::Urgent {
                submission.entries.iter().for_each(|entry| entry.encode(&mut self.encoded));
                self.group.push(submission);
            } else {
                self.refuse(submission, Refusal::Full);
            }
        }
    }

    /// Answers the origins of the durable group, and hands its entries on.
    fn complete(&mut self, first: Seq) -> Result<(), Error> {
        let group = self.behind.take();
        let (groups, mut next) = (&self.groups, first);
        let new = || Committed { first, entries: groups.try_recv().unwrap_or_default() };
        let Committed { first, mut entries } = group.unwrap_or_else(new);
        for submission in &mut self.group {
            let count = u32::try_from(submission.entries.len()).expect("bounded by a segment");
            let durable = Durable { ticket: submission.ticket, first: next, count };
            entries.append(&mut submission.entries);
            next = Seq(next.0 + u64::from(count));
            if let Some(origin) = self.origins.get(usize::from(submission.origin)) {
                origin.answer(Outcome::Durable(durable), std::mem::take(&mut submission.entries));
            }
        }
        for (index, origin) in self.origins.iter().enumerate() {
            if self.group.iter().any(|submission| usize::from(submission.origin) == index) {
                (origin.wake)();
            }
        }
        self.group.clear();
        self.behind = Some(Committed { first, entries });
        self.hand_on()
    }

    /// Hands on what is durable; keeps it where the consumer has no room, and waits only for a group
    /// that is joined of many.
    fn hand_on(&mut self) -> Result<(), Error> {
        let Some(group) = self.behind.take() else { return Ok(()) };
        if group.entries.len() >= JOINED_MAX {
            return self.committed.send(group).map_err(|_| Error::Disconnected);
        }
        match self.committed.try_send(group) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(group)) => {
                self.behind = Some(group);
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(Error::Disconnected),
        }
    }

    fn refuse(&self, mut submission: Submission<E>, reason: Refusal) {
        submission.entries.clear();
        if let Some(origin) = self.origins.get(usize::from(submission.origin)) {
            let ticket = submission.ticket;
            origin.answer(Outcome::Refused { ticket, reason }, submission.entries);
            (origin.wake)();
        }
    }

    /// What is due now and then, and when there is nothing else to do.
    fn keep_house(&mut self) -> Result<(), Error> {
        self.log.retire(self.log.progress().retire_requested())?;
        if self.log.is_full() {
            match self.log.replenish() {
                Ok(()) | Err(Error::Full) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl<E> Origin<E> {
    /// Sends an answer and gives the buffer back. An origin that is gone needs neither.
    fn answer(&self, outcome: Outcome, buffer: Vec<E>) {
        let _gone = self.outcomes.send(outcome);
        let _full_or_gone = self.buffers.try_send(buffer);
    }
}

/// A submission is urgent if all its entries are.
fn urgency<E: Payload>(submission: &Submission<E>) -> Urgency {
    let all = submission.entries.iter().all(|entry| entry.urgency() == Urgency::Urgent);
    if all { Urgency::Urgent } else { Urgency::Routine }
}
