//! What is kept and for how long, and tables made anew.

use meter::{Energy, MeterId, Outcome, Reading, Seq, UnixSeconds};
use storage::clickhouse::{
    Batch, ClickhouseConfig, ClickhouseError, Collector, Rebuild, Retention, Sink, Table,
};
use tokio::sync::watch;

use crate::support::{Server, client};

/// 2016-11-21 and 2100-01-01: past and within any retention, whenever the test runs.
const OLD: u32 = 1_479_686_400;
const NEW: u32 = 4_102_444_800;

/// Readings and gaps, old and new ones, 100 of each.
fn batches() -> Vec<Batch> {
    let mut collector = Collector::new(1000);
    let mut effects = meter::Effects::default();
    for row in 0..200 {
        let at = UnixSeconds(if row < 100 { OLD } else { NEW } + row * 900);
        let register = Energy::from_wh(row.into());
        let meter = MeterId(row % 10 + 1);
        let reading =
            Reading { meter, taken_at: at, received_at: at, register, ..Reading::default() };
        collector.reading(Seq(u64::from(row) + 1), &reading, Outcome::Accepted);
        effects.gaps.push(meter::GapRow {
            meter,
            from: at,
            to: at.plus(900),
            missing: 1,
            state: meter::GapState::Open,
            rev: Seq(1),
        });
    }
    collector.effects(&effects);
    collector.seal()
}

async fn fill(sink: &Sink) {
    let (_keep, mut stop) = watch::channel(false);
    for batch in batches() {
        sink.send(&batch, &mut stop).await.unwrap();
    }
}

async fn counts(sink: &Sink) -> [u64; 2] {
    let history = sink.history();
    [history.count(Table::Readings).await.unwrap(), history.count(Table::Gaps).await.unwrap()]
}

/// Opens with this retention of readings and lets the server merge what it would merge in time.
async fn open(config: &ClickhouseConfig, readings: u32) -> Sink {
    let retention = Retention { readings, ..Retention::FOREVER };
    let sink = Sink::open(ClickhouseConfig { retention, ..config.clone() }).await.unwrap();
    for table in ["readings", "gaps"] {
        let sql = format!("OPTIMIZE TABLE {}.{table} FINAL", config.database);
        client(config).query(&sql).execute().await.unwrap();
    }
    sink
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_kept_as_long_as_its_policy_says_also_when_that_changes() {
    for server in Server::all().await {
        let name = server.name();
        let config = server.fresh("kept").await;
        let sink = open(&config, 0).await;
        fill(&sink).await;
        assert_eq!(counts(&sink).await, [200, 200], "{name}: kept for ever");
        // The policy of one table changes; the others keep what they have.
        let sink = open(&config, 24).await;
        assert_eq!(counts(&sink).await, [100, 200], "{name}: 24 months of readings");
        let sink = open(&config, 0).await;
        fill(&sink).await;
        let sink_again = open(&config, 0).await;
        assert_eq!(counts(&sink_again).await, [200, 200], "{name}: kept for ever again");
        // What a running node does once a day.
        let daily = open(&config, 36).await;
        fill(&sink).await;
        daily.retain().await.unwrap();
        let table = format!("OPTIMIZE TABLE {}.readings FINAL", config.database);
        client(&config).query(&table).execute().await.unwrap();
        assert_eq!(counts(&daily).await, [100, 200], "{name}: 36 months of readings");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_made_anew_take_the_place_of_damaged_ones() {
    for server in Server::all().await {
        let name = server.name();
        let config = server.fresh("anew").await;
        fill(&Sink::open(config.clone()).await.unwrap()).await;
        let run = async |sql: &str| client(&config).query(sql).execute().await.unwrap();
        run("ALTER TABLE anew.gaps MODIFY COLUMN missing UInt64").await;
        run("DROP TABLE anew.readings").await;
        run("DROP TABLE anew.daily").await;
        let error = Sink::open(config.clone()).await.unwrap_err();
        assert!(matches!(error, ClickhouseError::SchemaDiffers { .. }), "{name} {error}");

        // One that is cut short harms nothing and is not in the way of the next.
        let cut = Rebuild::begin(config.clone()).await.unwrap();
        fill(cut.sink()).await;
        drop(cut);
        let rebuild = Rebuild::begin(config.clone()).await.unwrap();
        assert_eq!(counts(rebuild.sink()).await, [0, 0], "{name}: begun anew");
        fill(rebuild.sink()).await;
        let sink = rebuild.finish().await.unwrap();
        assert_eq!(counts(&sink).await, [200, 200], "{name}");
        run("SELECT count() FROM anew.daily").await;
        let left: u64 = client(&config)
            .query("SELECT count() FROM system.databases WHERE name = 'anew_rebuild'")
            .fetch_one()
            .await
            .unwrap();
        assert_eq!(left, 0, "{name}: nothing is left beside");
        server.stop().await;
    }
}
