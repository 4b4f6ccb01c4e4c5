//! Every step from 20 digits to their meaning, to be checked by hand.
//!
//! No step shows a byte of a key: neither the meter's, nor the new one in a key change, whose bits
//! stand as `········`.

use std::fmt;

use crate::block::{Frame, remove_class};
use crate::civil;
use crate::codec::TokenCipher;
use crate::codes::{EncryptionAlgorithm, KeyDerivation};
use crate::derive::{MeterConfig, control_block, dkga02_input, dkga04_block, pan_block};
use crate::key_change::{KeyChangeSection, Rollover};
use crate::number::TokenNumber;
use crate::tid::{BaseDate, Tid};
use crate::token::{CreditRegister, FLAG_NAMES, Management, Service, Token};

/// One step. Shown as `name: value`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// What is looked at.
    pub name: &'static str,
    /// What is there.
    pub value: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}

/// The steps of decoding a token. Without a cipher, classes 0 and 2 are shown up to the encrypted
/// block; without a base date, an identifier is not turned into an instant.
#[must_use]
pub fn explain(
    number: TokenNumber,
    cipher: Option<&TokenCipher>,
    base: Option<BaseDate>,
) -> Vec<Step> {
    let mut steps = Steps::default();
    let (class, block) = remove_class(number);
    steps.add("digits", number.to_string());
    steps.add("66 bits", format!("{:017X}", number.bits()));
    let class_name = match class {
        0 => "credit",
        1 => "test or display, not encrypted",
        2 => "management",
        _ => "reserved",
    };
    steps.add("class", format!("{class} ({class_name}), from bits 28..27"));
    steps.add("displaced", format!("bits 65..64 = {:02b}, back to bits 28..27", number.top()));
    steps.add("block", format!("{block:016X}"));
    let (block, ea) = match (class, cipher) {
        (1, _) => (block, EncryptionAlgorithm::Ea11),
        (0 | 2, Some(cipher)) => (cipher.decrypt(block), cipher.algorithm()),
        (0 | 2, None) => {
            steps.add("stopped", "encrypted, and no key is given".to_owned());
            return steps.0;
        }
        _ => {
            steps.add("refused", "class 3 is reserved".to_owned());
            return steps.0;
        }
    };
    if class != 1 {
        let name = match ea {
            EncryptionAlgorithm::Ea07 => "EA07, STA",
            EncryptionAlgorithm::Ea11 => "EA11, MISTY1",
        };
        steps.add("decrypted with", name.to_owned());
    }
    steps.checked_block(class, block, ea, base);
    steps.0
}

/// The steps that lead from a meter's settings to the input of its key's derivation. The rest of
/// it needs the vending key and is not shown.
#[must_use]
pub fn explain_derivation(
    derivation: KeyDerivation,
    base: BaseDate,
    meter: &MeterConfig,
) -> Vec<Step> {
    let mut steps = Steps::default();
    match derivation {
        KeyDerivation::Dkga02 => {
            steps.add("PAN block", format!("{:016X}", pan_block(meter)));
            steps.add("control block", format!("{:016X}", control_block(meter)));
            steps.add("input X", format!("{:016X}", dkga02_input(meter)));
            steps.add("decoder key", "DES of X under the vending key, xor X, xor the key".into());
        }
        KeyDerivation::Dkga04 => {
            let block =
                dkga04_block(base, meter).iter().map(|byte| format!("{byte:02X}")).collect();
            steps.add("data block", block);
            let bytes = match meter.ea {
                EncryptionAlgorithm::Ea07 => 8,
                EncryptionAlgorithm::Ea11 => 16,
            };
            let value = format!("the first {bytes} bytes of HMAC-SHA-256 under the vending key");
            steps.add("decoder key", value);
        }
    }
    steps.0
}

