//! Snapshots: the state of the books at one entry of the log, so that a restart replays only what
//! came after it.
//!
//! A snapshot is written beside its place, synced, and renamed, so that it is there as a whole or
//! not at all. The last two are kept: when the newest is damaged, the older one and a longer replay
//! give the same books. Retire the log only below the *older* one ([`Snapshots::save`] says where).
//!
//! Bytes of a snapshot, format version 1, little endian:
//!
//! | byte | size | field |
//! |---|---|---|
//! | 0 | 8 | magic `MTRDSNP\0` |
//! | 8 | 2 | format version, 1 |
//! | 10 | 6 | zero |
//! | 16 | 8 | Seq: all entries below it are in the snapshot |
//! | 24 | 4 | CRC32C of bytes 0..24 |
//! | 28 | … | sections, then the end |
//!
//! Section: name size u16 (at least 1), name, size of the content u64, CRC32C u32 of name and
//! content, content. The end: u16 0, count of sections u32, CRC32C u32 over bytes 0..24 of the
//! header and the CRCs of all sections.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use meter::Seq;

use crate::log::{Disk, DiskFile};

const MAGIC: [u8; 8] = *b"MTRDSNP\0";
const VERSION: u16 = 1;
const HEADER: usize = 28;
const UNFINISHED: &str = "snapshot.tmp";
/// Snapshots that are kept.
const KEPT: usize = 2;
/// Bytes gathered before a write, and read at once while checking.
const CHUNK: usize = 1 << 20;

/// An error of the snapshots.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("snapshot: cannot {operation} {file}; check the disk and the rights of the folder")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file it was tried on.
        file: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A snapshot cannot be read.
    #[error("snapshot: {file} is damaged at byte {offset}: {what}")]
    Damaged {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A snapshot was written by a newer program; an older one is not used in its place, because
    /// what the newer program wrote to the log may not be readable either.
    #[error(
        "snapshot: {file} has format version {version}, this program reads up to {version_max}; use the newer program"
    )]
    FutureVersion {
        /// The file.
        file: String,
        /// Its version.
        version: u16,
        /// The newest version known here.
        version_max: u16,
    },
    /// A section is not in the snapshot.
    #[error("snapshot: {file} has no section {section:?}")]
    NoSection {
        /// The file.
        file: String,
        /// The section asked for.
        section: String,
    },
}

fn io_error(operation: &'static str, file: &str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io { operation, file: file.to_owned(), source }
}

/// The snapshots of one folder.
#[derive(Clone, Debug)]
pub struct Snapshots {
    disk: Arc<dyn Disk>,
}

/// The newest snapshot that is sound.
#[derive(Debug)]
pub struct Loaded {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Why newer ones were passed over; log it.
    pub passed_over: Vec<Error>,
}

impl Snapshots {
    /// The snapshots in this folder. What an interrupted save left is removed by the next one.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk }
    }

    /// Begins a snapshot of the books in which all entries below `next` are.
    ///
    /// # Errors
    /// [`Error::Io`], also when the disk is full: nothing was changed.
    pub fn begin(&self, next: Seq) -> Result<SnapshotWriter, Error> {
        if self.names()?.iter().any(|name| name == UNFINISHED) {
            self.disk.remove(UNFINISHED).map_err(io_error("remove", UNFINISHED))?;
        }
        let file = self.disk.create(UNFINISHED).map_err(io_error("create", UNFINISHED))?;
        let mut buffer = Vec::with_capacity(CHUNK);
        buffer.extend_from_slice(&MAGIC);
        buffer.extend_from_slice(&VERSION.to_le_bytes());
        buffer.resize(16, 0);
        buffer.extend_from_slice(&next.0.to_le_bytes());
        let crc = crc32c::crc32c(&buffer);
        buffer.extend_from_slice(&crc.to_le_bytes());
        let disk = Arc::clone(&self.disk);
        let names = BTreeSet::new();
        Ok(SnapshotWriter { disk, file, next, buffer, written: 0, names, crc, finished: false })
    }

    /// Writes a snapshot in one go. Returns the entry below which the log may be retired: that of
    /// the oldest snapshot kept.
    ///
    /// # Errors
    /// As [`Snapshots::begin`].
    pub fn save(&self, next: Seq, sections: &[(&str, &[u8])]) -> Result<Seq, Error> {
        let mut writer = self.begin(next)?;
        for (name, content) in sections {
            writer.section(name, content)?;
        }
        writer.finish()
    }

    /// The newest snapshot that is sound, `None` if there is none at all.
    ///
    /// # Errors
    /// [`Error::FutureVersion`]; [`Error::Damaged`] if there are snapshots and all are damaged;
    /// [`Error::Io`].
    pub fn load(&self) -> Result<Option<Loaded>, Error> {
        let mut passed_over = Vec::new();
        for seq in saved(&self.names()?).into_iter().rev() {
            match Snapshot::open(self.disk.as_ref(), seq) {
                Ok(snapshot) => return Ok(Some(Loaded { snapshot, passed_over })),
                Err(error @ Error::Damaged { .. }) => passed_over.push(error),
                Err(error) => return Err(error),
            }
        }
        passed_over.into_iter().next().map_or(Ok(None), Err)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        self.disk.list().map_err(io_error("list", "the snapshots' folder"))
    }
}

