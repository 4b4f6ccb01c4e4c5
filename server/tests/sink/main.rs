//! The node's way to ClickHouse under the hammer: sink processes, engines and servers killed between
//! insert and cursor, a slow and an absent ClickHouse, and tables made again from the log.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod kills;
mod outage;
mod proxy;
mod pump;
mod rebuild;
mod refusing;
#[path = "../../../storage/tests/clickhouse/support.rs"]
mod support;
