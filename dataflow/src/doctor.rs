//! The register doctor: whether the register of two neighbouring samples can be true.

use meter::{Energy, MeterRecord, QuarantineReason, Seq, UnixSeconds};

use crate::snapshot::layout;

/// What a meter's register can do at most.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Limits {
    /// The register rolls over here, Wh.
    pub(crate) modulus: u64,
    /// Rated power: I_max · U_n · phases, mW.
    pub(crate) power_max_mw: u64,
}

layout!(Limits { modulus, power_max_mw });

/// mW · s in one Wh.
const MW_S_PER_WH: u128 = 3_600_000;
const DAY_S: u64 = 86_400;

impl Limits {
    pub(crate) fn of(record: &MeterRecord) -> Self {
        let digits = u32::from(record.register_digits.clamp(1, 12));
        let microwatts = u128::from(record.current_max.ma())
            * u128::from(record.voltage_nominal.mv())
            * u128::from(record.phases);
        Self {
            modulus: 1000 * 10_u64.pow(digits),
            power_max_mw: u64::try_from(microwatts / 1000).unwrap_or(u64::MAX),
        }
    }

    /// Whether the register can go from `a` to `b` in `seconds`.
    #[inline]
    pub(crate) fn judge(&self, a: Energy, b: Energy, seconds: u32) -> Result<(), QuarantineReason> {
        match b.since(a) {
            Some(rise) if self.can_rise(rise.wh(), seconds) => Ok(()),
            Some(_) => Err(QuarantineReason::Spike),
            None if self.rolled_over(a.wh(), b.wh(), seconds) => Ok(()),
            None => Err(QuarantineReason::Backwards),
        }
    }

    /// rise <= P_max · t · 1.1
    #[inline]
    fn can_rise(&self, rise: u64, seconds: u32) -> bool {
        u128::from(rise) * (MW_S_PER_WH * 10) <= self.bound(seconds)
    }

    /// The most the register can rise in `seconds`, Wh.
    pub(crate) fn rise_max(&self, seconds: u32) -> u64 {
        u64::try_from(self.bound(seconds) / (MW_S_PER_WH * 10)).unwrap_or(u64::MAX)
    }

    /// P_max · t · 1.1, in mW · s and tenths.
    #[inline]
    fn bound(&self, seconds: u32) -> u128 {
        u128::from(self.power_max_mw) * u128::from(u64::from(seconds) * 11)
    }

    /// Within one P_max-day of the modulus before, and no more than the meter can carry across it.
    fn rolled_over(&self, a: u64, b: u64, seconds: u32) -> bool {
        let Some(left) = self.modulus.checked_sub(a) else { return false };
        let near =
            u128::from(left) * MW_S_PER_WH <= u128::from(self.power_max_mw) * u128::from(DAY_S);
        near && left.checked_add(b).is_some_and(|rise| self.can_rise(rise, seconds))
    }
}

/// A reading in quarantine for its register, and how many after it agree with it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Suspect {
    /// The entry of the first.
    pub(crate) seq: Seq,
    /// The newest that agrees.
    pub(crate) at: UnixSeconds,
    pub(crate) register: Energy,
    /// How many agree with the first.
    pub(crate) agreeing: u8,
}

layout!(Suspect { seq, at, register, agreeing });

impl Suspect {
    /// Readings that must agree before a new epoch is proposed.
    pub(crate) const AGREEING: u8 = 2;

    /// Counts one more quarantined reading; a reading that disagrees becomes the suspect itself.
    pub(crate) fn follow(
        before: Option<Self>,
        limits: &Limits,
        seq: Seq,
        at: UnixSeconds,
        register: Energy,
    ) -> Self {
        let fresh = Self { seq, at, register, agreeing: 0 };
        let Some(before) = before else { return fresh };
        if at <= before.at {
            return before;
        }
        match limits.judge(before.register, register, at.since(before.at)) {
            Ok(()) => Self { at, register, agreeing: before.agreeing.saturating_add(1), ..before },
            Err(_) => fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use meter::{Current, GatewayId, MeterId, Role, TransformerId, Voltage};

    use super::*;

    fn limits() -> Limits {
        Limits::of(&MeterRecord {
            meter: MeterId(1),
            role: Role::Consumer,
            transformer: TransformerId::NONE,
            gateway: GatewayId::NONE,
            current_max: Current::from_ma(100_000),
            voltage_nominal: Voltage::from_mv(230_000),
            phases: 1,
            register_digits: 6,
            period_s: 900,
        })
    }

    #[test]
    fn table() {
        let check = |a, b, seconds, want: Result<(), QuarantineReason>| {
            let got = limits().judge(Energy::from_wh(a), Energy::from_wh(b), seconds);
            assert_eq!(got, want, "a={a} b={b} seconds={seconds}");
        };
        // 23 kW · 1.1 = 25.3 kW: 6325 Wh in a quarter hour.
        check(100, 100, 900, Ok(()));
        check(100, 6425, 900, Ok(()));
        check(100, 6426, 900, Err(QuarantineReason::Spike));
        assert_eq!(limits().rise_max(900), 6325);
        check(100, 99, 900, Err(QuarantineReason::Backwards));
        check(100, 99, 900_000, Err(QuarantineReason::Backwards));
        // 10^6 kWh = 10^9 Wh; one P_max-day is 552 kWh.
        check(999_999_000, 1000, 900, Ok(()));
        check(999_448_000, 1000, 86_400, Ok(()));
        check(999_447_999, 1000, 86_400, Err(QuarantineReason::Backwards));
        check(999_999_000, 6000, 900, Err(QuarantineReason::Backwards));
        check(2_000_000_000, 0, 900, Err(QuarantineReason::Backwards));
        check(0, u64::MAX, u32::MAX, Err(QuarantineReason::Spike));
    }

    #[test]
    fn two_agreeing_readings_make_a_proposal() {
        let follow = |before, at, wh| {
            Some(Suspect::follow(
                before,
                &limits(),
                Seq(at),
                UnixSeconds(at as u32),
                Energy::from_wh(wh),
            ))
        };
        let first = follow(None, 900, 5);
        let third = follow(follow(first, 1800, 10), 2700, 20);
        assert_eq!(third.map(|s| (s.seq, s.agreeing)), Some((Seq(900), 2)));
        let other = follow(third, 3600, 90_000_000);
        assert_eq!(other.map(|s| (s.seq, s.agreeing)), Some((Seq(3600), 0)));
    }
}
