//! What an account's balance is made of: the statement of a period, and the explanation.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use meter::{AccountId, CalendarId, LedgerKind, LocalCalendar, Money, PlanId, UnixSeconds};
use serde::{Deserialize, Serialize};
use storage::clickhouse::LedgerPoint;
use storage::registry::{Account, InstallationPeriod};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::accounts::MovementView;
use crate::App;
use crate::explain::{Explainer, Explanation, PlanLine, Tariff, plan_lines};
use crate::extract::{Path, Query};
use crate::json::{Amount, Instant};
use crate::problem::{Answer, Problem};

pub(super) fn seen() -> Routes {
    OpenApiRouter::new().routes(routes!(statement)).routes(routes!(explanation))
}

/// Rows asked of the store at once.
const PAGE: u32 = 10_000;
/// Movements of a statement at most.
const MOVEMENTS_MAX: usize = 50_000;
/// Code of an accepted reading in the store.
const ACCEPTED: u8 = 1;
/// Holidays' calendars at most.
const CALENDARS_MAX: u32 = 1000;

/// Of which time.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct StatementQuery {
    /// From this instant, inclusive; absent: from the beginning.
    #[param(value_type = Option<String>)]
    from: Option<Instant>,
    /// To this instant, exclusive; absent: to now.
    #[param(value_type = Option<String>)]
    to: Option<Instant>,
}

/// The movements that fell due in a time, between two balances.
#[derive(Debug, Serialize, ToSchema)]
struct Statement {
    account: u32,
    from: Instant,
    to: Instant,
    /// The plans that hold in the time, in its order.
    plans: Vec<PlanLine>,
    /// Σ of all movements due before.
    opening: Amount,
    /// Those due in the time, in the order in which they were booked. A correction falls due when
    /// what it puts right did.
    movements: Vec<MovementView>,
    /// Σ by kind.
    totals: BTreeMap<&'static str, Amount>,
    /// Opening and all movements.
    closing: Amount,
    /// Whether the account is closed: then this is its final statement.
    #[serde(rename = "final")]
    is_final: bool,
}

/// The statement of an account: every movement that fell due in a time, between two balances.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/statement", tag = "accounts",
    params(("id" = u32, Path), StatementQuery), responses((status = 200, body = Statement))
)]
async fn statement(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<StatementQuery>,
) -> Answer<Json<Statement>> {
    let account = app.node.registry.account(AccountId(id)).await?;
    let from = query.from.unwrap_or(Instant(UnixSeconds(0)));
    let to = query.to.unwrap_or_else(|| Instant(app.now().plus(1)));
    let (mut opening, mut closing) = (0_i128, 0_i128);
    let (mut movements, mut totals) = (Vec::new(), BTreeMap::<&'static str, i128>::new());
    let mut pages = app.movements(account.terms.account);
    while let Some(rows) = pages.next().await? {
        for row in rows {
            let (at, ticks) = (UnixSeconds(row.at), i128::from(row.amount_ticks));
            if at >= to.0 {
                continue;
            }
            closing += ticks;
            if at < from.0 {
                opening += ticks;
                continue;
            }
            let kind = LedgerKind::from_code(row.kind).map_or("unknown", LedgerKind::name);
            *totals.entry(kind).or_default() += ticks;
            movements.push(MovementView::from(row));
        }
        if movements.len() > MOVEMENTS_MAX {
            return Err(Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "statement_too_long",
                format!("more than {MOVEMENTS_MAX} movements fall due in this time"),
                "ask for a shorter time",
            ));
        }
    }
    let plans = account.plans.all();
    let ended = |index: usize| plans.get(index + 1).is_some_and(|(end, _)| *end <= from.0);
    let holds = |(index, (at, _)): &(usize, &(UnixSeconds, PlanId))| *at < to.0 && !ended(*index);
    let held: Vec<_> = plans.iter().enumerate().filter(holds).map(|(_, plan)| *plan).collect();
    let is_final = app.node.registry.newest_act(account.terms.account, "closing").await?.is_some();
    Ok(Json(Statement {
        account: id,
        from,
        to,
        plans: plan_lines(&local_calendar(&account)?, &held),
        opening: sum(opening),
        movements,
        totals: totals.into_iter().map(|(kind, ticks)| (kind, sum(ticks))).collect(),
        closing: sum(closing),
        is_final,
    }))
}

