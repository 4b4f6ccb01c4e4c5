//! Binding the sockets, running the shards, stopping them.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use meter::wire::dlms::Templates;
use mio::Poll;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::config::Config;
use crate::directory::Directory;
use crate::edge::{self, OpenFiles};
use crate::errand::{Errands, NoErrands};
use crate::limits::Quota;
use crate::ports::{Clock, Log};
use crate::shard::{Deadline, Shard, WAKE};
use crate::stats::{Counters, Stats};
use crate::streams::Quotas;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Why the socket tier does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another process has the address.
    #[error("{protocol} {address} is in use; stop what listens there or configure another address")]
    InUse {
        /// "udp" or "tcp".
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The process may not bind it.
    #[error("{protocol} {address} is not permitted; ports below 1024 need CAP_NET_BIND_SERVICE")]
    Denied {
        /// "udp" or "tcp".
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The machine does not have it.
    #[error("{protocol} {address} is not an address of this machine")]
    NotOurs {
        /// "udp" or "tcp".
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// Anything else the kernel says.
    #[error("{protocol} {address} cannot be listened on")]
    Socket {
        /// "udp" or "tcp".
        protocol: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No event loop, or no thread for it.
    #[error("event loop cannot be set up")]
    EventLoop(#[source] io::Error),
}

/// What the system granted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bound {
    /// Where datagrams arrive.
    pub udp: SocketAddr,
    /// Where connections arrive.
    pub tcp: SocketAddr,
    /// Receive buffer of each UDP socket.
    pub udp_receive_buffer_bytes: usize,
    /// Whether the kernel coalesces datagrams of one sender.
    pub udp_coalesces: bool,
    /// The limit on open files, raised as far as it goes.
    pub open_files: OpenFiles,
    /// TCP connections the node will hold: as configured, or as many as the files allow.
    pub connections_max: u32,
}

/// The socket tier, bound and not yet running.
pub struct Ingest {
    shards: Vec<Shard>,
    control: Control,
    bound: Bound,
}

/// The socket tier at work.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<io::Result<()>>>,
    control: Control,
    bound: Bound,
}

/// Counts of the socket tier, to be read at any time.
#[derive(Clone, Debug)]
pub struct Meters {
    counters: Vec<Arc<Counters>>,
    quotas: Arc<Quotas>,
}

/// Wakes a shard: to be called after answers were sent to it.
#[derive(Clone, Debug)]
pub struct Waker(Arc<mio::Waker>);

#[derive(Debug)]
struct Control {
    wakers: Vec<Waker>,
    meters: Meters,
    deadline: Arc<Deadline>,
    clock: Clock,
}

impl fmt::Debug for Ingest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ingest({:?})", self.bound)
    }
}

impl Ingest {
    /// Binds the sockets of all shards. A shard each gets one of `logs`.
    ///
    /// # Errors
    /// [`BindError`]; nothing stays bound then.
    ///
    /// # Panics
    /// When there are not as many `logs` as shards.
    pub fn bind(
        config: Config,
        directory: Arc<Directory>,
        templates: Arc<Templates>,
        clock: Clock,
        logs: Vec<Box<dyn Log>>,
    ) -> Result<Self, BindError> {
        assert_eq!(
            logs.len(),
            usize::from(config.shards),
            "a shard has a way to the log of its own"
        );
        let open_files = edge::raise_open_files().map_err(BindError::EventLoop)?;
        let files = u32::try_from(open_files.soft).unwrap_or(u32::MAX);
        let connections_max =
            config.connections_max.min(files.saturating_sub(config.files_reserved));
        let quotas = Arc::new(Quotas {
            connections: Quota::new(connections_max),
            sessions: Quota::new(config.sessions_max),
        });
        let mut sockets = Sockets::bind(&config)?;
        let mut bound = Bound {
            udp: sockets.udp_address,
            tcp: sockets.tcp_address,
            udp_receive_buffer_bytes: 0,
            udp_coalesces: config.udp_coalesce,
            open_files,
            connections_max,
        };
        let (config, deadline) = (Arc::new(config), Arc::new(Deadline::default()));
        let meters = Meters { counters: Vec::new(), quotas };
        let mut control = Control { wakers: Vec::new(), meters, deadline, clock };
        let mut shards = Vec::new();
        for (index, log) in (0..).zip(logs) {
            let (udp, listener) = sockets.next(&config)?;
            let socket_failed = |source| fault("udp", config.udp_listen, source);
            bound.udp_receive_buffer_bytes =
                edge::set_receive_buffer(&udp, config.udp_receive_buffer_bytes)
                    .map_err(socket_failed)?;
            edge::report_drops(&udp).map_err(socket_failed)?;
            bound.udp_coalesces = config.udp_coalesce && edge::coalesce(&udp);
            let segments = edge::can_segment(&udp);
            let poll = Poll::new().map_err(BindError::EventLoop)?;
            let waker = mio::Waker::new(poll.registry(), WAKE).map_err(BindError::EventLoop)?;
            let counters = Arc::new(Counters::default());
            let mut shard = Shard {
                index,
                config: Arc::clone(&config),
                directory: Arc::clone(&directory),
                templates: Arc::clone(&templates),
                clock: control.clock.clone(),
                log,
                errands: Box::new(NoErrands),
                quotas: Arc::clone(&control.meters.quotas),
                counters: Arc::clone(&counters),
                deadline: Arc::clone(&control.deadline),
                poll,
                udp: mio::net::UdpSocket::from_std(udp),
                listener: mio::net::TcpListener::from_std(listener),
                coalesces: bound.udp_coalesces,
                segments,
            };
            shard.register().map_err(BindError::EventLoop)?;
            control.wakers.push(Waker(Arc::new(waker)));
            control.meters.counters.push(counters);
            shards.push(shard);
        }
        Ok(Self { shards, control, bound })
    }

