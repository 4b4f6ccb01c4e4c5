//! The worked example of the domain rules, to the tick: in order, and in shuffled orders.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use meter::{
    AccountId, Adjustment, Block, BlockPeriod, Change, CurrencyCode, Current, DayProfile, Energy,
    IntervalQuality, LedgerKind, LocalDate, Money, MonthDay, PlanId, Price, Reading, Season,
    Switch, TariffVersion, UnixSeconds,
};
use serde_json::Value;
use support::{Dice, Node, install, record, shared, terms};

struct Example {
    text: Value,
    /// Register by meter: one more than there are quarter hours.
    registers: BTreeMap<u32, Vec<u64>>,
    start: u32,
}

fn load() -> Option<Example> {
    let text = std::fs::read_to_string(shared("worked-example.json")?).unwrap();
    let text: Value = serde_json::from_str(&text).unwrap();
    let packed = std::fs::read(shared("simbench-urban6-meters.csv.gz")?).unwrap();
    let mut csv = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut csv).unwrap();
    let wanted: BTreeSet<u32> =
        text["expected"].as_array().unwrap().iter().map(|e| number(&e["meter"]) as u32).collect();
    // Tenths of a watt over quarter hours: 40 of them are a Wh.
    let mut sums: BTreeMap<u32, Vec<u64>> = wanted.iter().map(|id| (*id, vec![0])).collect();
    for line in csv.lines().skip(1) {
        let mut columns = line.split(',').skip(1);
        let id: u32 = columns.next().unwrap().parse().unwrap();
        let (watts, tenths) = columns.next().unwrap().split_once('.').unwrap();
        assert_eq!(tenths.len(), 1);
        if let Some(sums) = sums.get_mut(&id) {
            let power = watts.parse::<u64>().unwrap() * 10 + tenths.parse::<u64>().unwrap();
            sums.push(sums.last().unwrap() + power);
        }
    }
    let floor = |sums: Vec<u64>| sums.into_iter().map(|sum| sum / 40).collect();
    let registers = sums.into_iter().map(|(id, sums)| (id, floor(sums))).collect();
    let start = stamp(text["installed_at"].as_str().unwrap());
    Some(Example { text, registers, start })
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap()
}

/// Seconds of `2016-11-21T00:30Z`, seconds and zone optional; all dates lie in November 2016.
fn stamp(text: &str) -> u32 {
    let field = |from: usize| text[from..from + 2].parse::<u32>().unwrap();
    assert!(text.starts_with("2016-11-"));
    const NOVEMBER: u32 = 1_477_958_400;
    NOVEMBER + (field(8) - 1) * 86_400 + field(11) * 3600 + field(14) * 60
}

fn profile(value: &Value) -> DayProfile {
    let switches = value.as_array().unwrap().iter().map(|switch| {
        let at = switch[0].as_str().unwrap();
        let (hour, minute): (u8, u8) = (at[..2].parse().unwrap(), at[3..].parse().unwrap());
        Switch { quarter: hour * 4 + minute / 15, rate: number(&switch[1]) as u8 }
    });
    DayProfile(switches.collect())
}

fn month_day(value: &Value) -> MonthDay {
    MonthDay { month: number(&value[0]) as u8, day: number(&value[1]) as u8 }
}

fn tariff(value: &Value) -> TariffVersion {
    let seasons = value["seasons"].as_array().unwrap().iter().map(|season| {
        let profiles = &season["profiles"];
        let weekend = profile(&profiles["weekend"]);
        let holiday = &profiles["holiday"];
        Season {
            from: month_day(&season["from"]),
            to: month_day(&season["to"]),
            workday: profile(&profiles["workday"]),
            holiday: if holiday.is_null() { weekend.clone() } else { profile(holiday) },
            weekend,
        }
    });
    let blocks = value["blocks_from_kwh_adder_e4"].as_array().unwrap().iter();
    let price = |rate| Price::from_e4(number(&value["price_e4_per_kwh"][rate]));
    let version = TariffVersion {
        plan: PlanId(1),
        valid_from: LocalDate::parse(value["valid_from"].as_str().unwrap()).unwrap(),
        currency: CurrencyCode::parse("CNY").unwrap(),
        prices: ["1", "2", "3", "4"].into_iter().map(price).collect(),
        seasons: seasons.collect(),
        calendar: None,
        blocks: blocks
            .map(|b| Block { from_kwh: number(&b[0]) as u64, adder: Price::from_e4(number(&b[1])) })
            .collect(),
        block_period: BlockPeriod::Month,
        standing_per_day: Money::from_ticks(number(&value["standing_per_day_ticks"])),
        standing_per_month: Money::ZERO,
        tax_bp: 0,
        fee: Money::ZERO,
    };
    version.validate().unwrap();
    version
}

