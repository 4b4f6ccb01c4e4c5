//! The engine: timely workers in threads of their own behind a plain, blocking interface.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};

use meter::{Effects, Entry, Seq};
use thiserror::Error;
use timely::communication::WorkerGuards;
use timely::{CommunicationConfig, WorkerConfig};

use crate::books::Books;
use crate::graph::{self, Command, Reply, Work};
use crate::loss::Loss;
use crate::reference::Reference;
use crate::router::{Router, Windows, after};
use crate::snapshot::{Parts, SnapshotError};

/// How the engine runs. Nothing here changes a result.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Threads that keep the books, 1 to 64.
    pub workers: usize,
}

/// Why the engine cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The snapshot does not read.
    #[error("the snapshot does not read")]
    Snapshot(#[from] SnapshotError),
    /// The threads could not be started.
    #[error("the workers of the dataflow could not be started: {0}")]
    Start(String),
    /// The number of workers is out of range.
    #[error("{0} workers asked for, 1 to 64 can be")]
    Workers(usize),
    /// A worker panicked: a rule found a broken invariant. Stop, and replay from the last snapshot.
    #[error("worker {worker} of the dataflow stopped: {reason}")]
    Worker {
        /// Which one.
        worker: u32,
        /// What it said.
        reason: String,
    },
    /// A batch does not follow the one before it.
    #[error("batch begins at log position {found}, the books stand before {expected}")]
    Position {
        /// The position that comes next.
        expected: Seq,
        /// The position given.
        found: Seq,
    },
    /// A reply was asked for and no batch is on its way.
    #[error("no batch is on its way")]
    Idle,
}

/// A batch whose effects are on their way.
#[derive(Debug, Default)]
struct Pending {
    /// Of the books by worker, then of the line loss by worker.
    effects: Vec<Effects>,
    replies: usize,
    /// Whether other entries than readings are in it, whose effects may need sorting.
    is_mixed: bool,
}

/// Keeps the books.
pub struct Engine {
    /// Where commands go, by worker; none once the engine stops.
    commands: Vec<Sender<Command>>,
    threads: Option<WorkerGuards<()>>,
    workers: u32,
    replies: Receiver<Reply>,
    router: Router,
    /// The log position that comes next; 0 while none was seen.
    next: Seq,
    /// Batches on their way, the oldest first; the oldest has this number.
    pending: VecDeque<Pending>,
    oldest: u64,
    /// Effects given back, one a worker, to be written into again.
    spare: Vec<Effects>,
    /// Why the engine stopped.
    failed: Option<(u32, String)>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workers, position) = (self.workers, self.position());
        let pending = self.pending.len();
        write!(f, "Engine {{ workers: {workers}, position: {position}, pending: {pending} }}")
    }
}

/// What a worker's thread starts with.
struct Seat {
    books: Books,
    loss: Loss,
    commands: Receiver<Command>,
}

impl Engine {
    /// Starts the workers, from a snapshot where there is one; any number of them may go on from
    /// the snapshot of any other number.
    ///
    /// # Errors
    /// [`EngineError::Snapshot`], [`EngineError::Start`], [`EngineError::Workers`].
    pub fn start(config: &Config, snapshot: Option<&[u8]>) -> Result<Self, EngineError> {
        if !(1..=64).contains(&config.workers) {
            return Err(EngineError::Workers(config.workers));
        }
        let workers = config.workers as u32;
        let parts = snapshot.map(Parts::decode).transpose()?;
        let mut states = Vec::new();
        for worker in 0..workers {
            states.push(match &parts {
                None => {
                    let books = Books::new(worker, workers);
                    let loss = Loss::new(&books.reference.policy);
                    (books, loss)
                }
                Some(parts) => restore(worker, workers, parts)?,
            });
        }
        let damaged = SnapshotError::Damaged { section: "router" };
        let router = match &parts {
            None => Router::default(),
            Some(parts) => Router::restore(&parts.router).ok_or(damaged)?,
        };
        let next = parts.map_or(Seq(0), |parts| Seq(parts.position.0 + 1));
        let (to_engine, replies) = channel();
        let (commands, threads) = spawn(states, to_engine)?;
        Ok(Self {
            commands,
            threads: Some(threads),
            workers,
            replies,
            router,
            next,
            pending: VecDeque::new(),
            oldest: 0,
            spare: Vec::new(),
            failed: None,
        })
    }

    /// Takes in a batch whose first entry stands at `first` and appends what follows from it.
    ///
    /// # Errors
    /// [`EngineError::Worker`] when a worker panicked, now or before; [`EngineError::Position`].
    pub fn process(
        &mut self,
        first: Seq,
        entries: &Arc<Vec<Entry>>,
        effects: &mut Effects,
    ) -> Result<(), EngineError> {
        self.submit(first, entries)?;
        while self.pending.len() > 1 {
            self.receive(effects)?;
        }
        self.receive(effects)
    }

