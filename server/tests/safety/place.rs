//! A demonstration as workload: it knows what every result must be, and says so in JSON.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use loadgen::free_address;
use serde_json::Value;

/// Rounds asked for by `METERD_SOAK`, else the short form's.
pub(crate) fn rounds(short: u32) -> u32 {
    std::env::var("METERD_SOAK").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(short)
}

/// Rounds of a test that plays a whole week: only where `METERD_SOAK` asks for them. A week in less
/// than minutes runs so fast that a pause of a busy machine looks like a meter's clock ahead of time.
pub(crate) fn weeks() -> Option<u32> {
    let rounds = std::env::var("METERD_SOAK").ok().and_then(|rounds| rounds.parse().ok());
    if rounds.is_none() {
        println!("skipped: a week takes minutes; METERD_SOAK=ROUNDS plays it");
    }
    rounds
}

/// Where `make` puts the engine's library, unless the environment names another.
pub(crate) fn library() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.meterd/lib/libchdb.so");
    let library = std::env::var_os("METERD_CHDB_LIB").map_or(fetched, PathBuf::from);
    assert!(library.is_file(), "{} is not there: run `make lib`", library.display());
    library
}

pub(crate) fn meterd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meterd"));
    command.env("METERD_CHDB_LIB", library()).env("RUST_LOG", "warn");
    command
}

/// One demonstration at a time: two that start together choose the same ports.
static PORTS: Mutex<()> = Mutex::new(());

/// A demonstration under way.
pub(crate) struct Demo {
    json: PathBuf,
    child: Child,
    _ports: MutexGuard<'static, ()>,
}

impl Demo {
    /// Starts one in a folder, with more arguments.
    pub(crate) fn start(folder: &Path, more: &[&str]) -> Self {
        let ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
        let json = folder.with_extension("json");
        let child = meterd()
            .args(["demo", "--once"])
            .args(["--data-dir".as_ref(), folder.as_os_str(), "--json".as_ref(), json.as_os_str()])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { json, child, _ports: ports }
    }

    /// What the demonstration says of itself so far: addresses, token, process.
    pub(crate) fn report(&self) -> Option<Value> {
        serde_json::from_str(&fs::read_to_string(&self.json).ok()?).ok()
    }

    /// Waits for the report, hence for a node that is ready.
    pub(crate) fn wait_ready(&mut self) -> Value {
        loop {
            if let Some(report) = self.report() {
                return report;
            }
            assert!(self.child.try_wait().unwrap().is_none(), "the demonstration ended early");
            pause();
        }
    }

    /// Waits for the end; every check must hold.
    pub(crate) fn finish(self) -> Value {
        let output = self.child.wait_with_output().unwrap();
        let said = said(&output);
        assert!(output.status.success(), "{}\n{said}", output.status);
        let report: Value = serde_json::from_str(&fs::read_to_string(&self.json).unwrap()).unwrap();
        let checks = report["checks"].as_array().unwrap();
        assert!(checks.len() >= 10 && checks.iter().all(|check| check["ok"] == true), "{said}");
        report
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

/// `meterd verify` on a demonstration's data folder; the books must be equal. Returns what it said.
pub(crate) fn verify(folder: &Path, more: &[&str]) -> String {
    let config = folder.join("demo.toml");
    let output = meterd()
        .args(["verify".as_ref(), "--config".as_ref(), config.as_os_str()])
        .args(more)
        .output()
        .unwrap();
    let text = said(&output);
    assert!(output.status.success(), "{}\n{text}", output.status);
    assert!(text.contains("\nequal\n"), "{text}");
    text
}

/// Standard output and error as one text.
pub(crate) fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Between two looks at another process, which tells of itself by files only.
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Address and token of the API in a report.
pub(crate) fn api(report: &Value) -> (SocketAddr, String) {
    let url = report["api"]["url"].as_str().unwrap();
    let address = url.strip_prefix("http://").unwrap().parse().unwrap();
    (address, format!("Bearer {}", report["api"]["token"].as_str().unwrap()))
}

/// A clock that runs a thousand times too fast: the time has moved on at every tick, and each tick is
/// a commit of its own, so that a segment is used up in seconds.
#[expect(clippy::disallowed_methods, reason = "the clock begins at the present")]
pub(crate) fn fast_clock() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let (start, anchor_ms) = (now.as_secs(), now.as_millis());
    format!(
        "[clock]\nsource = \"virtual\"\nstart = {start}\nanchor_ms = {anchor_ms}\npace = 1000\n\
         end = {}\n",
        start + 10_000_000
    )
}

const VERSION: &str = r#"{"valid_from":"2026-01-01","prices":["0.5283"],"seasons":[{
    "from":"01-01","to":"12-31","workday":[{"at":"00:00","rate":1}],
    "weekend":[{"at":"00:00","rate":1}],"holiday":[{"at":"00:00","rate":1}]}]}"#;

