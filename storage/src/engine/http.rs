//! The HTTP side of the child: accepts connections, answers `/ping`, hands statements to
//! [`Engine::run`](super::session::Engine::run) on a blocking thread and passes bytes between.
//!
//! A request ends in one of three ways: answered; given up because its client left (its statement
//! is killed); cut by a stop that waited long enough.

use std::convert::Infallible;
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::EngineError;
use super::failure::{Failure, code};
use super::request::Call;
use super::session::{Engine, Reply, ReplyBody};

/// Pieces of a body between the socket and the engine.
const BODY_PIECES_MAX: usize = 8;
/// A refused request's body is read to its end up to this size, so that the client gets to read
/// the answer; beyond it the connection is closed.
const DRAIN_BYTES_MAX: usize = 256 << 20;
/// The same for a request whose head is refused already, perhaps a stranger's.
const STRANGER_DRAIN_BYTES_MAX: usize = 1 << 20;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(30);

struct Server {
    engine: Arc<Engine>,
    readers: Arc<Semaphore>,
    writers: Arc<Semaphore>,
    count: AtomicU64,
}

/// Binds, says READY, serves until told to stop, then lets running requests end.
pub(super) async fn serve(
    engine: &Arc<Engine>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), EngineError> {
    let io = |what| move |source| EngineError::Io { what, source };
    let limits = engine.config.limits;
    let address = engine.config.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| EngineError::Listen { address, source })?;
    let port = listener.local_addr().map_err(io("read the port"))?.port();
    let mut terminate = signal(SignalKind::terminate()).map_err(io("listen for SIGTERM"))?;
    // Ctrl-C reaches the whole process group; the parent decides when we stop.
    let mut interrupt = signal(SignalKind::interrupt()).map_err(io("listen for SIGINT"))?;
    say_ready(port).map_err(io("say READY"))?;
    tracing::info!(
        port,
        version = engine.version,
        library = engine.library_version(),
        "engine serves"
    );

    let server = Arc::new(Server {
        engine: Arc::clone(engine),
        readers: Arc::new(Semaphore::new(limits.readers_max as usize)),
        writers: Arc::new(Semaphore::new(limits.writers_max as usize)),
        count: AtomicU64::new(0),
    });
    let slots = Arc::new(Semaphore::new(limits.connections_max as usize));
    let (closing, _) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let slot = Arc::clone(&slots).acquire_owned().await.expect("never closed");
            (listener.accept().await, slot)
        };
        tokio::select! {
            (accepted, slot) = accept => {
                // A failed accept concerns that client only; where files are short, more would
                // fail at once.
                let Ok((stream, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                };
                let serve = connection(Arc::clone(&server), stream, closing.subscribe());
                connections.spawn(async move {
                    serve.await;
                    drop(slot);
                });
            }
            Some(_) = connections.join_next() => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => break,
            _ = stopped.changed() => break,
        }
    }
    drop(listener);
    closing.send_replace(true);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(u64::from(limits.stop_s_max)), all).await.is_err() {
        tracing::warn!("engine stops although requests still run");
    }
    Ok(())
}

/// The line that the parent waits for.
fn say_ready(port: u16) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("READY {port}\n").as_bytes())?;
    out.flush()
}

async fn connection(server: Arc<Server>, stream: TcpStream, mut closing: watch::Receiver<bool>) {
    // Small answers go out at once; an error here shows in the first write.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server.answer(request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        _ = closing.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "engine connection ended");
    }
}

