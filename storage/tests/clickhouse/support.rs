//! Engines and servers for the tests, of this crate and of the node: the embedded engine (always), Debian's 18.16 (where it is
//! installed), the server that `METERD_TEST_CLICKHOUSE` names (where set).

#![allow(dead_code, clippy::allow_attributes, reason = "each test uses a part of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use storage::clickhouse::{ClickhouseConfig, Retention};
use storage::engine::{
    Credential, EngineConfig, EngineLimits, EngineState, Supervisor, SupervisorConfig,
    locate_library,
};

pub(crate) const WRITER: (&str, &str) = ("meterd", "writer-password");
pub(crate) const READER: (&str, &str) = ("analyst", "reader-password");

/// The library, or a failure that says how to get it.
pub(crate) fn library() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.meterd/lib");
    locate_library(None, &folder).unwrap_or_else(|error| panic!("{error}"))
}

/// `meterd engine` where that is built for the tests, the benches' own `engine`, else
/// `examples/engine.rs`; all are the same.
pub(crate) fn program() -> PathBuf {
    if let Some(meterd) = option_env!("CARGO_BIN_EXE_meterd") {
        return meterd.into();
    }
    let this = std::env::current_exe().unwrap();
    if this.file_stem().is_some_and(|name| name == "benches") {
        return this;
    }
    let path = this.parent().unwrap().parent().unwrap().join("examples/engine");
    assert!(path.is_file(), "{} is absent; run `cargo test -p storage`", path.display());
    path
}

pub(crate) fn engine_config(folder: &Path) -> EngineConfig {
    let credential = |(user, password): (&str, &str)| Credential {
        user: user.to_owned(),
        password: password.to_owned(),
    };
    EngineConfig {
        library: library(),
        folder: folder.to_owned(),
        listen: "127.0.0.1:0".parse().unwrap(),
        writer: credential(WRITER),
        reader: credential(READER),
        limits: EngineLimits::SMALL,
    }
}

pub(crate) fn supervisor_config(folder: &Path) -> SupervisorConfig {
    SupervisorConfig {
        program: program(),
        // Only the example is nothing but an engine.
        arguments: if program().ends_with("examples/engine") {
            vec![]
        } else {
            vec!["engine".into()]
        },
        engine: engine_config(folder),
        restart_delay_ms_min: 20,
        restart_delay_ms_max: 1000,
        ready_s_max: 60,
    }
}

/// The embedded engine under its supervisor, in a folder of its own.
pub(crate) struct Embedded {
    pub(crate) supervisor: Supervisor,
    pub(crate) address: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
}

impl Embedded {
    pub(crate) async fn start() -> Self {
        Self::start_with(EngineLimits { reader_duration_s_max: 20, ..EngineLimits::SMALL }).await
    }

    pub(crate) async fn start_with(limits: EngineLimits) -> Self {
        Self::start_in(&std::env::temp_dir(), limits).await
    }

    /// With its data below `place`.
    pub(crate) async fn start_in(place: &Path, limits: EngineLimits) -> Self {
        let folder = tempfile::tempdir_in(place).unwrap();
        let mut config = supervisor_config(&folder.path().join("data"));
        config.engine.limits = limits;
        let supervisor = Supervisor::start(config);
        let address = supervisor.ready().await.unwrap();
        Self { supervisor, address, folder }
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        let state = self.supervisor.state();
        let EngineState::Ready { pid, .. } = *state.borrow() else { return None };
        Some(pid)
    }
}

/// A ClickHouse that the storage suite runs against.
pub(crate) enum Server {
    Embedded(Embedded),
    Old(OldServer),
    Given(String),
}

