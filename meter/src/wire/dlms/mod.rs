//! DLMS/COSEM: frames, security suite 0, data and services, as meters send them and as they should.
//!
//! **Decode leniently, encode strictly.** Real meters break the standard in known ways; each
//! leniency is named where it lives. What we send is the standard form only.
//!
//! A push goes through five steps, none of which allocates:
//! 1. [`Wrapper::datagram_mut`]: the APDU inside a datagram (or a length-framed piece of a stream);
//! 2. [`Ciphered::peek`]: who sent it and with which counter, without a key;
//! 3. [`Ciphered::open`]: decrypted in place, in the caller's buffer;
//! 4. [`Notification::parse`]: invoke id, time, body;
//! 5. [`Walker`] (or a push template over it): the values of the body.

mod assembly;
mod association;
mod data;
mod dialogue;
mod explain;
mod field;
mod hdlc;
mod items;
mod mbus;
mod measured;
mod notification;
mod obis;
mod run;
mod security;
mod service;
mod template;
mod time;
mod tree;
mod unwrap;
mod wrapper;

use std::sync::LazyLock;

pub use assembly::{Assembly, Block};
pub use association::{Association, AssociationKind, Initiate};
pub use data::{
    COMPACT_ARRAY, DEPTH_MAX, ELEMENTS_MAX, Group, Token, Value, Walker, ZERO_SIZE_MAX,
};
pub use dialogue::{DIALOGUE_COUNTERS, Dialogue, DialogueError, Heard, Turn, proof};
pub use explain::{Explained, Explainer};
pub use hdlc::{Hdlc, strip_llc};
pub use items::Item;
pub use mbus::Mbus;
pub use measured::Measured;
pub use notification::{InvokeId, Notification};
pub use obis::Obis;
pub use security::{Ciphered, Keys, Sealing, SecurityControl, TAG_SIZE, hls_gmac};
pub use service::{Attribute, Fetched, Invoke, Selection, Service};
pub use template::{Said, Template, TemplateError, TemplateId, Templates};
pub use time::DateTime;
pub use tree::Tree;
pub use wrapper::Wrapper;

/// APDU tags, named as in the Green Book.
pub mod tag {
    /// data-notification
    pub const DATA_NOTIFICATION: u8 = 0x0F;
    /// data-notification-confirm
    pub const DATA_NOTIFICATION_CONFIRM: u8 = 0x10;
    /// general-glo-ciphering
    pub const GENERAL_GLO_CIPHERING: u8 = 0xDB;
    /// general-ded-ciphering
    pub const GENERAL_DED_CIPHERING: u8 = 0xDC;
    /// general-block-transfer
    pub const GENERAL_BLOCK_TRANSFER: u8 = 0xE0;
}

/// Any bytes through everything that reads strangers' bytes: it must come back.
///
/// For the fuzzer; the tests run the same function over mutated frames.
pub fn fuzz_frame(bytes: &[u8]) {
    static TEMPLATES: LazyLock<Templates> = LazyLock::new(Templates::built_in);
    let (encryption, authentication) = ([0; 16], [1; 16]);
    let keys = Some((encryption, authentication));
    let mut explainer = Explainer::new(keys, TEMPLATES.clone(), None);
    // What it says does not matter here, only that it ends.
    drop(explainer.explain(bytes));
    // Below the keys: every template over any body, and counter mode turns any bytes into any others.
    let (invoke_id, date_time) = (InvokeId(0), None);
    let push = Notification { invoke_id, date_time, body: bytes };
    for template in TEMPLATES.all() {
        let mut rows = 0_u32;
        let counted = template.run_all(&push, |_| rows = rows.saturating_add(1));
        assert!(counted.is_err() || counted == Ok(rows), "{counted:?} of {rows} rows");
    }
    let mut frame = bytes.to_vec();
    let Ok((_, apdu)) = Wrapper::datagram_mut(&mut frame) else { return };
    let Ok(header) = Ciphered::peek(apdu) else { return };
    let keys = Keys { encryption: &encryption, authentication: &authentication };
    if let Ok(plain) = header.open_unauthenticated(apdu, header.title.unwrap_or_default(), keys) {
        drop(explainer.explain(plain));
    }
}
