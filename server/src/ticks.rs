//! Ticks: the clock's way into the log. Standing charges, silence and deadlines follow from them.

use std::sync::Arc;
use std::time::Duration;

use meter::{Entry, UnixSeconds};
use tokio::time::MissedTickBehavior;
use tracing::debug;

use crate::clock::Now;
use crate::journal::{Journal, JournalError};

/// How far one tick moves the books' time at most: no account meets two local midnights in one, so
/// that what follows from a tick is bounded by the fleet, however long the node stood still.
const STRIDE_S: u32 = 6 * 3600;

/// The tick that leads from `last`, the newest of the log (zero: there is none), towards `now`.
/// `None` when time has not moved on.
#[must_use]
pub fn step(last: UnixSeconds, now: UnixSeconds) -> Option<UnixSeconds> {
    let is_first = last == UnixSeconds::default();
    (now > last).then(|| if is_first { now } else { now.min(last.plus(STRIDE_S)) })
}

/// Appends a tick every `period`, if the time has moved on since `last`, until the log stops; as
/// many as it takes to catch up with a clock that is far ahead.
pub async fn run(period: Duration, now: Now, mut last: UnixSeconds, journal: Arc<Journal>) {
    let mut timer = tokio::time::interval(period);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        timer.tick().await;
        while let Some(at) = step(last, now()) {
            match journal.append(vec![Entry::Tick(at)]).await {
                Ok(_) => last = at,
                Err(JournalError::Stopped) => return,
                // A full disk: the next tick says the time as well.
                Err(error @ JournalError::Refused(_)) => {
                    debug!(%error, "tick left out");
                    break;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_ahead_is_met_in_strides() {
        let check = |last, now, want: Option<u32>| {
            assert_eq!(step(UnixSeconds(last), UnixSeconds(now)), want.map(UnixSeconds));
        };
        check(0, 1_800_000_000, Some(1_800_000_000));
        check(1_800_000_000, 1_800_000_000, None);
        check(1_800_000_000, 1_799_999_999, None);
        check(1_800_000_000, 1_800_000_001, Some(1_800_000_001));
        check(1_800_000_000, 1_800_021_600, Some(1_800_021_600));
        check(1_800_000_000, 1_805_000_000, Some(1_800_021_600));
        check(u32::MAX - 5, u32::MAX, Some(u32::MAX));
        let (mut last, mut ticks) = (UnixSeconds(1_800_000_000), 0);
        while let Some(at) = step(last, UnixSeconds(1_800_000_000 + 60 * 86_400 + 7)) {
            (last, ticks) = (at, ticks + 1);
        }
        assert_eq!(ticks, 60 * 4 + 1);
    }
}
