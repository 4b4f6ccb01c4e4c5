//! The `meterd` command: parse, run, and say how it ended.
//!
//! Exit codes: 0 ended as asked · 1 failed · 2 usage or settings · 3 a check failed · 4 in use.

use std::process::ExitCode;

use clap::Parser;
use server::cli::{Cli, Command};
use server::{
    backup, decode, demo, explain, logs, node, prove, simulate, storage_cli, sts, vend, verify,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_tracing();
    let result = match cli.command {
        Command::Serve(options) => node::serve(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::FaultProxy(options) => simulate::run_proxy(&options),
        Command::Decode(options) => decode::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Log(command) => logs::run(&command),
        Command::Sts(command) => sts::run(&command),
        Command::Vend(args) => vend::run(&args),
        Command::Storage(command) => storage_cli::run(&command),
        Command::Verify(options) => verify::run(&options),
        Command::Prove(options) => prove::run(&options),
        Command::Backup(options) => backup::run(&options),
        Command::Restore(options) => backup::restore(&options),
        Command::CheckConfig { file } => node::check_config(&file),
        Command::Engine => return engine(),
    };
    result.unwrap_or_else(|error| {
        // The chain of causes, each once: what, where, why.
        let mut text = error.to_string();
        for cause in error.chain().skip(1).map(ToString::to_string) {
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        complain(&text);
        server::exit_code(&error)
    })
}

/// The child process over libchdb. It never returns once the engine runs.
fn engine() -> ExitCode {
    match storage::engine::run_child() {
        Ok(never) => match never {},
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

#[expect(clippy::print_stderr, reason = "the command line's own voice")]
fn complain(text: &str) {
    eprintln!("meterd: {text}");
}

fn start_tracing() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::env::var("METERD_LOG").is_ok_and(|format| format == "json") {
        lines.json().init();
    } else {
        lines.with_target(false).init();
    }
}
