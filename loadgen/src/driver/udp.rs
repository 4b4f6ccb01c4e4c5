//! Meters that speak UDP, a frame a datagram. Many meters share a socket: a machine has fewer ports
//! than a fleet has meters.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use meter::SystemTitle;
use meter::wire::dlms::{Ciphered, Wrapper};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::agenda::{Agenda, Instant};
use super::routes::Routes;
use super::{Clocks, DriverConfig, note, when_due};
use crate::cosem;
use crate::device::{Now, Received, frame_counter};
use crate::faults::{FaultCounts, Faults};
use crate::plan::World;
use crate::report::Stats;
use crate::virtual_meter::VirtualMeter;

/// Devices polled before the sockets are looked at again.
const BURST: u32 = 256;
const DATAGRAM_SIZE_MAX: usize = 2048;

/// Virtual meters on UDP sockets.
#[derive(Debug)]
pub struct UdpFleet {
    world: World,
    clocks: Clocks,
    meters: Vec<VirtualMeter>,
    sockets: Vec<UdpSocket>,
    poll: Poll,
    events: Events,
    agenda: Agenda,
    routes: Routes,
    askers: Askers,
    up: Faults<u16>,
    down: Faults<u16>,
    stats: Stats,
}

impl UdpFleet {
    /// Binds the sockets and hands the meters to them in turn.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn new(
        config: &DriverConfig,
        world: World,
        meters: Vec<VirtualMeter>,
        clocks: Clocks,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut sockets = Vec::new();
        for index in 0..config.sockets.max(1) {
            let mut socket = bind(config)?;
            poll.registry().register(&mut socket, Token(usize::from(index)), Interest::READABLE)?;
            sockets.push(socket);
        }
        let count = u32::try_from(meters.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let stats = Stats::new(meters.iter().map(VirtualMeter::readings).sum());
        Ok(Self {
            world,
            clocks,
            meters,
            sockets,
            poll,
            events: Events::with_capacity(1024),
            agenda: Agenda::new(count, config.smear_ms),
            routes: Routes::default(),
            askers: Askers::default(),
            up: Faults::new(config.faults_up, world.seed, 0),
            down: Faults::new(config.faults_down, world.seed, 1),
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

    /// The meters.
    #[must_use]
    pub fn meters(&self) -> &[VirtualMeter] {
        &self.meters
    }

    /// Sends what is due, waits for at most `timeout`, takes what arrived.
    ///
    /// # Errors
    /// When polling fails; a socket's own errors are counted, since a node may go away and return.
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
        self.receive(now);
        Ok(())
    }

    fn send_due(&mut self, at: Instant) {
        let Self { world, meters, sockets, agenda, routes, up, stats, .. } = self;
        let now = at.now;
        up.release(now.wall, &mut |route, frame| send(sockets, route, frame, stats));
        for _ in 0..BURST {
            let Some(due) = agenda.pop_due(at) else { break };
            let index = due.index;
            let was = when_due(stats, due, at, world.pace);
            let meter = &mut meters[usize::try_from(index).expect("an index fits")];
            let count = u32::try_from(sockets.len()).expect("at most 65535 sockets");
            let route = u16::try_from(index % count).expect("at most 65535 sockets");
            let wake = meter.poll(world, was, &mut |sent| {
                stats.count(&sent);
                routes.sent(sent.counter, index, now.wall);
                up.pass(route, sent.frame, now.wall, &mut |route, frame| {
                    send(sockets, route, frame, stats);
                });
            });
            agenda.set(index, wake);
        }
    }

    fn receive(&mut self, now: Now) {
        let Self { meters, sockets, agenda, routes, askers, down, stats, events, .. } = self;
        let socket_count = sockets.len();
        let mut deliver = |stats: &mut Stats, route: u16, frame: &mut [u8]| {
            let mut received = confirm(meters, agenda, routes, frame, now);
            if received == Received::Foreign {
                let of_socket = (usize::from(route)..meters.len()).step_by(socket_count);
                received = askers.ask(meters, agenda, of_socket, frame, now);
            }
            note(stats, received);
        };
        down.release(now.wall, &mut |route, frame| deliver(stats, route, &mut frame.to_vec()));
        let mut buf = [0; DATAGRAM_SIZE_MAX];
        for event in events.iter() {
            let socket = &sockets[event.token().0];
            loop {
                match socket.recv(&mut buf) {
                    Ok(size) => {
                        let route = u16::try_from(event.token().0).expect("a socket's index");
                        down.pass(route, &buf[..size], now.wall, &mut |route, frame| {
                            deliver(stats, route, &mut frame.to_vec());
                        });
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // A node that is away makes the kernel say so; it may come back.
                    Err(_) => stats.socket_errors += 1,
                }
            }
        }
    }
}

/// Who asks, and whom. A request names its sender only, so the meters of a socket try its opening;
/// what follows is tried by those that took one.
#[derive(Debug, Default)]
struct Askers {
    title: Option<SystemTitle>,
    /// Meters with an association, the newest last.
    asked: VecDeque<usize>,
}

/// Meters with an association that are remembered.
const ASKED_MAX: usize = 4096;

impl Askers {
    fn ask(
        &mut self,
        meters: &mut [VirtualMeter],
        agenda: &mut Agenda,
        of_socket: impl Iterator<Item = usize>,
        frame: &mut [u8],
        now: Now,
    ) -> Received {
        let Ok((_, apdu)) = Wrapper::datagram(frame) else { return Received::Foreign };
        if let Some(title) = cosem::opener(apdu) {
            self.title = Some(title);
            for index in of_socket {
                if meters[index].receive(frame, now) == Received::Asked {
                    self.asked.retain(|asked| *asked != index);
                    self.asked.push_back(index);
                    if self.asked.len() > ASKED_MAX {
                        self.asked.pop_front();
                    }
                    agenda.hasten(u32::try_from(index).expect("an index fits"), now);
                    return Received::Asked;
                }
            }
            return Received::Foreign;
        }
        let sender = Ciphered::peek(apdu).ok().and_then(|header| header.title).map(SystemTitle);
        if !cosem::is_opening(apdu) && (sender.is_none() || sender != self.title) {
            return Received::Foreign;
        }
        for index in self.asked.iter().rev().copied() {
            if meters[index].receive(frame, now) == Received::Asked {
                agenda.hasten(u32::try_from(index).expect("an index fits"), now);
                return Received::Asked;
            }
        }
        Received::Foreign
    }
}

/// Gives a frame from the node to the meter it is for.
fn confirm(
    meters: &mut [VirtualMeter],
    agenda: &mut Agenda,
    routes: &mut Routes,
    frame: &mut [u8],
    now: Now,
) -> Received {
    let Some(counter) = frame_counter(frame) else { return Received::Foreign };
    let candidates: Vec<u32> = routes.candidates(counter).collect();
    for index in candidates {
        let meter = &mut meters[usize::try_from(index).expect("an index fits")];
        match meter.receive(frame, now) {
            Received::Foreign | Received::Asked => {}
            received @ (Received::Acknowledged { .. } | Received::Repeated) => {
                routes.confirmed(counter, index);
                agenda.hasten(index, now);
                return received;
            }
        }
    }
    Received::Foreign
}

fn send(sockets: &[UdpSocket], route: u16, frame: &[u8], stats: &mut Stats) {
    match sockets[usize::from(route)].send(frame) {
        Ok(size) => stats.bytes_sent += u64::try_from(size).unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => stats.send_blocked += 1,
        Err(_) => stats.socket_errors += 1,
    }
}

fn bind(config: &DriverConfig) -> io::Result<UdpSocket> {
    let local: SocketAddr = match config.node {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(config.receive_buffer_bytes)?;
    socket.set_nonblocking(true)?;
    socket.bind(&local.into())?;
    socket.connect(&config.node.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}
