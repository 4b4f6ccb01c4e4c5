//! The only clock of the product. Everything else takes the time as an argument.
//!
//! A node runs on the machine's time, or, for the demonstration and for tests, on a virtual time
//! that starts at a given instant and runs at a given pace until a given end; from there on it
//! keeps the machine's pace. Two processes with the same settings agree, also after a restart.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meter::UnixSeconds;

/// What the parts of the node call to learn the time.
pub type Now = Arc<dyn Fn() -> UnixSeconds + Send + Sync>;

/// Virtual time: `start` at the machine's `anchor`, then `pace` times as fast until `end`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Virtual {
    /// The virtual instant at `anchor`.
    pub start: UnixSeconds,
    /// The machine's time then, milliseconds since 1970.
    pub anchor_ms: u64,
    /// Virtual seconds in a second, ≥ 1.
    pub pace: u32,
    /// The virtual instant from which on the pace is 1.
    pub end: UnixSeconds,
}

/// A source of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Clock {
    /// The machine's.
    System,
    /// Virtual.
    Virtual(Virtual),
}

impl Clock {
    /// The instant.
    #[must_use]
    pub fn now(self) -> UnixSeconds {
        let real_ms = unix_ms();
        match self {
            Self::System => UnixSeconds(u32::try_from(real_ms / 1000).unwrap_or(u32::MAX)),
            Self::Virtual(time) => time.at(real_ms),
        }
    }

    /// The instant in milliseconds since 1970.
    #[must_use]
    pub fn now_ms(self) -> u64 {
        match self {
            Self::System => unix_ms(),
            Self::Virtual(time) => time.at_ms(unix_ms()),
        }
    }

    /// How long, by the machine's time, an instant that is past lies back while the clock is fast.
    #[must_use]
    pub fn since_ms(self, past_ms: u64) -> Duration {
        let pace = match self {
            Self::System => 1,
            Self::Virtual(time) => time.pace.max(1),
        };
        Duration::from_millis(self.now_ms().saturating_sub(past_ms)) / pace
    }

    /// The clock as the closure that the parts take.
    #[must_use]
    pub fn source(self) -> Now {
        Arc::new(move || self.now())
    }
}

impl Virtual {
    /// The virtual instant at a time of the machine.
    fn at(self, real_ms: u64) -> UnixSeconds {
        UnixSeconds(u32::try_from(self.at_ms(real_ms) / 1000).unwrap_or(u32::MAX))
    }

    /// The same in milliseconds.
    fn at_ms(self, real_ms: u64) -> u64 {
        let elapsed_ms = real_ms.saturating_sub(self.anchor_ms);
        let (fast_ms, pace) =
            (u64::from(self.end.since(self.start)) * 1000, u64::from(self.pace.max(1)));
        let virtual_ms = match elapsed_ms.checked_sub(fast_ms / pace) {
            None => elapsed_ms.saturating_mul(pace),
            Some(after_ms) => fast_ms.saturating_add(after_ms),
        };
        u64::from(self.start.0) * 1000 + virtual_ms
    }

    /// How long the fast part lasts on the machine.
    #[must_use]
    pub fn fast_part(self) -> Duration {
        Duration::from_secs(u64::from(self.end.since(self.start))) / self.pace.max(1)
    }
}

/// Milliseconds since 1970 by the machine.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A monotonic instant, for durations.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this module is where the clock is read")]
pub fn instant() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_time_is_fast_then_slow() {
        let time = Virtual {
            start: UnixSeconds(1000),
            anchor_ms: 50_000,
            pace: 100,
            end: UnixSeconds(2000),
        };
        let check = |real_ms, want| assert_eq!(time.at(real_ms), UnixSeconds(want), "{real_ms}");
        check(0, 1000);
        check(50_000, 1000);
        check(55_000, 1500);
        check(60_000, 2000);
        check(63_000, 2003);
        assert_eq!(time.fast_part(), Duration::from_secs(10));
    }
}
