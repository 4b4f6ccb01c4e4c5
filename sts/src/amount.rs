//! The two ways a token carries an amount, both with a decimal exponent.
//!
//! | coding | mantissa | exponent | offset of exponent e |
//! | --- | --- | --- | --- |
//! | [`TransferAmount`] (16 bits) | bits 13..=0 | bits 15..=14, 0..=3 | Σ₁ᵉ 2¹⁴·10ⁿ⁻¹ |
//! | [`CurrencyAmount`] (16 bits + S&E) | bits 13..=0 | S&E 2..=0, bits 15..=14: 0..=31 | the same |
//!
//! value = mantissa · 10ᵉ + offset(e). Not every value has a code: the next one above is taken, so
//! the customer never gets less than was paid for. A negative currency amount is coded by its
//! magnitude, so there the next smaller magnitude is taken: again the higher value.

use thiserror::Error;

/// Why an amount cannot be carried.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum AmountError {
    /// Above the largest code.
    #[error("amount {0} is above {1}, the most a token can carry")]
    TooLarge(i128, i128),
    /// Below zero, where the coding has no sign.
    #[error("amount {0} is negative")]
    Negative(i128),
    /// No decimal number.
    #[error("{0:?} is no decimal number")]
    Text(String),
}

/// An amount in tenths of kWh, m³ or minutes, or in watts, in the 16-bit coding.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TransferAmount(u16);

impl TransferAmount {
    /// The most it can carry: 1 820 162.4 kWh, m³ or minutes, or 18 201 624 W.
    pub const MAX_UNITS: u32 = 18_201_624;

    /// The smallest code that carries at least `units` (tenths, or watts).
    ///
    /// # Errors
    /// [`AmountError::TooLarge`] above [`TransferAmount::MAX_UNITS`].
    //= IEC 62055-41 §6.3.6: an amount between two codes is rounded up, for the customer.
    pub fn from_units(units: u32) -> Result<Self, AmountError> {
        let (exponent, mantissa) = code_above(u128::from(units), 3)
            .ok_or_else(|| AmountError::TooLarge(units.into(), Self::MAX_UNITS.into()))?;
        Ok(Self(u16::from(exponent).wrapping_shl(MANTISSA_BITS) | mantissa))
    }

    /// The smallest code that carries at least the number in `text`, which counts whole units of
    /// 10^`decimals` steps: `("25.6", 1)` is 256 tenths.
    ///
    /// # Errors
    /// [`AmountError`].
    pub fn parse(text: &str, decimals: u32) -> Result<Self, AmountError> {
        let units = parse_scaled_up(text, decimals)?;
        if units < 0 {
            return Err(AmountError::Negative(units));
        }
        let units = u32::try_from(units)
            .map_err(|_| AmountError::TooLarge(units, Self::MAX_UNITS.into()))?;
        Self::from_units(units)
    }

    /// The amount this bit pattern stands for; each of the 65,536 stands for one.
    #[must_use]
    pub const fn from_field(field: u16) -> Self {
        Self(field)
    }

    /// The bit pattern.
    #[must_use]
    pub const fn field(self) -> u16 {
        self.0
    }

    /// What is carried, in tenths (or watts).
    #[must_use]
    pub fn units(self) -> u32 {
        let value = value_of(u32::from(self.0 >> MANTISSA_BITS), self.0);
        u32::try_from(value).expect("the largest code is 18 201 624")
    }
}

/// A signed amount in 10⁻⁵ of the base currency unit, in the currency coding.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct CurrencyAmount {
    sign_and_exponent: u8,
    field: u16,
}

impl CurrencyAmount {
    /// The greatest magnitude: about 1.8 · 10³⁵ steps of 10⁻⁵.
    pub const MAX_STEPS: i128 = {
        let mut offset = 0;
        let mut power = 1;
        let mut exponent = 0;
        while exponent < 31 {
            offset += MANTISSA_COUNT * power;
            power *= 10;
            exponent += 1;
        }
        (MANTISSA_COUNT - 1) * power + offset
    };

