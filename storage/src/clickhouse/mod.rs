//! ClickHouse: where history lives and analysts look. The embedded [`engine`](crate::engine) and
//! a server are reached the same way, over HTTP.
//!
//! In: [`Collector`] takes readings and effects and seals them into [`Batch`]es; [`Sink`] sends
//! each until the server has it, and makes the tables of days from them. Out: [`History`] answers
//! the product's questions.
//!
//! **Invariant:** exactly once in effect. A batch is immutable, its keys come from the log, the
//! tables keep one row per key (read them with FINAL), nothing is summed at insert time; tokens
//! save the server the work where it knows them. So a batch may be sent twice, never lost: the
//! log is the backlog, and its cursor moves only after [`Sink::send`] returned.

mod audit;
mod batch;
mod days;
mod history;
mod native;
mod rebuild;
mod retention;
mod rows;
mod schema;
mod sink;
mod version;

pub use audit::LedgerSum;
pub use batch::{BATCH_ROWS_MAX, Batch, Collector};
pub use days::{DAY_TABLE_NAMES, Places};
pub use history::{
    AlarmPoint, GapPoint, History, IntervalPoint, LedgerPoint, LossPoint, PeriodPoint,
    ReadingPoint, TableSize,
};
pub use rebuild::Rebuild;
pub use retention::Retention;
pub use rows::{AccountRow, MeterRow, Month, ReadingRow, Table};
pub use sink::{ClickhouseConfig, Sink, SinkStatus};
pub use version::{Dialect, ServerVersion};

/// Why ClickHouse did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClickhouseError {
    /// Nothing answers at the URL, or the connection broke.
    #[error("ClickHouse at {url} does not answer; check the URL and that the server runs")]
    Unreachable {
        /// Where.
        url: String,
        /// What the connection said.
        #[source]
        source: clickhouse::error::Error,
    },
    /// User or password are wrong, or the user lacks a right.
    #[error("ClickHouse refuses the user: {message}; check user, password and grants")]
    Refused {
        /// The server's words.
        message: String,
    },
    /// Any other error of the server.
    #[error("ClickHouse error {code}: {message}")]
    Server {
        /// ClickHouse's number for the error.
        code: u32,
        /// The server's words.
        message: String,
    },
    /// An answer that is none of ClickHouse's.
    #[error("the server at {url} does not answer as ClickHouse does: {message}")]
    NotClickhouse {
        /// Where.
        url: String,
        /// What came instead.
        message: String,
    },
    /// A server older than the schema can use.
    #[error("ClickHouse {found} is too old; {} or newer is needed", ServerVersion::OLDEST)]
    TooOld {
        /// Its version.
        found: ServerVersion,
    },
    /// The tables were made by a later release.
    #[error(
        "the tables have schema version {found}, this program knows {known}; run the newer release"
    )]
    SchemaNewer {
        /// The version found.
        found: u32,
        /// The version known.
        known: u32,
    },
    /// A table was changed by hand.
    #[error("table {table} is not as this program made it: {what}; restore it, or rebuild it")]
    SchemaDiffers {
        /// The table.
        table: &'static str,
        /// The difference.
        what: String,
    },
    /// The zone for days and months is none.
    #[error("{0:?} is no IANA time zone name")]
    BadZone(String),
    /// Told to stop while trying.
    #[error("stopped before the batch was accepted")]
    Stopped,
}
