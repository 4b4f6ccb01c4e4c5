//! Errands: commands on their way down to meters, as the node hands them to the shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use meter::wire::dlms::DialogueError;
use meter::{Command, CommandOutcome, SystemTitle};

/// One attempt at a command. Every shard gets a copy; the one that reaches the meter first takes it.
#[derive(Clone, Debug)]
pub struct Errand {
    /// Names the attempt.
    pub id: u64,
    /// The meter.
    pub meter: SystemTitle,
    /// The gateway it is behind.
    pub via: Option<SystemTitle>,
    /// What to do.
    pub command: Command,
    /// Whether an earlier attempt may have come through: look before acting.
    pub check_first: bool,
    /// First of [`meter::wire::dlms::DIALOGUE_COUNTERS`] counters that nobody used before.
    pub counter: u32,
    /// Fresh random bytes.
    pub challenge: [u8; 16],
    /// How long to wait before trying a device that says nothing. Whoever speaks is answered at once.
    pub pause: Duration,
    /// How long to wait for each answer.
    pub answer_max: Duration,
    /// Who carries it.
    pub claim: Arc<Claim>,
}

/// Whether an errand is still to be carried: decided once, by the shard or by who withdraws it.
#[derive(Debug, Default)]
pub struct Claim(AtomicU8);

const OPEN: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// What came of an errand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ErrandReport {
    /// Which.
    pub id: u64,
    /// What came of it.
    pub end: ErrandEnd,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrandEnd {
    /// The meter answered to the end.
    Answered(CommandOutcome),
    /// It did not.
    Failed {
        /// Why.
        failure: ErrandFailure,
        /// Whether a request that changes something was sent.
        has_acted: bool,
        /// Whether the device spoke while the attempt waited: it is there, try again at once.
        is_near: bool,
    },
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ErrandFailure {
    /// The directory does not know the meter or its gateway.
    Unknown,
    /// No answer in time.
    Silent,
    /// An answer that ends the attempt.
    Dialogue(DialogueError),
}

/// A shard's way to whoever gives errands: bounded channels, of the node's own types. Neither method
/// waits. After errands were put where [`Self::next`] finds them, the shard's [`crate::Waker`] is
/// called.
pub trait Errands: Send {
    /// The next errand.
    fn next(&mut self) -> Option<Errand>;

    /// Tells what came of one that this shard took.
    fn report(&mut self, report: ErrandReport);
}

/// No errands ever.
#[derive(Debug)]
pub(crate) struct NoErrands;

impl Errands for NoErrands {
    fn next(&mut self) -> Option<Errand> {
        None
    }

    fn report(&mut self, _: ErrandReport) {}
}

impl Claim {
    /// Takes the errand; whether nobody else has it. AcqRel is not needed: the claim is all that is
    /// decided, nothing else is published by it.
    pub(crate) fn take(&self) -> bool {
        self.settle(TAKEN)
    }

    /// Withdraws the errand; `false` when a shard carries it already.
    pub fn withdraw(&self) -> bool {
        self.settle(WITHDRAWN)
    }

    /// Whether it is still to be taken.
    pub(crate) fn is_open(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OPEN
    }

    fn settle(&self, state: u8) -> bool {
        self.0.compare_exchange(OPEN, state, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}
