//! Tariffs: versions of a plan with rates, seasons, day profiles, blocks, standing charges, tax
//! and fees. A [`TariffVersion`] that passed [`TariffVersion::validate`] names a rate for every
//! quarter hour of every day of every year.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{CalendarId, CurrencyCode, LocalDate, Money, PlanId, Price};

/// Largest price or adder, either sign: 100,000 currency units per kWh.
const PRICE_E4_MAX: u64 = 1_000_000_000;

/// Rates a version may have at most (尖, 峰, 平, 谷).
const RATES_MAX: usize = 4;

/// One version of a plan, valid from a local midnight; immutable once effective.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TariffVersion {
    /// The plan.
    pub plan: PlanId,
    /// First local day it is in force.
    pub valid_from: LocalDate,
    /// Currency of all its amounts.
    pub currency: CurrencyCode,
    /// Price of rates 1 to 4, in this order.
    pub prices: Vec<Price>,
    /// Seasons; together they cover the year once.
    pub seasons: Vec<Season>,
    /// The calendar that names holidays; none means there are none.
    pub calendar: Option<CalendarId>,
    /// Blocks, ascending, the first from 0.
    pub blocks: Vec<Block>,
    /// Over which local period blocks count.
    pub block_period: BlockPeriod,
    /// Due at the start of each local day.
    pub standing_per_day: Money,
    /// Due at the start of each local month.
    pub standing_per_month: Money,
    /// Tax on a purchase, in 1/10,000 of what is paid.
    pub tax_bp: u32,
    /// Fee on a purchase.
    pub fee: Money,
}

/// A range of days of the year and how its days run. `from` later than `to` wraps the year's end.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Season {
    /// First day, inclusive.
    pub from: MonthDay,
    /// Last day, inclusive.
    pub to: MonthDay,
    /// Working days.
    pub workday: DayProfile,
    /// Saturdays and Sundays.
    pub weekend: DayProfile,
    /// Days the calendar names.
    pub holiday: DayProfile,
}

/// A day of the year.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct MonthDay {
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

/// When which rate begins, ascending, the first at quarter 0.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DayProfile(pub Vec<Switch>);

/// From this quarter hour on, this rate.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Switch {
    /// Quarter hour of the wall clock, 0 to 95.
    pub quarter: u8,
    /// Rate, 1 to 4.
    pub rate: u8,
}

/// Kind of a local day.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum DayType {
    /// Monday to Friday.
    Workday,
    /// Saturday and Sunday.
    Weekend,
    /// Named by the calendar, whatever the weekday.
    Holiday,
}

/// From this much energy in a period on, this much more per kWh.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Block {
    /// Lower threshold, kWh in the period.
    pub from_kwh: u64,
    /// Added to the rate's price.
    pub adder: Price,
}

/// The local period over which blocks count.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockPeriod {
    /// Calendar month.
    Month,
    /// Calendar year.
    Year,
}

/// Why a tariff version is refused.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum TariffError {
    /// No rate, or more than four.
    #[error("a version has 1 to 4 prices, not {0}")]
    PriceCount(usize),
    /// A day profile does not begin at midnight.
    #[error("season {season}, {day:?}: no rate from 00:00 to the first switch")]
    Hole {
        /// Index of the season, from 0.
        season: usize,
        /// Which profile.
        day: DayType,
    },
    /// A switch is out of order, out of the day, or names a rate without price.
    #[error(
        "season {season}, {day:?}: switch {index} is out of order, past 23:45, or names a rate without a price"
    )]
    Switch {
        /// Index of the season, from 0.
        season: usize,
        /// Which profile.
        day: DayType,
        /// Index of the switch, from 0.
        index: usize,
    },
    /// No such day of the year.
    #[error("season {season}: {month}-{day} is not a day of the year")]
    NoSuchDay {
        /// Index of the season, from 0.
        season: usize,
        /// Month given.
        month: u8,
        /// Day given.
        day: u8,
    },
    /// A day of the year that no season covers, or more than one.
    #[error("{month}-{day} is covered by {seasons} seasons, must be one")]
    Coverage {
        /// Month.
        month: u8,
        /// Day.
        day: u8,
        /// How many seasons cover it.
        seasons: usize,
    },
    /// Blocks do not ascend from 0.
    #[error("block {0}: thresholds must ascend from 0")]
    Blocks(usize),
    /// A price or an adder that no currency needs: with it an account could leave its bounds.
    #[error("prices and adders must be within ±100000 per kWh")]
    Price,
    /// A negative standing charge or fee, or a tax over 100 %.
    #[error("standing charges and fees must not be negative, tax at most 10000 basis points")]
    Charge,
}

