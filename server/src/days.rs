//! Keeps ClickHouse's tables of days up to date, at a pace that leaves the engine to others.

use std::time::Duration;

use storage::clickhouse::Sink;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::sink::Progress;

/// It rests so many times as long as it worked.
const REST: u32 = 20;
/// After the start: what an earlier run left is not waited for as long as the next one.
const FIRST: Duration = Duration::from_secs(5);

/// Brings the tables of days up to date every `every`, or less often where that is much work,
/// until `stop`. What fails is tried again in the same time.
pub async fn keep(
    sink: &Sink,
    progress: &Progress,
    every: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut rest = every.min(FIRST);
    loop {
        tokio::select! {
            () = sleep(rest) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let began = Instant::now();
        tokio::select! {
            done = sink.refresh_days(progress.next()) => if let Err(error) = done {
                warn!(%error, "the tables of days stay behind, they are tried again");
            },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        rest = every.max(began.elapsed() * REST);
    }
}
