//! The embedded ClickHouse: a child process of ours that loads `libchdb` and serves the part of
//! ClickHouse's HTTP interface which the writer, the product's queries and analysts' tools need.
//!
//! A fault in a 566 MB database library must not take the head-end down, so it runs beside the
//! node, not in it. The node sees no difference between this and a ClickHouse server.
//!
//! - Parent side: [`Supervisor`] starts `meterd engine`, sends [`EngineConfig`] as one JSON line
//!   on its stdin (so that no password stands in an argument or the environment), waits for
//!   `READY <port>` on its stdout, restarts it with growing delays, and stops it by closing stdin.
//! - Child side: [`run_child`]. Requests: `http` → `request` (what is asked, by whom) → `sql`
//!   (may this text run at all) → `session` (one connection of the engine per request) → `chdb`.
//!
//! **Invariant:** the child never outlives its parent (stdin ends), never returns from `main`
//! once the engine runs (`_exit` only), and never runs a text which `sql` has not let through.

mod chdb;
mod failure;
mod frames;
mod http;
mod library;
mod request;
mod session;
mod settings;
mod sql;
mod supervisor;

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

pub use library::{LIBRARY_INTEGRITY, LIBRARY_PACKAGE, locate_library};
pub use supervisor::{EngineState, Supervisor, SupervisorConfig};

/// How far the engine stands back behind the node when both want the processor, as `nice` counts.
const NICE: i32 = 5;

/// Everything the child needs; sent by the parent as one JSON line (the one place where a
/// configuration of ours is serialised: it crosses a process border, never a file).
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineConfig {
    /// `libchdb.so`, see [`locate_library`].
    pub library: PathBuf,
    /// Folder of the data; held by one process at a time.
    pub folder: PathBuf,
    /// Address to serve on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Who may write: the node itself.
    pub writer: Credential,
    /// Who may only read, within `limits`: analysts.
    pub reader: Credential,
    /// Bounds of the engine and of each reader.
    pub limits: EngineLimits,
}

/// A user of the HTTP interface.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// User name.
    pub user: String,
    /// Password; never empty.
    pub password: String,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("user", &self.user).field("password", &"***").finish()
    }
}

/// Bounds of the embedded engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineLimits {
    /// Open TCP connections.
    pub connections_max: u32,
    /// Reading requests running at once; more wait.
    pub readers_max: u32,
    /// Writing requests running at once; more wait.
    pub writers_max: u32,
    /// Memory of the whole engine, in bytes (approximate, the engine overshoots by some 15 %).
    pub memory_bytes_max: u64,
    /// Cache of index marks, in bytes.
    pub mark_cache_bytes_max: u64,
    /// Threads that merge parts.
    pub merge_threads: u32,
    /// Longest run of a reader's statement, in seconds.
    pub reader_duration_s_max: u32,
    /// Memory of one reader's statement, in bytes.
    pub reader_memory_bytes_max: u64,
    /// Rows one reader's statement may read.
    pub reader_rows_max: u64,
    /// Size of one reader's result, in bytes, where it is held whole in memory.
    pub reader_result_bytes_max: u64,
    /// Threads of one reader's statement.
    pub reader_threads_max: u32,
    /// A request body that stands still for so long is given up, in seconds.
    pub body_idle_s_max: u32,
    /// What running requests get at a stop before they are cut, in seconds.
    pub stop_s_max: u32,
}

impl EngineLimits {
    /// Limits for a node that shares a small machine with its engine.
    pub const SMALL: Self = Self {
        connections_max: 256,
        readers_max: 4,
        writers_max: 4,
        memory_bytes_max: 2 << 30,
        mark_cache_bytes_max: 128 << 20,
        merge_threads: 2,
        reader_duration_s_max: 60,
        reader_memory_bytes_max: 1 << 30,
        reader_rows_max: 2_000_000_000,
        reader_result_bytes_max: 200 << 20,
        reader_threads_max: 2,
        body_idle_s_max: 60,
        stop_s_max: 10,
    };
}

