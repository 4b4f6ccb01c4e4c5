//! Rows of a whole node: `meterd` runs as its users run it, and `meterd simulate` says what it
//! measured. A run whose checks do not hold is an error.

#![expect(clippy::disallowed_methods, reason = "a bench waits for a process to be ready")]

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const START_MAX: Duration = Duration::from_secs(60);

/// What a simulation measured.
#[derive(Clone, Debug)]
pub struct Simulated(Value);

impl Simulated {
    /// Runs `meterd simulate` with these arguments.
    ///
    /// # Errors
    /// It cannot be started, fails, or a check does not hold.
    pub fn run(arguments: &[&str]) -> Result<Self, Box<dyn Error>> {
        let folder = Path::new("target/bench-simulate");
        let json = PathBuf::from("target/bench-simulate.json");
        let status = Command::new(meterd()?)
            .args(["simulate", "--plain"])
            .args(arguments)
            .args(["--data-dir".as_ref(), folder.as_os_str()])
            .args(["--json".as_ref(), json.as_os_str()])
            .env("RUST_LOG", "error")
            .stdout(Stdio::null())
            .status()?;
        if !status.success() {
            return Err(format!("meterd simulate {}: {status}", arguments.join(" ")).into());
        }
        let value = serde_json::from_str(&fs::read_to_string(&json)?)?;
        fs::remove_dir_all(folder)?;
        Ok(Self(value))
    }

    /// All that it wrote with `--json`.
    pub(crate) const fn json(&self) -> &Value {
        &self.0
    }

    /// Seconds from the first reading due until ClickHouse had all.
    #[must_use]
    pub fn queryable_s(&self) -> f64 {
        self.0["queryable_s"].as_f64().unwrap_or(f64::NAN)
    }

    /// Readings a second, from the first one due until ClickHouse had all.
    #[must_use]
    pub fn readings_per_s(&self) -> f64 {
        let readings = self.0["sent"]["acknowledged"].as_f64().unwrap_or(f64::NAN);
        readings / self.queryable_s()
    }

    /// Time that 99 of 100 readings took until the API told them, ms.
    #[must_use]
    pub fn fresh_p99_ms(&self) -> f64 {
        self.0["fresh"]["p99_us"].as_f64().map_or(f64::NAN, |us| us / 1000.0)
    }

    /// Datagrams that the kernel dropped.
    #[must_use]
    pub fn kernel_drops(&self) -> Option<u64> {
        self.0["outcomes"]["meterd_ingest_kernel_drops_total"].as_u64()
    }
}

/// Resident memory of a node without meters, bytes.
///
/// # Errors
/// It does not start.
pub fn idle_rss() -> Result<u64, Box<dyn Error>> {
    let folder = std::env::current_dir()?.join("target/bench-idle");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let api = loadgen::free_address()?;
    let config = folder.join("meterd.toml");
    fs::write(
        &config,
        format!(
            "[node]\ndata_dir = {:?}\n[ingest]\nudp_listen = \"127.0.0.1:0\"\n\
             tcp_listen = \"127.0.0.1:0\"\n[clickhouse]\nengine = \"server\"\n\
             url = \"http://127.0.0.1:9\"\n[api]\nlisten = \"{api}\"\n",
            folder.join("data")
        ),
    )?;
    let node = Serving::start(&config, api, START_MAX)?;
    let resident = crate::memory::resident_of(&node.0.id().to_string())?;
    drop(node);
    fs::remove_dir_all(&folder)?;
    Ok(resident)
}

fn is_alive(api: SocketAddr) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(api)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A node that serves; killed with its scope.
#[derive(Debug)]
pub struct Serving(Child);

impl Serving {
    /// Starts `meterd serve` and waits until its API answers. The first administrator's token goes
    /// into a file beside `config`.
    ///
    /// # Errors
    /// It ends, or does not answer within `patience`.
    pub fn start(
        config: &Path,
        api: SocketAddr,
        patience: Duration,
    ) -> Result<Self, Box<dyn Error>> {
        let node = Command::new(meterd()?)
            .args(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
            .args(["--token-file".as_ref(), config.with_extension("token").as_os_str()])
            .env("RUST_LOG", "error")
            .stdout(Stdio::null())
            .spawn()?;
        let mut node = Self(node);
        let began = Instant::now();
        while !is_alive(api) {
            if began.elapsed() > patience || node.0.try_wait()?.is_some() {
                return Err("meterd serve did not start".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(node)
    }

    /// Asks the node to stop, and waits until it has.
    ///
    /// # Errors
    /// It did not end in order.
    pub fn stop(mut self) -> Result<(), Box<dyn Error>> {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::TERM)?;
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { Err(format!("meterd serve: {status}").into()) }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The program beside this one.
fn meterd() -> Result<PathBuf, Box<dyn Error>> {
    let path = std::env::current_exe()?.with_file_name("meterd");
    if path.is_file() {
        return Ok(path);
    }
    Err(format!("{} is not there: cargo build --release -p server", path.display()).into())
}
