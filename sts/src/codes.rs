//! The codes of the standard: key types, ciphers, derivations, carriers. What this library does not
//! implement is refused by name.

use crate::identity::IdentityError;

/// What a decoder key is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyType {
    /// 0, DITK: put in by the manufacturer; not derived from a vending key.
    Initialisation,
    /// 1, DDTK: default; takes management tokens but no credit.
    Default,
    /// 2, DUTK: unique to a meter.
    Unique,
    /// 3, DCTK: common to a supply group (magnetic cards).
    Common,
}

impl KeyType {
    /// The type with this code.
    ///
    /// # Errors
    /// [`IdentityError::Unsupported`] above 3.
    pub const fn from_code(code: u8) -> Result<Self, IdentityError> {
        match code {
            0 => Ok(Self::Initialisation),
            1 => Ok(Self::Default),
            2 => Ok(Self::Unique),
            3 => Ok(Self::Common),
            _ => {
                let why = "the codes are 0 to 3";
                Err(IdentityError::Unsupported { what: "key type", got: code, why })
            }
        }
    }

    /// Whether a meter with a key of this type takes one of type `new`: never back to an
    /// initialisation key, nor from a working key to a default one. (The matrix of the standard is
    /// not public; this is what makers describe.)
    #[must_use]
    pub const fn may_become(self, new: Self) -> bool {
        match (self, new) {
            (_, Self::Initialisation) | (Self::Unique | Self::Common, Self::Default) => false,
            (_, Self::Default | Self::Unique | Self::Common) => true,
        }
    }

    /// Its code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Initialisation => 0,
            Self::Default => 1,
            Self::Unique => 2,
            Self::Common => 3,
        }
    }
}

/// How a token's data block is encrypted.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum EncryptionAlgorithm {
    /// 07, STA: 64-bit key.
    Ea07,
    /// 11, MISTY1: 128-bit key.
    Ea11,
}

impl EncryptionAlgorithm {
    /// The algorithm with this code.
    ///
    /// # Errors
    /// [`IdentityError::Unsupported`] for 09 and for codes the standard does not have.
    pub const fn from_code(code: u8) -> Result<Self, IdentityError> {
        let why = match code {
            7 => return Ok(Self::Ea07),
            11 => return Ok(Self::Ea11),
            9 => "DEA was withdrawn in edition 3",
            _ => "the codes are 07 (STA) and 11 (MISTY1)",
        };
        Err(IdentityError::Unsupported { what: "encryption algorithm", got: code, why })
    }

    /// Its code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ea07 => 7,
            Self::Ea11 => 11,
        }
    }
}

/// How a decoder key is derived from a vending key.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyDerivation {
    /// 02: single DES.
    Dkga02,
    /// 04: HMAC-SHA-256.
    Dkga04,
}

impl KeyDerivation {
    /// The algorithm with this code.
    ///
    /// # Errors
    /// [`IdentityError::Unsupported`] for 01 and 03 and for codes the standard does not have.
    pub const fn from_code(code: u8) -> Result<Self, IdentityError> {
        let why = match code {
            2 => return Ok(Self::Dkga02),
            4 => return Ok(Self::Dkga04),
            1 => "one unconfirmed description and no test vector exist in public",
            3 => "withdrawn in edition 3, and no test vector exists in public",
            _ => "the codes are 02 (DES) and 04 (HMAC-SHA-256)",
        };
        Err(IdentityError::Unsupported { what: "key derivation algorithm", got: code, why })
    }

    /// Its code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Dkga02 => 2,
            Self::Dkga04 => 4,
        }
    }
}

/// Token carrier type: how a token reaches its meter.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TokenCarrier {
    /// 01: a magnetic card.
    MagneticCard,
    /// 02: 20 digits on a keypad.
    Numeric,
    /// 07: sent to the meter over a network.
    Virtual,
}

impl TokenCarrier {
    /// The carrier with this code.
    ///
    /// # Errors
    /// [`IdentityError::Unsupported`] for the others; the code of the DLMS carrier of edition 3
    /// is not public.
    pub const fn from_code(code: u8) -> Result<Self, IdentityError> {
        match code {
            1 => Ok(Self::MagneticCard),
            2 => Ok(Self::Numeric),
            7 => Ok(Self::Virtual),
            _ => {
                let why = "the known codes are 01, 02 and 07";
                Err(IdentityError::Unsupported { what: "token carrier type", got: code, why })
            }
        }
    }

    /// Its code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::MagneticCard => 1,
            Self::Numeric => 2,
            Self::Virtual => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_of_what_is_refused() {
        assert!(KeyType::from_code(4).is_err());
        for (code, name) in [(1, "01"), (3, "03")] {
            let error = KeyDerivation::from_code(code).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("not supported"), "{error}");
        }
        let error = EncryptionAlgorithm::from_code(9).unwrap_err().to_string();
        assert!(error.contains("09") && error.contains("withdrawn"), "{error}");
        assert_eq!(TokenCarrier::from_code(2).map(TokenCarrier::code), Ok(2));
        assert!(TokenCarrier::from_code(3).is_err());
    }

    #[test]
    fn key_types_that_may_follow() {
        use KeyType::{Common, Default, Initialisation, Unique};
        let check = |from: KeyType, may: [bool; 4]| {
            let got = [Initialisation, Default, Unique, Common].map(|new| from.may_become(new));
            assert_eq!(got, may, "{from:?}");
        };
        check(Initialisation, [false, true, true, true]);
        check(Default, [false, true, true, true]);
        check(Unique, [false, false, true, true]);
        check(Common, [false, false, true, true]);
    }
}
