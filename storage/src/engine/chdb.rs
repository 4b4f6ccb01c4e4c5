//! The only place that calls into `libchdb` (and, for `_exit`, into libc): a safe face over the
//! C functions of `chdb.h` 26.7 that the engine needs.
//!
//! Longer than other files, so that every unsafe call stands in one.
//!
//! Ownership: a [`Library`] is loaded once and lives as long as the process (its threads never
//! end, so it is never unloaded). A [`Connection`] runs one statement at a time and closes when
//! dropped; a [`Rows`] or [`InsertStream`] borrows its connection, so that a second statement
//! cannot start before it ends. Results are copied out: nothing of ours points into the engine.

#![expect(unsafe_code, reason = "libchdb is a C library; this module is the whole border to it")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::path::Path;
use std::ptr::{self, NonNull};

use super::EngineError;

/// `chdb_result *`, opaque.
type RawResult = *mut c_void;
/// `chdb_connection`, opaque.
type RawConnection = *mut c_void;
/// `chdb_insert_stream`, opaque.
type RawStream = *mut c_void;

/// `chdb_query_with_params_n` and its streaming sister: connection; statement, format, and the names
/// and values of parameters, each with its size.
type RawQuery = unsafe extern "C" fn(
    RawConnection,
    *const c_char,
    usize,
    *const c_char,
    usize,
    *const *const c_char,
    *const usize,
    *const *const c_char,
    *const usize,
    usize,
) -> RawResult;

/// `chdb_query_analysis_v1` of chdb.h.
#[repr(C)]
struct RawAnalysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

const _: () = assert!(size_of::<RawAnalysis>() == 16);

/// `CHDBSuccess` of `chdb_state`.
const SUCCESS: c_int = 0;

/// The functions used, resolved once.
#[derive(Debug, Clone, Copy)]
struct Functions {
    version: unsafe extern "C" fn() -> *const c_char,
    signal_handlers: unsafe extern "C" fn(c_int),
    connect: unsafe extern "C" fn(c_int, *mut *mut c_char) -> *mut RawConnection,
    close: unsafe extern "C" fn(*mut RawConnection),
    query: RawQuery,
    stream_query: RawQuery,
    stream_fetch: unsafe extern "C" fn(RawConnection, RawResult) -> RawResult,
    stream_cancel: unsafe extern "C" fn(RawConnection, RawResult),
    destroy_result: unsafe extern "C" fn(RawResult),
    result_buffer: unsafe extern "C" fn(RawResult) -> *const c_char,
    result_length: unsafe extern "C" fn(RawResult) -> usize,
    result_rows_read: unsafe extern "C" fn(RawResult) -> u64,
    result_rows_written: unsafe extern "C" fn(RawResult) -> u64,
    result_bytes_written: unsafe extern "C" fn(RawResult) -> u64,
    result_error: unsafe extern "C" fn(RawResult) -> *const c_char,
    insert: unsafe extern "C" fn(
        RawConnection,
        *const c_char,
        usize,
        *const c_char,
        usize,
    ) -> RawStream,
    insert_append: unsafe extern "C" fn(RawStream, *const c_void, usize) -> c_int,
    insert_done: unsafe extern "C" fn(RawStream) -> RawResult,
    insert_cancel: unsafe extern "C" fn(RawStream),
    insert_error: unsafe extern "C" fn(RawStream) -> *const c_char,
    destroy_insert: unsafe extern "C" fn(RawStream),
    classify: unsafe extern "C" fn(
        RawConnection,
        *const c_char,
        usize,
        *const c_char,
        usize,
        *mut RawAnalysis,
    ) -> c_int,
}

/// A loaded `libchdb`; copies share it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Library {
    functions: &'static Functions,
}

/// Resolves one symbol as the function pointer type that the context asks for.
macro_rules! symbol {
    ($library:expr, $path:expr, $name:literal) => {{
        // SAFETY: the name and the signature are those of chdb.h 26.7, which the pinned library
        // is built from; the library is leaked, so the pointer stays valid for the process.
        let found = unsafe { $library.get(concat!($name, "\0").as_bytes()) };
        *found.map_err(|_| EngineError::LibraryIncomplete {
            path: $path.to_owned(),
            function: $name,
        })?
    }};
}

