//! Customers and their accounts.

use meter::{
    AccountId, AccountTerms, Change, CustomerId, LocalCalendar, MeterId, Mode, Money, OutboxId,
    PlanId,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::place::{check_line, check_text, taken};
use super::plans::Plans;
use super::row::{parsed, u32_of};
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// A customer.
#[derive(Clone, Eq, PartialEq)]
pub struct Customer {
    /// The id.
    pub id: CustomerId,
    /// Number at the utility, unique.
    pub code: String,
    /// Name: personal, never logged.
    pub name: String,
    /// Telephone or mail: personal, never logged.
    pub contact: String,
}

impl std::fmt::Debug for Customer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Customer").field("id", &self.id).finish_non_exhaustive()
    }
}

/// An account; its balance is not here but in the books.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// Number at the utility, unique.
    pub code: String,
    /// Its terms; its id is in there. The plan is the newest one agreed.
    pub terms: AccountTerms,
    /// Which plan holds when.
    pub plans: Plans,
    /// The meter that serves it now, or none.
    pub meter: MeterId,
}

/// An account to be opened.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// Number at the utility.
    pub code: String,
    /// Whose.
    pub customer: CustomerId,
    /// Its tariff plan.
    pub plan: PlanId,
    /// IANA zone of its local days.
    pub zone: String,
    /// Prepaid or postpaid.
    pub mode: Mode,
    /// Its limits.
    pub limits: Limits,
}

/// The limits of an account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// How far the balance may go below zero, ≥ 0.
    pub overdraft: Money,
    /// Two low-balance levels, the higher first.
    pub low_levels: [Money; 2],
}

/// Largest limit or payment: a thousand million units, far from the ends of the type.
pub(super) const AMOUNT_MAX: Money = Money::from_ticks(1_000_000_000 * Money::TICKS_PER_UNIT);

const ACCOUNT_COLUMNS: &str = "SELECT a.id, a.code, a.customer, a.plan, a.zone, a.mode, \
     a.overdraft, a.low_level_1, a.low_level_2, i.meter, a.plans FROM account a \
     LEFT JOIN installation i ON i.account = a.id AND i.removed_at IS NULL ";

impl Registry {
    /// Registers a customer.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a code in use, [`Refusal::Invalid`].
    pub async fn add_customer(
        &self,
        code: &str,
        name: &str,
        contact: &str,
    ) -> Result<Customer, RegistryError> {
        check_text("code", code, 64)?;
        check_text("name", name, 200)?;
        check_line("contact", contact, 200)?;
        let mut write = self.write().await?;
        let id = write.next_id("customer").await?;
        sqlx::query("INSERT INTO customer (id, code, name, contact) VALUES ($1, $2, $3, $4)")
            .bind(i64::from(id))
            .bind(code)
            .bind(name)
            .bind(contact)
            .execute(write.sql())
            .await
            .map_err(|error| taken(error, "customer", "code", code))?;
        write.commit().await?;
        let (code, name, contact) = (code.to_owned(), name.to_owned(), contact.to_owned());
        Ok(Customer { id: CustomerId(id), code, name, contact })
    }

