//! What analysts are promised: every question of `docs/analysts.md` and every panel of
//! `deploy/grafana` runs on each engine, on the simulator's week, with the answer that the page
//! shows; and the answers agree with what the simulator knows.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod page;
mod panels;
mod questions;
#[path = "../../../storage/tests/clickhouse/support.rs"]
mod support;
mod week;
