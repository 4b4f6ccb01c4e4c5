//! Vending points: who sells, on what credit, what was sold each day, and what was settled; and
//! debts that sales pay off.

use meter::{AccountId, DebtAgreement, DebtShare, LocalCalendar, Money, Purchase, UnixSeconds};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::account::AMOUNT_MAX;
use super::place::{check_line, check_text, taken};
use super::row::{Columns, of_account, u32_of};
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// Its values are what is left, the month, what it recovered, and the debt.
pub(super) const PUT_DEBT: &str =
    "UPDATE debt SET left_over = $1, month = $2, recovered = $3 WHERE id = $4";

/// A vending point.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agent {
    /// The id.
    pub id: u32,
    /// Its code, unique.
    pub code: String,
    /// Its name.
    pub name: String,
    /// IANA zone of its days.
    pub zone: String,
    /// The most it may owe.
    pub credit_limit: Money,
    /// What it took in and has not settled.
    pub owed: Money,
}

/// What a vending point sold on a day.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgentDay {
    /// The local day.
    pub day: String,
    /// Sales.
    pub sales: u64,
    /// What was paid.
    pub paid: Money,
    /// What was given back by reversals and refunds on that day.
    pub taken_back: Money,
}

/// A debt that sales pay off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Debt {
    /// The id.
    pub id: u32,
    /// Whose.
    pub account: AccountId,
    /// How much it was.
    pub amount: Money,
    /// How much is left.
    pub left: Money,
    /// Of each purchase, in 1/10,000.
    pub share_bp: u32,
    /// At most this much in a local month; zero for no cap.
    pub cap: Money,
    /// Why.
    pub reason: String,
    /// When.
    pub at: UnixSeconds,
}

const AGENT_COLUMNS: &str = "SELECT id, code, name, zone, credit_limit, owed FROM agent ";

impl Registry {
    /// Registers a vending point.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a code in use, [`Refusal::Zone`], [`Refusal::Invalid`].
    pub async fn add_agent(&self, new: &Agent) -> Result<Agent, RegistryError> {
        check_text("code", &new.code, 64)?;
        check_line("name", &new.name, 200)?;
        LocalCalendar::new(&new.zone).map_err(Refusal::from)?;
        if new.credit_limit < Money::ZERO || new.credit_limit > AMOUNT_MAX {
            return Err(Refusal::invalid("credit_limit", "must be 0 to 1000000000").into());
        }
        let mut write = self.write().await?;
        let id = write.next_id("agent").await?;
        sqlx::query(
            "INSERT INTO agent (id, code, name, zone, credit_limit, owed) \
             VALUES ($1, $2, $3, $4, $5, 0)",
        )
        .bind(i64::from(id))
        .bind(&new.code)
        .bind(&new.name)
        .bind(&new.zone)
        .bind(new.credit_limit.ticks())
        .execute(write.sql())
        .await
        .map_err(|error| taken(error, "vending point", "code", &new.code))?;
        write.commit().await?;
        Ok(Agent { id, owed: Money::ZERO, ..new.clone() })
    }

