//! Long APDUs put together from pieces: HDLC segments, M-Bus pieces, general-block-transfer.
//!
//! | bytes | general-block-transfer |
//! | --- | --- |
//! | 1 | tag E0 |
//! | 1 | block control: bit 7 last block, bit 6 streaming, low 6 bits window |
//! | 2 | block number, from 1 |
//! | 2 | number of the last block received the other way |
//! | 1-5 | length |
//! | n | a piece of the APDU |

use super::super::{Fault, Reader, WireError, Writer};
use super::{Hdlc, Mbus, strip_llc, tag};

/// A piece of an APDU in general-block-transfer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Block<'a> {
    /// Last block, streaming, window.
    pub control: u8,
    /// Its number, from 1.
    pub number: u16,
    /// The number of the last block the sender received.
    pub acknowledged: u16,
    /// The piece.
    pub piece: &'a [u8],
}

impl<'a> Block<'a> {
    const LAST: u8 = 0x80;

    /// Whether no block follows.
    #[must_use]
    pub const fn is_last(&self) -> bool {
        self.control & Self::LAST != 0
    }

    /// Parses an APDU of tag E0.
    ///
    /// # Errors
    /// [`Fault::Apdu`], [`Fault::Truncated`], [`Fault::Trailing`].
    pub fn parse(apdu: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(apdu);
        match reader.u8()? {
            tag::GENERAL_BLOCK_TRANSFER => {}
            other => return Err(WireError::new(Fault::Apdu(other), 0)),
        }
        let control = reader.u8()?;
        let (number, acknowledged) = (reader.u16()?, reader.u16()?);
        let piece = reader.sized()?;
        reader.finish()?;
        Ok(Self { control, number, acknowledged, piece })
    }

    /// Writes the APDU.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        writer.put(&[tag::GENERAL_BLOCK_TRANSFER, self.control])?;
        writer.u16(self.number)?;
        writer.u16(self.acknowledged)?;
        writer.sized(self.piece)
    }
}

/// An APDU that grows piece by piece, in order, up to a limit. It holds the bytes that came, never
/// room for those that were claimed. After an error it is empty and takes a first piece again.
#[derive(Clone, Debug)]
pub struct Assembly {
    bytes: Vec<u8>,
    size_max: usize,
    /// How many pieces it holds.
    count: u32,
}

impl Assembly {
    /// An empty one for APDUs of at most `size_max` bytes.
    #[must_use]
    pub const fn new(size_max: usize) -> Self {
        Self { bytes: Vec::new(), size_max, count: 0 }
    }

    /// Forgets the pieces.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// How many pieces it holds.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Takes the next HDLC frame; the APDU, without LLC prefix, once it is complete.
    ///
    /// # Errors
    /// [`Fault::TooLong`].
    pub fn hdlc(&mut self, frame: &Hdlc<'_>) -> Result<Option<&mut [u8]>, WireError> {
        let piece = if self.count == 0 { strip_llc(frame.information) } else { frame.information };
        self.push(piece, !frame.is_segmented)
    }

    /// Takes the next M-Bus frame; the APDU once it is complete.
    ///
    /// # Errors
    /// [`Fault::Block`] for a piece that is not the next one, [`Fault::TooLong`].
    pub fn mbus(&mut self, frame: &Mbus<'_>) -> Result<Option<&mut [u8]>, WireError> {
        self.expect(frame.number.into(), self.count & 0x0F)?;
        self.push(frame.piece, frame.is_last)
    }

    /// Takes the next block; the APDU once it is complete.
    ///
    /// # Errors
    /// [`Fault::Block`] for a block that is not the next one, [`Fault::TooLong`].
    pub fn block(&mut self, block: &Block<'_>) -> Result<Option<&mut [u8]>, WireError> {
        self.expect(block.number.into(), self.count.saturating_add(1))?;
        self.push(block.piece, block.is_last())
    }

    fn expect(&mut self, got: u32, want: u32) -> Result<(), WireError> {
        if got == want {
            return Ok(());
        }
        self.clear();
        Err(WireError::new(Fault::Block { got, want }, 0))
    }

