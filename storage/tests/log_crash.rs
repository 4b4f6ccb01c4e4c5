//! The log on a disk that forgets, tears and fails: whatever happens, every committed batch is
//! there, in order, and after them nothing but a beginning of what was being committed.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;

use proptest::prelude::*;
use storage::log::sim::{Faults, SimDisk};
use storage::log::{Config, Disk, Durability, Error, NewBatch, SegmentLog, Seq, Urgency, verify};

fn config(durability: Durability) -> Config {
    Config {
        segment_size_bytes: 32 << 10,
        reserve_segments: 1,
        spares_max: 2,
        durability,
        node: 1,
        epoch: 1,
    }
}

fn open(disk: &SimDisk, durability: Durability) -> Result<SegmentLog, Error> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    SegmentLog::open(disk, config(durability), 1).map(|(log, _)| log)
}

/// A small deterministic source of choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

type Payload = (u32, Vec<u8>);

/// What must be in the log, and what may be.
#[derive(Default)]
struct Model {
    /// Batches from the first on; what was retired is still here.
    certain: Vec<Payload>,
    possible: Vec<Payload>,
    /// Makes every batch ever tried different, so that none can come back from the past unseen.
    serial: u64,
}

impl Model {
    fn payload(&mut self, choices: &mut Choices) -> Payload {
        self.serial += 1;
        let size = [3, 40, 4000, 4048, 4049, 9000][choices.below(6) as usize];
        let mut bytes = self.serial.to_le_bytes().to_vec();
        bytes.resize(8 + size, self.serial as u8);
        (1 + choices.below(5) as u32, bytes)
    }

    /// Compares, and takes what survived for certain.
    fn settle(&mut self, log: &SegmentLog, context: &str) {
        let mut all = std::mem::take(&mut self.certain);
        let certain_count = all.len();
        all.append(&mut self.possible);
        let mut next = 1;
        let mut firsts = Vec::new();
        for (count, _) in &all {
            firsts.push(next);
            next += u64::from(*count);
        }
        let held = firsts.iter().position(|first| Seq(*first) == log.first());
        let mut index = held.unwrap_or_else(|| {
            assert_eq!(log.first(), Seq(next), "{context}: the log begins within a batch");
            all.len()
        });
        let mut reader = log.read_from(log.first());
        while let Some(batch) = reader.next_batch().unwrap() {
            assert!(index < all.len(), "{context}: more than was ever appended");
            let (count, payload) = &all[index];
            assert_eq!(batch.header.first, Seq(firsts[index]), "{context}");
            assert_eq!((batch.header.count, batch.payload), (*count, &payload[..]), "{context}");
            index += 1;
        }
        assert!(index >= certain_count, "{context}: {index} of {certain_count} committed batches");
        all.truncate(index);
        self.certain = all;
    }

    fn commit_succeeded(&mut self) {
        self.certain.append(&mut self.possible);
    }
}

/// Appends, commits and retires until the first error or the end.
fn work(
    log: &mut SegmentLog,
    model: &mut Model,
    choices: &mut Choices,
    commits: u64,
) -> Result<(), Error> {
    let lazy = log.config().durability == Durability::Lazy;
    for _ in 0..commits {
        for _ in 0..=choices.below(3) {
            let (count, payload) = model.payload(choices);
            model.possible.push((count, payload.clone()));
            let (kind, slot_group, urgency) = (0, 0, Urgency::Routine);
            let before = log.progress().durable();
            log.append(NewBatch { count, payload: &payload, kind, slot_group, urgency })?;
            if log.progress().durable() > before {
                // A full segment was committed on the way, all but this batch.
                let last = model.possible.pop().unwrap();
                model.commit_succeeded();
                model.possible.push(last);
            }
        }
        log.commit()?;
        if !lazy || choices.below(4) == 0 {
            log.sync()?;
            model.commit_succeeded();
        }
        log.prepare_ahead(4096)?;
        if choices.below(5) == 0 {
            let next = log.progress().durable().0;
            log.retire(Seq(next - choices.below(next.min(20))))?;
        }
    }
    Ok(())
}

