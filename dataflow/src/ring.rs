//! Rings: the newest samples of every meter of a worker, apart from the rest of its state.
//!
//! A place of all rings is one array, by meter: readings that come meter by meter are written one
//! behind the other, and any reading writes a single cache line.

use crate::sample::Sample;

/// Recent samples of a meter that are always held.
pub(crate) const RING: usize = 4;

/// A place of a ring: a cache line.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(align(64))]
struct Place(Sample);

/// The rings of all meters, by the meter's slot.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    places: [Vec<Place>; RING],
}

impl Rings {
    /// The ring of the next meter.
    pub(crate) fn add(&mut self, samples: [Sample; RING]) {
        for (places, sample) in self.places.iter_mut().zip(samples) {
            places.push(Place(sample));
        }
    }

    #[inline]
    pub(crate) const fn of(&mut self, slot: u32) -> Ring<'_> {
        Ring { rings: self, slot: slot as usize }
    }

    /// All places of a ring.
    pub(crate) fn samples(&self, slot: usize) -> [Sample; RING] {
        self.places.each_ref().map(|places| places[slot].0)
    }

    /// Reads a little of a place; see the touch-ahead of the books.
    #[inline]
    pub(crate) fn touch(&self, place: usize, slot: u32) -> u64 {
        let place = self.places[place % RING].get(slot as usize);
        place.map_or(0, |place| u64::from(place.0.flags))
    }
}

/// The ring of one meter.
#[derive(Debug)]
pub(crate) struct Ring<'a> {
    rings: &'a mut Rings,
    slot: usize,
}

impl Ring<'_> {
    #[inline]
    pub(crate) fn at(&self, place: usize) -> &Sample {
        &self.rings.places[place % RING][self.slot].0
    }

    #[inline]
    pub(crate) fn at_mut(&mut self, place: usize) -> &mut Sample {
        &mut self.rings.places[place % RING][self.slot].0
    }
}
