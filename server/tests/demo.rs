//! The whole product as its user starts it: `meterd demo` plays a feeder's week through a real
//! node with a real ClickHouse, the node is killed (SIGKILL) on the way, and every result must
//! still be right: readings acknowledged = stored, balances to the tick, line loss, alarms.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where `make` puts the engine's library, unless the environment names another.
fn library() -> PathBuf {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.meterd/lib/libchdb.so");
    let library = std::env::var_os("METERD_CHDB_LIB").map_or(fetched, PathBuf::from);
    assert!(library.is_file(), "{} is not there: run `make lib`", library.display());
    library
}

#[test]
fn the_week_comes_out_right_though_the_node_is_killed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let json = folder.path().join("demo.json");
    let output = Command::new(env!("CARGO_BIN_EXE_meterd"))
        .args(["demo", "--once", "--seconds", "60", "--kill", "3", "--seed", "11"])
        .args(["--data-dir".as_ref(), folder.path().join("demo").as_os_str()])
        .args(["--json".as_ref(), json.as_os_str()])
        .env("METERD_CHDB_LIB", library())
        .env("RUST_LOG", "warn")
        .output()
        .expect("meterd starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let logged = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{logged}", output.status);
    assert!(said.contains("the node was killed 3 times"), "{said}");
    let report = fs::read_to_string(&json).expect("the report is written");
    let report: serde_json::Value = serde_json::from_str(&report).expect("the report is JSON");
    let checks = report["checks"].as_array().expect("the report has checks");
    assert!(checks.len() >= 10, "{report:#}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{report:#}");
}