impl Server {
    async fn answer(&self, request: Request<Incoming>) -> Response<Outgoing> {
        let (parts, body) = request.into_parts();
        if parts.uri.path() == "/ping" || (parts.uri.path() == "/" && is_greeting(&parts)) {
            return Response::new(Outgoing::whole("Ok.\n"));
        }
        if parts.uri.path() != "/" {
            let what = format_args!("There is no handle {}; use / or /ping", parts.uri.path());
            let failure = Failure::new(code::BAD_ARGUMENTS, what);
            return refusal(&failure, StatusCode::NOT_FOUND, "");
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mark = format!("meterd-{number}");
        let (query_id, result) = match Call::parse(&parts, &self.engine.config) {
            Ok(call) => {
                let query_id = call.query_id.clone().unwrap_or_else(|| mark.clone());
                (query_id, self.run(call, mark, body).await)
            }
            Err(failure) => {
                drain(body, STRANGER_DRAIN_BYTES_MAX).await;
                (mark, Err(failure))
            }
        };
        match result {
            Ok(reply) => success(reply, &query_id),
            Err(failure) => refusal(&failure, failure.status(), &query_id),
        }
    }

    async fn run(&self, call: Call, mark: String, body: Incoming) -> Result<Reply, Failure> {
        let idle = Duration::from_secs(u64::from(self.engine.config.limits.body_idle_s_max));
        let turns = if call.read_only { &self.readers } else { &self.writers };
        let Ok(turn) = timeout(TURN_TIMEOUT, Arc::clone(turns).acquire_owned()).await else {
            drain(body, DRAIN_BYTES_MAX).await;
            let what = "Too many simultaneous queries; try again";
            return Err(Failure::new(code::TOO_MANY_SIMULTANEOUS_QUERIES, what));
        };
        let turn = turn.expect("never closed");
        let mut guard = KillOnDrop { engine: &self.engine, mark: &mark, armed: true };
        let (sender, pieces) = mpsc::channel(BODY_PIECES_MAX);
        let (reply, replied) = oneshot::channel();
        let engine = Arc::clone(&self.engine);
        let thread_mark = mark.clone();
        tokio::task::spawn_blocking(move || {
            engine.run(call, &thread_mark, BodyReader::new(pieces), reply);
            drop(turn);
        });
        let ((), reply) = tokio::join!(pump(body, sender, idle), replied);
        guard.armed = false;
        reply.unwrap_or_else(|_| {
            Err(Failure::new(code::STD_EXCEPTION, "the request's thread broke; see the log"))
        })
    }
}

/// Kills the statement of a request whose future is dropped, that is, whose client went away.
struct KillOnDrop<'a> {
    engine: &'a Arc<Engine>,
    mark: &'a str,
    armed: bool,
}

impl Drop for KillOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            let engine = Arc::clone(self.engine);
            let mark = self.mark.to_owned();
            tracing::debug!(mark, "client left, statement is killed");
            tokio::task::spawn_blocking(move || engine.kill(&mark));
        }
    }
}

fn is_greeting(parts: &hyper::http::request::Parts) -> bool {
    parts.method == hyper::Method::GET && parts.uri.query().is_none_or(str::is_empty)
}

/// Passes the body on; a broken or stalled one ends in an error, so that no INSERT commits. Once
/// nobody takes it any more, the rest is drained.
async fn pump(mut body: Incoming, sender: mpsc::Sender<Piece>, idle: Duration) {
    loop {
        let piece = match timeout(idle, body.frame()).await {
            Ok(None) => Piece::End,
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(_) => continue,
            },
            Ok(Some(Err(error))) => {
                Piece::Broken(io::Error::new(io::ErrorKind::UnexpectedEof, error))
            }
            Err(_) => {
                Piece::Broken(io::Error::new(io::ErrorKind::TimedOut, "no data for too long"))
            }
        };
        let last = !matches!(piece, Piece::Data(_));
        let taken = sender.send(piece).await.is_ok();
        if last {
            return;
        }
        if !taken {
            return drain(body, DRAIN_BYTES_MAX).await;
        }
    }
}

async fn drain(mut body: Incoming, bytes_max: usize) {
    let mut drained = 0;
    while drained <= bytes_max {
        match timeout(HEADER_TIMEOUT, body.frame()).await {
            Ok(Some(Ok(frame))) => drained += frame.data_ref().map_or(0, Bytes::len),
            _ => return,
        }
    }
}

