//! The client of `meterd vend`: connections that are kept, and made anew when they break.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// Bytes of an answer that are read at most.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// How long one request may take; the node's own bound is shorter.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Text that is never printed.
#[derive(Clone)]
pub(super) struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A point of sale, connected to a node.
#[derive(Clone, Debug)]
pub(super) struct Till {
    address: SocketAddr,
    authorization: Secret,
    /// Connections that wait for their next request.
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl Till {
    pub(super) fn new(
        url: &str,
        token: Option<&Secret>,
        file: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let token = match (file, token) {
            (Some(path), _) => fs::read_to_string(path)
                .with_context(|| format!("{}: cannot be read", path.display()))?,
            (None, Some(token)) => token.0.clone(),
            (None, None) => bail!("an API token is needed: give --token-file, or METERD_TOKEN"),
        };
        let host = url.strip_prefix("http://").map(|host| host.trim_end_matches('/'));
        let host = host.ok_or_else(|| anyhow!("--url {url}: expected http://HOST:PORT"))?;
        let mut found = host
            .to_socket_addrs()
            .with_context(|| format!("--url {url}: expected http://HOST:PORT"))?;
        let address = found.next().ok_or_else(|| anyhow!("--url {url}: no such host"))?;
        let authorization = Secret(format!("Bearer {}", token.trim()));
        Ok(Self { address, authorization, idle: Arc::default() })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send("GET", path, Vec::new(), None).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        body: &Value,
        key: Option<&str>,
    ) -> anyhow::Result<Value> {
        self.send("POST", path, body.to_string().into(), key).await
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        body: Vec<u8>,
        key: Option<&str>,
    ) -> anyhow::Result<Value> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("authorization", &self.authorization.0)
            .header("content-type", JSON);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(Bytes::from(body))).context("not a request")?;
        let exchanged = tokio::time::timeout(TIMEOUT, self.exchange(request)).await;
        let (status, body) = exchanged.map_err(|_| anyhow!("{}: no answer", self.address))??;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&body).context("the answer is not JSON");
        }
        Err(refused(status, &String::from_utf8_lossy(&body)).into())
    }

    /// Sends over a connection that waits, or over a new one when it broke meanwhile: every sale
    /// has its key, so a request that is sent twice sells once.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> anyhow::Result<(u16, Bytes)> {
        let waiting = self.idle().pop();
        if let Some(mut connection) = waiting
            && connection.ready().await.is_ok()
            && let Ok(answer) = self.ask(connection, request.clone()).await
        {
            return Ok(answer);
        }
        let place = || format!("cannot reach {}; does the node run?", self.address);
        let stream = TcpStream::connect(self.address).await.with_context(place)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await.with_context(place)?;
        tokio::spawn(driver);
        self.ask(connection, request).await
    }

    async fn ask(
        &self,
        mut connection: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> anyhow::Result<(u16, Bytes)> {
        let answer = connection.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow!("{}: {error}", self.address))?.to_bytes();
        self.idle().push(connection);
        Ok((status, body))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().expect("nothing panics while it holds the list")
    }
}

const JSON: &str = "application/json";

/// What the node said instead of doing it, as a sentence with its code and its advice.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refused {
    status: u16,
    text: String,
}

impl Refused {
    /// Whether the same request is refused again. After a time-out, or of a node that stops or a
    /// token that is no longer good, nobody knows: the request may even have been carried out.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self.status, 400 | 404 | 409 | 422)
    }
}

fn refused(status: u16, body: &str) -> Refused {
    let problem: Value = serde_json::from_str(body).unwrap_or_default();
    let part = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let text = if part("code").is_empty() {
        format!("status {status}: {body}")
    } else {
        format!("{} ({}): {}", part("detail"), part("code"), part("hint"))
    };
    Refused { status, text }
}

/// A key as part of a path.
pub(super) fn escaped(key: &str) -> String {
    use fmt::Write as _;
    key.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("a String takes all");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_escaped_in_paths() {
        assert_eq!(escaped("till-7_000.1~"), "till-7_000.1~");
        assert_eq!(escaped("a/b ?é"), "a%2Fb%20%3F%C3%A9");
    }

    #[test]
    fn a_refusal_is_a_sentence_with_its_code() {
        let body = r#"{"code":"below_minimum","detail":"too little","hint":"sell more"}"#;
        assert_eq!(refused(422, body).to_string(), "too little (below_minimum): sell more");
        assert_eq!(refused(502, "gone").to_string(), "status 502: gone");
        // After a time-out the sale may stand: it must be asked for again, not be given up.
        let body = r#"{"code":"timeout","detail":"took longer","hint":"repeat"}"#;
        let is_final = |status| refused(status, body).is_final();
        assert_eq!([404, 409, 422].map(is_final), [true; 3]);
        assert_eq!([401, 403, 408, 429, 500, 503].map(is_final), [false; 6]);
    }

    #[test]
    fn tokens_are_not_shown() {
        let secret = Secret::from("meterd_1".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
        let till = Till::new("http://127.0.0.1:8080/", Some(&secret), None).expect("it parses");
        assert!(!format!("{till:?}").contains("meterd_1"));
        assert!(Till::new("ftp://x", Some(&secret), None).is_err());
    }
}
