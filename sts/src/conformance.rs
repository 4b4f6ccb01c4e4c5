//! Checks rows of published vectors against this library, every step both ways.
//!
//! A row is expressed, not looked up: its decoder key is derived from its vending key, its content
//! built from its typed columns (where one is empty, the 44 content bits stand in for it), its
//! token encoded from both, and the token decoded back. No row is treated apart; one that cannot
//! be expressed fails.
//!
//! Columns: `id, ea, dkga, tables, vending_key, decoder_key, pan, sgc, kt, krn, ti, ken,
//! base_year, kind, class, subclass, amount, field, rnd, se, tid, when, control, mfr,
//! new_vending_key, new_decoder_key, new_sgc, new_ti, new_krn, new_ken, new_base_year, rollover,
//! content44, token`, named in the header, in any order; others are ignored.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;

use crate::amount::{CurrencyAmount, TransferAmount};
use crate::block::Frame;
use crate::codec::{TokenCipher, decode, decode_plain, encode, encode_plain};
use crate::derive::{Deriver, MeterConfig, VendingKeyId};
use crate::identity::{EncryptionAlgorithm, KeyDerivation, KeyExpiryNumber, KeyType};
use crate::key::{DecoderKey, VendingKey};
use crate::key_change::{KeyChange, KeyChangeSection, Rollover};
use crate::number::TokenNumber;
use crate::sta::Sta;
use crate::tid::{BaseDate, Tid};
use crate::token::{Management, MeterTest, Rnd, Token};

/// Why text is no file of vectors.
#[derive(Debug, Error)]
#[error("line {line}: {source}")]
pub struct ReadError {
    /// The line, from 1.
    pub line: u64,
    /// What is wrong with it.
    pub source: csv::Error,
}

/// One vector, as written. Empty text stands for "not given".
#[derive(Clone, Debug, Deserialize)]
pub struct Row {
    /// Where it stands in the file, from 1.
    #[serde(skip)]
    pub line: u64,
    /// Its name.
    pub id: String,
    ea: String,
    dkga: String,
    tables: String,
    vending_key: String,
    decoder_key: String,
    pan: String,
    sgc: String,
    kt: String,
    krn: String,
    ti: String,
    ken: String,
    base_year: String,
    kind: String,
    class: String,
    subclass: String,
    amount: String,
    field: String,
    rnd: String,
    se: String,
    tid: String,
    when: String,
    control: String,
    mfr: String,
    new_vending_key: String,
    new_decoder_key: String,
    new_sgc: String,
    new_ti: String,
    new_krn: String,
    new_ken: String,
    new_base_year: String,
    rollover: String,
    content44: String,
    token: String,
}

/// The first thing in which a row and this library differ.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{what}: want {want}, got {got}")]
pub struct Mismatch {
    /// The column, or the step.
    pub what: &'static str,
    /// What the row says.
    pub want: String,
    /// What this library makes of it.
    pub got: String,
}

/// What a file of vectors came to. Shown as `N passed, N failed`.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Rows that agree.
    pub passed: usize,
    /// Rows that do not.
    pub failures: Vec<Failure>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failures.len())
    }
}

/// A row that does not agree.
#[derive(Clone, Debug, Error)]
#[error("line {line} {id}: {mismatch}")]
pub struct Failure {
    /// Its line.
    pub line: u64,
    /// Its name.
    pub id: String,
    /// In what.
    pub mismatch: Mismatch,
}

/// Reads a file of vectors.
///
/// # Errors
/// [`ReadError`] when a column is missing or a line has too few or too many fields.
pub fn read_csv(text: &str) -> Result<Vec<Row>, ReadError> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns = reader.headers().map_err(|source| ReadError { line: 1, source })?.clone();
    let mut rows = vec![];
    for record in reader.records() {
        let fail = |source: csv::Error| {
            let line = source.position().map_or(0, csv::Position::line);
            ReadError { line, source }
        };
        let record = record.map_err(fail)?;
        let line = record.position().map_or(0, csv::Position::line);
        let row: Row =
            record.deserialize(Some(&columns)).map_err(|source| ReadError { line, source })?;
        rows.push(Row { line, ..row });
    }
    Ok(rows)
}

