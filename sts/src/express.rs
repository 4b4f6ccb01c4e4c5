//! A row of vectors in this library's terms: its key, its token, and where they differ.

use std::fmt;
use std::str::FromStr;

use crate::amount::{CurrencyAmount, TransferAmount};
use crate::block::Frame;
use crate::civil;
use crate::codec::Refusal;
use crate::codes::{EncryptionAlgorithm, KeyDerivation, KeyType};
use crate::conformance::{Mismatch, Row};
use crate::derive::{Deriver, MeterConfig, VendingKeyId};
use crate::identity::KeyExpiryNumber;
use crate::key::{DecoderKey, VendingKey};
use crate::key_change::{KeyChange, KeyChangeSection, Rollover};
use crate::number::TokenNumber;
use crate::sta::Sta;
use crate::tid::{BaseDate, Tid};
use crate::token::{Management, MeterTest, Rnd, Token};

impl Row {
    /// The decoder key: derived where a vending key is given, and compared with the one given.
    pub(crate) fn decoder_key(&self) -> Result<Option<DecoderKey>, Mismatch> {
        let given = optional(&self.decoder_key)
            .map(|hex| DecoderKey::from_hex(hex).map_err(|error| bad("decoder_key", "***", &error)))
            .transpose()?;
        let ea = optional(&self.ea).map(|_| code("ea", &self.ea, EncryptionAlgorithm::from_code));
        let ea = ea.transpose()?;
        let key = match optional(&self.vending_key) {
            None => given,
            Some(hex) => {
                let key = parse_vending_key("vending_key", hex)?;
                let dkga = code("dkga", &self.dkga, KeyDerivation::from_code)?;
                same("dkga", dkga.code(), key.derivation().code())?;
                let meter = self.meter(&self.sgc, &self.krn, &self.ti)?;
                let base = base_date("base_year", &self.base_year)?;
                Some(derive("decoder_key", &key, base, &meter, given.as_ref())?)
            }
        };
        if let (Some(key), Some(ea)) = (&key, ea) {
            same("ea", ea.code(), key.algorithm().code())?;
        }
        Ok(key)
    }

    /// The meter of this row with the given supply group, revision and tariff index.
    fn meter(&self, sgc: &str, krn: &str, ti: &str) -> Result<MeterConfig, Mismatch> {
        // Not used in derivation, but a row that says something else than a number is wrong.
        parse_or("ken", &self.ken, 0_u8)?;
        Ok(MeterConfig {
            pan: parse("pan", &self.pan)?,
            ea: code("ea", &self.ea, EncryptionAlgorithm::from_code)?,
            key: VendingKeyId {
                sgc: parse("sgc", sgc)?,
                kt: code("kt", &self.kt, KeyType::from_code)?,
                krn: parse("krn", krn)?,
            },
            ti: parse("ti", ti)?,
        })
    }

