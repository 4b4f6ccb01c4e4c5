//! `meterd decode`: what captured frames say, a line of JSON for each.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use meter::wire::WireError;
use meter::wire::dlms::{Explained, Explainer, Item, Templates, Tree};
use serde::ser::{Serialize, SerializeMap, Serializer};
use thiserror::Error;

use crate::cli::Decode;

/// Why nothing was decoded.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A key that is none.
    #[error("{argument}: a key is 32 hexadecimal digits")]
    Key {
        /// The argument.
        argument: &'static str,
    },
    /// The file cannot be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading or writing failed.
    #[error("cannot go on")]
    Io(#[from] io::Error),
}

/// `meterd decode`, to standard output.
///
/// # Errors
/// Those of [`decode_file`].
pub fn run(args: &Decode) -> anyhow::Result<ExitCode> {
    match decode_file(args, &mut BufWriter::new(io::stdout().lock())) {
        // Whoever read the lines has seen enough of them.
        Err(DecodeError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Decodes the file that `args` name, `-` for standard input; one line to `out` per line of it.
///
/// A frame that does not read is a line like the others, not an error.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_file(args: &Decode, out: &mut impl Write) -> Result<(), DecodeError> {
    let key = args.key.as_deref().map(|digits| parse_key("--key", digits)).transpose()?;
    let auth_key =
        args.auth_key.as_deref().map(|digits| parse_key("--auth-key", digits)).transpose()?;
    // Without an authentication key frames without a tag open; others do not.
    let keys = key.map(|key| (key, auth_key.unwrap_or_default()));
    let mut explainer = Explainer::new(keys, Templates::built_in(), None);
    if args.file.as_os_str() == "-" {
        return Ok(decode(&mut explainer, io::stdin().lock(), out)?);
    }
    let file = File::open(&args.file)
        .map_err(|source| DecodeError::Open { path: args.file.clone(), source })?;
    Ok(decode(&mut explainer, BufReader::new(file), out)?)
}

fn parse_key(argument: &'static str, digits: &str) -> Result<[u8; 16], DecodeError> {
    let bytes = unhex(digits).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(DecodeError::Key { argument })
}

/// Decodes lines; empty ones are passed over.
fn decode(explainer: &mut Explainer, input: impl BufRead, out: &mut impl Write) -> io::Result<()> {
    for line in input.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        match decode_line(explainer, &line) {
            Ok(explained) => serde_json::to_writer(&mut *out, &Read(&explained))?,
            Err(refusal) => serde_json::to_writer(&mut *out, &refusal)?,
        }
        out.write_all(b"\n")?;
    }
    out.flush()
}

fn decode_line(explainer: &mut Explainer, line: &str) -> Result<Explained, Refusal> {
    let row: serde_json::Value = serde_json::from_str(line)
        .map_err(|error| Refusal { error: format!("not JSON: {error}"), offset: 0 })?;
    let digits = row
        .get("hex")
        .and_then(serde_json::Value::as_str)
        .ok_or_else(|| Refusal { error: "no member \"hex\" with a text".to_owned(), offset: 0 })?;
    let frame = unhex(digits).map_err(|offset| Refusal {
        error: "not pairs of hexadecimal digits".to_owned(),
        offset,
    })?;
    explainer.explain(&frame).map_err(Refusal::from)
}

/// The bytes of hexadecimal digits, white space between them or not; else the offset in bytes of
/// what is none.
fn unhex(digits: &str) -> Result<Vec<u8>, usize> {
    let mut nibbles = Vec::with_capacity(digits.len());
    for digit in digits.chars().filter(|digit| !digit.is_whitespace()) {
        let nibble = digit.to_digit(16).ok_or(nibbles.len() / 2)?;
        nibbles.push(u8::try_from(nibble).expect("a hexadecimal digit is below 16"));
    }
    let (pairs, rest) = nibbles.as_chunks();
    if rest.is_empty() {
        Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect())
    } else {
        Err(pairs.len())
    }
}

/// A line for a frame that does not read.
struct Refusal {
    error: String,
    /// In bytes of the frame.
    offset: usize,
}

impl From<WireError> for Refusal {
    fn from(WireError { fault, offset }: WireError) -> Self {
        Self { error: fault.to_string(), offset }
    }
}

