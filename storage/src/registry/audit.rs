//! The registry's file as an auditor reads it: beside a running node, changing nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meter::{Change, LedgerKind, OutboxId, Split};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _};

use super::RegistryError;
use super::row::{json, parsed, to_i64, to_u64, u32_of};

/// A registry's file, opened for reading.
#[derive(Debug)]
pub struct Audit {
    path: PathBuf,
    connection: SqliteConnection,
}

/// Movements of one kind that people made upon an account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MoneyRow {
    /// Account.
    pub account: u32,
    /// What kind.
    pub kind: LedgerKind,
    /// How many.
    pub movements: u64,
    /// What they come to, ticks.
    pub ticks: i64,
}

/// The kinds of movements that people make and the registry keeps, each on its own row there.
pub const MADE_BY_PEOPLE: [LedgerKind; 6] = [
    LedgerKind::Purchase,
    LedgerKind::Reversal,
    LedgerKind::Refund,
    LedgerKind::FreeIssue,
    LedgerKind::Adjustment,
    LedgerKind::OpeningBalance,
];

/// What was paid, and what was given back of it, by the changes up to `$1`.
const PAID: &str = "\
    SELECT account, 'purchase' AS kind, paid AS ticks FROM purchase WHERE outbox <= $1 \
    UNION ALL SELECT account, 'purchase', paid FROM sale WHERE kind = 'purchase' AND outbox <= $1 \
    UNION ALL SELECT s.account, 'reversal', -s.paid FROM sale_deed d JOIN sale s ON s.id = d.sale \
     WHERE d.deed = 'reversal' AND s.kind = 'purchase' AND d.outbox <= $1 \
    UNION ALL SELECT s.account, 'refund', -d.amount FROM sale_deed d JOIN sale s ON s.id = d.sale \
     WHERE d.deed = 'refund' AND d.outbox <= $1 \
    UNION ALL SELECT account, 'adjustment', amount FROM adjustment WHERE outbox <= $1";

/// What was given away, and taken back again. The amount is in the sale's lines.
const GIVEN: &str = "\
    SELECT account, detail, 1 FROM sale WHERE kind = 'free_issue' AND outbox <= $1 \
    UNION ALL SELECT s.account, s.detail, -1 FROM sale_deed d JOIN sale s ON s.id = d.sale \
     WHERE d.deed = 'reversal' AND s.kind = 'free_issue' AND d.outbox <= $1";

/// What persons booked.
const BOOKED: &str = "SELECT body FROM act WHERE kind = 'booking' AND outbox <= $1";

/// Count and sum by account and code of the kind.
type Sums = BTreeMap<(u32, u8), (u64, i64)>;

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

    /// Whether the file is of this program's version.
    ///
    /// # Errors
    /// [`RegistryError::OldSchema`], [`RegistryError::Schema`] for a later one.
    pub async fn check_version(&mut self) -> Result<(), RegistryError> {
        let newest: i64 = sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations")
            .fetch_one(&mut self.connection)
            .await?;
        let known = super::MIGRATIONS.iter().map(|migration| migration.version).max();
        let (path, known) = (self.path.clone(), known.unwrap_or_default());
        match newest.cmp(&known) {
            Ordering::Less => Err(RegistryError::OldSchema { path, found: newest, known }),
            Ordering::Equal => Ok(()),
            Ordering::Greater => {
                let source = MigrateError::VersionMissing(newest);
                Err(RegistryError::Schema { path, source })
            }
        }
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

    /// The accounts, ascending.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub async fn accounts(&mut self) -> Result<Vec<u32>, RegistryError> {
        let ids = sqlx::query("SELECT id FROM account ORDER BY id");
        let ids = ids.fetch_all(&mut self.connection).await?;
        ids.iter().map(|row| u32_of(row, 0)).collect()
    }

    /// What people made by the changes up to `through`, by account and kind, ascending.
    ///
    /// # Errors
    /// [`RegistryError::Database`]; [`RegistryError::Damaged`] for what does not read.
    pub async fn money(&mut self, through: OutboxId) -> Result<Vec<MoneyRow>, RegistryError> {
        let mut sums = Sums::new();
        let paid = format!(
            "SELECT account, kind, COUNT(*), SUM(ticks) FROM ({PAID}) AS movements \
             WHERE ticks <> 0 GROUP BY account, kind"
        );
        for row in self.rows(&paid, through).await? {
            let name: &str = row.try_get(1)?;
            let kind = MADE_BY_PEOPLE.into_iter().find(|kind| kind.name() == name);
            let key = (u32_of(&row, 0)?, parsed(name, kind)?.code());
            sums.insert(key, (to_u64(row.try_get(2)?)?, row.try_get(3)?));
        }
        let mut add = |account, kind: LedgerKind, ticks: i64| {
            let sum = sums.entry((account, kind.code())).or_default();
            if ticks != 0 {
                *sum = (sum.0 + 1, sum.1.saturating_add(ticks));
            }
        };
        for row in self.rows(GIVEN, through).await? {
            let (split, sign): (Split, i64) = (json(row.try_get(1)?)?, row.try_get(2)?);
            add(u32_of(&row, 0)?, LedgerKind::FreeIssue, sign * split.credit.ticks());
        }
        for row in self.rows(BOOKED, through).await? {
            let text: &str = row.try_get(0)?;
            let Change::Book(booking) = json(text)? else {
                return Err(RegistryError::Damaged(format!("{text:?} is no booking")));
            };
            add(booking.account.0, booking.kind, booking.amount.ticks());
        }
        sums.retain(|_, (movements, _)| *movements > 0);
        let row = |((account, code), (movements, ticks))| {
            let kind = LedgerKind::from_code(code).expect("a known kind's own code");
            MoneyRow { account, kind, movements, ticks }
        };
        Ok(sums.into_iter().map(row).collect())
    }

    /// What was agreed of debts and what was recovered, by account, ascending, as they stand now.
    ///
    /// # Errors
    /// [`RegistryError::Database`].
    pub async fn debts(&mut self) -> Result<Vec<MoneyRow>, RegistryError> {
        let sums = "SELECT account, COUNT(*), SUM(amount), SUM(left_over) FROM debt \
             GROUP BY account ORDER BY account";
        let mut debts = Vec::new();
        for row in sqlx::query(sums).fetch_all(&mut self.connection).await? {
            let (account, movements) = (u32_of(&row, 0)?, to_u64(row.try_get(1)?)?);
            let (agreed, left): (i64, i64) = (row.try_get(2)?, row.try_get(3)?);
            let recovered = left.saturating_sub(agreed);
            let kinds = [(LedgerKind::DebtAgreed, agreed), (LedgerKind::DebtRecovery, recovered)];
            let row = |(kind, ticks)| MoneyRow { account, kind, movements, ticks };
            debts.extend(kinds.map(row));
        }
        Ok(debts)
    }

    async fn rows(
        &mut self,
        text: &str,
        through: OutboxId,
    ) -> Result<Vec<SqliteRow>, RegistryError> {
        let rows = sqlx::query(sqlx::AssertSqlSafe(text.to_owned())).bind(to_i64(through.0)?);
        Ok(rows.fetch_all(&mut self.connection).await?)
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
