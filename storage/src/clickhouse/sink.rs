//! The way in: opens a ClickHouse (version, tables, their columns), then sends batches until each
//! is accepted. The same path for the embedded engine and a server.

use std::sync::Arc;
use std::time::Duration;

use clickhouse::{Client, Compression};
use tokio::sync::watch;
use tokio::time::sleep;

use super::schema::{self, Holes, quoted};
use super::version::{Dialect, ServerVersion};
use super::{Batch, ClickhouseError, History, Table};

/// Where ClickHouse is and how it is used.
#[derive(Clone)]
pub struct ClickhouseConfig {
    /// `http://host:port`.
    pub url: String,
    /// User; it creates tables and writes.
    pub user: String,
    /// Its password, empty for none.
    pub password: String,
    /// The database; created if absent.
    pub database: String,
    /// IANA time zone of the days and months in the views.
    pub zone: String,
    /// Months that readings and intervals are kept (on servers that know TTL); 0 = for ever.
    pub retention_months: u32,
    /// First delay before a batch is sent again, in milliseconds; it doubles.
    pub retry_delay_ms_min: u64,
    /// Longest delay before a batch is sent again, in milliseconds.
    pub retry_delay_ms_max: u64,
    /// How long the server may take over one request, in seconds.
    pub request_s_max: u32,
}

impl std::fmt::Debug for ClickhouseConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClickhouseConfig")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("password", &"***")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// What the sink has done since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkStatus {
    /// Batches accepted.
    pub batches: u64,
    /// Rows in them.
    pub rows: u64,
    /// Encoded bytes in them.
    pub bytes: u64,
    /// Sendings that failed and were repeated.
    pub retries: u64,
    /// The failure that the sink is trying to get past, if any.
    pub error: Option<String>,
}

/// An open ClickHouse with our tables in it. Clones share one connection pool and status; two
/// batches in flight fill the engine's two phases (parse, write) best.
#[derive(Clone)]
pub struct Sink {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    config: ClickhouseConfig,
    version: ServerVersion,
    status: watch::Sender<SinkStatus>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sink")
            .field("config", &self.inner.config)
            .field("version", &self.inner.version)
            .finish_non_exhaustive()
    }
}

impl Sink {
    /// Connects, reads the version, brings the schema up to date and compares it.
    ///
    /// # Errors
    /// All of [`ClickhouseError`] but `Stopped`. [`ClickhouseError::is_transient`] tells those
    /// that trying again may cure.
    pub async fn open(config: ClickhouseConfig) -> Result<Self, ClickhouseError> {
        let zone_known = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
        if config.zone.is_empty() || !config.zone.bytes().all(zone_known) {
            return Err(ClickhouseError::BadZone(config.zone));
        }
        let client = Client::default()
            .with_url(&config.url)
            .with_user(&config.user)
            .with_password(&config.password)
            // Loopback and local networks: compressing costs more than it saves.
            .with_compression(Compression::None)
            // Validation needs formats and settings that old servers do not have.
            .with_validation(false);
        let (status, _) = watch::channel(SinkStatus::default());
        let mut inner = Inner { client, config, version: ServerVersion::OLDEST, status };
        inner.version = inner.read_version().await?;
        inner.migrate().await?;
        inner.compare().await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// As [`Sink::open`], trying again while the failure is a passing one.
    ///
    /// # Errors
    /// As [`Sink::open`], lasting failures only, and `Stopped` when `stop` turns true.
    pub async fn open_patiently(
        config: ClickhouseConfig,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Self, ClickhouseError> {
        let mut delay = Backoff::new(&config);
        loop {
            match Self::open(config.clone()).await {
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "cannot open ClickHouse yet, tries again");
                    delay.wait(stop).await?;
                }
                done => return done,
            }
        }
    }

    /// The server's version.
    pub fn version(&self) -> ServerVersion {
        self.inner.version
    }

