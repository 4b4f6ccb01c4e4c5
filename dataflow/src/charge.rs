//! The energy charge of an account: sums by block period and tariff version, and nothing else, so
//! that no order of readings can change it.
//!
//! `Σ_v [ Σ_r Wh(v,r) · price(v,r) + B_v(T_v) − B_v(T_{v−1}) ]` for each period. The first term is a
//! straight line in each Wh, so what a change adds to it needs no sum; T and B need the totals.

use meter::{Money, UnixSeconds};

use crate::rates::{Cell, Rates, Stretch, UNPRICED, VersionIndex};
use crate::snapshot::layout;

/// Energy of one period and version.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub(crate) struct Sum {
    /// Wh of all rates.
    wh: i64,
    /// As in [`Cell::period`].
    pub(crate) period: u32,
    version: VersionIndex,
    /// 1 when earlier versions have energy in the period.
    follows: u16,
}

layout!(Sum { wh, period, version, follows });

impl Sum {
    /// Adds energy to the newest sum of an account where it belongs to it and stays in its stretch
    /// of blocks, and returns by how much the charge rises.
    #[inline]
    pub(crate) fn add(&mut self, stretch: &mut Stretch, cell: Cell, wh: i64) -> Option<Money> {
        let is_here = cell.period == self.period && cell.version == self.version;
        let left = i64::from(stretch.left).checked_sub(wh).filter(|_| wh >= 0);
        stretch.left = u32::try_from(left.filter(|_| is_here)?).ok()?;
        self.wh += wh;
        let price_e4 = cell.price_e4.saturating_add(stretch.adder_e4.into());
        Some(Money::from_ticks(price_e4.saturating_mul(wh)))
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
    /// Where the newest sum stands among the blocks.
    pub(crate) fn stretch(&self, newest: &Sum, rates: &Rates) -> Stretch {
        let before = if newest.follows == 1 { self.earlier } else { 0 };
        rates.stretch(newest.version, before + newest.wh)
    }

    /// Adds energy (less than none, where a late reading takes back an estimate) to any sum, or
    /// makes a newer one.
    #[cold]
    pub(crate) fn add(&mut self, newest: &mut Sum, cell: Cell, wh: i64, rates: &Rates) -> Money {
        if cell.period == newest.period && cell.version == newest.version {
            let before = newest.wh + if newest.follows == 1 { self.earlier } else { 0 };
            newest.wh += wh;
            let adders = rates.block_ticks(cell.version, before, before + wh);
            return Money::from_ticks(cell.price_e4.saturating_mul(wh).saturating_add(adders));
        }
        let mut sums = std::mem::take(&mut self.sums);
        if newest.period != 0 {
            sums.push(*newest);
        }
        let before = adders(&sums, cell.period, rates);
        let known = sums.iter().position(|s| (s.period, s.version) == (cell.period, cell.version));
        let index = known.unwrap_or_else(|| {
            let fresh = Sum { period: cell.period, version: cell.version, ..Sum::default() };
            sums.push(fresh);
            sums.len() - 1
        });
        sums[index].wh += wh;
        sums.sort_by_key(|sum| (sum.period, rates.version_order(sum.version, sum.period)));
        let after = adders(&sums, cell.period, rates);
        *newest = sums.pop().unwrap_or_default();
        let earlier = sums.iter().filter(|sum| sum.period == newest.period);
        newest.follows = u16::from(earlier.clone().next().is_some());
        self.earlier = earlier.map(|sum| sum.wh).sum();
        self.sums = sums;
        let adders = after.saturating_sub(before);
        Money::from_ticks(cell.price_e4.saturating_mul(wh).saturating_add(adders))
    }

    /// Another plan begins: what each period holds goes on counting for the blocks, without price.
    pub(crate) fn carry(&mut self, newest: &mut Sum) {
        self.sums.push(std::mem::take(newest));
        let mut carried: Vec<Sum> = Vec::new();
        for sum in self.sums.drain(..).filter(|sum| sum.period != 0) {
            let known = carried.iter_mut().find(|known| known.period == sum.period);
            match known {
                Some(known) => known.wh += sum.wh,
                None => carried.push(Sum {
                    wh: sum.wh,
                    period: sum.period,
                    version: UNPRICED,
                    follows: 0,
                }),
            }
        }
        (self.sums, self.earlier) = (carried, 0);
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

/// The block adders of one period. `sums` holds the versions of a period in time order.
fn adders(sums: &[Sum], period: u32, rates: &Rates) -> i64 {
    let (mut ticks, mut total) = (0_i64, 0_i64);
    for sum in sums.iter().filter(|sum| sum.period == period) {
        let through = total + sum.wh;
        ticks = ticks.saturating_add(rates.block_ticks(sum.version, total, through));
        total = through;
    }
    ticks
}