    /// The tables of EA07 this row is made with; EA11 has none.
    pub(crate) fn sta(&self) -> Result<&'static Sta, Mismatch> {
        match (self.ea.as_str(), self.tables.as_str()) {
            (_, "sample") | ("11", "") => Ok(Sta::sample()),
            #[cfg(feature = "production-tables")]
            (_, "production") => Ok(Sta::production()),
            (_, other) => Err(mismatch("tables", other, "a build without them")),
        }
    }

    /// The token of the typed columns; what they leave open is taken from the content bits.
    pub(crate) fn build(
        &self,
        stand_in: Frame,
        ea: EncryptionAlgorithm,
    ) -> Result<Token, Mismatch> {
        let content = |frame: Frame| format!("{:011X}", frame.content);
        let token = Token::from_frame(stand_in, ea)
            .map_err(|error| bad("content44", &self.content44, &error))?;
        let built = match token {
            Token::Credit { service, rnd, tid, amount } => Token::Credit {
                service,
                rnd: self.rnd(rnd)?,
                tid: self.tid(tid)?,
                amount: self.transfer_amount(1, amount)?,
            },
            Token::CurrencyCredit { service, tid, amount } => Token::CurrencyCredit {
                service,
                tid: self.tid(tid)?,
                amount: self.currency_amount(amount)?,
            },
            Token::Management { rnd, tid, action } => Token::Management {
                rnd: self.rnd(rnd)?,
                tid: self.tid(tid)?,
                action: self.action(action)?,
            },
            Token::MeterTest(test) => Token::MeterTest(self.meter_test(test)?),
            Token::ExtendedRead(_) => token,
            Token::KeyChange(section) => self.key_change(&section, ea)?,
        };
        same("content44", content(stand_in), content(built.frame()))?;
        Ok(built)
    }

    fn rnd(&self, stand_in: Rnd) -> Result<Rnd, Mismatch> {
        let Some(text) = optional(&self.rnd) else { return Ok(stand_in) };
        let rnd = Rnd::from_low_bits(parse("rnd", text)?);
        same("rnd", text, &rnd.value().to_string())?;
        Ok(rnd)
    }

    /// The identifier of the instant; where a column names another, it must be one of the next
    /// free ones, as several tokens of one minute have.
    fn tid(&self, stand_in: Tid) -> Result<Tid, Mismatch> {
        let given = match optional(&self.tid) {
            Some(text) => Some(Tid::new(parse("tid", text)?).map_err(|e| bad("tid", text, &e))?),
            None => None,
        };
        let Some(when) = optional(&self.when) else { return Ok(given.unwrap_or(stand_in)) };
        let base = base_date("base_year", &self.base_year)?;
        let at_s = civil::parse(when).ok_or_else(|| mismatch("when", when, "no instant in UTC"))?;
        let tid = Tid::at(base, at_s).map_err(|error| bad("when", when, &error))?;
        let Some(given) = given else { return Ok(tid) };
        let before = given.value().checked_sub(1).and_then(|minutes| Tid::new(minutes).ok());
        let is_later = given.value().saturating_sub(tid.value()) <= TIDS_AHEAD_MAX
            && Tid::next_free(base, at_s, before) == Ok(given);
        if !is_later {
            same("tid", given.value(), tid.value())?;
        }
        Ok(given)
    }

    fn field(&self) -> Result<Option<u16>, Mismatch> {
        optional(&self.field)
            .map(|text| {
                let bits = parse_hex("field", text)?;
                u16::try_from(bits).map_err(|_| mismatch("field", text, "more than 16 bits"))
            })
            .transpose()
    }

    fn transfer_amount(
        &self,
        decimals: u32,
        stand_in: TransferAmount,
    ) -> Result<TransferAmount, Mismatch> {
        let field = self.field()?.map(TransferAmount::from_field);
        let Some(text) = optional(&self.amount) else { return Ok(field.unwrap_or(stand_in)) };
        let amount =
            TransferAmount::parse(text, decimals).map_err(|error| bad("amount", text, &error))?;
        if let Some(field) = field {
            same("field", hex16(field.field()), hex16(amount.field()))?;
        }
        Ok(amount)
    }

    fn currency_amount(&self, stand_in: CurrencyAmount) -> Result<CurrencyAmount, Mismatch> {
        let head = match optional(&self.se) {
            Some(text) => parse("se", text)?,
            None => stand_in.sign_and_exponent(),
        };
        let field = self.field()?.unwrap_or_else(|| stand_in.field());
        let given = CurrencyAmount::from_fields(head, field);
        let Some(text) = optional(&self.amount) else { return Ok(given) };
        let amount = CurrencyAmount::parse(text).map_err(|error| bad("amount", text, &error))?;
        same("se", given.sign_and_exponent(), amount.sign_and_exponent())?;
        same("field", hex16(given.field()), hex16(amount.field()))?;
        Ok(amount)
    }

    fn action(&self, stand_in: Management) -> Result<Management, Mismatch> {
        Ok(match stand_in {
            Management::SetMaximumPowerLimit(watts) => {
                Management::SetMaximumPowerLimit(self.transfer_amount(0, watts)?)
            }
            Management::SetMaximumPhasePowerUnbalanceLimit(watts) => {
                Management::SetMaximumPhasePowerUnbalanceLimit(self.transfer_amount(0, watts)?)
            }
            Management::ClearCredit(_)
            | Management::SetTariffRate(_)
            | Management::ClearTamperCondition
            | Management::SetWaterMeterFactor(_)
            | Management::Extended(_) => match self.field()? {
                Some(field) => Management::from_field(stand_in.subclass(), field)
                    .map_err(|error| bad("field", &self.field, &error))?,
                None => stand_in,
            },
        })
    }

    fn meter_test(&self, stand_in: MeterTest) -> Result<MeterTest, Mismatch> {
        let control = match optional(&self.control) {
            Some(text) => parse_hex("control", text)?,
            None => stand_in.control(),
        };
        let manufacturer = match optional(&self.mfr) {
            Some(text) => parse("mfr", text)?,
            None => stand_in.manufacturer(),
        };
        MeterTest::new(stand_in.width(), control, manufacturer)
            .map_err(|error| bad("control", &self.control, &error))
    }

    /// The section of this row, out of the whole set its columns describe.
    fn key_change(
        &self,
        stand_in: &KeyChangeSection,
        ea: EncryptionAlgorithm,
    ) -> Result<Token, Mismatch> {
        let from_content = KeyChange::with_section(stand_in, ea)
            .ok_or_else(|| mismatch("content44", &self.content44, "no supply group code"))?;
        let sgc = match optional(&self.new_sgc) {
            Some(text) => parse("new_sgc", text)?,
            None => match from_content.sgc {
                Some(sgc) => sgc,
                None => parse("sgc", &self.sgc)?,
            },
        };
        let has_sgc = ea == EncryptionAlgorithm::Ea11 || self.kind == KEY_CHANGE_OF_THREE;
        let change = KeyChange {
            key: self.new_key()?.unwrap_or(from_content.key),
            kt: from_content.kt,
            krn: parse_or("new_krn", &self.new_krn, from_content.krn)?,
            ken: parse_or("new_ken", &self.new_ken, from_content.ken.0).map(KeyExpiryNumber)?,
            ti: parse_or("new_ti", &self.new_ti, from_content.ti)?,
            rollover: match self.rollover.as_str() {
                "" => from_content.rollover,
                "0" => Rollover::Keep,
                "1" => Rollover::Clear,
                other => return Err(mismatch("rollover", other, "neither 0 nor 1")),
            },
            sgc: has_sgc.then_some(sgc),
        };
        let tokens = change.tokens().map_err(|error| bad("new_decoder_key", "***", &error))?;
        let wanted = (2, stand_in.subclass());
        let section = tokens.into_iter().find(|token| token.class() == wanted);
        section.ok_or_else(|| mismatch("subclass", &self.subclass, "not in a set of this kind"))
    }

    /// The new decoder key: derived where the columns for it are given, compared with the given.
    fn new_key(&self) -> Result<Option<DecoderKey>, Mismatch> {
        let Some(hex) = optional(&self.new_decoder_key) else { return Ok(None) };
        let what = "new_decoder_key";
        let given = DecoderKey::from_hex(hex).map_err(|error| bad(what, "***", &error))?;
        let vending_key = optional(&self.new_vending_key).or_else(|| optional(&self.vending_key));
        let columns = [&self.new_base_year, &self.new_sgc, &self.new_krn, &self.new_ti];
        let Some(vending_key) = vending_key.filter(|_| !columns.iter().any(|c| c.is_empty()))
        else {
            return Ok(Some(given));
        };
        let key = parse_vending_key("new_vending_key", vending_key)?;
        let base = base_date("new_base_year", &self.new_base_year)?;
        let meter = self.meter(&self.new_sgc, &self.new_krn, &self.new_ti)?;
        derive(what, &key, base, &meter, Some(&given)).map(Some)
    }

    pub(crate) fn check_token(
        &self,
        token: &Token,
        number: TokenNumber,
        decode: impl Fn(TokenNumber) -> Result<Token, Refusal>,
    ) -> Result<(), Mismatch> {
        let want: TokenNumber = parse("token", &self.token)?;
        same("token", format!("{want:#}"), format!("{number:#}"))?;
        match decode(want) {
            Ok(back) if back == *token => Ok(()),
            Ok(back) => Err(mismatch("decoded", &format!("{token:?}"), &format!("{back:?}"))),
            Err(error) => Err(mismatch("decoded", &format!("{token:?}"), &error.to_string())),
        }
    }
}

