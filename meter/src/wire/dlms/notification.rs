//! data-notification (a push) and its confirmation.
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | tag 0F |
//! | 4 | long invoke id and priority: bits 0-23 id, 28 self-descriptive, 29 break on error, 30 confirmed, 31 priority |
//! | 1 or 13 | length 0, or 12 and a date-time |
//! | rest | the body, one A-XDR value |
//!
//! The confirmation is tag 10, the same long invoke id, and a date-time as above.

use super::super::{Fault, Reader, WireError, Writer};
use super::{DateTime, tag};

/// The long invoke id and priority of a notification.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct InvokeId(pub u32);

impl InvokeId {
    const CONFIRMED: u32 = 1 << 30;
    const ID: u32 = 0x00FF_FFFF;

    /// An id that asks for no confirmation; only its low 24 bits count.
    #[must_use]
    pub const fn unconfirmed(id: u32) -> Self {
        Self(id & Self::ID)
    }

    /// An id that asks for a confirmation; only its low 24 bits count.
    #[must_use]
    pub const fn confirmed(id: u32) -> Self {
        Self(id & Self::ID | Self::CONFIRMED)
    }

    /// The id without its flags.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.0 & Self::ID
    }

    /// Whether the sender waits for a confirmation.
    #[must_use]
    pub const fn wants_confirmation(self) -> bool {
        self.0 & Self::CONFIRMED != 0
    }
}

/// A push, its body not walked yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Notification<'a> {
    /// Its number and flags.
    pub invoke_id: InvokeId,
    /// When it was made, when it says so.
    pub date_time: Option<DateTime>,
    /// One A-XDR value: see [`super::Walker`].
    pub body: &'a [u8],
}

impl<'a> Notification<'a> {
    /// Parses an APDU of tag 0F. Lenient: a date-time coded as a tagged octet string (`09 0C`,
    /// Kaifa in Norway) is read like the bare length that belongs there.
    ///
    /// # Errors
    /// [`Fault::Apdu`] for another tag, [`Fault::Length`] for a date-time of another length,
    /// [`Fault::Truncated`].
    pub fn parse(apdu: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(apdu);
        expect_tag(&mut reader, tag::DATA_NOTIFICATION)?;
        let invoke_id = InvokeId(reader.u32()?);
        let date_time = date_time(&mut reader)?;
        Ok(Self { invoke_id, date_time, body: reader.left() })
    }

    /// Writes everything before the body; the caller appends one A-XDR value.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn write_head(
        writer: &mut Writer<'_>,
        invoke_id: InvokeId,
        date_time: Option<DateTime>,
    ) -> Result<(), WireError> {
        write(writer, tag::DATA_NOTIFICATION, invoke_id, date_time)
    }

    /// Writes the confirmation of a notification.
    ///
    /// # Errors
    /// [`Fault::Full`].
    pub fn write_confirmation(
        writer: &mut Writer<'_>,
        invoke_id: InvokeId,
        date_time: Option<DateTime>,
    ) -> Result<(), WireError> {
        write(writer, tag::DATA_NOTIFICATION_CONFIRM, invoke_id, date_time)
    }

    /// Parses a confirmation (tag 10): what it confirms and when.
    ///
    /// # Errors
    /// Those of [`Self::parse`], and [`Fault::Trailing`].
    pub fn parse_confirmation(apdu: &[u8]) -> Result<(InvokeId, Option<DateTime>), WireError> {
        let mut reader = Reader::new(apdu);
        expect_tag(&mut reader, tag::DATA_NOTIFICATION_CONFIRM)?;
        let invoke_id = InvokeId(reader.u32()?);
        let date_time = date_time(&mut reader)?;
        reader.finish()?;
        Ok((invoke_id, date_time))
    }
}

fn expect_tag(reader: &mut Reader<'_>, wanted: u8) -> Result<(), WireError> {
    let start = *reader;
    match reader.u8()? {
        tag if tag == wanted => Ok(()),
        other => Err(start.fault(Fault::Apdu(other))),
    }
}

fn date_time(reader: &mut Reader<'_>) -> Result<Option<DateTime>, WireError> {
    if let [0x09, 0x0C, ..] = reader.left() {
        reader.u8()?;
    }
    let start = *reader;
    match reader.length()? {
        0 => Ok(None),
        12 => reader.array().map(DateTime).map(Some),
        other => Err(start.fault(Fault::Length(other))),
    }
}

fn write(
    writer: &mut Writer<'_>,
    tag: u8,
    invoke_id: InvokeId,
    date_time: Option<DateTime>,
) -> Result<(), WireError> {
    writer.u8(tag)?;
    writer.u32(invoke_id.0)?;
    match date_time {
        None => writer.length(0),
        Some(DateTime(bytes)) => writer.sized(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: [u8; 12] = [7, 0xE9, 12, 3, 3, 12, 0, 0, 0, 0, 0, 0];

    fn check(apdu: &[u8], want: Result<Notification<'_>, WireError>) {
        assert_eq!(Notification::parse(apdu), want, "apdu={apdu:02x?}");
    }

    #[test]
    fn parse_cases() {
        let push = |invoke_id, date_time: Option<[u8; 12]>| {
            let (invoke_id, date_time) = (InvokeId(invoke_id), date_time.map(DateTime));
            Ok(Notification { invoke_id, date_time, body: &[0x11, 5] })
        };
        check(&[0x0F, 0x40, 0, 0, 7, 0, 0x11, 5], push(0x4000_0007, None));
        let timed = [&[0x0F, 0, 0, 0, 7, 12][..], &NOON, &[0x11, 5]].concat();
        check(&timed, push(7, Some(NOON)));
        let kaifa = [&[0x0F, 0, 0, 0, 7, 9, 12][..], &NOON, &[0x11, 5]].concat();
        check(&kaifa, push(7, Some(NOON)));
        let fault = |fault, offset| Err(WireError::new(fault, offset));
        check(&[0x10, 0, 0, 0, 7, 0], fault(Fault::Apdu(0x10), 0));
        check(&[0x0F, 0, 0], fault(Fault::Truncated { missing: 2 }, 1));
        check(&[0x0F, 0, 0, 0, 7, 5, 1, 2, 3, 4, 5], fault(Fault::Length(5), 5));
        check(&[0x0F, 0, 0, 0, 7, 12, 1], fault(Fault::Truncated { missing: 11 }, 6));
    }

    proptest! {
        #[test]
        fn round_trip(id: u32, date: Option<[u8; 12]>) {
            let date = date.map(DateTime);
            let mut buf = [0; 32];
            let mut writer = Writer::new(&mut buf);
            Notification::write_head(&mut writer, InvokeId(id), date).unwrap();
            let back = Notification::parse(writer.written()).unwrap();
            prop_assert_eq!((back.invoke_id.0, back.date_time, back.body), (id, date, &[][..]));
            let mut writer = Writer::new(&mut buf);
            Notification::write_confirmation(&mut writer, InvokeId(id), date).unwrap();
            let back = Notification::parse_confirmation(writer.written());
            prop_assert_eq!(back, Ok((InvokeId(id), date)));
        }
    }

    #[test]
    fn flags() {
        assert!(InvokeId::confirmed(0xFFFF_FFFF).wants_confirmation());
        assert!(!InvokeId::unconfirmed(0xFFFF_FFFF).wants_confirmation());
        assert_eq!(InvokeId::confirmed(0x0100_0007).id(), 7);
    }
}
