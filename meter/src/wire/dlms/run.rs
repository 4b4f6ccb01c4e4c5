//! A push template at work: one pass over the walker, no allocation.

use super::super::{Fault, WireError};
use super::data::Plain;
use super::field::{Column, Field};
use super::template::{Codes, Form, List, standard};
use super::{Group, Obis, Token, Value, Walker};

/// Takes what a run finds: rows for the books, or a listing for people.
pub(super) trait Sink {
    /// Whether plain values may come by [`Sink::plain`], without their types.
    const TAKES_PLAIN: bool = false;

    /// A value, at this offset of the body.
    fn value(&mut self, found: Found<'_>, at: usize) -> Result<(), WireError>;

    /// A plain value for this field, at this offset of the body. Only where [`Sink::TAKES_PLAIN`].
    fn plain(&mut self, column: Column, value: Plain<'_>, at: usize) -> Result<(), WireError> {
        let Column { field, scaler } = column;
        let value = match value {
            Plain::Null => Value::Null,
            Plain::Number(number) => Value::Long64(number),
            Plain::Octets(bytes) => Value::OctetString(bytes),
        };
        self.value(Found { code: None, field, value, scaler, unit: None }, at)
    }

    /// The end of a row; how many things it said.
    fn row(&mut self) -> Result<u32, WireError>;
}

/// A value and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// Its code, where the push states one.
    pub(super) code: Option<Obis>,
    /// What it is for us.
    pub(super) field: Option<Field>,
    pub(super) value: Value<'a>,
    /// As the push states it, else the template.
    pub(super) scaler: Option<i8>,
    /// As the push states it.
    pub(super) unit: Option<u8>,
}

/// Runs a template over a body; how many rows counted.
pub(super) fn run(form: &Form, body: &[u8], sink: &mut impl Sink) -> Result<u32, WireError> {
    let walker = Walker::new(body);
    match form {
        Form::Obis(codes) => obis(walker, codes, sink),
        Form::Described(codes) => described(walker, codes, sink),
        Form::List(lists) => list(walker, lists, sink),
        Form::Rows(lists) => rows(walker, lists, sink),
    }
}

/// One structure, by position.
fn list(mut walker: Walker<'_>, lists: &[List], sink: &mut impl Sink) -> Result<u32, WireError> {
    let first = walker.next()?;
    let count = structure(&mut walker, first, lists, sink)?;
    walker.finish()?;
    Ok(count)
}

/// An array of structures, by position.
fn rows(mut walker: Walker<'_>, lists: &[List], sink: &mut impl Sink) -> Result<u32, WireError> {
    let Some(Token::Open(Group::Array(_) | Group::CompactArray)) = walker.next()? else {
        return Err(WireError::new(Fault::Invalid("array of rows"), 0));
    };
    let mut rows = 0_u32;
    loop {
        match walker.next()? {
            Some(Token::Close) | None => break,
            row => {
                let count = structure(&mut walker, row, lists, sink)?;
                rows = rows.saturating_add(count);
            }
        }
    }
    walker.finish()?;
    Ok(rows)
}

fn structure(
    walker: &mut Walker<'_>,
    opened: Option<Token<'_>>,
    lists: &[List],
    sink: &mut impl Sink,
) -> Result<u32, WireError> {
    let stranger = WireError::new(Fault::Invalid("row of this template"), walker.at());
    let Some(Token::Open(Group::Structure(count))) = opened else { return Err(stranger) };
    let list = choose(lists, count, walker).ok_or(stranger)?;
    for column in &list.columns {
        position(walker, None, *column, sink)?;
    }
    walker.next()?; // Its end: the list is as long as the structure.
    sink.row()
}

/// One position: a value, or an array of values of neighbouring fields.
fn position(
    walker: &mut Walker<'_>,
    code: Option<Obis>,
    column: Column,
    sink: &mut impl Sink,
) -> Result<(), WireError> {
    let Column { field, scaler } = column;
    let at = walker.at();
    if let Some(value) = plain(walker, sink) {
        return sink.plain(column, value, at);
    }
    match walker.next()? {
        Some(Token::Value(value)) => {
            sink.value(Found { code, field, value, scaler, unit: None }, at)
        }
        Some(Token::Open(_)) if field.and_then(|field| field.element(0)).is_none() => {
            walker.skip_group()
        }
        Some(Token::Open(_)) => elements(walker, column, sink),
        Some(Token::Close) | None => Ok(()),
    }
}

fn elements(
    walker: &mut Walker<'_>,
    column: Column,
    sink: &mut impl Sink,
) -> Result<(), WireError> {
    let mut index = 0_u8;
    let scaler = column.scaler;
    loop {
        let at = walker.at();
        let field = column.field.and_then(|field| field.element(index));
        if let Some(value) = plain(walker, sink) {
            sink.plain(Column { field, scaler }, value, at)?;
            index = index.saturating_add(1);
            continue;
        }
        match walker.next()? {
            Some(Token::Value(value)) => {
                sink.value(Found { code: None, field, value, scaler, unit: None }, at)?;
                index = index.saturating_add(1);
            }
            Some(Token::Open(_)) => walker.skip_group()?,
            Some(Token::Close) | None => return Ok(()),
        }
    }
}

