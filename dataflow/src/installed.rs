//! A meter while it serves one account: the newest register, the ring of its recent samples, and
//! what older samples its open gaps need. A meter that moves to another account starts a new one.

use std::collections::BTreeMap;

use meter::{AccountId, Energy, MeterId, Neighbours, Stored, TransformerId, UnixSeconds};

use crate::class::ClassIndex;
use crate::doctor::Suspect;
use crate::gap::Gaps;
use crate::parking::Parking;
use crate::ring::{RING, Ring};
use crate::router::LOTS;
use crate::sample::{Sample, boundary_at_or_after};
use crate::snapshot::layout;
use crate::stats::Stats;
use crate::usual::Usual;

/// Older samples a meter may hold for its open gaps; beyond, late readings ask the store.
const HELD_MAX: usize = 128;

/// No account is kept at this worker.
pub(crate) const NO_ACCOUNT: u32 = u32::MAX;

/// The end of an installation that has none.
pub(crate) const OPEN_END: UnixSeconds = UnixSeconds(u32::MAX);

/// A meter's installation: one cache line, which is all that a regular reading touches beside a
/// place of the ring.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(align(64))]
pub(crate) struct Meter {
    /// The newest accepted register and stamp; see [`Self::is_empty`].
    pub(crate) newest_register: Energy,
    pub(crate) newest: UnixSeconds,
    pub(crate) state: u8,
    head: u8,
    len: u8,
    /// Above this register, or after this instant, the running day is looked at.
    pub(crate) day_watch: u64,
    pub(crate) day_end: UnixSeconds,
    pub(crate) to: UnixSeconds,
    pub(crate) account: AccountId,
    pub(crate) account_slot: u32,
    pub(crate) class: ClassIndex,
    pub(crate) transformer: TransformerId,
    /// Start of the oldest open gap, the end of time when there is none.
    pub(crate) oldest_gap: UnixSeconds,
    pub(crate) alarms: u32,
    pub(crate) rest: Box<Rest>,
}

