//! Faults between devices and node, in thousandths, by seed: frames are lost, doubled, delayed,
//! overtaken; and hostile ones are slipped in beside honest ones.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use crate::Seed;
use crate::mix;
use crate::seed::Purpose;

/// How often what goes wrong, in thousandths of the frames that pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultPlan {
    /// A frame does not arrive.
    pub loss: u16,
    /// A frame arrives twice.
    pub duplication: u16,
    /// A frame is overtaken by those of the next [`FaultPlan::reorder_span`].
    pub reordering: u16,
    /// A frame is late by up to [`FaultPlan::delay_span`].
    pub delay: u16,
    /// Beside it comes the frame with a spoilt tag, as sealed with a wrong key.
    pub wrong_key: u16,
    /// Beside it comes an older frame again.
    pub replay: u16,
    /// Beside it come random bytes.
    pub garbage: u16,
    /// How long an overtaken frame waits.
    pub reorder_span: Duration,
    /// How long a late frame waits at most.
    pub delay_span: Duration,
}

/// What was done, counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct FaultCounts {
    /// Frames that passed, whatever became of them.
    pub passed: u64,
    /// Lost.
    pub lost: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Overtaken.
    pub reordered: u64,
    /// Late.
    pub delayed: u64,
    /// Spoilt copies.
    pub wrong_key: u64,
    /// Replayed.
    pub replayed: u64,
    /// Random.
    pub garbage: u64,
}

impl FaultCounts {
    /// The sums.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            lost: self.lost + other.lost,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
            delayed: self.delayed + other.delayed,
            wrong_key: self.wrong_key + other.wrong_key,
            replayed: self.replayed + other.replayed,
            garbage: self.garbage + other.garbage,
        }
    }
}

/// One direction of faults. `Route` says where a frame goes.
#[derive(Debug)]
pub struct Faults<Route> {
    plan: FaultPlan,
    seed: Seed,
    rolls: u64,
    counts: FaultCounts,
    /// Frames that wait, by when they are due.
    waiting: BTreeMap<(Duration, u64), (Route, Vec<u8>)>,
    /// Some older frames, to be replayed.
    older: VecDeque<(Route, Vec<u8>)>,
}

const OLDER_MAX: usize = 64;
const GARBAGE_MAX: u64 = 200;

impl<Route: Copy> Faults<Route> {
    /// Faults by a plan. Two directions take different `direction`s.
    #[must_use]
    pub fn new(plan: FaultPlan, seed: Seed, direction: u64) -> Self {
        Self {
            plan,
            seed: Seed(seed.draw(Purpose::Faults, direction)),
            rolls: 0,
            counts: FaultCounts::default(),
            waiting: BTreeMap::new(),
            older: VecDeque::new(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub const fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// Lets a frame through: gives it, its copies and its company to `deliver`, now or later.
    pub fn pass(
        &mut self,
        route: Route,
        frame: &[u8],
        wall: Duration,
        deliver: &mut dyn FnMut(Route, &[u8]),
    ) {
        self.counts.passed += 1;
        self.company(route, frame, deliver);
        if self.strikes(self.plan.loss) {
            self.counts.lost += 1;
        } else if self.strikes(self.plan.reordering) {
            self.counts.reordered += 1;
            self.wait(route, frame, wall + self.plan.reorder_span);
        } else if self.strikes(self.plan.delay) {
            self.counts.delayed += 1;
            let share = u32::try_from(self.roll() % 1024).expect("below 1024") + 1;
            self.wait(route, frame, wall + self.plan.delay_span / 1024 * share);
        } else {
            deliver(route, frame);
        }
        if self.strikes(self.plan.duplication) {
            self.counts.duplicated += 1;
            deliver(route, frame);
        }
    }

    /// Gives the frames whose wait is over.
    pub fn release(&mut self, wall: Duration, deliver: &mut dyn FnMut(Route, &[u8])) {
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > wall {
                break;
            }
            let (route, frame) = first.remove();
            deliver(route, &frame);
        }
    }

    /// When the next waiting frame is due.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Duration> {
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// What comes beside the honest frame.
    fn company(&mut self, route: Route, frame: &[u8], deliver: &mut dyn FnMut(Route, &[u8])) {
        if self.strikes(self.plan.wrong_key) {
            self.counts.wrong_key += 1;
            let mut spoilt = frame.to_vec();
            spoilt.iter_mut().rev().take(12).for_each(|byte| *byte ^= 0x5A);
            deliver(route, &spoilt);
        }
        if self.strikes(self.plan.garbage) {
            self.counts.garbage += 1;
            let size = self.roll() % GARBAGE_MAX + 1;
            let bytes: Vec<u8> = (0..size).map(|_| self.roll().to_le_bytes()[0]).collect();
            deliver(route, &bytes);
        }
        if self.plan.replay == 0 {
            return;
        }
        if self.strikes(self.plan.replay)
            && let Some((route, old)) = self.older.front()
        {
            self.counts.replayed += 1;
            deliver(*route, old);
        }
        if self.older.len() == OLDER_MAX {
            self.older.pop_front();
        }
        self.older.push_back((route, frame.to_vec()));
    }

    fn wait(&mut self, route: Route, frame: &[u8], until: Duration) {
        self.waiting.insert((until, self.rolls), (route, frame.to_vec()));
    }

    fn strikes(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.roll() % 1000 < u64::from(per_mille)
    }

    fn roll(&mut self) -> u64 {
        self.rolls += 1;
        mix(self.seed.0.wrapping_add(self.rolls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(plan: FaultPlan, frames: u32) -> (Vec<Vec<u8>>, FaultCounts) {
        let mut faults = Faults::new(plan, Seed(5), 0);
        let mut arrived = Vec::new();
        for number in 0..frames {
            let wall = Duration::from_millis(u64::from(number));
            let mut deliver = |(), frame: &[u8]| arrived.push(frame.to_vec());
            faults.release(wall, &mut deliver);
            faults.pass((), &number.to_be_bytes().repeat(4), wall, &mut deliver);
        }
        faults.release(Duration::MAX, &mut |(), frame| arrived.push(frame.to_vec()));
        (arrived, faults.counts())
    }

    #[test]
    fn every_frame_is_accounted_for() {
        let plan = FaultPlan {
            loss: 50,
            duplication: 100,
            reordering: 100,
            delay: 100,
            wrong_key: 20,
            replay: 20,
            garbage: 20,
            reorder_span: Duration::from_millis(3),
            delay_span: Duration::from_millis(50),
        };
        let (arrived, counts) = run(plan, 10_000);
        let added =
            counts.duplicated + counts.wrong_key + counts.replayed + counts.garbage - counts.lost;
        assert_eq!(arrived.len() as u64, 10_000 + added);
        for (count, per_mille) in [
            (counts.lost, 50),
            (counts.duplicated, 100),
            (counts.wrong_key, 20),
            (counts.replayed, 20),
            (counts.garbage, 20),
        ] {
            let want = 10 * per_mille;
            assert!(count.abs_diff(want) < want / 3, "{count} of {want}");
        }
        assert_eq!(run(plan, 10_000).0, arrived, "the same seed, the same faults");
    }

    #[test]
    fn no_fault_passes_everything_in_order() {
        let (arrived, counts) = run(FaultPlan::default(), 100);
        assert!(arrived.iter().is_sorted() && arrived.len() == 100);
        assert_eq!(counts, FaultCounts { passed: 100, ..FaultCounts::default() });
    }
}
