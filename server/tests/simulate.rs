//! `meterd simulate` as its user starts it: a mixed fleet with every kind of incident, through
//! faults and hostile frames, while its node is killed; and every result must still be right.

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

const FLEET: &str = "meters = 512\n\
    [incidents]\ntheft = 50\nspikes = 50\nrollovers = 50\noutages = 400\nswaps = 100\n\
    [[group]]\nshare = 3\npurchases = 20\n\
    [[group]]\nlink = \"gateway\"\nphases = 3\ntariff = \"flat\"\nclock_drift_ppm_max = 50\n";

fn simulate(folder: &Path, arguments: &[&str]) -> serde_json::Value {
    let (fleet, json, html) =
        (folder.join("fleet.toml"), folder.join("run.json"), folder.join("run.html"));
    fs::write(&fleet, FLEET).expect("the fleet is written");
    let output = Command::new(env!("CARGO_BIN_EXE_meterd"))
        .args(["simulate", "--plain", "--seed", "5"])
        .args(["--fleet".as_ref(), fleet.as_os_str()])
        .args(["--data-dir".as_ref(), folder.join("node").as_os_str()])
        .args(["--json".as_ref(), json.as_os_str()])
        .args(["--html".as_ref(), html.as_os_str()])
        .args(arguments)
        .env("METERD_CHDB_LIB", library())
        .env("RUST_LOG", "warn")
        .output()
        .expect("meterd starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let logged = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{logged}", output.status);
    let page = fs::read_to_string(html).expect("the page is written");
    assert!(page.matches("<svg").count() == 4 && !page.contains("http"), "{page}");
    let report = fs::read_to_string(json).expect("the report is written");
    serde_json::from_str(&report).expect("the report is JSON")
}

#[test]
fn a_mixed_fleet_comes_out_right_through_faults_and_kills() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let faults = [
        "--loss",
        "20",
        "--duplicate",
        "20",
        "--reorder",
        "50",
        "--wrong-key",
        "5",
        "--replay",
        "3",
        "--garbage",
        "2",
    ];
    let arguments = [&["--seconds", "15", "--pace", "360", "--kill", "2"], &faults[..]].concat();
    let report = simulate(folder.path(), &arguments);
    assert_eq!(report["kills"], 2);
    assert!(report["sent"]["faults_up"]["lost"].as_u64() > Some(0), "{report:#}");
    let checks = report["checks"].as_array().expect("the report has checks");
    assert!(checks.len() >= 7, "{report:#}");
    assert!(checks.iter().all(|check| check["ok"] == true), "{report:#}");
}

/// The node's own counters tell every reading once: the dataflow took it or put it aside.
fn assert_counted(report: &serde_json::Value) {
    let count = |verdict: &str| {
        let name = format!("meterd_readings_total{{verdict=\"{verdict}\"}}");
        report["outcomes"][name].as_u64().expect("the node counts verdicts")
    };
    let taken = count("accepted") + count("quarantined");
    assert_eq!(Some(taken), report["sent"]["expected"].as_u64(), "{report:#}");
}

#[test]
fn gateways_come_back_after_a_storm_and_fill_two_days() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fleet = ["--seconds", "7", "--pace", "390"];
    let storm = simulate(folder.path(), &[&["--shape", "storm"], &fleet[..]].concat());
    assert!(storm["reconnected_s"].as_f64().is_some(), "{storm:#}");
    assert_eq!((&storm["sent"]["connects"], &storm["sent"]["disconnects"]), (&6.into(), &3.into()));
    assert_counted(&storm);

    let backfill = ["--shape", "backfill", "--days", "2"];
    let backfill = simulate(folder.path(), &[&backfill, &fleet[..]].concat());
    // Besides what the storm had: two days of quarter hours from the 32 meters of each gateway.
    let sent = |report: &serde_json::Value| report["sent"]["expected"].as_u64();
    assert_eq!(sent(&backfill), sent(&storm).map(|live| live + 3 * 32 * 2 * 96), "{backfill:#}");
    assert_counted(&backfill);
}

#[test]
fn mistakes_are_named_before_anything_starts() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let check = |fleet: &str, arguments: &[&str], want: &str| {
        let path = folder.path().join("fleet.toml");
        fs::write(&path, fleet).expect("the fleet is written");
        let output = Command::new(env!("CARGO_BIN_EXE_meterd"))
            .arg("simulate")
            .args(["--fleet".as_ref(), path.as_os_str()])
            .args(["--data-dir".as_ref(), folder.path().join("node").as_os_str()])
            .args(arguments)
            .output()
            .expect("meterd starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(want), "{said}");
        assert!(!folder.path().join("node").exists(), "nothing is made");
    };
    check("metres = 5", &[], "1:1: a fleet has no \"metres\"; did you mean \"meters\"?");
    check("", &["--seconds", "5", "--pace", "1"], "give --period 5 or less");
    check("", &["--part", "5/4"], "NUMBER/PARTS");
    check("", &["--loss", "1001"], "--loss");
    check("", &["--node", "127.0.0.1:1"], "--api");
}
