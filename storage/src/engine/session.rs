//! One request inside the engine: a connection of its own (no state can leak into the next), its
//! settings, the gate, then the statement. Everything here blocks and runs on its own thread.

use std::io::{self, Read};

use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::EngineConfig;
use super::chdb::{Connection, Library, Outcome, Parameters, StatementClass};
use super::failure::{Failure, code};
use super::frames::{self, FrameReader};
use super::request::{self, BodyEncoding, Call, ReplyEncoding, ReplyStart, Role};
use super::settings;
use super::sql::{self, Forbidden, SqlError, Statement};

/// A statement's text (data of an INSERT excepted) may have this size.
const STATEMENT_BYTES_MAX: usize = 1 << 20;
/// Data reach the engine in pieces of this size: smaller ones cost more per byte.
const PIECE_BYTES: usize = 512 << 10;
/// Results of a writer are held whole up to this size.
const WRITER_RESULT_BYTES_MAX: u64 = 1 << 30;
/// Pieces of a result under way to the client.
const PIECES_MAX: usize = 4;

/// The running engine.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) config: EngineConfig,
    library: Library,
    /// Keeps the engine up between requests and is never used again; in a mutex only because a
    /// connection cannot be shared.
    _boot: std::sync::Mutex<Connection>,
    forbidden: Forbidden,
    /// The engine's version, for example `26.7.2.1`.
    pub(super) version: String,
}

/// Where the pieces of a result come from.
#[derive(Debug)]
pub(super) enum ReplyBody {
    Whole(Bytes),
    /// An error among the pieces ends the reply abnormally, since its 200 is already out.
    Pieces(mpsc::Receiver<Result<Bytes, Failure>>),
}

/// The answer to a request that went well, or at least began so.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) format: String,
    pub(super) rows_read: u64,
    pub(super) rows_written: u64,
    pub(super) bytes_written: u64,
    pub(super) body: ReplyBody,
}

/// Arguments of the first connection, which boots the engine.
pub(super) fn boot_arguments(config: &EngineConfig) -> Vec<String> {
    let limits = &config.limits;
    let mut arguments = vec![
        format!("--max_server_memory_usage={}", limits.memory_bytes_max),
        format!("--mark_cache_size={}", limits.mark_cache_bytes_max),
        format!("--background_pool_size={}", limits.merge_threads),
    ];
    arguments.extend(arguments_of(config));
    arguments
}

/// Arguments of every connection. `async_insert` is on by default and would acknowledge early;
/// `implicit_select` makes a SELECT of any word.
fn arguments_of(config: &EngineConfig) -> [String; 3] {
    [
        format!("--path={}", config.folder.display()),
        "--async_insert=0".to_owned(),
        "--implicit_select=0".to_owned(),
    ]
}

impl Engine {
    /// Asks the booted engine what it is.
    pub(super) fn new(
        library: Library,
        mut boot: Connection,
        config: EngineConfig,
    ) -> Result<Self, super::chdb::EngineMessage> {
        let mut ask = |sql: &str| {
            let outcome = boot.query(sql, "TabSeparatedRaw", &[])?;
            Ok(String::from_utf8_lossy(&outcome.bytes).trim_end().to_owned())
        };
        let version = ask("SELECT version()")?;
        let unfit = ask("SELECT name FROM system.table_functions WHERE NOT allow_readonly")?;
        let forbidden = Forbidden::new(unfit.lines());
        Ok(Self { config, library, _boot: std::sync::Mutex::new(boot), forbidden, version })
    }

    /// The version of the C library, for the log.
    pub(super) fn library_version(&self) -> String {
        self.library.version()
    }

