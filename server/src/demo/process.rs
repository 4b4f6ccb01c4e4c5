//! The node of the demonstration: a real `meterd serve` in a process of its own, so that it can be
//! killed like one.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::http::{self, Call};

/// How long a start may take, also on a busy machine with a cold disk.
const START_MAX: Duration = Duration::from_secs(120);
/// How long a clean stop may take.
const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// A running node.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    config: PathBuf,
    token_file: PathBuf,
    api: SocketAddr,
    child: Child,
}

impl NodeProcess {
    /// Starts a node and waits until it is ready.
    ///
    /// # Errors
    /// It does not start, or not in time; what it said is on standard error.
    pub(crate) async fn start(config: &Path, api: SocketAddr) -> anyhow::Result<Self> {
        let config = config.to_owned();
        let token_file = config.with_extension("token");
        let child = spawn(&config, &token_file)?;
        let mut node = Self { config, token_file, api, child };
        node.wait_ready().await?;
        Ok(node)
    }

    /// The administrator's token that the first start wrote.
    ///
    /// # Errors
    /// The file is not there.
    pub(crate) fn token(&self) -> io::Result<String> {
        fs::read_to_string(&self.token_file).map(|token| token.trim().to_owned())
    }

    /// The process id.
    #[must_use]
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits for the process to end by itself or by somebody's hand.
    ///
    /// # Errors
    /// Of the operating system.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Kills the node without warning (SIGKILL).
    ///
    /// # Errors
    /// Of the operating system.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Starts the node again after its end, and waits until it is ready.
    ///
    /// # Errors
    /// As [`NodeProcess::start`].
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.child = spawn(&self.config, &self.token_file)?;
        self.wait_ready().await
    }

    /// Stops the node cleanly (SIGTERM).
    ///
    /// # Errors
    /// It had to be killed, or ended with a failure.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).context("cannot ask the node to stop")?;
        }
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(status) if status.as_ref().is_ok_and(ExitStatus::success) => Ok(()),
            Ok(status) => bail!("the node ended with {status:?}"),
            Err(_) => {
                self.child.kill().await.ok();
                bail!("the node did not stop within a minute and was killed")
            }
        }
    }

    async fn wait_ready(&mut self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + START_MAX;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the node ended at start with {status}; see its messages above");
            }
            let call = Call { method: "GET", path: "/readyz", headers: &[], body: Vec::new() };
            match http::send(self.api, call).await {
                Ok(_) => return Ok(()),
                Err(error) if tokio::time::Instant::now() > deadline => {
                    return Err(error).context("the node is not ready after two minutes");
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

fn spawn(config: &Path, token_file: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    Command::new(program)
        .arg("serve")
        .args(["--config".as_ref(), config.as_os_str()])
        .args(["--token-file".as_ref(), token_file.as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the node")
}
