//! `udp_durable`: ciphered single-reading datagrams, each acknowledged after the sync of the log,
//! beside a raw echo (`recvmmsg`, `sendmmsg`, nothing else) fed by the same generator in one run.
//!
//! The generator has 64 connected sockets, frames sealed beforehand, and a closed window on each
//! socket, so that nothing is lost for want of a buffer. The node is `ingest` and `storage::log`
//! as `meterd serve` wires them; what would go to the books is thrown away.
//!
//! Sketch: receive 1 µs, open 0.5 µs, decode 0.1 µs, seal 0.4 µs, send 1 to 3 µs on the shard's
//! thread; encode and write 0.2 µs on the log's; the echo has receive and send only.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use ingest::{
    Answer, Batch, Clock, Config, Device, Directory, FailureLimit, Ingest, Log, NotTaken,
    Registration, Stats, Verdict,
};
use meter::wire::Writer;
use meter::wire::dlms::{InvokeId, Keys, Measured, Sealing, SecurityControl, Templates, Wrapper};
use meter::{Entry, GatewayId, MeterId, SystemTitle, UnixSeconds};
use storage::log::{
    Committed, Directory as LogFolder, Durability, Origin, Outcome, SegmentLog, Submission,
    WritePath, Writer as LogWriter, WriterConfig,
};

/// Size of the load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Meters, each with keys of its own.
    pub meters: u32,
    /// Readings of each meter.
    pub rounds: u32,
    /// Datagrams in flight on each of the 64 sockets.
    pub window: usize,
}

/// One run of either side.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Acknowledged readings (echoed datagrams) a second.
    pub per_s: u64,
    /// Time to the acknowledgement: half of them within.
    pub p50: Duration,
    /// 99 of 100 within.
    pub p99: Duration,
    /// Never acknowledged.
    pub lost: u64,
}

/// Both sides of one run.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The node.
    pub node: Run,
    /// The raw echo.
    pub echo: Run,
    /// What the node counted.
    pub stats: Stats,
}

impl Report {
    /// Readings of the node to datagrams of the echo, in thousandths.
    #[must_use]
    pub fn ratio_milli(&self) -> u64 {
        self.node.per_s.saturating_mul(1000).checked_div(self.echo.per_s).unwrap_or(0)
    }
}

const LANES: usize = 64;
const BATCH: usize = 64;
const ACK_SIZE: usize = 42;
const HEAD_END: SystemTitle = SystemTitle(*b"MTDHEAD1");
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// Runs the echo and the node once each, with a log in `folder`, which must not exist.
///
/// # Errors
/// What sockets and files say.
pub fn run(load: Load, folder: &Path) -> io::Result<Report> {
    let frames = Frames::seal(load);
    let echo = {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let to = socket.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread =
            thread::Builder::new().name("echo".into()).spawn(move || echo(&socket, &told))?;
        let run = generate(&frames, to, load.window)?;
        stop.store(true, Ordering::Relaxed);
        thread.join().expect("the echo does not panic")?;
        run
    };
    let template = template();
    let registrations = (1..=load.meters).map(|number| registration(number, template)).collect();
    let node = Node::start(load.meters, registrations, 16, folder)?;
    let run = generate(&frames, node.udp, load.window)?;
    let stats = node.stop();
    std::fs::remove_dir_all(folder)?;
    Ok(Report { node: run, echo, stats })
}

/// The line that `make bench` prints.
#[must_use]
pub fn line(report: &Report) -> String {
    let Report { node, echo, stats } = report;
    let batches = stats.batches.max(1);
    format!(
        "udp_durable: {} readings/s, echo {}/s, ratio {}.{:03}; ack p50 {:?} p99 {:?} (echo {:?}, \
         {:?}); lost {}, kernel drops {}; {} entries a batch",
        node.per_s,
        echo.per_s,
        report.ratio_milli().div_euclid(1000),
        report.ratio_milli().rem_euclid(1000),
        node.p50,
        node.p99,
        echo.p50,
        echo.p99,
        node.lost,
        stats.kernel_drops,
        stats.entries.div_euclid(batches),
    )
}

