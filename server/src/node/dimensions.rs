//! Meters and accounts as tables in ClickHouse, so that analysts can join them. The registry is
//! the truth; a copy of it is sent when it changes. No names of persons leave the registry.

use std::sync::Arc;
use std::time::Duration;

use meter::{AccountId, CustomerId, MeterId, OutboxId, UnixSeconds};
use storage::clickhouse::{AccountRow, Collector, MeterRow, Sink};
use storage::registry::{Account, MeterFilter, Registry, RegistryError};
use tokio::sync::watch;
use tracing::warn;

use crate::clock::Now;

/// Rows read from the registry at once, and rows of a block.
const PAGE: u32 = 10_000;
/// Changes that come together are sent together.
const SETTLE: Duration = Duration::from_secs(2);
/// How often it is looked whether a change of plan has come.
const LOOK: Duration = Duration::from_secs(20);

/// Sends the registry's meters and accounts at start, after changes, and when a change of plan that
/// waited has come, until `stop`.
pub(crate) async fn run(
    registry: Arc<Registry>,
    sink: Sink,
    clock: Now,
    mut stop: watch::Receiver<bool>,
) {
    let mut changed = registry.watch_dimensions();
    while !*stop.borrow() {
        let (rev, now) = (*changed.borrow_and_update(), clock());
        if let Err(error) = send(&registry, &sink, (rev, now), &mut stop).await {
            warn!(%error, "meters and accounts in ClickHouse are behind the registry");
        }
        tokio::select! {
            _ = stop.changed() => return,
            change = changed.changed() => if change.is_err() { return },
            () = plan_changes(&registry, &clock, now) => {}
        }
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

/// Waits until an account has another plan than at `since`.
async fn plan_changes(registry: &Registry, clock: &Now, since: UnixSeconds) {
    while !matches!(registry.next_plan_change(since).await, Ok(Some(at)) if at <= clock()) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Sends all of it once, as version `rev`, as it holds at `now`.
pub(crate) async fn send(
    registry: &Registry,
    sink: &Sink,
    (rev, now): (OutboxId, UnixSeconds),
    stop: &mut watch::Receiver<bool>,
) -> Result<(), RegistryError> {
    let mut collector = Collector::new(PAGE as usize);
    let mut after = MeterId::NONE;
    loop {
        let page = registry.meters(&MeterFilter::default(), after, PAGE).await?;
        let Some(last) = page.last().map(|meter| meter.record.meter) else { break };
        for meter in page {
            let (record, serial, model) = (meter.record, meter.serial, meter.model);
            collector.meter(MeterRow { record, serial, model, rev: rev.0 });
        }
        flush(&mut collector, sink, stop).await;
        after = last;
    }
    let mut after = AccountId::NONE;
    loop {
        let page = registry.accounts(None, CustomerId::NONE, after, PAGE).await?;
        let Some(last) = page.last().map(|account| account.terms.account) else { break };
        for Account { mut terms, plans, .. } in page {
            terms.plan = plans.at(now);
            collector.account(AccountRow { terms, rev: rev.0 });
        }
        flush(&mut collector, sink, stop).await;
        after = last;
    }
    Ok(())
}

async fn flush(collector: &mut Collector, sink: &Sink, stop: &mut watch::Receiver<bool>) {
    for batch in collector.seal() {
        // Ends early only when the node stops; the next start sends all again.
        sink.send(&batch, stop).await.ok();
    }
}
