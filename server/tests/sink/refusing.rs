//! F6: a ClickHouse that refuses: too many parts, a column or a table gone, a wrong password. The
//! failure shows, the spool takes everything, and once a person has acted all of it is there, once.

use std::sync::Arc;

use meter::Seq;
use server::clock;
use server::cursor::Cursor;
use server::sink::Pump;
use server::spool::Spool;
use storage::clickhouse::{ClickhouseConfig, Sink};
use tokio::sync::watch;

use crate::outage::reach;
use crate::proxy::{Mood, Proxy};
use crate::pump;
use crate::support::{Server, ask, client};

/// What refuses, how it begins and ends, and the code of ClickHouse that it shows.
const REFUSALS: [(&str, &str, &str, &str); 4] = [
    (
        "too many parts",
        "ALTER TABLE readings MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1",
        "ALTER TABLE readings RESET SETTING parts_to_delay_insert, parts_to_throw_insert",
        "252",
    ),
    (
        "a column is gone",
        "ALTER TABLE readings RENAME COLUMN power_w TO power",
        "ALTER TABLE readings RENAME COLUMN power TO power_w",
        "16",
    ),
    ("a table is gone", "RENAME TABLE ledger TO hidden", "RENAME TABLE hidden TO ledger", "60"),
    ("the password is wrong", "", "", ""),
];

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::print_stdout, reason = "the figures are to be seen")]
async fn a_refusing_clickhouse_loses_nothing_and_holds_nobody_up() {
    for server in Server::all().await {
        let folder = tempfile::tempdir().unwrap();
        let direct = server.fresh("refusing").await;
        let writer = client(&direct).with_database("refusing");
        let proxy = Proxy::start(&direct.url).await;
        let target = ClickhouseConfig { url: proxy.url.clone(), ..direct };
        let mut spool = Spool::new(pump::open_spool(folder.path()));
        let cursor = Cursor::new(folder.path());
        let place = cursor.load().unwrap();
        let progress = server::sink::Progress::new(place.next);
        let reader = spool.log_mut().read_from(place.next);
        let sink_pump = Pump::new(pump::config(), cursor, place, reader, Arc::clone(&progress));
        let (stop, stopped) = watch::channel(false);
        let password = target.password.clone();
        let sink = Sink::open(target).await.unwrap();
        let mut status = sink.status();
        let pumping = tokio::spawn(sink_pump.run(sink, stopped));
        let mut next = 1;
        let mut more = |count| {
            pump::append(&mut spool, next, count);
            next += count;
            next
        };
        let end = more(400);
        reach(&progress, end).await;

        for (name, begin, end_by, code) in REFUSALS {
            if begin.is_empty() && password.is_empty() {
                println!("{}: {name}: cannot be tried here: there is none", server.name());
                continue;
            } else if begin.is_empty() {
                proxy.be(Mood::Blot(password.clone()));
            } else if writer.query(begin).execute().await.is_err() {
                println!("{}: {name}: cannot be tried here", server.name());
                continue;
            }
            let retries = status.borrow().retries;
            more(400);
            let refused = |status: &storage::clickhouse::SinkStatus| {
                status.retries >= retries + 2
                    && status.error.as_ref().is_some_and(|error| error.contains(code))
            };
            status.wait_for(refused).await.unwrap();
            let said = status.borrow().error.clone().unwrap_or_default();
            let held = progress.next();
            let began = clock::instant();
            let end = more(400);
            let took = began.elapsed();
            assert_eq!(progress.next(), held, "{name}: nothing passes");
            if begin.is_empty() {
                proxy.be(Mood::Pass);
            } else {
                writer.query(end_by).execute().await.unwrap();
            }
            let began = clock::instant();
            reach(&progress, end).await;
            println!(
                "F6 {}: {name}: 400 entries spooled in {took:?} meanwhile, caught up {:?} after; \
                 it said: {}",
                server.name(),
                began.elapsed(),
                said.chars().take(120).collect::<String>()
            );
            assert_eq!(status.borrow().error, None, "{name}: the failure is past");
            assert_eq!(progress.next(), Seq(end.into()));
        }
        stop.send_replace(true);
        pumping.await.unwrap().unwrap();
        let rows = u64::from(next - 1);
        let sum: u64 = (1..=rows).sum();
        for (table, column, sum) in [
            ("readings", "register_wh", sum.to_string()),
            ("ledger", "amount_ticks", format!("-{sum}")),
        ] {
            let sql = format!("SELECT count(), sum({column}) FROM {table} FINAL");
            let answer = ask(&server, "refusing", &sql);
            assert_eq!(answer.body, format!("{rows}\t{sum}\n"), "{} {table}", server.name());
        }
        server.stop().await;
    }
}
