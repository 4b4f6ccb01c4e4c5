//! What a purchase comes to, line by line: debt recovery, fee, tax, and what is left as credit, for
//! accounts sold in energy split over the blocks.
//!
//! **Invariant:** paid = debt + fee + tax + credit; every line is whole hundredths; nothing rounds
//! against the customer but by the half-even rule of a receipt line.

#![cfg_attr(
    not(test),
    expect(
        clippy::arithmetic_side_effects,
        reason = "products are taken in 128 bits, and overflow checks stay on in release builds"
    )
)]

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Energy, Money, TariffVersion};

/// What a buyer asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// To pay this much.
    Money(Money),
    /// To get this much; only where the account is sold in energy.
    Energy(Energy),
}

/// What an account's credit is counted in.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CreditUnit {
    /// The balance is money; energy is charged as it is metered.
    Money,
    /// Energy is sold at the counter and handed to the meter.
    Energy,
}

/// A debt that purchases pay off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DebtShare {
    /// What may still be taken now: what is left of the debt, or of the month's cap.
    pub most: Money,
    /// Of each purchase, in 1/10,000.
    pub share_bp: u32,
}

impl DebtShare {
    /// What a payment pays off.
    #[must_use]
    pub fn of(self, paid: Money) -> Money {
        share(paid, self.share_bp).min(self.most).max(Money::ZERO)
    }
}

/// Under which terms a purchase is split.
#[derive(Clone, Copy, Debug)]
pub struct SaleTerms<'a> {
    /// The tariff version in force.
    pub version: &'a TariffVersion,
    /// The debt, if there is one.
    pub debt: Option<DebtShare>,
    /// What is sold.
    pub unit: CreditUnit,
    /// Energy bought before in this block period.
    pub bought: Energy,
}

/// A purchase, split. Of a free issue only the credit and its energy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Split {
    /// What is paid: the sum of the other amounts.
    pub paid: Money,
    /// To the debt.
    pub debt: Money,
    /// Fee.
    pub fee: Money,
    /// Tax.
    pub tax: Money,
    /// To the balance, or for the energy.
    pub credit: Money,
    /// The energy, block by block; empty where money is sold.
    pub blocks: Vec<BlockPart>,
}

/// Energy sold within one block.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct BlockPart {
    /// Lower threshold of the block, kWh in the period.
    pub from_kwh: u64,
    /// Price with the block's adder, in 10⁻⁴ per kWh.
    pub price_e4: i64,
    /// How much.
    pub energy: Energy,
    /// What it costs; the last part takes what rounding left.
    pub cost: Money,
}

/// Why a purchase cannot be split.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SplitError {
    /// Nothing would be left to credit.
    #[error(
        "after debt recovery ({} ‱, at most {}), fee {} and tax ({} ‱) too little would be left; \
         the least is {}",
        debt_bp, debt_most.to_decimal(), fee.to_decimal(), tax_bp, least.to_decimal()
    )]
    BelowMinimum {
        /// The least that sells something.
        least: Money,
        /// Share that goes to the debt.
        debt_bp: u32,
        /// The most that goes there.
        debt_most: Money,
        /// Fee.
        fee: Money,
        /// Tax in 1/10,000.
        tax_bp: u32,
    },
    /// Debt and tax take everything, whatever is paid.
    #[error("debt recovery and tax together take all of every purchase")]
    NothingLeft,
    /// Energy is asked for where money is sold.
    #[error("the account is sold in money, not in energy")]
    SoldInMoney,
    /// Energy has more than one price by the time of day.
    #[error("an account sold in energy needs a plan with a single rate above 0, this one has {0}")]
    NotFlat(usize),
    /// Beyond what the types hold.
    #[error("the amount is out of range")]
    Range,
}

/// The least energy that is sold: a tenth of a kWh, the unit of a token.
pub const ENERGY_STEP_WH: u64 = 100;

impl Split {
    /// The energy of all blocks.
    #[must_use]
    pub fn energy(&self) -> Energy {
        Energy::from_wh(self.blocks.iter().map(|part| part.energy.wh()).sum())
    }
}

