//! Datagrams.

use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::harness::{
    Node, WALL, batch, check, config, confirmed, directory, gateway, measured, meter, meters_of,
    peer, receive, seal, seal_as, single,
};
use ingest::{Config, Device, FailureLimit, Outcome, Registration, Verdict};
use meter::wire::dlms::{InvokeId, Measured, SecurityControl};
use meter::{Energy, Entry, Fields, GatewayId, MeterId, Power, Reading, UnixSeconds, Voltage};

#[test]
fn a_reading_is_acknowledged_once_it_is_durable_and_not_before() {
    let node = Node::start();
    let socket = peer(&node);
    socket.send(&single(&meter(1), 7)).unwrap();
    let first = node.take();
    let want = Reading {
        meter: MeterId(1),
        taken_at: UnixSeconds(WALL.0 - 893),
        received_at: WALL,
        counter: 7,
        register: Energy::from_wh(1_007),
        voltage: [Voltage::from_mv(230_100), Voltage::default(), Voltage::default()],
        power: Power::from_w(-5),
        fields: Fields::VOLTAGE[0].with(Fields::POWER),
        ..Reading::default()
    };
    assert_eq!(first.entries, [Entry::Reading(want)]);
    // A second frame goes the whole way to the log while the first has no answer: had the first
    // been acknowledged, it would be the first thing to arrive here.
    socket.send(&single(&meter(2), 1)).unwrap();
    node.answer(node.take(), Verdict::Durable);
    assert_eq!(confirmed(&receive(&socket), &meter(2), 1), 1);
    node.until("one is in flight", |stats| stats.in_flight() == 1);
    node.answer(first, Verdict::Durable);
    assert_eq!(confirmed(&receive(&socket), &meter(1), 7), 7);
    let stats = node.shutdown();
    check(&stats, &[(Outcome::Accepted, 2)], "two readings");
    assert_eq!((stats.acks, stats.in_flight(), stats.kernel_drops), (2, 0, 0));
}

#[test]
fn what_asks_for_no_confirmation_gets_none() {
    let node = Node::start();
    let socket = peer(&node);
    let quiet = seal(&meter(1), 1, |w| measured(1).write_single(InvokeId::unconfirmed(1), w));
    socket.send(&quiet).unwrap();
    socket.send(&single(&meter(1), 2)).unwrap();
    node.commit(2);
    assert_eq!(confirmed(&receive(&socket), &meter(1), 2), 2);
    check(&node.shutdown(), &[(Outcome::Accepted, 2)], "one quiet");
}

#[test]
fn a_batch_of_a_gateway_is_one_frame() {
    let node = Node::start();
    let socket = peer(&node);
    socket.send(&batch(&gateway(1), 5, 101..=132)).unwrap();
    let entries = node.commit(33);
    assert_eq!(entries[0], Entry::Frame { gateway: GatewayId(1), counter: 5 });
    assert_eq!(meters_of(&entries), (101..=132).collect::<Vec<_>>());
    assert!(entries.iter().all(|entry| !matches!(entry, Entry::Reading(r) if r.counter != 0)));
    assert_eq!(confirmed(&receive(&socket), &gateway(1), 5), 5);
    check(&node.shutdown(), &[(Outcome::Accepted, 1)], "32 meters");
}

