//! Finds the APDUs in captured bytes, whatever carries them.

use super::super::{Fault, WireError};
use super::tree::Tree;
use super::{Assembly, Ciphered, Hdlc, Mbus, Wrapper, strip_llc, tag};

const APDU_SIZE_MAX: usize = 65_536;

/// What was found.
#[derive(Debug)]
pub(super) struct Unwrapped {
    pub(super) framing: &'static str,
    /// One APDU, or the blocks of one.
    pub(super) apdus: Vec<Vec<u8>>,
    /// Where the first APDU begins in the bytes.
    pub(super) base: usize,
    /// Whether the APDU's end is missing.
    pub(super) is_cut: bool,
    /// A frame that carries no APDU but belongs to the link.
    pub(super) link: Option<Tree>,
    /// The first check sum that is wrong.
    pub(super) damage: Option<WireError>,
    pub(super) remarks: Vec<String>,
}

impl Unwrapped {
    const fn new(framing: &'static str, base: usize) -> Self {
        Self {
            framing,
            apdus: Vec::new(),
            base,
            is_cut: false,
            link: None,
            damage: None,
            remarks: Vec::new(),
        }
    }

    fn remark_left(&mut self, left: usize) {
        if left > 0 {
            self.remarks.push(format!("{left} bytes follow the frame"));
        }
    }
}

pub(super) fn unwrap(bytes: &[u8]) -> Result<Unwrapped, WireError> {
    match bytes {
        [0x7E, ..] => hdlc(bytes),
        [0x68, ..] => mbus(bytes),
        [0x00, ..] => {
            let (_, apdu) = Wrapper::datagram(bytes)?;
            let mut found = Unwrapped::new("wrapper", Wrapper::SIZE);
            found.apdus.push(apdu.to_vec());
            Ok(found)
        }
        _ => {
            let apdu = strip_llc(bytes);
            let base = bytes.len().saturating_sub(apdu.len());
            let mut found = Unwrapped::new(if base == 0 { "apdu" } else { "llc" }, base);
            if base == 0 && !is_apdu(bytes) {
                let start = bytes.first().copied();
                return Err(WireError::new(start.map_or(Fault::Missing("bytes"), Fault::Start), 0));
            }
            found.apdus.push(apdu.to_vec());
            Ok(found)
        }
    }
}

/// Whether the first byte is the tag of an APDU that is read here.
fn is_apdu(bytes: &[u8]) -> bool {
    use super::{Association, Service};
    bytes.first().is_some_and(|tag| {
        matches!(
            *tag,
            tag::DATA_NOTIFICATION | tag::DATA_NOTIFICATION_CONFIRM | tag::GENERAL_BLOCK_TRANSFER
        ) || Ciphered::is(*tag)
            || Association::is(*tag)
            || Service::is(*tag)
    })
}

/// Frames one after the other: segments of an APDU, or blocks of one.
fn hdlc(bytes: &[u8]) -> Result<Unwrapped, WireError> {
    let mut found = Unwrapped::new("hdlc", 0);
    let mut assembly = Assembly::new(APDU_SIZE_MAX);
    let mut at = 0_usize;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let wants_more = found.apdus.last().is_none_or(|apdu| is_open_block(apdu));
        if !wants_more || rest.is_empty() && at > 0 {
            found.remark_left(rest.len());
            break;
        }
        let (frame, checked) = match Hdlc::parse_unchecked(rest) {
            Ok(parsed) => parsed,
            // What follows a block need not be the next one.
            Err(_) if !found.apdus.is_empty() => {
                found.remark_left(rest.len());
                break;
            }
            Err(error) => return Err(error.shifted(at)),
        };
        if let Err(error) = checked {
            let error = error.shifted(at);
            found.remarks.push(error.to_string());
            found.damage = found.damage.or(Some(error));
        }
        if frame.information.is_empty() || is_link(frame.control) {
            found.link = Some(link(frame.control));
            return Ok(found);
        }
        if found.apdus.is_empty() && assembly.count() == 0 {
            let behind = frame.apdu().len().saturating_add(3);
            found.base = frame.size.saturating_sub(behind);
        }
        if let Some(apdu) = assembly.hdlc(&frame)? {
            found.apdus.push(apdu.to_vec());
        }
        at = at.saturating_add(frame.size);
    }
    if found.apdus.is_empty() {
        return Err(WireError::new(Fault::Missing("last segment"), bytes.len()));
    }
    Ok(found)
}

const fn is_link(control: u8) -> bool {
    matches!(control & !0x10, 0x83 | 0x63 | 0x43 | 0x0F)
}

fn link(control: u8) -> Tree {
    let (name, direction) = match control & !0x10 {
        0x83 => ("SNRM", "C->S"),
        0x63 => ("UA", "S->C"),
        0x43 => ("DISC", "C->S"),
        0x0F => ("DM", "S->C"),
        _ => ("RR", "-"),
    };
    Tree::Map(vec![("dir", Tree::text(direction)), ("service", Tree::text(name))])
}

fn is_open_block(apdu: &[u8]) -> bool {
    matches!(apdu, [tag::GENERAL_BLOCK_TRANSFER, control, ..] if control & 0x80 == 0)
}

fn mbus(bytes: &[u8]) -> Result<Unwrapped, WireError> {
    let mut found = Unwrapped::new("mbus", 9);
    let mut assembly = Assembly::new(APDU_SIZE_MAX);
    let mut pieces = Vec::new();
    let mut at = 0_usize;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        if rest.is_empty() && at > 0 {
            break;
        }
        let frame = match Mbus::parse(rest) {
            Ok(frame) => frame,
            Err(error) if pieces.is_empty() => {
                pieces.extend_from_slice(salvage(bytes).ok_or(error)?);
                found.remarks.push(error.to_string());
                break;
            }
            Err(error) => {
                found.remarks.push(error.shifted(at).to_string());
                break;
            }
        };
        at = at.saturating_add(frame.size);
        if let Some(apdu) = assembly.mbus(&frame)? {
            found.apdus.push(apdu.to_vec());
            found.remark_left(bytes.len().saturating_sub(at));
            return Ok(found);
        }
        pieces.extend_from_slice(frame.piece);
    }
    found.is_cut = true;
    found.apdus.push(pieces);
    Ok(found)
}

/// The first piece of a ciphered APDU in a frame whose length or check sum is wrong.
fn salvage(bytes: &[u8]) -> Option<&[u8]> {
    let [0x68, _, _, 0x68, _, _, _, _, _, piece @ .., _, _] = bytes else { return None };
    piece.first().is_some_and(|tag| Ciphered::is(*tag)).then_some(piece)
}
