//! The log on a real folder: append, read, tail, rotate, retire, lock, and the writer thread.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use storage::log::{
    Committed, Config, Directory, Disk, Durability, Error, NewBatch, Origin, Outcome, Payload,
    Reader, Refusal, SegmentLog, Seq, Submission, Urgency, WritePath, Writer, WriterConfig, verify,
};
use tempfile::TempDir;

fn config() -> Config {
    Config {
        segment_size_bytes: 64 << 10,
        reserve_segments: 1,
        spares_max: 2,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    }
}

fn folder(write_path: WritePath) -> (TempDir, Arc<dyn Disk>) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(Directory::open(&dir.path().join("log"), write_path).unwrap());
    (dir, disk)
}

fn open(disk: &Arc<dyn Disk>, config: Config) -> SegmentLog {
    SegmentLog::open(Arc::clone(disk), config, 1_700_000_000).unwrap().0
}

/// A batch of one entry whose bytes follow from its number.
fn append(log: &mut SegmentLog, size: usize) -> Result<Seq, Error> {
    let payload = content(log.next(), size);
    log.append(NewBatch {
        count: 1,
        payload: &payload,
        kind: 3,
        slot_group: 4,
        urgency: Urgency::Routine,
    })
}

fn content(seq: Seq, size: usize) -> Vec<u8> {
    (0..size).map(|index| (seq.0 as usize * 31 + index) as u8).collect()
}

/// Reads to the end and checks each batch of [`append`]; returns the entry after the last.
fn drain(reader: &mut Reader) -> Seq {
    while let Some(batch) = reader.next_batch().unwrap() {
        assert_eq!(batch.payload, content(batch.header.first, batch.payload.len()));
        assert_eq!((batch.header.kind, batch.header.slot_group), (3, 4));
    }
    reader.next()
}

#[test]
fn what_is_committed_comes_back_after_a_restart_on_both_write_paths() {
    for write_path in [WritePath::Buffered, WritePath::Direct] {
        let (_dir, disk) = folder(write_path);
        for round in 0..3_u64 {
            let mut log = open(&disk, config());
            assert_eq!(log.next(), Seq(1 + round * 50), "{write_path:?}");
            for index in 0..50 {
                append(&mut log, index * 97).unwrap();
                if index % 3 == 0 {
                    log.commit().unwrap();
                }
            }
            log.commit().unwrap();
            for from in [1, 2, 30, 50, log.next().0 - 1] {
                let mut reader = log.read_from(Seq(from));
                assert_eq!(reader.next_batch().unwrap().unwrap().header.first, Seq(from));
                assert_eq!(drain(&mut reader), log.next());
            }
        }
        let report = verify(disk.as_ref()).unwrap();
        assert_eq!((report.entries, report.damage.len(), report.torn), (150, 0, None));
    }
}

#[test]
fn a_reader_follows_the_writer_and_sees_only_what_is_committed() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let mut log = open(&disk, config());
    let mut reader = log.read_from(Seq(1));
    assert!(reader.next_batch().unwrap().is_none());
    for _ in 0..40 {
        append(&mut log, 5000).unwrap();
        append(&mut log, 300).unwrap();
        let committed = log.commit().unwrap();
        append(&mut log, 10).unwrap();
        assert_eq!(drain(&mut reader), committed);
    }
}

#[test]
fn retired_segments_are_used_again_and_their_old_batches_are_never_read() {
    let (dir, disk) = folder(WritePath::Buffered);
    let mut log = open(&disk, config());
    let mut reader = log.read_from(Seq(1));
    for _ in 0..60 {
        append(&mut log, 12_000).unwrap();
        log.commit().unwrap();
        let passed = drain(&mut reader);
        log.retire(passed).unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("log")).unwrap().count();
    assert!(files <= 1 + 1 + 3, "{files} files");
    let first = log.first();
    assert!(first > Seq(50));
    let error = log.read_from(Seq(1)).next_batch().unwrap_err();
    assert!(matches!(error, Error::Retired { wanted: Seq(1), first: held } if held == first));
    let next = log.next();
    drop(log);
    let log = open(&disk, config());
    assert_eq!((log.first(), log.next()), (first, next));
    assert_eq!(drain(&mut log.read_from(first)), next);
}

#[test]
fn a_lazy_log_is_read_before_it_is_durable() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let mut log = open(&disk, Config { durability: Durability::Lazy, ..config() });
    append(&mut log, 100).unwrap();
    log.commit().unwrap();
    let progress = log.progress();
    assert_eq!((progress.readable(), progress.durable()), (Seq(2), Seq(1)));
    assert_eq!(drain(&mut log.read_from(Seq(1))), Seq(2));
    log.sync().unwrap();
    assert_eq!(progress.durable(), Seq(2));
}

