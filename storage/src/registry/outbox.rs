//! The relay's side of the outbox: rows not yet in the log, in order.

use meter::{Change, OutboxId};
use sqlx::Row as _;

use super::row::{json, to_i64, to_u64};
use super::{Registry, RegistryError};

/// Changes on their way to the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OutboxRow {
    /// Its number; rows reach the log ascending.
    pub id: OutboxId,
    /// What changed, in order; at most 1,000.
    pub changes: Box<[Change]>,
}

/// Characters of the rows taken at once, the last one aside; as entries they are shorter.
const PAYLOAD_MAX: i64 = 262_144;

impl Registry {
    /// The next rows after `after` that the log does not hold yet: at most `limit`, and no more
    /// than fit a commit of the log, however many rows an import made.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer or a row is damaged.
    pub async fn next_outbox(
        &self,
        after: OutboxId,
        limit: u32,
    ) -> Result<Vec<OutboxRow>, RegistryError> {
        let rows = sqlx::query(
            "SELECT id, payload FROM (SELECT id, payload, \
             sum(length(payload)) OVER (ORDER BY id) - length(payload) AS ahead FROM \
             (SELECT id, payload FROM outbox WHERE sent = 0 AND id > $1 ORDER BY id LIMIT $2)) \
             WHERE ahead < $3 ORDER BY id",
        )
        .bind(to_i64(after.0)?)
        .bind(i64::from(limit))
        .bind(PAYLOAD_MAX)
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let id = OutboxId(to_u64(row.try_get(0)?)?);
                Ok(OutboxRow { id, changes: json(row.try_get(1)?)? })
            })
            .collect()
    }

    /// The newest row that the log is known to hold; 0 when there is none. Every row before it is
    /// held too.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn sent_through(&self) -> Result<OutboxId, RegistryError> {
        let newest = sqlx::query_scalar("SELECT max(id) FROM outbox WHERE sent = 1");
        let newest: Option<i64> = newest.fetch_one(&self.readers).await?;
        Ok(OutboxId(to_u64(newest.unwrap_or_default())?))
    }

    /// Marks every row up to `through` as held by the log, durably. Call it after the log's sync;
    /// when it is lost, the rows are sent again and dropped by their id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn mark_sent(&self, through: OutboxId) -> Result<(), RegistryError> {
        sqlx::query("UPDATE outbox SET sent = 1, payload = '' WHERE sent = 0 AND id <= $1")
            .bind(to_i64(through.0)?)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}
