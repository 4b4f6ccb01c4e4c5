//! Fleets of any size: meters on transformers, some behind gateways, each made from its ordinal
//! alone, so that several processes share one fleet and a meter costs what it must remember.
//!
//! **Invariant:** a meter, its incidents, its row of the import and its truth follow from the
//! seed, the [`Spec`] and its ordinal.

mod expected;
mod import;
mod run;
mod spec;
mod swap;

use std::ops::Range;

use meter::{Energy, Money, UnixSeconds};

use crate::Seed;
use crate::plan::{MeterClock, MeterPlan, World};
use crate::profile::{CONSUMERS, Load};
use crate::seed::Purpose;
use crate::virtual_gateway::VirtualGateway;
use crate::virtual_meter::VirtualMeter;

pub use expected::{MeterTruth, Truth, UnitTruth, tariff_versions};
pub use import::{account_code, plan_code, serial, supply_serial, unit_code};
pub use run::{FleetRun, Ways};
pub use spec::{DEFAULTS, Group, Incidents, Link, Plan, Spec, SpecError};
pub use swap::Swap;

/// Meters of a block: those of one gateway, all of one group.
pub const BLOCK: u32 = 32;
/// Ordinals of transformers' total meters begin here.
const SUPPLY: u32 = 0xF000_0000;
/// What a thief's meter shows, thousandths.
const THEFT_SHOWN: u16 = 600;
/// An hour's worth of a full register, so that a rollover comes during any run.
const ROLLOVER_WH: u64 = 200;

/// When the readings of a run are sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shape {
    /// Evenly over each period.
    Even,
    /// All at the stamp.
    Aligned,
}

/// The time of a run by the meters' day.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Span {
    /// First stamp, on a quarter hour.
    pub first: UnixSeconds,
    /// Seconds in which readings are sent.
    pub seconds: u32,
    /// Gateways also send readings of so many days before `first`.
    pub backfill_days: u16,
}

/// A fleet in its time.
#[derive(Clone, Debug)]
pub struct Fleet {
    seed: Seed,
    spec: Spec,
    span: Span,
    shape: Shape,
    /// Transformers of this part of the fleet.
    units: Range<u32>,
}

impl Fleet {
    /// Part `part` (from 0) of `parts` of a fleet; parts are cut between transformers.
    #[must_use]
    pub fn new(seed: Seed, spec: Spec, span: Span, shape: Shape, part: (u32, u32)) -> Self {
        let all = spec.meters.div_ceil(spec.meters_per_transformer);
        let (part, parts) = (part.0, part.1.max(1));
        let cut = |part: u32| {
            let cut = u64::from(all) * u64::from(part) / u64::from(parts);
            u32::try_from(cut).expect("at most all")
        };
        Self { seed, spec, span, shape, units: cut(part)..cut(part + 1) }
    }

    /// What it is made of.
    #[must_use]
    pub const fn spec(&self) -> &Spec {
        &self.spec
    }

