//! Supply: what people decide of an account beside its terms, the policy of cutting off, friendly
//! periods, and the orders to relays with their history. Over 500 lines because each act has its own
//! body and its own words in the document.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use meter::{
    AccountId, AlarmCode, Booking, CalendarId, Change, Clearance, Closing, DebtAgreement,
    Emergency, Energy, FriendlyCalendar, FriendlyId, FriendlySpan, LedgerKind, LocalCalendar,
    MeterId, Mode, ModeSwitch, Money, OrderId, OrderRow, PlanChange, PlanId, Replacement, Subject,
    SupplyPolicy, SupplyTerms,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use storage::registry::{Act, Friendly};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::accounts::ModeName;
use super::site::PageQuery;
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::json::{Amount, Day, Instant};
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

pub(super) fn seen() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(supply))
        .routes(routes!(list_acts))
        .routes(routes!(list_orders))
        .routes(routes!(order))
        .routes(routes!(supply_policy))
        .routes(routes!(list_friendlies))
}

pub(super) fn sold() -> Routes {
    OpenApiRouter::new().routes(routes!(take_emergency))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(set_supply))
        .routes(routes!(agree_debt))
        .routes(routes!(switch_mode))
        .routes(routes!(change_plan))
        .routes(routes!(replace_meter))
        .routes(routes!(close_account))
        .routes(routes!(clear_trip))
}

pub(super) fn administered() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(book))
        .routes(routes!(set_supply_policy))
        .routes(routes!(add_friendly))
}

/// Under what terms an account is cut off, helped over and restored.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SupplyView {
    /// Never cut off, whatever it owes.
    #[serde(default)]
    protected: bool,
    /// Emergency credit is offered below this balance; default 0.
    emergency_below: Option<Amount>,
    /// How much is offered; absent or 0 for none.
    emergency_credit: Option<Amount>,
    /// Cut off, the account is restored at this balance or above; default 0.
    reconnect_at: Option<Amount>,
    /// Its friendly calendar; absent: the policy's.
    friendly: Option<u32>,
}

/// What holds of an account's supply.
#[derive(Debug, Serialize, ToSchema)]
struct SupplyState {
    account: u32,
    terms: SupplyView,
    /// How it is billed now.
    mode: ModeName,
    /// A switch of mode that waits: when it takes place.
    switch_at: Option<Instant>,
    /// Since when it is closed.
    closed_at: Option<Instant>,
    /// Whether emergency credit is on offer now.
    emergency_offered: bool,
    /// The order under way.
    order: Option<OrderView>,
}

/// What a person decided of an account.
#[derive(Debug, Serialize, ToSchema)]
struct ActView {
    id: u32,
    account: u32,
    /// When it was recorded.
    at: Instant,
    /// Number of the token that asked.
    actor: u32,
    /// `book`, `supply_terms`, `emergency`, `debt`, `switch`, `plan`, `replace`, `close` or `clear`, with
    /// what the log has of it. Amounts are in ticks of 1e-7.
    act: Value,
}

impl From<Act> for ActView {
    fn from(Act { id, account, change, at, actor }: Act) -> Self {
        Self { id, account: account.0, at: Instant(at), actor, act: json!(change) }
    }
}

/// An order to a relay, as it stands or stood.
#[derive(Debug, Serialize, ToSchema)]
struct OrderView {
    id: u64,
    account: u32,
    meter: u32,
    /// `disconnect` or `reconnect`.
    kind: Value,
    /// `decided`, `sent`, `done`, `void`, `expired` or `failed`.
    state: Value,
    /// Why: `overdrawn`, `paid`, `exempt`, `friendly`, `uncertain`, `cleared`, `tripped`,
    /// `replaced`, `relay`, `refused`, `silent` or `late`.
    reason: Value,
    /// How often it was sent.
    attempt: u8,
    /// The account's balance then.
    balance: Amount,
    at: Instant,
    expires_at: Instant,
    /// The log position of the entry that brought it here.
    seq: u64,
}

