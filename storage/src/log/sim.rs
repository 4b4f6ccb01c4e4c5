//! A simulated disk: forgets, reorders and tears what was not synced, and fails when told to.
//!
//! Writes live in a cache until they are synced. At a power failure each 512-byte sector of an
//! unsynced write is on the device or is not, by seed, whatever the order of the writes; changes of
//! the folder survive up to some point of their order, as a journal would keep them. A failed sync
//! drops the cache's claim on the bytes without writing them, as Linux does: they can still be read
//! until the power fails, and a further sync reports success.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::disk::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What goes wrong, counted in operations that change the disk (writes, syncs, folder changes).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// The power fails at this operation: it is left half done, all later ones fail.
    pub power_fails_at: Option<u64>,
    /// The write or sync at this operation fails with an I/O error.
    pub io_error_at: Option<u64>,
    /// Bytes that fit on the disk.
    pub capacity_bytes: Option<u64>,
}

/// The simulated twin of [`super::Directory`]. Clones share the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    faults: Faults,
    operations: u64,
    failed: bool,
    power: Power,
    /// Rises with each restart; files opened before no longer work.
    session: u64,
    locked: bool,
    files: Vec<Inode>,
    /// The folder as programs see it, and as it stood when it was last synced.
    names: BTreeMap<String, usize>,
    names_durable: BTreeMap<String, usize>,
    changes: Vec<Change>,
    random: u64,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Power {
    #[default]
    On,
    Off,
}

#[derive(Default)]
struct Inode {
    cache: Vec<u8>,
    device: Vec<u8>,
    dirty: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum Change {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

impl Change {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        match self {
            Self::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(from) {
                    names.insert(to.clone(), inode);
                }
            }
            Self::Remove(name) => {
                names.remove(name);
            }
        }
    }
}

