//! Tariff plans, their versions (rates, seasons, day profiles, blocks, standing charges, tax,
//! fee) and calendars of holidays.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meter::{
    Block, BlockPeriod, CalendarId, CurrencyCode, DayProfile, MonthDay, PlanId, Season, Switch,
    TariffVersion,
};
use serde::{Deserialize, Serialize};
use storage::registry::{Calendar, Plan};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::PageQuery;
use crate::App;
use crate::extract::{Body, Path, Query};
use crate::json::{Amount, Day, PriceText};
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

pub(super) fn seen() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list_plans))
        .routes(routes!(plan))
        .routes(routes!(list_versions))
        .routes(routes!(list_calendars))
}

pub(super) fn administered() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(add_plan))
        .routes(routes!(add_version))
        .routes(routes!(add_calendar))
        .routes(routes!(set_holidays))
}

/// A plan to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PlanNew {
    /// Unique.
    code: String,
    #[serde(default)]
    name: String,
    /// ISO 4217 code of all its versions.
    #[schema(example = "CNY")]
    currency: String,
}

/// A plan.
#[derive(Debug, Serialize, ToSchema)]
struct PlanView {
    id: u32,
    code: String,
    name: String,
    currency: String,
}

/// A version of a plan. Once its first day has begun for an account, it never changes.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct VersionView {
    /// First local day it is in force.
    valid_from: Day,
    /// Price per kWh of rates 1 to 4, in this order.
    prices: Vec<PriceText>,
    /// Together they cover the year once.
    seasons: Vec<SeasonView>,
    /// The calendar that names holidays.
    calendar: Option<u32>,
    /// Ascending, the first from 0; absent: one block without adder.
    #[serde(default = "one_block")]
    blocks: Vec<BlockView>,
    /// Over which local period blocks count.
    #[serde(default)]
    block_period: BlockPeriodName,
    /// Due at the start of each local day.
    standing_per_day: Option<Amount>,
    /// Due at the start of each local month.
    standing_per_month: Option<Amount>,
    /// Tax on a purchase, in 1/10,000 of what is paid.
    #[serde(default)]
    tax_bp: u32,
    /// Fee on a purchase.
    fee: Option<Amount>,
}

/// A range of days of the year and how its days run.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SeasonView {
    /// First day, `MM-DD`. Later than `to`, it wraps the end of the year.
    #[schema(example = "11-01")]
    from: String,
    /// Last day, `MM-DD`, inclusive.
    #[schema(example = "03-31")]
    to: String,
    /// Working days.
    workday: Vec<SwitchView>,
    /// Saturdays and Sundays; absent: as working days.
    weekend: Option<Vec<SwitchView>>,
    /// Days the calendar names; absent: as weekends.
    holiday: Option<Vec<SwitchView>>,
}

/// From this time of the day on, this rate.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SwitchView {
    /// `HH:MM` on a quarter hour; the first of a day is `00:00`.
    #[schema(example = "07:15")]
    at: String,
    /// 1 to 4.
    rate: u8,
}

/// From this much energy in a period on, this much more per kWh.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BlockView {
    from_kwh: u64,
    adder: PriceText,
}

/// The local period over which blocks count.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum BlockPeriodName {
    #[default]
    Month,
    Year,
}

/// A calendar to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CalendarNew {
    /// Unique.
    code: String,
    #[serde(default)]
    name: String,
    days: Vec<Day>,
}

/// The days of a calendar.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DaysNew {
    /// All of them; days that have begun must stay as they are.
    days: Vec<Day>,
}

/// A calendar of holidays.
#[derive(Debug, Serialize, ToSchema)]
struct CalendarView {
    id: u32,
    code: String,
    name: String,
    days: Vec<Day>,
}

impl From<Plan> for PlanView {
    fn from(Plan { id, code, name, currency }: Plan) -> Self {
        Self { id: id.0, code, name, currency: currency.to_string() }
    }
}

impl From<Calendar> for CalendarView {
    fn from(Calendar { code, name, holidays }: Calendar) -> Self {
        let days = holidays.days.into_iter().map(Day).collect();
        Self { id: holidays.calendar.0, code, name, days }
    }
}

fn one_block() -> Vec<BlockView> {
    vec![BlockView { from_kwh: 0, adder: PriceText(meter::Price::from_e4(0)) }]
}

