//! `meterd storage rebuild`: every table of ClickHouse again from the log, also while the node runs.
//!
//! The log is put through a dataflow of its own into tables beside the live ones; then the tables
//! are exchanged, and what the log gained meanwhile is sent after. Rows that the node's own sink
//! gave to the old tables come from entries that were in the log before the exchange, so the last
//! step has them.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::ensure;
use dataflow::Engine;
use meter::{Effects, Seq};
use storage::clickhouse::{Collector, Rebuild, Sink, Table};
use storage::log::{Batches, Layers};
use storage::registry::Registry;
use tokio::sync::watch;

use super::{Reached, say};
use crate::config::Settings;
use crate::node::{self, clickhouse, dimensions};
use crate::{archive, books, spool};

/// Rebuilds and prints what the tables hold.
pub(super) async fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    let log = archive::whole_log(settings)?;
    let registry = node::open_registry(settings).await?;
    let reached = Reached::open(settings).await?;
    let done = rebuild(settings, &log, &registry).await;
    reached.close().await;
    registry.close().await;
    done.map(|()| ExitCode::SUCCESS)
}

async fn rebuild(settings: &Settings, log: &Layers, registry: &Registry) -> anyhow::Result<()> {
    let mut fill = Fill::new(settings)?;
    // The first batch shows whether the log is whole, before anything is made.
    let first = Batches::open(log)?.next().transpose()?.map(|batch| batch.header.first);
    ensure!(
        first.is_none_or(|first| first == Seq(1)),
        "the log begins at entry {}: the entries before it are neither in the log's folder nor in \
         the archive; name the archive with [archive] in the settings, or restore its files",
        first.unwrap_or(Seq(1))
    );
    let beside = Rebuild::begin(clickhouse::target(settings)?).await?;
    fill.replay(log, beside.sink()).await?;
    beside.sink().refresh_days(fill.next).await?;
    say(&format!("{} entries replayed; the tables are exchanged", fill.next.0 - 1));
    let sink = beside.finish().await?;
    fill.replay(log, &sink).await?;
    sink.refresh_days(fill.next).await?;
    // Nobody stops a rebuild but by ending the process.
    let (_going, mut stop) = watch::channel(false);
    let rev = *registry.watch_outbox().borrow();
    let as_of = (rev, settings.clock().now());
    dimensions::send(registry, &sink, as_of, &mut stop).await?;
    for table in Table::ALL {
        let rows = sink.history().count(table).await?;
        say(&format!("{:<12}{rows:>14} rows", table.name()));
    }
    Ok(())
}

/// The log on its way through the books into blocks.
struct Fill {
    engine: Engine,
    collector: Collector,
    rows_max: usize,
    next: Seq,
}

impl Fill {
    fn new(settings: &Settings) -> anyhow::Result<Self> {
        let rows_max = settings.clickhouse.block_rows_max as usize;
        let engine = Engine::start(&dataflow::Config { workers: 1 }, None)?;
        let collector = Collector::new(rows_max);
        Ok(Self { engine, collector, rows_max, next: Seq(1) })
    }

    /// Sends the rows of all entries from `self.next` to the log's end.
    async fn replay(&mut self, log: &Layers, sink: &Sink) -> anyhow::Result<()> {
        let mut batches = Batches::open_from(log, self.next)?;
        while let Some(batch) = batches.next() {
            let header = batch?.header;
            if header.first < self.next {
                continue;
            }
            ensure!(header.first == self.next, "the log has no entry {}", self.next.0);
            let entries = Arc::new(books::decode(header.first, batches.payload())?);
            let mut effects = Effects::default();
            self.engine.process(header.first, &entries, &mut effects)?;
            self.collector.effects(&spool::rows(header.first, &entries, &effects));
            self.next = header.next();
            if self.collector.rows() >= self.rows_max {
                self.flush(sink).await?;
            }
        }
        self.flush(sink).await
    }

    async fn flush(&mut self, sink: &Sink) -> anyhow::Result<()> {
        let (_going, mut stop) = watch::channel(false);
        for batch in self.collector.seal() {
            sink.send(&batch, &mut stop).await?;
        }
        Ok(())
    }
}