/// Sealed frames, one after the other: round by round, meter by meter.
struct Frames {
    bytes: Vec<u8>,
    size: usize,
}

impl Frames {
    fn seal(load: Load) -> Self {
        let mut bytes = Vec::new();
        let mut size = 0;
        for round in 1..=load.rounds {
            for number in 1..=load.meters {
                let meter = registration(number, 0);
                let measured = Measured {
                    taken_at: 1_800_000_000 + 900 * round,
                    register_wh: u64::from(number) * 1000 + u64::from(round) * 100,
                    voltage_mv: [Some(230_000), None, None],
                    current_ma: [Some(1_500), None, None],
                    power_w: Some(345),
                    power_factor_milli: Some(980),
                    frequency_mhz: Some(50_010),
                    ..Measured::default()
                };
                let frame = seal(&meter, round, &measured);
                size = frame.len();
                bytes.extend(frame);
            }
        }
        Self { bytes, size }
    }

    fn count(&self) -> usize {
        self.bytes.len() / self.size
    }

    fn get(&self, index: usize) -> &[u8] {
        &self.bytes[index * self.size..(index + 1) * self.size]
    }
}

fn seal(meter: &Registration, counter: u32, measured: &Measured) -> Vec<u8> {
    let (mut plain, mut frame) = ([0; 256], [0; 256]);
    let mut writer = Writer::new(&mut plain);
    measured.write_single(InvokeId::confirmed(counter), &mut writer).expect("fits");
    let plain = writer.written();
    let sealing = Sealing {
        control: SecurityControl::BOTH,
        title: meter.title.0,
        invocation_counter: counter,
        keys: Keys { encryption: &meter.encryption_key, authentication: &meter.authentication_key },
    };
    Wrapper::frame(1, 1, &mut frame, |w| sealing.general_glo(plain, w)).expect("fits").to_vec()
}

pub(crate) fn template() -> u16 {
    Templates::built_in().find(Templates::SINGLE).expect("is built in").0
}

pub(crate) fn registration(number: u32, template: u16) -> Registration {
    let key = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let mut title = *b"MTD\0\0\0\0\0";
    title[4..].copy_from_slice(&number.to_be_bytes());
    Registration {
        title: SystemTitle(title),
        encryption_key: key.to_be_bytes(),
        authentication_key: key.to_le_bytes(),
        device: Device::Meter(MeterId(number)),
        template,
        behind: GatewayId::NONE,
    }
}

/// One socket of the generator with its closed window.
struct Lane {
    socket: UdpSocket,
    /// Index of the next frame; the lane has every 64th.
    next: usize,
    in_flight: usize,
    sent: VecDeque<(Instant, usize)>,
    scratch: [u8; BATCH * 64],
}

/// Sends all frames and waits for as many answers.
fn generate(frames: &Frames, to: SocketAddr, window: usize) -> io::Result<Run> {
    let mut lanes =
        (0..LANES).map(|lane| Lane::connect(lane, to)).collect::<io::Result<Vec<_>>>()?;
    let mut latencies = hdrhistogram::Histogram::<u64>::new(3).expect("three digits are allowed");
    let total = frames.count();
    let mut answered = 0;
    let start = Instant::now();
    let mut end = start;
    while answered < total {
        let mut moved = 0;
        let now = Instant::now();
        for lane in &mut lanes {
            let received = lane.receive(now, &mut latencies)?;
            answered += received;
            moved += received + lane.send(frames, window, now)?;
        }
        if moved > 0 {
            end = Instant::now();
        } else if !wait(&lanes)? {
            break;
        }
    }
    let micros = u64::try_from((end - start).as_micros()).unwrap_or(u64::MAX).max(1);
    Ok(Run {
        per_s: answered as u64 * 1_000_000 / micros,
        p50: Duration::from_micros(latencies.value_at_quantile(0.5)),
        p99: Duration::from_micros(latencies.value_at_quantile(0.99)),
        lost: (total - answered) as u64,
    })
}

