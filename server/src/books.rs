//! The books' thread: committed entries → dataflow → boards, spool, recalls; and snapshots.
//!
//! The order of an entry's effects is fixed: boards first (so that whoever waits for an entry to
//! be applied reads the balance after it), then the spool, then the word that it is applied.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use dataflow::Engine;
use meter::{Effects, Entry, EntryError, MeterId, OrderRow, Recall, Seq, Stored, UnixSeconds};
use storage::log::{self, Committed, Reader};
use storage::snapshot::{self, Snapshots};
use thiserror::Error;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::archive::Retire;
use crate::clock;
use crate::sink;
use crate::spool::Spool;
use crate::views::Views;
use crate::watchdog::Pulse;

/// Section of a snapshot that holds the dataflow's state.
pub const SECTION_BOOKS: &str = "books";
/// Section of a snapshot that holds what [`Views`] keeps.
pub const SECTION_VIEWS: &str = "views";

/// Section of a snapshot that holds the questions without an answer.
pub const SECTION_RECALLS: &str = "recalls";
/// Section of a snapshot that holds the newest tick; absent in older ones.
pub const SECTION_TICK: &str = "tick";

/// How often an idle thread looks whether a snapshot is due.
const IDLE: Duration = Duration::from_millis(200);
/// Batches in the dataflow at a time: the workers have the next while one is told.
const UNDER_WAY_MAX: usize = 2;
/// Pause while the spool's disk is full.
const FULL_RETRY: Duration = Duration::from_millis(200);

