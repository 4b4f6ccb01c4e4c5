//! The load: a real feeder's week, repeated for ever with weekdays on weekdays, scaled and shifted
//! for each meter. A register is a function of time alone, so a meter needs no memory for it.
//!
//! The week is kept as running sums, which makes any register of any instant a matter of a few
//! look-ups. Work is counted in 0.1 W · s, scaled by thousandths; 36,000,000 of those are one
//! watt-hour. Nothing rounds but the floor that a register shows.

use std::io::{BufRead, BufReader, Read};
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use meter::{Energy, INTERVAL_S, Power, ReactivePower, UnixSeconds, Voltage};

/// Consumers of the feeder.
pub const CONSUMERS: u8 = 111;
/// The site of the transformer's low-voltage side.
pub const TRANSFORMER: u8 = CONSUMERS;
/// Quarter hours of a week.
pub const SLOTS: usize = 672;
/// Seconds of a week.
pub const WEEK_S: u32 = 604_800;

/// Monday 1970-01-05: whole weeks from here begin on Mondays at midnight UTC, as the data do.
const FIRST_MONDAY: u32 = 345_600;
/// 0.1 W · s · 1/1000 in a watt-hour.
const UNITS_PER_WH: u64 = 10 * 3600 * 1000;
/// A whole day's shift.
const DAY_S: u32 = 86_400;

static METERS: &[u8] = include_bytes!("../../data/simbench-urban6-meters.csv.gz");
static SUPPLY: &[u8] = include_bytes!("../../data/simbench-urban6-transformer.csv.gz");

/// How one meter follows the feeder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Load {
    /// Which site of the feeder: 0 to 110 a consumer, 111 the transformer.
    pub site: u8,
    /// Runs so many whole days ahead of the data, 0 to 6.
    pub days_ahead: u8,
    /// Times this, in thousandths; at most 10,000.
    pub scale_milli: u16,
}

/// The mean power and the voltage of the quarter hour that holds an instant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sample {
    /// Active power of all phases.
    pub power: Power,
    /// Reactive power of all phases.
    pub reactive: ReactivePower,
    /// Mean voltage, phase to neutral.
    pub voltage: Voltage,
}

impl Sample {
    /// That of a load at `at`.
    #[must_use]
    pub fn of(load: Load, at: UnixSeconds) -> Self {
        FeederWeek::shared().sample(load, at)
    }

    /// The same voltage with nothing switched on.
    #[must_use]
    pub fn without_load(self) -> Self {
        Self { power: Power::default(), reactive: ReactivePower::default(), ..self }
    }

    /// Apparent power, whole VA.
    #[must_use]
    pub fn apparent_va(self) -> u64 {
        let square = |value: i32| u64::from(value.unsigned_abs()).pow(2);
        (square(self.power.w()) + square(self.reactive.var())).isqrt()
    }

    /// Active ÷ apparent power, in thousandths; 1000 without load.
    #[must_use]
    pub fn power_factor_milli(self) -> i16 {
        let active = u64::from(self.power.w().unsigned_abs());
        let milli = (active * 1000).checked_div(self.apparent_va()).unwrap_or(1000);
        i16::try_from(milli.min(1000)).expect("at most 1000")
    }
}

/// Exact work of one meter: 0.1 W · s · 1/1000. Differences count, not the value.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Work(u64);

impl Work {
    /// All work of a load up to `at`.
    #[must_use]
    pub fn of(load: Load, at: UnixSeconds) -> Self {
        FeederWeek::shared().work(load, at)
    }

    /// The part of it in the hours of a rate.
    #[must_use]
    pub fn of_rate(load: Load, at: UnixSeconds, rate: u8) -> Self {
        FeederWeek::shared().rate_work(load, at, rate)
    }

    /// So many thousandths of it.
    #[must_use]
    pub fn milli(self, thousandths: u16) -> Self {
        let part = u128::from(self.0) * u128::from(thousandths) / 1000;
        Self(u64::try_from(part).unwrap_or(u64::MAX))
    }

    /// The work since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Whole watt-hours.
    #[must_use]
    pub const fn floor(self) -> Energy {
        Energy::from_wh(self.0 / UNITS_PER_WH)
    }
}

/// The feeder's week.
#[derive(Debug)]
pub struct FeederWeek {
    sites: Vec<Site>,
}

