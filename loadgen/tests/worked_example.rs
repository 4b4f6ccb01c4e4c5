//! The truth against the worked example: five meters, two tariff versions, blocks and gaps, to the
//! tick. The virtual meters supply the registers, so that theirs are checked too.

#![expect(clippy::unwrap_used, reason = "a test may fail by unwrapping")]

use std::collections::{BTreeMap, BTreeSet};

use loadgen::profile::Load;
use loadgen::truth::{AccountTruth, Credit, Tariff, intervals};
use loadgen::{MeterClock, MeterPlan, Retry, Seed, VirtualMeter, World};
use meter::{
    Block, BlockPeriod, CurrencyCode, DayProfile, Energy, IntervalQuality, LocalDate, Money,
    MonthDay, PlanId, Price, Season, Switch, TariffVersion, UnixSeconds,
};
use serde_json::Value;

const EXAMPLE: &str = include_str!("../../data/worked-example.json");

fn instant(text: &str) -> UnixSeconds {
    // 2016-11-21T00:00…: all instants of the example lie in one month.
    let day: u32 = text[8..10].parse().unwrap();
    let (hour, minute): (u32, u32) = (text[11..13].parse().unwrap(), text[14..16].parse().unwrap());
    assert!(text.starts_with("2016-11-"), "{text}");
    UnixSeconds(1_479_686_400 + (day - 21) * 86_400 + hour * 3600 + minute * 60)
}

fn profile(value: &Value) -> DayProfile {
    let switch = |value: &Value| {
        let (time, rate) = (value[0].as_str().unwrap(), value[1].as_u64().unwrap());
        let (hour, minute): (u8, u8) = (time[..2].parse().unwrap(), time[3..].parse().unwrap());
        Switch { quarter: hour * 4 + minute / 15, rate: u8::try_from(rate).unwrap() }
    };
    DayProfile(value.as_array().unwrap().iter().map(switch).collect())
}

fn season(value: &Value) -> Season {
    let byte = |value: &Value| u8::try_from(value.as_u64().unwrap()).unwrap();
    let day = |value: &Value| MonthDay { month: byte(&value[0]), day: byte(&value[1]) };
    let profiles = &value["profiles"];
    // A season without holidays of its own treats them as weekends.
    let holiday = if profiles["holiday"].is_null() { "weekend" } else { "holiday" };
    Season {
        from: day(&value["from"]),
        to: day(&value["to"]),
        workday: profile(&profiles["workday"]),
        weekend: profile(&profiles["weekend"]),
        holiday: profile(&profiles[holiday]),
    }
}

fn version(value: &Value) -> TariffVersion {
    let price =
        |rate: u8| Price::from_e4(value["price_e4_per_kwh"][rate.to_string()].as_i64().unwrap());
    let block = |value: &Value| Block {
        from_kwh: value[0].as_u64().unwrap(),
        adder: Price::from_e4(value[1].as_i64().unwrap()),
    };
    let version = TariffVersion {
        plan: PlanId(1),
        valid_from: LocalDate::parse(value["valid_from"].as_str().unwrap()).unwrap(),
        currency: CurrencyCode::parse("CNY").unwrap(),
        prices: (1..=4).map(price).collect(),
        seasons: value["seasons"].as_array().unwrap().iter().map(season).collect(),
        calendar: None,
        blocks: value["blocks_from_kwh_adder_e4"].as_array().unwrap().iter().map(block).collect(),
        block_period: BlockPeriod::Month,
        standing_per_day: Money::from_ticks(value["standing_per_day_ticks"].as_i64().unwrap()),
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
    };
    version.validate().unwrap();
    version
}