impl From<OrderRow> for OrderView {
    fn from(row: OrderRow) -> Self {
        Self {
            id: row.order.0,
            account: row.account.0,
            meter: row.meter.0,
            kind: json!(row.kind),
            state: json!(row.state),
            reason: json!(row.reason),
            attempt: row.attempt,
            balance: Amount(row.balance),
            at: Instant(row.at),
            expires_at: Instant(row.expires_at),
            seq: row.seq.0,
        }
    }
}

/// Which orders.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct OrderQuery {
    /// Only of this account.
    account: Option<u32>,
    /// Only those under way.
    #[serde(default)]
    open: bool,
    /// `next` of the page before.
    after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    limit: Option<u32>,
}

/// An order with every step it took.
#[derive(Debug, Serialize, ToSchema)]
struct OrderHistory {
    id: u64,
    /// Oldest first; the last is where it stands.
    steps: Vec<OrderView>,
}

/// Whether and how the node cuts off.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PolicyView {
    /// Whether accounts are cut off at all.
    cutting: bool,
    /// An order that is not carried out after this many seconds expires, 60 to 604800.
    order_s_max: u32,
    /// How often an order is sent at most, 1 to 255.
    attempts_max: u8,
    /// Seconds between two attempts, 1 to 86400.
    retry_s: u32,
    /// Seconds between two disconnections below one transformer, at most 3600.
    stagger_s: u32,
    /// The friendly calendar of accounts that name none.
    friendly: Option<u32>,
}

/// Friendly periods to be registered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FriendlyNew {
    /// Unique.
    code: String,
    /// From Monday to Sunday: the friendly stretches of each day, none where it has none.
    week: Vec<Vec<StretchView>>,
    /// The calendar whose days are friendly from midnight to midnight.
    holidays: Option<u32>,
}

/// Friendly periods.
#[derive(Debug, Serialize, ToSchema)]
struct FriendlyView {
    id: u32,
    code: String,
    /// From Monday to Sunday.
    week: Vec<Vec<StretchView>>,
    holidays: Option<u32>,
}

/// A stretch of a local day, in quarter hours from midnight.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StretchView {
    /// First quarter hour, 0 to 95.
    from: u8,
    /// The quarter hour after the last, 1 to 96.
    to: u8,
}

impl From<Friendly> for FriendlyView {
    fn from(Friendly { code, calendar }: Friendly) -> Self {
        let day = |spans: Vec<FriendlySpan>| {
            spans.into_iter().map(|span| StretchView { from: span.from, to: span.to }).collect()
        };
        Self {
            id: calendar.friendly.0,
            code,
            week: calendar.week.into_iter().map(day).collect(),
            holidays: calendar.holidays.map(|id| id.0),
        }
    }
}

/// Arrears to be moved out of the balance.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DebtNew {
    /// How much, above 0; it is added to the balance and to the debt.
    amount: Amount,
    /// Of each purchase, in 1/10,000.
    share_bp: u32,
    /// At most this much in a local month; absent: no cap.
    cap: Option<Amount>,
    /// Why, for the statement.
    reason: String,
}

/// A switch of mode asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SwitchNew {
    mode: ModeName,
    /// The local day from whose start it holds; it has not begun.
    from: Day,
    /// Share of each purchase that pays off what is owed at a switch to prepaid, in 1/10,000;
    /// default 2000.
    share_bp: Option<u32>,
    /// At most this much in a local month; absent: no cap.
    cap: Option<Amount>,
}

/// A change of plan asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PlanNew {
    plan: u32,
    /// The local day from whose start it holds; it begins in an hour or later.
    from: Day,
}

/// A movement to be booked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct BookingNew {
    /// `adjustment`, `opening_balance`, `free_issue` or `refund`.
    #[schema(value_type = String, example = "adjustment")]
    kind: LedgerKind,
    /// Signed, not 0.
    amount: Amount,
    /// The number of the account's movement that it corrects.
    corrects: Option<u32>,
    /// Why, for the statement.
    reason: String,
}

/// One meter takes another's place.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReplacementNew {
    /// The meter that goes.
    old: u32,
    /// Its last register, Wh.
    end_wh: u64,
    /// The meter that comes.
    new: u32,
    /// Its first register, Wh.
    start_wh: u64,
    /// When; absent: now.
    at: Option<Instant>,
}

