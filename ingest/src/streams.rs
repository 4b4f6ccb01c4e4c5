//! One shard's TCP side: the listener, the connections, their turns and deadlines.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use socket2::SockRef;

use crate::ack::{ACK_SIZE, seal};
use crate::batch::{Ack, Destination};
use crate::connection::{Connection, READ_SIZE};
use crate::desk::Desk;
use crate::limits::{Quota, Source};
use crate::outcome::Ending;

/// Reads in one turn, before datagrams and acknowledgements have theirs.
const READS_MAX: usize = 256;

/// Connections accepted in one turn.
const ACCEPTS_MAX: usize = 256;

/// Deadlines are kept to this part of the shortest.
const DEADLINE_PARTS: u32 = 8;

/// Connections and sessions of the node, over all shards.
#[derive(Debug)]
pub(crate) struct Quotas {
    pub(crate) connections: Quota,
    pub(crate) sessions: Quota,
}

/// One shard's TCP side.
pub(crate) struct Streams {
    listener: TcpListener,
    registry: Registry,
    first_token: usize,
    quotas: Arc<Quotas>,
    places: Vec<Place>,
    free: Vec<usize>,
    /// Places whose connection may have something to read.
    ready: VecDeque<usize>,
    /// Places with acknowledgements not written yet.
    unwritten: Vec<usize>,
    scratch: Box<[u8]>,
    spare: Vec<Vec<u8>>,
    is_acceptable: bool,
    next_sweep: Duration,
}

/// A place in the table of connections.
#[derive(Default)]
struct Place {
    /// How many connections had it before.
    generation: u32,
    is_queued: bool,
    connection: Option<Box<Connection>>,
}

impl Streams {
    pub(crate) fn new(
        listener: TcpListener,
        registry: Registry,
        first_token: usize,
        quotas: Arc<Quotas>,
        frame_bytes_max: usize,
    ) -> Self {
        Self {
            listener,
            registry,
            first_token,
            quotas,
            places: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            unwritten: Vec::new(),
            scratch: vec![0; frame_bytes_max + READ_SIZE].into_boxed_slice(),
            spare: Vec::new(),
            is_acceptable: true,
            next_sweep: Duration::ZERO,
        }
    }

    /// Notes that somebody connected.
    pub(crate) const fn acceptable(&mut self) {
        self.is_acceptable = true;
    }

    /// Notes what the kernel said of a connection.
    pub(crate) fn event(&mut self, event: &Event) {
        let token = event.token();
        let index = token.0 - self.first_token;
        let Some(place) = self.places.get_mut(index) else { return };
        let Some(connection) = &mut place.connection else { return };
        if event.is_writable() && !connection.is_flushed() {
            self.unwritten.push(index);
        }
        let is_ending = event.is_read_closed() || event.is_error();
        if event.is_readable() || is_ending {
            connection.readable(is_ending);
            enqueue(&mut self.ready, place, index);
        }
    }

    /// Whether there is something to read, as far as is known.
    pub(crate) fn has_more(&self) -> bool {
        self.is_acceptable || !self.ready.is_empty()
    }

    /// Accepts who connected.
    pub(crate) fn accept(&mut self, desk: &mut Desk) {
        for _ in 0..ACCEPTS_MAX {
            if !self.is_acceptable {
                return;
            }
            match self.listener.accept() {
                Ok((stream, from)) => self.admit(stream, Source::of_connection(from), desk),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_acceptable = false,
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // No file left, in the process or the system: the next sweep tries again.
                Err(_) => {
                    desk.tally.end(Ending::ConnectionLimit);
                    self.is_acceptable = false;
                }
            }
        }
    }

    /// Reads connections in turn, until none has more, the log is behind, or others are due.
    pub(crate) fn read(&mut self, desk: &mut Desk) {
        for _ in 0..READS_MAX {
            if !desk.may_read() {
                return;
            }
            let Some(index) = self.ready.pop_front() else { return };
            let place = &mut self.places[index];
            place.is_queued = false;
            let Some(connection) = &mut place.connection else { continue };
            let sessions = &self.quotas.sessions;
            match connection.read(&mut self.scratch, &mut self.spare, sessions, desk) {
                Ok(true) => enqueue(&mut self.ready, place, index),
                Ok(false) => {}
                Err(ending) => self.end(index, ending, desk),
            }
        }
    }

