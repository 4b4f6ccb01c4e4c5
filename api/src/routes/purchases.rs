//! Purchases: quote, purchase, status, copies of the receipt, reversal, refund, free issue.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use meter::{AccountId, Ask, Energy, Money, PurchaseId, Split};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use storage::registry::{CommandRow, NewSale, SaleKind, SaleRow, SoldToken};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::entries::EntryView;
use super::payments::idempotency_key;
use super::site::PageQuery;
use crate::App;
use crate::auth::{Caller, Right};
use crate::extract::{Body, Path, Query};
use crate::json::{Amount, Instant, PriceText};
use crate::page::{Page, after, limit};
use crate::problem::{Answer, Problem};

pub(super) fn seen() -> Routes {
    OpenApiRouter::new().routes(routes!(list_purchases)).routes(routes!(purchase_by_key))
}

pub(super) fn sold() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(quote))
        .routes(routes!(purchase))
        .routes(routes!(copy))
        .routes(routes!(reverse))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new().routes(routes!(refund)).routes(routes!(free_issue))
}

/// A purchase asked for: an amount of money, or, for accounts sold in kWh, of energy.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PurchaseNew {
    /// What is paid, above 0.
    amount: Option<Amount>,
    /// Energy to be had, Wh.
    energy_wh: Option<u64>,
    /// The currency; when given, it must be the plan's.
    #[schema(example = "CNY")]
    currency: Option<String>,
}

/// A free issue asked for.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct FreeIssueNew {
    /// Credit in money.
    amount: Option<Amount>,
    /// Energy, Wh; for accounts sold in kWh.
    energy_wh: Option<u64>,
    /// Why, for the statement.
    reason: String,
}

/// A line of a receipt.
#[derive(Debug, Serialize, ToSchema)]
struct LineView {
    /// What it is.
    kind: &'static str,
    /// Signed; negative takes from the balance.
    amount: Amount,
}

/// Energy sold within one block.
#[derive(Debug, Serialize, ToSchema)]
struct SoldBlockView {
    from_kwh: u64,
    price: PriceText,
    energy_wh: u64,
    cost: Amount,
}

/// A token of a receipt.
#[derive(Debug, Serialize, ToSchema)]
struct SoldTokenView {
    /// `credit`, or `key_change_N_of_M`; typed in the order given.
    kind: String,
    /// 20 digits in groups; masked for who does not sell.
    #[schema(example = "2371 6100 5011 8319 4197")]
    digits: String,
    tid: Option<u32>,
}

/// How a purchase is split.
#[derive(Debug, Serialize, ToSchema)]
struct SplitView {
    paid: Amount,
    debt: Amount,
    fee: Amount,
    tax: Amount,
    /// To the balance, or for the energy.
    credit: Amount,
    /// Energy sold; 0 where money is.
    energy_wh: u64,
    blocks: Vec<SoldBlockView>,
}

/// What the caller of a purchase is told, the same for every repetition of the request.
#[derive(Debug, Serialize, ToSchema)]
struct Receipt {
    id: u64,
    idempotency_key: String,
    kind: &'static str,
    account: u32,
    meter: Option<u32>,
    agent: Option<u32>,
    at: Instant,
    #[serde(flatten)]
    split: SplitView,
    /// The movements of the account.
    lines: Vec<LineView>,
    tokens: Vec<SoldTokenView>,
}

/// A purchase as it stands.
#[derive(Debug, Serialize, ToSchema)]
struct PurchaseView {
    #[serde(flatten)]
    receipt: Receipt,
    /// `sold`, `reversed` or `refunded`.
    state: &'static str,
    refunded: Amount,
    /// How often the receipt was printed again.
    copies: u32,
    /// Its tokens on their way into the meter, in order; empty where the customer types them.
    entries: Vec<EntryView>,
}

/// A copy of a receipt.
#[derive(Debug, Serialize, ToSchema)]
struct CopyView {
    #[serde(flatten)]
    purchase: PurchaseView,
    /// The receipt as it is printed, money with two decimals.
    text: String,
}

/// A reversal asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReversalNew {
    reason: String,
}

