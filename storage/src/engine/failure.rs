//! A refused or failed request, as ClickHouse tells it: a code, a text, an HTTP status.

use hyper::StatusCode;

use super::chdb::EngineMessage;

/// ClickHouse error codes that we give ourselves.
pub(super) mod code {
    pub(in crate::engine) const CANNOT_DECOMPRESS: u16 = 271;
    pub(in crate::engine) const CANNOT_READ_ALL_DATA: u16 = 33;
    pub(in crate::engine) const BAD_ARGUMENTS: u16 = 36;
    pub(in crate::engine) const SYNTAX_ERROR: u16 = 62;
    pub(in crate::engine) const UNKNOWN_SETTING: u16 = 115;
    pub(in crate::engine) const READONLY: u16 = 164;
    pub(in crate::engine) const TOO_MANY_SIMULTANEOUS_QUERIES: u16 = 202;
    pub(in crate::engine) const QUERY_IS_TOO_LARGE: u16 = 229;
    pub(in crate::engine) const AUTHENTICATION_FAILED: u16 = 516;
    pub(in crate::engine) const STD_EXCEPTION: u16 = 1001;
    pub(in crate::engine) const UNKNOWN_EXCEPTION: u16 = 1002;
}

/// Why a request got no result.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u16,
    /// The whole text, `Code: N. DB::Exception: …`.
    pub(super) text: String,
}

impl Failure {
    /// A failure in our own words.
    pub(super) fn new(code: u16, what: impl std::fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {what}") }
    }

    /// The HTTP status that a ClickHouse server gives with this code.
    pub(super) fn status(&self) -> StatusCode {
        match self.code {
            33 | 36 | 62 | 271 => StatusCode::BAD_REQUEST,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            516 => StatusCode::UNAUTHORIZED,
            164 => StatusCode::FORBIDDEN,
            46 | 47 | 60 | 81 | 115 => StatusCode::NOT_FOUND,
            159 => StatusCode::REQUEST_TIMEOUT,
            202 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl From<EngineMessage> for Failure {
    /// The first `Code: N` counts: messages nest.
    fn from(EngineMessage(text): EngineMessage) -> Self {
        let digits: String = text
            .split_once("Code: ")
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
            .unwrap_or_default();
        match digits.parse() {
            Ok(code) => Self { code, text },
            Err(_) => Self::new(code::UNKNOWN_EXCEPTION, text),
        }
    }
}

impl From<std::io::Error> for Failure {
    /// A request body that ended early or cannot be read.
    fn from(error: std::io::Error) -> Self {
        let code = if error.kind() == std::io::ErrorKind::InvalidData {
            code::CANNOT_DECOMPRESS
        } else {
            code::CANNOT_READ_ALL_DATA
        };
        Self::new(code, format_args!("the request body: {error}"))
    }
}
