//! The energy charge of an account: sums by block period, tariff version and rate, and nothing
//! else, so that no order of readings can change it.
//!
//! `Σ_v [ Σ_r Wh(v,r) · price(v,r) + B_v(T_v) − B_v(T_{v−1}) ]` for each period.

use meter::{Money, UnixSeconds};

use crate::rates::{Cell, Rates, VersionIndex};
use crate::snapshot::layout;

/// Energy of one period and version, by rate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Sum {
    /// As in [`Cell::period`].
    pub(crate) period: u32,
    pub(crate) version: VersionIndex,
    /// Wh at rates 1 to 4.
    pub(crate) wh: [i64; 4],
}

layout!(Sum { period, version, wh });

impl Sum {
    fn total(&self) -> i64 {
        self.wh.iter().sum()
    }
}

/// The energy charge of an account.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Charge {
    /// The newest period and version: nearly all energy goes here.
    open: Sum,
    /// Energy of the open sum, and of earlier versions in its period.
    open_total: i64,
    /// The other sums that late readings can still touch, by period, then version in time order.
    others: Vec<Sum>,
}

layout!(Charge { open, open_total, others });

impl Charge {
    /// Adds energy (less than none, where a late reading takes back an estimate) and returns by
    /// how much the charge rises.
    #[inline]
    pub(crate) fn add(&mut self, cell: Cell, wh: i64, rates: &Rates) -> Money {
        if cell.rate == 0 {
            return Money::ZERO;
        }
        if cell.period == self.open.period && cell.version == self.open.version {
            let before = self.open_total;
            self.open_total += wh;
            self.open.wh[usize::from(cell.rate) - 1] += wh;
            let adders = rates.block_ticks(cell.version, before, self.open_total);
            return Money::from_ticks(cell.price_e4.saturating_mul(wh).saturating_add(adders));
        }
        self.add_elsewhere(cell, wh, rates)
    }

    /// Reads a little of it; see the touch-ahead of the books.
    #[inline]
    pub(crate) const fn touch(&self) -> u64 {
        self.open_total.cast_unsigned()
    }

    /// The sums still held, in no order that matters.
    pub(crate) fn sums(&self) -> impl Iterator<Item = &Sum> {
        self.others.iter().chain((self.open.period != 0).then_some(&self.open))
    }

    #[cold]
    fn add_elsewhere(&mut self, cell: Cell, wh: i64, rates: &Rates) -> Money {
        let mut sums: Vec<Sum> = self.sums().copied().collect();
        let before = period_ticks(&sums, cell.period, rates);
        let known = sums.iter().position(|s| (s.period, s.version) == (cell.period, cell.version));
        let index = known.unwrap_or_else(|| {
            let fresh = Sum { period: cell.period, version: cell.version, ..Sum::default() };
            sums.push(fresh);
            sums.len() - 1
        });
        sums[index].wh[usize::from(cell.rate) - 1] += wh;
        sums.sort_by_key(|sum| (sum.period, rates.version_order(sum.version)));
        let after = period_ticks(&sums, cell.period, rates);
        self.open = sums.pop().unwrap_or_default();
        let earlier = sums.iter().filter(|sum| sum.period == self.open.period);
        self.open_total = self.open.total() + earlier.map(Sum::total).sum::<i64>();
        self.others = sums;
        Money::from_ticks(after.saturating_sub(before))
    }

    /// Forgets sums of periods that ended before `horizon`.
    pub(crate) fn forget_before(&mut self, horizon: UnixSeconds) {
        const MONTH_S: u32 = 32 * 86_400;
        const YEAR_S: u32 = 367 * 86_400;
        self.others.retain(|sum| {
            let is_year = sum.period % 2 == 1;
            sum.period.saturating_add(if is_year { YEAR_S } else { MONTH_S }) > horizon.0
        });
    }
}

/// The charge of one period. `sums` holds the versions of a period in time order.
fn period_ticks(sums: &[Sum], period: u32, rates: &Rates) -> i64 {
    let (mut ticks, mut total) = (0_i64, 0_i64);
    for sum in sums.iter().filter(|sum| sum.period == period) {
        for (wh, rate) in sum.wh.iter().zip(1..) {
            let price_e4 = rates.price_e4(sum.version, rate);
            ticks = ticks.saturating_add(price_e4.saturating_mul(*wh));
        }
        let through = total + sum.total();
        ticks = ticks.saturating_add(rates.block_ticks(sum.version, total, through));
        total = through;
    }
    ticks
}
