//! `meterd storage`: looking after ClickHouse, while the node runs or not.

mod rebuild;
mod status;

use std::process::ExitCode;

use anyhow::Context;
use storage::clickhouse::{ClickhouseError, Sink};
use storage::engine::Supervisor;

use crate::cli::StorageCommand;
use crate::config::Settings;
use crate::node::clickhouse;

/// Runs `meterd storage status` or `meterd storage rebuild`.
///
/// # Errors
/// The settings, the data folder or ClickHouse cannot be used.
pub fn run(command: &StorageCommand) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    match command {
        StorageCommand::Status { config, json } => {
            let settings = Settings::load(config.as_deref())?;
            runtime.block_on(status::run(&settings, *json))
        }
        StorageCommand::Rebuild { config } => {
            let settings = Settings::load(config.as_deref())?;
            runtime.block_on(rebuild::run(&settings))
        }
    }
}

/// The ClickHouse of the settings. An embedded engine that no node runs is started for as long as
/// the answer takes.
struct Reached {
    sink: Sink,
    engine: Option<Supervisor>,
}

impl Reached {
    async fn open(settings: &Settings) -> anyhow::Result<Self> {
        let target = clickhouse::target(settings)?;
        let unreachable = match Sink::connect(target.clone()).await {
            Ok(sink) => return Ok(Self { sink, engine: None }),
            Err(error @ ClickhouseError::Unreachable { .. }) => error,
            Err(error) => return Err(error.into()),
        };
        let Some(engine) = clickhouse::start_engine(settings)? else {
            return Err(unreachable.into());
        };
        engine.ready().await.context("no node runs the embedded engine, and it does not start")?;
        Ok(Self { sink: Sink::connect(target).await?, engine: Some(engine) })
    }

    async fn close(self) {
        if let Some(engine) = self.engine {
            engine.stop().await;
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command line's own voice")]
fn say(text: &str) {
    println!("{text}");
}
