//! Commands to meters: the mailbox that outlives the process, and its history.
//!
//! Whoever wants a meter to do something calls [`Registry::command`]; the node's command service
//! watches the mailbox, and [`Registry::command_outcome`] waits for the end.

use meter::{Command, CommandId, CommandOutcome, MeterId, SystemTitle, UnixSeconds};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use tokio::sync::watch;

use super::device::title_of;
use super::entry::check_key;
use super::place::check_text;
use super::row::{by_key, json, to_i64, to_u64, u32_of};
use super::{Refusal, Registry, RegistryError};

/// A command asked for.
#[derive(Clone, Debug)]
pub struct NewCommand {
    /// The caller's key, 1 to 128 characters: names this command for ever.
    pub key: String,
    /// To which meter.
    pub meter: MeterId,
    /// What.
    pub command: Command,
    /// When it was asked for.
    pub at: UnixSeconds,
    /// From when on it is given up.
    pub expires_at: UnixSeconds,
    /// Id of the API token that asked, 0 for the node itself.
    pub actor: u32,
}

/// A command on record.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CommandRow {
    /// Its id.
    pub id: CommandId,
    /// The caller's key.
    pub key: String,
    /// To which meter.
    pub meter: MeterId,
    /// What.
    pub command: Command,
    /// When it was asked for.
    pub at: UnixSeconds,
    /// From when on it is given up.
    pub expires_at: UnixSeconds,
    /// Attempts handed to the sockets so far. A command that was attempted may have reached the
    /// meter, whatever the node knows of it.
    pub attempts: u32,
    /// Whether it shall no longer be sent.
    pub is_withdrawn: bool,
    /// What came of it and when, once it ended.
    pub ended: Option<(CommandOutcome, UnixSeconds)>,
}

/// How a meter is reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CommandRoute {
    /// The meter's system title.
    pub meter: SystemTitle,
    /// That of the gateway it is behind.
    pub via: Option<SystemTitle>,
}

pub(super) const COLUMNS: &str = "SELECT id, idempotency_key, meter, command, at, expires_at, \
                                  attempts, outcome, ended_at, withdrawn, sale, token_order \
                                  FROM command ";

impl Registry {
    /// Records a command, or finds the one this key names. Durable when it returns.
    ///
    /// # Errors
    /// [`Refusal::KeyReused`] when the key named another command, [`Refusal::NotFound`] (meter),
    /// [`Refusal::Invalid`].
    pub async fn command(&self, new: &NewCommand) -> Result<CommandRow, RegistryError> {
        check_text("Idempotency-Key", &new.key, 128)?;
        let mut write = self.write().await?;
        if let Some(row) = by_key(write.sql(), COLUMNS, &new.key).await? {
            let row = command_of(&row)?;
            let is_same = row.meter == new.meter && row.command == new.command;
            return if is_same { Ok(row) } else { Err(Refusal::KeyReused.into()) };
        }
        if new.actor != 0 {
            check_key(&new.key)?;
        }
        if new.expires_at <= new.at {
            return Err(Refusal::invalid("expires_in_s", "must be above 0").into());
        }
        let meter: Option<i64> = sqlx::query_scalar("SELECT id FROM meter WHERE id = $1")
            .bind(i64::from(new.meter.0))
            .fetch_optional(write.sql())
            .await?;
        meter.ok_or_else(|| Refusal::not_found("meter", new.meter))?;
        let id = write.advance("command", 1).await?;
        let command = serde_json::to_string(&new.command).expect("a command has string keys only");
        sqlx::query(
            "INSERT INTO command (id, idempotency_key, meter, command, actor, at, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(to_i64(id)?)
        .bind(&new.key)
        .bind(i64::from(new.meter.0))
        .bind(command)
        .bind(i64::from(new.actor))
        .bind(i64::from(new.at.0))
        .bind(i64::from(new.expires_at.0))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        self.commands.send_modify(|turn| *turn += 1);
        self.command_by_id(CommandId(id)).await
    }

    /// Tells whenever a command came, was withdrawn, or ended.
    #[must_use]
    pub fn watch_commands(&self) -> watch::Receiver<u64> {
        self.commands.subscribe()
    }

    /// Waits until a command has ended, at the latest when it expires, and says what came of it.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn command_outcome(&self, id: CommandId) -> Result<CommandOutcome, RegistryError> {
        let mut changes = self.watch_commands();
        loop {
            changes.borrow_and_update();
            if let Some((outcome, _)) = self.command_by_id(id).await?.ended {
                return Ok(outcome);
            }
            changes.changed().await.map_err(|_| sqlx::Error::PoolClosed)?;
        }
    }

