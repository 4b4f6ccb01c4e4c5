//! The 66-bit token as people see it: 20 decimal digits.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why typed text is not a token.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum NumberError {
    /// Too few or too many digits.
    #[error("{0} digits, a token has 20")]
    Length(usize),
    /// A character that is neither a digit nor a space, dash or dot between digits.
    #[error("{found:?} at position {position} is no digit")]
    NotDigit {
        /// The character, counted from 1.
        position: usize,
        /// What stands there.
        found: char,
    },
    /// Twenty digits, but a number that does not fit 66 bits.
    #[error(
        "above {}, the largest STS token: not one (numbers of IEC 62055-42 are not supported)",
        TokenNumber::MAX
    )]
    TooLarge,
}

/// A token: 66 bits, shown as 20 digits in five groups of four.
///
/// It is worth money: `Debug` shows the last four digits only; print it with `Display` (grouped;
/// `{:#}` for the bare digits) where the buyer reads it.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TokenNumber(u128);

impl TokenNumber {
    /// The largest.
    pub const MAX: Self = Self((1 << 66) - 1);

    /// A token from its 66 bits.
    ///
    /// # Errors
    /// [`NumberError::TooLarge`].
    pub const fn new(bits: u128) -> Result<Self, NumberError> {
        if bits > Self::MAX.0 { Err(NumberError::TooLarge) } else { Ok(Self(bits)) }
    }

    /// The two top bits and the 64 below them.
    pub(crate) fn from_parts(top: u8, low: u64) -> Self {
        Self(u128::from(top & 0b11).wrapping_shl(64) | u128::from(low))
    }

    /// The 66 bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The two top bits.
    pub(crate) fn top(self) -> u8 {
        u8::try_from(self.0 >> 64).expect("a token has 66 bits")
    }

    /// The 64 lower bits.
    pub(crate) fn low(self) -> u64 {
        u64::try_from(self.0 & u128::from(u64::MAX)).expect("masked to 64 bits")
    }

    /// The 20 digits in ASCII.
    #[must_use]
    pub fn digits(self) -> [u8; DIGITS] {
        let mut digits = [b'0'; DIGITS];
        // One wide division, then 64-bit ones: a token below 2⁶⁶ is below 10²⁰.
        let halves = [self.0 / TEN_DIGITS, self.0 % TEN_DIGITS];
        for (part, half) in digits.chunks_exact_mut(DIGITS / 2).zip(halves) {
            let mut rest = u64::try_from(half).expect("ten digits fit in 64 bits");
            for slot in part.iter_mut().rev() {
                *slot = b'0' | u8::try_from(rest % 10).expect("a digit");
                rest /= 10;
            }
        }
        digits
    }
}

impl FromStr for TokenNumber {
    type Err = NumberError;

    /// Parses what people type: 20 digits, with spaces, dashes or dots between them.
    fn from_str(text: &str) -> Result<Self, NumberError> {
        let (mut count, mut bits) = (0_usize, 0_u128);
        for (index, found) in text.chars().enumerate() {
            match found.to_digit(10) {
                Some(digit) => {
                    count = count.saturating_add(1);
                    bits = bits.wrapping_mul(10).wrapping_add(u128::from(digit));
                }
                None if found.is_whitespace() || matches!(found, '-' | '.' | '–') => {}
                None => {
                    let position = index.saturating_add(1);
                    return Err(NumberError::NotDigit { position, found });
                }
            }
        }
        if count == DIGITS { Self::new(bits) } else { Err(NumberError::Length(count)) }
    }
}

impl fmt::Display for TokenNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.digits();
        for (index, group) in digits.chunks(4).enumerate() {
            if index > 0 && !f.alternate() {
                f.write_str(" ")?;
            }
            group.iter().try_for_each(|digit| write!(f, "{}", char::from(*digit)))?;
        }
        Ok(())
    }
}

impl fmt::Debug for TokenNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenNumber(…{:04})", self.0 % 10_000)
    }
}

const DIGITS: usize = 20;
const TEN_DIGITS: u128 = 10_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<u128, NumberError>) {
        assert_eq!(text.parse().map(TokenNumber::bits), want, "text={text:?}");
    }

    #[test]
    fn typed_text() {
        let bits = 0x1_4920_83C0_A67C_E455;
        check("23716100501183194197", Ok(bits));
        check("2371 6100 5011 8319 4197", Ok(bits));
        check(" 2371-6100-5011-8319-4197\n", Ok(bits));
        check("2371.6100.5011.8319.4197", Ok(bits));
        check("", Err(NumberError::Length(0)));
        check("2371610050118319419", Err(NumberError::Length(19)));
        check("237161005011831941970", Err(NumberError::Length(21)));
        check("2371610050118319419O", Err(NumberError::NotDigit { position: 20, found: 'O' }));
        check("73786976294838206463", Ok((1 << 66) - 1));
        check("73786976294838206464", Err(NumberError::TooLarge));
        check("99999999999999999999", Err(NumberError::TooLarge));
        check(&"9".repeat(1_000), Err(NumberError::Length(1_000)));
    }

    #[test]
    fn shown_to_the_buyer_and_masked_elsewhere() {
        let token: TokenNumber = "00000000000167774880".parse().unwrap();
        assert_eq!(token.to_string(), "0000 0000 0001 6777 4880");
        assert_eq!(format!("{token:#}"), "00000000000167774880");
        assert_eq!(format!("{token:?}"), "TokenNumber(…4880)");
    }

    proptest::proptest! {
        #[test]
        fn text_round_trips(top in 0_u8..4, low: u64) {
            let token = TokenNumber::from_parts(top, low);
            proptest::prop_assert_eq!(token.to_string().parse(), Ok(token));
            proptest::prop_assert_eq!((token.top(), token.low()), (top, low));
        }
    }
}
