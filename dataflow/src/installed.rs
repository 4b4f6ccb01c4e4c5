//! A meter while it serves one account: the newest register, a ring of recent samples, and what
//! older samples its open gaps need. A meter that moves to another account starts a new one.

use std::collections::BTreeMap;

use meter::{AccountId, Energy, MeterId, Neighbours, Stored, TransformerId, UnixSeconds};

use crate::class::ClassIndex;
use crate::doctor::Suspect;
use crate::gap::Gaps;
use crate::parking::Parking;
use crate::router::LOTS;
use crate::sample::{Sample, boundary_at_or_after};
use crate::snapshot::layout;
use crate::stats::Stats;
use crate::usual::Usual;

/// Recent samples of a meter that are always held.
pub(crate) const RING: usize = 4;

/// Older samples a meter may hold for its open gaps; beyond, late readings ask the store.
const HELD_MAX: usize = 128;

/// No account is kept at this worker.
pub(crate) const NO_ACCOUNT: u32 = u32::MAX;

/// The end of an installation that has none.
pub(crate) const OPEN_END: UnixSeconds = UnixSeconds(u32::MAX);

/// A meter's installation. The first cache line, and one of the ring, are all that a usual reading
/// touches.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Meter {
    /// The newest accepted stamp and register; see [`Self::is_empty`].
    pub(crate) newest: UnixSeconds,
    pub(crate) state: u8,
    head: u8,
    len: u8,
    pub(crate) newest_register: Energy,
    /// Above this register, or after this instant, the running day is looked at.
    pub(crate) day_watch: u64,
    pub(crate) day_end: UnixSeconds,
    pub(crate) to: UnixSeconds,
    pub(crate) id: MeterId,
    pub(crate) account: AccountId,
    pub(crate) account_slot: u32,
    pub(crate) class: ClassIndex,
    pub(crate) transformer: TransformerId,
    /// Start of the oldest open gap, the end of time when there is none.
    pub(crate) oldest_gap: UnixSeconds,
    /// Samples up to here are kept when they leave the ring.
    keep_until: UnixSeconds,
    pub(crate) alarms: u32,
    ring: [Place; RING],
    pub(crate) from: UnixSeconds,
    /// The earliest sample, the base of billing.
    pub(crate) first: UnixSeconds,
    /// Energy of the interval that is not over, up to the newest sample; 0 on a boundary.
    pub(crate) open_energy: u64,
    pub(crate) usual: Usual,
    /// The register at the installation, with [`Self::STARTED`].
    pub(crate) start: Energy,
    /// Samples of the interval that is not over, where it has any.
    pub(crate) open_stats: Option<Box<Stats>>,
    pub(crate) cold: Option<Box<Cold>>,
}

/// A place of the ring: a cache line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(align(64))]
struct Place(Sample);

/// What few meters need.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Cold {
    /// Samples older than the ring, ascending.
    held: Vec<Sample>,
    pub(crate) gaps: Gaps,
    /// Stamps at which a register broke and a new one began.
    pub(crate) epochs: Vec<UnixSeconds>,
    pub(crate) suspect: Vec<Suspect>,
    pub(crate) parking: Parking,
}

layout!(Cold { held, gaps, epochs, suspect, parking });

impl Meter {
    /// A sample stands exactly at the start of the interval that is not over, and no break since.
    pub(crate) const EXACT: u8 = 1;
    /// The oldest sample of the ring follows the newest of the held ones.
    const LINKED: u8 = 1 << 1;
    /// Measures what a transformer supplies.
    pub(crate) const SUPPLY: u8 = 1 << 2;
    /// The gap after the newest reading is known.
    pub(crate) const TAIL_GAP: u8 = 1 << 3;
    /// Rows wait for a tick.
    pub(crate) const DIRTY: u8 = 1 << 4;
    /// The register at the installation is known.
    pub(crate) const STARTED: u8 = 1 << 6;
    /// The newest sample is an anchor.
    pub(crate) const ANCHORED: u8 = 1 << 5;

