//! Who a meter is, and the numbers that say which key it holds.
//!
//! | element | written as |
//! | --- | --- |
//! | IIN | 6 digits `600727` (11-digit DRN) or 4 digits `0000` (13-digit DRN) |
//! | DRN | manufacturer code (2 or 4), serial (8), Luhn check digit |
//! | PAN | IIN, DRN, Luhn check digit: 18 digits |
//! | SGC, TI, KRN, KEN | 6 digits; 2 digits; 1..=9; 0..=255 |

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Why text or a number is not an identifier.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum IdentityError {
    /// Too short or too long.
    #[error("{what} has {got} characters, expected {want}")]
    Length {
        /// The element.
        what: &'static str,
        /// The length or lengths it may have.
        want: &'static str,
        /// The length found.
        got: usize,
    },
    /// A character that is no digit.
    #[error("{what} has {found:?} at position {position}, expected a digit")]
    NotDigit {
        /// The element.
        what: &'static str,
        /// The character, counted from 1.
        position: usize,
        /// What stands there.
        found: char,
    },
    /// The check digit does not fit the other digits.
    #[error("check digit of {what} is {got}, the other digits give {want}: a digit is mistyped")]
    CheckDigit {
        /// The element.
        what: &'static str,
        /// The digit found.
        got: u8,
        /// The digit the others give.
        want: u8,
    },
    /// The leading digits name no issuer this library knows.
    #[error("{what} starts with neither 600727 nor 0000")]
    Issuer {
        /// The element.
        what: &'static str,
    },
    /// A number outside its range.
    #[error("{what} is {got}, expected {want}")]
    Range {
        /// The element.
        what: &'static str,
        /// The number found.
        got: u32,
        /// The range it may have.
        want: &'static str,
    },
    /// A code of the standard that this library refuses by name.
    #[error("{what} {got:02} is not supported: {why}")]
    Unsupported {
        /// The element.
        what: &'static str,
        /// The code found.
        got: u8,
        /// Why it is refused.
        why: &'static str,
    },
}

/// Issuer identification number: it decides how long the DRN is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Iin {
    /// `600727`, for an 11-digit DRN.
    Iin600727,
    /// `0000`, for a 13-digit DRN.
    Iin0000,
}

impl Iin {
    /// The digits.
    #[must_use]
    pub const fn digits(self) -> &'static str {
        match self {
            Self::Iin600727 => "600727",
            Self::Iin0000 => "0000",
        }
    }
}

/// Decoder reference number: a meter's number with its check digit, 11 or 13 digits.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Drn(String);

impl Drn {
    /// The digits, check digit last.
    #[must_use]
    pub fn digits(&self) -> &str {
        &self.0
    }

    /// The issuer number that goes with a DRN of this length.
    #[must_use]
    pub fn iin(&self) -> Iin {
        if self.0.len() == DRN_SHORT { Iin::Iin600727 } else { Iin::Iin0000 }
    }

    /// The manufacturer's code: the first 2 digits of 11, or 4 of 13.
    #[must_use]
    pub fn manufacturer(&self) -> Manufacturer {
        let width = match self.iin() {
            Iin::Iin600727 => ManufacturerWidth::Two,
            Iin::Iin0000 => ManufacturerWidth::Four,
        };
        let code =
            self.0.bytes().take(width.digits()).fold(0_u16, |code, digit| {
                code.wrapping_mul(10).wrapping_add(u16::from(digit & 0x0F))
            });
        Manufacturer { width, code }
    }

    /// A DRN from the digits before its check digit (10 or 12), which is worked out.
    ///
    /// # Errors
    /// [`IdentityError`] when `payload` is not 10 or 12 digits.
    pub fn with_check_digit(payload: &str) -> Result<Self, IdentityError> {
        if payload.len() != DRN_SHORT - 1 && payload.len() != DRN_LONG - 1 {
            let got = payload.chars().count();
            return Err(IdentityError::Length {
                what: "DRN payload",
                want: "10 or 12 digits",
                got,
            });
        }
        all_digits("DRN payload", payload)?;
        let check = char::from(luhn(payload.as_bytes()) | b'0');
        Ok(Self(format!("{payload}{check}")))
    }
}

//= IEC 62055-41 §6.1.2: the DRN ends with a modulus-10 check digit over its other digits.
impl FromStr for Drn {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        if text.len() != DRN_SHORT && text.len() != DRN_LONG {
            let got = text.chars().count();
            return Err(IdentityError::Length { what: "DRN", want: "11 or 13 digits", got });
        }
        all_digits("DRN", text)?;
        check_digit("DRN", text)?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Drn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Drn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Drn({})", self.0)
    }
}

