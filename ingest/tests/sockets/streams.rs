//! TCP connections.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use ingest::{Config, Ending, FailureLimit, Outcome, Registration, Stats, Verdict};
use meter::wire::dlms::{InvokeId, Measured};
use meter::{Entry, EventCode, GatewayId, MeterEvent, Subject};
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Node, PATIENCE, WALL, batch, check, config, confirmed, directory, gateway, meter, meters_of,
    seal, single,
};

const ACK_SIZE: usize = 42;

fn connect(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.tcp).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

fn acknowledgement(stream: &mut TcpStream) -> Vec<u8> {
    let mut frame = vec![0; ACK_SIZE];
    stream.read_exact(&mut frame).expect("an acknowledgement comes");
    frame
}

/// Nothing comes any more, and the other side closed.
#[track_caller]
fn closed(stream: &mut TcpStream, case: &str) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => {}
        // Closed with bytes of ours unread.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{case}: {error}"),
    }
    assert!(rest.is_empty(), "{case}: {rest:02x?}");
}

#[track_caller]
fn check_endings(stats: &Stats, want: &[(Ending, u64)], case: &str) {
    for ending in Ending::ALL {
        let want = want.iter().find(|(of, _)| of == ending).map_or(0, |(_, count)| *count);
        assert_eq!(stats.ending(*ending), want, "{case}: {ending:?} of {stats:?}");
    }
    assert_eq!((stats.connections, stats.sessions), (0, 0), "{case}");
}

fn link(code: EventCode, number: u32) -> Entry {
    Entry::Event(MeterEvent {
        subject: Subject::Gateway(GatewayId(number)),
        code,
        taken_at: WALL,
        received_at: WALL,
        counter: 0,
    })
}

#[test]
fn a_session_of_a_gateway() {
    let node = Node::start();
    let mut stream = connect(&node);
    stream.write_all(&batch(&gateway(1), 1, 101..=132)).unwrap();
    let held = node.take();
    assert_eq!(held.entries.len(), 34);
    assert_eq!(held.entries[0], link(EventCode::LinkUp, 1));
    assert_eq!(held.entries[1], Entry::Frame { gateway: GatewayId(1), counter: 1 });
    assert_eq!(meters_of(&held.entries), (101..=132).collect::<Vec<_>>());
    // A meter's own frame through the same session, acknowledged before the batch is.
    stream.write_all(&single(&meter(107), 5)).unwrap();
    node.commit(1);
    assert_eq!(confirmed(&acknowledgement(&mut stream), &meter(107), 5), 5);
    node.answer(held, Verdict::Durable);
    assert_eq!(confirmed(&acknowledgement(&mut stream), &gateway(1), 1), 1);
    assert_eq!(node.stats().sessions, 1);
    drop(stream);
    assert_eq!(node.commit(1), [link(EventCode::LinkDown, 1)]);
    let stats = node.shutdown();
    check(&stats, &[(Outcome::Accepted, 2)], "session");
    check_endings(&stats, &[(Ending::Closed, 1)], "session");
}

/// However the bytes are cut, the frames are the same.
#[test]
fn frames_are_found_however_the_stream_is_cut() {
    let frames: Vec<_> = (1..=5)
        .map(|counter| single(&meter(counter), counter))
        .chain([batch(&gateway(1), 6, 101..=132), single(&meter(9), 1)])
        .collect();
    let bytes = frames.concat();
    for piece in [1, 7, 8, 9, 96, 100, 1000, bytes.len()] {
        let node = Node::start();
        let mut stream = connect(&node);
        for part in bytes.chunks(piece) {
            stream.write_all(part).unwrap();
        }
        let entries = node.commit(5 + 34 + 1);
        let meters: Vec<_> = (1..=5).chain(101..=132).chain([9]).collect();
        assert_eq!(meters_of(&entries), meters, "pieces of {piece}");
        for frame in 0..frames.len() {
            assert_eq!(acknowledgement(&mut stream).len(), ACK_SIZE, "pieces of {piece}, {frame}");
        }
        let stats = node.shutdown();
        check(&stats, &[(Outcome::Accepted, 7)], "cut");
        check_endings(&stats, &[(Ending::Shutdown, 1)], "cut");
    }
}

