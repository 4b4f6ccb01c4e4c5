//! The way of entries to the log and of its answers back: the open batch, the batches in flight,
//! and what to acknowledge for each of them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use meter::Entry;

use crate::config::Config;
use crate::directory::RecordIndex;
use crate::frame::Receipt;
use crate::outcome::Outcome;
use crate::ports::{Answer, Batch, Log, NotTaken, Verdict};
use crate::stats::Tally;

/// An acknowledgement that is due once its batch is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ack {
    pub(crate) to: Destination,
    pub(crate) record: RecordIndex,
    pub(crate) receipt: Receipt,
}

/// Where an acknowledgement goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Destination {
    /// The sender of the datagram.
    Datagram(SocketAddr),
    /// The connection, by its place and the count of those that had the place before.
    Stream { place: usize, generation: u32 },
}

/// What waits for the log's answer to one batch.
#[derive(Debug)]
struct InFlight {
    ticket: u64,
    frames: u64,
    acks: Vec<Ack>,
}

/// One shard's way to the log.
pub(crate) struct Outbound {
    shard: u16,
    log: Box<dyn Log>,
    entries_max: usize,
    in_flight_max: usize,
    age_max: Duration,
    /// The open batch.
    pub(crate) entries: Vec<Entry>,
    acks: Vec<Ack>,
    frames: u64,
    opened_at: Option<Duration>,
    next_ticket: u64,
    /// A batch the full channel gave back.
    blocked: Option<Batch>,
    in_flight: VecDeque<InFlight>,
    spare: Vec<Vec<Ack>>,
    is_closed: bool,
}

/// Entries of one frame may exceed `entries_max` by this much without the vector growing.
const FRAME_ENTRIES: usize = 64;

/// Vectors of acknowledgements kept for use again.
const SPARE_MAX: usize = 64;

impl Outbound {
    pub(crate) fn new(shard: u16, log: Box<dyn Log>, config: &Config) -> Self {
        let entries_max = config.entries_max;
        Self {
            shard,
            log,
            entries_max,
            in_flight_max: config.batches_in_flight_max,
            age_max: config.age_max(),
            entries: Vec::with_capacity(entries_max + FRAME_ENTRIES),
            acks: Vec::new(),
            frames: 0,
            opened_at: None,
            next_ticket: 1,
            blocked: None,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            is_closed: false,
        }
    }

    /// Whether more may be read: the batch is not full, and the log is not behind.
    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < self.entries_max && !self.is_behind()
    }

    /// Whether the log has to take or answer something first.
    fn is_behind(&self) -> bool {
        self.is_closed || self.blocked.is_some() || self.in_flight.len() >= self.in_flight_max
    }

    /// Notes a frame whose entries were appended to [`Self::entries`].
    pub(crate) fn note(&mut self, ack: Option<Ack>) {
        self.frames += 1;
        self.acks.extend(ack);
    }

    /// Hands the batch over if it is full, old, or `idle` (there is nothing more to read).
    pub(crate) fn flush(&mut self, now: Duration, idle: bool, tally: &mut Tally) {
        self.unblock(tally);
        if self.entries.is_empty() || self.is_behind() {
            return;
        }
        let opened_at = *self.opened_at.get_or_insert(now);
        let is_due = idle
            || self.entries.len() >= self.entries_max
            || now.saturating_sub(opened_at) >= self.age_max;
        if is_due {
            self.hand_over(tally);
        }
    }

    /// Takes one answer of the log: counts its frames and appends the acknowledgements now due.
    /// `None` when there is no answer.
    pub(crate) fn settle(&mut self, due: &mut Vec<Ack>, tally: &mut Tally) -> Option<()> {
        let Answer { ticket, verdict } = self.log.answer()?;
        let at = self.in_flight.binary_search_by_key(&ticket, |batch| batch.ticket);
        let Some(mut batch) = at.ok().and_then(|at| self.in_flight.remove(at)) else {
            debug_assert!(false, "the log answered batch {ticket} twice");
            return Some(());
        };
        match verdict {
            Verdict::Durable => {
                tally.count_many(Outcome::Accepted, batch.frames);
                due.append(&mut batch.acks);
            }
            Verdict::Refused => tally.count_many(Outcome::RefusedByLog, batch.frames),
        }
        batch.acks.clear();
        if self.spare.len() < SPARE_MAX {
            self.spare.push(batch.acks);
        }
        Some(())
    }

    /// Whether nothing waits for the log any more.
    pub(crate) fn is_drained(&self) -> bool {
        let is_empty = self.entries.is_empty() && self.blocked.is_none();
        self.is_closed || is_empty && self.in_flight.is_empty()
    }

    /// Gives up what the log has not answered.
    pub(crate) fn abandon(&mut self, tally: &mut Tally) {
        let in_flight: u64 = self.in_flight.drain(..).map(|batch| batch.frames).sum();
        tally.count_many(Outcome::Abandoned, in_flight + std::mem::take(&mut self.frames));
        self.entries.clear();
        self.acks.clear();
        self.blocked = None;
    }

    fn hand_over(&mut self, tally: &mut Tally) {
        let fresh = || Vec::with_capacity(self.entries_max + FRAME_ENTRIES);
        let mut empty = self.log.recycled().unwrap_or_else(fresh);
        empty.clear();
        let entries = std::mem::replace(&mut self.entries, empty);
        let acks = std::mem::replace(&mut self.acks, self.spare.pop().unwrap_or_default());
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.opened_at = None;
        tally.batches += 1;
        tally.entries += entries.len() as u64;
        let frames = std::mem::take(&mut self.frames);
        self.in_flight.push_back(InFlight { ticket, frames, acks });
        self.blocked = Some(Batch { shard: self.shard, ticket, entries });
        self.unblock(tally);
    }

    fn unblock(&mut self, tally: &mut Tally) {
        let Some(batch) = self.blocked.take() else { return };
        match self.log.submit(batch) {
            Ok(()) => {}
            Err(NotTaken::Full(batch)) => {
                tally.stalls += 1;
                self.blocked = Some(batch);
            }
            // The log stops the process when it fails; until then nothing more is read.
            Err(NotTaken::Closed) => self.is_closed = true,
        }
    }
}
