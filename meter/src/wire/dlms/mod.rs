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
mod unwrap;
mod wrapper;

pub use assembly::{Assembly, Block};
pub use association::{Association, AssociationKind, Initiate};
pub use data::{
    COMPACT_ARRAY, DEPTH_MAX, ELEMENTS_MAX, Group, Token, Value, Walker, ZERO_SIZE_MAX,
};
pub use explain::{Explained, Explainer, Tree};
pub use hdlc::{Hdlc, strip_llc};
pub use items::Item;
pub use mbus::Mbus;
pub use measured::Measured;
pub use notification::{InvokeId, Notification};
pub use obis::Obis;
pub use security::{Ciphered, Keys, Sealing, SecurityControl, TAG_SIZE, hls_gmac};
pub use service::{Attribute, Fetched, Invoke, Selection, Service};
pub use template::{Template, TemplateError, TemplateId, Templates};
pub use time::DateTime;
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
