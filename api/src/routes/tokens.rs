//! Token meters: their settings, the tokens they were given, the census, and engineering tokens
//! under four eyes.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use meter::{MeterId, UnixSeconds};
use serde::{Deserialize, Serialize};
use storage::registry::{
    CensusRow, CommandRow, Issue, IssuedToken, IssuedTokens, KeySetting, Refusal, TokenEntry,
    TokenMeter, TokenOrderRow,
};
use sts::{CreditRegister, Drn, ExtendedSetting, Management, MeterPan, Order, Rnd, TransferAmount};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::entries::EntryView;
use super::purchases::shown;
use super::site::PageQuery;
use crate::App;
use crate::auth::{Caller, Right};
use crate::extract::{Body, Path, Query};
use crate::json::Instant;
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};
use crate::vault::{config, identity, key_id, vending};

pub(super) fn read() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(token_settings))
        .routes(routes!(list_issued))
        .routes(routes!(census))
        .routes(routes!(list_token_orders))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(set_token_settings))
        .routes(routes!(order_token))
        .routes(routes!(decide_order))
}

/// Which key a meter holds, or is to hold.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyView {
    /// Supply group code.
    pub(super) sgc: u32,
    /// Key type: 1 default, 2 unique, 3 common.
    pub(super) kt: u8,
    /// Key revision number, 1 to 9.
    pub(super) krn: u8,
    /// Tariff index, 0 to 99.
    pub(super) ti: u8,
}

/// Token settings of a meter, told.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenSettingsNew {
    /// Decoder reference number (11 or 13 digits) or primary account number (18).
    number: String,
    /// `sts` credits energy, `cts` credits money.
    #[schema(example = "sts")]
    scheme: Option<String>,
    /// Encryption algorithm, 7 or 11.
    ea: u8,
    /// The key it holds.
    key: KeyView,
    /// Its expiry number, as the meter was told; that of the vending key when absent.
    ken: Option<u8>,
    /// Year that its identifiers count from; that of the vending key when absent.
    base_year: Option<u16>,
    /// The key it is to hold: the change goes in front of its next token. The same when absent.
    to: Option<KeyView>,
    /// `keypad`: its tokens are typed; `remote`: the node also sends those of each sale and of each
    /// approved order to its token gateway (DLMS class 115). `keypad` when absent.
    #[schema(example = "keypad")]
    entry: Option<String>,
}

/// Token settings of a meter.
#[derive(Debug, Serialize, ToSchema)]
struct TokenSettingsView {
    meter: u32,
    pan: String,
    scheme: String,
    ea: u8,
    key: KeyView,
    ken: u8,
    base_year: u16,
    to: KeyView,
    /// Identifier of its last token.
    last_tid: Option<u32>,
    /// `keypad` or `remote`.
    entry: &'static str,
}

/// A token that a meter was given.
#[derive(Debug, Serialize, ToSchema)]
struct IssuedView {
    /// Its number among the meter's tokens, from 1.
    number: u64,
    /// The sale it belongs to, if any.
    sale: Option<u64>,
    kind: String,
    /// Masked for who does not sell.
    digits: String,
    tid: Option<u32>,
    base_year: u16,
    at: Instant,
}

/// How many meters share these settings.
#[derive(Debug, Serialize, ToSchema)]
struct CensusView {
    base_year: u16,
    ea: u8,
    sgc: u32,
    kt: u8,
    krn: u8,
    ken: u8,
    meters: u64,
    /// Those that are to get another key.
    to_change: u64,
}

/// What an engineering token is to do.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum TokenAction {
    /// Clears a credit register: 0 to 7, or 65535 for all.
    ClearCredit { register: u16 },
    /// Clears the tamper condition.
    ClearTamper {},
    /// Sets the maximum power.
    SetMaximumPowerLimit { watts: u32 },
    /// Sets the maximum difference between phases.
    SetMaximumPhasePowerUnbalanceLimit { watts: u32 },
    /// Sets the tariff rate, 16 raw bits.
    SetTariffRate { field: u16 },
    /// Sets the water meter factor, 16 raw bits.
    SetWaterMeterFactor { field: u16 },
    /// Sets a flag of the extended token set.
    SetFlag { flag: u16, value: bool },
    /// Brings the meter the key it is to hold.
    KeyChange {},
}