/// Why the books stopped. The node stops with them, and recovers when it starts again.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BooksError {
    /// The dataflow broke.
    #[error("the dataflow stopped")]
    Dataflow(#[from] dataflow::EngineError),
    /// The log or the spool.
    #[error("the spool or the log stopped")]
    Log(#[from] log::Error),
    /// A snapshot could not be written or read.
    #[error("a snapshot failed")]
    Snapshot(#[from] snapshot::Error),
    /// The thread that writes a snapshot.
    #[error("cannot start the thread \"snapshot\"")]
    Thread(#[source] io::Error),
    /// An entry of the log does not read.
    #[error("entry {seq} of the log does not read")]
    Entry {
        /// Which.
        seq: Seq,
        /// Why.
        #[source]
        source: EntryError,
    },
    /// The spool does not reach the books' position.
    #[error(
        "the spool ends at entry {spool}, before the snapshot at {snapshot}; move the folder \
         snapshots/ away to compute all effects again from the log"
    )]
    SpoolBehind {
        /// Where the spool ends.
        spool: Seq,
        /// Where the snapshot stands.
        snapshot: Seq,
    },
}

/// When a snapshot is written.
#[derive(Clone, Copy, Debug)]
pub struct Cadence {
    /// After this many entries.
    pub entries: u64,
    /// After this long, if there was any entry.
    pub age: Duration,
}

/// What the books' thread owns.
#[derive(Debug)]
pub struct Books {
    /// The dataflow.
    pub engine: Engine,
    /// The next entry.
    pub next: Seq,
    /// The newest tick; zero when there was none.
    pub ticked: UnixSeconds,
    /// Where rows go.
    pub spool: Spool,
    /// Where snapshots go.
    pub snapshots: Snapshots,
    /// What the API reads.
    pub views: Views,
    /// Questions of the dataflow, to whoever answers them.
    pub recalls: UnboundedSender<Recall>,
    /// Steps of orders to relays, to whoever carries them. After a restart those of the replay are
    /// told again.
    pub orders: UnboundedSender<OrderRow>,
    /// Questions without an answer in the log, one a meter; asked again after a restart.
    pub unanswered: BTreeMap<MeterId, Recall>,
    /// Tells how far the books are.
    pub applied: watch::Sender<Seq>,
    /// How far ClickHouse is: the spool is given up below.
    pub sunk: Arc<sink::Progress>,
    /// Gives the log up below the older snapshot.
    pub retire: Arc<Retire>,
    /// Tells the watchdog when the dataflow is at work.
    pub pulse: Pulse,
    /// When snapshots are due.
    pub cadence: Cadence,
    /// The last snapshot.
    pub last: LastSnapshot,
    /// The one that is being written.
    pub saving: Option<Saving>,
    /// Entries whose effects have not come back yet, the oldest first.
    pub under_way: VecDeque<(Seq, Arc<Vec<Entry>>)>,
    /// Reused.
    pub effects: Effects,
}

/// The last snapshot.
#[derive(Clone, Copy, Debug)]
pub struct LastSnapshot {
    /// Where it stands.
    pub next: Seq,
    /// When it was taken, or the thread began.
    pub at: Instant,
}

/// A snapshot that a thread of its own writes. The answer is where the log may be given up.
#[derive(Debug)]
pub struct Saving(JoinHandle<Result<Seq, snapshot::Error>>);

/// The state of the books at an entry.
struct State {
    next: Seq,
    sections: [(&'static str, Vec<u8>); 4],
}

impl Books {
    /// Replays the log from the books' position to its end.
    ///
    /// # Errors
    /// [`BooksError`]; the node must not serve.
    pub fn replay(&mut self, mut reader: Reader) -> Result<(), BooksError> {
        if self.spool.next() < self.next {
            return Err(BooksError::SpoolBehind { spool: self.spool.next(), snapshot: self.next });
        }
        let (from, began) = (self.next, clock::instant());
        // The next to be sent; `next` of the books follows as effects come back.
        let mut next = from;
        while let Some(batch) = reader.next_batch()? {
            let mut entries = decode(batch.header.first, batch.payload)?;
            let known = next.0.saturating_sub(batch.header.first.0);
            entries.drain(..usize::try_from(known).unwrap_or(usize::MAX).min(entries.len()));
            next = next.max(batch.header.first);
            // Effects up to the spool's end are there already: part the batch at that place.
            let spooled = self.spool.next().0.saturating_sub(next.0);
            let spooled = usize::try_from(spooled).unwrap_or(usize::MAX).min(entries.len());
            let rest = entries.split_off(spooled);
            for entries in [entries, rest] {
                let count = entries.len() as u64;
                self.send(next, entries)?;
                next.0 += count;
            }
            while self.under_way.len() >= UNDER_WAY_MAX {
                self.settle()?;
            }
        }
        while !self.under_way.is_empty() {
            self.settle()?;
        }
        // Those who would have answered are gone with the process that asked.
        self.unanswered.values().for_each(|recall| self.ask(*recall));
        let (entries, ms) = (self.next.0 - from.0, began.elapsed().as_millis());
        info!(from = from.0, entries, ms, "log replayed");
        Ok(())
    }

    /// Takes committed entries until the log is gone, then writes a last snapshot. The workers are
    /// at the next entries while what followed from the last ones is told.
    ///
    /// # Errors
    /// [`BooksError`]; the node must stop at once.
    pub fn run(
        mut self,
        committed: &Receiver<Committed<Entry>>,
        groups: &Sender<Vec<Entry>>,
    ) -> Result<(), BooksError> {
        loop {
            let is_idle = self.under_way.is_empty();
            let wait = if is_idle { IDLE } else { Duration::ZERO };
            let has_more = match committed.recv_timeout(wait) {
                Ok(Committed { first, entries }) => {
                    self.send(first, entries)?;
                    self.under_way.len() < UNDER_WAY_MAX
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) if is_idle => break,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            if !has_more && !self.under_way.is_empty() {
                self.settle_and_ask(groups)?;
            }
            if self.is_snapshot_due() {
                while !self.under_way.is_empty() {
                    self.settle_and_ask(groups)?;
                }
                self.save_aside()?;
            }
            if self.saving.as_ref().is_some_and(|saving| saving.0.is_finished()) {
                self.await_saved()?;
            }
        }
        self.snapshot()
    }

    /// Takes committed entries into the books, and asks what they ask.
    pub(crate) fn take(&mut self, first: Seq, entries: Vec<Entry>) -> Result<(), BooksError> {
        self.send(first, entries)?;
        while !self.under_way.is_empty() {
            self.settle()?;
            self.effects.recalls.iter().for_each(|recall| self.ask(*recall));
        }
        Ok(())
    }

    fn settle_and_ask(&mut self, groups: &Sender<Vec<Entry>>) -> Result<(), BooksError> {
        let buffer = self.settle()?;
        self.effects.recalls.iter().for_each(|recall| self.ask(*recall));
        if let Some(mut buffer) = buffer {
            buffer.clear();
            // A full recycling queue: the buffer is dropped.
            groups.try_send(buffer).ok();
        }
        Ok(())
    }

    /// Sends entries on their way through the dataflow.
    fn send(&mut self, first: Seq, entries: Vec<Entry>) -> Result<(), BooksError> {
        if !entries.is_empty() {
            let entries = Arc::new(entries);
            self.engine.submit(first, &entries)?;
            self.under_way.push_back((first, entries));
        }
        Ok(())
    }

    /// Waits for what follows from the oldest entries under way and tells it; gives their buffer
    /// back where nobody else holds it.
    fn settle(&mut self) -> Result<Option<Vec<Entry>>, BooksError> {
        let Some((first, entries)) = self.under_way.pop_front() else { return Ok(None) };
        self.effects.clear();
        let busy = self.pulse.busy();
        self.engine.receive(&mut self.effects)?;
        drop(busy);
        self.next = Seq(first.0 + entries.len() as u64);
        self.views.apply(first, &entries, &self.effects);
        if first >= self.spool.next() {
            self.spool_rows(first, &entries)?;
        }
        for entry in entries.iter() {
            if let Entry::Neighbours(answer) = entry {
                self.unanswered.remove(&answer.meter);
            } else if let Entry::Tick(at) = entry {
                self.ticked = self.ticked.max(*at);
            }
        }
        for row in &self.effects.orders {
            // Whoever carries them ends only with the node.
            self.orders.send(*row).ok();
        }
        let asked = self.effects.recalls.iter().map(|recall| (recall.meter, *recall));
        self.unanswered.extend(asked);
        self.applied.send_replace(Seq(self.next.0 - 1));
        Ok(Arc::into_inner(entries))
    }

    fn ask(&self, recall: Recall) {
        // Whoever answers ends only with the node.
        self.recalls.send(recall).ok();
    }

    /// Appends the effects to the spool; waits while its disk is full, which in turn stops the log
    /// and the sockets.
    fn spool_rows(&mut self, first: Seq, entries: &[Entry]) -> Result<(), BooksError> {
        let mut is_told = false;
        loop {
            match self.spool.append(first, entries, &self.effects) {
                Ok(()) => return Ok(()),
                Err(log::Error::Full) => {
                    if !is_told {
                        warn!("the spool's disk is full: readings wait until space is freed");
                        is_told = true;
                    }
                    std::thread::sleep(FULL_RETRY);
                    self.give_up_spool()?;
                    self.spool.log_mut().replenish().or_else(tolerate_full)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_snapshot_due(&self) -> bool {
        let entries = self.next.0 - self.last.next.0;
        let is_old = entries > 0 && self.last.at.elapsed() >= self.cadence.age;
        self.saving.is_none() && (is_old || entries >= self.cadence.entries)
    }

    /// Writes a snapshot, and gives up what log and spool need no more. Nothing is under way.
    pub(crate) fn snapshot(&mut self) -> Result<(), BooksError> {
        self.await_saved()?;
        if self.next == self.last.next {
            return self.spool.sync().map_err(Into::into);
        }
        let state = self.state()?;
        let below = state.save(&self.snapshots)?;
        self.give_up(below)
    }

    /// As [`Books::snapshot`], but for the state itself on a thread of its own: the books go on.
    fn save_aside(&mut self) -> Result<(), BooksError> {
        let (state, snapshots) = (self.state()?, self.snapshots.clone());
        let thread = std::thread::Builder::new().name("snapshot".to_owned());
        let thread = thread.spawn(move || state.save(&snapshots)).map_err(BooksError::Thread)?;
        self.saving = Some(Saving(thread));
        Ok(())
    }

    /// Waits for the snapshot that is being written, if there is one.
    fn await_saved(&mut self) -> Result<(), BooksError> {
        let Some(Saving(thread)) = self.saving.take() else { return Ok(()) };
        let below = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.give_up(below)
    }

    /// The state, after all entries so far. Nothing is under way.
    fn state(&mut self) -> Result<State, BooksError> {
        let (busy, began) = (self.pulse.busy(), clock::instant());
        let books = self.engine.snapshot()?;
        drop(busy);
        let views = self.views.encode();
        let mut recalls = Vec::new();
        self.unanswered.values().copied().collect::<Vec<_>>().put(&mut recalls);
        let mut tick = Vec::new();
        self.ticked.put(&mut tick);
        let taken_ms = began.elapsed().as_millis();
        // The spool must never end before a snapshot: what lies between could not be computed.
        self.spool.sync()?;
        let (next, ms) = (self.next, began.elapsed().as_millis());
        debug!(next = next.0, bytes = books.len() + views.len(), taken_ms, ms, "snapshot taken");
        self.last = LastSnapshot { next, at: clock::instant() };
        let sections = [
            (SECTION_BOOKS, books),
            (SECTION_VIEWS, views),
            (SECTION_RECALLS, recalls),
            (SECTION_TICK, tick),
        ];
        Ok(State { next, sections })
    }

    fn give_up(&mut self, below: Seq) -> Result<(), BooksError> {
        self.retire.covered(below);
        self.give_up_spool()
    }

    fn give_up_spool(&mut self) -> Result<(), BooksError> {
        let sunk = self.sunk.next();
        self.spool.log_mut().retire(sunk)?;
        Ok(())
    }
}

impl State {
    /// Writes the snapshot. The answer is where the log may be given up.
    fn save(self, snapshots: &Snapshots) -> Result<Seq, snapshot::Error> {
        let sections = self.sections.each_ref().map(|(name, bytes)| (*name, &bytes[..]));
        snapshots.save(self.next, &sections)
    }
}

fn tolerate_full(error: log::Error) -> Result<(), log::Error> {
    if matches!(error, log::Error::Full) { Ok(()) } else { Err(error) }
}

/// The entries of a batch of the log.
pub(crate) fn decode(first: Seq, mut payload: &[u8]) -> Result<Vec<Entry>, BooksError> {
    let mut entries = Vec::new();
    while !payload.is_empty() {
        let seq = Seq(first.0 + entries.len() as u64);
        let entry =
            Entry::decode(&mut payload).map_err(|source| BooksError::Entry { seq, source })?;
        entries.push(entry);
    }
    Ok(entries)
}