#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn add(&mut self, name: &'static str, value: String) {
        self.0.push(Step { name, value });
    }

    /// The plain block: checksum, then meaning.
    fn checked_block(
        &mut self,
        class: u8,
        block: u64,
        ea: EncryptionAlgorithm,
        base: Option<BaseDate>,
    ) {
        let (covered, found) = (block >> 16, block & 0xFFFF);
        let frame = Frame::open(class, block);
        let subclass = block >> 60;
        let is_currency = class == 0 && (4..=7).contains(&subclass);
        let (name, tail) = if is_currency { ("CRC_C", "01") } else { ("CRC", "") };
        let Some(frame) = frame else {
            // Under a wrong key these bits are noise, not a secret.
            self.add("data block", format!("{block:016X}"));
            let value = format!("{found:04X} found, but it does not fit: another key or mistyped");
            self.add("refused", value);
            return;
        };
        let token = Token::from_frame(frame, ea);
        let hidden = is_key_section(frame, ea);
        if hidden {
            // The checksum would tell half of the bits it covers.
            self.add("data block", format!("{:04X}········ ····", block >> 48));
            self.add("checksum", format!("{name} fits"));
        } else {
            let covers = format!("{:014X}{tail}", u64::from(class) << 48 | covered);
            let value = format!("{covered:012X} {found:04X} (subclass, content, checksum)");
            self.add("data block", value);
            self.add("checksum", format!("{name} of {covers} is {found:04X}, fits"));
        }
        match token {
            Ok(token) => self.meaning(&token, base),
            Err(error) => self.add("refused", error.to_string()),
        }
    }

    fn meaning(&mut self, token: &Token, base: Option<BaseDate>) {
        let (class, subclass) = token.class();
        let kind = format!("class {class} subclass {subclass}");
        match token {
            Token::Credit { service, rnd, tid, amount } => {
                let (name, unit) = service_names(*service);
                self.add("token", format!("{kind}: credit {name}"));
                self.add("random", rnd.value().to_string());
                self.tid(*tid, base);
                let units = amount.units();
                let value =
                    format!("{:04X} = {}.{} {unit}", amount.field(), units / 10, units % 10);
                self.add("amount", value);
            }
            Token::CurrencyCredit { service, tid, amount } => {
                let (name, _) = service_names(*service);
                self.add("token", format!("{kind}: currency credit {name}"));
                self.tid(*tid, base);
                let steps = amount.steps();
                let sign = if steps < 0 { "-" } else { "" };
                let whole = steps.unsigned_abs() / 100_000;
                let rest = steps.unsigned_abs() % 100_000;
                let (head, field) = (amount.sign_and_exponent(), amount.field());
                let value =
                    format!("S&E {head:04b}, {field:04X} = {sign}{whole}.{rest:05} currency units");
                self.add("amount", value);
            }
            Token::MeterTest(test) => {
                self.add(
                    "token",
                    format!("{kind}: meter test, manufacturer {}", test.manufacturer()),
                );
                self.add("control", format!("{:X}", test.control()));
                self.add("tests", test.names().collect::<Vec<_>>().join(", "));
            }
            Token::ExtendedRead(read) => {
                self.add("token", format!("{kind}: extended read, index {}", read.content() >> 38));
            }
            Token::Management { rnd, tid, action } => {
                self.add("token", format!("{kind}: {}", action_name(*action)));
                self.add("random", rnd.value().to_string());
                self.tid(*tid, base);
            }
            Token::KeyChange(section) => {
                self.add("token", format!("{kind}: {}", section_text(section)));
            }
        }
    }

    fn tid(&mut self, tid: Tid, base: Option<BaseDate>) {
        let minutes = tid.value();
        let instant = base.and_then(|base| civil::format(tid.unix_s(base)));
        let value = match (base, instant) {
            (Some(base), Some(at)) => {
                format!("{minutes} minutes after 1 January {}: {at}", base.year())
            }
            _ => format!("{minutes} minutes after the key's base date"),
        };
        self.add("identifier", value);
    }
}

fn is_key_section(frame: Frame, ea: EncryptionAlgorithm) -> bool {
    let holds_key = match ea {
        EncryptionAlgorithm::Ea07 => matches!(frame.subclass, 3 | 4),
        EncryptionAlgorithm::Ea11 => matches!(frame.subclass, 3 | 4 | 8 | 9),
    };
    frame.class == 2 && holds_key
}

const fn service_names(service: Service) -> (&'static str, &'static str) {
    match service {
        Service::Electricity => ("electricity", "kWh"),
        Service::Water => ("water", "m³"),
        Service::Gas => ("gas", "m³"),
        Service::Time => ("time", "minutes"),
    }
}

fn action_name(action: Management) -> String {
    match action {
        Management::SetMaximumPowerLimit(watts) => {
            format!("set maximum power limit, {} W", watts.units())
        }
        Management::ClearCredit(register) => match register {
            CreditRegister::Units(service) => format!("clear credit, {}", service_names(service).0),
            CreditRegister::Currency(service) => {
                format!("clear credit, {} currency", service_names(service).0)
            }
            CreditRegister::All => "clear credit, all registers".to_owned(),
        },
        Management::SetTariffRate(rate) => format!("set tariff rate, {rate:04X}"),
        Management::ClearTamperCondition => "clear tamper condition".to_owned(),
        Management::SetMaximumPhasePowerUnbalanceLimit(watts) => {
            format!("set maximum phase power unbalance limit, {} W", watts.units())
        }
        Management::SetWaterMeterFactor(factor) => format!("set water meter factor, {factor:04X}"),
        Management::Extended(setting) => match setting.as_flag() {
            Some((number, value)) => {
                let name = FLAG_NAMES.get(usize::from(number)).unwrap_or(&"no known name");
                format!("set flag {number} ({name}) to {}", u8::from(value))
            }
            None => format!("extended setting {:04X}", setting.field()),
        },
    }
}

