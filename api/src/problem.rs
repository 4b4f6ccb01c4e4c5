//! Refusals as RFC 9457 problem documents: a stable `code` for programs, `detail` and `hint` for
//! people.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use storage::registry::{ImportError, LineError, Nature, Refusal, RegistryError};
use tracing::error;
use utoipa::ToSchema;

use crate::history::HistoryError;
use crate::node::NotApplied;

/// A refusal on its way to the caller; boxed, because most answers are none.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<ProblemView>);

/// A problem document (`application/problem+json`, RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemView {
    /// URN of the kind of problem: `urn:meterd:problem:` and the code.
    #[serde(rename = "type")]
    kind: String,
    /// The status in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// What happened, for programs; never changes its meaning.
    #[schema(example = "not_found")]
    code: &'static str,
    /// What happened, for people.
    detail: String,
    /// What to do about it.
    hint: String,
    /// Bad lines of an import, the first ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<BadLine>,
    /// How many problems an import has.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors_total: Option<u64>,
}

/// One thing wrong with one line of an import.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct BadLine {
    /// Line of the body, from 1.
    line: u64,
    /// Row, from 1, without the header; 0 for the header.
    row: u64,
    /// The column, empty when the whole line is meant.
    column: String,
    /// What is wrong.
    problem: String,
    /// How to mend it.
    hint: String,
}

/// The result of a handler.
pub(crate) type Answer<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        code: &'static str,
        detail: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self(Box::new(ProblemView {
            kind: format!("urn:meterd:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            hint: hint.into(),
            errors: Vec::new(),
            errors_total: None,
        }))
    }

    /// A field or parameter does not hold what it must.
    pub(crate) fn field(field: &str, reason: impl std::fmt::Display) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_field",
            format!("{field}: {reason}"),
            "correct the field and send the request again",
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.0)).into_response();
        let content_type = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"meterd\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.nature() {
            Nature::Absent => StatusCode::NOT_FOUND,
            Nature::Conflict => StatusCode::CONFLICT,
            Nature::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.code(), refusal.to_string(), refusal.hint())
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        if let RegistryError::Refused(refusal) = error {
            return refusal.into();
        }
        error!(error = &error as &dyn std::error::Error, "registry failed");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "registry_unavailable",
            "the registry does not answer",
            "try again; nothing is known to have changed. See /readyz and the node's log",
        )
    }
}

impl From<HistoryError> for Problem {
    fn from(error: HistoryError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "history failed");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "history_unavailable",
            error.to_string(),
            "try again; balances and latest values are served meanwhile. See /readyz",
        )
    }
}

impl From<NotApplied> for Problem {
    fn from(error: NotApplied) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "not_applied_yet",
            error.to_string(),
            "the change is recorded; repeat the request with the same key, or read the state",
        )
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        let detail = error.to_string();
        let refuse = |code, hint: &str| {
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail.clone(), hint)
        };
        match error {
            ImportError::Registry(error) => error.into(),
            ImportError::Lines { errors, total, .. } => {
                let hint = "mend the lines named in errors and send the whole body again";
                let mut problem = refuse("import_refused", hint);
                problem.0.errors = errors.into_iter().map(BadLine::from).collect();
                problem.0.errors_total = Some(total);
                problem
            }
            ImportError::Empty => {
                refuse("import_empty", "send at least one row below the header line")
            }
            ImportError::TooManyRows { .. } => {
                refuse("import_too_many_rows", "split the rows over several imports")
            }
            ImportError::Body(source) => {
                let too_large = source.kind() == std::io::ErrorKind::FileTooLarge;
                if too_large { Self::body_too_large() } else { Self::body_broken(&detail) }
            }
            _ => refuse("import_refused", "correct the body and send it again"),
        }
    }
}

impl Problem {
    pub(crate) fn body_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            "the body is larger than this route takes",
            "send a smaller body; imports may be split",
        )
    }

    pub(crate) fn body_broken(detail: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "body_incomplete",
            detail,
            "the connection broke off while the body was sent; send it again",
        )
    }
}

impl From<LineError> for BadLine {
    fn from(error: LineError) -> Self {
        let LineError { line, row, column, problem, hint } = error;
        Self { line, row, column, problem, hint }
    }
}