    /// Follows what the sink does.
    pub fn status(&self) -> watch::Receiver<SinkStatus> {
        self.inner.status.subscribe()
    }

    /// The questions that the product asks.
    pub fn history(&self) -> History {
        let config = &self.inner.config;
        History::new(self.inner.client.clone(), &config.url, &config.database)
    }

    /// Sends one batch until the server has it; always the same bytes and token.
    ///
    /// # Errors
    /// `Stopped` when `stop` turns true before that. Everything else is tried again, for a batch
    /// must not be skipped: the failure stands in [`SinkStatus::error`] meanwhile.
    pub async fn send(
        &self,
        batch: &Batch,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), ClickhouseError> {
        let mut delay = Backoff::new(&self.inner.config);
        loop {
            let Err(error) = self.try_send(batch).await else { return Ok(()) };
            self.inner.status.send_modify(|status| {
                status.retries += 1;
                status.error = Some(error.to_string());
            });
            tracing::warn!(%error, table = batch.table.name(), rows = batch.rows, "batch not accepted, sends again");
            delay.wait(stop).await?;
        }
    }

    /// Sends one batch once.
    ///
    /// # Errors
    /// What the server or the connection said; whether the rows arrived is then unknown, and
    /// sending the batch again is harmless.
    pub async fn try_send(&self, batch: &Batch) -> Result<(), ClickhouseError> {
        let inner = &self.inner;
        let columns: Vec<&str> = batch.table.columns().iter().map(|column| column.0).collect();
        let sql = format!(
            "INSERT INTO {}.{} ({}) FORMAT Native",
            quoted(&inner.config.database),
            batch.table.name(),
            columns.join(", ")
        );
        let patience = Some(Duration::from_secs(u64::from(inner.config.request_s_max)));
        let mut insert = inner.client.insert_formatted_with(sql).with_timeouts(patience, patience);
        if inner.version.dialect() == Dialect::Modern {
            insert = insert
                .with_setting("async_insert", "0")
                .with_setting("insert_deduplication_token", &batch.token);
        }
        let sent = async {
            insert.send(batch.bytes.clone()).await?;
            insert.end().await
        };
        sent.await.map_err(|error| ClickhouseError::from_client(&inner.config.url, error))?;
        inner.status.send_modify(|status| {
            status.batches += 1;
            status.rows += u64::from(batch.rows);
            status.bytes += batch.bytes.len() as u64;
            status.error = None;
        });
        Ok(())
    }

    /// Drops all tables and views and makes them anew, to be filled again from the log.
    ///
    /// # Errors
    /// What the server or the connection said.
    pub async fn recreate(&self) -> Result<(), ClickhouseError> {
        let database = quoted(&self.inner.config.database);
        let views = ["daily", "monthly"].into_iter();
        let tables = Table::ALL.into_iter().map(Table::name);
        for name in views.chain(tables).chain(["schema_version"]) {
            self.inner.execute(&format!("DROP TABLE IF EXISTS {database}.{name}")).await?;
        }
        self.inner.migrate().await
    }
}

impl Inner {
    async fn execute(&self, sql: &str) -> Result<(), ClickhouseError> {
        let done = self.client.query_raw(sql).execute().await;
        done.map_err(|error| ClickhouseError::from_client(&self.config.url, error))
    }

    async fn read_version(&self) -> Result<ServerVersion, ClickhouseError> {
        let url = &self.config.url;
        let answer: Result<String, _> = self.client.query_raw("SELECT version()").fetch_one().await;
        let text = answer.map_err(|error| ClickhouseError::from_client(url, error))?;
        let version = ServerVersion::parse(&text).ok_or_else(|| {
            ClickhouseError::NotClickhouse { url: url.clone(), message: text.clone() }
        })?;
        if version < ServerVersion::OLDEST {
            return Err(ClickhouseError::TooOld { found: version });
        }
        Ok(version)
    }