impl SaleTerms<'_> {
    /// Splits a purchase.
    ///
    /// # Errors
    /// [`SplitError`]; a minimum names the least amount and why.
    pub fn split(&self, ask: Ask) -> Result<Split, SplitError> {
        match (ask, self.unit) {
            (Ask::Money(paid), CreditUnit::Money) => {
                let split = self.net(paid)?;
                if split.credit < CENT {
                    return Err(self.below(CENT));
                }
                Ok(split)
            }
            (Ask::Money(paid), CreditUnit::Energy) => {
                let least = self.cost(ENERGY_STEP_WH)?;
                let mut split = self.net(paid)?;
                if split.credit < least {
                    return Err(self.below(least));
                }
                split.blocks = self.energy_for(split.credit)?;
                Ok(split)
            }
            (Ask::Energy(_), CreditUnit::Money) => Err(SplitError::SoldInMoney),
            (Ask::Energy(energy), CreditUnit::Energy) => {
                let wh = energy.wh().max(ENERGY_STEP_WH);
                let cost = self.cost(wh)?;
                let mut split = self.net(self.least_paid(cost)?)?;
                split.blocks = self.parts(wh, split.credit)?;
                Ok(split)
            }
        }
    }

    /// What is given away: nothing is paid, nothing goes to debt, fee or tax.
    ///
    /// # Errors
    /// [`SplitError`].
    pub fn free(&self, ask: Ask) -> Result<Split, SplitError> {
        match (ask, self.unit) {
            (Ask::Money(credit), CreditUnit::Money) => Ok(Split { credit, ..Split::default() }),
            (Ask::Energy(_), CreditUnit::Money) => Err(SplitError::SoldInMoney),
            (Ask::Money(credit), CreditUnit::Energy) => {
                let blocks = self.energy_for(credit)?;
                Ok(Split { credit, blocks, ..Split::default() })
            }
            (Ask::Energy(energy), CreditUnit::Energy) => {
                let wh = energy.wh().max(ENERGY_STEP_WH);
                let credit = self.cost(wh)?;
                Ok(Split { credit, blocks: self.parts(wh, credit)?, ..Split::default() })
            }
        }
    }

    /// Paid, less debt, fee and tax; the credit may be below zero.
    fn net(&self, paid: Money) -> Result<Split, SplitError> {
        let debt = self.debt.map_or(Money::ZERO, |debt| debt.of(paid));
        let fee = self.version.fee.round_to_cents();
        let tax = share(paid, self.version.tax_bp);
        let credit = paid.minus(debt).and_then(|rest| rest.minus(fee));
        let credit = credit.and_then(|rest| rest.minus(tax)).map_err(|_| SplitError::Range)?;
        Ok(Split { paid, debt, fee, tax, credit, blocks: Vec::new() })
    }

    /// The least payment, in whole hundredths, of which at least `credit` is left.
    fn least_paid(&self, credit: Money) -> Result<Money, SplitError> {
        let is_enough = |cents: i64| {
            let paid = cents.checked_mul(Money::TICKS_PER_CENT).map(Money::from_ticks);
            let net = paid.and_then(|paid| self.net(paid).ok());
            net.is_some_and(|split| split.credit >= credit)
        };
        if !is_enough(CENTS_MAX) {
            return Err(SplitError::NothingLeft);
        }
        // Two lines are rounded, so that what is left may fall where the payment rises: the search
        // goes by what would be left without rounding, and from there on payment by payment.
        let (mut low, mut high) = (1_i64, CENTS_MAX);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.unrounded_e4(middle) > (i128::from(credit.ticks()) - CENT_TICKS) * 10_000 {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        // A whole hundredth is lost to rounding where both lines stand at half of one.
        low -= i64::from(is_enough(low - 1));
        while !is_enough(low) {
            low += 1;
        }
        Ok(Money::from_ticks(low * Money::TICKS_PER_CENT))
    }

    /// What would be left of a payment of so many hundredths if share and tax were not rounded, in
    /// 1/10,000 tick: with rounding it is at most a hundredth more or less.
    fn unrounded_e4(&self, cents: i64) -> i128 {
        let paid = i128::from(cents) * CENT_TICKS;
        let debt = self.debt.map_or(0, |debt| {
            let most = i128::from(debt.most.ticks().max(0));
            (paid * i128::from(debt.share_bp)).min(most * 10_000)
        });
        let fee = i128::from(self.version.fee.round_to_cents().ticks());
        (paid - fee) * 10_000 - debt - paid * i128::from(self.version.tax_bp)
    }

    fn below(&self, credit: Money) -> SplitError {
        match self.least_paid(credit) {
            Ok(least) => SplitError::BelowMinimum {
                least,
                debt_bp: self.debt.map_or(0, |debt| debt.share_bp),
                debt_most: self.debt.map_or(Money::ZERO, |debt| debt.most),
                fee: self.version.fee.round_to_cents(),
                tax_bp: self.version.tax_bp,
            },
            Err(error) => error,
        }
    }

    /// Blocks from what was bought before on: threshold, price, Wh that still fit.
    fn steps(&self) -> Result<Vec<(u64, i64, u64)>, SplitError> {
        let [price] = self.version.prices.as_slice() else {
            return Err(SplitError::NotFlat(self.version.prices.len()));
        };
        let blocks = &self.version.blocks;
        let mut steps = Vec::new();
        for (index, block) in blocks.iter().enumerate() {
            let wh = |kwh: u64| kwh.checked_mul(1000).ok_or(SplitError::Range);
            let from = wh(block.from_kwh)?.max(self.bought.wh());
            let to = blocks.get(index + 1).map_or(Ok(u64::MAX), |next| wh(next.from_kwh))?;
            let total = price.e4().checked_add(block.adder.e4()).ok_or(SplitError::Range)?;
            if total <= 0 {
                return Err(SplitError::NotFlat(1));
            }
            if to > from {
                steps.push((block.from_kwh, total, to - from));
            }
        }
        Ok(steps)
    }

    /// What so much energy costs, rounded up to whole hundredths.
    fn cost(&self, wh: u64) -> Result<Money, SplitError> {
        let mut rest = wh;
        let mut ticks = 0_i128;
        for (_, price, room) in self.steps()? {
            let here = rest.min(room);
            ticks += i128::from(price) * i128::from(here);
            rest -= here;
        }
        let cents = ticks.div_euclid(CENT_TICKS) + i128::from(ticks.rem_euclid(CENT_TICKS) > 0);
        let ticks = i64::try_from(cents * CENT_TICKS).map_err(|_| SplitError::Range)?;
        Ok(Money::from_ticks(ticks))
    }

    /// The energy that `credit` buys, rounded up to a whole Wh.
    fn energy_for(&self, credit: Money) -> Result<Vec<BlockPart>, SplitError> {
        let mut rest = credit.ticks();
        let mut wh = 0_u64;
        for (_, price, room) in self.steps()? {
            if rest <= 0 {
                break;
            }
            let affordable = rest / price + i64::from(rest % price > 0);
            let here = u64::try_from(affordable).map_err(|_| SplitError::Range)?.min(room);
            let cost = i128::from(price) * i128::from(here);
            rest = i64::try_from(i128::from(rest) - cost).map_err(|_| SplitError::Range)?;
            wh = wh.checked_add(here).ok_or(SplitError::Range)?;
        }
        self.parts(wh, credit)
    }

    /// So much energy, block by block; the costs sum to `credit`.
    fn parts(&self, wh: u64, credit: Money) -> Result<Vec<BlockPart>, SplitError> {
        let (mut rest, mut left) = (wh, credit.ticks());
        let mut parts = Vec::new();
        for (from_kwh, price_e4, room) in self.steps()? {
            let here = rest.min(room);
            if here == 0 {
                break;
            }
            let cost = i64::try_from(i128::from(price_e4) * i128::from(here));
            let cost = cost.map_err(|_| SplitError::Range)?;
            (rest, left) = (rest - here, left - cost);
            let (energy, cost) = (Energy::from_wh(here), Money::from_ticks(cost));
            parts.push(BlockPart { from_kwh, price_e4, energy, cost });
        }
        if let Some(last) = parts.last_mut() {
            last.cost = Money::from_ticks(last.cost.ticks() + left);
        }
        Ok(parts)
    }
}

