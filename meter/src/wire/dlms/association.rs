//! Opening and closing an association: AARQ, AARE, RLRQ, RLRE, and what they agree on.
//!
//! BER: a tag, a length, content; the fields below in any order, unknown ones passed over.
//!
//! | tag | AARQ (60) | AARE (61) | RLRQ (62), RLRE (63) |
//! | --- | --- | --- | --- |
//! | A1 | application context | the same | |
//! | A2, A3 | | result, diagnostic | |
//! | A4 | | system title | |
//! | A6 | system title | | |
//! | 8A, 88 | "authentication is used" | the same (88) | |
//! | 8B, 89 | mechanism | the same (89) | |
//! | AC, AA | password or challenge | challenge (AA) | |
//! | 80 | | | reason |
//! | BE | user information: initiate request or response, ciphered or not | the same | the same |

use super::super::{Fault, Reader, WireError, Writer};

/// The object id 2.16.756.5.8.x.y without its last two numbers.
const OBJECT_ID: [u8; 5] = [0x60, 0x85, 0x74, 0x05, 0x08];

/// Which of the four APDUs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum AssociationKind {
    /// Association request.
    Aarq,
    /// Association response.
    Aare,
    /// Release request.
    Rlrq,
    /// Release response.
    Rlre,
}

impl AssociationKind {
    const fn tag(self) -> u8 {
        match self {
            Self::Aarq => 0x60,
            Self::Aare => 0x61,
            Self::Rlrq => 0x62,
            Self::Rlre => 0x63,
        }
    }
}

/// An APDU of the association control service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Association<'a> {
    /// Which one.
    pub kind: AssociationKind,
    /// Application context: 1 logical names, 3 logical names with ciphering.
    pub context: Option<u8>,
    /// 1 password, 5 challenge with GMAC.
    pub mechanism: Option<u8>,
    /// The sender's system title.
    pub title: Option<[u8; 8]>,
    /// The password, or the challenge to the other side.
    pub authentication: Option<&'a [u8]>,
    /// 0 accepted, 1 rejected for good, 2 rejected for now.
    pub result: Option<u8>,
    /// Why, in an AARE.
    pub diagnostic: Option<u8>,
    /// Why, in a release.
    pub reason: Option<u8>,
    /// An [`Initiate`], or that ciphered.
    pub user_information: Option<&'a [u8]>,
}

impl<'a> Association<'a> {
    /// Whether an APDU with this tag is one of the four.
    #[must_use]
    pub const fn is(tag: u8) -> bool {
        matches!(tag, 0x60..=0x63)
    }

    /// One without any field.
    #[must_use]
    pub const fn new(kind: AssociationKind) -> Self {
        Self {
            kind,
            context: None,
            mechanism: None,
            title: None,
            authentication: None,
            result: None,
            diagnostic: None,
            reason: None,
            user_information: None,
        }
    }

    /// Parses an APDU of tag 60 to 63.
    ///
    /// # Errors
    /// [`Fault::Apdu`], [`Fault::SystemTitle`], [`Fault::Invalid`] for a malformed field,
    /// [`Fault::Truncated`], [`Fault::Trailing`].
    pub fn parse(apdu: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(apdu);
        let kind = match reader.u8()? {
            0x60 => AssociationKind::Aarq,
            0x61 => AssociationKind::Aare,
            0x62 => AssociationKind::Rlrq,
            0x63 => AssociationKind::Rlre,
            other => return Err(WireError::new(Fault::Apdu(other), 0)),
        };
        let length = reader.length()?;
        let present = reader.left().len();
        if length > present {
            return Err(reader.fault(Fault::Truncated { missing: length.saturating_sub(present) }));
        }
        let mut association = Self::new(kind);
        let end = reader.at().saturating_add(length);
        while reader.at() < end {
            let start = reader;
            let tag = reader.u8()?;
            let content = reader.sized()?;
            association.field(tag, content).map_err(|fault| start.fault(fault))?;
        }
        reader.finish()?;
        Ok(association)
    }