impl TariffVersion {
    /// Checks that every quarter hour of the year has exactly one rate with a price, and the rest.
    ///
    /// # Errors
    /// The first [`TariffError`] found; nothing is changed.
    pub fn validate(&self) -> Result<(), TariffError> {
        if self.prices.is_empty() || self.prices.len() > RATES_MAX {
            return Err(TariffError::PriceCount(self.prices.len()));
        }
        for (index, season) in self.seasons.iter().enumerate() {
            self.validate_season(index, season)?;
        }
        for date in days_of_leap_year() {
            let seasons = self.seasons.iter().filter(|season| season.covers(date)).count();
            if seasons != 1 {
                return Err(TariffError::Coverage { month: date.month, day: date.day, seasons });
            }
        }
        self.validate_blocks()?;
        let adders = self.blocks.iter().map(|block| block.adder);
        if self.prices.iter().copied().chain(adders).any(|p| p.e4().unsigned_abs() > PRICE_E4_MAX) {
            return Err(TariffError::Price);
        }
        let charges = [self.standing_per_day, self.standing_per_month, self.fee];
        if charges.iter().any(|charge| charge.ticks() < 0) || self.tax_bp > 10_000 {
            return Err(TariffError::Charge);
        }
        Ok(())
    }

    /// The rate (1 to 4) of a wall-clock quarter of a day.
    #[must_use]
    pub fn rate(&self, date: MonthDay, day: DayType, quarter: u8) -> u8 {
        let season = self.seasons.iter().find(|season| season.covers(date));
        season.map_or(1, |season| season.profile(day).rate(quarter))
    }

    /// The price of a rate, `None` when the version has no such rate.
    #[must_use]
    pub fn price(&self, rate: u8) -> Option<Price> {
        let index = usize::from(rate).checked_sub(1)?;
        self.prices.get(index).copied()
    }

    fn validate_season(&self, season: usize, value: &Season) -> Result<(), TariffError> {
        for MonthDay { month, day } in [value.from, value.to] {
            if !days_of_leap_year().any(|date| date == MonthDay { month, day }) {
                return Err(TariffError::NoSuchDay { season, month, day });
            }
        }
        for day in [DayType::Workday, DayType::Weekend, DayType::Holiday] {
            let switches = &value.profile(day).0;
            if switches.first().is_none_or(|first| first.quarter != 0) {
                return Err(TariffError::Hole { season, day });
            }
            let mut before = None;
            for (index, switch) in switches.iter().enumerate() {
                let ascends = before.is_none_or(|quarter| quarter < switch.quarter);
                if !ascends || switch.quarter > 95 || self.price(switch.rate).is_none() {
                    return Err(TariffError::Switch { season, day, index });
                }
                before = Some(switch.quarter);
            }
        }
        Ok(())
    }

    fn validate_blocks(&self) -> Result<(), TariffError> {
        let mut before = None;
        for (index, block) in self.blocks.iter().enumerate() {
            let ascends = match before {
                None => block.from_kwh == 0,
                Some(threshold) => block.from_kwh > threshold,
            };
            if !ascends {
                return Err(TariffError::Blocks(index));
            }
            before = Some(block.from_kwh);
        }
        Ok(())
    }
}