#[derive(Debug)]
struct Site {
    /// Σ 0.1 W over the quarter hours before: of all, and of those of each rate.
    total: Vec<u32>,
    rates: [Vec<u32>; 4],
    reactive_dvar: Vec<i32>,
    voltage_cv: Vec<u16>,
}

impl FeederWeek {
    /// The week; read from the compiled-in data once.
    ///
    /// # Panics
    /// When the compiled-in data are not what the tests saw.
    #[must_use]
    pub fn shared() -> &'static Self {
        static WEEK: OnceLock<FeederWeek> = OnceLock::new();
        WEEK.get_or_init(Self::read)
    }

    fn read() -> Self {
        let mut sites: Vec<Site> = (0..=CONSUMERS).map(|_| Site::new()).collect();
        for [_, meter, power, reactive, voltage] in rows(METERS) {
            let number: usize = meter.parse().expect("the data number the meters");
            sites[number - 1].push(tenths(&power), tenths(&reactive), hundredths(&voltage));
        }
        for [_, power, reactive, voltage, _, _] in rows(SUPPLY) {
            let site = &mut sites[usize::from(TRANSFORMER)];
            site.push(tenths(&power), tenths(&reactive), hundredths(&voltage));
        }
        assert!(sites.iter().all(|site| site.voltage_cv.len() == SLOTS), "the data hold a week");
        Self { sites }
    }

    /// All work of a meter up to `at`.
    #[must_use]
    pub fn work(&self, load: Load, at: UnixSeconds) -> Work {
        self.work_of(load, at, |site| &site.total)
    }

    /// The part of it in the hours of a rate, 1 to 4, by the meter's own switch clock.
    #[must_use]
    pub fn rate_work(&self, load: Load, at: UnixSeconds, rate: u8) -> Work {
        let index = usize::from(rate.clamp(1, 4)) - 1;
        self.work_of(load, at, |site| &site.rates[index])
    }

    /// Power and voltage at `at`.
    #[must_use]
    pub fn sample(&self, load: Load, at: UnixSeconds) -> Sample {
        let (site, position) = (self.site(load), Position::of(load, at));
        let power = i64::from(site.total[position.slot + 1] - site.total[position.slot]);
        let reactive = i64::from(site.reactive_dvar[position.slot]);
        let scaled = |tenths: i64| {
            let value = tenths * i64::from(load.scale_milli) / 10_000;
            i32::try_from(value).expect("ten times the feeder fits 31 bits")
        };
        Sample {
            power: Power::from_w(scaled(power)),
            reactive: ReactivePower::from_var(scaled(reactive)),
            voltage: Voltage::from_mv(u32::from(site.voltage_cv[position.slot]) * 10),
        }
    }

    fn work_of(&self, load: Load, at: UnixSeconds, sums: impl Fn(&Site) -> &Vec<u32>) -> Work {
        let (sums, position) = (sums(self.site(load)), Position::of(load, at));
        let before = u64::from(sums[position.slot]);
        let during = u64::from(sums[position.slot + 1]) - before;
        let weeks = position.weeks * u64::from(sums[SLOTS]);
        let work = (weeks + before) * u64::from(INTERVAL_S) + during * position.seconds;
        Work(work * u64::from(load.scale_milli))
    }

    fn site(&self, load: Load) -> &Site {
        &self.sites[usize::from(load.site)]
    }
}

/// Where an instant falls in the repeated week.
struct Position {
    weeks: u64,
    slot: usize,
    seconds: u64,
}

impl Position {
    fn of(load: Load, at: UnixSeconds) -> Self {
        let ahead = u32::from(load.days_ahead) * DAY_S;
        let second = at.plus(ahead).since(UnixSeconds(FIRST_MONDAY));
        let within = second % WEEK_S;
        Self {
            weeks: u64::from(second / WEEK_S),
            slot: usize::try_from(within / INTERVAL_S).expect("a slot fits"),
            seconds: u64::from(within % INTERVAL_S),
        }
    }
}

impl Site {
    fn new() -> Self {
        let sums = || {
            let mut sums = Vec::with_capacity(SLOTS + 1);
            sums.push(0);
            sums
        };
        Self {
            total: sums(),
            rates: std::array::from_fn(|_| sums()),
            reactive_dvar: Vec::with_capacity(SLOTS),
            voltage_cv: Vec::with_capacity(SLOTS),
        }
    }

