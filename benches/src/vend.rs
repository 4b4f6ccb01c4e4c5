//! Purchases over HTTP, durable and idempotent, from 64 connections: against a handler that only
//! answers the same requests, and with tokens against without.
//!
//! The node and the handler are processes of their own, with real files; ClickHouse is absent, so
//! that its rows wait in the spool. Every purchase has a key of its own and is answered after the
//! registry's and the log's syncs. Sketch: 64 purchases share two syncs; a sync of 1 ms and 100 µs
//! of registry a purchase make at most 9,000 a second.
#![expect(clippy::disallowed_methods, reason = "a bench measures time")]

use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use loadgen::free_address;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::w1::{cpu_s, median};

type Failure = Box<dyn Error + Send + Sync>;

/// Connections that buy.
const CONNECTIONS: u64 = 64;
/// Accounts of each kind: of money, and with a token meter.
const ACCOUNTS: u64 = 256;
/// Runs of each way, in turns.
const RUNS: usize = 5;

/// What the bench found.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Answers of the handler that only answers.
    pub answers: Way,
    /// Purchases of money accounts.
    pub purchases: Way,
    /// Purchases with a token.
    pub with_token: Way,
    /// Purchases to answers, and those with a token to those without: of each round, the median.
    pub ratios: (f64, f64),
    /// At half the rate of purchases: the 50th and 99th percentile from the planned start.
    pub latency: (Duration, Duration),
}

/// Requests of one way, the median of the rounds.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// A second.
    pub rate: f64,
    /// Processor time of the server for each, µs.
    pub server_us: f64,
    /// Processor time of the client for each, µs.
    pub client_us: f64,
}

/// The part of this program that a bench starts as a process: `node CONFIG TOKEN_FILE`, or
/// `answer ADDRESS`. `None` when the arguments name none.
///
/// # Errors
/// What stopped it.
pub fn child(args: &[String]) -> Option<Result<(), Box<dyn Error>>> {
    match args {
        [name, config, token] if name == "vend-node" => {
            let options =
                server::cli::Serve { config: Some(config.into()), token_file: Some(token.into()) };
            Some(server::node::serve(&options).map(drop).map_err(Into::into))
        }
        [name, address] if name == "vend-answer" => Some(answer_only(address)),
        _ => None,
    }
}

/// Answers every request with the same text, after its body.
fn answer_only(address: &str) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let answer = |body: Bytes| async move {
            let status = if body.is_empty() { StatusCode::OK } else { StatusCode::CREATED };
            (status, [(header::CONTENT_TYPE, "application/json")], RECEIPT)
        };
        axum::serve(listener, Router::new().fallback(answer)).await?;
        Ok(())
    })
}

/// As long as a receipt is.
const RECEIPT: &str = r#"{"id":1,"idempotency_key":"k","kind":"purchase","account":1,"meter":null,"agent":null,"at":"2026-11-22T10:15:00Z","paid":"20.0000000","debt":"0.0000000","fee":"1.0000000","tax":"1.2000000","credit":"17.8000000","energy_wh":0,"blocks":[],"lines":[{"kind":"purchase","amount":"20.0000000"},{"kind":"fee","amount":"-1.0000000"},{"kind":"tax","amount":"-1.2000000"}],"tokens":[]}"#;

/// Runs the bench in `folder`, each way for `seconds`.
///
/// # Errors
/// When a process does not start, or an answer is not 201.
pub fn run(folder: &Path, seconds: u64) -> Result<Report, Failure> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    let answer = free_address()?;
    let answering = Process::start(&["vend-answer", &answer.to_string()])?;
    let node = free_address()?;
    let config = folder.join("meterd.toml");
    fs::write(&config, settings(folder, node))?;
    let token_file = folder.join("token");
    let paths = [config.display().to_string(), token_file.display().to_string()];
    let serving = Process::start(&["vend-node", &paths[0], &paths[1]])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut idle = Shop { address: answer, token: "none".to_owned() };
        idle.wait().await?;
        let mut shop = Shop { address: node, token: String::new() };
        shop.wait().await?;
        shop.token = fs::read_to_string(&token_file)?.trim().to_owned();
        let second = prepare(&shop).await?;
        idle.token.clone_from(&shop.token);
        drop(second);
        let mut rounds = [const { Vec::new() }; 3];
        for run in 0..RUNS {
            for (way, taken) in rounds.iter_mut().enumerate() {
                let (shop, server) = if way == 0 { (&idle, &answering) } else { (&shop, &serving) };
                let first = if way == 2 { ACCOUNTS + 1 } else { 1 };
                let tag = format!("r{run}w{way}");
                let server = server.0.id().to_string();
                let before = [cpu_s(&server), cpu_s("self")];
                let (count, took) = full_speed(shop, first, &tag, seconds).await?;
                let us = |process, before| (cpu_s(process) - before) * 1e6 / count;
                let (server_us, client_us) = (us(&server, before[0]), us("self", before[1]));
                taken.push(Way { rate: count / took, server_us, client_us });
            }
        }
        let ratio =
            |of: &[Way], to: &[Way]| median(of.iter().zip(to).map(|(of, to)| of.rate / to.rate));
        let ratios = (ratio(&rounds[1], &rounds[0]), ratio(&rounds[2], &rounds[1]));
        let [answers, purchases, with_token] = rounds.map(|ways| Way {
            rate: median(ways.iter().map(|way| way.rate)),
            server_us: median(ways.iter().map(|way| way.server_us)),
            client_us: median(ways.iter().map(|way| way.client_us)),
        });
        let latency = at_rate(&shop, purchases.rate / 2.0, seconds.max(2)).await?;
        Ok(Report { answers, purchases, with_token, ratios, latency })
    })
}