    /// Runs one request. The outcome goes to `reply`; pieces of a long result follow after it.
    pub(super) fn run(
        &self,
        mut call: Call,
        mark: &str,
        body: impl Read,
        reply: oneshot::Sender<Result<Reply, Failure>>,
    ) {
        let outcome = self.prepare(&mut call, mark, body);
        let (mut connection, work) = match outcome {
            Ok(ready) => ready,
            // A client that left needs no answer (here and below).
            Err(failure) => return drop(reply.send(Err(failure))),
        };
        let result = match work {
            Work::Done(outcome) => Ok(whole(outcome, String::new(), ReplyEncoding::Plain)),
            Work::Text(text) => {
                let format = sql::output_format(text.as_bytes())
                    .unwrap_or_else(|| call.default_format.clone());
                let early = call.start == ReplyStart::Early && streams(&format);
                if early && begins_with(&text, &["select", "with"]) {
                    return stream(&mut connection, &text, &format, &call, reply);
                }
                connection
                    .query(&text, &call.default_format, &call.parameters)
                    .map(|outcome| whole(outcome, format, call.reply))
                    .map_err(Failure::from)
            }
        };
        // Close before the answer: the client's next request finds this one gone.
        drop(connection);
        drop(reply.send(result));
    }

    /// Ends the statement that carries this mark; for clients that went away.
    pub(super) fn kill(&self, mark: &str) {
        let connection = self.library.connect(&arguments_of(&self.config));
        if let Some(mut connection) = connection {
            let text = format!("KILL QUERY WHERE Settings['log_comment'] = '{mark}' ASYNC");
            if let Err(message) = connection.query(&text, "Null", &[]) {
                tracing::warn!(error = message.0, "cannot end a statement whose client left");
            }
        }
    }

    /// Reads the statement, opens its connection and lets it through the gate. An INSERT with
    /// data runs here, since its data are the rest of the body.
    fn prepare(
        &self,
        call: &mut Call,
        mark: &str,
        body: impl Read,
    ) -> Result<(Connection, Work), Failure> {
        let Request { text, statement, mut rest } = read_statement(call, body)?;
        let mut connection = self.open(call, mark)?;
        let gate = |connection: &mut Connection, call: &Call, text: &str| {
            self.gate(connection, call.read_only, text, &call.parameters)
        };
        match statement {
            Statement::InsertData { head, format, data_at } => {
                // The engine's parser wants the whole statement, not its data.
                gate(&mut connection, call, &format!("{head} FORMAT {format}"))?;
                let mut data = text[data_at..].chain(&mut rest);
                let outcome = insert(&mut connection, &head, &format, &mut data)?;
                Ok((connection, Work::Done(outcome)))
            }
            Statement::Text => {
                let text = String::from_utf8(text)
                    .map_err(|_| Failure::new(code::SYNTAX_ERROR, "the statement is not UTF-8"))?;
                gate(&mut connection, call, &text)?;
                Ok((connection, Work::Text(text)))
            }
        }
    }

    fn open(&self, call: &Call, mark: &str) -> Result<Connection, Failure> {
        let mut connection =
            self.library.connect(&arguments_of(&self.config)).ok_or_else(|| {
                Failure::new(code::UNKNOWN_EXCEPTION, "the engine opens no further connection")
            })?;
        let mut settings = vec![("log_comment".to_owned(), mark.to_owned())];
        let own = settings::DEFAULTS.iter();
        settings.extend(own.map(|&(name, value)| (name.to_owned(), value.to_owned())));
        match call.role {
            Role::Reader => {
                let defaults = settings::reader_defaults(&self.config.limits);
                settings.extend(defaults.into_iter().map(|(name, value)| (name.to_owned(), value)));
            }
            Role::Writer => {
                settings.push(("max_result_bytes".to_owned(), WRITER_RESULT_BYTES_MAX.to_string()))
            }
        }
        settings.extend(call.settings.iter().cloned());
        let list: Vec<String> =
            settings.iter().map(|(name, value)| format!("{name} = {}", literal(value))).collect();
        connection.query(&format!("SET {}", list.join(", ")), "Null", &[])?;
        if let Some(database) = &call.database {
            connection.query(&format!("USE {}", quoted(database)), "Null", &[])?;
        }
        if call.read_only {
            // Last, for nothing can be set after it.
            connection.query("SET readonly = 1", "Null", &[])?;
        }
        Ok(connection)
    }

