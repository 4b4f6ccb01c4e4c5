//! Parking: late readings whose neighbours are no longer held wait here for the store's answer.

use meter::{INTERVAL_S, Reading, Seq, UnixSeconds};

use crate::sample::boundary_at_or_after;
use crate::snapshot::layout;

/// Readings of one meter that may wait.
const PARKED_MAX: usize = 512;

/// The longest stretch one question covers, beyond the reading it is about: a day.
const STRETCH_S: u32 = 86_400;

/// A reading that waits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parked {
    pub(crate) seq: Seq,
    pub(crate) reading: Reading,
    /// The window whose accepted readings decide it.
    pub(crate) window: Window,
    /// Answers that did not decide it.
    pub(crate) tries: u8,
}

layout!(Parked { seq, reading, window, tries });

/// A stretch of time, both ends in it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Window {
    pub(crate) from: UnixSeconds,
    pub(crate) to: UnixSeconds,
}

layout!(Window { from, to });

impl Parked {
    /// Answers after which a reading waits no longer.
    pub(crate) const TRIES_MAX: u8 = 4;
}

impl Window {
    /// All intervals that the neighbours `from` and `to` of a reading touch.
    pub(crate) fn around(from: UnixSeconds, to: UnixSeconds) -> Self {
        Self { from: from.interval_start(), to: boundary_at_or_after(to) }
    }

    /// No further than an installation goes.
    pub(crate) fn within(self, from: UnixSeconds, to: UnixSeconds) -> Self {
        Self { from: self.from.max(from), to: self.to.min(to.minus(1)) }
    }

    fn join(self, other: Self) -> Self {
        Self { from: self.from.min(other.from), to: self.to.max(other.to) }
    }

    const fn span_s(self) -> u32 {
        self.to.since(self.from)
    }
}

/// The readings of one meter that wait, and the question that is out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Parking {
    parked: Vec<Parked>,
    /// One at most.
    asked: Vec<Window>,
}

layout!(Parking { parked, asked });

impl Parking {
    pub(crate) const fn is_full(&self) -> bool {
        self.parked.len() >= PARKED_MAX
    }

    pub(crate) const fn is_waiting(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(crate) const fn len(&self) -> usize {
        self.parked.len()
    }

    pub(crate) fn park(&mut self, parked: Parked) {
        self.parked.push(parked);
    }

    /// The question to ask next: about the oldest reading, and others near it.
    pub(crate) fn ask(&mut self) -> Option<Window> {
        if self.is_waiting() {
            return None;
        }
        let first =
            self.parked.iter().min_by_key(|parked| (parked.reading.taken_at, parked.seq))?;
        let bound = first.window.span_s().saturating_add(STRETCH_S + INTERVAL_S);
        let mut asked = first.window;
        for parked in &self.parked {
            let joined = asked.join(parked.window);
            if joined.span_s() <= bound {
                asked = joined;
            }
        }
        self.asked.push(asked);
        Some(asked)
    }

    /// The readings that an answer settles, in order of their stamps; none when nobody asked.
    pub(crate) fn answered(&mut self, window: Window) -> Vec<Parked> {
        if self.asked.first() != Some(&window) {
            return Vec::new();
        }
        self.asked.clear();
        let is_in =
            |parked: &Parked| window.from <= parked.window.from && parked.window.to <= window.to;
        let (mut settled, left): (Vec<_>, Vec<_>) = self.parked.drain(..).partition(is_in);
        self.parked = left;
        settled.sort_by_key(|parked| (parked.reading.taken_at, parked.seq));
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(seq: u64, at: u32) -> Parked {
        let window = Window::around(UnixSeconds(at - 900), UnixSeconds(at + 900));
        let reading = Reading { taken_at: UnixSeconds(at), ..Reading::default() };
        Parked { seq: Seq(seq), reading, window, tries: 0 }
    }

    #[test]
    fn one_question_at_a_time_about_readings_near_each_other() {
        let mut parking = Parking::default();
        assert_eq!(parking.ask(), None);
        for (seq, at) in [(1, 900_000), (2, 9000), (3, 18_000)] {
            parking.park(parked(seq, at));
        }
        let asked = parking.ask().unwrap();
        assert_eq!(asked, Window { from: UnixSeconds(8100), to: UnixSeconds(18_900) });
        assert_eq!(parking.ask(), None, "one is out");
        let other = Window { to: UnixSeconds(18_901), ..asked };
        assert!(parking.answered(other).is_empty(), "an answer nobody asked for");
        let seqs: Vec<_> = parking.answered(asked).iter().map(|parked| parked.seq.0).collect();
        assert_eq!(seqs, [2, 3]);
        assert_eq!(parking.ask().unwrap(), parked(1, 900_000).window);
    }
}
