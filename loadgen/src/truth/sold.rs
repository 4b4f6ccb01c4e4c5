//! What a sale of energy at the counter comes to, worked out a second time: the blocks that it falls
//! into by the cost of all energy bought in the period, before and after; the least payment by trying
//! one hundredth after another.

use meter::{BlockPart, DebtShare, Energy, Money, Split, TariffVersion};

use super::charge::{adders, half_even};

const CENT: i128 = 100_000;
/// The least that is sold, Wh.
const LEAST_WH: u64 = 100;

/// What a counter knows when energy is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Counter<'a> {
    /// The version in force, of a single rate.
    pub version: &'a TariffVersion,
    /// What may go to a debt.
    pub debt: Option<DebtShare>,
    /// Bought before in the block period, Wh.
    pub bought_wh: u64,
}

impl Counter<'_> {
    /// What a payment buys; else the least that would buy something.
    ///
    /// # Errors
    /// The least payment, ticks.
    ///
    /// # Panics
    /// When a sum leaves 63 bits.
    pub fn for_money(&self, paid: Money) -> Result<Split, i64> {
        let split = self.net(paid.ticks().into());
        let least = self.rounded_cost(LEAST_WH);
        if i128::from(split.credit.ticks()) < least {
            return Err(self.least_paid(least));
        }
        Ok(Split { blocks: self.blocks(self.affordable(split.credit), split.credit), ..split })
    }

    /// What so much energy comes to.
    ///
    /// # Panics
    /// When a sum leaves 63 bits.
    #[must_use]
    pub fn for_energy(&self, energy: Energy) -> Split {
        let wh = energy.wh().max(LEAST_WH);
        let split = self.net(self.least_paid(self.rounded_cost(wh)).into());
        Split { blocks: self.blocks(wh, split.credit), ..split }
    }

    /// What is given away for an amount: only energy and its worth.
    #[must_use]
    pub fn free(&self, credit: Money) -> Split {
        Split { credit, blocks: self.blocks(self.affordable(credit), credit), ..Split::default() }
    }

    /// What is given away of energy.
    #[must_use]
    pub fn free_energy(&self, energy: Energy) -> Split {
        let wh = energy.wh().max(LEAST_WH);
        let credit = ticks(self.rounded_cost(wh));
        Split { credit, blocks: self.blocks(wh, credit), ..Split::default() }
    }

    fn net(&self, paid: i128) -> Split {
        let share = |bp: u32| half_even(paid * i128::from(bp), 10_000 * CENT) * CENT;
        let most = |debt: DebtShare| share(debt.share_bp).min(debt.most.ticks().into()).max(0);
        let debt = self.debt.map_or(0, most);
        let fee = half_even(self.version.fee.ticks().into(), CENT) * CENT;
        let tax = share(self.version.tax_bp);
        let [paid, debt, fee, tax, credit] =
            [paid, debt, fee, tax, paid - debt - fee - tax].map(ticks);
        Split { paid, debt, fee, tax, credit, blocks: Vec::new() }
    }

    /// The least payment, in whole hundredths, of which so much is left.
    fn least_paid(&self, credit: i128) -> i64 {
        let mut paid = credit;
        while i128::from(self.net(paid).credit.ticks()) < credit {
            paid += CENT;
        }
        i64::try_from(paid).expect("a payment fits")
    }

    /// What the energy of the period costs, from its first Wh on.
    fn through(&self, wh: u64) -> i128 {
        i128::from(self.version.prices[0].e4()) * i128::from(wh) + adders(self.version, wh)
    }

    /// What so much more costs.
    fn cost(&self, wh: u64) -> i128 {
        self.through(self.bought_wh + wh) - self.through(self.bought_wh)
    }

    /// The same, up to a whole hundredth.
    fn rounded_cost(&self, wh: u64) -> i128 {
        let cost = self.cost(wh);
        cost + (CENT - cost.rem_euclid(CENT)) % CENT
    }

    /// The least energy that costs a credit or more.
    fn affordable(&self, credit: Money) -> u64 {
        let is_enough = |wh: u64| self.cost(wh) >= credit.ticks().into();
        let mut step = 1_u64 << 40;
        let mut wh = 0;
        while step > 0 {
            if !is_enough(wh + step - 1) {
                wh += step;
            }
            step /= 2;
        }
        wh
    }

    /// So much energy by the blocks it falls into; the last takes what rounding left of the credit.
    fn blocks(&self, wh: u64, credit: Money) -> Vec<BlockPart> {
        let (from, to) = (self.bought_wh, self.bought_wh + wh);
        let blocks = &self.version.blocks;
        let mut parts = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let end = blocks.get(index + 1).map_or(u64::MAX, |next| next.from_kwh * 1000);
            let (first, last) = (from.max(block.from_kwh * 1000), to.min(end));
            if first < last {
                parts.push(BlockPart {
                    from_kwh: block.from_kwh,
                    price_e4: self.version.prices[0].e4() + block.adder.e4(),
                    energy: Energy::from_wh(last - first),
                    cost: ticks(self.through(last) - self.through(first)),
                });
            }
        }
        let sum: i64 = parts.iter().map(|part| part.cost.ticks()).sum();
        if let Some(last) = parts.last_mut() {
            last.cost = Money::from_ticks(last.cost.ticks() + credit.ticks() - sum);
        }
        parts
    }
}

