//! Customers and accounts: their record, limits, balance and statement.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meter::{AccountId, CustomerId, LedgerKind, Mode, Money, PlanId, UnixSeconds};
use serde::{Deserialize, Serialize};
use storage::clickhouse::LedgerPoint;
use storage::registry::{Account, Customer, Limits, NewAccount};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::meters::InstallationView;
use super::site::PageQuery;
use crate::App;
use crate::board::Standing;
use crate::extract::{Body, Path, Query};
use crate::json::{Amount, Instant};
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn seen() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list_customers))
        .routes(routes!(customer))
        .routes(routes!(list_accounts))
        .routes(routes!(account))
        .routes(routes!(account_installations))
        .routes(routes!(balance))
        .routes(routes!(ledger))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(add_customer))
        .routes(routes!(add_account))
        .routes(routes!(change_account))
}

/// Which customers.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct CustomerQuery {
    /// Only with this code.
    code: Option<String>,
    /// `next` of the page before.
    after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    limit: Option<u32>,
}

/// Which accounts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct AccountQuery {
    /// Only with this code.
    code: Option<String>,
    /// Only of this customer.
    customer: Option<u32>,
    /// `next` of the page before.
    after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    limit: Option<u32>,
}

/// A customer to be registered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CustomerNew {
    /// Number at the utility, unique.
    code: String,
    name: String,
    #[serde(default)]
    contact: String,
}

/// A customer.
#[derive(Serialize, ToSchema)]
struct CustomerView {
    id: u32,
    code: String,
    name: String,
    contact: String,
}

/// Prepaid or postpaid.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeName {
    /// Credit first.
    #[default]
    Prepaid,
    /// Bill later.
    Postpaid,
}

/// An account to be opened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccountNew {
    /// Number at the utility, unique.
    code: String,
    customer: u32,
    plan: u32,
    /// IANA time zone of its local days.
    #[schema(example = "Asia/Shanghai")]
    zone: String,
    #[serde(default)]
    mode: ModeName,
    /// How far the balance may go below zero; default 0.
    overdraft: Option<Amount>,
    /// Two low-balance levels, the higher first; default 0.
    low_levels: Option<[Amount; 2]>,
}

/// Limits to be changed; an absent one stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AccountChange {
    /// How far the balance may go below zero.
    overdraft: Option<Amount>,
    /// Two low-balance levels, the higher first.
    low_levels: Option<[Amount; 2]>,
}

/// An account.
#[derive(Debug, Serialize, ToSchema)]
struct AccountView {
    id: u32,
    code: String,
    customer: u32,
    /// The plan in force.
    plan: u32,
    /// A change of plan that waits.
    plan_change: Option<PlanChangeView>,
    zone: String,
    mode: ModeName,
    overdraft: Amount,
    low_levels: [Amount; 2],
    /// The meter that serves it now.
    meter: Option<u32>,
}

/// A change of plan that waits.
#[derive(Debug, Serialize, ToSchema)]
struct PlanChangeView {
    plan: u32,
    /// The local midnight from which it holds.
    at: Instant,
}

/// Where an account stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BalanceView {
    pub(super) account: u32,
    pub(super) currency: String,
    /// Credits less charges over everything metered so far.
    pub(super) balance: Amount,
    /// Balance and overdraft.
    pub(super) available: Amount,
    /// The newest accepted stamp of its meter; absent before the first.
    pub(super) as_of: Option<Instant>,
    /// Up to here no reading is missing; absent before the first.
    pub(super) complete_through: Option<Instant>,
    /// Log position of the entry that made it so; 0 before the first.
    pub(super) seq: u64,
}

/// A movement of an account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MovementView {
    /// Numbered from 1, without holes.
    number: u64,
    /// What it is: `energy`, `standing_day`, `purchase`, `fee`, `correction`, …
    kind: &'static str,
    /// The other side, which loses what the account gains: `revenue`, `cash_in_transit`, `taxes`, …
    contra: &'static str,
    /// Signed; negative takes from the balance.
    amount: Amount,
    /// The balance after it.
    balance: Amount,
    /// When it was due.
    at: Instant,
    cause: CauseView,
    /// The log position of the entry that made it.
    seq: u64,
}

