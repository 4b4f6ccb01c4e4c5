//! The Web API: routes, rights, JSON of its own, OpenAPI with a vendored Swagger UI, problem
//! documents, and the boards that balances and latest values are read from.
//!
//! The API knows neither the dataflow nor the ingest tier: the node gives it handles
//! ([`Node`]). A change goes to the registry with an outbox row in one transaction; the answer
//! waits until the log holds it and the books have taken it.
//!
//! **Invariant:** no request is answered with success before what it changed is durable; keys and
//! tokens are never logged or given out; every list is paged and every body bounded. Read
//! [`Node`] and [`Server`] first.

#![forbid(unsafe_code)]

use std::sync::Arc;

mod alarms;
mod board;
mod explain;
mod history;
mod node;
mod server;
mod siblings;

mod auth;
mod document;
mod extract;
mod json;
mod page;
mod problem;
mod routes;
mod till;
mod vault;

pub use alarms::{ActiveAlarm, ActiveAlarms, AlarmKey};
pub use board::{Board, BoardError, BoardWriter, Content, Latest, Standing};
pub use document::openapi_json;
pub use history::{By, GapPoint, History, HistoryError, Rows};
pub use node::{Applied, BoxFuture, Clock, Node, NotApplied, Part, PartState, Version};
pub use server::{Config, Server, ServerError};

/// What every handler is given.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) node: Node,
    pub(crate) config: Config,
    pub(crate) vault: Arc<vault::Vault>,
    pub(crate) till: till::Till,
}
