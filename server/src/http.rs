//! A small HTTP/1.1 client, for the demonstration and the checks: one request, one connection,
//! to an address on this machine.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

/// Bytes of an answer that are read at most.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why a request got no good answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HttpError {
    /// Nobody listens.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The exchange broke off.
    #[error("{address}: exchange broken off: {reason}")]
    Exchange {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("{address}: no answer within a minute")]
    Late {
        /// Where.
        address: SocketAddr,
    },
    /// An answer other than 2xx.
    #[error("status {status}: {body}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What the server said.
        body: String,
    },
}

/// A request.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// `GET`, `POST`, ….
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a str)],
    /// The body.
    pub body: Vec<u8>,
}

/// Sends a request and returns the body of a 2xx answer.
///
/// # Errors
/// [`HttpError`]; an answer other than 2xx is one too.
pub async fn send(address: SocketAddr, call: Call<'_>) -> Result<Bytes, HttpError> {
    tokio::time::timeout(TIMEOUT, exchange(address, call))
        .await
        .unwrap_or(Err(HttpError::Late { address }))
}

async fn exchange(address: SocketAddr, call: Call<'_>) -> Result<Bytes, HttpError> {
    let broken = |error: &dyn std::error::Error| HttpError::Exchange {
        address,
        reason: error
            .source()
            .map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
    };
    let stream = TcpStream::connect(address)
        .await
        .map_err(|source| HttpError::Connect { address, source })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e))?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header("host", address.to_string())
        .header("connection", "close");
    for (name, value) in call.headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(call.body))).map_err(|e| broken(&e))?;
    let answer = sender.send_request(request).await.map_err(|e| broken(&e))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| broken(error.as_ref()))?
        .to_bytes();
    driver.abort();
    if status.is_success() {
        Ok(body)
    } else {
        let body = String::from_utf8_lossy(&body).trim().to_owned();
        Err(HttpError::Status { status: status.as_u16(), body })
    }
}
