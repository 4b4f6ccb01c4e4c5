//! `meterd storage rebuild` and `meterd storage status`, on a real node with the simulator's week in
//! its log: tables damaged by hand end as they were, with the node running and without, and when only
//! the archive has the beginning of the log.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use loadgen::feeder::Feeder;
use loadgen::{Seed, free_address};
use meter::{Entry, UnixSeconds};
use serde_json::Value;
use storage::log::{Config, Directory, Durability, NewBatch, SegmentLog, Urgency, WritePath};

use crate::support::{Answer, OldServer, library, request};

/// Monday 2026-06-01T00:00:00Z, and so many entries of its week.
const START: UnixSeconds = UnixSeconds(1_780_272_000);
const ENTRIES: usize = 6000;
/// The morning after that week, when the nodes start: no day ends while they run.
const AFTER: UnixSeconds = UnixSeconds(START.0 + 7 * DAY_S + 3600);
const DAY_S: u32 = 86_400;
/// A segment of the log, as in the nodes' settings.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Tables and their keys.
const TABLES: [(&str, &str); 9] = [
    ("readings", "meter_id, taken_at, seq"),
    ("intervals", "meter_id, start"),
    ("ledger", "account_id, number"),
    ("alarms", "subject, subject_id, at, code, state, seq"),
    ("gaps", "meter_id, gap_from"),
    ("line_loss", "transformer_id, start"),
    ("meter_days", "day, meter_id"),
    ("account_days", "day, account_id, kind"),
    ("reading_days", "day, meter_id"),
];

/// A node's settings, and who may ask its ClickHouse.
struct Place {
    folder: tempfile::TempDir,
    clickhouse: std::net::SocketAddr,
    old: Option<OldServer>,
}

impl Place {
    fn new(old: Option<OldServer>) -> Self {
        Self::with(old, SEGMENT_BYTES, "")
    }

    /// With settings of the node's own section and whole sections in `more`, and a log in segments of
    /// `segment_bytes`.
    fn with(old: Option<OldServer>, segment_bytes: u64, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (api, mut clickhouse) = (free_address().unwrap(), free_address().unwrap());
        let engine = match &old {
            None => format!(
                "engine = \"embedded\"\nlisten = \"{clickhouse}\"\nlibrary = {:?}",
                library()
            ),
            Some(server) => {
                clickhouse.set_port(server.port);
                format!("engine = \"server\"\nurl = \"http://{clickhouse}\"")
            }
        };
        let settings = format!(
            "[node]\ndata_dir = {:?}\n{more}[ingest]\nudp_listen = \"127.0.0.1:0\"\n\
             tcp_listen = \"127.0.0.1:0\"\n[log]\nsegment_bytes = 16777216\n\
             reserve_bytes = 16777216\n[clickhouse]\n{engine}\n\
             block_age_ms_max = 50\nrefresh_days_s = 1\n[api]\nlisten = \"{api}\"\n\
             [clock]\nsource = \"virtual\"\nstart = {}\nanchor_ms = {}\npace = 1\nend = {}\n",
            folder.path().join("data"),
            AFTER.0,
            server::clock::unix_ms(),
            AFTER.plus(DAY_S).0
        );
        fs::write(folder.path().join("meterd.toml"), settings).unwrap();
        write_log(&folder.path().join("data/log"), segment_bytes);
        Self { folder, clickhouse, old }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meterd"));
        let config: PathBuf = self.folder.path().join("meterd.toml");
        command.args(arguments).arg("--config").arg(config).env("RUST_LOG", "error");
        command
    }

