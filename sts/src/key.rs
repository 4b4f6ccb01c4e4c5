//! Keys: wiped when dropped, compared in constant time, never printed.

use std::fmt;

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codes::{EncryptionAlgorithm, KeyDerivation};

/// Why bytes are not a key. Holds no byte of it.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum KeyError {
    /// A length no key of this kind has.
    #[error("{what} has {got} bytes, expected {want}")]
    Length {
        /// The kind of key.
        what: &'static str,
        /// The lengths it may have.
        want: &'static str,
        /// The length found.
        got: usize,
    },
    /// Not hexadecimal.
    #[error("{what} is not hexadecimal, two digits a byte")]
    Hex {
        /// The kind of key.
        what: &'static str,
    },
    /// A DES key byte whose count of ones is even.
    #[error("byte {0} of the vending key has even parity: a digit is mistyped")]
    Parity(usize),
}

/// A key of a supply group, from which the decoder keys of its meters are derived: 8 bytes for
/// DKGA02, 20 for DKGA04.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct VendingKey(VendingBytes);

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
enum VendingBytes {
    Des([u8; 8]),
    Hmac([u8; 20]),
}

impl VendingKey {
    /// A key from its bytes.
    ///
    /// # Errors
    /// [`KeyError::Length`]; parity is a matter of [`VendingKey::check_parity`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if let Ok(des) = bytes.try_into() {
            Ok(Self(VendingBytes::Des(des)))
        } else if let Ok(hmac) = bytes.try_into() {
            Ok(Self(VendingBytes::Hmac(hmac)))
        } else {
            Err(KeyError::Length { what: VENDING_KEY, want: "8 or 20", got: bytes.len() })
        }
    }

    /// A key from hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&unhex(VENDING_KEY, text)?)
    }

    /// The derivation this length of key is made for.
    #[must_use]
    pub const fn derivation(&self) -> KeyDerivation {
        match self.0 {
            VendingBytes::Des(_) => KeyDerivation::Dkga02,
            VendingBytes::Hmac(_) => KeyDerivation::Dkga04,
        }
    }

    /// Checks that every byte of a DES key has odd parity, as key management centres make them.
    /// A 160-bit key has no parity bits and always passes.
    ///
    /// # Errors
    /// [`KeyError::Parity`] names the first bad byte, counted from 1.
    pub fn check_parity(&self) -> Result<(), KeyError> {
        let VendingBytes::Des(bytes) = &self.0 else { return Ok(()) };
        match bytes.iter().position(|byte| byte.count_ones() % 2 == 0) {
            Some(index) => Err(KeyError::Parity(index.saturating_add(1))),
            None => Ok(()),
        }
    }

    /// Three bytes by which two people can tell that they hold the same key: of DES, the
    /// encryption of zeros; of a 160-bit key, HMAC-SHA-256 of eight zero bytes (our choice: no
    /// public rule exists).
    #[must_use]
    pub fn check_value(&self) -> KeyCheckValue {
        let mut block = [0_u8; 8].into();
        let [a, b, c, ..] = match &self.0 {
            VendingBytes::Des(key) => {
                let cipher = Des::new_from_slice(key).expect("a DES key has 8 bytes");
                cipher.encrypt_block(&mut block);
                block.0
            }
            VendingBytes::Hmac(key) => {
                let mac = hmac_of(key).chain_update(block.0).finalize().into_bytes();
                block.copy_from_slice(mac.get(..8).expect("a SHA-256 MAC has 32 bytes"));
                block.0
            }
        };
        KeyCheckValue([a, b, c])
    }

    /// The key itself: for derivation and sealing.
    pub(crate) fn bytes(&self) -> &[u8] {
        match &self.0 {
            VendingBytes::Des(bytes) => bytes,
            VendingBytes::Hmac(bytes) => bytes,
        }
    }
}

impl ConstantTimeEq for VendingKey {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.bytes().ct_eq(other.bytes())
    }
}

impl PartialEq for VendingKey {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for VendingKey {}

impl fmt::Debug for VendingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VendingKey(***)")
    }
}

/// A key check value: not secret.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KeyCheckValue(pub [u8; 3]);

impl fmt::Display for KeyCheckValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// The key a meter decrypts its tokens with: 64 bits for EA07, 128 for EA11. Bytes stand in the
/// natural order, most significant first.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct DecoderKey(DecoderBytes);

