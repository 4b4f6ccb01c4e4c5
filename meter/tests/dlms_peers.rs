//! Frames that independent implementations made, and made of ours.
//!
//! Keys and counter are the Green Book's. gurux-dlms 1.0.203 (`GXDLMSChippering.encryptAesGcm`)
//! seals to these bytes under all three protections, and opens them; dlms-cosem 25.1.0 seals to and
//! opens those of security control 30, the only one it knows. Both decode the push inside.

#![expect(clippy::unwrap_used, reason = "a test")]

use meter::Relay;
use meter::wire::Writer;
use meter::wire::dlms::{
    Ciphered, InvokeId, Keys, Measured, Notification, Sealing, SecurityControl, Templates, Wrapper,
    hls_gmac,
};

const ENCRYPTION: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const AUTHENTICATION: [u8; 16] = [
    0xD0, 0xD1, 0xD2, 0xD3, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF,
];
const KEYS: Keys<'_> = Keys { encryption: &ENCRYPTION, authentication: &AUTHENTICATION };
const TITLE: [u8; 8] = *b"MTR00001";

/// The push below, in the clear.
const SINGLE: &str = concat!(
    "0f4000000700020a090c07ea01010400000000000000150000000000bc614e0006000382e806000010e1",
    "05000003db05000000371003e612c3431601"
);
const CIPHERTEXT: &str = concat!(
    "5609a76c93faa7e018c902e2843a63d5c3ea8cbac8190d3f53d44638c8de08efef4869ae71903a9fd507750a",
    "a40b8471bd92ccb76ffe2503ece07972"
);
/// Security controls with header and tag.
const SEALED: [(SecurityControl, &str, &str, &str); 3] = [
    (
        SecurityControl::BOTH,
        "0001000100010058db084d545230303030314d3001234567",
        CIPHERTEXT,
        "9cc9ab78b4cdd94d603a615c",
    ),
    (
        SecurityControl::ENCRYPTED,
        "000100010001004cdb084d54523030303031412001234567",
        CIPHERTEXT,
        "",
    ),
    (
        SecurityControl::AUTHENTICATED,
        "0001000100010058db084d545230303030314d1001234567",
        SINGLE,
        "76ac4562b9ad101af5e07dc7",
    ),
];

fn unhex(digits: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn measured() -> Measured {
    Measured {
        taken_at: 1_767_225_600,
        register_wh: 12_345_678,
        voltage_mv: [Some(230_120), None, None],
        current_ma: [Some(4_321), None, None],
        power_w: Some(987),
        reactive_var: Some(55),
        power_factor_milli: Some(998),
        frequency_mhz: Some(49_987),
        relay: Some(Relay::Closed),
        ..Measured::default()
    }
}

#[test]
fn a_push_as_both_peers_decode_it() {
    let mut buf = [0; 64];
    let mut writer = Writer::new(&mut buf);
    measured().write_single(InvokeId::confirmed(7), &mut writer).unwrap();
    assert_eq!(writer.written(), unhex(SINGLE));
}

#[test]
fn a_datagram_as_both_peers_seal_and_open_it() {
    let templates = Templates::built_in();
    let template = templates.get(templates.find(Templates::SINGLE).unwrap()).unwrap();
    for (control, header, content, tag) in SEALED {
        let mut frame = unhex(&[header, content, tag].concat());
        let sealing =
            Sealing { control, title: TITLE, invocation_counter: 0x0123_4567, keys: KEYS };
        let mut buf = [0; 128];
        let plain = unhex(SINGLE);
        let ours = Wrapper::frame(1, 1, &mut buf, |w| sealing.general_glo(&plain, w)).unwrap();
        assert_eq!(ours, frame, "{control:?}");

        let (_, apdu) = Wrapper::datagram_mut(&mut frame).unwrap();
        let header = Ciphered::peek(apdu).unwrap();
        assert_eq!((header.title, header.invocation_counter), (Some(TITLE), 0x0123_4567));
        let plain = if control == SecurityControl::ENCRYPTED {
            header.open_unauthenticated(apdu, TITLE, KEYS)
        } else {
            header.open(apdu, TITLE, KEYS)
        };
        let push = Notification::parse(plain.unwrap()).unwrap();
        let mut rows = Vec::new();
        template.run(&push, |row| rows.push(*row)).unwrap();
        assert_eq!(rows, [measured()], "{control:?}");
    }
}

/// A push that gurux-dlms 1.0.203 built and sealed (`GXDLMSNotify` with ciphering).
#[test]
fn a_push_of_gurux() {
    let mut frame = unhex(concat!(
        "0001000100010044db084d545230303030313930000000011bf53cba5b6dd86ce70ca28705d69fe5b244",
        "ae49d8cb07466da9aba4b75594905ac4736c60aa045ab42b5dd95d4992f7363cad8c"
    ));
    let (_, apdu) = Wrapper::datagram_mut(&mut frame).unwrap();
    let header = Ciphered::peek(apdu).unwrap();
    let plain = header.open(apdu, TITLE, KEYS).unwrap();
    let push = Notification::parse(plain).unwrap();
    assert!(push.invoke_id.wants_confirmation());
    assert_eq!(push.body[..2], [2, 6]);
}

/// dlms-cosem 25.1.0 `security.gmac`.
#[test]
fn a_challenge_as_dlms_cosem_answers_it() {
    let tag = hls_gmac(*b"HES00001", 3, KEYS, b"0123456789abcdef");
    assert_eq!(tag[..], unhex("0ffeb1dda485c48a1ed4d8ca"));
}
