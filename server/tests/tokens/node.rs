//! A node in a process of its own whose log is kept, and a token meter that it reaches.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use loadgen::driver::{Clocks, DriverConfig, UdpFleet};
use loadgen::faults::FaultPlan;
use loadgen::profile::Load;
use loadgen::{Identity, MeterClock, MeterPlan, Retry, Seed, VirtualMeter, World, free_address};
use meter::{Energy, UnixSeconds};
use serde_json::{Value, json};
use server::clock::Clock;
use server::http::{Call, send};
use sts::{
    BaseDate, Deriver, EncryptionAlgorithm, KeyExpiryNumber, KeyRevisionNumber, KeyType,
    MeterConfig, Sta, SupplyGroupCode, TariffIndex, Tid, VendingKey, VendingKeyId,
};

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const SEED: Seed = Seed(11);

/// The vending key of a revision.
pub(crate) fn key_digits(krn: u8) -> String {
    format!("abababababababab94949494949494940123456{krn}")
}

pub(crate) struct Node {
    pub(crate) folder: tempfile::TempDir,
    child: Child,
    runtime: tokio::runtime::Runtime,
    meters: SocketAddr,
    api: SocketAddr,
    pub(crate) admin: String,
    second: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    /// A node without ClickHouse, with two vending keys, a plan of 0.50 a kWh and a customer.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (meters, api) = (free_address().unwrap(), free_address().unwrap());
        let settings = format!(
            "[node]\ndata_dir = {:?}\n[ingest]\nudp_listen = \"{meters}\"\n\
             tcp_listen = \"{meters}\"\n[log]\nsegment_bytes = 8388608\n\
             reserve_bytes = 8388608\ncommit_bytes_max = 4194304\n[clickhouse]\n\
             engine = \"server\"\nurl = \"http://127.0.0.1:9\"\n[api]\nlisten = \"{api}\"\n",
            folder.path().join("data")
        );
        fs::write(folder.path().join("meterd.toml"), settings).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let child = spawn(folder.path());
        let (admin, second) = (String::new(), String::new());
        let mut node = Self { folder, child, runtime, meters, api, admin, second };
        node.wait_ready();
        node.admin = fs::read_to_string(node.token_file()).unwrap().trim().to_owned();
        node.second = node.new_token("admin");
        for (path, body) in [
            ("/v1/customers", json!({"code": "C1", "name": "Li Wei"})),
            ("/v1/plans", json!({"code": "flat", "currency": "CNY"})),
            ("/v1/plans/1/versions", version()),
        ] {
            node.call("POST", path, &body);
        }
        for krn in [1, 2] {
            node.import_key(krn);
        }
        node
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.api)
    }

    /// A token of this role.
    pub(crate) fn new_token(&self, role: &str) -> String {
        let made = self.call("POST", "/v1/tokens", &json!({"name": role, "role": role}));
        made["secret"].as_str().unwrap().to_owned()
    }

    /// Kills the node without warning.
    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.folder.path());
        self.wait_ready();
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Value {
        let text = self.text(&self.admin, method, path, "setup", body);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// A call with a token and a key; what was answered.
    pub(crate) fn text(
        &self,
        token: &str,
        method: &str,
        path: &str,
        key: &str,
        body: &Value,
    ) -> String {
        let bearer = format!("Bearer {token}");
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let call = Call { method, path, headers: &headers, body };
        match self.runtime.block_on(send(self.api, call)) {
            Ok(answer) => String::from_utf8(answer.to_vec()).unwrap(),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.call("GET", path, &Value::Null)
    }

    pub(crate) fn buy(&self, account: u32, key: &str, amount: &str) -> Value {
        let path = format!("/v1/accounts/{account}/purchases");
        let body = json!({ "amount": amount });
        serde_json::from_str(&self.text(&self.admin, "POST", &path, key, &body)).unwrap()
    }

    fn import_key(&self, krn: u8) {
        let key = json!({
            "sgc": 201_457, "kt": 2, "krn": krn, "key": key_digits(krn), "base_year": 2014,
            "ken": 255, "active_from": "2020-01-01T00:00:00Z",
            "active_until": "2040-01-01T00:00:00Z", "issued_until": "2040-01-01T00:00:00Z",
            "units_max": 1_000_000, "currency_max": 1_000_000,
        });
        let check = self.call("POST", "/v1/vending-keys", &key)["check_value"].clone();
        let body = json!({"sgc": 201_457, "kt": 2, "krn": krn, "check_value": check});
        self.text(&self.second, "POST", "/v1/vending-keys/confirmation", "", &body);
    }

    /// An account with a token meter under the first key, both with this number.
    pub(crate) fn register(&self, number: u32, entry: &str) {
        let identity = Identity::of_meter(SEED, number);
        let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let account =
            json!({"code": format!("A{number}"), "customer": 1, "plan": 1, "zone": "UTC"});
        assert_eq!(self.call("POST", "/v1/accounts", &account)["id"], number);
        let meter = json!({
            "serial": format!("S{number}"), "system_title": identity.title().to_string(),
            "model": "m", "template": meter::wire::dlms::Templates::SINGLE,
            "encryption_key": hex(identity.keys().encryption),
            "authentication_key": hex(identity.keys().authentication), "current_max_ma": 60_000,
            "voltage_nominal_mv": 230_000, "phases": 1, "register_digits": 6, "period_s": 60,
        });
        assert_eq!(self.call("POST", "/v1/meters", &meter)["id"], number);
        let installation = json!({
            "meter": number, "account": number, "at": "2026-01-01T00:00:00Z", "start_wh": 0,
        });
        self.call("POST", "/v1/installations", &installation);
        let settings = json!({
            "number": drn(number).digits(), "ea": 7, "entry": entry,
            "key": {"sgc": 201_457, "kt": 2, "krn": 1, "ti": 1},
        });
        self.call("PUT", &format!("/v1/meters/{number}/token-settings"), &settings);
    }

    /// Begins `meterd vend bulk` with these files.
    pub(crate) fn bulk(&self, orders: &Path, out: &Path) -> Child {
        Command::new(env!("CARGO_BIN_EXE_meterd"))
            .args(["vend", "--url", &self.url(), "--token-file"])
            .args([self.token_file().as_os_str(), "bulk".as_ref(), orders.as_os_str()])
            .args(["--at-a-time", "8", "--out"].map(AsRef::<std::ffi::OsStr>::as_ref))
            .arg(out)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// All that the node logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(log_file(self.folder.path())).unwrap()
    }

    fn wait_ready(&self) {
        wait("the node to be ready", || {
            let call = Call { method: "GET", path: "/healthz", headers: &[], body: Vec::new() };
            self.runtime.block_on(send(self.api, call)).is_ok()
        });
    }

    /// Meters 1 to `count`, speaking every second, each with its token meter.
    pub(crate) fn meters(&self, count: u32) -> Fleet {
        let config = DriverConfig {
            node: self.meters,
            sockets: 1,
            receive_buffer_bytes: 1 << 18,
            faults_up: FaultPlan::default(),
            faults_down: FaultPlan::default(),
            smear_ms: 0,
            reconnect: Duration::from_millis(20),
        };
        let meters = (1..=count).map(fitted).collect();
        let mut fleet = UdpFleet::new(&config, world(), meters, clocks()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                fleet.step(Duration::from_millis(1)).unwrap();
            }
            fleet
        });
        Fleet { stop, thread }
    }
}

