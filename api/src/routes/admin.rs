//! The policy of the rules, and API tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meter::{AlarmPolicy, Policy};
use serde::{Deserialize, Serialize};
use storage::registry::{ApiRole, ApiToken};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use super::site::PageQuery;
use crate::App;
use crate::extract::{Body, Path, Query};
use crate::json::Instant;
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn administered() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(policy))
        .routes(routes!(set_policy))
        .routes(routes!(list_tokens))
        .routes(routes!(add_token))
        .routes(routes!(revoke_token))
}

macro_rules! policy_views {
    ($($(#[$doc:meta])* $view:ident = $domain:ident { $($(#[$field_doc:meta])* $field:ident),* $(,)? } $($more:ident: $more_view:ident)?;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        struct $view {
            $($(#[$field_doc])* $field: u32,)*
            $($more: $more_view,)?
        }

        impl From<$view> for $domain {
            fn from(view: $view) -> Self {
                Self { $($field: view.$field,)* $($more: view.$more.into(),)? }
            }
        }

        impl From<$domain> for $view {
            fn from(policy: $domain) -> Self {
                Self { $($field: policy.$field,)* $($more: policy.$more.into(),)? }
            }
        }
    )*};
}

policy_views! {
    /// Limits of the rules; they stand in the log and hold from there on.
    PolicyView = Policy {
        /// A reading stamped more than this after its arrival is quarantined, s.
        future_s_max,
        /// How far behind a meter's newest reading a late one is still accepted, s.
        horizon_s,
        /// After its deadline by this much an absent reading is a gap, s.
        gap_grace_s,
        /// Periods without a reading after which a meter is silent.
        silent_periods,
    } alarms: AlarmPolicyView;
    /// Thresholds that raise and clear alarms, in 1/1000 of the rated value.
    AlarmPolicyView = AlarmPolicy {
        over_voltage_raise,
        over_voltage_clear,
        under_voltage_raise,
        under_voltage_clear,
        overload_raise,
        overload_clear,
        loss_raise,
        loss_clear,
        unusual_raise,
        unusual_clear,
    };
}

/// What a token may do.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum RoleName {
    Admin,
    Operator,
    Vendor,
    Reader,
}

/// A token to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TokenNew {
    /// Who or what uses it.
    name: String,
    role: RoleName,
}

/// A token without its secret.
#[derive(Debug, Serialize, ToSchema)]
struct TokenView {
    id: u32,
    name: String,
    role: RoleName,
    created_at: Instant,
    revoked_at: Option<Instant>,
}

/// A new token. The secret is shown here and never again.
#[derive(Serialize, ToSchema)]
struct TokenMade {
    #[serde(flatten)]
    token: TokenView,
    /// Send it as `Authorization: Bearer SECRET`.
    secret: String,
}

impl From<ApiRole> for RoleName {
    fn from(role: ApiRole) -> Self {
        match role {
            ApiRole::Admin => Self::Admin,
            ApiRole::Operator => Self::Operator,
            ApiRole::Vendor => Self::Vendor,
            ApiRole::Reader => Self::Reader,
        }
    }
}

impl From<RoleName> for ApiRole {
    fn from(role: RoleName) -> Self {
        match role {
            RoleName::Admin => Self::Admin,
            RoleName::Operator => Self::Operator,
            RoleName::Vendor => Self::Vendor,
            RoleName::Reader => Self::Reader,
        }
    }
}

impl From<ApiToken> for TokenView {
    fn from(token: ApiToken) -> Self {
        Self {
            id: token.id,
            name: token.name,
            role: token.role.into(),
            created_at: Instant(token.created_at),
            revoked_at: token.revoked_at.map(Instant),
        }
    }
}

/// The policy in force.
#[utoipa::path(get, path = "/v1/policy", tag = "admin", responses((status = 200, body = PolicyView)))]
async fn policy(State(app): State<Arc<App>>) -> Answer<Json<PolicyView>> {
    Ok(Json(app.node.registry.policy().await?.into()))
}

/// Replaces the policy.
#[utoipa::path(
    put, path = "/v1/policy", tag = "admin", request_body = PolicyView,
    responses((status = 200, body = PolicyView))
)]
async fn set_policy(
    State(app): State<Arc<App>>,
    Body(new): Body<PolicyView>,
) -> Answer<Json<PolicyView>> {
    let outbox = app.node.registry.set_policy(new.into()).await?;
    app.applied(outbox).await?;
    Ok(Json(new))
}

/// API tokens, by number, without secrets.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "admin", params(PageQuery),
    responses((status = 200, body = Page<TokenView>))
)]
async fn list_tokens(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<TokenView>>> {
    let limit = limit(query.limit)?;
    let rows = app.node.registry.tokens(after(query.after.as_deref())?, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), TokenView::from)))
}

/// Makes a token. Its secret is shown once.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "admin", request_body = TokenNew,
    responses((status = 201, body = TokenMade))
)]
async fn add_token(
    State(app): State<Arc<App>>,
    Body(new): Body<TokenNew>,
) -> Answer<(StatusCode, Json<TokenMade>)> {
    let made = app.node.registry.add_token(&new.name, new.role.into(), app.now()).await?;
    let made = TokenMade { token: made.token.clone().into(), secret: made.secret.clone() };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Ends a token at once.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "admin", params(("id" = u32, Path)),
    responses((status = 204, description = "It is ended."))
)]
async fn revoke_token(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<StatusCode> {
    app.node.registry.revoke_token(id, app.now()).await?;
    Ok(StatusCode::NO_CONTENT)
}