/// A refund asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefundNew {
    /// How much of the credit; all that is left when absent.
    amount: Option<Amount>,
    /// Number of the inspection; each is paid back once.
    inspection: String,
}

impl From<&Split> for SplitView {
    fn from(split: &Split) -> Self {
        let block = |part: &meter::BlockPart| SoldBlockView {
            from_kwh: part.from_kwh,
            price: PriceText(meter::Price::from_e4(part.price_e4)),
            energy_wh: part.energy.wh(),
            cost: Amount(part.cost),
        };
        Self {
            paid: Amount(split.paid),
            debt: Amount(split.debt),
            fee: Amount(split.fee),
            tax: Amount(split.tax),
            credit: Amount(split.credit),
            energy_wh: split.energy().wh(),
            blocks: split.blocks.iter().map(block).collect(),
        }
    }
}

impl SoldTokenView {
    pub(super) fn of(token: &SoldToken, is_shown: bool) -> Self {
        let digits = shown(&token.digits, is_shown);
        Self { kind: token.kind.clone(), digits, tid: token.tid }
    }
}

/// Digits in groups of four; only the last group unless they are shown.
pub(super) fn shown(digits: &str, is_shown: bool) -> String {
    let groups: Vec<&str> =
        digits.as_bytes().chunks(4).filter_map(|group| std::str::from_utf8(group).ok()).collect();
    let last = groups.len().saturating_sub(1);
    let show = |(index, group): (usize, &&str)| {
        if is_shown || index == last { (*group).to_owned() } else { "····".to_owned() }
    };
    groups.iter().enumerate().map(show).collect::<Vec<_>>().join(" ")
}

impl Receipt {
    fn of(row: &SaleRow, is_shown: bool) -> Self {
        let line = |line: meter::SaleLine| LineView {
            kind: line.kind.name(),
            amount: Amount(line.amount),
        };
        Self {
            id: row.id.0,
            idempotency_key: row.key.clone(),
            kind: row.kind.name(),
            account: row.account.0,
            meter: row.meter.map(|meter| meter.0),
            agent: row.agent,
            at: Instant(row.at),
            split: (&row.split).into(),
            lines: row.lines().into_iter().map(line).collect(),
            tokens: row.tokens.iter().map(|token| SoldTokenView::of(token, is_shown)).collect(),
        }
    }
}

impl PurchaseView {
    fn of(row: &SaleRow, commands: &[CommandRow], caller: Caller) -> Self {
        let entry = |(token, command): (&SoldToken, _)| EntryView::of(&token.kind, command);
        Self {
            receipt: Receipt::of(row, Right::Sell.is_held_by(caller.role)),
            state: row.state.name(),
            refunded: Amount(row.refunded),
            copies: row.copies,
            entries: row.tokens.iter().zip(commands).map(entry).collect(),
        }
    }
}

/// Money or energy, exactly one of them.
fn ask(amount: Option<Amount>, energy_wh: Option<u64>) -> Answer<Ask> {
    match (amount, energy_wh) {
        (Some(Amount(money)), None) => Ok(Ask::Money(money)),
        (None, Some(wh)) => Ok(Ask::Energy(Energy::from_wh(wh))),
        _ => Err(Problem::field("amount", "give either amount or energy_wh")),
    }
}

impl App {
    async fn purchase_view(&self, row: &SaleRow, caller: Caller) -> Answer<PurchaseView> {
        let entries = self.node.registry.entries(&[row.id]).await?;
        let commands = entries.get(&row.id).map_or(&[][..], Vec::as_slice);
        Ok(PurchaseView::of(row, commands, caller))
    }

    fn sale(&self, caller: Caller, account: u32, kind: SaleKind, ask: Ask) -> NewSale {
        let at = self.now();
        NewSale {
            key: String::new(),
            body_hash: [0; 32],
            kind,
            account: AccountId(account),
            ask,
            currency: None,
            reason: String::new(),
            rnd: 0,
            at,
            actor: caller.token,
        }
    }

