//! A shard: one event loop with its sockets, its connections and its way to the log.
//!
//! A turn: wait, take the log's answers and send the acknowledgements due, read datagrams and
//! streams as far as the log has room, hand the batch over. Nothing in it waits but the poll.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meter::wire::dlms::Templates;
use mio::net::{TcpListener, UdpSocket};
use mio::{Events, Interest, Poll, Token};
use tracing::{debug, error};

use crate::batch::{Ack, Destination, Outbound};
use crate::config::Config;
use crate::datagrams::Datagrams;
use crate::desk::Desk;
use crate::directory::Directory;
use crate::downlink::{Downlink, Outgoing};
use crate::errand::Errands;
use crate::limits::FailureTable;
use crate::ports::{Clock, Log};
use crate::stats::{Counters, Tally};
use crate::streams::{Quotas, Streams};

pub(crate) const WAKE: Token = Token(0);
const UDP: Token = Token(1);
const LISTENER: Token = Token(2);
const FIRST_CONNECTION: usize = 3;

/// Kernel events taken in one turn.
const EVENTS_MAX: usize = 1024;

/// While the log is behind, the shard looks again after this long even if nobody wakes it.
const STALL: Duration = Duration::from_millis(5);

/// When the shards shall have stopped, in microseconds on the monotonic clock; never until told.
#[derive(Debug)]
pub(crate) struct Deadline(AtomicU64);

impl Default for Deadline {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

impl Deadline {
    pub(crate) fn set(&self, at: Duration) {
        let micros = u64::try_from(at.as_micros()).unwrap_or(u64::MAX).min(u64::MAX - 1);
        // Relaxed: the wake-up after it orders it for the shards.
        self.0.store(micros, Ordering::Relaxed);
    }

    fn at(&self) -> Option<Duration> {
        let micros = self.0.load(Ordering::Relaxed);
        (micros != u64::MAX).then(|| Duration::from_micros(micros))
    }
}

/// What a shard is made of; it becomes a running one on its own thread.
pub(crate) struct Shard {
    pub(crate) index: u16,
    pub(crate) config: Arc<Config>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) templates: Arc<Templates>,
    pub(crate) clock: Clock,
    pub(crate) log: Box<dyn Log>,
    pub(crate) errands: Box<dyn Errands>,
    pub(crate) quotas: Arc<Quotas>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) deadline: Arc<Deadline>,
    pub(crate) poll: Poll,
    pub(crate) udp: UdpSocket,
    pub(crate) listener: TcpListener,
    pub(crate) coalesces: bool,
    pub(crate) segments: bool,
}

impl Shard {
    /// Registers the sockets. Done before the threads start, so that a failure is still an answer.
    pub(crate) fn register(&mut self) -> io::Result<()> {
        let registry = self.poll.registry();
        registry.register(&mut self.udp, UDP, Interest::READABLE)?;
        registry.register(&mut self.listener, LISTENER, Interest::READABLE)
    }

    /// Runs until told to stop, or until the poll fails.
    ///
    /// # Errors
    /// What the poll says.
    pub(crate) fn run(self) -> io::Result<()> {
        let mut turns = Turns::new(self)?;
        let result = turns.run();
        if let Err(error) = &result {
            error!(shard = turns.index, %error, "event loop failed");
        }
        turns.finish();
        result
    }
}

/// A running shard.
struct Turns {
    index: u16,
    clock: Clock,
    poll: Poll,
    events: Events,
    deadline: Arc<Deadline>,
    counters: Arc<Counters>,
    desk: Desk,
    datagrams: Datagrams,
    streams: Streams,
    due: Vec<Ack>,
}

