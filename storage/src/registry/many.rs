//! Statements over many values. Each goes out in pieces of a power of two, so that there are few
//! texts, and SQLite keeps them prepared: preparing costs more than running.

use sqlx::query_builder::Separated;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::RegistryError;

/// Values of one row on their way into a statement.
pub(super) type Values<'q, 's> = Separated<'q, Sqlite, &'s str>;

/// Rows whose column is one of `values`; `text` ends with `IN `.
pub(super) async fn select<T>(
    sql: &mut SqliteConnection,
    text: &str,
    values: &[T],
) -> Result<Vec<SqliteRow>, RegistryError>
where
    T: Clone + Send + Sync + for<'q> sqlx::Encode<'q, Sqlite> + sqlx::Type<Sqlite> + 'static,
{
    let Some(last) = values.last() else { return Ok(Vec::new()) };
    let mut query = QueryBuilder::<Sqlite>::new(text);
    query.push("(");
    let mut list = query.separated(", ");
    // A value that stands twice finds its row once.
    let padded = values.iter().chain(std::iter::repeat(last));
    for value in padded.take(values.len().next_power_of_two()) {
        list.push_bind(value.clone());
    }
    query.push(")");
    Ok(query.build().fetch_all(sql).await?)
}

/// Writes a row for each of `rows`: `head` is followed by the values, and they by `tail`.
pub(super) async fn write<T>(
    sql: &mut SqliteConnection,
    (head, tail): (&str, &str),
    mut rows: &[T],
    mut bind: impl FnMut(&mut Values<'_, '_>, &T),
) -> Result<(), RegistryError> {
    while !rows.is_empty() {
        let (piece, rest) = rows.split_at(1 << rows.len().ilog2());
        let mut query = QueryBuilder::<Sqlite>::new(head);
        query.push_values(piece, |mut values, row| bind(&mut values, row));
        query.push(tail);
        query.build().execute(&mut *sql).await?;
        rows = rest;
    }
    Ok(())
}