/// A process of this program; killed when dropped.
struct Process(Child);

impl Process {
    fn start(args: &[&str]) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).env("RUST_LOG", "error").stdin(Stdio::null());
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A node without ClickHouse, on free ports.
fn settings(folder: &Path, api: SocketAddr) -> String {
    format!(
        "[node]\ndata_dir = {:?}\n[ingest]\nudp_listen = \"127.0.0.1:0\"\n\
         tcp_listen = \"127.0.0.1:0\"\n[clickhouse]\nengine = \"server\"\n\
         url = \"http://127.0.0.1:9\"\n[api]\nlisten = \"{api}\"\n",
        folder.join("data")
    )
}

/// Where to buy, and as whom.
#[derive(Clone)]
pub(crate) struct Shop {
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
}

type Connection = SendRequest<Full<Bytes>>;

impl Shop {
    /// Until the process listens.
    async fn wait(&self) -> Result<(), Failure> {
        let start = Instant::now();
        while TcpStream::connect(self.address).await.is_err() {
            if start.elapsed() > Duration::from_secs(30) {
                return Err(format!("{} does not listen", self.address).into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (connection, driver) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    async fn call(
        &self,
        connection: &mut Connection,
        call: (&str, &str, &str),
        body: &str,
    ) -> Result<Bytes, Failure> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        self.ask(connection, call, ("application/json", body)).await
    }

    /// Sends a body of any type over a connection of its own.
    pub(crate) async fn send(
        &self,
        call: (&str, &str, &str),
        content: (&str, Bytes),
    ) -> Result<Bytes, Failure> {
        let mut connection = self.connect().await?;
        self.ask(&mut connection, call, content).await
    }

    async fn ask(
        &self,
        connection: &mut Connection,
        (method, path, key): (&str, &str, &str),
        (content_type, body): (&str, Bytes),
    ) -> Result<Bytes, Failure> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "bench")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", content_type)
            .header("idempotency-key", key)
            .body(Full::new(body))?;
        let answer = connection.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body)).into())
    }

    pub(crate) async fn tell(
        &self,
        method: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, Failure> {
        let mut connection = self.connect().await?;
        let text = body.to_string();
        let answer = self.call(&mut connection, (method, path, "setup"), &text).await?;
        Ok(serde_json::from_slice(&answer).unwrap_or_default())
    }
}