/// The plain value that comes next, where the sink takes such.
#[inline]
fn plain<'a, S: Sink>(walker: &mut Walker<'a>, _: &S) -> Option<Plain<'a>> {
    if S::TAKES_PLAIN { walker.plain() } else { None }
}

/// Code, value, perhaps {scaler, unit}, in any nesting.
fn obis(mut walker: Walker<'_>, codes: &Codes, sink: &mut impl Sink) -> Result<u32, WireError> {
    let mut code = None;
    loop {
        let at = walker.at();
        match (walker.next()?, code.take()) {
            (None, _) => break,
            (Some(Token::Value(value)), Some(named)) => {
                let Column { field, scaler } = column_of(codes, named);
                let stated = scaler_unit(&mut walker)?;
                let scaler = stated.map(|(scaler, _)| scaler).or(scaler);
                let unit = stated.map(|(_, unit)| unit);
                sink.value(Found { code: Some(named), field, value, scaler, unit }, at)?;
            }
            (Some(Token::Value(Value::OctetString(bytes))), None) => {
                code = bytes.try_into().ok().map(Obis);
            }
            (Some(Token::Value(_) | Token::Open(_) | Token::Close), _) => {}
        }
    }
    sink.row()
}

/// An array of {class, code, attribute, index}, then the values in that order.
fn described(
    mut walker: Walker<'_>,
    codes: &Codes,
    sink: &mut impl Sink,
) -> Result<u32, WireError> {
    let malformed = |at| WireError::new(Fault::Invalid("list of captured objects"), at);
    let Some(Token::Open(Group::Structure(_))) = walker.next()? else {
        return Err(malformed(0));
    };
    let Some(Token::Open(Group::Array(_))) = walker.next()? else {
        return Err(malformed(walker.at()));
    };
    let mut objects = walker;
    walker.skip_group()?;
    // The list describes itself too: it is the first element.
    next_object(&mut objects)?.ok_or_else(|| malformed(objects.at()))?;
    while let Some((code, attribute)) = next_object(&mut objects)? {
        let column = column_of(codes, code);
        let field = if attribute == 2 { column.field } else { None };
        position(&mut walker, Some(code), Column { field, ..column }, sink)?;
    }
    walker.finish()?;
    sink.row()
}

/// The field of a code: what the template says, else the standard one in its plain unit.
fn column_of(codes: &Codes, code: Obis) -> Column {
    let code = code.channel_free();
    codes.get(&code).copied().unwrap_or_else(|| Column { field: standard(code), scaler: None })
}

/// The structure {scaler, unit} when it is what comes next; else the walker stays.
fn scaler_unit(walker: &mut Walker<'_>) -> Result<Option<(i8, u8)>, WireError> {
    let mut ahead = *walker;
    let Some(Token::Open(Group::Structure(2))) = ahead.next()? else { return Ok(None) };
    let Some(Token::Value(Value::Integer(scaler))) = ahead.next()? else { return Ok(None) };
    let Some(Token::Value(Value::Enum(unit))) = ahead.next()? else { return Ok(None) };
    *walker = ahead;
    Ok(Some((scaler, unit)))
}

/// The next captured object's code and attribute, `None` at the end of the list.
fn next_object(objects: &mut Walker<'_>) -> Result<Option<(Obis, i8)>, WireError> {
    let at = objects.at();
    let Some(Token::Open(Group::Structure(4))) = objects.next()? else { return Ok(None) };
    let class = objects.next()?;
    let code = objects.next()?;
    let attribute = objects.next()?;
    objects.skip_group()?;
    match (class, code, attribute) {
        (
            Some(Token::Value(Value::LongUnsigned(_))),
            Some(Token::Value(Value::OctetString(code))),
            Some(Token::Value(Value::Integer(attribute))),
        ) => code
            .try_into()
            .map(|code| Some((Obis(code), attribute)))
            .map_err(|_| WireError::new(Fault::Invalid("OBIS code"), at)),
        _ => Err(WireError::new(Fault::Invalid("captured object"), at)),
    }
}

/// The list of this length whose marker, if it has one, is there.
fn choose<'l>(lists: &'l [List], count: u32, walker: &Walker<'_>) -> Option<&'l List> {
    lists.iter().find(|list| {
        u32::try_from(list.columns.len()) == Ok(count)
            && list.marker.as_ref().is_none_or(|marker| {
                text_at(*walker, marker.index)
                    .is_some_and(|text| text.starts_with(marker.text.as_bytes()))
            })
    })
}

fn text_at(mut walker: Walker<'_>, index: usize) -> Option<&[u8]> {
    for _ in 0..index {
        if let Token::Open(_) = walker.next().ok()?? {
            walker.skip_group().ok()?;
        }
    }
    match walker.next().ok()?? {
        Token::Value(Value::OctetString(text) | Value::VisibleString(text)) => Some(text),
        Token::Value(_) | Token::Open(_) | Token::Close => None,
    }
}
