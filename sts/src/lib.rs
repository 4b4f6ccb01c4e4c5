//! The token library of IEC 62055-41 ("STS"): identifiers, amounts, key derivation, the two
//! ciphers, every token class, a vault for vending keys, and a virtual token meter.
//!
//! **Invariants:** no I/O, no clock, no randomness, no floating point; instants come as arguments
//! (seconds since 1970-01-01 UTC, parameters named `…_s`). Keys are wiped when dropped, never
//! printed, and compared in constant time. A [`TokenNumber`] that [`decode`]s encodes to itself.
//!
//! Read [`Token`] (what a token says) and [`SecurityModule`] (who may make one) first. What is
//! implemented, what is uncertain, and which part is the operator's duty: `docs/sts.md`.
//!
//! The first token of the published compliance tests (STS 531 CTSA01), there and back:
//!
//! ```
//! # #[cfg(feature = "production-tables")]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use sts::{
//!     BaseDate, Deriver, EncryptionAlgorithm, KeyRevisionNumber, KeyType, MeterConfig, Rnd, Service,
//!     Sta, SupplyGroupCode, TariffIndex, Tid, Token, TokenCipher, TransferAmount, VendingKey,
//!     VendingKeyId, decode, encode,
//! };
//!
//! let meter = MeterConfig {
//!     pan: "600727000000000009".parse()?,
//!     ea: EncryptionAlgorithm::Ea07,
//!     key: VendingKeyId {
//!         sgc: SupplyGroupCode::new(123_456)?,
//!         kt: KeyType::Unique,
//!         krn: KeyRevisionNumber::new(1)?,
//!     },
//!     ti: TariffIndex::new(1)?,
//! };
//! let vending_key = VendingKey::from_hex("abababababababab")?;
//! let key = Deriver::new(&vending_key).derive(BaseDate::Base1993, &meter)?;
//! let cipher = TokenCipher::new(&key, Sta::production());
//!
//! let token = Token::Credit {
//!     service: Service::Electricity,
//!     rnd: Rnd::from_low_bits(5),
//!     tid: Tid::at(BaseDate::Base1993, 1_078_149_300)?, // 2004-03-01 13:55
//!     amount: TransferAmount::parse("0.1", 1)?,         // kWh
//! };
//! let number = encode(&token, &cipher);
//! assert_eq!(number.to_string(), "2371 6100 5011 8319 4197");
//! assert_eq!(decode(number, &cipher)?, token);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "production-tables"))]
//! # fn main() {}
//! ```

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

mod codes;
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
pub use civil::{format as format_instant, parse as parse_instant};
pub mod conformance;
mod express;

pub mod explain;

mod fuzz;

pub use amount::{AmountError, CurrencyAmount, TransferAmount};
pub use audit::{AuditError, Deed};
pub use codec::{Refusal, TokenCipher, decode, decode_plain, encode, encode_plain};
pub use codes::{EncryptionAlgorithm, KeyDerivation, KeyType, TokenCarrier};
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
