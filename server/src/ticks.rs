//! Ticks: the clock's way into the log. Standing charges, silence and deadlines follow from them.

use std::sync::Arc;
use std::time::Duration;

use meter::{Entry, UnixSeconds};
use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::clock::Now;
use crate::journal::{Journal, JournalError};

/// Appends a tick every `period`, if the time has moved on, until the log stops.
pub async fn run(period: Duration, now: Now, journal: Arc<Journal>) {
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = UnixSeconds::default();
    loop {
        timer.tick().await;
        let at = now();
        if at <= last {
            continue;
        }
        match journal.append(vec![Entry::Tick(at)]).await {
            Ok(_) => last = at,
            Err(JournalError::Stopped) => return,
            // A full disk: the next tick says the time as well.
            Err(error @ JournalError::Refused(_)) => debug!(%error, "tick left out"),
        }
    }
}