/// Whatever it is, it has exactly one outcome, changes nothing, and nothing comes back.
#[test]
fn refusals() {
    let long = vec![0; 4097];
    let with = |at: usize, byte: u8| {
        let mut frame = single(&meter(1), 1050);
        frame[at] = byte;
        frame
    };
    let wrong_key = Registration { encryption_key: [9; 16], ..meter(1) };
    let nobody = meter(50_000);
    let encrypted = SecurityControl::ENCRYPTED;
    let unsealed = seal_as(encrypted, &meter(1), 51, |w| measured(1).write_single(InvokeId(1), w));
    let cases: &[(&str, Vec<u8>, Outcome)] = &[
        ("empty", vec![], Outcome::BadWrapper),
        ("garbage", vec![0xA5; 99], Outcome::BadWrapper),
        ("wrapper version", with(1, 2), Outcome::BadWrapper),
        ("cut short", single(&meter(1), 1050)[..60].to_vec(), Outcome::BadWrapper),
        ("trailing byte", [single(&meter(1), 1050), vec![0]].concat(), Outcome::BadWrapper),
        ("too long", long, Outcome::Oversized),
        ("title of 7 bytes", with(9, 7), Outcome::BadSecurityHeader),
        ("unknown apdu", with(8, 0x77), Outcome::BadSecurityHeader),
        ("in the clear", with(8, 0x0F), Outcome::UnsupportedSecurity),
        ("dedicated key", with(8, 0xDC), Outcome::UnsupportedSecurity),
        ("suite 2", with(19, 0x32), Outcome::UnsupportedSecurity),
        ("without tag", unsealed, Outcome::UnsupportedSecurity),
        ("unknown device", single(&nobody, 50), Outcome::UnknownDevice),
        ("wrong key", single(&wrong_key, 1050), Outcome::BadTag),
        ("forged title", with(17, 2), Outcome::BadTag),
        ("changed counter", with(23, 0x1B), Outcome::BadTag),
        ("changed content", with(40, 0), Outcome::BadTag),
        ("counter 0", single(&meter(1), 0), Outcome::CounterTooOld),
        ("replay", single(&meter(1), 1000), Outcome::Replayed),
        ("rolled back", single(&meter(1), 936), Outcome::CounterTooOld),
        ("get-request", seal(&meter(1), 1001, |w| w.put(&[0xC0, 1, 0x41])), Outcome::WrongService),
        ("nothing inside", seal(&meter(1), 1002, |_| Ok(())), Outcome::WrongService),
        ("notification cut", plain_at(1003, &[0x0F, 0x40, 0]), Outcome::BadBody),
        ("body cut", plain_at(1004, &[0x0F, 0x40, 0, 0, 1, 0, 2, 10, 9]), Outcome::BadBody),
        ("foreign row", named_at(1005, 101), Outcome::BadBody),
        ("other gateway's meter", batch(&gateway(1), 3, 132..=201), Outcome::ForeignMeter),
        ("meter of no gateway", batch(&gateway(1), 4, [101, 1].into_iter()), Outcome::ForeignMeter),
        ("unknown meter", batch(&gateway(1), 5, [101, 777].into_iter()), Outcome::ForeignMeter),
        ("batch of none", batch(&gateway(1), 6, 0..0), Outcome::NotAReading),
    ];
    for (case, frame, outcome) in cases {
        let node = Node::start();
        let socket = peer(&node);
        socket.send(&single(&meter(1), 1000)).unwrap();
        node.commit(1);
        confirmed(&receive(&socket), &meter(1), 1000);
        socket.send(frame).unwrap();
        // What the refused frame had answered would come before this acknowledgement.
        socket.send(&single(&meter(3), 1)).unwrap();
        assert_eq!(meters_of(&node.commit(1)), [3], "{case}");
        assert_eq!(confirmed(&receive(&socket), &meter(3), 1), 1, "{case}");
        let stats = node.shutdown();
        check(&stats, &[(Outcome::Accepted, 2), (*outcome, 1)], case);
        assert_eq!((stats.frames, stats.acks), (3, 2), "{case}");
    }
}

fn plain_at(counter: u32, bytes: &[u8]) -> Vec<u8> {
    seal(&meter(1), counter, |w| w.put(bytes))
}

/// A meter that sends a gateway's form.
fn named_at(counter: u32, number: u32) -> Vec<u8> {
    let row = Measured { meter: Some(meter(number).title.0), ..measured(1) };
    seal(&meter(1), counter, |w| Measured::write_batch(&[row], InvokeId::confirmed(1), w))
}

#[test]
fn authenticated_in_the_clear_is_accepted() {
    let node = Node::start();
    let socket = peer(&node);
    let control = SecurityControl::AUTHENTICATED;
    let frame =
        seal_as(control, &meter(1), 9, |w| measured(9).write_single(InvokeId::confirmed(9), w));
    socket.send(&frame).unwrap();
    node.commit(1);
    assert_eq!(confirmed(&receive(&socket), &meter(1), 9), 9);
}