    /// Binds an API token to a vending point: what it sells counts there.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn bind_agent_token(&self, agent: u32, token: u32) -> Result<(), RegistryError> {
        self.agent(agent).await?;
        let mut write = self.write().await?;
        let known: Option<i64> = sqlx::query_scalar("SELECT id FROM api_token WHERE id = $1")
            .bind(i64::from(token))
            .fetch_optional(write.sql())
            .await?;
        known.ok_or_else(|| Refusal::not_found("token", token))?;
        sqlx::query(
            "INSERT INTO agent_token (token, agent) VALUES ($1, $2) \
             ON CONFLICT (token) DO UPDATE SET agent = excluded.agent",
        )
        .bind(i64::from(token))
        .bind(i64::from(agent))
        .execute(write.sql())
        .await?;
        write.commit().await?;
        Ok(())
    }

    /// One vending point.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn agent(&self, id: u32) -> Result<Agent, RegistryError> {
        let sql = format!("{AGENT_COLUMNS} WHERE id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(id));
        let row = row.fetch_optional(&self.readers).await?;
        agent_of(&row.ok_or_else(|| Refusal::not_found("vending point", id))?)
    }

    /// Vending points after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn agents(&self, after: u32, limit: u32) -> Result<Vec<Agent>, RegistryError> {
        let sql = format!("{AGENT_COLUMNS} WHERE id > $1 ORDER BY id LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(i64::from(after));
        let rows = rows.bind(i64::from(limit)).fetch_all(&self.readers).await?;
        rows.iter().map(agent_of).collect()
    }

    /// What a vending point sold, day by day, from a day on.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn agent_days(
        &self,
        agent: u32,
        from: &str,
        limit: u32,
    ) -> Result<Vec<AgentDay>, RegistryError> {
        sqlx::query(
            "SELECT day, sales, paid, taken_back FROM agent_day WHERE agent = $1 AND day >= $2 ORDER BY day \
             LIMIT $3",
        )
        .bind(i64::from(agent))
        .bind(from)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(|row| {
            Ok(AgentDay {
                day: row.try_get(0)?,
                sales: super::row::to_u64(row.try_get(1)?)?,
                paid: Money::from_ticks(row.try_get(2)?),
                taken_back: Money::from_ticks(row.try_get(3)?),
            })
        })
        .collect()
    }

    /// Records what a vending point handed in; each reference once.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`]; [`Refusal::Exists`] for a reference that is known.
    pub async fn settle_agent(
        &self,
        agent: u32,
        amount: Money,
        reference: &str,
        actor: u32,
        now: UnixSeconds,
    ) -> Result<Agent, RegistryError> {
        check_text("reference", reference, 64)?;
        if amount <= Money::ZERO || amount > AMOUNT_MAX {
            return Err(Refusal::invalid("amount", "must be above 0, at most 1000000000").into());
        }
        let before = self.agent(agent).await?;
        let mut write = self.write().await?;
        let known: Option<i64> =
            sqlx::query_scalar("SELECT id FROM settlement WHERE agent = $1 AND reference = $2")
                .bind(i64::from(agent))
                .bind(reference)
                .fetch_optional(write.sql())
                .await?;
        if known.is_some() {
            let (kind, value) = ("settlement of the vending point", reference.to_owned());
            return Err(Refusal::Exists { kind, field: "reference", value }.into());
        }
        let id = write.next_id("settlement").await?;
        sqlx::query(
            "INSERT INTO settlement (id, agent, amount, reference, actor, at) \
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(i64::from(id))
        .bind(i64::from(agent))
        .bind(amount.ticks())
        .bind(reference)
        .bind(i64::from(actor))
        .bind(i64::from(now.0))
        .execute(write.sql())
        .await?;
        let owed: i64 =
            sqlx::query_scalar("UPDATE agent SET owed = owed - $1 WHERE id = $2 RETURNING owed")
                .bind(amount.ticks())
                .bind(i64::from(agent))
                .fetch_one(write.sql())
                .await?;
        write.commit().await?;
        Ok(Agent { owed: Money::from_ticks(owed), ..before })
    }

    /// Debts of an account, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn debts(
        &self,
        account: AccountId,
        after: u32,
        limit: u32,
    ) -> Result<Vec<Debt>, RegistryError> {
        let select = "SELECT id, account, amount, left_over, share_bp, cap, reason, at FROM debt";
        of_account(&self.readers, select, (account, after.into(), limit), |row| {
            Ok(Debt {
                id: u32_of(row, 0)?,
                account: AccountId(u32_of(row, 1)?),
                amount: Money::from_ticks(row.try_get(2)?),
                left: Money::from_ticks(row.try_get(3)?),
                share_bp: u32_of(row, 4)?,
                cap: Money::from_ticks(row.try_get(5)?),
                reason: row.try_get(6)?,
                at: UnixSeconds(u32_of(row, 7)?),
            })
        })
        .await
    }
}

impl Registry {
    /// Takes note of what a switch to prepaid at `at` made a debt, so that sales pay it off: only
    /// the books know how much was owed. Noted once, under the terms that the switch was asked for
    /// with. Call it before anything that a debt has a part in.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn note_switch_debt(
        &self,
        account: AccountId,
        owed: Money,
        at: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let sql = "SELECT id FROM debt WHERE account = $1 AND switch_at = $2";
        let known = || {
            let query = sqlx::query_scalar::<_, i64>(sql).bind(i64::from(account.0));
            query.bind(i64::from(at.0))
        };
        if known().fetch_optional(&self.readers).await?.is_some() {
            return Ok(());
        }
        let mut write = self.write().await?;
        // Another call may have been faster.
        if known().fetch_optional(write.sql()).await?.is_some() {
            return Ok(());
        }
        let Some((switch, actor)) = write.switch_at(account, at).await? else { return Ok(()) };
        let (share_bp, cap) = (switch.share_bp, switch.cap);
        let reason = "switch to prepaid".to_owned();
        let debt = DebtAgreement { account, amount: owed, share_bp, cap, at, reason };
        write.note_agreement(&debt, Some(at), actor).await?;
        write.commit().await.map(drop)
    }
}

