//! The plan of the feeder: 尖/峰/平/谷, three blocks a month, a new version on the Friday.

use meter::{
    Block, BlockPeriod, CurrencyCode, DayProfile, LocalCalendar, LocalDate, Money, MonthDay,
    PlanId, Price, Season, Switch, TariffVersion, UnixSeconds,
};

use super::{DAY_S, ZONE};

/// The versions for the week that begins at `start`.
pub(crate) fn versions(start: UnixSeconds) -> Vec<TariffVersion> {
    let calendar = LocalCalendar::new(ZONE).expect("the zone is compiled in");
    let first = calendar.local(start).date.first_of_year();
    let friday = calendar.local(start.plus(4 * DAY_S)).date;
    vec![
        version(first, [9000, 7000, 5283, 3000], [(30, 500), (60, 3000)], 5_000_000),
        version(friday, [9500, 7100, 5300, 2900], [(40, 450), (80, 2500)], 6_000_000),
    ]
}

/// A plan with one price and nothing else.
pub(crate) fn flat(start: UnixSeconds) -> Vec<TariffVersion> {
    let calendar = LocalCalendar::new(ZONE).expect("the zone is compiled in");
    let always = profile(&[(0, 1)]);
    let season = Season {
        from: MonthDay { month: 1, day: 1 },
        to: MonthDay { month: 12, day: 31 },
        workday: always.clone(),
        weekend: always.clone(),
        holiday: always,
    };
    let plain = version(calendar.local(start).date.first_of_year(), [6000; 4], [(30, 0); 2], 0);
    vec![TariffVersion {
        prices: vec![Price::from_e4(6000)],
        seasons: vec![season],
        blocks: vec![Block { from_kwh: 0, adder: Price::from_e4(0) }],
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
        ..plain
    }]
}

fn version(
    valid_from: LocalDate,
    prices: [i64; 4],
    blocks: [(u64, i64); 2],
    standing_per_day: i64,
) -> TariffVersion {
    let block = |(from_kwh, adder)| Block { from_kwh, adder: Price::from_e4(adder) };
    let winter = profile(&[(0, 4), (6, 3), (8, 2), (10, 1), (12, 2), (18, 1), (21, 2), (22, 4)]);
    let plain = profile(&[(0, 4), (8, 3), (22, 4)]);
    let season = |from: (u8, u8), to: (u8, u8), workday: &DayProfile| Season {
        from: MonthDay { month: from.0, day: from.1 },
        to: MonthDay { month: to.0, day: to.1 },
        workday: workday.clone(),
        weekend: plain.clone(),
        holiday: plain.clone(),
    };
    TariffVersion {
        plan: PlanId::NONE,
        valid_from,
        currency: CurrencyCode::parse("CNY").expect("three capital letters"),
        prices: prices.map(Price::from_e4).to_vec(),
        seasons: vec![season((11, 1), (3, 31), &winter), season((4, 1), (10, 31), &plain)],
        calendar: None,
        blocks: [(0, 0), blocks[0], blocks[1]].map(block).to_vec(),
        block_period: BlockPeriod::Month,
        standing_per_day: Money::from_ticks(standing_per_day),
        standing_per_month: Money::from_ticks(20_000_000),
        tax_bp: 130,
        fee: Money::from_ticks(5_000_000),
    }
}

/// Switches at whole hours.
fn profile(hours: &[(u8, u8)]) -> DayProfile {
    DayProfile(hours.iter().map(|&(hour, rate)| Switch { quarter: hour * 4, rate }).collect())
}
