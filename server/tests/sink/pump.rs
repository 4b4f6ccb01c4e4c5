//! A sink in a process of its own, so that it can be killed as a node is: this test program, told by
//! its environment to pump a spool.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use meter::{
    AccountId, Cause, Effects, Energy, Entry, IntervalQuality, IntervalRow, LedgerKind, LedgerRow,
    MeterId, Money, Outcome, Reading, Seq, Spread, TransformerId, UnixSeconds, Verdict,
};
use server::cursor::{Cursor, Place};
use server::sink::{self, Progress, Pump};
use server::spool::Spool;
use storage::clickhouse::{ClickhouseConfig, Retention, Sink};
use storage::log::{Config, Directory, Durability, SegmentLog, WritePath};
use tokio::sync::watch;

/// Names the spool's folder, the URL, the user, the password and the database.
const ROLE: &str = "METERD_TEST_PUMP";
/// 2026-05-31T12:00:00Z: the rows cross a month's end.
const START: u32 = 1_780_228_800;
/// Entries of a spool batch.
const BATCH: u32 = 100;

pub(crate) fn config() -> sink::Config {
    sink::Config { rows_max: 400, age_max: Duration::from_millis(5) }
}

pub(crate) fn open_spool(folder: &Path) -> SegmentLog {
    let disk = Directory::open(&folder.join("spool"), WritePath::Buffered).unwrap();
    let config = Config {
        segment_size_bytes: 1 << 20,
        reserve_segments: 1,
        spares_max: 1,
        durability: Durability::Lazy,
        node: 1,
        epoch: 1,
    };
    SegmentLog::open(Arc::new(disk), config, 0).unwrap().0
}

/// Appends entries `first` to below `first + count`: readings, each with an interval and a movement.
pub(crate) fn append(spool: &mut Spool, first: u32, count: u32) {
    for first in (first..first + count).step_by(BATCH as usize) {
        let mut effects = Effects::default();
        let entries: Vec<Entry> = (first..first + BATCH)
            .map(|number| Entry::Reading(follow(number, &mut effects)))
            .collect();
        spool.append(Seq(first.into()), &entries, &effects).unwrap();
    }
}

/// The reading of an entry and what follows from it.
fn follow(number: u32, effects: &mut Effects) -> Reading {
    let (meter, seq) = (MeterId(number % 50 + 1), Seq(number.into()));
    let at = UnixSeconds(START + number / 50 * 900);
    effects.verdicts.push(Verdict { seq, outcome: Outcome::Accepted });
    effects.intervals.push(IntervalRow {
        meter,
        start: at,
        account: AccountId(meter.0),
        transformer: TransformerId(1),
        energy: Energy::from_wh(number.into()),
        register: Energy::from_wh(number.into()),
        cost: Money::ZERO,
        rate: 1,
        quality: IntervalQuality::Actual,
        samples: 1,
        voltage: Spread::default(),
        current: Spread::default(),
        power: Spread::default(),
        power_factor: Spread::default(),
        rev: seq,
    });
    effects.ledger.push(LedgerRow {
        account: AccountId(meter.0),
        number: u64::from(number / 50) + 1,
        kind: LedgerKind::Energy,
        amount: Money::from_ticks(-i64::from(number)),
        balance: Money::from_ticks(i64::from(number)),
        at,
        cause: Cause::Readings { meter, from: at, to: at.plus(900) },
        seq,
    });
    Reading {
        meter,
        taken_at: at,
        received_at: at.plus(5),
        register: Energy::from_wh(number.into()),
        ..Reading::default()
    }
}

/// Pumps the spool in `folder` until `stop`, as a node does.
pub(crate) async fn pump(folder: &Path, target: ClickhouseConfig, mut stop: watch::Receiver<bool>) {
    let spool = open_spool(folder);
    let cursor = Cursor::new(folder);
    let place = cursor.load().unwrap();
    let progress = Progress::new(place.next);
    let pump = Pump::new(config(), cursor, place, spool.read_from(place.next), progress);
    if let Ok(sink) = Sink::open_patiently(target, &mut stop).await {
        pump.run(sink, stop).await.unwrap();
    }
}

/// The process's side: does nothing unless it was started by [`start`].
#[tokio::test(flavor = "multi_thread")]
async fn as_a_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let [folder, url, user, password, database] = role.split('\n').collect::<Vec<_>>()[..] else {
        panic!("{ROLE} has five lines");
    };
    let target = ClickhouseConfig {
        url: url.to_owned(),
        user: user.to_owned(),
        password: password.to_owned(),
        database: database.to_owned(),
        zone: "Asia/Shanghai".to_owned(),
        retention: Retention::FOREVER,
        retry_delay_ms_min: 5,
        retry_delay_ms_max: 100,
        request_s_max: 60,
    };
    let (_keep, stop) = watch::channel(false);
    pump(Path::new(folder), target, stop).await;
}

/// Starts a process that pumps until it is killed.
pub(crate) fn start(folder: &Path, target: &ClickhouseConfig) -> Child {
    let ClickhouseConfig { url, user, password, database, .. } = target;
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "pump::as_a_process"])
        .env(ROLE, format!("{}\n{url}\n{user}\n{password}\n{database}", folder.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Where the sink is, by its file.
pub(crate) fn place(folder: &Path) -> Place {
    Cursor::new(folder).load().unwrap()
}