/// Whatever it is, it has exactly one outcome, nothing comes back, and the connection ends.
#[test]
fn refusals() {
    let wrong_key = Registration { encryption_key: [9; 16], ..meter(1) };
    let with = |at: usize, byte: u8| {
        let mut frame = single(&meter(1), 1050);
        frame[at] = byte;
        frame
    };
    let get = seal(&meter(1), 1001, |w| w.put(&[0xC0, 1, 0x41]));
    let cases: &[(&str, Vec<u8>, Outcome)] = &[
        ("garbage", vec![0xA5; 500], Outcome::BadWrapper),
        ("http", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Outcome::BadWrapper),
        ("empty apdu", vec![0, 1, 0, 1, 0, 1, 0, 0], Outcome::BadWrapper),
        ("64 KiB claimed", vec![0, 1, 0, 1, 0, 1, 0xFF, 0xFF], Outcome::Oversized),
        ("one over the limit", vec![0, 1, 0, 1, 0, 1, 0x0F, 0xF9], Outcome::Oversized),
        ("in the clear", with(8, 0x0F), Outcome::UnsupportedSecurity),
        ("association", with(8, 0x60), Outcome::UnsupportedSecurity),
        ("title of 7 bytes", with(9, 7), Outcome::BadSecurityHeader),
        ("unknown", single(&meter(50_000), 1), Outcome::UnknownDevice),
        ("wrong key", single(&wrong_key, 1050), Outcome::BadTag),
        ("replay", single(&meter(1), 1000), Outcome::Replayed),
        ("rolled back", single(&meter(1), 900), Outcome::CounterTooOld),
        ("get-request", get, Outcome::WrongService),
        ("foreign meter", batch(&gateway(1), 3, 132..=201), Outcome::ForeignMeter),
    ];
    for (case, frame, outcome) in cases {
        let node = Node::start();
        let mut stream = connect(&node);
        stream.write_all(&single(&meter(1), 1000)).unwrap();
        node.commit(1);
        acknowledgement(&mut stream);
        stream.write_all(frame).unwrap();
        closed(&mut stream, case);
        let stats = node.shutdown();
        check(&stats, &[(Outcome::Accepted, 1), (*outcome, 1)], case);
        check_endings(&stats, &[(Ending::Refused, 1)], case);
        assert_eq!((stats.frames, stats.entries), (2, 1), "{case}");
    }
}

#[test]
fn an_authentic_frame_without_reading_does_not_end_the_session() {
    let node = Node::start();
    let mut stream = connect(&node);
    stream.write_all(&batch(&gateway(1), 1, 0..0)).unwrap();
    stream.write_all(&batch(&gateway(1), 2, 101..=101)).unwrap();
    node.commit(3);
    assert_eq!(confirmed(&acknowledgement(&mut stream), &gateway(1), 2), 2);
    check(&node.shutdown(), &[(Outcome::Accepted, 1), (Outcome::NotAReading, 1)], "no reading");
}

#[test]
fn a_session_belongs_to_one_gateway() {
    let node = Node::start();
    let mut stream = connect(&node);
    stream.write_all(&batch(&gateway(1), 1, 101..=101)).unwrap();
    node.commit(3);
    acknowledgement(&mut stream);
    stream.write_all(&batch(&gateway(2), 1, 201..=201)).unwrap();
    closed(&mut stream, "foreign gateway");
    assert_eq!(node.commit(1), [link(EventCode::LinkDown, 1)]);
    check(&node.shutdown(), &[(Outcome::Accepted, 1), (Outcome::ForeignGateway, 1)], "two");
}

/// A gateway that connects anew while its old connection lingers was never down.
#[test]
fn the_link_is_up_while_any_session_lasts() {
    let node = Node::start();
    let (mut old, mut new) = (connect(&node), connect(&node));
    old.write_all(&batch(&gateway(1), 1, 101..=101)).unwrap();
    assert_eq!(node.commit(3)[0], link(EventCode::LinkUp, 1));
    new.write_all(&batch(&gateway(1), 2, 101..=101)).unwrap();
    assert!(matches!(node.commit(2)[0], Entry::Frame { .. }));
    drop(old);
    node.until("old one closed", |stats| stats.connections == 1);
    new.write_all(&batch(&gateway(1), 3, 101..=101)).unwrap();
    assert!(matches!(node.commit(2)[0], Entry::Frame { .. }));
    drop(new);
    assert_eq!(node.commit(1), [link(EventCode::LinkDown, 1)]);
}

