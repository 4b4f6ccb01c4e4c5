//! Vending keys at rest, and campaigns that bring meters another key.

use meter::{MeterId, UnixSeconds};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use zeroize::Zeroizing;

use super::place::check_text;
use super::row::{parsed, to_i64, to_u64, u32_of};
use super::token_meter::{KeySetting, u8_of};
use super::{Refusal, Registry, RegistryError};

/// What a campaign does now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CampaignState {
    /// It goes on.
    Running,
    /// A person stopped it for now.
    Paused,
    /// Every meter of its selection is marked.
    Done,
}

/// A campaign: meters with one key are to get another, each with its next sale.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Campaign {
    /// The id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Selects meters of this supply group.
    pub from_sgc: u32,
    /// And of this key revision, where given.
    pub from_krn: Option<u8>,
    /// The key they are to hold; the tariff index stays where none is given.
    pub to: KeySetting,
    /// Whether the tariff index changes too.
    pub changes_ti: bool,
    /// What it does now.
    pub state: CampaignState,
    /// Meters of the selection when it began.
    pub total: u64,
    /// Meters marked so far.
    pub marked: u64,
    /// Meters up to this one were looked at.
    pub cursor: MeterId,
}

const COLUMNS: &str = "SELECT id, name, from_sgc, from_krn, to_sgc, to_kt, to_krn, to_ti, state, \
     total, done, cursor FROM campaign ";

impl CampaignState {
    const ALL: [Self; 3] = [Self::Running, Self::Paused, Self::Done];

    /// The name in SQL and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
        }
    }
}

