//! A node of sockets only: the test is its log and its clock.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use ingest::{
    Answer, Batch, Clock, Config, Device, Directory, FailureLimit, Ingest, Log, NotTaken, Outcome,
    Registration, Running, Stats, Verdict, Waker,
};
use meter::wire::dlms::{
    Ciphered, InvokeId, Keys, Measured, Notification, Sealing, SecurityControl, Templates, Wrapper,
};
use meter::wire::{WireError, Writer};
use meter::{Entry, GatewayId, MeterId, SystemTitle, UnixSeconds};

pub(crate) const HEAD_END: SystemTitle = SystemTitle(*b"MTDHEAD1");
pub(crate) const COMMANDER: SystemTitle = SystemTitle(*b"MTDHEAD2");
pub(crate) const WALL: UnixSeconds = UnixSeconds(1_800_000_000);

static TEMPLATES: LazyLock<Templates> = LazyLock::new(Templates::built_in);

/// What a test waits for comes at once or never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The log of a shard, as the test plays it.
struct TestLog {
    batches: Sender<Batch>,
    answers: Receiver<Answer>,
    recycled: Receiver<Vec<Entry>>,
}

impl Log for TestLog {
    fn submit(&mut self, batch: Batch) -> Result<(), NotTaken> {
        self.batches.try_send(batch).map_err(|error| match error {
            TrySendError::Full(batch) => NotTaken::Full(batch),
            TrySendError::Disconnected(_) => NotTaken::Closed,
        })
    }

    fn answer(&mut self) -> Option<Answer> {
        self.answers.try_recv().ok()
    }

    fn recycled(&mut self) -> Option<Vec<Entry>> {
        self.recycled.try_recv().ok()
    }
}

pub(crate) struct Node {
    running: Option<Running>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
    batches: Receiver<Batch>,
    answers: Vec<Sender<Answer>>,
    recycled: Vec<Sender<Vec<Entry>>>,
    wakers: Vec<Waker>,
    monotonic_ms: Arc<AtomicU64>,
}

pub(crate) fn config() -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        udp_listen: any,
        tcp_listen: any,
        shards: 1,
        head_end_title: HEAD_END,
        command_title: COMMANDER,
        udp_receive_buffer_bytes: 16 << 20,
        udp_coalesce: true,
        frame_bytes_max: 4096,
        entries_max: 64,
        age_ms_max: 5,
        batches_in_flight_max: 64,
        connections_max: 1000,
        files_reserved: 64,
        sessions_max: 1000,
        failures: FailureLimit { burst: 1000, per_s: 1 },
        hello_ms_max: 5_000,
        frame_age_ms_max: 2_000,
        idle_ms_max: 60_000,
        out_bytes_max: 4096,
    }
}

impl Node {
    /// Meters 1 to 99 direct, 101 to 132 behind gateway 1, 201 to 232 behind gateway 2.
    pub(crate) fn start() -> Self {
        Self::with(config(), Arc::new(directory()), 64)
    }

