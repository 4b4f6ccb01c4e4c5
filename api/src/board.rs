//! Boards: where each meter and account stands now, for readers that never wait.
//!
//! A slot is one cache line of 64 bytes: a version and seven words, indexed by the dense id. The
//! one writer makes the version odd, writes the words and makes the version even again; a reader
//! takes the words and keeps them only if the version was even and the same before and after (a
//! seqlock over atomics). A slot never written has version 0. Memory comes in chunks of
//! [`CHUNK`] slots (256 KiB) when the first id of a chunk is published.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use meter::{
    AccountId, BalanceRow, Cause, Current, Energy, Fields, Frequency, LedgerKind, LedgerRow,
    MeterId, Money, Power, PowerFactor, ReactivePower, Reading, Relay, Seq, UnixSeconds, Voltage,
};
use thiserror::Error;

/// Words of content in a slot.
const WORDS: usize = 7;
/// Slots that come into being together.
const CHUNK: usize = 4096;
/// Version of [`Board::encode`].
const FORMAT: u8 = 1;

/// A value that fits a slot.
pub trait Content: Copy {
    /// As seven words.
    fn to_words(self) -> [u64; WORDS];
    /// From seven words that [`Content::to_words`] made.
    fn from_words(words: [u64; WORDS]) -> Self;
}

/// Why a board cannot take something.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum BoardError {
    /// The id is beyond the board.
    #[error("id {id} is above {ids_max}, the limit of this board")]
    Id {
        /// The id.
        id: u32,
        /// The greatest id the board takes.
        ids_max: u32,
    },
    /// The bytes are not a board of this version.
    #[error("bytes of a board are damaged or of a later version")]
    Bytes,
}

#[repr(align(64))]
#[derive(Default)]
struct Slot {
    version: AtomicU64,
    words: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Slot>() == 64);

/// The readers' side of a board.
pub struct Board<T> {
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    ids_max: u32,
    content: PhantomData<fn() -> T>,
}

/// The writer's side; there is one, and it is not cloned.
#[derive(Debug)]
pub struct BoardWriter<T> {
    board: Arc<Board<T>>,
}

impl<T> fmt::Debug for Board<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("ids_max", &self.ids_max).finish_non_exhaustive()
    }
}

impl<T: Content> Board<T> {
    /// A board for ids up to `ids_max`, empty, with its writer.
    #[must_use]
    pub fn create(ids_max: u32) -> (BoardWriter<T>, Arc<Self>) {
        let count = index_of(ids_max) / CHUNK + 1;
        let chunks = (0..count).map(|_| OnceLock::new()).collect();
        let board = Arc::new(Self { chunks, ids_max, content: PhantomData });
        (BoardWriter { board: Arc::clone(&board) }, board)
    }

    /// What stands in a slot; `None` when nothing was ever published there.
    #[must_use]
    pub fn read(&self, id: u32) -> Option<T> {
        let index = index_of(id);
        let slot = self.chunks.get(index / CHUNK)?.get()?.get(index % CHUNK)?;
        loop {
            // Acquire: the words are read after the version.
            let before = slot.version.load(Ordering::Acquire);
            if before == 0 {
                return None;
            }
            let words = std::array::from_fn(|word| {
                // Relaxed: the fence below and the version decide whether they belong together.
                slot.words.get(word).map_or(0, |word| word.load(Ordering::Relaxed))
            });
            // Acquire fence: the version is read again after the words.
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && slot.version.load(Ordering::Relaxed) == before {
                return Some(T::from_words(words));
            }
            // The writer is at it: a few nanoseconds, or a time slice when it was interrupted.
            std::thread::yield_now();
        }
    }

    /// Appends every published slot, for a snapshot: version byte, count (4), then id (4) and
    /// seven words (8 each), little endian, ids ascending.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        let count_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let mut count = 0_u32;
        for (chunk_index, chunk) in self.chunks.iter().enumerate() {
            let slots = chunk.get().map_or(0, |slots| slots.len());
            for slot_index in 0..slots {
                let Ok(id) = u32::try_from(chunk_index * CHUNK + slot_index) else { continue };
                let Some(content) = self.read(id) else { continue };
                count += 1;
                out.extend_from_slice(&id.to_le_bytes());
                for word in content.to_words() {
                    out.extend_from_slice(&word.to_le_bytes());
                }
            }
        }
        out[count_at..count_at + 4].copy_from_slice(&count.to_le_bytes());
    }
}

