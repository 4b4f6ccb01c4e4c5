//! Meter protocols on the wire, a module each, encode **and** decode.
//!
//! Everything here works on bytes that a stranger sent: nothing panics, nothing allocates by a
//! claimed length, and every refusal is a [`WireError`] that says what is wrong and where.

pub mod dlms;

mod bytes;
mod error;

pub use bytes::{Reader, Writer};
pub use error::{Fault, WireError};
