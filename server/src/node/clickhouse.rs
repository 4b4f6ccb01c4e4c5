//! ClickHouse, embedded or a server: starting the engine, opening the sink, keeping it pumping,
//! and giving history to whoever asks, once it is there.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use storage::clickhouse::{
    ClickhouseConfig, ClickhouseError, History, Retention, Sink, SinkStatus,
};
use storage::engine::{EngineConfig, EngineLimits, Supervisor, SupervisorConfig, locate_library};
use storage::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{error, warn};

use super::{dimensions, open, secrets};
use crate::config::{Engine, Settings};
use crate::days;
use crate::sink::{self, Pump};

/// Delay before a batch is sent again, first and at most.
const RETRY_MS: (u64, u64) = (100, 10_000);
/// How long one request may take.
const REQUEST_S_MAX: u32 = 300;
/// Months past their retention are dropped this often.
const RETAIN_EVERY: Duration = Duration::from_secs(24 * 3600);
/// The note of the sink's last failure, in the data folder.
pub(crate) const LAST_ERROR: &str = "clickhouse-error";
/// How long the embedded engine may take to start, also with a cold 566 MB library.
const ENGINE_READY_S_MAX: u32 = 60;

/// Starts the embedded engine, if the settings want it.
pub(crate) fn start_engine(settings: &Settings) -> anyhow::Result<Option<Supervisor>> {
    let clickhouse = &settings.clickhouse;
    if clickhouse.engine == Engine::Server {
        return Ok(None);
    }
    let given = Some(clickhouse.library.as_path()).filter(|path| !path.as_os_str().is_empty());
    let library = locate_library(given, ".meterd/lib".as_ref())?;
    let (writer, reader) = secrets::credentials(&settings.node.data_dir)
        .context("cannot keep the embedded engine's passwords in the data folder")?;
    let engine = EngineConfig {
        library,
        folder: open::within(settings, "engine"),
        listen: clickhouse.listen,
        writer,
        reader,
        limits: EngineLimits::SMALL,
    };
    Ok(Some(Supervisor::start(SupervisorConfig {
        program: std::env::current_exe().context("cannot find this program's own file")?,
        arguments: vec!["engine".into()],
        engine,
        restart_delay_ms_min: 100,
        restart_delay_ms_max: 10_000,
        ready_s_max: ENGINE_READY_S_MAX,
    })))
}

/// Where the sink writes.
pub(crate) fn target(settings: &Settings) -> anyhow::Result<ClickhouseConfig> {
    let clickhouse = &settings.clickhouse;
    let (url, user, password) = match clickhouse.engine {
        Engine::Embedded => {
            let (writer, _) = secrets::credentials(&settings.node.data_dir)?;
            let url = format!("http://{}", clickhouse.listen);
            (url, writer.user.clone(), writer.password.clone())
        }
        Engine::Server => {
            let password = match clickhouse.password_file.as_os_str().is_empty() {
                true => String::new(),
                false => std::fs::read_to_string(&clickhouse.password_file).with_context(|| {
                    format!("cannot read {}", clickhouse.password_file.display())
                })?,
            };
            (clickhouse.url.clone(), clickhouse.user.clone(), password.trim().to_owned())
        }
    };
    Ok(ClickhouseConfig {
        url,
        user,
        password,
        database: clickhouse.database.clone(),
        zone: clickhouse.zone.clone(),
        retention: Retention {
            readings: clickhouse.keep_readings_months,
            intervals: clickhouse.keep_intervals_months,
            ledger: clickhouse.keep_ledger_months,
            alarms: clickhouse.keep_alarms_months,
            gaps: clickhouse.keep_gaps_months,
            line_loss: clickhouse.keep_line_loss_months,
            days: clickhouse.keep_days_months,
        },
        retry_delay_ms_min: RETRY_MS.0,
        retry_delay_ms_max: RETRY_MS.1,
        request_s_max: REQUEST_S_MAX,
    })
}

pub(super) fn pump_config(settings: &Settings) -> sink::Config {
    sink::Config {
        rows_max: settings.clickhouse.block_rows_max as usize,
        age_max: Duration::from_millis(u64::from(settings.clickhouse.block_age_ms_max)),
    }
}

/// The sink once it is open.
#[derive(Clone, Debug)]
pub(super) struct Opening(watch::Receiver<Option<Sink>>);

