//! The registry: what exists (meters, keys, gateways, transformers, customers, accounts, tariffs,
//! API tokens), in SQLite.
//!
//! One writes at a time, over the pool or the till's own connection (module `drawer`); several read. A change that the books must know is written together
//! with its outbox row in one transaction (module `write`); the node relays outbox rows to the log in
//! the order of their ids and then marks them sent (module `outbox`).
//!
//! **Invariant:** a committed change and its outbox row are both there or both absent; ids are
//! dense and never reused; device keys and API tokens never lie in the file in clear; balances
//! are not stored here. SQL uses `$1` and no SQLite functions, so that it reads on PostgreSQL too;
//! only the migrations are SQLite's own.

mod error;
mod master;
mod row;
mod write;

mod account;
mod act;
mod agent;
mod audit;
mod campaign;
mod command;
mod device;
mod drawer;
mod entry;
mod import;
mod meters;
mod outbox;
mod place;
mod plans;
mod posting;
mod purchase;
mod sale;
mod shelf;
mod supervision;
mod supply;
mod tariff;
mod till;
mod token;
mod token_meter;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use meter::OutboxId;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlitePool};
use tokio::sync::{OwnedMutexGuard, watch};

pub use account::{Account, Customer, Limits, NewAccount};
pub use act::Act;
pub use agent::{Agent, AgentDay, Debt};
pub use audit::{Audit, MADE_BY_PEOPLE, MoneyRow};
pub use campaign::{Campaign, CampaignState};
pub use command::{CommandRoute, CommandRow, NewCommand};
pub use device::{Device, DeviceKind, DeviceRev};
pub use entry::TokenEntry;
pub use error::{MasterKeyError, Nature, Refusal, RegistryError};
pub use import::{
    Column, Counts, IMPORT_COLUMNS, ImportError, ImportFormat, ImportLimits, ImportReport,
    LineError,
};
pub use master::{DeviceKeys, fresh_challenge, parse_hex};
pub use meters::{InstallationPeriod, Meter, MeterFilter, NewMeter};
pub use outbox::OutboxRow;
pub use place::{Gateway, NewGateway, Transformer};
pub use plans::Plans;
pub use purchase::{AdjustmentRow, NewPurchase, PurchaseRow};
pub use sale::{NewSale, SaleKind, SaleRow, SaleState, SoldToken};
pub use supervision::{Acknowledgement, Settlement};
pub use supply::Friendly;
pub use tariff::{Calendar, Plan};
pub use till::{IssuedTokens, SALES_MAX, TokenIssuer, TokenOrder};
pub use token::{ApiRole, ApiToken, NewToken};
pub use token_meter::{CensusRow, Issue, IssuedToken, KeySetting, TokenMeter, TokenOrderRow};

use drawer::Wal;
use master::MasterKey;
use outbox::Fresh;
use till::Desk;
use token::TokenTable;

/// The oldest SQLite without the WAL-reset bug that loses committed data.
const SQLITE_LEAST: (&str, i64) = ("3.51.3", 3_051_003);

/// How long a statement waits for the file.
const BUSY: Duration = Duration::from_secs(10);

/// What a writer keeps of the file in memory, KiB.
const CACHE: &str = "-16384";

/// Pages of the write-ahead log before it is brought into the file. SQLite's 1000 are a quarter of
/// a second of purchases, and each time the pages that all of them touch are written again.
const WAL_PAGES: &str = "4000";

/// Where the registry lies.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database file; made at first start.
    pub path: PathBuf,
    /// The file with the key that seals device keys; made with mode 0600 at first start.
    pub master_key_path: PathBuf,
    /// Connections that read, at least 1.
    pub readers: u32,
}

/// The registry, open. Cheap to share behind an [`Arc`].
#[derive(Debug)]
pub struct Registry {
    /// Whose turn it is to write; who waits is served in order.
    turns: Arc<tokio::sync::Mutex<()>>,
    writer: SqlitePool,
    readers: SqlitePool,
    master: MasterKey,
    /// Tokens by their hash, replaced whole when one is made or revoked: requests look here.
    tokens: RwLock<Arc<TokenTable>>,
    outbox: watch::Sender<OutboxId>,
    /// Rows of the outbox just written, for the relay.
    fresh: Mutex<Fresh>,
    dimensions: watch::Sender<OutboxId>,
    desk: Mutex<Desk>,
    /// Makes durable what the till wrote.
    wal: Wal,
    /// A sync failed: nobody writes any more.
    is_broken: AtomicBool,
    devices: watch::Sender<DeviceRev>,
    commands: watch::Sender<u64>,
    /// Held by the import under way.
    imports: tokio::sync::Mutex<()>,
}

