//! What energy, time and purchases cost under a plan.

use std::collections::{BTreeMap, BTreeSet};

use meter::{
    BlockPeriod, DayType, Energy, LocalCalendar, LocalDate, Money, MonthDay, TariffVersion,
    UnixSeconds, ZoneError,
};

/// A plan, or several one after another, as they apply in one time zone.
#[derive(Clone, Debug)]
pub struct Tariff {
    calendar: LocalCalendar,
    holidays: BTreeSet<LocalDate>,
    /// Versions by the instant they come into force.
    versions: BTreeMap<UnixSeconds, TariffVersion>,
}

/// How the energy of one quarter hour is charged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// First day of the block period.
    pub period: LocalDate,
    /// Whether that is a month or a year: January is not the year that begins with it.
    pub kind: BlockPeriod,
    /// First instant of the version in force.
    pub version: UnixSeconds,
    /// The rate, 1 to 4.
    pub rate: u8,
}

/// Energy charged so far: sums only, so that no order matters.
#[derive(Clone, Debug, Default)]
pub struct Charge {
    months: Periods,
    years: Periods,
}

/// Wh by block period (its first day), version (its first instant) and rate.
type Periods = BTreeMap<LocalDate, BTreeMap<UnixSeconds, BTreeMap<u8, u64>>>;

impl Tariff {
    /// The plan with these versions for accounts in `zone`.
    ///
    /// # Errors
    /// [`ZoneError`] when the zone is unknown.
    pub fn new(
        zone: &str,
        holidays: BTreeSet<LocalDate>,
        versions: &[TariffVersion],
    ) -> Result<Self, ZoneError> {
        Self::of_plans(zone, holidays, &[(UnixSeconds(0), versions)])
    }

    /// Plans with their versions, each from an instant on until the next begins.
    ///
    /// # Errors
    /// [`ZoneError`] when the zone is unknown.
    pub fn of_plans(
        zone: &str,
        holidays: BTreeSet<LocalDate>,
        plans: &[(UnixSeconds, &[TariffVersion])],
    ) -> Result<Self, ZoneError> {
        let calendar = LocalCalendar::new(zone)?;
        let mut in_force = BTreeMap::new();
        for (index, (from, versions)) in plans.iter().enumerate() {
            let until = plans.get(index + 1).map_or(UnixSeconds(u32::MAX), |next| next.0);
            let mut versions: Vec<&TariffVersion> = versions.iter().collect();
            versions.sort_by_key(|version| version.valid_from);
            for version in versions {
                let from = calendar.day_start(version.valid_from).max(*from);
                if from < until {
                    in_force.insert(from, version.clone());
                }
            }
        }
        Ok(Self { calendar, holidays, versions: in_force })
    }

    /// The version in force at `at`, with its first instant.
    ///
    /// # Panics
    /// Before the first version.
    #[must_use]
    pub fn version(&self, at: UnixSeconds) -> (UnixSeconds, &TariffVersion) {
        let (from, version) =
            self.versions.range(..=at).next_back().expect("a version is in force");
        (*from, version)
    }

    /// How energy in the quarter hour that begins at `at` is charged.
    ///
    /// # Panics
    /// When no version is in force, or it names no rate.
    #[must_use]
    pub fn slot(&self, at: UnixSeconds) -> Slot {
        let local = self.calendar.local(at);
        let (from, version) = self.version(at);
        let today = local.date.month_day();
        let season = version
            .seasons
            .iter()
            .find(|season| days_between(season.from, season.to, today))
            .expect("seasons cover the year");
        let is_holiday = version.calendar.is_some() && self.holidays.contains(&local.date);
        let profile = match (is_holiday, local.date.day_type()) {
            (true, _) => &season.holiday,
            (false, DayType::Weekend) => &season.weekend,
            (false, DayType::Workday | DayType::Holiday) => &season.workday,
        };
        let mut rate = None;
        for switch in &profile.0 {
            if switch.quarter <= local.quarter {
                rate = Some(switch.rate);
            }
        }
        let rate = rate.expect("a profile begins at midnight");
        let kind = version.block_period;
        let period = match kind {
            BlockPeriod::Month => local.date.first_of_month(),
            BlockPeriod::Year => local.date.first_of_year(),
        };
        Slot { period, kind, version: from, rate }
    }

