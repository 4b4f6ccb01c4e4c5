//! A new decoder key in two, three or four tokens, and putting the sections together again.
//!
//! ```text
//! section 1 (subclass 3)   KEN high 4 | KRN 4 | RO 1 | 3KCT 1 | KT 2 | key bits 1..=32
//! section 2 (subclass 4)   KEN low 4 | TI 8 (binary) | last 32 key bits
//! section 3 (subclass 8)   64-bit key: SGC 24 | zeros 20
//!                          128-bit key: SGC low 12 | key bits 33..=64
//! section 4 (subclass 9)   SGC high 12 | key bits 65..=96
//! ```
//! Sections carry no mark of the set they belong to: a meter that is given sections of two sets
//! mixes them. That is the standard's; sell a set as one sheet.

use std::fmt;

use subtle::ConstantTimeEq;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::block::{low_u8, low_u16, low_u32};
use crate::codes::{EncryptionAlgorithm, KeyType};
use crate::identity::{KeyExpiryNumber, KeyRevisionNumber, SupplyGroupCode, TariffIndex};
use crate::key::DecoderKey;
use crate::token::{ContentError, Token};

/// How many tokens a key change takes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KeyChangeLength {
    /// A 64-bit key, supply group not told.
    Two,
    /// A 64-bit key with its supply group.
    Three,
    /// A 128-bit key with its supply group.
    Four,
}

/// Whether the meter forgets the identifiers it has seen: exactly when the base date changes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Rollover {
    /// The base date stays.
    Keep,
    /// The base date changes: the store of identifiers starts afresh.
    Clear,
}

/// Everything a set of key-change tokens brings a meter.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyChange {
    /// The new key.
    pub key: DecoderKey,
    /// Its type.
    pub kt: KeyType,
    /// Its revision.
    pub krn: KeyRevisionNumber,
    /// Its expiry.
    pub ken: KeyExpiryNumber,
    /// The tariff index that goes with it.
    pub ti: TariffIndex,
    /// Whether identifiers start afresh.
    pub rollover: Rollover,
    /// The supply group, in sets of three and four.
    pub sgc: Option<SupplyGroupCode>,
}

/// A key and a number of tokens that do not go together.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("a 128-bit key goes in four tokens and tells its supply group")]
pub struct KeyChangeError;

impl KeyChange {
    /// How many tokens this takes.
    ///
    /// # Errors
    /// [`KeyChangeError`] for a 128-bit key without supply group.
    pub const fn length(&self) -> Result<KeyChangeLength, KeyChangeError> {
        match (self.key.algorithm(), self.sgc) {
            (EncryptionAlgorithm::Ea07, None) => Ok(KeyChangeLength::Two),
            (EncryptionAlgorithm::Ea07, Some(_)) => Ok(KeyChangeLength::Three),
            (EncryptionAlgorithm::Ea11, Some(_)) => Ok(KeyChangeLength::Four),
            (EncryptionAlgorithm::Ea11, None) => Err(KeyChangeError),
        }
    }

    /// The tokens, in their usual order.
    ///
    /// # Errors
    /// [`KeyChangeError`] as [`KeyChange::length`].
    pub fn tokens(&self) -> Result<Vec<Token>, KeyChangeError> {
        let length = self.length()?;
        let mut parts = self.key.expose().chunks_exact(4).map(KeyPart::from_chunk);
        let mut part = || parts.next().unwrap_or_default();
        let first = KeyChangeSection::First {
            ken_high: self.ken.0 >> 4,
            krn: self.krn,
            rollover: self.rollover,
            three_tokens: length == KeyChangeLength::Three,
            kt: self.kt,
            part: part(),
        };
        // Sections 3 and 4 hold the middle of the key, section 2 its end.
        let rest = match (length, self.sgc) {
            (KeyChangeLength::Four, Some(sgc)) => {
                let (high, low) = (half(sgc.value() >> 12), half(sgc.value()));
                let third = KeyChangeSection::ThirdWide { sgc_low: low, part: part() };
                let fourth = KeyChangeSection::Fourth { sgc_high: high, part: part() };
                vec![third, fourth]
            }
            (KeyChangeLength::Three, Some(sgc)) => vec![KeyChangeSection::ThirdShort { sgc }],
            _ => vec![],
        };
        let second =
            KeyChangeSection::Second { ken_low: self.ken.0 & 0x0F, ti: self.ti, part: part() };
        Ok([first, second].into_iter().chain(rest).map(Token::KeyChange).collect())
    }