/// A snapshot that is being written. Dropped before [`SnapshotWriter::finish`], it never was.
#[derive(Debug)]
pub struct SnapshotWriter {
    disk: Arc<dyn Disk>,
    file: Box<dyn DiskFile>,
    next: Seq,
    buffer: Vec<u8>,
    written: u64,
    names: BTreeSet<String>,
    crc: u32,
    finished: bool,
}

impl SnapshotWriter {
    /// Writes a section. Names must be unique and not empty.
    ///
    /// # Errors
    /// [`Error::Io`].
    ///
    /// # Panics
    /// If the name is empty, longer than 65,535 bytes, or was used before.
    pub fn section(&mut self, name: &str, content: &[u8]) -> Result<(), Error> {
        let name_size = u16::try_from(name.len()).expect("names are short");
        assert!(name_size > 0 && self.names.insert(name.to_owned()), "each section has its name");
        let crc = crc32c::crc32c_append(crc32c::crc32c(name.as_bytes()), content);
        self.buffer.extend_from_slice(&name_size.to_le_bytes());
        self.buffer.extend_from_slice(name.as_bytes());
        self.buffer.extend_from_slice(&(content.len() as u64).to_le_bytes());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        for part in content.chunks(CHUNK) {
            self.buffer.extend_from_slice(part);
            if self.buffer.len() >= CHUNK {
                self.flush()?;
            }
        }
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
        Ok(())
    }

    /// Makes the snapshot durable under its name and removes all but the last two. Returns the entry
    /// below which the log may be retired: that of the oldest snapshot kept.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<Seq, Error> {
        self.buffer.extend_from_slice(&0_u16.to_le_bytes());
        let section_count = u32::try_from(self.names.len()).expect("few sections");
        self.buffer.extend_from_slice(&section_count.to_le_bytes());
        self.buffer.extend_from_slice(&self.crc.to_le_bytes());
        self.flush()?;
        self.file.sync().map_err(io_error("sync", UNFINISHED))?;
        let name = snapshot_name(self.next);
        let folder = "the snapshots' folder";
        self.disk.rename(UNFINISHED, &name).map_err(io_error("rename", UNFINISHED))?;
        self.finished = true;
        self.disk.sync_dir().map_err(io_error("sync", folder))?;
        let saved = saved(&self.disk.list().map_err(io_error("list", folder))?);
        let (old, kept) = saved.split_at(saved.len().saturating_sub(KEPT));
        for seq in old {
            let name = snapshot_name(*seq);
            self.disk.remove(&name).map_err(io_error("remove", &name))?;
        }
        // With a single snapshot nothing may be retired: it could still turn out to be damaged.
        Ok(if kept.len() < KEPT { Seq(0) } else { kept[0] })
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.file.write_at(&self.buffer, self.written).map_err(io_error("write", UNFINISHED))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // It only takes up space; what cannot be removed now is removed by the next snapshot.
            self.disk.remove(UNFINISHED).unwrap_or_default();
        }
    }
}

/// A sound snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// All entries below this are in it; the replay begins here.
    pub next: Seq,
    name: String,
    file: Box<dyn DiskFile>,
    sections: BTreeMap<String, Section>,
}

#[derive(Clone, Copy, Debug)]
struct Section {
    offset: u64,
    size: u64,
}

impl Snapshot {
    /// Names of the sections.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// The content of a section.
    ///
    /// # Errors
    /// [`Error::NoSection`], [`Error::Io`].
    pub fn section(&self, name: &str) -> Result<Vec<u8>, Error> {
        let section = self.sections.get(name).ok_or_else(|| Error::NoSection {
            file: self.name.clone(),
            section: name.to_owned(),
        })?;
        let size = usize::try_from(section.size).expect("checked to be in the file");
        let mut content = vec![0; size];
        let count = self
            .file
            .read_at(&mut content, section.offset)
            .map_err(io_error("read", &self.name))?;
        content.truncate(count);
        Ok(content)
    }