/// An engineering token, ordered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OrderNew {
    meter: u32,
    action: TokenAction,
    reason: String,
    work_order: String,
}

/// An order for an engineering token.
#[derive(Debug, Serialize, ToSchema)]
struct TokenOrderView {
    id: u32,
    meter: u32,
    action: TokenAction,
    reason: String,
    work_order: String,
    /// `waiting`, `approved` or `refused`.
    state: String,
    /// Number of the API token that ordered it.
    ordered_by: u32,
    ordered_at: Instant,
    /// Number of the API token that decided.
    decided_by: Option<u32>,
    /// The tokens in the order in which they are typed; masked for who does not operate.
    tokens: Vec<String>,
    /// What became of each on its way into a meter with remote entry, in the same order.
    entries: Vec<EntryView>,
}

/// What the second person says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct OrderDecision {
    approve: bool,
}

impl From<KeySetting> for KeyView {
    fn from(KeySetting { sgc, kt, krn, ti }: KeySetting) -> Self {
        Self { sgc, kt, krn, ti }
    }
}

impl From<KeyView> for KeySetting {
    fn from(KeyView { sgc, kt, krn, ti }: KeyView) -> Self {
        Self { sgc, kt, krn, ti }
    }
}

impl From<TokenMeter> for TokenSettingsView {
    fn from(meter: TokenMeter) -> Self {
        Self {
            meter: meter.meter.0,
            pan: meter.pan,
            scheme: meter.scheme,
            ea: meter.ea,
            key: meter.known.into(),
            ken: meter.ken,
            base_year: meter.base_year,
            to: meter.to.into(),
            last_tid: meter.last_tid,
            entry: meter.entry.name(),
        }
    }
}

impl From<CensusRow> for CensusView {
    fn from(row: CensusRow) -> Self {
        let CensusRow { base_year, ea, sgc, kt, krn, ken, meters, to_change } = row;
        Self { base_year, ea, sgc, kt, krn, ken, meters, to_change }
    }
}

impl App {
    /// Orders as a caller may see them, each with what became of its tokens.
    async fn order_views(
        &self,
        rows: Vec<TokenOrderRow>,
        caller: Caller,
    ) -> Answer<Vec<TokenOrderView>> {
        let ids: Vec<u32> = rows.iter().map(|row| row.id).collect();
        let mut sent = self.node.registry.order_entries(&ids).await?;
        let view = |row: TokenOrderRow| {
            let commands = sent.remove(&row.id.into()).unwrap_or_default();
            TokenOrderView::of(row, &commands, caller)
        };
        rows.into_iter().map(view).collect()
    }

    async fn order_view(&self, row: TokenOrderRow, caller: Caller) -> Answer<TokenOrderView> {
        let mut views = self.order_views(vec![row], caller).await?;
        Ok(views.pop().expect("an order has a view"))
    }
}

impl TokenOrderView {
    fn of(row: TokenOrderRow, commands: &[CommandRow], caller: Caller) -> Answer<Self> {
        let is_shown = Right::Operate.is_held_by(caller.role);
        let action: TokenAction =
            serde_json::from_str(&row.action).map_err(|error| Problem::field("action", error))?;
        let sections = commands.len() - usize::from(!action.is_key_change()).min(commands.len());
        let entry = |(index, command): (usize, &CommandRow)| {
            let section = format!("key_change_{}_of_{sections}", index + 1);
            EntryView::of(if index < sections { &section } else { "order" }, command)
        };
        let entries = commands.iter().enumerate().map(entry).collect();
        let digits = row.digits.unwrap_or_default();
        Ok(Self {
            id: row.id,
            meter: row.meter.0,
            action,
            reason: row.reason,
            work_order: row.work_order,
            state: row.state,
            ordered_by: row.ordered_by,
            ordered_at: Instant(row.ordered_at),
            decided_by: (row.decided_by != 0).then_some(row.decided_by),
            tokens: digits.split_whitespace().map(|digits| shown(digits, is_shown)).collect(),
            entries,
        })
    }
}

