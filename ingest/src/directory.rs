//! The devices the node knows, by system title: keys, what they are, and their replay windows.
//!
//! Shards read it without a lock, while one writer at a time adds to it. Slots of a fixed
//! open-addressing table hold record numbers; records live in chunks that are allocated as devices
//! come and never move:
//!
//! | part | bytes a device |
//! |---|---|
//! | slot, table at most 3/4 full | 5 to 11 |
//! | record: title, two keys, window, attributes, addresses | 96 |
//!
//! **Invariants:** a slot goes from empty to a record and from a record to a newer one of the same
//! title, never back. A record's title and keys never change: new keys make a new record with an
//! empty window, every other change keeps the window. A device that is removed keeps its record, so
//! that nothing is accepted again when it comes back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use meter::wire::dlms::Keys;
use meter::{GatewayId, MeterId, SystemTitle};
use thiserror::Error;
use zeroize::Zeroize as _;

use crate::window::Window;

/// What a registered device is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Device {
    /// A meter.
    Meter(MeterId),
    /// A gateway, whose frames carry readings of meters behind it.
    Gateway(GatewayId),
}

/// A device as the registry knows it. Debug shows no key; whoever made it wipes it.
#[derive(Clone, Copy)]
pub struct Registration {
    /// Its name on the wire.
    pub title: SystemTitle,
    /// Key of encryption.
    pub encryption_key: [u8; 16],
    /// Key of authentication.
    pub authentication_key: [u8; 16],
    /// What it is.
    pub device: Device,
    /// Index of its push template among those handed to [`crate::Ingest::bind`].
    pub template: u16,
    /// The gateway a meter is behind, [`GatewayId::NONE`] for none.
    pub behind: GatewayId,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registration({} {:?})", self.title, self.device)
    }
}

/// Why a device is not registered.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum DirectoryError {
    /// The directory holds as many records as it may.
    #[error("no room for device {title}: {devices_max} records are in use; raise devices_max")]
    Full {
        /// The device refused.
        title: SystemTitle,
        /// The limit.
        devices_max: u32,
    },
}

/// The devices the node knows.
pub struct Directory {
    slots: Box<[AtomicU32]>,
    chunks: Box<[OnceLock<Chunk>]>,
    devices_max: u32,
    /// Count of records. Only the writer locks; readers go through the slots.
    writer: Mutex<u32>,
}

type Chunk = Box<[OnceLock<Record>; CHUNK_SIZE]>;

const CHUNK_SIZE: usize = 1024;

/// Number of a record; it stays valid as long as the directory.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct RecordIndex(u32);

/// One device.
pub(crate) struct Record {
    title: SystemTitle,
    encryption_key: [u8; 16],
    authentication_key: [u8; 16],
    pub(crate) window: Window,
    attributes: AtomicU64,
    /// Of a meter: the gateway it is behind. Of a gateway: its open sessions.
    link: AtomicU32,
    /// Digest of the address that its last authentic datagram came from.
    peer: AtomicU32,
    /// That address where it is one of IPv4, and the shard that heard it: where commands go. From
    /// the low end: address 32 bits, port 16, shard 16. 0: not known.
    home: AtomicU64,
}

const _: () = assert!(size_of::<OnceLock<Record>>() == 96);

impl Drop for Record {
    fn drop(&mut self) {
        self.encryption_key.zeroize();
        self.authentication_key.zeroize();
    }
}

/// What may change of a record in one step: number 32 bits, template 16, kind 1, presence 1.
#[derive(Clone, Copy)]
struct Attributes(u64);

impl Attributes {
    const GATEWAY: u64 = 1 << 48;
    const PRESENT: u64 = 1 << 49;

    fn new(device: Device, template: u16) -> Self {
        let (kind, number) = match device {
            Device::Meter(id) => (0, id.0),
            Device::Gateway(id) => (Self::GATEWAY, id.0),
        };
        Self(u64::from(number) | u64::from(template) << 32 | kind | Self::PRESENT)
    }

    const fn device(self) -> Device {
        match self.0 & Self::GATEWAY {
            0 => Device::Meter(MeterId(self.0 as u32)),
            _ => Device::Gateway(GatewayId(self.0 as u32)),
        }
    }

