//! Damage: a torn end is cut off cleanly, damage before it is refused with the file and the offset,
//! and a refusal changes nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::ops::Range;
use std::sync::Arc;

use proptest::prelude::*;
use storage::log::sim::SimDisk;
use storage::log::{
    BatchInfo, Batches, Config, Disk, Durability, Error, NewBatch, SegmentLog, Seq, Urgency, verify,
};

fn config() -> Config {
    Config {
        segment_size_bytes: 32 << 10,
        reserve_segments: 0,
        spares_max: 2,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    }
}

fn open(disk: &SimDisk) -> Result<SegmentLog, Error> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    SegmentLog::open(disk, config(), 1).map(|(log, _)| log)
}

/// Entries of one byte each, `count` a batch, in commits of so many batches.
fn build(commits: &[u32]) -> SimDisk {
    let disk = SimDisk::new(1);
    let mut log = open(&disk).unwrap();
    for batches in commits {
        for _ in 0..*batches {
            let payload: Vec<u8> = (0..40).map(|index| (log.next().0 + index) as u8).collect();
            let (kind, slot_group, urgency) = (0, 0, Urgency::Routine);
            log.append(NewBatch { count: 40, payload: &payload, kind, slot_group, urgency })
                .unwrap();
        }
        log.commit().unwrap();
    }
    drop(log);
    disk
}

fn batches(disk: &SimDisk) -> Vec<BatchInfo> {
    Batches::open(disk).unwrap().map(Result::unwrap).collect()
}

/// Where the bytes of a batch stand that mean something; zeros pad it to the block.
fn meaningful(batch: &BatchInfo) -> Range<usize> {
    let start = batch.offset as usize;
    start..start + 48 + batch.header.payload_size as usize
}

/// What is left of the log: `Ok` the entry after the last, with all before readable.
fn what_opens(disk: &SimDisk) -> Result<Seq, Error> {
    let log = open(disk)?;
    let mut reader = log.read_from(log.first());
    let mut next = log.first();
    while let Some(batch) = reader.next_batch()? {
        let want: Vec<u8> = (0..40).map(|index| (next.0 + index) as u8).collect();
        assert_eq!((batch.header.first, batch.payload), (next, &want[..]));
        next = batch.header.next();
    }
    assert_eq!(next, log.next());
    Ok(next)
}

#[track_caller]
fn check_refused(result: Result<Seq, Error>, batch: &BatchInfo, context: &str) {
    match result {
        Err(Error::Damaged { file, offset, expected, .. }) => {
            let want = (&batch.file, batch.offset, batch.header.first);
            assert_eq!((&file, offset, expected), want, "{context}");
        }
        other => panic!("{context}: {other:?}"),
    }
}

/// Every bit of the last two batches, each its own commit.
#[test]
fn a_flip_at_the_end_is_cut_off_and_one_before_it_is_refused() {
    let sound = build(&[1, 2, 1, 1]);
    let all = batches(&sound);
    let [.., damaged, last] = &all[..] else { panic!("{all:?}") };
    for (batch, block) in [(damaged, damaged.offset as usize), (last, last.offset as usize)] {
        for at in block..block + 4096 {
            for bit in 0..8 {
                let disk = sound.fork(2);
                disk.damage(&batch.file, |bytes| bytes[at] ^= 1 << bit);
                let context = format!("byte {at}, bit {bit}");
                let opened = what_opens(&disk);
                if !meaningful(batch).contains(&at) {
                    assert_eq!(opened.unwrap(), last.header.next(), "{context}");
                } else if batch == last {
                    assert_eq!(opened.unwrap(), last.header.first, "{context}");
                } else {
                    check_refused(opened, batch, &context);
                    assert_eq!(verify(&disk).unwrap().damage.len(), 1, "{context}");
                }
            }
            if at == meaningful(batch).end + 64 {
                break;
            }
        }
    }
}

/// Every byte of the last two batches, in one commit: it may be torn anywhere.
#[test]
fn a_flip_in_the_last_commit_cuts_it_off_there() {
    let sound = build(&[1, 2, 2]);
    let all = batches(&sound);
    for batch in &all[3..] {
        for at in meaningful(batch) {
            let disk = sound.fork(2);
            disk.damage(&batch.file, |bytes| bytes[at] ^= 1 << (at % 8));
            assert_eq!(what_opens(&disk).unwrap(), batch.header.first, "byte {at}");
            // The cut is for good: what stood behind it does not come back.
            let mut log = open(&disk).unwrap();
            let urgency = Urgency::Routine;
            let batch = NewBatch { count: 40, payload: &[9; 40], kind: 0, slot_group: 0, urgency };
            log.append(batch).unwrap();
            let next = log.commit().unwrap();
            drop(log);
            assert_eq!(open(&disk).unwrap().next(), next, "byte {at}");
        }
    }
}

