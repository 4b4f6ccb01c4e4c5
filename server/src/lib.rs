//! The node: settings, clock, wiring, shutdown, and the command line of `meterd`.
//!
//! This is the one crate that knows all the others. **Invariant:** no rule of energy or money
//! lives here, and nobody but [`clock`] reads a clock. Read [`node`] first, then [`books`].

#![forbid(unsafe_code)]

pub mod cli;
pub mod clock;
pub mod config;

pub mod node;

pub mod archive;
pub mod backup;
pub mod books;
pub mod commands;
pub mod cursor;
pub mod days;
pub mod journal;
pub mod orders;
pub mod ports;
pub mod recall;
pub mod relay;
pub mod sink;
pub mod spool;
pub mod ticks;
pub mod views;
pub mod watchdog;

pub mod decode;
pub mod demo;
pub mod explain;
pub mod http;
pub mod logs;
pub mod prove;
pub mod simulate;
pub mod storage_cli;
pub mod sts;
pub mod vend;
pub mod verify;

use std::process::ExitCode;

use config::ConfigError;
use storage::log;

/// The exit code of a failure.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_in_use = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<log::Error>(), Some(log::Error::Locked { .. }))
    };
    if error.chain().any(is_in_use) {
        ExitCode::from(4)
    } else if error.is::<ConfigError>() {
        ExitCode::from(2)
    } else {
        ExitCode::FAILURE
    }
}