/// Checks every row.
#[must_use]
pub fn check_rows(rows: &[Row]) -> Summary {
    let mut summary = Summary::default();
    for row in rows {
        match check_row(row) {
            Ok(()) => summary.passed = summary.passed.saturating_add(1),
            Err(mismatch) => {
                let (line, id) = (row.line, row.id.clone());
                summary.failures.push(Failure { line, id, mismatch });
            }
        }
    }
    summary
}

/// Checks a row: key, content, token, and the way back.
///
/// # Errors
/// The first [`Mismatch`].
pub fn check_row(row: &Row) -> Result<(), Mismatch> {
    let class = parse("class", &row.class)?;
    let subclass = parse("subclass", &row.subclass)?;
    let content = parse_hex("content44", &row.content44)?;
    check_kind(row, class, subclass)?;
    let stand_in = Frame { class, subclass, content };

    let Some(key) = row.decoder_key()? else {
        // Only class 1 needs no key; which algorithm is named does not matter to it.
        let token = row.build(stand_in, EncryptionAlgorithm::Ea11)?;
        let number = encode_plain(&token).ok_or_else(|| mismatch("decoder_key", "a key", ""))?;
        return row.check_token(&token, number, |number| decode_plain(number));
    };
    let cipher = TokenCipher::new(&key, row.sta()?);
    let token = row.build(stand_in, key.algorithm())?;
    row.check_token(&token, encode(&token, &cipher), |number| decode(number, &cipher))
}

impl Row {
    /// The decoder key: derived where a vending key is given, and compared with the one given.
    fn decoder_key(&self) -> Result<Option<DecoderKey>, Mismatch> {
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
        parse::<u8>("ken", &self.ken)?;
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
    fn sta(&self) -> Result<&'static Sta, Mismatch> {
        match (self.ea.as_str(), self.tables.as_str()) {
            (_, "sample") | ("11", "") => Ok(Sta::sample()),
            #[cfg(feature = "production-tables")]
            (_, "production") => Ok(Sta::production()),
            (_, other) => Err(mismatch("tables", other, "a build without them")),
        }
    }

    /// The token of the typed columns; what they leave open is taken from the content bits.
    fn build(&self, stand_in: Frame, ea: EncryptionAlgorithm) -> Result<Token, Mismatch> {
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
        let at_s = unix_s(when).ok_or_else(|| mismatch("when", when, "no instant in UTC"))?;
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
        let Some(base) = optional(&self.new_base_year) else { return Ok(Some(given)) };
        let base = base_date("new_base_year", base)?;
        let vending_key = optional(&self.new_vending_key).or(optional(&self.vending_key));
        let Some(vending_key) = vending_key else { return Ok(Some(given)) };
        let key = parse_vending_key("new_vending_key", vending_key)?;
        let meter = self.meter(&self.new_sgc, &self.new_krn, &self.new_ti)?;
        derive(what, &key, base, &meter, Some(&given)).map(Some)
    }

