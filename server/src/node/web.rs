//! The Web API's side of the node: what it is given, and its start and stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{BoxFuture, By, GapPoint, History, HistoryError, NotApplied, Rows, Server, Version};
use meter::{AccountId, MeterId, OutboxId, Subject, TransformerId, UnixSeconds};
use storage::clickhouse::{
    self, AlarmPoint, ClickhouseError, IntervalPoint, LedgerPoint, LossPoint, PeriodPoint,
    ReadingPoint,
};
use storage::registry::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;

use super::clickhouse::Opening;
use super::report::Report;
use crate::clock::Now;
use crate::config::Settings;
use crate::journal::Journal;
use crate::relay::Relayed;
use crate::views::Readers;

/// The running Web API.
pub(super) struct Web {
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Web {
    /// Waits for the requests that run; `stop` must have been given before.
    pub(super) async fn stop(self, patience: Duration) {
        if tokio::time::timeout(patience, self.task).await.is_err() {
            warn!("requests were cut off");
        }
    }
}

/// What the API is made of.
pub(super) struct Handles {
    pub(super) registry: Arc<Registry>,
    pub(super) readers: Readers,
    pub(super) applied: Applied,
    pub(super) history: Opening,
    pub(super) report: Report,
    pub(super) now: Now,
}

/// Binds and runs the API.
pub(super) async fn start(
    settings: &Settings,
    handles: Handles,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Web> {
    let api = &settings.api;
    let config = api::Config {
        connections_max: api.connections_max as usize,
        header_s_max: api.header_timeout_s,
        body_size_max: api.body_bytes_max as usize,
        import_size_max: u64::from(api.import_bytes_max),
        ..api::Config::standard(api.listen)
    };
    let report = Arc::new(handles.report);
    let metrics = Arc::clone(&report);
    let node = api::Node {
        registry: handles.registry,
        meters: handles.readers.meters,
        accounts: handles.readers.accounts,
        alarms: handles.readers.alarms,
        applied: Arc::new(handles.applied),
        history: Arc::new(handles.history),
        parts: Arc::new(move || report.parts()),
        metrics: Arc::new(move |text| metrics.metrics(text)),
        clock: handles.now,
        version: Version {
            product: env!("CARGO_PKG_VERSION"),
            commit: option_env!("METERD_COMMIT").unwrap_or_default(),
        },
    };
    let server = Server::bind(config, node).await?;
    let address = server.address();
    Ok(Web { address, task: tokio::spawn(server.run(stop)) })
}

/// Waits for changes of the registry to reach the books.
pub(super) struct Applied {
    pub(super) relayed: watch::Receiver<Relayed>,
    pub(super) journal: Arc<Journal>,
}

impl api::Applied for Applied {
    fn wait(&self, outbox: OutboxId) -> BoxFuture<'_, Result<(), NotApplied>> {
        Box::pin(async move {
            let mut relayed = self.relayed.clone();
            let at = *relayed
                .wait_for(|relayed| relayed.outbox >= outbox)
                .await
                .map_err(|_| NotApplied)?;
            self.journal.applied(at.seq).await.map_err(|_| NotApplied)
        })
    }
}

/// ClickHouse has not been reached since the node started.
#[derive(Clone, Copy, Debug, Error)]
#[error("ClickHouse has not been reached yet; see /readyz")]
struct NotReached;

fn failed(error: ClickhouseError) -> HistoryError {
    HistoryError(Box::new(error))
}

/// Runs a question against ClickHouse, if that has been reached.
macro_rules! ask {
    ($opening:expr, |$history:ident| $question:expr) => {
        Box::pin(async move {
            let $history = $opening.history().ok_or_else(|| HistoryError(Box::new(NotReached)))?;
            $question.await.map_err(failed)
        })
    };
}

impl History for Opening {
    fn intervals(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, IntervalPoint> {
        ask!(self, |history| history.intervals(meter, from, to, rows_max))
    }

    fn periods<'a>(
        &'a self,
        meter: MeterId,
        by: By,
        from: UnixSeconds,
        to: UnixSeconds,
        zone: &'a str,
    ) -> Rows<'a, PeriodPoint> {
        match by {
            By::Day => ask!(self, |history| history.days(meter, from, to, zone)),
            By::Month => ask!(self, |history| history.months(meter, from, to, zone)),
        }
    }

    fn readings(
        &self,
        meter: MeterId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, ReadingPoint> {
        ask!(self, |history| history.readings(meter, from, to, rows_max))
    }

    fn ledger(&self, account: AccountId, after: u64, rows_max: u32) -> Rows<'_, LedgerPoint> {
        ask!(self, |history| history.ledger(account, after, rows_max))
    }

    fn alarms(
        &self,
        subject: Option<Subject>,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, AlarmPoint> {
        ask!(self, |history| history.alarms(subject, from, to, rows_max))
    }

    fn losses(
        &self,
        transformer: TransformerId,
        from: UnixSeconds,
        to: UnixSeconds,
        rows_max: u32,
    ) -> Rows<'_, LossPoint> {
        ask!(self, |history| history.line_loss(transformer, from, to, rows_max))
    }

    fn gaps(&self, meter: MeterId, after: UnixSeconds, rows_max: u32) -> Rows<'_, GapPoint> {
        Box::pin(async move {
            let history = self.history().ok_or_else(|| HistoryError(Box::new(NotReached)))?;
            let gaps = history.gaps(meter, after, rows_max).await.map_err(failed)?;
            Ok(gaps.into_iter().map(gap).collect())
        })
    }
}

fn gap(point: clickhouse::GapPoint) -> GapPoint {
    let clickhouse::GapPoint { from, to, missing, state } = point;
    GapPoint { from, to, missing, state }
}
