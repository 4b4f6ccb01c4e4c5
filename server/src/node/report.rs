//! How the node is: readiness by part, and metrics as Prometheus text.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{Part, PartState};
use ingest::{Ending, Outcome};
use storage::engine::EngineState;
use storage::log;
use tokio::sync::watch;

use super::clickhouse::Opening;
use crate::commands;
use crate::journal::Journal;
use crate::sink;
use crate::views::Verdicts;

/// Entries that ClickHouse may be behind before a person should look.
const LAG_ENTRIES_MAX: u64 = 1_000_000;

/// Everything that tells how the node is.
pub(super) struct Report {
    pub(super) ingest: ingest::Meters,
    pub(super) commands: Arc<commands::Counts>,
    pub(super) verdicts: Arc<Verdicts>,
    pub(super) journal: Arc<Journal>,
    pub(super) sunk: Arc<sink::Progress>,
    pub(super) spool: Arc<log::Progress>,
    pub(super) log: Arc<log::Progress>,
    pub(super) sink: Opening,
    pub(super) engine: Option<watch::Receiver<EngineState>>,
}

impl Report {
    /// The parts, and how each is. ClickHouse may be away: the node takes readings all the same.
    pub(super) fn parts(&self) -> Vec<Part> {
        let part = |name, state, detail| Part { name, state, detail };
        let (durable, applied) = (self.log.durable().0, self.journal.applied_through().0);
        let mut parts = vec![
            part("log", PartState::Ready, format!("durable below entry {durable}")),
            part("books", PartState::Ready, format!("applied through entry {applied}")),
        ];
        let lag = self.lag();
        let (state, detail) = match self.sink.status() {
            None => (PartState::Degraded, "not reached yet".to_owned()),
            Some(status) => match status.error {
                Some(error) => (PartState::Degraded, error),
                None if lag > LAG_ENTRIES_MAX => {
                    (PartState::Degraded, format!("{lag} entries behind"))
                }
                None => (PartState::Ready, format!("{lag} entries behind")),
            },
        };
        parts.push(part("clickhouse", state, detail));
        if let Some(engine) = &self.engine {
            let (state, detail) = match &*engine.borrow() {
                EngineState::Ready { address, .. } => (PartState::Ready, format!("at {address}")),
                EngineState::Starting => (PartState::Degraded, "starting".to_owned()),
                EngineState::Down { reason, .. } => (PartState::Degraded, reason.clone()),
                EngineState::Stopped => (PartState::Degraded, "stopped".to_owned()),
                // A state of a later version of the engine.
                other => (PartState::Degraded, format!("{other:?}")),
            };
            parts.push(part("engine", state, detail));
        }
        parts
    }

    /// Appends the metrics.
    pub(super) fn metrics(&self, text: &mut String) {
        let stats = self.ingest.stats();
        let mut out = Lines(text);
        out.family("meterd_ingest_frames_total", "counter", "Frames by outcome; each counts once.");
        for outcome in Outcome::ALL {
            let count = stats.outcome(*outcome);
            out.labelled("meterd_ingest_frames_total", "outcome", outcome.label(), count);
        }
        out.family("meterd_ingest_connections_ended_total", "counter", "Connections by ending.");
        for ending in Ending::ALL {
            let count = stats.ending(*ending);
            out.labelled("meterd_ingest_connections_ended_total", "ending", ending.label(), count);
        }
        out.counter("meterd_ingest_entries_total", "Entries given to the log.", stats.entries);
        out.counter("meterd_ingest_acks_total", "Acknowledgements sent.", stats.acks);
        let drops = stats.kernel_drops;
        out.counter("meterd_ingest_kernel_drops_total", "Datagrams the kernel dropped.", drops);
        out.counter("meterd_ingest_stalls_total", "Waits for a full log queue.", stats.stalls);
        let open = u64::from(stats.connections);
        out.gauge("meterd_ingest_connections", "Open TCP connections.", open);
        out.gauge("meterd_ingest_sessions", "Authenticated connections.", stats.sessions.into());

        // Relaxed: counts for people, nothing follows from them.
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        out.family("meterd_readings_total", "counter", "Readings by verdict.");
        let verdicts = &self.verdicts;
        for (verdict, counter) in [
            ("accepted", &verdicts.accepted),
            ("duplicate", &verdicts.duplicate),
            ("quarantined", &verdicts.quarantined),
            ("parked", &verdicts.parked),
        ] {
            out.labelled("meterd_readings_total", "verdict", verdict, count(counter));
        }

        let commands = &self.commands;
        out.family("meterd_commands_total", "counter", "Commands to meters by how they ended.");
        for (end, counter) in [
            ("answered", &commands.answered),
            ("refused", &commands.refused),
            ("expired", &commands.expired),
            ("withdrawn", &commands.withdrawn),
        ] {
            out.labelled("meterd_commands_total", "end", end, count(counter));
        }
        let attempts = count(&commands.attempts);
        out.counter("meterd_command_attempts_total", "Attempts at commands.", attempts);
        out.counter("meterd_command_requests_total", "Frames of commands sent.", stats.requests);
        out.gauge("meterd_commands_open", "Commands that wait.", count(&commands.open));

        out.gauge("meterd_log_durable_seq", "Entries below this are synced.", self.log.durable().0);
        let applied = self.journal.applied_through().0;
        out.gauge("meterd_books_applied_seq", "The books hold entries up to this.", applied);
        out.gauge("meterd_sink_lag_entries", "Entries ClickHouse does not have.", self.lag());
        let reached = self.sink.status();
        let is_up = reached.as_ref().is_some_and(|status| status.error.is_none());
        let status = reached.unwrap_or_default();
        out.gauge("meterd_sink_up", "1 while ClickHouse takes what it is sent.", is_up.into());
        out.counter("meterd_sink_batches_total", "Batches ClickHouse took.", status.batches);
        out.counter("meterd_sink_rows_total", "Rows ClickHouse took.", status.rows);
        out.counter("meterd_sink_bytes_total", "Encoded bytes ClickHouse took.", status.bytes);
        out.counter("meterd_sink_retries_total", "Batches sent again.", status.retries);
    }

    /// Entries whose rows ClickHouse does not have.
    fn lag(&self) -> u64 {
        self.spool.readable().0.saturating_sub(self.sunk.next().0)
    }
}

/// Lines of Prometheus text.
struct Lines<'a>(&'a mut String);

impl Lines<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn labelled(&mut self, name: &str, label: &str, value: &str, count: u64) {
        self.line(format_args!("{name}{{{label}=\"{value}\"}} {count}\n"));
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.line(format_args!("{name} {value}\n"));
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.line(format_args!("{name} {value}\n"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("a string takes any text");
    }
}
