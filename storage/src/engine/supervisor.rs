//! The parent side: starts the child, keeps it running, tells its state, stops it.
//!
//! The child's death never becomes the node's: the supervisor starts it again after a delay that
//! doubles up to a bound, on the same port, so that clients keep their URL. Whatever was not
//! acknowledged is sent again by the writer.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use super::{EngineConfig, EngineError};

/// How the child is started.
#[derive(Debug, Clone)]
pub struct SupervisorConfig {
    /// The program, normally `std::env::current_exe()`.
    pub program: PathBuf,
    /// Its arguments, normally `["engine"]`; the program then calls [`super::run_child`].
    pub arguments: Vec<OsString>,
    /// What the child is told.
    pub engine: EngineConfig,
    /// The first delay before a restart, in milliseconds; it doubles with each failure in a row.
    pub restart_delay_ms_min: u64,
    /// The longest delay before a restart, in milliseconds.
    pub restart_delay_ms_max: u64,
    /// How long the child may take to say READY, in seconds (it may have to load many parts).
    pub ready_s_max: u32,
}

/// What is known of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineState {
    /// Started, not yet READY.
    Starting,
    /// Serves.
    Ready {
        /// Where.
        address: SocketAddr,
        /// The child's process id.
        pid: u32,
    },
    /// Ended or did not start; a restart follows.
    Down {
        /// How it ended and its last words.
        reason: String,
        /// Restarts so far.
        restarts: u64,
    },
    /// Stopped on request.
    Stopped,
}

/// Keeps one engine running. Dropped without [`Supervisor::stop`], the child ends as well (its
/// stdin closes), but nobody waits for it.
#[derive(Debug)]
pub struct Supervisor {
    state: watch::Receiver<EngineState>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// Starts the child and the task that watches it; call it within a tokio runtime.
    pub fn start(config: SupervisorConfig) -> Self {
        let (publish, state) = watch::channel(EngineState::Starting);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(supervise(config, publish, stopped));
        Self { state, stop, task }
    }

    /// The state now; clone the receiver to follow it.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.clone()
    }

    /// Waits until the engine serves.
    ///
    /// # Errors
    /// The first start failed; the supervisor goes on trying behind this answer.
    pub async fn ready(&self) -> Result<SocketAddr, EngineError> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                EngineState::Ready { address, .. } => return Ok(*address),
                EngineState::Down { reason, .. } => {
                    return Err(EngineError::NotReady(reason.clone()));
                }
                EngineState::Starting => {}
                EngineState::Stopped => return Err(EngineError::NotReady("stopped".into())),
            }
            if state.changed().await.is_err() {
                return Err(EngineError::NotReady("supervisor ended".into()));
            }
        }
    }

    /// Stops the child: it lets running requests end, within its own bound, and is killed a
    /// second after that.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the engine's supervisor broke");
        }
    }
}

async fn supervise(
    mut config: SupervisorConfig,
    publish: watch::Sender<EngineState>,
    mut stopped: watch::Receiver<bool>,
) {
    let first_delay = Duration::from_millis(config.restart_delay_ms_min.max(1));
    let last_delay = Duration::from_millis(config.restart_delay_ms_max).max(first_delay);
    let mut delay = first_delay;
    let mut restarts = 0_u64;
    loop {
        publish.send_replace(EngineState::Starting);
        let reason = match start(&config).await {
            Ok((mut running, address)) => {
                delay = first_delay;
                // The same port after a restart.
                config.engine.listen = address;
                let pid = running.child.id().unwrap_or_default();
                tracing::info!(%address, pid, "engine is ready");
                publish.send_replace(EngineState::Ready { address, pid });
                tokio::select! {
                    ended = running.child.wait() => running.last_words(ended).await,
                    _ = stopped.changed() => {
                        running.stop(config.engine.limits.stop_s_max).await;
                        publish.send_replace(EngineState::Stopped);
                        return;
                    }
                }
            }
            Err(reason) => reason,
        };
        if *stopped.borrow() {
            publish.send_replace(EngineState::Stopped);
            return;
        }
        restarts += 1;
        tracing::warn!(reason, restarts, delay_ms = delay.as_millis(), "engine is down, restarts");
        publish.send_replace(EngineState::Down { reason, restarts });
        tokio::select! {
            () = sleep(delay) => {}
            _ = stopped.changed() => {
                publish.send_replace(EngineState::Stopped);
                return;
            }
        }
        delay = (delay * 2).min(last_delay);
    }
}

