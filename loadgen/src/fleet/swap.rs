//! Meters that give way to another in the middle of a run. The old one ends a period before, and is
//! read by hand when it goes; the new one begins with a reading of its own. The account stays.

use meter::{Energy, UnixSeconds};

use super::{Fleet, Link};
use crate::plan::{MeterPlan, World};
use crate::seed::Purpose;
use crate::virtual_meter::VirtualMeter;

/// Ordinals of meters that take another's place begin here.
const SECOND: u32 = 0x8000_0000;
/// A swap is on a quarter hour, or between two readings that are further apart.
const STEP_S: u32 = 900;
/// Such steps of a run at least.
const STEPS_MIN: u32 = 4;

/// A meter takes another's place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Swap {
    /// Of the meter that goes, and of its account.
    pub old: u32,
    /// The register it goes with.
    pub end: Energy,
    /// Of the meter that comes.
    pub new: u32,
    /// The register it comes with.
    pub start: Energy,
    /// When.
    pub at: UnixSeconds,
    /// When the node is told: two steps before, so that it knows the new meter in time though many are
    /// swapped at once, or it is away for a while.
    pub told_at: UnixSeconds,
}

impl Fleet {
    /// When a consumer's meter gives way to another, if it does.
    pub(super) fn swapped_at(&self, ordinal: u32) -> Option<UnixSeconds> {
        let group = self.group(ordinal);
        let is_struck = self.strikes(Purpose::Swap, ordinal, self.spec.incidents.swaps);
        let step = group.period_s.max(STEP_S);
        let divides = step.is_multiple_of(STEP_S) && step.is_multiple_of(group.period_s);
        if group.link != Link::Direct || !is_struck || !divides {
            return None;
        }
        let plan = self.plan(ordinal);
        let steps = plan.last.since(plan.first) / step;
        let choice = steps.checked_sub(STEPS_MIN)? + 1;
        let draw = self.draw(Purpose::Swap, ordinal) >> 20;
        let number = 2 + u32::try_from(draw % u64::from(choice)).ok()?;
        let at = plan.first.plus(number * step);
        // Who changes meters waits for the mains.
        let outage = self.outage(self.unit_of(ordinal));
        outage.is_none_or(|(from, to)| at.plus(step) <= from || to <= at.minus(step)).then_some(at)
    }

    /// The meter that takes a consumer's place.
    pub(super) fn successor(&self, world: &World, ordinal: u32) -> Option<VirtualMeter> {
        let at = self.swapped_at(ordinal)?;
        let start = self.draw(Purpose::Register, SECOND | ordinal) % 1_000_000;
        let plan = MeterPlan {
            ordinal: SECOND | ordinal,
            first: at,
            start: Energy::from_wh(start),
            ..self.plan(ordinal)
        };
        Some(self.mains(VirtualMeter::new(world, plan), ordinal))
    }

    /// What happens to a consumer's meter, if anything does.
    #[must_use]
    pub fn swap(&self, world: &World, ordinal: u32) -> Option<Swap> {
        let new = self.successor(world, ordinal)?;
        let MeterPlan { first: at, start, period_s, .. } = *new.plan();
        let told_at = at.minus(2 * period_s.max(STEP_S));
        let end = self.consumer(world, ordinal).register(at);
        Some(Swap { old: ordinal, end, new: new.plan().ordinal, start, at, told_at })
    }
}
