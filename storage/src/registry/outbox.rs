//! The relay's side of the outbox: rows not yet in the log, in order. Those just written are
//! handed over in memory; the table has them too, for the next start.

use std::collections::VecDeque;
use std::sync::PoisonError;

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
const PAYLOAD_MAX: usize = 262_144;

/// The newest rows, ascending: no more than fit a commit of the log.
#[derive(Debug, Default)]
pub(super) struct Fresh {
    rows: VecDeque<(OutboxRow, usize)>,
    characters: usize,
}

impl Fresh {
    pub(super) fn push(&mut self, row: OutboxRow, characters: usize) {
        self.rows.push_back((row, characters));
        self.characters += characters;
        while self.characters > PAYLOAD_MAX {
            self.drop_oldest();
        }
    }

    /// The rows that follow `after` without a gap; older ones are forgotten.
    fn take_after(&mut self, after: OutboxId, limit: u32) -> Vec<OutboxRow> {
        let mut next = OutboxId(after.0 + 1);
        let mut rows = Vec::new();
        while let Some((row, _)) = self.rows.front()
            && row.id <= next
            && (rows.len() as u64) < u64::from(limit)
        {
            let (row, characters) = self.rows.pop_front().expect("it was looked at");
            self.characters -= characters;
            if row.id == next {
                next.0 += 1;
                rows.push(row);
            }
        }
        rows
    }

    fn drop_oldest(&mut self) {
        if let Some((_, characters)) = self.rows.pop_front() {
            self.characters -= characters;
        }
    }
}

impl Registry {
    /// Tells the relay of rows that are durable, up to `newest`.
    pub(super) fn hand_over(&self, rows: Fresh, newest: OutboxId) {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        for (row, characters) in rows.rows {
            fresh.push(row, characters);
        }
        drop(fresh);
        // A later commit may have been told of first: it made this one durable too.
        self.outbox.send_if_modified(|told| {
            let is_newer = *told < newest;
            *told = newest.max(*told);
            is_newer
        });
    }

    /// Waits until a row of the outbox is durable, and with it what was committed before.
    ///
    /// # Errors
    /// [`RegistryError::NotDurable`] when the disk has refused it.
    pub(super) async fn durable(&self, row: OutboxId) -> Result<(), RegistryError> {
        let mut newest = self.outbox.subscribe();
        // A sync that fails wakes those who wait.
        let told = newest.wait_for(|newest| *newest >= row || self.is_broken()).await;
        let is_durable = told.is_ok_and(|newest| *newest >= row);
        if is_durable { Ok(()) } else { Err(RegistryError::NotDurable(None)) }
    }

    fn handed_over(&self, after: OutboxId, limit: u32) -> Vec<OutboxRow> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.take_after(after, limit)
    }

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
        // What is behind it is not durable yet.
        let newest = *self.outbox.borrow();
        if newest <= after {
            return Ok(Vec::new());
        }
        let fresh = self.handed_over(after, limit);
        if !fresh.is_empty() {
            return Ok(fresh);
        }
        let rows = sqlx::query(
            "SELECT id, payload FROM (SELECT id, payload, \
             sum(length(payload)) OVER (ORDER BY id) - length(payload) AS ahead FROM \
             (SELECT id, payload FROM outbox WHERE sent = 0 AND id > $1 AND id <= $4 \
             ORDER BY id LIMIT $2)) WHERE ahead < $3 ORDER BY id",
        )
        .bind(to_i64(after.0)?)
        .bind(i64::from(limit))
        .bind(PAYLOAD_MAX as i64)
        .bind(to_i64(newest.0)?)
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
        let _turn = self.turn().await?;
        sqlx::query("UPDATE outbox SET sent = 1, payload = '' WHERE sent = 0 AND id <= $1")
            .bind(to_i64(through.0)?)
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64) -> OutboxRow {
        OutboxRow { id: OutboxId(id), changes: Box::default() }
    }

    #[test]
    fn fresh_rows_are_given_once_in_order_and_without_a_gap() {
        let ids = |rows: Vec<OutboxRow>| rows.iter().map(|row| row.id.0).collect::<Vec<_>>();
        let mut fresh = Fresh::default();
        for id in [2, 3, 4, 6] {
            fresh.push(row(id), 10);
        }
        assert_eq!(ids(fresh.take_after(OutboxId(0), 9)), [] as [u64; 0], "1 is not among them");
        assert_eq!(ids(fresh.take_after(OutboxId(2), 1)), [3], "2 is in the log already");
        assert_eq!(ids(fresh.take_after(OutboxId(3), 9)), [4], "5 is not among them");
        assert_eq!(ids(fresh.take_after(OutboxId(5), 9)), [6]);
        assert_eq!((fresh.rows.len(), fresh.characters), (0, 0));
    }

    #[test]
    fn fresh_rows_are_bounded() {
        let mut fresh = Fresh::default();
        fresh.push(row(1), PAYLOAD_MAX);
        fresh.push(row(2), 1);
        assert_eq!((fresh.rows.len(), fresh.characters), (1, 1));
        fresh.push(row(3), PAYLOAD_MAX + 1);
        assert!(fresh.rows.is_empty() && fresh.characters == 0, "it is read from the table");
    }
}
