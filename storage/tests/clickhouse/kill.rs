//! Exactly once in effect: the engine or the server is killed the hard way while batches are
//! under way, again and again; the sink goes on, and at its end every row is there once.

use meter::{Energy, MeterId, Outcome, Reading, Seq, UnixSeconds};
use storage::clickhouse::{Batch, Collector, Sink, Table};
use tokio::sync::watch;

use crate::support::{Server, client};

const KILLS: usize = 20;
const BATCH_ROWS: u32 = 20_000;
/// 2026-05-01.
const START: u32 = 1_777_593_600;

/// One immutable batch of readings; `number` decides its keys.
fn batch(number: u32) -> Batch {
    let mut collector = Collector::new(100_000);
    for row in 0..BATCH_ROWS {
        let seq = number * BATCH_ROWS + row;
        let reading = Reading {
            meter: MeterId(row % 1000 + 1),
            taken_at: UnixSeconds(START + seq / 1000 * 60),
            received_at: UnixSeconds(START + seq / 1000 * 60 + 3),
            register: Energy::from_wh(u64::from(seq)),
            ..Reading::default()
        };
        collector.reading(Seq(u64::from(seq) + 1), &reading, Outcome::Accepted);
    }
    let mut batches = collector.seal();
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_there_once_after_twenty_kills() {
    for mut server in Server::all().await {
        if matches!(server, Server::Given(_)) {
            continue;
        }
        let name = server.name();
        let sink = Sink::open(server.fresh("kills").await).await.unwrap();
        let (_keep, mut stop) = watch::channel(false);
        let mut sent = 0_u32;
        let mut interrupted = 0_usize;
        for round in 0..KILLS {
            // Some batches undisturbed, then one that the kill meets somewhere: the delay before
            // it sweeps over the time that an insert takes.
            let calm = batch(sent);
            let started = tokio::time::Instant::now();
            sink.send(&calm, &mut stop).await.unwrap();
            let usual = started.elapsed();
            let struck = batch(sent + 1);
            sent += 2;
            let retries = sink.status().borrow().retries;
            let delay = usual * u32::try_from(round % 10).unwrap() / 10;
            let sender = sink.clone();
            let mut sender_stop = stop.clone();
            let sending = tokio::spawn(async move { sender.send(&struck, &mut sender_stop).await });
            tokio::time::sleep(delay).await;
            server.kill();
            sending.await.unwrap().unwrap();
            interrupted += usize::from(sink.status().borrow().retries > retries);
        }
        let rows = u64::from(sent * BATCH_ROWS);
        // The last kill may still be felt: the count waits for the engine as a sender would.
        let mut count = sink.history().count(Table::Readings).await;
        while count.is_err() {
            tokio::task::yield_now().await;
            count = sink.history().count(Table::Readings).await;
        }
        assert_eq!(count.unwrap(), rows, "{name}");
        let sum: Vec<u64> = sums(&server).await;
        assert_eq!(sum, [rows, rows * (rows - 1) / 2], "{name}: rows, sum of registers");
        let raw = sink.history().sizes().await.unwrap();
        let raw = raw.iter().find(|size| size.table == "readings").unwrap().rows;
        println!(
            "{name}: {KILLS} kills, {interrupted} cut an insert, {rows} rows under FINAL, {raw} stored"
        );
        assert!(interrupted > 0, "{name}: no kill met an insert");
        server.stop().await;
    }
}

async fn sums(server: &Server) -> Vec<u64> {
    let client = client(&server.config("kills"));
    let sql = "SELECT [count(), sum(register_wh)] FROM kills.readings FINAL";
    client.query(sql).fetch_one().await.unwrap()
}
