//! Top-ups, idempotent by the caller's key, and corrections.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use meter::{AccountId, Adjustment, PurchaseId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use storage::registry::{AdjustmentRow, NewPurchase, PurchaseRow};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::accounts::BalanceView;
use super::site::PageQuery;
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::json::{Amount, Instant};
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

pub(super) fn seen() -> Routes {
    OpenApiRouter::new().routes(routes!(list_top_ups)).routes(routes!(top_up_by_key))
}

pub(super) fn sold() -> Routes {
    OpenApiRouter::new().routes(routes!(top_up))
}

pub(super) fn administered() -> Routes {
    OpenApiRouter::new().routes(routes!(adjust)).routes(routes!(list_adjustments))
}

/// A top-up asked for.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TopUpNew {
    /// What was paid, above 0. Fee and tax of the tariff in force are taken from it.
    amount: Amount,
    /// The currency; when given, it must be the plan's.
    #[schema(example = "CNY")]
    currency: Option<String>,
}

/// A top-up on record.
#[derive(Debug, Serialize, ToSchema)]
struct TopUpView {
    id: u64,
    account: u32,
    idempotency_key: String,
    amount: Amount,
    at: Instant,
}

/// What the caller of a top-up is told, the same for every repetition of the request.
#[derive(Debug, Serialize, ToSchema)]
struct TopUpReceipt {
    #[serde(flatten)]
    top_up: TopUpView,
    /// Where the account stands after it.
    balance_after: BalanceView,
}

/// A correction asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AdjustmentNew {
    /// Signed, not 0.
    amount: Amount,
    /// Why, for the statement.
    reason: String,
}

/// A correction on record.
#[derive(Debug, Serialize, ToSchema)]
struct AdjustmentView {
    id: u32,
    account: u32,
    amount: Amount,
    at: Instant,
    reason: String,
}

impl From<&PurchaseRow> for TopUpView {
    fn from(row: &PurchaseRow) -> Self {
        Self {
            id: row.purchase.purchase.0,
            account: row.purchase.account.0,
            idempotency_key: row.key.clone(),
            amount: Amount(row.purchase.paid),
            at: Instant(row.purchase.at),
        }
    }
}

impl From<AdjustmentRow> for AdjustmentView {
    fn from(AdjustmentRow { id, adjustment }: AdjustmentRow) -> Self {
        let Adjustment { account, amount, at, reason } = adjustment;
        Self { id, account: account.0, amount: Amount(amount), at: Instant(at), reason }
    }
}

/// Tops an account up. The answer comes when the payment is durable and in the books. The same
/// `Idempotency-Key` and body give the same answer for ever; with another body it is refused.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/top-ups", tag = "payments",
    params(
        ("id" = u32, Path),
        ("Idempotency-Key" = String, Header, description = "Names this payment: 1 to 128 characters.")
    ),
    request_body = TopUpNew, responses((status = 201, body = TopUpReceipt))
)]
async fn top_up(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    headers: HeaderMap,
    Body(new): Body<TopUpNew>,
) -> Answer<Response> {
    let key = idempotency_key(&headers)?;
    let request = NewPurchase {
        key,
        body_hash: request_hash(id, &new),
        account: AccountId(id),
        paid: new.amount.0,
        currency: new.currency,
        at: app.now(),
        actor: caller.token,
    };
    app.note_switch_debt(request.account).await?;
    let row = app.node.registry.purchase(&request).await?;
    let answer = match row.answer {
        Some(answer) => answer,
        None => app.receipt(&row).await?,
    };
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((StatusCode::CREATED, headers, answer).into_response())
}

impl App {
    /// Waits until the purchase is in the books and writes what its callers are told, for ever.
    async fn receipt(&self, row: &PurchaseRow) -> Answer<String> {
        self.applied(row.outbox).await?;
        let account = self.node.registry.account(row.purchase.account).await?;
        let balance_after = self.balance_of(&account).await?;
        let receipt = TopUpReceipt { top_up: row.into(), balance_after };
        let answer = serde_json::to_string(&receipt).expect("a receipt has string keys only");
        Ok(self.node.registry.keep_answer(row.purchase.purchase, &answer).await?)
    }
}

/// A hash of what was asked for, not of how it was written: spaces and `1.0` or `1` do not matter.
fn request_hash(account: u32, new: &TopUpNew) -> [u8; 32] {
    let request = serde_json::to_vec(&(account, new)).expect("a request has string keys only");
    Sha256::digest(request).into()
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Answer<String> {
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    key.map(str::to_owned).ok_or_else(|| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "idempotency_key_missing",
            "the header Idempotency-Key is absent or not plain text",
            "send a key that names this payment, and the same key when you repeat the request",
        )
    })
}

/// The top-ups of an account, oldest first.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/top-ups", tag = "payments",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<TopUpView>))
)]
async fn list_top_ups(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<TopUpView>>> {
    let limit = limit(query.limit)?;
    let after = PurchaseId(after(query.after.as_deref())?);
    app.node.registry.account(AccountId(id)).await?;
    let rows = app.node.registry.purchases(AccountId(id), after, limit + 1).await?;
    let key = |row: &PurchaseRow| row.purchase.purchase.to_string();
    Ok(Json(Page::of(rows, limit, key, |row| TopUpView::from(&row))))
}

/// The top-up that an idempotency key names: whether a payment went through.
#[utoipa::path(
    get, path = "/v1/top-ups/{key}", tag = "payments", params(("key" = String, Path)),
    responses((status = 200, body = TopUpView))
)]
async fn top_up_by_key(
    State(app): State<Arc<App>>,
    Path(key): Path<String>,
) -> Answer<Json<TopUpView>> {
    let row = app.node.registry.purchase_by_key(&key).await?;
    Ok(Json(TopUpView::from(&row)))
}

/// Corrects the balance of an account by a signed entry.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/adjustments", tag = "payments", params(("id" = u32, Path)),
    request_body = AdjustmentNew, responses((status = 201, body = AdjustmentView))
)]
async fn adjust(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<AdjustmentNew>,
) -> Answer<(StatusCode, Json<AdjustmentView>)> {
    let adjustment = Adjustment {
        account: AccountId(id),
        amount: new.amount.0,
        at: app.now(),
        reason: new.reason,
    };
    let (row, outbox) = app.node.registry.adjust(&adjustment, caller.token).await?;
    app.applied(outbox).await?;
    Ok((StatusCode::CREATED, Json(row.into())))
}

/// The corrections of an account, oldest first.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/adjustments", tag = "payments",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<AdjustmentView>))
)]
async fn list_adjustments(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<AdjustmentView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    app.node.registry.account(AccountId(id)).await?;
    let rows = app.node.registry.adjustments(AccountId(id), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), AdjustmentView::from)))
}
