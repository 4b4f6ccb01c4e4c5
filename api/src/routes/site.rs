//! Transformers and gateways.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use meter::{GatewayId, TransformerId};
use serde::{Deserialize, Serialize};
use storage::registry::{DeviceKeys, Gateway, NewGateway, Transformer};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use crate::App;
use crate::extract::{Body, Path, Query};
use crate::json::{Key, Title};
use crate::page::{Page, after, limit};
use crate::problem::Answer;

pub(super) fn read() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(list_transformers))
        .routes(routes!(transformer))
        .routes(routes!(list_gateways))
        .routes(routes!(gateway))
}

pub(super) fn operated() -> Routes {
    OpenApiRouter::new().routes(routes!(add_transformer)).routes(routes!(add_gateway))
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// `next` of the page before.
    pub(super) after: Option<String>,
    /// Items of the page, 1 to 1000, default 100.
    pub(super) limit: Option<u32>,
}

/// A transformer to be registered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TransformerNew {
    /// Code in the field, unique.
    code: String,
    #[serde(default)]
    name: String,
}

/// A transformer.
#[derive(Debug, Serialize, ToSchema)]
struct TransformerView {
    id: u32,
    code: String,
    name: String,
}

/// A gateway to be registered.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct GatewayNew {
    system_title: Title,
    #[serde(default)]
    name: String,
    /// Name of its push template.
    template: String,
    encryption_key: Key,
    authentication_key: Key,
}

/// A gateway.
#[derive(Debug, Serialize, ToSchema)]
struct GatewayView {
    id: u32,
    system_title: Title,
    name: String,
    template: String,
}

impl From<Transformer> for TransformerView {
    fn from(Transformer { id, code, name }: Transformer) -> Self {
        Self { id: id.0, code, name }
    }
}

impl From<Gateway> for GatewayView {
    fn from(Gateway { id, title, name, template }: Gateway) -> Self {
        Self { id: id.0, system_title: Title(title), name, template }
    }
}

/// Transformers, by id.
#[utoipa::path(
    get, path = "/v1/transformers", tag = "site", params(PageQuery),
    responses((status = 200, body = Page<TransformerView>))
)]
async fn list_transformers(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<TransformerView>>> {
    let limit = limit(query.limit)?;
    let after = TransformerId(after(query.after.as_deref())?);
    let rows = app.node.registry.transformers(after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), TransformerView::from)))
}

/// One transformer.
#[utoipa::path(
    get, path = "/v1/transformers/{id}", tag = "site", params(("id" = u32, Path)),
    responses((status = 200, body = TransformerView))
)]
async fn transformer(
    State(app): State<Arc<App>>,
    Path(id): Path<u32>,
) -> Answer<Json<TransformerView>> {
    Ok(Json(app.node.registry.transformer(TransformerId(id)).await?.into()))
}

/// Registers a transformer.
#[utoipa::path(
    post, path = "/v1/transformers", tag = "site", request_body = TransformerNew,
    responses((status = 201, body = TransformerView))
)]
async fn add_transformer(
    State(app): State<Arc<App>>,
    Body(new): Body<TransformerNew>,
) -> Answer<(StatusCode, Json<TransformerView>)> {
    let made = app.node.registry.add_transformer(&new.code, &new.name).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// Gateways, by id.
#[utoipa::path(
    get, path = "/v1/gateways", tag = "site", params(PageQuery),
    responses((status = 200, body = Page<GatewayView>))
)]
async fn list_gateways(
    State(app): State<Arc<App>>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<GatewayView>>> {
    let limit = limit(query.limit)?;
    let after = GatewayId(after(query.after.as_deref())?);
    let rows = app.node.registry.gateways(after, limit + 1).await?;
    Ok(Json(Page::of(rows, limit, |row| row.id.to_string(), GatewayView::from)))
}

/// One gateway.
#[utoipa::path(
    get, path = "/v1/gateways/{id}", tag = "site", params(("id" = u32, Path)),
    responses((status = 200, body = GatewayView))
)]
async fn gateway(State(app): State<Arc<App>>, Path(id): Path<u32>) -> Answer<Json<GatewayView>> {
    Ok(Json(app.node.registry.gateway(GatewayId(id)).await?.into()))
}

/// Registers a gateway.
#[utoipa::path(
    post, path = "/v1/gateways", tag = "site", request_body = GatewayNew,
    responses((status = 201, body = GatewayView))
)]
async fn add_gateway(
    State(app): State<Arc<App>>,
    Body(new): Body<GatewayNew>,
) -> Answer<(StatusCode, Json<GatewayView>)> {
    let new = NewGateway {
        title: new.system_title.0,
        name: new.name,
        template: new.template,
        keys: keys(&new.encryption_key, &new.authentication_key),
    };
    let made = app.node.registry.add_gateway(&new).await?;
    Ok((StatusCode::CREATED, Json(made.into())))
}

/// A device's keys from a body.
pub(super) fn keys(encryption: &Key, authentication: &Key) -> DeviceKeys {
    DeviceKeys { encryption: *encryption.0, authentication: *authentication.0 }
}
