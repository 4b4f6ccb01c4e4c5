//! Readings that a device has taken and not sent yet: stamps only, since a virtual meter can tell
//! what it measured at any instant. Runs of stamps are one range, so that 60 days take 12 bytes.

/// Stamps that wait to be sent, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backlog {
    /// Ascending and apart; both ends included.
    ranges: Vec<Range>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    first: u32,
    last: u32,
    period: u32,
}

impl Backlog {
    /// Adds a stamp later than all here.
    pub(crate) fn push(&mut self, stamp: u32, period: u32) {
        match self.ranges.last_mut() {
            Some(range) if range.period == period && range.last + period == stamp => {
                range.last = stamp;
            }
            _ => self.ranges.push(Range { first: stamp, last: stamp, period }),
        }
    }

    /// Takes the oldest stamp.
    pub(crate) fn pop(&mut self) -> Option<u32> {
        let range = self.ranges.first_mut()?;
        let stamp = range.first;
        if range.first == range.last {
            self.ranges.remove(0);
            if self.ranges.is_empty() {
                self.ranges = Vec::new(); // Give the memory back: most meters wait for nothing.
            }
        } else {
            range.first += range.period;
        }
        Some(stamp)
    }

    /// Adds all of `other`, which may be older; the order is kept.
    pub(crate) fn merge(&mut self, other: Self) {
        self.ranges.extend(other.ranges);
        self.ranges.sort_by_key(|range| range.first);
    }

    /// Drops what is older than `stamp`; how many.
    pub(crate) fn drop_before(&mut self, stamp: u32) -> u32 {
        let mut dropped = 0;
        while self.ranges.first().is_some_and(|range| range.first < stamp) {
            self.pop();
            dropped += 1;
        }
        dropped
    }

    pub(crate) fn count(&self) -> u32 {
        self.ranges.iter().map(|range| (range.last - range.first) / range.period + 1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_come_out_oldest_first_and_once() {
        let mut backlog = Backlog::default();
        [900, 1800, 2700, 5400].into_iter().for_each(|stamp| backlog.push(stamp, 900));
        let mut held = Backlog::default();
        [3600, 4500].into_iter().for_each(|stamp| held.push(stamp, 900));
        assert_eq!((backlog.count(), backlog.ranges.len()), (4, 2));
        backlog.merge(held);
        assert_eq!(backlog.drop_before(1800), 1);
        let stamps: Vec<u32> = std::iter::from_fn(|| backlog.pop()).collect();
        assert_eq!(stamps, [1800, 2700, 3600, 4500, 5400]);
        assert_eq!(backlog.count(), 0);
    }
}