    /// A meter from `from` on, with nothing accepted.
    pub(crate) fn new(id: MeterId, account: AccountId, from: UnixSeconds) -> Self {
        let (to, account_slot) = (OPEN_END, NO_ACCOUNT);
        Self { id, account, account_slot, from, to, oldest_gap: OPEN_END, ..Self::default() }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.state & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u8, on: bool) {
        self.state = if on { self.state | flag } else { self.state & !flag };
    }

    pub(crate) const fn serves_at(&self, at: UnixSeconds) -> bool {
        self.from.0 <= at.0 && at.0 < self.to.0
    }

    /// Whether the newest sample was read, and nothing is absent just before it.
    pub(crate) fn is_last_actual(&self) -> bool {
        let before = self.newest.minus(1);
        let is_after_gap =
            self.cold.as_ref().is_some_and(|cold| cold.gaps.around(before).is_some());
        !self.is_empty() && !self.has(Self::ANCHORED) && !is_after_gap
    }

    /// Up to here nothing is missing.
    pub(crate) fn complete_through(&self) -> UnixSeconds {
        self.newest.min(self.oldest_gap)
    }

    /// The lot it counts in for what may wait.
    pub(crate) const fn lot(&self) -> u32 {
        (if self.account.is_some() { self.account.0 } else { self.id.0 }) % LOTS
    }

    /// Reads a little of what a reading in order needs; see the touch-ahead of the books. The place
    /// in the ring is written only, which nothing waits for.
    #[inline]
    pub(crate) fn touch(&self) -> u64 {
        self.newest_register.wh()
    }

    /// The place in the ring that the next sample takes.
    #[inline]
    fn next_place(&self) -> usize {
        let head = usize::from(self.head);
        if self.is_empty() || head >= RING - 1 { 0 } else { head + 1 }
    }

    pub(crate) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// Stamp and register of the newest sample, and nothing else of it.
    #[inline]
    pub(crate) fn newest_register(&self) -> Option<Sample> {
        (!self.is_empty()).then(|| Sample::anchor(self.newest, self.newest_register))
    }

    /// The sample after the newest becomes the newest.
    #[inline]
    pub(crate) fn push(&mut self, sample: Sample) {
        let next = self.next_place();
        if usize::from(self.len) < RING {
            self.len += 1;
        } else if self.state & Self::LINKED != 0 || self.keep_until.0 != 0 {
            self.let_leave(self.ring[next].0);
        }
        self.ring[next].0 = sample;
        self.head = next as u8;
        self.newest = sample.at;
        self.newest_register = sample.register;
        self.set(Self::ANCHORED, sample.has(Sample::ANCHOR));
    }

    /// The oldest sample of the ring makes place: it is held where a gap needs it.
    #[cold]
    fn let_leave(&mut self, leaving: Sample) {
        if leaving.at <= self.keep_until {
            self.hold(leaving);
        } else {
            self.keep_until = UnixSeconds(0);
            self.state &= !Self::LINKED;
        }
    }

    /// An accepted reading stands where the newest anchor did.
    pub(crate) fn replace_newest(&mut self, sample: Sample) {
        let head = usize::from(self.head);
        let flags = self.ring[head].0.flags & !Sample::ANCHOR;
        self.ring[head].0 = Sample { flags, ..sample };
        self.set(Self::ANCHORED, false);
    }

    /// Keeps what a gap that ends at `to` needs when it leaves the ring.
    pub(crate) fn keep_around(&mut self, to: UnixSeconds, period_s: u32) {
        let reach = boundary_at_or_after(to);
        let reach = if reach == to { to } else { reach.plus(period_s) };
        self.keep_until = self.keep_until.max(reach);
    }

    /// All samples held, ascending; one whose predecessor is not held is marked lost.
    pub(crate) fn samples(&self, into: &mut Vec<Sample>) {
        into.clear();
        if let Some(cold) = &self.cold {
            into.extend_from_slice(&cold.held);
        }
        let oldest = into.len();
        let len = usize::from(self.len);
        let start = if len == RING { usize::from(self.head) + 1 } else { 0 };
        into.extend((0..len).map(|i| self.ring[(start + i) % RING].0));
        if let Some(sample) = into.get_mut(oldest) {
            let is_known = self.has(Self::LINKED) || sample.at == self.first;
            sample.flags = sample.flags & !Sample::LOST | if is_known { 0 } else { Sample::LOST };
        }
    }