    /// Standing charges that fell due in `[from, through]`: days at their local midnight, months
    /// at the local midnight of the first.
    #[must_use]
    pub fn standing(
        &self,
        from: UnixSeconds,
        through: UnixSeconds,
    ) -> BTreeMap<UnixSeconds, Money> {
        let lines = self.standing_lines(from, through).into_iter();
        lines
            .map(|(at, [day, month])| (at, Money::from_ticks(day.ticks() + month.ticks())))
            .collect()
    }

    /// The same by line: of the day, and of the month.
    #[must_use]
    pub fn standing_lines(
        &self,
        from: UnixSeconds,
        through: UnixSeconds,
    ) -> BTreeMap<UnixSeconds, [Money; 2]> {
        let mut due = BTreeMap::new();
        let mut day = self.calendar.local(from).date;
        while self.calendar.day_start(day) <= through {
            let start = self.calendar.day_start(day);
            if start >= from {
                let (_, version) = self.version(start);
                let is_first = day == day.first_of_month();
                let month = if is_first { version.standing_per_month } else { Money::ZERO };
                due.insert(start, [version.standing_per_day, month]);
            }
            day = day.next();
        }
        due
    }

    /// Energy × the price of its rate, without block adders.
    ///
    /// # Panics
    /// When no version is in force, or the cost leaves 63 bits of ticks.
    #[must_use]
    pub fn plain_cost(&self, start: UnixSeconds, wh: u64) -> i64 {
        let slot = self.slot(start);
        let price = self.versions[&slot.version].prices[usize::from(slot.rate) - 1].e4();
        price * i64::try_from(wh).expect("energy of a quarter hour fits")
    }

    /// What a purchase adds to the balance: paid − fee − tax, each rounded half-even to 0.01.
    #[must_use]
    pub fn credit(&self, paid: Money, at: UnixSeconds) -> Money {
        let net: i64 = self.lines(paid, at).iter().map(|line| line.ticks()).sum();
        Money::from_ticks(net)
    }

    /// The lines of a purchase: what is paid, then fee and tax as they are taken.
    ///
    /// # Panics
    /// When no version is in force.
    #[must_use]
    pub fn lines(&self, paid: Money, at: UnixSeconds) -> [Money; 3] {
        let (_, version) = self.version(at);
        let tax_e4 = i128::from(paid.ticks()) * i128::from(version.tax_bp);
        let tax = half_even(tax_e4, 10_000 * 100_000) * 100_000;
        let fee = half_even(i128::from(version.fee.ticks()), 100_000) * 100_000;
        let taken =
            |ticks: i128| Money::from_ticks(i64::try_from(-ticks).expect("a purchase fits"));
        [paid, taken(fee), taken(tax)]
    }
}

impl Charge {
    /// Adds energy used in the interval that begins at `start`.
    pub fn add(&mut self, tariff: &Tariff, start: UnixSeconds, energy: Energy) {
        let Slot { period, kind, version, rate } = tariff.slot(start);
        let periods = match kind {
            BlockPeriod::Month => &mut self.months,
            BlockPeriod::Year => &mut self.years,
        };
        let versions = periods.entry(period).or_default();
        *versions.entry(version).or_default().entry(rate).or_default() += energy.wh();
    }

    /// What it all costs:
    /// `Σ_v [ Σ_r Wh(v,r) · price(v,r) + B_v(T_v) − B_v(T_{v−1}) ]` over each block period.
    ///
    /// # Panics
    /// When a sum leaves 63 bits.
    #[must_use]
    pub fn total(&self, tariff: &Tariff) -> Money {
        let mut ticks = 0_i128;
        for versions in self.periods() {
            let mut before = 0_u64;
            for (from, rates) in versions {
                let version = &tariff.versions[from];
                for (rate, wh) in rates {
                    let price = version.prices[usize::from(*rate) - 1].e4();
                    ticks += i128::from(price) * i128::from(*wh);
                }
                let after = before + rates.values().sum::<u64>();
                ticks += adders(version, after) - adders(version, before);
                before = after;
            }
        }
        Money::from_ticks(i64::try_from(ticks).expect("a charge fits"))
    }

    fn periods(&self) -> impl Iterator<Item = &BTreeMap<UnixSeconds, BTreeMap<u8, u64>>> {
        self.months.values().chain(self.years.values())
    }

