//! The energy charge of an account: sums by block period, tariff version and rate, and nothing
//! else, so that no order of readings can change it.
//!
//! `Σ_v [ Σ_r Wh(v,r) · price(v,r) + B_v(T_v) − B_v(T_{v−1}) ]` for each period.

use meter::{Money, UnixSeconds};

use crate::rates::{Cell, Rates, VersionIndex};
use crate::snapshot::layout;

/// Energy of one period and version, by rate.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Sum {
    /// Wh at rates 1 to 4.
    pub(crate) wh: [i64; 4],
    /// As in [`Cell::period`].
    pub(crate) period: u32,
    pub(crate) version: VersionIndex,
    /// 1 when earlier versions have energy in the period.
    follows: u16,
}

layout!(Sum { wh, period, version, follows });

impl Sum {
    #[inline]
    fn total(&self) -> i64 {
        self.wh.iter().sum()
    }

    /// Adds energy (less than none, where a late reading takes back an estimate) to the newest sum
    /// of an account and returns by how much the charge rises; `None` when the energy belongs to
    /// another sum, see [`Others::add`].
    #[inline]
    pub(crate) fn add(
        &mut self,
        others: &Others,
        cell: Cell,
        wh: i64,
        rates: &Rates,
    ) -> Option<Money> {
        if cell.period != self.period || cell.version != self.version {
            return None;
        }
        let mut before = self.total();
        if self.follows == 1 {
            before += others.earlier();
        }
        self.wh[usize::from(cell.rate) - 1] += wh;
        let adders = rates.block_ticks(cell.version, before, before + wh);
        Some(Money::from_ticks(cell.price_e4.saturating_mul(wh).saturating_add(adders)))
    }
}

/// The other sums that late readings can still touch, by period, then version in time order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Others {
    sums: Vec<Sum>,
    /// Energy of the versions before the newest sum in its period.
    earlier: i64,
}

layout!(Others { sums, earlier });

impl Others {
    /// Apart, so that the usual reading does not load it.
    #[cold]
    #[inline(never)]
    const fn earlier(&self) -> i64 {
        self.earlier
    }

    /// Adds energy that does not belong to the newest sum, or makes a newer one.
    #[cold]
    pub(crate) fn add(&mut self, newest: &mut Sum, cell: Cell, wh: i64, rates: &Rates) -> Money {
        let mut sums = std::mem::take(&mut self.sums);
        if newest.period != 0 {
            sums.push(*newest);
        }
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
        *newest = sums.pop().unwrap_or_default();
        let earlier = sums.iter().filter(|sum| sum.period == newest.period);
        newest.follows = u16::from(earlier.clone().next().is_some());
        self.earlier = earlier.map(Sum::total).sum();
        self.sums = sums;
        Money::from_ticks(after.saturating_sub(before))
    }

    /// Forgets sums of periods that ended before `horizon`.
    pub(crate) fn forget_before(&mut self, horizon: UnixSeconds) {
        const MONTH_S: u32 = 32 * 86_400;
        const YEAR_S: u32 = 367 * 86_400;
        self.sums.retain(|sum| {
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
