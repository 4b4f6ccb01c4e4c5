//! `faultproxy`: stands between devices and a node and loses, doubles, delays and reorders what
//! passes, by seed; for devices that are not the simulator's, and for faults in the middle.
//!
//! A datagram is a frame. A TCP stream has no frames here: of its faults there are delay, reading
//! by single bytes, and breaking the connection (the plan's `loss`).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};

use crate::Seed;
use crate::driver::Clocks;
use crate::faults::{FaultCounts, FaultPlan, Faults};
use crate::mix;

/// Devices and connections at most.
const PEERS_MAX: usize = 10_000;
const DATAGRAM_SIZE_MAX: usize = 65_536;
/// How long a connection to the node may take; meanwhile nothing passes.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// The sockets that devices reach; those towards the node follow.
const UDP: Token = Token(0);
const TCP: Token = Token(1);
const FIRST: usize = 2;

/// A proxy between devices and a node.
#[derive(Debug)]
pub struct FaultProxy {
    node: SocketAddr,
    clocks: Clocks,
    poll: Poll,
    events: Events,
    udp: UdpSocket,
    tcp: TcpListener,
    plan: FaultPlan,
    seed: Seed,
    /// By token − [`FIRST`].
    peers: Vec<Option<Peer>>,
    by_device: BTreeMap<SocketAddr, usize>,
    up: Faults<usize>,
    down: Faults<usize>,
    broken: u64,
}

/// What stands towards the node.
#[derive(Debug)]
enum Peer {
    /// A device's socket.
    Datagrams { device: SocketAddr, socket: UdpSocket },
    /// One half of a connection; the other's token.
    Stream { stream: TcpStream, other: usize, rolls: u64 },
}

impl FaultProxy {
    /// Listens at `listen` by UDP and TCP.
    ///
    /// # Errors
    /// Those of the sockets.
    pub fn bind(
        listen: SocketAddr,
        node: SocketAddr,
        plan: FaultPlan,
        seed: Seed,
        clocks: Clocks,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut tcp = TcpListener::bind(listen)?;
        let mut udp = UdpSocket::bind(tcp.local_addr()?)?;
        poll.registry().register(&mut udp, UDP, Interest::READABLE)?;
        poll.registry().register(&mut tcp, TCP, Interest::READABLE)?;
        Ok(Self {
            node,
            clocks,
            poll,
            events: Events::with_capacity(1024),
            udp,
            tcp,
            plan,
            seed,
            peers: Vec::new(),
            by_device: BTreeMap::new(),
            up: Faults::new(plan, seed, 4),
            down: Faults::new(plan, seed, 5),
            broken: 0,
        })
    }

    /// Where devices reach it.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// What was done to datagrams, towards the node and back; and connections broken.
    #[must_use]
    pub const fn counts(&self) -> ([FaultCounts; 2], u64) {
        ([self.up.counts(), self.down.counts()], self.broken)
    }

    /// Passes what is there, waiting for at most `timeout`.
    ///
    /// # Errors
    /// When polling fails; a peer's own errors end the peer only.
    pub fn step(&mut self, timeout: Duration) -> io::Result<()> {
        let wall = (self.clocks.wall)();
        let wake = [self.up.wakes_at(), self.down.wakes_at()].into_iter().flatten().min();
        let wait = wake.map_or(timeout, |at| at.saturating_sub(wall).min(timeout));
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let ready: Vec<Token> = self.events.iter().map(mio::event::Event::token).collect();
        for token in ready {
            match token {
                UDP => self.pass_up()?,
                TCP => self.accept()?,
                Token(number) => self.pass_back(number - FIRST),
            }
        }
        self.release((self.clocks.wall)());
        Ok(())
    }

    fn release(&mut self, wall: Duration) {
        let Self { peers, up, down, udp, .. } = self;
        up.release(wall, &mut |peer, frame| to_node(peers, peer, frame));
        down.release(wall, &mut |peer, frame| to_device(peers, udp, peer, frame));
    }

    fn pass_up(&mut self) -> io::Result<()> {
        let mut buf = [0; DATAGRAM_SIZE_MAX];
        while let Ok((size, device)) = self.udp.recv_from(&mut buf) {
            let Some(peer) = self.peer_of(device)? else { continue };
            let wall = (self.clocks.wall)();
            let Self { peers, up, .. } = self;
            up.pass(peer, &buf[..size], wall, &mut |peer, frame| to_node(peers, peer, frame));
        }
        Ok(())
    }

