//! Average, least and greatest of what the samples of an interval say beside the register.

use meter::{Current, Fields, Power, PowerFactor, Spread, Voltage};

use crate::sample::Sample;
use crate::snapshot::layout;

/// Of one quantity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Tally {
    sum: i64,
    min: i64,
    max: i64,
    count: u32,
}

layout!(Tally { sum, min, max, count });

impl Tally {
    #[inline]
    fn add(&mut self, value: i64) {
        if self.count == 0 {
            *self = Self { sum: value, min: value, max: value, count: 1 };
            return;
        }
        self.sum += value;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.count += 1;
    }

    #[inline]
    fn spread<T>(&self, make: impl Fn(i64) -> T) -> Spread<T> {
        let average = if self.count > 1 { self.sum / i64::from(self.count) } else { self.sum };
        Spread { average: make(average), min: make(self.min), max: make(self.max) }
    }
}

/// What the rows of an interval say beside its energy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Spreads {
    pub(crate) samples: u16,
    pub(crate) voltage: Spread<Voltage>,
    pub(crate) current: Spread<Current>,
    pub(crate) power: Spread<Power>,
    pub(crate) power_factor: Spread<PowerFactor>,
}

/// Tallies of the samples of an interval.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stats {
    samples: u16,
    voltage: Tally,
    current: Tally,
    power: Tally,
    power_factor: Tally,
}

layout!(Stats { samples, voltage, current, power, power_factor });

impl Stats {
    /// Counts a sample in; an anchor counts for nothing.
    #[inline]
    pub(crate) fn add(&mut self, sample: &Sample) {
        if sample.has(Sample::ANCHOR) {
            return;
        }
        self.samples = self.samples.saturating_add(1);
        let fields = sample.fields;
        for (phase, field) in Fields::VOLTAGE.into_iter().enumerate() {
            if fields.has(field) {
                self.voltage.add(i64::from(sample.voltage[phase].mv()));
            }
        }
        for (phase, field) in Fields::CURRENT.into_iter().enumerate() {
            if fields.has(field) {
                self.current.add(i64::from(sample.current[phase].ma()));
            }
        }
        if fields.has(Fields::POWER) {
            self.power.add(i64::from(sample.power.w()));
        }
        if fields.has(Fields::POWER_FACTOR) {
            self.power_factor.add(i64::from(sample.power_factor.milli()));
        }
    }

    #[inline]
    pub(crate) fn spreads(&self) -> Spreads {
        let narrow = |value: i64| u32::try_from(value).expect("between values of 32 bits");
        Spreads {
            samples: self.samples,
            voltage: self.voltage.spread(|v| Voltage::from_mv(narrow(v))),
            current: self.current.spread(|v| Current::from_ma(narrow(v))),
            power: self
                .power
                .spread(|v| Power::from_w(i32::try_from(v).expect("between values of 32 bits"))),
            power_factor: self.power_factor.spread(|v| {
                PowerFactor::from_milli(i16::try_from(v).expect("between values of 16 bits"))
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_over_phases_and_samples() {
        let mut stats = Stats::default();
        assert_eq!(stats.spreads(), Spreads::default());
        for (power, phase_2) in [(-7, 240_000), (2, 230_000)] {
            stats.add(&Sample {
                voltage: [Voltage::from_mv(220_000), Voltage::from_mv(phase_2), Voltage::default()],
                power: Power::from_w(power),
                fields: Fields::VOLTAGE[0].with(Fields::VOLTAGE[1]).with(Fields::POWER),
                ..Sample::default()
            });
        }
        let spreads = stats.spreads();
        assert_eq!(spreads.samples, 2);
        let volts = Voltage::from_mv;
        let want = Spread { average: volts(227_500), min: volts(220_000), max: volts(240_000) };
        assert_eq!(spreads.voltage, want);
        assert_eq!(spreads.power.average, Power::from_w(-2), "rounded towards zero");
        assert_eq!(spreads.current, Spread::default());
    }
}