    pub(crate) fn with(config: Config, directory: Arc<Directory>, batches_max: usize) -> Self {
        let (batches, taken) = bounded(batches_max);
        let (mut answers, mut recycled, mut logs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..config.shards {
            let (answer, answered) = unbounded();
            let (recycle, buffers) = bounded(8);
            answers.push(answer);
            recycled.push(recycle);
            let batches = batches.clone();
            logs.push(
                Box::new(TestLog { batches, answers: answered, recycled: buffers }) as Box<dyn Log>
            );
        }
        let monotonic_ms = Arc::new(AtomicU64::new(0));
        let time = Arc::clone(&monotonic_ms);
        let clock = Clock {
            wall: Arc::new(|| WALL),
            monotonic: Arc::new(move || Duration::from_millis(time.load(Ordering::SeqCst))),
        };
        let templates = Arc::new(TEMPLATES.clone());
        let ingest = Ingest::bind(config, Arc::clone(&directory), templates, clock, logs).unwrap();
        let bound = ingest.bound();
        let wakers = ingest.wakers();
        let running = Some(ingest.spawn().unwrap());
        let (udp, tcp) = (bound.udp, bound.tcp);
        Self {
            running,
            directory,
            udp,
            tcp,
            batches: taken,
            answers,
            recycled,
            wakers,
            monotonic_ms,
        }
    }

    /// The next batch that the shards hand over.
    pub(crate) fn take(&self) -> Batch {
        self.batches.recv_timeout(PATIENCE).expect("a batch comes")
    }

    /// The next batch, if one comes in a moment.
    pub(crate) fn take_soon(&self) -> Option<Batch> {
        self.batches.recv_timeout(Duration::from_millis(10)).ok()
    }

    pub(crate) fn answer(&self, batch: Batch, verdict: Verdict) -> Vec<Entry> {
        let shard = usize::from(batch.shard);
        self.answers[shard].send(Answer { ticket: batch.ticket, verdict }).unwrap();
        self.wakers[shard].wake();
        let entries = batch.entries.clone();
        let _full = self.recycled[shard].try_send(batch.entries);
        entries
    }

    /// Takes batches and makes them durable until `count` entries came.
    pub(crate) fn commit(&self, count: usize) -> Vec<Entry> {
        let mut entries = Vec::new();
        while entries.len() < count {
            entries.extend(self.answer(self.take(), Verdict::Durable));
        }
        assert_eq!(entries.len(), count, "{entries:?}");
        entries
    }

    /// Makes `count` single readings durable, each batch's acknowledgements received before the
    /// next is taken, so that no buffer of the test overflows.
    pub(crate) fn commit_and_receive(&self, count: usize, socket: &UdpSocket) {
        let mut left = count;
        while left > 0 {
            let entries = self.answer(self.take(), Verdict::Durable);
            entries.iter().for_each(|_| drop(receive(socket)));
            left -= entries.len();
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, ms: u64) {
        self.monotonic_ms.fetch_add(ms, Ordering::SeqCst);
        self.wakers.iter().for_each(Waker::wake);
    }

    pub(crate) fn stats(&self) -> Stats {
        self.running.as_ref().unwrap().stats()
    }

    /// Waits until the counts are as told; fails with them when they do not come to be.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Stats) -> bool) -> Stats {
        for _ in 0..2_000 {
            let stats = self.stats();
            if is_so(&stats) {
                return stats;
            }
            // Let the shard run; it needs no more than its turn.
            std::thread::park_timeout(Duration::from_millis(5));
        }
        panic!("{what}: {:?}", self.stats());
    }

    pub(crate) fn shutdown(mut self) -> Stats {
        let running = self.running.take().unwrap();
        running.shutdown(Duration::ZERO)
    }

    /// Takes the running tier out, for tests of its shutdown.
    pub(crate) fn running(&mut self) -> Running {
        self.running.take().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.shutdown(Duration::ZERO);
        }
    }
}

/// Each count must be as told, and every other outcome 0.
#[track_caller]
pub(crate) fn check(stats: &Stats, want: &[(Outcome, u64)], case: &str) {
    for outcome in Outcome::ALL {
        let want = want.iter().find(|(of, _)| of == outcome).map_or(0, |(_, count)| *count);
        assert_eq!(stats.outcome(*outcome), want, "{case}: {outcome:?} of {stats:?}");
    }
}

pub(crate) fn directory() -> Directory {
    let meters = (1..=99).chain(101..=132).chain(201..=232).map(meter);
    Directory::build(1_000, meters.chain([gateway(1), gateway(2)])).unwrap()
}

pub(crate) fn meter(number: u32) -> Registration {
    device(number, Device::Meter(MeterId(number)), Templates::SINGLE, GatewayId(number / 100))
}

