//! The way in: opens a ClickHouse (version, tables, their columns), then sends batches until each
//! is accepted. The same path for the embedded engine and a server.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clickhouse::{Client, Compression, RowOwned, RowRead};
use tokio::sync::watch;
use tokio::time::sleep;

use super::days::{DAY_TABLES, Pending, Touched};
use super::retention::Kept;
use super::schema::{self, Holes, quoted};
use super::version::{Dialect, ServerVersion};
use super::{Batch, ClickhouseError, History, Retention, Table, retention};

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
    /// IANA time zone of the tables of days.
    pub zone: String,
    /// How long rows are kept.
    pub retention: Retention,
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
    /// What accepted batches touched since the tables of days were last brought up to date.
    touched: Mutex<Touched>,
    pending_days: tokio::sync::Mutex<Pending>,
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
    /// Connects and reads the version; looks at no table and changes nothing.
    ///
    /// # Errors
    /// `Unreachable`, `Refused`, `Server`, `NotClickhouse`, `TooOld`, `BadZone`.
    /// [`ClickhouseError::is_transient`] tells those that trying again may cure.
    pub async fn connect(config: ClickhouseConfig) -> Result<Self, ClickhouseError> {
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
        let mut inner = Inner {
            client,
            config,
            version: ServerVersion::OLDEST,
            status,
            touched: Mutex::default(),
            pending_days: tokio::sync::Mutex::default(),
        };
        inner.version = inner.read_version().await?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// As [`Sink::connect`]; then brings the schema up to date, compares it with what the sink
    /// writes, and applies the retention.
    ///
    /// # Errors
    /// All of [`ClickhouseError`] but `Stopped`.
    pub async fn open(config: ClickhouseConfig) -> Result<Self, ClickhouseError> {
        let sink = Self::connect(config).await?;
        sink.inner.migrate().await?;
        sink.inner.compare().await?;
        sink.retain().await?;
        Ok(sink)
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
        self.touched().note(batch.table, &batch.places);
        inner.status.send_modify(|status| {
            status.batches += 1;
            status.rows += u64::from(batch.rows);
            status.bytes += batch.bytes.len() as u64;
            status.error = None;
        });
        Ok(())
    }

    /// Applies [`ClickhouseConfig::retention`]: sets the tables' TTL where the server knows it,
    /// else drops the months that are past their time. Call it once a day for the latter.
    ///
    /// # Errors
    /// What the server or the connection said.
    pub async fn retain(&self) -> Result<(), ClickhouseError> {
        let inner = &self.inner;
        for kept in inner.config.retention.tables() {
            match inner.version.dialect() {
                Dialect::Modern => inner.set_ttl(kept).await?,
                Dialect::Portable => inner.drop_old_months(kept).await?,
            }
        }
        Ok(())
    }

    pub(super) async fn execute(&self, sql: &str) -> Result<(), ClickhouseError> {
        self.inner.execute(sql).await
    }

    /// As [`Sink::execute`], on one processor: the work has time.
    pub(super) async fn execute_calmly(&self, sql: &str) -> Result<(), ClickhouseError> {
        let query = self.inner.client.query_raw(sql).with_setting("max_threads", "1");
        let done = query.execute().await;
        done.map_err(|error| ClickhouseError::from_client(&self.inner.config.url, error))
    }

    pub(super) async fn fetch<T: RowOwned + RowRead>(
        &self,
        sql: &str,
    ) -> Result<Vec<T>, ClickhouseError> {
        self.inner.fetch(sql).await
    }

    fn touched(&self) -> std::sync::MutexGuard<'_, Touched> {
        // Whoever held it left it whole.
        self.inner.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What accepted batches touched since the last call.
    pub(super) fn take_touched(&self) -> Touched {
        std::mem::take(&mut *self.touched())
    }

    pub(super) fn pending_days(&self) -> &tokio::sync::Mutex<Pending> {
        &self.inner.pending_days
    }

    pub(super) fn zone(&self) -> &str {
        &self.inner.config.zone
    }

    /// Whether a table is there; the name as it stands in a statement.
    pub(super) async fn exists(&self, name: &str) -> Result<bool, ClickhouseError> {
        let found: Vec<u8> = self.inner.fetch(&format!("EXISTS TABLE {name}")).await?;
        Ok(found == [1])
    }

    pub(super) fn database(&self) -> &str {
        &self.inner.config.database
    }

    pub(super) fn holes<'a>(&'a self, database: &'a str) -> Holes<'a> {
        Holes { database, zone: self.zone(), dialect: self.inner.version.dialect() }
    }
}

