//! A real node in a process of its own, a small fleet registered with it, and eyes on it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use loadgen::fleet::{Fleet, Shape, Span, Spec, plan_code, tariff_versions};
use loadgen::{Now, Retry, Seed, VirtualMeter, World, free_address};
use meter::UnixSeconds;
use serde_json::{Value, json};
use server::clock::Clock;
use server::http::{Call, send};

/// How long anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const QUARTER_S: u32 = 900;

pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    program: OsString,
    /// Settings by the environment.
    environment: Vec<(String, String)>,
    child: Child,
    runtime: tokio::runtime::Runtime,
    pub(crate) meters: SocketAddr,
    pub(crate) api: SocketAddr,
    token: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    /// A node without ClickHouse, which readings do not wait for.
    pub(crate) fn start(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self::start_in(folder, env!("CARGO_BIN_EXE_meterd").into(), more, Vec::new())
    }

    /// One of this program whose data lie in `data` of a folder, with its token beside them where
    /// it is not the first start.
    pub(crate) fn start_in(
        folder: tempfile::TempDir,
        program: OsString,
        more: &str,
        environment: Vec<(String, String)>,
    ) -> Self {
        let (meters, api) = (free_address().expect("a port"), free_address().expect("a port"));
        let settings = format!(
            "[node]\ndata_dir = {:?}\n[ingest]\nudp_listen = \"{meters}\"\n\
             tcp_listen = \"{meters}\"\n{more}\n[log]\nsegment_bytes = 8388608\n\
             reserve_bytes = 8388608\ncommit_bytes_max = 4194304\n[clickhouse]\n\
             engine = \"server\"\nurl = \"http://127.0.0.1:9\"\n[api]\nlisten = \"{api}\"\n",
            folder.path().join("data")
        );
        fs::write(folder.path().join("meterd.toml"), settings).expect("settings are written");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime starts");
        let child = spawn(&folder, &program, &environment);
        let token = String::new();
        let mut node = Self { folder, program, environment, child, runtime, meters, api, token };
        node.wait_ready();
        let token = fs::read_to_string(node.folder.path().join("token"));
        node.token = token.expect("the node wrote its token").trim().to_owned();
        node
    }

    /// The administrator's token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Stops the node in order.
    pub(crate) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        let ended = self.child.wait().expect("it is our child");
        assert!(ended.success(), "{ended}");
    }

    /// Kills the node without warning.
    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) fn restart(&mut self) {
        self.child = spawn(&self.folder, &self.program, &self.environment);
        self.wait_ready();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Open files of the node.
    pub(crate) fn open_files(&self) -> usize {
        let folder: PathBuf = format!("/proc/{}/fd", self.child.id()).into();
        fs::read_dir(folder).expect("the node runs").count()
    }

    /// Resident memory, KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the node runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).expect("a number")
    }

    pub(crate) fn post(&self, path: &str, media: &str, body: Vec<u8>) -> Value {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", media)];
        let call = Call { method: "POST", path, headers: &headers, body };
        let answer = self.runtime.block_on(send(self.api, call)).expect("the API takes it");
        serde_json::from_slice(&answer).expect("the API answers JSON")
    }

    pub(crate) fn top_up(&self, account: u64, key: &str, amount: &str) -> Value {
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        let path = format!("/v1/accounts/{account}/top-ups");
        let body = json!({ "amount": amount }).to_string().into_bytes();
        let call = Call { method: "POST", path: &path, headers: &headers, body };
        let answer = self.runtime.block_on(send(self.api, call)).expect("the API takes it");
        serde_json::from_slice(&answer).expect("the API answers JSON")
    }

    /// What the API answers to a question.
    pub(crate) fn get(&self, path: &str) -> Value {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str())];
        let call = Call { method: "GET", path, headers: &headers, body: Vec::new() };
        let answer = self.runtime.block_on(send(self.api, call)).expect("the API answers");
        serde_json::from_slice(&answer).expect("the API answers JSON")
    }

    pub(crate) fn json(&self, path: &str, body: &Value) -> Value {
        self.post(path, "application/json", body.to_string().into_bytes())
    }

    /// Samples of the metrics by name and labels.
    pub(crate) fn metrics(&self) -> BTreeMap<String, u64> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str())];
        let call = Call { method: "GET", path: "/metrics", headers: &headers, body: Vec::new() };
        let answer = self.runtime.block_on(send(self.api, call)).expect("the node answers");
        let text = String::from_utf8(answer.to_vec()).expect("metrics are text");
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    /// Frames with this outcome.
    pub(crate) fn outcome(&self, label: &str) -> u64 {
        let name = format!("meterd_ingest_frames_total{{outcome=\"{label}\"}}");
        *self.metrics().get(&name).unwrap_or_else(|| panic!("no outcome {label}"))
    }

    /// Frames of all outcomes, and those that the kernel dropped.
    pub(crate) fn all_outcomes(&self) -> u64 {
        let metrics = self.metrics();
        let frames = metrics.iter().filter(|(name, _)| name.starts_with("meterd_ingest_frames"));
        let dropped = metrics["meterd_ingest_kernel_drops_total"];
        frames.map(|(_, count)| count).sum::<u64>() + dropped
    }

    /// Registers a fleet's plans, gateways and meters.
    pub(crate) fn register(&self, fleet: &Fleet, world: &World) {
        for plan in fleet.plans() {
            let code = plan_code(plan);
            let made =
                self.json("/v1/plans", &json!({ "code": code, "name": code, "currency": "CNY" }));
            for version in &tariff_versions(plan, fleet.earliest()) {
                let body = server::demo::version_json(version);
                self.json(&format!("/v1/plans/{}/versions", made["id"]), &body);
            }
        }
        for row in fleet.gateway_rows() {
            let body = json!({
                "system_title": row.system_title, "name": row.name, "template": row.template,
                "encryption_key": row.encryption_key,
                "authentication_key": row.authentication_key,
            });
            self.json("/v1/gateways", &body);
        }
        for csv in fleet.import_files(world) {
            self.post("/v1/imports/meters", "text/csv", csv);
        }
    }

    fn wait_ready(&self) {
        wait("the node to be ready", || {
            let call = Call { method: "GET", path: "/healthz", headers: &[], body: Vec::new() };
            self.runtime.block_on(send(self.api, call)).is_ok()
        });
    }
}