impl Server {
    /// All that are to be had.
    pub(crate) async fn all() -> Vec<Self> {
        let mut servers = vec![Self::Embedded(Embedded::start().await)];
        servers.extend(OldServer::start().map(Self::Old));
        servers.extend(std::env::var("METERD_TEST_CLICKHOUSE").ok().map(Self::Given));
        servers
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Embedded(_) => "embedded",
            Self::Old(_) => "18.16",
            Self::Given(_) => "given",
        }
    }

    /// As [`Server::config`], with the database dropped before: a given server keeps it from one
    /// run to the next.
    pub(crate) async fn fresh(&self, database: &str) -> ClickhouseConfig {
        let config = self.config(database);
        let sql = format!("DROP DATABASE IF EXISTS {database}");
        client(&config).query(&sql).execute().await.unwrap();
        config
    }

    /// `database` must differ from test to test: a given server holds all of them.
    pub(crate) fn config(&self, database: &str) -> ClickhouseConfig {
        let (url, (user, password)) = match self {
            Self::Embedded(engine) => (format!("http://{}", engine.address), WRITER),
            Self::Old(server) => (format!("http://127.0.0.1:{}", server.port), ("default", "")),
            Self::Given(url) => (url.clone(), ("default", "")),
        };
        ClickhouseConfig {
            url,
            user: user.to_owned(),
            password: password.to_owned(),
            database: database.to_owned(),
            zone: "Asia/Shanghai".to_owned(),
            retention: Retention::FOREVER,
            retry_delay_ms_min: 20,
            retry_delay_ms_max: 500,
            request_s_max: 60,
        }
    }

    /// Kills it the hard way, if it is ours and runs; it comes back by itself or here.
    pub(crate) fn kill(&mut self) {
        match self {
            Self::Embedded(engine) => {
                if let Some(pid) = engine.pid() {
                    kill(pid);
                }
            }
            Self::Old(server) => server.restart(),
            Self::Given(_) => {}
        }
    }

    pub(crate) async fn stop(self) {
        if let Self::Embedded(engine) = self {
            engine.supervisor.stop().await;
        }
    }
}

/// Asks as an analyst does, read-only where the server is ours; the database is in the URL.
pub(crate) fn ask(server: &Server, database: &str, statement: &str) -> Answer {
    let config = server.config(database);
    let address = config.url.trim_start_matches("http://").parse().unwrap();
    let user = match server {
        Server::Embedded(_) | Server::Old(_) => READER,
        Server::Given(_) => ("default", ""),
    };
    let parameters = [("database", database)];
    request(address, user, "POST", &parameters, "", statement.as_bytes())
}

/// A client that asks nothing of the server that 18.16 lacks.
pub(crate) fn client(config: &ClickhouseConfig) -> clickhouse::Client {
    clickhouse::Client::default()
        .with_url(&config.url)
        .with_user(&config.user)
        .with_password(&config.password)
        .with_compression(clickhouse::Compression::None)
        .with_validation(false)
}

pub(crate) fn kill(pid: u32) {
    // It may be gone already; the test goes on either way.
    drop(Command::new("kill").args(["-9", &pid.to_string()]).stderr(Stdio::null()).status());
}

fn free_port() -> u16 {
    loadgen::free_address().unwrap().port()
}

/// `default` may do everything; [`READER`] only reads.
const OLD_USERS: &str = "<yandex><profiles><default/><readonly><readonly>1</readonly></readonly>\
    </profiles><users><default><password></password><networks><ip>127.0.0.1</ip></networks>\
    <profile>default</profile><quota>default</quota></default><analyst>\
    <password>reader-password</password><networks><ip>127.0.0.1</ip></networks>\
    <profile>readonly</profile><quota>default</quota></analyst></users>\
    <quotas><default/></quotas></yandex>";

/// Debian's clickhouse-server 18.16 on a private port and folder.
pub(crate) struct OldServer {
    pub(crate) port: u16,
    folder: tempfile::TempDir,
    child: Child,
}

impl OldServer {
    /// `None`, with a line that says so, where it is not installed.
    pub(crate) fn start() -> Option<Self> {
        Self::start_in(&std::env::temp_dir())
    }

    /// With its data below `place`.
    pub(crate) fn start_in(place: &Path) -> Option<Self> {
        Self::installed().map(|program| Self::start_with(program, place, ""))
    }

    /// Two servers that know each other as the shards of the cluster `meterd`.
    pub(crate) fn start_shards() -> Option<[Self; 2]> {
        let program = Self::installed()?;
        let ports = [free_port(), free_port()];
        let shard = |port| {
            format!("<shard><replica><host>127.0.0.1</host><port>{port}</port></replica></shard>")
        };
        let shards: String = ports.iter().map(shard).collect();
        Some(ports.map(|port| {
            let cluster = format!(
                "<tcp_port>{port}</tcp_port><remote_servers><meterd>{shards}</meterd></remote_servers>\
                 <macros><cluster>meterd</cluster><shard>1</shard><replica>a</replica></macros>"
            );
            Self::start_with(program, &std::env::temp_dir(), &cluster)
        }))
    }

