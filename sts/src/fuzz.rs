//! What the fuzzer calls: any bytes as typed text, as a token, and as content behind a fitting
//! checksum, which chance alone would not find.

use crate::block::{Frame, insert_class};
use crate::codec::{TokenCipher, decode, decode_plain, encode};
use crate::codes::{EncryptionAlgorithm, KeyType};
use crate::conformance::{check_rows, read_csv};
use crate::derive::{MeterConfig, VendingKeyId};
use crate::explain::explain;
use crate::identity::{KeyExpiryNumber, KeyRevisionNumber, SupplyGroupCode, TariffIndex};
use crate::key::DecoderKey;
use crate::meter::{Config, LockoutRule, VirtualMeter};
use crate::number::TokenNumber;
use crate::sta::Sta;
use crate::tid::{BaseDate, Tid};
use crate::token::Service;

/// Decodes `data` in every way there is. Panics when a token that decodes does not encode to
/// itself; never for any other reason.
pub fn fuzz_decode(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let typed = text.parse::<TokenNumber>().ok();
    let (class, content) = match data.split_first_chunk::<7>() {
        Some(([head, content @ ..], _)) => {
            let [a, b, c, d, e, f] = *content;
            (*head, u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
        }
        None => (0, 0),
    };
    let key_64 = DecoderKey::from_64([0xE6, 0x53, 0x34, 0x1F, 0x9D, 0x5B, 0xF3, 0x6F]);
    for key in [key_64, DecoderKey::from_128([0x92; 16])] {
        let cipher = TokenCipher::new(&key, Sta::sample());
        let mut meter = VirtualMeter::new(example_config(key.algorithm()), key);
        let frame = Frame { class: class >> 4 & 0b11, subclass: class & 0x0F, content };
        let block = frame.block();
        let sent = if frame.class == 1 { block } else { cipher.encrypt(block) };
        let bits = data.iter().take(9).fold(0, |bits, byte| bits << 8 | u128::from(*byte));
        let raw = TokenNumber::new(bits & TokenNumber::MAX.bits()).ok();
        for number in [typed, raw, Some(insert_class(frame.class, sent))].into_iter().flatten() {
            for token in [decode(number, &cipher), decode_plain(number)].into_iter().flatten() {
                assert_eq!(encode(&token, &cipher), number, "{token:?}");
            }
            assert!(!explain(number, Some(&cipher), Some(BaseDate::Base2014)).is_empty());
            meter.enter(number, 0);
        }
        meter.enter_text(&text, 0);
    }
    if let Ok(rows) = read_csv(&text) {
        let summary = check_rows(&rows);
        assert_eq!(rows.len().saturating_sub(summary.passed), summary.failures.len());
    }
}

/// The meter of the published vectors.
pub(crate) fn example_meter(ea: EncryptionAlgorithm) -> MeterConfig {
    MeterConfig {
        pan: "600727000000000009".parse().expect("a PAN of the vectors"),
        ea,
        key: VendingKeyId {
            sgc: SupplyGroupCode::new(201_457).expect("6 digits"),
            kt: KeyType::Unique,
            krn: KeyRevisionNumber::new(1).expect("1 to 9"),
        },
        ti: TariffIndex::new(1).expect("2 digits"),
    }
}

fn example_config(ea: EncryptionAlgorithm) -> Config {
    Config {
        meter: example_meter(ea),
        ken: KeyExpiryNumber(200),
        service: Service::Electricity,
        sta: Sta::sample(),
        tid_count: 3,
        start: Tid::MIN,
        units_max: 1_000,
        currency_steps_max: 1_000,
        key_change_timeout_s: 600,
        lockout: Some(LockoutRule::CLOU),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn seeds() {
        for seed in ["", "2371 6100 5011 8319 4197", "99999999999999999999", "\u{ff}\u{0}"] {
            fuzz_decode(seed.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn any_bytes(data in prop::collection::vec(any::<u8>(), 0..40)) {
            fuzz_decode(&data);
        }
    }
}
