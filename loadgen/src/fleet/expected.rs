//! The truth of a fleet, a transformer at a time: what the books must say of its meters, accounts
//! and lines at the end of a run. Computed when asked for and kept as sums only.

use std::collections::{BTreeMap, BTreeSet};

use meter::{Energy, IntervalQuality, TariffVersion, UnixSeconds};

use super::{Fleet, Group, Plan};
use crate::feeder::{ZONE, tariff};
use crate::plan::World;
use crate::truth::{AccountTruth, Credit, IntervalTruth, Tariff, intervals, losses};
use crate::virtual_meter::VirtualMeter;

/// Versions of a plan for runs whose first reading is at `start`.
#[must_use]
pub fn tariff_versions(plan: Plan, start: UnixSeconds) -> Vec<TariffVersion> {
    match plan {
        Plan::TimeOfUse => tariff::versions(start),
        Plan::Flat => tariff::flat(start),
    }
}

/// What the books must say of one meter.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MeterTruth {
    /// Its number in the fleet.
    pub ordinal: u32,
    /// Readings that must be accepted.
    pub accepted: u64,
    /// Readings that must be put aside.
    pub quarantined: u64,
    /// Whole intervals.
    pub intervals: u64,
    /// Their energy, Wh.
    pub energy_wh: u64,
    /// The balance of its account, ticks; 0 for a supply meter.
    pub balance_ticks: i64,
}

/// What the books must say of one transformer. Intervals count where all its meters have readings
/// at both ends.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct UnitTruth {
    /// Its consumers.
    pub consumers: Vec<MeterTruth>,
    /// Meters that took the place of one of those, without a balance of their own.
    pub successors: Vec<MeterTruth>,
    /// Its total meter.
    pub supply: MeterTruth,
    /// Such intervals.
    pub complete: u64,
    /// Energy of the total meter in them, Wh.
    pub supply_wh: u64,
    /// Energy of the consumers' meters in them, Wh.
    pub delivered_wh: u64,
}

/// Computes the truth of a fleet.
#[derive(Debug)]
pub struct Truth<'f> {
    fleet: &'f Fleet,
    world: World,
    /// The node's ticks reached this.
    through: UnixSeconds,
    time_of_use: Tariff,
    flat: Tariff,
}

impl<'f> Truth<'f> {
    /// The truth when the node's ticks have reached `through` and every reading is in.
    ///
    /// # Panics
    /// Never: zone and plans are compiled in.
    #[must_use]
    pub fn new(fleet: &'f Fleet, world: World, through: UnixSeconds) -> Self {
        let tariff = |plan| {
            let versions = tariff_versions(plan, fleet.earliest());
            Tariff::new(ZONE, BTreeSet::new(), &versions).expect("the zone is compiled in")
        };
        let (time_of_use, flat) = (tariff(Plan::TimeOfUse), tariff(Plan::Flat));
        Self { fleet, world, through, time_of_use, flat }
    }