/// Derives a key and compares it with the one the row gives. A key is shown by its first bytes.
fn derive(
    what: &'static str,
    key: &VendingKey,
    base: BaseDate,
    meter: &MeterConfig,
    given: Option<&DecoderKey>,
) -> Result<DecoderKey, Mismatch> {
    let derived =
        Deriver::new(key).derive(base, meter).map_err(|error| bad(what, "***", &error))?;
    let start = |key: &DecoderKey| match key.expose() {
        [a, b, ..] => format!("{a:02x}{b:02x}…"),
        _ => String::new(),
    };
    match given {
        Some(given) if *given != derived => Err(mismatch(what, &start(given), &start(&derived))),
        _ => Ok(derived),
    }
}

fn parse_vending_key(what: &'static str, hex: &str) -> Result<VendingKey, Mismatch> {
    VendingKey::from_hex(hex).map_err(|error| bad(what, "***", &error))
}

fn base_date(what: &'static str, text: &str) -> Result<BaseDate, Mismatch> {
    BaseDate::from_year(parse(what, text)?).map_err(|error| bad(what, text, &error))
}

fn code<T, E: fmt::Display>(
    what: &'static str,
    text: &str,
    from_code: impl Fn(u8) -> Result<T, E>,
) -> Result<T, Mismatch> {
    from_code(parse(what, text)?).map_err(|error| bad(what, text, &error))
}