    fn gate(
        &self,
        connection: &mut Connection,
        read_only: bool,
        text: &str,
        parameters: &Parameters,
    ) -> Result<(), Failure> {
        let values = parameters.iter().map(|(_, value)| value.as_str());
        self.forbidden.check(text.as_bytes(), values)?;
        let analysis = connection.classify(text);
        match analysis.class {
            StatementClass::Unknown => return Err(syntax_error(connection, text)),
            _ if analysis.statement_count != 1 => {
                let what = "several statements in one request; send one at a time";
                return Err(Failure::new(code::SYNTAX_ERROR, what));
            }
            StatementClass::ReadOnly => return Ok(()),
            StatementClass::Mutating if !read_only => return Ok(()),
            StatementClass::Control if !read_only && begins_with(text, CONTROLS) => return Ok(()),
            StatementClass::Mutating | StatementClass::MutatingGlobal | StatementClass::Control => {
            }
        }
        let what = if read_only {
            "this user only reads: SELECT, SHOW, DESCRIBE, EXPLAIN, EXISTS"
        } else {
            "the embedded engine takes no statement that writes outside its databases"
        };
        Err(Failure::new(code::READONLY, what))
    }
}

/// What is left to do once a statement is through the gate.
enum Work {
    /// An INSERT with data has run.
    Done(Outcome),
    /// This text is to be run.
    Text(String),
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let code = match error {
            SqlError::Forbidden { .. } => code::READONLY,
            SqlError::Unterminated { .. }
            | SqlError::Character { .. }
            | SqlError::NestedComment { .. }
            | SqlError::EscapedName { .. } => code::SYNTAX_ERROR,
        };
        Self::new(code, error)
    }
}

/// The engine's own words about a text that does not parse. The text is passed as a string: put
/// behind EXPLAIN, a part of it could become a statement and run.
fn syntax_error(connection: &mut Connection, text: &str) -> Failure {
    match connection.query(&format!("SELECT formatQuery({})", literal(text)), "Null", &[]) {
        Err(message) => Failure::from(message),
        Ok(_) => Failure::new(code::SYNTAX_ERROR, "empty or unknown statement"),
    }
}

/// The statements of class "control" that a writer may use: they act on the engine only.
const CONTROLS: &[&str] = &["kill", "system", "attach", "detach", "set", "use"];

/// Whether the first word of a statement is one of these.
fn begins_with(text: &str, words: &[&str]) -> bool {
    let first = sql::Lexer::new(text.as_bytes()).next_token();
    let Ok(Some(sql::Token::Word(first))) = first else { return false };
    words.iter().any(|word| first.eq_ignore_ascii_case(word.as_bytes()))
}

/// A request's statement, and what of its body was not needed to tell it.
struct Request<'a> {
    text: Vec<u8>,
    statement: Statement,
    rest: Box<dyn Read + 'a>,
}

/// Reads as much of the request as its statement takes; the rest of the body is data.
fn read_statement<'a>(call: &mut Call, body: impl Read + 'a) -> Result<Request<'a>, Failure> {
    let mut body: Box<dyn Read + 'a> = match call.body {
        BodyEncoding::Plain => Box::new(body),
        BodyEncoding::Frames => Box::new(FrameReader::new(body)),
        BodyEncoding::Lz4 => Box::new(Lz4Reader(lz4_flex::frame::FrameDecoder::new(body))),
        BodyEncoding::Multipart(ref boundary) => {
            let mut whole = Vec::new();
            body.take(STATEMENT_BYTES_MAX as u64 + 1).read_to_end(&mut whole)?;
            if whole.len() > STATEMENT_BYTES_MAX {
                return Err(too_large());
            }
            for (name, value) in request::multipart(&whole, boundary)? {
                if name == "query" {
                    call.query = value;
                } else if let Some(parameter) = name.strip_prefix("param_") {
                    call.parameters.push((parameter.to_owned(), value));
                }
            }
            Box::new(io::empty())
        }
    };
    let mut text = call.query.clone().into_bytes();
    if !text.is_empty() {
        text.push(b'\n');
    }
    let mut complete = false;
    loop {
        let whole = text.len() <= STATEMENT_BYTES_MAX;
        match sql::statement(&text, complete)? {
            Some(statement) if whole || statement != Statement::Text => {
                return Ok(Request { text, statement, rest: body });
            }
            None if whole => {}
            Some(_) | None => return Err(too_large()),
        }
        let step = text.len().clamp(8 << 10, STATEMENT_BYTES_MAX + 1);
        let read = body.by_ref().take(step as u64).read_to_end(&mut text)?;
        complete = read < step;
    }
}