impl Serialize for Refusal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("ok", &false)?;
        map.serialize_entry("error", &self.error)?;
        map.serialize_entry("offset", &self.offset)?;
        map.end()
    }
}

/// A line for a frame that reads.
struct Read<'a>(&'a Explained);

impl Serialize for Read<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Explained { framing, decoded, ciphering, reassembled, items, remarks } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ok", &true)?;
        map.serialize_entry("framing", framing)?;
        map.serialize_entry("decoded", &Json(decoded))?;
        let items: Vec<_> = items.iter().map(ItemJson).collect();
        map.serialize_entry("items", &items)?;
        if let Some(ciphering) = ciphering {
            map.serialize_entry("ciphering", &Json(ciphering))?;
        }
        if let Some(reassembled) = reassembled {
            map.serialize_entry("reassembled", &Json(reassembled))?;
        }
        if !remarks.is_empty() {
            map.serialize_entry("remarks", remarks)?;
        }
        map.end()
    }
}

struct ItemJson<'a>(&'a Item);

impl Serialize for ItemJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Item { obis, value, scaler, unit } = self.0;
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("obis", obis)?;
        map.serialize_entry("value", &Json(value))?;
        map.serialize_entry("scaler", scaler)?;
        map.serialize_entry("unit", unit)?;
        map.end()
    }
}

struct Json<'a>(&'a Tree);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Tree::Null => serializer.serialize_unit(),
            Tree::Bool(value) => serializer.serialize_bool(*value),
            Tree::Integer(value) => serializer.serialize_i64(*value),
            Tree::Unsigned(value) => serializer.serialize_u64(*value),
            Tree::Float32(bits) => serializer.serialize_f32(f32::from_bits(*bits)),
            Tree::Float64(bits) => serializer.serialize_f64(f64::from_bits(*bits)),
            Tree::Text(text) => serializer.serialize_str(text),
            Tree::List(list) => serializer.collect_seq(list.iter().map(Json)),
            Tree::Map(fields) => {
                serializer.collect_map(fields.iter().map(|(name, value)| (name, Json(value))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: &str) {
        let mut explainer = Explainer::new(None, Templates::built_in(), None);
        let mut out = Vec::new();
        decode(&mut explainer, line.as_bytes(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), want, "{line}");
    }

    #[test]
    fn a_line_each() {
        check(
            r#"{"hex":"0f 40000001 00 0202 0906 0100010800ff 06 00bc614e"}"#,
            concat!(
                r#"{"ok":true,"framing":"apdu","decoded":{"invoke_id":"40000001","date_time":null,"#,
                r#""body":["obis:1-0:1.8.0.255",12345678]},"#,
                r#""items":[{"obis":"1-0:1.8.0.255","value":12345678,"scaler":0,"unit":"Wh"}]}"#,
                "\n"
            ),
        );
        check(
            "{\"hex\":\"C001C100030100010800FF0200\"}\n\n{\"hex\":\"c0\"}\n",
            concat!(
                r#"{"ok":true,"framing":"apdu","decoded":{"apdu":"get-request","dir":"C->S","#,
                r#""service":"GET 1.0.1.8.0.255","invoke_id":"c1","class":3,"#,
                r#""obis":"1-0:1.8.0.255","attribute":2},"items":[]}"#,
                "\n",
                r#"{"ok":false,"error":"1 more bytes needed","offset":1}"#,
                "\n"
            ),
        );
    }

    #[test]
    fn a_line_that_is_no_frame_is_refused_as_such() {
        let refusal = |error: &str, offset: usize| {
            format!("{{\"ok\":false,\"error\":\"{error}\",\"offset\":{offset}}}\n")
        };
        check("{\"hex\":\"0f4\"}", &refusal("not pairs of hexadecimal digits", 1));
        check("{\"hex\":\"0f4x\"}", &refusal("not pairs of hexadecimal digits", 1));
        check("{\"hex\":5}", &refusal("no member \\\"hex\\\" with a text", 0));
        check("{\"hex\":\"\"}", &refusal("no bytes", 0));
        let line = "not JSON: expected ident at line 1 column 2";
        check("nonsense", &refusal(line, 0));
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        assert!(matches!(parse_key("--key", "0011"), Err(DecodeError::Key { argument: "--key" })));
        assert_eq!(parse_key("--key", "000102030405060708090A0B0C0D0E0F").unwrap()[15], 15);
    }
}
