//! Rows to values. SQL integers are 64-bit and signed; a value out of its range is damage.

use meter::{AccountId, LocalDate, Role};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Executor, Row as _, Sqlite};

use super::RegistryError;

/// The row that an idempotency key names; `select` ends with the table's name.
pub(super) async fn by_key<'e>(
    sql: impl Executor<'e, Database = Sqlite>,
    select: &str,
    key: &str,
) -> Result<Option<SqliteRow>, sqlx::Error> {
    let text = format!("{select} WHERE idempotency_key = $1");
    sqlx::query(AssertSqlSafe(text)).bind(key.to_owned()).fetch_optional(sql).await
}

/// A page of an account's rows: those after an id, by id.
pub(super) async fn of_account<'e, T>(
    sql: impl Executor<'e, Database = Sqlite>,
    select: &str,
    (account, after, limit): (AccountId, u64, u32),
    read: impl Fn(&SqliteRow) -> Result<T, RegistryError>,
) -> Result<Vec<T>, RegistryError> {
    let text = format!("{select} WHERE account = $1 AND id > $2 ORDER BY id LIMIT $3");
    let rows = sqlx::query(AssertSqlSafe(text)).bind(i64::from(account.0));
    let rows = rows.bind(to_i64(after)?).bind(i64::from(limit)).fetch_all(sql).await?;
    rows.iter().map(read).collect()
}

/// A row that was read: over the pool, or over the till's own connection.
pub(super) trait Columns {
    /// A number, or NULL.
    fn integer(&self, column: usize) -> Result<Option<i64>, RegistryError>;
    /// Text that is never NULL.
    fn text(&self, column: usize) -> Result<&str, RegistryError>;

    /// A number that is never NULL.
    fn number(&self, column: usize) -> Result<i64, RegistryError> {
        let value = self.integer(column)?;
        value.ok_or_else(|| RegistryError::Damaged(format!("column {column} is NULL")))
    }
}

impl Columns for SqliteRow {
    fn integer(&self, column: usize) -> Result<Option<i64>, RegistryError> {
        Ok(self.try_get(column)?)
    }

    fn text(&self, column: usize) -> Result<&str, RegistryError> {
        Ok(self.try_get(column)?)
    }
}

impl Columns for rusqlite::Row<'_> {
    fn integer(&self, column: usize) -> Result<Option<i64>, RegistryError> {
        Ok(self.get(column)?)
    }

    fn text(&self, column: usize) -> Result<&str, RegistryError> {
        let value = self.get_ref(column)?.as_str();
        value.map_err(|error| RegistryError::Damaged(error.to_string()))
    }
}

/// A column as a 32-bit number, 0 for NULL: ids use 0 for "none".
pub(super) fn u32_of(row: &impl Columns, column: usize) -> Result<u32, RegistryError> {
    let value = row.integer(column)?.unwrap_or_default();
    u32::try_from(value).map_err(|_| RegistryError::Damaged(format!("{value} is no 32-bit number")))
}

/// A number that is never negative.
pub(super) fn to_u64(value: i64) -> Result<u64, RegistryError> {
    u64::try_from(value).map_err(|_| RegistryError::Damaged(format!("{value} is negative")))
}

/// A number for SQL.
pub(super) fn to_i64(value: u64) -> Result<i64, RegistryError> {
    i64::try_from(value).map_err(|_| RegistryError::Damaged(format!("{value} is over 63 bits")))
}

/// An id for SQL: "none" is NULL.
pub(super) fn nullable(id: u32) -> Option<i64> {
    (id != 0).then(|| i64::from(id))
}

/// Text that must read as a `T`.
pub(super) fn parsed<T>(text: &str, value: Option<T>) -> Result<T, RegistryError> {
    value.ok_or_else(|| RegistryError::Damaged(format!("{text:?} does not read")))
}

/// A date column.
pub(super) fn date(text: &str) -> Result<LocalDate, RegistryError> {
    parsed(text, LocalDate::parse(text))
}

/// JSON of ours.
pub(super) fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, RegistryError> {
    serde_json::from_str(text).map_err(|error| RegistryError::Damaged(error.to_string()))
}

/// A role's name in SQL.
pub(super) const fn role_name(role: Role) -> &'static str {
    match role {
        Role::Consumer => "consumer",
        Role::Supply => "supply",
    }
}

/// A role by its name.
pub(super) fn role_of(name: &str) -> Option<Role> {
    match name {
        "consumer" => Some(Role::Consumer),
        "supply" => Some(Role::Supply),
        _ => None,
    }
}