/// What followed from one entry cannot be made smaller: the lazy log takes it whatever its size.
#[test]
fn a_lazy_log_gives_a_batch_larger_than_a_segment_one_of_its_own() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let lazy = Config { durability: Durability::Lazy, ..config() };
    let size_max = lazy.payload_size_max();
    let sizes = [size_max + 1, 100, 10 * size_max, size_max, 3 * size_max, 7, 40 * size_max, 9];
    let mut log = open(&disk, lazy);
    for size in sizes {
        append(&mut log, size).unwrap();
        log.commit().unwrap();
    }
    assert_eq!(drain(&mut log.read_from(Seq(1))), Seq(9));
    log.sync().unwrap();
    drop(log);
    let report = verify(disk.as_ref()).unwrap();
    assert!(report.damage.is_empty() && report.torn.is_none(), "{report:?}");
    let mut log = open(&disk, lazy);
    assert_eq!((log.first(), log.next()), (Seq(1), Seq(9)));
    let mut reader = log.read_from(Seq(1));
    for (seq, size) in (1..).zip(sizes) {
        let batch = reader.next_batch().unwrap().unwrap();
        assert_eq!((batch.header.first, batch.payload.len()), (Seq(seq), size));
    }
    // It is given up like any other; only a file of the usual size is kept for use again.
    assert_eq!(log.retire(Seq(8)).unwrap(), Seq(8));
    assert_eq!(drain(&mut log.read_from(Seq(8))), Seq(9));
    let large = |name: &String| {
        let size = disk.open_read(name).unwrap().size().unwrap();
        name.starts_with("spare") && size != lazy.segment_size_bytes
    };
    assert!(!disk.list().unwrap().iter().any(large));
}

#[test]
fn refused_calls_change_nothing() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let mut log = open(&disk, config());
    assert!(matches!(append(&mut log, 64 << 10), Err(Error::TooLarge { .. })));
    assert!(matches!(SegmentLog::open(Arc::clone(&disk), config(), 0), Err(Error::Locked { .. })));
    append(&mut log, config().payload_size_max()).unwrap();
    assert_eq!(log.commit().unwrap(), Seq(2));
    drop(log);
    let broken = Config { segment_size_bytes: 5000, ..config() };
    assert!(matches!(SegmentLog::open(Arc::clone(&disk), broken, 0), Err(Error::Config(_))));
    assert_eq!(open(&disk, config()).next(), Seq(2));
}

/// An entry for the writer: a number and a length.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Item(u64, usize);

impl Payload for Item {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
        out.resize(out.len() + self.1, 7);
    }

    fn urgency(&self) -> Urgency {
        Urgency::Routine
    }
}

struct Ends {
    outcomes: Vec<Receiver<Outcome>>,
    buffers: Vec<Receiver<Vec<Item>>>,
    committed: Receiver<Committed<Item>>,
    groups: Sender<Vec<Item>>,
    wakes: Arc<AtomicU64>,
}

fn writer(log: SegmentLog, inputs: Vec<Receiver<Submission<Item>>>) -> (Writer<Item>, Ends) {
    let wakes = Arc::new(AtomicU64::new(0));
    let (mut origins, mut outcomes, mut buffers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let (outcome_in, outcome_out) = bounded(10_000);
        let (buffer_in, buffer_out) = bounded(16);
        let wakes = Arc::clone(&wakes);
        let wake = move || {
            wakes.fetch_add(1, Ordering::Relaxed);
        };
        origins.push(Origin { outcomes: outcome_in, buffers: buffer_in, wake: Arc::new(wake) });
        outcomes.push(outcome_out);
        buffers.push(buffer_out);
    }
    let (committed_in, committed) = bounded(4);
    let (groups, groups_out) = bounded(4);
    let config = WriterConfig {
        group_entries_max: 64,
        group_bytes_max: 8 << 10,
        kind: 1,
        slot_group: 0,
        housekeeping_interval: Duration::from_millis(1),
    };
    let writer = Writer::new(log, config, inputs, origins, committed_in, groups_out).unwrap();
    (writer, Ends { outcomes, buffers, committed, groups, wakes })
}