    async fn migrate(&self) -> Result<(), ClickhouseError> {
        for statement in schema::bootstrap(&self.config.database) {
            self.execute(&statement).await?;
        }
        let database = quoted(&self.config.database);
        let sql = format!("SELECT max(version) FROM {database}.schema_version");
        let found: u32 = self
            .client
            .query_raw(&sql)
            .fetch_one()
            .await
            .map_err(|error| ClickhouseError::from_client(&self.config.url, error))?;
        if found > schema::VERSION {
            return Err(ClickhouseError::SchemaNewer { found, known: schema::VERSION });
        }
        let holes = Holes {
            database: &self.config.database,
            zone: &self.config.zone,
            retention_months: self.config.retention_months,
            dialect: self.version.dialect(),
        };
        for (version, statements) in schema::statements(found, &holes) {
            for statement in &statements {
                self.execute(statement).await?;
            }
            let record = format!("INSERT INTO {database}.schema_version VALUES ({version}, now())");
            self.execute(&record).await?;
            tracing::info!(version, "ClickHouse schema brought up to date");
        }
        Ok(())
    }

    async fn compare(&self) -> Result<(), ClickhouseError> {
        for table in Table::ALL {
            let have: Vec<(String, String)> = self
                .client
                .query("SELECT name, type FROM system.columns WHERE database = ? AND table = ?")
                .bind(&self.config.database)
                .bind(table.name())
                .fetch_all()
                .await
                .map_err(|error| ClickhouseError::from_client(&self.config.url, error))?;
            schema::compare(table, &have)?;
        }
        Ok(())
    }
}

impl ClickhouseError {
    /// Sorts a client's error.
    pub(super) fn from_client(url: &str, error: clickhouse::error::Error) -> Self {
        use clickhouse::error::Error;
        let url = url.to_owned();
        if matches!(error, Error::Network(_) | Error::TimedOut) {
            return Self::Unreachable { url, source: error };
        }
        let Error::BadResponse(message) = error else {
            return Self::NotClickhouse { url, message: error.to_string() };
        };
        let digits: String = message
            .split_once("Code: ")
            .map(|(_, rest)| rest.chars().take_while(char::is_ascii_digit).collect())
            .unwrap_or_default();
        match digits.parse() {
            // Access, users, passwords.
            Ok(164 | 192 | 193 | 194 | 497 | 516) => Self::Refused { message },
            Ok(code) => Self::Server { code, message },
            Err(_) => Self::NotClickhouse { url, message },
        }
    }

    /// Whether trying again may cure it without anybody's doing.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // Timeouts, memory, disk space, too many parts or queries, shutting down, replicas.
            Self::Server { code, .. } => matches!(
                code,
                159 | 160 | 202 | 209 | 210 | 236 | 241 | 242 | 243 | 252 | 319 | 394 | 999
            ),
            Self::Refused { .. }
            | Self::NotClickhouse { .. }
            | Self::TooOld { .. }
            | Self::SchemaNewer { .. }
            | Self::SchemaDiffers { .. }
            | Self::BadZone(_)
            | Self::Stopped => false,
        }
    }
}

/// Delays that double from one try to the next.
struct Backoff {
    next: Duration,
    last: Duration,
}

impl Backoff {
    fn new(config: &ClickhouseConfig) -> Self {
        let next = Duration::from_millis(config.retry_delay_ms_min.max(1));
        Self { next, last: Duration::from_millis(config.retry_delay_ms_max).max(next) }
    }

    async fn wait(&mut self, stop: &mut watch::Receiver<bool>) -> Result<(), ClickhouseError> {
        let delay = self.next;
        self.next = (self.next * 2).min(self.last);
        tokio::select! {
            () = sleep(delay) => Ok(()),
            // A sender that is gone is a node that ends.
            _ = stop.wait_for(|stop| *stop) => Err(ClickhouseError::Stopped),
        }
    }
}
