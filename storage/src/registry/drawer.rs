//! The till's drawer: a connection of its own to the registry's file, whose statements run on the
//! thread that asks. Over the pool each crosses to SQLite's thread and back, which for a batch of
//! sales took longer than the statements.
//!
//! A commit here is written, but not durable until [`Wal::sync`] after it: so the disk has one batch
//! while the next is worked out. The file is sound at any time, as in SQLite's `synchronous=NORMAL`;
//! nobody is told of a sale before the sync.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, Params, Row, Transaction, TransactionBehavior};

use super::row::{Columns as _, to_u64};
use super::{BUSY, CACHE, RegistryError, WAL_PAGES};

/// Statements that stay prepared; the till has fewer.
const STATEMENTS: usize = 64;

/// The connection.
#[derive(Debug)]
pub(super) struct Drawer(Connection);

/// The write-ahead log of the registry's file.
#[derive(Debug)]
pub(super) struct Wal(File);

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
        sql.pragma_update(None, "synchronous", "NORMAL")?;
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

impl Wal {
    /// The write-ahead log of a registry's file that a [`Drawer`] has open: it stays the same file
    /// until the last connection closes.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push("-wal");
        Ok(Self(File::open(PathBuf::from(name))?))
    }

    #[cfg(test)]
    pub(super) const fn of(file: File) -> Self {
        Self(file)
    }

    /// Makes durable what was committed before, over any connection.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Writing<'_> {
    /// For reading.
    pub(super) fn sql(&self) -> &Connection {
        &self.0
    }

    /// Runs a statement that answers nothing; how many rows it changed.
    pub(super) fn run(&self, text: &str, values: impl Params) -> Result<usize, RegistryError> {
        Ok(self.0.prepare_cached(text)?.execute(values)?)
    }

    /// Takes `count` ids of a kind and returns the last. In two statements: for one with `RETURNING`
    /// SQLite makes a table and drops it.
    pub(super) fn advance(&self, counter: &str, count: u64) -> Result<u64, RegistryError> {
        let advance = "UPDATE counter SET last = last + $1 WHERE name = $2";
        self.run(advance, (count.cast_signed(), counter))?;
        let last = "SELECT last FROM counter WHERE name = $1";
        let last = row(self.sql(), last, [counter], |row| to_u64(row.number(0)?))?;
        last.ok_or_else(|| RegistryError::Damaged(format!("there is no counter {counter}")))
    }

    /// Writes all of it; durable after [`Wal::sync`].
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