/// A node without ClickHouse, of which nothing here needs any.
pub(crate) struct Serve {
    folder: PathBuf,
    config: PathBuf,
    address: SocketAddr,
    environment: Vec<(String, String)>,
    child: Child,
    runtime: tokio::runtime::Runtime,
}

impl Serve {
    /// Starts one whose data lie in `data` of a folder, on a port of its own.
    pub(crate) fn start(folder: &Path, more: &str) -> Self {
        Self::start_with(folder, more, Vec::new())
    }

    /// As [`Serve::start`], with more in the environment.
    pub(crate) fn start_with(
        folder: &Path,
        more: &str,
        environment: Vec<(String, String)>,
    ) -> Self {
        let config = folder.join("meterd.toml");
        let address = free_address().unwrap();
        let text = format!(
            "[node]\ndata_dir = {:?}\ntick_ms = 10\n[log]\nsegment_bytes = 1048576\n\
             reserve_bytes = 2097152\ncommit_bytes_max = 524288\n\
             [ingest]\nudp_listen = \"127.0.0.1:0\"\ntcp_listen = \"127.0.0.1:0\"\n\
             [clickhouse]\nengine = \"server\"\nurl = \"http://127.0.0.1:9\"\n\
             [api]\nlisten = \"{address}\"\n{more}",
            folder.join("data")
        );
        fs::write(&config, text).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let child = spawn(&config, &environment);
        let folder = folder.to_owned();
        let mut serve = Self { folder, config, address, environment, child, runtime };
        serve.wait_ready();
        serve
    }

    /// What the environment says from the next start on.
    pub(crate) fn set_environment(&mut self, environment: Vec<(String, String)>) {
        self.environment = environment;
    }

    /// Its settings.
    pub(crate) fn settings(&self) -> &Path {
        &self.config
    }

