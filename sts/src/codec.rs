//! Tokens to 20 digits and back.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::block::{Frame, insert_class, remove_class};
use crate::codes::EncryptionAlgorithm;
use crate::key::{DecoderKey, KeyCheckValue};
use crate::misty1::Misty1;
use crate::number::TokenNumber;
use crate::sta::Sta;
use crate::token::{ContentError, Token};

/// Why a number is no token for this key.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Refusal {
    /// Class 3 is reserved.
    #[error("class 3 is reserved")]
    Class,
    /// The checksum does not fit: mistyped, or for another meter or key.
    #[error("the checksum does not fit: mistyped, or made for another meter or key")]
    Crc,
    /// The checksum fits, the meaning does not.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// Classes 0 and 2 are encrypted.
    #[error("class {0} is encrypted: a decoder key is needed")]
    KeyNeeded(u8),
}

/// A decoder key made ready to encrypt and decrypt tokens.
#[derive(Clone)]
pub struct TokenCipher(Inner);

#[derive(Clone)]
enum Inner {
    Ea07 { key: Zeroizing<u64>, sta: &'static Sta },
    Ea11(Misty1),
}

impl TokenCipher {
    /// Makes `key` ready: MISTY1 for a 128-bit key, STA with `sta`'s tables for a 64-bit one.
    #[must_use]
    pub fn new(key: &DecoderKey, sta: &'static Sta) -> Self {
        Self(match key.expose().first_chunk::<16>() {
            Some(wide) => Inner::Ea11(Misty1::new(wide)),
            None => {
                let short = key.expose().first_chunk().expect("a key of 64 or 128 bits");
                Inner::Ea07 { key: Zeroizing::new(u64::from_be_bytes(*short)), sta }
            }
        })
    }

    /// Three bytes by which two people can tell that they hold the same key: of the encryption of
    /// zeros.
    #[must_use]
    pub fn check_value(&self) -> KeyCheckValue {
        let [a, b, c, ..] = self.encrypt(0).to_be_bytes();
        KeyCheckValue([a, b, c])
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> EncryptionAlgorithm {
        match self.0 {
            Inner::Ea07 { .. } => EncryptionAlgorithm::Ea07,
            Inner::Ea11(_) => EncryptionAlgorithm::Ea11,
        }
    }

    pub(crate) fn encrypt(&self, block: u64) -> u64 {
        match &self.0 {
            Inner::Ea07 { key, sta } => sta.encrypt(**key, block),
            Inner::Ea11(misty1) => misty1.encrypt(block),
        }
    }

    pub(crate) fn decrypt(&self, block: u64) -> u64 {
        match &self.0 {
            Inner::Ea07 { key, sta } => sta.decrypt(**key, block),
            Inner::Ea11(misty1) => misty1.decrypt(block),
        }
    }
}

impl std::fmt::Debug for TokenCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenCipher({:?}, ***)", self.algorithm())
    }
}

/// The number of a token. Class 1 is not encrypted, the others are.
#[must_use]
pub fn encode(token: &Token, cipher: &TokenCipher) -> TokenNumber {
    let frame = token.frame();
    let block = frame.block();
    let encrypted = if frame.class == PLAIN_CLASS { block } else { cipher.encrypt(block) };
    insert_class(frame.class, encrypted)
}

/// The number of a class 1 token, which needs no key; `None` for other classes.
#[must_use]
pub fn encode_plain(token: &Token) -> Option<TokenNumber> {
    let frame = token.frame();
    (frame.class == PLAIN_CLASS).then(|| insert_class(frame.class, frame.block()))
}

/// What a number says to the meter with this key.
///
/// # Errors
/// [`Refusal`].
//= IEC 62055-41 §7.3.6: class, decryption, checksum, in this order.
pub fn decode(number: TokenNumber, cipher: &TokenCipher) -> Result<Token, Refusal> {
    let (class, block) = remove_class(number);
    match class {
        PLAIN_CLASS => open(class, block, cipher.algorithm()),
        0 | 2 => open(class, cipher.decrypt(block), cipher.algorithm()),
        _ => Err(Refusal::Class),
    }
}

/// What a class 1 number says; it needs no key.
///
/// # Errors
/// [`Refusal`]; [`Refusal::KeyNeeded`] for classes 0 and 2.
pub fn decode_plain(number: TokenNumber) -> Result<Token, Refusal> {
    let (class, block) = remove_class(number);
    match class {
        // The algorithm matters in class 2 only.
        PLAIN_CLASS => open(class, block, EncryptionAlgorithm::Ea11),
        0 | 2 => Err(Refusal::KeyNeeded(class)),
        _ => Err(Refusal::Class),
    }
}