/// What a regular reading does not touch.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Rest {
    pub(crate) id: MeterId,
    pub(crate) from: UnixSeconds,
    /// The earliest sample, the base of billing.
    pub(crate) first: UnixSeconds,
    /// Samples up to here are kept when they leave the ring, with [`Meter::KEEPS`].
    keep_until: UnixSeconds,
    /// Energy of the interval that is not over, up to the newest sample; 0 on a boundary.
    pub(crate) open_energy: u64,
    pub(crate) usual: Usual,
    /// The register at the installation, with [`Meter::STARTED`].
    pub(crate) start: Energy,
    /// Samples of the interval that is not over, where it has any.
    pub(crate) open_stats: Option<Box<Stats>>,
    pub(crate) cold: Option<Box<Cold>>,
}

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
    /// Samples that leave the ring may have to be kept.
    const KEEPS: u8 = 1 << 7;

    /// A meter from `from` on, with nothing accepted.
    pub(crate) fn new(id: MeterId, account: AccountId, from: UnixSeconds) -> Self {
        let (to, account_slot) = (OPEN_END, NO_ACCOUNT);
        let rest = Box::new(Rest { id, from, ..Rest::default() });
        Self { account, account_slot, to, oldest_gap: OPEN_END, rest, ..Self::default() }
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

    pub(crate) fn serves_at(&self, at: UnixSeconds) -> bool {
        self.rest.from.0 <= at.0 && at.0 < self.to.0
    }

    /// Whether the newest sample was read, and nothing is absent just before it.
    pub(crate) fn is_last_actual(&self) -> bool {
        let before = self.newest.minus(1);
        let is_after_gap =
            self.rest.cold.as_ref().is_some_and(|cold| cold.gaps.around(before).is_some());
        !self.is_empty() && !self.has(Self::ANCHORED) && !is_after_gap
    }

    /// Up to here nothing is missing.
    pub(crate) fn complete_through(&self) -> UnixSeconds {
        self.newest.min(self.oldest_gap)
    }

    /// The lot it counts in for what may wait.
    pub(crate) fn lot(&self) -> u32 {
        (if self.account.is_some() { self.account.0 } else { self.rest.id.0 }) % LOTS
    }

    /// The place in the ring that the next sample takes.
    #[inline]
    pub(crate) fn next_place(&self) -> usize {
        let head = usize::from(self.head);
        if self.is_empty() || head >= RING - 1 { 0 } else { head + 1 }
    }

    pub(crate) fn cold(&mut self) -> &mut Cold {
        self.rest.cold.get_or_insert_default()
    }

    /// Stamp and register of the newest sample, and nothing else of it.
    #[inline]
    pub(crate) fn newest_register(&self) -> Option<Sample> {
        (!self.is_empty()).then(|| Sample::anchor(self.newest, self.newest_register))
    }

    /// The sample after the newest becomes the newest.
    #[inline(always)]
    pub(crate) fn push(&mut self, ring: &mut Ring<'_>, sample: &Sample) {
        let next = self.next_place();
        if usize::from(self.len) < RING {
            self.len += 1;
        } else if self.state & (Self::LINKED | Self::KEEPS) != 0 {
            self.let_leave(ring.at(next));
        }
        self.head = next as u8;
        (self.newest, self.newest_register) = (sample.at, sample.register);
        self.set(Self::ANCHORED, sample.has(Sample::ANCHOR));
        ring.put(next, sample);
    }

    /// The oldest sample of the ring makes place: it is held where a gap needs it.
    #[cold]
    fn let_leave(&mut self, leaving: Sample) {
        // The rows around a gap that begins at a boundary follow from nothing before it.
        let is_before_gaps = self.oldest_gap.is_boundary() && leaving.at < self.oldest_gap;
        if is_before_gaps && !self.has(Self::DIRTY) {
            self.set(Self::LINKED, false);
        } else if leaving.at <= self.rest.keep_until {
            self.hold(leaving);
        } else {
            self.keep_no_more();
            self.set(Self::LINKED, false);
        }
    }

    /// An accepted reading stands where the newest anchor did.
    pub(crate) fn replace_newest(&mut self, ring: &mut Ring<'_>, sample: Sample) {
        let place = usize::from(self.head);
        let flags = ring.at(place).flags & !Sample::ANCHOR;
        ring.put(place, &Sample { flags, ..sample });
        self.set(Self::ANCHORED, false);
    }

    fn keep_no_more(&mut self) {
        self.rest.keep_until = UnixSeconds(0);
        self.set(Self::KEEPS, false);
    }

    fn keep_until(&mut self, at: UnixSeconds) {
        self.rest.keep_until = self.rest.keep_until.max(at);
        self.set(Self::KEEPS, self.rest.keep_until.0 != 0);
    }

    /// Keeps what a gap that ends at `to` needs when it leaves the ring.
    pub(crate) fn keep_around(&mut self, to: UnixSeconds, period_s: u32) {
        let reach = boundary_at_or_after(to);
        let reach = if reach == to { to } else { reach.plus(period_s) };
        self.keep_until(reach);
    }

    /// All samples held, ascending; one whose predecessor is not held is marked lost.
    pub(crate) fn samples(&self, ring: &Ring<'_>, into: &mut Vec<Sample>) {
        into.clear();
        if let Some(cold) = &self.rest.cold {
            into.extend_from_slice(&cold.held);
        }
        let oldest = into.len();
        let len = usize::from(self.len);
        let start = if len == RING { usize::from(self.head) + 1 } else { 0 };
        into.extend((0..len).map(|i| ring.at(start + i)));
        if let Some(sample) = into.get_mut(oldest) {
            let is_known = self.has(Self::LINKED) || sample.at == self.rest.first;
            sample.flags = sample.flags & !Sample::LOST | if is_known { 0 } else { Sample::LOST };
        }
    }

    /// Takes back the samples after a change in the middle: the newest into the ring, and of the
    /// others those that open gaps and unwritten rows need.
    pub(crate) fn restore(&mut self, ring: &mut Ring<'_>, samples: &[Sample]) {
        let split = samples.len().saturating_sub(RING);
        let (older, recent) = samples.split_at(split);
        for (place, sample) in recent.iter().enumerate() {
            ring.put(place, sample);
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
            let is_known = is_linked && !sample.has(Sample::LOST) || sample.at == self.rest.first;
            let lost = if is_known { 0 } else { Sample::LOST };
            held.push(Sample { flags: sample.flags & !Sample::LOST | lost, ..*sample });
            is_linked = true;
        }
        let is_linked = is_linked && recent.first().is_some_and(|s| !s.has(Sample::LOST));
        self.set(Self::LINKED, is_linked);
        if self.rest.cold.is_some() || !held.is_empty() {
            self.cold().held = held;
            self.shed();
        }
        match samples.iter().zip(&needed).rfind(|(_, is_needed)| **is_needed) {
            Some((sample, _)) => self.keep_until(sample.at),
            None => self.keep_no_more(),
        }
    }

    /// The store's answer and what is held, together: all that is known around a question.
    pub(crate) fn merge(&self, ring: &Ring<'_>, answer: &Neighbours) -> Vec<Sample> {
        let mut known: BTreeMap<UnixSeconds, Sample> = BTreeMap::new();
        let epochs = self.rest.cold.as_ref().map_or(&[][..], |cold| &cold.epochs[..]);
        let readings = answer.readings.iter().filter(|r| self.serves_at(r.taken_at));
        for reading in readings {
            let is_epoch = epochs.contains(&reading.taken_at);
            let flags = if is_epoch { Sample::EPOCH } else { 0 };
            known.insert(reading.taken_at, Sample { flags, ..Sample::of(reading) });
        }
        // Nothing accepted lies before the window: the installation itself comes before.
        let is_from_start = known.keys().next().is_none_or(|first| *first >= answer.from);
        if is_from_start && self.has(Self::STARTED) {
            let Rest { from, start, .. } = *self.rest;
            known.entry(from).or_insert_with(|| Sample::anchor(from, start));
        }
        if let Some(mut first) = known.first_entry() {
            let is_first = first.get().at == self.rest.first;
            first.get_mut().flags |= if is_first { 0 } else { Sample::LOST };
        }
        let mut held = Vec::new();
        self.samples(ring, &mut held);
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
        let is_known = self.has(Self::LINKED) || leaving.at == self.rest.first;
        let lost = if is_known { 0 } else { Sample::LOST };
        self.cold().held.push(Sample { flags: leaving.flags & !Sample::LOST | lost, ..leaving });
        self.state |= Self::LINKED;
        self.shed();
    }

    /// Lets the oldest held samples go beyond the limit, but none that unwritten rows follow from:
    /// these begin with the quarter hour in which the sample before the rows' own lies.
    fn shed(&mut self) {
        let Some(cold) = &mut self.rest.cold else { return };
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

    /// Which samples the rows around an open gap, or unwritten ones, follow from; empty for none.
    fn needed(&self, samples: &[Sample]) -> Vec<bool> {
        let mut needed = Vec::new();
        for right in 1..samples.len() {
            let (from, to) = (samples[right - 1], samples[right]);
            let gaps = self.rest.cold.as_ref().map(|cold| &cold.gaps);
            let is_gap = gaps.is_some_and(|gaps| gaps.starts_at(from.at));
            if to.has(Sample::LOST) || !(is_gap || to.has(Sample::DIRTY)) {
                continue;
            }
            let (start, end) = (from.at.interval_start(), boundary_at_or_after(to.at));
            let low = samples.partition_point(|s| s.at <= start).saturating_sub(1).min(right - 1);
            let high = samples.partition_point(|s| s.at < end).min(samples.len() - 1);
            needed.resize(samples.len(), false);
            needed[low..=high].fill(true);
        }
        needed
    }
}

/// A meter with its ring, as a snapshot has it.
#[derive(Debug)]
pub(crate) struct Whole<M> {
    pub(crate) meter: M,
    pub(crate) ring: [Sample; RING],
}

/// As a layout, but for the boxes: an absent one is a zero byte.
impl Whole<&Meter> {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let Self { meter, ring } = self;
        let rest = &*meter.rest;
        for byte in [meter.state & !Meter::KEEPS, meter.head, meter.len] {
            byte.put(out);
        }
        for at in [meter.newest, meter.day_end, rest.from, meter.to, rest.first] {
            at.put(out);
        }
        for at in [meter.oldest_gap, rest.keep_until] {
            at.put(out);
        }
        meter.newest_register.put(out);
        meter.day_watch.put(out);
        rest.id.put(out);
        meter.account.put(out);
        meter.transformer.put(out);
        meter.alarms.put(out);
        rest.open_energy.put(out);
        rest.usual.put(out);
        rest.start.put(out);
        ring.put(out);
        put_box(rest.open_stats.as_deref(), out);
        put_box(rest.cold.as_deref(), out);
    }
}

