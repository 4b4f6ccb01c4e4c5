//! `meterd sts` through the built binary: published tokens there and back, errors that say what and
//! where, and no byte of a key in anything that is printed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const DES_KEY: &str = "abababababababab";
const LONG_KEY: &str = "abababababababab949494949494949401234567";
const DECODER_KEY: &str = "87f3ecbb2e46b48f";
/// The meter of the published tests.
const METER: &[&str] =
    &["--pan", "600727000000000009", "--sgc", "201457", "--krn", "1", "--ti", "01"];

fn sts(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meterd"));
    command.arg("sts").args(args).env_remove("METERD_STS_VENDING_KEY");
    command.env_remove("METERD_STS_DECODER_KEY").envs(env.iter().copied());
    command.output().expect("meterd starts")
}

/// Runs with the published vending key and meter; wants this exit code and answers standard output.
fn told(args: &[&str], code: i32) -> String {
    let args = [args, METER].concat();
    said(&sts(&args, &[("METERD_STS_VENDING_KEY", LONG_KEY)]), code)
}

fn said(output: &Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}{error}");
    for key in [DES_KEY, LONG_KEY, DECODER_KEY] {
        assert!(!text.contains(key) && !error.contains(key), "a key is shown: {text}{error}");
    }
    assert!(!error.contains("panicked"), "{error}");
    if code == 0 || code == 3 { text } else { error }
}

