//! Grafana's panels run and find something; what dashboards and alert rules ask of `/metrics` is
//! there; promtool has nothing against the rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use loadgen::free_address;
use meter::UnixSeconds;
use serde_json::Value;
use storage::clickhouse::Sink;

use crate::support::{Server, ask};
use crate::week;

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// A panel and the statement or expression of one of its targets.
struct Target {
    panel: String,
    source: String,
    text: String,
}

fn targets() -> Vec<Target> {
    let mut targets = Vec::new();
    for file in fs::read_dir(deploy("grafana/dashboards")).unwrap() {
        let board: Value =
            serde_json::from_slice(&fs::read(file.unwrap().path()).unwrap()).unwrap();
        for panel in board["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let text = |name: &str| target[name].as_str().map(str::to_owned);
                targets.push(Target {
                    panel: format!("{} / {}", board["title"], panel["title"]),
                    source: target["datasource"]["uid"].as_str().unwrap().to_owned(),
                    text: text("rawSql").or_else(|| text("expr")).unwrap(),
                });
            }
        }
    }
    targets
}

/// Fills in what Grafana's plugin fills in.
fn render(sql: &str, from: UnixSeconds, to: UnixSeconds) -> String {
    let mut sql = sql.replace("${meter}", "17");
    while let Some((before, after)) = sql.split_once("$__timeFilter(") {
        let (column, after) = after.split_once(')').unwrap();
        let (from, to) = (from.0, to.0);
        sql = format!(
            "{before}{column} >= toDateTime({from}) AND {column} <= toDateTime({to}){after}"
        );
    }
    sql.replace("$__fromTime", &format!("toDateTime({})", from.0))
        .replace("$__toTime", &format!("toDateTime({})", to.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_shows_something() {
    let feeder = week::feeder();
    let targets = targets();
    let queries = targets.iter().filter(|target| target.source == "meterd-clickhouse");
    let queries: Vec<&Target> = queries.collect();
    assert!(queries.len() >= 20, "{} panels", queries.len());
    for server in Server::all().await {
        let sink = Sink::open(server.fresh("week").await).await.unwrap();
        week::load(&sink).await;
        for Target { panel, text, .. } in &queries {
            let sql = render(text, feeder.start(), feeder.end());
            assert!(!sql.contains('$'), "{panel}: a macro is left in {sql}");
            let answer = ask(&server, "week", &format!("{sql}\nFORMAT TabSeparated"));
            let name = server.name();
            assert_eq!(answer.status, 200, "{name} {panel}: {sql}\n{}", answer.body);
            // Nothing of the week is quarantined: that panel alone may be empty.
            let may_be_empty = panel.contains("quarantine");
            assert!(may_be_empty || !answer.body.is_empty(), "{name} {panel} is empty: {sql}");
        }
        println!("{}: {} panels", server.name(), queries.len());
        server.stop().await;
    }
}

/// Words that begin as our metrics do.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c)).filter(|word| word.starts_with("meterd_"));
    words.map(str::to_owned).collect()
}

#[test]
fn what_dashboards_and_alerts_ask_for_is_in_the_metrics() {
    let served = metrics_in(&metrics_of_a_node());
    assert!(served.contains("meterd_sink_lag_entries"), "{served:?}");
    let rules = fs::read_to_string(deploy("prometheus/meterd-alerts.yml")).unwrap();
    let mut asked = metrics_in(&rules);
    asked.extend(targets().iter().filter(|t| t.source == "meterd-prometheus").flat_map(|t| {
        let asked = metrics_in(&t.text);
        assert!(!asked.is_empty(), "{} asks for nothing of ours", t.panel);
        asked
    }));
    assert!(asked.len() > 10, "{asked:?}");
    let absent: Vec<&String> = asked.difference(&served).collect();
    assert!(absent.is_empty(), "not in /metrics: {absent:?}");
}

/// `/metrics` of a node without ClickHouse, devices or readings.
fn metrics_of_a_node() -> String {
    let folder = tempfile::tempdir().unwrap();
    let (api, away) = (free_address().unwrap(), free_address().unwrap());
    let config = folder.path().join("meterd.toml");
    let settings = format!(
        "[node]\ndata_dir = {:?}\n[log]\nsegment_bytes = 1048576\nreserve_bytes = 1048576\n\
         commit_bytes_max = 524288\n[ingest]\nudp_listen = \"127.0.0.1:0\"\n\
         tcp_listen = \"127.0.0.1:0\"\n[clickhouse]\nengine = \"server\"\nurl = \"http://{away}\"\n\
         [api]\nlisten = \"{api}\"\n",
        folder.path().join("data")
    );
    fs::write(&config, settings).unwrap();
    let mut node = Command::new(env!("CARGO_BIN_EXE_meterd"))
        .args(["serve".as_ref(), "--config".as_ref(), config.as_os_str()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let request = b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n";
    let answer = loop {
        if let Some(status) = node.try_wait().unwrap() {
            panic!("the node ended: {status}");
        }
        if let Ok(stream) = std::net::TcpStream::connect(api) {
            break crate::support::exchange(stream, request);
        }
        std::thread::yield_now();
    };
    node.kill().unwrap();
    node.wait().unwrap();
    answer
}

#[test]
fn promtool_has_nothing_against_the_rules() {
    let promtool = |arguments: [&str; 2], file: &str| {
        let run = Command::new("promtool")
            .args(arguments)
            .arg(file)
            .current_dir(deploy("prometheus"))
            .output();
        match run {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned()
                    + &String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{said}");
                println!("{said}");
            }
            Err(_) => println!("NOT RUN: no promtool here (Debian: apt install prometheus)"),
        }
    };
    promtool(["check", "rules"], "meterd-alerts.yml");
    promtool(["test", "rules"], "meterd-alerts.test.yml");
}
