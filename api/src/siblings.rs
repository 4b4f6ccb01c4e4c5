//! Why a gateway is silent, as its neighbours tell it: other meters of the same transformers have
//! mains from the same place, and other links to the node.

use std::collections::BTreeSet;

use meter::{AlarmCode, GatewayId, MeterId, Subject, UnixSeconds};
use storage::registry::{MeterFilter, RegistryError};

use crate::App;

/// Meters of a transformer that are asked at most.
const NEIGHBOURS_MAX: u32 = 200;

/// What is likely the matter with a silent gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cause {
    /// Neighbours have been heard since: the mains is there, the gateway's link is broken.
    Link,
    /// Neighbours said their last, or none of them has been heard since: the mains is gone.
    Mains,
    /// It has no neighbours to tell.
    Unknown,
}

impl Cause {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Mains => "mains",
            Self::Unknown => "unknown",
        }
    }
}

impl App {
    /// Why a gateway has been silent since `since`.
    pub(crate) async fn cause_of_silence(
        &self,
        gateway: GatewayId,
        since: UnixSeconds,
    ) -> Result<Cause, RegistryError> {
        let registry = &self.node.registry;
        let behind = MeterFilter { gateway, ..MeterFilter::default() };
        let own = registry.meters(&behind, MeterId::NONE, NEIGHBOURS_MAX).await?;
        let transformers: BTreeSet<_> = own.iter().map(|meter| meter.record.transformer).collect();
        let mut neighbours = Vec::new();
        for transformer in transformers.into_iter().filter(|transformer| transformer.is_some()) {
            let fed = MeterFilter { transformer, ..MeterFilter::default() };
            let meters = registry.meters(&fed, MeterId::NONE, NEIGHBOURS_MAX).await?;
            let others = meters.into_iter().filter(|meter| meter.record.gateway != gateway);
            neighbours.extend(others.map(|meter| meter.record));
        }
        let is_heard = |meter: MeterId| {
            let latest = self.node.meters.read(meter.0);
            latest.is_some_and(|latest| latest.taken_at >= since)
        };
        let has_lost_mains = |subject| {
            let key = (subject, AlarmCode::PowerDown);
            self.node.alarms.get(key).is_some()
        };
        let is_dark = neighbours.iter().any(|neighbour| {
            has_lost_mains(Subject::Meter(neighbour.meter))
                || neighbour.gateway.is_some()
                    && has_lost_mains(Subject::Gateway(neighbour.gateway))
        });
        Ok(if neighbours.is_empty() {
            Cause::Unknown
        } else if neighbours.iter().any(|neighbour| is_heard(neighbour.meter)) {
            Cause::Link
        } else if is_dark || self.is_over(since) {
            Cause::Mains
        } else {
            Cause::Unknown
        })
    }

    /// Whether neighbours would have been heard since, were they there: half an hour has passed.
    fn is_over(&self, since: UnixSeconds) -> bool {
        self.now() >= since.plus(1800)
    }
}
