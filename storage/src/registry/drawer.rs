//! The till's drawer: a connection of its own to the registry's file, whose statements run on the
//! thread that asks. Over the pool each crosses to SQLite's thread and back, which for a batch of
//! sales took longer than the statements.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Params, Row, Transaction, TransactionBehavior};

use super::row::to_u64;
use super::write::ADVANCE;
use super::{BUSY, CACHE, RegistryError, WAL_PAGES};

/// Statements that stay prepared; the till has fewer.
const STATEMENTS: usize = 64;

/// The connection.
#[derive(Debug)]
pub(super) struct Drawer(Connection);

/// A transaction. Dropped without [`Writing::commit`], it leaves no trace.
pub(super) struct Writing<'d>(Transaction<'d>);

impl Drawer {
    /// Opens the registry's file, which is there.
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sql = Connection::open_with_flags(path, flags)?;
        sql.busy_timeout(BUSY)?;
        // As the pool's writer: the file is in WAL mode already.
        sql.pragma_update(None, "foreign_keys", true)?;
        sql.pragma_update(None, "synchronous", "FULL")?;
        sql.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
        sql.pragma_update(None, "temp_store", "MEMORY")?;
        sql.pragma_update(None, "cache_size", CACHE)?;
        sql.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(Self(sql))
    }

    /// For reading.
    pub(super) const fn sql(&self) -> &Connection {
        &self.0
    }

    /// Begins to write.
    pub(super) fn begin(&mut self) -> Result<Writing<'_>, RegistryError> {
        Ok(Writing(self.0.transaction_with_behavior(TransactionBehavior::Immediate)?))
    }
}

impl Writing<'_> {
    /// For reading.
    pub(super) fn sql(&self) -> &Connection {
        &self.0
    }

    /// Runs a statement that answers nothing.
    pub(super) fn run(&self, text: &str, values: impl Params) -> Result<(), RegistryError> {
        self.0.prepare_cached(text)?.execute(values)?;
        Ok(())
    }

    /// Takes `count` ids of a kind and returns the last.
    pub(super) fn advance(&self, counter: &str, count: u64) -> Result<u64, RegistryError> {
        let mut statement = self.0.prepare_cached(ADVANCE)?;
        to_u64(statement.query_row((count.cast_signed(), counter), |row| row.get(0))?)
    }

    /// Makes all of it durable.
    pub(super) fn commit(self) -> Result<(), RegistryError> {
        Ok(self.0.commit()?)
    }
}

/// The rows that answer a question.
pub(super) fn rows<T>(
    sql: &Connection,
    text: &str,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, RegistryError>,
) -> Result<Vec<T>, RegistryError> {
    let mut statement = sql.prepare_cached(text)?;
    let mut rows = statement.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The first row that answers a question.
pub(super) fn row<T>(
    sql: &Connection,
    text: &str,
    values: impl Params,
    read: impl Fn(&Row<'_>) -> Result<T, RegistryError>,
) -> Result<Option<T>, RegistryError> {
    let mut statement = sql.prepare_cached(text)?;
    statement.query(values)?.next()?.map(read).transpose()
}