#[test]
fn published_tokens_there_and_back() {
    let check = |args: &[&str], token: &str, fields: &[&str]| {
        let encoded = told(&[&["encode"], args].concat(), 0);
        assert_eq!(encoded.trim().replace(' ', ""), token, "{args:?}");
        let decoded = told(&["decode", token], 0);
        for field in fields {
            assert!(decoded.contains(field), "{field} is not in {decoded}");
        }
    };
    // STS 531-1-07 CTSA01, CTSA20, CTSA11.
    check(
        &["credit", "--amount", "0.1", "--rnd", "5", "--at", "2014-03-01T13:00:00Z"],
        "70630503470028726114",
        &[r#""amount":"0.1""#, r#""tid":85740"#, r#""at":"2014-03-01T13:00:00Z""#, r#""rnd":5"#],
    );
    check(
        &["currency", "--amount", "180224", "--tid", "5946364"],
        "64220455784342673901",
        &[r#""kind":"currency""#, r#""amount":"180224.42624""#, r#""tid":5946364"#],
    );
}

#[test]
fn class_1_needs_no_key() {
    let plain = |args: &[&str]| said(&sts(args, &[]), 0).trim().replace(' ', "");
    assert_eq!(plain(&["encode", "test"]), "56493153725450313471");
    assert_eq!(plain(&["encode", "test", "--width", "4"]), "02305843005052951967");
    assert_eq!(plain(&["encode", "read", "--index", "0"]), "02305843009347914912");
    assert_eq!(plain(&["encode", "read", "--index", "63"]), "03440750115445279822");
    let decoded = said(&sts(&["decode", "0000-0000-0001-6777-4880"], &[]), 0);
    assert!(decoded.contains("display and buzzer test"), "{decoded}");
}

#[test]
fn a_worked_chain_is_explained() {
    let args = [
        "explain",
        "2371 6100 5011 8319 4197",
        "--pan",
        "600727000000000009",
        "--sgc",
        "123456",
        "--krn",
        "1",
        "--base-year",
        "1993",
    ];
    let text = said(&sts(&args, &[("METERD_STS_VENDING_KEY", DES_KEY)]), 0);
    for step in [
        "PAN block: 0072700000000000",
        "control block: 2123456011FFFFFF",
        "input X: 2151356011FFFFFF",
        "66 bits: 1492083C0A67CE455",
        "block: 492083C0AE7CE455",
        "data block: 055998630001 19E6",
        "amount: 0001 = 0.1 kWh",
    ] {
        assert!(text.contains(step), "{step:?} is missing in: {text}");
    }
}

#[test]
fn key_changes_are_the_published_ones() {
    let args = [
        "keychange",
        "--new-sgc",
        "203557",
        "--new-krn",
        "6",
        "--new-ti",
        "02",
        "--new-base-year",
        "2035",
    ];
    // The base date of the new key lies in the future.
    assert!(told(&args, 1).contains("before base date 2035"));
    // The token of CTSA19 that the meter of the tests takes after KRN 1: decoded by its old key.
    let tokens = told(&["keychange", "--new-krn", "2", "--tell-group"], 0);
    let lines: Vec<&str> = tokens.lines().collect();
    assert_eq!(lines.len(), 3);
    for (index, line) in lines.iter().enumerate() {
        let decoded = told(&["decode", line], 0);
        assert!(decoded.contains(&format!("\"section\":{}", index + 1)), "{decoded}");
    }
    assert_eq!(told(&["keychange", "--new-krn", "2", "--ea", "11"], 0).lines().count(), 4);
}

#[test]
fn derivation_shows_the_key_only_when_asked() {
    let quiet = told(&["derive"], 0);
    assert!(quiet.contains("decoder key check value: "), "{quiet}");
    let args = [&["derive", "--show-key"], METER].concat();
    let output = sts(&args, &[("METERD_STS_VENDING_KEY", LONG_KEY)]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&format!("decoder key: {DECODER_KEY}")), "{text}");
}

#[test]
fn bad_input_is_named_and_no_key_is_repeated() {
    let check = |args: &[&str], env: &[(&str, &str)], code: i32, words: &[&str]| {
        let error = said(&sts(args, env), code);
        for word in words {
            assert!(error.contains(word), "{word:?} is missing in: {error}");
        }
    };
    let key: &[(&str, &str)] = &[("METERD_STS_VENDING_KEY", LONG_KEY)];
    check(&["decode", "1234"], &[], 1, &["4 digits", "20"]);
    check(&["decode", "2371610050118319419O"], &[], 1, &["'O'", "20"]);
    check(&["decode", "99999999999999999999"], &[], 1, &["token"]);
    check(&["decode", "23716100501183194197"], &[], 1, &["a key is needed"]);
    check(&["decode", "23716100501183194197"], key, 1, &["--pan or --drn is needed"]);
    let bad_key: &[(&str, &str)] = &[("METERD_STS_VENDING_KEY", "abababababababax")];
    let args = [&["derive"], METER].concat();
    check(&args, bad_key, 1, &["vending key", "not hexadecimal"]);
    check(&args, &[("METERD_STS_VENDING_KEY", "abab")], 1, &["2 bytes", "8 or 20"]);
    check(&args, &[], 1, &["a vending key is needed"]);
    let pan = ["derive", "--pan", "600727000000000008", "--sgc", "1", "--krn", "1"];
    check(&pan, key, 2, &["--pan", "check digit"]);
    check(&["derive", "--ea", "9"], key, 2, &["DEA was withdrawn"]);
    check(&["conformance", "no/such/file.csv"], &[], 1, &["no/such/file.csv: cannot be read"]);
    let both = [&["decode", "23716100501183194197", "--decoder-key", "0011223344556677"], METER];
    check(&both.concat(), key, 1, &["decoder key is not the one"]);
    let default = [&["encode", "credit", "--amount", "1", "--kt", "1"], METER].concat();
    check(&default, key, 1, &["KT 1", "change the meter's key first"]);
    let expired = [&["encode", "clear-tamper", "--ken", "1"], METER].concat();
    check(&expired, key, 1, &["expires after block 1"]);
}

#[test]
fn a_token_for_another_meter_is_refused_by_its_checksum() {
    let text = told(&["decode", "23716100501183194197"], 3);
    assert!(text.contains(r#""ok":false"#) && text.contains(r#""refusal":"crc""#), "{text}");
}

fn vectors() -> Option<PathBuf> {
    let shared = std::env::var("METERD_SHARED")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").to_owned());
    let path = Path::new(&shared).join("sts/vectors.csv");
    path.exists().then_some(path)
}

#[test]
fn conformance_tells_each_failing_row_and_the_sums() {
    let Some(path) = vectors() else {
        println!("skipped: no shared vectors");
        return;
    };
    let file = path.to_str().expect("a readable path");
    let text = said(&sts(&["conformance", file], &[]), 0);
    let rows = fs::read_to_string(&path).expect("the vectors read").lines().count() - 1;
    assert_eq!(text, format!("{rows} passed, 0 failed\n"));

    let folder = tempfile::tempdir().expect("a folder");
    let spoiled = folder.path().join("spoiled.csv");
    let vectors = fs::read_to_string(&path).expect("the vectors read");
    fs::write(&spoiled, vectors.replacen("70630503470028726114", "70630503470028726115", 1))
        .expect("it is written");
    let text = said(&sts(&["conformance", spoiled.to_str().expect("a path")], &[]), 3);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("V001") && lines[0].contains("70630503470028726115"), "{text}");
    assert_eq!(lines[1], format!("{} passed, 1 failed", rows - 1));
}

#[test]
fn a_virtual_meter_takes_a_token_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("meter.json");
    let file = file.to_str().expect("a path");
    told(&["keypad", "new", file], 0);
    assert!(told(&["keypad", "new", file], 1).contains("cannot be written"));
    let keypad = |args: &[&str], code| said(&sts(&[&["keypad"], args].concat(), &[]), code);
    let token = told(&["encode", "credit", "--amount", "25.6"], 0);
    assert_eq!(keypad(&["enter", file, token.trim()], 0), "1 Accept\ncredit 25.6\n");
    assert_eq!(keypad(&["enter", file, token.trim()], 3), "10 Used\ncredit 25.6\n");
    assert!(keypad(&["show", file], 0).contains("meter 600727000000000009"));
}
