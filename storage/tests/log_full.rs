//! A full disk: routine entries are refused, urgent ones use the reserve, nothing is poisoned, and
//! the log resumes when there is space again.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{bounded, never};
use storage::log::sim::{Faults, SimDisk};
use storage::log::{
    Committed, Config, Disk, Durability, Error, NewBatch, Origin, Outcome, Payload, Refusal,
    SegmentLog, Seq, Submission, Urgency, Writer, WriterConfig, verify,
};

const SEGMENT: u64 = 32 << 10;

fn open(disk: &SimDisk) -> Result<SegmentLog, Error> {
    let config = Config {
        segment_size_bytes: SEGMENT,
        reserve_segments: 1,
        spares_max: 4,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    };
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    SegmentLog::open(disk, config, 1).map(|(log, _)| log)
}

fn set_capacity(disk: &SimDisk, segments: u64) {
    disk.set_faults(Faults { capacity_bytes: Some(segments * SEGMENT), ..Faults::default() });
}

/// Appends and commits one entry that takes two blocks.
fn append(log: &mut SegmentLog, urgency: Urgency) -> Result<Seq, Error> {
    let (count, kind, slot_group) = (1, 0, 0);
    log.append(NewBatch { count, payload: &[5; 5000], kind, slot_group, urgency })?;
    log.commit()
}

/// Appends until refused; returns how many were taken.
fn fill(log: &mut SegmentLog, urgency: Urgency) -> usize {
    for taken in 0..1000 {
        match append(log, urgency) {
            Ok(_) => {}
            Err(Error::Full) => return taken,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never full");
}

#[test]
fn the_reserve_is_for_urgent_entries_and_all_resumes_with_space() {
    let disk = SimDisk::new(1);
    set_capacity(&disk, 4);
    let mut log = open(&disk).unwrap();
    // Three entries fill a segment; three of the four segments are for all, the last for urgent ones.
    assert_eq!(fill(&mut log, Urgency::Routine), 9);
    assert!(log.is_full());
    assert_eq!(fill(&mut log, Urgency::Urgent), 3);
    assert!(matches!(append(&mut log, Urgency::Routine), Err(Error::Full)));
    assert!(matches!(log.replenish(), Err(Error::Full)));
    assert_eq!(log.next(), Seq(13));

    set_capacity(&disk, 7);
    log.replenish().unwrap();
    assert!(!log.is_full());
    assert_eq!(fill(&mut log, Urgency::Routine), 6);
    // Space made by retiring serves too: one segment for the reserve, one for routine entries.
    log.retire(Seq(7)).unwrap();
    assert_eq!(fill(&mut log, Urgency::Routine), 6);
    let next = log.next();
    drop(log);
    assert_eq!(verify(&disk).unwrap().next, Some(next));
    assert_eq!(open(&disk).unwrap().next(), next);
}

#[test]
fn routine_entries_do_not_eat_a_reserve_that_was_opened() {
    let disk = SimDisk::new(1);
    set_capacity(&disk, 3);
    let mut log = open(&disk).unwrap();
    fill(&mut log, Urgency::Routine);
    append(&mut log, Urgency::Urgent).unwrap();
    // The segment has room, but it is the reserve, after a restart too.
    assert!(matches!(append(&mut log, Urgency::Routine), Err(Error::Full)));
    drop(log);
    let mut log = open(&disk).unwrap();
    assert!(matches!(append(&mut log, Urgency::Routine), Err(Error::Full)));
    append(&mut log, Urgency::Urgent).unwrap();
}

#[test]
fn a_log_that_finds_no_space_at_all_is_refused_and_leaves_nothing() {
    let disk = SimDisk::new(1);
    disk.set_faults(Faults { capacity_bytes: Some(SEGMENT / 2), ..Faults::default() });
    assert!(matches!(open(&disk), Err(Error::Full)));
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}

struct Item(Urgency);

impl Payload for Item {
    fn encode(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + 5000, 1);
    }

    fn urgency(&self) -> Urgency {
        self.0
    }
}

/// The writer answers each submission once: routine ones refused, urgent ones still taken.
#[test]
fn the_writer_splits_a_group_on_a_full_disk() {
    let disk = SimDisk::new(1);
    set_capacity(&disk, 3);
    let mut log = open(&disk).unwrap();
    fill(&mut log, Urgency::Routine);
    let before = log.next();
    let (submit, input) = bounded(8);
    let (outcomes, answers) = bounded(8);
    let (buffers, _buffers) = bounded(8);
    let (committed, consumer) = bounded(8);
    for (ticket, urgency) in [Urgency::Routine, Urgency::Urgent, Urgency::Routine, Urgency::Urgent]
        .into_iter()
        .enumerate()
    {
        let entries = vec![Item(urgency)];
        submit.send(Submission { origin: 0, ticket: ticket as u64, entries }).unwrap();
    }
    drop(submit);
    let config = WriterConfig {
        group_entries_max: 100,
        group_bytes_max: 24_000,
        kind: 0,
        slot_group: 0,
        housekeeping_interval: Duration::from_secs(1),
    };
    let origins = vec![Origin { outcomes, buffers, wake: Arc::new(|| {}) }];
    let writer = Writer::new(log, config, vec![input], origins, committed, never()).unwrap();
    let log = writer.run().unwrap();
    assert_eq!(log.next(), Seq(before.0 + 2));
    let mut answers: Vec<(u64, bool)> = answers
        .iter()
        .map(|answer| match answer {
            Outcome::Durable(durable) => (durable.ticket, true),
            Outcome::Refused { ticket, reason } => {
                assert_eq!(reason, Refusal::Full);
                (ticket, false)
            }
        })
        .collect();
    answers.sort_unstable();
    assert_eq!(answers, [(0, false), (1, true), (2, false), (3, true)]);
    let groups: Vec<(Seq, usize)> =
        consumer.iter().map(|Committed { first, entries }| (first, entries.len())).collect();
    assert_eq!(groups, [(before, 2)]);
}