/// Why a person decides.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReasonNew {
    /// For the record.
    reason: String,
}

impl App {
    async fn act(&self, change: Change, caller: Caller) -> Answer<(StatusCode, Json<ActView>)> {
        let (act, outbox) = self.node.registry.act(change, self.now(), caller.token).await?;
        self.applied(outbox).await?;
        Ok((StatusCode::CREATED, Json(act.into())))
    }

    fn is_offered(&self, account: AccountId) -> bool {
        let subject = Subject::Account(account);
        self.node.alarms.get((subject, AlarmCode::EmergencyOffered)).is_some()
    }
}

/// What holds of an account's supply: terms, mode, offer, the order under way.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/supply", tag = "supply", params(("id" = u32, Path)),
    responses((status = 200, body = SupplyState))
)]
async fn supply(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<SupplyState>> {
    let (registry, id) = (&app.node.registry, AccountId(id));
    let account = registry.account(id).await?;
    let terms = match registry.newest_act(id, "terms").await?.map(|act| act.change) {
        Some(Change::SupplyTerms(terms)) => SupplyView {
            protected: terms.is_protected,
            emergency_below: Some(Amount(terms.emergency_below)),
            emergency_credit: Some(Amount(terms.emergency_credit)),
            reconnect_at: Some(Amount(terms.reconnect_at)),
            friendly: terms.friendly.is_some().then_some(terms.friendly.0),
        },
        _ => SupplyView {
            protected: false,
            emergency_below: None,
            emergency_credit: None,
            reconnect_at: None,
            friendly: None,
        },
    };
    let switch = match registry.newest_act(id, "switch").await?.map(|act| act.change) {
        Some(Change::Switch(switch)) => Some(switch),
        _ => None,
    };
    let closed_at = match registry.newest_act(id, "closing").await?.map(|act| act.change) {
        Some(Change::Close(closing)) => Some(Instant(closing.at)),
        _ => None,
    };
    let order = registry.orders(id, true, OrderId::NONE, 1).await?.pop();
    let now = app.now();
    Ok(Json(SupplyState {
        account: id.0,
        terms,
        mode: account.mode_at(switch.as_ref(), now).into(),
        switch_at: switch.filter(|switch| switch.at > now).map(|switch| Instant(switch.at)),
        closed_at,
        emergency_offered: app.is_offered(id),
        order: order.map(OrderView::from),
    }))
}

/// Sets the terms of an account's supply, all of them.
#[utoipa::path(
    put, path = "/v1/accounts/{id}/supply", tag = "supply", params(("id" = u32, Path)),
    request_body = SupplyView, responses((status = 201, body = ActView))
)]
async fn set_supply(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<SupplyView>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let or_zero = |amount: Option<Amount>| amount.map_or(Money::ZERO, |amount| amount.0);
    let terms = SupplyTerms {
        account: AccountId(id),
        is_protected: new.protected,
        emergency_below: or_zero(new.emergency_below),
        emergency_credit: or_zero(new.emergency_credit),
        reconnect_at: or_zero(new.reconnect_at),
        friendly: FriendlyId(new.friendly.unwrap_or_default()),
    };
    app.act(Change::SupplyTerms(terms), caller).await
}

/// Takes the emergency credit that is on offer.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/emergency-credit", tag = "supply", params(("id" = u32, Path)),
    responses((status = 201, body = ActView))
)]
async fn take_emergency(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let account = AccountId(id);
    app.node.registry.account(account).await?;
    app.till.in_books().await?;
    if !app.is_offered(account) {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "emergency_not_offered",
            "no emergency credit is on offer to this account",
            "it is offered below the account's threshold, once until it is paid back",
        ));
    }
    app.act(Change::Emergency(Emergency { account, at: app.now() }), caller).await
}

/// Moves arrears out of the balance, to be recovered from purchases.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/debts", tag = "supply", params(("id" = u32, Path)),
    request_body = DebtNew, responses((status = 201, body = ActView))
)]
async fn agree_debt(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<DebtNew>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let debt = DebtAgreement {
        account: AccountId(id),
        amount: new.amount.0,
        share_bp: new.share_bp,
        cap: new.cap.map_or(Money::ZERO, |cap| cap.0),
        at: app.now(),
        reason: new.reason,
    };
    app.note_switch_debt(debt.account).await?;
    app.act(Change::Debt(debt), caller).await
}