impl Season {
    /// Whether the season covers a day of the year.
    #[must_use]
    pub fn covers(&self, date: MonthDay) -> bool {
        if self.from <= self.to {
            self.from <= date && date <= self.to
        } else {
            date >= self.from || date <= self.to
        }
    }

    /// How a day of this type runs.
    #[must_use]
    pub const fn profile(&self, day: DayType) -> &DayProfile {
        match day {
            DayType::Workday => &self.workday,
            DayType::Weekend => &self.weekend,
            DayType::Holiday => &self.holiday,
        }
    }
}

impl DayProfile {
    /// The rate in force at a quarter hour.
    #[must_use]
    pub fn rate(&self, quarter: u8) -> u8 {
        let past = self.0.iter().take_while(|switch| switch.quarter <= quarter);
        past.last().map_or(1, |switch| switch.rate)
    }
}

/// The 366 days a season may cover; 29 February is one of them.
fn days_of_leap_year() -> impl Iterator<Item = MonthDay> {
    const DAYS: [u8; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    (1..=12).zip(DAYS).flat_map(|(month, days)| (1..=days).map(move |day| MonthDay { month, day }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat() -> TariffVersion {
        let all_day = DayProfile(vec![Switch { quarter: 0, rate: 1 }]);
        TariffVersion {
            plan: PlanId(1),
            valid_from: LocalDate::new(2026, 1, 1).unwrap(),
            currency: CurrencyCode::parse("CNY").unwrap(),
            prices: vec![Price::from_e4(5283)],
            seasons: vec![Season {
                from: MonthDay { month: 1, day: 1 },
                to: MonthDay { month: 12, day: 31 },
                workday: all_day.clone(),
                weekend: all_day.clone(),
                holiday: all_day,
            }],
            calendar: None,
            blocks: vec![Block { from_kwh: 0, adder: Price::from_e4(0) }],
            block_period: BlockPeriod::Month,
            standing_per_day: Money::ZERO,
            standing_per_month: Money::ZERO,
            tax_bp: 0,
            fee: Money::ZERO,
        }
    }

    fn check(change: impl FnOnce(&mut TariffVersion), want: Result<(), TariffError>) {
        let mut version = flat();
        change(&mut version);
        assert_eq!(version.validate(), want, "version={version:?}");
    }

    #[test]
    fn holes_are_refused_with_their_place() {
        check(|_| (), Ok(()));
        check(|v| v.prices.clear(), Err(TariffError::PriceCount(0)));
        check(
            |v| v.seasons[0].weekend.0[0].quarter = 4,
            Err(TariffError::Hole { season: 0, day: DayType::Weekend }),
        );
        check(
            |v| v.seasons[0].holiday.0.push(Switch { quarter: 32, rate: 2 }),
            Err(TariffError::Switch { season: 0, day: DayType::Holiday, index: 1 }),
        );
        check(
            |v| v.seasons[0].to = MonthDay { month: 12, day: 30 },
            Err(TariffError::Coverage { month: 12, day: 31, seasons: 0 }),
        );
        check(
            |v| v.seasons[0].to = MonthDay { month: 2, day: 30 },
            Err(TariffError::NoSuchDay { season: 0, month: 2, day: 30 }),
        );
        check(
            |v| v.blocks.push(Block { from_kwh: 0, adder: Price::from_e4(1) }),
            Err(TariffError::Blocks(1)),
        );
        check(|v| v.tax_bp = 10_001, Err(TariffError::Charge));
        check(|v| v.prices[0] = Price::from_e4(1_000_000_001), Err(TariffError::Price));
        check(|v| v.blocks[0].adder = Price::from_e4(i64::MIN), Err(TariffError::Price));
    }

    #[test]
    fn seasons_wrap_the_year() {
        let mut winter = flat().seasons.remove(0);
        winter.from = MonthDay { month: 11, day: 1 };
        winter.to = MonthDay { month: 3, day: 31 };
        assert!(winter.covers(MonthDay { month: 1, day: 1 }));
        assert!(!winter.covers(MonthDay { month: 4, day: 1 }));
    }
}