    /// Reads and checks the whole snapshot.
    fn open(disk: &dyn Disk, seq: Seq) -> Result<Self, Error> {
        let name = snapshot_name(seq);
        let file = disk.open_read(&name).map_err(io_error("open", &name))?;
        let size = file.size().map_err(io_error("read", &name))?;
        let mut input = Input { name: &name, file: file.as_ref(), size, offset: 0 };
        let header: [u8; HEADER] = input.take()?;
        let crc = crc32c::crc32c(&header[..24]);
        if header[..8] != MAGIC || header[24..28] != crc.to_le_bytes() {
            return Err(input.damaged_at(0, "no valid header"));
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION {
            return Err(Error::FutureVersion { file: name, version, version_max: VERSION });
        }
        let next = header[16..24].first_chunk().copied().map_or(0, u64::from_le_bytes);
        if Seq(next) != seq {
            return Err(input.damaged_at(16, "the name says another entry"));
        }
        let sections = input.sections(crc)?;
        Ok(Self { next: seq, name, file, sections })
    }
}

/// The bytes of a snapshot while they are checked.
struct Input<'a> {
    name: &'a str,
    file: &'a dyn DiskFile,
    size: u64,
    offset: u64,
}

impl Input<'_> {
    /// The sections and the end; `crc` is that of the header.
    fn sections(&mut self, mut crc: u32) -> Result<BTreeMap<String, Section>, Error> {
        let mut sections = BTreeMap::new();
        loop {
            let start = self.offset;
            let name_size = u16::from_le_bytes(self.take()?);
            if name_size == 0 {
                break;
            }
            let name = self.bytes(u64::from(name_size))?;
            let size = u64::from_le_bytes(self.take()?);
            let want = u32::from_le_bytes(self.take()?);
            let section = Section { offset: self.offset, size };
            if self.check(crc32c::crc32c(&name), size)? != want {
                return Err(self.damaged_at(start, "a section's checksum is wrong"));
            }
            crc = crc32c::crc32c_append(crc, &want.to_le_bytes());
            let name = String::from_utf8(name)
                .map_err(|_| self.damaged_at(start, "a section's name is not text"))?;
            sections.insert(name, section);
        }
        let start = self.offset;
        let count = u32::from_le_bytes(self.take()?);
        let want = u32::from_le_bytes(self.take()?);
        if want != crc || count as usize != sections.len() || self.offset != self.size {
            return Err(self.damaged_at(start, "the end does not match the sections"));
        }
        Ok(sections)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let bytes = self.bytes(N as u64)?;
        Ok(*bytes.first_chunk().expect("as many bytes as asked for"))
    }

    /// The next bytes; never more than the file holds.
    fn bytes(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > self.size - self.offset {
            return Err(self.damaged_at(self.offset, "it ends too early"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
        let count =
            self.file.read_at(&mut bytes, self.offset).map_err(io_error("read", self.name))?;
        if count < bytes.len() {
            return Err(self.damaged_at(self.offset, "it ends too early"));
        }
        self.offset += size;
        Ok(bytes)
    }

    /// The checksum `crc` continued over the next bytes.
    fn check(&mut self, mut crc: u32, size: u64) -> Result<u32, Error> {
        if size > self.size - self.offset {
            return Err(self.damaged_at(self.offset, "a section reaches beyond the end"));
        }
        let mut left = size;
        while left > 0 {
            let part = self.bytes(left.min(CHUNK as u64))?;
            crc = crc32c::crc32c_append(crc, &part);
            left -= part.len() as u64;
        }
        Ok(crc)
    }

    fn damaged_at(&self, offset: u64, what: &'static str) -> Error {
        Error::Damaged { file: self.name.to_owned(), offset, what }
    }
}

fn snapshot_name(next: Seq) -> String {
    format!("snapshot-{:020}.snap", next.0)
}

/// The entries of the snapshots among these names, ascending.
fn saved(names: &[String]) -> Vec<Seq> {
    let parse = |name: &String| {
        let number = name.strip_prefix("snapshot-")?.strip_suffix(".snap")?;
        number.parse().ok().map(Seq)
    };
    let mut found: Vec<Seq> = names.iter().filter_map(parse).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::sim::{Faults, SimDisk};

    fn snapshots(disk: &SimDisk) -> Snapshots {
        Snapshots::new(Arc::new(disk.clone()))
    }

    fn save(disk: &SimDisk, seq: u64) -> Result<Seq, Error> {
        let large = vec![seq as u8; 3 * CHUNK / 2];
        let small = seq.to_le_bytes();
        snapshots(disk).save(Seq(seq), &[("meters", &large), ("accounts", &small), ("none", &[])])
    }

    #[track_caller]
    fn check_loaded(disk: &SimDisk, seq: u64, passed_over: usize) {
        let loaded = snapshots(disk).load().unwrap().unwrap();
        assert_eq!((loaded.snapshot.next, loaded.passed_over.len()), (Seq(seq), passed_over));
        assert_eq!(loaded.snapshot.section("accounts").unwrap(), seq.to_le_bytes());
        assert_eq!(loaded.snapshot.section("meters").unwrap().len(), 3 * CHUNK / 2);
        assert_eq!(loaded.snapshot.sections().count(), 3);
        let missing = loaded.snapshot.section("customers");
        assert!(matches!(missing, Err(Error::NoSection { .. })));
    }

    #[test]
    fn the_last_two_are_kept_and_the_log_is_retired_below_the_older() {
        let disk = SimDisk::new(1);
        assert!(snapshots(&disk).load().unwrap().is_none());
        assert_eq!(save(&disk, 10).unwrap(), Seq(0));
        assert_eq!(save(&disk, 20).unwrap(), Seq(10));
        assert_eq!(save(&disk, 30).unwrap(), Seq(20));
        check_loaded(&disk, 30, 0);
        assert_eq!(disk.list().unwrap(), [snapshot_name(Seq(20)), snapshot_name(Seq(30))]);
    }

    #[test]
    fn a_damaged_one_is_passed_over_for_the_older_one() {
        let disk = SimDisk::new(1);
        save(&disk, 10).unwrap();
        save(&disk, 20).unwrap();
        let newest = snapshot_name(Seq(20));
        let size = disk.bytes(&newest).len();
        let spread = (0..size).step_by(size / 20);
        for at in (0..80).chain(size - 40..size).chain(spread) {
            let disk = disk.fork(2);
            disk.damage(&newest, |bytes| bytes[at] ^= 1 << (at % 8));
            check_loaded(&disk, 10, 1);
            disk.damage(&newest, |bytes| bytes.truncate(at));
            check_loaded(&disk, 10, 1);
        }
        disk.damage(&newest, |bytes| bytes[100] ^= 1);
        disk.damage(&snapshot_name(Seq(10)), |bytes| bytes[100] ^= 1);
        assert!(matches!(snapshots(&disk).load(), Err(Error::Damaged { .. })));
    }

    #[test]
    fn a_newer_version_is_refused_even_if_there_is_an_older_snapshot() {
        let disk = SimDisk::new(1);
        save(&disk, 10).unwrap();
        save(&disk, 20).unwrap();
        disk.damage(&snapshot_name(Seq(20)), |bytes| {
            bytes[8] = 2;
            let crc = crc32c::crc32c(&bytes[..24]);
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        });
        let refused = snapshots(&disk).load();
        assert!(matches!(refused, Err(Error::FutureVersion { version: 2, .. })));
    }

    #[test]
    fn power_may_fail_at_any_operation_of_a_save() {
        for at in 0..40 {
            let disk = SimDisk::new(at);
            save(&disk, 10).unwrap();
            save(&disk, 20).unwrap();
            let power_fails_at = Some(disk.operations() + at);
            disk.set_faults(Faults { power_fails_at, ..Faults::default() });
            let saved = save(&disk, 30).is_ok();
            disk.restart_after_power_failure();
            let loaded = snapshots(&disk).load().unwrap().unwrap();
            assert_eq!(loaded.passed_over.len(), 0, "operation {at}");
            let next = loaded.snapshot.next;
            assert!(next == Seq(30) || next == Seq(20) && !saved, "operation {at}: {next}");
            save(&disk, 40).unwrap();
            check_loaded(&disk, 40, 0);
        }
    }

    #[test]
    fn a_full_disk_leaves_the_old_ones_and_no_litter() {
        let disk = SimDisk::new(1);
        save(&disk, 10).unwrap();
        let capacity_bytes = Some(disk.bytes(&snapshot_name(Seq(10))).len() as u64 + 5000);
        disk.set_faults(Faults { capacity_bytes, ..Faults::default() });
        assert!(matches!(save(&disk, 20), Err(Error::Io { .. })));
        assert_eq!(disk.list().unwrap(), [snapshot_name(Seq(10))]);
        check_loaded(&disk, 10, 0);
    }
}
