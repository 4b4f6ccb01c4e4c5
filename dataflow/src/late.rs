//! A late reading: it comes between two neighbours, and what was computed across them is computed
//! again. Where a sample that this needs is no longer held, nothing changes and the store is asked.

use meter::{INTERVAL_S, IntervalQuality, LedgerKind, Outcome, QuarantineReason, UnixSeconds};

use crate::desk::{Desk, Metered, Parts};
use crate::installed::{Meter, OPEN_END};
use crate::interval::touched;
use crate::parking::Window;
use crate::rates::Cell;
use crate::sample::{Pair, Sample, boundary_at_or_after};
use crate::stats::Stats;

/// Rows of more intervals than this wait for a tick: a long gap that is filled reading by reading
/// would otherwise be written anew each time.
const ROWS_NOW_MAX: u32 = 8;

/// What became of a late reading.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Late {
    /// Final, and the samples changed if it was accepted.
    Final(Outcome),
    /// A sample is missing; these readings of the store would decide it.
    Unknown(Window),
}

impl Desk<'_> {
    /// Brings a late sample in among `samples`, which are in order and hold all that the meter
    /// holds, or all that the store has around it.
    pub(crate) fn insert(&mut self, samples: &mut Vec<Sample>, sample: Sample) -> Late {
        let at = samples.partition_point(|s| s.at < sample.at);
        if let Some(known) = samples.get(at).copied().filter(|s| s.at == sample.at) {
            return self.meet(samples, at, known, sample);
        }
        let right = samples.get(at).copied();
        let left = at.checked_sub(1).map(|before| samples[before]);
        let is_first = left.is_none() && right.is_some_and(|s| s.at == self.meter.rest.first);
        let Some(right) = right.filter(|s| is_first || !s.has(Sample::LOST)) else {
            // What is held to the left may be weeks away: the neighbours are between.
            return self.unknown(sample.at, None, None);
        };
        if left.is_none() && !is_first {
            return self.unknown(sample.at, None, Some(right));
        }
        if let Err(reason) = self.fits(left.as_ref(), &sample, &right) {
            return Late::Final(Outcome::Quarantined(reason));
        }
        if self.meter.rest.cold.as_ref().is_some_and(|cold| cold.gaps.is_full()) {
            return Late::Final(Outcome::Quarantined(QuarantineReason::ParkingFull));
        }
        samples.insert(at, sample);
        if !self.has_context(samples, at, is_first) {
            samples.remove(at);
            return self.unknown(sample.at, left, Some(right));
        }
        if is_first {
            self.meter.rest.first = sample.at;
            samples[at + 1].flags &= !Sample::LOST;
        }
        self.recharge(left.as_ref(), &sample, &right);
        self.regap(left.as_ref(), &sample, &right);
        self.rerow(samples, at, Some(sample.at));
        Late::Final(Outcome::Accepted)
    }

    /// A sample stands under this key already.
    fn meet(&mut self, samples: &mut [Sample], at: usize, known: Sample, sample: Sample) -> Late {
        if known.register != sample.register {
            return Late::Final(Outcome::Quarantined(QuarantineReason::Conflict));
        }
        if !known.has(Sample::ANCHOR) {
            return Late::Final(Outcome::Duplicate);
        }
        // The reading confirms what a person read. On a boundary it belongs to the interval
        // before the installation, which has no row; else its interval has one more sample.
        let next = samples.get(at + 1).copied();
        if !sample.at.is_boundary() && next.is_some() && !self.has_context(samples, at, true) {
            let next = next.filter(|next| !next.has(Sample::LOST));
            return self.unknown(sample.at, Some(known), next);
        }
        samples[at] = Sample { flags: known.flags & !Sample::ANCHOR, ..sample };
        if !sample.at.is_boundary() {
            self.rerow(samples, at, None);
        }
        Late::Final(Outcome::Accepted)
    }

    /// The doctor's word on both sides.
    fn fits(
        &self,
        left: Option<&Sample>,
        sample: &Sample,
        right: &Sample,
    ) -> Result<(), QuarantineReason> {
        let limits = &self.class.limits;
        if let Some(left) = left.filter(|_| !sample.has(Sample::EPOCH)) {
            limits.judge(left.register, sample.register, sample.at.since(left.at))?;
        }
        if right.has(Sample::EPOCH) {
            return Ok(());
        }
        // What cannot lead to the reading after it rose too far.
        let judged = limits.judge(sample.register, right.register, right.at.since(sample.at));
        judged.map_err(|_| QuarantineReason::Spike)
    }

    /// Whether all samples are at hand that the rows of the touched intervals follow from.
    fn has_context(&self, samples: &[Sample], at: usize, is_first: bool) -> bool {
        let left = if is_first { at } else { at - 1 };
        let open_start = self.meter.newest.interval_start();
        if samples[left].at >= open_start && !is_first {
            return true;
        }
        let start = samples[left].at.interval_start();
        let mut low = left;
        while samples[low].at > start && samples[low].at != self.meter.rest.first && !is_first {
            if low == 0 || samples[low].has(Sample::LOST) {
                return false;
            }
            low -= 1;
        }
        let end = boundary_at_or_after(samples[at + 1].at);
        let mut high = at + 1;
        while samples[high].at < end && samples[high].at != self.meter.newest {
            high += 1;
            if samples.get(high).is_none_or(|s| s.has(Sample::LOST)) {
                return false;
            }
        }
        true
    }

    /// The window that would decide a reading at `at`: all intervals its neighbours touch.
    pub(crate) fn unknown(
        &self,
        at: UnixSeconds,
        left: Option<Sample>,
        right: Option<Sample>,
    ) -> Late {
        let gap = self.meter.rest.cold.as_ref().and_then(|cold| cold.gaps.around(at));
        let (from, to) = gap.map_or_else(
            || {
                let period_s = self.class.period_s;
                let from = left.map_or_else(|| at.minus(period_s), |left| left.at);
                (from, right.map_or_else(|| at.plus(period_s), |right| right.at))
            },
            |gap| (gap.from, gap.to),
        );
        Late::Unknown(Window::around(from, to).within(self.meter.rest.from, self.meter.to))
    }

    /// Rates the energy between the neighbours again. Where it was rated before, the difference is
    /// a correction that names the stretch it puts right.
    fn recharge(&mut self, left: Option<&Sample>, sample: &Sample, right: &Sample) {
        let modulus = self.class.limits.modulus;
        let mut parts = Parts::default();
        if let Some(left) = left {
            self.charge_parts(&Pair::between(left, right, modulus), -1, &mut parts);
            self.charge_parts(&Pair::between(left, sample, modulus), 1, &mut parts);
        }
        self.charge_parts(&Pair::between(sample, right, modulus), 1, &mut parts);
        let kind = if left.is_some() { LedgerKind::Correction } else { LedgerKind::Energy };
        for part in parts.all() {
            self.enter_energy(kind, part, sample.at.max(part.from).min(part.to));
        }
    }

    fn regap(&mut self, left: Option<&Sample>, sample: &Sample, right: &Sample) {
        let row = self.gap_rows();
        let rows = &mut self.out.effects.gaps;
        let is_wide = right.at.since(left.map_or(sample.at, |l| l.at)) / 2 >= row.period_s;
        if !is_wide && self.meter.oldest_gap == OPEN_END {
            return;
        }
        let gaps = &mut self.meter.cold().gaps;
        match left {
            Some(left) => gaps.split(row, (left.at, sample.at, right.at), rows),
            None => gaps.open(row, sample.at, right.at, rows),
        }
        self.meter.oldest_gap = gaps.oldest().unwrap_or(OPEN_END);
    }

    /// Writes the rows around the sample at `at` again, now or at a tick.
    fn rerow(&mut self, samples: &mut [Sample], at: usize, key: Option<UnixSeconds>) {
        let mut written = UnixSeconds(0);
        for right in [at, at + 1] {
            let Some(left) = right.checked_sub(1).filter(|_| right < samples.len()) else {
                continue;
            };
            if samples[right].has(Sample::LOST) {
                continue;
            }
            let (start, end) = touched(samples[left].at, samples[right].at);
            if end.since(start) / INTERVAL_S > ROWS_NOW_MAX {
                samples[right].flags |= Sample::DIRTY;
                self.meter.set(Meter::DIRTY, true);
                continue;
            }
            samples[right].flags &= !Sample::DIRTY;
            self.write_rows(samples, start.max(written), end, key);
            written = end;
        }
        self.reopen(samples, at);
    }

    /// Writes the rows that waited.
    pub(crate) fn write_dirty(&mut self, samples: &mut [Sample]) {
        for right in 1..samples.len() {
            if samples[right].has(Sample::DIRTY) {
                let (start, end) = touched(samples[right - 1].at, samples[right].at);
                self.write_rows(samples, start, end, None);
                samples[right].flags &= !Sample::DIRTY;
            }
        }
        self.meter.set(Meter::DIRTY, false);
    }

    /// Writes the rows of the whole intervals from `start` to `end`. `key` is the stamp of the
    /// sample that came in: an interval that begins or ends there was not actual before.
    fn write_rows(
        &mut self,
        samples: &[Sample],
        start: UnixSeconds,
        end: UnixSeconds,
        key: Option<UnixSeconds>,
    ) {
        let end = end.min(self.meter.newest.interval_start());
        let mut start = start;
        while start < end {
            let next = start.plus(INTERVAL_S);
            let seen = self.between(samples, start, next);
            let cell: Cell = self.rates.cell(start);
            let metered = Metered {
                start,
                energy: seen.energy,
                register: seen.register,
                quality: seen.quality,
                is_news: key == Some(start) || key == Some(next),
            };
            self.row(metered, cell, &seen.stats.spreads());
            start = next;
        }
    }

    /// Computes the interval that is not over again, where the sample at `at` changed it.
    fn reopen(&mut self, samples: &[Sample], at: usize) {
        let start = self.meter.newest.interval_start();
        let is_touched = samples.get(at + 1).is_some_and(|right| right.at > start);
        if start == self.meter.newest || !is_touched {
            return;
        }
        let first = samples.partition_point(|s| s.at <= start);
        let has_start = first > 0 || samples.first().is_some_and(|s| s.at == self.meter.rest.first);
        let is_held = samples.iter().skip(first.max(1)).all(|s| !s.has(Sample::LOST));
        if !has_start || !is_held {
            // Both neighbours lie in this interval: its energy stands, it has one more sample.
            self.meter.rest.open_stats.get_or_insert_default().add(&samples[at]);
            return;
        }
        let seen = self.between(samples, start, self.meter.newest);
        self.meter.rest.open_energy = seen.energy;
        let is_exact = samples.iter().any(|s| s.at == start) && !seen.is_broken;
        self.meter.set(Meter::EXACT, is_exact);
        self.meter.rest.open_stats = Some(Box::new(seen.stats));
    }

    /// What samples say of the stretch from `start` to `end`.
    fn between(&self, samples: &[Sample], start: UnixSeconds, end: UnixSeconds) -> Seen {
        let modulus = self.class.limits.modulus;
        let first = samples.partition_point(|s| s.at <= start).saturating_sub(1);
        let mut seen = Seen::default();
        let mut has_end = false;
        for pair in samples[first..].windows(2) {
            let [a, b] = pair else { break };
            if a.at >= end {
                break;
            }
            let line = Pair::between(a, b, modulus);
            let (low, high) = (start.max(a.at), end.min(b.at));
            seen.energy += line.rise_at(high) - line.rise_at(low);
            seen.is_broken |= line.broken;
            has_end = b.at == end;
            seen.register = match high == b.at {
                true => b.register.wh(),
                false => (a.register.wh() + line.rise_at(high)) % modulus.max(1),
            };
            if start < b.at && b.at <= end {
                seen.stats.add(b);
            }
        }
        let lead = samples.get(first).filter(|s| s.at > start);
        if let Some(base) = lead {
            seen.stats.add(base);
        }
        let has_start = samples.get(first).is_some_and(|s| s.at == start);
        if has_start && has_end && !seen.is_broken {
            seen.quality = IntervalQuality::Actual;
        }
        seen
    }
}

/// What the samples of an interval say.
#[derive(Clone, Copy, Debug)]
struct Seen {
    energy: u64,
    register: u64,
    quality: IntervalQuality,
    is_broken: bool,
    stats: Stats,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            energy: 0,
            register: 0,
            quality: IntervalQuality::Estimated,
            is_broken: false,
            stats: Stats::default(),
        }
    }
}