    /// Puts acknowledgements on their connections and writes as much as these take.
    pub(crate) fn acknowledge(&mut self, due: &[Ack], desk: &mut Desk) {
        let mut buf = [0; ACK_SIZE];
        for ack in due {
            let Destination::Stream { place: index, generation } = ack.to else { continue };
            let place = &mut self.places[index];
            let Some(connection) = &mut place.connection else {
                desk.tally.acks_lost += 1;
                continue;
            };
            if place.generation != generation {
                desk.tally.acks_lost += 1;
                continue;
            }
            if self.unwritten.last() != Some(&index) {
                self.unwritten.push(index);
            }
            let record = desk.directory.record(ack.record);
            connection.acknowledge(seal(
                &ack.receipt,
                record,
                desk.config.head_end_title,
                &mut buf,
            ));
            desk.tally.acks += 1;
        }
        self.write(desk);
    }

    /// Puts the frame of a command on its connection, if that still stands.
    pub(crate) fn request(&mut self, to: Destination, frame: &[u8], desk: &mut Desk) {
        let Destination::Stream { place: index, generation } = to else { return };
        let place = &mut self.places[index];
        if let Some(connection) = &mut place.connection
            && place.generation == generation
        {
            connection.acknowledge(frame);
            self.unwritten.push(index);
            desk.tally.requests += 1;
        }
    }

    /// Writes what goes out, as much as the connections take.
    pub(crate) fn write(&mut self, desk: &mut Desk) {
        while let Some(index) = self.unwritten.pop() {
            let Some(connection) = &mut self.places[index].connection else { continue };
            if let Err(ending) = connection.write(desk.config.out_bytes_max) {
                self.end(index, ending, desk);
            }
        }
    }

    /// Ends connections whose deadline passed, when a look is due; when the next one is.
    pub(crate) fn sweep(&mut self, desk: &mut Desk) -> Duration {
        if desk.now >= self.next_sweep {
            for index in 0..self.places.len() {
                let place = &self.places[index];
                let Some(connection) = &place.connection else { continue };
                let result = if place.is_queued { Ok(()) } else { connection.check(desk) };
                if let Err(ending) = result {
                    self.end(index, ending, desk);
                }
            }
            self.is_acceptable = true;
            self.next_sweep = desk.now + sweep_interval(desk);
        }
        self.next_sweep
    }

    /// Ends all connections.
    pub(crate) fn end_all(&mut self, desk: &mut Desk) {
        (0..self.places.len()).for_each(|index| self.end(index, Ending::Shutdown, desk));
    }

    /// Whether any connection is open.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    fn admit(&mut self, stream: TcpStream, source: Source, desk: &mut Desk) {
        desk.tally.accepted_connections += 1;
        if desk.failures.is_limited(source, desk.now) {
            desk.tally.end(Ending::RateLimited);
            return;
        }
        if !self.quotas.connections.take() {
            desk.tally.end(Ending::ConnectionLimit);
            return;
        }
        // What the kernel keeps of acknowledgements for who does not read is bounded too. Where it
        // refuses, its own bound stands.
        let _bounded = SockRef::from(&stream).set_send_buffer_size(desk.config.out_bytes_max);
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            self.places.len() - 1
        });
        let place = &mut self.places[index];
        let generation = place.generation;
        let destination = Destination::Stream { place: index, generation };
        let mut connection = Box::new(Connection::new(stream, source, destination, desk.listened));
        let token = Token(self.first_token + index);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = self.registry.register(connection.stream(), token, interest);
        place.connection = Some(connection);
        enqueue(&mut self.ready, place, index);
        if registered.is_err() {
            self.end(index, Ending::Failed, desk);
        }
    }

    fn end(&mut self, index: usize, ending: Ending, desk: &mut Desk) {
        let place = &mut self.places[index];
        let Some(connection) = place.connection.take() else { return };
        place.generation = place.generation.wrapping_add(1);
        self.free.push(index);
        self.quotas.connections.give_back();
        // Closing the stream takes it off the poll.
        connection.end(ending, &self.quotas.sessions, &mut self.spare, desk);
    }
}

fn enqueue(ready: &mut VecDeque<usize>, place: &mut Place, index: usize) {
    if !std::mem::replace(&mut place.is_queued, true) {
        ready.push_back(index);
    }
}

fn sweep_interval(desk: &Desk) -> Duration {
    let config = &desk.config;
    let shortest = config.hello_max().min(config.frame_age_max()).min(config.idle_max());
    (shortest / DEADLINE_PARTS).clamp(Duration::from_millis(5), Duration::from_secs(1))
}
