//! The settings' file: its shape, its defaults, and errors that say where and how to mend.
//!
//! The defaults are `deploy/meterd.toml`, compiled in; a file of the operator's overrides it key
//! by key, the environment (`METERD__SECTION__KEY`) overrides both. A key that the defaults do not
//! have is a typo: it is refused with its line, its column and the nearest name.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use meter::UnixSeconds;
use serde::Deserialize;
use storage::archive::{BucketError, Location};
use thiserror::Error;
use toml::de::DeTable;
use toml::{Table, Value};

use crate::clock::{Clock, Virtual};

/// The defaults, also shipped as a commented file.
pub const DEFAULTS: &str = include_str!("../../deploy/meterd.toml");

/// Prefix of environment variables that override settings.
const PREFIX: &str = "METERD__";

/// Why settings are refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file does not open.
    #[error("{path}: cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The text is not TOML.
    #[error("{origin}:{line}:{column}: {message}")]
    Syntax {
        /// File or environment.
        origin: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// What the reader said.
        message: String,
    },
    /// A name that no setting has.
    #[error("{origin}:{line}:{column}: no setting {name:?}{hint}")]
    Unknown {
        /// File or environment.
        origin: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The name, with its section.
        name: String,
        /// The nearest name, as a sentence.
        hint: String,
    },
    /// A value of the wrong kind or out of range.
    #[error("{origin}: {message}")]
    Value {
        /// File or environment.
        origin: String,
        /// What and what instead.
        message: String,
    },
}

/// All settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The node.
    pub node: Node,
    /// Sockets of meters and gateways.
    pub ingest: Ingest,
    /// The durable log.
    pub log: Log,
    /// Old segments of the log.
    pub archive: Archive,
    /// The dataflow.
    pub books: Books,
    /// Where rows go.
    pub clickhouse: ClickHouse,
    /// The Web API.
    pub api: Api,
    /// The clock.
    pub clock: ClockSettings,
}

/// Section `[node]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Where everything of this node lives.
    pub data_dir: PathBuf,
    /// Milliseconds between ticks.
    pub tick_ms: u64,
    /// Entries between snapshots.
    pub snapshot_entries: u64,
    /// Seconds between snapshots.
    pub snapshot_s: u64,
}

/// Section `[ingest]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingest {
    /// UDP address.
    pub udp_listen: SocketAddr,
    /// TCP address.
    pub tcp_listen: SocketAddr,
    /// Event loops, 0 for automatic.
    pub shards: u16,
    /// Open connections.
    pub connections_max: u32,
    /// Bytes of a frame.
    pub frame_bytes_max: u32,
    /// Entries of a batch.
    pub entries_max: u32,
    /// Milliseconds a batch may wait.
    pub age_ms_max: u32,
    /// Kernel receive buffer.
    pub receive_buffer_bytes: u32,
    /// Seconds to the first authenticated frame.
    pub hello_s: u32,
    /// Seconds a partial frame may take.
    pub partial_frame_s: u32,
    /// Seconds a connection may be silent.
    pub idle_s: u32,
    /// Failed authentications per source and minute.
    pub failures_per_minute_max: u32,
    /// 16 hex digits.
    pub system_title: String,
}

/// Section `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes kept for purchases when the disk is full.
    pub reserve_bytes: u64,
    /// Entries of a commit.
    pub commit_entries_max: u32,
    /// Bytes of a commit.
    pub commit_bytes_max: u32,
}

/// Section `[archive]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Where ended segments of the log are copied: a folder, relative to the data folder or
    /// absolute, or `s3://bucket/prefix`; empty for nowhere.
    pub store: String,
    /// Address of an S3-compatible store; empty for Amazon's.
    pub endpoint: String,
    /// The bucket's region; empty for that of the environment.
    pub region: String,
    /// Segments kept there, 0 for all.
    pub segments_max: u32,
}

/// Section `[books]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Books {
    /// Worker threads, 0 for automatic.
    pub workers: u16,
    /// Seconds that one batch may take before the process ends.
    pub stuck_s_max: u32,
}

/// Which ClickHouse.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// The child process over libchdb.
    Embedded,
    /// A server by URL.
    Server,
}

/// Section `[clickhouse]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouse {
    /// Which.
    pub engine: Engine,
    /// Address of the embedded engine.
    pub listen: SocketAddr,
    /// libchdb.so, empty for the usual places.
    pub library: PathBuf,
    /// Server.
    pub url: String,
    /// User at the server.
    pub user: String,
    /// File with the password.
    pub password_file: PathBuf,
    /// Database.
    pub database: String,
    /// IANA zone of the tables of days.
    pub zone: String,
    /// Months that readings are kept, 0 for ever.
    pub keep_readings_months: u32,
    /// Months that 15-minute rows are kept, 0 for ever.
    pub keep_intervals_months: u32,
    /// Months that movements of accounts are kept, 0 for ever.
    pub keep_ledger_months: u32,
    /// Months that alarms are kept, 0 for ever.
    pub keep_alarms_months: u32,
    /// Months that gaps are kept, 0 for ever.
    pub keep_gaps_months: u32,
    /// Months that line losses are kept, 0 for ever.
    pub keep_line_loss_months: u32,
    /// Months that the tables of days are kept, 0 for ever.
    pub keep_days_months: u32,
    /// Seconds between two refreshes of the tables of days, at least.
    pub refresh_days_s: u32,
    /// Rows of a block.
    pub block_rows_max: u32,
    /// Milliseconds a block may wait.
    pub block_age_ms_max: u32,
}