impl Lane {
    fn connect(lane: usize, to: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        force_receive_buffer(&socket, 4 << 20);
        let sent = VecDeque::new();
        Ok(Self { socket, next: lane, in_flight: 0, sent, scratch: [0; BATCH * 64] })
    }

    fn send(&mut self, frames: &Frames, window: usize, now: Instant) -> io::Result<usize> {
        let left = frames.count().saturating_sub(self.next).div_ceil(LANES);
        let count = (window - self.in_flight).min(left).min(BATCH);
        // Half a window at a time, as a busy sender would have it.
        if count == 0 || count < (window / 2).min(left) {
            return Ok(0);
        }
        let parts = (0..count).map(|index| frames.get(self.next + index * LANES));
        let sent = send_many(&self.socket, parts)?;
        self.next += sent * LANES;
        self.in_flight += sent;
        self.sent.push_back((now, sent));
        Ok(sent)
    }

    fn receive(
        &mut self,
        now: Instant,
        latencies: &mut hdrhistogram::Histogram<u64>,
    ) -> io::Result<usize> {
        if self.in_flight == 0 {
            return Ok(0);
        }
        let received = receive_many(&self.socket, &mut self.scratch)?;
        self.in_flight -= received;
        let mut left = received;
        while let Some((at, count)) = self.sent.front_mut().filter(|_| left > 0) {
            let taken = left.min(*count);
            let micros = u64::try_from((now - *at).as_micros()).unwrap_or(u64::MAX);
            latencies.record_n(micros.max(1), taken as u64).expect("resizes itself");
            left -= taken;
            *count -= taken;
            if *count == 0 {
                self.sent.pop_front();
            }
        }
        Ok(received)
    }
}

/// Waits until some lane has an answer; false when none comes for a second.
fn wait(lanes: &[Lane]) -> io::Result<bool> {
    let mut fds: Vec<_> = lanes
        .iter()
        .map(|lane| libc::pollfd { fd: lane.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    // SAFETY: the pointer and count are those of a live vector.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), LANES as libc::nfds_t, 1000) };
    check(ready).map(|ready| ready > 0)
}

/// The bare work: every datagram answered, nothing else.
fn echo(socket: &UdpSocket, stop: &AtomicBool) -> io::Result<()> {
    force_receive_buffer(socket, RECEIVE_BUFFER_BYTES);
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut bytes = vec![0_u8; BATCH * 256];
    let mut names: Vec<libc::sockaddr_in> = vec![zeroed(); BATCH];
    let mut iovecs: Vec<libc::iovec> = vec![zeroed(); BATCH];
    let mut headers: Vec<libc::mmsghdr> = vec![zeroed(); BATCH];
    while !stop.load(Ordering::Relaxed) {
        let parts = bytes.chunks_exact_mut(256).zip(&mut names).zip(&mut iovecs);
        for (((part, name), iovec), header) in parts.zip(&mut headers) {
            *iovec = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
            header.msg_hdr.msg_name = std::ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = std::ptr::from_mut(iovec);
            header.msg_hdr.msg_iovlen = 1;
        }
        let (fd, headers_at) = (socket.as_raw_fd(), headers.as_mut_ptr());
        let (flags, forever) = (libc::MSG_WAITFORONE, std::ptr::null_mut());
        // SAFETY: each header points at live buffers with their true sizes.
        let count = unsafe { libc::recvmmsg(fd, headers_at, BATCH as u32, flags as _, forever) };
        let count = match check(count) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        iovecs.iter_mut().for_each(|iovec| iovec.iov_len = ACK_SIZE);
        let mut sent = 0;
        while sent < count {
            let from = headers.as_mut_ptr().wrapping_add(sent);
            // SAFETY: the headers from there on still point at live buffers and at the senders.
            let more = unsafe { libc::sendmmsg(fd, from, (count - sent) as u32, 0) };
            sent += check(more)?;
        }
    }
    Ok(())
}

fn send_many<'f>(socket: &UdpSocket, parts: impl Iterator<Item = &'f [u8]>) -> io::Result<usize> {
    let mut iovecs: [libc::iovec; BATCH] = [zeroed(); BATCH];
    let mut headers: [libc::mmsghdr; BATCH] = [zeroed(); BATCH];
    let mut count = 0;
    for ((part, iovec), header) in parts.zip(&mut iovecs).zip(&mut headers) {
        *iovec = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        header.msg_hdr.msg_iov = std::ptr::from_mut(iovec);
        header.msg_hdr.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: the first `count` headers point at live frames, which sending only reads.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, 0) };
    check(sent).or_else(|error| if is_empty(&error) { Ok(0) } else { Err(error) })
}

