//! A push template at work: one pass over the walker, no allocation.

use super::super::{Fault, WireError};
use super::field::{Column, Field, Row};
use super::template::{Codes, List, standard};
use super::{DateTime, Group, Measured, Obis, Token, Value, Walker};

type Each<'e> = &'e mut dyn FnMut(&Measured);

/// What a run knows besides template and body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    push_time: Option<DateTime>,
    deviation_minutes: i16,
}

impl Run {
    pub(super) const fn new(push_time: Option<DateTime>, deviation_minutes: i16) -> Self {
        Self { push_time, deviation_minutes }
    }

    /// One structure, by position.
    pub(super) fn list(
        self,
        mut walker: Walker<'_>,
        lists: &[List],
        each: Each<'_>,
    ) -> Result<u32, WireError> {
        let first = walker.next()?;
        let rows = self.structure(&mut walker, first, lists, each)?;
        walker.finish()?;
        Ok(rows)
    }

    /// An array of structures, by position.
    pub(super) fn rows(
        self,
        mut walker: Walker<'_>,
        lists: &[List],
        each: Each<'_>,
    ) -> Result<u32, WireError> {
        let Some(Token::Open(Group::Array(_) | Group::CompactArray)) = walker.next()? else {
            return Err(WireError::new(Fault::Invalid("array of rows"), 0));
        };
        let mut rows = 0_u32;
        loop {
            match walker.next()? {
                Some(Token::Close) | None => break,
                row => {
                    rows = rows.saturating_add(self.structure(&mut walker, row, lists, each)?);
                }
            }
        }
        walker.finish()?;
        Ok(rows)
    }

    fn structure(
        self,
        walker: &mut Walker<'_>,
        opened: Option<Token<'_>>,
        lists: &[List],
        each: Each<'_>,
    ) -> Result<u32, WireError> {
        let Some(Token::Open(Group::Structure(count))) = opened else {
            return Err(WireError::new(Fault::Invalid("row of this template"), walker.at()));
        };
        let list = choose(lists, count, walker)
            .ok_or_else(|| WireError::new(Fault::Invalid("row of this template"), walker.at()))?;
        let mut row = Row::default();
        for column in &list.columns {
            self.column(walker, *column, &mut row)?;
        }
        walker.next()?; // Its end: the list is as long as the structure.
        self.emit(row, each)
    }

    /// One position: a value, or an array of values of neighbouring fields.
    fn column(
        self,
        walker: &mut Walker<'_>,
        column: Column,
        row: &mut Row,
    ) -> Result<(), WireError> {
        let at = walker.at();
        match walker.next()? {
            Some(Token::Value(value)) => {
                self.set(row, column.field, value, column.scaler, None, at)
            }
            Some(Token::Open(_)) if column.field.and_then(|field| field.element(0)).is_none() => {
                walker.skip_group()
            }
            Some(Token::Open(_)) => self.elements(walker, column, row),
            Some(Token::Close) | None => Ok(()),
        }
    }

    fn elements(
        self,
        walker: &mut Walker<'_>,
        column: Column,
        row: &mut Row,
    ) -> Result<(), WireError> {
        let mut index = 0_u8;
        loop {
            let at = walker.at();
            match walker.next()? {
                Some(Token::Value(value)) => {
                    let field = column.field.and_then(|field| field.element(index));
                    self.set(row, field, value, column.scaler, None, at)?;
                    index = index.saturating_add(1);
                }
                Some(Token::Open(_)) => walker.skip_group()?,
                Some(Token::Close) | None => return Ok(()),
            }
        }
    }

    /// Code, value, perhaps {scaler, unit}, in any nesting.
    pub(super) fn obis(
        self,
        mut walker: Walker<'_>,
        codes: &Codes,
        each: Each<'_>,
    ) -> Result<u32, WireError> {
        let mut row = Row::default();
        let mut code = None;
        loop {
            let at = walker.at();
            match (walker.next()?, code.take()) {
                (None, _) => break,
                (Some(Token::Value(value)), Some(named)) => {
                    let column = column_of(codes, named);
                    let stated = scaler_unit(&mut walker)?;
                    let scaler = stated.map_or(column.scaler, |(scaler, _)| scaler);
                    let unit = stated.map(|(_, unit)| unit);
                    self.set(&mut row, column.field, value, scaler, unit, at)?;
                }
                (Some(Token::Value(Value::OctetString(bytes))), None) => {
                    code = bytes.try_into().ok().map(Obis);
                }
                (Some(Token::Value(_) | Token::Open(_) | Token::Close), _) => {}
            }
        }
        self.emit(row, each)
    }

    /// An array of {class, code, attribute, index}, then the values in that order.
    pub(super) fn described(
        self,
        mut walker: Walker<'_>,
        codes: &Codes,
        each: Each<'_>,
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
        let mut row = Row::default();
        while let Some((code, attribute)) = next_object(&mut objects)? {
            let column = column_of(codes, code);
            let field = if attribute == 2 { column.field } else { None };
            self.column(&mut walker, Column { field, scaler: column.scaler }, &mut row)?;
        }
        walker.finish()?;
        self.emit(row, each)
    }

    fn set(
        self,
        row: &mut Row,
        field: Option<Field>,
        value: Value<'_>,
        scaler: i8,
        unit: Option<u8>,
        at: usize,
    ) -> Result<(), WireError> {
        let Some(field) = field else { return Ok(()) };
        row.set(field, value, scaler, unit, self.deviation_minutes)
            .map_err(|fault| WireError::new(fault, at))
    }

    fn emit(self, row: Row, each: Each<'_>) -> Result<u32, WireError> {
        let measured = row.finish(self.push_time, self.deviation_minutes)?;
        measured.iter().for_each(each);
        Ok(measured.is_some().into())
    }
}

/// The field of a code: what the template says, else the standard one in its plain unit.
fn column_of(codes: &Codes, code: Obis) -> Column {
    let code = code.channel_free();
    codes.get(&code).copied().unwrap_or_else(|| Column { field: standard(code), scaler: 0 })
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
                text_at(*walker, marker.index).is_some_and(|text| text == marker.text.as_bytes())
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