/// Section `[api]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Api {
    /// Address.
    pub listen: SocketAddr,
    /// Open connections.
    pub connections_max: u32,
    /// Seconds for the headers.
    pub header_timeout_s: u32,
    /// Bytes of a body.
    pub body_bytes_max: u32,
    /// Bytes of an import.
    pub import_bytes_max: u32,
}

/// Which clock.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum ClockSource {
    /// The machine's.
    System,
    /// See [`Virtual`].
    Virtual,
}

/// Section `[clock]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockSettings {
    /// Which.
    pub source: ClockSource,
    /// See [`Virtual`].
    pub start: u32,
    /// See [`Virtual`].
    pub anchor_ms: u64,
    /// See [`Virtual`].
    pub pace: u32,
    /// See [`Virtual`].
    pub end: u32,
}

impl Settings {
    /// Reads the defaults, then `file` if given, then the environment.
    ///
    /// # Errors
    /// [`ConfigError`] with place and remedy; nothing is half applied.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let text = match file {
            None => String::new(),
            Some(path) => fs::read_to_string(path)
                .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?,
        };
        let origin = file.map_or_else(|| "settings".to_owned(), |path| path.display().to_string());
        Self::from_parts(&text, &origin, std::env::vars())
    }

    /// Reads settings from a text and pairs of environment variables.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_parts(
        text: &str,
        origin: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut merged: Table = DEFAULTS.parse().expect("the shipped settings are TOML");
        check_names(text, origin, &merged)?;
        let given: Table = text.parse().map_err(|error| syntax(text, origin, &error))?;
        for (section, values) in given {
            let target = merged.get_mut(&section).and_then(Value::as_table_mut);
            if let (Some(target), Value::Table(values)) = (target, values) {
                target.extend(values);
            }
        }
        for (name, value) in environment {
            if let Some(path) = name.strip_prefix(PREFIX) {
                override_by_environment(&mut merged, &name, path, &value)?;
            }
        }
        let settings: Self =
            Value::Table(merged).try_into().map_err(|error: toml::de::Error| {
                ConfigError::Value { origin: origin.to_owned(), message: error.to_string() }
            })?;
        settings.check_ranges(origin)?;
        Ok(settings)
    }

    /// The clock that the settings name.
    #[must_use]
    pub fn clock(&self) -> Clock {
        match self.clock.source {
            ClockSource::System => Clock::System,
            ClockSource::Virtual => Clock::Virtual(Virtual {
                start: UnixSeconds(self.clock.start),
                anchor_ms: self.clock.anchor_ms,
                pace: self.clock.pace,
                end: UnixSeconds(self.clock.end),
            }),
        }
    }

    fn check_ranges(&self, origin: &str) -> Result<(), ConfigError> {
        let title = &self.ingest.system_title;
        let rules = [
            (self.node.tick_ms >= 10, "node.tick_ms must be at least 10"),
            (self.ingest.frame_bytes_max >= 256, "ingest.frame_bytes_max must be at least 256"),
            (self.ingest.entries_max >= 1, "ingest.entries_max must be at least 1"),
            (
                title.len() == 16 && title.bytes().all(|byte| byte.is_ascii_hexdigit()),
                "ingest.system_title must be 16 hex digits",
            ),
            (
                self.log.segment_bytes >= 1 << 20 && self.log.segment_bytes.is_multiple_of(4096),
                "log.segment_bytes must be at least 1048576 and a multiple of 4096",
            ),
            (
                (1..=1_000_000).contains(&self.clickhouse.block_rows_max),
                "clickhouse.block_rows_max must be between 1 and 1000000",
            ),
            (self.books.stuck_s_max >= 1, "books.stuck_s_max must be at least 1"),
            (self.clock.pace >= 1, "clock.pace must be at least 1"),
        ];
        let wrong = |message: String| ConfigError::Value { origin: origin.to_owned(), message };
        if let Some((_, message)) = rules.iter().find(|(holds, _)| !holds) {
            return Err(wrong((*message).to_owned()));
        }
        let archive = self.archive.location();
        archive.map(|_| ()).map_err(|error| wrong(format!("archive: {error}")))
    }
}

impl Archive {
    /// The bucket that the archive lies in, `None` when it is a folder or nowhere.
    ///
    /// # Errors
    /// The place or the endpoint cannot be used.
    pub fn location(&self) -> Result<Option<Location>, BucketError> {
        if !self.store.contains("://") {
            return Ok(None);
        }
        Location::parse(&self.store, &self.endpoint, &self.region).map(Some)
    }
}

