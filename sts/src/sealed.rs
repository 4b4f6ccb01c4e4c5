//! Vending keys at rest: sealed with AES-256-GCM under a master key.
//!
//! Layout, little-endian; the attributes are readable but authenticated:
//!
//! ```text
//!  0  4  "MVK1"                     24  8  active until, s        48 12  nonce
//!  4  4  supply group code          32  8  issued until, s        60  8 or 20  vending key, encrypted
//!  8  1  KT, KRN, KEN, 0 (4 × 1)    40  4  limit, tenths              16  tag
//! 12  4  base year                  44  4  limit, currency
//! 16  8  active from, s
//! ```
//! The nonce is a MAC of attributes and key under a key of its own, so sealing needs no
//! randomness, and two different blobs practically never share a nonce; equal ones are equal.

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit};
use hmac::Mac;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::codes::KeyType;
use crate::derive::VendingKeyId;
use crate::identity::{KeyExpiryNumber, KeyRevisionNumber, SupplyGroupCode};
use crate::key::{KeyError, VendingKey, hmac_of, unhex};
use crate::tid::BaseDate;
use crate::vault::{KeyAttributes, TokenLimit};

/// Why a blob gives no key.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum SealError {
    /// Too short, or not one of ours.
    #[error("no sealed vending key of version 1")]
    Format,
    /// An attribute that has no meaning; the blob was not made by this library.
    #[error("the sealed key has an invalid {0}")]
    Attribute(&'static str),
    /// Another master key, or a changed byte.
    #[error("the sealed key does not open: another master key, or the file was changed")]
    Refused,
}

/// The key under which vending keys are stored: 32 bytes.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MasterKey([u8; 32]);

impl MasterKey {
    /// A master key from 32 bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A master key from the text of its file: 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let what = "master key";
        let bytes = unhex(what, text)?;
        let got = bytes.len();
        let bytes = <[u8; 32]>::try_from(bytes.as_slice());
        bytes.map(Self).map_err(|_| KeyError::Length { what, want: "32", got })
    }

    /// The key for one purpose.
    pub(crate) fn subkey(&self, purpose: &[u8]) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hmac_of(&self.0).chain_update(purpose).finalize().into_bytes().into())
    }

    fn cipher(&self) -> Aes256Gcm {
        Aes256Gcm::new_from_slice(&*self.subkey(b"seal")).expect("AES-256 takes 32 bytes")
    }

    /// Seals a vending key.
    pub(crate) fn seal(&self, attributes: &KeyAttributes, key: &VendingKey) -> Vec<u8> {
        let head = header(attributes);
        let mac = hmac_of(&*self.subkey(b"nonce")).chain_update(head).chain_update(key.bytes());
        let mac: [u8; 32] = mac.finalize().into_bytes().into();
        let (nonce, _) = mac.split_first_chunk::<NONCE>().expect("12 of 32 bytes");
        let cipher = self.cipher();
        let sealed = cipher
            .encrypt(&(*nonce).into(), Payload { msg: key.bytes(), aad: &head })
            .expect("a key is far shorter than AES-GCM's limit");
        [head.as_slice(), nonce, &sealed].concat()
    }

    /// Opens a sealed vending key.
    pub(crate) fn open(&self, blob: &[u8]) -> Result<(KeyAttributes, VendingKey), SealError> {
        let (head, rest) = blob.split_first_chunk::<HEADER>().ok_or(SealError::Format)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Format)?;
        if !head.starts_with(MAGIC) {
            return Err(SealError::Format);
        }
        let cipher = self.cipher();
        let payload = Payload { msg: sealed, aad: head };
        let bytes = cipher.decrypt(&(*nonce).into(), payload).map_err(|_| SealError::Refused)?;
        let key = VendingKey::from_bytes(&Zeroizing::new(bytes)).map_err(|_| SealError::Format)?;
        Ok((attributes(head)?, key))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(***)")
    }
}

fn header(attributes: &KeyAttributes) -> [u8; HEADER] {
    let KeyAttributes { id, base_date, ken, limit, .. } = attributes;
    let fields: [&[u8]; 9] = [
        MAGIC,
        &id.sgc.value().to_le_bytes(),
        &[id.kt.code(), id.krn.value(), ken.0, 0],
        &u32::from(base_date.year()).to_le_bytes(),
        &attributes.active_from_s.to_le_bytes(),
        &attributes.active_until_s.to_le_bytes(),
        &attributes.issued_until_s.to_le_bytes(),
        &limit.units.to_le_bytes(),
        &limit.currency.to_le_bytes(),
    ];
    fields.concat().try_into().expect("the fields are 48 bytes")
}

