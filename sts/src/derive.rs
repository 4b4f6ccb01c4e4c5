//! Decoder keys from vending keys: DKGA02 (DES) and DKGA04 (HMAC-SHA-256).
//!
//! ```text
//! DKGA02   DK = DES_VK(X) ⊕ X ⊕ VK,   X = PAN block ⊕ control block (16 hexadecimal digits each)
//!          PAN block = digits 2..=17 of the PAN (key type 3: IIN, then zeros)
//!          control block = KT(1) SGC(6) TI(2) KRN(1) FFFFFF
//! DKGA04   DK = first 8 (EA07) or 16 (EA11) bytes of HMAC-SHA-256_VK(data block), 49 bytes:
//!          04 | 02 "04" | 02 BDT | 02 EA | 02 TI | 00 | 04 | 06 SGC | 01 KT | 01 KRN
//!             | 12 PAN | bits of the key (4 bytes, big-endian);   fields are ASCII digits
//! ```

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::codes::{EncryptionAlgorithm, KeyType};
use crate::identity::{KeyRevisionNumber, MeterPan, SupplyGroupCode, TariffIndex};
use crate::key::{DecoderKey, VendingKey, hmac_of};
use crate::tid::BaseDate;

/// Which vending key: the name it has in a vault.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct VendingKeyId {
    /// Supply group.
    pub sgc: SupplyGroupCode,
    /// Type of the decoder keys it makes.
    pub kt: KeyType,
    /// Revision.
    pub krn: KeyRevisionNumber,
}

/// What is known of a meter's token settings: enough to derive its key.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct MeterConfig {
    /// The meter.
    pub pan: MeterPan,
    /// Its cipher.
    pub ea: EncryptionAlgorithm,
    /// The vending key behind its decoder key.
    pub key: VendingKeyId,
    /// Its tariff index.
    pub ti: TariffIndex,
}

/// Why a decoder key cannot be derived.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum DeriveError {
    /// Key type 0.
    #[error("an initialisation key (KT 0) is put in by the manufacturer, not derived")]
    Initialisation,
    /// EA11 needs 128 bits, DKGA02 gives 64.
    #[error("DKGA02 makes 64-bit keys, EA11 needs 128: use a 160-bit vending key (DKGA04)")]
    KeyTooShort,
    /// Key type 3 with DKGA04.
    #[error("no public source says which PAN DKGA04 takes for a common key (KT 3)")]
    CommonKey,
}

/// A vending key made ready: the costly part of a derivation is done once.
#[derive(Clone)]
pub struct Deriver(Ready);

#[derive(Clone)]
enum Ready {
    Dkga02 { cipher: Des, key: Zeroizing<[u8; 8]> },
    Dkga04(Hmac<Sha256>),
}

impl Deriver {
    /// Makes `key` ready for use.
    #[must_use]
    pub fn new(key: &VendingKey) -> Self {
        Self(match <[u8; 8]>::try_from(key.bytes()).map(Zeroizing::new) {
            Ok(key) => {
                let cipher = Des::new_from_slice(&*key).expect("a DES key has 8 bytes");
                Ready::Dkga02 { cipher, key }
            }
            Err(_) => Ready::Dkga04(hmac_of(key.bytes())),
        })
    }

    /// The decoder key of `meter`. The base date counts in DKGA04 only.
    ///
    /// # Errors
    /// [`DeriveError`].
    pub fn derive(&self, base: BaseDate, meter: &MeterConfig) -> Result<DecoderKey, DeriveError> {
        if meter.key.kt == KeyType::Initialisation {
            return Err(DeriveError::Initialisation);
        }
        match &self.0 {
            Ready::Dkga02 { cipher, key } => {
                if meter.ea == EncryptionAlgorithm::Ea11 {
                    return Err(DeriveError::KeyTooShort);
                }
                let input = dkga02_input(meter).to_be_bytes();
                let mut block = input.into();
                cipher.encrypt_block(&mut block);
                let mixed = u64::from_be_bytes(block.0)
                    ^ u64::from_be_bytes(input)
                    ^ u64::from_be_bytes(**key);
                Ok(DecoderKey::from_64(mixed.to_be_bytes()))
            }
            Ready::Dkga04(mac) => {
                if meter.key.kt == KeyType::Common {
                    return Err(DeriveError::CommonKey);
                }
                let mac = mac.clone().chain_update(dkga04_block(base, meter));
                let output = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
                let (wide, _) = output.split_first_chunk::<16>().expect("16 of 32 bytes");
                let (short, _) = output.split_first_chunk::<8>().expect("8 of 32 bytes");
                Ok(match meter.ea {
                    EncryptionAlgorithm::Ea07 => DecoderKey::from_64(*short),
                    EncryptionAlgorithm::Ea11 => DecoderKey::from_128(*wide),
                })
            }
        }
    }
}

impl std::fmt::Debug for Deriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Deriver(***)")
    }
}

/// The PAN block of DKGA02.
pub(crate) fn pan_block(meter: &MeterConfig) -> u64 {
    let kept = match meter.key.kt {
        KeyType::Common => meter.pan.iin().digits().len(),
        KeyType::Initialisation | KeyType::Default | KeyType::Unique => meter.pan.digits().len(),
    };
    let digits = meter.pan.digits().iter().enumerate().skip(1).take(16);
    digits.fold(0, |block, (index, digit)| {
        let digit = if index < kept { digit & 0x0F } else { 0 };
        block << 4 | u64::from(digit)
    })
}