/// A child that said READY.
struct Running {
    child: Child,
    /// Held open: its end tells the child to stop.
    stdin: ChildStdin,
    words: JoinHandle<VecDeque<String>>,
}

/// Starts the child and waits for READY.
async fn start(config: &SupervisorConfig) -> Result<(Running, SocketAddr), String> {
    let say = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let mut child = Command::new(&config.program)
        .args(&config.arguments)
        // The engine takes its time zone from here; instants are UTC throughout.
        .env("TZ", "UTC")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Its own group: Ctrl-C at the terminal is for the node, which then stops the child.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(say("cannot start the engine's program"))?;
    let mut stdin = child.stdin.take().expect("piped");
    let stdout = child.stdout.take().expect("piped");
    let stderr = child.stderr.take().expect("piped");
    let words = tokio::spawn(pass_on(BufReader::new(stderr)));
    let mut line = Zeroizing::new(serde_json::to_string(&config.engine).expect("plain data"));
    line.push('\n');
    let talk = async {
        // A child that ends at once closes the pipe; its exit tells more than the write.
        drop(stdin.write_all(line.as_bytes()).await);
        drop(stdin.flush().await);
        ready_port(BufReader::new(stdout)).await
    };
    let port = timeout(Duration::from_secs(u64::from(config.ready_s_max)), talk).await;
    let mut running = Running { child, stdin, words };
    match port {
        Ok(Some(port)) => Ok((running, SocketAddr::new(config.engine.listen.ip(), port))),
        Ok(None) => {
            let ended = running.child.wait().await;
            Err(running.last_words(ended).await)
        }
        Err(_) => Err(format!("not READY within {} s", config.ready_s_max)),
    }
}

/// The port in the READY line; the library may print before it. `None`: stdout ended.
async fn ready_port(mut stdout: BufReader<ChildStdout>) -> Option<u16> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = (&mut stdout).take(LINE_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut line).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(port) = text.trim_end().strip_prefix("READY ") {
            return port.parse().ok();
        }
    }
}

/// Longest line taken of what the child says.
const LINE_BYTES_MAX: usize = 500;

impl Running {
    async fn stop(mut self, stop_s_max: u32) {
        drop(self.stdin);
        let patience = Duration::from_secs(u64::from(stop_s_max) + 1);
        match timeout(patience, self.child.wait()).await {
            Ok(Ok(status)) => tracing::info!(%status, "engine stopped"),
            Ok(Err(error)) => tracing::warn!(%error, "cannot wait for the engine"),
            Err(_) => {
                tracing::warn!("engine does not stop, it is killed");
                if let Err(error) = self.child.kill().await {
                    tracing::warn!(%error, "cannot kill the engine");
                }
            }
        }
    }

    /// How the child ended and what it said last.
    async fn last_words(self, ended: io::Result<ExitStatus>) -> String {
        let how = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
        let words = self.words.await.unwrap_or_default();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.is_empty() { how } else { format!("{how}: {}", words.join(" | ")) }
    }
}

/// Passes the child's stderr to the log and keeps its last lines.
async fn pass_on(stderr: BufReader<tokio::process::ChildStderr>) -> VecDeque<String> {
    const LINES_KEPT: usize = 5;
    let mut kept = VecDeque::new();
    let mut lines = stderr.split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]);
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        tracing::debug!(target: "engine", "{line}");
        if kept.len() == LINES_KEPT {
            kept.pop_front();
        }
        kept.push_back(line.to_owned());
    }
    kept
}
