//! What datagrams and streams of a shard share: the directory, the way to the log, the counts.

use std::sync::Arc;
use std::time::Duration;

use meter::UnixSeconds;
use meter::wire::dlms::Templates;

use crate::batch::{Ack, Destination, Outbound};
use crate::config::Config;
use crate::directory::{Directory, RecordIndex};
use crate::downlink::Downlink;
use crate::frame::{Admitted, Claim, admit, claim, clear_answer};
use crate::limits::{FailureTable, Source};
use crate::outcome::Outcome;
use crate::stats::Tally;

/// What datagrams and streams of a shard share.
pub(crate) struct Desk {
    pub(crate) config: Arc<Config>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) templates: Arc<Templates>,
    pub(crate) outbound: Outbound,
    pub(crate) failures: FailureTable,
    pub(crate) tally: Tally,
    pub(crate) downlink: Downlink,
    /// This shard's number.
    pub(crate) shard: u16,
    /// The turn's time on the monotonic clock.
    pub(crate) now: Duration,
    /// Time spent listening: it stands still while the log is behind, so that nobody is sent away
    /// for what the node did not read. Deadlines of connections go by it.
    pub(crate) listened: Duration,
    /// The turn's time of day.
    pub(crate) wall: UnixSeconds,
}

impl Desk {
    /// Sets the clocks for a turn.
    pub(crate) fn tell_time(&mut self, now: Duration, wall: UnixSeconds) {
        if self.outbound.has_room() {
            self.listened += now.saturating_sub(self.now);
        }
        self.now = now;
        self.wall = wall;
    }

    /// Counts a frame that came in.
    pub(crate) const fn arrived(&mut self, size: usize) {
        self.tally.frames += 1;
        self.tally.frame_bytes += size as u64;
    }

    /// Whom a frame claims to be from.
    pub(crate) fn claim(&self, frame: &[u8]) -> Result<Claim, Outcome> {
        claim(frame, &self.directory)
    }

    /// Opens a frame; its entries are in the open batch then, and its acknowledgement waits. An
    /// answer to a command goes to who waits for it. The device it is from.
    pub(crate) fn admit(
        &mut self,
        claim: &Claim,
        frame: &mut [u8],
        from: Destination,
    ) -> Result<RecordIndex, Outcome> {
        let entries = &mut self.outbound.entries;
        let record = claim.record;
        match admit(claim, frame, &self.directory, &self.templates, self.wall, entries)? {
            Admitted::Told(receipt) => {
                self.outbound.note(receipt.map(|receipt| Ack { to: from, record, receipt }));
            }
            Admitted::Answer(heard) => {
                let is_awaited = self.downlink.hear(record, heard, &self.directory, self.now);
                let outcome = if is_awaited { Outcome::Answered } else { Outcome::Unasked };
                self.tally.count(outcome);
            }
        }
        Ok(record)
    }

    /// Takes an answer that is not under keys; it counts only where it is waited for.
    pub(crate) fn hear_clear(&mut self, frame: &[u8], from: Destination) {
        let answer = clear_answer(frame, &self.directory);
        let is_awaited = answer.is_some_and(|(meter, apdu)| {
            self.downlink.hear_clear(meter, apdu, from, &self.directory, self.now)
        });
        self.tally.count(if is_awaited { Outcome::Answered } else { Outcome::Unasked });
    }

    /// Counts a frame that was refused, and against whom.
    pub(crate) fn refuse(&mut self, outcome: Outcome, source: Source) {
        self.tally.count(outcome);
        if outcome.is_authentication_failure() {
            self.failures.failed(source, self.now);
        }
    }

    /// Whether more may be read; hands the batch over first if it is due.
    pub(crate) fn may_read(&mut self) -> bool {
        if !self.outbound.has_room() {
            self.outbound.flush(self.now, false, &mut self.tally);
        }
        self.outbound.has_room()
    }
}