#[test]
fn out_of_order_within_the_window_is_accepted_once_each() {
    let node = Node::start();
    let socket = peer(&node);
    let order = [100, 37, 99, 40, 101, 38];
    for counter in order {
        socket.send(&single(&meter(1), counter)).unwrap();
    }
    node.commit(order.len());
    for counter in order {
        socket.send(&single(&meter(1), counter)).unwrap();
    }
    socket.send(&single(&meter(1), 37)).unwrap();
    socket.send(&single(&meter(1), 102)).unwrap();
    node.commit(1);
    // 37 fell out of the window when 101 came.
    let want = [(Outcome::Accepted, 7), (Outcome::Replayed, 5), (Outcome::CounterTooOld, 2)];
    let stats = node.until("answers counted", |stats| stats.in_flight() == 0);
    check(&stats, &want, "replays");
}

#[test]
fn restored_windows_refuse_what_the_log_knows() {
    let directory = directory();
    let windows =
        [(Device::Meter(MeterId(1)), 500, 0b11), (Device::Gateway(GatewayId(1)), 80, 0b1)];
    assert_eq!(directory.restore_windows(windows), 2);
    let node = Node::with(config(), Arc::new(directory), 64);
    let socket = peer(&node);
    for counter in [500, 499, 436] {
        socket.send(&single(&meter(1), counter)).unwrap();
    }
    socket.send(&batch(&gateway(1), 80, 101..=101)).unwrap();
    socket.send(&single(&meter(1), 498)).unwrap();
    socket.send(&batch(&gateway(1), 79, 101..=101)).unwrap();
    node.commit(3);
    let stats = node.until("answers counted", |stats| stats.in_flight() == 0);
    let want = [(Outcome::Accepted, 2), (Outcome::Replayed, 3), (Outcome::CounterTooOld, 1)];
    check(&stats, &want, "after a restart");
}

#[test]
fn what_the_log_refuses_is_not_acknowledged_and_may_come_again() {
    let node = Node::start();
    let socket = peer(&node);
    socket.send(&single(&meter(1), 1)).unwrap();
    node.answer(node.take(), Verdict::Refused);
    socket.send(&single(&meter(1), 2)).unwrap();
    node.commit(1);
    assert_eq!(confirmed(&receive(&socket), &meter(1), 2), 2);
    check(&node.shutdown(), &[(Outcome::Accepted, 1), (Outcome::RefusedByLog, 1)], "disk full");
}

/// The log takes nothing for a while: the sockets are not read, and nothing is lost.
#[test]
fn a_full_log_stops_the_reading_and_loses_nothing() {
    const FRAMES: u32 = 3_000;
    let config = Config { entries_max: 16, batches_in_flight_max: 4, ..config() };
    let node = Node::with(config, Arc::new(directory()), 1);
    let socket = peer(&node);
    for counter in 1..=FRAMES {
        socket.send(&single(&meter(1 + counter % 50), counter)).unwrap();
    }
    let stats = node.until("the shard stalls", |stats| stats.stalls > 0);
    assert!(stats.frames < u64::from(FRAMES), "{stats:?}");
    node.commit_and_receive(FRAMES as usize, &socket);
    let stats = node.shutdown();
    check(&stats, &[(Outcome::Accepted, FRAMES.into())], "back-pressure");
    assert_eq!((stats.acks, stats.kernel_drops), (FRAMES.into(), 0));
}

#[test]
fn a_failing_source_is_limited_and_its_honest_devices_are_not() {
    let failures = FailureLimit { burst: 3, per_s: 1 };
    let node = Node::with(Config { failures, ..config() }, Arc::new(directory()), 64);
    let (mixed, other) = (peer(&node), peer(&node));
    mixed.send(&single(&meter(1), 1)).unwrap();
    node.commit(1);
    receive(&mixed);
    let wrong_key = Registration { encryption_key: [9; 16], ..meter(5) };
    for counter in 1..=5 {
        mixed.send(&single(&wrong_key, counter)).unwrap();
    }
    // Not heard from here before, and not distinguishable from a guess.
    mixed.send(&single(&meter(2), 1)).unwrap();
    mixed.send(&single(&meter(1), 2)).unwrap();
    node.commit(1);
    assert_eq!(confirmed(&receive(&mixed), &meter(1), 2), 2);
    other.send(&single(&meter(2), 2)).unwrap();
    node.commit(1);
    receive(&other);
    node.pass(1_000);
    mixed.send(&single(&meter(3), 1)).unwrap();
    node.commit(1);
    receive(&mixed);
    let want = [(Outcome::Accepted, 4), (Outcome::BadTag, 3), (Outcome::RateLimited, 3)];
    check(&node.shutdown(), &want, "limited source");
}

