//! DLMS inside M-Bus long frames, as the customer ports of Austrian meters carry it.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | 68 |
//! | 1 + 1 | length of what follows up to the check sum, twice |
//! | 1 | 68 |
//! | 3 | C field 53, A field FF, CI field: bit 4 "last piece", low nibble the piece's number |
//! | 2 | source and destination service access points |
//! | n | a piece of the APDU |
//! | 1 | check sum: the sum of all bytes from the C field |
//! | 1 | 16 |
//!
//! Lenient: Sagemcom sends 257 bytes and codes the length as 01. A length is therefore taken
//! modulo 256, and the check sum says which one it is.

use super::super::{Fault, Reader, WireError};

const START: u8 = 0x68;
const STOP: u8 = 0x16;
const LAST: u8 = 0x10;
/// The longest frame seen is 263 bytes: lengths above 511 are not tried.
const WRAPS: [usize; 2] = [0, 256];

/// A frame with a piece of an APDU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Mbus<'a> {
    /// The piece's number modulo 16; the first is 0.
    pub number: u8,
    /// Whether it is the last one.
    pub is_last: bool,
    /// The bytes of the APDU in this frame.
    pub piece: &'a [u8],
    /// Bytes of the whole frame.
    pub size: usize,
}

impl<'a> Mbus<'a> {
    /// Parses the frame at the start of `bytes`; more may follow it.
    ///
    /// # Errors
    /// [`Fault::Start`], [`Fault::Length`] (the two differ, or are too short), [`Fault::Control`]
    /// (a CI field of no DLMS transport), [`Fault::Truncated`], [`Fault::End`],
    /// [`Fault::Checksum`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let [start, length, again, second] = reader.array()?;
        for (byte, at) in [(start, 0), (second, 3)] {
            if byte != START {
                return Err(WireError::new(Fault::Start(byte), at));
            }
        }
        if length != again {
            return Err(WireError::new(Fault::Length(again.into()), 2));
        }
        let mut first_error = None;
        for wrap in WRAPS {
            match Self::parse_body(reader, usize::from(length).saturating_add(wrap)) {
                Ok(frame) => return Ok(frame),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| reader.fault(Fault::Length(length.into()))))
    }

    fn parse_body(mut reader: Reader<'a>, length: usize) -> Result<Self, WireError> {
        let body = reader.take(length)?;
        let sum_at = reader;
        let [got, stop] = reader.array()?;
        if stop != STOP {
            return Err(WireError::new(Fault::End(stop), sum_at.at().saturating_add(1)));
        }
        let want = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if got != want {
            let (got, want) = (got.into(), want.into());
            return Err(sum_at.fault(Fault::Checksum { got, want }));
        }
        let [_control, _address, information, _source, _destination, piece @ ..] = body else {
            return Err(WireError::new(Fault::Length(length), 1));
        };
        if information & !(LAST | 0x0F) != 0 {
            return Err(WireError::new(Fault::Control(*information), 6));
        }
        let number = information & 0x0F;
        Ok(Self { number, is_last: information & LAST != 0, piece, size: reader.at() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(information: u8, piece: &[u8]) -> Vec<u8> {
        let body = [&[0x53, 0xFF, information, 1, 0x67], piece].concat();
        let [length, ..] = body.len().to_le_bytes();
        let sum = body.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        [&[START, length, length, START], &body[..], &[sum, STOP]].concat()
    }

    fn check(bytes: &[u8], want: Fault) {
        assert_eq!(Mbus::parse(bytes).map_err(|e| e.fault), Err(want), "bytes={bytes:02x?}");
    }

    #[test]
    fn frames() {
        for (size, information) in [(0, 0x10), (3, 0x00), (240, 0x1F), (252, 0x11), (300, 0x01)] {
            let piece = vec![0xA5; size];
            let bytes = frame(information, &piece);
            let got = Mbus::parse(&bytes).unwrap();
            assert_eq!((got.piece, got.size), (&piece[..], bytes.len()), "size={size}");
            assert_eq!((got.number, got.is_last), (information & 15, information & 16 != 0));
        }
    }

    #[test]
    fn broken_frames() {
        let good = frame(0x10, &[1, 2, 3]);
        let with = |position: usize, byte: u8| {
            let mut broken = good.clone();
            broken[position] = byte;
            broken
        };
        check(&[], Fault::Truncated { missing: 4 });
        check(&with(0, 0x7E), Fault::Start(0x7E));
        check(&with(3, 0x69), Fault::Start(0x69));
        check(&with(2, 9), Fault::Length(9));
        check(&with(9, 9), Fault::Checksum { got: 0xD0, want: 0xD8 });
        check(&good[..good.len() - 1], Fault::Truncated { missing: 1 });
        check(&with(13, 0x17), Fault::End(0x17));
        check(&frame(0x72, &[1]), Fault::Control(0x72));
        check(&[START, 2, 2, START, 0x53, 0xFF, 0x52, STOP], Fault::Length(2));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(mut bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!(Mbus::parse(&bytes).is_err());
            bytes.splice(0..0, [START, 1, 1, START]);
            prop_assert!(Mbus::parse(&bytes).is_err());
        }
    }
}