fn section_text(section: &KeyChangeSection) -> String {
    match section {
        KeyChangeSection::First { ken_high, krn, rollover, three_tokens, kt, .. } => {
            let base = match rollover {
                Rollover::Keep => "base date stays",
                Rollover::Clear => "base date changes",
            };
            let third = if *three_tokens { ", a third section follows" } else { "" };
            format!(
                "first key section, KEN {ken_high:X}_, KRN {krn}, KT {}, {base}{third}",
                kt.code()
            )
        }
        KeyChangeSection::Second { ken_low, ti, .. } => {
            format!("second key section, KEN _{ken_low:X}, TI {ti}")
        }
        KeyChangeSection::ThirdShort { sgc } => format!("third key section, SGC {sgc}"),
        KeyChangeSection::ThirdWide { sgc_low, .. } => {
            format!("third key section, low 12 bits of the SGC {sgc_low:03X}")
        }
        KeyChangeSection::Fourth { sgc_high, .. } => {
            format!("fourth key section, high 12 bits of the SGC {sgc_high:03X}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::key::DecoderKey;
    use crate::sta::Sta;

    fn steps(digits: &str, key: Option<&str>, base: Option<BaseDate>) -> Vec<String> {
        let cipher = key.map(|hex| {
            let key = DecoderKey::from_hex(hex).unwrap();
            #[cfg(feature = "production-tables")]
            return TokenCipher::new(&key, Sta::production());
            #[cfg(not(feature = "production-tables"))]
            TokenCipher::new(&key, Sta::sample())
        });
        let steps = explain(digits.parse().unwrap(), cipher.as_ref(), base);
        steps.iter().map(ToString::to_string).collect()
    }

    /// The worked chain of STS 531 CTSA01, backwards.
    #[cfg(feature = "production-tables")]
    #[test]
    fn a_credit_token() {
        let got = steps("23716100501183194197", Some("e653341f9d5bf36f"), Some(BaseDate::Base1993));
        let want = [
            "digits: 2371 6100 5011 8319 4197",
            "66 bits: 1492083C0A67CE455",
            "class: 0 (credit), from bits 28..27",
            "displaced: bits 65..64 = 01, back to bits 28..27",
            "block: 492083C0AE7CE455",
            "decrypted with: EA07, STA",
            "data block: 055998630001 19E6 (subclass, content, checksum)",
            "checksum: CRC of 00055998630001 is 19E6, fits",
            "token: class 0 subclass 0: credit electricity",
            "random: 5",
            "identifier: 5871715 minutes after 1 January 1993: 2004-03-01T13:55:00Z",
            "amount: 0001 = 0.1 kWh",
        ];
        assert_eq!(got, want);
    }

    /// A section of STS 531 CTSA05: the new key's bits are not shown.
    #[cfg(feature = "production-tables")]
    #[test]
    fn a_key_section_hides_the_key() {
        let got = steps("27469374567476953413", Some("87f3ecbb2e46b48f"), None);
        assert_eq!(got[6], "data block: 4F02········ ····");
        assert_eq!(got[8], "token: class 2 subclass 4: second key section, KEN _F, TI 02");
        assert!(got.iter().all(|step| !step.contains("6005434D")), "{got:?}");
    }

    #[test]
    fn tokens_without_a_key() {
        let test = steps("00000000000167774880", None, None);
        assert_eq!(test.last().unwrap(), "tests: display and buzzer test");
        let credit = steps("23716100501183194197", None, None);
        assert_eq!(credit.last().unwrap(), "stopped: encrypted, and no key is given");
        let wrong = steps("23716100501183194197", Some("e653341f9d5bf36e"), None);
        assert!(wrong.last().unwrap().starts_with("refused: "), "{wrong:?}");
    }

    #[test]
    fn derivations() {
        let meter = crate::fuzz::example_meter(EncryptionAlgorithm::Ea07);
        let last = |derivation| {
            let steps = explain_derivation(derivation, BaseDate::Base2014, &meter);
            steps.first().unwrap().to_string()
        };
        assert_eq!(last(KeyDerivation::Dkga02), "PAN block: 0072700000000000");
        let block = last(KeyDerivation::Dkga04);
        assert!(block.starts_with("data block: 0402303402313402303702303100040632"), "{block}");
    }
}
