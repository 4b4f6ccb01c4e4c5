//! Values as a tree: what JSON can say.

use super::super::WireError;
use super::{Obis, Token, Value, Walker};

/// A value of any shape.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kinds of JSON, with floats as the bits they came in")]
pub enum Tree {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float32(u32),
    Float64(u64),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(&'static str, Self)>),
}

impl Tree {
    pub(super) fn text(value: impl ToString) -> Self {
        Self::Text(value.to_string())
    }

    pub(super) fn unsigned(value: usize) -> Self {
        Self::Unsigned(u64::try_from(value).unwrap_or(u64::MAX))
    }
}

/// All of `data`, one A-XDR value, as a tree.
pub(super) fn value_tree(data: &[u8]) -> Result<Tree, WireError> {
    let mut walker = Walker::new(data);
    // The lists that are open, outermost first; the first is that of the root.
    let mut open = vec![Vec::new()];
    while let Some(token) = walker.next()? {
        let tree = match token {
            Token::Open(_) => {
                open.push(Vec::new());
                continue;
            }
            Token::Close => Tree::List(open.pop().unwrap_or_default()),
            Token::Value(value) => plain_tree(value),
        };
        if let Some(list) = open.last_mut() {
            list.push(tree);
        }
    }
    Ok(open.pop().and_then(|mut root| root.pop()).unwrap_or(Tree::Null))
}

/// A value as a tree: an octet string of six bytes as an OBIS code, of twelve as a date-time.
pub(super) fn plain_tree(value: Value<'_>) -> Tree {
    match value {
        Value::Null => Tree::Null,
        Value::Boolean(value) => Tree::Bool(value),
        Value::BitString(bytes, bits) => {
            let mut text: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
            text.truncate(bits);
            Tree::Text(format!("bits:{text}"))
        }
        Value::DoubleLong(value) => Tree::Integer(value.into()),
        Value::DoubleLongUnsigned(value) => Tree::Unsigned(value.into()),
        Value::OctetString(bytes) => octets(bytes),
        Value::VisibleString(bytes) | Value::Utf8String(bytes) => {
            Tree::Text(String::from_utf8_lossy(bytes).into_owned())
        }
        Value::Bcd(value) | Value::Unsigned(value) | Value::Enum(value) => {
            Tree::Unsigned(value.into())
        }
        Value::Integer(value) => Tree::Integer(value.into()),
        Value::Long(value) => Tree::Integer(value.into()),
        Value::LongUnsigned(value) => Tree::Unsigned(value.into()),
        Value::Long64(value) => Tree::Integer(value),
        Value::Long64Unsigned(value) => Tree::Unsigned(value),
        Value::Float32(bits) => Tree::Float32(bits),
        Value::Float64(bits) => Tree::Float64(bits),
        Value::DateTime(bytes) => Tree::Text(format!("dt:{}", hex(&bytes))),
        Value::Date(bytes) => Tree::Text(format!("date:{}", hex(&bytes))),
        Value::Time(bytes) => Tree::Text(format!("time:{}", hex(&bytes))),
        Value::Delta(_, value) => Tree::Integer(value.into()),
        Value::DeltaUnsigned(_, value) => Tree::Unsigned(value.into()),
        Value::DontCare => Tree::text("dont-care"),
    }
}

fn octets(bytes: &[u8]) -> Tree {
    if let Ok(code) = bytes.try_into() {
        return Tree::Text(format!("obis:{}", Obis(code)));
    }
    if bytes.len() == 12 {
        return Tree::Text(format!("dt:{}", hex(bytes)));
    }
    let printable = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if !bytes.is_empty() && bytes.iter().all(printable) {
        return Tree::Text(String::from_utf8_lossy(bytes).into_owned());
    }
    Tree::Text(format!("oct:{}", hex(bytes)))
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
