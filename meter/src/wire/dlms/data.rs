//! A-XDR data: a walker over the bytes, which copies nothing and builds nothing.
//!
//! A value is a tag and its content. Groups (array, structure, compact array) hold values; the
//! walker gives an [`Token::Open`] and [`Token::Close`] around them. A compact array states the
//! type of its elements once; the walker gives the same tokens for it as for a plain array.
//!
//! **Invariant:** the work is bounded by the bytes at hand, not by what they claim: nesting by
//! [`DEPTH_MAX`], elements by [`ELEMENTS_MAX`], elements that take no bytes by [`ZERO_SIZE_MAX`].
//!
//! Over 500 lines with its tests: the code of one byte layout stays in one file.

use super::super::{Fault, Reader, WireError, Writer};

/// How deep groups may be nested.
pub const DEPTH_MAX: usize = 16;
/// How many values and groups a body may have.
pub const ELEMENTS_MAX: u32 = 16_384;
/// How many of them may take no bytes at all (nulls in a compact array).
pub const ZERO_SIZE_MAX: u32 = 1_024;
/// The tag of a compact array.
pub const COMPACT_ARRAY: u8 = 19;

/// A group of values.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// So many values of one type.
    Array(u32),
    /// So many values of any types.
    Structure(u32),
    /// Values of one type that is stated once; how many shows at its end.
    CompactArray,
}