impl<T: Content> BoardWriter<T> {
    /// The readers' side.
    #[must_use]
    pub fn board(&self) -> &Arc<Board<T>> {
        &self.board
    }

    /// Publishes a value.
    ///
    /// # Errors
    /// [`BoardError::Id`] beyond the board's bound.
    pub fn publish(&mut self, id: u32, value: T) -> Result<(), BoardError> {
        let ids_max = self.board.ids_max;
        if id > ids_max {
            return Err(BoardError::Id { id, ids_max });
        }
        let index = index_of(id);
        let chunk = self.board.chunks.get(index / CHUNK);
        let chunk = chunk.expect("chunks reach up to ids_max");
        let slots = chunk.get_or_init(|| (0..CHUNK).map(|_| Slot::default()).collect());
        let slot = slots.get(index % CHUNK).expect("a chunk has CHUNK slots");
        // Relaxed: only this writer changes versions.
        let version = slot.version.load(Ordering::Relaxed);
        slot.version.store(version + 1, Ordering::Relaxed);
        // Release fence: the odd version is seen before any of the new words.
        fence(Ordering::Release);
        for (word, new) in slot.words.iter().zip(value.to_words()) {
            word.store(new, Ordering::Relaxed);
        }
        // Release: the words are seen before the even version.
        slot.version.store(version + 2, Ordering::Release);
        Ok(())
    }

    /// Publishes what [`Board::encode`] wrote and returns how many slots that were.
    ///
    /// # Errors
    /// [`BoardError::Bytes`] for bytes of another make, [`BoardError::Id`].
    pub fn decode(&mut self, bytes: &[u8]) -> Result<u32, BoardError> {
        let (format, rest) = bytes.split_first().ok_or(BoardError::Bytes)?;
        let (count, mut rest) = rest.split_first_chunk::<4>().ok_or(BoardError::Bytes)?;
        let count = u32::from_le_bytes(*count);
        if *format != FORMAT {
            return Err(BoardError::Bytes);
        }
        for _ in 0..count {
            let (id, tail) = rest.split_first_chunk::<4>().ok_or(BoardError::Bytes)?;
            rest = tail;
            let mut words = [0; WORDS];
            for word in &mut words {
                let (bytes, tail) = rest.split_first_chunk::<8>().ok_or(BoardError::Bytes)?;
                (*word, rest) = (u64::from_le_bytes(*bytes), tail);
            }
            self.publish(u32::from_le_bytes(*id), T::from_words(words))?;
        }
        if rest.is_empty() { Ok(count) } else { Err(BoardError::Bytes) }
    }
}

/// What a meter said last.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Latest {
    /// The meter's stamp.
    pub taken_at: UnixSeconds,
    /// When it arrived.
    pub received_at: UnixSeconds,
    /// Cumulative register.
    pub register: Energy,
    /// Voltages of the phases.
    pub voltage: [Voltage; 3],
    /// Currents of the phases.
    pub current: [Current; 3],
    /// Active power.
    pub power: Power,
    /// Reactive power.
    pub reactive: ReactivePower,
    /// Mains frequency.
    pub frequency: Frequency,
    /// Power factor.
    pub power_factor: PowerFactor,
    /// Which of these it sent.
    pub fields: Fields,
}

impl From<&Reading> for Latest {
    fn from(reading: &Reading) -> Self {
        Self {
            taken_at: reading.taken_at,
            received_at: reading.received_at,
            register: reading.register,
            voltage: reading.voltage,
            current: reading.current,
            power: reading.power,
            reactive: reading.reactive,
            frequency: reading.frequency,
            power_factor: reading.power_factor,
            fields: reading.fields,
        }
    }
}

impl Latest {
    /// The relay's state, where the meter told it.
    #[must_use]
    pub fn relay(&self) -> Option<Relay> {
        Reading { fields: self.fields, ..Reading::default() }.relay()
    }
}

impl Content for Latest {
    fn to_words(self) -> [u64; WORDS] {
        let [v1, v2, v3] = self.voltage.map(Voltage::mv);
        let [i1, i2, i3] = self.current.map(Current::ma);
        let small = u32::from(u16::from_le_bytes(self.power_factor.milli().to_le_bytes())) << 16
            | u32::from(self.fields.0);
        [
            self.register.wh(),
            pair(self.taken_at.0, self.received_at.0),
            pair(v1, v2),
            pair(v3, i1),
            pair(i2, i3),
            pair(self.power.w().cast_unsigned(), self.reactive.var().cast_unsigned()),
            pair(self.frequency.mhz(), small),
        ]
    }