/// What is left of an account's debt, and under which terms.
#[derive(Debug)]
pub(super) struct OpenDebt {
    pub(super) id: i64,
    pub(super) left: Money,
    pub(super) share_bp: u32,
    pub(super) cap: Money,
    pub(super) month: String,
    pub(super) recovered: Money,
}

impl OpenDebt {
    /// The most that may be taken in a month. One before the newest, by a clock that was behind,
    /// counts as the newest, as in the books.
    pub(super) fn share(&self, month: &str) -> DebtShare {
        let recovered = if month <= self.month.as_str() { self.recovered } else { Money::ZERO };
        let cap = match self.cap {
            Money::ZERO => self.left,
            cap => cap.minus(recovered).unwrap_or(Money::ZERO).max(Money::ZERO),
        };
        DebtShare { most: cap.min(self.left), share_bp: self.share_bp }
    }

    /// Takes note of what was recovered.
    pub(super) fn note(&mut self, recovered: Money, month: &str) {
        if recovered != Money::ZERO && month > self.month.as_str() {
            (self.month, self.recovered) = (month.to_owned(), Money::ZERO);
        }
        self.left = Money::from_ticks(self.left.ticks() - recovered.ticks());
        self.recovered = Money::from_ticks(self.recovered.ticks() + recovered.ticks());
    }

    /// Reads the columns `id, left_over, share_bp, cap, month, recovered` from `at` on.
    pub(super) fn read(row: &impl Columns, at: usize) -> Result<Self, RegistryError> {
        Ok(Self {
            id: row.number(at)?,
            left: Money::from_ticks(row.number(at + 1)?),
            share_bp: u32_of(row, at + 2)?,
            cap: Money::from_ticks(row.number(at + 3)?),
            month: row.text(at + 4)?.to_owned(),
            recovered: Money::from_ticks(row.number(at + 5)?),
        })
    }
}

/// What a vending point may owe at most is not passed by what is paid there.
pub(super) fn check_limit(owed: Money, limit: Money, paid: Money) -> Result<(), Refusal> {
    if owed.plus(paid)? <= limit {
        return Ok(());
    }
    let (owed, limit) = (owed.to_decimal(), limit.to_decimal());
    let reason = format!("the vending point owes {owed}, its credit limit is {limit}");
    let hint = "settle what it owes, or raise its credit limit";
    Err(Refusal::vending("agent_limit_reached", reason, hint))
}

/// What moves at a vending point on one of its local days.
#[derive(Clone, Copy, Debug)]
pub(super) struct DayNews {
    pub(super) sales: i64,
    pub(super) paid: Money,
    pub(super) taken_back: Money,
}