fn receive_many(socket: &UdpSocket, scratch: &mut [u8]) -> io::Result<usize> {
    let mut iovecs: [libc::iovec; BATCH] = [zeroed(); BATCH];
    let mut headers: [libc::mmsghdr; BATCH] = [zeroed(); BATCH];
    for ((part, iovec), header) in scratch.chunks_exact_mut(64).zip(&mut iovecs).zip(&mut headers) {
        *iovec = libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() };
        header.msg_hdr.msg_iov = std::ptr::from_mut(iovec);
        header.msg_hdr.msg_iovlen = 1;
    }
    let (flags, forever) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
    let (fd, headers) = (socket.as_raw_fd(), headers.as_mut_ptr());
    // SAFETY: each header points at a live buffer with its true size.
    let received = unsafe { libc::recvmmsg(fd, headers, BATCH as u32, flags as _, forever) };
    check(received).or_else(|error| if is_empty(&error) { Ok(0) } else { Err(error) })
}

fn force_receive_buffer(socket: &UdpSocket, size_bytes: usize) {
    let size = libc::c_int::try_from(size_bytes).unwrap_or(libc::c_int::MAX);
    for option in [libc::SO_RCVBUF, libc::SO_RCVBUFFORCE] {
        // SAFETY: the pointer and size are those of a live c_int. What is not granted is not used:
        // the window is closed.
        let _granted = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const size).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
    }
}

