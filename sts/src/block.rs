//! The 64-bit data block: subclass, content, CRC; and how the class joins it to make 66 bits.
//!
//! ```text
//! data block   subclass(4) | content(44) | CRC(16)          most significant bit first
//! token        the block with the class in bits 28..=27; what stood there becomes bits 65..=64
//! ```
//! The CRC covers class, subclass and content, right-aligned in 7 bytes: CRC-16/MODBUS, its bytes
//! swapped. Currency tokens append a byte 01 to what it covers ("CRC_C").

use crate::number::TokenNumber;

/// What a token holds before its meaning is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Frame {
    /// 2 bits.
    pub(crate) class: u8,
    /// 4 bits.
    pub(crate) subclass: u8,
    /// 44 bits.
    pub(crate) content: u64,
}

impl Frame {
    /// The data block with its CRC.
    pub(crate) fn block(self) -> u64 {
        let head = u64::from(self.subclass & 0x0F) << 44 | (self.content & CONTENT_MASK);
        head << 16 | u64::from(self.crc())
    }

    /// Takes a data block apart; `None` when its CRC does not fit.
    pub(crate) fn open(class: u8, block: u64) -> Option<Self> {
        let frame =
            Self { class, subclass: low_u8(block >> 60), content: block >> 16 & CONTENT_MASK };
        (frame.block() == block).then_some(frame)
    }

    /// The checksum: CRC_C for currency tokens (class 0, subclasses 4 to 7), CRC for the rest.
    pub(crate) fn crc(self) -> u16 {
        let full = u64::from(self.class & 0b11) << 48
            | u64::from(self.subclass & 0x0F) << 44
            | (self.content & CONTENT_MASK);
        let [_, covered @ ..] = full.to_be_bytes();
        let crc = crc16_modbus(0xFFFF, &covered);
        let is_currency = self.class == 0 && matches!(self.subclass, 4..=7);
        let crc = if is_currency { crc16_modbus(crc, &[0x01]) } else { crc };
        crc.swap_bytes()
    }
}

/// Puts the class into a (mostly encrypted) block.
pub(crate) fn insert_class(class: u8, block: u64) -> TokenNumber {
    let displaced = low_u8(block >> CLASS_SHIFT & 0b11);
    let class = u64::from(class & 0b11) << CLASS_SHIFT;
    TokenNumber::from_parts(displaced, block & !CLASS_MASK | class)
}

/// The class of a token and its block: the inverse of [`insert_class`].
pub(crate) fn remove_class(token: TokenNumber) -> (u8, u64) {
    let class = low_u8(token.low() >> CLASS_SHIFT & 0b11);
    let displaced = u64::from(token.top()) << CLASS_SHIFT;
    (class, token.low() & !CLASS_MASK | displaced)
}

pub(crate) const CONTENT_MASK: u64 = (1 << 44) - 1;

/// The low 8 bits.
pub(crate) fn low_u8(bits: u64) -> u8 {
    let [.., low] = bits.to_be_bytes();
    low
}

/// The low 16 bits.
pub(crate) fn low_u16(bits: u64) -> u16 {
    let [.., high, low] = bits.to_be_bytes();
    u16::from_be_bytes([high, low])
}

/// The low 32 bits.
pub(crate) fn low_u32(bits: u64) -> u32 {
    let [_, _, _, _, low @ ..] = bits.to_be_bytes();
    u32::from_be_bytes(low)
}

fn crc16_modbus(start: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(start, |crc, byte| {
        let [high, low] = crc.to_be_bytes();
        let step = CRC_TABLE.get(usize::from(low ^ byte)).expect("256 entries, one a byte");
        step ^ u16::from(high)
    })
}

/// x¹⁶+x¹⁵+x²+1, bit-reflected, one entry for each value of a byte.
static CRC_TABLE: [u16; 256] = crc_table();

#[cfg_attr(
    not(test),
    expect(
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "computed at compile time, where a fault stops the build"
    )
)]
const fn crc_table() -> [u16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < table.len() {
        let mut crc = byte as u16;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xA001 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

const CLASS_SHIFT: u32 = 27;
const CLASS_MASK: u64 = 0b11 << CLASS_SHIFT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_the_standard() {
        let crc = |class, subclass, content| Frame { class, subclass, content }.crc();
        assert_eq!(crc(0, 0, 0x4A_2D90_0FF2), 0x0FFA);
        assert_eq!(crc(0, 0, 0xB19_EB23_0100), 0xC207);
        // CTSA01: the block of the worked chain.
        let frame = Frame { class: 0, subclass: 0, content: 0x559_9863_0001 };
        assert_eq!(frame.block(), 0x0559_9863_0001_19E6);
    }

    #[test]
    fn worked_chain_of_ctsa01() {
        let token = insert_class(0, 0x4920_83C0_AE7C_E455);
        assert_eq!(token.bits(), 0x1_4920_83C0_A67C_E455);
        assert_eq!(format!("{token:#}"), "23716100501183194197");
    }

    /// Of all 65,536 checksums beside one content, exactly one opens, for both kinds of CRC.
    #[test]
    fn one_checksum_in_65536_opens() {
        for (class, subclass) in [(0, 0), (0, 4), (2, 3)] {
            let frame = Frame { class, subclass, content: 0x123_4567_89AB };
            let opened: Vec<u64> = (0..=u64::from(u16::MAX))
                .map(|crc| frame.block() & !0xFFFF | crc)
                .filter(|block| Frame::open(class, *block).is_some())
                .collect();
            assert_eq!(opened, [frame.block()]);
        }
    }

    proptest::proptest! {
        #[test]
        fn class_bits_are_their_own_inverse(class in 0_u8..4, block: u64) {
            proptest::prop_assert_eq!(remove_class(insert_class(class, block)), (class, block));
        }

        #[test]
        fn blocks_open(class in 0_u8..3, subclass in 0_u8..16, content in 0_u64..1 << 44) {
            let frame = Frame { class, subclass, content };
            proptest::prop_assert_eq!(Frame::open(class, frame.block()), Some(frame));
        }
    }
}