impl Opening {
    /// History, if ClickHouse has been reached.
    pub(super) fn history(&self) -> Option<History> {
        self.0.borrow().as_ref().map(Sink::history)
    }

    /// Waits for history; `None` when the sink ended before.
    pub(super) async fn wait(mut self) -> Option<History> {
        let sink = self.0.wait_for(Option::is_some).await.ok()?;
        sink.as_ref().map(Sink::history)
    }

    /// What the sink has done, if ClickHouse has been reached.
    pub(super) fn status(&self) -> Option<SinkStatus> {
        self.0.borrow().as_ref().map(|sink| sink.status().borrow().clone())
    }
}

/// The sink's task.
pub(super) struct SinkTask {
    /// Where ClickHouse is.
    pub(super) url: String,
    opening: Opening,
    task: JoinHandle<()>,
}

impl SinkTask {
    /// Opens the sink, however long that takes, then pumps until `stop`. Only what trying again
    /// cannot cure stops the node.
    ///
    /// # Errors
    /// The passwords cannot be read.
    pub(super) fn spawn(
        settings: &Settings,
        pump: Pump,
        registry: &Arc<Registry>,
        mut stop: watch::Receiver<bool>,
        fail: mpsc::UnboundedSender<anyhow::Error>,
    ) -> anyhow::Result<Self> {
        let (target, registry) = (target(settings)?, Arc::clone(registry));
        let progress = pump.progress();
        let every = Duration::from_secs(u64::from(settings.clickhouse.refresh_days_s));
        let url = target.url.clone();
        let (opened, opening) = watch::channel(None);
        let note = open::within(settings, LAST_ERROR);
        let clock = settings.clock().source();
        let task = tokio::spawn(async move {
            let sink = match open(target, &note, &mut stop).await {
                Ok(sink) => sink,
                Err(ClickhouseError::Stopped) => return,
                Err(error) => {
                    // The node may be stopping already.
                    fail.send(anyhow!(error).context("ClickHouse cannot be used")).ok();
                    return;
                }
            };
            opened.send_replace(Some(sink.clone()));
            let dimensions = dimensions::run(registry, sink.clone(), clock, stop.clone());
            let failures = note_failures(sink.status(), &note, stop.clone());
            let retention = retain(&sink, stop.clone());
            let days = days::keep(&sink, &progress, every, stop.clone());
            let pumping = pump.run(sink.clone(), stop);
            let (pumped, (), (), (), ()) =
                tokio::join!(pumping, dimensions, failures, retention, days);
            if let Err(error) = pumped {
                error!(%error, "rows no longer go to ClickHouse; they stay in the spool");
                fail.send(anyhow!(error).context("the sink stopped")).ok();
            }
        });
        Ok(Self { url, opening: Opening(opening), task })
    }

    pub(super) fn opening(&self) -> Opening {
        self.opening.clone()
    }

    /// Waits for the end; `stop` must have been given before.
    pub(super) async fn stop(self) {
        if let Err(error) = self.task.await {
            error!(%error, "the sink's task broke");
        }
    }
}

/// Opens the sink, noting why it cannot be had yet.
async fn open(
    target: ClickhouseConfig,
    note: &Path,
    stop: &mut watch::Receiver<bool>,
) -> Result<Sink, ClickhouseError> {
    match Sink::open(target.clone()).await {
        Err(error) => {
            write_note(note, &error.to_string());
            if error.is_transient() { Sink::open_patiently(target, stop).await } else { Err(error) }
        }
        opened => opened,
    }
}

/// Writes down each new failure of the sink, until `stop`.
async fn note_failures(
    mut status: watch::Receiver<SinkStatus>,
    note: &Path,
    mut stop: watch::Receiver<bool>,
) {
    let mut last = None;
    loop {
        let error = status.borrow_and_update().error.clone();
        if let Some(error) = &error
            && last.as_ref() != Some(error)
        {
            write_note(note, error);
        }
        last = error;
        tokio::select! {
            changed = status.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn write_note(path: &Path, error: &str) {
    let line = format!("{} {}\n", crate::clock::unix_ms() / 1000, error.replace('\n', " "));
    if let Err(error) = std::fs::write(path, line) {
        warn!(%error, "the note of the last failure cannot be written");
    }
}

/// Drops what is past its retention, once a day, until `stop`; opening the sink did so before.
async fn retain(sink: &Sink, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(RETAIN_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = sink.retain().await {
            warn!(%error, "what is past its retention is not dropped; it is tried again tomorrow");
        }
    }
}
