//! The feeder's week over real sockets, through its own faults, into a tiny node: what arrives is
//! what the expected books were made from.
#![expect(clippy::unwrap_used, reason = "a test may fail by unwrapping")]

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use loadgen::feeder::{Endpoints, Feeder, FeederRun};
use loadgen::{Seed, VirtualGateway, truth};
use meter::{Energy, IntervalQuality, UnixSeconds};
use node::{Books, Node, Steps};

const START: UnixSeconds = UnixSeconds(1_479_686_400);

#[test]
fn the_week_arrives_whole() {
    let feeder = Feeder::new(Seed(42), START);
    let (meters, gateways) = (feeder.direct_meters(), feeder.gateways());
    let behind = gateways.iter().flat_map(VirtualGateway::meters);
    let all: Vec<_> = meters.iter().chain(behind).collect();
    let books = Arc::new(Mutex::new(Books::new()));
    all.iter().for_each(|meter| books.lock().unwrap().register(meter.identity()));
    gateways.iter().for_each(|gateway| books.lock().unwrap().register(gateway.identity()));
    let titles: BTreeSet<String> =
        all.iter().map(|meter| meter.identity().title().to_string()).collect();
    let rows = feeder.import_rows();
    assert_eq!(rows.iter().map(|row| row.system_title.clone()).collect::<BTreeSet<_>>(), titles);

    let node = Node::start(&books, "127.0.0.1:0".parse().unwrap(), "127.0.0.1:0".parse().unwrap());
    let steps = Steps::new(START, 120);
    let endpoints = Endpoints { udp: node.udp, tcp: node.tcp };
    let mut run = FeederRun::new(&feeder, endpoints, steps.clocks()).unwrap();
    let mut asked: BTreeMap<String, u32> = BTreeMap::new();
    while !run.is_done() {
        assert!(steps.tick() < 60_000, "{}", run.report().to_json());
        let mut buy = |top_up: &loadgen::feeder::TopUp| {
            let times = asked.entry(top_up.idempotency_key.clone()).or_default();
            *times += 1;
            *times == 3
        };
        run.step(&mut buy).unwrap();
    }
    node.kill();

    let books = books.lock().unwrap();
    books.check_complete(all.iter().copied());
    assert_eq!(asked.len(), feeder.top_ups().len());
    assert!(asked.values().all(|times| *times == 3), "asked again until made, then never");

    let expected = feeder.expected(feeder.end());
    let report = run.report();
    assert_eq!((report.acknowledged, report.expected), (expected.readings, expected.readings));
    assert!(report.faults_up.lost > 0 && report.faults_up.reordered > 0 && report.retries > 0);
    let mut arrived: BTreeMap<String, BTreeMap<UnixSeconds, Energy>> = BTreeMap::new();
    for ((title, at), row) in &books.readings {
        let meter = arrived.entry(meter::SystemTitle(*title).to_string()).or_default();
        meter.insert(UnixSeconds(*at), Energy::from_wh(row.register_wh));
    }
    for row in &rows {
        let intervals = truth::intervals(&arrived[&row.system_title]);
        assert_eq!(intervals, feeder.expected_intervals(&row.serial), "{}", row.serial);
        assert!(intervals.values().all(|interval| interval.quality == IntervalQuality::Actual));
        let used: u64 = intervals.values().map(|interval| interval.energy.wh()).sum();
        assert_eq!(used, expected.energy[&row.serial].wh(), "{}", row.serial);
    }
}
