//! A ClickHouse that is absent, comes, goes, and is slow: the spool takes everything meanwhile, and
//! the sink drains it.

use std::sync::Arc;
use std::time::Duration;

use meter::Seq;
use server::cursor::Cursor;
use server::sink::{Progress, Pump};
use server::spool::Spool;
use storage::clickhouse::{ClickhouseConfig, Sink};
use tokio::sync::watch;

use crate::proxy::{Mood, Proxy};
use crate::pump;
use crate::support::{Server, ask};

pub(crate) async fn reach(progress: &Progress, next: u32) {
    while progress.next() < Seq(next.into()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_and_a_slow_clickhouse_lose_nothing_and_hold_nobody_up() {
    for server in Server::all().await {
        let folder = tempfile::tempdir().unwrap();
        let direct = server.fresh("outage").await;
        let proxy = Proxy::start(&direct.url).await;
        let target = ClickhouseConfig { url: proxy.url.clone(), ..direct };
        let mut spool = Spool::new(pump::open_spool(folder.path()));
        let cursor = Cursor::new(folder.path());
        let place = cursor.load().unwrap();
        let progress = Progress::new(place.next);
        let reader = spool.log_mut().read_from(place.next);
        let sink_pump = Pump::new(pump::config(), cursor, place, reader, Arc::clone(&progress));

        // Absent from the beginning: nothing is sent, everything is taken in.
        proxy.be(Mood::Away);
        let (stop, stopped) = watch::channel(false);
        let mut opening = stopped.clone();
        let opened = tokio::spawn(async move { Sink::open_patiently(target, &mut opening).await });
        pump::append(&mut spool, 1, 2000);
        assert_eq!(progress.next(), Seq(1));
        proxy.be(Mood::Pass);
        let sink = opened.await.unwrap().unwrap();
        let mut status = sink.status();
        let pumping = tokio::spawn(sink_pump.run(sink, stopped));
        reach(&progress, 2001).await;

        // Gone in the middle: the failure shows, the spool goes on.
        proxy.be(Mood::Away);
        pump::append(&mut spool, 2001, 10_000);
        status.wait_for(|status| status.retries >= 2 && status.error.is_some()).await.unwrap();
        let held = progress.next();
        pump::append(&mut spool, 12_001, 2000);
        assert_eq!(progress.next(), held, "nothing passes while it is away");

        // Back, but slow: it goes on at that pace, and the spool still does not wait.
        proxy.be(Mood::Slow(Duration::from_millis(5)));
        reach(&progress, u32::try_from(held.0).unwrap() + 400).await;
        pump::append(&mut spool, 14_001, 2000);
        let slow = progress.next();
        assert!(slow < Seq(16_001), "a slow ClickHouse is behind");
        proxy.be(Mood::Pass);
        reach(&progress, 16_001).await;
        assert_eq!(status.borrow().error, None, "the failure is past");
        stop.send_replace(true);
        pumping.await.unwrap().unwrap();
        let sum: u64 = (1..=16_000).sum();
        let answer = ask(&server, "outage", "SELECT count(), sum(register_wh) FROM readings FINAL");
        assert_eq!(answer.body, format!("16000\t{sum}\n"), "{}", server.name());
        let retries = status.borrow().retries;
        println!("{}: 16000 readings once, {retries} sendings repeated", server.name());
        server.stop().await;
    }
}
