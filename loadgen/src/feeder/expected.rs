//! Who runs low by construction, and what the books must say.

use std::collections::{BTreeMap, BTreeSet};

use meter::{AlarmCode, Energy, Money, UnixSeconds};

use super::{
    Consumer, DAY_S, Feeder, GAP_METER, HIGH_VOLTAGE_METER, HOUR_S, LOW_LEVELS, LOW_VOLTAGE_METER,
    PERIOD_S, POWERLESS_GATEWAY, POWERLESS_METER, REVERSED_METER, STUCK_METER, SUPPLY,
    TAMPERED_METER, TopUp, account_code, serial, yuan,
};
use crate::gateway_title;
use crate::profile::CONSUMERS;
use crate::truth::{AccountTruth, Credit, IntervalTruth, LossTruth, intervals, losses};
use crate::virtual_meter::VirtualMeter;

/// Whom an expected alarm is about.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum AlarmSubject {
    /// A meter, by its serial.
    Meter(String),
    /// An account, by its code.
    Account(String),
    /// A gateway, by its system title.
    Gateway(String),
}

/// An alarm that must have been raised at some time of the week.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ExpectedAlarm {
    /// What.
    pub code: AlarmCode,
    /// About whom.
    pub subject: AlarmSubject,
}

/// What the books must say once every reading is in.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Readings sent, acknowledged, accepted and stored; each counts once.
    pub readings: u64,
    /// Whole intervals, one row each, all actual.
    pub intervals: u64,
    /// Energy of the week by serial, the transformer's among them.
    pub energy: BTreeMap<String, Energy>,
    /// Balances by account code.
    pub balances: BTreeMap<String, Money>,
    /// Supply and delivery of every interval.
    pub losses: BTreeMap<UnixSeconds, LossTruth>,
    /// Alarms that must have been raised later than [`Feeder::start`]: an import opens accounts at
    /// zero, below every level, before it gives them their opening balances. Of the codes in
    /// [`Expected::DECISIVE`], these and no others.
    pub alarms: BTreeSet<ExpectedAlarm>,
    /// Readings in quarantine.
    pub quarantined: u64,
    /// Actual ÷ expected intervals, in thousandths.
    pub completeness_milli: u32,
}

impl Expected {
    /// Codes whose alarms follow from the data alone. The others also depend on when what arrives.
    pub const DECISIVE: &'static [AlarmCode] = &[
        AlarmCode::OverVoltage,
        AlarmCode::UnderVoltage,
        AlarmCode::Overload,
        AlarmCode::ReverseEnergy,
        AlarmCode::PowerDown,
        AlarmCode::Relay,
        AlarmCode::Tamper,
        AlarmCode::Clock,
        AlarmCode::Register,
        AlarmCode::RegisterProposal,
        AlarmCode::LowBalance,
        AlarmCode::VeryLowBalance,
        AlarmCode::Overdrawn,
        AlarmCode::LineLoss,
    ];

    /// Line loss of the whole week: supply and delivery.
    #[must_use]
    pub fn total_loss(&self) -> LossTruth {
        self.losses.values().fold(LossTruth::default(), |sum, loss| LossTruth {
            supply: Energy::from_wh(sum.supply.wh() + loss.supply.wh()),
            delivered: Energy::from_wh(sum.delivered.wh() + loss.delivered.wh()),
        })
    }
}

/// How a customer of the scenario fares.
enum Fate {
    /// Enough for the week.
    Well,
    /// Ends below the first level.
    Low,
    /// Ends below the second level.
    VeryLow,
    /// Ends with the overdraft used up.
    Overdrawn,
    /// Overdrawn by Friday, topped up on Saturday.
    Rescued,
}

/// Only customers who spend this much in the week run low, so that they begin well above the
/// levels and every crossing is seen.
const SPEND_LEAST: Money = yuan(60);

impl Feeder {
    /// Gives every customer an opening balance that makes his fate.
    pub(super) fn cast(&mut self) {
        let mut spenders = 0;
        for number in 1..=u32::from(CONSUMERS) {
            let spent = self.spent(number, self.end());
            let is_spender = spent >= SPEND_LEAST;
            let fate = match spenders % 5 {
                0 if is_spender => Fate::Low,
                1 if is_spender => Fate::VeryLow,
                2 if is_spender => Fate::Overdrawn,
                3 if is_spender => Fate::Rescued,
                _ => Fate::Well,
            };
            spenders += u32::from(is_spender);
            let (opening, overdraft) = match fate {
                Fate::Well => (up_to_yuan(spent, 60), yuan(10)),
                Fate::Low => (up_to_yuan(spent, 10), yuan(10)),
                Fate::VeryLow => (up_to_yuan(spent, 2), yuan(10)),
                Fate::Overdrawn => (up_to_yuan(spent, -9), yuan(5)),
                Fate::Rescued => {
                    let by_thursday = self.spent(number, self.start.plus(3 * DAY_S));
                    self.top_ups.push(self.rescue(number, spent));
                    (up_to_yuan(by_thursday, 0), yuan(2))
                }
            };
            self.consumers.push(Consumer { number, opening, overdraft });
        }
        self.top_ups.sort_by_key(|top_up| top_up.at);
    }

