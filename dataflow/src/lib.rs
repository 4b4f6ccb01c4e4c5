//! The books: a deterministic dataflow from entries of the log to effects. Readings become
//! intervals, charges, balances, alarms, gaps and line loss, by the rules in `docs/rules.md`.
//!
//! **Invariant:** no I/O, no clock, no randomness; time is an entry. The effects of a log are a
//! function of its entries, whatever the batches and the number of workers; the final intervals,
//! charges and balances are a function of the set of accepted readings, whatever their order.
//! **Invariant:** the rules are plain structs, a file each, that know nothing of timely.
//!
//! Read `Books` (how the rules stand in a row) and [`Engine`] (what a node holds) first.

#![forbid(unsafe_code)]
#![deny(clippy::float_arithmetic)]

mod ahead;
mod engine;
mod graph;
mod router;
mod snapshot;

mod books;
mod changes;
mod desk;
mod reference;

mod class;
mod doctor;
mod installed;
mod sample;

mod interval;
mod late;
mod parking;
mod regular;
mod ring;
mod stats;

mod account;
mod charge;
mod debt;
mod money;
mod rates;
mod receipts;

mod orders;
mod supply;

mod alarm;
mod gap;
mod loss;
mod saved;
mod silence;
mod usual;

pub use engine::{Config, Engine, EngineError};
pub use router::{ReplayWindow, Windows};
pub use snapshot::{SnapshotError, VERSION as SNAPSHOT_VERSION};
