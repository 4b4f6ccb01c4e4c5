//! Usual use: what a meter uses in a local day, against the mean of its own days before.

use crate::snapshot::layout;

/// Days before there is a mean to compare with.
const DAYS_MIN: u16 = 7;
/// Days the mean looks back over, the older ones ever lighter.
const DAYS_MAX: u16 = 28;

/// The running day and the days before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Usual {
    /// The register at the start of the running day, as if it had never rolled over or broken.
    base: i64,
    /// Energy of the days before.
    sum: u64,
    days: u16,
}

layout!(Usual { base, sum, days });

impl Usual {
    /// The first day begins; it is cut short and counts for nothing.
    pub(crate) fn begin(register: u64) -> Self {
        Self { base: signed(register), sum: 0, days: 0 }
    }

    /// What the running day used, up to a register.
    pub(crate) fn used(&self, register: u64) -> u64 {
        u64::try_from(signed(register).saturating_sub(self.base)).unwrap_or(0)
    }

    /// The register went to `to` where it would have gone to `from + rise`.
    pub(crate) fn shift(&mut self, from: u64, rise: u64, to: u64) {
        let straight = signed(from).saturating_add(signed(rise));
        self.base = self.base.saturating_add(signed(to).saturating_sub(straight));
    }

    /// The running day is over with this use: it joins the mean, and the next one begins.
    pub(crate) fn next_day(&mut self, used: u64) {
        if self.days == DAYS_MAX {
            self.sum -= self.sum / u64::from(DAYS_MAX);
            self.days -= 1;
        }
        self.sum = self.sum.saturating_add(used);
        self.days += 1;
        self.base = self.base.saturating_add(signed(used));
    }

    /// The register above which the running day is unusual; the greatest while there is no mean.
    pub(crate) fn watch(&self, raise_milli: u32) -> u64 {
        if self.days < DAYS_MIN || self.sum == 0 {
            return u64::MAX;
        }
        let bound = self.base.saturating_add(signed(self.of_mean(raise_milli)));
        u64::try_from(bound).unwrap_or(0)
    }

    /// This share of the mean of the days before, in 1/1000.
    pub(crate) fn of_mean(&self, milli: u32) -> u64 {
        let share = u128::from(self.sum) * u128::from(milli);
        u64::try_from(share / (1000 * u128::from(self.days.max(1)))).unwrap_or(u64::MAX)
    }
}

fn signed(wh: u64) -> i64 {
    i64::try_from(wh).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_seven_days_at_least() {
        let mut usual = Usual::begin(500);
        for day in 1..=7 {
            assert_eq!(usual.watch(3000), u64::MAX, "day={day}");
            usual.next_day(1000);
        }
        assert_eq!(usual.watch(3000), 500 + 7000 + 3000);
        assert_eq!(usual.used(7600), 100);
        for _ in 8..=40 {
            usual.next_day(2000);
        }
        let bound = usual.watch(3000) - (500 + 7000 + 33 * 2000);
        assert!((5000..=6000).contains(&bound), "bound={bound}");
    }

    #[test]
    fn rollover_and_breaks_are_no_use() {
        let mut usual = Usual::begin(990);
        // 15 Wh over a rollover at 1000.
        usual.shift(995, 15, 10);
        assert_eq!(usual.used(10), 20);
        // A new register that begins at 7000.
        usual.shift(10, 0, 7000);
        assert_eq!(usual.used(7000), 20);
    }
}
