//! The API through a real listener, over a small node: a real registry, real boards, books that
//! only add up payments, and a store of history with a few rows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod client;
mod document;
mod limits;
mod node;
mod refusals;
mod rights;
mod scenario;
mod supply;
mod top_ups;
mod vending;

use node::TestNode;