#[test]
fn the_writer_answers_every_submission_once_and_hands_on_every_entry_in_order() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let log = open(&disk, config());
    let progress = log.progress();
    let (submit, input) = bounded(8);
    let (submit_control, control) = bounded(8);
    let (writer, ends) = writer(log, vec![control, input]);
    let writing = thread::Builder::new().name("log".into()).spawn(|| writer.run()).unwrap();
    let senders: Vec<_> = [submit_control, submit]
        .into_iter()
        .enumerate()
        .map(|(origin, submit)| {
            thread::spawn(move || {
                for ticket in 0..500_u64 {
                    let item = |index| Item((origin as u64) << 32 | ticket << 8 | index, 40);
                    let entries = (0..ticket % 7).map(item).collect();
                    submit.send(Submission { origin: origin as u16, ticket, entries }).unwrap();
                }
                let entries = vec![Item(0, 9000)];
                submit.send(Submission { origin: origin as u16, ticket: 500, entries }).unwrap();
            })
        })
        .collect();
    let mut received = Vec::new();
    for Committed { first, mut entries } in ends.committed.iter() {
        assert_eq!(first, Seq(received.len() as u64 + 1));
        received.append(&mut entries);
        assert!(progress.durable() > first);
        ends.groups.try_send(entries).unwrap_or_default();
    }
    for sender in senders {
        sender.join().unwrap();
    }
    let log = writing.join().unwrap().unwrap();
    assert_eq!(log.next(), Seq(received.len() as u64 + 1));
    for (origin, outcomes) in ends.outcomes.iter().enumerate() {
        let outcomes: Vec<Outcome> = outcomes.iter().collect();
        assert_eq!(outcomes.len(), 501);
        let mut seen = vec![0; 501];
        for outcome in outcomes {
            match outcome {
                Outcome::Durable(durable) => {
                    seen[durable.ticket as usize] += 1;
                    assert_eq!(u64::from(durable.count), durable.ticket % 7);
                    for index in 0..u64::from(durable.count) {
                        let at = (durable.first.0 - 1 + index) as usize;
                        let number = (origin as u64) << 32 | durable.ticket << 8 | index;
                        assert_eq!(received[at], Item(number, 40));
                    }
                }
                Outcome::Refused { ticket, reason } => {
                    seen[ticket as usize] += 1;
                    let want = if ticket == 500 { Refusal::TooLarge } else { Refusal::Empty };
                    assert_eq!((reason, ticket % 7 == 0 || ticket == 500), (want, true));
                }
            }
        }
        assert_eq!(seen, vec![1; 501]);
        assert!(ends.buffers[origin].iter().all(|buffer| buffer.is_empty()));
    }
    assert!(ends.wakes.load(Ordering::Relaxed) > 0);
    let mut reader = log.read_from(Seq(1));
    let mut bytes = Vec::new();
    while let Some(batch) = reader.next_batch().unwrap() {
        bytes.extend_from_slice(batch.payload);
    }
    let mut want = Vec::new();
    received.iter().for_each(|item| item.encode(&mut want));
    assert_eq!(bytes, want);
}

#[test]
fn a_pause_of_the_consumer_is_no_pause_of_those_who_wait_for_an_answer() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let (submit, input) = bounded(8);
    let (writer, ends) = writer(open(&disk, config()), vec![input]);
    let writing = thread::spawn(|| writer.run());
    // Nobody takes what is committed, and the channel to the consumer holds four groups.
    const CALM: u64 = 200;
    for ticket in 0..CALM {
        submit.send(Submission { origin: 0, ticket, entries: vec![Item(ticket, 8); 64] }).unwrap();
    }
    let answered: Vec<Outcome> = ends.outcomes[0].iter().take(CALM as usize).collect();
    assert!(answered.iter().all(|outcome| matches!(outcome, Outcome::Durable(_))));

    // What is kept for it is bounded.
    const ALL: u64 = 300;
    let submitting = thread::spawn(move || {
        for ticket in CALM..ALL {
            let entries = vec![Item(ticket, 8); 64];
            submit.send(Submission { origin: 0, ticket, entries }).unwrap();
        }
    });
    while ends.outcomes[0].len() < 56 {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(50));
    let waiting = ALL as usize - CALM as usize - ends.outcomes[0].len();
    assert!(waiting > 0, "all were answered, and nobody took anything");

    let mut received: Vec<Item> = Vec::new();
    for Committed { first, mut entries } in ends.committed.iter() {
        assert_eq!(first, Seq(received.len() as u64 + 1));
        received.append(&mut entries);
    }
    submitting.join().unwrap();
    writing.join().unwrap().unwrap();
    let want: Vec<Item> = (0..ALL).flat_map(|ticket| vec![Item(ticket, 8); 64]).collect();
    assert_eq!(received, want);
}

#[test]
fn the_writer_stops_when_nobody_takes_what_is_committed() {
    let (_dir, disk) = folder(WritePath::Buffered);
    let (submit, input) = bounded(8);
    let (writer, mut ends) = writer(open(&disk, config()), vec![input]);
    ends.committed = crossbeam_channel::never();
    submit.send(Submission { origin: 0, ticket: 1, entries: vec![Item(1, 1)] }).unwrap();
    assert!(matches!(writer.run(), Err(Error::Disconnected)));
}
