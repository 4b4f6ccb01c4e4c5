//! Token identifiers: minutes since a base date, and the rule for the next free one.

use thiserror::Error;

/// Why an instant or a number has no TID.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum TidError {
    /// The instant lies before the base date.
    #[error("{at_s} s since 1970 is before base date {}", base.year())]
    BeforeBaseDate {
        /// The instant.
        at_s: u64,
        /// The base date.
        base: BaseDate,
    },
    /// The 24 bits of this base date are used up.
    #[error("base date {} has no identifier left: roll over to a later base date", base.year())]
    Exhausted {
        /// The base date.
        base: BaseDate,
    },
    /// More than 24 bits.
    #[error("identifier {0} has more than 24 bits")]
    Range(u32),
    /// The year names no base date.
    #[error("no base date {0}, expected 1993, 2014 or 2035")]
    BaseYear(u16),
}

/// The instant TIDs of a vending key count from: 1 January 00:00:00 UTC of its year.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum BaseDate {
    /// Used up on 2024-11-24 20:15.
    Base1993,
    /// In use; lasts until 2045-11-24 20:15.
    Base2014,
    /// Lasts until 2066-11-24 20:15.
    Base2035,
}

impl BaseDate {
    /// The base date of this year.
    ///
    /// # Errors
    /// [`TidError::BaseYear`].
    pub const fn from_year(year: u16) -> Result<Self, TidError> {
        match year {
            1993 => Ok(Self::Base1993),
            2014 => Ok(Self::Base2014),
            2035 => Ok(Self::Base2035),
            _ => Err(TidError::BaseYear(year)),
        }
    }

    /// Its year.
    #[must_use]
    pub const fn year(self) -> u16 {
        match self {
            Self::Base1993 => 1993,
            Self::Base2014 => 2014,
            Self::Base2035 => 2035,
        }
    }

    /// Its two digits in the data block of DKGA04.
    #[must_use]
    pub const fn code(self) -> [u8; 2] {
        match self {
            Self::Base1993 => *b"93",
            Self::Base2014 => *b"14",
            Self::Base2035 => *b"35",
        }
    }

    /// Seconds from 1970-01-01 UTC to the base date.
    #[must_use]
    pub const fn unix_s(self) -> u64 {
        match self {
            Self::Base1993 => 725_846_400,
            Self::Base2014 => 1_388_534_400,
            Self::Base2035 => 2_051_222_400,
        }
    }
}

/// Token identifier: whole minutes since a base date, 24 bits. Unique per meter and key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tid(u32);

impl Tid {
    /// The smallest.
    pub const MIN: Self = Self(0);
    /// The largest: 24 bits.
    pub const MAX: Self = Self(0xFF_FFFF);

    /// Makes one from its number.
    ///
    /// # Errors
    /// [`TidError::Range`] above 24 bits.
    pub const fn new(minutes: u32) -> Result<Self, TidError> {
        if minutes > Self::MAX.0 { Err(TidError::Range(minutes)) } else { Ok(Self(minutes)) }
    }

    /// The lower 24 bits of a content field.
    pub(crate) fn from_low_bits(bits: u64) -> Self {
        Self(u32::try_from(bits & 0xFF_FFFF).expect("24 bits fit in 32"))
    }

    /// The identifier of an instant; in the reserved minute 00:01, that of 00:02.
    ///
    /// # Errors
    /// [`TidError`] before the base date or past its 24 bits.
    //= IEC 62055-41 §6.3.5: minutes since the base date; 00:01 of each day is set apart for
    // special tokens, so a token made in that minute takes the next one.
    pub fn at(base: BaseDate, at_s: u64) -> Result<Self, TidError> {
        let since =
            at_s.checked_sub(base.unix_s()).ok_or(TidError::BeforeBaseDate { at_s, base })?;
        u32::try_from(since / SECONDS_PER_MINUTE)
            .ok()
            .and_then(Self::usable_from)
            .ok_or(TidError::Exhausted { base })
    }