impl Write<'_> {
    /// Counts a top-up at the vending point of the API token that takes it, if it has one.
    pub(super) async fn count_top_up(
        &mut self,
        token: u32,
        paid: Money,
        at: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let agent: Option<i64> =
            sqlx::query_scalar("SELECT agent FROM agent_token WHERE token = $1")
                .bind(i64::from(token))
                .fetch_optional(self.sql())
                .await?;
        let Some(agent) = agent else { return Ok(()) };
        let (owed, limit): (i64, i64) =
            sqlx::query_as("SELECT owed, credit_limit FROM agent WHERE id = $1")
                .bind(agent)
                .fetch_one(self.sql())
                .await?;
        check_limit(Money::from_ticks(owed), Money::from_ticks(limit), paid)?;
        self.at_agent(agent, at, DayNews { sales: 1, paid, taken_back: Money::ZERO }).await
    }

    /// Moves what a vending point owes, and what its day shows.
    pub(super) async fn at_agent(
        &mut self,
        agent: i64,
        at: UnixSeconds,
        news: DayNews,
    ) -> Result<(), RegistryError> {
        let DayNews { sales, paid, taken_back } = news;
        let zone: String = sqlx::query_scalar(
            "UPDATE agent SET owed = owed + $1 - $2 WHERE id = $3 RETURNING zone",
        )
        .bind(paid.ticks())
        .bind(taken_back.ticks())
        .bind(agent)
        .fetch_one(self.sql())
        .await?;
        let day = LocalCalendar::new(&zone).map_err(Refusal::from)?.local(at).date;
        sqlx::query(
            "INSERT INTO agent_day (agent, day, sales, paid, taken_back) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (agent, day) DO UPDATE SET \
             sales = agent_day.sales + excluded.sales, paid = agent_day.paid + excluded.paid, \
             taken_back = agent_day.taken_back + excluded.taken_back",
        )
        .bind(agent)
        .bind(day.to_string())
        .bind(sales)
        .bind(paid.ticks())
        .bind(taken_back.ticks())
        .execute(self.sql())
        .await?;
        Ok(())
    }

    /// The debt of an account that has something left.
    pub(super) async fn debt(
        &mut self,
        account: AccountId,
    ) -> Result<Option<OpenDebt>, RegistryError> {
        let row = sqlx::query(
            "SELECT id, left_over, share_bp, cap, month, recovered FROM debt \
             WHERE account = $1 AND left_over > 0",
        )
        .bind(i64::from(account.0))
        .fetch_optional(self.sql())
        .await?;
        row.map(|row| OpenDebt::read(&row, 0)).transpose()
    }

    /// Takes note of an agreement, or of the debt that a switch at `switch_at` made: what is left
    /// of debts before goes on under the new terms, and the month's cap counts what it recovered.
    pub(super) async fn note_agreement(
        &mut self,
        new: &DebtAgreement,
        switch_at: Option<UnixSeconds>,
        actor: u32,
    ) -> Result<(), RegistryError> {
        let before = sqlx::query(
            "SELECT id, left_over, share_bp, cap, month, recovered FROM debt WHERE account = $1 \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(i64::from(new.account.0))
        .fetch_optional(self.sql())
        .await?;
        let before = before.map(|row| OpenDebt::read(&row, 0)).transpose()?;
        let (carried, month, recovered) =
            before.map_or_else(Default::default, |debt| (debt.left, debt.month, debt.recovered));
        let left = new.amount.plus(carried).map_err(Refusal::from)?;
        sqlx::query("UPDATE debt SET left_over = 0 WHERE account = $1")
            .bind(i64::from(new.account.0))
            .execute(self.sql())
            .await?;
        let id = self.next_id("debt").await?;
        sqlx::query(
            "INSERT INTO debt (id, account, amount, left_over, share_bp, cap, month, recovered, \
             reason, actor, at, switch_at) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        )
        .bind(i64::from(id))
        .bind(i64::from(new.account.0))
        .bind(new.amount.ticks())
        .bind(left.ticks())
        .bind(i64::from(new.share_bp))
        .bind(new.cap.ticks())
        .bind(month)
        .bind(recovered.ticks())
        .bind(&new.reason)
        .bind(i64::from(actor))
        .bind(i64::from(new.at.0))
        .bind(switch_at.map(|at| i64::from(at.0)))
        .execute(self.sql())
        .await?;
        Ok(())
    }

    pub(super) async fn put_debt(&mut self, debt: &OpenDebt) -> Result<(), RegistryError> {
        sqlx::query(PUT_DEBT)
            .bind(debt.left.ticks())
            .bind(&debt.month)
            .bind(debt.recovered.ticks())
            .bind(debt.id)
            .execute(self.sql())
            .await?;
        Ok(())
    }

    /// A top-up pays off a debt too: by the same rule, in the books. Takes note of it here.
    pub(super) async fn note_top_up(&mut self, top_up: &Purchase) -> Result<(), RegistryError> {
        let Some(mut debt) = self.debt(top_up.account).await? else { return Ok(()) };
        let zone = self.account(top_up.account).await?.terms.zone;
        let calendar = LocalCalendar::new(&zone).map_err(Refusal::from)?;
        let month = calendar.local(top_up.at).date.first_of_month().to_string();
        let recovered = debt.share(&month).of(top_up.paid);
        debt.note(recovered, &month);
        self.put_debt(&debt).await
    }
}

fn agent_of(row: &SqliteRow) -> Result<Agent, RegistryError> {
    Ok(Agent {
        id: u32_of(row, 0)?,
        code: row.try_get(1)?,
        name: row.try_get(2)?,
        zone: row.try_get(3)?,
        credit_limit: Money::from_ticks(row.try_get(4)?),
        owed: Money::from_ticks(row.try_get(5)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same in the books: `dataflow/src/debt.rs`.
    #[test]
    fn a_clock_that_is_behind_opens_no_cap_twice() {
        let money = Money::from_ticks;
        let (left, cap) = (money(1000), money(40));
        let (month, recovered) = (String::new(), Money::ZERO);
        let mut debt = OpenDebt { id: 1, left, share_bp: 10_000, cap, month, recovered };
        debt.note(money(40), "2026-06-01");
        assert_eq!(debt.share("2026-05-01").most, Money::ZERO);
        debt.note(Money::ZERO, "2026-07-01");
        assert_eq!(debt.share("2026-06-01").most, Money::ZERO);
        assert_eq!(debt.share("2026-07-01").most, cap);
        assert_eq!(debt.left, money(960));
    }
}
