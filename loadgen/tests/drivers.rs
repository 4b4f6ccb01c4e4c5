//! Fleets against a tiny node over real sockets: whatever is lost, doubled, overtaken or cut, each
//! reading arrives and is confirmed once.
#![expect(clippy::unwrap_used, reason = "a test may fail by unwrapping")]

mod node;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use loadgen::driver::{DriverConfig, TcpFleet, UdpFleet};
use loadgen::faults::FaultPlan;
use loadgen::profile::Load;
use loadgen::proxy::FaultProxy;
use loadgen::report::Stats;
use loadgen::{MeterClock, MeterPlan, Retry, Seed, VirtualGateway, VirtualMeter, World};
use meter::{Energy, UnixSeconds};
use node::{Books, Node, Steps};

const START: UnixSeconds = UnixSeconds(1_479_686_400);
const STEPS_MAX: u64 = 60_000;

fn world() -> World {
    let retry = Retry { first: Duration::from_millis(40), max: Duration::from_millis(400) };
    World { seed: Seed(7), retry, window: 4, pace: 1 }
}

fn meters(ordinals: std::ops::Range<u32>, readings: u32) -> Vec<VirtualMeter> {
    let meter = |ordinal: u32| {
        let plan = MeterPlan {
            ordinal,
            load: Load {
                site: u8::try_from(ordinal % 111).unwrap(),
                days_ahead: 0,
                scale_milli: 1000,
            },
            phases: 3,
            first: START,
            last: START.plus((readings - 1) * 900),
            period_s: 900,
            send_delay_s: u16::try_from(ordinal % 300).unwrap(),
            start: Energy::from_wh(1000),
            register_digits: 8,
            clock: MeterClock::default(),
        };
        VirtualMeter::new(&world(), plan)
    };
    ordinals.map(meter).collect()
}

fn gateways(count: u32, readings: u32) -> Vec<VirtualGateway> {
    let gateway = |ordinal: u32| {
        let meters = meters(1000 + ordinal * 8..1008 + ordinal * 8, readings);
        VirtualGateway::new(&world(), ordinal, meters, 5)
    };
    (0..count).map(gateway).collect()
}

fn config(node: SocketAddr, faults: FaultPlan) -> DriverConfig {
    DriverConfig {
        node,
        sockets: 3,
        receive_buffer_bytes: 1 << 20,
        faults_up: faults,
        faults_down: faults,
        smear_ms: 0,
        reconnect: Duration::from_millis(20),
    }
}

const ROUGH: FaultPlan = FaultPlan {
    loss: 60,
    duplication: 60,
    reordering: 60,
    delay: 30,
    wrong_key: 0,
    replay: 0,
    garbage: 0,
    reorder_span: Duration::from_millis(3),
    delay_span: Duration::from_millis(120),
};

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn check_stats(stats: &Stats, books: &Books) {
    assert_eq!(stats.acknowledged, stats.expected);
    assert_eq!(books.readings.len() as u64, stats.expected);
    assert_eq!(stats.latency.len(), stats.frames_received - stats.repeated - stats.foreign);
    assert!(stats.rows_sent >= stats.expected);
}

#[test]
fn datagrams_through_every_fault() {
    let books = Arc::new(Mutex::new(Books::new()));
    let meters = meters(1..41, 60);
    meters.iter().for_each(|meter| books.lock().unwrap().register(meter.identity()));
    let node = Node::start(&books, loopback(), loopback());
    let hostile = FaultPlan { wrong_key: 20, replay: 20, garbage: 20, ..ROUGH };
    let steps = Steps::new(START, 300);
    let config = config(node.udp, hostile);
    let mut fleet = UdpFleet::new(&config, world(), meters, steps.clocks()).unwrap();
    while !fleet.stats().is_done() {
        assert!(steps.tick() < STEPS_MAX, "{:?}", fleet.stats());
        fleet.step(Duration::from_millis(1)).unwrap();
    }
    node.kill();
    let books = books.lock().unwrap();
    books.check_complete(fleet.meters().iter());
    check_stats(fleet.stats(), &books);
    let [up, down] = fleet.fault_counts();
    assert!(up.lost > 0 && up.garbage > 0 && up.wrong_key > 0 && down.duplicated > 0);
    assert!(fleet.stats().retries > 0 && books.duplicates > 0 && books.replayed > 0);
    assert!(fleet.meters().iter().all(VirtualMeter::is_done));
}

