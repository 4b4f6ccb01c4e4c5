//! The variant for a cluster, `deploy/clickhouse/cluster/schema.sql`: it follows from the tables that
//! the sink makes, both parsers take it, and on two shards of 18.16 the rows written by slot into
//! local tables are read through the distributed ones.

use std::fs;
use std::path::{Path, PathBuf};

use meter::MeterId;
use storage::clickhouse::{ClickhouseConfig, Collector, Sink, Table};
use tokio::sync::watch;

use crate::support::{Embedded, OldServer, Server, client};

/// The slot of a meter (or of another id) as `MeterId::slot` has it.
const SLOT: &str = "bitShiftRight(toUInt32({id} * 2654435761), 20)";

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/clickhouse/cluster/schema.sql")
}

/// The column whose slot says on which shard a row lies.
fn shard_id(table: Table) -> &'static str {
    match table {
        Table::Readings | Table::Intervals | Table::Gaps | Table::Meters => "meter_id",
        Table::Ledger | Table::Accounts => "account_id",
        Table::Alarms => "subject_id",
        Table::LineLoss => "transformer_id",
    }
}

async fn show(config: &ClickhouseConfig, name: &str) -> String {
    let sql = format!("SHOW CREATE TABLE {}.{name}", config.database);
    let shown: String = client(config).query(&sql).fetch_one().await.unwrap();
    shown.replace(&format!("{}.", config.database), "meterd.")
}

fn distributed(name: &str, id: &str, cluster: &str, on_cluster: &str) -> String {
    let slot = SLOT.replace("{id}", id);
    format!(
        "CREATE TABLE IF NOT EXISTS meterd.{name}{on_cluster} AS meterd.{name}_local\n\
         ENGINE = Distributed('{cluster}', meterd, {name}_local, {slot})"
    )
}

