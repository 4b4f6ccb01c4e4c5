//! Gateways that speak TCP, a connection each. A gateway whose connection breaks connects again,
//! waiting longer each time, and then sends everything that was not confirmed.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use meter::wire::dlms::Wrapper;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Registry, Token};
use tracing::debug;

use super::agenda::{Agenda, Instant};
use super::{Clocks, DriverConfig, note, when_due};
use crate::device::{Now, Wake};
use crate::faults::{FaultCounts, Faults};
use crate::mix;
use crate::plan::World;
use crate::report::Stats;
use crate::virtual_gateway::VirtualGateway;
use crate::virtual_meter::VirtualMeter;

/// Gateways polled before the sockets are looked at again.
const BURST: u32 = 64;
const APDU_SIZE_MAX: usize = 8 * 1024;
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// Virtual gateways on TCP connections.
#[derive(Debug)]
pub struct TcpFleet {
    node: SocketAddr,
    reconnect: Duration,
    world: World,
    clocks: Clocks,
    posts: Vec<Post>,
    poll: Poll,
    events: Events,
    agenda: Agenda,
    up: Faults<u32>,
    down: Faults<u32>,
    stats: Stats,
}

/// A gateway and its connection.
#[derive(Debug)]
struct Post {
    gateway: VirtualGateway,
    link: Link,
    /// Bytes to write, and how many of them are written.
    out: Vec<u8>,
    written: usize,
    /// Bytes read that are no whole frame yet.
    input: Vec<u8>,
}

#[derive(Debug)]
enum Link {
    Down { connect_at: Duration, attempts: u32 },
    Opening { stream: TcpStream, attempts: u32 },
    Open(TcpStream),
}

