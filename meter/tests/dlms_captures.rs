//! Real pushes and sessions, read as independent decoders read them.
//!
//! The captures stay outside of the repository (they hold serial numbers of real meters): they are
//! looked for in `METERD_SHARED`, by default beside the workspace.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test, and its counts are its point"
)]

use std::path::PathBuf;

use meter::wire::Writer;
use meter::wire::dlms::{
    Explained, Explainer, Hdlc, Measured, Notification, Templates, Tree, Walker, strip_llc,
};
use serde_json::{Map, Value, json};

fn captures(file: &str) -> Option<Vec<Value>> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared");
    let shared = std::env::var_os("METERD_SHARED").map_or_else(|| beside.into(), PathBuf::from);
    let path = shared.join("protocols").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: no {}", path.display());
        return None;
    };
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

fn bytes(row: &Value) -> Vec<u8> {
    let digits = row["hex"].as_str().unwrap();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect()
}

fn to_json(tree: &Tree) -> Value {
    match tree {
        Tree::Null => Value::Null,
        Tree::Bool(value) => json!(value),
        Tree::Integer(value) => json!(value),
        Tree::Unsigned(value) => json!(value),
        Tree::Float32(bits) => json!(f32::from_bits(*bits)),
        Tree::Float64(bits) => json!(f64::from_bits(*bits)),
        Tree::Text(text) => json!(text),
        Tree::List(list) => list.iter().map(to_json).collect(),
        Tree::Map(fields) => {
            let field = |(name, value): &(&str, Tree)| ((*name).to_owned(), to_json(value));
            Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
    }
}

#[derive(Debug, Default, Eq, PartialEq)]
struct Counts {
    same: usize,
    different: usize,
    error: usize,
}

/// Counts over the rows that `chosen` names; prints those that differ.
fn count(
    rows: &[Value],
    explainer: &mut Explainer,
    mut same: impl FnMut(&Value, &Explained) -> Option<bool>,
) -> Counts {
    let mut counts = Counts::default();
    for (index, row) in rows.iter().enumerate() {
        match explainer.explain(&bytes(row)) {
            Ok(explained) => match same(row, &explained) {
                Some(true) => counts.same += 1,
                Some(false) => {
                    counts.different += 1;
                    println!(
                        "row {index}: {}\n  got {}",
                        row["decoded"],
                        to_json(&explained.decoded)
                    );
                }
                None => {}
            },
            Err(error) => {
                counts.error += 1;
                println!("row {index}: {error}; {}", row["decoded"]);
            }
        }
    }
    counts
}

fn explainer() -> Explainer {
    Explainer::new(None, Templates::built_in(), None)
}

#[test]
fn pushes_read_as_independent_decoders_read_them() {
    let Some(rows) = captures("dlms_push.jsonl") else { return };
    let verified = |row: &Value| row["verified"] == true && !row["decoded"].is_null();
    let (sure, rest): (Vec<_>, Vec<_>) = rows.into_iter().partition(verified);
    let whole = |row: &Value, got: &Explained| Some(to_json(&got.decoded) == row["decoded"]);
    let counts = count(&sure, &mut explainer(), whole);
    println!("verified pushes: {counts:?}");
    assert_eq!(counts, Counts { same: sure.len(), different: 0, error: 0 });

    // Ciphered and block headers, which only the collector of the captures read. Its count of
    // cipher bytes takes the frames around M-Bus pieces for content, so it is left out.
    let (headers, broken): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|row| !row["decoded"].is_null());
    let counts = count(&headers, &mut explainer(), |row, got| {
        let mut got = to_json(&got.decoded);
        let mut want = row["decoded"].clone();
        for value in [&mut got, &mut want] {
            value.as_object_mut()?.remove("ciphertext_len");
        }
        Some(got == want)
    });
    println!("headers: {counts:?}");
    // The one error is a frame whose length coding is damaged.
    assert_eq!(counts, Counts { same: headers.len() - 1, different: 0, error: 1 });

    let counts = count(&broken, &mut explainer(), |_, _| Some(false));
    println!("broken or of another protocol: {counts:?}");
    assert_eq!(counts, Counts { same: 0, different: 0, error: broken.len() });
}

#[test]
fn datagrams_show_their_headers() {
    let Some(rows) = captures("dlms_udp_push.jsonl") else { return };
    let counts = count(&rows, &mut explainer(), |row, got| {
        let (want, got) = (&row["decoded"], to_json(&got.decoded));
        let pairs = [
            ("system_title", "system_title"),
            ("inner_len", "length"),
            ("sc", "security_control"),
            ("ic", "invocation_counter"),
        ];
        Some(pairs.iter().all(|(theirs, ours)| want[theirs] == got[ours]))
    });
    println!("datagrams: {counts:?}");
    assert_eq!(counts, Counts { same: rows.len(), different: 0, error: 0 });
}