impl VersionView {
    fn into_version(self, plan: PlanId, currency: CurrencyCode) -> Answer<TariffVersion> {
        let amount = |amount: Option<Amount>| amount.map_or(meter::Money::ZERO, |amount| amount.0);
        let seasons = self.seasons.into_iter().enumerate();
        let seasons = seasons.map(|(index, season)| season.into_season(index));
        Ok(TariffVersion {
            plan,
            valid_from: self.valid_from.0,
            currency,
            prices: self.prices.into_iter().map(|price| price.0).collect(),
            seasons: seasons.collect::<Answer<_>>()?,
            calendar: self.calendar.map(CalendarId),
            blocks: self
                .blocks
                .into_iter()
                .map(|block| Block { from_kwh: block.from_kwh, adder: block.adder.0 })
                .collect(),
            block_period: match self.block_period {
                BlockPeriodName::Month => BlockPeriod::Month,
                BlockPeriodName::Year => BlockPeriod::Year,
            },
            standing_per_day: amount(self.standing_per_day),
            standing_per_month: amount(self.standing_per_month),
            tax_bp: self.tax_bp,
            fee: amount(self.fee),
        })
    }

    fn of(version: TariffVersion) -> Self {
        Self {
            valid_from: Day(version.valid_from),
            prices: version.prices.into_iter().map(PriceText).collect(),
            seasons: version.seasons.iter().map(SeasonView::of).collect(),
            calendar: version.calendar.map(|calendar| calendar.0),
            blocks: version
                .blocks
                .into_iter()
                .map(|block| BlockView { from_kwh: block.from_kwh, adder: PriceText(block.adder) })
                .collect(),
            block_period: match version.block_period {
                BlockPeriod::Month => BlockPeriodName::Month,
                BlockPeriod::Year => BlockPeriodName::Year,
            },
            standing_per_day: Some(Amount(version.standing_per_day)),
            standing_per_month: Some(Amount(version.standing_per_month)),
            tax_bp: version.tax_bp,
            fee: Some(Amount(version.fee)),
        }
    }
}

impl SeasonView {
    fn into_season(self, index: usize) -> Answer<Season> {
        let day = |name: &str, text: &str| {
            month_day(text).ok_or_else(|| {
                let field = format!("seasons[{index}].{name}");
                Problem::field(&field, format!("{text:?} is not MM-DD"))
            })
        };
        let profile = |name: &str, switches: &[SwitchView]| {
            let switches = switches.iter().enumerate().map(|(at, switch)| {
                let quarter = quarter(&switch.at).ok_or_else(|| {
                    let field = format!("seasons[{index}].{name}[{at}].at");
                    Problem::field(&field, format!("{:?} is not HH:MM on a quarter", switch.at))
                })?;
                Ok(Switch { quarter, rate: switch.rate })
            });
            switches.collect::<Answer<_>>().map(DayProfile)
        };
        let weekend = self.weekend.as_ref().unwrap_or(&self.workday);
        Ok(Season {
            from: day("from", &self.from)?,
            to: day("to", &self.to)?,
            workday: profile("workday", &self.workday)?,
            weekend: profile("weekend", weekend)?,
            holiday: profile("holiday", self.holiday.as_ref().unwrap_or(weekend))?,
        })
    }

    fn of(season: &Season) -> Self {
        let day = |day: MonthDay| format!("{:02}-{:02}", day.month, day.day);
        let profile = |profile: &DayProfile| {
            let view = |switch: &Switch| SwitchView {
                at: format!("{:02}:{:02}", switch.quarter / 4, switch.quarter % 4 * 15),
                rate: switch.rate,
            };
            profile.0.iter().map(view).collect::<Vec<_>>()
        };
        Self {
            from: day(season.from),
            to: day(season.to),
            workday: profile(&season.workday),
            weekend: Some(profile(&season.weekend)),
            holiday: Some(profile(&season.holiday)),
        }
    }
}

/// `11-01`.
fn month_day(text: &str) -> Option<MonthDay> {
    let (month, day) = two_numbers(text, '-')?;
    Some(MonthDay { month, day })
}

/// `07:15` as the quarter hour of the day.
fn quarter(text: &str) -> Option<u8> {
    let (hour, minute) = two_numbers(text, ':')?;
    (hour < 24 && minute < 60 && minute % 15 == 0).then(|| hour * 4 + minute / 15)
}

fn two_numbers(text: &str, separator: char) -> Option<(u8, u8)> {
    let (first, second) = text.split_once(separator)?;
    let is_number = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(first) || !is_number(second) {
        return None;
    }
    Some((first.parse().ok()?, second.parse().ok()?))
}

/// Tariff plans, by id.
#[utoipa::path(
    get, path = "/v1/plans", tag = "tariffs", params(PageQuery),
    responses((status = 200, body = Page<PlanView>))
)]
async fn list_plans(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<PlanView>>> {
    let limit = limit(query.limit)?;
    let after = PlanId(after(query.after.as_deref())?);
    let rows = app.node.registry.plans(after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), PlanView::from)))
}

