//! What a node says when it cannot start: what, where, and what to do; and nothing is changed.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `meterd serve` with these settings; it must end by itself.
    fn serve(&self, settings: &str) -> Output {
        let config = self.path("meterd.toml");
        fs::write(&config, settings).expect("the settings are written");
        Command::new(env!("CARGO_BIN_EXE_meterd"))
            .args(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
            .env_remove("METERD_CHDB_LIB")
            .env("RUST_LOG", "error")
            .current_dir(self.folder.path())
            .output()
            .expect("meterd starts")
    }

    /// Settings of a node that would start: free ports, no embedded engine, small segments.
    fn settings(&self, more: &str) -> String {
        format!(
            "[node]\ndata_dir = {:?}\n[log]\nsegment_bytes = 1048576\nreserve_bytes = 1048576\n\
             commit_bytes_max = 524288\n[clickhouse]\nengine = \"server\"\n\
             url = \"http://127.0.0.1:9\"\n[api]\nlisten = \"127.0.0.1:0\"\n{more}",
            self.path("data")
        )
    }
}

fn check(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_typo_is_named_with_its_place() {
    let place = Place::new();
    let output = place.serve("[ingest]\nudp_lisen = \"127.0.0.1:0\"\n");
    check(&output, 2, &["meterd.toml:2:1", "udp_lisen", "did you mean \"udp_listen\""]);
    assert!(!place.path(".meterd").exists(), "nothing is made");
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = udp.local_addr().expect("it is bound");
    let more = format!("[ingest]\nudp_listen = \"{address}\"\ntcp_listen = \"127.0.0.1:0\"\n");
    check(&place.serve(&place.settings(&more)), 1, &[&address.to_string(), "in use"]);

    let tcp = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = tcp.local_addr().expect("it is bound");
    let more = format!("[ingest]\nudp_listen = \"127.0.0.1:0\"\ntcp_listen = \"{address}\"\n");
    check(&place.serve(&place.settings(&more)), 1, &[&address.to_string(), "in use"]);
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    let place = Place::new();
    fs::write(place.path("data"), "a file stands here").expect("a file");
    check(&place.serve(&place.settings("")), 1, &["data folder", "node.data_dir"]);
}

#[test]
fn a_registry_that_is_no_database_is_named_and_left_as_it_is() {
    let place = Place::new();
    fs::create_dir_all(place.path("data")).expect("a folder");
    let (file, noise) = (place.path("data").join("registry.sqlite"), [0x5A; 8192]);
    fs::write(&file, noise).expect("a file");
    let more = "[ingest]\nudp_listen = \"127.0.0.1:0\"\ntcp_listen = \"127.0.0.1:0\"\n";
    check(&place.serve(&place.settings(more)), 1, &["cannot open the registry", "database"]);
    assert_eq!(fs::read(&file).expect("it is still there"), noise, "nothing is changed");
}

#[test]
fn a_missing_library_is_told_with_the_command_that_fetches_it() {
    let place = Place::new();
    let settings = place.settings("").replace("engine = \"server\"", "engine = \"embedded\"");
    check(&place.serve(&settings), 1, &["libchdb", "fetch-libchdb.sh", "METERD_CHDB_LIB"]);
}

#[test]
fn a_damaged_log_is_refused_with_its_offset_and_left_as_it_is() {
    let place = Place::new();
    let log = place.path("data").join("log");
    fs::create_dir_all(&log).expect("a folder");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage/tests/fixtures/log-v1");
    for entry in fs::read_dir(fixture).expect("the fixture is there") {
        let path = entry.expect("a folder lists its files").path();
        fs::copy(&path, log.join(path.file_name().expect("a file has a name"))).expect("copied");
    }
    // The payload of the first batch; a later segment proves that it had been committed.
    let name = "seg-00000000000000000001.log";
    let mut bytes = fs::read(log.join(name)).expect("the segment reads");
    bytes[4096 + 48] ^= 1;
    fs::write(log.join(name), &bytes).expect("the segment is damaged");
    let more = "[ingest]\nudp_listen = \"127.0.0.1:0\"\ntcp_listen = \"127.0.0.1:0\"\n";
    check(&place.serve(&place.settings(more)), 1, &["damaged at byte 4096", "restore"]);
    assert_eq!(fs::read(log.join(name)).expect("it is still there"), bytes, "nothing is changed");
}