impl TcpFleet {
    /// Prepares the gateways; they connect at the first steps.
    ///
    /// # Errors
    /// Those of the poll.
    pub fn new(
        config: &DriverConfig,
        world: World,
        gateways: Vec<VirtualGateway>,
        clocks: Clocks,
    ) -> io::Result<Self> {
        let meters = gateways.iter().flat_map(VirtualGateway::meters);
        let stats = Stats::new(meters.map(VirtualMeter::readings).sum());
        let count = u32::try_from(gateways.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let post = |gateway| Post {
            gateway,
            link: Link::Down { connect_at: Duration::ZERO, attempts: 0 },
            out: Vec::new(),
            written: 0,
            input: Vec::new(),
        };
        Ok(Self {
            node: config.node,
            reconnect: config.reconnect,
            world,
            clocks,
            posts: gateways.into_iter().map(post).collect(),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            agenda: Agenda::new(count, config.smear_ms),
            up: Faults::new(config.faults_up, world.seed, 2),
            down: Faults::new(config.faults_down, world.seed, 3),
            stats,
        })
    }

    /// What was done so far.
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Faults on the way to the node and back.
    #[must_use]
    pub const fn fault_counts(&self) -> [FaultCounts; 2] {
        [self.up.counts(), self.down.counts()]
    }

    /// The gateways.
    pub fn gateways(&self) -> impl Iterator<Item = &VirtualGateway> {
        self.posts.iter().map(|post| &post.gateway)
    }

    /// Connections that stand, and gateways in all.
    #[must_use]
    pub fn links(&self) -> (usize, usize) {
        let open = self.posts.iter().filter(|post| matches!(post.link, Link::Open(_))).count();
        (open, self.posts.len())
    }

    /// Breaks every connection, as a power cut at the exchange would.
    pub fn cut(&mut self) {
        let now = self.clocks.now();
        for index in 0..self.posts.len() {
            self.disconnect(index, now);
        }
    }

    /// Connects, sends what is due, waits for at most `timeout`, takes what arrived.
    ///
    /// # Errors
    /// When polling fails; a connection's own errors end the connection only.
    pub fn step(&mut self, timeout: Duration) -> io::Result<()> {
        let at = self.clocks.instant();
        let now = at.now;
        self.send_due(at);
        let timeout = if self.agenda.is_due(at) { Duration::ZERO } else { timeout };
        let wakes = [self.agenda.next_wall(), self.up.wakes_at(), self.down.wakes_at()];
        let wake = wakes.into_iter().flatten().min();
        let wait = wake.map_or(timeout, |at| at.saturating_sub(now.wall).min(timeout));
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let now = self.clocks.now();
        let ready: Vec<(usize, bool, bool)> = self
            .events
            .iter()
            .map(|event| (event.token().0, event.is_readable(), event.is_writable()))
            .collect();
        for (index, is_readable, is_writable) in ready {
            if is_writable {
                self.writable(index, now);
            }
            if is_readable {
                self.readable(index, now);
            }
        }
        self.release(now);
        Ok(())
    }

    fn send_due(&mut self, instant: Instant) {
        let now = instant.now;
        for _ in 0..BURST {
            let Some(due) = self.agenda.pop_due(instant) else { break };
            let index = due.index;
            let was = when_due(&mut self.stats, due, instant, self.world.pace);
            let at = usize::try_from(index).expect("an index fits");
            self.connect_if_due(at, now);
            let Self { world, posts, up, stats, .. } = self;
            let post = &mut posts[at];
            let mut wake = post.gateway.poll(world, was, &mut |sent| {
                stats.count(&sent);
                let out = &mut post.out;
                up.pass(index, sent.frame, now.wall, &mut |_, frame| out.extend(frame));
            });
            if let Link::Down { connect_at, .. } = post.link {
                wake = Wake { wall: Some(connect_at), ..wake };
            }
            self.agenda.set(index, wake);
            self.flush(at, now);
        }
    }

    /// Gives frames whose wait is over to their connection or gateway.
    fn release(&mut self, now: Now) {
        let mut late = Vec::new();
        self.up.release(now.wall, &mut |index, frame| late.push((index, frame.to_vec())));
        for (index, frame) in late {
            let at = usize::try_from(index).expect("an index fits");
            if matches!(self.posts[at].link, Link::Open(_)) {
                self.posts[at].out.extend(frame);
                self.flush(at, now);
            }
        }
        let mut late = Vec::new();
        self.down.release(now.wall, &mut |index, frame| late.push((index, frame.to_vec())));
        for (index, mut frame) in late {
            let at = usize::try_from(index).expect("an index fits");
            note(&mut self.stats, self.posts[at].gateway.receive(&mut frame, now));
            self.agenda.hasten(index, now);
        }
    }

    fn connect_if_due(&mut self, index: usize, now: Now) {
        let Link::Down { connect_at, attempts } = self.posts[index].link else { return };
        if connect_at > now.wall {
            return;
        }
        match open(self.node, self.poll.registry(), index) {
            Ok(stream) => self.posts[index].link = Link::Opening { stream, attempts },
            Err(_) => self.wait_to_connect(index, attempts, now),
        }
    }

    fn wait_to_connect(&mut self, index: usize, attempts: u32, now: Now) {
        let doubled = self.reconnect.saturating_mul(1 << attempts.min(10)).min(RECONNECT_MAX);
        let salt = u64::try_from(index).unwrap_or_default() << 32 | u64::from(attempts);
        let jitter = doubled / 512 * u32::try_from(mix(salt) % 256).expect("below 256");
        let connect_at = now.wall + doubled + jitter;
        self.posts[index].link = Link::Down { connect_at, attempts: attempts.saturating_add(1) };
        let clock = self.posts[index].gateway.wakes_at(now);
        let wake = Wake { clock, wall: Some(connect_at) };
        self.agenda.set(u32::try_from(index).expect("an index fits"), wake);
    }

    fn disconnect(&mut self, index: usize, now: Now) {
        let post = &mut self.posts[index];
        post.out.clear();
        post.written = 0;
        post.input.clear();
        post.gateway.link_down();
        let down = Link::Down { connect_at: now.wall, attempts: 0 };
        let attempts = match std::mem::replace(&mut post.link, down) {
            Link::Down { attempts, .. } => attempts,
            Link::Opening { mut stream, attempts } => {
                // The socket closes with the stream in any case.
                self.poll.registry().deregister(&mut stream).unwrap_or_default();
                attempts
            }
            Link::Open(mut stream) => {
                self.stats.disconnects += 1;
                debug!(gateway = post.gateway.ordinal(), "connection lost");
                self.poll.registry().deregister(&mut stream).unwrap_or_default();
                0
            }
        };
        self.wait_to_connect(index, attempts, now);
    }

    fn writable(&mut self, index: usize, now: Now) {
        let post = &mut self.posts[index];
        if let Link::Opening { stream, .. } = &post.link {
            let refused = !matches!(stream.take_error(), Ok(None)) || stream.peer_addr().is_err();
            if refused {
                return self.disconnect(index, now);
            }
            let down = Link::Down { connect_at: now.wall, attempts: 0 };
            if let Link::Opening { stream, .. } = std::mem::replace(&mut post.link, down) {
                post.link = Link::Open(stream);
            }
            self.stats.connects += 1;
            debug!(gateway = post.gateway.ordinal(), "connected");
            post.gateway.link_up(now);
            self.agenda.hasten(u32::try_from(index).expect("an index fits"), now);
        }
        self.flush(index, now);
    }

    fn flush(&mut self, index: usize, now: Now) {
        let post = &mut self.posts[index];
        let Link::Open(stream) = &mut post.link else { return };
        while post.written < post.out.len() {
            match stream.write(&post.out[post.written..]) {
                Ok(0) => return self.disconnect(index, now),
                Ok(size) => {
                    post.written += size;
                    self.stats.bytes_sent += u64::try_from(size).unwrap_or_default();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stats.send_blocked += 1;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(index, now),
            }
        }
        post.out.clear();
        post.written = 0;
    }

    fn readable(&mut self, index: usize, now: Now) {
        let mut chunk = [0; 16 * 1024];
        loop {
            let Link::Open(stream) = &mut self.posts[index].link else { return };
            match stream.read(&mut chunk) {
                Ok(0) => return self.disconnect(index, now),
                Ok(size) => {
                    self.posts[index].input.extend(&chunk[..size]);
                    if !self.take_frames(index, now) {
                        return self.disconnect(index, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.disconnect(index, now),
            }
        }
    }

    /// Gives the whole frames read so far to the gateway; `false` when the stream is no stream of
    /// frames.
    fn take_frames(&mut self, index: usize, now: Now) -> bool {
        let device = u32::try_from(index).expect("an index fits");
        let Self { posts, down, stats, agenda, .. } = self;
        let Post { gateway, input, .. } = &mut posts[index];
        let mut taken = 0;
        let is_sound = loop {
            match Wrapper::stream_size(&input[taken..], APDU_SIZE_MAX) {
                Ok(Some(size)) if input.len() - taken >= size => {
                    let frame = &input[taken..taken + size];
                    down.pass(device, frame, now.wall, &mut |_, frame| {
                        note(stats, gateway.receive(&mut frame.to_vec(), now));
                    });
                    taken += size;
                }
                Ok(_) => break true,
                Err(_) => break false,
            }
        };
        input.drain(..taken);
        if taken > 0 {
            agenda.hasten(device, now);
        }
        is_sound
    }
}

fn open(node: SocketAddr, registry: &Registry, index: usize) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(node)?;
    stream.set_nodelay(true)?;
    registry.register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
    Ok(stream)
}