/// One plan.
#[utoipa::path(
    get, path = "/v1/plans/{id}", tag = "tariffs", params(("id" = u32, Path)),
    responses((status = 200, body = PlanView))
)]
async fn plan(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<PlanView>> {
    Ok(Json(app.node.registry.plan(PlanId(id)).await?.into()))
}

/// The versions of a plan, oldest first.
#[utoipa::path(
    get, path = "/v1/plans/{id}/versions", tag = "tariffs", params(("id" = u32, Path)),
    responses((status = 200, body = Page<VersionView>))
)]
async fn list_versions(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
) -> Answer<Json<Page<VersionView>>> {
    app.node.registry.plan(PlanId(id)).await?;
    let versions = app.node.registry.plan_versions(PlanId(id)).await?;
    Ok(Json(Page { items: versions.into_iter().map(VersionView::of).collect(), next: None }))
}

/// Makes a plan, as yet without prices.
#[utoipa::path(
    post, path = "/v1/plans", tag = "tariffs", request_body = PlanNew,
    responses((status = 201, body = PlanView))
)]
async fn add_plan(
    State(app): State<Arc<App>>,
    Body(new): Body<PlanNew>,
) -> Answer<(StatusCode, Json<PlanView>)> {
    let currency = CurrencyCode::parse(&new.currency)
        .ok_or_else(|| Problem::field("currency", "must be three upper-case letters"))?;
    let made = app.node.registry.add_plan(&new.code, &new.name, currency).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Adds a version to a plan. Every quarter hour of the year needs exactly one rate with a price.
#[utoipa::path(
    post, path = "/v1/plans/{id}/versions", tag = "tariffs", params(("id" = u32, Path)),
    request_body = VersionView, responses((status = 201, body = VersionView))
)]
async fn add_version(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Body(new): Body<VersionView>,
) -> Answer<(StatusCode, Json<VersionView>)> {
    let plan = app.node.registry.plan(PlanId(id)).await?;
    let version = new.into_version(plan.id, plan.currency)?;
    let outbox = app.node.registry.add_version(&version, app.now()).await?;
    app.applied(outbox).await?;
    Ok((StatusCode::CREATED, Json(VersionView::of(version))))
}

/// Calendars of holidays, by id.
#[utoipa::path(
    get, path = "/v1/calendars", tag = "tariffs", params(PageQuery),
    responses((status = 200, body = Page<CalendarView>))
)]
async fn list_calendars(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<CalendarView>>> {
    let limit = limit(query.limit)?;
    let after = CalendarId(after(query.after.as_deref())?);
    let rows = app.node.registry.calendars(after, limit + 1).await?;
    let key = |row: &Calendar| row.holidays.calendar.to_string();
    Ok(Json(Page::of(rows, limit, key, CalendarView::from)))
}

/// Makes a calendar of holidays.
#[utoipa::path(
    post, path = "/v1/calendars", tag = "tariffs", request_body = CalendarNew,
    responses((status = 201, body = CalendarView))
)]
async fn add_calendar(
    State(app): State<Arc<App>>,
    Body(new): Body<CalendarNew>,
) -> Answer<(StatusCode, Json<CalendarView>)> {
    let days = new.days.into_iter().map(|day| day.0).collect();
    let (made, outbox) = app.node.registry.add_calendar(&new.code, &new.name, days).await?;
    app.applied(outbox).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Replaces the days of a calendar; days that have begun must stay as they are.
#[utoipa::path(
    put, path = "/v1/calendars/{id}/days", tag = "tariffs", params(("id" = u32, Path)),
    request_body = DaysNew, responses((status = 200, body = CalendarView))
)]
async fn set_holidays(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Body(new): Body<DaysNew>,
) -> Answer<Json<CalendarView>> {
    let days = new.days.into_iter().map(|day| day.0).collect();
    let (changed, outbox) = app.node.registry.set_holidays(CalendarId(id), days, app.now()).await?;
    app.applied(outbox).await?;
    Ok(Json(changed.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_day_read_on_quarters_only() {
        let check = |text: &str, want: Option<u8>| assert_eq!(quarter(text), want, "{text:?}");
        check("00:00", Some(0));
        check("23:45", Some(95));
        for bad in ["24:00", "07:10", "7:00", "07:0", "+7:00", "0700", ""] {
            check(bad, None);
        }
        assert_eq!(month_day("02-29"), Some(MonthDay { month: 2, day: 29 }));
        assert_eq!(month_day("2-29"), None);
    }
}