fn open(class: u8, block: u64, ea: EncryptionAlgorithm) -> Result<Token, Refusal> {
    let frame = Frame::open(class, block).ok_or(Refusal::Crc)?;
    Ok(Token::from_frame(frame, ea)?)
}

const PLAIN_CLASS: u8 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    use crate::identity::ManufacturerWidth;
    use crate::token::{ExtendedRead, MeterTest, TEST_NAMES};

    use proptest::prelude::*;

    fn ciphers() -> [TokenCipher; 2] {
        ["e653341f9d5bf36f", "929bd3a415c9420a05ec5ee9f3ce91c3"]
            .map(|hex| TokenCipher::new(&DecoderKey::from_hex(hex).unwrap(), Sta::sample()))
    }

    /// Test tokens need no key; the numbers are those of STS 531 CTSA11.
    #[test]
    fn meter_tests() {
        let check = |width, control, want: &str| {
            let token = Token::MeterTest(MeterTest::new(width, control, 0).unwrap());
            let number = encode_plain(&token).unwrap();
            assert_eq!(format!("{number:#}"), want);
            assert_eq!(decode_plain(number), Ok(token.clone()));
            assert!(ciphers().iter().all(|cipher| decode(number, cipher).as_ref() == Ok(&token)));
        };
        use ManufacturerWidth::{Four, Two};
        check(Two, MeterTest::all(Two), "56493153725450313471");
        check(Four, MeterTest::all(Four), "02305843005052951967");
        check(Two, 2, "00000000000167774880");
        check(Four, 1, "01152921509036054672");
        assert!(MeterTest::new(Four, 1 << 28, 0).is_err());
        assert!(MeterTest::new(Two, 1, 256).is_err());
        let all = MeterTest::new(Two, MeterTest::all(Two), 0).unwrap();
        assert_eq!(all.names().count(), TEST_NAMES.len());
        for (index, want) in [(0, "02305843009347914912"), (63, "03440750115445279822")] {
            let number = encode_plain(&Token::ExtendedRead(ExtendedRead::index(index))).unwrap();
            assert_eq!(format!("{number:#}"), want);
        }
    }

    //= IEC 62055-41 §7.3.6: class, decryption, checksum, in this order.
    #[test]
    fn a_key_is_needed_for_encrypted_classes() {
        let check = |class, want| {
            assert_eq!(decode_plain(insert_class(class, 0)), Err(want));
        };
        check(0, Refusal::KeyNeeded(0));
        check(1, Refusal::Crc);
        check(2, Refusal::KeyNeeded(2));
        check(3, Refusal::Class);
    }

    #[test]
    fn reserved_subclasses_are_refused_by_name() {
        for cipher in &ciphers() {
            for (class, subclass) in [(0, 8), (0, 15), (1, 3), (1, 6), (1, 15), (2, 11), (2, 15)] {
                let frame = Frame { class, subclass, content: 0x500_0000_0001 };
                let block = frame.block();
                let sent = if class == 1 { block } else { cipher.encrypt(block) };
                let want = ContentError::Function { class, subclass };
                assert_eq!(decode(insert_class(class, sent), cipher), Err(want.into()));
            }
        }
    }

    proptest! {
        /// Whatever a checksum lets through either encodes to the same 20 digits or is refused.
        #[test]
        fn what_decodes_encodes_to_itself(
            class in 0_u8..3,
            subclass in 0_u8..16,
            content in 0_u64..1 << 44,
            plain_value in any::<bool>(),
        ) {
            // Half the time a small 16-bit value, or registers and paddings are never valid.
            let content = if plain_value { content & !0xFFF8 } else { content };
            for cipher in &ciphers() {
                let block = Frame { class, subclass, content }.block();
                let sent = if class == 1 { block } else { cipher.encrypt(block) };
                let number = insert_class(class, sent);
                match decode(number, cipher) {
                    Ok(token) => prop_assert_eq!(encode(&token, cipher), number),
                    Err(error) => prop_assert!(matches!(error, Refusal::Content(_)), "{error}"),
                }
            }
        }

        /// Of random numbers, hardly any passes; none panics.
        #[test]
        fn any_number_is_decoded_or_refused(top in 0_u8..4, low: u64) {
            let number = TokenNumber::from_parts(top, low);
            for cipher in &ciphers() {
                if let Ok(token) = decode(number, cipher) {
                    prop_assert_eq!(encode(&token, cipher), number);
                }
            }
        }
    }
}