#[test]
fn gateways_through_loss_and_broken_connections() {
    let books = Arc::new(Mutex::new(Books::new()));
    let gateways = gateways(3, 60);
    for gateway in &gateways {
        books.lock().unwrap().register(gateway.identity());
        let meters = gateway.meters().iter();
        meters.for_each(|meter| books.lock().unwrap().register(meter.identity()));
    }
    let node = Node::start(&books, loopback(), loopback());
    let steps = Steps::new(START, 150);
    let mut fleet =
        TcpFleet::new(&config(node.tcp, ROUGH), world(), gateways, steps.clocks()).unwrap();
    while !fleet.stats().is_done() {
        let tick = steps.tick();
        assert!(tick < STEPS_MAX, "{:?}", fleet.stats());
        if tick % 97 == 96 {
            fleet.cut();
        }
        fleet.step(Duration::from_millis(1)).unwrap();
    }
    node.kill();
    let books = books.lock().unwrap();
    books.check_complete(fleet.gateways().flat_map(VirtualGateway::meters));
    check_stats(fleet.stats(), &books);
    assert!(fleet.stats().disconnects > 0 && fleet.stats().connects > 3);
    assert!(fleet.gateways().all(VirtualGateway::is_done));
}

#[test]
fn a_node_that_dies_and_returns_gets_everything() {
    let books = Arc::new(Mutex::new(Books::new()));
    let (meters, gateways) = (meters(1..21, 60), gateways(2, 60));
    for gateway in &gateways {
        books.lock().unwrap().register(gateway.identity());
        let meters = gateway.meters().iter();
        meters.for_each(|meter| books.lock().unwrap().register(meter.identity()));
    }
    meters.iter().for_each(|meter| books.lock().unwrap().register(meter.identity()));
    let steps = Steps::new(START, 60);
    let mut node = Node::start(&books, loopback(), loopback());
    let (udp_addr, tcp_addr) = (node.udp, node.tcp);
    let calm = FaultPlan::default();
    let mut udp = UdpFleet::new(&config(udp_addr, calm), world(), meters, steps.clocks()).unwrap();
    let mut tcp =
        TcpFleet::new(&config(tcp_addr, calm), world(), gateways, steps.clocks()).unwrap();
    while !(udp.stats().is_done() && tcp.stats().is_done()) {
        let tick = steps.tick();
        assert!(tick < STEPS_MAX, "{:?} {:?}", udp.stats(), tcp.stats());
        if tick % 250 == 249 {
            node.kill();
            for _ in 0..30 {
                steps.tick();
                udp.step(Duration::ZERO).unwrap();
                tcp.step(Duration::ZERO).unwrap();
            }
            node = Node::start(&books, udp_addr, tcp_addr);
        }
        udp.step(Duration::from_millis(1)).unwrap();
        tcp.step(Duration::from_millis(1)).unwrap();
    }
    node.kill();
    let books = books.lock().unwrap();
    let behind = tcp.gateways().flat_map(VirtualGateway::meters);
    books.check_complete(udp.meters().iter().chain(behind));
    assert!(tcp.stats().disconnects > 0);
}

#[test]
fn a_proxy_in_the_middle_loses_doubles_and_breaks_and_all_arrives() {
    let books = Arc::new(Mutex::new(Books::new()));
    let (meters, gateways) = (meters(1..21, 40), gateways(2, 40));
    for gateway in &gateways {
        books.lock().unwrap().register(gateway.identity());
        let meters = gateway.meters().iter();
        meters.for_each(|meter| books.lock().unwrap().register(meter.identity()));
    }
    meters.iter().for_each(|meter| books.lock().unwrap().register(meter.identity()));
    let steps = Steps::new(START, 60);
    // A proxy has one address for both ways, hence two of them here.
    let node = Node::start(&books, loopback(), loopback());
    let proxy = |to| FaultProxy::bind(loopback(), to, ROUGH, Seed(9), steps.clocks()).unwrap();
    let (mut udp_proxy, mut tcp_proxy) = (proxy(node.udp), proxy(node.tcp));
    let calm = FaultPlan::default();
    let to = udp_proxy.address().unwrap();
    let mut udp = UdpFleet::new(&config(to, calm), world(), meters, steps.clocks()).unwrap();
    let to = tcp_proxy.address().unwrap();
    let mut tcp = TcpFleet::new(&config(to, calm), world(), gateways, steps.clocks()).unwrap();
    while !(udp.stats().is_done() && tcp.stats().is_done()) {
        assert!(steps.tick() < STEPS_MAX, "{:?} {:?}", udp.stats(), tcp.stats());
        udp_proxy.step(Duration::ZERO).unwrap();
        tcp_proxy.step(Duration::ZERO).unwrap();
        udp.step(Duration::from_millis(1)).unwrap();
        tcp.step(Duration::ZERO).unwrap();
    }
    node.kill();
    let books = books.lock().unwrap();
    let behind = tcp.gateways().flat_map(VirtualGateway::meters);
    books.check_complete(udp.meters().iter().chain(behind));
    let ([up, down], _) = udp_proxy.counts();
    assert!(up.lost > 0 && up.duplicated > 0 && down.lost > 0);
    assert!(tcp_proxy.counts().1 > 0, "connections were broken");
}