#[derive(Clone, Zeroize, ZeroizeOnDrop)]
enum DecoderBytes {
    Bits64([u8; 8]),
    Bits128([u8; 16]),
}

impl DecoderKey {
    /// A key from its bytes.
    ///
    /// # Errors
    /// [`KeyError::Length`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        if let Ok(short) = bytes.try_into() {
            Ok(Self(DecoderBytes::Bits64(short)))
        } else if let Ok(long) = bytes.try_into() {
            Ok(Self(DecoderBytes::Bits128(long)))
        } else {
            Err(KeyError::Length { what: DECODER_KEY, want: "8 or 16", got: bytes.len() })
        }
    }

    /// A key from hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&unhex(DECODER_KEY, text)?)
    }

    /// The cipher a key of this width belongs to.
    #[must_use]
    pub const fn algorithm(&self) -> EncryptionAlgorithm {
        match self.0 {
            DecoderBytes::Bits64(_) => EncryptionAlgorithm::Ea07,
            DecoderBytes::Bits128(_) => EncryptionAlgorithm::Ea11,
        }
    }

    /// The secret itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        match &self.0 {
            DecoderBytes::Bits64(bytes) => bytes,
            DecoderBytes::Bits128(bytes) => bytes,
        }
    }

    pub(crate) const fn from_64(bytes: [u8; 8]) -> Self {
        Self(DecoderBytes::Bits64(bytes))
    }

    pub(crate) const fn from_128(bytes: [u8; 16]) -> Self {
        Self(DecoderBytes::Bits128(bytes))
    }
}

impl ConstantTimeEq for DecoderKey {
    fn ct_eq(&self, other: &Self) -> subtle::Choice {
        self.expose().ct_eq(other.expose())
    }
}

impl PartialEq for DecoderKey {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for DecoderKey {}

impl fmt::Debug for DecoderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DecoderKey(***)")
    }
}

/// A MAC keyed with a key of any length.
pub(crate) fn hmac_of(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// The bytes of hexadecimal text, wiped when dropped.
pub(crate) fn unhex(what: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, rest) = text.trim().as_bytes().as_chunks::<2>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(pairs.len()));
    for [high, low] in pairs {
        match (digit(high), digit(low)) {
            (Some(high), Some(low)) => bytes.push(high << 4 | low),
            _ => return Err(KeyError::Hex { what }),
        }
    }
    if rest.is_empty() { Ok(bytes) } else { Err(KeyError::Hex { what }) }
}

const VENDING_KEY: &str = "vending key";
const DECODER_KEY: &str = "decoder key";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parity_and_lengths() {
        let key = |hex: &str| VendingKey::from_hex(hex).unwrap();
        assert_eq!(key("abababababababab").check_parity(), Ok(()));
        assert_eq!(key("abababaaabababab").check_parity(), Err(KeyError::Parity(4)));
        assert_eq!(key("ffababababababab").check_parity(), Err(KeyError::Parity(1)));
        assert_eq!(key(&"00".repeat(20)).check_parity(), Ok(()));
        for bad in ["", "ab", "abababababababa", "zz", &"ab".repeat(16), "äbababababababab"] {
            assert!(VendingKey::from_hex(bad).is_err(), "{bad:?}");
        }
        assert_eq!(DecoderKey::from_hex("zz"), Err(KeyError::Hex { what: DECODER_KEY }));
        assert!(DecoderKey::from_hex(&"ab".repeat(20)).is_err());
    }

    #[test]
    fn check_values() {
        // DES of zeros under the well-known key of FIPS 46 examples.
        let value = VendingKey::from_hex("0123456789abcdef").unwrap().check_value();
        assert_eq!(value.to_string(), "D5D44F");
        let one = VendingKey::from_hex(&"11".repeat(20)).unwrap();
        let two = VendingKey::from_hex(&"12".repeat(20)).unwrap();
        assert_ne!(one.check_value(), two.check_value());
        assert_ne!(one, two);
        assert_eq!(one, one.clone());
    }

    #[test]
    fn keys_are_never_printed() {
        let vending = VendingKey::from_hex("abababababababab").unwrap();
        let decoder = DecoderKey::from_hex("0abc12def3456789").unwrap();
        assert_eq!(format!("{vending:?} {decoder:?}"), "VendingKey(***) DecoderKey(***)");
    }
}
