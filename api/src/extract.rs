//! Bodies, queries and paths of requests, with refusals that say where and what.

use std::sync::Arc;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::error::Category;

use crate::App;
use crate::problem::Problem;

/// A JSON body.
pub(crate) struct Body<T>(pub(crate) T);

/// A query string.
pub(crate) struct Query<T>(pub(crate) T);

/// Parameters of the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "the body is not announced as JSON",
                "send the header Content-Type: application/json",
            ));
        }
        let bytes = to_bytes(request.into_body(), app.config.body_size_max).await;
        let bytes = bytes.map_err(|error| body_problem(&error))?;
        let value = serde_json::from_slice(&bytes).map_err(|error| json_problem(&error))?;
        Ok(Self(value))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|query| Self(query.0)).map_err(|rejection| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_query",
                rejection.body_text(),
                "the parameters of each route are in the documentation",
            )
        })
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|rejection| {
            Problem::new(
                StatusCode::BAD_REQUEST,
                "invalid_path",
                rejection.body_text(),
                "ids in paths are decimal numbers",
            )
        })
    }
}

/// Whether a body is announced as JSON.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"))
}

/// The media type without parameters.
pub(crate) fn media_type(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    value.split(';').next().map(str::trim)
}

fn body_problem(error: &axum::Error) -> Problem {
    use std::error::Error as _;
    let is_limit =
        error.source().is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
    if is_limit { Problem::body_too_large() } else { Problem::body_broken("the body broke off") }
}

fn json_problem(error: &serde_json::Error) -> Problem {
    let detail = without_value(&error.to_string());
    let (status, code) = match error.classify() {
        Category::Syntax | Category::Eof | Category::Io => (StatusCode::BAD_REQUEST, "bad_json"),
        Category::Data if detail.starts_with("unknown field") => {
            (StatusCode::UNPROCESSABLE_ENTITY, "unknown_field")
        }
        Category::Data if detail.starts_with("missing field") => {
            (StatusCode::UNPROCESSABLE_ENTITY, "missing_field")
        }
        Category::Data => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_field"),
    };
    Problem::new(status, code, detail, "the fields of each body are in the documentation at /docs")
}

/// What serde says of a value of the wrong kind, without the value: it may be a key or a token.
fn without_value(detail: &str) -> String {
    let is_of_value = detail.starts_with("invalid type: ") || detail.starts_with("invalid value: ");
    let value = detail.find(['`', '"']).zip(detail.rfind(", expected "));
    match value.filter(|(from, to)| is_of_value && from < to) {
        Some((from, to)) => format!("{}{}", detail[..from].trim_end(), &detail[to..]),
        None => detail.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_the_wrong_kind_is_not_repeated() {
        let check = |json: &str, want: &str| {
            let error = serde_json::from_str::<Vec<u8>>(json).unwrap_err();
            assert_eq!(without_value(&error.to_string()), want, "{json}");
        };
        check("[\"12, expected 34\"]", "invalid type: string, expected u8 at line 1 column 18");
        check("[2371]", "invalid value: integer, expected u8 at line 1 column 5");
        check("[1.5]", "invalid type: floating point, expected u8 at line 1 column 4");
        check("{}", "invalid type: map, expected a sequence at line 1 column 0");
        check("[1", "EOF while parsing a list at line 1 column 2");
    }
}
