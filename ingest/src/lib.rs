//! Sockets of meters and gateways: sessions, authentication, replay windows, acknowledgements.
//!
//! Datagrams and streams become batches of entries for the log; once the log says that a batch is
//! durable, its frames are acknowledged. Each shard is one thread with an event loop, its own
//! sockets and its own channels; shards share the [`Directory`] of devices, which is read without a
//! lock, and nothing else.
//!
//! **Invariants:** nothing that is not authentic changes state or is answered. A frame's counter is
//! accepted once, whichever shards see it. An acknowledgement means that all of the frame is
//! durable. Every datagram and frame has exactly one [`Outcome`]. While the log is behind, the
//! sockets are not read. No lock, and no allocation for a frame.
//!
//! Read [`Ingest`] and [`Directory`] first.

#![deny(unsafe_code)]

mod config;
mod ports;

mod outcome;
mod stats;

mod directory;
mod window;

mod limits;

mod ack;
mod frame;

mod errand;

mod batch;
mod desk;
mod downlink;

mod connection;
mod datagrams;
mod streams;

mod shard;

mod listen;

mod fuzz;

#[expect(unsafe_code, reason = "batched and socket system calls that no safe crate offers")]
mod edge;

pub use config::Config;
pub use directory::{Device, Directory, DirectoryError, Registration};
pub use edge::OpenFiles;
pub use errand::{Claim, Errand, ErrandEnd, ErrandFailure, ErrandReport, Errands};
pub use fuzz::fuzz_datagram;
pub use limits::FailureLimit;
pub use listen::{BindError, Bound, Ingest, Meters, Running, Waker};
pub use outcome::{Ending, Outcome};
pub use ports::{Answer, Batch, Clock, Log, NotTaken, Verdict};
pub use stats::Stats;
pub use window::WINDOW_SIZE;
