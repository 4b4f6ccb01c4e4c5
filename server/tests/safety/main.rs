//! Promises of docs/safety.md on a real process with real files. Each test prints its figures
//! (`cargo test -p server --test safety -- --nocapture`). The short form runs in `make test`;
//! `METERD_SOAK=ROUNDS` makes it as long as wanted.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "each test prints its figures")]

mod archive;
mod backup;
#[path = "../../../dataflow/tests/support/mod.rs"]
mod books;
mod broken;
mod full;
mod kill;
mod outage;
mod place;
mod purchases;
mod races;
