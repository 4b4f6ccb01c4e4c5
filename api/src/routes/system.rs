//! Health, readiness, metrics, version: open, because those who watch a node need no secrets.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use crate::App;
use crate::node::PartState;

pub(super) fn open() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
        .routes(routes!(version))
}

/// How the node is.
#[derive(Debug, Serialize, ToSchema)]
struct Readiness {
    /// Whether it serves.
    ready: bool,
    /// Its parts.
    parts: Vec<PartView>,
}

/// A part of the node.
#[derive(Debug, Serialize, ToSchema)]
struct PartView {
    name: &'static str,
    /// `ready`, `degraded` (works with limits) or `down`.
    state: &'static str,
    detail: String,
}

/// What runs.
#[derive(Debug, Serialize, ToSchema)]
struct VersionView {
    product: &'static str,
    commit: &'static str,
    /// Version of this API.
    api: &'static str,
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "system", responses((status = 200, body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// The node serves; 503 when a part is down.
#[utoipa::path(
    get, path = "/readyz", tag = "system",
    responses((status = 200, body = Readiness), (status = 503, body = Readiness))
)]
async fn readyz(State(app): State<Arc<App>>) -> Response {
    let parts = (app.node.parts)();
    let ready = parts.iter().all(|part| part.state != PartState::Down);
    let view = |part: crate::node::Part| PartView {
        name: part.name,
        state: match part.state {
            PartState::Ready => "ready",
            PartState::Degraded => "degraded",
            PartState::Down => "down",
        },
        detail: part.detail,
    };
    let parts = parts.into_iter().map(view).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, parts })).into_response()
}

/// The node's counters and gauges, as Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "system", responses((status = 200, body = String)))]
async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = String::new();
    (app.node.metrics)(&mut text);
    let alarms = &app.node.alarms;
    text.push_str(&format!(
        "# TYPE api_alarms_active gauge\napi_alarms_active {}\n\
         # TYPE api_alarms_overflowed_total counter\napi_alarms_overflowed_total {}\n",
        alarms.count(),
        alarms.overflowed()
    ));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// What runs.
#[utoipa::path(get, path = "/version", tag = "system", responses((status = 200, body = VersionView)))]
async fn version(State(app): State<Arc<App>>) -> Json<VersionView> {
    let version = app.node.version;
    Json(VersionView { product: version.product, commit: version.commit, api: "v1" })
}
