//! The node under test: one of the simulation's own, or one that runs somewhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use loadgen::World;
use loadgen::driver::Clocks;
use loadgen::feeder::GatewayRow;
use loadgen::fleet::{Fleet, Ways, plan_code, tariff_versions};
use meter::UnixSeconds;
use serde_json::json;

use super::{Simulate, first, say};
use crate::clock::{self, Clock, Virtual};
use crate::demo::client::{Api, Sql};
use crate::demo::place::{self, Addresses};
use crate::demo::process::NodeProcess;
use crate::demo::setup;
use crate::http::{Call, HttpError, send};

/// What a restart on the running clock may take, and more of it for each so many meters.
const RESTART: Duration = Duration::from_secs(5);
const RESTART_METERS: u32 = 20_000;
/// A time of the machine that does not come.
const NEVER_MS: u64 = 1 << 52;
/// Changes of the registry under way at a time.
pub(super) const AT_ONCE: usize = 16;
/// The password file of the embedded engine's reader, in the node's data folder.
const ANALYST: (&str, &str) = ("analyst", "clickhouse-analyst.password");

/// The node under test.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) ways: Ways,
    pub(super) api: Api,
    pub(super) sql: Option<Sql>,
    pub(super) clock: Clock,
    /// The node, when it is the simulation's own.
    pub(super) own: Option<Own>,
}

/// A node of the simulation's own.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) node: NodeProcess,
    pub(super) folder: PathBuf,
    addresses: Addresses,
}

impl Target {
    /// Starts a node, or finds the one that was named.
    ///
    /// # Errors
    /// It does not start, or its files cannot be read.
    pub(super) async fn open(options: &Simulate) -> anyhow::Result<Self> {
        let other = &options.other;
        let Some(node) = other.node else { return Self::start(options).await };
        let (api, token) = other.api.zip(other.token_file.as_ref()).context("--api is missing")?;
        let token = read(token)?;
        let sql = match (other.clickhouse, &other.clickhouse_password_file) {
            (Some(address), file) => Some(Sql {
                address,
                user: other.clickhouse_user.clone(),
                password: file.as_deref().map(read).transpose()?.unwrap_or_default(),
                database: "meterd".to_owned(),
            }),
            (None, _) => None,
        };
        let ways = Ways { udp: node, tcp: node };
        Ok(Self { ways, api: Api { address: api, token }, sql, clock: Clock::System, own: None })
    }

    /// A node whose clock stands at the first stamp until the fleet is registered.
    async fn start(options: &Simulate) -> anyhow::Result<Self> {
        let folder = std::path::absolute(&options.data_dir)?;
        place::prepare(&folder)?;
        let addresses = Addresses::any()?;
        let start = first(options);
        let still = Virtual { start, anchor_ms: NEVER_MS, pace: 1, end: start };
        let settings = write_settings(&folder, addresses, still)?;
        say(&format!("a node starts in {}", folder.display()));
        let node = NodeProcess::start(&settings, addresses.api).await?;
        let api = Api { address: addresses.api, token: node.token()? };
        let (user, file) = ANALYST;
        let sql = Sql {
            address: addresses.clickhouse,
            user: user.to_owned(),
            password: read(&folder.join("data").join(file))?,
            database: "meterd".to_owned(),
        };
        let ways = Ways { udp: addresses.meters, tcp: addresses.meters };
        let own = Some(Own { node, folder, addresses });
        Ok(Self { ways, api, sql: Some(sql), clock: Clock::Virtual(still), own })
    }

    /// Registers plans, gateways, meters and accounts; how long it took.
    ///
    /// # Errors
    /// What the API refused. What is there already is left as it is, but for meters: their import
    /// takes all rows or none.
    pub(super) async fn register(&self, fleet: &Fleet, world: &World) -> anyhow::Result<Duration> {
        let began = clock::instant();
        for plan in fleet.plans() {
            let code = plan_code(plan);
            let body = json!({ "code": code, "name": code, "currency": "CNY" });
            let Some(made) = unless_there(self.api.post("/v1/plans", &body).await)? else {
                continue;
            };
            for version in &tariff_versions(plan, fleet.earliest()) {
                let path = format!("/v1/plans/{}/versions", made["id"]);
                self.api.post(&path, &setup::version(version)).await?;
            }
        }
        let mut gateways = tokio::task::JoinSet::new();
        for row in fleet.gateway_rows() {
            if gateways.len() >= AT_ONCE {
                gateways.join_next().await.transpose()?.transpose()?;
            }
            let api = self.api.clone();
            gateways.spawn(async move { add_gateway(&api, &row).await });
        }
        while let Some(added) = gateways.join_next().await {
            added??;
        }
        for csv in fleet.import_files(world) {
            self.api.post_as("/v1/imports/meters", "text/csv", csv).await?;
        }
        Ok(began.elapsed())
    }

