//! Quantities: integers with a unit. Arithmetic is checked; nothing here rounds but
//! [`Money::round_to_cents`], which says how.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a quantity could not be computed.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum QuantityError {
    /// The result does not fit the type.
    #[error("amount out of range")]
    Overflow,
    /// The text is not an amount.
    #[error("not a decimal amount with at most {decimals} decimals")]
    Text {
        /// How many decimals the quantity has.
        decimals: u32,
    },
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident($int:ty), $from:ident, $value:ident, $unit:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
        )]
        pub struct $name($int);

        impl $name {
            #[doc = concat!("Makes one from a count of ", $unit, ".")]
            #[must_use]
            pub const fn $from(value: $int) -> Self {
                Self(value)
            }

            #[doc = concat!("The count of ", $unit, ".")]
            #[must_use]
            pub const fn $value(self) -> $int {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.0, $unit)
            }
        }
    };
}

quantity! {
    /// Active energy, or a cumulative import register. A register never runs backwards, so unsigned.
    Energy(u64), from_wh, wh, "Wh"
}
quantity! {
    /// Active power, import positive.
    Power(i32), from_w, w, "W"
}
quantity! {
    /// Reactive power, import positive.
    ReactivePower(i32), from_var, var, "var"
}
quantity! {
    /// Voltage, phase to neutral.
    Voltage(u32), from_mv, mv, "mV"
}
quantity! {
    /// Current of one phase.
    Current(u32), from_ma, ma, "mA"
}
quantity! {
    /// Mains frequency.
    Frequency(u32), from_mhz, mhz, "mHz"
}
quantity! {
    /// Power factor in thousandths, signed as the meter sends it.
    PowerFactor(i16), from_milli, milli, "‰"
}
quantity! {
    /// A price in 1/10,000 currency unit per kWh: 0.5283 CNY/kWh is 5283.
    Price(i64), from_e4, e4, "e-4/kWh"
}
quantity! {
    /// Money in ticks of 10⁻⁷ currency unit, so that price × Wh is exactly a count of ticks.
    Money(i64), from_ticks, ticks, "ticks"
}

impl Energy {
    /// The energy used between two register values, `None` when the register went backwards.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Option<Self> {
        match self.0.checked_sub(earlier.0) {
            Some(wh) => Some(Self(wh)),
            None => None,
        }
    }
}

impl Price {
    /// What `energy` costs at this price; exact, never rounded.
    ///
    /// # Errors
    /// [`QuantityError::Overflow`] when the cost exceeds 63 bits of ticks.
    pub fn cost(self, energy: Energy) -> Result<Money, QuantityError> {
        i64::try_from(energy.wh())
            .ok()
            .and_then(|wh| self.0.checked_mul(wh))
            .map(Money)
            .ok_or(QuantityError::Overflow)
    }
}

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// Ticks of one currency unit.
    pub const TICKS_PER_UNIT: i64 = 10_000_000;
    /// Ticks of a hundredth of the currency unit.
    pub const TICKS_PER_CENT: i64 = 100_000;

    /// The sum.
    ///
    /// # Errors
    /// [`QuantityError::Overflow`] past 63 bits of ticks.
    pub fn plus(self, other: Self) -> Result<Self, QuantityError> {
        self.0.checked_add(other.0).map(Self).ok_or(QuantityError::Overflow)
    }

    /// The difference.
    ///
    /// # Errors
    /// [`QuantityError::Overflow`] past 63 bits of ticks.
    pub fn minus(self, other: Self) -> Result<Self, QuantityError> {
        self.0.checked_sub(other.0).map(Self).ok_or(QuantityError::Overflow)
    }

    /// Rounds half-even to whole hundredths, as a receipt line does.
    #[must_use]
    pub fn round_to_cents(self) -> Self {
        let cents = self.0.div_euclid(Self::TICKS_PER_CENT);
        let rest = self.0.rem_euclid(Self::TICKS_PER_CENT);
        let half = Self::TICKS_PER_CENT.div_euclid(2);
        let up = rest > half || (rest == half && cents.rem_euclid(2) == 1);
        let cents = cents.saturating_add(i64::from(up));
        Self(cents.saturating_mul(Self::TICKS_PER_CENT))
    }

    /// The amount with all seven decimals, as the API carries it: `-12.3400000`.
    #[must_use]
    pub fn to_decimal(self) -> String {
        show_fixed(self.0, 7)
    }

    /// Reads a decimal amount of at most seven decimals: `12`, `12.34`, `-0.0000001`.
    ///
    /// # Errors
    /// [`QuantityError::Text`] for anything else, [`QuantityError::Overflow`] past 63 bits.
    pub fn parse_decimal(text: &str) -> Result<Self, QuantityError> {
        parse_fixed(text, 7).map(Self)
    }
}