impl Whole<Meter> {
    pub(crate) fn take(bytes: &mut &[u8]) -> Option<Self> {
        let [state, head, len] = <[u8; 3]>::take(bytes)?;
        if usize::from(len) > RING || usize::from(head) >= RING {
            return None;
        }
        let (mut meter, mut rest) = (Meter::default(), Rest::default());
        (meter.state, meter.head, meter.len) = (state, head, len);
        [meter.newest, meter.day_end, rest.from, meter.to, rest.first] = Stored::take(bytes)?;
        [meter.oldest_gap, rest.keep_until] = Stored::take(bytes)?;
        meter.set(Meter::KEEPS, rest.keep_until.0 != 0);
        meter.newest_register = Stored::take(bytes)?;
        meter.day_watch = Stored::take(bytes)?;
        rest.id = Stored::take(bytes)?;
        meter.account = Stored::take(bytes)?;
        meter.account_slot = NO_ACCOUNT;
        meter.transformer = Stored::take(bytes)?;
        meter.alarms = Stored::take(bytes)?;
        rest.open_energy = Stored::take(bytes)?;
        rest.usual = Stored::take(bytes)?;
        rest.start = Stored::take(bytes)?;
        let ring = Stored::take(bytes)?;
        rest.open_stats = take_box(bytes)?;
        rest.cold = take_box(bytes)?;
        meter.rest = Box::new(rest);
        Some(Self { meter, ring })
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

// The hot path reads and writes one for each reading: keep it within a cache line.
const _: () = assert!(size_of::<Meter>() == 64);