    /// Lets the clock of an own node run; it starts again for that.
    ///
    /// # Errors
    /// It does not stop or start.
    pub(super) async fn begin(&mut self, fleet: &Fleet, options: &Simulate) -> anyhow::Result<()> {
        let Some(own) = self.own.take() else { return Ok(()) };
        let Own { node, folder, addresses } = own;
        node.stop().await?;
        let patience = RESTART + Duration::from_secs(1) * (fleet.spec().meters / RESTART_METERS);
        let patience = u64::try_from(patience.as_millis()).unwrap_or_default();
        let running = Virtual {
            start: fleet.span().first,
            anchor_ms: clock::unix_ms() + patience,
            pace: options.pace,
            end: fleet.end(),
        };
        let settings = write_settings(&folder, addresses, running)?;
        let began = clock::instant();
        let node = NodeProcess::start(&settings, addresses.api).await?;
        say(&format!("ready again after {:.1} s; the clock runs", began.elapsed().as_secs_f64()));
        self.clock = Clock::Virtual(running);
        self.own = Some(Own { node, folder, addresses });
        Ok(())
    }

    /// The clocks for the devices.
    pub(super) fn clocks(&self) -> Clocks {
        let (clock, began) = (self.clock, clock::instant());
        Clocks {
            time_ms: Arc::new(move || clock.now_ms()),
            wall: Arc::new(move || began.elapsed()),
        }
    }

    /// How long until the first reading is due.
    pub(super) fn lead(&self, first: UnixSeconds) -> Duration {
        match self.clock {
            Clock::System => Duration::from_secs(u64::from(first.since(self.clock.now()))),
            Clock::Virtual(time) => {
                Duration::from_millis(time.anchor_ms.saturating_sub(clock::unix_ms()))
            }
        }
    }

    /// The node's metrics as text.
    ///
    /// # Errors
    /// The node does not answer.
    pub(super) async fn metrics(&self) -> Result<String, HttpError> {
        let bearer = format!("Bearer {}", self.api.token);
        let headers = [("authorization", bearer.as_str())];
        let call = Call { method: "GET", path: "/metrics", headers: &headers, body: Vec::new() };
        let answer = send(self.api.address, call).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Stops the own node.
    ///
    /// # Errors
    /// It did not stop cleanly.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.own {
            Some(own) => own.node.stop().await,
            None => Ok(()),
        }
    }
}

async fn add_gateway(api: &Api, row: &GatewayRow) -> Result<(), HttpError> {
    let body = json!({
        "system_title": row.system_title,
        "name": row.name,
        "template": row.template,
        "encryption_key": row.encryption_key,
        "authentication_key": row.authentication_key,
    });
    unless_there(api.post("/v1/gateways", &body).await).map(drop)
}

/// What was made; `None` when it is there already.
fn unless_there<T>(made: Result<T, HttpError>) -> Result<Option<T>, HttpError> {
    match made {
        Ok(made) => Ok(Some(made)),
        Err(HttpError::Status { status: 409, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(text?.trim().to_owned())
}

/// Writes the own node's settings. All virtual devices share an address, so hostile frames must
/// not shut the honest ones out.
fn write_settings(folder: &Path, addresses: Addresses, clock: Virtual) -> anyhow::Result<PathBuf> {
    let path = folder.join("simulate.toml");
    let data = toml::Value::String(folder.join("data").display().to_string());
    let Addresses { api, clickhouse, meters } = addresses;
    let Virtual { start, anchor_ms, pace, end } = clock;
    let settings = format!(
        "# Written by `meterd simulate`: a node on virtual time.\n\
         [node]\ndata_dir = {data}\ntick_ms = 50\n\
         [ingest]\nudp_listen = \"{meters}\"\ntcp_listen = \"{meters}\"\n\
         failures_per_minute_max = 4000000000\n\
         [clickhouse]\nlisten = \"{clickhouse}\"\nblock_age_ms_max = 300\n\
         [api]\nlisten = \"{api}\"\n\
         [clock]\nsource = \"virtual\"\nstart = {}\nanchor_ms = {anchor_ms}\npace = {pace}\nend = {}\n",
        start.0, end.0
    );
    fs::write(&path, settings).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}
