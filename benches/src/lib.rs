//! End-to-end benches, each beside its bare loop or raw socket within the same run.
//!
//! **Invariant:** a bench prints what it measured; none fails because a machine is slow, all fail
//! when a result is wrong.

pub mod capacity;
pub mod connections;
pub mod cutoff;
pub mod decide;
mod engines;
mod logs;
pub mod memory;
pub mod questions;
pub mod restart;
pub mod rows;
pub mod simulated;
pub mod sink;
pub mod tcp;
pub mod tokens;
pub mod udp;
pub mod vend;
pub mod verify;
pub mod w1;