    /// What the books must say when every reading is in and the node's ticks reached `tick`.
    #[must_use]
    pub fn expected(&self, tick: UnixSeconds) -> Expected {
        let numbers = || (1..=u32::from(CONSUMERS)).chain([SUPPLY]);
        let consumers: Vec<BTreeMap<UnixSeconds, IntervalTruth>> =
            (1..=u32::from(CONSUMERS)).map(|number| intervals(&self.readings(number))).collect();
        let supply = intervals(&self.readings(SUPPLY));
        let rows = consumers.iter().chain([&supply]).map(BTreeMap::len).sum::<usize>();
        let readings = numbers().map(|number| self.meter_plan(number).readings()).sum();
        Expected {
            readings,
            intervals: u64::try_from(rows).expect("a week's intervals fit"),
            energy: numbers().map(|number| (serial(number), self.energy(number))).collect(),
            balances: self
                .consumers
                .iter()
                .map(|consumer| {
                    let account = self.account(consumer);
                    (account_code(consumer.number), account.balance(&self.tariff, tick))
                })
                .collect(),
            losses: losses(&supply, &consumers),
            alarms: self.alarms(tick),
            quarantined: 0,
            completeness_milli: 1000,
        }
    }

    /// What every whole interval of a meter, by serial, must show.
    #[must_use]
    pub fn expected_intervals(&self, serial: &str) -> BTreeMap<UnixSeconds, IntervalTruth> {
        let mut numbers = (1..=u32::from(CONSUMERS)).chain([SUPPLY]);
        let number = numbers.find(|number| super::serial(*number) == serial);
        number.map(|number| intervals(&self.readings(number))).unwrap_or_default()
    }

    fn alarms(&self, tick: UnixSeconds) -> BTreeSet<ExpectedAlarm> {
        let of_meter =
            |code, number| ExpectedAlarm { code, subject: AlarmSubject::Meter(serial(number)) };
        let mut alarms = BTreeSet::from([
            of_meter(AlarmCode::OverVoltage, HIGH_VOLTAGE_METER),
            of_meter(AlarmCode::UnderVoltage, LOW_VOLTAGE_METER),
            of_meter(AlarmCode::MeterSilent, GAP_METER),
            of_meter(AlarmCode::Tamper, TAMPERED_METER),
            of_meter(AlarmCode::ReverseEnergy, REVERSED_METER),
            of_meter(AlarmCode::PowerDown, POWERLESS_METER),
            of_meter(AlarmCode::Relay, STUCK_METER),
            ExpectedAlarm {
                code: AlarmCode::PowerDown,
                subject: AlarmSubject::Gateway(gateway_title(POWERLESS_GATEWAY).to_string()),
            },
        ]);
        for consumer in &self.consumers {
            let lowest = self.lowest(consumer, tick);
            let overdrawn = Money::from_ticks(-consumer.overdraft.ticks());
            for (code, level) in [
                (AlarmCode::LowBalance, LOW_LEVELS[0]),
                (AlarmCode::VeryLowBalance, LOW_LEVELS[1]),
                (AlarmCode::Overdrawn, overdrawn),
            ] {
                if lowest < level {
                    let subject = AlarmSubject::Account(account_code(consumer.number));
                    alarms.insert(ExpectedAlarm { code, subject });
                }
            }
        }
        alarms
    }

    /// The least balance of a customer at any time.
    fn lowest(&self, consumer: &Consumer, tick: UnixSeconds) -> Money {
        let steps = self.account(consumer).steps(&self.tariff, tick);
        steps.iter().map(|step| step.balance).min().unwrap_or(consumer.opening)
    }

    fn account(&self, consumer: &Consumer) -> AccountTruth {
        let code = account_code(consumer.number);
        let opening = Credit { at: self.start, paid: consumer.opening, taxed: false };
        let purchases = self.top_ups.iter().filter(|top_up| top_up.account == code);
        let purchases =
            purchases.map(|top_up| Credit { at: top_up.at, paid: top_up.paid, taxed: true });
        AccountTruth {
            active_from: self.start,
            readings: self.readings(consumer.number),
            credits: std::iter::once(opening).chain(purchases).collect(),
        }
    }

