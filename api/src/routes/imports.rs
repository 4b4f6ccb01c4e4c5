//! Bulk import of meters and installations. The body is read while it arrives.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use http_body_util::BodyExt as _;
use serde::Serialize;
use storage::registry::{IMPORT_COLUMNS, ImportFormat, ImportLimits};
use tokio::sync::mpsc;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Routes;
use crate::App;
use crate::extract::{is_json, media_type};
use crate::problem::{Answer, Problem};

pub(super) fn operated() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(import_meters))
        .routes(routes!(import_template))
        .routes(routes!(import_columns))
}

/// What an import made.
#[derive(Debug, Serialize, ToSchema)]
struct ImportView {
    rows: u64,
    meters: u64,
    customers: u64,
    accounts: u64,
    transformers: u64,
    installations: u64,
}

/// A column of the import.
#[derive(Debug, Serialize, ToSchema)]
struct ColumnView {
    name: &'static str,
    /// When it is to be filled.
    needed: &'static str,
    meaning: &'static str,
    example: &'static str,
}

/// Imports meters and installations, all rows or none. The body is CSV (`text/csv`, a header line
/// first) or JSON (`application/json`: an array of objects, or `application/x-ndjson`: an object
/// a line). One row may make a meter, a customer, an account and an installation.
#[utoipa::path(
    post, path = "/v1/imports/meters", tag = "imports",
    request_body(content = String, content_type = "text/csv"),
    responses((status = 201, body = ImportView))
)]
async fn import_meters(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Answer<(StatusCode, Json<ImportView>)> {
    let format = match media_type(&headers) {
        Some("text/csv") => ImportFormat::Csv,
        Some("application/x-ndjson") => ImportFormat::Json,
        _ if is_json(&headers) => ImportFormat::Json,
        _ => {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body is announced neither as CSV nor as JSON",
                "send the header Content-Type: text/csv, application/json or application/x-ndjson",
            ));
        }
    };
    let limits = ImportLimits {
        rows_max: app.config.import_rows_max,
        errors_max: app.config.import_errors_max,
    };
    let (sender, receiver) = mpsc::channel(8);
    let patience = Duration::from_secs(u64::from(app.config.request_s_max));
    let forward = forward(body, app.config.import_size_max, patience, sender);
    let (report, ()) = tokio::join!(app.node.registry.import(format, limits, receiver), forward);
    let report = report?;
    if let Some(outbox) = report.outbox {
        app.applied(outbox).await?;
    }
    let counts = report.counts;
    let view = ImportView {
        rows: counts.rows,
        meters: counts.meters,
        customers: counts.customers,
        accounts: counts.accounts,
        transformers: counts.transformers,
        installations: counts.installations,
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Hands the body on, chunk by chunk, up to its bound; each chunk has its time.
async fn forward(
    mut body: Body,
    size_max: u64,
    patience: Duration,
    sender: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut size = 0_u64;
    loop {
        let chunk = match tokio::time::timeout(patience, body.frame()).await {
            Ok(None) => return,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(chunk) => Ok(chunk),
                Err(_trailers) => continue,
            },
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        size += chunk.as_ref().map_or(0, |chunk| u64::try_from(chunk.len()).unwrap_or(u64::MAX));
        let chunk = match chunk {
            Ok(_) if size > size_max => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
            chunk => chunk,
        };
        let is_last = chunk.is_err();
        // An import that has given up does not want the rest.
        if sender.send(chunk).await.is_err() || is_last {
            return;
        }
    }
}

/// A CSV file with the header and an example row.
#[utoipa::path(
    get, path = "/v1/imports/meters/template.csv", tag = "imports",
    responses((status = 200, body = String, content_type = "text/csv"))
)]
async fn import_template() -> Response {
    let line = |cell: fn(&storage::registry::Column) -> &'static str| {
        IMPORT_COLUMNS.iter().map(cell).collect::<Vec<_>>().join(",")
    };
    let text = format!("{}\n{}\n", line(|column| column.name), line(|column| column.example));
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"meters.csv\""),
    ];
    (headers, text).into_response()
}

/// The columns of the import.
#[utoipa::path(
    get, path = "/v1/imports/meters/columns", tag = "imports",
    responses((status = 200, body = Vec<ColumnView>))
)]
async fn import_columns() -> Json<Vec<ColumnView>> {
    let view = |column: &storage::registry::Column| {
        let storage::registry::Column { name, needed, meaning, example } = *column;
        ColumnView { name, needed, meaning, example }
    };
    Json(IMPORT_COLUMNS.iter().map(view).collect())
}
