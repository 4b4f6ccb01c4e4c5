//! The explanation of a balance, line by line: registers, the energy of each block period by
//! version and rate, blocks, and every other movement by kind. It is worked out from intervals,
//! tariff and ledger, apart from the books, so that a difference between the two shows. Over
//! 500 lines with its test, for the lines it has.

use std::collections::BTreeMap;

use meter::{
    BlockPeriod, DayType, Holidays, INTERVAL_S, LedgerKind, LocalCalendar, LocalDate, Money,
    PlanId, Price, TariffVersion, UnixSeconds,
};
use serde::{Deserialize, Serialize};
use storage::clickhouse::{IntervalPoint, LedgerPoint};
use utoipa::ToSchema;

use crate::json::{Amount, Instant, PriceText};

/// What a meter measured while it served the account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct RegisterLine {
    pub(crate) meter: u32,
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    /// Register at the end, Wh.
    pub(crate) register_wh: u64,
    /// Intervals of it.
    pub(crate) intervals: u64,
    /// Of these, estimated ones.
    pub(crate) estimated: u64,
    /// Σ of their energy, Wh.
    pub(crate) wh: i64,
    /// Energy of the interval that is not over, Wh.
    pub(crate) open_wh: i64,
}

/// A plan of the account.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct PlanLine {
    pub(crate) plan: u32,
    /// The first local day it holds; absent: from the beginning.
    pub(crate) from: Option<String>,
}

/// Energy of a block period at one rate of one version.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct RateLine {
    /// First local day of the block period.
    pub(crate) period: String,
    /// The plan in force.
    pub(crate) plan: u32,
    /// First day of the version.
    pub(crate) version: String,
    /// 1 to 4; 0 where no version is in force.
    pub(crate) rate: u8,
    /// Energy, Wh.
    pub(crate) wh: i64,
    /// Per kWh.
    pub(crate) price: PriceText,
    /// wh × price.
    pub(crate) amount: Amount,
}

/// Energy of a block period that lies in a block with an adder.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct BlockLine {
    pub(crate) period: String,
    pub(crate) plan: u32,
    pub(crate) version: String,
    /// Lower threshold of the block, kWh.
    pub(crate) from_kwh: u64,
    /// Energy of the version in it, Wh.
    pub(crate) wh: i64,
    /// Added per kWh.
    pub(crate) adder: PriceText,
    /// wh × adder.
    pub(crate) amount: Amount,
}

/// Movements of one kind.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct KindLine {
    pub(crate) kind: String,
    /// The other side.
    pub(crate) contra: String,
    /// How many.
    pub(crate) count: u64,
    /// Σ, signed.
    pub(crate) amount: Amount,
}

/// How a purchase was split, in the order of its movements.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct PurchaseLine {
    pub(crate) purchase: u64,
    pub(crate) at: Instant,
    pub(crate) split: Vec<SplitLine>,
}

/// A line of a purchase.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct SplitLine {
    pub(crate) kind: String,
    /// Signed.
    pub(crate) amount: Amount,
}

/// A balance and all it follows from.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub(crate) struct Explanation {
    pub(crate) account: u32,
    /// Its plans, in the order of time.
    pub(crate) plans: Vec<PlanLine>,
    /// Readings: what each meter measured.
    pub(crate) registers: Vec<RegisterLine>,
    /// Intervals by block period, version and rate.
    pub(crate) rates: Vec<RateLine>,
    /// Blocks with an adder.
    pub(crate) blocks: Vec<BlockLine>,
    /// Σ of rates and blocks: what energy costs.
    pub(crate) energy: Amount,
    /// What the ledger has for it (energy and corrections, sign turned).
    pub(crate) energy_booked: Amount,
    /// Everything else by kind.
    pub(crate) others: Vec<KindLine>,
    /// Each purchase and its split.
    pub(crate) purchases: Vec<PurchaseLine>,
    /// Σ of others less energy.
    pub(crate) balance: Amount,
    /// The balance after the ledger's last movement.
    pub(crate) balance_booked: Amount,
    /// Number of that movement.
    pub(crate) movements: u64,
    /// What the lines cannot account for; 0 when the books are right and history is whole.
    pub(crate) difference: Amount,
}

