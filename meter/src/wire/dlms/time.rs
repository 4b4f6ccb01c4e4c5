//! Date and time as a meter writes it, and its way to UTC.
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | year |
//! | 1 | month |
//! | 1 | day |
//! | 1 | day of week, 1 = Monday (not read: meters send 0 and FF) |
//! | 3 | hour, minute, second |
//! | 1 | hundredths (not read) |
//! | 2 | deviation: minutes to add to local time to get UTC; 0x8000 = not stated |
//! | 1 | clock status |

use jiff::{Timestamp, civil, tz::Offset};

use super::super::{Fault, WireError};

/// The twelve bytes of a date-time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DateTime(pub [u8; 12]);

impl DateTime {
    const DEVIATION_NOT_STATED: i16 = i16::MIN;

    /// Seconds since 1970-01-01 UTC. A date-time that states no deviation is taken as
    /// `deviation_minutes` (as on the wire: -60 for a clock one hour ahead of UTC).
    /// A second of FF ("not stated") counts as 0.
    ///
    /// # Errors
    /// [`Fault::Invalid`] for a wildcard or impossible date, one outside 1970..2106, or a
    /// deviation over a day.
    pub fn unix(self, deviation_minutes: i16) -> Result<u32, WireError> {
        self.checked_unix(deviation_minutes).ok_or(WireError::new(Fault::Invalid("date-time"), 0))
    }

    fn checked_unix(self, deviation_default: i16) -> Option<u32> {
        let Self([y1, y0, month, day, _, hour, minute, second, _, d1, d0, _]) = self;
        let deviation = match i16::from_be_bytes([d1, d0]) {
            Self::DEVIATION_NOT_STATED => deviation_default,
            stated => stated,
        };
        if deviation.unsigned_abs() > 24 * 60 {
            return None;
        }
        let second = if second == 0xFF { 0 } else { second };
        let local = civil::DateTime::new(
            i16::from_be_bytes([y1, y0]),
            month.try_into().ok()?,
            day.try_into().ok()?,
            hour.try_into().ok()?,
            minute.try_into().ok()?,
            second.try_into().ok()?,
            0,
        );
        let local_seconds = Offset::UTC.to_timestamp(local.ok()?).ok()?.as_second();
        let unix = local_seconds.checked_add(i64::from(deviation).checked_mul(60)?)?;
        u32::try_from(unix).ok()
    }

    /// `unix` seconds as UTC, deviation 0, status good.
    #[must_use]
    pub fn from_unix(unix: u32) -> Self {
        let instant = Timestamp::from_second(i64::from(unix)).unwrap_or_default();
        let utc = Offset::UTC.to_datetime(instant);
        let byte = |part: i8| part.unsigned_abs();
        let [y1, y0] = utc.year().to_be_bytes();
        let weekday = byte(utc.weekday().to_monday_one_offset());
        let (month, day) = (byte(utc.month()), byte(utc.day()));
        let (hour, minute, second) = (byte(utc.hour()), byte(utc.minute()), byte(utc.second()));
        Self([y1, y0, month, day, weekday, hour, minute, second, 0, 0, 0, 0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(bytes: [u8; 12], default: i16, want: Option<u32>) {
        assert_eq!(DateTime(bytes).unix(default).ok(), want, "bytes={bytes:02x?}");
    }

    #[test]
    fn unix_cases() {
        // 2023-12-22 19:05:30 Vienna (winter, deviation -60) is 18:05:30 UTC.
        let vienna = [0x07, 0xE7, 12, 22, 5, 19, 5, 30, 0, 0xFF, 0xC4, 0];
        check(vienna, 0, Some(1_703_268_330));
        let mut unstated = vienna;
        unstated[9..11].copy_from_slice(&[0x80, 0]);
        check(unstated, -60, Some(1_703_268_330));
        check(unstated, 0, Some(1_703_271_930));
        for (position, byte) in [(0, 0xFF), (2, 13), (2, 0xFF), (3, 0), (3, 0xFF), (5, 24), (6, 60)]
        {
            let mut wrong = vienna;
            wrong[position] = byte;
            check(wrong, 0, None);
        }
        let mut no_second = vienna;
        no_second[7] = 0xFF;
        check(no_second, 0, Some(1_703_268_300));
        let mut wild = vienna;
        wild[9..11].copy_from_slice(&[0x7F, 0xFF]);
        check(wild, 0, None);
    }

    proptest! {
        #[test]
        fn round_trip(unix: u32) {
            prop_assert_eq!(DateTime::from_unix(unix).unix(-60), Ok(unix));
        }

        #[test]
        fn any_bytes_are_an_answer(bytes: [u8; 12], deviation: i16) {
            let moved = DateTime(bytes).unix(deviation);
            prop_assert!(moved.is_ok() || moved.is_err_and(|e| e.fault == Fault::Invalid("date-time")));
        }
    }
}
