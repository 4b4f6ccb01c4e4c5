//! Why bytes are not a frame.

use thiserror::Error;

/// Why bytes are not a frame (or a value does not fit one), and where.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[error("{fault} at byte {offset}")]
pub struct WireError {
    /// What is wrong.
    pub fault: Fault,
    /// Where: a byte offset into the slice that was handed in.
    pub offset: usize,
}

impl WireError {
    /// `fault` at `offset`.
    #[must_use]
    pub const fn new(fault: Fault, offset: usize) -> Self {
        Self { fault, offset }
    }

    /// The same error seen from a slice that begins `base` bytes earlier.
    #[must_use]
    pub const fn shifted(self, base: usize) -> Self {
        Self { fault: self.fault, offset: self.offset.saturating_add(base) }
    }
}

/// What is wrong with bytes; with its place a [`WireError`].
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The bytes end early.
    #[error("{missing} more bytes needed")]
    Truncated {
        /// How many bytes are missing at least.
        missing: usize,
    },
    /// Bytes follow where the frame ends.
    #[error("{count} bytes too many")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// The first byte starts no known frame.
    #[error("start byte {0:#04x} of no known frame")]
    Start(u8),
    /// A frame does not end with its flag.
    #[error("end byte {0:#04x}, not a flag")]
    End(u8),
    /// The wrapper's version is not 1.
    #[error("wrapper version {0}, expected 1")]
    Version(u16),
    /// A frame, or what was put together from frames, is longer than allowed.
    #[error("length {length} over the limit of {max}")]
    TooLong {
        /// The length claimed or reached.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// Two copies of a length differ, or a length cannot hold what it must.
    #[error("length {0} contradicts the frame")]
    Length(usize),
    /// A length's coding is not one to four bytes.
    #[error("length coding {0:#04x}")]
    LengthCoding(u8),
    /// A check sum does not fit.
    #[error("checksum {got:#06x}, expected {want:#06x}")]
    Checksum {
        /// The sum in the frame.
        got: u16,
        /// The sum of the frame's bytes.
        want: u16,
    },
    /// An address that does not end where it must.
    #[error("address without end")]
    Address,
    /// A control byte that is not understood here.
    #[error("control byte {0:#04x}")]
    Control(u8),
    /// No APDU begins with this tag.
    #[error("tag {0:#04x} of no known apdu")]
    Apdu(u8),
    /// No data type has this tag.
    #[error("tag {0:#04x} of no known data type")]
    DataType(u8),
    /// A choice inside an APDU that does not exist.
    #[error("unknown {what} {got:#04x}")]
    Choice {
        /// What was chosen.
        what: &'static str,
        /// The byte found.
        got: u8,
    },
    /// Data are nested too deep.
    #[error("data nested deeper than {0}")]
    Depth(usize),
    /// There are more data elements than allowed.
    #[error("more than {0} data elements")]
    Elements(u32),
    /// A piece of a long message is not the next one.
    #[error("block {got}, expected {want}")]
    Block {
        /// The block's number.
        got: u32,
        /// The number that comes next.
        want: u32,
    },
    /// The system title is not 8 bytes long.
    #[error("system title of {0} bytes, expected 8")]
    SystemTitle(usize),
    /// A security control byte that suite 0 does not know.
    #[error("security control {0:#04x} is not of suite 0")]
    SecurityControl(u8),
    /// The authentication tag does not fit the key, counter and content.
    #[error("authentication tag does not fit")]
    Authentication,
    /// A value that cannot be: a month 13, an OBIS code of 5 bytes.
    #[error("not a {0}")]
    Invalid(&'static str),
    /// A value that must be there is absent.
    #[error("no {0}")]
    Missing(&'static str),
    /// The output buffer is too small.
    #[error("output buffer too small")]
    Full,
}