/// A value that is no group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the types of the Blue Book under their names there")]
pub enum Value<'a> {
    Null,
    Boolean(bool),
    /// The bits, first bit highest in the first byte, and how many there are.
    BitString(&'a [u8], usize),
    DoubleLong(i32),
    DoubleLongUnsigned(u32),
    OctetString(&'a [u8]),
    VisibleString(&'a [u8]),
    Utf8String(&'a [u8]),
    Bcd(u8),
    Integer(i8),
    Long(i16),
    Unsigned(u8),
    LongUnsigned(u16),
    Long64(i64),
    Long64Unsigned(u64),
    Enum(u8),
    /// IEEE 754, as bits: there are no floats in this crate.
    Float32(u32),
    /// IEEE 754, as bits.
    Float64(u64),
    DateTime([u8; 12]),
    Date([u8; 5]),
    Time([u8; 4]),
    /// A signed difference to the value before (tags 28 to 30), with its tag.
    Delta(u8, i32),
    /// An unsigned difference to the value before (tags 31 to 33), with its tag.
    DeltaUnsigned(u8, u32),
    DontCare,
}

/// A value that most positions of most pushes hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Plain<'a> {
    Null,
    Number(i64),
    Octets(&'a [u8]),
}

/// A step of a walk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Token<'a> {
    /// A group begins.
    Open(Group),
    /// The innermost open group ends.
    Close,
    /// A value.
    Value(Value<'a>),
}

/// Where the types of a group's elements are stated.
#[derive(Clone, Copy, Debug)]
enum Types {
    /// In front of each element.
    Tagged,
    /// At this offset, the same for each.
    Each(u32),
    /// At this offset the next one's; the others' follow.
    Sequence(u32),
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    left: u32,
    types: Types,
}

/// Walks over one A-XDR value. Copying it is cheap: a copy looks ahead.
#[derive(Clone, Copy, Debug)]
pub struct Walker<'a> {
    whole: &'a [u8],
    reader: Reader<'a>,
    frames: [Frame; DEPTH_MAX],
    depth: usize,
    /// Where the content of the compact array ends that the walk is in, and its depth.
    compact: Option<(usize, usize)>,
    root_left: bool,
    elements_left: u32,
    zero_size_left: u32,
}

impl<'a> Walker<'a> {
    /// A walk over the value that is all of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            whole: bytes,
            reader: Reader::new(bytes),
            frames: [Frame { left: 0, types: Types::Tagged }; DEPTH_MAX],
            depth: 0,
            compact: None,
            root_left: true,
            elements_left: ELEMENTS_MAX,
            zero_size_left: ZERO_SIZE_MAX,
        }
    }

    /// How many bytes the value at the start of `bytes` has; more may follow it.
    ///
    /// # Errors
    /// Those of [`Self::next`] but [`Fault::Trailing`].
    pub fn value_size(bytes: &'a [u8]) -> Result<usize, WireError> {
        let mut walker = Self::new(bytes);
        while walker.root_left || walker.depth > 0 {
            walker.next()?;
        }
        Ok(walker.at())
    }

    /// The offset of the next token.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.reader.at()
    }

    /// How many groups are open.
    #[must_use]
    pub const fn depth(&self) -> usize {
        self.depth
    }

    /// The next token; `None` when the value is complete and nothing follows it.
    ///
    /// # Errors
    /// [`Fault::DataType`], [`Fault::Truncated`], [`Fault::Trailing`], [`Fault::Length`] (more
    /// elements than bytes), [`Fault::Depth`], [`Fault::Elements`]. After one the walk is over.
    #[expect(clippy::should_implement_trait, reason = "an Iterator would not end at an error")]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Token<'a>>, WireError> {
        let types = match self.depth.checked_sub(1).and_then(|level| self.frames.get_mut(level)) {
            None if self.root_left => {
                self.root_left = false;
                Types::Tagged
            }
            None => return self.reader.finish().map(|()| None),
            Some(frame) if frame.left > 0 && self.compact.is_none() => {
                frame.left = frame.left.saturating_sub(1);
                frame.types
            }
            Some(_) => match self.next_of_group()? {
                Some(types) => types,
                None => return Ok(Some(Token::Close)),
            },
        };
        match self.elements_left.checked_sub(1) {
            Some(left) => self.elements_left = left,
            None => return Err(self.reader.fault(Fault::Elements(ELEMENTS_MAX))),
        }
        if let Types::Tagged = types {
            match self.reader.u8()? {
                tag @ (1 | 2 | COMPACT_ARRAY) => self.open(tag),
                tag => Ok(Some(Token::Value(value(tag, &mut self.reader)?))),
            }
        } else {
            self.described(types)
        }
    }

    /// What comes next, where it is plain and has its type in front; else the walker stays, and
    /// [`Self::next`] says what it is. A plain value stays in registers, where a token goes through
    /// memory: of the time of a gateway's frame that took a third.
    #[inline]
    pub(super) fn plain(&mut self) -> Option<Plain<'a>> {
        let frame = self.frames.get_mut(self.depth.checked_sub(1)?)?;
        let Types::Tagged = frame.types else { return None };
        if self.compact.is_some() || frame.left == 0 || self.elements_left == 0 {
            return None;
        }
        let (plain, size) = plain(self.reader.left())?;
        self.reader.take(size).ok()?;
        frame.left = frame.left.saturating_sub(1);
        self.elements_left = self.elements_left.saturating_sub(1);
        Some(plain)
    }

    /// At the end of a group or in a compact array: how the next element is typed, `None` (and one
    /// level up) when there is none.
    #[inline(never)]
    fn next_of_group(&mut self) -> Result<Option<Types>, WireError> {
        let level = self.depth.saturating_sub(1);
        let Some(frame) = self.frames.get_mut(level) else { return Ok(None) };
        let done = match self.compact {
            Some((end, compact_level)) if compact_level == level => self.reader.at() >= end,
            _ => frame.left == 0,
        };
        if !done {
            frame.left = frame.left.saturating_sub(1);
            let types = frame.types;
            if let Types::Sequence(at) = types {
                frame.types = Types::Sequence(type_end(self.whole, at, level)?);
            }
            return Ok(Some(types));
        }
        if let Some((end, compact_level)) = self.compact
            && compact_level == level
        {
            if self.reader.at() > end {
                return Err(WireError::new(Fault::Length(self.reader.at()), end));
            }
            self.compact = None;
        }
        self.depth = level;
        Ok(None)
    }

    /// Walks to the end of the group that was just opened.
    ///
    /// # Errors
    /// Those of [`Self::next`].
    pub fn skip_group(&mut self) -> Result<(), WireError> {
        let outside = self.depth.saturating_sub(1);
        while self.depth > outside && self.next()?.is_some() {}
        Ok(())
    }

    /// Walks to the end of the value.
    ///
    /// # Errors
    /// Those of [`Self::next`].
    pub fn finish(&mut self) -> Result<(), WireError> {
        while self.next()?.is_some() {}
        Ok(())
    }

    /// A group whose tag was just read.
    fn open(&mut self, tag: u8) -> Result<Option<Token<'a>>, WireError> {
        let tag_at = self.reader.at().saturating_sub(1);
        if tag == COMPACT_ARRAY {
            let types_at = narrow(self.reader.at());
            let types_end = type_end(self.whole, types_at, self.depth)?;
            let described = widen(types_end).saturating_sub(self.reader.at());
            self.reader.take(described)?;
            let size = self.reader.length()?;
            if size > self.reader.left().len() {
                let missing = size.saturating_sub(self.reader.left().len());
                return Err(self.reader.fault(Fault::Truncated { missing }));
            }
            self.compact = Some((self.reader.at().saturating_add(size), self.depth));
            let frame = Frame { left: u32::MAX, types: Types::Each(types_at) };
            return self.push(tag_at, Group::CompactArray, frame);
        }
        let count = self.reader.length()?;
        // Each element takes a byte at least, so more of them than bytes is a lie.
        if count > self.reader.left().len() {
            return Err(WireError::new(Fault::Length(count), tag_at));
        }
        let count = narrow(count);
        let group = if tag == 1 { Group::Array(count) } else { Group::Structure(count) };
        self.push(tag_at, group, Frame { left: count, types: Types::Tagged })
    }

    /// An element whose type is stated elsewhere, not in front of it.
    #[inline(never)]
    fn described(&mut self, types: Types) -> Result<Option<Token<'a>>, WireError> {
        let at = self.reader.at();
        let (Types::Each(types_at) | Types::Sequence(types_at)) = types else { return Ok(None) };
        let mut types = description(self.whole, types_at)?;
        let token = match types.u8()? {
            1 => {
                let count = u32::from(types.u16()?);
                let frame = Frame { left: count, types: Types::Each(narrow(types.at())) };
                self.push(at, Group::Array(count), frame)
            }
            2 => {
                let count = narrow(types.length()?);
                let frame = Frame { left: count, types: Types::Sequence(narrow(types.at())) };
                self.push(at, Group::Structure(count), frame)
            }
            tag => value(tag, &mut self.reader)
                .map(|value| Some(Token::Value(value)))
                .map_err(|error| WireError::new(error.fault, error.offset.max(at))),
        }?;
        if self.reader.at() == at {
            self.zero_size_left = self
                .zero_size_left
                .checked_sub(1)
                .ok_or_else(|| WireError::new(Fault::Elements(ZERO_SIZE_MAX), at))?;
        }
        Ok(token)
    }

    fn push(
        &mut self,
        at: usize,
        group: Group,
        frame: Frame,
    ) -> Result<Option<Token<'a>>, WireError> {
        let slot = self.frames.get_mut(self.depth);
        *slot.ok_or_else(|| WireError::new(Fault::Depth(DEPTH_MAX), at))? = frame;
        self.depth = self.depth.saturating_add(1);
        Ok(Some(Token::Open(group)))
    }
}