/// Refuses sections and keys that the defaults do not have.
fn check_names(text: &str, origin: &str, known: &Table) -> Result<(), ConfigError> {
    let document = DeTable::parse(text).map_err(|error| syntax(text, origin, &error))?;
    for (section, values) in document.get_ref() {
        let unknown = |name: String, span: std::ops::Range<usize>, names: &Table, word: &str| {
            let (line, column) = place(text, span.start);
            let hint = nearest(word, names);
            ConfigError::Unknown { origin: origin.to_owned(), line, column, name, hint }
        };
        let name = section.get_ref().as_ref();
        let Some(Value::Table(keys)) = known.get(name) else {
            return Err(unknown(name.to_owned(), section.span(), known, name));
        };
        for key in values.get_ref().as_table().into_iter().flat_map(|table| table.keys()) {
            let word = key.get_ref().as_ref();
            if !keys.contains_key(word) {
                return Err(unknown(format!("{name}.{word}"), key.span(), keys, word));
            }
        }
    }
    Ok(())
}

/// Sets `SECTION__KEY` to a value: TOML where it reads as such, else text.
fn override_by_environment(
    merged: &mut Table,
    variable: &str,
    path: &str,
    value: &str,
) -> Result<(), ConfigError> {
    let lower = path.to_ascii_lowercase();
    let (section, key) = lower.split_once("__").unwrap_or((lower.as_str(), ""));
    let Some(table) = merged.get_mut(section).and_then(Value::as_table_mut) else {
        let hint = nearest(section, merged);
        return Err(unknown_variable(variable, section.to_owned(), hint));
    };
    let Some(slot) = table.get(key) else {
        let hint = nearest(key, table);
        return Err(unknown_variable(variable, format!("{section}.{key}"), hint));
    };
    let parsed = if slot.is_str() {
        Value::String(value.to_owned())
    } else {
        value.parse().map_err(|_| ConfigError::Value {
            origin: variable.to_owned(),
            message: format!("{value:?} is not a {}", slot.type_str()),
        })?
    };
    table.insert(key.to_owned(), parsed);
    Ok(())
}

fn unknown_variable(variable: &str, name: String, hint: String) -> ConfigError {
    ConfigError::Unknown { origin: variable.to_owned(), line: 1, column: 1, name, hint }
}

fn syntax(text: &str, origin: &str, error: &toml::de::Error) -> ConfigError {
    let (line, column) = place(text, error.span().map_or(0, |span| span.start));
    let message = error.message().to_owned();
    ConfigError::Syntax { origin: origin.to_owned(), line, column, message }
}

/// Line and column, from 1, of a byte offset.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.bytes().filter(|&byte| byte == b'\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
    (line, column)
}

/// "; did you mean …?" when some known name is near.
fn nearest(word: &str, known: &Table) -> String {
    let near = known
        .keys()
        .map(|name| (strsim::osa_distance(word, name), name))
        .min()
        .filter(|(distance, name)| *distance <= 2.max(name.len() / 3));
    near.map_or_else(String::new, |(_, name)| format!("; did you mean {name:?}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::from_parts(text, "meterd.toml", environment).map_err(|error| error.to_string())
    }

    fn refused(text: &str, want: &str) {
        assert_eq!(load(text, &[]).map(|_| ()).unwrap_err(), want, "text={text:?}");
    }

    #[test]
    fn the_shipped_file_is_complete() {
        let settings = load("", &[]).unwrap();
        assert_eq!(settings.clock(), Clock::System);
    }

    #[test]
    fn a_file_and_the_environment_override() {
        let environment = [
            ("METERD__API__LISTEN", "127.0.0.1:9"),
            ("METERD__NODE__TICK_MS", "50"),
            ("PATH", "x"),
        ];
        let settings = load("[node]\ntick_ms = 20\n", &environment).unwrap();
        assert_eq!(settings.node.tick_ms, 50);
        assert_eq!(settings.api.listen.port(), 9);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        refused(
            "[node]\ntik_ms = 20\n",
            r#"meterd.toml:2:1: no setting "node.tik_ms"; did you mean "tick_ms"?"#,
        );
        refused("\n[ingets]\n", r#"meterd.toml:2:2: no setting "ingets"; did you mean "ingest"?"#);
        refused("[log]\nxylophone = 1", r#"meterd.toml:2:1: no setting "log.xylophone""#);
        refused("[clock]\npace = 0", "meterd.toml: clock.pace must be at least 1");
        assert!(load("[node\n", &[]).unwrap_err().starts_with("meterd.toml:1:"));
        assert!(load("[node]\ntick_ms = \"a\"", &[]).unwrap_err().contains("tick_ms"));
        let variable = load("", &[("METERD__NODE__TIK_MS", "1")]).unwrap_err();
        assert!(variable.contains("did you mean \"tick_ms\"?"), "{variable}");
    }
}