    /// The code next to `steps` (10⁻⁵ of the currency unit) that is not below it.
    ///
    /// # Errors
    /// [`AmountError::TooLarge`] when the magnitude is above [`CurrencyAmount::MAX_STEPS`].
    pub fn from_steps(steps: i128) -> Result<Self, AmountError> {
        let magnitude = steps.unsigned_abs();
        let too_large = || AmountError::TooLarge(steps, Self::MAX_STEPS);
        let (sign, code) = if steps < 0 {
            if magnitude > Self::MAX_STEPS.unsigned_abs() {
                return Err(too_large());
            }
            (NEGATIVE, code_below(magnitude, 31))
        } else {
            (0, code_above(magnitude, 31).ok_or_else(too_large)?)
        };
        let (exponent, mantissa) = code;
        Ok(Self {
            sign_and_exponent: sign | (exponent >> 2),
            field: u16::from(exponent & 0b11).wrapping_shl(MANTISSA_BITS) | mantissa,
        })
    }

    /// The code for the number in `text`, in base currency units with any number of decimals.
    ///
    /// # Errors
    /// [`AmountError`].
    pub fn parse(text: &str) -> Result<Self, AmountError> {
        Self::from_steps(parse_scaled_up(text, STEP_DECIMALS)?)
    }

    /// The amount of these bit patterns; only the low 4 bits of the first count.
    #[must_use]
    pub const fn from_fields(sign_and_exponent: u8, field: u16) -> Self {
        Self { sign_and_exponent: sign_and_exponent & 0x0F, field }
    }

    /// The S&E bits: sign, then the top three bits of the exponent.
    #[must_use]
    pub const fn sign_and_exponent(self) -> u8 {
        self.sign_and_exponent
    }

    /// The 16-bit pattern.
    #[must_use]
    pub const fn field(self) -> u16 {
        self.field
    }

    /// What is carried, in 10⁻⁵ of the base currency unit.
    #[must_use]
    pub fn steps(self) -> i128 {
        let high = u32::from(self.sign_and_exponent & 0b111);
        let exponent = high.wrapping_shl(2) | u32::from(self.field >> MANTISSA_BITS);
        let magnitude = i128::try_from(value_of(exponent, self.field)).expect("below 2 · 10³⁵");
        if self.sign_and_exponent & NEGATIVE == 0 { magnitude } else { magnitude.wrapping_neg() }
    }
}

/// The number in `text` times 10^`decimals`, rounded up to a whole number.
fn parse_scaled_up(text: &str, decimals: u32) -> Result<i128, AmountError> {
    let bad = || AmountError::Text(text.to_owned());
    let trimmed = text.trim();
    let (negative, digits) = match trimmed.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, trimmed),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let are_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || !are_digits(fraction) {
        return Err(bad());
    }
    let kept = usize::try_from(decimals).map_err(|_| bad())?;
    let shown = fraction.bytes().chain(std::iter::repeat(b'0')).take(kept);
    let mut magnitude = whole.bytes().chain(shown).try_fold(0_i128, |value, digit| {
        value.checked_mul(10)?.checked_add(i128::from(digit & 0x0F))
    });
    let cut_off_rest = fraction.bytes().skip(kept).any(|digit| digit != b'0');
    if cut_off_rest && !negative {
        magnitude = magnitude.and_then(|value| value.checked_add(1));
    }
    let magnitude = magnitude.ok_or(AmountError::TooLarge(i128::MAX, CurrencyAmount::MAX_STEPS))?;
    Ok(if negative { magnitude.wrapping_neg() } else { magnitude })
}

/// Exponent and mantissa of the smallest code that is at least `value`.
fn code_above(value: u128, exponent_max: u8) -> Option<(u8, u16)> {
    ladder(exponent_max).find_map(|(exponent, power, offset)| {
        // A value in the gap below this offset is carried by mantissa 0.
        let mantissa = value.saturating_sub(offset).div_ceil(power);
        Some((exponent, u16::try_from(mantissa).ok().filter(|m| *m <= MANTISSA_MASK)?))
    })
}