#[test]
fn a_shortened_file_ends_with_its_last_complete_batch_and_it_is_told() {
    let sound = build(&[1, 2, 1, 1]);
    let all = batches(&sound);
    let (last, before) = (&all[4], &all[3]);
    for len in before.offset as usize..last.offset as usize + 4096 {
        let disk = sound.fork(2);
        disk.damage(&last.file, |bytes| bytes.truncate(len));
        let torn = {
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            SegmentLog::open(disk, config(), 1).unwrap().1.torn.unwrap()
        };
        assert_eq!(torn.missing_bytes, (32 << 10) - len as u64, "length {len}");
        let complete = if len < last.offset as usize { before } else { last };
        assert_eq!(what_opens(&disk).unwrap(), complete.header.first, "length {len}");
        let mut log = open(&disk).unwrap();
        let urgency = Urgency::Routine;
        log.append(NewBatch { count: 1, payload: &[1], kind: 0, slot_group: 0, urgency }).unwrap();
        let next = log.commit().unwrap();
        drop(log);
        assert_eq!(open(&disk).unwrap().next(), next, "length {len}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_flip_anywhere_in_the_middle_is_refused_with_its_offset(
        batch_index in 0..28_usize,
        byte in 0..88_usize,
        bit in 0..8_u32,
    ) {
        let disk = build(&[1; 30]);
        let all = batches(&disk);
        let batch = &all[batch_index];
        disk.damage(&batch.file, |bytes| bytes[batch.offset as usize + byte] ^= 1 << bit);
        let context = format!("batch {batch_index}, byte {byte}, bit {bit}");
        check_refused(what_opens(&disk), batch, &context);
        let report = verify(&disk).unwrap();
        prop_assert_eq!(report.damage.len(), 1);
        check_refused(Err(report.damage.into_iter().next().unwrap()), batch, &context);
    }
}

#[test]
fn a_refused_start_changes_nothing() {
    let disk = build(&[1; 6]);
    let batch = batches(&disk).remove(2);
    disk.damage(&batch.file, |bytes| bytes[batch.offset as usize + 50] ^= 4);
    let (before, names) = (disk.bytes(&batch.file), disk.list().unwrap());
    let operations = disk.operations();
    check_refused(what_opens(&disk), &batch, "payload");
    assert_eq!((disk.bytes(&batch.file), disk.list().unwrap()), (before, names));
    assert_eq!(disk.operations(), operations);
}

#[test]
fn every_bit_of_a_segment_header_counts() {
    let sound = build(&[1; 12]);
    let file = batches(&sound).remove(0).file;
    for bit in 0..60 * 8 {
        let disk = sound.fork(2);
        disk.damage(&file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        match open(&disk).map(|log| log.next()) {
            Err(Error::Damaged { file: named, offset: 0, expected: Seq(1), .. }) => {
                assert_eq!(named, file, "bit {bit}");
            }
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_segment_and_a_newer_version_are_refused() {
    let disk = build(&[1; 24]);
    let all = batches(&disk);
    let mut files: Vec<String> = all.iter().map(|batch| batch.file.clone()).collect();
    files.dedup();
    assert!(files.len() >= 3, "{files:?}");
    disk.remove(&files[1]).unwrap();
    let lost = all.iter().find(|batch| batch.file == files[1]).unwrap();
    let found = verify(&disk).unwrap().damage;
    assert!(
        matches!(&found[..], [Error::Damaged { file, expected, .. }]
            if *file == files[0] && *expected == lost.header.first),
        "{found:?}"
    );
    assert!(matches!(what_opens(&disk), Err(Error::Damaged { .. })));

    disk.damage(&files[0], |bytes| {
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..56]);
        bytes[56..60].copy_from_slice(&crc.to_le_bytes());
    });
    assert!(matches!(open(&disk), Err(Error::FutureVersion { version: 2, version_max: 1, .. })));
}

/// A spare that holds, where they would fit exactly, batches of a history that was given up, as
/// after a restore from a backup: only the seed of the segment tells them apart.
#[test]
fn what_an_earlier_life_of_a_file_holds_is_never_read() {
    let given_up = build(&[1; 24]);
    let all = batches(&given_up);
    let second = all.iter().find(|batch| batch.file != all[0].file).unwrap();
    let rest = all.iter().filter(|batch| batch.file == all[0].file).count();

    let disk = build(&vec![1; rest]);
    let spares = disk.list().unwrap().into_iter().filter(|name| name.starts_with("spare-"));
    for spare in spares {
        disk.damage(&spare, |bytes| *bytes = given_up.bytes(&second.file));
    }
    let mut log = open(&disk).unwrap();
    let urgency = Urgency::Routine;
    log.append(NewBatch { count: 40, payload: &[9; 40], kind: 0, slot_group: 0, urgency }).unwrap();
    let next = log.commit().unwrap();
    drop(log);
    assert_eq!(batches(&disk).last().unwrap().file, second.file);
    assert_eq!(open(&disk).unwrap().next(), next);
    assert_eq!(verify(&disk).unwrap().next, Some(next));
}