impl Registry {
    /// Begins a campaign.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub async fn add_campaign(
        &self,
        new: &Campaign,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<Campaign, RegistryError> {
        check_text("name", &new.name, 200)?;
        let mut write = self.write().await?;
        let id = write.next_id("campaign").await?;
        let krn = new.from_krn.map(i64::from);
        let total: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM token_meter WHERE sgc = $1 AND ($2 IS NULL OR krn = $2)",
        )
        .bind(i64::from(new.from_sgc))
        .bind(krn)
        .fetch_one(write.sql())
        .await?;
        sqlx::query(
            "INSERT INTO campaign (id, name, from_sgc, from_krn, to_sgc, to_kt, to_krn, to_ti, \
             state, total, done, failed, cursor, actor, at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'running', $9, 0, 0, 0, $10, $11)",
        )
        .bind(i64::from(id))
        .bind(&new.name)
        .bind(i64::from(new.from_sgc))
        .bind(krn)
        .bind(i64::from(new.to.sgc))
        .bind(i64::from(new.to.kt))
        .bind(i64::from(new.to.krn))
        .bind(new.changes_ti.then_some(i64::from(new.to.ti)))
        .bind(total)
        .bind(i64::from(actor))
        .bind(i64::from(now.0))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        let (state, total) = (CampaignState::Running, to_u64(total)?);
        Ok(Campaign { id, state, total, marked: 0, cursor: MeterId::NONE, ..new.clone() })
    }

    /// One campaign.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn campaign(&self, id: u32) -> Result<Campaign, RegistryError> {
        let sql = format!("{COLUMNS} WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(id));
        let row = row.fetch_optional(&self.readers).await?;
        campaign_of(&row.ok_or_else(|| Refusal::not_found("campaign", id))?)
    }

    /// Campaigns after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn campaigns(&self, after: u32, limit: u32) -> Result<Vec<Campaign>, RegistryError> {
        let sql = format!("{COLUMNS} WHERE id > $1 ORDER BY id LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(after));
        let rows = rows.bind(i64::from(limit)).fetch_all(&self.readers).await?;
        rows.iter().map(campaign_of).collect()
    }

    /// Pauses a campaign or lets it go on; one that is done stays done.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn set_campaign_state(
        &self,
        id: u32,
        state: CampaignState,
    ) -> Result<Campaign, RegistryError> {
        let mut write = self.write().await?;
        sqlx::query("UPDATE campaign SET state = $1 WHERE id = $2 AND state <> 'done'")
            .bind(state.name())
            .bind(i64::from(id))
            .execute(write.sql())
            .await?;
        write.commit().await?;
        self.campaign(id).await
    }

    /// Marks the next meters of a running campaign, at most `meters_max`; what was marked stays so
    /// whenever the node stops. Returns whether there is more to do.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn step_campaign(&self, id: u32, meters_max: u32) -> Result<bool, RegistryError> {
        let mut write = self.write().await?;
        let sql = format!("{COLUMNS} WHERE id = $1 AND state = 'running'");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(id));
        let Some(row) = row.fetch_optional(write.sql()).await? else { return Ok(false) };
        let campaign = campaign_of(&row)?;
        let meters: Vec<i64> = sqlx::query_scalar(
            "SELECT meter FROM token_meter WHERE meter > $1 AND sgc = $2 AND \
             ($3 IS NULL OR krn = $3) ORDER BY meter LIMIT $4",
        )
        .bind(i64::from(campaign.cursor.0))
        .bind(i64::from(campaign.from_sgc))
        .bind(campaign.from_krn.map(i64::from))
        .bind(i64::from(meters_max))
        .fetch_all(write.sql())
        .await?;
        let (Some(last), count) = (meters.last(), meters.len()) else {
            sqlx::query("UPDATE campaign SET state = 'done' WHERE id = $1")
                .bind(i64::from(id))
                .execute(write.sql())
                .await?;
            write.commit().await?;
            return Ok(false);
        };
        sqlx::query(
            "UPDATE token_meter SET to_sgc = $1, to_kt = $2, to_krn = $3, \
             to_ti = CASE WHEN $4 THEN $5 ELSE to_ti END \
             WHERE meter > $6 AND meter <= $7 AND sgc = $8 AND ($9 IS NULL OR krn = $9)",
        )
        .bind(i64::from(campaign.to.sgc))
        .bind(i64::from(campaign.to.kt))
        .bind(i64::from(campaign.to.krn))
        .bind(campaign.changes_ti)
        .bind(i64::from(campaign.to.ti))
        .bind(i64::from(campaign.cursor.0))
        .bind(last)
        .bind(i64::from(campaign.from_sgc))
        .bind(campaign.from_krn.map(i64::from))
        .execute(write.sql())
        .await?;
        sqlx::query("UPDATE campaign SET cursor = $1, done = done + $2 WHERE id = $3")
            .bind(last)
            .bind(i64::try_from(count).unwrap_or(i64::MAX))
            .bind(i64::from(id))
            .execute(write.sql())
            .await?;
        write.commit().await?;
        Ok(true)
    }

    /// Campaigns that run; the node goes on with them when it starts.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn running_campaigns(&self) -> Result<Vec<u32>, RegistryError> {
        let sql = "SELECT id FROM campaign WHERE state = 'running' ORDER BY id";
        let rows = sqlx::query(sql).fetch_all(&self.readers).await?;
        rows.iter().map(|row| u32_of(row, 0)).collect()
    }

    /// How many of the meters that a campaign marked were given its key: all but those that still
    /// hold a key of the selection.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn campaign_changed(&self, campaign: &Campaign) -> Result<u64, RegistryError> {
        let to_change = sqlx::query_scalar(
            "SELECT COUNT(*) FROM token_meter WHERE meter <= $1 AND sgc = $2 AND \
             ($3 IS NULL OR krn = $3) AND to_sgc = $4 AND to_kt = $5 AND to_krn = $6 AND \
             NOT (sgc = $4 AND kt = $5 AND krn = $6)",
        )
        .bind(i64::from(campaign.cursor.0))
        .bind(i64::from(campaign.from_sgc))
        .bind(campaign.from_krn.map(i64::from))
        .bind(i64::from(campaign.to.sgc))
        .bind(i64::from(campaign.to.kt))
        .bind(i64::from(campaign.to.krn))
        .fetch_one(&self.readers)
        .await?;
        Ok(campaign.marked.saturating_sub(to_u64(to_change)?))
    }

    /// The key under which vending keys are sealed; made of the registry's master key.
    #[must_use]
    pub fn vending_master(&self) -> Zeroizing<[u8; 32]> {
        self.master.vending()
    }

    /// All vending keys, sealed, and the audit trail of the vault.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn vault(&self) -> Result<(Vec<Vec<u8>>, String), RegistryError> {
        let keys = sqlx::query_scalar("SELECT sealed FROM vending_key ORDER BY sgc, kt, krn");
        let keys = keys.fetch_all(&self.readers).await?;
        let lines: Vec<String> = sqlx::query_scalar("SELECT entry FROM vault_audit ORDER BY line")
            .fetch_all(&self.readers)
            .await?;
        Ok((keys, lines.concat()))
    }

    /// Lines of the vault's audit trail after `after`, with their numbers.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn vault_audit(
        &self,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, String)>, RegistryError> {
        sqlx::query("SELECT line, entry FROM vault_audit WHERE line > $1 ORDER BY line LIMIT $2")
            .bind(to_i64(after)?)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| Ok((to_u64(row.try_get(0)?)?, row.try_get(1)?)))
            .collect()
    }

    /// Keeps a sealed vending key, where there is one, and further lines of the audit trail.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn keep_vault(
        &self,
        key: Option<(KeySetting, Vec<u8>)>,
        audit: &str,
    ) -> Result<(), RegistryError> {
        let mut write = self.write().await?;
        if let Some((KeySetting { sgc, kt, krn, .. }, sealed)) = key {
            sqlx::query("INSERT INTO vending_key (sgc, kt, krn, sealed) VALUES ($1, $2, $3, $4)")
                .bind(i64::from(sgc))
                .bind(i64::from(kt))
                .bind(i64::from(krn))
                .bind(sealed)
                .execute(write.sql())
                .await?;
        }
        for line in audit.split_inclusive('\n') {
            sqlx::query(
                "INSERT INTO vault_audit (line, entry) \
                 VALUES ((SELECT COUNT(*) + 1 FROM vault_audit), $1)",
            )
            .bind(line)
            .execute(write.sql())
            .await?;
        }
        write.commit().await?;
        Ok(())
    }
}

fn campaign_of(row: &SqliteRow) -> Result<Campaign, RegistryError> {
    let state: &str = row.try_get(8)?;
    let from_krn: Option<i64> = row.try_get(3)?;
    let ti: Option<i64> = row.try_get(7)?;
    Ok(Campaign {
        id: u32_of(row, 0)?,
        name: row.try_get(1)?,
        from_sgc: u32_of(row, 2)?,
        from_krn: from_krn.map(|_| u8_of(row, 3)).transpose()?,
        to: KeySetting {
            sgc: u32_of(row, 4)?,
            kt: u8_of(row, 5)?,
            krn: u8_of(row, 6)?,
            ti: u8_of(row, 7)?,
        },
        changes_ti: ti.is_some(),
        state: parsed(state, CampaignState::ALL.into_iter().find(|known| known.name() == state))?,
        total: to_u64(row.try_get(9)?)?,
        marked: to_u64(row.try_get(10)?)?,
        cursor: MeterId(u32_of(row, 11)?),
    })
}
