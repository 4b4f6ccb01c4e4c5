//! Supply: the policy of cutting off, friendly periods, and the orders that the books told.

use meter::{
    AccountId, Change, FriendlyCalendar, FriendlyId, OrderId, OrderReport, OrderRow, OutboxId,
    SupplyPolicy,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::place::{check_text, taken};
use super::row::{json, to_i64};
use super::{Refusal, Registry, RegistryError};

/// A calendar of friendly periods with its code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Friendly {
    /// Its code, unique.
    pub code: String,
    /// Its id, week and holidays.
    pub calendar: FriendlyCalendar,
}

impl Registry {
    /// The policy of cutting off; the standard one, which cuts nobody, until it is set.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn supply_policy(&self) -> Result<SupplyPolicy, RegistryError> {
        let body: Option<String> =
            sqlx::query_scalar("SELECT body FROM supply_policy WHERE id = 1")
                .fetch_optional(&self.readers)
                .await?;
        body.map_or_else(|| Ok(SupplyPolicy::standard()), |body| json(&body))
    }

    /// Replaces the policy of cutting off.
    ///
    /// # Errors
    /// [`Refusal::Invalid`], [`Refusal::NotFound`] (friendly calendar).
    pub async fn set_supply_policy(&self, policy: SupplyPolicy) -> Result<OutboxId, RegistryError> {
        let rules = [
            ("order_s_max", (60..=604_800).contains(&policy.order_s_max), "must be 60 to 604800"),
            ("attempts_max", policy.attempts_max >= 1, "must be 1 to 255"),
            ("retry_s", (1..=86_400).contains(&policy.retry_s), "must be 1 to 86400"),
            ("stagger_s", policy.stagger_s <= 3600, "must be at most 3600"),
        ];
        if let Some((field, _, reason)) = rules.into_iter().find(|(_, is_good, _)| !is_good) {
            return Err(Refusal::invalid(field, reason).into());
        }
        let body = serde_json::to_string(&policy).expect("a policy has string keys only");
        let mut write = self.write().await?;
        write.check_friendly(policy.friendly).await?;
        sqlx::query(
            "INSERT INTO supply_policy (id, body) VALUES (1, $1) \
             ON CONFLICT (id) DO UPDATE SET body = excluded.body",
        )
        .bind(body)
        .execute(write.sql())
        .await?;
        write.tell(Change::SupplyPolicy(policy)).await?;
        write.commit_told().await
    }

    /// Registers a calendar of friendly periods; the id in it is assigned.
    ///
    /// # Errors
    /// [`Refusal::CalendarGap`], [`Refusal::Exists`], [`Refusal::NotFound`] (holidays).
    pub async fn add_friendly(
        &self,
        code: &str,
        mut calendar: FriendlyCalendar,
    ) -> Result<(Friendly, OutboxId), RegistryError> {
        const DAYS: [&str; 7] =
            ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        check_text("code", code, 64)?;
        if let Some(day) = calendar.gap() {
            let day = DAYS.get(day).copied().unwrap_or("an eighth day");
            return Err(Refusal::CalendarGap { day }.into());
        }
        let mut write = self.write().await?;
        if let Some(holidays) = calendar.holidays {
            let known: Option<i64> = sqlx::query_scalar("SELECT id FROM calendar WHERE id = $1")
                .bind(i64::from(holidays.0))
                .fetch_optional(write.sql())
                .await?;
            known.ok_or_else(|| Refusal::not_found("calendar", holidays))?;
        }
        calendar.friendly = FriendlyId(write.next_id("friendly").await?);
        let body = serde_json::to_string(&calendar).expect("a calendar has string keys only");
        sqlx::query("INSERT INTO friendly (id, code, body) VALUES ($1, $2, $3)")
            .bind(i64::from(calendar.friendly.0))
            .bind(code)
            .bind(body)
            .execute(write.sql())
            .await
            .map_err(|error| taken(error, "friendly calendar", "code", code))?;
        write.tell(Change::Friendly(calendar.clone())).await?;
        let outbox = write.commit_told().await?;
        Ok((Friendly { code: code.to_owned(), calendar }, outbox))
    }

    /// Calendars of friendly periods after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn friendlies(
        &self,
        after: FriendlyId,
        limit: u32,
    ) -> Result<Vec<Friendly>, RegistryError> {
        sqlx::query("SELECT code, body FROM friendly WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(i64::from(after.0))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| Ok(Friendly { code: row.try_get(0)?, calendar: json(row.try_get(1)?)? }))
            .collect()
    }

    /// Tells the books what came of an order.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn report_order(&self, report: OrderReport) -> Result<OutboxId, RegistryError> {
        let mut write = self.write().await?;
        write.tell(Change::Order(report)).await?;
        write.commit_told().await
    }

    /// Keeps steps of orders as the books told them. A step kept before is kept once.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn keep_orders(&self, rows: &[OrderRow]) -> Result<(), RegistryError> {
        let mut write = self.write().await?;
        for row in rows {
            let body = serde_json::to_string(row).expect("a row has string keys only");
            let (id, seq) = (to_i64(row.order.0)?, to_i64(row.seq.0)?);
            sqlx::query(
                "INSERT INTO supply_order_step (id, seq, state, body) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT DO NOTHING",
            )
            .bind(id)
            .bind(seq)
            .bind(i64::from(row.state.code()))
            .bind(&body)
            .execute(write.sql())
            .await?;
            sqlx::query(
                "INSERT INTO supply_order (id, account, is_open, seq, body) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT (id) DO UPDATE \
                 SET is_open = excluded.is_open, seq = excluded.seq, body = excluded.body \
                 WHERE excluded.seq >= supply_order.seq",
            )
            .bind(id)
            .bind(i64::from(row.account.0))
            .bind(i64::from(!row.state.is_final()))
            .bind(seq)
            .bind(&body)
            .execute(write.sql())
            .await?;
        }
        write.commit().await?;
        Ok(())
    }

    /// Orders after `after`, by id, as they stand; of one account, or (with none) of all; those
    /// under way only, where asked.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn orders(
        &self,
        account: AccountId,
        only_open: bool,
        after: OrderId,
        limit: u32,
    ) -> Result<Vec<OrderRow>, RegistryError> {
        let rows = sqlx::query(
            "SELECT body FROM supply_order WHERE id > $1 AND ($2 = 0 OR account = $2) \
             AND is_open >= $3 ORDER BY id LIMIT $4",
        )
        .bind(to_i64(after.0)?)
        .bind(i64::from(account.0))
        .bind(i64::from(only_open))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(order_of).collect()
    }

    /// Every step of an order, in the order of the log.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn order_steps(&self, id: OrderId) -> Result<Vec<OrderRow>, RegistryError> {
        let sql = "SELECT body FROM supply_order_step WHERE id = $1 ORDER BY seq, state";
        let rows = sqlx::query(sql).bind(to_i64(id.0)?).fetch_all(&self.readers).await?;
        if rows.is_empty() {
            return Err(Refusal::not_found("order", id).into());
        }
        rows.iter().map(order_of).collect()
    }
}

fn order_of(row: &SqliteRow) -> Result<OrderRow, RegistryError> {
    json(row.try_get(0)?)
}