impl TokenAction {
    const fn is_key_change(&self) -> bool {
        matches!(self, Self::KeyChange {})
    }

    /// The order to the vault; `None` for the change of the key alone.
    fn order(&self, rnd: Rnd) -> Result<Option<Order>, Refusal> {
        let watts = |watts: u32| {
            TransferAmount::from_units(watts).map_err(|error| {
                vending("token_amount_too_large", error.to_string(), "ask for less")
            })
        };
        let action = match *self {
            Self::KeyChange {} => return Ok(None),
            Self::ClearCredit { register } => {
                let register = CreditRegister::from_code(register).ok_or_else(|| {
                    let reason = format!("there is no credit register {register}");
                    vending("credit_register_unknown", reason, "use 0 to 7, or 65535 for all")
                })?;
                Management::ClearCredit(register)
            }
            Self::ClearTamper {} => Management::ClearTamperCondition,
            Self::SetMaximumPowerLimit { watts: limit } => {
                Management::SetMaximumPowerLimit(watts(limit)?)
            }
            Self::SetMaximumPhasePowerUnbalanceLimit { watts: limit } => {
                Management::SetMaximumPhasePowerUnbalanceLimit(watts(limit)?)
            }
            Self::SetTariffRate { field } => Management::SetTariffRate(field),
            Self::SetWaterMeterFactor { field } => Management::SetWaterMeterFactor(field),
            Self::SetFlag { flag, value } => {
                Management::Extended(ExtendedSetting::flag(flag, value))
            }
        };
        Ok(Some(Order::Management { action, rnd }))
    }
}

/// The meter's number as it is on its plate, with its check digits.
fn pan(number: &str) -> Result<MeterPan, Refusal> {
    if let Ok(pan) = number.parse::<MeterPan>() {
        return Ok(pan);
    }
    if number.len() == 18 {
        return number.parse::<MeterPan>().map_err(|error| identity(&error));
    }
    number.parse::<Drn>().map(|drn| MeterPan::of(&drn)).map_err(|error| identity(&error))
}

/// Tells the token settings of a meter. Its key's vending key must be in the vault, unless expiry
/// number and base year are told.
#[utoipa::path(
    put, path = "/v1/meters/{id}/token-settings", tag = "vending", params(("id" = u32, Path)),
    request_body = TokenSettingsNew, responses((status = 200, body = TokenSettingsView))
)]
async fn set_token_settings(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Body(new): Body<TokenSettingsNew>,
) -> Answer<Json<TokenSettingsView>> {
    let known: KeySetting = new.key.into();
    let to = new.to.map_or(known, KeySetting::from);
    key_id(to).map_err(|error| Problem::from(identity(&error)))?;
    let scheme = new.scheme.unwrap_or_else(|| "sts".to_owned());
    if !app.vault.has_scheme(&scheme) {
        return Err(Problem::field("scheme", "must be sts or cts"));
    }
    let entry = new.entry.as_deref().map_or(Some(TokenEntry::Keypad), TokenEntry::from_name);
    let entry = entry.ok_or_else(|| Problem::field("entry", "must be keypad or remote"))?;
    let (ken, base_year) = match (new.ken, new.base_year) {
        (Some(ken), Some(base_year)) => (ken, base_year),
        (ken, base_year) => {
            let attributes = app.vault.attributes(known)?;
            let year = attributes.base_date.year();
            (ken.unwrap_or(attributes.ken.0), base_year.unwrap_or(year))
        }
    };
    sts::BaseDate::from_year(base_year).map_err(|error| Problem::field("base_year", error))?;
    let meter = TokenMeter {
        meter: MeterId(id),
        pan: pan(&new.number)?.to_string(),
        scheme,
        ea: new.ea,
        known,
        ken,
        base_year,
        to,
        last_tid: None,
        entry,
    };
    config(&meter)?;
    Ok(Json(app.node.registry.set_token_meter(&meter).await?.into()))
}

/// The token settings of a meter.
#[utoipa::path(
    get, path = "/v1/meters/{id}/token-settings", tag = "vending", params(("id" = u32, Path)),
    responses((status = 200, body = TokenSettingsView))
)]
async fn token_settings(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
) -> Answer<Json<TokenSettingsView>> {
    Ok(Json(app.node.registry.token_meter(MeterId(id)).await?.into()))
}