/// The right to write: one has it at a time, who waits gets it in order.
#[derive(Debug)]
struct Turn(#[expect(dead_code, reason = "held, and let go by its end")] OwnedMutexGuard<()>);

/// The steps from an empty file to this version's tables. A step is never changed once released.
static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// Brings a registry's file up to this version, without its master key.
///
/// # Errors
/// [`RegistryError::Open`], [`RegistryError::Schema`].
pub async fn migrate(path: &Path) -> Result<(), RegistryError> {
    let options = SqliteConnectOptions::new().filename(path).foreign_keys(true);
    let mut connection = options
        .connect()
        .await
        .map_err(|source| RegistryError::Open { path: path.to_owned(), source })?;
    let migrated = MIGRATIONS.run(&mut connection).await;
    migrated.map_err(|source| RegistryError::Schema { path: path.to_owned(), source })?;
    Ok(connection.close().await?)
}

impl Registry {
    /// Opens the registry, or makes it.
    ///
    /// # Errors
    /// [`RegistryError::SqliteVersion`], [`RegistryError::Open`], [`RegistryError::Schema`],
    /// [`RegistryError::MasterKey`]: nothing is served until a person has acted.
    pub async fn open(config: &Config) -> Result<Self, RegistryError> {
        check_version(libsqlite3_sys::SQLITE_VERSION_NUMBER.into())?;
        let open_error = |source| RegistryError::Open { path: config.path.clone(), source };
        let options = SqliteConnectOptions::new()
            .filename(&config.path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("wal_autocheckpoint", WAL_PAGES)
            // What a statement might have to undo is not worth a file each time.
            .pragma("temp_store", "MEMORY")
            .busy_timeout(BUSY);
        // A local file does not go away between two questions: no ping before each.
        let writer = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .min_connections(1)
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
        let writing = options.clone().pragma("cache_size", CACHE);
        let writer = writer.connect_with(writing).await.map_err(open_error)?;
        // The version that runs, not the one whose header was compiled.
        let running: String =
            sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&writer).await?;
        check_version(version_number(&running))?;
        MIGRATIONS
            .run(&writer)
            .await
            .map_err(|source| RegistryError::Schema { path: config.path.clone(), source })?;
        let readers = SqlitePoolOptions::new()
            .test_before_acquire(false)
            .max_connections(config.readers.max(1));
        let readers = readers.connect_with(options.read_only(true)).await.map_err(open_error)?;
        let master = unlock(config, &writer).await?;
        // What a killed process had written may lie in the system's memory only.
        let wal = Wal::open(&config.path).and_then(|wal| wal.sync().map(|()| wal));
        let wal = wal.map_err(|error| open_error(error.into()))?;
        let newest = OutboxId(last_of(&readers, "outbox").await?);
        let registry = Self {
            tokens: RwLock::new(Arc::new(token::load(&readers).await?)),
            outbox: watch::Sender::new(newest),
            fresh: Mutex::default(),
            dimensions: watch::Sender::new(newest),
            desk: Mutex::new(Desk::open(&config.path)?),
            wal,
            is_broken: AtomicBool::new(false),
            turns: Arc::default(),
            devices: watch::Sender::new(DeviceRev(last_of(&readers, "device_rev").await?)),
            commands: watch::Sender::new(0),
            imports: tokio::sync::Mutex::new(()),
            writer,
            readers,
            master,
        };
        registry.ensure_policy().await?;
        Ok(registry)
    }

    /// Tells of the newest outbox row: the relay waits on it instead of asking again and again.
    #[must_use]
    pub fn watch_outbox(&self) -> watch::Receiver<OutboxId> {
        self.outbox.subscribe()
    }

    /// Tells of the newest change to what meters and accounts are.
    #[must_use]
    pub fn watch_dimensions(&self) -> watch::Receiver<OutboxId> {
        self.dimensions.subscribe()
    }

    /// Tells of the newest revision of devices, see [`Registry::devices_since`].
    #[must_use]
    pub fn watch_devices(&self) -> watch::Receiver<DeviceRev> {
        self.devices.subscribe()
    }

    /// Closes the pools, once nobody writes; what was committed is in the file.
    pub async fn close(&self) {
        // Also after a failed sync.
        let _turn = self.turns.lock().await;
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Waits for one's turn to write.
    ///
    /// # Errors
    /// [`RegistryError::NotDurable`] once the disk has refused what was written.
    async fn turn(&self) -> Result<Turn, RegistryError> {
        self.sound(Turn(Arc::clone(&self.turns).lock_owned().await))
    }

    /// As [`Registry::turn`], on a thread that may wait.
    fn blocking_turn(&self) -> Result<Turn, RegistryError> {
        self.sound(Turn(Arc::clone(&self.turns).blocking_lock_owned()))
    }

    fn sound(&self, turn: Turn) -> Result<Turn, RegistryError> {
        if self.is_broken() { Err(RegistryError::NotDurable(None)) } else { Ok(turn) }
    }

    /// Makes durable what was committed before.
    fn sync(&self) -> Result<(), RegistryError> {
        self.wal.sync().map_err(|error| {
            self.is_broken.store(true, Ordering::Release);
            // Those who wait for it learn that it does not come.
            self.outbox.send_modify(|_| {});
            RegistryError::NotDurable(Some(error))
        })
    }

    /// Whether the disk has refused what was written.
    fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many rows each kind has, for readiness and tests.
    ///
    /// # Errors
    /// [`RegistryError`] when the database does not answer.
    pub async fn ids(&self) -> Result<BTreeMap<String, u64>, RegistryError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, last FROM counter").fetch_all(&self.readers).await?;
        rows.into_iter().map(|(name, last)| Ok((name, row::to_u64(last)?))).collect()
    }
}

/// Loads the master key and proves that it fits.
async fn unlock(config: &Config, writer: &SqlitePool) -> Result<MasterKey, RegistryError> {
    let check: Option<Vec<u8>> = sqlx::query_scalar("SELECT sealed FROM seal_check WHERE id = 1")
        .fetch_optional(writer)
        .await?;
    let master = MasterKey::load(&config.master_key_path, check.is_none())?;
    match check {
        Some(sealed) if master.fits(&sealed) => Ok(master),
        Some(_) => Err(MasterKeyError::Wrong.into()),
        None => {
            sqlx::query("INSERT INTO seal_check (id, sealed) VALUES (1, $1)")
                .bind(master.seal_check())
                .execute(writer)
                .await?;
            Ok(master)
        }
    }
}

async fn last_of(pool: &SqlitePool, counter: &str) -> Result<u64, RegistryError> {
    let last = sqlx::query_scalar("SELECT last FROM counter WHERE name = $1").bind(counter);
    row::to_u64(last.fetch_one(pool).await?)
}

/// `3.51.3` as 3051003; 0 for what is no version.
fn version_number(text: &str) -> i64 {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0_i64));
    let mut next = || parts.next().unwrap_or(0);
    next() * 1_000_000 + next() * 1_000 + next()
}