    /// Asks that a command be no longer sent. What was sent cannot be called back: the outcome
    /// says [`CommandOutcome::Withdrawn`] only when nothing was.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn withdraw_command(&self, id: CommandId) -> Result<(), RegistryError> {
        self.command_by_id(id).await?;
        let mut write = self.write().await?;
        sqlx::query("UPDATE command SET withdrawn = 1 WHERE id = $1 AND outcome IS NULL")
            .bind(to_i64(id.0)?)
            .execute(write.sql())
            .await?;
        write.commit().await?;
        self.commands.send_modify(|turn| *turn += 1);
        Ok(())
    }

    /// The command with this id.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn command_by_id(&self, id: CommandId) -> Result<CommandRow, RegistryError> {
        let sql = format!("{COLUMNS} WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(to_i64(id.0)?);
        let row = row.fetch_optional(&self.readers).await?;
        command_of(&row.ok_or_else(|| Refusal::not_found("command", id))?)
    }

    /// Commands of a meter after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn commands(
        &self,
        meter: MeterId,
        after: CommandId,
        limit: u32,
    ) -> Result<Vec<CommandRow>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE meter = $1 AND id > $2 ORDER BY id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(meter.0))
            .bind(to_i64(after.0)?)
            .bind(i64::from(limit));
        rows.fetch_all(&self.readers).await?.iter().map(command_of).collect()
    }

    /// Commands that have not ended, after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn open_commands(
        &self,
        after: CommandId,
        limit: u32,
    ) -> Result<Vec<CommandRow>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE outcome IS NULL AND id > $1 ORDER BY id LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(to_i64(after.0)?);
        let rows = rows.bind(i64::from(limit)).fetch_all(&self.readers).await?;
        rows.iter().map(command_of).collect()
    }

    /// Commands that were withdrawn and have not ended.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn withdrawn_commands(&self) -> Result<Vec<(CommandId, MeterId)>, RegistryError> {
        let sql = "SELECT id, meter FROM command WHERE withdrawn = 1 AND outcome IS NULL";
        let rows = sqlx::query(sql).fetch_all(&self.readers).await?;
        let id =
            |row: &SqliteRow| Ok((CommandId(to_u64(row.try_get(0)?)?), MeterId(u32_of(row, 1)?)));
        rows.iter().map(id).collect()
    }

    /// Notes that a command is about to be attempted; durable before anything is sent.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn command_attempted(&self, id: CommandId) -> Result<(), RegistryError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE command SET attempts = attempts + 1 WHERE id = $1")
            .bind(to_i64(id.0)?)
            .execute(write.sql())
            .await?;
        write.commit().await.map(drop)
    }

    /// Notes what came of a command. The first end stands.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn command_ended(
        &self,
        id: CommandId,
        outcome: CommandOutcome,
        at: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let outcome = serde_json::to_string(&outcome).expect("an outcome has string keys only");
        let mut write = self.write().await?;
        sqlx::query(
            "UPDATE command SET outcome = $1, ended_at = $2 WHERE id = $3 AND outcome IS NULL",
        )
        .bind(outcome)
        .bind(i64::from(at.0))
        .bind(to_i64(id.0)?)
        .execute(write.sql())
        .await?;
        write.commit().await?;
        self.commands.send_modify(|turn| *turn += 1);
        Ok(())
    }

    /// Takes `count` invocation counters of the head-end that nobody had before; the first of them.
    ///
    /// # Errors
    /// [`RegistryError::Damaged`] when 32 bits are used up.
    pub async fn lease_command_counters(&self, count: u32) -> Result<u32, RegistryError> {
        let mut write = self.write().await?;
        let last = write.advance("command_counter", count.into()).await?;
        write.commit().await?;
        let last = u32::try_from(last)
            .map_err(|_| RegistryError::Damaged("counters of commands used up".to_owned()))?;
        Ok(last - count + 1)
    }

    /// How a meter is reached.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn command_route(&self, meter: MeterId) -> Result<CommandRoute, RegistryError> {
        let row = sqlx::query(
            "SELECT m.system_title, g.system_title FROM meter m \
             LEFT JOIN gateway g ON g.id = m.gateway WHERE m.id = $1",
        )
        .bind(i64::from(meter.0))
        .fetch_optional(&self.readers)
        .await?
        .ok_or_else(|| Refusal::not_found("meter", meter))?;
        let via: Option<&[u8]> = row.try_get(1)?;
        let meter = title_of(row.try_get(0)?)?;
        Ok(CommandRoute { meter, via: via.map(title_of).transpose()? })
    }
}

pub(super) fn command_of(row: &SqliteRow) -> Result<CommandRow, RegistryError> {
    let outcome: Option<&str> = row.try_get(7)?;
    let ended_at = UnixSeconds(u32_of(row, 8)?);
    Ok(CommandRow {
        id: CommandId(to_u64(row.try_get(0)?)?),
        key: row.try_get(1)?,
        meter: MeterId(u32_of(row, 2)?),
        command: json(row.try_get(3)?)?,
        at: UnixSeconds(u32_of(row, 4)?),
        expires_at: UnixSeconds(u32_of(row, 5)?),
        attempts: u32_of(row, 6)?,
        is_withdrawn: u32_of(row, 9)? != 0,
        ended: outcome.map(json).transpose()?.map(|outcome| (outcome, ended_at)),
    })
}