/// One history: rounds of work that end by a fault, each followed by recovery.
fn history(seed: u64, durability: Durability) {
    let disk = SimDisk::new(seed);
    let mut choices = Choices(seed);
    let mut model = Model::default();
    for round in 0..6 {
        let context = format!("seed {seed}, round {round}, {durability:?}");
        let at = Some(disk.operations() + choices.below(120));
        let (power, io) = if choices.below(3) == 0 { (None, at) } else { (at, None) };
        disk.set_faults(Faults { power_fails_at: power, io_error_at: io, capacity_bytes: None });
        if let Ok(mut log) = open(&disk, durability) {
            model.settle(&log, &context);
            if let Err(error) = work(&mut log, &mut model, &mut choices, 30) {
                assert!(matches!(error, Error::Io { .. }), "{context}: {error}");
            }
        }
        // The process ends first; its bytes may be seen again before the power fails too.
        if power.is_none() || choices.below(4) == 0 && durability == Durability::Synced {
            disk.restart_process();
            if power.is_none() {
                let log = open(&disk, durability).unwrap();
                model.settle(&log, &context);
            }
        }
        disk.restart_after_power_failure();
        let log = open(&disk, durability).unwrap_or_else(|error| panic!("{context}: {error}"));
        model.settle(&log, &context);
        drop(log);
        assert!(verify(&disk).unwrap().damage.is_empty(), "{context}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn committed_batches_survive_any_history(seed in any::<u64>()) {
        history(seed, Durability::Synced);
    }

    #[test]
    fn synced_batches_of_a_lazy_log_survive_any_history(seed in any::<u64>()) {
        history(seed, Durability::Lazy);
    }
}

/// Every operation of one fixed piece of work, from the making of the log on, meets a power failure.
#[test]
fn power_may_fail_at_any_operation() {
    let total = {
        let disk = SimDisk::new(0);
        let mut log = open(&disk, Durability::Synced).unwrap();
        work(&mut log, &mut Model::default(), &mut Choices(7), 25).unwrap();
        disk.operations()
    };
    assert!(total > 100, "{total} operations");
    for at in 0..total {
        for seed in 0..4 {
            let disk = SimDisk::new(seed);
            disk.set_faults(Faults { power_fails_at: Some(at), ..Faults::default() });
            let mut model = Model::default();
            let worked = open(&disk, Durability::Synced)
                .and_then(|mut log| work(&mut log, &mut model, &mut Choices(7), 25));
            assert!(worked.is_err(), "operation {at}");
            disk.restart_after_power_failure();
            let mut log = open(&disk, Durability::Synced).unwrap();
            let context = format!("operation {at}, seed {seed}");
            model.settle(&log, &context);
            work(&mut log, &mut model, &mut Choices(seed), 3).unwrap();
            model.settle(&log, &context);
        }
    }
}

/// Every write and sync meets an I/O error: nothing is acknowledged after it.
#[test]
fn an_io_error_poisons_the_log() {
    let operations_before = {
        let disk = SimDisk::new(0);
        open(&disk, Durability::Synced).unwrap();
        disk.operations()
    };
    let mut poisoned = 0;
    for at in operations_before..operations_before + 120 {
        let disk = SimDisk::new(at);
        disk.set_faults(Faults { io_error_at: Some(at), ..Faults::default() });
        let mut model = Model::default();
        let mut log = open(&disk, Durability::Synced).unwrap();
        if let Err(error) = work(&mut log, &mut model, &mut Choices(7), 25) {
            assert!(matches!(error, Error::Io { .. }), "operation {at}: {error}");
            let operations = disk.operations();
            if matches!(log.commit(), Err(Error::Poisoned)) {
                poisoned += 1;
                assert!(matches!(log.sync(), Err(Error::Poisoned)), "operation {at}");
                assert!(matches!(log.retire(Seq(9)), Err(Error::Poisoned)), "operation {at}");
                assert_eq!(disk.operations(), operations, "operation {at}: no retry");
            }
        }
        drop(log);
        disk.restart_process();
        model.settle(&open(&disk, Durability::Synced).unwrap(), "after a restart");
        // What the restart took for the end of the log must be on the device by then.
        disk.restart_after_power_failure();
        model.settle(&open(&disk, Durability::Synced).unwrap(), "after a power failure");
    }
    assert!(poisoned > 50, "{poisoned}");
}
