//! Acknowledgements: the confirmation of a notification, sealed for the device that sent it.
//!
//! Sender is the head-end; the invocation counter is that of the notification. Each counter of a
//! device is accepted once, so no pair of nonce and key is used twice.

use meter::SystemTitle;
use meter::wire::dlms::{Notification, Sealing, SecurityControl, Wrapper};
use meter::wire::{WireError, Writer};

use crate::directory::Record;
use crate::frame::Receipt;

/// Room for an acknowledgement: wrapper 8, ciphering 28, confirmation 6.
pub(crate) const ACK_SIZE: usize = 42;

/// The acknowledgement as it goes over the wire.
pub(crate) fn seal<'b>(
    receipt: &Receipt,
    record: &Record,
    head_end: SystemTitle,
    buf: &'b mut [u8; ACK_SIZE],
) -> &'b [u8] {
    let sealing = Sealing {
        control: SecurityControl::BOTH,
        title: head_end.0,
        invocation_counter: receipt.counter,
        keys: record.keys(),
    };
    write(receipt, &sealing, buf).expect("a confirmation fits its buffer")
}

fn write<'b>(
    receipt: &Receipt,
    sealing: &Sealing<'_>,
    buf: &'b mut [u8],
) -> Result<&'b [u8], WireError> {
    let mut plain = [0; 8];
    let mut writer = Writer::new(&mut plain);
    Notification::write_confirmation(&mut writer, receipt.invoke_id, None)?;
    let plain = writer.written();
    let (from, to) = (receipt.wrapper.destination, receipt.wrapper.source);
    Wrapper::frame(from, to, buf, |writer| sealing.general_glo(plain, writer)).map(|frame| &*frame)
}