impl Price {
    /// Reads a decimal price per kWh of at most four decimals.
    ///
    /// # Errors
    /// [`QuantityError::Text`] for anything else, [`QuantityError::Overflow`] past 63 bits.
    pub fn parse_decimal(text: &str) -> Result<Self, QuantityError> {
        parse_fixed(text, 4).map(Self)
    }

    /// The price per kWh with all four decimals.
    #[must_use]
    pub fn to_decimal(self) -> String {
        show_fixed(self.0, 4)
    }
}

/// A count of units of 10^-`decimals` as a decimal number with all its decimals.
fn show_fixed(value: i64, decimals: usize) -> String {
    let mut left = value.unsigned_abs();
    // The last digit first.
    let mut text = Vec::with_capacity(LONGEST);
    while left > 0 || text.len() <= decimals.saturating_add(1) {
        if text.len() == decimals {
            text.push(b'.');
        }
        let digit = u8::try_from(left % 10).expect("a digit is less than 10");
        text.push(b'0'.saturating_add(digit));
        left /= 10;
    }
    if value < 0 {
        text.push(b'-');
    }
    text.reverse();
    String::from_utf8(text).expect("digits, a point and a sign are ASCII")
}

/// Characters of the longest: 19 digits, a point and a sign.
const LONGEST: usize = 21;

/// Reads `text` as a decimal number and counts it in units of 10^-`decimals`.
fn parse_fixed(text: &str, decimals: u32) -> Result<i64, QuantityError> {
    let malformed = QuantityError::Text { decimals };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let width = usize::try_from(decimals).map_err(|_| malformed)?;
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let has_bare_point = digits.contains('.') && fraction.is_empty();
    if whole.is_empty() || has_bare_point || fraction.len() > width {
        return Err(malformed);
    }
    if !is_digits(whole) || !is_digits(fraction) {
        return Err(malformed);
    }
    let padded = format!("{}{whole}{fraction:0<width$}", if negative { "-" } else { "" });
    padded.parse().map_err(|_| QuantityError::Overflow)
}

/// An ISO 4217 currency code, three upper-case letters.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct CurrencyCode([u8; 3]);

impl CurrencyCode {
    /// Reads a code such as `CNY`; `None` when it is not three upper-case letters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let code: [u8; 3] = text.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_uppercase).then_some(Self(code))
    }
}

impl fmt::Display for CurrencyCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&letter| write!(f, "{}", char::from(letter)))
    }
}

impl TryFrom<String> for CurrencyCode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is not a three-letter currency code"))
    }
}

impl From<CurrencyCode> for String {
    fn from(code: CurrencyCode) -> Self {
        code.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_exact() {
        let cost = Price::from_e4(5283).cost(Energy::from_wh(1000));
        assert_eq!(cost, Ok(Money::from_ticks(5_283_000)));
        assert_eq!(Price::from_e4(2).cost(Energy::from_wh(u64::MAX)), Err(QuantityError::Overflow));
    }

    #[test]
    fn money_text_both_ways() {
        let check = |text: &str, want: Result<i64, QuantityError>| {
            assert_eq!(Money::parse_decimal(text).map(Money::ticks), want, "text={text:?}");
        };
        check("12.34", Ok(123_400_000));
        check("-0.0000001", Ok(-1));
        check("0", Ok(0));
        for bad in ["", "-", ".5", "1.", "1.23456789", "1e3", "+1", "1,5", " 1", "١"] {
            check(bad, Err(QuantityError::Text { decimals: 7 }));
        }
        check("922337203685.4775808", Err(QuantityError::Overflow));
        assert_eq!(Money::from_ticks(-123_400_001).to_decimal(), "-12.3400001");
        assert_eq!(Money::from_ticks(i64::MIN).to_decimal(), "-922337203685.4775808");
    }

    #[test]
    fn receipts_round_half_even() {
        let check = |ticks, want| {
            assert_eq!(Money::from_ticks(ticks).round_to_cents().ticks(), want, "ticks={ticks}");
        };
        check(150_000, 200_000);
        check(250_000, 200_000);
        check(250_001, 300_000);
        check(-150_000, -200_000);
        check(-250_000, -200_000);
        check(49_999, 0);
    }
}