    /// What a customer owes by `through` if nothing comes in.
    fn spent(&self, number: u32, through: UnixSeconds) -> Money {
        let consumer = Consumer { number, opening: Money::ZERO, overdraft: Money::ZERO };
        let balance = self.account(&consumer).balance(&self.tariff, through);
        Money::from_ticks(-balance.ticks())
    }

    /// The purchase that rescues a customer, on Saturday; an amount that rounds.
    fn rescue(&self, number: u32, spent: Money) -> TopUp {
        let cents = Money::from_ticks(37 * Money::TICKS_PER_CENT);
        let paid = up_to_yuan(spent, 80).plus(cents).expect("a week's bill is small");
        TopUp {
            at: self.start.plus(5 * DAY_S + 9 * HOUR_S + number * 60),
            account: account_code(number),
            paid,
            idempotency_key: format!("feeder-{}-{number:03}", self.start.0),
        }
    }

    fn readings(&self, number: u32) -> BTreeMap<UnixSeconds, Energy> {
        let meter = VirtualMeter::new(&self.world(), self.meter_plan(number));
        let stamps = (self.start.0..=self.end().0).step_by(PERIOD_S as usize).map(UnixSeconds);
        stamps.map(|at| (at, meter.register(at))).collect()
    }

    fn energy(&self, number: u32) -> Energy {
        let meter = VirtualMeter::new(&self.world(), self.meter_plan(number));
        let used = meter.register(self.end()).since(meter.register(self.start));
        used.expect("no register rolls over in the week")
    }
}

/// The next whole amount above, and `more`.
fn up_to_yuan(amount: Money, more: i64) -> Money {
    let whole = amount.ticks().div_euclid(Money::TICKS_PER_UNIT) + 1;
    yuan(whole + more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;
    use crate::feeder::latest_week;

    const START: UnixSeconds = UnixSeconds(1_479_686_400);

    #[test]
    fn every_threshold_is_missed_or_passed_by_a_margin() {
        let feeder = Feeder::new(Seed(1), START);
        let margin = 5_000_000_i64;
        for consumer in &feeder.consumers {
            let lowest = feeder.lowest(consumer, feeder.end()).ticks();
            for level in [LOW_LEVELS[0].ticks(), LOW_LEVELS[1].ticks(), -consumer.overdraft.ticks()]
            {
                assert!((lowest - level).abs() > margin, "{consumer:?} {lowest} {level}");
            }
            assert!(consumer.opening > LOW_LEVELS[0], "{consumer:?}");
        }
        for top_up in &feeder.top_ups {
            let consumer =
                feeder.consumers.iter().find(|c| account_code(c.number) == top_up.account).unwrap();
            let before = feeder.lowest(consumer, top_up.at.minus(HOUR_S)).ticks();
            assert!(before < -consumer.overdraft.ticks() - margin, "{consumer:?} {before}");
            let after = feeder.account(consumer).balance(&feeder.tariff, feeder.end());
            assert!(after > LOW_LEVELS[0], "{consumer:?} {after}");
        }
    }

    #[test]
    fn the_week_is_what_the_data_say() {
        let expected = Feeder::new(Seed(1), START).expected(START.plus(7 * DAY_S));
        assert_eq!((expected.readings, expected.intervals), (112 * 673, 112 * 672));
        assert_eq!(expected.energy["UR6-001"], Energy::from_wh(366_900));
        let total = expected.total_loss();
        assert_eq!(total.supply.wh(), 12_488_180);
        // Each register is floored, so the sum lacks up to a watt-hour for each of 111 meters.
        let delivered = 12_464_890_u64;
        assert!(delivered - total.delivered.wh() < 111, "{total:?}");
        let count = |code| expected.alarms.iter().filter(|alarm| alarm.code == code).count();
        assert!(count(AlarmCode::LowBalance) > count(AlarmCode::VeryLowBalance));
        assert!(count(AlarmCode::VeryLowBalance) > count(AlarmCode::Overdrawn));
        assert!(count(AlarmCode::Overdrawn) >= 10);
    }

    #[test]
    fn other_weeks_have_the_same_energy() {
        let now = UnixSeconds(1_795_344_000); // 2026-11-22T10:40Z, a Sunday
        let start = latest_week(now);
        assert_eq!(start, UnixSeconds(1_794_182_400));
        let (then, recent) = (Feeder::new(Seed(1), START), Feeder::new(Seed(1), start));
        assert_eq!(then.expected(then.end()).energy, recent.expected(recent.end()).energy);
    }
}