    fn from_words(words: [u64; WORDS]) -> Self {
        let [register, stamps, v12, v3i1, i23, powers, last] = words;
        let (taken_at, received_at) = halves(stamps);
        let ((v1, v2), (v3, i1), (i2, i3)) = (halves(v12), halves(v3i1), halves(i23));
        let (power, reactive) = halves(powers);
        let (frequency, small) = halves(last);
        let [fields_low, fields_high, factor_low, factor_high] = small.to_le_bytes();
        Self {
            taken_at: UnixSeconds(taken_at),
            received_at: UnixSeconds(received_at),
            register: Energy::from_wh(register),
            voltage: [v1, v2, v3].map(Voltage::from_mv),
            current: [i1, i2, i3].map(Current::from_ma),
            power: Power::from_w(power.cast_signed()),
            reactive: ReactivePower::from_var(reactive.cast_signed()),
            frequency: Frequency::from_mhz(frequency),
            power_factor: PowerFactor::from_milli(i16::from_le_bytes([factor_low, factor_high])),
            fields: Fields(u16::from_le_bytes([fields_low, fields_high])),
        }
    }
}

impl BoardWriter<Latest> {
    /// Publishes an accepted reading unless a newer one stands there.
    ///
    /// # Errors
    /// [`BoardError::Id`].
    pub fn reading(&mut self, reading: &Reading) -> Result<(), BoardError> {
        let stands = self.board.read(reading.meter.0);
        if stands.is_some_and(|latest| latest.taken_at > reading.taken_at) {
            return Ok(());
        }
        self.publish(reading.meter.0, reading.into())
    }
}

/// Where an account stands.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    /// The balance.
    pub balance: Money,
    /// The newest accepted stamp of its meter; zero when there is none.
    pub as_of: UnixSeconds,
    /// Up to here nothing is missing.
    pub complete_through: UnixSeconds,
    /// The entry that made it so.
    pub seq: Seq,
    /// Its meter, or none.
    pub meter: MeterId,
    /// What its last switch to prepaid made a debt; zero where it made none.
    pub switch_debt: Money,
    /// When that switch was.
    pub switch_at: UnixSeconds,
}

impl Content for Standing {
    fn to_words(self) -> [u64; WORDS] {
        let balance = self.balance.ticks().cast_unsigned();
        let stamps = pair(self.as_of.0, self.complete_through.0);
        let debt = self.switch_debt.ticks().cast_unsigned();
        let (meter, switch) = (u64::from(self.meter.0), u64::from(self.switch_at.0));
        [balance, stamps, self.seq.0, meter, debt, switch, 0]
    }

    fn from_words([balance, stamps, seq, meter, debt, switch, _]: [u64; WORDS]) -> Self {
        let (as_of, complete_through) = halves(stamps);
        Self {
            balance: Money::from_ticks(balance.cast_signed()),
            as_of: UnixSeconds(as_of),
            complete_through: UnixSeconds(complete_through),
            seq: Seq(seq),
            meter: MeterId(halves(meter).1),
            switch_debt: Money::from_ticks(debt.cast_signed()),
            switch_at: UnixSeconds(halves(switch).1),
        }
    }
}

impl BoardWriter<Standing> {
    /// Publishes a row of the books; a supply meter's row, which has no account, is passed over.
    ///
    /// # Errors
    /// [`BoardError::Id`].
    pub fn balance(&mut self, row: &BalanceRow) -> Result<(), BoardError> {
        if row.account == AccountId::NONE {
            return Ok(());
        }
        let BalanceRow { balance, as_of, complete_through, seq, meter, .. } = *row;
        let stood = self.board.read(row.account.0).unwrap_or_default();
        let stands = Standing { balance, as_of, complete_through, seq, meter, ..stood };
        self.publish(row.account.0, stands)
    }

    /// Publishes the debt that a switch to prepaid made; other movements are passed over. The
    /// registry takes note of it from here, as only the books know how much was owed.
    ///
    /// # Errors
    /// [`BoardError::Id`].
    pub fn movement(&mut self, row: &LedgerRow) -> Result<(), BoardError> {
        let (LedgerKind::DebtAgreed, Cause::Period(switch_at)) = (row.kind, row.cause) else {
            return Ok(());
        };
        let stood = self.board.read(row.account.0).unwrap_or_default();
        self.publish(row.account.0, Standing { switch_debt: row.amount, switch_at, ..stood })
    }
}

