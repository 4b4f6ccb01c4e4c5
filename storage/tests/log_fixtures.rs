//! Files of every released format version are read for ever; those of the newest version are also
//! what is written today, byte for byte.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use storage::log::{
    Config, Directory, Disk, Durability, NewBatch, SegmentLog, Seq, Urgency, WritePath, verify,
};
use storage::snapshot::Snapshots;
use tempfile::TempDir;

const CONFIG: Config = Config {
    segment_size_bytes: 12 << 10,
    reserve_segments: 0,
    spares_max: 0,
    durability: Durability::Synced,
    node: 7,
    epoch: 2,
};

/// Batches of the log of version 1: slot group, kind, count, payload.
const BATCHES: [(u16, u8, u32, &str); 3] = [
    (0, 0, 1, "one entry"),
    (3, 1, 3, "three more entries"),
    (4095, 255, 2, "and two in a new file"),
];
const SECTIONS: [(&str, &[u8]); 2] = [("meters", b"state of the meters"), ("nothing", b"")];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn disk(path: &Path) -> Arc<dyn Disk> {
    Arc::new(Directory::open(path, WritePath::Buffered).unwrap())
}

/// The files that make up the format; spares and locks do not.
fn files(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("seg-") || name.starts_with("snapshot-") {
            files.insert(name.clone(), fs::read(path.join(name)).unwrap());
        }
    }
    files
}

fn copy_of(name: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (file, bytes) in files(&fixture(name)) {
        fs::write(dir.path().join(file), bytes).unwrap();
    }
    dir
}

fn append_all(log: &mut SegmentLog) {
    for (slot_group, kind, count, payload) in BATCHES {
        let (payload, urgency) = (payload.as_bytes(), Urgency::Routine);
        log.append(NewBatch { count, payload, kind, slot_group, urgency }).unwrap();
        log.commit().unwrap();
    }
}

#[test]
fn a_log_of_version_1_opens_and_goes_on() {
    let dir = copy_of("log-v1");
    let report = verify(disk(dir.path()).as_ref()).unwrap();
    assert_eq!((report.segments, report.entries, report.damage.len()), (2, 6, 0));
    let (mut log, recovery) = SegmentLog::open(disk(dir.path()), CONFIG, 1_700_000_000).unwrap();
    assert_eq!((recovery.first, recovery.next, recovery.torn), (Seq(1), Seq(7), None));
    append_all(&mut log);
    let mut reader = log.read_from(Seq(1));
    for (slot_group, kind, count, payload) in BATCHES.iter().chain(&BATCHES).copied() {
        let batch = reader.next_batch().unwrap().unwrap();
        let header = batch.header;
        assert_eq!((header.slot_group, header.kind, header.count), (slot_group, kind, count));
        assert_eq!((batch.payload, header.epoch), (payload.as_bytes(), 2));
    }
    assert!(reader.next_batch().unwrap().is_none());
}

#[test]
fn the_bytes_of_a_log_are_those_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = SegmentLog::open(disk(dir.path()), CONFIG, 1_700_000_000).unwrap();
    append_all(&mut log);
    assert!(files(dir.path()) == files(&fixture("log-v1")), "the format changed: see docs/formats");
}

#[test]
fn a_snapshot_of_version_1_loads() {
    let dir = copy_of("snapshot-v1");
    let loaded = Snapshots::new(disk(dir.path())).load().unwrap().unwrap();
    assert_eq!((loaded.snapshot.next, loaded.passed_over.len()), (Seq(42), 0));
    for (name, content) in SECTIONS {
        assert_eq!(loaded.snapshot.section(name).unwrap(), content);
    }
}

#[test]
fn the_bytes_of_a_snapshot_are_those_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    Snapshots::new(disk(dir.path())).save(Seq(42), &SECTIONS).unwrap();
    let fixture = files(&fixture("snapshot-v1"));
    assert!(files(dir.path()) == fixture, "the format changed: see docs/formats");
}
