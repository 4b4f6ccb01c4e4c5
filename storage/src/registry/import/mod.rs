//! Bulk import of meters and installations from CSV or JSON: all rows or none.
//!
//! The body is taken in before the writer is: a client that stalls holds up no payment. It stays
//! in memory, since it holds keys in clear; so imports go one at a time. A reader thread turns it
//! into checked rows ([`source`], [`columns`]); the loader compares them with what exists and
//! writes them in one transaction ([`load`]). After the first bad line the rest is still checked,
//! so that one report names all, and then the transaction is dropped.

mod columns;
mod insert;
mod load;
mod source;

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;
use meter::OutboxId;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{Registry, RegistryError};
use columns::Row;
use load::Loader;

pub use columns::{Column, IMPORT_COLUMNS};

/// How the body is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ImportFormat {
    /// Comma-separated, a header line first.
    Csv,
    /// An array of objects, or objects one after the other, with the column names as keys.
    Json,
}

/// Bounds of one import.
#[derive(Clone, Copy, Debug)]
pub struct ImportLimits {
    /// Rows at most.
    pub rows_max: u64,
    /// Bad lines named at most; all are counted.
    pub errors_max: usize,
}

/// What an import made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Rows read.
    pub rows: u64,
    /// Meters registered.
    pub meters: u64,
    /// Customers registered.
    pub customers: u64,
    /// Accounts opened.
    pub accounts: u64,
    /// Transformers registered.
    pub transformers: u64,
    /// Meters installed.
    pub installations: u64,
}

/// What came of an import that was taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ImportReport {
    /// What it made.
    pub counts: Counts,
    /// The last row of the outbox it wrote; when it is applied, all of the import is.
    pub outbox: Option<OutboxId>,
}

/// One thing wrong with one line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LineError {
    /// Line of the body, from 1 (the header is line 1 of a CSV body).
    pub line: u64,
    /// Row, from 1, without the header; 0 for the header.
    pub row: u64,
    /// The column, empty when the whole line is meant.
    pub column: String,
    /// What is wrong.
    pub problem: String,
    /// How to mend it.
    pub hint: String,
}

/// Why an import was refused; nothing was changed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ImportError {
    /// Some lines are bad.
    #[error("{total} problems in {rows} rows; nothing was imported")]
    Lines {
        /// The first of them, in order of the lines.
        errors: Vec<LineError>,
        /// How many there are.
        total: u64,
        /// Rows read.
        rows: u64,
    },
    /// No row at all.
    #[error("the body holds no rows")]
    Empty,
    /// More rows than one import may hold.
    #[error("more than {rows_max} rows; split the import")]
    TooManyRows {
        /// The bound.
        rows_max: u64,
    },
    /// The body broke off.
    #[error("the body broke off")]
    Body(#[source] io::Error),
    /// The registry does not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// What the reader thread found.
enum Found {
    Rows(Vec<Row>),
    Bad(LineError),
    /// The body ended before its syntax did, or broke off.
    Broken(ImportError),
}

/// Rows handed from the reader to the loader at once.
const BATCH: usize = 500;
/// Batches under way.
const BATCHES_MAX: usize = 4;

/// Problems, counted in full and kept up to a bound.
struct Problems {
    errors: Vec<LineError>,
    errors_max: usize,
    total: u64,
}

impl Problems {
    fn add(&mut self, error: LineError) {
        self.total += 1;
        if self.errors.len() < self.errors_max {
            self.errors.push(error);
        }
    }
}

impl Registry {
    /// Imports the rows that `body` delivers, all or none. The caller bounds the body.
    ///
    /// # Errors
    /// [`ImportError`]; nothing was changed.
    pub async fn import(
        &self,
        format: ImportFormat,
        limits: ImportLimits,
        mut body: mpsc::Receiver<io::Result<Bytes>>,
    ) -> Result<ImportReport, ImportError> {
        let _one_at_a_time = self.imports.lock().await;
        let mut chunks = VecDeque::new();
        while let Some(chunk) = body.recv().await {
            chunks.push_back(chunk.map_err(ImportError::Body)?);
        }
        let (sender, mut found) = mpsc::channel(BATCHES_MAX);
        let reader = tokio::task::spawn_blocking(move || source::read(format, chunks, &sender));
        let mut problems = Problems { errors: Vec::new(), errors_max: limits.errors_max, total: 0 };
        let mut loader = Loader::new(self).await?;
        while let Some(found) = found.recv().await {
            match found {
                Found::Rows(rows) => loader.load(rows, &mut problems).await?,
                Found::Bad(error) => problems.add(error),
                Found::Broken(error) => return Err(error),
            }
            if loader.counts().rows > limits.rows_max {
                return Err(ImportError::TooManyRows { rows_max: limits.rows_max });
            }
        }
        reader.await.expect("the reader thread does not panic");
        if problems.total > 0 {
            let Problems { mut errors, total, .. } = problems;
            errors.sort_by_key(|error| error.row);
            return Err(ImportError::Lines { errors, total, rows: loader.counts().rows });
        }
        if loader.counts().rows == 0 {
            return Err(ImportError::Empty);
        }
        Ok(loader.commit().await?)
    }
}