fn index_of(id: u32) -> usize {
    usize::try_from(id).expect("a pointer has at least 32 bits")
}

fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latest(seed: u32) -> Latest {
        Latest {
            taken_at: UnixSeconds(seed),
            received_at: UnixSeconds(seed ^ 1),
            register: Energy::from_wh(u64::from(seed) << 20 | 5),
            voltage: [1, 2, 3].map(|n| Voltage::from_mv(seed ^ n)),
            current: [4, 5, 6].map(|n| Current::from_ma(seed ^ n)),
            power: Power::from_w(-7),
            reactive: ReactivePower::from_var(i32::MIN),
            frequency: Frequency::from_mhz(49_987),
            power_factor: PowerFactor::from_milli(-998),
            fields: Fields(0xC3A5),
        }
    }

    #[test]
    fn contents_survive_the_words() {
        for seed in [0, 1, u32::MAX, 0x8000_0000] {
            assert_eq!(Latest::from_words(latest(seed).to_words()), latest(seed));
        }
        let standing = Standing {
            balance: Money::from_ticks(i64::MIN),
            as_of: UnixSeconds(u32::MAX),
            complete_through: UnixSeconds(1),
            seq: Seq(u64::MAX),
            meter: MeterId(u32::MAX),
            switch_debt: Money::from_ticks(i64::MAX),
            switch_at: UnixSeconds(u32::MAX),
        };
        assert_eq!(Standing::from_words(standing.to_words()), standing);
    }

    #[test]
    fn slots_are_empty_until_published() {
        let (mut writer, board) = Board::<Latest>::create(10_000);
        assert_eq!(board.read(5), None);
        writer.publish(5, latest(1)).unwrap();
        assert_eq!(board.read(5), Some(latest(1)));
        assert_eq!((board.read(4), board.read(9_999), board.read(u32::MAX)), (None, None, None));
        writer.publish(10_000, latest(2)).unwrap();
        let beyond = writer.publish(10_001, latest(2));
        assert_eq!(beyond, Err(BoardError::Id { id: 10_001, ids_max: 10_000 }));
    }

    #[test]
    fn an_older_reading_does_not_replace_a_newer() {
        let (mut writer, board) = Board::<Latest>::create(10);
        let reading = |stamp| Reading {
            meter: MeterId(1),
            taken_at: UnixSeconds(stamp),
            ..Reading::default()
        };
        for stamp in [900, 1800, 900] {
            writer.reading(&reading(stamp)).unwrap();
        }
        assert_eq!(board.read(1).unwrap().taken_at, UnixSeconds(1800));
    }

    #[test]
    fn a_board_survives_a_snapshot_and_damage_is_refused() {
        let (mut writer, board) = Board::<Latest>::create(10_000);
        for id in [1, 4_095, 4_096, 10_000] {
            writer.publish(id, latest(id)).unwrap();
        }
        let mut bytes = Vec::new();
        board.encode(&mut bytes);
        let (mut copy_writer, copy) = Board::<Latest>::create(10_000);
        assert_eq!(copy_writer.decode(&bytes), Ok(4));
        assert_eq!(copy.read(4_096), Some(latest(4_096)));
        for cut in 0..bytes.len() {
            assert!(copy_writer.decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        bytes.push(0);
        assert_eq!(copy_writer.decode(&bytes), Err(BoardError::Bytes));
    }

    /// Every word of a value is the same number, so a mix of two values shows.
    #[derive(Clone, Copy)]
    struct Same([u64; WORDS]);

    impl Content for Same {
        fn to_words(self) -> [u64; WORDS] {
            self.0
        }

        fn from_words(words: [u64; WORDS]) -> Self {
            Self(words)
        }
    }

    #[test]
    fn readers_never_see_half_a_value() {
        const ROUNDS: u64 = 200_000;
        let (mut writer, board) = Board::<Same>::create(1);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut newest = 0;
                    while newest < ROUNDS {
                        let Some(Same(words)) = board.read(1) else { continue };
                        assert!(words.iter().all(|word| *word == words[0]), "torn: {words:?}");
                        assert!(words[0] >= newest, "went back from {newest} to {}", words[0]);
                        newest = words[0];
                    }
                });
            }
            for round in 1..=ROUNDS {
                writer.publish(1, Same([round; WORDS])).unwrap();
            }
        });
    }
}
