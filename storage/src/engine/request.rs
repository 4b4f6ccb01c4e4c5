//! The head of a request: who asks, for what, with which settings. Parameters come from the
//! URL; credentials from `Authorization: Basic`, `X-ClickHouse-User`/`-Key` or the URL.

use hyper::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use hyper::http::request::Parts;
use sha2::{Digest, Sha256};

use super::failure::{Failure, code};
use super::settings;
use super::{Credential, EngineConfig};

/// Through which door a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The node: reads and writes.
    Writer,
    /// Analysts: reads, within limits.
    Reader,
}

/// How the body is packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BodyEncoding {
    Plain,
    /// `decompress=1`: ClickHouse's frames.
    Frames,
    /// `Content-Encoding: lz4`: LZ4's frame format.
    Lz4,
    /// `multipart/form-data` with this boundary: the statement and its parameters.
    Multipart(String),
}

/// How the result is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyEncoding {
    Plain,
    /// `compress=1`: ClickHouse's frames.
    Frames,
}

/// When the reply begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReplyStart {
    /// With the first rows, where the format allows it.
    Early,
    /// `wait_end_of_query=1`: when the result is complete.
    Complete,
}

/// A request as understood from its head.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) role: Role,
    pub(super) database: Option<String>,
    pub(super) default_format: String,
    /// `?query=`; the body follows it.
    pub(super) query: String,
    pub(super) query_id: Option<String>,
    /// Checked and bounded, ready to be set.
    pub(super) settings: Vec<(String, String)>,
    /// `param_x` without the prefix.
    pub(super) parameters: Vec<(String, String)>,
    pub(super) body: BodyEncoding,
    pub(super) reply: ReplyEncoding,
    pub(super) start: ReplyStart,
    /// GET only reads, whoever asks.
    pub(super) read_only: bool,
}

/// Parameters that ask nothing of us.
const WITHOUT_MEANING: &[&str] = &[
    "buffer_size",
    "cancel_http_readonly_queries_on_client_close",
    "client_protocol_version",
    "close_session",
    "enable_http_compression",
    "http_headers_progress_interval_ms",
    "quota_key",
    "role",
    "send_progress_in_http_headers",
    "session_check",
    "session_id",
    "session_timeout",
    "stacktrace",
];

impl Call {
    /// Understands a head.
    ///
    /// # Errors
    /// Wrong credentials, unknown or unfit settings, an encoding we do not read.
    pub(super) fn parse(parts: &Parts, config: &EngineConfig) -> Result<Self, Failure> {
        let url = parts.uri.query().unwrap_or_default();
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(url.as_bytes()).into_owned().collect();
        let role = authenticate(&parts.headers, &pairs, config)?;
        let header = |name: &str| text_of(&parts.headers, name);
        let mut call = Self {
            role,
            database: header("x-clickhouse-database"),
            default_format: header("x-clickhouse-format").unwrap_or_else(|| "TabSeparated".into()),
            query: String::new(),
            query_id: None,
            settings: Vec::new(),
            parameters: Vec::new(),
            body: body_encoding(&parts.headers)?,
            reply: ReplyEncoding::Plain,
            start: ReplyStart::Early,
            read_only: role == Role::Reader || parts.method != hyper::Method::POST,
        };
        for (name, value) in pairs {
            call.take(name, value, config)?;
        }
        Ok(call)
    }

    fn take(&mut self, name: String, value: String, config: &EngineConfig) -> Result<(), Failure> {
        match name.as_str() {
            "user" | "password" => {}
            "query" => self.query = value,
            "query_id" => self.query_id = Some(value).filter(|id| !id.is_empty()),
            "database" => self.database = Some(value).filter(|name| !name.is_empty()),
            "default_format" => self.default_format = value,
            "compress" if is_on(&value) => self.reply = ReplyEncoding::Frames,
            "decompress" if is_on(&value) => self.body = BodyEncoding::Frames,
            "wait_end_of_query" if is_on(&value) => self.start = ReplyStart::Complete,
            "compress" | "decompress" | "wait_end_of_query" => {}
            known if WITHOUT_MEANING.contains(&known) => {}
            other => {
                if let Some(parameter) = other.strip_prefix("param_") {
                    self.parameters.push((parameter.to_owned(), value));
                } else if let Some(value) =
                    settings::accept(self.role, &config.limits, other, &value)?
                {
                    self.settings.push((name, value));
                }
            }
        }
        Ok(())
    }
}

fn is_on(value: &str) -> bool {
    value != "0" && !value.is_empty()
}

