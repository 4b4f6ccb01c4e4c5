//! Gaps: neighbouring accepted stamps with expected readings absent between them, and what they
//! say of completeness. The gaps of a meter are a function of its accepted stamps alone.

use meter::{GapRow, GapState, MeterId, Seq, UnixSeconds};

use crate::snapshot::layout;

/// Absent readings between two neighbouring accepted stamps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gap {
    pub(crate) from: UnixSeconds,
    pub(crate) to: UnixSeconds,
}

layout!(Gap { from, to });

/// The open gaps of a meter, ascending.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Gaps {
    open: Vec<Gap>,
}

layout!(Gaps { open });

/// Gaps a meter may have open at once; a late reading that would make one more is turned away.
pub(crate) const GAPS_MAX: usize = 4096;

/// How many readings are absent between two stamps so far apart, of a meter with this period.
pub(crate) fn absent(apart_s: u32, period_s: u32) -> u32 {
    (apart_s / period_s.max(1)).saturating_sub(1)
}

impl Gaps {
    pub(crate) const fn is_full(&self) -> bool {
        self.open.len() >= GAPS_MAX
    }

    /// The start of the oldest open gap.
    pub(crate) fn oldest(&self) -> Option<UnixSeconds> {
        self.open.first().map(|gap| gap.from)
    }

    /// Whether a gap begins at this stamp.
    pub(crate) fn starts_at(&self, from: UnixSeconds) -> bool {
        self.open.binary_search_by_key(&from, |gap| gap.from).is_ok()
    }

    /// The gap that holds `at` strictly inside.
    pub(crate) fn around(&self, at: UnixSeconds) -> Option<Gap> {
        let before = self.open.partition_point(|gap| gap.from < at).checked_sub(1)?;
        self.open.get(before).copied().filter(|gap| at < gap.to)
    }

    /// Two stamps became neighbours: opens a gap when readings are absent between them.
    pub(crate) fn open(
        &mut self,
        row: RowOf,
        from: UnixSeconds,
        to: UnixSeconds,
        rows: &mut Vec<GapRow>,
    ) {
        if absent(to.since(from), row.period_s) == 0 {
            return;
        }
        let at = self.open.partition_point(|gap| gap.from < from);
        self.open.insert(at, Gap { from, to });
        rows.push(row.of(from, to, GapState::Open));
    }

    /// A reading came in at `at` between the neighbours `from` and `to`.
    pub(crate) fn split(
        &mut self,
        row: RowOf,
        (from, at, to): (UnixSeconds, UnixSeconds, UnixSeconds),
        rows: &mut Vec<GapRow>,
    ) {
        let known = self.open.binary_search_by_key(&from, |gap| gap.from);
        let first = rows.len();
        if let Ok(index) = known {
            self.open.remove(index);
        }
        self.open(row, from, at, rows);
        if known.is_ok() && rows.len() == first {
            rows.push(row.of(from, to, GapState::Closed));
        }
        self.open(row, at, to, rows);
    }

    /// Forgets gaps that no reading may fill any more: their estimates are final.
    pub(crate) fn forget_before(&mut self, horizon: UnixSeconds) {
        let past = self.open.partition_point(|gap| gap.to <= horizon);
        self.open.drain(..past);
    }
}

/// What the rows of a meter's gaps have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowOf {
    pub(crate) meter: MeterId,
    pub(crate) period_s: u32,
    pub(crate) rev: Seq,
}

impl RowOf {
    pub(crate) fn of(self, from: UnixSeconds, to: UnixSeconds, state: GapState) -> GapRow {
        let missing = match state {
            GapState::Open => absent(to.since(from), self.period_s),
            GapState::Closed => 0,
        };
        GapRow { meter: self.meter, from, to, missing, state, rev: self.rev }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: RowOf = RowOf { meter: MeterId(1), period_s: 900, rev: Seq(1) };

    #[test]
    fn a_gap_is_split_and_closed() {
        let (mut gaps, mut rows) = (Gaps::default(), Vec::new());
        let at = |n: u32| UnixSeconds(n * 900);
        gaps.open(ROW, at(0), at(1), &mut rows);
        assert!(gaps.oldest().is_none() && rows.is_empty());
        gaps.open(ROW, at(1), at(5), &mut rows);
        gaps.split(ROW, (at(1), at(3), at(5)), &mut rows);
        gaps.split(ROW, (at(1), at(2), at(3)), &mut rows);
        assert_eq!(gaps.oldest(), Some(at(3)));
        assert_eq!(gaps.around(at(4)), Some(Gap { from: at(3), to: at(5) }));
        assert_eq!(gaps.around(at(3)), None);
        gaps.split(ROW, (at(3), at(4), at(5)), &mut rows);
        assert_eq!(gaps.oldest(), None);
        let told: Vec<_> = rows.iter().map(|r| (r.from.0 / 900, r.to.0 / 900, r.missing)).collect();
        assert_eq!(told, [(1, 5, 3), (1, 3, 1), (3, 5, 1), (1, 3, 0), (3, 5, 0)]);
    }
}