/// What a tariff makes of an interval.
#[derive(Debug)]
pub(crate) struct Tariff {
    calendar: LocalCalendar,
    /// The plans of the account, in the order of time.
    plans: Vec<PlanLine>,
    /// Their versions by the day from which on each holds for the account, in the order of time.
    versions: Vec<(LocalDate, TariffVersion)>,
    holidays: Vec<Holidays>,
}

/// A block period: its first day, and whether it is a year.
type Period = (LocalDate, bool);

/// Energy of a period by version (its place) and rate.
type Cell = (Period, usize, u8);

impl Tariff {
    /// The plans of an account, one after another, with the versions of each, oldest first.
    pub(crate) fn new(
        calendar: LocalCalendar,
        plans: &[(UnixSeconds, PlanId)],
        versions: &[Vec<TariffVersion>],
        holidays: Vec<Holidays>,
    ) -> Self {
        let mut held: BTreeMap<LocalDate, TariffVersion> = BTreeMap::new();
        for (index, ((from, _), versions)) in plans.iter().zip(versions).enumerate() {
            let until = plans.get(index + 1).map(|(next, _)| calendar.local(*next).date);
            let from = calendar.local(*from).date;
            for version in versions {
                let day = version.valid_from.max(from);
                if until.is_none_or(|until| day < until) {
                    held.insert(day, version.clone());
                }
            }
        }
        let plans = plan_lines(&calendar, plans);
        Self { calendar, plans, versions: held.into_iter().collect(), holidays }
    }

    fn cell(&self, start: UnixSeconds) -> Option<Cell> {
        let local = self.calendar.local(start);
        let version = self.versions.iter().rposition(|(day, _)| *day <= local.date)?;
        let (_, terms) = &self.versions[version];
        let named = self.holidays.iter().find(|h| Some(h.calendar) == terms.calendar);
        let day = match named.is_some_and(|holidays| holidays.days.contains(&local.date)) {
            true => DayType::Holiday,
            false => local.date.day_type(),
        };
        let period = match terms.block_period {
            BlockPeriod::Month => (local.date.first_of_month(), false),
            BlockPeriod::Year => (local.date.first_of_year(), true),
        };
        Some((period, version, terms.rate(local.date.month_day(), day, local.quarter)))
    }
}

/// Gathers what an explanation is made of.
#[derive(Debug)]
pub(crate) struct Explainer {
    account: u32,
    tariff: Tariff,
    registers: Vec<RegisterLine>,
    /// Wh.
    energy: BTreeMap<Cell, i64>,
    energy_booked: i128,
    others: BTreeMap<LedgerKind, (u64, i128)>,
    purchases: Vec<PurchaseLine>,
    balance_booked: i64,
    movements: u64,
}

impl Explainer {
    pub(crate) const fn new(account: u32, tariff: Tariff) -> Self {
        Self {
            account,
            tariff,
            registers: Vec::new(),
            energy: BTreeMap::new(),
            energy_booked: 0,
            others: BTreeMap::new(),
            purchases: Vec::new(),
            balance_booked: 0,
            movements: 0,
        }
    }

    /// A meter begins to serve.
    pub(crate) fn begin(&mut self, meter: u32, from: UnixSeconds, register_wh: u64) {
        let at = Instant(from);
        self.registers.push(RegisterLine {
            meter,
            from: at,
            to: at,
            register_wh,
            intervals: 0,
            estimated: 0,
            wh: 0,
            open_wh: 0,
        });
    }

    /// An interval of the meter that began last.
    pub(crate) fn interval(&mut self, point: &IntervalPoint) {
        let wh = i64::try_from(point.energy_wh).unwrap_or(i64::MAX);
        let start = UnixSeconds(point.start);
        if let Some(line) = self.registers.last_mut() {
            line.to = Instant(start.plus(INTERVAL_S));
            line.register_wh = point.register_wh;
            line.intervals += 1;
            line.estimated += u64::from(point.quality != 1);
            line.wh = line.wh.saturating_add(wh);
        }
        self.add(start, wh);
    }

    /// The newest register of the meter that began last: the interval it lies in is not over.
    pub(crate) fn newest(&mut self, at: UnixSeconds, register_wh: u64) {
        let Some(line) = self.registers.last_mut().filter(|line| at > line.to.0) else { return };
        let start = line.to.0;
        let wh = i64::try_from(register_wh.saturating_sub(line.register_wh)).unwrap_or(i64::MAX);
        (line.to, line.register_wh, line.open_wh) = (Instant(at), register_wh, wh);
        self.add(start, wh);
    }

