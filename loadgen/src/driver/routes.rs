//! Whose frame a confirmation belongs to. A confirmation names the head-end, not the meter; but it
//! carries the counter of the frame it confirms, in the clear.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Frames not confirmed yet: counter and device. Two devices may use one counter.
#[derive(Debug, Default)]
pub(super) struct Routes {
    open: BTreeSet<(u32, u32)>,
    /// In the order sent, with the time after which nobody waits for a confirmation any more.
    by_age: VecDeque<(Duration, (u32, u32))>,
}

/// Longer than the longest wait before a repetition, which has a route of its own; short, since at
/// 100,000 frames a second this is a million entries.
const AGE_MAX: Duration = Duration::from_secs(10);

impl Routes {
    /// Notes a frame that was sent.
    pub(super) fn sent(&mut self, counter: u32, device: u32, wall: Duration) {
        while let Some((_, oldest)) = self.by_age.pop_front_if(|(until, _)| *until <= wall) {
            self.open.remove(&oldest);
        }
        self.open.insert((counter, device));
        self.by_age.push_back((wall + AGE_MAX, (counter, device)));
    }

    /// Devices that sent a frame with this counter.
    pub(super) fn candidates(&self, counter: u32) -> impl Iterator<Item = u32> {
        self.open.range((counter, 0)..=(counter, u32::MAX)).map(|(_, device)| *device)
    }

    /// Forgets a frame that was confirmed.
    pub(super) fn confirmed(&mut self, counter: u32, device: u32) {
        self.open.remove(&(counter, device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_may_collide_and_grow_old() {
        let mut routes = Routes::default();
        let of = |routes: &Routes, counter| routes.candidates(counter).collect::<Vec<_>>();
        routes.sent(7, 1, Duration::ZERO);
        routes.sent(7, 3, Duration::ZERO);
        routes.sent(8, 2, Duration::ZERO);
        assert_eq!(of(&routes, 7), [1, 3]);
        routes.confirmed(7, 1);
        assert_eq!(of(&routes, 7), [3]);
        routes.sent(9, 1, AGE_MAX);
        assert_eq!((of(&routes, 7), of(&routes, 8), of(&routes, 9)), (vec![], vec![], vec![1]));
    }
}