/// Half of the traffic is hostile: all honest readings arrive, and nobody else is answered.
#[test]
fn a_flood_of_forgeries_costs_the_honest_nothing() {
    let node = Node::start();
    let (honest, hostile) = (peer(&node), UdpSocket::bind("127.0.0.1:0").unwrap());
    let wrong_key = Registration { authentication_key: [9; 16], ..meter(1) };
    let forged = single(&wrong_key, 1_000_000);
    let to = node.udp;
    thread::scope(|scope| {
        scope.spawn(|| {
            for counter in 1..=2_000_u32 {
                honest.send(&single(&meter(1 + counter % 50), counter)).unwrap();
                hostile.send_to(&forged, to).unwrap();
                hostile.send_to(&forged[..40], to).unwrap();
            }
        });
        node.commit_and_receive(2_000, &honest);
    });
    hostile.set_nonblocking(true).unwrap();
    assert!(hostile.recv(&mut [0; 64]).is_err(), "a forger was answered");
    let stats = node.shutdown();
    assert_eq!(stats.outcome(Outcome::Accepted), 2_000, "{stats:?}");
    assert_eq!(stats.frames, 6_000, "{stats:?}");
    let refused = stats.outcome(Outcome::BadTag) + stats.outcome(Outcome::RateLimited);
    assert_eq!(refused + stats.outcome(Outcome::BadWrapper), 4_000, "{stats:?}");
}

/// Two shards share the port and the windows: a frame sent through many sockets, so that both
/// shards see it, is accepted once.
#[test]
fn two_shards_accept_a_frame_once() {
    let config = Config { shards: 2, ..config() };
    let node = Node::with(config, Arc::new(directory()), 64);
    let sockets: Vec<_> = (0..16).map(|_| peer(&node)).collect();
    for counter in 1..=50 {
        let frame = single(&meter(1), counter);
        for socket in &sockets {
            socket.send(&frame).unwrap();
        }
    }
    let mut entries = Vec::new();
    while entries.len() < 50 {
        entries.extend(node.answer(node.take(), Verdict::Durable));
    }
    let stats =
        node.until("all are counted", |stats| stats.frames == 800 && stats.in_flight() == 0);
    check(&stats, &[(Outcome::Accepted, 50), (Outcome::Replayed, 750)], "two shards");
    assert_eq!(stats.entries, 50);
}

#[test]
fn devices_come_and_go_while_the_node_runs() {
    let node = Node::start();
    let socket = peer(&node);
    let late = meter(500);
    socket.send(&single(&late, 1)).unwrap();
    node.until("unknown yet", |stats| stats.outcome(Outcome::UnknownDevice) == 1);
    node.directory.register(&late).unwrap();
    socket.send(&single(&late, 1)).unwrap();
    node.commit(1);
    assert_eq!(confirmed(&receive(&socket), &late, 1), 1);
    let rekeyed = Registration { encryption_key: [4; 16], ..late };
    node.directory.register(&rekeyed).unwrap();
    socket.send(&single(&late, 2)).unwrap();
    node.until("old key", |stats| stats.outcome(Outcome::BadTag) == 1);
    socket.send(&single(&rekeyed, 1)).unwrap();
    node.commit(1);
    receive(&socket);
    assert!(node.directory.remove(late.title));
    socket.send(&single(&rekeyed, 2)).unwrap();
    node.until("removed", |stats| stats.outcome(Outcome::UnknownDevice) == 2);
}

#[test]
fn shutdown_waits_for_the_log_and_acknowledges() {
    let mut node = Node::start();
    let socket = peer(&node);
    socket.send(&single(&meter(1), 1)).unwrap();
    let first = node.take();
    let running = node.running();
    let stopped = thread::spawn(move || running.shutdown(Duration::from_secs(3600)));
    node.answer(first, Verdict::Durable);
    assert_eq!(confirmed(&receive(&socket), &meter(1), 1), 1);
    check(&stopped.join().unwrap(), &[(Outcome::Accepted, 1)], "drained");
}

#[test]
fn shutdown_does_not_wait_for_ever() {
    let node = Node::start();
    let socket = peer(&node);
    socket.send(&single(&meter(1), 1)).unwrap();
    let _unanswered = node.take();
    check(&node.shutdown(), &[(Outcome::Abandoned, 1)], "no answer");
}