fn check_version(number: i64) -> Result<(), RegistryError> {
    let (least, least_number) = SQLITE_LEAST;
    if number >= least_number {
        return Ok(());
    }
    let found = format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000);
    Err(RegistryError::SqliteVersion { found, least })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_writes_after_a_failed_sync() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let config =
            Config { path: path("registry.db"), master_key_path: path("master.key"), readers: 1 };
        let mut registry = Registry::open(&config).await.unwrap();
        registry.add_customer("C-1", "One", "").await.unwrap();
        // Not a file that can be synced.
        registry.wal = Wal::of(std::fs::File::open("/dev/null").unwrap());
        assert!(matches!(registry.sync(), Err(RegistryError::NotDurable(Some(_)))));
        let turn = registry.turn().await;
        assert!(matches!(turn, Err(RegistryError::NotDurable(None))));
        let made = registry.add_customer("C-2", "Two", "").await;
        assert!(matches!(made, Err(RegistryError::NotDurable(None))), "{made:?}");
        let sale = registry.durable(OutboxId(9)).await;
        assert!(matches!(sale, Err(RegistryError::NotDurable(None))), "{sale:?}");
        registry.close().await;
    }

    #[test]
    fn old_sqlite_is_refused() {
        let check = |text: &str, is_good: bool| {
            assert_eq!(check_version(version_number(text)).is_ok(), is_good, "version={text}");
        };
        check("3.51.2", false);
        check("3.51.3", true);
        check("3.52.0", true);
        check("nonsense", false);
    }
}