/// `paid · bp / 10,000`, rounded once, half-even, to whole hundredths.
fn share(paid: Money, bp: u32) -> Money {
    let numerator = i128::from(paid.ticks()) * i128::from(bp);
    let unit = 10_000 * CENT_TICKS;
    let (cents, rest) = (numerator.div_euclid(unit), numerator.rem_euclid(unit));
    let is_up = rest * 2 > unit || (rest * 2 == unit && cents.rem_euclid(2) == 1);
    let ticks = (cents + i128::from(is_up)) * CENT_TICKS;
    Money::from_ticks(i64::try_from(ticks).unwrap_or(i64::MAX))
}

const CENT: Money = Money::from_ticks(Money::TICKS_PER_CENT);
const CENT_TICKS: i128 = 100_000;
/// A thousand million currency units, the most that is paid at once.
const CENTS_MAX: i64 = 100_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::{
        Block, BlockPeriod, CurrencyCode, DayProfile, LocalDate, MonthDay, PlanId, Price, Season,
        Switch,
    };

    fn version(blocks: &[(u64, i64)]) -> TariffVersion {
        let profile = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
        let season = Season {
            from: MonthDay { month: 1, day: 1 },
            to: MonthDay { month: 12, day: 31 },
            workday: profile.clone(),
            weekend: profile.clone(),
            holiday: profile,
        };
        let block = |&(from_kwh, e4)| Block { from_kwh, adder: Price::from_e4(e4) };
        TariffVersion {
            plan: PlanId(1),
            valid_from: LocalDate::new(2026, 1, 1).unwrap(),
            currency: CurrencyCode::parse("CNY").unwrap(),
            prices: vec![Price::from_e4(5000)],
            seasons: vec![season],
            calendar: None,
            blocks: blocks.iter().map(block).collect(),
            block_period: BlockPeriod::Month,
            standing_per_day: Money::ZERO,
            standing_per_month: Money::ZERO,
            tax_bp: 600,
            fee: cents(100),
        }
    }

    fn cents(cents: i64) -> Money {
        Money::from_ticks(cents * Money::TICKS_PER_CENT)
    }

    fn terms(version: &TariffVersion, bought_kwh: u64) -> SaleTerms<'_> {
        let bought = Energy::from_wh(bought_kwh * 1000);
        SaleTerms { version, debt: None, unit: CreditUnit::Energy, bought }
    }

    #[test]
    fn debt_then_fee_then_tax_then_credit() {
        let version = version(&[(0, 0)]);
        let debt = Some(DebtShare { most: cents(3000), share_bp: 2500 });
        let terms = SaleTerms { debt, unit: CreditUnit::Money, ..terms(&version, 0) };
        let split = terms.split(Ask::Money(cents(10_000))).unwrap();
        let lines = [split.debt, split.fee, split.tax, split.credit];
        assert_eq!(lines, [2500, 100, 600, 6800].map(cents));
        // The cap holds.
        let split = terms.split(Ask::Money(cents(20_000))).unwrap();
        assert_eq!((split.debt, split.credit), (cents(3000), cents(15_700)));
    }

    #[test]
    fn a_purchase_below_the_minimum_is_told_the_least() {
        let version = version(&[(0, 0)]);
        let terms = terms(&version, 0);
        let error = terms.split(Ask::Money(cents(105))).unwrap_err();
        // 0.1 kWh cost 0.05: 1.12 less 1.00 fee less 0.07 tax.
        let SplitError::BelowMinimum { least, .. } = error else { panic!("{error}") };
        assert_eq!(least, cents(112));
        assert!(error.to_string().contains("the least is 1.1200000"), "{error}");
        assert_eq!(terms.split(Ask::Money(least)).unwrap().energy().wh(), 100);
        let all = TariffVersion { tax_bp: 10_000, ..version.clone() };
        let error = SaleTerms { version: &all, ..terms }.split(Ask::Money(cents(500)));
        assert_eq!(error, Err(SplitError::NothingLeft));
    }

    /// One hundredth more may be taken by both share and tax: less may be left of more.
    #[test]
    fn the_least_payment_is_the_least() {
        let check = |(share_bp, tax_bp, most), energy_wh, want| {
            let version = TariffVersion {
                prices: vec![Price::from_e4(703)],
                fee: cents(2),
                tax_bp,
                ..version(&[(0, 0)])
            };
            let debt = Some(DebtShare { most: cents(most), share_bp });
            let terms = SaleTerms { debt, ..terms(&version, 0) };
            let split = terms.split(Ask::Energy(Energy::from_wh(energy_wh))).unwrap();
            assert_eq!(split.paid, cents(want), "{share_bp} {tax_bp} {energy_wh}: {split:?}");
            let enough = (0..want).filter(|paid| {
                let split = terms.net(cents(*paid)).unwrap();
                split.credit >= terms.cost(energy_wh).unwrap()
            });
            assert_eq!(enough.count(), 0, "{share_bp} {tax_bp} {energy_wh}");
        };
        check((1785, 4414, 223), 9639, 182);
        check((10_000, 0, 500), 100, 503);
        check((9000, 2000, 50), 1000, 75);
        check((5000, 4999, 1000), 100, 2005);
    }

    #[test]
    fn blocks_are_split_inside_one_purchase() {
        // 0.50 up to 100 kWh, 0.60 up to 200, then 0.80; 90 kWh bought before.
        let version = version(&[(0, 0), (100, 1000), (200, 3000)]);
        let split = terms(&version, 90).split(Ask::Money(cents(8200))).unwrap();
        // 82.00 − 1.00 − 4.92 = 76.08: 10 kWh for 5.00, 100 for 60.00, 13.85 for 11.08.
        assert_eq!(split.credit, cents(7608));
        let parts: Vec<_> =
            split.blocks.iter().map(|p| (p.from_kwh, p.energy.wh(), p.cost)).collect();
        let want =
            [(0, 10_000, cents(500)), (100, 100_000, cents(6000)), (200, 13_850, cents(1108))];
        assert_eq!(parts, want);
    }

    #[test]
    fn what_cannot_be_sold_in_energy_is_refused() {
        let mut version = version(&[(0, 0)]);
        let ask = Ask::Energy(Energy::from_wh(1000));
        let money = SaleTerms { unit: CreditUnit::Money, ..terms(&version, 0) };
        assert_eq!(money.split(ask), Err(SplitError::SoldInMoney));
        version.prices.push(Price::from_e4(1));
        assert_eq!(terms(&version, 0).split(ask), Err(SplitError::NotFlat(2)));
    }

    proptest::proptest! {
        #[test]
        fn the_lines_sum_up(
            paid in 200_i64..10_000_000, bought in 0_u64..400, share_bp in 0_u32..9000,
            most in 0_i64..100_000, by_energy: bool,
        ) {
            let version = version(&[(0, 0), (100, 1000), (200, 3000)]);
            let debt = Some(DebtShare { most: cents(most), share_bp });
            let terms = SaleTerms { debt, ..terms(&version, bought) };
            let energy = Energy::from_wh(paid.unsigned_abs());
            let ask = if by_energy { Ask::Energy(energy) } else { Ask::Money(cents(paid)) };
            if let Ok(split) = terms.split(ask) {
                let sum = [split.debt, split.fee, split.tax, split.credit];
                let sum: i64 = sum.iter().map(|money| money.ticks()).sum();
                proptest::prop_assert_eq!(sum, split.paid.ticks());
                let cost: i64 = split.blocks.iter().map(|part| part.cost.ticks()).sum();
                proptest::prop_assert_eq!(cost, split.credit.ticks());
                if by_energy {
                    proptest::prop_assert_eq!(split.energy().wh(), energy.wh().max(ENERGY_STEP_WH));
                }
            }
        }
    }
}