pub(crate) fn gateway(number: u32) -> Registration {
    let device_of = Device::Gateway(GatewayId(number));
    device(9_000 + number, device_of, Templates::BATCH, GatewayId::NONE)
}

fn device(number: u32, device: Device, template: &str, behind: GatewayId) -> Registration {
    let key = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let mut title = *b"MTD\0\0\0\0\0";
    title[4..].copy_from_slice(&number.to_be_bytes());
    Registration {
        title: SystemTitle(title),
        encryption_key: key.to_be_bytes(),
        authentication_key: key.to_le_bytes(),
        device,
        template: TEMPLATES.find(template).unwrap().0,
        behind,
    }
}

pub(crate) fn keys(of: &Registration) -> Keys<'_> {
    Keys { encryption: &of.encryption_key, authentication: &of.authentication_key }
}

/// What a meter measured at its `count`th push.
pub(crate) fn measured(count: u32) -> Measured {
    Measured {
        taken_at: WALL.0 - 900 + count,
        register_wh: 1_000 + u64::from(count),
        voltage_mv: [Some(230_100), None, None],
        power_w: Some(-5),
        ..Measured::default()
    }
}

/// The frame of one reading, its acknowledgement asked for.
pub(crate) fn single(from: &Registration, counter: u32) -> Vec<u8> {
    seal(from, counter, |writer| {
        measured(counter).write_single(InvokeId::confirmed(counter), writer)
    })
}

/// A gateway's frame of one reading for each of `meters`.
pub(crate) fn batch(
    from: &Registration,
    counter: u32,
    meters: impl Iterator<Item = u32>,
) -> Vec<u8> {
    let row = |number| Measured { meter: Some(meter(number).title.0), ..measured(counter) };
    let rows: Vec<_> = meters.map(row).collect();
    seal(from, counter, |writer| Measured::write_batch(&rows, InvokeId::confirmed(counter), writer))
}

pub(crate) fn seal(
    from: &Registration,
    counter: u32,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>,
) -> Vec<u8> {
    seal_as(SecurityControl::BOTH, from, counter, write)
}

pub(crate) fn seal_as(
    control: SecurityControl,
    from: &Registration,
    counter: u32,
    write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>,
) -> Vec<u8> {
    let mut plain = [0; 16_384];
    let mut writer = Writer::new(&mut plain);
    write(&mut writer).unwrap();
    let sealing =
        Sealing { control, title: from.title.0, invocation_counter: counter, keys: keys(from) };
    let (plain, mut frame) = (writer.written(), [0; 16_384]);
    Wrapper::frame(1, 0x10, &mut frame, |writer| sealing.general_glo(plain, writer))
        .unwrap()
        .to_vec()
}

/// Reads an acknowledgement as the device does: what it confirms.
#[track_caller]
pub(crate) fn confirmed(frame: &[u8], to: &Registration, counter: u32) -> u32 {
    let mut frame = frame.to_vec();
    let (wrapper, apdu) = Wrapper::datagram_mut(&mut frame).unwrap();
    assert_eq!((wrapper.source, wrapper.destination), (0x10, 1));
    let header = Ciphered::peek(apdu).unwrap();
    assert_eq!(header.title, Some(HEAD_END.0));
    assert_eq!((header.control, header.invocation_counter), (SecurityControl::BOTH, counter));
    let plain = header.open(apdu, HEAD_END.0, keys(to)).unwrap();
    Notification::parse_confirmation(plain).unwrap().0.id()
}

pub(crate) fn peer(node: &Node) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(node.udp).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buf = [0; 2048];
    let size = socket.recv(&mut buf).expect("an acknowledgement comes");
    buf[..size].to_vec()
}

pub(crate) fn meters_of(entries: &[Entry]) -> Vec<u32> {
    let meter = |entry: &Entry| {
        if let Entry::Reading(reading) = entry { Some(reading.meter.0) } else { None }
    };
    entries.iter().filter_map(meter).collect()
}