    fn serve(&self) -> Child {
        self.command(&["serve"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
    }

    fn storage(&self, arguments: &[&str]) -> Output {
        self.command(&[&["storage"], arguments].concat()).output().unwrap()
    }

    fn status(&self) -> (Option<i32>, Value) {
        let output = self.storage(&["status", "--json"]);
        let value = serde_json::from_slice(&output.stdout);
        (output.status.code(), value.unwrap_or_else(|error| panic!("{error}: {output:?}")))
    }

    fn sql(&self, statement: &str) -> Answer {
        let file = self.folder.path().join("data/clickhouse-writer.password");
        let password = fs::read_to_string(file).unwrap_or_default();
        let user = if self.old.is_some() { ("default", "") } else { ("meterd", password.trim()) };
        let parameters = [("database", "meterd"), ("wait_end_of_query", "1")];
        // The node's engine may still be starting.
        while TcpStream::connect(self.clickhouse).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let answer = request(self.clickhouse, user, "POST", &parameters, "", statement.as_bytes());
        assert_eq!(answer.status, 200, "{statement}: {}", answer.body);
        answer
    }

    /// Waits until ClickHouse has the rows of all entries.
    fn drained(&self, node: &mut Child) {
        loop {
            let (code, status) = self.status();
            if code == Some(0) && status["lag_entries"] == 0 && status["sent_below"] != 1 {
                return;
            }
            assert!(node.try_wait().unwrap().is_none(), "the node ended: {status}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the tables of days hold what their rows come to, and reads all tables.
    fn contents(&self) -> BTreeMap<&'static str, String> {
        let agree = "SELECT (SELECT sum(energy_wh) FROM meter_days FINAL) = (SELECT sum(energy_wh) \
             FROM intervals FINAL) AND (SELECT sum(amount_ticks) FROM account_days FINAL) = \
             (SELECT sum(amount_ticks) FROM ledger FINAL) AND (SELECT sum(accepted + quarantined) \
             FROM reading_days FINAL) = (SELECT count() FROM readings FINAL)";
        let mut asked = 0;
        while self.sql(agree).body.trim() != "1" {
            asked += 1;
            assert!(asked < 6000, "the tables of days do not become what their rows come to");
            std::thread::sleep(Duration::from_millis(50));
        }
        let read = |(table, key)| {
            let sql = format!("SELECT * FROM {table} FINAL ORDER BY {key} FORMAT TabSeparated");
            (table, self.sql(&sql).body)
        };
        TABLES.into_iter().map(read).collect()
    }

    fn damage(&self) {
        self.sql("DROP TABLE meterd.gaps");
        self.sql("ALTER TABLE meterd.readings DROP PARTITION 202606");
        self.sql("ALTER TABLE meterd.meter_days DROP PARTITION 202606");
        self.sql("INSERT INTO meterd.account_days (day, account_id, kind, rev) VALUES ('2026-06-02', 1, 'energy', 99999)");
        self.sql("INSERT INTO meterd.intervals (meter_id, start, energy_wh, rev) VALUES (1, 1780272000, 99, 99999)");
    }
}

/// The log of a node that took in the first entries of the week.
fn write_log(folder: &Path, segment_size_bytes: u64) {
    fs::create_dir_all(folder).unwrap();
    let feeder = Feeder::new(Seed(1), START);
    let entries: Vec<Entry> = feeder.entries(feeder.end()).into_iter().take(ENTRIES).collect();
    let disk = Directory::open(folder, WritePath::Buffered).unwrap();
    let config = Config {
        segment_size_bytes,
        reserve_segments: 1,
        spares_max: 1,
        durability: Durability::Synced,
        node: 1,
        epoch: 1,
    };
    let (mut log, _) = SegmentLog::open(Arc::new(disk), config, 0).unwrap();
    for entries in entries.chunks(500) {
        let mut payload = Vec::new();
        entries.iter().for_each(|entry| entry.encode(&mut payload));
        let count = u32::try_from(entries.len()).unwrap();
        let (kind, slot_group, urgency) = (1, 0, Urgency::Routine);
        log.append(NewBatch { count, payload: &payload, kind, slot_group, urgency }).unwrap();
        log.commit().unwrap();
    }
    log.sync().unwrap();
}

#[expect(clippy::print_stdout, reason = "what it said is to be seen")]
fn rebuild(place: &Place, want: &BTreeMap<&str, String>, when: &str) {
    let output = place.storage(&["rebuild"]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{when}: {said}{}", String::from_utf8_lossy(&output.stderr));
    println!("{when}:\n{said}");
    let mut node = (when == "offline").then(|| place.serve());
    if let Some(node) = &mut node {
        place.drained(node);
    }
    for (table, got) in place.contents() {
        assert!(got == want[table], "{when}: {table} differs after the rebuild");
    }
    if let Some(node) = node {
        end(node);
    }
}

/// The hard way, which is safe at any moment of a start.
fn end(mut node: Child) {
    node.kill().unwrap();
    node.wait().unwrap();
}

#[expect(clippy::print_stdout, reason = "what it said is to be seen")]
fn check(old: Option<OldServer>) {
    let engine = if old.is_some() { "server" } else { "embedded" };
    let place = Place::new(old);
    let mut node = place.serve();
    place.drained(&mut node);
    let want = place.contents();
    for (table, rows) in &want {
        // The first entries of the week open no gap.
        assert!(!rows.is_empty() || *table == "gaps", "{table} is empty");
    }
    let (code, status) = place.status();
    assert_eq!((code, &status["engine"]), (Some(0), &engine.into()), "{status}");
    let rows = |name: &str| {
        let tables = status["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == name).unwrap()["rows"].as_u64().unwrap()
    };
    assert!(rows("readings") > 5000, "{status}");
    // The node's ticks go on: some may be on their way.
    assert!(status["backlog_bytes"].as_u64() < Some(4096), "{status}");

    place.damage();
    rebuild(&place, &want, "beside the running node");
    place.damage();
    end(node);
    rebuild(&place, &want, "offline");

    let text = place.storage(&["status"]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("readings") && text.contains("behind      "), "{text}");
    println!("{text}");
}

#[test]
fn damaged_tables_of_the_embedded_engine_end_as_they_were() {
    check(None);
}

#[test]
fn damaged_tables_of_an_old_server_end_as_they_were() {
    if let Some(old) = OldServer::start() {
        check(Some(old));
    }
}

/// The first segment that a folder has, by its name.
fn first_segment(folder: &Path) -> Option<String> {
    let names = fs::read_dir(folder).ok()?;
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("seg-")).min()
}

#[test]
fn tables_are_made_again_where_only_the_archive_has_the_beginning() {
    const FIRST: &str = "seg-00000000000000000001.log";
    // A snapshot each second: the log gives up what is archived.
    let more = "snapshot_s = 1\n[archive]\nstore = \"../archive\"\n";
    let place = Place::with(None, 128 << 10, more);
    let (log, archive) =
        (place.folder.path().join("data/log"), place.folder.path().join("archive"));
    let mut node = place.serve();
    place.drained(&mut node);
    let want = place.contents();
    while first_segment(&log).unwrap().as_str() == FIRST {
        assert!(node.try_wait().unwrap().is_none(), "the node ended");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(first_segment(&archive).as_deref(), Some(FIRST), "what the log gave up is kept");
    place.damage();
    end(node);

    let away = archive.with_extension("away");
    fs::rename(&archive, &away).unwrap();
    let refused = place.storage(&["rebuild"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "rebuilt without the beginning: {said}");
    assert!(said.contains("neither in the log's folder nor in the archive"), "{said}");
    fs::rename(&away, &archive).unwrap();
    rebuild(&place, &want, "offline");
}

#[test]
fn an_absent_server_is_said_and_the_backlog_is_told() {
    let mut place = Place::new(None);
    let away = free_address().unwrap();
    let config = place.folder.path().join("meterd.toml");
    let settings = fs::read_to_string(&config).unwrap();
    let settings = settings
        .replace("engine = \"embedded\"", &format!("engine = \"server\"\nurl = \"http://{away}\""));
    fs::write(&config, settings).unwrap();
    place.clickhouse = away;
    let mut node = place.serve();
    let status = loop {
        let (code, status) = place.status();
        assert_eq!(code, Some(1), "{status}");
        if status["lag_entries"].as_u64() >= Some(ENTRIES as u64) && !status["last_error"].is_null()
        {
            break status;
        }
        assert!(node.try_wait().unwrap().is_none(), "the node ended");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert!(status["backlog_bytes"].as_u64() > Some(100_000), "{status}");
    assert!(status["unreachable"].as_str().unwrap().contains("does not answer"), "{status}");
    assert!(
        status["last_error"]["message"].as_str().unwrap().contains("does not answer"),
        "{status}"
    );
    node.kill().unwrap();
    node.wait().unwrap();
    let refused = place.storage(&["rebuild"]);
    assert!(!refused.status.success());
}
