//! F6: a ClickHouse that refuses: too many parts, a column or a table gone, a wrong password. The
//! failure shows, the spool takes everything, and once a person has acted all of it is there, once.

use std::sync::Arc;

use server::clock;
use server::cursor::Cursor;
use server::sink::{Progress, Pump};
use server::spool::Spool;
use storage::clickhouse::{ClickhouseConfig, Sink, SinkStatus};
use tokio::sync::watch;

use crate::outage::reach;
use crate::proxy::{Mood, Proxy};
use crate::pump;
use crate::support::{Server, ask, client};

/// Entries appended at a time: one block.
const STEP: u32 = 400;

/// What refuses, the statements that begin and end it, and the code of ClickHouse that shows.
struct Refusal {
    name: &'static str,
    begin: &'static str,
    end: &'static str,
    code: &'static str,
}

const REFUSALS: [Refusal; 4] = [
    Refusal {
        name: "too many parts",
        begin: "ALTER TABLE readings MODIFY SETTING parts_to_delay_insert = 1, \
                parts_to_throw_insert = 1",
        end: "ALTER TABLE readings RESET SETTING parts_to_delay_insert, parts_to_throw_insert",
        code: "252",
    },
    Refusal {
        name: "a column is gone",
        begin: "ALTER TABLE readings RENAME COLUMN power_w TO power",
        end: "ALTER TABLE readings RENAME COLUMN power TO power_w",
        code: "16",
    },
    Refusal {
        name: "a table is gone",
        begin: "RENAME TABLE ledger TO hidden",
        end: "RENAME TABLE hidden TO ledger",
        code: "60",
    },
    Refusal { name: "the password is wrong", begin: "", end: "", code: "" },
];

/// A spool on its way to ClickHouse, through a proxy.
struct Way {
    proxy: Proxy,
    password: String,
    /// Straight to ClickHouse, to change it.
    writer: clickhouse::Client,
    spool: Spool,
    /// The entry that is appended next.
    next: u32,
    progress: Arc<Progress>,
    status: watch::Receiver<SinkStatus>,
}

impl Way {
    /// Appends entries; returns the one after them.
    fn more(&mut self) -> u32 {
        pump::append(&mut self.spool, self.next, STEP);
        self.next += STEP;
        self.next
    }

    /// Has ClickHouse refuse; `false` where it cannot be made to.
    async fn begin(&self, refusal: &Refusal) -> bool {
        if !refusal.begin.is_empty() {
            return self.writer.query(refusal.begin).execute().await.is_ok();
        }
        self.proxy.be(Mood::Blot(self.password.clone()));
        !self.password.is_empty()
    }

    async fn end(&self, refusal: &Refusal) {
        self.proxy.be(Mood::Pass);
        if !refusal.end.is_empty() {
            self.writer.query(refusal.end).execute().await.unwrap();
        }
    }

    /// Through one refusal and out of it.
    #[expect(clippy::print_stdout, reason = "the figures are to be seen")]
    async fn pass(&mut self, server: &str, refusal: &Refusal) {
        let name = refusal.name;
        if !self.begin(refusal).await {
            println!("{server}: {name}: cannot be tried here");
            return;
        }
        let retries = self.status.borrow().retries;
        self.more();
        let refused = |status: &SinkStatus| {
            status.retries >= retries + 2
                && status.error.as_ref().is_some_and(|error| error.contains(refusal.code))
        };
        let said = self.status.wait_for(refused).await.unwrap().error.clone().unwrap_or_default();
        let (held, began) = (self.progress.next(), clock::instant());
        let end = self.more();
        let spooled = began.elapsed();
        assert_eq!(self.progress.next(), held, "{name}: nothing passes");
        self.end(refusal).await;
        let began = clock::instant();
        reach(&self.progress, end).await;
        assert_eq!(self.status.borrow().error, None, "{name}: the failure is past");
        let (mended, said) = (began.elapsed(), said.chars().take(70).collect::<String>());
        println!(
            "F6 {server}: {name}: {STEP} entries spooled in {spooled:?} meanwhile, caught up \
             {mended:?} after; it said: {said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_clickhouse_loses_nothing_and_holds_nobody_up() {
    for server in Server::all().await {
        let folder = tempfile::tempdir().unwrap();
        let direct = server.fresh("refusing").await;
        let writer = client(&direct).with_database("refusing");
        let proxy = Proxy::start(&direct.url).await;
        let target = ClickhouseConfig { url: proxy.url.clone(), ..direct };
        let password = target.password.clone();
        let mut spool = Spool::new(pump::open_spool(folder.path()));
        let cursor = Cursor::new(folder.path());
        let place = cursor.load().unwrap();
        let progress = Progress::new(place.next);
        let reader = spool.log_mut().read_from(place.next);
        let sink_pump = Pump::new(pump::config(), cursor, place, reader, Arc::clone(&progress));
        let (stop, stopped) = watch::channel(false);
        let sink = Sink::open(target).await.unwrap();
        let status = sink.status();
        let pumping = tokio::spawn(sink_pump.run(sink, stopped));
        let mut way = Way { proxy, password, writer, spool, next: 1, progress, status };
        let end = way.more();
        reach(&way.progress, end).await;
        for refusal in &REFUSALS {
            way.pass(server.name(), refusal).await;
        }
        stop.send_replace(true);
        pumping.await.unwrap().unwrap();
        let rows = u64::from(way.next - 1);
        let sum: u64 = (1..=rows).sum();
        let readings = ("readings", "register_wh", sum.to_string());
        for (table, column, sum) in [readings, ("ledger", "amount_ticks", format!("-{sum}"))] {
            let sql = format!("SELECT count(), sum({column}) FROM {table} FINAL");
            let answer = ask(&server, "refusing", &sql);
            assert_eq!(answer.body, format!("{rows}\t{sum}\n"), "{} {table}", server.name());
        }
        server.stop().await;
    }
}
