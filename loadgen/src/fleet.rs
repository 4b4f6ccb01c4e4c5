//! Fleets of any size: the feeder's consumers over and over, each scaled, shifted and numbered by
//! the seed. A meter is made from its ordinal alone, so that several processes share one fleet.

use std::ops::Range;

use meter::{Energy, UnixSeconds};

use crate::Seed;
use crate::plan::{MeterClock, MeterPlan, World};
use crate::profile::{CONSUMERS, Load};
use crate::seed::Purpose;
use crate::virtual_gateway::VirtualGateway;
use crate::virtual_meter::VirtualMeter;

/// What the meters of a fleet have in common.
#[derive(Clone, Copy, Debug)]
pub struct FleetPlan {
    /// Where everything else comes from.
    pub seed: Seed,
    /// First stamp.
    pub first: UnixSeconds,
    /// Last stamp, inclusive.
    pub last: UnixSeconds,
    /// Seconds between readings.
    pub period_s: u32,
    /// Meters send this long after a stamp at most, evenly spread; 0 = all at once.
    pub spread_s: u16,
    /// A clock gains or loses up to this much, millionths.
    pub drift_ppm_max: u16,
}

impl FleetPlan {
    /// The plan of meter `ordinal`. Loads are 0.3 to 3 times those of the feeder, up to six days
    /// ahead; one meter in eight has three phases.
    #[must_use]
    pub fn meter(&self, ordinal: u32) -> MeterPlan {
        let draw = |purpose, below: u64| self.seed.draw(purpose, u64::from(ordinal)) % below;
        let load = self.seed.draw(Purpose::Load, u64::from(ordinal));
        let [site, days, high, low, ..] = load.to_le_bytes();
        let drift = draw(Purpose::Clock, u64::from(self.drift_ppm_max) * 2 + 1);
        let drift = i64::try_from(drift).expect("small") - i64::from(self.drift_ppm_max);
        MeterPlan {
            ordinal,
            load: Load {
                site: site % CONSUMERS,
                days_ahead: days % 7,
                scale_milli: 300 + u16::from_le_bytes([high, low]) % 2701,
            },
            phases: if ordinal.is_multiple_of(8) { 3 } else { 1 },
            first: self.first,
            last: self.last,
            period_s: self.period_s,
            send_delay_s: u16::try_from(draw(Purpose::Delay, u64::from(self.spread_s) + 1))
                .expect("at most the spread"),
            start: Energy::from_wh(draw(Purpose::Register, 50_000_000)),
            register_digits: 6,
            clock: MeterClock {
                ahead_s: 0,
                drift_ppm: i16::try_from(drift).expect("at most the largest drift"),
            },
        }
    }

    /// The meters with these ordinals, which begin at 1.
    pub fn meters(
        &self,
        world: &World,
        ordinals: Range<u32>,
    ) -> impl Iterator<Item = VirtualMeter> {
        ordinals.map(|ordinal| VirtualMeter::new(world, self.meter(ordinal)))
    }

    /// Gateway `ordinal` with these meters, all of which it reads itself. They send together.
    #[must_use]
    pub fn gateway(&self, world: &World, ordinal: u32, meters: Range<u32>) -> VirtualGateway {
        let delay = self.meter(meters.start).send_delay_s;
        let together = |ordinal| MeterPlan { send_delay_s: delay, ..self.meter(ordinal) };
        let meters: Vec<VirtualMeter> =
            meters.map(|ordinal| VirtualMeter::new(world, together(ordinal))).collect();
        let all = meters.len();
        VirtualGateway::new(world, ordinal, meters, all)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::device::{Now, Retry};

    const START: UnixSeconds = UnixSeconds(1_479_686_400);

    fn frames(seed: u64) -> Vec<Vec<u8>> {
        let plan = FleetPlan {
            seed: Seed(seed),
            first: START,
            last: START.plus(7200),
            period_s: 60,
            spread_s: 30,
            drift_ppm_max: 50,
        };
        let retry = Retry { first: Duration::from_secs(10), max: Duration::from_secs(10) };
        let world = World { seed: plan.seed, retry, window: 200 };
        let mut frames = Vec::new();
        let now = Now { clock: plan.last.plus(60), wall: Duration::ZERO };
        let mut meters: Vec<VirtualMeter> = plan.meters(&world, 1..9).collect();
        for meter in &mut meters {
            meter.poll(&world, now, &mut |sent| frames.push(sent.frame.to_vec()));
        }
        let mut gateway = plan.gateway(&world, 1, 9..41);
        gateway.link_up(now);
        gateway.poll(&world, now, &mut |sent| frames.push(sent.frame.to_vec()));
        frames
    }

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let once = frames(3);
        assert_eq!(once.len(), 8 * 121 + 121);
        assert_eq!(once, frames(3));
        assert!(frames(4).iter().all(|frame| !once.contains(frame)));
    }

    #[test]
    fn registers_never_fall() {
        let plan = FleetPlan {
            seed: Seed(9),
            first: START,
            last: START.plus(86_400),
            period_s: 900,
            spread_s: 0,
            drift_ppm_max: 0,
        };
        let retry = Retry { first: Duration::from_secs(10), max: Duration::from_secs(10) };
        let world = World { seed: plan.seed, retry, window: 1 };
        for meter in plan.meters(&world, 1..200) {
            let mut before = plan.meter(meter.plan().ordinal).start;
            for second in (0..86_400).step_by(617) {
                let register = meter.register(START.plus(second));
                assert!(register >= before, "{:?} at {second}", meter.plan());
                before = register;
            }
        }
    }
}