/// How many digits a manufacturer's code has; it decides the subclass of a class 1 token.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ManufacturerWidth {
    /// Two digits, in an 11-digit DRN.
    Two,
    /// Four digits, in a 13-digit DRN.
    Four,
}

impl ManufacturerWidth {
    /// The number of digits.
    #[must_use]
    pub const fn digits(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// A manufacturer's code with its width.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Manufacturer {
    /// Its width.
    pub width: ManufacturerWidth,
    /// The number; 0 stands for every manufacturer.
    pub code: u16,
}

/// Meter primary account number: IIN, DRN and a check digit; always 18 digits.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct MeterPan([u8; PAN_DIGITS]);

impl MeterPan {
    /// The PAN of the meter with this DRN.
    #[must_use]
    pub fn of(drn: &Drn) -> Self {
        let mut digits = [b'0'; PAN_DIGITS];
        let payload = drn.iin().digits().bytes().chain(drn.0.bytes());
        for (slot, digit) in digits.iter_mut().zip(payload) {
            *slot = digit;
        }
        let [payload @ .., check] = &mut digits;
        *check = luhn(payload) | b'0';
        Self(digits)
    }

    /// The 18 digits in ASCII.
    #[must_use]
    pub const fn digits(&self) -> &[u8; PAN_DIGITS] {
        &self.0
    }

    /// The issuer number at its front.
    #[must_use]
    pub fn iin(&self) -> Iin {
        if self.0.starts_with(Iin::Iin600727.digits().as_bytes()) {
            Iin::Iin600727
        } else {
            Iin::Iin0000
        }
    }

    /// The meter's number inside.
    #[must_use]
    pub fn drn(&self) -> Drn {
        let [payload @ .., _check] = &self.0;
        Drn(payload.iter().skip(self.iin().digits().len()).map(|d| char::from(*d)).collect())
    }
}

impl FromStr for MeterPan {
    type Err = IdentityError;

    /// Parses 18 digits; both check digits must fit.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let text = text.trim();
        let digits: [u8; PAN_DIGITS] = text.as_bytes().try_into().map_err(|_| {
            let got = text.chars().count();
            IdentityError::Length { what: "meter PAN", want: "18 digits", got }
        })?;
        all_digits("meter PAN", text)?;
        let known = [Iin::Iin600727, Iin::Iin0000].iter().any(|iin| text.starts_with(iin.digits()));
        if !known {
            return Err(IdentityError::Issuer { what: "meter PAN" });
        }
        check_digit("meter PAN", text)?;
        let pan = Self(digits);
        check_digit("DRN in the meter PAN", pan.drn().digits())?;
        Ok(pan)
    }
}

impl fmt::Display for MeterPan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|digit| write!(f, "{}", char::from(*digit)))
    }
}

impl fmt::Debug for MeterPan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MeterPan({self})")
    }
}