/// The plain value at the start of `bytes`, and its size with the tag.
#[inline]
fn plain(bytes: &[u8]) -> Option<(Plain<'_>, usize)> {
    let (number, size): (i64, usize) = match *bytes {
        [0, ..] => return Some((Plain::Null, 1)),
        [9, size @ 0..=0x7F, ref rest @ ..] => {
            let size = usize::from(size);
            return Some((Plain::Octets(rest.get(..size)?), size.saturating_add(2)));
        }
        [15, a, ..] => (i8::from_be_bytes([a]).into(), 2),
        [17, a, ..] => (a.into(), 2),
        [16, a, b, ..] => (i16::from_be_bytes([a, b]).into(), 3),
        [18, a, b, ..] => (u16::from_be_bytes([a, b]).into(), 3),
        [5, a, b, c, d, ..] => (i32::from_be_bytes([a, b, c, d]).into(), 5),
        [6, a, b, c, d, ..] => (u32::from_be_bytes([a, b, c, d]).into(), 5),
        [20, a, b, c, d, e, f, g, h, ..] => (i64::from_be_bytes([a, b, c, d, e, f, g, h]), 9),
        [21, a, b, c, d, e, f, g, h, ..] => {
            (i64::try_from(u64::from_be_bytes([a, b, c, d, e, f, g, h])).ok()?, 9)
        }
        _ => return None,
    };
    Some((Plain::Number(number), size))
}

/// A reader of the type description at `at`, with offsets of the whole.
fn description(whole: &[u8], at: u32) -> Result<Reader<'_>, WireError> {
    let mut reader = Reader::new(whole);
    reader.take(widen(at))?;
    Ok(reader)
}