/// Derives the balance of an account line by line: registers, intervals by rate, blocks, standing
/// charges, purchases and their split. `Accept: text/plain` gives it as text.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/balance/explanation", tag = "accounts",
    params(("id" = u32, Path)), responses((status = 200, body = Explanation))
)]
async fn explanation(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    headers: HeaderMap,
) -> Answer<Response> {
    let account = app.node.registry.account(AccountId(id)).await?;
    let explanation = app.explain(&account).await?;
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.starts_with("text/plain")) {
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
        return Ok((kind, explanation.to_text()).into_response());
    }
    Ok(Json(explanation).into_response())
}

fn local_calendar(account: &Account) -> Answer<LocalCalendar> {
    LocalCalendar::new(&account.terms.zone).map_err(|error| Problem::field("zone", error))
}

impl App {
    async fn explain(&self, account: &Account) -> Answer<Explanation> {
        let (registry, terms) = (&self.node.registry, &account.terms);
        let calendars = registry.calendars(CalendarId::NONE, CALENDARS_MAX).await?;
        let holidays = calendars.into_iter().map(|calendar| calendar.holidays).collect();
        let mut versions = Vec::new();
        for (_, plan) in account.plans.all() {
            versions.push(registry.plan_versions(*plan).await?);
        }
        let calendar = local_calendar(account)?;
        let tariff = Tariff::new(calendar, account.plans.all(), &versions, holidays);
        let mut explainer = Explainer::new(terms.account.0, tariff);
        for period in registry.installations_of_account(terms.account).await? {
            self.explain_meter(&period, &mut explainer).await?;
        }
        let mut pages = self.movements(terms.account);
        while let Some(rows) = pages.next().await? {
            rows.iter().for_each(|row| explainer.movement(row));
        }
        Ok(explainer.finish())
    }

    /// The intervals of a meter while it served, and its newest register.
    async fn explain_meter(
        &self,
        period: &InstallationPeriod,
        explainer: &mut Explainer,
    ) -> Answer<()> {
        let (history, meter) = (&self.node.history, period.meter);
        let start = period.start.map_or(0, |start| start.wh());
        explainer.begin(meter.0, period.from, start);
        let end = period.to.unwrap_or(UnixSeconds(u32::MAX));
        let mut from = period.from.interval_start();
        loop {
            let points = history.intervals(meter, from, end, PAGE).await?;
            let Some(last) = points.last() else { break };
            let next = UnixSeconds(last.start).plus(1);
            for point in points.iter().filter(|point| point.account_id == period.account.0) {
                explainer.interval(point);
            }
            from = next;
        }
        // What the meter read since the last whole interval, or what a person read at its removal.
        let readings = history.readings(meter, from, end, PAGE).await?;
        let newest = readings.iter().rfind(|point| point.outcome == ACCEPTED);
        match (period.to.zip(period.end), newest) {
            (Some((at, register)), _) => explainer.newest(at, register.wh()),
            (None, Some(point)) => {
                explainer.newest(UnixSeconds(point.taken_at), point.register_wh);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn movements(&self, account: AccountId) -> Movements<'_> {
        Movements { app: self, account, after: 0, is_over: false }
    }
}

/// All movements of an account, a page at a time.
struct Movements<'a> {
    app: &'a App,
    account: AccountId,
    after: u64,
    is_over: bool,
}

impl Movements<'_> {
    async fn next(&mut self) -> Answer<Option<Vec<LedgerPoint>>> {
        if self.is_over {
            return Ok(None);
        }
        let rows = self.app.node.history.ledger(self.account, self.after, PAGE).await?;
        self.is_over = rows.len() < PAGE as usize;
        self.after = rows.last().map_or(self.after, |row| row.number);
        Ok(Some(rows))
    }
}

/// Sums of one account fit 63 bits, as its balance does.
fn sum(ticks: i128) -> Amount {
    let limit = if ticks < 0 { -i64::MAX } else { i64::MAX };
    Amount(Money::from_ticks(i64::try_from(ticks).unwrap_or(limit)))
}