    /// Sends a batch on its way. The effects of each batch come from [`Self::receive`], in order.
    ///
    /// # Errors
    /// [`EngineError::Worker`], [`EngineError::Position`]; the batch is then not taken.
    pub fn submit(&mut self, first: Seq, entries: &Arc<Vec<Entry>>) -> Result<(), EngineError> {
        self.check()?;
        if self.next != Seq(0) && first != self.next {
            return Err(EngineError::Position { expected: self.next, found: first });
        }
        let workers = self.workers;
        let ways = self.router.route(entries, workers);
        let mut ways = ways.into_iter();
        let is_mixed = workers > 1 || !entries.iter().all(|e| matches!(e, Entry::Reading(_)));
        let mut parts = Vec::new();
        parts.resize_with(2 * workers as usize, Effects::default);
        self.pending.push_back(Pending { is_mixed, replies: 0, effects: parts });
        self.next = after(first, entries);
        for commands in &self.commands {
            let entries = Arc::clone(entries);
            let effects = self.spare.pop().unwrap_or_default();
            let work = Work { first, entries, mine: ways.next(), effects };
            // A worker that is gone says so itself.
            drop(commands.send(Command::Batch(Box::new(work))));
        }
        self.wake();
        Ok(())
    }

    /// Waits for the oldest batch on its way and appends its effects.
    ///
    /// # Errors
    /// [`EngineError::Worker`] when a worker panicked, [`EngineError::Idle`].
    pub fn receive(&mut self, effects: &mut Effects) -> Result<(), EngineError> {
        self.check()?;
        let wanted = 2 * self.workers as usize;
        while self.pending.front().ok_or(EngineError::Idle)?.replies < wanted {
            let reply = self.replies.recv().map_err(|_| EngineError::Idle)?;
            self.take(reply)?;
        }
        let mut oldest = self.pending.pop_front().unwrap_or_default();
        self.oldest += 1;
        let start = Marks::of(effects);
        for part in &mut oldest.effects {
            append(effects, part);
        }
        // Rows of readings alone come in order from one worker; alarms come from two operators.
        effects.alarms[start.alarms..].sort_by_key(|row| (row.seq, row.subject));
        if oldest.is_mixed {
            start.sort(effects);
        }
        // What the line loss wrote into is small and not used again.
        oldest.effects.truncate(self.workers as usize);
        for part in &mut oldest.effects {
            part.clear();
        }
        self.spare.append(&mut oldest.effects);
        Ok(())
    }

    /// How many batches are on their way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// The state as bytes, after every batch whose effects were received. Equal states have equal
    /// bytes, whatever the number of workers.
    ///
    /// # Errors
    /// [`EngineError::Worker`] when a worker panicked; [`EngineError::Position`] while a batch is on
    /// its way: receive first.
    pub fn snapshot(&mut self) -> Result<Vec<u8>, EngineError> {
        self.check()?;
        if !self.pending.is_empty() {
            let (expected, found) = (self.next, self.next);
            return Err(EngineError::Position { expected, found });
        }
        let mut parts =
            Parts { position: self.position(), router: self.router.save(), ..Parts::default() };
        for commands in &self.commands {
            drop(commands.send(Command::Save));
        }
        self.wake();
        let mut left = self.workers;
        while left > 0 {
            match self.replies.recv() {
                Ok(Reply::Saved { reference, mut books, mut loss }) => {
                    parts.reference = reference;
                    parts.books.append(&mut books);
                    parts.loss.append(&mut loss);
                    left -= 1;
                }
                Ok(reply) => self.take(reply)?,
                Err(_) => return Err(EngineError::Idle),
            }
        }
        Ok(parts.encode())
    }

    /// The log position of the last entry taken in; 0 when there was none.
    #[must_use]
    pub fn position(&self) -> Seq {
        Seq(self.next.0.saturating_sub(1))
    }

    /// The replay windows of all devices, as of [`Self::position`].
    #[must_use]
    pub fn windows(&self) -> Windows {
        self.router.windows()
    }

    fn take(&mut self, reply: Reply) -> Result<(), EngineError> {
        let (epoch, effects, part) = match reply {
            Reply::Books { epoch, worker, effects } => (epoch, effects, worker),
            Reply::Loss { epoch, worker, effects } => (epoch, effects, self.workers + worker),
            Reply::Saved { .. } => return Ok(()),
            Reply::Gone { worker, reason } => {
                self.failed = Some((worker, reason));
                return self.check();
            }
        };
        let index = usize::try_from(epoch - self.oldest).expect("few batches are on their way");
        let pending = self.pending.get_mut(index).expect("replies are to batches on their way");
        pending.replies += 1;
        pending.effects[part as usize] = effects;
        Ok(())
    }

    fn check(&self) -> Result<(), EngineError> {
        match &self.failed {
            None => Ok(()),
            Some((worker, reason)) => {
                Err(EngineError::Worker { worker: *worker, reason: reason.clone() })
            }
        }
    }
}

