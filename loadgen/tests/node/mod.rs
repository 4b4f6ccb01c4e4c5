//! A tiny node: it opens frames under the right keys, keeps what they say, confirms it. Nothing of
//! it is shared with the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use loadgen::driver::Clocks;
use loadgen::{Identity, VirtualMeter};
use meter::UnixSeconds;
use meter::wire::Writer;
use meter::wire::dlms::{
    Ciphered, Measured, Notification, Sealing, SecurityControl, Templates, Wrapper,
};

const HEAD_END: [u8; 8] = *b"MTDHES01";

/// What the node knows and keeps; it outlives a crash, as a log does.
pub(crate) struct Books {
    templates: Templates,
    devices: BTreeMap<[u8; 8], Identity>,
    seen: BTreeSet<([u8; 8], u32)>,
    pub(crate) readings: BTreeMap<([u8; 8], u32), Measured>,
    pub(crate) duplicates: u64,
    pub(crate) conflicts: u64,
    pub(crate) replayed: u64,
    pub(crate) refused: u64,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            templates: Templates::built_in(),
            devices: BTreeMap::new(),
            seen: BTreeSet::new(),
            readings: BTreeMap::new(),
            duplicates: 0,
            conflicts: 0,
            replayed: 0,
            refused: 0,
        }
    }

    pub(crate) fn register(&mut self, identity: &Identity) {
        self.devices.insert(identity.title().0, identity.clone());
    }

    /// Takes a frame; the confirmation to send.
    pub(crate) fn take(&mut self, frame: &mut [u8]) -> Option<Vec<u8>> {
        let answer = self.answer(frame);
        if answer.is_none() {
            self.refused += 1;
        }
        answer
    }

    fn answer(&mut self, frame: &mut [u8]) -> Option<Vec<u8>> {
        let (wrapper, apdu) = Wrapper::datagram_mut(frame).ok()?;
        let header = Ciphered::peek(apdu).ok()?;
        let title = header.title?;
        let identity = self.devices.get(&title)?.clone();
        let plain = header.open(apdu, title, identity.keys()).ok()?;
        let push = Notification::parse(plain).ok()?;
        if !self.seen.insert((title, header.invocation_counter)) {
            self.replayed += 1;
            return None;
        }
        let is_gateway = title[3] == 0xFE;
        let name = if is_gateway { Templates::BATCH } else { Templates::SINGLE };
        let template = self.templates.get(self.templates.find(name).unwrap()).unwrap();
        let mut rows = Vec::new();
        template.run(&push, |row| rows.push(*row)).ok()?;
        for row in rows {
            self.keep(row.meter.unwrap_or(title), row);
        }
        assert!(push.invoke_id.wants_confirmation());
        let (mut plain, mut sealed) = ([0; 16], [0; 128]);
        let mut writer = Writer::new(&mut plain);
        Notification::write_confirmation(&mut writer, push.invoke_id, None).unwrap();
        let sealing = Sealing {
            control: SecurityControl::BOTH,
            title: HEAD_END,
            invocation_counter: header.invocation_counter,
            keys: identity.keys(),
        };
        let plain = writer.written();
        let frame = Wrapper::frame(wrapper.destination, wrapper.source, &mut sealed, |writer| {
            sealing.general_glo(plain, writer)
        });
        Some(frame.unwrap().to_vec())
    }

    fn keep(&mut self, meter: [u8; 8], row: Measured) {
        match self.readings.insert((meter, row.taken_at), Measured { meter: None, ..row }) {
            None => {}
            Some(before) if before.register_wh == row.register_wh => self.duplicates += 1,
            Some(_) => self.conflicts += 1,
        }
    }

    /// Every reading of these meters is here once, with the register the meter shows.
    pub(crate) fn check_complete<'m>(&self, meters: impl Iterator<Item = &'m VirtualMeter>) {
        let mut count = 0;
        for meter in meters {
            let plan = meter.plan();
            let mut at = plan.first;
            while at <= plan.last {
                let key = (meter.identity().title().0, at.0);
                let kept = self.readings.get(&key).map(|row| row.register_wh);
                assert_eq!(kept, Some(meter.register(at).wh()), "meter {} at {at}", plan.ordinal);
                at = at.plus(plan.period_s);
                count += 1;
            }
        }
        assert_eq!(self.readings.len(), count);
        assert_eq!(self.conflicts, 0);
    }
}