/// Why the engine does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No library at any of the places.
    #[error(
        "no libchdb.so at {tried:?}; fetch it with `deploy/fetch-libchdb.sh {folder}` (npm package \
         {}, integrity {}), or name a copy in METERD_CHDB_LIB, or configure a ClickHouse server",
        LIBRARY_PACKAGE, LIBRARY_INTEGRITY, folder = .folder.display()
    )]
    LibraryMissing {
        /// The places looked at.
        tried: Vec<PathBuf>,
        /// Where the fetched library is looked for.
        folder: PathBuf,
    },
    /// The file is there but cannot be loaded.
    #[error("cannot load {}: {reason}; it must be libchdb.so of {LIBRARY_PACKAGE}", path.display())]
    LibraryUnusable {
        /// The file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// A library of another version.
    #[error("{} lacks {function}; it must be libchdb.so of {LIBRARY_PACKAGE}", path.display())]
    LibraryIncomplete {
        /// The file.
        path: PathBuf,
        /// The function missing.
        function: &'static str,
    },
    /// The engine does not open its folder.
    #[error(
        "the engine cannot open {}: another process holds it, or it cannot be written; its own \
         words stand on stderr above", folder.display()
    )]
    Locked {
        /// The data folder.
        folder: PathBuf,
    },
    /// The address cannot be had.
    #[error("the engine cannot listen on {address}; free the port or choose another")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// A user without password, or one user for both doors.
    #[error("engine users need distinct names and passwords of at least 8 characters")]
    WeakCredential,
    /// The configuration line is none.
    #[error("the engine's first line on stdin is no configuration; it is started by the node")]
    BadConfig(#[source] serde_json::Error),
    /// Pipes, threads, folders.
    #[error("cannot {what}")]
    Io {
        /// The act that failed.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The child ended or said something else than READY.
    #[error("the engine did not start ({0}); its words are in the log")]
    NotReady(String),
}

impl EngineError {
    /// The code that the child ends with; 4 tells the parent that the folder is held.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::LibraryMissing { .. }
            | Self::LibraryUnusable { .. }
            | Self::LibraryIncomplete { .. } => 3,
            Self::Locked { .. } => 4,
            Self::Listen { .. } => 5,
            Self::WeakCredential | Self::BadConfig(_) | Self::Io { .. } | Self::NotReady(_) => 1,
        }
    }
}

/// `meterd engine`: takes its configuration from the first line of stdin and serves until stdin
/// ends or SIGTERM comes. It never returns in good order, since the process ends with `_exit`.
///
/// # Errors
/// What stops it from starting; end the process with [`EngineError::exit_code`].
pub fn run_child() -> Result<Infallible, EngineError> {
    let mut line = Zeroizing::new(String::new());
    // No more than a configuration can need, however much a stranger pipes in.
    let mut head = io::stdin().take(64 << 10);
    loop {
        let mut byte = [0];
        let count = head
            .read(&mut byte)
            .map_err(|source| EngineError::Io { what: "read the configuration", source })?;
        if count == 0 || byte[0] == b'\n' {
            break;
        }
        line.push(char::from(byte[0]));
    }
    run(serde_json::from_str(&line).map_err(EngineError::BadConfig)?)
}

/// Serves until stdin ends or SIGTERM comes, then ends the process.
///
/// # Errors
/// What stops it from starting; end the process with [`EngineError::exit_code`].
pub fn run(config: EngineConfig) -> Result<Infallible, EngineError> {
    check(&config)?;
    // Readings and purchases first: the engine's threads, which inherit this, take what they leave.
    rustix::process::nice(NICE).map_err(|error| EngineError::Io {
        what: "lower the engine's priority",
        source: error.into(),
    })?;
    let library = chdb::Library::load(&config.library)?;
    std::fs::create_dir_all(&config.folder)
        .map_err(|source| EngineError::Io { what: "create the engine's folder", source })?;
    let locked = || EngineError::Locked { folder: config.folder.clone() };
    // Stays open: while one connection is, further ones cost a millisecond instead of 160.
    let boot = library.connect(&session::boot_arguments(&config)).ok_or_else(locked)?;
    // From here on the engine's threads run: leave by `exit_now` only.
    let served = session::Engine::new(library, boot, config)
        .map_err(|message| EngineError::NotReady(message.0))
        .and_then(|engine| serve_until_stopped(&Arc::new(engine)));
    match served {
        Ok(()) => chdb::exit_now(0),
        Err(error) => {
            let line = format!("{error}\n");
            // The last words are a courtesy; the exit code tells the parent.
            drop(io::stderr().write_all(line.as_bytes()));
            chdb::exit_now(error.exit_code())
        }
    }
}

fn check(config: &EngineConfig) -> Result<(), EngineError> {
    let weak = |credential: &Credential| {
        credential.user.is_empty() || credential.password.chars().count() < 8
    };
    if weak(&config.writer) || weak(&config.reader) || config.writer.user == config.reader.user {
        return Err(EngineError::WeakCredential);
    }
    Ok(())
}

fn serve_until_stopped(engine: &Arc<session::Engine>) -> Result<(), EngineError> {
    let io = |what| move |source| EngineError::Io { what, source };
    let (stop, stopped) = watch::channel(false);
    std::thread::Builder::new()
        .name("engine-stdin".to_owned())
        .spawn(move || {
            // The parent never writes again: the first end or error means it is gone.
            let mut scrap = [0; 64];
            while matches!(io::stdin().read(&mut scrap), Ok(1..)) {}
            stop.send_replace(true);
        })
        .map_err(io("start the thread that watches stdin"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("engine-http")
        .enable_all()
        .build()
        .map_err(io("start the runtime"))?;
    runtime.block_on(http::serve(engine, stopped))
}