fn too_large() -> Failure {
    let what = format_args!("the statement is larger than {STATEMENT_BYTES_MAX} bytes");
    Failure::new(code::QUERY_IS_TOO_LARGE, what)
}

/// Sends the data; a body that ends in an error cancels the INSERT.
fn insert(
    connection: &mut Connection,
    head: &str,
    format: &str,
    data: &mut impl Read,
) -> Result<Outcome, Failure> {
    let mut stream = connection.insert(head, format)?;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        piece.clear();
        data.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            return stream.done().map_err(Failure::from);
        }
        stream.append(&piece)?;
    }
}

/// Formats whose pieces, one after the other, are the whole: no header, no footer. (The engine
/// streams SELECT only, not SHOW or DESCRIBE.)
fn streams(format: &str) -> bool {
    ["Native", "RowBinary", "JSONEachRow"].contains(&format)
}

fn stream(
    connection: &mut Connection,
    text: &str,
    format: &str,
    call: &Call,
    reply: oneshot::Sender<Result<Reply, Failure>>,
) {
    let pack = |bytes: Vec<u8>| match call.reply {
        ReplyEncoding::Plain => Bytes::from(bytes),
        ReplyEncoding::Frames => Bytes::from(frames::compress(&bytes)),
    };
    let started = connection
        .stream(text, format, &call.parameters)
        .and_then(|mut rows| rows.next_piece().map(|first| (rows, first)));
    let (mut rows, first) = match started {
        Ok(started) => started,
        Err(message) => return drop(reply.send(Err(message.into()))),
    };
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let head = Reply {
        format: format.to_owned(),
        rows_read: 0,
        rows_written: 0,
        bytes_written: 0,
        body: ReplyBody::Pieces(pieces),
    };
    if reply.send(Ok(head)).is_err() {
        return;
    }
    let mut piece = first;
    while !piece.is_empty() {
        if sender.blocking_send(Ok(pack(piece))).is_err() {
            // The client left; dropping `rows` cancels the statement.
            return;
        }
        piece = match rows.next_piece() {
            Ok(piece) => piece,
            Err(message) => return drop(sender.blocking_send(Err(message.into()))),
        };
    }
}

fn whole(outcome: Outcome, format: String, encoding: ReplyEncoding) -> Reply {
    let bytes = match encoding {
        ReplyEncoding::Frames if !outcome.bytes.is_empty() => frames::compress(&outcome.bytes),
        ReplyEncoding::Frames | ReplyEncoding::Plain => outcome.bytes,
    };
    Reply {
        format,
        rows_read: outcome.rows_read,
        rows_written: outcome.rows_written,
        bytes_written: outcome.bytes_written,
        body: ReplyBody::Whole(Bytes::from(bytes)),
    }
}

/// Reads LZ4 frames one after the other: clients send one per block.
struct Lz4Reader<R: Read>(lz4_flex::frame::FrameDecoder<R>);

impl<R: Read> Read for Lz4Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self.0.read(out)? {
            // The end of one frame: the next call reads the header of the following one, if any.
            0 if !out.is_empty() => self.0.read(out),
            count => Ok(count),
        }
    }
}

/// A string literal.
fn literal(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A quoted name.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}
