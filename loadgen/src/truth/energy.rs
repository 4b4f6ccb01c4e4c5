//! Energy of intervals from the registers of readings.

use std::collections::BTreeMap;

use meter::{Energy, INTERVAL_S, IntervalQuality, UnixSeconds};

/// The energy between two instants within one interval.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Start of the interval it lies in.
    pub interval: UnixSeconds,
    /// Where the piece ends, at most the interval's end.
    pub to: UnixSeconds,
    /// Energy of the piece.
    pub energy: Energy,
}

/// What one whole interval must show.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IntervalTruth {
    /// R(end) − R(start).
    pub energy: Energy,
    /// R(end).
    pub register: Energy,
    /// Actual when readings stand at both ends.
    pub quality: IntervalQuality,
}

/// Cuts the energy between two neighbouring readings at the quarter hours, by
/// `R(t) = R(a) + ⌊Δ·(t−a)/(b−a)⌋`.
///
/// # Panics
/// When the second is not later than the first, or lower.
#[must_use]
pub fn pieces(a: (UnixSeconds, Energy), b: (UnixSeconds, Energy)) -> Vec<Piece> {
    let delta = u128::from(b.1.since(a.1).expect("registers do not fall").wh());
    let span = u128::from(b.0.0 - a.0.0);
    let register = |at: UnixSeconds| {
        let part = delta * u128::from(at.0 - a.0.0) / span;
        a.1.wh() + u64::try_from(part).expect("a part of a difference fits")
    };
    let mut pieces = Vec::new();
    let mut from = a.0;
    while from < b.0 {
        let interval = from.interval_start();
        let to = interval.plus(INTERVAL_S).min(b.0);
        let energy = Energy::from_wh(register(to) - register(from));
        pieces.push(Piece { interval, to, energy });
        from = to;
    }
    pieces
}

/// The whole intervals between the first and the last of `readings` (stamp and register; an
/// installation's start register is one of them).
///
/// # Panics
/// When registers fall.
#[must_use]
pub fn intervals(readings: &BTreeMap<UnixSeconds, Energy>) -> BTreeMap<UnixSeconds, IntervalTruth> {
    let mut sums: BTreeMap<UnixSeconds, (u64, UnixSeconds)> = BTreeMap::new();
    for (a, b) in readings.iter().zip(readings.iter().skip(1)) {
        for piece in pieces((*a.0, *a.1), (*b.0, *b.1)) {
            let sum = sums.entry(piece.interval).or_insert((0, piece.to));
            *sum = (sum.0 + piece.energy.wh(), piece.to);
        }
    }
    let Some((_, first)) = readings.first_key_value() else { return BTreeMap::new() };
    let mut register = first.wh();
    let mut whole = BTreeMap::new();
    for (start, (energy, to)) in sums {
        register += energy;
        let end = start.plus(INTERVAL_S);
        if to < end {
            continue; // The open interval at the end.
        }
        let bounded = readings.contains_key(&start) && readings.contains_key(&end);
        let quality = if bounded { IntervalQuality::Actual } else { IntervalQuality::Estimated };
        let (energy, register) = (Energy::from_wh(energy), Energy::from_wh(register));
        whole.insert(start, IntervalTruth { energy, register, quality });
    }
    whole
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever the stamps: whole intervals and the open one hold all energy, each once.
        #[test]
        fn nothing_is_lost_between_intervals(
            steps in proptest::collection::vec((1_u32..5000, 0_u64..10_000), 1..40),
        ) {
            let (mut at, mut register) = (UnixSeconds(900_000), 77);
            let mut readings = BTreeMap::from([(at, Energy::from_wh(register))]);
            for (seconds, wh) in steps {
                (at, register) = (at.plus(seconds), register + wh);
                readings.insert(at, Energy::from_wh(register));
            }
            let whole = intervals(&readings);
            let open_from = at.interval_start();
            for (start, interval) in &whole {
                prop_assert!(*start < open_from);
                let before = whole.range(..start).next_back().map_or(77, |(_, i)| i.register.wh());
                prop_assert_eq!(interval.register.wh() - before, interval.energy.wh());
                if let Some(exact) = readings.get(&start.plus(INTERVAL_S)) {
                    prop_assert_eq!(*exact, interval.register);
                }
            }
            prop_assert_eq!(whole.len(), usize::try_from((open_from.0 - 900_000) / 900).unwrap());
        }
    }

    #[test]
    fn interpolation_floors_the_register_not_the_piece() {
        let at = |second: u32| UnixSeconds(9000 + second);
        let cut = pieces((at(0), Energy::from_wh(0)), (at(2700), Energy::from_wh(10)));
        let energies: Vec<u64> = cut.iter().map(|piece| piece.energy.wh()).collect();
        assert_eq!(energies, [3, 3, 4]);
    }

    #[test]
    fn only_two_readings_at_the_ends_make_an_actual_interval() {
        let readings = |seconds: &[u32]| -> BTreeMap<_, _> {
            seconds
                .iter()
                .map(|&second| (UnixSeconds(second), Energy::from_wh(u64::from(second))))
                .collect()
        };
        let check = |seconds: &[u32], want: &[(u32, IntervalQuality)]| {
            let got: Vec<_> = intervals(&readings(seconds))
                .into_iter()
                .map(|(start, interval)| {
                    assert_eq!(interval.energy.wh(), 900, "seconds={seconds:?}");
                    (start.0, interval.quality)
                })
                .collect();
            assert_eq!(got, want, "seconds={seconds:?}");
        };
        use IntervalQuality::{Actual, Estimated};
        check(&[900, 1800], &[(900, Actual)]);
        check(&[900, 1000, 1800, 2000], &[(900, Actual)]);
        check(&[900, 2700], &[(900, Estimated), (1800, Estimated)]);
        check(&[900, 1700, 1900, 2700], &[(900, Estimated), (1800, Estimated)]);
        check(&[], &[]);
    }
}
