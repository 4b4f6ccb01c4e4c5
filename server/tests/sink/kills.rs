//! Kills of the sink's process and of the engine or server, between insert and cursor, on each
//! engine: afterwards every row is there once. `METERD_KILLS` says how many of each (`make soak`: 20).

use std::time::Duration;

use meter::Seq;
use server::spool::Spool;

use crate::pump;
use crate::support::{Server, ask};

/// Kills of each kind on each engine, where nothing else is said.
const KILLS: u32 = 5;
/// Entries that the sink works on between two kills.
const STEP: u32 = 2000;

/// Which of the two is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Sink,
    Server,
}

async fn every_row_is_there_once(victim: Victim) {
    let kills = std::env::var("METERD_KILLS").map_or(KILLS, |kills| kills.parse().unwrap());
    for mut server in Server::all().await {
        if matches!((&server, victim), (Server::Given(_), Victim::Server)) {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let target = server.fresh("cursor").await;
        let mut next = 1;
        let mut cut = 0;
        let mut sink = pump::start(folder.path(), &target);
        for round in 0..kills {
            // The sink reads what another process appends only at its start, so it is started
            // again: half of the rounds find a block under way, which it then must send again.
            sink.kill().unwrap();
            sink.wait().unwrap();
            pump::append(&mut Spool::new(pump::open_spool(folder.path())), next, STEP);
            next += STEP;
            sink = pump::start(folder.path(), &target);
            let from = pump::place(folder.path()).next;
            while pump::place(folder.path()).next == from {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            // From the first cursor on: the moments of the kills sweep over a block's time.
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 700)).await;
            match victim {
                Victim::Sink => sink.kill().unwrap(),
                Victim::Server => server.kill(),
            }
            let place = pump::place(folder.path());
            cut += u32::from(place.intent > place.next);
        }
        sink.kill().unwrap();
        sink.wait().unwrap();
        let mut last = pump::start(folder.path(), &target);
        while pump::place(folder.path()).next < Seq(next.into()) {
            assert!(last.try_wait().unwrap().is_none(), "the sink ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        last.kill().unwrap();
        last.wait().unwrap();
        let told = format!("{kills} kills of the {victim:?}, {cut} between insert and cursor");
        check(&server, next - 1, &told);
        assert!(cut > 0, "no kill met a block under way");
        server.stop().await;
    }
}

/// Compares rows and sums with what was appended.
#[expect(clippy::print_stdout, reason = "the counts are to be seen")]
fn check(server: &Server, rows: u32, told: &str) {
    let sum: u64 = (1..=u64::from(rows)).sum();
    for (table, column, sum) in [
        ("readings", "register_wh", sum.to_string()),
        ("intervals", "energy_wh", sum.to_string()),
        ("ledger", "amount_ticks", format!("-{sum}")),
    ] {
        let sql = format!("SELECT count(), sum({column}) FROM {table} FINAL");
        let answer = ask(server, "cursor", &sql).body;
        assert_eq!(answer, format!("{rows}\t{sum}\n"), "{} {told} {table}", server.name());
    }
    println!(
        "{}: {told}; {rows} readings, {rows} intervals, {rows} movements, each once",
        server.name()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sink_loses_and_doubles_nothing() {
    every_row_is_there_once(Victim::Sink).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_or_server_loses_and_doubles_nothing() {
    every_row_is_there_once(Victim::Server).await;
}