impl Library {
    /// Loads the library and switches its signal handlers off.
    ///
    /// # Errors
    /// The file is no shared library for this machine, or lacks one of the functions.
    pub(super) fn load(path: &Path) -> Result<Self, EngineError> {
        // SAFETY: the file is the pinned libchdb (its digest is checked when it is fetched) or
        // the one that the operator names; its initialisers need nothing from us.
        let library = unsafe { libloading::Library::new(path) }.map_err(|error| {
            EngineError::LibraryUnusable { path: path.to_owned(), reason: error.to_string() }
        })?;
        // Never unloaded: the engine's threads run until the process ends.
        let library: &'static libloading::Library = Box::leak(Box::new(library));
        let functions = Functions {
            version: symbol!(library, path, "chdb_version"),
            signal_handlers: symbol!(library, path, "chdb_set_signal_handlers_enabled"),
            connect: symbol!(library, path, "chdb_connect"),
            close: symbol!(library, path, "chdb_close_conn"),
            query: symbol!(library, path, "chdb_query_with_params_n"),
            stream_query: symbol!(library, path, "chdb_stream_query_with_params_n"),
            stream_fetch: symbol!(library, path, "chdb_stream_fetch_result"),
            stream_cancel: symbol!(library, path, "chdb_stream_cancel_query"),
            destroy_result: symbol!(library, path, "chdb_destroy_query_result"),
            result_buffer: symbol!(library, path, "chdb_result_buffer"),
            result_length: symbol!(library, path, "chdb_result_length"),
            result_rows_read: symbol!(library, path, "chdb_result_rows_read"),
            result_rows_written: symbol!(library, path, "chdb_result_rows_written"),
            result_bytes_written: symbol!(library, path, "chdb_result_bytes_written"),
            result_error: symbol!(library, path, "chdb_result_error"),
            insert: symbol!(library, path, "chdb_stream_insert_n"),
            insert_append: symbol!(library, path, "chdb_stream_append"),
            insert_done: symbol!(library, path, "chdb_stream_done"),
            insert_cancel: symbol!(library, path, "chdb_stream_cancel_insert"),
            insert_error: symbol!(library, path, "chdb_stream_insert_error"),
            destroy_insert: symbol!(library, path, "chdb_destroy_insert_stream"),
            classify: symbol!(library, path, "chdb_classify_query_n"),
        };
        // SAFETY: called before any connection exists, as the header asks.
        unsafe { (functions.signal_handlers)(0) };
        Ok(Self { functions: Box::leak(Box::new(functions)) })
    }

    /// The version the library reports, for example `26.7.0`.
    pub(super) fn version(self) -> String {
        // SAFETY: takes nothing and returns a static C string.
        let text = unsafe { (self.functions.version)() };
        // SAFETY: `text` is NUL-terminated and static, see above.
        unsafe { owned_text(text) }.unwrap_or_default()
    }

    /// Opens a connection; arguments are `--name=value`. `None` if the engine refuses them or
    /// another process holds the folder (the engine prints the reason on stderr).
    pub(super) fn connect(self, arguments: &[String]) -> Option<Connection> {
        let owned: Vec<CString> = std::iter::once("clickhouse")
            .chain(arguments.iter().map(String::as_str))
            .map(|argument| CString::new(argument).ok())
            .collect::<Option<_>>()?;
        let mut pointers: Vec<*mut c_char> =
            owned.iter().map(|argument| argument.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(pointers.len()).ok()?;
        // SAFETY: `pointers` holds `count` NUL-terminated strings that outlive the call; the
        // engine copies them.
        let handle = unsafe { (self.functions.connect)(count, pointers.as_mut_ptr()) };
        let handle = NonNull::new(handle)?;
        // SAFETY: a non-null answer points to a connection pointer owned by the library.
        if unsafe { handle.as_ptr().read() }.is_null() {
            return None;
        }
        Some(Connection { functions: self.functions, handle })
    }
}

/// One connection with its own settings; one statement at a time (hence `&mut`).
#[derive(Debug)]
pub(super) struct Connection {
    functions: &'static Functions,
    handle: NonNull<RawConnection>,
}

// SAFETY: chdb.h asks only that calls on one connection are serialised, which `&mut self` does;
// a connection is not tied to the thread that opened it.
unsafe impl Send for Connection {}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: `handle` came from `chdb_connect` and is closed exactly once, here.
        unsafe { (self.functions.close)(self.handle.as_ptr()) };
    }
}

/// What the engine's parser makes of a text, before anything runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Analysis {
    /// Statements in the text; 0 if it does not parse.
    pub(super) statement_count: u32,
    /// What the statement does.
    pub(super) class: StatementClass,
}

/// `chdb_query_class` of chdb.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatementClass {
    /// Leaves no trace.
    ReadOnly,
    /// Changes a database.
    Mutating,
    /// Changes something beside the databases (users, functions).
    MutatingGlobal,
    /// Session, system, or writing outside the engine.
    Control,
    /// Does not parse.
    Unknown,
}

/// Values for `{name:Type}` places in a statement: `(name, value)`.
pub(super) type Parameters = [(String, String)];

/// The message of the engine, with its `Code: N` in front.
#[derive(Debug)]
pub(super) struct EngineMessage(pub(super) String);