    fn field(&mut self, tag: u8, content: &'a [u8]) -> Result<(), Fault> {
        let is_release = matches!(self.kind, AssociationKind::Rlrq | AssociationKind::Rlre);
        match (tag, content) {
            (0x80, [reason]) if is_release => self.reason = Some(*reason),
            (0xA1, [6, 7, id @ .., 1, context]) if *id == OBJECT_ID => {
                self.context = Some(*context)
            }
            (0xA2, [2, 1, result]) => self.result = Some(*result),
            (0xA3, [_, 3, 2, 1, diagnostic]) => self.diagnostic = Some(*diagnostic),
            (0xA4 | 0xA6, [4, length, title @ ..]) => {
                let title = title.try_into().map_err(|_| Fault::SystemTitle((*length).into()))?;
                self.title = Some(title);
            }
            (0x89 | 0x8B, [id @ .., 2, mechanism]) if *id == OBJECT_ID => {
                self.mechanism = Some(*mechanism);
            }
            (0xAA | 0xAC, [0x80, rest @ ..]) => self.authentication = Some(sized(rest)?),
            (0xBE, [4, rest @ ..]) => self.user_information = Some(sized(rest)?),
            (0xA1 | 0xA2 | 0xA3 | 0xA4 | 0xA6 | 0x89 | 0x8B | 0xAA | 0xAC | 0xBE, _) => {
                return Err(Fault::Invalid("association field"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the APDU, its fields in the order of the standard.
    ///
    /// # Errors
    /// [`Fault::Full`], [`Fault::TooLong`] over 127 bytes of fields.
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let mut buf = [0; 127];
        let mut fields = Writer::new(&mut buf);
        self.write_fields(&mut fields).map_err(|error| {
            WireError::new(Fault::TooLong { length: error.offset, max: 127 }, writer.size())
        })?;
        writer.u8(self.kind.tag())?;
        writer.sized(fields.written())
    }

    fn write_fields(&self, fields: &mut Writer<'_>) -> Result<(), WireError> {
        let is_request = self.kind == AssociationKind::Aarq;
        if let Some(reason) = self.reason {
            fields.put(&[0x80, 1, reason])?;
        }
        if let Some(context) = self.context {
            fields.put(&[0xA1, 9, 6, 7])?;
            fields.put(&OBJECT_ID)?;
            fields.put(&[1, context])?;
        }
        if let Some(result) = self.result {
            fields.put(&[0xA2, 3, 2, 1, result])?;
        }
        if let Some(diagnostic) = self.diagnostic {
            fields.put(&[0xA3, 5, 0xA1, 3, 2, 1, diagnostic])?;
        }
        if let Some(title) = self.title {
            fields.put(&[if is_request { 0xA6 } else { 0xA4 }, 10, 4, 8])?;
            fields.put(&title)?;
        }
        if let Some(mechanism) = self.mechanism {
            fields.put(&[if is_request { 0x8A } else { 0x88 }, 2, 7, 0x80])?;
            fields.put(&[if is_request { 0x8B } else { 0x89 }, 7])?;
            fields.put(&OBJECT_ID)?;
            fields.put(&[2, mechanism])?;
        }
        if let Some(bytes) = self.authentication {
            nested(fields, [if is_request { 0xAC } else { 0xAA }, 0x80], bytes)?;
        }
        if let Some(bytes) = self.user_information {
            nested(fields, [0xBE, 4], bytes)?;
        }
        Ok(())
    }
}

/// The terms of an association: initiate request (tag 01) and response (tag 08).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Initiate {
    /// Whether it is the response.
    pub is_response: bool,
    /// The services proposed or granted: 24 bits, the highest is bit 0 of the standard.
    pub conformance: u32,
    /// The longest APDU the sender takes; 0 no limit.
    pub pdu_size_max: u16,
}

impl Initiate {
    /// General protection (bit 1), priority (9), GET in blocks (11), data notification (16), GET,
    /// SET, selective access, event notification and ACTION (19 to 23).
    pub const CONFORMANCE: u32 = 0x0040_509F;

    /// Parses user information in the clear.
    ///
    /// # Errors
    /// [`Fault::Apdu`], [`Fault::Invalid`], [`Fault::Truncated`], [`Fault::Trailing`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let is_response = match reader.u8()? {
            0x01 => false,
            0x08 => true,
            other => return Err(WireError::new(Fault::Apdu(other), 0)),
        };
        if !is_response {
            // A dedicated key, and whether a response is allowed.
            if reader.u8()? != 0 {
                reader.sized()?;
            }
            if reader.u8()? != 0 {
                reader.u8()?;
            }
        }
        // The quality of service.
        if reader.u8()? != 0 {
            reader.u8()?;
        }
        let start = reader;
        let [6, 0x5F, 0x1F, 4, 0, high, middle, low] = reader.array()? else {
            return Err(start.fault(Fault::Invalid("conformance block of version 6")));
        };
        let conformance = u32::from_be_bytes([0, high, middle, low]);
        let pdu_size_max = reader.u16()?;
        if is_response {
            reader.u16()?;
        }
        reader.finish()?;
        Ok(Self { is_response, conformance, pdu_size_max })
    }

    /// Writes it, in the clear.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        writer.put(if self.is_response { &[8, 0] } else { &[1, 0, 0, 0] })?;
        let [_, high, middle, low] = self.conformance.to_be_bytes();
        writer.put(&[6, 0x5F, 0x1F, 4, 0, high, middle, low])?;
        writer.u16(self.pdu_size_max)?;
        // The name of the variable access "logical names".
        if self.is_response { writer.u16(7) } else { Ok(()) }
    }
}

