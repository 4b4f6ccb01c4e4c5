//! ClickHouse, always the real thing: the embedded engine as a client meets it (`engine`), the
//! store on every engine to be had (`store`, `days`, `keep`), and both under the hammer (`kill`).

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod cluster;
mod days;
mod engine;
mod keep;
mod kill;
mod python;
mod refusals;
mod store;
mod support;
