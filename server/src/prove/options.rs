//! What a seed stands for: the size of the story and the faults in it. Each can be given by hand,
//! which is how a failure is made smaller.

use std::collections::BTreeSet;
use std::fmt;

use loadgen::mix;

/// A stream of numbers from a seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64, purpose: u64) -> Self {
        Self(mix(seed ^ mix(purpose)))
    }

    /// A number below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0) % bound.max(1)
    }

    /// Whether something of so many in a thousand happens.
    pub(super) fn happens(&mut self, milli: u32) -> bool {
        self.below(1000) < u64::from(milli)
    }

    pub(super) fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for index in (1..items.len()).rev() {
            items.swap(index, self.below(index as u64 + 1) as usize);
        }
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Fault {
    /// Frames and acknowledgements are lost.
    Loss,
    /// Frames arrive twice.
    Twice,
    /// Frames arrive late, up to days.
    Delay,
    /// Registers that cannot be true, conflicts, foreign and future stamps.
    Nonsense,
    /// The node's clock jumps.
    Clock,
    /// The process ends at any moment.
    Kill,
    /// The power fails: unsynced writes are lost, torn, reordered.
    Power,
    /// A write or sync fails.
    Disk,
    /// The log's disk is full for a while.
    Full,
    /// ClickHouse is away, or takes rows and its answer is lost.
    Outage,
}

impl Fault {
    pub(super) const ALL: [Self; 10] = [
        Self::Loss,
        Self::Twice,
        Self::Delay,
        Self::Nonsense,
        Self::Clock,
        Self::Kill,
        Self::Power,
        Self::Disk,
        Self::Full,
        Self::Outage,
    ];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// What a seed stands for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Options {
    pub(super) seed: u64,
    pub(super) meters: u32,
    pub(super) days: u32,
    pub(super) workers: usize,
    pub(super) faults: BTreeSet<Fault>,
}

impl Options {
    /// What follows from a seed.
    pub(super) fn derive(seed: u64) -> Self {
        let mut dice = Dice::new(seed, 1);
        let meters = 1 + dice.below(12) as u32;
        let longest = if dice.happens(200) { 40 } else { 9 };
        let days = 2 + dice.below(longest) as u32;
        let workers = 1 + dice.below(2) as usize;
        // Most of the faults in most of the stories; now and then a quiet one.
        let share = *dice.pick(&[150, 500, 800]);
        let faults = Fault::ALL.into_iter().filter(|_| dice.happens(share)).collect();
        Self { seed, meters, days, workers, faults }
    }

    pub(super) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// The same story made smaller, the smallest first to be tried last.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        if self.days > 1 {
            smaller.push(Self { days: self.days.div_ceil(2), ..self.clone() });
            smaller.push(Self { days: self.days - 1, ..self.clone() });
        }
        if self.meters > 1 {
            smaller.push(Self { meters: self.meters.div_ceil(2), ..self.clone() });
            smaller.push(Self { meters: self.meters - 1, ..self.clone() });
        }
        if self.workers > 1 {
            smaller.push(Self { workers: 1, ..self.clone() });
        }
        for fault in &self.faults {
            let mut fewer = self.clone();
            fewer.faults.remove(fault);
            smaller.push(fewer);
        }
        smaller
    }
}

/// As the command line takes it.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, meters, days, workers, faults } = self;
        let faults: Vec<String> = faults.iter().map(|fault| fault.name()).collect();
        let faults = if faults.is_empty() { "none".to_owned() } else { faults.join(",") };
        write!(
            f,
            "--seed {seed} --meters {meters} --days {days} --workers {workers} --faults {faults}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_one_story_and_stories_differ() {
        assert_eq!(Options::derive(7), Options::derive(7));
        let all: BTreeSet<String> = (0..50).map(|seed| Options::derive(seed).to_string()).collect();
        assert_eq!(all.len(), 50);
        for fault in Fault::ALL {
            assert!((0..50).any(|seed| Options::derive(seed).has(fault)), "{fault:?}");
            assert!((0..50).any(|seed| !Options::derive(seed).has(fault)), "{fault:?}");
        }
    }
}