    /// The identifier for a token made at `at_s` when `last` was the meter's last one: that of
    /// the instant, or the next free one after `last` when several tokens fall into one minute
    /// (or the clock went back).
    ///
    /// # Errors
    /// [`TidError`] as [`Tid::at`].
    pub fn next_free(base: BaseDate, at_s: u64, last: Option<Self>) -> Result<Self, TidError> {
        let now = Self::at(base, at_s)?;
        let Some(last) = last else { return Ok(now) };
        let after =
            Self::usable_from(last.0.saturating_add(1)).ok_or(TidError::Exhausted { base })?;
        Ok(now.max(after))
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// Its top 8 bits, which a key expiry number is compared with.
    #[must_use]
    pub const fn expiry_block(self) -> u8 {
        let [_, top, _, _] = self.0.to_be_bytes();
        top
    }

    /// Whether it is the minute 00:01 of its day.
    #[must_use]
    pub const fn is_reserved(self) -> bool {
        self.0 % MINUTES_PER_DAY == RESERVED_MINUTE
    }

    /// The start of its minute, in seconds since 1970-01-01 UTC.
    #[must_use]
    pub fn unix_s(self, base: BaseDate) -> u64 {
        let since = u64::from(self.0).saturating_mul(SECONDS_PER_MINUTE);
        base.unix_s().saturating_add(since)
    }

    /// The first one from `minutes` on that is not reserved.
    fn usable_from(minutes: u32) -> Option<Self> {
        let tid = Self::new(minutes).ok()?;
        if tid.is_reserved() { Self::new(minutes.checked_add(1)?).ok() } else { Some(tid) }
    }
}

const SECONDS_PER_MINUTE: u64 = 60;
const MINUTES_PER_DAY: u32 = 1_440;
const RESERVED_MINUTE: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    use BaseDate::{Base1993, Base2014, Base2035};

    fn check(base: BaseDate, at_s: u64, want: Result<u32, TidError>) {
        assert_eq!(Tid::at(base, at_s).map(Tid::value), want, "base={base:?} at_s={at_s}");
    }

    //= IEC 62055-41 §6.3.5: minutes since the base date; 00:01 of each day is set apart.
    #[test]
    fn instants() {
        check(Base1993, 1_078_149_300, Ok(5_871_715)); // 2004-03-01 13:55
        check(Base2014, 1_393_678_800, Ok(85_740)); // 2014-03-01 13:00
        check(Base2014, 1_393_678_859, Ok(85_740)); // whole minutes, cut off
        check(Base2014, 1_785_283_200, Ok(6_612_480)); // 2026-07-29 00:00
        check(Base2014, 1_785_283_260, Ok(6_612_482)); // 00:01 is reserved
        check(Base2014, 1_785_283_320, Ok(6_612_482)); // 00:02
        check(Base2014, 0, Err(TidError::BeforeBaseDate { at_s: 0, base: Base2014 }));
    }

    /// The last minutes as the STS Association publishes them: 20:15 on 24 November.
    #[test]
    fn base_dates_end() {
        for (base, last_s) in
            [(Base1993, 1_732_479_300), (Base2014, 2_395_167_300), (Base2035, 3_057_855_300)]
        {
            check(base, last_s, Ok(Tid::MAX.value()));
            check(base, last_s + 60, Err(TidError::Exhausted { base }));
            assert_eq!(Tid::MAX.unix_s(base), last_s);
            let next = Tid::next_free(base, last_s, Some(Tid::MAX));
            assert_eq!(next, Err(TidError::Exhausted { base }));
        }
    }

    #[test]
    fn next_free_passes_the_reserved_minute() {
        let at_s = 1_785_283_200; // 2026-07-29 00:00, TID 6612480
        let next = |last: u32| Tid::next_free(Base2014, at_s, Some(Tid(last))).unwrap().value();
        assert_eq!(next(6_612_479), 6_612_480);
        assert_eq!(next(6_612_480), 6_612_482, "00:01 is skipped");
        assert_eq!(next(6_612_482), 6_612_483);
        assert_eq!(next(7_000_000), 7_000_001, "a clock that went back never reuses one");
        assert_eq!(Tid::next_free(Base2014, at_s, None).unwrap().value(), 6_612_480);
    }

    proptest::proptest! {
        #[test]
        fn next_free_always_grows(start in 0_u64..900_000_000, steps in proptest::collection::vec(-3600_i64..3600, 1..50)) {
            let mut at_s = Base2014.unix_s() + start;
            let mut last = None;
            for step in steps {
                at_s = at_s.saturating_add_signed(step).max(Base2014.unix_s());
                let tid = Tid::next_free(Base2014, at_s, last).unwrap();
                proptest::prop_assert!(Some(tid) > last);
                proptest::prop_assert!(!tid.is_reserved());
                last = Some(tid);
            }
        }
    }
}