    /// A key change of which only `section` is known, zeros elsewhere: for a checker that puts in
    /// what it knows better. `None` when the section's supply group code is none.
    pub(crate) fn with_section(
        section: &KeyChangeSection,
        ea: EncryptionAlgorithm,
    ) -> Option<Self> {
        use KeyChangeSection::{First, Fourth, Second, ThirdShort, ThirdWide};
        let part = KeyPart::default;
        let third = match ea {
            EncryptionAlgorithm::Ea07 => ThirdShort { sgc: SupplyGroupCode::new(0).ok()? },
            EncryptionAlgorithm::Ea11 => ThirdWide { sgc_low: 0, part: part() },
        };
        let mut sections = KeyChangeSections {
            first: Some(First {
                ken_high: 0,
                krn: KeyRevisionNumber::new(1).ok()?,
                rollover: Rollover::Keep,
                three_tokens: matches!(section, ThirdShort { .. }),
                kt: KeyType::Unique,
                part: part(),
            }),
            second: Some(Second { ken_low: 0, ti: TariffIndex::new(0).ok()?, part: part() }),
            third: Some(third),
            fourth: Some(Fourth { sgc_high: 0, part: part() }),
        };
        sections.put(section.clone());
        sections.complete(ea)
    }
}

/// One section of a key change.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum KeyChangeSection {
    /// `Set1stSectionDecoderKey`.
    First {
        /// High half of the key expiry number.
        ken_high: u8,
        /// New revision.
        krn: KeyRevisionNumber,
        /// Whether identifiers start afresh.
        rollover: Rollover,
        /// A 64-bit key comes with its supply group in a third token.
        three_tokens: bool,
        /// New type.
        kt: KeyType,
        /// The first 32 bits of the key.
        part: KeyPart,
    },
    /// `Set2ndSectionDecoderKey`.
    Second {
        /// Low half of the key expiry number.
        ken_low: u8,
        /// New tariff index.
        ti: TariffIndex,
        /// The last 32 bits of the key.
        part: KeyPart,
    },
    /// `Set3rdSectionDecoderKey` of a 64-bit key.
    ThirdShort {
        /// New supply group.
        sgc: SupplyGroupCode,
    },
    /// `Set3rdSectionDecoderKey` of a 128-bit key.
    ThirdWide {
        /// Low 12 bits of the supply group.
        sgc_low: u16,
        /// Bits 33 to 64 of the key.
        part: KeyPart,
    },
    /// `Set4thSectionDecoderKey`.
    Fourth {
        /// High 12 bits of the supply group.
        sgc_high: u16,
        /// Bits 65 to 96 of the key.
        part: KeyPart,
    },
}

impl KeyChangeSection {
    /// Its subclass in class 2.
    #[must_use]
    pub const fn subclass(&self) -> u8 {
        match self {
            Self::First { .. } => 3,
            Self::Second { .. } => 4,
            Self::ThirdShort { .. } | Self::ThirdWide { .. } => 8,
            Self::Fourth { .. } => 9,
        }
    }

    pub(crate) fn content(&self) -> u64 {
        match self {
            Self::First { ken_high, krn, rollover, three_tokens, kt, part } => {
                u64::from(ken_high & 0x0F) << 40
                    | u64::from(krn.value()) << 36
                    | u64::from(*rollover == Rollover::Clear) << 35
                    | u64::from(*three_tokens) << 34
                    | u64::from(kt.code()) << 32
                    | part.bits()
            }
            Self::Second { ken_low, ti, part } => {
                u64::from(ken_low & 0x0F) << 40 | u64::from(ti.value()) << 32 | part.bits()
            }
            Self::ThirdShort { sgc } => u64::from(sgc.value()) << 20,
            Self::ThirdWide { sgc_low: sgc, part } | Self::Fourth { sgc_high: sgc, part } => {
                u64::from(sgc & 0xFFF) << 32 | part.bits()
            }
        }
    }

