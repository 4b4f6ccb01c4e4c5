//! HDLC frames of IEC 62056-46 (type 3), their LLC prefix and segments.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | flag 7E |
//! | 2 | format: A in the high nibble, bit 11 "more segments follow", low 11 bits = bytes between the flags |
//! | 1, 2, 4 | destination address; the lowest bit of its last byte is 1 |
//! | 1, 2, 4 | source address |
//! | 1 | control |
//! | 2 | check sum of the header (absent without information) |
//! | n | information |
//! | 2 | check sum of all before |
//! | 1 | flag 7E |
//!
//! Check sums are CRC-16/X-25, low byte first. Nothing is stuffed: 7E may stand anywhere inside, so
//! a frame's end is found by its length, never by scanning.

use super::super::{Fault, Reader, WireError, Writer};

const FLAG: u8 = 0x7E;
const SEGMENTED: u16 = 0x0800;
const LENGTH: u16 = 0x07FF;

/// A frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hdlc<'a> {
    /// Whose it is: the bytes of the address as they are on the wire.
    pub destination: &'a [u8],
    /// Who sent it.
    pub source: &'a [u8],
    /// The control byte: 93 SNRM, 73 UA, 53 DISC, 1F DM, 13 UI, even an I frame.
    pub control: u8,
    /// Whether the information goes on in the next frame.
    pub is_segmented: bool,
    /// The information: the APDU with its LLC prefix, or a piece of it.
    pub information: &'a [u8],
    /// Bytes of the whole frame, flags included.
    pub size: usize,
}

impl<'a> Hdlc<'a> {
    /// Parses the frame at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    /// [`Fault::Start`], [`Fault::Control`] (the format is not type 3), [`Fault::Length`],
    /// [`Fault::Truncated`], [`Fault::End`], [`Fault::Address`], [`Fault::Checksum`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (frame, checked) = Self::parse_unchecked(bytes)?;
        checked.map(|()| frame)
    }

    /// As [`Self::parse`], with a wrong check sum or end flag set apart: for looking at damaged
    /// captures.
    ///
    /// # Errors
    /// Those of [`Self::parse`] but these two.
    pub fn parse_unchecked(bytes: &'a [u8]) -> Result<(Self, Result<(), WireError>), WireError> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            FLAG => {}
            other => return Err(WireError::new(Fault::Start(other), 0)),
        }
        let inner = reader;
        let format = reader.u16()?;
        let [high, _] = format.to_be_bytes();
        if high & 0xF0 != 0xA0 {
            return Err(inner.fault(Fault::Control(high)));
        }
        let length = usize::from(format & LENGTH);
        let mut after = inner;
        let between = after.take(length)?;
        let end = after;
        let ended = match after.u8()? {
            FLAG => Ok(()),
            other => Err(end.fault(Fault::End(other))),
        };
        let too_short = inner.fault(Fault::Length(length));
        let (content, fcs) = between.split_last_chunk().ok_or(too_short)?;
        let fcs_right = verify(content, *fcs, length.saturating_sub(1));
        let mut checked = ended.and(fcs_right);

        let mut header = Reader::new(content);
        header.u16().map_err(|_| too_short)?;
        let destination = address(&mut header).map_err(|error| error.shifted(1))?;
        let source = address(&mut header).map_err(|error| error.shifted(1))?;
        let control = header.u8().map_err(|_| too_short)?;
        let mut information: &[u8] = &[];
        if !header.left().is_empty() {
            let head = content.get(..header.at()).unwrap_or_default();
            let at = header.at();
            let hcs = header.array().map_err(|_| too_short)?;
            checked = verify(head, hcs, at.saturating_add(1)).and(checked);
            information = header.left();
        }
        let is_segmented = format & SEGMENTED != 0;
        let size = length.saturating_add(2);
        Ok((Self { destination, source, control, is_segmented, information, size }, checked))
    }

    /// The information without its LLC prefix (`E6 E6 00` or `E6 E7 00`; only the first segment has
    /// one).
    #[must_use]
    pub const fn apdu(&self) -> &'a [u8] {
        strip_llc(self.information)
    }

    /// Writes a frame; `information` with its LLC prefix already.
    ///
    /// # Errors
    /// [`Fault::Full`], [`Fault::TooLong`] over 2047 bytes.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let head = [2, self.destination.len(), self.source.len(), 1];
        let head_size = head.into_iter().fold(0_usize, usize::saturating_add);
        let rest = if self.information.is_empty() { 2 } else { 4 };
        let length = head_size.saturating_add(self.information.len()).saturating_add(rest);
        let max = usize::from(LENGTH);
        let too_long = WireError::new(Fault::TooLong { length, max }, writer.size());
        let format = u16::try_from(length).ok().filter(|l| *l <= LENGTH).ok_or(too_long)?;
        let segmented = if self.is_segmented { SEGMENTED } else { 0 };
        writer.u8(FLAG)?;
        let mut crc = Crc::START;
        put(writer, &mut crc, &(0xA000 | segmented | format).to_be_bytes())?;
        put(writer, &mut crc, self.destination)?;
        put(writer, &mut crc, self.source)?;
        put(writer, &mut crc, &[self.control])?;
        if !self.information.is_empty() {
            let hcs = crc.finish();
            put(writer, &mut crc, &hcs.to_le_bytes())?;
            put(writer, &mut crc, self.information)?;
        }
        writer.put(&crc.finish().to_le_bytes())?;
        writer.u8(FLAG)
    }
}