/// The control block of DKGA02.
pub(crate) fn control_block(meter: &MeterConfig) -> u64 {
    let sgc = ascii_digits::<6>(meter.key.sgc.value());
    let ti = ascii_digits::<2>(meter.ti.value().into());
    let digits = [meter.key.kt.code()].into_iter().chain(sgc).chain(ti);
    let digits = digits.chain([meter.key.krn.value()]);
    digits.fold(0, |block, digit| block << 4 | u64::from(digit & 0x0F)) << 24 | 0xFF_FFFF
}

/// The input of DKGA02.
pub(crate) fn dkga02_input(meter: &MeterConfig) -> u64 {
    pan_block(meter) ^ control_block(meter)
}

/// The data block of DKGA04.
pub(crate) fn dkga04_block(base: BaseDate, meter: &MeterConfig) -> [u8; DKGA04_BLOCK] {
    let key_bits: u32 = match meter.ea {
        EncryptionAlgorithm::Ea07 => 64,
        EncryptionAlgorithm::Ea11 => 128,
    };
    let [kt] = ascii_digits(meter.key.kt.code().into());
    let [krn] = ascii_digits(meter.key.krn.value().into());
    let mut block = [0; DKGA04_BLOCK];
    let mut rest = block.as_mut_slice();
    let mut put = |bytes: &[u8]| {
        if let Some((slot, after)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
            slot.copy_from_slice(bytes);
            rest = after;
        }
    };
    put(&[4, 2, b'0', b'4', 2]);
    put(&base.code());
    put(&[2]);
    put(&ascii_digits::<2>(meter.ea.code().into()));
    put(&[2]);
    put(&ascii_digits::<2>(meter.ti.value().into()));
    put(&[0, 4, 6]);
    put(&ascii_digits::<6>(meter.key.sgc.value()));
    put(&[1, kt, 1, krn, 18]);
    put(meter.pan.digits());
    put(&key_bits.to_be_bytes());
    block
}

/// The last `N` decimal digits of `value`, in ASCII.
fn ascii_digits<const N: usize>(mut value: u32) -> [u8; N] {
    let mut digits = [b'0'; N];
    for slot in digits.iter_mut().rev() {
        *slot = b'0' | u8::try_from(value % 10).expect("a digit");
        value /= 10;
    }
    digits
}

const DKGA04_BLOCK: usize = 49;

#[cfg(test)]
mod tests {
    use super::*;

    fn meter(pan: &str, ea: EncryptionAlgorithm, sgc: u32, kt: KeyType) -> MeterConfig {
        MeterConfig {
            pan: pan.parse().unwrap(),
            ea,
            key: VendingKeyId {
                sgc: SupplyGroupCode::new(sgc).unwrap(),
                kt,
                krn: KeyRevisionNumber::new(1).unwrap(),
            },
            ti: TariffIndex::new(1).unwrap(),
        }
    }

    const PAN: &str = "600727000000000009";
    const DES_KEY: &str = "abababababababab";
    const HMAC_KEY: &str = "abababababababab949494949494949401234567";
    use EncryptionAlgorithm::{Ea07, Ea11};
    use KeyType::{Common, Default, Initialisation, Unique};

    fn check(key: &str, base: BaseDate, meter: &MeterConfig, want: Result<&str, DeriveError>) {
        let got = Deriver::new(&VendingKey::from_hex(key).unwrap()).derive(base, meter);
        let want = want.map(|hex| DecoderKey::from_hex(hex).unwrap());
        assert_eq!(got, want, "{meter:?}");
    }

    /// The worked chain of STS 531 CTSA01.
    #[test]
    fn dkga02() {
        let unique = meter(PAN, Ea07, 123_456, Unique);
        assert_eq!(pan_block(&unique), 0x0072_7000_0000_0000);
        assert_eq!(control_block(&unique), 0x2123_4560_11FF_FFFF);
        assert_eq!(dkga02_input(&unique), 0x2151_3560_11FF_FFFF);
        let base = BaseDate::Base1993;
        check(DES_KEY, base, &unique, Ok("e653341f9d5bf36f"));
        let wide = meter(PAN, Ea11, 123_456, Unique);
        check(DES_KEY, base, &wide, Err(DeriveError::KeyTooShort));
        let initial = meter(PAN, Ea07, 123_456, Initialisation);
        check(DES_KEY, base, &initial, Err(DeriveError::Initialisation));
    }

    #[test]
    fn a_common_key_does_not_depend_on_the_serial_number() {
        let [one, two] =
            ["600727000000000009", "600727111111111153"].map(|pan| meter(pan, Ea07, 1, Common));
        assert_eq!(pan_block(&one), 0x0072_7000_0000_0000);
        assert_eq!(pan_block(&one), pan_block(&two));
        let four = meter("000001000000000082", Ea07, 1, Common);
        assert_eq!(pan_block(&four), 0);
        let default = meter("600727111111111153", Ea07, 1, Default);
        assert_eq!(pan_block(&default), 0x0072_7111_1111_1115);
    }

    /// The example printed with STS 531 CTSA01, both ciphers.
    #[test]
    fn dkga04() {
        let short = meter(PAN, Ea07, 201_457, Unique);
        let base = BaseDate::Base2014;
        let mut want = vec![4, 2, b'0', b'4', 2, b'1', b'4', 2, b'0', b'7', 2, b'0', b'1', 0, 4, 6];
        want.extend(b"201457\x012\x011\x12600727000000000009\x00\x00\x00\x40");
        assert_eq!(dkga04_block(base, &short).to_vec(), want);
        check(HMAC_KEY, base, &short, Ok("87f3ecbb2e46b48f"));
        let wide = meter(PAN, Ea11, 201_457, Unique);
        check(HMAC_KEY, base, &wide, Ok("929bd3a415c9420a05ec5ee9f3ce91c3"));
        let common = meter(PAN, Ea07, 201_457, Common);
        check(HMAC_KEY, base, &common, Err(DeriveError::CommonKey));
    }
}
