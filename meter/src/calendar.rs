//! Local calendars: instants to local days and quarter hours in an account's IANA time zone.
//! The zone data is compiled in, so that the same log gives the same books on every machine.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{DayType, MonthDay, UnixSeconds};

/// Why a name is not a usable time zone.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("time zone {name:?} is not known; use an IANA name such as Asia/Shanghai")]
pub struct ZoneError {
    /// The name given.
    pub name: String,
}

/// A day of the local calendar.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct LocalDate(Date);

/// Where an instant falls in local time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LocalQuarter {
    /// The local day.
    pub date: LocalDate,
    /// The quarter hour of the wall clock, 0 to 95.
    pub quarter: u8,
}

/// The calendar of one time zone.
#[derive(Clone, Debug)]
pub struct LocalCalendar {
    zone: TimeZone,
}

impl LocalCalendar {
    /// The calendar of an IANA zone.
    ///
    /// # Errors
    /// [`ZoneError`] when the name is unknown.
    pub fn new(name: &str) -> Result<Self, ZoneError> {
        TimeZone::get(name)
            .map(|zone| Self { zone })
            .map_err(|_| ZoneError { name: name.to_owned() })
    }

    /// The local day and wall-clock quarter of `at`.
    #[must_use]
    pub fn local(&self, at: UnixSeconds) -> LocalQuarter {
        let instant = Timestamp::from_second(i64::from(at.0)).unwrap_or(Timestamp::UNIX_EPOCH);
        let civil = self.zone.to_datetime(instant);
        let (hour, minute) = (i16::from(civil.hour()), i16::from(civil.minute()));
        let quarter = hour.saturating_mul(4).saturating_add(minute.div_euclid(15));
        LocalQuarter {
            date: LocalDate(civil.date()),
            quarter: u8::try_from(quarter).expect("an hour has four quarters"),
        }
    }

    /// The first instant of a local day; where a change of clocks skips midnight, the first after.
    #[must_use]
    pub fn day_start(&self, date: LocalDate) -> UnixSeconds {
        let second = date.0.to_zoned(self.zone.clone()).map_or(0, |at| at.timestamp().as_second());
        UnixSeconds(u32::try_from(second).unwrap_or_default())
    }
}

impl LocalDate {
    /// A date, `None` when there is no such day.
    #[must_use]
    pub fn new(year: i16, month: u8, day: u8) -> Option<Self> {
        let (month, day) = (i8::try_from(month).ok()?, i8::try_from(day).ok()?);
        Date::new(year, month, day).ok().map(Self)
    }

    /// Reads `2026-11-22`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// The day after.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1.day()))
    }

    /// The year.
    #[must_use]
    pub fn year(self) -> i16 {
        self.0.year()
    }

    /// The month and day.
    #[must_use]
    pub fn month_day(self) -> MonthDay {
        MonthDay {
            month: u8::try_from(self.0.month()).unwrap_or(1),
            day: u8::try_from(self.0.day()).unwrap_or(1),
        }
    }

    /// The first day of this month.
    #[must_use]
    pub fn first_of_month(self) -> Self {
        Self(self.0.first_of_month())
    }

    /// The first day of this year.
    #[must_use]
    pub fn first_of_year(self) -> Self {
        Self(self.0.first_of_year())
    }

    /// The day of the week, 0 Monday to 6 Sunday.
    #[must_use]
    pub fn weekday(self) -> u8 {
        u8::try_from(self.0.weekday().to_monday_zero_offset()).unwrap_or(0)
    }

    /// Working day or weekend (Saturday, Sunday); holidays are a calendar's business.
    #[must_use]
    pub fn day_type(self) -> DayType {
        use jiff::civil::Weekday::{Saturday, Sunday};
        if matches!(self.0.weekday(), Saturday | Sunday) {
            DayType::Weekend
        } else {
            DayType::Workday
        }
    }
}

impl fmt::Display for LocalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for LocalDate {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LocalDate {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let refuse = || serde::de::Error::custom(format!("{text:?} is not a date YYYY-MM-DD"));
        Self::parse(&text).ok_or_else(refuse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::INTERVAL_S;

    fn intervals_of(zone: &str, date: &str) -> u32 {
        let calendar = LocalCalendar::new(zone).unwrap();
        let date = LocalDate::parse(date).unwrap();
        calendar.day_start(date.next()).since(calendar.day_start(date)) / INTERVAL_S
    }

    #[test]
    fn a_local_day_has_92_96_or_100_intervals() {
        assert_eq!(intervals_of("Asia/Shanghai", "2026-11-22"), 96);
        assert_eq!(intervals_of("Europe/Berlin", "2026-03-29"), 92);
        assert_eq!(intervals_of("Europe/Berlin", "2026-10-25"), 100);
        // Clocks go forward at midnight: the day starts at 01:00.
        assert_eq!(intervals_of("Africa/Cairo", "2026-04-24"), 92);
    }

    #[test]
    fn local_quarters() {
        let calendar = LocalCalendar::new("Asia/Shanghai").unwrap();
        let local = calendar.local(UnixSeconds(1_479_686_400)); // 2016-11-21T00:00:00Z
        assert_eq!((local.date.to_string().as_str(), local.quarter), ("2016-11-21", 32));
        assert_eq!((local.date.day_type(), local.date.weekday()), (DayType::Workday, 0));
        assert!(LocalCalendar::new("Asia/Peking").is_err());
    }
}
