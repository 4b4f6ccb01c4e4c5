//! What a transformer's total meter meters: the loads below it, and what the lines lose.

use meter::{Power, ReactivePower, UnixSeconds};

use crate::profile::{Load, Sample, Work};

/// Several loads as one. Boxed, since one meter in fifty has it.
#[derive(Clone, Debug)]
pub(crate) struct LoadSum {
    loads: Box<[Load]>,
    loss_milli: u16,
    /// Sums begin here, so that they stay far from 64 bits.
    first: UnixSeconds,
}

impl LoadSum {
    pub(crate) fn new(loads: Vec<Load>, loss_milli: u16, first: UnixSeconds) -> Self {
        Self { loads: loads.into_boxed_slice(), loss_milli, first }
    }

    pub(crate) fn work(&self, at: UnixSeconds) -> Work {
        self.total(|load| Work::of(load, at).since(Work::of(load, self.first)))
    }

    pub(crate) fn rate_work(&self, at: UnixSeconds, rate: u8) -> Work {
        self.total(|load| {
            Work::of_rate(load, at, rate).since(Work::of_rate(load, self.first, rate))
        })
    }

    /// Power is added up; the voltage is that of the first load.
    pub(crate) fn sample(&self, at: UnixSeconds) -> Sample {
        let samples = || self.loads.iter().map(|load| Sample::of(*load, at));
        let with_loss = |value: i64| {
            let value = value + value * i64::from(self.loss_milli) / 1000;
            i32::try_from(value).unwrap_or(i32::MAX)
        };
        let power = samples().map(|sample| i64::from(sample.power.w())).sum();
        let reactive = samples().map(|sample| i64::from(sample.reactive.var())).sum();
        let voltage = samples().map(|sample| sample.voltage).next().unwrap_or_default();
        Sample {
            power: Power::from_w(with_loss(power)),
            reactive: ReactivePower::from_var(with_loss(reactive)),
            voltage,
        }
    }

    fn total(&self, work: impl Fn(Load) -> Work) -> Work {
        let sum = self.loads.iter().fold(Work::default(), |sum, load| sum.plus(work(*load)));
        sum.plus(sum.milli(self.loss_milli))
    }
}
