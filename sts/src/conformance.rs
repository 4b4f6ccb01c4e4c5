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

use serde::Deserialize;
use thiserror::Error;

use crate::block::Frame;
use crate::codec::{TokenCipher, decode, decode_plain, encode, encode_plain};
use crate::codes::EncryptionAlgorithm;
use crate::express::{KEY_CHANGE_OF_THREE, mismatch, parse, parse_hex};

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
#[derive(Clone, Default, Deserialize)]
pub struct Row {
    /// Where it stands in the file, from 1.
    #[serde(skip)]
    pub line: u64,
    /// Fields there should be and fields there are, when these differ.
    #[serde(skip)]
    defect: Option<(usize, usize)>,
    /// Its name.
    pub id: String,
    pub(crate) ea: String,
    pub(crate) dkga: String,
    pub(crate) tables: String,
    pub(crate) vending_key: String,
    pub(crate) decoder_key: String,
    pub(crate) pan: String,
    pub(crate) sgc: String,
    pub(crate) kt: String,
    pub(crate) krn: String,
    pub(crate) ti: String,
    pub(crate) ken: String,
    pub(crate) base_year: String,
    pub(crate) kind: String,
    pub(crate) class: String,
    pub(crate) subclass: String,
    pub(crate) amount: String,
    pub(crate) field: String,
    pub(crate) rnd: String,
    pub(crate) se: String,
    pub(crate) tid: String,
    pub(crate) when: String,
    pub(crate) control: String,
    pub(crate) mfr: String,
    pub(crate) new_vending_key: String,
    pub(crate) new_decoder_key: String,
    pub(crate) new_sgc: String,
    pub(crate) new_ti: String,
    pub(crate) new_krn: String,
    pub(crate) new_ken: String,
    pub(crate) new_base_year: String,
    pub(crate) rollover: String,
    pub(crate) content44: String,
    pub(crate) token: String,
}

impl fmt::Debug for Row {
    /// Which row it is; it may hold somebody's keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} {})", self.line, self.id)
    }
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

/// Reads a file of vectors. A line that is no row by itself (too few or too many fields) becomes a
/// row that fails.
///
/// # Errors
/// [`ReadError`] when a column is missing.
pub fn read_csv(text: &str) -> Result<Vec<Row>, ReadError> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes());
    let fail = |line: u64| move |source: csv::Error| ReadError { line, source };
    let columns = reader.headers().map_err(fail(1))?.clone();
    let empty: csv::StringRecord = columns.iter().map(|_| "").collect();
    let _all_columns: Row = empty.deserialize(Some(&columns)).map_err(fail(1))?;
    let mut rows = vec![];
    for record in reader.records() {
        let record = record.map_err(fail(0))?;
        let line = record.position().map_or(0, csv::Position::line);
        let row = if record.len() == columns.len() {
            record.deserialize(Some(&columns)).map_err(fail(line))?
        } else {
            let id = record.get(0).unwrap_or_default().to_owned();
            let defect = Some((columns.len(), record.len()));
            Row { id, defect, ..Row::default() }
        };
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
    if let Some((want, got)) = row.defect {
        return Err(mismatch("fields", &want.to_string(), &got.to_string()));
    }
    let class = parse("class", &row.class)?;
    let subclass = parse("subclass", &row.subclass)?;
    let content = parse_hex("content44", &row.content44)?;
    check_kind(row, class, subclass)?;
    let stand_in = Frame { class, subclass, content };

    let Some(key) = row.decoder_key()? else {
        // Only class 1 needs no key; which algorithm is named does not matter to it.
        let token = row.build(stand_in, EncryptionAlgorithm::Ea11)?;
        let number = encode_plain(&token).ok_or_else(|| mismatch("decoder_key", "a key", ""))?;
        return row.check_token(&token, number, decode_plain);
    };
    let cipher = TokenCipher::new(&key, row.sta()?);
    let token = row.build(stand_in, key.algorithm())?;
    row.check_token(&token, encode(&token, &cipher), |number| decode(number, &cipher))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The shared vectors: skipped where they are not.
    #[cfg(feature = "production-tables")]
    #[test]
    fn every_shared_vector_agrees() {
        let shared = std::env::var("METERD_SHARED")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
        let path = std::path::Path::new(&shared).join("sts/vectors.csv");
        let Ok(text) = std::fs::read_to_string(&path) else {
            println!("skipped: no {}", path.display());
            return;
        };
        let summary = check_rows(&read_csv(&text).unwrap());
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
        check(0, "tid", "85756", |row, v| row.tid = v.into());
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
        let error = read_csv("id,token\nV001,1\n").unwrap_err();
        assert_eq!(error.line, 1);
        assert!(error.to_string().contains("missing field `ea`"), "{error}");
        let (header, _) = THREE.split_once('\n').unwrap();
        let count = |text: &str| check_rows(&read_csv(text).unwrap()).to_string();
        assert_eq!(count(header), "0 passed, 0 failed");
        let rows = read_csv(&format!("{header}\nV001,7\n{},\n", "1,".repeat(34))).unwrap();
        let failures: Vec<String> =
            check_rows(&rows).failures.iter().map(ToString::to_string).collect();
        let want = ["line 2 V001: fields: want 34, got 2", "line 3 1: fields: want 34, got 36"];
        assert_eq!(failures, want);
    }
}