    fn check_token(
        &self,
        token: &Token,
        number: TokenNumber,
        decode: impl Fn(TokenNumber) -> Result<Token, crate::codec::Refusal>,
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

fn check_kind(row: &Row, class: u8, subclass: u8) -> Result<(), Mismatch> {
    let kinds: &[&str] = match (class, subclass) {
        (0, 0..=3) => &["credit", "cipher_sample"],
        (0, 4..=7) => &["currency"],
        (1, 0 | 1) => &["meter_test"],
        (1, 2) => &["extended_read"],
        (2, 0) => &["set_maximum_power_limit"],
        (2, 1) => &["clear_credit"],
        (2, 2) => &["set_tariff_rate"],
        (2, 3 | 4 | 8) => &["key_change", KEY_CHANGE_OF_THREE],
        (2, 9) => &["key_change"],
        (2, 5) => &["clear_tamper"],
        (2, 6) => &["set_maximum_phase_power_unbalance_limit"],
        (2, 7) => &["set_water_meter_factor"],
        (2, 10) => &["extended"],
        _ => &[],
    };
    if kinds.contains(&row.kind.as_str()) {
        return Ok(());
    }
    Err(mismatch("kind", &row.kind, &format!("class {class} subclass {subclass}: {kinds:?}")))
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

fn parse<T: FromStr<Err: fmt::Display>>(what: &'static str, text: &str) -> Result<T, Mismatch> {
    text.parse().map_err(|error| bad(what, text, &error))
}

fn parse_or<T: FromStr<Err: fmt::Display>>(
    what: &'static str,
    text: &str,
    stand_in: T,
) -> Result<T, Mismatch> {
    optional(text).map_or(Ok(stand_in), |text| parse(what, text))
}

fn parse_hex(what: &'static str, text: &str) -> Result<u64, Mismatch> {
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

fn mismatch(what: &'static str, want: &str, got: &str) -> Mismatch {
    Mismatch { what, want: want.to_owned(), got: got.to_owned() }
}

/// Seconds since 1970 of an instant written as `2014-03-01T13:00:00Z`.
fn unix_s(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, mark: char| -> Option<[u64; 3]> {
        let parts: Option<Vec<u64>> = text.split(mark).map(|part| part.parse().ok()).collect();
        parts?.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let february = if is_leap(year) { 29 } else { 28 };
    let months = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let month_index = usize::try_from(month.checked_sub(1)?).ok()?;
    let month_days = *months.get(month_index)?;
    if !(1970..2200).contains(&year) || day == 0 || day > month_days {
        return None;
    }
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let years: u64 = (1970..year).map(|year| if is_leap(year) { 366 } else { 365 }).sum();
    let before: u64 = months.iter().take(month_index).sum();
    let days = years.checked_add(before)?.checked_add(day)?.checked_sub(1)?;
    let hours = days.checked_mul(24)?.checked_add(hour)?;
    hours.checked_mul(60)?.checked_add(minute)?.checked_mul(60)?.checked_add(second)
}

const KEY_CHANGE_OF_THREE: &str = "key_change_3_of_3";

/// A row may name an identifier this far after its instant: tokens of one minute.
const TIDS_AHEAD_MAX: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    /// The shared vectors, when they are there.
    fn shared_vectors() -> Option<String> {
        let shared = std::env::var("METERD_SHARED")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
        let path = std::path::Path::new(&shared).join("sts/vectors.csv");
        let text = std::fs::read_to_string(&path).ok();
        if text.is_none() {
            println!("skipped: no {}", path.display());
        }
        text
    }

    #[cfg(feature = "production-tables")]
    #[test]
    fn every_shared_vector_agrees() {
        let Some(text) = shared_vectors() else { return };
        let rows = read_csv(&text).unwrap();
        let summary = check_rows(&rows);
        for failure in &summary.failures {
            println!("{failure}");
        }
        println!("{summary}");
        assert!(summary.failures.is_empty());
        assert_eq!(summary.passed, text.lines().count() - 1, "every line but the header");
    }

    /// V001, V286 and V137 of the shared vectors: STS 531-1-07 CTSA01, CTSA05 and CTSA20.
    const THREE: &str = "\
id,ea,dkga,tables,vending_key,decoder_key,pan,sgc,kt,krn,ti,ken,base_year,kind,class,subclass,\
amount,field,rnd,se,tid,when,control,mfr,new_vending_key,new_decoder_key,new_sgc,new_ti,new_krn,\
new_ken,new_base_year,rollover,content44,token
V001,7,4,production,abababababababab949494949494949401234567,87f3ecbb2e46b48f,\
600727000000000009,201457,2,1,01,255,2014,credit,0,0,0.1,0001,5,,85740,2014-03-01T13:00:00Z,\
,,,,,,,,,,5014EEC0001,70630503470028726114
V286,7,4,production,abababababababab949494949494949401234567,87f3ecbb2e46b48f,\
600727000000000009,201457,2,1,01,255,2014,key_change,2,4,,,,,,,,,,bdc28dcf6005434d,203557,02,6,\
255,2035,1,F026005434D,27469374567476953413
V137,7,4,production,abababababababab949494949494949401234567,87f3ecbb2e46b48f,\
600727000000000009,201457,2,1,01,255,2014,currency,0,4,180224,BF4A,,1,5946364,\
2025-04-22T10:04:00Z,,,,,,,,,,,15ABBFCBF4A,64220455784342673901
";

    /// A checker that lets a wrong row through proves nothing: each column counts.
    #[cfg(feature = "production-tables")]
    #[test]
    fn a_wrong_value_in_any_column_fails() {
        type Spoil = fn(&mut Row, &str);
        let rows = read_csv(THREE).unwrap();
        let summary = check_rows(&rows);
        assert_eq!(summary.to_string(), "3 passed, 0 failed", "{:?}", summary.failures);
        let check = |index: usize, what: &'static str, value: &str, spoil: Spoil| {
            let mut row = rows[index].clone();
            spoil(&mut row, value);
            let got = check_row(&row).map_err(|mismatch| mismatch.what);
            assert_eq!(got, Err(what), "row {index}, {value:?}");
        };
        check(0, "decoder_key", "87f3ecbb2e46b48e", |row, v| row.decoder_key = v.into());
        check(0, "decoder_key", "1", |row, v| row.krn = v.replace('1', "2"));
        check(0, "dkga", "2", |row, v| row.dkga = v.into());
        check(0, "ea", "9", |row, v| row.ea = v.into());
        check(0, "pan", "600727000000000008", |row, v| row.pan = v.into());
        check(0, "ken", "256", |row, v| row.ken = v.into());
        check(0, "kind", "currency", |row, v| row.kind = v.into());
        check(0, "class", "", |row, v| row.class = v.into());
        check(0, "kind", "1", |row, v| row.class = v.into());
        check(0, "tables", "other", |row, v| row.tables = v.into());
        check(0, "token", "sample", |row, v| row.tables = v.into());
        check(0, "field", "0.2", |row, v| row.amount = v.into());
        check(0, "content44", "4", |row, v| row.rnd = v.into());
        check(0, "rnd", "16", |row, v| row.rnd = v.into());
        check(0, "tid", "85739", |row, v| row.tid = v.into());
        check(0, "tid", "85749", |row, v| row.tid = v.into());
        check(0, "content44", "85741", |row, v| row.tid = v.into());
        check(0, "when", "2014-02-29T13:00:00Z", |row, v| row.when = v.into());
        check(0, "when", "1999-03-01T13:00:00Z", |row, v| row.when = v.into());
        check(0, "content44", "5014EEC0002", |row, v| row.content44 = v.into());
        check(0, "token", "70630503470028726115", |row, v| row.token = v.into());
        check(0, "token", "", |row, v| row.token = v.into());
        check(1, "new_decoder_key", "bdc28dcf6005434c", |row, v| row.new_decoder_key = v.into());
        check(1, "new_decoder_key", "203558", |row, v| row.new_sgc = v.into());
        check(1, "new_decoder_key", "03", |row, v| row.new_ti = v.into());
        check(1, "content44", "170", |row, v| row.new_ken = v.into());
        check(1, "rollover", "2", |row, v| row.rollover = v.into());
        check(1, "content44", "9", |row, v| row.subclass = v.into());
        check(2, "se", "-180224", |row, v| row.amount = v.into());
        check(2, "field", "180225", |row, v| row.amount = v.into());
        check(2, "se", "2", |row, v| row.se = v.into());
    }

    #[test]
    fn files_that_are_no_vectors() {
        let check = |text: &str, line| {
            assert_eq!(read_csv(text).map_err(|error| error.line).map(|_| ()), Err(line), "{text}");
        };
        check("id,token\nV001,1\n", 2);
        let (header, _) = THREE.split_once('\n').unwrap();
        check(&format!("{header}\nV001,7\n"), 2);
        assert_eq!(check_rows(&read_csv(header).unwrap()).to_string(), "0 passed, 0 failed");
    }

    #[test]
    fn instants() {
        assert_eq!(unix_s("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_s("2004-02-29T13:55:00Z"), Some(1_078_062_900));
        assert_eq!(unix_s("2014-03-01T13:00:00Z"), Some(1_393_678_800));
        for bad in [
            "",
            "2014-03-01",
            "2014-03-01T13:00:00",
            "2014-13-01T13:00:00Z",
            "2013-02-29T00:00:00Z",
            "2014-00-01T00:00:00Z",
            "2014-01-00T00:00:00Z",
            "2014-01-01T24:00:00Z",
            "1969-01-01T00:00:00Z",
            "9999999-01-01T00:00:00Z",
        ] {
            assert_eq!(unix_s(bad), None, "{bad}");
        }
    }
}
