//! The registry's file as an auditor reads it: beside a running node, changing nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meter::OutboxId;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Row as _};

use super::RegistryError;
use super::row::{to_i64, to_u64, u32_of};

/// A registry's file, opened for reading.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    connection: SqliteConnection,
}

/// What people paid and corrected for one account.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct MoneyRow {
    /// Account.
    pub account: u32,
    /// Count of purchases.
    pub purchases: u64,
    /// What was paid for them, ticks.
    pub paid_ticks: i64,
    /// Count of corrections.
    pub adjustments: u64,
    /// What they come to, ticks.
    pub adjusted_ticks: i64,
}

impl Audit {
    /// Opens the file; it must be there.
    ///
    /// # Errors
    /// [`RegistryError::Open`].
    pub async fn open(path: &Path) -> Result<Self, RegistryError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(10));
        let connection = options
            .connect()
            .await
            .map_err(|source| RegistryError::Open { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// Has SQLite check the whole file.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] with SQLite's words.
    pub async fn check(&mut self) -> Result<(), RegistryError> {
        let said: String =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut self.connection).await?;
        if said == "ok" { Ok(()) } else { Err(RegistryError::Damaged(said)) }
    }

    /// The newest change that was told to the log or waits for it; 0 when there is none.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub async fn newest_outbox(&mut self) -> Result<OutboxId, RegistryError> {
        let newest: Option<i64> = sqlx::query_scalar("SELECT max(id) FROM outbox")
            .fetch_one(&mut self.connection)
            .await?;
        to_u64(newest.unwrap_or_default()).map(OutboxId)
    }

    /// The oldest change that waits for the log; `None` when none does.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub async fn oldest_unsent(&mut self) -> Result<Option<OutboxId>, RegistryError> {
        let oldest: Option<i64> = sqlx::query_scalar("SELECT min(id) FROM outbox WHERE sent = 0")
            .fetch_one(&mut self.connection)
            .await?;
        oldest.map(|id| to_u64(id).map(OutboxId)).transpose()
    }

    /// What was paid and corrected by the changes up to `through`, accounts ascending. Every
    /// account has a row.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub async fn money(&mut self, through: OutboxId) -> Result<Vec<MoneyRow>, RegistryError> {
        let rows = sqlx::query(
            "SELECT a.id, \
             (SELECT COUNT(*) FROM purchase p WHERE p.account = a.id AND p.outbox <= $1) + \
             (SELECT COUNT(*) FROM sale s WHERE s.account = a.id AND s.kind = 'purchase' \
              AND s.outbox <= $1), \
             (SELECT COALESCE(SUM(paid), 0) FROM purchase p \
              WHERE p.account = a.id AND p.outbox <= $1) + \
             (SELECT COALESCE(SUM(paid), 0) FROM sale s WHERE s.account = a.id \
              AND s.kind = 'purchase' AND s.outbox <= $1), \
             (SELECT COUNT(*) FROM adjustment d WHERE d.account = a.id AND d.outbox <= $1), \
             (SELECT COALESCE(SUM(amount), 0) FROM adjustment d \
              WHERE d.account = a.id AND d.outbox <= $1) \
             FROM account a ORDER BY a.id",
        )
        .bind(to_i64(through.0)?)
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(MoneyRow {
                    account: u32_of(row, 0)?,
                    purchases: to_u64(row.try_get(1)?)?,
                    paid_ticks: row.try_get(2)?,
                    adjustments: to_u64(row.try_get(3)?)?,
                    adjusted_ticks: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Writes a copy as of one instant, also while a node writes. The file must not be there.
    ///
    /// # Errors
    /// [`RegistryError::Database`], also when the disk is full.
    pub async fn copy_to(&mut self, path: &Path) -> Result<(), RegistryError> {
        sqlx::query("VACUUM INTO $1")
            .bind(path.to_string_lossy().into_owned())
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