    /// What the system granted; to be said at start.
    #[must_use]
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// The wakers of the shards, in their order.
    #[must_use]
    pub fn wakers(&self) -> Vec<Waker> {
        self.control.wakers.clone()
    }

    /// Gives the shards, in their order, a way to errands; without it they have none.
    ///
    /// # Panics
    /// When there are not as many as shards.
    #[must_use]
    pub fn with_errands(mut self, errands: Vec<Box<dyn Errands>>) -> Self {
        assert_eq!(errands.len(), self.shards.len(), "a shard has a way to errands of its own");
        for (shard, errands) in self.shards.iter_mut().zip(errands) {
            shard.errands = errands;
        }
        self
    }

    /// Starts a thread for each shard, named `ingest-0` and so on.
    ///
    /// # Errors
    /// [`BindError::EventLoop`] when a thread does not start; those that did are stopped.
    pub fn spawn(self) -> Result<Running, BindError> {
        let Self { shards, control, bound } = self;
        let mut running = Running { threads: Vec::new(), control, bound };
        for shard in shards {
            let name = format!("ingest-{}", shard.index);
            match thread::Builder::new().name(name).spawn(move || shard.run()) {
                Ok(thread) => running.threads.push(thread),
                Err(error) => {
                    running.shutdown(Duration::ZERO);
                    return Err(BindError::EventLoop(error));
                }
            }
        }
        Ok(running)
    }
}

impl Running {
    /// What the system granted.
    #[must_use]
    pub const fn bound(&self) -> Bound {
        self.bound
    }

    /// A handle on the counts, which outlives this.
    #[must_use]
    pub fn meters(&self) -> Meters {
        self.control.meters.clone()
    }

    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.control.meters.stats()
    }

    /// Whether every shard is still at work.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Reads no more, waits at most `patience` for the log's answers, sends their
    /// acknowledgements, closes everything. The counts are final then.
    ///
    /// # Panics
    /// When a shard panicked.
    pub fn shutdown(self, patience: Duration) -> Stats {
        let Self { threads, control, .. } = self;
        control.deadline.set((control.clock.monotonic)().saturating_add(patience));
        control.wakers.iter().for_each(Waker::wake);
        for thread in threads {
            // What the event loop said was logged by the shard.
            let _logged = thread.join().expect("shards do not panic");
        }
        control.meters.stats()
    }
}

impl Meters {
    /// The counts now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        stats.connections = self.quotas.connections.used();
        stats.sessions = self.quotas.sessions.used();
        self.counters.iter().for_each(|counters| counters.add_to(&mut stats));
        stats
    }
}

impl Waker {
    /// Wakes the shard. Cheap enough to be called after every commit.
    pub fn wake(&self) {
        // Fails only when the counter of wake-ups is full: then the shard is awake.
        let _awake = self.0.wake();
    }
}