impl Example {
    fn set_up(&self, node: &mut Node) {
        let versions = self.text["tariff_versions"].as_array().unwrap();
        node.change(versions.iter().map(|version| Change::Tariff(tariff(version))).collect());
        let opening = Money::from_ticks(number(&self.text["opening_credit_ticks"]));
        for id in self.registers.keys() {
            let mut record = record(*id);
            record.current_max = Current::from_ma(200_000);
            node.change(vec![
                Change::Meter(record),
                Change::Account(terms(*id, self.text["zone"].as_str().unwrap())),
                install(*id, self.start, Some(number(&self.text["start_register_wh"]) as u64)),
                Change::Adjust(Adjustment {
                    account: AccountId(*id),
                    amount: opening,
                    at: UnixSeconds(self.start),
                    reason: "opening".into(),
                }),
            ]);
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let mut readings = Vec::new();
        for (id, registers) in &self.registers {
            let gaps = self.text["gaps"][id.to_string()].as_array();
            let gaps: Vec<(u32, u32)> = gaps
                .into_iter()
                .flatten()
                .map(|gap| (stamp(gap[0].as_str().unwrap()), stamp(gap[1].as_str().unwrap())))
                .collect();
            for (wh, n) in registers.iter().zip(0..) {
                let at = self.start + n * 900;
                if gaps.iter().all(|(from, to)| at <= *from || *to <= at) {
                    readings.push(support::reading(*id, at, *wh));
                }
            }
        }
        readings.sort_by_key(|r| (r.taken_at, r.meter));
        readings
    }

    fn check(&self, node: &Node, case: &str) {
        let end = node.end();
        for want in self.text["expected"].as_array().unwrap() {
            let id = number(&want["meter"]) as u32;
            let of = |key: &str| number(&want[key]);
            let case = format!("{case}, meter {id}");
            let accepted = node.store.keys().filter(|(meter, _)| meter.0 == id).count();
            assert_eq!(accepted as i64, of("readings"), "{case}");
            let rows: Vec<_> = end.intervals.values().filter(|row| row.meter.0 == id).collect();
            assert_eq!(rows.len(), 672, "{case}");
            let energy: u64 = rows.iter().map(|row| row.energy.wh()).sum();
            assert_eq!(energy as i64, of("energy_wh"), "{case}");
            let sum = |kind| end.sums.get(&(AccountId(id), kind)).copied().unwrap_or(0);
            assert_eq!(-sum(LedgerKind::Energy), of("energy_charge_ticks"), "{case}");
            assert_eq!(-sum(LedgerKind::StandingDay), of("standing_ticks"), "{case}");
            assert_eq!(end.balance(id), of("balance_ticks"), "{case}");
            let mut by_rate: BTreeMap<(bool, u8), u64> = BTreeMap::new();
            for row in &rows {
                // The second version is in force from 25 November in Shanghai.
                let is_second = row.start.0 >= stamp("2016-11-24T16:00");
                *by_rate.entry((is_second, row.rate)).or_default() += row.energy.wh();
            }
            for (is_second, version) in [(false, "2016-01-01"), (true, "2016-11-25")] {
                for rate in 1..=4 {
                    let want = number(&want["wh_by_version_and_rate"][version][rate.to_string()]);
                    assert_eq!(by_rate[&(is_second, rate)] as i64, want, "{case} rate {rate}");
                }
            }
            let estimated: BTreeMap<u32, u64> = rows
                .iter()
                .filter(|row| row.quality == IntervalQuality::Estimated)
                .map(|row| (row.start.0, row.energy.wh()))
                .collect();
            let wanted: BTreeMap<u32, u64> = want["estimated_intervals_wh"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(at, wh)| (stamp(at), number(wh) as u64))
                .collect();
            assert_eq!(estimated, wanted, "{case}");
        }
    }
}

#[test]
fn to_the_tick_in_order() {
    let Some(example) = load() else { return };
    let mut node = Node::start(1);
    example.set_up(&mut node);
    node.read(&example.readings());
    node.tick(stamp(example.text["as_of"].as_str().unwrap()));
    assert!(node.all.recalls.is_empty());
    example.check(&node, "in order");
}

#[test]
fn to_the_tick_in_any_order() {
    let Some(example) = load() else { return };
    for (seed, workers) in [(1, 1), (2, 2), (3, 1)] {
        let mut node = Node::start(workers);
        example.set_up(&mut node);
        let mut readings = example.readings();
        let doubled: Vec<_> = readings.iter().step_by(17).copied().collect();
        readings.extend(&doubled);
        Dice(seed).shuffle(&mut readings);
        for part in readings.chunks(500) {
            node.read(part);
        }
        node.tick(stamp(example.text["as_of"].as_str().unwrap()));
        example.check(&node, &format!("seed {seed}"));
        let duplicates = node.count(|o| *o == meter::Outcome::Duplicate);
        assert_eq!(duplicates, doubled.len(), "seed {seed}");
        assert_eq!(node.outcomes.len(), readings.len(), "seed {seed}");
    }
}

#[test]
fn registers_are_read_exactly() {
    let Some(example) = load() else { return };
    assert_eq!(example.registers[&1].len(), 673);
    assert_eq!(example.registers[&1].last(), Some(&366_900));
    assert_eq!(Energy::from_wh(0), Energy::default());
}