/// The statements, from the tables that the sink made.
async fn schema(config: &ClickhouseConfig) -> Vec<String> {
    let on_cluster = " ON CLUSTER '{cluster}'";
    let mut statements = vec![format!("CREATE DATABASE IF NOT EXISTS meterd{on_cluster}")];
    let tables = Table::ALL.map(|table| (table.name(), shard_id(table)));
    let of_days =
        [("meter_days", "meter_id"), ("account_days", "account_id"), ("reading_days", "meter_id")];
    for (name, id) in tables.into_iter().chain(of_days) {
        let version = if ["ledger", "alarms"].contains(&name) { "seq" } else { "rev" };
        let local = show(config, name)
            .await
            .replacen(
                &format!("CREATE TABLE meterd.{name}"),
                &format!("CREATE TABLE IF NOT EXISTS meterd.{name}_local{on_cluster}"),
                1,
            )
            .replacen(
                &format!("ENGINE = ReplacingMergeTree({version})"),
                &format!(
                    "ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/meterd/{name}', \
                     '{{replica}}', {version})"
                ),
                1,
            );
        assert!(local.contains("_local") && local.contains("Replicated"), "{local}");
        statements.push(local);
        statements.push(distributed(name, id, "{cluster}", on_cluster));
    }
    for view in ["daily", "monthly"] {
        let shown = show(config, view).await;
        let name = format!("CREATE VIEW meterd.{view}");
        assert!(shown.starts_with(&name), "{shown}");
        let made = format!("CREATE VIEW IF NOT EXISTS meterd.{view}{on_cluster}");
        statements.push(shown.replacen(&name, &made, 1));
    }
    statements
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_variant_is_that_of_the_tables_and_parses() {
    let server = Server::Embedded(Embedded::start().await);
    let config = server.fresh("cluster").await;
    drop(Sink::open(config.clone()).await.unwrap());
    let statements = schema(&config).await;
    let head = "-- Meterd's tables on a cluster; see docs/clickhouse.md. Made from the tables of a single\n\
                -- server by storage/tests/clickhouse/cluster.rs (METERD_WRITE_SCHEMA=1 writes it again).\n\
                -- {cluster}, {shard} and {replica} are macros of each server's configuration.\n";
    let text = format!("{head}\n{};\n", statements.join(";\n\n"));
    if std::env::var_os("METERD_WRITE_SCHEMA").is_some() {
        fs::write(path(), &text).unwrap();
    }
    let file = fs::read_to_string(path()).unwrap();
    assert!(file == text, "{} is not that of the tables: METERD_WRITE_SCHEMA=1", path().display());
    for statement in &statements {
        let parsed = client(&config).query(&format!("EXPLAIN AST {statement}").replace('?', "??"));
        parsed.fetch_all::<String>().await.unwrap_or_else(|error| panic!("{error}: {statement}"));
    }
    server.stop().await;

    let Some([old, _other]) = OldServer::start_shards() else { return };
    let server = Server::Old(old);
    let config = server.fresh("cluster").await;
    drop(Sink::open(config.clone()).await.unwrap());
    for statement in schema(&config).await {
        let error = client(&config).query(&statement).execute().await.unwrap_err().to_string();
        // It parses, and then there is no ZooKeeper.
        assert!(!error.contains("Code: 62"), "{error}: {statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_in_sql_is_the_slot_of_the_product() {
    let ids = [1, 2, 17, 112, 4095, 4096, 100_000, 99_999_999, u32::MAX];
    for server in Server::all().await {
        let list = ids.map(|id| id.to_string()).join(", ");
        let slot = SLOT.replace("{id}", "id");
        let sql = format!(
            "SELECT toUInt16({slot}) FROM (SELECT toUInt32(arrayJoin([{list}])) AS id) AS x"
        );
        let got: Vec<u16> =
            client(&server.config("default")).query(&sql).fetch_all().await.unwrap();
        assert_eq!(got, ids.map(|id| MeterId(id).slot()), "{}", server.name());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_written_by_slot_are_read_through_the_distributed_tables() {
    let Some(shards) = OldServer::start_shards() else { return };
    let shards = shards.map(Server::Old);
    let mut sinks = Vec::new();
    for server in &shards {
        let sink = Sink::open(server.config("meterd")).await.unwrap();
        sinks.push(sink);
        let run = async |sql: String| {
            client(&server.config("meterd")).query(&sql).execute().await.unwrap();
        };
        // Without ZooKeeper: the sink's own tables are the local ones, beside distributed ones.
        run("CREATE DATABASE across".to_owned()).await;
        for table in Table::ALL {
            let (name, slot) = (table.name(), SLOT.replace("{id}", shard_id(table)));
            run(format!(
                "CREATE TABLE across.{name} AS meterd.{name} \
                 ENGINE = Distributed('meterd', meterd, {name}, {slot})"
            ))
            .await;
        }
    }
    let (_keep, mut stop) = watch::channel(false);
    // Intervals of 40 meters, twice, each to the shard of its slot.
    for rev in [1, 2] {
        for (shard, sink) in sinks.iter().enumerate() {
            let mut collector = Collector::new(10_000);
            let meters =
                (1..=40).map(MeterId).filter(|meter| usize::from(meter.slot()) % 2 == shard);
            let mut effects = meter::Effects::default();
            for meter in meters {
                effects.intervals.extend((0..96).map(|quarter| {
                    let mut row = crate::store::interval(1, quarter, u64::from(meter.0) * rev, rev);
                    row.meter = meter;
                    row
                }));
            }
            assert!(!effects.intervals.is_empty(), "both shards have meters");
            collector.effects(&effects);
            for batch in collector.seal() {
                sink.send(&batch, &mut stop).await.unwrap();
            }
        }
    }
    for server in &shards {
        let sql = "SELECT [count(), sum(energy_wh)] FROM across.intervals FINAL";
        let got: Vec<u64> = client(&server.config("across")).query(sql).fetch_one().await.unwrap();
        assert_eq!(got, [40 * 96, 96 * 2 * (1..=40).sum::<u64>()]);
    }
}
