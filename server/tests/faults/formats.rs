//! F25: data folders of earlier versions. A folder under `tests/fixtures` was written by a node of an
//! earlier version, with its own meters' frames; today's node opens it, knows what that node told
//! last, and goes on. A folder of a later version is refused, with the reason.
//!
//! `registry-1` is of the first version (snapshots of the books in version 1), `registry-20` of one with
//! vending, commands and orders; a name is that of the registry's newest migration.
//!
//! `METERD_FIXTURE_FROM=PROGRAM METERD_FIXTURE=NAME cargo test -p server --test faults formats` makes
//! one, by the program of the version.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use server::clock;
use sqlx::{ConnectOptions as _, Executor as _, Row as _, SqliteConnection};
use storage::log::{Batches, Directory, Seq, WritePath, copy_segment, segments};

use crate::node::{self, Node, drain, fleet, frames, wait};

/// Meters and accounts of a fixture.
const METERS: u64 = 3;
const FLEET: &str = "meters = 3\n[[group]]\nperiod_s = 900\n";

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn on_disk<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime starts").block_on(work)
}

async fn database(path: &Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    options.connect().await.expect("a database opens")
}

/// A registry as the statements that make it: a diff can be read, and it is small.
async fn dump(path: &Path) -> String {
    let mut registry = database(path).await;
    let tables = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid";
    let tables = registry.fetch_all(tables).await.expect("it reads");
    let mut text = String::new();
    for table in &tables {
        let (name, sql): (String, String) = (table.get(0), table.get(1));
        text += &format!("{sql};\n");
        if !sql.starts_with("CREATE TABLE") {
            continue;
        }
        let columns =
            format!("SELECT 'quote(\"' || name || '\")' FROM pragma_table_info('{name}')");
        let columns = registry.fetch_all(sqlx::AssertSqlSafe(columns)).await.expect("it reads");
        let columns: Vec<String> = columns.iter().map(|column| column.get(0)).collect();
        let rows = format!("SELECT {} FROM \"{name}\"", columns.join(" || ',' || "));
        for row in &registry.fetch_all(sqlx::AssertSqlSafe(rows)).await.expect("it reads") {
            text += &format!("INSERT INTO \"{name}\" VALUES ({});\n", row.get::<String, _>(0));
        }
    }
    text
}

/// What an account is told: its balance and the count of its movements.
fn told(node: &Node, account: u64) -> Value {
    let balance = node.get(&format!("/v1/accounts/{account}/balance"));
    let entries = node.get(&format!("/v1/accounts/{account}/top-ups"));
    json!({ "balance": balance["balance"], "top_ups": entries["items"].as_array().map(Vec::len) })
}