    const fn template(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

impl Record {
    fn new(registration: &Registration) -> Self {
        let record = Self {
            title: registration.title,
            encryption_key: registration.encryption_key,
            authentication_key: registration.authentication_key,
            window: Window::default(),
            attributes: AtomicU64::new(0),
            link: AtomicU32::new(0),
            peer: AtomicU32::new(0),
            home: AtomicU64::new(0),
        };
        record.amend(registration);
        record
    }

    fn has_keys_of(&self, registration: &Registration) -> bool {
        self.encryption_key == registration.encryption_key
            && self.authentication_key == registration.authentication_key
    }

    /// Relaxed here and in all readers of these fields: each is read on its own.
    fn amend(&self, registration: &Registration) {
        if let Device::Meter(_) = registration.device {
            self.link.store(registration.behind.0, Ordering::Relaxed);
        }
        let attributes = Attributes::new(registration.device, registration.template);
        self.attributes.store(attributes.0, Ordering::Relaxed);
    }

    fn attributes(&self) -> Attributes {
        Attributes(self.attributes.load(Ordering::Relaxed))
    }

    fn is_present(&self) -> bool {
        self.attributes().0 & Attributes::PRESENT != 0
    }

    pub(crate) const fn title(&self) -> SystemTitle {
        self.title
    }

    pub(crate) const fn keys(&self) -> Keys<'_> {
        Keys { encryption: &self.encryption_key, authentication: &self.authentication_key }
    }

    /// What it is, and the index of its template.
    pub(crate) fn device(&self) -> (Device, u16) {
        let attributes = self.attributes();
        (attributes.device(), attributes.template())
    }

    /// Whether this is a meter behind `gateway`.
    pub(crate) fn meter_behind(&self, gateway: GatewayId) -> Option<MeterId> {
        match self.attributes().device() {
            Device::Meter(id) if self.link.load(Ordering::Relaxed) == gateway.0 => Some(id),
            Device::Meter(_) | Device::Gateway(_) => None,
        }
    }

    /// Counts a session of this gateway in; whether it is the first.
    pub(crate) fn session_opened(&self) -> bool {
        self.link.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Counts a session of this gateway out; whether it was the last.
    pub(crate) fn session_ended(&self) -> bool {
        self.link.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether its last authentic datagram came from the address with this digest.
    pub(crate) fn is_heard_from(&self, peer: u32) -> bool {
        self.peer.load(Ordering::Relaxed) == peer
    }

    /// Notes where an authentic datagram came from: the digest of its address, the address, and
    /// the shard that has it.
    pub(crate) fn heard_from(&self, peer: u32, from: SocketAddr, shard: u16) {
        if !self.is_heard_from(peer) {
            self.peer.store(peer, Ordering::Relaxed);
            self.home.store(home_of(from, shard), Ordering::Relaxed);
        }
    }

    /// Where its last authentic datagram came from, if this shard had it.
    pub(crate) fn home(&self, shard: u16) -> Option<SocketAddr> {
        let home = self.home.load(Ordering::Relaxed);
        let is_here = home != 0 && (home >> 48) as u16 == shard;
        let address = (Ipv4Addr::from_bits(home as u32), (home >> 32) as u16);
        is_here.then(|| address.into())
    }
}

impl Directory {
    /// An empty directory with room for `devices_max` records (a device whose keys change takes a
    /// further one until the next start).
    #[must_use]
    pub fn new(devices_max: u32) -> Self {
        let slot_count = (devices_max as usize).max(2).div_ceil(3).saturating_mul(4);
        let chunk_count = (devices_max as usize).div_ceil(CHUNK_SIZE);
        Self {
            slots: (0..slot_count.next_power_of_two()).map(|_| AtomicU32::new(0)).collect(),
            chunks: (0..chunk_count).map(|_| OnceLock::new()).collect(),
            devices_max,
            writer: Mutex::new(0),
        }
    }

    /// A directory of `registrations`.
    ///
    /// # Errors
    /// [`DirectoryError::Full`].
    pub fn build(
        devices_max: u32,
        registrations: impl IntoIterator<Item = Registration>,
    ) -> Result<Self, DirectoryError> {
        let directory = Self::new(devices_max);
        registrations.into_iter().try_for_each(|device| directory.register(&device))?;
        Ok(directory)
    }

    /// Adds a device or replaces what is known of it, while shards read. Control plane only.
    ///
    /// # Errors
    /// [`DirectoryError::Full`]; nothing is changed then.
    pub fn register(&self, registration: &Registration) -> Result<(), DirectoryError> {
        let mut records = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let (slot, found) = self.probe(registration.title);
        if let Some((_, record)) = found
            && record.has_keys_of(registration)
        {
            record.amend(registration);
            return Ok(());
        }
        let (title, devices_max) = (registration.title, self.devices_max);
        if *records >= devices_max {
            return Err(DirectoryError::Full { title, devices_max });
        }
        let (chunk, place) = place(RecordIndex(*records));
        let chunk =
            self.chunks[chunk].get_or_init(|| Box::new([const { OnceLock::new() }; CHUNK_SIZE]));
        chunk[place].get_or_init(|| Record::new(registration));
        *records += 1;
        // Release, against the Acquire in `probe`: who sees the number sees the record.
        slot.store(*records, Ordering::Release);
        Ok(())
    }

    /// Forgets a device but for its window; whether it was known.
    pub fn remove(&self, title: SystemTitle) -> bool {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        match self.find(title) {
            Some((_, record)) => {
                record.attributes.fetch_and(!Attributes::PRESENT, Ordering::Relaxed);
                true
            }
            None => false,
        }
    }

    /// Takes over replay windows as the log knows them, each as the highest counter accepted and
    /// 64 bits, of which bit k stands for `highest - k`. To be called before the shards start.
    /// Devices that are not registered are passed over; returns how many were restored.
    ///
    /// Costs a sort of the directory, once for all windows.
    pub fn restore_windows(&self, windows: impl IntoIterator<Item = (Device, u32, u64)>) -> usize {
        let mut records: Vec<_> =
            self.records().map(|record| (record.attributes().device(), record)).collect();
        records.sort_unstable_by_key(|(device, _)| *device);
        let restore = |&(device, highest, bits): &(Device, u32, u64)| {
            let found = records.binary_search_by_key(&device, |(device, _)| *device);
            found.map(|at| records[at].1.window.restore(highest, bits)).is_ok()
        };
        windows.into_iter().filter(restore).count()
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) as usize
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The device with this title.
    pub(crate) fn find(&self, title: SystemTitle) -> Option<(RecordIndex, &Record)> {
        self.probe(title).1.filter(|(_, record)| record.is_present())
    }

    /// The record with this number.
    pub(crate) fn record(&self, index: RecordIndex) -> &Record {
        let (chunk, place) = place(index);
        let record = self.chunks[chunk].get().and_then(|chunk| chunk[place].get());
        record.expect("a number is given out after its record is in place")
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.chunks
            .iter()
            .map_while(OnceLock::get)
            .flat_map(|chunk| chunk.iter())
            .map_while(OnceLock::get)
    }

    /// The slot of a title, and the record in it unless it is empty.
    fn probe(&self, title: SystemTitle) -> (&AtomicU32, Option<(RecordIndex, &Record)>) {
        let mask = self.slots.len() - 1;
        let mut at = hash(title) as usize & mask;
        loop {
            let slot = &self.slots[at];
            let Some(number) = slot.load(Ordering::Acquire).checked_sub(1) else {
                return (slot, None);
            };
            let record = self.record(RecordIndex(number));
            if record.title == title {
                return (slot, Some((RecordIndex(number), record)));
            }
            // Ends: the table is never more than 3/4 full.
            at = (at + 1) & mask;
        }
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Directory({} of {} records)", self.len(), self.devices_max)
    }
}

fn home_of(from: SocketAddr, shard: u16) -> u64 {
    let address = match from.ip() {
        IpAddr::V4(address) => Some(address),
        // On a socket of IPv6 such an address is written otherwise: not known.
        IpAddr::V6(_) => None,
    };
    address.map_or(0, |address| {
        u64::from(shard) << 48 | u64::from(from.port()) << 32 | u64::from(address.to_bits())
    })
}

const fn place(index: RecordIndex) -> (usize, usize) {
    (index.0 as usize / CHUNK_SIZE, index.0 as usize % CHUNK_SIZE)
}

/// Finaliser of splitmix64. Titles are serial numbers of registered devices, never a stranger's
/// choice, so the hash needs to spread but not to resist.
const fn hash(title: SystemTitle) -> u64 {
    let mut bits = u64::from_le_bytes(title.0).wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    fn meter(number: u32) -> Registration {
        Registration {
            title: SystemTitle(u64::from(number).to_be_bytes()),
            encryption_key: [1; 16],
            authentication_key: [2; 16],
            device: Device::Meter(MeterId(number)),
            template: 3,
            behind: GatewayId(9),
        }
    }

    #[test]
    fn finds_all_and_only_what_is_registered() {
        let directory = Directory::build(5_000, (1..=5_000).map(meter)).unwrap();
        assert_eq!(directory.len(), 5_000);
        for number in 1..=5_000 {
            let (index, record) = directory.find(meter(number).title).unwrap();
            assert_eq!(record.device(), (Device::Meter(MeterId(number)), 3));
            assert_eq!(directory.record(index).title(), meter(number).title);
            assert_eq!(record.meter_behind(GatewayId(9)), Some(MeterId(number)));
            assert_eq!(record.meter_behind(GatewayId(8)), None);
        }
        assert!(directory.find(meter(5_001).title).is_none());
        let title = meter(5_001).title;
        let full = DirectoryError::Full { title, devices_max: 5_000 };
        assert_eq!(directory.register(&meter(5_001)), Err(full));
    }

    #[test]
    fn the_window_outlives_all_but_a_change_of_keys() {
        let directory = Directory::new(3);
        directory.register(&meter(7)).unwrap();
        let accept = |counter| {
            directory.find(meter(7).title).map(|(_, record)| record.window.accept(counter).is_ok())
        };
        assert_eq!(accept(5), Some(true));
        directory
            .register(&Registration { template: 4, behind: GatewayId(1), ..meter(7) })
            .unwrap();
        assert_eq!(accept(5), Some(false));
        assert!(directory.remove(meter(7).title));
        assert_eq!(accept(6), None);
        assert!(!directory.remove(meter(7).title));
        directory.register(&meter(7)).unwrap();
        assert_eq!(accept(5), Some(false));
        directory.register(&Registration { encryption_key: [9; 16], ..meter(7) }).unwrap();
        assert_eq!(accept(5), Some(true));
    }

    #[test]
    fn windows_are_restored_by_device() {
        let gateway = Registration { device: Device::Gateway(GatewayId(2)), ..meter(1_000) };
        let directory = Directory::build(10, [meter(1), meter(2), gateway]).unwrap();
        let windows = [
            (Device::Meter(MeterId(2)), 100, 0b101),
            (Device::Meter(MeterId(77)), 5, 1),
            (Device::Gateway(GatewayId(2)), 9, 1),
        ];
        assert_eq!(directory.restore_windows(windows), 2);
        let check = |title, counter| directory.find(title).unwrap().1.window.check(counter).is_ok();
        assert!(check(meter(1).title, 100));
        assert!(!check(meter(2).title, 100) && check(meter(2).title, 99));
        assert!(!check(meter(2).title, 98) && !check(meter(2).title, 36));
        assert!(!check(gateway.title, 9) && check(gateway.title, 8));
    }

    #[test]
    fn readers_see_whole_records_while_a_writer_adds() {
        let (directory, done) = (Directory::new(20_000), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                (1..=20_000).for_each(|number| directory.register(&meter(number)).unwrap());
                done.store(true, Ordering::Release);
            });
            let mut next = 1;
            while !done.load(Ordering::Acquire) || next <= 20_000 {
                if let Some((_, record)) = directory.find(meter(next).title) {
                    assert_eq!(record.device().0, Device::Meter(MeterId(next)));
                    assert_eq!(record.keys().encryption, &[1; 16]);
                    next += 1;
                }
            }
        });
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", meter(7)), "Registration(0000000000000007 Meter(MeterId(7)))");
    }
}