impl Engine {
    fn wake(&self) {
        for thread in self.threads.iter().flat_map(|threads| threads.guards()) {
            thread.thread().unpark();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.commands.clear();
        self.wake();
        if let Some(threads) = self.threads.take() {
            // What a worker that panicked said was told when it happened.
            drop(threads.join());
        }
    }
}

type Threads = (Vec<Sender<Command>>, WorkerGuards<()>);

fn spawn(states: Vec<(Books, Loss)>, replies: Sender<Reply>) -> Result<Threads, EngineError> {
    let communication = match states.len() {
        1 => CommunicationConfig::Thread,
        count => CommunicationConfig::Process(count),
    };
    let (mut senders, mut seats) = (Vec::new(), Vec::new());
    for (books, loss) in states {
        let (sender, commands) = channel();
        senders.push(sender);
        seats.push(Some(Seat { books, loss, commands }));
    }
    let seats = Mutex::new((seats, replies));
    let config = timely::Config { communication, worker: WorkerConfig::default() };
    let threads = timely::execute(config, move |worker| {
        let index = worker.index();
        let (seat, replies) = {
            let mut seats = seats.lock().expect("no worker panics while it sits down");
            (seats.0[index].take().expect("each worker sits down once"), seats.1.clone())
        };
        let (books, loss, commands) = (seat.books, seat.loss, &seat.commands);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            graph::run(worker, books, loss, commands, &replies);
        }));
        graph::leave(worker);
        let reason = ended.map_or_else(|panic| told(&*panic), |()| "it ended".to_owned());
        // The engine is going away when nobody listens.
        drop(replies.send(Reply::Gone { worker: index as u32, reason }));
    });
    Ok((senders, threads.map_err(EngineError::Start)?))
}

fn restore(worker: u32, workers: u32, parts: &Parts) -> Result<(Books, Loss), SnapshotError> {
    let damaged = |section| SnapshotError::Damaged { section };
    let books = Books::restore(worker, workers, &parts.reference, &parts.books);
    let books = books.ok_or_else(|| damaged("books"))?;
    let reference: &Reference = &books.reference;
    let loss = Loss::restore_from(worker, workers, reference, &parts.loss);
    Ok((books, loss.ok_or_else(|| damaged("loss"))?))
}

fn told(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "it panicked".to_owned())
}

/// Moves the rows of `part` to the end of `effects`, without a copy where that is empty.
fn append(effects: &mut Effects, part: &mut Effects) {
    fn join<T>(to: &mut Vec<T>, from: &mut Vec<T>) {
        if to.is_empty() {
            std::mem::swap(to, from);
        } else {
            to.append(from);
        }
    }
    join(&mut effects.regular, &mut part.regular);
    join(&mut effects.verdicts, &mut part.verdicts);
    join(&mut effects.settled, &mut part.settled);
    join(&mut effects.intervals, &mut part.intervals);
    join(&mut effects.ledger, &mut part.ledger);
    join(&mut effects.balances, &mut part.balances);
    join(&mut effects.alarms, &mut part.alarms);
    join(&mut effects.gaps, &mut part.gaps);
    join(&mut effects.losses, &mut part.losses);
    join(&mut effects.recalls, &mut part.recalls);
    join(&mut effects.orders, &mut part.orders);
}

/// Where the rows of a batch begin in effects that may hold others before.
struct Marks {
    regular: usize,
    verdicts: usize,
    settled: usize,
    intervals: usize,
    ledger: usize,
    balances: usize,
    alarms: usize,
    gaps: usize,
    losses: usize,
    recalls: usize,
    orders: usize,
}

impl Marks {
    fn of(effects: &Effects) -> Self {
        Self {
            regular: effects.regular.len(),
            verdicts: effects.verdicts.len(),
            settled: effects.settled.len(),
            intervals: effects.intervals.len(),
            ledger: effects.ledger.len(),
            balances: effects.balances.len(),
            alarms: effects.alarms.len(),
            gaps: effects.gaps.len(),
            losses: effects.losses.len(),
            recalls: effects.recalls.len(),
            orders: effects.orders.len(),
        }
    }

    /// Orders the rows of each kind by log position, then key; rows alike in both keep their order.
    fn sort(&self, effects: &mut Effects) {
        effects.regular[self.regular..].sort_by_key(|row| row.seq);
        effects.verdicts[self.verdicts..].sort_by_key(|row| row.seq);
        effects.settled[self.settled..].sort_by_key(|row| (row.settled_by, row.seq));
        effects.intervals[self.intervals..].sort_by_key(|row| (row.rev, row.meter, row.start));
        effects.ledger[self.ledger..].sort_by_key(|row| (row.seq, row.account, row.number));
        effects.balances[self.balances..].sort_by_key(|row| (row.seq, row.account, row.meter));
        effects.gaps[self.gaps..].sort_by_key(|row| (row.rev, row.meter));
        effects.losses[self.losses..].sort_by_key(|row| (row.rev, row.transformer, row.start));
        effects.recalls[self.recalls..].sort_by_key(|row| (row.seq, row.meter));
        effects.orders[self.orders..].sort_by_key(|row| (row.seq, row.account));
    }
}