/// Exponent and mantissa of the greatest code that is at most `value`.
fn code_below(value: u128, exponent_max: u8) -> (u8, u16) {
    let (exponent, power, offset) = ladder(exponent_max)
        .take_while(|(_, _, offset)| *offset <= value)
        .last()
        .expect("the offset of exponent 0 is 0");
    let mantissa = value.saturating_sub(offset).checked_div(power).expect("powers of ten");
    // A value in the gap above this exponent's last code is carried by that code.
    (exponent, u16::try_from(mantissa).map_or(MANTISSA_MASK, |m| m.min(MANTISSA_MASK)))
}

/// Exponents with their power of ten and offset, ascending.
fn ladder(exponent_max: u8) -> impl Iterator<Item = (u8, u128, u128)> {
    (0..=exponent_max).scan((1_u128, 0_u128), |(power, offset), exponent| {
        let rung = (exponent, *power, *offset);
        *offset = offset.wrapping_add(MANTISSA_COUNT.unsigned_abs().wrapping_mul(*power));
        *power = power.wrapping_mul(10);
        Some(rung)
    })
}

fn value_of(exponent: u32, field: u16) -> u128 {
    let power = 10_u128.wrapping_pow(exponent);
    // Σ of a geometric series: 2¹⁴ · (10ᵉ − 1) / 9.
    let offset = MANTISSA_COUNT.unsigned_abs().wrapping_mul(power.wrapping_sub(1) / 9);
    u128::from(field & MANTISSA_MASK).wrapping_mul(power).wrapping_add(offset)
}