    /// Takes back the samples after a change in the middle: the newest into the ring, and of the
    /// others those that open gaps and unwritten rows need.
    pub(crate) fn restore(&mut self, samples: &[Sample]) {
        let split = samples.len().saturating_sub(RING);
        let (older, recent) = samples.split_at(split);
        for (place, sample) in self.ring.iter_mut().zip(recent) {
            place.0 = *sample;
        }
        self.len = recent.len() as u8;
        self.head = self.len.saturating_sub(1);
        if let Some(newest) = recent.last() {
            (self.newest, self.newest_register) = (newest.at, newest.register);
            self.state &= !Self::ANCHORED;
            self.set(Self::ANCHORED, newest.has(Sample::ANCHOR));
        }
        let needed = self.needed(samples);
        let mut held: Vec<Sample> = Vec::new();
        let mut is_linked = false;
        for (sample, is_needed) in older.iter().zip(&needed) {
            if !is_needed {
                is_linked = false;
                continue;
            }
            let is_known = is_linked && !sample.has(Sample::LOST) || sample.at == self.first;
            let lost = if is_known { 0 } else { Sample::LOST };
            held.push(Sample { flags: sample.flags & !Sample::LOST | lost, ..*sample });
            is_linked = true;
        }
        let is_linked = is_linked && recent.first().is_some_and(|s| !s.has(Sample::LOST));
        self.set(Self::LINKED, is_linked);
        if self.cold.is_some() || !held.is_empty() {
            self.cold().held = held;
            self.shed();
        }
        for (index, sample) in samples.iter().enumerate().skip(split) {
            if needed[index] {
                self.keep_until = self.keep_until.max(sample.at);
            }
        }
    }

    /// The store's answer and what is held, together: all that is known around a question.
    pub(crate) fn merge(&self, answer: &Neighbours) -> Vec<Sample> {
        let mut known: BTreeMap<UnixSeconds, Sample> = BTreeMap::new();
        let epochs = self.cold.as_ref().map_or(&[][..], |cold| &cold.epochs[..]);
        let readings = answer.readings.iter().filter(|r| self.serves_at(r.taken_at));
        for reading in readings {
            let is_epoch = epochs.contains(&reading.taken_at);
            let flags = if is_epoch { Sample::EPOCH } else { 0 };
            known.insert(reading.taken_at, Sample { flags, ..Sample::of(reading) });
        }
        // Nothing accepted lies before the window: the installation itself comes before.
        let is_from_start = known.keys().next().is_none_or(|first| *first >= answer.from);
        if is_from_start && self.has(Self::STARTED) {
            known.entry(self.from).or_insert_with(|| Sample::anchor(self.from, self.start));
        }
        if let Some(mut first) = known.first_entry() {
            let is_first = first.get().at == self.first;
            first.get_mut().flags |= if is_first { 0 } else { Sample::LOST };
        }
        let mut held = Vec::new();
        self.samples(&mut held);
        for sample in held {
            let entry = known.entry(sample.at).or_insert(sample);
            // What both know is linked when either says so.
            let lost = entry.flags & sample.flags & Sample::LOST;
            *entry =
                Sample { flags: (entry.flags | sample.flags) & !Sample::LOST | lost, ..*entry };
            if !sample.has(Sample::ANCHOR) {
                entry.flags &= !Sample::ANCHOR;
            }
        }
        known.into_values().collect()
    }

    #[cold]
    fn hold(&mut self, leaving: Sample) {
        let is_known = self.has(Self::LINKED) || leaving.at == self.first;
        let lost = if is_known { 0 } else { Sample::LOST };
        self.cold().held.push(Sample { flags: leaving.flags & !Sample::LOST | lost, ..leaving });
        self.state |= Self::LINKED;
        self.shed();
    }