    /// Sells, and answers with the receipt.
    async fn sold(&self, sale: NewSale) -> Answer<Response> {
        self.note_switch_debt(sale.account).await?;
        let row = self.till.sell(sale).await?;
        let standing = self.node.accounts.read(row.account.0).unwrap_or_default();
        if standing.balance < Money::ZERO {
            // An order to cut it off may be with the meter's mailbox: the books call it back.
            self.applied(row.outbox).await?;
        }
        let receipt = Receipt::of(&row, true);
        let receipt = serde_json::to_string(&receipt).expect("a receipt has string keys only");
        let headers = [(header::CONTENT_TYPE, "application/json")];
        Ok((StatusCode::CREATED, headers, receipt).into_response())
    }
}

/// What a purchase would come to, line by line. Nothing is changed.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/quotes", tag = "vending", params(("id" = u32, Path)),
    request_body = PurchaseNew, responses((status = 200, body = SplitView))
)]
async fn quote(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<PurchaseNew>,
) -> Answer<Json<SplitView>> {
    let ask = ask(new.amount, new.energy_wh)?;
    let sale = app.sale(caller, id, SaleKind::Purchase, ask);
    let sale = NewSale { currency: new.currency, ..sale };
    app.note_switch_debt(sale.account).await?;
    Ok(Json((&app.node.registry.quote(sale).await?).into()))
}

/// Sells credit. The answer comes when the sale and its tokens are durable, to an overdrawn account
/// when it is in the books; whoever reads the account afterwards finds it there. The same
/// `Idempotency-Key` and body give the same answer, with the same tokens, for ever; with another body
/// it is refused.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/purchases", tag = "vending",
    params(
        ("id" = u32, Path),
        ("Idempotency-Key" = String, Header, description = "Names this purchase: 1 to 128 characters.")
    ),
    request_body = PurchaseNew, responses((status = 201, body = Receipt))
)]
async fn purchase(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    headers: HeaderMap,
    Body(new): Body<PurchaseNew>,
) -> Answer<Response> {
    let key = idempotency_key(&headers)?;
    let ask = ask(new.amount, new.energy_wh)?;
    let body_hash = request_hash("purchase", id, &new);
    let sale = app.sale(caller, id, SaleKind::Purchase, ask);
    let (rnd, currency) = (body_hash[0], new.currency);
    app.sold(NewSale { key, body_hash, currency, rnd, ..sale }).await
}

/// Gives credit away; a kind of its own in the ledger.
#[utoipa::path(
    post, path = "/v1/accounts/{id}/free-issues", tag = "vending",
    params(
        ("id" = u32, Path),
        ("Idempotency-Key" = String, Header, description = "Names this issue: 1 to 128 characters.")
    ),
    request_body = FreeIssueNew, responses((status = 201, body = Receipt))
)]
async fn free_issue(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    headers: HeaderMap,
    Body(new): Body<FreeIssueNew>,
) -> Answer<Response> {
    let key = idempotency_key(&headers)?;
    let ask = ask(new.amount, new.energy_wh)?;
    let body_hash = request_hash("free_issue", id, &new);
    let sale = app.sale(caller, id, SaleKind::FreeIssue, ask);
    let (rnd, reason) = (body_hash[0], new.reason);
    app.sold(NewSale { key, body_hash, reason, rnd, ..sale }).await
}

/// The purchases of an account, oldest first.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/purchases", tag = "vending",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<PurchaseView>))
)]
async fn list_purchases(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<PurchaseView>>> {
    let limit = limit(query.limit)?;
    let after = PurchaseId(after(query.after.as_deref())?);
    app.node.registry.account(AccountId(id)).await?;
    let rows = app.node.registry.sales(AccountId(id), after, limit + 1).await?;
    let ids: Vec<PurchaseId> = rows.iter().map(|row| row.id).collect();
    let entries = app.node.registry.entries(&ids).await?;
    let view = |row: SaleRow| {
        let commands = entries.get(&row.id).map_or(&[][..], Vec::as_slice);
        PurchaseView::of(&row, commands, caller)
    };
    Ok(Json(Page::of(rows, limit, |row: &SaleRow| row.id.to_string(), view)))
}

/// The purchase that an idempotency key names: whether it went through, and how it stands. Tokens
/// are masked for who does not sell.
#[utoipa::path(
    get, path = "/v1/purchases/{key}", tag = "vending", params(("key" = String, Path)),
    responses((status = 200, body = PurchaseView))
)]
async fn purchase_by_key(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Answer<Json<PurchaseView>> {
    let row = app.node.registry.sale_by_key(&key).await?;
    Ok(Json(app.purchase_view(&row, caller).await?))
}

/// Prints a receipt again, counted: the stored tokens, never new ones.
#[utoipa::path(
    post, path = "/v1/purchases/{key}/copies", tag = "vending", params(("key" = String, Path)),
    responses((status = 201, body = CopyView))
)]
async fn copy(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
) -> Answer<(StatusCode, Json<CopyView>)> {
    let row = app.node.registry.reissue(&key, caller.token, app.now()).await?;
    let text = printed(&row);
    let purchase = app.purchase_view(&row, caller).await?;
    Ok((StatusCode::CREATED, Json(CopyView { purchase, text })))
}