    /// The truth of transformer `unit`.
    #[must_use]
    pub fn unit(&self, unit: u32) -> UnitTruth {
        let (mut consumers, mut successors, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for ordinal in self.fleet.consumers(unit) {
            let meter = self.fleet.consumer(&self.world, ordinal);
            let successor = self.fleet.successor(&self.world, ordinal);
            let end = successor.as_ref().map(|new| new.plan().first);
            let (truth, mut intervals) = self.meter(&meter, end);
            if let Some(new) = &successor {
                let (truth, of_new) = self.meter(new, None);
                successors.push(truth);
                intervals.extend(of_new);
            }
            let balance_ticks = self.balance(ordinal, &meter, successor.as_ref());
            consumers.push(MeterTruth { balance_ticks, ..truth });
            rows.push(actual(intervals));
        }
        let (supply, intervals) = self.meter(&self.fleet.supply(&self.world, unit), None);
        let losses = losses(&actual(intervals), &rows);
        let first = self.fleet.span().first;
        let whole = || losses.iter().filter(|(start, _)| **start >= first).map(|(_, loss)| loss);
        UnitTruth {
            consumers,
            successors,
            supply,
            complete: u64::try_from(whole().count()).expect("a count fits"),
            supply_wh: whole().map(|loss| loss.supply.wh()).sum(),
            delivered_wh: whole().map(|loss| loss.delivered.wh()).sum(),
        }
    }

    /// What follows from a meter that goes at `end`, when it is read once more.
    fn meter(
        &self,
        meter: &VirtualMeter,
        end: Option<UnixSeconds>,
    ) -> (MeterTruth, BTreeMap<UnixSeconds, IntervalTruth>) {
        let mut readings = readings(meter);
        let taken = u64::try_from(meter.stamps().count()).expect("a count fits");
        let accepted = u64::try_from(readings.len()).expect("a count fits");
        readings.extend(end.map(|end| (end, meter.total(end))));
        let intervals = intervals(&readings);
        let truth = MeterTruth {
            ordinal: meter.plan().ordinal,
            accepted,
            quarantined: taken - accepted,
            intervals: u64::try_from(intervals.len()).expect("a count fits"),
            energy_wh: intervals.values().map(|interval| interval.energy.wh()).sum(),
            balance_ticks: 0,
        };
        (truth, intervals)
    }

    fn balance(&self, ordinal: u32, meter: &VirtualMeter, successor: Option<&VirtualMeter>) -> i64 {
        let group: &Group = self.fleet.group(ordinal);
        let tariff = match group.tariff {
            Plan::TimeOfUse => &self.time_of_use,
            Plan::Flat => &self.flat,
        };
        let opening = Credit { at: meter.plan().first, paid: group.opening(), taxed: false };
        let purchase = self.fleet.purchase(ordinal);
        let purchase = purchase.map(|(at, paid)| Credit { at, paid, taxed: true });
        let mut registers = readings(meter);
        if let Some(new) = successor {
            // One register that goes on where the other ended.
            let (end, start) = (meter.total(new.plan().first).wh(), new.plan().start.wh());
            let went_on =
                |(at, register): (_, Energy)| (at, Energy::from_wh(end + register.wh() - start));
            registers.insert(new.plan().first, Energy::from_wh(end));
            registers.extend(readings(new).into_iter().map(went_on));
        }
        let account = AccountTruth {
            active_from: meter.plan().first,
            readings: registers,
            credits: std::iter::once(opening).chain(purchase).collect(),
        };
        account.balance(tariff, self.through).ticks()
    }
}

/// Stamp and register of every reading that can be believed.
fn readings(meter: &VirtualMeter) -> BTreeMap<UnixSeconds, Energy> {
    let believed = meter.stamps().filter(|stamp| !meter.is_spike(*stamp));
    believed.map(|stamp| (stamp, meter.total(stamp))).collect()
}

/// The intervals with readings at both ends.
fn actual(intervals: BTreeMap<UnixSeconds, IntervalTruth>) -> BTreeMap<UnixSeconds, IntervalTruth> {
    let is_actual = |row: &IntervalTruth| row.quality == IntervalQuality::Actual;
    intervals.into_iter().filter(|(_, row)| is_actual(row)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Seed;
    use crate::device::Retry;
    use crate::fleet::{Shape, Span, Spec};

    const START: UnixSeconds = UnixSeconds(1_479_686_400);

    fn truth_of(text: &str) -> UnitTruth {
        let span = Span { first: START, seconds: 7200, backfill_days: 0 };
        let spec = Spec::parse(text).unwrap();
        let fleet = Fleet::new(Seed(5), spec, span, Shape::Even, (0, 1));
        let retry = Retry { first: Duration::from_secs(1), max: Duration::from_secs(1) };
        let world = World { seed: Seed(5), retry, window: 4, pace: 1 };
        Truth::new(&fleet, world, fleet.end()).unit(0)
    }

    #[test]
    fn lines_lose_what_the_fleet_says_and_thieves_take() {
        let honest = truth_of("meters = 64\nloss_per_mille = 50\n");
        assert_eq!(honest.complete, 7);
        assert_eq!(honest.consumers.iter().map(|meter| meter.accepted).sum::<u64>(), 64 * 8);
        let lost = honest.supply_wh - honest.delivered_wh;
        // Registers are floored, which adds up to a watt-hour a meter.
        assert!(lost.abs_diff(honest.delivered_wh / 20) < 66, "{honest:?}");
        let stolen = truth_of("meters = 64\nloss_per_mille = 50\n[incidents]\ntheft = 500\n");
        assert_eq!(stolen.supply_wh, honest.supply_wh);
        assert!(stolen.delivered_wh < honest.delivered_wh * 9 / 10);
    }

    #[test]
    fn incidents_are_in_the_truth() {
        let text = "meters = 64\n[incidents]\nspikes = 1000\nrollovers = 1000\noutages = 1000\n";
        let unit = truth_of(text);
        assert_eq!(unit.supply.accepted, 6, "two stamps without mains");
        for meter in &unit.consumers {
            assert!(meter.accepted + meter.quarantined == 6 && meter.intervals == 7, "{meter:?}");
        }
        assert!(unit.consumers.iter().map(|meter| meter.quarantined).sum::<u64>() > 32);
    }

    #[test]
    fn a_meter_that_gives_way_leaves_its_energy_and_the_balance_as_they_would_be() {
        let plain = truth_of("meters = 64\n");
        let swapped = truth_of("meters = 64\n[incidents]\nswaps = 1000\n");
        assert_eq!(swapped.successors.len(), 64, "a run of two hours has room for one each");
        let wh = |meters: &[MeterTruth]| meters.iter().map(|meter| meter.energy_wh).sum::<u64>();
        let both = wh(&swapped.consumers) + wh(&swapped.successors);
        // Each register is floored.
        assert!(wh(&plain.consumers).abs_diff(both) <= 64, "{both}");
        assert_eq!((swapped.complete, swapped.supply_wh), (plain.complete, plain.supply_wh));
        assert_eq!(swapped.delivered_wh, both, "what both meters delivered");
        for (plain, swapped) in plain.consumers.iter().zip(&swapped.consumers) {
            let more = (swapped.balance_ticks - plain.balance_ticks).abs();
            assert!(more < 100_000, "a watt-hour at most: {more}");
        }
    }
}
