//! Tariff plans, their versions, and calendars of holidays.
//!
//! Versions are only added, each valid from a later day than the one before, and none that would
//! change a day that has begun for an account of the plan. So every priced instant stays as it was.

use std::collections::BTreeSet;

use meter::{
    AccountId, CalendarId, Change, CurrencyCode, Holidays, LocalCalendar, LocalDate, OutboxId,
    PlanId, TariffVersion, UnixSeconds,
};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::place::{check_line, check_text, taken};
use super::plans::Plans;
use super::row::{date, json, nullable, parsed, u32_of};
use super::write::Write;
use super::{Refusal, Registry, RegistryError};

/// A tariff plan: a series of versions in one currency.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Plan {
    /// The id.
    pub id: PlanId,
    /// Its code, unique.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Currency of all its versions.
    pub currency: CurrencyCode,
}

/// A calendar of holidays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Calendar {
    /// Its code, unique.
    pub code: String,
    /// Its name.
    pub name: String,
    /// Its id and days, ascending.
    pub holidays: Holidays,
}

/// Days a calendar names at most: a century of national holidays.
const HOLIDAYS_MAX: usize = 4096;

/// The earliest local time on Earth is this far ahead of UTC.
const EARLIEST_ZONE_S: u32 = 14 * 3600;

impl Registry {
    /// Registers a plan, as yet without versions.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a code in use, [`Refusal::Invalid`].
    pub async fn add_plan(
        &self,
        code: &str,
        name: &str,
        currency: CurrencyCode,
    ) -> Result<Plan, RegistryError> {
        check_text("code", code, 64)?;
        check_line("name", name, 200)?;
        let mut write = self.write().await?;
        let id = write.next_id("plan").await?;
        sqlx::query("INSERT INTO plan (id, code, name, currency) VALUES ($1, $2, $3, $4)")
            .bind(i64::from(id))
            .bind(code)
            .bind(name)
            .bind(currency.to_string())
            .execute(write.sql())
            .await
            .map_err(|error| taken(error, "plan", "code", code))?;
        write.commit().await?;
        Ok(Plan { id: PlanId(id), code: code.to_owned(), name: name.to_owned(), currency })
    }