/// Where the type description at `at` ends.
fn type_end(whole: &[u8], at: u32, depth: usize) -> Result<u32, WireError> {
    let mut reader = description(whole, at)?;
    let start = reader;
    if depth >= DEPTH_MAX {
        return Err(start.fault(Fault::Depth(DEPTH_MAX)));
    }
    let deeper = depth.saturating_add(1);
    match reader.u8()? {
        1 => {
            reader.u16()?;
            type_end(whole, narrow(reader.at()), deeper)
        }
        2 => {
            let count = reader.length()?;
            if count > reader.left().len() {
                return Err(start.fault(Fault::Length(count)));
            }
            let mut end = narrow(reader.at());
            for _ in 0..count {
                end = type_end(whole, end, deeper)?;
            }
            Ok(end)
        }
        COMPACT_ARRAY => Err(start.fault(Fault::DataType(COMPACT_ARRAY))),
        _ => Ok(narrow(reader.at())),
    }
}

/// The content of a value whose tag was just read.
#[inline]
fn value<'a>(tag: u8, reader: &mut Reader<'a>) -> Result<Value<'a>, WireError> {
    Ok(match tag {
        0 => Value::Null,
        3 => Value::Boolean(reader.u8()? != 0),
        4 => {
            let bits = reader.length()?;
            Value::BitString(reader.take(bits.div_ceil(8))?, bits)
        }
        5 => Value::DoubleLong(reader.array().map(i32::from_be_bytes)?),
        6 => Value::DoubleLongUnsigned(reader.u32()?),
        9 => Value::OctetString(reader.sized()?),
        10 => Value::VisibleString(reader.sized()?),
        12 => Value::Utf8String(reader.sized()?),
        13 => Value::Bcd(reader.u8()?),
        15 => Value::Integer(reader.array().map(i8::from_be_bytes)?),
        16 => Value::Long(reader.array().map(i16::from_be_bytes)?),
        17 => Value::Unsigned(reader.u8()?),
        18 => Value::LongUnsigned(reader.u16()?),
        20 => Value::Long64(reader.array().map(i64::from_be_bytes)?),
        21 => Value::Long64Unsigned(reader.array().map(u64::from_be_bytes)?),
        22 => Value::Enum(reader.u8()?),
        23 => Value::Float32(reader.u32()?),
        24 => Value::Float64(reader.array().map(u64::from_be_bytes)?),
        25 => Value::DateTime(reader.array()?),
        26 => Value::Date(reader.array()?),
        27 => Value::Time(reader.array()?),
        28 => Value::Delta(tag, reader.array().map(i8::from_be_bytes)?.into()),
        29 => Value::Delta(tag, reader.array().map(i16::from_be_bytes)?.into()),
        30 => Value::Delta(tag, reader.array().map(i32::from_be_bytes)?),
        31 => Value::DeltaUnsigned(tag, reader.u8()?.into()),
        32 => Value::DeltaUnsigned(tag, reader.u16()?.into()),
        33 => Value::DeltaUnsigned(tag, reader.u32()?),
        255 => Value::DontCare,
        unknown => {
            let tag_at = reader.at().saturating_sub(1);
            return Err(WireError::new(Fault::DataType(unknown), tag_at));
        }
    })
}

impl Token<'_> {
    /// Writes the token; [`Self::Close`] takes no bytes.
    ///
    /// # Errors
    /// [`Fault::Full`]; [`Fault::DataType`] for a compact array, which tokens cannot write.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let (tag, count) = match self {
            Self::Open(Group::Array(count)) => (1, *count),
            Self::Open(Group::Structure(count)) => (2, *count),
            Self::Open(Group::CompactArray) => {
                return Err(WireError::new(Fault::DataType(COMPACT_ARRAY), writer.size()));
            }
            Self::Close => return Ok(()),
            Self::Value(value) => return value.write(writer),
        };
        writer.u8(tag)?;
        writer.length(widen(count))
    }
}