fn is_empty(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// A structure of the kernel's with nothing in it.
fn zeroed<T: Copy>() -> T {
    // SAFETY: only called for iovec, sockaddr_in and mmsghdr, integers and pointers throughout.
    unsafe { std::mem::zeroed() }
}

fn check(result: libc::c_int) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The node's side.
pub(crate) struct Node {
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
    running: ingest::Running,
    writer: thread::JoinHandle<()>,
    books: thread::JoinHandle<()>,
}

/// The log's channels as a shard sees them.
struct Channels {
    submissions: Sender<Submission<Entry>>,
    outcomes: Receiver<Outcome>,
    buffers: Receiver<Vec<Entry>>,
}

impl Log for Channels {
    fn submit(&mut self, batch: Batch) -> Result<(), NotTaken> {
        let Batch { shard, ticket, entries } = batch;
        self.submissions.try_send(Submission { origin: shard, ticket, entries }).map_err(|error| {
            match error {
                TrySendError::Full(Submission { ticket, entries, .. }) => {
                    NotTaken::Full(Batch { shard, ticket, entries })
                }
                TrySendError::Disconnected(_) => NotTaken::Closed,
            }
        })
    }

    fn answer(&mut self) -> Option<Answer> {
        Some(match self.outcomes.try_recv().ok()? {
            Outcome::Durable(durable) => {
                Answer { ticket: durable.ticket, verdict: Verdict::Durable }
            }
            Outcome::Refused { ticket, .. } => Answer { ticket, verdict: Verdict::Refused },
        })
    }

    fn recycled(&mut self) -> Option<Vec<Entry>> {
        self.buffers.try_recv().ok()
    }
}

impl Node {
    /// A node with these devices and a log in `folder`, which must not exist.
    pub(crate) fn start(
        meters: u32,
        registrations: Vec<Registration>,
        connections_max: u32,
        folder: &Path,
    ) -> io::Result<Self> {
        let (submissions, submitted) = bounded(64);
        let (answered, outcomes) = bounded(128);
        let (emptied, buffers) = bounded(128);
        let log = Box::new(Channels { submissions, outcomes, buffers });
        let devices = meters + connections_max;
        let directory = Directory::build(devices, registrations).map_err(io::Error::other)?;
        let start = Instant::now();
        let clock = Clock {
            wall: Arc::new(|| UnixSeconds(1_800_000_000)),
            monotonic: Arc::new(move || start.elapsed()),
        };
        let templates = Arc::new(Templates::built_in());
        let ingest =
            Ingest::bind(config(connections_max), Arc::new(directory), templates, clock, vec![log])
                .map_err(io::Error::other)?;
        let waker = ingest.wakers().remove(0);
        let origin =
            Origin { outcomes: answered, buffers: emptied, wake: Arc::new(move || waker.wake()) };
        let disk = Arc::new(LogFolder::open(folder, WritePath::Direct)?);
        let log_config = storage::log::Config {
            segment_size_bytes: 16 << 20,
            reserve_segments: 1,
            spares_max: 4,
            durability: Durability::Synced,
            node: 1,
            epoch: 1,
        };
        let (log, _) = SegmentLog::open(disk, log_config, 0).map_err(io::Error::other)?;
        let progress = log.progress();
        let writer_config = WriterConfig {
            group_entries_max: 10_000,
            group_bytes_max: 4 << 20,
            kind: 1,
            slot_group: 0,
            housekeeping_interval: Duration::from_millis(100),
        };
        let (committed, groups_done) = bounded::<Committed<Entry>>(16);
        let (group, groups) = bounded(16);
        let writer =
            LogWriter::new(log, writer_config, vec![submitted], vec![origin], committed, groups)
                .map_err(io::Error::other)?;
        let writer = thread::Builder::new().name("log".into()).spawn(move || {
            writer.run().expect("the log is written");
        })?;
        let books = thread::Builder::new().name("books".into()).spawn(move || {
            for Committed { first, mut entries } in groups_done {
                entries.clear();
                // What is behind may go, so that segments are used again as in a long run.
                progress.request_retire(first);
                let _full = group.try_send(entries);
            }
        })?;
        let running = ingest.spawn().map_err(io::Error::other)?;
        let (udp, tcp) = (running.bound().udp, running.bound().tcp);
        Ok(Self { udp, tcp, running, writer, books })
    }

    /// Connections that the node holds.
    pub(crate) fn connections(&self) -> u32 {
        self.running.meters().stats().connections
    }

    pub(crate) fn stop(self) -> Stats {
        let stats = self.running.shutdown(Duration::from_secs(5));
        self.writer.join().expect("the log's writer does not panic");
        self.books.join().expect("the books do not panic");
        stats
    }
}

fn config(connections_max: u32) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        udp_listen: any,
        tcp_listen: any,
        shards: 1,
        head_end_title: HEAD_END,
        command_title: SystemTitle(*b"MTD\0\0\0\0\xFE"),
        udp_receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
        udp_coalesce: true,
        frame_bytes_max: 8192,
        entries_max: 1024,
        age_ms_max: 5,
        batches_in_flight_max: 64,
        connections_max,
        files_reserved: 256,
        sessions_max: connections_max,
        failures: FailureLimit { burst: 64, per_s: 8 },
        hello_ms_max: 5_000,
        frame_age_ms_max: 5_000,
        idle_ms_max: 60_000,
        out_bytes_max: 65_536,
    }
}
