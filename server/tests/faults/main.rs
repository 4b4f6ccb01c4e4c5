//! Abuse of a real node's sockets, in short: hostile traffic, replays after a kill, floods of
//! malformed frames, flapping and slow peers. `make soak` runs the long forms.
//!
//! Invariants: nothing that is not authenticated changes state or is answered; each input counts
//! in exactly one outcome; memory and files stay bounded.

mod formats;
mod node;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use loadgen::{Now, mix};
use node::{Node, drain, fleet, frames, now, socket, wait};

const SMALL: &str = "meters = 128\n[[group]]\nperiod_s = 900\n";
const SEED: u64 = 7;
/// Datagrams between two looks at the answers, so that no buffer overflows.
const BURST: usize = 64;

/// Frames that no key of the fleet made: spoilt tags, unknown titles, or noise.
fn hostile(frame: &[u8], draw: u64) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    match draw % 3 {
        0 => bytes.iter_mut().rev().take(12).for_each(|byte| *byte ^= 0x5A),
        1 => {
            // The system title follows the wrapper and three bytes of the ciphered APDU.
            let title = bytes.len().min(11 + 4);
            bytes[title] ^= 0xFF;
        }
        _ => bytes.iter_mut().enumerate().for_each(|(at, byte)| {
            *byte = mix(draw ^ at as u64).to_le_bytes()[0];
        }),
    }
    bytes
}

/// Sends a frame until it is acknowledged: the node has learnt the fleet. Every copy is counted
/// before the next.
fn known(node: &Node, socket: &UdpSocket, frame: &[u8]) {
    let mut sent = 0;
    wait("the meters to be known", || {
        socket.send(frame).expect("sent");
        sent += 1;
        wait("the frame to be counted", || node.all_outcomes() >= sent);
        drain(socket) > 0
    });
}

#[test]
fn half_of_the_traffic_is_hostile_and_no_honest_reading_is_lost() {
    let node = Node::start("");
    let (fleet, world) = fleet(SMALL);
    node.register(&fleet, &world);
    let (honest, liar) = (socket("127.0.0.1", node.meters), socket("127.0.0.2", node.meters));
    let frames = frames(&fleet, &world);
    known(&node, &honest, &frames[0]);
    let before = node.all_outcomes();
    let (mut acknowledged, mut sent) = (0, 0);
    for chunk in frames[1..].chunks(BURST) {
        for frame in chunk {
            honest.send(frame).expect("sent");
            liar.send(&hostile(frame, mix(SEED ^ sent))).expect("sent");
            sent += 1;
        }
        wait("acknowledgements", || {
            acknowledged += drain(&honest);
            acknowledged >= sent
        });
    }
    wait("every datagram to be counted", || node.all_outcomes() >= before + 2 * sent);
    assert_eq!(node.all_outcomes(), before + 2 * sent, "each input counts once");
    assert_eq!(drain(&liar), 0, "a frame without a key is not answered");
    let accepted = || node.metrics()["meterd_readings_total{verdict=\"accepted\"}"];
    wait("the books", || accepted() > sent);
    assert_eq!(accepted(), sent + 1);
    println!("F11 seed {SEED}: {sent} honest, {sent} hostile; lost 0, answered hostile 0");
}

#[test]
fn what_was_sent_before_a_kill_is_not_taken_again_after_it() {
    let mut node = Node::start("");
    let (fleet, world) = fleet(SMALL);
    node.register(&fleet, &world);
    let socket = socket("127.0.0.1", node.meters);
    let frames = frames(&fleet, &world);
    known(&node, &socket, &frames[0]);
    let mut acknowledged = 0;
    for chunk in frames[1..].chunks(BURST) {
        let before = acknowledged;
        chunk.iter().for_each(|frame| {
            socket.send(frame).expect("sent");
        });
        wait("acknowledgements", || {
            acknowledged += drain(&socket);
            acknowledged >= before + chunk.len() as u64
        });
    }
    node.kill();
    node.restart();
    let sent = frames.len() as u64;
    for chunk in frames.chunks(BURST) {
        let counted = node.all_outcomes();
        chunk.iter().for_each(|frame| {
            socket.send(frame).expect("sent");
        });
        wait("replays to be counted", || node.all_outcomes() >= counted + chunk.len() as u64);
    }
    let taken = [node.outcome("replayed"), node.outcome("counter_too_old")];
    assert_eq!(taken.iter().sum::<u64>(), sent, "{taken:?}");
    assert_eq!(node.outcome("accepted"), 0);
    println!("F12: {sent} frames replayed after SIGKILL, accepted 0");
}