fn body_encoding(headers: &HeaderMap) -> Result<BodyEncoding, Failure> {
    if let Some(kind) = text_of(headers, CONTENT_TYPE.as_str())
        && kind.starts_with("multipart/form-data")
    {
        let boundary = kind.split_once("boundary=").map(|(_, rest)| rest.trim_matches('"'));
        return match boundary {
            Some(boundary) if !boundary.is_empty() && boundary.len() <= 200 => {
                Ok(BodyEncoding::Multipart(boundary.to_owned()))
            }
            _ => Err(Failure::new(code::BAD_ARGUMENTS, "multipart body without a boundary")),
        };
    }
    match text_of(headers, CONTENT_ENCODING.as_str()).as_deref() {
        None | Some("" | "identity") => Ok(BodyEncoding::Plain),
        Some("lz4") => Ok(BodyEncoding::Lz4),
        Some(other) => Err(Failure::new(
            code::BAD_ARGUMENTS,
            format_args!("Content-Encoding {other} is not read; send plain or lz4"),
        )),
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// Which door the credentials open. All sources are read in the server's order.
fn authenticate(
    headers: &HeaderMap,
    pairs: &[(String, String)],
    config: &EngineConfig,
) -> Result<Role, Failure> {
    let parameter =
        |name: &str| pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
    let (user, password) = if let Some(user) = text_of(headers, "x-clickhouse-user") {
        (user, text_of(headers, "x-clickhouse-key").unwrap_or_default())
    } else if let Some(value) = text_of(headers, AUTHORIZATION.as_str()) {
        basic(&value).unwrap_or_default()
    } else {
        (parameter("user").unwrap_or_default(), parameter("password").unwrap_or_default())
    };
    let given = Credential { user, password };
    if same(&given, &config.writer) {
        Ok(Role::Writer)
    } else if same(&given, &config.reader) {
        Ok(Role::Reader)
    } else {
        let what = format_args!(
            "{}: Authentication failed: password is incorrect, or there is no user with such name",
            given.user
        );
        Err(Failure::new(code::AUTHENTICATION_FAILED, what))
    }
}

/// Compares digests, so that the time taken tells nothing about the password.
fn same(given: &Credential, want: &Credential) -> bool {
    given.user == want.user && Sha256::digest(&given.password) == Sha256::digest(&want.password)
}

/// `Basic base64(user:password)`.
fn basic(value: &str) -> Option<(String, String)> {
    let (scheme, encoded) = value.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(base64(encoded.trim())?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// RFC 4648 base64 with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

/// The parts of a `multipart/form-data` body: `(name, value)`.
pub(super) fn multipart(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Failure> {
    let bad = |what| Failure::new(code::BAD_ARGUMENTS, format_args!("multipart body: {what}"));
    let body = std::str::from_utf8(body).map_err(|_| bad("not UTF-8"))?;
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    // Parts stand between delimiters; the text before the first is nothing, after the last `--`.
    let mut pieces = body.split(delimiter.as_str()).skip(1);
    loop {
        let piece = pieces.next().ok_or_else(|| bad("no end"))?;
        if piece.starts_with("--") {
            return Ok(parts);
        }
        let (head, value) = piece
            .strip_prefix("\r\n")
            .and_then(|piece| piece.strip_suffix("\r\n"))
            .and_then(|piece| piece.split_once("\r\n\r\n"))
            .ok_or_else(|| bad("a part without head and body"))?;
        let name = head
            .split_once(" name=\"")
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(name, _)| name)
            .ok_or_else(|| bad("a part without name"))?;
        parts.push((name.to_owned(), value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_read() {
        for (value, want) in [
            ("Basic YTpi", Some(("a", "b"))),
            ("basic bWV0ZXJkOnDDpHNzOndvcnQ=", Some(("meterd", "päss:wort"))),
            ("Bearer YTpi", None),
            ("Basic !", None),
            ("Basic YQ==", None),
            ("Basic", None),
        ] {
            let got = basic(value);
            let got = got.as_ref().map(|(user, password)| (user.as_str(), password.as_str()));
            assert_eq!(got, want, "{value}");
        }
    }

    #[test]
    fn multipart_bodies_are_read() {
        let part =
            "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {x:String}\r\n";
        let good = format!(
            "{part}--b\r\nContent-Disposition: form-data; name=\"param_x\"\r\nContent-Type: text/plain\r\n\r\na\tb\r\n--b--\r\n"
        );
        let want = vec![
            ("query".to_owned(), "SELECT {x:String}".to_owned()),
            ("param_x".to_owned(), "a\tb".to_owned()),
        ];
        assert_eq!(multipart(good.as_bytes(), "b").unwrap(), want);
        for bad in
            ["", "--b", part, "--b\r\nx\r\n--b--", "--b\r\nx\r\n\r\ny\r\n--b--", "--b\r\n\u{e4}"]
        {
            assert_eq!(multipart(bad.as_bytes(), "b").unwrap_err().code, 36, "{bad}");
        }
        assert_eq!(multipart(b"--b\r\n\xff", "b").unwrap_err().code, 36);
    }
}