impl Inner {
    async fn execute(&self, sql: &str) -> Result<(), ClickhouseError> {
        let done = self.client.query_raw(sql).execute().await;
        done.map_err(|error| ClickhouseError::from_client(&self.config.url, error))
    }

    async fn fetch<T: RowOwned + RowRead>(&self, sql: &str) -> Result<Vec<T>, ClickhouseError> {
        let rows = self.client.query_raw(sql).fetch_all().await;
        rows.map_err(|error| ClickhouseError::from_client(&self.config.url, error))
    }

    async fn set_ttl(&self, kept: Kept) -> Result<(), ClickhouseError> {
        let query = self
            .client
            .query("SELECT engine_full FROM system.tables WHERE database = ? AND name = ?")
            .bind(&self.config.database)
            .bind(kept.table);
        let engine: String = query
            .fetch_one()
            .await
            .map_err(|error| ClickhouseError::from_client(&self.config.url, error))?;
        let config = &self.config;
        match retention::alter_ttl(&config.database, kept, &engine) {
            None => Ok(()),
            Some(statement) => {
                tracing::info!(statement, "retention of a table changes");
                self.execute(&statement).await
            }
        }
    }

    async fn drop_old_months(&self, kept: Kept) -> Result<(), ClickhouseError> {
        if kept.months == 0 {
            return Ok(());
        }
        let (database, table) = (&self.config.database, kept.table);
        let sql = retention::select_old_months(database, kept);
        for month in self.fetch::<u32>(&sql).await? {
            tracing::info!(table, month, "a month is past its retention");
            let name = format!("{}.{table}", quoted(database));
            self.execute(&format!("ALTER TABLE {name} DROP PARTITION {month}")).await?;
        }
        Ok(())
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
            dialect: self.version.dialect(),
        };
        for (version, statements) in schema::statements(found, &holes) {
            for statement in &statements {
                match self.execute(statement).await {
                    Err(error) if schema::is_done(statement, &error) => {}
                    done => done?,
                }
            }
            let record = format!("INSERT INTO {database}.schema_version VALUES ({version}, now())");
            self.execute(&record).await?;
            tracing::info!(version, "ClickHouse schema brought up to date");
        }
        Ok(())
    }

    async fn compare(&self) -> Result<(), ClickhouseError> {
        let tables = Table::ALL.iter().map(|table| (table.name(), table.columns()));
        let of_days = DAY_TABLES.iter().map(|table| (table.name, table.columns()));
        for (table, want) in tables.chain(of_days) {
            let have: Vec<(String, String)> = self
                .client
                .query("SELECT name, type FROM system.columns WHERE database = ? AND table = ?")
                .bind(&self.config.database)
                .bind(table)
                .fetch_all()
                .await
                .map_err(|error| ClickhouseError::from_client(&self.config.url, error))?;
            schema::compare(table, &want, &have)?;
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
            // Timeouts, memory, disk space (75 from old servers), too many parts or queries, shutting down, replicas.
            Self::Server { code, .. } => matches!(
                code,
                75 | 159 | 160 | 202 | 209 | 210 | 236 | 241 | 242 | 243 | 252 | 319 | 394 | 999
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
