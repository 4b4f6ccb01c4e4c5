//! Debts that purchases pay off; they are agreed among the terms of supply.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use meter::{AccountId, Money};
use serde::Serialize;
use storage::registry::Debt;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::PageQuery;
use crate::App;
use crate::extract::{Path, Query};
use crate::json::{Amount, Instant};
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn seen() -> Routes {
    OpenApiRouter::new().routes(routes!(list_debts))
}

/// A debt.
#[derive(Debug, Serialize, ToSchema)]
struct DebtView {
    id: u32,
    account: u32,
    amount: Amount,
    left: Amount,
    share_bp: u32,
    cap: Amount,
    reason: String,
    at: Instant,
}

impl From<Debt> for DebtView {
    fn from(debt: Debt) -> Self {
        Self {
            id: debt.id,
            account: debt.account.0,
            amount: Amount(debt.amount),
            left: Amount(debt.left),
            share_bp: debt.share_bp,
            cap: Amount(debt.cap),
            reason: debt.reason,
            at: Instant(debt.at),
        }
    }
}

impl App {
    /// The registry takes note of a debt that a switch to prepaid made. The books publish what was
    /// owed before they confirm any entry after the switch.
    pub(super) async fn note_switch_debt(&self, account: AccountId) -> Answer<()> {
        let standing = self.node.accounts.read(account.0).unwrap_or_default();
        let (owed, at) = (standing.switch_debt, standing.switch_at);
        if owed > Money::ZERO {
            self.node.registry.note_switch_debt(account, owed, at).await?;
        }
        Ok(())
    }
}

/// The debts of an account, oldest first.
#[utoipa::path(
    get, path = "/v1/accounts/{id}/debts", tag = "vending",
    params(("id" = u32, Path), PageQuery), responses((status = 200, body = Page<DebtView>))
)]
async fn list_debts(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<DebtView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    app.node.registry.account(AccountId(id)).await?;
    app.note_switch_debt(AccountId(id)).await?;
    let rows = app.node.registry.debts(AccountId(id), after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row: &Debt| row.id.to_string(), DebtView::from)))
}