    pub(crate) fn from_content(
        subclass: u8,
        content: u64,
        ea: EncryptionAlgorithm,
    ) -> Result<Self, ContentError> {
        let part = KeyPart(low_u32(content));
        let half_sgc = low_u16(content >> 32) & 0xFFF;
        Ok(match (subclass, ea) {
            (3, _) => Self::First {
                ken_high: low_u8(content >> 40),
                krn: KeyRevisionNumber::new(low_u8(content >> 36) & 0x0F)?,
                rollover: if content >> 35 & 1 == 1 { Rollover::Clear } else { Rollover::Keep },
                three_tokens: content >> 34 & 1 == 1,
                kt: KeyType::from_code(low_u8(content >> 32) & 0b11)?,
                part,
            },
            (4, _) => Self::Second {
                ken_low: low_u8(content >> 40),
                ti: TariffIndex::new(low_u8(content >> 32))?,
                part,
            },
            (8, EncryptionAlgorithm::Ea11) => Self::ThirdWide { sgc_low: half_sgc, part },
            (8, EncryptionAlgorithm::Ea07) if content & 0xF_FFFF == 0 => {
                Self::ThirdShort { sgc: SupplyGroupCode::new(low_u32(content >> 20))? }
            }
            (8, EncryptionAlgorithm::Ea07) => {
                let field = "padding of the third key section";
                return Err(ContentError::Range { field, value: content & 0xF_FFFF });
            }
            (9, EncryptionAlgorithm::Ea11) => Self::Fourth { sgc_high: half_sgc, part },
            _ => return Err(ContentError::Function { class: 2, subclass }),
        })
    }
}

/// 32 bits of a key: wiped when dropped, never printed, not readable from outside.
#[derive(Clone, Default, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyPart(u32);

impl KeyPart {
    fn from_chunk(bytes: &[u8]) -> Self {
        Self(u32::from_be_bytes(bytes.try_into().expect("chunks of four bytes")))
    }

    fn bits(&self) -> u64 {
        self.0.into()
    }
}

impl PartialEq for KeyPart {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPart(***)")
    }
}

/// The sections a meter has received so far; `None` for those still to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyChangeSections {
    first: Option<KeyChangeSection>,
    second: Option<KeyChangeSection>,
    third: Option<KeyChangeSection>,
    fourth: Option<KeyChangeSection>,
}

impl KeyChangeSections {
    /// Keeps a section, in place of an earlier one of the same number.
    pub(crate) fn put(&mut self, section: KeyChangeSection) {
        let slot = match section {
            KeyChangeSection::First { .. } => &mut self.first,
            KeyChangeSection::Second { .. } => &mut self.second,
            KeyChangeSection::ThirdShort { .. } | KeyChangeSection::ThirdWide { .. } => {
                &mut self.third
            }
            KeyChangeSection::Fourth { .. } => &mut self.fourth,
        };
        *slot = Some(section);
    }

    /// The key change, once its set is complete for a meter with this cipher.
    pub(crate) fn complete(&self, ea: EncryptionAlgorithm) -> Option<KeyChange> {
        use KeyChangeSection::{First, Fourth, Second, ThirdShort, ThirdWide};
        let Some(First { ken_high, krn, rollover, three_tokens, kt, part: p1 }) = &self.first
        else {
            return None;
        };
        let Some(Second { ken_low, ti, part: p4 }) = &self.second else { return None };
        let (key, sgc) = match (ea, three_tokens, &self.third, &self.fourth) {
            (EncryptionAlgorithm::Ea07, false, _, _) => {
                (DecoderKey::from_64(join64(p1, p4).to_be_bytes()), None)
            }
            (EncryptionAlgorithm::Ea07, true, Some(ThirdShort { sgc }), _) => {
                (DecoderKey::from_64(join64(p1, p4).to_be_bytes()), Some(*sgc))
            }
            (
                EncryptionAlgorithm::Ea11,
                _,
                Some(ThirdWide { sgc_low, part: p2 }),
                Some(Fourth { sgc_high, part: p3 }),
            ) => {
                let wide = u128::from(join64(p1, p2)) << 64 | u128::from(join64(p3, p4));
                let code = u32::from(*sgc_high) << 12 | u32::from(*sgc_low);
                // Two halves may come together to more than 999999: no such group, no change.
                (DecoderKey::from_128(wide.to_be_bytes()), Some(SupplyGroupCode::new(code).ok()?))
            }
            _ => return None,
        };
        let ken = KeyExpiryNumber(ken_high << 4 | (ken_low & 0x0F));
        Some(KeyChange { key, kt: *kt, krn: *krn, ken, ti: *ti, rollover: *rollover, sgc })
    }
}