    /// When it sends.
    #[must_use]
    pub const fn span(&self) -> Span {
        self.span
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> Seed {
        self.seed
    }

    /// Numbers of its transformers, from 0.
    #[must_use]
    pub fn units(&self) -> Range<u32> {
        self.units.clone()
    }

    /// Ordinals of a transformer's consumers.
    #[must_use]
    pub fn consumers(&self, unit: u32) -> Range<u32> {
        let size = self.spec.meters_per_transformer;
        let first = unit * size + 1;
        first..(first + size).min(self.spec.meters + 1)
    }

    /// Numbers of the gateways, which begin at 1.
    pub fn gateways(&self) -> impl Iterator<Item = u32> {
        let blocks = self.units().flat_map(|unit| self.consumers(unit).step_by(BLOCK as usize));
        let behind = blocks.filter(|first| self.group(*first).link == Link::Gateway);
        behind.map(|first| self.gateway_of(first))
    }

    /// The meters that speak for themselves, the transformers' among them, and last those that take
    /// another's place.
    pub fn direct_meters(&self, world: &World) -> impl Iterator<Item = VirtualMeter> {
        let own = self.units().flat_map(move |unit| {
            let own = self.consumers(unit).filter(|&m| self.group(m).link == Link::Direct);
            let own = own.map(move |ordinal| self.consumer(world, ordinal));
            own.chain(std::iter::once(self.supply(world, unit)))
        });
        own.chain(self.ordinals().filter_map(|ordinal| self.successor(world, ordinal)))
    }

    /// Ordinals of all consumers of this part.
    pub fn ordinals(&self) -> impl Iterator<Item = u32> {
        self.units().flat_map(|unit| self.consumers(unit))
    }

    /// A gateway with its meters.
    #[must_use]
    pub fn gateway(&self, world: &World, number: u32) -> VirtualGateway {
        let first = (number - 1) * BLOCK + 1;
        let last = (first + BLOCK).min(self.spec.meters + 1);
        let meters: Vec<VirtualMeter> =
            (first..last).map(|ordinal| self.consumer(world, ordinal)).collect();
        let all = meters.len();
        VirtualGateway::new(world, number, meters, all)
    }

    /// The number of the gateway that a meter would sit behind.
    #[must_use]
    pub const fn gateway_of(&self, ordinal: u32) -> u32 {
        (ordinal - 1) / BLOCK + 1
    }

    /// The group of a meter. Blocks go round the shares evenly, however few there are.
    #[must_use]
    pub fn group(&self, ordinal: u32) -> &Group {
        let total: u64 = self.spec.group.iter().map(|group| u64::from(group.share)).sum();
        // Multiples of the golden ratio are spread evenly.
        let turn = ((ordinal - 1) / BLOCK).wrapping_mul(0x9E37_79B9);
        let mut at = (u64::from(turn) * total) >> 32;
        for group in &self.spec.group {
            match at.checked_sub(u64::from(group.share)) {
                Some(rest) => at = rest,
                None => return group,
            }
        }
        &self.spec.group[0]
    }

    /// A consumer's meter as it behaves in this run.
    #[must_use]
    pub fn consumer(&self, world: &World, ordinal: u32) -> VirtualMeter {
        let plan = self.plan(ordinal);
        if let Some(at) = self.swapped_at(ordinal) {
            let last = at.minus(plan.period_s);
            return self.mains(VirtualMeter::new(world, MeterPlan { last, ..plan }), ordinal);
        }
        let mut meter = self.mains(VirtualMeter::new(world, plan), ordinal);
        if let Some(stamp) = self.spike_of(ordinal, &plan) {
            meter.spike(stamp);
        }
        meter
    }

    /// A consumer's meter with the outage of its transformer.
    fn mains(&self, mut meter: VirtualMeter, ordinal: u32) -> VirtualMeter {
        if let Some((from, to)) = self.outage(self.unit_of(ordinal)) {
            meter.black_out(from, to);
        }
        meter
    }

    /// The total meter of a transformer: what its consumers take, stolen or not, and the loss.
    #[must_use]
    pub fn supply(&self, world: &World, unit: u32) -> VirtualMeter {
        let period_s = self.spec.group.iter().map(|group| group.period_s).min().unwrap_or(900);
        let plan = MeterPlan {
            ordinal: SUPPLY + unit,
            phases: 3,
            send_delay_s: self.delay(SUPPLY + unit, period_s),
            start: Energy::from_wh(0),
            ..self.plan_of_group(SUPPLY + unit, period_s, 0)
        };
        let mut meter = VirtualMeter::new(world, plan);
        let loads = self.consumers(unit).map(|ordinal| self.load(ordinal)).collect();
        meter.meter_sum(loads, self.spec.loss_per_mille);
        if let Some((from, to)) = self.outage(unit) {
            meter.black_out(from, to);
        }
        meter
    }

    /// What a consumer buys during the run, and when.
    #[must_use]
    pub fn purchase(&self, ordinal: u32) -> Option<(UnixSeconds, Money)> {
        let group = self.group(ordinal);
        let draw = self.draw(Purpose::Purchase, ordinal);
        let within = u32::try_from((draw >> 20) % u64::from(self.span.seconds.max(1))).ok()?;
        (draw % 1000 < u64::from(group.purchases))
            .then(|| (self.span.first.plus(within), group.paid()))
    }

    /// The first stamp of all.
    #[must_use]
    pub const fn earliest(&self) -> UnixSeconds {
        self.span.first.minus(self.span.backfill_days as u32 * 86_400)
    }

    /// The last second at which a reading may be due.
    #[must_use]
    pub const fn end(&self) -> UnixSeconds {
        self.span.first.plus(self.span.seconds)
    }

    fn unit_of(&self, ordinal: u32) -> u32 {
        (ordinal - 1) / self.spec.meters_per_transformer
    }

    fn plan(&self, ordinal: u32) -> MeterPlan {
        let group = self.group(ordinal);
        // A gateway's meters are read together.
        let (link, days) = match group.link {
            Link::Direct => (ordinal, 0),
            Link::Gateway => (self.gateway_of(ordinal) ^ 1 << 31, self.span.backfill_days),
        };
        let mut load = self.load(ordinal);
        if self.strikes(Purpose::Theft, ordinal, self.spec.incidents.theft) {
            let shown = u32::from(load.scale_milli) * u32::from(THEFT_SHOWN) / 1000;
            load.scale_milli = u16::try_from(shown.max(1)).expect("less than before");
        }
        let plan = self.plan_of_group(ordinal, group.period_s, days);
        let draw = self.draw(Purpose::Clock, ordinal);
        let drift = i64::try_from((draw >> 32) % (2 * u64::from(group.clock_drift_ppm_max) + 1));
        let drift = drift.expect("small") - i64::from(group.clock_drift_ppm_max);
        let ahead = draw % (u64::from(group.clock_ahead_s_max) + 1);
        let modulus = 1000 * 10_u64.pow(u32::from(plan.register_digits));
        let start = match self.strikes(Purpose::Rollover, ordinal, self.spec.incidents.rollovers) {
            true => modulus - 1 - self.draw(Purpose::Register, ordinal) % ROLLOVER_WH,
            false => self.draw(Purpose::Register, ordinal) % 50_000_000,
        };
        MeterPlan {
            load,
            phases: group.phases,
            send_delay_s: self.delay(link, group.period_s),
            start: Energy::from_wh(start),
            clock: MeterClock {
                ahead_s: i16::try_from(ahead).expect("at most 240"),
                drift_ppm: i16::try_from(drift).expect("at most 1000"),
            },
            ..plan
        }
    }

    /// Stamps of a meter with this period: as many as are sent within the span.
    fn plan_of_group(&self, ordinal: u32, period_s: u32, backfill_days: u16) -> MeterPlan {
        let live = match self.shape {
            Shape::Even => (self.span.seconds / period_s).saturating_sub(1),
            Shape::Aligned => self.span.seconds.saturating_sub(1) / period_s,
        };
        MeterPlan {
            ordinal,
            load: Load { site: 0, days_ahead: 0, scale_milli: 1000 },
            phases: 1,
            first: self.span.first.minus(u32::from(backfill_days) * 86_400),
            last: self.span.first.plus(live * period_s),
            period_s,
            send_delay_s: 0,
            start: Energy::from_wh(0),
            register_digits: 6,
            clock: MeterClock::default(),
        }
    }

    fn load(&self, ordinal: u32) -> Load {
        let group = self.group(ordinal);
        let load = self.draw(Purpose::Load, ordinal);
        let [site, days, high, low, ..] = load.to_le_bytes();
        let span = group.load_most - group.load_least + 1;
        Load {
            site: site % CONSUMERS,
            days_ahead: days % 7,
            scale_milli: group.load_least + u16::from_le_bytes([high, low]) % span,
        }
    }

    fn delay(&self, link: u32, period_s: u32) -> u16 {
        match self.shape {
            Shape::Aligned => 0,
            Shape::Even => {
                let delay = self.draw(Purpose::Delay, link) % u64::from(period_s);
                u16::try_from(delay).expect("a period is an hour at most")
            }
        }
    }

    /// When a transformer is without mains: quarter hours in the second third of the run.
    fn outage(&self, unit: u32) -> Option<(UnixSeconds, UnixSeconds)> {
        let Incidents { outages, outage_minutes, .. } = self.spec.incidents;
        let from = self.span.first.plus(self.span.seconds / 3);
        self.strikes(Purpose::Outage, unit, outages).then(|| (from, from.plus(outage_minutes * 60)))
    }

    /// The stamp of the impossible register: neither the first nor the last.
    fn spike_of(&self, ordinal: u32, plan: &MeterPlan) -> Option<UnixSeconds> {
        let readings = u32::try_from(plan.readings()).ok().filter(|readings| *readings > 2)?;
        let number =
            1 + u32::try_from(self.draw(Purpose::Spike, ordinal) >> 40).ok()? % (readings - 2);
        let stamp = plan.first.plus(number * plan.period_s);
        let outage = self.outage(self.unit_of(ordinal));
        let is_read = outage.is_none_or(|(from, to)| !(from..to).contains(&stamp));
        (is_read && self.strikes(Purpose::Spike, ordinal, self.spec.incidents.spikes))
            .then_some(stamp)
    }

    fn strikes(&self, purpose: Purpose, index: u32, per_mille: u16) -> bool {
        self.draw(purpose, index) % 1000 < u64::from(per_mille)
    }

    fn draw(&self, purpose: Purpose, index: u32) -> u64 {
        self.seed.draw(purpose, u64::from(index))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::{Now, Retry};

    const START: UnixSeconds = UnixSeconds(1_479_686_400);

    fn fleet(seed: u64, text: &str, part: (u32, u32)) -> Fleet {
        let span = Span { first: START, seconds: 7200, backfill_days: 0 };
        Fleet::new(Seed(seed), Spec::parse(text).unwrap(), span, Shape::Even, part)
    }

    fn world(seed: u64) -> World {
        let retry = Retry { first: Duration::from_secs(10), max: Duration::from_secs(10) };
        World { seed: Seed(seed), retry, window: 200, pace: 1 }
    }

    const MIXED: &str = "meters = 640\n[incidents]\nspikes = 100\nrollovers = 100\ntheft = 100\n\
                         outages = 300\n[[group]]\nperiod_s = 60\n[[group]]\nlink = \"gateway\"\n";

    fn frames(seed: u64, part: (u32, u32)) -> Vec<Vec<u8>> {
        let (fleet, world) = (fleet(seed, MIXED, part), world(seed));
        let now = Now { clock: fleet.end().plus(60), wall: Duration::ZERO };
        let mut frames = Vec::new();
        for mut meter in fleet.direct_meters(&world) {
            meter.poll(&world, now, &mut |sent| frames.push(sent.frame.to_vec()));
        }
        for number in fleet.gateways() {
            let mut gateway = fleet.gateway(&world, number);
            gateway.link_up(now);
            gateway.poll(&world, now, &mut |sent| frames.push(sent.frame.to_vec()));
        }
        frames.sort_unstable();
        frames
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes_in_one_part_or_in_three() {
        let whole = frames(3, (0, 1));
        assert!(whole.len() > 10_000, "{}", whole.len());
        let mut parts: Vec<Vec<u8>> = (0..3).flat_map(|part| frames(3, (part, 3))).collect();
        parts.sort_unstable();
        assert_eq!(whole, parts);
        assert!(frames(4, (0, 1)).iter().all(|frame| whole.binary_search(frame).is_err()));
    }

    #[test]
    fn groups_share_a_small_fleet_evenly() {
        let text = "meters = 3200\n[[group]]\nshare = 3\n[[group]]\nlink = \"gateway\"\n";
        let fleet = fleet(1, text, (0, 1));
        let behind = fleet.gateways().count();
        assert!((24..=26).contains(&behind), "{behind} of 100 blocks");
        assert_eq!(fleet.units(), 0..50);
        assert_eq!(fleet.consumers(49), 3137..3201);
    }
}
