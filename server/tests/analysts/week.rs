//! The simulator's week, through the books, in a ClickHouse.

use std::sync::{Arc, OnceLock};

use dataflow::Engine;
use loadgen::Seed;
use loadgen::feeder::Feeder;
use meter::{Change, Effects, Entry, MeterRecord, Seq, UnixSeconds};
use storage::clickhouse::{AccountRow, Batch, Collector, MeterRow, Sink};
use tokio::sync::watch;

/// Monday 2026-06-01T00:00:00Z.
pub(crate) const START: UnixSeconds = UnixSeconds(1_780_272_000);
/// After the week's end, as in the demonstration.
const AFTER_S: u32 = 1800;

pub(crate) fn feeder() -> Feeder {
    Feeder::new(Seed(1), START)
}

/// The tick at which the books are looked at.
pub(crate) fn tick() -> UnixSeconds {
    feeder().end().plus(AFTER_S)
}

/// The week as batches; made once.
pub(crate) fn batches() -> &'static [Batch] {
    static BATCHES: OnceLock<Vec<Batch>> = OnceLock::new();
    BATCHES.get_or_init(make)
}

fn make() -> Vec<Batch> {
    let mut engine = Engine::start(&dataflow::Config { workers: 1 }, None).unwrap();
    let mut collector = Collector::new(100_000);
    let mut first = Seq(1);
    for entries in feeder().entries(tick()).chunks(2000) {
        let entries = Arc::new(entries.to_vec());
        let mut effects = Effects::default();
        engine.process(first, &entries, &mut effects).unwrap();
        assert!(effects.recalls.is_empty(), "the week needs nothing from the store");
        collector.effects(&server::spool::rows(first, &entries, &effects));
        entries.iter().for_each(|entry| dimensions(entry, &mut collector));
        first = Seq(first.0 + entries.len() as u64);
    }
    collector.seal()
}

/// What the registry tells of meters and accounts.
fn dimensions(entry: &Entry, collector: &mut Collector) {
    let Entry::Changes { outbox, changes } = entry else { return };
    for change in changes {
        if let Change::Meter(record) = change {
            collector.meter(plate(*record, outbox.0));
        } else if let Change::Account(terms) = change {
            collector.account(AccountRow { terms: terms.clone(), rev: outbox.0 });
        }
    }
}

fn plate(record: MeterRecord, rev: u64) -> MeterRow {
    let serial = format!("UR6-{:03}", record.meter.0);
    MeterRow { record, serial, model: "MTD-3".to_owned(), rev }
}

/// Sends the week, and makes its days.
pub(crate) async fn load(sink: &Sink) {
    let (_keep, mut stop) = watch::channel(false);
    for batch in batches() {
        sink.send(batch, &mut stop).await.unwrap();
    }
    sink.refresh_days(Seq(1)).await.unwrap();
}