    #[expect(clippy::print_stdout, reason = "what is not run must be seen")]
    fn installed() -> Option<&'static str> {
        let program = ["/usr/sbin/clickhouse-server", "/usr/bin/clickhouse-server"];
        let program = program.into_iter().find(|path| Path::new(path).is_file());
        if program.is_none() {
            let how = "apt-get install clickhouse-server clickhouse-common";
            assert!(
                std::env::var_os("METERD_TEST_CLICKHOUSE_OLD").is_none(),
                "no clickhouse-server 18.16: {how}"
            );
            println!("NOT RUN against a server of version 18.16: it is not installed ({how})");
        }
        program
    }

    fn start_with(program: &str, place: &Path, more: &str) -> Self {
        let folder = tempfile::tempdir_in(place).unwrap();
        let port = free_port();
        let at = folder.path().display();
        let config = format!(
            "<yandex><logger><level>warning</level><log>{at}/log</log><errorlog>{at}/err</errorlog>\
             </logger><http_port>{port}</http_port><listen_host>127.0.0.1</listen_host>\
             <path>{at}/data/</path><tmp_path>{at}/tmp/</tmp_path>\
             <users_config>{at}/users.xml</users_config><default_profile>default</default_profile>\
             <default_database>default</default_database><mark_cache_size>67108864</mark_cache_size>\
             <timezone>UTC</timezone>{more}</yandex>"
        );
        std::fs::write(folder.path().join("config.xml"), config).unwrap();
        std::fs::write(folder.path().join("users.xml"), OLD_USERS).unwrap();
        let child = Self::spawn(program, folder.path());
        let server = Self { port, folder, child };
        server.wait();
        server
    }

    fn spawn(program: &str, folder: &Path) -> Child {
        Command::new(program)
            .arg(format!("--config-file={}/config.xml", folder.display()))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Asks until it answers; each try takes as long as the connection does.
    fn wait(&self) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        for _ in 0..600 {
            if let Ok(stream) = TcpStream::connect(address)
                && exchange(stream, b"GET /ping HTTP/1.0\r\n\r\n").contains("Ok.")
            {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("clickhouse-server on port {} does not answer", self.port);
    }

    fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn("/usr/sbin/clickhouse-server", self.folder.path());
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Sends bytes and reads until the other side closes.
pub(crate) fn exchange(mut stream: TcpStream, request: &[u8]) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // The other side may answer and close before it has read everything.
    drop(stream.write_all(request));
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer));
    String::from_utf8_lossy(&answer).into_owned()
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// ClickHouse's code, 0 when the answer is good.
    pub(crate) fn code(&self) -> u32 {
        let name = "x-clickhouse-exception-code: ";
        let line = self.head.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |code| code.parse().unwrap())
    }
}

/// One request on a connection of its own. `parameters` go to the URL.
pub(crate) fn request(
    address: SocketAddr,
    (user, password): (&str, &str),
    method: &str,
    parameters: &[(&str, &str)],
    headers: &str,
    body: &[u8],
) -> Answer {
    let query: String =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    let mut bytes = format!(
        "{method} /?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-ClickHouse-User: {user}\r\n\
         X-ClickHouse-Key: {password}\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    parse(&exchange(TcpStream::connect(address).unwrap(), &bytes))
}

pub(crate) fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body) } else { body.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

/// A body that was sent in chunks, up to its last whole one.
fn unchunked(text: &str) -> String {
    let (mut left, mut body) = (text.as_bytes(), Vec::new());
    while let Some(end) = left.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&left[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        left = &left[end + 2..];
        if size == 0 || left.len() < size + 2 {
            break;
        }
        body.extend_from_slice(&left[..size]);
        left = &left[size + 2..];
    }
    String::from_utf8(body).unwrap()
}

/// A statement as the given user; the body is the statement.
pub(crate) fn sql(address: SocketAddr, user: (&str, &str), statement: &str) -> Answer {
    request(address, user, "POST", &[], "", statement.as_bytes())
}