/// Cancels a purchase before delivery: within a day, the account's last one, and not one whose
/// token is with the buyer.
#[utoipa::path(
    post, path = "/v1/purchases/{key}/reversal", tag = "vending", params(("key" = String, Path)),
    request_body = ReversalNew, responses((status = 200, body = PurchaseView))
)]
async fn reverse(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Body(new): Body<ReversalNew>,
) -> Answer<Json<PurchaseView>> {
    let registry = &app.node.registry;
    let done = registry.reverse_sale(&key, &new.reason, caller.token, app.now()).await?;
    app.applied(done.1).await?;
    Ok(Json(app.purchase_view(&done.0, caller).await?))
}

/// Pays credit back after an inspection. Each inspection is paid back once.
#[utoipa::path(
    post, path = "/v1/purchases/{key}/refund", tag = "vending", params(("key" = String, Path)),
    request_body = RefundNew, responses((status = 200, body = PurchaseView))
)]
async fn refund(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(key): Path<String>,
    Body(new): Body<RefundNew>,
) -> Answer<Json<PurchaseView>> {
    let registry = &app.node.registry;
    let amount = new.amount.map(|amount| amount.0);
    let refund = registry.refund_sale(&key, amount, &new.inspection, caller.token, app.now());
    let (row, outbox) = refund.await?;
    app.applied(outbox).await?;
    Ok(Json(app.purchase_view(&row, caller).await?))
}

/// A hash of what was asked for, not of how it was written: spaces and `1.0` or `1` do not matter.
fn request_hash(kind: &str, account: u32, new: &impl Serialize) -> [u8; 32] {
    let request = serde_json::to_vec(&(kind, account, new));
    Sha256::digest(request.expect("a request has string keys only")).into()
}

/// The receipt on paper: money with two decimals, half-even, at the very edge.
fn printed(row: &SaleRow) -> String {
    use std::fmt::Write as _;
    let mut text = format!("RECEIPT {}  {}\n", row.id, row.at);
    if row.copies > 0 {
        let _written = writeln!(text, "COPY {}", row.copies);
    }
    for line in row.lines() {
        let _written = writeln!(text, "{:16}{:>14}", line.kind.name(), cents(line.amount));
    }
    for part in &row.split.blocks {
        let (wh, price) = (part.energy.wh(), meter::Price::from_e4(part.price_e4).to_decimal());
        let kwh = format!("{}.{:03} kWh", wh / 1000, wh % 1000);
        let _written = writeln!(text, "{kwh:>16} at {price}  {:>10}", cents(part.cost));
    }
    for token in &row.tokens {
        let _written = writeln!(text, "{}\n  {}", token.kind, shown(&token.digits, true));
    }
    text
}

fn cents(amount: Money) -> String {
    let all = amount.round_to_cents().to_decimal();
    all.strip_suffix("00000").unwrap_or(&all).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_masked_but_for_their_end() {
        let digits = "23716100501183194197";
        assert_eq!(shown(digits, true), "2371 6100 5011 8319 4197");
        assert_eq!(shown(digits, false), "···· ···· ···· ···· 4197");
    }

    #[test]
    fn money_on_paper_has_two_decimals() {
        let check = |ticks, want: &str| assert_eq!(cents(Money::from_ticks(ticks)), want);
        check(123_450_000, "12.34"); // 12.345 half-even
        check(-500_000, "-0.05");
        check(123_550_000, "12.36");
    }
}