impl Turns {
    fn new(shard: Shard) -> io::Result<Self> {
        let Shard { index, config, directory, clock, log, errands, .. } = shard;
        let desk = Desk {
            downlink: Downlink::new(errands, index, config.command_title),
            shard: index,
            outbound: Outbound::new(index, log, &config),
            failures: FailureTable::new(config.failures),
            tally: Tally::default(),
            now: (clock.monotonic)(),
            listened: Duration::ZERO,
            wall: (clock.wall)(),
            templates: shard.templates,
            directory,
            config,
        };
        let registry = shard.poll.registry().try_clone()?;
        let datagrams = Datagrams::new(shard.udp, &desk, shard.coalesces, shard.segments);
        let frame_bytes_max = desk.config.frame_bytes_max;
        let streams =
            Streams::new(shard.listener, registry, FIRST_CONNECTION, shard.quotas, frame_bytes_max);
        Ok(Self {
            index,
            clock,
            poll: shard.poll,
            events: Events::with_capacity(EVENTS_MAX),
            deadline: shard.deadline,
            counters: shard.counters,
            desk,
            datagrams,
            streams,
            due: Vec::new(),
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut next_sweep = self.desk.now;
        loop {
            self.wait(next_sweep)?;
            self.settle();
            if let Some(deadline) = self.deadline.at() {
                return self.drain(deadline);
            }
            if !self.datagrams.is_clogged() {
                self.streams.accept(&mut self.desk);
                self.datagrams.read(&mut self.desk);
                self.streams.read(&mut self.desk);
            }
            let is_idle = !self.datagrams.has_more() && !self.streams.has_more();
            next_sweep = self.streams.sweep(&mut self.desk);
            self.ask();
            self.flush(is_idle);
        }
    }

    /// Waits for the kernel or the log, not at all while there is work.
    fn wait(&mut self, next_sweep: Duration) -> io::Result<()> {
        let desk = &self.desk;
        let has_more = self.datagrams.has_more() || self.streams.has_more();
        let timeout = if !desk.outbound.has_room() || self.datagrams.is_clogged() {
            Some(STALL)
        } else if has_more {
            Some(Duration::ZERO)
        } else {
            let sweep = (!self.streams.is_empty()).then_some(next_sweep);
            let wake = sweep.into_iter().chain(desk.downlink.wakes_at()).min();
            wake.map(|at| at.saturating_sub(desk.now).max(Duration::from_millis(1)))
        };
        self.poll(timeout)
    }

    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) | Ok(()) => {}
        }
        self.desk.tell_time((self.clock.monotonic)(), (self.clock.wall)());
        for event in &self.events {
            match event.token() {
                WAKE => {}
                UDP if event.is_readable() => self.datagrams.readable(),
                UDP => {}
                LISTENER => self.streams.acceptable(),
                _ => self.streams.event(event),
            }
        }
        Ok(())
    }

    /// Takes the log's answers and sends the acknowledgements that are due.
    fn settle(&mut self) {
        while self.desk.outbound.settle(&mut self.due, &mut self.desk.tally).is_some() {}
        self.streams.acknowledge(&self.due, &mut self.desk);
        self.datagrams.acknowledge(&mut self.due, &mut self.desk);
        self.due.clear();
    }

    /// Takes errands and sends what their dialogues say.
    fn ask(&mut self) {
        self.desk.downlink.turn(&self.desk.directory, self.desk.now);
        let outgoing = self.desk.downlink.take_outgoing();
        if outgoing.is_empty() {
            return;
        }
        for Outgoing { to, frame } in outgoing {
            match to {
                Destination::Datagram(to) => self.datagrams.request(to, &frame, &mut self.desk),
                Destination::Stream { .. } => self.streams.request(to, &frame, &mut self.desk),
            }
        }
        self.streams.write(&mut self.desk);
        self.datagrams.acknowledge(&mut [], &mut self.desk);
    }

    fn flush(&mut self, is_idle: bool) {
        self.desk.outbound.flush(self.desk.now, is_idle, &mut self.desk.tally);
        self.counters.add(&mut self.desk.tally);
    }

    /// Reads no more; waits for the log's answers and sends their acknowledgements.
    fn drain(&mut self, deadline: Duration) -> io::Result<()> {
        loop {
            self.flush(true);
            let is_done = self.desk.outbound.is_drained() && !self.datagrams.is_clogged();
            if is_done || self.desk.now >= deadline {
                return Ok(());
            }
            self.poll(Some(STALL.min(deadline.saturating_sub(self.desk.now))))?;
            self.settle();
        }
    }

    /// Ends the connections, hands their last events to the log and gives up the rest.
    fn finish(mut self) {
        self.streams.end_all(&mut self.desk);
        self.desk.outbound.flush(self.desk.now, true, &mut self.desk.tally);
        self.datagrams.abandon(&mut self.desk);
        self.desk.outbound.abandon(&mut self.desk.tally);
        self.counters.add(&mut self.desk.tally);
        debug!(shard = self.index, "event loop ended");
    }
}
