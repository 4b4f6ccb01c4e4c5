//! The identifiers a meter remembers, so that a token works once.

use crate::tid::Tid;

/// Why a meter does not take an identifier.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum TidRefusal {
    /// Older than everything remembered.
    Old,
    /// Remembered.
    Used,
}

/// The latest identifiers, ascending. It is always full: a new store holds the starting
/// identifier in every place, and a new identifier pushes out the oldest. Hence nothing is ever
/// taken twice: what was pushed out is below, or equal to, the oldest that is left.
#[derive(Clone, Debug)]
pub(crate) struct TidStore(Vec<Tid>);

impl TidStore {
    /// A store of `size` identifiers (at least one) for which everything up to `start` is past.
    pub(crate) fn new(size: usize, start: Tid) -> Self {
        Self(vec![start; size.max(1)])
    }

    /// Whether `tid` may be taken.
    //= IEC 62055-41 §7.3.7: below the smallest identifier kept is old, one that is kept is used.
    pub(crate) fn check(&self, tid: Tid) -> Result<(), TidRefusal> {
        match self.0.binary_search(&tid) {
            Ok(_) => Err(TidRefusal::Used),
            Err(0) => Err(TidRefusal::Old),
            Err(_) => Ok(()),
        }
    }

    /// Remembers `tid`, which [`TidStore::check`] has passed.
    pub(crate) fn put(&mut self, tid: Tid) {
        let above = self.0.partition_point(|kept| *kept < tid);
        // Drop the oldest, shift those below `tid` down, and take the place this leaves.
        if let Some(below) = self.0.get_mut(..above) {
            below.rotate_left(1.min(above));
            if let Some(place) = below.last_mut() {
                *place = tid;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn tid(minutes: u32) -> Tid {
        Tid::new(minutes).unwrap()
    }

    //= IEC 62055-41 §7.3.7: below the smallest identifier kept is old, one that is kept is used.
    #[test]
    fn old_and_used() {
        let mut store = TidStore::new(3, tid(100));
        assert_eq!(store.check(tid(99)), Err(TidRefusal::Old));
        assert_eq!(store.check(tid(100)), Err(TidRefusal::Used));
        for minutes in [110, 105, 120] {
            assert_eq!(store.check(tid(minutes)), Ok(()), "{minutes}");
            store.put(tid(minutes));
        }
        assert_eq!(store.0, [105, 110, 120].map(tid));
        assert_eq!(store.check(tid(104)), Err(TidRefusal::Old));
        assert_eq!(store.check(tid(105)), Err(TidRefusal::Used));
        assert_eq!(store.check(tid(106)), Ok(()), "out of order, within the store");
    }

    proptest! {
        /// Nothing is taken twice, and what is above the oldest and new is always taken.
        #[test]
        fn each_is_taken_once(size in 1_usize..8, entered in prop::collection::vec(0_u32..40, 0..200)) {
            let mut store = TidStore::new(size, tid(3));
            let mut taken = BTreeSet::new();
            for minutes in entered {
                let oldest = store.0[0];
                match store.check(tid(minutes)) {
                    Ok(()) => {
                        store.put(tid(minutes));
                        prop_assert!(taken.insert(minutes), "{} was taken twice", minutes);
                    }
                    Err(TidRefusal::Old) => prop_assert!(tid(minutes) < oldest),
                    Err(TidRefusal::Used) => {
                        prop_assert!(taken.contains(&minutes) || minutes == 3);
                    }
                }
                prop_assert_eq!(store.0.len(), size);
                prop_assert!(store.0.is_sorted());
            }
        }
    }
}