/// The tokens that a meter was given, oldest first.
#[utoipa::path(
    get, path = "/v1/meters/{id}/tokens", tag = "vending",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<IssuedView>))
)]
async fn list_issued(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<IssuedView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    let is_shown = Right::Sell.is_held_by(caller.role);
    let rows = app.node.registry.issued_tokens(MeterId(id), after, limit + 1).await?;
    let view = |row: IssuedToken| IssuedView {
        number: row.number,
        sale: (row.sale != 0).then_some(row.sale),
        kind: row.token.kind,
        digits: shown(&row.token.digits, is_shown),
        tid: row.token.tid,
        base_year: row.token.base_year,
        at: Instant(row.at),
    };
    Ok(Json(Page::of(rows, limit, |row: &IssuedToken| row.number.to_string(), view)))
}

/// Token meters by base year, algorithm and key: what a rollover or key change still has to do.
#[utoipa::path(
    get, path = "/v1/token-census", tag = "vending",
    responses((status = 200, body = Vec<CensusView>))
)]
async fn census(State(app): State<Arc<App>>) -> Answer<Json<Vec<CensusView>>> {
    let rows = app.node.registry.token_census().await?;
    Ok(Json(rows.into_iter().map(CensusView::from).collect()))
}

/// Orders an engineering token; another person must approve it.
#[utoipa::path(
    post, path = "/v1/token-orders", tag = "vending", request_body = OrderNew,
    responses((status = 201, body = TokenOrderView))
)]
async fn order_token(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Body(new): Body<OrderNew>,
) -> Answer<(StatusCode, Json<TokenOrderView>)> {
    new.action.order(Rnd::default())?;
    let order = TokenOrderRow {
        id: 0,
        meter: MeterId(new.meter),
        action: serde_json::to_string(&new.action).expect("an action has string keys only"),
        reason: new.reason,
        work_order: new.work_order,
        state: "waiting".to_owned(),
        ordered_by: caller.token,
        ordered_at: app.now(),
        decided_by: 0,
        digits: None,
    };
    let order = app.node.registry.order_token(&order).await?;
    Ok((StatusCode::CREATED, Json(app.order_view(order, caller).await?)))
}

/// Approves or refuses an order; not by who gave it. An approved one makes its token, which also goes
/// to the meter where that has remote entry.
#[utoipa::path(
    post, path = "/v1/token-orders/{id}/decision", tag = "vending", params(("id" = u32, Path)),
    request_body = OrderDecision, responses((status = 200, body = TokenOrderView))
)]
async fn decide_order(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<OrderDecision>,
) -> Answer<Json<TokenOrderView>> {
    let now = app.now();
    let issue = |meter: &TokenMeter, action: &str| app.engineering(meter, action, now);
    let approve: Option<&Issue<'_>> = if new.approve { Some(&issue) } else { None };
    let order = app.node.registry.decide_token(id, approve, caller.token, now).await?;
    Ok(Json(app.order_view(order, caller).await?))
}

impl App {
    fn engineering(
        &self,
        meter: &TokenMeter,
        action: &str,
        now: UnixSeconds,
    ) -> Result<IssuedTokens, Refusal> {
        let action: TokenAction = serde_json::from_str(action).map_err(|error| {
            vending("token_refused", error.to_string(), "refuse the order and give a new one")
        })?;
        let order = action.order(Rnd::from_low_bits(u8::try_from(now.0 & 0x0F).unwrap_or(0)))?;
        self.vault.make(meter, order, now)
    }
}

/// Orders for engineering tokens, oldest first.
#[utoipa::path(
    get, path = "/v1/token-orders", tag = "vending", params(PageQuery),
    responses((status = 200, body = Page<TokenOrderView>))
)]
async fn list_token_orders(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<TokenOrderView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    let rows = app.node.registry.token_orders(after, limit + 1).await?;
    let page = Page::of(rows, limit, |row: &TokenOrderRow| row.id.to_string(), |row| row);
    let items = app.order_views(page.items, caller).await?;
    Ok(Json(Page { items, next: page.next }))
}