#[test]
fn deadlines() {
    struct Case(&'static str, Session, usize, u64, Ending, u64);
    #[derive(Clone, Copy, PartialEq)]
    enum Session {
        No,
        Yes,
    }
    let half = &single(&meter(1), 2)[..50];
    for Case(case, session, size, ms, ending, truncated) in [
        Case("says nothing", Session::No, 0, 5_001, Ending::HelloDeadline, 0),
        Case("trickles", Session::No, 50, 2_001, Ending::FrameDeadline, 1),
        Case("stops within a frame", Session::Yes, 50, 2_001, Ending::FrameDeadline, 1),
        Case("falls silent", Session::Yes, 0, 60_001, Ending::Idle, 0),
    ] {
        let node = Node::start();
        let mut stream = connect(&node);
        if session == Session::Yes {
            stream.write_all(&single(&meter(1), 1)).unwrap();
            node.commit(1);
            acknowledgement(&mut stream);
        }
        stream.write_all(&half[..size]).unwrap();
        // Another connection's frame is read after these bytes were: both are on one loop.
        let mut witness = connect(&node);
        witness.write_all(&single(&meter(2), 1)).unwrap();
        node.commit(1);
        acknowledgement(&mut witness);
        let before = u64::from(session == Session::Yes) + 1;
        node.pass(ms - 2);
        witness.write_all(&single(&meter(2), 2)).unwrap();
        node.commit(1);
        acknowledgement(&mut witness);
        assert_eq!(node.stats().ending(ending), 0, "{case}: too early");
        node.pass(1_000);
        closed(&mut stream, case);
        let stats = node.shutdown();
        let want = [(Outcome::Accepted, before + 1), (Outcome::Truncated, truncated)];
        check(&stats, &want, case);
        check_endings(&stats, &[(ending, 1), (Ending::Shutdown, 1)], case);
    }
}

#[test]
fn a_stream_that_ends_within_a_frame_is_counted() {
    let node = Node::start();
    let mut stream = connect(&node);
    stream.write_all(&single(&meter(1), 1)).unwrap();
    stream.write_all(&single(&meter(1), 2)[..50]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    closed(&mut stream, "half a frame");
    node.commit(1);
    let stats = node.until("closed", |stats| stats.in_flight() == 0 && stats.connections == 0);
    check(&stats, &[(Outcome::Accepted, 1), (Outcome::Truncated, 1)], "half a frame");
    assert_eq!((stats.acks, stats.acks_lost), (0, 1));
}

#[test]
fn connections_and_sessions_have_limits() {
    let config = Config { connections_max: 3, sessions_max: 2, ..config() };
    let node = Node::with(config, Arc::new(directory()), 64);
    let mut streams: Vec<_> = (0..3).map(|_| connect(&node)).collect();
    node.until("three are in", |stats| stats.connections == 3);
    closed(&mut connect(&node), "one too many");
    for (number, stream) in (1..).zip(&mut streams) {
        stream.write_all(&single(&meter(number), 1)).unwrap();
    }
    node.commit(2);
    let stats = node.until("one refused", |stats| stats.outcome(Outcome::SessionLimit) == 1);
    assert_eq!((stats.connections, stats.sessions), (2, 2));
    drop(streams);
    node.until("room again", |stats| stats.connections == 0 && stats.sessions == 0);
    let mut stream = connect(&node);
    stream.write_all(&single(&meter(9), 1)).unwrap();
    node.commit(1);
    acknowledgement(&mut stream);
}

#[test]
fn a_source_that_fails_too_often_is_not_let_in() {
    let failures = FailureLimit { burst: 2, per_s: 1 };
    let node = Node::with(Config { failures, ..config() }, Arc::new(directory()), 64);
    for _ in 0..2 {
        let mut stream = connect(&node);
        stream.write_all(&single(&meter(50_000), 1)).unwrap();
        closed(&mut stream, "unknown");
    }
    closed(&mut connect(&node), "limited");
    // The round that sent it away is over: the next one goes by the new time.
    node.until("limited", |stats| stats.ending(Ending::RateLimited) == 1);
    node.pass(1_000);
    let mut stream = connect(&node);
    stream.write_all(&single(&meter(1), 1)).unwrap();
    node.commit(1);
    acknowledgement(&mut stream);
    let stats = node.shutdown();
    check(&stats, &[(Outcome::Accepted, 1), (Outcome::UnknownDevice, 2)], "limited");
    let want = [(Ending::Refused, 2), (Ending::RateLimited, 1), (Ending::Shutdown, 1)];
    check_endings(&stats, &want, "limited");
}

/// Who does not read its acknowledgements is sent away before they fill the memory.
#[test]
fn a_slow_reader_is_sent_away() {
    let node = Node::start();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&node.tcp.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let mut counters = 1..;
    while node.stats().connections == 1 || counters.start == 1 {
        let frames: Vec<_> =
            counters.by_ref().take(64).map(|counter| single(&meter(1), counter)).collect();
        // Refused once the node closed the connection.
        let _closed = stream.write_all(&frames.concat());
        while let Some(batch) = node.take_soon() {
            node.answer(batch, Verdict::Durable);
        }
    }
    let stats = node.until("sent away", |stats| stats.connections == 0);
    assert_eq!(stats.ending(Ending::SlowReader), 1, "{stats:?}");
}

/// The log takes nothing for a while: connections are not read, and nothing is lost.
#[test]
fn a_full_log_stops_the_reading_and_loses_nothing() {
    let config = Config { entries_max: 16, batches_in_flight_max: 4, ..config() };
    let node = Node::with(config, Arc::new(directory()), 1);
    let mut streams: Vec<_> = (0..4).map(|_| connect(&node)).collect();
    for (number, stream) in (1..).zip(&mut streams) {
        let frames: Vec<_> = (1..=200).map(|counter| single(&meter(number), counter)).collect();
        stream.write_all(&frames.concat()).unwrap();
    }
    let stats = node.until("the shard stalls", |stats| stats.stalls > 0);
    assert!(stats.frames < 800, "{stats:?}");
    // Frames that wait here are not late, however long it takes.
    node.pass(30_000);
    node.commit(800);
    for stream in &mut streams {
        (0..200).for_each(|_| drop(acknowledgement(stream)));
    }
    check(&node.shutdown(), &[(Outcome::Accepted, 800)], "back-pressure");
}

/// Gateways that connect, say half a frame or a whole one, and go, over and over.
#[test]
fn flapping_connections_leave_nothing_behind() {
    let open_files = || fs::read_dir("/proc/self/fd").unwrap().count();
    let node = Node::start();
    let before = open_files();
    for counter in 1..=300 {
        let mut stream = connect(&node);
        let frame = batch(&gateway(1), counter, 101..=101);
        let cut = if counter % 2 == 0 { 30 } else { frame.len() };
        stream.write_all(&frame[..cut]).unwrap();
        drop(stream);
        if cut == frame.len() {
            // Up, frame, reading, down.
            node.commit(4);
        }
    }
    let stats = node.until("all gone", |stats| {
        stats.connections == 0 && stats.ending(Ending::Closed) == 300 && stats.in_flight() == 0
    });
    // Other tests of this process open and close files meanwhile; 300 would show.
    assert!(open_files() < before + 100, "{before} files before, {} after", open_files());
    check(&stats, &[(Outcome::Accepted, 150), (Outcome::Truncated, 150)], "flapping");
    check_endings(&stats, &[(Ending::Closed, 300)], "flapping");
}

#[test]
fn a_large_frame_of_a_gateway_arrives() {
    let config = Config { frame_bytes_max: 16_000, ..config() };
    let node = Node::with(config, Arc::new(directory()), 64);
    let mut stream = connect(&node);
    let rows: Vec<_> = (0..200)
        .map(|index| Measured {
            meter: Some(meter(101 + index % 32).title.0),
            taken_at: WALL.0 - index,
            register_wh: 5,
            ..Measured::default()
        })
        .collect();
    let frame = seal(&gateway(1), 1, |w| Measured::write_batch(&rows, InvokeId::confirmed(1), w));
    stream.write_all(&frame).unwrap();
    assert_eq!(meters_of(&node.commit(202)).len(), 200);
    acknowledgement(&mut stream);
}