fn ticks(ticks: i128) -> Money {
    Money::from_ticks(i64::try_from(ticks).expect("an amount fits"))
}

#[cfg(test)]
mod tests {
    use meter::{
        Ask, Block, BlockPeriod, CreditUnit, CurrencyCode, LocalDate, PlanId, Price, SaleTerms,
        SplitError,
    };

    use super::*;
    use crate::mix;

    /// The counter of the node and this one, for many terms and amounts.
    #[test]
    fn both_counters_write_the_same_receipts() {
        for seed in 0..3000_u64 {
            let mut turn = 0;
            let mut below = |bound: u64| {
                turn += 1;
                mix(seed << 8 | turn) % bound
            };
            let mut from_kwh = 0;
            let mut blocks = Vec::new();
            for index in 0..1 + below(4) {
                let adder = if index == 0 { 0 } else { below(4000) };
                blocks.push(Block { from_kwh, adder: Price::from_e4(adder as i64) });
                from_kwh += 1 + below(40);
            }
            let version = TariffVersion {
                plan: PlanId(1),
                valid_from: LocalDate::parse("2026-01-01").unwrap(),
                currency: CurrencyCode::parse("CNY").unwrap(),
                prices: vec![Price::from_e4(1 + below(12_000) as i64)],
                seasons: Vec::new(),
                calendar: None,
                blocks,
                block_period: BlockPeriod::Month,
                standing_per_day: Money::ZERO,
                standing_per_month: Money::ZERO,
                tax_bp: below(5000) as u32,
                fee: Money::from_ticks(below(3_000_000) as i64),
            };
            let most = Money::from_ticks(below(40_000_000) as i64);
            let debt = DebtShare { most, share_bp: below(4500) as u32 };
            let debt = (below(2) == 0).then_some(debt);
            let bought_wh = below(80_000);
            let counter = Counter { version: &version, debt, bought_wh };
            let bought = Energy::from_wh(bought_wh);
            let terms = SaleTerms { version: &version, debt, unit: CreditUnit::Energy, bought };
            let paid = Money::from_ticks(below(3000) as i64 * 100_000);
            let sold = terms.split(Ask::Money(paid)).map_err(|error| {
                let SplitError::BelowMinimum { least, .. } = error else { panic!("{error}") };
                least.ticks()
            });
            assert_eq!(counter.for_money(paid), sold, "seed {seed}: {paid:?} of {counter:?}");
            let energy = Energy::from_wh(below(60_000));
            let sold = terms.split(Ask::Energy(energy));
            assert_eq!(Ok(counter.for_energy(energy)), sold, "seed {seed}: {energy:?} {counter:?}");
            if paid > Money::ZERO {
                assert_eq!(Ok(counter.free(paid)), terms.free(Ask::Money(paid)), "seed {seed}");
            }
            assert_eq!(Ok(counter.free_energy(energy)), terms.free(Ask::Energy(energy)));
        }
    }
}