/// Waits until `holds`, and fails with `what` when it does not.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = server::clock::instant() + PATIENCE;
    while !holds() {
        assert!(server::clock::instant() < until, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

pub(crate) fn now() -> Instant {
    server::clock::instant()
}

/// A fleet of so many meters with eight readings each that are due already.
pub(crate) fn fleet(text: &str) -> (Fleet, World) {
    let hour = Clock::System.now().0 / QUARTER_S * QUARTER_S;
    let span = Span {
        first: UnixSeconds(hour).minus(8 * QUARTER_S),
        seconds: 8 * QUARTER_S,
        backfill_days: 0,
    };
    let spec = Spec::parse(text).expect("a fleet");
    let retry = Retry { first: PATIENCE, max: PATIENCE };
    let world = World { seed: Seed(3), retry, window: 64, pace: 1 };
    (Fleet::new(Seed(3), spec, span, Shape::Aligned, (0, 1)), world)
}

/// All frames that the direct meters have to send.
pub(crate) fn frames(fleet: &Fleet, world: &World) -> Vec<Vec<u8>> {
    let now = Now { clock: fleet.end(), wall: Duration::ZERO };
    let mut frames = Vec::new();
    for mut meter in fleet.direct_meters(world) {
        VirtualMeter::poll(&mut meter, world, now, &mut |sent| frames.push(sent.frame.to_vec()));
    }
    frames
}

/// A datagram socket of this source address, connected to the node.
pub(crate) fn socket(source: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).expect("an address of this machine");
    socket.connect(to).expect("an address of this machine");
    socket.set_nonblocking(true).expect("a socket can be set");
    socket
}

/// Takes what a socket received; how many datagrams.
pub(crate) fn drain(socket: &UdpSocket) -> u64 {
    let mut buf = [0; 2048];
    let mut count = 0;
    while socket.recv(&mut buf).is_ok() {
        count += 1;
    }
    count
}

fn spawn(folder: &tempfile::TempDir, program: &OsStr, environment: &[(String, String)]) -> Child {
    Command::new(program)
        .envs(environment.iter().cloned())
        .args([
            "serve".as_ref(),
            "--config".as_ref(),
            folder.path().join("meterd.toml").as_os_str(),
        ])
        .args(["--token-file".as_ref(), folder.path().join("token").as_os_str()])
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("meterd starts")
}
