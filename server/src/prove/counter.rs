//! Accounts sold in kWh: a counter that sells energy by the rules of `meter::sale`, and the check of
//! every receipt against the model, which knows from the receipts before what was bought already.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use loadgen::truth::{self, Tariff};
use meter::{
    AccountId, Ask, BlockPeriod, Change, CreditUnit, DebtShare, Energy, LedgerKind, LocalCalendar,
    LocalDate, Money, PurchaseId, Sale, SaleLine, SaleTerms, Split, SplitError, TariffVersion,
    UnixSeconds,
};

use super::options::Dice;

/// A sale of energy as the counter made it.
#[derive(Clone, Debug)]
pub(super) struct Sold {
    pub(super) sale: PurchaseId,
    pub(super) account: AccountId,
    pub(super) at: UnixSeconds,
    pub(super) ask: Ask,
    pub(super) is_free: bool,
    pub(super) debt: Option<DebtShare>,
    /// The receipt.
    pub(super) split: Split,
}

/// The plan that energy is sold under.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) zone: String,
    pub(super) versions: Vec<TariffVersion>,
}

/// What a counter knows of an account sold in kWh.
#[derive(Debug)]
pub(super) struct Counter {
    calendar: LocalCalendar,
    versions: Vec<TariffVersion>,
    /// Energy bought by the first day of the block period, and whether that is a month.
    bought: BTreeMap<(LocalDate, bool), u64>,
}

impl Counter {
    pub(super) fn new(plan: &Plan) -> Self {
        let calendar = LocalCalendar::new(&plan.zone).expect("the zones are compiled in");
        Self { calendar, versions: plan.versions.clone(), bought: BTreeMap::new() }
    }

    /// Sells, or gives away: what is asked for, or the least that can be sold.
    pub(super) fn sell(
        &mut self,
        (sale, account, at): (PurchaseId, AccountId, UnixSeconds),
        debt: Option<DebtShare>,
        dice: &mut Dice,
    ) -> Sold {
        let is_free = dice.happens(150);
        // Several blocks in one purchase, now and then less than anything is sold for.
        let mut ask = match dice.below(10) {
            0 => Ask::Money(Money::from_ticks(100_000 * (1 + dice.below(9)) as i64)),
            1..=5 => Ask::Money(Money::from_ticks(100_000 * (1 + dice.below(60_000)) as i64)),
            _ => Ask::Energy(Energy::from_wh(1 + dice.below(150_000))),
        };
        let date = self.calendar.local(at).date;
        let begun = self.versions.iter().filter(|version| version.valid_from <= date);
        let version = begun.max_by_key(|version| version.valid_from).expect("one is in force");
        let is_month = version.block_period == BlockPeriod::Month;
        let first = if is_month { date.first_of_month() } else { date.first_of_year() };
        let bought_wh = self.bought.get(&(first, is_month)).copied().unwrap_or(0);
        let (unit, bought) = (CreditUnit::Energy, Energy::from_wh(bought_wh));
        let terms = SaleTerms { version, debt, unit, bought };
        let split = loop {
            match if is_free { terms.free(ask) } else { terms.split(ask) } {
                Ok(split) => break split,
                Err(SplitError::BelowMinimum { least, .. }) => ask = Ask::Money(least),
                Err(error) => panic!("the counter of the story cannot sell: {error}"),
            }
        };
        if !is_free {
            *self.bought.entry((first, is_month)).or_default() += split.energy().wh();
        }
        Sold { sale, account, at, ask, is_free, debt, split }
    }
}

impl Sold {
    /// The lines that its receipt makes in the ledger: the meter gets all of the credit.
    pub(super) fn lines(&self) -> Vec<SaleLine> {
        let Split { paid, debt, fee, tax, credit, .. } = &self.split;
        let given = if self.is_free { credit.ticks() } else { 0 };
        let lines = [
            (LedgerKind::Purchase, paid.ticks()),
            (LedgerKind::DebtRecovery, -debt.ticks()),
            (LedgerKind::Fee, -fee.ticks()),
            (LedgerKind::Tax, -tax.ticks()),
            (LedgerKind::FreeIssue, given),
            (LedgerKind::Token, -credit.ticks()),
        ];
        let line = |(kind, ticks)| SaleLine { kind, amount: Money::from_ticks(ticks) };
        lines.into_iter().map(line).filter(|line| line.amount != Money::ZERO).collect()
    }
}

/// Every receipt of energy is what the model makes of the request, and stands in the log as it is.
///
/// # Errors
/// The first that is not.
pub(super) fn check(
    sold: &[Sold],
    plan: &Plan,
    told: &[(meter::OutboxId, Vec<Change>)],
) -> anyhow::Result<()> {
    let tariff = Tariff::new(&plan.zone, BTreeSet::new(), &plan.versions).context("the zone")?;
    let sales: BTreeMap<PurchaseId, &Sale> = told
        .iter()
        .flat_map(|(_, changes)| changes)
        .filter_map(|change| if let Change::Sale(sale) = change { Some(sale) } else { None })
        .rev()
        .map(|sale| (sale.sale, sale))
        .collect();
    let mut bought = BTreeMap::new();
    for receipt in sold {
        let slot = tariff.slot(receipt.at);
        let period = (receipt.account, slot.period, slot.kind == BlockPeriod::Month);
        let bought_wh = bought.entry(period).or_insert(0_u64);
        let (_, version) = tariff.version(receipt.at);
        let counter = truth::Counter { version, debt: receipt.debt, bought_wh: *bought_wh };
        let want = match (receipt.ask, receipt.is_free) {
            (Ask::Energy(energy), false) => counter.for_energy(energy),
            (Ask::Energy(energy), true) => counter.free_energy(energy),
            (Ask::Money(credit), true) => counter.free(credit),
            (Ask::Money(paid), false) => counter.for_money(paid).map_err(|least| {
                anyhow::anyhow!("energy sold for {paid:?}, the rules say {least} ticks at least")
            })?,
        };
        ensure!(
            want == receipt.split,
            "energy: after {bought_wh} Wh the rules sell {want:?}, the counter {receipt:?}"
        );
        if !receipt.is_free {
            *bought_wh += receipt.split.blocks.iter().map(|part| part.energy.wh()).sum::<u64>();
        }
        let entered = sales.get(&receipt.sale).map(|sale| &sale.lines);
        ensure!(
            entered == Some(&receipt.lines()),
            "energy: {receipt:?} stands in the log as {entered:?}"
        );
    }
    Ok(())
}