impl SimDisk {
    /// An empty disk whose choices follow from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State { random: seed, ..State::default() })))
    }

    /// Plans what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Whether the power has failed and is not back.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.state().power == Power::Off
    }

    /// Whether anything went wrong since the last restart.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state().failed
    }

    /// Operations so far that changed the disk, or tried to.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The process ended, by its will or not; the cache is still there. Its files no longer work.
    pub fn restart_process(&self) {
        let mut state = self.state();
        state.session += 1;
        state.locked = false;
        state.failed = false;
        state.faults = Faults::default();
    }

    /// The power failed and is back: only what the device holds is left.
    pub fn restart_after_power_failure(&self) {
        self.restart_process();
        let mut guard = self.state();
        let state = &mut *guard;
        state.power = Power::On;
        let kept = random_below(&mut state.random, state.changes.len() as u64 + 1);
        for change in state.changes.drain(..).take(kept as usize) {
            change.apply(&mut state.names_durable);
        }
        state.names = state.names_durable.clone();
        for inode in &mut state.files {
            inode.lose_power(&mut state.random);
        }
    }

    /// Bytes of a file as programs see them.
    ///
    /// # Panics
    /// If there is no such file.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.names[name]].cache.clone()
    }

    /// Changes a file behind everyone's back, on the device and in the cache.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.state();
        let inode = state.names[name];
        let inode = &mut state.files[inode];
        change(&mut inode.cache);
        inode.device.clone_from(&inode.cache);
        inode.dirty.clear();
    }

    /// An independent copy of the disk with another seed.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let state = self.state();
        let copy = |inode: &Inode| Inode {
            cache: inode.cache.clone(),
            device: inode.device.clone(),
            dirty: inode.dirty.clone(),
        };
        Self(Arc::new(Mutex::new(State {
            power: state.power,
            files: state.files.iter().map(copy).collect(),
            names: state.names.clone(),
            names_durable: state.names_durable.clone(),
            changes: state.changes.clone(),
            random: seed,
            ..State::default()
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no holder panics")
    }

    fn file(&self, state: &State, inode: usize) -> Box<dyn DiskFile> {
        Box::new(SimFile { disk: self.clone(), inode, session: state.session, lock: false })
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state();
        // A folder change under way when the power fails may or may not survive, like unsynced ones.
        let result = state.begin(Fallible::No);
        if result.is_ok() || state.power == Power::Off && state.at_power_failure() {
            let state = &mut *state;
            change.apply(&mut state.names);
            state.changes.push(change);
        }
        result
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fallible {
    Yes,
    No,
}

impl State {
    /// Counts an operation and decides whether it fails.
    fn begin(&mut self, fallible: Fallible) -> io::Result<()> {
        if self.power == Power::Off {
            self.operations += 1;
            return Err(io::Error::other("the power is off"));
        }
        let operation = self.operations;
        self.operations += 1;
        if self.faults.power_fails_at == Some(operation) {
            self.power = Power::Off;
            self.failed = true;
            return Err(io::Error::other("the power fails"));
        }
        if self.faults.io_error_at == Some(operation) && fallible == Fallible::Yes {
            self.failed = true;
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }

    /// Whether the operation just begun is the one at which the power failed.
    fn at_power_failure(&self) -> bool {
        self.faults.power_fails_at == Some(self.operations - 1)
    }

    fn used_bytes(&self) -> u64 {
        self.names.values().map(|inode| self.files[*inode].cache.len() as u64).sum()
    }
}

impl Inode {
    fn write(&mut self, bytes: &[u8], offset: usize) {
        put(&mut self.cache, bytes, offset);
        self.dirty.push((offset, bytes.to_vec()));
    }

    fn sync(&mut self) {
        for (offset, bytes) in self.dirty.drain(..) {
            put(&mut self.device, &bytes, offset);
        }
    }

    fn lose_power(&mut self, random: &mut u64) {
        // Often all or nothing survives; else each sector for itself.
        let style = random_below(random, 4);
        for (offset, bytes) in self.dirty.drain(..) {
            let mut at = 0;
            while at < bytes.len() {
                let sector_end = (offset + at + 1).next_multiple_of(SECTOR) - offset;
                let until = sector_end.min(bytes.len());
                let survives = match style {
                    0 => false,
                    1 => true,
                    _ => random_below(random, 2) == 0,
                };
                if survives {
                    put(&mut self.device, &bytes[at..until], offset + at);
                }
                at = until;
            }
        }
        self.cache.clone_from(&self.device);
    }
}

fn put(file: &mut Vec<u8>, bytes: &[u8], offset: usize) {
    if file.len() < offset + bytes.len() {
        file.resize(offset + bytes.len(), 0);
    }
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// SplitMix64.
fn random_below(state: &mut u64, bound: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % bound
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let inode = {
            let mut state = self.state();
            if state.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            state.files.push(Inode::default());
            state.files.len() - 1
        };
        self.change(Change::Create(name.to_owned(), inode))?;
        Ok(self.file(&self.state(), inode))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        let inode = state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(self.file(&state, *inode))
    }

    fn open_read(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if !self.state().names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if !self.state().names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(Change::Remove(name.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut guard = self.state();
        guard.begin(Fallible::Yes)?;
        let state = &mut *guard;
        for change in state.changes.drain(..) {
            change.apply(&mut state.names_durable);
        }
        Ok(())
    }

    fn lock(&self, _name: &str) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked = true;
        Ok(Box::new(SimFile {
            disk: self.clone(),
            inode: usize::MAX,
            session: state.session,
            lock: true,
        }))
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("operations", &self.operations()).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
    session: u64,
    lock: bool,
}

impl SimFile {
    fn state(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.state();
        if state.session == self.session {
            Ok(state)
        } else {
            Err(io::Error::other("opened by a process that has ended"))
        }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let state = self.state()?;
        let bytes = &state.files[self.inode].cache;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = buffer.len().min(bytes.len() - start);
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.state()?;
        let offset = usize::try_from(offset).expect("simulated files are small");
        let result = state.begin(Fallible::Yes);
        let half_done = state.power == Power::Off && state.at_power_failure();
        if result.is_ok() {
            let grown = (offset + bytes.len()).saturating_sub(state.files[self.inode].cache.len());
            let used = state.used_bytes() + grown as u64;
            if grown > 0 && state.faults.capacity_bytes.is_some_and(|capacity| used > capacity) {
                state.failed = true;
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        if result.is_ok() || half_done {
            state.files[self.inode].write(bytes, offset);
        }
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.state()?;
        let result = state.begin(Fallible::Yes);
        let power = state.power;
        let inode = &mut state.files[self.inode];
        match &result {
            Ok(()) => inode.sync(),
            // The bytes stay readable, but nobody will write them any more.
            Err(_) if power == Power::On => inode.dirty.clear(),
            Err(_) => {}
        }
        result
    }

    fn size(&self) -> io::Result<u64> {
        let state = self.state()?;
        Ok(state.files[self.inode].cache.len() as u64)
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if self.lock && state.session == self.session {
            state.locked = false;
        }
    }
}