    fn push(&mut self, piece: &[u8], is_last: bool) -> Result<Option<&mut [u8]>, WireError> {
        if self.count == 0 {
            self.bytes.clear();
        }
        let length = self.bytes.len().saturating_add(piece.len());
        if length > self.size_max {
            self.clear();
            return Err(WireError::new(Fault::TooLong { length, max: self.size_max }, 0));
        }
        self.bytes.extend_from_slice(piece);
        self.count = if is_last { 0 } else { self.count.saturating_add(1) };
        Ok(if is_last { Some(&mut self.bytes) } else { None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(number: u16, is_last: bool, piece: &[u8]) -> Block<'_> {
        Block { control: if is_last { 0xC0 } else { 0x40 }, number, acknowledged: 0, piece }
    }

    #[test]
    fn blocks_in_order() {
        let mut assembly = Assembly::new(5);
        assert_eq!(assembly.block(&block(1, false, &[1, 2])), Ok(None));
        assert_eq!(assembly.block(&block(2, false, &[3])), Ok(None));
        assert_eq!(assembly.block(&block(3, true, &[4, 5])), Ok(Some(&mut [1, 2, 3, 4, 5][..])));
        // And again with the same buffer.
        assert_eq!(assembly.block(&block(1, true, &[6])), Ok(Some(&mut [6][..])));
    }

    fn check(first: &[u16], number: u16, want: Fault) {
        let mut assembly = Assembly::new(5);
        for number in first {
            assert_eq!(assembly.block(&block(*number, false, &[0, 0])), Ok(None));
        }
        let got = assembly.block(&block(number, false, &[0, 0])).map_err(|e| e.fault);
        assert_eq!(got, Err(want), "{first:?} then {number}");
        assert_eq!((assembly.count(), assembly.bytes.len()), (0, 0));
    }

    #[test]
    fn blocks_out_of_order_or_without_end() {
        check(&[], 0, Fault::Block { got: 0, want: 1 });
        check(&[], 2, Fault::Block { got: 2, want: 1 });
        check(&[1], 1, Fault::Block { got: 1, want: 2 });
        check(&[1], 3, Fault::Block { got: 3, want: 2 });
        check(&[1, 2], 3, Fault::TooLong { length: 6, max: 5 });
    }

    #[test]
    fn hdlc_segments_have_one_llc_prefix() {
        let segment = |is_segmented, information| Hdlc {
            destination: &[3],
            source: &[0x21],
            control: 0x13,
            is_segmented,
            information,
            size: 0,
        };
        let mut assembly = Assembly::new(16);
        assert_eq!(assembly.hdlc(&segment(true, &[0xE6, 0xE7, 0, 1])), Ok(None));
        let whole = assembly.hdlc(&segment(false, &[0xE6, 0xE7, 0, 2])).unwrap();
        assert_eq!(whole, Some(&mut [1, 0xE6, 0xE7, 0, 2][..]));
    }

    #[test]
    fn mbus_pieces_count_from_zero() {
        let piece = |number, is_last, piece| Mbus { number, is_last, piece, size: 0 };
        let mut assembly = Assembly::new(16);
        let late = Fault::Block { got: 1, want: 0 };
        assert_eq!(assembly.mbus(&piece(1, true, &[9])), Err(WireError::new(late, 0)));
        assert_eq!(assembly.mbus(&piece(0, false, &[1])), Ok(None));
        assert_eq!(assembly.mbus(&piece(1, true, &[2])), Ok(Some(&mut [1, 2][..])));
    }

    proptest! {
        #[test]
        fn block_round_trip(control: u8, number: u16, acknowledged: u16, piece: Vec<u8>) {
            let block = Block { control, number, acknowledged, piece: &piece };
            let mut buf = vec![0; piece.len() + 16];
            let mut writer = Writer::new(&mut buf);
            block.write(&mut writer).unwrap();
            let written = writer.written();
            prop_assert_eq!(Block::parse(written), Ok(block));
            prop_assert!(Block::parse(&written[..written.len() - 1]).is_err() || written.len() == 7 && piece.is_empty());
        }
    }
}