/// The running node.
pub(crate) struct Node {
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

const PATIENCE: Duration = Duration::from_millis(5);

impl Node {
    /// Starts on these addresses (port 0: any).
    pub(crate) fn start(books: &Arc<Mutex<Books>>, udp: SocketAddr, tcp: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let socket = UdpSocket::bind(udp).unwrap();
        let listener = TcpListener::bind(tcp).unwrap();
        let (udp, tcp) = (socket.local_addr().unwrap(), listener.local_addr().unwrap());
        let threads = vec![
            std::thread::spawn({
                let (books, stop) = (Arc::clone(books), Arc::clone(&stop));
                move || serve_datagrams(&socket, &books, &stop)
            }),
            std::thread::spawn({
                let (books, stop) = (Arc::clone(books), Arc::clone(&stop));
                move || serve_streams(&listener, &books, &stop)
            }),
        ];
        Self { udp, tcp, stop, threads }
    }

    /// Stops; what was not answered is lost.
    pub(crate) fn kill(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
    }
}

fn serve_datagrams(socket: &UdpSocket, books: &Mutex<Books>, stop: &AtomicBool) {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((size, from)) = socket.recv_from(&mut buf) else { continue };
        if let Some(answer) = books.lock().unwrap().take(&mut buf[..size]) {
            socket.send_to(&answer, from).unwrap_or_default();
        }
    }
}

fn serve_streams(listener: &TcpListener, books: &Arc<Mutex<Books>>, stop: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).unwrap();
    let mut threads = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::yield_now();
            continue;
        };
        let (books, stop) = (Arc::clone(books), Arc::clone(stop));
        threads.push(std::thread::spawn(move || serve_stream(stream, &books, &stop)));
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn serve_stream(mut stream: TcpStream, books: &Mutex<Books>, stop: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut input, mut chunk) = (Vec::new(), [0; 4096]);
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut chunk) {
            Ok(0) => return,
            Ok(size) => input.extend(&chunk[..size]),
            Err(_) => continue,
        }
        while let Ok(Some(size)) = Wrapper::stream_size(&input, 8192) {
            if input.len() < size {
                break;
            }
            let mut frame: Vec<u8> = input.drain(..size).collect();
            let answer = books.lock().unwrap().take(&mut frame);
            if answer.is_some_and(|answer| stream.write_all(&answer).is_err()) {
                return;
            }
        }
    }
}

/// Clocks that move by a millisecond a step and never by themselves.
#[derive(Clone)]
pub(crate) struct Steps {
    ticks: Arc<AtomicU64>,
    start: UnixSeconds,
    seconds_per_tick: u32,
}

impl Steps {
    pub(crate) fn new(start: UnixSeconds, seconds_per_tick: u32) -> Self {
        Self { ticks: Arc::new(AtomicU64::new(0)), start, seconds_per_tick }
    }

    pub(crate) fn tick(&self) -> u64 {
        self.ticks.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn clocks(&self) -> Clocks {
        let (by_time, by_wall) = (self.clone(), Arc::clone(&self.ticks));
        Clocks {
            time_ms: Arc::new(move || {
                let ticks = u32::try_from(by_time.ticks.load(Ordering::Relaxed)).unwrap();
                u64::from(by_time.start.plus(ticks.saturating_mul(by_time.seconds_per_tick)).0)
                    * 1000
            }),
            wall: Arc::new(move || Duration::from_millis(by_wall.load(Ordering::Relaxed))),
        }
    }
}
