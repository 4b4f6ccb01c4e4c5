//! Classes of meters: what meters of one model and role have in common, kept once.

use std::collections::BTreeMap;

use meter::{AlarmPolicy, Current, INTERVAL_S, MeterRecord, Voltage};

use crate::alarm::Thresholds;
use crate::doctor::Limits;
use crate::gap::absent;

/// Names a class at one worker.
pub(crate) type ClassIndex = u32;

/// What the rules need of a meter's record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Class {
    pub(crate) limits: Limits,
    pub(crate) thresholds: Thresholds,
    pub(crate) period_s: u32,
    /// Whether nothing is absent between readings an interval apart.
    pub(crate) is_whole_interval: bool,
    /// The most a register can rise in an interval, Wh.
    pub(crate) interval_wh_max: u64,
    pub(crate) voltage_nominal: Voltage,
    pub(crate) current_max: Current,
}

/// The classes in use.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    all: Vec<Class>,
    /// By rated current, rated voltage, phases, digits and period.
    known: BTreeMap<(u32, u32, u8, u8, u32), ClassIndex>,
}

impl Classes {
    /// The class of a record.
    pub(crate) fn of(&mut self, record: &MeterRecord, policy: &AlarmPolicy) -> ClassIndex {
        let (current_max, voltage_nominal) = (record.current_max, record.voltage_nominal);
        let key = (
            current_max.ma(),
            voltage_nominal.mv(),
            record.phases,
            record.register_digits,
            record.period_s,
        );
        *self.known.entry(key).or_insert_with(|| {
            let limits = Limits::of(record);
            self.all.push(Class {
                limits,
                is_whole_interval: absent(INTERVAL_S, record.period_s) == 0,
                interval_wh_max: limits.rise_max(INTERVAL_S),
                thresholds: Thresholds::of(voltage_nominal, current_max, policy),
                period_s: record.period_s.max(1),
                voltage_nominal,
                current_max,
            });
            self.all.len() as ClassIndex - 1
        })
    }

    /// Other thresholds are in force.
    pub(crate) fn apply(&mut self, policy: &AlarmPolicy) {
        for class in &mut self.all {
            class.thresholds = Thresholds::of(class.voltage_nominal, class.current_max, policy);
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: ClassIndex) -> &Class {
        &self.all[index as usize]
    }
}
