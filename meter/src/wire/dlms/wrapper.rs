//! The wrapper of IEC 62056-47: eight bytes before an APDU on UDP and TCP.
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | version, 1 |
//! | 2 | source port (who speaks: 1 = management logical device, 0x10 = public client) |
//! | 2 | destination port |
//! | 2 | length of the APDU |
//!
//! Big endian. A UDP datagram is one frame; on TCP frames follow each other without a gap.

use super::super::{Fault, Reader, WireError, Writer};

/// The header of a wrapped APDU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wrapper {
    /// The application that sends.
    pub source: u16,
    /// The application that shall receive.
    pub destination: u16,
    /// Bytes of APDU that follow.
    pub length: u16,
}

impl Wrapper {
    /// Bytes of the header.
    pub const SIZE: usize = 8;

    /// The header and the APDU of a datagram that holds one frame and nothing else.
    ///
    /// # Errors
    /// [`Fault::Version`], [`Fault::Length`] (an empty APDU), [`Fault::Truncated`],
    /// [`Fault::Trailing`].
    pub fn datagram(frame: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut reader = Reader::new(frame);
        let header = Self::read(&mut reader)?;
        let apdu = reader.take(usize::from(header.length))?;
        reader.finish()?;
        Ok((header, apdu))
    }

    /// As [`Self::datagram`], for decryption in place.
    ///
    /// # Errors
    /// Those of [`Self::datagram`].
    pub fn datagram_mut(frame: &mut [u8]) -> Result<(Self, &mut [u8]), WireError> {
        let (header, _) = Self::datagram(frame)?;
        Ok((header, frame.get_mut(Self::SIZE..).unwrap_or_default()))
    }

    /// How many bytes the frame at the start of a stream's buffer has, header included; `None`
    /// until its header is there. To be asked before any room is made for it.
    ///
    /// # Errors
    /// [`Fault::Version`], [`Fault::Length`], and [`Fault::TooLong`] for an APDU over
    /// `length_max`: drop the stream, its frames cannot be told apart any more.
    pub fn stream_size(buf: &[u8], length_max: usize) -> Result<Option<usize>, WireError> {
        let Some(header) = buf.get(..Self::SIZE) else { return Ok(None) };
        let length = usize::from(Self::read(&mut Reader::new(header))?.length);
        if length > length_max {
            return Err(WireError::new(Fault::TooLong { length, max: length_max }, 6));
        }
        Ok(Some(length.saturating_add(Self::SIZE)))
    }

    /// The header of `apdu` between two applications.
    ///
    /// # Errors
    /// [`Fault::Length`] for an APDU of 64 KiB or more, or of none.
    pub fn new(source: u16, destination: u16, apdu_size: usize) -> Result<Self, WireError> {
        match u16::try_from(apdu_size) {
            Ok(length @ 1..) => Ok(Self { source, destination, length }),
            Ok(0) | Err(_) => Err(WireError::new(Fault::Length(apdu_size), 6)),
        }
    }

    /// The header of an answer of `apdu_size` bytes to a frame with this one.
    ///
    /// # Errors
    /// Those of [`Self::new`].
    pub fn answer(self, apdu_size: usize) -> Result<Self, WireError> {
        Self::new(self.destination, self.source, apdu_size)
    }

    /// Writes a whole frame into `buf`: its header and the APDU that `write` appends. The frame.
    ///
    /// # Errors
    /// Those of `write` and [`Self::new`].
    pub fn frame(
        source: u16,
        destination: u16,
        buf: &mut [u8],
        write: impl FnOnce(&mut Writer<'_>) -> Result<(), WireError>,
    ) -> Result<&mut [u8], WireError> {
        let mut writer = Writer::new(buf);
        writer.put(&[0; Self::SIZE])?;
        write(&mut writer)?;
        let frame = writer.written();
        let header = Self::new(source, destination, frame.len().saturating_sub(Self::SIZE))?;
        if let Some(head) = frame.first_chunk_mut() {
            *head = header.to_bytes();
        }
        Ok(frame)
    }

    /// The eight bytes.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; Self::SIZE] {
        let [source_high, source_low] = self.source.to_be_bytes();
        let [destination_high, destination_low] = self.destination.to_be_bytes();
        let [length_high, length_low] = self.length.to_be_bytes();
        [0, 1, source_high, source_low, destination_high, destination_low, length_high, length_low]
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let start = *reader;
        match reader.u16()? {
            1 => {}
            version => return Err(start.fault(Fault::Version(version))),
        }
        let (source, destination) = (reader.u16()?, reader.u16()?);
        let before_length = *reader;
        match reader.u16()? {
            0 => Err(before_length.fault(Fault::Length(0))),
            length => Ok(Self { source, destination, length }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(frame: &[u8], want: Result<&[u8], WireError>) {
        assert_eq!(Wrapper::datagram(frame).map(|(_, apdu)| apdu), want, "frame={frame:02x?}");
    }

    #[test]
    fn datagram_cases() {
        let fault = |fault, offset| Err(WireError::new(fault, offset));
        check(&[0, 1, 0, 1, 0, 16, 0, 2, 0xC0, 1], Ok(&[0xC0, 1]));
        check(&[], fault(Fault::Truncated { missing: 2 }, 0));
        check(&[0, 1, 0, 1, 0, 16, 0], fault(Fault::Truncated { missing: 1 }, 6));
        check(&[0, 2, 0, 1, 0, 16, 0, 1, 9], fault(Fault::Version(2), 0));
        check(&[0, 1, 0, 1, 0, 16, 0, 0], fault(Fault::Length(0), 6));
        check(&[0, 1, 0, 1, 0, 16, 0xFF, 0xFF, 1], fault(Fault::Truncated { missing: 65534 }, 8));
        check(&[0, 1, 0, 1, 0, 16, 0, 1, 9, 9], fault(Fault::Trailing { count: 1 }, 9));
    }

    #[test]
    fn stream_cases() {
        let head = [0, 1, 0, 1, 0, 16, 0x20, 0x00];
        assert_eq!(Wrapper::stream_size(&head[..7], 8192), Ok(None));
        assert_eq!(Wrapper::stream_size(&head, 8192), Ok(Some(8200)));
        let too_long = Fault::TooLong { length: 8192, max: 8191 };
        assert_eq!(Wrapper::stream_size(&head, 8191), Err(WireError::new(too_long, 6)));
    }

    #[test]
    fn header_round_trip() {
        let header = Wrapper::new(1, 0x10, 3).unwrap();
        let mut frame = header.to_bytes().to_vec();
        frame.extend([0xC4, 1, 2]);
        assert_eq!(Wrapper::datagram(&frame), Ok((header, &[0xC4, 1, 2][..])));
        assert_eq!(header.answer(9), Wrapper::new(0x10, 1, 9));
        assert!(Wrapper::new(1, 1, 65536).is_err() && Wrapper::new(1, 1, 0).is_err());
        let mut buf = [0; 16];
        assert_eq!(Wrapper::frame(1, 0x10, &mut buf, |w| w.put(&[0xC4, 1, 2])).unwrap(), frame);
        assert!(Wrapper::frame(1, 0x10, &mut buf, |_| Ok(())).is_err());
        assert!(Wrapper::frame(1, 0x10, &mut buf, |w| w.put(&[0; 9])).is_err());
    }
}
