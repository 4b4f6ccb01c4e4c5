//! Line loss of a transformer.

use std::collections::BTreeMap;

use meter::{Energy, UnixSeconds};

use super::IntervalTruth;

/// What one interval of a transformer must show.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LossTruth {
    /// Energy of the supply meter.
    pub supply: Energy,
    /// Σ energy of the consumer meters.
    pub delivered: Energy,
}

/// Supply against the sum of its consumers, for every interval that all of them have.
#[must_use]
pub fn losses(
    supply: &BTreeMap<UnixSeconds, IntervalTruth>,
    consumers: &[BTreeMap<UnixSeconds, IntervalTruth>],
) -> BTreeMap<UnixSeconds, LossTruth> {
    let of_interval = |(start, supply): (&UnixSeconds, &IntervalTruth)| {
        let delivered = consumers.iter().map(|consumer| consumer.get(start));
        let delivered: Option<u64> = delivered.map(|row| row.map(|row| row.energy.wh())).sum();
        let delivered = Energy::from_wh(delivered?);
        Some((*start, LossTruth { supply: supply.energy, delivered }))
    };
    supply.iter().filter_map(of_interval).collect()
}