    /// Plans after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn plans(&self, after: PlanId, limit: u32) -> Result<Vec<Plan>, RegistryError> {
        let rows = sqlx::query(
            "SELECT id, code, name, currency FROM plan WHERE id > $1 ORDER BY id LIMIT $2",
        );
        let rows = rows.bind(i64::from(after.0)).bind(i64::from(limit));
        rows.fetch_all(&self.readers).await?.iter().map(plan_of).collect()
    }

    /// One plan.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub async fn plan(&self, id: PlanId) -> Result<Plan, RegistryError> {
        let row = sqlx::query("SELECT id, code, name, currency FROM plan WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(&self.readers)
            .await?;
        plan_of(&row.ok_or_else(|| Refusal::not_found("plan", id))?)
    }

    /// The versions of a plan, oldest first.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn plan_versions(&self, plan: PlanId) -> Result<Vec<TariffVersion>, RegistryError> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT body FROM plan_version WHERE plan = $1 ORDER BY valid_from")
                .bind(i64::from(plan.0))
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(|body| json(body)).collect()
    }

    /// Adds a version to its plan.
    ///
    /// # Errors
    /// [`Refusal::Tariff`], [`Refusal::NotFound`] (plan, calendar), [`Refusal::Currency`],
    /// [`Refusal::VersionOrder`], [`Refusal::VersionEffective`].
    pub async fn add_version(
        &self,
        version: &TariffVersion,
        now: UnixSeconds,
    ) -> Result<OutboxId, RegistryError> {
        version.validate().map_err(Refusal::from)?;
        let plan = self.plan(version.plan).await?;
        if plan.currency != version.currency {
            return Err(Refusal::Currency { want: plan.currency.to_string() }.into());
        }
        let mut write = self.write().await?;
        if let Some(calendar) = version.calendar {
            let known: Option<i64> = sqlx::query_scalar("SELECT id FROM calendar WHERE id = $1")
                .bind(i64::from(calendar.0))
                .fetch_optional(write.sql())
                .await?;
            known.ok_or_else(|| Refusal::not_found("calendar", calendar))?;
        }
        write.check_follows(version, now).await?;
        let body = serde_json::to_string(version).expect("a version has string keys only");
        sqlx::query(
            "INSERT INTO plan_version (plan, valid_from, calendar, body) VALUES ($1, $2, $3, $4)",
        )
        .bind(i64::from(version.plan.0))
        .bind(version.valid_from.to_string())
        .bind(nullable(version.calendar.unwrap_or_default().0))
        .bind(body)
        .execute(write.sql())
        .await?;
        write.tell(Change::Tariff(version.clone())).await?;
        write.commit_told().await
    }

    /// Registers a calendar.
    ///
    /// # Errors
    /// [`Refusal::Exists`] for a code in use, [`Refusal::Invalid`].
    pub async fn add_calendar(
        &self,
        code: &str,
        name: &str,
        days: Vec<LocalDate>,
    ) -> Result<(Calendar, OutboxId), RegistryError> {
        check_text("code", code, 64)?;
        check_line("name", name, 200)?;
        let days = ascending(days)?;
        let mut write = self.write().await?;
        let calendar = CalendarId(write.next_id("calendar").await?);
        sqlx::query("INSERT INTO calendar (id, code, name, days) VALUES ($1, $2, $3, $4)")
            .bind(i64::from(calendar.0))
            .bind(code)
            .bind(name)
            .bind(serde_json::to_string(&days).expect("dates are strings"))
            .execute(write.sql())
            .await
            .map_err(|error| taken(error, "calendar", "code", code))?;
        let holidays = Holidays { calendar, days };
        write.tell(Change::Holidays(holidays.clone())).await?;
        let outbox = write.commit_told().await?;
        Ok((Calendar { code: code.to_owned(), name: name.to_owned(), holidays }, outbox))
    }

    /// Replaces the days of a calendar; days that have begun anywhere must stay as they are.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::HolidayEffective`], [`Refusal::Invalid`].
    pub async fn set_holidays(
        &self,
        id: CalendarId,
        days: Vec<LocalDate>,
        now: UnixSeconds,
    ) -> Result<(Calendar, OutboxId), RegistryError> {
        let days = ascending(days)?;
        let mut write = self.write().await?;
        let row = sqlx::query("SELECT id, code, name, days FROM calendar WHERE id = $1")
            .bind(i64::from(id.0))
            .fetch_optional(write.sql())
            .await?;
        let mut calendar = calendar_of(&row.ok_or_else(|| Refusal::not_found("calendar", id))?)?;
        let utc = LocalCalendar::new("UTC").map_err(Refusal::from)?;
        let begun = |day: &&LocalDate| utc.day_start(**day).minus(EARLIEST_ZONE_S) <= now;
        let old = &calendar.holidays.days;
        let removed = old.iter().filter(|day| !days.contains(day));
        let added = days.iter().filter(|day| !old.contains(day));
        if let Some(&day) = removed.chain(added).find(begun) {
            return Err(Refusal::HolidayEffective { day }.into());
        }
        sqlx::query("UPDATE calendar SET days = $1 WHERE id = $2")
            .bind(serde_json::to_string(&days).expect("dates are strings"))
            .bind(i64::from(id.0))
            .execute(write.sql())
            .await?;
        calendar.holidays.days = days;
        write.tell(Change::Holidays(calendar.holidays.clone())).await?;
        let outbox = write.commit_told().await?;
        Ok((calendar, outbox))
    }

    /// Calendars after `after`, by id.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn calendars(
        &self,
        after: CalendarId,
        limit: u32,
    ) -> Result<Vec<Calendar>, RegistryError> {
        let rows = sqlx::query(
            "SELECT id, code, name, days FROM calendar WHERE id > $1 ORDER BY id LIMIT $2",
        );
        let rows = rows.bind(i64::from(after.0)).bind(i64::from(limit));
        rows.fetch_all(&self.readers).await?.iter().map(calendar_of).collect()
    }
}

