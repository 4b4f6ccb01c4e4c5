//! Rings: the newest samples of every meter of a worker, apart from the rest of its state.
//!
//! A place of all rings is one array, by meter: readings that come meter by meter are written one
//! behind the other. What every sample says takes half a cache line; phases 2 and 3 stand beside,
//! and are neither written nor read for a sample without them.

use meter::{Current, Energy, Fields, Power, PowerFactor, UnixSeconds, Voltage};

use crate::ahead::fetch;
use crate::sample::{Sample, has_other_phases};

/// Recent samples of a meter that are always held.
pub(crate) const RING: usize = 4;

/// A sample but for phases 2 and 3.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
struct Lead {
    register: Energy,
    at: UnixSeconds,
    voltage: Voltage,
    current: Current,
    power: Power,
    power_factor: PowerFactor,
    fields: Fields,
    flags: u8,
}

// The hot path writes one for each reading: keep two within a cache line.
const _: () = assert!(size_of::<Lead>() == 32);

/// What a sample says of phases 2 and 3.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    voltage: [Voltage; 2],
    current: [Current; 2],
}

/// One place of all rings, by the meter's slot.
#[derive(Debug, Default)]
struct Place {
    leads: Vec<Lead>,
    others: Vec<Others>,
}

/// The rings of all meters.
#[derive(Debug, Default)]
pub(crate) struct Rings {
    places: [Place; RING],
}

impl Rings {
    /// The ring of the next meter.
    pub(crate) fn add(&mut self, samples: [Sample; RING]) {
        let slot = self.places[0].leads.len();
        for (place, sample) in self.places.iter_mut().zip(samples) {
            place.leads.push(Lead::default());
            place.others.push(Others::default());
            place.put(slot, &sample);
        }
    }

    #[inline]
    pub(crate) const fn of(&mut self, slot: u32) -> Ring<'_> {
        Ring { rings: self, slot: slot as usize }
    }

    /// All places of a ring.
    pub(crate) fn samples(&self, slot: usize) -> [Sample; RING] {
        self.places.each_ref().map(|place| place.at(slot))
    }

    /// Asks the memory for a place.
    #[inline]
    pub(crate) fn fetch(&self, place: usize, slot: u32) {
        self.places[place % RING].leads.get(slot as usize).into_iter().for_each(fetch);
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
    pub(crate) fn at(&self, place: usize) -> Sample {
        self.rings.places[place % RING].at(self.slot)
    }

    #[inline]
    pub(crate) fn put(&mut self, place: usize, sample: &Sample) {
        self.rings.places[place % RING].put(self.slot, sample);
    }
}

impl Place {
    fn at(&self, slot: usize) -> Sample {
        let Lead { register, at, voltage, current, power, power_factor, fields, flags } =
            self.leads[slot];
        let others = if has_other_phases(fields) { self.others[slot] } else { Others::default() };
        let ([v2, v3], [a2, a3]) = (others.voltage, others.current);
        let (voltage, current) = ([voltage, v2, v3], [current, a2, a3]);
        Sample { register, at, voltage, current, power, power_factor, fields, flags }
    }

    #[inline]
    fn put(&mut self, slot: usize, sample: &Sample) {
        let Sample { register, at, power, power_factor, fields, flags, .. } = *sample;
        let ([voltage, v2, v3], [current, a2, a3]) = (sample.voltage, sample.current);
        self.leads[slot] =
            Lead { register, at, voltage, current, power, power_factor, fields, flags };
        if has_other_phases(fields) {
            self.others[slot] = Others { voltage: [v2, v3], current: [a2, a3] };
        }
    }
}
