//! Meters and accounts as tables in ClickHouse, so that analysts can join them. The registry is
//! the truth; a copy of it is sent when it changes. No names of persons leave the registry.

use std::sync::Arc;
use std::time::Duration;

use meter::{AccountId, CustomerId, MeterId, OutboxId};
use storage::clickhouse::{AccountRow, Collector, MeterRow, Sink};
use storage::registry::{MeterFilter, Registry, RegistryError};
use tokio::sync::watch;
use tracing::warn;

/// Rows read from the registry at once, and rows of a block.
const PAGE: u32 = 10_000;
/// Changes that come together are sent together.
const SETTLE: Duration = Duration::from_secs(2);

/// Sends the registry's meters and accounts at start and after changes, until `stop`.
pub(crate) async fn run(registry: Arc<Registry>, sink: Sink, mut stop: watch::Receiver<bool>) {
    let mut changed = registry.watch_dimensions();
    while !*stop.borrow() {
        let rev = *changed.borrow_and_update();
        if let Err(error) = send(&registry, &sink, rev, &mut stop).await {
            warn!(%error, "meters and accounts in ClickHouse are behind the registry");
        }
        tokio::select! {
            _ = stop.changed() => return,
            change = changed.changed() => if change.is_err() { return },
        }
        tokio::select! {
            _ = stop.changed() => return,
            () = tokio::time::sleep(SETTLE) => {}
        }
    }
}

/// Sends all of it once, as version `rev`.
pub(crate) async fn send(
    registry: &Registry,
    sink: &Sink,
    rev: OutboxId,
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
        for account in page {
            collector.account(AccountRow { terms: account.terms, rev: rev.0 });
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
