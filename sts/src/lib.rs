//! The token library of IEC 62055-41 ("STS"): identifiers, amounts, key derivation, the two
//! ciphers, every token class, a vault for vending keys, and a virtual token meter.
//!
//! **Invariants:** no I/O, no clock, no randomness, no floating point; instants come as arguments
//! (seconds since 1970-01-01 UTC, parameters named `…_s`). Keys are wiped when dropped, never
//! printed, and compared in constant time. A [`TokenNumber`] that [`decode`]s encodes to itself.
//!
//! Read [`Token`] (what a token says) and [`SecurityModule`] (who may make one) first. What is
//! implemented, what is uncertain, and which part is the operator's duty: `docs/sts.md`.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::float_arithmetic,
        clippy::indexing_slicing
    )
)]

mod code;
mod identity;
mod tid;

mod amount;
mod block;
mod number;

mod derive;
mod key;
mod misty1;
mod sta;
#[cfg(feature = "production-tables")]
mod sta_production;

mod codec;
mod key_change;
mod token;

mod audit;
mod sealed;
mod soft_module;
mod vault;

pub mod meter;
mod tid_store;

mod scheme;

mod civil;
pub mod conformance;
mod express;

pub mod explain;

mod fuzz;

pub use amount::{AmountError, CurrencyAmount, TransferAmount};
pub use audit::{AuditError, Deed};
pub use code::{EncryptionAlgorithm, KeyDerivation, KeyType, TokenCarrier};
pub use codec::{Refusal, TokenCipher, decode, decode_plain, encode, encode_plain};
pub use derive::{DeriveError, Deriver, MeterConfig, VendingKeyId};
pub use fuzz::fuzz_decode;
pub use identity::{
    Drn, IdentityError, Iin, KeyExpiryNumber, KeyRevisionNumber, Manufacturer, ManufacturerWidth,
    MeterPan, SupplyGroupCode, TariffIndex,
};
pub use key::{DecoderKey, KeyCheckValue, KeyError, VendingKey};
pub use key_change::{
    KeyChange, KeyChangeError, KeyChangeLength, KeyChangeSection, KeyPart, Rollover,
};
pub use number::{NumberError, TokenNumber};
pub use scheme::{Sale, SchemeError, SchemeRegistry, TokenScheme};
pub use sealed::{MasterKey, SealError};
pub use soft_module::{ImportError, SoftModule};
pub use sta::{Sta, StaTables, StaTablesError};
pub use tid::{BaseDate, Tid, TidError};
pub use token::{
    ContentError, CreditRegister, ExtendedRead, ExtendedSetting, FLAG_NAMES, Management, MeterTest,
    Rnd, Service, TEST_NAMES, Token,
};
pub use vault::{
    GroupNotice, IssueRequest, KeyAttributes, KeyChangeRequest, Order, SecurityModule, TokenLimit,
    VaultError,
};