/// A step of a body on its way to the blocking side.
enum Piece {
    Data(Bytes),
    End,
    Broken(io::Error),
}

/// The body on the blocking side. Only [`Piece::End`] is an end: where the sender just vanishes,
/// the client has left in the middle, and an INSERT must not commit.
struct BodyReader {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl BodyReader {
    fn new(pieces: mpsc::Receiver<Piece>) -> Self {
        Self { pieces, piece: Bytes::new(), ended: false }
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Data(data)) => self.piece = data,
                Some(Piece::End) => self.ended = true,
                Some(Piece::Broken(error)) => return Err(error),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let count = out.len().min(self.piece.len());
        out[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

/// The body of a response.
enum Outgoing {
    Whole(Bytes),
    Pieces(mpsc::Receiver<Result<Bytes, Failure>>),
}

impl Outgoing {
    fn whole(text: impl Into<Bytes>) -> Self {
        Self::Whole(text.into())
    }
}

/// Ends a reply that has begun; hyper then closes the connection, which the client notices.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct LateFailure(String);

impl Body for Outgoing {
    type Data = Bytes;
    type Error = LateFailure;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LateFailure>>> {
        match self.get_mut() {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Pieces(pieces) => pieces.poll_recv(context).map(|piece| {
                piece.map(|piece| {
                    piece.map(Frame::data).map_err(|failure| LateFailure(failure.text))
                })
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(bytes) => hyper::body::SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces(_) => hyper::body::SizeHint::default(),
        }
    }
}

fn success(reply: Reply, query_id: &str) -> Response<Outgoing> {
    let summary = format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"0\",\"written_rows\":\"{}\",\
         \"written_bytes\":\"{}\",\"total_rows_to_read\":\"0\",\"result_rows\":\"0\",\
         \"result_bytes\":\"0\",\"elapsed_ns\":\"0\"}}",
        reply.rows_read, reply.rows_written, reply.bytes_written
    );
    let body = match reply.body {
        ReplyBody::Whole(bytes) => Outgoing::Whole(bytes),
        ReplyBody::Pieces(pieces) => Outgoing::Pieces(pieces),
    };
    let mut response = Response::new(body);
    add_headers(&mut response, query_id);
    add(&mut response, "x-clickhouse-summary", &summary);
    if !reply.format.is_empty() {
        add(&mut response, "x-clickhouse-format", &reply.format);
    }
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media_type(&reply.format)));
    response
}

fn media_type(format: &str) -> &'static str {
    if format.starts_with("JSON") {
        "application/json; charset=UTF-8"
    } else if format.starts_with("TabSeparated") || format.starts_with("TSV") {
        "text/tab-separated-values; charset=UTF-8"
    } else if format.starts_with("CSV") {
        "text/csv; charset=UTF-8"
    } else if ["Native", "RowBinary", "Parquet", "Arrow"]
        .iter()
        .any(|name| format.starts_with(name))
    {
        "application/octet-stream"
    } else {
        "text/plain; charset=UTF-8"
    }
}

fn refusal(failure: &Failure, status: StatusCode, query_id: &str) -> Response<Outgoing> {
    let mut response = Response::new(Outgoing::whole(format!("{}\n", failure.text)));
    *response.status_mut() = status;
    add_headers(&mut response, query_id);
    add(&mut response, "x-clickhouse-exception-code", &failure.code.to_string());
    let text = HeaderValue::from_static("text/plain; charset=UTF-8");
    response.headers_mut().insert(CONTENT_TYPE, text);
    response
}

fn add_headers(response: &mut Response<Outgoing>, query_id: &str) {
    add(response, "x-clickhouse-server-display-name", "meterd");
    add(response, "x-clickhouse-timezone", "UTC");
    add(response, "x-clickhouse-query-id", query_id);
}

/// A value that is no header (a client's odd query id) is left out.
fn add(response: &mut Response<Outgoing>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}