/// Switches an account between prepaid and postpaid from the start of a local day. Supply goes on.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/mode-switches", tag = "supply", params(("id" = u32, Path)),
    request_body = SwitchNew, responses((status = 201, body = ActView))
)]
async fn switch_mode(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<SwitchNew>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let account = app.node.registry.account(AccountId(id)).await?;
    let calendar =
        LocalCalendar::new(&account.terms.zone).map_err(|error| Problem::field("zone", error))?;
    let switch = ModeSwitch {
        account: AccountId(id),
        mode: new.mode.into(),
        at: calendar.day_start(new.from.0),
        share_bp: new.share_bp.unwrap_or(2000),
        cap: new.cap.map_or(Money::ZERO, |cap| cap.0),
    };
    app.note_switch_debt(switch.account).await?;
    app.act(Change::Switch(switch), caller).await
}

/// Gives an account another plan from the start of a local day, in place of what was to hold from then
/// on: the plan before takes back what waits. What was used before is rated as before.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/plan", tag = "supply", params(("id" = u32, Path)),
    request_body = PlanNew, responses((status = 201, body = ActView))
)]
async fn change_plan(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<PlanNew>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let account = app.node.registry.account(AccountId(id)).await?;
    let calendar =
        LocalCalendar::new(&account.terms.zone).map_err(|error| Problem::field("zone", error))?;
    let (account, at) = (AccountId(id), calendar.day_start(new.from.0));
    app.act(Change::Plan(PlanChange { account, plan: PlanId(new.plan), at }), caller).await
}

/// Books a movement of a kind, which may name the one it corrects.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/bookings", tag = "supply", params(("id" = u32, Path)),
    request_body = BookingNew, responses((status = 201, body = ActView))
)]
async fn book(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<BookingNew>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let booking = Booking {
        account: AccountId(id),
        kind: new.kind,
        amount: new.amount.0,
        corrects: new.corrects,
        at: app.now(),
        reason: new.reason,
    };
    app.act(Change::Book(booking), caller).await
}

/// Puts one meter in another's place, in one step. The balance stays with the account.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/replacement", tag = "supply", params(("id" = u32, Path)),
    request_body = ReplacementNew, responses((status = 201, body = ActView))
)]
async fn replace_meter(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<ReplacementNew>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let replacement = Replacement {
        account: AccountId(id),
        old: MeterId(new.old),
        end: Energy::from_wh(new.end_wh),
        new: MeterId(new.new),
        start: Energy::from_wh(new.start_wh),
        at: new.at.map_or_else(|| app.now(), |at| at.0),
    };
    app.act(Change::Replace(replacement), caller).await
}

/// Closes an account whose meter was removed.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/closing", tag = "supply", params(("id" = u32, Path)),
    responses((status = 201, body = ActView))
)]
async fn close_account(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
) -> Answer<(StatusCode, Json<ActView>)> {
    app.act(Change::Close(Closing { account: AccountId(id), at: app.now() }), caller).await
}

/// Allows that a meter which opened its relay by itself is restored.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/clearance", tag = "supply", params(("id" = u32, Path)),
    request_body = ReasonNew, responses((status = 201, body = ActView))
)]
async fn clear_trip(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<ReasonNew>,
) -> Answer<(StatusCode, Json<ActView>)> {
    let clearance = Clearance { account: AccountId(id), at: app.now(), reason: new.reason };
    app.act(Change::Clear(clearance), caller).await
}

/// What people decided of an account, oldest first.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/acts", tag = "supply",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<ActView>))
)]
async fn list_acts(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<ActView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    app.node.registry.account(AccountId(id)).await?;
    let rows = app.node.registry.acts(AccountId(id), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), ActView::from)))
}

/// Orders to relays as they stand, by id.
#[utoipa::path(
    get, path = "/v1/orders", tag = "supply", params(OrderQuery),
    responses((status = 200, body = Page<OrderView>))
)]
async fn list_orders(
    State(app): State<Arc<App>>,
    Query(query): Query<OrderQuery>,
) -> Answer<Json<Page<OrderView>>> {
    let limit = limit(query.limit)?;
    let after = OrderId(after(query.after.as_deref())?);
    let account = AccountId(query.account.unwrap_or_default());
    let rows = app.node.registry.orders(account, query.open, after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.order.to_string(), OrderView::from)))
}