    fn add(&mut self, start: UnixSeconds, wh: i64) {
        if let Some(cell) = self.tariff.cell(start) {
            let sum = self.energy.entry(cell).or_default();
            *sum = sum.saturating_add(wh);
        }
    }

    /// A movement, in the order of their numbers.
    pub(crate) fn movement(&mut self, point: &LedgerPoint) {
        const PURCHASE: u8 = 3;
        (self.movements, self.balance_booked) = (point.number, point.balance_ticks);
        let Some(kind) = LedgerKind::from_code(point.kind) else { return };
        if matches!(kind, LedgerKind::Energy | LedgerKind::Correction) {
            self.energy_booked -= i128::from(point.amount_ticks);
            return;
        }
        let (count, ticks) = self.others.entry(kind).or_default();
        (*count, *ticks) = (*count + 1, *ticks + i128::from(point.amount_ticks));
        if point.cause == PURCHASE {
            let amount = Amount(Money::from_ticks(point.amount_ticks));
            let line = SplitLine { kind: kind.name().to_owned(), amount };
            match self.purchases.last_mut().filter(|last| last.purchase == point.cause_id) {
                Some(last) => last.split.push(line),
                None => self.purchases.push(PurchaseLine {
                    purchase: point.cause_id,
                    at: Instant(UnixSeconds(point.at)),
                    split: vec![line],
                }),
            }
        }
    }

    /// Adds it all up.
    pub(crate) fn finish(self) -> Explanation {
        let (rates, blocks) = self.energy_lines();
        let plans = self.tariff.plans;
        let others = self.others.iter().map(|(kind, (count, ticks))| KindLine {
            kind: kind.name().to_owned(),
            contra: kind.contra().name().to_owned(),
            count: *count,
            amount: amount(*ticks),
        });
        let mut made = Explanation {
            account: self.account,
            plans,
            registers: self.registers,
            rates,
            blocks,
            energy: amount(0),
            energy_booked: amount(self.energy_booked),
            others: others.collect(),
            purchases: self.purchases,
            balance: amount(0),
            balance_booked: Amount(Money::from_ticks(self.balance_booked)),
            movements: self.movements,
            difference: amount(0),
        };
        made.energy = amount(made.recompute_energy());
        made.balance = amount(made.recompute());
        made.difference = amount(i128::from(self.balance_booked) - made.recompute());
        made
    }

    fn energy_lines(&self) -> (Vec<RateLine>, Vec<BlockLine>) {
        let (mut rates, mut blocks) = (Vec::new(), Vec::new());
        let mut versions: BTreeMap<(Period, usize), i64> = BTreeMap::new();
        for (&(period, version, rate), &wh) in &self.energy {
            let (_, terms) = &self.tariff.versions[version];
            let price = terms.price(rate).unwrap_or_default();
            let sum = versions.entry((period, version)).or_default();
            *sum = sum.saturating_add(wh);
            rates.push(RateLine {
                period: period.0.to_string(),
                plan: terms.plan.0,
                version: terms.valid_from.to_string(),
                rate,
                wh,
                price: PriceText(price),
                amount: amount(cost(price, wh)),
            });
        }
        let mut through: BTreeMap<Period, i64> = BTreeMap::new();
        for (&(period, version), &wh) in &versions {
            let from = through.get(&period).copied().unwrap_or_default();
            let to = from.saturating_add(wh);
            through.insert(period, to);
            let (_, terms) = &self.tariff.versions[version];
            for (index, block) in terms.blocks.iter().enumerate() {
                let next = terms.blocks.get(index + 1).map(|next| threshold(next.from_kwh));
                let (low, high) = (threshold(block.from_kwh), next.unwrap_or(i64::MAX));
                let wh = to.min(high).saturating_sub(from.max(low));
                if wh > 0 && block.adder.e4() != 0 {
                    blocks.push(BlockLine {
                        period: period.0.to_string(),
                        plan: terms.plan.0,
                        version: terms.valid_from.to_string(),
                        from_kwh: block.from_kwh,
                        wh,
                        adder: PriceText(block.adder),
                        amount: amount(cost(block.adder, wh)),
                    });
                }
            }
        }
        (rates, blocks)
    }
}

impl Explanation {
    /// What the lines say that energy costs.
    fn recompute_energy(&self) -> i128 {
        let rates = self.rates.iter().map(|line| cost(line.price.0, line.wh));
        let blocks = self.blocks.iter().map(|line| cost(line.adder.0, line.wh));
        rates.chain(blocks).sum()
    }