    /// Lets the oldest held samples go beyond the limit, but none that unwritten rows follow from:
    /// these begin with the quarter hour in which the sample before the rows' own lies.
    fn shed(&mut self) {
        let Some(cold) = &mut self.cold else { return };
        let Some(beyond) = cold.held.len().checked_sub(HELD_MAX).filter(|beyond| *beyond > 0)
        else {
            return;
        };
        let unwritten = cold.held.iter().position(|s| s.has(Sample::DIRTY));
        let free = unwritten.map_or(cold.held.len() - 1, |right| {
            let start = cold.held[right.saturating_sub(1)].at.interval_start();
            cold.held.partition_point(|s| s.at <= start).saturating_sub(1)
        });
        if cold.held.drain(..beyond.min(free)).next().is_some() {
            cold.held[0].flags |= Sample::LOST;
        }
    }

    /// Which samples the rows around an open gap, or unwritten ones, follow from.
    fn needed(&self, samples: &[Sample]) -> Vec<bool> {
        let mut needed = vec![false; samples.len()];
        for right in 1..samples.len() {
            let (from, to) = (samples[right - 1], samples[right]);
            let gaps = self.cold.as_ref().map(|cold| &cold.gaps);
            let is_gap = gaps.is_some_and(|gaps| gaps.starts_at(from.at));
            if to.has(Sample::LOST) || !(is_gap || to.has(Sample::DIRTY)) {
                continue;
            }
            let (start, end) = (from.at.interval_start(), boundary_at_or_after(to.at));
            let low = samples.partition_point(|s| s.at <= start).saturating_sub(1).min(right - 1);
            let high = samples.partition_point(|s| s.at < end).min(samples.len() - 1);
            needed[low..=high].fill(true);
        }
        needed
    }
}

/// As a layout, but for the boxes: an absent one is a zero byte.
impl Stored for Meter {
    fn put(&self, out: &mut Vec<u8>) {
        for byte in [self.state, self.head, self.len] {
            byte.put(out);
        }
        for at in [self.newest, self.day_end, self.from, self.to, self.first] {
            at.put(out);
        }
        for at in [self.oldest_gap, self.keep_until] {
            at.put(out);
        }
        self.newest_register.put(out);
        self.day_watch.put(out);
        self.id.put(out);
        self.account.put(out);
        self.transformer.put(out);
        self.alarms.put(out);
        self.open_energy.put(out);
        self.usual.put(out);
        self.start.put(out);
        self.ring.map(|place| place.0).put(out);
        put_box(self.open_stats.as_deref(), out);
        put_box(self.cold.as_deref(), out);
    }

    fn take(bytes: &mut &[u8]) -> Option<Self> {
        let [state, head, len] = <[u8; 3]>::take(bytes)?;
        if usize::from(len) > RING || usize::from(head) >= RING {
            return None;
        }
        let [newest, day_end, from, to, first] = Stored::take(bytes)?;
        let [oldest_gap, keep_until] = Stored::take(bytes)?;
        Some(Self {
            state,
            head,
            len,
            newest,
            day_end,
            from,
            to,
            first,
            oldest_gap,
            keep_until,
            newest_register: Stored::take(bytes)?,
            day_watch: Stored::take(bytes)?,
            id: Stored::take(bytes)?,
            account: Stored::take(bytes)?,
            account_slot: NO_ACCOUNT,
            class: 0,
            transformer: Stored::take(bytes)?,
            alarms: Stored::take(bytes)?,
            open_energy: Stored::take(bytes)?,
            usual: Stored::take(bytes)?,
            start: Stored::take(bytes)?,
            ring: <[Sample; RING]>::take(bytes)?.map(Place),
            open_stats: take_box(bytes)?,
            cold: take_box(bytes)?,
        })
    }
}

fn put_box<T: Stored>(value: Option<&T>, out: &mut Vec<u8>) {
    u8::from(value.is_some()).put(out);
    if let Some(value) = value {
        value.put(out);
    }
}

#[expect(clippy::option_option, reason = "cut short, absent and present are three things")]
fn take_box<T: Stored>(bytes: &mut &[u8]) -> Option<Option<Box<T>>> {
    match u8::take(bytes)? {
        0 => Some(None),
        _ => T::take(bytes).map(|value| Some(Box::new(value))),
    }
}

// One line of hot fields, then a line for each place of the ring.
const _: () = assert!(std::mem::offset_of!(Meter, ring) == 64 && size_of::<Meter>() <= 448);