/// One order with every step it took.
#[utoipa::path(
    get, path = "/v1/orders/{id}", tag = "supply", params(("id" = u64, Path)),
    responses((status = 200, body = OrderHistory))
)]
async fn order(State(app): State<Arc<App>>, Path(id): Path<u64>) -> Answer<Json<OrderHistory>> {
    let steps = app.node.registry.order_steps(OrderId(id)).await?;
    Ok(Json(OrderHistory { id, steps: steps.into_iter().map(OrderView::from).collect() }))
}

/// Whether and how the node cuts off.
#[utoipa::path(
    get, path = "/v1/supply-policy", tag = "supply",
    responses((status = 200, body = PolicyView))
)]
async fn supply_policy(State(app): State<Arc<App>>) -> Answer<Json<PolicyView>> {
    let policy = app.node.registry.supply_policy().await?;
    Ok(Json(PolicyView {
        cutting: policy.is_cutting,
        order_s_max: policy.order_s_max,
        attempts_max: policy.attempts_max,
        retry_s: policy.retry_s,
        stagger_s: policy.stagger_s,
        friendly: policy.friendly.is_some().then_some(policy.friendly.0),
    }))
}

/// Says whether and how the node cuts off, from now on.
#[utoipa::path(
    put, path = "/v1/supply-policy", tag = "supply", request_body = PolicyView,
    responses((status = 200, body = PolicyView))
)]
async fn set_supply_policy(
    State(app): State<Arc<App>>,
    Body(new): Body<PolicyView>,
) -> Answer<Json<PolicyView>> {
    let policy = SupplyPolicy {
        is_cutting: new.cutting,
        order_s_max: new.order_s_max,
        attempts_max: new.attempts_max,
        retry_s: new.retry_s,
        stagger_s: new.stagger_s,
        friendly: FriendlyId(new.friendly.unwrap_or_default()),
    };
    let outbox = app.node.registry.set_supply_policy(policy).await?;
    app.applied(outbox).await?;
    Ok(Json(new))
}

/// Calendars of friendly periods, by id.
#[utoipa::path(
    get, path = "/v1/friendly-calendars", tag = "supply", params(PageQuery),
    responses((status = 200, body = Page<FriendlyView>))
)]
async fn list_friendlies(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<FriendlyView>>> {
    let limit = limit(query.limit)?;
    let after = FriendlyId(after(query.after.as_deref())?);
    let rows = app.node.registry.friendlies(after, limit + 1).await?;
    let key = |row: &Friendly| row.calendar.friendly.to_string();
    Ok(Json(Page::of(rows, limit, key, FriendlyView::from)))
}

/// Registers a calendar of friendly periods.
#[utoipa::path(
    post, path = "/v1/friendly-calendars", tag = "supply", request_body = FriendlyNew,
    responses((status = 201, body = FriendlyView))
)]
async fn add_friendly(
    State(app): State<Arc<App>>,
    Body(new): Body<FriendlyNew>,
) -> Answer<(StatusCode, Json<FriendlyView>)> {
    let day = |stretches: Vec<StretchView>| {
        stretches.into_iter().map(|s| FriendlySpan { from: s.from, to: s.to }).collect()
    };
    let calendar = FriendlyCalendar {
        friendly: FriendlyId::NONE,
        week: new.week.into_iter().map(day).collect(),
        holidays: new.holidays.map(CalendarId),
    };
    let (made, outbox) = app.node.registry.add_friendly(&new.code, calendar).await?;
    app.applied(outbox).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

impl From<Mode> for ModeName {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Prepaid => Self::Prepaid,
            Mode::Postpaid => Self::Postpaid,
        }
    }
}

impl From<ModeName> for Mode {
    fn from(mode: ModeName) -> Self {
        match mode {
            ModeName::Prepaid => Self::Prepaid,
            ModeName::Postpaid => Self::Postpaid,
        }
    }
}
