//! Who is to be polled next, by either clock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use meter::UnixSeconds;

use crate::device::{Now, Wake};

/// The wakes of all devices of a driver, by index. A device has one wake by each clock; setting
/// another replaces it, and what is left of the old one in the heap is skipped.
#[derive(Debug)]
pub(super) struct Agenda {
    armed: Vec<Wake>,
    by_clock: BinaryHeap<Reverse<(UnixSeconds, u32)>>,
    by_wall: BinaryHeap<Reverse<(Duration, u32)>>,
}

impl Agenda {
    /// An agenda of `count` devices, all due at once.
    pub(super) fn new(count: u32) -> Self {
        let at_once = Wake { clock: None, wall: Some(Duration::ZERO) };
        Self {
            armed: (0..count).map(|_| at_once).collect(),
            by_clock: BinaryHeap::new(),
            by_wall: (0..count).map(|index| Reverse((Duration::ZERO, index))).collect(),
        }
    }

    /// Sets both wakes of a device.
    pub(super) fn set(&mut self, index: u32, wake: Wake) {
        let armed = std::mem::replace(&mut self.armed[at(index)], wake);
        if let Some(clock) = wake.clock.filter(|_| armed.clock != wake.clock) {
            self.by_clock.push(Reverse((clock, index)));
        }
        if let Some(wall) = wake.wall.filter(|_| armed.wall != wake.wall) {
            self.by_wall.push(Reverse((wall, index)));
        }
    }

    /// Makes a device due now.
    pub(super) fn hasten(&mut self, index: u32, now: Now) {
        let wake = Wake { wall: Some(now.wall), ..self.armed[at(index)] };
        self.set(index, wake);
    }

    /// Takes a device that is due; it has no wake until the next [`Agenda::set`].
    pub(super) fn pop_due(&mut self, now: Now) -> Option<u32> {
        while let Some(&Reverse((wall, index))) = self.by_wall.peek() {
            if wall > now.wall {
                break;
            }
            self.by_wall.pop();
            if self.armed[at(index)].wall == Some(wall) {
                self.armed[at(index)].wall = None;
                return Some(index);
            }
        }
        while let Some(&Reverse((clock, index))) = self.by_clock.peek() {
            if clock > now.clock {
                break;
            }
            self.by_clock.pop();
            if self.armed[at(index)].clock == Some(clock) {
                self.armed[at(index)].clock = None;
                return Some(index);
            }
        }
        None
    }

    /// When the steady clock next makes a device due.
    pub(super) fn next_wall(&self) -> Option<Duration> {
        self.by_wall.peek().map(|&Reverse((wall, _))| wall)
    }
}

fn at(index: u32) -> usize {
    usize::try_from(index).expect("an index of a device fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(clock: u32, wall_ms: u64) -> Now {
        Now { clock: UnixSeconds(clock), wall: Duration::from_millis(wall_ms) }
    }

    fn due(agenda: &mut Agenda, now: Now) -> Vec<u32> {
        std::iter::from_fn(|| agenda.pop_due(now)).collect()
    }

    #[test]
    fn a_new_wake_replaces_the_old_one() {
        let wake = |clock: u32, wall_ms: u64| Wake {
            clock: Some(UnixSeconds(clock)),
            wall: Some(Duration::from_millis(wall_ms)),
        };
        let mut agenda = Agenda::new(2);
        assert_eq!(due(&mut agenda, now(0, 0)), [0, 1]);
        agenda.set(0, wake(100, 50));
        agenda.set(1, wake(200, 60));
        agenda.set(0, wake(300, 70));
        assert_eq!(due(&mut agenda, now(199, 59)), [] as [u32; 0]);
        assert_eq!(due(&mut agenda, now(199, 65)), [1]);
        assert_eq!(due(&mut agenda, now(250, 65)), [1]);
        agenda.hasten(0, now(250, 66));
        assert_eq!(due(&mut agenda, now(300, 70)), [0, 0], "once by each clock");
        assert_eq!(due(&mut agenda, now(9999, 9999)), [] as [u32; 0]);
    }
}