/// Stamp and register of all readings of a meter that are not in one of its gaps.
fn readings(example: &Value, number: u8) -> BTreeMap<UnixSeconds, Energy> {
    let (first, last) = (instant("2016-11-21T00:00"), instant("2016-11-28T00:00"));
    let world = World {
        seed: Seed(1),
        retry: Retry {
            first: std::time::Duration::from_secs(1),
            max: std::time::Duration::from_secs(1),
        },
        window: 1,
        pace: 1,
    };
    let plan = MeterPlan {
        ordinal: 1,
        load: Load { site: number - 1, days_ahead: 0, scale_milli: 1000 },
        phases: 3,
        first,
        last,
        period_s: 900,
        send_delay_s: 0,
        start: Energy::from_wh(0),
        register_digits: 8,
        clock: MeterClock::default(),
    };
    let meter = VirtualMeter::new(&world, plan);
    let gaps = example["gaps"][number.to_string()].as_array().cloned().unwrap_or_default();
    let in_gap = |at: UnixSeconds| {
        gaps.iter().any(|gap| {
            instant(gap[0].as_str().unwrap()) < at && at < instant(gap[1].as_str().unwrap())
        })
    };
    (0..=672)
        .map(|slot| first.plus(slot * 900))
        .filter(|at| !in_gap(*at))
        .map(|at| (at, meter.register(at)))
        .collect()
}

#[test]
fn the_worked_example_comes_out_to_the_tick() {
    let example: Value = serde_json::from_str(EXAMPLE).unwrap();
    let versions: Vec<TariffVersion> =
        example["tariff_versions"].as_array().unwrap().iter().map(version).collect();
    let tariff =
        Tariff::new(example["zone"].as_str().unwrap(), BTreeSet::new(), &versions).unwrap();
    let as_of = instant(example["as_of"].as_str().unwrap());
    let installed = instant(example["installed_at"].as_str().unwrap());
    let opening = Money::from_ticks(example["opening_credit_ticks"].as_i64().unwrap());
    let expected = example["expected"].as_array().unwrap();
    assert_eq!(expected.len(), 5);
    for want in expected {
        let number = u8::try_from(want["meter"].as_u64().unwrap()).unwrap();
        let account = AccountTruth {
            active_from: installed,
            readings: readings(&example, number),
            credits: vec![Credit { at: installed, paid: opening, taxed: false }],
        };
        let integer = |name: &str| want[name].as_i64().unwrap();
        assert_eq!(account.readings.len(), usize::try_from(integer("readings")).unwrap());
        let register = account.readings[&as_of].wh();
        assert_eq!(register, u64::try_from(integer("energy_wh")).unwrap(), "meter {number}");

        let charge = account.charge(&tariff, as_of);
        for ((from, rate), wh) in charge.by_version_and_rate() {
            let valid_from = tariff.version(from).1.valid_from.to_string();
            let want = want["wh_by_version_and_rate"][valid_from][rate.to_string()].as_u64();
            assert_eq!(want, Some(wh), "meter {number}, rate {rate}");
        }
        assert_eq!(charge.total(&tariff).ticks(), integer("energy_charge_ticks"));
        let standing = tariff.standing(installed, as_of);
        let standing: i64 = standing.values().map(|money| money.ticks()).sum();
        assert_eq!(standing, integer("standing_ticks"), "meter {number}");
        let balance = account.balance(&tariff, as_of);
        assert_eq!(balance.ticks(), integer("balance_ticks"), "meter {number}");
        assert_eq!(account.steps(&tariff, as_of).last().unwrap().balance, balance);

        let intervals = intervals(&account.readings);
        assert_eq!(intervals.len(), 672);
        let estimated: BTreeMap<UnixSeconds, u64> = intervals
            .iter()
            .filter(|(_, interval)| interval.quality == IntervalQuality::Estimated)
            .map(|(start, interval)| (*start, interval.energy.wh()))
            .collect();
        let want: BTreeMap<UnixSeconds, u64> = want["estimated_intervals_wh"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(start, wh)| (instant(start), wh.as_u64().unwrap()))
            .collect();
        assert_eq!(estimated, want, "meter {number}");
    }
}