    /// What the lines say that the balance is.
    fn recompute(&self) -> i128 {
        let others = self.others.iter().map(|line| i128::from(line.amount.0.ticks()));
        others.sum::<i128>() - self.recompute_energy()
    }

    /// The lines for people.
    pub(crate) fn to_text(&self) -> String {
        let show = |amount: Amount| amount.0.to_decimal();
        let mut text = format!("account {}\n", self.account);
        let mut line = |words: String| {
            text.push_str(&words);
            text.push('\n');
        };
        for l in &self.plans {
            let from = l.from.as_deref().unwrap_or("the beginning");
            line(format!("  plan {} from {from}", l.plan));
        }
        line("\nreadings and intervals".to_owned());
        for l in &self.registers {
            line(format!(
                "  meter {}, {} s to {} s: {} intervals ({} estimated) {} Wh, running {} Wh, \
                 register {} Wh",
                l.meter, l.from.0, l.to.0, l.intervals, l.estimated, l.wh, l.open_wh, l.register_wh
            ));
        }
        line("\nenergy: period, plan, version, energy × price".to_owned());
        for l in &self.rates {
            let (price, amount) = (l.price.0.to_decimal(), show(l.amount));
            line(format!(
                "  {} plan {} {} rate {}: {} Wh × {price}/kWh = {amount}",
                l.period, l.plan, l.version, l.rate, l.wh
            ));
        }
        for l in &self.blocks {
            let (adder, amount) = (l.adder.0.to_decimal(), show(l.amount));
            line(format!(
                "  {} plan {} {} block from {} kWh: {} Wh × {adder}/kWh = {amount}",
                l.period, l.plan, l.version, l.from_kwh, l.wh
            ));
        }
        line(format!("  = {}, booked {}", show(self.energy), show(self.energy_booked)));
        line("\npurchases and their split".to_owned());
        for l in &self.purchases {
            let split = l.split.iter().map(|part| format!("{} {}", part.kind, show(part.amount)));
            let split: Vec<String> = split.collect();
            line(format!("  {} at {} s: {}", l.purchase, l.at.0, split.join(", ")));
        }
        line("\nall movements but energy, by kind and other side".to_owned());
        for l in &self.others {
            line(format!("  {} / {}: {} = {}", l.kind, l.contra, l.count, show(l.amount)));
        }
        line(format!(
            "\nbalance {}, booked {} after movement {}, difference {}",
            show(self.balance),
            show(self.balance_booked),
            self.movements,
            show(self.difference)
        ));
        text
    }
}

/// The plans of an account for people.
pub(crate) fn plan_lines(
    calendar: &LocalCalendar,
    plans: &[(UnixSeconds, PlanId)],
) -> Vec<PlanLine> {
    let line = |(from, plan): &(UnixSeconds, PlanId)| PlanLine {
        plan: plan.0,
        from: (from.0 > 0).then(|| calendar.local(*from).date.to_string()),
    };
    plans.iter().map(line).collect()
}

fn threshold(kwh: u64) -> i64 {
    i64::try_from(kwh.saturating_mul(1000)).unwrap_or(i64::MAX)
}

/// wh × price in ticks.
fn cost(price: Price, wh: i64) -> i128 {
    i128::from(price.e4()) * i128::from(wh)
}

/// Sums of one account fit; one that does not shows as the largest, and so as a difference.
fn amount(ticks: i128) -> Amount {
    let limit = if ticks < 0 { -i64::MAX } else { i64::MAX };
    Amount(Money::from_ticks(i64::try_from(ticks).unwrap_or(limit)))
}

#[cfg(test)]
mod tests {
    use meter::{Block, CurrencyCode, DayProfile, MonthDay, PlanId, Season, Switch};

    use super::*;