#[test]
fn a_flood_of_malformed_datagrams_is_counted_and_survived() {
    const DATAGRAMS: u64 = 20_000;
    let mut node = Node::start("failures_per_minute_max = 4000000000");
    let (fleet, world) = fleet(SMALL);
    node.register(&fleet, &world);
    let socket = socket("127.0.0.1", node.meters);
    let frames = frames(&fleet, &world);
    let resident = node.resident_kib();
    for number in 0..DATAGRAMS {
        let draw = mix(SEED ^ number << 8);
        let mut bytes = frames[(draw % frames.len() as u64) as usize].clone();
        // A few bytes wrong, and any length.
        for index in 0..1 + draw % 4 {
            let at = mix(draw ^ index) as usize % bytes.len();
            bytes[at] ^= 1 + (draw >> 16) as u8 % 255;
        }
        if draw.is_multiple_of(5) {
            bytes.truncate(1 + mix(draw) as usize % bytes.len());
        }
        while socket.send(&bytes).is_err() {
            std::thread::yield_now();
        }
    }
    wait("every datagram to be counted", || node.all_outcomes() >= DATAGRAMS);
    assert_eq!(node.all_outcomes(), DATAGRAMS, "each input counts once");
    let taken = node.outcome("accepted");
    assert!(taken < DATAGRAMS / 20, "{taken} changed frames accepted");
    assert!(node.is_running());
    let grown = node.resident_kib().saturating_sub(resident);
    assert!(grown < 65_536, "{grown} KiB more");
    println!("F13 seed {SEED}: {DATAGRAMS} datagrams, each counted once; {grown} KiB more memory");
}

#[test]
fn flapping_peers_leave_nothing_behind_and_single_bytes_make_a_frame() {
    let node = Node::start("failures_per_minute_max = 4000000000");
    let (fleet, world) = fleet("meters = 64\n[[group]]\nlink = \"gateway\"\n");
    node.register(&fleet, &world);
    let mut gateway = fleet.gateway(&world, 1);
    let at = Now { clock: fleet.end(), wall: Duration::ZERO };
    gateway.link_up(at);
    let mut sealed = Vec::new();
    gateway.poll(&world, at, &mut |sent| sealed.push(sent.frame.to_vec()));
    let files = node.open_files();
    for number in 0..300_usize {
        let mut stream = TcpStream::connect(node.meters).expect("the node listens");
        let part = mix(SEED ^ number as u64) as usize % sealed[0].len();
        // The node may have closed it: some of the parts end a session.
        stream.write_all(&sealed[0][..part]).ok();
    }
    wait("the connections to be gone", || node.open_files() <= files + 4);
    let mut stream = TcpStream::connect(node.meters).expect("the node listens");
    stream.set_nodelay(true).expect("a socket can be set");
    stream.set_read_timeout(Some(node::PATIENCE)).expect("a socket can be set");
    for byte in &sealed[0] {
        stream.write_all(&[*byte]).expect("the node reads");
    }
    let mut answer = [0; 42];
    stream.read_exact(&mut answer).expect("an acknowledgement");
    wait("the frame to be counted", || node.outcome("accepted") == 1);
    println!("F14: 300 connections dropped, {files} files before, {} after", node.open_files());
}

#[test]
fn slow_clients_of_the_api_do_not_slow_readings_down() {
    let node = Node::start("");
    let (fleet, world) = fleet(SMALL);
    node.register(&fleet, &world);
    let socket = socket("127.0.0.1", node.meters);
    let frames = frames(&fleet, &world);
    known(&node, &socket, &frames[0]);
    let half = frames.len() / 2;
    let slowest = |frames: &[Vec<u8>]| {
        let mut slowest = Duration::ZERO;
        for frame in frames {
            let began = now();
            socket.send(frame).expect("sent");
            wait_closely(|| drain(&socket) > 0);
            slowest = slowest.max(began.elapsed());
        }
        slowest
    };
    let alone = slowest(&frames[1..half]);
    let mut slow = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(node.api).expect("the node listens");
        let start = match number % 2 {
            // Headers that do not end, and a body that does not come.
            0 => "GET /v1/meters HTTP/1.1\r\nhost: a\r\nx-slow: ".to_owned(),
            _ => format!("POST /v1/plans HTTP/1.1\r\ncontent-length: {}\r\n\r\n{{", u64::MAX / 4),
        };
        stream.write_all(start.as_bytes()).expect("sent");
        slow.push(stream);
    }
    let beside = slowest(&frames[half..]);
    assert!(beside < alone * 20 + Duration::from_secs(2), "{alone:?} alone, {beside:?} beside");
    assert_eq!(node.metrics()["meterd_ingest_kernel_drops_total"], 0);
    println!("F18: slowest acknowledgement {alone:?} alone, {beside:?} beside 200 slow clients");
}

/// As [`wait`], without a pause.
fn wait_closely(mut holds: impl FnMut() -> bool) {
    let until = now() + node::PATIENCE;
    while !holds() {
        assert!(now() < until, "no acknowledgement");
        std::thread::yield_now();
    }
}