/// An APDU without the LLC prefix that HDLC puts before it.
#[must_use]
pub const fn strip_llc(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0xE6, 0xE6 | 0xE7, 0x00, apdu @ ..] => apdu,
        _ => bytes,
    }
}

fn put(writer: &mut Writer<'_>, crc: &mut Crc, bytes: &[u8]) -> Result<(), WireError> {
    crc.update(bytes);
    writer.put(bytes)
}

/// An address of 1, 2 or 4 bytes.
fn address<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let start = *reader;
    let size =
        start.left().iter().position(|byte| byte & 1 == 1).map(|last| last.saturating_add(1));
    match size {
        Some(size @ (1 | 2 | 4)) => reader.take(size),
        _ => Err(start.fault(Fault::Address)),
    }
}

fn verify(content: &[u8], sum: [u8; 2], at: usize) -> Result<(), WireError> {
    let mut crc = Crc::START;
    crc.update(content);
    let (got, want) = (u16::from_le_bytes(sum), crc.finish());
    if got == want { Ok(()) } else { Err(WireError::new(Fault::Checksum { got, want }, at)) }
}

/// CRC-16/X-25.
#[derive(Clone, Copy)]
struct Crc(u16);

impl Crc {
    const START: Self = Self(0xFFFF);

    fn update(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u16::from(*byte);
            for _ in 0..8 {
                self.0 = if self.0 & 1 == 1 { self.0 >> 1 ^ 0x8408 } else { self.0 >> 1 };
            }
        }
    }

    const fn finish(self) -> u16 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// gurux-dlms 1.0.203: SNRM of client 16 to server 1, and a GET with LLC.
    const SNRM: [u8; 9] = [0x7E, 0xA0, 0x07, 0x03, 0x21, 0x93, 0x0F, 0x01, 0x7E];
    const GET: [u8; 27] = [
        0x7E, 0xA0, 0x19, 0x03, 0x21, 0x32, 0x6F, 0xD8, 0xE6, 0xE6, 0x00, 0xC0, 0x01, 0xC1, 0x00,
        0x03, 0x01, 0x00, 0x01, 0x08, 0x00, 0xFF, 0x02, 0x00, 0x32, 0x68, 0x7E,
    ];

    fn check(bytes: &[u8], want: Fault) {
        assert_eq!(Hdlc::parse(bytes).map_err(|e| e.fault), Err(want), "bytes={bytes:02x?}");
    }

    #[test]
    fn frames_of_an_independent_client() {
        let frame = Hdlc::parse(&SNRM).unwrap();
        assert_eq!((frame.control, frame.information, frame.size), (0x93, &[][..], 9));
        assert_eq!((frame.destination, frame.source), (&[3][..], &[0x21][..]));
        let frame = Hdlc::parse(&GET).unwrap();
        assert_eq!(frame.apdu(), &GET[11..24]);
    }

    #[test]
    fn broken_frames() {
        let with = |position: usize, byte: u8| {
            let mut broken = GET;
            broken[position] = byte;
            broken
        };
        check(&[], Fault::Truncated { missing: 1 });
        check(&with(0, 0x68), Fault::Start(0x68));
        check(&with(1, 0x13), Fault::Control(0x13));
        check(&GET[..20], Fault::Truncated { missing: 6 });
        check(&with(2, 0xFF), Fault::Truncated { missing: 229 });
        check(&with(2, 0x18), Fault::Checksum { got: 0xD86F, want: 0xC4D4 });
        check(&with(26, 0x7F), Fault::End(0x7F));
        check(&[0x7E, 0xA0, 0x00, 0x7E], Fault::Length(0));
        check(&[0x7E, 0xA0, 0x01, 0x7E], Fault::Length(1));
        check(&[0x7E, 0xA0, 0x02, 0x7E], Fault::Length(2));
        check(&[0x7E, 0xA0, 0x05, 2, 2, 2, 0x7E], Fault::Address);
        check(&[0x7E, 0xA0, 0x06, 3, 3, 0, 0, 0x7E], Fault::Length(6));
        check(&with(24, 0x33), Fault::Checksum { got: 0x6833, want: 0x6832 });
        check(&with(6, 0x6E), Fault::Checksum { got: 0xD86E, want: 0xD86F });
        check(&with(12, 0x02), Fault::Checksum { got: 0x6832, want: 0xEFDC });
    }

    proptest! {
        #[test]
        fn round_trip(
            information in proptest::collection::vec(any::<u8>(), 0..2000),
            control: u8,
            is_segmented: bool,
        ) {
            let frame = Hdlc {
                destination: &[0x02, 0x23],
                source: &[0x21],
                control,
                is_segmented,
                information: &information,
                size: information.len() + if information.is_empty() { 10 } else { 12 },
            };
            let mut buf = [0; 2100];
            let mut writer = Writer::new(&mut buf);
            frame.write(&mut writer).unwrap();
            let written = writer.written();
            prop_assert_eq!(Hdlc::parse(written), Ok(frame));
        }

        #[test]
        fn any_bytes_are_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(Hdlc::parse(&bytes).is_err());
            bytes.splice(0..0, [0x7E, 0xA0]);
            prop_assert!(Hdlc::parse(&bytes).is_err());
        }
    }
}
