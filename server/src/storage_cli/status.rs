//! `meterd storage status`: which ClickHouse, what it holds, and how far it is behind.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use meter::UnixSeconds;
use serde::Serialize;
use storage::clickhouse::{DAY_TABLE_NAMES, Table};
use storage::log::{Batches, Directory, WritePath};

use super::{Reached, say};
use crate::config::{Engine, Settings};
use crate::cursor::Cursor;
use crate::node::clickhouse;

/// All that is told.
#[derive(Debug, Serialize)]
struct Status {
    engine: &'static str,
    url: String,
    /// The server's, `null` when it was not reached.
    version: Option<String>,
    /// Why it was not reached.
    unreachable: Option<String>,
    #[serde(flatten)]
    backlog: Backlog,
    tables: Vec<TableStatus>,
    /// The last failure that the sink met, past or present.
    last_error: Option<LastError>,
}

#[derive(Debug, Serialize)]
struct TableStatus {
    table: &'static str,
    rows: u64,
    bytes: u64,
}

#[derive(Debug, Eq, PartialEq, Serialize)]
struct LastError {
    at: String,
    message: String,
}

/// What waits in the spool.
#[derive(Debug, Default, Eq, PartialEq, Serialize)]
struct Backlog {
    /// ClickHouse has the rows of all entries below this.
    sent_below: u64,
    /// Entries whose rows it does not have.
    lag_entries: u64,
    /// Bytes of their rows in the spool.
    backlog_bytes: u64,
}

/// Looks and prints; exit code 1 when ClickHouse was not reached.
pub(super) async fn run(settings: &Settings, json: bool) -> anyhow::Result<ExitCode> {
    let folder = &settings.node.data_dir;
    anyhow::ensure!(
        folder.is_dir(),
        "{} is not there; name the node's settings with --config",
        folder.display()
    );
    let mut status = Status {
        engine: match settings.clickhouse.engine {
            Engine::Embedded => "embedded",
            Engine::Server => "server",
        },
        url: clickhouse::target(settings)?.url,
        version: None,
        unreachable: None,
        backlog: backlog(folder)?,
        tables: Vec::new(),
        last_error: last_error(folder)?,
    };
    match Reached::open(settings).await {
        Ok(reached) => {
            status.version = Some(reached.sink.version().to_string());
            let sizes = reached.sink.history().sizes().await;
            reached.close().await;
            let sizes = sizes.context("ClickHouse does not tell the size of its tables")?;
            let sizes: BTreeMap<&str, _> =
                sizes.iter().map(|size| (size.table.as_str(), (size.rows, size.bytes))).collect();
            let tables = Table::ALL.map(Table::name).into_iter().chain(DAY_TABLE_NAMES);
            status.tables.extend(tables.map(|table| {
                let (rows, bytes) = sizes.get(table).copied().unwrap_or_default();
                TableStatus { table, rows, bytes }
            }));
        }
        Err(error) => status.unreachable = Some(format!("{error:#}")),
    }
    say(&if json { serde_json::to_string_pretty(&status)? } else { status.text() });
    let is_reached = status.unreachable.is_none();
    Ok(if is_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Status {
    fn text(&self) -> String {
        let none = "none".to_owned();
        let version = self.version.as_ref().map_or("not reached", String::as_str);
        let Backlog { sent_below, lag_entries, backlog_bytes } = self.backlog;
        let error = self.last_error.as_ref();
        let mut text = format!(
            "engine      {} {version}, {}\n\
             behind      {lag_entries} entries, {backlog_bytes} bytes in the spool\n\
             sent below  entry {sent_below}\n\
             last error  {}\n",
            self.engine,
            self.url,
            error.map_or(none, |error| format!("{} {}", error.at, error.message)),
        );
        if let Some(reason) = &self.unreachable {
            text.push_str(&format!("not reached {reason}\n"));
        }
        if !self.tables.is_empty() {
            text.push_str(&format!("\n{:<14}{:>14}{:>16}", "table", "rows", "bytes"));
        }
        for TableStatus { table, rows, bytes } in &self.tables {
            text.push_str(&format!("\n{table:<14}{rows:>14}{bytes:>16}"));
        }
        text
    }
}

/// Counts what the spool holds from the cursor on; the node may be writing to it.
fn backlog(folder: &Path) -> anyhow::Result<Backlog> {
    let sent_below = Cursor::new(folder).load().context("cannot read the sink's cursor")?.next;
    let mut backlog = Backlog { sent_below: sent_below.0, ..Backlog::default() };
    let spool = folder.join("spool");
    if !spool.is_dir() {
        return Ok(backlog);
    }
    let disk = Directory::open(&spool, WritePath::Buffered).context("cannot open the spool")?;
    let mut end = sent_below;
    let mut batches = Batches::open(&disk)?;
    while let Some(batch) = batches.next() {
        let header = batch?.header;
        if header.next() > sent_below {
            end = header.next();
            backlog.backlog_bytes += batches.payload().len() as u64;
        }
    }
    backlog.lag_entries = end.0 - sent_below.0;
    Ok(backlog)
}

/// The note that the node leaves of a failure: seconds since 1970, and what it was.
fn last_error(folder: &Path) -> anyhow::Result<Option<LastError>> {
    let path = folder.join(clickhouse::LAST_ERROR);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("cannot read the note of the last error"),
    };
    let (at, message) = text.trim().split_once(' ').unwrap_or_else(|| ("", text.trim()));
    let at = at.parse().map_or_else(|_| String::new(), |at| UnixSeconds(at).to_string());
    Ok(Some(LastError { at, message: message.to_owned() }))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meter::{Effects, Entry, Seq};
    use storage::log::{Config, Durability, SegmentLog};

    use super::*;
    use crate::cursor::Place;
    use crate::spool::Spool;

    #[test]
    fn the_backlog_is_what_lies_after_the_cursor() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path();
        assert_eq!(backlog(place).unwrap(), Backlog { sent_below: 1, ..Backlog::default() });
        fs::create_dir(place.join("spool")).unwrap();
        let disk = Directory::open(&place.join("spool"), WritePath::Buffered).unwrap();
        let config = Config {
            segment_size_bytes: 1 << 20,
            reserve_segments: 1,
            spares_max: 1,
            durability: Durability::Lazy,
            node: 1,
            epoch: 1,
        };
        let (log, _) = SegmentLog::open(Arc::new(disk), config, 0).unwrap();
        let mut spool = Spool::new(log);
        for first in [1, 3, 5] {
            let entries =
                vec![Entry::Tick(UnixSeconds(first)), Entry::Tick(UnixSeconds(first + 1))];
            spool.append(Seq(first.into()), &entries, &Effects::default()).unwrap();
        }
        let whole = backlog(place).unwrap();
        assert_eq!((whole.sent_below, whole.lag_entries), (1, 6));
        Cursor::new(place).save(Place { next: Seq(5), intent: Seq(7) }).unwrap();
        let rest = backlog(place).unwrap();
        assert_eq!((rest.sent_below, rest.lag_entries), (5, 2));
        assert_eq!(rest.backlog_bytes * 3, whole.backlog_bytes);
    }

    #[test]
    fn the_last_error_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(last_error(folder.path()).unwrap(), None);
        fs::write(folder.path().join(clickhouse::LAST_ERROR), "1780272000 too many parts\n")
            .unwrap();
        let error = last_error(folder.path()).unwrap().unwrap();
        assert_eq!(error.message, "too many parts");
        assert!(error.at.starts_with("2026-06-01"), "{}", error.at);
    }
}