pub(crate) fn parse<T: FromStr<Err: fmt::Display>>(
    what: &'static str,
    text: &str,
) -> Result<T, Mismatch> {
    text.parse().map_err(|error| bad(what, text, &error))
}

fn parse_or<T: FromStr<Err: fmt::Display>>(
    what: &'static str,
    text: &str,
    stand_in: T,
) -> Result<T, Mismatch> {
    optional(text).map_or(Ok(stand_in), |text| parse(what, text))
}

pub(crate) fn parse_hex(what: &'static str, text: &str) -> Result<u64, Mismatch> {
    u64::from_str_radix(text, 16).map_err(|error| bad(what, text, &error))
}

fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn hex16(bits: u16) -> String {
    format!("{bits:04X}")
}

fn same<T: PartialEq + ToString>(what: &'static str, want: T, got: T) -> Result<(), Mismatch> {
    if want == got { Ok(()) } else { Err(mismatch(what, &want.to_string(), &got.to_string())) }
}

fn bad(what: &'static str, want: &str, error: &impl fmt::Display) -> Mismatch {
    mismatch(what, want, &error.to_string())
}

pub(crate) fn mismatch(what: &'static str, want: &str, got: &str) -> Mismatch {
    Mismatch { what, want: want.to_owned(), got: got.to_owned() }
}

pub(crate) const KEY_CHANGE_OF_THREE: &str = "key_change_3_of_3";

/// A row may name an identifier this far after its instant: tokens of one minute.
const TIDS_AHEAD_MAX: u32 = 15;