    fn wait_ready(&mut self) {
        while self.call("GET", "/healthz", &[], "").is_err() {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}");
            pause();
        }
    }

    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<String, server::http::HttpError> {
        let bearer = self.bearer();
        let mut all =
            vec![("authorization", bearer.as_str()), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        let call = server::http::Call { method, path, headers: &all, body: body.into() };
        let answer = self.runtime.block_on(server::http::send(self.address, call))?;
        Ok(String::from_utf8(answer.to_vec()).unwrap())
    }

    fn bearer(&self) -> String {
        let token = fs::read_to_string(self.config.with_extension("token")).unwrap_or_default();
        format!("Bearer {}", token.trim())
    }

    /// A customer with a prepaid account, number 1.
    pub(crate) fn register(&self) {
        for (path, body) in [
            ("/v1/customers", r#"{"code":"C1","name":"Li Wei"}"#),
            ("/v1/plans", r#"{"code":"home","currency":"CNY"}"#),
            ("/v1/plans/1/versions", VERSION),
            ("/v1/accounts", r#"{"code":"A1","customer":1,"plan":1,"zone":"Asia/Shanghai"}"#),
        ] {
            self.call("POST", path, &[], body).unwrap();
        }
    }

    pub(crate) fn top_up(
        &self,
        key: &str,
        amount: &str,
    ) -> Result<String, server::http::HttpError> {
        let body = format!("{{\"amount\":\"{amount}\"}}");
        self.call("POST", "/v1/accounts/1/top-ups", &[("idempotency-key", key)], &body)
    }

    /// Whether a purchase under that key is on record.
    pub(crate) fn has_top_up(&self, key: &str) -> bool {
        self.call("GET", &format!("/v1/top-ups/{key}"), &[], "").is_ok()
    }

    /// One call for each key, all at once.
    pub(crate) fn top_ups(
        &self,
        keys: &[String],
        amount: &str,
    ) -> Vec<Result<String, server::http::HttpError>> {
        let body = format!("{{\"amount\":\"{amount}\"}}");
        let path = "/v1/accounts/1/top-ups";
        self.posts(keys.iter().map(|key| (path, &key[..], &body[..])))
    }

    /// Posts path, idempotency key and body, all at once; the answers in their order.
    pub(crate) fn posts<'a>(
        &self,
        requests: impl Iterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Vec<Result<String, server::http::HttpError>> {
        let address = self.address;
        let call = |(path, key, body): (&str, &str, &str)| {
            let (path, key, body) = (path.to_owned(), key.to_owned(), body.to_owned());
            let bearer = self.bearer();
            async move {
                let headers = [
                    ("authorization", bearer.as_str()),
                    ("content-type", "application/json"),
                    ("idempotency-key", key.as_str()),
                ];
                let (method, body) = ("POST", body.into());
                let call = server::http::Call { method, path: &path, headers: &headers, body };
                let answer = server::http::send(address, call).await?;
                Ok(String::from_utf8(answer.to_vec()).unwrap())
            }
        };
        self.runtime.block_on(async {
            let calls: Vec<_> = requests.map(|request| tokio::spawn(call(request))).collect();
            let mut answers = Vec::new();
            for call in calls {
                answers.push(call.await.unwrap());
            }
            answers
        })
    }

    pub(crate) fn balance(&self) -> String {
        let text = self.call("GET", "/v1/accounts/1/balance", &[], "").unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        answer["balance"].as_str().unwrap().to_owned()
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.call("GET", "/metrics", &[], "").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }

    /// Takes back what callers were told, as if the node had died before it was kept.
    pub(crate) fn forget_answers(&self) {
        spoil_registry(&self.folder, "UPDATE purchase SET answer = NULL");
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// SIGKILL, now.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGKILL after so many milliseconds, while the caller goes on.
    pub(crate) fn kill_soon(&self, ms: u64) {
        let pid = rustix::process::Pid::from_child(&self.child);
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(ms));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL)
        });
    }

    /// Waits for the end and starts again.
    pub(crate) fn restart(&mut self) {
        self.child.wait().unwrap();
        self.child = spawn(&self.config, &self.environment);
        self.wait_ready();
    }

    /// A clean stop, and `meterd verify`.
    pub(crate) fn stop_and_verify(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}");
        let output = meterd()
            .args(["verify".as_ref(), "--config".as_ref(), self.config.as_os_str()])
            .arg("--without-clickhouse")
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .output()
            .unwrap();
        let text = said(&output);
        assert!(output.status.success(), "{}\n{text}", output.status);
        text
    }
}

/// Changes the registry of a folder's node behind its back.
pub(crate) fn spoil_registry(folder: &Path, sql: &'static str) {
    let file = folder.join("data/registry.sqlite");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file);
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut registry = sqlx::ConnectOptions::connect(&options).await.unwrap();
        sqlx::query(sql).execute(&mut registry).await.unwrap();
    });
}

impl Drop for Serve {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn spawn(config: &Path, environment: &[(String, String)]) -> Child {
    let token = config.with_extension("token");
    Command::new(env!("CARGO_BIN_EXE_meterd"))
        .args(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
        .args(["--token-file".as_ref(), token.as_os_str()])
        .env("RUST_LOG", "error")
        .envs(environment.iter().cloned())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