/// What a movement comes from.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CauseView {
    /// Energy between two stamps of a meter.
    Readings { meter: u32, from: Instant, to: Instant },
    /// A local day or month that began then.
    Period { start: Instant },
    /// A purchase, by its id.
    Purchase { id: u64 },
    /// A person, by the log position of the entry.
    Person { seq: u64 },
    /// A meter that began or ended to serve.
    Meter { id: u32, at: Instant },
    /// A person, who names the movement that is put right.
    Movement { number: u64 },
}

impl From<Customer> for CustomerView {
    fn from(Customer { id, code, name, contact }: Customer) -> Self {
        Self { id: id.0, code, name, contact }
    }
}

impl AccountView {
    fn at(account: Account, now: UnixSeconds) -> Self {
        let Account { code, terms, plans, meter } = account;
        let next = plans.next(now);
        Self {
            id: terms.account.0,
            code,
            customer: terms.customer.0,
            plan: plans.at(now).0,
            plan_change: next.map(|(at, plan)| PlanChangeView { plan: plan.0, at: Instant(at) }),
            zone: terms.zone,
            mode: match terms.mode {
                Mode::Prepaid => ModeName::Prepaid,
                Mode::Postpaid => ModeName::Postpaid,
            },
            overdraft: Amount(terms.overdraft),
            low_levels: terms.low_levels.map(Amount),
            meter: meter.is_some().then_some(meter.0),
        }
    }
}

impl From<LedgerPoint> for MovementView {
    fn from(point: LedgerPoint) -> Self {
        let stamp = |second| Instant(meter::UnixSeconds(second));
        let kind = LedgerKind::from_code(point.kind);
        Self {
            number: point.number,
            kind: kind.map_or("unknown", LedgerKind::name),
            contra: kind.map_or("unknown", |kind| kind.contra().name()),
            amount: Amount(Money::from_ticks(point.amount_ticks)),
            balance: Amount(Money::from_ticks(point.balance_ticks)),
            at: stamp(point.at),
            cause: match point.cause {
                1 => CauseView::Readings {
                    meter: point.cause_meter_id,
                    from: stamp(point.cause_from),
                    to: stamp(point.cause_to),
                },
                2 => CauseView::Period { start: stamp(point.cause_from) },
                3 => CauseView::Purchase { id: point.cause_id },
                5 => CauseView::Meter { id: point.cause_meter_id, at: stamp(point.cause_from) },
                6 => CauseView::Movement { number: point.cause_id },
                _ => CauseView::Person { seq: point.cause_id },
            },
            seq: point.seq,
        }
    }
}

impl App {
    /// Where an account stands, from the board; an account that nothing touched stands at zero.
    pub(super) async fn balance_of(&self, account: &Account) -> Answer<BalanceView> {
        let terms = &account.terms;
        let standing = self.node.accounts.read(terms.account.0).unwrap_or_default();
        let Standing { balance, as_of, complete_through, seq, .. } = standing;
        let plan = self.node.registry.plan(terms.plan).await?;
        Ok(BalanceView {
            account: terms.account.0,
            currency: plan.currency.to_string(),
            balance: Amount(balance),
            available: Amount(balance.plus(terms.overdraft).unwrap_or(balance)),
            as_of: Instant::known(as_of),
            complete_through: Instant::known(complete_through),
            seq: seq.0,
        })
    }
}

/// Customers, by id.
#[utoipa::path(
    get, path = "/v1/customers", tag = "accounts", params(CustomerQuery),
    responses((status = 200, body = Page<CustomerView>))
)]
async fn list_customers(
    State(app): State<Arc<App>>,
    Query(query): Query<CustomerQuery>,
) -> Answer<Json<Page<CustomerView>>> {
    let limit = limit(query.limit)?;
    let after = CustomerId(after(query.after.as_deref())?);
    let rows = app.node.registry.customers(query.code.as_deref(), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), CustomerView::from)))
}

