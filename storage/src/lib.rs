//! What lasts: the durable [`log`] of entries, [`snapshot`]s of the books, the [`clickhouse`]
//! writer and its queries, the embedded [`engine`], the [`registry`] of what exists, and the
//! [`archive`] of old segments.
//!
//! **Invariant:** nothing here knows a protocol or what a tariff means. An acknowledgement is
//! given only after [`log`] has synced. Read `log::Writer` and `registry::Registry` first.

#![deny(unsafe_code)]

pub mod archive;
pub mod clickhouse;
pub mod engine;
pub mod log;
pub mod registry;
pub mod snapshot;