/// Accounts 1 to N are of money, N+1 to 2N have a token meter. Returns the second administrator.
async fn prepare(shop: &Shop) -> Result<Shop, Failure> {
    let second = shop.tell("POST", "/v1/tokens", &json!({"name": "two", "role": "admin"})).await?;
    let token = second["secret"].as_str().unwrap_or_default().to_owned();
    let second = Shop { token, ..shop.clone() };
    shop.tell("POST", "/v1/customers", &json!({"code": "C", "name": "C"})).await?;
    shop.tell("POST", "/v1/plans", &json!({"code": "flat", "currency": "CNY"})).await?;
    shop.tell("POST", "/v1/plans/1/versions", &version()).await?;
    let key = json!({
        "sgc": 201_457, "kt": 2, "krn": 1, "key": "ab".repeat(20), "base_year": 2014, "ken": 255,
        "active_from": "2020-01-01T00:00:00Z", "active_until": "2040-01-01T00:00:00Z",
        "issued_until": "2040-01-01T00:00:00Z", "units_max": 1_000_000, "currency_max": 1_000_000,
    });
    let proposed = shop.tell("POST", "/v1/vending-keys", &key).await?;
    let confirmed = json!({
        "sgc": 201_457, "kt": 2, "krn": 1, "check_value": proposed["check_value"],
    });
    second.tell("POST", "/v1/vending-keys/confirmation", &confirmed).await?;
    let mut tasks = JoinSet::new();
    for lane in 0..16 {
        let shop = shop.clone();
        tasks.spawn(async move { accounts(&shop, lane).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    meters(shop).await?;
    Ok(second)
}

/// A version of a plan: one price, two blocks, fee and tax.
pub(crate) fn version() -> Value {
    let day = json!([{"at": "00:00", "rate": 1}]);
    let season = json!({"from": "01-01", "to": "12-31", "workday": day});
    json!({
        "valid_from": "2020-01-01", "prices": ["0.5"], "seasons": [season],
        "blocks": [{"from_kwh": 0, "adder": "0"}, {"from_kwh": 200, "adder": "0.1"}],
        "tax_bp": 600, "fee": "1",
    })
}

async fn accounts(shop: &Shop, lane: u64) -> Result<(), Failure> {
    for index in (lane..2 * ACCOUNTS).step_by(16) {
        let account = json!({"code": format!("A{index}"), "customer": 1, "plan": 1, "zone": "UTC"});
        shop.tell("POST", "/v1/accounts", &account).await?;
    }
    Ok(())
}

async fn meters(shop: &Shop) -> Result<(), Failure> {
    let mut tasks = JoinSet::new();
    for lane in 0..16_u64 {
        let shop = shop.clone();
        tasks.spawn(async move {
            for index in (lane..ACCOUNTS).step_by(16) {
                let meter = json!({
                    "serial": format!("S{index}"), "system_title": format!("4d545230{index:08x}"),
                    "model": "m", "template": "obis", "encryption_key": "00".repeat(16),
                    "authentication_key": "00".repeat(16), "current_max_ma": 60_000,
                    "voltage_nominal_mv": 230_000, "phases": 1, "register_digits": 6,
                    "period_s": 900,
                });
                let made = shop.tell("POST", "/v1/meters", &meter).await?;
                let meter = made["id"].as_u64().ok_or("a meter has an id")?;
                let account = ACCOUNTS + meter;
                let installation = json!({
                    "meter": meter, "account": account, "at": "2026-01-01T00:00:00Z", "start_wh": 0,
                });
                shop.tell("POST", "/v1/installations", &installation).await?;
                let drn = sts::Drn::with_check_digit(&format!("07{meter:08}"))?;
                let settings = json!({
                    "number": drn.digits(), "ea": 7,
                    "key": {"sgc": 201_457, "kt": 2, "krn": 1, "ti": 1},
                });
                let path = format!("/v1/meters/{meter}/token-settings");
                shop.tell("PUT", &path, &settings).await?;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Every connection buys as fast as it is answered; returns the purchases, and the seconds.
async fn full_speed(
    shop: &Shop,
    first: u64,
    tag: &str,
    seconds: u64,
) -> Result<(f64, f64), Failure> {
    let (start, count) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let end = start + Duration::from_secs(seconds);
    let mut tasks = JoinSet::new();
    for lane in 0..CONNECTIONS {
        let (shop, count, tag) = (shop.clone(), Arc::clone(&count), tag.to_owned());
        tasks.spawn(async move {
            let mut connection = shop.connect().await?;
            let mut turn = 0;
            while Instant::now() < end {
                let account = first + (lane + turn * CONNECTIONS) % ACCOUNTS;
                let path = format!("/v1/accounts/{account}/purchases");
                let key = format!("{tag}-{lane}-{turn}");
                shop.call(&mut connection, ("POST", &path, &key), BODY).await?;
                count.fetch_add(1, Ordering::Relaxed);
                turn += 1;
            }
            Ok::<(), Failure>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok((count.load(Ordering::Relaxed) as f64, start.elapsed().as_secs_f64()))
}

/// Buys at a rate and measures from when each purchase was to begin.
async fn at_rate(shop: &Shop, rate: f64, seconds: u64) -> Result<(Duration, Duration), Failure> {
    let pause = Duration::from_secs_f64(CONNECTIONS as f64 / rate.max(1.0));
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for lane in 0..CONNECTIONS {
        let shop = shop.clone();
        tasks.spawn(async move {
            let mut taken = Histogram::<u64>::new(3)?;
            let mut connection = shop.connect().await?;
            let lag = pause.mul_f64(lane as f64 / CONNECTIONS as f64);
            for turn in 0_u32.. {
                let due = start + lag + pause * turn;
                if due.duration_since(start) > Duration::from_secs(seconds) {
                    break;
                }
                tokio::time::sleep_until(due.into()).await;
                let account = 1 + (lane + u64::from(turn) * CONNECTIONS) % ACCOUNTS;
                let path = format!("/v1/accounts/{account}/purchases");
                let key = format!("paced-{lane}-{turn}");
                shop.call(&mut connection, ("POST", &path, &key), BODY).await?;
                taken.record(u64::try_from(due.elapsed().as_micros())?.max(1))?;
            }
            Ok::<_, Failure>(taken)
        });
    }
    let mut all = Histogram::<u64>::new(3)?;
    while let Some(done) = tasks.join_next().await {
        all.add(&done??)?;
    }
    let at = |quantile| Duration::from_micros(all.value_at_quantile(quantile));
    Ok((at(0.5), at(0.99)))
}

const BODY: &str = r#"{"amount":"20.00"}"#;
