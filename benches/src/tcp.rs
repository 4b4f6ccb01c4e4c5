//! `tcp_gateway`: 3,125 gateways on a connection each send frames of 32 readings, each frame
//! acknowledged after the sync of the log; beside a bare mio reader of the same bytes.
//!
//! The frames are sealed beforehand. A frame's readings are those of 32 meters; the generator
//! writes a frame to each connection in turn and keeps a closed window on each.
//!
//! Sketch: a frame of 32 readings is 2.2 KB. The bare reader pays a system call and the copy; the
//! node pays AES-GCM of 2.2 KB (1 µs), 32 readings of the template (3 µs), the log's share, and
//! sealing and writing the acknowledgement (3 µs) besides.

#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ingest::{Device, Registration};
use meter::GatewayId;
use meter::wire::Writer;
use meter::wire::dlms::{InvokeId, Keys, Measured, Sealing, SecurityControl, Templates, Wrapper};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::udp::{Node, registration, template};

/// Meters behind a gateway, readings in a frame.
const ROWS: u32 = 32;
/// Frames of a connection on the way.
const WINDOW: u32 = 4;
/// Ordinals of gateways begin here, so that titles and keys differ from the meters'.
const GATEWAYS: u32 = 1 << 24;
const PATIENCE: Duration = Duration::from_secs(5);

/// Size of the load.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Gateways, a connection each.
    pub gateways: u32,
    /// Frames of each.
    pub frames: u32,
}

/// Both sides of one run.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Readings a second that the node acknowledged.
    pub node_per_s: u64,
    /// Readings a second that the bare reader read.
    pub bare_per_s: u64,
    /// Readings never acknowledged.
    pub lost: u64,
}

impl Report {
    /// The node ÷ the bare reader.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.node_per_s as f64 / self.bare_per_s.max(1) as f64
    }
}

/// Runs the bare reader and the node once each, with a log in `folder`, which must not exist.
///
/// # Errors
/// What sockets and files say.
pub fn run(load: Load, folder: &Path) -> io::Result<Report> {
    let frames = Frames::seal(load);
    let bare_per_s = bare(load, &frames)?;
    let registrations = registrations(load);
    let node = Node::start(load.gateways * ROWS, registrations, load.gateways, folder)?;
    let total = u64::from(load.gateways) * u64::from(load.frames);
    let (answered, took) = generate(load, &frames, node.tcp, Window::Acknowledged)?;
    node.stop();
    std::fs::remove_dir_all(folder)?;
    let rows = u64::from(ROWS);
    Ok(Report {
        node_per_s: per_s(answered * rows, took),
        bare_per_s,
        lost: (total - answered) * rows,
    })
}

/// Reads all frames and looks at nothing but their number of bytes.
fn bare(load: Load, frames: &Frames) -> io::Result<u64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let to = listener.local_addr()?;
    let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (told, count) = (Arc::clone(&stop), Arc::clone(&read));
    let reader = thread::Builder::new()
        .name("bare".into())
        .spawn(move || reader(&listener, &told, &count))?;
    let size = u64::try_from(frames.size).expect("a frame is small");
    let total = u64::from(load.gateways) * u64::from(load.frames) * size;
    let (_, took) = generate(load, frames, to, Window::Read(&read))?;
    stop.store(true, Ordering::Release);
    reader.join().expect("the reader does not panic")?;
    Ok(per_s(total / size * u64::from(ROWS), took))
}

fn reader(listener: &TcpListener, stop: &AtomicBool, count: &AtomicU64) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut streams: Vec<TcpStream> = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    while !stop.load(Ordering::Acquire) {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(streams.len()), Interest::READABLE)?;
            streams.push(stream);
        }
        poll.poll(&mut events, Some(Duration::from_millis(1)))?;
        for event in &events {
            let stream = &mut streams[event.token().0];
            while let Ok(size @ 1..) = stream.read(&mut chunk) {
                count.fetch_add(u64::try_from(size).expect("a size fits"), Ordering::Release);
            }
        }
    }
    Ok(())
}

/// Sealed frames, gateway by gateway.
struct Frames {
    bytes: Vec<u8>,
    size: usize,
    of_each: usize,
}

impl Frames {
    fn seal(load: Load) -> Self {
        let (mut bytes, mut size) = (Vec::new(), 0);
        for gateway in 0..load.gateways {
            for frame in 1..=load.frames {
                let sealed = seal(gateway, frame);
                size = sealed.len();
                bytes.extend(sealed);
            }
        }
        Self { bytes, size, of_each: usize::try_from(load.frames).expect("a count fits") }
    }

    fn get(&self, gateway: usize, frame: usize) -> &[u8] {
        let at = (gateway * self.of_each + frame) * self.size;
        &self.bytes[at..at + self.size]
    }
}