impl Write<'_> {
    /// The first local day for which a plan has prices.
    pub(super) async fn first_version(&mut self, plan: PlanId) -> Result<LocalDate, RegistryError> {
        let row: Option<Option<String>> = sqlx::query_scalar(
            "SELECT (SELECT MIN(valid_from) FROM plan_version WHERE plan = $1) \
             FROM plan WHERE id = $1",
        )
        .bind(i64::from(plan.0))
        .fetch_optional(self.sql())
        .await?;
        let first = row.ok_or_else(|| Refusal::not_found("plan", plan))?;
        date(&first.ok_or(Refusal::PlanEmpty(plan))?)
    }

    /// Whether the account's plan has prices at an instant.
    pub(super) async fn check_tariff_at(
        &mut self,
        account: AccountId,
        at: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let account = self.account(account).await?;
        let plan = account.plans.at(at);
        let first = self.first_version(plan).await?;
        let calendar = LocalCalendar::new(&account.terms.zone).map_err(Refusal::from)?;
        if at < calendar.day_start(first) {
            return Err(Refusal::BeforeTariff { plan, first }.into());
        }
        Ok(())
    }

    /// A new version comes after all others and before its day has begun for any account.
    async fn check_follows(
        &mut self,
        version: &TariffVersion,
        now: UnixSeconds,
    ) -> Result<(), RegistryError> {
        let newest: Option<String> =
            sqlx::query_scalar("SELECT MAX(valid_from) FROM plan_version WHERE plan = $1")
                .bind(i64::from(version.plan.0))
                .fetch_one(self.sql())
                .await?;
        if let Some(newest) = newest {
            let newest = date(&newest)?;
            if version.valid_from <= newest {
                return Err(Refusal::VersionOrder { newest }.into());
            }
        }
        // A plan without versions has no accounts, so its first version may begin in the past.
        for zone in self.zones_of(version.plan).await? {
            let calendar = LocalCalendar::new(&zone).map_err(Refusal::from)?;
            if calendar.day_start(version.valid_from) <= now {
                let valid_from = version.valid_from;
                return Err(Refusal::VersionEffective { valid_from }.into());
            }
        }
        Ok(())
    }
}

impl Write<'_> {
    /// The time zones of the accounts that have a plan, or had it.
    async fn zones_of(&mut self, plan: PlanId) -> Result<BTreeSet<String>, RegistryError> {
        let now: Vec<String> =
            sqlx::query_scalar("SELECT DISTINCT zone FROM account WHERE plan = $1")
                .bind(i64::from(plan.0))
                .fetch_all(self.sql())
                .await?;
        let mut zones = BTreeSet::from_iter(now);
        let histories: Vec<(String, String)> =
            sqlx::query_as("SELECT DISTINCT plans, zone FROM account WHERE plans <> ''")
                .fetch_all(self.sql())
                .await?;
        for (text, zone) in histories {
            let plans = Plans::read(plan, &text)?;
            if plans.all().iter().any(|(_, held)| *held == plan) {
                zones.insert(zone);
            }
        }
        Ok(zones)
    }
}

fn ascending(mut days: Vec<LocalDate>) -> Result<Vec<LocalDate>, Refusal> {
    days.sort_unstable();
    days.dedup();
    if days.len() > HOLIDAYS_MAX {
        return Err(Refusal::invalid("days", format!("must be at most {HOLIDAYS_MAX} days")));
    }
    Ok(days)
}

pub(super) fn plan_of(row: &SqliteRow) -> Result<Plan, RegistryError> {
    let currency: &str = row.try_get(3)?;
    Ok(Plan {
        id: PlanId(u32_of(row, 0)?),
        code: row.try_get(1)?,
        name: row.try_get(2)?,
        currency: parsed(currency, CurrencyCode::parse(currency))?,
    })
}

fn calendar_of(row: &SqliteRow) -> Result<Calendar, RegistryError> {
    let days: &str = row.try_get(3)?;
    let holidays = Holidays { calendar: CalendarId(u32_of(row, 0)?), days: json(days)? };
    Ok(Calendar { code: row.try_get(1)?, name: row.try_get(2)?, holidays })
}