fn join64(high: &KeyPart, low: &KeyPart) -> u64 {
    high.bits() << 32 | low.bits()
}

/// 12 bits.
fn half(bits: u32) -> u16 {
    low_u16(bits.into()) & 0xFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn any_key_change() -> impl Strategy<Value = KeyChange> {
        let numbers = (0_u8..4, 1_u8..10, any::<u8>(), 0_u8..100, any::<bool>());
        let group = prop::option::of(0_u32..1_000_000);
        (any::<[u8; 16]>(), any::<bool>(), numbers, group).prop_map(
            |(bytes, wide, (kt, krn, ken, ti, roll), group)| {
                let key = DecoderKey::from_bytes(if wide { &bytes } else { &bytes[..8] }).unwrap();
                let group = if wide { group.or(Some(7)) } else { group };
                KeyChange {
                    key,
                    kt: KeyType::from_code(kt).unwrap(),
                    krn: KeyRevisionNumber::new(krn).unwrap(),
                    ken: KeyExpiryNumber(ken),
                    ti: TariffIndex::new(ti).unwrap(),
                    rollover: if roll { Rollover::Clear } else { Rollover::Keep },
                    sgc: group.map(|code| SupplyGroupCode::new(code).unwrap()),
                }
            },
        )
    }

    proptest! {
        /// In any order, and only when the last one is in.
        #[test]
        fn sections_come_together_again(
            change in any_key_change(),
            order in Just([0_usize, 1, 2, 3]).prop_shuffle(),
        ) {
            let tokens = change.tokens().unwrap();
            let ea = change.key.algorithm();
            let mut sections = KeyChangeSections::default();
            let mut left = tokens.len();
            for index in order {
                let Some(Token::KeyChange(section)) = tokens.get(index) else { continue };
                prop_assert!(sections.complete(ea).is_none());
                let again = KeyChangeSection::from_content(section.subclass(), section.content(), ea);
                prop_assert_eq!(again.as_ref(), Ok(section));
                sections.put(again.unwrap());
                left -= 1;
            }
            prop_assert_eq!(left, 0);
            prop_assert_eq!(sections.complete(ea), Some(change));
        }
    }

    #[test]
    fn a_wide_key_tells_its_supply_group() {
        let change = KeyChange {
            key: DecoderKey::from_bytes(&[7; 16]).unwrap(),
            kt: KeyType::Unique,
            krn: KeyRevisionNumber::new(1).unwrap(),
            ken: KeyExpiryNumber::NEVER,
            ti: TariffIndex::new(1).unwrap(),
            rollover: Rollover::Keep,
            sgc: None,
        };
        assert_eq!(change.tokens(), Err(KeyChangeError));
        assert!(!format!("{change:?}").contains('7'), "the key is printed");
    }

    /// Section 4 exists for 128-bit keys only, and the third of a 64-bit key is padded with zeros.
    #[test]
    fn contents_a_meter_refuses() {
        use EncryptionAlgorithm::{Ea07, Ea11};
        let check = |subclass, content, ea| KeyChangeSection::from_content(subclass, content, ea);
        assert!(matches!(check(9, 0, Ea07), Err(ContentError::Function { .. })));
        assert!(matches!(check(8, 1, Ea07), Err(ContentError::Range { .. })));
        assert!(check(8, 1, Ea11).is_ok());
        assert!(matches!(check(8, 1_000_000 << 20, Ea07), Err(ContentError::Identity(_))));
        assert!(matches!(check(3, 0, Ea07), Err(ContentError::Identity(_))), "KRN 0");
        assert!(matches!(check(4, 100 << 32, Ea07), Err(ContentError::Identity(_))), "TI 100");
    }
}
