//! Usual use: what a meter uses in a local day, against the mean of its own days before.

use meter::UnixSeconds;

use crate::snapshot::layout;

/// Days before there is a mean to compare with.
const DAYS_MIN: u16 = 7;
/// Days the mean looks back over, the older ones ever lighter.
const DAYS_MAX: u16 = 28;

/// The running day and the days before.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Usual {
    /// Energy of the running day so far.
    pub(crate) used: u64,
    /// Above this the day is unusual; the greatest number while there is no mean.
    pub(crate) bound: u64,
    /// Energy of the days before.
    sum: u64,
    /// End of the running day.
    pub(crate) day_end: UnixSeconds,
    days: u16,
}

layout!(Usual { used, bound, sum, day_end, days });

impl Usual {
    /// The first day begins; it is cut short and counts for nothing.
    pub(crate) fn begin(&mut self, day_end: UnixSeconds) {
        *self = Self { used: 0, bound: u64::MAX, sum: 0, day_end, days: 0 };
    }

    /// The running day is over: it joins the mean, and the next one begins.
    pub(crate) fn next_day(&mut self, day_end: UnixSeconds, raise_milli: u32) {
        if self.days == DAYS_MAX {
            self.sum -= self.sum / u64::from(DAYS_MAX);
            self.days -= 1;
        }
        self.sum = self.sum.saturating_add(self.used);
        self.days += 1;
        self.used = 0;
        self.day_end = day_end;
        let is_known = self.days >= DAYS_MIN && self.sum > 0;
        self.bound = if is_known { self.of_mean(raise_milli) } else { u64::MAX };
    }

    /// This share of the mean of the days before, in 1/1000.
    pub(crate) fn of_mean(&self, milli: u32) -> u64 {
        let share = u128::from(self.sum) * u128::from(milli);
        u64::try_from(share / (1000 * u128::from(self.days.max(1)))).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_seven_days_at_least() {
        let mut usual = Usual::default();
        usual.begin(UnixSeconds(86_400));
        for day in 2..=8 {
            assert_eq!(usual.bound, u64::MAX, "day={day}");
            usual.used = 1000;
            usual.next_day(UnixSeconds(day * 86_400), 3000);
        }
        assert_eq!(usual.bound, 3000);
        for day in 9..=40 {
            usual.used = 2000;
            usual.next_day(UnixSeconds(day * 86_400), 3000);
        }
        assert!((5000..=6000).contains(&usual.bound), "bound={}", usual.bound);
    }
}