    fn push(&mut self, power_dw: i64, reactive_dvar: i64, voltage_cv: i64) {
        let power = u32::try_from(power_dw).expect("consumers of the feeder only take");
        let rate = usize::from(switch_clock(self.voltage_cv.len())) - 1;
        self.total.push(self.total[self.total.len() - 1] + power);
        for (index, sums) in self.rates.iter_mut().enumerate() {
            let added = if index == rate { power } else { 0 };
            sums.push(sums[sums.len() - 1] + added);
        }
        self.reactive_dvar.push(i32::try_from(reactive_dvar).expect("within kilovars"));
        self.voltage_cv.push(u16::try_from(voltage_cv).expect("mains voltage"));
    }
}

/// The rate whose register a meter feeds in a slot: the same hours every day, UTC+8.
fn switch_clock(slot: usize) -> u8 {
    match (slot / 4 + 8) % 24 {
        0..=5 | 22..=23 => 4,
        6..=7 => 3,
        10..=11 | 18..=20 => 1,
        _ => 2,
    }
}

/// The rows of a compiled-in table, without its header.
fn rows<const COLUMNS: usize>(gzip: &'static [u8]) -> impl Iterator<Item = [String; COLUMNS]> {
    let reader: Box<dyn Read> = Box::new(GzDecoder::new(gzip));
    BufReader::new(reader).lines().skip(1).map(|line| {
        let line = line.expect("the compiled-in data decompress");
        let cells: Vec<String> = line.split(',').map(str::to_owned).collect();
        cells.try_into().expect("the compiled-in data have their columns")
    })
}

fn tenths(text: &str) -> i64 {
    fixed(text, 1)
}

fn hundredths(text: &str) -> i64 {
    fixed(text, 2)
}

/// A decimal number as a count of its last decimal.
fn fixed(text: &str, decimals: usize) -> i64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    assert!(fraction.len() <= decimals, "{text} has more than {decimals} decimals");
    format!("{whole}{fraction:0<decimals$}").parse().expect("the compiled-in data are numbers")
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixSeconds = UnixSeconds(1_479_686_400); // 2016-11-21T00:00:00Z, a Monday
    const AS_IS: Load = Load { site: 0, days_ahead: 0, scale_milli: 1000 };

    fn week_wh(site: u8) -> u64 {
        let load = Load { site, ..AS_IS };
        let week = FeederWeek::shared();
        week.work(load, START.plus(WEEK_S)).since(week.work(load, START)).floor().wh()
    }

    #[test]
    fn the_week_sums_to_what_the_data_say() {
        assert_eq!(week_wh(0), 366_900);
        assert_eq!(week_wh(16), 114_905);
        assert_eq!(week_wh(TRANSFORMER), 12_488_180);
    }

    #[test]
    fn registers_equal_the_plain_sum() {
        let week = FeederWeek::shared();
        let mut sums = [0_u64; 111];
        let origin: Vec<Work> =
            (0..CONSUMERS).map(|site| week.work(Load { site, ..AS_IS }, START)).collect();
        for (index, [_, meter, power, _, _]) in rows(METERS).enumerate() {
            let site: u8 = meter.parse::<u8>().unwrap() - 1;
            sums[usize::from(site)] += u64::try_from(tenths(&power)).unwrap();
            let slot = u32::try_from(index / 111).unwrap() + 1;
            let work = week.work(Load { site, ..AS_IS }, START.plus(slot * INTERVAL_S));
            let register = work.since(origin[usize::from(site)]).floor().wh();
            assert_eq!(register, sums[usize::from(site)] / 40, "site={site} slot={slot}");
        }
    }

    #[test]
    fn weeks_and_shifts_repeat() {
        let week = FeederWeek::shared();
        let ten_years = START.plus(520 * WEEK_S);
        for site in [0, 57, TRANSFORMER] {
            let load = Load { site, days_ahead: 3, scale_milli: 1703 };
            assert_eq!(week.sample(load, START), week.sample(load, ten_years));
            let ahead = Load { days_ahead: 0, ..load };
            assert_eq!(week.sample(load, START), week.sample(ahead, START.plus(3 * DAY_S)));
        }
    }

    #[test]
    fn rates_split_the_total() {
        let week = FeederWeek::shared();
        for site in [0, 31, 110] {
            let load = Load { site, days_ahead: 2, scale_milli: 900 };
            for seconds in [0, 1, 899, 12_345, WEEK_S + 77] {
                let at = START.plus(seconds);
                let split: u64 = (1..=4).map(|rate| week.rate_work(load, at, rate).0).sum();
                assert_eq!(split, week.work(load, at).0, "site={site} seconds={seconds}");
            }
        }
    }
}