/// The simulator on a thread of its own; gives the meters back when it stops.
pub(crate) struct Fleet {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<UdpFleet>,
}

impl Fleet {
    pub(crate) fn stop(self) -> UdpFleet {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn clocks() -> Clocks {
    let began = server::clock::instant();
    let first = u64::from(Clock::System.now().0) * 1000;
    let elapsed_ms = move || u64::try_from(began.elapsed().as_millis()).unwrap();
    Clocks {
        time_ms: Arc::new(move || first + elapsed_ms()),
        wall: Arc::new(move || began.elapsed()),
    }
}

fn world() -> World {
    let retry = Retry { first: Duration::from_millis(200), max: Duration::from_secs(1) };
    World { seed: SEED, retry, window: 4, pace: 1 }
}

fn fitted(ordinal: u32) -> VirtualMeter {
    let now = Clock::System.now();
    let plan = MeterPlan {
        ordinal,
        load: Load { site: 31, days_ahead: 0, scale_milli: 1000 },
        phases: 1,
        first: UnixSeconds(now.0 - 1),
        last: now.plus(86_400),
        period_s: 1,
        send_delay_s: 0,
        start: Energy::from_wh(0),
        register_digits: 6,
        clock: MeterClock::default(),
    };
    let mut meter = VirtualMeter::new(&world(), plan);
    meter.fit_token_meter(token_meter(ordinal));
    meter
}

fn drn(number: u32) -> sts::Drn {
    sts::Drn::with_check_digit(&format!("07{number:08}")).unwrap()
}

/// The token meter of a number, under the first key.
pub(crate) fn token_meter(number: u32) -> sts::meter::VirtualMeter {
    let config = MeterConfig {
        pan: sts::MeterPan::of(&drn(number)),
        ea: EncryptionAlgorithm::Ea07,
        key: VendingKeyId {
            sgc: SupplyGroupCode::new(201_457).unwrap(),
            kt: KeyType::Unique,
            krn: KeyRevisionNumber::new(1).unwrap(),
        },
        ti: TariffIndex::new(1).unwrap(),
    };
    let key = VendingKey::from_hex(&key_digits(1)).unwrap();
    let key = Deriver::new(&key).derive(BaseDate::Base2014, &config).unwrap();
    let config = sts::meter::Config {
        meter: config,
        ken: KeyExpiryNumber(255),
        service: sts::Service::Electricity,
        sta: Sta::production(),
        tid_count: 50,
        start: Tid::MIN,
        units_max: 10_000_000,
        currency_steps_max: 10_000_000,
        key_change_timeout_s: 600,
        lockout: None,
    };
    sts::meter::VirtualMeter::new(config, key)
}

/// One rate of 0.50 a kWh, no fee, no tax.
fn version() -> Value {
    let day = json!([{"at": "00:00", "rate": 1}]);
    let season = json!({"from": "01-01", "to": "12-31", "workday": day});
    json!({"valid_from": "2020-01-01", "prices": ["0.5"], "seasons": [season]})
}

/// Waits until `holds`, and fails with `what` when it does not.
pub(crate) fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = server::clock::instant() + PATIENCE;
    while !holds() {
        assert!(server::clock::instant() < until, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// What a process said on standard error.
pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("node.log")
}

fn spawn(folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(log_file(folder)).unwrap();
    Command::new(env!("CARGO_BIN_EXE_meterd"))
        .args(["serve".as_ref(), "--config".as_ref(), folder.join("meterd.toml").as_os_str()])
        .args(["--token-file".as_ref(), folder.join("token").as_os_str()])
        .env("RUST_LOG", "debug")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}
