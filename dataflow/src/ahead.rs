//! Looking ahead: the memory is asked early for what the entries further on in a batch will need,
//! so that the rules need not wait for it. Nothing here changes anything.

use meter::{Entry, INTERVAL_S};

use crate::books::Books;
use crate::ring::RING;

/// How many entries ahead it is asked where a meter stands.
const PLACE: usize = 32;

/// How many entries ahead a meter is asked for.
const METER: usize = 20;

/// How many entries ahead that is which the meter names: its account, a place of its ring, and for
/// a reading that is not simply the next one all of them, and its rest.
const NAMED: usize = 8;

impl Books {
    /// Looks ahead of the entry at `place` among those that `entry` gives.
    #[inline]
    pub(crate) fn look_ahead<'a>(&self, place: usize, entry: impl Fn(usize) -> Option<&'a Entry>) {
        if let Some(Entry::Reading(reading)) = entry(place + PLACE) {
            self.by_meter.get(reading.meter.0 as usize).into_iter().for_each(fetch);
        }
        if let Some(Entry::Reading(reading)) = entry(place + METER) {
            let slot = self.newest_slot(reading.meter);
            self.meters.get(slot as usize).into_iter().for_each(fetch);
        }
        let Some(Entry::Reading(reading)) = entry(place + NAMED) else { return };
        let slot = self.newest_slot(reading.meter);
        let Some(meter) = self.meters.get(slot as usize) else { return };
        self.rings.fetch(meter.next_place(), slot);
        self.accounts.get(meter.account_slot as usize).into_iter().for_each(fetch);
        if reading.taken_at.since(meter.newest) != INTERVAL_S {
            (0..RING).for_each(|place| self.rings.fetch(place, slot));
            fetch(&meter.rest.id);
            fetch(&meter.rest.cold);
        }
    }
}

/// Asks the memory for the line in which a value begins.
#[inline]
pub(crate) fn fetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    safe_arch::prefetch_t0(value);
    #[cfg(not(target_arch = "x86_64"))]
    {
        // What the processor itself reads ahead must do.
        _ = value;
    }
}
