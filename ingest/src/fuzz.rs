//! Hostile bytes against the whole way of a frame, for `fuzz/` and for the tests.

use std::sync::LazyLock;

use meter::wire::dlms::{Keys, Sealing, SecurityControl, Templates, Wrapper};
use meter::{GatewayId, MeterId, SystemTitle, UnixSeconds};

use crate::directory::{Device, Directory, Registration};
use crate::frame::{Admitted, admit, claim};

const METER: SystemTitle = SystemTitle(*b"MTD\0\0\0\0\x01");
const GATEWAY: SystemTitle = SystemTitle(*b"MTD\0\0\0\0\x02");
const KEY: [u8; 16] = [7; 16];

/// Treats `input` as a datagram; with an odd first byte the rest is content that the test meter (or
/// by bit 1 the test gateway) sealed, so that what lies behind the tag is reached too.
///
/// # Panics
/// When a refused frame left entries behind, or an accepted one left none.
pub fn fuzz_datagram(input: &[u8]) {
    static TEMPLATES: LazyLock<Templates> = LazyLock::new(Templates::built_in);
    let templates = &*TEMPLATES;
    let template = |name| templates.find(name).map_or(0, |id| id.0);
    let registration = |title, device, name, behind| Registration {
        title,
        encryption_key: KEY,
        authentication_key: KEY,
        device,
        template: template(name),
        behind,
    };
    let meter = Device::Meter(MeterId(1));
    let gateway = Device::Gateway(GatewayId(1));
    let devices = [
        registration(METER, meter, Templates::SINGLE, GatewayId(1)),
        registration(GATEWAY, gateway, Templates::BATCH, GatewayId::NONE),
    ];
    let directory = Directory::build(2, devices).expect("two devices fit");
    let mut buf = [0; 65_535];
    let frame = match input {
        [mode, content @ ..] if mode & 1 == 1 => {
            let title = if mode & 2 == 0 { METER } else { GATEWAY };
            seal(title, content, &mut buf)
        }
        _ => buf.get_mut(..input.len()).map(|copy| copied(input, copy)),
    };
    let Some(frame) = frame else { return };
    let mut entries = Vec::new();
    let Ok(claim) = claim(frame, &directory) else { return };
    let now = UnixSeconds(1_800_000_000);
    let admitted = admit(&claim, frame, &directory, templates, now, &mut entries);
    let is_told = matches!(admitted, Ok(Admitted::Told(_)));
    assert_eq!(is_told, !entries.is_empty(), "{admitted:?}");
}

fn copied<'b>(input: &[u8], copy: &'b mut [u8]) -> &'b mut [u8] {
    copy.copy_from_slice(input);
    copy
}

fn seal<'b>(title: SystemTitle, content: &[u8], buf: &'b mut [u8]) -> Option<&'b mut [u8]> {
    let sealing = Sealing {
        control: SecurityControl::BOTH,
        title: title.0,
        invocation_counter: 1,
        keys: Keys { encryption: &KEY, authentication: &KEY },
    };
    Wrapper::frame(1, 1, buf, |writer| sealing.general_glo(content, writer)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes(bytes: Vec<u8>) {
            fuzz_datagram(&bytes);
        }

        #[test]
        fn any_notification(mode in 0_u8..4, body in prop::collection::vec(0_u8..32, 0..200)) {
            fuzz_datagram(&[&[mode, 0x0F, 0x40, 0, 0, 1, 0][..], &body].concat());
        }
    }
}