impl Value<'_> {
    /// Writes tag and content.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        writer.u8(self.tag())?;
        match *self {
            Self::Null | Self::DontCare => Ok(()),
            Self::Boolean(value) => writer.u8(value.into()),
            Self::BitString(bytes, bits) => {
                writer.length(bits)?;
                writer.put(bytes)
            }
            Self::OctetString(bytes) | Self::VisibleString(bytes) | Self::Utf8String(bytes) => {
                writer.sized(bytes)
            }
            Self::Bcd(value) | Self::Unsigned(value) | Self::Enum(value) => writer.u8(value),
            Self::Integer(value) => writer.put(&value.to_be_bytes()),
            Self::Long(value) => writer.put(&value.to_be_bytes()),
            Self::LongUnsigned(value) => writer.u16(value),
            Self::DoubleLong(value) => writer.put(&value.to_be_bytes()),
            Self::DoubleLongUnsigned(value) | Self::Float32(value) => writer.u32(value),
            Self::Long64(value) => writer.put(&value.to_be_bytes()),
            Self::Long64Unsigned(value) | Self::Float64(value) => writer.put(&value.to_be_bytes()),
            Self::DateTime(bytes) => writer.put(&bytes),
            Self::Date(bytes) => writer.put(&bytes),
            Self::Time(bytes) => writer.put(&bytes),
            Self::Delta(tag, value) => write_tail(tag, value.to_be_bytes(), writer),
            Self::DeltaUnsigned(tag, value) => write_tail(tag, value.to_be_bytes(), writer),
        }
    }

    const fn tag(&self) -> u8 {
        match self {
            Self::Null => 0,
            Self::Boolean(_) => 3,
            Self::BitString(..) => 4,
            Self::DoubleLong(_) => 5,
            Self::DoubleLongUnsigned(_) => 6,
            Self::OctetString(_) => 9,
            Self::VisibleString(_) => 10,
            Self::Utf8String(_) => 12,
            Self::Bcd(_) => 13,
            Self::Integer(_) => 15,
            Self::Long(_) => 16,
            Self::Unsigned(_) => 17,
            Self::LongUnsigned(_) => 18,
            Self::Long64(_) => 20,
            Self::Long64Unsigned(_) => 21,
            Self::Enum(_) => 22,
            Self::Float32(_) => 23,
            Self::Float64(_) => 24,
            Self::DateTime(_) => 25,
            Self::Date(_) => 26,
            Self::Time(_) => 27,
            Self::Delta(tag, _) | Self::DeltaUnsigned(tag, _) => *tag,
            Self::DontCare => 255,
        }
    }
}

/// A delta in the width of its tag: 28 and 31 one byte, 29 and 32 two, else four.
fn write_tail(tag: u8, bytes: [u8; 4], writer: &mut Writer<'_>) -> Result<(), WireError> {
    let [_, _, high, low] = bytes;
    match tag {
        28 | 31 => writer.u8(low),
        29 | 32 => writer.put(&[high, low]),
        _ => writer.put(&bytes),
    }
}