/// One customer.
#[utoipa::path(
    get, path = "/v1/customers/{id}", tag = "accounts", params(("id" = u32, Path)),
    responses((status = 200, body = CustomerView))
)]
async fn customer(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<CustomerView>> {
    Ok(Json(app.node.registry.customer(CustomerId(id)).await?.into()))
}

/// Registers a customer.
#[utoipa::path(
    post, path = "/v1/customers", tag = "accounts", request_body = CustomerNew,
    responses((status = 201, body = CustomerView))
)]
async fn add_customer(
    State(app): State<Arc<App>>,
    Body(new): Body<CustomerNew>,
) -> Answer<(StatusCode, Json<CustomerView>)> {
    let made = app.node.registry.add_customer(&new.code, &new.name, &new.contact).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Accounts, by id.
#[utoipa::path(
    get, path = "/v1/accounts", tag = "accounts", params(AccountQuery),
    responses((status = 200, body = Page<AccountView>))
)]
async fn list_accounts(
    State(app): State<Arc<App>>,
    Query(query): Query<AccountQuery>,
) -> Answer<Json<Page<AccountView>>> {
    let limit = limit(query.limit)?;
    let after = AccountId(after(query.after.as_deref())?);
    let customer = CustomerId(query.customer.unwrap_or_default());
    let code = query.code.as_deref();
    let rows = app.node.registry.accounts(code, customer, after, limit + 1).await?;
    let now = app.now();
    let view = |account| AccountView::at(account, now);
    Ok(Json(Page::of(rows, limit, |row| row.terms.account.to_string(), view)))
}

/// One account.
#[utoipa::path(
    get, path = "/v1/accounts/{id}", tag = "accounts", params(("id" = u32, Path)),
    responses((status = 200, body = AccountView))
)]
async fn account(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<AccountView>> {
    let account = app.node.registry.account(AccountId(id)).await?;
    Ok(Json(AccountView::at(account, app.now())))
}

/// Which meters served an account, in time order.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/installations", tag = "accounts", params(("id" = u32, Path)),
    responses((status = 200, body = Page<InstallationView>))
)]
async fn account_installations(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
) -> Answer<Json<Page<InstallationView>>> {
    app.node.registry.account(AccountId(id)).await?;
    let rows = app.node.registry.installations_of_account(AccountId(id)).await?;
    Ok(Json(Page { items: rows.into_iter().map(InstallationView::from).collect(), next: None }))
}

/// Opens an account.
#[utoipa::path(
    post, path = "/v1/accounts", tag = "accounts", request_body = AccountNew,
    responses((status = 201, body = AccountView))
)]
async fn add_account(
    State(app): State<Arc<App>>,
    Body(new): Body<AccountNew>,
) -> Answer<(StatusCode, Json<AccountView>)> {
    let zero = Amount(Money::ZERO);
    let limits = Limits {
        overdraft: new.overdraft.unwrap_or(zero).0,
        low_levels: new.low_levels.unwrap_or([zero; 2]).map(|level| level.0),
    };
    let new = NewAccount {
        code: new.code,
        customer: CustomerId(new.customer),
        plan: PlanId(new.plan),
        zone: new.zone,
        mode: match new.mode {
            ModeName::Prepaid => Mode::Prepaid,
            ModeName::Postpaid => Mode::Postpaid,
        },
        limits,
    };
    let (made, outbox) = app.node.registry.add_account(&new).await?;
    app.applied(outbox).await?;
    Ok((StatusCode::CREATED, Json(AccountView::at(made, app.now()))))
}

/// Changes the limits of an account: overdraft and low-balance levels.
#[utoipa::path(
    patch, path = "/v1/accounts/{id}", tag = "accounts", params(("id" = u32, Path)),
    request_body = AccountChange, responses((status = 200, body = AccountView))
)]
async fn change_account(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Body(change): Body<AccountChange>,
) -> Answer<Json<AccountView>> {
    let set = |limits: &mut Limits| {
        if let Some(overdraft) = change.overdraft {
            limits.overdraft = overdraft.0;
        }
        if let Some(levels) = change.low_levels {
            limits.low_levels = levels.map(|level| level.0);
        }
    };
    let (changed, outbox) = app.node.registry.set_limits(AccountId(id), set).await?;
    app.applied(outbox).await?;
    Ok(Json(AccountView::at(changed, app.now())))
}

/// Where an account stands.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/balance", tag = "accounts", params(("id" = u32, Path)),
    responses((status = 200, body = BalanceView))
)]
async fn balance(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<BalanceView>> {
    let account = app.node.registry.account(AccountId(id)).await?;
    Ok(Json(app.balance_of(&account).await?))
}

/// The movements of an account, oldest first: the statement.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/ledger", tag = "accounts",
    params(("id" = u32, Path), PageQuery),
    responses((status = 200, body = Page<MovementView>))
)]
async fn ledger(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<MovementView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    app.node.registry.account(AccountId(id)).await?;
    let rows = app.node.history.ledger(AccountId(id), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.number.to_string(), MovementView::from)))
}
