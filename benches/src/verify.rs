//! What `meterd verify` does with a log: read, check, decode, the whole dataflow, and the sums.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use meter::Entry;
use server::verify::{Look, replay};
use storage::log::{Directory, Disk, Durability, WritePath};

use crate::logs::{self, BATCH};
use crate::w1;

/// Each figure is the median of so many runs.
const RUNS: usize = 3;

/// What a replay took.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Entries replayed.
    pub entries: u64,
    /// Entries a second.
    pub rate: f64,
}

/// Writes a log of W1's first `readings` into `folder` and replays it with two workers.
///
/// # Errors
/// Of the file system, or when the log does not replay.
///
/// # Panics
/// When entries are missing, or two replays give different books.
pub fn run(readings: usize, folder: &Path) -> Result<Figure, Box<dyn std::error::Error>> {
    let disk: Arc<dyn Disk> = Arc::new(Directory::open(folder, WritePath::Buffered)?);
    let entries = write(&disk, readings)?;
    let mut rates = Vec::new();
    let mut hash = None;
    for _ in 0..RUNS {
        let began = Instant::now();
        let replayed = replay(disk.as_ref(), 2, &Look::default())?;
        rates.push(entries as f64 / began.elapsed().as_secs_f64());
        assert_eq!(replayed.next.0 - 1, entries, "every entry is replayed");
        assert!(replayed.broken.is_none(), "{:?}", replayed.broken);
        let found = replayed.tally.hash();
        assert_eq!(*hash.get_or_insert(found), found, "two replays give the same books");
    }
    rates.sort_by(f64::total_cmp);
    Ok(Figure { entries, rate: rates[RUNS / 2] })
}

fn write(disk: &Arc<dyn Disk>, readings: usize) -> Result<u64, Box<dyn std::error::Error>> {
    let mut log = logs::open(Arc::clone(disk), Durability::Lazy)?;
    let mut last = logs::append(&mut log, &w1::register())?;
    for records in w1::stream(readings, w1::Order::ById).chunks(BATCH) {
        let entries: Vec<Entry> =
            records.iter().map(|record| Entry::Reading(w1::reading(record))).collect();
        last = logs::append(&mut log, &entries)?;
    }
    log.sync()?;
    Ok(last.0)
}
