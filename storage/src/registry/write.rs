//! One writing transaction: rows, the changes that tell of them, and the ids of both.

use meter::{Change, OutboxId};
use sqlx::{Sqlite, SqliteConnection, Transaction};

use super::outbox::Fresh;
use super::row::{to_i64, to_u64};
use super::{DeviceRev, OutboxRow, Registry, RegistryError, Turn};

/// Changes that one outbox row holds at most.
pub(super) const CHANGES_MAX: usize = 1000;

/// Takes ids of a kind: how many, and the kind. The answer is the last.
const ADVANCE: &str = "UPDATE counter SET last = last + $1 WHERE name = $2 RETURNING last";

/// Its values are the id and the changes.
pub(super) const INSERT_OUTBOX: &str = "INSERT INTO outbox (id, payload, sent) VALUES ($1, $2, 0)";

/// A transaction under the one writer. Dropped without [`Write::commit`], it leaves no trace.
pub(super) struct Write<'r> {
    registry: &'r Registry,
    _turn: Turn,
    tx: Transaction<'static, Sqlite>,
    changes: Vec<Change>,
    last_outbox: Option<OutboxId>,
    fresh: Fresh,
    has_dimensions: bool,
    device_rev: Option<DeviceRev>,
}

impl Registry {
    /// Begins to write; waits for the writer before. What the till remembers may change with it.
    pub(super) async fn write(&self) -> Result<Write<'_>, RegistryError> {
        let turn = self.turn().await?;
        let tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        self.desk().forget();
        Ok(Write {
            registry: self,
            _turn: turn,
            tx,
            changes: Vec::new(),
            last_outbox: None,
            fresh: Fresh::default(),
            has_dimensions: false,
            device_rev: None,
        })
    }
}

impl Write<'_> {
    /// The connection, for statements.
    pub(super) fn sql(&mut self) -> &mut SqliteConnection {
        &mut self.tx
    }

    /// The next id of a kind.
    pub(super) async fn next_id(&mut self, counter: &'static str) -> Result<u32, RegistryError> {
        let id = self.advance(counter, 1).await?;
        u32::try_from(id).map_err(|_| RegistryError::Damaged(format!("ids of {counter} used up")))
    }

    /// Takes `count` ids of a kind and returns the last.
    pub(super) async fn advance(
        &mut self,
        counter: &'static str,
        count: u64,
    ) -> Result<u64, RegistryError> {
        let last = sqlx::query_scalar(ADVANCE).bind(to_i64(count)?).bind(counter);
        to_u64(last.fetch_one(self.sql()).await?)
    }

    /// The revision that devices written by this transaction carry.
    pub(super) async fn device_rev(&mut self) -> Result<DeviceRev, RegistryError> {
        if let Some(rev) = self.device_rev {
            return Ok(rev);
        }
        let rev = DeviceRev(self.advance("device_rev", 1).await?);
        self.device_rev = Some(rev);
        Ok(rev)
    }

    /// Tells the books of a change, in the outbox row that this transaction writes.
    pub(super) async fn tell(&mut self, change: Change) -> Result<(), RegistryError> {
        self.has_dimensions |= is_of_dimensions(&change);
        self.changes.push(change);
        if self.changes.len() >= CHANGES_MAX {
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes the outbox row of the changes told so far.
    pub(super) async fn flush(&mut self) -> Result<Option<OutboxId>, RegistryError> {
        if !self.changes.is_empty() {
            let payload = payload_of(&self.changes);
            let (id, length) = (self.advance("outbox", 1).await?, payload.len());
            let query = sqlx::query(INSERT_OUTBOX).bind(to_i64(id)?).bind(payload);
            query.execute(self.sql()).await?;
            let (id, changes) = (OutboxId(id), std::mem::take(&mut self.changes).into());
            self.fresh.push(OutboxRow { id, changes }, length);
            self.last_outbox = Some(id);
        }
        Ok(self.last_outbox)
    }

    /// Makes all of it durable and wakes the relay. The answer is the last outbox row written.
    pub(super) async fn commit(mut self) -> Result<Option<OutboxId>, RegistryError> {
        let outbox = self.flush().await?;
        self.tx.commit().await?;
        if let Some(id) = outbox {
            self.registry.hand_over(self.fresh, id);
            if self.has_dimensions {
                self.registry.dimensions.send_modify(|newest| *newest = id.max(*newest));
            }
        }
        if let Some(rev) = self.device_rev {
            self.registry.devices.send_replace(rev);
        }
        Ok(outbox)
    }

    /// As [`Write::commit`], for a transaction that told of a change.
    pub(super) async fn commit_told(self) -> Result<OutboxId, RegistryError> {
        let outbox = self.commit().await?;
        Ok(outbox.expect("a change was told before"))
    }
}

/// Changes as the outbox has them.
pub(super) fn payload_of(changes: &[Change]) -> String {
    serde_json::to_string(changes).expect("changes have string keys only")
}

/// Whether analysts' tables of meters and accounts change with it.
const fn is_of_dimensions(change: &Change) -> bool {
    use Change::{Account, Close, Install, Meter, Plan, Remove, Replace, Switch};
    matches!(
        change,
        Account(_)
            | Close(_)
            | Install(_)
            | Meter(_)
            | Plan(_)
            | Remove(_)
            | Replace(_)
            | Switch(_)
    )
}