    /// Wh by the instant a version came into force, and rate.
    #[must_use]
    pub fn by_version_and_rate(&self) -> BTreeMap<(UnixSeconds, u8), u64> {
        let mut all = BTreeMap::new();
        for versions in self.periods() {
            for (from, rates) in versions {
                for (rate, wh) in rates {
                    *all.entry((*from, *rate)).or_default() += wh;
                }
            }
        }
        all
    }
}

/// B(T): the block adders on the first `total` Wh of a period.
pub(super) fn adders(version: &TariffVersion, total: u64) -> i128 {
    let mut ticks = 0;
    for (index, block) in version.blocks.iter().enumerate() {
        let from = block.from_kwh * 1000;
        let to = version.blocks.get(index + 1).map_or(u64::MAX, |next| next.from_kwh * 1000);
        let inside = total.min(to).saturating_sub(from);
        ticks += i128::from(block.adder.e4()) * i128::from(inside);
    }
    ticks
}

/// Whether a day of the year lies between two, the later of which may be in the next year.
fn days_between(from: MonthDay, to: MonthDay, day: MonthDay) -> bool {
    let number = |date: MonthDay| u16::from(date.month) * 32 + u16::from(date.day);
    let (from, to, day) = (number(from), number(to), number(day));
    if from <= to { (from..=to).contains(&day) } else { !(to + 1..from).contains(&day) }
}

/// `value / unit` rounded to the nearest whole, to the even one in the middle.
pub(super) fn half_even(value: i128, unit: i128) -> i128 {
    let (whole, twice) = (value.div_euclid(unit), 2 * value.rem_euclid(unit));
    match twice.cmp(&unit) {
        std::cmp::Ordering::Less => whole,
        std::cmp::Ordering::Greater => whole + 1,
        std::cmp::Ordering::Equal => whole + whole.rem_euclid(2),
    }
}

#[cfg(test)]
mod tests {
    use meter::{Block, CurrencyCode, DayProfile, PlanId, Price, Season, Switch};

    use super::*;

    #[test]
    fn rounding() {
        let check = |value, unit, want| assert_eq!(half_even(value, unit), want, "{value}/{unit}");
        check(5, 10, 0);
        check(15, 10, 2);
        check(25, 10, 2);
        check(26, 10, 3);
        check(-5, 10, 0);
        check(-15, 10, -2);
    }

    /// A plan may change from months to years: what January used stays out of the year's blocks.
    #[test]
    fn a_month_and_the_year_that_begins_with_it_are_two_periods() {
        let day = |month, day| MonthDay { month, day };
        let profile = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
        let version = |valid_from: &str, block_period, adder| TariffVersion {
            plan: PlanId(1),
            valid_from: LocalDate::parse(valid_from).unwrap(),
            currency: CurrencyCode::parse("CNY").unwrap(),
            prices: vec![Price::from_e4(0)],
            seasons: vec![Season {
                from: day(1, 1),
                to: day(12, 31),
                workday: profile.clone(),
                weekend: profile.clone(),
                holiday: profile.clone(),
            }],
            calendar: None,
            blocks: vec![
                Block { from_kwh: 0, adder: Price::from_e4(0) },
                Block { from_kwh: 10, adder: Price::from_e4(adder) },
            ],
            block_period,
            standing_per_day: Money::ZERO,
            standing_per_month: Money::ZERO,
            tax_bp: 0,
            fee: Money::ZERO,
        };
        let versions = [
            version("2027-01-01", BlockPeriod::Month, 3),
            version("2027-01-02", BlockPeriod::Year, 5),
        ];
        let tariff = Tariff::new("UTC", BTreeSet::new(), &versions).unwrap();
        let mut charge = Charge::default();
        // 2027-01-01 and the day after.
        charge.add(&tariff, UnixSeconds(1_798_761_600), Energy::from_wh(12_000));
        charge.add(&tariff, UnixSeconds(1_798_848_000), Energy::from_wh(11_000));
        assert_eq!(charge.total(&tariff).ticks(), 2000 * 3 + 1000 * 5);
    }

    #[test]
    fn seasons_may_wrap_the_year() {
        let day = |month, day| MonthDay { month, day };
        let check = |date, want: bool| {
            assert_eq!(days_between(day(11, 1), day(3, 31), date), want, "{date:?}");
            assert_eq!(days_between(day(4, 1), day(10, 31), date), !want, "{date:?}");
        };
        check(day(11, 1), true);
        check(day(12, 31), true);
        check(day(3, 31), true);
        check(day(4, 1), false);
        check(day(10, 31), false);
    }
}