/// A finished statement.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The rows, in the format asked for.
    pub(super) bytes: Vec<u8>,
    /// Rows in the result.
    pub(super) rows_read: u64,
    /// Rows written, views included.
    pub(super) rows_written: u64,
    /// Bytes written, views included.
    pub(super) bytes_written: u64,
}

impl Connection {
    /// Says what a text would do, without running it.
    pub(super) fn classify(&mut self, sql: &str) -> Analysis {
        let mut raw = RawAnalysis { struct_size: 16, statement_count: 0, flags: 0, query_class: 4 };
        let connection = self.raw();
        // SAFETY: `sql` and `raw` live through the call; `struct_size` is the size of `raw`.
        let state = unsafe {
            (self.functions.classify)(
                connection,
                sql.as_ptr().cast(),
                sql.len(),
                ptr::null(),
                0,
                &raw mut raw,
            )
        };
        let class = match raw.query_class {
            _ if state != SUCCESS => StatementClass::Unknown,
            0 => StatementClass::ReadOnly,
            1 => StatementClass::Mutating,
            2 => StatementClass::MutatingGlobal,
            3 => StatementClass::Control,
            _ => StatementClass::Unknown,
        };
        Analysis { statement_count: raw.statement_count, class }
    }

    /// Runs a statement and keeps the whole result in memory.
    pub(super) fn query(
        &mut self,
        sql: &str,
        format: &str,
        parameters: &Parameters,
    ) -> Result<Outcome, EngineMessage> {
        self.start(self.functions.query, sql, format, parameters).outcome()
    }

    /// Starts a SELECT whose result is fetched in pieces.
    pub(super) fn stream(
        &mut self,
        sql: &str,
        format: &str,
        parameters: &Parameters,
    ) -> Result<Rows<'_>, EngineMessage> {
        let connection = self.raw();
        let stream = self.start(self.functions.stream_query, sql, format, parameters);
        stream.check()?;
        Ok(Rows { connection, stream, ended: false, _connection: PhantomData })
    }

    /// Starts an INSERT (without its FORMAT clause) whose data follow in pieces.
    pub(super) fn insert(
        &mut self,
        sql: &str,
        format: &str,
    ) -> Result<InsertStream<'_>, EngineMessage> {
        let connection = self.raw();
        // SAFETY: both texts live through the call with the lengths given.
        let raw = unsafe {
            (self.functions.insert)(
                connection,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        let stream =
            InsertStream { functions: self.functions, raw, done: false, _connection: PhantomData };
        match stream.error() {
            Some(message) => Err(EngineMessage(message)),
            None => Ok(stream),
        }
    }

    #[expect(clippy::needless_pass_by_ref_mut, reason = "one statement at a time on a connection")]
    fn start(
        &mut self,
        query: RawQuery,
        sql: &str,
        format: &str,
        parameters: &Parameters,
    ) -> RowsHandle {
        let bound = Bound::new(parameters);
        let connection = self.raw();
        // SAFETY: all pointers come from live slices with the lengths given beside them; the
        // engine has bound the parameters when the call returns.
        let raw = unsafe {
            query(
                connection,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                bound.names.as_ptr(),
                bound.name_sizes.as_ptr(),
                bound.values.as_ptr(),
                bound.value_sizes.as_ptr(),
                bound.names.len(),
            )
        };
        RowsHandle::new(self.functions, raw)
    }

    fn raw(&self) -> RawConnection {
        // SAFETY: `handle` points to the library's live connection pointer until `drop`.
        unsafe { self.handle.as_ptr().read() }
    }
}

/// Parameter texts as the four parallel arrays of the C interface.
struct Bound {
    names: Vec<*const c_char>,
    name_sizes: Vec<usize>,
    values: Vec<*const c_char>,
    value_sizes: Vec<usize>,
}

impl Bound {
    fn new(parameters: &Parameters) -> Self {
        Self {
            names: parameters.iter().map(|(name, _)| name.as_ptr().cast()).collect(),
            name_sizes: parameters.iter().map(|(name, _)| name.len()).collect(),
            values: parameters.iter().map(|(_, value)| value.as_ptr().cast()).collect(),
            value_sizes: parameters.iter().map(|(_, value)| value.len()).collect(),
        }
    }
}

/// A `chdb_result`, destroyed when dropped.
#[derive(Debug)]
struct RowsHandle {
    functions: &'static Functions,
    raw: RawResult,
}

impl Drop for RowsHandle {
    fn drop(&mut self) {
        if !self.raw.is_null() {
            // SAFETY: a result of the library, destroyed once.
            unsafe { (self.functions.destroy_result)(self.raw) };
        }
    }
}

impl RowsHandle {
    fn new(functions: &'static Functions, raw: RawResult) -> Self {
        Self { functions, raw }
    }