    fn tariff() -> Tariff {
        let day = DayProfile(vec![Switch { quarter: 0, rate: 1 }, Switch { quarter: 2, rate: 2 }]);
        let season = Season {
            from: MonthDay { month: 1, day: 1 },
            to: MonthDay { month: 12, day: 31 },
            workday: day.clone(),
            weekend: day.clone(),
            holiday: day,
        };
        let block = |from_kwh, adder| Block { from_kwh, adder: Price::from_e4(adder) };
        let version = |from: &str, price| TariffVersion {
            plan: PlanId(1),
            valid_from: LocalDate::parse(from).unwrap(),
            currency: CurrencyCode::parse("CNY").unwrap(),
            prices: vec![Price::from_e4(price), Price::from_e4(2 * price)],
            seasons: vec![season.clone()],
            calendar: None,
            blocks: vec![block(0, 0), block(1, 100)],
            block_period: BlockPeriod::Month,
            standing_per_day: Money::ZERO,
            standing_per_month: Money::ZERO,
            tax_bp: 0,
            fee: Money::ZERO,
        };
        let other = TariffVersion { plan: PlanId(2), ..version("2026-01-01", 8000) };
        Tariff::new(
            LocalCalendar::new("UTC").unwrap(),
            // 2026-11-04T00:00Z.
            &[(UnixSeconds(0), PlanId(1)), (UnixSeconds(1_793_750_400), PlanId(2))],
            &[vec![version("2026-01-01", 5000), version("2026-11-03", 6000)], vec![other]],
            Vec::new(),
        )
    }

    fn interval(start: u32, energy_wh: u64, register_wh: u64) -> IntervalPoint {
        IntervalPoint {
            start,
            account_id: 1,
            energy_wh,
            register_wh,
            cost_ticks: 0,
            rate: 1,
            quality: 1,
            samples: 1,
            voltage_mv: (0, 0, 0),
            current_ma: (0, 0, 0),
            power_w: (0, 0, 0),
            power_factor_milli: (0, 0, 0),
        }
    }

    fn movement(
        number: u64,
        kind: LedgerKind,
        amount_ticks: i64,
        balance_ticks: i64,
    ) -> LedgerPoint {
        LedgerPoint {
            number,
            at: 0,
            kind: kind.code(),
            amount_ticks,
            balance_ticks,
            cause: 3,
            cause_meter_id: 0,
            cause_from: 0,
            cause_to: 0,
            cause_id: 9,
            seq: number,
        }
    }

    /// Recomputed from what is printed (as JSON), the lines give the booked balance to the tick.
    #[test]
    fn the_printed_lines_give_the_balance() {
        // 2026-11-02T00:00Z, the day after, on which the second version begins, and the day after
        // that, from which on the account has another plan.
        let (first, second, third) = (1_793_577_600, 1_793_664_000, 1_793_750_400);
        let mut explainer = Explainer::new(1, tariff());
        explainer.begin(7, UnixSeconds(first), 100);
        explainer.interval(&interval(first, 600, 700));
        explainer.interval(&interval(first + 1800, 700, 1400));
        explainer.interval(&interval(second, 300, 1700));
        explainer.interval(&interval(third, 400, 2100));
        explainer.newest(UnixSeconds(third + 1000), 2105);
        let energy = 600 * 5000 + 700 * 10_000 + 300 * 6000 + 405 * 8000 + 1005 * 100;
        explainer.movement(&movement(1, LedgerKind::Purchase, 50_000_000, 50_000_000));
        explainer.movement(&movement(2, LedgerKind::Fee, -200_000, 49_800_000));
        explainer.movement(&movement(3, LedgerKind::Energy, -energy - 5, 49_799_995 - energy));
        explainer.movement(&movement(4, LedgerKind::Correction, 5, 49_800_000 - energy));
        let made = explainer.finish();
        let printed = serde_json::to_string(&made).unwrap();
        let read: Explanation = serde_json::from_str(&printed).unwrap();
        assert_eq!(read.recompute(), i128::from(49_800_000 - energy));
        assert_eq!(read.difference, amount(0));
        assert_eq!((read.energy, read.energy_booked), (amount(energy.into()), read.energy));
        assert_eq!(read.purchases[0].split.len(), 2);
        let text = read.to_text();
        assert!(text.contains("plan 1 2026-11-03 block from 1 kWh: 300 Wh × 0.0100"), "{text}");
        assert!(text.contains("  plan 1 from the beginning\n  plan 2 from 2026-11-04\n"), "{text}");
        assert!(text.contains("plan 2 2026-01-01 block from 1 kWh: 405 Wh × 0.0100"), "{text}");
        assert!(text.ends_with("difference 0.0000000\n"), "{text}");
    }

    #[test]
    fn what_the_lines_cannot_account_for_shows() {
        let mut explainer = Explainer::new(1, tariff());
        explainer.movement(&movement(1, LedgerKind::Energy, -7, -7));
        assert_eq!(explainer.finish().difference, amount(-7));
    }
}
