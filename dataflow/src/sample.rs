//! What the books keep of an accepted reading, and the register between two of them.

use meter::{
    Current, Energy, Fields, INTERVAL_S, Power, PowerFactor, Reading, UnixSeconds, Voltage,
};

use crate::snapshot::layout;

/// An accepted reading, or an anchor of the register (installation, removal) that is none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sample {
    pub(crate) register: Energy,
    pub(crate) at: UnixSeconds,
    pub(crate) voltage: [Voltage; 3],
    pub(crate) current: [Current; 3],
    pub(crate) power: Power,
    pub(crate) power_factor: PowerFactor,
    pub(crate) fields: Fields,
    /// [`Self::ANCHOR`] and so on.
    pub(crate) flags: u8,
}

layout!(Sample { register, at, voltage, current, power, power_factor, fields, flags });

impl Sample {
    /// No reading stands here, only a register that a person read.
    pub(crate) const ANCHOR: u8 = 1;
    /// A new register begins here: what lies between this and the sample before is not billed.
    pub(crate) const EPOCH: u8 = 1 << 1;
    /// The sample before this one is no longer held.
    pub(crate) const LOST: u8 = 1 << 2;
    /// The rows between the sample before and this one are to be written again at a tick.
    pub(crate) const DIRTY: u8 = 1 << 3;

    pub(crate) fn of(reading: &Reading) -> Self {
        Self {
            register: reading.register,
            at: reading.taken_at,
            voltage: reading.voltage,
            current: reading.current,
            power: reading.power,
            power_factor: reading.power_factor,
            fields: reading.fields,
            flags: 0,
        }
    }

    pub(crate) fn anchor(at: UnixSeconds, register: Energy) -> Self {
        Self { register, at, flags: Self::ANCHOR, ..Self::default() }
    }

    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// The register between two neighbouring samples.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pair {
    pub(crate) from: UnixSeconds,
    pub(crate) to: UnixSeconds,
    /// What the register rose, rollover included; 0 over the break of an epoch.
    pub(crate) rise: u64,
    /// Whether the register broke between the two.
    pub(crate) broken: bool,
}

impl Pair {
    pub(crate) fn between(a: &Sample, b: &Sample, modulus: u64) -> Self {
        let (from, to) = (a.at, b.at);
        if b.has(Sample::EPOCH) {
            return Self { from, to, rise: 0, broken: true };
        }
        let rise = match b.register.since(a.register) {
            Some(rise) => rise.wh(),
            None => b.register.wh() + modulus.saturating_sub(a.register.wh()),
        };
        Self { from, to, rise, broken: false }
    }

    /// `⌊rise · (at − from) / (to − from)⌋`, for `from <= at <= to`.
    #[inline]
    pub(crate) fn rise_at(&self, at: UnixSeconds) -> u64 {
        let (part, whole) = (u64::from(at.since(self.from)), u64::from(self.to.since(self.from)));
        if part >= whole {
            return self.rise;
        }
        match self.rise.checked_mul(part) {
            Some(product) => product / whole,
            None => {
                let product = u128::from(self.rise) * u128::from(part);
                u64::try_from(product / u128::from(whole)).expect("a part is less than the whole")
            }
        }
    }
}

/// Whether anything of phase 2 or 3 was sent; what was not sent counts for nothing.
#[inline]
pub(crate) const fn has_other_phases(fields: Fields) -> bool {
    const OTHERS: Fields = Fields::VOLTAGE[1]
        .with(Fields::VOLTAGE[2])
        .with(Fields::CURRENT[1])
        .with(Fields::CURRENT[2]);
    fields.0 & OTHERS.0 != 0
}

/// The first boundary at or after `at`.
pub(crate) const fn boundary_at_or_after(at: UnixSeconds) -> UnixSeconds {
    if at.is_boundary() { at } else { at.interval_start().plus(INTERVAL_S) }
}

const _: () = assert!(size_of::<Sample>() == 48);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_rise_add_up_and_never_pass_it() {
        let a = Sample::anchor(UnixSeconds(900), Energy::from_wh(7));
        let b = Sample::anchor(UnixSeconds(4500), Energy::from_wh(17));
        let pair = Pair::between(&a, &b, 1_000_000);
        let at = |s| pair.rise_at(UnixSeconds(s));
        assert_eq!([at(900), at(1800), at(2700), at(3600), at(4500)], [0, 2, 5, 7, 10]);
        let big = Pair { rise: u64::MAX / 2, ..pair };
        assert_eq!(big.rise_at(UnixSeconds(2700)), u64::MAX / 4);
    }

    #[test]
    fn rollover_and_epoch() {
        let a = Sample::anchor(UnixSeconds(0), Energy::from_wh(999_990));
        let mut b = Sample::anchor(UnixSeconds(900), Energy::from_wh(15));
        assert_eq!(Pair::between(&a, &b, 1_000_000).rise, 25);
        b.flags |= Sample::EPOCH;
        assert_eq!(Pair::between(&a, &b, 1_000_000).rise, 0);
    }
}
