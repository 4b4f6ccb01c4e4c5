//! The routes, grouped by the right that they need. A group is guarded as a whole, before any
//! body is read; the document says of each route which roles may call it.

#![expect(unused_qualifications, reason = "utoipa's macros write paths in full")]

mod accounts;
mod admin;
mod agents;
mod alarms;
mod campaigns;
mod commands;
mod debts;
mod entries;
mod imports;
mod meters;
mod payments;
mod purchases;
mod readings;
mod series;
mod site;
mod statement;
mod supply;
mod system;
mod tariffs;
mod tokens;
mod vending_keys;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use meter::{OutboxId, UnixSeconds};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::App;
use crate::auth::{self, Right};
use crate::document::{self, Document};
use crate::problem::{Answer, Problem};

type Routes = OpenApiRouter<Arc<App>>;

impl App {
    /// The time.
    pub(crate) fn now(&self) -> UnixSeconds {
        (self.node.clock)()
    }

    /// Waits until a change is in the books, so that what the caller does next finds it there.
    pub(crate) async fn applied(&self, outbox: OutboxId) -> Answer<()> {
        Ok(self.node.applied.wait(outbox).await?)
    }
}

/// Every group of routes with what it needs; `None` for those open to all.
fn groups() -> [(Option<Right>, Routes); 7] {
    [
        (None, system::open()),
        (
            Some(Right::Accounts),
            accounts::seen()
                .merge(statement::seen())
                .merge(payments::seen())
                .merge(purchases::seen())
                .merge(debts::seen())
                .merge(tariffs::seen())
                .merge(supply::seen()),
        ),
        (
            Some(Right::Read),
            meters::read()
                .merge(series::read())
                .merge(readings::read())
                .merge(site::read())
                .merge(alarms::read())
                .merge(commands::read())
                .merge(tokens::read()),
        ),
        (Some(Right::Sell), payments::sold().merge(purchases::sold()).merge(supply::sold())),
        (
            Some(Right::Operate),
            meters::operated()
                .merge(site::operated())
                .merge(accounts::operated())
                .merge(supply::operated())
                .merge(alarms::operated())
                .merge(commands::operated())
                .merge(readings::operated())
                .merge(purchases::operated())
                .merge(agents::operated())
                .merge(tokens::operated())
                .merge(campaigns::operated()),
        ),
        (Some(Right::Operate), imports::operated()),
        (
            Some(Right::Administer),
            tariffs::administered()
                .merge(payments::administered())
                .merge(agents::administered())
                .merge(vending_keys::administered())
                .merge(admin::administered())
                .merge(supply::administered()),
        ),
    ]
}

/// The OpenAPI document of all routes.
pub(crate) fn document() -> OpenApi {
    let mut whole = document::base();
    for (right, routes) in groups() {
        let mut part = routes.into_openapi();
        if let Some(right) = right {
            document::guard(&mut part, right);
        }
        whole.merge(part);
    }
    document::finish(&mut whole);
    whole
}

/// The whole API.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let mut router = Router::new();
    for (index, (right, routes)) in groups().into_iter().enumerate() {
        let group: Router<Arc<App>> = routes.into();
        // Imports, the sixth group, take longer than anything else.
        let time = if index == 5 { app.config.import_s_max } else { app.config.request_s_max };
        let guard = Arc::new(Guard { app: Arc::clone(app), right, time: seconds(time) });
        router = router.merge(group.route_layer(from_fn_with_state(guard, guarded)));
    }
    let docs = Router::new()
        .route("/openapi.json", get(document::openapi))
        .route("/docs", get(document::docs))
        .route("/docs/", get(document::docs_index))
        .route("/docs/{*file}", get(document::docs_file))
        .with_state(Arc::new(Document::new(&document())));
    router
        .with_state(Arc::clone(app))
        .merge(docs)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
}

/// What stands before a group of routes.
struct Guard {
    app: Arc<App>,
    right: Option<Right>,
    time: Duration,
}

/// Lets those through who hold the right, and ends a request that takes too long.
async fn guarded(
    State(guard): State<Arc<Guard>>,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if let Some(right) = guard.right {
        let caller = auth::check(&guard.app, right, request.headers())?;
        request.extensions_mut().insert(caller);
    }
    let answer = async {
        // Who sells neither waits for the books nor reads them.
        if guard.right.is_some_and(|right| right != Right::Sell) {
            guard.app.till.in_books().await?;
        }
        Ok(next.run(request).await)
    };
    tokio::time::timeout(guard.time, answer).await.unwrap_or_else(|_| {
        Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            format!("the request took longer than {} s", guard.time.as_secs()),
            "a change may be recorded all the same: read the state, or repeat with the same key",
        ))
    })
}

/// Adds what every answer has: headers that tell a browser to do nothing on its own. No CORS header:
/// other sites may not read.
pub(crate) fn secure(is_docs: bool, headers: &mut HeaderMap) {
    let policy = if is_docs {
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
         frame-ancestors 'none'"
    } else {
        "default-src 'none'; frame-ancestors 'none'"
    };
    let secure = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    headers.reserve(secure.len());
    for (name, value) in secure {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

async fn no_route(request: Request) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_route",
        format!("there is no route {}", request.uri().path()),
        "all routes are in the documentation at /docs",
    )
}

async fn no_method(request: Request) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{} does not take {}", request.uri().path(), request.method()),
        "all routes are in the documentation at /docs",
    )
}
