//! What a virtual meter is and does, and what may be wrong with it.

use meter::{Energy, UnixSeconds};

use crate::Seed;
use crate::device::Retry;
use crate::profile::Load;

/// What all devices of a fleet share.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Where keys, loads and noise come from.
    pub seed: Seed,
    /// When a device sends again.
    pub retry: Retry,
    /// Frames a device has on the way at a time.
    pub window: u8,
    /// Seconds of the devices' day in a second of the steady clock, ≥ 1.
    pub pace: u32,
}

/// What a virtual meter is and does.
#[derive(Clone, Copy, Debug)]
pub struct MeterPlan {
    /// Its number in the fleet, which decides its title and keys.
    pub ordinal: u32,
    /// Its load.
    pub load: Load,
    /// 1 or 3.
    pub phases: u8,
    /// Stamp of its first reading.
    pub first: UnixSeconds,
    /// Stamp of its last reading, inclusive.
    pub last: UnixSeconds,
    /// Seconds between readings; stamps are multiples of it.
    pub period_s: u32,
    /// It sends this long after a stamp, so that a fleet does not speak at once.
    pub send_delay_s: u16,
    /// The register at `first`.
    pub start: Energy,
    /// Whole kWh digits of its register.
    pub register_digits: u8,
    /// Its clock.
    pub clock: MeterClock,
}

impl MeterPlan {
    /// Readings from the first to the last.
    #[must_use]
    pub fn readings(&self) -> u64 {
        match self.last.0.checked_sub(self.first.0) {
            Some(span) => u64::from(span / self.period_s) + 1,
            None => 0,
        }
    }
}

/// How a meter's clock goes wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeterClock {
    /// Ahead by this at the first reading, seconds.
    pub ahead_s: i16,
    /// Gains this much, millionths.
    pub drift_ppm: i16,
}

/// A time during which a meter's voltage is off.
#[derive(Clone, Copy, Debug)]
pub struct VoltageSpell {
    /// First stamp that shows it.
    pub from: UnixSeconds,
    /// First stamp that no longer does.
    pub to: UnixSeconds,
    /// Added to every phase, mV.
    pub offset_mv: i32,
}

/// Readings that a meter keeps to itself for a while, as one does whose link is down.
#[derive(Clone, Copy, Debug)]
pub struct Holdback {
    /// First stamp kept.
    pub from: UnixSeconds,
    /// Last stamp kept.
    pub to: UnixSeconds,
    /// When they are sent after all.
    pub until: UnixSeconds,
}
