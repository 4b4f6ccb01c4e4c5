//! The truth: what the books of a node must say, computed a second time and in the plainest way.
//!
//! **Invariant:** nothing here is shared with the node's own rules but the vocabulary and the time
//! zones of `meter`. Sums are kept in ordered maps and recomputed rather than updated; it is slow
//! and meant to be read beside the domain rules.

mod account;
mod book;
mod charge;
mod energy;
mod loss;
mod money;
mod service;
mod sold;
mod supply;

pub use account::{AccountTruth, Credit, Step};
pub use book::{AccountEnd, Book, IntervalEnd, Waits};
pub use charge::{Charge, Slot, Tariff};
pub use energy::{IntervalTruth, Piece, intervals, pieces};
pub use loss::{LossTruth, losses};
pub use money::Move;
pub use sold::Counter;