    fn check(&self) -> Result<(), EngineMessage> {
        if self.raw.is_null() {
            return Err(EngineMessage("Code: 1002. the engine gave no result".to_owned()));
        }
        // SAFETY: `raw` is a live result.
        let error = unsafe { (self.functions.result_error)(self.raw) };
        // SAFETY: null, or a C string that lives as long as the result.
        unsafe { owned_text(error) }.map_or(Ok(()), |text| Err(EngineMessage(text)))
    }

    fn bytes(&self) -> Vec<u8> {
        // SAFETY: `raw` is a live result.
        let start = unsafe { (self.functions.result_buffer)(self.raw) };
        // SAFETY: `raw` is a live result.
        let size = unsafe { (self.functions.result_length)(self.raw) };
        if start.is_null() || size == 0 {
            return Vec::new();
        }
        // SAFETY: the result owns `size` bytes at `start` until it is destroyed.
        unsafe { std::slice::from_raw_parts(start.cast::<u8>(), size) }.to_vec()
    }

    fn outcome(&self) -> Result<Outcome, EngineMessage> {
        self.check()?;
        // SAFETY: `raw` is a live result.
        let rows_read = unsafe { (self.functions.result_rows_read)(self.raw) };
        // SAFETY: `raw` is a live result.
        let rows_written = unsafe { (self.functions.result_rows_written)(self.raw) };
        // SAFETY: `raw` is a live result.
        let bytes_written = unsafe { (self.functions.result_bytes_written)(self.raw) };
        Ok(Outcome { bytes: self.bytes(), rows_read, rows_written, bytes_written })
    }
}

/// A running SELECT; dropped before its end, it is cancelled.
#[derive(Debug)]
pub(super) struct Rows<'a> {
    connection: RawConnection,
    stream: RowsHandle,
    ended: bool,
    _connection: PhantomData<&'a mut Connection>,
}

impl Rows<'_> {
    /// The next piece; empty at the end.
    pub(super) fn next_piece(&mut self) -> Result<Vec<u8>, EngineMessage> {
        // SAFETY: the connection is borrowed for `'_`, the stream is live.
        let raw = unsafe { (self.stream.functions.stream_fetch)(self.connection, self.stream.raw) };
        let piece = RowsHandle::new(self.stream.functions, raw);
        let bytes = piece.check().map(|()| piece.bytes());
        self.ended = bytes.as_ref().map_or(true, Vec::is_empty);
        bytes
    }
}

impl Drop for Rows<'_> {
    fn drop(&mut self) {
        if !self.ended {
            // SAFETY: the connection is still borrowed, the stream live and not at its end.
            unsafe { (self.stream.functions.stream_cancel)(self.connection, self.stream.raw) };
        }
    }
}

/// A running INSERT; dropped before [`InsertStream::done`], it is cancelled.
#[derive(Debug)]
pub(super) struct InsertStream<'a> {
    functions: &'static Functions,
    raw: RawStream,
    done: bool,
    _connection: PhantomData<&'a mut Connection>,
}

impl InsertStream<'_> {
    /// Hands over one piece of data; may block while the engine works.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), EngineMessage> {
        // SAFETY: the stream is live; the engine copies `data` during the call.
        let state =
            unsafe { (self.functions.insert_append)(self.raw, data.as_ptr().cast(), data.len()) };
        if state == SUCCESS {
            return Ok(());
        }
        let message = self.error();
        Err(EngineMessage(message.unwrap_or_else(|| "Code: 1002. insert failed".to_owned())))
    }

    /// Commits.
    pub(super) fn done(mut self) -> Result<Outcome, EngineMessage> {
        self.done = true;
        // SAFETY: the stream is live and not yet finished.
        let raw = unsafe { (self.functions.insert_done)(self.raw) };
        RowsHandle::new(self.functions, raw).outcome()
    }

    fn error(&self) -> Option<String> {
        // SAFETY: the stream is live; the answer is null or a C string it owns.
        let text = unsafe { (self.functions.insert_error)(self.raw) };
        // SAFETY: see above.
        unsafe { owned_text(text) }
    }
}

impl Drop for InsertStream<'_> {
    fn drop(&mut self) {
        if !self.done {
            // SAFETY: live and not finished; cancelling a failed stream is allowed.
            unsafe { (self.functions.insert_cancel)(self.raw) };
        }
        // SAFETY: every handle is destroyed once, also after errors.
        unsafe { (self.functions.destroy_insert)(self.raw) };
    }
}

/// Ends the process at once. Returning from `main` instead would run the exit handlers of the
/// library while its merge threads work, which crashes.
pub(super) fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` takes any code and touches no memory of ours.
    unsafe { libc::_exit(c_int::from(code)) }
}

/// Copies a C string.
///
/// # Safety
/// `text` is null or points to a NUL-terminated string that stays valid during the call.
unsafe fn owned_text(text: *const c_char) -> Option<String> {
    if text.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Some(text.to_string_lossy().into_owned())
}