fn attributes(head: &[u8; HEADER]) -> Result<KeyAttributes, SealError> {
    let mut rest = head.as_slice();
    let _magic = take::<4>(&mut rest);
    let sgc = u32::from_le_bytes(take(&mut rest));
    let [kt, krn, ken, _zero] = take(&mut rest);
    let year = u16::try_from(u32::from_le_bytes(take(&mut rest))).unwrap_or(0);
    let id = VendingKeyId {
        sgc: SupplyGroupCode::new(sgc).map_err(|_| SealError::Attribute("supply group code"))?,
        kt: KeyType::from_code(kt).map_err(|_| SealError::Attribute("key type"))?,
        krn: KeyRevisionNumber::new(krn)
            .map_err(|_| SealError::Attribute("key revision number"))?,
    };
    Ok(KeyAttributes {
        id,
        base_date: BaseDate::from_year(year).map_err(|_| SealError::Attribute("base date"))?,
        ken: KeyExpiryNumber(ken),
        active_from_s: u64::from_le_bytes(take(&mut rest)),
        active_until_s: u64::from_le_bytes(take(&mut rest)),
        issued_until_s: u64::from_le_bytes(take(&mut rest)),
        limit: TokenLimit {
            units: u32::from_le_bytes(take(&mut rest)),
            currency: u32::from_le_bytes(take(&mut rest)),
        },
    })
}

/// The next bytes of the header, whose length is fixed.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, after) = rest.split_first_chunk().expect("the header has all its fields");
    *rest = after;
    *taken
}

const MAGIC: &[u8; 4] = b"MVK1";
const HEADER: usize = 48;
const NONCE: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (MasterKey, KeyAttributes, VendingKey) {
        let attributes = KeyAttributes {
            id: VendingKeyId {
                sgc: SupplyGroupCode::new(201_457).unwrap(),
                kt: KeyType::Unique,
                krn: KeyRevisionNumber::new(3).unwrap(),
            },
            base_date: BaseDate::Base2014,
            ken: KeyExpiryNumber(170),
            active_from_s: 1,
            active_until_s: u64::MAX,
            issued_until_s: 3,
            limit: TokenLimit { units: 5, currency: 6 },
        };
        let key = VendingKey::from_hex("abababababababab949494949494949401234567").unwrap();
        (MasterKey::new([7; 32]), attributes, key)
    }

    #[test]
    fn a_sealed_key_opens_under_its_master_key_only() {
        let (master, attributes, key) = example();
        let blob = master.seal(&attributes, &key);
        assert_eq!(blob.len(), HEADER + NONCE + 20 + 16);
        assert_eq!(master.open(&blob), Ok((attributes, key.clone())));
        assert_eq!(MasterKey::new([8; 32]).open(&blob), Err(SealError::Refused));
        let hidden = key.bytes();
        assert!(!blob.windows(8).any(|window| hidden.windows(8).any(|part| part == window)));
        let short = VendingKey::from_hex("abababababababab").unwrap();
        assert_eq!(master.open(&master.seal(&attributes, &short)), Ok((attributes, short)));
    }

    /// Every bit of the blob is covered, the readable attributes included.
    #[test]
    fn a_changed_bit_is_refused() {
        let (master, attributes, key) = example();
        let blob = master.seal(&attributes, &key);
        for index in 0..blob.len() {
            for bit in 0..8 {
                let mut bad = blob.clone();
                bad[index] ^= 1 << bit;
                let want = if index < 4 { SealError::Format } else { SealError::Refused };
                assert_eq!(master.open(&bad), Err(want), "byte {index} bit {bit}");
            }
            assert!(master.open(&blob[..index]).is_err(), "cut at {index}");
        }
    }

    #[test]
    fn nonces_differ() {
        let (master, attributes, key) = example();
        let one = master.seal(&attributes, &key);
        let two = master.seal(&KeyAttributes { active_from_s: 2, ..attributes }, &key);
        assert_ne!(one[HEADER..HEADER + NONCE], two[HEADER..HEADER + NONCE]);
        assert_eq!(one, master.seal(&attributes, &key));
    }

    #[test]
    fn master_keys() {
        assert!(MasterKey::from_hex(&format!("{}\n", "0f".repeat(32))).is_ok());
        for bad in ["", "0f", &"0f".repeat(31), &"0g".repeat(32)] {
            assert!(MasterKey::from_hex(bad).is_err(), "{bad}");
        }
        assert_eq!(format!("{:?}", MasterKey::new([7; 32])), "MasterKey(***)");
    }
}
