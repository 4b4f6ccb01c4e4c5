//! A reading in order: the intervals it ends, the charge of what it adds, the interval it leaves
//! open. R(t) between two readings is a straight line, rounded down.

use meter::{AlarmCode, INTERVAL_S, IntervalQuality, UnixSeconds};

use crate::alarm;
use crate::desk::{Desk, Metered};
use crate::installed::Meter;
use crate::sample::{Pair, Sample, boundary_at_or_after};
use crate::stats::Stats;
use crate::usual::Usual;

impl Desk<'_> {
    /// Takes in the first sample: the base of billing, charged with nothing.
    pub(crate) fn begin(&mut self, sample: Sample) {
        self.meter.push(&mut self.ring, &sample);
        self.meter.rest.first = sample.at;
        self.meter.rest.open_energy = 0;
        self.meter.set(Meter::EXACT, sample.at.is_boundary());
        self.reset_open_stats();
        if !sample.at.is_boundary() {
            self.add_open_stats(&sample);
        }
        self.meter.day_end = self.day_end(sample.at);
        self.meter.rest.usual = Usual::begin(sample.register.wh());
        self.meter.day_watch = u64::MAX;
    }

    /// Takes in a sample newer than all before, and whose register the doctor found good.
    pub(crate) fn advance(&mut self, newest: Sample, sample: Sample) {
        let pair = Pair::between(&newest, &sample, self.class.limits.modulus);
        self.intervals(&pair, &newest, &sample);
        self.watch_day(&pair, &newest, &sample);
        self.meter.push(&mut self.ring, &sample);
    }

    /// The intervals that the sample ends, and what it adds to the one that is not over.
    fn intervals(&mut self, pair: &Pair, newest: &Sample, sample: &Sample) {
        let modulus = self.class.limits.modulus.max(1);
        let mut start = pair.from.interval_start();
        let mut risen = 0;
        // Rows further back than anything may still change are left out; the charge has it all.
        let oldest_row = sample.at.minus(self.policy.horizon_s.max(1)).interval_start();
        while start.plus(INTERVAL_S) <= sample.at {
            let end = start.plus(INTERVAL_S);
            let rise = pair.rise_at(end);
            let energy = self.meter.rest.open_energy + rise - risen;
            let is_exact = self.meter.has(Meter::EXACT) && end == sample.at && !pair.broken;
            if start >= oldest_row {
                let mut stats = self.meter.rest.open_stats.as_deref().copied().unwrap_or_default();
                if end == sample.at {
                    stats.add(sample);
                }
                let register = if end == sample.at {
                    sample.register.wh()
                } else {
                    (newest.register.wh() + rise) % modulus
                };
                let quality =
                    if is_exact { IntervalQuality::Actual } else { IntervalQuality::Estimated };
                let cell = self.rates.cell(start);
                let metered = Metered { start, energy, register, quality, is_news: true };
                self.row(metered, cell, &stats.spreads());
            }
            self.meter.rest.open_energy = 0;
            self.meter.set(Meter::EXACT, end == sample.at);
            self.reset_open_stats();
            (start, risen) = (end, rise);
        }
        if start < sample.at {
            self.meter.rest.open_energy += pair.rise - risen;
            self.add_open_stats(sample);
        }
        if pair.broken && start < sample.at {
            self.meter.set(Meter::EXACT, false);
        }
        self.charge(pair);
    }

    fn add_open_stats(&mut self, sample: &Sample) {
        self.meter.rest.open_stats.get_or_insert_default().add(sample);
    }

    fn reset_open_stats(&mut self) {
        if let Some(stats) = &mut self.meter.rest.open_stats {
            **stats = Stats::default();
        }
    }

    /// Holds the running day against the meter's days before.
    fn watch_day(&mut self, pair: &Pair, from: &Sample, to: &Sample) {
        let is_straight = from.register.wh() + pair.rise == to.register.wh();
        if to.at > self.meter.day_end || to.register.wh() > self.meter.day_watch || !is_straight {
            self.look_at_day(pair, from, to);
        }
    }

    #[cold]
    pub(crate) fn look_at_day(&mut self, pair: &Pair, from: &Sample, to: &Sample) {
        let start = from.register.wh();
        while to.at > self.meter.day_end {
            let day_end = self.meter.day_end;
            let usual = &mut self.meter.rest.usual;
            let reached = start + if day_end > pair.from { pair.rise_at(day_end) } else { 0 };
            let used = usual.used(reached);
            let bound = usual.of_mean(self.policy.alarms.unusual_clear);
            usual.next_day(used);
            if used <= bound {
                let value = i64::try_from(used).unwrap_or(i64::MAX);
                self.panel().clear(AlarmCode::UnusualUse, day_end, value);
            }
            self.meter.day_end = self.day_end(day_end);
        }
        self.meter.rest.usual.shift(start, pair.rise, to.register.wh());
        self.meter.day_watch = self.meter.rest.usual.watch(self.policy.alarms.unusual_raise);
        if to.register.wh() > self.meter.day_watch {
            let used = self.meter.rest.usual.used(to.register.wh());
            let value = i64::try_from(used).unwrap_or(i64::MAX);
            self.panel().raise(AlarmCode::UnusualUse, to.at, value);
        }
    }

    /// The end of the local day that begins at or holds `at`.
    fn day_end(&self, at: UnixSeconds) -> UnixSeconds {
        let calendar = self.rates.calendar();
        let date = calendar.local(at).date;
        calendar.day_start(date.next()).max(at.plus(1))
    }

    /// Opens a gap before the newest sample where readings are absent, and closes the open tail.
    #[inline]
    pub(crate) fn gap_before(&mut self, from: UnixSeconds, to: UnixSeconds) {
        let is_apart = to.since(from) / 2 >= self.class.period_s;
        if is_apart
            || self.meter.has(Meter::TAIL_GAP)
            || self.meter.oldest_gap != UnixSeconds(u32::MAX)
        {
            self.note_gap(from, to);
        }
    }

    #[cold]
    fn note_gap(&mut self, from: UnixSeconds, to: UnixSeconds) {
        let row = self.gap_rows();
        let had_tail = self.meter.has(Meter::TAIL_GAP);
        self.meter.set(Meter::TAIL_GAP, false);
        let rows = &mut self.out.effects.gaps;
        let told = rows.len();
        let horizon = to.minus(self.policy.horizon_s);
        let gaps = &mut self.meter.cold().gaps;
        gaps.forget_before(horizon);
        gaps.open(row, from, to, rows);
        let oldest = gaps.oldest();
        if rows.len() > told {
            self.meter.keep_around(to, row.period_s);
        } else if had_tail {
            rows.push(row.of(from, to, meter::GapState::Closed));
        }
        self.meter.oldest_gap = oldest.unwrap_or(UnixSeconds(u32::MAX));
    }

    /// Alarms that a reading in order raises or clears.
    #[inline]
    pub(crate) fn watch_sample(&mut self, sample: &Sample) {
        let Sample { fields, voltage, current, .. } = sample;
        let is_quiet = self.class.thresholds.is_quiet(*fields, voltage, current);
        if self.meter.alarms != 0 || !is_quiet {
            let (class, policy) = (self.class, self.policy);
            alarm::electrical(&mut self.panel(), sample, class, &policy.alarms);
        }
    }
}

/// The intervals that the stretch between two neighbours touches: first start, last end.
pub(crate) const fn touched(from: UnixSeconds, to: UnixSeconds) -> (UnixSeconds, UnixSeconds) {
    (from.interval_start(), boundary_at_or_after(to))
}