/// The captures label session frames by what the client did, ciphered or not: the label names
/// direction, service, and the object where there is no other name for it.
#[test]
fn sessions_read_as_their_labels_say() {
    let Some(rows) = captures("dlms_session.jsonl") else { return };
    let (frames, vectors): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row["decoded"].is_object());
    let encryption = core::array::from_fn(|at| u8::try_from(at).unwrap());
    let keys = (encryption, encryption.map(|byte| byte | 0xD0));
    let mut explainer = Explainer::new(Some(keys), Templates::built_in(), None);
    let mut ciphered = 0;
    let counts = count(&frames, &mut explainer, |row, got| {
        ciphered += usize::from(got.ciphering.is_some());
        let got = to_json(&got.decoded);
        let want = &row["decoded"];
        if want["dir"] == "M->H" {
            return Some(got["body"].as_array().is_some_and(|body| body.len() >= 5));
        }
        let (want_service, service) = (want["service"].as_str()?, got["service"].as_str()?);
        let same_words = want_service
            .split(' ')
            .zip(service.split(' '))
            .all(|(theirs, ours)| theirs == ours || (theirs, ours) == ("scaler_unit", "scaler"));
        Some(got["dir"] == want["dir"] && same_words)
    });
    println!("session frames: {counts:?}, of which ciphered: {ciphered}");
    assert_eq!(counts, Counts { same: frames.len(), different: 0, error: 0 });
    assert_eq!(ciphered, 29);

    // Four vectors: a bare APDU, and three byte strings that are none.
    let counts = count(&vectors, &mut explainer, |row, _| {
        Some(row["decoded"] == "GET clock attr 2 plaintext")
    });
    assert_eq!(counts, Counts { same: 1, different: 0, error: 3 });
}

/// The plain APDU of a capture that is one frame; `None` where it is not.
fn single_push(frame: &[u8]) -> Option<&[u8]> {
    let apdu = match frame {
        [0x7E, ..] => Hdlc::parse(frame).ok().filter(|frame| !frame.is_segmented)?.apdu(),
        _ => strip_llc(frame),
    };
    (apdu.first() == Some(&0x0F)).then_some(apdu)
}

/// Values walked and written again give the bytes of the capture.
#[test]
fn pushes_encode_to_the_same_bytes() {
    let Some(rows) = captures("dlms_push.jsonl") else { return };
    let mut same = 0;
    for row in rows.iter().filter(|row| row["verified"] == true) {
        let frame = bytes(row);
        let Some(apdu) = single_push(&frame) else { continue };
        let push = Notification::parse(apdu).unwrap();
        let mut buf = [0; 2048];
        let mut writer = Writer::new(&mut buf);
        Notification::write_head(&mut writer, push.invoke_id, push.date_time).unwrap();
        let mut walker = Walker::new(push.body);
        while let Some(token) = walker.next().unwrap() {
            token.write(&mut writer).unwrap();
        }
        // What we write is strict: without the tag that Kaifa puts before its date-time.
        let mut strict = apdu.to_vec();
        if strict[5..7] == [0x09, 0x0C] {
            strict.remove(5);
        }
        assert_eq!(writer.written(), strict);
        same += 1;
    }
    println!("pushes encoded to the same bytes: {same}");
    assert!(same >= 40, "{same}");
}

/// A decimal number in an independent decoder's units, in thousandths.
fn thousandths(value: &Value) -> Option<i64> {
    let number: f64 = value.as_str()?.parse().ok()?;
    format!("{:.0}", number * 1000.0).parse().ok()
}

/// amshan 2.1.1 read energy, power, current and voltage of these meters from the same bytes.
#[test]
fn templates_read_what_an_independent_decoder_reads() {
    let Some(rows) = captures("dlms_push.jsonl") else { return };
    let templates = Templates::built_in();
    let (mut compared, mut pushes) = (0, 0);
    for row in &rows {
        let frame = bytes(row);
        let model = match row["note"].as_str().unwrap().split(' ').next().unwrap() {
            "kamstrup" => "kamstrup",
            "kaifa" if row["decoded"]["date_time"].is_null() => "kaifa-sweden",
            "kaifa" => "kaifa",
            "aidon" => "obis",
            _ => continue,
        };
        let (Some(apdu), Some(want)) = (single_push(&frame), row["amshan"].as_object()) else {
            continue;
        };
        // It takes one of the lists for another maker's and reads nothing but the clock.
        if !want.contains_key("active_power_import") {
            continue;
        }
        let template = templates.get(templates.find(model).unwrap()).unwrap();
        let push = Notification::parse(apdu).unwrap();
        let mut rows = Vec::new();
        let count = template.run(&push, |row| rows.push(*row)).unwrap();
        assert_eq!(count, u32::from(want.contains_key("active_power_import_total")), "{want:?}");
        let Some(got) = rows.first() else { continue };
        pushes += 1;
        compared += compare(got, want);
    }
    println!("{pushes} pushes with registers, {compared} values compared with amshan");
    assert!(pushes >= 7 && compared >= 60, "{pushes} {compared}");
}

/// Asserts that what both read is equal; how many values that are.
fn compare(got: &Measured, want: &Map<String, Value>) -> usize {
    let theirs = |name: &str| want.get(name).and_then(thousandths);
    let net = |import: &str, export: &str| Some(theirs(import)? - theirs(export)?);
    let milli = |value: Option<i32>| value.map(|value| i64::from(value) * 1000);
    let mut pairs = vec![
        (theirs("active_power_import_total"), i64::try_from(got.register_wh * 1000).ok()),
        (
            theirs("active_power_export_total"),
            got.export_wh.and_then(|wh| i64::try_from(wh * 1000).ok()),
        ),
        (net("active_power_import", "active_power_export"), milli(got.power_w)),
        (net("reactive_power_import", "reactive_power_export"), milli(got.reactive_var)),
    ];
    for phase in 0..3 {
        pairs.push((
            theirs(&format!("voltage_l{}", phase + 1)),
            got.voltage_mv[phase].map(i64::from),
        ));
        pairs.push((
            theirs(&format!("current_l{}", phase + 1)),
            got.current_ma[phase].map(i64::from),
        ));
    }
    for (want, got) in &pairs {
        assert_eq!(want, got, "{pairs:?}");
    }
    pairs.iter().filter(|(want, _)| want.is_some()).count()
}