    /// The socket that stands for a device; `None` when there are too many.
    fn peer_of(&mut self, device: SocketAddr) -> io::Result<Option<usize>> {
        if let Some(peer) = self.by_device.get(&device) {
            return Ok(Some(*peer));
        }
        if self.peers.len() >= PEERS_MAX {
            return Ok(None);
        }
        let any: SocketAddr = match self.node {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0_u16; 8], 0).into(),
        };
        let mut socket = UdpSocket::bind(any)?;
        socket.connect(self.node)?;
        let peer = self.peers.len();
        self.poll.registry().register(&mut socket, Token(peer + FIRST), Interest::READABLE)?;
        self.peers.push(Some(Peer::Datagrams { device, socket }));
        self.by_device.insert(device, peer);
        Ok(Some(peer))
    }

    fn accept(&mut self) -> io::Result<()> {
        while let Ok((mut stream, _)) = self.tcp.accept() {
            let Ok(mut upward) = connect(self.node) else { continue };
            let first = self.peers.len();
            if first + 2 > PEERS_MAX {
                continue;
            }
            let registry = self.poll.registry();
            for (half, token) in [(&mut stream, first), (&mut upward, first + 1)] {
                half.set_nodelay(true)?;
                let both = Interest::READABLE | Interest::WRITABLE;
                registry.register(half, Token(token + FIRST), both)?;
            }
            let half = |stream, other| Some(Peer::Stream { stream, other, rolls: 0 });
            self.peers.push(half(stream, first + 1));
            self.peers.push(half(upward, first));
        }
        Ok(())
    }

    fn pass_back(&mut self, peer: usize) {
        let mut buf = [0; DATAGRAM_SIZE_MAX];
        match self.peers.get_mut(peer).and_then(Option::as_mut) {
            Some(Peer::Datagrams { socket, .. }) => {
                let mut frames = Vec::new();
                while let Ok(size) = socket.recv(&mut buf) {
                    frames.push(buf[..size].to_vec());
                }
                let wall = (self.clocks.wall)();
                let Self { peers, down, udp, .. } = self;
                for frame in frames {
                    down.pass(peer, &frame, wall, &mut |peer, frame| {
                        to_device(peers, udp, peer, frame);
                    });
                }
            }
            Some(Peer::Stream { .. }) => self.copy(peer, &mut buf),
            None => {}
        }
    }

    /// Copies from one half of a connection to the other until the source has no more.
    fn copy(&mut self, peer: usize, buf: &mut [u8]) {
        loop {
            let Some(Peer::Stream { stream, other, rolls }) = &mut self.peers[peer] else { return };
            let other = *other;
            *rolls += 1;
            let draw = mix(self.seed.0 ^ mix((peer as u64) << 32 | *rolls)) % 1000;
            let size = match stream.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(size @ 1..) if draw >= u64::from(self.plan.loss) => size,
                Ok(1..) => {
                    self.broken += 1;
                    return self.close(peer, other);
                }
                Ok(_) | Err(_) => return self.close(peer, other),
            };
            let is_split = draw % 1000 < u64::from(self.plan.reordering);
            let step = if is_split { 1 } else { size };
            let Some(Peer::Stream { stream, .. }) = &mut self.peers[other] else { return };
            for part in buf[..size].chunks(step) {
                // A stream that does not take more is broken off: the device sends again.
                if stream.write_all(part).is_err() {
                    return self.close(peer, other);
                }
            }
        }
    }

    fn close(&mut self, one: usize, other: usize) {
        self.peers[one] = None;
        self.peers[other] = None;
    }
}

/// Connects and waits for it, so that bytes that came meanwhile can be written at once.
fn connect(node: SocketAddr) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::connect_timeout(&node, CONNECT_MAX)?;
    stream.set_nonblocking(true)?;
    Ok(TcpStream::from_std(stream))
}

fn to_node(peers: &[Option<Peer>], peer: usize, frame: &[u8]) {
    if let Some(Peer::Datagrams { socket, .. }) = &peers[peer] {
        // What a full buffer refuses is lost, as on any network.
        socket.send(frame).ok();
    }
}

fn to_device(peers: &[Option<Peer>], udp: &UdpSocket, peer: usize, frame: &[u8]) {
    if let Some(Peer::Datagrams { device, .. }) = &peers[peer] {
        // As above.
        udp.send_to(frame, *device).ok();
    }
}
