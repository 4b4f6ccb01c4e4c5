//! Instants and the 15-minute grid.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Seconds of one interval: a quarter hour, aligned to UTC.
pub const INTERVAL_S: u32 = 900;

/// Seconds since 1970-01-01 UTC, up to 2106 (as ClickHouse's `DateTime`).
///
/// Three times are never mixed: `taken_at` (the meter's stamp), `received_at` (the node's), and
/// [`crate::Seq`] (the order of the log).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct UnixSeconds(pub u32);

impl UnixSeconds {
    /// The start of the interval that holds this instant.
    #[must_use]
    pub const fn interval_start(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(INTERVAL_S)))
    }

    /// Whether this instant is a boundary between two intervals.
    #[must_use]
    pub const fn is_boundary(self) -> bool {
        self.0.rem_euclid(INTERVAL_S) == 0
    }

    /// This instant and `seconds` later, at most the end of time.
    #[must_use]
    pub const fn plus(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(seconds))
    }

    /// This instant less `seconds`, at least 1970.
    #[must_use]
    pub const fn minus(self, seconds: u32) -> Self {
        Self(self.0.saturating_sub(seconds))
    }

    /// Seconds from `earlier` to this, 0 when `earlier` is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for UnixSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_second(i64::from(self.0)) {
            Ok(instant) => instant.fmt(f),
            Err(_) => self.0.fmt(f),
        }
    }
}