const MANTISSA_BITS: u32 = 14;
const MANTISSA_MASK: u16 = 0x3FFF;
const MANTISSA_COUNT: i128 = 1 << MANTISSA_BITS;
const NEGATIVE: u8 = 0b1000;
const STEP_DECIMALS: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn check(units: u32, want: Result<u16, AmountError>) {
        let got = TransferAmount::from_units(units).map(TransferAmount::field);
        assert_eq!(got, want, "units={units}");
    }

    //= IEC 62055-41 §6.3.6: an amount between two codes is rounded up, for the customer.
    #[test]
    fn transfer_boundaries() {
        check(0, Ok(0));
        check(1, Ok(1));
        check(16_383, Ok(0x3FFF));
        check(16_384, Ok(0x4000));
        for units in 16_385..=16_394 {
            check(units, Ok(0x4001));
        }
        check(16_395, Ok(0x4002));
        check(180_214, Ok(0x7FFF));
        for units in 180_215..=180_224 {
            check(units, Ok(0x8000));
        }
        check(180_225, Ok(0x8001));
        check(1_818_524, Ok(0xBFFF));
        for units in [1_818_525, 1_818_600, 1_818_624] {
            check(units, Ok(0xC000));
        }
        check(1_818_625, Ok(0xC001));
        check(18_201_624, Ok(0xFFFF));
        let limit = TransferAmount::MAX_UNITS.into();
        check(18_201_625, Err(AmountError::TooLarge(18_201_625, limit)));
        check(u32::MAX, Err(AmountError::TooLarge(u32::MAX.into(), limit)));
    }

    /// All codes: each stands for its own value, and encoding that value gives the code back.
    #[test]
    fn every_transfer_code_round_trips_and_the_values_ascend() {
        let mut before = None;
        for field in 0..=u16::MAX {
            let amount = TransferAmount::from_field(field);
            assert_eq!(TransferAmount::from_units(amount.units()), Ok(amount), "field={field:#x}");
            assert!(before < Some(amount.units()), "field={field:#x}");
            before = Some(amount.units());
        }
        assert_eq!(before, Some(TransferAmount::MAX_UNITS));
    }

    fn check_currency(text: &str, want: (u8, u16)) {
        let got = CurrencyAmount::parse(text).map(|a| (a.sign_and_exponent(), a.field()));
        assert_eq!(got, Ok(want), "amount={text}");
    }

    /// The values of STS 531 CTSA20.
    #[test]
    fn currency_boundaries() {
        check_currency("0", (0, 0));
        check_currency("1", (0, 0x60AA));
        check_currency("-1", (8, 0x60A9));
        check_currency("180224", (1, 0xBF4A));
        check_currency("-180224", (9, 0xBF49));
        check_currency("1820442624", (2, 0xC000));
        check_currency("182044444442624", (4, 0x0000));
        check_currency("-182044444442624", (11, 0xFFFF));
        check_currency("182044444444444444444444442624", (7, 0xC000));
        check_currency("0.000001", (0, 1));
        check_currency("-0.000001", (0, 0));
    }

    #[test]
    fn currency_ends() {
        let max = CurrencyAmount::MAX_STEPS;
        for (steps, sign_and_exponent) in [(max, 7), (-max, 15)] {
            let amount = CurrencyAmount::from_steps(steps).unwrap();
            assert_eq!((amount.sign_and_exponent(), amount.field()), (sign_and_exponent, 0xFFFF));
            assert_eq!(amount.steps(), steps);
        }
        for steps in [max + 1, -max - 1, i128::MAX, i128::MIN] {
            let want = Err(AmountError::TooLarge(steps, max));
            assert_eq!(CurrencyAmount::from_steps(steps), want);
        }
    }

    #[test]
    fn text() {
        let units = |text: &str| TransferAmount::parse(text, 1).map(TransferAmount::units);
        assert_eq!(units("25.6"), Ok(256));
        assert_eq!(units("12.35"), Ok(124), "always up");
        assert_eq!(units("1638.41"), Ok(16_394), "16384.1 has no code");
        assert_eq!(units("12.30"), Ok(123), "a trailing zero is no rest");
        assert_eq!(units("7"), Ok(70));
        assert_eq!(units("-0.1"), Err(AmountError::Negative(-1)));
        for bad in ["", ".", "1.", ".5", "+1", "1e3", "1,5", "--1", "1.2.3", "½"] {
            assert_eq!(units(bad), Err(AmountError::Text(bad.to_owned())), "{bad:?}");
        }
        let long = "9".repeat(60);
        assert!(matches!(units(&long), Err(AmountError::TooLarge(..))));
        assert!(matches!(CurrencyAmount::parse(&long), Err(AmountError::TooLarge(..))));
    }

    proptest! {
        /// Never less than asked, and no smaller code would do.
        #[test]
        fn transfer_is_the_least_code_not_below(units in 0..=TransferAmount::MAX_UNITS) {
            let amount = TransferAmount::from_units(units).unwrap();
            prop_assert!(amount.units() >= units);
            if let Some(below) = amount.field().checked_sub(1) {
                prop_assert!(TransferAmount::from_field(below).units() < units);
            }
        }

        #[test]
        fn currency_is_the_least_code_not_below(
            mantissa in -10_i128.pow(18)..10_i128.pow(18),
            exponent in 0_u32..17,
        ) {
            let steps = mantissa * 10_i128.pow(exponent);
            let amount = CurrencyAmount::from_steps(steps).unwrap();
            prop_assert!(amount.steps() >= steps, "{} < {}", amount.steps(), steps);
            let step_below = amount.steps() - 1;
            if amount.steps() > steps {
                prop_assert_eq!(CurrencyAmount::from_steps(step_below).unwrap(), amount);
            }
        }

        #[test]
        fn every_currency_code_round_trips(sign_and_exponent in 0_u8..16, field: u16) {
            let amount = CurrencyAmount::from_fields(sign_and_exponent, field);
            let again = CurrencyAmount::from_steps(amount.steps()).unwrap();
            prop_assert_eq!(again.steps(), amount.steps());
            let is_minus_zero = sign_and_exponent == 8 && field == 0;
            prop_assert!(again == amount || is_minus_zero);
        }
    }
}