/// Offsets and counts are of bytes at hand, and no frame has 4 GiB.
fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn widen(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn walk(bytes: &[u8]) -> Result<Vec<Token<'_>>, WireError> {
        let mut walker = Walker::new(bytes);
        let mut tokens = Vec::new();
        while let Some(token) = walker.next()? {
            tokens.push(token);
        }
        Ok(tokens)
    }

    fn check(bytes: &[u8], fault: Fault, offset: usize) {
        assert_eq!(walk(bytes), Err(WireError::new(fault, offset)), "bytes={bytes:02x?}");
    }

    #[test]
    fn broken_data() {
        check(&[], Fault::Truncated { missing: 1 }, 0);
        check(&[7], Fault::DataType(7), 0);
        check(&[0x11, 5, 5], Fault::Trailing { count: 1 }, 2);
        check(&[1, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0], Fault::Length(0xFFFF_FFFF), 0);
        check(&[1, 3, 0, 0], Fault::Length(3), 0);
        check(&[9, 5, 1, 2], Fault::Truncated { missing: 3 }, 2);
        check(&[9, 0x80, 1], Fault::LengthCoding(0x80), 1);
        check(&[4, 9, 0xFF], Fault::Truncated { missing: 1 }, 2);
        check(&[0x06, 1, 2, 3], Fault::Truncated { missing: 1 }, 1);
        check(&[2, 2, 0x11, 5], Fault::Truncated { missing: 1 }, 4);
        // Depth 16 is fine, 17 is not.
        let nested = |depth: usize| [[1, 1].repeat(depth), vec![0]].concat();
        assert!(walk(&nested(16)).is_ok());
        check(&nested(17), Fault::Depth(16), 32);
        check(&[1, 1].repeat(100_000), Fault::Depth(16), 32);
    }

    #[test]
    fn broken_compact_arrays() {
        // Elements without a size, for ever: nulls, structures and arrays of them, and no columns.
        for types in [&[0][..], &[2, 2, 0, 0], &[2, 0], &[1, 0, 0, 6]] {
            let bytes = [&[19], types, &[1, 0]].concat();
            check(&bytes, Fault::Elements(ZERO_SIZE_MAX), bytes.len() - 1);
        }
        check(&[19, 1, 0xFF, 0xFF, 0, 1, 0], Fault::Elements(ZERO_SIZE_MAX), 6);
        check(&[19, 6, 4, 1, 2], Fault::Truncated { missing: 2 }, 3);
        // The last element runs over the content's end.
        check(&[19, 6, 3, 1, 2, 3, 4], Fault::Length(7), 6);
        check(&[19, 19, 6, 0], Fault::DataType(19), 1);
        check(&[19, 2, 100, 0], Fault::Length(100), 1);
        let nested = [&[19][..], &[1, 0, 1].repeat(40), &[0, 1, 0]].concat();
        check(&nested, Fault::Depth(16), 49);
        // Types without a name break where a value of them is read.
        check(&[19, 7, 1, 0], Fault::DataType(7), 3);
    }

    /// A structure of array and values, stated once, as tagged data would have it.
    #[test]
    fn a_compact_array_walks_like_an_array() {
        let bytes = [
            19, 2, 3, 17, 1, 0, 2, 18,
            9,  // a structure: unsigned, array of 2 long-unsigned, octets
            16, // bytes of content
            1, 0, 2, 0, 3, 2, 0xAA, 0xBB, //
            4, 0, 5, 0, 6, 2, 0xCC, 0xDD,
        ];
        let row = |a, b, c, octets| {
            [
                Token::Open(Group::Structure(3)),
                Token::Value(Value::Unsigned(a)),
                Token::Open(Group::Array(2)),
                Token::Value(Value::LongUnsigned(b)),
                Token::Value(Value::LongUnsigned(c)),
                Token::Close,
                Token::Value(Value::OctetString(octets)),
                Token::Close,
            ]
        };
        let want = [
            &[Token::Open(Group::CompactArray)][..],
            &row(1, 2, 3, &[0xAA, 0xBB]),
            &row(4, 5, 6, &[0xCC, 0xDD]),
            &[Token::Close],
        ];
        assert_eq!(walk(&bytes), Ok(want.concat()));
        assert_eq!(walk(&[19, 0, 0]).unwrap().len(), 2);
    }

    #[test]
    fn every_type_writes_as_it_reads() {
        let values = [
            Value::Null,
            Value::Boolean(true),
            Value::BitString(&[0xF0, 0x80], 9),
            Value::DoubleLong(-5),
            Value::DoubleLongUnsigned(5),
            Value::OctetString(&[0; 200]),
            Value::VisibleString(b"abc"),
            Value::Utf8String("é".as_bytes()),
            Value::Bcd(0x12),
            Value::Integer(-1),
            Value::Long(-300),
            Value::Unsigned(255),
            Value::LongUnsigned(65535),
            Value::Long64(i64::MIN),
            Value::Long64Unsigned(u64::MAX),
            Value::Enum(30),
            Value::Float32(0x3F80_0000),
            Value::Float64(1),
            Value::DateTime([1; 12]),
            Value::Date([2; 5]),
            Value::Time([3; 4]),
            Value::Delta(28, -1),
            Value::Delta(29, -300),
            Value::Delta(30, -70_000),
            Value::DeltaUnsigned(31, 255),
            Value::DeltaUnsigned(32, 65535),
            Value::DeltaUnsigned(33, u32::MAX),
            Value::DontCare,
        ];
        for value in values {
            let mut buf = [0; 256];
            let mut writer = Writer::new(&mut buf);
            value.write(&mut writer).unwrap();
            assert_eq!(walk(writer.written()), Ok(vec![Token::Value(value)]));
        }
    }

    proptest! {
        /// Any bytes end soon, and what reads as plain data writes and reads as the same again.
        #[test]
        fn any_bytes_are_an_answer(
            bytes in proptest::collection::vec(prop_oneof![0_u8..7, 15_u8..24, any::<u8>()], 0..200),
        ) {
            let mut walker = Walker::new(&bytes);
            let mut steps = 0_usize;
            while let Ok(Some(_)) = walker.next() {
                steps += 1;
            }
            prop_assert!(steps <= 2 * (bytes.len() + 1_024) + 2, "{} steps", steps);
            let Ok(tokens) = walk(&bytes) else { return Ok(()) };
            let mut buf = vec![0; bytes.len() + 8];
            let mut writer = Writer::new(&mut buf);
            if tokens.iter().try_for_each(|token| token.write(&mut writer)).is_ok() {
                prop_assert_eq!(walk(writer.written()), Ok(tokens));
            }
        }
    }
}