fn seal(gateway: u32, counter: u32) -> Vec<u8> {
    let row = |row: u32| {
        let number = gateway * ROWS + row + 1;
        Measured {
            meter: Some(registration(number, 0).title.0),
            taken_at: 1_700_000_000 + 900 * counter,
            register_wh: u64::from(number) * 1000 + u64::from(counter) * 100,
            voltage_mv: [Some(230_000), None, None],
            current_ma: [Some(1_500), None, None],
            power_w: Some(345),
            power_factor_milli: Some(980),
            frequency_mhz: Some(50_010),
            ..Measured::default()
        }
    };
    let rows: Vec<Measured> = (0..ROWS).map(row).collect();
    let identity = gateway_registration(gateway, 0);
    let (mut plain, mut frame) = ([0; 8192], [0; 8192]);
    let mut writer = Writer::new(&mut plain);
    Measured::write_batch(&rows, InvokeId::confirmed(counter), &mut writer).expect("fits");
    let plain = writer.written();
    let sealing = Sealing {
        control: SecurityControl::BOTH,
        title: identity.title.0,
        invocation_counter: counter,
        keys: Keys {
            encryption: &identity.encryption_key,
            authentication: &identity.authentication_key,
        },
    };
    Wrapper::frame(1, 1, &mut frame, |w| sealing.general_glo(plain, w)).expect("fits").to_vec()
}

fn registrations(load: Load) -> Vec<Registration> {
    let batch = Templates::built_in().find(Templates::BATCH).expect("is built in").0;
    let single = template();
    let gateways = (0..load.gateways).map(|gateway| gateway_registration(gateway, batch));
    let meters = (0..load.gateways * ROWS).map(|index| Registration {
        behind: GatewayId(index / ROWS + 1),
        ..registration(index + 1, single)
    });
    gateways.chain(meters).collect()
}

fn gateway_registration(gateway: u32, template: u16) -> Registration {
    let mut identity = registration(GATEWAYS + gateway, template);
    identity.device = Device::Gateway(GatewayId(gateway + 1));
    identity
}

/// A connection of the generator.
struct Lane {
    stream: TcpStream,
    /// Frames written, and bytes of the next that are written already.
    written: u32,
    part: usize,
    answered: u32,
    input: usize,
}

/// Bytes of an acknowledgement.
const ACK_SIZE: usize = 42;

/// What says how far the other side is.
#[derive(Clone, Copy)]
enum Window<'a> {
    /// Acknowledgements, each connection's own.
    Acknowledged,
    /// Bytes that the reader took of all connections.
    Read(&'a AtomicU64),
}

/// Sends all frames; how many were answered (or read), and how long that took.
fn generate(
    load: Load,
    frames: &Frames,
    to: SocketAddr,
    window: Window<'_>,
) -> io::Result<(u64, Duration)> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    let mut lanes = Vec::new();
    for index in 0..usize::try_from(load.gateways).expect("a count fits") {
        let stream = std::net::TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry().register(&mut stream, Token(index), Interest::READABLE)?;
        lanes.push(Lane { stream, written: 0, part: 0, answered: 0, input: 0 });
    }
    let total = u64::from(load.gateways) * u64::from(load.frames);
    let size = u64::try_from(frames.size).expect("a frame is small");
    let (began, mut moved_at) = (Instant::now(), Instant::now());
    let (mut written, mut answered) = (0_u64, 0_u64);
    while answered < total && moved_at.elapsed() < PATIENCE {
        let before = (written, answered);
        for (index, lane) in lanes.iter_mut().enumerate() {
            let is_open = match window {
                Window::Acknowledged => lane.written - lane.answered < WINDOW,
                Window::Read(_) => written - answered < u64::from(load.gateways * WINDOW),
            };
            if lane.written < load.frames && is_open {
                let frame = frames.get(index, usize::try_from(lane.written).expect("fits"));
                written += u64::from(lane.write(frame)?);
            }
        }
        poll.poll(&mut events, Some(Duration::ZERO))?;
        match window {
            Window::Acknowledged => {
                for event in &events {
                    answered += lanes[event.token().0].read()?;
                }
            }
            Window::Read(read) => answered = read.load(Ordering::Acquire) / size,
        }
        if before != (written, answered) {
            moved_at = Instant::now();
        }
    }
    Ok((answered, moved_at - began))
}

impl Lane {
    /// Writes a frame, or more of it; whether it is whole.
    fn write(&mut self, frame: &[u8]) -> io::Result<bool> {
        match self.stream.write(&frame[self.part..]) {
            Ok(size) => self.part += size,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let is_whole = self.part == frame.len();
        if is_whole {
            (self.part, self.written) = (0, self.written + 1);
        }
        Ok(is_whole)
    }

    /// Reads what is there; how many acknowledgements were completed.
    fn read(&mut self) -> io::Result<u64> {
        let mut chunk = [0; ACK_SIZE * 16];
        let before = self.input / ACK_SIZE;
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(size) => self.input += size,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let answered = self.input / ACK_SIZE - before;
        self.answered += u32::try_from(answered).expect("a window is small");
        Ok(u64::try_from(answered).expect("a count fits"))
    }
}

fn per_s(count: u64, took: Duration) -> u64 {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    count.saturating_mul(1_000_000) / micros
}