fn sized(bytes: &[u8]) -> Result<&[u8], Fault> {
    let mut reader = Reader::new(bytes);
    let content = reader.sized().map_err(|error| error.fault)?;
    reader.finish().map_err(|error| error.fault)?;
    Ok(content)
}

fn nested(writer: &mut Writer<'_>, tags: [u8; 2], bytes: &[u8]) -> Result<(), WireError> {
    let [outer, inner] = tags;
    writer.u8(outer)?;
    writer.length(bytes.len().saturating_add(2))?;
    writer.u8(inner)?;
    writer.sized(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// gurux-dlms 1.0.203, no security.
    const AARQ: [u8; 31] = [
        0x60, 0x1D, 0xA1, 0x09, 0x06, 0x07, 0x60, 0x85, 0x74, 0x05, 0x08, 0x01, 0x01, 0xBE, 0x10,
        0x04, 0x0E, 0x01, 0, 0, 0, 0x06, 0x5F, 0x1F, 0x04, 0, 0x40, 0x1E, 0x5D, 0xFF, 0xFF,
    ];
    /// dlms-cosem-rs 0.1.0, its answer.
    const AARE: [u8; 55] = [
        0x61, 0x35, 0xA1, 0x09, 0x06, 0x07, 0x60, 0x85, 0x74, 0x05, 0x08, 0x01, 0x01, 0xA2, 0x03,
        0x02, 0x01, 0x00, 0xA3, 0x05, 0xA1, 0x03, 0x02, 0x01, 0x00, 0xA4, 0x0A, 0x04, 0x08, 0x4D,
        0x4D, 0x4D, 0x00, 0x00, 0xBC, 0x61, 0x4E, 0xBE, 0x10, 0x04, 0x0E, 0x08, 0x00, 0x06, 0x5F,
        0x1F, 0x04, 0x00, 0x40, 0x1E, 0x5D, 0x02, 0x00, 0x00, 0x07,
    ];

    fn written(association: &Association<'_>) -> Vec<u8> {
        let mut buf = [0; 160];
        let mut writer = Writer::new(&mut buf);
        association.write(&mut writer).unwrap();
        writer.written().to_vec()
    }

    #[test]
    fn frames_of_independent_peers() {
        for bytes in [&AARQ[..], &AARE] {
            let association = Association::parse(bytes).unwrap();
            assert_eq!(association.context, Some(1));
            assert_eq!(written(&association), bytes);
            let initiate = Initiate::parse(association.user_information.unwrap()).unwrap();
            assert_eq!(initiate.conformance, 0x0040_1E5D);
            let mut buf = [0; 14];
            initiate.write(&mut Writer::new(&mut buf)).unwrap();
            assert_eq!(Some(&buf[..]), association.user_information);
        }
        let answer = Association::parse(&AARE).unwrap();
        assert_eq!((answer.result, answer.diagnostic), (Some(0), Some(0)));
        assert_eq!(answer.title, Some([0x4D, 0x4D, 0x4D, 0, 0, 0xBC, 0x61, 0x4E]));
    }

    fn check(bytes: &[u8], fault: Fault, offset: usize) {
        let want = Err(WireError::new(fault, offset));
        assert_eq!(Association::parse(bytes), want, "bytes={bytes:02x?}");
    }

    #[test]
    fn broken_frames() {
        check(&AARQ[..30], Fault::Truncated { missing: 1 }, 2);
        check(&[&AARQ[..], &[0]].concat(), Fault::Trailing { count: 1 }, 31);
        check(&[0xC0], Fault::Apdu(0xC0), 0);
        check(&[0x60, 2, 0xA1, 5], Fault::Truncated { missing: 5 }, 4);
        check(&[0x60, 3, 0xA1, 1, 6], Fault::Invalid("association field"), 2);
        check(&[0x60, 5, 0xA6, 3, 4, 1, 0], Fault::SystemTitle(1), 2);
    }

    proptest! {
        #[test]
        fn round_trip(
            which in 0_usize..2,
            context: Option<u8>,
            mechanism: Option<u8>,
            title: Option<[u8; 8]>,
            authentication: Option<[u8; 16]>,
            result: Option<u8>,
        ) {
            let kind = [AssociationKind::Aarq, AssociationKind::Aare][which];
            let authentication = authentication.as_ref().map(|bytes| &bytes[..]);
            let user_information = Some(&[1, 2, 3][..]);
            let association = Association {
                context, mechanism, title, authentication, result, user_information,
                ..Association::new(kind)
            };
            let bytes = written(&association);
            prop_assert_eq!(Association::parse(&bytes), Ok(association));
        }

        #[test]
        fn any_bytes_are_an_answer(tail: Vec<u8>) {
            let bytes = [&[0x60, 0x0A, 0xA1][..], &tail].concat();
            if let Ok(association) = Association::parse(&bytes) {
                prop_assert_eq!(association.kind, AssociationKind::Aarq);
            }
            prop_assert!(Initiate::parse(&bytes).is_err());
        }
    }
}
