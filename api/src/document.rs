//! The OpenAPI 3.1 document and the Swagger UI, both served by the node itself.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use storage::registry::ApiRole;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ComponentsBuilder, Content, InfoBuilder, OpenApi, OpenApiBuilder, PathItem, Ref, RefOr,
    ResponseBuilder,
};

use crate::auth::Right;
use crate::problem::{BadLine, Problem, ProblemView};
use crate::routes;

/// What the Swagger UI and the document routes are given.
pub(crate) struct Document {
    json: String,
    swagger: Arc<utoipa_swagger_ui::Config<'static>>,
}

/// The document with the title, before any route.
pub(crate) fn base() -> OpenApi {
    let info = InfoBuilder::new()
        .title("Meterd")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .build();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = ComponentsBuilder::new()
        .schema_from::<ProblemView>()
        .schema_from::<BadLine>()
        .security_scheme(SCHEME, SecurityScheme::Http(scheme))
        .build();
    OpenApiBuilder::new().info(info).components(Some(components)).build()
}

const SCHEME: &str = "token";

const DESCRIPTION: &str = "Meters, accounts, tariffs, balances and top-ups.\n\n\
     Money is a decimal string with 7 decimals, an instant is RFC 3339 in UTC. Lists are paged: \
     send `next` of a page as `after`. Errors are RFC 9457 problem documents with a stable `code` \
     and a `hint`. Every route under `/v1` needs `Authorization: Bearer TOKEN`; `x-roles` of a \
     route names the roles that may call it.";

/// Marks every operation of a group with what it needs.
pub(crate) fn guard(document: &mut OpenApi, right: Right) {
    let roles: Vec<&str> = ApiRole::ALL
        .into_iter()
        .filter(|role| right.is_held_by(*role))
        .map(ApiRole::name)
        .collect();
    for operation in operations(document) {
        operation.security = Some(vec![SecurityRequirement::new(SCHEME, Vec::<String>::new())]);
        let extensions = ExtensionsBuilder::new().add("x-roles", roles.clone()).build();
        operation.extensions = Some(extensions);
    }
}

/// Adds the problem answer to every operation.
pub(crate) fn finish(document: &mut OpenApi) {
    for operation in operations(document) {
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let problem = ResponseBuilder::new()
            .description("A refusal or failure, as a problem document.")
            .content("application/problem+json", content)
            .build();
        operation.responses.responses.insert("default".to_owned(), RefOr::T(problem));
    }
}

fn operations(document: &mut OpenApi) -> impl Iterator<Item = &mut Operation> {
    document.paths.paths.values_mut().flat_map(|item| {
        let PathItem { get, put, post, delete, patch, .. } = item;
        [get, put, post, delete, patch].into_iter().flatten()
    })
}

/// The document as JSON, as `/openapi.json` serves it.
#[must_use]
pub fn openapi_json() -> String {
    routes::document().to_pretty_json().expect("the document has string keys only")
}

impl Document {
    pub(crate) fn new(document: &OpenApi) -> Self {
        let json = document.to_pretty_json().expect("the document has string keys only");
        let swagger = utoipa_swagger_ui::Config::from("/openapi.json");
        Self { json, swagger: Arc::new(swagger.validator_url("none").persist_authorization(false)) }
    }
}

pub(crate) async fn openapi(State(document): State<Arc<Document>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document.json.clone()).into_response()
}

pub(crate) async fn docs() -> Redirect {
    Redirect::permanent("/docs/")
}

pub(crate) async fn docs_index(State(document): State<Arc<Document>>) -> Response {
    swagger("index.html", &document)
}

pub(crate) async fn docs_file(
    Path(file): Path<String>,
    State(document): State<Arc<Document>>,
) -> Response {
    swagger(&file, &document)
}

fn swagger(file: &str, document: &Document) -> Response {
    match utoipa_swagger_ui::serve(file, Arc::clone(&document.swagger)) {
        Ok(Some(file)) => {
            ([(header::CONTENT_TYPE, file.content_type)], file.bytes.into_owned()).into_response()
        }
        Ok(None) | Err(_) => Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no page {file}"),
            "the documentation begins at /docs/",
        )
        .into_response(),
    }
}