/// The sockets of the shards: bound one by one, to the port that the first got.
struct Sockets {
    udp_address: SocketAddr,
    tcp_address: SocketAddr,
    first: Option<(UdpSocket, TcpListener)>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, BindError> {
        let share = config.shards > 1;
        let udp = bind_udp(config.udp_listen, share)?;
        let tcp = bind_tcp(config.tcp_listen, share)?;
        let failed = |protocol, address| move |source| fault(protocol, address, source);
        let udp_address = udp.local_addr().map_err(failed("udp", config.udp_listen))?;
        let tcp_address = tcp.local_addr().map_err(failed("tcp", config.tcp_listen))?;
        Ok(Self { udp_address, tcp_address, first: Some((udp, tcp)) })
    }

    fn next(&mut self, config: &Config) -> Result<(UdpSocket, TcpListener), BindError> {
        match self.first.take() {
            Some(first) => Ok(first),
            None => {
                let (udp, tcp) = (self.udp_address, self.tcp_address);
                debug_assert!(config.shards > 1);
                Ok((
                    share(udp, Type::DGRAM).and_then(into_udp).map_err(|e| fault("udp", udp, e))?,
                    share(tcp, Type::STREAM)
                        .and_then(into_tcp)
                        .map_err(|e| fault("tcp", tcp, e))?,
                ))
            }
        }
    }
}

/// A socket that shares its port lets any process of the same user in. So that a second node is
/// told that the port is taken, the port is first bound alone.
fn bind_udp(address: SocketAddr, shared: bool) -> Result<UdpSocket, BindError> {
    let failed = |source| fault("udp", address, source);
    let alone = bind(address, Type::DGRAM, false).map_err(failed)?;
    if !shared {
        return into_udp(alone).map_err(failed);
    }
    let address = local(&alone).map_err(failed)?;
    drop(alone);
    share(address, Type::DGRAM).and_then(into_udp).map_err(failed)
}

fn bind_tcp(address: SocketAddr, shared: bool) -> Result<TcpListener, BindError> {
    let failed = |source| fault("tcp", address, source);
    let alone = bind(address, Type::STREAM, false).map_err(failed)?;
    if !shared {
        return into_tcp(alone).map_err(failed);
    }
    let address = local(&alone).map_err(failed)?;
    drop(alone);
    share(address, Type::STREAM).and_then(into_tcp).map_err(failed)
}

fn share(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    bind(address, kind, true)
}

fn bind(address: SocketAddr, kind: Type, is_shared: bool) -> io::Result<Socket> {
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        // Connections of the process before, still winding down, do not hold the port.
        socket.set_reuse_address(true)?;
    }
    socket.set_reuse_port(is_shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[expect(clippy::unnecessary_wraps, reason = "as its sister for streams")]
fn into_udp(socket: Socket) -> io::Result<UdpSocket> {
    Ok(socket.into())
}

fn into_tcp(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| ErrorKind::Unsupported.into())
}

fn fault(protocol: &'static str, address: SocketAddr, source: io::Error) -> BindError {
    let kind = source.kind();
    if kind == ErrorKind::AddrInUse {
        BindError::InUse { protocol, address }
    } else if kind == ErrorKind::PermissionDenied {
        BindError::Denied { protocol, address }
    } else if kind == ErrorKind::AddrNotAvailable {
        BindError::NotOurs { protocol, address }
    } else {
        BindError::Socket { protocol, address, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(result: Result<T, BindError>, want: &str) {
        let message = result.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(message.starts_with(want), "{message:?}, want {want:?}");
    }

    #[test]
    fn a_port_in_use_is_told_whether_it_is_shared_or_not() {
        for (first, second) in [(false, false), (false, true), (true, false), (true, true)] {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let udp = bind_udp(any, first).unwrap();
            let at = udp.local_addr().unwrap();
            check(bind_udp(at, second), &format!("udp {at} is in use; "));
            let tcp = bind_tcp(any, first).unwrap();
            let at = tcp.local_addr().unwrap();
            check(bind_tcp(at, second), &format!("tcp {at} is in use; "));
        }
        let far = SocketAddr::from(([192, 0, 2, 1], 0));
        check(bind_udp(far, false), "udp 192.0.2.1:0 is not an address of this machine");
    }
}