/// A bounded number with its text form, range check and `FromStr`.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($repr:ty), $what:literal, $low:literal..=$high:literal, $want:literal, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub struct $name($repr);

        impl $name {
            /// Makes one, range checked.
            ///
            /// # Errors
            /// [`IdentityError::Range`].
            pub fn new(value: $repr) -> Result<Self, IdentityError> {
                if !($low..=$high).contains(&value) {
                    let got = u32::from(value);
                    return Err(IdentityError::Range { what: $what, got, want: $want });
                }
                Ok(Self(value))
            }

            /// The number.
            #[must_use]
            pub const fn value(self) -> $repr {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;

            fn from_str(text: &str) -> Result<Self, IdentityError> {
                let text = text.trim();
                all_digits($what, text)?;
                let value = text.parse().map_err(|_| {
                    let got = text.chars().count();
                    IdentityError::Length { what: $what, want: $want, got }
                })?;
                Self::new(value)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

bounded!(
    /// Supply group code: which group of meters a vending key serves.
    SupplyGroupCode(u32), "supply group code", 0..=999_999, "6 digits", "{:06}"
);
bounded!(
    /// Tariff index; part of the key derivation, so a new one needs a key change.
    TariffIndex(u8), "tariff index", 0..=99, "00 to 99", "{:02}"
);
bounded!(
    /// Revision of the vending key within its supply group.
    KeyRevisionNumber(u8), "key revision number", 1..=9, "1 to 9", "{}"
);

/// Key expiry number: tokens whose TID's top 8 bits are above it are refused.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyExpiryNumber(pub u8);

impl KeyExpiryNumber {
    /// 255: the key outlives every TID.
    pub const NEVER: Self = Self(u8::MAX);
}

const DRN_SHORT: usize = 11;
const DRN_LONG: usize = 13;
const PAN_DIGITS: usize = 18;

/// The check digit over `payload` (ASCII digits): doubling starts at the rightmost one.
fn luhn(payload: &[u8]) -> u8 {
    let sum = payload.iter().rev().enumerate().fold(0_u8, |sum, (index, digit)| {
        let digit = digit & 0x0F;
        let doubled = (digit % 5).wrapping_mul(2).wrapping_add(digit / 5); // digits of 2d, summed
        sum.wrapping_add(if index % 2 == 0 { doubled } else { digit }) % 10
    });
    10_u8.wrapping_sub(sum) % 10
}

fn check_digit(what: &'static str, text: &str) -> Result<(), IdentityError> {
    let [payload @ .., check] = text.as_bytes() else {
        return Err(IdentityError::Length { what, want: "digits", got: 0 });
    };
    let (got, want) = (check & 0x0F, luhn(payload));
    if got == want { Ok(()) } else { Err(IdentityError::CheckDigit { what, got, want }) }
}

fn all_digits(what: &'static str, text: &str) -> Result<(), IdentityError> {
    match text.chars().enumerate().find(|(_, c)| !c.is_ascii_digit()) {
        Some((index, found)) => {
            let position = index.saturating_add(1);
            Err(IdentityError::NotDigit { what, position, found })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Result<&str, IdentityError>) {
        let got = text.parse::<MeterPan>().map(|pan| pan.drn().to_string());
        assert_eq!(got, want.map(str::to_owned), "pan={text}");
    }

    //= IEC 62055-41 §6.1.2: the DRN ends with a modulus-10 check digit over its other digits.
    #[test]
    fn pans() {
        let what = "meter PAN";
        check("600727000000000009", Ok("00000000000"));
        check("000001000000000082", Ok("0100000000008"));
        check(" 600727111111111153 ", Ok("11111111115"));
        check("600727000000000008", Err(IdentityError::CheckDigit { what, got: 8, want: 9 }));
        check("60072700000000000", Err(IdentityError::Length { what, want: "18 digits", got: 17 }));
        check("", Err(IdentityError::Length { what, want: "18 digits", got: 0 }));
        check("600728000000000009", Err(IdentityError::Issuer { what }));
        let found = 'x';
        check("60072700000000000x", Err(IdentityError::NotDigit { what, position: 18, found }));
        // The outer digit fits, the inner one does not.
        let inner = "DRN in the meter PAN";
        let bad = format!("600727{}", "11111111113");
        let bad = format!("{bad}{}", luhn(bad.as_bytes()));
        check(&bad, Err(IdentityError::CheckDigit { what: inner, got: 3, want: 5 }));
    }

    /// The two numbers CTSA17 says a point of sale must refuse.
    #[test]
    fn drns_with_a_wrong_check_digit_are_refused() {
        for drn in ["12345678904", "11111111113"] {
            let error = drn.parse::<Drn>().unwrap_err();
            assert!(matches!(error, IdentityError::CheckDigit { .. }), "{drn}: {error}");
        }
    }

    #[test]
    fn a_pan_is_made_of_its_drn() {
        for pan in ["600727000000000009", "000001000000000082", "600727111111111153"] {
            let parsed: MeterPan = pan.parse().unwrap();
            assert_eq!(MeterPan::of(&parsed.drn()).to_string(), pan);
            let drn = parsed.drn();
            let payload = &drn.digits()[..drn.digits().len() - 1];
            assert_eq!(Drn::with_check_digit(payload).unwrap(), drn);
        }
        let manufacturer = "0100000000008".parse::<Drn>().unwrap().manufacturer();
        assert_eq!(manufacturer, Manufacturer { width: ManufacturerWidth::Four, code: 100 });
    }

    #[test]
    fn bounds() {
        assert!("1000000".parse::<SupplyGroupCode>().is_err());
        assert_eq!("012345".parse::<SupplyGroupCode>().unwrap().to_string(), "012345");
        assert!("100".parse::<TariffIndex>().is_err());
        assert!("999".parse::<TariffIndex>().is_err(), "does not fit the byte");
        assert!("".parse::<TariffIndex>().is_err());
        assert!("0".parse::<KeyRevisionNumber>().is_err());
        assert!("10".parse::<KeyRevisionNumber>().is_err());
    }

    proptest::proptest! {
        /// One wrong digit is always caught.
        #[test]
        fn a_changed_digit_is_caught(serial in "[0-9]{10}", at in 0_usize..11, by in 1_u8..10) {
            let good = Drn::with_check_digit(&serial).unwrap();
            let mut digits = good.digits().as_bytes().to_vec();
            digits[at] = b'0' + (digits[at] - b'0' + by) % 10;
            let bad = String::from_utf8(digits).unwrap();
            proptest::prop_assert!(bad.parse::<Drn>().is_err(), "{}", bad);
        }
    }
}
