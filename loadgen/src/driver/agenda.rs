//! Who is to be polled next, by either clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use meter::UnixSeconds;

use crate::device::{Now, Wake};
use crate::mix;

/// The clocks as an agenda reads them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instant {
    pub(super) now: Now,
    /// The time of day in milliseconds.
    pub(super) clock_ms: u64,
}

/// A device whose time has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Due {
    pub(super) index: u32,
    /// When it was due by the time of day, in milliseconds; `None` when the steady clock woke it.
    pub(super) at_ms: Option<u64>,
}

/// The wakes of all devices of a driver, by index. A device has one wake by each clock; setting
/// another replaces it, and what is left of the old one in the heap is skipped.
#[derive(Debug)]
pub(super) struct Agenda {
    armed: Vec<Wake>,
    /// By the millisecond: many devices share one.
    by_clock: BTreeMap<u64, Vec<u32>>,
    /// Devices due in one second are spread over so many of its milliseconds.
    smear_ms: u16,
    by_wall: BinaryHeap<Reverse<(Duration, u32)>>,
}

impl Agenda {
    /// An agenda of `count` devices, all due at once.
    pub(super) fn new(count: u32, smear_ms: u16) -> Self {
        let at_once = Wake { clock: None, wall: Some(Duration::ZERO) };
        Self {
            armed: (0..count).map(|_| at_once).collect(),
            by_clock: BTreeMap::new(),
            smear_ms,
            by_wall: (0..count).map(|index| Reverse((Duration::ZERO, index))).collect(),
        }
    }

    /// Sets both wakes of a device.
    pub(super) fn set(&mut self, index: u32, wake: Wake) {
        let armed = std::mem::replace(&mut self.armed[slot(index)], wake);
        if let Some(clock) = wake.clock.filter(|_| armed.clock != wake.clock) {
            self.by_clock.entry(self.due_ms(clock, index)).or_default().push(index);
        }
        if let Some(wall) = wake.wall.filter(|_| armed.wall != wake.wall) {
            self.by_wall.push(Reverse((wall, index)));
        }
    }

    /// Makes a device due now.
    pub(super) fn hasten(&mut self, index: u32, now: Now) {
        let wake = Wake { wall: Some(now.wall), ..self.armed[slot(index)] };
        self.set(index, wake);
    }

    /// Takes a device that is due; it has no wake until the next [`Agenda::set`].
    pub(super) fn pop_due(&mut self, at: Instant) -> Option<Due> {
        while let Some(&Reverse((wall, index))) = self.by_wall.peek() {
            if wall > at.now.wall {
                break;
            }
            self.by_wall.pop();
            if self.armed[slot(index)].wall == Some(wall) {
                self.armed[slot(index)].wall = None;
                return Some(Due { index, at_ms: None });
            }
        }
        while let Some(mut first) = self.by_clock.first_entry()
            && *first.key() <= at.clock_ms
        {
            let clock_ms = *first.key();
            let index = first.get_mut().pop().expect("no millisecond is kept without a device");
            if first.get().is_empty() {
                first.remove();
            }
            let armed = self.armed[slot(index)].clock;
            if armed.is_some_and(|clock| self.due_ms(clock, index) == clock_ms) {
                self.armed[slot(index)].clock = None;
                return Some(Due { index, at_ms: Some(clock_ms) });
            }
        }
        None
    }

    /// Whether the time of day makes a device due.
    pub(super) fn is_due(&self, at: Instant) -> bool {
        self.by_clock.first_key_value().is_some_and(|(clock_ms, _)| *clock_ms <= at.clock_ms)
    }

    fn due_ms(&self, clock: UnixSeconds, index: u32) -> u64 {
        due_ms(clock, index, self.smear_ms)
    }

    /// When the steady clock next makes a device due.
    pub(super) fn next_wall(&self) -> Option<Duration> {
        self.by_wall.peek().map(|&Reverse((wall, _))| wall)
    }
}

/// The millisecond in which the device at this place among those of its driver does what is due in
/// a second.
#[must_use]
pub fn due_ms(clock: UnixSeconds, place: u32, smear_ms: u16) -> u64 {
    u64::from(clock.0) * 1000 + mix(u64::from(place)) % u64::from(smear_ms.max(1))
}

fn slot(index: u32) -> usize {
    usize::try_from(index).expect("an index of a device fits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(clock: u32, wall_ms: u64) -> Instant {
        let now = Now { clock: UnixSeconds(clock), wall: Duration::from_millis(wall_ms) };
        Instant { now, clock_ms: u64::from(clock) * 1000 }
    }

    fn due(agenda: &mut Agenda, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| agenda.pop_due(now)).map(|due| due.index).collect()
    }

    #[test]
    fn devices_of_one_second_are_spread_over_it() {
        let mut agenda = Agenda::new(100, 1000);
        assert_eq!(due(&mut agenda, now(0, 0)).len(), 100);
        let wake = Wake { clock: Some(UnixSeconds(7)), wall: None };
        (0..100).for_each(|index| agenda.set(index, wake));
        let half = Instant { clock_ms: 7500, ..now(7, 0) };
        let first = due(&mut agenda, half).len();
        assert!((30..70).contains(&first), "{first}");
        assert_eq!(due(&mut agenda, now(8, 0)).len(), 100 - first);
    }

    #[test]
    fn a_new_wake_replaces_the_old_one() {
        let wake = |clock: u32, wall_ms: u64| Wake {
            clock: Some(UnixSeconds(clock)),
            wall: Some(Duration::from_millis(wall_ms)),
        };
        let mut agenda = Agenda::new(2, 0);
        assert_eq!(due(&mut agenda, now(0, 0)), [0, 1]);
        agenda.set(0, wake(100, 50));
        agenda.set(1, wake(200, 60));
        agenda.set(0, wake(300, 70));
        assert_eq!(due(&mut agenda, now(199, 59)), [] as [u32; 0]);
        assert_eq!(due(&mut agenda, now(199, 65)), [1]);
        assert_eq!(due(&mut agenda, now(250, 65)), [1]);
        agenda.hasten(0, now(250, 66).now);
        assert_eq!(due(&mut agenda, now(300, 70)), [0, 0], "once by each clock");
        assert_eq!(due(&mut agenda, now(9999, 9999)), [] as [u32; 0]);
    }
}