/// Has a node of another version write a fixture.
#[test]
fn write_a_fixture() {
    let (Some(program), Some(name)) =
        (std::env::var_os("METERD_FIXTURE_FROM"), std::env::var_os("METERD_FIXTURE"))
    else {
        println!("skipped: METERD_FIXTURE_FROM names no program");
        return;
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = Node::start_in(folder, program, "", Vec::new());
    let (fleet, world) = fleet(FLEET);
    node.register(&fleet, &world);
    let (socket, frames) = (node::socket("127.0.0.1", node.meters), frames(&fleet, &world));
    let mut acknowledged = 0;
    for frame in &frames {
        let before = acknowledged;
        wait("an acknowledgement", || {
            socket.send(frame).expect("sent");
            std::thread::park_timeout(Duration::from_millis(50));
            acknowledged += drain(&socket);
            acknowledged > before
        });
    }
    for (account, key, amount) in
        [(1, "first", "12.34"), (2, "second", "5.00"), (1, "third", "0.07")]
    {
        node.top_up(account, key, amount);
    }
    let adjustment = json!({ "amount": "-1.50", "reason": "read wrongly" });
    node.json("/v1/accounts/2/adjustments", &adjustment);
    let accounts: Vec<Value> = (1..=METERS).map(|account| told(&node, account)).collect();
    let now = clock::Clock::System.now().0;
    let told = json!({ "token": node.token(), "now": now, "accounts": accounts });
    node.stop();
    let (from, to) = (node.folder.path().join("data"), fixtures().join(name));
    for part in ["log", "spool"] {
        fs::create_dir_all(to.join(part)).expect("a folder");
        let disk = Directory::open(&from.join(part), WritePath::Buffered).expect("it opens");
        for first in segments(&disk).expect("it lists") {
            let copy = copy_segment(&disk, first, Seq(u64::MAX)).expect("it reads");
            fs::write(to.join(part).join(&copy.name), &copy.bytes).expect("it is written");
        }
    }
    fs::create_dir_all(to.join("snapshots")).expect("a folder");
    for file in fs::read_dir(from.join("snapshots")).expect("it lists").flatten() {
        fs::copy(file.path(), to.join("snapshots").join(file.file_name())).expect("copied");
    }
    fs::copy(from.join("master.key"), to.join("master.key")).expect("copied");
    let registry = on_disk(dump(&from.join("registry.sqlite")));
    fs::write(to.join("registry.sql"), registry).expect("written");
    fs::write(to.join("told.json"), format!("{told:#}\n")).expect("written");
}

/// A fixture as the data folder that it was.
fn restored(fixture: &Path) -> (tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    for part in ["log", "spool", "snapshots"] {
        fs::create_dir_all(data.join(part)).expect("a folder");
        for file in fs::read_dir(fixture.join(part)).expect("it lists").flatten() {
            fs::copy(file.path(), data.join(part).join(file.file_name())).expect("copied");
        }
    }
    let key = data.join("master.key");
    fs::copy(fixture.join("master.key"), &key).expect("copied");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(key, mode).expect("the mode is set");
    let registry = fs::read_to_string(fixture.join("registry.sql")).expect("it reads");
    on_disk(async {
        let mut made = database(&data.join("registry.sqlite")).await;
        let statements = sqlx::raw_sql(sqlx::AssertSqlSafe(registry));
        made.execute(statements).await.expect("the statements are SQL");
    });
    let told = fs::read_to_string(fixture.join("told.json")).expect("it reads");
    let told: Value = serde_json::from_str(&told).expect("it is JSON");
    let token = told["token"].as_str().expect("a token");
    fs::write(folder.path().join("token"), token).expect("written");
    (folder, told)
}

/// The clock as it stood when the fixture was written, going on from there.
fn clock_of(told: &Value) -> Vec<(String, String)> {
    let start = told["now"].as_u64().expect("seconds");
    let pairs = [
        ("SOURCE", "virtual".to_owned()),
        ("START", start.to_string()),
        ("ANCHOR_MS", clock::unix_ms().to_string()),
        ("END", (start + 10_000).to_string()),
    ];
    pairs.map(|(name, value)| (format!("METERD__CLOCK__{name}"), value)).to_vec()
}

fn today() -> std::ffi::OsString {
    env!("CARGO_BIN_EXE_meterd").into()
}

#[test]
fn folders_of_earlier_versions_open_and_go_on() {
    for fixture in fs::read_dir(fixtures()).expect("it lists").flatten() {
        let (folder, told_then) = restored(&fixture.path());
        // What waits for ClickHouse reads, too.
        let spool = Directory::open(&folder.path().join("data/spool"), WritePath::Buffered);
        let spool = spool.expect("it opens");
        let mut batches = Batches::open(&spool).expect("it lists");
        while let Some(batch) = batches.next() {
            let first = batch.expect("it reads").header.first;
            assert!(server::spool::decode(batches.payload()).is_some(), "entry {first}");
        }
        let began = clock::instant();
        let mut node = Node::start_in(folder, today(), "", clock_of(&told_then));
        let took = began.elapsed();
        let accounts = told_then["accounts"].as_array().expect("accounts");
        for (account, want) in (1..).zip(accounts) {
            assert_eq!(told(&node, account), *want, "{:?} account {account}", fixture.file_name());
        }
        node.top_up(1, "by today's program", "1.00");
        // The key of then still names what it named then.
        node.top_up(1, "first", "12.34");
        let paid = told(&node, 1)["top_ups"].as_u64();
        assert_eq!(paid, accounts[0]["top_ups"].as_u64().map(|count| count + 1));
        node.stop();
        let config = node.folder.path().join("meterd.toml");
        let verify = ["verify", "--without-clickhouse", "--config"];
        let output = Command::new(today()).args(verify).arg(config).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        println!("F25 {:?}: ready after {took:?}; then\n{said}", fixture.file_name());
    }
}

/// Spoils one file of the newest fixture as a later version would have written it.
type Later = fn(&Path);

/// Rewrites the version in a header of the log or a snapshot, with the checksum that goes with it.
fn version_of(path: &Path, sum_at: usize) {
    let mut bytes = fs::read(path).expect("it reads");
    bytes[8] = 99;
    let sum = crc32c::crc32c(&bytes[..sum_at]);
    bytes[sum_at..sum_at + 4].copy_from_slice(&sum.to_le_bytes());
    fs::write(path, bytes).expect("written");
}

fn first_file(folder: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).expect("it lists").flatten().map(|file| file.path()).collect();
    files.sort_unstable();
    files.swap_remove(0)
}

#[test]
fn folders_of_later_versions_are_refused() {
    let later: [(&str, Later); 3] = [
        ("log has format version 99, this program reads up to", |data| {
            version_of(&first_file(&data.join("log")), 56);
        }),
        ("has format version 99, this program reads up to", |data| {
            version_of(&first_file(&data.join("snapshots")), 24);
        }),
        ("does not fit this version", |data| {
            let later = "INSERT INTO _sqlx_migrations (version, description, success, checksum, \
                         execution_time) VALUES (9999, 'later', 1, x'00', 0)";
            on_disk(async {
                let mut registry = database(&data.join("registry.sqlite")).await;
                registry.execute(later).await.expect("it is taken");
            });
        }),
    ];
    let fixture = first_file(&fixtures());
    for (want, spoil) in later {
        let (folder, told) = restored(&fixture);
        spoil(&folder.path().join("data"));
        let mut serve = Command::new(today());
        let data_dir = folder.path().join("data");
        serve.arg("serve").env("METERD__NODE__DATA_DIR", data_dir).envs(clock_of(&told));
        for (section, key) in
            [("INGEST", "UDP_LISTEN"), ("INGEST", "TCP_LISTEN"), ("API", "LISTEN")]
        {
            serve.env(format!("METERD__{section}__{key}"), "127.0.0.1:0");
        }
        serve.env("METERD__CLICKHOUSE__ENGINE", "server");
        let output = serve.output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(want), "{want:?}: {said}");
        println!("F25: {}", said.lines().last().unwrap_or_default());
    }
}
