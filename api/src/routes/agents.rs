//! Vending points: their credit limits, daily totals and settlements.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use meter::Money;
use serde::{Deserialize, Serialize};
use storage::registry::{Agent, AgentDay};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::PageQuery;
use crate::App;
use crate::auth::Caller;
use crate::extract::{Body, Path, Query};
use crate::json::{Amount, Day};
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn operated() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list_agents))
        .routes(routes!(list_days))
        .routes(routes!(settle))
}

pub(super) fn administered() -> Routes {
    OpenApiRouter::new().routes(routes!(add_agent)).routes(routes!(bind_token))
}

/// A vending point to be registered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AgentNew {
    /// Unique.
    code: String,
    name: String,
    /// IANA zone of its days.
    #[schema(example = "Asia/Shanghai")]
    zone: String,
    /// The most it may owe; a sale beyond it is refused.
    credit_limit: Amount,
}

/// A vending point.
#[derive(Debug, Serialize, ToSchema)]
struct AgentView {
    id: u32,
    code: String,
    name: String,
    zone: String,
    credit_limit: Amount,
    /// Taken in and not settled.
    owed: Amount,
    /// What it may still sell.
    available: Amount,
}

/// What a vending point sold on a local day.
#[derive(Debug, Serialize, ToSchema)]
struct AgentDayView {
    day: String,
    /// Purchases, free issues and top-ups.
    sales: u64,
    paid: Amount,
    /// Given back on that day by reversals and refunds.
    taken_back: Amount,
}

/// A settlement.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SettlementNew {
    amount: Amount,
    /// Number of the bank's paper.
    reference: String,
}

/// From which day.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DaysQuery {
    /// First day; all days when absent.
    #[param(value_type = Option<String>)]
    from: Option<Day>,
    /// How many days at most.
    limit: Option<u32>,
}

impl From<Agent> for AgentView {
    fn from(agent: Agent) -> Self {
        let available = agent.credit_limit.minus(agent.owed).unwrap_or(Money::ZERO);
        Self {
            id: agent.id,
            code: agent.code,
            name: agent.name,
            zone: agent.zone,
            credit_limit: Amount(agent.credit_limit),
            owed: Amount(agent.owed),
            available: Amount(available),
        }
    }
}

/// Registers a vending point.
#[utoipa::path(
    post, path = "/v1/agents", tag = "vending", request_body = AgentNew,
    responses((status = 201, body = AgentView))
)]
async fn add_agent(
    State(app): State<Arc<App>>,
    Body(new): Body<AgentNew>,
) -> Answer<(StatusCode, Json<AgentView>)> {
    let agent = Agent {
        id: 0,
        code: new.code,
        name: new.name,
        zone: new.zone,
        credit_limit: new.credit_limit.0,
        owed: Money::ZERO,
    };
    let agent = app.node.registry.add_agent(&agent).await?;
    Ok((StatusCode::CREATED, Json(agent.into())))
}

/// Binds an API token to a vending point: what it sells counts there.
#[utoipa::path(
    put, path = "/v1/agents/{id}/tokens/{token}", tag = "vending",
    params(("id" = u32, Path), ("token" = u32, Path)), responses((status = 204))
)]
async fn bind_token(
    State(app): State<Arc<App>>,
    Path((id, token)): Path<(u32, u32)>,
) -> Answer<StatusCode> {
    app.node.registry.bind_agent_token(id, token).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Vending points, by id.
#[utoipa::path(
    get, path = "/v1/agents", tag = "vending", params(PageQuery),
    responses((status = 200, body = Page<AgentView>))
)]
async fn list_agents(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<AgentView>>> {
    let limit = limit(query.limit)?;
    let after = after(query.after.as_deref())?;
    let rows = app.node.registry.agents(after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row: &Agent| row.id.to_string(), AgentView::from)))
}

/// What a vending point sold, day by day.
#[utoipa::path(
    get, path = "/v1/agents/{id}/days", tag = "vending", params(("id" = u32, Path), DaysQuery),
    responses((status = 200, body = Vec<AgentDayView>))
)]
async fn list_days(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
    Query(query): Query<DaysQuery>,
) -> Answer<Json<Vec<AgentDayView>>> {
    let limit = limit(query.limit)?;
    app.node.registry.agent(id).await?;
    let from = query.from.map_or_else(String::new, |day| day.0.to_string());
    let days = app.node.registry.agent_days(id, &from, limit).await?;
    let view = |AgentDay { day, sales, paid, taken_back }| AgentDayView {
        day,
        sales,
        paid: Amount(paid),
        taken_back: Amount(taken_back),
    };
    Ok(Json(days.into_iter().map(view).collect()))
}

/// Records what a vending point handed in. Each reference counts once.
#[utoipa::path(
    post, path = "/v1/agents/{id}/settlements", tag = "vending", params(("id" = u32, Path)),
    request_body = SettlementNew, responses((status = 201, body = AgentView))
)]
async fn settle(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<u32>,
    Body(new): Body<SettlementNew>,
) -> Answer<(StatusCode, Json<AgentView>)> {
    let (amount, actor, now) = (new.amount.0, caller.token, app.now());
    let settled = app.node.registry.settle_agent(id, amount, &new.reference, actor, now).await?;
    Ok((StatusCode::CREATED, Json(settled.into())))
}