    /// Customers after `after`, by id; with a code, only the one.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn customers(
        &self,
        code: Option<&str>,
        after: CustomerId,
        limit: u32,
    ) -> Result<Vec<Customer>, RegistryError> {
        sqlx::query(
            "SELECT id, code, name, contact FROM customer \
             WHERE id > $1 AND ($2 = '' OR code = $2) ORDER BY id LIMIT $3",
        )
        .bind(i64::from(after.0))
        .bind(code.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?
        .iter()
        .map(customer_of)
        .collect()
    }

    /// One customer.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn customer(&self, id: CustomerId) -> Result<Customer, RegistryError> {
        let row = sqlx::query("SELECT id, code, name, contact FROM customer WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(&self.readers)
            .await?;
        customer_of(&row.ok_or_else(|| Refusal::not_found("customer", id))?)
    }

    /// Opens an account.
    ///
    /// # Errors
    /// [`Refusal::Exists`], [`Refusal::NotFound`] (customer, plan), [`Refusal::PlanEmpty`],
    /// [`Refusal::Zone`], [`Refusal::Invalid`].
    pub async fn add_account(
        &self,
        new: &NewAccount,
    ) -> Result<(Account, OutboxId), RegistryError> {
        check_text("code", &new.code, 64)?;
        LocalCalendar::new(&new.zone).map_err(Refusal::from)?;
        check_limits(&new.limits)?;
        self.customer(new.customer).await?;
        let mut write = self.write().await?;
        write.first_version(new.plan).await?;
        let account = AccountId(write.next_id("account").await?);
        sqlx::query(
            "INSERT INTO account (id, code, customer, plan, zone, mode, overdraft, low_level_1, \
             low_level_2) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(i64::from(account.0))
        .bind(&new.code)
        .bind(i64::from(new.customer.0))
        .bind(i64::from(new.plan.0))
        .bind(&new.zone)
        .bind(mode_name(new.mode))
        .bind(new.limits.overdraft.ticks())
        .bind(new.limits.low_levels[0].ticks())
        .bind(new.limits.low_levels[1].ticks())
        .execute(write.sql())
        .await
        .map_err(|error| taken(error, "account", "code", &new.code))?;
        let terms = AccountTerms {
            account,
            customer: new.customer,
            plan: new.plan,
            zone: new.zone.clone(),
            mode: new.mode,
            overdraft: new.limits.overdraft,
            low_levels: new.limits.low_levels,
        };
        write.tell(Change::Account(terms.clone())).await?;
        let outbox = write.commit_told().await?;
        let (code, plans, meter) = (new.code.clone(), Plans::only(new.plan), MeterId::NONE);
        Ok((Account { code, terms, plans, meter }, outbox))
    }

    /// Changes the limits of an account.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::Invalid`].
    pub async fn set_limits(
        &self,
        id: AccountId,
        change: impl FnOnce(&mut Limits),
    ) -> Result<(Account, OutboxId), RegistryError> {
        let mut write = self.write().await?;
        let mut account = write.account(id).await?;
        let terms = &mut account.terms;
        let mut limits = Limits { overdraft: terms.overdraft, low_levels: terms.low_levels };
        change(&mut limits);
        check_limits(&limits)?;
        (terms.overdraft, terms.low_levels) = (limits.overdraft, limits.low_levels);
        sqlx::query(
            "UPDATE account SET overdraft = $1, low_level_1 = $2, low_level_2 = $3 WHERE id = $4",
        )
        .bind(limits.overdraft.ticks())
        .bind(limits.low_levels[0].ticks())
        .bind(limits.low_levels[1].ticks())
        .bind(i64::from(id.0))
        .execute(write.sql())
        .await?;
        write.tell(Change::Account(account.terms.clone())).await?;
        let outbox = write.commit_told().await?;
        Ok((account, outbox))
    }

    /// Accounts after `after`, by id; with a code or a customer, only theirs.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn accounts(
        &self,
        code: Option<&str>,
        customer: CustomerId,
        after: AccountId,
        limit: u32,
    ) -> Result<Vec<Account>, RegistryError> {
        let sql = format!(
            "{ACCOUNT_COLUMNS} WHERE a.id > $1 AND ($2 = '' OR a.code = $2) \
             AND ($3 = 0 OR a.customer = $3) ORDER BY a.id LIMIT $4"
        );
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(after.0))
            .bind(code.unwrap_or_default())
            .bind(i64::from(customer.0))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?
            .iter()
            .map(account_of)
            .collect()
    }

    /// One account.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn account(&self, id: AccountId) -> Result<Account, RegistryError> {
        let sql = format!("{ACCOUNT_COLUMNS} WHERE a.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(id.0))
            .fetch_optional(&self.readers)
            .await?;
        account_of(&row.ok_or_else(|| Refusal::not_found("account", id))?)
    }
}

impl Write<'_> {
    /// One account, as this transaction sees it.
    pub(super) async fn account(&mut self, id: AccountId) -> Result<Account, RegistryError> {
        let sql = format!("{ACCOUNT_COLUMNS} WHERE a.id = $1");
        let row = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(i64::from(id.0))
            .fetch_optional(self.sql())
            .await?;
        account_of(&row.ok_or_else(|| Refusal::not_found("account", id))?)
    }
}

/// Limits that make sense: no negative overdraft, levels in order, nothing near overflow.
pub(super) fn check_limits(limits: &Limits) -> Result<(), Refusal> {
    let [first, second] = limits.low_levels;
    if limits.overdraft < Money::ZERO || limits.overdraft > AMOUNT_MAX {
        return Err(Refusal::invalid("overdraft", "must be 0 to 1000000000"));
    }
    if [first, second].iter().any(|level| level.ticks().abs() > AMOUNT_MAX.ticks()) {
        return Err(Refusal::invalid("low_levels", "must be within ±1000000000"));
    }
    if second > first {
        return Err(Refusal::invalid("low_levels", "the second must not be above the first"));
    }
    Ok(())
}

/// A mode's name in SQL.
pub(super) const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Prepaid => "prepaid",
        Mode::Postpaid => "postpaid",
    }
}

/// A mode by its name.
pub(super) fn mode_of(name: &str) -> Option<Mode> {
    match name {
        "prepaid" => Some(Mode::Prepaid),
        "postpaid" => Some(Mode::Postpaid),
        _ => None,
    }
}

fn customer_of(row: &SqliteRow) -> Result<Customer, RegistryError> {
    Ok(Customer {
        id: CustomerId(u32_of(row, 0)?),
        code: row.try_get(1)?,
        name: row.try_get(2)?,
        contact: row.try_get(3)?,
    })
}

fn account_of(row: &SqliteRow) -> Result<Account, RegistryError> {
    let mode: &str = row.try_get(5)?;
    let money = |column: usize| row.try_get(column).map(Money::from_ticks);
    let terms = AccountTerms {
        account: AccountId(u32_of(row, 0)?),
        customer: CustomerId(u32_of(row, 2)?),
        plan: PlanId(u32_of(row, 3)?),
        zone: row.try_get(4)?,
        mode: parsed(mode, mode_of(mode))?,
        overdraft: money(6)?,
        low_levels: [money(7)?, money(8)?],
    };
    let plans = Plans::read(terms.plan, row.try_get(10)?)?;
    Ok(Account { code: row.try_get(1)?, terms, plans, meter: MeterId(u32_of(row, 9)?) })
}
